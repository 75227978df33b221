//! What an attempt at a sync finds in its work folder of the one before, and whether it may go on with it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Environment, Error, SyncRequest, checkpoint::Checkpoint, engine::Kind};
use crate::c1z::{self, SyncStart, Unfinished, Writer};

/// Where the connector keeps what it wants to find again.
const CONNECTOR_FOLDER: &str = "connector";

/// Whether a sync leaves what it has for the next attempt. Targeted and empty ones are too short for that.
pub(super) fn keeps(environment: Environment<'_>, request: &SyncRequest) -> bool {
    environment.keep && request.is_of_directory()
}

/// A sync that can be gone on with: its start, and how far it came; no checkpoint = it only has to be packed.
pub(super) type Kept = (Writer, SyncStart, Option<Checkpoint>);

/// The unfinished sync of the work folder, unless it cannot be trusted.
pub(super) async fn unfinished(
    environment: Environment<'_>,
    kind: Kind,
) -> Result<Option<Kept>, Error> {
    let reopened = Writer::reopen(environment.work_dir, environment.cancel.child_token()).await;
    let problem = match reopened {
        Ok(None) => return Ok(None),
        Err(c1z::Error::Cancelled) => return Err(Error::Cancelled),
        Err(error) => crate::error::chain(&error),
        Ok(Some((writer, unfinished))) => {
            let Unfinished {
                start,
                checkpoint,
                has_ended,
            } = unfinished;
            let checkpoint = if start.sync_type != kind.name() {
                Err(format!(
                    "it is a sync of type {}, and {} was asked for",
                    start.sync_type,
                    kind.name()
                ))
            } else if has_ended {
                return Ok(Some((writer, start, None)));
            } else {
                Checkpoint::parse(&checkpoint)
            };
            match checkpoint {
                Ok(checkpoint) => return Ok(Some((writer, start, Some(checkpoint)))),
                Err(problem) => {
                    writer.discard().await;
                    problem
                }
            }
        }
    };
    tracing::warn!(
        reason = problem,
        "the kept sync cannot be gone on with, so the sync begins anew"
    );
    Ok(None)
}

/// The folder of what the connector keeps; emptied where the sync begins anew.
pub(super) async fn connector_folder(work_dir: &Path, is_new: bool) -> Result<PathBuf, Error> {
    let folder = work_dir.join(CONNECTOR_FOLDER);
    let path = folder.clone();
    let made = tokio::task::spawn_blocking(move || {
        if is_new {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path)
    })
    .await
    .map_err(io::Error::other)
    .flatten();
    match made {
        Ok(()) => Ok(folder),
        Err(source) => Err(Error::File(c1z::Error::Io {
            what: "create a folder in",
            path: work_dir.to_owned(),
            source,
        })),
    }
}
