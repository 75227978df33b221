//! The sync engine: reads a connector phase by phase and page by page into a c1z file.

use std::{collections::BTreeMap, fmt, path::Path, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    connector::Connector,
    error::{Class, Classify, Code},
    proto::connector as v2,
};

/// What a sync is asked to do (the options of `SyncFullTask`, and the local ones beside them).
#[derive(Debug, Clone, Default)]
pub struct SyncRequest {
    /// Leave grant expansion to ConductorOne.
    pub skip_expand_grants: bool,
    /// Read resources only; the sync type becomes `resources_only`.
    pub skip_entitlements_and_grants: bool,
    /// Read entitlements but no grants.
    pub skip_grants: bool,
    /// Read these resources only; the sync type becomes `partial`.
    pub targeted: Vec<v2::Resource>,
    /// Read these resource types only; empty means all.
    pub resource_type_ids: Vec<String>,
    /// Validate, write an empty finished sync and stop (`--skip-full-sync`).
    pub empty: bool,
    /// How many listings run at once; 0 = chosen by the engine.
    pub workers: usize,
}

/// What a finished sync holds.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The KSUID of the sync.
    pub sync_id: String,
    /// `full`, `resources_only` or `partial`.
    pub sync_type: String,
    /// Rows by resource type.
    pub resources: BTreeMap<String, u64>,
    /// Rows by resource type of the entitlement's resource.
    pub entitlements: BTreeMap<String, u64>,
    /// Rows by resource type of the entitlement's resource, inherited grants included.
    pub grants: BTreeMap<String, u64>,
    /// How many of the grants the expansion made.
    pub expanded_grants: u64,
    /// What a person should know; the sync is still whole.
    pub warnings: Vec<String>,
    /// Wall time by step.
    pub steps: BTreeMap<&'static str, Duration>,
    /// Size of the sealed file.
    pub file_bytes: u64,
}

/// Told how a sync gets on; calls are cheap and never block.
pub trait Progress: Send + Sync + fmt::Debug {
    /// A phase began (`resource types`, `resources`, `entitlements`, `grants`, `expansion`, `seal`).
    fn phase(&self, name: &'static str);
    /// `done` of `total` (0 = unknown) units of a resource type are finished in the current phase.
    fn advance(&self, resource_type_id: &str, done: u64, total: u64);
}

/// Progress that nobody looks at.
#[derive(Debug, Clone, Copy)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn phase(&self, _name: &'static str) {}
    fn advance(&self, _resource_type_id: &str, _done: u64, _total: u64) {}
}

/// Where and how a sync runs.
#[derive(Debug, Clone, Copy)]
pub struct Environment<'a> {
    /// Folder of the working database; must exist and be writable.
    pub work_dir: &'a Path,
    /// Wall clock.
    pub clock: &'a dyn Clock,
    /// Told how the sync gets on.
    pub progress: &'a dyn Progress,
    /// Ends the sync; nothing is left behind then.
    pub cancel: &'a CancellationToken,
}

/// Runs one sync and writes the finished file to `target`, which appears whole or not at all.
///
/// [`Connector::cleanup`] is always called. On an error no file is left behind, neither at `target` nor in the work
/// folder. Not cancel-safe by dropping: use `environment.cancel`, which waits for the writer to stop.
pub async fn sync_to_file(
    _connector: &dyn Connector,
    _request: &SyncRequest,
    _environment: Environment<'_>,
    _target: &Path,
) -> Result<Report, Error> {
    Err(Error::Cancelled)
}

/// Why a sync failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The sync was stopped on purpose.
    #[error("the sync was cancelled")]
    Cancelled,
}

impl Error {
    /// The data breaks a rule of ingestion: the same data will break it again, so the task must not be retried.
    pub fn is_data_verdict(&self) -> bool {
        false
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        Class::Cancelled
    }

    fn code(&self) -> Code {
        Code::Cancelled
    }
}
