//! The endpoints that read: from a request that may be served to the rows of its answer. Nothing here waits.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    access::Granted,
    behaviour::Behaviour,
    faults::Fault,
    id::{Id, mix},
    list::{self, Dialect, ListQuery, ListReply, Permutation, Twist},
    render::{self, Edge, Kind, Reached, ways_to_app},
    routes::{Endpoint, Ids, Route},
    search,
    tenant::{Bond, Job, NONE, Tenant},
};

/// The organisations, in the order of the configuration.
#[derive(Debug)]
pub(super) struct World {
    pub tenants: Vec<Tenant>,
    hidden: Hidden,
}

/// What organisations were before writes that reads do not show yet, oldest first, by the position of the organisation.
type Hidden = Mutex<HashMap<usize, VecDeque<Before>>>;

#[derive(Debug)]
struct Before {
    tenant: Arc<Tenant>,
    reads: u64,
    until: Instant,
}

impl World {
    pub(super) fn new(tenants: Vec<Tenant>) -> Self {
        Self {
            tenants,
            hidden: Mutex::default(),
        }
    }

    /// Keeps what an organisation was before a write, if the write is to be hidden.
    pub(super) fn hide(&self, organization: usize, before: Tenant, behaviour: &Behaviour) {
        let mut hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = hidden.entry(organization).or_default();
        if queue.len() == HIDDEN_WRITES {
            queue.pop_front();
        }
        let now = Instant::now();
        queue.push_back(Before {
            tenant: Arc::new(before),
            reads: behaviour.hide_writes_for_reads,
            until: now.checked_add(behaviour.hide_writes_for).unwrap_or(now),
        });
    }

    /// The organisation that the next read shows, if it is not the present one.
    fn past(&self, organization: usize) -> Option<Arc<Tenant>> {
        let mut hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = hidden.get_mut(&organization)?;
        let now = Instant::now();
        while queue
            .front()
            .is_some_and(|before| before.reads == 0 && before.until <= now)
        {
            queue.pop_front();
        }
        for before in queue.iter_mut() {
            before.reads = before.reads.saturating_sub(1);
        }
        queue.front().map(|before| Arc::clone(&before.tenant))
    }
}

/// How many writes can be hidden at one time; the oldest become visible when there are more.
const HIDDEN_WRITES: usize = 64;

/// An answer before it goes over the wire.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
    pub html: bool,
    pub total: Option<String>,
    /// Where the next page begins, when the answer says so in `Link`.
    pub next_skip: Option<usize>,
    pub retry_after: Option<String>,
}

impl Reply {
    pub(super) fn json(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            body,
            ..Self::default()
        }
    }

    /// The body that the service sends with an error status; `message` replaces the standard words.
    pub(super) fn error(status: u16, v2: bool, message: Option<&str>) -> Self {
        let standard = match status {
            400 => "Bad Request",
            401 => "Unauthorized",
            402 => "Payment Required",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            409 => "Conflict",
            429 => "Too Many Requests",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Time-out",
            _ => "Internal Server Error",
        };
        if matches!(status, 502..=504) {
            let page = format!(
                "<html>\n<head><title>{status} {standard}</title></head>\n<body><center><h1>{status} {standard}</h1></center></body>\n</html>\n"
            );
            return Self {
                status,
                body: page.into_bytes(),
                html: true,
                ..Self::default()
            };
        }
        let message = message.unwrap_or(match status {
            409 => "Already Exists",
            _ => standard,
        });
        let body = if v2 && matches!(status, 400 | 404 | 409) {
            serde_json::json!({"code": status, "message": message, "status": standard})
        } else {
            serde_json::json!({"message": message})
        };
        Self::json(status, body.to_string().into_bytes())
    }

    pub(super) fn page(list: ListReply, link: bool) -> Self {
        Self {
            status: 200,
            body: list.body,
            total: list.total,
            next_skip: list.next_skip.filter(|_| link),
            ..Self::default()
        }
    }
}

/// One request, reduced to what an endpoint needs.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub route: &'static Route,
    pub ids: Ids<'a>,
    pub query: &'a str,
    pub body: &'a [u8],
    pub granted: &'a Granted,
    pub behaviour: &'a Behaviour,
    pub fault: Option<&'a Fault>,
}

/// Serves requests out of the world.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// Numbers the unsorted lists, so that each one can have an order of its own.
    lists: AtomicU64,
}

#[derive(Serialize)]
struct Organization<'a> {
    _id: Id,
    id: Id,
    #[serde(rename = "displayName")]
    display_name: &'a str,
    #[serde(rename = "logoUrl")]
    logo_url: Option<()>,
}

impl<'a> Organization<'a> {
    fn of(tenant: &'a Tenant) -> Self {
        Self {
            _id: tenant.organization,
            id: tenant.organization,
            display_name: &tenant.organization_name,
            logo_url: None,
        }
    }
}

/// What users and groups can be bound to, of which the simulator has applications.
pub(super) const PERSON_TARGETS: [&str; 10] = [
    "active_directory",
    "application",
    "g_suite",
    "idp_routing_policy",
    "ldap_server",
    "office_365",
    "password_manager_item",
    "radius_server",
    "system",
    "system_group",
];

impl Desk {
    pub(super) fn serve(&self, world: &World, ask: &Ask<'_>) -> Reply {
        let v2 = ask.route.endpoint.is_v2();
        let past = world.past(ask.granted.organization);
        let present = world.tenants.get(ask.granted.organization);
        let Some(tenant) = past.as_deref().or(present) else {
            return Reply::error(404, v2, None);
        };
        let served = match ask.route.endpoint {
            Endpoint::UserList => self.objects(tenant, &render::USERS, Dialect::V1, ask),
            Endpoint::AdminList => self.objects(tenant, &render::ADMINS, Dialect::V1, ask),
            Endpoint::AppList => self.objects(tenant, &render::APPS, Dialect::V1, ask),
            Endpoint::GroupList => self.objects(tenant, &render::GROUPS, Dialect::V2, ask),
            Endpoint::DirectoryList => self.objects(tenant, &render::DIRECTORIES, Dialect::V2, ask),
            Endpoint::RoleList => self.objects(tenant, &render::ROLES, Dialect::V2Wrapped, ask),
            Endpoint::UserGet => object(tenant, &render::USERS, Dialect::V1, ask),
            Endpoint::AdminGet => object(tenant, &render::ADMINS, Dialect::V1, ask),
            Endpoint::AppGet => object(tenant, &render::APPS, Dialect::V1, ask),
            Endpoint::GroupGet => object(tenant, &render::GROUPS, Dialect::V2, ask),
            Endpoint::RoleGet => object(tenant, &render::ROLES, Dialect::V2, ask),
            Endpoint::AdminSelf => own_account(tenant, ask),
            Endpoint::GroupMembers => group_members(tenant, ask),
            Endpoint::GroupMembership => group_membership(tenant, ask),
            Endpoint::GroupAssociations => group_associations(tenant, ask),
            Endpoint::AppAssociations => app_associations(tenant, ask),
            Endpoint::AppUsers => app_users(tenant, ask),
            Endpoint::AppGroups => app_groups(tenant, ask),
            Endpoint::UserMemberOf => member_of(tenant, ask),
            Endpoint::UserAssociations => user_associations(tenant, ask),
            Endpoint::OrganizationList => organizations(world, ask),
            Endpoint::OrganizationGet => organization(world, ask),
            Endpoint::InsightsCount => insights_count(tenant, ask),
            Endpoint::UserApps => user_apps(tenant, ask),
            Endpoint::UserSearch => search::users(tenant, ask),
            Endpoint::SshKeyList => ssh_keys(tenant, ask),
            Endpoint::ScheduleList => schedules(tenant, ask),
            // The token endpoint is served before a caller is known, and the writes elsewhere.
            Endpoint::Token
            | Endpoint::UserCreate
            | Endpoint::UserUpdate
            | Endpoint::UserDelete
            | Endpoint::UserActivate
            | Endpoint::UserUnlock
            | Endpoint::UserExpire
            | Endpoint::UserResetMfa
            | Endpoint::SshKeyAdd
            | Endpoint::SshKeyRemove
            | Endpoint::ScheduleCreate
            | Endpoint::ScheduleCancel
            | Endpoint::GroupCreate
            | Endpoint::GroupReplace
            | Endpoint::GroupDelete
            | Endpoint::GroupMemberChange
            | Endpoint::GroupAssociate
            | Endpoint::AppAssociate
            | Endpoint::UserAssociate
            | Endpoint::AdminCreate
            | Endpoint::AdminUpdate
            | Endpoint::AdminDelete => Err(Failure::Status(404)),
        };
        served.unwrap_or_else(|failure| failure.reply(v2))
    }

    fn objects(
        &self,
        tenant: &Tenant,
        kind: &Kind,
        dialect: Dialect,
        ask: &Ask<'_>,
    ) -> Result<Reply, Failure> {
        let mut query = ListQuery::parse(ask.query, dialect)?;
        if ask.behaviour.ignore_app_fields && ask.route.endpoint == Endpoint::AppList {
            query.fields = None;
        }
        let shuffle = ask
            .behaviour
            .shuffle
            .then(|| self.lists.fetch_add(1, Ordering::Relaxed));
        let twist = twist(ask);
        let mut page = list::objects(tenant, kind, &query, dialect, twist, shuffle)?;
        if ask.route.endpoint == Endpoint::AdminList && ask.granted.named_organization {
            without_organizations(&mut page.body);
        }
        Ok(Reply::page(
            page,
            ask.behaviour.link && dialect == Dialect::V2,
        ))
    }
}

/// Administrators of a named organisation come with `organization` null.
fn without_organizations(body: &mut Vec<u8>) {
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    let rows = value.get_mut("results").and_then(Value::as_array_mut);
    for row in rows.into_iter().flatten() {
        if let Some(field) = row.get_mut("organization") {
            *field = Value::Null;
        }
    }
    *body = value.to_string().into_bytes();
}

/// Why an endpoint refuses.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// 400 with this message.
    BadRequest(String),
    /// This status with its standard body.
    Status(u16),
    /// This status with this message.
    Refused(u16, String),
}

impl Failure {
    pub(super) fn reply(&self, v2: bool) -> Reply {
        match self {
            Self::BadRequest(message) => Reply::error(400, v2, Some(message)),
            Self::Status(status) => Reply::error(*status, v2, None),
            Self::Refused(status, message) => Reply::error(*status, v2, Some(message)),
        }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::BadRequest(message)
    }
}

pub(super) fn twist(ask: &Ask<'_>) -> Twist {
    match ask.fault {
        Some(Fault::WrongTotal) => Twist::WrongTotal,
        Some(Fault::NoTotal) => Twist::NoTotal,
        Some(Fault::DuplicatePage) => Twist::DuplicatePage,
        Some(Fault::EndlessPaging) => Twist::EndlessPaging,
        _ if ask.behaviour.hide_totals && ask.route.endpoint.is_v2() => Twist::NoTotal,
        _ => Twist::None,
    }
}

/// The slot of the object that the path names; anything that is no id is simply not found.
pub(super) fn slot(tenant: &Tenant, kind: &Kind, ask: &Ask<'_>) -> Result<u32, Failure> {
    ask.ids
        .id
        .and_then(|text| text.parse::<Id>().ok())
        .and_then(|id| (kind.find)(tenant, id))
        .ok_or(Failure::Status(404))
}

fn object(tenant: &Tenant, kind: &Kind, dialect: Dialect, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let query = ListQuery::parse(ask.query, dialect)?;
    let slot = slot(tenant, kind, ask)?;
    Ok(whole(tenant, kind, slot, &query))
}

pub(super) fn whole(tenant: &Tenant, kind: &Kind, slot: u32, query: &ListQuery) -> Reply {
    let projection = query.fields.as_deref();
    let mut body = Vec::with_capacity(2048);
    kind.write(
        tenant,
        slot,
        &kind.projected(projection),
        projection,
        &mut body,
    );
    Reply::json(200, body)
}

fn own_account(tenant: &Tenant, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let query = ListQuery::parse(ask.query, Dialect::V1)?;
    let slot = own_slot(tenant, ask.granted).ok_or(Failure::Status(404))?;
    Ok(whole(tenant, &render::ADMINS, slot, &query))
}

/// Who asks: the first administrator with the role of the key, else the first of all.
pub(super) fn own_slot(tenant: &Tenant, granted: &Granted) -> Option<u32> {
    let admins = &tenant.admins;
    let has_role = |&slot: &u32| {
        let roles = admins.row(slot).map(|admin| &admin.roles);
        roles.is_some_and(|roles| roles.iter().any(|role| role == granted.role))
    };
    admins
        .live()
        .iter()
        .copied()
        .find(has_role)
        .or_else(|| admins.live().first().copied())
}

/// The order of a graph list, which cannot be sorted: it changes when something was written.
fn places(tenant: &Tenant, length: usize, ask: &Ask<'_>) -> Permutation {
    let order = ask.behaviour.shuffle.then(|| mix(tenant.generation));
    Permutation::new(length, order)
}

fn graph_page<T: Serialize>(
    tenant: &Tenant,
    length: usize,
    ask: &Ask<'_>,
    make: impl Fn(usize) -> Option<T>,
) -> Result<Reply, Failure> {
    let query = ListQuery::parse(ask.query, Dialect::V2)?;
    let places = places(tenant, length, ask);
    let page = list::lazy_rows(length, &query, Dialect::V2, twist(ask), |position| {
        make(places.at(position))
    });
    Ok(Reply::page(page, ask.behaviour.link_on_graph))
}

fn user_edge(tenant: &Tenant, slot: u32) -> Option<Edge> {
    Some(Edge::to(tenant.users.row(slot)?.id, "user"))
}

fn group_edge(tenant: &Tenant, slot: u32) -> Option<Edge> {
    Some(Edge::to(tenant.groups.row(slot)?.id, "user_group"))
}

fn app_edge(tenant: &Tenant, slot: u32) -> Option<Edge> {
    Some(Edge::to(tenant.apps.row(slot)?.id, "application"))
}

fn member_edge(tenant: &Tenant, group: u32, user: u32) -> Option<Edge> {
    let attributes = tenant.edge_attributes.get(&(Bond::Member, group, user));
    Some(user_edge(tenant, user)?.with(attributes))
}

/// Where an edge of an application leads, seen from the application.
fn bound_edge(tenant: &Tenant, bond: Bond, app: u32, other: u32) -> Option<Edge> {
    let edge = match bond {
        Bond::AppGroup => group_edge(tenant, other)?,
        Bond::AppUser | Bond::Member => user_edge(tenant, other)?,
    };
    Some(edge.with(tenant.edge_attributes.get(&(bond, app, other))))
}

/// The same edge, seen from the other end.
fn app_edge_of(tenant: &Tenant, bond: Bond, app: u32, other: u32) -> Option<Edge> {
    let attributes = tenant.edge_attributes.get(&(bond, app, other));
    Some(app_edge(tenant, app)?.with(attributes))
}

fn reached(edge: &Edge, paths: Vec<Vec<Edge>>) -> Reached {
    Reached {
        id: edge.to.id,
        kind: edge.to.kind,
        compiled_attributes: None,
        paths,
    }
}

fn direct(edge: Option<Edge>) -> Option<Reached> {
    let edge = edge?;
    Some(reached(&edge.clone(), vec![vec![edge]]))
}

fn group_members(tenant: &Tenant, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let slot = slot(tenant, &render::GROUPS, ask)?;
    let group = tenant.groups.row(slot).ok_or(Failure::Status(404))?;
    let users = group.members.len();
    graph_page(
        tenant,
        users + group.nested.len(),
        ask,
        |position| match position.checked_sub(users) {
            None => member_edge(tenant, slot, *group.members.get(position)?),
            Some(position) => group_edge(tenant, *group.nested.get(position)?),
        },
    )
}

fn group_membership(tenant: &Tenant, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let slot = slot(tenant, &render::GROUPS, ask)?;
    let group = tenant.groups.row(slot).ok_or(Failure::Status(404))?;
    graph_page(tenant, group.members.len(), ask, |position| {
        direct(member_edge(tenant, slot, *group.members.get(position)?))
    })
}

/// The one target type of an associations request.
fn target(ask: &Ask<'_>, allowed: &[&str]) -> Result<String, Failure> {
    let mut targets = ListQuery::parse(ask.query, Dialect::V2)?.targets;
    match (targets.pop(), targets.is_empty()) {
        (None, _) => Err("targets is required".to_owned().into()),
        (Some(_), false) => Err("targets takes exactly one type".to_owned().into()),
        (Some(target), true) if allowed.contains(&target.as_str()) => Ok(target),
        (Some(_), true) => Err("targets has a type that does not fit here"
            .to_owned()
            .into()),
    }
}

fn app_associations(tenant: &Tenant, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let target = target(ask, &["user", "user_group"])?;
    let slot = slot(tenant, &render::APPS, ask)?;
    let app = tenant.apps.row(slot).ok_or(Failure::Status(404))?;
    if target == "user" {
        graph_page(tenant, app.users.len(), ask, |position| {
            bound_edge(tenant, Bond::AppUser, slot, *app.users.get(position)?)
        })
    } else {
        graph_page(tenant, app.groups.len(), ask, |position| {
            bound_edge(tenant, Bond::AppGroup, slot, *app.groups.get(position)?)
        })
    }
}

fn app_users(tenant: &Tenant, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let slot = slot(tenant, &render::APPS, ask)?;
    let app = tenant.apps.row(slot).ok_or(Failure::Status(404))?;
    let ways = ways_to_app(tenant, app);
    graph_page(tenant, ways.len(), ask, |position| {
        let (user, ways) = ways.get(position)?;
        let edge = user_edge(tenant, *user)?;
        let paths = ways
            .iter()
            .filter_map(|&way| {
                if way == NONE {
                    Some(vec![bound_edge(tenant, Bond::AppUser, slot, *user)?])
                } else {
                    let group = bound_edge(tenant, Bond::AppGroup, slot, way)?;
                    Some(vec![group, member_edge(tenant, way, *user)?])
                }
            })
            .collect();
        Some(reached(&edge, paths))
    })
}

fn app_groups(tenant: &Tenant, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let slot = slot(tenant, &render::APPS, ask)?;
    let app = tenant.apps.row(slot).ok_or(Failure::Status(404))?;
    graph_page(tenant, app.groups.len(), ask, |position| {
        direct(bound_edge(
            tenant,
            Bond::AppGroup,
            slot,
            *app.groups.get(position)?,
        ))
    })
}

fn member_of(tenant: &Tenant, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let user = slot(tenant, &render::USERS, ask)?;
    let groups: Vec<u32> = tenant
        .groups
        .live()
        .iter()
        .copied()
        .filter(|&slot| {
            tenant
                .groups
                .row(slot)
                .is_some_and(|group| group.members.contains(&user))
        })
        .collect();
    graph_page(tenant, groups.len(), ask, |position| {
        let group = *groups.get(position)?;
        let attributes = tenant.edge_attributes.get(&(Bond::Member, group, user));
        direct(group_edge(tenant, group).map(|edge| edge.with(attributes)))
    })
}

/// Every application of a user, with the ways to it.
fn user_apps(tenant: &Tenant, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let user = slot(tenant, &render::USERS, ask)?;
    let mut ways: Vec<(u32, Vec<u32>)> = Vec::new();
    for &slot in tenant.apps.live() {
        let Some(app) = tenant.apps.row(slot) else {
            continue;
        };
        let through = app.groups.iter().copied().filter(|&group| {
            let members = tenant.groups.row(group).map(|group| &group.members);
            members.is_some_and(|members| members.contains(&user))
        });
        let direct = app.users.contains(&user).then_some(NONE);
        let all: Vec<u32> = direct.into_iter().chain(through).collect();
        if !all.is_empty() {
            ways.push((slot, all));
        }
    }
    graph_page(tenant, ways.len(), ask, |position| {
        let (app, ways) = ways.get(position)?;
        let paths = ways
            .iter()
            .filter_map(|&way| {
                if way == NONE {
                    Some(vec![app_edge_of(tenant, Bond::AppUser, *app, user)?])
                } else {
                    let attributes = tenant.edge_attributes.get(&(Bond::Member, way, user));
                    let group = group_edge(tenant, way)?.with(attributes);
                    Some(vec![group, app_edge_of(tenant, Bond::AppGroup, *app, way)?])
                }
            })
            .collect();
        Some(reached(&app_edge(tenant, *app)?, paths))
    })
}

/// A bare array although v1, without pages.
fn ssh_keys(tenant: &Tenant, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let user = slot(tenant, &render::USERS, ask)?;
    let keys = render::USERS.value(tenant, user, "ssh_keys");
    Ok(Reply::json(200, keys.to_string().into_bytes()))
}

/// A scheduled change as its list shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the names are those of the wire")]
pub(super) struct Scheduled {
    scheduled_job_id: Id,
    system_user_id: Id,
    state: &'static str,
    scheduled_date: String,
}

impl Scheduled {
    pub(super) fn of(tenant: &Tenant, job: &Job) -> Option<Self> {
        Some(Self {
            scheduled_job_id: job.id,
            system_user_id: tenant.users.row(job.user)?.id,
            state: if job.activate {
                "ACTIVATED"
            } else {
                "SUSPENDED"
            },
            scheduled_date: job.date.to_string(),
        })
    }
}

fn schedules(tenant: &Tenant, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let query = ListQuery::parse(ask.query, Dialect::V2)?;
    let user = url::form_urlencoded::parse(ask.query.as_bytes())
        .find_map(|(name, value)| (name == "userid").then_some(value));
    let rows: Vec<Scheduled> = tenant
        .jobs
        .iter()
        .filter_map(|job| Scheduled::of(tenant, job))
        .filter(|row| {
            user.as_ref()
                .is_none_or(|user| row.system_user_id.to_string() == **user)
        })
        .collect();
    let page = list::rows(&rows, &query, Dialect::V2, twist(ask));
    Ok(Reply::page(page, false))
}

fn bound_apps(tenant: &Tenant, bound: impl Fn(&super::tenant::App) -> bool) -> Vec<u32> {
    tenant
        .apps
        .live()
        .iter()
        .copied()
        .filter(|&slot| tenant.apps.row(slot).is_some_and(&bound))
        .collect()
}

fn group_associations(tenant: &Tenant, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let target = target(ask, &PERSON_TARGETS)?;
    let group = slot(tenant, &render::GROUPS, ask)?;
    let apps = if target == "application" {
        bound_apps(tenant, |app| app.groups.contains(&group))
    } else {
        Vec::new()
    };
    graph_page(tenant, apps.len(), ask, |position| {
        app_edge_of(tenant, Bond::AppGroup, *apps.get(position)?, group)
    })
}

fn user_associations(tenant: &Tenant, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let target = target(ask, &PERSON_TARGETS)?;
    let user = slot(tenant, &render::USERS, ask)?;
    let apps = if target == "application" {
        bound_apps(tenant, |app| app.users.contains(&user))
    } else {
        Vec::new()
    };
    graph_page(tenant, apps.len(), ask, |position| {
        app_edge_of(tenant, Bond::AppUser, *apps.get(position)?, user)
    })
}

fn organizations(world: &World, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let query = ListQuery::parse(ask.query, Dialect::V1)?;
    let visible: Vec<Organization<'_>> = ask
        .granted
        .visible
        .iter()
        .filter_map(|&position| world.tenants.get(position))
        .map(Organization::of)
        .collect();
    let page = list::rows(&visible, &query, Dialect::V1, twist(ask));
    Ok(Reply::page(page, false))
}

fn organization(world: &World, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let tenant = ask
        .granted
        .visible
        .iter()
        .filter_map(|&position| world.tenants.get(position))
        .find(|tenant| ask.ids.id.and_then(|text| text.parse().ok()) == Some(tenant.organization))
        .ok_or(Failure::Status(404))?;
    let policy = &tenant.password_policy;
    let state = if tenant.stage_new_users {
        "STAGED"
    } else {
        "ACTIVATED"
    };
    let body = serde_json::json!({
        "_id": tenant.organization,
        "id": tenant.organization,
        "displayName": tenant.organization_name,
        "created": "2021-01-01T00:00:00.000Z",
        "provider": null,
        "settings": {
            "requireAdminMFA": true,
            "disableLdap": false,
            "newSystemUserStateDefaults": {"manualEntry": state, "csvImport": "STAGED", "applicationImport": "STAGED"},
            "features": {"directoryInsights": {"enabled": true}, "systemInsights": {"enabled": false}},
            "passwordPolicy": {
                "enableMinLength": true, "minLength": policy.min_length,
                "needsLowercase": policy.needs_lowercase, "needsUppercase": policy.needs_uppercase,
                "needsNumeric": policy.needs_numeric, "needsSymbolic": policy.needs_symbolic,
                "allowUsernameSubstring": policy.allow_username_substring,
                "disallowSequentialOrRepetitiveChars": policy.disallow_sequential_or_repetitive_chars,
                "enablePasswordExpirationInDays": true,
                "passwordExpirationInDays": 180, "enableMaxLoginAttempts": true, "maxLoginAttempts": 6,
                "enableLockoutTimeInSeconds": true, "lockoutTimeInSeconds": 900,
            },
        },
    });
    Ok(Reply::json(200, body.to_string().into_bytes()))
}

/// Up to seven events for each user, as many as its salt says.
fn insights_count(tenant: &Tenant, ask: &Ask<'_>) -> Result<Reply, Failure> {
    let body: Value = serde_json::from_slice(ask.body)
        .map_err(|_problem| "the body must be a JSON object".to_owned())?;
    if !body.get("service").is_some_and(Value::is_array) {
        return Err("service is required and must be a list".to_owned().into());
    }
    let start = body.get("start_time").and_then(Value::as_str);
    if start
        .and_then(|text| text.parse::<jiff::Timestamp>().ok())
        .is_none()
    {
        return Err("start_time is required and must be a date-time"
            .to_owned()
            .into());
    }
    let count: u64 = tenant.users.live_rows().map(|user| user.salt >> 61).sum();
    Ok(Reply::json(
        200,
        format!("{{\"count\":{count}}}").into_bytes(),
    ))
}
