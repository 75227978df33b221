//! Numbers about the running process, for Prometheus.
//!
//! Owns every family, its name and its meaning ([`FAMILIES`], from which the dashboard and the alerts are checked), and
//! the text of `/metrics`. Never decides what is worth counting. Invariants: counting never waits on a peer and never
//! fails; the value of a label is from a closed set (path templates, RPC names, kinds of task, resource types), never an
//! id, a name or a host; a series that an alert asks for is there from the start, because the first increase of a series
//! that was not there before is none.

use std::{
    collections::BTreeMap,
    fmt, fs,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::{Metric, Registry},
};
use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};
use tokio::time::Instant;
use tracing::Span;

use crate::{
    clock::{Clock as _, SystemClock},
    error::Code,
    notice::Peer,
    telemetry::spans,
};

/// The media type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of requests, in seconds.
const REQUEST_BUCKETS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Upper bounds of tasks, in seconds.
const TASK_BUCKETS: [f64; 9] = [0.5, 2.0, 10.0, 30.0, 120.0, 600.0, 1800.0, 7200.0, 21600.0];
/// The phases of a sync, as `syncer` names them.
const PHASES: [&str; 6] = [
    "resource types",
    "resources",
    "entitlements",
    "grants",
    "expansion",
    "seal",
];
const PEERS: [Peer; 2] = [Peer::ConductorOne, Peer::JumpCloud];

/// What a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations by their size.
    Histogram,
}

/// One family, as `/metrics` shows it.
#[derive(Debug, Clone, Copy)]
pub struct FamilyInfo {
    /// The name; of a histogram, without `_bucket`, `_sum` and `_count`.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

const fn family(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> FamilyInfo {
    FamilyInfo {
        name,
        kind,
        labels,
        help,
    }
}

/// Every family there is, in the order of `/metrics`.
pub const FAMILIES: &[FamilyInfo] = &[
    family(
        "baton_jumpcloud_build_info",
        Kind::Gauge,
        &["version"],
        "Always 1; the label is the version of the program",
    ),
    family(
        "baton_jumpcloud_leader",
        Kind::Gauge,
        &[],
        "1 while this replica works for ConductorOne, 0 while it waits for another one to step down",
    ),
    family(
        "baton_jumpcloud_last_successful_poll_timestamp_seconds",
        Kind::Gauge,
        &[],
        "When ConductorOne last answered a question for work, in Unix time; 0 = not yet",
    ),
    family(
        "baton_jumpcloud_polls_failed_total",
        Kind::Counter,
        &[],
        "Questions for work that failed",
    ),
    family(
        "baton_jumpcloud_credentials_rejected",
        Kind::Gauge,
        &["peer"],
        "1 while the peer rejects our credentials, those in use or rotated ones",
    ),
    family(
        "baton_jumpcloud_credentials_replaced_total",
        Kind::Counter,
        &["peer"],
        "Credentials that were replaced without a restart",
    ),
    family(
        "baton_jumpcloud_credentials_checked_timestamp_seconds",
        Kind::Gauge,
        &["peer"],
        "When the peer last accepted or rejected our credentials, in Unix time; 0 = not yet",
    ),
    family(
        "baton_jumpcloud_token_requests_total",
        Kind::Counter,
        &["peer", "outcome"],
        "Requests for an access token; outcome is granted, rejected (the credentials are wrong) or failed",
    ),
    family(
        "baton_jumpcloud_task_slots",
        Kind::Gauge,
        &[],
        "How many tasks may run at once",
    ),
    family(
        "baton_jumpcloud_tasks_accepted_total",
        Kind::Counter,
        &["kind"],
        "Tasks taken from ConductorOne",
    ),
    family(
        "baton_jumpcloud_tasks_running",
        Kind::Gauge,
        &["kind"],
        "Tasks whose handler runs now",
    ),
    family(
        "baton_jumpcloud_tasks_finished_total",
        Kind::Counter,
        &["kind", "outcome"],
        "Tasks that came to an end, reported or not; outcome is done, failed, stopped (on purpose) or panicked",
    ),
    family(
        "baton_jumpcloud_task_duration_seconds",
        Kind::Histogram,
        &["kind"],
        "From the acceptance of a task to the end of its work",
    ),
    family(
        "baton_jumpcloud_tasks_reported_total",
        Kind::Counter,
        &[],
        "Tasks whose end ConductorOne knows",
    ),
    family(
        "baton_jumpcloud_tasks_lost_total",
        Kind::Counter,
        &[],
        "Tasks whose result could not be reported and is lost",
    ),
    family(
        "baton_jumpcloud_tasks_skipped_total",
        Kind::Counter,
        &["reason"],
        "Tasks that were handed out and left alone; reason is duplicate (being worked on already) or malformed_id",
    ),
    family(
        "baton_jumpcloud_sync_phase",
        Kind::Gauge,
        &["phase"],
        "1 for the phase that the running sync is in; 0 everywhere while none runs",
    ),
    family(
        "baton_jumpcloud_sync_listings",
        Kind::Gauge,
        &["resource_type", "state"],
        "Listings of the phase that the running sync is in; state is finished or known (0 = not known yet)",
    ),
    family(
        "baton_jumpcloud_sync_last_success_timestamp_seconds",
        Kind::Gauge,
        &[],
        "When a full sync was last uploaded, in Unix time; 0 = not since the start of the process",
    ),
    family(
        "baton_jumpcloud_sync_last_duration_seconds",
        Kind::Gauge,
        &[],
        "How long the last successful sync took, upload included",
    ),
    family(
        "baton_jumpcloud_sync_last_rows",
        Kind::Gauge,
        &["row", "resource_type"],
        "Rows of the last successful sync; row is resources, entitlements or grants",
    ),
    family(
        "baton_jumpcloud_sync_last_file_bytes",
        Kind::Gauge,
        &[],
        "Size of the file of the last successful sync",
    ),
    family(
        "baton_jumpcloud_sync_last_warnings",
        Kind::Gauge,
        &[],
        "What the last successful sync left out or found odd, see the log",
    ),
    family(
        "baton_jumpcloud_upload_bytes_total",
        Kind::Counter,
        &[],
        "Bytes of sync files handed to the network, repeated attempts included",
    ),
    family(
        "baton_jumpcloud_changes_total",
        Kind::Counter,
        &["kind", "outcome"],
        "Changes asked for; outcome is changed, already_true, planned (dry run), failed, stopped or refused (switched off)",
    ),
    family(
        "baton_jumpcloud_api_requests_total",
        Kind::Counter,
        &["endpoint", "method", "outcome"],
        "Requests to JumpCloud; outcome is the class of the status (2xx, 3xx, 4xx, 429, 5xx), what broke (connect, tls, timeout, body, other), or dropped",
    ),
    family(
        "baton_jumpcloud_api_request_duration_seconds",
        Kind::Histogram,
        &["endpoint", "method"],
        "From the sending of a request to JumpCloud to the end of its answer",
    ),
    family(
        "baton_jumpcloud_api_retries_total",
        Kind::Counter,
        &["endpoint"],
        "Requests to JumpCloud that repeated one before",
    ),
    family(
        "baton_jumpcloud_api_calls_failed_total",
        Kind::Counter,
        &["endpoint"],
        "Calls of JumpCloud that failed for good, after all attempts",
    ),
    family(
        "baton_jumpcloud_api_throttled_total",
        Kind::Counter,
        &[],
        "Answers of JumpCloud that asked to slow down",
    ),
    family(
        "baton_jumpcloud_api_concurrency_limit",
        Kind::Gauge,
        &[],
        "How many requests to JumpCloud may be in flight; adapts",
    ),
    family(
        "baton_jumpcloud_api_requests_in_flight",
        Kind::Gauge,
        &[],
        "Requests to JumpCloud that hold a slot of that limit",
    ),
    family(
        "baton_jumpcloud_api_paused_until_timestamp_seconds",
        Kind::Gauge,
        &[],
        "Until when JumpCloud asked for no more requests, in Unix time; 0 = never did",
    ),
    family(
        "baton_jumpcloud_conductorone_requests_total",
        Kind::Counter,
        &["method", "code"],
        "RPCs to ConductorOne, uploads included; code is the name of the gRPC code",
    ),
    family(
        "baton_jumpcloud_conductorone_request_duration_seconds",
        Kind::Histogram,
        &["method"],
        "From the sending of an RPC to its answer",
    ),
    family(
        "process_cpu_seconds_total",
        Kind::Counter,
        &[],
        "Processor time used, user and system",
    ),
    family(
        "process_max_fds",
        Kind::Gauge,
        &[],
        "How many files may be open",
    ),
    family(
        "process_open_fds",
        Kind::Gauge,
        &[],
        "How many files are open, connections included",
    ),
    family(
        "process_resident_memory_bytes",
        Kind::Gauge,
        &[],
        "Memory in use",
    ),
    family(
        "process_start_time_seconds",
        Kind::Gauge,
        &[],
        "When the process started, in Unix time",
    ),
    family("process_threads", Kind::Gauge, &[], "Threads"),
    family(
        "baton_jumpcloud_memory_limit_bytes",
        Kind::Gauge,
        &[],
        "The memory limit of the control group; missing where there is none",
    ),
];

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Gauges<const N: usize> = Family<Labels<N>, Gauge>;
type Seconds = Gauge<f64, AtomicU64>;
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

fn of_requests() -> Histogram {
    Histogram::new(REQUEST_BUCKETS)
}

fn of_tasks() -> Histogram {
    Histogram::new(TASK_BUCKETS)
}

/// Every number of one process. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    leader: Gauge,
    last_poll: Seconds,
    polls_failed: Counter,
    credentials_rejected: Gauges<1>,
    credentials_replaced: Counters<1>,
    credentials_checked: Family<Labels<1>, Seconds>,
    tokens: Counters<2>,
    slots: Gauge,
    tasks_accepted: Counters<1>,
    tasks_running: Gauges<1>,
    tasks_finished: Counters<2>,
    task_duration: Histograms<1>,
    tasks_reported: Counter,
    tasks_lost: Counter,
    tasks_skipped: Counters<1>,
    sync_phase: Gauges<1>,
    sync_listings: Family<[(&'static str, String); 2], Gauge>,
    sync_success: Seconds,
    sync_duration: Seconds,
    sync_rows: Family<[(&'static str, String); 2], Gauge>,
    sync_bytes: Gauge,
    sync_warnings: Gauge,
    upload_bytes: Counter,
    changes: Counters<2>,
    jumpcloud_requests: Counters<3>,
    jumpcloud_duration: Histograms<2>,
    jumpcloud_retries: Counters<1>,
    jumpcloud_failures: Counters<1>,
    jumpcloud_throttled: Counter,
    limit: Limit,
    rpcs: Family<[(&'static str, String); 2], Counter>,
    rpc_duration: Histograms<1>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Puts a family under a name of [`FAMILIES`], and gives it back.
fn add<M: Metric + Clone>(registry: &mut Registry, name: &'static str, metric: M) -> M {
    let help = FAMILIES
        .iter()
        .find(|family| family.name == name)
        .map_or("", |family| family.help);
    // The encoder writes the end of a counter's name, and the full stop, itself.
    let name = name.strip_suffix("_total").unwrap_or(name);
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// Numbers that begin now.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process { started: now() }));
        let r = &mut registry;
        let build: Gauges<1> = add(r, "baton_jumpcloud_build_info", Family::default());
        build
            .get_or_create(&[("version", env!("CARGO_PKG_VERSION"))])
            .set(1);
        let inner = Inner {
            leader: add(r, "baton_jumpcloud_leader", Gauge::default()),
            last_poll: add(
                r,
                "baton_jumpcloud_last_successful_poll_timestamp_seconds",
                Gauge::default(),
            ),
            polls_failed: add(r, "baton_jumpcloud_polls_failed_total", Counter::default()),
            credentials_rejected: add(r, "baton_jumpcloud_credentials_rejected", Family::default()),
            credentials_replaced: add(
                r,
                "baton_jumpcloud_credentials_replaced_total",
                Family::default(),
            ),
            credentials_checked: add(
                r,
                "baton_jumpcloud_credentials_checked_timestamp_seconds",
                Family::default(),
            ),
            tokens: add(r, "baton_jumpcloud_token_requests_total", Family::default()),
            slots: add(r, "baton_jumpcloud_task_slots", Gauge::default()),
            tasks_accepted: add(r, "baton_jumpcloud_tasks_accepted_total", Family::default()),
            tasks_running: add(r, "baton_jumpcloud_tasks_running", Family::default()),
            tasks_finished: add(r, "baton_jumpcloud_tasks_finished_total", Family::default()),
            task_duration: add(
                r,
                "baton_jumpcloud_task_duration_seconds",
                Family::new_with_constructor(of_tasks),
            ),
            tasks_reported: add(
                r,
                "baton_jumpcloud_tasks_reported_total",
                Counter::default(),
            ),
            tasks_lost: add(r, "baton_jumpcloud_tasks_lost_total", Counter::default()),
            tasks_skipped: add(r, "baton_jumpcloud_tasks_skipped_total", Family::default()),
            sync_phase: add(r, "baton_jumpcloud_sync_phase", Family::default()),
            sync_listings: add(r, "baton_jumpcloud_sync_listings", Family::default()),
            sync_success: add(
                r,
                "baton_jumpcloud_sync_last_success_timestamp_seconds",
                Gauge::default(),
            ),
            sync_duration: add(
                r,
                "baton_jumpcloud_sync_last_duration_seconds",
                Gauge::default(),
            ),
            sync_rows: add(r, "baton_jumpcloud_sync_last_rows", Family::default()),
            sync_bytes: add(r, "baton_jumpcloud_sync_last_file_bytes", Gauge::default()),
            sync_warnings: add(r, "baton_jumpcloud_sync_last_warnings", Gauge::default()),
            upload_bytes: add(r, "baton_jumpcloud_upload_bytes_total", Counter::default()),
            changes: add(r, "baton_jumpcloud_changes_total", Family::default()),
            jumpcloud_requests: add(r, "baton_jumpcloud_api_requests_total", Family::default()),
            jumpcloud_duration: add(
                r,
                "baton_jumpcloud_api_request_duration_seconds",
                Family::new_with_constructor(of_requests),
            ),
            jumpcloud_retries: add(r, "baton_jumpcloud_api_retries_total", Family::default()),
            jumpcloud_failures: add(
                r,
                "baton_jumpcloud_api_calls_failed_total",
                Family::default(),
            ),
            jumpcloud_throttled: add(r, "baton_jumpcloud_api_throttled_total", Counter::default()),
            limit: Limit {
                allowed: add(r, "baton_jumpcloud_api_concurrency_limit", Gauge::default()),
                in_flight: add(
                    r,
                    "baton_jumpcloud_api_requests_in_flight",
                    Gauge::default(),
                ),
                paused_until: add(
                    r,
                    "baton_jumpcloud_api_paused_until_timestamp_seconds",
                    Gauge::default(),
                ),
            },
            rpcs: add(
                r,
                "baton_jumpcloud_conductorone_requests_total",
                Family::default(),
            ),
            rpc_duration: add(
                r,
                "baton_jumpcloud_conductorone_request_duration_seconds",
                Family::new_with_constructor(of_requests),
            ),
            registry,
        };
        for peer in PEERS {
            let label = [("peer", peer.label())];
            drop(inner.credentials_rejected.get_or_create(&label));
            drop(inner.credentials_replaced.get_or_create(&label));
            drop(inner.credentials_checked.get_or_create(&label));
            for outcome in ["granted", "rejected", "failed"] {
                let labels = [("peer", peer.label()), ("outcome", outcome)];
                drop(inner.tokens.get_or_create(&labels));
            }
        }
        for reason in [Skipped::Duplicate, Skipped::MalformedId] {
            drop(
                inner
                    .tasks_skipped
                    .get_or_create(&[("reason", reason.label())]),
            );
        }
        for phase in PHASES {
            drop(inner.sync_phase.get_or_create(&[("phase", phase)]));
        }
        Self(Arc::new(inner))
    }

    /// All numbers in the text format of `OpenMetrics` ([`CONTENT_TYPE`]). Reads a few small files of `/proc`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _always_whole: fmt::Result = encode(&mut text, &self.0.registry);
        text
    }

    /// The sum of all series of this name that have each of `labels` (`name="value"`), without fractions; for tests.
    pub fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        self.text()
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(series, _)| {
                series.split('{').next() == Some(name)
                    && labels.iter().all(|label| series.contains(label))
            })
            .filter_map(|(_, value)| value.split('.').next()?.parse::<u64>().ok())
            .sum()
    }

    /// Whether this process is the one that works for ConductorOne.
    pub fn leading(&self, is_leader: bool) {
        self.0.leader.set(is_leader.into());
    }

    /// ConductorOne answered a question for work.
    pub fn poll_succeeded(&self) {
        self.0.last_poll.set(now());
    }

    /// A question for work failed.
    pub fn poll_failed(&self) {
        self.0.polls_failed.inc();
    }

    /// The peer just rejected, or accepted, our credentials.
    pub fn credentials_rejected(&self, peer: Peer, is_rejected: bool) {
        let label = [("peer", peer.label())];
        self.0
            .credentials_rejected
            .get_or_create(&label)
            .set(is_rejected.into());
        self.0.credentials_checked.get_or_create(&label).set(now());
    }

    /// Other credentials are in use from now on.
    pub fn credentials_replaced(&self, peer: Peer) {
        self.0
            .credentials_replaced
            .get_or_create(&[("peer", peer.label())])
            .inc();
    }

    /// A request for an access token came to an end.
    pub fn token_requested(&self, peer: Peer, outcome: TokenOutcome) {
        let labels = [("peer", peer.label()), ("outcome", outcome.label())];
        self.0.tokens.get_or_create(&labels).inc();
    }

    /// How many tasks may run at once, and of which kinds there are tasks.
    pub fn dispatching(&self, slots: usize, kinds: impl IntoIterator<Item = &'static str>) {
        self.0.slots.set(i64::try_from(slots).unwrap_or(i64::MAX));
        for kind in kinds {
            drop(self.0.tasks_accepted.get_or_create(&[("kind", kind)]));
            drop(self.0.tasks_running.get_or_create(&[("kind", kind)]));
            for outcome in TaskOutcome::ALL {
                let labels = [("kind", kind), ("outcome", outcome.label())];
                drop(self.0.tasks_finished.get_or_create(&labels));
            }
        }
    }

    /// A task was accepted.
    pub fn task_accepted(&self, kind: &'static str) {
        self.0.tasks_accepted.get_or_create(&[("kind", kind)]).inc();
    }

    /// A task was handed out and is left alone.
    pub fn task_skipped(&self, reason: Skipped) {
        self.0
            .tasks_skipped
            .get_or_create(&[("reason", reason.label())])
            .inc();
    }

    /// The handler of a task begins; it counts as running until the guard is dropped.
    pub fn task_running(&self, kind: &'static str) -> Running {
        let gauge = self.0.tasks_running.get_or_create_owned(&[("kind", kind)]);
        Running::new(gauge)
    }

    /// The work on a task came to an end, `took` after its acceptance.
    pub fn task_finished(&self, kind: &'static str, outcome: TaskOutcome, took: Duration) {
        self.0
            .tasks_finished
            .get_or_create(&[("kind", kind), ("outcome", outcome.label())])
            .inc();
        self.0
            .task_duration
            .get_or_create(&[("kind", kind)])
            .observe(took.as_secs_f64());
    }

    /// ConductorOne knows the end of a task.
    pub fn task_reported(&self) {
        self.0.tasks_reported.inc();
    }

    /// The result of a task is lost; answers with how many are by now.
    pub fn task_lost(&self) -> u64 {
        self.0.tasks_lost.inc() + 1
    }

    /// The sync is in another phase, or in none any more.
    pub fn sync_phase(&self, phase: Option<&str>) {
        for name in PHASES {
            self.0
                .sync_phase
                .get_or_create(&[("phase", name)])
                .set((phase == Some(name)).into());
        }
        self.0.sync_listings.clear();
    }

    /// How far the phase of the sync is with a resource type; a `known` of 0 means that nobody knows yet.
    pub fn sync_listings(&self, resource_type: &str, finished: u64, known: u64) {
        for (state, count) in [("finished", finished), ("known", known)] {
            let labels = [
                ("resource_type", resource_type.to_owned()),
                ("state", state.to_owned()),
            ];
            self.0
                .sync_listings
                .get_or_create(&labels)
                .set(signed(count));
        }
    }

    /// A sync was uploaded. `rows` are `resources`, `entitlements` and `grants`, each by resource type.
    pub fn sync_succeeded(
        &self,
        rows: [(&'static str, &BTreeMap<String, u64>); 3],
        file_bytes: u64,
        warnings: usize,
        took: Duration,
    ) {
        self.0.sync_rows.clear();
        for (row, counts) in rows {
            for (resource_type, count) in counts {
                let labels = [
                    ("row", row.to_owned()),
                    ("resource_type", resource_type.clone()),
                ];
                self.0.sync_rows.get_or_create(&labels).set(signed(*count));
            }
        }
        self.0.sync_bytes.set(signed(file_bytes));
        self.0
            .sync_warnings
            .set(i64::try_from(warnings).unwrap_or(i64::MAX));
        self.0.sync_duration.set(took.as_secs_f64());
        self.0.sync_success.set(now());
    }

    /// Bytes of a file were handed to the network.
    pub fn uploaded(&self, bytes: usize) {
        self.0
            .upload_bytes
            .inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Of which kinds there are changes.
    pub fn changing(&self, kinds: impl IntoIterator<Item = &'static str>) {
        for kind in kinds {
            for outcome in ChangeOutcome::ALL {
                let labels = [("kind", kind), ("outcome", outcome.label())];
                drop(self.0.changes.get_or_create(&labels));
            }
        }
    }

    /// A change that was asked for came to an end.
    pub fn changed(&self, kind: &'static str, outcome: ChangeOutcome) {
        self.0
            .changes
            .get_or_create(&[("kind", kind), ("outcome", outcome.label())])
            .inc();
    }

    /// A request to JumpCloud is about to be sent.
    pub fn jumpcloud_request(
        &self,
        endpoint: &'static str,
        method: &'static str,
    ) -> JumpCloudRequest {
        JumpCloudRequest {
            metrics: self.clone(),
            endpoint,
            method,
            outcome: "dropped",
            begun: Instant::now(),
            span: spans::request(method, endpoint),
        }
    }

    /// A request to JumpCloud is going to be repeated.
    pub fn jumpcloud_retried(&self, endpoint: &'static str) {
        self.0
            .jumpcloud_retries
            .get_or_create(&[("endpoint", endpoint)])
            .inc();
    }

    /// A call of JumpCloud failed for good.
    pub fn jumpcloud_failed(&self, endpoint: &'static str) {
        self.0
            .jumpcloud_failures
            .get_or_create(&[("endpoint", endpoint)])
            .inc();
    }

    /// JumpCloud asked to slow down.
    pub fn jumpcloud_throttled(&self) {
        self.0.jumpcloud_throttled.inc();
    }

    /// What the limit on requests to JumpCloud shows its state in.
    pub fn jumpcloud_limit(&self) -> Limit {
        self.0.limit.clone()
    }

    /// An RPC to ConductorOne is about to be sent.
    pub fn rpc(&self, method: &'static str) -> Rpc {
        Rpc {
            metrics: self.clone(),
            method,
            code: Code::Cancelled,
            begun: Instant::now(),
            span: spans::rpc(method),
        }
    }
}

/// How a request for an access token ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenOutcome {
    /// There is a token.
    Granted,
    /// The credentials are wrong.
    Rejected,
    /// Anything else.
    Failed,
}

impl TokenOutcome {
    const fn label(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
        }
    }
}

/// How the work on a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskOutcome {
    /// It succeeded.
    Done,
    /// It failed.
    Failed,
    /// It was stopped on purpose.
    Stopped,
    /// Its handler panicked.
    Panicked,
}

impl TaskOutcome {
    const ALL: [Self; 4] = [Self::Done, Self::Failed, Self::Stopped, Self::Panicked];

    /// The value of the label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Panicked => "panicked",
        }
    }
}

/// Why a task that was handed out is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skipped {
    /// It is being worked on already.
    Duplicate,
    /// Its id is none.
    MalformedId,
}

impl Skipped {
    const fn label(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::MalformedId => "malformed_id",
        }
    }
}

/// How a change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// The directory was changed.
    Changed,
    /// The directory was as wanted.
    AlreadyTrue,
    /// A dry run.
    Planned,
    /// It was not made, or is not known to be.
    Failed,
    /// It was stopped before anything was written.
    Stopped,
    /// Changes are switched off.
    Refused,
}

impl ChangeOutcome {
    const ALL: [Self; 6] = [
        Self::Changed,
        Self::AlreadyTrue,
        Self::Planned,
        Self::Failed,
        Self::Stopped,
        Self::Refused,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::AlreadyTrue => "already_true",
            Self::Planned => "planned",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Refused => "refused",
        }
    }
}

/// Something that counts as running until this is dropped.
#[derive(Debug)]
pub struct Running(Gauge);

impl Running {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One request to JumpCloud under way; counted when this is dropped, as `dropped` unless it was told how it ended.
#[derive(Debug)]
pub struct JumpCloudRequest {
    metrics: Metrics,
    endpoint: &'static str,
    method: &'static str,
    outcome: &'static str,
    begun: Instant,
    span: Span,
}

impl JumpCloudRequest {
    /// The answer is here.
    pub fn answered(&mut self, status: u16) {
        spans::request_answered(&self.span, status);
        self.outcome = match status {
            429 => "429",
            100..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
    }

    /// There is no answer, or not all of it; `what` is one of a few words.
    pub fn broke(&mut self, what: &'static str) {
        spans::request_broke(&self.span, what);
        self.outcome = what;
    }
}

impl Drop for JumpCloudRequest {
    fn drop(&mut self) {
        let inner = &self.metrics.0;
        inner
            .jumpcloud_requests
            .get_or_create(&[
                ("endpoint", self.endpoint),
                ("method", self.method),
                ("outcome", self.outcome),
            ])
            .inc();
        inner
            .jumpcloud_duration
            .get_or_create(&[("endpoint", self.endpoint), ("method", self.method)])
            .observe(self.begun.elapsed().as_secs_f64());
    }
}

/// One RPC under way; counted when this is dropped, as cancelled unless it was told how it ended.
#[derive(Debug)]
pub struct Rpc {
    metrics: Metrics,
    method: &'static str,
    code: Code,
    begun: Instant,
    span: Span,
}

impl Rpc {
    /// The header by which the server joins its spans to this call; `None` where it is not traced.
    pub fn traceparent(&self) -> Option<String> {
        spans::traceparent(&self.span)
    }

    /// The answer, or the failure, is here.
    pub fn ended(mut self, code: Code) {
        self.code = code;
        spans::rpc_ended(&self.span, code);
    }
}

impl Drop for Rpc {
    fn drop(&mut self) {
        let inner = &self.metrics.0;
        let labels = [
            ("method", self.method.to_owned()),
            ("code", self.code.to_string()),
        ];
        inner.rpcs.get_or_create(&labels).inc();
        inner
            .rpc_duration
            .get_or_create(&[("method", self.method)])
            .observe(self.begun.elapsed().as_secs_f64());
    }
}

/// The state of an adaptive limit on requests.
#[derive(Debug, Clone, Default)]
pub struct Limit {
    allowed: Gauge,
    in_flight: Gauge,
    paused_until: Seconds,
}

impl Limit {
    /// The limit is another one now.
    pub fn changed(&self, limit: usize) {
        self.allowed.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// A request has its slot; it counts as in flight until the guard is dropped.
    pub fn acquired(&self) -> Running {
        Running::new(self.in_flight.clone())
    }

    /// No request starts for so long.
    pub fn paused(&self, pause: Duration) {
        let until = now() + pause.as_secs_f64();
        if until > self.paused_until.get() {
            self.paused_until.set(until);
        }
    }
}

/// The Unix time in seconds.
fn now() -> f64 {
    SystemClock.now().as_duration().as_secs_f64()
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What the kernel knows of this process, read when it is asked for. What cannot be read is left out.
#[derive(Debug)]
struct Process {
    started: f64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut show = |name: &str, value: Option<f64>| -> fmt::Result {
            let (Some(value), Some(family)) =
                (value, FAMILIES.iter().find(|family| family.name == name))
            else {
                return Ok(());
            };
            let metric: Box<dyn EncodeMetric> = match family.kind {
                Kind::Counter => Box::new(ConstCounter::new(value)),
                Kind::Gauge | Kind::Histogram => Box::new(ConstGauge::new(value)),
            };
            let name = name.strip_suffix("_total").unwrap_or(name);
            let help = format!("{}.", family.help);
            metric.encode(encoder.encode_descriptor(name, &help, None, metric.metric_type())?)
        };
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::try_from(cpu).ok().map(|cpu| cpu.as_secs_f64());
        show("process_cpu_seconds_total", cpu)?;
        let max = getrlimit(Resource::Nofile).current;
        show("process_max_fds", max.map(lossy))?;
        // One of them is the listing itself.
        let open = fs::read_dir("/proc/self/fd").map(|entries| entries.count().saturating_sub(1));
        let open = open.ok().and_then(|open| u64::try_from(open).ok());
        show("process_open_fds", open.map(lossy))?;
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let resident = field("VmRSS:").map(|kib| lossy(kib.saturating_mul(1024)));
        show("process_resident_memory_bytes", resident)?;
        show("process_start_time_seconds", Some(self.started))?;
        show("process_threads", field("Threads:").map(lossy))?;
        show("baton_jumpcloud_memory_limit_bytes", memory_limit())
    }
}

/// The limit of the control group; both generations, as seen from inside a container.
fn memory_limit() -> Option<f64> {
    const NO_LIMIT: u64 = 1 << 60;
    [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .into_iter()
    .find_map(|path| fs::read_to_string(path).ok())
    .and_then(|text| text.trim().parse().ok())
    .filter(|limit| *limit < NO_LIMIT)
    .map(lossy)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of this size are exact in 53 bits, or need not be"
)]
fn lossy(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Metrics in which every family has a series.
    fn filled() -> Metrics {
        let metrics = Metrics::new();
        metrics.dispatching(3, ["grant"]);
        metrics.changing(["grant"]);
        metrics.task_finished("grant", TaskOutcome::Done, Duration::from_secs(3));
        metrics.sync_listings("user", 1, 2);
        let rows = BTreeMap::from([("user".to_owned(), 7)]);
        let rows = ["resources", "entitlements", "grants"].map(|row| (row, &rows));
        metrics.sync_succeeded(rows, 1, 0, Duration::from_secs(1));
        metrics.jumpcloud_request("/api/x", "GET").answered(200);
        metrics.jumpcloud_retried("/api/x");
        metrics.jumpcloud_failed("/api/x");
        metrics.rpc("Hello").ended(Code::Ok);
        metrics
    }

    #[test]
    fn the_text_has_the_families_of_the_table_with_their_labels_and_no_other() {
        let text = filled().text();
        let mut kinds = BTreeMap::new();
        let mut helps = BTreeMap::new();
        for line in text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
            {
                assert!(
                    kinds.insert(name.to_owned(), kind.to_owned()).is_none(),
                    "{name} twice"
                );
            }
            if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' '))
            {
                helps.insert(name.to_owned(), help.to_owned());
            }
        }
        for family in FAMILIES {
            let base = family.name.strip_suffix("_total").unwrap_or(family.name);
            if base == "baton_jumpcloud_memory_limit_bytes" && memory_limit().is_none() {
                continue;
            }
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            assert_eq!(kinds.remove(base).as_deref(), Some(kind), "{base}");
            assert_eq!(helps[base], format!("{}.", family.help));
            assert_eq!(
                family.kind == Kind::Counter,
                family.name.ends_with("_total"),
                "{base}"
            );
            let sample = match family.kind {
                Kind::Histogram => format!("{base}_count"),
                _ => family.name.to_owned(),
            };
            let series = text
                .lines()
                .find(|line| line.split(['{', ' ']).next() == Some(&sample))
                .unwrap_or_else(|| panic!("no series of {sample}"));
            let labels: BTreeSet<&str> = series
                .split_once('{')
                .map_or("", |(_, rest)| rest.split('}').next().unwrap())
                .split(',')
                .filter(|label| !label.is_empty())
                .map(|label| label.split('=').next().unwrap())
                .collect();
            assert_eq!(labels, family.labels.iter().copied().collect(), "{sample}");
        }
        assert!(kinds.is_empty(), "not in the table: {kinds:?}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_request_is_counted_once_by_how_it_ended() {
        let metrics = Metrics::new();
        let count = |outcome: &str| {
            let outcome = format!("outcome=\"{outcome}\"");
            metrics.sum("baton_jumpcloud_api_requests_total", &[&outcome])
        };
        for (status, class) in [
            (200, "2xx"),
            (204, "2xx"),
            (302, "3xx"),
            (404, "4xx"),
            (429, "429"),
            (503, "5xx"),
        ] {
            let before = count(class);
            metrics.jumpcloud_request("/api/x", "GET").answered(status);
            assert_eq!(count(class), before + 1, "{status}");
        }
        drop(metrics.jumpcloud_request("/api/x", "GET"));
        metrics.jumpcloud_request("/api/x", "GET").broke("timeout");
        assert_eq!((count("dropped"), count("timeout")), (1, 1));
        let durations = "baton_jumpcloud_api_request_duration_seconds_count";
        assert_eq!(metrics.sum(durations, &["method=\"GET\""]), 8);
    }

    #[test]
    fn what_runs_is_counted_while_it_runs() {
        let metrics = Metrics::new();
        let running = || metrics.sum("baton_jumpcloud_tasks_running", &[]);
        let both = (
            metrics.task_running("grant"),
            metrics.task_running("revoke"),
        );
        assert_eq!(running(), 2);
        drop(both);
        assert_eq!(running(), 0);
    }

    #[test]
    fn a_phase_ends_the_one_before_and_forgets_its_listings() {
        let metrics = Metrics::new();
        let sum = |name, labels: &[&str]| metrics.sum(name, labels);
        metrics.sync_phase(Some("resources"));
        metrics.sync_listings("user", 1, 2);
        assert_eq!(sum("baton_jumpcloud_sync_listings", &[]), 3);
        metrics.sync_phase(Some("grants"));
        assert_eq!(sum("baton_jumpcloud_sync_phase", &[]), 1);
        assert_eq!(sum("baton_jumpcloud_sync_phase", &["phase=\"grants\""]), 1);
        assert_eq!(sum("baton_jumpcloud_sync_listings", &[]), 0);
        metrics.sync_phase(None);
        assert_eq!(sum("baton_jumpcloud_sync_phase", &[]), 0);
    }

    #[test]
    fn a_credential_is_rejected_until_it_is_not() {
        let metrics = Metrics::new();
        let rejected = |peer: &str| {
            let peer = format!("peer=\"{peer}\"");
            metrics.sum("baton_jumpcloud_credentials_rejected", &[&peer])
        };
        metrics.credentials_rejected(Peer::JumpCloud, true);
        assert_eq!((rejected("jumpcloud"), rejected("conductorone")), (1, 0));
        metrics.credentials_rejected(Peer::JumpCloud, false);
        assert_eq!(rejected("jumpcloud"), 0);
        let checked = "baton_jumpcloud_credentials_checked_timestamp_seconds";
        assert!(metrics.sum(checked, &["peer=\"jumpcloud\""]) > 1_000_000_000);
        assert_eq!(metrics.sum(checked, &["peer=\"conductorone\""]), 0);
    }

    #[test]
    fn a_pause_is_never_shown_shorter_than_it_is() {
        let metrics = Metrics::new();
        let name = "baton_jumpcloud_api_paused_until_timestamp_seconds";
        let limit = metrics.jumpcloud_limit();
        limit.paused(Duration::from_mins(2));
        let long = metrics.sum(name, &[]);
        limit.paused(Duration::from_secs(1));
        assert_eq!(metrics.sum(name, &[]), long);
    }

    #[test]
    fn the_numbers_of_the_process_are_plausible() {
        let metrics = Metrics::new();
        let value = |name| metrics.sum(name, &[]);
        assert!(value("process_resident_memory_bytes") > 1 << 20);
        assert!(value("process_open_fds") >= 3);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_threads") >= 1);
        assert!(value("process_start_time_seconds") > 1_000_000_000);
        let text = metrics.text();
        let seconds = text
            .lines()
            .find_map(|line| line.strip_prefix("process_cpu_seconds_total "));
        assert!(seconds.unwrap().parse::<f64>().unwrap() > 0.0, "fractions");
    }
}
