//! Watches one Secret and hands on the credentials in it, so that a rotation takes effect without a restart.
//!
//! Owns the reading of the Secret, not what becomes of the credentials. Never ends because of an answer of the API server,
//! and never takes anything back: a Secret that is deleted, unreadable or forbidden leaves in use what is in use, since
//! Roles and Secrets can come later than the pod. Invariants: what is handed on is whole and fit for use, so one unfit
//! credential keeps all of them back (a new id with an old secret would be rejected); the same credentials are handed on
//! once; nothing of the content is ever told.
//!
//! The field selector on the name is what lets a Role grant `list` and `watch` for this Secret alone.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, runtime::watcher};
use secrecy::SecretString;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{Complaints, Error, WATCH_SECONDS, answered, explained};
use crate::config::{SecretKeys, Texts, secret};

/// The answer to a watch from a version that the API server no longer knows.
const GONE: u16 = 410;
/// The first pause after a failure; each more doubles it, and a random part of the same length is added.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// Where the doubling ends.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// Pauses begin anew when this time passed without a failure.
const CALM: Duration = Duration::from_mins(2);

/// Watches the Secret until shutdown, and sends its credentials each time they differ from those sent before.
///
/// Credentials that the Secret lacks or that are empty are left out; when it has none, nothing is sent. Starts over by
/// itself, with growing pauses of up to 40 seconds, whatever the API server answers. Not cancel-safe in the sense that a
/// dropped watch starts from the beginning; nothing is lost by that.
pub async fn run(
    client: Client,
    namespace: String,
    name: String,
    keys: SecretKeys,
    to: watch::Sender<Option<Arc<Texts>>>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let config = watcher::Config::default()
        .fields(&format!("metadata.name={name}"))
        .timeout(WATCH_SECONDS);
    let api = Api::<Secret>::namespaced(client, &namespace);
    let begin = || watcher(api.clone(), config.clone());
    let mut events = pin!(begin());
    let mut reader = Reader {
        namespace,
        name: name.clone(),
        keys,
        to,
        listed: false,
        missing: false,
        unfit: None,
        failures: 0,
        complaints: Complaints::default(),
    };
    let mut pauses = Pauses::default();
    let watched = async {
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => reader.saw(event),
                Err(error) => {
                    reader.failed(&error);
                    sleep(pauses.next()).await;
                    // The stream would ask for that version for ever: it knows the end of one only as an event.
                    if matches!(&error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == GONE)
                    {
                        events.set(begin());
                    }
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(()),
        () = watched => Err(Error::WatchEnded { name }),
    }
}

/// The pauses after failures.
///
/// The backoff of `kube` is of no use here: it begins anew with each attempt at a list, so that a list that is forbidden
/// would be asked for every second.
struct Pauses {
    pauses: ExponentialBackoff,
    last: Option<Instant>,
}

impl Default for Pauses {
    fn default() -> Self {
        let builder = ExponentialBuilder::new()
            .with_min_delay(SHORTEST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .with_jitter()
            .without_max_times();
        Self {
            pauses: builder.build(),
            last: None,
        }
    }
}

impl Pauses {
    /// The pause after a failure that happens now.
    fn next(&mut self) -> Duration {
        let now = Instant::now();
        if self
            .last
            .is_some_and(|last| now.duration_since(last) > CALM)
        {
            *self = Self::default();
        }
        self.last = Some(now);
        self.pauses.next().unwrap_or(LONGEST_PAUSE)
    }
}

struct Reader {
    namespace: String,
    name: String,
    keys: SecretKeys,
    to: watch::Sender<Option<Arc<Texts>>>,
    /// The list under way holds the Secret.
    listed: bool,
    /// The Secret was told to be missing.
    missing: bool,
    /// What was told to be wrong with it.
    unfit: Option<String>,
    /// Failures since something was last heard of the Secret.
    failures: u32,
    complaints: Complaints,
}

impl Reader {
    fn saw(&mut self, event: watcher::Event<Secret>) {
        match event {
            // The beginning of a list says nothing yet, not even that the API server answers.
            watcher::Event::Init => {
                self.listed = false;
                return;
            }
            watcher::Event::InitApply(secret) => {
                self.listed = true;
                self.read(&secret);
            }
            watcher::Event::Apply(secret) => self.read(&secret),
            watcher::Event::InitDone if self.listed => {}
            watcher::Event::InitDone | watcher::Event::Delete(_) => self.is_missing(),
        }
        self.failures = 0;
        if self.complaints.settled() {
            tracing::info!(secret.name = self.name, "the Secret is watched again");
        }
    }

    fn is_missing(&mut self) {
        if !std::mem::replace(&mut self.missing, true) {
            tracing::error!(
                secret.name = self.name,
                namespace = self.namespace,
                "the watched Secret does not exist; the credentials in use are kept until it is there"
            );
        }
    }

    fn read(&mut self, secret: &Secret) {
        self.missing = false;
        let delivered = match delivered(secret, &self.keys) {
            Ok(delivered) => delivered,
            Err(problem) => {
                if self.unfit.as_ref() != Some(&problem) {
                    tracing::error!(
                        secret.name = self.name,
                        namespace = self.namespace,
                        error = problem,
                        "the watched Secret cannot be used; the credentials in use are kept"
                    );
                    self.unfit = Some(problem);
                }
                return;
            }
        };
        self.unfit = None;
        let settings: Vec<_> = delivered.0.keys().copied().collect();
        let is_new = self.to.send_if_modified(|sent| {
            let is_new = sent.as_deref() != Some(&delivered);
            if is_new {
                *sent = Some(Arc::new(delivered));
            }
            is_new
        });
        if is_new {
            tracing::info!(
                secret.name = self.name,
                version = secret
                    .metadata
                    .resource_version
                    .as_deref()
                    .unwrap_or_default(),
                settings = settings.join(", "),
                "the watched Secret brings credentials"
            );
        }
    }

    /// A list or watch that failed is begun again by the stream.
    fn failed(&mut self, error: &watcher::Error) {
        let rule = format!(
            "apiGroups [\"\"], resources [secrets], resourceNames [{}], verbs [get, list, watch]",
            self.name
        );
        let problem = match error {
            // The version that the watch went on from is forgotten there, which is ordinary; the list is read again.
            watcher::Error::WatchError(status) if status.code == GONE => {
                tracing::debug!(
                    secret.name = self.name,
                    "the watch of the Secret starts over"
                );
                return;
            }
            watcher::Error::WatchError(status) => answered(status, &rule),
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => explained(error, &rule),
            watcher::Error::NoResourceVersion => error.to_string(),
        };
        self.failures = self.failures.saturating_add(1);
        // A connection is lost now and then; what comes twice in a row is worth a line.
        if self.failures > 1 && self.complaints.due() {
            tracing::warn!(
                secret.name = self.name,
                namespace = self.namespace,
                error = problem,
                attempts = self.failures,
                "the Secret cannot be watched; the credentials in use are kept"
            );
        } else {
            tracing::debug!(
                secret.name = self.name,
                error = problem,
                "a watch of the Secret failed"
            );
        }
    }
}

/// The credentials in a Secret; an error names the keys and what is wrong, and holds nothing of the content.
pub(crate) fn delivered(secret: &Secret, keys: &SecretKeys) -> Result<Texts, String> {
    let mut found = BTreeMap::new();
    let mut problems = Vec::new();
    for (setting, key) in keys.iter() {
        let Some(content) = secret.data.as_ref().and_then(|data| data.get(key)) else {
            continue;
        };
        // As an environment variable that is empty: templates leave such keys behind.
        if content.0.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            continue;
        }
        match secret::text(&content.0) {
            Ok(text) => {
                found.insert(setting, SecretString::from(text));
            }
            Err(problem) => problems.push(format!("{key} {problem}")),
        }
    }
    if !problems.is_empty() {
        return Err(problems.join("; "));
    }
    if found.is_empty() {
        let names: Vec<_> = keys.iter().map(|(_, key)| key).collect();
        return Err(format!("has none of the keys {}", names.join(", ")));
    }
    Ok(Texts(found))
}

#[cfg(test)]
mod tests;
