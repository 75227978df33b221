//! Tasks as ConductorOne sends them, one function a kind. None has an id: it gets one when it is queued.
//!
//! ConductorOne names entitlements, principals and grants by the whole objects of the last file that it got; a
//! [`Synced`](super::Synced) gives them.

use serde_json::Value as Json;

pub use crate::model::resource_id;
use crate::proto::{
    self, Struct, Timestamp,
    baton::{self, task::TaskType},
    connector::{self as v2, credential_options::Options},
};

fn of(task_type: TaskType) -> baton::Task {
    baton::Task {
        task_type: Some(task_type),
        ..Default::default()
    }
}

/// A full-sync task with these options.
pub fn full_sync(options: baton::task::SyncFullTask) -> baton::Task {
    of(TaskType::SyncFull(options))
}

/// A task that asks for a Hello.
pub fn hello() -> baton::Task {
    of(TaskType::Hello(baton::task::HelloTask::default()))
}

/// Gives an entitlement to a principal.
pub fn grant(entitlement: v2::Entitlement, principal: v2::Resource) -> baton::Task {
    of(TaskType::Grant(baton::task::GrantTask {
        entitlement: Some(entitlement),
        principal: Some(principal),
        ..Default::default()
    }))
}

/// Takes a grant away.
pub fn revoke(grant: v2::Grant) -> baton::Task {
    of(TaskType::Revoke(baton::task::RevokeTask {
        grant: Some(grant),
        ..Default::default()
    }))
}

/// Makes an account; its secrets are to come back encrypted to each of `encrypt_to`.
pub fn create_account(
    account: v2::AccountInfo,
    credential: Option<v2::CredentialOptions>,
    encrypt_to: Vec<v2::EncryptionConfig>,
) -> baton::Task {
    of(TaskType::CreateAccount(baton::task::CreateAccountTask {
        account_info: Some(account),
        credential_options: credential,
        encryption_configs: encrypt_to,
        resource_type_id: String::new(),
    }))
}

/// Makes a resource other than an account.
pub fn create_resource(resource: v2::Resource) -> baton::Task {
    of(TaskType::CreateResource(baton::task::CreateResourceTask {
        resource: Some(resource),
    }))
}

/// Deletes a resource.
pub fn delete_resource(resource: v2::ResourceId) -> baton::Task {
    of(TaskType::DeleteResource(baton::task::DeleteResourceTask {
        resource_id: Some(resource),
        parent_resource_id: None,
    }))
}

/// Gives an account a new credential.
pub fn rotate_credentials(
    account: v2::ResourceId,
    credential: Option<v2::CredentialOptions>,
    encrypt_to: Vec<v2::EncryptionConfig>,
) -> baton::Task {
    of(TaskType::RotateCredentials(
        baton::task::RotateCredentialsTask {
            resource_id: Some(account),
            credential_options: credential,
            encryption_configs: encrypt_to,
        },
    ))
}

/// Asks for a further credential of an identity.
pub fn issue_credential(
    identity: v2::ResourceId,
    options: v2::CredentialIssueOptions,
    encrypt_to: Vec<v2::EncryptionConfig>,
    expires_at: Option<Timestamp>,
) -> baton::Task {
    of(TaskType::IssueCredential(
        baton::task::IssueCredentialTask {
            identity_id: Some(identity),
            credential_options: Some(options),
            encryption_configs: encrypt_to,
            expires_at,
        },
    ))
}

/// Asks for the schemas of all actions, or of those of one resource type.
pub fn action_list_schemas(resource_type_id: &str) -> baton::Task {
    of(TaskType::ActionListSchemas(
        baton::task::ActionListSchemasTask {
            annotations: Vec::new(),
            resource_type_id: resource_type_id.to_owned(),
        },
    ))
}

/// Asks for the schema of one action.
pub fn action_get_schema(name: &str) -> baton::Task {
    of(TaskType::ActionGetSchema(
        baton::task::ActionGetSchemaTask {
            name: name.to_owned(),
            annotations: Vec::new(),
        },
    ))
}

/// Runs an action; `resource_type_id` is empty for a global one.
pub fn action_invoke(name: &str, resource_type_id: &str, arguments: Struct) -> baton::Task {
    of(TaskType::ActionInvoke(baton::task::ActionInvokeTask {
        name: name.to_owned(),
        args: Some(arguments),
        annotations: Vec::new(),
        resource_type_id: resource_type_id.to_owned(),
    }))
}

/// Asks how far the run of an action is.
pub fn action_status(name: &str, id: &str) -> baton::Task {
    of(TaskType::ActionStatus(baton::task::ActionStatusTask {
        name: name.to_owned(),
        id: id.to_owned(),
        annotations: Vec::new(),
    }))
}

/// Opens a ticket with this title.
pub fn create_ticket(title: &str) -> baton::Task {
    of(TaskType::CreateTicketTask(ticket(title)))
}

/// Opens one ticket for each title.
pub fn bulk_create_tickets(titles: &[&str]) -> baton::Task {
    of(TaskType::BulkCreateTickets(
        baton::task::BulkCreateTicketsTask {
            ticket_requests: titles.iter().copied().map(ticket).collect(),
        },
    ))
}

/// Asks for a ticket.
pub fn get_ticket(id: &str) -> baton::Task {
    of(TaskType::GetTicket(asked_ticket(id)))
}

/// Asks for several tickets.
pub fn bulk_get_tickets(ids: &[&str]) -> baton::Task {
    of(TaskType::BulkGetTickets(baton::task::BulkGetTicketsTask {
        ticket_requests: ids.iter().copied().map(asked_ticket).collect(),
    }))
}

/// Asks for the schemas of tickets.
pub fn list_ticket_schemas() -> baton::Task {
    of(TaskType::ListTicketSchemas(
        baton::task::ListTicketSchemasTask::default(),
    ))
}

fn ticket(title: &str) -> baton::task::CreateTicketTask {
    baton::task::CreateTicketTask {
        ticket_request: Some(v2::TicketRequest {
            display_name: title.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn asked_ticket(id: &str) -> baton::task::GetTicketTask {
    baton::task::GetTicketTask {
        ticket_id: id.to_owned(),
        annotations: Vec::new(),
    }
}

/// Asks for a password that the connector makes up, of 8 to 64 characters.
pub fn random_password(length: i64) -> v2::CredentialOptions {
    credential(Options::RandomPassword(
        v2::credential_options::RandomPassword {
            length,
            constraints: Vec::new(),
        },
    ))
}

/// Asks for an account without password.
pub fn no_password() -> v2::CredentialOptions {
    credential(Options::NoPassword(v2::credential_options::NoPassword {}))
}

/// Asks for an account that signs in through an identity provider alone.
pub fn sso(provider: &str) -> v2::CredentialOptions {
    credential(Options::Sso(v2::credential_options::Sso {
        sso_provider: provider.to_owned(),
    }))
}

/// Gives a password that is encrypted to the connector.
pub fn given_password(encrypted: Vec<v2::EncryptedData>) -> v2::CredentialOptions {
    credential(Options::EncryptedPassword(
        v2::credential_options::EncryptedPassword {
            encrypted_passwords: encrypted,
        },
    ))
}

fn credential(options: Options) -> v2::CredentialOptions {
    v2::CredentialOptions {
        force_change_at_next_login: false,
        options: Some(options),
    }
}

/// A JSON object as a `google.protobuf.Struct`; anything but an object gives an empty one.
pub fn structure(json: &Json) -> Struct {
    json.as_object()
        .cloned()
        .map(proto::structure)
        .unwrap_or_default()
}
