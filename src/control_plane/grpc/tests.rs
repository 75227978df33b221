//! RPCs, deadlines and the reading of failures.

use std::io;

use tonic::{ConnectError as TonicConnectError, metadata::MetadataMap};
use tonic_types::ErrorDetails;

use super::*;

fn wire(seconds: i64, nanos: i32) -> ProtoDuration {
    ProtoDuration { seconds, nanos }
}

#[test]
fn durations_of_the_wire_never_go_below_zero_and_never_overflow() {
    for (given, expected) in [
        (wire(0, 0), Duration::ZERO),
        (wire(30, 500_000_000), Duration::from_millis(30_500)),
        (wire(-1, 0), Duration::ZERO),
        (wire(0, -1), Duration::ZERO),
        (wire(1, -1), Duration::from_nanos(999_999_999)),
        (wire(1, i32::MAX), Duration::new(3, 147_483_647)),
        (wire(i64::MIN, i32::MIN), Duration::ZERO),
        (
            wire(i64::MAX, 999_999_999),
            Duration::new(9_223_372_036_854_775_807, 999_999_999),
        ),
    ] {
        assert_eq!(duration(&given), expected, "{given:?}");
    }
}

#[test]
fn a_host_id_has_1_to_256_characters() {
    assert_eq!(host_id(""), "baton-sdk");
    assert_eq!(host_id("pod-1"), "pod-1");
    assert_eq!(host_id(&"ü".repeat(300)).chars().count(), 256);
    assert_eq!(host_id(&"a".repeat(256)).len(), 256);
}

#[test]
fn a_client_name_that_a_header_cannot_carry_still_gives_a_user_agent() {
    assert_eq!(user_agent("acme", "1.2.3"), "acme baton-jumpcloud/1.2.3");
    assert_eq!(user_agent("ä\u{1}b", "1"), "--b baton-jumpcloud/1");
}

#[test]
fn a_task_of_type_none_or_without_an_id_is_no_work_but_an_unknown_type_is() {
    let task = |id: &str, kind| baton::Task {
        id: id.to_owned(),
        task_type: kind,
        ..Default::default()
    };
    let none = || Some(TaskType::None(baton::task::NoneTask::default()));
    let hello = || Some(TaskType::Hello(baton::task::HelloTask::default()));
    assert!(!is_work(&task("1", none())));
    assert!(!is_work(&task("", hello())));
    assert!(is_work(&task("1", hello())));
    assert!(is_work(&task("1", None)));
}

#[test]
fn annotations_beyond_sixteen_are_left_out() {
    let many = vec![Any::default(); 20];
    assert_eq!(capped(many, "FinishTask").len(), 16);
    assert_eq!(capped(vec![Any::default(); 3], "FinishTask").len(), 3);
}

#[test]
fn every_status_of_the_server_has_the_class_that_decides_about_retrying() {
    use tonic::Code as Tonic;
    for (code, class) in [
        (Tonic::Unavailable, Class::Retryable),
        (Tonic::Internal, Class::Retryable),
        (Tonic::DeadlineExceeded, Class::Retryable),
        (Tonic::Aborted, Class::Retryable),
        (Tonic::Cancelled, Class::Retryable),
        (Tonic::Unknown, Class::Retryable),
        (Tonic::ResourceExhausted, Class::Throttled(None)),
        (Tonic::Unauthenticated, Class::Auth),
        (Tonic::PermissionDenied, Class::Auth),
        (Tonic::NotFound, Class::NotFound),
        (Tonic::InvalidArgument, Class::Permanent),
        (Tonic::Unimplemented, Class::Permanent),
        (Tonic::FailedPrecondition, Class::Permanent),
        (Tonic::OutOfRange, Class::Permanent),
    ] {
        let error = failure("GetTask", Duration::ZERO, Status::new(code, "words"));
        assert_eq!(error.class(), class, "{code:?}");
        assert_eq!(error.code().number(), i32::from(code));
    }
}

#[test]
fn a_pause_that_the_server_asks_for_is_kept() {
    use tonic_types::StatusExt as _;
    let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(7)));
    let status = Status::with_error_details_and_metadata(
        tonic::Code::ResourceExhausted,
        "slow down",
        details,
        MetadataMap::new(),
    );
    let error = failure("GetTask", Duration::ZERO, status);
    assert_eq!(
        error.class(),
        Class::Throttled(Some(Duration::from_secs(7)))
    );
}

#[test]
fn the_words_of_the_server_are_cut_and_kept_on_one_line() {
    let status = Status::internal(format!("first\nsecond{}", "x".repeat(10_000)));
    let text = failure("Hello", Duration::ZERO, status).to_string();
    assert!(text.starts_with("ConductorOne answered Hello with Internal: first second"));
    assert!(text.chars().count() < 600, "{}", text.len());
    assert!(text.ends_with('…'));
}

#[test]
fn a_failure_below_grpc_is_told_from_an_answer() {
    let refused = ConnectError::Tcp {
        to: "h.test:443".to_owned(),
        source: io::Error::from(io::ErrorKind::ConnectionRefused).into(),
    };
    let status = Status::from_error(Box::new(TonicConnectError(refused.into())));
    let error = failure("Hello", Duration::ZERO, status);
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert_eq!(
        crate::error::chain(&error),
        "no connection to ConductorOne for Hello: no TCP connection to h.test:443: connection refused"
    );

    let broken = io::Error::from(io::ErrorKind::BrokenPipe);
    let error = failure("Hello", Duration::ZERO, Status::from_error(broken.into()));
    assert!(matches!(error, Error::Transport { .. }), "{error:?}");
    assert_eq!(
        (error.class(), error.code()),
        (Class::Retryable, Code::Unavailable)
    );

    let late = Status::from_error(Box::new(TimeoutExpired(())));
    let error = failure("Hello", Duration::from_mins(1), late);
    assert_eq!(error.to_string(), "Hello had no answer within 60s");
    assert_eq!(error.class(), Class::Retryable);
}
