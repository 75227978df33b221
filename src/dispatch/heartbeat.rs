//! Tells ConductorOne that a task is alive, and brings its cancellation back.
//!
//! Every task that outlives one interval is kept alive, from the moment it is accepted until its result is reported;
//! the SDK does this for full syncs only. A full sync beats at once as well, because the server expects that.
//! A failed beat is repeated sooner than the interval. The task is given up only after [`MAX_FAILURES`] failures in a
//! row *and* a time without any success ([`Timing::heartbeat_lost_after`], ten minutes by default): with the SDK's
//! count alone, quicker repeats would give up sooner than the SDK does.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{NO_ANSWER, Timing, millis, outcome::Cause, pace::Backoff};
use crate::{
    control_plane::ControlPlane,
    error::{Classify, chain},
    handlers::Kind,
};

/// How many failures in a row give a task up, as in the SDK.
pub const MAX_FAILURES: u32 = 9;
/// The bounds of the interval that the server may ask for, as in the SDK.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const INTERVAL_MAX: Duration = Duration::from_mins(5);
/// The first delay after a failed beat.
const RETRY: Duration = Duration::from_secs(2);

/// Beats for one task until it must stop, and says why. Never ends while all is well.
pub(super) async fn beat(
    control_plane: &dyn ControlPlane,
    task_id: &str,
    kind: Kind,
    timing: &Timing,
) -> Cause {
    let mut interval = timing.heartbeat;
    let mut retry = Backoff::new(RETRY, interval);
    let mut last_success = Instant::now();
    let mut wait = if kind == Kind::SyncFull {
        Duration::ZERO
    } else {
        interval
    };
    loop {
        sleep(wait).await;
        let problem = match timeout(timing.call_limit, control_plane.heartbeat(task_id)).await {
            Ok(Ok(reply)) if reply.cancelled => {
                tracing::info!(
                    task.id = task_id,
                    task.kind = kind.name(),
                    "ConductorOne cancelled the task"
                );
                return Cause::Cancelled;
            }
            Ok(Ok(reply)) => {
                interval = match reply.next_heartbeat {
                    None | Some(Duration::ZERO) => timing.heartbeat,
                    Some(asked) => asked.clamp(INTERVAL_MIN, INTERVAL_MAX),
                };
                retry = Backoff::new(RETRY.min(interval), interval);
                last_success = Instant::now();
                wait = interval;
                continue;
            }
            Ok(Err(error)) => {
                wait = retry.after(error.class()).min(INTERVAL_MAX);
                chain(&error)
            }
            Err(_elapsed) => {
                wait = retry.next();
                NO_ANSWER.to_owned()
            }
        };
        let silent = last_success.elapsed();
        let failures = retry.attempts();
        if failures >= MAX_FAILURES && silent >= timing.heartbeat_lost_after {
            tracing::error!(
                task.id = task_id,
                task.kind = kind.name(),
                error = problem,
                failures,
                silent_ms = millis(silent),
                "a task is given up because its heartbeats fail"
            );
            return Cause::HeartbeatLost;
        }
        if failures <= 2 {
            tracing::debug!(
                task.id = task_id,
                error = problem,
                failures,
                "a heartbeat failed"
            );
        } else {
            tracing::warn!(
                task.id = task_id,
                error = problem,
                failures,
                "heartbeats fail"
            );
        }
    }
}
