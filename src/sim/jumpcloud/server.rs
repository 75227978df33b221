//! The HTTP side: connections, the way of a request through log, latency, rate limit, faults and permissions, and the
//! simulator's own admin paths under `/_sim/`.
//!
//! Invariant: dropping the [`Running`] server closes every connection.

use std::{
    collections::BTreeSet, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use jiff::Timestamp;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time,
};

use super::{
    Shared,
    access::Denied,
    behaviour::InForce,
    faults::Fault,
    request_log::Entry,
    routes::{Endpoint, Found, find},
    serve::{Ask, Reply},
    truth::Truth,
    writes,
};
use crate::sim::network;

/// The largest request body that is read.
const REQUEST_CAP: usize = 1024 * 1024;
/// How long a request body may take.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// A running server. Dropping it stops it at once.
#[derive(Debug)]
pub(super) struct Running {
    pub address: SocketAddr,
    tasks: JoinSet<()>,
}

impl Running {
    pub(super) fn start(listen: SocketAddr, shared: Arc<Shared>) -> io::Result<Self> {
        let listener = network::bind(listen)?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let one = |stream| connection(stream, Arc::clone(&shared));
            network::serve(&shared.network, listener, address, one).await;
        });
        Ok(Self { address, tasks })
    }

    pub(super) async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let Some(tls) = &shared.tls else {
        return serve(stream, Arc::clone(&shared)).await;
    };
    if let Some(stream) = tls.accept(stream).await {
        serve(stream, Arc::clone(&shared)).await;
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { answer(&shared, request).await }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    let served = builder
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(problem) = served {
        tracing::trace!(%problem, "a connection to the JumpCloud simulator ended early");
    }
}

/// The connection is closed instead of answered.
#[derive(Debug, thiserror::Error)]
#[error("closed on purpose")]
struct Closed;

async fn answer(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Closed> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let query = parts.uri.query().unwrap_or_default();
    if let Some(own) = path.strip_prefix("/_sim/") {
        let reply = sim_request(shared, parts.method.clone(), own.to_owned(), body).await;
        return Ok(send(&reply, &[]));
    }

    let _in_work = shared.log.enter();
    let in_force = shared.switches.current();
    let mut entry = Entry {
        method: parts.method.to_string(),
        path: path.to_owned(),
        query: query.to_owned(),
        status: 0,
        authenticated: false,
        headers: header_names(&parts.headers),
        form: Vec::new(),
        fields: Vec::new(),
    };
    wait(&in_force).await;

    let (route, ids) = match find(&parts.method, path) {
        Found::Route(route, ids) => (route, ids),
        other => {
            let status = if matches!(other, Found::OtherMethod) {
                405
            } else {
                404
            };
            entry.status = status;
            shared.log.record(None, entry);
            let v2 = path.starts_with("/api/v2/");
            return Ok(send(&Reply::error(status, v2, None), &[]));
        }
    };
    let v2 = route.endpoint.is_v2();
    let caller = shared.access.authenticate(&parts.headers);
    entry.authenticated = caller.is_some();

    if !shared.switches.admits(in_force.behaviour.rate_limit) {
        entry.status = 429;
        shared.log.record(Some(route.template), entry);
        return Ok(send(&throttled(&in_force), &[]));
    }
    let injected = shared.injections.next(
        &(&parts.method, route.template),
        in_force.behaviour.fault_seed,
    );
    let fault = injected.or_else(|| {
        let planned = in_force.plan.next(&parts.method, route.template);
        if let Some(fault) = &planned {
            shared.injections.fired(&fault.to_string());
        }
        planned
    });
    match &fault {
        Some(Fault::NoResponse) => {
            shared.log.record(Some(route.template), entry);
            return Err(Closed);
        }
        Some(Fault::Hang) => {
            shared.log.record(Some(route.template), entry);
            // Ends when the peer gives up and closes the connection.
            return std::future::pending().await;
        }
        Some(Fault::Status(429)) => {
            entry.status = 429;
            shared.log.record(Some(route.template), entry);
            return Ok(send(&throttled(&in_force), &[]));
        }
        Some(Fault::StatusAfter(status, after)) => {
            entry.status = *status;
            shared.log.record(Some(route.template), entry);
            let reply = Reply {
                retry_after: after.value(Timestamp::now()),
                ..Reply::error(*status, v2, None)
            };
            return Ok(send(&reply, &[]));
        }
        Some(Fault::Status(status)) => {
            entry.status = *status;
            shared.log.record(Some(route.template), entry);
            return Ok(send(&Reply::error(*status, v2, None), &[]));
        }
        Some(Fault::Redirect(origin)) => {
            entry.status = 302;
            shared.log.record(Some(route.template), entry);
            let target = parts
                .uri
                .path_and_query()
                .map_or(path, |target| target.as_str());
            let location = [(header::LOCATION, format!("{origin}{target}"))];
            return Ok(send(&Reply::json(302, Vec::new()), &location));
        }
        _ => {}
    }

    let body = if parts.method == Method::GET {
        Some(Bytes::new())
    } else {
        read(body).await
    };
    let Some(body) = body else {
        entry.status = 413;
        shared.log.record(Some(route.template), entry);
        let reply = Reply::error(413, v2, Some("Payload Too Large"));
        return Ok(send(&reply, &[]));
    };
    let mut reply = if route.endpoint == Endpoint::Token {
        entry.form = url::form_urlencoded::parse(&body)
            .map(|(name, _)| name.into_owned())
            .collect();
        let token = shared.access.token(&parts.headers, &body);
        entry.authenticated = token.status == 200;
        Reply::json(token.status, token.body.into_bytes())
    } else {
        entry.fields = field_names(&body);
        let granted = match caller {
            None => Err(Denied {
                status: 401,
                message: None,
            }),
            Some(caller) => {
                shared
                    .access
                    .authorize(&caller, route, &parts.headers, &in_force.behaviour)
            }
        };
        match granted {
            Err(denied) => Reply::error(denied.status, v2, denied.message),
            Ok(granted) => {
                let ask = Ask {
                    route,
                    ids,
                    query,
                    body: &body,
                    granted: &granted,
                    behaviour: &in_force.behaviour,
                    fault: fault.as_ref(),
                };
                if route.writes() {
                    writes::serve(&mut shared.world_mut(), &shared.writes, &ask)
                } else {
                    shared.desk.serve(&shared.world(), &ask)
                }
            }
        }
    };
    match fault {
        Some(Fault::AppliedNoResponse) => {
            shared.log.record(Some(route.template), entry);
            return Err(Closed);
        }
        Some(Fault::AppliedStatus(429)) => reply = throttled(&in_force),
        Some(Fault::AppliedStatus(status)) => reply = Reply::error(status, v2, None),
        Some(Fault::AppliedStatusAfter(status, ref after)) => {
            reply = Reply {
                retry_after: after.value(Timestamp::now()),
                ..Reply::error(status, v2, None)
            };
        }
        _ => {}
    }
    entry.status = reply.status;
    shared.log.record(Some(route.template), entry);

    // HTTP/2 names the host in the target, HTTP/1 in a header.
    let host = parts.headers.get(header::HOST);
    let host = parts.uri.authority().map_or_else(
        || {
            host.and_then(|host| host.to_str().ok())
                .unwrap_or("127.0.0.1")
        },
        |authority| authority.as_str(),
    );
    let origin = format!("{}://{host}", shared.scheme());
    let link = link(&reply, fault.as_ref(), origin, path, query);
    Ok(spoil(reply, fault.as_ref(), &link))
}

fn header_names(headers: &HeaderMap) -> Vec<String> {
    let mut names: Vec<String> = headers.keys().map(ToString::to_string).collect();
    names.sort_unstable();
    names
}

/// The names of the fields of a JSON body, nested ones behind a dot.
fn field_names(body: &[u8]) -> Vec<String> {
    /// Names beyond these are left out.
    const NAMES: usize = 256;
    fn collect(value: &Value, before: &str, names: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                for (name, value) in map.iter().take(NAMES) {
                    let name = if before.is_empty() {
                        name.clone()
                    } else {
                        format!("{before}.{name}")
                    };
                    collect(value, &name, names);
                    if names.len() < NAMES {
                        names.insert(name);
                    }
                }
            }
            Value::Array(items) => {
                let before = format!("{before}[]");
                for item in items.iter().take(NAMES) {
                    collect(item, &before, names);
                }
            }
            _ => {}
        }
    }
    let mut names = BTreeSet::new();
    if let Ok(value) = serde_json::from_slice(body) {
        collect(&value, "", &mut names);
    }
    names.into_iter().collect()
}

async fn wait(in_force: &InForce) {
    let behaviour = &in_force.behaviour;
    let mut latency = behaviour.latency;
    if !behaviour.jitter.is_zero() {
        latency += behaviour.jitter.mul_f64(fastrand::f64());
    }
    if !latency.is_zero() {
        time::sleep(latency).await;
    }
}

async fn read(body: Incoming) -> Option<Bytes> {
    let read = axum::body::to_bytes(Body::new(body), REQUEST_CAP);
    time::timeout(REQUEST_TIME, read).await.ok()?.ok()
}

fn throttled(in_force: &InForce) -> Reply {
    Reply {
        retry_after: in_force.behaviour.retry_after.clone(),
        ..Reply::error(429, false, None)
    }
}

/// The `Link` to the next page, on the host that the caller named.
fn link(
    reply: &Reply,
    fault: Option<&Fault>,
    own: String,
    path: &str,
    query: &str,
) -> Vec<(header::HeaderName, String)> {
    let origin = match fault {
        Some(Fault::CrossOriginLink(origin)) => origin.clone(),
        _ if reply.next_skip.is_none() => return Vec::new(),
        _ => own,
    };
    let mut next = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if name != "skip" {
            next.append_pair(&name, &value);
        }
    }
    next.append_pair("skip", &reply.next_skip.unwrap_or(10).to_string());
    vec![(
        header::LINK,
        format!("<{origin}{path}?{}>; rel=\"next\"", next.finish()),
    )]
}

fn send(reply: &Reply, extra: &[(header::HeaderName, String)]) -> Response<Body> {
    respond(reply, extra, Body::from(reply.body.clone()))
}

fn respond(reply: &Reply, extra: &[(header::HeaderName, String)], body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let kind = if reply.html {
        "text/html; charset=utf-8"
    } else {
        "application/json; charset=utf-8"
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let mut put = |name: header::HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    if let Some(total) = &reply.total {
        put(header::HeaderName::from_static("x-total-count"), total);
    }
    if let Some(retry_after) = &reply.retry_after {
        put(header::RETRY_AFTER, retry_after);
    }
    for (name, value) in extra {
        put(name.clone(), value);
    }
    response
}

/// Applies the faults that change a finished answer, and sends it.
fn spoil(
    mut reply: Reply,
    fault: Option<&Fault>,
    extra: &[(header::HeaderName, String)],
) -> Response<Body> {
    let length = reply.body.len();
    match fault {
        Some(Fault::Html200) => {
            reply = Reply {
                status: 200,
                ..Reply::error(502, false, None)
            };
        }
        Some(Fault::TruncatedJson) => reply.body.truncate(length / 2),
        Some(Fault::MalformedJson) => {
            if let Some(byte) = reply.body.get_mut(length / 2) {
                *byte = 0;
            }
        }
        Some(Fault::EmptyBody) => reply.body.clear(),
        Some(Fault::WrongTypes) => rewrite_rows(&mut reply.body, &|_, value| {
            if value.is_string() {
                *value = Value::from(7);
            }
        }),
        Some(Fault::NullFields) => rewrite_rows(&mut reply.body, &|name, value| {
            if !matches!(name, "_id" | "id" | "to") {
                *value = Value::Null;
            }
        }),
        Some(Fault::ResetMidBody) => {
            let half = Bytes::from(reply.body.get(..length / 2).unwrap_or_default().to_vec());
            let pieces = stream::iter([Ok(half), Err(Closed)]).then(|piece| async {
                if piece.is_err() {
                    // Lets the first half leave before the connection ends.
                    time::sleep(Duration::from_millis(20)).await;
                }
                piece
            });
            return with_length(&reply, extra, length, Body::from_stream(pieces));
        }
        Some(Fault::SlowDrip(over)) => {
            let size = length.div_ceil(20).max(1);
            let pause = *over / 20;
            let pieces: Vec<Bytes> = reply
                .body
                .chunks(size)
                .map(Bytes::copy_from_slice)
                .collect();
            let pieces = stream::iter(pieces).then(move |piece| async move {
                time::sleep(pause).await;
                Ok::<_, Infallible>(piece)
            });
            return with_length(&reply, extra, length, Body::from_stream(pieces));
        }
        Some(Fault::OversizedBody(bytes)) => {
            const PIECE: u64 = 64 * 1024;
            let pieces = stream::unfold(*bytes, |left| async move {
                let size = left.min(PIECE);
                let piece = vec![b' '; usize::try_from(size).unwrap_or(0)];
                (size > 0).then(|| (Ok::<_, Infallible>(Bytes::from(piece)), left - size))
            });
            return respond(&reply, extra, Body::from_stream(pieces));
        }
        _ => {}
    }
    let body = std::mem::take(&mut reply.body);
    respond(&reply, extra, Body::from(body))
}

fn with_length(
    reply: &Reply,
    extra: &[(header::HeaderName, String)],
    length: usize,
    body: Body,
) -> Response<Body> {
    let mut response = respond(reply, extra, body);
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// Changes the fields of every row of an answer, or of the one object that it is.
fn rewrite_rows(body: &mut Vec<u8>, change: &dyn Fn(&str, &mut Value)) {
    fn fields(value: &mut Value, change: &dyn Fn(&str, &mut Value)) {
        match value {
            Value::Array(rows) => rows.iter_mut().for_each(|row| fields(row, change)),
            Value::Object(map) => {
                for (name, value) in map {
                    change(name, value);
                    if name == "to" || name == "results" {
                        fields(value, change);
                    }
                }
            }
            _ => {}
        }
    }
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    match value.get_mut("results") {
        Some(rows) => fields(rows, change),
        None => fields(&mut value, change),
    }
    *body = value.to_string().into_bytes();
}

/// A request to one of the simulator's own paths; the truth of a big organisation takes seconds, hence the other thread.
async fn sim_request(shared: &Arc<Shared>, method: Method, path: String, body: Incoming) -> Reply {
    let Some(body) = read(body).await else {
        return Reply::error(413, false, Some("the body is too long or too slow"));
    };
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || sim_path(&shared, &method, &path, &body))
        .await
        .unwrap_or_else(|_ended| Reply::error(500, false, None))
}

/// The simulator's own paths, which need no key.
fn sim_path(shared: &Shared, method: &Method, path: &str, body: &[u8]) -> Reply {
    let json = |value: Result<Vec<u8>, serde_json::Error>| match value {
        Ok(body) => Reply::json(200, body),
        Err(problem) => Reply::error(500, false, Some(&problem.to_string())),
    };
    match (method.as_str(), path) {
        ("GET", "truth") => {
            let truth: Vec<Truth> = shared.world().tenants.iter().map(Truth::of).collect();
            match truth.as_slice() {
                [only] => json(serde_json::to_vec(only)),
                all => json(serde_json::to_vec(all)),
            }
        }
        ("GET", "requests") => json(serde_json::to_vec(&shared.log.snapshot())),
        ("DELETE", "requests") | ("POST", "requests/reset") => {
            shared.log.reset();
            Reply::json(204, Vec::new())
        }
        ("GET", "behaviour") => json(serde_json::to_vec(&shared.switches.current().behaviour)),
        ("POST", "behaviour") => match shared.switches.current().behaviour.patched(body) {
            Ok(behaviour) => {
                shared.switches.replace(behaviour);
                json(serde_json::to_vec(&shared.switches.current().behaviour))
            }
            Err(problem) => Reply::error(400, false, Some(&problem.to_string())),
        },
        ("POST", "throttle") => {
            let time = std::str::from_utf8(body)
                .ok()
                .and_then(|text| humantime::parse_duration(text.trim()).ok());
            match time {
                Some(time) => {
                    shared.switches.close_for(time);
                    Reply::json(204, Vec::new())
                }
                None => Reply::error(400, false, Some("the body must be a duration such as 5s")),
            }
        }
        ("GET", "writes") => json(serde_json::to_vec(&shared.writes.snapshot())),
        ("DELETE", "writes") => {
            shared.writes.reset();
            Reply::json(204, Vec::new())
        }
        ("POST", "run-due") => {
            let text = std::str::from_utf8(body).unwrap_or_default();
            if let Ok(now) = text.trim().parse() {
                let mut world = shared.world_mut();
                let tenants = world.tenants.iter_mut();
                let done: usize = tenants.map(|tenant| tenant.run_due(now)).sum();
                Reply::json(200, format!("{{\"done\":{done}}}").into_bytes())
            } else {
                let words = "the body must be a moment such as 2026-10-01T10:00:00Z";
                Reply::error(400, false, Some(words))
            }
        }
        ("POST", "revoke-tokens") => {
            shared.access.revoke_tokens();
            Reply::json(204, Vec::new())
        }
        _ => Reply::error(
            404,
            false,
            Some(
                "there are GET truth, GET|DELETE requests, POST requests/reset, GET|POST behaviour, POST throttle, POST \
                 revoke-tokens, GET|DELETE writes and POST run-due under /_sim/",
            ),
        ),
    }
}
