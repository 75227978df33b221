//! Scripts: a list of steps in YAML or JSON, run one after the other against a running simulator.
//!
//! ```yaml
//! - wait-for-hello: 10s
//! - task: { name: first, kind: sync_full }
//! - wait-for-finish: { task: first, within: 60s, expect: success }
//! - outage: 5s
//! - revoke-tokens
//! - assert-clean
//! ```

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value as Json;

use super::{Break, Control, KeyKind, Rpc, Synced, full_sync, hello, tasks};
use crate::{
    model::grant_id,
    proto::{
        Timestamp,
        baton::{self, task::TaskType},
        connector as v2,
    },
};

/// How long a step waits that says nothing about it.
const PATIENCE: Duration = Duration::from_mins(1);
/// The most steps of a script.
const MAX_STEPS: usize = 10_000;

/// A list of steps.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct Script(Vec<Step>);

/// One step of a script, or one order through the admin port.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Queues a task.
    Task(Box<TaskSpec>),
    /// Lets heartbeats say that a task (by name or id) is cancelled.
    Cancel(String),
    /// Hands a task (by name or id) out once more, while it runs or after its end.
    DeliverAgain(String),
    /// Fails unless a finished task (by name or id) gave secrets that the simulator's keys open.
    ExpectSecrets(String),
    /// Waits for a Hello.
    WaitForHello(Time),
    /// Waits for the end of a task and checks how it ended.
    WaitForFinish(WaitForFinish),
    /// Waits for the verified upload of a task.
    WaitForUpload(WaitForTask),
    /// Waits until a task was handed out.
    WaitForDelivery(WaitForTask),
    /// Waits until a method was called this often since the start.
    WaitForCalls {
        /// The method.
        rpc: Rpc,
        /// How often.
        count: u64,
    },
    /// Does nothing for a while.
    Pause(Time),
    /// Refuses the client secret, or accepts it again.
    RejectSecret(bool),
    /// Lets the token endpoint answer 503 for a while.
    TokenDown(Time),
    /// Changes the life of new tokens.
    TokenLife(Time),
    /// Makes every token issued so far worthless.
    RevokeTokens,
    /// Accepts the newest client secret only.
    RetireSecrets,
    /// Closes the port for a while.
    Outage(Time),
    /// Sends GOAWAY on every connection.
    Goaway,
    /// Answers the next call of a method with a code.
    Fail {
        /// The method.
        rpc: Rpc,
        /// The number of the gRPC code.
        code: i32,
    },
    /// Delays every call of a method; `0s` takes the delay away.
    Delay {
        /// The method.
        rpc: Rpc,
        /// By how much.
        by: Time,
    },
    /// Refuses the next checksum.
    RefuseChecksum,
    /// Loses the answer to the next `FinishTask`.
    LoseFinishAnswer,
    /// Breaks the next upload off.
    BreakUpload {
        /// After this many bytes.
        after: u64,
        /// In which way.
        how: Break,
    },
    /// Fails when a rule was broken so far.
    AssertClean,
}

/// A task in a script.
///
/// Fields that the kind does not need are ignored.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TaskSpec {
    /// What later steps call it.
    #[serde(default)]
    pub name: Option<String>,
    /// The name of a kind of task as [`kind`](super::kind) gives it, or `unknown`, or `raw`.
    pub kind: String,
    /// Options of a `sync_full` task.
    #[serde(default)]
    pub options: SyncOptions,
    /// The task asks for a debug log.
    #[serde(default)]
    pub debug: bool,
    /// For the kind `raw`: a `Task` message, serialised, in padded base64.
    #[serde(default)]
    pub message: Option<String>,
    /// For `grant` and `revoke`: the id of an entitlement.
    #[serde(default)]
    pub entitlement: Option<String>,
    /// For `grant` and `revoke`: `<type>/<id>`.
    #[serde(default)]
    pub principal: Option<String>,
    /// For `delete_resource`, `rotate_credentials` and `issue_credential`: `<type>/<id>`.
    #[serde(default)]
    pub resource: Option<String>,
    /// For `create_account`.
    #[serde(default)]
    pub account: AccountSpec,
    /// For `create_account` and `rotate_credentials`; left out when not given.
    #[serde(default)]
    pub credential: Option<CredentialSpec>,
    /// The person must choose a password at the next sign-in.
    #[serde(default)]
    pub force_change: bool,
    /// The keys of the simulator that secrets are to be sealed for.
    #[serde(default)]
    pub encrypt_to: Vec<KeyKind>,
    /// For `issue_credential`: how long the credential may live.
    #[serde(default)]
    pub expires_in: Option<Time>,
    /// For `create_resource`, `action_list_schemas` and `action_invoke`.
    #[serde(default)]
    pub resource_type: String,
    /// For `create_resource` and for tickets.
    #[serde(default)]
    pub display_name: String,
    /// For `create_resource`.
    #[serde(default)]
    pub profile: Json,
    /// For `action_get_schema`, `action_invoke` and `action_status`.
    #[serde(default)]
    pub action: String,
    /// For `action_invoke`.
    #[serde(default)]
    pub args: Json,
    /// For `action_status` and `get_ticket`: the id of the run, or of the ticket.
    #[serde(default)]
    pub id: String,
}

/// An account in a script.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AccountSpec {
    /// The login.
    pub login: String,
    /// Addresses; the first is the primary one.
    pub emails: Vec<String>,
    /// Further logins.
    pub aliases: Vec<String>,
    /// An object; its members are those of the account schema.
    pub profile: Json,
}

/// A credential in a script.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialSpec {
    /// One that the connector makes up, of this length.
    RandomPassword(i64),
    /// None.
    NoPassword,
    /// Sign-in through an identity provider alone.
    Sso(String),
}

/// The options of a full-sync task, named as in the message.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the names are those of SyncFullTask")]
pub struct SyncOptions {
    pub skip_expand_grants: bool,
    pub skip_entitlements_and_grants: bool,
    pub skip_grants: bool,
    pub sync_resource_type_ids: Vec<String>,
    pub storage_engine: String,
    /// Each `<type>/<id>`.
    pub targeted_sync_resources: Vec<String>,
}

/// Which task, and for how long.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitForTask {
    /// Name or id.
    pub task: String,
    /// A minute unless given.
    #[serde(default)]
    pub within: Option<Time>,
}

/// Which task, for how long, and how it must end.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitForFinish {
    /// Name or id.
    pub task: String,
    /// A minute unless given.
    #[serde(default)]
    pub within: Option<Time>,
    /// Nothing is checked unless given.
    #[serde(default)]
    pub expect: Option<Outcome>,
}

/// How a task must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As `success`.
    Success,
    /// As an error that may be retried.
    Retryable,
    /// As an error that must not be retried.
    NonRetryable,
}

/// A length of time as people write it: `5s`, `2m 30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map(Self)
            .map_err(|error| serde::de::Error::custom(format!("{error} (write it like 5s or 2m)")))
    }
}

impl TaskSpec {
    /// The message that this describes.
    ///
    /// Entitlements, principals and grants are those of the latest file that `control` got; without one they have
    /// their ids alone.
    pub async fn build(&self, control: &Control) -> anyhow::Result<baton::Task> {
        let of = |task_type| baton::Task {
            task_type: Some(task_type),
            ..Default::default()
        };
        let mut task = match self.kind.as_str() {
            "sync_full" => full_sync(self.options.build()?),
            "hello" => hello(),
            "none" => of(TaskType::None(baton::task::NoneTask::default())),
            "unknown" => baton::Task::default(),
            "grant" => {
                let (entitlement, principal) = self.access()?;
                let (entitlement, principal) = synced(control, move |synced| match synced {
                    Some(synced) => Ok((
                        synced.entitlement(&entitlement)?,
                        synced.resource(&principal.resource_type, &principal.resource)?,
                    )),
                    None => Ok((
                        bare_entitlement(&entitlement)?,
                        v2::Resource {
                            id: Some(principal),
                            ..Default::default()
                        },
                    )),
                })
                .await?;
                tasks::grant(entitlement, principal)
            }
            "revoke" => {
                let (entitlement, principal) = self.access()?;
                let grant = synced(control, move |synced| match synced {
                    Some(synced) => synced.grant(&entitlement, &principal),
                    None => Ok(v2::Grant {
                        id: grant_id(&entitlement, &principal),
                        entitlement: Some(bare_entitlement(&entitlement)?),
                        principal: Some(v2::Resource {
                            id: Some(principal),
                            ..Default::default()
                        }),
                        ..Default::default()
                    }),
                })
                .await?;
                tasks::revoke(grant)
            }
            "create_account" => {
                tasks::create_account(self.account.build(), self.credential(), self.keys(control)?)
            }
            "create_resource" => tasks::create_resource(v2::Resource {
                id: Some(tasks::resource_id(&self.resource_type, "")),
                display_name: self.display_name.clone(),
                profile: Some(tasks::structure(&self.profile)),
                ..Default::default()
            }),
            "delete_resource" => tasks::delete_resource(self.resource()?),
            "rotate_credentials" => {
                tasks::rotate_credentials(self.resource()?, self.credential(), self.keys(control)?)
            }
            "issue_credential" => {
                let expires_at = self.expires_in.map(|time| {
                    let at = control.0.config.clock.now().as_second();
                    Timestamp {
                        seconds: at.saturating_add_unsigned(time.0.as_secs()),
                        nanos: 0,
                    }
                });
                tasks::issue_credential(
                    self.resource()?,
                    v2::CredentialIssueOptions::default(),
                    self.keys(control)?,
                    expires_at,
                )
            }
            "action_list_schemas" => tasks::action_list_schemas(&self.resource_type),
            "action_get_schema" => tasks::action_get_schema(&self.action),
            "action_invoke" => tasks::action_invoke(
                &self.action,
                &self.resource_type,
                tasks::structure(&self.args),
            ),
            "action_status" => tasks::action_status(&self.action, &self.id),
            "create_ticket_task" => tasks::create_ticket(&self.display_name),
            "bulk_create_tickets" => tasks::bulk_create_tickets(&[self.display_name.as_str()]),
            "get_ticket" => tasks::get_ticket(&self.id),
            "bulk_get_tickets" => tasks::bulk_get_tickets(&[self.id.as_str()]),
            "list_ticket_schemas" => tasks::list_ticket_schemas(),
            "list_event_feeds" => of(TaskType::ListEventFeeds(
                baton::task::ListEventFeedsTask::default(),
            )),
            "list_events" => of(TaskType::ListEvents(baton::task::ListEventsTask::default())),
            "event_feed" => of(TaskType::EventFeed(baton::task::EventFeedTask::default())),
            "create_sync_diff" => of(TaskType::CreateSyncDiff(
                baton::task::CreateSyncDiffTask::default(),
            )),
            "compact_syncs" => of(TaskType::CompactSyncs(baton::task::CompactSyncs::default())),
            "raw" => {
                let text = self
                    .message
                    .as_deref()
                    .context("a task of kind raw needs the field message")?;
                let bytes = STANDARD
                    .decode(text)
                    .context("the field message must be padded base64")?;
                baton::Task::decode(bytes.as_slice())
                    .context("the field message does not decode as a Task")?
            }
            other => bail!(
                "the kind {other:?} of task is not known here; a task of any other type can be given as kind raw"
            ),
        };
        task.debug |= self.debug;
        Ok(task)
    }

    fn access(&self) -> anyhow::Result<(String, v2::ResourceId)> {
        let entitlement = self
            .entitlement
            .clone()
            .with_context(|| format!("a task of kind {} needs the field entitlement", self.kind))?;
        let principal = self
            .principal
            .as_deref()
            .with_context(|| format!("a task of kind {} needs the field principal", self.kind))?;
        Ok((entitlement, id_of(principal)?))
    }

    fn resource(&self) -> anyhow::Result<v2::ResourceId> {
        let text = self
            .resource
            .as_deref()
            .with_context(|| format!("a task of kind {} needs the field resource", self.kind))?;
        id_of(text)
    }

    fn credential(&self) -> Option<v2::CredentialOptions> {
        let mut options = match self.credential.as_ref()? {
            CredentialSpec::RandomPassword(length) => tasks::random_password(*length),
            CredentialSpec::NoPassword => tasks::no_password(),
            CredentialSpec::Sso(provider) => tasks::sso(provider),
        };
        options.force_change_at_next_login = self.force_change;
        Some(options)
    }

    fn keys(&self, control: &Control) -> anyhow::Result<Vec<v2::EncryptionConfig>> {
        self.encrypt_to
            .iter()
            .map(|kind| control.encrypt_to(*kind))
            .collect()
    }
}

impl AccountSpec {
    fn build(&self) -> v2::AccountInfo {
        v2::AccountInfo {
            emails: self
                .emails
                .iter()
                .enumerate()
                .map(|(index, address)| v2::account_info::Email {
                    address: address.clone(),
                    is_primary: index == 0,
                })
                .collect(),
            login: self.login.clone(),
            login_aliases: self.aliases.clone(),
            profile: Some(tasks::structure(&self.profile)),
        }
    }
}

/// Looks into the latest file, away from the runtime's workers; `None` when there is none.
async fn synced<T: Send + 'static>(
    control: &Control,
    look: impl FnOnce(Option<&Synced>) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let control = control.clone();
    tokio::task::spawn_blocking(move || {
        let has_file = control
            .uploads()
            .iter()
            .any(|upload| upload.summary.is_some());
        let synced = has_file.then(|| control.synced()).transpose()?;
        look(synced.as_ref())
    })
    .await
    .context("reading the latest file panicked")?
}

/// An entitlement as far as its id tells: `<type>:<id>`, with or without a slug behind.
fn bare_entitlement(id: &str) -> anyhow::Result<v2::Entitlement> {
    let (kind, rest) = id.split_once(':').with_context(|| {
        format!("the entitlement {id:?} must have the form <type>:<id> or <type>:<id>:<slug>")
    })?;
    let (resource, slug) = rest.rsplit_once(':').unwrap_or((rest, ""));
    Ok(v2::Entitlement {
        id: id.to_owned(),
        slug: slug.to_owned(),
        resource: Some(v2::Resource {
            id: Some(tasks::resource_id(kind, resource)),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn id_of(text: &str) -> anyhow::Result<v2::ResourceId> {
    let (kind, id) = text
        .split_once('/')
        .with_context(|| format!("{text:?} must have the form <type>/<id>"))?;
    Ok(tasks::resource_id(kind, id))
}

impl SyncOptions {
    fn build(&self) -> anyhow::Result<baton::task::SyncFullTask> {
        let targeted = self
            .targeted_sync_resources
            .iter()
            .map(|text| {
                Ok(v2::Resource {
                    id: Some(id_of(text)?),
                    ..Default::default()
                })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(baton::task::SyncFullTask {
            annotations: Vec::new(),
            skip_expand_grants: self.skip_expand_grants,
            skip_entitlements_and_grants: self.skip_entitlements_and_grants,
            targeted_sync_resources: targeted,
            sync_resource_type_ids: self.sync_resource_type_ids.clone(),
            skip_grants: self.skip_grants,
            storage_engine: self.storage_engine.clone(),
        })
    }
}

impl Script {
    /// Reads a script; JSON is YAML too.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let script: Self = serde_saphyr::from_str(text).context("the script cannot be read")?;
        ensure!(
            script.0.len() <= MAX_STEPS,
            "the script has {} steps, at most {MAX_STEPS} are allowed",
            script.0.len()
        );
        Ok(script)
    }

    /// Runs every step; stops at the first that fails and names it. Cancel-safe between steps.
    pub async fn run(&self, control: &Control) -> anyhow::Result<()> {
        let mut names = Names::default();
        for (index, step) in self.0.iter().enumerate() {
            step.run(control, &mut names)
                .await
                .with_context(|| format!("step {} of the script failed", index + 1))?;
        }
        Ok(())
    }
}

/// The names that steps have given to tasks.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<String, String>);

impl Names {
    fn id<'a>(&'a self, name: &'a str) -> &'a str {
        self.0.get(name).map_or(name, String::as_str)
    }
}

impl Step {
    /// Runs this step.
    pub async fn run(&self, control: &Control, names: &mut Names) -> anyhow::Result<()> {
        let patience = |within: &Option<Time>| within.map_or(PATIENCE, |time| time.0);
        match self {
            Self::Task(spec) => {
                let id = control.enqueue(spec.build(control).await?);
                if let Some(name) = &spec.name {
                    names.0.insert(name.clone(), id);
                }
            }
            Self::Cancel(task) => ensure!(
                control.cancel(names.id(task)),
                "there is no task {task:?} to cancel"
            ),
            Self::DeliverAgain(task) => ensure!(
                control.deliver_again(names.id(task)),
                "there is no task {task:?} to hand out again"
            ),
            Self::ExpectSecrets(task) => ensure!(
                !control.reveal(names.id(task))?.is_empty(),
                "the task {task:?} gave no secrets"
            ),
            Self::WaitForHello(within) => drop(control.wait_for_hello(within.0).await?),
            Self::WaitForFinish(wait) => {
                let finish = control
                    .wait_for_finish(names.id(&wait.task), patience(&wait.within))
                    .await?;
                let outcome = if finish.is_success() {
                    Outcome::Success
                } else if finish.is_non_retryable() {
                    Outcome::NonRetryable
                } else {
                    Outcome::Retryable
                };
                ensure!(
                    wait.expect.is_none_or(|expected| expected == outcome),
                    "the task {:?} ended as {outcome:?}: code {} {}",
                    wait.task,
                    finish.code(),
                    finish.message()
                );
            }
            Self::WaitForUpload(wait) => drop(
                control
                    .wait_for_upload(names.id(&wait.task), patience(&wait.within))
                    .await?,
            ),
            Self::WaitForDelivery(wait) => drop(
                control
                    .wait_for_delivery(names.id(&wait.task), 1, patience(&wait.within))
                    .await?,
            ),
            Self::WaitForCalls { rpc, count } => {
                control.wait_for_calls(*rpc, *count, PATIENCE).await?;
            }
            Self::Pause(time) => tokio::time::sleep(time.0).await,
            Self::RejectSecret(reject) => control.reject_secret(*reject),
            Self::TokenDown(time) => control.token_endpoint_down_for(time.0),
            Self::TokenLife(time) => control.set_token_life(time.0),
            Self::RevokeTokens => control.revoke_tokens(),
            Self::RetireSecrets => control.retire_secrets(),
            Self::Outage(time) => control.outage_for(time.0),
            Self::Goaway => control.goaway(),
            Self::Fail { rpc, code } => control.fail_next(*rpc, tonic::Code::from_i32(*code)),
            Self::Delay { rpc, by } => control.delay(*rpc, by.0),
            Self::RefuseChecksum => control.refuse_next_checksum(),
            Self::LoseFinishAnswer => control.lose_next_finish_answer(),
            Self::BreakUpload { after, how } => control.break_next_upload(*after, *how),
            Self::AssertClean => {
                let breaches = control.breaches();
                if let Some(first) = breaches.first() {
                    bail!("{} rules were broken, first: {first}", breaches.len());
                }
            }
        }
        Ok(())
    }
}
