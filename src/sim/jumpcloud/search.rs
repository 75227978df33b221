//! `POST /api/search/systemusers`: a filter of conditions and a text search in one body, answered as a v1 list.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{
    list::{self, Dialect, ListQuery},
    render::USERS,
    serve::{Ask, Failure, Reply, twist},
    tenant::Tenant,
};

/// How deep conditions may be nested.
const DEPTH: usize = 8;

/// Where a text search looks unless told.
const SEARCHED: [&str; 5] = ["username", "email", "firstname", "lastname", "displayname"];

pub(super) fn users(tenant: &Tenant, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let body: Map<String, Value> = serde_json::from_slice(ask.body)
        .map_err(|_problem| "the body must be a JSON object".to_owned())?;
    let query = query(&body)?;
    let filter = match body.get("filter") {
        None | Some(Value::Null) => Condition::All(Vec::new()),
        Some(filter) => condition(filter, DEPTH)?,
    };
    let text = match body.get("searchFilter") {
        None | Some(Value::Null) => None,
        Some(search) => Some(Text::read(search)?),
    };
    let keep = |slot| {
        filter.holds(tenant, slot) && text.as_ref().is_none_or(|text| text.found(tenant, slot))
    };
    let page = list::objects_where(
        tenant,
        &USERS,
        &query,
        Dialect::V1,
        twist(ask),
        None,
        Some(&keep),
    )?;
    Ok(Reply::page(page, false))
}

/// The fields of the body that a list has in its query.
fn query(body: &Map<String, Value>) -> Result<ListQuery, String> {
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    for name in ["limit", "skip", "sort", "fields"] {
        match body.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(value)) => {
                text.append_pair(name, value);
            }
            Some(Value::Number(value)) => {
                text.append_pair(name, &value.to_string());
            }
            Some(_) => return Err(format!("{name} must be a text or a number")),
        }
    }
    ListQuery::parse(&text.finish(), Dialect::V1)
}

#[derive(Debug)]
enum Condition {
    All(Vec<Self>),
    Any(Vec<Self>),
    Filter(list::Filter),
}

impl Condition {
    fn holds(&self, tenant: &Tenant, slot: u32) -> bool {
        match self {
            Self::All(all) => all.iter().all(|one| one.holds(tenant, slot)),
            Self::Any(any) => any.iter().any(|one| one.holds(tenant, slot)),
            Self::Filter(filter) => list::passes(tenant, &USERS, slot, filter),
        }
    }
}

/// Reads `{"and": […], "or": […], "field": value, "field": {"$op": value}}` or the text of a v1 filter.
fn condition(value: &Value, depth: usize) -> Result<Condition, String> {
    let refused = || "filter must be an object of conditions".to_owned();
    if depth == 0 {
        return Err("filter is nested too deeply".to_owned());
    }
    let simple = |text: &str| {
        list::filter(text, Dialect::V1)
            .map(Condition::Filter)
            .ok_or_else(|| "filter has an operator that is not known".to_owned())
    };
    match value {
        Value::String(text) => simple(text),
        Value::Object(map) => {
            let mut all = Vec::new();
            for (name, value) in map {
                match (name.as_str(), value) {
                    ("and" | "or", Value::Array(items)) => {
                        let items = items.iter().map(|item| condition(item, depth - 1));
                        let items: Vec<Condition> = items.collect::<Result<_, _>>()?;
                        all.push(match name.as_str() {
                            "and" => Condition::All(items),
                            _ => Condition::Any(items),
                        });
                    }
                    ("and" | "or", _) => return Err(refused()),
                    (field, Value::Object(operators)) => {
                        for (operator, value) in operators {
                            let value = plain(value).ok_or_else(refused)?;
                            all.push(simple(&format!("{field}:{operator}:{value}"))?);
                        }
                    }
                    (field, value) => {
                        let value = plain(value).ok_or_else(refused)?;
                        all.push(simple(&format!("{field}:$eq:{value}"))?);
                    }
                }
            }
            Ok(Condition::All(all))
        }
        _ => Err(refused()),
    }
}

/// A value to compare with, as text; a list as the operator `$in` takes it.
fn plain(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Bool(_) | Value::Number(_) => Some(Cow::Owned(value.to_string())),
        Value::Null => Some(Cow::Borrowed("")),
        Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            Some(Cow::Owned(items?.join("|")))
        }
        Value::Object(_) => None,
    }
}

/// A search for parts of texts, in any case.
#[derive(Debug)]
struct Text {
    terms: Vec<String>,
    fields: Vec<String>,
}

impl Text {
    fn read(value: &Value) -> Result<Self, String> {
        let texts = |name: &str| -> Result<Vec<String>, String> {
            let items = match value.get(name) {
                None | Some(Value::Null) => Some(Vec::new()),
                Some(Value::String(text)) => Some(vec![text.clone()]),
                Some(Value::Array(items)) => {
                    let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
                    texts.collect()
                }
                Some(_) => None,
            };
            items.ok_or_else(|| format!("searchFilter.{name} must be a text or a list of texts"))
        };
        let mut fields = texts("fields")?;
        if fields.is_empty() {
            fields = SEARCHED.map(str::to_owned).to_vec();
        }
        let terms = texts("searchTerm")?
            .iter()
            .map(|t| t.to_lowercase())
            .collect();
        Ok(Self { terms, fields })
    }

    fn found(&self, tenant: &Tenant, slot: u32) -> bool {
        self.terms.is_empty()
            || self.fields.iter().any(|field| {
                let text = USERS.text(tenant, slot, field).to_lowercase();
                self.terms.iter().any(|term| text.contains(term))
            })
    }
}
