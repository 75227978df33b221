//! How long to wait after a failure, by the class of the failure.

use std::time::Duration;

use crate::error::Class;

/// The shortest and the longest pause that a peer can impose.
const THROTTLE_MIN: Duration = Duration::from_secs(1);
const THROTTLE_MAX: Duration = Duration::from_mins(5);

/// Doubling delays up to a cap, each cut by a random part of up to a half, so that many workers do not come back
/// together.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    base: Duration,
    cap: Duration,
    attempts: u32,
}

impl Backoff {
    pub(super) const fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            attempts: 0,
        }
    }

    /// How many delays were given since the last reset.
    pub(super) const fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(super) fn next(&mut self) -> Duration {
        let doublings = self.attempts.min(20);
        self.attempts = self.attempts.saturating_add(1);
        let full = self.base.saturating_mul(1 << doublings).min(self.cap);
        full.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// The next delay, at least as long as a throttling peer asks for.
    pub(super) fn after(&mut self, class: Class) -> Duration {
        let own = self.next();
        match class {
            Class::Throttled(Some(asked)) => throttled(asked),
            _ => own,
        }
    }
}

/// What a peer asked for, within limits, and up to a tenth more.
fn throttled(asked: Duration) -> Duration {
    asked
        .clamp(THROTTLE_MIN, THROTTLE_MAX)
        .mul_f64(1.0 + 0.1 * fastrand::f64())
}

/// The pace of polling: one backoff for each kind of failure, and the log line that belongs to it.
#[derive(Debug)]
pub(super) struct Pace {
    transient: Backoff,
    interrupted: Backoff,
    slow: Backoff,
    auth: Backoff,
    failures: u32,
    last: Option<std::mem::Discriminant<Class>>,
}

impl Pace {
    pub(super) const fn new() -> Self {
        Self {
            transient: Backoff::new(Duration::from_secs(1), Duration::from_mins(1)),
            // A connection that was closed in good order is opened again at once; one that always is, is not.
            interrupted: Backoff::new(Duration::from_millis(200), Duration::from_mins(1)),
            slow: Backoff::new(Duration::from_secs(5), Duration::from_mins(5)),
            auth: Backoff::new(Duration::from_secs(30), Duration::from_mins(5)),
            failures: 0,
            last: None,
        }
    }

    pub(super) fn succeeded(&mut self) {
        if self.failures > 1 {
            tracing::info!(attempts = self.failures, "polling works again");
        }
        *self = Self::new();
    }

    /// Logs a failed poll and answers with the delay before the next one.
    pub(super) fn failed(&mut self, class: Class, problem: &str) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let changed = self.last.replace(std::mem::discriminant(&class))
            != Some(std::mem::discriminant(&class));
        let wait = match class {
            Class::Retryable => self.transient.next(),
            Class::Cancelled => self.interrupted.next(),
            Class::Throttled(Some(asked)) => throttled(asked),
            Class::Throttled(None) | Class::NotFound | Class::Permanent => self.slow.next(),
            Class::Auth => self.auth.next(),
        };
        let wait_ms = super::millis(wait);
        let attempts = self.failures;
        match class {
            Class::Auth if changed => tracing::error!(
                error = problem,
                wait_ms,
                "ConductorOne rejects this connector's credentials; check the client id and secret, or issue a new \
                 credential"
            ),
            Class::NotFound | Class::Permanent if changed => tracing::error!(
                error = problem,
                wait_ms,
                "ConductorOne refuses to hand out tasks; check that this connector still exists there"
            ),
            Class::Auth | Class::NotFound | Class::Permanent => {
                tracing::debug!(error = problem, attempts, wait_ms, "polling still fails");
            }
            Class::Retryable | Class::Throttled(_) | Class::Cancelled if attempts <= 2 => {
                tracing::debug!(
                    error = problem,
                    attempts,
                    wait_ms,
                    "a poll failed and is repeated"
                );
            }
            Class::Retryable | Class::Throttled(_) | Class::Cancelled => {
                tracing::warn!(
                    error = problem,
                    attempts,
                    wait_ms,
                    "polling fails; no tasks are received"
                );
            }
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_up_to_the_cap_and_lose_at_most_half_to_chance() {
        let mut backoff = Backoff::new(SECOND, 300 * SECOND);
        for full in [1_u32, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let delay = backoff.next();
            let full = full * SECOND;
            assert!(delay >= full / 2 && delay <= full, "{delay:?} for {full:?}");
        }
        assert_eq!(backoff.attempts(), 11);
    }

    #[test]
    fn each_class_has_its_own_first_delay() {
        let cases = [
            (Class::Retryable, 500, 1000),
            (Class::Cancelled, 100, 200),
            (Class::Throttled(None), 2500, 5000),
            (Class::Throttled(Some(40 * SECOND)), 40_000, 44_000),
            (Class::Throttled(Some(Duration::ZERO)), 1000, 1100),
            (Class::Throttled(Some(9000 * SECOND)), 300_000, 330_000),
            (Class::NotFound, 2500, 5000),
            (Class::Permanent, 2500, 5000),
            (Class::Auth, 15_000, 30_000),
        ];
        for (class, least, most) in cases {
            let delay = Pace::new().failed(class, "down");
            assert!(
                (Duration::from_millis(least)..=Duration::from_millis(most)).contains(&delay),
                "{class:?} waits {delay:?}"
            );
        }
    }

    #[test]
    fn a_connection_that_is_always_closed_is_not_reopened_in_a_spin() {
        let mut pace = Pace::new();
        let total: Duration = (0..12).map(|_| pace.failed(Class::Cancelled, "gone")).sum();
        assert!(total > 100 * SECOND, "{total:?}");
    }

    #[test]
    fn a_success_resets_the_pace() {
        let mut pace = Pace::new();
        for _ in 0..9 {
            pace.failed(Class::Retryable, "down");
        }
        pace.succeeded();
        assert!(pace.failed(Class::Retryable, "down") <= SECOND);
    }
}
