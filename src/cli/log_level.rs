//! The command `log-level`: shows or changes the log level of a daemon on this machine.

use std::{io, time::Duration};

use serde_json::Value;
use tokio::{io::AsyncReadExt, time};

use super::{
    CliError, LogLevel,
    health_check::{send, status},
};
use crate::error::Code;

/// The longest wait for the whole answer.
const LIMIT: Duration = Duration::from_secs(5);
/// More than any answer has.
const ANSWER: u64 = 8192;

/// Asks the daemon, and answers with one line for a person.
///
/// A failure ends with 14 when nobody listens, 4 when the answer takes too long, 7 when the daemon does not let us, and 2
/// for any other answer. Cancel-safe.
pub async fn log_level(wanted: &LogLevel) -> Result<String, CliError> {
    let place = format!("{}:{}", wanted.address.host, wanted.address.port);
    let answer = match time::timeout(LIMIT, ask(wanted)).await {
        Ok(answer) => answer.map_err(|error| {
            failure(
                Code::Unavailable,
                format!("cannot reach {place}: {error}; is health-check on, and on this port?"),
            )
        })?,
        Err(_elapsed) => {
            return Err(failure(
                Code::DeadlineExceeded,
                format!("{place} did not answer within {} s", LIMIT.as_secs()),
            ));
        }
    };
    let body: Value = String::from_utf8_lossy(&answer)
        .split_once("\r\n\r\n")
        .and_then(|(_, body)| serde_json::from_str(body).ok())
        .unwrap_or_default();
    let word = |name: &str| body.get(name).and_then(Value::as_str);
    match (status(&answer), word("level")) {
        (Some(200), Some(level)) => Ok(match word("until") {
            None => format!("{level}\n"),
            Some(until) => format!(
                "{level} until {until}, then {}\n",
                word("configured").unwrap_or("the configured level")
            ),
        }),
        (Some(403), _) => Err(failure(
            Code::PermissionDenied,
            word("error")
                .unwrap_or("the daemon does not let us")
                .to_owned(),
        )),
        (Some(status), _) => Err(failure(
            Code::Unknown,
            format!(
                "{place} answered status {status}: {}",
                word("error").unwrap_or("does another version run there?")
            ),
        )),
        (None, _) => Err(failure(
            Code::Unknown,
            format!("{place} did not answer in HTTP; does another program use the port?"),
        )),
    }
}

async fn ask(wanted: &LogLevel) -> io::Result<Vec<u8>> {
    let (method, target) = match wanted.level {
        None => ("GET", "/log-level".to_owned()),
        Some(level) => (
            "PUT",
            format!(
                "/log-level?level={}&for={}s",
                level.name(),
                wanted.lasts.as_secs()
            ),
        ),
    };
    let stream = send(method, &wanted.address, &target).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn failure(code: Code, message: String) -> CliError {
    CliError::LogLevel { message, code }
}
