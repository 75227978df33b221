//! The folder of one sync in the work directory: what is in it while the sync runs, and what may wait there for the next
//! attempt.
//!
//! Owns the names, the lock, and the decision whose left-over may be gone on with. Invariants: a folder is private and
//! locked for as long as its owner lives; a left-over is gone on with only by the same version, for the same directory and
//! configuration and the same request, within the age limit, and by nobody once a later one of its kind was uploaded;
//! what is removed loses first what says whose it is, so that a death on the way leaves nothing to go on with; folders of
//! others are left alone. All functions block.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    connector::Connector,
    crypto::{Sha256, hex},
    state_folder::{check_private, replace},
    syncer::{Report, SyncRequest},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// How the names of our temporary folders begin. The SDK's temporary files begin with the first three words; the rest
/// keeps us from touching those of another connector in a shared folder.
pub const TEMP_PREFIX: &str = "baton-sdk-sync-upload-jumpcloud-";
/// Held open and locked for as long as the owner of a temporary folder lives.
pub(super) const LOCK_FILE: &str = "lock";
const SYNC_FILE: &str = "sync.c1z";
/// Says whose sync it is; only a folder with this file outlives its process.
const MANIFEST: &str = "sync.json";
/// What the finished sync holds.
const REPORT: &str = "report.json";
/// Raised with every change of what a folder holds.
const FORMAT: u32 = 1;
/// How often a sync is gone on with before it is suspected to be what ends the process.
const MOST_ATTEMPTS: u32 = 20;
/// The largest file of ours that is read back.
const FILE_LIMIT: u64 = 1 << 20;

/// Whose sync a folder holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    /// Makes the fingerprints of two folders incomparable, since a credential may be part of them.
    salt: String,
    /// See [`Wish::fingerprint`].
    fingerprint: String,
    started_at: Timestamp,
    attempts: u32,
}

/// The sync that is wanted.
pub(super) struct Wish {
    pub(super) connector: Arc<dyn Connector>,
    pub(super) request: SyncRequest,
    pub(super) now: Timestamp,
    /// How old a sync may be that is gone on with; zero = none is.
    pub(super) max_age: Duration,
}

impl Wish {
    /// Whether the sync may outlive its process. Targeted and empty ones are too short for that.
    fn is_kept(&self) -> bool {
        !self.max_age.is_zero() && self.request.is_of_directory()
    }

    /// Tells what may be mixed from what may not: the version of this program, the directory and how it is read, and the
    /// request.
    fn fingerprint(&self, salt: &str) -> String {
        let SyncRequest {
            skip_expand_grants,
            skip_entitlements_and_grants,
            skip_grants,
            targeted: _,
            resource_type_ids,
            empty: _,
            workers: _,
        } = &self.request;
        let text = format!(
            "{}\n{}\n{skip_expand_grants} {skip_entitlements_and_grants} {skip_grants} {resource_type_ids:?}",
            env!("CARGO_PKG_VERSION"),
            self.connector.fingerprint(salt),
        );
        hex(&Sha256::digest(text.as_bytes()))
    }

    /// Whether the sync of a folder is of this kind, in each of those.
    fn is_of(&self, manifest: &Manifest) -> bool {
        self.fingerprint(&manifest.salt) == manifest.fingerprint
    }

    fn is_young(&self, manifest: &Manifest) -> bool {
        is_young(manifest, self.now, self.max_age)
    }
}

fn is_young(manifest: &Manifest, now: Timestamp, max_age: Duration) -> bool {
    // One from the future was written by a clock that was wrong.
    let age = now.duration_since(manifest.started_at);
    !age.is_negative() && age.unsigned_abs() <= max_age
}

/// A private folder of one sync, locked so that other processes see that its owner lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    is_kept: bool,
    /// When the first attempt began.
    started_at: Timestamp,
    // Keeps the lock; released with the folder or with the process.
    _lock: File,
}

impl Folder {
    /// The folder of an earlier attempt at the same sync, or a new one.
    pub(super) fn take(work_dir: &Path, wish: &Wish) -> io::Result<Self> {
        if wish.is_kept() {
            for (path, manifest, lock) in left_over(work_dir)? {
                if !wish.is_young(&manifest) {
                    discard(&path, "it is older than the limit (sync-resume-max-age)");
                } else if !wish.is_of(&manifest) {
                    tracing::debug!(folder = %path.display(), "an unfinished sync of another kind or configuration is left alone");
                } else if manifest.attempts >= MOST_ATTEMPTS {
                    discard(&path, "too many attempts did not finish it");
                } else {
                    let folder = Self {
                        path,
                        is_kept: true,
                        started_at: manifest.started_at,
                        _lock: lock,
                    };
                    let counted = Manifest {
                        attempts: manifest.attempts + 1,
                        ..manifest
                    };
                    match folder.write(MANIFEST, &counted) {
                        Ok(()) => return Ok(folder),
                        // It may itself be what fills the disk.
                        Err(error) => discard(
                            &folder.path,
                            &format!("its next attempt cannot be counted: {error}"),
                        ),
                    }
                }
            }
        }
        Self::create(work_dir, wish)
    }

    fn create(work_dir: &Path, wish: &Wish) -> io::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(TEMP_PREFIX)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(work_dir)?;
        let lock = private(&dir.path().join(LOCK_FILE))?;
        lock.lock()?;
        let mut folder = Self {
            path: dir.keep(),
            // Until it says whose it is.
            is_kept: false,
            started_at: wish.now,
            _lock: lock,
        };
        if wish.is_kept() {
            let salt = format!("{:032x}", fastrand::u128(..));
            folder.write(
                MANIFEST,
                &Manifest {
                    format: FORMAT,
                    fingerprint: wish.fingerprint(&salt),
                    salt,
                    started_at: wish.now,
                    attempts: 1,
                },
            )?;
            folder.is_kept = true;
        }
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the finished file goes.
    pub(super) fn sync_file(&self) -> PathBuf {
        self.path.join(SYNC_FILE)
    }

    /// Whether what is in it may outlive this attempt.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept && self.path.join(MANIFEST).exists()
    }

    /// What an earlier attempt finished and did not upload.
    pub(super) fn finished(&self) -> Option<Report> {
        if self.sync_file().is_file() {
            read(&self.path.join(REPORT))
        } else {
            None
        }
    }

    /// Remembers what the finished file holds.
    pub(super) fn finish(&self, report: &Report) -> io::Result<()> {
        if self.is_kept {
            self.write(REPORT, report)
        } else {
            Ok(())
        }
    }

    /// Nobody goes on with this sync any more, whatever happens next.
    pub(super) fn retire(&self) -> io::Result<()> {
        disown(&self.path)
    }

    /// Nobody goes on with an earlier sync of this kind any more: its file would tell ConductorOne what was true before
    /// the one in this folder. One that still runs may end, and is not kept then.
    pub(super) fn supersede(&self, work_dir: &Path, wish: &Wish) -> io::Result<()> {
        if !self.is_kept {
            return Ok(());
        }
        for path in folders(work_dir)? {
            if path == self.path {
                continue;
            }
            let is_earlier = manifest(&path)
                .is_some_and(|other| other.started_at <= self.started_at && wish.is_of(&other));
            if is_earlier {
                disown(&path)?;
                if File::open(path.join(LOCK_FILE)).is_ok_and(|lock| lock.try_lock().is_ok()) {
                    discard(&path, "a later one was uploaded");
                }
            }
        }
        Ok(())
    }

    /// Removes everything.
    pub(super) fn remove(self) -> io::Result<()> {
        remove_all(&self.path)
    }

    fn write<T: Serialize>(&self, name: &str, content: &T) -> io::Result<()> {
        replace(&self.path, name, &serde_json::to_vec(content)?)
    }
}

impl Drop for Folder {
    /// An attempt that is dropped leaves its sync to the next one; one that panics, or that nobody may go on with, does
    /// not.
    fn drop(&mut self) {
        if (!self.is_kept || std::thread::panicking())
            && let Err(error) = remove_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(error = %error, "a temporary folder is left behind until the next start");
        }
    }
}

/// Takes away what says whose sync it is; without it nobody goes on with the rest.
fn disown(path: &Path) -> io::Result<()> {
    match fs::remove_file(path.join(MANIFEST)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_all(path: &Path) -> io::Result<()> {
    disown(path)?;
    fs::remove_dir_all(path)
}

fn private(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let file = File::open(path).ok()?;
    serde_json::from_reader(io::Read::take(file, FILE_LIMIT)).ok()
}

fn discard(path: &Path, reason: &str) {
    tracing::info!(folder = %path.display(), reason, "an unfinished sync is discarded");
    if let Err(error) = remove_all(path) {
        tracing::warn!(folder = %path.display(), error = %error, "it could not be removed");
    }
}

/// The folders of syncs, running or not, that nobody else can have made.
fn folders(work_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(work_dir)? {
        let entry = entry?;
        if !is_ours(&entry) || !entry.file_type()?.is_dir() {
            continue;
        }
        let path = entry.path();
        match check_private(&path) {
            Ok(()) => found.push(path),
            Err(error) => {
                tracing::warn!(error = %error, "an unfinished sync that is not ours alone is left alone");
            }
        }
    }
    Ok(found)
}

/// The unfinished syncs whose owner is gone, the newest first, with their locks.
fn left_over(work_dir: &Path) -> io::Result<Vec<(PathBuf, Manifest, File)>> {
    let mut found = Vec::new();
    for path in folders(work_dir)? {
        let Ok(lock) = File::open(path.join(LOCK_FILE)) else {
            continue;
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => {
                tracing::debug!(folder = %path.display(), error = %error, "cannot be locked");
                continue;
            }
        }
        if let Some(manifest) = manifest(&path) {
            found.push((path, manifest, lock));
        }
    }
    found.sort_by_key(|(_, manifest, _)| std::cmp::Reverse(manifest.started_at));
    Ok(found)
}

fn manifest(path: &Path) -> Option<Manifest> {
    read(&path.join(MANIFEST)).filter(|manifest: &Manifest| manifest.format == FORMAT)
}

fn is_ours(entry: &fs::DirEntry) -> bool {
    entry
        .file_name()
        .as_encoded_bytes()
        .starts_with(TEMP_PREFIX.as_bytes())
}

/// Deletes what earlier runs left and nobody can go on with; how much it was.
pub(super) fn remove_stale(
    work_dir: &Path,
    started: Timestamp,
    max_age: Duration,
) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(work_dir)? {
        let entry = entry?;
        if !is_ours(&entry) {
            continue;
        }
        match remove_if_stale(&entry, started, max_age) {
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

fn remove_if_stale(
    entry: &fs::DirEntry,
    started: Timestamp,
    max_age: Duration,
) -> io::Result<bool> {
    // Does not follow links: a link is removed, not what it points to.
    let metadata = entry.metadata()?;
    if metadata.modified()? >= SystemTime::from(started) {
        return Ok(false);
    }
    if !metadata.is_dir() {
        fs::remove_file(entry.path())?;
        return Ok(true);
    }
    let path = entry.path();
    match File::open(path.join(LOCK_FILE)) {
        Ok(lock) if lock.try_lock().is_err() => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if manifest(&path).is_some_and(|manifest| is_young(&manifest, started, max_age)) {
        tracing::info!(folder = %path.display(), "an unfinished sync waits for its next attempt");
        return Ok(false);
    }
    remove_all(&path)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syncer::fake::FakeConnector;

    const HOUR: Duration = Duration::from_hours(1);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + seconds).unwrap()
    }

    fn wish(seconds: i64) -> Wish {
        Wish {
            connector: Arc::new(FakeConnector::new()),
            request: SyncRequest::default(),
            now: at(seconds),
            max_age: HOUR,
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_folder_is_private_and_locked() {
        let work_dir = tempfile::tempdir().unwrap();
        let folder = Folder::take(work_dir.path(), &wish(0)).unwrap();
        assert_eq!(mode(folder.path()), 0o700);
        for name in [LOCK_FILE, MANIFEST] {
            assert_eq!(mode(&folder.path().join(name)), 0o600, "{name}");
        }
        let lock = File::open(folder.path().join(LOCK_FILE)).unwrap();
        assert!(lock.try_lock().is_err());
        let path = folder.path().to_owned();
        folder.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_an_attempt_left_is_taken_by_the_next_one_and_by_no_other() {
        let work_dir = tempfile::tempdir().unwrap();
        let take = |wish: &Wish| Folder::take(work_dir.path(), wish).unwrap();
        let first = take(&wish(0));
        let path = first.path().to_owned();
        let beside = take(&wish(1));
        assert_ne!(beside.path(), path, "its owner lives");
        beside.remove().unwrap();
        drop(first);

        let mut other = wish(2);
        other.request.skip_grants = true;
        let other = take(&other);
        assert_ne!(other.path(), path, "another request");
        other.remove().unwrap();

        let again = take(&wish(3));
        assert_eq!(again.path(), path);
        drop(again);
        let late = take(&wish(3601));
        assert_ne!(late.path(), path);
        assert!(!path.exists(), "too old, so nobody will ever want it");
    }

    #[test]
    fn a_sync_that_never_ends_is_not_gone_on_with_for_ever() {
        let work_dir = tempfile::tempdir().unwrap();
        let take = || Folder::take(work_dir.path(), &wish(0)).unwrap();
        let path = take().path().to_owned();
        for _ in 1..MOST_ATTEMPTS {
            assert_eq!(take().path(), path);
        }
        assert_ne!(take().path(), path);
    }

    #[test]
    fn short_syncs_and_those_of_a_daemon_that_begins_anew_leave_nothing() {
        let work_dir = tempfile::tempdir().unwrap();
        let mut wishes = [wish(0), wish(0), wish(0)];
        wishes[0].max_age = Duration::ZERO;
        wishes[1].request.empty = true;
        wishes[2].request.targeted = vec![crate::proto::connector::Resource::default()];
        for wish in wishes {
            drop(Folder::take(work_dir.path(), &wish).unwrap());
            assert_eq!(fs::read_dir(work_dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_panic_takes_its_sync_with_it() {
        let work_dir = tempfile::tempdir().unwrap();
        let folder = Folder::take(work_dir.path(), &wish(0)).unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _folder = folder;
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert_eq!(fs::read_dir(work_dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_uploaded_sync_is_never_gone_on_with() {
        let work_dir = tempfile::tempdir().unwrap();
        let folder = Folder::take(work_dir.path(), &wish(0)).unwrap();
        fs::write(folder.sync_file(), "whole").unwrap();
        assert!(folder.finished().is_none(), "nobody knows what it holds");
        let report = Report {
            sync_id: "one".to_owned(),
            ..Report::default()
        };
        folder.finish(&report).unwrap();
        assert_eq!(folder.finished().unwrap().sync_id, "one");
        folder.retire().unwrap();
        let path = folder.path().to_owned();
        drop(folder);
        let next = Folder::take(work_dir.path(), &wish(1)).unwrap();
        assert_ne!(next.path(), path);
    }

    #[test]
    fn an_uploaded_sync_takes_the_place_of_earlier_ones_of_its_kind_only() {
        let work_dir = tempfile::tempdir().unwrap();
        let take = |wish: &Wish| Folder::take(work_dir.path(), wish).unwrap();
        let running = take(&wish(0));
        let waiting = take(&wish(1));
        let mut other = wish(2);
        other.request.skip_grants = true;
        let other = take(&other);
        let uploaded = take(&wish(3));
        let later = take(&wish(4));
        let waiting_path = waiting.path().to_owned();
        drop(waiting);

        uploaded.supersede(work_dir.path(), &wish(3)).unwrap();

        assert!(!waiting_path.exists());
        assert!(running.path().exists() && !running.is_kept());
        assert!(other.is_kept() && uploaded.is_kept() && later.is_kept());
    }

    #[test]
    fn a_death_while_a_folder_is_removed_leaves_nothing_to_go_on_with() {
        let work_dir = tempfile::tempdir().unwrap();
        let folder = Folder::take(work_dir.path(), &wish(0)).unwrap();
        let path = folder.path().to_owned();
        // Behind a link the folder itself outlives its removal, as in a process that dies on the way.
        let real = work_dir.path().join("real");
        fs::rename(&path, &real).unwrap();
        std::os::unix::fs::symlink(&real, &path).unwrap();
        folder.remove().unwrap();
        assert!(real.join(LOCK_FILE).exists());
        assert!(manifest(&real).is_none());
    }

    #[test]
    fn at_start_only_syncs_that_can_be_gone_on_with_stay() {
        let work_dir = tempfile::tempdir().unwrap();
        let take = || Folder::take(work_dir.path(), &wish(0)).unwrap();
        let waiting = take().path().to_owned();
        let age = |path: &Path| {
            File::open(path)
                .unwrap()
                .set_modified(SystemTime::from(at(0)))
                .unwrap();
        };
        age(&waiting);
        let clear = |seconds| remove_stale(work_dir.path(), at(seconds), HOUR).unwrap();
        assert_eq!(clear(60), 0);
        assert_eq!(clear(-60), 0, "changed after the start");
        let spoilt = waiting.join(MANIFEST);
        let good = fs::read(&spoilt).unwrap();
        assert_eq!(clear(3601), 1);
        assert!(!waiting.exists());

        let damaged = take().path().to_owned();
        fs::write(damaged.join(MANIFEST), &good[..good.len() / 2]).unwrap();
        age(&damaged);
        assert_eq!(clear(60), 1);
    }
}
