//! The actions of this connector: there are none.
//!
//! The list of schemas is truthfully empty. A schema asked for by name, and the status of an action started earlier,
//! are `NotFound`: ids of actions live in the memory of a process and do not survive it.

use async_trait::async_trait;

use super::{Context, Error, Kind, Outcome, TaskHandler, quoted};
use crate::proto::{
    baton::{self, task::TaskType},
    connector as v2, pack,
};

/// Answers `list_action_schemas`, `get_action_schema` and `action_status`.
#[derive(Debug, Clone, Copy)]
pub struct Actions;

#[async_trait]
impl TaskHandler for Actions {
    async fn handle(&self, task: &baton::Task, context: Context<'_>) -> Result<Outcome, Error> {
        match &task.task_type {
            Some(TaskType::ActionListSchemas(_)) => Ok(Outcome::response(pack(
                &v2::ListActionSchemasResponse::default(),
            ))),
            Some(TaskType::ActionGetSchema(asked)) => {
                Err(missing(context.kind, "name", "action schema", &asked.name))
            }
            // The lookup is by id; the name is a hint only.
            Some(TaskType::ActionStatus(asked)) => {
                Err(missing(context.kind, "id", "action", &asked.id))
            }
            _ => Err(Error::Unsupported { kind: context.kind }),
        }
    }
}

fn missing(kind: Kind, field: &'static str, thing: &'static str, name: &str) -> Error {
    if name.is_empty() {
        Error::Malformed {
            kind,
            problem: format!("field {field} is empty"),
        }
    } else {
        Error::NotFound {
            what: format!("{thing} {}", quoted(name)),
        }
    }
}
