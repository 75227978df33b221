//! The real binary as a child process: started, watched, asked for its health, and ended by SIGTERM.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
};

/// The most of the log that is looked at.
const LOG_LIMIT: u64 = 16 * 1024 * 1024;
/// The most bytes of an answer of the health endpoint.
const ANSWER_LIMIT: u64 = 64 * 1024;

/// The running daemon; it is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts the binary with an empty environment and its output in `log`.
    pub(super) fn start(
        binary: &Path,
        arguments: &[OsString],
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let file = std::fs::File::create(&log).context("making the log file of the daemon")?;
        let child = Command::new(binary)
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!(
                    "{} cannot be started; build it with `cargo build --bins`, or name it with --connector",
                    binary.display()
                )
            })?;
        Ok(Self { child, log })
    }

    /// The process id, while it runs.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for the end of the process. Cancel-safe.
    pub(super) async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.wait().await.context("waiting for the daemon")
    }

    /// Sends SIGTERM.
    pub(super) fn terminate(&self) -> anyhow::Result<()> {
        let pid = self
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw)
            .context("the daemon has ended already")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .context("SIGTERM cannot be sent")
    }

    /// Everything that the daemon has written so far.
    pub(super) async fn output(&self) -> anyhow::Result<String> {
        let file = tokio::fs::File::open(&self.log).await?;
        let mut bytes = Vec::new();
        file.take(LOG_LIMIT).read_to_end(&mut bytes).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The last thing that the daemon said about a failure, on one line.
    pub(super) async fn last_words(&self) -> String {
        match self.output().await {
            Ok(output) => last_words(&output),
            Err(error) => format!("(its log cannot be read: {error})"),
        }
    }
}

fn last_words(output: &str) -> String {
    let lines = || output.lines().rev().filter(|line| !line.trim().is_empty());
    let plain = lines().next().filter(|line| !line.starts_with('{'));
    if let Some(line) = plain {
        let line = line.trim();
        return line.strip_prefix("error: ").unwrap_or(line).to_owned();
    }
    lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|entry| {
            entry
                .get("level")
                .and_then(Value::as_str)
                .is_some_and(|level| level.eq_ignore_ascii_case("error"))
        })
        .map_or_else(
            || lines().next().unwrap_or("(it said nothing)").to_owned(),
            |entry| {
                let text = |key: &str| {
                    entry
                        .get(key)
                        .or_else(|| entry.get("fields")?.get(key))
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                };
                let message = [text("msg"), text("message")].concat();
                match text("error") {
                    "" => message,
                    error => format!("{message}: {error}"),
                }
            },
        )
}

/// A loopback port that was free a moment ago.
pub(super) fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// `GET` on a loopback port; answers with status and body.
pub(super) async fn get(port: u16, path: &str, limit: Duration) -> anyhow::Result<(u16, String)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_LIMIT).read_to_end(&mut answer).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = match tokio::time::timeout(limit, ask).await {
        Ok(answer) => answer.with_context(|| format!("no answer from http://{address}{path}"))?,
        Err(_elapsed) => bail!("no answer from http://{address}{path} within {limit:?}"),
    };
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("http://{address}{path} did not answer in HTTP"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_the_final_line_or_the_last_error() {
        let plain = "{\"level\":\"info\",\"msg\":\"a\"}\nerror: the client secret was refused\n\n";
        assert_eq!(last_words(plain), "the client secret was refused");
        let logged = "{\"level\":\"error\",\"msg\":\"hello failed\",\"error\":\"refused\"}\n\
                      {\"level\":\"info\",\"msg\":\"bye\"}\n";
        assert_eq!(last_words(logged), "hello failed: refused");
        let nested = "{\"level\":\"ERROR\",\"fields\":{\"message\":\"hello failed\"}}\n";
        assert_eq!(last_words(nested), "hello failed");
        assert_eq!(last_words(""), "(it said nothing)");
    }
}
