//! `/log-level`: what is logged, and another level for a while.
//!
//! `PUT` takes `level` and, if it likes, `for` (such as `15m`, at most 24 hours), in the query or as a form in the body.
//! It is accepted from this machine only: whoever reaches the port over the network may look, and no more. Nor is it
//! accepted from a web page in a browser on this machine: such a page cannot hide where it comes from (`Origin`, which
//! browsers add to every `PUT`), and one that made its own name point to this machine shows that name in `Host`.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use axum::{
    Extension,
    body::{Body, to_bytes},
    extract::State,
    http::{HeaderMap, Request, StatusCode, header, uri::Authority},
    response::Response,
};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::{Admin, shown};
use crate::{
    config::Level,
    telemetry::level::{self, State as Shown},
};

/// More than any wish needs.
const BODY_LIMIT: usize = 1024;

pub(super) async fn show(State(admin): State<Admin>) -> Response {
    answer(&admin.level.state())
}

pub(super) async fn change(
    State(admin): State<Admin>,
    Extension(peer): Extension<SocketAddr>,
    request: Request<Body>,
) -> Response {
    if !peer.ip().to_canonical().is_loopback() {
        return refusal(
            StatusCode::FORBIDDEN,
            "the log level is changed from the same machine only; in Kubernetes, run `baton-jumpcloud log-level` in the \
             container by kubectl exec",
        );
    }
    if is_from_a_browser(request.headers()) {
        return refusal(
            StatusCode::FORBIDDEN,
            "the log level is changed under a loopback address or as localhost, and not from a web page; run \
             `baton-jumpcloud log-level`",
        );
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let Ok(body) = to_bytes(request.into_body(), BODY_LIMIT).await else {
        return refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is longer than 1024 bytes or broke off; level=debug&for=15m is all that is understood",
        );
    };
    match wish(query.as_bytes(), &body) {
        Ok((level, lasts)) => answer(&admin.level.set(level, lasts)),
        Err(problem) => refusal(StatusCode::BAD_REQUEST, problem),
    }
}

/// Whether a web page may be behind a request; a request without `Host` is no page's.
fn is_from_a_browser(headers: &HeaderMap) -> bool {
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        return true;
    }
    let mut hosts = headers.get_all(header::HOST).into_iter();
    let host = hosts.next().map(|host| host.to_str().unwrap_or_default());
    hosts.next().is_some() || host.is_some_and(|host| !is_this_machine(host))
}

/// Whether the text of a `Host` header is `localhost` or a loopback address, with or without a port.
fn is_this_machine(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    !host.contains('@')
        && (bare.eq_ignore_ascii_case("localhost")
            || bare
                .parse::<IpAddr>()
                .is_ok_and(|ip| ip.to_canonical().is_loopback()))
}

/// What is asked for; the body goes before the query.
pub(crate) fn wish(query: &[u8], body: &[u8]) -> Result<(Level, Duration), &'static str> {
    let (mut level, mut lasts) = (None, level::DEFAULT);
    for (name, value) in form_urlencoded::parse(query).chain(form_urlencoded::parse(body)) {
        match &*name {
            "level" => {
                level = Some(
                    Level::from_name(&value).ok_or("level is none of debug, info, warn, error")?,
                );
            }
            "for" => {
                lasts = humantime::parse_duration(&value)
                    .ok()
                    .filter(|lasts| (Duration::from_secs(1)..=level::MAX).contains(lasts))
                    .ok_or("for is no length of time from 1s to 24h, such as 15m")?;
            }
            _ => return Err("only level and for are understood, as in level=debug&for=15m"),
        }
    }
    level
        .map(|level| (level, lasts))
        .ok_or("level is missing; give one of debug, info, warn, error")
}

fn answer(state: &Shown) -> Response {
    let mut body = Map::new();
    body.insert("level".to_owned(), state.level.name().into());
    body.insert("configured".to_owned(), state.configured.name().into());
    if let Some(until) = state.until {
        body.insert("until".to_owned(), until.to_string().into());
    }
    json_answer(StatusCode::OK, &body.into())
}

fn refusal(status: StatusCode, problem: &str) -> Response {
    json_answer(status, &json!({ "error": problem }))
}

fn json_answer(status: StatusCode, body: &Value) -> Response {
    shown(status, "application/json", body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_taken_for_it() {
        for host in [
            "localhost",
            "LOCALHOST:8081",
            "127.0.0.1",
            "127.1.2.3:8081",
            "[::1]:8081",
            "[::ffff:127.0.0.1]:8081",
        ] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "example.com@127.0.0.1",
            "127.0.0.1@example.com",
            "10.0.0.7:8081",
            "0.0.0.0",
            "[::]:8081",
            "127.0.0.1:8081/x",
            "localhost localhost",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn a_wish_is_read_from_query_and_body() {
        let minutes = Duration::from_mins;
        for (query, body, expected) in [
            ("level=debug", "", (Level::Debug, level::DEFAULT)),
            ("", "level=warn&for=1m", (Level::Warn, minutes(1))),
            ("level=debug&for=2h", "", (Level::Debug, minutes(120))),
            ("level=debug", "for=24h", (Level::Debug, minutes(24 * 60))),
            ("level=debug", "level=error", (Level::Error, level::DEFAULT)),
        ] {
            assert_eq!(
                wish(query.as_bytes(), body.as_bytes()),
                Ok(expected),
                "{query} {body}"
            );
        }
        for wrong in [
            "",
            "level",
            "level=",
            "level=loud",
            "for=15m",
            "level=debug&for=0s",
            "level=debug&for=25h",
            "level=debug&for=soon",
            "level=debug&forever=1",
            "level=DEBUG",
        ] {
            assert!(wish(wrong.as_bytes(), b"").is_err(), "{wrong}");
            assert!(wish(b"", wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
