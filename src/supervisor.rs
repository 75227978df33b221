//! The one owner of everything that is spawned, of the shutdown signal and of its reason; and the state of health, what
//! watches it, and what the process denies to its neighbours.
//!
//! Owns the only `tokio::spawn` of the crate. Never decides what a part does at shutdown: it tells, waits, and names
//! what did not end. Invariants: the first reason for a shutdown is kept; a panic in anything spawned here begins
//! shutdown and makes the process end non-zero; after [`Supervisor::drain`] returned `Ok`, nothing spawned here runs.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt, io,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::error::chain;

pub mod health;
pub mod process;
pub mod watchdog;

/// The longest text of a panic that is kept.
const PANIC_TEXT_LIMIT: usize = 1024;

/// A signal that asks the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT, as sent by ctrl-c.
    Interrupt,
    /// SIGTERM, as sent by an orchestrator.
    Terminate,
}

impl Signal {
    /// The name of the signal.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }

    /// The exit code of a process that this signal ends at once: 128 plus its number.
    pub const fn exit_code(self) -> i32 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// Why the process is going down.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// A signal asked for it.
    Signal(Signal),
    /// The program itself asked for it, for this reason.
    Requested(&'static str),
    /// A part that must run as long as the process ended by itself.
    CriticalTaskEnded {
        /// The name it was spawned under.
        name: &'static str,
        /// Its error, if it ended with one.
        error: Option<String>,
    },
    /// A spawned part panicked.
    Panicked {
        /// The name it was spawned under.
        name: &'static str,
        /// The text of the panic, capped.
        text: String,
    },
}

impl Reason {
    /// Whether the process must report a failure when it ends for this reason.
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::CriticalTaskEnded { .. } | Self::Panicked { .. })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => write!(f, "{} was received", signal.name()),
            Self::Requested(why) => f.write_str(why),
            Self::CriticalTaskEnded { name, error: None } => {
                write!(f, "{name} ended although it must not")
            }
            Self::CriticalTaskEnded {
                name,
                error: Some(error),
            } => write!(f, "{name} failed: {error}"),
            Self::Panicked { name, text } => write!(f, "{name} panicked: {text}"),
        }
    }
}

/// What still ran when the time to end was over.
#[derive(Debug, thiserror::Error)]
#[error("still running after {} s: {}", .after.as_secs_f32(), .names.join(", "))]
pub struct StillRunning {
    /// How long they were waited for.
    pub after: Duration,
    /// The names they were spawned under, in the order of spawning.
    pub names: Vec<&'static str>,
}

/// Spawns, joins and stops the parts of the process. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Supervisor {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    tracker: TaskTracker,
    shutdown: CancellationToken,
    reason: Mutex<Option<Reason>>,
    running: Mutex<BTreeMap<u64, &'static str>>,
    next: AtomicU64,
}

impl Supervisor {
    /// A supervisor that has started nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a part that may end whenever it likes; only its panic begins shutdown.
    ///
    /// The part must watch [`Supervisor::shutdown_token`] itself.
    pub fn spawn<F>(&self, name: &'static str, part: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let this = self.clone();
        self.track(name, async move {
            if let Err(text) = guarded(part).await {
                this.begin_shutdown(Reason::Panicked { name, text });
            }
        });
    }

    /// Spawns a part that must run until shutdown begins; its end before that, however it comes, is a failure of the
    /// process.
    pub fn spawn_critical<F, E>(&self, name: &'static str, part: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::error::Error + Send + 'static,
    {
        let this = self.clone();
        self.track(name, async move {
            let reason = match guarded(part).await {
                Err(text) => Reason::Panicked { name, text },
                Ok(Err(error)) => Reason::CriticalTaskEnded {
                    name,
                    error: Some(chain(&error)),
                },
                Ok(Ok(())) => Reason::CriticalTaskEnded { name, error: None },
            };
            let ended_cleanly = matches!(reason, Reason::CriticalTaskEnded { error: None, .. });
            if !(ended_cleanly && this.shared.shutdown.is_cancelled()) {
                this.begin_shutdown(reason);
            }
        });
    }

    /// Runs the main part where it is called; `None` when it panicked, which begins shutdown as a panic of any other part
    /// does. Cancel-safe if the part is.
    pub async fn run<F: Future>(&self, name: &'static str, part: F) -> Option<F::Output> {
        match guarded(part).await {
            Ok(output) => Some(output),
            Err(text) => {
                self.begin_shutdown(Reason::Panicked { name, text });
                None
            }
        }
    }

    /// Cancelled when shutdown begins.
    pub fn shutdown_token(&self) -> CancellationToken {
        self.shared.shutdown.clone()
    }

    /// Begins shutdown. The first reason is kept, except that a failure replaces a reason that was none.
    pub fn begin_shutdown(&self, reason: Reason) {
        {
            let mut kept = lock(&self.shared.reason);
            let first = kept.is_none();
            let worse = reason.is_failure() && !kept.as_ref().is_some_and(Reason::is_failure);
            if first || worse {
                if reason.is_failure() {
                    tracing::error!(shutdown.reason = %reason, "shutting down after a failure");
                } else {
                    tracing::info!(shutdown.reason = %reason, "shutting down");
                }
                *kept = Some(reason);
            }
        }
        self.shared.shutdown.cancel();
    }

    /// Why shutdown began; `None` while it has not.
    pub fn shutdown_reason(&self) -> Option<Reason> {
        lock(&self.shared.reason).clone()
    }

    /// Waits until everything spawned has ended, at most for `limit`.
    ///
    /// Nothing is aborted: what is named in the error goes on running until the runtime is dropped. Cancel-safe.
    pub async fn drain(&self, limit: Duration) -> Result<(), StillRunning> {
        self.shared.tracker.close();
        let ended = tokio::time::timeout(limit, self.shared.tracker.wait()).await;
        self.shared.tracker.reopen();
        ended.map_err(|_elapsed| StillRunning {
            after: limit,
            names: lock(&self.shared.running).values().copied().collect(),
        })
    }

    /// Obeys SIGINT and SIGTERM: the first begins shutdown, the second calls `exit` with 130 or 143.
    ///
    /// `exit` is expected not to return; when it does, as in tests, later signals are ignored. Fails when the handlers
    /// cannot be installed.
    pub fn handle_signals<F>(&self, exit: F) -> io::Result<()>
    where
        F: FnOnce(i32) + Send + 'static,
    {
        let mut signals = Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        };
        let this = self.clone();
        // Not tracked: it waits for a second signal while everything else is being drained.
        spawn_untracked(async move {
            let Some(first) = signals.next().await else {
                return;
            };
            this.begin_shutdown(Reason::Signal(first));
            let Some(second) = signals.next().await else {
                return;
            };
            tracing::warn!(signal = second.name(), "exiting at once on a second signal");
            exit(second.exit_code());
        });
        Ok(())
    }

    fn track<F>(&self, name: &'static str, part: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let key = self.shared.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.shared.running).insert(key, name);
        let entry = Entry {
            shared: Arc::clone(&self.shared),
            key,
        };
        spawn_untracked(self.shared.tracker.track_future(async move {
            let _entry = entry;
            part.await;
        }));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that spawns; the tracker joins what it starts"
)]
fn spawn_untracked<F>(part: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    drop(tokio::spawn(part));
}

/// Takes a part off the list of what runs, however it ends.
struct Entry {
    shared: Arc<Shared>,
    key: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.shared.running).remove(&self.key);
    }
}

struct Signals {
    interrupt: SignalStream,
    terminate: SignalStream,
}

impl Signals {
    async fn next(&mut self) -> Option<Signal> {
        tokio::select! {
            received = self.interrupt.recv() => received.map(|()| Signal::Interrupt),
            received = self.terminate.recv() => received.map(|()| Signal::Terminate),
        }
    }
}

/// The guard of a mutex, also after a panic of another holder: what is kept behind these is never half-written.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a future and turns its panic into the panic's text.
pub async fn guarded<F: Future>(future: F) -> Result<F::Output, String> {
    AssertUnwindSafe(future)
        .catch_unwind()
        .await
        .map_err(|payload| panic_text(payload.as_ref()))
}

/// The text of a panic, capped at 1 KiB; panics that carry no text get a fixed one.
fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without text");
    let end = text.floor_char_boundary(PANIC_TEXT_LIMIT);
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
