//! The cached check of the directory behind `/health`, beside the state of the worker loop behind the other paths.
//!
//! The check asks the directory at most once in ten seconds, however often it is probed. The state of the loop asks
//! nobody; it lives below, in the supervisor, so that the loop can tell it without knowing this server.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

pub use crate::supervisor::health::Health;
use crate::{
    connector::Connector,
    error::told,
    supervisor::{Supervisor, guarded, lock},
};

/// How long a verdict is good for.
const FRESH: Duration = Duration::from_secs(10);
/// How long a check may take, as in the SDK.
const CHECK_LIMIT: Duration = Duration::from_secs(30);

/// Healthy, or what is wrong in words that hold no secret.
pub type Verdict = Result<(), String>;

/// The check of the directory's credentials and permissions, run at most once in ten seconds.
///
/// A check runs on when the probe that began it has gone away: probes are often less patient than the directory is
/// slow, and each would otherwise begin anew.
pub struct ConnectorCheck {
    connector: Arc<dyn Connector>,
    supervisor: Supervisor,
    state: Arc<Mutex<Check>>,
}

#[derive(Debug, Default)]
enum Check {
    #[default]
    Never,
    Running(watch::Receiver<Option<Verdict>>),
    Done {
        at: Instant,
        verdict: Verdict,
    },
}

impl fmt::Debug for ConnectorCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectorCheck")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl ConnectorCheck {
    /// A check of this connector, run under this supervisor.
    pub fn new(connector: Arc<dyn Connector>, supervisor: Supervisor) -> Self {
        Self {
            connector,
            supervisor,
            state: Arc::default(),
        }
    }

    /// The verdict of the last ten seconds, of the check under way, or of a new one. Takes 30 s at most; cancel-safe.
    pub async fn verdict(&self) -> Verdict {
        let mut coming = {
            let mut state = lock(&self.state);
            match &*state {
                Check::Done { at, verdict } if at.elapsed() < FRESH => return verdict.clone(),
                Check::Running(coming) => coming.clone(),
                Check::Never | Check::Done { .. } => {
                    let was_good = !matches!(
                        &*state,
                        Check::Done {
                            verdict: Err(_),
                            ..
                        }
                    );
                    let coming = self.begin(was_good);
                    *state = Check::Running(coming.clone());
                    coming
                }
            }
        };
        match coming.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(verdict)) => verdict.clone(),
            Ok(None) | Err(_) => Err("the check was broken off".to_owned()),
        }
    }

    fn begin(&self, was_good: bool) -> watch::Receiver<Option<Verdict>> {
        let (sender, coming) = watch::channel(None);
        let connector = Arc::clone(&self.connector);
        let state = Arc::clone(&self.state);
        let shutdown = self.supervisor.shutdown_token();
        self.supervisor.spawn("the health check of the directory", async move {
            let check = timeout(CHECK_LIMIT, guarded(connector.validate()));
            let verdict = tokio::select! {
                biased;
                () = shutdown.cancelled() => Err("the connector is shutting down".to_owned()),
                checked = check => match checked {
                    Ok(Ok(Ok(_warnings))) => Ok(()),
                    Ok(Ok(Err(error))) => Err(told(&error)),
                    Ok(Err(panic)) => Err(format!("the check failed unexpectedly: {panic}")),
                    Err(_elapsed) => Err(format!("no verdict within {} s", CHECK_LIMIT.as_secs())),
                },
            };
            match &verdict {
                Err(problem) if was_good => {
                    tracing::warn!(error = problem, "the health check of the directory fails");
                }
                Ok(()) if !was_good => tracing::info!("the health check of the directory passes again"),
                _ => {}
            }
            *lock(&state) = Check::Done {
                at: Instant::now(),
                verdict: verdict.clone(),
            };
            sender.send_replace(Some(verdict));
        });
        coming
    }
}
