//! Administrator roles: those of the roles endpoint, the built-in ones and those seen on administrators, in one list.
//!
//! Invariant: every role that an administrator holds is in the list, so no grant dangles, whatever the key may read.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    JumpCloud,
    administrators::Administrators,
    client::{Convention, List},
    ids::{ROLE, entitlement_id, resource_id},
    listing::{Keep, Omitted, Record, read, row_to_json},
    profile::{Profile, clip, description, display_name, filled, phrase},
    session::{Session, Warning},
    survey::Read,
    wire,
};
use crate::{
    connector::{Error, Page},
    error::{Classify, Code},
    proto::{
        connector::{self as v2, entitlement::PurposeValue},
        pack,
    },
};

/// The roles that every organisation has; the first seven are those of the official connector, in its order.
const BUILT_IN: [&str; 9] = [
    "Administrator With Billing",
    "Administrator",
    "Manager",
    "Command Runner With Billing",
    "Command Runner",
    "Help Desk",
    "Read Only",
    "Billing Only",
    "Asset Manager",
];

/// The resource id of a role: its name in lower case, each run of other characters one underscore.
pub(super) fn role_id(name: &str) -> String {
    let mut id = String::from("role_");
    let mut gap = false;
    for character in name.trim().to_lowercase().chars() {
        if character.is_ascii_alphanumeric() {
            id.push(character);
            gap = false;
        } else if !gap {
            id.push('_');
            gap = true;
        }
    }
    clip(&id, 256)
}

/// All roles of a sync, in the order in which they are listed.
#[derive(Debug, Default)]
pub(super) struct Roles {
    roles: Vec<Role>,
    position: HashMap<String, usize>,
}

#[derive(Debug, Default)]
struct Role {
    id: String,
    name: String,
    built_in: bool,
    jumpcloud_ids: Vec<String>,
    description: String,
    scopes: BTreeSet<String>,
}

impl Roles {
    /// Joins the three sources; returns also the names that share the id of another name.
    fn join(listed: &[wire::Role], administrators: &Administrators) -> (Self, Vec<String>) {
        let mut roles = Self::default();
        let mut shared = Vec::new();
        for name in BUILT_IN {
            roles.entry(name).built_in = true;
        }
        let mut named: HashSet<String> = HashSet::new();
        for row in listed {
            let Some(name) = filled(row.name.as_deref()) else {
                continue;
            };
            let first = named.insert(role_id(name));
            let role = roles.entry(name);
            if first {
                // JumpCloud's own spelling wins over ours.
                name.trim().clone_into(&mut role.name);
                role.description = description(row.description.as_deref());
            } else if role.name != name.trim() {
                shared.push(name.trim().to_owned());
            }
            role.jumpcloud_ids
                .extend(filled(row.id.as_deref()).map(str::to_owned));
            for scope in wire::texts(&row.scopes) {
                role.scopes.insert(scope.to_owned());
            }
        }
        for account in &administrators.accounts {
            for name in account.roles() {
                roles.entry(name);
            }
        }
        (roles, shared)
    }

    fn entry(&mut self, name: &str) -> &mut Role {
        let id = role_id(name);
        let next = self.roles.len();
        let position = *self.position.entry(id.clone()).or_insert(next);
        if position == next {
            self.roles.push(Role {
                id,
                name: name.trim().to_owned(),
                ..Role::default()
            });
        }
        #[expect(
            clippy::indexing_slicing,
            reason = "positions are those of pushed roles"
        )]
        &mut self.roles[position]
    }

    fn find(&self, id: &str) -> Option<&Role> {
        self.position
            .get(id)
            .and_then(|position| self.roles.get(*position))
    }
}

/// A role as JumpCloud lists it; one without a name is of no use.
struct ListedRole(wire::Role);

impl Record for ListedRole {
    type Row = wire::Role;
    /// Id and name, of which either may be missing.
    type Key = (Option<String>, Option<String>);
    const MAY_BE_GONE: bool = true;

    fn of(row: wire::Role) -> Result<Self, Omitted> {
        Ok(Self(row))
    }

    fn key(&self) -> Self::Key {
        (self.0.id.clone(), self.0.name.clone())
    }

    fn encode(&self) -> Vec<u8> {
        row_to_json(&self.0)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().map(Self)
    }
}

impl JumpCloud {
    async fn roles(&self, session: &Session) -> Result<Arc<Roles>, Error> {
        session
            .roles
            .get_or_try_init(|| self.read_roles(session))
            .await
            .cloned()
    }

    async fn read_roles(&self, session: &Session) -> Result<Arc<Roles>, Error> {
        let administrators = self.administrators(session).await?;
        // An organisation has a few dozen roles at most, which is one page: no order is asked for, and the endpoint
        // documents none.
        let list = List {
            template: "/api/v2/roles",
            ids: Vec::new(),
            query: Vec::new(),
            convention: Convention::Wrapped,
        };
        let mut listed = Vec::new();
        let keep = Keep::durably(session, "roles.list");
        let mut look = async || {
            listed.clear();
            let take = |ListedRole(row)| listed.push(row);
            read::<ListedRole>(&self.client, session, keep, list.clone(), take).await
        };
        let is_refused =
            |error: &Error| matches!(error.code(), Code::PermissionDenied | Code::NotFound);
        let mut found = look().await;
        // An edge that refuses or finds nothing for a moment is no lack of a permission.
        if found.as_ref().is_err_and(is_refused) {
            self.expect_list(&Read::Administrators).await?;
            found = look().await;
        }
        match found {
            Ok(_) => {}
            Err(error) if is_refused(&error) => session.warn(Warning::RolesUnreadable, ""),
            Err(error) => return Err(error),
        }
        let (roles, shared) = Roles::join(&listed, &administrators);
        for name in shared {
            session.warn(Warning::RolesMerged, &name);
        }
        Ok(Arc::new(roles))
    }

    /// All roles; there are never many.
    pub(super) async fn list_roles(&self, session: &Session) -> Result<Page<v2::Resource>, Error> {
        let roles = self.roles(session).await?;
        Ok(Page::last(roles.roles.iter().map(resource).collect()))
    }

    /// One role by resource id.
    pub(super) async fn get_role(
        &self,
        session: &Session,
        id: &str,
    ) -> Result<v2::Resource, Error> {
        let roles = self.roles(session).await?;
        roles.find(id).map(resource).ok_or_else(|| Error::NotFound {
            what: format!("role {}", clip(id, 64)),
        })
    }

    /// Who holds a role.
    pub(super) async fn list_holders(
        &self,
        session: &Session,
        id: &str,
    ) -> Result<Page<v2::Grant>, Error> {
        self.grants_of_administrators(session, ROLE, id, |account| {
            account.roles().into_iter().any(|name| role_id(name) == id)
        })
        .await
    }
}

/// The entitlement of a role.
pub(super) fn entitlement(role: &v2::Resource, id: &str) -> v2::Entitlement {
    let name = role.display_name.as_str();
    v2::Entitlement {
        id: entitlement_id(ROLE, id),
        resource: Some(role.clone()),
        display_name: phrase("", name, " Role Member"),
        description: phrase("Member of ", name, " role"),
        grantable_to: vec![super::capabilities::user_type()],
        purpose: PurposeValue::Permission.into(),
        slug: "member".to_owned(),
        annotations: Vec::new(),
    }
}

fn resource(role: &Role) -> v2::Resource {
    let mut profile = Profile::default();
    profile
        .text("name", Some(&role.name))
        .flag("built_in", Some(role.built_in))
        .list(
            "jumpcloud_role_ids",
            role.jumpcloud_ids.iter().map(String::as_str),
        )
        .list("scopes", role.scopes.iter().map(String::as_str));
    let profile = profile.into_struct();
    #[expect(deprecated, reason = "older readers of the file look here")]
    let trait_ = v2::RoleTrait {
        profile: Some(profile.clone()),
        ..v2::RoleTrait::default()
    };
    v2::Resource {
        id: Some(resource_id(ROLE, &role.id)),
        display_name: display_name([Some(role.name.as_str())], &role.id),
        description: role.description.clone(),
        annotations: vec![pack(&trait_)],
        profile: Some(profile),
        ..v2::Resource::default()
    }
}
