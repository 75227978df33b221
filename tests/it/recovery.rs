//! The real daemon while something around it is out of order, and after that: it recovers alone, and tasks end right.
//!
//! Every test ends with one more sync whose file holds what the directory holds.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use baton_jumpcloud::{
    proto::baton::{
        Task,
        task::{self, TaskType},
    },
    sim::{
        conductorone::{Break, Config, Finish, Rpc, Stage, hello},
        jumpcloud::{CLIENT_ID, CLIENT_SECRET, FULL_KEY, Shape},
    },
};

use crate::daemon::{Daemon, PATIENCE, Scene, entries, permitted, skipped, small};

const LONG: Duration = Duration::from_mins(10);
const SLOW: Duration = Duration::from_secs(2);

fn latency(scene: &Scene, latency: Duration) {
    scene
        .directory
        .change_behaviour(|behaviour| behaviour.latency = latency);
}

/// A daemon in the middle of a sync that does not end before the directory is made fast again.
async fn in_a_slow_sync(scene: &Scene) -> (Daemon, String) {
    let daemon = scene.serving(scene.service()).await;
    latency(scene, SLOW);
    let task = scene.enqueue_sync();
    scene
        .cloud
        .wait_for_heartbeats(&task, 1, PATIENCE)
        .await
        .unwrap();
    (daemon, task)
}

fn finishes(scene: &Scene, task: &str) -> Vec<Finish> {
    let mut finishes = scene.cloud.finishes();
    finishes.retain(|finish| finish.request.task_id == task);
    finishes
}

// Tokens.

#[tokio::test]
async fn a_token_endpoint_that_is_down_at_start_is_waited_for() {
    let scene = Scene::start().await;
    scene.cloud.token_endpoint_down_for(LONG);
    let daemon = scene.service().start();
    scene
        .cloud
        .wait_for_calls(Rpc::Token, 2, PATIENCE)
        .await
        .unwrap();
    scene.cloud.token_endpoint_down_for(Duration::ZERO);
    scene.cloud.wait_for_hello(PATIENCE).await.unwrap();
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn a_token_endpoint_that_is_down_during_a_sync_is_waited_for() {
    let scene = Scene::start().await;
    let (daemon, task) = in_a_slow_sync(&scene).await;
    let asked = scene.cloud.calls(Rpc::Token);
    scene.cloud.token_endpoint_down_for(LONG);
    scene.cloud.revoke_tokens();
    scene
        .cloud
        .wait_for_calls(Rpc::Token, asked + 2, PATIENCE)
        .await
        .unwrap();
    scene.cloud.token_endpoint_down_for(Duration::ZERO);
    latency(&scene, Duration::ZERO);
    scene.expect_truth(&task).await;
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn a_token_that_expires_early_is_replaced() {
    let scene = Scene::start().await;
    let (daemon, task) = in_a_slow_sync(&scene).await;
    scene.cloud.revoke_tokens();
    scene
        .cloud
        .wait_for_calls(Rpc::Token, 2, PATIENCE)
        .await
        .unwrap();
    latency(&scene, Duration::ZERO);
    scene.expect_truth(&task).await;
    scene.recovered(daemon).await;
    let requests = scene.cloud.token_requests();
    assert!(requests.iter().all(|request| request.refused.is_none()));
}

#[tokio::test]
async fn short_lived_tokens_are_renewed_before_they_expire() {
    let config = Config {
        token_life: Duration::from_secs(4),
        ..Config::default()
    };
    let scene = Scene::of(config, small()).await;
    let daemon = scene.serving(scene.service()).await;
    scene
        .cloud
        .wait_for_calls(Rpc::Token, 3, PATIENCE)
        .await
        .unwrap();
    scene.recovered(daemon).await;
}

// The connection.

#[tokio::test]
async fn a_server_that_goes_away_in_the_middle_of_a_poll_is_found_again() {
    let scene = Scene::start().await;
    let daemon = scene.serving(scene.service()).await;
    scene.cloud.delay(Rpc::GetTask, LONG);
    let polls = scene.cloud.calls(Rpc::GetTask);
    scene
        .cloud
        .wait_for_calls(Rpc::GetTask, polls + 1, PATIENCE)
        .await
        .unwrap();
    scene.cloud.begin_outage();
    scene.cloud.delay(Rpc::GetTask, Duration::ZERO);
    daemon.said("a poll failed and is repeated").await;
    scene.cloud.end_outage();
    let exit = scene.recovered(daemon).await;
    assert!(
        !exit.stderr.contains("\"level\":\"error\""),
        "an outage is no error of ours"
    );
}

#[tokio::test]
async fn a_server_that_goes_away_in_the_middle_of_a_sync_gets_its_result() {
    let scene = Scene::start().await;
    let (daemon, task) = in_a_slow_sync(&scene).await;
    scene.cloud.begin_outage();
    daemon.said("a heartbeat failed").await;
    scene.cloud.end_outage();
    scene
        .cloud
        .wait_for_heartbeats(&task, 2, PATIENCE)
        .await
        .unwrap();
    latency(&scene, Duration::ZERO);
    scene.expect_truth(&task).await;
    assert_eq!(scene.cloud.task(&task).unwrap().deliveries, 1);
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn a_result_that_meets_an_outage_is_reported_after_it() {
    let scene = Scene::start().await;
    let daemon = scene.serving(scene.service()).await;
    scene.cloud.delay(Rpc::FinishTask, LONG);
    let task = scene.enqueue_sync();
    scene
        .cloud
        .wait_for_calls(Rpc::FinishTask, 1, PATIENCE)
        .await
        .unwrap();
    scene.cloud.begin_outage();
    scene.cloud.delay(Rpc::FinishTask, Duration::ZERO);
    daemon.said("a report failed and is repeated").await;
    scene.cloud.end_outage();
    scene.expect_truth(&task).await;
    assert_eq!(finishes(&scene, &task).len(), 1);
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn a_polite_end_of_the_connection_costs_nothing() {
    let scene = Scene::start().await;
    let (daemon, task) = in_a_slow_sync(&scene).await;
    scene.cloud.goaway();
    let polls = scene.cloud.calls(Rpc::GetTask);
    scene
        .cloud
        .wait_for_calls(Rpc::GetTask, polls + 2, PATIENCE)
        .await
        .unwrap();
    scene.cloud.goaway();
    scene
        .cloud
        .wait_for_heartbeats(&task, 2, PATIENCE)
        .await
        .unwrap();
    latency(&scene, Duration::ZERO);
    scene.expect_truth(&task).await;
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn every_call_is_repeated_after_a_passing_failure() {
    let scene = Scene::start().await;
    for rpc in [
        Rpc::Hello,
        Rpc::GetTask,
        Rpc::Heartbeat,
        Rpc::UploadAsset,
        Rpc::FinishTask,
    ] {
        scene.cloud.fail_next(rpc, tonic::Code::Unavailable);
    }
    let daemon = scene.serving(scene.service()).await;
    latency(&scene, Duration::from_millis(500));
    let task = scene.enqueue_sync();
    scene
        .cloud
        .wait_for_heartbeats(&task, 1, PATIENCE)
        .await
        .unwrap();
    latency(&scene, Duration::ZERO);
    scene.expect_truth(&task).await;
    for rpc in [Rpc::Hello, Rpc::UploadAsset, Rpc::FinishTask] {
        assert_eq!(scene.cloud.calls(rpc), 2, "{rpc}");
    }
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn a_refused_announcement_ends_the_daemon_with_1_and_advice() {
    for (code, advice) in [
        (tonic::Code::PermissionDenied, "is not revoked"),
        (tonic::Code::NotFound, "still exists"),
        (tonic::Code::Unimplemented, "BATON_C1_API_HOST"),
    ] {
        let scene = Scene::start().await;
        scene.cloud.fail_next(Rpc::Hello, code);
        let exit = scene.service().run().await.expect(1);
        assert!(exit.verdict().contains(advice), "{}", exit.verdict());
        scene.cloud.assert_clean();
    }
}

// Results and uploads.

#[tokio::test]
async fn a_lost_answer_to_a_result_is_asked_for_again_and_counts_once() {
    let scene = Scene::start().await;
    let daemon = scene.serving(scene.service()).await;
    scene.cloud.lose_next_finish_answer();
    let task = scene.enqueue_sync();
    scene.expect_truth(&task).await;
    scene
        .cloud
        .wait_for_calls(Rpc::FinishTask, 2, PATIENCE)
        .await
        .unwrap();
    scene.recovered(daemon).await;
    let both = finishes(&scene, &task);
    assert_eq!(both.len(), 2);
    assert!(!both[0].repeated && both[1].repeated);
    assert_eq!(both[0].request.final_state, both[1].request.final_state);
    assert_eq!(scene.cloud.task(&task).unwrap().finishes, 1);
}

#[tokio::test]
async fn an_upload_that_breaks_off_begins_again() {
    let scene = Scene::start().await;
    let daemon = scene.serving(scene.service()).await;
    for how in [Break::Stream, Break::Connection, Break::GoAway] {
        scene.cloud.break_next_upload(1, how);
        let task = scene.enqueue_sync();
        scene.expect_truth(&task).await;
        assert_eq!(scene.cloud.task(&task).unwrap().uploads, 1, "{how:?}");
    }
    assert_eq!(scene.cloud.calls(Rpc::UploadAsset), 6);
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn an_upload_of_several_parts_that_breaks_off_in_the_middle_begins_again_from_the_start() {
    const PART: u64 = 512 * 1024;
    let shape = Shape {
        users: 3000,
        ..small()
    };
    let scene = Scene::of(Config::default(), shape).await;
    let daemon = scene
        .serving(scene.service().flag("log-level", "info"))
        .await;
    scene.cloud.break_next_upload(PART + 1, Break::Connection);
    let task = scene.enqueue_sync();
    let upload = scene.expect_truth(&task).await;
    assert!(upload.bytes > PART, "{} bytes are one part", upload.bytes);
    assert_eq!(upload.chunks, upload.bytes.div_ceil(PART));
    assert_eq!(scene.cloud.calls(Rpc::UploadAsset), 2);
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_three_times_fails_the_task_for_now() {
    let scene = Scene::start().await;
    let launch = scene.service().flag("sync-resume-max-age", "0s");
    let daemon = scene.serving(launch).await;
    for _ in 0..3 {
        scene.cloud.break_next_upload(1, Break::Stream);
    }
    let task = scene.enqueue_sync();
    let finish = scene.finish(&task).await;
    assert_eq!(finish.code(), 14, "{}", finish.message());
    assert!(finish.message().contains("upload"), "{}", finish.message());
    assert!(!finish.is_non_retryable());
    assert!(entries(&scene.work_dir()).is_empty());
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn a_refused_checksum_makes_the_file_go_out_once_more() {
    let scene = Scene::start().await;
    let daemon = scene.serving(scene.service()).await;
    scene.cloud.refuse_next_checksum();
    let task = scene.enqueue_sync();
    let finish = scene.finish(&task).await;
    assert!(finish.is_success(), "{}", finish.message());
    scene.expect_truth(&task).await;
    assert!(entries(&scene.work_dir()).is_empty());
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn a_full_disk_fails_the_task_and_not_the_daemon() {
    let scene = Scene::start().await;
    let folder = scene.work_dir();
    let mount = format!(
        "mount -t tmpfs -o size=8m none {} && exec \"$@\"",
        folder.display()
    );
    let wrappers: [&[&str]; 2] = [
        &["unshare", "--mount", "sh", "-c", &mount, "sh"],
        &[
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            &mount,
            "sh",
        ],
    ];
    let Some(wrapper) = permitted(&wrappers).await else {
        skipped("file systems cannot be mounted here");
        return;
    };
    let daemon = scene.serving(scene.service().under(wrapper)).await;
    let inside = PathBuf::from(format!(
        "/proc/{}/root{}",
        daemon.pid.as_raw_nonzero(),
        folder.display()
    ));
    // A sync that waits for its next attempt may be part of what fills the disk.
    for _ in 0..3 {
        scene.cloud.break_next_upload(1, Break::Stream);
    }
    let kept = scene.enqueue_sync();
    assert!(!scene.finish(&kept).await.is_success());
    assert_eq!(entries(&inside).len(), 1);
    let filler = inside.join("filler");
    let written = std::fs::write(&filler, vec![0; 9 * 1024 * 1024]);
    assert!(written.is_err(), "the disk must be full");
    let task = scene.enqueue_sync();
    let finish = scene.finish(&task).await;
    assert!(!finish.is_success() && !finish.is_non_retryable());
    assert!(
        finish.message().contains("No space left on device"),
        "{}",
        finish.message()
    );
    assert_eq!(entries(&inside), std::slice::from_ref(&filler));
    std::fs::remove_file(filler).unwrap();
    scene.recovered(daemon).await;
}

// Tasks.

#[tokio::test]
async fn a_cancelled_sync_stops_and_leaves_no_file() {
    let scene = Scene::start().await;
    let daemon = scene.serving(scene.service()).await;
    latency(&scene, LONG);
    let task = scene.enqueue_sync();
    scene
        .cloud
        .wait_for_heartbeats(&task, 1, PATIENCE)
        .await
        .unwrap();
    scene.wait_for_folders(1).await;
    assert_eq!(entries(&scene.work_dir()).len(), 1);
    scene.cloud.cancel(&task);
    let finish = scene.finish(&task).await;
    assert_eq!((finish.code(), finish.message()), (1, "task was cancelled"));
    assert!(!finish.is_non_retryable());
    assert!(entries(&scene.work_dir()).is_empty());
    latency(&scene, Duration::ZERO);
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn a_cancelled_upload_stops_and_leaves_no_file() {
    let scene = Scene::start().await;
    let daemon = scene.serving(scene.service()).await;
    scene.cloud.delay(Rpc::UploadAsset, LONG);
    let task = scene.enqueue_sync();
    scene
        .cloud
        .wait_for_calls(Rpc::UploadAsset, 1, PATIENCE)
        .await
        .unwrap();
    scene.cloud.cancel(&task);
    let finish = scene.finish(&task).await;
    assert_eq!((finish.code(), finish.message()), (1, "task was cancelled"));
    assert!(entries(&scene.work_dir()).is_empty());
    scene.cloud.delay(Rpc::UploadAsset, Duration::ZERO);
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn a_running_task_that_is_handed_out_again_is_worked_on_once() {
    let config = Config {
        lease: Duration::from_secs(2),
        ..Config::default()
    };
    let scene = Scene::of(config, small()).await;
    let daemon = scene.serving(scene.service()).await;
    latency(&scene, LONG);
    let task = scene.enqueue_sync();
    scene
        .cloud
        .wait_for_heartbeats(&task, 1, PATIENCE)
        .await
        .unwrap();
    for _ in 0..4 {
        scene
            .cloud
            .fail_next(Rpc::Heartbeat, tonic::Code::Unavailable);
    }
    scene
        .cloud
        .wait_for_delivery(&task, 2, PATIENCE)
        .await
        .unwrap();
    daemon.said("the second delivery is ignored").await;
    scene.cloud.cancel(&task);
    assert_eq!(scene.finish(&task).await.code(), 1);
    latency(&scene, Duration::ZERO);
    scene.recovered(daemon).await;
    assert_eq!(finishes(&scene, &task).len(), 1);
}

#[tokio::test]
async fn two_syncs_run_side_by_side() {
    let scene = Scene::start().await;
    let daemon = scene.serving(scene.service()).await;
    latency(&scene, SLOW);
    let tasks = [scene.enqueue_sync(), scene.enqueue_sync()];
    for task in &tasks {
        scene
            .cloud
            .wait_for_heartbeats(task, 1, PATIENCE)
            .await
            .unwrap();
    }
    assert!(scene.cloud.finishes().is_empty());
    scene.wait_for_folders(2).await;
    assert_eq!(entries(&scene.work_dir()).len(), 2);
    latency(&scene, Duration::ZERO);
    for task in &tasks {
        scene.expect_truth(task).await;
    }
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn batches_of_tasks_are_worked_off_where_asked_for() {
    let scene = Scene::start().await;
    let launch = scene
        .service()
        .variable("BATON_GET_TASKS", "1")
        .flag("task-concurrency", "2");
    let daemon = scene.serving(launch).await;
    let tasks: Vec<String> = (0..5).map(|_| scene.enqueue_sync()).collect();
    for task in &tasks {
        scene.expect_truth(task).await;
        assert_eq!(scene.cloud.task(task).unwrap().deliveries, 1);
    }
    scene.recovered(daemon).await;
    assert_eq!(scene.cloud.calls(Rpc::GetTask), 0);
    assert!(
        scene
            .cloud
            .polls()
            .iter()
            .all(|poll| poll.batch && poll.handed.len() <= 4)
    );
}

#[tokio::test]
async fn a_server_without_batches_is_asked_for_single_tasks() {
    let scene = Scene::start().await;
    scene
        .cloud
        .fail_next(Rpc::GetTasks, tonic::Code::Unimplemented);
    let daemon = scene
        .serving(scene.service().variable("BATON_GET_TASKS", "1"))
        .await;
    scene.recovered(daemon).await;
    assert_eq!(scene.cloud.calls(Rpc::GetTasks), 1);
}

#[tokio::test]
async fn a_hello_task_is_answered_by_hello_alone() {
    let scene = Scene::start().await;
    let daemon = scene.serving(scene.service()).await;
    let task = scene.cloud.enqueue(hello());
    let answer = scene.cloud.wait_for_hellos(2, PATIENCE).await.unwrap();
    assert_eq!(answer.request.task_id, task);
    assert_eq!(scene.cloud.task(&task).unwrap().stage, Stage::Finished);
    assert_eq!(scene.cloud.calls(Rpc::FinishTask), 0);
    scene.recovered(daemon).await;
}

#[derive(Clone, Copy)]
enum Answer {
    Success,
    Error {
        code: i32,
        is_final: bool,
        words: &'static str,
    },
}

/// What every type of task but a sync and a hello is answered with.
fn answers(provisioning: bool) -> Vec<(TaskType, Answer)> {
    use TaskType as T;

    let unsupported = |words| Answer::Error {
        code: 12,
        is_final: true,
        words,
    };
    let gated = |words| {
        if provisioning {
            let (code, words) = match words {
                "issue_credential" => (12, "issuing credentials"),
                words => (3, words),
            };
            Answer::Error {
                code,
                is_final: true,
                words,
            }
        } else {
            Answer::Error {
                code: 9,
                is_final: true,
                words: "provisioning is not enabled",
            }
        }
    };
    let feed = task::ListEventsTask {
        event_feed_id: "audit".to_owned(),
        ..Default::default()
    };
    let schema = task::ActionGetSchemaTask {
        name: "lock".to_owned(),
        ..Default::default()
    };
    let status = task::ActionStatusTask {
        id: "7".to_owned(),
        ..Default::default()
    };
    let missing = |is_final, words| Answer::Error {
        code: 5,
        is_final,
        words,
    };
    let malformed = |words| Answer::Error {
        code: 3,
        is_final: false,
        words,
    };
    vec![
        (T::Grant(task::GrantTask::default()), gated("grant")),
        (T::Revoke(task::RevokeTask::default()), gated("revoke")),
        (
            T::CreateAccount(task::CreateAccountTask::default()),
            gated("create_account"),
        ),
        (
            T::CreateResource(task::CreateResourceTask::default()),
            gated("create_resource"),
        ),
        (
            T::DeleteResource(task::DeleteResourceTask::default()),
            gated("delete_resource"),
        ),
        (
            T::RotateCredentials(task::RotateCredentialsTask::default()),
            gated("rotate_credential"),
        ),
        (
            T::IssueCredential(task::IssueCredentialTask::default()),
            gated("issue_credential"),
        ),
        (
            T::EventFeed(task::EventFeedTask::default()),
            unsupported("event_feed"),
        ),
        (
            T::CreateTicketTask(task::CreateTicketTask::default()),
            unsupported("tickets"),
        ),
        (
            T::ListTicketSchemas(task::ListTicketSchemasTask::default()),
            unsupported("tickets"),
        ),
        (
            T::GetTicket(task::GetTicketTask::default()),
            unsupported("tickets"),
        ),
        (
            T::BulkCreateTickets(task::BulkCreateTicketsTask::default()),
            unsupported("tickets"),
        ),
        (
            T::BulkGetTickets(task::BulkGetTicketsTask::default()),
            unsupported("tickets"),
        ),
        (
            T::ActionInvoke(task::ActionInvokeTask::default()),
            malformed("field name is empty"),
        ),
        (
            T::CreateSyncDiff(task::CreateSyncDiffTask::default()),
            unsupported("create_sync_diff"),
        ),
        (
            T::CompactSyncs(task::CompactSyncs::default()),
            unsupported("compact_syncs"),
        ),
        (
            T::ActionListSchemas(task::ActionListSchemasTask::default()),
            Answer::Success,
        ),
        (T::ActionGetSchema(schema), missing(false, "lock")),
        (
            T::ActionGetSchema(task::ActionGetSchemaTask::default()),
            malformed("field name is empty"),
        ),
        (T::ActionStatus(status), missing(false, "7")),
        (
            T::ActionStatus(task::ActionStatusTask::default()),
            malformed("field id is empty"),
        ),
        (
            T::ListEventFeeds(task::ListEventFeedsTask::default()),
            Answer::Success,
        ),
        (T::ListEvents(feed), missing(true, "audit")),
        (
            T::ListEvents(task::ListEventsTask::default()),
            missing(true, "event feed"),
        ),
    ]
}

#[tokio::test]
async fn every_type_of_task_ends_with_its_answer() {
    for provisioning in [false, true] {
        let scene = Scene::start().await;
        let launch = scene
            .service()
            .flag("task-concurrency", "5")
            .variable("BATON_GET_TASKS", "1");
        let launch = if provisioning {
            launch.switch("provisioning")
        } else {
            launch
        };
        let daemon = scene.serving(launch).await;
        let mut expected = BTreeMap::new();
        for (task_type, answer) in answers(provisioning) {
            let task = Task {
                task_type: Some(task_type),
                ..Default::default()
            };
            expected.insert(scene.cloud.enqueue(task), answer);
        }
        let unknown = Answer::Error {
            code: 12,
            is_final: true,
            words: "no type",
        };
        expected.insert(scene.cloud.enqueue(Task::default()), unknown);
        for (task, answer) in &expected {
            let finish = scene.finish(task).await;
            let kind =
                baton_jumpcloud::sim::conductorone::kind(&scene.cloud.task(task).unwrap().task);
            match *answer {
                Answer::Success => assert!(finish.is_success(), "{kind}: {}", finish.message()),
                Answer::Error {
                    code,
                    is_final,
                    words,
                } => {
                    assert_eq!(finish.code(), code, "{kind}: {}", finish.message());
                    assert_eq!(finish.is_non_retryable(), is_final, "{kind}");
                    assert!(
                        finish.message().contains(words),
                        "{kind}: {}",
                        finish.message()
                    );
                }
            }
        }
        scene.recovered(daemon).await;
        assert_eq!(scene.cloud.finishes().len(), expected.len() + 1);
    }
}

// The directory.

#[tokio::test]
async fn a_directory_that_asks_for_a_pause_gets_it_and_the_rows_are_complete() {
    let scene = Scene::start().await;
    let daemon = scene.serving(scene.service()).await;
    scene.directory.throttle_for(Duration::from_secs(2));
    let task = scene.enqueue_sync();
    scene.expect_truth(&task).await;
    let requests = scene.directory.requests();
    assert!(requests.with_status(429) > 0);
    // One second each, and everybody waits together: nobody hammers on a closed door.
    assert!(
        requests.with_status(429) < 40,
        "{}",
        requests.with_status(429)
    );
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn a_sync_that_meets_a_rate_limit_in_the_middle_is_complete() {
    let scene = Scene::start().await;
    let daemon = scene.serving(scene.service()).await;
    let limit = "20/s:5".parse().unwrap();
    scene
        .directory
        .change_behaviour(|behaviour| behaviour.rate_limit = Some(limit));
    let task = scene.enqueue_sync();
    scene.expect_truth(&task).await;
    assert!(scene.directory.requests().with_status(429) > 0);
    scene
        .directory
        .change_behaviour(|behaviour| behaviour.rate_limit = None);
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn broken_answers_of_the_directory_are_asked_for_again() {
    let scene = Scene::start().await;
    let daemon = scene.serving(scene.service()).await;
    for fault in [
        "*@every9:503",
        "*@every11:reset-mid-body",
        "*@every13:no-response",
    ] {
        scene.directory.add_fault(fault).unwrap();
    }
    let task = scene.enqueue_sync();
    scene.expect_truth(&task).await;
    assert!(scene.directory.requests().with_status(503) > 0);
    scene.directory.clear_faults();
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn a_directory_that_forgets_its_tokens_gives_new_ones() {
    let scene = Scene::start().await;
    let launch = scene
        .service()
        .without("api-key-file")
        .flag("jumpcloud-client-id", CLIENT_ID)
        .flag("jumpcloud-token-url", scene.directory.token_url())
        .variable("BATON_JUMPCLOUD_CLIENT_SECRET", CLIENT_SECRET);
    let daemon = scene.serving(launch).await;
    let task = scene.enqueue_sync();
    scene.expect_truth(&task).await;
    scene.directory.revoke_tokens();
    scene.recovered(daemon).await;
    assert_eq!(scene.directory.tokens_issued(), 2);
}

#[tokio::test]
async fn a_directory_that_refuses_the_key_fails_the_task_for_now() {
    let scene = Scene::start().await;
    // A key in a file could still be replaced, and would be waited for.
    let launch = scene
        .service()
        .flag("sync-resume-max-age", "0s")
        .without("api-key-file")
        .variable("BATON_API_KEY", FULL_KEY);
    let daemon = scene.serving(launch).await;
    scene
        .directory
        .add_fault("/api/v2/usergroups/{id}/members@always:401")
        .unwrap();
    let task = scene.enqueue_sync();
    let finish = scene.finish(&task).await;
    assert_eq!(finish.code(), 16, "{}", finish.message());
    assert!(!finish.is_non_retryable());
    assert!(entries(&scene.work_dir()).is_empty());
    scene.directory.clear_faults();
    scene.recovered(daemon).await;
}
