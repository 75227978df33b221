//! The part of the corpus that is made from real encodings: what our own writer, the simulators' keys and the messages
//! of the contract give.

use std::{fs, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use baton_jumpcloud::{
    c1z::{MAGIC_V1, MAGIC_V3},
    control_plane::credentials,
    crypto::{
        jwk::Ed25519Jwk,
        open::{KeyKind, RevealKey},
        seal::{Plaintext, Recipients},
    },
    proto::{
        self, Kind, ProtoDuration, RpcStatus, Struct, Value,
        baton::{
            self, BatonServiceGetTaskResponse, Task,
            task::{self, TaskType},
        },
        connector as v2, pack,
    },
    sim::fuzzing::OWN_SEED,
    syncer::fake::FakeConnector,
};
use prost::Message as _;
use rusqlite::Connection;
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::bad_input::c1z::synced;

/// Target, name of the file, content.
pub type Seed = (&'static str, String, Vec<u8>);

const USER: &str = "64ab00000000000000000001";
const GROUP: &str = "64ac00000000000000000001";

/// Every input that is made here.
pub fn all() -> Vec<Seed> {
    let mut all = Vec::new();
    let mut add = |target, seeds: Vec<(&str, Vec<u8>)>| {
        for (name, bytes) in seeds {
            all.push((target, name.to_owned(), bytes));
        }
    };
    add("answers", answers());
    let databases = databases();
    add("c1z_envelope", envelopes(&databases[0].1));
    add("c1z_database", databases);
    add("config_file", config_files());
    add("credentials", credentials_texts());
    add("encryption", encrypted());
    add("jumpcloud_json", rows());
    add("jumpcloud_sync", organisations());
    add("page_token", tokens());
    add("task", tasks());
    all
}

fn text(text: impl Into<String>) -> Vec<u8> {
    text.into().into_bytes()
}

fn answers() -> Vec<(&'static str, Vec<u8>)> {
    let details = RpcStatus {
        code: 14,
        message: "later".to_owned(),
        details: vec![prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: ProtoDurationOwner {
                retry_delay: Some(ProtoDuration {
                    seconds: 7,
                    nanos: 5,
                }),
            }
            .encode_to_vec(),
        }],
    };
    let poll = baton::BatonServiceGetTasksResponse {
        next_poll: Some(ProtoDuration {
            seconds: i64::MAX,
            nanos: i32::MIN,
        }),
        ..Default::default()
    };
    let of = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    vec![
        (
            "token",
            text(
                r#"t{"access_token":"SECRETSEED.aaa.bbb","token_type":"Bearer","expires_in":3600}"#,
            ),
        ),
        (
            "token-odd",
            text(r#"t{"access_token":"a","token_type":"mac","expires_in":"1e400"}"#),
        ),
        (
            "refusal-429",
            text("r429\n7\nThu, 01 Oct 2026 08:00:00 GMT\n{\"error\":\"slow_down\"}"),
        ),
        (
            "refusal-429-date",
            text("r429\nThu, 01 Oct 2026 08:00:30 GMT\nx\n{}"),
        ),
        (
            "refusal-401",
            text(
                "r401\n\nThu, 01 Oct 2026 07:00:00 GMT\n{\"error\":\"invalid_client\",\"error_description\":\"SECRETSEED.assertion.signature\"}",
            ),
        ),
        ("refusal-503", text("r503\n99999999999999999999\n\n<html>")),
        (
            "status",
            of(
                b's',
                &[
                    &[14][..],
                    &vec![b'x'; details.encoded_len()],
                    &details.encode_to_vec(),
                ]
                .concat(),
            ),
        ),
        (
            "status-details",
            of(b's', &[&[8][..], &details.encode_to_vec()].concat()),
        ),
        ("poll", of(b'p', &poll.encode_to_vec())),
        (
            "poll-duration",
            of(
                b'p',
                &ProtoDuration {
                    seconds: -1,
                    nanos: 0,
                }
                .encode_to_vec(),
            ),
        ),
        ("retry-after", text("a120\nThu, 01 Oct 2026 08:00:00 GMT")),
        (
            "retry-after-date",
            text("aThu, 01 Oct 2026 08:00:30 GMT\nThu, 01 Oct 2026 08:00:00 GMT"),
        ),
        ("level", text("llevel=debug&for=15m")),
        (
            "level-long",
            text("llevel=warn&for=99999999999999999999years"),
        ),
        (
            "secret",
            text(format!(
                r#"k{{"apiVersion":"v1","kind":"Secret","metadata":{{"name":"baton","resourceVersion":"7"}},"data":{{"BATON_API_KEY":"{}","BATON_CLIENT_SECRET":"AA=="}}}}"#,
                BASE64_STANDARD.encode("SECRETSEED-api-key")
            )),
        ),
        (
            "secret-empty",
            text(r#"k{"metadata":{},"data":{"BATON_API_KEY":"Cg=="}}"#),
        ),
    ]
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct ProtoDurationOwner {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<ProtoDuration>,
}

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

fn entitlement(kind: &str, id: &str) -> v2::Entitlement {
    v2::Entitlement {
        id: format!("{kind}:{id}"),
        resource: Some(resource(kind, id)),
        slug: "member".to_owned(),
        ..v2::Entitlement::default()
    }
}

fn grant(kind: &str, id: &str, principal: v2::Resource) -> v2::Grant {
    v2::Grant {
        id: format!("{kind}-grant:{id}:user:{USER}:{id}"),
        entitlement: Some(entitlement(kind, id)),
        principal: Some(principal),
        ..v2::Grant::default()
    }
}

/// The database of a file of our own writer, with the smallest pages that there are.
fn databases() -> Vec<(&'static str, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let kind = |id: &str| v2::ResourceType {
        id: id.to_owned(),
        display_name: id.to_owned(),
        ..v2::ResourceType::default()
    };
    let nested = v2::Grant {
        annotations: vec![pack(&v2::GrantExpandable {
            entitlement_ids: vec![format!("group:{GROUP}")],
            ..Default::default()
        })],
        ..grant("group", "g2", resource("group", GROUP))
    };
    let directory = FakeConnector::new()
        .with_type(kind("user"))
        .with_type(kind("group"))
        .with_resource(resource("user", USER))
        .with_resource(resource("group", GROUP))
        .with_resource(resource("group", "g2"))
        .with_entitlement(entitlement("group", GROUP))
        .with_entitlement(entitlement("group", "g2"))
        .with_grant(grant("group", GROUP, resource("user", USER)))
        .with_grant(nested);
    let (_packed, database) = synced(folder.path(), &directory);
    let after = |sql: &str| changed(folder.path(), &database, sql);
    vec![
        // First, for the envelope is made of it: without the indexes, which are most of it.
        ("plain", after(DROP_INDEXES)),
        ("whole", after("")),
        (
            "view",
            after(&format!(
                "{DROP_INDEXES} alter table v1_grants rename to g; create view v1_grants as with recursive n(i) as (select 1 union all select i + 1 from n) select i as id, x'' as data, null as expansion, 0 as needs_expansion, 's' as sync_id, 'x' as external_id from n;"
            )),
        ),
        (
            "view-said-to-be-a-table",
            after(&format!(
                "{DROP_INDEXES} alter table v1_grants rename to g; create view v1_grants as with recursive n(i) as (select 1 union all select i + 1 from n) select i as id, x'' as data, null as expansion, 0 as needs_expansion, (select sync_id from v1_sync_runs) as sync_id, 'x' as external_id from n; pragma writable_schema = on; update sqlite_master set type = 'table' where name = 'v1_grants';"
            )),
        ),
        (
            "generated-column",
            after(&format!(
                "{DROP_INDEXES} drop table v1_resources; create table v1_resources (id integer primary key, sync_id text, resource_type_id text, parent_resource_type_id text, parent_resource_id text, external_id text, data blob as (zeroblob(900000000))); insert into v1_resources (id, sync_id, resource_type_id) select 1, sync_id, 'user' from v1_sync_runs;"
            )),
        ),
        (
            "without-rowid",
            after(&format!(
                "{DROP_INDEXES} drop table v1_entitlements; create table v1_entitlements (id text primary key, sync_id text, resource_type_id text, resource_id text, external_id text, data blob) without rowid; insert into v1_entitlements select 'a', sync_id, 'user', 'x', 'y', x'' from v1_sync_runs;"
            )),
        ),
        (
            "trigger",
            after(&format!(
                "{DROP_INDEXES} create trigger t after insert on v1_grants begin delete from v1_grants; end; create view extra as select load_extension('x');"
            )),
        ),
        (
            "odd-values",
            after(&format!(
                "{DROP_INDEXES} update v1_sync_runs set started_at = '-9999-99-99', stats = x'ff', supports_diff = 'no'; update v1_resources set data = 7; update v1_grants set expansion = x'ffff';"
            )),
        ),
    ]
}

const DROP_INDEXES: &str = "drop index idx_resource_types_external_sync_v1;
    drop index idx_resources_resource_type_id_v1; drop index idx_resources_parent_resource_id_v1;
    drop index idx_entitlements_external_sync_v1; drop index idx_sync_runs_sync_id_v1;
    drop index idx_grants_entitlement_id_principal_id_v1; drop index idx_grants_external_sync_v1;
    drop index idx_grants_sync_expansion_v1; drop index idx_grants_sync_needs_expansion_v1;
    drop index idx_assets_external_sync_v1; drop index idx_session_store_sync_key_v1;
    drop index idx_resources_external_sync_v1; drop index idx_entitlements_resource_id_v1;
    drop index idx_grants_resource_type_id_resource_id_v1; drop index idx_grants_principal_id_v1;
    drop index idx_grants_entitlement_sync_grant_v1; drop table v1_assets; drop table v1_connector_sessions;";

/// A database after these statements, in pages of 512 bytes.
pub fn changed(folder: &Path, database: &[u8], sql: &str) -> Vec<u8> {
    let path = folder.join("seed.db");
    fs::write(&path, database).unwrap();
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("pragma journal_mode = delete; pragma page_size = 512; vacuum;")
        .unwrap();
    connection.execute_batch(sql).unwrap();
    if !sql.contains("writable_schema") {
        connection.execute_batch("vacuum;").unwrap();
    }
    connection.close().unwrap();
    fs::read(&path).unwrap()
}

fn envelopes(database: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let magic = |rest: &[u8]| [&MAGIC_V1[..], rest].concat();
    let packed = zstd::bulk::compress(database, 3).unwrap();
    let checked = {
        let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
        compressor.include_checksum(true).unwrap();
        compressor.compress(database).unwrap()
    };
    let bomb = zstd::bulk::compress(&vec![0; 8 << 20], 1).unwrap();
    let lie = [
        &[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..],
        &(1_u64 << 60).to_le_bytes(),
    ]
    .concat();
    vec![
        ("good", magic(&packed)),
        ("checksum", magic(&checked)),
        (
            "two-frames",
            magic(&[packed.clone(), packed.clone()].concat()),
        ),
        (
            "skippable-frame",
            magic(
                &[
                    &[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..],
                    &packed,
                ]
                .concat(),
            ),
        ),
        (
            "raw-block",
            magic(
                &[
                    &[0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x10, 0x81, 0, 0][..],
                    b"SQLite format 3\0",
                ]
                .concat(),
            ),
        ),
        (
            "rle-block",
            magic(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0x58, 0xfb, 0xff, 0x0f, b'S']),
        ),
        ("zeros", magic(&bomb)),
        ("declares-2-to-60", magic(&lie)),
        (
            "window-of-2-gib",
            magic(&[0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0]),
        ),
        ("cut", magic(&packed[..packed.len() / 2])),
        ("magic-alone", MAGIC_V1.to_vec()),
        ("v3", MAGIC_V3.to_vec()),
        ("nothing", Vec::new()),
    ]
}

fn config_files() -> Vec<(&'static str, Vec<u8>)> {
    let long = format!("api-key: {}\n", "x".repeat(70_000));
    let nested = format!("api-key: {}{}", "[".repeat(600), "]".repeat(600));
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d]\n";
    vec![
        (
            "api-key",
            text("api-key: SECRETSEED-api-key-1\nregion: eu\nwork-dir: /work\n"),
        ),
        (
            "service",
            text(
                "client-id: a@tenant.example.com/x\nclient-secret: SECRETSEED-client-secret\napi-key: SECRETSEED-api-key\nprovisioning: dry-run\ntask-concurrency: 5\nlog-level: debug\n",
            ),
        ),
        (
            "oauth",
            text(
                "jumpcloud-client-id: abc\njumpcloud-client-secret: \"SECRETSEED-jumpcloud\"\norg-id: 64aa00000000000000000001\n",
            ),
        ),
        (
            "files",
            text("api-key-file: /run/secret\nclient-secret-file: /none\n"),
        ),
        (
            "lists",
            text(
                "api-key: SECRETSEED-api-key\nsync-resource-types: [user, group]\nsync-resources:\n  - 'bid:r:user/1'\n",
            ),
        ),
        (
            "durations",
            text(
                "api-key: SECRETSEED-api-key\nshutdown-grace: 99999999999999999999h\nhttp-timeout-seconds: -5\n",
            ),
        ),
        (
            "shapes",
            text("api-key: {a: 1}\nregion: [eu]\nprovisioning: 7\nwork-dir: ~\nfile: 1.5\n"),
        ),
        (
            "unknown",
            text("apikey: SECRETSEED-api-key\nRegion: eu\n? [a]\n: b\n"),
        ),
        ("twice", text("region: eu\nregion: us\n")),
        ("tabs", text("a:\n\t- b\n %YAML 1.2\n")),
        (
            "tags",
            text("!!binary x: !!str y\n&a b: *a\n<<: {region: eu}\n---\nx: y\n"),
        ),
        ("aliases", text(bomb)),
        ("nested", text(nested)),
        ("long", text(long).into_iter().take(4096).collect()),
        ("not-utf8", b"api-key: \xff\xfe\n".to_vec()),
        (
            "urls",
            text(
                "api-key: SECRETSEED-api-key\nbase-url: 'https://u:p@[::1]:99999/x?y#z'\ninsights-url: ftp://a\n",
            ),
        ),
    ]
}

fn credentials_texts() -> Vec<(&'static str, Vec<u8>)> {
    let jwk = Ed25519Jwk::from_seed(OWN_SEED, None).unwrap().to_json();
    let named = Ed25519Jwk::from_seed(OWN_SEED, Some("a key".to_owned()))
        .unwrap()
        .to_json();
    let made = credentials::generate("fuzz-1", "tenant.conductor.one").unwrap();
    let whole = format!("{}\n{}", made.client_id, made.client_secret.expose_secret());
    vec![
        ("whole", text(whole)),
        ("jwk", text(format!("name@host.example.com:8443/x\n{jwk}"))),
        ("jwk-named", text(format!("name@[::1]:443/valet\n{named}"))),
        ("ipv6", text(format!("name@[::1]/x\n{jwk}"))),
        (
            "override",
            text("api.example.com:443\nsecret-token:conductorone.com:v1:AAAA"),
        ),
        ("userinfo", text("a@b@c/d\na:b:v2:c")),
        ("port", text("a@host:0/x\n:::")),
        (
            "port-long",
            text("a@host:99999/x\nsecret-token:conductorone.com:v1:="),
        ),
        (
            "unicode",
            text("ä@höst/x\nsecret-token:conductorone.com:v1:é"),
        ),
        (
            "mismatch",
            text(format!("a@b/c\n{}", jwk.replace("\"x\":\"", "\"x\":\"A"))),
        ),
        (
            "rsa",
            text("a@b/c\n{\"kty\":\"RSA\",\"crv\":\"Ed25519\",\"x\":null,\"d\":[]}"),
        ),
        (
            "nested",
            text(format!(
                "a@b/c\n{{\"kty\":{}1{}}}",
                "[".repeat(200),
                "]".repeat(200)
            )),
        ),
    ]
}

fn encrypted() -> Vec<(&'static str, Vec<u8>)> {
    use v2::encryption_config::Config;
    let mut seeds = Vec::new();
    let configs: Vec<_> = KeyKind::ALL
        .into_iter()
        .map(|kind| RevealKey::generate(kind).unwrap().encryption_config())
        .collect();
    for (name, config) in ["ed25519", "rsa", "p256", "p384", "p521", "age"]
        .into_iter()
        .zip(&configs)
    {
        let bytes = match config.config.as_ref().unwrap() {
            Config::JwkPublicKeyConfig(key) => [b"j", key.pub_key.as_slice()].concat(),
            Config::AgeRecipientConfig(age) => [b"a", age.recipient.as_bytes()].concat(),
        };
        seeds.push((name, bytes));
    }
    let task = task::CreateAccountTask {
        encryption_configs: configs,
        ..Default::default()
    };
    seeds.push(("task", [b"t", task.encode_to_vec().as_slice()].concat()));
    let own = RevealKey::from(Ed25519Jwk::from_seed(OWN_SEED, None).unwrap()).encryption_config();
    let sealed = Recipients::try_new(&[own])
        .unwrap()
        .seal(&Plaintext {
            name: String::new(),
            description: String::new(),
            schema: String::new(),
            secret: "pässword-SECRETSEED".into(),
        })
        .unwrap()
        .remove(0)
        .encrypted_bytes;
    seeds.push((
        "password",
        [b"p", BASE64_STANDARD.decode(&sealed).unwrap().as_slice()].concat(),
    ));
    seeds.push(("password-base64", [b"b", sealed.as_slice()].concat()));
    seeds.push(("age-header", text("page-encryption.org/v1\n-> ssh-ed25519 AAAA BBBB\nCCCC\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 63\nAAAA\n--- AAAA\n")));
    seeds.push(("age-hybrid", text("aage1pq1qqqqqqqqqqqqqqqqqqqq")));
    seeds.push(("rsa-small", text(r#"j{"kty":"RSA","n":"AQAB","e":"AQAB"}"#)));
    seeds.push((
        "point-off-curve",
        text(format!(
            r#"j{{"kty":"EC","crv":"P-256","x":"{}","y":"{}"}}"#,
            "A".repeat(43),
            "A".repeat(43)
        )),
    ));
    seeds
}

fn rows() -> Vec<(&'static str, Vec<u8>)> {
    let user = json!({"_id": USER, "id": USER, "username": "avery", "email": "avery@example.com", "employeeIdentifier": 1001,
        "state": "ACTIVATED", "activated": true, "suspended": "false", "mfa": {"configured": true, "exclusionUntil": "2026-10-15T00:00:00.000Z"},
        "attributes": [{"name": "badge", "value": "B-77"}], "phoneNumbers": [{"type": "work", "number": "+31"}],
        "addresses": [{"type": "home", "locality": "Utrecht"}], "admin": {"id": "64ad00000000000000000002", "roleNames": ["Manager", 7]},
        "restrictedFields": [{"field": "department", "type": "scim"}], "ssh_keys": [{"name": "laptop"}]});
    let administrator = json!({"_id": "64ad00000000000000000002", "email": "b@example.com", "roleName": "Manager", "roleNames": ["Manager"],
        "apiKeyHash": {"prefix": "jca_4f", "expireAt": null}, "organization": null});
    let group = json!({"id": GROUP, "name": "All \u{1f600}", "membershipMethod": "DYNAMIC_AUTOMATED", "memberQuery": {"queryType": "Filter", "filters": []},
        "memberQueryErrorFlags": ["CYCLE"], "attributes": {"sudo": {"enabled": true}, "ldapGroups": [{"name": "x"}], "radius": {"reply": [{"name": "a"}]}, "sambaEnabled": 1}});
    let app = json!({"_id": "64ae00000000000000000001", "name": "slack", "displayLabel": "", "active": true, "logo": {"url": "https://x/y"},
        "sso": {"type": "saml", "hidden": false}, "config": {"idpPrivateKey": {"value": "SECRETSEED"}}});
    let wrapped = |kind: &str, row: &serde_json::Value| {
        text(format!(
            "{kind}{}",
            json!({"totalCount": 1, "results": [row]})
        ))
    };
    vec![
        ("users", wrapped("u", &user)),
        ("user", text(format!("u{user}"))),
        ("administrators", wrapped("a", &administrator)),
        ("groups", text(format!("g[{group}]"))),
        (
            "edges",
            text(format!(
                r#"e[{{"to":{{"id":"{USER}","type":"user"}}}},{{"to":null}}]"#
            )),
        ),
        (
            "roles",
            wrapped(
                "r",
                &json!({"id": "r1", "name": "Manager", "scopes": ["a", null, 7]}),
            ),
        ),
        ("apps", wrapped("p", &app)),
        (
            "total-text",
            text(r#"u{"results":null,"totalCount":" 12 "}"#),
        ),
        (
            "surrogates",
            b"u[{\"_id\":\"\\ud83d\",\"email\":\"\\ude00\xff\"}]".to_vec(),
        ),
        (
            "deep",
            text(format!("u{}{}", "[".repeat(300), "]".repeat(300))),
        ),
        ("cut", text(r#"u{"results":[{"_id":"a"},{"_i"#)),
        (
            "numbers",
            text(r#"u[{"_id":1e400,"id":-0,"created":123456789012345678901234567890}]"#),
        ),
        (
            "words",
            text(
                r#"w{"message":"SECRETSEED-key is wrong","error":"Unauthorized","details":[{"fieldViolations":[{"field":"a","description":"b"}]}]}"#,
            ),
        ),
        (
            "words-html",
            text("w<html><head><title>502 SECRETSEED-key</title></head></html>"),
        ),
        (
            "words-passwords",
            text(r#"w{"password":"a\"b","nested":{"clientSecret":["c",{"d":"e"}]}}"#),
        ),
        ("words-plain", text(format!("w{}", "no ".repeat(200)))),
    ]
}

fn organisations() -> Vec<(&'static str, Vec<u8>)> {
    let list = |rows: &[serde_json::Value], total: i64| {
        json!({"totalCount": total, "results": rows}).to_string()
    };
    let user = |id: &str, email: &str| {
        json!({"_id": id, "username": email.split('@').next(), "email": email, "state": "STAGED", "manager": "m",
        "admin": {"id": "64ad00000000000000000002", "roleNames": ["Manager", "Manager "]}})
    };
    let whole = [
        list(
            &[
                user(USER, "a@example.com"),
                user("64ab00000000000000000002", "a@example.com"),
                json!({}),
                json!({"_id": " x"}),
            ],
            4,
        ),
        list(
            &[
                json!({"_id": "64ad00000000000000000002", "email": "A@example.com", "roleNames": ["Manager", "manager", "", null]}),
            ],
            1,
        ),
        format!(
            r#"[{{"id":"{GROUP}","name":"Engineering"}},{{"id":"{GROUP}","name":"again"}},{{"id":"g2"}}]"#
        ),
        list(
            &[
                json!({"id": "r", "name": "Manager", "scopes": ["a"]}),
                json!({"name": "MANAGER!"}),
            ],
            2,
        ),
        list(
            &[
                json!({"_id": "64ae00000000000000000001", "displayLabel": "Wiki", "ssoUrl": "https://x"}),
            ],
            1,
        ),
        format!(
            r#"[{{"to":{{"id":"{USER}","type":"user"}}}},{{"to":{{"id":"gone","type":"user"}}}},{{"to":{{"id":"{GROUP}","type":"user_group"}}}},{{"to":{{"type":"system"}}}}]"#
        ),
        format!(r#"[{{"to":{{"id":"{GROUP}","type":"user_group"}}}}]"#),
        format!(r#"[{{"to":{{"id":"{USER}","type":"user"}}}}]"#),
    ];
    let sync = |parts: &[&str]| text(parts.join("\0"));
    let borrowed: Vec<&str> = whole.iter().map(String::as_str).collect();
    let ending = list(&[user("1", "b@example.com")], 10_000_000);
    vec![
        ("whole", sync(&borrowed)),
        ("merged", [b"M", sync(&borrowed).as_slice()].concat()),
        (
            "endless",
            sync(&[&format!(
                "{ending}\u{1}{}",
                ending.replace("\"1\"", "\"2\"")
            )]),
        ),
        (
            "total-too-large",
            sync(&[&list(&[user("1", "b@example.com")], i64::MAX)]),
        ),
        (
            "total-negative",
            sync(&[&list(&[user("1", "b@example.com")], -1)]),
        ),
        ("empty-with-total", sync(&[&list(&[], 5)])),
        (
            "array-total",
            sync(&[
                "",
                "",
                "#200;250;;\n[{\"id\":\"a\"}]\u{1}#200;250;;\n[{\"id\":\"b\"}]",
            ]),
        ),
        (
            "link",
            sync(&[
                "",
                "",
                "#200;;<https://evil.example/x>; rel=\"next\";\n[{\"id\":\"a\"}]",
            ]),
        ),
        (
            "link-same",
            sync(&[
                "",
                "",
                "#200;;</api/v2/usergroups?skip=100>; rel=next;\n[{\"id\":\"a\"}]\u{1}[]",
            ]),
        ),
        ("throttled", sync(&["#429;;;120\n{\"message\":\"slow\"}"])),
        ("unavailable", sync(&["#503;;;soon\nno"])),
        (
            "forbidden",
            sync(&["", "", "", "#403\n{\"message\":\"SECRETSEED-fuzz\"}"]),
        ),
        ("redirect", sync(&["#302\n"])),
        ("unauthorized", sync(&["#401\nSECRETSEED-fuzz"])),
        ("html", sync(&["<html><title>x</title>"])),
        (
            "swapped",
            sync(&["[]", "{}", "{\"results\":[]}", "[]", "null"]),
        ),
    ]
}

fn tokens() -> Vec<(&'static str, Vec<u8>)> {
    let of = |what: u8, id: &str, token: &str| {
        [&[what][..], id.as_bytes(), b"\n", token.as_bytes()].concat()
    };
    vec![
        ("users-1", of(0, "", "users:1")),
        ("users-administrators", of(0, "", "administrators:0")),
        ("users-huge", of(0, "", "users:18446744073709551615")),
        (
            "users-merged",
            of(0x40, "", "administrators:18446744073709551615"),
        ),
        ("groups-0", of(1, "", "0")),
        ("groups-huge", of(1, "", "18446744073709551615")),
        ("roles", of(2, "", "x")),
        ("apps-negative", of(3, "", "-1")),
        ("members", of(5, GROUP, "0")),
        ("members-huge", of(5, GROUP, "18446744073709551615")),
        ("holders", of(6, "manager", "u:1")),
        ("assignees", of(7, "64ae00000000000000000001", "group:0")),
        (
            "assignees-user",
            of(7, "64ae00000000000000000001", "user:1000"),
        ),
        ("administration", of(7, "2UjI0eIRo77RGFwi2GKpAa0Til0", "1")),
        ("path", of(5, "../../users", "0")),
        ("path-escaped", of(5, "%2e%2e%2fusers?limit=1#", "0")),
        ("user", of(4, USER, "")),
    ]
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn tasks() -> Vec<(&'static str, Vec<u8>)> {
    let polled = |kind: TaskType| {
        BatonServiceGetTaskResponse {
            task: Some(Task {
                id: "2UjI0eIRo77RGFwi2GKpAa0Til0".to_owned(),
                task_type: Some(kind),
                ..Task::default()
            }),
            next_poll: Some(ProtoDuration {
                seconds: 1_000_000_000,
                nanos: -1,
            }),
            ..Default::default()
        }
        .encode_to_vec()
    };
    let invoke = |name: &str, arguments: Vec<(&str, Value)>| {
        polled(TaskType::ActionInvoke(task::ActionInvokeTask {
            name: name.to_owned(),
            args: Some(Struct {
                fields: arguments
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect(),
            }),
            ..Default::default()
        }))
    };
    let text_of = |text: &str| value(Kind::StringValue(text.to_owned()));
    let profile = Struct {
        fields: [
            ("username", text_of("new.person")),
            ("email", text_of("new@example.com")),
            ("firstname", text_of("New")),
            ("attributes", value(Kind::StructValue(Struct::default()))),
            ("send_email", value(Kind::BoolValue(false))),
            ("manager", text_of(USER)),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect(),
    };
    let random = v2::CredentialOptions {
        options: Some(v2::credential_options::Options::RandomPassword(
            v2::credential_options::RandomPassword {
                length: 20,
                constraints: Vec::new(),
            },
        )),
        force_change_at_next_login: true,
    };
    let key = RevealKey::generate(KeyKind::Age)
        .unwrap()
        .encryption_config();
    let own = Ed25519Jwk::from_seed(OWN_SEED, None).unwrap();
    let given = v2::CredentialOptions {
        options: Some(v2::credential_options::Options::EncryptedPassword(
            v2::credential_options::EncryptedPassword {
                encrypted_passwords: vec![v2::EncryptedData {
                    encrypted_bytes: b"AAAA".to_vec(),
                    key_ids: vec![own.key_id()],
                    ..v2::EncryptedData::default()
                }],
            },
        )),
        force_change_at_next_login: false,
    };
    vec![
        (
            "nothing",
            BatonServiceGetTaskResponse::default().encode_to_vec(),
        ),
        ("hello", polled(TaskType::Hello(task::HelloTask::default()))),
        (
            "sync",
            polled(TaskType::SyncFull(task::SyncFullTask {
                sync_resource_type_ids: vec!["user".to_owned(), "../x".to_owned()],
                targeted_sync_resources: vec![resource("user", USER)],
                storage_engine: "pebble".to_owned(),
                ..Default::default()
            })),
        ),
        (
            "grant-group",
            polled(TaskType::Grant(task::GrantTask {
                entitlement: Some(entitlement("group", GROUP)),
                principal: Some(resource("user", USER)),
                ..Default::default()
            })),
        ),
        (
            "grant-role",
            polled(TaskType::Grant(task::GrantTask {
                entitlement: Some(entitlement("role", "manager")),
                principal: Some(resource("user", "64ab00000000000000000002")),
                ..Default::default()
            })),
        ),
        (
            "grant-app",
            polled(TaskType::Grant(task::GrantTask {
                entitlement: Some(entitlement("app", "64ae00000000000000000001")),
                principal: Some(resource("group", GROUP)),
                ..Default::default()
            })),
        ),
        (
            "grant-path",
            polled(TaskType::Grant(task::GrantTask {
                entitlement: Some(entitlement("group", "../users")),
                principal: Some(resource("user", "..")),
                ..Default::default()
            })),
        ),
        (
            "revoke",
            polled(TaskType::Revoke(task::RevokeTask {
                grant: Some(grant("group", GROUP, resource("user", USER))),
                ..Default::default()
            })),
        ),
        (
            "create-account",
            polled(TaskType::CreateAccount(task::CreateAccountTask {
                account_info: Some(v2::AccountInfo {
                    login: "new.person".to_owned(),
                    profile: Some(profile),
                    ..Default::default()
                }),
                credential_options: Some(random.clone()),
                encryption_configs: vec![key.clone()],
                ..Default::default()
            })),
        ),
        (
            "create-resource",
            polled(TaskType::CreateResource(task::CreateResourceTask {
                resource: Some(resource("group", "new")),
            })),
        ),
        (
            "delete-resource",
            polled(TaskType::DeleteResource(task::DeleteResourceTask {
                resource_id: resource("user", USER).id,
                ..Default::default()
            })),
        ),
        (
            "rotate",
            polled(TaskType::RotateCredentials(task::RotateCredentialsTask {
                resource_id: resource("user", USER).id,
                credential_options: Some(random),
                encryption_configs: vec![key],
            })),
        ),
        (
            "rotate-given",
            polled(TaskType::RotateCredentials(task::RotateCredentialsTask {
                resource_id: resource("user", USER).id,
                credential_options: Some(given),
                ..Default::default()
            })),
        ),
        (
            "schemas",
            polled(TaskType::ActionListSchemas(
                task::ActionListSchemasTask::default(),
            )),
        ),
        (
            "schema",
            polled(TaskType::ActionGetSchema(task::ActionGetSchemaTask {
                name: "suspend_user".to_owned(),
                ..Default::default()
            })),
        ),
        (
            "disable",
            invoke("suspend_user", vec![("user_id", text_of(USER))]),
        ),
        (
            "enable",
            invoke("activate_user", vec![("user_id", text_of(USER))]),
        ),
        (
            "update",
            invoke(
                "update_user_attributes",
                vec![
                    ("user_id", text_of(USER)),
                    ("department", text_of("x")),
                    ("number", value(Kind::NumberValue(f64::NAN))),
                    ("list", value(Kind::ListValue(proto_list()))),
                ],
            ),
        ),
        (
            "status",
            polled(TaskType::ActionStatus(task::ActionStatusTask {
                id: "../../etc/passwd".to_owned(),
                ..Default::default()
            })),
        ),
    ]
}

fn proto_list() -> prost_types::ListValue {
    prost_types::ListValue {
        values: vec![value(Kind::NullValue(0)), proto::string_value("a")],
    }
}
