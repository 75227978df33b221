//! Behaviour of the whole connector against a small HTTP server that holds a tenant as JSON.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Mutex,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{Request, Response},
};
use secrecy::SecretString;
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;

use super::*;
use crate::proto::{self, Kind};

const AVERY: &str = "64ab00000000000000000001";
const BLAKE: &str = "64ab00000000000000000002";
const CASEY: &str = "64ab00000000000000000003";
const BLAKE_ADMIN: &str = "64ad00000000000000000002";
const DEVON_ADMIN: &str = "64ad00000000000000000004";
const ENGINEERING: &str = "64ac00000000000000000001";
const ALL_STAFF: &str = "64ac00000000000000000002";
const TICKET_DESK: &str = "64ae00000000000000000001";
const BOOKMARK: &str = "64ae00000000000000000002";

/// What the server answers: lists by path (with `?targets=` where it matters), and statuses that replace an answer.
#[derive(Debug, Default, Clone)]
struct Tenant {
    lists: BTreeMap<String, Vec<Json>>,
    statuses: BTreeMap<String, u16>,
}

impl Tenant {
    fn list(&mut self, path: &str) -> &mut Vec<Json> {
        self.lists.entry(path.to_owned()).or_default()
    }

    fn user(&mut self, index: usize) -> &mut Json {
        &mut self.list("/api/systemusers")[index]
    }

    fn members(&mut self, group: &str) -> &mut Vec<Json> {
        self.list(&format!("/api/v2/usergroups/{group}/members"))
    }

    fn bindings(&mut self, app: &str, target: &str) -> &mut Vec<Json> {
        self.list(&format!(
            "/api/v2/applications/{app}/associations?targets={target}"
        ))
    }

    fn status(&mut self, path: &str, status: u16) {
        self.statuses.insert(path.to_owned(), status);
    }
}

fn edge(kind: &str, id: &str) -> Json {
    json!({"attributes": null, "to": {"attributes": null, "id": id, "type": kind}})
}

fn avery() -> Json {
    serde_json::from_str(
        r#"{
            "_id": "64ab00000000000000000001", "id": "64ab00000000000000000001", "username": "avery.fixture", "email": "avery.fixture@example.com",
            "alternateEmail": "avery@example.org", "firstname": "Avery", "middlename": "", "lastname": "Fixture",
            "displayname": "Avery Fixture", "description": "", "location": "Utrecht", "company": "Example Corp",
            "costCenter": "CC-210", "department": "Engineering", "jobTitle": "Developer",
            "employeeIdentifier": "E-1001", "employeeType": "Employee", "manager": "64ab00000000000000000002",
            "organization": "64aa00000000000000000001", "created": "2024-03-05T09:12:44.120Z",
            "creationSource": "jumpcloud:bulk", "state": "ACTIVATED", "activated": true, "suspended": false,
            "account_locked": false, "account_locked_date": null,
            "password_date": "2026-07-01T08:00:00.000Z", "password_expiration_date": "2026-12-28T08:00:00.000Z",
            "password_expired": false, "password_never_expires": false, "passwordless_sudo": false, "sudo": false,
            "enable_user_portal_multifactor": true, "totp_enabled": true,
            "mfa": {"configured": true, "exclusion": false},
            "mfaEnrollment": {"overallStatus": "ENROLLED", "totpStatus": "ENROLLED",
                "webAuthnStatus": "NOT_ENROLLED", "pushStatus": "ENROLLED", "jcGoStatus": "NOT_ENROLLED"},
            "attributes": [{"name": "badge", "value": "B-77"}, {"name": "contractEnd", "value": "2027-01-31"}],
            "phoneNumbers": [{"id": "64ab00000000000000000f01", "type": "work", "number": "+31 30 555 0101"}],
            "addresses": [], "relationships": [],
            "ssh_keys": [{"_id": "64ab00000000000000000e01", "name": "laptop",
                "public_key": "ssh-ed25519 AAAAC3Nzfixture", "create_date": "2025-01-10T10:00:00.000Z"}],
            "external_dn": "", "external_source_type": "", "restrictedFields": [], "admin": null
            }"#,
    )
    .unwrap()
}

fn example() -> Tenant {
    let mut tenant = Tenant::default();
    tenant.lists.insert(
        "/api/systemusers".to_owned(),
        vec![
            avery(),
            json!({
                "_id": BLAKE, "id": BLAKE, "username": "blake.sample", "email": "Blake.Sample@example.com",
                "firstname": "Blake", "lastname": "Sample", "displayname": "", "employeeIdentifier": null,
                "organization": "64aa00000000000000000001", "created": "2023-11-20T14:00:00.000Z",
                "state": "ACTIVATED", "activated": true, "suspended": false, "account_locked": true,
                "account_locked_date": "2026-09-30T22:01:07.000Z", "password_expired": true,
                "password_expiration_date": "2026-09-01T00:00:00.000Z", "totp_enabled": false,
                "mfa": {"configured": false, "exclusion": true, "exclusionUntil": "2026-10-15T00:00:00.000Z"},
                "attributes": [], "ssh_keys": [], "external_source_type": "scim",
                "restrictedFields": [{"field": "department", "type": "scim", "id": "64aa0000000000000000005c"}],
                "admin": {"id": BLAKE_ADMIN, "roleName": "Manager", "roleNames": ["Manager", "Helpdesk Tier 2"]},
            }),
            json!({
                "_id": CASEY, "id": CASEY, "username": "casey.staged", "email": "casey.staged@example.com",
                "alternateEmail": "", "displayname": "Casey Staged", "state": "STAGED", "activated": false,
            }),
        ],
    );
    tenant.lists.insert(
        "/api/users".to_owned(),
        vec![
            json!({
                "_id": BLAKE_ADMIN, "id": BLAKE_ADMIN, "email": "blake.sample@example.com", "firstname": "Blake",
                "lastname": "Sample", "roleName": "Manager", "roleNames": ["Manager", "Helpdesk Tier 2"],
                "enableMultiFactor": true, "totpEnrolled": true, "suspended": false, "apiKeyAllowed": true,
                "apiKeySet": true, "apiKeyHash": {"prefix": "jca_4f", "createdAt": "2026-03-01T00:00:00.000Z",
                    "expireAt": "2027-03-01T00:00:00.000Z"},
                "passwordUpdatedAt": "2026-01-15T00:00:00.000Z", "created": "2023-11-20T15:00:00.000Z",
                "organization": "64aa00000000000000000001", "provider": null, "sessionCount": 41,
            }),
            json!({
                "_id": DEVON_ADMIN, "id": DEVON_ADMIN, "email": "devon.rootonly@example.com", "firstname": "",
                "lastname": "", "roleName": "Administrator With Billing",
                "roleNames": ["Administrator With Billing"], "enableMultiFactor": false, "totpEnrolled": false,
                "suspended": false, "apiKeyAllowed": false, "apiKeySet": false,
                "created": "2022-01-01T00:00:00.000Z", "organization": null, "provider": null,
            }),
        ],
    );
    tenant.lists.insert(
        "/api/v2/roles".to_owned(),
        vec![
            json!({"id": "64b100000000000000000001", "name": "Manager", "description": "",
                "scopes": ["systemusers", "groups"]}),
            json!({"id": "64b100000000000000000009", "name": "Helpdesk Tier 2",
                "description": "Unlock and reset only", "scopes": ["systemusers.unlock"]}),
        ],
    );
    tenant.lists.insert(
        "/api/v2/usergroups".to_owned(),
        vec![
            json!({
                "id": ALL_STAFF, "name": "All Staff", "type": "user_group", "description": "", "email": "",
                "attributes": null, "membershipMethod": "DYNAMIC_AUTOMATED",
                "memberQuery": {"queryType": "FilterQuery",
                    "filters": ["{\"field\":\"employeeType\",\"operator\":\"eq\",\"value\":\"Employee\"}"]},
                "memberQueryExemptions": [{"id": CASEY, "type": "user"}], "memberQueryErrorFlags": [],
            }),
            json!({
                "id": ENGINEERING, "name": "Engineering", "type": "user_group", "description": "Builders",
                "email": "eng@example.com",
                "attributes": {"sudo": {"enabled": true, "withoutPassword": false},
                    "ldapGroups": [{"name": "engineering"}], "posixGroups": [{"id": 7001, "name": "eng"}],
                    "radius": {"reply": [{"name": "Tunnel-Private-Group-Id", "value": "40"}]}, "sambaEnabled": false},
                "membershipMethod": "STATIC",
            }),
        ],
    );
    *tenant.members(ENGINEERING) = vec![edge("user", AVERY), edge("user", BLAKE)];
    *tenant.members(ALL_STAFF) = vec![edge("user", AVERY)];
    tenant.lists.insert(
        "/api/applications".to_owned(),
        vec![
            json!({
                "_id": TICKET_DESK, "id": TICKET_DESK, "name": "ticketdesk", "displayName": "Ticket Desk",
                "displayLabel": "Ticket Desk (prod)", "description": "Support tickets", "active": true, "beta": false,
                "organization": "64aa00000000000000000001", "logo": {"url": "https://static.example.com/t.png"},
                "learnMore": "https://docs.example.com/ticketdesk", "ssoUrl": "https://sso.jumpcloud.com/saml2/t",
                "created": "2025-01-15T00:00:00.000Z",
                "sso": {"type": "saml", "hidden": false, "idpCertExpirationAt": "2026-11-01T00:00:00.000Z"},
                "config": {"idpPrivateKey": {"value": "SECRETSEED-private-key"}},
            }),
            json!({
                "_id": BOOKMARK, "id": BOOKMARK, "name": "bookmark", "displayName": "", "displayLabel": "",
                "description": "", "active": false, "logo": {"url": ""}, "learnMore": "",
                "ssoUrl": "https://wiki.example.com", "sso": {"type": "bookmark", "hidden": true}, "config": {},
            }),
        ],
    );
    *tenant.bindings(TICKET_DESK, "user_group") = vec![edge("user_group", ENGINEERING)];
    *tenant.bindings(TICKET_DESK, "user") = vec![edge("user", CASEY)];
    tenant
}

#[derive(Debug)]
struct Shared {
    tenant: Mutex<Tenant>,
    calls: Mutex<Vec<String>>,
}

struct Rig {
    shared: Arc<Shared>,
    connector: JumpCloud,
    _folder: tempfile::TempDir,
    _server: JoinSet<()>,
}

async fn rig(tenant: Tenant) -> Rig {
    rig_with(tenant, false).await
}

/// Serves for as long as the set lives.
pub(super) async fn served(router: Router) -> (url::Url, JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, server)
}

async fn rig_with(tenant: Tenant, merge_administrators: bool) -> Rig {
    let shared = Arc::new(Shared {
        tenant: Mutex::new(tenant),
        calls: Mutex::default(),
    });
    let router = Router::new()
        .fallback(answer)
        .with_state(Arc::clone(&shared));
    let (url, server) = served(router).await;
    let client = Client::try_new(client::Settings {
        console_url: url.clone(),
        insights_url: url,
        auth: client::Auth::ApiKey(SecretString::from("SECRETSEED-api-key")),
        org_id: None,
        timeout: Duration::from_secs(10),
        extra_ca_pem: None,
        max_concurrency: 4,
        rotation_wait: Duration::ZERO,
    })
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        merge_administrators,
        work_dir: folder.path().to_owned(),
        optional: Vec::new(),
        allowed: Allowed::default(),
    };
    Rig {
        shared,
        connector: JumpCloud::new(client, settings),
        _folder: folder,
        _server: server,
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let query: HashMap<String, String> =
        url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    shared.calls.lock().unwrap().push(request.uri().to_string());
    let tenant = shared.tenant.lock().unwrap();
    let path = request.uri().path();
    let key = query.get("targets").map_or_else(
        || path.to_owned(),
        |target| format!("{path}?targets={target}"),
    );
    let reply = |status: u16, body: Json, total: Option<usize>| {
        let mut reply = Response::builder()
            .status(status)
            .header("content-type", "application/json");
        if let Some(total) = total {
            reply = reply.header("x-total-count", total.to_string());
        }
        reply.body(Body::from(body.to_string())).unwrap()
    };
    if let Some(status) = tenant.statuses.get(&key) {
        return reply(*status, json!({"message": "told so"}), None);
    }
    let number = |name: &str, default: usize| {
        query
            .get(name)
            .map_or(default, |text| text.parse().unwrap())
    };
    let (skip, limit) = (number("skip", 0), number("limit", 10));
    let is_list = tenant.lists.contains_key(&key)
        || path.ends_with("/members")
        || path.ends_with("/associations");
    if is_list {
        let rows = tenant.lists.get(&key).cloned().unwrap_or_default();
        let page: Vec<Json> = rows.iter().skip(skip).take(limit).cloned().collect();
        let wrapped = !path.starts_with("/api/v2/") || path == "/api/v2/roles";
        return if wrapped {
            reply(
                200,
                json!({"totalCount": rows.len(), "results": page}),
                None,
            )
        } else {
            reply(200, json!(page), Some(rows.len()))
        };
    }
    let object = path.rsplit_once('/').and_then(|(parent, id)| {
        let rows = tenant.lists.get(parent)?;
        rows.iter()
            .find(|row| row["_id"] == id || row["id"] == id)
            .cloned()
    });
    object.map_or_else(
        || reply(404, json!({"message": "Not Found"}), None),
        |object| reply(200, object, None),
    )
}

#[derive(Debug, Default)]
struct Synced {
    resources: Vec<v2::Resource>,
    entitlements: Vec<v2::Entitlement>,
    grants: Vec<v2::Grant>,
    warnings: Vec<String>,
}

fn scope(sync_id: &str) -> SyncScope {
    SyncScope {
        sync_id: sync_id.to_owned(),
        resource_type_ids: Vec::new(),
        folder: None,
    }
}

impl Rig {
    async fn sync(&self) -> Synced {
        self.try_sync("sync").await.unwrap()
    }

    async fn try_sync(&self, sync_id: &str) -> Result<Synced, Error> {
        let scope = scope(sync_id);
        let mut synced = Synced::default();
        let result = self.fill(&scope, &mut synced).await;
        synced.warnings = self.connector.take_warnings(sync_id);
        self.connector.cleanup(sync_id).await;
        result.map(|()| synced)
    }

    async fn fill(&self, scope: &SyncScope, synced: &mut Synced) -> Result<(), Error> {
        for kind in self.connector.resource_types() {
            let mut token: Option<String> = None;
            loop {
                let page = self
                    .connector
                    .list_resources(scope, &kind.id, None, token.as_deref())
                    .await?;
                synced.resources.extend(page.items);
                token = page.next;
                if token.is_none() {
                    break;
                }
            }
        }
        for resource in synced.resources.clone() {
            let page = self
                .connector
                .list_entitlements(scope, &resource, None)
                .await?;
            synced.entitlements.extend(page.items);
            synced.grants.extend(self.grants(scope, &resource).await?);
        }
        Ok(())
    }

    async fn grants(
        &self,
        scope: &SyncScope,
        resource: &v2::Resource,
    ) -> Result<Vec<v2::Grant>, Error> {
        let mut grants = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = self
                .connector
                .list_grants(scope, resource, token.as_deref())
                .await?;
            grants.extend(page.items);
            token = page.next;
            if token.is_none() {
                return Ok(grants);
            }
        }
    }

    async fn get(&self, kind: &str, id: &str) -> Result<v2::Resource, Error> {
        self.connector
            .get_resource(&scope("targeted"), &ids::resource_id(kind, id))
            .await
    }

    fn calls(&self) -> Vec<String> {
        self.shared.calls.lock().unwrap().clone()
    }

    fn change(&self, change: impl FnOnce(&mut Tenant)) {
        change(&mut self.shared.tenant.lock().unwrap());
    }
}

impl Synced {
    fn find(&self, kind: &str, id: &str) -> Option<&v2::Resource> {
        self.resources
            .iter()
            .find(|resource| resource.id == Some(ids::resource_id(kind, id)))
    }

    fn get(&self, kind: &str, id: &str) -> &v2::Resource {
        self.find(kind, id)
            .unwrap_or_else(|| panic!("no {kind} {id}"))
    }

    fn ids(&self, kind: &str) -> Vec<&str> {
        self.resources
            .iter()
            .filter_map(|resource| resource.id.as_ref())
            .filter(|id| id.resource_type == kind)
            .map(|id| id.resource.as_str())
            .collect()
    }

    fn entitlement(&self, id: &str) -> &v2::Entitlement {
        self.entitlements
            .iter()
            .find(|entitlement| entitlement.id == id)
            .unwrap_or_else(|| panic!("no entitlement {id}"))
    }

    /// Grant ids in order.
    fn grant_ids(&self, prefix: &str) -> Vec<&str> {
        let mut ids: Vec<&str> = self
            .grants
            .iter()
            .map(|grant| grant.id.as_str())
            .filter(|id| id.starts_with(prefix))
            .collect();
        ids.sort_unstable();
        ids
    }

    fn grant(&self, id: &str) -> &v2::Grant {
        self.grants
            .iter()
            .find(|grant| grant.id == id)
            .unwrap_or_else(|| panic!("no grant {id}"))
    }
}

fn fact(resource: &v2::Resource, key: &str) -> Option<String> {
    let value = resource.profile.as_ref()?.fields.get(key)?;
    plain(value)
}

fn plain(value: &proto::Value) -> Option<String> {
    Some(match value.kind.as_ref()? {
        Kind::StringValue(text) => text.clone(),
        Kind::BoolValue(flag) => flag.to_string(),
        Kind::NumberValue(number) => number.to_string(),
        Kind::ListValue(list) => {
            let items: Vec<String> = list.values.iter().filter_map(plain).collect();
            items.join("|")
        }
        Kind::StructValue(inner) => {
            let items: Vec<String> = inner
                .fields
                .iter()
                .filter_map(|(key, value)| Some(format!("{key}={}", plain(value)?)))
                .collect();
            items.join(",")
        }
        Kind::NullValue(_) => return None,
    })
}

fn user_trait(resource: &v2::Resource) -> v2::UserTrait {
    proto::find(&resource.annotations).unwrap()
}

fn app_trait(resource: &v2::Resource) -> v2::AppTrait {
    proto::find(&resource.annotations).unwrap()
}

fn status(resource: &v2::Resource) -> (i32, &str) {
    let status = resource.status.as_ref().unwrap();
    (status.status, status.details.as_str())
}

const ENABLED: i32 = v2::status::ResourceStatus::Enabled as i32;
const DISABLED: i32 = v2::status::ResourceStatus::Disabled as i32;

// What the official connector gets wrong, one test each.

#[tokio::test]
async fn an_administrator_who_is_also_a_directory_user_keeps_the_role_grants() {
    let synced = rig(example()).await.sync().await;
    let own = format!("role-grant:role_manager:user:{BLAKE_ADMIN}:role_manager");
    assert_eq!(synced.grant_ids("role-grant:role_manager:"), [own.as_str()]);

    let merged = rig_with(example(), true).await.sync().await;
    assert!(merged.find(USER, BLAKE_ADMIN).is_none());
    let to_user = format!("role-grant:role_manager:user:{BLAKE}:role_manager");
    assert_eq!(
        merged.grant_ids("role-grant:role_manager:"),
        [to_user.as_str()]
    );
    assert_eq!(
        merged.grant_ids("role-grant:role_helpdesk_tier_2:"),
        [format!("role-grant:role_helpdesk_tier_2:user:{BLAKE}:role_helpdesk_tier_2").as_str()]
    );
}

#[tokio::test]
async fn custom_roles_and_every_role_of_an_administrator_are_listed_so_that_no_grant_dangles() {
    let mut tenant = example();
    tenant.list("/api/users")[1]["roleNames"] = json!(["Role Nobody Lists", "Asset Manager"]);
    let synced = rig(tenant).await.sync().await;
    assert_eq!(
        synced.ids(ROLE),
        [
            "role_administrator_with_billing",
            "role_administrator",
            "role_manager",
            "role_command_runner_with_billing",
            "role_command_runner",
            "role_help_desk",
            "role_read_only",
            "role_billing_only",
            "role_asset_manager",
            "role_helpdesk_tier_2",
            "role_role_nobody_lists",
        ]
    );
    let roles: BTreeSet<&str> = synced.ids(ROLE).into_iter().collect();
    let role_grants = synced
        .grants
        .iter()
        .filter_map(|grant| grant.entitlement.as_ref()?.resource.as_ref()?.id.as_ref())
        .filter(|id| id.resource_type == ROLE);
    let mut count = 0;
    for id in role_grants {
        assert!(roles.contains(id.resource.as_str()), "{}", id.resource);
        count += 1;
    }
    assert_eq!(count, 4);
    let custom = synced.get(ROLE, "role_helpdesk_tier_2");
    assert_eq!(custom.description, "Unlock and reset only");
    assert_eq!(
        fact(custom, "scopes").as_deref(),
        Some("systemusers.unlock")
    );
    assert_eq!(fact(custom, "built_in").as_deref(), Some("false"));
}

#[tokio::test]
async fn administrators_match_users_by_link_or_by_email_in_any_case_and_never_abort_the_sync() {
    let mut tenant = example();
    // By link: the addresses differ altogether.
    tenant.user(1)["email"] = json!("somebody.else@example.com");
    // By e-mail in another case.
    tenant.user(2)["email"] = json!("Devon.ROOTONLY@Example.com");
    let no_email = "64ad00000000000000000005";
    tenant
        .list("/api/users")
        .push(json!({"_id": no_email, "email": null, "roleName": "Read Only"}));
    // Two users share the address of one administrator.
    let twice = "64ad00000000000000000006";
    tenant
        .list("/api/users")
        .push(json!({"_id": twice, "email": "twin@example.com", "roleName": "Read Only"}));
    for id in ["64ab0000000000000000000a", "64ab0000000000000000000b"] {
        tenant
            .list("/api/systemusers")
            .push(json!({"_id": id, "username": id, "email": "Twin@example.com"}));
    }
    let merged = rig_with(tenant, true).await.sync().await;
    assert!(merged.find(USER, BLAKE_ADMIN).is_none());
    assert!(merged.find(USER, DEVON_ADMIN).is_none());
    assert_eq!(merged.get(USER, no_email).display_name, no_email);
    assert_eq!(status(merged.get(USER, twice)), (ENABLED, ""));
    assert_eq!(
        fact(merged.get(USER, CASEY), "administrator_id").as_deref(),
        Some(DEVON_ADMIN)
    );
    assert!(
        merged
            .grant_ids("role-grant:role_read_only:")
            .contains(&format!("role-grant:role_read_only:user:{twice}:role_read_only").as_str())
    );
    assert_eq!(merged.warnings.len(), 1, "{:?}", merged.warnings);
    assert!(merged.warnings[0].contains(twice));
}

#[tokio::test]
async fn lists_are_read_in_a_stable_order_and_an_id_that_comes_twice_counts_once() {
    let mut tenant = example();
    let row = tenant.user(0).clone();
    let users = tenant.list("/api/systemusers");
    for number in 0..150 {
        users.push(json!({"_id": format!("{number:024x}"), "username": format!("u{number}")}));
    }
    users.push(row);
    let member = edge("user", AVERY);
    let members = tenant.members(ENGINEERING);
    for number in 0..120 {
        members.push(edge("user", &format!("{number:024x}")));
    }
    members.push(member);
    let rig = rig(tenant).await;
    let synced = rig.sync().await;
    let users = synced.ids(USER);
    assert_eq!(users.len(), 153 + 2);
    assert_eq!(users.iter().collect::<BTreeSet<_>>().len(), users.len());
    let grants = synced.grant_ids(&format!("group-grant:{ENGINEERING}:"));
    assert_eq!(grants.len(), 122);
    assert_eq!(grants.iter().collect::<BTreeSet<_>>().len(), 122);
    let lists = [
        ("/api/systemusers?", "sort=_id"),
        ("/api/users?", "sort=_id"),
        ("/api/v2/usergroups?", "sort=name"),
        ("/api/applications?", "sort=_id"),
    ];
    for (path, sort) in lists {
        let calls: Vec<String> = rig
            .calls()
            .into_iter()
            .filter(|call| call.starts_with(path))
            .collect();
        assert!(!calls.is_empty(), "{path}");
        for call in calls {
            assert!(call.contains(sort) && call.contains("limit=100"), "{call}");
        }
    }
    assert!(synced.warnings.is_empty(), "{:?}", synced.warnings);
}

#[tokio::test]
async fn a_group_inside_a_group_is_an_expandable_grant_under_the_type_that_jumpcloud_uses() {
    let mut tenant = example();
    tenant
        .members(ENGINEERING)
        .push(edge("user_group", ALL_STAFF));
    let synced = rig(tenant).await.sync().await;
    let nested = synced.grant(&format!(
        "group-grant:{ENGINEERING}:group:{ALL_STAFF}:{ENGINEERING}"
    ));
    let expandable: v2::GrantExpandable = proto::find(&nested.annotations).unwrap();
    assert_eq!(expandable.entitlement_ids, [format!("group:{ALL_STAFF}")]);
}

#[tokio::test]
async fn the_entitlement_of_an_application_says_that_groups_can_hold_it_too() {
    let synced = rig(example()).await.sync().await;
    let entitlement = synced.entitlement(&format!("app:{TICKET_DESK}"));
    let kinds: Vec<&str> = entitlement
        .grantable_to
        .iter()
        .map(|kind| kind.id.as_str())
        .collect();
    assert_eq!(kinds, [USER, GROUP]);
    assert_eq!(entitlement.slug, "access");
    assert_eq!(entitlement.display_name, "Ticket Desk (prod) app access");
    assert_eq!(
        entitlement.description,
        "Assigned to Ticket Desk (prod) app"
    );
}

#[tokio::test]
async fn access_through_a_group_stays_apart_from_direct_access_and_no_grant_comes_twice() {
    let mut tenant = example();
    // Avery has access through the group and directly.
    tenant
        .bindings(TICKET_DESK, "user")
        .push(edge("user", AVERY));
    let rig = rig(tenant).await;
    let synced = rig.sync().await;
    assert_eq!(
        synced.grant_ids(&format!("app-grant:{TICKET_DESK}:")),
        [
            format!("app-grant:{TICKET_DESK}:group:{ENGINEERING}:{TICKET_DESK}"),
            format!("app-grant:{TICKET_DESK}:user:{AVERY}:{TICKET_DESK}"),
            format!("app-grant:{TICKET_DESK}:user:{CASEY}:{TICKET_DESK}"),
        ]
    );
    let through = synced.grant(&format!(
        "app-grant:{TICKET_DESK}:group:{ENGINEERING}:{TICKET_DESK}"
    ));
    let expandable: v2::GrantExpandable = proto::find(&through.annotations).unwrap();
    assert_eq!(expandable.entitlement_ids, [format!("group:{ENGINEERING}")]);
    assert_eq!(expandable.resource_type_ids, [USER]);
    assert!(!expandable.shallow);
    let direct = synced.grant(&format!(
        "app-grant:{TICKET_DESK}:user:{AVERY}:{TICKET_DESK}"
    ));
    assert!(direct.annotations.is_empty());
    let members: Vec<String> = rig
        .calls()
        .into_iter()
        .filter(|call| call.contains(&format!("{ENGINEERING}/members")))
        .collect();
    assert_eq!(members.len(), 1, "{members:?}");
    let unique: BTreeSet<&str> = synced
        .grants
        .iter()
        .map(|grant| grant.id.as_str())
        .collect();
    assert_eq!(unique.len(), synced.grants.len());
}

#[tokio::test]
async fn grants_of_a_group_that_a_rule_fills_are_immutable_and_say_why() {
    let mut tenant = example();
    let reviewed = "64ac00000000000000000003";
    tenant.list("/api/v2/usergroups").push(json!({
        "id": reviewed, "name": "Reviewed", "membershipMethod": "DYNAMIC_REVIEW_REQUIRED",
        "memberQuery": {"queryType": "Filter"},
    }));
    *tenant.members(reviewed) = vec![edge("user", AVERY)];
    let rig = rig(tenant).await;
    let synced = rig.sync().await;

    let automated = synced.grant(&format!("group-grant:{ALL_STAFF}:user:{AVERY}:{ALL_STAFF}"));
    let immutable: v2::GrantImmutable = proto::find(&automated.annotations).unwrap();
    let metadata = immutable.metadata.unwrap();
    assert!(
        profile::text_of(Some(&metadata), "reason")
            .unwrap()
            .contains("rule")
    );
    assert!(
        profile::text_of(Some(&metadata), "membership_rule")
            .unwrap()
            .contains("employeeType")
    );

    let proposed = synced.grant(&format!("group-grant:{reviewed}:user:{AVERY}:{reviewed}"));
    assert!(!proto::has::<v2::GrantImmutable>(&proposed.annotations));
    assert!(proto::has::<v2::GrantMetadata>(&proposed.annotations));
    let by_hand = synced.grant(&format!(
        "group-grant:{ENGINEERING}:user:{AVERY}:{ENGINEERING}"
    ));
    assert!(by_hand.annotations.is_empty());

    let group = synced.get(GROUP, ALL_STAFF);
    let trait_: v2::GroupTrait = proto::find(&group.annotations).unwrap();
    assert_eq!(trait_.group_source_type, "dynamic");
    assert_eq!(trait_.raw_group_source_type, "DYNAMIC_AUTOMATED");
    assert!(
        fact(group, "membership_rule")
            .unwrap()
            .contains("employeeType")
    );

    // Told by id alone, the group is asked.
    let bare = ids::bare(GROUP, ALL_STAFF);
    let grants = rig.grants(&scope("bare"), &bare).await.unwrap();
    assert!(proto::has::<v2::GrantImmutable>(&grants[0].annotations));
}

#[tokio::test]
async fn a_group_that_is_gone_is_an_error_and_not_an_empty_success() {
    let mut tenant = example();
    tenant.status(&format!("/api/v2/usergroups/{ENGINEERING}/members"), 404);
    tenant.status(&format!("/api/v2/usergroups/{ENGINEERING}"), 404);
    let error = rig(tenant).await.try_sync("sync").await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
}

#[tokio::test]
async fn members_that_are_not_found_in_a_group_that_is_there_are_asked_for_again() {
    let mut tenant = example();
    tenant.status(&format!("/api/v2/usergroups/{ENGINEERING}/members"), 404);
    let error = rig(tenant).await.try_sync("sync").await.unwrap_err();
    assert_eq!(error.class(), Class::Retryable);
    assert!(error.to_string().contains("although its group is there"));
}

#[tokio::test]
async fn blank_names_fall_back_and_an_empty_second_email_is_left_out() {
    let mut tenant = example();
    let rows = [
        json!({"_id": "64ab00000000000000000011", "firstname": "", "lastname": " ", "displayname": "",
            "username": "only.username", "email": "x@example.com"}),
        json!({"_id": "64ab00000000000000000012", "email": "only.mail@example.com"}),
        json!({"_id": "64ab00000000000000000013"}),
        json!({"_id": "64ab00000000000000000014", "lastname": "Onlylast", "email": "same@example.com",
            "alternateEmail": "SAME@example.com"}),
    ];
    tenant.list("/api/systemusers").extend(rows);
    let synced = rig(tenant).await.sync().await;
    let name = |id: &str| synced.get(USER, id).display_name.as_str();
    assert_eq!(name(BLAKE), "Blake Sample");
    assert_eq!(name("64ab00000000000000000011"), "only.username");
    assert_eq!(name("64ab00000000000000000012"), "only.mail@example.com");
    assert_eq!(name("64ab00000000000000000013"), "64ab00000000000000000013");
    assert_eq!(name("64ab00000000000000000014"), "Onlylast");
    assert_eq!(name(DEVON_ADMIN), "devon.rootonly@example.com");
    assert_eq!(user_trait(synced.get(USER, CASEY)).emails.len(), 1);
    assert_eq!(
        user_trait(synced.get(USER, "64ab00000000000000000014"))
            .emails
            .len(),
        1
    );
    assert!(
        user_trait(synced.get(USER, "64ab00000000000000000013"))
            .emails
            .is_empty()
    );
    assert_eq!(synced.get(APP, BOOKMARK).display_name, "bookmark");
}

#[tokio::test]
async fn nothing_is_remembered_from_one_sync_to_the_next() {
    let rig = rig(example()).await;
    let before = rig.try_sync("first").await.unwrap();
    rig.change(|tenant| {
        tenant.list("/api/users").remove(0);
        tenant.user(1)["email"] = json!("new.address@example.com");
        tenant.list("/api/v2/usergroups").remove(0);
    });
    let after = rig.try_sync("second").await.unwrap();
    assert_eq!(
        fact(before.get(USER, AVERY), "manager").as_deref(),
        Some("Blake.Sample@example.com")
    );
    assert_eq!(
        fact(after.get(USER, AVERY), "manager").as_deref(),
        Some("new.address@example.com")
    );
    assert!(after.find(USER, BLAKE_ADMIN).is_none());
    assert!(after.grant_ids("role-grant:role_manager:").is_empty());
    assert!(rig.connector.sessions.find("first").is_none());
}

#[tokio::test]
async fn a_lock_out_after_wrong_passwords_does_not_disable_the_account() {
    let synced = rig(example()).await.sync().await;
    assert_eq!(status(synced.get(USER, BLAKE)), (ENABLED, "locked"));
}

#[tokio::test]
async fn an_account_whose_password_was_never_set_says_so() {
    let mut tenant = example();
    tenant.user(0)["activated"] = json!(false);
    let synced = rig(tenant).await.sync().await;
    let user = synced.get(USER, AVERY);
    assert_eq!(status(user), (ENABLED, "password never set"));
    assert_eq!(fact(user, "password_state").as_deref(), Some("never_set"));
}

// What the connector promises beside that.

#[tokio::test]
async fn the_state_of_a_user_decides_the_status() {
    let cases = [
        (json!({}), (ENABLED, "")),
        (json!({"state": ""}), (ENABLED, "")),
        (json!({"state": "activated"}), (ENABLED, "")),
        (
            json!({"state": "STAGED", "activated": false}),
            (DISABLED, "staged"),
        ),
        (json!({"state": "SUSPENDED"}), (DISABLED, "suspended")),
        (
            json!({"state": "ACTIVATED", "suspended": true}),
            (DISABLED, "suspended"),
        ),
        (
            json!({"state": "STAGED", "suspended": true}),
            (DISABLED, "suspended"),
        ),
        (json!({"state": "FROZEN"}), (0, "unknown state frozen")),
        (
            json!({"account_locked": true, "activated": false}),
            (ENABLED, "locked, password never set"),
        ),
        (
            json!({"state": "SUSPENDED", "account_locked": true}),
            (DISABLED, "suspended"),
        ),
    ];
    let mut tenant = Tenant::default();
    tenant.list("/api/users");
    tenant.list("/api/v2/roles");
    tenant.list("/api/v2/usergroups");
    tenant.list("/api/applications");
    for (number, (row, _)) in cases.iter().enumerate() {
        let mut row = row.clone();
        row["_id"] = json!(format!("{number:024x}"));
        row["username"] = json!(format!("user{number}"));
        tenant.list("/api/systemusers").push(row);
    }
    let synced = rig(tenant).await.sync().await;
    for (number, (row, expected)) in cases.iter().enumerate() {
        let user = synced.get(USER, &format!("{number:024x}"));
        assert_eq!(status(user), *expected, "{row}");
    }
}

#[tokio::test]
async fn a_directory_user_is_told_completely() {
    let synced = rig(example()).await.sync().await;
    let user = synced.get(USER, AVERY);
    assert_eq!(user.display_name, "Avery Fixture");
    assert_eq!(status(user), (ENABLED, ""));
    let expected = [
        ("id", AVERY),
        ("job_title", "Developer"),
        ("organization", "64aa00000000000000000001"),
        ("department", "Engineering"),
        ("username", "avery.fixture"),
        ("manager_id", BLAKE),
        ("manager", "Blake.Sample@example.com"),
        ("employee_id", "E-1001"),
        ("employee_type", "Employee"),
        ("cost_center", "CC-210"),
        ("company", "Example Corp"),
        ("location", "Utrecht"),
        ("account_kind", "directory_user"),
        ("is_administrator", "false"),
        ("attribute_badge", "B-77"),
        ("attribute_contractEnd", "2027-01-31"),
        ("phone_numbers", "number=+31 30 555 0101,type=work"),
        ("password_state", "set"),
        ("password_expires_at", "2026-12-28T08:00:00.000Z"),
        ("mfa_enrollment", "ENROLLED"),
        ("mfa_webauthn", "NOT_ENROLLED"),
        ("mfa_excluded", "false"),
        ("ssh_key_count", "1"),
        ("ssh_key_names", "laptop"),
    ];
    for (key, value) in expected {
        assert_eq!(fact(user, key).as_deref(), Some(value), "{key}");
    }
    for absent in [
        "description",
        "addresses",
        "external_dn",
        "administrator_id",
        "restricted_fields",
    ] {
        assert_eq!(fact(user, absent), None, "{absent}");
    }
    let trait_ = user_trait(user);
    assert_eq!(trait_.login, "avery.fixture");
    assert_eq!(trait_.employee_ids, ["E-1001"]);
    assert_eq!(trait_.account_type, 1);
    assert!(trait_.mfa_status.unwrap().mfa_enabled);
    let emails: Vec<(&str, bool)> = trait_
        .emails
        .iter()
        .map(|email| (email.address.as_str(), email.is_primary))
        .collect();
    assert_eq!(
        emails,
        [
            ("avery.fixture@example.com", true),
            ("avery@example.org", false)
        ]
    );
    let name = trait_.structured_name.clone().unwrap();
    assert_eq!(
        (name.given_name.as_str(), name.family_name.as_str()),
        ("Avery", "Fixture")
    );
    assert!(name.middle_names.is_empty());
    assert_eq!(user.created_at.unwrap().seconds, 1_709_629_964);
    #[expect(deprecated, reason = "older readers of the file look here")]
    {
        assert_eq!(trait_.profile, user.profile);
        assert_eq!(trait_.created_at, user.created_at);
        assert_eq!(trait_.status.unwrap().status, ENABLED);
    }
    assert!(!format!("{user:?}").contains("AAAAC3Nzfixture"));

    let blake = synced.get(USER, BLAKE);
    for (key, value) in [
        ("password_state", "expired"),
        ("locked_at", "2026-09-30T22:01:07.000Z"),
        ("mfa_excluded", "true"),
        ("mfa_excluded_until", "2026-10-15T00:00:00.000Z"),
        ("external_source_type", "scim"),
        ("restricted_fields", "department"),
        ("is_administrator", "true"),
        ("administrator_id", BLAKE_ADMIN),
        ("administrator_roles", "Manager|Helpdesk Tier 2"),
    ] {
        assert_eq!(fact(blake, key).as_deref(), Some(value), "{key}");
    }
    assert!(!user_trait(blake).mfa_status.unwrap().mfa_enabled);
}

#[tokio::test]
async fn an_administrator_is_an_account_of_its_own_and_can_be_told_apart() {
    let synced = rig(example()).await.sync().await;
    let administrator = synced.get(USER, BLAKE_ADMIN);
    assert_eq!(administrator.display_name, "Blake Sample");
    for (key, value) in [
        ("id", BLAKE_ADMIN),
        ("account_kind", "administrator"),
        ("is_administrator", "true"),
        ("directory_user_id", BLAKE),
        ("administrator_roles", "Manager|Helpdesk Tier 2"),
        ("mfa_required", "true"),
        ("mfa_enrolled", "true"),
        ("api_key_allowed", "true"),
        ("api_key_set", "true"),
        ("api_key_created_at", "2026-03-01T00:00:00.000Z"),
        ("api_key_expires_at", "2027-03-01T00:00:00.000Z"),
    ] {
        assert_eq!(fact(administrator, key).as_deref(), Some(value), "{key}");
    }
    for absent in ["job_title", "department", "employee_id", "manager"] {
        assert_eq!(fact(administrator, absent), None, "{absent}");
    }
    let trait_ = user_trait(administrator);
    assert_eq!(trait_.login, "blake.sample@example.com");
    assert_eq!(trait_.account_type, 1);
    assert!(trait_.mfa_status.unwrap().mfa_enabled);
    // The key's prefix is part of a secret.
    assert!(!format!("{administrator:?}").contains("jca_4f"));

    let mut tenant = example();
    tenant.list("/api/users")[1]["suspended"] = json!(true);
    let suspended = rig(tenant).await.sync().await;
    assert_eq!(
        status(suspended.get(USER, DEVON_ADMIN)),
        (DISABLED, "suspended")
    );
}

#[tokio::test]
async fn an_administrator_with_the_id_of_a_directory_user_does_not_take_its_place() {
    let mut tenant = example();
    tenant.list("/api/users")[1]["_id"] = json!(AVERY);
    tenant.list("/api/users")[1]["id"] = json!(AVERY);
    let synced = rig(tenant).await.sync().await;
    let found: Vec<_> = synced
        .resources
        .iter()
        .filter(|resource| resource.id.as_ref().is_some_and(|id| id.resource == AVERY))
        .collect();
    assert_eq!(found.len(), 1);
    assert_eq!(fact(found[0], "department").as_deref(), Some("Engineering"));
    let told = synced
        .warnings
        .iter()
        .any(|text| text.contains("with the id of a directory user"));
    assert!(told, "{:?}", synced.warnings);
}

#[tokio::test]
async fn a_custom_attribute_cannot_pose_as_a_built_in_fact() {
    let mut tenant = example();
    tenant.user(0)["attributes"] = json!([
        {"name": "id", "value": "forged"}, {"name": "department", "value": "forged"},
        {"name": "", "value": "nameless"}, {"name": "empty", "value": ""}, {"name": "odd\u{0}", "value": "a\u{0}b"},
    ]);
    let synced = rig(tenant).await.sync().await;
    let user = synced.get(USER, AVERY);
    assert_eq!(fact(user, "id").as_deref(), Some(AVERY));
    assert_eq!(fact(user, "department").as_deref(), Some("Engineering"));
    assert_eq!(fact(user, "attribute_id").as_deref(), Some("forged"));
    assert_eq!(fact(user, "attribute_odd").as_deref(), Some("ab"));
    assert_eq!(fact(user, "attribute_empty"), None);
}

#[tokio::test]
async fn groups_are_told_with_what_membership_brings() {
    let synced = rig(example()).await.sync().await;
    let group = synced.get(GROUP, ENGINEERING);
    assert_eq!(group.display_name, "Engineering");
    assert_eq!(group.description, "Builders");
    for (key, value) in [
        ("type", "user_group"),
        ("email", "eng@example.com"),
        ("membership_method", "STATIC"),
        ("device_sudo", "true"),
        ("device_sudo_without_password", "false"),
        ("ldap_groups", "engineering"),
        ("posix_groups", "eng"),
        ("radius_reply_attributes", "Tunnel-Private-Group-Id"),
        ("samba_enabled", "false"),
    ] {
        assert_eq!(fact(group, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(
        fact(synced.get(GROUP, ALL_STAFF), "email").as_deref(),
        Some("")
    );
    let trait_: v2::GroupTrait = proto::find(&group.annotations).unwrap();
    assert_eq!(trait_.group_source_type, "native");
    let entitlement = synced.entitlement(&format!("group:{ENGINEERING}"));
    assert_eq!(entitlement.slug, "member");
    assert_eq!(entitlement.display_name, "Engineering Group Member");
    assert_eq!(entitlement.description, "Member of Engineering group");
    let role = synced.entitlement("role:role_manager");
    assert_eq!(role.display_name, "Manager Role Member");
    assert_eq!(role.description, "Member of Manager role");
    assert_eq!(role.purpose, 2);
}

#[tokio::test]
async fn applications_are_told_without_their_private_key() {
    let synced = rig(example()).await.sync().await;
    let app = synced.get(APP, TICKET_DESK);
    let trait_ = app_trait(app);
    assert_eq!(trait_.help_url, "https://docs.example.com/ticketdesk");
    assert_eq!(
        trait_.logo.as_ref().unwrap().id,
        "https://static.example.com/t.png"
    );
    assert_eq!(trait_.flags, [3]);
    assert_eq!(
        (
            trait_.app_source_type.as_str(),
            trait_.raw_app_source_type.as_str()
        ),
        ("saml", "saml")
    );
    assert_eq!(
        fact(app, "certificate_expires_at").as_deref(),
        Some("2026-11-01T00:00:00.000Z")
    );
    let identity: v2::NonHumanIdentityTrait = proto::find(&app.annotations).unwrap();
    assert_eq!(
        (identity.nhi_type, identity.nhi_detail.as_str()),
        (1, "jumpcloud.application")
    );
    let bookmark = app_trait(synced.get(APP, BOOKMARK));
    assert_eq!(bookmark.flags, [1, 2, 5]);
    assert_eq!((bookmark.help_url.as_str(), bookmark.logo), ("", None));
    assert!(!format!("{synced:?}").contains("SECRETSEED"));
}

#[tokio::test]
async fn the_administration_of_jumpcloud_is_an_application_held_by_its_administrators() {
    let synced = rig(example()).await.sync().await;
    let id = "2UjI0eIRo77RGFwi2GKpAa0Til0";
    assert_eq!(synced.ids(APP)[0], id);
    assert_eq!(synced.get(APP, id).display_name, "JumpCloud Administration");
    assert_eq!(
        synced.grant_ids(&format!("app-grant:{id}:")),
        [
            format!("app-grant:{id}:user:{BLAKE_ADMIN}:{id}"),
            format!("app-grant:{id}:user:{DEVON_ADMIN}:{id}"),
        ]
    );
    let merged = rig_with(example(), true).await.sync().await;
    assert_eq!(
        merged.grant_ids(&format!("app-grant:{id}:")),
        [
            format!("app-grant:{id}:user:{BLAKE}:{id}"),
            format!("app-grant:{id}:user:{DEVON_ADMIN}:{id}"),
        ]
    );
}

#[tokio::test]
async fn every_resource_carries_the_trait_of_its_type() {
    let synced = rig(example()).await.sync().await;
    assert_eq!(synced.resources.len(), 3 + 2 + 2 + 10 + 3);
    for resource in &synced.resources {
        let annotations = &resource.annotations;
        let carried = match resource.id.as_ref().unwrap().resource_type.as_str() {
            USER => proto::has::<v2::UserTrait>(annotations),
            GROUP => proto::has::<v2::GroupTrait>(annotations),
            ROLE => proto::has::<v2::RoleTrait>(annotations),
            APP => proto::has::<v2::AppTrait>(annotations),
            other => panic!("{other}"),
        };
        assert!(carried, "{:?}", resource.id);
    }
}

#[tokio::test]
async fn edges_to_what_is_not_listed_are_left_out_and_counted() {
    let mut tenant = example();
    tenant.members(ENGINEERING).extend([
        edge("user", "64ab0000000000000000dead"),
        edge("system", "x"),
        json!({"to": null}),
    ]);
    tenant
        .bindings(TICKET_DESK, "user_group")
        .push(edge("user_group", "64ac0000000000000000dead"));
    tenant
        .bindings(TICKET_DESK, "user")
        .push(edge("user", "64ab0000000000000000beef"));
    tenant
        .list("/api/systemusers")
        .push(json!({"username": "no id"}));
    let rig = rig(tenant).await;
    let synced = rig.sync().await;
    assert!(!format!("{:?}", synced.grants).contains("dead"));
    assert!(!format!("{:?}", synced.grants).contains("beef"));
    assert_eq!(synced.warnings.len(), 5, "{:?}", synced.warnings);
    assert!(
        synced
            .warnings
            .iter()
            .any(|warning| warning.contains("(2)")),
        "{:?}",
        synced.warnings
    );

    // Without the list of users nothing can be called dangling.
    let group = synced.get(GROUP, ENGINEERING);
    let grants = rig.grants(&scope("targeted"), group).await.unwrap();
    assert_eq!(grants.len(), 3);
}

#[tokio::test]
async fn an_unreadable_list_of_roles_costs_a_warning_and_no_grant() {
    for status in [402, 403, 404] {
        let mut tenant = example();
        tenant.status("/api/v2/roles", status);
        let synced = rig(tenant).await.sync().await;
        assert_eq!(synced.ids(ROLE).len(), 10, "{status}");
        assert!(synced.find(ROLE, "role_helpdesk_tier_2").is_some());
        assert_eq!(synced.warnings.len(), 1);
        assert!(synced.warnings[0].contains("roles"));
    }
    let mut tenant = example();
    tenant.status("/api/v2/roles", 400);
    assert!(rig(tenant).await.try_sync("sync").await.is_err());
}

#[tokio::test]
async fn roles_whose_names_give_one_id_are_one_role_with_a_warning() {
    let mut tenant = example();
    tenant
        .list("/api/v2/roles")
        .push(json!({"id": "x", "name": "Helpdesk (Tier 2", "scopes": ["more"]}));
    let synced = rig(tenant).await.sync().await;
    let role = synced.get(ROLE, "role_helpdesk_tier_2");
    assert_eq!(role.display_name, "Helpdesk Tier 2");
    assert_eq!(
        fact(role, "scopes").as_deref(),
        Some("more|systemusers.unlock")
    );
    assert_eq!(synced.warnings.len(), 1);
}

#[tokio::test]
async fn a_forbidden_list_fails_the_sync_because_half_a_tenant_looks_like_access_taken_away() {
    for path in [
        "/api/systemusers",
        "/api/users",
        "/api/v2/usergroups",
        "/api/applications",
    ] {
        let mut tenant = example();
        tenant.status(path, 403);
        let error = rig(tenant).await.try_sync("sync").await.unwrap_err();
        assert_eq!(error.class(), Class::Auth, "{path}");
    }
}

#[tokio::test]
async fn validation_makes_four_calls_and_names_every_missing_permission() {
    let rig = rig(example()).await;
    assert!(rig.connector.validate().await.unwrap().warnings.is_empty());
    assert_eq!(rig.calls().len(), 4);
    rig.change(|tenant| {
        tenant.status("/api/v2/usergroups", 403);
        tenant.status("/api/users", 402);
    });
    let error = rig.connector.validate().await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    let text = error.to_string();
    assert!(text.contains("user groups, administrators"), "{text}");
    rig.change(|tenant| tenant.status("/api/applications", 401));
    let error = rig.connector.validate().await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    assert!(error.to_string().contains("API key"));
}

#[tokio::test]
async fn single_resources_equal_those_of_the_listing() {
    let rig = rig(example()).await;
    let synced = rig.sync().await;
    for (kind, id) in [
        (USER, AVERY),
        (USER, BLAKE),
        (USER, CASEY),
        (USER, DEVON_ADMIN),
        (GROUP, ALL_STAFF),
        (ROLE, "role_helpdesk_tier_2"),
        (APP, TICKET_DESK),
        (APP, "2UjI0eIRo77RGFwi2GKpAa0Til0"),
    ] {
        assert_eq!(
            &rig.get(kind, id).await.unwrap(),
            synced.get(kind, id),
            "{kind} {id}"
        );
    }
}

#[tokio::test]
async fn what_does_not_exist_is_not_found_and_nonsense_is_named() {
    let rig = rig(example()).await;
    for (kind, id) in [
        (USER, "64ab0000000000000000dead"),
        (GROUP, "64ac0000000000000000dead"),
        (ROLE, "role_none"),
        (APP, "64ae0000000000000000dead"),
        ("device", "x"),
    ] {
        let error = rig.get(kind, id).await.unwrap_err();
        assert_eq!(error.class(), Class::NotFound, "{kind} {id}: {error}");
    }
    let error = rig.get(USER, "").await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    for (kind, token) in [
        (USER, "x"),
        (USER, "users:-1"),
        (USER, "friends:0"),
        (GROUP, "x"),
        (APP, "1e9"),
    ] {
        let error = rig
            .connector
            .list_resources(&scope("s"), kind, None, Some(token))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{kind} {token}");
        assert!(error.to_string().contains(kind));
    }
    let error = rig
        .connector
        .list_grants(&scope("s"), &ids::bare(APP, TICKET_DESK), Some("devices:0"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let error = rig
        .connector
        .list_grants(&scope("s"), &v2::Resource::default(), None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("resource.id"));
}

#[tokio::test]
async fn a_merged_administrator_has_no_resource_of_its_own_when_asked_for_either() {
    let rig = rig_with(example(), true).await;
    let error = rig.get(USER, BLAKE_ADMIN).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert!(rig.get(USER, DEVON_ADMIN).await.is_ok());
}

#[tokio::test]
async fn grants_that_nobody_would_store_are_not_asked_for() {
    let rig = rig(example()).await;
    let only = |kinds: &[&str]| SyncScope {
        sync_id: "filtered".to_owned(),
        resource_type_ids: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        folder: None,
    };
    let app = ids::bare(APP, TICKET_DESK);
    let grants = rig.grants(&only(&[APP, GROUP]), &app).await.unwrap();
    assert_eq!(grants.len(), 1);
    let grants = rig.grants(&only(&[APP, USER]), &app).await.unwrap();
    assert_eq!(grants.len(), 1);
    assert_eq!(rig.calls().len(), 2);
    for (kind, id) in [
        (GROUP, ENGINEERING),
        (ROLE, "role_manager"),
        (APP, TICKET_DESK),
    ] {
        let grants = rig
            .grants(&only(&[kind]), &ids::bare(kind, id))
            .await
            .unwrap();
        assert!(grants.is_empty());
    }
    assert_eq!(rig.calls().len(), 2);
}

#[tokio::test]
async fn long_names_are_cut_between_characters() {
    let mut tenant = example();
    tenant.list("/api/v2/usergroups")[1]["name"] = json!("é".repeat(1000));
    tenant.list("/api/v2/usergroups")[1]["description"] = json!("é".repeat(2000));
    tenant.user(0)["displayname"] = json!(format!("a{}\u{0}", "é".repeat(1000)));
    let synced = rig(tenant).await.sync().await;
    let group = synced.get(GROUP, ENGINEERING);
    assert_eq!(group.display_name.len(), 1024);
    assert_eq!(group.description.len(), 2048);
    let entitlement = synced.entitlement(&format!("group:{ENGINEERING}"));
    assert!(entitlement.display_name.len() <= 1024);
    assert!(entitlement.display_name.ends_with(" Group Member"));
    assert_eq!(synced.get(USER, AVERY).display_name.len(), 1023);
}

#[tokio::test]
async fn a_group_of_many_members_is_read_once_and_served_in_pages_that_can_be_served_again() {
    let mut tenant = example();
    *tenant.members(ENGINEERING) = (0..2500)
        .map(|number| edge("user", &format!("{number:024x}")))
        .collect();
    let rig = rig(tenant).await;
    let scope = scope("s");
    let group = rig.get(GROUP, ENGINEERING).await.unwrap();
    let page = async |token: Option<&str>| {
        let page = rig
            .connector
            .list_grants(&scope, &group, token)
            .await
            .unwrap();
        (page.items.len(), page.next)
    };
    let before = rig.calls().len();
    assert_eq!(page(None).await, (991, Some("1".to_owned())));
    assert_eq!(page(Some("1")).await, (990, Some("2".to_owned())));
    assert_eq!(page(Some("1")).await, (990, Some("2".to_owned())));
    assert_eq!(rig.calls().len() - before, 26);
    assert_eq!(page(Some("2")).await, (519, None));
    assert_eq!(rig.calls().len() - before, 26);
    // The last page ended the memory; asked for again, the list is read again, and served from its beginning.
    assert_eq!(page(Some("2")).await, (991, Some("1".to_owned())));
    assert_eq!(rig.calls().len() - before, 52);
}

#[tokio::test]
async fn a_listing_that_fails_midway_can_be_tried_again() {
    let rig = rig(example()).await;
    rig.change(|tenant| tenant.status("/api/systemusers", 400));
    let first = rig
        .connector
        .list_resources(&scope("s"), USER, None, None)
        .await;
    assert!(first.is_err());
    rig.change(|tenant| {
        tenant.statuses.clear();
    });
    let page = rig
        .connector
        .list_resources(&scope("s"), USER, None, None)
        .await
        .unwrap();
    assert_eq!(page.items.len(), 3);
    let administrators = rig
        .calls()
        .into_iter()
        .filter(|call| call.starts_with("/api/users?"))
        .count();
    assert_eq!(administrators, 1);
}

#[test]
fn capabilities_claim_what_can_be_done_and_nothing_more() {
    let all = Allowed {
        account_deletion: true,
        administrator_roles: true,
    };
    let cases = [
        (
            Allowed::default(),
            [
                (APP, vec![2, 11, 1]),
                (GROUP, vec![2, 11, 1, 8, 7]),
                (ROLE, vec![2, 11]),
                (USER, vec![2, 11, 5, 6]),
            ],
        ),
        (
            all,
            [
                (APP, vec![2, 11, 1]),
                (GROUP, vec![2, 11, 1, 8, 7]),
                (ROLE, vec![2, 11, 1]),
                (USER, vec![2, 11, 5, 8, 6]),
            ],
        ),
    ];
    for (allowed, expected) in cases {
        let metadata = metadata_allowing(allowed);
        assert_eq!(metadata.display_name, "JumpCloud");
        assert!(metadata.account_creation_schema.is_some());
        let capabilities = metadata.capabilities.unwrap();
        assert_eq!(
            capabilities.connector_capabilities,
            [1, 2, 5, 6, 7, 8, 10, 11, 13]
        );
        let details = capabilities.credential_details.unwrap();
        let creation = details.capability_account_provisioning.unwrap();
        assert_eq!(creation.supported_credential_options, [1, 2, 3, 4]);
        assert_eq!(creation.preferred_credential_option, 2);
        let rotation = details.capability_credential_rotation.unwrap();
        assert_eq!(rotation.supported_credential_options, [2, 4]);
        assert_eq!(rotation.preferred_credential_option, 2);
        let told: Vec<(String, Vec<i32>)> = capabilities
            .resource_type_capabilities
            .into_iter()
            .map(|entry| {
                assert!(!entry.permissions.unwrap().permissions.is_empty());
                (entry.resource_type.unwrap().id, entry.capabilities)
            })
            .collect();
        assert_eq!(told, expected.map(|(kind, can)| (kind.to_owned(), can)));
    }
    assert_eq!(metadata(), metadata_allowing(Allowed::default()));
    let listed: Vec<String> = capabilities::resource_types(Allowed::default())
        .into_iter()
        .map(|kind| kind.id)
        .collect();
    assert_eq!(listed, [USER, GROUP, ROLE, APP]);
    let user = capabilities::user_type();
    assert!(proto::has::<v2::SkipEntitlementsAndGrants>(
        &user.annotations
    ));
    assert_eq!(user.display_name, "User");
}

#[test]
fn role_ids_are_those_of_the_official_connector() {
    for (name, id) in [
        (
            "Administrator with Billing",
            "role_administrator_with_billing",
        ),
        (
            "Administrator With Billing",
            "role_administrator_with_billing",
        ),
        (" Help Desk ", "role_help_desk"),
        ("Tier-2 / Ops (EU)", "role_tier_2_ops_eu_"),
        ("Ünïcode", "role__n_code"),
    ] {
        assert_eq!(roles::role_id(name), id, "{name}");
    }
}
