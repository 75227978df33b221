//! The rules of `FinishTask` that depend on the task: which response belongs to it, what the response must repeat of
//! it, and how secrets are sealed.

use std::collections::BTreeSet;

use aws_lc_rs::digest;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use prost::{Message, Name};
use serde_json::Value as Json;

use super::{Broken, Checker, PREFIX};
use crate::{
    proto::{
        Any,
        baton::{
            self, BatonServiceFinishTaskRequest,
            baton_service_finish_task_request::{FinalState, Success},
            task::TaskType,
        },
        config,
        connector::{
            self as v2, BatonActionStatus, create_account_response::Result as Made,
            credential_options::Options, encryption_config::Config,
        },
        find,
    },
    sim::conductorone::credentials::hex,
};

/// How every age file begins.
const AGE: &[u8] = b"age-encryption.org/v1\n";

/// The rules of `FinishTask` that depend on the task.
pub(in crate::sim::conductorone) fn broken_by_result(
    request: &BatonServiceFinishTaskRequest,
    task: &baton::Task,
) -> Vec<Broken> {
    let mut at = Checker::default();
    let task_type = task.task_type.as_ref();
    match &request.final_state {
        Some(FinalState::Success(success)) => {
            let expected = response_type(task_type);
            match (&success.response, expected) {
                (None, None) => {}
                (Some(_), None) => {
                    at.report("success.response", "must be absent for this type of task");
                }
                (None, Some(name)) => {
                    at.report("success.response", format!("must be a {name}"));
                }
                (Some(response), Some(name)) => {
                    at.response("success.response", response, &name);
                }
            }
            if matches!(task_type, Some(TaskType::SyncFull(_))) && !success.annotations.is_empty() {
                at.report("success.annotations", "must be empty for a full sync");
            }
            if matches!(task_type, Some(TaskType::Hello(_))) {
                at.report("success", "a hello task is answered by Hello alone");
            }
            if matches!(
                task_type,
                None | Some(
                    TaskType::None(_)
                        | TaskType::EventFeed(_)
                        | TaskType::CreateSyncDiff(_)
                        | TaskType::CompactSyncs(_)
                )
            ) {
                at.report(
                    "success",
                    "this type of task does not exist in service mode",
                );
            }
            if let Some(task_type) = task_type {
                at.within("success".to_owned(), |at| {
                    answer(at, task_type, &task.id, success);
                });
            }
        }
        Some(FinalState::Error(error)) => {
            if let Some(response) = &error.response {
                match response_type(task_type) {
                    Some(name) => at.response("error.response", response, &name),
                    None => at.report("error.response", "must be absent for this type of task"),
                }
            }
        }
        None => {}
    }
    at.broken
}

/// The full name of the message that a successful task of this type answers with.
fn response_type(task: Option<&TaskType>) -> Option<String> {
    Some(match task? {
        TaskType::Grant(_) => v2::GrantManagerServiceGrantResponse::full_name(),
        TaskType::Revoke(_) => v2::GrantManagerServiceRevokeResponse::full_name(),
        TaskType::CreateAccount(_) => v2::CreateAccountResponse::full_name(),
        TaskType::CreateResource(_) => v2::CreateResourceResponse::full_name(),
        TaskType::DeleteResource(_) => v2::DeleteResourceResponse::full_name(),
        TaskType::RotateCredentials(_) => v2::RotateCredentialResponse::full_name(),
        TaskType::IssueCredential(_) => v2::IssueCredentialResponse::full_name(),
        TaskType::CreateTicketTask(_) => v2::TicketsServiceCreateTicketResponse::full_name(),
        TaskType::ListTicketSchemas(_) => v2::TicketsServiceListTicketSchemasResponse::full_name(),
        TaskType::GetTicket(_) => v2::TicketsServiceGetTicketResponse::full_name(),
        TaskType::BulkCreateTickets(_) => v2::TicketsServiceBulkCreateTicketsResponse::full_name(),
        TaskType::BulkGetTickets(_) => v2::TicketsServiceBulkGetTicketsResponse::full_name(),
        TaskType::ActionListSchemas(_) => v2::ListActionSchemasResponse::full_name(),
        TaskType::ActionGetSchema(_) => v2::GetActionSchemaResponse::full_name(),
        TaskType::ActionInvoke(_) => v2::InvokeActionResponse::full_name(),
        TaskType::ActionStatus(_) => v2::GetActionStatusResponse::full_name(),
        TaskType::ListEventFeeds(_) => v2::ListEventFeedsResponse::full_name(),
        TaskType::ListEvents(_) => v2::ListEventsResponse::full_name(),
        TaskType::None(_)
        | TaskType::Hello(_)
        | TaskType::SyncFull(_)
        | TaskType::EventFeed(_)
        | TaskType::CreateSyncDiff(_)
        | TaskType::CompactSyncs(_) => return None,
    })
}

/// What a response must say about its own task. A response of another type is reported elsewhere.
fn answer(at: &mut Checker, task: &TaskType, task_id: &str, success: &Success) {
    match task {
        TaskType::Grant(task) => reply(
            at,
            success,
            |response: &v2::GrantManagerServiceGrantResponse| &response.annotations,
            |at, response| grant(at, task, response),
        ),
        TaskType::Revoke(_) => reply(
            at,
            success,
            |response: &v2::GrantManagerServiceRevokeResponse| &response.annotations,
            |at, response| {
                only(
                    at,
                    &response.annotations,
                    &[
                        v2::GrantAlreadyRevoked::full_name(),
                        v2::ResourceDeleted::full_name(),
                    ],
                );
            },
        ),
        TaskType::CreateAccount(task) => reply(
            at,
            success,
            |response: &v2::CreateAccountResponse| &response.annotations,
            |at, response| create_account(at, task, response),
        ),
        TaskType::CreateResource(task) => reply(
            at,
            success,
            |response: &v2::CreateResourceResponse| &response.annotations,
            |at, response| {
                let created = at.required("created", response.created.as_ref());
                let wanted = task.resource.as_ref().and_then(|wanted| wanted.id.as_ref());
                of_type(at, "created", created, wanted.map(|id| &*id.resource_type));
            },
        ),
        TaskType::DeleteResource(_) => reply(
            at,
            success,
            |response: &v2::DeleteResourceResponse| &response.annotations,
            |at, response| {
                only(
                    at,
                    &response.annotations,
                    &[v2::ResourceDoesNotExist::full_name()],
                );
            },
        ),
        TaskType::RotateCredentials(task) => reply(
            at,
            success,
            |response: &v2::RotateCredentialResponse| &response.annotations,
            |at, response| {
                if response.resource_id != task.resource_id {
                    at.report("resource_id", "must be that of the task");
                }
                let made = made(task.credential_options.as_ref());
                sealed(at, &response.encrypted_data, &task.encryption_configs, made);
            },
        ),
        TaskType::IssueCredential(task) => reply(
            at,
            success,
            |response: &v2::IssueCredentialResponse| &response.annotations,
            |at, response| issue_credential(at, task, task_id, response),
        ),
        TaskType::ActionListSchemas(task) => {
            bare(at, success);
            decoded(
                at,
                success,
                |at, response: &v2::ListActionSchemasResponse| {
                    schemas(at, &task.resource_type_id, response);
                },
            );
        }
        TaskType::ActionGetSchema(task) => {
            bare(at, success);
            decoded(at, success, |at, response: &v2::GetActionSchemaResponse| {
                if let Some(schema) = at.required("schema", response.schema.as_ref()) {
                    if schema.name != task.name {
                        at.report("schema.name", "must be that of the task");
                    }
                    at.within("schema".to_owned(), |at| action_schema(at, schema));
                }
            });
        }
        TaskType::ActionInvoke(task) => {
            bare(at, success);
            decoded(at, success, |at, response: &v2::InvokeActionResponse| {
                if response.id.is_empty() {
                    at.report("id", "is empty, must name the run");
                }
                if response.name != task.name {
                    at.report("name", "must be that of the task");
                }
                let wanted = [
                    BatonActionStatus::Pending,
                    BatonActionStatus::Running,
                    BatonActionStatus::Complete,
                ];
                action_status(at, response.status, &wanted);
            });
        }
        TaskType::ActionStatus(task) => {
            bare(at, success);
            decoded(at, success, |at, response: &v2::GetActionStatusResponse| {
                if response.id != task.id {
                    at.report("id", "must be that of the task");
                }
                let wanted = [
                    BatonActionStatus::Pending,
                    BatonActionStatus::Running,
                    BatonActionStatus::Complete,
                    BatonActionStatus::Failed,
                ];
                action_status(at, response.status, &wanted);
            });
        }
        TaskType::BulkCreateTickets(task) => decoded(
            at,
            success,
            |at, response: &v2::TicketsServiceBulkCreateTicketsResponse| {
                if response.tickets.len() != task.ticket_requests.len() {
                    at.report("tickets", "must be as many as were asked for");
                }
            },
        ),
        TaskType::BulkGetTickets(task) => decoded(
            at,
            success,
            |at, response: &v2::TicketsServiceBulkGetTicketsResponse| {
                if response.tickets.len() != task.ticket_requests.len() {
                    at.report("tickets", "must be as many as were asked for");
                }
            },
        ),
        _ => {}
    }
}

/// Checks a response and that its annotations stand beside it too.
fn reply<M: Message + Name + Default>(
    at: &mut Checker,
    success: &Success,
    annotations: impl FnOnce(&M) -> &[Any],
    check: impl FnOnce(&mut Checker, &M),
) {
    let mut repeated = true;
    decoded(at, success, |at, response: &M| {
        repeated = annotations(response) == success.annotations;
        check(at, response);
    });
    if !repeated {
        at.report("annotations", "must be those of the response");
    }
}

fn decoded<M: Message + Name + Default>(
    at: &mut Checker,
    success: &Success,
    check: impl FnOnce(&mut Checker, &M),
) {
    let response = success
        .response
        .as_ref()
        .filter(|any| any.type_url.strip_prefix(PREFIX) == Some(M::full_name().as_str()))
        .and_then(|any| M::decode(any.value.as_slice()).ok());
    if let Some(response) = response {
        at.within("response".to_owned(), |at| check(at, &response));
    }
}

fn bare(at: &mut Checker, success: &Success) {
    if !success.annotations.is_empty() {
        at.report("annotations", "must be empty for an action");
    }
}

/// Annotations of the contract that say something else than what happened.
fn only(at: &mut Checker, annotations: &[Any], fitting: &[String]) {
    let verdicts = [
        v2::GrantAlreadyExists::full_name(),
        v2::GrantAlreadyRevoked::full_name(),
        v2::GrantReplaced::full_name(),
        v2::ResourceDeleted::full_name(),
        v2::ResourceDoesNotExist::full_name(),
    ];
    for (index, any) in annotations.iter().enumerate() {
        let name = any.type_url.strip_prefix(PREFIX).unwrap_or_default();
        if verdicts.iter().any(|verdict| verdict == name)
            && !fitting.iter().any(|verdict| verdict == name)
        {
            at.report(
                &format!("annotations[{index}]"),
                format!("is a {name}, which does not belong to this type of task"),
            );
        }
    }
}

fn of_type(at: &mut Checker, field: &str, resource: Option<&v2::Resource>, wanted: Option<&str>) {
    let kind = resource
        .and_then(|resource| resource.id.as_ref())
        .map(|id| id.resource_type.as_str());
    if let (Some(kind), Some(wanted)) = (kind, wanted)
        && kind != wanted
    {
        at.report(
            &format!("{field}.id.resource_type"),
            "must be the one that was asked for",
        );
    }
}

fn grant(
    at: &mut Checker,
    task: &baton::task::GrantTask,
    response: &v2::GrantManagerServiceGrantResponse,
) {
    only(
        at,
        &response.annotations,
        &[
            v2::GrantAlreadyExists::full_name(),
            v2::GrantReplaced::full_name(),
            v2::ResourceDeleted::full_name(),
        ],
    );
    // The principal may be another account of the same person: a role given to a directory user is listed as that of
    // the administrator.
    let kind = |resource: Option<&v2::Resource>| {
        let id = resource.and_then(|resource| resource.id.as_ref());
        id.map(|id| id.resource_type.clone())
    };
    let wanted = (
        task.entitlement.as_ref().map(|wanted| &wanted.id),
        kind(task.principal.as_ref()),
    );
    let is_there = response.grants.iter().any(|grant| {
        let entitlement = grant.entitlement.as_ref().map(|given| &given.id);
        (entitlement, kind(grant.principal.as_ref())) == wanted
    });
    if !response.grants.is_empty() && !is_there {
        at.report("grants", "must hold the one that was asked for");
    }
}

fn create_account(
    at: &mut Checker,
    task: &baton::task::CreateAccountTask,
    response: &v2::CreateAccountResponse,
) {
    let (resource, is_result, is_new) = match &response.result {
        Some(Made::Success(made)) => (&made.resource, made.is_create_account_result, true),
        Some(Made::ActionRequired(made)) => (&made.resource, made.is_create_account_result, true),
        Some(Made::AlreadyExists(made)) => (&made.resource, made.is_create_account_result, false),
        Some(Made::InProgress(made)) => (&made.resource, made.is_create_account_result, false),
        // Reported with the fields of the response.
        None => return,
    };
    if !is_result {
        at.report("result.is_create_account_result", "must be true");
    }
    at.required("result.resource", resource.as_ref());
    let wanted = match task.resource_type_id.as_str() {
        "" => "user",
        kind => kind,
    };
    of_type(at, "result.resource", resource.as_ref(), Some(wanted));
    let secrets = match made(task.credential_options.as_ref()) {
        Secrets::Some if !is_new => Secrets::Any,
        secrets => secrets,
    };
    sealed(
        at,
        &response.encrypted_data,
        &task.encryption_configs,
        secrets,
    );
}

fn issue_credential(
    at: &mut Checker,
    task: &baton::task::IssueCredentialTask,
    task_id: &str,
    response: &v2::IssueCredentialResponse,
) {
    if response.request_id != task_id {
        at.report("request_id", "must be the id of the task");
    }
    if !matches!(
        v2::CredentialResourceMode::try_from(response.resource_mode),
        Ok(v2::CredentialResourceMode::Discoverable | v2::CredentialResourceMode::Virtual)
    ) {
        at.report("resource_mode", "must be discoverable or virtual");
    }
    if let Some(secret) = at.required("secret", response.secret.as_ref()) {
        match find::<v2::SecretTrait>(&secret.annotations) {
            None => at.report("secret.annotations", "must hold a SecretTrait"),
            Some(about) => {
                if about.identity_id != task.identity_id {
                    at.report("secret.annotations.identity_id", "must be that of the task");
                }
                let seconds = |time: Option<prost_types::Timestamp>| time.map(|time| time.seconds);
                if let Some(wanted) = seconds(task.expires_at)
                    && seconds(about.expires_at).is_none_or(|given| given > wanted)
                {
                    at.report(
                        "secret.annotations.expires_at",
                        "must not be later than asked for",
                    );
                }
            }
        }
    }
    sealed(
        at,
        &response.encrypted_data,
        &task.encryption_configs,
        Secrets::Some,
    );
}

fn action_status(at: &mut Checker, status: i32, wanted: &[BatonActionStatus]) {
    if !BatonActionStatus::try_from(status).is_ok_and(|status| wanted.contains(&status)) {
        at.report(
            "status",
            format!("has the value {status}, which a success cannot have"),
        );
    }
}

fn schemas(at: &mut Checker, wanted: &str, response: &v2::ListActionSchemasResponse) {
    let mut names = BTreeSet::new();
    for (index, schema) in response.schemas.iter().enumerate() {
        at.within(format!("schemas[{index}]"), |at| {
            if !wanted.is_empty() && schema.resource_type_id != wanted {
                at.report("resource_type_id", "must be that of the task");
            }
            if !names.insert((&schema.resource_type_id, &schema.name)) {
                at.report("name", "must be unique within its resource type");
            }
            action_schema(at, schema);
        });
    }
}

fn action_schema(at: &mut Checker, schema: &v2::BatonActionSchema) {
    if schema.name.is_empty() {
        at.report("name", "is empty");
    }
    for (index, kind) in schema.action_type.iter().enumerate() {
        at.defined::<v2::ActionType>(&format!("action_type[{index}]"), *kind);
    }
    for (list, fields) in [
        ("arguments", &schema.arguments),
        ("return_types", &schema.return_types),
    ] {
        let mut names = BTreeSet::new();
        for (index, field) in fields.iter().enumerate() {
            if field.name.is_empty() {
                at.report(&format!("{list}[{index}].name"), "is empty");
            } else if !names.insert(&field.name) {
                at.report(&format!("{list}[{index}].name"), "must be unique");
            }
            if field.field.is_none() {
                at.report(&format!("{list}[{index}].field"), "is required");
            }
        }
    }
    for (index, constraint) in schema.constraints.iter().enumerate() {
        at.defined::<config::ConstraintKind>(
            &format!("constraints[{index}].kind"),
            constraint.kind,
        );
        let named = constraint
            .field_names
            .iter()
            .chain(&constraint.secondary_field_names);
        for name in named {
            if !schema.arguments.iter().any(|field| field.name == *name) {
                at.report(
                    &format!("constraints[{index}].field_names"),
                    "names an argument that the action does not have",
                );
            }
        }
    }
}

/// Whether a result carries secrets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Secrets {
    None,
    Some,
    Any,
}

/// Whether credential options make a secret that ConductorOne does not have yet.
fn made(options: Option<&v2::CredentialOptions>) -> Secrets {
    match options.and_then(|options| options.options.as_ref()) {
        None => Secrets::Any,
        Some(Options::RandomPassword(_)) => Secrets::Some,
        Some(Options::NoPassword(_) | Options::Sso(_) | Options::EncryptedPassword(_)) => {
            Secrets::None
        }
    }
}

/// Every secret is sealed once for every configuration: secrets outside, configurations inside.
fn sealed(
    at: &mut Checker,
    data: &[v2::EncryptedData],
    configs: &[v2::EncryptionConfig],
    secrets: Secrets,
) {
    const FIELD: &str = "encrypted_data";
    if configs.is_empty() || secrets == Secrets::None {
        if !data.is_empty() {
            at.report(FIELD, "must be empty, the task asks for no secret");
        }
        return;
    }
    if data.is_empty() && secrets == Secrets::Some {
        at.report(FIELD, "is empty, must hold the secret that was asked for");
    }
    if !data.len().is_multiple_of(configs.len()) {
        at.report(FIELD, "must hold every secret once for every configuration");
        return;
    }
    let mut names = BTreeSet::new();
    for (number, copies) in data.chunks(configs.len()).enumerate() {
        let words = |data: &v2::EncryptedData| {
            (
                data.name.clone(),
                data.description.clone(),
                data.schema.clone(),
            )
        };
        let first = copies.first().map(words);
        for (offset, (copy, config)) in copies.iter().zip(configs).enumerate() {
            at.within(
                format!("{FIELD}[{}]", number * configs.len() + offset),
                |at| {
                    if Some(words(copy)) != first {
                        at.report("name", "must be that of the other copies of the secret");
                    }
                    one_sealed(at, copy, config);
                },
            );
        }
        if let Some((name, ..)) = first
            && (name.trim().is_empty() || !names.insert(name))
        {
            at.report(
                FIELD,
                "must have a name for each secret, and another for each",
            );
        }
    }
}

fn one_sealed(at: &mut Checker, data: &v2::EncryptedData, config: &v2::EncryptionConfig) {
    let Some(recipient) = Recipient::of(config) else {
        at.report("", "is sealed for a configuration that cannot be used");
        return;
    };
    if data.provider != recipient.provider {
        at.report("provider", format!("must be {}", recipient.provider));
    }
    if data.key_ids != [recipient.key_id.clone()] {
        at.report("key_ids", "must be the one thumbprint of the key");
    }
    #[expect(deprecated, reason = "what is still sent is still checked")]
    let key_id = &data.key_id;
    let old = if recipient.form == Form::Age {
        ""
    } else {
        recipient.key_id.as_str()
    };
    if key_id != old {
        at.report(
            "key_id",
            "must be the thumbprint for a JWK, and empty for an age recipient",
        );
    }
    let bytes = &data.encrypted_bytes;
    match recipient.form {
        Form::Age => {
            if !bytes.starts_with(AGE) {
                at.report("encrypted_bytes", "must be an age file");
            }
        }
        Form::TextOfAge => {
            if !STANDARD
                .decode(bytes)
                .is_ok_and(|file| file.starts_with(AGE))
            {
                at.report("encrypted_bytes", "must be an age file in padded base64");
            }
        }
        Form::TextOfJwe => {
            if !STANDARD.decode(bytes).is_ok_and(|jwe| is_jwe(&jwe)) {
                at.report(
                    "encrypted_bytes",
                    "must be a compact JWE of ECDH-ES and A256GCM in padded base64",
                );
            }
        }
    }
}

fn is_jwe(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    let parts: Vec<&str> = text.split('.').collect();
    let [header, key, iv, content, tag] = parts.as_slice() else {
        return false;
    };
    let header = URL_SAFE_NO_PAD
        .decode(header)
        .ok()
        .and_then(|json| serde_json::from_slice::<Json>(&json).ok());
    header.is_some_and(|header| {
        header.get("alg") == Some(&"ECDH-ES".into())
            && header.get("enc") == Some(&"A256GCM".into())
            && header.get("epk").is_some()
    }) && key.is_empty()
        && [iv, content, tag]
            .iter()
            .all(|part| !part.is_empty() && URL_SAFE_NO_PAD.decode(part).is_ok())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Age,
    TextOfAge,
    TextOfJwe,
}

/// What must be sealed for a configuration.
struct Recipient {
    provider: &'static str,
    key_id: String,
    form: Form,
}

impl Recipient {
    fn of(config: &v2::EncryptionConfig) -> Option<Self> {
        let named = config.provider.trim().to_lowercase();
        match (named.as_str(), config.config.as_ref()?) {
            ("" | "baton/age/v1", Config::AgeRecipientConfig(age)) => Some(Self {
                provider: "baton/age/v1",
                key_id: sha256(age.recipient.as_bytes()),
                form: Form::Age,
            }),
            ("" | "baton/jwk/v1" | "baton/jwk/v1/private", Config::JwkPublicKeyConfig(jwk)) => {
                let jwk: Json = serde_json::from_slice(&jwk.pub_key).ok()?;
                let kind = jwk.get("kty")?.as_str()?;
                let (members, form): (&[&str], _) = match kind {
                    "RSA" => (&["e", "kty", "n"], Form::TextOfAge),
                    "OKP" => (&["crv", "kty", "x"], Form::TextOfAge),
                    "EC" => (&["crv", "kty", "x", "y"], Form::TextOfJwe),
                    _ => return None,
                };
                Some(Self {
                    provider: "baton/jwk/v1",
                    key_id: thumbprint(&jwk, members)?,
                    form,
                })
            }
            _ => None,
        }
    }
}

/// The thumbprint of RFC 7638: the required members in order, without spaces.
fn thumbprint(jwk: &Json, members: &[&str]) -> Option<String> {
    let mut text = String::from("{");
    for (index, member) in members.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        let value = jwk.get(member)?.as_str()?;
        text.push_str(&Json::from(*member).to_string());
        text.push(':');
        text.push_str(&Json::from(value).to_string());
    }
    text.push('}');
    Some(sha256(text.as_bytes()))
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}
