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

use super::{Break, Control, Rpc, full_sync, hello};
use crate::proto::{
    baton::{self, task::TaskType},
    connector as v2,
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
    Task(TaskSpec),
    /// Lets heartbeats say that a task (by name or id) is cancelled.
    Cancel(String),
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
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// What later steps call it.
    #[serde(default)]
    pub name: Option<String>,
    /// `sync_full`, `hello`, `none`, `unknown`, `list_ticket_schemas`, `list_event_feeds`, `list_events`,
    /// `event_feed`, `action_list_schemas`, `create_sync_diff`, `compact_syncs`, or `raw`.
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
    pub fn build(&self) -> anyhow::Result<baton::Task> {
        let of = |task_type| baton::Task {
            task_type: Some(task_type),
            ..Default::default()
        };
        let mut task = match self.kind.as_str() {
            "sync_full" => full_sync(self.options.build()?),
            "hello" => hello(),
            "none" => of(TaskType::None(baton::task::NoneTask::default())),
            "unknown" => baton::Task::default(),
            "list_ticket_schemas" => of(TaskType::ListTicketSchemas(
                baton::task::ListTicketSchemasTask::default(),
            )),
            "list_event_feeds" => of(TaskType::ListEventFeeds(
                baton::task::ListEventFeedsTask::default(),
            )),
            "list_events" => of(TaskType::ListEvents(baton::task::ListEventsTask::default())),
            "event_feed" => of(TaskType::EventFeed(baton::task::EventFeedTask::default())),
            "action_list_schemas" => of(TaskType::ActionListSchemas(
                baton::task::ActionListSchemasTask::default(),
            )),
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
}

impl SyncOptions {
    fn build(&self) -> anyhow::Result<baton::task::SyncFullTask> {
        let targeted = self
            .targeted_sync_resources
            .iter()
            .map(|text| {
                let (kind, id) = text
                    .split_once('/')
                    .with_context(|| format!("{text:?} must have the form <type>/<id>"))?;
                Ok(v2::Resource {
                    id: Some(v2::ResourceId {
                        resource_type: kind.to_owned(),
                        resource: id.to_owned(),
                        ..Default::default()
                    }),
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
                let id = control.enqueue(spec.build()?);
                if let Some(name) = &spec.name {
                    names.0.insert(name.clone(), id);
                }
            }
            Self::Cancel(task) => ensure!(
                control.cancel(names.id(task)),
                "there is no task {task:?} to cancel"
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
