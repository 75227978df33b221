//! The cache of tokens and the reading of the endpoint's answers.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use http::HeaderValue;
use tokio::time::advance;

use super::*;

/// Answers from a script, and with a token of an hour when the script is at its end.
#[derive(Default)]
struct FakeEndpoint {
    asked: AtomicUsize,
    script: Mutex<VecDeque<Result<Option<u64>, TokenError>>>,
    takes: Duration,
}

#[async_trait]
impl TokenEndpoint for Arc<FakeEndpoint> {
    async fn ask(&self) -> Result<Grant, TokenError> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::time::sleep(self.takes).await;
        let next = self.script.lock().unwrap().pop_front();
        let life = next.unwrap_or(Ok(Some(3600)))?.map(Duration::from_secs);
        let header = MetadataValue::try_from(format!("Bearer {number}")).unwrap();
        Ok(Grant { header, life })
    }
}

fn source(
    script: impl IntoIterator<Item = Result<Option<u64>, TokenError>>,
    takes: Duration,
) -> (Arc<FakeEndpoint>, TokenSource) {
    let endpoint = Arc::new(FakeEndpoint {
        script: Mutex::new(script.into_iter().collect()),
        takes,
        ..FakeEndpoint::default()
    });
    let source = TokenSource::new(Arc::clone(&endpoint));
    (endpoint, source)
}

fn answer(status: u16) -> Answer {
    Answer {
        status,
        error: None,
        description: None,
    }
}

fn unavailable() -> TokenError {
    TokenError::Unavailable {
        answer: answer(503),
    }
}

fn rejected() -> TokenError {
    TokenError::Rejected {
        answer: answer(401),
        skew: Skew(None),
    }
}

async fn number(source: &TokenSource) -> String {
    source
        .token()
        .await
        .unwrap()
        .header
        .to_str()
        .unwrap()
        .to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_token_is_kept_until_a_fifth_of_its_life_is_left() {
    let (_, source) = source([], Duration::ZERO);
    assert_eq!(number(&source).await, "Bearer 1");
    advance(Duration::from_secs(2879)).await;
    assert_eq!(number(&source).await, "Bearer 1");
    advance(Duration::from_secs(2)).await;
    assert_eq!(number(&source).await, "Bearer 2");
    assert_eq!(number(&source).await, "Bearer 2");
}

#[tokio::test(start_paused = true)]
async fn a_token_of_five_minutes_is_renewed_a_minute_before_its_end() {
    let (_, source) = source([Ok(Some(300)), Ok(Some(300))], Duration::ZERO);
    assert_eq!(number(&source).await, "Bearer 1");
    advance(Duration::from_secs(239)).await;
    assert_eq!(number(&source).await, "Bearer 1");
    advance(Duration::from_secs(2)).await;
    assert_eq!(number(&source).await, "Bearer 2");
}

#[tokio::test(start_paused = true)]
async fn a_token_of_seconds_is_used_for_half_of_them() {
    let (_, source) = source([Ok(Some(8)), Ok(Some(8))], Duration::ZERO);
    assert_eq!(number(&source).await, "Bearer 1");
    advance(Duration::from_millis(3900)).await;
    assert_eq!(number(&source).await, "Bearer 1");
    advance(Duration::from_millis(200)).await;
    assert_eq!(number(&source).await, "Bearer 2");
}

#[tokio::test(start_paused = true)]
async fn a_token_of_unknown_life_is_kept_for_a_while() {
    let (endpoint, source) = source([Ok(None)], Duration::ZERO);
    assert_eq!(number(&source).await, "Bearer 1");
    advance(Duration::from_secs(20)).await;
    assert_eq!(number(&source).await, "Bearer 1");
    advance(Duration::from_mins(1)).await;
    assert_eq!(number(&source).await, "Bearer 2");
    assert_eq!(endpoint.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_of_no_life_is_asked_for_each_time_and_never_panics() {
    let (_, source) = source([Ok(Some(0)), Ok(Some(u64::MAX))], Duration::ZERO);
    assert_eq!(number(&source).await, "Bearer 1");
    assert_eq!(number(&source).await, "Bearer 2");
    assert_eq!(number(&source).await, "Bearer 2");
}

#[tokio::test(start_paused = true)]
async fn callers_who_wait_share_one_request() {
    let (endpoint, source) = source([], Duration::from_secs(1));
    let tokens = join_all((0..20).map(|_| number(&source))).await;
    assert!(tokens.iter().all(|token| token == "Bearer 1"));
    assert_eq!(endpoint.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn callers_who_wait_share_one_failure_and_the_next_caller_asks_again() {
    let (endpoint, source) = source([Err(rejected())], Duration::from_secs(1));
    let outcomes = join_all((0..20).map(|_| source.token())).await;
    assert!(outcomes.iter().all(Result::is_err));
    assert_eq!(endpoint.asked.load(Ordering::SeqCst), 1);
    assert_eq!(number(&source).await, "Bearer 2");
}

#[tokio::test(start_paused = true)]
async fn one_caller_renews_early_while_the_others_go_on_with_the_old_token() {
    let (endpoint, source) = source([], Duration::from_secs(1));
    assert_eq!(number(&source).await, "Bearer 1");
    advance(Duration::from_mins(50)).await;
    let mut tokens = join_all((0..5).map(|_| number(&source))).await;
    tokens.sort();
    assert_eq!(
        tokens,
        ["Bearer 1", "Bearer 1", "Bearer 1", "Bearer 1", "Bearer 2"]
    );
    assert_eq!(endpoint.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn an_early_renewal_that_fails_leaves_the_old_token_in_use_and_pauses() {
    let script = [Ok(Some(3600)), Err(unavailable()), Ok(Some(3600))];
    let (endpoint, source) = source(script, Duration::ZERO);
    assert_eq!(number(&source).await, "Bearer 1");
    advance(Duration::from_mins(50)).await;
    assert_eq!(number(&source).await, "Bearer 1");
    assert_eq!(number(&source).await, "Bearer 1");
    assert_eq!(endpoint.asked.load(Ordering::SeqCst), 2);
    advance(Duration::from_secs(11)).await;
    assert_eq!(number(&source).await, "Bearer 3");
}

#[tokio::test(start_paused = true)]
async fn a_token_in_its_last_seconds_is_not_used() {
    let (_, source) = source([Ok(Some(100)), Err(rejected())], Duration::ZERO);
    assert_eq!(number(&source).await, "Bearer 1");
    advance(Duration::from_secs(91)).await;
    assert!(source.token().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn transient_failures_are_tried_again_and_rejections_are_not() {
    let (endpoint, source1) = source(
        [Err(unavailable()), Err(unavailable()), Err(unavailable())],
        Duration::ZERO,
    );
    assert_eq!(number(&source1).await, "Bearer 4");
    assert_eq!(endpoint.asked.load(Ordering::SeqCst), 4);

    let (endpoint, source2) = source([Err(rejected())], Duration::ZERO);
    let error = source2.token().await.map(drop).unwrap_err();
    assert_eq!(
        (error.class(), error.code()),
        (Class::Auth, Code::Unauthenticated)
    );
    assert_eq!(endpoint.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_short_retry_after_is_waited_for_and_a_long_one_is_handed_on() {
    let throttled = |seconds| TokenError::Throttled {
        answer: answer(429),
        retry_after: Some(Duration::from_secs(seconds)),
    };
    let (_, waits) = source([Err(throttled(8))], Duration::ZERO);
    let started = Instant::now();
    assert_eq!(number(&waits).await, "Bearer 2");
    assert!(started.elapsed() >= Duration::from_secs(8));

    let (endpoint, hands_on) = source([Err(throttled(600))], Duration::ZERO);
    let error = hands_on.token().await.map(drop).unwrap_err();
    assert_eq!(
        error.class(),
        Class::Throttled(Some(Duration::from_mins(10)))
    );
    assert_eq!(endpoint.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn the_patience_with_the_endpoint_is_bounded() {
    let (endpoint, source) = source((0..100).map(|_| Err(unavailable())), Duration::ZERO);
    let started = Instant::now();
    assert!(source.token().await.is_err());
    assert_eq!(endpoint.asked.load(Ordering::SeqCst), 4);
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn an_invalidated_token_is_replaced_and_a_newer_one_is_left_alone() {
    let (endpoint, source) = source([], Duration::ZERO);
    let first = source.token().await.unwrap();
    source.invalidate(&first);
    let second = source.token().await.unwrap();
    source.invalidate(&first);
    assert_eq!(number(&source).await, second.header.to_str().unwrap());
    assert_eq!(endpoint.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_gives_up_leaves_the_request_to_the_next() {
    let (endpoint, source) = source([], Duration::from_secs(5));
    timeout(Duration::from_secs(1), source.token())
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(number(&source).await, "Bearer 2");
    assert_eq!(endpoint.asked.load(Ordering::SeqCst), 2);
}

#[test]
fn the_token_type_is_sent_as_the_official_client_sends_it() {
    for (kind, expected) in [
        ("", "Bearer t"),
        (r#","token_type":null"#, "Bearer t"),
        (r#","token_type":"""#, "Bearer t"),
        (r#","token_type":"BEARER""#, "Bearer t"),
        (r#","token_type":"mac""#, "MAC t"),
        (r#","token_type":"BASIC""#, "Basic t"),
        (r#","token_type":"DPoP""#, "DPoP t"),
    ] {
        let body = format!(r#"{{"access_token":"t"{kind}}}"#);
        let grant = grant(body.as_bytes()).map_err(|e| e.to_string()).unwrap();
        assert_eq!(grant.header.to_str().unwrap(), expected);
        assert!(grant.header.is_sensitive());
    }
}

#[test]
fn the_life_of_a_token_is_read_from_numbers_and_numbers_in_strings() {
    for (text, expected) in [
        ("3600", Some(3600)),
        ("\"60\"", Some(60)),
        ("59.9", Some(59)),
        ("-5", Some(0)),
        ("1e300", Some(MAX_LIFE.as_secs())),
        ("null", None),
        ("\"soon\"", None),
        ("{}", None),
    ] {
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(
            seconds(&value).map(|life| life.as_secs()),
            expected,
            "{text}"
        );
    }
}

#[test]
fn a_success_without_a_usable_token_says_what_is_wrong_and_may_be_tried_again() {
    for (body, expected) in [
        ("", "not a JSON object"),
        ("<html>SECRETSEED", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("{}", "access_token is missing"),
        (r#"{"access_token":null}"#, "access_token is missing"),
        (r#"{"access_token":""}"#, "access_token is empty"),
        (r#"{"access_token":7}"#, "access_token is not a string"),
        (r#"{"access_token":"SECRETSEED\n"}"#, "characters"),
        (
            r#"{"access_token":"SECRETSEED","token_type":[]}"#,
            "token_type",
        ),
    ] {
        let error = grant(body.as_bytes()).map(drop).unwrap_err();
        assert!(error.to_string().contains(expected), "{body}: {error}");
        assert!(!format!("{error} {error:?}").contains("SECRETSEED"));
        assert_eq!(error.class(), Class::Retryable);
    }
}

#[test]
fn rejected_credentials_are_told_from_trouble_of_the_server() {
    let now = Timestamp::from_second(1_700_000_000).unwrap();
    let oauth = |error: &str| format!(r#"{{"error":"{error}","error_description":"why"}}"#);
    for (status, body, class) in [
        (401, String::new(), Class::Auth),
        (401, oauth("invalid_client"), Class::Auth),
        (400, oauth("invalid_client"), Class::Auth),
        (400, oauth("invalid_grant"), Class::Auth),
        (400, oauth("unauthorized_client"), Class::Auth),
        (403, "<html>".to_owned(), Class::Auth),
        (400, oauth("invalid_request"), Class::Permanent),
        (400, String::new(), Class::Permanent),
        (404, String::new(), Class::Permanent),
        (302, String::new(), Class::Permanent),
        (204, String::new(), Class::Permanent),
        (408, String::new(), Class::Retryable),
        (500, oauth("invalid_client"), Class::Retryable),
        (503, String::new(), Class::Retryable),
        (400, oauth("temporarily_unavailable"), Class::Retryable),
        (429, String::new(), Class::Throttled(None)),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let error = refusal(status, &HeaderMap::new(), body.as_bytes(), "assertion", now);
        assert_eq!(error.class(), class, "{status} {body}");
    }
}

#[test]
fn a_rejection_says_what_to_do_in_the_words_of_the_server_but_never_repeats_the_assertion() {
    let now = Timestamp::from_second(1_700_000_000).unwrap();
    let long = "y".repeat(5000);
    let body =
        format!(r#"{{"error":"invalid_client","error_description":"bad aaa.bbb.ccc {long}"}}"#);
    let error = refusal(
        StatusCode::UNAUTHORIZED,
        &HeaderMap::new(),
        body.as_bytes(),
        "aaa.bbb.ccc",
        now,
    );
    let text = error.to_string();
    assert!(text.contains("rejected the credentials (HTTP 401, invalid_client: bad [assertion]"));
    assert!(text.contains("issue a new client secret"));
    assert!(text.len() < 600, "{text}");
    assert!(!text.contains("aaa.bbb.ccc"));
}

#[test]
fn a_wrong_clock_is_named_as_a_reason_of_a_rejection() {
    let headers: HeaderMap = [(
        DATE,
        HeaderValue::from_static("Tue, 14 Nov 2023 22:13:20 GMT"),
    )]
    .into_iter()
    .collect();
    let at = |second| {
        let now = Timestamp::from_second(second).unwrap();
        refusal(StatusCode::UNAUTHORIZED, &headers, b"", "a", now).to_string()
    };
    assert!(!at(1_700_000_000).contains("clock"));
    assert!(at(1_700_000_300).contains("clock of this machine is 300 s ahead of"));
    assert!(at(1_699_999_000).contains("clock of this machine is 1000 s behind"));
}

#[test]
fn retry_after_is_read_as_seconds_and_as_a_date() {
    let now = Timestamp::from_second(1_700_000_000).unwrap();
    for (value, expected) in [
        ("17", Some(17)),
        ("Tue, 14 Nov 2023 22:13:50 GMT", Some(30)),
        ("Tue, 14 Nov 2023 22:13:00 GMT", Some(0)),
        ("soon", None),
        ("-1", None),
    ] {
        let headers: HeaderMap = [(RETRY_AFTER, HeaderValue::from_static(value))]
            .into_iter()
            .collect();
        let error = refusal(StatusCode::TOO_MANY_REQUESTS, &headers, b"", "a", now);
        let expected = expected.map(Duration::from_secs);
        assert_eq!(error.class(), Class::Throttled(expected), "{value}");
    }
}
