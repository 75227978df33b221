//! What a daemon tells of itself: its numbers, what dashboard and alerts make of them, and its log level.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use baton_jumpcloud::telemetry::metrics::{CONTENT_TYPE, FAMILIES, Kind};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::daemon::{Daemon, Launch, PATIENCE, Scene};

/// Labels that the scrape adds.
const OF_THE_SCRAPE: [&str; 3] = ["namespace", "job", "instance"];

fn with_admin(launch: Launch) -> Launch {
    launch.switch("health-check").flag("health-check-port", "0")
}

async fn admin_address(daemon: &Daemon) -> String {
    const LISTENS: &str = "admin server listens";
    daemon.said(LISTENS).await;
    daemon.logged(LISTENS, "server.address").unwrap()
}

/// The numbers of a daemon at one moment.
struct Scrape(String);

impl Scrape {
    async fn of(address: &str) -> Self {
        let answer = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .build()
            .unwrap()
            .get(format!("http://{address}/metrics"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], CONTENT_TYPE);
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let text = answer.text().await.unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        Self(text)
    }

    /// Name, labels and value of every series.
    fn series(&self) -> impl Iterator<Item = (&str, BTreeMap<&str, &str>, f64)> {
        self.0
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.split_once('{').unwrap_or((series, ""));
                let labels = labels
                    .trim_end_matches('}')
                    .split("\",")
                    .filter(|label| !label.is_empty())
                    .map(|label| {
                        let (name, value) = label.split_once("=\"").unwrap();
                        (name, value.trim_end_matches('"'))
                    })
                    .collect();
                (name, labels, value.parse().unwrap())
            })
    }

    /// The sum of the series of this name with these labels.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series()
            .filter(|(other, of, _)| {
                *other == name
                    && labels
                        .iter()
                        .all(|(label, value)| of.get(label) == Some(value))
            })
            .map(|(_, _, value)| value)
            .sum()
    }

    fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.sum(name, labels).round() as u64
    }
}

#[tokio::test]
async fn the_numbers_of_a_daemon_after_a_sync_are_those_of_the_simulators() {
    let scene = Scene::start().await;
    scene.directory.add_fault("/api/systemusers@1:429").unwrap();
    let daemon = scene.serving(with_admin(scene.service())).await;
    let address = admin_address(&daemon).await;
    let before = Scrape::of(&address).await;
    assert_eq!(before.count("baton_jumpcloud_leader", &[]), 1);
    assert_eq!(before.count("baton_jumpcloud_task_slots", &[]), 3);
    assert_eq!(
        before.count("baton_jumpcloud_sync_last_success_timestamp_seconds", &[]),
        0
    );
    let task = scene.enqueue_sync();
    let upload = scene.expect_truth(&task).await;
    // The answer to the report may not be here yet.
    let begun = Instant::now();
    let after = loop {
        let scrape = Scrape::of(&address).await;
        if scrape.count("baton_jumpcloud_tasks_reported_total", &[]) == 1 {
            break scrape;
        }
        assert!(begun.elapsed() < PATIENCE, "{}", scrape.0);
        sleep(Duration::from_millis(20)).await;
    };

    let sync = [("kind", "sync_full")];
    for (name, labels, expected) in [
        ("baton_jumpcloud_tasks_accepted_total", &sync[..], 1),
        (
            "baton_jumpcloud_tasks_finished_total",
            &[("kind", "sync_full"), ("outcome", "done")],
            1,
        ),
        ("baton_jumpcloud_tasks_finished_total", &[], 1),
        ("baton_jumpcloud_task_duration_seconds_count", &sync, 1),
        ("baton_jumpcloud_tasks_running", &[], 0),
        ("baton_jumpcloud_tasks_reported_total", &[], 1),
        ("baton_jumpcloud_tasks_lost_total", &[], 0),
        ("baton_jumpcloud_sync_phase", &[], 0),
        ("baton_jumpcloud_upload_bytes_total", &[], upload.bytes),
        ("baton_jumpcloud_sync_last_file_bytes", &[], upload.bytes),
        ("baton_jumpcloud_api_throttled_total", &[], 1),
        (
            "baton_jumpcloud_api_requests_total",
            &[("endpoint", "/api/systemusers"), ("outcome", "429")],
            1,
        ),
        (
            "baton_jumpcloud_api_retries_total",
            &[("endpoint", "/api/systemusers")],
            1,
        ),
        ("baton_jumpcloud_api_requests_in_flight", &[], 0),
        (
            "baton_jumpcloud_token_requests_total",
            &[("peer", "conductorone"), ("outcome", "granted")],
            1,
        ),
        (
            "baton_jumpcloud_conductorone_requests_total",
            &[("method", "UploadAsset"), ("code", "Ok")],
            1,
        ),
        (
            "baton_jumpcloud_conductorone_requests_total",
            &[("method", "FinishTask"), ("code", "Ok")],
            1,
        ),
        (
            "baton_jumpcloud_conductorone_requests_total",
            &[("method", "Hello"), ("code", "Ok")],
            1,
        ),
    ] {
        assert_eq!(after.count(name, labels), expected, "{name} {labels:?}");
    }
    // Every request that the simulator saw was counted.
    assert_eq!(
        after.count("baton_jumpcloud_api_requests_total", &[]),
        scene.directory.requests().total
    );
    let summary = upload.summary.unwrap();
    for (row, of) in [
        ("resources", &summary.resources),
        ("grants", &summary.grants),
    ] {
        for (resource_type, count) in of {
            let labels = [("row", row), ("resource_type", resource_type.as_str())];
            let shown = after.count("baton_jumpcloud_sync_last_rows", &labels);
            assert_eq!(shown, *count, "{row} of {resource_type}");
        }
    }
    let now = jiff::Timestamp::now().as_second() as f64;
    for name in [
        "baton_jumpcloud_sync_last_success_timestamp_seconds",
        "baton_jumpcloud_last_successful_poll_timestamp_seconds",
        "process_start_time_seconds",
    ] {
        let age = now - after.sum(name, &[]);
        assert!((-2.0..120.0).contains(&age), "{name} is {age} s old");
    }
    no_label_is_open(&scene, &after);
    dashboard_and_alerts_know_only(&after);
    let text = after.0.clone();
    daemon.terminate().await;
    crate::secrets::keep(&text);
    scene.cloud.assert_clean();
}

/// No label has an id, a name or a host in it.
fn no_label_is_open(scene: &Scene, scrape: &Scrape) {
    let hosts = [
        scene.cloud.client_id().to_owned(),
        scene.directory.address().to_string(),
    ];
    for (name, labels, _) in scrape.series() {
        for (label, value) in labels {
            let is_template = label == "endpoint";
            assert!(
                value.len() <= 80
                    && !hosts
                        .iter()
                        .any(|host| host.contains(value) && value.len() > 6),
                "{name}: {label}={value}"
            );
            // An object id has 24 hexadecimal digits, the id of a task 27 letters and digits.
            let longest_word = value
                .split(|c: char| !c.is_ascii_alphanumeric())
                .map(str::len)
                .max()
                .unwrap_or(0);
            assert!(longest_word < 24, "{name}: {label}={value}");
            assert!(
                is_template || !value.contains('/'),
                "{name}: {label}={value}"
            );
        }
    }
}

/// The names of series that a family has, and its labels.
fn known() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut known = BTreeMap::new();
    for family in FAMILIES {
        let labels: BTreeSet<&str> = family.labels.iter().copied().collect();
        if family.kind == Kind::Histogram {
            for end in ["_sum", "_count"] {
                known.insert(format!("{}{end}", family.name), labels.clone());
            }
            let mut labels = labels;
            labels.insert("le");
            known.insert(format!("{}_bucket", family.name), labels);
        } else {
            known.insert(family.name.to_owned(), labels);
        }
    }
    known
}

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("charts/baton-jumpcloud/files")
        .join(name);
    fs::read_to_string(path).unwrap()
}

/// Every expression of the alerts and of the dashboard, with the place where it stands.
fn expressions() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let rules: Value = serde_saphyr::from_str(&file("rules.yaml")).unwrap();
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        let place = rule["alert"].as_str().unwrap().to_owned();
        found.push((place, rule["expr"].as_str().unwrap().to_owned()));
    }
    let dashboard: Value = serde_json::from_str(&file("dashboard.json")).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        let place = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let expression = expression.replace("$__rate_interval", "5m");
            found.push((format!("panel {place}"), expression));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            let inner = query.strip_prefix("label_values(").unwrap();
            let (selector, label) = inner.trim_end_matches(')').rsplit_once(", ").unwrap();
            assert!(OF_THE_SCRAPE.contains(&label), "{query}");
            found.push(("a variable".to_owned(), selector.to_owned()));
        }
    }
    found
}

/// What an expression names. Whether it is PromQL at all is judged by Prometheus itself, see `tests/promql`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    metrics: BTreeSet<String>,
    /// Metric and label of each condition in braces.
    conditions: BTreeSet<(String, String)>,
    /// Labels of `by`, `on` and the like.
    labels: BTreeSet<String>,
}

/// Reads words in their order, without what stands in quotes or square brackets.
fn named(expression: &str) -> Named {
    const OPERATORS: [&str; 5] = ["and", "or", "unless", "offset", "bool"];
    const LISTS: [&str; 6] = [
        "by",
        "without",
        "on",
        "ignoring",
        "group_left",
        "group_right",
    ];
    let mut bare = String::new();
    let mut quoted = false;
    let mut bracketed = false;
    for letter in expression.chars() {
        match letter {
            '"' => quoted = !quoted,
            '[' if !quoted => bracketed = true,
            ']' if !quoted => bracketed = false,
            _ if quoted || bracketed => {}
            other => bare.push(other),
        }
    }
    let mut named = Named::default();
    let mut rest = bare.as_str();
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphanumeric() || c == '_') {
        let word = &rest[start..];
        let end = word
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .unwrap_or(word.len());
        let (word, behind) = word.split_at(end);
        rest = behind;
        let next = behind.trim_start();
        if word.starts_with(|c: char| c.is_ascii_digit()) || OPERATORS.contains(&word) {
            continue;
        }
        if LISTS.contains(&word) {
            let (list, behind) = next[1..].split_once(')').unwrap();
            named
                .labels
                .extend(list.split(',').map(|label| label.trim().to_owned()));
            rest = behind;
        } else if let Some(conditions) = next.strip_prefix('{') {
            let (conditions, behind) = conditions.split_once('}').unwrap();
            for condition in conditions.split(',') {
                let label = condition.split(['=', '!']).next().unwrap().trim();
                named.conditions.insert((word.to_owned(), label.to_owned()));
            }
            named.metrics.insert(word.to_owned());
            rest = behind;
        } else if !next.starts_with('(')
            && !LISTS
                .iter()
                .any(|list| next.starts_with(&format!("{list} (")))
        {
            named.metrics.insert(word.to_owned());
        }
    }
    named
}

fn dashboard_and_alerts_know_only(scrape: &Scrape) {
    let types: BTreeSet<&str> = scrape
        .0
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let known = known();
    // The table, to which the expressions are held, is what the daemon shows.
    for (name, labels, _) in scrape.series() {
        let of: BTreeSet<&str> = labels.into_keys().collect();
        assert_eq!(known.get(name), Some(&of), "{name}");
    }
    // Shown only while a sync runs, after a failure, and where memory has a limit.
    let sometimes = [
        "baton_jumpcloud_sync_listings",
        "baton_jumpcloud_api_calls_failed_total",
        "baton_jumpcloud_memory_limit_bytes",
    ];
    for family in FAMILIES {
        let name = family.name.strip_suffix("_total").unwrap_or(family.name);
        assert!(
            types.contains(name) || sometimes.contains(&family.name),
            "{name}"
        );
    }
}

#[test]
fn dashboard_and_alerts_name_metrics_and_labels_that_exist_and_every_metric() {
    let known = known();
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for (place, expression) in expressions() {
        let names = named(&expression);
        let mut labels: BTreeSet<&str> = OF_THE_SCRAPE.into_iter().collect();
        for metric in &names.metrics {
            match known.get(metric) {
                Some(of) => labels.extend(of),
                None => wrong.push(format!("{place}: no metric {metric}")),
            }
        }
        for (metric, label) in &names.conditions {
            let has = |of: &BTreeSet<&str>| of.contains(label.as_str());
            if !OF_THE_SCRAPE.contains(&label.as_str()) && !known.get(metric).is_some_and(has) {
                wrong.push(format!("{place}: {metric} has no label {label}"));
            }
        }
        for label in &names.labels {
            if !labels.contains(label.as_str()) {
                wrong.push(format!("{place}: no label {label}"));
            }
        }
        used.extend(names.metrics);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let unused: Vec<_> = FAMILIES
        .iter()
        .filter(|family| !used.iter().any(|name| name.starts_with(family.name)))
        .map(|family| family.name)
        .collect();
    assert!(unused.is_empty(), "on no panel and in no alert: {unused:?}");
}

#[test]
fn the_names_in_an_expression_are_found() {
    let texts = |of: &[&str]| {
        of.iter()
            .map(|text| (*text).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let names = named(
        "sum by (kind, a) (rate(x_total{kind=~\"a|b{c}\", job!=\"y\"}[1h])) / on (job) z > 0.5 and w offset 1d",
    );
    assert_eq!(names.metrics, texts(&["x_total", "z", "w"]));
    assert_eq!(names.labels, texts(&["kind", "a", "job"]));
    assert_eq!(
        names.conditions,
        ["kind", "job"]
            .map(|label| ("x_total".to_owned(), label.to_owned()))
            .into()
    );
    assert_eq!(named("time() - max(p) > 600").metrics, texts(&["p"]));
}

#[test]
fn every_alert_says_what_it_is_and_what_to_do() {
    let rules: Value = serde_saphyr::from_str(&file("rules.yaml")).unwrap();
    assert_eq!(rules.as_object().unwrap().len(), 1, "groups alone");
    let mut names = BTreeSet::new();
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        assert!(names.insert(name), "{name} is there twice");
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{name}");
        for annotation in ["summary", "description", "runbook"] {
            let text = rule["annotations"][annotation].as_str().unwrap();
            assert!(text.len() > 15, "{name}: {annotation}");
        }
    }
    assert!(names.len() >= 10, "{names:?}");
    let text = file("rules.yaml");
    for other in text
        .split("See BatonJumpCloud")
        .skip(1)
        .chain(text.split("Is BatonJumpCloud").skip(1))
    {
        let name: String = other
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect();
        assert!(
            names.contains(format!("BatonJumpCloud{name}").as_str()),
            "{name}"
        );
    }
}

#[test]
fn the_dashboard_is_one_that_grafana_can_load() {
    let dashboard: Value = serde_json::from_str(&file("dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), panels.len());
    let rows: Vec<_> = panels
        .iter()
        .filter(|panel| panel["type"] == "row")
        .map(|panel| panel["title"].as_str().unwrap())
        .collect();
    assert_eq!(
        rows,
        [
            "Is it well?",
            "Tasks",
            "Syncs",
            "JumpCloud",
            "ConductorOne",
            "Process"
        ]
    );
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(
            panel["datasource"]["uid"], "${datasource}",
            "{}",
            panel["title"]
        );
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24);
    }
}

// The log level.

/// The command `log-level` with these arguments, and what it prints.
async fn ask_level(scene: &Scene, port: &str, words: &[&str]) -> String {
    let mut launch = scene.bare().word("log-level");
    for word in words {
        launch = launch.word(word);
    }
    let launch = launch.flag("health-check-port", port);
    launch.run().await.expect(0).stdout.trim().to_owned()
}

#[tokio::test]
async fn the_log_level_is_changed_from_the_shell_and_goes_back_by_itself() {
    let scene = Scene::start().await;
    let launch = with_admin(scene.service().flag("log-level", "info"));
    let daemon = scene.serving(launch).await;
    let address = admin_address(&daemon).await;
    let (_, port) = address.rsplit_once(':').unwrap();
    assert_eq!(ask_level(&scene, port, &[]).await, "info");
    let shown = ask_level(&scene, port, &["debug", "--for=1h"]).await;
    assert!(
        shown.starts_with("debug until 20") && shown.ends_with("Z, then info"),
        "{shown}"
    );
    scene.expect_truth(&scene.enqueue_sync()).await;
    daemon.said("\"level\":\"debug\"").await;

    // Again, for a moment: the last wish counts.
    let begun = Instant::now();
    let shown = ask_level(&scene, port, &["error", "--for=1s"]).await;
    assert!(shown.starts_with("error until "), "{shown}");
    daemon
        .said("the log level is the configured one again")
        .await;
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(ask_level(&scene, port, &[]).await, "info");
    daemon.terminate().await;

    let gone = scene
        .bare()
        .word("log-level")
        .flag("health-check-port", port)
        .run()
        .await
        .expect(14);
    assert!(
        gone.verdict().contains("log-level failed: cannot reach"),
        "{}",
        gone.verdict()
    );
    for wrong in [
        &["loud"][..],
        &["debug", "--for=25h"],
        &["debug", "--for=soon"],
    ] {
        let mut launch = scene.bare().word("log-level");
        for word in wrong {
            launch = launch.word(word);
        }
        let exit = launch.run().await.expect(3);
        assert!(exit.verdict().contains("is n"), "{}", exit.verdict());
    }
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn debugging_ends_at_the_configured_time() {
    let scene = Scene::start().await;
    let soon = jiff::Timestamp::now() + Duration::from_secs(10);
    let launch = scene
        .service()
        .flag("log-level", "debug")
        .flag("log-level-debug-expires-at", soon.to_string());
    let daemon = scene.serving(launch).await;
    scene.expect_truth(&scene.enqueue_sync()).await;
    daemon.said("\"level\":\"debug\"").await;
    daemon
        .said("the log level is the configured one again")
        .await;
    sleep(Duration::from_millis(100)).await;
    scene.expect_truth(&scene.enqueue_sync()).await;
    let exit = daemon.terminate().await;
    let (_, quiet) = exit
        .stderr
        .split_once("the log level is the configured one again")
        .unwrap();
    assert!(quiet.contains("a task is done"), "{quiet}");
    assert!(!quiet.contains("\"level\":\"debug\""), "{quiet}");
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn a_time_of_the_past_debugs_nothing_and_a_wrong_one_is_refused() {
    let scene = Scene::start().await;
    let launch = scene
        .service()
        .flag("log-level", "debug")
        .flag("log-level-debug-expires-at", "2020-01-01T00:00:00+01:00");
    let daemon = scene.serving(launch).await;
    scene.expect_truth(&scene.enqueue_sync()).await;
    let exit = daemon.terminate().await;
    assert!(!exit.stderr.contains("\"level\":\"debug\""));
    let exit = scene
        .service()
        .flag("log-level-debug-expires-at", "tomorrow")
        .run()
        .await
        .expect(64);
    let verdict = exit.verdict();
    assert!(
        verdict.contains("log-level-debug-expires-at") && !verdict.contains("tomorrow"),
        "{verdict}"
    );
    scene.cloud.assert_clean();
}
