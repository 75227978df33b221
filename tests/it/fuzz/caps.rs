//! What a peer can size has a cap: the ones that are tested nowhere else. `docs/limits.md` lists all of them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use baton_jumpcloud::{
    c1z::{Error, GrantFilter, MAGIC_V1, Reader, ResourceFilter},
    connector::{
        self,
        jumpcloud::client::{self, Auth, Client},
    },
    error::{Class, Classify as _, Code, chain},
    http::retry::Policy,
    proto::{Any, connector as v2},
};
use prost::Message as _;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

use super::seeds;

fn seed(name: &str) -> Vec<u8> {
    fs::read(super::root().join("corpus/c1z_database").join(name)).unwrap()
}

fn packed(folder: &Path, database: &[u8]) -> PathBuf {
    let mut file = MAGIC_V1.to_vec();
    file.extend(zstd::bulk::compress(database, 1).unwrap());
    let path = folder.join("case.c1z");
    fs::write(&path, file).unwrap();
    path
}

fn count(reader: &Reader) -> Result<usize, Error> {
    let sync = reader.latest_sync()?.sync_id;
    reader.stats(&sync)?;
    let mut rows = 0;
    for row in reader.resources(&sync, ResourceFilter::All) {
        row?;
        rows += 1;
    }
    for row in reader.grants(&sync, GrantFilter::All) {
        row?;
        rows += 1;
    }
    Ok(rows)
}

/// A message as SQL writes bytes.
fn bytes_of(message: &v2::Resource) -> String {
    let bytes = message.encode_to_vec();
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("x'{digits}'")
}

/// As [`packed`], with as much behind it as keeps the file from looking like a bomb.
fn packed_less(folder: &Path, database: &[u8]) -> PathBuf {
    let path = packed(folder, database);
    let mut file = fs::read(&path).unwrap();
    let padding = u32::try_from(database.len() / 400).unwrap();
    // A frame that readers skip.
    file.extend(0x184D_2A50_u32.to_le_bytes());
    file.extend(padding.to_le_bytes());
    file.extend(vec![0; padding as usize]);
    fs::write(&path, file).unwrap();
    path
}

/// A frame of blocks that each say "the same byte 131,072 times" in four bytes.
fn bomb(bytes: u64) -> Vec<u8> {
    let blocks = bytes / 0x2_0000;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x58];
    for block in 1..=blocks {
        let header = (0x2_0000_u32 << 3) | (1 << 1) | u32::from(block == blocks);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    [&MAGIC_V1[..], &frame].concat()
}

#[test]
fn ten_gibibytes_in_a_third_of_a_megabyte_are_refused_before_they_are_on_the_disk() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("bomb.c1z");
    let file = bomb(10 << 30);
    assert!(file.len() < 400_000);
    fs::write(&path, &file).unwrap();
    let began = Instant::now();
    let error = Reader::open(&path, folder.path()).unwrap_err();
    assert!(matches!(error, Error::Bomb { .. }), "{error}");
    assert!(
        chain(&error).contains("more than 500 times as large"),
        "{error}"
    );
    assert_eq!(
        (error.class(), error.code()),
        (Class::Permanent, Code::ResourceExhausted)
    );
    // The ratio is reached at 163 MB; ten gigabytes would take far longer.
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_small_bomb_may_become_64_mebibytes_and_no_more() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("bomb.c1z");
    fs::write(&path, bomb(65 << 20)).unwrap();
    let error = Reader::open(&path, folder.path()).unwrap_err();
    assert!(matches!(error, Error::Bomb { .. }), "{error}");
    // Below that it is judged by what it holds.
    fs::write(&path, bomb(63 << 20)).unwrap();
    let error = Reader::open(&path, folder.path()).unwrap_err();
    assert!(matches!(error, Error::NotDatabase), "{error}");
}

#[test]
fn a_database_that_says_to_have_four_thousand_million_pages_is_no_trouble() {
    let folder = TempDir::new().unwrap();
    let good = seed("plain");
    for (at, number) in [
        (28, u32::MAX),
        (28, 0),
        (32, u32::MAX),
        (36, u32::MAX),
        (52, u32::MAX),
    ] {
        let mut database = good.clone();
        database[at..at + 4].copy_from_slice(&number.to_be_bytes());
        match Reader::open(&packed(folder.path(), &database), folder.path())
            .and_then(|reader| count(&reader))
        {
            Ok(rows) => assert!(rows > 0),
            Err(error) => assert_eq!(error.class(), Class::Permanent, "{error}"),
        }
    }
}

#[test]
fn a_table_that_is_none_is_refused_before_it_is_read() {
    let folder = TempDir::new().unwrap();
    for name in [
        "view",
        "view-said-to-be-a-table",
        "generated-column",
        "without-rowid",
    ] {
        let path = packed(folder.path(), &seed(name));
        let error = Reader::open(&path, folder.path()).unwrap_err();
        assert!(
            matches!(
                error,
                Error::OddTable { .. } | Error::MissingTable { .. } | Error::Database { .. }
            ),
            "{name}: {error}"
        );
        assert_eq!(error.class(), Class::Permanent, "{name}: {error}");
    }
    // Without a row number, each page would be searched for in the whole table.
    let database = seeds::changed(
        folder.path(),
        &seed("plain"),
        "create table g as select * from v1_grants; drop table v1_grants; alter table g rename to v1_grants;",
    );
    let error = Reader::open(&packed(folder.path(), &database), folder.path()).unwrap_err();
    assert!(
        matches!(error, Error::OddTable { table: "v1_grants" }),
        "{error}"
    );
    // What is beside the tables of the format is not looked at.
    let reader = Reader::open(&packed(folder.path(), &seed("trigger")), folder.path()).unwrap();
    assert!(count(&reader).unwrap() > 0);
}

#[test]
fn more_syncs_and_types_than_any_file_has_are_refused() {
    let folder = TempDir::new().unwrap();
    let numbers = |most: u32| {
        format!(
            "with recursive n(i) as (select 100 union all select i + 1 from n where i < {most})"
        )
    };
    let syncs = format!(
        "insert into v1_sync_runs (id, sync_id, started_at, sync_token) {} select i, i, '2026-01-01 00:00:00', '' from n;",
        numbers(11_000)
    );
    let types = format!(
        "insert into v1_resources (id, resource_type_id, external_id, data, sync_id, discovered_at) {} \
         select i, i, i, x'', (select sync_id from v1_sync_runs), '' from n;",
        numbers(101_000)
    );
    for (sql, words) in [
        (syncs, "more than 10000 syncs"),
        (types, "more than 100000 resource types"),
    ] {
        let database = seeds::changed(folder.path(), &seed("plain"), &sql);
        let reader = Reader::open(&packed(folder.path(), &database), folder.path()).unwrap();
        let error = count(&reader).unwrap_err();
        assert!(chain(&error).contains(words), "{error}");
    }
}

#[test]
fn syncs_and_types_of_more_than_64_mebibytes_are_refused() {
    let folder = TempDir::new().unwrap();
    // Neither is many, and no value of theirs is longer than one may be.
    let syncs = "insert into v1_sync_runs (id, sync_id, started_at, sync_token) \
         with recursive n(i) as (select 100 union all select i + 1 from n where i < 139) \
         select i, i, '2026-01-01 00:00:00', printf('%.*c', 2000000, 'x') from n;";
    let types = "insert into v1_resources (id, resource_type_id, external_id, data, sync_id, discovered_at) \
         with recursive n(i) as (select 100 union all select i + 1 from n where i < 139) \
         select i, i || printf('%.*c', 2000000, 'x'), i, x'', (select sync_id from v1_sync_runs), '' from n;";
    for (sql, words) in [
        (syncs, "more than 67108864 bytes in the texts of its syncs"),
        (
            types,
            "more than 67108864 bytes in the names of its resource types",
        ),
    ] {
        let database = seeds::changed(folder.path(), &seed("plain"), sql);
        let path = packed_less(folder.path(), &database);
        let reader = Reader::open(&path, folder.path()).unwrap();
        let error = count(&reader).unwrap_err();
        assert!(chain(&error).contains(words), "{error}");
    }
}

#[test]
fn a_row_that_is_a_list_of_nothing_is_refused_before_it_is_made() {
    let folder = TempDir::new().unwrap();
    let data = bytes_of(&v2::Resource {
        annotations: vec![Any::default(); 300_000],
        ..v2::Resource::default()
    });
    let database = seeds::changed(
        folder.path(),
        &seed("plain"),
        &format!(
            "insert into v1_resources (id, resource_type_id, external_id, data, sync_id, discovered_at)
             select 100, 'user', 'x', {data}, sync_id, '' from v1_sync_runs;"
        ),
    );
    let path = packed_less(folder.path(), &database);
    let reader = Reader::open(&path, folder.path()).unwrap();
    let error = count(&reader).unwrap_err();
    assert!(
        chain(&error).contains("more than 200000 fields in one row"),
        "{error}"
    );
}

#[test]
fn rows_of_a_mebibyte_come_in_pages_of_16_and_none_is_lost() {
    let folder = TempDir::new().unwrap();
    let plain = seed("plain");
    let before = Reader::open(&packed(folder.path(), &plain), folder.path())
        .and_then(|reader| count(&reader))
        .unwrap();
    let data = bytes_of(&v2::Resource {
        description: "x".repeat(1 << 20),
        ..v2::Resource::default()
    });
    let database = seeds::changed(
        folder.path(),
        &plain,
        &format!(
            "insert into v1_resources (id, resource_type_id, external_id, data, sync_id, discovered_at)
             with recursive n(i) as (select 100 union all select i + 1 from n where i < 139)
             select i, 'user', i, {data}, (select sync_id from v1_sync_runs), '' from n;"
        ),
    );
    // Only as large as its 40 rows, and so compressed less than they would be alone.
    let mut file = MAGIC_V1.to_vec();
    file.extend(zstd::bulk::compress(&database, 1).unwrap());
    let path = folder.path().join("large.c1z");
    fs::write(&path, file).unwrap();
    let reader = Reader::open(&path, folder.path()).unwrap();
    assert_eq!(count(&reader).unwrap(), before + 40);
}

#[test]
fn a_value_beyond_32_mebibytes_is_refused() {
    let folder = TempDir::new().unwrap();
    let database = seeds::changed(
        folder.path(),
        &seed("plain"),
        "update v1_resources set data = zeroblob(34000000) where id = 1;",
    );
    let reader = Reader::open(&packed(folder.path(), &database), folder.path()).unwrap();
    let error = count(&reader).unwrap_err();
    assert_eq!(error.class(), Class::Permanent, "{error}");
}

/// A server that answers every connection with these bytes, again and again.
async fn server(
    begins: &'static str,
    goes_on: &'static str,
    times: usize,
) -> (url::Url, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let _read = stream.read(&mut head).await;
            let mut sent = stream.write_all(begins.as_bytes()).await;
            for _ in 0..times {
                if sent.is_err() {
                    break;
                }
                sent = stream.write_all(goes_on.as_bytes()).await;
            }
        }
    });
    (url.parse().unwrap(), tasks)
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    const STATUS: &str = "HTTP/1.1 200 OK\r\n";
    for (begins, goes_on, times) in [
        (STATUS, "x-name: value\r\n", 200_000),
        (
            "HTTP/1.1 200 OK\r\nx-name: ",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            200_000,
        ),
        ("HTTP/1.1 200 ", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 200_000),
    ] {
        let (url, _tasks) = server(begins, goes_on, times).await;
        let client = Client::with_policy(
            client::Settings {
                console_url: url.clone(),
                insights_url: url,
                auth: Auth::ApiKey("SECRETSEED-key".into()),
                org_id: None,
                timeout: Duration::from_secs(20),
                extra_ca_pem: None,
                max_concurrency: 1,
                rotation_wait: Duration::ZERO,
            },
            Policy {
                max_attempts: 1,
                ..Policy::default()
            },
        )
        .unwrap();
        let began = Instant::now();
        let error = client
            .get::<serde_json::Value>("/api/systemusers", &[], &[])
            .await
            .unwrap_err();
        assert!(
            matches!(error, connector::Error::Transport { .. }),
            "{error}"
        );
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
    }
}
