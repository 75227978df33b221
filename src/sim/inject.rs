//! When a fault strikes, and faults that come and go while a simulator runs.
//!
//! Each simulator has its own rules; what they share is here: the moment ([`When`]), the text of `Retry-After`
//! ([`RetryAfter`]), and the list of rules in force with its counters. A rule is in force as long as its [`Injected`]
//! lives, so that a test that ends, or fails, leaves nothing behind.

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp, fmt::rfc2822::DateTimePrinter};
use tokio::time::Instant;

/// Which of the matching requests are spoilt; the first one has the number 1.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum When {
    /// All of them; `*` is read as well.
    Always,
    /// From the first number to the second, both included.
    Between(u64, u64),
    /// Each n-th one.
    Every(u64),
    /// Each with this probability, decided by the seed.
    Probability(f64),
    /// `for5s`: all of them for this long, counted from the first.
    For(Duration),
}

/// The text says not when.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} says not when; use 3, 2-5, 4+, every7, always, p0.01 or for5s")]
pub struct WhenError(pub String);

impl When {
    /// Whether the request of this number, which came this long after the first one, is spoilt.
    pub(super) fn hits(self, number: u64, age: Duration, seed: u64) -> bool {
        match self {
            Self::Always => true,
            Self::Between(first, last) => (first..=last).contains(&number),
            Self::Every(step) => step > 0 && number.is_multiple_of(step),
            #[expect(clippy::cast_precision_loss, reason = "53 bits are enough for a coin")]
            Self::Probability(p) => {
                ((mix(seed ^ mix(number)) >> 11) as f64) < p * (1_u64 << 53) as f64
            }
            Self::For(time) => age < time,
        }
    }
}

/// A bijective mixing of 64 bits: neighbouring numbers give unrelated ones.
pub(super) const fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Between(first, last) if first == last => write!(f, "{first}"),
            Self::Between(first, u64::MAX) => write!(f, "{first}+"),
            Self::Between(first, last) => write!(f, "{first}-{last}"),
            Self::Every(step) => write!(f, "every{step}"),
            Self::Probability(p) => write!(f, "p{p}"),
            Self::For(time) => write!(f, "for{}ms", time.as_millis()),
        }
    }
}

impl FromStr for When {
    type Err = WhenError;

    fn from_str(text: &str) -> Result<Self, WhenError> {
        let number = |text: &str| text.parse::<u64>().ok().filter(|&n| n > 0);
        let read = || {
            if matches!(text, "always" | "*") {
                return Some(Self::Always);
            }
            if let Some(time) = text.strip_prefix("for") {
                let time = humantime::parse_duration(time).ok()?;
                return u64::try_from(time.as_millis())
                    .ok()
                    .map(Duration::from_millis)
                    .map(Self::For);
            }
            if let Some(step) = text.strip_prefix("every") {
                return number(step).map(Self::Every);
            }
            if let Some(p) = text.strip_prefix('p') {
                let p = p.parse::<f64>().ok()?;
                return (0.0..=1.0).contains(&p).then_some(Self::Probability(p));
            }
            if let Some(first) = text.strip_suffix('+') {
                return Some(Self::Between(number(first)?, u64::MAX));
            }
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Self::Between(first, last))
        };
        read().ok_or_else(|| WhenError(text.to_owned()))
    }
}

/// `Retry-After` of an answer: `none`, `date+120` or `date-120` (seconds from the moment of the answer), or any other
/// text, which is sent as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryAfter {
    /// No header.
    Absent,
    /// An HTTP date this many seconds away.
    Date(i64),
    /// This text.
    Text(String),
}

impl RetryAfter {
    /// The value of the header at this moment.
    pub(super) fn value(&self, now: Timestamp) -> Option<String> {
        match self {
            Self::Absent => None,
            Self::Date(seconds) => now
                .checked_add(SignedDuration::from_secs(*seconds))
                .ok()
                .and_then(|at| DateTimePrinter::new().timestamp_to_rfc9110_string(&at).ok()),
            Self::Text(text) => Some(text.clone()),
        }
    }
}

impl From<&str> for RetryAfter {
    fn from(text: &str) -> Self {
        if text == "none" {
            return Self::Absent;
        }
        let date = text
            .strip_prefix("date")
            .filter(|offset| offset.starts_with(['+', '-']))
            .and_then(|offset| offset.parse().ok());
        date.map_or_else(|| Self::Text(text.to_owned()), Self::Date)
    }
}

impl fmt::Display for RetryAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("none"),
            Self::Date(seconds) => write!(f, "date{seconds:+}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// How often a rule was asked and struck, and since when it counts.
#[derive(Debug, Default)]
pub(super) struct Counter {
    seen: AtomicU64,
    hits: AtomicU64,
    first: OnceLock<Instant>,
}

impl Counter {
    /// Counts one more request and says whether it is struck; it counts as a hit with [`Counter::hit`] only.
    pub(super) fn strikes(&self, when: When, seed: u64) -> bool {
        let age = self.first.get_or_init(Instant::now).elapsed();
        let number = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        when.hits(number, age, seed)
    }

    pub(super) fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }
}

/// A fault that is in force; dropping this takes it away.
#[derive(Debug)]
#[must_use = "the fault ends with this"]
pub struct Injected {
    rule: String,
    counter: Arc<Counter>,
}

impl Injected {
    /// How many requests it has struck.
    pub fn hits(&self) -> u64 {
        self.counter.hits.load(Ordering::Relaxed)
    }

    /// The rule in its text form.
    pub fn rule(&self) -> &str {
        &self.rule
    }
}

/// What a list of rules needs of a rule.
pub(super) trait Rule: Clone + fmt::Display {
    /// What a request is matched by.
    type Request<'a>;
    /// What becomes of it.
    type Fault: Clone + fmt::Display;
    fn matches(&self, request: &Self::Request<'_>) -> bool;
    fn when(&self) -> When;
    fn fault(&self) -> &Self::Fault;
}

/// The rules in force, and what all that ever were in force have struck, by the kind of fault.
#[derive(Debug)]
pub(super) struct Injections<R> {
    rules: Mutex<Vec<(R, Weak<Counter>)>>,
    fired: Mutex<BTreeMap<String, u64>>,
}

impl<R> Default for Injections<R> {
    fn default() -> Self {
        Self {
            rules: Mutex::default(),
            fired: Mutex::default(),
        }
    }
}

impl<R: Rule> Injections<R> {
    /// Puts a rule in force.
    pub(super) fn add(&self, rule: R) -> Injected {
        let counter = Arc::new(Counter::default());
        let injected = Injected {
            rule: rule.to_string(),
            counter: Arc::clone(&counter),
        };
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.push((rule, Arc::downgrade(&counter)));
        injected
    }

    /// The fault that strikes this request: that of the oldest rule that hits. Every matching rule counts it.
    pub(super) fn next(&self, request: &R::Request<'_>, seed: u64) -> Option<R::Fault> {
        let mut chosen = None;
        {
            let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
            rules.retain(|(rule, counter)| {
                let Some(counter) = counter.upgrade() else {
                    return false;
                };
                if rule.matches(request) && counter.strikes(rule.when(), seed) && chosen.is_none() {
                    counter.hit();
                    chosen = Some(rule.fault().clone());
                }
                true
            });
        }
        if let Some(fault) = &chosen {
            self.fired(&fault.to_string());
        }
        chosen
    }

    /// Counts a fault that struck, whose text may have a value behind `=`.
    pub(super) fn fired(&self, fault: &str) {
        let kind = fault.split_once('=').map_or(fault, |(kind, _)| kind);
        let mut fired = self.fired.lock().unwrap_or_else(PoisonError::into_inner);
        *fired.entry(kind.to_owned()).or_default() += 1;
    }

    /// What has struck so far.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.fired
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_hits_the_requests_that_it_names() {
        let hits = |when: &str| -> Vec<u64> {
            let when: When = when.parse().unwrap();
            (1..=8)
                .filter(|&number| when.hits(number, Duration::from_secs(number), 1))
                .collect()
        };
        assert_eq!(hits("3"), [3]);
        assert_eq!(hits("2-4"), [2, 3, 4]);
        assert_eq!(hits("7+"), [7, 8]);
        assert_eq!(hits("every3"), [3, 6]);
        assert_eq!(hits("always").len(), 8);
        assert!(hits("p0").is_empty());
        assert_eq!(hits("p1").len(), 8);
        assert_eq!(hits("for3s"), [1, 2]);
    }

    #[test]
    fn a_probability_is_met_and_repeats_under_the_same_seed() {
        let when: When = "p0.1".parse().unwrap();
        let count = |seed| {
            (0..10_000)
                .filter(|&n| when.hits(n, Duration::ZERO, seed))
                .count()
        };
        assert!((850..1150).contains(&count(3)), "{}", count(3));
        assert_eq!(count(3), count(3));
    }

    #[test]
    fn a_retry_after_is_absent_a_date_or_any_text() {
        let now: Timestamp = "2026-03-01T10:00:00Z".parse().unwrap();
        for (text, value) in [
            ("none", None),
            ("date+120", Some("Sun, 01 Mar 2026 10:02:00 GMT")),
            ("date-60", Some("Sun, 01 Mar 2026 09:59:00 GMT")),
            ("-5", Some("-5")),
            ("soon", Some("soon")),
            ("date", Some("date")),
        ] {
            let retry_after = RetryAfter::from(text);
            assert_eq!(retry_after.value(now).as_deref(), value, "{text}");
            assert_eq!(retry_after.to_string(), text);
        }
    }
}
