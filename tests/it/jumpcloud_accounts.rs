//! Accounts, passwords, groups and actions of the connector against the JumpCloud simulator.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use baton_jumpcloud::{
    connector::{
        Connector, Error, SyncScope,
        jumpcloud::{
            Allowed, JumpCloud, Settings,
            client::{self, Auth, Client},
        },
        provision::{
            Account, Change, Credential, Done, Effect, Ledger, NewAccount, Permit, Plan,
            Provisioner,
        },
    },
    error::{Classify as _, Code},
    http::retry::Policy,
    proto::{
        Kind, Struct, Value, bool_value,
        connector::{self as v2, credential_options::RandomPassword},
        number_value, string_value,
    },
    sim::jumpcloud::{
        ADMINISTRATOR_KEY, CLIENT_ID, CLIENT_SECRET, Collection, FULL_KEY, Id, JumpCloudSim,
        MembershipMethod, NewUser, READ_ONLY_KEY, Status,
    },
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

const GIVEN: &str = "SECRETSEED-kx9-Good";

// ---------------------------------------------------------------------------------------------- the rig

/// A ledger that remembers plans and progress.
#[derive(Debug, Default)]
struct Book {
    plans: Mutex<Vec<Plan>>,
    progress: Mutex<Vec<(u8, String)>>,
    pretend: bool,
}

#[async_trait]
impl Ledger for Book {
    async fn intend(&self, plan: &Plan) -> Result<Permit, Error> {
        self.plans.lock().unwrap().push(plan.clone());
        Ok(if self.pretend {
            Permit::Pretend
        } else {
            Permit::Write
        })
    }

    fn progress(&self, percent: u8, text: &str) {
        self.progress
            .lock()
            .unwrap()
            .push((percent, text.to_owned()));
    }
}

struct Rig {
    sim: JumpCloudSim,
    connector: Arc<JumpCloud>,
    book: Book,
    earlier: Option<Plan>,
    cancel: CancellationToken,
}

fn key(key: &str) -> Auth {
    Auth::ApiKey(key.into())
}

const ALL: Allowed = Allowed {
    account_deletion: true,
    administrator_roles: true,
};

impl Rig {
    async fn new() -> Self {
        Self::with(key(FULL_KEY), ALL).await
    }

    async fn with(auth: Auth, allowed: Allowed) -> Self {
        let sim = JumpCloudSim::start(Default::default()).await.unwrap();
        Self::on(sim, auth, allowed)
    }

    async fn service_account() -> Self {
        let sim = JumpCloudSim::start(Default::default()).await.unwrap();
        let auth = Auth::ClientCredentials {
            token_url: sim.token_url().parse().unwrap(),
            client_id: CLIENT_ID.to_owned(),
            client_secret: CLIENT_SECRET.into(),
        };
        Self::on(sim, auth, ALL)
    }

    fn on(sim: JumpCloudSim, auth: Auth, allowed: Allowed) -> Self {
        let url: url::Url = sim.base_url.parse().unwrap();
        let client = Client::with_policy(
            client::Settings {
                console_url: url.clone(),
                insights_url: url,
                auth,
                org_id: None,
                timeout: Duration::from_secs(2),
                extra_ca_pem: None,
                max_concurrency: 4,
                rotation_wait: Duration::ZERO,
            },
            Policy {
                max_attempts: 2,
                min_delay: Duration::from_millis(1),
                max_delay: Duration::from_millis(4),
                budget: Duration::from_secs(30),
            },
        )
        .unwrap();
        let settings = Settings {
            merge_administrators: false,
            work_dir: std::env::temp_dir(),
            optional: Vec::new(),
            allowed,
        };
        Self {
            sim,
            connector: Arc::new(JumpCloud::new(client, settings)),
            book: Book::default(),
            earlier: None,
            cancel: CancellationToken::new(),
        }
    }

    fn change(&self) -> Change<'_> {
        Change {
            earlier: self.earlier.as_ref(),
            ledger: &self.book,
            cancel: &self.cancel,
        }
    }

    fn plans(&self) -> Vec<Plan> {
        self.book.plans.lock().unwrap().clone()
    }

    /// The next change is another delivery of the one before.
    fn deliver_again(&mut self) {
        self.earlier = self.plans().pop();
        assert!(self.earlier.is_some());
    }

    /// From now on a write shows a second later.
    fn hide_writes(&self) {
        self.sim
            .change_behaviour(|behaviour| behaviour.hide_writes_for = Duration::from_secs(1));
    }

    /// Ends an attempt at a change as a death of the process does, right after its first write.
    async fn cut_off<T>(&self, attempt: impl Future<Output = T>) {
        let written = async {
            while self.sim.writes().total() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            biased;
            () = written => {}
            _ended = attempt => panic!("the attempt ended before it was cut off"),
        }
    }

    /// Makes a user an administrator.
    async fn give_help_desk(&self, user: Id) -> Result<Done<Vec<v2::Grant>>, Error> {
        let bare = |kind: &str, id: &str| v2::Resource {
            id: Some(resource_id(kind, id)),
            ..v2::Resource::default()
        };
        let entitlement = v2::Entitlement {
            resource: Some(bare("role", "role_help_desk")),
            ..v2::Entitlement::default()
        };
        let principal = bare("user", &user.to_string());
        self.connector
            .grant(&entitlement, &principal, self.change())
            .await
    }

    async fn create(&self, account: &NewAccount) -> Result<Done<Account>, Error> {
        self.connector
            .create_account("user", account, self.change())
            .await
    }

    async fn delete(&self, kind: &str, id: &str) -> Result<Done<()>, Error> {
        self.connector
            .delete_resource(&resource_id(kind, id), self.change())
            .await
    }

    async fn rotate(&self, id: Id, credential: &Credential) -> Result<Done<Vec<String>>, Error> {
        let id = resource_id("user", &id.to_string());
        let done = self
            .connector
            .rotate_credential(&id, credential, false, self.change())
            .await?;
        Ok(Done {
            value: done
                .value
                .iter()
                .map(|secret| {
                    assert_eq!(secret.name, "password");
                    secret.secret.expose_secret().to_owned()
                })
                .collect(),
            effect: done.effect,
            request_ids: done.request_ids,
        })
    }

    async fn act(
        &self,
        name: &str,
        user: Id,
        arguments: &[(&str, Value)],
    ) -> Result<Done<Struct>, Error> {
        let user = user.to_string();
        let mut fields = vec![("user_id", string_value(user))];
        fields.extend(arguments.iter().cloned());
        self.connector
            .invoke(name, "", &said(&fields), self.change())
            .await
    }

    /// What a sync would list.
    async fn listed(&self, kind: &str, id: &str) -> v2::Resource {
        let scope = SyncScope {
            sync_id: "look".to_owned(),
            resource_type_ids: Vec::new(),
            folder: None,
        };
        let mut token = None;
        loop {
            let page = self
                .connector
                .list_resources(&scope, kind, None, token.as_deref())
                .await
                .unwrap();
            let found = page
                .items
                .into_iter()
                .find(|resource| resource.id.as_ref().unwrap().resource == id);
            if let Some(found) = found {
                self.connector.cleanup("look").await;
                return found;
            }
            token = Some(page.next.expect("the resource is in no list"));
        }
    }

    /// An active user without groups, restrictions and administrator.
    fn free_user(&self, status: Status) -> Id {
        self.sim
            .edit(|tenant| {
                let id = tenant
                    .add_user(NewUser {
                        status,
                        manager: None,
                    })
                    .unwrap();
                for field in ["restrictedFields", "delegatedAuthority", "admin"] {
                    tenant.set_field(id, field, None).unwrap();
                }
                id
            })
            .unwrap()
    }

    fn set(&self, user: Id, field: &str, value: Json) {
        self.sim
            .edit(|tenant| tenant.set_field(user, field, Some(value)).unwrap())
            .unwrap();
    }

    fn user(&self, id: Id) -> Json {
        self.sim.user(id).unwrap()
    }
}

fn said(fields: &[(&str, Value)]) -> Struct {
    Struct {
        fields: fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
    }
}

fn resource_id(kind: &str, id: &str) -> v2::ResourceId {
    v2::ResourceId {
        resource_type: kind.to_owned(),
        resource: id.to_owned(),
        ..v2::ResourceId::default()
    }
}

fn random() -> Credential {
    Credential::Random(RandomPassword {
        length: 24,
        constraints: Vec::new(),
    })
}

fn given() -> Credential {
    Credential::Given(SecretString::from(GIVEN))
}

/// A request for an account `dana.new` with a password that the connector makes up.
fn dana(profile: &[(&str, Value)]) -> NewAccount {
    NewAccount {
        info: v2::AccountInfo {
            emails: vec![v2::account_info::Email {
                address: "Dana.New@example.com".to_owned(),
                is_primary: true,
            }],
            login: "dana.new".to_owned(),
            profile: Some(said(profile)),
            ..v2::AccountInfo::default()
        },
        credential: random(),
        force_change: false,
    }
}

fn id_of(resource: &v2::Resource) -> &str {
    &resource.id.as_ref().unwrap().resource
}

fn sim_id(resource: &v2::Resource) -> Id {
    id_of(resource).parse().unwrap()
}

#[track_caller]
fn refused<T>(result: Result<T, Error>, code: Code, words: &str) {
    let error = result.err().expect("it is refused");
    let text = error.to_string();
    assert_eq!(error.code(), code, "{text}");
    assert!(text.contains(words), "{text}");
    assert!(!text.to_lowercase().contains("dana"), "{text}");
    assert!(!text.contains("SECRETSEED"), "{text}");
}

fn text<'a>(done: &'a Done<Struct>, name: &str) -> &'a str {
    match &done.value.fields[name].kind {
        Some(Kind::StringValue(text)) => text,
        other => panic!("{name} is {other:?}"),
    }
}

fn flag(done: &Done<Struct>, name: &str) -> bool {
    done.value.fields[name].kind == Some(Kind::BoolValue(true))
}

fn texts(done: &Done<Struct>, name: &str) -> Vec<String> {
    match &done.value.fields[name].kind {
        Some(Kind::ListValue(list)) => list
            .values
            .iter()
            .map(|value| match &value.kind {
                Some(Kind::StringValue(text)) => text.clone(),
                other => panic!("{name} holds {other:?}"),
            })
            .collect(),
        other => panic!("{name} is {other:?}"),
    }
}

// ---------------------------------------------------------------------------------------------- creating

#[tokio::test]
async fn an_account_is_made_as_asked_for_and_listed_by_the_next_sync() {
    let rig = Rig::new().await;
    let manager = rig.free_user(Status::Active);
    let address = rig.user(manager)["email"].as_str().unwrap().to_uppercase();
    let attributes = Value {
        kind: Some(Kind::StructValue(said(&[("badge", string_value("B-90"))]))),
    };
    let account = dana(&[
        ("first_name", string_value("Dana")),
        ("last_name", string_value("New")),
        ("job_title", string_value("Developer")),
        ("manager", string_value(address)),
        ("attributes", attributes),
        ("work_phone", string_value("+31 30 555 0190")),
    ]);
    let done = rig.create(&account).await.unwrap();
    assert_eq!(done.effect, Effect::Changed);
    assert!(!done.value.existed);
    let id = sim_id(&done.value.resource);
    let row = rig.user(id);
    for (field, value) in [
        ("username", json!("dana.new")),
        ("firstname", json!("Dana")),
        ("jobTitle", json!("Developer")),
        ("state", json!("ACTIVATED")),
        ("activated", json!(true)),
        ("manager", json!(manager.to_string())),
        ("attributes", json!([{"name": "badge", "value": "B-90"}])),
    ] {
        assert_eq!(row[field], value, "{field}");
    }
    let [secret] = done.value.secrets.as_slice() else {
        panic!("one secret");
    };
    assert_eq!(secret.name, "password");
    assert_eq!(
        secret.secret.expose_secret(),
        rig.sim.password_of(id).unwrap().expose_secret()
    );
    assert_eq!(
        rig.listed("user", &id.to_string()).await,
        done.value.resource
    );
    let [plan] = rig.plans().try_into().unwrap();
    assert_eq!(
        (plan.operation.as_str(), plan.subject.as_str()),
        ("user.create", "user:new")
    );
    let told = format!("{plan:?}").to_lowercase();
    assert!(!told.contains("dana") && !told.contains(secret.secret.expose_secret()));
}

#[tokio::test]
async fn credential_state_and_mail_decide_how_an_account_starts() {
    // Credential, profile, force a change; state, password set, expired, mails.
    type Case = (
        Credential,
        &'static [(&'static str, &'static str)],
        bool,
        (&'static str, bool, bool, &'static [&'static str]),
    );
    let cases: [Case; 9] = [
        (
            random(),
            &[],
            false,
            ("ACTIVATED", true, false, &["welcome"]),
        ),
        (random(), &[], true, ("ACTIVATED", true, true, &["welcome"])),
        (
            given(),
            &[],
            false,
            ("ACTIVATED", true, false, &["welcome"]),
        ),
        (
            Credential::None,
            &[],
            true,
            ("ACTIVATED", false, false, &["activation"]),
        ),
        (
            Credential::Sso,
            &[("send_email", "false")],
            false,
            ("ACTIVATED", false, false, &[]),
        ),
        (
            Credential::Unspecified,
            &[("state", "staged")],
            false,
            ("STAGED", false, false, &[]),
        ),
        (
            random(),
            &[("state", "staged")],
            false,
            ("STAGED", true, false, &[]),
        ),
        (
            random(),
            &[("send_email", "false")],
            false,
            ("ACTIVATED", true, false, &[]),
        ),
        (
            given(),
            &[("send_email", "false")],
            true,
            ("ACTIVATED", true, true, &[]),
        ),
    ];
    for (index, (credential, profile, force_change, expected)) in cases.into_iter().enumerate() {
        let rig = Rig::new().await;
        let profile: Vec<(&str, Value)> = profile
            .iter()
            .map(|(key, value)| (*key, string_value(*value)))
            .collect();
        let account = NewAccount {
            credential: credential.clone(),
            force_change,
            ..dana(&profile)
        };
        let done = rig.create(&account).await.unwrap();
        let id = sim_id(&done.value.resource);
        let row = rig.user(id);
        let password = rig.sim.password_of(id);
        let mails: Vec<String> = rig
            .sim
            .writes()
            .recent
            .into_iter()
            .flat_map(|write| write.mails)
            .collect();
        let (state, set, expired, sent) = expected;
        assert_eq!(row["state"], state, "case {index}");
        assert_eq!(password.is_some(), set, "case {index}");
        assert_eq!(
            row["password_expired"] == json!(true),
            expired,
            "case {index}"
        );
        assert_eq!(mails, sent, "case {index}");
        let told = done.value.secrets.len();
        assert_eq!(
            told,
            usize::from(matches!(credential, Credential::Random(_))),
            "case {index}"
        );
        if let (Credential::Given(_), Some(password)) = (&credential, password) {
            assert_eq!(password.expose_secret(), GIVEN);
        }
    }
}

#[tokio::test]
async fn somebody_who_exists_is_given_back_and_not_changed() {
    for (username, email) in [
        ("dana.new", "dana.new@example.com"),
        ("DANA.New", "DANA.NEW@EXAMPLE.COM"),
    ] {
        let rig = Rig::new().await;
        let user = rig.free_user(Status::Active);
        rig.set(user, "username", json!(username));
        rig.set(user, "email", json!(email));
        let done = rig.create(&dana(&[])).await.unwrap();
        assert_eq!(done.effect, Effect::AlreadyTrue);
        assert!(done.value.existed && done.value.secrets.is_empty());
        assert_eq!(sim_id(&done.value.resource), user);
        assert_eq!(rig.sim.writes().total(), 0);
        assert!(rig.plans().is_empty());
    }
}

#[tokio::test]
async fn a_name_or_address_of_somebody_else_is_refused_by_id() {
    for (fields, words) in [
        (
            &[("username", "Dana.New")][..],
            "the username belongs to user",
        ),
        (
            &[("email", "dana.NEW@example.com")],
            "the e-mail address belongs to user",
        ),
    ] {
        let rig = Rig::new().await;
        let user = rig.free_user(Status::Active);
        for (field, value) in fields {
            rig.set(user, field, json!(value));
        }
        let result = rig.create(&dana(&[])).await;
        let id = user.to_string();
        refused(result, Code::FailedPrecondition, &format!("{words} {id}"));
        assert_eq!(rig.sim.writes().total(), 0);
    }
    let rig = Rig::new().await;
    let (one, other) = (rig.free_user(Status::Active), rig.free_user(Status::Active));
    rig.set(one, "username", json!("dana.new"));
    rig.set(other, "email", json!("dana.new@example.com"));
    let words = format!("user {one} and the e-mail address belongs to user {other}");
    refused(
        rig.create(&dana(&[])).await,
        Code::FailedPrecondition,
        &words,
    );
}

#[tokio::test]
async fn an_employee_id_of_somebody_else_is_refused_by_id() {
    for as_400 in [false, true] {
        let rig = Rig::new().await;
        rig.sim
            .change_behaviour(|behaviour| behaviour.duplicates_as_400 = as_400);
        let user = rig.free_user(Status::Active);
        rig.set(user, "employeeIdentifier", json!("E-77"));
        let account = dana(&[("employee_id", string_value("E-77"))]);
        let words = format!("the employee ID belongs to user {user}");
        refused(rig.create(&account).await, Code::FailedPrecondition, &words);
    }
}

#[tokio::test]
async fn an_account_whose_answer_was_lost_is_found_with_the_password_that_was_sent() {
    for fault in [
        "POST /api/systemusers@1:applied-no-response",
        "POST /api/systemusers@1:applied-504",
        "POST /api/systemusers@1:empty-body",
        "POST /api/systemusers@1:truncated-json",
        "POST /api/systemusers@1:reset-mid-body",
    ] {
        let rig = Rig::new().await;
        rig.sim.add_fault(fault).unwrap();
        let done = rig.create(&dana(&[])).await.unwrap();
        assert_eq!(done.effect, Effect::Changed, "{fault}");
        assert!(!done.value.existed);
        let id = sim_id(&done.value.resource);
        assert_eq!(
            done.value.secrets[0].secret.expose_secret(),
            rig.sim.password_of(id).unwrap().expose_secret(),
            "{fault}"
        );
        assert_eq!(
            rig.sim.writes().count("POST /api/systemusers"),
            1,
            "{fault}"
        );
    }
}

#[tokio::test]
async fn an_account_that_shows_late_is_waited_for() {
    let rig = Rig::new().await;
    rig.sim
        .change_behaviour(|behaviour| behaviour.hide_writes_for_reads = 2);
    let account = dana(&[("send_email", string_value("false"))]);
    let done = rig.create(&account).await.unwrap();
    assert_eq!(done.effect, Effect::Changed);
    assert_eq!(rig.user(sim_id(&done.value.resource))["state"], "ACTIVATED");
}

#[tokio::test]
async fn a_second_delivery_adopts_the_account_of_the_first_with_a_new_password() {
    let mut rig = Rig::new().await;
    rig.sim
        .add_fault("/api/systemusers/{id}@always:403")
        .unwrap();
    let account = NewAccount {
        force_change: true,
        ..dana(&[("send_email", bool_value(false))])
    };
    refused(rig.create(&account).await, Code::PermissionDenied, "403");
    let lost = rig.sim.user_by_username("dana.new").unwrap();
    assert_eq!(lost["state"], "STAGED");
    let id: Id = lost["_id"].as_str().unwrap().parse().unwrap();
    let forgotten = rig.sim.password_of(id).unwrap();
    rig.sim.clear_faults();

    rig.deliver_again();
    let done = rig.create(&account).await.unwrap();
    assert_eq!(done.effect, Effect::Changed);
    assert!(!done.value.existed);
    assert_eq!(sim_id(&done.value.resource), id);
    let row = rig.user(id);
    assert_eq!(
        (&row["state"], &row["password_expired"]),
        (&json!("ACTIVATED"), &json!(true))
    );
    let password = rig.sim.password_of(id).unwrap();
    assert_eq!(
        done.value.secrets[0].secret.expose_secret(),
        password.expose_secret()
    );
    assert_ne!(password.expose_secret(), forgotten.expose_secret());
    assert_eq!(rig.sim.writes().count("POST /api/systemusers"), 1);
    let plans = rig.plans();
    assert_eq!(plans[1].subject, format!("user:{id}"));

    // And once more, by the plan of the adoption.
    rig.deliver_again();
    let again = rig.create(&account).await.unwrap();
    assert_eq!(
        (again.effect, again.value.existed),
        (Effect::Changed, false)
    );
    assert_eq!(again.value.secrets.len(), 1);
}

#[tokio::test]
async fn a_second_delivery_adopts_even_what_only_shows_after_jumpcloud_refused_a_duplicate() {
    let mut rig = Rig::new().await;
    // As many as there are in all looks before the second attempt.
    rig.sim
        .change_behaviour(|behaviour| behaviour.hide_writes_for_reads = 16);
    rig.sim
        .add_fault("/api/systemusers/{id}@always:403")
        .unwrap();
    refused(rig.create(&dana(&[])).await, Code::PermissionDenied, "403");
    rig.sim.clear_faults();
    let user = rig.sim.user_by_username("dana.new").unwrap();
    let id: Id = user["_id"].as_str().unwrap().parse().unwrap();
    rig.deliver_again();
    let done = rig.create(&dana(&[])).await.unwrap();
    assert_eq!((done.effect, done.value.existed), (Effect::Changed, false));
    assert_eq!(
        done.value.secrets[0].secret.expose_secret(),
        rig.sim.password_of(id).unwrap().expose_secret()
    );
    assert_eq!(rig.sim.writes().count("POST /api/systemusers"), 1);
    let asked = rig.sim.requests();
    assert_eq!(asked.count("POST /api/systemusers"), 2);
}

#[tokio::test]
async fn a_second_delivery_after_nothing_was_made_makes_the_account() {
    let mut rig = Rig::new().await;
    rig.sim
        .add_fault("POST /api/systemusers@always:403")
        .unwrap();
    refused(
        rig.create(&dana(&[])).await,
        Code::PermissionDenied,
        "create users",
    );
    rig.sim.clear_faults();
    rig.deliver_again();
    let done = rig.create(&dana(&[])).await.unwrap();
    assert_eq!((done.effect, done.value.existed), (Effect::Changed, false));
}

#[tokio::test]
async fn a_password_that_the_organisation_refuses_is_told_without_the_password() {
    let rig = Rig::new().await;
    let account = NewAccount {
        credential: Credential::Given("SECRETSEED".into()),
        ..dana(&[])
    };
    refused(
        rig.create(&account).await,
        Code::InvalidArgument,
        "answered 400",
    );
    assert_eq!(rig.sim.writes().total(), 0);
}

#[tokio::test]
async fn an_unreadable_policy_leaves_the_request_to_decide_and_rows_of_characters_out() {
    let rig = Rig::new().await;
    rig.sim.deny([Collection::Organizations]);
    // Nothing but a row of one digit can be made of this, and JumpCloud would refuse it.
    let digits = NewAccount {
        credential: Credential::Random(RandomPassword {
            length: 8,
            constraints: vec![v2::PasswordConstraint {
                char_set: "1".to_owned(),
                min_count: 8,
            }],
        }),
        ..dana(&[])
    };
    refused(
        rig.create(&digits).await,
        Code::InvalidArgument,
        "no password of 8 characters obeys all rules",
    );
    let done = rig.create(&dana(&[])).await.unwrap();
    assert_eq!(done.value.secrets[0].secret.expose_secret().len(), 24);
}

#[tokio::test]
async fn requests_that_cannot_be_met_are_refused_before_anything_is_written() {
    let rig = Rig::new().await;
    let odd = |profile: &[(&str, Value)]| dana(profile);
    for (account, words) in [
        (odd(&[("shoe_size", number_value(44.0))]), "shoe_size"),
        (
            odd(&[("manager", string_value("nobody@example.org"))]),
            "the field manager is an e-mail address of 18 bytes",
        ),
        (
            odd(&[("manager", string_value("64ff000000000000000000ff"))]),
            "the field manager (24 bytes)",
        ),
        (
            NewAccount {
                credential: Credential::Random(RandomPassword {
                    length: 4,
                    constraints: Vec::new(),
                }),
                ..dana(&[])
            },
            "random_password.length is 4",
        ),
        (NewAccount::default(), "no e-mail address"),
    ] {
        refused(rig.create(&account).await, Code::InvalidArgument, words);
    }
    let other = rig
        .connector
        .create_account("group", &dana(&[]), rig.change())
        .await;
    refused(other, Code::Unimplemented, "resource type user only");
    assert_eq!(rig.sim.writes().total(), 0);
    assert!(rig.plans().is_empty());
}

#[tokio::test]
async fn a_dry_run_and_a_cancelled_change_make_no_account() {
    let mut rig = Rig::new().await;
    rig.book.pretend = true;
    let done = rig
        .create(&dana(&[("first_name", string_value("Dana"))]))
        .await
        .unwrap();
    assert_eq!(done.effect, Effect::Planned);
    assert_eq!(id_of(&done.value.resource), "planned");
    assert_eq!(done.value.resource.display_name, "Dana");
    assert!(done.value.secrets.is_empty());
    rig.book.pretend = false;
    rig.cancel.cancel();
    refused(rig.create(&dana(&[])).await, Code::Cancelled, "stopped");
    assert_eq!(rig.sim.writes().total(), 0);
}

#[tokio::test]
async fn a_forbidden_and_a_throttled_creation() {
    let rig = Rig::with(key(READ_ONLY_KEY), ALL).await;
    refused(
        rig.create(&dana(&[])).await,
        Code::PermissionDenied,
        "the JumpCloud key may not create users",
    );
    let rig = Rig::new().await;
    rig.sim.add_fault("POST /api/systemusers@1:429").unwrap();
    let done = rig.create(&dana(&[])).await.unwrap();
    assert_eq!(done.effect, Effect::Changed);
    assert_eq!(rig.sim.writes().count("POST /api/systemusers"), 1);
}

// ---------------------------------------------------------------------------------------------- deleting

#[tokio::test]
async fn an_account_is_deleted_once_where_that_is_allowed() {
    let rig = Rig::with(key(FULL_KEY), Allowed::default()).await;
    let user = rig.free_user(Status::Active);
    let result = rig.delete("user", &user.to_string()).await;
    refused(result, Code::FailedPrecondition, "--allow-account-deletion");
    assert!(rig.sim.user(user).is_some());

    for fault in [None, Some("applied-504"), Some("applied-no-response")] {
        let mut rig = Rig::new().await;
        let user = rig.free_user(Status::Active);
        let report = rig.free_user(Status::Active);
        rig.sim
            .edit(|tenant| tenant.set_manager(report, Some(user)).unwrap());
        rig.sim
            .change_behaviour(|behaviour| behaviour.refuse_to_delete_managers = true);
        if let Some(fault) = fault {
            let rule = format!("DELETE /api/systemusers/{{id}}@1:{fault}");
            rig.sim.add_fault(&rule).unwrap();
        }
        let done = rig.delete("user", &user.to_string()).await.unwrap();
        assert_eq!(done.effect, Effect::Changed, "{fault:?}");
        assert!(rig.sim.user(user).is_none());
        assert!(
            rig.user(report)["manager"]
                .as_str()
                .is_none_or(str::is_empty)
        );
        let again = rig.delete("user", &user.to_string()).await.unwrap();
        assert_eq!(again.effect, Effect::AlreadyTrue);
        rig.deliver_again();
        let again = rig.delete("user", &user.to_string()).await.unwrap();
        assert_eq!(again.effect, Effect::Changed, "the earlier attempt did it");
    }
}

/// A directory user who is an administrator with these roles.
fn administrator(rig: &Rig, roles: &[&str]) -> (Id, Id) {
    let user = rig.free_user(Status::Active);
    let admin = rig.sim.inspect(|tenant| tenant.admin_ids()[0]).unwrap();
    rig.sim.edit(|tenant| {
        tenant.set_admin_roles(admin, roles).unwrap();
    });
    let row = rig.sim.administrator(admin).unwrap();
    // By e-mail address alone, as administrators of old are linked.
    rig.set(user, "email", json!(row.email.to_uppercase()));
    (user, admin)
}

#[tokio::test]
async fn administrators_are_not_deleted_by_the_way() {
    let only_accounts = Allowed {
        account_deletion: true,
        administrator_roles: false,
    };
    let rig = Rig::with(key(FULL_KEY), only_accounts).await;
    let (user, admin) = administrator(&rig, &["Help Desk"]);
    let result = rig.delete("user", &user.to_string()).await;
    let words = format!("user {user} is also administrator {admin}");
    refused(result, Code::FailedPrecondition, &words);
    let result = rig.delete("user", &admin.to_string()).await;
    refused(
        result,
        Code::FailedPrecondition,
        "an administrator without a directory account",
    );
    assert_eq!(rig.sim.writes().total(), 0);
}

#[tokio::test]
async fn the_last_administrator_with_billing_is_not_deleted_with_the_user() {
    let rig = Rig::service_account().await;
    let admins = rig.sim.inspect(|tenant| tenant.admin_ids()).unwrap();
    let last = admins[1];
    let user = rig.free_user(Status::Active);
    rig.sim.edit(|tenant| {
        for id in &admins {
            let role = if *id == last {
                "Administrator With Billing"
            } else {
                "Help Desk"
            };
            tenant.set_admin_roles(*id, &[role]).unwrap();
        }
    });
    rig.set(
        user,
        "admin",
        json!({"id": last.to_string(), "roleName": "Administrator With Billing"}),
    );
    refused(
        rig.delete("user", &user.to_string()).await,
        Code::FailedPrecondition,
        "the last one with the role Administrator With Billing",
    );
    let other = *admins.iter().find(|id| **id != last).unwrap();
    rig.sim.edit(|tenant| {
        tenant
            .set_admin_roles(other, &["Administrator With Billing"])
            .unwrap();
    });
    let done = rig.delete("user", &user.to_string()).await.unwrap();
    assert_eq!(done.effect, Effect::Changed);
}

#[tokio::test]
async fn nobody_suspends_or_deletes_the_owner_of_the_key() {
    let rig = Rig::new().await;
    let me = own_administrator(&rig).await;
    let user = rig.free_user(Status::Active);
    rig.set(
        user,
        "admin",
        json!({"id": me, "roleName": "x", "roleNames": ["x"]}),
    );
    let words = "owns the JumpCloud key";
    refused(
        rig.delete("user", &user.to_string()).await,
        Code::FailedPrecondition,
        words,
    );
    refused(
        rig.act("suspend_user", user, &[]).await,
        Code::FailedPrecondition,
        words,
    );
    let at = [("start_date", string_value("2027-01-31T17:00:00Z"))];
    refused(
        rig.act("schedule_suspend", user, &at).await,
        Code::FailedPrecondition,
        words,
    );
    assert_eq!(rig.sim.writes().total(), 0);
}

async fn own_administrator(rig: &Rig) -> String {
    let body: Json = reqwest::Client::builder()
        .no_proxy()
        .build()
        .unwrap()
        .get(format!("{}/api/users/getSelf", rig.sim.base_url))
        .header("x-api-key", FULL_KEY)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    body["_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn other_resources_are_not_deleted() {
    let rig = Rig::new().await;
    for kind in ["app", "role", "device"] {
        let result = rig.delete(kind, "64ae00000000000000000001").await;
        refused(result, Code::Unimplemented, "only users and groups");
    }
    let result = rig.delete("user", "").await;
    refused(result, Code::InvalidArgument, "0 bytes");
}

// ---------------------------------------------------------------------------------------------- rotating

#[tokio::test]
async fn a_password_is_replaced_by_one_that_is_made_up_or_given() {
    let rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    let done = rig.rotate(user, &random()).await.unwrap();
    assert_eq!(done.effect, Effect::Changed);
    assert_eq!(
        done.value,
        [rig.sim.password_of(user).unwrap().expose_secret()]
    );
    let done = rig.rotate(user, &given()).await.unwrap();
    assert!(done.value.is_empty());
    assert_eq!(rig.sim.password_of(user).unwrap().expose_secret(), GIVEN);
    let plan = &rig.plans()[1];
    assert_eq!(plan.operation, "user.password.set");
    assert!(!format!("{plan:?}").contains("SECRETSEED"));
}

#[tokio::test]
async fn a_rotation_may_demand_a_change() {
    let rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    let id = resource_id("user", &user.to_string());
    rig.connector
        .rotate_credential(&id, &random(), true, rig.change())
        .await
        .unwrap();
    assert_eq!(rig.user(user)["password_expired"], true);
}

#[tokio::test]
async fn rotations_that_must_not_be_are_refused() {
    let rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    for credential in [Credential::Unspecified, Credential::None, Credential::Sso] {
        refused(
            rig.rotate(user, &credential).await,
            Code::InvalidArgument,
            "ask for no password",
        );
    }
    refused(
        rig.rotate(user, &Credential::Given("SECRETSEED".into()))
            .await,
        Code::InvalidArgument,
        "answered 400",
    );
    rig.set(
        user,
        "delegatedAuthority",
        json!({"id": "x", "name": "ActiveDirectory"}),
    );
    refused(
        rig.rotate(user, &random()).await,
        Code::FailedPrecondition,
        "kept by ActiveDirectory",
    );
    refused(
        rig.act("expire_password", user, &[]).await,
        Code::FailedPrecondition,
        "kept by ActiveDirectory",
    );
    let admin = rig.sim.inspect(|tenant| tenant.admin_ids()[0]).unwrap();
    refused(
        rig.rotate(admin, &random()).await,
        Code::FailedPrecondition,
        "an administrator without a directory account",
    );
    let nobody: Id = "64ff000000000000000000ff".parse().unwrap();
    refused(
        rig.rotate(nobody, &random()).await,
        Code::NotFound,
        "user 64ff000000000000000000ff",
    );
    let group = resource_id("group", "64ac00000000000000000001");
    let result = rig
        .connector
        .rotate_credential(&group, &random(), false, rig.change())
        .await;
    refused(result.map(|_| ()), Code::Unimplemented, "group has none");
    assert_eq!(rig.sim.writes().total(), 0);
}

#[tokio::test]
async fn a_rotation_whose_answer_was_lost_still_gives_the_password_that_is_set() {
    for fault in ["1:applied-504", "1:applied-no-response", "1:429"] {
        let rig = Rig::new().await;
        let user = rig.free_user(Status::Active);
        let rule = format!("PUT /api/systemusers/{{id}}@{fault}");
        rig.sim.add_fault(&rule).unwrap();
        let done = rig.rotate(user, &random()).await.unwrap();
        assert_eq!(
            done.value,
            [rig.sim.password_of(user).unwrap().expose_secret()],
            "{fault}"
        );
    }
}

#[tokio::test]
async fn a_given_password_is_not_given_twice() {
    let mut rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    rig.set(user, "password_date", json!("2026-01-01T00:00:00.000Z"));
    rig.rotate(user, &given()).await.unwrap();
    rig.deliver_again();
    let again = rig.rotate(user, &given()).await.unwrap();
    assert_eq!(again.effect, Effect::Changed);
    assert_eq!(rig.sim.writes().total(), 1);
    let made_up = rig.rotate(user, &random()).await.unwrap();
    assert_eq!(made_up.value.len(), 1);
    assert_eq!(rig.sim.writes().total(), 2);
}

#[tokio::test]
async fn a_dry_rotation_and_a_cancelled_one_change_nothing() {
    let mut rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    rig.book.pretend = true;
    let done = rig.rotate(user, &random()).await.unwrap();
    assert_eq!((done.effect, done.value.len()), (Effect::Planned, 0));
    rig.book.pretend = false;
    rig.cancel.cancel();
    refused(
        rig.rotate(user, &random()).await,
        Code::Cancelled,
        "stopped",
    );
    assert_eq!(rig.sim.writes().total(), 0);
}

// ---------------------------------------------------------------------------------------------- groups

fn group(name: &str, description: &str) -> v2::Resource {
    v2::Resource {
        id: Some(resource_id("group", "")),
        display_name: name.to_owned(),
        description: description.to_owned(),
        ..v2::Resource::default()
    }
}

async fn make(rig: &Rig, group: &v2::Resource) -> Result<Done<v2::Resource>, Error> {
    rig.connector.create_resource(group, rig.change()).await
}

#[tokio::test]
async fn a_group_is_made_once_and_listed_by_the_next_sync() {
    let mut rig = Rig::new().await;
    let done = make(&rig, &group(" Project X ", "For the project"))
        .await
        .unwrap();
    assert_eq!(done.effect, Effect::Changed);
    let id = id_of(&done.value).to_owned();
    let row = rig.sim.group(id.parse().unwrap()).unwrap();
    assert_eq!(row["name"], "Project X");
    assert_eq!(row["description"], "For the project");
    assert_eq!(rig.listed("group", &id).await, done.value);

    let words = format!("group {id} has this name already");
    let result = make(&rig, &group("PROJECT x", "")).await;
    refused(result, Code::FailedPrecondition, &words);

    rig.deliver_again();
    let again = make(&rig, &group("Project X", "For the project"))
        .await
        .unwrap();
    assert_eq!((again.effect, again.value), (Effect::Changed, done.value));
    assert_eq!(rig.sim.writes().total(), 1);
}

#[tokio::test]
async fn a_group_whose_answer_was_lost_is_found() {
    for fault in [
        "applied-504",
        "applied-no-response",
        "truncated-json",
        "empty-body",
    ] {
        let rig = Rig::new().await;
        rig.sim
            .add_fault(&format!("POST /api/v2/usergroups@1:{fault}"))
            .unwrap();
        let done = make(&rig, &group("Project X", "")).await.unwrap();
        assert_eq!(done.effect, Effect::Changed, "{fault}");
        assert_eq!(rig.sim.writes().total(), 1, "{fault}");
    }
}

#[tokio::test]
async fn groups_that_cannot_be_made_are_refused() {
    let rig = Rig::new().await;
    for name in ["", "  ", "a\u{7}b"] {
        let result = make(&rig, &group(name, "")).await;
        refused(result, Code::InvalidArgument, "resource.display_name");
    }
    let result = make(
        &rig,
        &v2::Resource {
            id: Some(resource_id("app", "")),
            ..group("Project X", "")
        },
    )
    .await;
    refused(result, Code::Unimplemented, "only resources of type group");
    rig.cancel.cancel();
    refused(
        make(&rig, &group("X", "")).await,
        Code::Cancelled,
        "stopped",
    );
    assert_eq!(rig.sim.writes().total(), 0);

    let rig = Rig::with(key(READ_ONLY_KEY), ALL).await;
    refused(
        make(&rig, &group("X", "")).await,
        Code::PermissionDenied,
        "may not create user groups",
    );
}

#[tokio::test]
async fn a_dry_run_says_what_group_would_be() {
    let mut rig = Rig::new().await;
    rig.book.pretend = true;
    let done = make(&rig, &group("Project X", "d")).await.unwrap();
    assert_eq!(done.effect, Effect::Planned);
    assert_eq!(
        (id_of(&done.value), done.value.display_name.as_str()),
        ("planned", "Project X")
    );
    let existing = rig.sim.inspect(|tenant| tenant.group_ids()[0]).unwrap();
    let deleted = rig.delete("group", &existing.to_string()).await.unwrap();
    assert_eq!(deleted.effect, Effect::Planned);
    assert_eq!(rig.sim.writes().total(), 0);
}

#[tokio::test]
async fn a_group_is_deleted_once() {
    for (silent, fault) in [
        (false, None),
        (true, None),
        (false, Some("applied-504")),
        (false, Some("429")),
    ] {
        let rig = Rig::with(key(FULL_KEY), Allowed::default()).await;
        rig.sim
            .change_behaviour(|behaviour| behaviour.silent_group_deletion = silent);
        if let Some(fault) = fault {
            rig.sim
                .add_fault(&format!("DELETE /api/v2/usergroups/{{id}}@1:{fault}"))
                .unwrap();
        }
        let id = rig.sim.inspect(|tenant| tenant.group_ids()[0]).unwrap();
        let done = rig.delete("group", &id.to_string()).await.unwrap();
        assert_eq!(done.effect, Effect::Changed);
        assert!(rig.sim.group(id).is_none());
        let again = rig.delete("group", &id.to_string()).await.unwrap();
        assert_eq!(again.effect, Effect::AlreadyTrue);
        assert_eq!(rig.plans().len(), 1);
    }
}

#[tokio::test]
async fn what_is_not_found_while_nothing_is_found_is_not_deleted() {
    let rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    let group = rig.sim.inspect(|tenant| tenant.group_ids()[0]).unwrap();
    for (kind, id) in [("user", user), ("group", group)] {
        rig.sim.add_fault("*@1-99:404").unwrap();
        let result = rig.delete(kind, &id.to_string()).await;
        refused(result, Code::Unavailable, "404 (not found) to everything");
        rig.sim.clear_faults();
    }
    // Nor is somebody nobody while no administrator is found.
    let (_, admin) = administrator(&rig, &["Help Desk"]);
    for path in ["/api/users/{id}", "/api/users"] {
        rig.sim.add_fault(&format!("{path}@1-99:404")).unwrap();
    }
    let result = rig.delete("user", &admin.to_string()).await;
    refused(result, Code::Unavailable, "404 (not found) to everything");
    let scope = SyncScope {
        sync_id: "after".to_owned(),
        resource_type_ids: Vec::new(),
        folder: None,
    };
    let result = rig
        .connector
        .get_resource(&scope, &resource_id("user", &admin.to_string()))
        .await;
    refused(result, Code::Unavailable, "404 (not found) to everything");
    assert!(rig.sim.user(user).is_some() && rig.sim.group(group).is_some());
    assert!(rig.plans().is_empty());
}

// ---------------------------------------------------------------------------------------------- actions

/// Name, arguments, how the user is before, the endpoint that changes it.
type Simple = (
    &'static str,
    Vec<(&'static str, Value)>,
    fn(&Rig) -> Id,
    &'static str,
    &'static [(&'static str, &'static str)],
);

fn simple() -> Vec<Simple> {
    let at = || ("start_date", string_value("2027-01-31T18:00:00+01:00"));
    fn active(rig: &Rig) -> Id {
        rig.free_user(Status::Active)
    }
    fn keyed(rig: &Rig) -> Id {
        let user = active(rig);
        let key = |id: &str, name: &str| json!({"_id": id, "name": name, "public_key": "ssh-ed25519 AAAA"});
        let keys = json!([
            key("64ab00000000000000000e01", "laptop"),
            key("64ab00000000000000000e02", "desk"),
        ]);
        rig.set(user, "ssh_keys", keys);
        user
    }
    fn enrolled(rig: &Rig) -> Id {
        let user = active(rig);
        rig.set(user, "totp_enabled", json!(true));
        rig.set(user, "mfa", json!({"configured": true, "exclusion": false}));
        user
    }
    fn unexpired(rig: &Rig) -> Id {
        let user = active(rig);
        rig.set(user, "password_expired", json!(false));
        user
    }
    vec![
        (
            "suspend_user",
            vec![],
            active,
            "PUT /api/systemusers/{id}",
            &[("state", "SUSPENDED")],
        ),
        (
            "activate_user",
            vec![],
            |rig| rig.free_user(Status::Suspended),
            "PUT /api/systemusers/{id}",
            &[("state", "ACTIVATED")],
        ),
        (
            "activate_user",
            vec![("send_email", bool_value(false))],
            |rig| rig.free_user(Status::Staged),
            "POST /api/systemusers/{id}/state/activate",
            &[("state", "ACTIVATED")],
        ),
        (
            "unlock_user",
            vec![],
            |rig| rig.free_user(Status::Locked),
            "POST /api/systemusers/{id}/unlock",
            &[],
        ),
        (
            "expire_password",
            vec![],
            unexpired,
            "POST /api/systemusers/{id}/expire",
            &[],
        ),
        (
            "reset_mfa",
            vec![],
            enrolled,
            "POST /api/systemusers/{id}/resetmfa",
            &[("exclusion_until", "")],
        ),
        (
            "schedule_suspend",
            vec![at()],
            active,
            "POST /api/v2/bulk/userstates",
            &[("start_date", "2027-01-31T17:00:00.000Z")],
        ),
        (
            "schedule_activate",
            vec![at(), ("email_to", string_value("a@example.org"))],
            |rig| rig.free_user(Status::Suspended),
            "POST /api/v2/bulk/userstates",
            &[("start_date", "2027-01-31T17:00:00.000Z")],
        ),
        (
            "remove_ssh_key",
            vec![("key_id", string_value("64ab00000000000000000e01"))],
            keyed,
            "DELETE /api/systemusers/{id}/sshkeys/{key}",
            &[("key_id", "64ab00000000000000000e01")],
        ),
        (
            "update_user_attributes",
            vec![("department", string_value("Night Watch"))],
            active,
            "PUT /api/systemusers/{id}",
            &[],
        ),
    ]
}

#[tokio::test]
async fn an_action_changes_the_user_once() {
    for (name, arguments, user, endpoint, told) in simple() {
        let rig = Rig::new().await;
        let user = user(&rig);
        let done = rig.act(name, user, &arguments).await.unwrap();
        assert_eq!(done.effect, Effect::Changed, "{name}");
        assert!(flag(&done, "success") && flag(&done, "changed"), "{name}");
        assert_eq!(text(&done, "user_id"), user.to_string());
        for (field, value) in told {
            assert_eq!(text(&done, field), *value, "{name}");
        }
        assert_eq!(rig.sim.writes().count(endpoint), 1, "{name}");
        assert_eq!(rig.sim.writes().total(), 1, "{name}");

        let schema = rig
            .connector
            .action_schemas()
            .into_iter()
            .find(|schema| schema.name == name)
            .unwrap();
        for field in done.value.fields.keys() {
            let announced = schema.return_types.iter().any(|one| one.name == *field);
            assert!(announced, "{name} gives {field}");
        }
        assert_eq!(schema.return_types.len(), done.value.fields.len(), "{name}");

        let again = rig.act(name, user, &arguments).await.unwrap();
        assert_eq!(again.effect, Effect::AlreadyTrue, "{name}");
        assert!(
            flag(&again, "success") && !flag(&again, "changed"),
            "{name}"
        );
        assert_eq!(rig.plans().len(), 1, "{name}");
        assert_eq!(rig.sim.writes().total(), 1, "{name}");
        assert_eq!(rig.plans()[0].subject, format!("user:{user}"));
    }
}

#[tokio::test]
async fn an_action_whose_answer_was_lost_or_came_late_succeeds() {
    for (name, arguments, user, endpoint, _) in simple() {
        for fault in ["applied-504", "applied-no-response", "429"] {
            let rig = Rig::new().await;
            let user = user(&rig);
            rig.sim.add_fault(&format!("{endpoint}@1:{fault}")).unwrap();
            let done = rig.act(name, user, &arguments).await.unwrap();
            assert_eq!(done.effect, Effect::Changed, "{name} {fault}");
        }
        let rig = Rig::new().await;
        let user = user(&rig);
        rig.sim
            .change_behaviour(|behaviour| behaviour.hide_writes_for_reads = 1);
        let done = rig.act(name, user, &arguments).await.unwrap();
        assert_eq!(done.effect, Effect::Changed, "{name}");
    }
}

/// The arguments of a scheduled change.
fn at() -> [(&'static str, Value); 1] {
    [("start_date", string_value("2027-01-31T17:00:00Z"))]
}

#[tokio::test]
async fn a_change_that_was_scheduled_though_jumpcloud_asked_to_wait_is_not_scheduled_twice() {
    let rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    rig.sim
        .add_fault("POST /api/v2/bulk/userstates@1:applied-503=retry-after:1")
        .unwrap();
    let done = rig.act("schedule_suspend", user, &at()).await.unwrap();
    assert_eq!(done.effect, Effect::Changed);
    assert_eq!(rig.sim.writes().total(), 1);
}

#[tokio::test]
async fn a_second_delivery_waits_for_the_scheduled_change_of_the_first() {
    let mut rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    rig.hide_writes();
    rig.cut_off(rig.act("schedule_suspend", user, &at())).await;
    rig.deliver_again();
    let done = rig.act("schedule_suspend", user, &at()).await.unwrap();
    assert_eq!(done.effect, Effect::Changed);
    assert!(!text(&done, "scheduled_job_id").is_empty());
    assert_eq!(rig.sim.writes().total(), 1);
}

#[tokio::test]
async fn a_second_delivery_waits_for_the_administrator_of_the_first() {
    let mut rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    rig.hide_writes();
    rig.cut_off(rig.give_help_desk(user)).await;
    rig.deliver_again();
    let done = rig.give_help_desk(user).await.unwrap();
    assert_eq!((done.effect, done.value.len()), (Effect::Changed, 1));
    assert_eq!((rig.sim.writes().total(), rig.plans().len()), (1, 1));
}

#[tokio::test]
async fn an_administrator_who_exists_but_shows_late_is_found_after_the_refusal_of_another() {
    for as_400 in [false, true] {
        let rig = Rig::new().await;
        let user = rig.free_user(Status::Active);
        rig.hide_writes();
        rig.sim
            .change_behaviour(|behaviour| behaviour.duplicates_as_400 = as_400);
        rig.cut_off(rig.give_help_desk(user)).await;
        let done = rig.give_help_desk(user).await.unwrap();
        assert_eq!((done.effect, done.value.len()), (Effect::AlreadyTrue, 1));
        assert_eq!(rig.sim.writes().total(), 1);
    }
}

#[tokio::test]
async fn an_administrator_of_that_address_whom_nobody_shows_stays_a_refusal() {
    let rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    rig.sim.add_fault("POST /api/users@1:409").unwrap();
    let result = rig.give_help_desk(user).await;
    refused(result, Code::AlreadyExists, "POST /api/users");
}

#[tokio::test]
async fn an_action_that_may_not_be_says_what_the_key_lacks() {
    for (name, arguments, user, _, _) in simple() {
        let rig = Rig::with(key(READ_ONLY_KEY), ALL).await;
        let user = user(&rig);
        refused(
            rig.act(name, user, &arguments).await,
            Code::PermissionDenied,
            "the JumpCloud key may not",
        );
    }
}

#[tokio::test]
async fn a_dry_action_and_a_cancelled_one_change_nothing() {
    for (name, arguments, user, _, _) in simple() {
        let mut rig = Rig::new().await;
        let user = user(&rig);
        rig.book.pretend = true;
        let done = rig.act(name, user, &arguments).await.unwrap();
        assert_eq!(done.effect, Effect::Planned, "{name}");
        assert!(flag(&done, "success") && !flag(&done, "changed"), "{name}");
        rig.book.pretend = false;
        rig.cancel.cancel();
        refused(
            rig.act(name, user, &arguments).await,
            Code::Cancelled,
            "stopped",
        );
        assert_eq!(rig.sim.writes().total(), 0, "{name}");
    }
}

#[tokio::test]
async fn an_action_on_nobody_or_on_an_administrator_says_so() {
    let rig = Rig::new().await;
    let admin = rig.sim.inspect(|tenant| tenant.admin_ids()[0]).unwrap();
    let nobody: Id = "64ff000000000000000000ff".parse().unwrap();
    let mut all = simple();
    all.push((
        "remove_user_from_all_groups",
        vec![],
        |rig| rig.free_user(Status::Active),
        "",
        &[],
    ));
    for (name, arguments, ..) in all {
        refused(
            rig.act(name, nobody, &arguments).await,
            Code::NotFound,
            "user 64ff000000000000000000ff",
        );
        refused(
            rig.act(name, admin, &arguments).await,
            Code::FailedPrecondition,
            "an administrator without a directory account",
        );
    }
    assert_eq!(rig.sim.writes().total(), 0);
}

#[tokio::test]
async fn actions_and_arguments_that_do_not_exist_are_refused() {
    let rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    refused(
        rig.act("erase_user", user, &[]).await,
        Code::NotFound,
        "action erase_user",
    );
    let none = Struct::default();
    let on_groups = rig
        .connector
        .invoke("suspend_user", "group", &none, rig.change())
        .await;
    refused(on_groups, Code::NotFound, "action suspend_user");
    let unnamed = rig
        .connector
        .invoke("suspend_user", "user", &none, rig.change())
        .await;
    refused(unnamed, Code::InvalidArgument, "user_id is missing");
    for (name, argument, value) in [
        ("suspend_user", "until", string_value("x")),
        ("reset_mfa", "exclusion_days", number_value(0.0)),
        ("reset_mfa", "exclusion_until", string_value("tomorrow")),
        ("schedule_suspend", "start_date", string_value("tomorrow")),
        ("activate_user", "email_to", string_value("nobody")),
        ("remove_ssh_key", "key_id", number_value(1.0)),
        ("update_user_attributes", "state", string_value("staged")),
    ] {
        refused(
            rig.act(name, user, &[(argument, value)]).await,
            Code::InvalidArgument,
            argument,
        );
    }
    refused(
        rig.act("remove_ssh_key", user, &[]).await,
        Code::InvalidArgument,
        "key_id and key_name",
    );
    refused(
        rig.act("schedule_activate", user, &[]).await,
        Code::InvalidArgument,
        "start_date is missing",
    );
    assert_eq!(rig.sim.writes().total(), 0);
}

#[tokio::test]
async fn a_service_account_may_suspend_administrators() {
    let rig = Rig::service_account().await;
    let (user, _) = administrator(&rig, &["Help Desk"]);
    let done = rig.act("suspend_user", user, &[]).await.unwrap();
    assert_eq!(done.effect, Effect::Changed);
    assert_eq!(rig.user(user)["state"], "SUSPENDED");
}

#[tokio::test]
async fn the_mail_of_an_activation_is_as_chosen() {
    for (arguments, mails) in [
        (vec![], 1),
        (vec![("send_email", bool_value(true))], 1),
        (vec![("send_email", bool_value(false))], 0),
        (vec![("email_to", string_value("a@example.org"))], 1),
    ] {
        let rig = Rig::new().await;
        let user = rig.free_user(Status::Staged);
        rig.act("activate_user", user, &arguments).await.unwrap();
        let sent: usize = rig
            .sim
            .writes()
            .recent
            .iter()
            .map(|write| write.mails.len())
            .sum();
        assert_eq!(sent, mails, "{arguments:?}");
    }
}

#[tokio::test]
async fn a_user_without_a_password_has_none_to_expire() {
    let rig = Rig::new().await;
    let user = rig.free_user(Status::NeverActivated);
    rig.set(user, "password_expired", json!(false));
    refused(
        rig.act("expire_password", user, &[]).await,
        Code::FailedPrecondition,
        "has no password yet",
    );
}

#[tokio::test]
async fn a_reset_second_factor_may_come_with_an_exemption() {
    for (argument, value, shown) in [
        (
            "exclusion_days",
            number_value(7.0),
            json!({"exclusion": true, "exclusionDays": 7}),
        ),
        (
            "exclusion_until",
            string_value("2027-02-01T00:00:00Z"),
            json!({"exclusion": true, "exclusionUntil": "2027-02-01T00:00:00.000Z"}),
        ),
    ] {
        let rig = Rig::new().await;
        let user = rig.free_user(Status::Active);
        let done = rig
            .act("reset_mfa", user, &[(argument, value)])
            .await
            .unwrap();
        assert_eq!(done.effect, Effect::Changed);
        let mfa = &rig.user(user)["mfa"];
        for (field, value) in shown.as_object().unwrap() {
            assert_eq!(&mfa[field], value);
        }
    }
    let rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    let both = [
        ("exclusion_days", number_value(7.0)),
        ("exclusion_until", string_value("2027-02-01T00:00:00Z")),
    ];
    refused(
        rig.act("reset_mfa", user, &both).await,
        Code::InvalidArgument,
        "given together",
    );
}

#[tokio::test]
async fn an_ssh_key_is_found_by_its_name_where_only_one_has_it() {
    let rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    let key =
        |id: &str, name: &str| json!({"_id": id, "name": name, "public_key": "ssh-ed25519 AAAA"});
    let (one, two, three) = (
        "64ab00000000000000000e01",
        "64ab00000000000000000e02",
        "64ab00000000000000000e03",
    );
    let keys = json!([key(one, "laptop"), key(two, "desk"), key(three, "desk")]);
    rig.set(user, "ssh_keys", keys);
    let named = |name: &str| [("key_name", string_value(name))];
    let done = rig
        .act("remove_ssh_key", user, &named("laptop"))
        .await
        .unwrap();
    assert_eq!(text(&done, "key_id"), one);
    let words = format!("one of {two}, {three}");
    refused(
        rig.act("remove_ssh_key", user, &named("desk")).await,
        Code::FailedPrecondition,
        &words,
    );
    let gone = rig
        .act("remove_ssh_key", user, &named("laptop"))
        .await
        .unwrap();
    assert_eq!(gone.effect, Effect::AlreadyTrue);
    assert_eq!(rig.user(user)["ssh_keys"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_user_leaves_every_group_except_those_with_a_rule() {
    let rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    let make = |name: &str, method| {
        rig.sim
            .edit(|tenant| {
                let group = tenant.add_group(name, method);
                tenant.set_members(group, &[user]).unwrap();
                group
            })
            .unwrap()
    };
    let one = make("One", MembershipMethod::Static);
    let two = make("Two", MembershipMethod::Notset);
    let proposed = make("Three", MembershipMethod::DynamicReviewRequired);
    let ruled = make("Four", MembershipMethod::DynamicAutomated);
    rig.sim
        .add_fault("POST /api/v2/usergroups/{id}/members@2:applied-504")
        .unwrap();
    let done = rig
        .act("remove_user_from_all_groups", user, &[])
        .await
        .unwrap();
    assert_eq!(done.effect, Effect::Changed);
    let mut removed: Vec<String> = [one, two, proposed].iter().map(Id::to_string).collect();
    removed.sort();
    assert_eq!(texts(&done, "removed_groups"), removed);
    assert_eq!(texts(&done, "dynamic_groups"), [ruled.to_string()]);
    for group in [one, two, proposed] {
        assert!(!rig.sim.is_member(group, user));
    }
    assert!(rig.sim.is_member(ruled, user));
    let progress = rig.book.progress.lock().unwrap().clone();
    assert_eq!(progress.first().unwrap().0, 0);
    assert!(progress.is_sorted_by_key(|(percent, _)| *percent));
    assert_eq!(progress[1].1, "removed from 1 of 3 groups");

    let again = rig
        .act("remove_user_from_all_groups", user, &[])
        .await
        .unwrap();
    assert_eq!(again.effect, Effect::AlreadyTrue);
    assert_eq!(texts(&again, "dynamic_groups"), [ruled.to_string()]);
    assert_eq!(rig.plans().len(), 1);
}

#[tokio::test]
async fn leaving_all_groups_goes_on_after_a_failure() {
    let mut rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    for name in ["One", "Two", "Three"] {
        rig.sim.edit(|tenant| {
            let group = tenant.add_group(name, MembershipMethod::Static);
            tenant.set_members(group, &[user]).unwrap();
        });
    }
    rig.sim
        .add_fault("POST /api/v2/usergroups/{id}/members@2+:403")
        .unwrap();
    refused(
        rig.act("remove_user_from_all_groups", user, &[]).await,
        Code::PermissionDenied,
        "change the members of groups",
    );
    rig.sim.clear_faults();
    rig.deliver_again();
    let done = rig
        .act("remove_user_from_all_groups", user, &[])
        .await
        .unwrap();
    assert_eq!(texts(&done, "removed_groups").len(), 2);
    rig.book.pretend = true;
    rig.earlier = None;
    let nothing = rig
        .act("remove_user_from_all_groups", user, &[])
        .await
        .unwrap();
    assert_eq!(nothing.effect, Effect::AlreadyTrue);
}

#[tokio::test]
async fn an_update_sends_what_differs_and_merges_lists() {
    let rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    let boss = rig.free_user(Status::Active);
    rig.set(user, "department", json!("Engineering"));
    rig.set(user, "company", json!("Example Corp"));
    rig.set(
        user,
        "attributes",
        json!([
            {"name": "badge", "value": "B-1"},
            {"name": "floor", "value": "3"},
            {"name": "old", "value": "x"},
        ]),
    );
    rig.set(
        user,
        "phoneNumbers",
        json!([
            {"type": "work", "number": "1"}, {"type": "home", "number": "2"},
        ]),
    );
    let attributes = Value {
        kind: Some(Kind::StructValue(said(&[
            ("badge", string_value("B-2")),
            ("old", string_value("")),
        ]))),
    };
    let done = rig
        .act(
            "update_user_attributes",
            user,
            &[
                ("department", string_value("Engineering")),
                ("company", string_value("")),
                ("job_title", string_value("Keeper")),
                ("manager", string_value(boss.to_string())),
                ("attributes", attributes),
                ("work_phone", string_value("9")),
            ],
        )
        .await
        .unwrap();
    assert_eq!(
        texts(&done, "updated_fields"),
        [
            "attributes",
            "company",
            "jobTitle",
            "manager",
            "phoneNumbers"
        ]
    );
    let row = rig.user(user);
    assert_eq!(row["company"], "");
    assert_eq!(row["jobTitle"], "Keeper");
    assert_eq!(row["manager"], boss.to_string());
    assert_eq!(
        row["attributes"],
        json!([{"name": "badge", "value": "B-2"}, {"name": "floor", "value": "3"}])
    );
    let phones = row["phoneNumbers"].as_array().unwrap();
    let numbers: Vec<(&str, &str)> = phones
        .iter()
        .map(|phone| {
            (
                phone["type"].as_str().unwrap(),
                phone["number"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(numbers, [("home", "2"), ("work", "9")]);
    let write = rig.sim.writes().recent.pop_front().unwrap();
    assert!(!write.changed.contains(&"department".to_owned()));
    let [plan] = rig.plans().try_into().unwrap();
    assert!(!format!("{plan:?}").contains("Keeper"));

    let cleared = [("manager", string_value(""))];
    rig.act("update_user_attributes", user, &cleared)
        .await
        .unwrap();
    assert!(rig.user(user)["manager"].as_str().is_none_or(str::is_empty));
}

#[tokio::test]
async fn an_update_leaves_fields_of_another_directory_alone() {
    let rig = Rig::new().await;
    let user = rig.free_user(Status::Active);
    rig.set(
        user,
        "restrictedFields",
        json!([{"field": "department", "type": "scim", "id": "64aa0000000000000000005c"}]),
    );
    let department = [("department", string_value("Night Watch"))];
    refused(
        rig.act("update_user_attributes", user, &department).await,
        Code::FailedPrecondition,
        "department (by scim)",
    );
    for (field, value, words) in [
        ("email", "", "a user cannot be without it"),
        ("manager", &user.to_string(), "names the user itself"),
    ] {
        refused(
            rig.act(
                "update_user_attributes",
                user,
                &[(field, string_value(value))],
            )
            .await,
            Code::InvalidArgument,
            words,
        );
    }
    assert_eq!(rig.sim.writes().total(), 0);
}

#[tokio::test]
async fn an_administrator_key_without_billing_does_everything_about_users() {
    let rig = Rig::with(key(ADMINISTRATOR_KEY), Allowed::default()).await;
    let done = rig.create(&dana(&[])).await.unwrap();
    let id = sim_id(&done.value.resource);
    for (name, arguments) in [
        ("suspend_user", vec![]),
        ("activate_user", vec![]),
        ("expire_password", vec![]),
    ] {
        let done = rig.act(name, id, &arguments).await.unwrap();
        assert_eq!(done.effect, Effect::Changed, "{name}");
    }
}
