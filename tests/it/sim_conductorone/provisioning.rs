//! What the simulated ConductorOne makes of the answers to provisioning tasks.

use baton_jumpcloud::{
    crypto::seal::{Plaintext, Recipients},
    proto::{
        self, Any, Kind,
        baton::{
            self, BatonServiceFinishTaskRequest,
            baton_service_finish_task_request::{FinalState, Success},
        },
        connector::{self as v2, create_account_response::Result as Made},
    },
    sim::conductorone::{ConductorOneSim, KeyKind, Script, TaskSpec, tasks},
};
use prost::Name;
use secrecy::{ExposeSecret as _, SecretString};
use tonic::Code;

use super::{Client, PATIENCE, c1z, failure, quick, resource, success, whole};

const PASSWORD: &str = "SECRETSEED-made-up-by-the-test";

fn id(kind: &str, id: &str) -> v2::ResourceId {
    tasks::resource_id(kind, id)
}

fn entitlement() -> v2::Entitlement {
    v2::Entitlement {
        id: "group:1:member".to_owned(),
        slug: "member".to_owned(),
        resource: Some(resource("group", "1")),
        ..Default::default()
    }
}

fn grant() -> v2::Grant {
    v2::Grant {
        id: "group:1:member:user:1".to_owned(),
        entitlement: Some(entitlement()),
        principal: Some(resource("user", "1")),
        ..Default::default()
    }
}

fn sealed(configs: &[v2::EncryptionConfig]) -> Vec<v2::EncryptedData> {
    Recipients::try_new(configs)
        .unwrap()
        .seal(&Plaintext {
            name: "password".to_owned(),
            description: "Initial password".to_owned(),
            schema: String::new(),
            secret: PASSWORD.into(),
        })
        .unwrap()
}

fn answer<M: Name>(response: &M, annotations: Vec<Any>) -> Success {
    Success {
        annotations,
        response: Some(proto::pack(response)),
    }
}

/// Changes the message inside a packed response.
fn edit<M: Name + Default>(success: &mut Success, change: impl FnOnce(&mut M)) {
    let any = success.response.as_mut().unwrap();
    let mut message = M::decode(any.value.as_slice()).unwrap();
    change(&mut message);
    any.value = message.encode_to_vec();
}

struct Right {
    name: &'static str,
    task: baton::Task,
    answer: fn(&str, &[v2::EncryptionConfig]) -> Success,
}

fn of_account(configs: &[v2::EncryptionConfig], made: Made) -> Success {
    answer(
        &v2::CreateAccountResponse {
            encrypted_data: sealed(configs),
            annotations: Vec::new(),
            result: Some(made),
        },
        Vec::new(),
    )
}

fn new_account() -> Made {
    Made::Success(v2::create_account_response::SuccessResult {
        resource: Some(resource("user", "9")),
        is_create_account_result: true,
        invitation_expires_at: None,
    })
}

fn action() -> v2::BatonActionSchema {
    use baton_jumpcloud::proto::config::{BoolField, Constraint, Field, field};
    v2::BatonActionSchema {
        name: "unlock".to_owned(),
        arguments: vec![Field {
            name: "user".to_owned(),
            field: Some(field::Field::BoolField(BoolField::default())),
            ..Default::default()
        }],
        constraints: vec![Constraint {
            kind: 2,
            field_names: vec!["user".to_owned()],
            ..Default::default()
        }],
        action_type: vec![2],
        resource_type_id: "user".to_owned(),
        ..Default::default()
    }
}

fn secret() -> v2::Resource {
    let mut secret = resource("secret", "5");
    secret.annotations = vec![proto::pack(&v2::SecretTrait {
        identity_id: Some(id("user", "1")),
        expires_at: Some(proto::Timestamp {
            seconds: 100,
            nanos: 0,
        }),
        ..Default::default()
    })];
    secret
}

/// One right answer to each kind of task.
fn rights(configs: &[v2::EncryptionConfig]) -> Vec<Right> {
    let account = v2::AccountInfo {
        login: "new.person".to_owned(),
        ..Default::default()
    };
    let random = || Some(tasks::random_password(24));
    let right = |name, task, answer| Right { name, task, answer };
    vec![
        right(
            "grant",
            tasks::grant(entitlement(), resource("user", "1")),
            |_, _| {
                answer(
                    &v2::GrantManagerServiceGrantResponse {
                        annotations: vec![proto::pack(&v2::GrantAlreadyExists {})],
                        grants: vec![grant()],
                    },
                    vec![proto::pack(&v2::GrantAlreadyExists {})],
                )
            },
        ),
        right("revoke", tasks::revoke(grant()), |_, _| {
            answer(
                &v2::GrantManagerServiceRevokeResponse {
                    annotations: vec![proto::pack(&v2::GrantAlreadyRevoked {})],
                },
                vec![proto::pack(&v2::GrantAlreadyRevoked {})],
            )
        }),
        right(
            "create_account",
            tasks::create_account(account.clone(), random(), configs.to_vec()),
            |_, configs| of_account(configs, new_account()),
        ),
        right(
            "create_account that exists",
            tasks::create_account(account.clone(), random(), configs.to_vec()),
            |_, _| {
                let made = v2::create_account_response::AlreadyExistsResult {
                    resource: Some(resource("user", "1")),
                    is_create_account_result: true,
                };
                of_account(&[], Made::AlreadyExists(made))
            },
        ),
        right(
            "create_account without password",
            tasks::create_account(account, Some(tasks::no_password()), configs.to_vec()),
            |_, _| of_account(&[], new_account()),
        ),
        right(
            "create_resource",
            tasks::create_resource(resource("group", "")),
            |_, _| {
                answer(
                    &v2::CreateResourceResponse {
                        created: Some(resource("group", "7")),
                        annotations: Vec::new(),
                    },
                    Vec::new(),
                )
            },
        ),
        right(
            "delete_resource",
            tasks::delete_resource(id("group", "7")),
            |_, _| {
                answer(
                    &v2::DeleteResourceResponse {
                        annotations: vec![proto::pack(&v2::ResourceDoesNotExist {})],
                    },
                    vec![proto::pack(&v2::ResourceDoesNotExist {})],
                )
            },
        ),
        right(
            "rotate_credentials",
            tasks::rotate_credentials(id("user", "1"), random(), configs.to_vec()),
            |_, configs| {
                answer(
                    &v2::RotateCredentialResponse {
                        encrypted_data: sealed(configs),
                        resource_id: Some(id("user", "1")),
                        annotations: Vec::new(),
                    },
                    Vec::new(),
                )
            },
        ),
        right(
            "issue_credential",
            tasks::issue_credential(
                id("user", "1"),
                v2::CredentialIssueOptions::default(),
                configs.to_vec(),
                Some(proto::Timestamp {
                    seconds: 100,
                    nanos: 0,
                }),
            ),
            |task, configs| {
                answer(
                    &v2::IssueCredentialResponse {
                        secret: Some(secret()),
                        encrypted_data: sealed(configs),
                        annotations: Vec::new(),
                        resource_mode: 1,
                        request_id: task.to_owned(),
                    },
                    Vec::new(),
                )
            },
        ),
        right(
            "action_list_schemas",
            tasks::action_list_schemas("user"),
            |_, _| {
                answer(
                    &v2::ListActionSchemasResponse {
                        schemas: vec![action()],
                        annotations: Vec::new(),
                    },
                    Vec::new(),
                )
            },
        ),
        right(
            "action_get_schema",
            tasks::action_get_schema("unlock"),
            |_, _| {
                answer(
                    &v2::GetActionSchemaResponse {
                        schema: Some(action()),
                        annotations: Vec::new(),
                    },
                    Vec::new(),
                )
            },
        ),
        right(
            "action_invoke",
            tasks::action_invoke("unlock", "user", proto::Struct::default()),
            |_, _| {
                answer(
                    &v2::InvokeActionResponse {
                        id: "run".to_owned(),
                        status: 4,
                        name: "unlock".to_owned(),
                        ..Default::default()
                    },
                    Vec::new(),
                )
            },
        ),
        right(
            "action_status",
            tasks::action_status("unlock", "run"),
            |_, _| {
                answer(
                    &v2::GetActionStatusResponse {
                        id: "run".to_owned(),
                        status: 3,
                        name: "unlock".to_owned(),
                        ..Default::default()
                    },
                    Vec::new(),
                )
            },
        ),
        right("create_ticket", tasks::create_ticket("help"), |_, _| {
            answer(
                &v2::TicketsServiceCreateTicketResponse::default(),
                Vec::new(),
            )
        }),
        right("get_ticket", tasks::get_ticket("1"), |_, _| {
            answer(&v2::TicketsServiceGetTicketResponse::default(), Vec::new())
        }),
        right(
            "bulk_create_tickets",
            tasks::bulk_create_tickets(&["a"]),
            |_, _| {
                answer(
                    &v2::TicketsServiceBulkCreateTicketsResponse {
                        tickets: vec![v2::TicketsServiceCreateTicketResponse::default()],
                    },
                    Vec::new(),
                )
            },
        ),
        right(
            "bulk_get_tickets",
            tasks::bulk_get_tickets(&["1"]),
            |_, _| {
                answer(
                    &v2::TicketsServiceBulkGetTicketsResponse {
                        tickets: vec![v2::TicketsServiceGetTicketResponse::default()],
                    },
                    Vec::new(),
                )
            },
        ),
        right(
            "list_ticket_schemas",
            tasks::list_ticket_schemas(),
            |_, _| {
                answer(
                    &v2::TicketsServiceListTicketSchemasResponse::default(),
                    Vec::new(),
                )
            },
        ),
    ]
}

fn finish(task: &str, with: Success) -> BatonServiceFinishTaskRequest {
    let mut message = success(task, None);
    message.final_state = Some(FinalState::Success(with));
    message
}

/// A simulator with a client, and the two configurations that the table uses.
async fn scene() -> (ConductorOneSim, Client, Vec<v2::EncryptionConfig>) {
    let sim = quick().await;
    let client = Client::greeted(&sim).await;
    let configs = [KeyKind::Ed25519, KeyKind::Age]
        .map(|kind| sim.encrypt_to(kind).unwrap())
        .to_vec();
    (sim, client, configs)
}

async fn take(sim: &ConductorOneSim, client: &mut Client, task: baton::Task) -> String {
    let task = sim.enqueue(task);
    assert_eq!(client.next().await.unwrap().unwrap().id, task);
    task
}

#[tokio::test]
async fn a_right_answer_to_every_kind_of_task_passes() {
    let (sim, mut client, configs) = scene().await;
    for right in rights(&configs) {
        let task = take(&sim, &mut client, right.task).await;
        let answered = client
            .finish(finish(&task, (right.answer)(&task, &configs)))
            .await;
        assert!(answered.is_ok(), "{}: {answered:?}", right.name);
    }
    sim.assert_clean();
}

type Spoil = fn(&mut Success);

#[tokio::test]
async fn every_broken_rule_of_an_answer_is_caught_by_its_field() {
    use v2::{
        CreateAccountResponse as Account, CreateResourceResponse as Created,
        DeleteResourceResponse as Deleted, GetActionSchemaResponse as Schema,
        GetActionStatusResponse as Status, GrantManagerServiceGrantResponse as Granted,
        GrantManagerServiceRevokeResponse as Revoked, InvokeActionResponse as Invoked,
        IssueCredentialResponse as Issued, ListActionSchemasResponse as Schemas,
        RotateCredentialResponse as Rotated,
    };
    let spoiled: Vec<(&str, &str, Spoil)> = vec![
        ("grant", "annotations", |s| s.annotations.clear()),
        ("grant", "response.grants", |s| {
            edit::<Granted>(s, |m| m.grants[0].principal = Some(resource("group", "1")));
        }),
        ("grant", "response.grants", |s| {
            edit::<Granted>(s, |m| {
                m.grants[0].entitlement.as_mut().unwrap().id = "group:2:member".to_owned();
            });
        }),
        ("grant", "response.annotations[0]", |s| {
            s.annotations = vec![proto::pack(&v2::GrantAlreadyRevoked {})];
            let annotations = s.annotations.clone();
            edit::<Granted>(s, |m| m.annotations = annotations);
        }),
        ("revoke", "response.annotations[0]", |s| {
            s.annotations = vec![proto::pack(&v2::GrantAlreadyExists {})];
            let annotations = s.annotations.clone();
            edit::<Revoked>(s, |m| m.annotations = annotations);
        }),
        ("create_account", "response.result", |s| {
            edit::<Account>(s, |m| m.result = None);
        }),
        (
            "create_account",
            "response.result.is_create_account_result",
            |s| {
                edit::<Account>(s, |m| {
                    m.result = Some(Made::Success(v2::create_account_response::SuccessResult {
                        resource: Some(resource("user", "9")),
                        ..Default::default()
                    }));
                });
            },
        ),
        ("create_account", "response.result.resource", |s| {
            edit::<Account>(s, |m| {
                m.result = Some(Made::Success(v2::create_account_response::SuccessResult {
                    is_create_account_result: true,
                    ..Default::default()
                }));
            });
        }),
        (
            "create_account",
            "response.result.resource.id.resource_type",
            |s| {
                edit::<Account>(s, |m| {
                    m.result = Some(Made::Success(v2::create_account_response::SuccessResult {
                        resource: Some(resource("group", "9")),
                        is_create_account_result: true,
                        ..Default::default()
                    }));
                });
            },
        ),
        ("create_account", "response.encrypted_data", |s| {
            edit::<Account>(s, |m| m.encrypted_data.clear());
        }),
        ("create_account", "response.encrypted_data", |s| {
            edit::<Account>(s, |m| drop(m.encrypted_data.pop()));
        }),
        (
            "create_account",
            "response.encrypted_data[0].provider",
            |s| {
                edit::<Account>(s, |m| m.encrypted_data.swap(0, 1));
            },
        ),
        ("create_account", "response.encrypted_data[1].name", |s| {
            edit::<Account>(s, |m| m.encrypted_data[1].name.clear());
        }),
        (
            "create_account",
            "response.encrypted_data[0].key_ids",
            |s| {
                edit::<Account>(s, |m| m.encrypted_data[0].key_ids.clear());
            },
        ),
        ("create_account", "response.encrypted_data[1].key_id", |s| {
            #[expect(deprecated, reason = "what is still sent is still checked")]
            edit::<Account>(s, |m| m.encrypted_data[1].key_id = "x".to_owned());
        }),
        (
            "create_account",
            "response.encrypted_data[0].encrypted_bytes",
            |s| edit::<Account>(s, |m| m.encrypted_data[0].encrypted_bytes = vec![1]),
        ),
        (
            "create_account",
            "response.encrypted_data[1].encrypted_bytes",
            |s| edit::<Account>(s, |m| m.encrypted_data[1].encrypted_bytes = vec![1]),
        ),
        (
            "create_account without password",
            "response.encrypted_data",
            |s| {
                edit::<Account>(s, |m| {
                    m.encrypted_data = vec![v2::EncryptedData::default(); 2];
                });
            },
        ),
        ("create_resource", "response.created", |s| {
            edit::<Created>(s, |m| m.created = None);
        }),
        (
            "create_resource",
            "response.created.id.resource_type",
            |s| edit::<Created>(s, |m| m.created = Some(resource("user", "7"))),
        ),
        ("delete_resource", "response.annotations[0]", |s| {
            s.annotations = vec![proto::pack(&v2::GrantAlreadyRevoked {})];
            let annotations = s.annotations.clone();
            edit::<Deleted>(s, |m| m.annotations = annotations);
        }),
        ("rotate_credentials", "response.resource_id", |s| {
            edit::<Rotated>(s, |m| m.resource_id = Some(id("user", "2")));
        }),
        ("rotate_credentials", "response.encrypted_data", |s| {
            edit::<Rotated>(s, |m| m.encrypted_data.clear());
        }),
        ("issue_credential", "response.request_id", |s| {
            edit::<Issued>(s, |m| m.request_id = "other".to_owned());
        }),
        ("issue_credential", "response.resource_mode", |s| {
            edit::<Issued>(s, |m| m.resource_mode = 0);
        }),
        ("issue_credential", "response.secret", |s| {
            edit::<Issued>(s, |m| m.secret = None);
        }),
        ("issue_credential", "response.secret.annotations", |s| {
            edit::<Issued>(s, |m| m.secret = Some(resource("secret", "5")));
        }),
        (
            "issue_credential",
            "response.secret.annotations.identity_id",
            |s| {
                edit::<Issued>(s, |m| {
                    m.secret.as_mut().unwrap().annotations =
                        vec![proto::pack(&v2::SecretTrait::default())];
                });
            },
        ),
        (
            "issue_credential",
            "response.secret.annotations.expires_at",
            |s| {
                edit::<Issued>(s, |m| {
                    m.secret.as_mut().unwrap().annotations = vec![proto::pack(&v2::SecretTrait {
                        identity_id: Some(id("user", "1")),
                        ..Default::default()
                    })];
                });
            },
        ),
        ("issue_credential", "response.encrypted_data", |s| {
            edit::<Issued>(s, |m| m.encrypted_data.clear());
        }),
        (
            "action_list_schemas",
            "response.schemas[0].resource_type_id",
            |s| edit::<Schemas>(s, |m| m.schemas[0].resource_type_id.clear()),
        ),
        ("action_list_schemas", "response.schemas[1].name", |s| {
            edit::<Schemas>(s, |m| m.schemas.push(action()));
        }),
        (
            "action_list_schemas",
            "response.schemas[0].constraints[0].field_names",
            |s| {
                edit::<Schemas>(s, |m| {
                    m.schemas[0].constraints[0].field_names = vec!["other".to_owned()];
                });
            },
        ),
        (
            "action_list_schemas",
            "response.schemas[0].arguments[0].field",
            |s| edit::<Schemas>(s, |m| m.schemas[0].arguments[0].field = None),
        ),
        ("action_get_schema", "response.schema", |s| {
            edit::<Schema>(s, |m| m.schema = None);
        }),
        ("action_get_schema", "response.schema.name", |s| {
            edit::<Schema>(s, |m| m.schema.as_mut().unwrap().name = "lock".to_owned());
        }),
        ("action_invoke", "response.id", |s| {
            edit::<Invoked>(s, |m| m.id.clear());
        }),
        ("action_invoke", "response.name", |s| {
            edit::<Invoked>(s, |m| m.name.clear());
        }),
        ("action_invoke", "response.status", |s| {
            edit::<Invoked>(s, |m| m.status = 5);
        }),
        ("action_invoke", "annotations", |s| {
            s.annotations = vec![proto::pack(&v2::RequestId::default())];
        }),
        ("action_status", "response.id", |s| {
            edit::<Status>(s, |m| m.id.clear());
        }),
        ("action_status", "response.status", |s| {
            edit::<Status>(s, |m| m.status = 0);
        }),
        ("bulk_create_tickets", "response.tickets", |s| {
            edit::<v2::TicketsServiceBulkCreateTicketsResponse>(s, |m| m.tickets.clear());
        }),
        ("bulk_get_tickets", "response.tickets", |s| {
            edit::<v2::TicketsServiceBulkGetTicketsResponse>(s, |m| m.tickets.clear());
        }),
    ];
    let (sim, mut client, configs) = scene().await;
    for (name, field, spoil) in spoiled {
        let right = rights(&configs)
            .into_iter()
            .find(|right| right.name == name)
            .unwrap();
        let task = take(&sim, &mut client, right.task).await;
        let mut answer = (right.answer)(&task, &configs);
        spoil(&mut answer);
        let before = sim.breaches().len();
        let refused = client.finish(finish(&task, answer)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name} {field}");
        let fields: Vec<String> = sim.breaches()[before..]
            .iter()
            .map(|breach| breach.field.clone())
            .collect();
        assert!(
            fields.contains(&format!("success.{field}")),
            "{name} {field}: {fields:?}"
        );
        client.finish(failure(&task)).await.unwrap();
    }
}

#[tokio::test]
async fn secrets_sealed_for_any_key_are_revealed_and_told_masked() {
    let (sim, mut client, _) = scene().await;
    let mut events = sim.events();
    for kind in KeyKind::ALL {
        let configs = vec![sim.encrypt_to(kind).unwrap()];
        let task = take(
            &sim,
            &mut client,
            tasks::create_account(
                v2::AccountInfo::default(),
                Some(tasks::random_password(30)),
                configs.clone(),
            ),
        )
        .await;
        assert!(sim.reveal(&task).is_err(), "nothing is finished yet");
        client
            .finish(finish(&task, of_account(&configs, new_account())))
            .await
            .unwrap();
        let revealed = sim.reveal(&task).unwrap();
        assert_eq!(revealed.len(), 1);
        assert_eq!(revealed[0].key, kind);
        assert_eq!(revealed[0].name, "password");
        assert_eq!(revealed[0].secret.expose_secret(), PASSWORD);
        assert!(!format!("{revealed:?}").contains("SECRETSEED"));
    }
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        assert!(!event.text.contains("SECRETSEED"), "{}", event.text);
        told.extend(event.text.contains("(30 characters)").then_some(()));
    }
    assert_eq!(told.len(), KeyKind::ALL.len());
    sim.assert_clean();
}

#[tokio::test]
async fn a_secret_that_opens_with_no_key_or_stands_in_the_clear_is_a_breach() {
    let (sim, mut client, configs) = scene().await;
    let task = tasks::create_account(
        v2::AccountInfo::default(),
        Some(tasks::random_password(30)),
        configs.clone(),
    );
    let task = take(&sim, &mut client, task).await;

    let stranger = quick().await;
    let others = [KeyKind::Ed25519, KeyKind::Age].map(|kind| stranger.encrypt_to(kind).unwrap());
    let mut foreign = of_account(&configs, new_account());
    edit::<v2::CreateAccountResponse>(&mut foreign, |response| {
        for (ours, theirs) in response.encrypted_data.iter_mut().zip(sealed(&others)) {
            ours.encrypted_bytes = theirs.encrypted_bytes;
        }
    });
    let refused = client.finish(finish(&task, foreign)).await.unwrap_err();
    assert!(refused.message().contains("opens with no key"));

    let mut open = of_account(&configs, new_account());
    edit::<v2::CreateAccountResponse>(&mut open, |response| {
        for copy in &mut response.encrypted_data {
            PASSWORD.clone_into(&mut copy.description);
        }
    });
    let refused = client.finish(finish(&task, open)).await.unwrap_err();
    assert!(refused.message().contains("in the clear"));
    assert!(!refused.message().contains("SECRETSEED"));
    assert_eq!(sim.breaches().len(), 2);
}

#[tokio::test]
async fn a_password_is_sealed_for_the_key_of_the_client_secret() {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use baton_jumpcloud::crypto::{jwk::Ed25519Jwk, open};

    for key_id in [None, Some("kid-7".to_owned())] {
        let sim = ConductorOneSim::start(super::Config {
            key_id,
            ..super::Config::default()
        })
        .await
        .unwrap();
        let sealed = sim.seal(&SecretString::from(PASSWORD)).unwrap();
        let payload = sim.client_secret().rsplit(':').next().unwrap();
        let jwk = URL_SAFE_NO_PAD.decode(payload).unwrap();
        let key = Ed25519Jwk::from_json(&jwk).unwrap();
        let opened = open::password(&key, &[sealed]).unwrap();
        assert_eq!(opened.expose_secret(), PASSWORD);
    }
}

#[tokio::test]
async fn a_task_is_handed_out_again_on_demand_while_it_runs_and_after_its_end() {
    let sim = quick().await;
    let mut client = Client::greeted(&sim).await;
    let task = take(&sim, &mut client, tasks::revoke(grant())).await;
    assert!(sim.deliver_again(&task));
    assert_eq!(client.next().await.unwrap().unwrap().id, task);
    client.finish(failure(&task)).await.unwrap();
    assert!(client.next().await.unwrap().is_none());
    assert!(sim.deliver_again(&task));
    assert_eq!(client.next().await.unwrap().unwrap().id, task);
    client.finish(failure(&task)).await.unwrap();
    assert_eq!(sim.task(&task).unwrap().deliveries, 3);
    sim.wait_for_finishes(&task, 2, PATIENCE).await.unwrap();
    assert!(!sim.deliver_again("nothing"));
    sim.assert_clean();
}

/// A simulator that has got the file of one user, one group and one grant.
async fn synced() -> (ConductorOneSim, Client) {
    let (sim, mut client, task) = super::syncing().await;
    let folder = tempfile::tempdir().unwrap();
    let file = c1z(folder.path(), "");
    client.upload(whole(&task, &file)).await.unwrap();
    client.finish(success(&task, None)).await.unwrap();
    (sim, client)
}

#[tokio::test]
async fn the_objects_of_the_latest_file_are_found_by_their_ids() {
    let nothing = quick().await;
    assert!(nothing.synced().is_err());
    let (sim, _client) = synced().await;
    let synced = sim.synced().unwrap();
    let user = &synced.resources("user").unwrap()[0];
    let user_id = user.id.clone().unwrap();
    assert_eq!(synced.resource("user", &user_id.resource).unwrap(), *user);
    let group = synced.resources("group").unwrap()[0].id.clone().unwrap();
    let entitlement = format!("group:{}:member", group.resource);
    assert_eq!(synced.entitlement(&entitlement).unwrap().id, entitlement);
    let grants = synced.grants(&entitlement).unwrap();
    assert_eq!(grants, [synced.grant(&entitlement, &user_id).unwrap()]);
    assert!(synced.resource("user", "nobody").is_err());
    assert!(synced.named("user", "Nobody").is_err());
}

#[tokio::test]
async fn a_script_describes_every_kind_of_provisioning_task() {
    let sim = quick().await;
    let specs = [
        "{ kind: grant, entitlement: 'group:1:member', principal: user/1 }",
        "{ kind: revoke, entitlement: 'group:1:member', principal: user/1 }",
        "{ kind: create_account, account: { login: new.person, emails: [new@example.com], profile: { firstname: New } },
           credential: { random-password: 20 }, force-change: true, encrypt-to: [p256, age] }",
        "{ kind: create_resource, resource-type: group, display-name: Crew }",
        "{ kind: delete_resource, resource: group/1 }",
        "{ kind: rotate_credentials, resource: user/1, credential: no-password }",
        "{ kind: issue_credential, resource: user/1, expires-in: 1h, encrypt-to: [ed25519] }",
        "{ kind: action_list_schemas, resource-type: user }",
        "{ kind: action_get_schema, action: unlock }",
        "{ kind: action_invoke, action: unlock, resource-type: user, args: { user: u, deep: [1, true, null] } }",
        "{ kind: action_status, id: run }",
        "{ kind: create_ticket_task, display-name: help }",
        "{ kind: bulk_create_tickets, display-name: help }",
        "{ kind: get_ticket, id: t }",
        "{ kind: bulk_get_tickets, id: t }",
        "{ kind: list_ticket_schemas }",
    ];
    let mut tasks = Vec::new();
    for spec in specs {
        let spec: TaskSpec = serde_saphyr::from_str(spec).unwrap();
        let task = spec.build(&sim.control()).await.unwrap();
        assert_eq!(
            baton_jumpcloud::sim::conductorone::kind(&task),
            spec.kind,
            "the spec and the task are of one kind"
        );
        tasks.push(task.task_type.unwrap());
    }
    use baton::task::TaskType;
    let [
        TaskType::Grant(granted),
        TaskType::Revoke(revoked),
        TaskType::CreateAccount(account),
        ..,
    ] = tasks.as_slice()
    else {
        panic!("the kinds are in the order of the specs");
    };
    let entitlement = granted.entitlement.as_ref().unwrap();
    assert_eq!(entitlement.slug, "member");
    assert_eq!(
        entitlement.resource.as_ref().unwrap().id,
        Some(id("group", "1"))
    );
    assert_eq!(revoked.grant.as_ref().unwrap().id, "group:1:member:user:1");
    let info = account.account_info.as_ref().unwrap();
    assert!(info.emails[0].is_primary);
    assert_eq!(
        info.profile.as_ref().unwrap().fields["firstname"].kind,
        Some(Kind::StringValue("New".to_owned()))
    );
    assert_eq!(account.encryption_configs.len(), 2);
    assert!(
        account
            .credential_options
            .as_ref()
            .unwrap()
            .force_change_at_next_login
    );
    for (spec, problem) in [
        ("{ kind: grant, principal: user/1 }", "entitlement"),
        ("{ kind: revoke, entitlement: 'a:b:c' }", "principal"),
        (
            "{ kind: grant, entitlement: 'abc', principal: user/1 }",
            "<slug>",
        ),
        ("{ kind: delete_resource }", "resource"),
        ("{ kind: delete_resource, resource: group }", "<type>/<id>"),
    ] {
        let spec: TaskSpec = serde_saphyr::from_str(spec).unwrap();
        let error = spec.build(&sim.control()).await.unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[tokio::test]
async fn a_script_takes_its_objects_from_the_latest_file_and_checks_secrets() {
    let (sim, mut client) = synced().await;
    let file = sim.synced().unwrap();
    let user = file.resources("user").unwrap()[0].clone();
    let group = file.resources("group").unwrap()[0].id.clone().unwrap();
    let entitlement = format!("group:{}:member", group.resource);
    let script = Script::parse(&format!(
        "
        - task: {{ name: take, kind: revoke, entitlement: '{entitlement}', principal: user/{} }}
        - wait-for-finish: {{ task: take, within: 10s, expect: retryable }}
        - deliver-again: take
        - task: {{ name: make, kind: create_account, credential: {{ random-password: 30 }}, encrypt-to: [ed25519] }}
        - wait-for-finish: {{ task: make, within: 10s, expect: success }}
        - expect-secrets: make
        - expect-secrets: take
        ",
        user.id.clone().unwrap().resource
    ))
    .unwrap();
    let control = sim.control();
    let work = async {
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let Some(task) = client.next().await.unwrap() else {
                tokio::task::yield_now().await;
                continue;
            };
            let message = match &task.task_type {
                Some(baton::task::TaskType::CreateAccount(account)) => finish(
                    &task.id,
                    of_account(&account.encryption_configs, new_account()),
                ),
                _ => failure(&task.id),
            };
            client.finish(message).await.unwrap();
            seen.push(task);
        }
        seen
    };
    let (seen, ran) = tokio::join!(work, script.run(&control));
    let error = format!("{:#}", ran.unwrap_err());
    assert_eq!(
        error,
        "step 7 of the script failed: the task \"take\" gave no secrets"
    );
    let Some(baton::task::TaskType::Revoke(revoked)) = &seen[0].task_type else {
        panic!("the revocation came first");
    };
    assert_eq!(revoked.grant.as_ref().unwrap().principal, Some(user));
    sim.assert_clean();
}
