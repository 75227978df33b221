//! A directory that answers what it is told to, and refuses to be asked for anything that no request of ours names.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderValue, Method, Request, Response, StatusCode},
};
use tokio::{
    runtime::{self, Runtime},
    task::JoinSet,
};

use crate::{
    clock::{Clock as _, SystemClock},
    connector::jumpcloud::{
        self, Allowed, JumpCloud,
        client::{self, Auth, Client},
    },
    http::retry::{self, Policy},
    supervisor::lock,
};

/// One call and no other attempt.
const ONCE: Policy = Policy {
    max_attempts: 1,
    min_delay: Duration::from_millis(1),
    max_delay: Duration::from_millis(1),
    budget: Duration::from_secs(5),
};
/// An input that keeps us busy for longer is a finding; a machine with much else to do is none.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);
/// An input that makes us ask more often is one, too.
const MAX_REQUESTS: usize = 5000;

/// What is answered, page by page.
pub(super) type Pages = Vec<Vec<u8>>;

#[derive(Default)]
struct Told {
    lists: HashMap<&'static str, Pages>,
    requests: usize,
    /// What was asked for and should not have been.
    wrong: Option<String>,
    /// Whether something other than a read is wrong.
    only_reads: bool,
}

/// A client of a directory on this machine, and what the directory answers.
pub(super) struct Stub {
    pub(super) runtime: Runtime,
    client: Client,
    told: Arc<Mutex<Told>>,
    _server: JoinSet<()>,
}

impl Stub {
    /// Listens on a free port of the loopback interface; served while the runtime runs.
    pub(super) fn start() -> Self {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let told = Arc::<Mutex<Told>>::default();
        let mut server = JoinSet::new();
        let address = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
                .await
                .expect("a port");
            let address = listener.local_addr().expect("an address");
            let router = Router::new().fallback(answer).with_state(Arc::clone(&told));
            server.spawn(async move { axum::serve(listener, router).await.expect("a server") });
            address
        });
        let url: url::Url = format!("http://{address}").parse().expect("an address");
        let client = {
            let _inside = runtime.enter();
            Client::with_policy(
                client::Settings {
                    console_url: url.clone(),
                    insights_url: url,
                    auth: Auth::ApiKey("SECRETSEED-fuzz".into()),
                    org_id: None,
                    timeout: PATIENCE,
                    extra_ca_pem: None,
                    max_concurrency: 4,
                    rotation_wait: Duration::ZERO,
                },
                ONCE,
            )
            .expect("a client")
        };
        Self {
            runtime,
            client,
            told,
            _server: server,
        }
    }

    /// Answers these from now on, with an empty list for the rest.
    pub(super) fn tell(&self, lists: HashMap<&'static str, Pages>, only_reads: bool) {
        *lock(&self.told) = Told {
            lists,
            only_reads,
            ..Told::default()
        };
    }

    /// A connector with a memory of its own. What an earlier input made the client wait for does not hold it up.
    pub(super) fn connector(&self, work_dir: &Path, merge_administrators: bool) -> JumpCloud {
        JumpCloud::new(
            self.client.for_trial(ONCE, false),
            jumpcloud::Settings {
                merge_administrators,
                work_dir: work_dir.to_owned(),
                allowed: Allowed {
                    account_deletion: true,
                    administrator_roles: true,
                },
                optional: Vec::new(),
            },
        )
    }

    /// Fails when something was asked for that should not have been.
    pub(super) fn check(&self) {
        let told = lock(&self.told);
        assert!(
            told.wrong.is_none(),
            "the directory was asked {:?}",
            told.wrong
        );
        assert!(told.requests <= MAX_REQUESTS, "{} requests", told.requests);
    }
}

/// The list that a path is about.
fn list_of(path: &str, query: &str) -> &'static str {
    match path {
        "/api/systemusers" => "users",
        "/api/users" => "administrators",
        "/api/v2/usergroups" => "groups",
        "/api/v2/roles" => "roles",
        "/api/applications" => "apps",
        _ if path.ends_with("/members") => "members",
        _ if path.ends_with("/associations") && query.contains("targets=user_group") => "bindings",
        _ if path.ends_with("/associations") => "assignees",
        _ if path.starts_with("/api/search/") => "search",
        _ => "object",
    }
}

/// The names of every list.
pub(super) const LISTS: [&str; 10] = [
    "users",
    "administrators",
    "groups",
    "roles",
    "apps",
    "members",
    "bindings",
    "assignees",
    "object",
    "search",
];

/// Whether a path is one of ours with at most one id in it.
fn is_ours(path: &str) -> bool {
    let known = [
        "api",
        "v2",
        "systemusers",
        "users",
        "usergroups",
        "roles",
        "applications",
        "members",
        "membership",
        "associations",
        "search",
        "state",
        "insights",
        "directory",
        "v1",
        "events",
        "count",
        "organizations",
        "memberof",
        "settings",
        "bulk",
        "userstates",
    ];
    let mut strange = 0;
    for segment in path.split('/').skip(1) {
        if segment.is_empty() || segment == "." || segment == ".." {
            return false;
        }
        if !known.contains(&segment) {
            strange += 1;
        }
    }
    strange <= 1
}

async fn answer(State(told): State<Arc<Mutex<Told>>>, request: Request<Body>) -> Response<Body> {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    let mut told = lock(&told);
    told.requests += 1;
    let reads = request.method() == Method::GET || path.starts_with("/api/search/");
    if !is_ours(path) || (told.only_reads && !reads) || told.requests > MAX_REQUESTS {
        told.wrong = Some(format!("{} {path}", request.method()));
    }
    let skip = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("skip=")?.parse::<usize>().ok())
        .unwrap_or(0);
    let page = told
        .lists
        .get(list_of(path, query))
        .and_then(|pages| pages.get(skip / 100))
        .map(Vec::as_slice);
    match page {
        Some(page) => told_answer(page),
        None if path.starts_with("/api/v2/") && !path.ends_with("/roles") => told_answer(b"[]"),
        None => told_answer(br#"{"totalCount":0,"results":[]}"#),
    }
}

/// A page may begin with a line of its own: `#status;total;link;retry-after`.
fn told_answer(page: &[u8]) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let mut body = page;
    if let Some(rest) = page.strip_prefix(b"#") {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let (line, after) = rest
            .split_at_checked(end.unwrap_or(rest.len()))
            .unwrap_or((rest, &[]));
        body = after;
        let mut fields = line.split(|byte| *byte == b';');
        let status = fields
            .next()
            .and_then(|status| StatusCode::from_bytes(status).ok())
            .filter(|status| status.as_u16() >= 200);
        *response.status_mut() = status.unwrap_or(StatusCode::OK);
        for name in ["x-total-count", "link", "retry-after"] {
            if let Some(value) = fields
                .next()
                .filter(|value| !value.is_empty())
                .and_then(|value| HeaderValue::from_bytes(value).ok())
            {
                response.headers_mut().insert(name, value);
            }
        }
    }
    // A wait that would be obeyed takes its time here too; which ones are is for `answers` to find out.
    if retry::retry_after(response.headers(), SystemClock.now()).is_some() {
        response.headers_mut().remove("retry-after");
    }
    *response.body_mut() = Body::from(body.to_vec());
    response
}
