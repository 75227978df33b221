//! Grants and revocations against a small server of this file, which holds a tenant that can be written to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{Request as HttpRequest, Response},
};
use futures_util::future::join_all;
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    connector::{
        jumpcloud::{
            Allowed, Settings,
            client::{self, Auth, Client},
            groups, ids,
        },
        provision::Ledger,
    },
    error::{Classify as _, Code},
    http::retry::Policy,
    proto,
};

const KEY: &str = "jca_SECRETSEED_key";
const AVERY: &str = "64ab00000000000000000001";
const BLAKE: &str = "64ab00000000000000000002";
const CASEY: &str = "64ab00000000000000000003";
const BLAKE_ADMIN: &str = "64ad00000000000000000002";
const DEVON_ADMIN: &str = "64ad00000000000000000004";
const ENGINEERING: &str = "64ac00000000000000000001";
const ALL_STAFF: &str = "64ac00000000000000000002";
const PROPOSED: &str = "64ac00000000000000000003";
const DESK: &str = "64ae00000000000000000001";
const WIKI: &str = "64ae00000000000000000002";
const MISSING: &str = "64ff000000000000000000ff";

type Pair = (String, String);
/// Resource type and id.
type Object<'a> = (&'a str, &'a str);

/// What the server holds.
#[derive(Debug, Clone, Default)]
struct Tenant {
    users: Vec<Json>,
    administrators: Vec<Json>,
    groups: Vec<Json>,
    apps: Vec<Json>,
    /// Group and user.
    members: BTreeSet<Pair>,
    /// Application and `user:<id>` or `user_group:<id>`.
    bindings: BTreeSet<Pair>,
    /// Who owns the key; `None` is answered 404.
    myself: Option<String>,
    /// Answers that replace those of the next writes.
    refusals: Vec<u16>,
    /// The next write is made, but the answer never comes.
    hang_after_write: bool,
    /// The next write is made, but answered with this status.
    fail_after_write: Option<u16>,
    /// How many reads it takes until a write shows.
    hidden_reads: usize,
    /// How many users a page of every search has.
    hits: Option<usize>,
}

fn pair(one: &str, other: &str) -> Pair {
    (one.to_owned(), other.to_owned())
}

fn example() -> Tenant {
    let group = |id: &str, name: &str, method: &str| {
        json!({"id": id, "name": name, "type": "user_group", "membershipMethod": method,
            "memberQuery": if method.starts_with("DYNAMIC") {
                json!({"queryType": "FilterQuery", "filters": ["employeeType eq Employee"]})
            } else { Json::Null }})
    };
    Tenant {
        users: vec![
            json!({"_id": AVERY, "email": "Avery@example.com", "firstname": "Avery", "lastname": "Fixture"}),
            json!({"_id": BLAKE, "email": "blake@example.com", "admin": {"id": BLAKE_ADMIN}}),
            json!({"_id": CASEY, "email": ""}),
        ],
        administrators: vec![
            json!({"_id": BLAKE_ADMIN, "email": "blake@example.com", "roleName": "Manager",
                "roleNames": ["Manager", "Helpdesk Tier 2"], "suspended": false, "apiKeySet": true,
                "apiKeyHash": {"prefix": "jca_4f"}}),
            json!({"_id": DEVON_ADMIN, "email": "devon@example.com", "roleName": "Administrator With Billing",
                "roleNames": ["Administrator With Billing"], "suspended": false, "apiKeySet": false}),
        ],
        groups: vec![
            group(ENGINEERING, "Engineering", "STATIC"),
            group(ALL_STAFF, "All Staff", "DYNAMIC_AUTOMATED"),
            group(PROPOSED, "Proposed", "DYNAMIC_REVIEW_REQUIRED"),
        ],
        apps: vec![
            json!({"_id": DESK, "displayLabel": "Ticket Desk"}),
            json!({"_id": WIKI, "displayLabel": "Wiki"}),
        ],
        members: BTreeSet::from([pair(ENGINEERING, AVERY), pair(ALL_STAFF, BLAKE)]),
        bindings: BTreeSet::from([
            pair(DESK, &format!("user_group:{ENGINEERING}")),
            pair(DESK, &format!("user:{CASEY}")),
            pair(WIKI, &format!("user:{AVERY}")),
        ]),
        myself: Some("64ad000000000000000000aa".to_owned()),
        ..Tenant::default()
    }
}

impl Tenant {
    fn administrator(&mut self, id: &str) -> &mut Json {
        self.administrators
            .iter_mut()
            .find(|row| row["_id"] == id)
            .unwrap()
    }

    fn knows(rows: &[Json], id: &str) -> bool {
        rows.iter().any(|row| row["_id"] == id || row["id"] == id)
    }

    /// Makes a write; the status of the answer.
    fn write(&mut self, method: &str, parts: &[&str], body: &Json) -> u16 {
        let word = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        match (method, parts) {
            ("POST", ["api", "v2", "usergroups", group, "members"]) => {
                if !Self::knows(&self.groups, group) || !Self::knows(&self.users, &word("id")) {
                    return 404;
                }
                edge(&mut self.members, &pair(group, &word("id")), &word("op"))
            }
            ("POST", ["api", "v2", "applications", app, "associations"]) => {
                let end = format!("{}:{}", word("type"), word("id"));
                edge(&mut self.bindings, &pair(app, &end), &word("op"))
            }
            ("POST", ["api", "users"]) => {
                let mut row = body.clone();
                row["_id"] = json!("64ad000000000000000000bb");
                row["roleNames"] = json!([body["roleName"]]);
                self.administrators.push(row);
                200
            }
            ("PUT", ["api", "users", id]) => {
                let row = self.administrator(id);
                for (name, value) in body.as_object().unwrap() {
                    row[name] = value.clone();
                }
                200
            }
            ("DELETE", ["api", "users", id]) => {
                let before = self.administrators.len();
                self.administrators.retain(|row| row["_id"] != *id);
                if self.administrators.len() < before {
                    200
                } else {
                    404
                }
            }
            other => panic!("{other:?} is no write of this connector"),
        }
    }

    /// The rows of a list, or an object.
    fn read(&self, parts: &[&str], target: &str) -> Option<Answer> {
        let to = |kind: &str, id: &str| json!({"to": {"type": kind, "id": id}});
        let find = |rows: &[Json], id: &str| {
            let row = rows.iter().find(|row| row["_id"] == id || row["id"] == id);
            row.cloned().map(Answer::One)
        };
        match parts {
            ["api", "users", "getSelf"] => {
                let id = self.myself.as_ref()?;
                Some(Answer::One(json!({ "_id": id })))
            }
            ["api", "users"] => Some(Answer::Wrapped(self.administrators.clone())),
            ["api", "users", id] => find(&self.administrators, id),
            ["api", "systemusers"] => Some(Answer::Wrapped(self.users.clone())),
            ["api", "applications"] => Some(Answer::Wrapped(self.apps.clone())),
            ["api", "v2", "usergroups"] => Some(Answer::Array(self.groups.clone())),
            ["api", "systemusers", id] => find(&self.users, id),
            ["api", "applications", id] => find(&self.apps, id),
            ["api", "v2", "usergroups", id] => find(&self.groups, id),
            ["api", "v2", "roles"] => Some(Answer::Wrapped(vec![
                json!({"id": "r1", "name": "Manager"}),
                json!({"id": "r2", "name": "Helpdesk Tier 2"}),
            ])),
            ["api", "v2", "users", id, "memberof"] => {
                find(&self.users, id)?;
                let groups = self.members.iter().filter(|(_, user)| user == id);
                let rows = groups.map(|(group, _)| json!({"type": "user_group", "id": group}));
                Some(Answer::Array(rows.collect()))
            }
            [
                "api",
                "v2",
                side @ ("users" | "usergroups"),
                id,
                "associations",
            ] => {
                assert_eq!(target, "application");
                let (kind, rows) = if *side == "users" {
                    ("user", &self.users)
                } else {
                    ("user_group", &self.groups)
                };
                find(rows, id)?;
                let end = format!("{kind}:{id}");
                let apps = self.bindings.iter().filter(|(_, bound)| *bound == end);
                Some(Answer::Array(
                    apps.map(|(app, _)| to("application", app)).collect(),
                ))
            }
            ["api", "v2", "applications", id, "associations"] => {
                let ends = self.bindings.iter().filter(|(app, _)| app == id);
                let ends = ends.filter_map(|(_, end)| end.split_once(':'));
                Some(Answer::Array(
                    ends.filter(|(kind, _)| *kind == target)
                        .map(|(kind, id)| to(kind, id))
                        .collect(),
                ))
            }
            other => panic!("{other:?} is no read of this connector"),
        }
    }
}

fn edge(edges: &mut BTreeSet<Pair>, edge: &Pair, op: &str) -> u16 {
    match op {
        "add" if edges.insert(edge.clone()) => 204,
        "add" => 409,
        "remove" if edges.remove(edge) => 204,
        "remove" => 404,
        other => panic!("{other} is no operation"),
    }
}

enum Answer {
    One(Json),
    Array(Vec<Json>),
    Wrapped(Vec<Json>),
}

#[derive(Debug, Default)]
struct World {
    tenant: Tenant,
    /// The tenant of before the last write, and how many reads still see it.
    stale: Option<(Tenant, usize)>,
    writes: Vec<String>,
}

type Shared = Arc<Mutex<World>>;

fn reply(status: u16, body: &Json, total: Option<usize>) -> Response<Body> {
    let mut reply = Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .header("x-request-id", "req-1");
    if status == 429 {
        reply = reply.header("retry-after", "1");
    }
    if let Some(total) = total {
        reply = reply.header("x-total-count", total.to_string());
    }
    let text = if status == 204 {
        String::new()
    } else {
        body.to_string()
    };
    reply.body(Body::from(text)).unwrap()
}

async fn answer(State(shared): State<Shared>, request: HttpRequest<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 * 1024).await.unwrap();
    let path = head.uri.path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let words = |status: u16| reply(status, &json!({"message": "told so"}), None);
    if head.method == "GET" {
        let query: HashMap<String, String> =
            url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes())
                .into_owned()
                .collect();
        let target = query.get("targets").map_or("", String::as_str);
        let mut world = shared.lock().unwrap();
        let stale = world.stale.take().filter(|(_, reads)| *reads > 0);
        world.stale = stale
            .clone()
            .map(|(tenant, reads)| (tenant, reads.saturating_sub(1)));
        let tenant = stale.map_or_else(|| world.tenant.clone(), |(tenant, _)| tenant);
        return match tenant.read(&parts, target) {
            None => words(404),
            Some(Answer::One(row)) => reply(200, &row, None),
            Some(Answer::Array(rows)) => reply(200, &json!(rows), Some(rows.len())),
            Some(Answer::Wrapped(rows)) => {
                let body = json!({"totalCount": rows.len(), "results": rows});
                reply(200, &body, None)
            }
        };
    }
    let body: Json = serde_json::from_slice(&body).unwrap_or_default();
    let hits = shared.lock().unwrap().tenant.hits;
    if let Some(hits) = hits.filter(|_| path == "/api/search/systemusers") {
        let skip = body["skip"].as_u64().unwrap();
        let user = |number: usize| json!({"_id": format!("{skip:012}{number:012}"), "email": format!("{number}@{skip}.example.com")});
        let rows: Vec<_> = (0..hits).map(user).collect();
        return reply(200, &json!({"totalCount": hits, "results": rows}), None);
    }
    let (status, hang) = {
        let mut world = shared.lock().unwrap();
        world.writes.push(format!("{} {path} {body}", head.method));
        if let Some(status) = world.tenant.refusals.pop() {
            return words(status);
        }
        let before = world.tenant.clone();
        let status = world.tenant.write(head.method.as_str(), &parts, &body);
        world.stale = Some((before, world.tenant.hidden_reads));
        let hang = std::mem::take(&mut world.tenant.hang_after_write);
        (world.tenant.fail_after_write.take().unwrap_or(status), hang)
    };
    if hang {
        pending::<()>().await;
    }
    words(status)
}

/// A ledger that remembers plans.
#[derive(Debug, Default)]
struct Book {
    plans: Mutex<Vec<Plan>>,
    pretend: bool,
    full: bool,
}

#[async_trait]
impl Ledger for Book {
    async fn intend(&self, plan: &Plan) -> Result<Permit, Error> {
        if self.full {
            return Err(Error::Local {
                what: "writing the journal".to_owned(),
                source: std::io::Error::other("full"),
            });
        }
        self.plans.lock().unwrap().push(plan.clone());
        Ok(if self.pretend {
            Permit::Pretend
        } else {
            Permit::Write
        })
    }
}

struct Rig {
    world: Shared,
    connector: JumpCloud,
    book: Book,
    cancel: CancellationToken,
    earlier: Option<Plan>,
    _server: JoinSet<()>,
}

async fn rig(tenant: Tenant) -> Rig {
    rig_with(tenant, |_| {}).await
}

async fn rig_with(tenant: Tenant, change: impl FnOnce(&mut Settings)) -> Rig {
    let world = Arc::new(Mutex::new(World {
        tenant,
        ..World::default()
    }));
    let router = Router::new()
        .fallback(answer)
        .with_state(Arc::clone(&world));
    let (url, server) = super::super::tests::served(router).await;
    let policy = Policy {
        max_attempts: 2,
        min_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(4),
        budget: Duration::from_secs(30),
    };
    let client = Client::with_policy(
        client::Settings {
            console_url: url.clone(),
            insights_url: url,
            auth: Auth::ApiKey(KEY.into()),
            org_id: None,
            timeout: Duration::from_millis(500),
            extra_ca_pem: None,
            max_concurrency: 4,
            rotation_wait: Duration::ZERO,
        },
        policy,
    )
    .unwrap();
    let mut settings = Settings {
        merge_administrators: false,
        work_dir: std::env::temp_dir(),
        optional: Vec::new(),
        allowed: Allowed {
            administrator_roles: true,
            ..Allowed::default()
        },
    };
    change(&mut settings);
    Rig {
        world,
        connector: JumpCloud::new(client, settings),
        book: Book::default(),
        cancel: CancellationToken::new(),
        earlier: None,
        _server: server,
    }
}

fn entitlement(kind: &str, id: &str) -> v2::Entitlement {
    ids::grant(kind, id, USER, "x", Vec::new())
        .entitlement
        .unwrap()
}

impl Rig {
    fn change(&self) -> Change<'_> {
        Change {
            earlier: self.earlier.as_ref(),
            ledger: &self.book,
            cancel: &self.cancel,
        }
    }

    async fn grant(
        &self,
        on: (&str, &str),
        whom: (&str, &str),
    ) -> Result<Done<Vec<v2::Grant>>, Error> {
        let principal = ids::bare(whom.0, whom.1);
        self.connector
            .grant(&entitlement(on.0, on.1), &principal, self.change())
            .await
    }

    async fn revoke(&self, on: (&str, &str), whom: (&str, &str)) -> Result<Done<()>, Error> {
        let grant = ids::grant(on.0, on.1, whom.0, whom.1, Vec::new());
        self.connector.revoke(&grant, self.change()).await
    }

    /// Grants or revokes; the effect or the code and words of the error.
    async fn act(
        &self,
        wish: Wish,
        on: (&str, &str),
        whom: (&str, &str),
    ) -> Result<Effect, (Code, String)> {
        let result = match wish {
            Wish::Grant => self.grant(on, whom).await.map(|done| done.effect),
            Wish::Revoke => self.revoke(on, whom).await.map(|done| done.effect),
        };
        result.map_err(|error| (error.code(), error.to_string()))
    }

    fn writes(&self) -> Vec<String> {
        self.world.lock().unwrap().writes.clone()
    }

    fn tenant(&self) -> Tenant {
        self.world.lock().unwrap().tenant.clone()
    }

    fn plans(&self) -> Vec<Plan> {
        self.book.plans.lock().unwrap().clone()
    }
}

/// Every kind of edge with a principal that has it and one that does not.
const EDGES: [(&str, &str, &str, &str, &str); 3] = [
    (GROUP, ENGINEERING, USER, AVERY, BLAKE),
    (APP, DESK, USER, CASEY, BLAKE),
    (APP, DESK, GROUP, ENGINEERING, PROPOSED),
];

#[tokio::test]
async fn an_edge_is_made_once_and_read_back() {
    for (kind, id, principal, _, without) in EDGES {
        let rig = rig(example()).await;
        let done = rig.grant((kind, id), (principal, without)).await.unwrap();
        assert_eq!(done.effect, Effect::Changed);
        assert_eq!(done.request_ids, ["req-1"]);
        let grant = &done.value[0];
        assert_eq!(
            grant.id,
            format!("{kind}-grant:{id}:{principal}:{without}:{id}")
        );
        assert_eq!(
            proto::has::<v2::GrantExpandable>(&grant.annotations),
            principal == GROUP
        );
        let plan = &rig.plans()[0];
        assert_eq!(plan.subject, format!("{principal}:{without}"));
        assert_eq!(plan.object, format!("{kind}:{id}"));
        assert_eq!(plan.operation.rsplit('.').next(), Some("add"));
        let again = rig.grant((kind, id), (principal, without)).await.unwrap();
        assert_eq!(
            (again.effect, again.value),
            (Effect::AlreadyTrue, done.value)
        );
        assert_eq!((rig.writes().len(), rig.plans().len()), (1, 1));
    }
}

#[tokio::test]
async fn an_edge_is_taken_away_once_and_read_back() {
    for (kind, id, principal, with, without) in EDGES {
        let rig = rig(example()).await;
        let never = rig.revoke((kind, id), (principal, without)).await.unwrap();
        assert_eq!(never.effect, Effect::AlreadyTrue);
        let done = rig.revoke((kind, id), (principal, with)).await.unwrap();
        assert_eq!(done.effect, Effect::Changed);
        assert_eq!(done.request_ids, ["req-1"]);
        let again = rig.revoke((kind, id), (principal, with)).await.unwrap();
        assert_eq!(again.effect, Effect::AlreadyTrue);
        assert_eq!((rig.writes().len(), rig.plans().len()), (1, 1));
        assert!(rig.plans()[0].operation.ends_with(".remove"));
    }
}

#[tokio::test]
async fn what_an_earlier_attempt_did_counts_as_changed() {
    for (kind, id, principal, with, without) in EDGES {
        let mut rig = rig(example()).await;
        let whom = Named {
            kind: principal,
            id: with,
        };
        rig.earlier = Some(plan("x", whom, Named { kind, id }, json!({}), json!({})));
        for (wish, whom) in [(Wish::Grant, with), (Wish::Revoke, without)] {
            let effect = rig.act(wish, (kind, id), (principal, whom)).await;
            assert_eq!(effect, Ok(Effect::Changed), "{kind} {wish:?}");
        }
        assert!(rig.writes().is_empty());
    }
}

#[tokio::test]
async fn a_missing_object_is_named_whatever_is_asked_for() {
    let cases = [
        ((GROUP, MISSING), (USER, AVERY), "group"),
        ((GROUP, ENGINEERING), (USER, MISSING), "user"),
        ((APP, MISSING), (USER, AVERY), "application"),
        ((APP, DESK), (USER, MISSING), "user"),
        ((APP, DESK), (GROUP, MISSING), "group"),
    ];
    let rig = rig(example()).await;
    for (on, whom, what) in cases {
        for wish in [Wish::Grant, Wish::Revoke] {
            let refused = rig.act(wish, on, whom).await;
            let words = format!("{what} {MISSING} not found");
            assert_eq!(refused, Err((Code::NotFound, words)));
        }
    }
    let role = (ROLE, "role_manager");
    let refused = rig.act(Wish::Grant, role, (USER, MISSING)).await;
    assert_eq!(refused.unwrap_err().0, Code::NotFound);
    let refused = rig
        .act(Wish::Grant, (ROLE, "role_none"), (USER, BLAKE))
        .await;
    assert_eq!(refused.unwrap_err().1, "role role_none not found");
    // The last role takes its administrator along, so this is what a revocation looks like afterwards.
    let effect = rig.act(Wish::Revoke, role, (USER, MISSING)).await;
    assert_eq!(effect, Ok(Effect::AlreadyTrue));
    assert!(rig.writes().is_empty() && rig.plans().is_empty());
}

#[tokio::test]
async fn an_administrator_without_directory_user_gets_no_edges() {
    let rig = rig(example()).await;
    for on in [(GROUP, ENGINEERING), (APP, DESK)] {
        let (code, words) = rig
            .act(Wish::Grant, on, (USER, DEVON_ADMIN))
            .await
            .unwrap_err();
        assert_eq!(code, Code::FailedPrecondition);
        assert!(words.contains("without a directory account"), "{words}");
    }
    assert!(rig.writes().is_empty());
}

#[tokio::test]
async fn a_group_whose_rule_alone_decides_is_refused_with_the_rule() {
    let rig = rig(example()).await;
    for (wish, whom) in [(Wish::Grant, AVERY), (Wish::Revoke, BLAKE)] {
        let (code, words) = rig
            .act(wish, (GROUP, ALL_STAFF), (USER, whom))
            .await
            .unwrap_err();
        assert_eq!(code, Code::FailedPrecondition);
        for part in ["All Staff", ALL_STAFF, "employeeType eq Employee"] {
            assert!(words.contains(part), "{words}");
        }
    }
    // As wanted already: there is nothing to refuse.
    let effect = rig
        .act(Wish::Grant, (GROUP, ALL_STAFF), (USER, BLAKE))
        .await;
    assert_eq!(effect, Ok(Effect::AlreadyTrue));
    assert!(rig.writes().is_empty() && rig.plans().is_empty());
    let done = rig.grant((GROUP, PROPOSED), (USER, AVERY)).await.unwrap();
    assert_eq!(done.effect, Effect::Changed);
    assert!(proto::has::<v2::GrantMetadata>(&done.value[0].annotations));
    assert_eq!(groups::AUTOMATED, "DYNAMIC_AUTOMATED");
}

#[tokio::test]
async fn inherited_access_is_refused_with_the_groups_that_give_it() {
    let rig = rig(example()).await;
    let (code, words) = rig
        .act(Wish::Revoke, (APP, DESK), (USER, AVERY))
        .await
        .unwrap_err();
    assert_eq!(code, Code::FailedPrecondition);
    assert!(
        words.contains(&format!("Engineering ({ENGINEERING})")),
        "{words}"
    );
    assert!(rig.writes().is_empty());
    // A binding of one's own goes, whatever else gives access, and a second attempt at it is done.
    let own = pair(DESK, &format!("user:{AVERY}"));
    rig.world.lock().unwrap().tenant.bindings.insert(own);
    let effect = rig.act(Wish::Revoke, (APP, DESK), (USER, AVERY)).await;
    assert_eq!(effect, Ok(Effect::Changed));
    let mut rig = rig;
    rig.earlier = rig.plans().pop();
    let effect = rig.act(Wish::Revoke, (APP, DESK), (USER, AVERY)).await;
    assert_eq!(effect, Ok(Effect::Changed));
    assert_eq!(rig.writes().len(), 1);
}

#[tokio::test]
async fn failures_of_a_write_end_in_the_state_or_in_an_error_that_tells() {
    type Twist = fn(&mut Tenant);
    let on = (GROUP, ENGINEERING);
    let cases: [(&str, Twist, Result<Effect, Code>, usize); 8] = [
        (
            "throttled",
            |t| t.refusals = vec![429],
            Ok(Effect::Changed),
            2,
        ),
        (
            "down once",
            |t| t.refusals = vec![503],
            Ok(Effect::Changed),
            2,
        ),
        (
            "down",
            |t| t.refusals = vec![503; 2],
            Err(Code::Unavailable),
            2,
        ),
        (
            "forbidden",
            |t| t.refusals = vec![403],
            Err(Code::PermissionDenied),
            1,
        ),
        (
            "refused",
            |t| t.refusals = vec![400],
            Err(Code::InvalidArgument),
            1,
        ),
        (
            "made, answer hangs",
            |t| t.hang_after_write = true,
            Ok(Effect::Changed),
            2,
        ),
        (
            "made, answer lost",
            |t| t.fail_after_write = Some(504),
            Ok(Effect::Changed),
            2,
        ),
        ("seen late", |t| t.hidden_reads = 3, Ok(Effect::Changed), 1),
    ];
    // All at once: some wait for ten seconds.
    let both = [(Wish::Grant, BLAKE), (Wish::Revoke, AVERY)];
    let runs = cases.iter().flat_map(|case| both.map(|way| (case, way)));
    join_all(runs.map(
        |((name, twist, expected, writes), (wish, whom))| async move {
            let mut tenant = example();
            twist(&mut tenant);
            let rig = rig(tenant).await;
            let result = rig.act(wish, on, (USER, whom)).await;
            let short = result.clone().map_err(|(code, _)| code);
            assert_eq!(short, *expected, "{name}: {result:?}");
            assert_eq!(rig.writes().len(), *writes, "{name}");
            assert_eq!(rig.plans().len(), 1, "{name}");
            let member = rig.tenant().members.contains(&pair(ENGINEERING, whom));
            assert_eq!(member, wish.wants() == expected.is_ok(), "{name}");
            if *name == "forbidden" {
                let words = result.unwrap_err().1;
                assert!(words.contains("may not change the members"), "{words}");
            }
        },
    ))
    .await;
}

#[tokio::test]
async fn nothing_is_written_in_a_dry_run_after_a_cancel_or_without_a_journal() {
    let cases = [
        ((GROUP, ENGINEERING), (USER, BLAKE), (USER, AVERY)),
        ((APP, DESK), (USER, BLAKE), (USER, CASEY)),
        ((ROLE, "role_help_desk"), (USER, AVERY), (USER, BLAKE)),
        ((ROLE, "role_manager"), (USER, DEVON_ADMIN), (USER, BLAKE)),
    ];
    for (on, without, with) in cases {
        let mut rig = rig(example()).await;
        rig.book.pretend = true;
        assert_eq!(rig.act(Wish::Grant, on, without).await, Ok(Effect::Planned));
        let revoked = rig.act(Wish::Revoke, on, with).await;
        assert!(
            matches!(revoked, Ok(Effect::Planned | Effect::AlreadyTrue)),
            "{revoked:?}"
        );
        rig.book.pretend = false;
        rig.book.full = true;
        let failed = rig.act(Wish::Grant, on, without).await;
        assert_eq!(failed.unwrap_err().0, Code::Internal);
        rig.book.full = false;
        rig.cancel.cancel();
        let failed = rig.act(Wish::Grant, on, without).await;
        assert_eq!(failed.unwrap_err().0, Code::Cancelled);
        assert!(rig.writes().is_empty(), "{:?}", rig.writes());
    }
}

#[tokio::test]
async fn a_role_goes_to_an_administrator_beside_the_ones_there() {
    let rig = rig(example()).await;
    // By the link of the directory user too; the grant is that of the administrator.
    for whom in [BLAKE, BLAKE_ADMIN] {
        let done = rig
            .grant((ROLE, "role_help_desk"), (USER, whom))
            .await
            .unwrap();
        let first = whom == BLAKE;
        assert_eq!(done.effect == Effect::Changed, first);
        assert_eq!(
            done.value[0].id,
            format!("role-grant:role_help_desk:user:{BLAKE_ADMIN}:role_help_desk")
        );
        assert!(done.value[0].annotations.is_empty());
    }
    let plan = &rig.plans()[0];
    assert_eq!(plan.operation, "administrator.role.add");
    assert_eq!(
        plan.after,
        json!({"administrator": BLAKE_ADMIN,
            "roles": ["role_help_desk", "role_helpdesk_tier_2", "role_manager"]})
    );
    assert_eq!(
        rig.writes(),
        [format!(
            r#"PUT /api/users/{BLAKE_ADMIN} {{"roleNames":["Manager","Helpdesk Tier 2","Help Desk"]}}"#
        )]
    );
    let done = rig
        .revoke((ROLE, "role_help_desk"), (USER, BLAKE))
        .await
        .unwrap();
    assert_eq!(done.effect, Effect::Changed);
    let names = rig.tenant().administrator(BLAKE_ADMIN)["roleNames"].take();
    assert_eq!(names, json!(["Manager", "Helpdesk Tier 2"]));
}

#[tokio::test]
async fn where_one_role_is_all_the_answer_names_the_grant_that_went() {
    let mut tenant = example();
    let row = tenant.administrator(BLAKE_ADMIN);
    *row = json!({"_id": BLAKE_ADMIN, "email": "blake@example.com", "roleName": "Manager", "apiKeySet": false});
    let mut rig = rig(tenant).await;
    let replaced = |done: &Done<Vec<v2::Grant>>| {
        proto::find::<v2::GrantReplaced>(&done.value[0].annotations).map(|it| it.replaced_grant_id)
    };
    let expected = Some(format!(
        "role-grant:role_manager:user:{BLAKE_ADMIN}:role_manager"
    ));
    let done = rig
        .grant((ROLE, "role_help_desk"), (USER, BLAKE_ADMIN))
        .await
        .unwrap();
    assert_eq!(
        (done.effect, replaced(&done)),
        (Effect::Changed, expected.clone())
    );
    assert_eq!(
        rig.tenant().administrator(BLAKE_ADMIN)["roleName"],
        "Help Desk"
    );
    // An attempt after a crash has the same to tell.
    rig.earlier = rig.plans().pop();
    let done = rig
        .grant((ROLE, "role_help_desk"), (USER, BLAKE_ADMIN))
        .await
        .unwrap();
    assert_eq!((done.effect, replaced(&done)), (Effect::Changed, expected));
    assert_eq!(rig.writes().len(), 1);
}

#[tokio::test]
async fn the_first_role_makes_an_administrator_and_the_last_one_takes_it_along() {
    for merge in [false, true] {
        for lost in [false, true] {
            let mut tenant = example();
            tenant.hang_after_write = lost;
            tenant.hidden_reads = 2;
            let rig = rig_with(tenant, |settings| settings.merge_administrators = merge).await;
            let on = (ROLE, "role_help_desk");
            let done = rig.grant(on, (USER, AVERY)).await.unwrap();
            assert_eq!(done.effect, Effect::Changed);
            let principal = if merge {
                AVERY
            } else {
                "64ad000000000000000000bb"
            };
            assert_eq!(
                done.value[0].id,
                format!("role-grant:role_help_desk:user:{principal}:role_help_desk")
            );
            let expected = r#"POST /api/users {"email":"Avery@example.com","firstname":"Avery","lastname":"Fixture","roleName":"Help Desk"}"#;
            assert_eq!(rig.writes(), [expected]);
            assert_eq!(rig.plans()[0].operation, "administrator.create");
            let done = rig.revoke(on, (USER, principal)).await.unwrap();
            assert_eq!(done.effect, Effect::Changed);
            assert_eq!(rig.plans()[1].operation, "administrator.delete");
            assert_eq!(rig.tenant().administrators.len(), 2);
            let again = rig.revoke(on, (USER, principal)).await.unwrap();
            assert_eq!(again.effect, Effect::AlreadyTrue);
        }
    }
    let rig = rig(example()).await;
    let refused = rig
        .act(Wish::Grant, (ROLE, "role_help_desk"), (USER, CASEY))
        .await;
    assert!(refused.unwrap_err().1.contains("no e-mail address"));
}

#[tokio::test]
async fn roles_are_switched_off_unless_the_operator_allows_them() {
    let rig = rig_with(example(), |settings| settings.allowed = Allowed::default()).await;
    for wish in [Wish::Grant, Wish::Revoke] {
        let (code, words) = rig
            .act(wish, (ROLE, "role_manager"), (USER, BLAKE))
            .await
            .unwrap_err();
        assert_eq!(code, Code::FailedPrecondition);
        assert!(words.contains("--allow-administrator-roles"), "{words}");
        assert!(words.contains("BATON_ALLOW_ADMINISTRATOR_ROLES"), "{words}");
    }
    assert!(rig.writes().is_empty());
}

#[tokio::test]
async fn the_last_administrator_with_billing_keeps_the_role() {
    let billing = (ROLE, "role_administrator_with_billing");
    let last = "is the last one with the role";
    let refused = |result: Result<Effect, (Code, String)>| {
        let (code, words) = result.unwrap_err();
        assert_eq!(code, Code::FailedPrecondition);
        assert!(words.contains(last), "{words}");
    };
    let alone = rig(example()).await;
    refused(alone.act(Wish::Revoke, billing, (USER, DEVON_ADMIN)).await);

    // A suspended one does not count.
    let mut tenant = example();
    let row = tenant.administrator(BLAKE_ADMIN);
    row["roleNames"] = json!(["Administrator With Billing"]);
    row["suspended"] = json!(true);
    let beside_suspended = rig(tenant.clone()).await;
    refused(
        beside_suspended
            .act(Wish::Revoke, billing, (USER, DEVON_ADMIN))
            .await,
    );

    // Nor may another role take its place.
    let mut single = example();
    single.administrator(DEVON_ADMIN)["roleNames"] = json!([]);
    let single = rig(single).await;
    refused(
        single
            .act(Wish::Grant, (ROLE, "role_manager"), (USER, DEVON_ADMIN))
            .await,
    );
    for rig in [&alone, &beside_suspended, &single] {
        assert!(rig.writes().is_empty() && rig.plans().is_empty());
    }

    tenant.administrator(BLAKE_ADMIN)["suspended"] = json!(false);
    let two = rig(tenant).await;
    let effect = two.act(Wish::Revoke, billing, (USER, DEVON_ADMIN)).await;
    assert_eq!(effect, Ok(Effect::Changed));
}

#[tokio::test]
async fn the_owner_of_the_key_is_never_changed() {
    // Who JumpCloud says the owner is, what it tells of Blake's key, and whether Blake may be changed.
    let cases = [
        (Some(BLAKE_ADMIN), json!("jca_4f"), true, false),
        (Some(DEVON_ADMIN), json!("jca_SECR"), true, true),
        (None, json!("jca_4f"), true, true),
        (None, json!("jca_SECR"), true, false),
        (None, Json::Null, true, false),
        (None, Json::Null, false, true),
    ];
    for (index, (owner, prefix, set, allowed)) in cases.into_iter().enumerate() {
        for wish in [Wish::Grant, Wish::Revoke] {
            let mut tenant = example();
            tenant.myself = owner.map(str::to_owned);
            let row = tenant.administrator(BLAKE_ADMIN);
            row["apiKeyHash"] = json!({ "prefix": prefix });
            row["apiKeySet"] = json!(set);
            let role = match wish {
                Wish::Grant => "role_help_desk",
                Wish::Revoke => "role_manager",
            };
            let rig = rig(tenant).await;
            let result = rig.act(wish, (ROLE, role), (USER, BLAKE)).await;
            if allowed {
                assert_eq!(result, Ok(Effect::Changed), "case {index}");
            } else {
                let (code, words) = result.unwrap_err();
                assert_eq!(code, Code::FailedPrecondition, "case {index}");
                assert!(words.contains(BLAKE_ADMIN) && !words.contains("SECRETSEED"));
                assert!(rig.writes().is_empty());
            }
        }
    }
}

#[tokio::test]
async fn the_application_of_the_administration_points_at_the_roles() {
    let rig = rig(example()).await;
    let on = (APP, ids::ADMINISTRATION_APP);
    let (code, words) = rig.act(Wish::Grant, on, (USER, AVERY)).await.unwrap_err();
    assert_eq!(code, Code::FailedPrecondition);
    assert!(words.contains("role_help_desk"), "{words}");
    let (code, words) = rig.act(Wish::Revoke, on, (USER, BLAKE)).await.unwrap_err();
    assert_eq!(code, Code::FailedPrecondition);
    assert!(
        words.contains("Manager (role_manager), Helpdesk Tier 2 (role_helpdesk_tier_2)"),
        "{words}"
    );
    for (wish, whom) in [(Wish::Grant, DEVON_ADMIN), (Wish::Revoke, AVERY)] {
        let effect = rig.act(wish, on, (USER, whom)).await;
        assert_eq!(effect, Ok(Effect::AlreadyTrue));
    }
    let (code, _) = rig
        .act(Wish::Grant, on, (GROUP, ENGINEERING))
        .await
        .unwrap_err();
    assert_eq!(code, Code::InvalidArgument);
    assert!(rig.writes().is_empty());
}

#[tokio::test]
async fn a_request_in_the_wrong_form_is_refused_by_the_name_of_its_field() {
    let rig = rig(example()).await;
    let long = "x".repeat(300);
    let cases: [(Object<'_>, Object<'_>, Code, &str); 7] = [
        (
            (GROUP, ""),
            (USER, AVERY),
            Code::InvalidArgument,
            "entitlement.resource.id.resource has 0 bytes",
        ),
        (
            (GROUP, "a\nb"),
            (USER, AVERY),
            Code::InvalidArgument,
            "entitlement.resource.id.resource has 3 bytes",
        ),
        (
            (GROUP, ENGINEERING),
            (USER, &long),
            Code::InvalidArgument,
            "principal.id.resource has 300 bytes",
        ),
        (
            (GROUP, ENGINEERING),
            (GROUP, ALL_STAFF),
            Code::InvalidArgument,
            "principal.id.resource_type is group",
        ),
        (
            (ROLE, "role_manager"),
            (GROUP, ALL_STAFF),
            Code::InvalidArgument,
            "users only",
        ),
        (
            (APP, DESK),
            (APP, WIKI),
            Code::InvalidArgument,
            "users and groups",
        ),
        (
            (USER, AVERY),
            (USER, BLAKE),
            Code::Unimplemented,
            "resource type user",
        ),
    ];
    for (on, whom, code, part) in cases {
        for wish in [Wish::Grant, Wish::Revoke] {
            let (found, words) = rig.act(wish, on, whom).await.unwrap_err();
            assert_eq!(found, code, "{words}");
            assert!(words.contains(part), "{words}");
        }
    }
    let mut crossed = entitlement(GROUP, ENGINEERING);
    crossed.id = entitlement_id(GROUP, ALL_STAFF);
    let principal = ids::bare(USER, AVERY);
    let change = rig.change();
    let error = rig
        .connector
        .grant(&crossed, &principal, change)
        .await
        .unwrap_err();
    assert!(error.to_string().starts_with("entitlement.id"), "{error}");
    let empty = v2::Grant::default();
    let error = rig.connector.revoke(&empty, change).await.unwrap_err();
    assert!(error.to_string().contains("grant.entitlement"), "{error}");
    let nobody = v2::Grant {
        principal: None,
        ..ids::grant(GROUP, ENGINEERING, USER, AVERY, Vec::new())
    };
    let error = rig.connector.revoke(&nobody, change).await.unwrap_err();
    assert!(error.to_string().contains("grant.principal.id"), "{error}");
    assert!(rig.writes().is_empty() && rig.plans().is_empty());
}

#[tokio::test]
async fn requests_about_the_same_thing_share_a_key() {
    let rig = rig(example()).await;
    let keys = |request: Request<'_>| -> BTreeSet<String> {
        rig.connector.keys(request).into_iter().collect()
    };
    let set =
        |keys: &[&str]| -> BTreeSet<String> { keys.iter().map(|key| (*key).to_owned()).collect() };
    let principal = ids::bare(USER, "u1");
    for (kind, expected) in [
        (GROUP, set(&["user:u1"])),
        (APP, set(&["user:u1"])),
        (ROLE, set(&["user:u1", "administrators"])),
    ] {
        let entitlement = entitlement(kind, "x1");
        let grant = ids::grant(kind, "x1", USER, "u1", Vec::new());
        assert_eq!(
            keys(Request::Grant {
                entitlement: &entitlement,
                principal: &principal
            }),
            expected
        );
        assert_eq!(keys(Request::Revoke { grant: &grant }), expected);
    }
    let fields: BTreeMap<String, proto::Value> = BTreeMap::from([
        ("user_id".to_owned(), proto::string_value("u1")),
        ("username".to_owned(), proto::string_value("JDoe")),
        ("email".to_owned(), proto::string_value("J@Example.com")),
    ]);
    let arguments = Struct {
        fields: fields.into_iter().collect(),
    };
    let account = NewAccount {
        info: v2::AccountInfo {
            login: " jdoe ".to_owned(),
            emails: vec![v2::account_info::Email {
                address: "Second@example.com".to_owned(),
                is_primary: true,
            }],
            profile: Some(arguments.clone()),
            ..v2::AccountInfo::default()
        },
        ..NewAccount::default()
    };
    assert_eq!(
        keys(Request::CreateAccount { account: &account }),
        set(&[
            "login:jdoe",
            "email:j@example.com",
            "email:second@example.com"
        ])
    );
    let group = v2::Resource {
        display_name: "Builders".to_owned(),
        ..ids::bare(GROUP, "")
    };
    assert_eq!(
        keys(Request::CreateResource { resource: &group }),
        set(&["group-name:builders"])
    );
    let id = ids::resource_id(USER, "u1");
    assert_eq!(
        keys(Request::RotateCredential { id: &id }),
        set(&["user:u1"])
    );
    assert_eq!(
        keys(Request::DeleteResource { id: &id }),
        set(&["user:u1", "administrators"])
    );
    let invoked = keys(Request::Invoke {
        name: "suspend",
        resource_type_id: USER,
        arguments: &arguments,
    });
    assert_eq!(invoked, set(&["user:u1"]));
    let empty = v2::Grant::default();
    assert!(keys(Request::Revoke { grant: &empty }).is_empty());
}

#[tokio::test]
async fn a_page_of_a_search_has_no_more_rows_than_were_asked_for() {
    let searched = async |hits: usize, email: &str| {
        let rig = rig(Tenant {
            hits: Some(hits),
            ..example()
        })
        .await;
        rig.connector.manager_id(email).await
    };
    // On the second page, which is asked for because the first one is full.
    let found = searched(100, "99@100.example.com").await.unwrap();
    assert_eq!(found, format!("{:012}{:012}", 100, 99));
    for hits in [101, 10_000] {
        let error = searched(hits, "0@0.example.com").await.unwrap_err();
        assert!(
            matches!(&error, Error::Decode { field, .. } if field == "results"),
            "{error:?}"
        );
        let words = format!("{hits} rows where at most 100 were asked for");
        assert!(error.to_string().contains(&words), "{error}");
    }
}
