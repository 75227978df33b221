//! The connector against the simulated JumpCloud: every row and grant is checked against the generator's own truth.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use baton_jumpcloud::{
    clock::SystemClock,
    connector::{
        Connector, Error, SyncScope,
        jumpcloud::{
            Allowed, JumpCloud, Settings,
            client::{self, Auth, Client},
        },
    },
    error::{Class, Classify, Code, chain},
    proto::{self, Kind, connector as v2},
    sim::jumpcloud::{
        Collection, Config, FULL_KEY, HELP_DESK_KEY, Id, JumpCloudSim, MembershipMethod, NewUser,
        READ_ONLY_KEY, Shape, Status, Truth,
    },
    syncer,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

pub const ADMINISTRATION: &str = "2UjI0eIRo77RGFwi2GKpAa0Til0";

/// The tenant on which the number of calls is promised.
fn promised() -> Shape {
    Shape {
        seed: 7,
        users: 5000,
        groups: 200,
        members_per_group: 60,
        apps: 80,
        groups_per_app: 4,
        users_per_app: 5,
        admins: 15,
        ..Shape::default()
    }
}

fn small() -> Shape {
    Shape {
        seed: 11,
        users: 250,
        groups: 12,
        members_per_group: 20,
        apps: 5,
        groups_per_app: 3,
        users_per_app: 4,
        admins: 9,
        ..Shape::default()
    }
}

struct Rig {
    sim: JumpCloudSim,
    connector: JumpCloud,
    folder: tempfile::TempDir,
}

#[derive(Default)]
struct Options {
    key: Option<&'static str>,
    merge_administrators: bool,
    org_id: Option<String>,
    optional: Vec<String>,
}

impl Rig {
    async fn start(shape: Shape) -> Self {
        Self::with(Config::of(shape), Options::default()).await
    }

    async fn with(config: Config, options: Options) -> Self {
        let sim = JumpCloudSim::start(config).await.unwrap();
        let connector_folder = tempfile::tempdir().unwrap();
        let connector = connector(&sim, &options, connector_folder.path());
        Self {
            sim,
            connector,
            folder: connector_folder,
        }
    }

    async fn sync(&self) -> Synced {
        self.try_sync("sync").await.unwrap()
    }

    async fn try_sync(&self, sync_id: &str) -> Result<Synced, Error> {
        let result = read(&self.connector, sync_id).await;
        let warnings = self.connector.take_warnings(sync_id);
        self.connector.cleanup(sync_id).await;
        let mut synced = result?;
        synced.warnings = warnings;
        Ok(synced)
    }
}

fn connector(sim: &JumpCloudSim, options: &Options, folder: &Path) -> JumpCloud {
    let client = Client::try_new(client::Settings {
        console_url: sim.base_url.parse().unwrap(),
        insights_url: sim.base_url.parse().unwrap(),
        auth: Auth::ApiKey(SecretString::from(options.key.unwrap_or(FULL_KEY))),
        org_id: options.org_id.clone(),
        timeout: Duration::from_secs(20),
        extra_ca_pem: None,
        max_concurrency: 8,
        rotation_wait: Duration::ZERO,
    })
    .unwrap();
    JumpCloud::new(
        client,
        Settings {
            merge_administrators: options.merge_administrators,
            work_dir: folder.to_owned(),
            optional: options.optional.clone(),
            allowed: Allowed::default(),
        },
    )
}

/// Everything that a full sync stores.
#[derive(Debug, Default)]
struct Synced {
    resources: BTreeMap<(String, String), v2::Resource>,
    entitlements: BTreeMap<String, v2::Entitlement>,
    grants: BTreeMap<String, v2::Grant>,
    warnings: Vec<String>,
}

fn scope(sync_id: &str, folder: Option<&Path>) -> SyncScope {
    SyncScope {
        sync_id: sync_id.to_owned(),
        resource_type_ids: Vec::new(),
        folder: folder.map(Path::to_owned),
    }
}

async fn read(connector: &JumpCloud, sync_id: &str) -> Result<Synced, Error> {
    read_in(connector, &scope(sync_id, None)).await
}

async fn read_in(connector: &JumpCloud, scope: &SyncScope) -> Result<Synced, Error> {
    let mut synced = Synced::default();
    for kind in connector.resource_types() {
        let mut token: Option<String> = None;
        loop {
            let page = connector
                .list_resources(scope, &kind.id, None, token.as_deref())
                .await?;
            for resource in page.items {
                let id = resource.id.clone().unwrap();
                assert_eq!(id.resource_type, kind.id);
                let before = synced
                    .resources
                    .insert((id.resource_type, id.resource), resource);
                assert!(before.is_none(), "{before:?} is listed twice");
            }
            assert_ne!(page.next.as_deref(), Some(""));
            token = page.next;
            if token.is_none() {
                break;
            }
        }
    }
    let resources: Vec<v2::Resource> = synced.resources.values().cloned().collect();
    let grants: Vec<Vec<v2::Grant>> = stream::iter(&resources)
        .map(|resource| all_grants(connector, scope, resource))
        .buffer_unordered(8)
        .try_collect()
        .await?;
    for resource in &resources {
        let page = connector.list_entitlements(scope, resource, None).await?;
        assert!(page.next.is_none());
        for entitlement in page.items {
            assert_eq!(entitlement.resource.as_ref(), Some(resource));
            let before = synced
                .entitlements
                .insert(entitlement.id.clone(), entitlement);
            assert!(before.is_none(), "{before:?} comes twice");
        }
    }
    for grant in grants.into_iter().flatten() {
        let before = synced.grants.insert(grant.id.clone(), grant);
        assert!(before.is_none(), "{before:?} comes twice");
    }
    Ok(synced)
}

async fn all_grants(
    connector: &JumpCloud,
    scope: &SyncScope,
    resource: &v2::Resource,
) -> Result<Vec<v2::Grant>, Error> {
    let mut grants = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let page = connector
            .list_grants(scope, resource, token.as_deref())
            .await?;
        grants.extend(page.items);
        token = page.next;
        if token.is_none() {
            return Ok(grants);
        }
    }
}

impl Synced {
    fn ids(&self, kind: &str) -> BTreeSet<String> {
        self.resources
            .keys()
            .filter(|(of, _)| of == kind)
            .map(|(_, id)| id.clone())
            .collect()
    }

    fn get(&self, kind: &str, id: impl ToString) -> &v2::Resource {
        self.resources
            .get(&(kind.to_owned(), id.to_string()))
            .unwrap_or_else(|| panic!("no {kind} {}", id.to_string()))
    }

    fn fact(&self, kind: &str, id: impl ToString, key: &str) -> Option<String> {
        match self
            .get(kind, id)
            .profile
            .as_ref()?
            .fields
            .get(key)?
            .kind
            .as_ref()?
        {
            Kind::StringValue(text) => Some(text.clone()),
            Kind::BoolValue(flag) => Some(flag.to_string()),
            _ => None,
        }
    }

    /// No grant or entitlement names a resource that is not there.
    fn assert_nothing_dangles(&self) {
        let exists = |id: Option<&v2::ResourceId>| {
            let id = id.unwrap();
            assert!(
                self.resources
                    .contains_key(&(id.resource_type.clone(), id.resource.clone())),
                "{id:?} is not there"
            );
        };
        let mut pairs = BTreeSet::new();
        for grant in self.grants.values() {
            let entitlement = grant.entitlement.as_ref().unwrap();
            let principal = grant.principal.as_ref().and_then(|it| it.id.as_ref());
            assert!(self.entitlements.contains_key(&entitlement.id));
            exists(entitlement.resource.as_ref().and_then(|it| it.id.as_ref()));
            exists(principal);
            let principal = principal.unwrap();
            let pair = (
                entitlement.id.clone(),
                principal.resource_type.clone(),
                principal.resource.clone(),
            );
            assert!(pairs.insert(pair), "{} repeats a pair", grant.id);
            let expandable: Option<v2::GrantExpandable> = proto::find(&grant.annotations);
            for source in expandable.map(|it| it.entitlement_ids).unwrap_or_default() {
                assert!(self.entitlements.contains_key(&source), "{source}");
            }
        }
    }
}

fn grant_id(kind: &str, id: impl ToString, principal: &str, who: impl ToString) -> String {
    let id = id.to_string();
    format!("{kind}-grant:{id}:{principal}:{}:{id}", who.to_string())
}

pub fn role_id(name: &str) -> String {
    let mut id = String::from("role_");
    for character in name.to_lowercase().chars() {
        if character.is_ascii_alphanumeric() {
            id.push(character);
        } else if !id.ends_with('_') {
            id.push('_');
        }
    }
    id
}

/// The grants that a correct sync has, from the generator's state alone.
fn expected_grants(truth: &Truth, merged: bool) -> BTreeSet<String> {
    let mut expected = BTreeSet::new();
    for (group, facts) in &truth.groups {
        for member in &facts.members {
            expected.insert(grant_id("group", group, "user", member));
        }
        for nested in &facts.nested {
            expected.insert(grant_id("group", group, "group", nested));
        }
    }
    for (app, facts) in &truth.apps {
        for group in &facts.groups {
            expected.insert(grant_id("app", app, "group", group));
        }
        for user in &facts.users {
            expected.insert(grant_id("app", app, "user", user));
        }
    }
    for (admin, facts) in &truth.admins {
        let who = facts.user.filter(|_| merged).unwrap_or(*admin);
        expected.insert(grant_id("app", ADMINISTRATION, "user", who));
        for role in &facts.roles {
            expected.insert(grant_id("role", role_id(role), "user", who));
        }
    }
    expected
}

fn texts(ids: impl Iterator<Item = Id>) -> BTreeSet<String> {
    ids.map(|id| id.to_string()).collect()
}

fn assert_true(synced: &Synced, truth: &Truth, merged: bool) {
    let mut users = texts(truth.users.keys().copied());
    users.extend(texts(
        truth
            .admins
            .iter()
            .filter(|(_, facts)| !merged || facts.user.is_none())
            .map(|(id, _)| *id),
    ));
    assert_eq!(synced.ids("user"), users);
    assert_eq!(synced.ids("group"), texts(truth.groups.keys().copied()));
    let mut apps = texts(truth.apps.keys().copied());
    apps.insert(ADMINISTRATION.to_owned());
    assert_eq!(synced.ids("app"), apps);
    let roles = synced.ids("role");
    for name in truth.role_names() {
        assert!(roles.contains(&role_id(name)), "{name}");
    }
    let grants: BTreeSet<String> = synced.grants.keys().cloned().collect();
    assert_eq!(grants, expected_grants(truth, merged));
    synced.assert_nothing_dangles();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_of_five_thousand_costs_at_most_430_calls_and_every_grant_is_there() {
    let rig = Rig::start(promised()).await;
    assert!(rig.connector.validate().await.unwrap().warnings.is_empty());
    let synced = rig.sync().await;
    let requests = rig.sim.requests();
    assert!(requests.total <= 430, "{} calls", requests.total);
    assert!(requests.unexpected.is_empty(), "{:?}", requests.unexpected);
    assert_eq!(requests.unauthenticated, 0);
    assert_eq!(requests.count("GET /api/users"), 2);
    assert_eq!(requests.count("GET /api/v2/roles"), 1);
    assert_true(&synced, &rig.sim.truth(), false);
    let counts = rig.sim.truth().counts();
    assert_eq!((counts.users, counts.memberships), (5000, 12_000));
    assert_eq!(rig.folder.path().read_dir().unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_of_a_whole_sync_holds_every_row_and_all_inherited_access() {
    let rig = Rig::start(promised()).await;
    let report = engine_sync(&rig).await.unwrap();
    let target = rig.folder.path().join("sync.c1z");
    let requests = rig.sim.requests();
    assert!(requests.total <= 430, "{} calls", requests.total);
    let truth = rig.sim.truth();
    let counts = truth.counts();
    let rows = |of: &BTreeMap<String, u64>, kind: &str| {
        usize::try_from(of.get(kind).copied().unwrap_or_default()).unwrap()
    };
    assert_eq!(
        rows(&report.resources, "user"),
        counts.users + counts.admins
    );
    assert_eq!(rows(&report.resources, "group"), counts.groups);
    assert_eq!(rows(&report.resources, "app"), counts.apps + 1);
    assert_eq!(rows(&report.entitlements, "app"), counts.apps + 1);
    assert_eq!(rows(&report.grants, "group"), counts.memberships);
    assert_eq!(rows(&report.grants, "role"), counts.admin_roles);
    // The groups bound, the users that reach the application one way or another, and the administrators.
    assert_eq!(
        rows(&report.grants, "app"),
        counts.group_bindings + counts.effective_access + counts.admins
    );
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    assert!(fs::metadata(&target).unwrap().len() > 0);
}

#[tokio::test]
async fn every_fact_of_a_user_that_joins_it_to_another_is_right() {
    let rig = Rig::start(small()).await;
    let (users, gone) = rig
        .sim
        .edit(|tenant| {
            let users = tenant.user_ids();
            // The manager comes later in the listing than the report.
            tenant.set_manager(users[0], Some(users[249])).unwrap();
            tenant.set_manager(users[1], Some(users[7])).unwrap();
            tenant.remove_user(users[7]).unwrap();
            tenant.set_manager(users[2], None).unwrap();
            for (user, status) in [
                (users[20], Status::Active),
                (users[21], Status::Staged),
                (users[22], Status::Suspended),
                (users[23], Status::Locked),
                (users[24], Status::NeverActivated),
                (users[25], Status::Legacy),
                (users[26], Status::LegacySuspended),
            ] {
                tenant.set_status(user, status).unwrap();
            }
            (users.clone(), users[7])
        })
        .unwrap();
    let email = rig
        .sim
        .inspect(|tenant| tenant.email_of(users[249]))
        .flatten()
        .unwrap();
    let synced = rig.sync().await;
    assert_eq!(synced.fact("user", users[0], "manager"), Some(email));
    assert_eq!(
        synced.fact("user", users[0], "manager_id"),
        Some(users[249].to_string())
    );
    assert!(!synced.ids("user").contains(&gone.to_string()));
    assert_eq!(synced.fact("user", users[1], "manager"), None);
    assert_eq!(synced.fact("user", users[2], "manager"), None);
    let status = |id: Id| {
        let status = synced.get("user", id).status.clone().unwrap();
        (status.status, status.details)
    };
    for (user, expected) in [
        (users[20], (1, "")),
        (users[21], (2, "staged")),
        (users[22], (2, "suspended")),
        (users[25], (1, "")),
        (users[26], (2, "suspended")),
    ] {
        assert_eq!(status(user), (expected.0, expected.1.to_owned()), "{user}");
    }
    assert_eq!(status(users[23]).0, 1);
    assert!(status(users[23]).1.contains("locked"));
    assert_eq!(status(users[24]).0, 1);
    assert!(status(users[24]).1.contains("never set"));
}

#[tokio::test]
async fn administrators_are_linked_both_ways_and_merged_only_on_request() {
    for merge_administrators in [false, true] {
        let options = Options {
            merge_administrators,
            ..Options::default()
        };
        let rig = Rig::with(Config::of(small()), options).await;
        let truth = rig.sim.truth();
        let synced = rig.sync().await;
        assert_true(&synced, &truth, merge_administrators);
        assert!(truth.admins.values().any(|admin| admin.user.is_none()));
        assert!(
            truth
                .admins
                .values()
                .any(|admin| admin.linked_by_email_only)
        );
        for (admin, facts) in &truth.admins {
            let Some(user) = facts.user else { continue };
            assert_eq!(
                synced.fact("user", user, "administrator_id"),
                Some(admin.to_string())
            );
            assert_eq!(
                synced.fact("user", user, "is_administrator").as_deref(),
                Some("true")
            );
            if !merge_administrators {
                assert_eq!(
                    synced.fact("user", admin, "directory_user_id"),
                    Some(user.to_string())
                );
                assert_eq!(
                    synced.fact("user", admin, "account_kind").as_deref(),
                    Some("administrator")
                );
            }
        }
    }
}

#[tokio::test]
async fn dangling_edges_are_left_out_with_a_warning_and_nested_groups_are_kept() {
    let mut shape = small();
    shape.dangling_edges = 6;
    let rig = Rig::start(shape).await;
    rig.sim.edit(|tenant| {
        let groups = tenant.group_ids();
        tenant.set_nested_groups(groups[0], &groups[1..3]).unwrap();
        let user = tenant.user_ids()[5];
        tenant.remove_user_leaving_edges(user).unwrap();
    });
    let truth = rig.sim.truth();
    let synced = rig.sync().await;
    assert_true(&synced, &truth, false);
    assert!(!synced.warnings.is_empty());
    assert!(
        synced
            .grants
            .keys()
            .any(|id| id.contains(":group:") && id.starts_with("group-grant"))
    );
}

#[tokio::test]
async fn grants_of_dynamic_groups_alone_are_immutable() {
    let rig = Rig::start(small()).await;
    rig.sim.edit(|tenant| {
        for (group, method) in tenant.group_ids().into_iter().zip([
            MembershipMethod::Static,
            MembershipMethod::DynamicAutomated,
            MembershipMethod::DynamicReviewRequired,
        ]) {
            tenant.set_membership_method(group, method).unwrap();
        }
    });
    let truth = rig.sim.truth();
    let synced = rig.sync().await;
    let mut immutable = 0;
    for (group, facts) in &truth.groups {
        for member in &facts.members {
            let grant = &synced.grants[&grant_id("group", group, "user", member)];
            let is_immutable = proto::has::<v2::GrantImmutable>(&grant.annotations);
            assert_eq!(is_immutable, facts.dynamic, "{}", grant.id);
            immutable += usize::from(is_immutable);
        }
    }
    assert!(immutable > 0);
}

#[tokio::test]
async fn rows_that_move_while_lists_are_read_change_nothing() {
    let rig = Rig::start(small()).await;
    rig.sim.change_behaviour(|behaviour| {
        behaviour.shuffle = true;
        behaviour.hide_totals = true;
        behaviour.ignore_app_fields = true;
    });
    let synced = rig.sync().await;
    assert_true(&synced, &rig.sim.truth(), false);
    assert!(!format!("{synced:?}").contains("PRIVATE KEY"));
}

#[tokio::test]
async fn a_list_of_rows_with_nothing_but_ids_is_asked_for_again_and_never_believed() {
    for path in [
        "/api/systemusers",
        "/api/v2/usergroups",
        "/api/applications",
        "/api/users",
    ] {
        let rig = Rig::start(small()).await;
        let whole = rig.sync().await;
        // The first page alone: the next attempt at it is whole.
        rig.sim
            .add_fault(&format!("{path}@2-2:null-fields"))
            .unwrap();
        assert_eq!(rig.sync().await.resources, whole.resources, "{path}");
        rig.sim
            .add_fault(&format!("{path}@1-99:null-fields"))
            .unwrap();
        let error = engine_sync(&rig).await.unwrap_err();
        let text = chain(&error);
        assert!(
            text.contains(path) && text.contains("rows say nothing beside an id"),
            "{path}: {text}"
        );
    }
}

#[tokio::test]
async fn validation_names_what_the_key_may_not_read() {
    let read_only = Options {
        key: Some(READ_ONLY_KEY),
        ..Options::default()
    };
    let rig = Rig::with(Config::of(small()), read_only).await;
    rig.connector.validate().await.unwrap();
    rig.sim
        .deny([Collection::Groups, Collection::Administrators]);
    let error = rig.connector.validate().await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    let text = error.to_string();
    assert!(text.contains("user groups, administrators"), "{text}");
    assert!(!text.contains("SECRETSEED"));

    let help_desk = Options {
        key: Some(HELP_DESK_KEY),
        ..Options::default()
    };
    let rig = Rig::with(Config::of(small()), help_desk).await;
    let error = rig.connector.validate().await.unwrap_err();
    assert!(
        error.to_string().contains("applications, administrators"),
        "{error}"
    );

    let wrong = Options {
        key: Some("jca_SECRETSEED_no_such_key"),
        ..Options::default()
    };
    let rig = Rig::with(Config::of(small()), wrong).await;
    let error = rig.connector.validate().await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    assert!(!error.to_string().contains("SECRETSEED"));
}

/// The whole sync with the engine, into `sync.c1z` in the folder of the rig.
async fn engine_sync(rig: &Rig) -> Result<syncer::Report, syncer::Error> {
    engine_sync_of(rig, &syncer::SyncRequest::default()).await
}

async fn engine_sync_of(
    rig: &Rig,
    request: &syncer::SyncRequest,
) -> Result<syncer::Report, syncer::Error> {
    let cancel = CancellationToken::new();
    let environment = syncer::Environment {
        work_dir: rig.folder.path(),
        clock: &SystemClock,
        progress: &syncer::NoProgress,
        cancel: &cancel,
        keep: false,
    };
    let limits = syncer::Limits {
        retry_budget: Duration::from_secs(2),
        ..syncer::Limits::default()
    };
    let target = rig.folder.path().join("sync.c1z");
    syncer::sync_to_file_within(&rig.connector, request, environment, limits, &target).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_optional_type_that_may_not_be_read_is_left_out_whole_with_a_warning() {
    for (optional, denied, says) in [
        ("group", Collection::Groups, "user groups"),
        ("app", Collection::Applications, "applications"),
    ] {
        let options = Options {
            optional: vec![optional.to_owned()],
            ..Options::default()
        };
        let rig = Rig::with(Config::of(small()), options).await;
        let whole = engine_sync(&rig).await.unwrap();
        assert!(whole.resources[optional] > 0 && whole.warnings.is_empty());

        rig.sim.deny([denied]);
        let validated = rig.connector.validate().await.unwrap();
        assert_eq!(validated.unreadable, [optional]);
        let report = engine_sync(&rig).await.unwrap();
        let of = |rows: &BTreeMap<String, u64>| rows.get(optional).copied().unwrap_or_default();
        assert_eq!(
            (of(&report.resources), of(&report.grants)),
            (0, 0),
            "{report:?}"
        );
        assert_eq!(report.resources["user"], whole.resources["user"]);
        assert!(
            report
                .warnings
                .iter()
                .any(|warning| warning.contains(says) && warning.contains(optional)),
            "{:?}",
            report.warnings
        );
        if optional == "group" {
            // Those of users alone: no grant goes to a group that is not there, and none is inherited from one.
            let truth = rig.sim.truth();
            let direct: usize = truth.apps.values().map(|app| app.users.len()).sum();
            let direct = u64::try_from(direct + truth.admins.len()).unwrap();
            assert_eq!(report.grants["app"], direct);
        }

        let request = syncer::SyncRequest {
            resource_type_ids: vec![optional.to_owned()],
            ..syncer::SyncRequest::default()
        };
        let error = engine_sync_of(&rig, &request).await.unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied);

        rig.sim.deny([denied, Collection::Administrators]);
        let error = rig.connector.validate().await.unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied);
        assert!(error.to_string().contains("administrators"), "{error}");
        assert!(!error.to_string().contains(says), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_that_is_lost_in_the_middle_fails_the_sync() {
    for fault in [
        "/api/systemusers@3-99:403",
        "/api/v2/usergroups/{id}/members@5-5:403",
        "/api/v2/applications/{id}/associations@2-2:402",
    ] {
        let options = Options {
            optional: vec!["group".to_owned(), "app".to_owned()],
            ..Options::default()
        };
        let rig = Rig::with(Config::of(small()), options).await;
        rig.sim.add_fault(fault).unwrap();
        let error = engine_sync(&rig).await.unwrap_err();
        assert_eq!(error.class(), Class::Auth, "{fault}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_list_that_is_not_there_fails_the_sync_and_one_object_costs_a_warning() {
    for list in [
        "/api/systemusers",
        "/api/users",
        "/api/v2/usergroups",
        "/api/applications",
    ] {
        let rig = Rig::start(small()).await;
        rig.sim.add_fault(&format!("{list}@2-99:404")).unwrap();
        let error = engine_sync(&rig).await.unwrap_err();
        assert_eq!(error.class(), Class::Permanent, "{list}: {error}");
        assert!(chain(&error).contains("not there any more"), "{error}");
    }
    let rig = Rig::start(small()).await;
    rig.sim
        .add_fault("/api/v2/usergroups/{id}/members@3-3:404")
        .unwrap();
    let report = engine_sync(&rig).await.unwrap();
    assert_eq!(
        report.warnings, [""; 0],
        "the group is there, so it was asked again"
    );
    let whole = report.grants["group"];

    let rig = Rig::start(small()).await;
    for rule in [
        "/api/v2/usergroups/{id}/members@3-3:404",
        "/api/v2/usergroups/{id}@1-2:404",
    ] {
        rig.sim.add_fault(rule).unwrap();
    }
    let report = engine_sync(&rig).await.unwrap();
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
    assert_eq!(report.resources["group"], 12);
    assert!(report.grants["group"] < whole);
}

/// A gateway that has lost its routes.
#[tokio::test]
async fn what_is_not_found_while_nothing_is_found_is_not_gone() {
    let rig = Rig::start(small()).await;
    engine_sync(&rig).await.unwrap();
    let whole = rig.sim.requests_total();
    for from in [whole / 2, whole - 10, whole - 5] {
        let rig = Rig::start(small()).await;
        rig.sim.add_fault(&format!("*@{from}-9999:404")).unwrap();
        let error = engine_sync(&rig).await.unwrap_err();
        assert_eq!(error.class(), Class::Retryable, "{from}: {error}");
        assert!(
            chain(&error).contains("404 (not found) to everything"),
            "{error}"
        );
    }
    // It comes back in between: every object is there.
    for until in 1..6 {
        let rig = Rig::start(small()).await;
        let from = whole / 2;
        rig.sim
            .add_fault(&format!("*@{from}-{}:404", from + until))
            .unwrap();
        let report = engine_sync(&rig).await.unwrap();
        assert_eq!(report.warnings, [""; 0], "{until}");
    }
    for code in [402, 403, 404] {
        let rig = Rig::start(small()).await;
        rig.sim
            .add_fault(&format!("/api/v2/roles@1:{code}"))
            .unwrap();
        let report = engine_sync(&rig).await.unwrap();
        assert_eq!(report.warnings, [""; 0], "{code}");
    }
}

#[tokio::test]
async fn roles_that_may_not_be_read_cost_a_warning_and_no_grant() {
    let rig = Rig::start(small()).await;
    rig.sim.deny([Collection::Roles]);
    let synced = rig.sync().await;
    let grants: BTreeSet<String> = synced.grants.keys().cloned().collect();
    assert_eq!(grants, expected_grants(&rig.sim.truth(), false));
    synced.assert_nothing_dangles();
    assert_eq!(synced.warnings.len(), 1, "{:?}", synced.warnings);

    rig.sim.deny([Collection::Applications]);
    let error = rig.try_sync("denied").await.unwrap_err();
    assert_eq!(error.class(), Class::Auth);
}

#[tokio::test]
async fn administrators_of_another_organisation_stay_out_when_the_header_is_refused() {
    let config = Config::of(small());
    let sim = JumpCloudSim::start(config.clone()).await.unwrap();
    let org_id = sim.organization_id().unwrap().to_string();
    sim.shutdown().await;
    let options = Options {
        org_id: Some(org_id),
        ..Options::default()
    };
    let rig = Rig::with(config, options).await;
    rig.sim
        .change_behaviour(|behaviour| behaviour.refuse_org_on_admins = true);
    let strangers = rig
        .sim
        .edit(|tenant| {
            let admins = tenant.admin_ids();
            let elsewhere = serde_json::json!("64aa0000000000000000ffff");
            tenant
                .set_field(admins[0], "organization", Some(elsewhere))
                .unwrap();
            tenant
                .set_field(admins[1], "organization", Some(serde_json::Value::Null))
                .unwrap();
            vec![admins[0].to_string()]
        })
        .unwrap();
    let synced = rig.sync().await;
    let listed = synced.ids("user");
    for admin in rig.sim.truth().admins.keys() {
        let id = admin.to_string();
        assert_eq!(listed.contains(&id), !strangers.contains(&id), "{id}");
    }
    synced.assert_nothing_dangles();
}

#[tokio::test]
async fn a_targeted_read_equals_the_row_of_the_full_sync() {
    let rig = Rig::start(small()).await;
    let synced = rig.sync().await;
    let scope = SyncScope {
        sync_id: "targeted".to_owned(),
        resource_type_ids: Vec::new(),
        folder: None,
    };
    let truth = rig.sim.truth();
    for (user, facts) in truth.users.iter().take(60) {
        // An e-mail in another case is found by the full list only.
        let by_email_only = truth
            .admins
            .values()
            .any(|admin| admin.user == Some(*user) && facts.admin.is_none());
        if by_email_only {
            continue;
        }
        let id = synced.get("user", user).id.clone().unwrap();
        let alone = rig.connector.get_resource(&scope, &id).await.unwrap();
        assert_eq!(&alone, synced.get("user", user));
    }
    for (kind, id) in synced.resources.keys().filter(|(kind, _)| kind != "user") {
        let id = synced.get(kind, id).id.clone().unwrap();
        let alone = rig.connector.get_resource(&scope, &id).await.unwrap();
        assert_eq!(&alone, synced.get(kind, &id.resource));
    }
}

/// How many pages are asked for at once.
const AHEAD: u64 = 8;

/// The files in a folder, by name.
fn files(folder: &Path) -> BTreeSet<String> {
    folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_reads_on_where_the_lists_stopped() {
    let shape = Shape {
        users: 1500,
        ..small()
    };
    let sim = JumpCloudSim::start(Config::of(shape)).await.unwrap();
    let work = tempfile::tempdir().unwrap();
    let options = Options::default();
    let whole = {
        let connector = connector(&sim, &options, work.path());
        read(&connector, "whole").await.unwrap();
        sim.requests().count("GET /api/systemusers")
    };
    assert_eq!(whole, 16);
    for stops_at in [1, 10, 16] {
        let folder = tempfile::tempdir().unwrap();
        let scope = scope("resumed", Some(folder.path()));
        sim.reset_requests();
        sim.add_fault(&format!("/api/systemusers@{stops_at}-999:400"))
            .unwrap();
        let first = connector(&sim, &options, work.path());
        assert!(read_in(&first, &scope).await.is_err());
        sim.clear_faults();
        sim.reset_requests();
        let second = connector(&sim, &options, work.path());
        let synced = read_in(&second, &scope).await.unwrap();
        assert_true(&synced, &sim.truth(), false);
        let requests = sim.requests();
        // What came after the first page that failed had been asked for ahead, and is lost.
        let read = requests.count("GET /api/systemusers");
        let kept = (stops_at - 1_u64).saturating_sub(AHEAD);
        assert!(read <= whole - kept, "stopped at {stops_at}: {read}");
        assert!(read > whole - stops_at, "stopped at {stops_at}: {read}");
        // Read before the users, by the process that died.
        assert_eq!(requests.count("GET /api/users"), 0);
        assert_eq!(
            files(folder.path()),
            [
                "administrators.list",
                "applications.list",
                "groups.list",
                "roles.list",
                "users.list"
            ]
            .map(str::to_owned)
            .into()
        );
    }
    assert_eq!(files(work.path()), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_after_the_lists_asks_for_none_of_them_and_knows_what_dangles() {
    for merge_administrators in [false, true] {
        let shape = Shape {
            dangling_edges: 8,
            ..small()
        };
        let sim = JumpCloudSim::start(Config::of(shape)).await.unwrap();
        let work = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            merge_administrators,
            ..Options::default()
        };
        let scope = scope("resumed", Some(folder.path()));
        let whole = read_in(&connector(&sim, &options, work.path()), &scope)
            .await
            .unwrap();
        sim.reset_requests();

        let second = connector(&sim, &options, work.path());
        let mut grants = BTreeSet::new();
        for resource in whole.resources.values() {
            for grant in all_grants(&second, &scope, resource).await.unwrap() {
                grants.insert(grant.id);
            }
        }
        assert_eq!(grants, expected_grants(&sim.truth(), merge_administrators));
        let third = connector(&sim, &options, work.path());
        let again = read_in(&third, &scope).await.unwrap();
        assert_eq!(again.resources, whole.resources);
        let requests = sim.requests();
        for list in [
            "systemusers",
            "users",
            "v2/usergroups",
            "applications",
            "v2/roles",
        ] {
            assert_eq!(requests.count(&format!("GET /api/{list}")), 0, "{list}");
        }

        // A token of one process means the same to the next.
        for kind in ["user", "group", "app"] {
            let mut token: Option<String> = None;
            loop {
                let other = connector(&sim, &options, work.path());
                let mut pages = Vec::new();
                for process in [&third, &other] {
                    pages.push(
                        process
                            .list_resources(&scope, kind, None, token.as_deref())
                            .await
                            .unwrap(),
                    );
                }
                assert_eq!(pages[0], pages[1], "{kind} {token:?}");
                token = pages.remove(0).next;
                if token.is_none() {
                    break;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_list_is_mended_and_served_from_its_beginning() {
    let sim = JumpCloudSim::start(Config::of(small())).await.unwrap();
    let work = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = Options::default();
    let scope = scope("resumed", Some(folder.path()));
    read_in(&connector(&sim, &options, work.path()), &scope)
        .await
        .unwrap();
    let path = folder.path().join("users.list");
    let good = fs::read(&path).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for bad in [
        flipped,
        good[..good.len() / 3].to_vec(),
        b"something else".to_vec(),
        Vec::new(),
    ] {
        fs::write(&path, &bad).unwrap();
        let second = connector(&sim, &options, work.path());
        let mut token = Some("users:2".to_owned());
        let mut users = BTreeSet::new();
        while let Some(asked) = token {
            let page = second
                .list_resources(&scope, "user", None, Some(&asked))
                .await
                .unwrap();
            users.extend(page.items.into_iter().map(|item| item.id.unwrap().resource));
            assert_ne!(page.next.as_ref(), Some(&asked));
            token = page.next;
        }
        let truth = sim.truth();
        assert!(truth.users.keys().all(|id| users.contains(&id.to_string())));
        assert!(
            truth
                .admins
                .keys()
                .all(|id| users.contains(&id.to_string()))
        );
        assert_eq!(fs::read(&path).unwrap().len(), good.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_members_of_a_large_group_are_read_on_after_a_restart_too() {
    let shape = Shape {
        users: 3000,
        groups: 1,
        members_per_group: 3000,
        apps: 0,
        ..small()
    };
    let sim = JumpCloudSim::start(Config::of(shape)).await.unwrap();
    let work = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = Options::default();
    let scope = scope("resumed", Some(folder.path()));
    let first = connector(&sim, &options, work.path());
    let page = first
        .list_resources(&scope, "group", None, None)
        .await
        .unwrap();
    let group = page.items[0].clone();
    sim.add_fault("/api/v2/usergroups/{id}/members@20-999:400")
        .unwrap();
    assert!(all_grants(&first, &scope, &group).await.is_err());
    sim.clear_faults();
    sim.reset_requests();
    let members = "GET /api/v2/usergroups/{id}/members";
    let second = connector(&sim, &options, work.path());
    let served = second.list_grants(&scope, &group, None).await.unwrap();
    let next = served.next.unwrap();
    let read = sim.requests().count(members);
    assert!((31 - 19..=31 - 19 + AHEAD).contains(&read), "{read}");
    let third = connector(&sim, &options, work.path());
    let mut grants: BTreeSet<String> = served.items.into_iter().map(|grant| grant.id).collect();
    let mut token = Some(next);
    while let Some(asked) = token {
        let page = third
            .list_grants(&scope, &group, Some(&asked))
            .await
            .unwrap();
        for grant in page.items {
            assert!(grants.insert(grant.id));
        }
        token = page.next;
    }
    assert_eq!(sim.requests().count(members), read);
    assert_eq!(grants.len(), 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_changes_all_the_time_is_read_whole_and_without_inventions() {
    for seed in 0..2 {
        let shape = Shape {
            seed,
            users: 600,
            groups: 5,
            members_per_group: 350,
            ..small()
        };
        let rig = Rig::start(shape).await;
        rig.sim
            .change_behaviour(|behaviour| behaviour.latency = Duration::from_millis(4));
        let before = rig.sim.truth();
        let mut ever: BTreeSet<String> = texts(before.users.keys().copied());
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut sync = Box::pin(rig.sync());
        let synced = loop {
            tokio::select! {
                synced = &mut sync => break synced,
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
            let created = rig.sim.edit(|tenant| {
                let mut users = tenant.user_ids();
                if chance.bool() {
                    let gone = users.swap_remove(chance.usize(..users.len()));
                    tenant.remove_user(gone).unwrap();
                }
                if chance.u8(..) < 20 {
                    let group = tenant.group_ids()[chance.usize(..5)];
                    users.retain(|_| chance.bool());
                    tenant.set_members(group, &users).unwrap();
                }
                chance
                    .bool()
                    .then(|| tenant.add_user(NewUser::default()).unwrap())
            });
            ever.extend(created.flatten().map(|id| id.to_string()));
        };
        let after = rig.sim.truth();
        ever.extend(texts(before.admins.keys().copied()));
        let users = synced.ids("user");
        assert!(users.is_subset(&ever), "seed {seed}");
        for id in before
            .users
            .keys()
            .filter(|id| after.users.contains_key(id))
        {
            assert!(users.contains(&id.to_string()), "seed {seed} lost {id}");
        }
        assert!(before.users != after.users);
        synced.assert_nothing_dangles();
    }
}
