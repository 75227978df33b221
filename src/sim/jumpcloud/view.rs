//! Looks at the first organisation as it is now, whatever reads are shown: what tests ask after a write.

use secrecy::SecretString;
use serde_json::Value;

use super::{
    JumpCloudSim,
    id::Id,
    render::{GROUPS, Kind, USERS},
    tenant::{Admin, Tenant},
};

/// An administrator as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Administrator {
    /// Its id.
    pub id: Id,
    /// Its e-mail address.
    pub email: String,
    /// All role names, the main one first.
    pub roles: Vec<String>,
    /// The same person's directory user.
    pub user: Option<Id>,
}

impl Tenant {
    fn object(&self, kind: &Kind, id: Id) -> Option<Value> {
        let mut body = Vec::new();
        let slot = (kind.find)(self, id)?;
        kind.write(self, slot, &kind.projected(None), None, &mut body);
        serde_json::from_slice(&body).ok()
    }

    fn find_administrator(&self, is: impl Fn(&Admin) -> bool) -> Option<Administrator> {
        let admin = self.admins.live_rows().find(|admin| is(admin))?;
        let user = self.users.row(admin.user);
        Some(Administrator {
            id: admin.id,
            email: admin.email.clone(),
            roles: admin.roles.clone(),
            user: user
                .filter(|_| self.users.is_live(admin.user))
                .map(|user| user.id),
        })
    }
}

impl JumpCloudSim {
    /// A directory user, with all the fields that `GET /api/systemusers/{id}` shows.
    pub fn user(&self, id: Id) -> Option<Value> {
        self.inspect(|tenant| tenant.object(&USERS, id)).flatten()
    }

    /// The directory user with this username, whatever the case.
    pub fn user_by_username(&self, username: &str) -> Option<Value> {
        let wanted = username.to_lowercase();
        self.inspect(|tenant| {
            let mut slots = tenant.users.live().iter().copied();
            let slot = slots
                .find(|&slot| USERS.text(tenant, slot, "username").to_lowercase() == wanted)?;
            tenant.object(&USERS, tenant.users.row(slot)?.id)
        })
        .flatten()
    }

    /// How many directory users there are.
    pub fn users_count(&self) -> usize {
        self.inspect(|tenant| tenant.users.live().len())
            .unwrap_or(0)
    }

    /// The password that was written last for a user; `None` when none ever was.
    pub fn password_of(&self, user: Id) -> Option<SecretString> {
        self.inspect(|tenant| {
            let slot = tenant.users.find(user)?;
            tenant.users.row(slot)?.password.clone()
        })
        .flatten()
    }

    /// A group, with all the fields that `GET /api/v2/usergroups/{id}` shows.
    pub fn group(&self, id: Id) -> Option<Value> {
        self.inspect(|tenant| tenant.object(&GROUPS, id)).flatten()
    }

    /// Whether a user is a member of a group.
    pub fn is_member(&self, group: Id, user: Id) -> bool {
        self.inspect(|tenant| {
            let group = tenant.groups.row(tenant.groups.find(group)?)?;
            Some(group.members.contains(&tenant.users.find(user)?))
        })
        .flatten()
        .unwrap_or(false)
    }

    /// Whether an application is bound directly to a `user` or a `user_group`.
    pub fn has_association(&self, app: Id, kind: &str, id: Id) -> bool {
        self.inspect(|tenant| {
            let app = tenant.apps.row(tenant.apps.find(app)?)?;
            match kind {
                "user" => Some(app.users.contains(&tenant.users.find(id)?)),
                "user_group" => Some(app.groups.contains(&tenant.groups.find(id)?)),
                _ => None,
            }
        })
        .flatten()
        .unwrap_or(false)
    }

    /// An administrator.
    pub fn administrator(&self, id: Id) -> Option<Administrator> {
        self.inspect(|tenant| tenant.find_administrator(|admin| admin.id == id))
            .flatten()
    }

    /// The administrator with this e-mail address, whatever the case.
    pub fn administrator_by_email(&self, email: &str) -> Option<Administrator> {
        let wanted = email.to_lowercase();
        self.inspect(|tenant| {
            tenant.find_administrator(|admin| admin.email.to_lowercase() == wanted)
        })
        .flatten()
    }
}
