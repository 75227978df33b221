//! The guard against a directory that looks smaller than it is.
//!
//! ConductorOne takes what a sync lacks for access that was taken away. So a finished sync is held against the last one
//! that was uploaded, type by type, and not uploaded when it lost too large a share. Owns what is remembered for that:
//! the counts of the last uploaded sync of each kind, in memory and in the folder that outlives the process.
//!
//! Only whole syncs are compared and remembered: no partial ones, none of resources alone, no empty ones; and only with
//! syncs of the same configuration and options. A type that could be read then and is left out now is lost.
//! Never fails a sync because its own memory fails: what cannot be read counts as not known.

use std::{collections::BTreeMap, fmt, sync::Mutex, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::Error;
use crate::{
    crypto::{Sha256, hex},
    state_folder::Place,
    supervisor::lock,
    syncer::{Report, SyncRequest},
};

/// The form of the files; others are set aside.
const VERSION: u32 = 1;
const PART: &str = "counts";
/// Fewer rows than this may always go: a share of a small number says nothing.
pub const FEW_ROWS: u64 = 10;
/// The limit that lets everything pass, in percent.
pub const NO_LIMIT: u8 = 100;
/// How long counts are remembered.
const KEPT_FOR: Duration = Duration::from_hours(90 * 24);
/// Of how many kinds of sync counts are remembered.
const MOST: usize = 64;

/// What the guard has to know of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The largest share of the rows of a type that may be gone, in percent; [`NO_LIMIT`] lets everything pass.
    pub limit: u8,
    /// Until then everything passes.
    pub accept_until: Option<Timestamp>,
    /// Tells configurations apart: which directory is read, and how. Holds no secret.
    pub source: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limit: 50,
            accept_until: None,
            source: String::new(),
        }
    }
}

/// What is remembered of one sync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    version: u32,
    /// Tells configurations and options apart.
    fingerprint: String,
    sync_id: String,
    finished: Timestamp,
    resources: BTreeMap<String, u64>,
    entitlements: BTreeMap<String, u64>,
    grants: BTreeMap<String, u64>,
}

/// Rows of one kind that went.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Loss {
    resource_type: String,
    rows: &'static str,
    before: u64,
    now: u64,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            resource_type,
            rows,
            before,
            now,
        } = self;
        write!(
            f,
            "{rows} of type {resource_type} fell from {before} to {now}"
        )
    }
}

impl Counts {
    fn of(report: &Report, fingerprint: String, finished: Timestamp) -> Self {
        Self {
            version: VERSION,
            fingerprint,
            sync_id: report.sync_id.clone(),
            finished,
            resources: report.resources.clone(),
            entitlements: report.entitlements.clone(),
            grants: report.grants.clone(),
        }
    }

    /// Reads a file; `None` when it is damaged, of another version or of other options.
    fn parse(content: &[u8], fingerprint: &str) -> Option<Self> {
        serde_json::from_slice(content)
            .ok()
            .filter(|counts: &Self| counts.version == VERSION && counts.fingerprint == fingerprint)
    }

    /// Which types lost more than `limit` percent of their rows since `before`, and more than a few.
    fn losses(&self, before: &Self, limit: u8) -> Vec<Loss> {
        let rows = [
            ("resources", &before.resources, &self.resources),
            ("entitlements", &before.entitlements, &self.entitlements),
            ("grants", &before.grants, &self.grants),
        ];
        let mut losses = Vec::new();
        for (rows, before, now) in rows {
            for (resource_type, &before) in before {
                // A type that was left out has lost everything: to ConductorOne it makes no difference why.
                let now = now.get(resource_type).copied().unwrap_or_default();
                let lost = before.saturating_sub(now);
                if lost >= FEW_ROWS
                    && u128::from(lost) * 100 > u128::from(before) * u128::from(limit)
                {
                    losses.push(Loss {
                        resource_type: resource_type.clone(),
                        rows,
                        before,
                        now,
                    });
                }
            }
        }
        losses
    }
}

/// Holds finished syncs against the last uploaded ones.
#[derive(Debug, Default)]
pub(super) struct Guard {
    settings: Settings,
    /// `None` = nothing outlives the process.
    place: Option<Place>,
    known: Mutex<BTreeMap<String, Counts>>,
}

impl Guard {
    /// A guard that remembers in this folder too.
    pub(super) fn new(settings: Settings, place: Option<Place>) -> Self {
        Self {
            settings,
            place,
            known: Mutex::default(),
        }
    }

    /// Fails with [`Error::Shrunk`] when the sync lost too much; else gives what [`Guard::remember`] is to be called with
    /// once the file is uploaded, or nothing for a sync that is not compared.
    pub(super) async fn check(
        &self,
        request: &SyncRequest,
        report: &Report,
        now: Timestamp,
    ) -> Result<Option<Counts>, Error> {
        if !request.is_of_directory() || report.sync_type != "full" {
            return Ok(None);
        }
        let fingerprint = self.fingerprint(request);
        let counts = Counts::of(report, fingerprint, now);
        let Some(before) = self.before(&counts.fingerprint).await else {
            return Ok(Some(counts));
        };
        let losses = counts.losses(&before, self.settings.limit);
        if !losses.is_empty() {
            let drops: Vec<_> = losses.iter().map(ToString::to_string).collect();
            let drops = drops.join(", ");
            if self.settings.accept_until.is_none_or(|until| until <= now) {
                return Err(Error::Shrunk {
                    drops,
                    since: before.finished,
                    limit: self.settings.limit,
                });
            }
            tracing::warn!(
                sync.id = report.sync_id,
                "the directory has shrunk, which shrink-accept-until lets pass: {drops}"
            );
        }
        Ok(Some(counts))
    }

    /// Remembers what was uploaded. A failure is logged: the sync itself is unharmed.
    pub(super) async fn remember(&self, counts: Counts) {
        lock(&self.known).insert(counts.fingerprint.clone(), counts.clone());
        let Some(place) = &self.place else {
            return;
        };
        let oldest = counts
            .finished
            .saturating_sub(KEPT_FOR)
            .unwrap_or(Timestamp::MIN);
        let written = place
            .work(move |place| {
                let folder = place.ensured()?;
                let name = file_name(&counts.fingerprint);
                folder.write(PART, &name, &serde_json::to_vec(&counts)?)?;
                folder.prune(PART, oldest, MOST)
            })
            .await;
        if let Err(error) = written {
            tracing::warn!(
                error = %error,
                "the counts of this sync cannot be kept for after a restart; a first sync after it is not held against them"
            );
        }
    }

    /// What the last uploaded sync of this kind held.
    async fn before(&self, fingerprint: &str) -> Option<Counts> {
        let known = lock(&self.known).get(fingerprint).cloned();
        if known.is_some() {
            return known;
        }
        let fingerprint = fingerprint.to_owned();
        let found = self
            .place
            .as_ref()?
            .work(move |place| {
                let Some(folder) = place.existing()? else {
                    return Ok(None);
                };
                let name = file_name(&fingerprint);
                let Some(content) = folder.read(PART, &name)? else {
                    return Ok(None);
                };
                let counts = Counts::parse(&content, &fingerprint);
                if counts.is_none() {
                    folder.set_aside(PART, &name)?;
                    tracing::warn!(
                        "the counts of the last sync cannot be read and were set aside; this sync is not held against them"
                    );
                }
                Ok(counts)
            })
            .await;
        found.unwrap_or_else(|error| {
            tracing::warn!(
                error = %error,
                "the counts of the last sync cannot be read; this sync is not held against them"
            );
            None
        })
    }

    fn fingerprint(&self, request: &SyncRequest) -> String {
        let mut types = request.resource_type_ids.clone();
        types.sort_unstable();
        types.dedup();
        let text = json!([
            self.settings.source,
            types,
            request.skip_grants,
            request.skip_expand_grants,
        ]);
        hex(&Sha256::digest(text.to_string().as_bytes()))
    }
}

fn file_name(fingerprint: &str) -> String {
    format!("{fingerprint}.json")
}

#[cfg(test)]
mod tests;
