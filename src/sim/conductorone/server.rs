//! The port: TLS, HTTP/2 and HTTP/1.1, and the token endpoint beside the service.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::State as Injected,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware,
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
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    credentials::{Refusal, expose},
    faults,
    service::Service,
    state::{Rpc, Shared, TokenRequest, keep},
};
use crate::{proto::baton::baton_service_server::BatonServiceServer, sim::network};

/// One connection, as the calls on it see it.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    /// Drops it at once.
    pub(super) kill: CancellationToken,
    /// Sends GOAWAY and lets running calls end.
    pub(super) drain: CancellationToken,
}

/// Serves until it is dropped; every connection ends with it.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener, address: SocketAddr) {
    let service = BatonServiceServer::new(Service(Arc::clone(&shared)));
    let router = tonic::service::Routes::new(service)
        .into_axum_router()
        .route(
            "/auth/v1/token",
            post(token).with_state(Arc::clone(&shared)),
        )
        .fallback_service(any(unknown).with_state(Arc::clone(&shared)))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            faults::spoil,
        ));
    let one = |stream| {
        let connection = Connection {
            kill: CancellationToken::new(),
            drain: shared.lock().drain.child_token(),
        };
        let router = router.clone().layer(Extension(connection.clone()));
        serve_connection(stream, Arc::clone(&shared), router, connection)
    };
    network::serve(&shared.network, listener, address, one).await;
}

async fn serve_connection(
    stream: TcpStream,
    shared: Arc<Shared>,
    router: Router,
    control: Connection,
) {
    let Some(stream) = shared.tls.accept(stream).await else {
        return;
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
    let now = shared.now();
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
    let now = shared.now();
    shared.client.verify(body, now, &mut shared.lock().nonces)?;
    if reject {
        return Err(Refusal::credentials("the client secret is revoked"));
    }
    Ok(())
}
