//! The working database of one sync: what is written, and what the engine reads back while it runs.
//!
//! Synchronous and single-owner; [`Writer`](super::Writer) runs it on a thread of its own. Memory is bounded by the
//! page cache and by the batch in hand, never by the tenant. Without a name in the file system there is no journal and
//! nothing is flushed until the seal: such a database is thrown away whole when it is interrupted. The one that is kept
//! is that of [`kept`](super::kept).

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use prost::Message;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    Error, envelope,
    schema::{EARLY, LATE, TABLES},
    time_text,
};
use crate::{
    model,
    proto::{self, connector as v2},
};

/// The page cache in KiB.
const CACHE_KIB: i64 = 8 * 1024;
/// How many rows share one transaction.
const ROWS_PER_TRANSACTION: usize = 8192;

/// What is known of a sync when it begins.
#[derive(Debug, Clone)]
pub struct SyncStart {
    /// The KSUID of the sync.
    pub sync_id: String,
    /// `full`, `resources_only` or `partial`.
    pub sync_type: String,
    /// When it began.
    pub started_at: Timestamp,
}

/// The record that the data was checked, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvariantMarker {
    /// The generation of the rules.
    pub generation: String,
    /// The ids of the rules that were checked.
    pub coverage: Vec<String>,
    /// Who checked.
    pub mode: String,
}

/// What is known of a sync when it ends.
#[derive(Debug, Clone)]
pub struct Finish {
    /// When it ended.
    pub ended_at: Timestamp,
    /// The final state of the engine as JSON.
    pub token: String,
    /// Whether the file can be compared with another sync's.
    pub supports_diff: bool,
    /// Set only when the checks were really made.
    pub invariants: Option<InvariantMarker>,
    /// Wall time by step in milliseconds, for the statistics.
    pub step_durations_ms: BTreeMap<String, u64>,
}

/// Rows of a finished sync.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many resource types there are.
    pub resource_types: u64,
    /// Resources by type; a type without resources counts 0.
    pub resources: BTreeMap<String, u64>,
    /// Entitlements by the type of their resource.
    pub entitlements: BTreeMap<String, u64>,
    /// Grants by the type of the entitlement's resource.
    pub grants: BTreeMap<String, u64>,
}

/// A message and its rowid, which is also the cursor of a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRow<M> {
    /// The rowid.
    pub row: i64,
    /// The decoded message.
    pub message: M,
}

/// What became of a batch of grants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantOutcome {
    /// Rows written, new or replaced.
    pub stored: u64,
    /// Second grants for a pair of entitlement and principal that has one already; the first is kept.
    pub duplicate_pairs: u64,
    /// Grants whose id is taken by another pair; the first is kept.
    pub taken_ids: u64,
    /// Grants without the ids that every row needs.
    pub incomplete: u64,
    /// Grants with expansion data.
    pub expandable: u64,
}

impl GrantOutcome {
    /// Adds another outcome to this one.
    pub fn add(&mut self, other: Self) {
        self.stored += other.stored;
        self.duplicate_pairs += other.duplicate_pairs;
        self.taken_ids += other.taken_ids;
        self.incomplete += other.incomplete;
        self.expandable += other.expandable;
    }
}

/// A grant that passes on to others, reduced to what the graph needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Expandable {
    /// The rowid.
    pub row: i64,
    /// The entitlement that is passed on.
    pub entitlement_id: String,
    /// Who holds it.
    pub principal: v2::ResourceId,
    /// From whom, and how.
    pub expansion: v2::GrantExpandable,
}

/// Where a listing of the grants of one entitlement stands: type and id of the last principal.
pub type PrincipalCursor = (String, String);

/// The working database of one sync.
pub struct Store {
    pub(super) connection: Connection,
    /// The same file, for packing it: the name may be gone.
    file: File,
    folder: PathBuf,
    pub(super) sync_id: String,
    /// The name of a database that outlives the process.
    kept: Option<PathBuf>,
    cancel: CancellationToken,
    /// Rows since the transaction began; `None` outside one.
    open_rows: Option<usize>,
    /// A write is under way or failed. One that fails, or is interrupted, can take the whole transaction with it.
    in_doubt: bool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("sync_id", &self.sync_id)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Creates the working database in `folder` and begins its only sync.
    pub fn create(
        folder: &Path,
        start: &SyncStart,
        cancel: CancellationToken,
    ) -> Result<Self, Error> {
        let (connection, file) = scratch(folder, |_| Ok(()), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection
            .execute_batch(
                "pragma page_size = 4096;
                 pragma encoding = 'UTF-8';
                 pragma journal_mode = off;
                 pragma locking_mode = exclusive;
                 pragma synchronous = off;",
            )
            .map_err(Error::database("be set up"))?;
        Self::over(connection, file, folder, start, cancel, None)?.begun(start)
    }

    /// Makes the tables and begins the sync.
    pub(super) fn begun(self, start: &SyncStart) -> Result<Self, Error> {
        let ddl: Vec<String> = TABLES
            .iter()
            .map(|&table| table.to_owned())
            .chain(EARLY.iter().map(super::schema::Index::ddl))
            .collect();
        // All or nothing: what is kept and has no sync would be of no use.
        self.connection
            .execute_batch(&format!("begin; {};", ddl.join(";\n")))
            .map_err(Error::database("be set up"))?;
        self.connection
            .execute(
                "insert into v1_sync_runs (sync_id, started_at, sync_token, sync_type, grants_backfilled)
                 values (?1, ?2, '', ?3, 1)",
                params![
                    start.sync_id,
                    time_text::format(start.started_at),
                    start.sync_type
                ],
            )
            .map_err(Error::database("begin a sync"))?;
        self.connection
            .execute_batch("commit")
            .map_err(Error::database("be set up"))?;
        Ok(self)
    }

    /// A store over a database that is open and [prepared](prepare).
    pub(super) fn over(
        connection: Connection,
        file: File,
        folder: &Path,
        start: &SyncStart,
        cancel: CancellationToken,
        kept: Option<PathBuf>,
    ) -> Result<Self, Error> {
        connection
            .execute_batch(&format!(
                "pragma temp_store = file; pragma cache_size = -{CACHE_KIB};"
            ))
            .map_err(Error::database("be set up"))?;
        Ok(Self {
            connection,
            file,
            folder: folder.to_owned(),
            sync_id: start.sync_id.clone(),
            cancel,
            open_rows: None,
            in_doubt: false,
            kept,
        })
    }

    /// A handle that ends the running statement from another thread.
    pub(super) fn interrupt_handle(&self) -> rusqlite::InterruptHandle {
        self.connection.get_interrupt_handle()
    }

    fn check_cancelled(&self) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }

    /// After a write that failed there is none any more: rows before it may be gone, and a checkpoint must not say that
    /// they are there.
    fn check_whole(&self) -> Result<(), Error> {
        if self.in_doubt {
            Err(Error::InDoubt)
        } else {
            Ok(())
        }
    }

    /// Begins a write. It ends with [`Store::wrote`] or [`Store::commit_write`]; one that does not failed, and is the last.
    pub(super) fn begin(&mut self) -> Result<(), Error> {
        self.check_cancelled()?;
        self.check_whole()?;
        self.in_doubt = true;
        if self.open_rows.is_none() {
            self.connection
                .execute_batch("begin")
                .map_err(Error::database("begin a transaction"))?;
            self.open_rows = Some(0);
        }
        Ok(())
    }

    /// Ends a write.
    pub(super) fn wrote(&mut self, rows: usize) -> Result<(), Error> {
        if let Some(open) = &mut self.open_rows {
            *open += rows;
            if *open >= ROWS_PER_TRANSACTION {
                return self.commit_write();
            }
        }
        self.in_doubt = false;
        Ok(())
    }

    /// Ends a write and commits it, and all before it.
    pub(super) fn commit_write(&mut self) -> Result<(), Error> {
        self.in_doubt = true;
        if self.open_rows.take().is_some() {
            self.connection
                .execute_batch("commit")
                .map_err(Error::database("write its pages"))?;
        }
        self.in_doubt = false;
        Ok(())
    }

    /// Commits what was written.
    fn commit(&mut self) -> Result<(), Error> {
        self.check_whole()?;
        self.commit_write()
    }

    /// Writes resource types; one with the id of an earlier one replaces its data.
    pub fn put_resource_types(
        &mut self,
        types: &[v2::ResourceType],
        now: Timestamp,
    ) -> Result<(), Error> {
        self.begin()?;
        let now = time_text::format(now);
        {
            let mut insert = self
                .connection
                .prepare_cached(
                    "insert into v1_resource_types (external_id, data, sync_id, discovered_at)
                     values (?1, ?2, ?3, ?4)
                     on conflict (external_id, sync_id) do update set data = excluded.data",
                )
                .map_err(Error::database("prepare a statement"))?;
            for each in types {
                insert
                    .execute(params![each.id, each.encode_to_vec(), self.sync_id, now])
                    .map_err(Error::database("store a resource type"))?;
            }
        }
        self.wrote(types.len())
    }

    /// Writes resources; one with the id of an earlier one replaces its data.
    ///
    /// Each must have a complete id; the caller has dropped the others.
    pub fn put_resources(
        &mut self,
        resources: &[v2::Resource],
        now: Timestamp,
    ) -> Result<(), Error> {
        self.begin()?;
        let now = time_text::format(now);
        {
            let mut insert = self
                .connection
                .prepare_cached(
                    "insert into v1_resources (resource_type_id, external_id, parent_resource_type_id,
                                               parent_resource_id, data, sync_id, discovered_at)
                     values (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                     on conflict (external_id, sync_id) do update set data = excluded.data",
                )
                .map_err(Error::database("prepare a statement"))?;
            for each in resources {
                let Some(id) = &each.id else { continue };
                let parent = each.parent_resource_id.as_ref();
                insert
                    .execute(params![
                        id.resource_type,
                        model::resource_text(id),
                        parent.map(|parent| &parent.resource_type),
                        parent.map(|parent| &parent.resource),
                        each.encode_to_vec(),
                        self.sync_id,
                        now
                    ])
                    .map_err(Error::database("store a resource"))?;
            }
        }
        self.wrote(resources.len())
    }

    /// Writes entitlements; one with the id of an earlier one replaces its data.
    ///
    /// Each must have an id and a resource with a complete id; the caller has dropped the others.
    pub fn put_entitlements(
        &mut self,
        entitlements: &[v2::Entitlement],
        now: Timestamp,
    ) -> Result<(), Error> {
        self.begin()?;
        let now = time_text::format(now);
        {
            let mut insert = self
                .connection
                .prepare_cached(
                    "insert into v1_entitlements (resource_type_id, resource_id, external_id, data, sync_id,
                                                  discovered_at)
                     values (?1, ?2, ?3, ?4, ?5, ?6)
                     on conflict (external_id, sync_id) do update set data = excluded.data",
                )
                .map_err(Error::database("prepare a statement"))?;
            for each in entitlements {
                let Some(resource) = each
                    .resource
                    .as_ref()
                    .and_then(|resource| resource.id.as_ref())
                else {
                    continue;
                };
                insert
                    .execute(params![
                        resource.resource_type,
                        resource.resource,
                        each.id,
                        each.encode_to_vec(),
                        self.sync_id,
                        now
                    ])
                    .map_err(Error::database("store an entitlement"))?;
            }
        }
        self.wrote(entitlements.len())
    }

    /// Writes grants as the connector gave them, expansion data moved to its own column.
    ///
    /// A grant with the id and the pair of an earlier one replaces it. A second grant for a pair that has one is left
    /// out, as later formats cannot hold it; its expansion data is kept where the first has none.
    pub fn put_grants(
        &mut self,
        grants: Vec<v2::Grant>,
        now: Timestamp,
    ) -> Result<GrantOutcome, Error> {
        self.begin()?;
        let now = time_text::format(now);
        let mut outcome = GrantOutcome::default();
        let rows = grants.len();
        for grant in grants {
            self.put_grant(grant, &now, &mut outcome)?;
        }
        self.wrote(rows)?;
        Ok(outcome)
    }

    fn put_grant(
        &self,
        mut grant: v2::Grant,
        now: &str,
        outcome: &mut GrantOutcome,
    ) -> Result<(), Error> {
        let expansion = take_expansion(&mut grant);
        let Some(keys) = GrantKeys::of(&grant) else {
            outcome.incomplete += 1;
            return Ok(());
        };
        let existing: Option<(i64, String, Option<Vec<u8>>)> = self
            .connection
            .prepare_cached(
                "select id, external_id, expansion from v1_grants
                 where entitlement_id = ?1 and principal_resource_type_id = ?2 and principal_resource_id = ?3",
            )
            .and_then(|mut select| {
                select
                    .query_row(
                        params![
                            keys.entitlement,
                            keys.principal.resource_type,
                            keys.principal.resource
                        ],
                        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
                    )
                    .optional()
            })
            .map_err(Error::database("look up a grant"))?;
        let blob = expansion.as_ref().map(Message::encode_to_vec);
        match existing {
            None => {
                let written = self.insert_grant(&grant, keys, blob.as_deref(), now)?;
                if !written {
                    outcome.taken_ids += 1;
                    return Ok(());
                }
            }
            Some((row, id, old)) if id == grant.id => {
                self.connection
                    .prepare_cached(
                        "update v1_grants set data = ?2, expansion = ?3,
                             needs_expansion = case when ?3 is null then 0
                                                    when ?4 then 1 else needs_expansion end
                         where id = ?1",
                    )
                    .and_then(|mut update| {
                        let changed = old != blob;
                        update.execute(params![row, grant.encode_to_vec(), blob, changed])
                    })
                    .map_err(Error::database("replace a grant"))?;
            }
            Some((row, _, old)) => {
                outcome.duplicate_pairs += 1;
                if old.is_some() || blob.is_none() {
                    return Ok(());
                }
                self.connection
                    .prepare_cached(
                        "update v1_grants set expansion = ?2, needs_expansion = 1 where id = ?1",
                    )
                    .and_then(|mut update| update.execute(params![row, blob]))
                    .map_err(Error::database("replace a grant"))?;
                outcome.expandable += 1;
                return Ok(());
            }
        }
        outcome.stored += 1;
        outcome.expandable += u64::from(blob.is_some());
        Ok(())
    }

    /// `false` when the id is taken.
    fn insert_grant(
        &self,
        grant: &v2::Grant,
        keys: GrantKeys<'_>,
        expansion: Option<&[u8]>,
        now: &str,
    ) -> Result<bool, Error> {
        self.connection
            .prepare_cached(
                "insert into v1_grants (resource_type_id, resource_id, entitlement_id,
                                        principal_resource_type_id, principal_resource_id, external_id,
                                        expansion, needs_expansion, data, sync_id, discovered_at)
                 values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7 is not null, ?8, ?9, ?10)
                 on conflict (external_id, sync_id) do nothing",
            )
            .and_then(|mut insert| {
                insert.execute(params![
                    keys.resource.resource_type,
                    keys.resource.resource,
                    keys.entitlement,
                    keys.principal.resource_type,
                    keys.principal.resource,
                    grant.id,
                    expansion,
                    grant.encode_to_vec(),
                    self.sync_id,
                    now
                ])
            })
            .map(|rows| rows == 1)
            .map_err(Error::database("store a grant"))
    }

    /// Writes a grant that expansion made, for a pair that has none; `false` when its id is taken by another pair.
    pub fn put_inherited(&mut self, grant: &v2::Grant, now: Timestamp) -> Result<bool, Error> {
        let Some(keys) = GrantKeys::of(grant) else {
            return Ok(false);
        };
        self.begin()?;
        let written = self.insert_grant(grant, keys, None, &time_text::format(now))?;
        self.wrote(1)?;
        Ok(written)
    }

    /// Replaces the blob of a grant and leaves its expansion columns alone.
    pub fn replace_grant(&mut self, row: i64, grant: &v2::Grant) -> Result<(), Error> {
        self.begin()?;
        self.connection
            .prepare_cached("update v1_grants set data = ?2 where id = ?1")
            .and_then(|mut update| update.execute(params![row, grant.encode_to_vec()]))
            .map_err(Error::database("replace a grant"))?;
        self.wrote(1)
    }

    /// How many resources of a type are stored, up to and with the row `last`.
    pub fn count_resources(&self, resource_type_id: &str, last: i64) -> Result<u64, Error> {
        self.connection
            .prepare_cached(
                "select count(*) from v1_resources where resource_type_id = ?1 and id <= ?2",
            )
            .and_then(|mut select| {
                select.query_row(params![resource_type_id, last], |row| row.get::<_, i64>(0))
            })
            .map(unsigned)
            .map_err(Error::database("count resources"))
    }

    /// Up to `limit` resources of a type after the row `after` (0 = from the start), in the order of arrival.
    pub fn resources(
        &self,
        resource_type_id: &str,
        after: i64,
        limit: usize,
    ) -> Result<Vec<StoredRow<v2::Resource>>, Error> {
        self.check_cancelled()?;
        self.rows(
            "select id, data from v1_resources where resource_type_id = ?1 and id > ?2 order by id limit ?3",
            params![resource_type_id, after, signed(limit)],
            "v1_resources",
        )
    }

    /// Up to `limit` entitlements after the row `after` (0 = from the start).
    pub fn entitlements(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Vec<StoredRow<v2::Entitlement>>, Error> {
        self.check_cancelled()?;
        self.rows(
            "select id, data from v1_entitlements where id > ?1 order by id limit ?2",
            params![after, signed(limit)],
            "v1_entitlements",
        )
    }

    /// A resource by id.
    pub fn resource(&self, id: &v2::ResourceId) -> Result<Option<v2::Resource>, Error> {
        Ok(self
            .rows(
                "select id, data from v1_resources where external_id = ?1 and sync_id = ?2",
                params![model::resource_text(id), self.sync_id],
                "v1_resources",
            )?
            .pop()
            .map(|row| row.message))
    }

    /// An entitlement by id.
    pub fn entitlement(&self, id: &str) -> Result<Option<v2::Entitlement>, Error> {
        Ok(self
            .rows(
                "select id, data from v1_entitlements where external_id = ?1 and sync_id = ?2",
                params![id, self.sync_id],
                "v1_entitlements",
            )?
            .pop()
            .map(|row| row.message))
    }

    /// The resource of an entitlement, read from the columns.
    pub fn entitlement_resource(&self, id: &str) -> Result<Option<v2::ResourceId>, Error> {
        self.connection
            .prepare_cached(
                "select resource_type_id, resource_id from v1_entitlements
                 where external_id = ?1 and sync_id = ?2",
            )
            .and_then(|mut select| {
                select
                    .query_row(params![id, self.sync_id], |row| resource_id(row, 0))
                    .optional()
            })
            .map_err(Error::database("look up an entitlement"))
    }

    /// Up to `limit` grants that need expansion, after the row `after` (0 = from the start).
    pub fn expandable_grants(&self, after: i64, limit: usize) -> Result<Vec<Expandable>, Error> {
        self.check_cancelled()?;
        let read = || Error::database("list expandable grants");
        let mut select = self
            .connection
            .prepare_cached(
                "select id, entitlement_id, principal_resource_type_id, principal_resource_id, expansion
                 from v1_grants indexed by idx_grants_sync_needs_expansion_v1
                 where needs_expansion = 1 and sync_id = ?1 and id > ?2 order by id limit ?3",
            )
            .map_err(read())?;
        let mut rows = select
            .query(params![self.sync_id, after, signed(limit)])
            .map_err(read())?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(read())? {
            let id: i64 = row.get(0).map_err(read())?;
            let blob: Vec<u8> = row.get(4).map_err(read())?;
            found.push(Expandable {
                row: id,
                entitlement_id: row.get(1).map_err(read())?,
                principal: resource_id(row, 2).map_err(read())?,
                expansion: decode("v1_grants", id, &blob)?,
            });
        }
        Ok(found)
    }

    /// Up to `limit` grants of an entitlement after a principal, ordered by principal.
    pub fn grants_of(
        &self,
        entitlement_id: &str,
        after: Option<&PrincipalCursor>,
        limit: usize,
    ) -> Result<Vec<StoredRow<v2::Grant>>, Error> {
        self.check_cancelled()?;
        let (after_type, after_id) = after.map_or(("", ""), |(kind, id)| (kind, id));
        self.rows(
            "select id, data from v1_grants indexed by idx_grants_entitlement_id_principal_id_v1
             where entitlement_id = ?1 and (principal_resource_type_id, principal_resource_id) > (?2, ?3)
             order by principal_resource_type_id, principal_resource_id limit ?4",
            params![entitlement_id, after_type, after_id, signed(limit)],
            "v1_grants",
        )
    }

    /// The grant of an entitlement to a principal.
    pub fn grant_to(
        &self,
        entitlement_id: &str,
        principal: &v2::ResourceId,
    ) -> Result<Option<StoredRow<v2::Grant>>, Error> {
        Ok(self
            .rows(
                "select id, data from v1_grants where entitlement_id = ?1
                   and principal_resource_type_id = ?2 and principal_resource_id = ?3",
                params![entitlement_id, principal.resource_type, principal.resource],
                "v1_grants",
            )?
            .pop())
    }

    pub(super) fn rows<M: Message + Default>(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        table: &'static str,
    ) -> Result<Vec<StoredRow<M>>, Error> {
        let read = || Error::database("read rows");
        let mut select = self.connection.prepare_cached(sql).map_err(read())?;
        let mut rows = select.query(parameters).map_err(read())?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(read())? {
            let id: i64 = row.get(0).map_err(read())?;
            let blob = row
                .get_ref(1)
                .map_err(read())?
                .as_blob()
                .map_err(|_mistyped| Error::Column {
                    table,
                    column: "data",
                    row: id,
                })?;
            found.push(StoredRow {
                row: id,
                message: decode(table, id, blob)?,
            });
        }
        Ok(found)
    }

    /// Builds the remaining indexes, counts, and ends the sync.
    pub fn finish(&mut self, finish: &Finish, entitlements: bool) -> Result<Counts, Error> {
        self.commit()?;
        for index in &LATE {
            self.check_cancelled()?;
            self.connection
                .execute_batch(&index.ddl())
                .map_err(Error::database("build an index"))?;
        }
        let counts = self.counts()?;
        self.check_cancelled()?;
        let marker = finish.invariants.as_ref();
        let changed = self
            .connection
            .execute(
                "update v1_sync_runs
                 set ended_at = ?2, sync_token = ?3, supports_diff = ?4, stats = ?5,
                     ingest_invariant_generation = ?6, ingest_invariant_coverage = ?7,
                     ingest_invariant_mode = ?8
                 where sync_id = ?1 and ended_at is null",
                params![
                    self.sync_id,
                    time_text::format(finish.ended_at),
                    finish.token,
                    finish.supports_diff,
                    stats(&counts, &finish.step_durations_ms, entitlements),
                    marker.map_or("", |marker| marker.generation.as_str()),
                    marker.map_or_else(String::new, |marker| {
                        serde_json::Value::from(marker.coverage.clone()).to_string()
                    }),
                    marker.map_or("", |marker| marker.mode.as_str()),
                ],
            )
            .map_err(Error::database("end a sync"))?;
        if changed == 1 {
            Ok(counts)
        } else {
            Err(Error::NoFinishedSync)
        }
    }

    pub(super) fn counts(&self) -> Result<Counts, Error> {
        let read = || Error::database("count rows");
        let by_type = |sql: &str| -> Result<BTreeMap<String, u64>, Error> {
            let mut select = self.connection.prepare(sql).map_err(read())?;
            let rows = select
                .query_map([], |row| Ok((row.get(0)?, unsigned(row.get(1)?))))
                .map_err(read())?;
            rows.collect::<Result<_, _>>().map_err(read())
        };
        let mut resources = by_type("select external_id, 0 from v1_resource_types")?;
        let resource_types = resources.len() as u64;
        resources.extend(by_type(
            "select resource_type_id, count(*) from v1_resources group by 1",
        )?);
        Ok(Counts {
            resource_types,
            resources,
            entitlements: by_type(
                "select resource_type_id, count(*) from v1_entitlements group by 1",
            )?,
            grants: by_type("select resource_type_id, count(*) from v1_grants group by 1")?,
        })
    }

    /// Closes the database and packs it into `target`; the size of the file in bytes.
    pub fn seal(mut self, target: &Path) -> Result<u64, Error> {
        self.commit()?;
        self.connection.flush_prepared_statement_cache();
        if self.kept.is_some() {
            // All data into the main file, which is what gets packed.
            let mode: String = self
                .connection
                .query_row("pragma journal_mode = delete", [], |row| row.get(0))
                .map_err(Error::database("give up its log"))?;
            if mode != "delete" {
                return Err(Error::Unusable {
                    problem: format!("it keeps its log (mode {mode})"),
                });
            }
        }
        self.connection
            .close()
            .map_err(|(_, error)| Error::database("be closed")(error))?;
        tracing::trace!(folder = %self.folder.display(), "packing the working database");
        let bytes = envelope::seal(&mut self.file, target, &self.cancel)?;
        if self.kept.is_some() {
            super::kept::remove(&self.folder)?;
        }
        Ok(bytes)
    }
}

/// The ids that the columns of a grant repeat.
#[derive(Clone, Copy)]
struct GrantKeys<'a> {
    entitlement: &'a str,
    resource: &'a v2::ResourceId,
    principal: &'a v2::ResourceId,
}

impl<'a> GrantKeys<'a> {
    fn of(grant: &'a v2::Grant) -> Option<Self> {
        let entitlement = grant.entitlement.as_ref()?;
        let resource = entitlement.resource.as_ref()?.id.as_ref()?;
        let principal = grant.principal.as_ref()?.id.as_ref()?;
        let whole = !grant.id.is_empty()
            && !entitlement.id.is_empty()
            && model::is_complete(resource)
            && model::is_complete(principal);
        whole.then_some(Self {
            entitlement: &entitlement.id,
            resource,
            principal,
        })
    }
}

/// Removes the expansion data of a grant; `None` when there is none, or when it names no source.
fn take_expansion(grant: &mut v2::Grant) -> Option<v2::GrantExpandable> {
    if !proto::has::<v2::GrantExpandable>(&grant.annotations) {
        return None;
    }
    let expansion: Option<v2::GrantExpandable> = proto::find(&grant.annotations);
    grant
        .annotations
        .retain(|any| !proto::is::<v2::GrantExpandable>(any));
    expansion.filter(|expansion| {
        expansion
            .entitlement_ids
            .iter()
            .any(|id| !id.trim().is_empty())
    })
}

/// A database in a file of `folder` whose name is removed as soon as it is open.
pub(super) fn scratch(
    folder: &Path,
    fill: impl FnOnce(&mut File) -> Result<(), Error>,
    flags: OpenFlags,
) -> Result<(Connection, File), Error> {
    let (mut file, path) = tempfile::Builder::new()
        .prefix("baton-")
        .suffix(".db")
        .tempfile_in(folder)
        .map_err(Error::io("create a working database in", folder))?
        .into_parts();
    fill(&mut file)?;
    let connection = Connection::open_with_flags(&path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(Error::database("be opened"))?;
    prepare(&connection, folder)?;
    path.close()
        .map_err(Error::io("hide a working database in", folder))?;
    Ok((connection, file))
}

/// What every connection needs: room for our statements, and the work folder for sorting.
///
/// Sorting must spill there: a container may have no other writable folder. Should it be gone by then, SQLite falls back
/// to the system's.
pub(super) fn prepare(connection: &Connection, folder: &Path) -> Result<(), Error> {
    connection.set_prepared_statement_cache_capacity(64);
    connection
        .pragma_update(None, "temp_store_directory", folder.to_string_lossy())
        .map_err(Error::database("use the work folder for sorting"))
}

/// The statistics of a sync; zero and empty members are left out, as readers expect.
fn stats(counts: &Counts, steps: &BTreeMap<String, u64>, entitlements: bool) -> String {
    let total = |map: &BTreeMap<String, u64>| map.values().sum::<u64>();
    let mut members = serde_json::Map::new();
    let mut number = |name: &str, value: u64| {
        if value > 0 {
            members.insert(name.to_owned(), value.into());
        }
    };
    number("resource_types", counts.resource_types);
    number("resources", total(&counts.resources));
    if entitlements {
        number("entitlements", total(&counts.entitlements));
        number("grants", total(&counts.grants));
    }
    let mut map = |name: &str, value: &BTreeMap<String, u64>| {
        if !value.is_empty() {
            members.insert(
                name.to_owned(),
                value
                    .iter()
                    .map(|(key, count)| (key.clone(), serde_json::Value::from(*count)))
                    .collect::<serde_json::Map<_, _>>()
                    .into(),
            );
        }
    };
    map("resources_by_resource_type", &counts.resources);
    if entitlements {
        map("grants_by_resource_type", &counts.grants);
        map("entitlements_by_resource_type", &counts.entitlements);
    }
    map("step_durations_ms", steps);
    serde_json::Value::Object(members).to_string()
}

pub(super) fn decode<M: Message + Default>(
    table: &'static str,
    row: i64,
    blob: &[u8],
) -> Result<M, Error> {
    M::decode(blob).map_err(|source| Error::Blob { table, row, source })
}

fn resource_id(row: &Row<'_>, first: usize) -> rusqlite::Result<v2::ResourceId> {
    Ok(v2::ResourceId {
        resource_type: row.get(first)?,
        resource: row.get(first + 1)?,
        ..v2::ResourceId::default()
    })
}

pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

pub(super) fn signed(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
