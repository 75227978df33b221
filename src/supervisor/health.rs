//! What the worker loop says of itself: readiness latches and a watchdog.
//!
//! Never asks a peer anything: an outage of ConductorOne or of the directory makes a process neither dead nor unready.
//! Invariants: readiness comes with the first accepted Hello and goes for good with shutdown; in between only rejected
//! credentials take it away, until others are accepted; a loop that announces how long it will be silent is never called
//! stuck within twice that time.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::lock;
use crate::notice::Peer;

/// How long the loop may be silent at least before it counts as stuck.
const SILENCE: Duration = Duration::from_mins(10);
/// What is added to twice the wait that the loop announced.
const SLACK: Duration = Duration::from_mins(1);

/// What makes a process unready although it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The credentials in use are rejected.
    Credentials(Peer),
    /// Rotated credentials are rejected; the old ones stay in use.
    RotatedCredentials(Peer),
}

impl Fault {
    const fn peer(self) -> Peer {
        match self {
            Self::Credentials(peer) | Self::RotatedCredentials(peer) => peer,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credentials(peer) => write!(f, "{peer} rejects the credentials in use"),
            Self::RotatedCredentials(peer) => {
                write!(
                    f,
                    "{peer} rejects the rotated credentials; the old ones stay in use"
                )
            }
        }
    }
}

/// The state of the worker loop, as told by the loop. Time is that of `tokio::time`.
#[derive(Debug, Default)]
pub struct Health {
    started: AtomicBool,
    stopping: AtomicBool,
    beat: Mutex<Option<Beat>>,
    faults: Mutex<BTreeSet<Fault>>,
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

    /// The first Hello was accepted, and it is known whether it is our turn.
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

    /// Records a fault, or its end; whether that is news.
    pub fn set_fault(&self, fault: Fault, exists: bool) -> bool {
        let mut faults = lock(&self.faults);
        if exists {
            faults.insert(fault)
        } else {
            faults.remove(&fault)
        }
    }

    /// Whether a peer rejects credentials, those in use or rotated ones.
    pub fn is_rejected_by(&self, peer: Peer) -> bool {
        lock(&self.faults).iter().any(|fault| fault.peer() == peer)
    }

    /// The faults that exist now.
    pub fn faults(&self) -> Vec<Fault> {
        lock(&self.faults).iter().copied().collect()
    }

    /// Whether all is well for tasks: the first Hello was accepted, no credentials are rejected, and shutdown has not
    /// begun.
    pub fn is_ready(&self) -> bool {
        self.started.load(Ordering::Acquire)
            && !self.stopping.load(Ordering::Acquire)
            && lock(&self.faults).is_empty()
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
