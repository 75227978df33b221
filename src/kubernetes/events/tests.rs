//! What is written about the pod, and how often.

use serde_json::Value;
use tokio::{task::JoinSet, time::sleep};

use super::*;
use crate::{
    config::Pod,
    kubernetes::{
        reference,
        tests::{Call, Server, lines, log, server, settle},
    },
    notice::Notices,
};

const PATH: &str = "/apis/events.k8s.io/v1/namespaces/baton/events";

struct Writing {
    server: Server,
    notices: Notices,
    shutdown: CancellationToken,
    running: JoinSet<()>,
}

async fn writing() -> Writing {
    let (client, server) = server();
    let pod = Pod {
        name: "baton-5d".to_owned(),
        namespace: None,
        uid: Some("6f1a".to_owned()),
    };
    let notices = Notices::new();
    let shutdown = CancellationToken::new();
    let mut running = JoinSet::new();
    running.spawn(run(
        client,
        reference(&pod, "baton"),
        notices.listen(),
        shutdown.clone(),
    ));
    settle().await;
    Writing {
        server,
        notices,
        shutdown,
        running,
    }
}

impl Writing {
    fn made(&self, kind: &'static str) {
        self.notices.tell(Notice::ChangeMade { kind });
    }

    /// The next request, which must make an Event.
    async fn created(&mut self) -> Value {
        let call = self.call("POST", "").await;
        let event = call.body.clone();
        call.answer(201, &event);
        settle().await;
        event
    }

    async fn note(&mut self) -> String {
        self.created().await["note"].as_str().unwrap().to_owned()
    }

    async fn call(&mut self, method: &str, name: &str) -> Call {
        let call = self.server.call().await;
        assert_eq!(call.line, format!("{method} {PATH}{name}"));
        call
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_has_all_that_the_api_wants() {
    let mut writing = writing().await;
    writing.notices.tell(Notice::SyncFinished {
        resources: 5000,
        entitlements: 20,
        grants: 9000,
        warnings: 1,
    });
    let event = writing.created().await;
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap();
    assert_eq!(text("/reason"), "SyncFinished");
    assert_eq!(text("/type"), "Normal");
    assert_eq!(text("/action"), "Sync");
    assert_eq!(
        text("/note"),
        "A full sync was uploaded: 5000 resources, 20 entitlements, 9000 grants, 1 warnings"
    );
    assert_eq!(text("/reportingController"), "baton-jumpcloud");
    assert_eq!(text("/reportingInstance"), "baton-5d");
    assert_eq!(text("/metadata/namespace"), "baton");
    assert!(text("/metadata/name").starts_with("baton-5d."));
    assert_eq!(text("/regarding/kind"), "Pod");
    assert_eq!(text("/regarding/apiVersion"), "v1");
    assert_eq!(text("/regarding/name"), "baton-5d");
    assert_eq!(text("/regarding/namespace"), "baton");
    assert_eq!(text("/regarding/uid"), "6f1a");
    // Microseconds, as the API wants them.
    assert_eq!(
        text("/eventTime").len(),
        "2026-11-25T01:02:03.456789Z".len()
    );
}

#[tokio::test(start_paused = true)]
async fn every_notice_has_a_reason_a_type_and_words() {
    let problem = || "the reason".to_owned();
    let peer = Peer::JumpCloud;
    let table = [
        (
            Notice::SyncFailed { problem: problem() },
            "Warning SyncFailed: A full sync failed: the reason",
        ),
        (
            Notice::ChangeMade { kind: "grant" },
            "Normal ChangeMade: 1 change was made: grant",
        ),
        (
            Notice::ChangeFailed {
                kind: "revoke",
                problem: problem(),
            },
            "Warning ChangeFailed: 1 change failed (revoke): the reason",
        ),
        (
            Notice::CredentialsRejected {
                peer,
                problem: problem(),
            },
            "Warning CredentialsRejected: JumpCloud rejects the credentials: the reason",
        ),
        (
            Notice::CredentialsReplaced { peer },
            "Normal CredentialsReplaced: JumpCloud takes the rotated credentials, which are in use now",
        ),
        (
            Notice::Degraded {
                peer,
                problem: problem(),
            },
            "Warning Degraded: JumpCloud does not answer usefully: the reason",
        ),
        (
            Notice::Recovered { peer },
            "Normal Recovered: JumpCloud answers again",
        ),
    ];
    let mut writing = writing().await;
    for (notice, expected) in table {
        writing.notices.tell(notice);
        let event = writing.created().await;
        let text = |name: &str| event[name].as_str().unwrap();
        let said = format!("{} {}: {}", text("type"), text("reason"), text("note"));
        assert_eq!(said, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_changes_make_a_handful_of_events() {
    let mut writing = writing().await;
    writing.made("grant");
    assert_eq!(writing.note().await, "1 change was made: grant");
    for index in 0..999 {
        writing.made(if index % 3 == 0 { "revoke" } else { "grant" });
        settle().await;
    }
    assert_eq!(
        writing.note().await,
        "999 changes were made: 666 grant, 333 revoke"
    );
    // Nothing more is held back, and after a quiet minute the next one is written at once.
    writing.server.is_left_alone_for(INTERVAL).await;
    writing.made("grant");
    let before = Instant::now();
    // The same words as a while ago, but an Event of other words was between them.
    assert_eq!(writing.note().await, "1 change was made: grant");
    assert!(before.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn topics_do_not_wait_for_each_other() {
    let mut writing = writing().await;
    for peer in [Peer::ConductorOne, Peer::JumpCloud] {
        writing.notices.tell(Notice::Recovered { peer });
    }
    assert_eq!(writing.note().await, "ConductorOne answers again");
    assert_eq!(writing.note().await, "JumpCloud answers again");
    for problem in ["first", "second", "third"] {
        writing.notices.tell(Notice::ChangeFailed {
            kind: "grant",
            problem: problem.to_owned(),
        });
    }
    assert_eq!(writing.note().await, "1 change failed (grant): first");
    writing.notices.tell(Notice::SyncFailed {
        problem: "fourth".to_owned(),
    });
    assert_eq!(writing.note().await, "A full sync failed: fourth");
    assert_eq!(
        writing.note().await,
        "2 changes failed (2 grant), the last: third"
    );
}

#[tokio::test(start_paused = true)]
async fn the_same_words_again_are_counted_up() {
    let mut writing = writing().await;
    let tell = |writing: &Writing| {
        writing.notices.tell(Notice::Recovered {
            peer: Peer::ConductorOne,
        });
    };
    tell(&writing);
    let event = writing.created().await;
    let name = format!("/{}", event["metadata"]["name"].as_str().unwrap());
    for count in 2..5 {
        sleep(INTERVAL).await;
        tell(&writing);
        let call = writing.call("PATCH", &name).await;
        assert_eq!(call.body["series"]["count"], count);
        let event = call.body.clone();
        call.answer(200, &event);
        settle().await;
    }
    // An Event that was deleted meanwhile is written anew.
    sleep(INTERVAL).await;
    tell(&writing);
    let call = writing.call("PATCH", &name).await;
    call.refuse(404, "events not found");
    sleep(INTERVAL).await;
    tell(&writing);
    writing.created().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_event_is_dropped_and_told_once_a_minute() {
    let (_guard, captured) = log();
    let mut writing = writing().await;
    for peer in [Peer::ConductorOne, Peer::JumpCloud] {
        writing.notices.tell(Notice::Recovered { peer });
        let call = writing.call("POST", "").await;
        call.refuse(403, "events is forbidden");
        settle().await;
    }
    let told = lines(
        &captured,
        "warn",
        "resources [events], verbs [create, patch]",
    );
    assert_eq!(told, 1, "{}", captured.text());
    // Dropped, not written later.
    writing.server.is_left_alone_for(INTERVAL * 2).await;
    writing.made("grant");
    writing.created().await;
    assert_eq!(lines(&captured, "info", "Events are written again"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_hangs_costs_events_and_nothing_else() {
    let (_guard, captured) = log();
    let mut writing = writing().await;
    writing.made("grant");
    let _hanging = writing.call("POST", "").await;
    // More than the queue holds.
    for _ in 0..200 {
        writing.notices.tell(Notice::SyncFailed {
            problem: "x".to_owned(),
        });
    }
    assert_eq!(writing.note().await, "A full sync failed: x");
    assert_eq!(lines(&captured, "warn", "does not answer in time"), 1);
    let missed = lines(&captured, "debug", "more happened at once");
    assert_eq!(missed, 1, "{}", captured.text());
    assert_eq!(writing.note().await, "63 full syncs failed, the last: x");
}

#[tokio::test(start_paused = true)]
async fn what_is_held_back_is_written_at_the_end() {
    let mut writing = writing().await;
    writing.made("grant");
    writing.note().await;
    writing.made("revoke");
    settle().await;
    writing.made("grant");
    // Told, and not heard yet.
    writing.shutdown.cancel();
    assert_eq!(
        writing.note().await,
        "2 changes were made: 1 grant, 1 revoke"
    );
    assert!(writing.running.join_next().await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_end_does_not_wait_for_an_api_server_that_hangs() {
    let mut writing = writing().await;
    writing.made("grant");
    writing.note().await;
    writing.made("revoke");
    writing.shutdown.cancel();
    let before = Instant::now();
    let _hanging = writing.call("POST", "").await;
    assert!(writing.running.join_next().await.unwrap().is_ok());
    assert!(before.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_note_and_an_instance_keep_to_the_limits_of_the_api() {
    let batch = Batch::of(Notice::SyncFailed {
        problem: "é".repeat(2000),
    });
    let note = batch.event().note.unwrap();
    assert!((1020..=1024).contains(&note.len()), "{}", note.len());
    assert_eq!(capped_name(&"a".repeat(253)).len(), 128);
    assert_eq!(capped_name("baton-0"), "baton-0");
}
