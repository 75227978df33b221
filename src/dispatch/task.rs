//! One task from acceptance to report.

use std::{
    collections::BTreeSet,
    future::pending,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::{
    NO_ANSWER, Shared, heartbeat, millis,
    outcome::{self, Cause, End},
    pace::Backoff,
};
use crate::{
    control_plane::{self, TaskResult},
    error::{Class, Classify, Code, chain},
    handlers::{Context, Kind},
    notice::Notice,
    proto::baton,
    supervisor::{guarded, lock},
    telemetry::{metrics::TaskOutcome, spans},
};

/// How long before the end of the process the last report is given up, so that its loss is still logged.
const LAST_WORD: Duration = Duration::from_millis(200);

/// The right to work on a task id; while it is held, a second delivery is ignored.
pub(super) struct Claim {
    id: String,
    known: Arc<Mutex<BTreeSet<String>>>,
}

impl Claim {
    /// `None` if the id is claimed already.
    pub(super) fn new(id: &str, known: &Arc<Mutex<BTreeSet<String>>>) -> Option<Self> {
        lock(known).insert(id.to_owned()).then(|| Self {
            id: id.to_owned(),
            known: Arc::clone(known),
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.known).remove(&self.id);
    }
}

/// Asks the handler to stop, once, and remembers why.
#[derive(Default)]
struct Stop {
    token: CancellationToken,
    /// Nobody wants the result any more.
    revoked: CancellationToken,
    cause: OnceLock<Cause>,
}

impl Stop {
    fn request(&self, cause: Cause) {
        // The first cause counts.
        if self.cause.set(cause).is_ok() {
            if cause == Cause::Cancelled {
                self.revoked.cancel();
            }
            self.token.cancel();
        }
    }
}

/// A task that was accepted.
pub(super) struct Job {
    pub(super) task: baton::Task,
    pub(super) kind: Kind,
    pub(super) shared: Arc<Shared>,
    pub(super) slots: Arc<Semaphore>,
}

impl Job {
    /// Works on the task and reports it; gives back the slot that was used, if any.
    pub(super) async fn run(
        &self,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Option<OwnedSemaphorePermit> {
        let stop = Stop::default();
        let work = async {
            let begun = Instant::now();
            let slot = match slot {
                Some(slot) => Some(slot),
                None => self.wait_for_slot(&stop).await,
            };
            let end = if slot.is_some() {
                self.work(&stop).await
            } else {
                End::Stopped
            };
            self.report(end, stop.cause.get().copied(), begun).await;
            slot
        };
        let heartbeats = async {
            let cause = heartbeat::beat(
                self.shared.control_plane.as_ref(),
                &self.task.id,
                self.kind,
                &self.shared.settings.timing,
            )
            .await;
            stop.request(cause);
            pending::<()>().await;
        };
        let shutdown = async {
            self.shared.abort.cancelled().await;
            stop.request(Cause::ShutDown);
            pending::<()>().await;
        };
        tokio::select! {
            slot = work => slot,
            // Neither of these two ends.
            () = heartbeats => None,
            () = shutdown => None,
        }
    }

    async fn wait_for_slot(&self, stop: &Stop) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = stop.token.cancelled() => None,
            () = self.shared.stopping.cancelled() => {
                stop.request(Cause::ShutDown);
                None
            }
            slot = Arc::clone(&self.slots).acquire_owned() => slot.ok(),
        }
    }

    /// Runs the handler; one that was asked to stop and does not is dropped.
    async fn work(&self, stop: &Stop) -> End {
        if self.shared.stopping.is_cancelled() {
            // It came with the last poll, after the process was told to end.
            stop.request(Cause::ShutDown);
            return End::Stopped;
        }
        let context = Context {
            task_id: &self.task.id,
            kind: self.kind,
            cancel: &stop.token,
            revoked: &stop.revoked,
            control_plane: self.shared.control_plane.as_ref(),
            notices: &self.shared.settings.signals.notices,
        };
        let handler = self.shared.registry.handler(self.kind);
        let _running = self.shared.metrics.task_running(self.kind.name());
        // Whatever the work logs, the client of the directory included, then names the task.
        let span =
            tracing::info_span!("task", task.id = self.task.id, task.kind = self.kind.name());
        let handled = guarded(async { handler.handle(&self.task, context).await })
            .instrument(spans::handler(self.kind.name()))
            .instrument(span);
        let mut handled = std::pin::pin!(handled);
        let ended = tokio::select! {
            biased;
            ended = &mut handled => Some(ended),
            () = stop.token.cancelled() => tokio::select! {
                biased;
                ended = &mut handled => Some(ended),
                () = self.stop_limit() => None,
            },
        };
        match ended {
            Some(Ok(returned)) => End::Returned(returned),
            Some(Err(text)) => End::Panicked(text),
            None => {
                tracing::warn!(
                    task.id = self.task.id,
                    task.kind = self.kind.name(),
                    "a handler did not stop in time and was dropped"
                );
                End::Stopped
            }
        }
    }

    /// Ends when a handler that was asked to stop has had its time. At shutdown, whatever it was asked to stop for, half of
    /// the margin is left for the report.
    async fn stop_limit(&self) {
        let settings = &self.shared.settings;
        let at_shutdown = async {
            self.shared.abort.cancelled().await;
            sleep(settings.shutdown_margin / 2).await;
        };
        tokio::select! {
            () = sleep(settings.timing.stop_limit) => {}
            () = at_shutdown => {}
        }
    }

    async fn report(&self, end: End, cause: Option<Cause>, begun: Instant) {
        let metrics = &self.shared.metrics;
        let counted = match &end {
            End::Returned(Ok(_)) => TaskOutcome::Done,
            End::Panicked(_) => TaskOutcome::Panicked,
            End::Returned(Err(_)) if cause.is_none() => TaskOutcome::Failed,
            End::Returned(Err(_)) | End::Stopped => TaskOutcome::Stopped,
        };
        metrics.task_finished(self.kind.name(), counted, begun.elapsed());
        let failed = matches!(counted, TaskOutcome::Failed | TaskOutcome::Panicked);
        spans::task_ended(&Span::current(), counted.label(), failed);
        let problem = outcome::problem(&end);
        let Some(result) = outcome::result(self.kind, end, cause) else {
            metrics.task_reported();
            tracing::info!(
                task.id = self.task.id,
                task.kind = self.kind.name(),
                duration_ms = millis(begun.elapsed()),
                "a task was answered"
            );
            return;
        };
        self.log(&result, problem, cause, begun);
        match self.finish(result).await {
            Ok(attempts) => {
                metrics.task_reported();
                tracing::debug!(task.id = self.task.id, attempts, "a result was reported");
            }
            Err(problem) => {
                let lost = metrics.task_lost();
                tracing::error!(
                    task.id = self.task.id,
                    task.kind = self.kind.name(),
                    error = problem,
                    lost,
                    "the result of a task could not be reported and is lost; ConductorOne will let the task run out"
                );
            }
        }
    }

    fn log(
        &self,
        result: &TaskResult,
        problem: Option<String>,
        cause: Option<Cause>,
        begun: Instant,
    ) {
        let duration_ms = millis(begun.elapsed());
        match result {
            TaskResult::Success { .. } => {
                tracing::info!(
                    task.id = self.task.id,
                    task.kind = self.kind.name(),
                    duration_ms,
                    "a task is done"
                );
                if self.kind.is_change() {
                    self.tell(Notice::ChangeMade {
                        kind: self.kind.name(),
                    });
                }
            }
            TaskResult::Error {
                status,
                non_retryable,
                ..
            } => {
                // A task that was stopped on purpose is no failure that a person should look at.
                if cause.is_some_and(|cause| cause.message() == status.message) {
                    tracing::info!(
                        task.id = self.task.id,
                        task.kind = self.kind.name(),
                        duration_ms,
                        reason = status.message,
                        "a task was stopped"
                    );
                } else {
                    let problem = problem.unwrap_or_else(|| status.message.clone());
                    tracing::error!(
                        task.id = self.task.id,
                        task.kind = self.kind.name(),
                        duration_ms,
                        code = %Code::from_number(status.code),
                        error = problem,
                        non_retryable,
                        "a task failed"
                    );
                    if self.kind == Kind::SyncFull {
                        self.tell(Notice::SyncFailed { problem });
                    } else if self.kind.is_change() {
                        self.tell(Notice::ChangeFailed {
                            kind: self.kind.name(),
                            problem,
                        });
                    }
                }
            }
        }
    }

    fn tell(&self, notice: Notice) {
        self.shared.settings.signals.notices.tell(notice);
    }

    /// Reports a result, again and again within the budget; answers with the number of attempts.
    ///
    /// The SDK tries once; this one call decides whether finished work is repeated.
    async fn finish(&self, result: TaskResult) -> Result<u32, String> {
        let timing = &self.shared.settings.timing;
        let budget_end = Instant::now() + timing.finish_budget;
        let mut process_end = self.shared.end.subscribe();
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        loop {
            let deadline = process_end.borrow_and_update().map_or(budget_end, |end| {
                end.checked_sub(LAST_WORD).unwrap_or(end).min(budget_end)
            });
            let attempt_end = deadline.min(Instant::now() + timing.call_limit);
            let attempt = self
                .shared
                .control_plane
                .finish(&self.task.id, result.clone());
            let (wait, problem) = match timeout_at(attempt_end, attempt).await {
                Ok(Ok(())) => return Ok(backoff.attempts() + 1),
                Ok(Err(error)) if is_refused(&error) => return Err(chain(&error)),
                Ok(Err(error)) => (backoff.after(error.class()), chain(&error)),
                Err(_elapsed) => (backoff.next(), NO_ANSWER.to_owned()),
            };
            let next = Instant::now() + wait;
            if next >= deadline {
                return Err(problem);
            }
            tracing::debug!(
                task.id = self.task.id,
                error = problem,
                attempts = backoff.attempts(),
                wait_ms = millis(wait),
                "a report failed and is repeated"
            );
            tokio::select! {
                biased;
                () = sleep_until(next) => {}
                // Less time is left than was thought: try at once.
                Ok(()) = process_end.changed() => {}
            }
        }
    }
}

/// Whether repeating the same report cannot help.
///
/// An unknown code is what a proxy or a plain server error looks like, so it is tried again. So is a report for which
/// there was no access token, whatever was said of that: ConductorOne has not seen the report.
fn is_refused(error: &control_plane::Error) -> bool {
    if matches!(error, control_plane::Error::Token { .. }) {
        return false;
    }
    match error.class() {
        Class::Permanent => error.code() != Code::Unknown,
        Class::NotFound => true,
        Class::Retryable | Class::Throttled(_) | Class::Auth | Class::Cancelled => false,
    }
}
