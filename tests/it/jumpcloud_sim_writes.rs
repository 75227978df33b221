//! The writes of the JumpCloud simulator, asked with a plain HTTP client.

use std::{collections::BTreeSet, time::Duration};

use baton_jumpcloud::sim::jumpcloud::{
    ADMINISTRATOR_KEY, COMMAND_RUNNER_KEY, Collection, Config, FULL_KEY, HELP_DESK_KEY, Id,
    JumpCloudSim, Key, KeyRole, MembershipMethod, NewUser, PasswordPolicy, READ_ONLY_KEY, Shape,
    Status,
};
use reqwest::Method;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

const GOOD_PASSWORD: &str = "SECRETSEED-kx9-Good";

struct Asker {
    http: reqwest::Client,
    sim: JumpCloudSim,
}

impl Asker {
    async fn start(config: Config) -> Self {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(20))
            .no_proxy()
            .build()
            .unwrap();
        let sim = JumpCloudSim::start(config).await.unwrap();
        Self { http, sim }
    }

    async fn new() -> Self {
        Self::start(Config::default()).await
    }

    async fn try_ask(
        &self,
        key: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value), reqwest::Error> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.sim.base_url))
            .header("x-api-key", key);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let body = answer.bytes().await?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.try_ask(FULL_KEY, method, path, Some(&body))
            .await
            .unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.ask(Method::POST, path, body).await
    }

    async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        self.ask(Method::PUT, path, body).await
    }

    async fn delete(&self, path: &str) -> (u16, Value) {
        self.try_ask(FULL_KEY, Method::DELETE, path, None)
            .await
            .unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self
            .try_ask(FULL_KEY, Method::GET, path, None)
            .await
            .unwrap();
        assert_eq!(status, 200, "{path}");
        body
    }

    async fn total(&self, path: &str) -> usize {
        let body = self.get(path).await;
        let rows = body.get("results").unwrap_or(&body);
        rows.as_array().unwrap().len()
    }

    async fn create(&self, body: Value) -> Id {
        let (status, user) = self.post("/api/systemusers", body).await;
        assert_eq!(status, 200, "{user}");
        id(&user)
    }

    fn users(&self) -> Vec<Id> {
        self.sim.inspect(|tenant| tenant.user_ids()).unwrap()
    }

    fn groups(&self) -> Vec<Id> {
        self.sim.inspect(|tenant| tenant.group_ids()).unwrap()
    }

    fn apps(&self) -> Vec<Id> {
        self.sim.inspect(|tenant| tenant.app_ids()).unwrap()
    }

    fn admins(&self) -> Vec<Id> {
        self.sim.inspect(|tenant| tenant.admin_ids()).unwrap()
    }

    /// An active user without groups, applications, restrictions and administrator.
    fn free_user(&self) -> Id {
        let user = self
            .sim
            .edit(|tenant| {
                let id = tenant.add_user(NewUser::default()).unwrap();
                for field in ["restrictedFields", "delegatedAuthority"] {
                    tenant.set_field(id, field, None).unwrap();
                }
                id
            })
            .unwrap();
        assert_eq!(self.sim.user(user).unwrap()["state"], "ACTIVATED");
        user
    }

    fn static_group(&self) -> Id {
        self.sim
            .edit(|tenant| tenant.add_group("Static One", MembershipMethod::Static))
            .unwrap()
    }
}

fn id(row: &Value) -> Id {
    let text = row.get("_id").or_else(|| row.get("id"));
    text.and_then(Value::as_str).unwrap().parse().unwrap()
}

fn person(name: &str) -> Value {
    json!({"username": name, "email": format!("{name}@example.com")})
}

fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

// ---------------------------------------------------------------------------------------------- users

#[tokio::test]
async fn a_created_user_is_what_was_sent_and_nothing_else() {
    let asker = Asker::new().await;
    let before = asker.sim.users_count();
    let (status, user) = asker
        .post(
            "/api/systemusers",
            json!({
                "username": "dana.new", "email": "dana.new@example.com", "firstname": "Dana", "lastname": "New",
                "state": "ACTIVATED", "password": GOOD_PASSWORD, "department": "Sales",
                "employeeIdentifier": "E-new", "manager": asker.users()[0],
                "attributes": [{"name": "badge", "value": "B-90"}],
                "phoneNumbers": [{"type": "work", "number": "+31 30 555 0101"}],
                "sudo": true, "notAField": 7,
            }),
        )
        .await;
    assert_eq!(status, 200);
    let id = id(&user);
    assert_eq!(user["_id"], user["id"]);
    for (field, want) in [
        ("username", json!("dana.new")),
        ("email", json!("dana.new@example.com")),
        ("firstname", json!("Dana")),
        ("displayname", json!("")),
        ("jobTitle", json!("")),
        ("department", json!("Sales")),
        ("employeeIdentifier", json!("E-new")),
        ("state", json!("ACTIVATED")),
        ("activated", json!(true)),
        ("suspended", json!(false)),
        ("sudo", json!(true)),
        ("totp_enabled", json!(false)),
        ("attributes", json!([{"name": "badge", "value": "B-90"}])),
        ("ssh_keys", json!([])),
        ("restrictedFields", json!([])),
        ("manager", json!(asker.users()[0])),
    ] {
        assert_eq!(user[field], want, "{field}");
    }
    assert!(user.get("notAField").is_none() && user.get("password").is_none());
    assert_eq!(user["phoneNumbers"][0]["id"].as_str().unwrap().len(), 24);
    assert!(!user.to_string().contains("SECRETSEED"));
    assert_eq!(
        asker.get(&format!("/api/systemusers/{id}")).await,
        user,
        "the answer is what a read shows"
    );
    assert_eq!(asker.sim.user(id), Some(user.clone()));
    assert_eq!(asker.sim.user_by_username("DANA.new"), Some(user));
    assert_eq!(asker.sim.users_count(), before + 1);
    assert_eq!(
        asker.sim.password_of(id).unwrap().expose_secret(),
        GOOD_PASSWORD
    );
    let truth = asker.sim.truth();
    assert_eq!(truth.users[&id].status, "active");
    assert_eq!(truth.users[&id].manager, Some(asker.users()[0]));
    let writes = asker.sim.writes();
    assert_eq!(
        (writes.total(), writes.count("POST /api/systemusers")),
        (1, 1)
    );
    assert_eq!(writes.recent[0].ids, [id]);
    assert_eq!(writes.recent[0].mails, ["welcome"]);
    assert!(writes.recent[0].changed.contains(&"password".to_owned()));
    assert!(!format!("{writes:?}").contains("SECRETSEED"));
}

#[tokio::test]
async fn the_state_of_a_new_user_follows_from_what_was_said() {
    let asker = Asker::new().await;
    for (number, (staged, state, password, status, activated, mails)) in [
        (true, None, false, "STAGED", false, &[][..]),
        (false, None, false, "ACTIVATED", false, &["activation"][..]),
        (false, None, true, "ACTIVATED", true, &["welcome"]),
        (false, Some("STAGED"), true, "STAGED", false, &[]),
        (
            true,
            Some("ACTIVATED"),
            true,
            "ACTIVATED",
            true,
            &["welcome"],
        ),
        (true, Some("SUSPENDED"), false, "SUSPENDED", false, &[]),
    ]
    .into_iter()
    .enumerate()
    {
        asker.sim.edit(|tenant| tenant.stage_new_users(staged));
        let organization = asker.sim.organization_id().unwrap();
        let settings = asker
            .get(&format!("/api/organizations/{organization}"))
            .await["settings"]["newSystemUserStateDefaults"]["manualEntry"]
            .clone();
        assert_eq!(settings, if staged { "STAGED" } else { "ACTIVATED" });
        let mut body = person(&format!("new.{number}"));
        if let Some(state) = state {
            body["state"] = json!(state);
        }
        if password {
            body["password"] = json!(GOOD_PASSWORD);
        }
        let (_, user) = asker.post("/api/systemusers", body).await;
        assert_eq!(
            (&user["state"], &user["activated"]),
            (&json!(status), &json!(activated))
        );
        assert_eq!(asker.sim.writes().recent.back().unwrap().mails, mails);
    }
}

#[tokio::test]
async fn what_no_user_can_be_created_with_is_refused() {
    let asker = Asker::new().await;
    let long = "n".repeat(1025);
    let base = || person("dana.new");
    let before = asker.sim.users_count();
    for (body, words) in [
        (json!({}), "username is required"),
        (json!({"username": "dana.new"}), "email is required"),
        (json!({"email": "dana@example.com"}), "username is required"),
        (with(base(), "username", json!("")), "username is required"),
        (with(base(), "username", json!("a b")), "username"),
        (with(base(), "email", json!("nowhere")), "email"),
        (
            with(base(), "firstname", json!(7)),
            "firstname must be a text",
        ),
        (
            with(base(), "department", json!(long)),
            "department has more",
        ),
        (with(base(), "employeeIdentifier", json!(long)), "256"),
        (with(base(), "sudo", json!("yes")), "sudo must be"),
        (with(base(), "unix_uid", json!("x")), "unix_uid"),
        (
            with(base(), "attributes", json!({"a": 1})),
            "attributes must be a list",
        ),
        (
            with(base(), "attributes", json!([{"name": "a b", "value": ""}])),
            "alphanumeric",
        ),
        (
            with(base(), "attributes", json!([{"name": "a"}])),
            "need a value",
        ),
        (
            with(base(), "manager", json!("64ab0000000000000000dead")),
            "manager",
        ),
        (with(base(), "state", json!("GONE")), "state must be"),
        (
            json!({"username": "d", "email": "d@example.com", "state": "ACTIVATED", "suspended": true}),
            "contradict",
        ),
        (
            with(base(), "password", json!("short")),
            "password is too short",
        ),
        (with(base(), "recoveryEmail", json!("x")), "recoveryEmail"),
    ] {
        let (status, answer) = asker.post("/api/systemusers", body).await;
        let message = answer["message"].as_str().unwrap();
        assert_eq!(status, 400, "{message}");
        assert!(message.contains(words), "{words}: {message}");
    }
    let (status, _) = asker.post("/api/systemusers", json!([])).await;
    assert_eq!(status, 400);
    assert_eq!(asker.sim.users_count(), before);
    assert_eq!(asker.sim.writes().total(), 0);
}

#[tokio::test]
async fn nobody_is_there_twice_whatever_the_case() {
    let asker = Asker::new().await;
    let there = asker
        .create(with(person("dana.new"), "employeeIdentifier", json!("E-x")))
        .await;
    for (status, as_400) in [(409, false), (400, true)] {
        asker
            .sim
            .change_behaviour(|behaviour| behaviour.duplicates_as_400 = as_400);
        for (field, body) in [
            (
                "username",
                json!({"username": "DANA.New", "email": "other@example.com"}),
            ),
            (
                "email",
                json!({"username": "other", "email": "Dana.New@Example.com"}),
            ),
            (
                "employeeIdentifier",
                json!({"username": "other", "email": "other@example.com", "employeeIdentifier": "e-X"}),
            ),
        ] {
            let (got, answer) = asker.post("/api/systemusers", body).await;
            let want = json!({"message": format!("{field} already exists")});
            assert_eq!((got, answer), (status, want));
        }
        let other = asker.free_user();
        let (got, _) = asker
            .put(
                &format!("/api/systemusers/{other}"),
                json!({"email": "DANA.NEW@example.com"}),
            )
            .await;
        assert_eq!(got, status);
    }
    let (own, _) = asker
        .put(
            &format!("/api/systemusers/{there}"),
            json!({"email": "DANA.NEW@example.com", "username": "dana.new"}),
        )
        .await;
    assert_eq!(own, 200, "one's own values are no duplicates");
    let generated = asker.sim.user(asker.users()[20]).unwrap();
    let (got, _) = asker
        .post(
            "/api/systemusers",
            json!({"username": "x", "email": generated["email"].as_str().unwrap().to_uppercase()}),
        )
        .await;
    assert_eq!(got, 400, "generated users count too");
}

#[tokio::test]
async fn an_update_changes_what_it_names_and_replaces_arrays() {
    let asker = Asker::new().await;
    let user = asker
        .create(with(
            with(
                person("dana.new"),
                "attributes",
                json!([{"name": "a", "value": "1"}, {"name": "b", "value": "2"}]),
            ),
            "department",
            json!("Sales"),
        ))
        .await;
    let path = format!("/api/systemusers/{user}");
    let manager = asker.users()[3];
    let before = asker.get(&path).await;
    let change = json!({
        "attributes": [{"name": "c", "value": "3"}], "jobTitle": "Lead", "manager": manager, "company": null,
    });
    let (status, after) = asker.put(&path, change).await;
    assert_eq!(status, 200);
    let mut want = before.clone();
    want["attributes"] = json!([{"name": "c", "value": "3"}]);
    want["jobTitle"] = json!("Lead");
    want["manager"] = json!(manager);
    assert_eq!(after, want);
    assert_eq!(asker.get(&path).await, want);
    let (status, after) = asker.put(&path, json!({"manager": ""})).await;
    assert_eq!(status, 200);
    assert!(after["manager"].as_str().unwrap_or_default().is_empty());
    assert_eq!(asker.sim.truth().users[&user].manager, None);
    for (body, words) in [
        (json!({"email": ""}), "email is required"),
        (json!({"username": null}), "username is required"),
        (json!({"state": "STAGED"}), "state must be"),
        (json!({"manager": user}), "manager"),
        (
            json!({"ssh_keys": [{"name": "x"}]}),
            "public_key is required",
        ),
        (json!({"password": 7}), "password must be a text"),
    ] {
        let (status, answer) = asker.put(&path, body).await;
        let message = answer["message"].as_str().unwrap().to_owned();
        assert_eq!(status, 400, "{message}");
        assert!(message.contains(words), "{words}: {message}");
    }
    let (status, _) = asker
        .put("/api/systemusers/64ab0000000000000000dead", json!({}))
        .await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn state_and_suspended_move_together() {
    let asker = Asker::new().await;
    let user = asker.free_user();
    let group = asker.static_group();
    let app = asker.apps()[0];
    asker.sim.edit(|tenant| {
        tenant.set_members(group, &[user]).unwrap();
        tenant.set_app_bindings(app, &[], &[user]).unwrap();
    });
    let path = format!("/api/systemusers/{user}");
    for (body, want, state, suspended) in [
        (json!({"state": "SUSPENDED"}), 200, "SUSPENDED", true),
        (json!({"state": "SUSPENDED"}), 200, "SUSPENDED", true),
        (json!({"state": "ACTIVATED"}), 200, "ACTIVATED", false),
        (json!({"suspended": true}), 200, "SUSPENDED", true),
        (json!({"suspended": false}), 200, "ACTIVATED", false),
        (
            json!({"state": "SUSPENDED", "suspended": false}),
            400,
            "ACTIVATED",
            false,
        ),
        (
            json!({"state": "ACTIVATED", "suspended": true}),
            400,
            "ACTIVATED",
            false,
        ),
        (
            json!({"state": "SUSPENDED", "suspended": true}),
            200,
            "SUSPENDED",
            true,
        ),
        (
            json!({"state": "ACTIVATED", "suspended": false}),
            200,
            "ACTIVATED",
            false,
        ),
    ] {
        let (status, _) = asker.put(&path, body.clone()).await;
        let now = asker.get(&path).await;
        assert_eq!(status, want, "{body}");
        assert_eq!(
            (&now["state"], &now["suspended"]),
            (&json!(state), &json!(suspended)),
            "{body}"
        );
        assert_eq!(now["activated"], true, "{body}");
    }
    assert!(asker.sim.is_member(group, user));
    assert!(asker.sim.has_association(app, "user", user));

    let without = asker
        .create(with(person("no.password"), "state", json!("ACTIVATED")))
        .await;
    let path = format!("/api/systemusers/{without}");
    for state in ["SUSPENDED", "ACTIVATED"] {
        let (_, user) = asker.put(&path, json!({"state": state})).await;
        assert_eq!(user["activated"], false, "a password was never set");
    }
    asker.put(&path, json!({"state": "SUSPENDED"})).await;
    asker.put(&path, json!({"password": GOOD_PASSWORD})).await;
    let (_, user) = asker.put(&path, json!({"state": "ACTIVATED"})).await;
    assert_eq!(user["activated"], true);
}

#[tokio::test]
async fn a_username_stays_once_the_user_is_bound() {
    let asker = Asker::new().await;
    let user = asker.free_user();
    let path = format!("/api/systemusers/{user}");
    let rename = |name: &str| json!({"username": name});
    assert_eq!(asker.put(&path, rename("first.name")).await.0, 200);
    let group = asker.static_group();
    asker.sim.edit(|tenant| tenant.set_members(group, &[user]));
    let (status, answer) = asker.put(&path, rename("second.name")).await;
    assert_eq!(status, 400);
    assert!(answer["message"].as_str().unwrap().contains("bound"));
    assert_eq!(asker.put(&path, rename("First.Name")).await.0, 200);
    asker.sim.edit(|tenant| tenant.set_members(group, &[]));
    assert_eq!(asker.put(&path, rename("second.name")).await.0, 200);
    let app = asker.apps()[0];
    asker
        .sim
        .edit(|tenant| tenant.set_app_bindings(app, &[], &[user]));
    assert_eq!(asker.put(&path, rename("third.name")).await.0, 400);
    asker
        .sim
        .edit(|tenant| tenant.set_app_bindings(app, &[], &[]));
    asker
        .sim
        .change_behaviour(|behaviour| behaviour.lock_usernames = true);
    assert_eq!(asker.put(&path, rename("third.name")).await.0, 400);
}

#[tokio::test]
async fn what_another_directory_masters_is_not_written() {
    let asker = Asker::new().await;
    let user = asker.free_user();
    asker.sim.edit(|tenant| {
        let restricted =
            json!([{"field": "department", "type": "scim", "id": "64aa0000000000000000005c"}]);
        tenant
            .set_field(user, "restrictedFields", Some(restricted))
            .unwrap();
    });
    let path = format!("/api/systemusers/{user}");
    let restricted = json!({"department": "Sales", "jobTitle": "Lead"});
    assert_eq!(asker.put(&path, restricted.clone()).await.0, 400);
    asker
        .sim
        .change_behaviour(|behaviour| behaviour.restricted_as_403 = true);
    assert_eq!(asker.put(&path, restricted).await.0, 403);
    assert_eq!(asker.put(&path, json!({"jobTitle": "Lead"})).await.0, 200);
    let password = json!({"password": GOOD_PASSWORD});
    assert_eq!(asker.put(&path, password.clone()).await.0, 200);
    asker.sim.edit(|tenant| {
        let authority = json!({"id": "64b4000000000000000000d1", "name": "ActiveDirectory"});
        tenant
            .set_field(user, "delegatedAuthority", Some(authority))
            .unwrap();
    });
    assert_eq!(asker.put(&path, password).await.0, 403);
}

#[tokio::test]
async fn a_password_keeps_to_the_policy_of_the_organisation() {
    let asker = Asker::new().await;
    let user = asker.free_user();
    let path = format!("/api/systemusers/{user}");
    asker.put(&path, json!({"username": "Kit.Rule"})).await;
    for (password, words) in [
        ("SECRETSEED-1a", "too short"),
        ("SECRETSEED-99-UPPER", "lower-case"),
        ("secretseed-99-lower", "upper-case"),
        ("SECRETSEED-nodigits", "digit"),
        ("SECRETSEED99nosymbol", "symbol"),
        ("SECRETSEED-9-kit.rule", "username"),
        ("SECRETSEED-9-aaa-x", "repetitive"),
        ("SECRETSEED-9-abC-x", "sequential"),
        ("SECRETSEED-987-x", "sequential"),
    ] {
        let (status, answer) = asker.put(&path, json!({"password": password})).await;
        let message = answer["message"].as_str().unwrap();
        assert_eq!(status, 400, "{message}");
        assert!(message.contains(words), "{words}: {message}");
        assert!(!message.contains("SECRETSEED"));
    }
    assert!(asker.sim.password_of(user).is_none());
    assert_eq!(
        asker.put(&path, json!({"password": GOOD_PASSWORD})).await.0,
        200
    );
    assert_eq!(
        asker.sim.password_of(user).unwrap().expose_secret(),
        GOOD_PASSWORD
    );

    asker.sim.edit(|tenant| {
        tenant.set_password_policy(PasswordPolicy {
            min_length: 4,
            needs_symbolic: false,
            needs_numeric: false,
            needs_uppercase: false,
            allow_username_substring: true,
            disallow_sequential_or_repetitive_chars: false,
            ..PasswordPolicy::default()
        });
    });
    let organization = asker.sim.organization_id().unwrap();
    let settings = asker
        .get(&format!("/api/organizations/{organization}"))
        .await;
    let policy = &settings["settings"]["passwordPolicy"];
    assert_eq!(
        (
            &policy["minLength"],
            &policy["needsSymbolic"],
            &policy["needsLowercase"]
        ),
        (&json!(4), &json!(false), &json!(true))
    );
    let weak = json!({"password": "SECRETSEEDkit.ruleaaa"});
    assert_eq!(asker.put(&path, weak).await.0, 200);
}

#[tokio::test]
async fn a_staged_user_is_activated_once_with_the_mail_that_was_chosen() {
    let asker = Asker::new().await;
    for (number, (password, body, mails)) in [
        (false, json!({}), &["activation"][..]),
        (true, json!({}), &["welcome"][..]),
        (true, json!({"email": true}), &["welcome"]),
        (true, json!({"email": "dana@example.org"}), &["welcome"]),
        (true, json!({"email": false}), &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut new = with(
            person(&format!("staged.{number}")),
            "state",
            json!("STAGED"),
        );
        if password {
            new["password"] = json!(GOOD_PASSWORD);
        }
        let user = asker.create(new).await;
        assert_eq!(asker.sim.writes().recent.back().unwrap().mails.len(), 0);
        let path = format!("/api/systemusers/{user}/state/activate");
        assert_eq!(asker.post(&path, json!({"email": 7})).await.0, 400);
        assert_eq!(asker.post(&path, body.clone()).await.0, 200, "{body}");
        assert_eq!(
            asker.sim.writes().recent.back().unwrap().mails,
            mails,
            "{body}"
        );
        let now = asker.sim.user(user).unwrap();
        assert_eq!(
            (&now["state"], &now["activated"]),
            (&json!("ACTIVATED"), &json!(password))
        );
        assert_eq!(
            asker.post(&path, body).await.0,
            400,
            "it is not staged any more"
        );
    }
}

#[tokio::test]
async fn accounts_are_unlocked_expired_and_freed_of_their_second_factor() {
    let asker = Asker::new().await;
    let user = asker.free_user();
    asker.sim.edit(|tenant| {
        tenant.set_status(user, Status::Locked).unwrap();
        tenant
            .set_field(user, "totp_enabled", Some(json!(true)))
            .unwrap();
    });
    let path = format!("/api/systemusers/{user}");
    for (action, body, want, changes) in [
        (
            "unlock",
            json!({}),
            200,
            json!({"account_locked": false, "account_locked_date": null}),
        ),
        ("unlock", json!({}), 200, json!({"account_locked": false})),
        ("expire", json!({}), 200, json!({"password_expired": true})),
        (
            "resetmfa",
            json!({"exclusion": true, "exclusionDays": 3}),
            200,
            json!({
                "totp_enabled": false, "mfa": {"configured": false, "exclusion": true, "exclusionDays": 3},
            }),
        ),
        ("resetmfa", json!({"exclusionDays": 0}), 400, json!({})),
        (
            "resetmfa",
            json!({"exclusionUntil": "soon"}),
            400,
            json!({}),
        ),
        ("resetmfa", json!({"exclusion": "yes"}), 400, json!({})),
        (
            "resetmfa",
            json!({}),
            200,
            json!({"mfa": {"configured": false, "exclusion": false}}),
        ),
    ] {
        let (status, _) = asker.post(&format!("{path}/{action}"), body.clone()).await;
        assert_eq!(status, want, "{action} {body}");
        let now = asker.get(&path).await;
        for (field, value) in changes.as_object().unwrap() {
            assert_eq!(now[field], *value, "{action} {body}: {field}");
        }
    }
    let (_, now) = asker.put(&path, json!({"password": GOOD_PASSWORD})).await;
    assert_eq!(now["password_expired"], false);
    let (_, now) = asker.put(&path, json!({"account_locked": true})).await;
    assert_eq!(now["account_locked"], true);
    let (_, now) = asker.put(&path, json!({"account_locked": false})).await;
    assert_eq!(now["account_locked"], false);
    for action in ["unlock", "expire", "resetmfa", "state/activate"] {
        let unknown = format!("/api/systemusers/64ab0000000000000000dead/{action}");
        assert_eq!(asker.post(&unknown, json!({})).await.0, 404);
    }
}

#[tokio::test]
async fn a_deleted_user_leaves_nothing_behind() {
    let asker = Asker::new().await;
    let truth = asker.sim.truth();
    let (user, admin) = truth
        .users
        .iter()
        .find_map(|(id, user)| Some((*id, user.admin?)))
        .unwrap();
    let (group, app) = (asker.static_group(), asker.apps()[0]);
    asker.sim.edit(|tenant| {
        tenant.set_members(group, &[user]).unwrap();
        tenant.set_app_bindings(app, &[], &[user]).unwrap();
    });
    let schedule =
        json!({"user_ids": [user], "state": "SUSPENDED", "start_date": "2026-12-31T17:00:00Z"});
    asker.post("/api/v2/bulk/userstates", schedule).await;
    let before = asker.get(&format!("/api/systemusers/{user}")).await;
    let (status, answer) = asker.delete(&format!("/api/systemusers/{user}")).await;
    assert_eq!((status, answer), (200, before));
    assert_eq!(
        asker.delete(&format!("/api/systemusers/{user}")).await.0,
        404
    );
    assert!(asker.sim.user(user).is_none() && asker.sim.administrator(admin).is_none());
    assert!(!asker.sim.is_member(group, user));
    assert!(!asker.sim.has_association(app, "user", user));
    assert_eq!(asker.total("/api/v2/bulk/userstates").await, 0);
    let truth = asker.sim.truth();
    assert!(truth.groups[&group].members.is_empty() && truth.groups[&group].dangling.is_empty());
    assert!(truth.apps[&app].users.is_empty());
}

#[tokio::test]
async fn the_people_of_a_deleted_manager_get_what_was_said() {
    let asker = Asker::new().await;
    for (query, refuse, want) in [
        ("", true, 400),
        ("?cascade_manager=nobody", false, 400),
        ("", false, 200),
        ("?cascade_manager=null", true, 200),
        ("?cascade_manager={heir}", true, 200),
    ] {
        let [manager, heir, worker] = [(); 3].map(|()| asker.free_user());
        asker
            .sim
            .edit(|tenant| tenant.set_manager(worker, Some(manager)).unwrap());
        asker
            .sim
            .change_behaviour(|behaviour| behaviour.refuse_to_delete_managers = refuse);
        let query = query.replace("{heir}", &heir.to_string());
        let (status, _) = asker
            .delete(&format!("/api/systemusers/{manager}{query}"))
            .await;
        assert_eq!(status, want, "{query}");
        let now = asker.sim.truth().users[&worker].manager;
        let expected = match query.as_str() {
            "?cascade_manager=null" => None,
            text if text.contains(&heir.to_string()) => Some(heir),
            _ => Some(manager),
        };
        assert_eq!(now, expected, "{query}");
    }
}

#[tokio::test]
async fn ssh_keys_are_added_listed_and_removed() {
    let asker = Asker::new().await;
    let user = asker.create(person("dana.new")).await;
    let path = format!("/api/systemusers/{user}/sshkeys");
    assert_eq!(asker.get(&path).await, json!([]));
    assert_eq!(asker.post(&path, json!({"name": "laptop"})).await.0, 400);
    let key = json!({"name": "laptop", "public_key": "ssh-ed25519 AAAAfixture"});
    let (status, first) = asker.post(&path, key.clone()).await;
    assert_eq!(status, 200);
    let (_, second) = asker.post(&path, key).await;
    assert_ne!(first["_id"], second["_id"]);
    assert_eq!(asker.get(&path).await, json!([first, second]));
    assert_eq!(
        asker.sim.user(user).unwrap()["ssh_keys"],
        json!([first, second])
    );
    let one = format!("{path}/{}", first["_id"].as_str().unwrap());
    assert_eq!(asker.delete(&one).await.0, 200);
    assert_eq!(asker.delete(&one).await.0, 404);
    assert_eq!(asker.get(&path).await, json!([second]));
}

#[tokio::test]
async fn users_are_found_by_filter_and_by_parts_of_texts() {
    let asker = Asker::new().await;
    for name in ["dana.new", "dana.other", "quinn.zed"] {
        asker
            .create(with(person(name), "department", json!("Zoo")))
            .await;
    }
    for (body, want) in [
        (
            json!({"filter": {"and": [{"email": "dana.new@example.com"}]}}),
            1,
        ),
        (
            json!({"filter": {"and": [{"email": "DANA.new@example.com"}]}}),
            0,
        ),
        (
            json!({"filter": {"or": [{"username": "dana.new"}, {"username": "quinn.zed"}]}}),
            2,
        ),
        (json!({"filter": {"department": "Zoo"}}), 3),
        (
            json!({"filter": {"department": {"$eq": "Zoo"}, "username": {"$ne": "dana.new"}}}),
            2,
        ),
        (
            json!({"filter": {"username": {"$in": ["dana.new", "quinn.zed", "x"]}}}),
            2,
        ),
        (json!({"filter": {"and": ["department:$eq:Zoo"]}}), 3),
        (
            json!({"searchFilter": {"searchTerm": "DANA.", "fields": ["username"]}, "filter": {"department": "Zoo"}}),
            2,
        ),
        (
            json!({"searchFilter": {"searchTerm": ["quinn", "other@"], "fields": ["username", "email"]}, "filter": {"department": "Zoo"}}),
            2,
        ),
        (json!({"limit": 100}), 100),
        (json!({}), 10),
    ] {
        let (status, answer) = asker.post("/api/search/systemusers", body.clone()).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["results"].as_array().unwrap().len(), want, "{body}");
        assert!(answer["totalCount"].is_u64());
    }
    let body = json!({"filter": {"department": "Zoo"}, "sort": "-username", "skip": 1, "limit": 1, "fields": "username email"});
    let (_, answer) = asker.post("/api/search/systemusers", body).await;
    assert_eq!(answer["totalCount"], 3);
    assert_eq!(answer["results"][0]["username"], "dana.other");
    assert!(answer["results"][0].get("department").is_none());
    for body in [
        json!([]),
        json!({"filter": 7}),
        json!({"filter": {"and": {}}}),
        json!({"filter": {"a": {"$near": 1}}}),
        json!({"searchFilter": {"searchTerm": 7}}),
        json!({"limit": 101}),
        json!({"fields": ["username"]}),
    ] {
        let (status, _) = asker.post("/api/search/systemusers", body.clone()).await;
        assert_eq!(status, 400, "{body}");
    }
    assert_eq!(asker.sim.writes().count("POST /api/search/systemusers"), 0);
    for filter in ["username:$eq:dana.new", "email:$eq:dana.new@example.com"] {
        let found = asker
            .total(&format!("/api/systemusers?filter={filter}"))
            .await;
        assert_eq!(found, 1);
    }
}

#[tokio::test]
async fn scheduled_changes_wait_for_their_time() {
    let asker = Asker::new().await;
    let users = [asker.free_user(), asker.free_user()];
    let path = "/api/v2/bulk/userstates";
    let job =
        |state: &str, date: &str| json!({"user_ids": users, "state": state, "start_date": date});
    let (status, first) = asker
        .post(path, job("SUSPENDED", "2026-12-31T17:00:00Z"))
        .await;
    assert_eq!(status, 201);
    assert_eq!(
        (
            &first[0]["systemUserId"],
            &first[0]["state"],
            &first[0]["scheduledDate"]
        ),
        (
            &json!(users[0]),
            &json!("SUSPENDED"),
            &json!("2026-12-31T17:00:00Z")
        )
    );
    let (status, second) = asker
        .post(path, job("ACTIVATED", "2027-01-31T17:00:00"))
        .await;
    assert_eq!(status, 201);
    assert_eq!(asker.total(path).await, 4);
    assert_eq!(asker.total(&format!("{path}?userid={}", users[1])).await, 2);
    assert_eq!(asker.total(&format!("{path}?limit=3&skip=2")).await, 2);

    assert_eq!(
        asker.sim.run_due("2026-12-31T16:59:59Z".parse().unwrap()),
        0
    );
    assert_eq!(
        asker.sim.run_due("2026-12-31T17:00:00Z".parse().unwrap()),
        2
    );
    assert_eq!(asker.sim.truth().users[&users[0]].status, "suspended");
    let cancel = format!("{path}/{}", second[0]["scheduledJobId"].as_str().unwrap());
    assert_eq!(asker.delete(&cancel).await.0, 204);
    assert_eq!(asker.delete(&cancel).await.0, 404);
    let due = asker
        .http
        .post(format!("{}/_sim/run-due", asker.sim.base_url))
        .body("2027-02-01T00:00:00Z")
        .send()
        .await
        .unwrap();
    assert_eq!(due.json::<Value>().await.unwrap(), json!({"done": 1}));
    let truth = asker.sim.truth();
    let states = users.map(|user| truth.users[&user].status.as_str());
    assert_eq!(states, ["suspended", "active"]);

    let date = "2027-01-31T17:00:00Z";
    for body in [
        job("STAGED", date),
        job("SUSPENDED", "tomorrow"),
        json!({"state": "SUSPENDED", "start_date": date}),
        json!({"user_ids": [], "state": "SUSPENDED", "start_date": date}),
        json!({"user_ids": ["64ab0000000000000000dead"], "state": "SUSPENDED", "start_date": date}),
        with(
            job("SUSPENDED", date),
            "send_activation_emails",
            json!(true),
        ),
        with(
            job("ACTIVATED", date),
            "activation_email_override",
            json!("a@example.com"),
        ),
    ] {
        let (status, answer) = asker.post(path, body).await;
        assert_eq!((status, &answer["code"]), (400, &json!(400)));
    }
}

// ---------------------------------------------------------------------------------------------- groups and edges

#[tokio::test]
async fn groups_are_created_replaced_and_deleted() {
    let asker = Asker::new().await;
    let path = "/api/v2/usergroups";
    let (status, group) = asker
        .post(
            path,
            json!({
                "name": "Builders", "description": "They build", "email": "b@example.com",
                "attributes": {"sambaEnabled": true}, "membershipMethod": "STATIC",
            }),
        )
        .await;
    assert_eq!(status, 201);
    let made = id(&group);
    for (field, want) in [
        ("name", json!("Builders")),
        ("type", json!("user_group")),
        ("description", json!("They build")),
        ("attributes", json!({"sambaEnabled": true})),
        ("membershipMethod", json!("STATIC")),
    ] {
        assert_eq!(group[field], want);
    }
    assert_eq!(asker.sim.group(made), Some(group));
    let (status, twice) = asker.post(path, json!({"name": "bUILDERS"})).await;
    assert_eq!(
        (status, twice),
        (
            409,
            json!({"code": 409, "message": "Already Exists", "status": "Conflict"})
        )
    );
    for body in [
        json!({}),
        json!({"name": ""}),
        json!({"name": "x", "membershipMethod": "MAGIC"}),
        json!({"name": "x", "attributes": []}),
        json!({"name": "x", "memberQuery": {"queryType": "Guess"}}),
        json!({"name": "x", "memberQueryExemptions": [7]}),
        json!({"name": 7}),
    ] {
        assert_eq!(asker.post(path, body.clone()).await.0, 400, "{body}");
    }
    let one = format!("{path}/{made}");
    let user = asker.free_user();
    asker.sim.edit(|tenant| tenant.set_members(made, &[user]));
    let (status, group) = asker.put(&one, json!({"name": "Builders Two"})).await;
    assert_eq!(status, 200);
    assert_eq!(
        (
            &group["name"],
            &group["description"],
            &group["attributes"],
            &group["membershipMethod"]
        ),
        (
            &json!("Builders Two"),
            &json!(""),
            &Value::Null,
            &json!("NOTSET")
        ),
        "what is not sent is reset"
    );
    assert!(asker.sim.is_member(made, user), "members are no field");
    let other = asker.sim.group(asker.groups()[0]).unwrap()["name"].clone();
    assert_eq!(asker.put(&one, json!({"name": other})).await.0, 409);
    assert_eq!(asker.put(&one, json!({"description": "x"})).await.0, 400);
    let app = asker.apps()[0];
    asker
        .sim
        .edit(|tenant| tenant.set_app_bindings(app, &[made], &[]));
    let (status, gone) = asker.delete(&one).await;
    assert_eq!((status, &gone["name"]), (200, &json!("Builders Two")));
    assert!(!asker.sim.has_association(app, "user_group", made));
    assert!(asker.sim.group(made).is_none());
    assert_eq!(asker.delete(&one).await.0, 404);
    assert_eq!(asker.put(&one, json!({"name": "x"})).await.0, 404);
    asker
        .sim
        .change_behaviour(|behaviour| behaviour.silent_group_deletion = true);
    let (_, group) = asker.post(path, json!({"name": "Short"})).await;
    let (status, body) = asker.delete(&format!("{path}/{}", id(&group))).await;
    assert_eq!((status, body), (204, Value::Null));
}

/// Adding, adding again, updating, removing and removing again, with what each is answered.
async fn edge_life(asker: &Asker, path: &str, kind: &str, to: Id, list: &str) {
    let there = || async { asker.total(list).await };
    let before = there().await;
    let change = |op: &str| json!({"op": op, "type": kind, "id": to});
    let with_attributes =
        |op: &str, value: u32| with(change(op), "attributes", json!({"level": value}));
    let shown = || async {
        let rows = asker.get(list).await;
        let row = rows.as_array().unwrap().iter();
        let mut row = row.filter(|row| row["to"]["id"] == json!(to));
        row.next().map(|row| row["attributes"].clone())
    };
    for (body, want, rows, attributes) in [
        (change("remove"), 404, 0, None),
        (with_attributes("update", 1), 404, 0, None),
        (with_attributes("add", 1), 204, 1, Some(json!({"level": 1}))),
        (change("add"), 409, 1, Some(json!({"level": 1}))),
        (
            with_attributes("update", 2),
            204,
            1,
            Some(json!({"level": 2})),
        ),
        (change("update"), 204, 1, Some(Value::Null)),
        (change("remove"), 204, 0, None),
        (change("remove"), 404, 0, None),
        (change("add"), 204, 1, Some(Value::Null)),
        (change("remove"), 204, 0, None),
    ] {
        let (status, answer) = asker.post(path, body.clone()).await;
        assert_eq!(status, want, "{path} {body}");
        match status {
            404 => assert_eq!(
                answer,
                json!({"code": 404, "message": "Not Found", "status": "Not Found"})
            ),
            409 => assert_eq!(
                answer,
                json!({"code": 409, "message": "Already Exists", "status": "Conflict"})
            ),
            _ => assert_eq!(answer, Value::Null),
        }
        assert_eq!(there().await, before + rows, "{path} {body}");
        assert_eq!(shown().await, attributes, "{path} {body}");
    }
    for (body, want) in [
        (json!({}), 400),
        (with(change("add"), "op", json!("put")), 400),
        (with(change("add"), "type", json!("nothing")), 400),
        (json!({"op": "add", "type": kind}), 400),
        (with(change("add"), "attributes", json!(7)), 400),
        (
            with(change("add"), "id", json!("64ab0000000000000000dead")),
            404,
        ),
        (with(change("add"), "id", json!("no id")), 404),
    ] {
        assert_eq!(
            asker.post(path, body.clone()).await.0,
            want,
            "{path} {body}"
        );
    }
    let mut unknown: Vec<&str> = path.split('/').collect();
    unknown[4] = "64ab0000000000000000dead";
    assert_eq!(asker.post(&unknown.join("/"), change("add")).await.0, 404);
}

#[tokio::test]
async fn edges_are_made_changed_and_removed_from_both_ends() {
    let asker = Asker::new().await;
    let (user, group, app) = (asker.free_user(), asker.static_group(), asker.apps()[0]);
    let members = format!("/api/v2/usergroups/{group}/members");
    edge_life(
        &asker,
        &members,
        "user",
        user,
        &format!("{members}?limit=100"),
    )
    .await;
    for (path, kind, to, target) in [
        (
            format!("/api/v2/applications/{app}/associations"),
            "user",
            user,
            "user",
        ),
        (
            format!("/api/v2/applications/{app}/associations"),
            "user_group",
            group,
            "user_group",
        ),
        (
            format!("/api/v2/users/{user}/associations"),
            "application",
            app,
            "application",
        ),
        (
            format!("/api/v2/usergroups/{group}/associations"),
            "application",
            app,
            "application",
        ),
    ] {
        let list = format!("{path}?targets={target}&limit=100");
        edge_life(&asker, &path, kind, to, &list).await;
    }
    let (status, _) = asker
        .post(
            &format!("/api/v2/users/{user}/associations"),
            json!({"op": "add", "type": "system", "id": "64af00000000000000000001"}),
        )
        .await;
    assert_eq!(status, 404, "there are no devices");
    let admin = asker.admins()[0];
    let (status, _) = asker
        .post(&members, json!({"op": "add", "type": "user", "id": admin}))
        .await;
    assert_eq!(status, 404, "an administrator is no user");
}

#[tokio::test]
async fn a_bound_group_and_user_are_seen_from_everywhere() {
    let asker = Asker::new().await;
    let (user, group, app) = (asker.free_user(), asker.static_group(), asker.apps()[0]);
    let add = |kind: &str, id: Id| json!({"op": "add", "type": kind, "id": id});
    asker
        .post(
            &format!("/api/v2/usergroups/{group}/members"),
            add("user", user),
        )
        .await;
    asker
        .post(
            &format!("/api/v2/usergroups/{group}/associations"),
            add("application", app),
        )
        .await;
    asker
        .post(
            &format!("/api/v2/applications/{app}/associations"),
            add("user", user),
        )
        .await;
    assert!(asker.sim.is_member(group, user));
    assert!(asker.sim.has_association(app, "user_group", group));
    assert!(asker.sim.has_association(app, "user", user));
    assert!(!asker.sim.has_association(app, "system", user));
    let rows = asker
        .get(&format!("/api/v2/users/{user}/applications"))
        .await;
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!(rows[0]["id"], json!(app));
    let lengths: Vec<usize> = rows[0]["paths"]
        .as_array()
        .unwrap()
        .iter()
        .map(|path| path.as_array().unwrap().len())
        .collect();
    assert_eq!(lengths, [1, 2]);
    assert_eq!(rows[0]["paths"][1][0]["to"]["id"], json!(group));
    let member_of = asker.get(&format!("/api/v2/users/{user}/memberof")).await;
    assert_eq!(member_of[0]["id"], json!(group));
    let users = asker
        .get(&format!("/api/v2/applications/{app}/users?limit=100"))
        .await;
    let row = users
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["id"] == json!(user));
    assert_eq!(row.unwrap()["paths"].as_array().unwrap().len(), 2);
    let truth = asker.sim.truth();
    assert!(truth.apps[&app].effective.contains(&user));
    assert!(truth.groups[&group].members.contains(&user));
}

#[tokio::test]
async fn the_members_of_a_dynamic_group_are_not_changed_by_hand() {
    let asker = Asker::new().await;
    let user = asker.free_user();
    let dynamic = asker
        .sim
        .edit(|tenant| tenant.add_group("Dynamic", MembershipMethod::DynamicAutomated))
        .unwrap();
    let path = format!("/api/v2/usergroups/{dynamic}/members");
    let add = json!({"op": "add", "type": "user", "id": user});
    let (status, answer) = asker.post(&path, add.clone()).await;
    assert_eq!(status, 400);
    assert!(answer["message"].as_str().unwrap().contains("dynamic"));
    asker
        .sim
        .change_behaviour(|behaviour| behaviour.undo_dynamic_changes = true);
    assert_eq!(asker.post(&path, add.clone()).await.0, 204);
    assert!(!asker.sim.is_member(dynamic, user), "it was undone");
    assert_eq!(asker.sim.writes().total(), 0);
    asker.sim.edit(|tenant| {
        tenant
            .set_membership_method(dynamic, MembershipMethod::DynamicReviewRequired)
            .unwrap();
    });
    assert_eq!(asker.post(&path, add).await.0, 204);
    assert!(
        asker.sim.is_member(dynamic, user),
        "an administrator applies"
    );
}

#[tokio::test]
async fn the_rule_of_a_dynamic_group_is_applied_after_every_change() {
    let asker = Asker::new().await;
    let exempted = asker
        .create(with(person("exempt"), "department", json!("Zoo")))
        .await;
    let query = json!({
        "queryType": "FilterQuery", "filters": [r#"{"field":"department","operator":"eq","value":"Zoo"}"#],
    });
    let (status, group) = asker
        .post(
            "/api/v2/usergroups",
            json!({
                "name": "Zoo keepers", "membershipMethod": "DYNAMIC_AUTOMATED", "memberQuery": query,
                "memberQueryExemptions": [{"id": exempted, "type": "user"}],
            }),
        )
        .await;
    assert_eq!((status, &group["memberQuery"]), (201, &query));
    let group = id(&group);
    assert!(!asker.sim.is_member(group, exempted));
    let user = asker
        .create(with(person("keeper"), "department", json!("Zoo")))
        .await;
    let path = format!("/api/systemusers/{user}");
    assert!(asker.sim.is_member(group, user), "made so");
    asker.put(&path, json!({"department": "Sales"})).await;
    assert!(!asker.sim.is_member(group, user), "moved away");
    asker.put(&path, json!({"department": "Zoo"})).await;
    assert!(asker.sim.is_member(group, user), "came back");
    assert_eq!(
        asker
            .get(&format!("/api/v2/usergroups/{group}/members"))
            .await[0]["to"]["id"],
        json!(user)
    );
    let truth = asker.sim.truth();
    assert!(truth.groups[&group].dynamic);
    assert_eq!(truth.groups[&group].members, BTreeSet::from([user]));
    asker.delete(&path).await;
    assert!(asker.sim.truth().groups[&group].members.is_empty());

    let by_hand = asker.groups()[0];
    let found = asker
        .sim
        .edit(|tenant| {
            tenant
                .set_member_rule(by_hand, "username", "exempt")
                .unwrap();
        })
        .map(|()| asker.sim.truth().groups[&by_hand].members.clone());
    assert_eq!(found, Some(BTreeSet::from([exempted])));
    let unknown = json!({
        "name": "Kept", "membershipMethod": "DYNAMIC_AUTOMATED",
        "memberQuery": {"queryType": "FilterQuery", "filters": [{"field": "department", "operator": "ne", "value": "Zoo"}]},
    });
    let before = asker.sim.truth().groups[&by_hand].members.clone();
    assert_eq!(
        asker
            .put(&format!("/api/v2/usergroups/{by_hand}"), unknown)
            .await
            .0,
        200
    );
    asker.create(person("somebody")).await;
    assert_eq!(
        asker.sim.truth().groups[&by_hand].members,
        before,
        "a rule that is not known"
    );
}

// ---------------------------------------------------------------------------------------------- administrators

#[tokio::test]
async fn administrators_are_created_changed_and_deleted() {
    let asker = Asker::new().await;
    let user = asker.create(person("dana.new")).await;
    let (status, admin) = asker
        .post(
            "/api/users",
            json!({"email": "Dana.New@example.com", "roleName": "Manager", "firstname": "Dana", "enableMultiFactor": true}),
        )
        .await;
    assert_eq!(status, 200);
    let made = id(&admin);
    assert_eq!(
        (
            &admin["roleName"],
            &admin["enableMultiFactor"],
            &admin["apiKeyAllowed"],
            &admin["suspended"]
        ),
        (
            &json!("Manager"),
            &json!(true),
            &json!(false),
            &json!(false)
        )
    );
    assert_eq!(
        asker.sim.writes().recent.back().unwrap().mails,
        ["activation"]
    );
    let seen = asker.sim.administrator(made).unwrap();
    assert_eq!(
        (seen.user, seen.roles),
        (Some(user), vec!["Manager".to_owned()])
    );
    assert_eq!(
        asker
            .sim
            .administrator_by_email("dana.new@EXAMPLE.com")
            .unwrap()
            .id,
        made
    );
    assert!(asker.sim.truth().admins[&made].linked_by_email_only);
    for (body, want) in [
        (
            json!({"email": "dana.NEW@example.com", "roleName": "Manager"}),
            409,
        ),
        (
            json!({"email": "x@example.com", "roleName": "Emperor"}),
            400,
        ),
        (json!({"email": "x@example.com"}), 400),
        (json!({"roleName": "Manager"}), 400),
        (json!({"email": "x", "roleName": "Manager"}), 400),
        (json!({"email": "x@example.com", "roleNames": []}), 400),
        (json!({"email": "x@example.com", "roleNames": [7]}), 400),
        (
            json!({"email": "x@example.com", "roleName": "Manager", "roleNames": ["Help Desk"]}),
            400,
        ),
    ] {
        assert_eq!(
            asker.post("/api/users", body.clone()).await.0,
            want,
            "{body}"
        );
    }
    let path = format!("/api/users/{made}");
    let (status, admin) = asker
        .put(&path, json!({"roleNames": ["Help Desk", "Helpdesk Tier 2"], "lastname": "New", "apiKeyAllowed": true}))
        .await;
    assert_eq!(status, 200);
    assert_eq!(
        (
            &admin["roleName"],
            &admin["roleNames"],
            &admin["lastname"],
            &admin["firstname"],
            &admin["apiKeyAllowed"]
        ),
        (
            &json!("Help Desk"),
            &json!(["Help Desk", "Helpdesk Tier 2"]),
            &json!("New"),
            &json!("Dana"),
            &json!(true)
        )
    );
    assert_eq!(asker.get(&path).await, admin);
    assert_eq!(
        asker.put(&path, json!({"roleName": "Read Only"})).await.0,
        200
    );
    assert_eq!(asker.sim.administrator(made).unwrap().roles, ["Read Only"]);
    assert_eq!(
        asker.put(&path, json!({"roleName": "Emperor"})).await.0,
        400
    );
    assert_eq!(
        asker
            .put(&path, json!({"email": "elsewhere@example.com"}))
            .await
            .0,
        200
    );
    assert_eq!(asker.sim.truth().admins[&made].user, None);
    assert_eq!(
        asker
            .put(
                &format!("/api/users/{user}"),
                json!({"roleName": "Manager"})
            )
            .await
            .0,
        404
    );
    assert_eq!(asker.delete(&path).await.0, 200);
    assert_eq!(asker.delete(&path).await.0, 404);
    assert!(asker.sim.administrator(made).is_none());
}

#[tokio::test]
async fn nobody_deletes_their_own_account() {
    let asker = Asker::new().await;
    let own = asker.get("/api/users/getSelf").await;
    assert_eq!(own["roleName"], "Administrator With Billing");
    let path = format!("/api/users/{}", id(&own));
    assert_eq!(asker.delete(&path).await.0, 400);
    assert!(asker.sim.administrator(id(&own)).is_some());
}

#[tokio::test]
async fn an_administrator_that_a_user_names_loses_the_link_when_deleted() {
    let asker = Asker::new().await;
    let own = id(&asker.get("/api/users/getSelf").await);
    let truth = asker.sim.truth();
    let (user, admin) = truth
        .users
        .iter()
        .find_map(|(id, user)| Some((*id, user.admin.filter(|admin| *admin != own)?)))
        .unwrap();
    assert_eq!(asker.delete(&format!("/api/users/{admin}")).await.0, 200);
    assert_eq!(asker.sim.truth().users[&user].admin, None);
    assert!(asker.sim.user(user).is_some());
}

// ---------------------------------------------------------------------------------------------- who may, and what goes wrong

#[tokio::test]
async fn keys_change_what_their_owners_may_change() {
    let mut config = Config::default();
    config.keys.push(
        Key::new("groups-read", "SECRETSEED-groups-read", KeyRole::Full)
            .reading([Collection::Groups]),
    );
    let asker = Asker::start(config).await;
    let (user, group, app, admin) = (
        asker.free_user(),
        asker.static_group(),
        asker.apps()[0],
        asker.admins()[3],
    );
    let writes = [
        ("users", Method::PUT, format!("/api/systemusers/{user}")),
        ("groups", Method::PUT, format!("/api/v2/usergroups/{group}")),
        (
            "groups",
            Method::POST,
            format!("/api/v2/usergroups/{group}/members"),
        ),
        (
            "applications",
            Method::POST,
            format!("/api/v2/applications/{app}/associations"),
        ),
        ("administrators", Method::PUT, format!("/api/users/{admin}")),
        ("administrators", Method::POST, "/api/users".to_owned()),
        (
            "administrators",
            Method::DELETE,
            "/api/users/64ad0000000000000000dead".to_owned(),
        ),
    ];
    for (key, allowed) in [
        (
            FULL_KEY,
            &["users", "groups", "applications", "administrators"][..],
        ),
        (ADMINISTRATOR_KEY, &["users", "groups", "applications"]),
        (HELP_DESK_KEY, &["users"]),
        (READ_ONLY_KEY, &[]),
        (COMMAND_RUNNER_KEY, &[]),
        (
            "SECRETSEED-groups-read",
            &["users", "applications", "administrators"],
        ),
    ] {
        for (collection, method, path) in &writes {
            // A body that is no object is refused after the key was allowed, so that nothing is changed.
            let (status, answer) = asker
                .try_ask(key, method.clone(), path, Some(&json!([])))
                .await
                .unwrap();
            let expected = match (allowed.contains(collection), method) {
                (false, _) => 403,
                (true, &Method::DELETE) => 404,
                (true, _) => 400,
            };
            assert_eq!(status, expected, "{key} {method} {path}");
            if status == 403 {
                assert_eq!(answer, json!({"message": "Forbidden"}));
            }
        }
    }
    let search = asker
        .try_ask(
            READ_ONLY_KEY,
            Method::POST,
            "/api/search/systemusers",
            Some(&json!({})),
        )
        .await
        .unwrap();
    assert_eq!(search.0, 200, "a search is a read");
    asker
        .sim
        .change_behaviour(|behaviour| behaviour.deny_writes = BTreeSet::from([Collection::Users]));
    let path = format!("/api/systemusers/{user}");
    assert_eq!(asker.put(&path, json!({})).await.0, 403);
    assert_eq!(asker.get(&path).await["_id"], json!(user));
    let own = asker
        .try_ask(ADMINISTRATOR_KEY, Method::GET, "/api/users/getSelf", None)
        .await
        .unwrap();
    assert_eq!(own.0, 200);
}

#[tokio::test]
async fn an_outage_of_one_collection_stops_its_writes_only() {
    let asker = Asker::new().await;
    let (user, group) = (asker.free_user(), asker.static_group());
    asker.sim.change_behaviour(|behaviour| {
        behaviour.write_outage = BTreeSet::from([Collection::Groups])
    });
    let add = json!({"op": "add", "type": "user", "id": user});
    let members = format!("/api/v2/usergroups/{group}/members");
    assert_eq!(asker.post(&members, add.clone()).await.0, 503);
    assert!(!asker.sim.is_member(group, user));
    assert_eq!(asker.total(&members).await, 0);
    assert_eq!(
        asker
            .put(&format!("/api/systemusers/{user}"), json!({}))
            .await
            .0,
        200
    );
    asker
        .sim
        .change_behaviour(|behaviour| behaviour.write_outage.clear());
    assert_eq!(asker.post(&members, add).await.0, 204);
}

#[tokio::test]
async fn a_write_may_take_place_although_its_answer_is_lost() {
    let asker = Asker::new().await;
    let (user, group) = (asker.free_user(), asker.static_group());
    let members = format!("/api/v2/usergroups/{group}/members");
    let change = |op: &str| json!({"op": op, "type": "user", "id": user});
    asker
        .sim
        .add_fault("POST /api/systemusers@2:applied-no-response")
        .unwrap();
    asker
        .sim
        .add_fault("POST /api/v2/usergroups/{id}/members@1:applied-504")
        .unwrap();
    asker
        .sim
        .add_fault("POST /api/v2/usergroups/{id}/members@2:applied-429")
        .unwrap();
    asker
        .sim
        .add_fault("POST /api/v2/usergroups/{id}/members@3:503")
        .unwrap();
    asker
        .sim
        .add_fault("POST /api/v2/usergroups/{id}/members@4:429")
        .unwrap();
    asker.create(person("first")).await;
    // Reads of the same path do not count.
    asker.total("/api/systemusers").await;
    let lost = asker
        .try_ask(
            FULL_KEY,
            Method::POST,
            "/api/systemusers",
            Some(&person("second")),
        )
        .await
        .unwrap_err();
    assert!(!lost.is_timeout());
    assert!(asker.sim.user_by_username("second").is_some());
    assert_eq!(asker.sim.writes().count("POST /api/systemusers"), 2);
    let log = asker.sim.requests().by_endpoint["POST /api/systemusers"].clone();
    assert_eq!((log.by_status[&200], log.by_status[&0]), (1, 1));
    assert_eq!(
        asker.post("/api/systemusers", person("second")).await.0,
        409
    );

    assert_eq!(asker.post(&members, change("add")).await.0, 504);
    assert!(asker.sim.is_member(group, user));
    let answer = asker
        .http
        .post(format!("{}{members}", asker.sim.base_url))
        .header("x-api-key", FULL_KEY)
        .json(&change("remove"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert!(!asker.sim.is_member(group, user));
    assert_eq!(asker.post(&members, change("add")).await.0, 503);
    assert_eq!(asker.post(&members, change("add")).await.0, 429);
    assert!(
        !asker.sim.is_member(group, user),
        "the plain faults come before the write"
    );
    assert_eq!(asker.post(&members, change("add")).await.0, 204);
    let writes = asker.sim.writes();
    assert_eq!(writes.count("POST /api/v2/usergroups/{id}/members"), 3);
    let last = writes.recent.back().unwrap();
    assert_eq!(
        (&last.ids[..], &last.changed[..]),
        (
            &[group, user][..],
            &["add".to_owned(), "user".to_owned()][..]
        )
    );
}

#[tokio::test]
async fn a_write_can_stay_invisible_to_a_number_of_reads() {
    let asker = Asker::new().await;
    let (user, group) = (asker.free_user(), asker.static_group());
    let members = format!("/api/v2/usergroups/{group}/members");
    let add = json!({"op": "add", "type": "user", "id": user});
    asker
        .sim
        .change_behaviour(|behaviour| behaviour.hide_writes_for_reads = 2);
    assert_eq!(asker.post(&members, add.clone()).await.0, 204);
    assert!(asker.sim.is_member(group, user), "it is there");
    assert_eq!(asker.post(&members, add).await.0, 409, "writes see it");
    assert_eq!(asker.total(&members).await, 0);
    let (_, renamed) = asker
        .put(
            &format!("/api/systemusers/{user}"),
            json!({"jobTitle": "Lead"}),
        )
        .await;
    assert_eq!(
        renamed["jobTitle"], "Lead",
        "the answer of a write shows it"
    );
    let path = format!("/api/systemusers/{user}");
    assert_ne!(asker.get(&path).await["jobTitle"], "Lead");
    assert_eq!(
        asker.total(&members).await,
        1,
        "the first write was hidden from two reads"
    );
    assert_eq!(asker.get(&path).await["jobTitle"], "Lead");
    let made = asker.create(person("dana.new")).await;
    for want in [404, 404, 200] {
        let path = format!("/api/systemusers/{made}");
        let answer = asker.try_ask(FULL_KEY, Method::GET, &path, None).await;
        assert_eq!(answer.unwrap().0, want);
    }
}

#[tokio::test]
async fn a_write_can_stay_invisible_for_a_time() {
    let asker = Asker::new().await;
    asker
        .sim
        .change_behaviour(|behaviour| behaviour.hide_writes_for = Duration::from_secs(3600));
    let made = asker.create(person("dana.new")).await;
    let path = format!("/api/systemusers/{made}");
    let status = || async {
        let answer = asker.try_ask(FULL_KEY, Method::GET, &path, None).await;
        answer.unwrap().0
    };
    assert_eq!((status().await, status().await), (404, 404));
    asker
        .sim
        .change_behaviour(|behaviour| behaviour.hide_writes_for = Duration::ZERO);
    assert_eq!(
        status().await,
        404,
        "it stays hidden as long as was said when it was made"
    );
    assert_eq!(
        asker
            .total("/api/systemusers?filter=username:$eq:dana.new")
            .await,
        0
    );
    assert!(asker.sim.user(made).is_some());
}

#[tokio::test]
async fn a_refused_write_changes_nothing_and_is_not_logged() {
    let asker = Asker::new().await;
    let before = asker.sim.truth();
    let user = asker.users()[0];
    for (method, path, body) in [
        (
            Method::PUT,
            format!("/api/systemusers/{user}"),
            json!({"jobTitle": "Lead", "manager": "x"}),
        ),
        (
            Method::POST,
            "/api/v2/usergroups".to_owned(),
            json!({"name": "x", "email": 7}),
        ),
        (
            Method::POST,
            "/api/users".to_owned(),
            json!({"email": "x@example.com", "roleName": "x"}),
        ),
        (
            Method::POST,
            "/api/v2/bulk/userstates".to_owned(),
            json!({}),
        ),
    ] {
        assert_eq!(asker.ask(method, &path, body).await.0, 400, "{path}");
    }
    assert_eq!(asker.sim.truth(), before);
    assert_ne!(asker.sim.user(user).unwrap()["jobTitle"], "Lead");
    assert_eq!(asker.sim.writes().total(), 0);
}

#[tokio::test]
async fn the_same_writes_give_the_same_answers() {
    let run = || async {
        let asker = Asker::new().await;
        let mut answers = Vec::new();
        for name in ["one", "two"] {
            let body = with(person(name), "password", json!(GOOD_PASSWORD));
            answers.push(asker.post("/api/systemusers", body).await);
            answers.push(
                asker
                    .post("/api/v2/usergroups", json!({"name": name}))
                    .await,
            );
            let admin = json!({"email": format!("{name}@example.net"), "roleName": "Manager"});
            answers.push(asker.post("/api/users", admin).await);
            let key = json!({"name": name, "public_key": "ssh-ed25519 AAAAfixture"});
            let user = asker.users()[0];
            answers.push(
                asker
                    .post(&format!("/api/systemusers/{user}/sshkeys"), key)
                    .await,
            );
        }
        answers
    };
    let (first, second) = (run().await, run().await);
    assert_eq!(first, second);
    let ids: BTreeSet<Id> = first.iter().map(|(_, body)| id(body)).collect();
    assert_eq!(ids.len(), first.len());
}

#[tokio::test]
async fn the_log_of_writes_is_served_and_can_be_emptied() {
    let asker = Asker::new().await;
    let user = asker.create(person("dana.new")).await;
    let url = format!("{}/_sim/writes", asker.sim.base_url);
    let writes: Value = asker
        .http
        .get(&url)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(writes["by_endpoint"], json!({"POST /api/systemusers": 1}));
    assert_eq!(
        writes["recent"][0],
        json!({
            "endpoint": "POST /api/systemusers", "organization": asker.sim.organization_id().unwrap(),
            "ids": [user], "changed": ["email", "username"], "mails": [],
        })
    );
    assert_eq!(asker.http.delete(&url).send().await.unwrap().status(), 204);
    assert_eq!(asker.sim.writes().total(), 0);
    asker.create(person("other.new")).await;
    asker.sim.reset_writes();
    assert!(asker.sim.writes().recent.is_empty());
}

#[tokio::test]
async fn writes_go_to_the_organisation_that_is_named() {
    let mut config = Config::default();
    config.organizations.push(Shape {
        seed: 8,
        organization: "Second".to_owned(),
        ..Shape::default()
    });
    let asker = Asker::start(config).await;
    let second = asker.sim.organization_ids()[1];
    let send = |org: Option<Id>| {
        let mut request = asker
            .http
            .post(format!("{}/api/systemusers", asker.sim.base_url))
            .header("x-api-key", FULL_KEY)
            .json(&person("dana.new"));
        if let Some(org) = org {
            request = request.header("x-org-id", org.to_string());
        }
        request.send()
    };
    assert_eq!(send(None).await.unwrap().status(), 401);
    assert_eq!(send(Some(second)).await.unwrap().status(), 200);
    assert!(asker.sim.user_by_username("dana.new").is_none());
    assert_eq!(asker.sim.truth_of(1).unwrap().users.len(), 251);
    assert_eq!(asker.sim.writes().recent[0].organization, second);
}
