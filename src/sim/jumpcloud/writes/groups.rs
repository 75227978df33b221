//! User groups: create, full replacement, delete.

use serde_json::{Map, Value, json};

use super::{
    Applied, created, filled, flag, id_of, invalid, list, nothing, object, required, shown, taken,
};
use crate::sim::jumpcloud::{
    id::Id,
    render::GROUPS,
    serve::{Ask, Failure, slot},
    tenant::{Group, MembershipMethod, Overrides, Rule, Tenant, new_group},
};

pub(super) fn create(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let body = object(ask)?;
    let wanted = Wanted::read(tenant, &body, None)?;
    let own = tenant.groups.next_slot();
    let mut row = new_group(
        tenant.seed,
        own,
        wanted.name.clone(),
        wanted.method,
        Vec::new(),
    );
    let id = row.id;
    wanted.fill(&mut row);
    tenant.groups.push(row);
    tenant.touch();
    tenant.apply_rules();
    let reply = created(shown(tenant, &GROUPS, own));
    Ok(Applied::fields(reply, id, &body))
}

/// What the body leaves out is reset.
pub(super) fn replace(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let own = slot(tenant, &GROUPS, ask)?;
    let body = object(ask)?;
    let wanted = Wanted::read(tenant, &body, Some(own))?;
    if let Some(row) = tenant.groups.row_mut(own) {
        wanted.fill(row);
    }
    let id = id_of(tenant, &GROUPS, own)?;
    tenant.touch();
    tenant.apply_rules();
    Ok(Applied::fields(shown(tenant, &GROUPS, own), id, &body))
}

pub(super) fn delete(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let own = slot(tenant, &GROUPS, ask)?;
    let id = id_of(tenant, &GROUPS, own)?;
    let reply = if ask.behaviour.silent_group_deletion {
        nothing()
    } else {
        shown(tenant, &GROUPS, own)
    };
    tenant
        .remove_group(id)
        .map_err(|_gone| Failure::Status(404))?;
    Ok(Applied::new(reply, vec![id], &["delete"]))
}

/// A group as a body describes it.
struct Wanted {
    name: String,
    method: MembershipMethod,
    rule: Option<Rule>,
    fields: Overrides,
}

impl Wanted {
    fn read(tenant: &Tenant, body: &Map<String, Value>, own: Option<u32>) -> Result<Self, Failure> {
        let name = required(body, "name")?;
        let mut fields = Overrides::new();
        for text in ["description", "email"] {
            let value = filled(body, text)?.unwrap_or_default();
            fields.insert(text.to_owned(), Some(json!(value)));
        }
        let attributes = match body.get("attributes") {
            None | Some(Value::Null) => Value::Null,
            Some(value @ Value::Object(_)) => value.clone(),
            Some(_) => return Err(invalid("attributes must be an object")),
        };
        fields.insert("attributes".to_owned(), Some(attributes));
        let method = match filled(body, "membershipMethod")? {
            None => MembershipMethod::Notset,
            Some(name) => [
                MembershipMethod::Notset,
                MembershipMethod::Static,
                MembershipMethod::DynamicAutomated,
                MembershipMethod::DynamicReviewRequired,
            ]
            .into_iter()
            .find(|method| serde_json::to_value(method).is_ok_and(|value| value == name))
            .ok_or_else(|| invalid("membershipMethod is not known"))?,
        };
        let notify = flag(body, "memberSuggestionsNotify")?.unwrap_or(false);
        fields.insert("memberSuggestionsNotify".to_owned(), Some(json!(notify)));
        let exemptions = list(body, "memberQueryExemptions")?
            .cloned()
            .unwrap_or_default();
        let exempted = exemptions
            .iter()
            .map(|row| row.get("id").and_then(Value::as_str)?.parse().ok())
            .collect::<Option<Vec<Id>>>()
            .ok_or_else(|| invalid("memberQueryExemptions needs objects with an id"))?;
        let exemptions = Value::Array(exemptions);
        fields.insert("memberQueryExemptions".to_owned(), Some(exemptions));
        let (query, rule) = match body.get("memberQuery") {
            None | Some(Value::Null) => (None, None),
            Some(query @ Value::Object(_)) => {
                let kind = query.get("queryType").and_then(Value::as_str);
                if !matches!(kind, Some("Filter" | "FilterQuery" | "Search")) {
                    return Err(invalid("memberQuery.queryType is not known"));
                }
                (Some(query.clone()), rule(query, exempted))
            }
            Some(_) => return Err(invalid("memberQuery must be an object")),
        };
        fields.insert("memberQuery".to_owned(), query);
        // Names are unique whatever the case.
        if taken(tenant, &GROUPS, own, "name", name) {
            return Err(Failure::Status(409));
        }
        Ok(Self {
            name: name.to_owned(),
            method,
            rule,
            fields,
        })
    }

    fn fill(self, row: &mut Group) {
        row.name = self.name;
        row.method = self.method;
        row.rule = self.rule;
        row.overrides = Some(Box::new(self.fields));
    }
}

/// A rule that compares fields with values; others are not known, and their members stay.
fn rule(query: &Value, exempted: Vec<Id>) -> Option<Rule> {
    let mut fields = Vec::new();
    for filter in query.get("filters")?.as_array()? {
        let parsed;
        let filter = match filter {
            Value::String(text) => {
                parsed = serde_json::from_str::<Value>(text).ok()?;
                &parsed
            }
            filter => filter,
        };
        let text = |name| filter.get(name).and_then(Value::as_str);
        if text("operator") != Some("eq") {
            return None;
        }
        fields.push((text("field")?.to_owned(), text("value")?.to_owned()));
    }
    (!fields.is_empty()).then_some(Rule { fields, exempted })
}
