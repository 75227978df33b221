//! The command `health-check`, and the way to a daemon on this machine: one plain HTTP request.

use std::net::IpAddr;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time,
};

use super::{CliError, HealthCheck};
use crate::{config::HealthAddress, error::Code};

/// The status line is all that counts, so no more is read.
const HEAD: u64 = 4096;

/// Asks the daemon; `Ok` means that it answered 200.
///
/// The codes of failures are those of the official connectors: 14 when nobody listens, 4 when the answer takes too long, 2
/// for any other answer. Cancel-safe.
pub async fn health_check(check: &HealthCheck) -> Result<(), CliError> {
    let status = match time::timeout(check.timeout, ask(check)).await {
        Ok(answer) => answer?,
        Err(_elapsed) => {
            return Err(failure(
                Code::DeadlineExceeded,
                format!(
                    "{check} did not answer within {} s",
                    check.timeout.as_secs()
                ),
            ));
        }
    };
    match status {
        200 => Ok(()),
        other => Err(failure(
            Code::Unknown,
            format!("{check} answered status {other}"),
        )),
    }
}

async fn ask(check: &HealthCheck) -> Result<u16, CliError> {
    let unavailable = |error: std::io::Error| {
        failure(Code::Unavailable, format!("cannot reach {check}: {error}"))
    };
    let stream = send("GET", &check.address, check.path)
        .await
        .map_err(unavailable)?;
    // The first line is enough; a daemon that keeps the connection open must not be waited for.
    let mut head = Vec::new();
    let mut reader = BufReader::new(stream.take(HEAD));
    reader
        .read_until(b'\n', &mut head)
        .await
        .map_err(unavailable)?;
    status(&head).ok_or_else(|| {
        failure(
            Code::Unknown,
            format!("{check} did not answer in HTTP; does another program use the port?"),
        )
    })
}

/// Connects to the daemon and sends a request without a body; the answer can be read from the stream.
pub(super) async fn send(
    method: &str,
    address: &HealthAddress,
    target: &str,
) -> std::io::Result<TcpStream> {
    let host = match address.host.parse::<IpAddr>() {
        // A daemon that listens everywhere is reached over loopback.
        Ok(IpAddr::V4(address)) if address.is_unspecified() => "127.0.0.1".to_owned(),
        Ok(IpAddr::V6(address)) if address.is_unspecified() => "::1".to_owned(),
        _ => address.host.clone(),
    };
    let mut stream = TcpStream::connect((host.as_str(), address.port)).await?;
    let bracketed = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: {bracketed}:{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        address.port
    );
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// The status of an answer, from its first line.
pub(super) fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r' || *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    words.next()?.strip_prefix("HTTP/1.")?;
    let word = words.next()?;
    (word.len() == 3).then(|| word.parse().ok()).flatten()
}

fn failure(code: Code, message: String) -> CliError {
    CliError::Health { message, code }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    async fn answered(answer: Option<&'static str>) -> Result<(), CliError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let check = HealthCheck {
            address: HealthAddress {
                host: "127.0.0.1".to_owned(),
                port: listener.local_addr().unwrap().port(),
            },
            path: "/health",
            timeout: Duration::from_secs(30),
        };
        let Some(answer) = answer else {
            drop(listener);
            return health_check(&check).await;
        };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /health HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let ((), result) = tokio::join!(serve, health_check(&check));
        result
    }

    #[tokio::test]
    async fn a_healthy_daemon_is_success() {
        answered(Some("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn an_unhealthy_daemon_ends_with_2() {
        let error = answered(Some("HTTP/1.1 503 Service Unavailable\r\n\r\n{}"))
            .await
            .unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("status 503"), "{error}");
    }

    #[tokio::test]
    async fn a_closed_port_ends_with_14() {
        assert_eq!(answered(None).await.unwrap_err().exit_code(), 14);
    }

    #[tokio::test]
    async fn another_protocol_ends_with_2() {
        for answer in [
            "",
            "SSH-2.0-x\r\n",
            "HTTP/1.1",
            "HTTP/1.1 2000 \r\n",
            "HTTP/1.1 abc\r\n",
        ] {
            let error = answered(Some(answer)).await.unwrap_err();
            assert_eq!(error.exit_code(), 2, "{answer}");
        }
    }

    #[tokio::test]
    async fn a_daemon_that_keeps_the_connection_open_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let check = HealthCheck {
            address: HealthAddress {
                host: "127.0.0.1".to_owned(),
                port: listener.local_addr().unwrap().port(),
            },
            path: "/ready",
            timeout: Duration::from_secs(30),
        };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
            stream
        };
        let (_open, result) = tokio::join!(serve, health_check(&check));
        result.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_with_4() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let check = HealthCheck {
            address: HealthAddress {
                host: "127.0.0.1".to_owned(),
                port: listener.local_addr().unwrap().port(),
            },
            path: "/live",
            timeout: Duration::from_secs(5),
        };
        assert_eq!(health_check(&check).await.unwrap_err().exit_code(), 4);
    }
}
