//! What a Secret brings, and what the API server can do to its watch.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};

use super::*;
use crate::kubernetes::tests::{Call, Events, Server, lines, log, server, settle};

const PATH: &str = "GET /api/v1/namespaces/baton/secrets";

/// A watch of the Secret `creds`, and what it hands on.
struct Watching {
    server: Server,
    from: watch::Receiver<Option<Arc<Texts>>>,
    shutdown: CancellationToken,
    running: JoinSet<Result<(), Error>>,
}

fn watching() -> Watching {
    let (client, server) = server();
    let (to, from) = watch::channel(None);
    let shutdown = CancellationToken::new();
    let mut running = JoinSet::new();
    running.spawn(run(
        client,
        "baton".to_owned(),
        "creds".to_owned(),
        SecretKeys::default(),
        to,
        shutdown.clone(),
    ));
    Watching {
        server,
        from,
        shutdown,
        running,
    }
}

impl Watching {
    /// The next request, which must be a list.
    async fn list(&mut self) -> Call {
        let call = self.server.call().await;
        assert_eq!(call.line, PATH);
        assert_eq!(call.query["fieldSelector"], "metadata.name=creds");
        assert!(!call.query.contains_key("watch"), "{:?}", call.query);
        call
    }

    /// The next request, which must be a watch from this version.
    async fn watch(&mut self, version: &str) -> Call {
        let call = self.server.call().await;
        assert_eq!(call.line, PATH);
        assert_eq!(call.query["fieldSelector"], "metadata.name=creds");
        assert_eq!(call.query["watch"], "true");
        assert_eq!(call.query["allowWatchBookmarks"], "true");
        assert_eq!(call.query["timeoutSeconds"], "120");
        assert_eq!(call.query["resourceVersion"], version);
        call
    }

    /// Answers list and watch; the list holds these objects.
    async fn begin(&mut self, secrets: &[Value]) -> Events {
        self.list().await.answer(200, &list("100", secrets));
        self.watch("100").await.stream()
    }

    /// The credentials that were handed on since the last look.
    fn news(&mut self) -> Option<BTreeMap<&'static str, String>> {
        if !self.from.has_changed().unwrap() {
            return None;
        }
        let delivered = self.from.borrow_and_update().clone()?;
        let texts = delivered.0.iter();
        Some(
            texts
                .map(|(name, text)| (*name, text.expose_secret().to_owned()))
                .collect(),
        )
    }

    async fn api_key(&mut self) -> Option<String> {
        settle().await;
        self.news()?.remove("api-key")
    }
}

fn list(version: &str, secrets: &[Value]) -> Value {
    json!({
        "kind": "SecretList", "apiVersion": "v1",
        "metadata": {"resourceVersion": version}, "items": secrets,
    })
}

fn secret(version: &str, data: &[(&str, &[u8])]) -> Value {
    let data: BTreeMap<_, _> = data
        .iter()
        .map(|(key, content)| (*key, STANDARD.encode(content)))
        .collect();
    json!({
        "kind": "Secret", "apiVersion": "v1",
        "metadata": {"name": "creds", "namespace": "baton", "resourceVersion": version},
        "data": data,
    })
}

fn with_key(version: &str, key: &str) -> Value {
    secret(version, &[("BATON_API_KEY", key.as_bytes())])
}

#[tokio::test(start_paused = true)]
async fn the_credentials_that_are_there_are_handed_on_without_line_ends() {
    let mut watching = watching();
    let data: &[(&str, &[u8])] = &[
        ("BATON_CLIENT_ID", b"worker@tenant.conductor.one/spc\n"),
        ("BATON_CLIENT_SECRET", b"SECRETSEED-1\r\n"),
        ("BATON_ORG_ID", b"ignored"),
        ("BATON_JUMPCLOUD_CLIENT_SECRET", b"\n"),
    ];
    let _events = watching.begin(&[secret("90", data)]).await;
    settle().await;
    let expected = BTreeMap::from([
        ("client-id", "worker@tenant.conductor.one/spc".to_owned()),
        ("client-secret", "SECRETSEED-1".to_owned()),
    ]);
    assert_eq!(watching.news(), Some(expected));
}

#[tokio::test(start_paused = true)]
async fn a_rotation_is_handed_on_and_a_change_beside_it_is_not() {
    let mut watching = watching();
    let events = watching.begin(&[with_key("90", "SECRETSEED-1")]).await;
    assert_eq!(watching.api_key().await.as_deref(), Some("SECRETSEED-1"));
    let beside: &[(&str, &[u8])] = &[
        ("BATON_API_KEY", b"SECRETSEED-1\n"),
        ("note", b"something else"),
    ];
    events.send("MODIFIED", &secret("101", beside));
    assert_eq!(watching.api_key().await, None);
    events.send("MODIFIED", &with_key("102", "SECRETSEED-2"));
    assert_eq!(watching.api_key().await.as_deref(), Some("SECRETSEED-2"));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_goes_on_from_the_last_bookmark() {
    let mut watching = watching();
    let events = watching.begin(&[with_key("90", "SECRETSEED-1")]).await;
    assert!(watching.api_key().await.is_some());
    let bookmark = json!({
        "kind": "Secret", "apiVersion": "v1",
        "metadata": {"resourceVersion": "500", "creationTimestamp": null},
    });
    events.send("BOOKMARK", &bookmark);
    settle().await;
    drop(events);
    let events = watching.watch("500").await.stream();
    assert_eq!(watching.api_key().await, None);
    events.send("MODIFIED", &with_key("501", "SECRETSEED-2"));
    assert_eq!(watching.api_key().await.as_deref(), Some("SECRETSEED-2"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_begun_again() {
    let mut watching = watching();
    let _silent = watching.begin(&[with_key("90", "SECRETSEED-1")]).await;
    let before = Instant::now();
    let _again = watching.watch("100").await.stream();
    assert_eq!(before.elapsed().as_secs(), u64::from(WATCH_SECONDS) + 5);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_gone_leads_to_a_new_list() {
    // As an event of the watch, and as the answer to it.
    let mut watching = watching();
    let events = watching.begin(&[with_key("90", "SECRETSEED-1")]).await;
    assert!(watching.api_key().await.is_some());
    let gone = "too old resource version";
    events.send("ERROR", &crate::kubernetes::tests::refusal(410, gone));
    watching
        .list()
        .await
        .answer(200, &list("200", &[with_key("150", "SECRETSEED-2")]));
    watching.watch("200").await.refuse(410, gone);
    assert_eq!(watching.api_key().await.as_deref(), Some("SECRETSEED-2"));
    watching
        .list()
        .await
        .answer(200, &list("300", &[with_key("250", "SECRETSEED-3")]));
    watching.watch("300").await.stream();
    assert_eq!(watching.api_key().await.as_deref(), Some("SECRETSEED-3"));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_secret_takes_nothing_back_and_its_successor_counts() {
    let (_guard, captured) = log();
    let mut watching = watching();
    let events = watching.begin(&[with_key("90", "SECRETSEED-1")]).await;
    assert!(watching.api_key().await.is_some());
    events.send("DELETED", &with_key("101", "SECRETSEED-1"));
    assert_eq!(watching.api_key().await, None);
    assert_eq!(lines(&captured, "error", "does not exist"), 1);
    // The same credentials again are no news, others are.
    events.send("ADDED", &with_key("102", "SECRETSEED-1"));
    assert_eq!(watching.api_key().await, None);
    events.send("DELETED", &with_key("103", "SECRETSEED-1"));
    events.send("ADDED", &with_key("104", "SECRETSEED-2"));
    assert_eq!(watching.api_key().await.as_deref(), Some("SECRETSEED-2"));
    assert!(!captured.text().contains("SECRETSEED"));
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_comes_later_than_the_pod_is_waited_for() {
    let (_guard, captured) = log();
    let mut watching = watching();
    let events = watching.begin(&[]).await;
    assert_eq!(watching.api_key().await, None);
    assert_eq!(lines(&captured, "error", "does not exist"), 1);
    events.send("ADDED", &with_key("101", "SECRETSEED-1"));
    assert_eq!(watching.api_key().await.as_deref(), Some("SECRETSEED-1"));
}

#[tokio::test(start_paused = true)]
async fn a_missing_rule_is_named_once_a_minute_and_may_come_later() {
    let (_guard, captured) = log();
    let mut watching = watching();
    let begun = Instant::now();
    let mut tries = 0;
    while begun.elapsed() < Duration::from_mins(5) {
        let refused = "secrets is forbidden: User \"baton\" cannot list";
        watching.list().await.refuse(403, refused);
        settle().await;
        tries += 1;
    }
    assert!((8..24).contains(&tries), "{tries}");
    let told = lines(
        &captured,
        "warn",
        "resourceNames [creds], verbs [get, list, watch]",
    );
    assert!((3..=5).contains(&told), "{told} of {tries}");
    assert_eq!(lines(&captured, "error", ""), 0, "{}", captured.text());
    let _events = watching.begin(&[with_key("90", "SECRETSEED-1")]).await;
    assert_eq!(watching.api_key().await.as_deref(), Some("SECRETSEED-1"));
    assert_eq!(lines(&captured, "info", "is watched again"), 1);
}

#[tokio::test(start_paused = true)]
async fn one_lost_connection_is_no_news_and_an_outage_ends_nothing() {
    let (_guard, captured) = log();
    let mut watching = watching();
    watching.list().await.fail();
    let events = watching.begin(&[with_key("90", "SECRETSEED-1")]).await;
    assert!(watching.api_key().await.is_some());
    assert_eq!(lines(&captured, "warn", ""), 0, "{}", captured.text());
    drop(events);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_hours(1) {
        watching.watch("100").await.fail();
        settle().await;
    }
    let told = lines(&captured, "warn", "cannot be watched");
    assert!((36..=60).contains(&told), "{told}");
    let events = watching.watch("100").await.stream();
    events.send("MODIFIED", &with_key("101", "SECRETSEED-2"));
    assert_eq!(watching.api_key().await.as_deref(), Some("SECRETSEED-2"));
}

#[tokio::test(start_paused = true)]
async fn one_unfit_credential_keeps_all_of_them_back() {
    let (_guard, captured) = log();
    let mut watching = watching();
    let too_long = vec![b'x'; 64 * 1024 + 1];
    let unfit: &[(&[u8], &str)] = &[
        (b"SECRETSEED\xff", "is not text (byte 10"),
        (b"SECRET SEED", "at position 7 of 11"),
        (&too_long, "is larger than 65536 bytes"),
    ];
    let events = watching.begin(&[with_key("90", "SECRETSEED-1")]).await;
    assert!(watching.api_key().await.is_some());
    for (content, problem) in unfit {
        let data: &[(&str, &[u8])] = &[
            ("BATON_API_KEY", b"SECRETSEED-2"),
            ("BATON_CLIENT_SECRET", content),
        ];
        events.send("MODIFIED", &secret("101", data));
        // A change of a label brings the same again, which was told.
        events.send("MODIFIED", &secret("102", data));
        assert_eq!(watching.api_key().await, None);
        assert_eq!(lines(&captured, "error", problem), 1, "{problem}");
    }
    assert_eq!(
        lines(&captured, "error", "BATON_CLIENT_SECRET "),
        unfit.len()
    );
    events.send("MODIFIED", &with_key("103", "SECRETSEED-2"));
    assert_eq!(watching.api_key().await.as_deref(), Some("SECRETSEED-2"));
    assert!(!captured.text().contains("SECRETSEED"));
}

#[tokio::test(start_paused = true)]
async fn a_secret_with_other_keys_takes_nothing_away() {
    let (_guard, captured) = log();
    let mut watching = watching();
    let events = watching.begin(&[with_key("90", "SECRETSEED-1")]).await;
    assert!(watching.api_key().await.is_some());
    events.send("MODIFIED", &secret("101", &[("api_key", b"SECRETSEED-2")]));
    events.send("MODIFIED", &secret("102", &[]));
    assert_eq!(watching.api_key().await, None);
    let told = lines(&captured, "error", "has none of the keys BATON_API_KEY, ");
    assert_eq!(told, 1, "{}", captured.text());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_read_is_never_printed() {
    let (_guard, captured) = log();
    let mut watching = watching();
    let mut broken = with_key("90", "x");
    broken["data"]["BATON_API_KEY"] = json!("SECRETSEED !");
    for _ in 0..3 {
        let answer = list("100", std::slice::from_ref(&broken));
        watching.list().await.answer(200, &answer);
        settle().await;
    }
    let events = watching.begin(&[]).await;
    events.send("ADDED", &broken);
    settle().await;
    let told = lines(&captured, "warn", "not what the Kubernetes API promises");
    assert_eq!(told, 1, "{}", captured.text());
    assert!(
        !captured.text().contains("SECRETSEED"),
        "{}",
        captured.text()
    );
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_the_watch_also_while_it_waits() {
    let mut waiting = watching();
    let _call = waiting.list().await;
    waiting.shutdown.cancel();
    let ended = timeout(Duration::from_secs(1), waiting.running.join_next()).await;
    assert!(ended.unwrap().unwrap().unwrap().is_ok());
}

#[test]
fn other_keys_can_be_given() {
    let flags = |keys: &str| {
        let mut flags = crate::config::Flags::default();
        let given = [
            ("api-key", "SECRETSEED"),
            ("kubernetes-secret", "creds"),
            ("kubernetes-secret-keys", keys),
        ];
        for (name, value) in given {
            let setting = crate::config::settings::find(name).unwrap();
            flags.push(setting, vec![value.to_owned()]);
        }
        flags
    };
    let source = crate::config::ManualSource::new();
    let config = crate::config::resolve(&flags("api-key=jc.key"), &source).unwrap();
    let keys = config.kubernetes.secret.unwrap().keys;
    let data = [
        ("jc.key", "SECRETSEED-1"),
        ("BATON_CLIENT_ID", "worker@tenant.conductor.one/spc"),
        ("BATON_API_KEY", "ignored"),
    ];
    let secret = Secret {
        data: Some(
            data.into_iter()
                .map(|(key, text)| {
                    let content = k8s_openapi::ByteString(text.as_bytes().to_vec());
                    (key.to_owned(), content)
                })
                .collect(),
        ),
        ..Secret::default()
    };
    let delivered = delivered(&secret, &keys).unwrap();
    assert_eq!(delivered.0["api-key"].expose_secret(), "SECRETSEED-1");
    assert_eq!(delivered.0.len(), 2);
}
