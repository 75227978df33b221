//! Makes an organisation out of a [`Shape`]: the same shape gives the same state, always.
//!
//! The work is proportional to the number of objects and edges; nothing is rendered here.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
};

use super::{
    id::{Id, IdKind, mix},
    names::{self, pick},
    tenant::{
        Admin, App, MembershipMethod, NONE, PasswordPolicy, Role, Shape, Status, Table, Tenant,
        new_group, new_user, person, user_email,
    },
};

impl Tenant {
    /// Makes the organisation that a shape describes.
    pub fn generate(shape: &Shape) -> Self {
        let mut tenant = Self {
            seed: shape.seed,
            organization: Id::derive(shape.seed, IdKind::Organization, 0),
            organization_name: shape.organization.clone(),
            users: users(shape),
            groups: Table::with_capacity(shape.groups),
            apps: Table::with_capacity(shape.apps),
            admins: Table::with_capacity(shape.admins),
            roles: roles(shape.seed),
            list_built_in_roles: shape.list_built_in_roles,
            password_policy: PasswordPolicy::default(),
            stage_new_users: true,
            jobs: Vec::new(),
            edge_attributes: BTreeMap::new(),
            details: 0,
            generation: 1,
            orders: Mutex::new(HashMap::new()),
        };
        let mut random = fastrand::Rng::with_seed(shape.seed);
        groups(&mut tenant, shape, &mut random);
        apps(&mut tenant, shape, &mut random);
        admins(&mut tenant, shape);
        dangle(&mut tenant, shape);
        tenant
    }
}

/// Every status that an account can have comes early, so that small tenants have them all.
fn status(slot: u32, salt: u64) -> Status {
    match slot {
        2 => return Status::Staged,
        3 => return Status::Suspended,
        4 => return Status::Locked,
        5 => return Status::NeverActivated,
        6 => return Status::Legacy,
        8 => return Status::LegacySuspended,
        _ => {}
    }
    match salt % 1000 {
        0..25 => Status::Staged,
        25..65 => Status::Suspended,
        65..80 => Status::Locked,
        80..110 => Status::NeverActivated,
        110..130 => Status::Legacy,
        130..140 => Status::LegacySuspended,
        _ => Status::Active,
    }
}

fn users(shape: &Shape) -> Table<super::tenant::User> {
    let count = u64::from(shape.users);
    // 400 managers for 5,000 users, spread over the whole list.
    let managers = (count * 2 / 25).max(1);
    let mut users = Table::with_capacity(shape.users);
    let mut managed = 0;
    for slot in 0..shape.users {
        let mut user = new_user(shape.seed, slot, Status::Active, NONE);
        user.status = status(slot, user.salt);
        // 24 of 25 users have a manager.
        if slot % 25 != 13 && count > 1 {
            let mut manager = nth_manager(managed % managers, managers, count);
            if manager == slot {
                manager = nth_manager((managed + 1) % managers, managers, count);
            }
            if manager != slot {
                user.manager = manager;
            }
            managed += 1;
        }
        users.push(user);
    }
    users
}

fn nth_manager(number: u64, managers: u64, users: u64) -> u32 {
    u32::try_from((number * users + users / 2) / managers).unwrap_or(NONE)
}

fn roles(seed: u64) -> Table<Role> {
    let mut roles = Table::default();
    let built_in = names::BUILT_IN_ROLES
        .iter()
        .map(|&(name, scopes)| (name, "", scopes, false));
    let custom = names::CUSTOM_ROLES
        .iter()
        .map(|&(name, description, scopes)| (name, description, scopes, true));
    for (number, (name, description, scopes, custom)) in (0..).zip(built_in.chain(custom)) {
        roles.push(Role {
            id: Id::derive(seed, IdKind::Role, number),
            name: name.to_owned(),
            description,
            scopes,
            custom,
        });
    }
    roles
}

/// `count` different numbers below `below` (all of them when there are fewer), in an order of their own.
fn distinct(random: &mut fastrand::Rng, count: u32, below: u32) -> Vec<u32> {
    let count = count.min(below);
    if count == 0 {
        return Vec::new();
    }
    let start = u64::from(random.u32(0..below));
    let step = loop {
        let step = random.u32(1..=below);
        if gcd(step, below) == 1 {
            break u64::from(step);
        }
    };
    (0..u64::from(count))
        .filter_map(|i| u32::try_from((start + i * step) % u64::from(below)).ok())
        .collect()
}

pub(super) const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn groups(tenant: &mut Tenant, shape: &Shape, random: &mut fastrand::Rng) {
    for slot in 0..shape.groups {
        let number = u64::from(slot);
        let name = format!(
            "{} {} {:03}",
            pick(&names::DEPARTMENTS, number),
            pick(&names::TEAMS, number / names::DEPARTMENTS.len() as u64),
            slot + 1,
        );
        // Which groups are dynamic depends on the slot alone: a small tenant has one as well.
        let method = match slot % 12 {
            1 | 7 => MembershipMethod::DynamicAutomated,
            4 => MembershipMethod::DynamicReviewRequired,
            10 => MembershipMethod::Notset,
            _ => MembershipMethod::Static,
        };
        let members = distinct(random, shape.members_per_group, shape.users);
        tenant
            .groups
            .push(new_group(shape.seed, slot, name, method, members));
    }
}

fn apps(tenant: &mut Tenant, shape: &Shape, random: &mut fastrand::Rng) {
    for slot in 0..shape.apps {
        let number = u64::from(slot);
        let (template, name) = pick(&names::APPS, number);
        tenant.apps.push(App {
            id: Id::derive(shape.seed, IdKind::App, number),
            salt: mix(shape.seed ^ mix(number ^ 0x0a99)),
            template,
            name: name.to_owned(),
            groups: distinct(random, shape.groups_per_app, shape.groups),
            users: distinct(random, shape.users_per_app, shape.users),
            overrides: None,
        });
    }
}

fn admins(tenant: &mut Tenant, shape: &Shape) {
    // The administrators' users are spread over the list and leave out the slots with special accounts.
    let stride = (shape.users / shape.admins.max(1)).max(1);
    for slot in 0..shape.admins {
        let number = u64::from(slot);
        let salt = mix(shape.seed ^ mix(number ^ 0xad31));
        let id = Id::derive(shape.seed, IdKind::Admin, number);
        let user = slot.saturating_mul(stride).saturating_add(9);
        // Every third administrator is linked by the user's record, every third by e-mail, every third not at all.
        let row = tenant.users.row(user).filter(|_| slot % 3 != 2);
        let by_record = slot % 3 == 0 && row.is_some();
        let (email, first, last) = match row {
            Some(row) => {
                let (first, last, _) = person(user);
                let email = user_email(row, user);
                let email = if by_record {
                    email.to_lowercase()
                } else {
                    email.to_uppercase()
                };
                (email, first, last)
            }
            None => admin_only(slot, salt),
        };
        let user = if row.is_some() { user } else { NONE };
        tenant.admins.push(Admin {
            id,
            salt,
            email,
            first: first.to_owned(),
            last: last.to_owned(),
            roles: admin_roles(slot),
            user,
            overrides: None,
        });
        if by_record && let Some(row) = tenant.users.row_mut(user) {
            row.admin = slot;
        }
    }
}

/// E-mail address and names of an administrator without a directory user; some never gave their names.
fn admin_only(slot: u32, salt: u64) -> (String, &'static str, &'static str) {
    let (first, last, name) = person(slot.wrapping_mul(7).wrapping_add(3) % 2_000);
    let email = format!("admin{slot}.{name}@example.org");
    if salt & 1 == 0 {
        (email, "", "")
    } else {
        (email, first, last)
    }
}

fn admin_roles(slot: u32) -> Vec<String> {
    let built_in = |n: u32| pick(&names::BUILT_IN_ROLES, u64::from(n)).0.to_owned();
    let custom = |n: u32| pick(&names::CUSTOM_ROLES, u64::from(n)).0.to_owned();
    match slot % 5 {
        0 => vec![built_in(0)],
        1 => vec![built_in(2), custom(slot / 5)],
        2 => vec![built_in(slot / 5 + 3)],
        3 => vec![custom(slot / 5 + 1)],
        _ => vec![built_in(7), built_in(5), custom(slot / 5 + 2)],
    }
}

/// Lets edges name users that are in no list.
fn dangle(tenant: &mut Tenant, shape: &Shape) {
    for number in 0..shape.dangling_edges {
        let slot = tenant.users.next_slot();
        let ghost = new_user(shape.seed, slot, Status::Active, NONE);
        let id = ghost.id;
        tenant.users.push(ghost);
        tenant.users.retire(id);
        if number % 2 == 0 && shape.groups > 0 {
            if let Some(group) = tenant.groups.row_mut(number / 2 % shape.groups) {
                group.members.push(slot);
            }
        } else if let Some(app) = tenant.apps.row_mut(number / 2 % shape.apps.max(1)) {
            app.users.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn acceptance() -> Shape {
        Shape {
            users: 5000,
            groups: 200,
            members_per_group: 60,
            apps: 80,
            groups_per_app: 4,
            users_per_app: 5,
            admins: 15,
            ..Shape::default()
        }
    }

    #[test]
    fn five_thousand_users_have_four_hundred_managers() {
        let tenant = Tenant::generate(&acceptance());
        let managed = tenant
            .users
            .live_rows()
            .filter(|user| user.manager != NONE)
            .count();
        let managers: HashSet<u32> = tenant
            .users
            .live_rows()
            .map(|user| user.manager)
            .filter(|&manager| manager != NONE)
            .collect();
        assert_eq!(managed, 4800);
        assert_eq!(managers.len(), 400);
        assert!(
            tenant.users.live().iter().any(|&slot| tenant
                .users
                .row(slot)
                .unwrap()
                .manager
                .wrapping_add(1)
                > slot + 1)
        );
    }

    #[test]
    fn nobody_is_their_own_manager() {
        for users in 1..60 {
            let tenant = Tenant::generate(&Shape {
                users,
                ..Shape::default()
            });
            for &slot in tenant.users.live() {
                let manager = tenant.users.row(slot).unwrap().manager;
                assert_ne!(manager, slot, "of {users}");
                assert!(manager == NONE || manager < users, "of {users}");
            }
        }
    }

    #[test]
    fn user_names_are_unique() {
        let mut seen = HashSet::new();
        for slot in 0..100_000 {
            assert!(seen.insert(person(slot).2), "{slot}");
        }
    }

    #[test]
    fn every_kind_of_account_is_in_a_small_tenant() {
        let tenant = Tenant::generate(&Shape {
            users: 12,
            ..Shape::default()
        });
        let kinds: HashSet<Status> = tenant.users.live_rows().map(|user| user.status).collect();
        assert_eq!(kinds.len(), 7);
    }

    #[test]
    fn fifteen_administrators_are_linked_in_three_ways() {
        let tenant = Tenant::generate(&acceptance());
        let alone = tenant.admins.live_rows().filter(|a| a.user == NONE).count();
        let by_record = tenant.users.live_rows().filter(|u| u.admin != NONE).count();
        assert_eq!((alone, by_record, tenant.admins.live().len()), (5, 5, 15));
        for admin in tenant.admins.live_rows().filter(|a| a.user != NONE) {
            let user = tenant.users.row(admin.user).unwrap();
            let email = user_email(user, admin.user);
            assert!(email.eq_ignore_ascii_case(&admin.email));
            if user.admin == NONE {
                assert_ne!(email, admin.email);
            }
        }
    }

    #[test]
    fn memberships_have_no_repeats_even_when_more_are_asked_for_than_exist() {
        let mut random = fastrand::Rng::with_seed(1);
        for (count, below, want) in [
            (60, 5000, 60),
            (10, 10, 10),
            (10, 3, 3),
            (5, 0, 0),
            (1, 1, 1),
        ] {
            let numbers = distinct(&mut random, count, below);
            assert_eq!(numbers.len(), want);
            assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), want);
            assert!(numbers.iter().all(|&number| number < below));
        }
    }

    #[test]
    fn a_hundred_thousand_users_are_made_at_once() {
        let tenant = Tenant::generate(&Shape {
            users: 100_000,
            groups: 2000,
            members_per_group: 500,
            apps: 300,
            groups_per_app: 4,
            users_per_app: 5,
            admins: 50,
            ..Shape::default()
        });
        assert_eq!(tenant.users.live().len(), 100_000);
        let edges: usize = tenant.groups.live_rows().map(|g| g.members.len()).sum();
        assert_eq!(edges, 1_000_000);
    }

    #[test]
    fn dangling_edges_name_nobody() {
        let tenant = Tenant::generate(&Shape {
            dangling_edges: 5,
            ..Shape::default()
        });
        let ghosts = tenant
            .groups
            .live_rows()
            .flat_map(|group| &group.members)
            .chain(tenant.apps.live_rows().flat_map(|app| &app.users))
            .filter(|&&slot| !tenant.users.is_live(slot))
            .count();
        assert_eq!(ghosts, 5);
        assert_eq!(tenant.users.live().len(), 250);
    }
}
