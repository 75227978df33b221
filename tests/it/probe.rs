//! `probe`, as an operator, a Helm test and a program see it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Json, Router, routing::post};
use baton_jumpcloud::{
    clock::{Clock as _, ManualClock, SystemClock},
    sim::{
        conductorone::{self, Rpc},
        jumpcloud::{
            self, Behaviour, COMMAND_RUNNER_KEY, Collection, HELP_DESK_KEY, JumpCloudSim, Shape,
        },
    },
};
use rustix::process::Signal;
use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};

use crate::daemon::{Exit, Launch, PATIENCE, Scene, entries, small};

const WRONG_KEY: &str = "jca_SECRETSEED_wrong_key_0000000000000099";

/// Everything that a probe with `--online` says, in order.
const ALL: [&str; 22] = [
    "configuration",
    "conductorone-credentials",
    "jumpcloud-credentials",
    "work-folder",
    "certificates",
    "clock",
    "conductorone-name",
    "conductorone-connection",
    "conductorone-token",
    "conductorone-hello",
    "jumpcloud-key",
    "jumpcloud-users",
    "jumpcloud-administrators",
    "jumpcloud-groups",
    "jumpcloud-members",
    "jumpcloud-applications",
    "jumpcloud-assignees",
    "jumpcloud-roles",
    "jumpcloud-insights",
    "jumpcloud-throttling",
    "jumpcloud-provisioning",
    "kubernetes-permissions",
];
const OFFLINE: usize = 6;

fn online(launch: Launch) -> Launch {
    launch.word("probe").word("--online").word("--json")
}

/// What a probe printed as JSON, judged by the rules that hold for all of them.
struct Seen {
    json: Value,
}

impl Seen {
    #[track_caller]
    fn of(exit: &Exit, code: i32) -> Self {
        assert_eq!(exit.code, Some(code), "{}\n{}", exit.stdout, exit.stderr);
        assert_eq!(exit.stdout.lines().count(), 1, "{}", exit.stdout);
        let json: Value = serde_json::from_str(&exit.stdout).unwrap();
        assert_eq!(json["exit_code"], code);
        assert_eq!(code != 0, json["result"] == "failed");
        assert_no_person(&exit.stdout);
        if code != 0 {
            assert!(exit.verdict().contains("the probe"), "{}", exit.stderr);
        }
        for check in json["checks"].as_array().unwrap() {
            let failed = check["result"] == "failed";
            assert_eq!(failed, check["class"].is_string(), "{check}");
            let advised = !check["advice"].as_array().unwrap().is_empty();
            assert!(advised || !failed, "{check}");
        }
        Self { json }
    }

    fn names(&self) -> Vec<&str> {
        let checks = self.json["checks"].as_array().unwrap();
        checks
            .iter()
            .map(|check| check["name"].as_str().unwrap())
            .collect()
    }

    #[track_caller]
    fn check(&self, name: &str) -> &Value {
        let checks = self.json["checks"].as_array().unwrap();
        checks
            .iter()
            .find(|check| check["name"] == name)
            .unwrap_or_else(|| panic!("no check {name}"))
    }

    /// Asserts how a check ended and that it says these words, in what was seen or in the advice.
    #[track_caller]
    fn expect(&self, name: &str, result: &str, words: &str) -> &Value {
        let check = self.check(name);
        assert_eq!(check["result"], result, "{check:#}");
        let mut said = check["seen"].as_str().unwrap().to_owned();
        for advice in check["advice"].as_array().unwrap() {
            said.push('\n');
            said.push_str(advice.as_str().unwrap());
        }
        assert!(said.contains(words), "{words:?} is not in {check:#}");
        check
    }

    #[track_caller]
    fn failed(&self, name: &str, class: &str, words: &str) {
        let check = self.expect(name, "failed", words);
        assert_eq!(check["class"], class, "{check:#}");
    }

    /// Asserts that these checks, and no others, did not end well.
    #[track_caller]
    fn all_ok_but(&self, others: &[&str]) {
        for check in self.json["checks"].as_array().unwrap() {
            let name = check["name"].as_str().unwrap();
            let bad = matches!(check["result"].as_str().unwrap(), "failed" | "warning");
            assert!(!bad || others.contains(&name), "{check:#}");
        }
    }
}

/// The people of the simulated organisation all have an address.
#[track_caller]
fn assert_no_person(text: &str) {
    assert!(!text.contains('@'), "{text}");
}

/// Whatever a probe does, it takes no work and changes nothing.
#[track_caller]
fn assert_harmless(scene: &Scene) {
    for rpc in [
        Rpc::GetTask,
        Rpc::GetTasks,
        Rpc::Heartbeat,
        Rpc::FinishTask,
        Rpc::UploadAsset,
    ] {
        assert_eq!(scene.cloud.calls(rpc), 0, "{rpc}");
    }
    assert_eq!(scene.directory.writes().by_endpoint.len(), 0);
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn everything_is_well_and_no_task_is_taken() {
    let scene = Scene::start().await;
    let task = scene.enqueue_sync();
    let launch = scene.service().variable("BATON_HOST_ID", "the-pod");
    let exit = online(launch).run().await;
    let seen = Seen::of(&exit, 0);
    assert_eq!(seen.names(), ALL);
    seen.all_ok_but(&[]);
    seen.expect("configuration", "ok", "service mode");
    seen.expect("certificates", "ok", "1 certificate of the CA file");
    seen.expect("conductorone-name", "ok", "address");
    seen.expect("conductorone-connection", "ok", "without a proxy");
    let token = seen.expect("conductorone-token", "ok", "accepted");
    assert!(token["numbers"]["token_life_s"].as_u64().unwrap() > 0);
    seen.expect("conductorone-hello", "ok", r#"host "the-pod"; no task"#);
    let organization = scene.directory.organization_id().unwrap().to_string();
    seen.expect(
        "jumpcloud-key",
        "ok",
        &format!("1 organisation: {organization}"),
    );
    let users = seen.expect("jumpcloud-users", "ok", "100 of 130 users");
    assert_eq!(users["numbers"]["total"], 130);
    assert!(users["duration_ms"].is_u64());
    seen.expect("jumpcloud-groups", "ok", "6 of 6");
    seen.expect("jumpcloud-applications", "ok", "4 of 4");
    seen.expect("jumpcloud-insights", "ok", "events in the last hour");
    seen.expect("jumpcloud-throttling", "ok", "0 of");
    seen.expect("jumpcloud-provisioning", "skipped", "provisioning is off");
    seen.expect(
        "kubernetes-permissions",
        "skipped",
        "no kubernetes-* setting",
    );
    assert_eq!(seen.json["result"], "ok");
    assert_eq!(seen.json["online"], true);

    assert_harmless(&scene);
    let task = scene.cloud.task(&task).unwrap();
    assert_eq!(task.stage, conductorone::Stage::Queued);
    let hellos = scene.cloud.hellos();
    assert_eq!(hellos.len(), 1);
    assert_eq!(hellos[0].request.host_id, "the-pod");
}

#[tokio::test]
async fn the_hello_is_that_of_the_daemon() {
    let scene = Scene::start().await;
    let launch = || {
        scene
            .service()
            .variable("BATON_HOST_ID", "the-pod")
            .switch("provisioning")
            .switch("allow-account-deletion")
    };
    Seen::of(&online(launch()).run().await, 0).expect(
        "jumpcloud-provisioning",
        "skipped",
        "shows in a change only",
    );
    assert_harmless(&scene);
    scene.serving(launch()).await.terminate().await;
    let hellos = scene.cloud.hellos();
    assert_eq!(hellos[0].request, hellos[1].request);
}

#[tokio::test]
async fn without_online_nothing_is_sent() {
    let scene = Scene::start().await;
    let exit = scene.service().word("probe").word("--json").run().await;
    let seen = Seen::of(&exit, 0);
    assert_eq!(seen.names(), &ALL[..OFFLINE]);
    assert_eq!(seen.json["online"], false);
    assert!(seen.check("work-folder")["numbers"]["free_bytes"].is_u64());
    assert_eq!(scene.cloud.token_requests().len(), 0);
    assert_eq!(scene.directory.requests().total, 0);
}

#[tokio::test]
async fn without_a_client_id_conductorone_is_left_out() {
    let scene = Scene::start().await;
    let exit = online(scene.one_shot()).run().await;
    let seen = Seen::of(&exit, 0);
    assert_eq!(seen.names(), ALL);
    for name in ALL.iter().filter(|name| name.starts_with("conductorone-")) {
        seen.expect(name, "skipped", "no client id is given");
    }
    seen.expect("configuration", "ok", "one-shot mode");
    seen.expect("jumpcloud-users", "ok", "100 of 130 users");
    assert_eq!(scene.cloud.token_requests().len(), 0);
}

#[tokio::test]
async fn people_get_a_table_with_what_to_do() {
    let scene = Scene::start().await;
    scene.cloud.reject_secret(true);
    let exit = scene.service().word("probe").word("--online").run().await;
    let exit = exit.expect(16);
    let mut lines = exit.stdout.lines();
    let head = lines.next().unwrap();
    let (result, at) = (head.find("RESULT").unwrap(), head.find("SEEN").unwrap());
    for (name, line) in ALL.iter().zip(lines) {
        assert!(line.starts_with(&format!("{name} ")), "{line}");
        assert!(
            !line[result..].starts_with(' ') && !line[at..].starts_with(' '),
            "{line}"
        );
    }
    assert!(
        exit.stdout
            .contains("What to do:\n  conductorone-token: issue a new client secret")
    );
    assert!(exit.stdout.contains("1 failed, "), "{}", exit.stdout);
    assert_no_person(&exit.stdout);
    let verdict = exit.verdict();
    assert!(
        verdict.ends_with("(credentials rejected): conductorone-token"),
        "{verdict}"
    );
}

#[tokio::test]
async fn a_rejected_secret_is_told_from_the_rest() {
    let scene = Scene::start().await;
    scene.cloud.reject_secret(true);
    let seen = Seen::of(&online(scene.service()).run().await, 16);
    seen.failed(
        "conductorone-token",
        "credentials",
        "issue a new client secret",
    );
    seen.expect("conductorone-hello", "skipped", "conductorone-token failed");
    seen.all_ok_but(&["conductorone-token"]);
    assert!(scene.cloud.hellos().is_empty());
    assert_harmless(&scene);
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_told_from_a_wrong_secret() {
    let ahead = ManualClock::new(SystemClock.now());
    ahead.advance(Duration::from_hours(1));
    let config = conductorone::Config {
        clock: Arc::new(ahead),
        ..conductorone::Config::default()
    };
    let scene = Scene::of(config, small()).await;
    let seen = Seen::of(&online(scene.service()).run().await, 9);
    seen.failed("conductorone-token", "machine", "behind the server's");
    seen.expect("conductorone-token", "failed", "set the clock");
    seen.all_ok_but(&["conductorone-token"]);
}

#[tokio::test]
async fn a_wrong_api_key_stops_the_reading_at_once() {
    let scene = Scene::start().await;
    let launch = scene
        .service()
        .without("api-key-file")
        .variable("BATON_API_KEY", WRONG_KEY);
    let seen = Seen::of(&online(launch).run().await, 16);
    seen.failed("jumpcloud-key", "credentials", "API access is enabled");
    seen.expect("conductorone-hello", "ok", "accepted");
    for name in ["jumpcloud-users", "jumpcloud-roles", "jumpcloud-insights"] {
        seen.expect(name, "skipped", "jumpcloud-key failed");
    }
    assert_eq!(scene.directory.requests().total, 1);
}

#[tokio::test]
async fn each_list_that_may_not_be_read_is_named() {
    let scene = Scene::start().await;
    scene
        .directory
        .deny([Collection::Groups, Collection::Organizations]);
    let seen = Seen::of(&online(scene.service()).run().await, 7);
    seen.expect("jumpcloud-key", "warning", "the key is accepted");
    seen.failed("jumpcloud-groups", "permission", "usergroups answered 403");
    seen.expect("jumpcloud-members", "skipped", "the list above it");
    seen.all_ok_but(&["jumpcloud-key", "jumpcloud-groups"]);

    let launch = scene
        .service()
        .without("api-key-file")
        .variable("BATON_API_KEY", HELP_DESK_KEY);
    scene.directory.deny([]);
    let seen = Seen::of(&online(launch).run().await, 7);
    seen.failed("jumpcloud-applications", "permission", "Read Only");
    seen.failed("jumpcloud-administrators", "permission", "403");
    seen.expect("jumpcloud-roles", "warning", "a sync goes on without");
    seen.expect("jumpcloud-members", "ok", "read");
    assert_harmless(&scene);
}

#[tokio::test]
async fn insights_are_not_needed() {
    let scene = Scene::start().await;
    let launch = scene
        .service()
        .without("api-key-file")
        .variable("BATON_API_KEY", COMMAND_RUNNER_KEY);
    let seen = Seen::of(&online(launch).run().await, 0);
    seen.expect("jumpcloud-insights", "warning", "not needed");
    seen.all_ok_but(&["jumpcloud-insights"]);
    assert_eq!(seen.json["result"], "warning");

    let away = scene.service().flag("insights-url", "http://127.0.0.1:9");
    let seen = Seen::of(&online(away).run().await, 0);
    seen.expect("jumpcloud-insights", "warning", "no answer (connect");
}

#[tokio::test]
async fn peers_that_are_away_are_named() {
    let scene = Scene::start().await;
    scene.cloud.begin_outage();
    let directory = scene.directory.base_url.clone();
    let launch = scene.service().flag("base-url", closed().await);
    let seen = Seen::of(&online(launch).run().await, 14);
    seen.failed(
        "conductorone-connection",
        "unreachable",
        "no TCP connection",
    );
    seen.expect(
        "conductorone-token",
        "skipped",
        "conductorone-connection failed",
    );
    seen.failed("jumpcloud-key", "unreachable", "no answer (connect");
    seen.expect("jumpcloud-users", "skipped", "jumpcloud-key failed");

    let launch = scene
        .service()
        .flag("base-url", directory)
        .variable("BATON_C1_API_HOST", "no-such-host.invalid");
    let seen = Seen::of(&online(launch).run().await, 14);
    seen.failed("conductorone-name", "unreachable", "cannot be resolved");
    seen.expect("jumpcloud-users", "ok", "130");
}

/// An address where nobody listens.
async fn closed() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn a_proxy_that_is_away_is_named() {
    let scene = Scene::start().await;
    let launch = scene
        .service()
        .variable("BATON_C1_API_HOST", "tenant.conductor.example")
        .variable("HTTPS_PROXY", closed().await);
    let seen = Seen::of(&online(launch).run().await, 14);
    seen.expect("conductorone-name", "ok", "the proxy 127.0.0.1");
    seen.failed(
        "conductorone-connection",
        "unreachable",
        "check HTTPS_PROXY",
    );
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_named() {
    let scene = Scene::start().await;
    let seen = Seen::of(&online(scene.service().without("ca-file")).run().await, 14);
    seen.failed(
        "conductorone-connection",
        "unreachable",
        "unknown authority",
    );
    seen.expect("conductorone-connection", "failed", "--ca-file");
    seen.expect("jumpcloud-users", "ok", "130");
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_a_finding_too() {
    let scene = Scene::start().await;
    let missing = scene.path("missing.pem");
    let launch = scene.service().flag("ca-file", &missing);
    let seen = Seen::of(&online(launch).run().await, 64);
    assert_eq!(seen.names(), ALL);
    seen.failed(
        "configuration",
        "configuration",
        "--ca-file (BATON_CA_FILE)",
    );
    for name in &ALL[1..] {
        seen.expect(name, "skipped", "the configuration is not complete");
    }
    assert_eq!(scene.directory.requests().total, 0);

    let launch = scene
        .service()
        .flag("client-secret-file", scene.path("api-key"));
    let seen = Seen::of(&online(launch).run().await, 64);
    seen.failed(
        "conductorone-credentials",
        "configuration",
        "client secret:",
    );
    seen.expect("conductorone-token", "skipped", "conductorone-credentials");
    seen.expect("jumpcloud-users", "ok", "130");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_a_finding_too() {
    let scene = Scene::start().await;
    // The kernel makes no file there, whoever asks.
    let launch = scene.service().flag("work-dir", "/proc/self");
    let seen = Seen::of(&launch.word("probe").word("--json").run().await, 64);
    seen.failed(
        "configuration",
        "configuration",
        "files cannot be made in /proc/self",
    );
    assert_eq!(seen.names(), &ALL[..OFFLINE]);
}

#[tokio::test]
async fn the_choice_among_organisations_is_checked() {
    let mut config = jumpcloud::Config::of(small());
    config.organizations.push(Shape {
        users: 3,
        seed: 2,
        ..Shape::default()
    });
    let directory = JumpCloudSim::start(config).await.unwrap();
    let scene = Scene::start().await;
    let service = || scene.service().flag("base-url", &directory.base_url);
    let seen = Seen::of(&online(service()).run().await, 64);
    seen.failed("jumpcloud-key", "configuration", "--org-id");
    assert_eq!(seen.check("jumpcloud-key")["numbers"]["organizations"], 2);

    let chosen = directory.organization_ids()[1].to_string();
    let seen = Seen::of(&online(service().flag("org-id", &chosen)).run().await, 0);
    seen.expect("jumpcloud-key", "ok", &format!("{chosen} is used"));
    seen.expect("jumpcloud-users", "ok", "3 of 3 users");

    let unknown = "0123456789abcdef01234567";
    let seen = Seen::of(&online(service().flag("org-id", unknown)).run().await, 64);
    seen.failed("jumpcloud-key", "configuration", "is not among them");
}

#[tokio::test]
async fn throttling_is_seen() {
    let scene = Scene::start().await;
    scene.directory.add_fault("/api/systemusers@1:429").unwrap();
    let seen = Seen::of(&online(scene.service()).run().await, 0);
    seen.expect("jumpcloud-throttling", "warning", "1 of");
    seen.expect("jumpcloud-users", "ok", "130");

    scene
        .directory
        .change_behaviour(|behaviour: &mut Behaviour| {
            behaviour.retry_after = Some("90".to_owned());
        });
    scene.directory.clear_faults();
    scene.directory.add_fault("/api/users@1-9:429").unwrap();
    let begun = Instant::now();
    let seen = Seen::of(&online(scene.service()).run().await, 14);
    seen.failed("jumpcloud-administrators", "unreachable", "slow down");
    seen.expect("jumpcloud-groups", "skipped", "asks to wait");
    assert!(begun.elapsed() < PATIENCE);
}

#[tokio::test]
async fn a_peer_that_never_answers_costs_its_limit_only() {
    let scene = Scene::start().await;
    scene.cloud.delay(Rpc::Hello, Duration::from_mins(10));
    let launch = online(scene.service()).word("--timeout").word("4");
    let begun = Instant::now();
    let seen = Seen::of(&launch.run().await, 14);
    seen.failed("conductorone-hello", "unreachable", "no end within");
    seen.expect("jumpcloud-users", "skipped", "--timeout");
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_signal_ends_it_early_with_what_is_known() {
    let scene = Scene::start().await;
    scene.cloud.delay(Rpc::Hello, Duration::from_mins(10));
    let probe = online(scene.service()).start();
    scene
        .cloud
        .wait_for_calls(Rpc::Hello, 1, PATIENCE)
        .await
        .unwrap();
    probe.signal(Signal::INT);
    let seen = Seen::of(&probe.ended().await, 1);
    seen.expect("conductorone-token", "ok", "accepted");
    seen.expect("conductorone-hello", "skipped", "interrupted");
    seen.expect("jumpcloud-users", "skipped", "interrupted");
    assert_eq!(seen.json["interrupted"], true);
}

#[tokio::test]
async fn the_files_of_the_daemon_are_left_alone() {
    let scene = Scene::start().await;
    let log = scene.path("daemon.log");
    let launch = scene.service().flag("log-path", &log);
    Seen::of(&online(launch).run().await, 0);
    assert!(!Path::new(&log).exists());
    assert!(entries(&scene.work_dir()).is_empty());
}

#[tokio::test]
async fn flags_that_make_no_sense_are_refused() {
    let scene = Scene::start().await;
    let exit = scene
        .one_shot()
        .word("probe")
        .word("--timeout")
        .word("0")
        .run()
        .await;
    assert!(
        exit.expect(3)
            .verdict()
            .contains("--timeout is no whole number")
    );
    let exit = scene
        .bare()
        .word("probe")
        .word("--help")
        .run()
        .await
        .expect(0);
    for words in [
        "64 bad configuration",
        "16 credentials rejected",
        "--online",
        "--json",
    ] {
        assert!(exit.stdout.contains(words), "{words}");
    }
}

/// A Kubernetes API that refuses these verbs on resources, and the kubeconfig that leads there.
async fn kubernetes(
    servers: &mut JoinSet<()>,
    scene: &Scene,
    refused: &'static [&'static str],
) -> PathBuf {
    let review = move |Json(mut review): Json<Value>| async move {
        let asked = &review["spec"]["resourceAttributes"];
        assert_eq!(asked["namespace"], "here");
        let asked = format!(
            "{} {}",
            asked["verb"].as_str().unwrap(),
            asked["resource"].as_str().unwrap()
        );
        review["status"] = serde_json::json!({"allowed": !refused.contains(&asked.as_str())});
        Json(review)
    };
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let router = Router::new().route(path, post(review));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    servers.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let file = scene.path("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
         clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]\n\
         users: [{{name: u, user: {{}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u, namespace: here}}}}]\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

#[tokio::test]
async fn permissions_in_kubernetes_are_asked_for_where_they_are_needed() {
    let scene = Scene::start().await;
    let service = |file: PathBuf| {
        scene
            .service()
            .variable("KUBECONFIG", file)
            .flag("kubernetes-secret", "the-secret")
            .flag("kubernetes-lease", "the-lease")
            .switch("kubernetes-events")
            .flag("pod-name", "the-pod")
            .flag("pod-uid", "0f0f0f0f-0000-4000-8000-000000000001")
    };
    const CHECK: &str = "kubernetes-permissions";
    let mut servers = JoinSet::new();
    let file = kubernetes(&mut servers, &scene, &[]).await;
    let seen = Seen::of(&online(service(file)).run().await, 0);
    seen.expect(CHECK, "ok", "8 of 8 permissions in namespace here");
    seen.all_ok_but(&[]);

    let file = kubernetes(&mut servers, &scene, &["create leases"]).await;
    let seen = Seen::of(&online(service(file)).run().await, 0);
    seen.expect(CHECK, "warning", "create leases");

    let file = kubernetes(&mut servers, &scene, &["watch secrets", "patch events"]).await;
    let seen = Seen::of(&online(service(file)).run().await, 7);
    seen.failed(CHECK, "permission", "\"watch secrets/the-secret\"");
    seen.failed(CHECK, "permission", "\"patch events\"");
    assert_eq!(seen.check(CHECK)["numbers"]["held"], 6);

    let file = scene.path("nothing");
    let seen = Seen::of(&online(service(file)).run().await, 64);
    seen.failed(CHECK, "configuration", "KUBECONFIG");
}
