//! Where configuration comes from: environment, files and the few facts of the machine.
//!
//! Owns every access to the process environment. Nothing in `config` touches the process or the disk but through
//! [`Source`], so that tests bring their own and never change what other tests see.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsString,
    fmt, fs,
    io::{self, IsTerminal, Read},
    mem,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// Something that can be read as a stream of bytes.
    File,
    /// A directory.
    Directory,
}

/// Environment, files and machine, as far as the configuration asks.
///
/// Methods block; they are called at start, or from `spawn_blocking` when a secret is read again.
pub trait Source: fmt::Debug + Send + Sync {
    /// The raw value of an environment variable.
    fn variable(&self, name: &str) -> Option<OsString>;
    /// The names of all environment variables that are valid UTF-8.
    fn variable_names(&self) -> Vec<String>;
    /// The whole content of a file; one larger than `limit` bytes is an error of kind `FileTooLarge`. The buffer has room
    /// for `limit` bytes.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
    /// What a path leads to, symbolic links followed.
    fn kind(&self, path: &Path) -> io::Result<PathKind>;
    /// Proves that files can be made in a directory; nothing is left behind.
    fn check_writable(&self, directory: &Path) -> io::Result<()>;
    /// The directory of the operating system for temporary files.
    fn temp_dir(&self) -> PathBuf;
    /// The name of the machine; empty when it has none.
    fn host_name(&self) -> String;
    /// Whether a person watches standard output.
    fn is_terminal(&self) -> bool;
}

/// The process and the machine it runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemSource;

impl Source for SystemSource {
    fn variable(&self, name: &str) -> Option<OsString> {
        env::var_os(name)
    }

    fn variable_names(&self) -> Vec<String> {
        env::vars_os()
            .filter_map(|(name, _)| name.into_string().ok())
            .collect()
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let most = limit.saturating_add(1);
        // It may be a credential: a buffer that grew would leave its beginning behind in memory that is freed.
        let mut content = Zeroizing::new(Vec::new());
        content.try_reserve_exact(usize::try_from(most).unwrap_or(usize::MAX))?;
        fs::File::open(path)?.take(most).read_to_end(&mut content)?;
        if u64::try_from(content.len()).unwrap_or(u64::MAX) > limit {
            return Err(too_large(limit));
        }
        Ok(mem::take(&mut content))
    }

    fn kind(&self, path: &Path) -> io::Result<PathKind> {
        Ok(if fs::metadata(path)?.is_dir() {
            PathKind::Directory
        } else {
            PathKind::File
        })
    }

    fn check_writable(&self, directory: &Path) -> io::Result<()> {
        tempfile::Builder::new()
            .prefix(".baton-check-")
            .tempfile_in(directory)?
            .close()
    }

    fn temp_dir(&self) -> PathBuf {
        env::temp_dir()
    }

    fn host_name(&self) -> String {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    }

    fn is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }
}

/// A source held in memory, for tests.
#[derive(Debug, Clone, Default)]
pub struct ManualSource {
    variables: BTreeMap<String, OsString>,
    files: BTreeMap<PathBuf, Vec<u8>>,
    unreadable: BTreeSet<PathBuf>,
    directories: BTreeMap<PathBuf, bool>,
    terminal: bool,
    host_name: Option<String>,
}

impl ManualSource {
    /// A source with a writable `/tmp` and nothing else.
    pub fn new() -> Self {
        Self::default().with_directory("/tmp", true)
    }

    /// Adds an environment variable, or replaces it.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// Names the machine.
    #[must_use]
    pub fn with_host_name(mut self, name: &str) -> Self {
        self.host_name = Some(name.to_owned());
        self
    }

    /// Adds a file, or replaces it.
    #[must_use]
    pub fn with_file(mut self, path: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.into(), content.into());
        self
    }

    /// Adds a file that exists but may not be read.
    #[must_use]
    pub fn with_unreadable(mut self, path: impl Into<PathBuf>) -> Self {
        self.unreadable.insert(path.into());
        self
    }

    /// Adds a directory.
    #[must_use]
    pub fn with_directory(mut self, path: impl Into<PathBuf>, writable: bool) -> Self {
        self.directories.insert(path.into(), writable);
        self
    }

    /// Says that a person watches standard output.
    #[must_use]
    pub fn on_a_terminal(mut self) -> Self {
        self.terminal = true;
        self
    }
}

impl Source for ManualSource {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).cloned()
    }

    fn variable_names(&self) -> Vec<String> {
        self.variables.keys().cloned().collect()
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        if self.unreadable.contains(path) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        match self.files.get(path) {
            Some(content) if u64::try_from(content.len()).unwrap_or(u64::MAX) > limit => {
                Err(too_large(limit))
            }
            Some(content) => Ok(content.clone()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn kind(&self, path: &Path) -> io::Result<PathKind> {
        if self.files.contains_key(path) || self.unreadable.contains(path) {
            Ok(PathKind::File)
        } else if self.directories.contains_key(path) {
            Ok(PathKind::Directory)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn check_writable(&self, directory: &Path) -> io::Result<()> {
        match self.directories.get(directory) {
            Some(true) => Ok(()),
            Some(false) => Err(io::ErrorKind::PermissionDenied.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn temp_dir(&self) -> PathBuf {
        PathBuf::from("/tmp")
    }

    fn host_name(&self) -> String {
        self.host_name
            .clone()
            .unwrap_or_else(|| "test-host".to_owned())
    }

    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

fn too_large(limit: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("larger than {limit} bytes"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_the_limit_and_not_beyond() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(SystemSource.read(&path, 5).unwrap(), b"12345");
        assert_eq!(
            SystemSource.read(&path, 4).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
        // A device without end is cut off like any other.
        assert_eq!(
            SystemSource
                .read(Path::new("/dev/zero"), 64)
                .unwrap_err()
                .kind(),
            io::ErrorKind::FileTooLarge
        );
    }

    #[test]
    fn a_file_is_read_into_a_buffer_that_never_grew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, 33, 40_000, 0x1_0000] {
            fs::write(&path, vec![b'x'; length]).unwrap();
            let content = SystemSource.read(&path, 0x1_0000).unwrap();
            assert_eq!((content.len(), content.capacity()), (length, 0x1_0001));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_swapped_link_leads_to_the_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        for content in ["old", "new"] {
            let target = folder.path().join(content);
            fs::write(&target, content).unwrap();
            let fresh = folder.path().join("fresh");
            std::os::unix::fs::symlink(&target, &fresh).unwrap();
            fs::rename(&fresh, &link).unwrap();
            assert_eq!(SystemSource.kind(&link).unwrap(), PathKind::File);
            assert_eq!(SystemSource.read(&link, 10).unwrap(), content.as_bytes());
        }
    }

    #[test]
    fn a_writable_folder_is_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        SystemSource.check_writable(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(
            SystemSource
                .check_writable(&folder.path().join("none"))
                .is_err()
        );
    }

    #[test]
    fn the_machine_answers() {
        assert!(SystemSource.variable_names().contains(&"PATH".to_owned()));
        assert!(SystemSource.variable("PATH").is_some());
        assert!(SystemSource.variable("BATON_NO_SUCH_NAME").is_none());
        assert!(!SystemSource.host_name().is_empty());
        assert_eq!(
            SystemSource.kind(&SystemSource.temp_dir()).unwrap(),
            PathKind::Directory
        );
    }
}
