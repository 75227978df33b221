//! The full-sync task: options in, one finished file out, uploaded and removed.
//!
//! Owns the temporary folder of a sync. Invariants: the folder is gone when the handler has returned, however it
//! returned; the task is reported as done only after the upload was acknowledged; no option is silently ignored.
//!
//! Precedence of options (the SDK's): the local storage engine beats the task's; the task's resource types beat the
//! local ones; everything else comes from the task alone.

use std::{
    fmt,
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::time::Instant;

use super::{Context, Error, Kind, Outcome, TaskHandler};
use crate::{
    clock::Clock,
    connector::Connector,
    error::quoted,
    notice::Notice,
    proto::baton::{self, task::SyncFullTask, task::TaskType},
    syncer::{self, Environment, SyncRequest},
    telemetry::{
        metrics::Metrics,
        progress::{Counted, LogLines},
    },
};

/// How the names of our temporary folders begin. The SDK's temporary files begin with the first three words; the rest
/// keeps us from touching those of another connector in a shared folder.
pub const TEMP_PREFIX: &str = "baton-sdk-sync-upload-jumpcloud-";
/// Held open and locked for as long as the owner of a temporary folder lives.
const LOCK_FILE: &str = "lock";
const SYNC_FILE: &str = "sync.c1z";
/// Longest id of a resource or a resource type in a task, in bytes.
const MAX_ID: usize = 1024;

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
}

/// Answers `sync_full`.
pub struct FullSync {
    connector: Arc<dyn Connector>,
    clock: Arc<dyn Clock>,
    work_dir: PathBuf,
    local: LocalOptions,
    metrics: Metrics,
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
            local,
            metrics,
        }
    }

    async fn sync_and_upload(
        &self,
        request: &SyncRequest,
        folder: &Path,
        context: Context<'_>,
    ) -> Result<(), Error> {
        let file = folder.join(SYNC_FILE);
        let begun = Instant::now();
        let progress = Counted::new(LogLines::new(), self.metrics.clone());
        let environment = Environment {
            work_dir: folder,
            clock: self.clock.as_ref(),
            progress: &progress,
            cancel: context.cancel,
        };
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
        tokio::select! {
            biased;
            () = context.cancel.cancelled() => return Err(Error::Stopped),
            uploaded = context.control_plane.upload(context.task_id, &file) => {
                uploaded.map_err(Error::Upload)?;
            }
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
        let request = request(options, &self.local, context.task_id)?;
        let work_dir = self.work_dir.clone();
        let folder = blocking("create a temporary folder in the work folder", move || {
            Folder::create(&work_dir)
        })
        .await?;
        let done = self.sync_and_upload(&request, folder.path(), context).await;
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
        done.map(|()| Outcome::Finished {
            response: None,
            annotations: Vec::new(),
        })
    }
}

/// What the engine is asked to do for a task.
fn request(
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

/// A private folder of one sync, locked so that other processes see that its owner lives.
#[derive(Debug)]
struct Folder {
    dir: TempDir,
    // Keeps the lock; released with the folder or with the process.
    _lock: File,
}

impl Folder {
    fn create(work_dir: &Path) -> io::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(TEMP_PREFIX)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(work_dir)?;
        let lock = File::create_new(dir.path().join(LOCK_FILE))?;
        lock.lock()?;
        Ok(Self { dir, _lock: lock })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn remove(self) -> io::Result<()> {
        self.dir.close()
    }
}

/// Deletes what earlier runs of this connector left in the work folder, and says how much it was.
///
/// Only folders and files with our prefix that were last changed before `started`, and whose owner no longer holds
/// their lock. What cannot be deleted is logged and left. Cancel-safe; the deletion then goes on in the background.
pub async fn remove_stale(work_dir: &Path, started: Timestamp) -> usize {
    let work_dir = work_dir.to_owned();
    let removed = blocking("clear the work folder", move || {
        remove_stale_in(&work_dir, SystemTime::from(started))
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

fn remove_stale_in(work_dir: &Path, started: SystemTime) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(work_dir)? {
        let entry = entry?;
        if !entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(TEMP_PREFIX.as_bytes())
        {
            continue;
        }
        match remove_if_stale(&entry, started) {
            Ok(true) => removed += 1,
            Ok(false) => {}
            Err(error) => tracing::warn!(
                path = %entry.path().display(),
                error = %error,
                "cannot remove a temporary file of an earlier run"
            ),
        }
    }
    Ok(removed)
}

fn remove_if_stale(entry: &fs::DirEntry, started: SystemTime) -> io::Result<bool> {
    // Does not follow links: a link is removed, not what it points to.
    let metadata = entry.metadata()?;
    if metadata.modified()? >= started {
        return Ok(false);
    }
    if !metadata.is_dir() {
        fs::remove_file(entry.path())?;
        return Ok(true);
    }
    match File::open(entry.path().join(LOCK_FILE)) {
        Ok(lock) if lock.try_lock().is_err() => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::remove_dir_all(entry.path())?;
    Ok(true)
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
