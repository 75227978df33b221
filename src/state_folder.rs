//! The folder in the work directory that outlives the process.
//!
//! Owns its name, its lock and how files get into it. Invariants: only this user may read it; a file is there whole or
//! not at all, and on the disk, when [`Folder::write`] has returned; two processes never share it: the second one finds
//! it locked and takes the next number. All functions block.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use crate::supervisor::lock;

/// The name of the first folder in the work directory; further ones get `-2`, `-3` and so on.
pub const NAME: &str = "baton-jumpcloud-state";
/// How many processes may work in one work directory.
const MOST: u32 = 32;
/// How the names of files begin that are being written.
const UNFINISHED: &str = ".new-";
/// The largest file that is read.
const FILE_LIMIT: u64 = 8 * 1024 * 1024;

/// A folder that this process holds.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Locked for as long as the folder is held.
    _lock: File,
}

impl Folder {
    /// Takes the first free folder of a work directory; `None` where there is none and none is to be made.
    fn take(work_dir: &Path, make: bool) -> io::Result<Option<Self>> {
        for number in 1..=MOST {
            let path = work_dir.join(match number {
                1 => NAME.to_owned(),
                number => format!("{NAME}-{number}"),
            });
            if make {
                make_private(&path)?;
            } else if !path.try_exists()? {
                return Ok(None);
            }
            check_private(&path)?;
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(path.join("lock"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if number > 1 {
                tracing::warn!(
                    folder = %path.display(),
                    "another process works in the same work directory, so this one keeps what it remembers in a folder \
                     of its own; give each process its own work-dir"
                );
            }
            return Ok(Some(Self { path, _lock: file }));
        }
        Err(io::Error::other(format!(
            "{MOST} processes use this work directory already; give this one its own work-dir"
        )))
    }

    /// The names of the files in a part of the folder, those being written left out; none when the part is not there.
    pub fn names(&self, part: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path.join(part)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            if let Ok(name) = entry?.file_name().into_string()
                && !name.starts_with(UNFINISHED)
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// The content of a file, if it is there.
    pub fn read(&self, part: &str, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.path.join(part).join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut content = Vec::new();
        file.take(FILE_LIMIT + 1).read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// Puts a file in the place of one with the same name; it is on the disk when this returns.
    pub fn write(&self, part: &str, name: &str, content: &[u8]) -> io::Result<()> {
        let folder = self.path.join(part);
        // Cleaners of temporary folders may have taken it away.
        make_private(&self.path)?;
        make_private(&folder)?;
        replace(&folder, name, content)
    }

    /// Renames a file that cannot be understood, for a person to look at; an older one of that name is replaced.
    pub fn set_aside(&self, part: &str, name: &str) -> io::Result<()> {
        let folder = self.path.join(part);
        fs::rename(folder.join(name), folder.join(format!("{name}.corrupt")))
    }

    /// Removes what was last written before `oldest`, the oldest of more than `most`, and what a dead process left half
    /// written.
    pub fn prune(&self, part: &str, oldest: jiff::Timestamp, most: usize) -> io::Result<usize> {
        let entries = match fs::read_dir(self.path.join(part)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            // A file that was finished meanwhile has another name now.
            if let Ok(metadata) = entry.metadata() {
                files.push((metadata.mtime(), entry.path()));
            }
        }
        files.sort_unstable();
        let surplus = files.len().saturating_sub(most);
        let mut removed = 0;
        for (index, (written, path)) in files.iter().enumerate() {
            if *written < oldest.as_second() || index < surplus {
                fs::remove_file(path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Puts a file in the place of one with the same name, whole or not at all; it is on the disk when this returns.
pub(crate) fn replace(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let mut file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(folder.join(name))
        .map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

/// Refuses a folder that somebody else made in a shared directory: it must not be trusted with what we remember.
pub(crate) fn check_private(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::NotADirectory,
            format!("{} is no folder", path.display()),
        ));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} belongs to another user", path.display()),
        ));
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// The folder of this process, taken when it is first needed.
#[derive(Debug, Clone)]
pub struct Place {
    work_dir: PathBuf,
    held: Arc<Mutex<Option<Arc<Folder>>>>,
}

impl Place {
    /// The folder in this work directory. Nothing is touched yet; clones share the folder, which two calls of this function
    /// in one process would not.
    pub fn new(work_dir: PathBuf) -> Self {
        Self {
            work_dir,
            held: Arc::default(),
        }
    }

    /// The folder; `None` while nothing was ever written into it.
    pub fn existing(&self) -> io::Result<Option<Arc<Folder>>> {
        self.folder(false)
    }

    /// The folder, made if need be.
    pub fn ensured(&self) -> io::Result<Arc<Folder>> {
        self.folder(true)?
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn folder(&self, make: bool) -> io::Result<Option<Arc<Folder>>> {
        let mut held = lock(&self.held);
        if held.is_none() {
            *held = Folder::take(&self.work_dir, make)?.map(Arc::new);
        }
        Ok(held.clone())
    }

    /// Works in the folder, away from the workers of the runtime. Work that has begun goes on when this is dropped.
    pub async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || work(&this))
            .await
            .map_err(io::Error::other)
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn files_are_private_whole_and_replaced() {
        let work = tempfile::tempdir().unwrap();
        let place = Place::new(work.path().to_owned());
        assert!(place.existing().unwrap().is_none());
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0);
        let folder = place.ensured().unwrap();
        folder.write("journal", "a.json", b"one").unwrap();
        folder.write("journal", "a.json", b"two").unwrap();
        assert_eq!(folder.read("journal", "a.json").unwrap().unwrap(), b"two");
        assert_eq!(folder.names("journal").unwrap(), ["a.json"]);
        assert_eq!(folder.read("journal", "b.json").unwrap(), None);
        assert_eq!(folder.names("actions").unwrap(), Vec::<String>::new());
        let root = work.path().join(NAME);
        assert_eq!((mode(&root), mode(&root.join("journal"))), (0o700, 0o700));
        assert_eq!(mode(&root.join("journal/a.json")), 0o600);
    }

    #[test]
    fn a_second_process_gets_a_folder_of_its_own_and_a_restarted_one_the_first_again() {
        let work = tempfile::tempdir().unwrap();
        let first = Place::new(work.path().to_owned());
        first
            .ensured()
            .unwrap()
            .write("journal", "a", b"1")
            .unwrap();
        let second = Place::new(work.path().to_owned());
        assert!(second.existing().unwrap().is_none());
        let other = second.ensured().unwrap();
        assert_eq!(other.read("journal", "a").unwrap(), None);
        drop((first, second, other));
        let again = Place::new(work.path().to_owned());
        let folder = again.existing().unwrap().unwrap();
        assert_eq!(folder.read("journal", "a").unwrap().unwrap(), b"1");
    }

    #[test]
    fn a_folder_that_was_cleaned_away_is_made_again() {
        let work = tempfile::tempdir().unwrap();
        let place = Place::new(work.path().to_owned());
        let folder = place.ensured().unwrap();
        fs::remove_dir_all(work.path().join(NAME)).unwrap();
        folder.write("journal", "a", b"1").unwrap();
        assert_eq!(folder.read("journal", "a").unwrap().unwrap(), b"1");
    }

    #[test]
    fn a_link_in_the_place_of_the_folder_is_refused_and_an_open_one_is_closed() {
        let work = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), work.path().join(NAME)).unwrap();
        let error = Place::new(work.path().to_owned()).ensured().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);

        let work = tempfile::tempdir().unwrap();
        let root = work.path().join(NAME);
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
        Place::new(work.path().to_owned()).ensured().unwrap();
        assert_eq!(mode(&root), 0o700);
    }

    #[test]
    fn old_files_go_and_so_do_the_oldest_of_too_many() {
        let work = tempfile::tempdir().unwrap();
        let folder = Place::new(work.path().to_owned()).ensured().unwrap();
        let now = Timestamp::now();
        for (name, age) in [
            ("a", 100_u64),
            ("b", 50),
            ("c", 40),
            (".new-x", 200),
            ("d", 1),
        ] {
            folder.write("journal", name, b"1").unwrap();
            let written = now - Duration::from_secs(age);
            File::options()
                .write(true)
                .open(work.path().join(NAME).join("journal").join(name))
                .unwrap()
                .set_modified(written.into())
                .unwrap();
        }
        let oldest = now - Duration::from_secs(70);
        assert_eq!(folder.prune("journal", oldest, 2).unwrap(), 3);
        let mut names = folder.names("journal").unwrap();
        names.sort();
        assert_eq!(names, ["c", "d"]);
        assert_eq!(folder.prune("actions", oldest, 2).unwrap(), 0);
    }
}
