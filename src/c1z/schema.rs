//! Tables and indexes of the working database.
//!
//! Names and columns are a wire format: readers find indexes by name and upsert against their columns, so even the two
//! swapped names on `v1_resources` are kept. Indexes are split by when they are built: `EARLY` ones serve the
//! sync itself, `LATE` ones are built in bulk when the file is sealed, which is several times cheaper.

use rusqlite::{Connection, OptionalExtension as _};

use super::Error;

/// One index: its name, its table, and the text that follows `on`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Index {
    pub(super) name: &'static str,
    pub(super) table: &'static str,
    pub(super) unique: bool,
    pub(super) columns: &'static str,
    pub(super) condition: &'static str,
}

impl Index {
    pub(super) fn ddl(&self) -> String {
        let unique = if self.unique { "unique " } else { "" };
        let condition = if self.condition.is_empty() {
            String::new()
        } else {
            format!(" where {}", self.condition)
        };
        format!(
            "create {unique}index if not exists {} on {} ({}){condition}",
            self.name, self.table, self.columns
        )
    }
}

const fn plain(table: &'static str, name: &'static str, columns: &'static str) -> Index {
    Index {
        name,
        table,
        unique: false,
        columns,
        condition: "",
    }
}

const fn unique(table: &'static str, name: &'static str, columns: &'static str) -> Index {
    Index {
        name,
        table,
        unique: true,
        columns,
        condition: "",
    }
}

const fn partial(
    table: &'static str,
    name: &'static str,
    columns: &'static str,
    condition: &'static str,
) -> Index {
    Index {
        name,
        table,
        unique: false,
        columns,
        condition,
    }
}

/// The tables, in the order in which readers create what is missing.
pub(super) const TABLES: [&str; 7] = [
    "create table if not exists v1_resource_types (
    id integer primary key,
    external_id text not null,
    data blob not null,
    sync_id text not null,
    discovered_at datetime not null
)",
    "create table if not exists v1_resources (
    id integer primary key,
    resource_type_id text not null,
    external_id text not null,
    parent_resource_type_id text,
    parent_resource_id text,
    data blob not null,
    sync_id text not null,
    discovered_at datetime not null
)",
    "create table if not exists v1_entitlements (
    id integer primary key,
    resource_type_id text not null,
    resource_id text not null,
    external_id text not null,
    data blob not null,
    sync_id text not null,
    discovered_at datetime not null
)",
    "create table if not exists v1_sync_runs (
    id integer primary key,
    sync_id text not null,
    started_at datetime not null,
    ended_at datetime,
    sync_token text not null,
    sync_type text not null default 'full',
    parent_sync_id text not null default '',
    linked_sync_id text not null default '',
    supports_diff integer not null default 0,
    grants_backfilled integer not null default 0,
    stats text,
    ingest_invariant_generation text not null default '',
    ingest_invariant_coverage text not null default '',
    ingest_invariant_mode text not null default ''
)",
    "create table if not exists v1_grants (
    id integer primary key,
    resource_type_id text not null,
    resource_id text not null,
    entitlement_id text not null,
    principal_resource_type_id text not null,
    principal_resource_id text not null,
    external_id text not null,
    expansion blob,
    needs_expansion integer not null default 0,
    data blob not null,
    sync_id text not null,
    discovered_at datetime not null
)",
    "create table if not exists v1_assets (
    id integer primary key,
    external_id text not null,
    content_type text not null,
    data blob not null,
    sync_id text not null,
    discovered_at datetime not null
)",
    "create table if not exists v1_connector_sessions (
    id integer primary key,
    sync_id text not null,
    key text not null,
    value blob not null
)",
];

/// Indexes that the sync itself needs, or that cost nothing while rows arrive.
pub(super) const EARLY: [Index; 11] = [
    unique(
        "v1_resource_types",
        "idx_resource_types_external_sync_v1",
        "external_id, sync_id",
    ),
    plain(
        "v1_resources",
        "idx_resources_resource_type_id_v1",
        "resource_type_id",
    ),
    unique(
        "v1_resources",
        "idx_resources_parent_resource_id_v1",
        "external_id, sync_id",
    ),
    unique(
        "v1_entitlements",
        "idx_entitlements_external_sync_v1",
        "external_id, sync_id",
    ),
    unique("v1_sync_runs", "idx_sync_runs_sync_id_v1", "sync_id"),
    plain(
        "v1_grants",
        "idx_grants_entitlement_id_principal_id_v1",
        "entitlement_id, principal_resource_type_id, principal_resource_id",
    ),
    unique(
        "v1_grants",
        "idx_grants_external_sync_v1",
        "external_id, sync_id",
    ),
    partial(
        "v1_grants",
        "idx_grants_sync_expansion_v1",
        "sync_id",
        "expansion is not null",
    ),
    partial(
        "v1_grants",
        "idx_grants_sync_needs_expansion_v1",
        "sync_id",
        "needs_expansion = 1",
    ),
    unique(
        "v1_assets",
        "idx_assets_external_sync_v1",
        "external_id, sync_id",
    ),
    unique(
        "v1_connector_sessions",
        "idx_session_store_sync_key_v1",
        "sync_id, key",
    ),
];

/// Indexes that only readers need.
pub(super) const LATE: [Index; 5] = [
    plain(
        "v1_resources",
        "idx_resources_external_sync_v1",
        "parent_resource_type_id, parent_resource_id",
    ),
    plain(
        "v1_entitlements",
        "idx_entitlements_resource_id_v1",
        "resource_type_id, resource_id",
    ),
    plain(
        "v1_grants",
        "idx_grants_resource_type_id_resource_id_v1",
        "resource_type_id, resource_id",
    ),
    plain(
        "v1_grants",
        "idx_grants_principal_id_v1",
        "principal_resource_type_id, principal_resource_id",
    ),
    plain(
        "v1_grants",
        "idx_grants_entitlement_sync_grant_v1",
        "entitlement_id, sync_id, id",
    ),
];

/// Refuses a database that lacks a table.
pub(super) fn require(connection: &Connection, table: &'static str) -> Result<(), Error> {
    connection
        .query_row(
            "select 1 from sqlite_master where type = 'table' and name = ?1",
            [table],
            |_| Ok(()),
        )
        .optional()
        .map_err(Error::database("list its tables"))?
        .ok_or(Error::MissingTable { table })
}

/// Tables without which a database is not a c1z.
pub(super) const REQUIRED: [&str; 5] = [
    "v1_sync_runs",
    "v1_resource_types",
    "v1_resources",
    "v1_entitlements",
    "v1_grants",
];
