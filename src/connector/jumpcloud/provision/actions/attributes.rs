//! Changing fields of a user: only what differs is sent, and lists are sent whole with the new part merged in.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::{
    super::{
        super::{
            JumpCloud,
            profile::{clip, filled},
            wire,
        },
        account_schema::{Fields, Purpose, TEXTS},
        already,
        confirm::confirm,
    },
    Arguments, Outcome, USER_ID, invalid, plan,
};
use crate::{
    connector::{
        Error,
        provision::{Change, Done, Effect, Permit},
    },
    proto::Struct,
};

impl JumpCloud {
    pub(super) async fn update_attributes(
        &self,
        user: &str,
        arguments: &Arguments<'_>,
        change: Change<'_>,
    ) -> Result<Done<Struct>, Error> {
        let mut said = arguments.0.clone();
        said.fields.remove(USER_ID);
        let mut fields = Fields::read(&said, Purpose::Update)?;
        for (key, name) in [("username", "username"), ("email", "email")] {
            if fields.texts.get(key).is_some_and(String::is_empty) {
                return Err(invalid(format!(
                    "the field {name} is empty, and a user cannot be without it"
                )));
            }
        }
        if let Some(manager) = fields
            .manager
            .as_mut()
            .filter(|manager| !manager.is_empty())
        {
            *manager = self.manager_id(manager).await?;
            if manager == user {
                return Err(invalid(
                    "the field manager names the user itself".to_owned(),
                ));
            }
        }
        let row = self.changeable_user(user).await?;
        let body = difference(&row, &fields);
        let names: Vec<String> = body.keys().cloned().collect();
        let outcome = |effect| Outcome::new(user, effect).texts("updated_fields", &names);
        if body.is_empty() {
            return Ok(outcome(already(change)).done());
        }
        owned_here(&row, &names)?;
        let plan = plan(
            "user.update",
            user,
            json!({"fields": []}),
            json!({"fields": names}),
        );
        if change.intend(&plan).await? == Permit::Pretend {
            return Ok(outcome(Effect::Planned).done());
        }
        let written = self.put_user(user, &Json::Object(body)).await;
        let what = format!("updating user {user}");
        let (_, request_id) = confirm(&what, written, || {
            self.user_that(user, |row| shows(row, &fields))
        })
        .await?;
        Ok(outcome(Effect::Changed).request(request_id).done())
    }
}

/// The body of the request that makes a user as wanted.
fn difference(row: &wire::SystemUser, fields: &Fields) -> Map<String, Json> {
    let mut body = Map::new();
    for text in TEXTS {
        if let Some(wanted) = fields.texts.get(text.api)
            && wanted != (text.get)(row).map(str::trim).unwrap_or_default()
        {
            // An empty identifier would be one that two users can share.
            let wanted = if text.api == "employeeIdentifier" && wanted.is_empty() {
                Json::Null
            } else {
                wanted.as_str().into()
            };
            body.insert(text.api.to_owned(), wanted);
        }
    }
    if let Some(manager) = &fields.manager
        && manager != row.manager.as_deref().unwrap_or_default()
    {
        let manager = if manager.is_empty() {
            Json::Null
        } else {
            manager.as_str().into()
        };
        body.insert("manager".to_owned(), manager);
    }
    let phones = phones(row);
    if fields
        .phones
        .iter()
        .any(|(kind, number)| phones.get(*kind).copied().unwrap_or_default() != number)
    {
        let kept = row.phone_numbers.iter().filter_map(|phone| {
            let kind = phone.kind.as_deref().unwrap_or_default();
            let number = filled(phone.number.as_deref())?;
            (!fields.phones.contains_key(kind)).then_some((kind, number))
        });
        let new = fields
            .phones
            .iter()
            .filter(|(_, number)| !number.is_empty())
            .map(|(kind, number)| (*kind, number.as_str()));
        body.insert(
            "phoneNumbers".to_owned(),
            kept.chain(new)
                .map(|(kind, number)| json!({"type": kind, "number": number}))
                .collect(),
        );
    }
    let attributes = attributes(row);
    if fields
        .attributes
        .iter()
        .any(|(name, value)| attributes.get(name.as_str()).copied().unwrap_or_default() != value)
    {
        let mut merged = attributes;
        for (name, value) in &fields.attributes {
            if value.is_empty() {
                merged.remove(name.as_str());
            } else {
                merged.insert(name, value);
            }
        }
        body.insert(
            "attributes".to_owned(),
            merged
                .into_iter()
                .map(|(name, value)| json!({"name": name, "value": value}))
                .collect(),
        );
    }
    body
}

/// Whether a user shows what was asked for. JumpCloud may write names and addresses in lower case.
fn shows(row: &wire::SystemUser, fields: &Fields) -> bool {
    let same = |shown: Option<&str>, wanted: &str| {
        shown.unwrap_or_default().trim().to_lowercase() == wanted.to_lowercase()
    };
    let (phones, attributes) = (phones(row), attributes(row));
    TEXTS.iter().all(|text| {
        fields
            .texts
            .get(text.api)
            .is_none_or(|wanted| same((text.get)(row), wanted))
    }) && fields
        .manager
        .as_deref()
        .is_none_or(|wanted| same(row.manager.as_deref(), wanted))
        && fields
            .phones
            .iter()
            .all(|(kind, wanted)| same(phones.get(*kind).copied(), wanted))
        && fields
            .attributes
            .iter()
            .all(|(name, wanted)| same(attributes.get(name.as_str()).copied(), wanted))
}

fn phones(row: &wire::SystemUser) -> BTreeMap<&str, &str> {
    row.phone_numbers
        .iter()
        .filter_map(|phone| Some((phone.kind.as_deref()?, phone.number.as_deref()?.trim())))
        .collect()
}

fn attributes(row: &wire::SystemUser) -> BTreeMap<&str, &str> {
    row.attributes
        .iter()
        .filter_map(|attribute| {
            Some((
                filled(attribute.name.as_deref())?,
                attribute.value.as_deref().unwrap_or_default(),
            ))
        })
        .collect()
}

/// Refuses fields that another directory owns.
fn owned_here(row: &wire::SystemUser, names: &[String]) -> Result<(), Error> {
    let mut owned: Vec<String> = Vec::new();
    for restricted in &row.restricted_fields {
        let field = restricted.field.as_deref().unwrap_or_default();
        if names.iter().any(|name| name.eq_ignore_ascii_case(field)) {
            let owner = filled(restricted.kind.as_deref()).unwrap_or("another directory");
            owned.push(format!("{} (by {})", clip(field, 64), clip(owner, 64)));
        }
    }
    if owned.is_empty() {
        return Ok(());
    }
    Err(Error::Refused {
        what: format!(
            "fields of user {} are kept by another directory and are changed there: {}; leave them out to change the rest",
            row.id().unwrap_or_default(),
            owned.join(", ")
        ),
    })
}
