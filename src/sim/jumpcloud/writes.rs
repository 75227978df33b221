//! The endpoints that change the directory: what each one checks, what it does, and the log of what was done.
//!
//! A write is checked as a whole before anything is changed, so a refused one changes nothing. Afterwards the rules of
//! dynamic groups are applied. It never keeps or shows a password.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    id::Id,
    list::{Dialect, ListQuery},
    render::{self, Kind},
    routes::Endpoint,
    serve::{Ask, Failure, Reply, World, whole},
    tenant::Tenant,
};

mod administrators;
mod graph;
mod groups;
mod schedules;
mod users;

/// How many writes are kept one by one.
const KEPT: usize = 16_384;

/// A change that was asked for over HTTP and made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Method and path template, such as `PUT /api/systemusers/{id}`.
    pub endpoint: String,
    /// The organisation.
    pub organization: Id,
    /// The objects, the one in the path or the new one first.
    pub ids: Vec<Id>,
    /// What was changed, never to what: names of fields, sorted; for an edge the operation and the type of the other end.
    pub changed: Vec<String>,
    /// The kinds of mail that the service would have sent: `activation` or `welcome`.
    pub mails: Vec<String>,
}

/// The writes since the start or the last reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writes {
    /// How many there were, by method and path template.
    pub by_endpoint: BTreeMap<String, u64>,
    /// The last 16,384, oldest first.
    pub recent: VecDeque<Write>,
}

impl Writes {
    /// How often an endpoint changed something, such as `POST /api/systemusers`.
    pub fn count(&self, endpoint: &str) -> u64 {
        self.by_endpoint.get(endpoint).copied().unwrap_or(0)
    }

    /// How many changes there were.
    pub fn total(&self) -> u64 {
        self.by_endpoint.values().sum()
    }
}

#[derive(Debug, Default)]
pub(super) struct WriteLog(Mutex<Writes>);

impl WriteLog {
    fn record(&self, write: Write) {
        let mut writes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *writes
            .by_endpoint
            .entry(write.endpoint.clone())
            .or_default() += 1;
        if writes.recent.len() == KEPT {
            writes.recent.pop_front();
        }
        writes.recent.push_back(write);
    }

    pub(super) fn snapshot(&self) -> Writes {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn reset(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Writes::default();
    }
}

/// What a write did.
struct Applied {
    reply: Reply,
    ids: Vec<Id>,
    changed: Vec<String>,
    mails: Vec<&'static str>,
    /// The change was accepted and undone.
    undone: bool,
}

impl Applied {
    fn new(reply: Reply, ids: Vec<Id>, changed: &[&str]) -> Self {
        Self {
            reply,
            ids,
            changed: changed.iter().map(|&name| name.to_owned()).collect(),
            mails: Vec::new(),
            undone: false,
        }
    }

    /// The change of an object by the fields of a body.
    fn fields(reply: Reply, id: Id, body: &Map<String, Value>) -> Self {
        let mut changed: Vec<String> = body.keys().cloned().collect();
        changed.sort_unstable();
        Self {
            changed,
            ..Self::new(reply, vec![id], &[])
        }
    }

    fn mail(mut self, mail: Option<&'static str>) -> Self {
        self.mails.extend(mail);
        self
    }
}

/// Answers a write, and makes it.
pub(super) fn serve(world: &mut World, log: &WriteLog, ask: &Ask<'_>) -> Reply {
    let v2 = ask.route.endpoint.is_v2();
    let behaviour = ask.behaviour;
    let outage = |collection| behaviour.write_outage.contains(&collection);
    if ask.route.collection.is_some_and(outage) {
        return Reply::error(503, v2, None);
    }
    let position = ask.granted.organization;
    let Some(tenant) = world.tenants.get_mut(position) else {
        return Reply::error(404, v2, None);
    };
    let hides = behaviour.hide_writes_for_reads > 0 || !behaviour.hide_writes_for.is_zero();
    let before = hides.then(|| tenant.snapshot());
    match apply(tenant, ask) {
        Err(failure) => failure.reply(v2),
        Ok(applied) => {
            tenant.touch();
            tenant.apply_rules();
            if !applied.undone {
                log.record(Write {
                    endpoint: ask.route.name(),
                    organization: tenant.organization,
                    ids: applied.ids,
                    changed: applied.changed,
                    mails: applied.mails.into_iter().map(str::to_owned).collect(),
                });
            }
            if let Some(before) = before {
                world.hide(position, before, behaviour);
            }
            applied.reply
        }
    }
}

fn apply(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    match ask.route.endpoint {
        Endpoint::UserCreate => users::create(tenant, ask),
        Endpoint::UserUpdate => users::update(tenant, ask),
        Endpoint::UserDelete => users::delete(tenant, ask),
        Endpoint::UserActivate => users::activate(tenant, ask),
        Endpoint::UserUnlock => users::unlock(tenant, ask),
        Endpoint::UserExpire => users::expire(tenant, ask),
        Endpoint::UserResetMfa => users::reset_mfa(tenant, ask),
        Endpoint::SshKeyAdd => users::add_ssh_key(tenant, ask),
        Endpoint::SshKeyRemove => users::remove_ssh_key(tenant, ask),
        Endpoint::ScheduleCreate => schedules::create(tenant, ask),
        Endpoint::ScheduleCancel => schedules::cancel(tenant, ask),
        Endpoint::GroupCreate => groups::create(tenant, ask),
        Endpoint::GroupReplace => groups::replace(tenant, ask),
        Endpoint::GroupDelete => groups::delete(tenant, ask),
        Endpoint::GroupMemberChange => graph::change_member(tenant, ask),
        Endpoint::GroupAssociate => graph::associate_group(tenant, ask),
        Endpoint::AppAssociate => graph::associate_app(tenant, ask),
        Endpoint::UserAssociate => graph::associate_user(tenant, ask),
        Endpoint::AdminCreate => administrators::create(tenant, ask),
        Endpoint::AdminUpdate => administrators::update(tenant, ask),
        Endpoint::AdminDelete => administrators::delete(tenant, ask),
        _ => Err(Failure::Status(404)),
    }
}

/// The JSON object in the body; no body is an empty one.
fn object(ask: &Ask<'_>) -> Result<Map<String, Value>, Failure> {
    if ask.body.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(ask.body)
        .map_err(|_problem| "the body must be a JSON object".to_owned().into())
}

fn invalid(words: impl std::fmt::Display) -> Failure {
    Failure::BadRequest(format!("Validation failed: {words}"))
}

/// The text of a field, trimmed; `None` when it is missing, null or empty.
fn filled<'a>(body: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Failure> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim()).filter(|text| !text.is_empty())),
        Some(_) => Err(invalid(format_args!("{name} must be a text"))),
    }
}

fn required<'a>(body: &'a Map<String, Value>, name: &str) -> Result<&'a str, Failure> {
    filled(body, name)?.ok_or_else(|| invalid(format_args!("{name} is required")))
}

fn flag(body: &Map<String, Value>, name: &str) -> Result<Option<bool>, Failure> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(invalid(format_args!("{name} must be true or false"))),
    }
}

fn list<'a>(body: &'a Map<String, Value>, name: &str) -> Result<Option<&'a Vec<Value>>, Failure> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(_) => Err(invalid(format_args!("{name} must be a list"))),
    }
}

/// Whether another object of a collection has this text in a field, whatever the case.
fn taken(tenant: &Tenant, kind: &Kind, own: Option<u32>, field: &str, text: &str) -> bool {
    let text = text.to_lowercase();
    (kind.live)(tenant)
        .into_iter()
        .any(|slot| Some(slot) != own && kind.text(tenant, slot, field).to_lowercase() == text)
}

/// Refuses a duplicate with the status that the switch says.
fn duplicate(ask: &Ask<'_>, field: &str) -> Failure {
    let status = if ask.behaviour.duplicates_as_400 {
        400
    } else {
        409
    };
    Failure::Refused(status, format!("{field} already exists"))
}

/// The object as it is now.
fn shown(tenant: &Tenant, kind: &Kind, slot: u32) -> Reply {
    let query = ListQuery::parse("", Dialect::V1).unwrap_or_default();
    whole(tenant, kind, slot, &query)
}

fn created(reply: Reply) -> Reply {
    Reply {
        status: 201,
        ..reply
    }
}

fn nothing() -> Reply {
    Reply::json(204, Vec::new())
}

/// The id of the object in a slot.
fn id_of(tenant: &Tenant, kind: &Kind, slot: u32) -> Result<Id, Failure> {
    (kind.id)(tenant, slot).ok_or(Failure::Status(404))
}

/// The user with this id.
fn user(tenant: &Tenant, text: &str) -> Option<u32> {
    (render::USERS.find)(tenant, text.parse().ok()?)
}
