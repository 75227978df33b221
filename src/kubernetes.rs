//! What a pod can do with the Kubernetes API around it. Everything here is off until it is asked for.
//!
//! Owns the client and the three parts that use it; nothing else in the crate names `kube`. Never needed for the work
//! itself: when the API server is away, the daemon goes on with what it has. Invariants: a failure of the API is told at
//! most once a minute and ends nothing; nothing of a Secret's content is ever in a log line or an error.
//!
//! Each part needs its own rule of a Role in the pod's namespace, and a mounted token of the service account:
//!
//! | part | API group | resource | verbs | names |
//! |---|---|---|---|---|
//! | [`secret_watch`] | `""` | `secrets` | `get`, `list`, `watch` | the Secret |
//! | [`events`] | `events.k8s.io` | `events` | `create`, `patch` | |
//! | [`lease`] | `coordination.k8s.io` | `leases` | `get`, `update` | the Lease |
//! | [`lease`], unless the Lease is there already | `coordination.k8s.io` | `leases` | `create` | |

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use tokio::time::Instant;

use crate::{config::Pod, error::chain};

pub mod access;
pub mod events;
pub mod lease;
pub mod secret_watch;

pub use kube::Client;

/// The longest that a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long the API server lets one watch go on, in seconds; then the client asks again from where it was. Shorter than
/// the usual five minutes, so that a connection that died silently hides a new Secret for no longer than this.
const WATCH_SECONDS: u32 = 120;
/// The longest silence on a connection: that of a watch in which nothing happens.
const READ_LIMIT: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 10);
/// How often a failure that goes on is told.
const COMPLAINT_INTERVAL: Duration = Duration::from_mins(1);
/// The longest text of the API server that is repeated in a log line, in bytes.
const ANSWER_LIMIT: usize = 300;
/// How long the last requests of a part may take when the process ends.
const FAREWELL_LIMIT: Duration = Duration::from_millis(800);

/// Why a part cannot begin, or ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is neither a service account's token nor a kubeconfig.
    #[error(
        "the settings kubernetes-* need the Kubernetes API, and there is no way to it; in a pod, set \
         automountServiceAccountToken to true, elsewhere give KUBECONFIG ({tried})"
    )]
    NoAccess {
        /// What was tried; that error repeats its sources itself.
        tried: String,
    },
    /// A kubeconfig names a program that would fetch the credential.
    #[error(
        "the kubeconfig's user has {field}, which starts a program, and this process starts none; give the user a token, \
         tokenFile or client-certificate and client-key, or run in the cluster with a service account"
    )]
    Program {
        /// The field of the user.
        field: &'static str,
    },
    /// The way to the API that was found cannot be used.
    #[error("cannot make a client for the Kubernetes API; check KUBECONFIG or the service account")]
    Client {
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The watch of a Secret ended, which it never should.
    #[error("the watch of the Secret {name} ended by itself")]
    WatchEnded {
        /// The name of the Secret.
        name: String,
    },
}

/// A client by the service account of this pod, or by `KUBECONFIG` where that is given.
///
/// Reads files, and talks to nobody yet. The token is read again at least once a minute and the certificate authority
/// when it changes, by `kube`, since both are replaced while a pod runs. A kubeconfig that has a program started for its
/// credential is refused: it would inherit the environment, secrets included. In a pod no proxy is used; with a kubeconfig
/// `kube` takes the one that it names, else that of `HTTPS_PROXY`.
pub async fn client() -> Result<Client, Error> {
    let config = kube::Config::infer()
        .await
        .map_err(|error| Error::NoAccess {
            tried: error.to_string(),
        })?;
    client_of(config)
}

/// A client by what was found of a way to the API.
fn client_of(mut config: kube::Config) -> Result<Client, Error> {
    for (field, is_there) in [
        ("exec", config.auth_info.exec.is_some()),
        ("auth-provider", config.auth_info.auth_provider.is_some()),
    ] {
        if is_there {
            return Err(Error::Program { field });
        }
    }
    config.connect_timeout = Some(CONNECT_LIMIT);
    config.read_timeout = Some(READ_LIMIT);
    // Retries of its own would be silent, and up to minutes long: each part has its pace and tells its failures.
    config.default_retry = false;
    Client::try_from(config).map_err(|source| Error::Client {
        source: Box::new(source),
    })
}

/// The pod as Events refer to it.
pub fn reference(pod: &Pod, namespace: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(pod.name.clone()),
        namespace: Some(namespace.to_owned()),
        uid: pod.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The name of this process among the replicas.
///
/// Holds the UID beside the name, because a pod of a `StatefulSet` can be replaced by one of the same name while it still
/// runs on a node that was cut off; without a UID a random number takes its place.
pub fn identity(pod: &Pod) -> String {
    match &pod.uid {
        Some(uid) => format!("{}_{uid}", pod.name),
        None => format!("{}_{:016x}", pod.name, fastrand::u64(..)),
    }
}

/// Lets one complaint a minute through, and remembers whether there is anything to take back.
#[derive(Debug, Default)]
struct Complaints {
    told: Option<Instant>,
    open: bool,
}

impl Complaints {
    /// Whether a failure may be told now.
    fn due(&mut self) -> bool {
        let now = Instant::now();
        if self
            .told
            .is_some_and(|told| now.duration_since(told) < COMPLAINT_INTERVAL)
        {
            return false;
        }
        self.told = Some(now);
        self.open = true;
        true
    }

    /// Whether a failure was told since the last success, of which this is one.
    fn settled(&mut self) -> bool {
        std::mem::take(&mut self.open)
    }
}

/// A failure on one line; `rule` is what a Role must hold for the request.
///
/// An answer that cannot be read is not repeated: it may hold a Secret.
fn explained(error: &kube::Error, rule: &str) -> String {
    match error {
        kube::Error::Api(status) => answered(status, rule),
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
            "the answer is not what the Kubernetes API promises".to_owned()
        }
        other => chain(other),
    }
}

/// An answer of the API server that is none of success.
fn answered(status: &kube::core::Status, rule: &str) -> String {
    let message = capped(&status.message.replace(['\n', '\r'], " "), ANSWER_LIMIT);
    match status.code {
        401 => {
            format!("the API server does not accept the token of the service account: {message}")
        }
        403 => format!("the API server forbids it; the Role needs a rule with {rule}: {message}"),
        code => format!("the API server answers {code}: {message}"),
    }
}

/// The beginning of a text, of at most so many bytes.
fn capped(text: &str, limit: usize) -> String {
    const MARK: char = '…';
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(limit.saturating_sub(MARK.len_utf8()));
    let mut short = text.get(..end).unwrap_or_default().to_owned();
    short.push(MARK);
    short
}

#[cfg(test)]
mod tests;
