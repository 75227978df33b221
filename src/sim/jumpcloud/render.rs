//! How objects look on the wire: one table of fields for each collection.
//!
//! Fields are written one by one into the answer's buffer, so a projection costs only what it shows. Odd spellings of
//! "nothing" (empty text, null, field missing) are spread over the objects by their salt, as in real organisations.

use std::io::Write as _;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{
    id::{Id, IdKind},
    names::{self, pick},
    tenant::{
        App, Group, Identified, MembershipMethod, NONE, Overrides, Status, Table, Tenant, User,
        person, user_email,
    },
};

/// One field of a collection. `write` returns whether the object has the field.
pub(super) struct Field {
    pub name: &'static str,
    pub write: fn(&Tenant, u32, &mut Out<'_>) -> bool,
}

/// A collection of objects as one list endpoint shows it.
pub(super) struct Kind {
    pub name: &'static str,
    pub fields: &'static [Field],
    pub live: fn(&Tenant) -> Vec<u32>,
    pub id: fn(&Tenant, u32) -> Option<Id>,
    pub find: fn(&Tenant, Id) -> Option<u32>,
    pub overrides: fn(&Tenant, u32) -> Option<&Overrides>,
}

/// The buffer of an answer. Every method returns `true`, the answer of a field that was written.
pub(super) struct Out<'a>(pub &'a mut Vec<u8>);

impl Out<'_> {
    /// Serialising into memory can fail only for maps without text keys, which the simulator does not have.
    fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> bool {
        serde_json::to_writer(&mut *self.0, value).is_ok()
    }

    fn raw(&mut self, text: &str) -> bool {
        self.0.extend_from_slice(text.as_bytes());
        true
    }

    fn text(&mut self, text: &str) -> bool {
        self.json(text)
    }

    fn flag(&mut self, value: bool) -> bool {
        self.raw(if value { "true" } else { "false" })
    }

    fn null(&mut self) -> bool {
        self.raw("null")
    }

    fn id(&mut self, id: Id) -> bool {
        self.0.push(b'"');
        self.0.extend_from_slice(&id.hex());
        self.0.push(b'"');
        true
    }

    fn time(&mut self, seconds: i64) -> bool {
        let time = time(seconds);
        write!(self.0, "\"{time}\"").is_ok()
    }

    /// Nothing to say: empty text, null, or no field at all, as the chance decides.
    fn nothing(&mut self, chance: u64) -> bool {
        match chance % 4 {
            0 | 1 => self.text(""),
            2 => self.null(),
            _ => false,
        }
    }

    fn text_or_nothing(&mut self, text: &str, chance: u64) -> bool {
        if text.is_empty() {
            self.nothing(chance)
        } else {
            self.text(text)
        }
    }
}

fn time(seconds: i64) -> String {
    stamp(Timestamp::from_second(seconds).unwrap_or_default())
}

/// A moment as answers show it.
pub(super) fn stamp(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// A moment between the first second given and four years later.
fn moment(from: i64, chance: u64) -> i64 {
    from + i64::try_from(chance % 126_144_000).unwrap_or(0)
}

const AUTUMN_2020: i64 = 1_600_000_000;
const SPRING_2025: i64 = 1_743_000_000;

fn bits(salt: u64, from: u32, count: u32) -> u64 {
    (salt >> from) & ((1 << count) - 1)
}

/// Some fields are the same for every row.
const fn not_every_field_uses<T>(_row: &T) {}

macro_rules! fields {
    ($name:ident, $table:ident, |$tenant:ident, $slot:ident, $row:ident, $out:ident| { $($field:literal => $body:expr,)+ }) => {
        static $name: &[Field] = &[$(Field {
            name: $field,
            write: |$tenant, $slot, $out| {
                let Some($row) = $tenant.$table.row($slot) else { return false };
                not_every_field_uses($row);
                $body
            },
        }),+];
    };
}

macro_rules! kind {
    ($kind:ident, $name:literal, $fields:ident, $table:ident, $overrides:expr) => {
        pub(super) static $kind: Kind = Kind {
            name: $name,
            fields: $fields,
            live: |tenant| tenant.$table.live().to_vec(),
            id: |tenant, slot| id_of(&tenant.$table, slot),
            find: |tenant, id| tenant.$table.find(id),
            overrides: $overrides,
        };
    };
}

fn id_of<T: Identified>(table: &Table<T>, slot: u32) -> Option<Id> {
    table.row(slot).map(Identified::id)
}

kind!(USERS, "users", USER_FIELDS, users, |tenant, slot| tenant
    .users
    .row(slot)?
    .overrides
    .as_deref());
kind!(GROUPS, "groups", GROUP_FIELDS, groups, |tenant, slot| {
    tenant.groups.row(slot)?.overrides.as_deref()
});
kind!(APPS, "apps", APP_FIELDS, apps, |tenant, slot| tenant
    .apps
    .row(slot)?
    .overrides
    .as_deref());
kind!(ADMINS, "admins", ADMIN_FIELDS, admins, |tenant, slot| {
    tenant.admins.row(slot)?.overrides.as_deref()
});

/// The list of roles may leave out the built-in ones.
pub(super) static ROLES: Kind = Kind {
    name: "roles",
    fields: ROLE_FIELDS,
    live: Tenant::listed_roles,
    id: |tenant, slot| id_of(&tenant.roles, slot),
    find: |tenant, id| {
        tenant
            .roles
            .find(id)
            .filter(|slot| tenant.listed_roles().contains(slot))
    },
    overrides: |_, _| None,
};

pub(super) static DIRECTORIES: Kind = Kind {
    name: "directories",
    fields: DIRECTORY_FIELDS,
    live: |_| vec![0, 1, 2],
    id: |tenant, slot| Some(directory_id(tenant, slot)),
    find: |tenant, id| (0..3).find(|&slot| directory_id(tenant, slot) == id),
    overrides: |_, _| None,
};

fn directory_id(tenant: &Tenant, slot: u32) -> Id {
    Id::derive(tenant.seed, IdKind::Directory, u64::from(slot))
}

#[derive(Serialize)]
struct Mfa {
    configured: bool,
    exclusion: bool,
    #[serde(rename = "exclusionUntil", skip_serializing_if = "Option::is_none")]
    exclusion_until: Option<&'static str>,
    #[serde(rename = "exclusionDays", skip_serializing_if = "Option::is_none")]
    exclusion_days: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the names are those of the wire")]
struct MfaEnrollment {
    overall_status: &'static str,
    totp_status: &'static str,
    web_authn_status: &'static str,
    push_status: &'static str,
    jc_go_status: &'static str,
}

#[derive(Serialize)]
struct NameValue<'a> {
    name: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
struct Phone {
    id: Id,
    #[serde(rename = "type")]
    kind: &'static str,
    number: String,
}

#[derive(Serialize)]
struct SshKey {
    #[serde(rename = "_id")]
    id: Id,
    name: &'static str,
    public_key: String,
    create_date: String,
}

#[derive(Serialize)]
struct Restriction {
    field: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    id: Id,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AdminLink<'a> {
    id: Id,
    role_name: &'a str,
    role_names: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RecoveryEmail {
    address: String,
    verified: bool,
    verified_at: Option<&'static str>,
}

/// Where a user comes from: 3 % each from Active Directory and through SCIM.
fn source(user: &User) -> &'static str {
    match bits(user.salt, 40, 16) % 100 {
        0..3 => "active_directory",
        3..6 => "scim",
        _ => "",
    }
}

fn has_mfa(user: &User) -> bool {
    user.status == Status::Active && bits(user.salt, 12, 2) != 0
}

/// Which field the Nth custom attribute of a user is, and its value.
fn attributes(user: &User, slot: u32) -> Vec<(&'static str, String)> {
    if slot == 7 {
        return vec![("note", "n".repeat(1024)), ("building", "HQ".to_owned())];
    }
    let mut all = vec![
        (
            "building",
            pick(&["HQ", "Annex", "Fabrik 3"], bits(user.salt, 3, 4)).to_owned(),
        ),
        ("badge", format!("B-{slot}")),
        (
            "contractEnd",
            format!("2027-{:02}-28", bits(user.salt, 8, 3) + 1),
        ),
    ];
    all.truncate(usize::try_from(bits(user.salt, 22, 2)).unwrap_or(0));
    all
}

fn detail_id(tenant: &Tenant, slot: u32, number: u64) -> Id {
    Id::derive(tenant.seed, IdKind::Detail, u64::from(slot) * 16 + number)
}

fields!(USER_FIELDS, users, |tenant, slot, user, out| {
    "_id" => out.id(user.id),
    "id" => out.id(user.id),
    "username" => out.text(&person(slot).2),
    "email" => out.text(&user_email(user, slot)),
    "alternateEmail" => if bits(user.salt, 4, 2) == 0 {
        out.text(&format!("{}@example.net", person(slot).2))
    } else {
        out.nothing(bits(user.salt, 24, 2))
    },
    "firstname" => out.text(person(slot).0),
    "middlename" => out.nothing(bits(user.salt, 26, 2)),
    "lastname" => out.text(person(slot).1),
    "displayname" => if bits(user.salt, 6, 3) == 0 {
        out.text("")
    } else {
        let (first, last, _) = person(slot);
        out.text(&format!("{first} {last}"))
    },
    "description" => out.nothing(bits(user.salt, 28, 2)),
    "location" => out.text_or_nothing(pick(&names::PLACES, bits(user.salt, 9, 5)), 0),
    "company" => out.text(&tenant.organization_name),
    "costCenter" => if bits(user.salt, 30, 1) == 0 {
        out.text(&format!("CC-{}", 100 + bits(user.salt, 31, 4) * 10))
    } else {
        out.nothing(bits(user.salt, 32, 2))
    },
    "department" => out.text(pick(&names::DEPARTMENTS, bits(user.salt, 33, 8))),
    "jobTitle" => out.text(pick(&names::JOBS, bits(user.salt, 35, 8))),
    "employeeIdentifier" => if bits(user.salt, 37, 3) == 0 {
        out.null()
    } else {
        out.text(&format!("E-{}", 1001 + slot))
    },
    "employeeType" => out.text_or_nothing(pick(&names::EMPLOYEE_TYPES, bits(user.salt, 41, 4)), user.salt),
    "manager" => match tenant.users.row(user.manager) {
        Some(manager) => out.id(manager.id),
        None => out.nothing(u64::from(slot / 25)),
    },
    "organization" => out.id(tenant.organization),
    "created" => out.time(moment(AUTUMN_2020, user.salt)),
    "creationSource" => out.text(pick(&["jumpcloud:bulk", "jumpcloud:gapps", "jumpcloud:scim", "jumpcloud:o365"], bits(user.salt, 45, 4))),
    "state" => match user.status {
        Status::Active | Status::Locked | Status::NeverActivated => out.text("ACTIVATED"),
        Status::Staged => out.text("STAGED"),
        Status::Suspended => out.text("SUSPENDED"),
        Status::Legacy | Status::LegacySuspended => false,
    },
    "systemUsername" => matches!(user.status, Status::Legacy | Status::LegacySuspended) && out.text(&person(slot).2),
    "activated" => out.flag(!matches!(user.status, Status::Staged | Status::NeverActivated)),
    "suspended" => out.flag(matches!(user.status, Status::Suspended | Status::LegacySuspended)),
    "account_locked" => out.flag(user.status == Status::Locked),
    "account_locked_date" => if user.status == Status::Locked {
        out.time(moment(SPRING_2025, user.salt % 10_000_000))
    } else {
        out.null()
    },
    "badLoginAttempts" => out.raw(if user.status == Status::Locked { "6" } else { "0" }),
    "password_date" => user.status == Status::Active && out.time(moment(SPRING_2025, user.salt % 8_000_000)),
    "password_expiration_date" => match user.status {
        Status::Active => out.time(moment(SPRING_2025, user.salt % 8_000_000 + 15_552_000)),
        Status::Staged | Status::NeverActivated => false,
        _ => out.nothing(user.salt),
    },
    "password_expired" => out.flag(bits(user.salt, 47, 5) == 0),
    "password_never_expires" => out.flag(bits(user.salt, 49, 5) == 1),
    "passwordless_sudo" => out.flag(false),
    "sudo" => out.flag(bits(user.salt, 51, 5) == 2),
    "enable_user_portal_multifactor" => out.flag(has_mfa(user)),
    "totp_enabled" => out.flag(has_mfa(user)),
    "mfa" => if bits(user.salt, 53, 4) == 3 {
        out.null()
    } else {
        let exclusion = bits(user.salt, 53, 5) == 4;
        out.json(&Mfa {
            configured: has_mfa(user),
            exclusion,
            exclusion_until: exclusion.then_some("2026-10-15T00:00:00.000Z"),
            exclusion_days: exclusion.then_some(14),
        })
    },
    "mfaEnrollment" => {
        let totp = if has_mfa(user) { "ENROLLED" } else { "NOT_ENROLLED" };
        out.json(&MfaEnrollment {
            overall_status: totp,
            totp_status: totp,
            web_authn_status: pick(&["NOT_ENROLLED", "NOT_ENROLLED", "DISABLED", "PENDING_ACTIVATION"], bits(user.salt, 13, 2)),
            push_status: if has_mfa(user) && bits(user.salt, 15, 1) == 1 { "ENROLLED" } else { "NOT_ENROLLED" },
            jc_go_status: "NOT_ENROLLED",
        })
    },
    "attributes" => {
        let all = attributes(user, slot);
        let all: Vec<NameValue<'_>> = all.iter().map(|(name, value)| NameValue { name, value }).collect();
        out.json(&all)
    },
    "phoneNumbers" => if bits(user.salt, 17, 2) == 0 {
        out.json(&[Phone {
            id: detail_id(tenant, slot, 1),
            kind: "work",
            number: format!("+31 30 555 {:04}", bits(user.salt, 19, 10)),
        }])
    } else {
        out.raw("[]")
    },
    "addresses" => out.raw("[]"),
    "relationships" => out.raw("[]"),
    "ssh_keys" => if bits(user.salt, 21, 3) == 0 {
        out.json(&[SshKey {
            id: detail_id(tenant, slot, 2),
            name: "laptop",
            public_key: format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5fixture{slot}"),
            create_date: time(moment(AUTUMN_2020, user.salt)),
        }])
    } else {
        out.raw("[]")
    },
    "allow_public_key" => out.flag(true),
    "public_key" => out.text(""),
    "ldap_binding_user" => out.flag(bits(user.salt, 55, 6) == 1),
    "samba_service_user" => out.flag(false),
    "enable_managed_uid" => out.flag(false),
    "unix_uid" => out.json(&(5000 + slot)),
    "unix_guid" => out.json(&(5000 + slot)),
    "external_dn" => if source(user) == "active_directory" {
        out.text(&format!("CN={},OU=Staff,DC=example,DC=com", person(slot).2))
    } else {
        out.text("")
    },
    "external_source_type" => out.text(source(user)),
    "externally_managed" => out.flag(source(user) == "active_directory"),
    "delegatedAuthority" => source(user) == "active_directory" && out.raw(r#"{"id":"64b4000000000000000000d1","name":"ActiveDirectory"}"#),
    "restrictedFields" => if source(user).is_empty() {
        out.raw("[]")
    } else {
        out.json(&[Restriction { field: "department", kind: source(user), id: detail_id(tenant, slot, 3) }])
    },
    "recoveryEmail" => match bits(user.salt, 57, 2) {
        0 => out.json(&RecoveryEmail {
            address: format!("{}@example.org", person(slot).2),
            verified: true,
            verified_at: Some("2024-03-06T00:00:00.000Z"),
        }),
        1 => out.null(),
        _ => false,
    },
    "disableDeviceMaxLoginAttempts" => out.flag(false),
    "managedAppleId" => out.nothing(bits(user.salt, 59, 2)),
    "admin" => match tenant.admins.row(user.admin) {
        Some(admin) => out.json(&AdminLink {
            id: admin.id,
            role_name: admin.roles.first().map_or("", String::as_str),
            role_names: &admin.roles,
        }),
        None if bits(user.salt, 61, 2) == 0 => false,
        None => out.null(),
    },
});

#[derive(Serialize)]
struct Sudo {
    enabled: bool,
    #[serde(rename = "withoutPassword")]
    without_password: bool,
}

#[derive(Serialize)]
struct PosixGroup<'a> {
    id: u32,
    name: &'a str,
}

#[derive(Serialize)]
struct RadiusReply {
    reply: [NameValue<'static>; 1],
}

#[derive(Serialize)]
struct LdapGroup<'a> {
    name: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupAttributes<'a> {
    sudo: Sudo,
    ldap_groups: [LdapGroup<'a>; 1],
    posix_groups: [PosixGroup<'a>; 1],
    radius: RadiusReply,
    samba_enabled: bool,
}

fn plain_name(group: &Group) -> String {
    group
        .name
        .chars()
        .filter_map(|letter| match letter {
            'a'..='z' | '0'..='9' => Some(letter),
            'A'..='Z' => Some(letter.to_ascii_lowercase()),
            ' ' => Some('-'),
            _ => None,
        })
        .collect()
}

fn is_dynamic(group: &Group) -> bool {
    matches!(
        group.method,
        MembershipMethod::DynamicAutomated | MembershipMethod::DynamicReviewRequired
    )
}

fields!(GROUP_FIELDS, groups, |tenant, slot, group, out| {
    "id" => out.id(group.id),
    "name" => out.text(&group.name),
    "type" => out.text("user_group"),
    "description" => if bits(group.salt, 2, 1) == 0 {
        out.text(&format!("Members of {}", group.name))
    } else {
        out.nothing(bits(group.salt, 3, 2))
    },
    "email" => if bits(group.salt, 5, 2) == 0 {
        out.text(&format!("{}@example.com", plain_name(group)))
    } else {
        out.nothing(bits(group.salt, 7, 2))
    },
    "attributes" => if bits(group.salt, 9, 2) == 0 {
        let name = plain_name(group);
        out.json(&GroupAttributes {
            sudo: Sudo { enabled: bits(group.salt, 11, 1) == 1, without_password: false },
            ldap_groups: [LdapGroup { name: &name }],
            posix_groups: [PosixGroup { id: 7001 + slot, name: &name }],
            radius: RadiusReply { reply: [NameValue { name: "Tunnel-Private-Group-Id", value: "40" }] },
            samba_enabled: false,
        })
    } else {
        out.null()
    },
    "membershipMethod" => out.json(&group.method),
    "memberQuery" => is_dynamic(group) && out.json(&serde_json::json!({
        "queryType": "FilterQuery",
        "filters": [format!(r#"{{"field":"department","operator":"eq","value":"{}"}}"#, pick(&names::DEPARTMENTS, u64::from(slot)))],
    })),
    "memberQueryExemptions" => out.raw("[]"),
    "memberSuggestionsNotify" => out.flag(group.method == MembershipMethod::DynamicReviewRequired),
    "memberQueryErrorFlags" => is_dynamic(group) && out.raw("[]"),
    "suggestionCounts" => out.raw(r#"{"add":0,"remove":0,"total":0}"#),
    "organizationObjectId" => out.id(tenant.organization),
});

fn app_type(app: &App) -> &'static str {
    pick(&["saml", "saml", "oidc", "bookmark"], bits(app.salt, 2, 4))
}

fn app_label(app: &App, slot: u32) -> String {
    match bits(app.salt, 6, 3) {
        0 => String::new(),
        1 => app.name.clone(),
        _ => format!("{} ({})", app.name, slot + 1),
    }
}

fields!(APP_FIELDS, apps, |tenant, slot, app, out| {
    "_id" => out.id(app.id),
    "id" => out.id(app.id),
    "name" => out.text(app.template),
    "displayName" => if app_type(app) == "bookmark" { out.nothing(bits(app.salt, 9, 2)) } else { out.text(&app.name) },
    "displayLabel" => out.text_or_nothing(&app_label(app, slot), app.salt >> 11),
    "description" => if bits(app.salt, 13, 1) == 0 { out.text(&format!("{} of the company", app.name)) } else { out.nothing(bits(app.salt, 14, 2)) },
    "active" => out.flag(bits(app.salt, 16, 3) != 0),
    "beta" => out.flag(false),
    "color" => out.null(),
    "organization" => out.id(tenant.organization),
    "logo" => if bits(app.salt, 19, 1) == 0 {
        out.json(&serde_json::json!({"url": format!("https://static.example.com/{}.png", app.template)}))
    } else {
        out.raw(r#"{"url":""}"#)
    },
    "learnMore" => if bits(app.salt, 20, 1) == 0 { out.text(&format!("https://docs.example.com/{}", app.template)) } else { out.nothing(bits(app.salt, 21, 2)) },
    "ssoUrl" => out.text(&match app_type(app) {
        "bookmark" => format!("https://{}.example.com", app.template),
        kind => format!("https://sso.example.com/{kind}/{}{}", app.template, slot + 1),
    }),
    "created" => out.time(moment(AUTUMN_2020, app.salt)),
    "sso" => match app_type(app) {
        "saml" => out.json(&serde_json::json!({
            "type": "saml", "jit": false, "beta": false, "hidden": false,
            "idpCertExpirationAt": time(moment(SPRING_2025, app.salt)),
        })),
        kind => out.json(&serde_json::json!({"type": kind})),
    },
    "databaseAttributes" => out.raw("[]"),
    "config" => if app_type(app) == "saml" {
        let key = format!("-----BEGIN FIXTURE SECRETSEED PRIVATE KEY {:016x}-----", app.salt);
        out.json(&serde_json::json!({"idpEntityId": {"value": "JumpCloud"}, "idpPrivateKey": {"value": key}}))
    } else {
        out.raw("{}")
    },
});

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ApiKeyHash {
    prefix: &'static str,
    created_at: String,
    expire_at: String,
}

fn role_ids(tenant: &Tenant, names: &[String]) -> Vec<Id> {
    names
        .iter()
        .filter_map(|name| tenant.roles.live_rows().find(|role| role.name == *name))
        .map(|role| role.id)
        .collect()
}

fn has_api_key(salt: u64) -> bool {
    bits(salt, 4, 1) == 1
}

fields!(ADMIN_FIELDS, admins, |tenant, slot, admin, out| {
    "_id" => out.id(admin.id),
    "id" => out.id(admin.id),
    "email" => out.text(&admin.email),
    "firstname" => out.text(&admin.first),
    "lastname" => out.text(&admin.last),
    "roleName" => out.text(admin.roles.first().map_or("", String::as_str)),
    // An administrator with one role may lack the newer field.
    "roleNames" => (admin.roles.len() > 1 || slot % 2 == 0) && out.json(&admin.roles),
    "role" => match role_ids(tenant, &admin.roles).first() {
        Some(&id) => out.id(id),
        None => false,
    },
    "roles" => (admin.roles.len() > 1 || slot % 2 == 0) && out.json(&role_ids(tenant, &admin.roles)),
    "enableMultiFactor" => out.flag(bits(admin.salt, 2, 1) == 1),
    "totpEnrolled" => out.flag(bits(admin.salt, 2, 2) == 3),
    "suspended" => out.flag(slot % 8 == 6),
    "apiKeyAllowed" => out.flag(has_api_key(admin.salt)),
    "apiKeySet" => out.flag(has_api_key(admin.salt)),
    "apiKeyHash" => has_api_key(admin.salt) && out.json(&ApiKeyHash {
        prefix: "jca_4f",
        created_at: time(moment(AUTUMN_2020, admin.salt)),
        expire_at: time(moment(SPRING_2025, admin.salt)),
    }),
    "passwordUpdatedAt" => if bits(admin.salt, 5, 1) == 0 { out.time(moment(AUTUMN_2020, admin.salt)) } else { false },
    "created" => out.time(moment(AUTUMN_2020, admin.salt)),
    "organization" => if slot % 3 == 2 { out.null() } else { out.id(tenant.organization) },
    "provider" => out.null(),
    "sessionCount" => out.json(&bits(admin.salt, 6, 6)),
});

fields!(ROLE_FIELDS, roles, |tenant, slot, role, out| {
    "id" => out.id(role.id),
    "name" => out.text(&role.name),
    "description" => out.text(role.description),
    "scopes" => out.json(role.scopes),
});

static DIRECTORY_FIELDS: &[Field] = &[
    Field {
        name: "id",
        write: |tenant, slot, out| out.id(directory_id(tenant, slot)),
    },
    Field {
        name: "name",
        write: |_, slot, out| {
            out.text(pick(
                &["JumpCloud LDAP", "Google Workspace", "Microsoft 365"],
                u64::from(slot),
            ))
        },
    },
    Field {
        name: "type",
        write: |_, slot, out| {
            out.text(pick(
                &["ldap_server", "g_suite", "office_365"],
                u64::from(slot),
            ))
        },
    },
    Field {
        name: "defaultDomain",
        write: |_, slot, out| {
            slot == 1 && out.raw(r#"{"id":"64b0000000000000000000d1","domain":"example.com"}"#)
        },
    },
    Field {
        name: "oAuthStatus",
        write: |_, slot, out| match slot {
            1 => out.raw(r#"{"expiry":"2026-10-02T00:00:00Z"}"#),
            2 => out.raw(r#"{"error":"invalid_grant"}"#),
            _ => false,
        },
    },
];

impl Kind {
    /// The fields that a projection leaves; ids are always there.
    pub(super) fn projected(&self, names: Option<&[String]>) -> Vec<&'static Field> {
        self.fields
            .iter()
            .filter(|field| shows(names, field.name))
            .collect()
    }

    /// Writes one object.
    pub(super) fn write(
        &self,
        tenant: &Tenant,
        slot: u32,
        fields: &[&'static Field],
        projection: Option<&[String]>,
        buffer: &mut Vec<u8>,
    ) {
        let overrides = (self.overrides)(tenant, slot);
        let mut separator = b'{';
        for field in fields {
            let start = buffer.len();
            buffer.push(separator);
            key(buffer, field.name);
            let written = match overrides.and_then(|map| map.get(field.name)) {
                Some(Some(value)) => Out(buffer).json(value),
                Some(None) => false,
                None => (field.write)(tenant, slot, &mut Out(buffer)),
            };
            if written {
                separator = b',';
            } else {
                buffer.truncate(start);
            }
        }
        for (name, value) in overrides.into_iter().flatten() {
            let unknown = self.fields.iter().all(|field| field.name != name);
            if let (true, true, Some(value)) = (unknown, shows(projection, name), value) {
                buffer.push(separator);
                key(buffer, name);
                Out(buffer).json(value);
                separator = b',';
            }
        }
        if separator == b'{' {
            buffer.push(b'{');
        }
        buffer.push(b'}');
    }

    /// One field of one object as text: empty when the object lacks it, JSON when it is no text.
    pub(super) fn text(&self, tenant: &Tenant, slot: u32, name: &str) -> String {
        match self.value(tenant, slot, name) {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }

    /// One field of one object, null when the object lacks it.
    pub(super) fn value(&self, tenant: &Tenant, slot: u32, name: &str) -> Value {
        let json = self.field(tenant, slot, name).unwrap_or_default();
        serde_json::from_slice(&json).unwrap_or_default()
    }

    /// The JSON of one field of one object, empty when the object lacks it; `None` when the collection lacks it.
    pub(super) fn field(&self, tenant: &Tenant, slot: u32, name: &str) -> Option<Vec<u8>> {
        let overridden = (self.overrides)(tenant, slot).and_then(|map| map.get(name));
        let mut buffer = Vec::new();
        let written = match overridden {
            Some(Some(value)) => Out(&mut buffer).json(value),
            Some(None) => false,
            None => {
                let field = self.fields.iter().find(|field| field.name == name)?;
                (field.write)(tenant, slot, &mut Out(&mut buffer))
            }
        };
        if !written {
            buffer.clear();
        }
        Some(buffer)
    }

    pub(super) fn has_field(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name == name)
    }
}

fn shows(names: Option<&[String]>, name: &str) -> bool {
    matches!(name, "_id" | "id") || names.is_none_or(|names| names.iter().any(|n| n == name))
}

fn key(buffer: &mut Vec<u8>, name: &str) {
    Out(buffer).json(name);
    buffer.push(b':');
}

/// One end of a graph connection.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Target {
    pub attributes: Option<()>,
    pub id: Id,
    #[serde(rename = "type")]
    pub kind: &'static str,
}

/// A graph connection.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Edge {
    pub attributes: Option<Value>,
    pub to: Target,
}

impl Edge {
    pub(super) fn to(id: Id, kind: &'static str) -> Self {
        Self {
            attributes: None,
            to: Target {
                attributes: None,
                id,
                kind,
            },
        }
    }

    /// The same with the attributes that the connection was given.
    pub(super) fn with(mut self, attributes: Option<&Value>) -> Self {
        self.attributes = attributes.cloned();
        self
    }
}

/// An object that can be reached, with the ways to it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Reached {
    pub id: Id,
    #[serde(rename = "type")]
    pub kind: &'static str,
    #[serde(rename = "compiledAttributes")]
    pub compiled_attributes: Option<()>,
    pub paths: Vec<Vec<Edge>>,
}

/// The groups that bind users to an application, by slot of the user; [`NONE`] stands for a direct binding.
pub(super) fn ways_to_app(tenant: &Tenant, app: &App) -> Vec<(u32, Vec<u32>)> {
    let mut ways: std::collections::BTreeMap<u32, Vec<u32>> = std::collections::BTreeMap::new();
    for &user in &app.users {
        ways.entry(user).or_default().push(NONE);
    }
    for &group in &app.groups {
        let members = tenant.groups.row(group).map(|group| &group.members);
        for &user in members.into_iter().flatten() {
            ways.entry(user).or_default().push(group);
        }
    }
    ways.into_iter().collect()
}
