//! Whatever ids, arguments and page tokens a task names, a request to JumpCloud goes to one of the known paths.
//!
//! The requests are recorded as they come over the wire, by a server that answers whatever keeps a change going.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, extract::Request, http::StatusCode, response::IntoResponse as _};
use baton_jumpcloud::{
    connector::{
        Connector as _, Error, SyncScope,
        jumpcloud::{
            Allowed, JumpCloud, Settings,
            client::{self, Auth, Client, Region},
        },
        provision::{Change, Credential, Ledger, Permit, Plan, Provisioner as _},
    },
    http::retry::Policy,
    proto::connector as v2,
    sim::conductorone::tasks,
};
use futures_util::{
    StreamExt as _,
    future::{BoxFuture, FutureExt as _},
    stream,
};
use proptest::prelude::*;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use url::Url;

/// Every path that the product asks for; `*` stands for an id.
const PATHS: &[&str] = &[
    "api/applications",
    "api/applications/*",
    "api/organizations",
    "api/organizations/*",
    "api/search/systemusers",
    "api/systemusers",
    "api/systemusers/*",
    "api/systemusers/*/expire",
    "api/systemusers/*/resetmfa",
    "api/systemusers/*/sshkeys",
    "api/systemusers/*/sshkeys/*",
    "api/systemusers/*/state/activate",
    "api/systemusers/*/unlock",
    "api/users",
    "api/users/getSelf",
    "api/users/*",
    "api/v2/applications/*/associations",
    "api/v2/bulk/userstates",
    "api/v2/roles",
    "api/v2/usergroups",
    "api/v2/usergroups/*",
    "api/v2/usergroups/*/associations",
    "api/v2/usergroups/*/members",
    "api/v2/users/*/associations",
    "api/v2/users/*/memberof",
];
/// Every name in a query.
const NAMES: &[&str] = &[
    "limit",
    "skip",
    "fields",
    "filter",
    "sort",
    "search",
    "targets",
    "cascade_manager",
    "userid",
];

/// What most ids of JumpCloud look like.
const KEY_ID: &str = "64ab00000000000000000001";

/// How long one operation may take; longer than all its requests, shorter than the waiting for a change to show.
const LIMIT: Duration = Duration::from_millis(500);

/// What goes before every path, to see that it is never left.
const GATEWAY: &str = "/gateway/jc/";

/// What is wrong with a request, if anything is.
fn judge(line: &str) -> Result<(), String> {
    let (path, query) = line.split_once('?').unwrap_or((line, ""));
    let rest = path
        .strip_prefix(GATEWAY)
        .ok_or_else(|| format!("{line} left the base"))?;
    let segments: Vec<&str> = rest.split('/').collect();
    let known = PATHS.iter().any(|known| {
        let known: Vec<&str> = known.split('/').collect();
        known.len() == segments.len()
            && known.iter().zip(&segments).all(|(known, segment)| {
                known == segment || (*known == "*" && is_one_segment(segment))
            })
    });
    if !known {
        return Err(format!("{line} is no path of ours"));
    }
    for (name, _) in url::form_urlencoded::parse(query.as_bytes()) {
        if !NAMES.contains(&&*name) {
            return Err(format!("{line} has a query of its own"));
        }
    }
    Ok(())
}

/// Whether an id stays one segment, also for somebody who decodes it more than once.
fn is_one_segment(segment: &str) -> bool {
    let mut text = segment.to_owned();
    for _ in 0..3 {
        if text.is_empty() || [".", ".."].contains(&text.as_str()) {
            return false;
        }
        if text
            .chars()
            .any(|letter| "/\\?#;".contains(letter) || letter.is_control())
        {
            return false;
        }
        text = decoded(&text);
    }
    true
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        if *first == b'%'
            && let Some(byte) = more
                .get(..2)
                .and_then(|digits| std::str::from_utf8(digits).ok())
                .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        {
            bytes.push(byte);
            rest = &more[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

struct Recorder {
    connector: JumpCloud,
    lines: Arc<Mutex<Vec<String>>>,
    /// Directory users are not found, as the ids of administrators are not.
    absent: Arc<AtomicBool>,
    work: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

impl Recorder {
    async fn start() -> Self {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let notes = Arc::clone(&lines);
        let absent = Arc::new(AtomicBool::new(false));
        let gone = Arc::clone(&absent);
        let router: Router = Router::new().fallback(move |request: Request| {
            let line = request.uri().to_string();
            notes.lock().unwrap().push(line.clone());
            let path = line.split('?').next().unwrap().to_owned();
            let last = path.rsplit('/').next().unwrap();
            if gone.load(Ordering::Relaxed) && path.contains("/api/systemusers/") {
                return std::future::ready(StatusCode::NOT_FOUND.into_response());
            }
            let body = match last {
                // Only keys of this user can be removed.
                "sshkeys" => json!([{"_id": KEY_ID, "name": "x"}]),
                "members" | "associations" | "memberof" | "roles" | "usergroups" => json!([]),
                "users" | "systemusers" | "applications" | "organizations" => {
                    json!({"totalCount": 0, "results": []})
                }
                id => json!({
                    "_id": decoded(id), "id": decoded(id), "name": "x", "type": "user_group",
                    "membershipMethod": "STATIC", "email": "a@example.com", "username": "a",
                    "displayLabel": "x", "state": "ACTIVATED", "activated": true, "account_locked": true,
                    "totp_enabled": true, "mfa": {"configured": true},
                }),
            };
            std::future::ready(axum::Json(body).into_response())
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{GATEWAY}", listener.local_addr().unwrap());
        let url = Url::parse(&url).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let mut settings =
            client::Settings::for_region(Region::Us, Auth::ApiKey("jca_SECRETSEED".into()));
        settings.console_url = url.clone();
        settings.insights_url = url;
        settings.max_concurrency = 64;
        let policy = Policy {
            max_attempts: 1,
            min_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(1),
            budget: Duration::from_secs(5),
        };
        let work = tempfile::tempdir().unwrap();
        let connector = JumpCloud::new(
            Client::with_policy(settings, policy).unwrap(),
            Settings {
                merge_administrators: false,
                work_dir: work.path().to_owned(),
                allowed: Allowed {
                    account_deletion: true,
                    administrator_roles: true,
                },
                optional: Vec::new(),
            },
        );
        Self {
            connector,
            lines,
            absent,
            work,
            _tasks: tasks,
        }
    }

    /// Tries everything that takes an id of a task, with directory users and without.
    async fn try_all(&self, one: &str, other: &str) {
        for absent in [false, true] {
            self.absent.store(absent, Ordering::Relaxed);
            self.try_once(one, other).await;
        }
    }

    async fn try_once(&self, one: &str, other: &str) {
        let scope = SyncScope {
            sync_id: "sync".to_owned(),
            resource_type_ids: Vec::new(),
            folder: Some(self.work.path().to_owned()),
        };
        let ledger = Writes;
        let cancel = CancellationToken::new();
        let change = Change {
            earlier: None,
            ledger: &ledger,
            cancel: &cancel,
        };
        let connector = &self.connector;
        let mut work: Vec<BoxFuture<'_, ()>> = Vec::new();
        let kinds = ["user", "group", "role", "app", one];
        for kind in kinds {
            let id = tasks::resource_id(kind, one);
            let resource = v2::Resource {
                id: Some(id.clone()),
                ..v2::Resource::default()
            };
            let principals = ["user", "group"].map(|principal| v2::Resource {
                id: Some(tasks::resource_id(principal, other)),
                ..v2::Resource::default()
            });
            for slug in ["member", "assigned", "access", "administrator", one] {
                let entitlement = v2::Entitlement {
                    id: format!("{kind}:{one}:{slug}"),
                    slug: slug.to_owned(),
                    resource: Some(resource.clone()),
                    ..v2::Entitlement::default()
                };
                for principal in principals.clone() {
                    let entitlement = entitlement.clone();
                    work.push(
                        async move {
                            let grant = v2::Grant {
                                id: format!("{}:{}", entitlement.id, other),
                                entitlement: Some(entitlement.clone()),
                                principal: Some(principal.clone()),
                                ..v2::Grant::default()
                            };
                            drop(soon(connector.grant(&entitlement, &principal, change)).await);
                            drop(soon(connector.revoke(&grant, change)).await);
                        }
                        .boxed(),
                    );
                }
            }
            let scope = &scope;
            work.push(
                async move {
                    drop(soon(connector.get_resource(scope, &id)).await);
                    drop(soon(connector.delete_resource(&id, change)).await);
                    let random = Credential::Random(v2::credential_options::RandomPassword {
                        length: 20,
                        ..Default::default()
                    });
                    drop(soon(connector.rotate_credential(&id, &random, false, change)).await);
                    for page in [None, Some(one), Some(other)] {
                        drop(soon(connector.list_resources(scope, kind, Some(&id), page)).await);
                        drop(soon(connector.list_resources(scope, kind, None, page)).await);
                        drop(soon(connector.list_entitlements(scope, &resource, page)).await);
                        drop(soon(connector.list_grants(scope, &resource, page)).await);
                    }
                }
                .boxed(),
            );
        }
        for schema in connector.action_schemas() {
            let objects = [
                json!(one),
                json!({"resource_type_id": "user", "resource_id": one}),
            ];
            for user in objects {
                let mut arguments = json!({"user_id": user});
                for field in &schema.arguments {
                    match field.name.as_str() {
                        "start_date" => arguments["start_date"] = json!("2999-01-31T17:00:00Z"),
                        "key_id" => arguments["key_id"] = json!(other),
                        "manager" | "manager_id" | "department" => {
                            arguments[&field.name] = json!(other);
                        }
                        _ => {}
                    }
                }
                let arguments = tasks::structure(&arguments);
                let name = schema.name.clone();
                work.push(
                    async move {
                        for kind in ["", "user"] {
                            drop(soon(connector.invoke(&name, kind, &arguments, change)).await);
                        }
                    }
                    .boxed(),
                );
            }
        }
        // Few at a time, so that none waits for its turn until its time is over.
        stream::iter(work).for_each_concurrent(8, |work| work).await;
        connector.cleanup("sync").await;
    }
}

/// By then every request is out; what comes after is the waiting for a change to show.
async fn soon<T>(work: impl Future<Output = T>) -> Option<T> {
    timeout(LIMIT, work).await.ok()
}

struct Writes;

#[async_trait]
impl Ledger for Writes {
    async fn intend(&self, _plan: &Plan) -> Result<Permit, Error> {
        Ok(Permit::Write)
    }
}

/// Ids that try to be something else, and ids that are any text.
fn ids() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("..".to_owned()),
        Just("/".to_owned()),
        Just("%2f".to_owned()),
        Just("%2e%2e".to_owned()),
        Just("%252e".to_owned()),
        Just("\\".to_owned()),
        Just("?fields=password".to_owned()),
        Just("#".to_owned()),
        Just("@evil.example.com".to_owned()),
        Just("//evil.example.com".to_owned()),
        Just("http://evil.example.com/".to_owned()),
        Just(";x=y".to_owned()),
        Just("\r\nx-api-key: y".to_owned()),
        Just("\u{ff0f}".to_owned()),
        Just("64ab00000000000000000001".to_owned()),
        Just(":".to_owned()),
        "\\PC{0,8}",
        any::<String>(),
    ];
    prop_oneof![
        3 => proptest::collection::vec(piece, 1..5).prop_map(|pieces| pieces.concat()),
        1 => Just(KEY_ID.to_owned()),
        1 => "[!-~]{1,12}",
    ]
}

#[test]
fn no_id_of_a_task_changes_where_a_request_goes() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let recorder = runtime.block_on(Recorder::start());
    // Good ids first, so that it is known that the requests do go out.
    let good = KEY_ID;
    runtime.block_on(recorder.try_all(good, good));
    let asked: std::collections::BTreeSet<String> = recorder
        .lines
        .lock()
        .unwrap()
        .drain(..)
        .map(|line| line.split('?').next().unwrap().replace(good, "*"))
        .collect();
    let with_ids = asked.iter().filter(|path| path.contains('*')).count();
    assert!(with_ids >= 8, "{asked:#?}");
    for path in &asked {
        judge(path).unwrap();
    }
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&(ids(), ids()), |(one, other)| {
            runtime.block_on(recorder.try_all(&one, &other));
            let lines: Vec<String> = recorder.lines.lock().unwrap().drain(..).collect();
            for line in lines {
                judge(&line).map_err(TestCaseError::fail)?;
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_judge_of_paths_finds_what_it_is_there_for() {
    for good in [
        "/gateway/jc/api/systemusers/64ab",
        "/gateway/jc/api/systemusers/a%20b?fields=email&limit=1",
        "/gateway/jc/api/v2/usergroups/x/members?limit=100&skip=0",
    ] {
        judge(good).unwrap();
    }
    for bad in [
        "/api/systemusers/64ab",
        "/gateway/jc/api/systemusers/a/b",
        "/gateway/jc/api/systemusers/a%2fexpire",
        "/gateway/jc/api/systemusers/a%252fexpire",
        "/gateway/jc/api/systemusers/..",
        "/gateway/jc/api/systemusers/%2e%2e",
        "/gateway/jc/api/systemusers/",
        "/gateway/jc/api/systemusers/a?password=1",
        "/gateway/jc/api/systemusers/a%0d%0ab",
        "http://evil.example.com/gateway/jc/api/systemusers/a",
    ] {
        assert!(judge(bad).is_err(), "{bad}");
    }
}
