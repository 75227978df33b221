//! When a request is tried again, and after how long.
//!
//! The schedule is exponential with jitter; a `Retry-After` of the peer takes its place. Both the number of attempts and
//! the whole time of a call are bounded, so no caller waits for ever.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use jiff::{Timestamp, fmt::rfc2822};
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use tokio::time::Instant;

/// The longest `Retry-After` that is obeyed as it stands; a longer one is cut to this.
pub const MAX_RETRY_AFTER: Duration = Duration::from_mins(2);
/// A `Retry-After` beyond this is a broken clock or a broken server, and is ignored.
const ABSURD_RETRY_AFTER: Duration = Duration::from_hours(24);

/// How long and how often a call is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Attempts in all, the first one included.
    pub max_attempts: usize,
    /// The shortest first wait.
    pub min_delay: Duration,
    /// The longest wait of our own schedule.
    pub max_delay: Duration,
    /// The whole time of a call from its first attempt on; no attempt starts after it.
    pub budget: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_attempts: 8,
            min_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(30),
            budget: Duration::from_mins(5),
        }
    }
}

impl Policy {
    /// Begins to count the attempts and the time of one call.
    pub fn start(self) -> Retries {
        // Jitter adds up to the delay itself, so half the bound keeps the sum inside it.
        let delays = ExponentialBuilder::default()
            .with_min_delay(self.min_delay)
            .with_max_delay((self.max_delay / 2).max(self.min_delay))
            .with_max_times(self.max_attempts.saturating_sub(1))
            .with_jitter()
            .build();
        Retries {
            policy: self,
            delays,
            started: Instant::now(),
            attempts: 1,
        }
    }
}

/// The attempts of one call.
#[derive(Debug)]
pub struct Retries {
    policy: Policy,
    delays: ExponentialBackoff,
    started: Instant,
    attempts: usize,
}

impl Retries {
    /// The attempts so far, the running one included.
    pub fn attempts(&self) -> usize {
        self.attempts
    }

    /// How long to wait before the next attempt: `asked` where the peer said so, else by our schedule.
    ///
    /// `None` means to give up: the attempts are used up, or the wait would end after the budget.
    pub fn next_delay(&mut self, asked: Option<Duration>) -> Option<Duration> {
        let own = self.delays.next()?.min(self.policy.max_delay);
        let delay = asked.unwrap_or(own);
        if self.started.elapsed().saturating_add(delay) > self.policy.budget {
            return None;
        }
        self.attempts = self.attempts.saturating_add(1);
        Some(delay)
    }
}

/// Whether what this status tells may pass by itself, so that a request that may be repeated is.
///
/// 520 to 524 are what Cloudflare, which stands before JumpCloud, answers when it cannot reach the origin.
pub fn is_retryable(status: u16) -> bool {
    matches!(status, 429 | 500 | 502..=504 | 520..=524)
}

/// The wait that the peer asks for, at most [`MAX_RETRY_AFTER`].
///
/// Both forms of RFC 9110 are read: seconds, and a date, which is compared with the peer's own `Date` where it sent one,
/// else with `now`. Zero, negative, absurd and unreadable values count as absent.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(text.parse().ok()?)
    } else {
        let until = rfc2822::parse(text).ok()?.timestamp();
        let peer_now = headers
            .get(DATE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| rfc2822::parse(value.trim()).ok())
            .map_or(now, |date| date.timestamp());
        Duration::try_from(until.duration_since(peer_now)).ok()?
    };
    (!wait.is_zero() && wait <= ABSURD_RETRY_AFTER).then(|| wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::paused;

    fn headers(retry_after: &str, date: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry_after.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        headers
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_nonsense_is_ignored() {
        let now: Timestamp = "2026-10-01T08:00:00Z".parse().unwrap();
        let cases: [(&str, Option<&str>, Option<u64>); 16] = [
            ("2", None, Some(2)),
            (" 7 ", None, Some(7)),
            ("120", None, Some(120)),
            ("3600", None, Some(120)),
            ("0", None, None),
            ("-5", None, None),
            ("1.5", None, None),
            ("", None, None),
            ("soon", None, None),
            ("90000", None, None),
            ("99999999999999999999999999", None, None),
            ("Thu, 01 Oct 2026 08:00:30 GMT", None, Some(30)),
            ("Thu, 01 Oct 2026 07:00:30 GMT", None, None),
            ("Thu, 01 Oct 2026 08:30:00 GMT", None, Some(120)),
            ("Thu, 01 Oct 2099 08:30:00 GMT", None, None),
            (
                "Thu, 01 Oct 2026 09:00:10 GMT",
                Some("Thu, 01 Oct 2026 09:00:00 GMT"),
                Some(10),
            ),
        ];
        for (value, date, expected) in cases {
            assert_eq!(
                retry_after(&headers(value, date), now),
                expected.map(Duration::from_secs),
                "{value:?} with date {date:?}"
            );
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn the_statuses_that_are_tried_again() {
        let retried: Vec<u16> = (100..=599).filter(|status| is_retryable(*status)).collect();
        assert_eq!(retried, [429, 500, 502, 503, 504, 520, 521, 522, 523, 524]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_waits_grow_stay_inside_their_bounds_and_end_after_eight_attempts() {
        let policy = Policy::default();
        let mut retries = policy.start();
        let mut waits = Vec::new();
        while let Some(delay) = retries.next_delay(None) {
            waits.push(delay);
        }
        assert_eq!(waits.len(), 7);
        assert_eq!(retries.attempts(), 8);
        for (index, wait) in waits.iter().enumerate() {
            let low = Duration::from_millis(500 << index).min(Duration::from_secs(15));
            assert!(*wait >= low && *wait <= low * 2, "wait {index} is {wait:?}");
            assert!(*wait <= policy.max_delay);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_would_end_after_the_budget_gives_up() {
        let policy = Policy {
            budget: Duration::from_secs(100),
            ..Policy::default()
        };
        let mut retries = policy.start();
        assert_eq!(
            retries.next_delay(Some(Duration::from_secs(90))),
            Some(Duration::from_secs(90))
        );
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(retries.next_delay(Some(Duration::from_secs(11))), None);
        assert_eq!(retries.attempts(), 2);
    }

    proptest! {
        #[test]
        fn no_retry_after_is_ever_longer_than_the_cap(value in "[ -~]{0,40}") {
            if let Some(wait) = retry_after(&headers(&value, None), Timestamp::UNIX_EPOCH) {
                prop_assert!(!wait.is_zero() && wait <= MAX_RETRY_AFTER);
            }
        }
    }

    fn millis(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
        range.prop_map(Duration::from_millis)
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn the_waits_of_any_policy_stay_inside_its_bounds(
            max_attempts in 0_usize..20,
            min_delay in millis(0..60_000),
            max_delay in millis(0..120_000),
            budget in millis(0..900_000),
            asked in proptest::collection::vec(
                proptest::option::of(prop_oneof![3 => millis(0..200_000), 1 => Just(Duration::MAX)]),
                30,
            ),
        ) {
            paused(async move {
                let policy = Policy { max_attempts, min_delay, max_delay, budget };
                let started = Instant::now();
                let mut retries = policy.start();
                let mut attempts = 1;
                for asked in asked {
                    let Some(delay) = retries.next_delay(asked) else {
                        break;
                    };
                    attempts += 1;
                    assert_eq!(retries.attempts(), attempts);
                    match asked {
                        Some(asked) => assert_eq!(delay, asked),
                        None => assert!(delay >= min_delay.min(max_delay) && delay <= max_delay),
                    }
                    tokio::time::advance(delay).await;
                }
                assert!(attempts <= max_attempts.max(1));
                assert!(started.elapsed() <= budget);
            });
        }

        #[test]
        fn a_date_is_obeyed_relative_to_the_clock_of_the_peer(
            peer in 0_i64..4_000_000_000,
            ahead in -100_000_i64..100_000,
            ours in 0_i64..4_000_000_000,
        ) {
            let http = |second: i64| {
                let time = Timestamp::from_second(second).unwrap();
                rfc2822::DateTimePrinter::new()
                    .timestamp_to_rfc9110_string(&time)
                    .unwrap()
            };
            let until = peer + ahead;
            prop_assume!(until >= 0);
            let wait = retry_after(
                &headers(&http(until), Some(&http(peer))),
                Timestamp::from_second(ours).unwrap(),
            );
            let expected = match ahead {
                1..=86_400 => Some(Duration::from_secs(ahead.unsigned_abs()).min(MAX_RETRY_AFTER)),
                _ => None,
            };
            prop_assert_eq!(wait, expected);
        }
    }
}
