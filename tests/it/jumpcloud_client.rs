//! The JumpCloud client against a small server of this file, whose faults each test writes itself.

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    future::pending,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use baton_jumpcloud::{
    connector::{
        Error,
        jumpcloud::client::{
            Auth, Client, Convention, Doubt, Identified, List, ListPage, Mark, Method, Progress,
            Region, Repeat, Settings, Written,
        },
    },
    error::{Class, Classify as _, Code, chain},
    http::{MAX_BODY_BYTES, retry::Policy},
};
use futures_util::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    future::{BoxFuture, join_all},
    stream,
};
use rustls::pki_types::PrivateKeyDer;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};
use url::Url;

const KEY: &str = "jca_SECRETSEED-api-key";
const ORG: &str = "64aa00000000000000000001";
const FAST: Policy = Policy {
    max_attempts: 4,
    min_delay: Duration::from_millis(1),
    max_delay: Duration::from_millis(4),
    budget: Duration::from_secs(30),
};

#[derive(Debug, Clone)]
struct Seen {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    body: String,
    /// How many requests came before this one.
    index: usize,
}

impl Seen {
    fn number(&self, name: &str) -> usize {
        self.query[name].parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

type Handler = dyn Fn(Seen) -> BoxFuture<'static, Response> + Send + Sync;

struct Server {
    url: Url,
    seen: Arc<Mutex<Vec<Seen>>>,
    in_flight_max: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Server {
    async fn start(handler: impl Fn(Seen) -> Response + Send + Sync + 'static) -> Self {
        Self::start_async(move |seen| {
            let response = handler(seen);
            async move { response }.boxed()
        })
        .await
    }

    async fn start_async(
        handler: impl Fn(Seen) -> BoxFuture<'static, Response> + Send + Sync + 'static,
    ) -> Self {
        let handler: Arc<Handler> = Arc::new(handler);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let in_flight = Arc::new(AtomicUsize::new(0));
        let in_flight_max = Arc::new(AtomicUsize::new(0));
        let (log, peak) = (Arc::clone(&seen), Arc::clone(&in_flight_max));
        let service = move |request: Request| {
            let (handler, log) = (Arc::clone(&handler), Arc::clone(&log));
            let (in_flight, peak) = (Arc::clone(&in_flight), Arc::clone(&peak));
            async move {
                peak.fetch_max(
                    in_flight.fetch_add(1, Ordering::SeqCst) + 1,
                    Ordering::SeqCst,
                );
                let _guard = InFlight(in_flight);
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 64 * 1024).await.unwrap();
                let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or("").as_bytes())
                    .into_owned()
                    .collect();
                let seen = {
                    let mut log = log.lock().unwrap();
                    let index = log.len();
                    log.push(Seen {
                        method: parts.method.to_string(),
                        path: parts.uri.path().to_owned(),
                        query,
                        headers: parts.headers,
                        body: String::from_utf8(body.to_vec()).unwrap(),
                        index,
                    });
                    log.last().unwrap().clone()
                };
                handler(seen).await
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ended = axum::serve(listener, Router::new().fallback(service)).await;
        });
        Self {
            url,
            seen,
            in_flight_max,
            _tasks: tasks,
        }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn settings(&self) -> Settings {
        Settings {
            console_url: self.url.clone(),
            insights_url: self.url.clone(),
            auth: Auth::ApiKey(KEY.into()),
            org_id: None,
            timeout: Duration::from_secs(10),
            extra_ca_pem: None,
            max_concurrency: 4,
            rotation_wait: Duration::ZERO,
        }
    }

    fn client(&self) -> Client {
        Client::with_policy(self.settings(), FAST).unwrap()
    }

    fn oauth_client(&self) -> Client {
        let mut settings = self.settings();
        settings.auth = self.oauth();
        Client::with_policy(settings, FAST).unwrap()
    }

    fn oauth(&self) -> Auth {
        Auth::ClientCredentials {
            token_url: self.url.join("/oauth2/token").unwrap(),
            client_id: "client-1".to_owned(),
            client_secret: "SECRETSEED-client-secret".into(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Row {
    id: usize,
}

impl Identified for Row {
    fn identity(&self) -> Option<String> {
        Some(self.id.to_string())
    }
}

fn users() -> List {
    List {
        template: "/api/systemusers",
        ids: Vec::new(),
        query: vec![
            ("sort", "_id".to_owned()),
            ("fields", "_id email".to_owned()),
        ],
        convention: Convention::Wrapped,
    }
}

fn groups() -> List {
    List {
        template: "/api/v2/usergroups",
        ids: Vec::new(),
        query: vec![("sort", "name".to_owned())],
        convention: Convention::Array,
    }
}

fn ok(body: &Value) -> Response {
    axum::Json(body).into_response()
}

fn rows(range: std::ops::Range<usize>) -> Vec<Value> {
    range.map(|id| json!({"id": id, "unknown": null})).collect()
}

fn window(seen: &Seen, total: usize) -> Vec<Value> {
    let skip = seen.number("skip").min(total);
    rows(skip..(skip + seen.number("limit")).min(total))
}

fn wrapped(seen: &Seen, total: usize) -> Response {
    ok(&json!({"totalCount": total, "results": window(seen, total)}))
}

fn array(seen: &Seen, total: usize) -> Response {
    (
        [("x-total-count", total.to_string())],
        axum::Json(window(seen, total)),
    )
        .into_response()
}

fn status(code: u16, message: &str) -> Response {
    (
        StatusCode::from_u16(code).unwrap(),
        axum::Json(json!({ "message": message })),
    )
        .into_response()
}

/// The ids of a listing, each once, in the order in which they came.
async fn all(client: &Client, list: List) -> Result<Vec<usize>, Error> {
    let mut seen = HashSet::new();
    client
        .pages::<Row>(list)
        .try_fold(Vec::new(), |mut ids, page| {
            ids.extend(page.iter().map(|row| row.id).filter(|id| seen.insert(*id)));
            std::future::ready(Ok(ids))
        })
        .await
}

async fn fails(client: &Client) -> Error {
    client.page::<Row>(&users(), 0).await.unwrap_err()
}

fn everything(error: &Error) -> String {
    format!("{error} {error:?} {error:#?} {}", chain(error))
}

const MEMBERS: &str = "/api/v2/usergroups/{id}/members";

async fn add_member(client: &Client, repeat: Repeat) -> Result<Written<Value>, Error> {
    let body = json!({"op": "add", "type": "user", "id": "u1"});
    client
        .write(Method::Post, MEMBERS, &["g 1"], Some(&body), repeat)
        .await
}

#[tokio::test]
async fn a_write_sends_its_method_path_and_body_and_reads_what_comes_back() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "POST" => (StatusCode::NO_CONTENT, [("x-request-id", "req-1")]).into_response(),
        "PUT" => ([("cf-ray", "ray-2")], axum::Json(json!({"id": 7}))).into_response(),
        _ => ([("x-request-id", "no good")], "").into_response(),
    })
    .await;
    let client = server.client();
    let added = add_member(&client, Repeat::Always).await.unwrap();
    assert_eq!(added.request_id.as_deref(), Some("req-1"));
    let put: Written<Row> = client
        .write(
            Method::Put,
            "/api/systemusers/{id}",
            &["u1"],
            Some(&json!({"suspended": true})),
            Repeat::Always,
        )
        .await
        .unwrap();
    assert_eq!(
        (put.value, put.request_id.as_deref()),
        (Row { id: 7 }, Some("ray-2"))
    );
    let gone: Written<Option<Row>> = client
        .write::<(), _>(
            Method::Delete,
            "/api/systemusers/{id}",
            &["u1"],
            None,
            Repeat::Always,
        )
        .await
        .unwrap();
    assert_eq!((gone.value, gone.request_id), (None, None));

    let seen = server.seen();
    let sent: Vec<_> = seen
        .iter()
        .map(|seen| {
            let kind = seen.header("content-type");
            (
                seen.method.as_str(),
                seen.path.as_str(),
                kind,
                seen.body.as_str(),
            )
        })
        .collect();
    let json = Some("application/json");
    assert_eq!(
        sent,
        [
            (
                "POST",
                "/api/v2/usergroups/g%201/members",
                json,
                r#"{"id":"u1","op":"add","type":"user"}"#
            ),
            ("PUT", "/api/systemusers/u1", json, r#"{"suspended":true}"#),
            ("DELETE", "/api/systemusers/u1", None, ""),
        ]
    );
    assert!(
        seen.iter()
            .all(|seen| seen.header("x-api-key") == Some(KEY))
    );
}

#[tokio::test]
async fn a_write_that_may_have_been_applied_is_repeated_only_where_that_does_no_harm() {
    // What the first answer is, the requests of a write that may always be repeated and of one that may not, and
    // whether a failure leaves it open what JumpCloud did.
    type First = fn() -> Response;
    let cases: [(&str, First, usize, usize, bool); 9] = [
        ("429", || status(429, "slow down"), 2, 2, false),
        (
            "503 with Retry-After",
            || (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")]).into_response(),
            2,
            1,
            true,
        ),
        ("503", || status(503, "later"), 2, 1, true),
        ("500", || status(500, "oops"), 2, 1, true),
        ("524", || status(524, "a time-out"), 2, 1, true),
        ("half an answer", || "{\"id\":".into_response(), 2, 1, true),
        ("a stalled answer", stalled, 2, 1, true),
        ("400", || status(400, "no"), 1, 1, false),
        ("409", || status(409, "exists"), 1, 1, false),
    ];
    for (name, first, always, unless_sent, open) in cases {
        for (repeat, calls) in [(Repeat::Always, always), (Repeat::UnlessSent, unless_sent)] {
            let server = Server::start(move |seen| {
                if seen.index == 0 {
                    first()
                } else {
                    StatusCode::NO_CONTENT.into_response()
                }
            })
            .await;
            let mut settings = server.settings();
            settings.timeout = Duration::from_millis(300);
            let client = Client::with_policy(settings, FAST).unwrap();
            let result = add_member(&client, repeat).await;
            assert_eq!(server.calls(), calls, "{name}, {repeat:?}");
            assert_eq!(result.is_ok(), calls == 2, "{name}, {repeat:?}: {result:?}");
            if let Err(error) = result {
                assert_eq!(error.may_have_been_applied(), open, "{name}: {error:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_write_that_never_left_was_not_applied() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let server = Server::start(|_| StatusCode::NO_CONTENT.into_response()).await;
    let mut settings = server.settings();
    settings.console_url = Url::parse(&format!("http://{address}")).unwrap();
    let client = Client::with_policy(settings, FAST).unwrap();
    let error = add_member(&client, Repeat::UnlessSent).await.unwrap_err();
    assert!(!error.may_have_been_applied(), "{error:?}");
    assert_eq!(client.total_calls(), 4);
}

#[tokio::test]
async fn a_refused_token_is_replaced_for_a_write_too() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/oauth2/token" => ok(&json!({
            "access_token": format!("SECRETSEED-{}", seen.index), "token_type": "bearer",
            "expires_in": 3600,
        })),
        _ if seen.header("authorization") == Some("Bearer SECRETSEED-0") => {
            status(401, "Unauthorized")
        }
        _ => StatusCode::NO_CONTENT.into_response(),
    })
    .await;
    add_member(&server.oauth_client(), Repeat::UnlessSent)
        .await
        .unwrap();
    assert_eq!(server.calls(), 4);
}

#[tokio::test]
async fn a_credential_that_worked_is_tried_once_more_after_the_wait_for_another() {
    // Whether the first answer is a success, how many refusals follow, and the requests and the end of the last call.
    for (worked, refusals, calls, ends_well) in [
        (true, 1, 2, true),
        (true, 9, 2, false),
        (false, 9, 1, false),
    ] {
        let first = usize::from(worked);
        let server = Server::start(move |seen| {
            if (first..first + refusals).contains(&seen.index) {
                status(401, "Unauthorized")
            } else {
                wrapped(&seen, 0)
            }
        })
        .await;
        let mut settings = server.settings();
        settings.rotation_wait = Duration::from_millis(200);
        let client = Client::with_policy(settings, FAST).unwrap();
        if worked {
            client.page::<Row>(&users(), 0).await.unwrap();
        }
        let begun = Instant::now();
        let result = client.page::<Row>(&users(), 0).await;
        let waited = begun.elapsed() >= Duration::from_millis(200);
        assert_eq!((server.calls() - first, waited), (calls, worked));
        assert_eq!(result.is_ok(), ends_well, "{result:?}");
        assert_eq!(client.standing().borrow().rejected, !ends_well);
        if let Err(error) = result {
            assert_eq!(error.code(), Code::Unauthenticated);
        }
    }
}

#[tokio::test]
async fn an_error_never_repeats_a_password_of_the_request() {
    let password = "SECRETSEED \"quoted\"\tand spaced";
    for code in [400, 401, 409, 500] {
        let server = Server::start(move |seen| {
            let body: Value = serde_json::from_str(&seen.body).unwrap();
            let echoed = format!(
                "password {} of {} is weak; you sent {}",
                body["password"].as_str().unwrap(),
                body["username"].as_str().unwrap(),
                seen.body
            );
            status(code, &echoed)
        })
        .await;
        let body = json!({"username": "jdoe", "password": password, "x": [{"new_Secret": ["SECRETSEED-2"]}]});
        let error = server
            .client()
            .write::<_, ()>(
                Method::Post,
                "/api/systemusers",
                &[],
                Some(&body),
                Repeat::UnlessSent,
            )
            .await
            .unwrap_err();
        let words = everything(&error);
        assert!(words.contains("of jdoe is weak"), "{words}");
        assert!(!words.contains("SECRETSEED"), "{words}");
        assert_eq!(words.matches("[redacted]").count() % 3, 0, "{words}");
    }
}

#[tokio::test]
async fn a_new_administrator_is_never_made_without_the_organisation() {
    let server = Server::start(|seen| {
        if seen.header("x-org-id").is_some() {
            status(403, "Forbidden")
        } else if seen.method == "GET" {
            wrapped(&seen, 0)
        } else {
            ok(&json!({"id": 1}))
        }
    })
    .await;
    let mut settings = server.settings();
    settings.org_id = Some(ORG.to_owned());
    let client = Client::with_policy(settings, FAST).unwrap();
    let list = List {
        template: "/api/users",
        ..users()
    };
    client.page::<Row>(&list, 0).await.unwrap();
    assert!(client.administrators_are_unscoped());
    let body = json!({"email": "a@example.com"});
    let error = client
        .write::<_, Value>(
            Method::Post,
            "/api/users",
            &[],
            Some(&body),
            Repeat::UnlessSent,
        )
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    client
        .write::<_, Row>(
            Method::Put,
            "/api/users/{id}",
            &["a1"],
            Some(&body),
            Repeat::Always,
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn a_listing_costs_exactly_the_pages_that_its_total_needs() {
    for (total, calls) in [
        (0, 1),
        (1, 1),
        (99, 1),
        (100, 1),
        (101, 2),
        (250, 3),
        (199, 2),
        (200, 3),
        (1000, 11),
    ] {
        for convention in [Convention::Wrapped, Convention::Array] {
            let server = Server::start(move |seen| match convention {
                Convention::Wrapped => wrapped(&seen, total),
                Convention::Array => array(&seen, total),
            })
            .await;
            let list = List {
                convention,
                ..users()
            };
            let ids = all(&server.client(), list).await.unwrap();
            assert_eq!(ids, (0..total).collect::<Vec<_>>());
            assert_eq!(server.calls(), calls, "{total} rows, {convention:?}");
            for seen in server.seen() {
                assert_eq!(seen.query["limit"], "100");
                assert_eq!(seen.query["sort"], "_id");
                assert_eq!(seen.query["fields"], "_id email");
            }
        }
    }
}

#[tokio::test]
async fn a_single_page_tells_where_the_next_one_begins() {
    let server = Server::start(|seen| wrapped(&seen, 150)).await;
    let client = server.client();
    let page: ListPage<Row> = client.page(&users(), 0).await.unwrap();
    assert_eq!(
        (page.items.len(), page.total, page.next_skip),
        (100, Some(150), Some(100))
    );
    let page: ListPage<Row> = client.page(&users(), 100).await.unwrap();
    assert_eq!(
        (page.items.len(), page.total, page.next_skip),
        (50, Some(150), None)
    );
}

#[tokio::test]
async fn without_a_total_a_short_page_ends_the_listing_unless_a_link_goes_on() {
    let server = Server::start(|seen| ok(&json!(window(&seen, 230)))).await;
    assert_eq!(all(&server.client(), groups()).await.unwrap().len(), 230);
    assert_eq!(server.calls(), 3);

    let server = Server::start(|seen| {
        // Gives 40 rows whatever the limit, and a link while there are more.
        let skip = seen.number("skip");
        let mut response = ok(&json!(rows(skip..(skip + 40).min(100))));
        if skip + 40 < 100 {
            let link = format!("</api/v2/usergroups?skip={}>; rel=\"next\"", skip + 40);
            response
                .headers_mut()
                .insert(header::LINK, link.parse().unwrap());
        }
        response
    })
    .await;
    assert_eq!(all(&server.client(), groups()).await.unwrap().len(), 100);
    assert_eq!(server.calls(), 3);
}

#[tokio::test]
async fn odd_totals_are_tolerated() {
    for total in [
        json!(null),
        json!("120"),
        json!(-1),
        json!({}),
        json!(120.5),
    ] {
        let server = Server::start(move |seen| {
            ok(&json!({"totalCount": total.clone(), "results": window(&seen, 120)}))
        })
        .await;
        assert_eq!(all(&server.client(), users()).await.unwrap().len(), 120);
        assert_eq!(server.calls(), 2);
    }
    let server = Server::start(|_| ok(&json!({"totalCount": 0, "results": null}))).await;
    assert!(all(&server.client(), users()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_total_that_its_own_page_disproves_does_not_end_a_listing() {
    for (total, linked) in [(0, false), (99, false), (99, true), (100, true)] {
        let server = Server::start(move |seen| {
            let first = seen.index == 0;
            let total = if first { total } else { 250 };
            let mut page = ok(&json!({"totalCount": total, "results": window(&seen, 250)}));
            if first && linked {
                let next = "</api/systemusers?skip=100>; rel=\"next\"";
                page.headers_mut().insert("link", next.parse().unwrap());
            }
            page
        })
        .await;
        let ids = all(&server.client(), users()).await.unwrap();
        assert_eq!(ids, (0..250).collect::<Vec<_>>(), "{total} {linked}");
    }
}

#[tokio::test]
async fn pages_that_are_shorter_than_asked_for_leave_no_gap() {
    let server = Server::start(|seen| {
        let skip = seen.number("skip");
        // The second hundred comes in pieces.
        let size = if (100..200).contains(&skip) { 30 } else { 100 };
        let end = (skip + size).min(350);
        ok(&json!({"totalCount": 350, "results": rows(skip..end)}))
    })
    .await;
    let mut ids = all(&server.client(), users()).await.unwrap();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, (0..350).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_listing_that_grows_is_read_to_its_new_end() {
    let server = Server::start(|seen| {
        let total = if seen.index == 0 { 250 } else { 420 };
        wrapped(&seen, total)
    })
    .await;
    let ids = all(&server.client(), users()).await.unwrap();
    assert_eq!(ids, (0..420).collect::<Vec<_>>());
    assert_eq!(server.calls(), 5);
}

#[tokio::test]
async fn a_row_that_is_deleted_meanwhile_costs_one_page_more_and_no_other_row() {
    // Row 0 is deleted after the first page, so row 100 moves to a place that was already read; a new row at the end
    // hides that from the total.
    for hidden in [false, true] {
        let server = Server::start(move |seen| {
            let first = usize::from(seen.index > 0);
            let end = 250 + if hidden { first } else { 0 };
            let skip = seen.number("skip") + first;
            ok(&json!({"totalCount": end - first, "results": rows(skip..(skip + 100).min(end))}))
        })
        .await;
        let mut ids = all(&server.client(), users()).await.unwrap();
        ids.sort_unstable();
        assert_eq!(ids, (0..250 + usize::from(hidden)).collect::<Vec<_>>());
        assert_eq!(server.calls(), 4);
    }
}

#[tokio::test]
async fn reading_back_needs_no_place_that_the_pages_under_way_hold() {
    for max_concurrency in [1, 4, 8] {
        // Row 0 is deleted after the first page, while many pages are asked for ahead.
        let server = Server::start(|seen| {
            let first = usize::from(seen.index > 0);
            let skip = seen.number("skip") + first;
            ok(&json!({"totalCount": 3000 - first, "results": rows(skip..(skip + 100).min(3000))}))
        })
        .await;
        let settings = Settings {
            max_concurrency,
            ..server.settings()
        };
        let client = Client::with_policy(settings, FAST).unwrap();
        let read = tokio::time::timeout(Duration::from_secs(60), all(&client, users())).await;
        let mut ids = read.expect("nobody waits for ever").unwrap();
        ids.sort_unstable();
        assert_eq!(ids, (0..3000).collect::<Vec<_>>());
    }
}

/// A listing of which something changes between requests.
struct Moving {
    rows: Vec<usize>,
    throughout: HashSet<usize>,
    ever: HashSet<usize>,
    chance: fastrand::Rng,
}

impl Moving {
    fn new(seed: u64, count: usize) -> Self {
        // Room for new rows between the old ones.
        let rows: Vec<usize> = (1..=count).map(|id| id * 10).collect();
        Self {
            throughout: rows.iter().copied().collect(),
            ever: rows.iter().copied().collect(),
            rows,
            chance: fastrand::Rng::with_seed(seed),
        }
    }

    fn delete(&mut self) {
        if !self.rows.is_empty() {
            let row = self.rows.remove(self.chance.usize(..self.rows.len()));
            self.throughout.remove(&row);
        }
    }

    fn create(&mut self, anywhere: bool) {
        let last = self.rows.last().copied().unwrap_or_default();
        let id = if anywhere {
            self.chance.usize(..last + 20)
        } else {
            last + 10
        };
        if self.ever.insert(id) {
            let place = self.rows.partition_point(|row| *row < id);
            self.rows.insert(place, id);
        }
    }

    fn change(&mut self) {
        for _ in 0..self.chance.usize(..4) {
            match self.chance.usize(..5) {
                0 | 1 => self.delete(),
                2 => self.create(false),
                3 => self.create(true),
                _ => {
                    self.delete();
                    self.create(false);
                }
            }
        }
        if self.chance.usize(..20) == 0 {
            // Somebody cleans up.
            for _ in 0..self.chance.usize(..150) {
                self.delete();
            }
        }
    }
}

#[tokio::test]
async fn whatever_was_there_throughout_is_read_however_much_comes_and_goes() {
    let mut bridged = 0;
    for seed in 0..40 {
        let count = 150 + fastrand::Rng::with_seed(seed).usize(..700);
        let moving = Arc::new(Mutex::new(Moving::new(seed, count)));
        let shared = Arc::clone(&moving);
        let server = Server::start(move |seen| {
            let mut moving = shared.lock().unwrap();
            if seen.index > 0 {
                moving.change();
            }
            let (skip, limit) = (seen.number("skip"), seen.number("limit"));
            let page: Vec<Value> = moving
                .rows
                .iter()
                .skip(skip)
                .take(limit)
                .map(|id| json!({ "id": id }))
                .collect();
            ok(&json!({"totalCount": moving.rows.len(), "results": page}))
        })
        .await;
        let client = server.client();
        let mut walk = client.walk::<Row>(users(), Progress::default());
        let mut seen = HashSet::new();
        let mut steps = 0;
        while let Some(step) = walk.next().await.unwrap() {
            steps += 1;
            seen.extend(step.rows.iter().map(|row| row.id));
        }
        assert_eq!(walk.doubt(), None, "seed {seed}");
        bridged += usize::from(server.calls() > steps);
        let moving = moving.lock().unwrap();
        let lost: Vec<_> = moving.throughout.difference(&seen).collect();
        assert!(lost.is_empty(), "seed {seed} lost {lost:?}");
        assert!(seen.is_subset(&moving.ever), "seed {seed}");
        assert!(
            server.calls() <= 3 * (2 + count / 90),
            "seed {seed}: {}",
            server.calls()
        );
    }
    assert!(bridged > 10, "{bridged}");
}

#[tokio::test]
async fn a_walk_goes_on_behind_any_page_and_needs_no_other_one_again() {
    let server = Server::start(|seen| wrapped(&seen, 950)).await;
    let client = server.client();
    let mut marks: Vec<Mark> = Vec::new();
    let mut walk = client.walk::<Row>(users(), Progress::default());
    while let Some(step) = walk.next().await.unwrap() {
        marks.push(step.mark);
    }
    assert_eq!(marks.len(), 10);
    for stopped in 1..=marks.len() {
        let mut progress = Progress::default();
        let mut ids: HashSet<usize> = (0..100 + 99 * (stopped - 1)).collect();
        marks[..stopped].iter().for_each(|mark| progress.pass(mark));
        let before = server.calls();
        let mut walk = client.walk::<Row>(users(), progress);
        while let Some(step) = walk.next().await.unwrap() {
            ids.extend(step.rows.iter().map(|row| row.id));
        }
        assert!((0..950).all(|id| ids.contains(&id)), "stopped at {stopped}");
        assert_eq!(server.calls() - before, marks.len() - stopped);
    }
}

#[tokio::test]
async fn rows_that_moved_while_nobody_read_are_found_again() {
    // A hundred and fifty rows of what was read go away before the walk goes on.
    let server = Server::start(|seen| wrapped(&seen, 950)).await;
    let client = server.client();
    let mut progress = Progress::default();
    let mut walk = client.walk::<Row>(users(), Progress::default());
    for _ in 0..5 {
        progress.pass(&walk.next().await.unwrap().unwrap().mark);
    }
    drop(walk);
    let server = Server::start(|seen| {
        let left: Vec<Value> = rows(150..950);
        let page: Vec<&Value> = left.iter().skip(seen.number("skip")).take(100).collect();
        ok(&json!({"totalCount": left.len(), "results": page}))
    })
    .await;
    let client = server.client();
    let mut walk = client.walk::<Row>(users(), progress);
    let mut ids: HashSet<usize> = (0..496).collect();
    while let Some(step) = walk.next().await.unwrap() {
        ids.extend(step.rows.iter().map(|row| row.id));
    }
    assert!((0..950).all(|id| ids.contains(&id)));
    assert_eq!(walk.doubt(), None);
    assert!(server.calls() <= 8, "{}", server.calls());
}

/// What remains doubtful of a list without order that is read to its end.
async fn doubt_of(server: &Server) -> Option<Doubt> {
    let client = server.client();
    let list = List {
        query: Vec::new(),
        ..users()
    };
    let mut walk = client.walk::<Row>(list, Progress::default());
    while walk.next().await.unwrap().is_some() {}
    walk.doubt()
}

#[tokio::test]
async fn a_listing_that_never_holds_still_is_read_three_times_and_doubted() {
    // Another order with each request, and a total that changes with it.
    let server = Server::start(|seen| {
        let total = 250 + seen.index % 2;
        let page: Vec<Value> = (0..total)
            .map(|place| (place * 7 + seen.index * 31) % total)
            .skip(seen.number("skip"))
            .take(100)
            .map(|id| json!({ "id": id }))
            .collect();
        ok(&json!({"totalCount": total, "results": page}))
    })
    .await;
    let doubt = doubt_of(&server).await.unwrap();
    assert_eq!(doubt.readings, 3);
    assert!(doubt.promised.is_some_and(|rows| rows >= 250) && doubt.read < 252);
    assert!(server.calls() <= 15, "{}", server.calls());
}

#[tokio::test]
async fn two_readings_that_agree_are_believed() {
    // The same row in two places, for good.
    let server = Server::start(|seen| {
        let page: Vec<Value> = (0..250)
            .map(|place| place % 249)
            .skip(seen.number("skip"))
            .take(100)
            .map(|id| json!({ "id": id }))
            .collect();
        ok(&json!({"totalCount": 250, "results": page}))
    })
    .await;
    assert_eq!((doubt_of(&server).await, server.calls()), (None, 6));
}

#[tokio::test]
async fn a_server_that_ignores_skip_is_found_out() {
    for total in [None, Some(100_000)] {
        let server = Server::start(move |_| match total {
            Some(total) => ok(&json!({"totalCount": total, "results": rows(0..100)})),
            None => ok(&json!({"results": rows(0..100)})),
        })
        .await;
        let error = all(&server.client(), users()).await.unwrap_err();
        assert!(
            error.to_string().contains("skip is not honoured"),
            "{error}"
        );
        assert_eq!(error.class(), Class::Permanent);
        assert!(server.calls() < 30, "{}", server.calls());
    }
}

#[tokio::test]
async fn a_total_that_promises_rows_which_never_come_is_an_error_and_not_the_end() {
    let server = Server::start(|seen| {
        let end = if seen.number("skip") == 0 { 100 } else { 0 };
        ok(&json!({"totalCount": 101, "results": rows(0..end)}))
    })
    .await;
    let error = all(&server.client(), users()).await.unwrap_err();
    assert!(
        error.to_string().contains("there are 101 in all"),
        "{error}"
    );
    assert_eq!(server.calls(), 3, "the odd page is asked for twice");

    let server =
        Server::start(|_| ok(&json!({"totalCount": u64::MAX, "results": rows(0..100)}))).await;
    let error = all(&server.client(), users()).await.unwrap_err();
    assert!(matches!(error, Error::Decode { .. }), "{error}");
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn requests_in_flight_never_exceed_the_limit_and_use_it() {
    for max in [1, 3, 4, 8] {
        let server = Server::start_async(|seen| {
            async move {
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                wrapped(&seen, 2000)
            }
            .boxed()
        })
        .await;
        let mut settings = server.settings();
        settings.max_concurrency = max;
        let client = Client::with_policy(settings, FAST).unwrap();
        let results = join_all((0..4).map(|_| all(&client, users()))).await;
        for ids in results {
            assert_eq!(ids.unwrap().len(), 2000);
        }
        let peak = server.in_flight_max.load(Ordering::SeqCst);
        assert!(peak <= max, "{peak} of {max}");
        assert!(peak > max / 2, "{peak} of {max}");
        assert_eq!(client.concurrency(), max);
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_gives_its_place_to_the_next() {
    let server = Server::start_async(|seen| {
        if seen.index < 3 {
            return pending().boxed();
        }
        async move { wrapped(&seen, 950) }.boxed()
    })
    .await;
    let mut settings = server.settings();
    settings.max_concurrency = 1;
    let client = Client::with_policy(settings, FAST).unwrap();
    let list = users();
    for index in 0..3 {
        let dropped = client.page::<Row>(&list, 0);
        let arrived = async {
            while server.calls() == index {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = dropped => panic!("the server is silent"),
            () = arrived => {}
        }
    }
    let mut pages = client.pages::<Row>(list.clone());
    pages.next().await.unwrap().unwrap();
    pages.next().await.unwrap().unwrap();
    drop(pages);
    assert_eq!(all(&client, list).await.unwrap().len(), 950);
}

#[tokio::test]
async fn throttled_requests_wait_as_long_as_asked_and_all_together() {
    let server = Server::start(|seen| {
        if seen.index < 4 {
            let mut response = status(429, "Too Many Requests");
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, "1".parse().unwrap());
            return response;
        }
        wrapped(&seen, 1)
    })
    .await;
    let mut settings = server.settings();
    settings.max_concurrency = 8;
    let client = Client::with_policy(settings, FAST).unwrap();
    let (client, list) = (&client, &users());
    let begin = Instant::now();
    let results = join_all(
        (0..10).map(|_| async move { client.page::<Row>(list, 0).await.map(|_| begin.elapsed()) }),
    )
    .await;
    for waited in results {
        let waited = waited.unwrap();
        assert!(waited >= Duration::from_secs(1), "{waited:?}");
    }
    let stats = client.stats()["/api/systemusers"];
    assert_eq!((stats.calls, stats.retries), (14, 4));
    assert_eq!((stats.throttled, stats.failures), (4, 0));
    assert_eq!(client.total_calls(), 14);
    assert!(client.concurrency() < 8);
}

#[tokio::test]
async fn a_throttle_beyond_the_budget_is_reported_with_its_wait() {
    let server = Server::start(|_| {
        let mut response = status(429, "Too Many Requests");
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, "90".parse().unwrap());
        response
    })
    .await;
    let error = fails(&server.client()).await;
    assert_eq!(
        error.class(),
        Class::Throttled(Some(Duration::from_secs(90)))
    );
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn passing_failures_are_tried_again_and_lasting_ones_reported() {
    for code in [429, 500, 502, 503, 504, 522] {
        let server = Server::start(move |seen| match seen.index {
            0 | 1 => status(code, "later"),
            _ => wrapped(&seen, 5),
        })
        .await;
        assert_eq!(
            all(&server.client(), users()).await.unwrap().len(),
            5,
            "{code}"
        );
        assert_eq!(server.calls(), 3, "{code}");

        let server = Server::start(move |_| status(code, "never")).await;
        let client = server.client();
        let error = fails(&client).await;
        assert!(
            matches!(&error, Error::Http { status, words: Some(words), .. } if *status == code && words.as_str() == "never"),
            "{error:?}"
        );
        assert_eq!(server.calls(), 4, "{code}");
        assert_eq!(client.stats()["/api/systemusers"].failures, 1);
    }
    for code in [400, 402, 403, 404, 405, 409, 410, 412, 422, 501] {
        let server = Server::start(move |_| status(code, "no")).await;
        let error = fails(&server.client()).await;
        assert_eq!(error.code(), Code::from_http(code));
        assert_eq!(server.calls(), 1, "{code}");
    }
}

#[tokio::test]
async fn an_html_page_of_the_edge_becomes_a_short_message() {
    let server = Server::start(|_| {
        (
            StatusCode::BAD_GATEWAY,
            [("content-type", "text/html")],
            "<html><head><title>502 Bad Gateway</title></head><body>…</body></html>",
        )
            .into_response()
    })
    .await;
    assert_eq!(
        chain(&fails(&server.client()).await),
        "GET /api/systemusers answered 502: an HTML page titled 502 Bad Gateway"
    );
}

#[tokio::test]
async fn an_answer_that_is_not_json_is_asked_for_again_and_then_described() {
    for (body, words) in [
        (
            r#"{"totalCount":1,"results":[{"id":"#,
            "the JSON ends too early",
        ),
        ("", "the body is empty"),
        ("<html>maintenance</html>", "HTML where JSON was expected"),
    ] {
        let server = Server::start(move |seen| match seen.index {
            0 => body.into_response(),
            _ => wrapped(&seen, 1),
        })
        .await;
        assert_eq!(all(&server.client(), users()).await.unwrap(), [0]);

        let server = Server::start(move |_| body.into_response()).await;
        let error = fails(&server.client()).await;
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(server.calls(), 3);
    }
}

/// A row that may have lost its id.
#[derive(Deserialize)]
struct Faded {
    id: Option<usize>,
}

impl Identified for Faded {
    fn identity(&self) -> Option<String> {
        self.id.map(|id| id.to_string())
    }
}

/// How many rows of a listing of 2,000 have an id, when `spoil` says which rows of the page from row 990 on have none
/// in its answer with this number.
async fn rows_with_ids(
    spoil: impl Fn(usize, usize) -> bool + Send + Sync + 'static,
) -> Result<usize, Error> {
    let answers = AtomicUsize::new(0);
    let server = Server::start(move |seen| {
        let mut rows = window(&seen, 2000);
        if seen.number("skip") == 990 {
            let answer = answers.fetch_add(1, Ordering::SeqCst);
            for (number, row) in rows.iter_mut().enumerate() {
                if spoil(answer, number) {
                    row["id"] = Value::Null;
                }
            }
        }
        ok(&json!({"totalCount": 2000, "results": rows}))
    })
    .await;
    let client = server.client();
    let mut ids = HashSet::new();
    let mut pages = client.pages::<Faded>(users());
    while let Some(rows) = pages.next().await.transpose()? {
        ids.extend(rows.into_iter().filter_map(|row| row.id));
    }
    Ok(ids.len())
}

#[tokio::test]
async fn a_page_whose_rows_lost_their_ids_is_asked_for_again_and_never_left_out() {
    assert_eq!(rows_with_ids(|answer, _| answer < 2).await.unwrap(), 2000);
    assert_eq!(
        rows_with_ids(|answer, row| answer == 0 && row >= 50)
            .await
            .unwrap(),
        2000
    );
    // A few odd rows that stay odd cost the listing nothing.
    assert_eq!(rows_with_ids(|_, row| row == 50).await.unwrap(), 1999);
    for spoil in [|_: usize, _: usize| true, |_, row| row % 2 == 0] {
        let error = rows_with_ids(spoil).await.unwrap_err();
        assert!(matches!(error, Error::Decode { .. }), "{error}");
        assert!(
            error.to_string().contains("rows have no usable id"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_wrong_field_is_named_without_its_value_and_not_asked_for_again() {
    let server = Server::start(|_| {
        ok(&json!({"totalCount": 2, "results": [{"id": 1}, {"id": "SECRETSEED@example.com"}]}))
    })
    .await;
    let error = fails(&server.client()).await;
    assert_eq!(
        error.to_string(),
        "GET /api/systemusers answered what cannot be read: field results[1].id: invalid type: string, expected usize"
    );
    assert!(!everything(&error).contains("SECRETSEED"));
    assert_eq!(server.calls(), 1);

    for (list, body) in [(users(), json!([])), (groups(), json!({"results": []}))] {
        let server = Server::start(move |_| ok(&body)).await;
        let error = server.client().page::<Row>(&list, 0).await.unwrap_err();
        assert!(matches!(error, Error::Decode { .. }), "{error}");
    }
}

fn broken_off() -> Response {
    // The pause between lets the head and the first chunk go out before the connection breaks.
    let chunks =
        stream::iter([Ok(Bytes::from_static(b"{\"totalCount\":1,"))]).chain(stream::once(async {
            tokio::task::yield_now().await;
            Err(io::Error::from(io::ErrorKind::ConnectionReset))
        }));
    Body::from_stream(chunks).into_response()
}

fn stalled() -> Response {
    let chunks = stream::iter([Ok::<_, Infallible>(Bytes::from_static(
        b"{\"totalCount\":1,",
    ))])
    .chain(stream::once(pending()));
    Body::from_stream(chunks).into_response()
}

#[tokio::test]
async fn a_body_that_breaks_off_is_read_again() {
    let server = Server::start(|seen| match seen.index {
        0 => broken_off(),
        _ => wrapped(&seen, 1),
    })
    .await;
    assert_eq!(all(&server.client(), users()).await.unwrap(), [0]);
    assert_eq!(server.calls(), 2);

    let server = Server::start(|_| broken_off()).await;
    let error = fails(&server.client()).await;
    assert!(
        matches!(error, Error::Transport { kind: "body", .. }),
        "{error:?}"
    );
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(server.calls(), 4);
}

#[tokio::test]
async fn an_answer_that_stalls_ends_with_a_time_out() {
    let server = Server::start(|_| stalled()).await;
    let silent = Server::start_async(|_| pending().boxed()).await;
    for server in [server, silent] {
        let mut settings = server.settings();
        settings.timeout = Duration::from_millis(150);
        let policy = Policy {
            max_attempts: 2,
            ..FAST
        };
        let client = Client::with_policy(settings, policy).unwrap();
        let error = fails(&client).await;
        assert!(
            matches!(
                error,
                Error::Transport {
                    kind: "timeout",
                    ..
                }
            ),
            "{error:?}"
        );
        assert_eq!(error.code(), Code::DeadlineExceeded);
        assert_eq!(server.calls(), 2);
    }
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_a_failure_to_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let server = Server::start(|seen| wrapped(&seen, 0)).await;
    let mut settings = server.settings();
    settings.console_url = Url::parse(&format!("http://{address}")).unwrap();
    let client = Client::with_policy(settings, FAST).unwrap();
    let error = fails(&client).await;
    assert!(
        matches!(
            error,
            Error::Transport {
                kind: "connect",
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(error.class(), Class::Retryable);
    assert_eq!(client.stats()["/api/systemusers"].calls, 4);
}

#[tokio::test]
async fn a_redirect_is_refused_and_the_credential_goes_nowhere_else() {
    let elsewhere = Server::start(|seen| wrapped(&seen, 0)).await;
    for code in [301, 302, 303, 307, 308] {
        let location = format!("{}api/systemusers?token=SECRETSEED", elsewhere.url);
        let server = Server::start(move |_| {
            (
                StatusCode::from_u16(code).unwrap(),
                [("location", location.clone())],
            )
                .into_response()
        })
        .await;
        for client in [server.client(), server.oauth_client()] {
            let error = fails(&client).await;
            assert!(error.to_string().contains("redirect refused"), "{error}");
            assert!(!everything(&error).contains("SECRETSEED"), "{error:?}");
            assert!(matches!(error, Error::Http { status, .. } if status == code));
        }
        assert_eq!(server.calls(), 2);
    }
    assert_eq!(elsewhere.calls(), 0);
}

#[tokio::test]
async fn a_link_to_another_origin_is_refused_and_never_called() {
    let elsewhere = Server::start(|seen| array(&seen, 0)).await;
    let link = format!(
        "<{}api/v2/usergroups?skip=100>; rel=\"next\"",
        elsewhere.url
    );
    let server = Server::start(move |seen| {
        let mut response = array(&seen, 250);
        response
            .headers_mut()
            .insert(header::LINK, link.parse().unwrap());
        response
    })
    .await;
    let error = all(&server.client(), groups()).await.unwrap_err();
    assert!(error.to_string().contains("another origin"), "{error}");
    assert_eq!((server.calls(), elsewhere.calls()), (1, 0));
}

#[tokio::test]
async fn a_body_beyond_the_cap_is_refused_however_it_is_sent() {
    let chunked = Server::start(|_| {
        let piece = Bytes::from(vec![b' '; 1024 * 1024]);
        let chunks = stream::repeat(piece).take(17).map(Ok::<_, Infallible>);
        Body::from_stream(chunks).into_response()
    })
    .await;
    let announced =
        Server::start(|_| Body::from(vec![b' '; MAX_BODY_BYTES + 1]).into_response()).await;
    let bomb = gzip_of_zeros(MAX_BODY_BYTES * 2);
    assert!(bomb.len() < 300 * 1024);
    let compressed = Server::start(move |seen| {
        assert!(seen.header("accept-encoding").unwrap().contains("gzip"));
        ([("content-encoding", "gzip")], bomb.clone()).into_response()
    })
    .await;
    for server in [chunked, announced, compressed] {
        let error = fails(&server.client()).await;
        assert!(
            error
                .to_string()
                .contains("GET /api/systemusers answered what cannot be read"),
            "{error}"
        );
        assert!(
            error.to_string().contains("larger than 16777216 bytes"),
            "{error}"
        );
        assert_eq!(server.calls(), 1);
    }
}

/// A gzip stream of one block with fixed codes: a zero, then repetitions of it, 258 at a time.
fn gzip_of_zeros(size: usize) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let (mut bits, mut count) = (0_u32, 0);
    let mut push = |value: u32, length: u32| {
        for index in 0..length {
            bits |= ((value >> index) & 1) << count;
            count += 1;
            if count == 8 {
                out.push(u8::try_from(bits).unwrap());
                (bits, count) = (0, 0);
            }
        }
    };
    push(0b011, 3);
    push(0b0000_1100, 8);
    for _ in 0..size / 258 {
        push(0b1010_0011, 8);
        push(0, 5);
    }
    push(0, 14);
    out
}

#[tokio::test]
async fn every_request_carries_the_key_the_organisation_and_who_asks() {
    let server = Server::start(|_| ok(&json!({"id": 7}))).await;
    let mut settings = server.settings();
    settings.org_id = Some(ORG.to_owned());
    settings.console_url = server.url.join("/gateway/jc/").unwrap();
    let client = Client::with_policy(settings, FAST).unwrap();
    let row: Row = client
        .get(
            "/api/v2/usergroups/{id}/members/{id}",
            &["a b:c@d é", "64ab"],
            &[("filter", "email:$eq:a b@example.com")],
        )
        .await
        .unwrap();
    assert_eq!(row, Row { id: 7 });
    let seen = &server.seen()[0];
    assert_eq!(seen.method, "GET");
    assert_eq!(
        seen.path,
        "/gateway/jc/api/v2/usergroups/a%20b:c@d%20%C3%A9/members/64ab"
    );
    assert_eq!(seen.query["filter"], "email:$eq:a b@example.com");
    assert_eq!(seen.header("x-api-key"), Some(KEY));
    assert_eq!(seen.header("x-org-id"), Some(ORG));
    assert_eq!(seen.header("accept"), Some("application/json"));
    assert!(
        seen.header("user-agent")
            .unwrap()
            .starts_with("baton-jumpcloud/")
    );
    assert_eq!(seen.header("authorization"), None);
}

#[tokio::test]
async fn ids_that_would_change_the_path_are_refused_before_anything_is_sent() {
    let server = Server::start(|_| ok(&json!({"id": 7}))).await;
    let client = server.client();
    let long = "x".repeat(1025);
    for ids in [
        vec![],
        vec![""],
        vec!["."],
        vec![".."],
        vec!["a\nb"],
        vec!["a/b"],
        vec!["a\\b"],
        vec!["a?b"],
        vec!["a#b"],
        vec!["a;b"],
        vec!["%2e%2e"],
        vec![long.as_str()],
        vec!["a", "b"],
    ] {
        let error = client
            .get::<Row>("/api/systemusers/{id}", &ids, &[])
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{ids:?}");
        assert!(
            error.to_string().contains("/api/systemusers/{id}"),
            "{error}"
        );
    }
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn administrators_are_asked_for_again_without_the_organisation_when_it_is_refused() {
    let administrators = || List {
        template: "/api/users",
        ..users()
    };
    let server = Server::start(|seen| {
        if seen.path == "/api/users" && seen.header("x-org-id").is_some() {
            return status(403, "Forbidden");
        }
        wrapped(&seen, 250)
    })
    .await;
    let mut settings = server.settings();
    settings.org_id = Some(ORG.to_owned());
    let client = Client::with_policy(settings.clone(), FAST).unwrap();
    assert!(!client.administrators_are_unscoped());
    assert_eq!(all(&client, administrators()).await.unwrap().len(), 250);
    assert!(client.administrators_are_unscoped());
    assert_eq!(server.calls(), 4, "the refusal is remembered");
    client.probe(&users()).await.unwrap();
    assert_eq!(server.seen()[4].header("x-org-id"), Some(ORG));

    let refused = Server::start(|_| status(403, "Forbidden")).await;
    settings.console_url = refused.url.clone();
    let client = Client::with_policy(settings, FAST).unwrap();
    let error = client.page::<Row>(&administrators(), 0).await.unwrap_err();
    assert!(matches!(error, Error::Http { status: 403, .. }));
    assert_eq!(refused.calls(), 2);
    assert!(!client.administrators_are_unscoped());
    let error = client.page::<Row>(&users(), 0).await.unwrap_err();
    assert!(matches!(error, Error::Http { status: 403, .. }));
    assert_eq!(
        refused.calls(),
        3,
        "only administrators are asked for without it"
    );
}

#[tokio::test]
async fn refusals_say_which_credential_and_what_to_do() {
    let server = Server::start(|_| status(401, "Unauthorized")).await;
    let error = fails(&server.client()).await;
    assert!(matches!(error, Error::Unauthenticated { .. }));
    assert_eq!(error.class(), Class::Auth);
    let text = chain(&error);
    for words in [
        "API key",
        "GET /api/systemusers",
        "127.0.0.1",
        "answered 401)",
        ": Unauthorized",
        "--region",
        "--org-id",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert_eq!(server.calls(), 1);

    let server = Server::start(|_| status(403, "Forbidden")).await;
    assert_eq!(
        chain(&fails(&server.client()).await),
        "GET /api/systemusers answered 403: Forbidden"
    );
    let server = Server::start(|_| status(402, "Payment Required")).await;
    assert!(fails(&server.client()).await.to_string().contains("plan"));
}

fn token(seen: &Seen, number: usize, life: u64) -> Response {
    assert_eq!(seen.method, "POST");
    assert_eq!(seen.body, "grant_type=client_credentials&scope=api");
    assert_eq!(
        seen.header("authorization"),
        Some("Basic Y2xpZW50LTE6U0VDUkVUU0VFRC1jbGllbnQtc2VjcmV0")
    );
    ok(&json!({
        "access_token": format!("SECRETSEED-token-{number}"),
        "expires_in": life, "scope": "api", "token_type": "bearer",
    }))
}

fn is_token(seen: &Seen) -> bool {
    seen.path == "/oauth2/token"
}

fn token_calls(server: &Server) -> usize {
    server.seen().iter().filter(|seen| is_token(seen)).count()
}

#[tokio::test]
async fn many_requests_at_once_share_one_token() {
    let server = Server::start(|seen| {
        if is_token(&seen) {
            return token(&seen, 1, 3600);
        }
        assert_eq!(
            seen.header("authorization"),
            Some("Bearer SECRETSEED-token-1")
        );
        assert_eq!(seen.header("x-api-key"), None);
        wrapped(&seen, 1)
    })
    .await;
    let client = &server.oauth_client();
    let results = join_all((0..20).map(|_| all(client, users()))).await;
    assert!(results.into_iter().all(|ids| ids.unwrap() == [0]));
    assert_eq!(token_calls(&server), 1);
    assert_eq!(client.stats()["/oauth2/token"].calls, 1);
}

#[tokio::test]
async fn a_token_is_renewed_before_its_end() {
    let server = Server::start(|seen| {
        if is_token(&seen) {
            return token(&seen, seen.index, 2);
        }
        wrapped(&seen, 1)
    })
    .await;
    let client = server.oauth_client();
    all(&client, users()).await.unwrap();
    all(&client, users()).await.unwrap();
    assert_eq!(token_calls(&server), 1);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    all(&client, users()).await.unwrap();
    assert_eq!(token_calls(&server), 2);
    let last = server.seen().pop().unwrap();
    assert_eq!(
        last.header("authorization"),
        Some("Bearer SECRETSEED-token-3")
    );
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once() {
    let server = Server::start(|seen| {
        if is_token(&seen) {
            return token(&seen, seen.index, 3600);
        }
        match seen.header("authorization") {
            Some("Bearer SECRETSEED-token-0") => status(401, "Unauthorized"),
            _ => wrapped(&seen, 1),
        }
    })
    .await;
    assert_eq!(all(&server.oauth_client(), users()).await.unwrap(), [0]);
    assert_eq!((token_calls(&server), server.calls()), (2, 4));

    let server = Server::start(|seen| {
        if is_token(&seen) {
            return token(&seen, seen.index, 3600);
        }
        status(401, "Unauthorized")
    })
    .await;
    let error = fails(&server.oauth_client()).await;
    assert!(error.to_string().contains("service account"), "{error}");
    assert_eq!((token_calls(&server), server.calls()), (2, 4));
}

#[tokio::test]
async fn a_token_that_still_lives_bridges_a_token_endpoint_that_fails() {
    let server = Server::start(|seen| match seen.index {
        0 => token(&seen, 0, 2),
        _ if is_token(&seen) => status(503, "down"),
        _ => wrapped(&seen, 1),
    })
    .await;
    let client = server.oauth_client();
    all(&client, users()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    all(&client, users()).await.unwrap();
    assert_eq!(token_calls(&server), 2);
}

#[tokio::test]
async fn the_token_endpoint_is_tried_again_and_its_refusal_explained() {
    let server = Server::start(|seen| match seen.index {
        0 => status(503, "down"),
        1 => "not json".into_response(),
        _ if is_token(&seen) => token(&seen, 1, 3600),
        _ => wrapped(&seen, 1),
    })
    .await;
    assert_eq!(all(&server.oauth_client(), users()).await.unwrap(), [0]);
    assert_eq!(token_calls(&server), 3);

    for code in [400, 401, 403] {
        let server = Server::start(move |_| {
            (
                StatusCode::from_u16(code).unwrap(),
                axum::Json(json!({
                    "error": "invalid_client",
                    "error_description": "secret SECRETSEED-client-secret is wrong",
                })),
            )
                .into_response()
        })
        .await;
        let error = fails(&server.oauth_client()).await;
        assert!(matches!(error, Error::Unauthenticated { .. }));
        let text = chain(&error);
        for words in ["invalid_client", "client secret", "--region", "[redacted]"] {
            assert!(text.contains(words), "{words} in {text}");
        }
        assert!(!everything(&error).contains("SECRETSEED"), "{text}");
        assert_eq!(server.calls(), 1);
    }

    let large = Server::start(|_| " ".repeat(100_000).into_response()).await;
    let error = fails(&large.oauth_client()).await;
    assert!(error.to_string().contains("POST /oauth2/token"), "{error}");
    assert!(
        error.to_string().contains("larger than 65536 bytes"),
        "{error}"
    );
}

#[tokio::test]
async fn replaced_credentials_serve_the_next_request_and_the_one_that_was_refused_meanwhile() {
    let slot: Arc<Mutex<Option<Client>>> = Arc::default();
    let shared = Arc::clone(&slot);
    let server = Server::start(move |seen| {
        if seen.header("x-api-key") == Some("SECRETSEED-new") {
            return wrapped(&seen, 1);
        }
        // The key is rotated while the request with the old one is under way.
        if let Some(client) = shared.lock().unwrap().as_ref() {
            client.replace_auth(Auth::ApiKey("SECRETSEED-new".into()));
        }
        status(401, "Unauthorized")
    })
    .await;
    let client = server.client();
    *slot.lock().unwrap() = Some(client.clone());
    assert_eq!(all(&client, users()).await.unwrap(), [0]);
    assert_eq!(server.calls(), 2);
    assert_eq!(all(&client, users()).await.unwrap(), [0]);
    assert_eq!(server.calls(), 3);

    client.replace_auth(Auth::ApiKey("SECRETSEED with blanks".into()));
    let error = fails(&client).await;
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert!(!everything(&error).contains("SECRETSEED"));
    assert_eq!(server.calls(), 3);
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_credential_comes_through_in_an_error_a_log_line_or_a_debug_text() {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = crate::captured::listen(subscriber);

    for code in [400, 401, 403, 404, 418, 429, 500, 503] {
        for as_json in [true, false] {
            // A peer that repeats every header in the body of its error.
            let server = Server::start(move |seen| {
                if is_token(&seen) {
                    return token(&seen, 1, 3600);
                }
                let words = format!("{}{:?}", "pad ".repeat(70), seen.headers);
                if as_json {
                    status(code, &words)
                } else {
                    (StatusCode::from_u16(code).unwrap(), words).into_response()
                }
            })
            .await;
            for client in [server.client(), server.oauth_client()] {
                let query = [("filter", "email:$eq:person@example.com")];
                let error = client
                    .get::<Row>("/api/systemusers", &[], &query)
                    .await
                    .unwrap_err();
                let text = everything(&error);
                assert!(!text.contains("SECRET"), "{text}");
                assert!(!text.contains("person@example.com"), "{text}");
                assert!(!format!("{client:?}").contains("SECRET"));
            }
            assert!(!format!("{:?}", server.settings()).contains("SECRET"));
        }
    }
    let log = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    let ours: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("baton_jumpcloud"))
        .collect();
    assert!(
        ours.iter()
            .any(|line| line.contains("DEBUG") && line.contains("will be repeated"))
    );
    assert!(
        ours.iter()
            .any(|line| line.contains("WARN") && line.contains("keeps failing"))
    );
    assert!(!log.contains("person"));
    assert!(
        ours.iter()
            .all(|line| !line.contains("WARN") || !line.contains("pad"))
    );
    assert!(!log.contains("SECRETSEED"));
}

/// Answers one empty listing on each connection, behind a certificate that only its own PEM text vouches for.
async fn tls_server() -> (Url, String, JoinSet<()>) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("https://{}", listener.local_addr().unwrap())).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 29\r\nconnection: close\r\n\r\n\
                          {\"totalCount\":0,\"results\":[]}";
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    (url, made.cert.pem(), tasks)
}

#[tokio::test]
async fn a_certificate_is_trusted_only_with_its_authority_and_is_not_tried_again() {
    let (url, pem, _tasks) = tls_server().await;
    let mut settings = Settings::for_region(Region::Us, Auth::ApiKey(KEY.into()));
    settings.console_url = url.clone();
    settings.insights_url = url;
    let client = Client::with_policy(settings.clone(), FAST).unwrap();
    let error = fails(&client).await;
    assert!(
        matches!(error, Error::Transport { kind: "tls", .. }),
        "{error:?}"
    );
    assert_eq!(client.total_calls(), 1);

    settings.extra_ca_pem = Some(pem.into_bytes());
    let client = Client::with_policy(settings, FAST).unwrap();
    assert!(all(&client, users()).await.unwrap().is_empty());
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_with_what_to_do() {
    let good = || Settings::for_region(Region::Eu, Auth::ApiKey(KEY.into()));
    Client::try_new(good()).unwrap();
    let change = |change: fn(&mut Settings)| {
        let mut settings = good();
        change(&mut settings);
        settings
    };
    let cases = [
        (
            change(|s| s.console_url = "http://console.jumpcloud.com".parse().unwrap()),
            "base URL must begin with https://",
        ),
        (
            change(|s| s.insights_url = "https://u:SECRETSEED@example.com".parse().unwrap()),
            "Insights URL must not hold a user",
        ),
        (change(|s| s.timeout = Duration::ZERO), "time-out"),
        (change(|s| s.max_concurrency = 0), "concurrent"),
        (
            change(|s| s.org_id = Some("a b".to_owned())),
            "organisation id",
        ),
        (
            change(|s| s.org_id = Some(String::new())),
            "organisation id",
        ),
        (
            change(|s| s.auth = Auth::ApiKey("".into())),
            "API key (0 bytes) is empty",
        ),
        (
            change(|s| s.extra_ca_pem = Some(b"SECRETSEED".to_vec())),
            "BEGIN CERTIFICATE",
        ),
    ];
    for (settings, words) in cases {
        let error = Client::try_new(settings).unwrap_err();
        assert!(error.to_string().contains(words), "{words} in {error}");
        assert!(!everything(&error).contains("SECRETSEED"));
    }
}

#[tokio::test]
async fn a_probe_asks_for_one_row_and_tells_the_total() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/api/systemusers" => wrapped(&seen, 5000),
        "/api/v2/usergroups" => array(&seen, 12),
        _ => status(403, "Forbidden"),
    })
    .await;
    let client = server.client();
    assert_eq!(client.probe(&users()).await.unwrap(), Some(5000));
    assert_eq!(client.probe(&groups()).await.unwrap(), Some(12));
    assert!(server.seen().iter().all(|seen| seen.query["limit"] == "1"));
    let closed = List {
        template: "/api/applications",
        ..users()
    };
    let error = client.probe(&closed).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
}
