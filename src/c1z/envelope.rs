//! The envelope: magic bytes, one zstd frame, written atomically and read with caps.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use tokio_util::sync::CancellationToken;

use super::Error;

/// The first bytes of a v1 file.
pub const MAGIC_V1: [u8; 5] = *b"C1ZF\0";
/// The first bytes of a v3 file.
pub const MAGIC_V3: [u8; 5] = *b"C1Z3\0";

const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// The compression level: the window stays within 2 MiB, well below the 8 MiB that every reader accepts.
const LEVEL: i32 = 3;
/// The official decoder refuses windows above 128 MiB.
const MAX_WINDOW_LOG: u32 = 27;
const CHUNK: usize = 128 * 1024;
/// The longest zstd frame header.
const FRAME_HEADER: usize = 18;
/// A file may become so many times as large. Sync files become 5 to 60 times as large; zstd can make it 30,000 times.
const MAX_RATIO: u64 = 500;
/// What a file may become however small it is.
const ANY_SIZE: u64 = 64 << 20;
/// What stays free in the work folder for others.
const RESERVE: u64 = 16 << 20;

/// What a reader accepts at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The size of the decoded database in bytes; 10 GiB by default, as in the official reader.
    pub decoded_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            decoded_bytes: 10 << 30,
        }
    }
}

/// A file that disappears unless it is kept.
struct Unfinished(Option<PathBuf>);

impl Unfinished {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(error = %error, "an unfinished file could not be removed");
        }
    }
}

/// Compresses a database into `target`, which appears whole or not at all; the size of the result in bytes.
pub(super) fn seal(
    database: &mut File,
    target: &Path,
    cancel: &CancellationToken,
) -> Result<u64, Error> {
    let temporary = {
        let mut name = OsString::from(target);
        name.push(".tmp");
        PathBuf::from(name)
    };
    // What an earlier, killed process left there may have other permissions.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("replace", &temporary)(error));
        }
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options
        .open(&temporary)
        .map_err(Error::io("create", &temporary))?;
    let unfinished = Unfinished(Some(temporary.clone()));

    let size = database
        .seek(SeekFrom::End(0))
        .and_then(|size| database.seek(SeekFrom::Start(0)).map(|_| size))
        .map_err(Error::io("read the working database for", target))?;
    let write = Error::io("write", &temporary);
    let compressed = compress(database, file, size, cancel);
    let file = match compressed {
        Ok(Some(file)) => file,
        Ok(None) => return Err(Error::Cancelled),
        Err(error) => return Err(write(error)),
    };
    let bytes = file
        .sync_all()
        .and_then(|()| file.metadata())
        .map_err(Error::io("flush", &temporary))?
        .len();
    drop(file);
    fs::rename(&temporary, target).map_err(Error::io("rename the finished file to", target))?;
    unfinished.keep();
    // The rename is durable only once the folder is; a file system that cannot do this still has the file.
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
        tracing::debug!(error = %error, "the folder of the file cannot be flushed");
    }
    Ok(bytes)
}

/// `None` = cancelled.
fn compress(
    database: &mut File,
    file: File,
    size: u64,
    cancel: &CancellationToken,
) -> io::Result<Option<File>> {
    let mut out = BufWriter::with_capacity(CHUNK, file);
    out.write_all(&MAGIC_V1)?;
    let mut encoder = zstd::stream::write::Encoder::new(out, LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.include_contentsize(true)?;
    encoder.set_pledged_src_size(Some(size))?;
    let mut buffer = vec![0_u8; CHUNK];
    loop {
        if cancel.is_cancelled() {
            return Ok(None);
        }
        let count = database.read(&mut buffer)?;
        let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else {
            break;
        };
        encoder.write_all(chunk)?;
    }
    let out = encoder.finish()?;
    out.into_inner()
        .map(Some)
        .map_err(io::IntoInnerError::into_error)
}

/// Decodes the database of a v1 file into `database`; its size in bytes.
pub(super) fn unseal(path: &Path, database: &mut File, limits: Limits) -> Result<u64, Error> {
    let read = || Error::io("read", path);
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut magic = Vec::with_capacity(MAGIC_V1.len());
    (&mut file)
        .take(MAGIC_V1.len() as u64)
        .read_to_end(&mut magic)
        .map_err(read())?;
    if magic == MAGIC_V3 {
        return Err(Error::FormatV3);
    }
    if magic != MAGIC_V1 {
        return Err(Error::Magic {
            found: hexadecimal(&magic),
        });
    }
    let mut header = Vec::with_capacity(FRAME_HEADER);
    (&mut file)
        .take(FRAME_HEADER as u64)
        .read_to_end(&mut header)
        .map_err(read())?;
    if let Ok(Some(declared)) = zstd::zstd_safe::get_frame_content_size(&header)
        && declared > limits.decoded_bytes
    {
        return Err(Error::TooLarge {
            limit: limits.decoded_bytes,
            declared: Some(declared),
        });
    }
    let packed = file.metadata().map_err(read())?.len();
    let room = free(database).saturating_sub(RESERVE);
    let frame = |source| Error::Frame { source };
    let input = header.as_slice().chain(file);
    let mut decoder = zstd::stream::read::Decoder::new(input).map_err(frame)?;
    decoder.window_log_max(MAX_WINDOW_LOG).map_err(frame)?;
    let mut buffer = vec![0_u8; CHUNK];
    let mut size = 0_u64;
    loop {
        let count = decoder.read(&mut buffer).map_err(frame)?;
        let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else {
            break;
        };
        size += chunk.len() as u64;
        check_size(size, packed, room, limits)?;
        database
            .write_all(chunk)
            .map_err(Error::io("decode into the work folder", path))?;
    }
    check_header(path, database)?;
    Ok(size)
}

/// Whether so much may be decoded from a file of `packed` bytes into a folder with this room.
fn check_size(size: u64, packed: u64, room: u64, limits: Limits) -> Result<(), Error> {
    if size > limits.decoded_bytes {
        Err(Error::TooLarge {
            limit: limits.decoded_bytes,
            declared: None,
        })
    } else if size > packed.saturating_mul(MAX_RATIO).max(ANY_SIZE) {
        Err(Error::Bomb { packed })
    } else if size > room {
        Err(Error::NoRoom { room })
    } else {
        Ok(())
    }
}

/// What the file system of this file has room for; one that does not say counts as without limit.
fn free(file: &File) -> u64 {
    rustix::fs::fstatvfs(file).map_or(u64::MAX, |system| {
        system.f_bavail.saturating_mul(system.f_frsize)
    })
}

/// Refuses what is not a database, and takes a packed database out of write-ahead mode: it has no log beside it.
fn check_header(path: &Path, database: &mut File) -> Result<(), Error> {
    let work = || Error::io("decode into the work folder", path);
    let mut header = Vec::with_capacity(100);
    database.seek(SeekFrom::Start(0)).map_err(work())?;
    database
        .take(100)
        .read_to_end(&mut header)
        .map_err(work())?;
    if header.len() < 100 || !header.starts_with(SQLITE_MAGIC) {
        return Err(Error::NotDatabase);
    }
    if header.get(18..20) == Some(&[2, 2]) {
        database.seek(SeekFrom::Start(18)).map_err(work())?;
        database.write_all(&[1, 1]).map_err(work())?;
    }
    database.flush().map_err(work())
}

fn hexadecimal(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing".to_owned();
    }
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_does_not_fit_the_work_folder_is_refused() {
        let check = |size, packed, room| check_size(size, packed, room, Limits::default());
        assert!(check(1000, 100, 1000).is_ok());
        assert!(matches!(
            check(1001, 100, 1000),
            Err(Error::NoRoom { room: 1000 })
        ));
        assert!(check(ANY_SIZE, 1, u64::MAX).is_ok());
        assert!(matches!(
            check(ANY_SIZE + 1, 1, u64::MAX),
            Err(Error::Bomb { packed: 1 })
        ));
        assert!(check(1 << 30, 1 << 24, u64::MAX).is_ok());
        assert!(matches!(
            check((10 << 30) + 1, 1 << 30, u64::MAX),
            Err(Error::TooLarge { declared: None, .. })
        ));
    }

    #[test]
    fn the_folder_for_temporary_files_has_room_and_says_so() {
        let file = tempfile::tempfile().unwrap();
        assert!((1..u64::MAX).contains(&free(&file)));
    }
}
