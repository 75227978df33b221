//! Notices from outside that the runtime or the poll loop got stuck, and ends the process when nobody else does.
//!
//! Owns one thread of the operating system. Whatever runs on the runtime stands still with it: the liveness probe, the
//! logs, the signals. So this thread asks the runtime for a sign of life once a second, looks at the poll loop as
//! `/livez` does, tells it on standard error, and in the end gives up on the process. It never asks a peer: an outage is
//! no fault.
//!
//! Invariants: time is counted in turns of this thread, never by a clock, so that a process that was stopped, or a machine
//! that slept, has all its time again when it wakes up; nothing that the runtime could hold is waited for, no lock of the
//! logs and no full pipe.

use std::{
    convert::Infallible,
    io::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use tokio::runtime::Handle;

use super::health::Health;

/// The exit code of a process that its watchdog gave up (`EX_SOFTWARE` of sysexits.h, as 64 is its `EX_USAGE`).
pub const EXIT_STUCK: i32 = 70;

/// How long a line on standard error is waited for.
const SAY_LIMIT: Duration = Duration::from_secs(1);

/// How patient the watchdog is.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How often it looks.
    pub turn: Duration,
    /// After this long of standing still it says so.
    pub say_after: Duration,
    /// After this long it ends the process. An orchestrator with a liveness probe is quicker; this is for those without.
    pub end_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            turn: Duration::from_secs(1),
            say_after: Duration::from_mins(1),
            end_after: Duration::from_mins(10),
        }
    }
}

/// What the watchdog wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// Tell people; one line.
    Say(String),
    /// End the process with this exit code, now and without any help of the runtime.
    End(i32),
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Watchdog {
    _alive: mpsc::Sender<Infallible>,
}

impl Watchdog {
    /// Begins to watch a runtime and what its poll loop says of itself; `alarm` is called on the thread of the watchdog.
    ///
    /// The poll loop counts as stuck as late as [`Health::stuck_for`] says so; the limits come on top. Fails when no thread
    /// can be had.
    pub fn start<F>(
        runtime: Handle,
        health: Arc<Health>,
        limits: Limits,
        alarm: F,
    ) -> io::Result<Self>
    where
        F: FnMut(Alarm) + Send + 'static,
    {
        let (alive, gone) = mpsc::channel();
        drop(
            thread::Builder::new()
                .name("watchdog".to_owned())
                .spawn(move || watch(&runtime, &health, limits, &gone, alarm))?,
        );
        Ok(Self { _alive: alive })
    }
}

/// Tells on standard error, and ends the process, as [`Watchdog::start`] wants it outside tests.
#[expect(
    clippy::exit,
    reason = "a runtime that stands still cannot end the process in order"
)]
pub fn act(alarm: Alarm) {
    match alarm {
        Alarm::Say(line) => say(line),
        Alarm::End(code) => std::process::exit(code),
    }
}

/// Writes a line, on a thread of its own: a reader of the logs that stands still must not stop the watchdog.
fn say(line: String) {
    let (done, written) = mpsc::channel();
    let writer = thread::Builder::new().spawn(move || {
        drop(writeln!(io::stderr(), "error: {line}"));
        let _ = done.send(());
    });
    if writer.is_ok() {
        let _ = written.recv_timeout(SAY_LIMIT);
    }
}

fn watch<F: FnMut(Alarm)>(
    runtime: &Handle,
    health: &Health,
    limits: Limits,
    gone: &mpsc::Receiver<Infallible>,
    mut alarm: F,
) {
    // The state of health has the time of the runtime.
    let _entered = runtime.enter();
    let mut count = Count::new(limits);
    let ran = Arc::new(AtomicBool::new(true));
    while gone.recv_timeout(limits.turn) == Err(RecvTimeoutError::Timeout) {
        let cause = if ran.swap(false, Ordering::AcqRel) {
            let ran = Arc::clone(&ran);
            drop(runtime.spawn(async move { ran.store(true, Ordering::Release) }));
            health.stuck_for().map(|_silent| Cause::PollLoop)
        } else {
            Some(Cause::Runtime)
        };
        for wanted in count.turn(cause) {
            alarm(wanted);
        }
    }
}

/// What stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Runtime,
    PollLoop,
}

impl Cause {
    const fn what(self) -> &'static str {
        match self {
            Self::Runtime => "no worker thread of this process gets on",
            Self::PollLoop => "the loop that asks ConductorOne for tasks does not get on",
        }
    }
}

/// How many turns in a row something stood still.
struct Count {
    limits: Limits,
    turns: u32,
    said: bool,
}

impl Count {
    const fn new(limits: Limits) -> Self {
        Self {
            limits,
            turns: 0,
            said: false,
        }
    }

    /// Counts one turn; the answer is what is to be done, in this order.
    fn turn(&mut self, cause: Option<Cause>) -> Vec<Alarm> {
        let Some(cause) = cause else {
            let recovered = self.said;
            *self = Self::new(self.limits);
            return if recovered {
                vec![Alarm::Say(
                    "this process stood still for a while and gets on again".to_owned(),
                )]
            } else {
                Vec::new()
            };
        };
        self.turns = self.turns.saturating_add(1);
        let silent = self.limits.turn.saturating_mul(self.turns);
        let mut wanted = Vec::new();
        if silent >= self.limits.end_after {
            wanted.push(Alarm::Say(format!(
                "{} since {} s; this process ends itself with exit code {EXIT_STUCK}",
                cause.what(),
                silent.as_secs()
            )));
            wanted.push(Alarm::End(EXIT_STUCK));
        } else if silent >= self.limits.say_after && !self.said {
            self.said = true;
            wanted.push(Alarm::Say(format!(
                "{} since {} s; the liveness probe fails, and without one this process ends itself after {} s",
                cause.what(),
                silent.as_secs(),
                self.limits.end_after.as_secs()
            )));
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(alarms: &[Alarm]) -> bool {
        alarms.contains(&Alarm::End(EXIT_STUCK))
    }

    #[test]
    fn it_speaks_once_after_a_minute_and_ends_the_process_after_ten() {
        for cause in [Cause::Runtime, Cause::PollLoop] {
            let mut count = Count::new(Limits::default());
            for turn in 1..=599 {
                let wanted = count.turn(Some(cause));
                assert_eq!(wanted.len(), usize::from(turn == 60), "turn {turn}");
                assert!(!ends(&wanted), "turn {turn}");
            }
            let wanted = count.turn(Some(cause));
            assert!(ends(&wanted));
            assert!(
                matches!(&wanted[0], Alarm::Say(line) if line.contains(cause.what()) && line.contains("70")),
                "{wanted:?}"
            );
        }
    }

    #[test]
    fn one_sign_of_life_gives_all_the_time_back() {
        let mut count = Count::new(Limits::default());
        for _ in 0..3 {
            for _ in 0..599 {
                assert!(!ends(&count.turn(Some(Cause::Runtime))));
            }
            assert!(matches!(&count.turn(None)[..], [Alarm::Say(line)] if line.contains("again")));
            assert_eq!(count.turn(None), []);
        }
    }

    proptest::proptest! {
        #[test]
        fn the_process_is_ended_only_after_an_unbroken_silence(
            turns in proptest::collection::vec(proptest::bool::weighted(0.9), 1..200),
        ) {
            let limits = Limits {
                turn: Duration::from_secs(1),
                say_after: Duration::from_secs(5),
                end_after: Duration::from_secs(20),
            };
            let mut count = Count::new(limits);
            let mut silent = 0;
            for still in turns {
                silent = if still { silent + 1 } else { 0 };
                let wanted = count.turn(still.then_some(Cause::Runtime));
                proptest::prop_assert_eq!(ends(&wanted), silent >= 20);
            }
        }
    }
}
