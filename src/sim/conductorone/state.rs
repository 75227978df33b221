//! Everything that the simulator remembers: tasks, records, faults, breaches; and the waiting for a change of it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use svix_ksuid::{KSUID_EPOCH, Ksuid};
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Config,
    credentials::{Client, Refusal, Tokens},
    faults::RpcRule,
    keys::Keys,
    upload::Summary,
};
use crate::{
    proto::baton::{self, baton_service_finish_task_request::FinalState, task::TaskType},
    sim::{inject::Injections, network::Network, tls::Tls},
};

/// How many records of a kind are kept; older ones are dropped, counters stay.
const KEPT: usize = 10_000;

/// A method of the `BatonService`, or the token endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[expect(missing_docs, reason = "the names are those of the service")]
pub enum Rpc {
    Token,
    Hello,
    GetTask,
    GetTasks,
    Heartbeat,
    UploadAsset,
    FinishTask,
    StartDebugging,
    /// A path that is not served.
    Other,
}

impl fmt::Display for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A rule that the client broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// Where it was broken.
    pub rpc: Rpc,
    /// The path of the field, such as `connector_metadata.display_name`.
    pub field: String,
    /// What is wrong, without the value.
    pub problem: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.rpc, self.field, self.problem)
    }
}

/// When something happened: the position among all records, and the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Counts all records of the simulator, so that records of different kinds can be ordered.
    pub order: u64,
    /// The clock of the simulator.
    pub at: Timestamp,
}

/// A request to the token endpoint.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// When it came.
    pub moment: Moment,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// Why it was refused; `None` when a token was issued.
    pub refused: Option<String>,
}

/// A Hello.
#[derive(Debug, Clone)]
pub struct Hello {
    /// When it came.
    pub moment: Moment,
    /// The `user-agent` metadata.
    pub user_agent: String,
    /// The whole message.
    pub request: baton::BatonServiceHelloRequest,
}

/// A `GetTask` or `GetTasks`.
#[derive(Debug, Clone)]
pub struct Poll {
    /// When it came.
    pub moment: Moment,
    /// `GetTasks` rather than `GetTask`.
    pub batch: bool,
    /// What the client said it knows already (`GetTasks` only).
    pub known: Vec<String>,
    /// The tasks handed out.
    pub handed: Vec<String>,
}

/// A heartbeat.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// When it came.
    pub moment: Moment,
    /// `task_id` first, then `task_ids`.
    pub task_ids: Vec<String>,
    /// The answer said that the task is cancelled.
    pub cancelled: bool,
}

/// A `FinishTask`.
#[derive(Debug, Clone)]
pub struct Finish {
    /// When it came.
    pub moment: Moment,
    /// The whole message.
    pub request: baton::BatonServiceFinishTaskRequest,
    /// It repeats one whose answer the simulator had lost on purpose.
    pub repeated: bool,
}

impl Finish {
    /// The task ended as `success`.
    pub fn is_success(&self) -> bool {
        matches!(self.request.final_state, Some(FinalState::Success(_)))
    }

    /// The task ended as an error that must not be retried.
    pub fn is_non_retryable(&self) -> bool {
        matches!(&self.request.final_state, Some(FinalState::Error(error)) if error.non_retryable)
    }

    /// The status code; 0 for a success.
    pub fn code(&self) -> i32 {
        self.request.status.as_ref().map_or(0, |status| status.code)
    }

    /// The status message; empty for a success.
    pub fn message(&self) -> &str {
        self.request
            .status
            .as_ref()
            .map_or("", |status| status.message.as_str())
    }
}

/// A file that arrived whole and passed its checks.
#[derive(Debug, Clone)]
pub struct Upload {
    /// When its last byte came.
    pub moment: Moment,
    /// The task it belongs to.
    pub task_id: String,
    /// Size of the file.
    pub bytes: u64,
    /// How many data messages carried it.
    pub chunks: u64,
    /// Lowercase hex.
    pub sha256: String,
    /// Where the simulator keeps it until it is dropped.
    pub path: PathBuf,
    /// What is inside; `None` for the debug log of a task with `debug` set.
    pub summary: Option<Summary>,
}

/// How far a task has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Waits to be asked for.
    Queued,
    /// Handed out; handed out again when the lease ends without heartbeat or finish.
    Leased {
        /// The end of the lease.
        until: Instant,
    },
    /// Finished, or answered by its Hello.
    Finished,
}

/// A task and what became of it.
#[derive(Debug, Clone)]
pub struct TaskState {
    /// The task as it is sent.
    pub task: baton::Task,
    /// How far it has come.
    pub stage: Stage,
    /// How often it was handed out.
    pub deliveries: u32,
    /// How often it was finished, repeats of a lost answer left out.
    pub finishes: u32,
    /// Heartbeats since the last delivery of a task that was not being worked on.
    pub heartbeats: u32,
    /// Verified uploads since then.
    pub uploads: u32,
    /// Heartbeats answer that it is cancelled.
    pub cancelled: bool,
    pub(super) lost_answers: u32,
    pub(super) finished_at: Option<Instant>,
}

impl TaskState {
    /// Whether nobody works on it any more. The end of one delivery may come when the next one is handed out already.
    pub(super) fn is_over(&self) -> bool {
        let is_taken_up = (1..self.deliveries).contains(&self.finishes);
        self.stage == Stage::Finished && !is_taken_up
    }
}

/// Something that happened, in words for people.
#[derive(Debug, Clone)]
pub struct Event {
    /// When.
    pub moment: Moment,
    /// One line.
    pub text: String,
}

/// What the simulator does wrong on purpose.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) reject_secret: bool,
    pub(super) token_down_until: Option<Instant>,
    pub(super) fail: BTreeMap<Rpc, VecDeque<tonic::Code>>,
    pub(super) delays: BTreeMap<Rpc, Duration>,
    pub(super) refuse_checksums: u32,
    pub(super) lose_finish_answers: u32,
    pub(super) break_uploads: VecDeque<(u64, super::Break)>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) token_life: Duration,
    pub(super) next_poll: Option<Duration>,
    pub(super) next_heartbeat: Option<Duration>,
    pub(super) tokens: Tokens,
    pub(super) nonces: BTreeSet<String>,
    pub(super) order: u64,
    pub(super) calls: BTreeMap<Rpc, u64>,
    pub(super) tasks: Vec<TaskState>,
    pub(super) token_requests: VecDeque<TokenRequest>,
    pub(super) hellos: VecDeque<Hello>,
    pub(super) polls: VecDeque<Poll>,
    pub(super) heartbeats: VecDeque<Heartbeat>,
    pub(super) finishes: VecDeque<Finish>,
    pub(super) uploads: VecDeque<Upload>,
    pub(super) breaches: Vec<Breach>,
    /// How many of the breaches somebody has looked at.
    pub(super) seen: usize,
    pub(super) faults: Faults,
    /// By host id: the earliest next poll that `next_poll` of the last answer allows.
    pub(super) poll_not_before: BTreeMap<String, Instant>,
    /// When an outage last cut all connections.
    pub(super) cut_at: Option<Instant>,
    /// Ends every connection politely.
    pub(super) drain: CancellationToken,
}

/// State, and the means to wait for its changes.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) client: Client,
    pub(super) keys: Keys,
    pub(super) folder: PathBuf,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    events: broadcast::Sender<Event>,
    pub(super) network: Network,
    pub(super) tls: Tls,
    pub(super) injections: Injections<RpcRule>,
    /// Seconds by which our clock goes ahead of the configured one.
    skew: AtomicI64,
}

impl Shared {
    pub(super) fn new(config: Config, client: Client, tls: Tls, folder: PathBuf) -> Arc<Self> {
        let state = State {
            token_life: config.token_life,
            next_poll: config.next_poll,
            next_heartbeat: config.next_heartbeat,
            tokens: Tokens::default(),
            nonces: BTreeSet::new(),
            order: 0,
            calls: BTreeMap::new(),
            tasks: Vec::new(),
            token_requests: VecDeque::new(),
            hellos: VecDeque::new(),
            polls: VecDeque::new(),
            heartbeats: VecDeque::new(),
            finishes: VecDeque::new(),
            uploads: VecDeque::new(),
            breaches: Vec::new(),
            seen: 0,
            faults: Faults::default(),
            poll_not_before: BTreeMap::new(),
            cut_at: None,
            drain: CancellationToken::new(),
        };
        Arc::new(Self {
            config,
            client,
            keys: Keys::default(),
            folder,
            state: Mutex::new(state),
            changed: watch::channel(0).0,
            events: broadcast::channel(1024).0,
            network: Network::default(),
            tls,
            injections: Injections::default(),
            skew: AtomicI64::new(0),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time as the simulator has it: what it judges by, and says in `Date`.
    pub(super) fn now(&self) -> Timestamp {
        let now = self.config.clock.now();
        let skew = SignedDuration::from_secs(self.skew.load(Ordering::Relaxed));
        now.checked_add(skew).unwrap_or(now)
    }

    pub(super) fn set_skew(&self, seconds: i64) {
        self.skew.store(seconds, Ordering::Relaxed);
    }

    /// An answer that is cut off cannot bind its client.
    pub(super) fn forget_polls(&self) {
        self.update(|state| state.poll_not_before.clear());
    }

    /// An outage cuts off every answer that is under way: an end may be reported again, too.
    pub(super) fn cut_off(&self) {
        self.forget_polls();
        self.update(|state| state.cut_at = Some(Instant::now()));
    }

    /// Changes the state and wakes everybody who waits for a change.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed
            .send_modify(|version| *version = version.wrapping_add(1));
        result
    }

    pub(super) fn moment(&self, state: &mut State) -> Moment {
        state.order += 1;
        Moment {
            order: state.order,
            at: self.config.clock.now(),
        }
    }

    /// Tells whoever listens; nobody has to.
    pub(super) fn tell(&self, moment: Moment, text: String) {
        let event = Event { moment, text };
        if self.events.send(event).is_err() {
            tracing::trace!("nobody listens to the simulator");
        }
    }

    pub(super) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Records a breach and makes the error that the client gets for it.
    pub(super) fn breach(&self, rpc: Rpc, field: &str, problem: &str) -> tonic::Status {
        let breach = Breach {
            rpc,
            field: field.to_owned(),
            problem: problem.to_owned(),
        };
        let text = breach.to_string();
        let moment = self.update(|state| {
            if state.breaches.len() < KEPT {
                state.breaches.push(breach);
            }
            self.moment(state)
        });
        self.tell(moment, format!("BREACH  {text}"));
        tonic::Status::invalid_argument(text)
    }

    pub(super) fn refuse(&self, rpc: Rpc, refusal: &Refusal) -> tonic::Status {
        if refusal.is_breach {
            drop(self.breach(rpc, &refusal.field, &refusal.problem));
        }
        tonic::Status::unauthenticated(refusal.to_string())
    }

    /// Waits until `look` finds what it looks for.
    pub(super) async fn wait_for<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut look: impl FnMut(&State) -> Option<T>,
    ) -> anyhow::Result<T> {
        let mut changed = self.changed.subscribe();
        let found = tokio::time::timeout(timeout, async {
            loop {
                changed.mark_unchanged();
                if let Some(found) = look(&self.lock()) {
                    return Ok(found);
                }
                changed
                    .changed()
                    .await
                    .context("the simulator has stopped")?;
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_elapsed) => anyhow::bail!("waited {timeout:?} for {what} in vain"),
        }
    }
}

impl State {
    pub(super) fn task(&mut self, id: &str) -> Option<&mut TaskState> {
        self.tasks.iter_mut().find(|task| task.task.id == id)
    }

    pub(super) fn enqueue(&mut self, mut task: baton::Task, now: Timestamp) -> String {
        if task.id.is_empty() {
            let seconds = u32::try_from(now.as_second() - KSUID_EPOCH).unwrap_or_default();
            task.id = Ksuid::new_raw(seconds, None).to_string();
        }
        let id = task.id.clone();
        self.tasks.push(TaskState {
            task,
            stage: Stage::Queued,
            deliveries: 0,
            finishes: 0,
            heartbeats: 0,
            uploads: 0,
            cancelled: false,
            lost_answers: 0,
            finished_at: None,
        });
        id
    }

    /// Hands out up to `limit` tasks: queued ones, and those whose lease has ended.
    pub(super) fn hand_out(
        &mut self,
        limit: usize,
        known: &[String],
        lease: Duration,
        now: Instant,
    ) -> Vec<baton::Task> {
        self.tasks
            .iter_mut()
            .filter(|task| !known.contains(&task.task.id))
            .filter(|task| match task.stage {
                Stage::Queued => true,
                Stage::Leased { until } => until <= now,
                Stage::Finished => false,
            })
            .take(limit)
            .map(|task| {
                task.stage = Stage::Leased { until: now + lease };
                // Whoever still works on an earlier delivery keeps what they have sent for it.
                if task.finishes >= task.deliveries {
                    task.heartbeats = 0;
                    task.uploads = 0;
                }
                task.deliveries += 1;
                let mut copy = task.task.clone();
                copy.set_status(baton::task::Status::Running);
                copy
            })
            .collect()
    }
}

pub(super) fn keep<T>(records: &mut VecDeque<T>, record: T) {
    if records.len() >= KEPT {
        drop(records.pop_front());
    }
    records.push_back(record);
}

/// The name of a task's type, as people write it.
pub fn kind(task: &baton::Task) -> &'static str {
    match &task.task_type {
        None => "unknown",
        Some(TaskType::None(_)) => "none",
        Some(TaskType::Hello(_)) => "hello",
        Some(TaskType::SyncFull(_)) => "sync_full",
        Some(TaskType::Grant(_)) => "grant",
        Some(TaskType::Revoke(_)) => "revoke",
        Some(TaskType::CreateAccount(_)) => "create_account",
        Some(TaskType::CreateResource(_)) => "create_resource",
        Some(TaskType::DeleteResource(_)) => "delete_resource",
        Some(TaskType::RotateCredentials(_)) => "rotate_credentials",
        Some(TaskType::EventFeed(_)) => "event_feed",
        Some(TaskType::CreateTicketTask(_)) => "create_ticket_task",
        Some(TaskType::ListTicketSchemas(_)) => "list_ticket_schemas",
        Some(TaskType::GetTicket(_)) => "get_ticket",
        Some(TaskType::BulkCreateTickets(_)) => "bulk_create_tickets",
        Some(TaskType::BulkGetTickets(_)) => "bulk_get_tickets",
        Some(TaskType::ActionListSchemas(_)) => "action_list_schemas",
        Some(TaskType::ActionGetSchema(_)) => "action_get_schema",
        Some(TaskType::ActionInvoke(_)) => "action_invoke",
        Some(TaskType::ActionStatus(_)) => "action_status",
        Some(TaskType::CreateSyncDiff(_)) => "create_sync_diff",
        Some(TaskType::CompactSyncs(_)) => "compact_syncs",
        Some(TaskType::ListEventFeeds(_)) => "list_event_feeds",
        Some(TaskType::ListEvents(_)) => "list_events",
        Some(TaskType::IssueCredential(_)) => "issue_credential",
    }
}
