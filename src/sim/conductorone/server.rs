//! The port: TLS, HTTP/2 and HTTP/1.1, the token endpoint beside the service, and outages.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{
    Extension, Json, Router,
    extract::State as Injected,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
    routing::{any, post},
};
use bytes::Bytes;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    credentials::{Refusal, TlsIdentity, expose},
    service::Service,
    state::{Network, Rpc, Shared, TokenRequest, keep},
};
use crate::proto::baton::baton_service_server::BatonServiceServer;

/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the port may stay taken after an outage.
const REBIND: Duration = Duration::from_secs(5);

/// One connection, as the calls on it see it.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    /// Drops it at once.
    pub(super) kill: CancellationToken,
    /// Sends GOAWAY and lets running calls end.
    pub(super) drain: CancellationToken,
}

/// Binds a port so that it can be bound again right after an outage.
pub(super) fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket
        .bind(address)
        .and_then(|()| socket.listen(1024))
        .with_context(|| format!("the simulator cannot listen on {address}"))
}

pub(super) fn acceptor(identity: TlsIdentity) -> anyhow::Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until it is dropped; every connection ends with it.
pub(super) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    address: SocketAddr,
    acceptor: TlsAcceptor,
) {
    let service = BatonServiceServer::new(Service(Arc::clone(&shared)));
    let router = tonic::service::Routes::new(service)
        .into_axum_router()
        .route(
            "/auth/v1/token",
            post(token).with_state(Arc::clone(&shared)),
        )
        .fallback_service(any(unknown).with_state(Arc::clone(&shared)));
    let mut network = shared.network.subscribe();
    let mut listener = Some(listener);
    loop {
        if let Some(up) = listener.take() {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    down = network.wait_for(|network| *network != Network::Up) => {
                        if down.is_err() {
                            return;
                        }
                        break;
                    }
                    accepted = up.accept() => match accepted {
                        Ok((stream, _peer)) => {
                            let connection = Connection {
                                kill: CancellationToken::new(),
                                drain: shared.lock().drain.child_token(),
                            };
                            let router = router.clone().layer(Extension(connection.clone()));
                            connections.spawn(serve_connection(stream, acceptor.clone(), router, connection));
                        }
                        Err(error) => tracing::debug!(%error, "the simulator could not accept a connection"),
                    },
                    Some(ended) = connections.join_next() => {
                        if let Err(error) = ended {
                            tracing::debug!(%error, "a connection of the simulator broke");
                        }
                    }
                }
            }
        }
        // Down: the port is closed and every connection is gone.
        if !wait_until_up(&shared, &mut network).await {
            return;
        }
        listener = rebind(address).await;
        if listener.is_none() {
            tracing::error!(%address, "the simulator cannot have its port back");
            return;
        }
    }
}

async fn rebind(address: SocketAddr) -> Option<TcpListener> {
    let deadline = Instant::now() + REBIND;
    loop {
        match bind(address) {
            Ok(listener) => return Some(listener),
            Err(_taken) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(_taken) => return None,
        }
    }
}

/// Waits for the end of an outage; `false` when the simulator goes away.
async fn wait_until_up(shared: &Shared, network: &mut watch::Receiver<Network>) -> bool {
    loop {
        let now = *network.borrow_and_update();
        match now {
            Network::Up => return true,
            Network::Down { until: None } => {
                if network.changed().await.is_err() {
                    return false;
                }
            }
            Network::Down { until: Some(until) } => {
                tokio::select! {
                    changed = network.changed() => {
                        if changed.is_err() {
                            return false;
                        }
                    }
                    () = tokio::time::sleep_until(until) => {
                        shared.network.send_replace(Network::Up);
                    }
                }
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    control: Connection,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection of the simulator has no TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake with the simulator failed");
            return;
        }
        Err(_elapsed) => return,
    };
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut connection = std::pin::pin!(
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let mut draining = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection of the simulator ended badly");
                }
                return;
            }
            () = control.kill.cancelled() => return,
            () = control.drain.cancelled(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Everything that is not served.
async fn unknown(
    Injected(shared): Injected<Arc<Shared>>,
    method: Method,
    uri: Uri,
) -> Response<tonic::body::Body> {
    let path = format!("{method} {}", uri.path());
    shared.update(|state| *state.calls.entry(Rpc::Other).or_default() += 1);
    drop(shared.breach(Rpc::Other, &path, "is not served"));
    tonic::Status::unimplemented(format!("{path} is not served")).into_http()
}

/// `POST /auth/v1/token`.
async fn token(
    Injected(shared): Injected<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let text = |name: header::HeaderName| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let now = shared.config.clock.now();
    let (delay, is_down, reject) = shared.update(|state| {
        *state.calls.entry(Rpc::Token).or_default() += 1;
        let is_down = state
            .faults
            .token_down_until
            .is_some_and(|until| Instant::now() < until);
        (
            state.faults.delays.get(&Rpc::Token).copied(),
            is_down,
            state.faults.reject_secret,
        )
    });
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
    let verdict = if is_down {
        Err((
            StatusCode::SERVICE_UNAVAILABLE,
            Refusal::credentials("the token endpoint is down"),
        ))
    } else {
        check(
            &shared,
            &headers,
            &text(header::CONTENT_TYPE),
            &body,
            reject,
        )
        .map_err(|refusal| (StatusCode::UNAUTHORIZED, refusal))
    };
    if let Err((_, refusal)) = &verdict
        && refusal.is_breach
    {
        drop(shared.breach(Rpc::Token, &refusal.field, &refusal.problem));
    }
    let refused = verdict
        .as_ref()
        .err()
        .map(|(_, refusal)| refusal.to_string());
    let line = refused.as_ref().map_or_else(
        || "token   issued".to_owned(),
        |why| format!("token   refused: {why}"),
    );
    let (moment, issued) = shared.update(|state| {
        let moment = shared.moment(state);
        let request = TokenRequest {
            moment,
            user_agent: text(header::USER_AGENT),
            refused,
        };
        keep(&mut state.token_requests, request);
        let life = state.token_life;
        let issued = verdict
            .is_ok()
            .then(|| state.tokens.issue(now, life).map(|token| (token, life)));
        (moment, issued)
    });
    shared.tell(moment, line);
    let answer = match (issued, verdict) {
        (Some(Ok((token, life))), _) => Json(json!({
            "access_token": expose(&token),
            "token_type": "Bearer",
            "expires_in": life.as_secs(),
        }))
        .into_response(),
        (_, Err((StatusCode::SERVICE_UNAVAILABLE, _))) => {
            (StatusCode::SERVICE_UNAVAILABLE, "down").into_response()
        }
        (_, Err((status, refusal))) => (
            status,
            Json(json!({
                "error": "invalid_client",
                "error_description": refusal.to_string(),
            })),
        )
            .into_response(),
        (Some(Err(_)) | None, Ok(())) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    // The clock that assertions are judged by, as a client can see it.
    match DateTimePrinter::new().timestamp_to_rfc9110_string(&now) {
        Ok(date) => ([(header::DATE, date)], answer).into_response(),
        Err(_) => answer,
    }
}

fn check(
    shared: &Shared,
    headers: &HeaderMap,
    content_type: &str,
    body: &[u8],
    reject: bool,
) -> Result<(), Refusal> {
    if !content_type.starts_with("application/x-www-form-urlencoded") {
        return Err(Refusal::breach(
            "content-type",
            "must be application/x-www-form-urlencoded",
        ));
    }
    for name in ["authorization", "dpop"] {
        if headers.contains_key(name) {
            return Err(Refusal::breach(
                name,
                "must not be sent to the token endpoint",
            ));
        }
    }
    if headers.get(header::USER_AGENT).is_none() {
        return Err(Refusal::breach("user-agent", "is missing"));
    }
    let now = shared.config.clock.now();
    shared.client.verify(body, now, &mut shared.lock().nonces)?;
    if reject {
        return Err(Refusal::credentials("the client secret is revoked"));
    }
    Ok(())
}
