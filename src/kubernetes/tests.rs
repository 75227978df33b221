//! An API server for the tests of the parts, and the tests of what the parts share.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tower_test::mock::{self, Handle, SendResponse};

use super::*;
use crate::{
    clock::SystemClock,
    config::{Level, Log, LogFormat},
    telemetry::{self, Captured},
};

/// Longer than anything waits that a test expects, in paused time.
const PATIENCE: Duration = Duration::from_mins(10);

/// The API server as the test plays it.
pub(super) struct Server(Handle<http::Request<kube::client::Body>, http::Response<Answer>>);

/// A client of a server that the test plays.
pub(super) fn server() -> (Client, Server) {
    let (service, handle) = mock::pair();
    (Client::new(service, "unused"), Server(handle))
}

impl Server {
    /// The next request.
    pub(super) async fn call(&mut self) -> Call {
        let next = timeout(PATIENCE, self.0.next_request()).await;
        let (request, send) = next.expect("no request came").expect("the client is gone");
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        let body = body.collect_bytes().await.unwrap();
        Call {
            line: format!("{} {}", parts.method, parts.uri.path()),
            query: url::form_urlencoded::parse(query).into_owned().collect(),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            send,
        }
    }

    /// Passes that time, and wants no request in it.
    pub(super) async fn is_left_alone_for(&mut self, time: Duration) {
        let next = timeout(time, self.0.next_request()).await;
        assert!(next.is_err(), "a request came");
    }
}

/// A request that waits for its answer.
pub(super) struct Call {
    /// Method and path.
    pub(super) line: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) body: Value,
    send: SendResponse<http::Response<Answer>>,
}

impl Call {
    pub(super) fn answer(self, status: u16, body: &Value) {
        let (lines, answer) = Answer::new();
        lines.send(body.to_string()).unwrap();
        self.respond(status, answer);
    }

    /// Refuses, as the API server does.
    pub(super) fn refuse(self, status: u16, message: &str) {
        self.answer(status, &refusal(status, message));
    }

    /// Breaks the connection.
    pub(super) fn fail(self) {
        self.send
            .send_error(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
    }

    /// Answers a watch; it ends when the sender is dropped.
    pub(super) fn stream(self) -> Events {
        let (lines, answer) = Answer::new();
        self.respond(200, answer);
        Events(lines)
    }

    fn respond(self, status: u16, answer: Answer) {
        let response = http::Response::builder().status(status).body(answer);
        self.send.send_response(response.unwrap());
    }
}

/// The open end of a watch.
pub(super) struct Events(mpsc::UnboundedSender<String>);

impl Events {
    pub(super) fn send(&self, kind: &str, object: &Value) {
        let line = json!({"type": kind, "object": object});
        self.0.send(format!("{line}\n")).unwrap();
    }
}

/// A `Status` of the API.
pub(super) fn refusal(status: u16, message: &str) -> Value {
    let reason = match status {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        _ => "InternalError",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": message, "reason": reason, "code": status,
    })
}

/// A body of lines that come one by one.
pub(super) struct Answer(mpsc::UnboundedReceiver<String>);

impl Answer {
    fn new() -> (mpsc::UnboundedSender<String>, Self) {
        let (lines, receiver) = mpsc::unbounded_channel();
        (lines, Self(receiver))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.0.poll_recv(context);
        next.map(|line| line.map(|line| Ok(Frame::data(Bytes::from(line)))))
    }
}

/// Lets everything that can run do so.
pub(super) async fn settle() {
    sleep(Duration::from_millis(10)).await;
}

/// Keeps what this thread logs, down to debug, until the guard is dropped.
pub(super) fn log() -> (tracing::subscriber::DefaultGuard, Captured) {
    let log = Log {
        level: Level::Debug,
        format: LogFormat::Json,
        paths: Vec::new(),
    };
    let (subscriber, _control, captured) = telemetry::capture(&log, &[], Arc::new(SystemClock));
    (tracing::subscriber::set_default(subscriber), captured)
}

/// How many lines hold this text at this level.
pub(super) fn lines(captured: &Captured, level: &str, text: &str) -> usize {
    let level = format!("{{\"level\":\"{level}\"");
    captured
        .text()
        .lines()
        .filter(|line| line.starts_with(&level) && line.contains(text))
        .count()
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_once_a_minute_and_taken_back_once() {
    let mut complaints = Complaints::default();
    assert!(!complaints.settled());
    assert!(complaints.due());
    assert!(!complaints.due());
    sleep(Duration::from_secs(59)).await;
    assert!(!complaints.due());
    assert!(complaints.settled());
    assert!(!complaints.settled());
    // A connection that comes and goes is told once a minute too.
    assert!(!complaints.due());
    sleep(Duration::from_secs(1)).await;
    assert!(complaints.due());
}

#[test]
fn an_answer_that_cannot_be_read_is_not_repeated() {
    let broken = serde_json::from_str::<u8>("\"SECRETSEED\"").unwrap_err();
    assert!(broken.to_string().contains("SECRETSEED"));
    let text = explained(&kube::Error::SerdeError(broken), "verbs [get]");
    assert_eq!(text, "the answer is not what the Kubernetes API promises");
}

#[test]
fn a_refusal_names_the_rule_and_repeats_a_short_line_of_the_answer() {
    let status = |code, message: &str| kube::core::Status {
        code,
        message: message.to_owned(),
        ..kube::core::Status::default()
    };
    let text = answered(&status(403, "no\nsuch luck"), "verbs [get]");
    assert_eq!(
        text,
        "the API server forbids it; the Role needs a rule with verbs [get]: no such luck"
    );
    assert!(answered(&status(401, ""), "").contains("token of the service account"));
    let long = answered(&status(500, &"é".repeat(1000)), "");
    assert!(long.len() < 350, "{}", long.len());
    assert!(long.starts_with("the API server answers 500: é"));
    assert!(long.ends_with('…'));
}

#[test]
fn a_text_is_capped_between_characters() {
    assert_eq!(capped("abc", 3), "abc");
    assert_eq!(capped("abcdef", 5), "ab…");
    assert_eq!(capped("éééé", 6), "é…");
    for limit in 0..20 {
        assert!(capped("a€ü𝄞b€ü𝄞c€ü𝄞", limit).len() <= limit.max('…'.len_utf8()));
    }
}

#[test]
fn two_processes_never_have_the_same_name() {
    let pod = Pod {
        name: "baton-0".to_owned(),
        namespace: None,
        uid: Some("6f1a".to_owned()),
    };
    assert_eq!(identity(&pod), "baton-0_6f1a");
    let unknown = Pod { uid: None, ..pod };
    assert_ne!(identity(&unknown), identity(&unknown));
}

/// What `kube` makes of a kubeconfig whose user has this.
async fn config_of(user: Value) -> kube::Config {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    });
    let kubeconfig = serde_json::from_value(kubeconfig).unwrap();
    kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_kubeconfig_that_would_start_a_program_is_refused_and_nothing_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("started");
    let exec = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
        "command": "touch", "args": [trace],
    });
    let provider = json!({
        "name": "gcp",
        "config": {"cmd-path": "touch", "cmd-args": trace, "token-key": "{.token}", "expiry-key": "{.expiry}"},
    });
    for (field, user) in [
        ("exec", json!({"exec": exec})),
        ("exec", json!({"exec": exec, "token": "SECRETSEED"})),
        ("auth-provider", json!({"auth-provider": provider})),
    ] {
        let error = client_of(config_of(user).await).err().unwrap();
        let text = chain(&error);
        assert!(text.contains(&format!("has {field}, ")), "{text}");
        assert!(text.contains("tokenFile"), "{text}");
        assert!(!trace.exists(), "{field}");
    }
    for user in [json!({}), json!({"token": "SECRETSEED"})] {
        client_of(config_of(user).await).unwrap();
    }
}
