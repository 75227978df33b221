//! The answer to every kind of task that has no handler of its own.
//!
//! Silence would leave such a task to the server's time-out, and a retryable error would bring it back for ever; both
//! hide from people what is missing. So the task ends with an error that names the kind.

use async_trait::async_trait;

use super::{Context, Error, Kind, Outcome, TaskHandler};
use crate::proto::baton;

/// Refuses a task.
#[derive(Debug, Clone, Copy)]
pub struct Unsupported;

#[async_trait]
impl TaskHandler for Unsupported {
    async fn handle(&self, _task: &baton::Task, context: Context<'_>) -> Result<Outcome, Error> {
        Err(match context.kind {
            Kind::Unknown => Error::UnknownType,
            kind if kind.is_ticketing() => Error::NotOffered {
                what: "tickets: JumpCloud has none",
            },
            kind => Error::Unsupported { kind },
        })
    }
}
