//! One change, or the list of actions, from a shell.
//!
//! What a grant or a revocation is about is read from the file of an earlier sync, as the official connectors do it.

use std::{sync::Arc, time::Duration};

use super::{Failure, jumpcloud, jumpcloud_client, provisioning, supervised};
use crate::{
    c1z::Reader,
    clock::{Clock as _, SystemClock},
    config::{Config, Operation},
    connector::{self, provision::Effect},
    crypto::seal,
    model::{SyncId, resource_id},
    proto::{
        Any,
        connector::{self as v2, credential_options},
        has, pack,
    },
    provisioning::{Keys, Provisioning, Request},
    telemetry::metrics::Metrics,
};

/// The length of a password that nobody described.
const PASSWORD_LENGTH: i64 = 20;
/// The longest wait for an action; it is ended there anyway.
const ACTION_LIMIT: Duration = Duration::from_hours(1);
const ASKED_BY: &str = "command line";

/// Does what [`Config::operation`] says, except a sync, and answers with the messages to print.
///
/// A signal ends it before the next write. A dry run prints nothing; the log has its plan.
pub async fn change_once(config: &Config) -> Result<Vec<Any>, Failure> {
    let supervisor = supervised()?;
    let client = jumpcloud_client(config).map_err(|error| Failure::of(&error))?;
    let connector = Arc::new(jumpcloud(config, client));
    let provisioning = provisioning(
        config,
        &connector,
        &supervisor,
        Keys::default(),
        Metrics::default(),
    );
    let id = String::from(SyncId::generate(SystemClock.now()));
    let request = match &config.operation {
        Operation::Sync => return Ok(Vec::new()),
        Operation::ListActionSchemas { resource_type } => {
            return Ok(vec![pack(&v2::ListActionSchemasResponse {
                schemas: provisioning.action_schemas(resource_type),
                annotations: Vec::new(),
            })]);
        }
        Operation::InvokeAction {
            name,
            resource_type,
            arguments,
        } => {
            let run = provisioning
                .invoke(
                    &id,
                    name,
                    resource_type,
                    arguments,
                    Some(ASKED_BY),
                    ACTION_LIMIT,
                )
                .await
                .map_err(|error| Failure::of(&error))?;
            if let Some(error) = run.error() {
                return Err(Failure {
                    message: format!("action {} failed: {error}", run.name),
                    exit_code: run
                        .code
                        .and_then(|code| u8::try_from(code.number()).ok())
                        .unwrap_or(2),
                });
            }
            if run.planned.is_some() {
                return Ok(Vec::new());
            }
            return Ok(vec![pack(&v2::InvokeActionResponse {
                id: run.id,
                status: run.state.into(),
                annotations: Vec::new(),
                response: Some(run.response),
                name: run.name,
            })]);
        }
        Operation::Grant {
            entitlement,
            principal,
            principal_type,
        } => {
            let (entitlement, principal) =
                (entitlement.clone(), resource_id(principal_type, principal));
            from_file(config, move |found| {
                Ok(Request::Grant {
                    entitlement: found.entitlement(&entitlement)?,
                    principal: found.resource(&principal)?,
                })
            })
            .await?
        }
        Operation::Revoke { grant } => {
            let grant = grant.clone();
            from_file(config, move |found| {
                Ok(Request::Revoke {
                    grant: found.grant(&grant)?,
                })
            })
            .await?
        }
        Operation::CreateAccount {
            login,
            email,
            profile,
            resource_type,
        } => Request::CreateAccount {
            info: v2::AccountInfo {
                emails: Some(email)
                    .filter(|email| !email.is_empty())
                    .map(|email| v2::account_info::Email {
                        address: email.clone(),
                        is_primary: true,
                    })
                    .into_iter()
                    .collect(),
                login: login.clone(),
                login_aliases: Vec::new(),
                profile: Some(profile.clone()),
            },
            options: Some(random_password()),
            encryption: vec![recipient(config)],
            resource_type_id: resource_type.clone(),
        },
        Operation::DeleteResource { id, resource_type } => Request::DeleteResource {
            id: resource_id(resource_type, id),
            parent: None,
        },
        Operation::RotateCredentials { id, resource_type } => Request::RotateCredential {
            id: resource_id(resource_type, id),
            options: Some(random_password()),
            encryption: vec![recipient(config)],
        },
    };
    run(&provisioning, &id, request, &supervisor.shutdown_token()).await
}

async fn run(
    provisioning: &Provisioning,
    id: &str,
    request: Request,
    cancel: &tokio_util::sync::CancellationToken,
) -> Result<Vec<Any>, Failure> {
    let answer = provisioning
        .run(id, request, Some(ASKED_BY), cancel)
        .await
        .map_err(|error| Failure::of(&error))?;
    if answer.effect == Effect::Planned {
        return Ok(Vec::new());
    }
    Ok(vec![answer.response])
}

fn random_password() -> v2::CredentialOptions {
    v2::CredentialOptions {
        options: Some(credential_options::Options::RandomPassword(
            credential_options::RandomPassword {
                length: PASSWORD_LENGTH,
                constraints: Vec::new(),
            },
        )),
        force_change_at_next_login: false,
    }
}

fn recipient(config: &Config) -> v2::EncryptionConfig {
    config
        .encrypt_to
        .as_deref()
        .map_or_else(seal::to_nobody, seal::to_age)
}

/// Puts a request together from what the file says, away from the workers of the runtime.
async fn from_file(
    config: &Config,
    request: impl FnOnce(Found<'_>) -> Result<Request, Failure> + Send + 'static,
) -> Result<Request, Failure> {
    let (file, work_dir) = (config.file.clone(), config.work_dir.clone());
    tokio::task::spawn_blocking(move || {
        let reader = Reader::open(&file, &work_dir).map_err(|error| Failure::of(&error))?;
        let sync = reader.latest_sync().map_err(|error| Failure::of(&error))?;
        request(Found {
            reader: &reader,
            sync: &sync.sync_id,
        })
    })
    .await
    .map_err(|error| Failure {
        message: format!("reading the file broke off: {error}"),
        exit_code: 13,
    })?
}

struct Found<'a> {
    reader: &'a Reader,
    sync: &'a str,
}

impl Found<'_> {
    /// A grant with its whole entitlement and principal.
    fn grant(&self, id: &str) -> Result<v2::Grant, Failure> {
        let grant = self
            .reader
            .grant(self.sync, id)
            .map_err(|error| Failure::of(&error))?
            .ok_or_else(|| not_found("grant", id))?
            .into_connector_grant();
        let entitlement = grant.entitlement.unwrap_or_default();
        let principal = grant.principal.and_then(|principal| principal.id);
        Ok(v2::Grant {
            entitlement: Some(self.entitlement(&entitlement.id)?),
            principal: Some(self.resource(&principal.unwrap_or_default())?),
            id: grant.id,
            sources: None,
            annotations: grant.annotations,
        })
    }

    /// An entitlement with its whole resource, which must be this connector's own.
    fn entitlement(&self, id: &str) -> Result<v2::Entitlement, Failure> {
        let entitlement = self
            .reader
            .entitlement(self.sync, id)
            .map_err(|error| Failure::of(&error))?
            .ok_or_else(|| not_found("entitlement", id))?;
        let resource = entitlement
            .resource
            .as_ref()
            .and_then(|resource| resource.id.clone())
            .unwrap_or_default();
        let resource = self.resource(&resource)?;
        if has::<v2::BatonId>(&resource.annotations) {
            return Err(Failure::of(&connector::Error::Refused {
                what: "the entitlement belongs to a resource of another connector".to_owned(),
            }));
        }
        Ok(v2::Entitlement {
            resource: Some(resource),
            ..entitlement
        })
    }

    fn resource(&self, id: &v2::ResourceId) -> Result<v2::Resource, Failure> {
        self.reader
            .resource(self.sync, id)
            .map_err(|error| Failure::of(&error))?
            .ok_or_else(|| not_found(&id.resource_type, &id.resource))
    }
}

fn not_found(what: &str, id: &str) -> Failure {
    Failure::of(&connector::Error::NotFound {
        what: format!("{what} {id:?} in the file; sync again if it is new,"),
    })
}
