//! Reading a v1 file, written by us or by anyone.
//!
//! The file may come from anybody, so SQLite is told to trust nothing in it, and only ordinary tables are read: no views,
//! no triggers, no computed columns. With the row number as the key of each page, the work follows the size of the file.
//!
//! The database is decoded into a nameless file of the work folder. Everything here blocks; asynchronous callers use
//! `spawn_blocking`.

use std::{collections::VecDeque, fmt, path::Path};

use jiff::Timestamp;
use prost::Message;
use rusqlite::{
    Connection, OpenFlags, Row,
    config::DbConfig,
    limits::Limit,
    params,
    types::{Value, ValueRef},
};

use super::{
    Counts, Error, Limits, envelope,
    schema::{REQUIRED, require},
    store::{decode, scratch, signed, unsigned},
    time_text,
};
use crate::{
    model,
    proto::{
        self,
        codec::{MOST_FIELDS, is_moderate},
        connector as v2,
    },
};

/// Rows fetched at once by a listing, and after how many bytes of them the page ends.
const PAGE: usize = 500;
const PAGE_BYTES: usize = 16 << 20;
/// Where the message of a row is, and its expansion data if it has any.
const BLOBS: [usize; 2] = [1, 2];
/// How many columns of a sync are read.
const SYNC_COLUMNS: usize = 11;
/// The longest value of a row, in bytes, and the longest statement of the schema.
const MAX_VALUE: i32 = 32 << 20;
const MAX_SCHEMA_TEXT: i32 = 64 << 10;
/// The most syncs of a file, and the most kinds of rows that are counted.
const MAX_SYNCS: usize = 10_000;
const MAX_KINDS: usize = 100_000;
/// The most bytes of their texts together.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// An open file.
pub struct Reader {
    connection: Connection,
    decoded_bytes: u64,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("decoded_bytes", &self.decoded_bytes)
            .finish_non_exhaustive()
    }
}

/// One sync of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncRun {
    /// The KSUID.
    pub sync_id: String,
    /// `full`, `resources_only`, `partial`, …
    pub sync_type: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended; `None` = unfinished.
    pub ended_at: Option<Timestamp>,
    /// The engine's state as JSON.
    pub token: String,
    /// The statistics as JSON, as stored.
    pub stats: Option<String>,
    /// Whether the file can be compared with another sync's.
    pub supports_diff: bool,
    /// The generation of the rules that were checked; empty = unchecked.
    pub invariant_generation: String,
    /// The checked rules as a JSON list; empty = unchecked.
    pub invariant_coverage: String,
    /// Who checked them; empty = unchecked.
    pub invariant_mode: String,
}

/// Which resources a listing gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ResourceFilter<'a> {
    /// All of them.
    All,
    /// Those of a type.
    Type(&'a str),
    /// The children of a resource.
    Parent(&'a v2::ResourceId),
}

/// Which grants a listing gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GrantFilter<'a> {
    /// All of them.
    All,
    /// Those whose entitlement belongs to a resource of this type.
    ResourceType(&'a str),
    /// Those whose entitlement belongs to this resource.
    Resource(&'a v2::ResourceId),
    /// Those of one entitlement.
    Entitlement(&'a str),
    /// Those held by a principal.
    Principal(&'a v2::ResourceId),
}

/// A grant with what the file keeps beside the blob.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredGrant {
    /// The grant, without its expansion data.
    pub grant: v2::Grant,
    /// From whom holders are inherited.
    pub expansion: Option<v2::GrantExpandable>,
    /// Whether the expansion is marked as wanted.
    pub needs_expansion: bool,
}

impl StoredGrant {
    /// The grant as the connector gave it, expansion data included.
    pub fn into_connector_grant(self) -> v2::Grant {
        let mut grant = self.grant;
        if let Some(expansion) = &self.expansion {
            grant.annotations.push(proto::pack(expansion));
        }
        grant
    }
}

impl Reader {
    /// Opens a v1 file; its database is decoded into a nameless file of `work_dir`.
    pub fn open(path: &Path, work_dir: &Path) -> Result<Self, Error> {
        Self::open_with(path, work_dir, Limits::default())
    }

    /// As [`Reader::open`], with other limits.
    pub fn open_with(path: &Path, work_dir: &Path, limits: Limits) -> Result<Self, Error> {
        let mut decoded_bytes = 0;
        let (connection, _file) = scratch(
            work_dir,
            |database| {
                decoded_bytes = envelope::unseal(path, database, limits)?;
                Ok(())
            },
            OpenFlags::SQLITE_OPEN_READ_ONLY,
        )?;
        harden(&connection).map_err(Error::database("be set up"))?;
        for table in REQUIRED {
            require(&connection, table)?;
            if !is_ordinary(&connection, table).map_err(Error::database("list its columns"))? {
                return Err(Error::OddTable { table });
            }
        }
        Ok(Self {
            connection,
            decoded_bytes,
        })
    }

    /// The size of the decoded database.
    pub fn decoded_bytes(&self) -> u64 {
        self.decoded_bytes
    }

    /// All syncs of the file, in the order in which they began.
    pub fn syncs(&self) -> Result<Vec<SyncRun>, Error> {
        let read = || Error::database("list the syncs");
        let mut select = self
            .connection
            .prepare_cached(
                "select id, sync_id, sync_type, started_at, ended_at, sync_token, stats, supports_diff,
                        ingest_invariant_generation, ingest_invariant_coverage, ingest_invariant_mode
                 from v1_sync_runs order by id",
            )
            .map_err(read())?;
        let mut rows = select.query([]).map_err(read())?;
        let mut syncs = Vec::new();
        let mut bytes = 0;
        while let Some(row) = rows.next().map_err(read())? {
            if syncs.len() == MAX_SYNCS {
                return Err(Error::TooMany {
                    what: "syncs",
                    limit: MAX_SYNCS,
                });
            }
            bytes += (0..SYNC_COLUMNS).map(|at| length(row, at)).sum::<usize>();
            check_texts("bytes in the texts of its syncs", bytes)?;
            let started: String = row.get(3).map_err(read())?;
            let ended: Option<String> = row.get(4).map_err(read())?;
            let id: i64 = row.get(0).map_err(read())?;
            let instant = |text: &str, column| {
                time_text::parse(text).ok_or(Error::Column {
                    table: "v1_sync_runs",
                    column,
                    row: id,
                })
            };
            syncs.push(SyncRun {
                sync_id: row.get(1).map_err(read())?,
                sync_type: row.get(2).map_err(read())?,
                started_at: instant(&started, "started_at")?,
                ended_at: ended.map(|ended| instant(&ended, "ended_at")).transpose()?,
                token: row.get(5).map_err(read())?,
                stats: row.get(6).map_err(read())?,
                supports_diff: row.get(7).map_err(read())?,
                invariant_generation: row.get(8).map_err(read())?,
                invariant_coverage: row.get(9).map_err(read())?,
                invariant_mode: row.get(10).map_err(read())?,
            });
        }
        Ok(syncs)
    }

    /// The newest finished sync of any type.
    pub fn latest_sync(&self) -> Result<SyncRun, Error> {
        self.syncs()?
            .into_iter()
            .filter(|sync| sync.ended_at.is_some())
            .max_by(|a, b| (a.ended_at, &a.sync_id).cmp(&(b.ended_at, &b.sync_id)))
            .ok_or(Error::NoFinishedSync)
    }

    /// The rows of a sync, counted now; the stored statistics are not consulted.
    pub fn stats(&self, sync_id: &str) -> Result<Counts, Error> {
        let read = || Error::database("count rows");
        let by_type = |sql: &str| -> Result<std::collections::BTreeMap<String, u64>, Error> {
            let mut select = self.connection.prepare_cached(sql).map_err(read())?;
            let rows = select
                .query_map([sync_id], |row| Ok((row.get(0)?, unsigned(row.get(1)?))))
                .map_err(read())?;
            let mut counts = std::collections::BTreeMap::new();
            let mut bytes = 0;
            for row in rows {
                let (kind, count): (String, u64) = row.map_err(read())?;
                bytes += kind.len();
                check_texts("bytes in the names of its resource types", bytes)?;
                counts.insert(kind, count);
                if counts.len() > MAX_KINDS {
                    return Err(Error::TooMany {
                        what: "resource types",
                        limit: MAX_KINDS,
                    });
                }
            }
            Ok(counts)
        };
        let mut resources =
            by_type("select external_id, 0 from v1_resource_types where sync_id = ?1")?;
        let resource_types = resources.len() as u64;
        resources.extend(by_type(
            "select resource_type_id, count(*) from v1_resources where sync_id = ?1 group by 1",
        )?);
        Ok(Counts {
            resource_types,
            resources,
            entitlements: by_type(
                "select resource_type_id, count(*) from v1_entitlements where sync_id = ?1 group by 1",
            )?,
            grants: by_type(
                "select resource_type_id, count(*) from v1_grants where sync_id = ?1 group by 1",
            )?,
        })
    }

    /// The resource types of a sync.
    pub fn resource_types(&self, sync_id: &str) -> Rows<'_, v2::ResourceType> {
        self.rows(
            "select id, data from v1_resource_types where sync_id = ?1",
            vec![text(sync_id)],
            |row, id| blob("v1_resource_types", row, id),
        )
    }

    /// Resources of a sync, in the order of arrival.
    pub fn resources(&self, sync_id: &str, filter: ResourceFilter<'_>) -> Rows<'_, v2::Resource> {
        let (condition, mut parameters) = match filter {
            ResourceFilter::All => ("", Vec::new()),
            ResourceFilter::Type(id) => (" and resource_type_id = ?2", vec![text(id)]),
            ResourceFilter::Parent(id) => (
                " and parent_resource_type_id = ?2 and parent_resource_id = ?3",
                vec![text(&id.resource_type), text(&id.resource)],
            ),
        };
        parameters.insert(0, text(sync_id));
        self.rows(
            &format!("select id, data from v1_resources where sync_id = ?1{condition}"),
            parameters,
            |row, id| blob("v1_resources", row, id),
        )
    }

    /// Entitlements of a sync, of all resources or of one.
    pub fn entitlements(
        &self,
        sync_id: &str,
        resource: Option<&v2::ResourceId>,
    ) -> Rows<'_, v2::Entitlement> {
        let (condition, mut parameters) = match resource {
            None => ("", Vec::new()),
            Some(id) => (
                " and resource_type_id = ?2 and resource_id = ?3",
                vec![text(&id.resource_type), text(&id.resource)],
            ),
        };
        parameters.insert(0, text(sync_id));
        self.rows(
            &format!("select id, data from v1_entitlements where sync_id = ?1{condition}"),
            parameters,
            |row, id| blob("v1_entitlements", row, id),
        )
    }

    /// Grants of a sync.
    pub fn grants(&self, sync_id: &str, filter: GrantFilter<'_>) -> Rows<'_, StoredGrant> {
        let pair = |id: &v2::ResourceId| vec![text(&id.resource_type), text(&id.resource)];
        let (condition, mut parameters) = match filter {
            GrantFilter::All => ("", Vec::new()),
            GrantFilter::ResourceType(id) => (" and resource_type_id = ?2", vec![text(id)]),
            GrantFilter::Resource(id) => {
                (" and resource_type_id = ?2 and resource_id = ?3", pair(id))
            }
            GrantFilter::Entitlement(id) => (" and entitlement_id = ?2", vec![text(id)]),
            GrantFilter::Principal(id) => (
                " and principal_resource_type_id = ?2 and principal_resource_id = ?3",
                pair(id),
            ),
        };
        parameters.insert(0, text(sync_id));
        self.rows(
            &format!(
                "select id, data, expansion, needs_expansion from v1_grants where sync_id = ?1{condition}"
            ),
            parameters,
            grant,
        )
    }

    /// A resource by id.
    pub fn resource(
        &self,
        sync_id: &str,
        id: &v2::ResourceId,
    ) -> Result<Option<v2::Resource>, Error> {
        self.point("v1_resources", sync_id, &model::resource_text(id))
    }

    /// An entitlement by id.
    pub fn entitlement(&self, sync_id: &str, id: &str) -> Result<Option<v2::Entitlement>, Error> {
        self.point("v1_entitlements", sync_id, id)
    }

    /// A grant by id.
    pub fn grant(&self, sync_id: &str, id: &str) -> Result<Option<StoredGrant>, Error> {
        let mut rows = self.rows(
            "select id, data, expansion, needs_expansion from v1_grants
             where sync_id = ?1 and external_id = ?2",
            vec![text(sync_id), text(id)],
            grant,
        );
        rows.next().transpose()
    }

    fn point<M: Message + Default>(
        &self,
        table: &'static str,
        sync_id: &str,
        id: &str,
    ) -> Result<Option<M>, Error> {
        let read = || Error::database("look up a row");
        let mut select = self
            .connection
            .prepare_cached(&format!(
                "select id, data from {table} where external_id = ?1 and sync_id = ?2"
            ))
            .map_err(read())?;
        let mut rows = select.query(params![id, sync_id]).map_err(read())?;
        let Some(row) = rows.next().map_err(read())? else {
            return Ok(None);
        };
        let id = row.get(0).map_err(read())?;
        blob(table, row, id).map(Some)
    }

    fn rows<M>(&self, sql: &str, parameters: Vec<Value>, read: ReadRow<M>) -> Rows<'_, M> {
        let position = parameters.len() + 1;
        Rows {
            reader: self,
            sql: format!(
                "{sql} and id > ?{position} order by id limit ?{}",
                position + 1
            ),
            parameters,
            read,
            after: i64::MIN,
            buffer: VecDeque::new(),
            is_done: false,
        }
    }
}

/// Takes from a database what it could do beside holding rows.
fn harden(connection: &Connection) -> rusqlite::Result<()> {
    for (setting, value) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
    ] {
        connection.set_db_config(setting, value)?;
    }
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_SCHEMA_TEXT),
        (Limit::SQLITE_LIMIT_COLUMN, 128),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 50),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 2),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, value)?;
    }
    connection.execute_batch(
        "pragma cell_size_check = on; pragma mmap_size = 0; pragma query_only = on;
         pragma cache_size = -4096; pragma temp_store = file;",
    )
}

/// Whether a table holds its rows itself, under row numbers that are called `id`. Asked of what SQLite understood, not of
/// the list of tables, in which anything can be written.
fn is_ordinary(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    let tables = connection.query_row(
        "select count(*) from pragma_table_list where schema = 'main' and name = ?1 and type = 'table' and wr = 0",
        [table],
        |row| row.get::<_, i64>(0),
    )?;
    let (keys, computed) = connection.query_row(
        "select count(*) filter (where name = 'id' and upper(type) = 'INTEGER' and pk = 1),
                count(*) filter (where hidden <> 0 or pk > 1)
         from pragma_table_xinfo(?1)",
        [table],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
    )?;
    Ok(tables == 1 && keys == 1 && computed == 0)
}

type ReadRow<M> = fn(&Row<'_>, i64) -> Result<M, Error>;

/// A listing that fetches page after page; it ends after the first error.
pub struct Rows<'a, M> {
    reader: &'a Reader,
    sql: String,
    parameters: Vec<Value>,
    read: ReadRow<M>,
    after: i64,
    buffer: VecDeque<M>,
    is_done: bool,
}

impl<M> fmt::Debug for Rows<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").finish_non_exhaustive()
    }
}

impl<M> Rows<'_, M> {
    fn fetch(&mut self) -> Result<(), Error> {
        let read = || Error::database("read rows");
        let mut select = self
            .reader
            .connection
            .prepare_cached(&self.sql)
            .map_err(read())?;
        let cursor = [Value::Integer(self.after), Value::Integer(signed(PAGE))];
        let mut rows = select
            .query(rusqlite::params_from_iter(
                self.parameters.iter().chain(&cursor),
            ))
            .map_err(read())?;
        let (mut count, mut bytes) = (0, 0);
        while let Some(row) = rows.next().map_err(read())? {
            let id: i64 = row.get(0).map_err(read())?;
            self.buffer.push_back((self.read)(row, id)?);
            self.after = id;
            count += 1;
            bytes += BLOBS.map(|at| length(row, at)).iter().sum::<usize>();
            if bytes > PAGE_BYTES {
                return Ok(());
            }
        }
        self.is_done = count < PAGE;
        Ok(())
    }
}

impl<M> Iterator for Rows<'_, M> {
    type Item = Result<M, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.buffer.is_empty()
            && !self.is_done
            && let Err(error) = self.fetch()
        {
            self.is_done = true;
            self.buffer.clear();
            return Some(Err(error));
        }
        self.buffer.pop_front().map(Ok)
    }
}

/// The bytes of a text or a blob; everything else, a column that there is not included, counts nothing.
fn length(row: &Row<'_>, at: usize) -> usize {
    match row.get_ref(at) {
        Ok(ValueRef::Text(bytes) | ValueRef::Blob(bytes)) => bytes.len(),
        _ => 0,
    }
}

fn check_texts(what: &'static str, bytes: usize) -> Result<(), Error> {
    if bytes > MAX_TEXT_BYTES {
        return Err(Error::TooMany {
            what,
            limit: MAX_TEXT_BYTES,
        });
    }
    Ok(())
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

fn blob<M: Message + Default>(table: &'static str, row: &Row<'_>, id: i64) -> Result<M, Error> {
    let bytes = row
        .get_ref(1)
        .ok()
        .and_then(|value| value.as_blob().ok())
        .ok_or(Error::Column {
            table,
            column: "data",
            row: id,
        })?;
    moderate(table, id, bytes)
}

/// Decodes a message, unless it would be far larger in memory than on the disk.
fn moderate<M: Message + Default>(table: &'static str, id: i64, bytes: &[u8]) -> Result<M, Error> {
    if is_moderate(bytes) {
        decode(table, id, bytes)
    } else {
        Err(Error::TooMany {
            what: "fields in one row",
            limit: usize::try_from(MOST_FIELDS).unwrap_or(usize::MAX),
        })
    }
}

fn grant(row: &Row<'_>, id: i64) -> Result<StoredGrant, Error> {
    let column = |column| Error::Column {
        table: "v1_grants",
        column,
        row: id,
    };
    let expansion: Option<Vec<u8>> = row.get(2).map_err(|_mistyped| column("expansion"))?;
    Ok(StoredGrant {
        grant: blob("v1_grants", row, id)?,
        expansion: expansion
            .filter(|bytes| !bytes.is_empty())
            .map(|bytes| moderate("v1_grants", id, &bytes))
            .transpose()?,
        needs_expansion: row.get(3).map_err(|_mistyped| column("needs_expansion"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::c1z::{Finish, Store, SyncStart};

    #[test]
    fn a_page_ends_by_the_bytes_of_messages_and_expansions_together() {
        const MEBIBYTE: usize = 1 << 20;
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let start = SyncStart {
            sync_id: "2ABCDEFGHIJKLMNOPQRSTUVWXYZ".to_owned(),
            sync_type: "full".to_owned(),
            started_at: now,
        };
        let id = |kind: &str, resource: String| v2::ResourceId {
            resource_type: kind.to_owned(),
            resource,
            ..v2::ResourceId::default()
        };
        let resource = |id| v2::Resource {
            id: Some(id),
            ..v2::Resource::default()
        };
        let expansion = v2::GrantExpandable {
            entitlement_ids: vec!["x".repeat(MEBIBYTE)],
            ..v2::GrantExpandable::default()
        };
        let grants: Vec<_> = (0..40)
            .map(|number: u32| v2::Grant {
                id: number.to_string(),
                entitlement: Some(v2::Entitlement {
                    id: "member".to_owned(),
                    resource: Some(resource(id("group", "g".to_owned()))),
                    ..v2::Entitlement::default()
                }),
                principal: Some(resource(id("user", number.to_string()))),
                annotations: vec![proto::pack(&expansion)],
                ..v2::Grant::default()
            })
            .collect();
        let cancel = tokio_util::sync::CancellationToken::new();
        let mut store = Store::create(folder.path(), &start, cancel).unwrap();
        assert_eq!(store.put_grants(grants, now).unwrap().expandable, 40);
        let finish = Finish {
            ended_at: now,
            token: String::new(),
            supports_diff: true,
            invariants: None,
            step_durations_ms: std::collections::BTreeMap::default(),
        };
        store.finish(&finish, true).unwrap();
        let path = folder.path().join("sync.c1z");
        store.seal(&path).unwrap();

        let reader = Reader::open(&path, folder.path()).unwrap();
        let mut rows = reader.grants(&start.sync_id, GrantFilter::All);
        let mut count = 0;
        while let Some(row) = rows.next() {
            assert!(row.unwrap().expansion.is_some());
            count += 1;
            let most = PAGE_BYTES / MEBIBYTE;
            assert!(rows.buffer.len() < most, "{} rows", rows.buffer.len());
        }
        assert_eq!(count, 40);
    }
}
