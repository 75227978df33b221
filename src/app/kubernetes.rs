//! Starts what was asked for of the Kubernetes API.
//!
//! Owns the choice of parts and their place under the supervisor. In a build without the feature `kubernetes` nothing can
//! be asked for, since the configuration refuses it, and nothing is started.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Texts},
    notice::Notices,
    supervisor::Supervisor,
};

/// What the started parts tell.
#[derive(Debug, Default)]
pub(super) struct Handles {
    /// The credentials of the watched Secret; `None` inside until it has brought some.
    pub(super) secret: Option<watch::Receiver<Option<Arc<Texts>>>>,
    /// Whether it is this replica's turn to work; unchanged until the API server has answered.
    pub(super) leading: Option<watch::Receiver<bool>>,
}

/// Starts the parts that the configuration asks for.
///
/// Fails when there is no way to the API at all, which no waiting can change; whatever the API answers later ends
/// nothing. `work_over` is to be cancelled when the last task has ended: until then Events are written and the Lease is
/// kept, while the watch of the Secret ends when shutdown begins.
#[cfg(feature = "kubernetes")]
pub(super) async fn start(
    config: &Config,
    supervisor: &Supervisor,
    notices: &Notices,
    work_over: &CancellationToken,
) -> Result<Handles, crate::kubernetes::Error> {
    use crate::{
        clock::SystemClock,
        kubernetes::{self, events, lease, secret_watch},
    };

    let asked = &config.kubernetes;
    if asked.secret.is_none() && !asked.events && asked.lease.is_none() {
        return Ok(Handles::default());
    }
    let client = kubernetes::client().await?;
    let namespace = match &asked.pod.namespace {
        Some(namespace) => namespace.clone(),
        None => client.default_namespace().to_owned(),
    };
    let mut handles = Handles::default();
    if let Some(secret) = &asked.secret {
        let (to, from) = watch::channel(None);
        handles.secret = Some(from);
        let watched = secret_watch::run(
            client.clone(),
            namespace.clone(),
            secret.name.clone(),
            secret.keys.clone(),
            to,
            supervisor.shutdown_token(),
        );
        supervisor.spawn_critical("watch of the Secret", watched);
    }
    if asked.events {
        let written = events::run(
            client.clone(),
            kubernetes::reference(&asked.pod, &namespace),
            notices.listen(),
            work_over.clone(),
        );
        supervisor.spawn("Events", written);
    }
    if let Some(name) = &asked.lease {
        let (to, from) = watch::channel(false);
        handles.leading = Some(from);
        let elected = lease::run(
            client,
            kubernetes::identity(&asked.pod),
            lease::Settings::new(namespace, name.clone(), Arc::new(SystemClock)),
            to,
            work_over.clone(),
        );
        supervisor.spawn("Lease", elected);
    }
    Ok(handles)
}

/// Starts nothing: this build has no part for Kubernetes.
#[cfg(not(feature = "kubernetes"))]
#[expect(clippy::unused_async, reason = "as in a build that has the parts")]
pub(super) async fn start(
    _config: &Config,
    _supervisor: &Supervisor,
    _notices: &Notices,
    _work_over: &CancellationToken,
) -> Result<Handles, std::convert::Infallible> {
    Ok(Handles::default())
}
