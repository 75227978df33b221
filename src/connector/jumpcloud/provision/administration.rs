//! Who administers JumpCloud, and in which roles.
//!
//! Roles belong to administrators, so a first role makes an administrator and the last one to go takes it along. Every
//! decision is taken on a fresh list of all administrators, and every change is read back from another one.
//!
//! Invariants: nothing is written unless the operator allows administrator roles; the administrator who owns the key in
//! use is never changed; the last one who is not suspended and has the role Administrator With Billing keeps it.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value as Json, json};

use super::{
    super::{
        JumpCloud,
        administrators::{Account, Administrators, email_key},
        client::{Method, Repeat},
        ids::{APP, GROUP, ROLE, USER, grant},
        profile::{clip, filled, text_of},
        roles::role_id,
        session::Session,
        users::email,
        wire,
    },
    Named, Wish,
    accounts::is_duplicate,
    already,
    confirm::{confirm, confirm_edge, settle},
    guard::{bills, linked_id},
    plan, planned,
};
use crate::{
    connector::{
        Error,
        provision::{Change, Done},
    },
    error::{Classify as _, Code},
    proto::{connector as v2, pack},
};

/// The role without which nobody can administer the organisation.
pub(super) const BILLING: &str = "Administrator With Billing";
const CREATE: &str = "administrator.create";
/// The role that errors name as an example.
const EXAMPLE: &str = "Help Desk";

/// Who a request about administration is about.
#[derive(Debug)]
enum Who<'a> {
    Administrator {
        account: &'a Account,
        /// The directory user that the request named, if it did not name the administrator.
        person: Option<&'a str>,
    },
    /// A directory user who is no administrator.
    Person(Box<wire::SystemUser>),
    /// Neither.
    Nobody,
}

pub(super) fn role_ids(account: &Account) -> BTreeSet<String> {
    account.roles().into_iter().map(role_id).collect()
}

impl JumpCloud {
    /// Gives an administrator role to an administrator or directory user, or takes it away.
    ///
    /// The role of somebody who is no administrator, or does not exist any more, counts as revoked: the last role takes
    /// its administrator along.
    pub(super) async fn set_role(
        &self,
        wish: Wish,
        role: Named<'_>,
        whom: Named<'_>,
        change: Change<'_>,
    ) -> Result<Done<Vec<v2::Grant>>, Error> {
        if !self.settings.allowed.administrator_roles {
            return Err(Error::Refused {
                what:
                    "granting and revoking administrator roles is switched off; switch it on with \
                       --allow-administrator-roles (BATON_ALLOW_ADMINISTRATOR_ROLES)"
                        .to_owned(),
            });
        }
        let session = Session::default();
        let ours = change.earlier.is_some_and(|plan| plan.operation == CREATE);
        let made = if ours && wish.wants() {
            self.made(whom.id).await?
        } else {
            None
        };
        let administrators = match made {
            Some(administrators) => administrators,
            None => self.administrators(&session).await?,
        };
        match (wish, self.who(&administrators, whom.id).await?) {
            (wish, Who::Administrator { account, person }) => {
                let scene = Scene {
                    administrators: &administrators,
                    account,
                    principal: self.principal_of(account, person),
                    role,
                    whom,
                    change,
                };
                match wish {
                    Wish::Grant => self.add_role(&session, scene).await,
                    Wish::Revoke => self.remove_role(scene).await,
                }
            }
            (Wish::Grant, Who::Person(row)) => {
                self.make_administrator(&session, &row, role, whom, change)
                    .await
            }
            (Wish::Grant, Who::Nobody) => Err(not_found(whom)),
            (Wish::Revoke, Who::Person(_) | Who::Nobody) => {
                Ok(Done::unwritten(Vec::new(), already(change)))
            }
        }
    }

    /// Answers for the application that stands for the administration: who has any role has it.
    pub(super) async fn set_administration(
        &self,
        wish: Wish,
        app: Named<'_>,
        whom: Named<'_>,
        change: Change<'_>,
    ) -> Result<Done<Vec<v2::Grant>>, Error> {
        if whom.kind == GROUP {
            return Err(Error::Invalid {
                what:
                    "principal.id.resource_type is group: JumpCloud is administered by users only"
                        .to_owned(),
            });
        }
        let session = Session::default();
        let administrators = self.administrators(&session).await?;
        let value = match (wish, self.who(&administrators, whom.id).await?) {
            (Wish::Grant, Who::Administrator { account, person }) => {
                let principal = self.principal_of(account, person);
                vec![grant(APP, app.id, USER, principal, Vec::new())]
            }
            (Wish::Grant, Who::Person(_)) => {
                return Err(Error::Refused {
                    what: format!(
                        "this application stands for the administration of JumpCloud and is not granted itself: grant \
                         user {} an administrator role, such as {EXAMPLE} ({})",
                        whom.id,
                        role_id(EXAMPLE)
                    ),
                });
            }
            (Wish::Grant, Who::Nobody) => return Err(not_found(whom)),
            (Wish::Revoke, Who::Administrator { account, .. }) => {
                let roles: Vec<String> = account
                    .roles()
                    .into_iter()
                    .map(|name| format!("{} ({})", clip(name, 128), role_id(name)))
                    .collect();
                return Err(Error::Refused {
                    what: format!(
                        "this application stands for the administration of JumpCloud and is not revoked itself: revoke \
                         the administrator roles of user {}, which are {}",
                        whom.id,
                        roles.join(", ")
                    ),
                });
            }
            (Wish::Revoke, Who::Person(_) | Who::Nobody) => Vec::new(),
        };
        Ok(Done::unwritten(value, already(change)))
    }

    async fn add_role(
        &self,
        session: &Session,
        scene: Scene<'_>,
    ) -> Result<Done<Vec<v2::Grant>>, Error> {
        let Scene { account, role, .. } = scene;
        let before = role_ids(account);
        if before.contains(role.id) {
            let grant = scene.grant(&planned_before(scene.change), &before);
            return Ok(Done::unwritten(grant, already(scene.change)));
        }
        let name = self.role_name(session, role.id).await?;
        // An administrator without a list of roles lives in an organisation that knows one role each.
        let one_only = wire::texts(&account.row.role_names).next().is_none();
        let mut after = BTreeSet::from([role.id.to_owned()]);
        let body = if one_only {
            json!({ "roleName": name })
        } else {
            after.extend(before.iter().cloned());
            let mut names = account.roles();
            names.push(&name);
            json!({ "roleNames": names })
        };
        self.spare(scene, &before, &after).await?;
        let plan = plan(
            "administrator.role.add",
            scene.whom,
            role,
            state(Some(&account.id), &before),
            state(Some(&account.id), &after),
        );
        if let Some(planned) = planned(&plan, scene.change, || scene.grant(&before, &after)).await?
        {
            return Ok(planned);
        }
        let written = self.put_administrator(&account.id, &body).await;
        let what = format!("giving role {} to administrator {}", role.id, account.id);
        let look = || async {
            let now = self.administrators(&Session::default()).await?;
            let roles = now.find(&account.id).map(role_ids);
            Ok(roles.filter(|roles| roles.contains(role.id)))
        };
        let (now, request_id) = confirm(&what, written, look).await?;
        Ok(Done::written(scene.grant(&before, &now), request_id))
    }

    async fn remove_role(&self, scene: Scene<'_>) -> Result<Done<Vec<v2::Grant>>, Error> {
        let Scene { account, role, .. } = scene;
        let before = role_ids(account);
        if !before.contains(role.id) {
            return Ok(Done::unwritten(Vec::new(), already(scene.change)));
        }
        let names: Vec<&str> = account
            .roles()
            .into_iter()
            .filter(|name| role_id(name) != role.id)
            .collect();
        let after: BTreeSet<String> = names.iter().map(|name| role_id(name)).collect();
        self.spare(scene, &before, &after).await?;
        let last = names.is_empty();
        let (operation, left) = if last {
            ("administrator.delete", None)
        } else {
            ("administrator.role.remove", Some(account.id.as_str()))
        };
        let plan = plan(
            operation,
            scene.whom,
            role,
            state(Some(&account.id), &before),
            state(left, &after),
        );
        if let Some(planned) = planned(&plan, scene.change, Vec::new).await? {
            return Ok(planned);
        }
        let look = || async {
            let now = self.administrators(&Session::default()).await?;
            let gone = match now.find(&account.id) {
                None => true,
                Some(account) => !last && !role_ids(account).contains(role.id),
            };
            Ok(gone)
        };
        let request_id = if last {
            let written = self
                .order(
                    Method::Delete,
                    "/api/users/{id}",
                    &[&account.id],
                    "delete administrators",
                )
                .await;
            let what = format!("deleting administrator {}", account.id);
            confirm_edge(&what, written, look).await?
        } else {
            let written = self
                .put_administrator(&account.id, &json!({ "roleNames": names }))
                .await;
            let what = format!("taking role {} from administrator {}", role.id, account.id);
            confirm_edge(&what, written, look).await?
        };
        Ok(Done::written(Vec::new(), request_id))
    }

    /// Makes a directory user an administrator with one role.
    async fn make_administrator(
        &self,
        session: &Session,
        row: &wire::SystemUser,
        role: Named<'_>,
        whom: Named<'_>,
        change: Change<'_>,
    ) -> Result<Done<Vec<v2::Grant>>, Error> {
        let name = self.role_name(session, role.id).await?;
        let address = email(row.email.as_deref()).ok_or_else(|| Error::Refused {
            what: format!(
                "user {} has no e-mail address, which every administrator needs: give the user one first",
                whom.id
            ),
        })?;
        let after = BTreeSet::from([role.id.to_owned()]);
        let plan = plan(
            CREATE,
            whom,
            role,
            state(None, &BTreeSet::new()),
            state(Some("new"), &after),
        );
        let value = |principal: &str| vec![grant(ROLE, role.id, USER, principal, Vec::new())];
        if let Some(planned) = planned(&plan, change, || value(whom.id)).await? {
            return Ok(planned);
        }
        let mut body = json!({ "email": address, "roleName": name });
        for (key, text) in [("firstname", &row.firstname), ("lastname", &row.lastname)] {
            if let (Some(fields), Some(text)) = (body.as_object_mut(), filled(text.as_deref())) {
                fields.insert(key.to_owned(), text.into());
            }
        }
        let written = self
            .send(
                Method::Post,
                "/api/users",
                &[],
                Some(&body),
                Repeat::UnlessSent,
                "create administrators",
            )
            .await;
        let wanted = email_key(Some(address));
        let look = || async {
            let now = self.administrators(&Session::default()).await?;
            let made = now.accounts.iter().find(|account| {
                email_key(account.row.email.as_deref()) == wanted
                    && role_ids(account).contains(role.id)
            });
            Ok(made.map(|account| account.id.clone()))
        };
        let what = format!("making user {} an administrator", whom.id);
        let value_of = |id: &str| {
            let merged = self.settings.merge_administrators;
            value(if merged { whom.id } else { id })
        };
        match written {
            // It exists, by an earlier attempt or somebody else, and the list from which this one began did not show it.
            Err(error) if is_duplicate(&error) => match settle(look).await? {
                Some(id) => Ok(Done::unwritten(value_of(&id), already(change))),
                None => Err(error),
            },
            written => {
                let (id, request_id) = confirm(&what, written, look).await?;
                Ok(Done::written(value_of(&id), request_id))
            }
        }
    }

    /// The administrators, once the one shows whom an earlier attempt may have made of this user.
    async fn made(&self, user: &str) -> Result<Option<Arc<Administrators>>, Error> {
        settle(|| async {
            let now = self.administrators(&Session::default()).await?;
            let shows = match self.who(&now, user).await {
                Ok(who) => matches!(who, Who::Administrator { .. }),
                // The user may show the link to an administrator before the list shows the administrator.
                Err(Error::Refused { .. }) => false,
                Err(error) => return Err(error),
            };
            Ok(shows.then_some(now))
        })
        .await
    }

    async fn put_administrator(&self, id: &str, body: &Json) -> Result<Option<String>, Error> {
        self.send(
            Method::Put,
            "/api/users/{id}",
            &[id],
            Some(body),
            Repeat::Always,
            "change the roles of administrators",
        )
        .await
    }

    /// Finds who an id stands for, by the links that a sync finds: JumpCloud's own record, else the e-mail address.
    async fn who<'a>(
        &self,
        administrators: &'a Administrators,
        id: &'a str,
    ) -> Result<Who<'a>, Error> {
        if let Some(account) = administrators.find(id) {
            return Ok(Who::Administrator {
                account,
                person: None,
            });
        }
        let Some(row) = self.find_person(id).await? else {
            return Ok(Who::Nobody);
        };
        let person = Some(id);
        if let Some(linked) = linked_id(&row) {
            return match administrators.find(linked) {
                Some(account) => Ok(Who::Administrator { account, person }),
                None => Err(Error::Refused {
                    what: format!(
                        "user {id} is linked to administrator {}, whom the JumpCloud key cannot see: use a key that can",
                        clip(linked, 64)
                    ),
                }),
            };
        }
        let address = email_key(row.email.as_deref());
        let mut fitting = administrators.accounts.iter().filter(|account| {
            address.is_some() && email_key(account.row.email.as_deref()) == address
        });
        match (fitting.next(), fitting.next()) {
            (None, _) => Ok(Who::Person(Box::new(row))),
            (Some(account), None) => Ok(Who::Administrator { account, person }),
            (Some(one), Some(other)) => Err(Error::Refused {
                what: format!(
                    "user {id} has the e-mail address of more than one administrator, {} and {} among them: name the \
                     administrator instead of the user",
                    one.id, other.id
                ),
            }),
        }
    }

    /// The id under which a sync lists the grants of an administrator.
    fn principal_of<'a>(&self, account: &'a Account, person: Option<&'a str>) -> &'a str {
        person
            .filter(|_| self.settings.merge_administrators)
            .unwrap_or(&account.id)
    }

    async fn role_name(&self, session: &Session, id: &str) -> Result<String, Error> {
        let role = self.get_role(session, id).await?;
        let name = text_of(role.profile.as_ref(), "name").unwrap_or(&role.display_name);
        Ok(name.to_owned())
    }

    /// Refuses what would lock somebody out who must not be.
    async fn spare(
        &self,
        scene: Scene<'_>,
        before: &BTreeSet<String>,
        after: &BTreeSet<String>,
    ) -> Result<(), Error> {
        let Scene { account, .. } = scene;
        self.spare_key_owner(account).await?;
        let billing = role_id(BILLING);
        if !before.contains(&billing) || after.contains(&billing) {
            return Ok(());
        }
        let mut others = scene.administrators.accounts.iter();
        if others.any(|other| other.id != account.id && bills(other)) {
            return Ok(());
        }
        Err(Error::Refused {
            what: format!(
                "administrator {} is the last one with the role {BILLING} who is not suspended: give the role to \
                 somebody else first",
                account.id
            ),
        })
    }

    /// Refuses to change the administrator who owns the key in use.
    ///
    /// Where JumpCloud does not say whose key it is, as with a service account, the beginnings of keys decide; where they
    /// cannot, nothing is changed.
    pub(super) async fn spare_key_owner(&self, account: &Account) -> Result<(), Error> {
        if self.client.is_service_account() {
            return Ok(());
        }
        let answer: Result<wire::Administrator, Error> =
            self.client.get("/api/users/getSelf", &[], &[]).await;
        let myself = match answer {
            Ok(row) => Some(row),
            Err(error)
                if matches!(
                    error.code(),
                    Code::NotFound
                        | Code::PermissionDenied
                        | Code::Unauthenticated
                        | Code::InvalidArgument
                ) =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        let owner = myself.as_ref().and_then(wire::Administrator::id);
        let row = &account.row;
        let beginning = row
            .api_key_hash
            .as_ref()
            .and_then(|key| filled(key.prefix.as_deref()));
        let why = match (owner, beginning) {
            (Some(owner), _) if owner != account.id => return Ok(()),
            (Some(_), _) => "owns the JumpCloud key that this connector uses",
            (None, _) if row.api_key_set == Some(false) => return Ok(()),
            (None, Some(beginning)) if !self.client.key_begins_with(beginning) => return Ok(()),
            (None, Some(_)) => {
                "has an API key that begins like the one that this connector uses, and JumpCloud does not say whose it is"
            }
            (None, None) => {
                "may own the API key that this connector uses: JumpCloud does not say whose it is"
            }
        };
        Err(Error::Refused {
            what: format!(
                "administrator {} {why}; it is not changed by this connector: change it in JumpCloud, or use the key of \
                 somebody else",
                account.id
            ),
        })
    }
}

/// What a change of an administrator's roles is about.
#[derive(Debug, Clone, Copy)]
struct Scene<'a> {
    administrators: &'a Administrators,
    account: &'a Account,
    /// Who the grants belong to.
    principal: &'a str,
    role: Named<'a>,
    /// Who the request named.
    whom: Named<'a>,
    change: Change<'a>,
}

impl Scene<'_> {
    /// The grant, with a word about every grant whose role had to go for it.
    fn grant(&self, before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<v2::Grant> {
        let annotations = before
            .difference(after)
            .map(|lost| {
                pack(&v2::GrantReplaced {
                    replaced_grant_id: grant(ROLE, lost, USER, self.principal, Vec::new()).id,
                })
            })
            .collect();
        vec![grant(ROLE, self.role.id, USER, self.principal, annotations)]
    }
}

/// The state of somebody's administration, as plans tell it.
fn state(administrator: Option<&str>, roles: &BTreeSet<String>) -> Json {
    json!({ "administrator": administrator, "roles": roles })
}

/// The roles before the first attempt at a change, where there was one.
fn planned_before(change: Change<'_>) -> BTreeSet<String> {
    change
        .earlier
        .and_then(|plan| plan.before.get("roles")?.as_array())
        .into_iter()
        .flatten()
        .filter_map(|id| wire::usable(id.as_str()).map(str::to_owned))
        .collect()
}

fn not_found(whom: Named<'_>) -> Error {
    Error::NotFound {
        what: format!("user {}", clip(whom.id, 64)),
    }
}
