//! The JumpCloud simulator, asked with a plain HTTP client.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use baton_jumpcloud::sim::jumpcloud::{
    CLIENT_ID, CLIENT_SECRET, COMMAND_RUNNER_KEY, Collection, Config, FULL_KEY, HELP_DESK_KEY, Id,
    JumpCloudSim, Key, KeyRole, MembershipMethod, NO_API_ACCESS_KEY, NewUser, READ_ONLY_KEY, Shape,
    Status, Truth,
};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

struct Asker {
    http: reqwest::Client,
    sim: JumpCloudSim,
}

impl Asker {
    async fn start(config: Config) -> Self {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(20))
            .no_proxy()
            .build()
            .unwrap();
        let sim = JumpCloudSim::start(config).await.unwrap();
        Self { http, sim }
    }

    async fn of(shape: Shape) -> Self {
        Self::start(Config::of(shape)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.sim.base_url))
    }

    async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path)
            .header("x-api-key", FULL_KEY)
            .send()
            .await
            .unwrap()
    }

    async fn status(&self, path: &str) -> u16 {
        self.get(path).await.status().as_u16()
    }

    async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    async fn rows(&self, path: &str) -> Vec<Value> {
        let body = self.json(path).await;
        let rows = body.get("results").unwrap_or(&body);
        rows.as_array().unwrap().clone()
    }

    /// Reads a list to its end by its total, never one page more.
    async fn all(&self, path: &str) -> Vec<Value> {
        let join = if path.contains('?') { '&' } else { '?' };
        let mut rows = Vec::new();
        loop {
            let answer = self
                .get(&format!("{path}{join}limit=100&skip={}", rows.len()))
                .await;
            let header = total(&answer);
            let body: Value = answer.json().await.unwrap();
            let total = header.or_else(|| body["totalCount"].as_u64()).unwrap();
            let page = body.get("results").unwrap_or(&body).as_array().unwrap();
            rows.extend(page.iter().cloned());
            if rows.len() as u64 >= total {
                return rows;
            }
            assert!(!page.is_empty());
        }
    }
}

fn total(answer: &Response) -> Option<u64> {
    let text = answer.headers().get("x-total-count")?.to_str().unwrap();
    Some(text.parse().unwrap())
}

fn ids(rows: &[Value]) -> Vec<Id> {
    rows.iter()
        .map(|row| row["id"].as_str().unwrap().parse().unwrap())
        .collect()
}

fn targets(rows: &[Value], kind: &str) -> BTreeSet<Id> {
    rows.iter()
        .filter(|row| row["to"]["type"] == kind)
        .map(|row| row["to"]["id"].as_str().unwrap().parse().unwrap())
        .collect()
}

#[tokio::test]
async fn a_v1_list_is_wrapped_and_has_ten_rows_unless_told() {
    let asker = Asker::of(Shape::default()).await;
    let answer = asker.get("/api/systemusers").await;
    assert!(answer.headers().get("x-total-count").is_none());
    assert!(answer.headers().get("link").is_none());
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["totalCount"], 250);
    let rows = body["results"].as_array().unwrap();
    assert_eq!(rows.len(), 10);
    for row in rows {
        assert_eq!(row["_id"], row["id"]);
        assert_eq!(row["_id"].as_str().unwrap().len(), 24);
    }
}

#[tokio::test]
async fn a_v2_list_is_a_bare_array_with_total_and_link() {
    let asker = Asker::of(Shape::default()).await;
    let answer = asker
        .get("/api/v2/usergroups?skip=5&limit=5&sort=name")
        .await;
    assert_eq!(total(&answer), Some(12));
    assert_eq!(
        answer.headers()["link"].to_str().unwrap(),
        format!(
            "<{}/api/v2/usergroups?limit=5&sort=name&skip=10>; rel=\"next\"",
            asker.sim.base_url
        )
    );
    assert_eq!(answer.json::<Vec<Value>>().await.unwrap().len(), 5);
    let last = asker.get("/api/v2/usergroups?limit=100").await;
    assert!(last.headers().get("link").is_none());
    asker
        .sim
        .change_behaviour(|behaviour| behaviour.link = false);
    let quiet = asker.get("/api/v2/usergroups").await;
    assert!(quiet.headers().get("link").is_none());
}

#[tokio::test]
async fn roles_are_wrapped_although_v2() {
    let asker = Asker::of(Shape::default()).await;
    let body = asker.json("/api/v2/roles?limit=100").await;
    assert_eq!(body["totalCount"], 12);
    let names: BTreeSet<String> = body["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|role| role["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, asker.sim.truth().roles);
    let custom = Asker::of(Shape {
        list_built_in_roles: false,
        ..Shape::default()
    })
    .await;
    assert_eq!(custom.json("/api/v2/roles").await["totalCount"], 3);
}

#[tokio::test]
async fn limits_that_no_list_takes_are_answered_400() {
    let asker = Asker::of(Shape::default()).await;
    let group = asker.sim.truth().groups.keys().next().copied().unwrap();
    let members = format!("/api/v2/usergroups/{group}/members");
    for list in [
        "/api/systemusers",
        "/api/users",
        "/api/applications",
        "/api/v2/usergroups",
        &members,
    ] {
        for (query, want) in [
            ("limit=0", 200),
            ("limit=100", 200),
            ("limit=101", 400),
            ("limit=-1", 400),
            ("limit=all", 400),
            ("skip=-1", 400),
            ("skip=x", 400),
            ("skip=100000", 200),
        ] {
            assert_eq!(
                asker.status(&format!("{list}?{query}")).await,
                want,
                "{list} {query}"
            );
        }
    }
    let v1: Value = asker
        .get("/api/systemusers?limit=101")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        v1,
        json!({"message": "Bad Request: request parameter \"limit\" exceeds maximum value of 100"})
    );
    let v2: Value = asker
        .get("/api/v2/usergroups?limit=101")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        (&v2["code"], &v2["status"]),
        (&json!(400), &json!("Bad Request"))
    );
}

#[tokio::test]
async fn past_the_end_there_are_no_rows_and_the_same_total() {
    let asker = Asker::of(Shape::default()).await;
    let v1 = asker.json("/api/systemusers?skip=250").await;
    assert_eq!(v1, json!({"totalCount": 250, "results": []}));
    let v2 = asker.get("/api/v2/usergroups?skip=99").await;
    assert_eq!(total(&v2), Some(12));
    assert!(v2.headers().get("link").is_none());
    assert_eq!(v2.text().await.unwrap(), "[]");
}

#[tokio::test]
async fn sorted_lists_are_sorted_and_unknown_fields_do_not_matter() {
    let asker = Asker::of(Shape::default()).await;
    let by_id = ids(&asker.all("/api/systemusers?sort=_id").await);
    assert!(by_id.is_sorted());
    assert_eq!(by_id.len(), 250);
    let mut down = ids(&asker.all("/api/systemusers?sort=-_id").await);
    down.reverse();
    assert_eq!(down, by_id);
    let names: Vec<String> = asker
        .rows("/api/v2/usergroups?sort=name&limit=100")
        .await
        .iter()
        .map(|row| row["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(names.is_sorted());
    assert_eq!(
        asker.json("/api/systemusers?sort=nonsense").await,
        asker.json("/api/systemusers").await
    );
}

#[tokio::test]
async fn fields_project_with_the_separator_of_the_generation() {
    let asker = Asker::of(Shape::default()).await;
    let keys = |row: &Value| -> Vec<String> { row.as_object().unwrap().keys().cloned().collect() };
    let v1 = asker
        .rows("/api/systemusers?limit=1&fields=username+email")
        .await;
    assert_eq!(keys(&v1[0]), ["_id", "email", "id", "username"]);
    let v2 = asker
        .rows("/api/v2/usergroups?limit=1&fields=name,type")
        .await;
    assert_eq!(keys(&v2[0]), ["id", "name", "type"]);
    let crossed = asker
        .rows("/api/systemusers?limit=1&fields=username,email")
        .await;
    assert_eq!(keys(&crossed[0]), ["_id", "id"]);
    let user = asker.sim.truth().users.keys().next().copied().unwrap();
    let one = asker
        .json(&format!("/api/systemusers/{user}?fields=state+suspended"))
        .await;
    assert!(one.get("username").is_none());
}

#[tokio::test]
async fn the_private_key_of_an_application_is_hidden_only_by_a_projection_that_works() {
    let asker = Asker::of(Shape {
        apps: 40,
        ..Shape::default()
    })
    .await;
    let text = |path: &'static str| async { asker.get(path).await.text().await.unwrap() };
    assert!(
        text("/api/applications?limit=100")
            .await
            .contains("SECRETSEED")
    );
    let projected = "/api/applications?limit=100&fields=displayLabel";
    assert!(!text(projected).await.contains("SECRETSEED"));
    asker
        .sim
        .change_behaviour(|behaviour| behaviour.ignore_app_fields = true);
    assert!(text(projected).await.contains("SECRETSEED"));
}

#[tokio::test]
async fn filters_are_read_in_the_dialect_of_the_generation() {
    let asker = Asker::of(Shape::default()).await;
    let user = &asker.rows("/api/systemusers?limit=1&skip=30").await[0];
    let email = user["email"].as_str().unwrap();
    let found = asker
        .json(&format!("/api/systemusers?filter=email:$eq:{email}"))
        .await;
    assert_eq!(found["totalCount"], 1);
    assert_eq!(found["results"][0]["_id"], user["_id"]);
    let nobody = asker
        .json("/api/systemusers?filter=email:$eq:nobody@example.com")
        .await;
    assert_eq!(nobody, json!({"totalCount": 0, "results": []}));
    let crossed = asker
        .json(&format!("/api/systemusers?filter=email:eq:{email}"))
        .await;
    assert_eq!(crossed["totalCount"], 250);

    let dynamic = asker
        .rows("/api/v2/usergroups?filter=membershipMethod:eq:DYNAMIC_AUTOMATED&limit=100")
        .await;
    let truth = asker.sim.truth();
    assert_eq!(
        dynamic.len(),
        truth.groups.values().filter(|group| group.dynamic).count()
    );
    for refused in ["membershipMethod:$eq:STATIC", "colour:eq:red", "name"] {
        assert_eq!(
            asker
                .status(&format!("/api/v2/usergroups?filter={refused}"))
                .await,
            400
        );
    }
    let sudo = asker
        .rows("/api/v2/usergroups?filter=attributes.sudo.enabled:eq:true&limit=100")
        .await;
    assert!(
        sudo.iter()
            .all(|group| group["attributes"]["sudo"]["enabled"] == true)
    );
}

#[tokio::test]
async fn keys_open_what_their_owners_may_see() {
    let asker = Asker::of(Shape::default()).await;
    for (key, path, want) in [
        (Some(FULL_KEY), "/api/systemusers", 200),
        (None, "/api/systemusers", 401),
        (Some("SECRETSEED-unknown"), "/api/systemusers", 401),
        (Some(NO_API_ACCESS_KEY), "/api/systemusers", 401),
        (Some(READ_ONLY_KEY), "/api/v2/usergroups", 200),
        (Some(READ_ONLY_KEY), "/api/users", 200),
        (Some(HELP_DESK_KEY), "/api/systemusers", 200),
        (Some(HELP_DESK_KEY), "/api/v2/usergroups", 200),
        (Some(HELP_DESK_KEY), "/api/applications", 403),
        (Some(HELP_DESK_KEY), "/api/users", 403),
        (Some(HELP_DESK_KEY), "/api/v2/roles", 403),
        (Some(COMMAND_RUNNER_KEY), "/api/systemusers", 200),
    ] {
        let mut request = asker.request(Method::GET, path);
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), want, "{path}");
        if want == 401 {
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body, json!({"message": "Unauthorized"}));
        } else if want == 403 {
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body, json!({"message": "Forbidden"}));
        }
    }
    asker.sim.deny([Collection::Groups]);
    assert_eq!(asker.status("/api/v2/usergroups").await, 403);
    assert_eq!(asker.status("/api/systemusers").await, 200);
}

#[tokio::test]
async fn a_multi_tenant_key_must_name_the_organisation() {
    let shape = |seed| Shape {
        seed,
        users: 20 + u32::try_from(seed).unwrap(),
        ..Shape::default()
    };
    let mut config = Config::of(shape(1));
    config.organizations.push(shape(2));
    let mut single = Key::new("single", "SECRETSEED-single", KeyRole::Full);
    single.organizations = vec![1];
    config.keys.push(single);
    let asker = Asker::start(config).await;
    let organizations = asker.sim.organization_ids();
    let ask = |key: &'static str, org: Option<String>, path: &'static str| {
        let mut request = asker.request(Method::GET, path).header("x-api-key", key);
        if let Some(org) = org {
            request = request.header("x-org-id", org);
        }
        async { request.send().await.unwrap() }
    };
    let users = "/api/systemusers";
    let first = Some(organizations[0].to_string());
    let second = Some(organizations[1].to_string());
    for (key, org, want) in [
        (FULL_KEY, None, 401),
        (FULL_KEY, Some("not-an-id".to_owned()), 400),
        (FULL_KEY, Some("64aa00000000000000000000".to_owned()), 404),
        (FULL_KEY, first.clone(), 200),
        ("SECRETSEED-single", None, 200),
        ("SECRETSEED-single", second.clone(), 200),
        ("SECRETSEED-single", first.clone(), 404),
    ] {
        assert_eq!(ask(key, org.clone(), users).await.status(), want, "{org:?}");
    }
    for (org, want) in [(first.clone(), 21), (second.clone(), 22)] {
        let body: Value = ask(FULL_KEY, org, users).await.json().await.unwrap();
        assert_eq!(body["totalCount"], want);
    }
    let list: Value = ask(FULL_KEY, None, "/api/organizations")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(list["totalCount"], 2);
    let own: Value = ask("SECRETSEED-single", None, "/api/organizations")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(own["results"][0]["_id"], organizations[1].to_string());
    let admins: Value = ask(FULL_KEY, first.clone(), "/api/users")
        .await
        .json()
        .await
        .unwrap();
    assert!(
        admins["results"]
            .as_array()
            .unwrap()
            .iter()
            .all(|a| a["organization"].is_null())
    );
    asker
        .sim
        .change_behaviour(|behaviour| behaviour.refuse_org_on_admins = true);
    assert_eq!(ask(FULL_KEY, first, "/api/users").await.status(), 403);
}

#[tokio::test]
async fn tokens_are_issued_and_can_be_revoked() {
    let mut config = Config::default();
    config.clients[0].token_life = Duration::from_mins(1);
    let asker = Asker::start(config).await;
    let fetch = |secret: &'static str, form: &'static str| {
        asker
            .request(Method::POST, "/any/base/oauth2/token")
            .basic_auth(CLIENT_ID, Some(secret))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form)
            .send()
    };
    let form = "grant_type=client_credentials&scope=api";
    let wrong = fetch("SECRETSEED-wrong", form).await.unwrap();
    assert_eq!(wrong.status(), 401);
    assert_eq!(
        wrong.json::<Value>().await.unwrap()["error"],
        "invalid_client"
    );
    let scope = fetch(CLIENT_SECRET, "grant_type=client_credentials&scope=all")
        .await
        .unwrap();
    assert_eq!(scope.status(), 400);
    assert_eq!(
        scope.json::<Value>().await.unwrap(),
        json!({"error": "invalid_scope"})
    );

    let token: Value = fetch(CLIENT_SECRET, form)
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(
        (&token["expires_in"], &token["token_type"]),
        (&json!(60), &json!("bearer"))
    );
    let bearer = token["access_token"].as_str().unwrap().to_owned();
    let ask = || async {
        asker
            .request(Method::GET, "/api/systemusers?limit=1")
            .bearer_auth(&bearer)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(ask().await, 200);
    asker.sim.revoke_tokens();
    assert_eq!(ask().await, 401);
    assert_eq!(asker.sim.tokens_issued(), 1);
    assert_eq!(asker.sim.requests().count("POST /oauth2/token"), 3);
}

#[tokio::test]
async fn single_objects_are_found_by_id_and_nothing_else() {
    let asker = Asker::of(Shape::default()).await;
    let truth = asker.sim.truth();
    let user = truth.users.keys().next().unwrap();
    let admin = truth.admins.keys().next().unwrap();
    let group = truth.groups.keys().next().unwrap();
    let app = truth.apps.keys().next().unwrap();
    for (path, want) in [
        (format!("/api/systemusers/{user}"), 200),
        (format!("/api/systemusers/{admin}"), 404),
        ("/api/systemusers/64ab0000000000000000dead".to_owned(), 404),
        ("/api/systemusers/..%2f".to_owned(), 404),
        (format!("/api/users/{admin}"), 200),
        (format!("/api/users/{user}"), 404),
        ("/api/users/getSelf".to_owned(), 200),
        (format!("/api/v2/usergroups/{group}"), 200),
        (format!("/api/v2/usergroups/{user}"), 404),
        (format!("/api/v2/usergroups/{user}/members"), 404),
        (format!("/api/applications/{app}"), 200),
        (format!("/api/organizations/{}", truth.organization), 200),
        (format!("/api/organizations/{user}"), 404),
    ] {
        assert_eq!(asker.status(&path).await, want, "{path}");
    }
    let v1: Value = asker
        .get(&format!("/api/users/{user}"))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(v1, json!({"message": "Not Found"}));
    let v2: Value = asker
        .get(&format!("/api/v2/usergroups/{user}"))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        v2,
        json!({"code": 404, "message": "Not Found", "status": "Not Found"})
    );
    let own = asker.json("/api/users/getSelf?fields=provider").await;
    assert!(own["provider"].is_null() && own.get("email").is_none());
}

#[tokio::test]
async fn associations_take_exactly_one_target_that_fits() {
    let asker = Asker::of(Shape::default()).await;
    let truth = asker.sim.truth();
    let (app, facts) = truth.apps.iter().next().unwrap();
    let path = format!("/api/v2/applications/{app}/associations");
    for (query, want) in [
        ("targets=user", 200),
        ("targets=user_group", 200),
        ("", 400),
        ("targets=user&targets=user_group", 400),
        ("targets=user,user_group", 400),
        ("targets=system", 400),
    ] {
        assert_eq!(
            asker.status(&format!("{path}?{query}")).await,
            want,
            "{query}"
        );
    }
    let missing: Value = asker.get(&path).await.json().await.unwrap();
    assert_eq!(missing["message"], "targets is required");
    let groups = asker.all(&format!("{path}?targets=user_group")).await;
    assert_eq!(targets(&groups, "user_group"), facts.groups);
    let group = facts.groups.first().unwrap();
    let from_group = asker
        .all(&format!(
            "/api/v2/usergroups/{group}/associations?targets=application"
        ))
        .await;
    assert!(targets(&from_group, "application").contains(app));
    assert_eq!(
        asker
            .status(&format!(
                "/api/v2/usergroups/{group}/associations?targets=user"
            ))
            .await,
        400
    );
}

/// Everything that a sync reads, over HTTP, compared with the truth.
async fn compare(asker: &Asker, truth: &Truth) {
    let users = asker.all("/api/systemusers?sort=_id").await;
    assert_eq!(ids(&users), truth.users.keys().copied().collect::<Vec<_>>());
    for user in &users {
        let id: Id = user["id"].as_str().unwrap().parse().unwrap();
        let manager = user["manager"].as_str().and_then(|text| text.parse().ok());
        let admin = user["admin"]["id"]
            .as_str()
            .and_then(|text| text.parse().ok());
        assert_eq!(
            (manager, admin),
            (truth.users[&id].manager, truth.users[&id].admin)
        );
    }
    let admins = asker.all("/api/users?sort=_id").await;
    assert_eq!(
        ids(&admins),
        truth.admins.keys().copied().collect::<Vec<_>>()
    );
    for admin in &admins {
        let id: Id = admin["id"].as_str().unwrap().parse().unwrap();
        assert_eq!(admin["roleName"], truth.admins[&id].roles[0]);
        if let Some(names) = admin.get("roleNames") {
            assert_eq!(*names, json!(truth.admins[&id].roles));
        } else {
            assert_eq!(truth.admins[&id].roles.len(), 1);
        }
    }
    let groups = asker.all("/api/v2/usergroups?sort=name").await;
    assert_eq!(
        ids(&groups).into_iter().collect::<BTreeSet<_>>(),
        truth.groups.keys().copied().collect()
    );
    for (id, facts) in &truth.groups {
        let members = asker.all(&format!("/api/v2/usergroups/{id}/members")).await;
        let mut want = facts.members.clone();
        want.extend(&facts.dangling);
        assert_eq!(targets(&members, "user"), want);
        assert_eq!(targets(&members, "user_group"), facts.nested);
    }
    let apps = asker.all("/api/applications?sort=_id").await;
    assert_eq!(ids(&apps), truth.apps.keys().copied().collect::<Vec<_>>());
    for (id, facts) in &truth.apps {
        let direct = asker
            .all(&format!(
                "/api/v2/applications/{id}/associations?targets=user"
            ))
            .await;
        let mut want = facts.users.clone();
        want.extend(&facts.dangling);
        assert_eq!(targets(&direct, "user"), want);
        let bound = asker
            .all(&format!("/api/v2/applications/{id}/usergroups"))
            .await;
        assert_eq!(
            ids(&bound).into_iter().collect::<BTreeSet<_>>(),
            facts.groups
        );
    }
}

#[tokio::test]
async fn the_answers_agree_with_the_truth() {
    let asker = Asker::of(Shape {
        users: 230,
        groups: 14,
        members_per_group: 120,
        apps: 6,
        groups_per_app: 3,
        users_per_app: 4,
        admins: 9,
        dangling_edges: 4,
        ..Shape::default()
    })
    .await;
    compare(&asker, &asker.sim.truth()).await;
    assert_eq!(asker.sim.requests().unexpected, [""; 0]);
}

#[tokio::test]
async fn the_answers_agree_with_the_truth_after_writes() {
    let asker = Asker::of(Shape::default()).await;
    let asker = &asker;
    let ask = |method: Method, path: String, body: Value| async move {
        let answer = asker
            .request(method, &path)
            .header("x-api-key", FULL_KEY)
            .json(&body)
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{path}");
        answer.json().await.unwrap_or(Value::Null)
    };
    let before = asker.sim.truth();
    let (users, groups, apps) = asker
        .sim
        .inspect(|tenant| (tenant.user_ids(), tenant.group_ids(), tenant.app_ids()))
        .unwrap();
    let post = |path: &str, body: Value| ask(Method::POST, path.to_owned(), body);
    let new = json!({"username": "dana.new", "email": "dana.new@example.com", "manager": users[1]});
    let user = post("/api/systemusers", new).await;
    let group = post("/api/v2/usergroups", json!({"name": "New"})).await;
    let (user, group) = (&user["_id"], group["id"].as_str().unwrap());
    let add = |kind: &str, id: &Value| json!({"op": "add", "type": kind, "id": id});
    let members = format!("/api/v2/usergroups/{group}/members");
    post(&members, add("user", user)).await;
    let app = format!("/api/v2/applications/{}/associations", apps[0]);
    post(&app, add("user_group", &json!(group))).await;
    post(&app, add("user", user)).await;
    let admin = json!({"email": "dana.NEW@example.com", "roleNames": ["Manager", "Help Desk"]});
    post("/api/users", admin).await;
    let one = format!("/api/systemusers/{}", users[0]);
    ask(Method::PUT, one, json!({"state": "SUSPENDED"})).await;
    for gone in [
        format!("/api/systemusers/{}?cascade_manager=null", users[9]),
        format!("/api/v2/usergroups/{}", groups[3]),
    ] {
        ask(Method::DELETE, gone, json!({})).await;
    }
    let after = asker.sim.truth();
    assert_ne!(before, after);
    assert_eq!(after.users[&users[0]].status, "suspended");
    compare(asker, &after).await;
}

#[tokio::test]
async fn a_traversal_shows_every_way_to_an_application() {
    let asker = Asker::of(Shape {
        members_per_group: 60,
        ..Shape::default()
    })
    .await;
    let truth = asker.sim.truth();
    for (app, facts) in &truth.apps {
        let rows = asker
            .all(&format!("/api/v2/applications/{app}/users"))
            .await;
        assert_eq!(
            ids(&rows).into_iter().collect::<BTreeSet<_>>(),
            facts.effective
        );
        for row in rows {
            let id: Id = row["id"].as_str().unwrap().parse().unwrap();
            let paths = row["paths"].as_array().unwrap();
            let direct = paths.iter().any(|path| path.as_array().unwrap().len() == 1);
            assert_eq!(direct, facts.users.contains(&id));
            let through: BTreeSet<Id> = paths
                .iter()
                .filter(|path| path.as_array().unwrap().len() == 2)
                .map(|path| path[0]["to"]["id"].as_str().unwrap().parse().unwrap())
                .collect();
            let want: BTreeSet<Id> = facts
                .groups
                .iter()
                .copied()
                .filter(|group| truth.groups[group].members.contains(&id))
                .collect();
            assert_eq!(through, want);
        }
    }
    let (user, _) = truth.users.iter().next().unwrap();
    let groups = asker.all(&format!("/api/v2/users/{user}/memberof")).await;
    let want: BTreeSet<Id> = truth
        .groups
        .iter()
        .filter(|(_, facts)| facts.members.contains(user))
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(ids(&groups).into_iter().collect::<BTreeSet<_>>(), want);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let shape = |seed| Shape {
        seed,
        ..Shape::default()
    };
    let mut answers = Vec::new();
    for seed in [7, 7, 8] {
        let asker = Asker::of(shape(seed)).await;
        let mut bytes = Vec::new();
        for path in [
            "/api/systemusers?limit=100",
            "/api/users?limit=100",
            "/api/applications?limit=100",
            "/api/v2/roles?limit=100",
            "/api/v2/usergroups?limit=100",
            "/api/v2/directories",
            "/_sim/truth",
        ] {
            bytes.extend(asker.get(path).await.bytes().await.unwrap());
        }
        answers.push(bytes);
    }
    // The port is the only difference between two runs, and it is in no body.
    assert!(answers[0] == answers[1]);
    assert!(answers[0] != answers[2]);
}

#[tokio::test]
async fn the_tenant_of_the_acceptance_has_the_counts_that_were_asked_for() {
    let asker = Asker::of(Shape {
        users: 5000,
        groups: 200,
        members_per_group: 60,
        apps: 80,
        groups_per_app: 4,
        users_per_app: 5,
        admins: 15,
        ..Shape::default()
    })
    .await;
    let counts = asker.sim.truth().counts();
    assert_eq!(
        (
            counts.users,
            counts.admins,
            counts.admins_without_user,
            counts.groups,
            counts.apps
        ),
        (5000, 15, 5, 200, 80)
    );
    assert_eq!(
        (
            counts.memberships,
            counts.group_bindings,
            counts.user_bindings
        ),
        (12_000, 320, 400)
    );
    let over_http: Truth = asker.get("/_sim/truth").await.json().await.unwrap();
    assert_eq!(over_http, asker.sim.truth());
}

#[tokio::test]
async fn accounts_of_every_kind_look_as_they_should() {
    let asker = Asker::of(Shape::default()).await;
    let rows = asker.all("/api/systemusers").await;
    let by_id: BTreeMap<Id, &Value> = ids(&rows).into_iter().zip(&rows).collect();
    let mut kinds = BTreeSet::new();
    for (id, facts) in &asker.sim.truth().users {
        let user = by_id[id];
        kinds.insert(facts.status.clone());
        let state = user.get("state").and_then(Value::as_str);
        let flags = ["activated", "suspended", "account_locked"].map(|name| user[name] == true);
        let want = match facts.status.as_str() {
            "active" => (Some("ACTIVATED"), [true, false, false]),
            "staged" => (Some("STAGED"), [false, false, false]),
            "suspended" => (Some("SUSPENDED"), [true, true, false]),
            "locked" => (Some("ACTIVATED"), [true, false, true]),
            "never_activated" => (Some("ACTIVATED"), [false, false, false]),
            "legacy" => (None, [true, false, false]),
            "legacy_suspended" => (None, [true, true, false]),
            other => panic!("{other}"),
        };
        assert_eq!((state, flags), want, "{}", facts.status);
    }
    assert_eq!(kinds.len(), 7);
    let has = |field: &str, test: &dyn Fn(Option<&Value>) -> bool| {
        rows.iter().any(|row| test(row.get(field)))
    };
    for field in ["alternateEmail", "manager", "costCenter", "managedAppleId"] {
        assert!(has(field, &|value| value.is_none()), "{field} missing");
        assert!(
            has(field, &|value| value == Some(&Value::Null)),
            "{field} null"
        );
        assert!(
            has(field, &|value| value == Some(&json!(""))),
            "{field} empty"
        );
    }
    for field in ["admin", "mfa", "recoveryEmail"] {
        assert!(
            has(field, &|value| value.is_some_and(Value::is_object)),
            "{field}"
        );
        assert!(
            has(field, &|value| value == Some(&Value::Null)),
            "{field} null"
        );
    }
    assert!(
        rows.iter()
            .any(|row| !row["firstname"].as_str().unwrap().is_ascii())
    );
    assert!(rows.iter().any(|row| {
        let list = row["attributes"].as_array().unwrap();
        list.iter()
            .any(|a| a["value"].as_str().unwrap().len() == 1024)
    }));
    assert!(
        rows.iter()
            .any(|row| !row["ssh_keys"].as_array().unwrap().is_empty())
    );
    assert!(
        rows.iter()
            .any(|row| row["external_source_type"] == "active_directory")
    );
}

#[tokio::test]
async fn the_directory_can_move_while_it_is_read() {
    let asker = Asker::of(Shape::default()).await;
    let first = asker.rows("/api/systemusers?limit=100&sort=_id").await;
    let victim: Id = first[10]["id"].as_str().unwrap().parse().unwrap();
    let second_before = asker
        .rows("/api/systemusers?limit=100&skip=100&sort=_id")
        .await;
    let group = asker.sim.truth().groups.keys().next().copied().unwrap();
    let added = asker
        .sim
        .edit(|tenant| {
            tenant.remove_user(victim).unwrap();
            let added = tenant
                .add_user(NewUser {
                    status: Status::Staged,
                    manager: None,
                })
                .unwrap();
            tenant.set_members(group, &[added]).unwrap();
            added
        })
        .unwrap();
    let second = asker
        .rows("/api/systemusers?limit=100&skip=100&sort=_id")
        .await;
    assert_ne!(second, second_before);
    assert_eq!(
        asker.status(&format!("/api/systemusers/{victim}")).await,
        404
    );
    assert_eq!(
        asker.json(&format!("/api/systemusers/{added}")).await["state"],
        "STAGED"
    );
    let members = asker
        .all(&format!("/api/v2/usergroups/{group}/members"))
        .await;
    assert_eq!(targets(&members, "user"), BTreeSet::from([added]));
    compare(&asker, &asker.sim.truth()).await;
}

#[tokio::test]
async fn fields_and_nesting_can_be_set_by_hand() {
    let asker = Asker::of(Shape::default()).await;
    let truth = asker.sim.truth();
    let user = truth.users.keys().next().copied().unwrap();
    let groups: Vec<Id> = truth.groups.keys().copied().collect();
    asker
        .sim
        .edit(|tenant| {
            tenant
                .set_field(user, "displayname", Some(json!(null)))
                .unwrap();
            tenant.set_field(user, "email", None).unwrap();
            tenant
                .set_field(user, "brandNew", Some(json!({"a": 1})))
                .unwrap();
            tenant.set_nested_groups(groups[0], &groups[1..2]).unwrap();
            tenant
                .set_membership_method(groups[0], MembershipMethod::DynamicAutomated)
                .unwrap();
        })
        .unwrap();
    let row = asker.json(&format!("/api/systemusers/{user}")).await;
    assert!(row["displayname"].is_null() && row.get("email").is_none());
    assert_eq!(row["brandNew"], json!({"a": 1}));
    let group = asker
        .json(&format!("/api/v2/usergroups/{}", groups[0]))
        .await;
    assert_eq!(group["membershipMethod"], "DYNAMIC_AUTOMATED");
    assert!(group["memberQuery"].is_object());
    compare(&asker, &asker.sim.truth()).await;
}

#[tokio::test]
async fn a_shuffled_list_is_complete_in_one_order_only_when_it_is_sorted() {
    let asker = Asker::of(Shape::default()).await;
    asker
        .sim
        .change_behaviour(|behaviour| behaviour.shuffle = true);
    let path = "/api/systemusers?limit=100";
    let (a, b) = (ids(&asker.rows(path).await), ids(&asker.rows(path).await));
    assert_ne!(a, b);
    let unsorted: BTreeSet<Id> = ids(&asker.all("/api/systemusers").await)
        .into_iter()
        .collect();
    assert!(unsorted.len() < 250, "a walk without a sort must miss rows");
    let sorted: BTreeSet<Id> = ids(&asker.all("/api/systemusers?sort=_id").await)
        .into_iter()
        .collect();
    assert_eq!(sorted.len(), 250);
    compare(&asker, &asker.sim.truth()).await;
}

#[tokio::test]
async fn a_rate_limit_answers_429_with_the_retry_after_of_the_moment() {
    let asker = Asker::of(Shape::default()).await;
    for retry_after in [
        Some("2"),
        None,
        Some("-1"),
        Some("99999999999"),
        Some("soon"),
    ] {
        asker.sim.change_behaviour(|behaviour| {
            behaviour.rate_limit = Some("0.001/s".parse().unwrap());
            behaviour.retry_after = retry_after.map(str::to_owned);
        });
        let mut last = asker.get("/api/systemusers?limit=1").await;
        while last.status() == 200 {
            last = asker.get("/api/systemusers?limit=1").await;
        }
        assert_eq!(last.status(), 429);
        let sent = last
            .headers()
            .get("retry-after")
            .map(|value| value.to_str().unwrap());
        assert_eq!(sent, retry_after);
        let body: Value = last.json().await.unwrap();
        assert_eq!(body, json!({"message": "Too Many Requests"}));
    }
    asker
        .sim
        .change_behaviour(|behaviour| behaviour.rate_limit = None);
    assert_eq!(asker.status("/api/systemusers?limit=1").await, 200);
    asker.sim.throttle_for(Duration::from_mins(1));
    assert_eq!(asker.status("/api/systemusers?limit=1").await, 429);
    asker.sim.throttle_for(Duration::ZERO);
    assert_eq!(asker.status("/api/systemusers?limit=1").await, 200);
}

#[tokio::test]
async fn a_fault_plan_spoils_the_requests_that_it_names() {
    let asker = Asker::of(Shape::default()).await;
    asker.sim.add_fault("/api/systemusers@2-3:503").unwrap();
    asker.sim.add_fault("/api/v2/usergroups@1:403").unwrap();
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(asker.status("/api/systemusers").await);
    }
    assert_eq!(statuses, [200, 503, 503, 200]);
    assert_eq!(asker.status("/api/v2/usergroups").await, 403);
    assert_eq!(asker.status("/api/v2/usergroups").await, 200);
    assert!(asker.sim.add_fault("/api/other@1:503").is_err());
}

#[tokio::test]
async fn every_status_has_the_body_of_its_sender() {
    let asker = Asker::of(Shape::default()).await;
    for (status, html, words) in [
        (500, false, "Internal Server Error"),
        (502, true, "Bad Gateway"),
        (503, true, "Service Unavailable"),
        (504, true, "Gateway"),
        (401, false, "Unauthorized"),
        (402, false, "Payment Required"),
        (403, false, "Forbidden"),
        (429, false, "Too Many Requests"),
    ] {
        asker.sim.clear_faults();
        asker.sim.add_fault(&format!("*@always:{status}")).unwrap();
        let answer = asker.get("/api/systemusers").await;
        assert_eq!(answer.status(), status);
        let kind = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        assert_eq!(kind.starts_with("text/html"), html, "{status}");
        assert!(answer.text().await.unwrap().contains(words), "{status}");
    }
}

#[tokio::test]
async fn spoilt_bodies_are_spoilt_in_the_way_that_was_asked_for() {
    let asker = Asker::of(Shape::default()).await;
    let spoil = |fault: &str| {
        asker.sim.clear_faults();
        asker.sim.add_fault(&format!("*@always:{fault}")).unwrap();
    };
    let users = "/api/systemusers?limit=20&skip=20&sort=_id";
    let page = |skip: usize| {
        let asker = &asker;
        async move {
            asker
                .get(&format!("/api/systemusers?limit=20&skip={skip}&sort=_id"))
                .await
                .text()
                .await
                .unwrap()
        }
    };
    let (first, second) = (page(0).await, page(20).await);

    spoil("truncated-json");
    let text = asker.get(users).await.text().await.unwrap();
    assert!(second.starts_with(&text) && !text.is_empty() && text.len() < second.len());

    spoil("empty-body");
    assert_eq!(asker.get(users).await.text().await.unwrap(), "");

    spoil("html-200");
    let answer = asker.get(users).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.text().await.unwrap().starts_with("<html>"));

    spoil("wrong-types");
    assert_eq!(asker.rows(users).await[0]["_id"], 7);

    spoil("null-fields");
    let row = &asker.rows(users).await[0];
    assert!(row["_id"].is_string() && row["email"].is_null());

    spoil("wrong-total");
    assert_eq!(asker.json(users).await["totalCount"], "many");
    let groups = asker.get("/api/v2/usergroups").await;
    assert_eq!(groups.headers()["x-total-count"], "many");

    spoil("no-total");
    assert!(asker.json(users).await.get("totalCount").is_none());
    assert_eq!(total(&asker.get("/api/v2/usergroups").await), None);

    spoil("duplicate-page");
    assert_eq!(asker.get(users).await.text().await.unwrap(), first);

    spoil("endless-paging");
    let far = asker
        .json("/api/systemusers?limit=20&skip=4000&sort=_id")
        .await;
    let rows = |text: &str| serde_json::from_str::<Value>(text).unwrap()["results"].clone();
    assert_eq!(far["results"], rows(&first));
    assert!(far["totalCount"].as_u64().unwrap() > 4020);

    spoil("oversized-body=1000000");
    assert_eq!(
        asker.get(users).await.bytes().await.unwrap().len(),
        1_000_000
    );

    spoil("slow-drip=200ms");
    let start = Instant::now();
    assert_eq!(asker.get(users).await.text().await.unwrap(), second);
    assert!(start.elapsed() >= Duration::from_millis(150));
}

#[tokio::test]
async fn broken_connections_are_broken_where_they_should() {
    let asker = Asker::of(Shape::default()).await;
    asker
        .sim
        .add_fault("/api/systemusers@1:reset-mid-body")
        .unwrap();
    asker
        .sim
        .add_fault("/api/v2/usergroups@1+:no-response")
        .unwrap();
    asker.sim.add_fault("/api/users@1:hang").unwrap();
    let answer = asker.get("/api/systemusers").await;
    assert_eq!(answer.status(), 200);
    assert!(answer.content_length().unwrap() > 0);
    assert!(answer.bytes().await.is_err());
    let send = |path: &str, milliseconds| {
        asker
            .request(Method::GET, path)
            .header("x-api-key", FULL_KEY)
            .timeout(Duration::from_millis(milliseconds))
            .send()
    };
    let error = send("/api/v2/usergroups", 5000).await.unwrap_err();
    assert!(error.is_request() && !error.is_timeout(), "{error:?}");
    assert!(send("/api/users", 2000).await.unwrap_err().is_timeout());
    assert_eq!(asker.status("/api/users").await, 200);
    assert!(asker.sim.requests().with_status(0) >= 2);
}

#[tokio::test]
async fn links_and_redirects_can_lead_to_another_host() {
    let asker = Asker::of(Shape::default()).await;
    asker
        .sim
        .add_fault("/api/v2/usergroups@1:cross-origin-link=http://127.0.0.1:9")
        .unwrap();
    asker
        .sim
        .add_fault("/api/systemusers@1:redirect=http://127.0.0.1:9")
        .unwrap();
    let link = asker.get("/api/v2/usergroups?limit=5").await;
    assert_eq!(
        link.headers()["link"],
        "<http://127.0.0.1:9/api/v2/usergroups?limit=5&skip=5>; rel=\"next\""
    );
    let moved = asker.get("/api/systemusers?limit=5").await;
    assert_eq!(moved.status(), 302);
    assert_eq!(
        moved.headers()["location"],
        "http://127.0.0.1:9/api/systemusers?limit=5"
    );
}

#[tokio::test]
async fn requests_are_counted_and_nothing_secret_is_kept() {
    let asker = Asker::of(Shape::default()).await;
    let truth = asker.sim.truth();
    let user = truth.users.keys().next().unwrap();
    asker.get("/api/systemusers?limit=1").await;
    asker.get(&format!("/api/systemusers/{user}")).await;
    asker.get("/api/systemusers/nobody").await;
    asker.get("/api/v2/commands").await;
    let put = asker
        .request(Method::PUT, "/api/systemusers")
        .send()
        .await
        .unwrap();
    assert_eq!(put.status(), 405);
    asker
        .request(Method::GET, "/api/users")
        .send()
        .await
        .unwrap();

    let text = asker.get("/_sim/requests").await.text().await.unwrap();
    assert!(!text.contains("SECRETSEED"));
    let log: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(log["total"], 6);
    assert_eq!(
        log["by_endpoint"]["GET /api/systemusers/{id}"],
        json!({"total": 2, "by_status": {"200": 1, "404": 1}})
    );
    assert_eq!(
        log["unexpected"],
        json!(["GET /api/v2/commands", "PUT /api/systemusers"])
    );
    assert_eq!(log["max_concurrency"], 1);
    assert_eq!(
        log["recent"][0],
        json!({
            "method": "GET",
            "path": "/api/systemusers",
            "query": "limit=1",
            "status": 200,
            "authenticated": true,
            "headers": ["accept", "accept-encoding", "host", "x-api-key"],
            "form": [],
            "fields": [],
        })
    );
    assert_eq!(log["recent"][5]["authenticated"], false);
    asker
        .request(Method::DELETE, "/_sim/requests")
        .send()
        .await
        .unwrap();
    assert_eq!(asker.sim.requests().total, 0);
}

#[tokio::test]
async fn the_most_requests_at_one_time_are_counted() {
    let asker = Asker::of(Shape::default()).await;
    asker
        .sim
        .change_behaviour(|behaviour| behaviour.latency = Duration::from_secs(1));
    let start = Instant::now();
    let asked = (0..5).map(|_| asker.status("/api/systemusers?limit=1"));
    futures_util::future::join_all(asked).await;
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(asker.sim.requests().max_concurrency, 5);
}

#[tokio::test]
async fn behaviour_can_be_changed_over_http() {
    let asker = Asker::of(Shape::default()).await;
    let change = |body: &'static str| {
        asker
            .request(Method::POST, "/_sim/behaviour")
            .body(body)
            .send()
    };
    let changed = change(r#"{"faults":["*@1:500"],"deny":["groups"]}"#)
        .await
        .unwrap();
    assert_eq!(changed.status(), 200);
    assert_eq!(asker.status("/api/systemusers").await, 500);
    assert_eq!(asker.status("/api/v2/usergroups").await, 403);
    let refused = change(r#"{"faults":["*@1:explode"]}"#).await.unwrap();
    assert_eq!(refused.status(), 400);
    let words = refused.text().await.unwrap();
    assert!(words.contains("field faults[0]"), "{words}");
    let behaviour = asker.json("/_sim/behaviour").await;
    assert_eq!(behaviour["faults"], json!(["*@1:500"]));
    let throttle = asker
        .request(Method::POST, "/_sim/throttle")
        .body("1m")
        .send()
        .await
        .unwrap();
    assert_eq!(throttle.status(), 204);
    assert_eq!(asker.status("/api/systemusers").await, 429);
}

#[tokio::test]
async fn insights_count_needs_a_service_and_a_start() {
    let asker = Asker::of(Shape::default()).await;
    let ask = |key: &'static str, body: Value| {
        asker
            .request(Method::POST, "/insights/directory/v1/events/count")
            .header("x-api-key", key)
            .json(&body)
            .send()
    };
    let whole = json!({"service": ["all"], "start_time": "2026-10-01T00:00:00Z"});
    let count: Value = ask(FULL_KEY, whole.clone())
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert!(count["count"].as_u64().unwrap() > 0);
    assert_eq!(ask(COMMAND_RUNNER_KEY, whole).await.unwrap().status(), 403);
    for body in [
        json!({"service": ["all"]}),
        json!({"start_time": "2026-10-01T00:00:00Z"}),
        json!([]),
    ] {
        assert_eq!(
            ask(FULL_KEY, body.clone()).await.unwrap().status(),
            400,
            "{body}"
        );
    }
}

#[tokio::test]
async fn a_stopped_simulator_closes_its_port_and_its_connections() {
    let asker = Asker::of(Shape::default()).await;
    asker.sim.add_fault("/api/users@1:hang").unwrap();
    let url = asker.sim.base_url.clone();
    let Asker { http, sim } = asker;
    let pending = http.get(format!("{url}/api/users")).send();
    let stop = async {
        while sim.requests().total == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sim.shutdown().await;
    };
    let (answer, ()) = tokio::join!(pending, stop);
    assert!(!answer.unwrap_err().is_timeout());
    assert!(http.get(url).send().await.unwrap_err().is_connect());
}

#[tokio::test]
async fn the_program_tells_where_it_listens_and_ends_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let (port_file, truth_file) = (folder.path().join("port"), folder.path().join("truth.json"));
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_baton-sim"))
        .args([
            "jumpcloud",
            "--listen",
            "127.0.0.1:0",
            "--users",
            "30",
            "--seed",
            "9",
        ])
        .args([
            "--faults",
            "/api/users@1:503;/api/users@2:504",
            "--deny",
            "roles,groups",
        ])
        .args([
            "--api-key",
            "SECRETSEED-from-flag",
            "--rate-limit",
            "500/s",
            "--latency",
            "1ms",
        ])
        .arg("--port-file")
        .arg(&port_file)
        .arg("--truth-file")
        .arg(&truth_file)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let address = std::fs::read_to_string(&port_file).unwrap();
    assert!(
        line.contains(&format!("--base-url http://{address}")),
        "{line}"
    );
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = |path: &str| {
        http.get(format!("http://{address}{path}"))
            .header("x-api-key", "SECRETSEED-from-flag")
            .send()
    };
    let truth: Truth = serde_json::from_slice(&std::fs::read(&truth_file).unwrap()).unwrap();
    let users: Value = ask("/api/systemusers?limit=100&sort=_id")
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(
        ids(users["results"].as_array().unwrap()),
        truth.users.into_keys().collect::<Vec<_>>()
    );
    for (path, want) in [
        ("/api/users", 503),
        ("/api/users", 504),
        ("/api/users", 200),
        ("/api/v2/roles", 403),
        ("/api/v2/usergroups", 403),
    ] {
        assert_eq!(ask(path).await.unwrap().status(), want, "{path}");
    }
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!line.contains("SECRETSEED") && output.stderr.is_empty());
}

#[tokio::test]
async fn the_program_explains_flags_that_it_cannot_take() {
    for (flags, words) in [
        (["--rate-limit", "fast"], "write 50/s"),
        (["--faults", "*@1:explode"], "is no fault"),
        (["--faults", "503"], "<when>"),
        (["--deny", "everything"], "is no collection"),
        (["--latency", "soon"], "--latency"),
        (["--users", "many"], "--users"),
        (["--oauth-client-id", "a"], "--oauth-client-secret"),
        (["--listen", "203.0.113.1:1"], "--listen"),
    ] {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_baton-sim"))
            .arg("jumpcloud")
            .args(flags)
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && text.contains(words),
            "{flags:?}: {text}"
        );
    }
}

#[tokio::test]
async fn a_simulator_without_an_organisation_does_not_start() {
    let mut config = Config::default();
    config.organizations.clear();
    let error = JumpCloudSim::start(config).await.unwrap_err().to_string();
    assert!(error.contains("organizations"), "{error}");
}

#[tokio::test]
async fn members_that_were_deleted_may_still_be_named() {
    let asker = Asker::of(Shape::default()).await;
    let (group, member) = asker
        .sim
        .truth()
        .groups
        .iter()
        .find_map(|(id, group)| Some((*id, *group.members.first()?)))
        .unwrap();
    asker
        .sim
        .edit(|tenant| tenant.remove_user_leaving_edges(member).unwrap())
        .unwrap();
    let truth = asker.sim.truth();
    assert_eq!(truth.groups[&group].dangling, BTreeSet::from([member]));
    assert_eq!(
        asker.status(&format!("/api/systemusers/{member}")).await,
        404
    );
    compare(&asker, &truth).await;
}
