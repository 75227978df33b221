//! The published layout of a v1 database: tables, columns, indexes, and the form of its texts.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail, ensure};
use jiff::civil::DateTime;
use rusqlite::Connection;
use serde_json::Value;

use super::Summary;
use crate::sim::conductorone::rules;

/// A table: its columns in order, separated by spaces, and its indexes.
struct Table {
    name: &'static str,
    columns: &'static str,
    indexes: &'static [Index],
}

/// An index: name, whether it is unique, its columns separated by spaces, and the condition of a partial one.
struct Index(&'static str, bool, &'static str, Option<&'static str>);

const TABLES: [Table; 7] = [
    Table {
        name: "v1_resource_types",
        columns: "id external_id data sync_id discovered_at",
        indexes: &[Index(
            "idx_resource_types_external_sync_v1",
            true,
            "external_id sync_id",
            None,
        )],
    },
    Table {
        name: "v1_resources",
        columns: "id resource_type_id external_id parent_resource_type_id parent_resource_id data sync_id \
                  discovered_at",
        // The names of the last two are swapped in every real file.
        indexes: &[
            Index(
                "idx_resources_resource_type_id_v1",
                false,
                "resource_type_id",
                None,
            ),
            Index(
                "idx_resources_external_sync_v1",
                false,
                "parent_resource_type_id parent_resource_id",
                None,
            ),
            Index(
                "idx_resources_parent_resource_id_v1",
                true,
                "external_id sync_id",
                None,
            ),
        ],
    },
    Table {
        name: "v1_entitlements",
        columns: "id resource_type_id resource_id external_id data sync_id discovered_at",
        indexes: &[
            Index(
                "idx_entitlements_resource_id_v1",
                false,
                "resource_type_id resource_id",
                None,
            ),
            Index(
                "idx_entitlements_external_sync_v1",
                true,
                "external_id sync_id",
                None,
            ),
        ],
    },
    Table {
        name: "v1_sync_runs",
        columns: "id sync_id started_at ended_at sync_token sync_type parent_sync_id linked_sync_id supports_diff \
                  grants_backfilled stats ingest_invariant_generation ingest_invariant_coverage ingest_invariant_mode",
        indexes: &[Index("idx_sync_runs_sync_id_v1", true, "sync_id", None)],
    },
    Table {
        name: "v1_grants",
        columns: "id resource_type_id resource_id entitlement_id principal_resource_type_id principal_resource_id \
                  external_id expansion needs_expansion data sync_id discovered_at",
        indexes: &[
            Index(
                "idx_grants_resource_type_id_resource_id_v1",
                false,
                "resource_type_id resource_id",
                None,
            ),
            Index(
                "idx_grants_principal_id_v1",
                false,
                "principal_resource_type_id principal_resource_id",
                None,
            ),
            Index(
                "idx_grants_entitlement_id_principal_id_v1",
                false,
                "entitlement_id principal_resource_type_id principal_resource_id",
                None,
            ),
            Index(
                "idx_grants_external_sync_v1",
                true,
                "external_id sync_id",
                None,
            ),
            Index(
                "idx_grants_entitlement_sync_grant_v1",
                false,
                "entitlement_id sync_id id",
                None,
            ),
            Index(
                "idx_grants_sync_expansion_v1",
                false,
                "sync_id",
                Some("expansion is not null"),
            ),
            Index(
                "idx_grants_sync_needs_expansion_v1",
                false,
                "sync_id",
                Some("needs_expansion = 1"),
            ),
        ],
    },
    Table {
        name: "v1_assets",
        columns: "id external_id content_type data sync_id discovered_at",
        indexes: &[Index(
            "idx_assets_external_sync_v1",
            true,
            "external_id sync_id",
            None,
        )],
    },
    Table {
        name: "v1_connector_sessions",
        columns: "id sync_id key value",
        indexes: &[Index(
            "idx_session_store_sync_key_v1",
            true,
            "sync_id key",
            None,
        )],
    },
];

/// Checks the layout, the one sync in the file and its statistics, and counts the rows.
pub(super) fn check(connection: &Connection) -> anyhow::Result<Summary> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .context("the unpacked file is not a SQLite database")?;
    ensure!(verdict == "ok", "the database is damaged: {verdict}");
    for (pragma, expected) in [
        ("encoding", "UTF-8"),
        ("application_id", "0"),
        ("user_version", "0"),
    ] {
        let found: rusqlite::types::Value =
            connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))?;
        let found = match found {
            rusqlite::types::Value::Text(text) => text,
            rusqlite::types::Value::Integer(number) => number.to_string(),
            _ => String::new(),
        };
        ensure!(
            found == expected,
            "the pragma {pragma} is {found}, must be {expected}"
        );
    }
    let (mut rows, mut indexes) = (BTreeMap::new(), BTreeSet::new());
    for table in &TABLES {
        rows.insert(table.name.to_owned(), check_table(connection, table)?);
        indexes.extend(table.indexes.iter().map(|index| index.0.to_owned()));
    }
    let (sync_id, sync_type, stats) = check_run(connection)?;
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
    let summary = Summary {
        database_bytes: 0,
        rows,
        indexes,
        sync_id,
        sync_type,
        resources: by_type("v1_resources")?,
        entitlements: by_type("v1_entitlements")?,
        grants: by_type("v1_grants")?,
    };
    if let Some(stats) = stats {
        check_stats(&stats, &summary)?;
    }
    Ok(summary)
}

/// Columns, indexes and time stamps of a table; answers with its number of rows.
fn check_table(connection: &Connection, table: &Table) -> anyhow::Result<u64> {
    let name = table.name;
    let texts = |sql: &str, of: &str| -> anyhow::Result<Vec<String>> {
        Ok(connection
            .prepare(sql)?
            .query_map([of], |row| row.get(0))?
            .collect::<Result<_, _>>()?)
    };
    let columns = texts("SELECT name FROM pragma_table_info(?1) ORDER BY cid", name)?;
    ensure!(!columns.is_empty(), "the table {name} is missing");
    let expected: Vec<&str> = table.columns.split_whitespace().collect();
    ensure!(
        columns == expected,
        "the table {name} has the columns {}, must have {}",
        columns.join(" "),
        expected.join(" ")
    );
    for Index(index, is_unique, expected, condition) in table.indexes {
        let found: Option<(bool, bool)> = connection
            .prepare("SELECT \"unique\", partial FROM pragma_index_list(?1) WHERE name = ?2")?
            .query_map([name, index], |row| Ok((row.get(0)?, row.get(1)?)))?
            .next()
            .transpose()?;
        let Some((unique, partial)) = found else {
            bail!("the index {index} is missing");
        };
        ensure!(
            unique == *is_unique,
            "the index {index} must {}be unique",
            if *is_unique { "" } else { "not " }
        );
        let columns = texts(
            "SELECT name FROM pragma_index_info(?1) ORDER BY seqno",
            index,
        )?;
        ensure!(
            columns.join(" ") == *expected,
            "the index {index} has the columns {}, must have {expected}",
            columns.join(" ")
        );
        let sql = texts(
            "SELECT lower(sql) FROM sqlite_master WHERE name = ?1",
            index,
        )?
        .concat();
        ensure!(
            partial == condition.is_some()
                && condition.is_none_or(|condition| sql.trim_end().ends_with(condition)),
            "the index {index} must have the condition {:?}",
            condition.unwrap_or("")
        );
    }
    if expected.contains(&"discovered_at") {
        let wrong: i64 = connection.query_row(
            &format!(
                "SELECT count(*) FROM {name} WHERE typeof(discovered_at) <> 'text' OR discovered_at NOT GLOB
                 '[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]*'"
            ),
            [],
            |row| row.get(0),
        )?;
        ensure!(
            wrong == 0,
            "{wrong} rows of {name} have a discovered_at that is not YYYY-MM-DD HH:MM:SS"
        );
    }
    let count: i64 = connection.query_row(&format!("SELECT count(*) FROM {name}"), [], |row| {
        row.get(0)
    })?;
    Ok(u64::try_from(count)?)
}

/// The one sync of the file: id, type and statistics.
fn check_run(connection: &Connection) -> anyhow::Result<(String, String, Option<String>)> {
    let count: i64 =
        connection.query_row("SELECT count(*) FROM v1_sync_runs", [], |row| row.get(0))?;
    ensure!(count == 1, "the file holds {count} syncs, must hold one");
    let mut query = connection.prepare(
        "SELECT sync_id, sync_type, started_at, ended_at, sync_token, parent_sync_id, linked_sync_id,
                supports_diff, grants_backfilled, stats FROM v1_sync_runs",
    )?;
    let mut rows = query.query([])?;
    let row = rows.next()?.context("the sync is gone")?;
    let (sync_id, sync_type): (String, String) = (row.get(0)?, row.get(1)?);
    let (started, ended): (String, Option<String>) = (row.get(2)?, row.get(3)?);
    let (token, parent, linked): (String, String, String) = (row.get(4)?, row.get(5)?, row.get(6)?);
    let (supports_diff, backfilled): (i64, i64) = (row.get(7)?, row.get(8)?);
    ensure!(
        rules::is_task_id(&sync_id),
        "the sync id must be a KSUID of 27 letters and digits"
    );
    ensure!(
        matches!(sync_type.as_str(), "full" | "partial" | "resources_only"),
        "the sync type {sync_type:?} does not exist"
    );
    let ended = ended.context("the sync in the file is not finished (ended_at is NULL)")?;
    let instant = |column: &str, text: &str| {
        DateTime::strptime("%Y-%m-%d %H:%M:%S%.f", text)
            .with_context(|| format!("{column} is not YYYY-MM-DD HH:MM:SS"))
    };
    ensure!(
        instant("started_at", &started)? <= instant("ended_at", &ended)?,
        "the sync ended before it began"
    );
    ensure!(
        serde_json::from_str::<Value>(&token).is_ok_and(|token| token.is_object()),
        "the sync token of a finished sync must be a JSON object"
    );
    ensure!(
        linked.is_empty() && (sync_type == "partial" || parent.is_empty()),
        "the sync must have no parent and no linked sync"
    );
    ensure!(
        supports_diff == i64::from(sync_type == "full"),
        "supports_diff must be 1 for a full sync and 0 for any other, is {supports_diff}"
    );
    ensure!(backfilled == 1, "grants_backfilled must be 1");
    Ok((sync_id, sync_type, row.get(9)?))
}

/// The stored statistics must be what the rows are.
fn check_stats(stats: &str, summary: &Summary) -> anyhow::Result<()> {
    let stats: Value = serde_json::from_str(stats).context("the statistics are not JSON")?;
    let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or_default();
    for (field, by_type, table, counts) in [
        ("resource_types", "", "v1_resource_types", None),
        (
            "resources",
            "resources_by_resource_type",
            "v1_resources",
            Some(&summary.resources),
        ),
        (
            "entitlements",
            "entitlements_by_resource_type",
            "v1_entitlements",
            Some(&summary.entitlements),
        ),
        (
            "grants",
            "grants_by_resource_type",
            "v1_grants",
            Some(&summary.grants),
        ),
    ] {
        let expected = summary.rows.get(table).copied().unwrap_or_default();
        let found = number(stats.get(field));
        ensure!(
            found == expected,
            "the statistics count {found} {field}, the table has {expected} rows"
        );
        for (kind, expected) in counts.into_iter().flatten() {
            let found = number(stats.get(by_type).and_then(|counts| counts.get(kind)));
            ensure!(
                found == *expected,
                "the statistics count {found} {field} of type {kind}, the table has {expected}"
            );
        }
    }
    Ok(())
}
