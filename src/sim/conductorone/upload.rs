//! What arrives through `UploadAsset`: received with bounded memory, and opened with plain zstd and SQLite.
//!
//! The inspection knows the published layout of a v1 file only; it never uses the connector's own reader, so that an
//! error made twice on our side does not cancel out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use anyhow::{Context as _, ensure};
use rusqlite::{Connection, OpenFlags};

use crate::proto::baton::task::SyncFullTask;

mod rows;
mod schema;

/// The first five bytes of a v1 file.
const MAGIC: &[u8; 5] = b"C1ZF\0";
/// The most bytes that readers unpack.
const MAX_DATABASE: u64 = 10 * 1024 * 1024 * 1024;
/// The largest window that readers accept, as a power of two.
const MAX_WINDOW_LOG: u32 = 27;
/// What an uploaded file holds, as counted by the simulator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Size of the unpacked database.
    pub database_bytes: u64,
    /// Rows by table.
    pub rows: BTreeMap<String, u64>,
    /// All indexes, by name.
    pub indexes: BTreeSet<String>,
    /// The id of the sync in the file.
    pub sync_id: String,
    /// `full`, `resources_only` or `partial`.
    pub sync_type: String,
    /// Rows by resource type.
    pub resources: BTreeMap<String, u64>,
    /// Rows by resource type of the entitlement's resource.
    pub entitlements: BTreeMap<String, u64>,
    /// Rows by resource type of the entitlement's resource.
    pub grants: BTreeMap<String, u64>,
}

/// Whether a file begins like a v1 file.
pub(super) fn has_magic(path: &Path) -> std::io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(5).read_to_end(&mut start)?;
    Ok(start == MAGIC)
}

/// Opens an uploaded file and checks envelope, schema and, `with_rows`, every row. Blocks.
///
/// The unpacked database stands beside the file while this runs.
pub(super) fn inspect(path: &Path, with_rows: bool) -> anyhow::Result<Summary> {
    let database =
        tempfile::NamedTempFile::new_in(path.parent().context("the file has no folder")?)
            .context("making room for the database")?;
    let database_bytes = unpack(path, database.as_file())?;
    let connection = Connection::open_with_flags(
        database.path(),
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .context("the unpacked file does not open as SQLite")?;
    let mut summary = schema::check(&connection)?;
    summary.database_bytes = database_bytes;
    if with_rows {
        rows::check(&connection)?;
    }
    Ok(summary)
}

/// Unpacks the one zstd frame after the magic bytes; answers with the unpacked size.
pub(super) fn unpack(path: &Path, mut target: &File) -> anyhow::Result<u64> {
    let mut file = File::open(path).context("the upload cannot be opened again")?;
    let mut magic = [0; 5];
    file.read_exact(&mut magic)
        .context("the file is shorter than its magic bytes")?;
    ensure!(
        &magic == MAGIC,
        "the file does not begin with the magic bytes C1ZF\\0 of a v1 file"
    );
    let mut start = Vec::new();
    (&file).take(18).read_to_end(&mut start)?;
    let declared = check_frame_header(&start)?;
    file.seek(SeekFrom::Start(MAGIC.len() as u64))?;
    let mut decoder = zstd::stream::read::Decoder::with_buffer(BufReader::new(file))
        .context("zstd cannot be started")?
        .single_frame();
    decoder.window_log_max(MAX_WINDOW_LOG)?;
    let mut buffer = vec![0; 128 * 1024];
    let mut total = 0;
    loop {
        let count = decoder
            .read(&mut buffer)
            .context("the content after the magic bytes is not a whole zstd frame")?;
        let Some(part) = buffer.get(..count).filter(|part| !part.is_empty()) else {
            break;
        };
        total += u64::try_from(count)?;
        ensure!(
            total <= MAX_DATABASE,
            "the database is larger than readers accept (10 GiB)"
        );
        target
            .write_all(part)
            .context("the database cannot be stored")?;
    }
    ensure!(
        total == declared,
        "the zstd frame declares {declared} bytes but holds {total}"
    );
    let mut rest = Vec::new();
    decoder.finish().take(1).read_to_end(&mut rest)?;
    ensure!(rest.is_empty(), "there is something behind the zstd frame");
    Ok(total)
}

/// What the header of the frame must say; answers with the declared size of the content.
fn check_frame_header(start: &[u8]) -> anyhow::Result<u64> {
    let descriptor = start
        .strip_prefix(&[0x28, 0xB5, 0x2F, 0xFD])
        .and_then(|rest| rest.first())
        .context("the content after the magic bytes is not a whole zstd frame")?;
    ensure!(
        descriptor & 0b100 != 0,
        "the zstd frame must carry a checksum"
    );
    zstd::zstd_safe::get_frame_content_size(start)
        .ok()
        .flatten()
        .context("the zstd frame must declare the size of its content")
}

/// Checks that a file is what its task asked for.
pub(super) fn check_answers(task: &SyncFullTask, summary: &Summary) -> anyhow::Result<()> {
    let expected = if !task.targeted_sync_resources.is_empty() {
        "partial"
    } else if task.skip_entitlements_and_grants {
        "resources_only"
    } else {
        "full"
    };
    ensure!(
        summary.sync_type == expected,
        "the sync type is {}, the task asked for {expected}",
        summary.sync_type
    );
    ensure!(
        summary.entitlements.is_empty() || !task.skip_entitlements_and_grants,
        "the file holds entitlements, the task asked for none"
    );
    ensure!(
        summary.grants.is_empty() || !(task.skip_grants || task.skip_entitlements_and_grants),
        "the file holds grants, the task asked for none"
    );
    let filter = &task.sync_resource_type_ids;
    if let Some(kind) = summary
        .resources
        .keys()
        .find(|kind| !filter.is_empty() && !filter.contains(kind))
    {
        anyhow::bail!("the file holds resources of type {kind}, which the task did not ask for");
    }
    Ok(())
}
