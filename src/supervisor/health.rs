//! What the worker loop says of itself: readiness latches and a watchdog.
//!
//! Never asks a peer anything: an outage of ConductorOne or of the directory makes a process neither dead nor unready.
//! Invariants: readiness comes once, with the first accepted Hello, and goes once, with shutdown; a loop that announces
//! how long it will be silent is never called stuck within twice that time.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::lock;

/// How long the loop may be silent at least before it counts as stuck.
const SILENCE: Duration = Duration::from_mins(10);
/// What is added to twice the wait that the loop announced.
const SLACK: Duration = Duration::from_mins(1);

/// The state of the worker loop, as told by the loop. Time is that of `tokio::time`.
#[derive(Debug, Default)]
pub struct Health {
    started: AtomicBool,
    stopping: AtomicBool,
    beat: Mutex<Option<Beat>>,
}

#[derive(Debug, Clone, Copy)]
struct Beat {
    at: Instant,
    allowed: Duration,
}

impl Health {
    /// The state of a loop that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first Hello was accepted.
    pub fn start(&self) {
        self.started.store(true, Ordering::Release);
        self.beat(Duration::ZERO);
    }

    /// The loop is stopping for good; readiness never comes back.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// The loop got on, and will be silent for about `wait` from now.
    pub fn beat(&self, wait: Duration) {
        *lock(&self.beat) = Some(Beat {
            at: Instant::now(),
            allowed: SILENCE.max(wait.saturating_mul(2).saturating_add(SLACK)),
        });
    }

    /// Whether the loop has begun, whether or not a peer has answered yet.
    pub fn has_begun(&self) -> bool {
        lock(&self.beat).is_some()
    }

    /// Whether tasks are being accepted: the first Hello was accepted and shutdown has not begun.
    pub fn is_ready(&self) -> bool {
        self.started.load(Ordering::Acquire) && !self.stopping.load(Ordering::Acquire)
    }

    /// How long the loop has been silent beyond what is allowed; `None` while it is well or has not begun.
    ///
    /// While the process is stopping the loop waits for its tasks, which is no fault.
    pub fn stuck_for(&self) -> Option<Duration> {
        if self.stopping.load(Ordering::Acquire) {
            return None;
        }
        let beat = (*lock(&self.beat))?;
        let silent = beat.at.elapsed();
        (silent > beat.allowed).then_some(silent)
    }
}
