//! Options and the temporary folder.

use super::*;
use crate::proto::connector as v2;

const TASK: &str = "000000000000000000000000001";

#[test]
fn every_option_of_the_task_reaches_the_engine() {
    let targeted = vec![v2::Resource {
        id: Some(v2::ResourceId {
            resource_type: "group".to_owned(),
            resource: "one".to_owned(),
            ..v2::ResourceId::default()
        }),
        ..v2::Resource::default()
    }];
    let options = SyncFullTask {
        skip_expand_grants: true,
        skip_entitlements_and_grants: true,
        skip_grants: true,
        targeted_sync_resources: targeted.clone(),
        sync_resource_type_ids: vec!["group".to_owned()],
        ..SyncFullTask::default()
    };
    let local = LocalOptions {
        resource_type_ids: vec!["user".to_owned()],
        workers: 7,
        ..LocalOptions::default()
    };
    let asked = request(&options, &local, TASK).unwrap();
    assert!(asked.skip_expand_grants);
    assert!(asked.skip_entitlements_and_grants);
    assert!(asked.skip_grants);
    assert!(!asked.empty);
    assert_eq!(asked.targeted, targeted);
    assert_eq!(asked.resource_type_ids, ["group"]);
    assert_eq!(asked.workers, 7);
}

#[test]
fn local_resource_types_count_where_the_task_names_none() {
    let local = LocalOptions {
        resource_type_ids: vec!["user".to_owned()],
        ..LocalOptions::default()
    };
    let asked = request(&SyncFullTask::default(), &local, TASK).unwrap();
    assert_eq!(asked.resource_type_ids, ["user"]);
}

#[test]
fn the_local_storage_engine_beats_that_of_the_task() {
    for (asked, local, good) in [
        ("", "", true),
        ("sqlite", "", true),
        ("pebble", "", true),
        ("stone", "", false),
        ("stone", "sqlite", true),
        ("sqlite", "stone", false),
    ] {
        assert_eq!(
            check_engine(asked, local, TASK).is_ok(),
            good,
            "{asked} {local}"
        );
    }
}

#[test]
fn a_task_that_names_more_than_any_tenant_has_is_malformed() {
    let types = SyncFullTask {
        sync_resource_type_ids: vec!["user".to_owned(); MAX_TYPES + 1],
        ..SyncFullTask::default()
    };
    let targets = SyncFullTask {
        targeted_sync_resources: vec![v2::Resource::default(); MAX_TARGETS + 1],
        ..SyncFullTask::default()
    };
    for (options, words) in [
        (types, "sync_resource_type_ids has 257 entries"),
        (targets, "targeted_sync_resources has 10001 entries"),
    ] {
        let error = request(&options, &LocalOptions::default(), TASK).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn what_failed_is_kept_for_the_next_attempt_only_where_it_can_serve_it() {
    use crate::control_plane::{
        Error as Peer,
        auth::{Answer, TokenError},
    };
    use crate::error::Code;
    let status = |code| Peer::Status {
        operation: "UploadAsset",
        code,
        message: String::new(),
        retry_after: None,
    };
    let kept = [
        Error::Stopped,
        Error::Upload(status(Code::Unavailable)),
        Error::Upload(status(Code::NotFound)),
        Error::Upload(status(Code::Unknown)),
        Error::Upload(Peer::CutShort),
        Error::Upload(Peer::Token {
            operation: "UploadAsset",
            source: TokenError::Refused {
                answer: Answer {
                    status: 404,
                    error: None,
                    description: None,
                },
            },
        }),
    ];
    for error in kept {
        assert!(passes(&error), "{error:?}");
    }
    let thrown_away = [
        // The listings that were left out would not be read again.
        Error::Sync(syncer::Error::TooManyWarnings {
            warnings: 20,
            completed: 100,
            first: String::new(),
        }),
        Error::Upload(status(Code::InvalidArgument)),
        Error::Upload(Peer::FileChanged {
            expected: 2,
            found: 1,
        }),
    ];
    for error in thrown_away {
        assert!(!passes(&error), "{error:?}");
    }
}
