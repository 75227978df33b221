//! Switches that can be turned while the simulator runs: latency, rate limit, faults, permissions, list quirks, and how
//! writes that the descriptions leave open are answered.
//!
//! The fault rules' counters start again when the list of rules changes, and only then.

use std::{
    collections::BTreeSet,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    faults::{FaultPlan, FaultRule},
    routes::Collection,
};

/// How the simulator behaves. As JSON every field has the same name; durations are text such as `30ms`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Behaviour {
    /// Waited before every answer.
    #[serde(with = "duration_text")]
    pub latency: Duration,
    /// Up to this much more is waited, by chance.
    #[serde(with = "duration_text")]
    pub jitter: Duration,
    /// A token bucket over all requests; `None` for no limit.
    pub rate_limit: Option<RateLimit>,
    /// The text of `Retry-After` on 429, sent as it is, so that absurd values can be tried; `None` sends no header.
    pub retry_after: Option<String>,
    /// The fault plan; the first rule that hits a request decides.
    pub faults: Vec<FaultRule>,
    /// Decides which requests a probability hits.
    pub fault_seed: u64,
    /// Collections that answer 403 to every key.
    pub deny: BTreeSet<Collection>,
    /// Lists without a sort come in another order on every request; graph lists after every change.
    pub shuffle: bool,
    /// v2 object lists send `Link` to the next page.
    pub link: bool,
    /// Graph lists send `Link` as well.
    pub link_on_graph: bool,
    /// v2 lists have no `x-total-count`.
    pub hide_totals: bool,
    /// The application list ignores `fields` and always shows `config`.
    pub ignore_app_fields: bool,
    /// The administrator endpoints, except for creating one, answer 403 to a request with `x-org-id`.
    pub refuse_org_on_admins: bool,
    /// Collections whose changes answer 403 to every key.
    pub deny_writes: BTreeSet<Collection>,
    /// Collections whose changes answer 503; they can still be read.
    pub write_outage: BTreeSet<Collection>,
    /// A write is invisible to this many reads of its organisation that follow it, lists and single objects alike.
    pub hide_writes_for_reads: u64,
    /// A write is invisible to reads for this long; with a number of reads, until both are over.
    #[serde(with = "duration_text")]
    pub hide_writes_for: Duration,
    /// A duplicate user or administrator is answered 400 instead of 409.
    pub duplicates_as_400: bool,
    /// A write to a field that another directory masters is answered 403 instead of 400.
    pub restricted_as_403: bool,
    /// A member of a dynamic automated group is changed by hand with 204 and the change is undone at once; otherwise it
    /// is refused with 400.
    pub undo_dynamic_changes: bool,
    /// Nobody's username can be changed; otherwise that of a user who is in no group and has no application can.
    pub lock_usernames: bool,
    /// A user who manages others is deleted only with `cascade_manager`; otherwise they keep naming somebody who exists
    /// no more.
    pub refuse_to_delete_managers: bool,
    /// A deleted group is answered 204 without a body instead of 200 with the group.
    pub silent_group_deletion: bool,
}

/// A token bucket, written `50/s` or `50/s:10` with the size of the bucket behind the colon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// Requests per second.
    pub per_second: f64,
    /// Requests that may come at once; as many as per second unless said.
    pub burst: f64,
}

/// The text is no rate limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no rate limit; write 50/s, or 50/s:10 with a burst of 10")]
pub struct RateLimitError(String);

impl FromStr for RateLimit {
    type Err = RateLimitError;

    fn from_str(text: &str) -> Result<Self, RateLimitError> {
        let read = || {
            let (rate, burst) = text.split_once(':').unwrap_or((text, ""));
            let positive = |text: &str| {
                text.parse::<f64>()
                    .ok()
                    .filter(|number| number.is_finite() && *number > 0.0)
            };
            let per_second = positive(rate.strip_suffix("/s")?)?;
            let burst = if burst.is_empty() {
                per_second.max(1.0)
            } else {
                positive(burst)?.max(1.0)
            };
            Some(Self { per_second, burst })
        };
        read().ok_or_else(|| RateLimitError(text.to_owned()))
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s:{}", self.per_second, self.burst)
    }
}

impl Serialize for RateLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RateLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

mod duration_text {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        humantime::parse_duration(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}

/// A change of behaviour was refused.
#[derive(Debug, thiserror::Error)]
#[error("the behaviour cannot be changed: field {field}: {problem}")]
pub struct BehaviourError {
    /// The field, `.` for the whole.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Behaviour {
    /// This behaviour with the fields of a JSON object replaced.
    pub fn patched(&self, patch: &[u8]) -> Result<Self, BehaviourError> {
        let refused = |field: String, problem: String| BehaviourError { field, problem };
        let patch: serde_json::Map<String, Value> = serde_json::from_slice(patch)
            .map_err(|problem| refused(".".to_owned(), problem.to_string()))?;
        let mut whole = serde_json::to_value(self)
            .map_err(|problem| refused(".".to_owned(), problem.to_string()))?;
        if let Value::Object(fields) = &mut whole {
            fields.extend(patch);
        }
        serde_path_to_error::deserialize(whole)
            .map_err(|problem| refused(problem.path().to_string(), problem.inner().to_string()))
    }
}

/// A behaviour in force.
#[derive(Debug, Default)]
pub(super) struct InForce {
    pub behaviour: Behaviour,
    pub plan: Arc<FaultPlan>,
}

/// The behaviour in force and the state of its rate limit.
#[derive(Debug)]
pub(super) struct Switchboard {
    current: Mutex<Arc<InForce>>,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    limit: Option<RateLimit>,
    tokens: f64,
    filled: Instant,
    closed_until: Option<Instant>,
}

impl Switchboard {
    pub(super) fn new(behaviour: Behaviour) -> Self {
        let plan = Arc::new(FaultPlan::new(&behaviour.faults, behaviour.fault_seed));
        Self {
            current: Mutex::new(Arc::new(InForce { behaviour, plan })),
            bucket: Mutex::new(Bucket {
                limit: None,
                tokens: 0.0,
                filled: Instant::now(),
                closed_until: None,
            }),
        }
    }

    pub(super) fn current(&self) -> Arc<InForce> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn replace(&self, behaviour: Behaviour) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let same_plan = current.behaviour.faults == behaviour.faults
            && current.behaviour.fault_seed == behaviour.fault_seed;
        let plan = if same_plan {
            Arc::clone(&current.plan)
        } else {
            Arc::new(FaultPlan::new(&behaviour.faults, behaviour.fault_seed))
        };
        *current = Arc::new(InForce { behaviour, plan });
    }

    /// Answers 429 to everything for a while, whatever the rate limit says.
    pub(super) fn close_for(&self, time: Duration) {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.closed_until = Instant::now().checked_add(time);
    }

    /// Takes one token; `false` means 429.
    pub(super) fn admits(&self, limit: Option<RateLimit>) -> bool {
        let now = Instant::now();
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = bucket.closed_until {
            if now < until {
                return false;
            }
            bucket.closed_until = None;
        }
        let Some(limit) = limit else {
            bucket.limit = None;
            return true;
        };
        if bucket.limit == Some(limit) {
            let gained = now.duration_since(bucket.filled).as_secs_f64() * limit.per_second;
            bucket.tokens = (bucket.tokens + gained).min(limit.burst);
        } else {
            bucket.limit = Some(limit);
            bucket.tokens = limit.burst;
        }
        bucket.filled = now;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_changes_the_fields_that_it_names() {
        let patched = Behaviour::default()
            .patched(
                br#"{"latency":"30ms","rate_limit":"50/s","faults":["*@1:503"],"deny":["roles"]}"#,
            )
            .unwrap();
        assert_eq!(patched.latency, Duration::from_millis(30));
        assert_eq!(
            patched.rate_limit.unwrap().burst.to_bits(),
            50_f64.to_bits()
        );
        assert_eq!(patched.faults.len(), 1);
        let again = patched.patched(br#"{"rate_limit":null}"#).unwrap();
        assert_eq!(again.rate_limit, None);
        assert_eq!(again.latency, patched.latency);
    }

    #[test]
    fn a_patch_that_cannot_be_read_names_the_field() {
        for (patch, field, words) in [
            (r#"{"latency":"soon"}"#, "latency", "number"),
            (
                r#"{"faults":["*@1:503","nonsense"]}"#,
                "faults[1]",
                "fault rule",
            ),
            (r#"{"rate_limit":"fast"}"#, "rate_limit", "50/s"),
            (r#"{"speed":1}"#, "speed", "unknown field"),
            ("[]", ".", "expected a map"),
        ] {
            let error = Behaviour::default().patched(patch.as_bytes()).unwrap_err();
            assert_eq!(error.field, field, "{patch}");
            assert!(error.problem.contains(words), "{patch}: {error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_bucket_admits_a_burst_and_then_the_rate() {
        let board = Switchboard::new(Behaviour::default());
        let limit: RateLimit = "10/s:3".parse().unwrap();
        let admitted = |n| (0..n).filter(|_| board.admits(Some(limit))).count();
        assert_eq!(admitted(10), 3);
        tokio::time::advance(Duration::from_millis(210)).await;
        assert_eq!(admitted(10), 2);
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(admitted(10), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_door_opens_by_itself() {
        let board = Switchboard::new(Behaviour::default());
        board.close_for(Duration::from_secs(2));
        assert!(!board.admits(None));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(board.admits(None));
    }

    #[test]
    fn the_counters_of_the_fault_plan_outlive_other_changes() {
        let board = Switchboard::new(Behaviour {
            faults: vec!["*@2:500".parse().unwrap()],
            ..Behaviour::default()
        });
        assert_eq!(
            board.current().plan.next(&http::Method::GET, "/api/users"),
            None
        );
        board.replace(Behaviour {
            shuffle: true,
            ..board.current().behaviour.clone()
        });
        assert!(
            board
                .current()
                .plan
                .next(&http::Method::GET, "/api/users")
                .is_some()
        );
    }
}
