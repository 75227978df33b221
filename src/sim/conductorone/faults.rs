//! Every way in which a call can be spoilt on purpose, and when.
//!
//! A rule is written `<method or *>@<when>:<fault>`, such as `FinishTask@1:applied-unavailable`, `Token@for5s:http-429`
//! or `*@p0.02:reset`. A method is one of the service, or `Token`.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Extension,
    body::Body,
    extract::{Request, State as Injected},
    http::{HeaderValue, Response, StatusCode, header},
    middleware::Next,
    response::IntoResponse as _,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use hyper::body::{Body as _, Frame};
use serde_json::{Value, json};

use super::{Break, Rpc, server::Connection, state::Shared};
use crate::sim::inject::{RetryAfter, Rule, When, WhenError};

/// One way to spoil a call.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RpcFault {
    /// `unavailable`: this gRPC code at once, written in the way of [`CODES`].
    Code(tonic::Code),
    /// `applied-unavailable`: the call takes effect, and then this gRPC code is answered.
    AppliedCode(tonic::Code),
    /// `http-503`, or `http-429=retry-after:5`: this HTTP status, as something between client and service answers it.
    Http(u16, Option<RetryAfter>),
    /// `hang`: no answer, ever.
    Hang,
    /// `delay=2s`: the call is served after this time.
    Delay(Duration),
    /// `reset`: the connection, with every other call on it, ends before the call is served.
    Reset,
    /// `applied-reset`: the same after the call has taken effect.
    AppliedReset,
    /// `goaway`: the call is served, and its connection takes no further ones.
    GoAway,
    /// `reset-mid-body`: the stream ends in the middle of its answer; the call has taken effect.
    ResetMidBody,
    /// `html-200`: success with an HTML page.
    Html200,
    /// `garbage`: an answer that cannot be decoded.
    Garbage,
    /// `empty-body`: success without an answer.
    EmptyBody,
    /// `oversized-body=100000000`: an answer of this many bytes.
    OversizedBody(u32),
    /// `slow-drip=5s`: the answer comes in small pieces over this time.
    SlowDrip(Duration),
    /// `wrong-types`: a token answer whose fields have other types.
    WrongTypes,
    /// `no-token`: a token answer without a token.
    NoToken,
    /// `expires-in=-5`: a token answer with this life, any JSON.
    ExpiresIn(Value),
    /// `redirect=https://host`: a redirection of the token request.
    Redirect(String),
    /// `break-stream=1000`, `break-connection=1000`, `break-goaway=1000`: an upload ends after this many bytes.
    BreakUpload(Break, u64),
    /// `refuse-checksum`: the checksum of an upload is refused although it is right.
    RefuseChecksum,
}

/// The names of the gRPC codes.
pub const CODES: [(&str, tonic::Code); 16] = [
    ("cancelled", tonic::Code::Cancelled),
    ("unknown", tonic::Code::Unknown),
    ("invalid-argument", tonic::Code::InvalidArgument),
    ("deadline-exceeded", tonic::Code::DeadlineExceeded),
    ("not-found", tonic::Code::NotFound),
    ("already-exists", tonic::Code::AlreadyExists),
    ("permission-denied", tonic::Code::PermissionDenied),
    ("resource-exhausted", tonic::Code::ResourceExhausted),
    ("failed-precondition", tonic::Code::FailedPrecondition),
    ("aborted", tonic::Code::Aborted),
    ("out-of-range", tonic::Code::OutOfRange),
    ("unimplemented", tonic::Code::Unimplemented),
    ("internal", tonic::Code::Internal),
    ("unavailable", tonic::Code::Unavailable),
    ("data-loss", tonic::Code::DataLoss),
    ("unauthenticated", tonic::Code::Unauthenticated),
];

const PLAIN: [(&str, RpcFault); 11] = [
    ("hang", RpcFault::Hang),
    ("reset", RpcFault::Reset),
    ("applied-reset", RpcFault::AppliedReset),
    ("goaway", RpcFault::GoAway),
    ("reset-mid-body", RpcFault::ResetMidBody),
    ("html-200", RpcFault::Html200),
    ("garbage", RpcFault::Garbage),
    ("empty-body", RpcFault::EmptyBody),
    ("wrong-types", RpcFault::WrongTypes),
    ("no-token", RpcFault::NoToken),
    ("refuse-checksum", RpcFault::RefuseChecksum),
];

const BREAKS: [(&str, Break); 3] = [
    ("break-stream", Break::Stream),
    ("break-connection", Break::Connection),
    ("break-goaway", Break::GoAway),
];

fn code_name(code: tonic::Code) -> &'static str {
    let named = CODES.iter().find(|(_, known)| *known == code);
    named.map_or("unknown", |(name, _)| name)
}

impl fmt::Display for RpcFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => f.write_str(code_name(*code)),
            Self::AppliedCode(code) => write!(f, "applied-{}", code_name(*code)),
            Self::Http(status, None) => write!(f, "http-{status}"),
            Self::Http(status, Some(after)) => write!(f, "http-{status}=retry-after:{after}"),
            Self::Delay(by) => write!(f, "delay={}ms", by.as_millis()),
            Self::SlowDrip(over) => write!(f, "slow-drip={}ms", over.as_millis()),
            Self::OversizedBody(bytes) => write!(f, "oversized-body={bytes}"),
            Self::ExpiresIn(value) => write!(f, "expires-in={value}"),
            Self::Redirect(url) => write!(f, "redirect={url}"),
            Self::BreakUpload(how, after) => {
                let name = BREAKS.iter().find(|(_, known)| known == how);
                write!(f, "{}={after}", name.map_or("", |(name, _)| name))
            }
            plain => {
                let name = PLAIN.iter().find(|(_, fault)| fault == plain);
                f.write_str(name.map_or("", |(name, _)| name))
            }
        }
    }
}

/// The text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RpcFaultError {
    /// The form of a rule was not met.
    #[error("{0:?} is no fault rule; write <method or *>@<when>:<fault>")]
    Form(String),
    /// There is no such method.
    #[error(
        "{0:?} is no method; use Token, Hello, GetTask, GetTasks, Heartbeat, UploadAsset, FinishTask or *"
    )]
    Method(String),
    /// The moment cannot be read.
    #[error(transparent)]
    When(#[from] WhenError),
    /// The fault is unknown, or its value cannot be read.
    #[error(
        "{0:?} is no fault; use a gRPC code such as unavailable or applied-unavailable, http-503, \
         http-429=retry-after:TEXT, hang, delay=2s, reset, applied-reset, goaway, reset-mid-body, html-200, garbage, \
         empty-body, oversized-body=BYTES, slow-drip=5s, wrong-types, no-token, expires-in=JSON, redirect=URL, \
         break-stream=BYTES, break-connection=BYTES, break-goaway=BYTES or refuse-checksum"
    )]
    Name(String),
    /// The fault cannot happen to this method.
    #[error("{fault} cannot happen to {rpc}")]
    Mismatch {
        /// The fault.
        fault: String,
        /// The method.
        rpc: Rpc,
    },
}

impl FromStr for RpcFault {
    type Err = RpcFaultError;

    fn from_str(text: &str) -> Result<Self, RpcFaultError> {
        let code = |text: &str| {
            let found = CODES.iter().find(|(name, _)| *name == text);
            found.map(|(_, code)| *code)
        };
        if let Some((_, fault)) = PLAIN.into_iter().find(|(name, _)| *name == text) {
            return Ok(fault);
        }
        if let Some(code) = code(text) {
            return Ok(Self::Code(code));
        }
        if let Some(code) = text.strip_prefix("applied-").and_then(code) {
            return Ok(Self::AppliedCode(code));
        }
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let time = || humantime::parse_duration(value).ok();
        let read = || match name {
            "delay" => time().map(Self::Delay),
            "slow-drip" => time().map(Self::SlowDrip),
            "oversized-body" => value.parse().ok().map(Self::OversizedBody),
            "expires-in" => serde_json::from_str(value).ok().map(Self::ExpiresIn),
            "redirect" => url::Url::parse(value)
                .ok()
                .map(|_url| Self::Redirect(value.to_owned())),
            _ => {
                if let Some((_, how)) = BREAKS.iter().find(|(known, _)| *known == name) {
                    return value
                        .parse()
                        .ok()
                        .map(|after| Self::BreakUpload(*how, after));
                }
                let status = name.strip_prefix("http-")?.parse().ok()?;
                let after = value.strip_prefix("retry-after:").map(RetryAfter::from);
                ((400..600).contains(&status) && (after.is_some() || value.is_empty()))
                    .then_some(Self::Http(status, after))
            }
        };
        read().ok_or_else(|| RpcFaultError::Name(text.to_owned()))
    }
}

impl RpcFault {
    /// Whether this can happen to a call of this method.
    fn can_strike(&self, rpc: Rpc) -> bool {
        match self {
            Self::Code(_) | Self::AppliedCode(_) => rpc != Rpc::Token,
            Self::WrongTypes | Self::NoToken | Self::ExpiresIn(_) | Self::Redirect(_) => {
                rpc == Rpc::Token
            }
            Self::BreakUpload(..) | Self::RefuseChecksum => rpc == Rpc::UploadAsset,
            _ => rpc != Rpc::Other,
        }
    }
}

/// One fault at one method.
#[derive(Debug, Clone, PartialEq)]
pub struct RpcRule {
    /// Only calls of this method; all that the fault can happen to without.
    pub rpc: Option<Rpc>,
    /// Which of the matching calls.
    pub when: When,
    /// How they are spoilt.
    pub fault: RpcFault,
}

impl fmt::Display for RpcRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rpc {
            Some(rpc) => write!(f, "{rpc}@{}:{}", self.when, self.fault),
            None => write!(f, "*@{}:{}", self.when, self.fault),
        }
    }
}

impl FromStr for RpcRule {
    type Err = RpcFaultError;

    fn from_str(text: &str) -> Result<Self, RpcFaultError> {
        const METHODS: [Rpc; 7] = [
            Rpc::Token,
            Rpc::Hello,
            Rpc::GetTask,
            Rpc::GetTasks,
            Rpc::Heartbeat,
            Rpc::UploadAsset,
            Rpc::FinishTask,
        ];
        let form = || RpcFaultError::Form(text.to_owned());
        let (method, rest) = text.split_once('@').ok_or_else(form)?;
        let (when, fault) = rest.split_once(':').ok_or_else(form)?;
        let fault: RpcFault = fault.parse()?;
        let rpc = if method == "*" {
            None
        } else {
            let rpc = METHODS
                .into_iter()
                .find(|rpc| rpc.to_string() == method)
                .ok_or_else(|| RpcFaultError::Method(method.to_owned()))?;
            if !fault.can_strike(rpc) {
                let fault = fault.to_string();
                return Err(RpcFaultError::Mismatch { fault, rpc });
            }
            Some(rpc)
        };
        Ok(Self {
            rpc,
            when: when.parse()?,
            fault,
        })
    }
}

impl Rule for RpcRule {
    type Request<'a> = Rpc;
    type Fault = RpcFault;

    fn matches(&self, rpc: &Rpc) -> bool {
        self.rpc.is_none_or(|of| of == *rpc) && self.fault.can_strike(*rpc)
    }

    fn when(&self) -> When {
        self.when
    }

    fn fault(&self) -> &RpcFault {
        &self.fault
    }
}

/// The client will not see the answer to this call, so that it may repeat it.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerLost;

/// Whether the client gave up its request. Tonic lets a request that was reset look like one that ended.
#[derive(Debug, Clone, Default)]
pub(super) struct GivenUp(Arc<AtomicBool>);

impl GivenUp {
    fn watch(request: Request) -> Request {
        let given_up = Self::default();
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(given_up.clone());
        let data = body
            .into_data_stream()
            .inspect_err(move |_error| given_up.0.store(true, Ordering::Relaxed));
        Request::from_parts(parts, Body::from_stream(data))
    }

    pub(super) fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is to happen to this upload.
#[derive(Debug, Clone, Copy)]
pub(super) enum UploadFault {
    Break(Break, u64),
    RefuseChecksum,
}

fn method(path: &str) -> Rpc {
    match path {
        "/auth/v1/token" => Rpc::Token,
        "/c1.connectorapi.baton.v1.BatonService/Hello" => Rpc::Hello,
        "/c1.connectorapi.baton.v1.BatonService/GetTask" => Rpc::GetTask,
        "/c1.connectorapi.baton.v1.BatonService/GetTasks" => Rpc::GetTasks,
        "/c1.connectorapi.baton.v1.BatonService/Heartbeat" => Rpc::Heartbeat,
        "/c1.connectorapi.baton.v1.BatonService/UploadAsset" => Rpc::UploadAsset,
        "/c1.connectorapi.baton.v1.BatonService/FinishTask" => Rpc::FinishTask,
        _ => Rpc::Other,
    }
}

/// Stands before every call, and spoils those that a rule in force hits.
pub(super) async fn spoil(
    Injected(shared): Injected<Arc<Shared>>,
    Extension(connection): Extension<Connection>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let rpc = method(request.uri().path());
    if rpc == Rpc::UploadAsset {
        request = GivenUp::watch(request);
    }
    let Some(fault) = shared.injections.next(&rpc, shared.config.fault_seed) else {
        return next.run(request).await;
    };
    // A call that is not served counts as well.
    let unserved = || shared.update(|state| *state.calls.entry(rpc).or_default() += 1);
    match fault {
        RpcFault::Delay(by) => {
            tokio::time::sleep(by).await;
            next.run(request).await
        }
        RpcFault::GoAway => {
            connection.drain.cancel();
            next.run(request).await
        }
        RpcFault::BreakUpload(how, after) => {
            request
                .extensions_mut()
                .insert(UploadFault::Break(how, after));
            next.run(request).await
        }
        RpcFault::RefuseChecksum => {
            request.extensions_mut().insert(UploadFault::RefuseChecksum);
            next.run(request).await
        }
        RpcFault::SlowDrip(over) => drip(next.run(request).await, over).await,
        RpcFault::AppliedCode(_) | RpcFault::AppliedReset | RpcFault::ResetMidBody => {
            request.extensions_mut().insert(AnswerLost);
            let answer = next.run(request).await;
            // A poll whose answer is lost cannot bind the client.
            shared.forget_polls();
            match fault {
                RpcFault::AppliedCode(code) => status(code),
                RpcFault::AppliedReset => end(&connection).await,
                _ => cut(answer).await,
            }
        }
        RpcFault::WrongTypes | RpcFault::NoToken | RpcFault::ExpiresIn(_) => {
            let answer = next.run(request).await;
            rewrite(answer, &fault).await
        }
        RpcFault::Hang => {
            unserved();
            std::future::pending().await
        }
        RpcFault::Reset => {
            unserved();
            shared.forget_polls();
            end(&connection).await
        }
        RpcFault::Code(code) => {
            unserved();
            status(code)
        }
        RpcFault::Http(status, after) => {
            unserved();
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            let mut answer = page(status);
            if let Some(after) = after.and_then(|after| after.value(shared.now()))
                && let Ok(after) = HeaderValue::from_str(&after)
            {
                answer.headers_mut().insert(header::RETRY_AFTER, after);
            }
            answer
        }
        RpcFault::Redirect(target) => {
            unserved();
            (StatusCode::FOUND, [(header::LOCATION, target)]).into_response()
        }
        RpcFault::Html200 => {
            unserved();
            page(StatusCode::OK)
        }
        RpcFault::EmptyBody => {
            unserved();
            of_type(rpc, Body::empty())
        }
        RpcFault::Garbage => {
            unserved();
            // In gRPC: a whole message of seven bytes that is no Protobuf.
            let mut bytes = vec![0, 0, 0, 0, 7];
            bytes.extend_from_slice(&[0xff; 7]);
            of_type(rpc, Body::from(bytes))
        }
        RpcFault::OversizedBody(bytes) => {
            unserved();
            oversized(rpc, bytes)
        }
    }
}

fn status(code: tonic::Code) -> Response<Body> {
    tonic::Status::new(code, "the simulator was told to fail this call").into_http()
}

/// Ends the connection, and with it the call.
async fn end(connection: &Connection) -> Response<Body> {
    connection.kill.cancel();
    std::future::pending().await
}

fn page(status: StatusCode) -> Response<Body> {
    let html = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    let text = format!("<html><head><title>{status}</title></head><body></body></html>\n");
    (status, html, text).into_response()
}

fn of_type(rpc: Rpc, body: Body) -> Response<Body> {
    let kind = if rpc == Rpc::Token {
        "application/json"
    } else {
        "application/grpc"
    };
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

fn oversized(rpc: Rpc, bytes: u32) -> Response<Body> {
    const PIECE: u32 = 64 * 1024;
    let mut head = Vec::new();
    if rpc != Rpc::Token {
        head.push(0);
        head.extend_from_slice(&bytes.to_be_bytes());
    }
    let head = stream::once(async move { Ok(Bytes::from(head)) });
    let rest = stream::unfold(bytes, |left| async move {
        let size = left.min(PIECE);
        let piece = vec![b' '; usize::try_from(size).unwrap_or(0)];
        (size > 0).then(|| (Ok::<_, std::io::Error>(Bytes::from(piece)), left - size))
    });
    of_type(rpc, Body::from_stream(head.chain(rest)))
}

/// The whole body; answers of the simulator are small and always there.
async fn whole(body: Body) -> Bytes {
    axum::body::to_bytes(body, usize::MAX)
        .await
        .unwrap_or_default()
}

/// Half of an answer, and then the end of the stream.
async fn cut(answer: Response<Body>) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    let body = whole(body).await;
    let half = body.slice(..body.len() / 2);
    parts.headers.remove(header::CONTENT_LENGTH);
    let pieces = stream::iter([Ok(half), Err(std::io::Error::other("closed on purpose"))]);
    Response::from_parts(parts, Body::from_stream(pieces))
}

async fn drip(answer: Response<Body>, over: Duration) -> Response<Body> {
    let (parts, mut body) = answer.into_parts();
    let mut pieces = Vec::new();
    // The trailers must stay, so the frames are kept one by one.
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame.into_data() {
            Ok(data) => {
                let size = data.len().div_ceil(10).max(1);
                for piece in data.chunks(size) {
                    pieces.push(Frame::data(Bytes::copy_from_slice(piece)));
                }
            }
            Err(trailers) => pieces.push(trailers),
        }
    }
    let pause = over / u32::try_from(pieces.len().max(1)).unwrap_or(u32::MAX);
    let frames = stream::iter(pieces).then(move |frame| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, std::io::Error>(frame)
    });
    Response::from_parts(parts, Body::new(Frames(Box::pin(frames))))
}

/// A body of frames that come one by one.
struct Frames(Pin<Box<dyn Stream<Item = std::io::Result<Frame<Bytes>>> + Send>>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// A token answer with other fields.
async fn rewrite(answer: Response<Body>, fault: &RpcFault) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    let body = whole(body).await;
    let mut token: Value = serde_json::from_slice(&body).unwrap_or_default();
    if let Some(fields) = token.as_object_mut() {
        match fault {
            RpcFault::WrongTypes => {
                fields.insert("access_token".to_owned(), json!(7));
                fields.insert("expires_in".to_owned(), json!(["soon"]));
            }
            RpcFault::ExpiresIn(life) => {
                fields.insert("expires_in".to_owned(), life.clone());
            }
            _ => drop(fields.remove("access_token")),
        }
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(token.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_survive_their_text_form() {
        for text in [
            "FinishTask@1:applied-unavailable",
            "Token@for5000ms:http-429",
            "Token@1:http-503=retry-after:date+60",
            "*@p0.02:reset",
            "GetTask@always:delay=250ms",
            "Heartbeat@2-3:slow-drip=1500ms",
            "Hello@1:oversized-body=99",
            "Token@1:expires-in=-5",
            "Token@1:redirect=https://other.example.com",
            "UploadAsset@1:break-goaway=12",
        ] {
            let rule: RpcRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
        }
        for (name, fault) in PLAIN {
            assert_eq!(name.parse(), Ok(fault.clone()));
            assert_eq!(fault.to_string(), name);
        }
        for (name, code) in CODES {
            assert_eq!(name.parse(), Ok(RpcFault::Code(code)));
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_with_what_would_be_one() {
        for (text, words) in [
            ("unavailable", "<when>"),
            ("Token@1", "<when>"),
            ("Poll@1:hang", "is no method"),
            ("Token@0:hang", "says not when"),
            ("Token@1:ok", "is no fault"),
            ("Token@1:http-200", "is no fault"),
            ("Token@1:http-503=soon", "is no fault"),
            ("Hello@1:delay=soon", "is no fault"),
            ("Token@1:unavailable", "cannot happen to Token"),
            ("Hello@1:no-token", "cannot happen to Hello"),
            ("Hello@1:refuse-checksum", "cannot happen to Hello"),
        ] {
            let error = text.parse::<RpcRule>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_rule_for_all_strikes_only_where_its_fault_can_happen() {
        let rule: RpcRule = "*@1:unavailable".parse().unwrap();
        assert!(rule.matches(&Rpc::Hello) && !rule.matches(&Rpc::Token));
        let rule: RpcRule = "*@1:hang".parse().unwrap();
        assert!(rule.matches(&Rpc::Token) && !rule.matches(&Rpc::Other));
    }
}
