//! The worker loop against a control plane that holds state, in paused time.

mod admin;
pub mod fakes;
mod full_sync;
mod life;

use std::time::Duration;

use baton_jumpcloud::{
    control_plane::{HeartbeatReply, TaskResult},
    dispatch::Settings,
    error::{Classify, Code},
    proto::{
        baton::{Task, task, task::TaskType},
        connector as v2, is,
    },
};
use tokio::{
    sync::watch,
    time::{Instant, advance, sleep},
};

use self::fakes::{
    Call, Does, FakeControlPlane, Fault, Plan, Poll, failure, full_sync, grant, id, is_finish,
    is_heartbeat, is_hello, is_poll, is_success, task,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const DOWN: Fault = Fault::Code(Code::Unavailable);

fn assert_within(delay: Duration, least: Duration, most: Duration) {
    // Timers of tokio have a resolution of a millisecond.
    let tick = Duration::from_millis(2);
    assert!(
        delay + tick >= least && delay <= most + tick,
        "{delay:?} is not within {least:?} and {most:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_for_before_the_announcement_is_accepted() {
    let control = FakeControlPlane::new();
    control.hello_fails([DOWN; 3]);
    let rig = Plan::default().start(&control);
    control.until(3, is_hello).await;
    assert!(!rig.health.is_ready());
    assert!(rig.health.has_begun());
    control.until(1, is_poll).await;
    assert!(rig.health.is_ready());
    let expected = [
        Call::Hello(String::new()),
        Call::Hello(String::new()),
        Call::Hello(String::new()),
        Call::Hello(String::new()),
        Call::Poll,
    ];
    assert_eq!(control.calls(), expected);
}

#[tokio::test(start_paused = true)]
async fn the_announcement_is_repeated_for_ever_with_doubling_delays_up_to_five_minutes() {
    let control = FakeControlPlane::new();
    control.hello_fails([DOWN; 40]);
    let rig = Plan::default().start(&control);
    control.until(41, is_hello).await;
    for (attempt, gap) in control.gaps(is_hello).into_iter().enumerate() {
        let full = SECOND * 2_u32.pow(u32::try_from(attempt).unwrap().min(9)).min(300);
        assert_within(gap, full / 2, full);
    }
    assert_eq!(rig.health.stuck_for(), None);
}

#[tokio::test(start_paused = true)]
async fn only_refusals_that_cannot_change_end_the_process_at_start() {
    let cases = [
        (Code::Cancelled, false),
        (Code::Unknown, false),
        (Code::InvalidArgument, true),
        (Code::DeadlineExceeded, false),
        (Code::NotFound, true),
        (Code::AlreadyExists, false),
        (Code::PermissionDenied, true),
        (Code::ResourceExhausted, false),
        (Code::FailedPrecondition, true),
        (Code::Aborted, false),
        (Code::OutOfRange, false),
        (Code::Unimplemented, true),
        (Code::Internal, false),
        (Code::Unavailable, false),
        (Code::DataLoss, false),
        (Code::Unauthenticated, true),
    ];
    for (code, fatal) in cases {
        let control = FakeControlPlane::new();
        control.hello_fails([Fault::Code(code)]);
        let mut rig = Plan::default().start(&control);
        if fatal {
            let error = rig.end().await.unwrap_err();
            assert_eq!(error.code(), code);
            assert_eq!(error.exit_code(), 1);
            assert_eq!(control.count(is_poll), 0);
            assert!(error.to_string().contains("check") || error.to_string().contains("below"));
        } else {
            control.until(1, is_poll).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_announcement_without_answer_is_repeated() {
    let control = FakeControlPlane::new();
    control.hello_fails([Fault::Silence]);
    let _rig = Plan::default().start(&control);
    control.until(1, is_poll).await;
    assert_within(control.gaps(is_hello)[0], 30 * SECOND, 31 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn shutdown_while_the_announcement_is_repeated_ends_at_once_and_well() {
    let control = FakeControlPlane::new();
    control.hello_fails([DOWN; 100]);
    let mut rig = Plan::default().start(&control);
    control.until(9, is_hello).await;
    assert!(rig.shut_down().await < SECOND);
}

#[tokio::test(start_paused = true)]
async fn work_is_asked_for_only_while_a_slot_is_free() {
    let control = FakeControlPlane::new();
    control.hand_out([grant(1), grant(2), grant(3)]);
    let _rig = Plan::of(Does::Work(10 * MINUTE))
        .concurrency(2)
        .start(&control);
    control.until(2, is_poll).await;
    sleep(9 * MINUTE).await;
    assert_eq!(control.count(is_poll), 2);
    control.result(&id(1)).await;
    control.until(3, is_poll).await;
    control.result(&id(3)).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_loop_waits_as_long_as_the_server_asks_within_limits() {
    let cases = [
        (None, SECOND),
        (Some(Duration::ZERO), SECOND),
        (Some(Duration::from_millis(1)), Duration::from_millis(100)),
        (Some(Duration::from_millis(500)), Duration::from_millis(500)),
        (Some(20 * SECOND), 20 * SECOND),
        (Some(300 * SECOND), 300 * SECOND),
        (Some(100_000 * SECOND), 300 * SECOND),
    ];
    for (asked, expected) in cases {
        let control = FakeControlPlane::new();
        control.polls([Poll::Tasks(Vec::new(), asked)]);
        let _rig = Plan::default().start(&control);
        control.until(2, is_poll).await;
        assert_within(control.gaps(is_poll)[0], expected, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_got_a_task_polls_again_at_once_unless_told_to_wait() {
    let control = FakeControlPlane::new();
    control.polls([
        Poll::Tasks(vec![grant(1)], None),
        Poll::Tasks(vec![grant(2)], Some(7 * SECOND)),
    ]);
    let _rig = Plan::of(Does::Succeed).start(&control);
    control.until(3, is_poll).await;
    let gaps = control.gaps(is_poll);
    assert_within(gaps[0], Duration::ZERO, Duration::ZERO);
    assert_within(gaps[1], 7 * SECOND, 7 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_none_task_is_no_task() {
    let control = FakeControlPlane::new();
    control.hand_out([task(1, TaskType::None(task::NoneTask::default()))]);
    let rig = Plan::default().start(&control);
    control.until(2, is_poll).await;
    assert_within(control.gaps(is_poll)[0], SECOND, SECOND);
    assert_eq!(rig.count("tasks_accepted"), 0);
    assert_eq!(rig.count("polls_failed"), 0);
}

#[tokio::test(start_paused = true)]
async fn failed_polls_are_repeated_with_a_pace_that_fits_the_failure() {
    let cases = [
        (DOWN, SECOND / 2, SECOND),
        (Fault::Silence, 30 * SECOND + SECOND / 2, 31 * SECOND),
        (Fault::Throttle(40 * SECOND), 40 * SECOND, 44 * SECOND),
        (
            Fault::Code(Code::ResourceExhausted),
            5 * SECOND / 2,
            5 * SECOND,
        ),
        (Fault::Code(Code::Unauthenticated), 15 * SECOND, 30 * SECOND),
        (
            Fault::Code(Code::PermissionDenied),
            15 * SECOND,
            30 * SECOND,
        ),
        (Fault::Code(Code::NotFound), 5 * SECOND / 2, 5 * SECOND),
    ];
    for (fault, least, most) in cases {
        let control = FakeControlPlane::new();
        control.polls([Poll::Fail(fault)]);
        let rig = Plan::default().start(&control);
        control.until(2, is_poll).await;
        assert_within(control.gaps(is_poll)[0], least, most);
        assert_eq!(rig.count("polls_failed"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_any_length_leaves_the_loop_alive_and_ready() {
    let control = FakeControlPlane::new();
    control.polls(vec![Poll::Fail(DOWN); 200]);
    control.hand_out([grant(1)]);
    let rig = Plan::of(Does::Succeed).start(&control);
    for _ in 0..30 {
        sleep(MINUTE).await;
        assert_eq!(rig.health.stuck_for(), None);
        assert!(rig.health.is_ready());
    }
    assert!(is_success(&control.result(&id(1)).await));
    let longest = control.gaps(is_poll).into_iter().max().unwrap();
    assert!(longest <= MINUTE + SECOND, "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn polls_without_an_answer_are_given_up_one_by_one_and_stop_nothing_for_a_day() {
    let control = FakeControlPlane::new();
    control.polls(vec![Poll::Fail(Fault::Silence); 1200]);
    let mut rig = Plan::default().start(&control);
    for _ in 0..24 * 60 {
        sleep(MINUTE).await;
        assert_eq!(rig.health.stuck_for(), None);
        assert!(rig.health.is_ready());
    }
    let polls = control.count(is_poll);
    assert!((900..1200).contains(&polls), "{polls}");
    let longest = control.gaps(is_poll).into_iter().max().unwrap();
    assert!(longest <= 91 * SECOND, "{longest:?}");
    assert!(!rig.has_ended());
    rig.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn with_both_peers_gone_for_a_day_and_every_slot_in_use_the_loop_is_alive() {
    let control = FakeControlPlane::new();
    control.hand_out([full_sync(1), full_sync(2), full_sync(3)]);
    control.polls(vec![Poll::Fail(Fault::Silence); 2000]);
    control.heartbeats((0..3000).map(|_| Err(Fault::Silence)));
    control.heartbeats_go_down();
    control.finish_goes_down(DOWN);
    // What waits for the directory hears nothing either, not even that it should stop.
    let rig = Plan::of(Does::Deaf).start(&control);
    for _ in 0..24 * 60 {
        sleep(MINUTE).await;
        assert_eq!(rig.health.stuck_for(), None);
    }
    // Each was given up, and its slot used again.
    let given_up = control.count(is_finish);
    assert!(given_up >= 3, "{given_up}");
    assert!(control.count(is_poll) > 500, "{}", control.count(is_poll));
}

#[tokio::test(start_paused = true)]
async fn a_loop_whose_slots_are_busy_for_a_day_is_not_stuck() {
    let control = FakeControlPlane::new();
    control.hand_out([grant(1)]);
    let rig = Plan::of(Does::UntilStopped).concurrency(1).start(&control);
    control.until(1, is_poll).await;
    for _ in 0..24 {
        sleep(60 * MINUTE).await;
        assert_eq!(rig.health.stuck_for(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_task_sends_no_heartbeat() {
    let control = FakeControlPlane::new();
    control.hand_out([grant(1)]);
    let _rig = Plan::of(Does::Work(29 * SECOND)).start(&control);
    assert!(is_success(&control.result(&id(1)).await));
    assert_eq!(control.count(is_heartbeat), 0);
}

#[tokio::test(start_paused = true)]
async fn every_task_that_outlives_an_interval_sends_heartbeats() {
    let control = FakeControlPlane::new();
    control.hand_out([grant(1)]);
    let _rig = Plan::of(Does::Work(100 * SECOND)).start(&control);
    let begun = Instant::now();
    control.result(&id(1)).await;
    let beats: Vec<u64> = control
        .times(is_heartbeat)
        .into_iter()
        .map(|at| (at - begun).as_secs())
        .collect();
    assert_eq!(beats, [30, 60, 90]);
}

#[tokio::test(start_paused = true)]
async fn a_sync_beats_before_it_begins() {
    let control = FakeControlPlane::new();
    control.hand_out([full_sync(1)]);
    let _rig = Plan::of(Does::Work(SECOND)).start(&control);
    let begun = Instant::now();
    control.result(&id(1)).await;
    assert_eq!(control.count(is_heartbeat), 1);
    assert_within(
        control.times(is_heartbeat)[0] - begun,
        Duration::ZERO,
        Duration::ZERO,
    );
}

#[tokio::test(start_paused = true)]
async fn the_server_sets_the_interval_of_heartbeats_within_limits() {
    let cases = [
        (None, 30 * SECOND),
        (Some(Duration::ZERO), 30 * SECOND),
        (Some(Duration::from_millis(20)), SECOND),
        (Some(45 * SECOND), 45 * SECOND),
        (Some(10_000 * SECOND), 300 * SECOND),
    ];
    for (asked, expected) in cases {
        let control = FakeControlPlane::new();
        control.next_heartbeat(asked);
        control.hand_out([full_sync(1)]);
        let _rig = Plan::of(Does::UntilStopped).start(&control);
        control.until(3, is_heartbeat).await;
        for gap in control.gaps(is_heartbeat) {
            assert_within(gap, expected, expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_in_a_heartbeat_reaches_the_running_work() {
    let control = FakeControlPlane::new();
    control.heartbeats([
        Ok(HeartbeatReply::default()),
        Ok(HeartbeatReply {
            cancelled: true,
            next_heartbeat: None,
        }),
    ]);
    control.hand_out([full_sync(1)]);
    let _rig = Plan::of(Does::UntilStopped).start(&control);
    let result = control.result(&id(1)).await;
    assert_eq!(
        failure(&result),
        (Code::Cancelled, "task was cancelled", false)
    );
    assert_eq!(control.count(is_heartbeat), 2);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_ignores_its_cancellation_is_dropped_and_reported() {
    let control = FakeControlPlane::new();
    control.heartbeats([Ok(HeartbeatReply {
        cancelled: true,
        next_heartbeat: None,
    })]);
    control.hand_out([full_sync(1), grant(2)]);
    let _rig = Plan::of(Does::Deaf).concurrency(1).start(&control);
    let begun = Instant::now();
    let result = control.result(&id(1)).await;
    assert_eq!(
        failure(&result),
        (Code::Cancelled, "task was cancelled", false)
    );
    assert_within(begun.elapsed(), 30 * SECOND, 30 * SECOND);
    control.until(2, is_poll).await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_first_heartbeat_does_not_drop_the_task() {
    let control = FakeControlPlane::new();
    control.heartbeats([Err(DOWN), Err(DOWN)]);
    control.hand_out([full_sync(1)]);
    let _rig = Plan::of(Does::Work(2 * MINUTE)).start(&control);
    assert!(is_success(&control.result(&id(1)).await));
    let gaps = control.gaps(is_heartbeat);
    assert_within(gaps[0], SECOND, 2 * SECOND);
    assert_within(gaps[1], 2 * SECOND, 4 * SECOND);
    assert_within(gaps[2], 30 * SECOND, 30 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_task_is_given_up_after_nine_failed_heartbeats_and_ten_minutes() {
    let control = FakeControlPlane::new();
    control.heartbeats([Ok(HeartbeatReply::default())]);
    control.heartbeats_go_down();
    control.hand_out([full_sync(1)]);
    let _rig = Plan::of(Does::UntilStopped).start(&control);
    let begun = Instant::now();
    let result = control.result(&id(1)).await;
    assert_eq!(
        failure(&result),
        (Code::Cancelled, "task failed heartbeat", false)
    );
    assert!(control.count(is_heartbeat) > 9);
    assert_within(begun.elapsed(), 10 * MINUTE, 11 * MINUTE);
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_without_heartbeats_do_not_count_below_nine_failures() {
    let control = FakeControlPlane::new();
    control.next_heartbeat(Some(300 * SECOND));
    control.heartbeats([Ok(HeartbeatReply {
        next_heartbeat: Some(300 * SECOND),
        cancelled: false,
    })]);
    control.heartbeats((0..4).map(|_| Err(Fault::Throttle(299 * SECOND))));
    control.hand_out([full_sync(1)]);
    let _rig = Plan::of(Does::Work(60 * MINUTE)).start(&control);
    assert!(is_success(&control.result(&id(1)).await));
}

#[tokio::test(start_paused = true)]
async fn heartbeats_go_on_until_the_result_is_reported() {
    let control = FakeControlPlane::new();
    control.finish_fails([DOWN; 9]);
    control.hand_out([grant(1)]);
    let _rig = Plan::of(Does::Succeed).start(&control);
    control.until(10, is_finish).await;
    let reported = *control.times(is_finish).last().unwrap();
    assert!(control.count(is_heartbeat) >= 2);
    sleep(10 * MINUTE).await;
    assert!(control.times(is_heartbeat).iter().all(|at| *at <= reported));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_handler_is_reported_and_ends_nothing_else() {
    let control = FakeControlPlane::new();
    control.hand_out([grant(1), grant(2)]);
    let rig = Plan::of(Does::Panic).start(&control);
    let result = control.result(&id(1)).await;
    let (code, message, non_retryable) = failure(&result);
    assert_eq!(code, Code::Internal);
    assert!(message.contains("the handler ran out of ink"), "{message}");
    assert!(non_retryable);
    control.result(&id(2)).await;
    sleep(SECOND).await;
    assert_eq!(
        rig.metrics.sum(
            "baton_jumpcloud_tasks_finished_total",
            &["kind=\"grant\"", "outcome=\"panicked\""]
        ),
        2
    );
    assert!(!rig.has_ended());
    assert_eq!(control.count(is_finish), 2);
}

#[tokio::test(start_paused = true)]
async fn a_task_without_a_type_is_refused_for_good() {
    let control = FakeControlPlane::new();
    control.hand_out([Task {
        id: id(1),
        ..Task::default()
    }]);
    let _rig = Plan::default().start(&control);
    let result = control.result(&id(1)).await;
    let (code, message, non_retryable) = failure(&result);
    assert_eq!((code, non_retryable), (Code::Unimplemented, true));
    assert!(message.contains("no type"), "{message}");
    assert!(message.contains(env!("CARGO_PKG_VERSION")), "{message}");
}

fn provisioning_types() -> [(&'static str, TaskType); 7] {
    [
        ("grant", TaskType::Grant(task::GrantTask::default())),
        ("revoke", TaskType::Revoke(task::RevokeTask::default())),
        (
            "create_account",
            TaskType::CreateAccount(task::CreateAccountTask::default()),
        ),
        (
            "create_resource",
            TaskType::CreateResource(task::CreateResourceTask::default()),
        ),
        (
            "delete_resource",
            TaskType::DeleteResource(task::DeleteResourceTask::default()),
        ),
        (
            "rotate_credential",
            TaskType::RotateCredentials(task::RotateCredentialsTask::default()),
        ),
        (
            "issue_credential",
            TaskType::IssueCredential(task::IssueCredentialTask::default()),
        ),
    ]
}

fn unsupported_types() -> [(&'static str, TaskType); 8] {
    [
        (
            "event_feed",
            TaskType::EventFeed(task::EventFeedTask::default()),
        ),
        (
            "create_ticket",
            TaskType::CreateTicketTask(task::CreateTicketTask::default()),
        ),
        (
            "list_ticket_schemas",
            TaskType::ListTicketSchemas(task::ListTicketSchemasTask::default()),
        ),
        (
            "get_ticket",
            TaskType::GetTicket(task::GetTicketTask::default()),
        ),
        (
            "bulk_create_tickets",
            TaskType::BulkCreateTickets(task::BulkCreateTicketsTask::default()),
        ),
        (
            "bulk_get_tickets",
            TaskType::BulkGetTickets(task::BulkGetTicketsTask::default()),
        ),
        (
            "create_sync_diff",
            TaskType::CreateSyncDiff(task::CreateSyncDiffTask::default()),
        ),
        (
            "compact_syncs",
            TaskType::CompactSyncs(task::CompactSyncs::default()),
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn provisioning_is_refused_for_good_while_the_switch_is_off() {
    for (name, task_type) in provisioning_types() {
        let control = FakeControlPlane::new();
        control.hand_out([task(1, task_type)]);
        let _rig = Plan::default().start(&control);
        let result = control.result(&id(1)).await;
        let (code, message, non_retryable) = failure(&result);
        assert_eq!(
            (code, non_retryable),
            (Code::FailedPrecondition, true),
            "{name}"
        );
        assert!(
            message.starts_with("provisioning is not enabled")
                && message.contains("BATON_PROVISIONING"),
            "{name}: {message}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn kinds_that_are_not_supported_are_refused_for_good_by_name() {
    for (name, task_type) in unsupported_types() {
        let control = FakeControlPlane::new();
        control.hand_out([task(1, task_type)]);
        let _rig = Plan::default().start(&control);
        let result = control.result(&id(1)).await;
        let (code, message, non_retryable) = failure(&result);
        assert_eq!((code, non_retryable), (Code::Unimplemented, true), "{name}");
        if name.contains("ticket") {
            assert!(message.contains("JumpCloud has none"), "{message}");
        } else {
            assert!(message.contains(name), "{message}");
            assert!(message.contains(env!("CARGO_PKG_VERSION")), "{message}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_lacks_a_field_is_refused_for_good_and_the_field_is_named() {
    for (name, task_type) in provisioning_types() {
        let control = FakeControlPlane::new();
        control.hand_out([task(1, task_type)]);
        let plan = Plan {
            provisioning: true,
            ..Plan::default()
        };
        let _rig = plan.start(&control);
        let result = control.result(&id(1)).await;
        let (code, message, non_retryable) = failure(&result);
        assert!(non_retryable, "{name}");
        if name == "issue_credential" {
            assert_eq!(code, Code::Unimplemented, "{message}");
            assert!(message.contains("issuing credentials"), "{message}");
        } else {
            assert_eq!(code, Code::InvalidArgument, "{message}");
            assert!(
                message.contains(name) && message.contains("is missing"),
                "{message}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_lists_of_event_feeds_and_actions_are_truthfully_empty() {
    let control = FakeControlPlane::new();
    control.hand_out([
        task(
            1,
            TaskType::ListEventFeeds(task::ListEventFeedsTask::default()),
        ),
        task(
            2,
            TaskType::ActionListSchemas(task::ActionListSchemasTask::default()),
        ),
    ]);
    let _rig = Plan::default().start(&control);
    let TaskResult::Success {
        response: Some(feeds),
        annotations,
    } = control.result(&id(1)).await
    else {
        panic!("the list of feeds failed");
    };
    assert!(is::<v2::ListEventFeedsResponse>(&feeds) && feeds.value.is_empty());
    assert!(annotations.is_empty());
    let TaskResult::Success {
        response: Some(actions),
        ..
    } = control.result(&id(2)).await
    else {
        panic!("the list of actions failed");
    };
    assert!(is::<v2::ListActionSchemasResponse>(&actions) && actions.value.is_empty());
}

#[tokio::test(start_paused = true)]
async fn feeds_and_actions_that_do_not_exist_are_not_found_by_name() {
    let schema = |name: &str| {
        TaskType::ActionGetSchema(task::ActionGetSchemaTask {
            name: name.to_owned(),
            ..task::ActionGetSchemaTask::default()
        })
    };
    let status = |id: &str| {
        TaskType::ActionStatus(task::ActionStatusTask {
            id: id.to_owned(),
            ..task::ActionStatusTask::default()
        })
    };
    let events = |feed: &str| {
        TaskType::ListEvents(task::ListEventsTask {
            event_feed_id: feed.to_owned(),
            ..task::ListEventsTask::default()
        })
    };
    let cases = [
        (
            events(""),
            Code::NotFound,
            "event feed \"baton_feed_event\" not found",
            true,
        ),
        (
            events("mine"),
            Code::NotFound,
            "event feed \"mine\" not found",
            true,
        ),
        (
            schema("lock"),
            Code::NotFound,
            "action schema \"lock\" not found",
            false,
        ),
        (
            schema(""),
            Code::InvalidArgument,
            "malformed get_action_schema task: field name is empty",
            false,
        ),
        (
            status("a1"),
            Code::NotFound,
            "action \"a1\" not found",
            false,
        ),
        (
            status(""),
            Code::InvalidArgument,
            "malformed action_status task: field id is empty",
            false,
        ),
    ];
    for (task_type, code, message, non_retryable) in cases {
        let control = FakeControlPlane::new();
        control.hand_out([task(1, task_type)]);
        let _rig = Plan::default().start(&control);
        let result = control.result(&id(1)).await;
        assert_eq!(failure(&result), (code, message, non_retryable));
    }
}

#[tokio::test(start_paused = true)]
async fn a_hello_task_is_answered_by_hello_alone() {
    let control = FakeControlPlane::new();
    control.hand_out([task(1, TaskType::Hello(task::HelloTask::default()))]);
    let rig = Plan::default().start(&control);
    control.until(2, is_hello).await;
    sleep(MINUTE).await;
    assert!(control.calls().contains(&Call::Hello(id(1))));
    assert_eq!(control.count(is_finish), 0);
    assert_eq!(rig.count("tasks_reported"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hello_task_that_fails_is_finished_with_a_retryable_error() {
    let control = FakeControlPlane::new();
    control.polls([Poll::Late(vec![task(
        1,
        TaskType::Hello(task::HelloTask::default()),
    )])]);
    let _rig = Plan::default().start(&control);
    control.until(1, is_poll).await;
    control.hello_fails([DOWN]);
    control.gate.notify_one();
    let result = control.result(&id(1)).await;
    let (code, message, non_retryable) = failure(&result);
    assert_eq!((code, non_retryable), (Code::Unavailable, false));
    assert!(
        message.starts_with("the answer to the hello task failed: "),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_report_is_repeated_until_it_gets_through() {
    let control = FakeControlPlane::new();
    control.finish_fails([
        DOWN,
        Fault::Code(Code::Internal),
        Fault::Code(Code::Unauthenticated),
        Fault::Code(Code::Unknown),
        Fault::Throttle(9 * SECOND),
        Fault::Silence,
    ]);
    control.hand_out([grant(1)]);
    let rig = Plan::of(Does::Succeed).start(&control);
    control.until(7, is_finish).await;
    sleep(10 * MINUTE).await;
    let results = control.results(&id(1));
    assert_eq!(results.len(), 7);
    assert!(results.iter().all(is_success));
    let gaps = control.gaps(is_finish);
    assert_within(gaps[4], 9 * SECOND, 10 * SECOND);
    assert_within(gaps[5], 30 * SECOND, 60 * SECOND);
    assert_eq!(
        (rig.count("tasks_reported"), rig.count("tasks_lost")),
        (1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_report_that_the_server_refuses_is_not_repeated() {
    let control = FakeControlPlane::new();
    control.finish_goes_down(Fault::Code(Code::InvalidArgument));
    control.hand_out([grant(1)]);
    let rig = Plan::of(Does::Succeed).start(&control);
    control.until(1, is_finish).await;
    sleep(10 * MINUTE).await;
    assert_eq!(control.count(is_finish), 1);
    assert_eq!(rig.count("tasks_lost"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_report_that_got_no_access_token_is_repeated() {
    let control = FakeControlPlane::new();
    control.finish_fails([Fault::NoToken; 5]);
    control.hand_out([grant(1)]);
    let rig = Plan::of(Does::Succeed).start(&control);
    control.until(6, is_finish).await;
    sleep(10 * MINUTE).await;
    assert_eq!(control.count(is_finish), 6);
    assert_eq!(
        (rig.count("tasks_reported"), rig.count("tasks_lost")),
        (1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_report_is_lost_and_counted_when_its_budget_is_spent() {
    for fault in [DOWN, Fault::NoToken] {
        let control = FakeControlPlane::new();
        control.finish_goes_down(fault);
        control.hand_out([grant(1)]);
        let rig = Plan::of(Does::Succeed).concurrency(1).start(&control);
        let begun = Instant::now();
        control.until(2, is_poll).await;
        assert_within(begun.elapsed(), 4 * MINUTE, 5 * MINUTE);
        assert_eq!(
            (rig.count("tasks_reported"), rig.count("tasks_lost")),
            (0, 1)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_handed_out_again_while_it_runs_is_ignored() {
    for batches in [false, true] {
        let control = FakeControlPlane::new();
        control.hand_out([grant(1), grant(1), grant(2)]);
        let mut plan = Plan::of(Does::Work(MINUTE));
        plan.settings.get_tasks = batches;
        let rig = plan.start(&control);
        control.result(&id(1)).await;
        control.result(&id(2)).await;
        sleep(10 * MINUTE).await;
        assert_eq!(control.count(is_finish), 2);
        assert_eq!(rig.count("tasks_accepted"), 2);
        assert_eq!(
            rig.metrics.sum(
                "baton_jumpcloud_tasks_skipped_total",
                &["reason=\"duplicate\""]
            ),
            1
        );
        assert_within(control.gaps(is_poll)[1], SECOND, SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_comes_back_after_its_end_is_done_again() {
    let control = FakeControlPlane::new();
    control.polls([
        Poll::Tasks(vec![grant(1)], Some(MINUTE)),
        Poll::Tasks(vec![grant(1)], Some(MINUTE)),
    ]);
    let _rig = Plan::of(Does::Succeed).concurrency(1).start(&control);
    control.until(2, is_finish).await;
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_id_cannot_be_reported_is_left_alone() {
    let malformed = [
        "",
        "1",
        &"x".repeat(26),
        &"x".repeat(28),
        &"é".repeat(13),
        "aaaaaaaaaaaaaaaaaaaaaaaaa-a",
    ]
    .map(|id| Task {
        id: id.to_owned(),
        ..grant(0)
    });
    let count = malformed.len();
    let control = FakeControlPlane::new();
    control.hand_out(malformed);
    control.hand_out([grant(7)]);
    let rig = Plan::of(Does::Succeed).concurrency(1).start(&control);
    assert!(is_success(&control.result(&id(7)).await));
    assert_eq!(control.count(is_finish), 1);
    assert_eq!(rig.count("tasks_skipped"), u64::try_from(count).unwrap());
}

#[tokio::test(start_paused = true)]
async fn batches_ask_for_twice_the_slots_less_what_is_known() {
    let control = FakeControlPlane::new();
    control.polls([
        Poll::Tasks(vec![grant(1)], Some(SECOND)),
        Poll::Tasks(vec![grant(2), grant(3), grant(4), grant(5)], Some(SECOND)),
    ]);
    let _rig = Plan::of(Does::Work(MINUTE))
        .concurrency(3)
        .batches()
        .start(&control);
    control.until(3, is_poll).await;
    let asked: Vec<Call> = control.calls().into_iter().filter(is_poll).collect();
    let many = |page, known: &[u32]| Call::PollMany {
        page,
        known: known.iter().copied().map(id).collect(),
    };
    assert_eq!(asked[0], many(6, &[]));
    assert_eq!(asked[1], many(5, &[1]));
    // Five tasks are more than three slots: the next poll comes when fewer are known than there are slots.
    assert_eq!(control.count(is_finish), 3);
    assert_eq!(asked[2], many(4, &[4, 5]));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_never_larger_than_the_server_allows() {
    let control = FakeControlPlane::new();
    let _rig = Plan::of(Does::Succeed)
        .concurrency(100)
        .batches()
        .start(&control);
    control.until(1, is_poll).await;
    let page = control.calls().into_iter().find_map(|call| match call {
        Call::PollMany { page, .. } => Some(page),
        _ => None,
    });
    assert_eq!(page, Some(100));
}

#[tokio::test(start_paused = true)]
async fn tasks_that_wait_for_a_slot_run_in_order_and_are_kept_alive() {
    let control = FakeControlPlane::new();
    control.polls([Poll::Tasks(vec![grant(1), grant(2), grant(3)], None)]);
    let _rig = Plan::of(Does::Work(48 * SECOND))
        .concurrency(1)
        .batches()
        .start(&control);
    control.until(3, is_finish).await;
    let finished: Vec<String> = control
        .calls()
        .into_iter()
        .filter_map(|call| match call {
            Call::Finish(id, _) => Some(id),
            _ => None,
        })
        .collect();
    assert_eq!(finished, [id(1), id(2), id(3)]);
    let beats = |number| control.count(|call| *call == Call::Heartbeat(id(number)));
    assert_eq!((beats(1), beats(2), beats(3)), (1, 3, 4));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_task_that_is_cancelled_never_begins() {
    let control = FakeControlPlane::new();
    control.polls([Poll::Tasks(vec![grant(1), full_sync(2)], None)]);
    control.heartbeats([Ok(HeartbeatReply {
        cancelled: true,
        next_heartbeat: None,
    })]);
    let _rig = Plan::of(Does::Work(20 * SECOND))
        .concurrency(1)
        .batches()
        .start(&control);
    let result = control.result(&id(2)).await;
    assert_eq!(
        failure(&result),
        (Code::Cancelled, "task was cancelled", false)
    );
    assert!(is_success(&control.result(&id(1)).await));
}

#[tokio::test(start_paused = true)]
async fn a_server_without_batches_is_asked_for_single_tasks_from_then_on() {
    let control = FakeControlPlane::new();
    control.knows_no_batches();
    control.hand_out([grant(1)]);
    let _rig = Plan::of(Does::Succeed).batches().start(&control);
    control.result(&id(1)).await;
    control.until(4, is_poll).await;
    let polls: Vec<Call> = control.calls().into_iter().filter(is_poll).collect();
    assert!(matches!(polls[0], Call::PollMany { .. }));
    assert!(polls[1..].iter().all(|call| *call == Call::Poll));
    assert_within(control.gaps(is_poll)[0], Duration::ZERO, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_idle_loop_shuts_down_at_once() {
    let control = FakeControlPlane::new();
    let mut rig = Plan::default().start(&control);
    control.until(1, is_poll).await;
    sleep(SECOND).await;
    assert!(rig.shut_down().await < SECOND);
    assert!(!rig.health.is_ready());
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_a_running_task_may_end_and_nothing_more_is_asked_for() {
    let control = FakeControlPlane::new();
    control.hand_out([grant(1)]);
    let mut rig = Plan::of(Does::Work(20 * SECOND)).start(&control);
    control.until(2, is_poll).await;
    rig.shutdown.cancel();
    sleep(SECOND).await;
    assert!(!rig.health.is_ready());
    assert_eq!(rig.health.stuck_for(), None);
    let took = rig.shut_down().await;
    assert_within(took, 18 * SECOND, 20 * SECOND);
    assert!(is_success(&control.result(&id(1)).await));
    assert_eq!(control.count(is_poll), 2);
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_a_task_that_does_not_end_is_stopped_and_handed_back() {
    let control = FakeControlPlane::new();
    control.hand_out([grant(1), full_sync(2)]);
    let mut rig = Plan::of(Does::UntilStopped).start(&control);
    control.until(3, is_poll).await;
    let took = rig.shut_down().await;
    assert_within(took, 25 * SECOND, 26 * SECOND);
    for number in [1, 2] {
        assert_eq!(
            failure(&control.result(&id(number)).await),
            (Code::Unavailable, "connector is shutting down", false)
        );
    }
    assert_eq!(control.count(is_finish), 2);
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_a_deaf_handler_is_dropped_in_time_to_be_reported() {
    let control = FakeControlPlane::new();
    control.hand_out([grant(1)]);
    let mut rig = Plan::of(Does::Deaf).start(&control);
    control.until(2, is_poll).await;
    let took = rig.shut_down().await;
    assert_within(took, 27 * SECOND, 28 * SECOND);
    assert_eq!(
        failure(&control.result(&id(1)).await),
        (Code::Unavailable, "connector is shutting down", false)
    );
}

#[tokio::test(start_paused = true)]
async fn a_deaf_handler_that_was_cancelled_just_before_the_shutdown_is_reported_too() {
    let control = FakeControlPlane::new();
    control.heartbeats([Ok(HeartbeatReply {
        cancelled: true,
        next_heartbeat: None,
    })]);
    control.hand_out([grant(1)]);
    let mut rig = Plan::of(Does::Deaf).start(&control);
    control.until(1, is_heartbeat).await;
    let took = rig.shut_down().await;
    assert_within(took, 27 * SECOND, 28 * SECOND);
    assert_eq!(
        failure(&control.result(&id(1)).await),
        (Code::Cancelled, "task was cancelled", false)
    );
    assert_eq!(rig.count("tasks_reported"), 1);
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_a_report_is_retried_only_while_grace_is_left() {
    for fault in [DOWN, Fault::Silence] {
        let control = FakeControlPlane::new();
        control.finish_goes_down(fault);
        control.hand_out([grant(1)]);
        let mut rig = Plan::of(Does::Succeed).start(&control);
        control.until(1, is_finish).await;
        let took = rig.shut_down().await;
        assert!(took <= 30 * SECOND, "{took:?} after {fault:?}");
        assert_eq!(rig.count("tasks_lost"), 1, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiting_report_is_tried_at_once_when_shutdown_begins() {
    let control = FakeControlPlane::new();
    control.finish_fails([Fault::Throttle(200 * SECOND)]);
    control.hand_out([grant(1)]);
    let mut rig = Plan::of(Does::Succeed).start(&control);
    control.until(1, is_finish).await;
    sleep(SECOND).await;
    assert!(rig.shut_down().await < SECOND);
    assert_eq!(rig.count("tasks_reported"), 1);
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_a_task_in_the_last_poll_is_handed_back() {
    let control = FakeControlPlane::new();
    control.polls([Poll::Late(vec![grant(1)])]);
    let mut rig = Plan::of(Does::Succeed).start(&control);
    control.until(1, is_poll).await;
    rig.shutdown.cancel();
    sleep(SECOND).await;
    control.gate.notify_one();
    rig.end().await.unwrap();
    assert_eq!(
        failure(&control.result(&id(1)).await),
        (Code::Unavailable, "connector is shutting down", false)
    );
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_a_poll_without_answer_is_given_up_after_two_seconds() {
    let control = FakeControlPlane::new();
    control.polls([Poll::Fail(Fault::Silence)]);
    let mut rig = Plan::default().start(&control);
    control.until(1, is_poll).await;
    assert_within(rig.shut_down().await, 2 * SECOND, 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_tasks_that_wait_for_a_slot_are_handed_back_at_once() {
    let control = FakeControlPlane::new();
    control.polls([Poll::Tasks(vec![grant(1), grant(2)], None)]);
    let mut rig = Plan::of(Does::Work(10 * SECOND))
        .concurrency(1)
        .batches()
        .start(&control);
    control.until(1, is_poll).await;
    sleep(SECOND).await;
    let begun = Instant::now();
    rig.shutdown.cancel();
    let result = control.result(&id(2)).await;
    assert_within(begun.elapsed(), Duration::ZERO, SECOND);
    assert_eq!(
        failure(&result),
        (Code::Unavailable, "connector is shutting down", false)
    );
    rig.end().await.unwrap();
    assert!(is_success(&control.result(&id(1)).await));
}

#[tokio::test(start_paused = true)]
async fn a_short_grace_keeps_half_of_itself_for_stopping() {
    let control = FakeControlPlane::new();
    control.hand_out([grant(1)]);
    let mut plan = Plan::of(Does::UntilStopped);
    plan.settings = Settings {
        shutdown_grace: 4 * SECOND,
        ..Settings::default()
    };
    let mut rig = plan.start(&control);
    control.until(2, is_poll).await;
    assert_within(rig.shut_down().await, 2 * SECOND, 3 * SECOND);
    assert_eq!(failure(&control.result(&id(1)).await).0, Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_is_silent_beyond_its_announced_wait_counts_as_stuck() {
    let health = baton_jumpcloud::admin::health::Health::new();
    assert_eq!(health.stuck_for(), None);
    assert!(!health.has_begun());
    health.beat(Duration::ZERO);
    advance(600 * SECOND).await;
    assert_eq!(health.stuck_for(), None);
    advance(SECOND).await;
    assert!(health.stuck_for().is_some());
    health.beat(400 * SECOND);
    advance(860 * SECOND).await;
    assert_eq!(health.stuck_for(), None);
    advance(SECOND).await;
    assert!(health.stuck_for().is_some());
    health.stop();
    assert_eq!(health.stuck_for(), None);
}

fn standby() -> (Plan, watch::Sender<bool>) {
    let (turn, leading) = watch::channel(false);
    let mut plan = Plan::of(Does::Work(10 * SECOND));
    plan.settings.leading = Some(leading);
    (plan, turn)
}

#[tokio::test(start_paused = true)]
async fn a_standby_asks_for_nothing_until_it_is_its_turn_and_keeps_what_it_has_afterwards() {
    let control = FakeControlPlane::new();
    control.hand_out([grant(1)]);
    let (plan, turn) = standby();
    let rig = plan.start(&control);
    turn.send_replace(false);
    sleep(24 * 60 * MINUTE).await;
    assert_eq!(control.count(is_hello), 1);
    assert_eq!(control.count(is_poll), 0);
    assert!(rig.health.is_ready());
    assert_eq!(rig.health.stuck_for(), None);
    turn.send_replace(true);
    control.until(2, is_poll).await;
    turn.send_replace(false);
    assert!(is_success(&control.result(&id(1)).await));
    let asked = control.count(is_poll);
    sleep(60 * MINUTE).await;
    assert_eq!(control.count(is_poll), asked);
    turn.send_replace(true);
    control.until(asked + 1, is_poll).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_cannot_know_its_turn_is_alive_and_not_ready() {
    let control = FakeControlPlane::new();
    let (plan, turn) = standby();
    let mut rig = plan.start(&control);
    sleep(24 * 60 * MINUTE).await;
    assert!(!rig.health.is_ready());
    assert_eq!(rig.health.stuck_for(), None);
    assert!(rig.shut_down().await < SECOND);
    assert_eq!(control.count(is_poll), 0);
    drop(turn);
}

#[tokio::test(start_paused = true)]
async fn a_standby_shuts_down_at_once() {
    let control = FakeControlPlane::new();
    let (plan, turn) = standby();
    let mut rig = plan.start(&control);
    turn.send_replace(false);
    sleep(MINUTE).await;
    assert!(rig.shut_down().await < SECOND);
    // Nobody is left to say whose turn it is.
    let (plan, turn) = standby();
    let _rig = plan.start(&control);
    drop(turn);
    sleep(60 * MINUTE).await;
    assert_eq!(control.count(is_poll), 0);
}
