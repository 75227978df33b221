//! The port to ConductorOne: everything that a worker needs of the server, and nothing else.
//!
//! The dispatcher and the handlers know [`ControlPlane`] only; gRPC, TLS, tokens and reconnecting live in the folder.
//! Protocol facts: `BatonService` of `proto/c1/connectorapi/baton/v1/baton.proto`.

pub mod auth;
pub mod channel;
pub mod credentials;
pub mod grpc;
mod upload;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;

pub use self::grpc::{Cause, GrpcControlPlane, Settings, Timeouts};
use crate::{
    error::{Class, Classify, Code},
    proto::{Any, RpcStatus, baton},
};

/// What a poll brought.
#[derive(Debug, Default)]
pub struct Polled {
    /// The tasks handed out, at most the number asked for; `none` tasks are left out already.
    pub tasks: Vec<baton::Task>,
    /// How long the server asks to wait before the next poll; absent when it said nothing.
    pub next_poll: Option<Duration>,
}

/// What a heartbeat brought back.
#[derive(Debug, Default)]
pub struct HeartbeatReply {
    /// How long the server asks to wait before the next heartbeat; absent when it said nothing.
    pub next_heartbeat: Option<Duration>,
    /// The task was cancelled: stop its work.
    pub cancelled: bool,
}

/// How a task ended, in the shape of `FinishTask`.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskResult {
    /// Sent as `success`.
    Success {
        /// The response message of the connector operation, if the task type has one.
        response: Option<Any>,
        /// At most 16 are sent.
        annotations: Vec<Any>,
    },
    /// Sent as `error`, with the status beside it.
    Error {
        /// Code, text and details.
        status: RpcStatus,
        /// ConductorOne must not try this task again.
        non_retryable: bool,
        /// At most 16 are sent.
        annotations: Vec<Any>,
    },
}

/// The connection to ConductorOne. Implementations add the host id to every request and keep the credentials.
///
/// Every call is cancel-safe in the sense that dropping it leaves no state behind on our side; the server may have
/// acted on it.
#[async_trait]
pub trait ControlPlane: Send + Sync + 'static {
    /// Announces this connector. `host_id` is filled in by the implementation.
    async fn hello(&self, request: baton::BatonServiceHelloRequest) -> Result<(), Error>;

    /// Asks for one task (`GetTask`).
    async fn next_task(&self) -> Result<Polled, Error>;

    /// Asks for up to `page_size` (1 to 100) tasks that are not in `known` (`GetTasks`).
    async fn next_tasks(&self, page_size: u32, known: Vec<String>) -> Result<Polled, Error>;

    /// Says that a task is still being worked on.
    async fn heartbeat(&self, task_id: &str) -> Result<HeartbeatReply, Error>;

    /// Reports the end of a task. One attempt; the caller retries.
    async fn finish(&self, task_id: &str, result: TaskResult) -> Result<(), Error>;

    /// Streams a file to the server as the asset of a task; tries up to three times, from the start each time.
    async fn upload(&self, task_id: &str, file: &Path) -> Result<(), Error>;
}

/// A call to ConductorOne that did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Client id, client secret or API host cannot be used.
    #[error("the ConductorOne credentials cannot be used")]
    Credentials(#[from] credentials::Error),
    /// TLS or the proxy cannot be set up.
    #[error("the connection to ConductorOne cannot be set up")]
    Setup(#[from] channel::SetupError),
    /// There is no access token to make the call with.
    #[error("no access token for {operation}")]
    Token {
        /// Name of the RPC.
        operation: &'static str,
        /// Why.
        #[source]
        source: auth::TokenError,
    },
    /// No connection came about.
    #[error("no connection to ConductorOne for {operation}")]
    Connect {
        /// Name of the RPC.
        operation: &'static str,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The connection broke, or the other end reset the call.
    #[error("the connection to ConductorOne broke during {operation}")]
    Transport {
        /// Name of the RPC.
        operation: &'static str,
        /// Why.
        #[source]
        source: Cause,
    },
    /// There was no answer in time.
    #[error("{operation} had no answer within {after:?}")]
    Deadline {
        /// Name of the RPC.
        operation: &'static str,
        /// The limit.
        after: Duration,
    },
    /// ConductorOne answered with an error.
    #[error("ConductorOne answered {operation} with {code}: {message}")]
    Status {
        /// Name of the RPC.
        operation: &'static str,
        /// Its code.
        code: Code,
        /// Its text, cut to a length that a log line bears.
        message: String,
        /// The pause that it asks for.
        retry_after: Option<Duration>,
    },
    /// The file to upload cannot be read.
    #[error("the file to upload, {}, cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file to upload was written to, or cut, during the upload.
    #[error("the file changed during the upload ({expected} bytes at first, {found} read)")]
    FileChanged {
        /// Its size at first.
        expected: u64,
        /// Bytes read when that was noticed.
        found: u64,
    },
    /// The network takes no more of the file.
    #[error("the upload stands still: nothing went out for {after:?} at byte {sent} of {size}")]
    Stalled {
        /// Bytes read so far.
        sent: u64,
        /// Size of the file.
        size: u64,
        /// The limit.
        after: Duration,
    },
    /// ConductorOne called the upload a success before all of the file had gone out.
    #[error("ConductorOne ended the upload before the whole file had gone out")]
    CutShort,
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Token { source, .. } => source.class(),
            Self::Connect { .. }
            | Self::Transport { .. }
            | Self::Deadline { .. }
            | Self::Stalled { .. }
            | Self::CutShort
            // We never ask the server to cancel a call of ours, so this is a connection being taken down; and a server
            // that cannot name its failure may do better next time.
            | Self::Status {
                code: Code::Cancelled | Code::Unknown,
                ..
            } => Class::Retryable,
            Self::Status {
                code: Code::ResourceExhausted,
                retry_after,
                ..
            } => Class::Throttled(*retry_after),
            Self::Status { code, .. } => code.class(),
            Self::Credentials(_)
            | Self::Setup(_)
            | Self::File { .. }
            | Self::FileChanged { .. } => Class::Permanent,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Credentials(_) => Code::InvalidArgument,
            Self::Setup(_) => Code::FailedPrecondition,
            Self::Token { source, .. } => source.code(),
            Self::Connect { .. } | Self::Transport { .. } | Self::CutShort => Code::Unavailable,
            Self::Deadline { .. } | Self::Stalled { .. } => Code::DeadlineExceeded,
            Self::Status { code, .. } => *code,
            Self::File { .. } => Code::Internal,
            Self::FileChanged { .. } => Code::DataLoss,
        }
    }
}

/// At most `most` characters of a peer's text, on one line.
fn shorten(text: &str, most: usize) -> String {
    let mut short: String = text
        .chars()
        .take(most)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(most).is_some() {
        short.push('…');
    }
    short
}
