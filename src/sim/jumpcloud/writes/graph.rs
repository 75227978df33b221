//! Edges: members of groups, and users and groups of applications, from either end.

use serde_json::Value;

use super::{Applied, invalid, nothing, object, required};
use crate::sim::jumpcloud::{
    id::Id,
    render::{APPS, GROUPS, USERS},
    serve::{Ask, Failure, PERSON_TARGETS, slot},
    tenant::{Bond, MembershipMethod, Tenant},
};

/// One operation on an edge.
struct Operation {
    op: Op,
    kind: String,
    /// `None` when it is no id, which then names nothing.
    id: Option<Id>,
    attributes: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Remove,
    Update,
}

impl Op {
    const fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Update => "update",
        }
    }
}

impl Operation {
    fn read(ask: &Ask<'_>, kinds: &[&str]) -> Result<Self, Failure> {
        let body = object(ask)?;
        let op = match required(&body, "op")? {
            "add" => Op::Add,
            "remove" => Op::Remove,
            "update" => Op::Update,
            _ => return Err(invalid("op must be add, remove or update")),
        };
        let kind = required(&body, "type")?;
        if !kinds.contains(&kind) {
            return Err(invalid("type does not fit here"));
        }
        let id = required(&body, "id")?.parse().ok();
        let attributes = match body.get("attributes") {
            None | Some(Value::Null) => None,
            Some(value @ Value::Object(_)) => Some(value.clone()),
            Some(_) => return Err(invalid("attributes must be an object")),
        };
        Ok(Self {
            op,
            kind: kind.to_owned(),
            id,
            attributes,
        })
    }

    /// Whether the edge may be changed, which is or is not there.
    fn check(&self, there: bool) -> Result<(), Failure> {
        match (self.op, there) {
            (Op::Add, true) => Err(Failure::Status(409)),
            (Op::Remove | Op::Update, false) => Err(Failure::Status(404)),
            _ => Ok(()),
        }
    }

    fn apply(self, tenant: &mut Tenant, bond: Bond, from: u32, to: u32) {
        let ends = match bond {
            Bond::Member => tenant.groups.row_mut(from).map(|group| &mut group.members),
            Bond::AppUser => tenant.apps.row_mut(from).map(|app| &mut app.users),
            Bond::AppGroup => tenant.apps.row_mut(from).map(|app| &mut app.groups),
        };
        match (self.op, ends) {
            (Op::Add, Some(ends)) => ends.push(to),
            (Op::Remove, Some(ends)) => ends.retain(|&end| end != to),
            _ => {}
        }
        let key = (bond, from, to);
        match (self.op, self.attributes) {
            (Op::Remove, _) | (_, None) => {
                tenant.edge_attributes.remove(&key);
            }
            (_, Some(attributes)) => {
                tenant.edge_attributes.insert(key, attributes);
            }
        }
    }
}

pub(super) fn change_member(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let operation = Operation::read(ask, &["user"])?;
    let own = slot(tenant, &GROUPS, ask)?;
    let user = operation
        .id
        .and_then(|id| tenant.users.find(id))
        .ok_or(Failure::Status(404))?;
    let group = tenant.groups.row(own).ok_or(Failure::Status(404))?;
    let dynamic = group.method == MembershipMethod::DynamicAutomated;
    if dynamic && !ask.behaviour.undo_dynamic_changes {
        let words = "the members of a dynamic group cannot be changed by hand";
        return Err(Failure::BadRequest(words.to_owned()));
    }
    operation.check(group.members.contains(&user))?;
    let mut applied = done(&operation, group.id);
    applied.undone = dynamic;
    if !dynamic {
        operation.apply(tenant, Bond::Member, own, user);
    }
    Ok(applied)
}

pub(super) fn associate_app(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let operation = Operation::read(ask, &["user", "user_group"])?;
    let own = slot(tenant, &APPS, ask)?;
    let (bond, other) = match operation.kind.as_str() {
        "user" => (
            Bond::AppUser,
            operation.id.and_then(|id| tenant.users.find(id)),
        ),
        _ => (
            Bond::AppGroup,
            operation.id.and_then(|id| tenant.groups.find(id)),
        ),
    };
    let other = other.ok_or(Failure::Status(404))?;
    let id = tenant.apps.row(own).ok_or(Failure::Status(404))?.id;
    bind(tenant, operation, id, (bond, own, other))
}

pub(super) fn associate_group(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let operation = Operation::read(ask, &PERSON_TARGETS)?;
    let own = slot(tenant, &GROUPS, ask)?;
    let app = app(tenant, &operation)?;
    let id = tenant.groups.row(own).ok_or(Failure::Status(404))?.id;
    bind(tenant, operation, id, (Bond::AppGroup, app, own))
}

pub(super) fn associate_user(tenant: &mut Tenant, ask: &Ask<'_>) -> Result<Applied, Failure> {
    let operation = Operation::read(ask, &PERSON_TARGETS)?;
    let own = slot(tenant, &USERS, ask)?;
    let app = app(tenant, &operation)?;
    let id = tenant.users.row(own).ok_or(Failure::Status(404))?.id;
    bind(tenant, operation, id, (Bond::AppUser, app, own))
}

/// The application that an operation names; of the other types the simulator has no object that could be bound.
fn app(tenant: &Tenant, operation: &Operation) -> Result<u32, Failure> {
    operation
        .id
        .filter(|_| operation.kind == "application")
        .and_then(|id| tenant.apps.find(id))
        .ok_or(Failure::Status(404))
}

fn bind(
    tenant: &mut Tenant,
    operation: Operation,
    id: Id,
    (bond, app, other): (Bond, u32, u32),
) -> Result<Applied, Failure> {
    let row = tenant.apps.row(app).ok_or(Failure::Status(404))?;
    let ends = match bond {
        Bond::AppGroup => &row.groups,
        Bond::AppUser | Bond::Member => &row.users,
    };
    operation.check(ends.contains(&other))?;
    let applied = done(&operation, id);
    operation.apply(tenant, bond, app, other);
    Ok(applied)
}

fn done(operation: &Operation, id: Id) -> Applied {
    let ids = std::iter::once(id).chain(operation.id).collect();
    Applied::new(nothing(), ids, &[operation.op.name(), &operation.kind])
}
