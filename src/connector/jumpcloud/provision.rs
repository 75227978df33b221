//! Changes to JumpCloud.
//!
//! This file finds the room for a request, checks the ids that it names and says which requests have to wait for each
//! other; what it means to change each thing is in the folder. Invariant: an id of a request reaches JumpCloud only after
//! it was checked here, and no error repeats more of a request than ids.

use async_trait::async_trait;
use serde::{Serialize, de::IgnoredAny};
use serde_json::{Value as Json, json};

use super::{
    JumpCloud,
    client::{Method, Repeat},
    ids::{APP, GROUP, ROLE, USER, entitlement_id},
    profile::{clip, text_of},
    wire,
};
use crate::{
    connector::{
        Error,
        provision::{
            Account, Change, Credential, Done, Effect, NewAccount, Permit, Plan, Provisioner,
            Request,
        },
    },
    crypto::seal::Plaintext,
    proto::{Kind, Struct, connector as v2},
};

mod access;
pub(super) mod account_schema;
mod accounts;
mod actions;
mod administration;
mod confirm;
mod guard;
mod membership;
mod passwords;
mod rows;
mod user_groups;

#[cfg(test)]
mod tests;

/// The key of everything that changes who administers the organisation.
const ADMINISTRATORS_KEY: &str = "administrators";

/// Which way an entitlement goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Grant,
    Revoke,
}

impl Wish {
    /// The word of the graph for it.
    const fn op(self) -> &'static str {
        match self {
            Self::Grant => "add",
            Self::Revoke => "remove",
        }
    }

    const fn wants(self) -> bool {
        matches!(self, Self::Grant)
    }
}

/// An object that a request names, its id checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named<'a> {
    kind: &'a str,
    id: &'a str,
}

impl Named<'_> {
    /// How plans and keys call it.
    fn key(self) -> String {
        format!("{}:{}", self.kind, self.id)
    }
}

/// Reads an id of a request; `field` is where it stands there.
fn named<'a>(field: &str, id: Option<&'a v2::ResourceId>) -> Result<Named<'a>, Error> {
    let id = id.ok_or_else(|| Error::Invalid {
        what: format!("{field} is missing: send the object as it was listed"),
    })?;
    let kind = id.resource_type.as_str();
    let id = wire::usable(Some(&id.resource)).ok_or_else(|| Error::Invalid {
        what: format!(
            "{field}.resource has {} bytes or holds spaces around it or control characters: send the id as it was \
             listed",
            id.resource.len()
        ),
    })?;
    Ok(Named { kind, id })
}

/// What an entitlement is of.
fn entitled<'a>(field: &str, entitlement: &'a v2::Entitlement) -> Result<Named<'a>, Error> {
    let resource = entitlement
        .resource
        .as_ref()
        .and_then(|resource| resource.id.as_ref());
    let on = named(&format!("{field}.resource.id"), resource)?;
    if !matches!(on.kind, GROUP | ROLE | APP) {
        return Err(Error::Unsupported {
            what: format!(
                "entitlements of resource type {} cannot be granted or revoked; only those of {GROUP}, {ROLE} and {APP} \
                 can",
                clip(on.kind, 64)
            ),
        });
    }
    if !entitlement.id.is_empty() && entitlement.id != entitlement_id(on.kind, on.id) {
        return Err(Error::Invalid {
            what: format!(
                "{field}.id ({} bytes) is not the entitlement of {field}.resource.id, which is {}: send the entitlement \
                 as it was listed",
                entitlement.id.len(),
                entitlement_id(on.kind, on.id)
            ),
        });
    }
    Ok(on)
}

/// Who gets or loses an entitlement of `on`.
fn principal<'a>(
    field: &str,
    resource: Option<&'a v2::Resource>,
    on: Named<'_>,
) -> Result<Named<'a>, Error> {
    let field = format!("{field}.id");
    let whom = named(&field, resource.and_then(|resource| resource.id.as_ref()))?;
    let fits = whom.kind == USER || (whom.kind == GROUP && on.kind == APP);
    fits.then_some(whom).ok_or_else(|| Error::Invalid {
        what: format!(
            "{field}.resource_type is {}: entitlements of resource type {} belong to {}",
            clip(whom.kind, 64),
            on.kind,
            if on.kind == APP {
                "users and groups"
            } else {
                "users only"
            }
        ),
    })
}

/// A change that JumpCloud shows already: made by an earlier attempt at it, or by somebody else.
fn already(change: Change<'_>) -> Effect {
    if change.earlier.is_some() {
        Effect::Changed
    } else {
        Effect::AlreadyTrue
    }
}

/// Says what a role of the key has to allow, where JumpCloud only says "forbidden".
fn explained(error: Error, what: &str) -> Error {
    match error {
        Error::Http {
            method,
            endpoint,
            status: status @ 403,
            words,
            ..
        } => Error::Permission {
            what: format!(
                "the JumpCloud key may not {what} ({method} {endpoint} answered {status}): give its administrator or \
                 service account a role that can"
            ),
            words,
        },
        error => error,
    }
}

impl JumpCloud {
    /// Gives or takes one entitlement; the value is the grant as a sync would list it.
    async fn set(
        &self,
        wish: Wish,
        on: Named<'_>,
        whom: Named<'_>,
        change: Change<'_>,
    ) -> Result<Done<Vec<v2::Grant>>, Error> {
        match on.kind {
            GROUP => self.set_membership(wish, on, whom, change).await,
            ROLE => self.set_role(wish, on, whom, change).await,
            _ => self.set_access(wish, on, whom, change).await,
        }
    }
}

impl JumpCloud {
    /// Writes what answers with nothing of interest; `what` ends the sentence "the key may not …".
    async fn send<B: Serialize + ?Sized + Sync>(
        &self,
        method: Method,
        template: &'static str,
        ids: &[&str],
        body: Option<&B>,
        repeat: Repeat,
        what: &str,
    ) -> Result<Option<String>, Error> {
        self.client
            .write::<B, IgnoredAny>(method, template, ids, body, repeat)
            .await
            .map(|written| written.request_id)
            .map_err(|error| explained(error, what))
    }

    /// As [`JumpCloud::send`], for a write without a body that may be repeated.
    async fn order(
        &self,
        method: Method,
        template: &'static str,
        ids: &[&str],
        what: &str,
    ) -> Result<Option<String>, Error> {
        self.send::<()>(method, template, ids, None, Repeat::Always, what)
            .await
    }

    /// Adds or removes the edge from an object of the graph to a user or user group.
    async fn set_edge(
        &self,
        wish: Wish,
        template: &'static str,
        from: &str,
        to: Named<'_>,
        what: &str,
    ) -> Result<Option<String>, Error> {
        let kind = if to.kind == GROUP {
            "user_group"
        } else {
            "user"
        };
        let body = json!({"op": wish.op(), "type": kind, "id": to.id});
        self.send(
            Method::Post,
            template,
            &[from],
            Some(&body),
            Repeat::Always,
            what,
        )
        .await
    }
}

/// Records the plan; in a dry run, the answer to give instead of writing.
async fn planned<T>(
    plan: &Plan,
    change: Change<'_>,
    value: impl FnOnce() -> T,
) -> Result<Option<Done<T>>, Error> {
    Ok(match change.intend(plan).await? {
        Permit::Write => None,
        Permit::Pretend => Some(Done::unwritten(value(), Effect::Planned)),
    })
}

/// A plan about an entitlement.
fn plan(operation: &str, whom: Named<'_>, on: Named<'_>, before: Json, after: Json) -> Plan {
    Plan {
        operation: operation.to_owned(),
        subject: whom.key(),
        object: on.key(),
        before,
        after,
    }
}

/// A plan about a thing itself.
fn plan_for(operation: &str, subject: String, before: Json, after: Json) -> Plan {
    Plan {
        operation: operation.to_owned(),
        subject,
        object: String::new(),
        before,
        after,
    }
}

fn pair_keys(
    entitlement: Option<&v2::Entitlement>,
    principal: Option<&v2::Resource>,
    keys: &mut Vec<String>,
) {
    keys.extend(
        principal
            .and_then(|principal| principal.id.as_ref())
            .map(key),
    );
    let kind = entitlement
        .and_then(|entitlement| entitlement.resource.as_ref()?.id.as_ref())
        .map(|id| id.resource_type.as_str());
    if kind == Some(ROLE) {
        keys.push(ADMINISTRATORS_KEY.to_owned());
    }
}

fn key(id: &v2::ResourceId) -> String {
    format!("{}:{}", id.resource_type, id.resource)
}

fn word_key(kind: &str, word: &str) -> Option<String> {
    let word = word.trim();
    (!word.is_empty()).then(|| format!("{kind}:{}", word.to_lowercase()))
}

#[async_trait]
impl Provisioner for JumpCloud {
    fn keys(&self, request: Request<'_>) -> Vec<String> {
        let mut keys = Vec::new();
        match request {
            Request::Grant {
                entitlement,
                principal,
            } => pair_keys(Some(entitlement), Some(principal), &mut keys),
            Request::Revoke { grant } => pair_keys(
                grant.entitlement.as_ref(),
                grant.principal.as_ref(),
                &mut keys,
            ),
            Request::CreateAccount { account } => {
                let info = &account.info;
                let profile = info.profile.as_ref();
                let logins = [Some(info.login.as_str()), text_of(profile, "username")];
                keys.extend(
                    logins
                        .into_iter()
                        .flatten()
                        .filter_map(|login| word_key("login", login)),
                );
                let addresses = info
                    .emails
                    .iter()
                    .map(|email| email.address.as_str())
                    .chain(text_of(profile, "email"));
                keys.extend(addresses.filter_map(|address| word_key("email", address)));
            }
            Request::CreateResource { resource } => {
                let kind = resource
                    .id
                    .as_ref()
                    .map_or("", |id| id.resource_type.as_str());
                keys.extend(word_key(&format!("{kind}-name"), &resource.display_name));
            }
            Request::DeleteResource { id } => {
                keys.push(key(id));
                if id.resource_type == USER {
                    // The administrator that is linked to a user goes with it.
                    keys.push(ADMINISTRATORS_KEY.to_owned());
                }
            }
            Request::RotateCredential { id } => keys.push(key(id)),
            Request::Invoke { arguments, .. } => {
                for name in ["user_id", "resource_id"] {
                    keys.extend(argument_id(arguments, name).map(|id| format!("{USER}:{id}")));
                }
            }
        }
        keys
    }

    async fn grant(
        &self,
        entitlement: &v2::Entitlement,
        whom: &v2::Resource,
        change: Change<'_>,
    ) -> Result<Done<Vec<v2::Grant>>, Error> {
        let on = entitled("entitlement", entitlement)?;
        let whom = principal("principal", Some(whom), on)?;
        self.set(Wish::Grant, on, whom, change).await
    }

    async fn revoke(&self, grant: &v2::Grant, change: Change<'_>) -> Result<Done<()>, Error> {
        let entitlement = grant.entitlement.as_ref().ok_or_else(|| Error::Invalid {
            what: "grant.entitlement is missing: send the grant as it was listed".to_owned(),
        })?;
        let on = entitled("grant.entitlement", entitlement)?;
        let whom = principal("grant.principal", grant.principal.as_ref(), on)?;
        let done = self.set(Wish::Revoke, on, whom, change).await?;
        Ok(Done {
            value: (),
            effect: done.effect,
            request_ids: done.request_ids,
        })
    }

    async fn create_account(
        &self,
        resource_type_id: &str,
        account: &NewAccount,
        change: Change<'_>,
    ) -> Result<Done<Account>, Error> {
        self.make_account(resource_type_id, account, change).await
    }

    async fn create_resource(
        &self,
        resource: &v2::Resource,
        change: Change<'_>,
    ) -> Result<Done<v2::Resource>, Error> {
        self.make_resource(resource, change).await
    }

    async fn delete_resource(
        &self,
        id: &v2::ResourceId,
        change: Change<'_>,
    ) -> Result<Done<()>, Error> {
        self.remove_resource(id, change).await
    }

    async fn rotate_credential(
        &self,
        id: &v2::ResourceId,
        credential: &Credential,
        force_change: bool,
        change: Change<'_>,
    ) -> Result<Done<Vec<Plaintext>>, Error> {
        self.set_credential(id, credential, force_change, change)
            .await
    }

    fn action_schemas(&self) -> Vec<v2::BatonActionSchema> {
        actions::schemas()
    }

    async fn invoke(
        &self,
        name: &str,
        resource_type_id: &str,
        arguments: &Struct,
        change: Change<'_>,
    ) -> Result<Done<Struct>, Error> {
        self.run_action(name, resource_type_id, arguments, change)
            .await
    }
}

/// An id among the arguments of an action: a text, or an object with the id inside.
fn argument_id<'a>(arguments: &'a Struct, name: &str) -> Option<&'a str> {
    match arguments.fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(id) => Some(id),
        Kind::StructValue(object) => {
            let text = |name| text_of(Some(object), name);
            ["resource_id", "resourceId", "resource"]
                .into_iter()
                .find_map(text)
        }
        _ => None,
    }
}
