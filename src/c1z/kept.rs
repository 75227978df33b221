//! The working database that outlives the process, so that a sync can go on where it stopped.
//!
//! It has a name in its folder and a write-ahead log: a process that is killed leaves the last committed state, a machine
//! that goes down leaves an older one, and neither leaves a torn one. The row of the unfinished sync carries the
//! engine's checkpoint where a finished one has its final token. Never trusted as it is found: [`Store::reopen`] checks
//! the whole file and refuses what is not a sync of ours.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, params};
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    schema::{REQUIRED, require},
    store::{Store, SyncStart, prepare},
    time_text,
};
use crate::proto::connector as v2;

/// The name of the database in its folder; SQLite puts its log beside it.
const NAME: &str = "sync.db";
/// Pages of the log after which SQLite moves them into the database: 16 MiB.
const LOG_PAGES: u32 = 4096;

/// What a kept database says of its sync.
#[derive(Debug, Clone)]
pub struct Unfinished {
    /// The sync as it began.
    pub start: SyncStart,
    /// The last checkpoint, as the engine wrote it; empty where there is none.
    pub checkpoint: String,
    /// The sync has ended and only needs to be packed.
    pub has_ended: bool,
}

/// What of a table belongs to work that begins anew.
#[derive(Debug, Clone)]
pub enum Forgotten {
    /// The resources of these types; `None` = all.
    Resources(Option<Vec<String>>),
    /// The entitlements of resources of these types; `None` = all.
    Entitlements(Option<Vec<String>>),
    /// The grants on the entitlements of this resource; `None` = all.
    Grants(Option<v2::ResourceId>),
}

pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join(NAME)
}

/// Opens the file twice: once for SQLite, once for packing it later.
fn open(folder: &Path, path: &Path, is_new: bool) -> Result<(Connection, File), Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(is_new)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("create a working database in", path))?;
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(Error::database("be opened"))?;
    prepare(&connection, folder)?;
    Ok((connection, file))
}

/// What makes a database survive its process.
fn keep(connection: &Connection) -> Result<(), Error> {
    let setup = || Error::database("keep a log of its changes");
    connection
        .execute_batch(&format!(
            "pragma locking_mode = exclusive;
             pragma trusted_schema = off;
             pragma wal_autocheckpoint = {LOG_PAGES};
             pragma synchronous = normal;"
        ))
        .map_err(setup())?;
    let mode: String = connection
        .query_row("pragma journal_mode = wal", [], |row| row.get(0))
        .map_err(setup())?;
    if mode == "wal" {
        Ok(())
    } else {
        Err(unusable(format!("it keeps no log (mode {mode})")))
    }
}

fn unusable(problem: String) -> Error {
    Error::Unusable { problem }
}

/// Removes the database of a folder and its log.
pub(super) fn remove(folder: &Path) -> Result<(), Error> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let path = folder.join(format!("{NAME}{suffix}"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove the working database", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Store {
    /// As [`Store::create`], but the database keeps its name in `folder`, in place of one that is there.
    pub fn create_kept(
        folder: &Path,
        start: &SyncStart,
        cancel: CancellationToken,
    ) -> Result<Self, Error> {
        remove(folder)?;
        let path = path(folder);
        let (connection, file) = open(folder, &path, true)?;
        // The page size cannot change once there is a log.
        connection
            .execute_batch("pragma page_size = 4096; pragma encoding = 'UTF-8';")
            .map_err(Error::database("be set up"))?;
        keep(&connection)?;
        Self::over(connection, file, folder, start, cancel, Some(path))?.begun(start)
    }

    /// The unfinished sync that a folder holds; `None` where there is no database.
    ///
    /// Reads the whole file. An error says why the database cannot be used; it is still there then.
    pub fn reopen(
        folder: &Path,
        cancel: CancellationToken,
    ) -> Result<Option<(Self, Unfinished)>, Error> {
        let path = path(folder);
        if !path
            .try_exists()
            .map_err(Error::io("look for a working database in", folder))?
        {
            return Ok(None);
        }
        let (connection, file) = open(folder, &path, false)?;
        keep(&connection)?;
        let read = || Error::database("be read");
        let verdict: String = connection
            .query_row("pragma quick_check(1)", [], |row| row.get(0))
            .map_err(read())?;
        if verdict != "ok" {
            return Err(unusable(format!("its integrity check says: {verdict}")));
        }
        let strange: i64 = connection
            .query_row(
                "select count(*) from sqlite_master where type in ('trigger', 'view')",
                [],
                |row| row.get(0),
            )
            .map_err(read())?;
        if strange > 0 {
            return Err(unusable(format!(
                "it holds {strange} triggers or views, which this program never makes"
            )));
        }
        for table in REQUIRED {
            require(&connection, table)?;
        }
        let runs: i64 = connection
            .query_row("select count(*) from v1_sync_runs", [], |row| row.get(0))
            .map_err(read())?;
        if runs != 1 {
            return Err(unusable(format!("it holds {runs} syncs instead of one")));
        }
        let (start, checkpoint, has_ended) = connection
            .query_row(
                "select sync_id, sync_type, started_at, sync_token, ended_at is not null from v1_sync_runs",
                [],
                |row| {
                    let started_at: String = row.get(2)?;
                    Ok((
                        (row.get::<_, String>(0)?, row.get::<_, String>(1)?, started_at),
                        row.get::<_, String>(3)?,
                        row.get::<_, bool>(4)?,
                    ))
                },
            )
            .map_err(read())?;
        let (sync_id, sync_type, started_at) = start;
        let started_at = time_text::parse(&started_at).ok_or_else(|| {
            unusable("the time at which its sync began cannot be read".to_owned())
        })?;
        let start = SyncStart {
            sync_id,
            sync_type,
            started_at,
        };
        let store = Self::over(connection, file, folder, &start, cancel, Some(path))?;
        let unfinished = Unfinished {
            start,
            checkpoint,
            has_ended,
        };
        Ok(Some((store, unfinished)))
    }

    /// Commits everything so far together with the state of the engine.
    ///
    /// It is on the disk when the system writes it there; the process may be killed at any moment. Refused once a write
    /// failed, so that what is kept is the state before that write.
    pub fn checkpoint(&mut self, state: &str) -> Result<(), Error> {
        self.begin()?;
        self.connection
            .prepare_cached(
                "update v1_sync_runs set sync_token = ?2 where sync_id = ?1 and ended_at is null",
            )
            .and_then(|mut update| update.execute(params![self.sync_id, state]))
            .map_err(Error::database("write a checkpoint"))?;
        self.commit_write()
    }

    /// Deletes rows that will be read again.
    pub fn forget(&mut self, what: &Forgotten) -> Result<(), Error> {
        self.begin()?;
        let of_types = |table: &str, types: &Option<Vec<String>>| match types {
            None => self
                .connection
                .execute_batch(&format!("delete from {table}")),
            Some(types) => types.iter().try_for_each(|type_id| {
                let delete = format!("delete from {table} where resource_type_id = ?1");
                self.connection.execute(&delete, [type_id]).map(drop)
            }),
        };
        match what {
            Forgotten::Resources(types) => of_types("v1_resources", types),
            Forgotten::Entitlements(types) => of_types("v1_entitlements", types),
            Forgotten::Grants(None) => of_types("v1_grants", &None),
            Forgotten::Grants(Some(id)) => self
                .connection
                .execute(
                    "delete from v1_grants where resource_type_id = ?1 and resource_id = ?2",
                    params![id.resource_type, id.resource],
                )
                .map(drop),
        }
        .map_err(Error::database("forget rows"))?;
        self.wrote(0)
    }

    /// A resource by its row.
    pub fn resource_at(&self, row: i64) -> Result<Option<v2::Resource>, Error> {
        Ok(self
            .rows(
                "select id, data from v1_resources where id = ?1",
                params![row],
                "v1_resources",
            )?
            .pop()
            .map(|row| row.message))
    }

    /// How many grants are stored.
    pub fn count_grants(&self) -> Result<u64, Error> {
        self.connection
            .query_row("select count(*) from v1_grants", [], |row| {
                row.get::<_, i64>(0)
            })
            .map(super::store::unsigned)
            .map_err(Error::database("count grants"))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn start() -> SyncStart {
        SyncStart {
            sync_id: "2ABCDEFGHIJKLMNOPQRSTUVWXYZ".to_owned(),
            sync_type: "full".to_owned(),
            started_at: Timestamp::from_second(1_790_000_000).unwrap(),
        }
    }

    fn group(name: &str) -> v2::Resource {
        v2::Resource {
            id: Some(v2::ResourceId {
                resource_type: "group".to_owned(),
                resource: name.to_owned(),
                ..v2::ResourceId::default()
            }),
            ..v2::Resource::default()
        }
    }

    fn kept(folder: &Path) -> Store {
        Store::create_kept(folder, &start(), CancellationToken::new()).unwrap()
    }

    fn reopened(folder: &Path) -> Result<Option<(Store, Unfinished)>, Error> {
        Store::reopen(folder, CancellationToken::new())
    }

    #[test]
    fn what_was_committed_is_found_again_and_what_was_not_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = kept(folder.path());
        let now = start().started_at;
        store.put_resources(&[group("a")], now).unwrap();
        store.checkpoint("{\"at\":1}").unwrap();
        store.put_resources(&[group("b")], now).unwrap();
        drop(store);
        let (store, found) = reopened(folder.path()).unwrap().unwrap();
        assert_eq!(found.checkpoint, "{\"at\":1}");
        assert!(!found.has_ended);
        assert_eq!(found.start.sync_id, start().sync_id);
        assert_eq!(found.start.started_at, start().started_at);
        assert_eq!(store.count_resources("group", i64::MAX).unwrap(), 1);
        assert!(store.resource_at(1).unwrap().is_some());
        assert!(store.resource_at(2).unwrap().is_none());
    }

    /// A store with one row and a checkpoint behind it.
    fn at_the_first_checkpoint(folder: &Path) -> (Store, Timestamp) {
        let mut store = kept(folder);
        let now = start().started_at;
        store.put_resources(&[group("a")], now).unwrap();
        store.checkpoint("{\"at\":1}").unwrap();
        (store, now)
    }

    /// Whether a store refuses all further writes, and what its folder holds is the first checkpoint with its one row.
    fn assert_refuses_and_keeps_the_first_checkpoint(mut store: Store, folder: &Path) {
        let now = start().started_at;
        let refused = [
            store.checkpoint("{\"at\":2}"),
            store.put_resources(&[group("c")], now),
            store.forget(&Forgotten::Resources(None)),
            store.checkpoint("{\"at\":3}"),
        ];
        for result in refused {
            assert!(matches!(result, Err(Error::InDoubt)), "{result:?}");
        }
        let finish = super::super::Finish {
            ended_at: now,
            token: String::new(),
            supports_diff: true,
            invariants: None,
            step_durations_ms: std::collections::BTreeMap::default(),
        };
        assert!(matches!(store.finish(&finish, true), Err(Error::InDoubt)));
        drop(store);
        let (store, found) = reopened(folder).unwrap().unwrap();
        assert_eq!(found.checkpoint, "{\"at\":1}");
        assert!(!found.has_ended);
        assert_eq!(store.count_resources("group", i64::MAX).unwrap(), 1);
    }

    #[test]
    fn no_checkpoint_follows_a_write_that_took_the_rows_before_it_along() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, now) = at_the_first_checkpoint(folder.path());
        // What SQLite does by itself when the disk is full, on an I/O error and on an interrupt.
        store
            .connection
            .execute_batch(
                "create temp trigger full before insert on main.v1_resources when new.external_id like '%b2%'
                 begin select raise(rollback, 'no room'); end",
            )
            .unwrap();
        store.put_resources(&[group("b1")], now).unwrap();
        store.put_resources(&[group("b2")], now).unwrap_err();
        assert!(store.connection.is_autocommit(), "rolled back");
        assert_refuses_and_keeps_the_first_checkpoint(store, folder.path());
    }

    #[test]
    fn no_checkpoint_follows_a_write_for_which_there_was_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, now) = at_the_first_checkpoint(folder.path());
        store
            .connection
            .query_row("pragma max_page_count = 1", [], |_row| Ok(()))
            .unwrap();
        let many: Vec<_> = (0..2000).map(|number| group(&number.to_string())).collect();
        let error = store.put_resources(&many, now).unwrap_err();
        assert!(
            matches!(error, Error::Database { transient, .. } if transient),
            "{error:?}"
        );
        assert_refuses_and_keeps_the_first_checkpoint(store, folder.path());
    }

    #[test]
    fn no_checkpoint_follows_a_commit_that_failed() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, now) = at_the_first_checkpoint(folder.path());
        store.put_resources(&[group("b")], now).unwrap();
        store.connection.execute_batch("rollback").unwrap();
        let many: Vec<_> = (0..9000).map(|_| v2::Resource::default()).collect();
        store.put_resources(&many, now).unwrap_err();
        assert_refuses_and_keeps_the_first_checkpoint(store, folder.path());
    }

    #[test]
    fn a_folder_without_database_holds_no_sync() {
        let folder = tempfile::tempdir().unwrap();
        assert!(reopened(folder.path()).unwrap().is_none());
    }

    #[test]
    fn the_files_of_a_kept_database_are_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let mut store = kept(folder.path());
        store.checkpoint("{}").unwrap();
        let mut count = 0;
        for entry in fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", entry.path().display());
            count += 1;
        }
        assert_eq!(count, 2, "database and log");
    }

    #[test]
    fn a_damaged_database_is_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = kept(folder.path());
        let now = start().started_at;
        let many: Vec<_> = (0..2000).map(|number| group(&number.to_string())).collect();
        store.put_resources(&many, now).unwrap();
        store.checkpoint("{}").unwrap();
        store
            .connection
            .query_row("pragma wal_checkpoint(truncate)", [], |_row| Ok(()))
            .unwrap();
        drop(store);
        let path = path(folder.path());
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2 / 4096 * 4096;
        bytes[middle..middle + 4096].fill(0x5a);
        fs::write(&path, bytes).unwrap();
        let error = reopened(folder.path()).unwrap_err();
        assert!(
            matches!(error, Error::Unusable { .. } | Error::Database { .. }),
            "{error:?}"
        );
    }

    #[test]
    fn a_database_that_is_not_ours_is_refused() {
        type Spoil = fn(&Connection);
        let spoils: [(&str, Spoil); 4] = [
            ("triggers", |db| {
                db.execute_batch("create view v as select 1").unwrap();
            }),
            ("2 syncs", |db| {
                db.execute_batch(
                    "insert into v1_sync_runs (sync_id, started_at, sync_token) values ('x', 'y', '')",
                )
                .unwrap();
            }),
            ("v1_grants", |db| {
                db.execute_batch("drop table v1_grants").unwrap();
            }),
            ("time", |db| {
                db.execute_batch("update v1_sync_runs set started_at = 'soon'")
                    .unwrap();
            }),
        ];
        for (expected, spoil) in spoils {
            let folder = tempfile::tempdir().unwrap();
            let store = kept(folder.path());
            spoil(&store.connection);
            drop(store);
            let error = reopened(folder.path()).unwrap_err();
            assert!(crate::error::chain(&error).contains(expected), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            path(folder.path()),
            "no database at all, but long enough to be looked at",
        )
        .unwrap();
        reopened(folder.path()).unwrap_err();
    }

    #[test]
    fn a_kept_database_seals_like_any_other_and_leaves_only_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = kept(folder.path());
        let now = start().started_at;
        store.put_resources(&[group("a"), group("b")], now).unwrap();
        store.checkpoint("{}").unwrap();
        store
            .forget(&Forgotten::Resources(Some(vec!["group".to_owned()])))
            .unwrap();
        store.put_resources(&[group("c")], now).unwrap();
        let finish = super::super::Finish {
            ended_at: now,
            token: "{\"version\":1}".to_owned(),
            supports_diff: true,
            invariants: None,
            step_durations_ms: std::collections::BTreeMap::default(),
        };
        store.finish(&finish, true).unwrap();
        drop(store);
        let (store, found) = reopened(folder.path()).unwrap().unwrap();
        assert!(found.has_ended);
        let target = folder.path().join("sync.c1z");
        store.seal(&target).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["sync.c1z"]);
        let reader = super::super::Reader::open(&target, folder.path()).unwrap();
        assert_eq!(reader.latest_sync().unwrap().token, "{\"version\":1}");
    }
}
