//! The full-sync task: options in, one finished file out, uploaded and removed.
//!
//! Owns the temporary folder of a sync. Invariants: the folder is gone when the handler has returned, unless the next
//! attempt can go on with it: after the end of the process, and after failures that pass; the task is reported as done
//! only after the upload was acknowledged; no option is silently ignored.
//!
//! Precedence of options (the SDK's): the local storage engine beats the task's; the task's resource types beat the
//! local ones; everything else comes from the task alone.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::Instant;

pub use self::folder::TEMP_PREFIX;
use self::{
    folder::{Folder, Wish},
    guard::Guard,
};
use super::{Context, Error, Kind, Outcome, TaskHandler};
use crate::{
    clock::Clock,
    connector::{self, Connector},
    control_plane,
    error::{Class, Classify as _, quoted},
    notice::Notice,
    proto::baton::{self, task::SyncFullTask, task::TaskType},
    state_folder::Place,
    syncer::{self, Environment, Report, SyncRequest},
    telemetry::{
        metrics::Metrics,
        progress::{Counted, LogLines},
    },
};

mod folder;
pub mod guard;

/// Longest id of a resource or a resource type in a task, in bytes.
const MAX_ID: usize = 1024;
/// Most resources that a task may ask for one by one, each of which costs a few requests, and most resource types.
const MAX_TARGETS: usize = 10_000;
const MAX_TYPES: usize = 256;

/// What local flags say about syncs in service mode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalOptions {
    /// Resource types to read when the task names none; empty means all.
    pub resource_type_ids: Vec<String>,
    /// How many listings run at once; 0 = chosen by the engine.
    pub workers: usize,
    /// Answer with an empty finished sync (`--skip-full-sync`).
    pub skip_full_sync: bool,
    /// `sqlite`, `pebble`, or empty for what the task asks.
    pub storage_engine: String,
    /// How old an unfinished sync may be that another attempt goes on with; zero = every sync begins anew.
    pub resume_max_age: Duration,
    /// How much may be gone since the last sync.
    pub guard: guard::Settings,
}

/// Answers `sync_full`.
pub struct FullSync {
    connector: Arc<dyn Connector>,
    clock: Arc<dyn Clock>,
    work_dir: PathBuf,
    local: LocalOptions,
    metrics: Metrics,
    guard: Guard,
}

impl fmt::Debug for FullSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FullSync")
            .field("work_dir", &self.work_dir)
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

impl FullSync {
    /// Syncs this connector; `work_dir` must exist and be writable.
    pub fn new(
        connector: Arc<dyn Connector>,
        clock: Arc<dyn Clock>,
        work_dir: PathBuf,
        local: LocalOptions,
        metrics: Metrics,
    ) -> Self {
        Self {
            connector,
            clock,
            work_dir,
            guard: Guard::new(local.guard.clone(), None),
            local,
            metrics,
        }
    }

    /// Remembers there, over restarts, how much the last sync held.
    #[must_use]
    pub fn remembering(mut self, place: Place) -> Self {
        self.guard = Guard::new(self.local.guard.clone(), Some(place));
        self
    }

    /// The finished file of the folder: that of an earlier attempt, or a new one.
    async fn sync(
        &self,
        request: &SyncRequest,
        folder: &Arc<Folder>,
        context: Context<'_>,
    ) -> Result<Report, Error> {
        if let Some(report) = folder.finished() {
            tracing::info!(
                task.id = context.task_id,
                sync.id = report.sync_id,
                "an earlier attempt finished the sync; only the upload is left"
            );
            return Ok(report);
        }
        let progress = Counted::new(LogLines::new(), self.metrics.clone());
        let environment = Environment {
            work_dir: folder.path(),
            clock: self.clock.as_ref(),
            progress: &progress,
            cancel: context.cancel,
            keep: folder.is_kept(),
        };
        let file = folder.sync_file();
        let report = syncer::sync_to_file(self.connector.as_ref(), request, environment, &file)
            .await
            .map_err(Error::Sync)?;
        drop(progress);
        for warning in &report.warnings {
            tracing::warn!(
                task.id = context.task_id,
                sync.id = report.sync_id,
                "{warning}"
            );
        }
        let (finished, kept) = (Arc::clone(folder), report.clone());
        blocking("remember the finished sync in the work folder", move || {
            finished.finish(&kept)
        })
        .await?;
        Ok(report)
    }

    async fn sync_and_upload(
        &self,
        wish: &Arc<Wish>,
        folder: &Arc<Folder>,
        context: Context<'_>,
    ) -> Result<(), Error> {
        let request = &wish.request;
        let begun = Instant::now();
        let report = self.sync(request, folder, context).await?;
        let counts = self.guard.check(request, &report, self.clock.now()).await?;
        tracing::info!(
            task.id = context.task_id,
            sync.id = report.sync_id,
            sync.kind = report.sync_type,
            resources = report.resources.values().sum::<u64>(),
            entitlements = report.entitlements.values().sum::<u64>(),
            grants = report.grants.values().sum::<u64>(),
            size_bytes = report.file_bytes,
            "the sync is finished and is being uploaded"
        );
        let file = folder.sync_file();
        tokio::select! {
            biased;
            () = context.cancel.cancelled() => return Err(Error::Stopped),
            uploaded = context.control_plane.upload(context.task_id, &file) => {
                uploaded.map_err(Error::Upload)?;
            }
        }
        // At once: a later task that finds it, or one that began before it, must not upload it as news.
        let (uploaded, work_dir, wish) =
            (Arc::clone(folder), self.work_dir.clone(), Arc::clone(wish));
        blocking("let go of the uploaded sync", move || {
            uploaded.supersede(&work_dir, &wish)?;
            uploaded.retire()
        })
        .await?;
        if let Some(counts) = counts {
            self.guard.remember(counts).await;
        }
        context.notices.tell(Notice::SyncFinished {
            resources: report.resources.values().sum(),
            entitlements: report.entitlements.values().sum(),
            grants: report.grants.values().sum(),
            warnings: report.warnings.len(),
        });
        let rows = [
            ("resources", &report.resources),
            ("entitlements", &report.entitlements),
            ("grants", &report.grants),
        ];
        self.metrics.sync_succeeded(
            rows,
            report.file_bytes,
            report.warnings.len(),
            begun.elapsed(),
        );
        Ok(())
    }
}

#[async_trait]
impl TaskHandler for FullSync {
    async fn handle(&self, task: &baton::Task, context: Context<'_>) -> Result<Outcome, Error> {
        let Some(TaskType::SyncFull(options)) = &task.task_type else {
            return Err(Error::Unsupported { kind: context.kind });
        };
        let work_dir = self.work_dir.clone();
        let wish = Arc::new(Wish {
            connector: Arc::clone(&self.connector),
            request: request(options, &self.local, context.task_id)?,
            now: self.clock.now(),
            max_age: self.local.resume_max_age,
        });
        let wanted = Arc::clone(&wish);
        let folder = blocking("create a temporary folder in the work folder", move || {
            Folder::take(&work_dir, &wanted)
        })
        .await?;
        let folder = Arc::new(folder);
        let done = self.sync_and_upload(&wish, &folder, context).await;
        let waits = match &done {
            Ok(()) => false,
            Err(error) => folder.is_kept() && !context.revoked.is_cancelled() && passes(error),
        };
        if waits {
            tracing::info!(
                task.id = context.task_id,
                "what the sync has read so far waits for the next attempt"
            );
        } else if let Some(folder) = Arc::into_inner(folder) {
            let removed = blocking("remove the temporary folder of the sync", move || {
                folder.remove()
            })
            .await;
            if let Err(error) = removed {
                // The work itself is unharmed, so the task's result does not change.
                tracing::warn!(
                    task.id = context.task_id,
                    error = crate::error::chain(&error),
                    "a temporary folder is left behind until the next start"
                );
            }
        }
        done.map(|()| Outcome::Finished {
            response: None,
            annotations: Vec::new(),
        })
    }
}

/// Whether the next attempt at a sync that failed so may go on with what there is.
///
/// Not where the disk failed: what is kept may be what fills it. And not where what is kept is what failed: a file that is
/// refused for good, or listings that were left out, which nobody would read again.
fn passes(error: &Error) -> bool {
    match error {
        Error::Stopped => true,
        Error::Upload(error) => {
            matches!(error, control_plane::Error::Token { .. }) || error.class() != Class::Permanent
        }
        Error::Sync(
            syncer::Error::File(_)
            | syncer::Error::TooManyWarnings { .. }
            | syncer::Error::Validate(connector::Error::Local { .. })
            | syncer::Error::Connector {
                source: connector::Error::Local { .. },
                ..
            },
        ) => false,
        Error::Sync(error) => matches!(
            error.class(),
            Class::Cancelled | Class::Retryable | Class::Throttled(_) | Class::Auth
        ),
        _ => false,
    }
}

/// What the engine is asked to do for a task.
pub(crate) fn request(
    options: &SyncFullTask,
    local: &LocalOptions,
    task_id: &str,
) -> Result<SyncRequest, Error> {
    check_engine(&options.storage_engine, &local.storage_engine, task_id)?;
    check_ids(options)?;
    let resource_type_ids = if options.sync_resource_type_ids.is_empty() {
        local.resource_type_ids.clone()
    } else {
        options.sync_resource_type_ids.clone()
    };
    if local.skip_full_sync {
        tracing::warn!(
            task.id = task_id,
            "full syncs are switched off here: an empty sync is uploaded"
        );
    }
    Ok(SyncRequest {
        skip_expand_grants: options.skip_expand_grants,
        skip_entitlements_and_grants: options.skip_entitlements_and_grants,
        skip_grants: options.skip_grants,
        targeted: options.targeted_sync_resources.clone(),
        resource_type_ids,
        empty: local.skip_full_sync,
        workers: local.workers,
    })
}

/// A target without an id could only be left out, and the partial sync would then look like a complete answer.
fn check_ids(options: &SyncFullTask) -> Result<(), Error> {
    let check = |field: &dyn Fn() -> String, id: &str| {
        let problem = match id.len() {
            0 => "is empty".to_owned(),
            1..=MAX_ID => return Ok(()),
            length => format!("has {length} bytes, more than any id"),
        };
        Err(Error::Malformed {
            kind: Kind::SyncFull,
            problem: format!("field {} {problem}", field()),
        })
    };
    for (field, count, most) in [
        (
            "sync_resource_type_ids",
            options.sync_resource_type_ids.len(),
            MAX_TYPES,
        ),
        (
            "targeted_sync_resources",
            options.targeted_sync_resources.len(),
            MAX_TARGETS,
        ),
    ] {
        if count > most {
            return Err(Error::Malformed {
                kind: Kind::SyncFull,
                problem: format!("field {field} has {count} entries; up to {most} are read"),
            });
        }
    }
    for (position, id) in options.sync_resource_type_ids.iter().enumerate() {
        check(&|| format!("sync_resource_type_ids[{position}]"), id)?;
    }
    for (position, target) in options.targeted_sync_resources.iter().enumerate() {
        let field = |rest| format!("targeted_sync_resources[{position}].{rest}");
        let ids = [
            ("id", target.id.as_ref()),
            ("parent_resource_id", target.parent_resource_id.as_ref()),
        ];
        for (name, id) in ids {
            match id {
                Some(id) => {
                    check(
                        &|| field(format!("{name}.resource_type")),
                        &id.resource_type,
                    )?;
                    check(&|| field(format!("{name}.resource")), &id.resource)?;
                }
                None if name == "id" => check(&|| field(name.to_owned()), "")?,
                None => {}
            }
        }
    }
    Ok(())
}

/// Every file is written in format v1 (`sqlite`), which the server reads whatever it asked for.
fn check_engine(asked: &str, local: &str, task_id: &str) -> Result<(), Error> {
    let engine = if local.is_empty() { asked } else { local };
    match engine {
        "" | "sqlite" => Ok(()),
        "pebble" => {
            tracing::info!(
                task.id = task_id,
                "the pebble storage engine was asked for; the file is written in format v1 (sqlite)"
            );
            Ok(())
        }
        other => Err(Error::Malformed {
            kind: Kind::SyncFull,
            problem: format!(
                "field storage_engine is {}, expected sqlite, pebble or nothing",
                quoted(other)
            ),
        }),
    }
}

/// Deletes what earlier runs of this connector left in the work folder, and says how much it was.
///
/// Only folders and files with our prefix that were last changed before `started`, whose owner no longer holds their
/// lock, and that hold no unfinished sync younger than `resume_max_age`. What cannot be deleted is logged and left.
/// Cancel-safe; the deletion then goes on in the background.
pub async fn remove_stale(work_dir: &Path, started: Timestamp, resume_max_age: Duration) -> usize {
    let work_dir = work_dir.to_owned();
    let removed = blocking("clear the work folder", move || {
        folder::remove_stale(&work_dir, started, resume_max_age)
    })
    .await;
    match removed {
        Ok(0) => 0,
        Ok(count) => {
            tracing::info!(count, "removed temporary files of earlier runs");
            count
        }
        Err(error) => {
            tracing::warn!(
                error = crate::error::chain(&error),
                "temporary files of earlier runs may be left"
            );
            0
        }
    }
}

/// Runs file-system work away from the runtime's workers.
async fn blocking<T: Send + 'static>(
    action: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(|source| Error::WorkDir {
            action: action.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests;
