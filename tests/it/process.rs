//! The real binary as an operator and an orchestrator see it: signals, exit codes, files, health, environment.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use baton_jumpcloud::{
    c1z::Reader,
    sim::{
        conductorone::{Config, Finish, Rpc, Stage},
        jumpcloud::{FULL_KEY, HELP_DESK_KEY},
    },
};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::daemon::{
    Daemon, Exit, Launch, PATIENCE, Scene, assert_truth, entries, permitted, skipped, small,
};

const STOPPING: &str = "no more tasks are asked for";
const LONG: Duration = Duration::from_mins(10);

/// Makes the directory so slow that a sync does not end by itself.
fn stall(scene: &Scene) {
    scene
        .directory
        .change_behaviour(|behaviour| behaviour.latency = LONG);
}

fn hurry(scene: &Scene) {
    scene
        .directory
        .change_behaviour(|behaviour| behaviour.latency = Duration::ZERO);
}

/// A daemon in the middle of a sync whose directory has fallen silent.
async fn in_a_sync(scene: &Scene, launch: Launch) -> (Daemon, String) {
    let daemon = scene.serving(launch).await;
    stall(scene);
    let task = scene.enqueue_sync();
    scene
        .cloud
        .wait_for_heartbeats(&task, 1, PATIENCE)
        .await
        .unwrap();
    scene.wait_for_folders(1).await;
    (daemon, task)
}

fn assert_handed_back(finish: &Finish) {
    assert_eq!(finish.code(), 14, "{}", finish.message());
    assert_eq!(finish.message(), "connector is shutting down");
    assert!(!finish.is_success() && !finish.is_non_retryable());
}

// Signals.

#[tokio::test]
async fn an_idle_daemon_ends_with_0_long_before_its_grace_is_over() {
    for signal in [Signal::TERM, Signal::INT] {
        let scene = Scene::start().await;
        let launch = scene.service().flag("shutdown-grace", "1h");
        let daemon = scene.serving(launch).await;
        daemon.signal(signal);
        daemon.ended().await.expect(0);
        scene.cloud.assert_clean();
    }
}

#[tokio::test]
async fn a_daemon_that_has_not_reached_the_server_yet_ends_with_0() {
    let scene = Scene::start().await;
    scene.cloud.begin_outage();
    let daemon = scene.service().flag("shutdown-grace", "1h").start();
    daemon.said("the announcement failed and is repeated").await;
    daemon.terminate().await;
    assert!(scene.cloud.hellos().is_empty());
}

#[tokio::test]
async fn an_announcement_without_answer_does_not_hold_up_the_end() {
    let scene = Scene::start().await;
    scene.cloud.delay(Rpc::Hello, LONG);
    let daemon = scene.service().flag("shutdown-grace", "1h").start();
    scene
        .cloud
        .wait_for_calls(Rpc::Hello, 1, PATIENCE)
        .await
        .unwrap();
    daemon.terminate().await;
    scene.cloud.assert_clean();
}

/// A daemon whose syncs leave nothing for a next attempt.
fn anew(scene: &Scene) -> Launch {
    scene.service().flag("sync-resume-max-age", "0s")
}

#[tokio::test]
async fn a_sync_that_outlives_the_grace_waits_for_the_next_process() {
    let scene = Scene::start().await;
    let silence = scene
        .directory
        .inject("/api/v2/usergroups/{id}/members@always:hang")
        .unwrap();
    let launch = scene.service().flag("shutdown-grace", "3s");
    let daemon = scene.serving(launch).await;
    let task = scene.enqueue_sync();
    while silence.hits() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    daemon.signal(Signal::TERM);
    daemon.ended_leaving().await.expect(0);
    assert_handed_back(&scene.finish(&task).await);
    let kept = entries(&scene.work_dir());
    assert_eq!(kept.len(), 1, "{kept:?}");
    drop(silence);
    let daemon = scene.serving(scene.service()).await;
    assert_eq!(
        entries(&scene.work_dir()),
        kept,
        "the start leaves it alone"
    );
    let task = scene.enqueue_sync();
    scene.expect_truth(&task).await;
    let exit = daemon.terminate().await;
    let said = "a sync goes on where it stopped";
    assert!(exit.stdout.contains(said) || exit.stderr.contains(said));
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn a_sync_that_outlives_the_grace_is_handed_back_and_leaves_no_file() {
    let scene = Scene::start().await;
    let (daemon, task) = in_a_sync(&scene, anew(&scene).flag("shutdown-grace", "6s")).await;
    assert_eq!(
        entries(&scene.work_dir()).len(),
        1,
        "the folder of the sync"
    );
    let begun = Instant::now();
    daemon.signal(Signal::TERM);
    daemon.ended().await.expect(0);
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
    assert_handed_back(&scene.finish(&task).await);
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn a_task_that_waits_for_a_slot_is_handed_back_at_once() {
    let scene = Scene::start().await;
    let launch = anew(&scene)
        .flag("shutdown-grace", "3s")
        .flag("task-concurrency", "1")
        .variable("BATON_GET_TASKS", "1");
    let daemon = scene.serving(launch).await;
    stall(&scene);
    let tasks = [scene.enqueue_sync(), scene.enqueue_sync()];
    for task in &tasks {
        scene
            .cloud
            .wait_for_heartbeats(task, 1, PATIENCE)
            .await
            .unwrap();
    }
    daemon.signal(Signal::INT);
    daemon.ended().await.expect(0);
    for task in &tasks {
        assert_handed_back(&scene.finish(task).await);
    }
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn a_sync_that_ends_within_the_grace_is_a_success_and_no_other_task_is_taken() {
    let scene = Scene::start().await;
    let daemon = scene
        .serving(anew(&scene).flag("shutdown-grace", "1h"))
        .await;
    scene
        .directory
        .change_behaviour(|behaviour| behaviour.latency = Duration::from_secs(1));
    let task = scene.enqueue_sync();
    scene
        .cloud
        .wait_for_heartbeats(&task, 1, PATIENCE)
        .await
        .unwrap();
    daemon.signal(Signal::TERM);
    daemon.said(STOPPING).await;
    let late = scene.enqueue_sync();
    hurry(&scene);
    scene.expect_truth(&task).await;
    daemon.ended().await.expect(0);
    assert_eq!(scene.cloud.task(&late).unwrap().stage, Stage::Queued);
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once_and_the_next_start_clears_what_it_left() {
    let scene = Scene::start().await;
    for (second, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        hurry(&scene);
        let (daemon, task) = in_a_sync(&scene, anew(&scene).flag("shutdown-grace", "1h")).await;
        daemon.signal(Signal::TERM);
        daemon.said(STOPPING).await;
        daemon.signal(second);
        daemon.ended_leaving().await.expect(code);
        assert_eq!(entries(&scene.work_dir()).len(), 1);
        assert_ne!(scene.cloud.task(&task).unwrap().stage, Stage::Finished);
    }
    hurry(&scene);
    let daemon = scene.serving(scene.service()).await;
    assert!(entries(&scene.work_dir()).is_empty());
    daemon.terminate().await;
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn a_stalled_upload_is_handed_back_and_leaves_no_file() {
    let scene = Scene::start().await;
    let launch = anew(&scene).flag("shutdown-grace", "3s");
    let daemon = scene.serving(launch).await;
    scene.cloud.delay(Rpc::UploadAsset, LONG);
    let task = scene.enqueue_sync();
    scene
        .cloud
        .wait_for_calls(Rpc::UploadAsset, 1, PATIENCE)
        .await
        .unwrap();
    daemon.terminate().await;
    assert_handed_back(&scene.finish(&task).await);
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn a_task_that_comes_with_the_last_poll_is_handed_back() {
    let scene = Scene::start().await;
    let daemon = scene.serving(scene.service()).await;
    scene.cloud.delay(Rpc::GetTask, Duration::from_secs(1));
    let polls = scene.cloud.calls(Rpc::GetTask);
    scene
        .cloud
        .wait_for_calls(Rpc::GetTask, polls + 2, PATIENCE)
        .await
        .unwrap();
    daemon.signal(Signal::TERM);
    let task = scene.enqueue_sync();
    daemon.ended().await.expect(0);
    let state = scene.cloud.task(&task).unwrap();
    assert_eq!(state.deliveries, state.finishes);
    if state.deliveries == 1 {
        assert_handed_back(&scene.finish(&task).await);
    }
    assert_eq!(scene.directory.requests().total, 0);
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn a_daemon_without_server_ends_within_its_grace_too() {
    let scene = Scene::start().await;
    let (daemon, task) = in_a_sync(&scene, anew(&scene).flag("shutdown-grace", "6s")).await;
    scene.cloud.begin_outage();
    let begun = Instant::now();
    daemon.terminate().await;
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(scene.cloud.task(&task).unwrap().finishes, 0);
}

#[tokio::test]
async fn the_task_of_a_killed_daemon_is_taken_over_by_the_next() {
    let config = Config {
        lease: Duration::from_secs(3),
        ..Config::default()
    };
    let scene = Scene::of(config, small()).await;
    let (daemon, task) = in_a_sync(&scene, scene.service()).await;
    daemon.signal(Signal::KILL);
    assert_eq!(daemon.ended_leaving().await.code, None);
    hurry(&scene);
    let daemon = scene.serving(scene.service()).await;
    scene.expect_truth(&task).await;
    assert_eq!(scene.cloud.task(&task).unwrap().deliveries, 2);
    daemon.terminate().await;
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn a_second_daemon_in_the_same_folder_leaves_the_files_of_the_first_alone() {
    let scene = Scene::start().await;
    let (first, task) = in_a_sync(&scene, scene.service()).await;
    let held = entries(&scene.work_dir());
    let launch = scene.service().variable("BATON_HOST_ID", "second");
    let second = scene.serving(launch).await;
    assert_eq!(entries(&scene.work_dir()), held);
    assert_eq!(held.len(), 1);
    scene.cloud.cancel(&task);
    assert_eq!(scene.finish(&task).await.code(), 1);
    hurry(&scene);
    first.terminate().await;
    second.terminate().await;
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn a_daemon_whose_log_nobody_reads_any_more_goes_on() {
    let scene = Scene::start().await;
    let mut daemon = scene.serving(scene.service()).await;
    daemon.close_output().await;
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn logs_go_to_a_file_where_asked_for() {
    let scene = Scene::start().await;
    let log = scene.path("daemon.log");
    let daemon = scene.serving(scene.service().flag("log-path", &log)).await;
    let exit = scene.recovered(daemon).await;
    assert!(exit.stderr.is_empty() && exit.stdout.is_empty());
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("Stopped") && !text.contains("SECRETSEED"));
}

#[tokio::test]
async fn a_silent_health_connection_does_not_hold_up_the_end() {
    let scene = Scene::start().await;
    let launch = with_health(scene.service().flag("shutdown-grace", "3s"));
    let daemon = scene.serving(launch).await;
    let silent = TcpStream::connect(health_address(&daemon).await)
        .await
        .unwrap();
    let begun = Instant::now();
    daemon.terminate().await;
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    drop(silent);
}

#[tokio::test]
async fn signals_are_obeyed_as_the_first_process_of_a_container() {
    let wrappers: [&[&str]; 2] = [
        &["unshare", "--pid", "--fork", "--kill-child"],
        &[
            "unshare",
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--kill-child",
        ],
    ];
    let Some(wrapper) = permitted(&wrappers).await else {
        skipped("PID namespaces are not permitted here");
        return;
    };
    let scene = Scene::start().await;
    let mut daemon = scene.serving(scene.service().under(wrapper)).await;
    let outer = daemon.pid.as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
    daemon.pid = Pid::from_raw(children.trim().parse().unwrap()).unwrap();
    let status = std::fs::read_to_string(format!(
        "/proc/{children}/status",
        children = children.trim()
    ))
    .unwrap();
    let inside = status
        .lines()
        .find(|line| line.starts_with("NSpid:"))
        .unwrap();
    assert_eq!(inside.split_whitespace().last(), Some("1"));
    let task = scene.enqueue_sync();
    scene.expect_truth(&task).await;
    daemon.terminate().await;
    scene.cloud.assert_clean();
}

// The judge of all these tests.

#[tokio::test]
#[should_panic(expected = "a secret is shown behind: key=")]
async fn a_child_that_shows_a_secret_fails_its_test() {
    let scene = Scene::start().await;
    let script = format!("echo key={FULL_KEY} >&2");
    scene.bare().under(&["/bin/sh", "-c", &script]).run().await;
}

#[tokio::test]
#[should_panic(expected = "left in tmp")]
async fn a_child_that_leaves_a_file_fails_its_test() {
    let scene = Scene::start().await;
    scene
        .bare()
        .under(&["/bin/sh", "-c", ": > $TMPDIR/file"])
        .run()
        .await;
}

// Configuration.

#[tokio::test]
async fn a_bad_configuration_ends_with_64_and_names_the_field() {
    let scene = Scene::start().await;
    let service = || scene.service();
    let cases = [
        (
            service().flag("region", "mars").without("base-url"),
            "--region (BATON_REGION)",
        ),
        (
            service().flag("task-concurrency", "0"),
            "--task-concurrency (BATON_TASK_CONCURRENCY)",
        ),
        (
            service().flag("shutdown-grace", "soon"),
            "--shutdown-grace (BATON_SHUTDOWN_GRACE)",
        ),
        (
            service().flag("ca-file", scene.path("none.pem")),
            "--ca-file (BATON_CA_FILE)",
        ),
        (service().flag("ca-file", scene.path("api-key")), "ca-file"),
        (
            service().flag("client-secret-file", scene.path("none")),
            "--client-secret-file",
        ),
        (service().without("client-secret-file"), "client-secret"),
        (service().without("api-key-file"), "api-key"),
        (
            service().flag("base-url", "http://console.example.com"),
            "--base-url (BATON_BASE_URL)",
        ),
        (
            service().flag("work-dir", scene.path("none")),
            "--work-dir (BATON_WORK_DIR)",
        ),
        (
            service().flag("work-dir", scene.path("api-key")),
            "--work-dir (BATON_WORK_DIR)",
        ),
        // Nobody can make files there, not even root.
        (
            service().flag("work-dir", "/proc"),
            "--work-dir (BATON_WORK_DIR)",
        ),
        (
            service().flag("log-level", "loud"),
            "--log-level (BATON_LOG_LEVEL)",
        ),
        (service().flag("nonsense", "SECRETSEED"), "--nonsense"),
        (
            service().variable("BATON_C1_API_HOST", "https://c1.example.com"),
            "BATON_C1_API_HOST",
        ),
        (
            service().variable("HTTPS_PROXY", "ftp://SECRETSEED@proxy.example.com"),
            "HTTPS_PROXY",
        ),
        (
            with_health(service()).flag("health-check-bind-address", "192.0.2.1"),
            "192.0.2.1:0",
        ),
    ];
    for (launch, field) in cases {
        let exit = launch.run().await.expect(64);
        let verdict = exit.verdict();
        assert!(verdict.contains(field), "{field}: {verdict}");
        assert!(exit.stdout.is_empty(), "{field}");
    }
    assert_eq!(scene.cloud.calls(Rpc::Token), 0);
}

#[tokio::test]
async fn credentials_that_cannot_be_right_end_with_64_and_are_not_shown() {
    let scene = Scene::start().await;
    let key = |jwk: &str| {
        format!(
            "secret-token:conductorone.com:v1:{}",
            URL_SAFE_NO_PAD.encode(jwk)
        )
    };
    let own = scene.cloud.client_secret_text().to_owned();
    let ids = [
        ("SECRETSEED", "client id: has no \"@\""),
        ("@host.example.com/SECRETSEED", "client id: has no name"),
        ("SECRETSEED@host.example.com", "client id: has no \"/\""),
        ("SECRETSEED@https://host/x", "client id: the part between"),
    ];
    for (id, problem) in ids {
        let exit = scene.service().flag("client-id", id).run().await.expect(64);
        assert!(exit.verdict().contains(problem), "{}", exit.verdict());
    }
    let secrets = [
        (
            "SECRETSEED".to_owned(),
            "client secret: has 1 of the 4 parts",
        ),
        (
            own.replace(":v1:", ":v2:"),
            "client secret: the third part (version)",
        ),
        (
            "secret-token:conductorone.com:v1:SECRETSEED!".to_owned(),
            "is not base64url",
        ),
        (key("SECRETSEED"), "the key in the fourth part"),
        (
            key(r#"{"kty":"RSA","d":"SECRETSEED"}"#),
            "the key in the fourth part",
        ),
        (
            key(r#"{"kty":"OKP","crv":"Ed25519","x":"SECRETSEED","d":"SECRETSEED"}"#),
            "the key in the fourth part",
        ),
    ];
    for (secret, problem) in secrets {
        let payload = secret.rsplit(':').next().unwrap().to_owned();
        let launch = scene
            .service()
            .without("client-secret-file")
            .variable("BATON_CLIENT_SECRET", &secret)
            .secret(&payload);
        let exit = launch.run().await.expect(64);
        assert!(exit.verdict().contains(problem), "{}", exit.verdict());
    }
}

#[tokio::test]
async fn a_rejected_secret_ends_with_1_and_one_line_that_says_what_to_do() {
    let scene = Scene::start().await;
    scene.cloud.reject_secret(true);
    let exit = scene.service().run().await.expect(1);
    let verdict = exit.verdict();
    assert!(verdict.contains("issue a new"), "{verdict}");
    assert!(verdict.contains("client secret"), "{verdict}");
    assert!(scene.cloud.hellos().is_empty());
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn credentials_come_from_the_environment_and_every_line_is_json() {
    let scene = Scene::start().await;
    let launch = scene
        .bare()
        .variable("BATON_CLIENT_ID", scene.cloud.client_id())
        .variable("BATON_CLIENT_SECRET", scene.cloud.client_secret_text())
        .variable("BATON_API_KEY", FULL_KEY)
        .variable("BATON_CA_FILE", scene.path("ca.pem"))
        .variable("BATON_BASE_URL", &scene.directory.base_url)
        .variable("BATON_WORK_DIR", scene.work_dir())
        .variable("BATON_LOG_LEVEL", "debug")
        .variable("BATON_LOG_FORMAT", "json");
    let daemon = scene.serving(launch).await;
    let task = scene.enqueue_sync();
    scene.expect_truth(&task).await;
    let exit = daemon.terminate().await;
    assert!(exit.stdout.is_empty());
    let mut lines = 0;
    for line in exit.stderr.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(
            line["level"].is_string() && line["ts"].is_number() && line["msg"].is_string(),
            "{line}"
        );
        lines += 1;
    }
    assert!(lines > 10);
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn the_configuration_comes_from_a_file_and_a_flag_goes_first() {
    let scene = Scene::start().await;
    let file = scene.path("baton.yaml");
    let text = format!(
        "client-id: {}\nclient-secret-file: {}\nca-file: {}\napi-key-file: {}\nbase-url: {}\nlog-format: json\nwork-dir: /none\n",
        scene.cloud.client_id(),
        scene.path("client-secret").display(),
        scene.path("ca.pem").display(),
        scene.path("api-key").display(),
        scene.directory.base_url,
    );
    std::fs::write(&file, text).unwrap();
    let launch = scene
        .bare()
        .variable("BATON_CONFIG_PATH", &file)
        .flag("work-dir", scene.work_dir());
    let daemon = scene.serving(launch).await;
    let task = scene.enqueue_sync();
    scene.expect_truth(&task).await;
    daemon.terminate().await;
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn a_server_that_is_down_at_start_is_waited_for() {
    let scene = Scene::start().await;
    scene.cloud.begin_outage();
    let daemon = with_health(scene.service()).start();
    daemon.said("the announcement failed and is repeated").await;
    let address = health_address(&daemon).await;
    for (path, status) in [
        ("/livez", 200),
        ("/startupz", 200),
        ("/readyz", 503),
        ("/ready", 503),
    ] {
        assert_eq!(ask(&address, path).await.0, status, "{path}");
    }
    scene.cloud.end_outage();
    scene.cloud.wait_for_hello(PATIENCE).await.unwrap();
    scene.recovered(daemon).await;
}

// Health.

fn with_health(launch: Launch) -> Launch {
    launch.switch("health-check").flag("health-check-port", "0")
}

async fn health_address(daemon: &Daemon) -> String {
    const LISTENS: &str = "admin server listens";
    daemon.said(LISTENS).await;
    daemon.logged(LISTENS, "server.address").unwrap()
}

async fn ask(address: &str, path: &str) -> (u16, Value) {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .unwrap();
    let answer = client
        .get(format!("http://{address}{path}"))
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn health_is_served_on_a_free_port_from_start_to_end() {
    let scene = Scene::start().await;
    let daemon = scene
        .serving(with_health(anew(&scene).flag("shutdown-grace", "1h")))
        .await;
    scene
        .cloud
        .wait_for_calls(Rpc::GetTask, 1, PATIENCE)
        .await
        .unwrap();
    let address = health_address(&daemon).await;
    for path in [
        "/livez",
        "/live",
        "/readyz",
        "/ready",
        "/startupz",
        "/health",
    ] {
        let (status, body) = ask(&address, path).await;
        assert_eq!(status, 200, "{path}: {body}");
        assert!(body["status"].is_string(), "{path}: {body}");
    }
    let (_, port) = address.rsplit_once(':').unwrap();
    for endpoint in ["health", "ready", "live"] {
        let launch = scene.bare().word("health-check").flag("endpoint", endpoint);
        launch.flag("health-check-port", port).run().await.expect(0);
    }
    stall(&scene);
    let task = scene.enqueue_sync();
    scene
        .cloud
        .wait_for_heartbeats(&task, 1, PATIENCE)
        .await
        .unwrap();
    daemon.signal(Signal::TERM);
    daemon.said(STOPPING).await;
    assert_eq!(ask(&address, "/readyz").await.0, 503);
    assert_eq!(ask(&address, "/livez").await.0, 200);
    scene.cloud.cancel(&task);
    daemon.ended().await.expect(0);
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn a_health_check_ends_with_2_for_a_sick_daemon_and_14_for_none() {
    let scene = Scene::start().await;
    let launch = with_health(scene.service())
        .without("api-key-file")
        .variable("BATON_API_KEY", "SECRETSEED-not-a-key-of-anybody");
    let daemon = scene.serving(launch).await;
    let address = health_address(&daemon).await;
    let (status, body) = ask(&address, "/health").await;
    assert_eq!((status, &body["status"]), (503, &Value::from("unhealthy")));
    let problem = body["details"]["validation_error"].as_str().unwrap();
    assert!(
        problem.contains("API key") && !problem.contains("SECRETSEED"),
        "{problem}"
    );
    let (_, port) = address.rsplit_once(':').unwrap();
    let check = scene
        .bare()
        .word("health-check")
        .flag("health-check-port", port);
    check.clone().run().await.expect(2);
    daemon.terminate().await;
    let exit = check.run().await.expect(14);
    assert!(exit.verdict().contains(port), "{}", exit.verdict());
}

// One-shot runs.

#[tokio::test]
async fn a_one_shot_run_writes_the_truth_and_ends_with_0() {
    let scene = Scene::start().await;
    let exit = scene
        .one_shot()
        .flag("file", "out.c1z")
        .run()
        .await
        .expect(0);
    assert!(exit.stdout.is_empty());
    let file = scene.path("cwd").join("out.c1z");
    assert_eq!(entries(&scene.path("cwd")), std::slice::from_ref(&file));
    let folder = scene.path("tmp");
    let stats = tokio::task::spawn_blocking(move || {
        let reader = Reader::open(&file, &folder).unwrap();
        let sync = reader.latest_sync().unwrap();
        reader.stats(&sync.sync_id).unwrap()
    })
    .await
    .unwrap();
    assert_truth(&stats.resources, &stats.grants, &scene.directory.truth());
}

#[tokio::test]
async fn a_one_shot_run_ends_with_the_code_of_its_failure_and_leaves_no_file() {
    let scene = Scene::start().await;
    let with_key = |key: &str| {
        scene
            .one_shot()
            .without("api-key-file")
            .variable("BATON_API_KEY", key)
    };
    let cases = [
        (with_key("SECRETSEED-not-a-key-of-anybody"), 16, "API key"),
        (with_key(HELP_DESK_KEY), 7, "applications"),
        (
            scene.one_shot().flag("region", "mars").without("base-url"),
            3,
            "--region",
        ),
        (scene.one_shot().without("api-key-file"), 3, "--api-key"),
        (
            scene.one_shot().flag("work-dir", scene.path("none")),
            3,
            "--work-dir",
        ),
        (scene.one_shot().flag("nonsense", "x"), 3, "--nonsense"),
        (
            scene.one_shot().flag("grant-entitlement", "x"),
            3,
            "--grant-principal",
        ),
        (
            scene.one_shot().flag("rotate-credentials", "x"),
            5,
            "user x not found",
        ),
        (
            scene.one_shot().flag("sync-resource-types", "user,device"),
            3,
            "--sync-resource-types",
        ),
    ];
    for (launch, code, words) in cases {
        let exit = launch.run().await.expect(code);
        assert!(
            exit.verdict().contains(words),
            "{words}: {}",
            exit.verdict()
        );
        assert!(entries(&scene.path("cwd")).is_empty(), "{words}");
    }
}

#[tokio::test]
async fn a_one_shot_run_against_a_broken_directory_ends_with_14() {
    let scene = Scene::start().await;
    scene.directory.add_fault("*@always:505").unwrap();
    let exit = scene.one_shot().run().await.expect(14);
    assert!(exit.verdict().contains("505"), "{}", exit.verdict());
    assert!(entries(&scene.path("cwd")).is_empty());
}

#[tokio::test]
async fn a_one_shot_run_that_cannot_write_its_file_says_which() {
    let scene = Scene::start().await;
    let target = scene.path("none").join("out.c1z");
    let exit = scene.one_shot().flag("file", &target).run().await;
    assert!(exit.code.is_some_and(|code| code != 0), "{:?}", exit.code);
    assert!(
        exit.verdict().contains(target.to_str().unwrap()),
        "{}",
        exit.verdict()
    );
}

#[tokio::test]
async fn a_one_shot_run_that_is_interrupted_leaves_the_old_file_and_nothing_else() {
    let scene = Scene::start().await;
    let old = scene.path("cwd").join("sync.c1z");
    std::fs::write(&old, "what was there before").unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        // The first request is that of the check of permissions.
        scene.directory.clear_faults();
        scene
            .directory
            .add_fault("/api/v2/usergroups@2+:hang")
            .unwrap();
        let run = scene.one_shot().start();
        run.said("Syncing resources").await;
        run.signal(signal);
        run.ended().await.expect(1);
        assert_eq!(entries(&scene.path("cwd")), std::slice::from_ref(&old));
        assert_eq!(
            std::fs::read_to_string(&old).unwrap(),
            "what was there before"
        );
    }
}

// Commands.

#[tokio::test]
async fn the_small_commands_print_what_they_promise() {
    let scene = Scene::start().await;
    let print = async |launch: Launch| -> String {
        let exit: Exit = launch.run().await.expect(0);
        assert!(exit.stderr.is_empty(), "{}", exit.stderr);
        exit.stdout
    };
    let help = print(scene.bare().word("--help")).await;
    assert!(help.contains("--api-key") && help.contains("health-check"));
    for version in ["version", "--version", "-v"] {
        let text = print(scene.bare().word(version)).await;
        assert_eq!(
            text,
            concat!("baton-jumpcloud ", env!("CARGO_PKG_VERSION"), "\n")
        );
    }
    let schema: Value = serde_json::from_str(&print(scene.bare().word("config")).await).unwrap();
    assert!(schema["fields"].as_array().unwrap().len() > 1);
    let capabilities: Value =
        serde_json::from_str(&print(scene.bare().word("capabilities")).await).unwrap();
    assert_eq!(
        capabilities["resourceTypeCapabilities"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
    let resolved = print(scene.service().word("check-config")).await;
    assert!(resolved.starts_with("mode: service\n"), "{resolved}");
    assert!(resolved.contains("base-url"), "{resolved}");
    let one_shot = print(scene.one_shot().word("check-config")).await;
    assert!(one_shot.starts_with("mode: one-shot\n"), "{one_shot}");
    let broken = scene
        .service()
        .flag("region", "mars")
        .word("check-config")
        .without("base-url");
    broken.run().await.expect(64);
}

// The proxy.

/// A proxy that opens tunnels to one address and refuses all other names.
struct Proxy {
    address: String,
    seen: watch::Receiver<Vec<String>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    async fn start(name: String, target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, seen) = watch::channel(Vec::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut tunnels = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                tunnels.spawn(tunnel(stream, name.clone(), target, sender.clone()));
            }
        });
        Self {
            address,
            seen,
            _tasks: tasks,
        }
    }

    async fn saw(&mut self, line: &str) {
        let wait = self
            .seen
            .wait_for(|seen| seen.iter().any(|head| head.contains(line)));
        timeout(PATIENCE, wait).await.unwrap().unwrap();
    }
}

async fn tunnel(
    mut stream: TcpStream,
    name: String,
    target: SocketAddr,
    seen: watch::Sender<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_closed) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let known = head.starts_with(&format!("CONNECT {name} "));
    seen.send_modify(|seen| seen.push(head));
    if !known {
        let refusal = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(refusal).await.unwrap_or_default();
        return;
    }
    let mut onward = TcpStream::connect(target).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    copy_bidirectional(&mut stream, &mut onward)
        .await
        .unwrap_or_default();
}

#[tokio::test]
async fn the_proxy_carries_everything_for_the_server_and_its_password_is_not_shown() {
    let scene = Scene::start().await;
    // The dot at the end makes a name that is not exempt as loopback, and that the certificate covers all the same.
    let name = format!("localhost.:{}", scene.cloud.address().port());
    let mut proxy = Proxy::start(name.clone(), scene.cloud.address()).await;
    let launch = scene
        .service()
        .variable("BATON_C1_API_HOST", &name)
        .variable(
            "HTTPS_PROXY",
            format!("http://user:SECRETSEED@{}", proxy.address),
        );
    let daemon = scene.serving(launch).await;
    proxy.saw(&format!("CONNECT {name} ")).await;
    proxy.saw("Basic dXNlcjpTRUNSRVRTRUVE").await;
    scene.recovered(daemon).await;
    let tunnels = proxy.seen.borrow().len();
    assert!(
        tunnels >= 2,
        "the token and the channel have a tunnel each: {tunnels}"
    );
}

#[tokio::test]
async fn the_proxy_is_asked_for_the_directory() {
    let scene = Scene::start().await;
    let mut proxy = Proxy::start(String::new(), scene.cloud.address()).await;
    let run = scene
        .one_shot()
        .flag("base-url", "https://console.directory.test")
        .variable("HTTPS_PROXY", format!("http://{}", proxy.address))
        .start();
    proxy.saw("CONNECT console.directory.test:443 ").await;
    run.signal(Signal::INT);
    run.ended().await.expect(1);
}
