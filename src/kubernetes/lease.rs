//! One replica works and the others stand by, as told by a Lease. Compatible with the leader election of client-go.
//!
//! Owns the Lease and the answer to "is it our turn?"; what follows from it is decided elsewhere. The facts are those of
//! client-go's package `leaderelection`: a candidate takes a Lease that has no holder, or that it has seen unwritten for as
//! long as the record in it says; the holder renews it, and gives up the work when it could not renew for the renew
//! deadline, which is shorter. Never reads the times that others wrote, for clocks differ and may stand still: time is
//! counted from when a version of the Lease was first seen here. Invariants:
//!
//! - it is never our turn later than the renew deadline after the last renewal was *sent*, even while a request hangs, and
//!   others wait the full duration from when they *saw* it, so the turns of two replicas do not overlap;
//! - every write carries the version that was read, so of two candidates one is refused.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Complaints, FAREWELL_LIMIT, explained};
use crate::{clock::Clock, error::quoted};

/// The longest that one attempt may take, so that two fit into the renew deadline.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);
/// By how much a candidate lengthens its pauses at most, as a part of them; client-go's number.
const JITTER: f64 = 1.2;
/// The same for the holder, whose pauses must stay short.
const HOLDER_JITTER: f64 = 0.2;

/// Which Lease, and how long things take.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The namespace of the Lease, which is that of the pods.
    pub namespace: String,
    /// The name of the Lease.
    pub name: String,
    /// How long others leave a record alone that does not change; whole seconds.
    pub duration: Duration,
    /// How long the holder goes on without a renewal; shorter than `duration`.
    pub renew_deadline: Duration,
    /// The pause between attempts.
    pub retry: Duration,
    /// The time that is written into the record. It decides nothing.
    pub clock: Arc<dyn Clock>,
}

impl Settings {
    /// The times of client-go: 15, 10 and 2 seconds.
    pub fn new(namespace: String, name: String, clock: Arc<dyn Clock>) -> Self {
        Self {
            namespace,
            name,
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
            clock,
        }
    }
}

/// Takes part in the election as `identity` until `shutdown`, and then releases the Lease if it is ours.
///
/// `leading` says whose turn it is. It is first sent (true or false) when the API server has answered, which is also how
/// long a replica should not call itself ready, and then whenever it changes. `identity` must be that of this process
/// alone. Cancel `shutdown` when the work has ended; dropping the future leaves the Lease to run out.
pub async fn run(
    client: Client,
    identity: String,
    settings: Settings,
    leading: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    let api = Api::namespaced(client, &settings.namespace);
    let mut candidate = Candidate {
        api,
        identity,
        settings,
        held: None,
        observed: None,
        renewed: None,
        leading,
        has_told: false,
        complaints: Complaints::default(),
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = candidate.take_part() => {}
    }
    candidate.release().await;
}

/// What came of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// The Lease is ours, by a request sent at this time.
    Held(Instant),
    /// It is another's.
    Others,
    /// Somebody else wrote it at the same time.
    Contended,
}

/// A version of the Lease that is another's, and when it was first seen here.
#[derive(Debug)]
struct Observed {
    holder: String,
    version: Option<String>,
    since: Instant,
}

struct Candidate {
    api: Api<Lease>,
    identity: String,
    settings: Settings,
    /// The Lease as we wrote it last.
    held: Option<Lease>,
    observed: Option<Observed>,
    /// When the last renewal that succeeded was sent; `None` while it is not our turn.
    renewed: Option<Instant>,
    leading: watch::Sender<bool>,
    /// Whether `leading` was sent once.
    has_told: bool,
    complaints: Complaints,
}

impl Candidate {
    async fn take_part(&mut self) {
        loop {
            let limit = match self.left() {
                Some(left) => left.min(ATTEMPT_LIMIT),
                None => ATTEMPT_LIMIT,
            };
            let attempt = timeout(limit, self.attempt()).await;
            self.heed(attempt);
            if self.left() == Some(Duration::ZERO) {
                self.lost("it could not be renewed in time");
            }
            sleep(self.pause()).await;
        }
    }

    /// How long it is our turn without another renewal; `None` when it is not.
    fn left(&self) -> Option<Duration> {
        let end = self.renewed? + self.settings.renew_deadline;
        Some(end.saturating_duration_since(Instant::now()))
    }

    /// The pause before the next attempt, so chosen that the end of our turn is not overslept.
    fn pause(&self) -> Duration {
        let stretched = |by: f64| self.settings.retry.mul_f64(1.0 + by * fastrand::f64());
        match self.left() {
            Some(left) => stretched(HOLDER_JITTER).min(left),
            None => stretched(JITTER),
        }
    }

    fn heed(&mut self, attempt: Result<Result<Attempt, kube::Error>, tokio::time::error::Elapsed>) {
        let problem = match attempt {
            Ok(Ok(attempt)) => {
                if self.complaints.settled() {
                    tracing::info!(
                        lease.name = self.settings.name,
                        "the Lease is in reach again"
                    );
                }
                match attempt {
                    Attempt::Held(sent) => self.has(sent),
                    Attempt::Others => self.lost("another replica has it"),
                    Attempt::Contended => {
                        tracing::debug!(
                            lease.name = self.settings.name,
                            "somebody else wrote the Lease at the same time"
                        );
                    }
                }
                if !std::mem::replace(&mut self.has_told, true) {
                    self.leading.send_replace(self.renewed.is_some());
                }
                return;
            }
            Ok(Err(error)) => explained(&error, &self.rule()),
            Err(_elapsed) => "the API server does not answer in time".to_owned(),
        };
        if self.complaints.due() {
            tracing::warn!(
                lease.name = self.settings.name,
                namespace = self.settings.namespace,
                error = problem,
                leading = self.renewed.is_some(),
                "the Lease cannot be read or written"
            );
        }
    }

    fn rule(&self) -> String {
        format!(
            "apiGroups [coordination.k8s.io], resources [leases], resourceNames [{}], verbs [get, update], and with one \
             for create without resourceNames",
            self.settings.name
        )
    }

    fn has(&mut self, sent: Instant) {
        let is_new = self.renewed.replace(sent).is_none();
        if is_new {
            tracing::info!(
                lease.name = self.settings.name,
                lease.holder = self.identity,
                "this replica works from now on: the Lease is its own"
            );
            self.has_told = true;
            self.leading.send_replace(true);
        }
    }

    fn lost(&mut self, why: &str) {
        if self.renewed.take().is_some() {
            tracing::warn!(
                lease.name = self.settings.name,
                why,
                "this replica stands by from now on: the Lease is lost"
            );
            self.leading.send_replace(false);
        }
    }

    /// Takes or renews the Lease, if it can be had.
    ///
    /// Cancel-safe: a write whose answer was not awaited makes the next one begin with reading.
    async fn attempt(&mut self) -> Result<Attempt, kube::Error> {
        if let Some(held) = self.held.take() {
            let sent = Instant::now();
            match self.write(&held, self.record(held.spec.as_ref())).await {
                Ok(lease) => {
                    self.held = Some(lease);
                    return Ok(Attempt::Held(sent));
                }
                // Somebody wrote it or took it away; what is there now decides.
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {}
                Err(error) => {
                    self.held = Some(held);
                    return Err(error);
                }
            }
        }
        let found = self.api.get_opt(&self.settings.name).await?;
        let sent = Instant::now();
        let written = match found {
            Some(lease) => {
                if self.must_wait(&lease) {
                    return Ok(Attempt::Others);
                }
                self.write(&lease, self.record(lease.spec.as_ref())).await
            }
            None => self.create().await,
        };
        match written {
            Ok(lease) => {
                self.held = Some(lease);
                Ok(Attempt::Held(sent))
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Attempt::Contended),
            Err(error) => Err(error),
        }
    }

    /// Whether the Lease is another's and was not unwritten for long enough.
    fn must_wait(&mut self, lease: &Lease) -> bool {
        let before = self.observed.take();
        let Some(record) = lease.spec.as_ref() else {
            return false;
        };
        let Some(holder) = holder(record).filter(|holder| *holder != self.identity) else {
            return false;
        };
        let now = Instant::now();
        let version = &lease.metadata.resource_version;
        if before.as_ref().is_none_or(|before| before.holder != holder) {
            tracing::info!(
                lease.name = self.settings.name,
                lease.holder = quoted(holder),
                "another replica has the Lease; this one stands by"
            );
        }
        let since = match before {
            Some(before) if before.version == *version => before.since,
            _ => now,
        };
        self.observed = Some(Observed {
            holder: holder.to_owned(),
            version: version.clone(),
            since,
        });
        let seconds = record
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok());
        let duration = seconds.map_or(self.settings.duration, Duration::from_secs);
        now.duration_since(since) < duration
    }

    /// The record with which the Lease is ours, after the one that is there.
    fn record(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = Some(self.settings.clock.now().into());
        let ours = before.filter(|before| holder(before) == Some(self.identity.as_str()));
        let transitions = before.and_then(|before| before.lease_transitions);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(
                i32::try_from(self.settings.duration.as_secs()).unwrap_or(i32::MAX),
            ),
            acquire_time: match ours {
                Some(ours) => ours.acquire_time.clone(),
                None => now.clone(),
            },
            renew_time: now,
            lease_transitions: Some(match (before, ours) {
                (Some(_), None) => transitions.unwrap_or(0).saturating_add(1),
                _ => transitions.unwrap_or(0),
            }),
            ..LeaseSpec::default()
        }
    }

    /// Writes over the Lease as it was read, version, labels and all but the record.
    async fn write(&self, lease: &Lease, record: LeaseSpec) -> Result<Lease, kube::Error> {
        let lease = Lease {
            metadata: lease.metadata.clone(),
            spec: Some(record),
        };
        self.api
            .replace(&self.settings.name, &PostParams::default(), &lease)
            .await
    }

    async fn create(&self) -> Result<Lease, kube::Error> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.settings.name.clone()),
                namespace: Some(self.settings.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(self.record(None)),
        };
        self.api.create(&PostParams::default(), &lease).await
    }

    /// Lets the next replica have the Lease at once.
    async fn release(mut self) {
        if self.renewed.take().is_none() {
            return;
        }
        // First nobody works, then another may.
        self.leading.send_replace(false);
        let free = async {
            // Read again: a renewal may be under way whose answer nobody awaits any more.
            let lease = self.api.get(&self.settings.name).await?;
            let record = lease.spec.as_ref();
            if record.and_then(holder) != Some(self.identity.as_str()) {
                return Ok(());
            }
            let now = Some(self.settings.clock.now().into());
            let record = LeaseSpec {
                holder_identity: None,
                // The shortest that the API accepts, as client-go writes it.
                lease_duration_seconds: Some(1),
                acquire_time: now.clone(),
                renew_time: now,
                lease_transitions: record.and_then(|record| record.lease_transitions),
                ..LeaseSpec::default()
            };
            self.write(&lease, record).await.map(drop)
        };
        match timeout(FAREWELL_LIMIT, free).await {
            Ok(Ok(())) => tracing::info!(lease.name = self.settings.name, "the Lease was released"),
            Ok(Err(error)) => tracing::info!(
                lease.name = self.settings.name,
                error = explained(&error, &self.rule()),
                "the Lease was not released; it runs out by itself"
            ),
            Err(_elapsed) => tracing::info!(
                lease.name = self.settings.name,
                "the Lease was not released in time; it runs out by itself"
            ),
        }
    }
}

/// The holder of a record; an empty one is none.
fn holder(record: &LeaseSpec) -> Option<&str> {
    record
        .holder_identity
        .as_deref()
        .filter(|holder| !holder.is_empty())
}

#[cfg(test)]
mod tests;
