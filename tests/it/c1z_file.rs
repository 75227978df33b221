//! A produced file, looked at with nothing of ours: zstd and SQLite directly, and their command lines where installed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use baton_jumpcloud::{
    c1z::{self, Finish, GrantFilter, InvariantMarker, Limits, Reader, SyncStart, Writer},
    clock::ManualClock,
    error::{Class, Classify},
    model,
    proto::{self, connector as v2},
    syncer::{
        self, Environment, NoProgress, Report, SyncRequest,
        fake::{FakeConnector, entitlement, expandable, grant, id, resource, resource_type},
    },
};
use jiff::Timestamp;
use prost::Message;
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const MAGIC: &[u8] = b"C1ZF\0";

fn start() -> Timestamp {
    "2026-08-01T10:00:00.123456789Z".parse().unwrap()
}

fn tenant() -> FakeConnector {
    use v2::resource_type::Trait;
    let group = resource("group", "g", vec![proto::pack(&v2::GroupTrait::default())]);
    let app = v2::Resource {
        parent_resource_id: Some(id("group", "g")),
        ..resource("app", "a", vec![proto::pack(&v2::AppTrait::default())])
    };
    let member = entitlement(&group, "member");
    let access = entitlement(&app, "access");
    let mut parent = group.clone();
    parent.annotations.push(proto::pack(&v2::ChildResourceType {
        resource_type_id: "app".to_owned(),
    }));
    let mut second = grant(&access, &id("user", "u1"));
    "another id".clone_into(&mut second.id);
    let mut connector = FakeConnector::new()
        .with_type(resource_type(
            "user",
            &[Trait::User],
            vec![proto::pack(&v2::SkipEntitlementsAndGrants::default())],
        ))
        .with_type(resource_type("group", &[Trait::Group], vec![]))
        .with_type(resource_type("app", &[Trait::App], vec![]))
        .with_resource(parent)
        .with_resource(app)
        .with_entitlement(member.clone())
        .with_entitlement(access.clone())
        .with_grant(expandable(
            &access,
            &id("group", "g"),
            &v2::GrantExpandable {
                entitlement_ids: vec![member.id.clone()],
                shallow: true,
                resource_type_ids: vec!["user".to_owned()],
            },
        ))
        .with_grant(grant(&access, &id("user", "u1")))
        .with_grant(second);
    for number in 1..=3 {
        let name = format!("u{number}");
        connector = connector
            .with_resource(resource(
                "user",
                &name,
                vec![proto::pack(&v2::UserTrait::default())],
            ))
            .with_grant(grant(&member, &id("user", &name)));
    }
    connector
}

struct Produced {
    folder: TempDir,
    file: PathBuf,
    report: Report,
}

async fn produce() -> Produced {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sync.c1z");
    let report = syncer::sync_to_file(
        &tenant(),
        &SyncRequest::default(),
        Environment {
            work_dir: folder.path(),
            clock: &ManualClock::new(start()),
            progress: &NoProgress,
            cancel: &CancellationToken::new(),
            keep: false,
        },
        &file,
    )
    .await
    .unwrap();
    Produced {
        folder,
        file,
        report,
    }
}

/// Unpacks with the zstd library alone.
fn unpack(file: &Path) -> PathBuf {
    let bytes = fs::read(file).unwrap();
    let mut decoded = Vec::new();
    zstd::stream::read::Decoder::new(bytes.strip_prefix(MAGIC).unwrap())
        .unwrap()
        .read_to_end(&mut decoded)
        .unwrap();
    let database = file.with_extension("db");
    fs::write(&database, decoded).unwrap();
    database
}

fn open(database: &Path) -> Connection {
    Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

/// A sealed file around any bytes.
fn seal(path: &Path, content: &[u8], declare: bool) {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    if declare {
        encoder
            .set_pledged_src_size(Some(content.len() as u64))
            .unwrap();
    }
    encoder.write_all(content).unwrap();
    let mut bytes = MAGIC.to_vec();
    bytes.extend(encoder.finish().unwrap());
    fs::write(path, bytes).unwrap();
}

type Columns = &'static [(&'static str, &'static str, bool)];

const TABLES: [(&str, Columns); 7] = [
    (
        "v1_resource_types",
        &[
            ("external_id", "text", true),
            ("data", "blob", true),
            ("sync_id", "text", true),
            ("discovered_at", "datetime", true),
        ],
    ),
    (
        "v1_resources",
        &[
            ("resource_type_id", "text", true),
            ("external_id", "text", true),
            ("parent_resource_type_id", "text", false),
            ("parent_resource_id", "text", false),
            ("data", "blob", true),
            ("sync_id", "text", true),
            ("discovered_at", "datetime", true),
        ],
    ),
    (
        "v1_entitlements",
        &[
            ("resource_type_id", "text", true),
            ("resource_id", "text", true),
            ("external_id", "text", true),
            ("data", "blob", true),
            ("sync_id", "text", true),
            ("discovered_at", "datetime", true),
        ],
    ),
    (
        "v1_sync_runs",
        &[
            ("sync_id", "text", true),
            ("started_at", "datetime", true),
            ("ended_at", "datetime", false),
            ("sync_token", "text", true),
            ("sync_type", "text", true),
            ("parent_sync_id", "text", true),
            ("linked_sync_id", "text", true),
            ("supports_diff", "integer", true),
            ("grants_backfilled", "integer", true),
            ("stats", "text", false),
            ("ingest_invariant_generation", "text", true),
            ("ingest_invariant_coverage", "text", true),
            ("ingest_invariant_mode", "text", true),
        ],
    ),
    (
        "v1_grants",
        &[
            ("resource_type_id", "text", true),
            ("resource_id", "text", true),
            ("entitlement_id", "text", true),
            ("principal_resource_type_id", "text", true),
            ("principal_resource_id", "text", true),
            ("external_id", "text", true),
            ("expansion", "blob", false),
            ("needs_expansion", "integer", true),
            ("data", "blob", true),
            ("sync_id", "text", true),
            ("discovered_at", "datetime", true),
        ],
    ),
    (
        "v1_assets",
        &[
            ("external_id", "text", true),
            ("content_type", "text", true),
            ("data", "blob", true),
            ("sync_id", "text", true),
            ("discovered_at", "datetime", true),
        ],
    ),
    (
        "v1_connector_sessions",
        &[
            ("sync_id", "text", true),
            ("key", "text", true),
            ("value", "blob", true),
        ],
    ),
];

const INDEXES: [&str; 16] = [
    "create unique index idx_resource_types_external_sync_v1 on v1_resource_types (external_id, sync_id)",
    "create index idx_resources_resource_type_id_v1 on v1_resources (resource_type_id)",
    "create index idx_resources_external_sync_v1 on v1_resources (parent_resource_type_id, parent_resource_id)",
    "create unique index idx_resources_parent_resource_id_v1 on v1_resources (external_id, sync_id)",
    "create index idx_entitlements_resource_id_v1 on v1_entitlements (resource_type_id, resource_id)",
    "create unique index idx_entitlements_external_sync_v1 on v1_entitlements (external_id, sync_id)",
    "create unique index idx_sync_runs_sync_id_v1 on v1_sync_runs (sync_id)",
    "create index idx_grants_resource_type_id_resource_id_v1 on v1_grants (resource_type_id, resource_id)",
    "create index idx_grants_principal_id_v1 on v1_grants (principal_resource_type_id, principal_resource_id)",
    "create index idx_grants_entitlement_id_principal_id_v1 on v1_grants (entitlement_id, principal_resource_type_id, principal_resource_id)",
    "create unique index idx_grants_external_sync_v1 on v1_grants (external_id, sync_id)",
    "create index idx_grants_entitlement_sync_grant_v1 on v1_grants (entitlement_id, sync_id, id)",
    "create index idx_grants_sync_expansion_v1 on v1_grants (sync_id) where expansion is not null",
    "create index idx_grants_sync_needs_expansion_v1 on v1_grants (sync_id) where needs_expansion = 1",
    "create unique index idx_assets_external_sync_v1 on v1_assets (external_id, sync_id)",
    "create unique index idx_session_store_sync_key_v1 on v1_connector_sessions (sync_id, key)",
];

#[tokio::test]
async fn the_schema_is_that_of_the_format() {
    let produced = produce().await;
    let database = open(&unpack(&produced.file));
    let names = |kind: &str| -> BTreeSet<String> {
        database
            .prepare("select name from sqlite_master where type = ?1")
            .unwrap()
            .query_map([kind], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect()
    };
    let expected: BTreeSet<_> = TABLES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("table"), expected);
    for (table, columns) in TABLES {
        let found: Vec<(String, String, bool, bool)> = database
            .prepare(&format!("pragma table_info({table})"))
            .unwrap()
            .query_map([], |row| {
                Ok((row.get(1)?, row.get(2)?, row.get(3)?, row.get(5)?))
            })
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let (name, kind, required, is_key) = &found[0];
        assert_eq!(
            (
                name.as_str(),
                kind.to_lowercase().as_str(),
                *required,
                *is_key
            ),
            ("id", "integer", false, true),
            "{table}"
        );
        let rest: Vec<_> = found[1..]
            .iter()
            .map(|(name, kind, required, _)| (name.as_str(), kind.to_lowercase(), *required))
            .collect();
        let expected: Vec<_> = columns
            .iter()
            .map(|(name, kind, required)| (*name, (*kind).to_owned(), *required))
            .collect();
        assert_eq!(rest, expected, "{table}");
    }
    let mut indexes: Vec<String> = database
        .prepare("select sql from sqlite_master where type = 'index' and sql is not null")
        .unwrap()
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap()
        .map(|sql| sql.unwrap().to_lowercase())
        .collect();
    indexes.sort();
    let mut expected: Vec<_> = INDEXES.iter().map(|&sql| sql.to_owned()).collect();
    expected.sort();
    assert_eq!(indexes, expected);
    let defaults: BTreeMap<String, String> = database
        .prepare("select name, dflt_value from pragma_table_info('v1_sync_runs') where dflt_value is not null")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(defaults["sync_type"], "'full'");
    assert_eq!(defaults["parent_sync_id"], "''");
    assert_eq!(defaults["supports_diff"], "0");
}

#[tokio::test]
async fn the_database_is_a_plain_one_without_a_log() {
    let produced = produce().await;
    let bytes = fs::read(unpack(&produced.file)).unwrap();
    assert_eq!(&bytes[..16], b"SQLite format 3\0");
    assert_eq!(bytes[16..18], [16, 0], "page size 4096");
    assert_eq!(bytes[18..20], [1, 1], "no write-ahead log");
    assert_eq!(bytes[56..60], [0, 0, 0, 1], "UTF-8");
    assert_eq!(bytes[60..64], [0; 4], "user version");
    assert_eq!(bytes[68..72], [0; 4], "application id");
    let database = open(&produced.file.with_extension("db"));
    let check: String = database
        .query_row("pragma integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}

#[tokio::test]
async fn the_envelope_is_one_frame_with_size_and_checksum() {
    let produced = produce().await;
    let bytes = fs::read(&produced.file).unwrap();
    assert_eq!(bytes.len() as u64, produced.report.file_bytes);
    let frame = bytes.strip_prefix(MAGIC).unwrap();
    let size = fs::metadata(unpack(&produced.file)).unwrap().len();
    assert_eq!(
        zstd::zstd_safe::get_frame_content_size(frame).unwrap(),
        Some(size)
    );
    assert_eq!(
        zstd::zstd_safe::find_frame_compressed_size(frame).unwrap(),
        frame.len(),
        "one frame and nothing after it"
    );
    assert_eq!(frame[4] & 0b100, 0b100, "content checksum");
    assert_eq!(frame[4] & 0b11, 0, "no dictionary");
    let is_single_segment = frame[4] & 0b10_0000 != 0;
    if is_single_segment {
        assert!(size <= 8 << 20);
    } else {
        assert!(10 + (frame[5] >> 3) <= 23, "window of at most 8 MiB");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn only_its_owner_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let produced = produce().await;
    let mode = fs::metadata(&produced.file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let left: Vec<_> = fs::read_dir(produced.folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing beside the file");
}

#[tokio::test]
async fn columns_repeat_what_the_blobs_say() {
    let produced = produce().await;
    let database = open(&unpack(&produced.file));
    let sync_id = &produced.report.sync_id;

    let mut select = database
        .prepare(
            "select external_id, data, sync_id, discovered_at from v1_resource_types order by id",
        )
        .unwrap();
    let mut rows = select.query([]).unwrap();
    let mut types = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let blob: Vec<u8> = row.get(1).unwrap();
        let message = v2::ResourceType::decode(blob.as_slice()).unwrap();
        assert_eq!(message.id, row.get::<_, String>(0).unwrap());
        assert_eq!(&row.get::<_, String>(2).unwrap(), sync_id);
        assert_eq!(
            row.get::<_, String>(3).unwrap(),
            "2026-08-01 10:00:00.123456789"
        );
        types.push(message.id);
    }
    assert_eq!(types, ["user", "group", "app"]);

    let mut select = database
        .prepare(
            "select resource_type_id, external_id, parent_resource_type_id, parent_resource_id, data
             from v1_resources",
        )
        .unwrap();
    let mut rows = select.query([]).unwrap();
    let mut parents = BTreeMap::new();
    while let Some(row) = rows.next().unwrap() {
        let blob: Vec<u8> = row.get(4).unwrap();
        let message = v2::Resource::decode(blob.as_slice()).unwrap();
        let own = message.id.unwrap();
        assert_eq!(own.resource_type, row.get::<_, String>(0).unwrap());
        assert_eq!(model::resource_text(&own), row.get::<_, String>(1).unwrap());
        let parent: (Option<String>, Option<String>) = (row.get(2).unwrap(), row.get(3).unwrap());
        assert_eq!(
            parent,
            match message.parent_resource_id {
                Some(parent) => (Some(parent.resource_type), Some(parent.resource)),
                None => (None, None),
            }
        );
        parents.insert(model::resource_text(&own), parent.0.is_some());
    }
    assert_eq!(parents.len(), 5);
    assert!(parents["app:a"] && !parents["group:g"]);

    let mut select = database
        .prepare("select resource_type_id, resource_id, external_id, data from v1_entitlements")
        .unwrap();
    let mut rows = select.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let blob: Vec<u8> = row.get(3).unwrap();
        let message = v2::Entitlement::decode(blob.as_slice()).unwrap();
        let own = message.resource.unwrap().id.unwrap();
        assert_eq!(own.resource_type, row.get::<_, String>(0).unwrap());
        assert_eq!(own.resource, row.get::<_, String>(1).unwrap());
        assert_eq!(message.id, row.get::<_, String>(2).unwrap());
    }
}

#[tokio::test]
async fn every_grant_is_whole_and_the_only_one_of_its_pair() {
    let produced = produce().await;
    let database = open(&unpack(&produced.file));
    let mut select = database
        .prepare(
            "select resource_type_id, resource_id, entitlement_id, principal_resource_type_id,
                    principal_resource_id, external_id, expansion, needs_expansion, data from v1_grants",
        )
        .unwrap();
    let mut rows = select.query([]).unwrap();
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().unwrap() {
        let text = |column: usize| row.get::<_, String>(column).unwrap();
        let blob: Vec<u8> = row.get(8).unwrap();
        let message = v2::Grant::decode(blob.as_slice()).unwrap();
        let given = message.entitlement.unwrap();
        let owner = given.resource.unwrap().id.unwrap();
        let principal = message.principal.unwrap().id.unwrap();
        assert_eq!(
            (owner.resource_type, owner.resource, given.id),
            (text(0), text(1), text(2))
        );
        assert_eq!(
            (principal.resource_type, principal.resource, message.id),
            (text(3), text(4), text(5))
        );
        assert!(!proto::has::<v2::GrantExpandable>(&message.annotations));
        let expansion: Option<Vec<u8>> = row.get(6).unwrap();
        assert_eq!(
            row.get::<_, i64>(7).unwrap(),
            i64::from(expansion.is_some())
        );
        found.insert(text(5), expansion);
    }
    let ids: Vec<_> = found.keys().map(String::as_str).collect();
    assert_eq!(
        ids,
        [
            "app:a:access:group:g",
            "app:a:access:user:u1",
            "app:a:access:user:u2",
            "app:a:access:user:u3",
            "group:g:member:user:u1",
            "group:g:member:user:u2",
            "group:g:member:user:u3",
        ]
    );
    let expansion = found["app:a:access:group:g"].as_deref().unwrap();
    let expansion = v2::GrantExpandable::decode(expansion).unwrap();
    assert_eq!(expansion.entitlement_ids, ["group:g:member"]);
    assert!(expansion.shallow);
    assert_eq!(expansion.resource_type_ids, ["user"]);
    assert_eq!(found.values().flatten().count(), 1);
    let pairs: i64 = database
        .query_row(
            "select count(*) from (select distinct entitlement_id, principal_resource_type_id,
                                   principal_resource_id from v1_grants)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(pairs, 7);
    assert_eq!(produced.report.warnings.len(), 1, "the second of a pair");
}

#[tokio::test]
async fn the_run_is_finished_and_tells_what_it_holds() {
    let produced = produce().await;
    let database = open(&unpack(&produced.file));
    let count: i64 = database
        .query_row("select count(*) from v1_sync_runs", [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 1);
    let text = |column: &str| -> String {
        database
            .query_row(&format!("select {column} from v1_sync_runs"), [], |row| {
                row.get(0)
            })
            .unwrap()
    };
    assert_eq!(text("sync_id").len(), 27);
    for column in ["started_at", "ended_at"] {
        assert_eq!(text(column), "2026-08-01 10:00:00.123456789");
        assert_eq!(text(&format!("typeof({column})")), "text");
    }
    assert_eq!(text("sync_type"), "full");
    assert_eq!(text("parent_sync_id"), "");
    assert_eq!(text("linked_sync_id"), "");
    assert_eq!(text("supports_diff || ' ' || grants_backfilled"), "1 1");
    assert_eq!(text("ingest_invariant_generation"), "1");
    assert_eq!(text("ingest_invariant_coverage"), r#"["I5","I10"]"#);
    assert_eq!(text("ingest_invariant_mode"), "connector");
    let token: serde_json::Value = serde_json::from_str(&text("sync_token")).unwrap();
    assert_eq!(token["version"], 1);
    assert_eq!(token["needs_expansion"], true);
    let stats: serde_json::Value = serde_json::from_str(&text("stats")).unwrap();
    assert_eq!(stats["resource_types"], 3);
    assert_eq!(stats["resources"], 5);
    assert_eq!(stats["entitlements"], 2);
    assert_eq!(stats["grants"], 7);
    assert_eq!(
        stats["resources_by_resource_type"],
        serde_json::json!({"app": 1, "group": 1, "user": 3})
    );
    assert_eq!(
        stats["grants_by_resource_type"],
        serde_json::json!({"app": 4, "group": 3})
    );
}

#[tokio::test]
async fn plain_command_lines_open_the_file() {
    let has = |tool: &str| {
        Command::new(tool)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if !has("zstd") || !has("sqlite3") {
        eprintln!("zstd or sqlite3 is not installed; the library tests cover the same file");
        return;
    }
    let produced = produce().await;
    let frame = produced.folder.path().join("frame.zst");
    let bytes = fs::read(&produced.file).unwrap();
    fs::write(&frame, bytes.strip_prefix(MAGIC).unwrap()).unwrap();
    let database = produced.folder.path().join("plain.db");
    let unpacked = Command::new("zstd")
        .args(["-d", "-q", "-o"])
        .args([&database, &frame])
        .status()
        .unwrap();
    assert!(unpacked.success());
    let output = Command::new("sqlite3")
        .arg(&database)
        .arg("select count(*), sum(needs_expansion) from v1_grants; pragma integrity_check;")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "7|1\nok\n");
}

#[tokio::test]
async fn the_same_data_gives_the_same_blobs() {
    let blobs = |file: &Path| -> Vec<(String, Vec<u8>)> {
        open(&unpack(file))
            .prepare("select external_id, data from v1_grants order by external_id")
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect()
    };
    let (first, second) = (produce().await, produce().await);
    assert_eq!(blobs(&first.file), blobs(&second.file));
}

#[tokio::test]
async fn the_reader_lists_by_owner_entitlement_and_principal() {
    let produced = produce().await;
    let reader = Reader::open(&produced.file, produced.folder.path()).unwrap();
    let sync = reader.latest_sync().unwrap().sync_id;
    let count = |filter: GrantFilter<'_>| reader.grants(&sync, filter).map(Result::unwrap).count();
    assert_eq!(count(GrantFilter::All), 7);
    assert_eq!(count(GrantFilter::ResourceType("app")), 4);
    assert_eq!(count(GrantFilter::Resource(&id("group", "g"))), 3);
    assert_eq!(count(GrantFilter::Entitlement("app:a:access")), 4);
    assert_eq!(count(GrantFilter::Principal(&id("user", "u1"))), 2);
    assert_eq!(reader.resource_types(&sync).count(), 3);
    assert_eq!(reader.entitlements(&sync, Some(&id("app", "a"))).count(), 1);
    assert_eq!(reader.entitlements(&sync, None).count(), 2);
    assert!(reader.resource(&sync, &id("user", "u9")).unwrap().is_none());
    assert!(reader.entitlement(&sync, "app:a:access").unwrap().is_some());
    assert_eq!(reader.stats(&sync).unwrap().grants, produced.report.grants);
}

#[tokio::test]
async fn a_file_in_write_ahead_mode_is_read() {
    let produced = produce().await;
    let mut bytes = fs::read(unpack(&produced.file)).unwrap();
    bytes[18..20].copy_from_slice(&[2, 2]);
    let file = produced.folder.path().join("wal.c1z");
    seal(&file, &bytes, true);
    let reader = Reader::open(&file, produced.folder.path()).unwrap();
    assert_eq!(reader.syncs().unwrap().len(), 1);
}

#[test]
fn bad_files_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.c1z");
    let read = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        Reader::open(&file, folder.path()).unwrap_err()
    };
    assert!(matches!(read(b""), c1z::Error::Magic { .. }));
    assert!(matches!(read(b"C1Z"), c1z::Error::Magic { .. }));
    let error = read(b"PK\x03\x04 this is a zip");
    assert_eq!(
        error.to_string(),
        "not a c1z file: it begins with 50 4b 03 04 20, not with the bytes 43 31 5a 46 00"
    );
    assert!(matches!(read(b"C1Z3\0rest"), c1z::Error::FormatV3));
    assert!(matches!(read(b"C1ZF\0"), c1z::Error::Frame { .. }));
    assert!(matches!(read(b"C1ZF\0garbage!"), c1z::Error::Frame { .. }));
    for content in [&b""[..], b"hello", &[7; 5000]] {
        seal(&file, content, true);
        assert!(matches!(
            Reader::open(&file, folder.path()).unwrap_err(),
            c1z::Error::NotDatabase
        ));
    }
    let missing = Reader::open(&folder.path().join("none.c1z"), folder.path()).unwrap_err();
    assert!(matches!(missing, c1z::Error::Io { .. }));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn files_cut_short_or_changed_are_refused_or_read_whole() {
    let produced = produce().await;
    let bytes = fs::read(&produced.file).unwrap();
    let file = produced.folder.path().join("cut.c1z");
    for end in [6, 12, 40, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&file, &bytes[..end]).unwrap();
        let error = Reader::open(&file, produced.folder.path()).unwrap_err();
        assert_eq!(error.class(), Class::Permanent, "cut at {end}: {error}");
    }
    for position in (5..bytes.len()).step_by(97) {
        let mut changed = bytes.clone();
        changed[position] ^= 0x55;
        fs::write(&file, &changed).unwrap();
        assert!(
            Reader::open(&file, produced.folder.path()).is_err(),
            "the checksum covers byte {position}"
        );
    }
}

#[test]
fn files_that_decode_to_more_than_the_limit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bomb.c1z");
    let limits = Limits {
        decoded_bytes: 1 << 20,
    };
    for declare in [true, false] {
        seal(&file, &vec![0; 64 << 20], declare);
        assert!(fs::metadata(&file).unwrap().len() < 64 << 10);
        match Reader::open_with(&file, folder.path(), limits) {
            Err(c1z::Error::TooLarge { limit, declared }) => {
                assert_eq!(limit, 1 << 20);
                assert_eq!(declared.is_some(), declare);
            }
            other => panic!("{other:?}"),
        }
    }
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    encoder.write_all(&vec![1; 1 << 20]).unwrap();
    let mut bytes = MAGIC.to_vec();
    bytes.extend(encoder.finish().unwrap());
    fs::write(&file, bytes).unwrap();
    assert!(matches!(
        Reader::open(&file, folder.path()).unwrap_err(),
        c1z::Error::Frame { .. }
    ));
}

#[tokio::test]
async fn databases_that_break_the_format_give_errors_that_name_the_place() {
    let produced = produce().await;
    let database = unpack(&produced.file);
    let file = produced.folder.path().join("odd.c1z");
    let spoil = |sql: &str| {
        let copy = produced.folder.path().join("copy.db");
        fs::copy(&database, &copy).unwrap();
        let connection = Connection::open(&copy).unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        seal(&file, &fs::read(&copy).unwrap(), true);
        Reader::open(&file, produced.folder.path())
    };
    assert!(matches!(
        spoil("drop table v1_grants").unwrap_err(),
        c1z::Error::MissingTable { table: "v1_grants" }
    ));
    let unfinished = spoil("update v1_sync_runs set ended_at = null").unwrap();
    assert!(matches!(
        unfinished.latest_sync(),
        Err(c1z::Error::NoFinishedSync)
    ));
    assert_eq!(unfinished.syncs().unwrap().len(), 1);
    let undated = spoil("update v1_sync_runs set started_at = 'yesterday'").unwrap();
    assert!(matches!(
        undated.syncs(),
        Err(c1z::Error::Column {
            column: "started_at",
            ..
        })
    ));
    let sync = &produced.report.sync_id;
    let garbled = spoil("update v1_grants set data = x'0aff'").unwrap();
    let mut rows = garbled.grants(sync, GrantFilter::All);
    assert!(matches!(
        rows.next(),
        Some(Err(c1z::Error::Blob {
            table: "v1_grants",
            ..
        }))
    ));
    assert!(rows.next().is_none(), "a listing ends after an error");
    let numeric = spoil("update v1_resources set data = 7").unwrap();
    assert!(matches!(
        numeric
            .resources(sync, c1z::ResourceFilter::All)
            .next()
            .unwrap(),
        Err(c1z::Error::Column { column: "data", .. })
    ));
    assert!(
        spoil("update v1_sync_runs set sync_token = x'00'")
            .unwrap()
            .syncs()
            .is_err()
    );
}

fn run_start() -> SyncStart {
    SyncStart {
        sync_id: model::SyncId::generate(start()).into(),
        sync_type: "full".to_owned(),
        started_at: start(),
    }
}

/// A writer that nobody cancels.
async fn begun(folder: &Path) -> Writer {
    Writer::create(folder, run_start(), CancellationToken::new())
        .await
        .unwrap()
}

fn run_finish() -> Finish {
    Finish {
        ended_at: start(),
        token: r#"{"version":1}"#.to_owned(),
        supports_diff: true,
        invariants: None::<InvariantMarker>,
        step_durations_ms: BTreeMap::new(),
    }
}

#[tokio::test]
async fn a_row_written_again_keeps_its_place_and_gets_the_new_data() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sync.c1z");
    let writer = begun(folder.path()).await;
    let owner = resource("app", "a", vec![]);
    let given = entitlement(&owner, "access");
    let plain = grant(&given, &id("group", "g"));
    let passing = |source: &str| {
        expandable(
            &given,
            &id("group", "g"),
            &v2::GrantExpandable {
                entitlement_ids: vec![source.to_owned()],
                ..v2::GrantExpandable::default()
            },
        )
    };
    let blank = passing("  ");
    let versions = [plain.clone(), passing("s1"), passing("s2"), blank, plain];
    let mut states = Vec::new();
    for version in versions {
        let state = writer
            .run(move |store| {
                store.put_grants(vec![version], start())?;
                let expandable = store.expandable_grants(0, 10)?;
                Ok(expandable
                    .first()
                    .map(|row| row.expansion.entitlement_ids.clone()))
            })
            .await
            .unwrap();
        states.push(state);
    }
    let ids = |id: &str| Some(vec![id.to_owned()]);
    assert_eq!(states, [None, ids("s1"), ids("s2"), None, None]);
    let renamed = v2::Resource {
        display_name: "renamed".to_owned(),
        ..owner.clone()
    };
    writer
        .run(move |store| {
            store.put_resources(&[owner], start())?;
            let later = "2027-01-01T00:00:00Z".parse().unwrap();
            store.put_resources(&[renamed], later)
        })
        .await
        .unwrap();
    let sealed = writer.seal(Some(run_finish()), true, &file).await.unwrap();
    assert_eq!(sealed.counts.resources["app"], 1);
    assert_eq!(sealed.counts.grants["app"], 1);
    let database = open(&unpack(&file));
    let (seen, blob): (String, Vec<u8>) = database
        .query_row("select discovered_at, data from v1_resources", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!(seen, "2026-08-01 10:00:00.123456789");
    assert_eq!(
        v2::Resource::decode(blob.as_slice()).unwrap().display_name,
        "renamed"
    );
}

#[tokio::test]
async fn a_writer_that_is_cancelled_or_cannot_write_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cancel = CancellationToken::new();
    let writer = Writer::create(folder.path(), run_start(), cancel.clone())
        .await
        .unwrap();
    cancel.cancel();
    let target = folder.path().join("sync.c1z");
    assert!(matches!(
        writer.seal(Some(run_finish()), true, &target).await,
        Err(c1z::Error::Cancelled)
    ));

    let writer = begun(folder.path()).await;
    let nowhere = folder.path().join("no such folder").join("sync.c1z");
    let error = writer
        .seal(Some(run_finish()), true, &nowhere)
        .await
        .unwrap_err();
    assert!(matches!(error, c1z::Error::Io { .. }));
    assert_eq!(error.class(), Class::Retryable);

    let writer = begun(folder.path()).await;
    let occupied = folder.path().join("occupied");
    fs::create_dir_all(occupied.join("by a folder")).unwrap();
    writer
        .seal(Some(run_finish()), true, &occupied)
        .await
        .unwrap_err();
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["occupied"], "the temporary file is gone too");

    let missing = Writer::create(
        &folder.path().join("missing"),
        run_start(),
        CancellationToken::new(),
    )
    .await;
    assert!(matches!(missing, Err(c1z::Error::Io { .. })));
}

#[tokio::test]
async fn work_on_the_file_that_never_ends_is_ended_by_cancellation() {
    let folder = tempfile::tempdir().unwrap();
    let cancel = CancellationToken::new();
    let writer = Writer::create(folder.path(), run_start(), cancel.clone())
        .await
        .unwrap();
    let endless = writer.run(|store| -> Result<(), c1z::Error> {
        for number in 0_u64.. {
            let row = resource("user", &number.to_string(), vec![]);
            store.put_resources(&[row], start())?;
        }
        Ok(())
    });
    let (result, ()) = tokio::join!(endless, async { cancel.cancel() });
    assert!(matches!(result, Err(c1z::Error::Cancelled)));
    writer.discard().await;
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn work_goes_on_while_somebody_does_not_look_at_the_end_of_his() {
    let folder = tempfile::tempdir().unwrap();
    let writer = begun(folder.path()).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |number: u32| {
        let order = Arc::clone(&order);
        writer.run(move |_store| {
            order.lock().unwrap().push(number);
            Ok(number)
        })
    };
    let mut unwatched = Vec::new();
    for number in 0..50 {
        let mut work = Box::pin(note(number));
        // Begun, and not looked at again until all else is done.
        if futures_util::poll!(&mut work).is_pending() {
            unwatched.push(work);
        }
    }
    assert_eq!(note(50).await.unwrap(), 50);
    assert_eq!(
        *order.lock().unwrap(),
        (0..=50).collect::<Vec<_>>(),
        "in the order in which it was given"
    );
    futures_util::future::try_join_all(unwatched).await.unwrap();
    writer.discard().await;
}

#[tokio::test]
async fn after_a_panic_in_work_nothing_more_is_done_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let writer = begun(folder.path()).await;
    let broken: Result<(), _> = writer.run(|_store| panic!("on purpose")).await;
    assert!(matches!(broken, Err(c1z::Error::Stopped)));
    let later = writer.run(|_store| Ok(())).await;
    assert!(matches!(later, Err(c1z::Error::Stopped)));
    let target = folder.path().join("sync.c1z");
    let sealed = writer.seal(Some(run_finish()), true, &target).await;
    assert!(matches!(sealed, Err(c1z::Error::Stopped)));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_a_killed_process_left_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sync.c1z");
    let stale = folder.path().join("sync.c1z.tmp");
    fs::write(&stale, vec![7; 1 << 20]).unwrap();
    let writer = begun(folder.path()).await;
    writer.seal(Some(run_finish()), true, &file).await.unwrap();
    assert!(!stale.exists());
    assert_eq!(
        Reader::open(&file, folder.path())
            .unwrap()
            .syncs()
            .unwrap()
            .len(),
        1
    );
}
