//! A seeded schedule of faults for both simulators, and its application to them.
//!
//! The same seed, span and number give the same [`Storm`], and its text form, one strike a line, can be read back: a
//! life that went wrong can be repeated from what was printed. What strikes is decided by the schedule; which request
//! is hit depends on what the daemon does at that moment, and is counted.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use fastrand::Rng;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{self, Instant};

use super::{
    Certificate, Injected, Outage,
    conductorone::{CODES, Control, RpcRule, Stage},
    jumpcloud::{FaultRule, JumpCloudSim},
};

/// What happens at one moment.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Blow {
    /// A rule is in force at `JumpCloud`.
    JumpCloud(FaultRule),
    /// The network to `JumpCloud` fails.
    JumpCloudOutage(Outage),
    /// The OAuth tokens of `JumpCloud` are forgotten.
    JumpCloudTokens,
    /// A rule is in force at `ConductorOne`.
    ConductorOne(RpcRule),
    /// The network to `ConductorOne` fails.
    ConductorOneOutage(Outage),
    /// `ConductorOne` forgets its tokens.
    ConductorOneTokens,
    /// `ConductorOne` shows this certificate, and every connection ends.
    Certificate(Certificate),
    /// The clock of `ConductorOne` goes ahead by this many seconds, or behind.
    Skew(i64),
    /// GOAWAY on every connection.
    GoAway,
    /// The oldest task that runs is handed out once more.
    DeliverAgain,
    /// The oldest task that runs is cancelled.
    Cancel,
}

/// One blow: when, for how long, and what.
#[derive(Debug, Clone, PartialEq)]
pub struct Strike {
    /// From the start of the storm.
    pub at: Duration,
    /// How long it holds; of no meaning for a blow of one moment.
    pub lasts: Duration,
    /// What happens.
    pub blow: Blow,
}

/// A schedule, in the order of its moments.
#[derive(Debug, Clone, PartialEq)]
pub struct Storm {
    /// What it was made from.
    pub seed: u64,
    /// Its strikes.
    pub strikes: Vec<Strike>,
}

/// What a storm did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damage {
    /// How often faults really struck a request or a connection, or happened, by their text.
    pub fired: BTreeMap<String, u64>,
    /// Strikes that hit nothing.
    pub missed: u64,
    /// The tasks that were cancelled.
    pub cancelled: Vec<String>,
    /// The tasks that were handed out once more.
    pub delivered_again: Vec<String>,
}

/// The text is no storm.
#[derive(Debug, thiserror::Error)]
#[error("line {line} is no strike: {problem}")]
pub struct StormError {
    line: usize,
    problem: String,
}

/// What can happen to a request to `JumpCloud`.
const JUMPCLOUD: [&str; 30] = [
    "400",
    "401",
    "403",
    "404",
    "409",
    "429",
    "429=retry-after:none",
    "429=retry-after:0",
    "429=retry-after:2",
    "429=retry-after:-5",
    "429=retry-after:99999999999",
    "429=retry-after:soon",
    "429=retry-after:date+1",
    "429=retry-after:date-600",
    "500",
    "501",
    "502",
    "503",
    "503=retry-after:1",
    "504",
    "html-200",
    "truncated-json",
    "malformed-json",
    "empty-body",
    "wrong-types",
    "null-fields",
    "reset-mid-body",
    "no-response",
    "hang",
    "slow-drip=700ms",
];

/// What can happen to a list of `JumpCloud` alone.
const LISTS: [&str; 4] = [
    "duplicate-page",
    "endless-paging",
    "wrong-total",
    "no-total",
];

/// What can happen to a change of `JumpCloud` alone.
const WRITES: [&str; 5] = [
    "applied-no-response",
    "applied-500",
    "applied-503",
    "applied-503=retry-after:1",
    "applied-504",
];

/// Where at `JumpCloud`; the first ones are lists.
const ENDPOINTS: [&str; 8] = [
    "/api/systemusers",
    "/api/v2/usergroups",
    "/api/v2/usergroups/{id}/members",
    "/api/v2/applications/{id}/associations",
    "/api/users",
    "/api/systemusers/{id}",
    "/api/v2/usergroups/{id}",
    "*",
];
const LIST_ENDPOINTS: usize = 5;

const METHODS: [&str; 6] = [
    "Token",
    "Hello",
    "GetTask",
    "Heartbeat",
    "UploadAsset",
    "FinishTask",
];

/// What can happen to a call of `ConductorOne`, gRPC codes apart.
const CALLS: [&str; 17] = [
    "http-429=retry-after:1",
    "http-429=retry-after:none",
    "http-500",
    "http-502",
    "http-503",
    "http-504",
    "hang",
    "delay=700ms",
    "reset",
    "applied-reset",
    "goaway",
    "reset-mid-body",
    "html-200",
    "garbage",
    "empty-body",
    "slow-drip=700ms",
    "oversized-body=80000000",
];
const TOKENS: [&str; 7] = [
    "http-400",
    "http-401",
    "wrong-types",
    "no-token",
    "expires-in=0",
    "expires-in=-5",
    "expires-in=1e300",
];
const UPLOADS: [&str; 4] = [
    "break-stream=1",
    "break-connection=4096",
    "break-goaway=1",
    "refuse-checksum",
];

impl Storm {
    /// A schedule of `strikes` strikes, spread over a time by the seed.
    pub fn of(seed: u64, span: Duration, strikes: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut strikes: Vec<Strike> = (0..strikes)
            .map(|_| Strike {
                at: millis(span.mul_f64(rng.f64())),
                lasts: Duration::from_millis(rng.u64(50..=1500)),
                blow: blow(&mut rng),
            })
            .collect();
        strikes.sort_by_key(|strike| strike.at);
        Self { seed, strikes }
    }

    /// Lets the storm pass over both simulators; ends when its last strike is over.
    ///
    /// Dropping the future ends the rules and outages in force at `JumpCloud` and `ConductorOne` rules; what else was
    /// changed (certificate, clock, outages) stays, so a storm that is given up early needs [`Storm::calm`].
    pub async fn pass(&self, jumpcloud: &JumpCloudSim, conductorone: &Control) -> Damage {
        let start = Instant::now();
        let mut running: FuturesUnordered<_> = self
            .strikes
            .iter()
            .map(|strike| async move {
                time::sleep_until(start + strike.at).await;
                strike.fall(jumpcloud, conductorone).await
            })
            .collect();
        let mut damage = Damage::default();
        while let Some(hit) = running.next().await {
            damage.add(hit);
        }
        Self::calm(jumpcloud, conductorone);
        damage
    }

    /// Ends every outage and brings back certificate and clock.
    pub fn calm(jumpcloud: &JumpCloudSim, conductorone: &Control) {
        jumpcloud.end_outage();
        conductorone.end_outage();
        conductorone.skew_clock(0);
        if let Err(error) = conductorone.show(Certificate::Good) {
            tracing::error!(%error, "the simulator has no good certificate any more");
        }
    }

    /// From the start to the end of the last strike.
    pub fn length(&self) -> Duration {
        let ends = self.strikes.iter().map(|strike| strike.at + strike.lasts);
        ends.max().unwrap_or_default()
    }
}

fn millis(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn blow(rng: &mut Rng) -> Blow {
    let outage = |rng: &mut Rng| {
        rng.choice([Outage::Refuse, Outage::Reset, Outage::Deaf])
            .unwrap_or(Outage::Refuse)
    };
    match rng.u32(0..100) {
        0..45 => jumpcloud(rng),
        45..50 => Blow::JumpCloudOutage(outage(rng)),
        50..51 => Blow::JumpCloudTokens,
        51..80 => conductorone(rng),
        80..85 => Blow::ConductorOneOutage(outage(rng)),
        85..88 => Blow::ConductorOneTokens,
        88..90 => Blow::Certificate(rng.choice(Certificate::BAD).unwrap_or(Certificate::Expired)),
        90..92 => Blow::Skew(if rng.bool() { 600 } else { -600 }),
        92..95 => Blow::GoAway,
        95..98 => Blow::DeliverAgain,
        _ => Blow::Cancel,
    }
}

/// `1`: one request; `p0.2`: some; `always`: all as long as it holds.
fn when(rng: &mut Rng) -> &'static str {
    rng.choice(["1", "1", "1-3", "p0.2", "always"])
        .unwrap_or("1")
}

fn pick(rng: &mut Rng, texts: &[&'static str]) -> &'static str {
    texts
        .get(rng.usize(0..texts.len().max(1)))
        .copied()
        .unwrap_or_default()
}

fn jumpcloud(rng: &mut Rng) -> Blow {
    let text = match rng.u32(0..10) {
        0 => {
            let lists = ENDPOINTS.get(..LIST_ENDPOINTS).unwrap_or_default();
            format!("{}@{}:{}", pick(rng, lists), when(rng), pick(rng, &LISTS))
        }
        1 => {
            let method = pick(rng, &["POST", "PUT", "DELETE"]);
            format!("{method} *@{}:{}", when(rng), pick(rng, &WRITES))
        }
        _ => format!(
            "{}@{}:{}",
            pick(rng, &ENDPOINTS),
            when(rng),
            pick(rng, &JUMPCLOUD)
        ),
    };
    // Every text that the tables give is a rule, which a test shows.
    text.parse().map_or(Blow::JumpCloudTokens, Blow::JumpCloud)
}

fn conductorone(rng: &mut Rng) -> Blow {
    let method = pick(rng, &METHODS);
    let fault = match (method, rng.u32(0..3)) {
        ("Token", 0) => pick(rng, &TOKENS).to_owned(),
        ("UploadAsset", 0) => pick(rng, &UPLOADS).to_owned(),
        ("Token", _) | (_, 0) => pick(rng, &CALLS).to_owned(),
        _ => {
            let code = CODES.get(rng.usize(0..CODES.len()));
            let code = code.map_or("unavailable", |(name, _)| name);
            let applied = if rng.u32(0..4) == 0 { "applied-" } else { "" };
            format!("{applied}{code}")
        }
    };
    format!("{method}@{}:{fault}", when(rng))
        .parse()
        .map_or(Blow::GoAway, Blow::ConductorOne)
}

/// What one strike did.
#[derive(Debug, Default)]
struct Hit {
    text: String,
    fired: u64,
    cancelled: Option<String>,
    delivered_again: Option<String>,
}

impl Damage {
    fn add(&mut self, hit: Hit) {
        if hit.fired == 0 {
            self.missed += 1;
        } else {
            *self.fired.entry(hit.text).or_default() += hit.fired;
        }
        self.cancelled.extend(hit.cancelled);
        self.delivered_again.extend(hit.delivered_again);
    }

    /// All that fired.
    pub fn total(&self) -> u64 {
        self.fired.values().sum()
    }
}

impl Strike {
    async fn fall(&self, jumpcloud: &JumpCloudSim, conductorone: &Control) -> Hit {
        let mut hit = Hit {
            text: self.blow.to_string(),
            fired: 1,
            ..Hit::default()
        };
        let held = |injected: Option<Injected>| async move {
            time::sleep(self.lasts).await;
            injected.map_or(0, |injected| injected.hits())
        };
        match &self.blow {
            Blow::JumpCloud(rule) => {
                hit.fired = held(Some(jumpcloud.inject_rule(rule.clone()))).await;
            }
            Blow::ConductorOne(rule) => {
                hit.fired = held(Some(conductorone.inject_rule(rule.clone()))).await;
            }
            Blow::JumpCloudOutage(how) => {
                jumpcloud.outage_for(*how, self.lasts);
                time::sleep(self.lasts).await;
            }
            Blow::ConductorOneOutage(how) => {
                conductorone.outage_of(*how, self.lasts);
                time::sleep(self.lasts).await;
            }
            Blow::JumpCloudTokens => jumpcloud.revoke_tokens(),
            Blow::ConductorOneTokens => conductorone.revoke_tokens(),
            Blow::Certificate(which) => {
                let before = conductorone.failed_handshakes();
                let shown = conductorone.show(*which).is_ok();
                conductorone.outage_of(Outage::Reset, Duration::ZERO);
                time::sleep(self.lasts).await;
                let restored = conductorone.show(Certificate::Good).is_ok();
                hit.fired = if shown && restored {
                    conductorone.failed_handshakes().saturating_sub(before)
                } else {
                    0
                };
            }
            Blow::Skew(seconds) => {
                conductorone.skew_clock(*seconds);
                time::sleep(self.lasts).await;
                conductorone.skew_clock(0);
            }
            Blow::GoAway => conductorone.goaway(),
            Blow::DeliverAgain => {
                hit.delivered_again =
                    running_task(conductorone).filter(|id| conductorone.deliver_again(id));
                hit.fired = u64::from(hit.delivered_again.is_some());
            }
            Blow::Cancel => {
                hit.cancelled = running_task(conductorone).filter(|id| conductorone.cancel(id));
                hit.fired = u64::from(hit.cancelled.is_some());
            }
        }
        hit
    }
}

fn running_task(conductorone: &Control) -> Option<String> {
    conductorone
        .tasks()
        .into_iter()
        .find(|task| matches!(task.stage, Stage::Leased { .. }))
        .map(|task| task.task.id)
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JumpCloud(rule) => write!(f, "jumpcloud {rule}"),
            Self::JumpCloudOutage(how) => write!(f, "jumpcloud outage {how}"),
            Self::JumpCloudTokens => f.write_str("jumpcloud revoke-tokens"),
            Self::ConductorOne(rule) => write!(f, "conductorone {rule}"),
            Self::ConductorOneOutage(how) => write!(f, "conductorone outage {how}"),
            Self::ConductorOneTokens => f.write_str("conductorone revoke-tokens"),
            Self::Certificate(which) => write!(f, "conductorone certificate {which}"),
            Self::Skew(seconds) => write!(f, "conductorone skew {seconds:+}"),
            Self::GoAway => f.write_str("conductorone goaway"),
            Self::DeliverAgain => f.write_str("conductorone deliver-again"),
            Self::Cancel => f.write_str("conductorone cancel"),
        }
    }
}

impl FromStr for Blow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (whom, what) = text
            .split_once(' ')
            .ok_or_else(|| format!("{text:?} names no simulator"))?;
        let problem = |problem: &dyn fmt::Display| problem.to_string();
        let (word, value) = what.split_once(' ').unwrap_or((what, ""));
        match (whom, word) {
            ("jumpcloud", "outage") => value
                .parse()
                .map(Self::JumpCloudOutage)
                .map_err(|error| problem(&error)),
            ("jumpcloud", "revoke-tokens") => Ok(Self::JumpCloudTokens),
            ("jumpcloud", _) => what
                .parse()
                .map(Self::JumpCloud)
                .map_err(|error| problem(&error)),
            ("conductorone", "outage") => value
                .parse()
                .map(Self::ConductorOneOutage)
                .map_err(|error| problem(&error)),
            ("conductorone", "revoke-tokens") => Ok(Self::ConductorOneTokens),
            ("conductorone", "certificate") => value
                .parse()
                .map(Self::Certificate)
                .map_err(|error| problem(&error)),
            ("conductorone", "skew") => value
                .parse()
                .map(Self::Skew)
                .map_err(|error| problem(&error)),
            ("conductorone", "goaway") => Ok(Self::GoAway),
            ("conductorone", "deliver-again") => Ok(Self::DeliverAgain),
            ("conductorone", "cancel") => Ok(Self::Cancel),
            ("conductorone", _) => what
                .parse()
                .map(Self::ConductorOne)
                .map_err(|error| problem(&error)),
            _ => Err(format!("{whom:?} is no simulator")),
        }
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        for Strike { at, lasts, blow } in &self.strikes {
            writeln!(f, "{}ms {}ms {blow}", at.as_millis(), lasts.as_millis())?;
        }
        Ok(())
    }
}

impl FromStr for Storm {
    type Err = StormError;

    fn from_str(text: &str) -> Result<Self, StormError> {
        let mut storm = Self {
            seed: 0,
            strikes: Vec::new(),
        };
        for (line, text) in (1..).zip(text.lines()) {
            let refused = |problem: String| StormError { line, problem };
            if let Some(seed) = text.strip_prefix("seed ") {
                storm.seed = seed
                    .parse()
                    .map_err(|_problem| refused("the seed is no number".to_owned()))?;
                continue;
            }
            let mut parts = text.splitn(3, ' ');
            let mut time = || {
                parts
                    .next()
                    .and_then(|text| humantime::parse_duration(text).ok())
                    .ok_or_else(|| refused("it must begin with two durations".to_owned()))
            };
            let (at, lasts) = (time()?, time()?);
            let blow = parts.next().unwrap_or_default().parse().map_err(refused)?;
            storm.strikes.push(Strike { at, lasts, blow });
        }
        Ok(storm)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_text_of_the_tables_is_a_rule() {
        for fault in JUMPCLOUD.iter().chain(&LISTS).chain(&WRITES) {
            for endpoint in ENDPOINTS {
                let rule = format!("{endpoint}@1:{fault}");
                rule.parse::<FaultRule>().unwrap();
            }
        }
        for method in METHODS {
            for fault in CALLS {
                format!("{method}@1:{fault}").parse::<RpcRule>().unwrap();
            }
        }
        for fault in TOKENS {
            format!("Token@1:{fault}").parse::<RpcRule>().unwrap();
        }
        for fault in UPLOADS {
            format!("UploadAsset@1:{fault}").parse::<RpcRule>().unwrap();
        }
    }

    #[test]
    fn a_seed_repeats_and_its_text_can_be_read_back() {
        let span = Duration::from_secs(20);
        for seed in 0..50 {
            let storm = Storm::of(seed, span, 40);
            assert_eq!(storm, Storm::of(seed, span, 40));
            let text = storm.to_string();
            assert_eq!(text.parse::<Storm>().unwrap(), storm, "{text}");
        }
        assert_ne!(
            Storm::of(1, span, 40).strikes,
            Storm::of(2, span, 40).strikes
        );
    }

    #[test]
    fn the_seeds_of_a_run_bring_every_kind_of_blow() {
        let kinds: BTreeSet<_> = (0..300)
            .flat_map(|seed| Storm::of(seed, Duration::from_secs(10), 40).strikes)
            .map(|strike| std::mem::discriminant(&strike.blow))
            .map(|kind| format!("{kind:?}"))
            .collect();
        assert_eq!(kinds.len(), 11);
    }

    #[test]
    fn what_is_no_storm_names_its_line() {
        let error = "seed 1\n5ms 5ms jumpcloud nonsense"
            .parse::<Storm>()
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("line 2 is no strike"), "{error}");
    }
}
