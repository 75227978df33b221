//! The sync engine: reads a connector phase by phase and page by page into a c1z file.
//!
//! Phases, in this order: resource types, resources and their children, static entitlements, entitlements, grants,
//! expansion, seal. Phases never overlap; inside one, listings run side by side. The engine decides *what* is read
//! and which rows are stored; how fast is the connector's own affair. It never talks to ConductorOne.
//!
//! Invariants: rows are written as pages arrive and nothing is kept in memory but the graph of expansion; a file
//! appears whole or not at all; [`Connector::cleanup`] is called once for every sync that began.
//!
//! Beyond what the official engine does: a failing call is given up after [`Limits::retry_budget`] instead of never,
//! expansion has no limit of depth, and a targeted sync whose targets all fall outside the type filter stays a
//! targeted sync.

use std::{collections::BTreeMap, fmt, path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    c1z,
    clock::Clock,
    connector::{self, Connector},
    error::{Class, Classify, Code},
    proto::connector as v2,
};

mod checkpoint;
mod engine;
mod expand;
#[cfg(any(test, feature = "simulator"))]
pub mod fake;
mod graph;
mod ingest;
mod invariants;
mod kept;
mod retry;
#[cfg(test)]
mod tests;
mod token;

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

impl SyncRequest {
    /// Whether the directory is read, and not a few resources of it or nothing.
    pub const fn is_of_directory(&self) -> bool {
        !self.empty && self.targeted.is_empty()
    }
}

/// What a finished sync holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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
    #[serde(skip)]
    pub steps: BTreeMap<&'static str, Duration>,
    /// Size of the sealed file.
    pub file_bytes: u64,
    /// The sync went on with what an earlier attempt had kept; steps and the connector's warnings are those of this
    /// attempt.
    pub is_resumed: bool,
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
    /// Ends the sync.
    pub cancel: &'a CancellationToken,
    /// Keep what the sync has in `work_dir` when it does not come to its end, and go on with what is kept there.
    ///
    /// The folder is then that of this sync alone, and who calls decides whether what it holds may be gone on with: same
    /// directory, same configuration, same request. Targeted and empty syncs keep nothing.
    pub keep: bool,
}

/// Bounds of a sync that no task sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long one call to the connector may keep failing with retryable errors before the sync fails.
    pub retry_budget: Duration,
    /// How long [`Connector::cleanup`] may take.
    pub cleanup_timeout: Duration,
    /// How long finished listings may wait for the next checkpoint: what a killed process loses of its work.
    pub checkpoint_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            retry_budget: Duration::from_hours(1),
            cleanup_timeout: Duration::from_secs(30),
            checkpoint_every: Duration::from_millis(5),
        }
    }
}

/// Runs one sync and writes the finished file to `target`, which appears whole or not at all.
///
/// [`Connector::cleanup`] is always called. On an error nothing is left behind at `target`; what was there before stays.
/// In the work folder nothing is left either, unless [`Environment::keep`] asks for it. Not cancel-safe by dropping: use `environment.cancel`, which waits for
/// the writer to stop.
pub async fn sync_to_file(
    connector: &dyn Connector,
    request: &SyncRequest,
    environment: Environment<'_>,
    target: &Path,
) -> Result<Report, Error> {
    sync_to_file_within(connector, request, environment, Limits::default(), target).await
}

/// As [`sync_to_file`], with other limits.
pub async fn sync_to_file_within(
    connector: &dyn Connector,
    request: &SyncRequest,
    environment: Environment<'_>,
    limits: Limits,
    target: &Path,
) -> Result<Report, Error> {
    Box::pin(engine::run(connector, request, environment, limits, target)).await
}

/// Why a sync failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The sync was stopped on purpose.
    #[error("the sync was cancelled")]
    Cancelled,
    /// The connector refused to start.
    #[error("the connector cannot sync")]
    Validate(#[source] connector::Error),
    /// A call to the connector failed.
    #[error("cannot {operation} of {subject}")]
    Connector {
        /// What was asked, as a verb phrase.
        operation: &'static str,
        /// The resource type or resource concerned.
        subject: String,
        /// The cause.
        #[source]
        source: connector::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the sync file")]
    File(#[source] c1z::Error),
    /// The filter names a resource type that the connector does not have.
    #[error("invalid resource type '{id}' in filter; the connector has {known}")]
    UnknownFilterType {
        /// The unknown id.
        id: String,
        /// The types that there are.
        known: String,
    },
    /// The connector gave a resource an annotation that only the engine may set.
    #[error(
        "resource {resource} carries the BatonID annotation, which marks resources from outside the connector"
    )]
    ReservedAnnotation {
        /// `<type>:<id>`.
        resource: String,
    },
    /// A resource lacks the trait that its type promises.
    #[error("resource was missing expected trait {name}: {resource}")]
    MissingTrait {
        /// The trait message, such as `UserTrait`.
        name: &'static str,
        /// `<type>:<id>`.
        resource: String,
    },
    /// A listing does not get on.
    #[error("the next page token of the {operation} of {subject} is the one just used")]
    RepeatedPageToken {
        /// Which listing.
        operation: &'static str,
        /// The resource type or resource concerned.
        subject: String,
    },
    /// A response enqueues page tokens in a way that is not allowed.
    #[error("the {operation} of {subject} enqueued page tokens wrongly: {problem}")]
    EnqueuedTokens {
        /// Which listing.
        operation: &'static str,
        /// The resource type or resource concerned.
        subject: String,
        /// What is wrong.
        problem: String,
    },
    /// An expandable grant names a source that does not belong to its principal.
    #[error(
        "source entitlement resource id did not match grant principal id: {source_entitlement} is not an \
         entitlement of {principal}, who holds {entitlement}"
    )]
    SourceMismatch {
        /// The source entitlement.
        source_entitlement: String,
        /// `<type>:<id>` of the principal.
        principal: String,
        /// The entitlement that the grant gives.
        entitlement: String,
    },
    /// Too many listings answered "not found" to call the rest a sync.
    #[error("too many warnings: {warnings} of {completed} listings failed, first: {first}")]
    TooManyWarnings {
        /// Failed listings.
        warnings: u64,
        /// Finished listings.
        completed: u64,
        /// The first warning.
        first: String,
    },
    /// The data breaks a rule of ingestion.
    #[error("ingest invariant {rule} violated: {problem}")]
    Invariant {
        /// `I5` or `I10`.
        rule: &'static str,
        /// What breaks it.
        problem: String,
    },
}

impl From<c1z::Error> for Error {
    fn from(error: c1z::Error) -> Self {
        match error {
            c1z::Error::Cancelled => Self::Cancelled,
            other => Self::File(other),
        }
    }
}

impl Error {
    /// The data breaks a rule of ingestion: the same data will break it again, so the task must not be retried.
    pub fn is_data_verdict(&self) -> bool {
        matches!(self, Self::Invariant { .. })
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Cancelled => Class::Cancelled,
            Self::Validate(source) | Self::Connector { source, .. } => source.class(),
            Self::File(source) => source.class(),
            Self::TooManyWarnings { .. } => Class::Retryable,
            Self::UnknownFilterType { .. }
            | Self::ReservedAnnotation { .. }
            | Self::MissingTrait { .. }
            | Self::RepeatedPageToken { .. }
            | Self::EnqueuedTokens { .. }
            | Self::SourceMismatch { .. }
            | Self::Invariant { .. } => Class::Permanent,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Cancelled => Code::Cancelled,
            Self::Validate(source) | Self::Connector { source, .. } => source.code(),
            Self::File(source) => source.code(),
            Self::UnknownFilterType { .. } => Code::InvalidArgument,
            Self::TooManyWarnings { .. } => Code::Aborted,
            Self::Invariant { .. } => Code::FailedPrecondition,
            Self::ReservedAnnotation { .. }
            | Self::MissingTrait { .. }
            | Self::RepeatedPageToken { .. }
            | Self::EnqueuedTokens { .. }
            | Self::SourceMismatch { .. } => Code::Internal,
        }
    }
}
