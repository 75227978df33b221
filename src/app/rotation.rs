//! Rotated credentials: noticed, tried, and put in use while tasks run.
//!
//! Owns which texts came from where, and which are in use. Never gives up credentials before others were accepted, and
//! never ends anything that runs. Invariants: a text is hidden from the logs before it is tried; rejected ones are tried
//! again, less often, until they change or are accepted; a reading that fell into the middle of an update is thrown away.
//!
//! Files are polled, not watched: inotify does not see the symlink swaps by which the kubelet updates a mounted Secret,
//! nor what a CSI driver does.

use std::{future::pending, sync::Arc, time::Duration};

use async_trait::async_trait;
use secrecy::ExposeSecret as _;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Problem, Secret, Source, Texts},
    connector::jumpcloud::{
        client::{Client, Standing},
        survey::Read,
    },
    control_plane::{GrpcControlPlane, credentials::Credentials},
    error::{Class, Classify, Code, chain, told},
    http::retry::Policy,
    notice::{Notice, Notices, Peer},
    provisioning::Keys,
    supervisor::health::{Fault, Health},
    telemetry::{LogControl, metrics::Metrics},
};

/// How long work waits for the other half of a rotation. The kubelet takes up to a minute and a half to update a file.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);
/// The pause before rejected credentials are tried again: they may not have spread at the peer yet.
const REJECTED_AGAIN: Duration = Duration::from_secs(30);
/// The pause after a trial that had no verdict.
const UNDECIDED_AGAIN: Duration = Duration::from_secs(10);

/// Why credentials were not taken, in words that hold none.
#[derive(Debug)]
enum Refusal {
    /// The peer, or our own reading of the text, says that they are wrong.
    Rejected(String),
    /// There was no verdict.
    Undecided(String),
}

/// Tries credentials, and puts them in use if they are accepted.
#[async_trait]
trait Trial: Send + Sync {
    async fn attempt(&self, peer: Peer, texts: &Texts) -> Result<(), Refusal>;
}

/// The parts of the running daemon that hold credentials.
pub(super) struct Holders {
    pub(super) config: Config,
    pub(super) control_plane: Arc<GrpcControlPlane>,
    pub(super) jumpcloud: Client,
    pub(super) keys: Keys,
}

#[async_trait]
impl Trial for Holders {
    async fn attempt(&self, peer: Peer, texts: &Texts) -> Result<(), Refusal> {
        match peer {
            Peer::ConductorOne => self.to_conductor_one(texts).await,
            Peer::JumpCloud => self.to_jumpcloud(texts).await,
        }
    }
}

impl Holders {
    async fn to_conductor_one(&self, texts: &Texts) -> Result<(), Refusal> {
        let (Some(id), Some(secret)) = (texts.0.get("client-id"), texts.0.get("client-secret"))
        else {
            return Ok(());
        };
        let credentials = Credentials::parse(id.expose_secret(), secret)
            .map_err(|error| Refusal::Rejected(chain(&error)))?;
        let key = credentials.client_secret.key().clone();
        self.control_plane
            .try_credentials(credentials)
            .await
            .map_err(|error| refusal(&error))?;
        self.keys.add(key);
        Ok(())
    }

    async fn to_jumpcloud(&self, texts: &Texts) -> Result<(), Refusal> {
        let Some(secret) = texts.0.values().next() else {
            return Ok(());
        };
        let auth = super::jumpcloud_auth(&self.config, secret.clone());
        let trial = self.jumpcloud.for_trial(Policy::default(), true);
        trial.replace_auth(auth.clone());
        match trial.probe(&Read::Users.list()).await {
            Ok(_total) => {}
            // Who may not list users is known all the same.
            Err(error) if error.code() == Code::PermissionDenied => {}
            Err(error) => return Err(refusal(&error)),
        }
        self.jumpcloud.replace_auth(auth);
        Ok(())
    }
}

fn refusal(error: &(impl std::error::Error + Classify + 'static)) -> Refusal {
    match error.class() {
        Class::Auth | Class::Permanent | Class::NotFound => Refusal::Rejected(told(error)),
        Class::Retryable | Class::Throttled(_) | Class::Cancelled => {
            Refusal::Undecided(told(error))
        }
    }
}

/// The credentials for one peer.
struct Side {
    peer: Peer,
    in_use: Texts,
    wanted: Texts,
    next_try: Instant,
}

impl Side {
    fn new(peer: Peer, in_use: Texts) -> Self {
        Self {
            peer,
            wanted: in_use.clone(),
            in_use,
            next_try: Instant::now(),
        }
    }

    /// Takes over what a source has of this side's texts.
    fn want(&mut self, texts: &Texts) {
        for (name, wanted) in &mut self.wanted.0 {
            if let Some(text) = texts.0.get(name)
                && text.expose_secret() != wanted.expose_secret()
            {
                *wanted = text.clone();
                self.next_try = Instant::now();
            }
        }
    }

    /// Puts what is wanted in use, if it is not, its time has come and the peer accepts it.
    async fn settle(&mut self, trial: &dyn Trial, tell: &Tell) {
        let peer = self.peer;
        let fault = Fault::RotatedCredentials(peer);
        if self.wanted == self.in_use {
            if tell.health.set_fault(fault, false) {
                tell.verdict(peer);
            }
            return;
        }
        if Instant::now() < self.next_try {
            return;
        }
        match trial.attempt(peer, &self.wanted).await {
            Ok(()) => {
                self.in_use = self.wanted.clone();
                tell.health.set_fault(fault, false);
                tell.health.set_fault(Fault::Credentials(peer), false);
                tell.metrics.credentials_replaced(peer);
                tell.verdict(peer);
                tracing::info!(peer = %peer, "rotated credentials are in use");
                tell.notices.tell(Notice::CredentialsReplaced { peer });
            }
            Err(Refusal::Rejected(problem)) => {
                self.next_try = Instant::now() + REJECTED_AGAIN;
                let is_news = tell.health.set_fault(fault, true);
                tell.verdict(peer);
                if is_news {
                    tracing::error!(peer = %peer, error = problem,
                        "rotated credentials are rejected; the old ones stay in use");
                    tell.notices
                        .tell(Notice::CredentialsRejected { peer, problem });
                } else {
                    tracing::debug!(peer = %peer, error = problem, "rotated credentials are still rejected");
                }
            }
            Err(Refusal::Undecided(problem)) => {
                self.next_try = Instant::now() + UNDECIDED_AGAIN;
                tracing::warn!(peer = %peer, error = problem,
                    "rotated credentials could not be tried; the old ones stay in use until they can");
            }
        }
    }
}

/// The credentials that can be read again, with what was last read.
#[derive(Clone)]
struct Files {
    secrets: Vec<Secret>,
    source: Arc<dyn Source>,
}

impl Files {
    /// What the files hold now, when it is not what they held before. Blocks on the file system.
    fn read(&mut self) -> Result<Option<Texts>, Problem> {
        let (fresh, texts) = self.reload()?;
        if texts.0.is_empty() {
            return Ok(None);
        }
        // Several files are updated together, but are not read at the same moment.
        let (_, again) = self.reload()?;
        if texts != again {
            return Ok(None);
        }
        self.secrets = fresh;
        Ok(Some(texts))
    }

    /// The credentials as they are now, and the texts of those that changed.
    fn reload(&self) -> Result<(Vec<Secret>, Texts), Problem> {
        let mut fresh = self.secrets.clone();
        let mut changed = Texts::default();
        for secret in &mut fresh {
            if let Some(other) = secret.reload(self.source.as_ref())? {
                changed.0.insert(other.name(), other.value().clone());
                *secret = other;
            }
        }
        Ok((fresh, changed))
    }
}

/// Who hears of it.
pub(super) struct Tell {
    pub(super) log: LogControl,
    pub(super) health: Arc<Health>,
    pub(super) notices: Notices,
    pub(super) metrics: Metrics,
}

impl Tell {
    /// A peer has spoken about our credentials.
    fn verdict(&self, peer: Peer) {
        let rejected = self.health.is_rejected_by(peer);
        self.metrics.credentials_rejected(peer, rejected);
    }
}

/// Everything that a rotation touches.
pub(super) struct Rotation {
    sides: [Side; 2],
    files: Files,
    watched: Option<watch::Receiver<Option<Arc<Texts>>>>,
    standing: watch::Receiver<Standing>,
    interval: Duration,
    trial: Box<dyn Trial>,
    tell: Tell,
}

impl Rotation {
    /// `watched` brings the texts of a Secret by the names of settings.
    pub(super) fn new(
        holders: Holders,
        source: Arc<dyn Source>,
        watched: Option<watch::Receiver<Option<Arc<Texts>>>>,
        tell: Tell,
    ) -> Self {
        let config = &holders.config;
        let (cloud, directory) = config
            .credentials()
            .into_iter()
            .map(|secret| (secret.name(), secret.value().clone()))
            .partition(|(name, _)| matches!(*name, "client-id" | "client-secret"));
        Self {
            sides: [
                Side::new(Peer::ConductorOne, Texts(cloud)),
                Side::new(Peer::JumpCloud, Texts(directory)),
            ],
            files: Files {
                secrets: config
                    .credentials()
                    .into_iter()
                    .filter(|secret| secret.can_change())
                    .cloned()
                    .collect(),
                source,
            },
            watched,
            standing: holders.jumpcloud.standing(),
            interval: config.credentials_interval,
            trial: Box::new(holders),
            tell,
        }
    }

    /// Looks, tries and tells until shutdown.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let seen = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                texts = watched(&mut self.watched) => texts,
                Ok(()) = self.standing.changed() => {
                    self.tell_standing();
                    None
                }
                _now = ticks.tick() => self.read_files().await,
            };
            for side in &mut self.sides {
                if let Some(texts) = &seen {
                    for text in texts.0.values() {
                        self.tell.log.hide(text);
                    }
                    side.want(texts);
                }
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    () = side.settle(self.trial.as_ref(), &self.tell) => {}
                }
            }
        }
    }

    async fn read_files(&mut self) -> Option<Arc<Texts>> {
        if self.files.secrets.is_empty() {
            return None;
        }
        let mut files = self.files.clone();
        let read = tokio::task::spawn_blocking(move || {
            let read = files.read();
            (files, read)
        });
        // A read that panicked is made again at the next turn.
        let (files, read) = read.await.ok()?;
        self.files = files;
        match read {
            Ok(texts) => texts.map(Arc::new),
            Err(problem) => {
                tracing::warn!(error = %problem, "a file with credentials cannot be read; the credentials in use stay");
                None
            }
        }
    }

    /// JumpCloud takes the credentials in use no longer, or takes them again.
    fn tell_standing(&mut self) {
        let peer = Peer::JumpCloud;
        let rejected = self.standing.borrow_and_update().rejected;
        let fault = Fault::Credentials(peer);
        let is_news = self.tell.health.set_fault(fault, rejected);
        self.tell.verdict(peer);
        if !is_news {
            return;
        }
        if rejected {
            let problem = "the credentials in use are refused with status 401";
            tracing::error!(peer = %peer, problem, "JumpCloud rejects the credentials in use; rotate them");
            self.tell.notices.tell(Notice::CredentialsRejected {
                peer,
                problem: problem.to_owned(),
            });
        } else {
            tracing::info!(peer = %peer, "JumpCloud accepts the credentials in use");
        }
    }
}

/// The next texts of the watch; never, where there is none.
async fn watched(receiver: &mut Option<watch::Receiver<Option<Arc<Texts>>>>) -> Option<Arc<Texts>> {
    if let Some(receiver) = receiver
        && receiver.changed().await.is_ok()
    {
        return receiver.borrow_and_update().clone();
    }
    pending().await
}

#[cfg(test)]
mod tests;
