//! The `.c1z` file, format v1: five magic bytes and one zstd frame holding a SQLite database.
//!
//! Owns the schema, the contents of every column, and the envelope. Knows nothing of connectors and of the order in
//! which a sync reads them.
//!
//! Invariants of a written file: one sync; one row per `(entitlement, principal)`; blobs that always hold the ids that
//! their columns show; expansion data in its own column and never in the blob; all data in the main database file,
//! no write-ahead log. The working database either has no name in the file system once it is open, so that nothing is
//! left behind however the process ends, or is kept on purpose, so that the sync can go on after the process ended.

use std::{io, path::PathBuf};

use crate::error::{Class, Classify, Code};

mod envelope;
mod kept;
mod reader;
mod schema;
mod store;
mod time_text;
mod writer;

pub use envelope::{Limits, MAGIC_V1, MAGIC_V3};
pub use kept::{Forgotten, Unfinished};
pub use reader::{GrantFilter, Reader, ResourceFilter, Rows, StoredGrant, SyncRun};
pub use store::{
    Counts, Expandable, Finish, GrantOutcome, InvariantMarker, PrincipalCursor, SyncStart,
};
pub use store::{Store, StoredRow};
pub use writer::{Sealed, Writer};

/// What goes wrong with a file or with the working database behind it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The work was stopped on purpose.
    #[error("the work on the file was cancelled")]
    Cancelled,
    /// The file system refused something.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was being done, as a verb phrase.
        what: &'static str,
        /// The file or folder concerned.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The database refused something.
    #[error("the database cannot {what}")]
    Database {
        /// What was being done, as a verb phrase.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
        /// Whether the cause is the disk or the memory, not the data.
        transient: bool,
    },
    /// The file does not begin with the magic bytes of a c1z file.
    #[error("not a c1z file: it begins with {found}, not with the bytes 43 31 5a 46 00")]
    Magic {
        /// The first bytes in hexadecimal, or `nothing`.
        found: String,
    },
    /// The file has format v3, which this reader does not know.
    #[error("the file has c1z format v3 (Pebble); this reader knows format v1 (SQLite) only")]
    FormatV3,
    /// The compressed part cannot be read.
    #[error("the compressed part of the file cannot be read; it is damaged or cut short")]
    Frame {
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The decoded database would be larger than allowed.
    #[error("the decoded database is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
        /// What the frame itself declares, where it does.
        declared: Option<u64>,
    },
    /// A working database that was kept cannot be gone on with.
    #[error("the kept working database cannot be used: {problem}")]
    Unusable {
        /// What is wrong with it.
        problem: String,
    },
    /// The decoded database is so much larger than the file that it was made to be.
    #[error(
        "the file of {packed} bytes becomes more than 500 times as large, which no sync file does; it is not read further"
    )]
    Bomb {
        /// The size of the file in bytes.
        packed: u64,
    },
    /// The work folder has no room for the decoded database.
    #[error(
        "the decoded database is larger than the {room} bytes that are free in the work folder"
    )]
    NoRoom {
        /// What was free, without a reserve for others.
        room: u64,
    },
    /// What was decoded is not a SQLite database.
    #[error("the content of the file is not a SQLite database")]
    NotDatabase,
    /// The database lacks a table of the format.
    #[error("the database has no table {table}")]
    MissingTable {
        /// Its name.
        table: &'static str,
    },
    /// A table of the format is a view, is computed, or has no row numbers.
    #[error(
        "table {table} of the database is not an ordinary one with the column id as its row number"
    )]
    OddTable {
        /// Its name.
        table: &'static str,
    },
    /// There is more of something than any sync has.
    #[error("the database has more than {limit} {what}; it is not read further")]
    TooMany {
        /// What there is too much of, in the plural.
        what: &'static str,
        /// The most that is read.
        limit: usize,
    },
    /// A column holds what the format does not allow.
    #[error("row {row} of {table}: column {column} cannot be read")]
    Column {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The rowid.
        row: i64,
    },
    /// A blob is not the message that it should be.
    #[error("row {row} of {table}: the blob is not a valid message")]
    Blob {
        /// The table.
        table: &'static str,
        /// The rowid.
        row: i64,
        /// The cause.
        #[source]
        source: prost::DecodeError,
    },
    /// The file holds no finished sync.
    #[error("the file holds no finished sync")]
    NoFinishedSync,
    /// A write failed before, and may have taken rows along that were not committed yet.
    #[error(
        "a write to the working database failed before this one; nothing more is written to it, so that it never says to \
         hold rows that it lost"
    )]
    InDoubt,
    /// The thread that owns the database ended early.
    #[error("the writer of the file stopped unexpectedly")]
    Stopped,
}

impl Error {
    fn database(what: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| {
            use rusqlite::ErrorCode as E;
            match source.sqlite_error_code() {
                Some(E::OperationInterrupted) => Self::Cancelled,
                code => Self::Database {
                    what,
                    transient: matches!(
                        code,
                        Some(
                            E::DiskFull
                                | E::SystemIoFailure
                                | E::OutOfMemory
                                | E::CannotOpen
                                | E::DatabaseBusy
                        )
                    ),
                    source: Box::new(source),
                },
            }
        }
    }

    fn io(what: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Cancelled => Class::Cancelled,
            Self::Io { .. }
            | Self::Database {
                transient: true, ..
            }
            | Self::NoRoom { .. }
            | Self::InDoubt
            | Self::Stopped => Class::Retryable,
            Self::NoFinishedSync => Class::NotFound,
            Self::Database { .. }
            | Self::Magic { .. }
            | Self::FormatV3
            | Self::Frame { .. }
            | Self::TooLarge { .. }
            | Self::Bomb { .. }
            | Self::NotDatabase
            | Self::Unusable { .. }
            | Self::MissingTable { .. }
            | Self::OddTable { .. }
            | Self::TooMany { .. }
            | Self::Column { .. }
            | Self::Blob { .. } => Class::Permanent,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Cancelled => Code::Cancelled,
            Self::Io { .. } | Self::Database { .. } | Self::InDoubt | Self::Stopped => {
                Code::Internal
            }
            Self::NoFinishedSync => Code::NotFound,
            Self::FormatV3 => Code::Unimplemented,
            Self::TooLarge { .. }
            | Self::Bomb { .. }
            | Self::NoRoom { .. }
            | Self::TooMany { .. } => Code::ResourceExhausted,
            Self::Magic { .. } => Code::InvalidArgument,
            Self::Frame { .. }
            | Self::NotDatabase
            | Self::Unusable { .. }
            | Self::MissingTable { .. }
            | Self::OddTable { .. }
            | Self::Column { .. }
            | Self::Blob { .. } => Code::DataLoss,
        }
    }
}
