//! The port to ConductorOne: everything that a worker needs of the server, and nothing else.
//!
//! The dispatcher and the handlers know [`ControlPlane`] only; gRPC, TLS, tokens and reconnecting live in the folder.
//! Protocol facts: BatonService of `proto/c1/connectorapi/baton/v1/baton.proto`.

use std::{path::Path, time::Duration};

use async_trait::async_trait;

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
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Status {
                code: Code::ResourceExhausted,
                retry_after,
                ..
            } => Class::Throttled(*retry_after),
            Self::Status { code, .. } => code.class(),
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Status { code, .. } => *code,
        }
    }
}
