//! What people should hear of besides the readers of the log: the few facts that become Events on our own pod.
//!
//! Owns the type and the channel, and knows neither who tells nor who listens. Invariants: telling never waits and never
//! fails; a notice holds no secret, no person's name and no e-mail.

use std::fmt;

use tokio::sync::broadcast;

/// How many notices wait for a slow listener; older ones are lost to it, as they stand in the log.
const WAITING: usize = 64;

/// One of the two peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// The control plane.
    ConductorOne,
    /// The directory.
    JumpCloud,
}

impl Peer {
    /// The name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConductorOne => "ConductorOne",
            Self::JumpCloud => "JumpCloud",
        }
    }

    /// The name as the value of a label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ConductorOne => "conductorone",
            Self::JumpCloud => "jumpcloud",
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A full sync was uploaded.
    SyncFinished {
        /// Resources in the file.
        resources: u64,
        /// Entitlements in the file.
        entitlements: u64,
        /// Grants in the file.
        grants: u64,
        /// What the file leaves out or found odd.
        warnings: usize,
    },
    /// A full sync failed.
    SyncFailed {
        /// Why, on one line.
        problem: String,
    },
    /// A change in the directory was made.
    ChangeMade {
        /// The kind of task, such as `grant`.
        kind: &'static str,
    },
    /// A change in the directory failed, or what became of it is not known.
    ChangeFailed {
        /// The kind of task, such as `grant`.
        kind: &'static str,
        /// Why, on one line.
        problem: String,
    },
    /// A peer rejects the credentials, new ones or those in use.
    CredentialsRejected {
        /// Who rejects them.
        peer: Peer,
        /// Why, and what goes on meanwhile, on one line.
        problem: String,
    },
    /// Rotated credentials are in use.
    CredentialsReplaced {
        /// Who took them.
        peer: Peer,
    },
    /// A peer has not answered usefully for a while.
    Degraded {
        /// Which one.
        peer: Peer,
        /// Why, on one line.
        problem: String,
    },
    /// A peer that was degraded answers again.
    Recovered {
        /// Which one.
        peer: Peer,
    },
}

/// Tells notices to whoever listens. Clones tell the same listeners.
#[derive(Debug, Clone)]
pub struct Notices(broadcast::Sender<Notice>);

impl Default for Notices {
    fn default() -> Self {
        Self(broadcast::Sender::new(WAITING))
    }
}

impl Notices {
    /// A channel that nobody listens to yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells it; without a listener nothing happens.
    pub fn tell(&self, notice: Notice) {
        // An error only says that nobody listens.
        drop(self.0.send(notice));
    }

    /// Hears everything that is told from now on.
    pub fn listen(&self) -> broadcast::Receiver<Notice> {
        self.0.subscribe()
    }
}
