//! Answers of the peers, as bytes.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use prost::Message as _;
use serde::de::DeserializeOwned;
use tonic::{Code, Status};

use super::{secrets::lines, tells_nothing};
use crate::{
    admin::log_level,
    connector::jumpcloud::{
        client::decode::{self, Problem, Rows, Wrapped},
        wire,
    },
    control_plane::{auth, grpc},
    error::{Classify as _, chain},
    http::retry::{self, MAX_RETRY_AFTER},
    proto::{ProtoDuration, baton},
    telemetry::level,
};

const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// The first byte says what the rest answers: the token endpoint (`t` with a token, `r` refusing), a call (`s`, the
/// details of a status; `p`, a poll), JumpCloud's `Retry-After` (`a`), a wish for a log level (`l`), a watched Secret (`k`).
pub fn answers(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind {
        b't' => token(rest),
        b'r' => refusal(rest),
        b's' => status(rest),
        b'p' => poll(rest),
        b'a' => retry_after(rest),
        b'l' => wish(rest),
        _ => secret(rest),
    }
}

fn token(body: &[u8]) {
    match auth::grant(body) {
        Ok(grant) => {
            assert!(grant.header.is_sensitive());
            let day = std::time::Duration::from_hours(24);
            assert!(grant.life.is_none_or(|life| life <= day));
        }
        Err(error) => tells_nothing(&error, &String::from_utf8_lossy(body)),
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).expect("a time")
}

/// Headers from lines; one that no header can hold is left out.
fn headers(given: impl IntoIterator<Item = (HeaderName, impl AsRef<str>)>) -> HeaderMap {
    given
        .into_iter()
        .filter_map(|(name, text)| Some((name, HeaderValue::from_str(text.as_ref()).ok()?)))
        .collect()
}

/// Status, `Retry-After`, `Date` and body, on lines of their own.
fn refusal(data: &[u8]) {
    const ASSERTION: &str = "SECRETSEED.assertion.signature";
    let mut lines = lines(data, 4);
    let mut next = || lines.next().unwrap_or_default().into_owned();
    let (status, pause, date, body) = (next(), next(), next(), next());
    let Some(status) = status
        .parse()
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok())
    else {
        return;
    };
    let headers = headers([
        (header::RETRY_AFTER, pause.as_str()),
        (header::DATE, date.as_str()),
    ]);
    let error = auth::refusal(status, &headers, body.as_bytes(), ASSERTION, now());
    tells_nothing(&error, ASSERTION);
    let _class = error.class();
}

fn status(data: &[u8]) {
    let Some((code, rest)) = data.split_first() else {
        return;
    };
    let middle = rest.len() / 2;
    let (message, details) = rest.split_at_checked(middle).unwrap_or((rest, &[]));
    let status = Status::with_details(
        Code::from(i32::from(*code)),
        String::from_utf8_lossy(message),
        Bytes::copy_from_slice(details),
    );
    let error = grpc::failure("GetTask", LIMIT, status);
    tells_nothing(&error, "");
    let _class = error.class();
    let status = Status::with_details(Code::Unavailable, "", Bytes::copy_from_slice(rest));
    let error = grpc::failure("GetTask", LIMIT, status);
    assert!(chain(&error).len() < 1024);
}

fn poll(data: &[u8]) {
    if let Ok(answer) = baton::BatonServiceGetTasksResponse::decode(data) {
        let _any = answer.next_poll.as_ref().map(grpc::duration);
    }
    if let Ok(wait) = ProtoDuration::decode(data) {
        let read = grpc::duration(&wait);
        if wait.seconds < 0 && wait.nanos <= 0 {
            assert!(read.is_zero());
        }
    }
}

fn retry_after(data: &[u8]) {
    let mut lines = lines(data, 2);
    let (pause, date) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    let headers = headers([(header::RETRY_AFTER, &*pause), (header::DATE, &*date)]);
    if let Some(wait) = retry::retry_after(&headers, now()) {
        assert!(!wait.is_zero() && wait <= MAX_RETRY_AFTER);
    }
}

fn wish(data: &[u8]) {
    let (query, body) = data.split_at_checked(data.len() / 2).unwrap_or((data, &[]));
    for (query, body) in [(query, body), (data, &[]), (&[], data)] {
        if let Ok((_level, lasts)) = log_level::wish(query, body) {
            assert!(lasts <= level::MAX && !lasts.is_zero());
        }
    }
}

#[cfg(feature = "kubernetes")]
fn secret(data: &[u8]) {
    use crate::{config::SecretKeys, kubernetes::secret_watch};

    let Ok(secret) = serde_json::from_slice::<k8s_openapi::api::core::v1::Secret>(data) else {
        return;
    };
    match secret_watch::delivered(&secret, &SecretKeys::default()) {
        Ok(texts) => assert!(!texts.0.is_empty()),
        Err(problem) => {
            assert!(problem.len() < 2048, "{problem}");
            for content in secret.data.iter().flat_map(|data| data.values()) {
                let content = String::from_utf8_lossy(&content.0);
                assert!(!super::repeats(&problem, &content));
            }
        }
    }
}

#[cfg(not(feature = "kubernetes"))]
fn secret(_data: &[u8]) {}

/// A body of JumpCloud, read as a list of each kind of row and as the words of an error. The first byte says which.
pub fn jumpcloud_json(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    match kind {
        b'u' => rows::<wire::SystemUser>(body, |user| user.id().map(str::len)),
        b'a' => rows::<wire::Administrator>(body, |administrator| administrator.id().map(str::len)),
        b'g' => rows::<wire::UserGroup>(body, |group| group.id().map(str::len)),
        b'e' => rows::<wire::Edge>(body, |edge| {
            wire::usable(edge.to.as_ref()?.id.as_deref()).map(str::len)
        }),
        b'r' => rows::<wire::Role>(body, |role| wire::usable(role.id.as_deref()).map(str::len)),
        b'p' => rows::<wire::Application>(body, |app| app.id().map(str::len)),
        _ => words(body),
    }
}

fn rows<T: DeserializeOwned>(body: &[u8], id: impl Fn(&T) -> Option<usize>) {
    let check = |rows: &[T]| {
        for length in rows.iter().filter_map(&id) {
            assert!((1..=256).contains(&length));
        }
    };
    match decode::json::<Wrapped<T>>(body) {
        Ok(list) => {
            let _total = list.total();
            check(&list.results);
        }
        Err(problem) => check_problem(&problem),
    }
    match decode::json::<Option<Rows<T>>>(body) {
        Ok(list) => check(list.as_ref().map_or(&[], |Rows(rows)| rows)),
        Err(problem) => check_problem(&problem),
    }
    match decode::json_or_nothing::<Option<T>>(body) {
        Ok(row) => check(row.as_slice()),
        Err(problem) => check_problem(&problem),
    }
}

fn check_problem(problem: &Problem) {
    for text in [&problem.field, &problem.what] {
        assert!(
            text.chars().count() <= 200 && !text.contains(char::is_control),
            "{text}"
        );
    }
}

/// The body of an error: JumpCloud's words, which may repeat what was sent.
fn words(body: &[u8]) {
    const SECRET: &str = "SECRETSEED-key";
    let words = decode::message(body, &[SECRET]);
    assert!(
        words.chars().count() <= 300 && !words.contains(char::is_control),
        "{words}"
    );
    assert!(!words.contains(SECRET), "{words}");
    let _found = decode::passwords(body);
}
