//! Retry of calls to the connector: linear backoff, bounded by a budget, ended by dropping the future.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    connector,
    error::{Class, Classify},
};

const STEP: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_mins(1);
/// The longest wait that a directory can ask for.
const MOST_ASKED: Duration = Duration::from_mins(10);
/// Failures up to this one are logged at debug level.
const QUIET: u32 = 2;

/// How often, and for how long, a failing call is repeated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    pub(super) attempts: u32,
    pub(super) budget: Duration,
}

/// Calls until it succeeds, fails for good, or the policy is used up; the last error is given back.
pub(super) async fn call<T, F>(
    policy: Policy,
    operation: &'static str,
    mut attempt: impl FnMut() -> F,
) -> Result<T, connector::Error>
where
    F: Future<Output = Result<T, connector::Error>>,
{
    let begun = Instant::now();
    let mut failures = 0_u32;
    loop {
        let error = match attempt().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        // Our own disk does not heal by waiting, and what the sync holds there may be what fills it.
        if matches!(error, connector::Error::Local { .. }) {
            return Err(error);
        }
        let asked = match error.class() {
            Class::Retryable => None,
            Class::Throttled(asked) => asked,
            Class::Auth | Class::NotFound | Class::Permanent | Class::Cancelled => {
                return Err(error);
            }
        };
        failures = failures.saturating_add(1);
        let wait = delay(failures, asked);
        if failures >= policy.attempts || begun.elapsed() + wait > policy.budget {
            return Err(error);
        }
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        if failures <= QUIET {
            tracing::debug!(operation, attempt = failures, wait_ms, error = %error, "retrying a call");
        } else {
            tracing::warn!(operation, attempt = failures, wait_ms, error = %error, "retrying a call");
        }
        tokio::time::sleep(wait).await;
    }
}

fn delay(failures: u32, asked: Option<Duration>) -> Duration {
    let linear = STEP.saturating_mul(failures).min(MOST);
    asked.map_or(linear, |asked| asked.min(MOST_ASKED).max(linear))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn unavailable(retry_after: Option<Duration>) -> connector::Error {
        connector::Error::Http {
            method: "GET",
            endpoint: "/api",
            status: 503,
            advice: String::new(),
            words: None,
            retry_after,
        }
    }

    #[test]
    fn waits_grow_linearly_to_a_minute_and_respect_what_the_directory_asks() {
        let seconds = Duration::from_secs;
        for (failures, asked, expected) in [
            (1, None, seconds(1)),
            (7, None, seconds(7)),
            (61, None, seconds(60)),
            (1, Some(seconds(30)), seconds(30)),
            (9, Some(seconds(2)), seconds(9)),
            (1, Some(seconds(86_400)), seconds(600)),
        ] {
            assert_eq!(delay(failures, asked), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_of_our_own_disk_is_not_repeated() {
        let calls = AtomicU32::new(0);
        let full = || connector::Error::Local {
            what: "the list of users cannot be kept".to_owned(),
            source: std::io::ErrorKind::StorageFull.into(),
        };
        let policy = Policy {
            attempts: u32::MAX,
            budget: Duration::from_hours(1),
        };
        let result = call(policy, "list", || {
            calls.fetch_add(1, Ordering::Relaxed);
            async { Err::<(), _>(full()) }
        })
        .await;
        assert!(result.is_err());
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_keeps_failing_is_given_up_when_its_budget_is_spent() {
        let begun = Instant::now();
        let policy = Policy {
            attempts: u32::MAX,
            budget: Duration::from_secs(100),
        };
        let result: Result<(), _> = call(policy, "list", || async { Err(unavailable(None)) }).await;
        assert!(matches!(
            result,
            Err(connector::Error::Http { status: 503, .. })
        ));
        assert!(begun.elapsed() <= Duration::from_secs(100));
        assert!(begun.elapsed() >= Duration::from_secs(90));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_bounded_where_the_policy_says_so() {
        let calls = AtomicU32::new(0);
        let policy = Policy {
            attempts: 5,
            budget: Duration::MAX,
        };
        let result: Result<(), _> = call(policy, "validate", || async {
            calls.fetch_add(1, Ordering::Relaxed);
            Err(unavailable(Some(Duration::from_secs(3))))
        })
        .await;
        assert!(result.is_err());
        assert_eq!(calls.load(Ordering::Relaxed), 5);
    }
}
