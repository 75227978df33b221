//! The port for changes to a directory: what it means to grant, revoke, create, delete, rotate and act.
//!
//! Every method is idempotent in effect: it asks the state of the directory first, changes only what is not as wanted
//! yet, and reads the change back before it answers. Right before its first write it must ask
//! [`Change::intend`], which records the plan and says whether to write at all. It never encrypts, never journals and
//! never audits: that is the caller's part.

use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::{
    crypto::seal::Plaintext,
    proto::{Any, Struct, connector as v2},
};

/// What is about to be changed, in words that hold no secret and no name of a person.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    /// What is done, such as `group.member.add`.
    pub operation: String,
    /// Whose access or account it is: `<type>:<id>`, or `user:new` where there is no id yet.
    pub subject: String,
    /// On what: `<type>:<id>`; empty where the subject itself is changed.
    pub object: String,
    /// The state before, such as `{"member": false}`.
    pub before: Value,
    /// The state wanted.
    pub after: Value,
}

/// Whether to go on after the plan is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Write.
    Write,
    /// A dry run: answer [`Effect::Planned`] without writing.
    Pretend,
}

/// Hears of each plan right before its first write.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Records the plan, so that it outlives the process, before anything is written.
    ///
    /// An error means that nothing may be written.
    async fn intend(&self, plan: &Plan) -> Result<Permit, Error>;

    /// Says that an action is this far, in percent and in words without names of people.
    fn progress(&self, _percent: u8, _text: &str) {}
}

/// What one change is made under.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    /// The plan that an earlier attempt at this same change recorded: it may have been applied, in whole or in part.
    pub earlier: Option<&'a Plan>,
    /// Where plans go.
    pub ledger: &'a dyn Ledger,
    /// Asks to stop; obeyed before a write, not between a write and its confirmation. Obeyed between two writes, it ends
    /// the change with [`Error::Halted`].
    pub cancel: &'a CancellationToken,
}

impl std::fmt::Debug for Change<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Change")
            .field("earlier", &self.earlier)
            .finish_non_exhaustive()
    }
}

impl Change<'_> {
    /// Records a plan; see [`Ledger::intend`]. A change that was cancelled gets [`Error::Cancelled`].
    pub async fn intend(&self, plan: &Plan) -> Result<Permit, Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.ledger.intend(plan).await
    }
}

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The directory was changed, and the change was read back.
    Changed,
    /// The directory was as wanted already; nothing was written.
    AlreadyTrue,
    /// A dry run: every check passed and nothing was written.
    Planned,
}

/// A change that succeeded.
#[derive(Debug, Clone, PartialEq)]
pub struct Done<T> {
    /// What the operation gives back.
    pub value: T,
    /// What it did.
    pub effect: Effect,
    /// The request ids that the directory gave to the writes, where it gave any.
    pub request_ids: Vec<String>,
}

impl<T> Done<T> {
    /// A change for which nothing was written.
    pub const fn unwritten(value: T, effect: Effect) -> Self {
        Self {
            value,
            effect,
            request_ids: Vec::new(),
        }
    }

    /// A change that was written, with the request ids that there are.
    pub fn written(value: T, request_ids: impl IntoIterator<Item = String>) -> Self {
        Self {
            value,
            effect: Effect::Changed,
            request_ids: request_ids.into_iter().collect(),
        }
    }
}

/// The credential that a new or existing account is to have.
#[derive(Debug, Clone, Default)]
pub enum Credential {
    /// Nothing was asked for.
    #[default]
    Unspecified,
    /// A password that the connector makes up; it goes back encrypted.
    Random(v2::credential_options::RandomPassword),
    /// No password at all.
    None,
    /// Sign-in through an identity provider only.
    Sso,
    /// This password, which came encrypted to this connector.
    Given(SecretString),
}

/// A request for a new account.
#[derive(Debug, Clone, Default)]
pub struct NewAccount {
    /// Login, e-mails and profile.
    pub info: v2::AccountInfo,
    /// Its credential.
    pub credential: Credential,
    /// The person must choose a password of their own at the next sign-in.
    pub force_change: bool,
}

/// How a request for an account ended.
#[derive(Debug)]
pub struct Account {
    /// The account as it is now; in a dry run as it would be, with the resource id `planned`.
    pub resource: v2::Resource,
    /// It was there before, made by somebody else.
    pub existed: bool,
    /// Secrets for ConductorOne.
    pub secrets: Vec<Plaintext>,
}

/// A change that can be asked for, as far as it matters for who has to wait for whom.
#[derive(Debug, Clone, Copy)]
#[expect(
    missing_docs,
    reason = "the names are those of the methods of Provisioner"
)]
pub enum Request<'a> {
    Grant {
        entitlement: &'a v2::Entitlement,
        principal: &'a v2::Resource,
    },
    Revoke {
        grant: &'a v2::Grant,
    },
    CreateAccount {
        account: &'a NewAccount,
    },
    CreateResource {
        resource: &'a v2::Resource,
    },
    DeleteResource {
        id: &'a v2::ResourceId,
    },
    RotateCredential {
        id: &'a v2::ResourceId,
    },
    Invoke {
        name: &'a str,
        resource_type_id: &'a str,
        arguments: &'a Struct,
    },
}

/// A directory that can be changed. Methods are called concurrently, except for requests that share a
/// [key](Provisioner::keys). Futures are not to be dropped between a write and its confirmation; one that is dropped
/// leaves a change that the next attempt recognises.
#[async_trait]
pub trait Provisioner: Send + Sync + 'static {
    /// The things that a request touches; requests that share one wait for each other. In any order, may repeat.
    fn keys(&self, request: Request<'_>) -> Vec<String>;

    /// Gives an entitlement to a principal; answers with the grant as a sync would list it.
    async fn grant(
        &self,
        entitlement: &v2::Entitlement,
        principal: &v2::Resource,
        change: Change<'_>,
    ) -> Result<Done<Vec<v2::Grant>>, Error>;

    /// Takes a grant away.
    async fn revoke(&self, grant: &v2::Grant, change: Change<'_>) -> Result<Done<()>, Error>;

    /// Makes an account of a resource type (empty: the only type that has accounts).
    ///
    /// An account that exists already and fits is given back as such.
    async fn create_account(
        &self,
        resource_type_id: &str,
        account: &NewAccount,
        change: Change<'_>,
    ) -> Result<Done<Account>, Error>;

    /// Makes a resource other than an account.
    async fn create_resource(
        &self,
        resource: &v2::Resource,
        change: Change<'_>,
    ) -> Result<Done<v2::Resource>, Error>;

    /// Deletes a resource; one that is gone already is [`Effect::AlreadyTrue`].
    async fn delete_resource(
        &self,
        id: &v2::ResourceId,
        change: Change<'_>,
    ) -> Result<Done<()>, Error>;

    /// Gives an account a new password.
    async fn rotate_credential(
        &self,
        id: &v2::ResourceId,
        credential: &Credential,
        force_change: bool,
        change: Change<'_>,
    ) -> Result<Done<Vec<Plaintext>>, Error>;

    /// Every action, those of a resource type with its id.
    fn action_schemas(&self) -> Vec<v2::BatonActionSchema>;

    /// Runs an action; `name` and `resource_type_id` are those of one of [`Provisioner::action_schemas`], and the
    /// arguments have passed its constraints.
    async fn invoke(
        &self,
        name: &str,
        resource_type_id: &str,
        arguments: &Struct,
        change: Change<'_>,
    ) -> Result<Done<Struct>, Error>;

    /// Annotations that tell ConductorOne what a grant or revoke did, by the conventions of the SDK.
    fn annotations(&self, request: Request<'_>, effect: Effect) -> Vec<Any> {
        use crate::proto::pack;
        match (request, effect) {
            (Request::Grant { .. }, Effect::AlreadyTrue) => {
                vec![pack(&v2::GrantAlreadyExists {})]
            }
            (Request::Revoke { .. }, Effect::AlreadyTrue) => {
                vec![pack(&v2::GrantAlreadyRevoked {})]
            }
            (Request::DeleteResource { .. }, Effect::AlreadyTrue) => {
                vec![pack(&v2::ResourceDoesNotExist {})]
            }
            _ => Vec::new(),
        }
    }
}
