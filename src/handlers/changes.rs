//! The tasks that change the directory: from the task's fields to one [`Request`], and from the answer to the outcome.
//!
//! A field that is missing is named before anything else happens. A dry run is never reported as success: ConductorOne
//! would believe that the access is there.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::{Context, Error, Kind, Outcome, TaskHandler};
use crate::{
    config::ProvisioningMode,
    connector::provision::Effect,
    model,
    proto::{
        baton::{self, task::TaskType},
        connector as v2,
    },
    provisioning::{self, Provisioning, Request},
};

/// Answers `grant`, `revoke`, `create_account`, `create_resource`, `delete_resource`, `rotate_credential`, and
/// `issue_credential`, which is refused.
pub struct Changes(Arc<Provisioning>);

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Changes")
    }
}

impl Changes {
    /// Makes changes through `provisioning`.
    pub const fn new(provisioning: Arc<Provisioning>) -> Self {
        Self(provisioning)
    }
}

#[async_trait]
impl TaskHandler for Changes {
    async fn handle(&self, task: &baton::Task, context: Context<'_>) -> Result<Outcome, Error> {
        if self.0.mode() == ProvisioningMode::Off {
            return Err(provisioning::Error::Off.into());
        }
        let request = request(task, context.kind)?;
        // No annotation of a task says who asked for it.
        let answer = self
            .0
            .run(context.task_id, request, None, context.cancel)
            .await?;
        if answer.effect == Effect::Planned {
            return Err(Error::DryRun {
                plan: answer.planned_text(),
            });
        }
        Ok(Outcome::Finished {
            response: Some(answer.response),
            annotations: answer.annotations,
        })
    }
}

fn request(task: &baton::Task, kind: Kind) -> Result<Request, Error> {
    let missing = |field: &str| Error::Malformed {
        kind,
        problem: format!("field {field} is missing"),
    };
    let complete = |id: &Option<v2::ResourceId>, field: &str| match id {
        Some(id) if model::is_complete(id) => Ok(id.clone()),
        Some(_) => Err(Error::Malformed {
            kind,
            problem: format!("field {field} lacks its resource type or its id"),
        }),
        None => Err(missing(field)),
    };
    Ok(match &task.task_type {
        Some(TaskType::Grant(task)) => Request::Grant {
            entitlement: task
                .entitlement
                .clone()
                .ok_or_else(|| missing("entitlement"))?,
            principal: task.principal.clone().ok_or_else(|| missing("principal"))?,
        },
        Some(TaskType::Revoke(task)) => Request::Revoke {
            grant: task.grant.clone().ok_or_else(|| missing("grant"))?,
        },
        Some(TaskType::CreateAccount(task)) => Request::CreateAccount {
            info: task
                .account_info
                .clone()
                .ok_or_else(|| missing("account_info"))?,
            options: task.credential_options.clone(),
            encryption: task.encryption_configs.clone(),
            resource_type_id: task.resource_type_id.clone(),
        },
        Some(TaskType::CreateResource(task)) => Request::CreateResource {
            resource: task.resource.clone().ok_or_else(|| missing("resource"))?,
        },
        Some(TaskType::DeleteResource(task)) => Request::DeleteResource {
            id: complete(&task.resource_id, "resource_id")?,
            parent: task.parent_resource_id.clone(),
        },
        Some(TaskType::RotateCredentials(task)) => Request::RotateCredential {
            id: complete(&task.resource_id, "resource_id")?,
            options: task.credential_options.clone(),
            encryption: task.encryption_configs.clone(),
        },
        Some(TaskType::IssueCredential(_)) => {
            return Err(Error::NotOffered {
                what: "issuing credentials: JumpCloud has none that could be made for an account",
            });
        }
        _ => return Err(Error::Unsupported { kind }),
    })
}
