//! Directory users: create, partial update, delete, states, passwords, second factors and SSH keys.

use secrecy::SecretString;
use serde_json::{Map, Value, json};

use super::{
    Applied, duplicate, filled, flag, id_of, invalid, list, object, required, shown, taken, user,
};
use crate::sim::jumpcloud::{
    id::IdKind,
    render::{USERS, stamp},
    serve::{Ask, Failure, Reply, slot},
    tenant::{NONE, Overrides, PasswordPolicy, Status, Tenant, User, new_user},
};

/// Texts of at most 1,024 characters that are stored as they come; `employeeIdentifier` takes 256.
const TEXTS: [&str; 20] = [
    "username",
    "email",
    "alternateEmail",
    "firstname",
    "middlename",
    "lastname",
    "displayname",
    "description",
    "location",
    "company",
    "costCenter",
    "department",
    "jobTitle",
    "employeeType",
    "managedAppleId",
    "external_dn",
    "external_source_type",
    "external_password_expiration_date",
    "public_key",
    "employeeIdentifier",
];

const FLAGS: [&str; 9] = [
    "sudo",
    "passwordless_sudo",
    "password_never_expires",
    "enable_managed_uid",
    "enable_user_portal_multifactor",
    "allow_public_key",
    "ldap_binding_user",
    "samba_service_user",
    "disableDeviceMaxLoginAttempts",
];

const NUMBERS: [&str; 2] = ["unix_uid", "unix_guid"];

/// Lists, which are replaced as a whole.
const LISTS: [&str; 5] = [
    "attributes",
    "phoneNumbers",
    "addresses",
    "relationships",
    "restrictedFields",
];

const OBJECTS: [&str; 3] = ["mfa", "recoveryEmail", "delegatedAuthority"];

/// Fields in which no two users may be the same, whatever the case.
const UNIQUE: [&str; 3] = ["username", "email", "employeeIdentifier"];

pub(super) fn create(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let body = object(ask)?;
    let username = required(&body, "username")?.to_owned();
    required(&body, "email")?;
    check(tenant, ask, &body, None)?;
    let password = password(tenant, &body, &username)?;
    let manager = manager(tenant, &body, NONE)?;
    let state = match wish(&body, true)? {
        Some(state) => state,
        None if tenant.stage_new_users => State::Staged,
        None => State::Activated,
    };
    let status = match state {
        State::Staged => Status::Staged,
        State::Suspended => Status::Suspended,
        State::Activated if password.is_some() => Status::Active,
        State::Activated => Status::NeverActivated,
    };
    let mail = (state == State::Activated).then(|| mail(password.is_some()));

    let own = tenant.users.next_slot();
    let mut row = new_user(tenant.seed, own, status, manager.unwrap_or(NONE));
    let id = row.id;
    let mut fields = blank(&stamp(tenant.now()));
    store(tenant, &body, &mut fields);
    row.overrides = Some(Box::new(fields));
    if status == Status::Suspended && password.is_none() {
        put(&mut row, "activated", json!(false));
    }
    if let Some(password) = password {
        set_password(tenant, &mut row, password);
    }
    tenant.users.push(row);
    tenant.link_administrators();
    tenant.touch();
    Ok(Applied::fields(shown(tenant, &USERS, own), id, &body).mail(mail))
}

pub(super) fn update(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let own = slot(tenant, &USERS, ask)?;
    let body = object(ask)?;
    for name in ["username", "email"] {
        if body.contains_key(name) {
            required(&body, name)?;
        }
    }
    check(tenant, ask, &body, Some(own))?;
    restrictions(tenant, ask, own, &body)?;
    let old = USERS.text(tenant, own, "username");
    let username = filled(&body, "username")?.unwrap_or(&old).to_owned();
    if username.to_lowercase() != old.to_lowercase()
        && (ask.behaviour.lock_usernames || is_bound(tenant, own))
    {
        let words = "InvalidArgument: username cannot be changed while the user is bound";
        return Err(Failure::BadRequest(words.to_owned()));
    }
    let password = password(tenant, &body, &username)?;
    let manager = manager(tenant, &body, own)?;
    let state = wish(&body, false)?;
    let locked = flag(&body, "account_locked")?;
    let keys = ssh_keys(tenant, &body)?;

    let mut row = tenant.users.row(own).cloned().ok_or(Failure::Status(404))?;
    let mut fields = row.overrides.take().unwrap_or_default();
    store(tenant, &body, &mut fields);
    if let Some(keys) = keys {
        fields.insert("ssh_keys".to_owned(), Some(keys));
    }
    row.overrides = Some(fields);
    if let Some(manager) = manager {
        row.manager = manager;
    }
    if let Some(password) = password {
        set_password(tenant, &mut row, password);
    }
    let mail = state.and_then(|state| set_state(&mut row, state));
    match (locked, row.status) {
        (Some(true), Status::Active | Status::Legacy) => row.status = Status::Locked,
        (Some(false), Status::Locked) => row.status = Status::Active,
        _ => {}
    }
    let id = row.id;
    replace(tenant, own, row);
    tenant.link_administrators();
    Ok(Applied::fields(shown(tenant, &USERS, own), id, &body).mail(mail))
}

pub(super) fn delete(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let own = slot(tenant, &USERS, ask)?;
    let cascade = url::form_urlencoded::parse(ask.query.as_bytes())
        .find_map(|(name, value)| (name == "cascade_manager").then(|| value.into_owned()));
    let heir = match cascade.as_deref() {
        None => None,
        Some("null") => Some(NONE),
        Some(text) => match user(tenant, text) {
            Some(heir) if heir != own => Some(heir),
            _ => return Err(invalid("cascade_manager names no other user")),
        },
    };
    let managed: Vec<u32> = tenant
        .users
        .live()
        .iter()
        .copied()
        .filter(|&slot| {
            tenant
                .users
                .row(slot)
                .is_some_and(|user| user.manager == own)
        })
        .collect();
    if !managed.is_empty() && heir.is_none() && ask.behaviour.refuse_to_delete_managers {
        let words = "the user manages others; say cascade_manager";
        return Err(Failure::BadRequest(words.to_owned()));
    }
    let reply = shown(tenant, &USERS, own);
    let id = id_of(tenant, &USERS, own)?;
    if let Some(heir) = heir {
        for slot in managed {
            if let Some(user) = tenant.users.row_mut(slot) {
                // Nobody manages themselves.
                user.manager = if heir == slot { NONE } else { heir };
            }
        }
    }
    tenant
        .remove_user(id)
        .map_err(|_gone| Failure::Status(404))?;
    tenant.link_administrators();
    Ok(Applied::new(reply, vec![id], &["delete"]))
}

pub(super) fn activate(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let own = slot(tenant, &USERS, ask)?;
    let body = object(ask)?;
    let send = match body.get("email") {
        None | Some(Value::Null | Value::Bool(true)) => true,
        Some(Value::Bool(false)) => false,
        Some(Value::String(to)) if to.contains('@') => true,
        Some(_) => return Err(invalid("email must be true, false or an address")),
    };
    let mut row = tenant.users.row(own).cloned().ok_or(Failure::Status(404))?;
    if row.status != Status::Staged {
        return Err(Failure::BadRequest("the user is not staged".to_owned()));
    }
    let mail = set_state(&mut row, State::Activated).filter(|_| send);
    let id = row.id;
    replace(tenant, own, row);
    Ok(Applied::new(empty_object(), vec![id], &["state"]).mail(mail))
}

pub(super) fn unlock(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let own = slot(tenant, &USERS, ask)?;
    let id = id_of(tenant, &USERS, own)?;
    if let Some(row) = tenant.users.row_mut(own)
        && row.status == Status::Locked
    {
        row.status = Status::Active;
    }
    Ok(Applied::new(empty_object(), vec![id], &["account_locked"]))
}

pub(super) fn expire(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let own = slot(tenant, &USERS, ask)?;
    let now = stamp(tenant.now());
    let id = id_of(tenant, &USERS, own)?;
    if let Some(row) = tenant.users.row_mut(own) {
        put(row, "password_expired", json!(true));
        put(row, "password_expiration_date", json!(now));
    }
    Ok(Applied::new(
        Reply::json(200, Vec::new()),
        vec![id],
        &["password_expired"],
    ))
}

pub(super) fn reset_mfa(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let own = slot(tenant, &USERS, ask)?;
    let body = object(ask)?;
    let exclusion = flag(&body, "exclusion")?.unwrap_or(false);
    let mut mfa = Map::new();
    mfa.insert("configured".to_owned(), json!(false));
    mfa.insert("exclusion".to_owned(), json!(exclusion));
    if let Some(days) = body.get("exclusionDays") {
        if days.as_u64().is_none_or(|days| days == 0) {
            return Err(invalid("exclusionDays must be a number of at least 1"));
        }
        mfa.insert("exclusionDays".to_owned(), days.clone());
    }
    if let Some(until) = filled(&body, "exclusionUntil")? {
        if until.parse::<jiff::Timestamp>().is_err() {
            return Err(invalid("exclusionUntil must be a date-time"));
        }
        mfa.insert("exclusionUntil".to_owned(), json!(until));
    }
    let id = id_of(tenant, &USERS, own)?;
    if let Some(row) = tenant.users.row_mut(own) {
        put(row, "mfa", Value::Object(mfa));
        put(row, "mfaEnrollment", not_enrolled());
        put(row, "totp_enabled", json!(false));
    }
    Ok(Applied::new(
        Reply::json(200, Vec::new()),
        vec![id],
        &["mfa"],
    ))
}

pub(super) fn add_ssh_key(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let own = slot(tenant, &USERS, ask)?;
    let body = object(ask)?;
    let (name, text) = (required(&body, "name")?, required(&body, "public_key")?);
    let key_id = tenant.detail_id(IdKind::Detail);
    let key = json!({
        "_id": key_id, "name": name, "public_key": text, "create_date": stamp(tenant.now()),
    });
    let mut keys = USERS.value(tenant, own, "ssh_keys");
    if let Some(keys) = keys.as_array_mut() {
        keys.push(key.clone());
    }
    let id = id_of(tenant, &USERS, own)?;
    if let Some(row) = tenant.users.row_mut(own) {
        put(row, "ssh_keys", keys);
    }
    let reply = Reply::json(200, key.to_string().into_bytes());
    Ok(Applied::new(reply, vec![id, key_id], &["ssh_keys"]))
}

pub(super) fn remove_ssh_key(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let own = slot(tenant, &USERS, ask)?;
    let named = ask.ids.key.unwrap_or_default();
    let mut keys = USERS.value(tenant, own, "ssh_keys");
    let list = keys.as_array_mut().ok_or(Failure::Status(404))?;
    let before = list.len();
    list.retain(|key| key.get("_id").and_then(Value::as_str) != Some(named));
    if list.len() == before {
        return Err(Failure::Status(404));
    }
    let key_id = named.parse().map_err(|_problem| Failure::Status(404))?;
    let id = id_of(tenant, &USERS, own)?;
    if let Some(row) = tenant.users.row_mut(own) {
        put(row, "ssh_keys", keys);
    }
    let reply = Reply::json(200, Vec::new());
    Ok(Applied::new(reply, vec![id, key_id], &["ssh_keys"]))
}

// ---------------------------------------------------------------------------------------------- checks

/// Checks types, lengths and uniqueness of what is stored as it comes.
fn check(
    tenant: &Tenant,
    ask: &Ask<'_>,
    body: &Map<String, Value>,
    own: Option<u32>,
) -> Result<(), Failure> {
    for name in TEXTS {
        let most = if name == "employeeIdentifier" {
            256
        } else {
            1024
        };
        if filled(body, name)?.is_some_and(|text| text.chars().count() > most) {
            return Err(invalid(format_args!(
                "{name} has more than {most} characters"
            )));
        }
    }
    for name in FLAGS {
        flag(body, name)?;
    }
    for name in NUMBERS {
        if body
            .get(name)
            .is_some_and(|value| !value.is_u64() && !value.is_null())
        {
            return Err(invalid(format_args!("{name} must be a number")));
        }
    }
    for name in LISTS {
        let items = list(body, name)?.into_iter().flatten();
        if items.into_iter().any(|item| !item.is_object()) {
            return Err(invalid(format_args!("{name} must be a list of objects")));
        }
    }
    for name in OBJECTS {
        if body
            .get(name)
            .is_some_and(|value| !value.is_object() && !value.is_null())
        {
            return Err(invalid(format_args!("{name} must be an object")));
        }
    }
    if filled(body, "email")?.is_some_and(|text| !text.contains('@')) {
        return Err(invalid("email must be an e-mail address"));
    }
    if filled(body, "username")?.is_some_and(|text| text.contains(['@', ' ', '/'])) {
        return Err(invalid("username has a character that is not allowed"));
    }
    for attribute in list(body, "attributes")?.into_iter().flatten() {
        let text = |name| attribute.get(name).and_then(Value::as_str);
        let named = |name: &str| !name.is_empty() && name.chars().all(char::is_alphanumeric);
        if !text("name").is_some_and(named) {
            return Err(invalid("attributes need an alphanumeric name"));
        }
        if text("value").is_none_or(|value| value.chars().count() > 1024) {
            let words = "attributes need a value, a text of at most 1024 characters";
            return Err(invalid(words));
        }
    }
    for name in UNIQUE {
        if let Some(text) = filled(body, name)?
            && taken(tenant, &USERS, own, name, text)
        {
            return Err(duplicate(ask, name));
        }
    }
    Ok(())
}

/// Refuses fields that another directory masters, and the password of a user whose password it masters.
fn restrictions(
    tenant: &Tenant,
    ask: &Ask<'_>,
    own: u32,
    body: &Map<String, Value>,
) -> Result<(), Failure> {
    let restricted = USERS.value(tenant, own, "restrictedFields");
    let named = restricted.as_array().into_iter().flatten();
    let mut named = named.filter_map(|row| row.get("field").and_then(Value::as_str));
    let authority = USERS.value(tenant, own, "delegatedAuthority");
    let delegated = authority.get("name").and_then(Value::as_str) == Some("ActiveDirectory");
    let field = named
        .find(|&name| body.contains_key(name))
        .or_else(|| (delegated && body.contains_key("password")).then_some("password"));
    match field {
        None => Ok(()),
        Some(name) => {
            let status = if ask.behaviour.restricted_as_403 {
                403
            } else {
                400
            };
            let words = format!("{name} is managed by another directory");
            Err(Failure::Refused(status, words))
        }
    }
}

/// Whether a user is in a group or has an application.
fn is_bound(tenant: &Tenant, own: u32) -> bool {
    let mut groups = tenant.groups.live_rows();
    let mut apps = tenant.apps.live_rows();
    groups.any(|group| group.members.contains(&own)) || apps.any(|app| app.users.contains(&own))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum State {
    Staged,
    Activated,
    Suspended,
}

/// The state that a body asks for, with `state` or with `suspended`, which must agree.
fn wish(body: &Map<String, Value>, creating: bool) -> Result<Option<State>, Failure> {
    let state = match filled(body, "state")? {
        None => None,
        Some("STAGED") if creating => Some(State::Staged),
        Some("ACTIVATED") => Some(State::Activated),
        Some("SUSPENDED") => Some(State::Suspended),
        Some(_) => {
            return Err(invalid(if creating {
                "state must be STAGED, ACTIVATED or SUSPENDED"
            } else {
                "state must be ACTIVATED or SUSPENDED"
            }));
        }
    };
    match (state, flag(body, "suspended")?) {
        (state, None) => Ok(state),
        (None, Some(true)) => Ok(Some(State::Suspended)),
        (None, Some(false)) if creating => Ok(None),
        (None, Some(false)) => Ok(Some(State::Activated)),
        (Some(state), Some(suspended)) if suspended == (state == State::Suspended) => {
            Ok(Some(state))
        }
        (Some(_), Some(_)) => Err(invalid("state and suspended contradict each other")),
    }
}

/// The manager that a body names: `None` when it says nothing.
fn manager(tenant: &Tenant, body: &Map<String, Value>, own: u32) -> Result<Option<u32>, Failure> {
    if !body.contains_key("manager") {
        return Ok(None);
    }
    match filled(body, "manager")? {
        None => Ok(Some(NONE)),
        Some(text) => match user(tenant, text) {
            Some(slot) if slot != own => Ok(Some(slot)),
            _ => Err(invalid("manager names no other user")),
        },
    }
}

/// The password of a body, if it keeps to the policy.
fn password(
    tenant: &Tenant,
    body: &Map<String, Value>,
    username: &str,
) -> Result<Option<SecretString>, Failure> {
    match body.get("password") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => match broken_rule(&tenant.password_policy, text, username) {
            None => Ok(Some(SecretString::from(text.as_str()))),
            Some(rule) => Err(invalid(format_args!("password {rule}"))),
        },
        Some(_) => Err(invalid("password must be a text")),
    }
}

/// The first rule that a password breaks.
fn broken_rule(policy: &PasswordPolicy, text: &str, username: &str) -> Option<&'static str> {
    let has = |of: fn(char) -> bool| text.chars().any(of);
    let folded: Vec<char> = text.to_lowercase().chars().collect();
    let run = folded.windows(3).any(|three| match three {
        &[a, b, c] => {
            let (a, b, c) = (u32::from(a), u32::from(b), u32::from(c));
            (a == b && b == c) || (a + 1 == b && b + 1 == c) || (a == b + 1 && b == c + 1)
        }
        _ => false,
    });
    let named = !username.is_empty() && text.to_lowercase().contains(&username.to_lowercase());
    [
        (text.chars().count() < policy.min_length, "is too short"),
        (
            policy.needs_lowercase && !has(char::is_lowercase),
            "needs a lower-case letter",
        ),
        (
            policy.needs_uppercase && !has(char::is_uppercase),
            "needs an upper-case letter",
        ),
        (
            policy.needs_numeric && !has(char::is_numeric),
            "needs a digit",
        ),
        (
            policy.needs_symbolic && !has(|letter| !letter.is_alphanumeric()),
            "needs a symbol",
        ),
        (
            !policy.allow_username_substring && named,
            "must not hold the username",
        ),
        (
            policy.disallow_sequential_or_repetitive_chars && run,
            "has sequential or repetitive characters",
        ),
    ]
    .into_iter()
    .find_map(|(broken, rule)| broken.then_some(rule))
}

/// The keys of a body, each with an id and a date.
fn ssh_keys(tenant: &mut Tenant, body: &Map<String, Value>) -> Result<Option<Value>, Failure> {
    let Some(keys) = list(body, "ssh_keys")? else {
        return Ok(None);
    };
    let mut all = Vec::new();
    for key in keys {
        let key = key
            .as_object()
            .ok_or_else(|| invalid("ssh_keys must be a list of objects"))?;
        let (name, text) = (required(key, "name")?, required(key, "public_key")?);
        let id = match filled(key, "_id")? {
            Some(id) => json!(id),
            None => json!(tenant.detail_id(IdKind::Detail)),
        };
        let created = stamp(tenant.now());
        let created = filled(key, "create_date")?.unwrap_or(&created);
        all.push(json!({"_id": id, "name": name, "public_key": text, "create_date": created}));
    }
    Ok(Some(Value::Array(all)))
}

// ---------------------------------------------------------------------------------------------- changes

/// Takes over the fields of a body that are stored as they come; arrays replace what was there.
fn store(tenant: &mut Tenant, body: &Map<String, Value>, fields: &mut Overrides) {
    for (name, value) in body {
        let name = name.as_str();
        let value = if TEXTS.contains(&name) {
            match value {
                Value::Null if name == "employeeIdentifier" => Value::Null,
                Value::String(text) if name == "employeeIdentifier" && text.is_empty() => {
                    Value::Null
                }
                Value::Null => json!(""),
                value => value.clone(),
            }
        } else if LISTS.contains(&name) {
            let mut items = value.as_array().cloned().unwrap_or_default();
            if matches!(name, "phoneNumbers" | "addresses") {
                for item in items.iter_mut().filter_map(Value::as_object_mut) {
                    let id = tenant.detail_id(IdKind::Detail);
                    item.entry("id").or_insert_with(|| json!(id));
                }
            }
            Value::Array(items)
        } else if FLAGS.contains(&name) || NUMBERS.contains(&name) || OBJECTS.contains(&name) {
            value.clone()
        } else {
            continue;
        };
        let absent = value.is_null() && name != "employeeIdentifier" && name != "mfa";
        fields.insert(name.to_owned(), (!absent).then_some(value));
    }
}

fn put(row: &mut User, name: &str, value: Value) {
    row.overrides
        .get_or_insert_default()
        .insert(name.to_owned(), Some(value));
}

fn replace(tenant: &mut Tenant, own: u32, row: User) {
    if let Some(place) = tenant.users.row_mut(own) {
        *place = row;
    }
}

fn set_password(tenant: &Tenant, row: &mut User, password: SecretString) {
    const LIFE_SECONDS: i64 = 180 * 86_400;
    let now = tenant.now();
    let end = jiff::Timestamp::from_second(now.as_second().saturating_add(LIFE_SECONDS));
    row.password = Some(password);
    put(row, "password_date", json!(stamp(now)));
    put(
        row,
        "password_expiration_date",
        json!(stamp(end.unwrap_or(now))),
    );
    put(row, "password_expired", json!(false));
    match row.status {
        Status::NeverActivated => row.status = Status::Active,
        Status::Suspended => {
            if let Some(fields) = &mut row.overrides {
                fields.remove("activated");
            }
        }
        _ => {}
    }
}

/// Moves an account to a state; the mail that the service would send.
pub(in super::super) fn set_state(row: &mut User, state: State) -> Option<&'static str> {
    let was_staged = row.status == Status::Staged;
    row.status = match (state, row.status) {
        (State::Staged, _) => Status::Staged,
        (State::Suspended, Status::Staged | Status::NeverActivated) => {
            if row.password.is_none() {
                put(row, "activated", json!(false));
            }
            Status::Suspended
        }
        (State::Suspended, _) => Status::Suspended,
        (State::Activated, Status::Staged) if row.password.is_some() => Status::Active,
        (State::Activated, Status::Staged) => Status::NeverActivated,
        (State::Activated, Status::Suspended | Status::LegacySuspended) => {
            let fields = row.overrides.as_mut();
            match fields.and_then(|fields| fields.remove("activated")) {
                Some(_never) => Status::NeverActivated,
                None => Status::Active,
            }
        }
        (State::Activated, same) => same,
    };
    (was_staged && state == State::Activated).then(|| mail(row.password.is_some()))
}

const fn mail(has_password: bool) -> &'static str {
    if has_password {
        "welcome"
    } else {
        "activation"
    }
}

fn empty_object() -> Reply {
    Reply::json(200, b"{}".to_vec())
}

fn not_enrolled() -> Value {
    json!({
        "overallStatus": "NOT_ENROLLED", "totpStatus": "NOT_ENROLLED", "webAuthnStatus": "NOT_ENROLLED",
        "pushStatus": "NOT_ENROLLED", "jcGoStatus": "NOT_ENROLLED",
    })
}

/// Every field that a generated user has a value for, as a new user has it.
fn blank(now: &str) -> Overrides {
    let mut fields = Overrides::new();
    for name in TEXTS {
        fields.insert(name.to_owned(), Some(json!("")));
    }
    for name in [
        "external_password_expiration_date",
        "password_date",
        "password_expiration_date",
    ] {
        fields.insert(name.to_owned(), None);
    }
    for name in FLAGS {
        fields.insert(name.to_owned(), Some(json!(name == "allow_public_key")));
    }
    for name in LISTS.into_iter().chain(["ssh_keys"]) {
        fields.insert(name.to_owned(), Some(json!([])));
    }
    for name in ["recoveryEmail", "delegatedAuthority"] {
        fields.insert(name.to_owned(), None);
    }
    for (name, value) in [
        ("employeeIdentifier", Value::Null),
        ("created", json!(now)),
        ("creationSource", json!("jumpcloud:api")),
        ("account_locked_date", Value::Null),
        ("password_expired", json!(false)),
        ("totp_enabled", json!(false)),
        ("externally_managed", json!(false)),
        ("mfa", json!({"configured": false, "exclusion": false})),
        ("mfaEnrollment", not_enrolled()),
    ] {
        fields.insert(name.to_owned(), Some(value));
    }
    fields
}
