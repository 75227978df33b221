//! The control plane over gRPC: one method for each RPC of `BatonService`.
//!
//! Owns the host id, the deadlines, the bearer token on each call, and the reading of failures. It decides nothing: when
//! to poll, how long to wait and whether to try again is the caller's business, but for two things, a token that the
//! server no longer takes (renewed once) and an upload (three attempts).

use std::{error::Error as StdError, fmt, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable as _};
use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{Request, Response, Status, TimeoutExpired, transport::Channel};
use tonic_types::StatusExt as _;

use super::{
    ControlPlane, Error, HeartbeatReply, Polled, TaskResult,
    auth::{HttpTokenEndpoint, Token, TokenSource},
    channel::{ConnectError, Connector, Link, ProxyRules},
    credentials::Credentials,
    shorten,
    upload::feed,
};
use crate::{
    clock::Clock,
    error::{Class, Classify as _, Code},
    proto::{
        Any, ProtoDuration,
        baton::{
            self, BatonServiceFinishTaskRequest, BatonServiceGetTaskRequest,
            BatonServiceGetTasksRequest, BatonServiceHeartbeatRequest,
            baton_service_client::BatonServiceClient,
            baton_service_finish_task_request::{self as finish, FinalState},
            task::TaskType,
        },
    },
    telemetry::metrics::{Metrics, Rpc},
};

/// Largest message taken from the server. A page of tasks can be larger than the 4 MiB that is usual.
const MAX_RECEIVED: usize = 16 * 1024 * 1024;
/// Most annotations of one message; the server refuses more.
const MAX_ANNOTATIONS: usize = 16;
/// Longest host id, in characters.
const MAX_HOST_ID: usize = 256;
/// Host id of a machine without a name, the same that the SDK uses.
const NO_HOST_ID: &str = "baton-sdk";
/// Most tasks that one call may ask for.
const MAX_PAGE: u32 = 100;
/// Most characters of the server's own words that an error repeats.
const MAX_WORDS: usize = 500;
/// Name of the RPC that takes a file.
const UPLOAD: &str = "UploadAsset";
/// Attempts of an upload beside the first one.
const UPLOAD_RETRIES: usize = 2;
/// Longest pause between attempts of an upload, also where the server asks for more.
const MAX_UPLOAD_PAUSE: Duration = Duration::from_mins(1);

/// Everything that the connection to ConductorOne is made from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Client id and client secret, already read.
    pub credentials: Credentials,
    /// `BATON_C1_API_HOST`: where to send tokens requests and RPCs instead of the host of the client id. A variable that
    /// exists but is empty must be passed as `Some("")`; it overrides too, and is an error. The audience of the
    /// assertion stays the host of the client id.
    pub api_host: Option<String>,
    /// Name of this host for ConductorOne; empty becomes `baton-sdk`, more than 256 characters are cut.
    pub host_id: String,
    /// Version of this program, for `User-Agent`.
    pub version: String,
    /// PEM certificates to trust beside the system's.
    pub extra_ca_pem: Option<Vec<u8>>,
    /// The proxy rules.
    pub proxy: ProxyRules,
    /// Limits on time.
    pub timeouts: Timeouts,
    /// Wall-clock time, for the assertion.
    pub clock: Arc<dyn Clock>,
    /// Where calls are counted.
    pub metrics: Metrics,
}

/// Limits on time. The defaults are what the product uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Name resolution and TCP, with the proxy if there is one (10 s).
    pub dial: Duration,
    /// One TLS handshake (10 s).
    pub handshake: Duration,
    /// One request to the token endpoint, connecting included (20 s).
    pub token: Duration,
    /// `Hello` (60 s).
    pub hello: Duration,
    /// `GetTask` and `GetTasks` (60 s).
    pub poll: Duration,
    /// `Heartbeat` (30 s).
    pub heartbeat: Duration,
    /// `FinishTask` (30 s).
    pub finish: Duration,
    /// An upload of which nothing goes out (60 s). Its whole length has no limit.
    pub upload_idle: Duration,
    /// The answer to an upload that went out whole (120 s).
    pub upload_answer: Duration,
    /// Age at which a connection is replaced by a new one (30 min).
    pub connection_age: Duration,
    /// Pause between pings on a connection, used or not (30 s).
    pub keepalive_interval: Duration,
    /// How long the answer to a ping may take before the connection counts as dead (20 s).
    pub keepalive_answer: Duration,
    /// How long an upload waits for other credentials when those in use are rejected (0 s: not at all). Only an upload
    /// does: all else is asked again by its caller.
    pub other_credentials: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            token: Duration::from_secs(20),
            hello: Duration::from_mins(1),
            poll: Duration::from_mins(1),
            heartbeat: Duration::from_secs(30),
            finish: Duration::from_secs(30),
            upload_idle: Duration::from_mins(1),
            upload_answer: Duration::from_mins(2),
            connection_age: Duration::from_mins(30),
            keepalive_interval: Duration::from_secs(30),
            keepalive_answer: Duration::from_secs(20),
            other_credentials: Duration::ZERO,
        }
    }
}

/// What failed below gRPC.
pub struct Cause(Box<Status>);

impl Cause {
    /// The failure to connect, if it was one.
    pub fn connect(&self) -> Option<&ConnectError> {
        find(&self.0)
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cause({self})")
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.connect() {
            Some(error) => error.fmt(f),
            None => f.write_str(&shorten(self.0.message(), MAX_WORDS)),
        }
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self.connect() {
            Some(error) => error.source(),
            None => self.0.source(),
        }
    }
}

fn find<E: StdError + 'static>(status: &Status) -> Option<&E> {
    let mut next = status.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// One set of credentials with its token and its channel.
#[derive(Debug)]
struct Session {
    tokens: TokenSource,
    link: Link,
}

/// [`ControlPlane`] over gRPC.
#[derive(Debug)]
pub struct GrpcControlPlane {
    session: ArcSwap<Session>,
    replaced: watch::Sender<u64>,
    connector: Connector,
    host_id: String,
    settings: Settings,
}

type Client = BatonServiceClient<Channel>;

impl GrpcControlPlane {
    /// Prepares everything and connects to nothing. Reads the system's root certificates (some milliseconds of file
    /// reading).
    pub fn try_new(settings: Settings) -> Result<Self, Error> {
        let connector = Connector::try_new(
            settings.extra_ca_pem.as_deref(),
            &settings.proxy,
            &settings.timeouts,
        )?;
        let session = session(&settings, settings.credentials.clone(), &connector)?;
        Ok(Self {
            session: ArcSwap::from_pointee(session),
            replaced: watch::Sender::new(0),
            connector,
            host_id: host_id(&settings.host_id),
            settings,
        })
    }

    /// Fetches a token with these credentials and puts them in use, with a channel of their own. Calls that run keep the
    /// old ones until they end; on an error, a rejection above all, everything stays as it was.
    ///
    /// Takes about a minute at most. Cancel-safe: what is dropped changed nothing.
    pub async fn try_credentials(&self, credentials: Credentials) -> Result<(), Error> {
        let session = session(&self.settings, credentials, &self.connector)?;
        session.token("the rotation of credentials").await?;
        self.session.store(Arc::new(session));
        self.replaced.send_modify(|count| *count += 1);
        Ok(())
    }

    /// How often the credentials were replaced.
    pub fn replaced(&self) -> watch::Receiver<u64> {
        self.replaced.subscribe()
    }

    /// One unary RPC with its deadline; renews the token once if the server does not take it.
    async fn call<M, R>(
        &self,
        operation: &'static str,
        limit: Duration,
        message: M,
        rpc: impl for<'c> Fn(&'c mut Client, Request<M>) -> BoxFuture<'c, Result<Response<R>, Status>>
        + Send
        + Sync,
    ) -> Result<R, Error>
    where
        M: Clone + Send + Sync,
        R: Send,
    {
        let mut renewed = false;
        loop {
            let session = self.session.load_full();
            let token = session.token(operation).await?;
            let mut request = Request::new(message.clone());
            let call = self.settings.metrics.rpc(operation);
            authorize(&mut request, &token, &call);
            request.set_timeout(limit);
            let mut client = session.client();
            let outcome = match timeout(limit, rpc(&mut client, request)).await {
                Ok(Ok(response)) => Ok(response.into_inner()),
                Ok(Err(status)) => Err(failure(operation, limit, status)),
                Err(_elapsed) => Err(Error::Deadline {
                    operation,
                    after: limit,
                }),
            };
            call.ended(code(&outcome));
            let failure = match outcome {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if renewed || !is_unauthenticated(&failure) {
                return Err(failure);
            }
            renewed = true;
            tracing::debug!(
                rpc.method = operation,
                "ConductorOne no longer takes the access token, asking for a new one"
            );
            session.tokens.invalidate(&token);
        }
    }

    /// One attempt, repeated at once when its token is no longer taken, and with the credentials that come in the place of
    /// rejected ones. A pause would only give the next token time to die too.
    async fn upload_once_accepted(&self, task_id: &str, file: &Path) -> Result<(), Error> {
        let mut replaced = self.replaced();
        let mut renewed = false;
        loop {
            let error = match self.upload_once(task_id, file).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let again = if is_unauthenticated(&error) {
                !std::mem::replace(&mut renewed, true)
            } else if matches!(error, Error::Token { .. }) && error.class() == Class::Auth {
                let limit = self.settings.timeouts.other_credentials;
                matches!(timeout(limit, replaced.changed()).await, Ok(Ok(())))
            } else {
                false
            };
            if !again {
                return Err(error);
            }
        }
    }

    async fn upload_once(&self, task_id: &str, file: &Path) -> Result<(), Error> {
        let session = self.session.load_full();
        let token = session.token(UPLOAD).await?;
        let call = self.settings.metrics.rpc(UPLOAD);
        let outcome = self
            .upload_with(&session, &token, &call, task_id, file)
            .await;
        call.ended(code(&outcome));
        outcome
    }

    async fn upload_with(
        &self,
        session: &Session,
        token: &Token,
        call: &Rpc,
        task_id: &str,
        file: &Path,
    ) -> Result<(), Error> {
        let (feed, messages) = feed(self.settings.metrics.clone());
        let mut request = Request::new(messages);
        authorize(&mut request, token, call);
        let mut client = session.client();
        let Timeouts {
            upload_idle,
            upload_answer,
            ..
        } = self.settings.timeouts;
        let outcome = {
            let rpc = client.upload_asset(request);
            let sending = feed.send(&self.host_id, task_id, file, upload_idle);
            let (mut rpc, sending) = (std::pin::pin!(rpc), std::pin::pin!(sending));
            tokio::select! {
                biased;
                answer = &mut rpc => Some(answer),
                sent = sending => {
                    sent?;
                    timeout(upload_answer, &mut rpc).await.ok()
                }
            }
        };
        match outcome {
            Some(Ok(_empty)) if feed.is_complete() => Ok(()),
            Some(Ok(_empty)) => Err(Error::CutShort),
            Some(Err(status)) => {
                let failure = failure(UPLOAD, upload_idle, status);
                if is_unauthenticated(&failure) {
                    session.tokens.invalidate(token);
                }
                Err(failure)
            }
            None => Err(Error::Deadline {
                operation: UPLOAD,
                after: upload_answer,
            }),
        }
    }
}

impl Session {
    async fn token(&self, operation: &'static str) -> Result<Token, Error> {
        self.tokens
            .token()
            .await
            .map_err(|source| Error::Token { operation, source })
    }

    fn client(&self) -> Client {
        BatonServiceClient::new(self.link.channel()).max_decoding_message_size(MAX_RECEIVED)
    }
}

#[async_trait]
impl ControlPlane for GrpcControlPlane {
    async fn hello(&self, mut request: baton::BatonServiceHelloRequest) -> Result<(), Error> {
        request.host_id.clone_from(&self.host_id);
        request.annotations = capped(request.annotations, "Hello");
        let limit = self.settings.timeouts.hello;
        self.call("Hello", limit, request, |client, request| {
            client.hello(request).boxed()
        })
        .await
        .map(drop)
    }

    async fn next_task(&self) -> Result<Polled, Error> {
        let request = BatonServiceGetTaskRequest {
            host_id: self.host_id.clone(),
        };
        let limit = self.settings.timeouts.poll;
        let response = self
            .call("GetTask", limit, request, |client, request| {
                client.get_task(request).boxed()
            })
            .await?;
        Ok(Polled {
            tasks: response.task.into_iter().filter(is_work).collect(),
            next_poll: response.next_poll.as_ref().map(duration),
        })
    }

    async fn next_tasks(&self, page_size: u32, known: Vec<String>) -> Result<Polled, Error> {
        let page_size = page_size.clamp(1, MAX_PAGE);
        let request = BatonServiceGetTasksRequest {
            host_id: self.host_id.clone(),
            page_size,
            known_task_ids: known,
            annotations: Vec::new(),
        };
        let limit = self.settings.timeouts.poll;
        let response = self
            .call("GetTasks", limit, request, |client, request| {
                client.get_tasks(request).boxed()
            })
            .await?;
        let mut tasks: Vec<_> = response.tasks.into_iter().filter(is_work).collect();
        let most = usize::try_from(page_size).unwrap_or(usize::MAX);
        if tasks.len() > most {
            tracing::warn!(
                task.count = tasks.len(),
                page.size = page_size,
                "ConductorOne handed out more tasks than were asked for, the rest is left to be handed out again"
            );
            tasks.truncate(most);
        }
        Ok(Polled {
            tasks,
            next_poll: response.next_poll.as_ref().map(duration),
        })
    }

    async fn heartbeat(&self, task_id: &str) -> Result<HeartbeatReply, Error> {
        let request = BatonServiceHeartbeatRequest {
            host_id: self.host_id.clone(),
            task_id: task_id.to_owned(),
            annotations: Vec::new(),
            task_ids: Vec::new(),
        };
        let limit = self.settings.timeouts.heartbeat;
        let response = self
            .call("Heartbeat", limit, request, |client, request| {
                client.heartbeat(request).boxed()
            })
            .await?;
        Ok(HeartbeatReply {
            next_heartbeat: response.next_heartbeat.as_ref().map(duration),
            cancelled: response.cancelled,
        })
    }

    async fn finish(&self, task_id: &str, result: TaskResult) -> Result<(), Error> {
        let (status, state) = match result {
            TaskResult::Success {
                response,
                annotations,
            } => (
                None,
                FinalState::Success(finish::Success {
                    annotations: capped(annotations, "FinishTask"),
                    response,
                }),
            ),
            TaskResult::Error {
                status,
                non_retryable,
                annotations,
            } => (
                Some(status),
                FinalState::Error(finish::Error {
                    non_retryable,
                    annotations: capped(annotations, "FinishTask"),
                    response: None,
                }),
            ),
        };
        let request = BatonServiceFinishTaskRequest {
            host_id: self.host_id.clone(),
            task_id: task_id.to_owned(),
            status,
            final_state: Some(state),
        };
        let limit = self.settings.timeouts.finish;
        self.call("FinishTask", limit, request, |client, request| {
            client.finish_task(request).boxed()
        })
        .await
        .map(drop)
    }

    async fn upload(&self, task_id: &str, file: &Path) -> Result<(), Error> {
        let pauses = ExponentialBuilder::default()
            .with_jitter()
            .with_factor(3.0)
            .with_min_delay(Duration::from_secs(1))
            .with_max_delay(Duration::from_secs(30))
            .with_max_times(UPLOAD_RETRIES);
        let mut attempt = 1_u32;
        (|| self.upload_once_accepted(task_id, file))
            .retry(pauses)
            .sleep(sleep)
            .when(|error| {
                is_unauthenticated(error)
                    || is_damaged(error)
                    || matches!(error.class(), Class::Retryable | Class::Throttled(_))
            })
            .adjust(|error, planned| match error.class() {
                Class::Throttled(Some(pause)) => {
                    planned.map(|planned| planned.max(pause.min(MAX_UPLOAD_PAUSE)))
                }
                _ => planned,
            })
            .notify(|error, pause| {
                let text = crate::error::chain(error);
                let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                if attempt == 1 {
                    tracing::debug!(task.id = task_id, attempt, pause_ms, error = %text,
                        "an upload failed and starts again");
                } else {
                    tracing::warn!(task.id = task_id, attempt, pause_ms, error = %text,
                        "an upload failed and starts again");
                }
                attempt += 1;
            })
            .await
    }
}

fn session(
    settings: &Settings,
    credentials: Credentials,
    connector: &Connector,
) -> Result<Session, Error> {
    let host = credentials.api_host(settings.api_host.as_deref())?;
    let user_agent = user_agent(credentials.client_id.name(), &settings.version);
    let endpoint = HttpTokenEndpoint::try_new(
        credentials,
        &host,
        connector.clone(),
        &settings.version,
        settings.timeouts.token,
        Arc::clone(&settings.clock),
        settings.metrics.clone(),
    )?;
    Ok(Session {
        tokens: TokenSource::new(endpoint),
        link: Link::try_new(&host, &user_agent, connector, &settings.timeouts)?,
    })
}

/// The name of the client is free text; a header is not.
fn user_agent(name: &str, version: &str) -> String {
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() { c } else { '-' })
        .collect();
    format!("{name} baton-jumpcloud/{version}")
}

fn host_id(given: &str) -> String {
    let cut: String = given.chars().take(MAX_HOST_ID).collect();
    if cut.is_empty() {
        return NO_HOST_ID.to_owned();
    }
    if cut.len() < given.len() {
        tracing::warn!("the host id is longer than 256 characters and was cut");
    }
    cut
}

fn authorize<T>(request: &mut Request<T>, token: &Token, call: &Rpc) {
    let headers = request.metadata_mut();
    headers.insert("authorization", token.header.clone());
    if let Some(parent) = call.traceparent().and_then(|text| text.parse().ok()) {
        headers.insert("traceparent", parent);
    }
}

fn code<R>(outcome: &Result<R, Error>) -> Code {
    outcome
        .as_ref()
        .map_or_else(Error::code, |_answer| Code::Ok)
}

/// A task without an id is no task: nothing could be reported about it.
fn is_work(task: &baton::Task) -> bool {
    !matches!(task.task_type, Some(TaskType::None(_))) && !task.id.is_empty()
}

fn capped(mut annotations: Vec<Any>, operation: &'static str) -> Vec<Any> {
    if annotations.len() > MAX_ANNOTATIONS {
        tracing::warn!(
            rpc.method = operation,
            annotation.count = annotations.len(),
            "more than 16 annotations, which ConductorOne refuses; the rest is not sent"
        );
        annotations.truncate(MAX_ANNOTATIONS);
    }
    annotations
}

/// A duration of the wire; anything below zero is zero, and nothing is too large.
pub(crate) fn duration(wire: &ProtoDuration) -> Duration {
    const NANOS: i128 = 1_000_000_000;
    let total = i128::from(wire.seconds) * NANOS + i128::from(wire.nanos);
    if total <= 0 {
        return Duration::ZERO;
    }
    let seconds = u64::try_from(total / NANOS).unwrap_or(u64::MAX);
    let nanos = u32::try_from(total % NANOS).unwrap_or(0);
    Duration::new(seconds, nanos)
}

/// Whether the server saw another checksum than we sent: the file is whole on our side, so sending it again may help.
fn is_damaged(error: &Error) -> bool {
    matches!(
        error,
        Error::Status {
            code: Code::DataLoss,
            ..
        }
    )
}

fn is_unauthenticated(error: &Error) -> bool {
    matches!(
        error,
        Error::Status {
            code: Code::Unauthenticated,
            ..
        }
    )
}

/// What a status means. One that carries a cause was made on this side of the wire.
pub(crate) fn failure(operation: &'static str, limit: Duration, status: Status) -> Error {
    if find::<TimeoutExpired>(&status).is_some() {
        return Error::Deadline {
            operation,
            after: limit,
        };
    }
    if find::<ConnectError>(&status).is_some() {
        return Error::Connect {
            operation,
            source: Cause(Box::new(status)),
        };
    }
    if status.source().is_some() {
        return Error::Transport {
            operation,
            source: Cause(Box::new(status)),
        };
    }
    Error::Status {
        operation,
        code: Code::from_number(status.code().into()),
        message: shorten(status.message(), MAX_WORDS),
        retry_after: status
            .get_details_retry_info()
            .and_then(|info| info.retry_delay),
    }
}

#[cfg(test)]
mod tests;
