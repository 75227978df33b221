//! The admin HTTP server: health for orchestrators and for people, numbers, and the log level, on one port.
//!
//! Owns the listener and its connections. Never shows a secret, and changes nothing but the log level, for a while and for
//! callers on this machine. Invariants: at most 64 connections are served at once, at most 16 of them for one address, so
//! that nobody keeps the probes out alone; each is closed after one answer, and after 45 s at the latest.
//!
//! | Path | 200 | 503 |
//! |---|---|---|
//! | `/livez`, `/live` | the poll loop gets on | it is stuck; a restart helps |
//! | `/readyz`, `/ready` | the first Hello was accepted, no credentials are rejected, and shutdown has not begun | otherwise |
//! | `/startupz` | the worker loop has begun, connected or not | it has not |
//! | `/health` | the directory accepts the connector's credentials | it does not, or cannot be reached |
//! | `/metrics` | all numbers, in the text format of Prometheus | never |
//! | `/log-level` | the level that is logged; `PUT` changes it for a while, see [`log_level`] | never |
//!
//! The paths without `z` are those of the product, with its bodies: JSON with `status`, `timestamp` and `details`.
//! Only `/health` asks a peer, so only `/health` must not be used as a liveness probe.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::Response,
    routing::get,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use serde_json::{Map, Value};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    supervisor::lock,
    telemetry::{
        level::LevelSwitch,
        metrics::{self, Metrics},
    },
};

pub mod health;
pub(crate) mod log_level;

use self::health::{ConnectorCheck, Health};

/// How long a client may take to send the head of its request, as in the SDK.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection lives at most; longer than the slowest check.
const CONNECTION_LIMIT: Duration = Duration::from_secs(45);
/// How long open connections are waited for at the end, as in the SDK.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// The pause after a failed accept, such as one for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
const MAX_CONNECTIONS: usize = 64;
/// How many of them one address may have; a probe has one.
const MAX_OF_ONE: usize = 16;
/// How long a loop that seems stuck may take to prove the opposite.
const AWAKENING: Duration = Duration::from_millis(250);

/// Why the admin server could not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {host}:{port} for health checks; choose another address or port")]
    Listen {
        /// The host part of the address.
        host: String,
        /// The port.
        port: u16,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Listens on an address; port 0 takes any free port. `host` is a name or an address without brackets.
///
/// `::` means every address of both families, and every IPv4 address on a machine without IPv6.
pub async fn listen(host: &str, port: u16) -> Result<TcpListener, Error> {
    let bound = match TcpListener::bind((host, port)).await {
        Err(_no_ipv6) if host == "::" => TcpListener::bind(("0.0.0.0", port)).await,
        bound => bound,
    };
    bound.map_err(|source| Error::Listen {
        host: host.to_owned(),
        port,
        source,
    })
}

/// What the server shows.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The state of the worker loop.
    pub health: Arc<Health>,
    /// The check behind `/health`.
    pub check: Arc<ConnectorCheck>,
    /// The clock of the timestamps.
    pub clock: Arc<dyn Clock>,
    /// The numbers behind `/metrics`.
    pub metrics: Metrics,
    /// The log level behind `/log-level`.
    pub level: Arc<LevelSwitch>,
}

/// Serves until `stop` is cancelled, then closes within 5 s.
///
/// Not the token of shutdown itself: probes should see the process going down. Dropping the future closes everything.
pub async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken) {
    let router = router(admin);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let peers = Peers::default();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => continue,
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((stream, peer, slot)) => {
                let Some(place) = peers.admit(peer.ip()) else {
                    tracing::debug!(
                        "an admin connection was closed because its address has too many"
                    );
                    continue;
                };
                let router = router.clone().layer(Extension(peer));
                connections.spawn(async move {
                    serve_connection(stream, router).await;
                    drop((place, slot));
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "the admin server cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let closing = async { while connections.join_next().await.is_some() {} };
    if timeout(CLOSE_LIMIT, closing).await.is_err() {
        connections.shutdown().await;
    }
}

/// How many connections each address has.
#[derive(Debug, Clone, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Peers {
    /// A place for one more connection; `None` when the address has as many as it may.
    fn admit(&self, address: IpAddr) -> Option<Place> {
        let mut counts = lock(&self.0);
        let count = counts.entry(address).or_default();
        if *count >= MAX_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Place {
            peers: self.clone(),
            address,
        })
    }
}

/// The place of one connection, free again when dropped.
#[derive(Debug)]
struct Place {
    peers: Peers,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = lock(&self.peers.0);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, slot))
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let mut server = auto::Builder::new(TokioExecutor::new()).http1_only();
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .keep_alive(false);
    let connection =
        server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A client that breaks off is its own affair.
    match timeout(CONNECTION_LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = %error, "an admin connection broke"),
        Err(_elapsed) => tracing::debug!("an admin connection was closed because it took too long"),
    }
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(live))
        .route("/live", get(live))
        .route("/readyz", get(ready))
        .route("/ready", get(ready))
        .route("/startupz", get(started))
        .route("/health", get(healthy))
        .route("/metrics", get(numbers))
        .route("/log-level", get(log_level::show).put(log_level::change))
        .with_state(admin)
}

async fn live(State(admin): State<Admin>) -> Response {
    // A process that was stopped for long is asked before its loop had a moment to get on.
    if admin.health.stuck_for().is_some() {
        sleep(AWAKENING).await;
    }
    match admin.health.stuck_for() {
        None => admin.answer(true, "alive", &[]),
        Some(silent) => admin.answer(
            false,
            "stuck",
            &[(
                "error",
                format!("the poll loop made no progress for {} s", silent.as_secs()),
            )],
        ),
    }
}

async fn ready(State(admin): State<Admin>) -> Response {
    let ready = admin.health.is_ready();
    let faults: Vec<(&str, String)> = admin
        .health
        .faults()
        .into_iter()
        .map(|fault| ("error", fault.to_string()))
        .collect();
    admin.answer(ready, if ready { "ready" } else { "not_ready" }, &faults)
}

async fn started(State(admin): State<Admin>) -> Response {
    let started = admin.health.has_begun();
    admin.answer(started, if started { "started" } else { "starting" }, &[])
}

async fn healthy(State(admin): State<Admin>) -> Response {
    match admin.check.verdict().await {
        Ok(()) => admin.answer(true, "healthy", &[]),
        Err(problem) => admin.answer(
            false,
            "unhealthy",
            &[
                ("error", "connector validation failed".to_owned()),
                ("validation_error", problem),
            ],
        ),
    }
}

async fn numbers(State(admin): State<Admin>) -> Response {
    shown(StatusCode::OK, metrics::CONTENT_TYPE, admin.metrics.text())
}

/// An answer that nobody may keep.
fn shown(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-store"),
    );
    response
}

impl Admin {
    fn answer(&self, good: bool, status: &str, details: &[(&str, String)]) -> Response {
        let mut body = Map::new();
        body.insert("status".to_owned(), status.into());
        body.insert(
            "timestamp".to_owned(),
            self.clock
                .now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string()
                .into(),
        );
        if !details.is_empty() {
            let details: Map<String, Value> = details
                .iter()
                .map(|(name, text)| ((*name).to_owned(), text.as_str().into()))
                .collect();
            body.insert("details".to_owned(), details.into());
        }
        let status = if good {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        shown(status, "application/json", Value::from(body).to_string())
    }
}
