//! The worker loop: announce, take a slot, ask for work, run it, report it, and stop in order.
//!
//! Owns the slots, the list of tasks at hand, the pace of polling, heartbeats and the reporting of results. Never does
//! the work of a task itself, and never knows how ConductorOne is reached. Invariants:
//!
//! - a task is asked for only while a slot is free, and a task id is never worked on twice at the same time;
//! - every task that was accepted is reported exactly once, also when its handler panics, does not exist, ignores a
//!   request to stop, or the process is going down; a lost report is logged as an error and counted;
//! - a replica that stands by asks for no task, and goes on with those that it has;
//! - nothing outlives [`run`]: every task is a member of one set, which is aborted at the end of the grace period.

use std::{
    collections::BTreeSet,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    control_plane::{self, ControlPlane, Polled},
    error::{Class, Classify, Code, chain},
    handlers::{Kind, Registry},
    notice::{Notice, Notices, Peer},
    proto::baton,
    supervisor::{
        health::{Fault, Health},
        lock,
    },
    telemetry::{
        metrics::{Metrics, Skipped},
        spans,
    },
};

pub mod heartbeat;
pub mod outcome;
mod pace;
mod task;

use self::{
    pace::{Backoff, Pace},
    task::{Claim, Job},
};

/// The most tasks that run at once, and the most that the server hands out in one answer.
pub const MAX_CONCURRENCY: usize = 100;
/// The most that the server may delay the next poll; longer wishes are cut, as in the SDK.
const MAX_NEXT_POLL: Duration = Duration::from_mins(5);
/// Keeps a server that asks for a tiny delay from turning the loop into a spin.
const POLL_FLOOR: Duration = Duration::from_millis(100);
/// After this long of failing polls people are told.
const DEGRADED_AFTER: Duration = Duration::from_mins(2);
/// How often the loop says that it is alive while it waits.
const BEAT: Duration = Duration::from_secs(30);
/// How long aborted tasks are waited for at the very end.
const ABORT_LIMIT: Duration = Duration::from_secs(1);
/// The length of a task id.
const TASK_ID_LENGTH: usize = 27;

/// How the loop works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many tasks run at once; values outside 1 to 100 are brought inside.
    pub concurrency: usize,
    /// Ask for batches with `GetTasks` instead of one task with `GetTask`.
    pub get_tasks: bool,
    /// How long [`run`] takes at most to end after shutdown began.
    pub shutdown_grace: Duration,
    /// How much of the grace is kept for stopping and reporting what still runs; at most half of it is.
    pub shutdown_margin: Duration,
    /// Whether it is this replica's turn to ask for tasks, where one of several works at a time; unchanged until that is
    /// known, and never again once the sender is gone. Absent means always.
    pub leading: Option<watch::Receiver<bool>>,
    /// Limits and intervals of single calls.
    pub timing: Timing,
    /// What changes the pace from outside.
    pub signals: Signals,
}

/// What changes the pace of the loop from outside.
#[derive(Debug, Clone)]
pub struct Signals {
    /// Changes when other credentials are in use: a poll that failed is then repeated at once.
    pub replaced: watch::Receiver<u64>,
    /// Hears what people should know.
    pub notices: Notices,
}

impl Default for Signals {
    /// Credentials that never change, and nobody who listens.
    fn default() -> Self {
        Self {
            replaced: watch::channel(0).1,
            notices: Notices::new(),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrency: 3,
            get_tasks: false,
            shutdown_grace: Duration::from_secs(30),
            shutdown_margin: Duration::from_secs(5),
            leading: None,
            timing: Timing::default(),
            signals: Signals::default(),
        }
    }
}

/// Limits and intervals of single calls.
#[derive(Debug, Clone)]
pub struct Timing {
    /// The longest that one call to ConductorOne may take.
    pub call_limit: Duration,
    /// The longest that a poll under way is awaited after shutdown began, so that a task in it is not lost.
    pub last_poll_limit: Duration,
    /// The delay after a poll that brought no work and no wish of the server.
    pub idle_poll: Duration,
    /// The interval of heartbeats until the server says otherwise.
    pub heartbeat: Duration,
    /// A task is given up after nine failed heartbeats in a row, but not sooner than this after the last good one.
    pub heartbeat_lost_after: Duration,
    /// How long a handler that was asked to stop may take before it is dropped.
    pub stop_limit: Duration,
    /// How long the report of a result is retried.
    pub finish_budget: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            call_limit: Duration::from_secs(30),
            last_poll_limit: Duration::from_secs(2),
            idle_poll: Duration::from_secs(1),
            heartbeat: Duration::from_secs(30),
            heartbeat_lost_after: Duration::from_mins(10),
            stop_limit: Duration::from_secs(30),
            finish_budget: Duration::from_mins(5),
        }
    }
}

/// Why the loop ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The first Hello was refused in a way that trying again does not change.
    #[error("ConductorOne refused this connector at start; {}", advice(.source))]
    HelloRefused {
        /// The refusal.
        #[source]
        source: control_plane::Error,
    },
}

impl Error {
    /// The exit code of the process: 1, as for every failure that is not a bad configuration.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::HelloRefused { .. } => 1,
        }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        let Self::HelloRefused { source } = self;
        source.class()
    }

    fn code(&self) -> Code {
        let Self::HelloRefused { source } = self;
        source.code()
    }
}

/// What a person can do about a refused Hello.
fn advice(error: &control_plane::Error) -> &'static str {
    match (error.class(), error.code()) {
        (_, Code::PermissionDenied) => {
            "check in ConductorOne that the credential belongs to this connector and is not revoked"
        }
        (Class::Auth, _) => {
            "check the client id and the client secret, or issue a new credential in ConductorOne"
        }
        (_, Code::NotFound) => "check that the connector still exists in ConductorOne",
        (_, Code::Unimplemented) => "check BATON_C1_API_HOST: the host does not serve this API",
        _ => "the message below says which part of the announcement it does not accept",
    }
}

/// Whether a failed first Hello ends the process.
///
/// Rejected credentials and requests that cannot become right are fatal. An API that cannot be reached, is overloaded
/// or fails inside is not: it is tried again for ever.
fn is_fatal(error: &control_plane::Error) -> bool {
    matches!(error.class(), Class::Auth)
        || matches!(
            error.code(),
            Code::InvalidArgument
                | Code::Unimplemented
                | Code::FailedPrecondition
                | Code::NotFound
                | Code::PermissionDenied
        )
}

/// Works for ConductorOne until `shutdown` is cancelled, then stops in order within the grace period.
///
/// Ends early only when the first Hello is refused for good. Dropping the future aborts the tasks at hand without
/// reporting them; cancel `shutdown` instead.
pub async fn run(
    mut settings: Settings,
    control_plane: Arc<dyn ControlPlane>,
    registry: Arc<Registry>,
    health: Arc<Health>,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let stopped = say_hello(
        control_plane.as_ref(),
        &registry,
        &health,
        &settings.timing,
        &shutdown,
    );
    if stopped.await? == Hello::ShutDown {
        health.stop();
        return Ok(());
    }
    if let Some(leading) = &mut settings.leading
        && !turn_is_known(leading, &health, &shutdown).await
    {
        health.stop();
        return Ok(());
    }
    health.start();
    Dispatcher::new(settings, control_plane, registry, health, metrics, shutdown)
        .work()
        .await;
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Hello {
    Accepted,
    ShutDown,
}

async fn say_hello(
    control_plane: &dyn ControlPlane,
    registry: &Registry,
    health: &Health,
    timing: &Timing,
    shutdown: &CancellationToken,
) -> Result<Hello, Error> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(5));
    loop {
        // The loop is alive while it waits for an answer, too.
        health.beat(timing.call_limit);
        let call = timeout(timing.call_limit, control_plane.hello(registry.hello("")));
        let answer = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(Hello::ShutDown),
            answer = call => answer,
        };
        let (wait, problem) = match answer {
            Ok(Ok(())) => {
                tracing::info!("ConductorOne accepted the announcement of this connector");
                return Ok(Hello::Accepted);
            }
            Ok(Err(source)) if is_fatal(&source) => return Err(Error::HelloRefused { source }),
            Ok(Err(error)) => (backoff.after(error.class()), chain(&error)),
            Err(_elapsed) => (backoff.next(), NO_ANSWER.to_owned()),
        };
        if backoff.attempts() <= 2 {
            tracing::info!(
                error = problem,
                wait_ms = millis(wait),
                "the announcement failed and is repeated"
            );
        } else {
            tracing::warn!(
                error = problem,
                attempts = backoff.attempts(),
                wait_ms = millis(wait),
                "ConductorOne cannot be reached yet; check the network, DNS and the proxy if this goes on"
            );
        }
        health.beat(wait);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(Hello::ShutDown),
            () = sleep(wait) => {}
        }
    }
}

/// Waits until it is known whether it is our turn; `false` when shutdown begins before.
///
/// A replica that cannot find out would never work, so it must not look ready.
async fn turn_is_known(
    leading: &mut watch::Receiver<bool>,
    health: &Health,
    shutdown: &CancellationToken,
) -> bool {
    loop {
        health.beat(BEAT);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return false,
            _ = leading.changed() => return true,
            () = sleep(BEAT) => {}
        }
    }
}

/// Waits until it is our turn to ask for tasks; for ever when nobody is left to say so. Cancel-safe.
async fn our_turn(leading: &mut watch::Receiver<bool>) {
    if leading.wait_for(|leading| *leading).await.is_err() {
        pending::<()>().await;
    }
}

const NO_ANSWER: &str = "no answer within the time limit";

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What the loop and its tasks share.
struct Shared {
    settings: Settings,
    control_plane: Arc<dyn ControlPlane>,
    registry: Arc<Registry>,
    metrics: Metrics,
    known: Arc<Mutex<BTreeSet<String>>>,
    /// Polling has ended; tasks that have not begun are handed back.
    stopping: CancellationToken,
    /// The time of running tasks is over.
    abort: CancellationToken,
    /// When the process ends, once that is known.
    end: watch::Sender<Option<Instant>>,
}

impl Shared {
    async fn ask(&self, batches: bool) -> Result<Polled, control_plane::Error> {
        if !batches {
            return self.control_plane.next_task().await;
        }
        let known: Vec<String> = lock(&self.known).iter().cloned().collect();
        // Up to twice as many as can run, so that the next task is at hand when a slot falls free; the SDK's rule. The
        // server accepts at most 100.
        let page = (2 * self.settings.concurrency)
            .saturating_sub(known.len())
            .clamp(1, MAX_CONCURRENCY);
        let page = u32::try_from(page).unwrap_or(1);
        self.control_plane.next_tasks(page, known).await
    }

    /// When the grace period ends; the first call, made when shutdown is seen, starts it.
    fn process_end(&self) -> Instant {
        let fresh = Instant::now() + self.settings.shutdown_grace;
        self.end.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert(fresh);
            first
        });
        (*self.end.borrow()).unwrap_or(fresh)
    }
}

struct Dispatcher {
    shared: Arc<Shared>,
    health: Arc<Health>,
    slots: Arc<Semaphore>,
    tasks: JoinSet<()>,
    pace: Pace,
    batches: bool,
    failing_since: Option<Instant>,
    /// People were told that polls have been failing for a while.
    degraded: bool,
}

/// The next value; never, when the sender is gone.
async fn next<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        pending::<()>().await;
    }
}

/// What a wait of the loop ended with.
enum Waited<T> {
    Done(T),
    ShutDown,
}

impl Dispatcher {
    fn new(
        mut settings: Settings,
        control_plane: Arc<dyn ControlPlane>,
        registry: Arc<Registry>,
        health: Arc<Health>,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) -> Self {
        settings.concurrency = settings.concurrency.clamp(1, MAX_CONCURRENCY);
        settings.shutdown_margin = settings.shutdown_margin.min(settings.shutdown_grace / 2);
        let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::None);
        metrics.dispatching(settings.concurrency, kinds.map(Kind::name));
        Self {
            health,
            slots: Arc::new(Semaphore::new(settings.concurrency)),
            tasks: JoinSet::new(),
            pace: Pace::new(),
            batches: settings.get_tasks,
            failing_since: None,
            degraded: false,
            shared: Arc::new(Shared {
                settings,
                control_plane,
                registry,
                metrics,
                known: Arc::default(),
                stopping: shutdown,
                abort: CancellationToken::new(),
                end: watch::Sender::new(None),
            }),
        }
    }

    async fn work(mut self) {
        let mut replaced = self.shared.settings.signals.replaced.clone();
        let mut wait = Duration::ZERO;
        loop {
            // The server's wish stands; after a failure other credentials may make an end of the pause.
            let failing = self.failing_since.is_some();
            let pause = async {
                tokio::select! {
                    () = sleep(wait) => {}
                    () = next(&mut replaced), if failing => {}
                }
            };
            let Waited::Done(()) = self.wait(pause, wait).await else {
                break;
            };
            let slots = Arc::clone(&self.slots);
            let Waited::Done(Ok(slot)) = self.wait(slots.acquire_owned(), Duration::ZERO).await
            else {
                break;
            };
            if let Some(mut leading) = self.shared.settings.leading.clone() {
                self.shared.metrics.leading(*leading.borrow());
                if let Waited::ShutDown = self.wait(our_turn(&mut leading), Duration::ZERO).await {
                    break;
                }
            }
            self.shared.metrics.leading(true);
            wait = self.poll(slot).await;
        }
        self.stop().await;
    }

    /// Waits for something, reaps ended tasks meanwhile, and says that the loop is alive.
    async fn wait<F: Future>(&mut self, what: F, expected: Duration) -> Waited<F::Output> {
        let stopping = self.shared.stopping.clone();
        let mut what = std::pin::pin!(what);
        self.health.beat(expected);
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Waited::ShutDown,
                done = &mut what => return Waited::Done(done),
                Some(ended) = self.tasks.join_next() => log_end(ended),
                () = sleep(BEAT) => self.health.beat(expected),
            }
        }
    }

    /// Asks for work once; answers with the time to wait before the next turn.
    async fn poll(&mut self, slot: OwnedSemaphorePermit) -> Duration {
        let shared = Arc::clone(&self.shared);
        let timing = &shared.settings.timing;
        let mut ask = std::pin::pin!(timeout(timing.call_limit, shared.ask(self.batches)));
        let answer = tokio::select! {
            biased;
            answer = &mut ask => answer,
            () = shared.stopping.cancelled() => {
                shared.process_end();
                // What is in the answer was handed to us; taking it lets us hand it back.
                match timeout(timing.last_poll_limit, ask).await {
                    Ok(answer) => answer,
                    Err(_elapsed) => return Duration::ZERO,
                }
            }
        };
        match answer {
            Ok(Ok(polled)) => {
                shared.metrics.poll_succeeded();
                self.pace.succeeded();
                self.tell_success();
                self.accept(polled, slot)
            }
            Ok(Err(error)) if self.batches && error.code() == Code::Unimplemented => {
                tracing::warn!(
                    "the server does not serve GetTasks; tasks are asked for one by one from now on"
                );
                self.batches = false;
                Duration::ZERO
            }
            Ok(Err(error)) => self.failed(error.class(), &chain(&error)),
            Err(_elapsed) => self.failed(Class::Retryable, NO_ANSWER),
        }
    }

    /// A poll failed; answers with the time to wait before the next one.
    fn failed(&mut self, class: Class, problem: &str) -> Duration {
        let peer = Peer::ConductorOne;
        let metrics = &self.shared.metrics;
        metrics.poll_failed();
        let silent = self
            .failing_since
            .get_or_insert_with(Instant::now)
            .elapsed();
        let notices = &self.shared.settings.signals.notices;
        if class == Class::Auth {
            if self.health.set_fault(Fault::Credentials(peer), true) {
                notices.tell(Notice::CredentialsRejected {
                    peer,
                    problem: problem.to_owned(),
                });
            }
            metrics.credentials_rejected(peer, true);
        } else if silent >= DEGRADED_AFTER && !self.degraded {
            self.degraded = true;
            notices.tell(Notice::Degraded {
                peer,
                problem: problem.to_owned(),
            });
        }
        self.pace.failed(class, problem)
    }

    /// A poll succeeded.
    fn tell_success(&mut self) {
        let peer = Peer::ConductorOne;
        self.failing_since = None;
        let notices = &self.shared.settings.signals.notices;
        if std::mem::take(&mut self.degraded) {
            notices.tell(Notice::Recovered { peer });
        }
        self.health.set_fault(Fault::Credentials(peer), false);
        let rejected = self.health.is_rejected_by(peer);
        self.shared.metrics.credentials_rejected(peer, rejected);
    }

    /// Starts what a poll brought; the first task gets the slot, the others wait for theirs in order.
    fn accept(&mut self, polled: Polled, slot: OwnedSemaphorePermit) -> Duration {
        let mut slot = Some(slot);
        let mut accepted = 0_usize;
        for task in polled.tasks {
            let kind = Kind::of(&task);
            if kind == Kind::None {
                continue;
            }
            if let Some(claim) = self.claim(&task, kind) {
                accepted += 1;
                self.start(task, kind, claim, slot.take());
            }
        }
        match polled.next_poll.filter(|next| !next.is_zero()) {
            Some(next) => next.clamp(POLL_FLOOR, MAX_NEXT_POLL),
            None if accepted == 0 => self.shared.settings.timing.idle_poll,
            None => Duration::ZERO,
        }
    }

    fn claim(&self, task: &baton::Task, kind: Kind) -> Option<Claim> {
        if !is_task_id(&task.id) {
            self.shared.metrics.task_skipped(Skipped::MalformedId);
            tracing::error!(
                task.kind = kind.name(),
                length = task.id.len(),
                "a task was left alone because its id is not 27 letters and digits, so it cannot be reported"
            );
            return None;
        }
        let claim = Claim::new(&task.id, &self.shared.known);
        if claim.is_none() {
            self.shared.metrics.task_skipped(Skipped::Duplicate);
            tracing::warn!(
                task.id = task.id,
                task.kind = kind.name(),
                "a task was handed out again while it is being worked on; the second delivery is ignored"
            );
        }
        claim
    }

    fn start(
        &mut self,
        task: baton::Task,
        kind: Kind,
        claim: Claim,
        slot: Option<OwnedSemaphorePermit>,
    ) {
        self.shared.metrics.task_accepted(kind.name());
        tracing::info!(
            task.id = task.id,
            task.kind = kind.name(),
            "a task was accepted"
        );
        let job = Job {
            task,
            kind,
            shared: Arc::clone(&self.shared),
            slots: Arc::clone(&self.slots),
        };
        let span = spans::task(&job.task.id, kind.name());
        let work = async move {
            // The claim is given up before the slot, so that a free slot never meets a stale claim.
            let slot = job.run(slot).await;
            drop(claim);
            drop(slot);
        };
        self.tasks.spawn(work.instrument(span));
    }

    /// Lets running tasks end, then stops them, then ends whatever is left.
    async fn stop(mut self) {
        self.health.stop();
        let settings = &self.shared.settings;
        let end = self.shared.process_end();
        let abort_at = end - settings.shutdown_margin;
        tracing::info!(
            running = self.tasks.len(),
            grace_ms = millis(settings.shutdown_grace),
            "no more tasks are asked for; the running ones may end"
        );
        while !self.tasks.is_empty() {
            tokio::select! {
                biased;
                Some(ended) = self.tasks.join_next() => log_end(ended),
                () = sleep_until(abort_at), if !self.shared.abort.is_cancelled() => {
                    tracing::warn!(running = self.tasks.len(), "stopping the tasks that still run");
                    self.shared.abort.cancel();
                }
                () = sleep_until(end) => {
                    tracing::error!(
                        running = self.tasks.len(),
                        "the grace period is over; tasks are left unreported"
                    );
                    self.tasks.abort_all();
                    // A task that never yields cannot be ended; waiting for it would only delay the exit.
                    let aborted = async { while self.tasks.join_next().await.is_some() {} };
                    let _ = timeout(ABORT_LIMIT, aborted).await;
                    return;
                }
            }
        }
    }
}

fn log_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        // Handlers are guarded, so this is a fault of the loop itself.
        tracing::error!(error = %error, "the work on a task broke outside its handler");
    }
}

/// Whether an id is the 27 letters and digits that the server accepts in every message about the task.
fn is_task_id(id: &str) -> bool {
    id.len() == TASK_ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}
