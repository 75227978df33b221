//! Death at a chosen step of a change, for tests of what survives it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rustix::process::{Signal, getpid, kill_process};

use crate::provisioning::Observer;

/// Kills this process, as nothing else can be cleaned up after, when a step is reached: `step`, or `step:n` for its n-th
/// time.
pub fn at(text: &str) -> Observer {
    let (step, time) = text.split_once(':').unwrap_or((text, "1"));
    let (step, time) = (step.to_owned(), time.parse().unwrap_or(1));
    let seen = AtomicU64::new(0);
    Arc::new(move |reached| {
        if reached.name() == step && seen.fetch_add(1, Ordering::SeqCst) + 1 == time {
            // Nothing is left to do when the system does not let us die.
            let _ = kill_process(getpid(), Signal::KILL);
        }
    })
}
