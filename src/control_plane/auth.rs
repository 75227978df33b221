//! Access tokens: asking for them, keeping one, renewing it early, and saying why there is none.
//!
//! Owns the request to `/auth/v1/token` and the cache. It never sees a message of the service. Invariants: at most one
//! request is under way at a time, callers that wait share its outcome; a token is not used in its last seconds; a
//! failure says whether the credentials were rejected or whether waiting helps; no token, assertion or secret is in an
//! error or a log line.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable as _};
use http::{
    HeaderMap, Method, Request, StatusCode, Uri,
    header::{ACCEPT, CONTENT_TYPE, DATE, RETRY_AFTER, USER_AGENT},
};
use hyper::body::{Body, Incoming};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout};
use tonic::metadata::{Ascii, MetadataValue};
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::{
    channel::{Connector, SetupError},
    credentials::{Credentials, Host},
};
use crate::{
    clock::Clock,
    crypto::jws,
    error::{Class, Classify, Code},
    notice::Peer,
    telemetry::metrics::{Metrics, TokenOutcome},
};

const PATH: &str = "/auth/v1/token";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Most that is read of a response.
const MAX_BODY: usize = 64 * 1024;
/// Larger than usual answers.
const USUAL_BODY: usize = 8 * 1024;
/// Most characters of the server's own words that an error repeats.
const MAX_WORDS: usize = 200;
/// A token is not used when it has less than this left; the SDK has the same limit.
const HARD_MARGIN: Duration = Duration::from_secs(10);
/// A token is renewed when it has less than this or a fifth of its life left, but not before half of its life.
const SOFT_MARGIN: Duration = Duration::from_mins(1);
/// Pause after an early renewal that failed, while the old token still serves.
const EARLY_PAUSE: Duration = Duration::from_secs(10);
/// Life of a token whose response does not say.
const UNKNOWN_LIFE: Duration = Duration::from_mins(1);
/// Longest life that is believed.
const MAX_LIFE: Duration = Duration::from_hours(24);
/// A longer `Retry-After` is handed to the caller instead of being waited for.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Attempts beside the first one.
const RETRIES: usize = 3;
/// Clocks that differ by more make assertions fail.
const MAX_SKEW_SECONDS: i64 = 110;

/// Why there is no access token.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The server knows the request but not this client, or not this key. Trying again does not help.
    #[error(
        "ConductorOne rejected the credentials ({answer}){skew}; issue a new client secret for this connector, or correct client id and client secret"
    )]
    Rejected {
        /// Status and words of the server.
        answer: Answer,
        /// A remark on the clock, when it is wrong.
        skew: Skew,
    },
    /// The server does not want the request for another reason. Trying again does not help.
    #[error("the token endpoint refused the request ({answer}); check the host in the client id")]
    Refused {
        /// Status and words of the server.
        answer: Answer,
    },
    /// Too many requests.
    #[error("the token endpoint asks for a pause ({answer})")]
    Throttled {
        /// Status and words of the server.
        answer: Answer,
        /// The pause, if the server named one.
        retry_after: Option<Duration>,
    },
    /// The server is in trouble.
    #[error("the token endpoint is unavailable ({answer})")]
    Unavailable {
        /// Status and words of the server.
        answer: Answer,
    },
    /// There was no complete answer.
    #[error("the token endpoint cannot be reached")]
    Unreachable(#[source] SharedError),
    /// The answer took too long.
    #[error("the token endpoint did not answer within {after:?}")]
    Timeout {
        /// The limit.
        after: Duration,
    },
    /// The answer is a success that holds no token.
    #[error("the token endpoint answered without a usable token: {problem}")]
    BadAnswer {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The request could not be signed.
    #[error("the token request could not be signed")]
    Assertion(#[source] jws::Error),
}

impl Classify for TokenError {
    fn class(&self) -> Class {
        match self {
            Self::Rejected { .. } => Class::Auth,
            Self::Refused { .. } | Self::Assertion(_) => Class::Permanent,
            Self::Throttled { retry_after, .. } => Class::Throttled(*retry_after),
            Self::Unavailable { .. }
            | Self::Unreachable(_)
            | Self::Timeout { .. }
            | Self::BadAnswer { .. } => Class::Retryable,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Rejected { .. } => Code::Unauthenticated,
            Self::Refused { answer } => Code::from_http(answer.status),
            Self::Assertion(_) => Code::Internal,
            Self::Throttled { .. }
            | Self::Unavailable { .. }
            | Self::Unreachable(_)
            | Self::Timeout { .. }
            | Self::BadAnswer { .. } => Code::Unavailable,
        }
    }
}

/// What the server said, cut to a length that a log line bears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// `error` of the OAuth error body.
    pub error: Option<String>,
    /// `error_description` of the OAuth error body.
    pub description: Option<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP {}", self.status)?;
        if let Some(error) = &self.error {
            write!(f, ", {error}")?;
        }
        if let Some(description) = &self.description {
            write!(f, ": {description}")?;
        }
        Ok(())
    }
}

/// How far this machine's clock is from the server's, when that is too far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skew(Option<i64>);

impl Skew {
    /// Whether the clocks differ by more than the server bears.
    pub const fn is_too_large(self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some(seconds) => {
                let direction = if seconds < 0 { "behind" } else { "ahead of" };
                write!(
                    f,
                    "; the clock of this machine is {} s {direction} the server's, which alone is a reason",
                    seconds.unsigned_abs()
                )
            }
        }
    }
}

/// An error that several waiters share.
#[derive(Debug, Clone)]
pub struct SharedError(Arc<dyn std::error::Error + Send + Sync>);

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SharedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl SharedError {
    fn new(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(error))
    }
}

/// A token as the server gave it.
pub(crate) struct Grant {
    pub(crate) header: MetadataValue<Ascii>,
    pub(crate) life: Option<Duration>,
}

/// Asks for a token, once.
#[async_trait]
pub(crate) trait TokenEndpoint: Send + Sync + 'static {
    async fn ask(&self) -> Result<Grant, TokenError>;
}

/// The value of `authorization`, and which token it is.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) header: MetadataValue<Ascii>,
    generation: u64,
}

struct Cached {
    token: Token,
    soft: Instant,
    hard: Instant,
}

#[derive(Default)]
struct State {
    cached: Option<Cached>,
    generation: u64,
    /// Requests that have ended, so that one who waited knows that one ended meanwhile.
    ended: u64,
    failure: Option<TokenError>,
}

enum Look {
    Fresh(Token),
    Ageing(Token),
    Nothing,
}

/// Hands out one cached token, and renews it.
pub(crate) struct TokenSource {
    endpoint: Box<dyn TokenEndpoint>,
    state: Mutex<State>,
    gate: tokio::sync::Mutex<()>,
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSource").finish_non_exhaustive()
    }
}

impl TokenSource {
    pub(crate) fn new(endpoint: impl TokenEndpoint) -> Self {
        Self {
            endpoint: Box::new(endpoint),
            state: Mutex::default(),
            gate: tokio::sync::Mutex::new(()),
        }
    }

    /// The current token, renewed if need be. Cancel-safe: a request that is dropped is made again by the next caller.
    ///
    /// While the token is merely ageing, one caller renews it with a single attempt and the others go on with the old
    /// one. When there is none, all wait for one request, which is retried within about a minute.
    pub(crate) async fn token(&self) -> Result<Token, TokenError> {
        let ended = self.state().ended;
        match self.look() {
            Look::Fresh(token) => Ok(token),
            Look::Ageing(old) => {
                let Ok(_gate) = self.gate.try_lock() else {
                    return Ok(old);
                };
                if let Look::Fresh(token) = self.look() {
                    return Ok(token);
                }
                match self.endpoint.ask().await {
                    Ok(grant) => Ok(self.keep(grant)),
                    Err(error) => {
                        tracing::warn!(
                            error = %crate::error::chain(&error),
                            "the access token could not be renewed early, the old one is still good"
                        );
                        self.postpone();
                        Ok(old)
                    }
                }
            }
            Look::Nothing => {
                let _gate = self.gate.lock().await;
                if let Look::Fresh(token) | Look::Ageing(token) = self.look() {
                    return Ok(token);
                }
                if let Some(failure) = self.failure_since(ended) {
                    return Err(failure);
                }
                match self.ask_patiently().await {
                    Ok(grant) => Ok(self.keep(grant)),
                    Err(error) => {
                        let mut state = self.state();
                        state.ended += 1;
                        state.failure = Some(error.clone());
                        Err(error)
                    }
                }
            }
        }
    }

    /// Forgets this token, if it is still the cached one.
    pub(crate) fn invalidate(&self, token: &Token) {
        let mut state = self.state();
        let current = state
            .cached
            .as_ref()
            .is_some_and(|cached| cached.token.generation == token.generation);
        if current {
            state.cached = None;
        }
    }

    async fn ask_patiently(&self) -> Result<Grant, TokenError> {
        let pauses = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(Duration::from_millis(500))
            .with_max_delay(MAX_WAIT)
            .with_max_times(RETRIES);
        let mut attempt = 0_u32;
        (|| self.endpoint.ask())
            .retry(pauses)
            .when(|error| match error.class() {
                Class::Retryable => true,
                Class::Throttled(pause) => pause.is_none_or(|pause| pause <= MAX_WAIT),
                _ => false,
            })
            .adjust(|error, planned| match error.class() {
                Class::Throttled(Some(pause)) => planned.map(|planned| planned.max(pause)),
                _ => planned,
            })
            .notify(|error, pause| {
                attempt += 1;
                tracing::debug!(
                    error = %crate::error::chain(error),
                    attempt,
                    pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                    "no access token yet, asking again"
                );
            })
            .await
    }

    fn look(&self) -> Look {
        let now = Instant::now();
        match &self.state().cached {
            Some(cached) if now < cached.soft => Look::Fresh(cached.token.clone()),
            Some(cached) if now < cached.hard => Look::Ageing(cached.token.clone()),
            _ => Look::Nothing,
        }
    }

    fn keep(&self, grant: Grant) -> Token {
        let life = grant.life.unwrap_or(UNKNOWN_LIFE).min(MAX_LIFE);
        let hard = life.saturating_sub(HARD_MARGIN.min(life / 2));
        let soft = life
            .saturating_sub(SOFT_MARGIN.max(life / 5).min(life / 2))
            .min(hard);
        let now = Instant::now();
        let mut state = self.state();
        state.ended += 1;
        state.failure = None;
        state.generation += 1;
        let token = Token {
            header: grant.header,
            generation: state.generation,
        };
        state.cached = Some(Cached {
            token: token.clone(),
            soft: now + soft,
            hard: now + hard,
        });
        token
    }

    fn postpone(&self) {
        if let Some(cached) = &mut self.state().cached {
            cached.soft = (Instant::now() + EARLY_PAUSE).min(cached.hard);
        }
    }

    fn failure_since(&self, ended: u64) -> Option<TokenError> {
        let state = self.state();
        if state.ended > ended {
            state.failure.clone()
        } else {
            None
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The token endpoint of ConductorOne.
pub(crate) struct HttpTokenEndpoint {
    client: Client<Connector, String>,
    url: Uri,
    credentials: Credentials,
    user_agent: String,
    limit: Duration,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

impl HttpTokenEndpoint {
    /// `host` is where to ask; the audience is always the host of the client id.
    pub(crate) fn try_new(
        credentials: Credentials,
        host: &Host,
        connector: Connector,
        version: &str,
        limit: Duration,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Self, SetupError> {
        let url = format!("https://{host}{PATH}")
            .parse()
            .map_err(|_not_shown: http::uri::InvalidUri| SetupError::Host(host.to_string()))?;
        Ok(Self {
            // Tokens are asked for once an hour: a connection kept in between would only be found dead.
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(connector),
            url,
            credentials,
            user_agent: format!("baton-c1-credential-provider baton-jumpcloud/{version}"),
            limit,
            clock,
            metrics,
        })
    }

    async fn exchange(&self) -> Result<Grant, TokenError> {
        let id = &self.credentials.client_id;
        let assertion = jws::client_assertion(
            self.credentials.client_secret.key(),
            id.as_str(),
            id.host().audience(),
            self.clock.now(),
        )
        .map(Zeroizing::new)
        .map_err(TokenError::Assertion)?;
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("client_id", id.as_str())
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_assertion_type", ASSERTION_TYPE)
            .append_pair("client_assertion", &assertion)
            .finish();
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.url.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, &self.user_agent)
            .body(form)
            .map_err(|error| TokenError::Unreachable(SharedError::new(error)))?;
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| TokenError::Unreachable(SharedError::new(error)))?;
        let (head, body) = response.into_parts();
        let body = read(body).await?;
        if head.status == StatusCode::OK {
            return grant(&body);
        }
        Err(refusal(
            head.status,
            &head.headers,
            &body,
            &assertion,
            self.clock.now(),
        ))
    }
}

#[async_trait]
impl TokenEndpoint for HttpTokenEndpoint {
    async fn ask(&self) -> Result<Grant, TokenError> {
        let outcome = match timeout(self.limit, self.exchange()).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(TokenError::Timeout { after: self.limit }),
        };
        self.metrics.token_requested(
            Peer::ConductorOne,
            match &outcome {
                Ok(_) => TokenOutcome::Granted,
                Err(TokenError::Rejected { .. }) => TokenOutcome::Rejected,
                Err(_) => TokenOutcome::Failed,
            },
        );
        outcome
    }
}

/// Reads an answer, which may hold a token, into memory that is wiped; most fit without being moved.
async fn read(mut body: Incoming) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(USUAL_BODY));
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| TokenError::Unreachable(SharedError::new(error)))?;
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > MAX_BODY {
                return Err(TokenError::BadAnswer {
                    problem: "it is longer than 64 KiB",
                });
            }
            bytes.extend_from_slice(data);
        }
    }
    Ok(bytes)
}

#[derive(Deserialize)]
struct Success {
    access_token: Option<Value>,
    token_type: Option<Value>,
    expires_in: Option<Value>,
}

pub(crate) fn grant(body: &[u8]) -> Result<Grant, TokenError> {
    let bad = |problem| TokenError::BadAnswer { problem };
    let Ok(success) = serde_json::from_slice::<Success>(body) else {
        return Err(bad("it is not a JSON object"));
    };
    let token = match success.access_token {
        Some(Value::String(token)) if !token.is_empty() => Zeroizing::new(token),
        Some(Value::String(_)) => return Err(bad("access_token is empty")),
        Some(_) => return Err(bad("access_token is not a string")),
        None => return Err(bad("access_token is missing")),
    };
    let kind = match success.token_type {
        None | Some(Value::Null) => "Bearer".to_owned(),
        Some(Value::String(kind)) => match kind.to_ascii_lowercase().as_str() {
            "" | "bearer" => "Bearer".to_owned(),
            "mac" => "MAC".to_owned(),
            "basic" => "Basic".to_owned(),
            _ => kind,
        },
        Some(_) => return Err(bad("token_type is not a string")),
    };
    let text = Zeroizing::new(format!("{kind} {}", token.as_str()));
    // The header has a copy of its own, which its library does not wipe; it lives as long as the token is used.
    let Ok(mut header) = MetadataValue::try_from(text.as_str()) else {
        return Err(bad("it holds characters that a header cannot carry"));
    };
    header.set_sensitive(true);
    Ok(Grant {
        header,
        life: success.expires_in.as_ref().and_then(seconds),
    })
}

/// Whole seconds from a number or a number in a string; below zero counts as zero.
fn seconds(value: &Value) -> Option<Duration> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    if !number.is_finite() {
        return None;
    }
    Duration::try_from_secs_f64(number.clamp(0.0, MAX_LIFE.as_secs_f64())).ok()
}

pub(crate) fn refusal(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    assertion: &str,
    now: Timestamp,
) -> TokenError {
    let words = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let word = |member: &str| {
        words
            .get(member)
            .and_then(Value::as_str)
            .map(|text| super::shorten(&text.replace(assertion, "[assertion]"), MAX_WORDS))
            .filter(|text| !text.is_empty())
    };
    let answer = Answer {
        status: status.as_u16(),
        error: word("error"),
        description: word("error_description"),
    };
    let date = |name| {
        let text = headers.get(name)?.to_str().ok()?;
        jiff::fmt::rfc2822::parse(text)
            .ok()
            .map(|date| date.timestamp())
    };
    match (status.as_u16(), answer.error.as_deref()) {
        (429, _) => {
            let given = headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok());
            let retry_after = match given.and_then(|text| text.trim().parse().ok()) {
                Some(seconds) => Some(Duration::from_secs(seconds)),
                None => date(RETRY_AFTER)
                    .map(|until| Duration::try_from(until.duration_since(now)).unwrap_or_default()),
            };
            TokenError::Throttled {
                answer,
                retry_after,
            }
        }
        (408 | 425 | 500..=599, _) | (_, Some("temporarily_unavailable" | "server_error")) => {
            TokenError::Unavailable { answer }
        }
        (401 | 403, _)
        | (_, Some("invalid_client" | "invalid_grant" | "unauthorized_client" | "access_denied")) =>
        {
            let skew = date(DATE)
                .map(|theirs| now.as_second().saturating_sub(theirs.as_second()))
                .filter(|seconds| seconds.abs() > MAX_SKEW_SECONDS);
            TokenError::Rejected {
                answer,
                skew: Skew(skew),
            }
        }
        _ => TokenError::Refused { answer },
    }
}

#[cfg(test)]
mod tests;
