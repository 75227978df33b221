//! JumpCloud as a connector.
//!
//! Owns the meaning of JumpCloud's objects in ConductorOne: which resources, entitlements and grants they are, with ids
//! equal to those of the official connector. HTTP lives in [`client`], JSON shapes in [`wire`], each resource type in a
//! file of its own. Writes only through [`provision`].
//!
//! Invariants: a sync reads every list once, also when the process ends in between and the sync has a folder of its own; nothing is cached beyond a sync; a list that the key may not read fails the
//! sync, because a half-read tenant would look like access taken away. Only the list of roles can be missing (roles in
//! use are known from the administrators), and groups or applications where the operator says so, as a whole type.

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use async_trait::async_trait;

use self::{
    administrators::Account,
    client::Client,
    ids::{APP, GROUP, ROLE, USER, grant},
    session::{Session, Sessions},
    survey::Read,
    users::Users,
};
use super::{Connector, Error, Page, SyncScope, Validation};
use crate::{
    error::{Class, Classify, Code},
    proto::connector as v2,
};

mod administrators;
mod apps;
mod capabilities;
pub mod client;
mod groups;
mod ids;
mod list_file;
mod listing;
mod profile;
mod provision;
mod roles;
mod session;
pub mod survey;
mod users;
pub mod wire;

#[cfg(test)]
mod tests;

/// What an operator can choose about the data.
#[derive(Debug, Clone)]
pub struct Settings {
    /// An administrator that is also a directory user has no account of its own; its roles go to the directory user.
    pub merge_administrators: bool,
    /// Folder for the lists of syncs that have none of their own (about 2 KiB a user); must exist and be writable.
    pub work_dir: PathBuf,
    /// The dangerous changes that are allowed.
    pub allowed: Allowed,
    /// Resource types, `group` or `app`, that a sync does without where the key may not read them. Users cannot be
    /// missing, since every grant ends at one; nor can administrators, who are users too and hold the roles.
    pub optional: Vec<String>,
}

/// Dangerous changes that an operator has to allow one by one; none is allowed by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Accounts of directory users may be deleted.
    pub account_deletion: bool,
    /// Administrator roles may be granted and revoked, which makes and deletes administrators.
    pub administrator_roles: bool,
}

/// What the connector says about itself where no dangerous change is allowed.
pub fn metadata() -> v2::ConnectorMetadata {
    metadata_allowing(Allowed::default())
}

/// What the connector says about itself where these dangerous changes are allowed.
pub fn metadata_allowing(allowed: Allowed) -> v2::ConnectorMetadata {
    capabilities::metadata(allowed)
}

/// JumpCloud.
#[derive(Debug)]
pub struct JumpCloud {
    client: Client,
    settings: Settings,
    sessions: Sessions,
}

impl JumpCloud {
    /// A connector to the organisation that `client` reaches; nothing is sent yet.
    pub fn new(client: Client, settings: Settings) -> Self {
        Self {
            client,
            settings,
            sessions: Sessions::default(),
        }
    }

    /// Brings back what lists say about ends of edges, where an earlier process read them.
    ///
    /// A sync that is past its lists asks for none of them again, and its grants would all seem to lead somewhere.
    async fn recall(&self, session: &Session) -> Result<(), Error> {
        let Some(folder) = session.folder() else {
            return Ok(());
        };
        let exists = |name| tokio::fs::try_exists(folder.join(name));
        let recall = || async {
            if exists(users::LIST).await.unwrap_or(false) {
                self.users(session).await?;
            }
            if exists(groups::LIST).await.unwrap_or(false) {
                self.groups(session).await?;
            }
            Ok(())
        };
        session.recalled.get_or_try_init(recall).await.copied()
    }

    /// Who the grants of administrators go to.
    async fn principals(&self, session: &Session) -> Result<Principals, Error> {
        Ok(Principals(if self.settings.merge_administrators {
            Some(self.users(session).await?)
        } else {
            None
        }))
    }

    /// What `look` finds; `None` where it is certain that it is not there.
    ///
    /// A gateway that lost its routes answers 404 to everything, and its answers must not look like objects that are gone.
    /// So "not found" is believed when the lists of such objects answer, and `look` still finds nothing after that. Costs
    /// two calls more where nothing is found.
    async fn find<T, F, Fut>(&self, lists: &[Read], look: F) -> Result<Option<T>, Error>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        if let Some(found) = absent(look().await)? {
            return Ok(Some(found));
        }
        for list in lists {
            self.expect_list(list).await?;
        }
        absent(look().await)
    }

    /// Fails while the answer to a whole list is "not found".
    async fn expect_list(&self, list: &Read) -> Result<(), Error> {
        match absent(self.client.probe(&list.list()).await)? {
            Some(_) => Ok(()),
            None => Err(Error::Unconfirmed {
                what: format!(
                    "JumpCloud answers 404 (not found) to everything, even to the list of all {}: ask again when it is \
                     back, or check the base URL",
                    list.what()
                ),
            }),
        }
    }

    /// A grant on a resource for every administrator that `holds` it, each principal once.
    async fn grants_of_administrators(
        &self,
        session: &Session,
        resource_type: &str,
        id: &str,
        holds: impl Fn(&Account) -> bool,
    ) -> Result<Page<v2::Grant>, Error> {
        let administrators = self.administrators(session).await?;
        let principals = self.principals(session).await?;
        let mut seen = HashSet::new();
        let items = administrators
            .accounts
            .iter()
            .filter(|account| holds(account))
            .map(|account| principals.of(account))
            .filter(|principal| seen.insert((*principal).to_owned()))
            .map(|principal| grant(resource_type, id, USER, principal, Vec::new()))
            .collect();
        Ok(Page::last(items))
    }
}

/// Maps an administrator to the account that stands for it.
struct Principals(Option<Arc<Users>>);

impl Principals {
    fn of<'a>(&'a self, account: &'a Account) -> &'a str {
        self.0
            .as_ref()
            .and_then(|users| users.links.user_of(&account.id))
            .unwrap_or(&account.id)
    }
}

#[async_trait]
impl Connector for JumpCloud {
    fn metadata(&self) -> v2::ConnectorMetadata {
        capabilities::metadata(self.settings.allowed)
    }

    fn fingerprint(&self, salt: &str) -> String {
        let Settings {
            merge_administrators,
            optional,
            work_dir: _,
            allowed: _,
        } = &self.settings;
        format!(
            "jumpcloud {} merge_administrators={merge_administrators} optional={optional:?}",
            self.client.organization(salt)
        )
    }

    /// Makes the four reads that a sync cannot do without, at once; all missing permissions are named together.
    async fn validate(&self) -> Result<Validation, Error> {
        let probe = |read: Read| async move {
            let result = self.client.probe(&read.list()).await;
            (read, result)
        };
        let (users, groups, apps, administrators) = futures_util::join!(
            probe(Read::Users),
            probe(Read::Groups),
            probe(Read::Applications),
            probe(Read::Administrators),
        );
        let mut missing = Vec::new();
        let mut validation = Validation::default();
        for (read, result) in [users, groups, apps, administrators] {
            let (what, why) = match result {
                Ok(_) => continue,
                // No role helps here.
                Err(Error::Http { status: 402, .. }) => (
                    read.what(),
                    " (the organisation's JumpCloud plan does not include them)",
                ),
                Err(error) if error.code() == Code::PermissionDenied => (read.what(), ""),
                // Refused credentials among them; the client says what to do about those.
                Err(error) => return Err(error),
            };
            let resource_type = match read {
                Read::Groups => GROUP,
                Read::Applications => APP,
                _ => USER,
            };
            if self.settings.optional.iter().any(|it| it == resource_type) {
                let too = if resource_type == GROUP {
                    ", and with it the access to applications that groups give"
                } else {
                    ""
                };
                validation.warnings.push(format!(
                    "the JumpCloud key may not read {what}{why}: resource type {resource_type} is optional here and is \
                     left out of the sync{too}"
                ));
                validation.unreadable.push(resource_type.to_owned());
            } else {
                missing.push(format!("{what}{why}"));
            }
        }
        if missing.is_empty() {
            return Ok(validation);
        }
        Err(Error::Permission {
            what: format!(
                "the JumpCloud key may not read {}: give its administrator or service account a role that can, such as \
                 Read Only",
                missing.join(", ")
            ),
            words: None,
        })
    }

    fn resource_types(&self) -> Vec<v2::ResourceType> {
        capabilities::resource_types(self.settings.allowed)
    }

    async fn list_resources(
        &self,
        scope: &SyncScope,
        resource_type_id: &str,
        parent: Option<&v2::ResourceId>,
        page: Option<&str>,
    ) -> Result<Page<v2::Resource>, Error> {
        let session = self.sessions.of(scope);
        if parent.is_some() {
            // Nothing in JumpCloud is below anything else.
            return Ok(Page::default());
        }
        match resource_type_id {
            USER => self.list_users(&session, page).await,
            GROUP => self.list_groups(&session, page).await,
            ROLE => self.list_roles(&session).await,
            APP => self.list_apps(&session, page).await,
            other => Err(unknown_type(other)),
        }
    }

    async fn get_resource(
        &self,
        scope: &SyncScope,
        id: &v2::ResourceId,
    ) -> Result<v2::Resource, Error> {
        let session = self.sessions.of(scope);
        let object = usable(&id.resource_type, &id.resource)?;
        match id.resource_type.as_str() {
            USER => self.get_user(&session, object).await,
            GROUP => self.get_group(object).await,
            ROLE => self.get_role(&session, object).await,
            APP => self.get_app(object).await,
            other => Err(unknown_type(other)),
        }
    }

    async fn list_entitlements(
        &self,
        _scope: &SyncScope,
        resource: &v2::Resource,
        _page: Option<&str>,
    ) -> Result<Page<v2::Entitlement>, Error> {
        let id = identified(resource)?;
        let object = usable(&id.resource_type, &id.resource)?;
        let entitlement = match id.resource_type.as_str() {
            USER => return Ok(Page::default()),
            GROUP => groups::entitlement(resource, object),
            ROLE => roles::entitlement(resource, object),
            APP => apps::entitlement(resource, object),
            other => return Err(unknown_type(other)),
        };
        Ok(Page::last(vec![entitlement]))
    }

    async fn list_grants(
        &self,
        scope: &SyncScope,
        resource: &v2::Resource,
        page: Option<&str>,
    ) -> Result<Page<v2::Grant>, Error> {
        let id = identified(resource)?;
        let object = usable(&id.resource_type, &id.resource)?;
        let session = self.sessions.of(scope);
        let listed = match id.resource_type.as_str() {
            USER => Ok(Page::default()),
            // Only users hold these, and a sync without users stores none of it.
            GROUP | ROLE if !reads(scope, USER) => Ok(Page::default()),
            GROUP => self.list_members(&session, resource, object, page).await,
            ROLE => self.list_holders(&session, object).await,
            APP => self.list_assignees(scope, &session, object, page).await,
            other => return Err(unknown_type(other)),
        };
        match listed {
            Err(error) if error.class() == Class::NotFound => {
                // Gone since it was listed, which is the end of its grants; or an answer that is wrong, which is not.
                self.get_resource(scope, id).await?;
                Err(Error::Unconfirmed {
                    what: format!("{error}, although its {} is there", id.resource_type),
                })
            }
            listed => listed,
        }
    }

    fn take_warnings(&self, sync_id: &str) -> Vec<String> {
        self.sessions
            .find(sync_id)
            .map(|session| session.take_warnings())
            .unwrap_or_default()
    }

    /// The number of requests that may be in flight.
    fn pace(&self) -> u64 {
        u64::try_from(self.client.concurrency()).unwrap_or_default()
    }

    fn set_pace(&self, pace: u64) {
        if pace > 0 {
            self.client
                .resume_concurrency(usize::try_from(pace).unwrap_or(usize::MAX));
        }
    }

    async fn cleanup(&self, sync_id: &str) {
        self.sessions.end(sync_id);
    }
}

/// Whether a sync stores resources of this type.
fn reads(scope: &SyncScope, resource_type: &str) -> bool {
    scope.resource_type_ids.is_empty()
        || scope
            .resource_type_ids
            .iter()
            .any(|wanted| wanted == resource_type)
}

/// Turns "not found" into `None`. Where that decides something, [`JumpCloud::find`] makes sure of it.
fn absent<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.code() == Code::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn identified(resource: &v2::Resource) -> Result<&v2::ResourceId, Error> {
    resource.id.as_ref().ok_or_else(|| Error::Invalid {
        what: "resource.id is missing: send the resource as it was listed".to_owned(),
    })
}

fn usable<'a>(resource_type: &str, id: &'a str) -> Result<&'a str, Error> {
    wire::usable(Some(id)).ok_or_else(|| Error::Invalid {
        what: format!(
            "the id of a resource of type {} has {} bytes or holds spaces around it or control characters: send the \
             id as it was listed",
            profile::clip(resource_type, 64),
            id.len()
        ),
    })
}

fn unknown_type(resource_type: &str) -> Error {
    Error::NotFound {
        what: format!("resource type {}", profile::clip(resource_type, 64)),
    }
}

fn unknown_token(resource_type: &str, token: &str) -> Error {
    Error::Invalid {
        what: format!(
            "the page token of resource type {resource_type} ({} bytes) is not one of this connector: start the listing \
             again without a token",
            token.len()
        ),
    }
}
