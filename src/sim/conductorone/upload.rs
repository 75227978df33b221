//! What arrives through `UploadAsset`: received with bounded memory, and opened with plain zstd and SQLite.
//!
//! The inspection knows the published layout of a v1 file only; it never uses the connector's own reader, so that an
//! error made twice on our side does not cancel out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufReader, Read as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, bail, ensure};
use prost::Message as _;
use rusqlite::{Connection, OpenFlags};

use super::rules;
use crate::proto::{connector as v2, find};

/// The first five bytes of a v1 file.
const MAGIC: &[u8; 5] = b"C1ZF\0";
/// The most bytes that readers unpack.
const MAX_DATABASE: u64 = 10 * 1024 * 1024 * 1024;
/// The largest window that readers accept, as a power of two.
const MAX_WINDOW_LOG: u32 = 27;
/// How many broken rules of rows are named before the inspection gives up.
const MAX_FINDINGS: usize = 20;

/// The tables of a v1 file, each with its indexes, all of which a complete file has.
const SCHEMA: [(&str, &[&str]); 7] = [
    (
        "v1_resource_types",
        &["idx_resource_types_external_sync_v1"],
    ),
    (
        "v1_resources",
        &[
            "idx_resources_resource_type_id_v1",
            "idx_resources_external_sync_v1",
            "idx_resources_parent_resource_id_v1",
        ],
    ),
    (
        "v1_entitlements",
        &[
            "idx_entitlements_resource_id_v1",
            "idx_entitlements_external_sync_v1",
        ],
    ),
    ("v1_sync_runs", &["idx_sync_runs_sync_id_v1"]),
    (
        "v1_grants",
        &[
            "idx_grants_resource_type_id_resource_id_v1",
            "idx_grants_principal_id_v1",
            "idx_grants_entitlement_id_principal_id_v1",
            "idx_grants_external_sync_v1",
            "idx_grants_entitlement_sync_grant_v1",
            "idx_grants_sync_expansion_v1",
            "idx_grants_sync_needs_expansion_v1",
        ],
    ),
    ("v1_assets", &["idx_assets_external_sync_v1"]),
    ("v1_connector_sessions", &["idx_session_store_sync_key_v1"]),
];

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

/// Opens an uploaded file and checks envelope, schema and, with `rows`, every row. Blocks.
///
/// The unpacked database stands beside the file while this runs.
pub(super) fn inspect(path: &Path, rows: bool) -> anyhow::Result<Summary> {
    let database =
        tempfile::NamedTempFile::new_in(path.parent().context("the file has no folder")?)
            .context("making room for the database")?;
    let database_bytes = unpack(path, database.as_file())?;
    let connection = Connection::open_with_flags(
        database.path(),
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .context("the unpacked file does not open as SQLite")?;
    let mut summary = summarise(&connection)?;
    summary.database_bytes = database_bytes;
    if rows {
        check_rows(&connection)?;
    }
    Ok(summary)
}

/// Unpacks the one zstd frame after the magic bytes; answers with the unpacked size.
fn unpack(path: &Path, mut target: &File) -> anyhow::Result<u64> {
    let mut file = File::open(path).context("the upload cannot be opened again")?;
    let mut magic = [0; 5];
    file.read_exact(&mut magic)
        .context("the file is shorter than its magic bytes")?;
    ensure!(
        &magic == MAGIC,
        "the file does not begin with the magic bytes C1ZF\\0 of a v1 file"
    );
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
    let mut rest = Vec::new();
    decoder.finish().take(1).read_to_end(&mut rest)?;
    ensure!(rest.is_empty(), "there is something behind the zstd frame");
    Ok(total)
}

fn summarise(connection: &Connection) -> anyhow::Result<Summary> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .context("the unpacked file is not a SQLite database")?;
    ensure!(verdict == "ok", "the database is damaged: {verdict}");
    let names = |kind: &str| -> anyhow::Result<BTreeSet<String>> {
        Ok(connection
            .prepare("SELECT name FROM sqlite_master WHERE type = ?1 AND name NOT LIKE 'sqlite_%'")?
            .query_map([kind], |row| row.get(0))?
            .collect::<Result<_, _>>()?)
    };
    let (tables, indexes) = (names("table")?, names("index")?);
    let mut rows = BTreeMap::new();
    for (table, expected) in SCHEMA {
        ensure!(tables.contains(table), "the table {table} is missing");
        for index in expected {
            ensure!(indexes.contains(*index), "the index {index} is missing");
        }
        let count: i64 =
            connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                row.get(0)
            })?;
        rows.insert(table.to_owned(), u64::try_from(count)?);
    }
    let mut runs = connection.prepare(
        "SELECT sync_id, sync_type, ended_at IS NOT NULL, grants_backfilled FROM v1_sync_runs",
    )?;
    let runs: Vec<(String, String, bool, i64)> = runs
        .query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect::<Result<_, _>>()
        .context("the table v1_sync_runs has other columns than it must")?;
    let [(sync_id, sync_type, ended, backfilled)] = runs.as_slice() else {
        bail!("the file holds {} syncs, must hold one", runs.len());
    };
    ensure!(
        *ended,
        "the sync in the file is not finished (ended_at is NULL)"
    );
    ensure!(*backfilled == 1, "grants_backfilled must be 1");
    ensure!(
        rules::is_task_id(sync_id),
        "the sync id must be a KSUID of 27 letters and digits"
    );
    ensure!(
        matches!(sync_type.as_str(), "full" | "partial" | "resources_only"),
        "the sync type {sync_type} does not exist"
    );
    let by_type = |table: &str| -> anyhow::Result<BTreeMap<String, u64>> {
        let mut query = connection.prepare(&format!(
            "SELECT resource_type_id, count(*) FROM {table} GROUP BY resource_type_id"
        ))?;
        let counts = query.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))?;
        counts
            .map(|pair| {
                let (name, count) = pair?;
                Ok((name, u64::try_from(count)?))
            })
            .collect()
    };
    Ok(Summary {
        database_bytes: 0,
        rows,
        indexes,
        sync_id: sync_id.clone(),
        sync_type: sync_type.clone(),
        resources: by_type("v1_resources")?,
        entitlements: by_type("v1_entitlements")?,
        grants: by_type("v1_grants")?,
    })
}

/// What is wrong with rows, by table and row number.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn add(&mut self, table: &str, row: i64, what: impl std::fmt::Display) -> anyhow::Result<()> {
        self.0.push(format!("{table} row {row}: {what}"));
        if self.0.len() >= MAX_FINDINGS {
            bail!("{} (and perhaps more)", self.0.join("; "));
        }
        Ok(())
    }

    fn rules<M: rules::Rules>(&mut self, table: &str, row: i64, message: &M) -> anyhow::Result<()> {
        for broken in rules::broken(message) {
            self.add(table, row, format!("{} {}", broken.field, broken.problem))?;
        }
        Ok(())
    }
}

/// Checks what conversion to the newer format and ingestion need of every row.
fn check_rows(connection: &Connection) -> anyhow::Result<()> {
    let mut findings = Findings::default();
    let traits = check_resource_types(connection, &mut findings)?;
    let resources = check_resources(connection, &traits, &mut findings)?;
    let entitlements = check_entitlements(connection, &resources, &mut findings)?;
    check_grants(connection, &resources, &entitlements, &mut findings)?;
    let strangers: i64 = connection.query_row(
        "SELECT (SELECT count(*) FROM v1_resources WHERE sync_id NOT IN (SELECT sync_id FROM v1_sync_runs))
              + (SELECT count(*) FROM v1_entitlements WHERE sync_id NOT IN (SELECT sync_id FROM v1_sync_runs))
              + (SELECT count(*) FROM v1_grants WHERE sync_id NOT IN (SELECT sync_id FROM v1_sync_runs))",
        [],
        |row| row.get(0),
    )?;
    ensure!(
        strangers == 0,
        "{strangers} rows belong to a sync that is not in the file"
    );
    ensure!(findings.0.is_empty(), "{}", findings.0.join("; "));
    Ok(())
}

type Traits = BTreeMap<String, Vec<i32>>;

fn check_resource_types(
    connection: &Connection,
    findings: &mut Findings,
) -> anyhow::Result<Traits> {
    const TABLE: &str = "v1_resource_types";
    let mut traits = Traits::new();
    let mut query = connection.prepare("SELECT id, external_id, data FROM v1_resource_types")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (number, id, data): (i64, String, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let message = v2::ResourceType::decode(data.as_slice())
            .with_context(|| format!("{TABLE} row {number} does not decode"))?;
        findings.rules(TABLE, number, &message)?;
        if message.id != id {
            findings.add(TABLE, number, "external_id is not the id of the message")?;
        }
        traits.insert(id, message.traits);
    }
    Ok(traits)
}

fn check_resources(
    connection: &Connection,
    traits: &Traits,
    findings: &mut Findings,
) -> anyhow::Result<BTreeSet<String>> {
    use v2::resource_type::Trait;
    const TABLE: &str = "v1_resources";
    let mut ids = BTreeSet::new();
    let mut query = connection.prepare(
        "SELECT id, resource_type_id, external_id, parent_resource_type_id, parent_resource_id, data
         FROM v1_resources",
    )?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (number, kind, id): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let parent: (Option<String>, Option<String>) = (row.get(3)?, row.get(4)?);
        let message = v2::Resource::decode(row.get::<_, Vec<u8>>(5)?.as_slice())
            .with_context(|| format!("{TABLE} row {number} does not decode"))?;
        findings.rules(TABLE, number, &message)?;
        let own = message.id.clone().unwrap_or_default();
        if own.resource_type != kind || key(&own) != id {
            findings.add(TABLE, number, "the columns are not the id of the message")?;
        }
        let of_message = match &message.parent_resource_id {
            Some(parent) => (
                Some(parent.resource_type.clone()),
                Some(parent.resource.clone()),
            ),
            None => (None, None),
        };
        if parent != of_message {
            findings.add(
                TABLE,
                number,
                "the parent columns are not the parent of the message",
            )?;
        }
        match traits.get(&kind) {
            None => findings.add(TABLE, number, "its resource type is not in the file")?,
            Some(traits) => {
                for role in traits {
                    let annotations = message.annotations.as_slice();
                    let has = match Trait::try_from(*role) {
                        Ok(Trait::User) => find::<v2::UserTrait>(annotations).is_some(),
                        Ok(Trait::Group) => find::<v2::GroupTrait>(annotations).is_some(),
                        Ok(Trait::Role) => find::<v2::RoleTrait>(annotations).is_some(),
                        Ok(Trait::App) => find::<v2::AppTrait>(annotations).is_some(),
                        Ok(Trait::Secret) => find::<v2::SecretTrait>(annotations).is_some(),
                        _ => true,
                    };
                    if !has {
                        findings.add(TABLE, number, "lacks the trait of its resource type")?;
                    }
                }
            }
        }
        ids.insert(id);
    }
    Ok(ids)
}

fn check_entitlements(
    connection: &Connection,
    resources: &BTreeSet<String>,
    findings: &mut Findings,
) -> anyhow::Result<BTreeSet<String>> {
    const TABLE: &str = "v1_entitlements";
    let mut ids = BTreeSet::new();
    let mut query = connection.prepare(
        "SELECT id, resource_type_id, resource_id, external_id, data FROM v1_entitlements",
    )?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (number, kind, resource, id): (i64, String, String, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let message = v2::Entitlement::decode(row.get::<_, Vec<u8>>(4)?.as_slice())
            .with_context(|| format!("{TABLE} row {number} does not decode"))?;
        findings.rules(TABLE, number, &message)?;
        let own = resource_id(message.resource.as_ref());
        if message.id != id || own.resource_type != kind || own.resource != resource {
            findings.add(TABLE, number, "the columns are not the ids of the message")?;
        }
        if !resources.contains(&key(&own)) {
            findings.add(TABLE, number, "its resource is not in the file")?;
        }
        ids.insert(id);
    }
    Ok(ids)
}

fn check_grants(
    connection: &Connection,
    resources: &BTreeSet<String>,
    entitlements: &BTreeSet<String>,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    const TABLE: &str = "v1_grants";
    let mut query = connection.prepare(
        "SELECT id, resource_type_id, resource_id, entitlement_id, principal_resource_type_id,
                principal_resource_id, external_id, expansion, needs_expansion, data
         FROM v1_grants",
    )?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let number: i64 = row.get(0)?;
        let columns: [String; 6] = [
            row.get(1)?,
            row.get(2)?,
            row.get(3)?,
            row.get(4)?,
            row.get(5)?,
            row.get(6)?,
        ];
        let expansion: Option<Vec<u8>> = row.get(7)?;
        let needs_expansion: i64 = row.get(8)?;
        let message = v2::Grant::decode(row.get::<_, Vec<u8>>(9)?.as_slice())
            .with_context(|| format!("{TABLE} row {number} does not decode"))?;
        findings.rules(TABLE, number, &message)?;
        let entitlement = message.entitlement.clone().unwrap_or_default();
        let of = resource_id(entitlement.resource.as_ref());
        let principal = resource_id(message.principal.as_ref());
        if !resources.contains(&key(&principal)) {
            findings.add(TABLE, number, "its principal is not in the file")?;
        }
        if !entitlements.contains(&entitlement.id) {
            findings.add(TABLE, number, "its entitlement is not in the file")?;
        }
        let of_message = [
            of.resource_type,
            of.resource,
            entitlement.id,
            principal.resource_type,
            principal.resource,
            message.id,
        ];
        if columns != of_message {
            findings.add(TABLE, number, "the columns are not the ids of the message")?;
        }
        if find::<v2::GrantExpandable>(&message.annotations).is_some() {
            findings.add(
                TABLE,
                number,
                "keeps GrantExpandable in its data, must be in expansion",
            )?;
        }
        match expansion {
            Some(bytes) => {
                let expandable = v2::GrantExpandable::decode(bytes.as_slice())
                    .with_context(|| format!("{TABLE} row {number}: expansion does not decode"))?;
                findings.rules(TABLE, number, &expandable)?;
                if needs_expansion != 1 {
                    findings.add(
                        TABLE,
                        number,
                        "has an expansion but needs_expansion is not 1",
                    )?;
                }
            }
            None if needs_expansion != 0 => {
                findings.add(TABLE, number, "has no expansion but needs_expansion is set")?;
            }
            None => {}
        }
    }
    let twins: i64 = connection.query_row(
        "SELECT count(*) FROM (SELECT 1 FROM v1_grants
         GROUP BY entitlement_id, principal_resource_type_id, principal_resource_id, sync_id
         HAVING count(*) > 1)",
        [],
        |row| row.get(0),
    )?;
    if twins > 0 {
        findings.add(
            TABLE,
            0,
            format!("{twins} pairs of entitlement and principal are not unique"),
        )?;
    }
    Ok(())
}

fn resource_id(resource: Option<&v2::Resource>) -> v2::ResourceId {
    resource
        .and_then(|resource| resource.id.clone())
        .unwrap_or_default()
}

fn key(id: &v2::ResourceId) -> String {
    format!("{}:{}", id.resource_type, id.resource)
}
