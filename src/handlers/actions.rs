//! The tasks about actions: what there is, run one, and ask how a run is.
//!
//! Looking up by name finds the actions that belong to no resource type, and the status is found by the id of the run
//! alone, both as in the SDK.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::{Context, Error, Kind, Outcome, TaskHandler};
use crate::{
    error::{Code, Words},
    proto::{
        baton::{self, task::TaskType},
        connector as v2, pack,
    },
    provisioning::{
        Provisioning,
        actions::{INLINE_WAIT, Status},
    },
};

/// Answers `list_action_schemas`, `get_action_schema`, `invoke_action` and `action_status`.
pub struct Actions(Arc<Provisioning>);

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Actions")
    }
}

impl Actions {
    /// Runs actions through `provisioning`.
    pub const fn new(provisioning: Arc<Provisioning>) -> Self {
        Self(provisioning)
    }
}

#[async_trait]
impl TaskHandler for Actions {
    async fn handle(&self, task: &baton::Task, context: Context<'_>) -> Result<Outcome, Error> {
        let response = match &task.task_type {
            Some(TaskType::ActionListSchemas(asked)) => pack(&v2::ListActionSchemasResponse {
                schemas: self.0.action_schemas(&asked.resource_type_id),
                annotations: Vec::new(),
            }),
            Some(TaskType::ActionGetSchema(asked)) => {
                needed(context.kind, "name", &asked.name)?;
                pack(&v2::GetActionSchemaResponse {
                    schema: Some(self.0.action_schema(&asked.name)?),
                    annotations: Vec::new(),
                })
            }
            Some(TaskType::ActionInvoke(asked)) => {
                needed(context.kind, "name", &asked.name)?;
                let arguments = asked.args.clone().unwrap_or_default();
                let run = self
                    .0
                    .invoke(
                        context.task_id,
                        &asked.name,
                        &asked.resource_type_id,
                        &arguments,
                        None,
                        INLINE_WAIT,
                    )
                    .await?;
                // The task of a run that failed fails, as in the SDK, which has one code for all of them; ours says which.
                if let Some(error) = run.error() {
                    return Err(Error::ActionFailed {
                        code: run.code.unwrap_or(Code::Unknown),
                        words: Words::new(error),
                    });
                }
                if let Some(plan) = run.planned {
                    return Err(Error::DryRun { plan });
                }
                pack(&v2::InvokeActionResponse {
                    status: run.state.into(),
                    id: run.id,
                    name: run.name,
                    response: Some(run.response),
                    annotations: Vec::new(),
                })
            }
            Some(TaskType::ActionStatus(asked)) => {
                needed(context.kind, "id", &asked.id)?;
                let Status {
                    id,
                    name,
                    state,
                    response,
                    ..
                } = self.0.action_status(&asked.id).await?;
                pack(&v2::GetActionStatusResponse {
                    name,
                    id,
                    status: state.into(),
                    annotations: Vec::new(),
                    response: Some(response),
                })
            }
            _ => return Err(Error::Unsupported { kind: context.kind }),
        };
        Ok(Outcome::response(response))
    }
}

fn needed(kind: Kind, field: &str, value: &str) -> Result<(), Error> {
    if value.is_empty() {
        return Err(Error::Malformed {
            kind,
            problem: format!("field {field} is empty"),
        });
    }
    Ok(())
}
