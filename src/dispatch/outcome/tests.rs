//! The table from ends to results.

use super::*;
use crate::{connector, control_plane, error::Words, proto::pack, provisioning, syncer};

fn connector_error(status: u16) -> Error {
    Error::Connector(connector::Error::Http {
        method: "GET",
        endpoint: "/api/systemusers",
        status,
        advice: String::new(),
        words: None,
        retry_after: None,
    })
}

fn failed(kind: Kind, error: Error) -> (Code, bool) {
    match result(kind, End::Returned(Err(error)), None).unwrap() {
        TaskResult::Error {
            status,
            non_retryable,
            ..
        } => (Code::from_number(status.code), non_retryable),
        TaskResult::Success { .. } => panic!("a failure became a success"),
    }
}

#[test]
fn a_failed_connector_call_may_be_tried_again_according_to_the_kind_alone() {
    let final_kinds = [
        Kind::Grant,
        Kind::Revoke,
        Kind::CreateAccount,
        Kind::CreateResource,
        Kind::DeleteResource,
        Kind::RotateCredentials,
        Kind::IssueCredential,
    ];
    let retried_kinds = [
        Kind::Hello,
        Kind::SyncFull,
        Kind::CreateTicket,
        Kind::ListTicketSchemas,
        Kind::GetTicket,
        Kind::BulkCreateTickets,
        Kind::BulkGetTickets,
        Kind::ActionListSchemas,
        Kind::ActionGetSchema,
        Kind::ActionInvoke,
        Kind::ActionStatus,
        Kind::ListEventFeeds,
        Kind::ListEvents,
    ];
    for kind in final_kinds {
        assert_eq!(
            failed(kind, connector_error(503)),
            (Code::Unavailable, true),
            "{kind}"
        );
    }
    for kind in retried_kinds {
        assert_eq!(
            failed(kind, connector_error(403)),
            (Code::PermissionDenied, false),
            "{kind}"
        );
    }
}

#[test]
fn a_malformed_task_may_be_tried_again_according_to_the_kind() {
    let malformed = |kind| Error::Malformed {
        kind,
        problem: "field x is empty".to_owned(),
    };
    for kind in Kind::ALL {
        let expected = !matches!(
            kind,
            Kind::Hello
                | Kind::SyncFull
                | Kind::ListTicketSchemas
                | Kind::ActionListSchemas
                | Kind::ActionGetSchema
                | Kind::ActionInvoke
                | Kind::ActionStatus
        );
        assert_eq!(
            failed(kind, malformed(kind)),
            (Code::InvalidArgument, expected),
            "{kind}"
        );
    }
}

#[test]
fn only_the_verdict_on_the_data_makes_a_sync_final() {
    let verdict = Error::Sync(syncer::Error::Invariant {
        rule: "I5",
        problem: "two groups claim the same entitlement".to_owned(),
    });
    assert!(failed(Kind::SyncFull, verdict).1);
    assert_eq!(
        failed(Kind::SyncFull, Error::Sync(syncer::Error::Cancelled)),
        (Code::Cancelled, false)
    );
}

#[test]
fn work_that_succeeded_although_it_was_asked_to_stop_is_reported_as_done() {
    let done = Outcome::Finished {
        response: None,
        annotations: Vec::new(),
    };
    for cause in [Cause::Cancelled, Cause::HeartbeatLost, Cause::ShutDown] {
        let told = result(Kind::SyncFull, End::Returned(Ok(done.clone())), Some(cause)).unwrap();
        assert!(matches!(told, TaskResult::Success { .. }));
    }
}

#[test]
fn a_failure_after_a_request_to_stop_is_reported_as_the_stop() {
    for (cause, code) in [
        (Cause::Cancelled, Code::Cancelled),
        (Cause::HeartbeatLost, Code::Cancelled),
        (Cause::ShutDown, Code::Unavailable),
    ] {
        for end in [End::Stopped, End::Returned(Err(connector_error(500)))] {
            let Some(TaskResult::Error {
                status,
                non_retryable: false,
                ..
            }) = result(Kind::Grant, end, Some(cause))
            else {
                panic!("not a retryable failure");
            };
            assert_eq!(status.code, code.number());
            assert_eq!(status.message, cause.message());
        }
    }
}

#[test]
fn an_answered_task_has_no_result() {
    assert_eq!(
        result(Kind::Hello, End::Returned(Ok(Outcome::Answered)), None),
        None
    );
}

#[test]
fn messages_and_annotations_are_cut_to_what_the_server_accepts() {
    let Some(TaskResult::Error { status, .. }) =
        result(Kind::Grant, End::Panicked("é".repeat(9000)), None)
    else {
        panic!("not a failure");
    };
    assert!(status.message.len() <= MESSAGE_LIMIT);
    assert!(status.message.ends_with('…'));
    let many = Outcome::Finished {
        response: None,
        annotations: vec![pack(&crate::proto::connector::GrantAlreadyExists::default()); 40],
    };
    let Some(TaskResult::Success { annotations, .. }) =
        result(Kind::Grant, End::Returned(Ok(many)), None)
    else {
        panic!("not a success");
    };
    assert_eq!(annotations.len(), ANNOTATIONS_LIMIT);
}

#[test]
fn a_failure_is_never_reported_with_the_code_of_success() {
    let odd = Error::Upload(control_plane::Error::Status {
        operation: "UploadAsset",
        code: Code::Ok,
        message: String::new(),
        retry_after: None,
    });
    assert_eq!(failed(Kind::SyncFull, odd), (Code::Unknown, false));
}

#[test]
fn what_the_directory_said_is_reported_and_not_logged() {
    const SAID: &str = "User with email dana@example.com already exists";
    let http = || connector::Error::Http {
        method: "POST",
        endpoint: "/api/systemusers",
        status: 400,
        advice: String::new(),
        words: Words::new(SAID),
        retry_after: None,
    };
    let errors = [
        Error::Connector(http()),
        Error::Provisioning(provisioning::Error::Connector(http())),
        Error::Provisioning(provisioning::Error::Connector(
            connector::Error::Permission {
                what: "the JumpCloud key may not create users".to_owned(),
                words: Words::new(SAID),
            },
        )),
        Error::Connector(connector::Error::Unauthenticated {
            what: "JumpCloud refused the API key".to_owned(),
            words: Words::new(SAID),
        }),
        Error::Sync(syncer::Error::Validate(http())),
        Error::Sync(syncer::Error::Connector {
            operation: "list the grants",
            subject: "group:1".to_owned(),
            source: http(),
        }),
        Error::ActionFailed {
            code: Code::InvalidArgument,
            words: Words::new(SAID),
        },
    ];
    for error in errors {
        let end = End::Returned(Err(error));
        let logged = problem(&end).unwrap();
        assert!(!logged.is_empty());
        assert!(!logged.contains("dana"), "{logged}");
        let Some(TaskResult::Error { status, .. }) = result(Kind::CreateAccount, end, None) else {
            panic!("a failure is reported");
        };
        assert!(
            status.message.starts_with(&logged) && status.message.ends_with(SAID),
            "{} and {logged}",
            status.message
        );
    }
    assert_eq!(problem(&End::Stopped), None);
}
