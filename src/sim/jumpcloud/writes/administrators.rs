//! Administrators: create, partial update, delete. Who may do that is decided by the key.

use serde_json::{Map, Value, json};

use super::{
    Applied, duplicate, filled, flag, id_of, invalid, list, object, required, shown, taken,
};
use crate::sim::jumpcloud::{
    id::{Id, IdKind, mix},
    render::{ADMINS, stamp},
    serve::{Ask, Failure, own_slot, slot},
    tenant::{Admin, NONE, Overrides, Tenant},
};

pub(super) fn create(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let body = object(ask)?;
    let email = required(&body, "email")?.to_owned();
    check(tenant, ask, &body, None)?;
    let roles = roles(tenant, &body)?.ok_or_else(|| invalid("roleName is required"))?;
    let own = tenant.admins.next_slot();
    let number = u64::from(own);
    let mut fields = Overrides::new();
    for name in ["apiKeySet", "totpEnrolled", "suspended"] {
        fields.insert(name.to_owned(), Some(json!(false)));
    }
    for name in ["apiKeyAllowed", "enableMultiFactor"] {
        let value = flag(&body, name)?.unwrap_or(false);
        fields.insert(name.to_owned(), Some(json!(value)));
    }
    for name in ["apiKeyHash", "passwordUpdatedAt"] {
        fields.insert(name.to_owned(), None);
    }
    fields.insert("created".to_owned(), Some(json!(stamp(tenant.now()))));
    fields.insert("sessionCount".to_owned(), Some(json!(0)));
    let id = Id::derive(tenant.seed, IdKind::Admin, number);
    tenant.admins.push(Admin {
        id,
        salt: mix(tenant.seed ^ mix(number ^ 0xad31)),
        email,
        first: filled(&body, "firstname")?.unwrap_or_default().to_owned(),
        last: filled(&body, "lastname")?.unwrap_or_default().to_owned(),
        roles,
        user: NONE,
        overrides: Some(Box::new(fields)),
    });
    tenant.link_administrators();
    tenant.touch();
    Ok(Applied::fields(shown(tenant, &ADMINS, own), id, &body).mail(Some("activation")))
}

pub(super) fn update(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let own = slot(tenant, &ADMINS, ask)?;
    let body = object(ask)?;
    if body.contains_key("email") {
        required(&body, "email")?;
    }
    check(tenant, ask, &body, Some(own))?;
    let roles = roles(tenant, &body)?;
    let id = id_of(tenant, &ADMINS, own)?;
    if let Some(row) = tenant.admins.row_mut(own) {
        if let Some(email) = filled(&body, "email")? {
            email.clone_into(&mut row.email);
        }
        for (name, place) in [("firstname", &mut row.first), ("lastname", &mut row.last)] {
            if body.contains_key(name) {
                filled(&body, name)?.unwrap_or_default().clone_into(place);
            }
        }
        if let Some(roles) = roles {
            row.roles = roles;
        }
        for name in ["apiKeyAllowed", "enableMultiFactor"] {
            if let Some(value) = flag(&body, name)? {
                let fields = row.overrides.get_or_insert_default();
                fields.insert(name.to_owned(), Some(json!(value)));
            }
        }
    }
    tenant.link_administrators();
    tenant.touch();
    Ok(Applied::fields(shown(tenant, &ADMINS, own), id, &body))
}

pub(super) fn delete(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let own = slot(tenant, &ADMINS, ask)?;
    if own_slot(tenant, ask.granted) == Some(own) {
        let words = "an administrator cannot delete the own account";
        return Err(Failure::BadRequest(words.to_owned()));
    }
    let id = id_of(tenant, &ADMINS, own)?;
    let reply = shown(tenant, &ADMINS, own);
    tenant
        .remove_admin(id)
        .map_err(|_gone| Failure::Status(404))?;
    Ok(Applied::new(reply, vec![id], &["delete"]))
}

fn check(
    tenant: &Tenant,
    ask: &Ask<'_>,
    body: &Map<String, Value>,
    own: Option<u32>,
) -> Result<(), Failure> {
    for name in ["firstname", "lastname"] {
        filled(body, name)?;
    }
    for name in ["apiKeyAllowed", "enableMultiFactor"] {
        flag(body, name)?;
    }
    if let Some(email) = filled(body, "email")? {
        if !email.contains('@') {
            return Err(invalid("email must be an e-mail address"));
        }
        if taken(tenant, &ADMINS, own, "email", email) {
            return Err(duplicate(ask, "email"));
        }
    }
    Ok(())
}

/// The roles of a body, several before one; `None` when it names none.
fn roles(tenant: &Tenant, body: &Map<String, Value>) -> Result<Option<Vec<String>>, Failure> {
    let one = filled(body, "roleName")?;
    let names: Vec<&str> = match list(body, "roleNames")? {
        Some(names) => names
            .iter()
            .map(Value::as_str)
            .collect::<Option<_>>()
            .ok_or_else(|| invalid("roleNames must be a list of texts"))?,
        None if one.is_none() => return Ok(None),
        None => one.into_iter().collect(),
    };
    if names.is_empty() {
        return Err(invalid("an administrator needs a role"));
    }
    if one.is_some_and(|one| !names.contains(&one)) {
        return Err(invalid("roleName and roleNames contradict each other"));
    }
    for name in &names {
        if !tenant.roles.live_rows().any(|role| role.name == *name) {
            return Err(invalid(format_args!("{name:?} is no role")));
        }
    }
    Ok(Some(names.into_iter().map(str::to_owned).collect()))
}
