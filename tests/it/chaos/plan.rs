//! What happens in one life, decided by its seed alone.

use std::time::Duration;

use baton_jumpcloud::sim::{
    conductorone::{Break, Rpc},
    jumpcloud::Shape,
};
use fastrand::Rng;
use rustix::process::Signal;
use tonic::Code;

/// Faults begin in this time.
const WEATHER: Duration = Duration::from_millis(3500);
/// Tasks come in this time.
const ORDERS: Duration = Duration::from_millis(2500);

/// What ConductorOne asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    Sync,
    Grant,
    Revoke,
    Account,
}

impl Wish {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync_full",
            Self::Grant => "grant",
            Self::Revoke => "revoke",
            Self::Account => "create_account",
        }
    }
}

/// A task, and what ConductorOne does with it besides.
#[derive(Debug, Clone)]
pub struct Order {
    /// After the start.
    pub at: Duration,
    pub wish: Wish,
    /// It is cancelled so long after it was handed out.
    pub cancel: Option<Duration>,
    /// It is handed out again so long after it was handed out.
    pub again: Option<Duration>,
}

/// A fault.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// A rule of the simulated JumpCloud, for so long.
    Directory { rule: String, lasts: Duration },
    /// JumpCloud answers 429 to everything.
    Throttle(Duration),
    /// ConductorOne fails calls of a method.
    Fail { rpc: Rpc, code: Code, times: u32 },
    /// ConductorOne is slow in a method.
    Slow {
        rpc: Rpc,
        by: Duration,
        lasts: Duration,
    },
    /// The port of ConductorOne is closed.
    Outage(Duration),
    /// Connections to ConductorOne end politely.
    GoAway,
    /// Its tokens are worth nothing from now on.
    RevokeTokens,
    /// Nor can new ones be had.
    TokensDown(Duration),
    /// The next file is refused although it is right.
    RefuseChecksum,
    /// The answer to the next result is lost.
    LoseFinish,
    /// The next upload breaks off.
    BreakUpload { after: u64, how: Break },
}

impl Trouble {
    /// As the report counts it.
    pub fn kind(&self) -> String {
        match self {
            Self::Directory { rule, .. } => {
                let fault = rule.rsplit(':').next().unwrap_or_default();
                let fault = if rule.contains("redirect") {
                    "redirect"
                } else {
                    fault
                };
                format!("jumpcloud {}", fault.split('=').next().unwrap_or_default())
            }
            Self::Throttle(_) => "jumpcloud throttle".to_owned(),
            Self::Fail { rpc, code, .. } => format!("conductorone {rpc} {code:?}"),
            Self::Slow { rpc, .. } => format!("conductorone {rpc} slow"),
            Self::Outage(_) => "conductorone outage".to_owned(),
            Self::GoAway => "conductorone goaway".to_owned(),
            Self::RevokeTokens => "conductorone tokens revoked".to_owned(),
            Self::TokensDown(_) => "conductorone tokens unavailable".to_owned(),
            Self::RefuseChecksum => "conductorone checksum refused".to_owned(),
            Self::LoseFinish => "conductorone finish answer lost".to_owned(),
            Self::BreakUpload { how, .. } => format!("conductorone upload broken ({how:?})"),
        }
    }

    /// The codes with which it may make a sync fail; without any, the sync has to get over it.
    pub fn explains(&self) -> &'static [i32] {
        match self {
            Self::Directory { rule, .. } => {
                let ends = |fault: &str| rule.ends_with(fault);
                if ends(":401") {
                    &[16]
                } else if ends(":403") {
                    &[7, 9]
                } else if rule.contains("oversized-body") {
                    &[8, 13, 14]
                } else if rule.contains("redirect") || ends("endless-paging") {
                    &[2, 3, 9, 10, 13, 14]
                } else if [
                    ":html-200",
                    ":truncated-json",
                    ":empty-body",
                    ":wrong-types",
                    ":null-fields",
                ]
                .iter()
                .any(|fault| ends(fault))
                {
                    &[13]
                } else {
                    &[]
                }
            }
            Self::Throttle(_) => &[],
            // An upload is tried three times.
            _ => &[14],
        }
    }
}

/// What moment a death waits for.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    /// So many requests to JumpCloud after the process started.
    Requests(u64),
    /// So long after it started.
    Time(Duration),
}

#[derive(Debug, Clone, Copy)]
pub struct Death {
    pub when: Moment,
    pub signal: Signal,
    /// How long nobody is there.
    pub rest: Duration,
    /// ConductorOne finds out by the end of the lease, rather than at once.
    pub lease: bool,
}

/// What one life is about.
#[derive(Debug, Clone)]
pub enum Story {
    /// One sync that nothing disturbs, one that dies once, and what the next attempt asks again.
    Resume {
        /// Where it dies, as a share of the requests.
        at: f64,
        signal: Signal,
        /// The next attempt is another task.
        other_task: bool,
    },
    Storm {
        orders: Vec<Order>,
        weather: Vec<(Moment, Trouble)>,
        deaths: Vec<Death>,
        /// Somebody else changes the directory this often.
        moves: Option<Duration>,
    },
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub base: u64,
    pub number: u64,
    /// What follows during the life comes from here.
    pub seed: u64,
    pub shape: Shape,
    pub latency: Duration,
    pub story: Story,
}

impl Plan {
    /// Two lives of five measure what a resumption saves.
    pub fn of(base: u64, number: u64) -> Self {
        let mut random = Rng::with_seed(base.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number);
        // Neighbouring seeds give neighbouring first numbers.
        (0..4).for_each(|_| drop(random.u64(..)));
        let (shape, latency, story) = if number % 5 < 2 {
            resume(&mut random)
        } else {
            storm(&mut random)
        };
        Self {
            base,
            number,
            seed: random.u64(..),
            shape,
            latency,
            story,
        }
    }

    pub fn is_resume(&self) -> bool {
        matches!(self.story, Story::Resume { .. })
    }
}

/// Requests are counted, so the tenant is big enough for a hundred and more of them.
fn resume(random: &mut Rng) -> (Shape, Duration, Story) {
    let shape = Shape {
        seed: random.u64(..),
        users: random.u32(150..400),
        groups: random.u32(60..140),
        members_per_group: random.u32(2..10),
        apps: random.u32(20..50),
        groups_per_app: 2,
        users_per_app: 3,
        admins: random.u32(2..6),
        ..Shape::default()
    };
    let story = Story::Resume {
        at: random.f64(),
        signal: if random.u8(0..4) == 0 {
            Signal::TERM
        } else {
            Signal::KILL
        },
        other_task: random.u8(0..3) == 0,
    };
    (shape, millis(random, 2..6), story)
}

fn storm(random: &mut Rng) -> (Shape, Duration, Story) {
    let shape = Shape {
        seed: random.u64(..),
        users: random.u32(50..400),
        groups: random.u32(5..40),
        members_per_group: random.u32(3..30),
        apps: random.u32(3..15),
        groups_per_app: random.u32(1..4),
        users_per_app: random.u32(0..6),
        admins: random.u32(1..5),
        ..Shape::default()
    };
    let orders = (0..random.usize(2..=5))
        .map(|number| order(random, number == 0))
        .collect();
    let mut weather = Vec::new();
    for _ in 0..random.usize(0..=6) {
        // A sync has 30 to 120 requests; a fault that waits for a time mostly meets none.
        let when = Moment::Requests(random.u64(0..200));
        weather.push((when, directory_trouble(random)));
    }
    for _ in 0..random.usize(0..=4) {
        let when = if random.bool() {
            Moment::Requests(random.u64(0..200))
        } else {
            Moment::Time(moment(random, WEATHER))
        };
        weather.push((when, cloud_trouble(random)));
    }
    let deaths = (0..[0, 1, 1, 2, 3][random.usize(0..5)])
        .map(|_| death(random))
        .collect();
    let moves = (random.u8(0..5) < 3).then(|| millis(random, 5..80));
    let story = Story::Storm {
        orders,
        weather,
        deaths,
        moves,
    };
    (shape, millis(random, 1..9), story)
}

fn millis(random: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}

fn moment(random: &mut Rng, within: Duration) -> Duration {
    within.mul_f64(random.f64())
}

fn order(random: &mut Rng, is_first: bool) -> Order {
    let wish = match random.u8(0..20) {
        _ if is_first => Wish::Sync,
        0..12 => Wish::Sync,
        12..15 => Wish::Grant,
        15..17 => Wish::Revoke,
        _ => Wish::Account,
    };
    Order {
        at: moment(random, ORDERS),
        wish,
        cancel: (random.u8(0..8) == 0).then(|| millis(random, 0..800)),
        again: (random.u8(0..8) == 0).then(|| millis(random, 0..800)),
    }
}

fn death(random: &mut Rng) -> Death {
    Death {
        when: if random.u8(0..3) == 0 {
            Moment::Time(millis(random, 0..1500))
        } else {
            Moment::Requests(random.u64(1..90))
        },
        signal: if random.u8(0..4) == 0 {
            Signal::TERM
        } else {
            Signal::KILL
        },
        rest: millis(random, 0..300),
        lease: random.u8(0..5) == 0,
    }
}

fn directory_trouble(random: &mut Rng) -> Trouble {
    const READS: [&str; 9] = [
        "/api/systemusers",
        "/api/users",
        "/api/v2/usergroups",
        "/api/v2/usergroups/{id}/members",
        "/api/applications",
        "/api/v2/applications/{id}/associations",
        "GET *",
        "GET *",
        "*",
    ];
    const WRITES: [&str; 3] = [
        "POST /api/systemusers",
        "POST /api/v2/usergroups/{id}/members",
        "POST *",
    ];
    const PASSING: [&str; 8] = [
        "429",
        "500",
        "502",
        "503",
        "504",
        "reset-mid-body",
        "no-response",
        "slow-drip=300ms",
    ];
    const BROKEN: [&str; 7] = [
        "html-200",
        "truncated-json",
        "empty-body",
        "wrong-types",
        "null-fields",
        "duplicate-page",
        "endless-paging",
    ];
    let lasts = millis(random, 100..2000);
    let when = match random.u8(0..5) {
        0 => "always".to_owned(),
        1 => format!("every{}", random.u8(2..9)),
        2 => format!("{}", random.u8(1..9)),
        _ => format!("1-{}", random.u8(1..6)),
    };
    let pick = |random: &mut Rng, of: &[&str]| of[random.usize(0..of.len())].to_owned();
    let rule = match random.u8(0..20) {
        0..9 => format!("{}@{when}:{}", pick(random, &READS), pick(random, &PASSING)),
        9..13 => format!("{}@{when}:{}", pick(random, &READS), pick(random, &BROKEN)),
        13 => format!("GET *@1-{}:hang", random.u8(1..3)),
        14 => format!("GET *@1-{}:401", random.u8(1..4)),
        15 => format!("{}@1-{}:403", pick(random, &READS), random.u8(1..4)),
        16 => format!("GET *@1-{}:oversized-body=20000000", random.u8(1..3)),
        17 => return Trouble::Throttle(millis(random, 100..1500)),
        18 => {
            let fault = pick(
                random,
                &["applied-no-response", "applied-504", "503", "no-response"],
            );
            format!("{}@1-{}:{fault}", pick(random, &WRITES), random.u8(1..3))
        }
        _ => format!("GET *@{}:redirect=http://127.0.0.1:9", random.u8(1..20)),
    };
    Trouble::Directory { rule, lasts }
}

fn cloud_trouble(random: &mut Rng) -> Trouble {
    const RPCS: [Rpc; 4] = [
        Rpc::GetTask,
        Rpc::Heartbeat,
        Rpc::UploadAsset,
        Rpc::FinishTask,
    ];
    let rpc = RPCS[random.usize(0..RPCS.len())];
    match random.u8(0..11) {
        0..3 => Trouble::Fail {
            rpc,
            code: [
                Code::Unavailable,
                Code::DeadlineExceeded,
                Code::Aborted,
                Code::Internal,
            ][random.usize(0..4)],
            times: random.u32(1..3),
        },
        3 => Trouble::Slow {
            rpc,
            by: millis(random, 50..700),
            lasts: millis(random, 200..2000),
        },
        4 => Trouble::Outage(millis(random, 100..1500)),
        5 => Trouble::GoAway,
        6 => Trouble::RevokeTokens,
        7 => Trouble::TokensDown(millis(random, 100..1500)),
        8 => Trouble::RefuseChecksum,
        9 => Trouble::LoseFinish,
        _ => Trouble::BreakUpload {
            after: random.u64(1..20_000),
            how: [Break::Stream, Break::Connection, Break::GoAway][random.usize(0..3)],
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use baton_jumpcloud::sim::jumpcloud::FaultRule;

    use super::*;

    #[test]
    fn the_same_seed_and_number_give_the_same_life() {
        for number in 0..50 {
            let plan = |base| format!("{:?}", Plan::of(base, number));
            assert_eq!(plan(1), plan(1));
            assert_ne!(plan(1), plan(2));
        }
    }

    #[test]
    fn three_hundred_lives_meet_every_kind_of_fault_and_of_task() {
        let mut kinds = BTreeSet::new();
        let mut wishes = BTreeSet::new();
        let (mut deaths, mut moving, mut cancels, mut repeats) = (0, 0, 0, 0);
        for number in 0..300 {
            let Story::Storm {
                orders,
                weather,
                deaths: of_this,
                moves,
            } = Plan::of(1, number).story
            else {
                continue;
            };
            for (_, trouble) in &weather {
                kinds.insert(trouble.kind());
                if let Trouble::Directory { rule, .. } = trouble {
                    assert!(rule.parse::<FaultRule>().is_ok(), "{rule}");
                }
            }
            wishes.extend(orders.iter().map(|order| order.wish));
            deaths += of_this.len();
            moving += usize::from(moves.is_some());
            cancels += orders.iter().filter(|order| order.cancel.is_some()).count();
            repeats += orders.iter().filter(|order| order.again.is_some()).count();
        }
        assert!(kinds.len() >= 45, "{} kinds: {kinds:?}", kinds.len());
        assert_eq!(wishes.len(), 4);
        assert!(deaths > 150 && moving > 80 && cancels > 20 && repeats > 20);
    }

    #[test]
    fn the_moments_of_death_of_the_measured_lives_are_spread_evenly() {
        let mut shares: Vec<f64> = (0..300)
            .filter_map(|number| match Plan::of(1, number).story {
                Story::Resume { at, .. } => Some(at),
                Story::Storm { .. } => None,
            })
            .collect();
        assert_eq!(shares.len(), 120);
        shares.sort_by(f64::total_cmp);
        for (quarter, bounds) in [(30, 0.15..0.35), (60, 0.4..0.6), (90, 0.65..0.85)] {
            assert!(
                bounds.contains(&shares[quarter]),
                "{quarter}: {}",
                shares[quarter]
            );
        }
    }
}
