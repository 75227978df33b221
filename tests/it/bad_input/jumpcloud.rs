//! Answers of JumpCloud that are not what they should be: a sync fails with the endpoint's name, or is whole all the same.

use std::{
    collections::BTreeMap,
    io::Read as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use baton_jumpcloud::{
    c1z::{Reader, ResourceFilter},
    clock::SystemClock,
    connector::jumpcloud::{
        self, JumpCloud,
        client::{Auth, Client, Settings},
    },
    error::chain,
    http::retry::Policy,
    sim::jumpcloud::{self as directory, JumpCloudSim, Shape},
    syncer::{self, Environment, Limits, NoProgress, Report, SyncRequest},
};
use futures_util::{StreamExt as _, stream};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::MARKER;

const FAST: Policy = Policy {
    max_attempts: 2,
    min_delay: Duration::from_millis(1),
    max_delay: Duration::from_millis(2),
    budget: Duration::from_secs(20),
};
const ORG: &str = "64aa00000000000000000001";

/// What came of a sync.
struct Synced {
    outcome: Result<Report, String>,
    /// The decoded database; empty after a failure.
    database: Vec<u8>,
    /// Display names of the resources.
    names: Vec<String>,
    work: TempDir,
}

impl Synced {
    fn shown(&self) -> String {
        match &self.outcome {
            Ok(report) => format!("{report:?}"),
            Err(error) => error.clone(),
        }
    }

    /// Nothing is left in the work folder but a finished file.
    fn leftovers(&self) -> Vec<String> {
        std::fs::read_dir(self.work.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "sync.c1z")
            .collect()
    }
}

/// A full sync against this address.
async fn sync(url: &Url) -> Synced {
    let work = TempDir::new().unwrap();
    let client = Client::with_policy(
        Settings {
            console_url: url.clone(),
            insights_url: url.clone(),
            auth: Auth::ApiKey(directory::FULL_KEY.into()),
            org_id: None,
            timeout: Duration::from_secs(10),
            extra_ca_pem: None,
            max_concurrency: 4,
            rotation_wait: Duration::ZERO,
        },
        FAST,
    )
    .unwrap();
    let connector = JumpCloud::new(
        client,
        jumpcloud::Settings {
            merge_administrators: false,
            work_dir: work.path().to_owned(),
            optional: Vec::new(),
            allowed: jumpcloud::Allowed::default(),
        },
    );
    let file = work.path().join("sync.c1z");
    let outcome = syncer::sync_to_file_within(
        &connector,
        &SyncRequest::default(),
        Environment {
            work_dir: work.path(),
            clock: &SystemClock,
            progress: &NoProgress,
            cancel: &CancellationToken::new(),
            keep: false,
        },
        Limits {
            retry_budget: Duration::ZERO,
            ..Limits::default()
        },
        &file,
    )
    .await
    .map_err(|error| chain(&error));
    let (mut database, mut names) = (Vec::new(), Vec::new());
    if outcome.is_ok() {
        let packed = std::fs::read(&file).unwrap();
        zstd::stream::read::Decoder::new(&packed[5..])
            .unwrap()
            .read_to_end(&mut database)
            .unwrap();
        let reader = Reader::open(&file, work.path()).unwrap();
        let run = reader.latest_sync().unwrap();
        for resource in reader.resources(&run.sync_id, ResourceFilter::All) {
            names.push(resource.unwrap().display_name);
        }
    }
    Synced {
        outcome,
        database,
        names,
        work,
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

// Faults of the simulator, at every endpoint that a sync reads.

async fn simulator(users: u32) -> JumpCloudSim {
    JumpCloudSim::start(directory::Config::of(Shape {
        users,
        groups: 3,
        members_per_group: 2,
        apps: 3,
        admins: 2,
        ..Shape::default()
    }))
    .await
    .unwrap()
}

/// What a fault must lead to.
#[derive(Clone, Copy, PartialEq)]
enum Must {
    /// An error that names the endpoint and says this.
    Fail(&'static str),
    /// Either that or a whole sync.
    Cope,
}

const FAULTS: &[(&str, Must)] = &[
    ("html-200", Must::Fail("HTML where JSON was expected")),
    ("empty-body", Must::Fail("the body is empty")),
    ("truncated-json", Must::Fail("the JSON ends too early")),
    ("reset-mid-body", Must::Fail("got no answer (body)")),
    ("no-response", Must::Fail("got no answer")),
    ("redirect=http://127.0.0.1:9", Must::Fail("answered 302")),
    ("oversized-body=70000000", Must::Fail("")),
    (
        "cross-origin-link=http://127.0.0.1:9",
        Must::Fail("header Link"),
    ),
    ("400", Must::Fail("answered 400")),
    ("402", Must::Fail("plan does not include")),
    ("500", Must::Fail("answered 500")),
    ("503", Must::Fail("answered 503")),
    ("418", Must::Fail("answered 418")),
    ("wrong-types", Must::Fail("")),
    ("null-fields", Must::Cope),
    ("wrong-total", Must::Cope),
    ("no-total", Must::Cope),
];

#[tokio::test]
async fn every_fault_of_every_endpoint_fails_the_sync_with_its_name_or_is_coped_with() {
    let sim = simulator(4).await;
    let url: Url = sim.base_url.parse().unwrap();
    let good = sync(&url).await;
    let rows = good.outcome.as_ref().unwrap().resources.clone();
    let endpoints: Vec<String> = {
        let asked = sim.requests();
        let names = asked.by_endpoint.keys();
        names
            .filter_map(|name| name.strip_prefix("GET "))
            .map(str::to_owned)
            .collect()
    };
    assert!(endpoints.len() >= 7, "{endpoints:?}");
    let cases: Vec<(String, &str, Must)> = endpoints
        .iter()
        .flat_map(|endpoint| {
            FAULTS
                .iter()
                .map(|&(fault, must)| (endpoint.clone(), fault, must))
        })
        .collect();
    let rows = &rows;
    let wrong: Vec<String> = stream::iter(cases)
        .map(|(endpoint, fault, must)| async move {
            // Roles in use are known from the administrators, so a plan without this list costs no sync.
            let must = match (endpoint.as_str(), fault) {
                (ROLES, "402") => Must::Cope,
                _ => must,
            };
            let sim = simulator(4).await;
            sim.add_fault(&format!("{endpoint}@always:{fault}"))
                .unwrap();
            let url: Url = sim.base_url.parse().unwrap();
            let synced = sync(&url).await;
            let shown = synced.shown();
            let mut wrong = Vec::new();
            match (&synced.outcome, must) {
                (Err(error), Must::Fail(words)) => {
                    // The check at the start names what is missing by its own name, all at once.
                    let is_named = fault == "402" || error.contains(&endpoint);
                    if !is_named || !error.contains(words) {
                        wrong.push("does not say where and what");
                    }
                }
                // An object that vanished or cannot be read is no failure of a list.
                (Ok(report), _) if must == Must::Cope => {
                    if report.resources.keys().ne(rows.keys()) {
                        wrong.push("lost a resource type");
                    }
                }
                (Ok(_), _) => wrong.push("is taken for an answer"),
                (Err(error), Must::Cope) => {
                    if !error.contains(&endpoint) {
                        wrong.push("does not name the endpoint");
                    }
                }
            }
            if shown.contains(MARKER) || shown.len() > 3000 || contains(&synced.database, MARKER) {
                wrong.push("shows a secret or too much");
            }
            if !synced.leftovers().is_empty() {
                wrong.push("leaves files behind");
            }
            wrong
                .iter()
                .map(|problem| format!("{endpoint} {fault}: {problem}: {shown}"))
                .collect::<Vec<_>>()
        })
        .buffer_unordered(8)
        .collect::<Vec<_>>()
        .await
        .concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn paging_that_never_ends_or_repeats_itself_ends_in_an_error() {
    for fault in ["endless-paging", "duplicate-page"] {
        let sim = simulator(250).await;
        sim.add_fault(&format!("/api/systemusers@always:{fault}"))
            .unwrap();
        let synced = sync(&sim.base_url.parse().unwrap()).await;
        let error = synced.outcome.unwrap_err();
        assert!(error.contains("/api/systemusers"), "{fault}: {error}");
        assert!(error.contains("skip is not honoured"), "{fault}: {error}");
        let calls = sim.requests().total;
        assert!(calls < 40, "{fault}: {calls} calls");
    }
}

// Bodies that the simulator cannot make: a server of four lists, all of them right but for what a test replaces.

type Bodies = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

struct Server {
    url: Url,
    bodies: Bodies,
    _tasks: JoinSet<()>,
}

const USERS: &str = "/api/systemusers";
const ADMINISTRATORS: &str = "/api/users";
const APPLICATIONS: &str = "/api/applications";
const GROUPS: &str = "/api/v2/usergroups";
const ROLES: &str = "/api/v2/roles";
const MEMBERS: &str = "/api/v2/usergroups/g1/members";
const APP_GROUPS: &str = "/api/v2/applications/a1/associations";

fn user() -> Value {
    json!({"_id": "u1", "username": "ada", "email": "ada@example.com", "displayname": "Ada", "state": "ACTIVATED"})
}

fn wrapped(rows: &[Value]) -> Vec<u8> {
    json!({"totalCount": rows.len(), "results": rows})
        .to_string()
        .into_bytes()
}

fn array(rows: &[Value]) -> Vec<u8> {
    json!(rows).to_string().into_bytes()
}

impl Server {
    async fn start() -> Self {
        let administrator = json!({"_id": "d1", "email": "root@example.com", "roleName": "Administrator", "roleNames": ["Administrator"]});
        let app = json!({"_id": "a1", "name": "slack", "displayLabel": "Chat", "active": true});
        let group = json!({"id": "g1", "name": "Staff", "type": "user_group"});
        let bodies = BTreeMap::from([
            (USERS.to_owned(), wrapped(&[user()])),
            (ADMINISTRATORS.to_owned(), wrapped(&[administrator])),
            (APPLICATIONS.to_owned(), wrapped(&[app])),
            (GROUPS.to_owned(), array(&[group])),
            (ROLES.to_owned(), wrapped(&[])),
            (
                MEMBERS.to_owned(),
                array(&[json!({"to": {"id": "u1", "type": "user"}})]),
            ),
        ]);
        let bodies: Bodies = Arc::new(Mutex::new(bodies));
        let served = Arc::clone(&bodies);
        let service = move |request: Request| {
            let served = Arc::clone(&served);
            async move {
                let path = request.uri().path();
                let body = served.lock().unwrap().get(path).cloned();
                let body = body.unwrap_or_else(|| b"[]".to_vec());
                answer(StatusCode::OK, body)
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ended = axum::serve(listener, Router::new().fallback(service)).await;
        });
        Self {
            url: url.parse().unwrap(),
            bodies,
            _tasks: tasks,
        }
    }

    /// Serves another body at a path.
    fn with(self, path: &str, body: impl Into<Vec<u8>>) -> Self {
        self.bodies
            .lock()
            .unwrap()
            .insert(path.to_owned(), body.into());
        self
    }

    async fn sync(&self) -> Synced {
        sync(&self.url).await
    }
}

fn answer(status: StatusCode, body: Vec<u8>) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        Body::from(body),
    )
        .into_response()
}

/// A wrapped list of one row whose text stands here.
fn row(text: &str) -> Vec<u8> {
    format!(r#"{{"totalCount":1,"results":[{text}]}}"#).into_bytes()
}

fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

#[tokio::test]
async fn bodies_that_are_no_list_fail_with_the_field_and_without_its_value() {
    let field = |name: &str, value: &str| row(&format!(r#"{{"_id":"u1","{name}":{value}}}"#));
    let cases: Vec<(&str, &str, Vec<u8>, &[&str])> = vec![
        (
            "a text",
            USERS,
            br#""SECRETSEED""#.to_vec(),
            &["field .", "invalid type: string"],
        ),
        ("a number", USERS, b"7".to_vec(), &["field .", "integer"]),
        ("null", USERS, b"null".to_vec(), &["field ."]),
        (
            "an object without rows",
            USERS,
            br#"{"message":"SECRETSEED"}"#.to_vec(),
            &["missing field `results`"],
        ),
        (
            "rows that are a text",
            USERS,
            br#"{"results":"SECRETSEED","totalCount":1}"#.to_vec(),
            &["field results", "string"],
        ),
        (
            "rows that are an object",
            USERS,
            br#"{"results":{"SECRETSEED":1},"totalCount":1}"#.to_vec(),
            &["field results", "map"],
        ),
        (
            "a row that is a text",
            USERS,
            row(r#""SECRETSEED""#),
            &["field results[0]", "string"],
        ),
        (
            "a row that is a number",
            USERS,
            row("7"),
            &["field results[0]", "integer"],
        ),
        (
            "a row that is null",
            USERS,
            row("null"),
            &["field results[0]"],
        ),
        (
            "rows twice",
            USERS,
            br#"{"results":[],"results":[],"totalCount":0}"#.to_vec(),
            &["duplicate field `results`"],
        ),
        (
            "a control character inside a text",
            USERS,
            field("username", "\"SECRET\u{1}SEED\""),
            &["not JSON at line 1"],
        ),
        (
            "a NUL inside the text",
            USERS,
            field("username", "\"SECRETSEED\0\""),
            &["not JSON at line 1"],
        ),
        (
            "a number beyond all measure",
            USERS,
            field("employeeIdentifier", "1e999999"),
            &["not JSON at line 1"],
        ),
        (
            "ten thousand levels",
            USERS,
            field("attributes", &nested(10_000)),
            &["not JSON at line 1"],
        ),
        (
            "two documents",
            USERS,
            [wrapped(&[]), wrapped(&[])].concat(),
            &["text follows after the end"],
        ),
        (
            "a byte-order mark",
            USERS,
            [b"\xef\xbb\xbf".to_vec(), wrapped(&[])].concat(),
            &["not JSON at line 1"],
        ),
        (
            "only white space",
            USERS,
            b" \r\n\t".to_vec(),
            &["the body is empty"],
        ),
        (
            "a total without rows",
            USERS,
            br#"{"results":[],"totalCount":5}"#.to_vec(),
            &[
                "field results",
                "no rows from row 0 on although there are 5",
            ],
        ),
        (
            "a total beyond all measure",
            USERS,
            format!(
                r#"{{"results":[{}],"totalCount":18446744073709551615}}"#,
                user()
            )
            .into_bytes(),
            &["field total", "more than any organisation"],
        ),
        (
            "administrators that are a text",
            ADMINISTRATORS,
            br#""SECRETSEED""#.to_vec(),
            &["field ."],
        ),
        (
            "administrators as a bare list",
            ADMINISTRATORS,
            br#"["SECRETSEED"]"#.to_vec(),
            &[],
        ),
        (
            "applications that are null rows",
            APPLICATIONS,
            row("null"),
            &["field results[0]"],
        ),
        (
            "groups in a wrapper",
            GROUPS,
            wrapped(&[]),
            &["field .", "map"],
        ),
        (
            "groups that are texts",
            GROUPS,
            br#"["SECRETSEED"]"#.to_vec(),
            &["[0]", "string"],
        ),
        (
            "roles that are a text",
            ROLES,
            br#""SECRETSEED""#.to_vec(),
            &["field .", "string"],
        ),
        (
            "members that are numbers",
            MEMBERS,
            b"[1]".to_vec(),
            &["[0]", "integer"],
        ),
        (
            "members that nobody can tell apart",
            MEMBERS,
            br#"[{"to":{"id":7,"type":7}},{"to":null},{"to":{"id":7,"type":"SECRETSEED"}}]"#
                .to_vec(),
            &["field results", "3 of 3 rows have no usable id"],
        ),
        (
            "users whose ids are numbers",
            USERS,
            br#"{"totalCount":2,"results":[{"_id":7,"username":"SECRETSEED"},{"_id":8}]}"#.to_vec(),
            &["field results", "2 of 2 rows have no usable id"],
        ),
        (
            "members in a wrapper",
            MEMBERS,
            wrapped(&[]),
            &["field .", "map"],
        ),
        (
            "associations that are texts",
            APP_GROUPS,
            br#"["SECRETSEED"]"#.to_vec(),
            &["[0]", "string"],
        ),
    ];
    assert!(cases.len() >= 25);
    let wrong: Vec<String> = stream::iter(cases)
        .map(|(name, path, body, says)| async move {
            let synced = Server::start().await.with(path, body).sync().await;
            let shown = synced.shown();
            let mut wrong = Vec::new();
            if synced.outcome.is_ok() {
                wrong.push(format!("{name}: is taken for an answer: {shown}"));
            }
            let template = path.replace("/g1/", "/{id}/").replace("/a1/", "/{id}/");
            for part in says.iter().copied().chain([template.as_str()]) {
                if !shown.contains(part) {
                    wrong.push(format!("{name}: does not say {part:?}: {shown}"));
                }
            }
            if shown.contains(MARKER) || shown.contains("SEED") || shown.len() > 3000 {
                wrong.push(format!("{name}: shows the value: {shown}"));
            }
            if !synced.leftovers().is_empty() {
                wrong.push(format!("{name}: leaves files behind"));
            }
            wrong
        })
        .buffer_unordered(8)
        .collect::<Vec<_>>()
        .await
        .concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn odd_rows_cost_no_sync() {
    let with = |name: &str, value: &str| row(&format!(r#"{{"_id":"u1","{name}":{value}}}"#));
    // A list of nothing but such rows would be an error.
    let beside =
        |row: &str| format!(r#"{{"totalCount":2,"results":[{},{row}]}}"#, user()).into_bytes();
    let claims =
        |total: &str| format!(r#"{{"results":[{}],"totalCount":{total}}}"#, user()).into_bytes();
    let member_beside =
        |row: &str| format!(r#"[{{"to":{{"id":"u1","type":"user"}}}},{row}]"#).into_bytes();
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        (
            "a text of one megabyte",
            USERS,
            with("displayname", &format!("\"{}\"", "x".repeat(1_000_000))),
        ),
        (
            "escaped control characters",
            USERS,
            with("displayname", r#""a\u0000\u0007\u001b[31mb\r\n""#),
        ),
        (
            "half a surrogate",
            USERS,
            with("displayname", r#""a\ud83dz""#),
        ),
        (
            "the other half of a surrogate",
            USERS,
            with("displayname", r#""\ude00""#),
        ),
        (
            "half a surrogate where nobody looks",
            USERS,
            with("unknown", r#""\ud83d""#),
        ),
        (
            "text that is not UTF-8",
            USERS,
            [
                b"{\"totalCount\":1,\"results\":[{\"_id\":\"u1\",\"displayname\":\"".to_vec(),
                vec![0xff, 0xc3],
                b"\"}]}".to_vec(),
            ]
            .concat(),
        ),
        ("a hundred levels", USERS, with("attributes", &nested(100))),
        (
            "ten thousand levels where nobody looks",
            USERS,
            with("unknown", &nested(10_000)),
        ),
        (
            "a row without id",
            USERS,
            beside(r#"{"username":"nobody"}"#),
        ),
        (
            "a row with an id that is an object",
            USERS,
            beside(r#"{"_id":{"$oid":"u1"}}"#),
        ),
        (
            "a row with an id of one megabyte",
            USERS,
            beside(&format!(r#"{{"_id":"{}"}}"#, "x".repeat(1_000_000))),
        ),
        ("an id with a NUL", USERS, beside(r#"{"_id":"a\u0000b"}"#)),
        ("an id that is a number", USERS, beside(r#"{"_id":7}"#)),
        ("the same row twice", USERS, wrapped(&[user(), user()])),
        ("an empty row", USERS, beside("{}")),
        (
            "rows that are null",
            USERS,
            br#"{"results":null,"totalCount":0}"#.to_vec(),
        ),
        ("a total that is a text", USERS, claims(r#""1""#)),
        ("a total that is negative", USERS, claims("-1")),
        ("a total that is a fraction", USERS, claims("1.5")),
        ("a total that is a list", USERS, claims("[1]")),
        ("a total that is too small", USERS, claims("0")),
        (
            "dates that are none",
            USERS,
            row(
                r#"{"_id":"u1","created":"99999-99-99","password_date":{},"account_locked_date":"SOON"}"#,
            ),
        ),
        (
            "a manager that is itself",
            USERS,
            row(r#"{"_id":"u1","manager":"u1"}"#),
        ),
        (
            "attributes of every shape",
            USERS,
            with(
                "attributes",
                r#"[null,1,"x",{"name":null,"value":[]},{"name":"n","value":{"a":1}}]"#,
            ),
        ),
        (
            "an administrator without e-mail",
            ADMINISTRATORS,
            row(r#"{"_id":"d1","roleName":null,"roleNames":[null,7,{}]}"#),
        ),
        (
            "a role of one megabyte",
            ADMINISTRATORS,
            row(&format!(
                r#"{{"_id":"d1","roleName":"{}"}}"#,
                "r".repeat(1_000_000)
            )),
        ),
        (
            "a role of control characters",
            ADMINISTRATORS,
            row(r#"{"_id":"d1","roleName":"\u0000\n"}"#),
        ),
        (
            "an application of nothing",
            APPLICATIONS,
            row(r#"{"_id":"a1","displayLabel":null,"sso":[],"logo":"x","active":"maybe"}"#),
        ),
        ("groups that are null", GROUPS, b"null".to_vec()),
        (
            "a group without name",
            GROUPS,
            br#"[{"id":"g1","attributes":[],"memberQuery":7}]"#.to_vec(),
        ),
        ("a member that is nothing", MEMBERS, member_beside("{}")),
        (
            "a member that is null",
            MEMBERS,
            member_beside(r#"{"to":null}"#),
        ),
        (
            "a member without id",
            MEMBERS,
            member_beside(r#"{"to":{"id":null,"type":"user"}}"#),
        ),
        (
            "a member of an unknown kind",
            MEMBERS,
            br#"[{"to":{"id":"u1","type":"starship"}}]"#.to_vec(),
        ),
        (
            "a member that is a list",
            MEMBERS,
            member_beside(r#"{"to":[]}"#),
        ),
        ("members that are null", MEMBERS, b"null".to_vec()),
    ];
    let wrong: Vec<String> = stream::iter(cases)
        .map(|(name, path, body)| async move {
            let synced = Server::start().await.with(path, body).sync().await;
            let shown = synced.shown();
            let mut wrong = Vec::new();
            if synced.outcome.is_err() || shown.len() > 6000 {
                wrong.push(format!("{name}: {shown}"));
            }
            if let Some(long) = synced.names.iter().find(|name| name.len() > 4096) {
                wrong.push(format!("{name}: a name of {} bytes", long.len()));
            }
            if synced.names.iter().any(|name| name.contains('\0')) {
                wrong.push(format!("{name}: a name with a NUL"));
            }
            wrong
        })
        .buffer_unordered(8)
        .collect::<Vec<_>>()
        .await
        .concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_body_of_twenty_megabytes_is_read_or_refused_by_its_size() {
    let body = row(&format!(
        r#"{{"_id":"u1","unknown":"{}"}}"#,
        "x".repeat(20_000_000)
    ));
    let synced = Server::start().await.with(USERS, body).sync().await;
    match &synced.outcome {
        Ok(_) => assert!(synced.names.len() >= 3, "{:?}", synced.names),
        Err(error) => assert!(error.contains(USERS) && error.contains("larger"), "{error}"),
    }
    assert!(
        synced.database.len() < 1_000_000,
        "{}",
        synced.database.len()
    );
}

/// Secrets at every place where JumpCloud has them, sent whether they were asked for or not.
#[tokio::test]
async fn secrets_inside_the_answers_travel_no_further() {
    let user = json!({
        "_id": "u1", "username": "ada", "email": "ada@example.com", "state": "ACTIVATED",
        "password": "SECRETSEED-1", "totp_secret": "SECRETSEED-2", "recoveryCodes": ["SECRETSEED-3"],
        "ssh_keys": [{"name": "laptop", "public_key": "ssh-ed25519 SECRETSEED-4", "_id": "SECRETSEED-5"}],
        "mfa": {"configured": true, "secret": "SECRETSEED-6"},
        "delegatedAuthority": {"name": "directory", "token": "SECRETSEED-7"},
        "organization": ORG,
    });
    let administrator = json!({
        "_id": "d1", "email": "root@example.com", "roleName": "Administrator", "organization": ORG,
        "apiKey": "SECRETSEED-8", "sessionCount": 3, "password": "SECRETSEED-9",
        "apiKeyHash": {"prefix": "SECRETSEED-10", "hash": "SECRETSEED-11", "createdAt": "2024-01-01T00:00:00Z"},
        "totpSecret": "SECRETSEED-12",
    });
    let app = json!({
        "_id": "a1", "name": "slack", "displayLabel": "Chat", "active": true, "organization": ORG,
        "config": {
            "idpPrivateKey": {"value": "-----BEGIN PRIVATE KEY----- SECRETSEED-13"},
            "databaseAttributes": {"value": [{"name": "SECRETSEED-14"}]},
            "constantAttributes": {"value": [{"name": "token", "value": "SECRETSEED-15"}]},
        },
        "sso": {"type": "saml", "idpPrivateKey": "SECRETSEED-16", "oidc": {"clientSecret": "SECRETSEED-17"}},
        "provision": {"bearerToken": "SECRETSEED-18"},
        "logo": {"url": "https://example.com/logo.png", "data": "SECRETSEED-19"},
    });
    let group = json!({
        "id": "g1", "name": "Staff", "type": "user_group",
        "attributes": {"radius": {"reply": [{"name": "Tunnel-Password", "value": "SECRETSEED-20"}]}},
    });
    let server = Server::start()
        .await
        .with(USERS, wrapped(&[user]))
        .with(ADMINISTRATORS, wrapped(&[administrator]))
        .with(APPLICATIONS, wrapped(&[app]))
        .with(GROUPS, array(&[group]));
    let (subscriber, _control, captured) = super::debug_log();
    let guard = crate::captured::listen(subscriber);
    let synced = server.sync().await;
    drop(guard);
    let report = synced.outcome.as_ref().unwrap();
    assert_eq!(report.resources.get("user"), Some(&2), "{report:?}");
    for name in ["ada", "Chat", "Staff", "laptop", "Tunnel-Password"] {
        let is_there = contains(&synced.database, name);
        assert!(
            is_there,
            "{name} is not in the file, so the search proves little"
        );
    }
    for secret in [MARKER, "PRIVATE KEY"] {
        assert!(
            !contains(&synced.database, secret),
            "the file holds a secret"
        );
        assert!(
            !synced.shown().contains(secret),
            "the report holds a secret"
        );
        assert!(!captured.text().contains(secret), "the log holds a secret");
    }
    assert!(
        captured.text().contains("sync complete"),
        "{}",
        captured.text()
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|value| json!(value)),
        any::<i64>().prop_map(|value| json!(value)),
        any::<f64>().prop_map(|value| json!(value)),
        ".{0,12}".prop_map(|value| json!(value)),
        Just(json!("u1")),
        Just(json!("user")),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let name = prop::sample::select(vec![
            "_id",
            "id",
            "results",
            "totalCount",
            "to",
            "type",
            "name",
            "email",
            "roleNames",
            "roleName",
            "attributes",
            "admin",
            "mfa",
            "sso",
            "memberQuery",
            "state",
            "x",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| json!(items)),
            prop::collection::btree_map(name, inner, 0..5).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_answer_makes_a_sync_panic(
        answers in prop::collection::btree_map(
            prop::sample::select(vec![USERS, ADMINISTRATORS, APPLICATIONS, GROUPS, ROLES, MEMBERS, APP_GROUPS]),
            prop_oneof![
                any_json().prop_map(|value| value.to_string().into_bytes()),
                prop::collection::vec(any_json(), 0..3).prop_map(|rows| wrapped(&rows)),
                prop::collection::vec(any_json(), 0..3).prop_map(|rows| array(&rows)),
                prop::collection::vec(any::<u8>(), 0..40),
            ],
            1..4,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = answers
                .into_iter()
                .fold(Server::start().await, |server, (path, body)| server.with(path, body));
            let synced = server.sync().await;
            prop_assert!(synced.shown().len() < 6000, "{}", synced.shown());
            prop_assert!(synced.leftovers().is_empty(), "{:?}", synced.leftovers());
            Ok(())
        })?;
    }
}
