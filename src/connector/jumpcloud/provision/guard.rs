//! What must not happen to directory users who administer JumpCloud.
//!
//! The administrator of a directory user is found by JumpCloud's own record, else by the e-mail address. Where an address
//! fits several, all of them count: a guard errs on the side of refusing.

use super::{
    super::{
        JumpCloud,
        administrators::{Account, Administrators, email_key},
        profile::{clip, filled},
        roles::role_id,
        session::Session,
        wire,
    },
    administration::{BILLING, role_ids},
};
use crate::connector::Error;

impl JumpCloud {
    /// Refuses what would lock out the person whose key this connector uses.
    pub(super) async fn spare_owner(&self, row: &wire::SystemUser) -> Result<(), Error> {
        let administrators = self.administrators(&Session::default()).await?;
        for account in administrators_of(row, &administrators) {
            self.spare_key_owner(account).await?;
        }
        Ok(())
    }

    /// Refuses to delete a directory user whose administrator, which JumpCloud deletes with it, has to stay.
    pub(super) async fn spare_administrator(&self, row: &wire::SystemUser) -> Result<(), Error> {
        let user = row.id().unwrap_or_default();
        let administrators = self.administrators(&Session::default()).await?;
        let linked: Vec<&Account> = administrators_of(row, &administrators).collect();
        let names: Vec<&str> = match (linked.as_slice(), linked_id(row)) {
            ([], Some(unseen)) => vec![unseen],
            (seen, _) => seen.iter().map(|account| account.id.as_str()).collect(),
        };
        if names.is_empty() {
            return Ok(());
        }
        let names = clip(&names.join(", "), 256);
        if !self.settings.allowed.administrator_roles {
            return Err(Error::Refused {
                what: format!(
                    "user {user} is also administrator {names}, which would be deleted with the user; allow that with \
                     --allow-administrator-roles (BATON_ALLOW_ADMINISTRATOR_ROLES), or suspend the user instead"
                ),
            });
        }
        for account in &linked {
            self.spare_key_owner(account).await?;
        }
        let stays = |account: &&Account| !linked.iter().any(|gone| gone.id == account.id);
        let others = administrators.accounts.iter().filter(stays).any(bills);
        if !others && linked.iter().any(|account| bills(account)) {
            return Err(Error::Refused {
                what: format!(
                    "user {user} is administrator {names}, the last one with the role {BILLING} who is not suspended: \
                     give the role to somebody else first"
                ),
            });
        }
        Ok(())
    }
}

/// Whether this administrator can keep the organisation administered.
pub(super) fn bills(account: &Account) -> bool {
    account.row.suspended != Some(true) && role_ids(account).contains(&role_id(BILLING))
}

/// The id of the administrator that JumpCloud's record of a user names.
pub(super) fn linked_id(row: &wire::SystemUser) -> Option<&str> {
    row.admin
        .as_ref()
        .and_then(|admin| filled(admin.id.as_deref()))
}

fn administrators_of<'a>(
    row: &wire::SystemUser,
    administrators: &'a Administrators,
) -> impl Iterator<Item = &'a Account> {
    let named = linked_id(row).map(str::to_owned);
    let address = email_key(row.email.as_deref());
    administrators
        .accounts
        .iter()
        .filter(move |account| match &named {
            Some(named) => *named == account.id,
            None => address.is_some() && address == email_key(account.row.email.as_deref()),
        })
}
