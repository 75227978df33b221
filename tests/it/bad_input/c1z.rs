//! Files that are no sync files, or no longer.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use baton_jumpcloud::{
    c1z::{Error, GrantFilter, Limits, MAGIC_V1, MAGIC_V3, Reader, ResourceFilter},
    clock::SystemClock,
    error::{Class, Classify as _, chain},
    proto::connector as v2,
    syncer::{self, Environment, NoProgress, SyncRequest, fake::FakeConnector},
};
use proptest::prelude::*;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::MARKER;

fn resource(kind: &str, id: &str) -> v2::Resource {
    v2::Resource {
        id: Some(v2::ResourceId {
            resource_type: kind.to_owned(),
            resource: id.to_owned(),
            ..v2::ResourceId::default()
        }),
        display_name: format!("{kind} {id}"),
        ..v2::Resource::default()
    }
}

fn directory() -> FakeConnector {
    let kind = |id: &str| v2::ResourceType {
        id: id.to_owned(),
        display_name: id.to_owned(),
        ..v2::ResourceType::default()
    };
    let member = v2::Entitlement {
        id: "group:g1:member".to_owned(),
        resource: Some(resource("group", "g1")),
        slug: "member".to_owned(),
        ..v2::Entitlement::default()
    };
    let directory = FakeConnector::new()
        .with_type(kind("person"))
        .with_type(kind("group"))
        .with_resource(resource("group", "g1"))
        .with_entitlement(member.clone());
    (0..50).fold(directory, |directory, number| {
        let person = resource("person", &format!("p{number}"));
        directory
            .with_resource(person.clone())
            .with_grant(v2::Grant {
                id: format!("group:g1:member:person:p{number}"),
                entitlement: Some(member.clone()),
                principal: Some(person),
                ..v2::Grant::default()
            })
    })
}

/// The file of a sync of this directory, and the database in it. The file stays in the folder, as `good.c1z`.
pub fn synced(folder: &Path, directory: &FakeConnector) -> (Vec<u8>, Vec<u8>) {
    let file = folder.join("good.c1z");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(syncer::sync_to_file(
            directory,
            &SyncRequest::default(),
            Environment {
                work_dir: folder,
                clock: &SystemClock,
                progress: &NoProgress,
                cancel: &CancellationToken::new(),
                keep: false,
            },
            &file,
        ))
        .unwrap();
    let packed = fs::read(&file).unwrap();
    let mut database = Vec::new();
    zstd::stream::read::Decoder::new(&packed[MAGIC_V1.len()..])
        .unwrap()
        .read_to_end(&mut database)
        .unwrap();
    (packed, database)
}

/// A good file and its database.
struct Good {
    folder: TempDir,
    packed: Vec<u8>,
    database: Vec<u8>,
}

impl Good {
    fn make() -> Self {
        let folder = TempDir::new().unwrap();
        let (packed, database) = synced(folder.path(), &directory());
        Self {
            folder,
            packed,
            database,
        }
    }

    fn write(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("case.c1z");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn read(&self, bytes: &[u8]) -> Result<usize, Error> {
        read_all(&self.write(bytes), self.folder.path(), Limits::default())
    }

    /// The file after these statements.
    fn after(&self, sql: &str) -> Vec<u8> {
        let path = self.folder.path().join("case.db");
        fs::write(&path, &self.database).unwrap();
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(sql).unwrap();
        connection.close().unwrap();
        pack(&fs::read(&path).unwrap())
    }

    /// Nothing but the named files is left.
    fn is_clean(&self) -> bool {
        fs::read_dir(self.folder.path()).unwrap().all(|entry| {
            let name = entry.unwrap().file_name();
            name == "good.c1z" || name == "case.c1z" || name == "case.db"
        })
    }
}

fn pack(database: &[u8]) -> Vec<u8> {
    let mut packed = MAGIC_V1.to_vec();
    packed.extend(zstd::stream::encode_all(database, 1).unwrap());
    packed
}

/// Reads everything that can be read; the number of rows.
fn read_all(file: &Path, work: &Path, limits: Limits) -> Result<usize, Error> {
    let reader = Reader::open_with(file, work, limits)?;
    let sync = reader.latest_sync()?;
    let id = &sync.sync_id;
    let mut rows = 0;
    for row in reader.resource_types(id) {
        row?;
        rows += 1;
    }
    for row in reader.resources(id, ResourceFilter::All) {
        row?;
        rows += 1;
    }
    for row in reader.entitlements(id, None) {
        row?;
        rows += 1;
    }
    for row in reader.grants(id, GrantFilter::All) {
        row?;
        rows += 1;
    }
    reader.stats(id)?;
    Ok(rows)
}

#[test]
fn what_is_no_sync_file_is_refused_with_what_is_wrong() {
    let good = Good::make();
    assert!(good.read(&good.packed).unwrap() > 100);
    let magic = |rest: &[u8]| [&MAGIC_V1[..], rest].concat();
    let frame = |content: &[u8]| pack(content);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", Vec::new(), "begins with nothing"),
        ("one byte", b"C".to_vec(), "begins with 43,"),
        (
            "another format",
            b"PK\x03\x04SECRETSEED".to_vec(),
            "begins with 50 4b 03 04",
        ),
        (
            "magic in small letters",
            b"c1zf\0".to_vec(),
            "not a c1z file",
        ),
        (
            "format v3",
            [&MAGIC_V3[..], b"SECRETSEED"].concat(),
            "format v3",
        ),
        ("magic alone", magic(b""), "damaged or cut short"),
        (
            "text after the magic",
            magic(b"SECRETSEED"),
            "damaged or cut short",
        ),
        (
            "gzip after the magic",
            magic(&[0x1f, 0x8b, 8, 0, 0]),
            "damaged or cut short",
        ),
        ("an empty frame", frame(b""), "not a SQLite database"),
        ("a text", frame(b"SECRETSEED"), "not a SQLite database"),
        (
            "the header of a database alone",
            frame(&good.database[..100]),
            "",
        ),
        (
            "a header of nonsense",
            frame(&[&b"SQLite format 3\0"[..], &[0xff; 200]].concat()),
            "",
        ),
        (
            "half a database",
            frame(&good.database[..good.database.len() / 2]),
            "",
        ),
        (
            "an unknown compression",
            magic(&[0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff, 0xff]),
            "damaged or cut short",
        ),
        // A window of 2 GiB: 31 - 10 in the upper five bits of the window descriptor.
        (
            "a window that is too large",
            magic(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0, 0]),
            "damaged or cut short",
        ),
    ];
    for (name, bytes, says) in cases {
        let error = good.read(&bytes).unwrap_err();
        let text = chain(&error);
        assert!(text.contains(says), "{name}: {text}");
        assert!(
            !format!("{text} {error:?}").contains(MARKER),
            "{name}: {text}"
        );
        assert_eq!(error.class(), Class::Permanent, "{name}: {text}");
        assert!(good.is_clean(), "{name}: leaves files behind");
    }
    let error = read_all(
        &good.folder.path().join("none"),
        good.folder.path(),
        Limits::default(),
    );
    assert!(chain(&error.unwrap_err()).starts_with("cannot open"));
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    let good = Good::make();
    let whole = good.packed.len();
    let step = (whole / 150).max(1);
    let lengths = (0..40)
        .chain((40..whole).step_by(step))
        .chain(whole - 5..whole);
    for length in lengths {
        let error = good.read(&good.packed[..length]).unwrap_err();
        assert_eq!(error.class(), Class::Permanent, "{length}: {error}");
    }
}

#[test]
fn a_file_that_grows_beyond_the_limit_is_refused_early() {
    let good = Good::make();
    let limits = Limits {
        decoded_bytes: 1 << 20,
    };
    // A thousand times smaller than what it becomes.
    let zeros = vec![0_u8; 64 << 20];
    let declared = pack_declaring(&zeros, true);
    let silent = pack_declaring(&zeros, false);
    for (name, bytes) in [("declared", declared), ("silent", silent)] {
        assert!(bytes.len() < 100_000, "{}", bytes.len());
        let path = good.write(&bytes);
        let error = read_all(&path, good.folder.path(), limits).unwrap_err();
        let text = chain(&error);
        assert!(
            text.contains("larger than the limit of 1048576 bytes"),
            "{name}: {text}"
        );
        let is_declared = matches!(
            error,
            Error::TooLarge {
                declared: Some(_),
                ..
            }
        );
        assert_eq!(is_declared, name == "declared", "{text}");
    }
    // What is declared counts, even where nothing comes after it: 2^60 bytes in a field of eight.
    let lie = [
        &MAGIC_V1[..],
        &[0x28, 0xb5, 0x2f, 0xfd, 0xe0],
        &(1_u64 << 60).to_le_bytes(),
    ]
    .concat();
    let error = good.read(&lie).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLarge {
                declared: Some(_),
                ..
            }
        ),
        "{error:?}"
    );
    assert!(good.is_clean());
}

fn pack_declaring(content: &[u8], declare: bool) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(MAGIC_V1.to_vec(), 1).unwrap();
    encoder.include_contentsize(declare).unwrap();
    if declare {
        let size = u64::try_from(content.len()).unwrap();
        encoder.set_pledged_src_size(Some(size)).unwrap();
    }
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn rows_that_the_format_does_not_allow_name_table_and_row() {
    let good = Good::make();
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "no table of grants",
            "drop table v1_grants",
            &["no table v1_grants"],
        ),
        (
            "no table of syncs",
            "drop table v1_sync_runs",
            &["no table v1_sync_runs"],
        ),
        (
            "a view in place of a table",
            "drop table v1_grants; create view v1_grants as select 1 as id",
            &["no table v1_grants"],
        ),
        (
            "a table without columns",
            "drop table v1_resources; create table v1_resources (id integer primary key)",
            &["database cannot read rows"],
        ),
        ("no sync", "delete from v1_sync_runs", &["no finished sync"]),
        (
            "no finished sync",
            "update v1_sync_runs set ended_at = null",
            &["no finished sync"],
        ),
        (
            "a start that is no time",
            "update v1_sync_runs set started_at = 'SECRETSEED'",
            &["v1_sync_runs", "started_at", "row 1"],
        ),
        (
            "an end that is no time",
            "update v1_sync_runs set ended_at = '2024-13-99'",
            &["v1_sync_runs", "ended_at"],
        ),
        (
            "a start that is a blob",
            "update v1_sync_runs set started_at = x'ff00'",
            &["database cannot list the syncs"],
        ),
        (
            "an id that is a blob",
            "update v1_sync_runs set sync_id = x'ff'",
            &["database cannot list the syncs"],
        ),
        (
            "an id that is no text",
            "update v1_sync_runs set sync_id = cast(x'ffff' as text)",
            &["database cannot list the syncs"],
        ),
        (
            "a blob that is no message",
            "update v1_resources set data = x'ffffffff' where id = 3",
            &["row 3 of v1_resources", "not a valid message"],
        ),
        (
            "a blob that is cut",
            "update v1_grants set data = substr(data, 1, length(data) - 1) where id = 7",
            &["row 7 of v1_grants", "not a valid message"],
        ),
        (
            "a blob that says 4 GiB",
            "update v1_resources set data = x'0affffffff0f' where id = 2",
            &["row 2 of v1_resources", "not a valid message"],
        ),
        (
            "a blob that is a text",
            "update v1_entitlements set data = 'SECRETSEED' where id = 1",
            &["row 1 of v1_entitlements", "column data"],
        ),
        (
            "a blob that is a number",
            "update v1_resource_types set data = 7 where id = 1",
            &["row 1 of v1_resource_types", "column data"],
        ),
        (
            "a text that is no UTF-8",
            "update v1_resources set data = x'120461ff62c3' where id = 4",
            &["row 4 of v1_resources"],
        ),
        (
            "an expansion that is no message",
            "update v1_grants set expansion = x'ffff' where id = 1",
            &["row 1 of v1_grants", "not a valid message"],
        ),
        (
            "an expansion that is a text",
            "update v1_grants set expansion = 'SECRETSEED' where id = 1",
            &["row 1 of v1_grants", "column expansion"],
        ),
        (
            "a mark that is a text",
            "update v1_grants set needs_expansion = 'SECRETSEED' where id = 2",
            &["row 2 of v1_grants", "column needs_expansion"],
        ),
    ];
    for (name, sql, says) in cases {
        let bytes = good.after(sql);
        let error = match good.read(&bytes) {
            Ok(rows) => panic!("{name}: read as {rows} rows"),
            Err(error) => error,
        };
        let text = chain(&error);
        for part in *says {
            assert!(text.contains(part), "{name}: does not say {part:?}: {text}");
        }
        assert!(
            !format!("{text} {error:?}").contains(MARKER),
            "{name}: {text}"
        );
        assert!(text.len() < 500, "{name}: {text}");
    }
}

#[test]
fn huge_columns_are_read_or_refused_and_never_too_much_for_the_process() {
    let good = Good::make();
    for sql in [
        "update v1_resources set external_id = printf('%.*c', 5000000, 'x') where id = 1",
        "update v1_grants set external_id = printf('%.*c', 5000000, 'x') where id = 1",
        "update v1_resources set data = zeroblob(20000000) where id = 1",
        "update v1_sync_runs set sync_token = printf('%.*c', 5000000, 'x')",
        "update v1_resource_types set id = 9223372036854775807 where id = 1",
        "update v1_resources set id = -9223372036854775808 where id = 1",
    ] {
        if let Err(error) = good.read(&good.after(sql)) {
            assert_eq!(error.class(), Class::Permanent, "{sql}: {error}");
            assert!(chain(&error).len() < 500, "{sql}");
        }
    }
}

#[test]
fn a_database_with_damaged_pages_never_panics() {
    let good = Good::make();
    let pages = good.database.len() / 4096;
    assert!(pages > 5, "{pages}");
    let mut refused = 0;
    for page in 0..pages.min(60) {
        for (offset, junk) in [(0, [0xff; 16]), (8, [0; 16]), (2048, [0x5a; 16])] {
            let mut damaged = good.database.clone();
            let at = page * 4096 + offset;
            damaged[at..at + 16].copy_from_slice(&junk);
            if let Err(error) = good.read(&pack(&damaged)) {
                refused += 1;
                assert!(chain(&error).len() < 500, "{error}");
            }
        }
    }
    assert!(refused > 3, "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_bytes_make_the_reader_of_files_panic(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            prop::collection::vec(any::<u8>(), 0..200)
                .prop_map(|bytes| [&MAGIC_V1[..], &[0x28, 0xb5, 0x2f, 0xfd], &bytes].concat()),
            prop::collection::vec(any::<u8>(), 0..2000)
                .prop_map(|bytes| pack(&[&b"SQLite format 3\0\x10\0\x01\x01\0\x40\x20\x20"[..], &bytes].concat())),
        ],
    ) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("any.c1z");
        fs::write(&path, &bytes).unwrap();
        let read = read_all(&path, folder.path(), Limits { decoded_bytes: 1 << 20 });
        prop_assert!(read.is_err());
    }
}
