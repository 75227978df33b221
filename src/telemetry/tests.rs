//! What a log line looks like, and what never gets into one.

use jiff::Timestamp;
use tracing::{debug, error, info, info_span, warn};

use super::*;
use crate::clock::ManualClock;

fn log(level: Level, format: LogFormat) -> Log {
    Log {
        level,
        format,
        paths: Vec::new(),
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::new(
        "2026-11-25T01:02:03.456789Z".parse::<Timestamp>().unwrap(),
    ))
}

fn written(
    level: Level,
    format: LogFormat,
    secrets: &[&str],
    run: impl FnOnce(&LogControl),
) -> String {
    let secrets: Vec<_> = secrets
        .iter()
        .map(|text| SecretString::from(*text))
        .collect();
    let (subscriber, control, captured) = capture(&log(level, format), &secrets, clock());
    tracing::subscriber::with_default(subscriber, || run(&control));
    captured.text()
}

#[test]
fn a_json_line_has_the_official_keys_first_and_in_order() {
    let text = written(Level::Info, LogFormat::Json, &[], |_| {
        info!(
            task.id = "t1",
            count = 3_u64,
            ratio = 0.5,
            ok = true,
            "Claimed the task"
        );
    });
    let prefix = "{\"level\":\"info\",\"ts\":1795568523.456789,\"caller\":\"telemetry/tests.rs:";
    assert!(text.starts_with(prefix), "{text}");
    assert!(
        text.ends_with(
            "\"msg\":\"Claimed the task\",\"task.id\":\"t1\",\"count\":3,\"ratio\":0.5,\"ok\":true}\n"
        ),
        "{text}"
    );
    serde_json::from_str::<Value>(&text).unwrap();
}

#[test]
fn a_console_line_is_tab_separated() {
    let text = written(Level::Info, LogFormat::Console, &[], |_| {
        warn!(http.status = 429, "JumpCloud asks\nto wait");
    });
    let parts: Vec<_> = text.trim_end().split('\t').collect();
    assert_eq!(parts[0], "2026-11-25T01:02:03.456Z");
    assert_eq!(parts[1], "WARN");
    assert!(parts[2].starts_with("telemetry/tests.rs:"), "{text}");
    assert_eq!(parts[3], "JumpCloud asks to wait");
    assert_eq!(parts[4], "{\"http.status\": 429}");
}

#[test]
fn fields_of_the_spans_around_an_event_are_part_of_it_and_the_inner_ones_win() {
    let text = written(Level::Info, LogFormat::Json, &[], |_| {
        let outer = info_span!(
            "task",
            task.id = "t1",
            step = "outer",
            late = tracing::field::Empty
        );
        outer.in_scope(|| {
            let inner = info_span!("sync", sync.id = "s1", step = "inner");
            outer.record("late", 7);
            inner.in_scope(|| info!("Working"));
        });
    });
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["task.id"], "t1");
    assert_eq!(line["sync.id"], "s1");
    assert_eq!(line["step"], "inner");
    assert_eq!(line["late"], 7);
}

#[test]
fn a_field_cannot_pose_as_a_reserved_key() {
    let text = written(Level::Info, LogFormat::Json, &[], |_| {
        info!(level = "fatal", msg = "other", "Real");
    });
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["level"], "info");
    assert_eq!(line["msg"], "Real");
    assert_eq!(line["field.level"], "fatal");
}

#[test]
fn a_chain_of_errors_is_written_once_each() {
    let text = written(Level::Info, LogFormat::Json, &[], |_| {
        let error = Error::Open {
            path: "/x".into(),
            source: io::Error::other("disk full"),
        };
        error!(
            error = &error as &(dyn std::error::Error + 'static),
            "Cannot log"
        );
    });
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        line["error"],
        "--log-path (BATON_LOG_PATH): cannot append to /x: disk full"
    );
}

#[test]
fn the_level_decides_and_changes_at_run_time() {
    let text = written(Level::Warn, LogFormat::Json, &[], |control| {
        info!("one");
        warn!("two");
        control.set_level(Level::Debug);
        assert_eq!(control.level(), Level::Debug);
        debug!("three");
        control.set_level(Level::Error);
        warn!("four");
        error!("five");
    });
    let messages: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["msg"].clone())
        .collect();
    assert_eq!(messages, ["two", "three", "five"]);
}

#[test]
fn noisy_crates_are_heard_from_warnings_on_unless_debugging() {
    let text = written(Level::Info, LogFormat::Json, &[], |control| {
        info!(target: "hyper_util::client", "quiet");
        warn!(target: "h2::proto", "loud");
        control.set_level(Level::Debug);
        debug!(target: "rustls::client", "now");
        debug!(target: "h2::hpack::decoder", "never");
    });
    assert!(!text.contains("quiet") && !text.contains("never"), "{text}");
    assert!(text.contains("loud") && text.contains("now"), "{text}");
}

#[test]
fn no_secret_reaches_a_line_by_any_way() {
    for format in [LogFormat::Json, LogFormat::Console] {
        let text = written(Level::Debug, format, &["SECRETSEED-\"key\"-1"], |control| {
            control.hide(&SecretString::from("SECRETSEED-rotated"));
            let span = info_span!(
                "s",
                value = "SECRETSEED-\"key\"-1",
                late = tracing::field::Empty
            );
            span.record("late", "SECRETSEED-rotated");
            span.in_scope(|| {
                info!("message with SECRETSEED-\"key\"-1");
                info!(value = ?vec!["SECRETSEED-rotated"], "debug value");
                info!(value = %"Bearer SECRETSEED-unknown", "display value");
                info!(client_secret = "SECRETSEED-named", "named value");
                let error = io::Error::other("SECRETSEED-rotated");
                error!(
                    error = &error as &(dyn std::error::Error + 'static),
                    "failed"
                );
            });
        });
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(!text.contains("SECRETSEED"), "{text}");
    }
}

#[test]
fn logs_are_appended_to_every_file_named() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [folder.path().join("a.log"), folder.path().join("b.log")];
    std::fs::write(&paths[0], "before\n").unwrap();
    let outputs = outputs(&paths).unwrap();
    let (subscriber, _control) = logs(&log(Level::Info, LogFormat::Json), &[], clock(), outputs);
    tracing::subscriber::with_default(subscriber, || info!("hello"));
    let first = std::fs::read_to_string(&paths[0]).unwrap();
    let second = std::fs::read_to_string(&paths[1]).unwrap();
    assert!(first.starts_with("before\n{"), "{first}");
    assert!(second.contains("\"msg\":\"hello\""), "{second}");
}

#[test]
fn a_log_file_that_cannot_be_opened_is_named() {
    let Err(error) = outputs(&[PathBuf::from("/no/such/folder/x.log")]) else {
        panic!("opened");
    };
    assert!(
        error.to_string().contains("/no/such/folder/x.log"),
        "{error}"
    );
    assert!(error.to_string().contains("--log-path"), "{error}");
}

#[test]
fn the_caller_is_the_end_of_the_path() {
    assert_eq!(last_two("/a/b/src/dispatch/task.rs"), "dispatch/task.rs");
    assert_eq!(last_two("src/main.rs"), "src/main.rs");
    assert_eq!(last_two("main.rs"), "main.rs");
}

#[test]
fn the_client_of_the_kubernetes_api_says_nothing_by_itself() {
    // Its warnings hold whole answers.
    let text = written(Level::Debug, LogFormat::Json, &[], |_| {
        warn!(target: "kube_client::client", "a Secret");
        error!(target: "kube_client::client::builder", "failed with status");
        warn!(target: "kube_runtime::watcher", "watch list error with 403");
    });
    assert_eq!(text, "");
}
