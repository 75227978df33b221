//! What happens in one life, decided by its seed alone.

use std::time::Duration;

use baton_jumpcloud::sim::{
    jumpcloud::Shape,
    storm::{Blow, Storm, Strike},
};
use fastrand::Rng;
use rustix::process::Signal;

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

/// What a fault excuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Excuse {
    /// Nothing: a sync gets over it.
    Nothing,
    /// A sync that fails with one of these codes.
    Codes(&'static [i32]),
    /// A sync that fails with any code.
    Any,
}

impl Excuse {
    pub fn of(blow: &Blow) -> Self {
        let fault = match blow {
            Blow::JumpCloud(rule) => rule.fault.to_string(),
            // An upload is tried three times; what ends it is told as it is.
            Blow::ConductorOne(rule) if rule.to_string().starts_with("UploadAsset") => {
                return Self::Any;
            }
            Blow::JumpCloudOutage(_)
            | Blow::JumpCloudTokens
            | Blow::DeliverAgain
            | Blow::Cancel => return Self::Nothing,
            _ => return Self::Codes(&[4, 7, 13, 14, 16]),
        };
        let kind = fault.split('=').next().unwrap_or_default();
        match kind {
            "400" => Self::Codes(&[3]),
            "401" => Self::Codes(&[16]),
            "403" => Self::Codes(&[7]),
            // A list that is not there is a matter of the base URL.
            "404" => Self::Codes(&[3, 5, 10, 14]),
            "409" => Self::Codes(&[6]),
            "501" => Self::Codes(&[12]),
            "html-200" | "truncated-json" | "malformed-json" | "empty-body" | "wrong-types"
            | "null-fields" | "wrong-total" | "no-total" | "oversized-body" => {
                Self::Codes(&[8, 13])
            }
            "duplicate-page" | "endless-paging" | "redirect" => Self::Codes(&[2, 10, 13, 14]),
            _ => Self::Nothing,
        }
    }

    pub fn excuses(&self, code: i32) -> bool {
        match self {
            Self::Nothing => false,
            Self::Codes(codes) => codes.contains(&code),
            Self::Any => true,
        }
    }
}

/// As the report counts it: whom it struck, and how.
pub fn kind(blow: &Blow) -> String {
    match blow {
        Blow::JumpCloud(rule) => {
            let fault = rule.fault.to_string();
            format!("jumpcloud {}", fault.split('=').next().unwrap_or_default())
        }
        Blow::ConductorOne(rule) => {
            let rule = rule.to_string();
            let fault = rule.rsplit(':').next().unwrap_or_default();
            let fault = rule.split_once(':').map_or(fault, |(_, fault)| fault);
            format!(
                "conductorone {}",
                fault.split('=').next().unwrap_or_default()
            )
        }
        other => other.to_string(),
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
        weather: Vec<(Moment, Strike)>,
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
        for _ in 0..4 {
            random.u64(..);
        }
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

/// Requests are counted, so the tenant is big enough that the few under way at once weigh little.
fn resume(random: &mut Rng) -> (Shape, Duration, Story) {
    let shape = Shape {
        seed: random.u64(..),
        users: random.u32(150..400),
        groups: random.u32(160..300),
        members_per_group: random.u32(2..10),
        apps: random.u32(40..80),
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
    let weather = weather(random);
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

/// Faults at JumpCloud wait for a number of requests: a sync is over soon, and one that waits for a time mostly meets
/// none.
fn weather(random: &mut Rng) -> Vec<(Moment, Strike)> {
    let count = random.usize(0..=10);
    let mut strikes = Storm::of(random.u64(..), WEATHER, count).strikes;
    if random.u8(0..8) == 0 {
        let rule = match random.u8(0..2) {
            0 => format!("GET *@1-{}:oversized-body=20000000", random.u8(1..3)),
            _ => format!("GET *@{}:redirect=http://127.0.0.1:9", random.u8(1..20)),
        };
        strikes.push(Strike {
            at: Duration::ZERO,
            lasts: millis(random, 100..2000),
            blow: Blow::JumpCloud(rule.parse().unwrap()),
        });
    }
    strikes
        .into_iter()
        .map(|strike| {
            let when = match strike.blow {
                Blow::JumpCloud(_) | Blow::JumpCloudOutage(_) => {
                    Moment::Requests(random.u64(0..200))
                }
                _ => Moment::Time(strike.at),
            };
            let strike = Strike {
                at: Duration::ZERO,
                ..strike
            };
            (when, strike)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
            kinds.extend(weather.iter().map(|(_, strike)| kind(&strike.blow)));
            wishes.extend(orders.iter().map(|order| order.wish));
            deaths += of_this.len();
            moving += usize::from(moves.is_some());
            cancels += orders.iter().filter(|order| order.cancel.is_some()).count();
            repeats += orders.iter().filter(|order| order.again.is_some()).count();
        }
        assert!(kinds.len() >= 60, "{} kinds: {kinds:?}", kinds.len());
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
