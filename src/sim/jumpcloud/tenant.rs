//! The state of one organisation: its objects and the edges between them.
//!
//! Memberships are indexes into the user table, and most of a user's fields are derived from twelve bytes of salt when
//! somebody asks, so that a tenant of a hundred thousand users fits into a few megabytes.
//!
//! Invariants: a slot never changes its meaning (a removed row leaves a hole), `generation` grows with every change,
//! an edge may name a removed slot (then it dangles) but never one that did not exist.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::Value;

use super::{
    id::{Id, IdKind, mix},
    names::{self, pick},
    render::USERS,
};

/// How big a generated organisation is and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Everything is derived from it: the same shape and seed give the same bytes.
    pub seed: u64,
    /// Directory users.
    pub users: u32,
    /// User groups.
    pub groups: u32,
    /// Members of each group; at most all users.
    pub members_per_group: u32,
    /// Applications.
    pub apps: u32,
    /// Groups bound to each application; at most all groups.
    pub groups_per_app: u32,
    /// Users bound directly to each application; at most all users.
    pub users_per_app: u32,
    /// Administrators. A third has no directory user, a third is linked by the user's `admin` field, a third only by an
    /// e-mail address in another case.
    pub admins: u32,
    /// Members and application users that name users which no longer exist, spread over groups and applications.
    pub dangling_edges: u32,
    /// Whether the built-in roles are in the list of roles, or only the custom ones.
    pub list_built_in_roles: bool,
    /// The name of the organisation.
    pub organization: String,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            seed: 7,
            users: 250,
            groups: 12,
            members_per_group: 20,
            apps: 5,
            groups_per_app: 2,
            users_per_app: 3,
            admins: 6,
            dangling_edges: 0,
            list_built_in_roles: true,
            organization: "Example Corp".to_owned(),
        }
    }
}

/// What the account of a user is like; decides several fields together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// `state` ACTIVATED.
    Active,
    /// `state` STAGED.
    Staged,
    /// `state` SUSPENDED and `suspended`.
    Suspended,
    /// ACTIVATED with `account_locked`.
    Locked,
    /// ACTIVATED, but a password was never set (`activated` false).
    NeverActivated,
    /// An old object without `state`.
    Legacy,
    /// An old object without `state`, with `suspended`.
    LegacySuspended,
}

/// Fields given by hand: a value, or `None` for a field that is missing from the answer.
pub(super) type Overrides = BTreeMap<String, Option<Value>>;

pub(super) const NONE: u32 = u32::MAX;

#[derive(Debug, Clone)]
pub(super) struct User {
    pub id: Id,
    pub salt: u64,
    pub status: Status,
    /// Slot of the manager, [`NONE`] without one.
    pub manager: u32,
    /// Slot of the administrator that the `admin` field names, [`NONE`] without one.
    pub admin: u32,
    /// The password that was written last; generated users have one that nobody knows.
    pub password: Option<SecretString>,
    pub overrides: Option<Box<Overrides>>,
}

/// Who decides about the members of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MembershipMethod {
    /// Nobody chose; the same as static.
    Notset,
    /// Administrators.
    Static,
    /// A rule.
    DynamicAutomated,
    /// A rule proposes, an administrator applies.
    DynamicReviewRequired,
}

#[derive(Debug, Clone)]
pub(super) struct Group {
    pub id: Id,
    pub salt: u64,
    pub name: String,
    pub method: MembershipMethod,
    /// Slots of users, in the order in which they were added.
    pub members: Vec<u32>,
    /// Slots of groups; the real service has none today.
    pub nested: Vec<u32>,
    /// Who is a member of a dynamic automated group. Generated ones show a rule that their members do not follow, and
    /// have none here.
    pub rule: Option<Rule>,
    pub overrides: Option<Box<Overrides>>,
}

/// The rule of a dynamic group: users whose fields have these values. Exempted users stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rule {
    pub fields: Vec<(String, String)>,
    pub exempted: Vec<Id>,
}

#[derive(Debug, Clone)]
pub(super) struct App {
    pub id: Id,
    pub salt: u64,
    pub template: &'static str,
    pub name: String,
    pub groups: Vec<u32>,
    pub users: Vec<u32>,
    pub overrides: Option<Box<Overrides>>,
}

#[derive(Debug, Clone)]
pub(super) struct Admin {
    pub id: Id,
    pub salt: u64,
    pub email: String,
    pub first: String,
    pub last: String,
    /// Names, the first one is `roleName`.
    pub roles: Vec<String>,
    /// Slot of the same person's directory user, [`NONE`] without one.
    pub user: u32,
    pub overrides: Option<Box<Overrides>>,
}

#[derive(Debug, Clone)]
pub(super) struct Role {
    pub id: Id,
    pub name: String,
    pub description: &'static str,
    pub scopes: &'static [&'static str],
    pub custom: bool,
}

/// A scheduled change of a user's state.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub id: Id,
    pub user: u32,
    pub activate: bool,
    pub date: Timestamp,
}

/// A kind of edge that can have attributes; the slots of its two ends follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bond {
    /// Group and user.
    Member,
    /// Application and user.
    AppUser,
    /// Application and group.
    AppGroup,
}

/// What a password must be like. On the wire each field has its name in camel case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordPolicy {
    /// The least number of characters.
    pub min_length: usize,
    /// Needs a lower-case letter.
    pub needs_lowercase: bool,
    /// Needs an upper-case letter.
    pub needs_uppercase: bool,
    /// Needs a digit.
    pub needs_numeric: bool,
    /// Needs a character that is neither letter nor digit.
    pub needs_symbolic: bool,
    /// May hold the username.
    pub allow_username_substring: bool,
    /// May not hold three equal or sequential characters in a row.
    pub disallow_sequential_or_repetitive_chars: bool,
}

impl Default for PasswordPolicy {
    /// Fourteen characters of all four kinds, without the username and without runs.
    fn default() -> Self {
        Self {
            min_length: 14,
            needs_lowercase: true,
            needs_uppercase: true,
            needs_numeric: true,
            needs_symbolic: true,
            allow_username_substring: false,
            disallow_sequential_or_repetitive_chars: true,
        }
    }
}

pub(super) trait Identified {
    fn id(&self) -> Id;
}

macro_rules! identified {
    ($($row:ty),+) => { $(impl Identified for $row { fn id(&self) -> Id { self.id } })+ };
}
identified!(User, Group, App, Admin, Role);

/// Rows with stable slots, the live ones in the order of creation, and an index by id.
#[derive(Debug, Clone)]
pub(super) struct Table<T> {
    rows: Vec<T>,
    live: Vec<u32>,
    index: HashMap<Id, u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            live: Vec::new(),
            index: HashMap::new(),
        }
    }
}

impl<T: Identified> Table<T> {
    pub(super) fn with_capacity(capacity: u32) -> Self {
        let capacity = capacity as usize;
        Self {
            rows: Vec::with_capacity(capacity),
            live: Vec::with_capacity(capacity),
            index: HashMap::with_capacity(capacity),
        }
    }

    /// The slot that the next row gets.
    pub(super) fn next_slot(&self) -> u32 {
        u32::try_from(self.rows.len()).unwrap_or(NONE)
    }

    pub(super) fn push(&mut self, row: T) -> u32 {
        let slot = self.next_slot();
        self.index.insert(row.id(), slot);
        self.rows.push(row);
        self.live.push(slot);
        slot
    }

    /// Takes a row out of the lists; its slot still tells its id to edges that dangle.
    pub(super) fn retire(&mut self, id: Id) -> Option<u32> {
        let slot = self.index.remove(&id)?;
        self.live.retain(|&other| other != slot);
        Some(slot)
    }

    pub(super) fn row(&self, slot: u32) -> Option<&T> {
        self.rows.get(slot as usize)
    }

    pub(super) fn row_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.rows.get_mut(slot as usize)
    }

    pub(super) fn find(&self, id: Id) -> Option<u32> {
        self.index.get(&id).copied()
    }

    pub(super) fn find_mut(&mut self, id: Id) -> Result<&mut T, NoSuch> {
        let slot = self.find(id).ok_or(NoSuch(id))?;
        self.row_mut(slot).ok_or(NoSuch(id))
    }

    pub(super) fn live(&self) -> &[u32] {
        &self.live
    }

    pub(super) fn is_live(&self, slot: u32) -> bool {
        self.row(slot)
            .is_some_and(|row| self.index.contains_key(&row.id()))
    }

    pub(super) fn live_rows(&self) -> impl Iterator<Item = &T> {
        self.live.iter().filter_map(|&slot| self.row(slot))
    }

    fn rows_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.rows.iter_mut()
    }
}

/// The object that a change names does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no object {0} in this organisation")]
pub struct NoSuch(pub Id);

pub(super) type OrderCache = Mutex<HashMap<(&'static str, String), (u64, Arc<[u32]>)>>;

/// One organisation. Changes are visible to the next request.
#[derive(Debug)]
pub struct Tenant {
    pub(super) seed: u64,
    pub(super) organization: Id,
    pub(super) organization_name: String,
    pub(super) users: Table<User>,
    pub(super) groups: Table<Group>,
    pub(super) apps: Table<App>,
    pub(super) admins: Table<Admin>,
    pub(super) roles: Table<Role>,
    pub(super) list_built_in_roles: bool,
    pub(super) password_policy: PasswordPolicy,
    /// Whether users that are created without a state are staged.
    pub(super) stage_new_users: bool,
    pub(super) jobs: Vec<Job>,
    /// Attributes of edges; most have none.
    pub(super) edge_attributes: BTreeMap<(Bond, u32, u32), Value>,
    /// How many ids of jobs, keys and other details were given away.
    pub(super) details: u64,
    pub(super) generation: u64,
    pub(super) orders: OrderCache,
}

/// A user to add; everything not said is derived from the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewUser {
    /// What the account is like.
    pub status: Status,
    /// The manager's id.
    pub manager: Option<Id>,
}

impl Default for NewUser {
    fn default() -> Self {
        Self {
            status: Status::Active,
            manager: None,
        }
    }
}

impl Tenant {
    /// The id of the organisation, as `x-org-id` names it.
    pub fn organization_id(&self) -> Id {
        self.organization
    }

    /// Ids of all users in the order of creation.
    pub fn user_ids(&self) -> Vec<Id> {
        self.users.live_rows().map(|user| user.id).collect()
    }

    /// Ids of all groups in the order of creation.
    pub fn group_ids(&self) -> Vec<Id> {
        self.groups.live_rows().map(|group| group.id).collect()
    }

    /// Ids of all applications in the order of creation.
    pub fn app_ids(&self) -> Vec<Id> {
        self.apps.live_rows().map(|app| app.id).collect()
    }

    /// Ids of all administrators in the order of creation.
    pub fn admin_ids(&self) -> Vec<Id> {
        self.admins.live_rows().map(|admin| admin.id).collect()
    }

    /// The e-mail address of a user, as the lists show it.
    pub fn email_of(&self, user: Id) -> Option<String> {
        let slot = self.users.find(user)?;
        Some(email(self.users.row(slot)?, slot))
    }

    /// Replaces what passwords must be like.
    pub fn set_password_policy(&mut self, policy: PasswordPolicy) {
        self.password_policy = policy;
        self.touch();
    }

    /// Whether users that are created without a state are staged (at first) or activated.
    pub fn stage_new_users(&mut self, staged: bool) {
        self.stage_new_users = staged;
        self.touch();
    }

    /// Makes a group dynamic automated: its members are the users whose field has this value, now and after each write.
    pub fn set_member_rule(&mut self, group: Id, field: &str, value: &str) -> Result<(), NoSuch> {
        let row = self.groups.find_mut(group)?;
        row.method = MembershipMethod::DynamicAutomated;
        row.rule = Some(Rule {
            fields: vec![(field.to_owned(), value.to_owned())],
            exempted: Vec::new(),
        });
        let filter = serde_json::json!({"field": field, "operator": "eq", "value": value});
        let query =
            serde_json::json!({"queryType": "FilterQuery", "filters": [filter.to_string()]});
        let overrides = row.overrides.get_or_insert_default();
        overrides.insert("memberQuery".to_owned(), Some(query));
        self.touch();
        self.apply_rules();
        Ok(())
    }

    /// Makes the members of every dynamic automated group with a known rule those that the rule says.
    pub(super) fn apply_rules(&mut self) {
        for slot in self.groups.live().to_vec() {
            let Some(group) = self.groups.row(slot) else {
                continue;
            };
            let (MembershipMethod::DynamicAutomated, Some(rule)) = (group.method, &group.rule)
            else {
                continue;
            };
            let members: Vec<u32> = self
                .users
                .live()
                .iter()
                .copied()
                .filter(|&user| {
                    let exempted = self
                        .users
                        .row(user)
                        .is_some_and(|row| rule.exempted.contains(&row.id));
                    if exempted {
                        group.members.contains(&user)
                    } else {
                        rule.fields
                            .iter()
                            .all(|(field, value)| USERS.text(self, user, field) == *value)
                    }
                })
                .collect();
            if members != group.members {
                self.touch();
                if let Some(group) = self.groups.row_mut(slot) {
                    group.members = members;
                }
                self.edge_attributes.retain(|&(bond, from, to), _| {
                    bond != Bond::Member
                        || from != slot
                        || self
                            .groups
                            .row(slot)
                            .is_some_and(|group| group.members.contains(&to))
                });
            }
        }
    }

    /// Links administrators to the users with their e-mail address, unless a user's record names them.
    pub(super) fn link_administrators(&mut self) {
        let mut by_email = HashMap::new();
        let mut by_record = HashMap::new();
        for &slot in self.users.live() {
            if let Some(user) = self.users.row(slot) {
                by_email.insert(email(user, slot).to_lowercase(), slot);
                by_record.insert(user.admin, slot);
            }
        }
        for slot in self.admins.live().to_vec() {
            if let Some(admin) = self.admins.row_mut(slot) {
                admin.user = by_record
                    .get(&slot)
                    .or_else(|| by_email.get(&admin.email.to_lowercase()))
                    .copied()
                    .unwrap_or(NONE);
            }
        }
    }

    /// The moment of the next change: a clock of its own, so that the same requests give the same answers.
    pub(super) fn now(&self) -> Timestamp {
        const AUTUMN_2026: i64 = 1_790_848_800;
        let seconds = i64::try_from(self.generation).unwrap_or(0);
        Timestamp::from_second(AUTUMN_2026.saturating_add(seconds)).unwrap_or_default()
    }

    /// The id of a new job, key or other detail.
    pub(super) fn detail_id(&mut self, kind: IdKind) -> Id {
        self.details += 1;
        // Far from the details of generated users, which count from their slots.
        Id::derive(self.seed, kind, (1 << 48) | self.details)
    }

    /// A copy as it is now.
    pub(super) fn snapshot(&self) -> Self {
        Self {
            seed: self.seed,
            organization: self.organization,
            organization_name: self.organization_name.clone(),
            users: self.users.clone(),
            groups: self.groups.clone(),
            apps: self.apps.clone(),
            admins: self.admins.clone(),
            roles: self.roles.clone(),
            list_built_in_roles: self.list_built_in_roles,
            password_policy: self.password_policy.clone(),
            stage_new_users: self.stage_new_users,
            jobs: self.jobs.clone(),
            edge_attributes: self.edge_attributes.clone(),
            details: self.details,
            generation: self.generation,
            orders: OrderCache::default(),
        }
    }

    /// Adds a user and returns its id.
    pub fn add_user(&mut self, user: NewUser) -> Result<Id, NoSuch> {
        let manager = match user.manager {
            Some(id) => self.users.find(id).ok_or(NoSuch(id))?,
            None => NONE,
        };
        let slot = self.users.next_slot();
        let row = new_user(self.seed, slot, user.status, manager);
        let id = row.id;
        self.users.push(row);
        self.touch();
        Ok(id)
    }

    /// Deletes a user with its memberships, bindings and linked administrator; `manager` fields keep naming it.
    pub fn remove_user(&mut self, id: Id) -> Result<(), NoSuch> {
        let slot = self.users.retire(id).ok_or(NoSuch(id))?;
        for group in self.groups.rows_mut() {
            group.members.retain(|&member| member != slot);
        }
        for app in self.apps.rows_mut() {
            app.users.retain(|&user| user != slot);
        }
        let linked = self.users.row(slot).map_or(NONE, |user| user.admin);
        if let Some(admin) = self.admins.row(linked).map(|admin| admin.id) {
            self.admins.retire(admin);
        }
        self.jobs.retain(|job| job.user != slot);
        self.edge_attributes.retain(|&(bond, _, to), _| {
            !matches!(bond, Bond::Member | Bond::AppUser) || to != slot
        });
        self.touch();
        Ok(())
    }

    /// Deletes a user but leaves its edges behind, as the real graph does for a while.
    pub fn remove_user_leaving_edges(&mut self, id: Id) -> Result<(), NoSuch> {
        self.users.retire(id).ok_or(NoSuch(id))?;
        self.touch();
        Ok(())
    }

    /// Changes what the account of a user is like.
    pub fn set_status(&mut self, user: Id, status: Status) -> Result<(), NoSuch> {
        self.users.find_mut(user)?.status = status;
        self.touch();
        Ok(())
    }

    /// Sets or removes the manager of a user.
    pub fn set_manager(&mut self, user: Id, manager: Option<Id>) -> Result<(), NoSuch> {
        let slot = match manager {
            Some(id) => self.users.find(id).ok_or(NoSuch(id))?,
            None => NONE,
        };
        self.users.find_mut(user)?.manager = slot;
        self.touch();
        Ok(())
    }

    /// Adds an empty group and returns its id.
    pub fn add_group(&mut self, name: &str, method: MembershipMethod) -> Id {
        let slot = self.groups.next_slot();
        let row = new_group(self.seed, slot, name.to_owned(), method, Vec::new());
        let id = row.id;
        self.groups.push(row);
        self.touch();
        id
    }

    /// Deletes a group with its bindings.
    pub fn remove_group(&mut self, id: Id) -> Result<(), NoSuch> {
        let slot = self.groups.retire(id).ok_or(NoSuch(id))?;
        for group in self.groups.rows_mut() {
            group.nested.retain(|&nested| nested != slot);
        }
        for app in self.apps.rows_mut() {
            app.groups.retain(|&group| group != slot);
        }
        self.edge_attributes
            .retain(|&(bond, from, to), _| match bond {
                Bond::Member => from != slot,
                Bond::AppGroup => to != slot,
                Bond::AppUser => true,
            });
        self.touch();
        Ok(())
    }

    /// Replaces the members of a group.
    pub fn set_members(&mut self, group: Id, members: &[Id]) -> Result<(), NoSuch> {
        let slots = slots(&self.users, members)?;
        self.groups.find_mut(group)?.members = slots;
        self.touch();
        Ok(())
    }

    /// Changes who decides about the members of a group.
    pub fn set_membership_method(&mut self, group: Id, to: MembershipMethod) -> Result<(), NoSuch> {
        self.groups.find_mut(group)?.method = to;
        self.touch();
        Ok(())
    }

    /// Replaces the groups that are members of a group.
    pub fn set_nested_groups(&mut self, group: Id, nested: &[Id]) -> Result<(), NoSuch> {
        let slots = slots(&self.groups, nested)?;
        self.groups.find_mut(group)?.nested = slots;
        self.touch();
        Ok(())
    }

    /// Replaces the groups and users that are bound to an application.
    pub fn set_app_bindings(&mut self, app: Id, groups: &[Id], users: &[Id]) -> Result<(), NoSuch> {
        let groups = slots(&self.groups, groups)?;
        let users = slots(&self.users, users)?;
        let row = self.apps.find_mut(app)?;
        row.groups = groups;
        row.users = users;
        self.touch();
        Ok(())
    }

    /// Deletes an application.
    pub fn remove_app(&mut self, id: Id) -> Result<(), NoSuch> {
        self.apps.retire(id).ok_or(NoSuch(id))?;
        self.touch();
        Ok(())
    }

    /// Replaces the roles of an administrator; the names need not be in the list of roles.
    pub fn set_admin_roles(&mut self, admin: Id, roles: &[&str]) -> Result<(), NoSuch> {
        self.admins.find_mut(admin)?.roles = roles.iter().map(|&name| name.to_owned()).collect();
        self.touch();
        Ok(())
    }

    /// Deletes an administrator.
    pub fn remove_admin(&mut self, id: Id) -> Result<(), NoSuch> {
        let slot = self.admins.retire(id).ok_or(NoSuch(id))?;
        for user in self.users.rows_mut() {
            if user.admin == slot {
                user.admin = NONE;
            }
        }
        self.touch();
        Ok(())
    }

    /// Gives one field of any object a value, or takes the field out of its answers.
    ///
    /// For what the other methods do not model (odd values, unknown fields). [`super::Truth`] does not look at it.
    pub fn set_field(&mut self, id: Id, field: &str, value: Option<Value>) -> Result<(), NoSuch> {
        let overrides = if let Ok(user) = self.users.find_mut(id) {
            &mut user.overrides
        } else if let Ok(group) = self.groups.find_mut(id) {
            &mut group.overrides
        } else if let Ok(app) = self.apps.find_mut(id) {
            &mut app.overrides
        } else {
            &mut self.admins.find_mut(id)?.overrides
        };
        overrides
            .get_or_insert_default()
            .insert(field.to_owned(), value);
        self.touch();
        Ok(())
    }

    pub(super) fn touch(&mut self) {
        self.generation += 1;
    }

    /// The slots of the roles that the list of roles shows.
    pub(super) fn listed_roles(&self) -> Vec<u32> {
        self.roles
            .live()
            .iter()
            .copied()
            .filter(|&slot| {
                self.list_built_in_roles || self.roles.row(slot).is_some_and(|role| role.custom)
            })
            .collect()
    }
}

fn slots<T: Identified>(table: &Table<T>, ids: &[Id]) -> Result<Vec<u32>, NoSuch> {
    ids.iter()
        .map(|&id| table.find(id).ok_or(NoSuch(id)))
        .collect()
}

pub(super) fn new_user(seed: u64, slot: u32, status: Status, manager: u32) -> User {
    let number = u64::from(slot);
    User {
        id: Id::derive(seed, IdKind::User, number),
        salt: mix(seed ^ mix(number ^ 0x5a17)),
        status,
        manager,
        admin: NONE,
        password: None,
        overrides: None,
    }
}

pub(super) fn new_group(
    seed: u64,
    slot: u32,
    name: String,
    method: MembershipMethod,
    members: Vec<u32>,
) -> Group {
    let number = u64::from(slot);
    Group {
        id: Id::derive(seed, IdKind::Group, number),
        salt: mix(seed ^ mix(number ^ 0x6709)),
        name,
        method,
        members,
        nested: Vec::new(),
        rule: None,
        overrides: None,
    }
}

/// Given name, family name and user name of the user in a slot. User names are unique by construction: the slots walk
/// over all pairs of names, and each further round adds its number.
pub(super) fn person(slot: u32) -> (&'static str, &'static str, String) {
    const PAIRS: u64 = (names::FIRST.len() * names::LAST.len()) as u64;
    // 1,013 is prime and divides neither table's length: every pair comes once per round.
    let pair = u64::from(slot) * 1_013 % PAIRS;
    let round = u64::from(slot) / PAIRS;
    let (first, first_plain) = pick(&names::FIRST, pair);
    let (last, last_plain) = pick(&names::LAST, pair / names::FIRST.len() as u64);
    let user_name = if round == 0 {
        format!("{first_plain}.{last_plain}")
    } else {
        format!("{first_plain}.{last_plain}{}", round + 1)
    };
    (first, last, user_name)
}

/// The e-mail address of a user as it is now.
fn email(user: &User, slot: u32) -> String {
    let written = user.overrides.as_deref().and_then(|map| map.get("email"));
    match written {
        Some(value) => {
            let text = value.as_ref().and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        }
        None => user_email(user, slot),
    }
}

/// The e-mail address of a generated user; some are written with capitals.
pub(super) fn user_email(user: &User, slot: u32) -> String {
    let (.., name) = person(slot);
    // One in sixteen.
    if (user.salt >> 20).is_multiple_of(16) {
        let mut capital = String::with_capacity(name.len() + 12);
        let mut start = true;
        for letter in name.chars() {
            capital.push(if start {
                letter.to_ascii_uppercase()
            } else {
                letter
            });
            start = letter == '.';
        }
        capital + "@Example.com"
    } else {
        name + "@example.com"
    }
}
