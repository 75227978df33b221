//! From the end of the work to the result that ConductorOne is told, in one table.
//!
//! | End of the work | Code | Not to be tried again |
//! |---|---|---|
//! | success | – | – |
//! | the task was cancelled, or its heartbeats were lost | `Cancelled` | no |
//! | the process is going down | `Unavailable` | no |
//! | the handler panicked | `Internal` | yes |
//! | the kind is not supported, or provisioning is off or a dry run | `Unimplemented`, `FailedPrecondition` | yes |
//! | a hello task, a sync, an action or a ticket failed | that of the error | no, except the verdict that a sync's data breaks the rules of ingestion |
//! | events of a feed that does not exist | `NotFound` | yes |
//! | a provisioning task failed | that of the error | yes |
//!
//! Whether a task may be tried again follows the kind of the task, not the code: the SDK does it so, and the server
//! is built for it.

use crate::{
    control_plane::TaskResult,
    error::{Classify, Code, chain, told},
    handlers::{Error, Kind, Outcome},
    proto::RpcStatus,
};

/// The longest message that is reported, in bytes.
pub const MESSAGE_LIMIT: usize = 4096;
/// The most annotations that the server accepts.
pub const ANNOTATIONS_LIMIT: usize = 16;

/// Why a task was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The reply to a heartbeat said so.
    Cancelled,
    /// The server was not heard of for too long.
    HeartbeatLost,
    /// The process is going down.
    ShutDown,
}

impl Cause {
    /// What is reported; the first two texts are those of the SDK.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Cancelled => "task was cancelled",
            Self::HeartbeatLost => "task failed heartbeat",
            Self::ShutDown => "connector is shutting down",
        }
    }

    const fn code(self) -> Code {
        match self {
            Self::Cancelled | Self::HeartbeatLost => Code::Cancelled,
            Self::ShutDown => Code::Unavailable,
        }
    }
}

/// How the work on a task ended.
#[derive(Debug)]
pub enum End {
    /// The handler returned.
    Returned(Result<Outcome, Error>),
    /// The handler panicked with this text.
    Panicked(String),
    /// The handler did not stop in time, or was never begun.
    Stopped,
}

/// The result to report; `None` where another call has answered the task.
///
/// `cause` is why the task was asked to stop, if it was. Work that succeeded all the same is reported as done.
pub fn result(kind: Kind, end: End, cause: Option<Cause>) -> Option<TaskResult> {
    let error = match (end, cause) {
        (End::Returned(Ok(Outcome::Answered)), _) => return None,
        (
            End::Returned(Ok(Outcome::Finished {
                response,
                mut annotations,
            })),
            _,
        ) => {
            annotations.truncate(ANNOTATIONS_LIMIT);
            return Some(TaskResult::Success {
                response,
                annotations,
            });
        }
        (End::Panicked(text), _) => failure(
            Code::Internal,
            &format!("the connector failed unexpectedly: {text}"),
            true,
        ),
        (End::Returned(Err(_)) | End::Stopped, Some(cause)) => {
            failure(cause.code(), cause.message(), false)
        }
        (End::Stopped, None) => failure(Code::Cancelled, "the task was stopped", false),
        (End::Returned(Err(error)), None) => failure(
            // A failure must not be reported as success, whatever a peer said.
            Some(error.code())
                .filter(|code| *code != Code::Ok)
                .unwrap_or(Code::Unknown),
            &chain(&error),
            is_final(kind, &error),
        ),
    };
    Some(error)
}

/// What the log and an Event say of work that failed: the reported message without what a peer said, which may name a
/// person. `None` where nobody failed, or the reported message is for everybody.
pub fn problem(end: &End) -> Option<String> {
    match end {
        End::Returned(Err(error)) => Some(capped(&told(error))),
        End::Returned(Ok(_)) | End::Panicked(_) | End::Stopped => None,
    }
}

/// Whether a task of this kind that failed so must not be tried again.
fn is_final(kind: Kind, error: &Error) -> bool {
    match error {
        error if error.is_refusal() => true,
        Error::Stopped => false,
        Error::Shrunk { .. } => true,
        Error::Sync(error) => error.is_data_verdict(),
        error => match kind {
            Kind::ListEventFeeds | Kind::ListEvents => {
                matches!(error, Error::Malformed { .. } | Error::NotFound { .. })
            }
            Kind::Hello
            | Kind::SyncFull
            | Kind::ActionListSchemas
            | Kind::ActionGetSchema
            | Kind::ActionInvoke
            | Kind::ActionStatus
            | Kind::ListTicketSchemas => false,
            Kind::CreateTicket
            | Kind::GetTicket
            | Kind::BulkCreateTickets
            | Kind::BulkGetTickets => matches!(error, Error::Malformed { .. }),
            Kind::Grant
            | Kind::Revoke
            | Kind::CreateAccount
            | Kind::CreateResource
            | Kind::DeleteResource
            | Kind::RotateCredentials
            | Kind::IssueCredential
            | Kind::None
            | Kind::EventFeed
            | Kind::CreateSyncDiff
            | Kind::CompactSyncs
            | Kind::Unknown => true,
        },
    }
}

fn failure(code: Code, message: &str, non_retryable: bool) -> TaskResult {
    TaskResult::Error {
        status: RpcStatus {
            code: code.number(),
            message: capped(message),
            details: Vec::new(),
        },
        non_retryable,
        annotations: Vec::new(),
    }
}

/// The message, cut at a character boundary so that it fits with the mark of the cut.
fn capped(message: &str) -> String {
    const MARK: &str = "…";
    if message.len() <= MESSAGE_LIMIT {
        return message.to_owned();
    }
    let end = message.floor_char_boundary(MESSAGE_LIMIT - MARK.len());
    let mut text = message.get(..end).unwrap_or_default().to_owned();
    text.push_str(MARK);
    text
}

#[cfg(test)]
mod tests;
