//! What a correct sync of an organisation must contain, read from the state alone.
//!
//! Nothing here knows how answers are rendered or what our connector makes of them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    id::Id,
    tenant::{MembershipMethod, NONE, Status, Tenant},
};

/// The expected content of one organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// The organisation's id.
    pub organization: Id,
    /// Directory users.
    pub users: BTreeMap<Id, UserTruth>,
    /// Administrators.
    pub admins: BTreeMap<Id, AdminTruth>,
    /// User groups.
    pub groups: BTreeMap<Id, GroupTruth>,
    /// Applications.
    pub apps: BTreeMap<Id, AppTruth>,
    /// The names in the list of roles.
    pub roles: BTreeSet<String>,
}

/// The expected facts about one directory user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserTruth {
    /// What the account is like, such as `active`.
    pub status: String,
    /// Id of the manager; may name a user that exists no more.
    pub manager: Option<Id>,
    /// The administrator that the user's own record names.
    pub admin: Option<Id>,
}

/// The expected facts about one administrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminTruth {
    /// All role names, the main one first.
    pub roles: Vec<String>,
    /// The same person's directory user, however the two are linked.
    pub user: Option<Id>,
    /// Whether only the e-mail address, in another case, links the two.
    pub linked_by_email_only: bool,
}

/// The expected facts about one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupTruth {
    /// Whether a rule alone decides about the members.
    pub dynamic: bool,
    /// Members that exist.
    pub members: BTreeSet<Id>,
    /// Member edges that name users which exist no more.
    pub dangling: BTreeSet<Id>,
    /// Groups that are members.
    pub nested: BTreeSet<Id>,
}

/// The expected facts about one application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppTruth {
    /// Groups bound to it.
    pub groups: BTreeSet<Id>,
    /// Users bound directly to it.
    pub users: BTreeSet<Id>,
    /// Direct edges that name users which exist no more.
    pub dangling: BTreeSet<Id>,
    /// Every user with access, directly or through a group.
    pub effective: BTreeSet<Id>,
}

/// How many rows of each kind a correct sync has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counts {
    pub users: usize,
    pub admins: usize,
    pub admins_without_user: usize,
    pub groups: usize,
    pub memberships: usize,
    pub apps: usize,
    pub group_bindings: usize,
    pub user_bindings: usize,
    pub effective_access: usize,
    pub admin_roles: usize,
    pub roles: usize,
}

impl Truth {
    /// Reads the expected content from the state of an organisation.
    pub fn of(tenant: &Tenant) -> Self {
        let user_id = |slot: u32| tenant.users.row(slot).map(|user| user.id);
        let split = |slots: &[u32]| -> (BTreeSet<Id>, BTreeSet<Id>) {
            let (live, gone): (Vec<u32>, Vec<u32>) =
                slots.iter().partition(|&&slot| tenant.users.is_live(slot));
            (
                live.into_iter().filter_map(user_id).collect(),
                gone.into_iter().filter_map(user_id).collect(),
            )
        };
        let group_ids = |slots: &[u32]| -> BTreeSet<Id> {
            slots
                .iter()
                .filter_map(|&slot| tenant.groups.row(slot))
                .map(|group| group.id)
                .collect()
        };

        let users = tenant
            .users
            .live_rows()
            .map(|user| {
                let facts = UserTruth {
                    status: status_name(user.status).to_owned(),
                    manager: user_id(user.manager),
                    admin: tenant.admins.row(user.admin).map(|admin| admin.id),
                };
                (user.id, facts)
            })
            .collect();
        let admins = tenant
            .admins
            .live_rows()
            .map(|admin| {
                let user = tenant
                    .users
                    .row(admin.user)
                    .filter(|_| admin.user != NONE && tenant.users.is_live(admin.user));
                let facts = AdminTruth {
                    roles: admin.roles.clone(),
                    user: user.map(|user| user.id),
                    linked_by_email_only: user.is_some_and(|user| user.admin == NONE),
                };
                (admin.id, facts)
            })
            .collect();
        let groups: BTreeMap<Id, GroupTruth> = tenant
            .groups
            .live_rows()
            .map(|group| {
                let (members, dangling) = split(&group.members);
                let facts = GroupTruth {
                    dynamic: group.method == MembershipMethod::DynamicAutomated,
                    members,
                    dangling,
                    nested: group_ids(&group.nested),
                };
                (group.id, facts)
            })
            .collect();
        let apps = tenant
            .apps
            .live_rows()
            .map(|app| {
                let bound = group_ids(&app.groups);
                let (direct, dangling) = split(&app.users);
                let mut effective = direct.clone();
                for group in closure(&bound, &groups) {
                    if let Some(facts) = groups.get(&group) {
                        effective.extend(&facts.members);
                    }
                }
                let facts = AppTruth {
                    groups: bound,
                    users: direct,
                    dangling,
                    effective,
                };
                (app.id, facts)
            })
            .collect();
        let roles = tenant
            .listed_roles()
            .into_iter()
            .filter_map(|slot| tenant.roles.row(slot))
            .map(|role| role.name.clone())
            .collect();
        Self {
            organization: tenant.organization,
            users,
            admins,
            groups,
            apps,
            roles,
        }
    }

    /// The number of rows of each kind.
    pub fn counts(&self) -> Counts {
        Counts {
            users: self.users.len(),
            admins: self.admins.len(),
            admins_without_user: self.admins.values().filter(|a| a.user.is_none()).count(),
            groups: self.groups.len(),
            memberships: self.groups.values().map(|g| g.members.len()).sum(),
            apps: self.apps.len(),
            group_bindings: self.apps.values().map(|a| a.groups.len()).sum(),
            user_bindings: self.apps.values().map(|a| a.users.len()).sum(),
            effective_access: self.apps.values().map(|a| a.effective.len()).sum(),
            admin_roles: self.admins.values().map(|a| a.roles.len()).sum(),
            roles: self.roles.len(),
        }
    }

    /// Every role name that a grant can need: the listed ones and those that administrators have.
    pub fn role_names(&self) -> BTreeSet<&str> {
        self.roles
            .iter()
            .chain(self.admins.values().flat_map(|admin| &admin.roles))
            .map(String::as_str)
            .collect()
    }
}

/// The groups and, through nesting, the groups inside them.
fn closure(start: &BTreeSet<Id>, groups: &BTreeMap<Id, GroupTruth>) -> BTreeSet<Id> {
    let mut found = BTreeSet::new();
    let mut todo: Vec<Id> = start.iter().copied().collect();
    while let Some(id) = todo.pop() {
        if found.insert(id)
            && let Some(facts) = groups.get(&id)
        {
            todo.extend(&facts.nested);
        }
    }
    found
}

fn status_name(status: Status) -> &'static str {
    match status {
        Status::Active => "active",
        Status::Staged => "staged",
        Status::Suspended => "suspended",
        Status::Locked => "locked",
        Status::NeverActivated => "never_activated",
        Status::Legacy => "legacy",
        Status::LegacySuspended => "legacy_suspended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::jumpcloud::Shape;

    #[test]
    fn effective_access_is_direct_access_and_that_of_the_groups() {
        let mut tenant = Tenant::generate(&Shape {
            users: 6,
            groups: 3,
            members_per_group: 0,
            apps: 1,
            admins: 0,
            ..Shape::default()
        });
        let users = tenant.user_ids();
        let groups = tenant.group_ids();
        let app = tenant.app_ids()[0];
        tenant.set_members(groups[0], &users[..2]).unwrap();
        tenant.set_members(groups[1], &users[1..3]).unwrap();
        tenant.set_nested_groups(groups[1], &groups[2..]).unwrap();
        tenant.set_nested_groups(groups[2], &groups[1..2]).unwrap();
        tenant.set_members(groups[2], &users[4..5]).unwrap();
        tenant
            .set_app_bindings(app, &groups[..2], &users[1..2])
            .unwrap();
        let truth = Truth::of(&tenant);
        let want: BTreeSet<Id> = [0, 1, 2, 4].into_iter().map(|n| users[n]).collect();
        assert_eq!(truth.apps[&app].effective, want);
    }

    #[test]
    fn a_removed_user_is_nowhere_and_one_that_left_edges_dangles() {
        let mut tenant = Tenant::generate(&Shape {
            users: 10,
            groups: 1,
            members_per_group: 10,
            apps: 0,
            ..Shape::default()
        });
        let users = tenant.user_ids();
        tenant.remove_user(users[0]).unwrap();
        tenant.remove_user_leaving_edges(users[1]).unwrap();
        let truth = Truth::of(&tenant);
        let group = truth.groups.values().next().unwrap();
        assert_eq!((truth.users.len(), group.members.len()), (8, 8));
        assert_eq!(group.dangling, BTreeSet::from([users[1]]));
    }

    #[test]
    fn a_linked_administrator_goes_with_its_user() {
        let mut tenant = Tenant::generate(&Shape::default());
        let truth = Truth::of(&tenant);
        let (user, admin) = truth
            .users
            .iter()
            .find_map(|(id, user)| Some((*id, user.admin?)))
            .unwrap();
        tenant.remove_user(user).unwrap();
        let after = Truth::of(&tenant);
        assert!(truth.admins.contains_key(&admin));
        assert!(!after.admins.contains_key(&admin));
    }
}
