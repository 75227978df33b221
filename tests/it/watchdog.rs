//! A process that stands still: what its liveness probe sees, and that it ends itself when nobody else ends it.
//!
//! The process is this very test binary, started again for one test that does nothing in an ordinary run: it has the
//! admin server and the watchdog of the daemon, with limits of seconds in the place of minutes.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, ChildStdin, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use baton_jumpcloud::{
    admin::{
        Admin,
        health::{ConnectorCheck, Health},
        listen, serve,
    },
    clock::SystemClock,
    config::{Level, Log, LogFormat},
    connector::Connector,
    supervisor::{
        Supervisor,
        watchdog::{self, EXIT_STUCK, Limits, Watchdog},
    },
    telemetry::{self, level::LevelSwitch, metrics::Metrics},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

use crate::{daemon::PATIENCE, dispatch::fakes::FakeConnector};

const CHILD: &str = "watchdog::the_process_that_is_watched";
const VARIABLE: &str = "BATON_TEST_WATCHED";
const LIMITS: Limits = Limits {
    turn: Duration::from_millis(50),
    say_after: Duration::from_millis(500),
    end_after: Duration::from_secs(4),
};

fn admin(health: &Arc<Health>) -> Admin {
    let log = Log {
        level: Level::Info,
        format: LogFormat::Json,
        paths: Vec::new(),
    };
    let (_, control, _) = telemetry::capture(&log, &[], Arc::new(SystemClock));
    let connector: Arc<dyn Connector> = FakeConnector::new();
    Admin {
        health: Arc::clone(health),
        check: Arc::new(ConnectorCheck::new(connector, Supervisor::new())),
        clock: Arc::new(SystemClock),
        metrics: Metrics::default(),
        level: Arc::new(LevelSwitch::new(
            control,
            Level::Info,
            Arc::new(SystemClock),
        )),
    }
}

/// Not a test: the child of those below.
#[test]
#[ignore = "does nothing but as the child of another test"]
#[expect(clippy::disallowed_methods, reason = "blocks its workers on purpose")]
fn the_process_that_is_watched() {
    if std::env::var(VARIABLE).is_err() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let health = Arc::new(Health::new());
    let _watchdog = Watchdog::start(
        runtime.handle().clone(),
        Arc::clone(&health),
        LIMITS,
        watchdog::act,
    )
    .unwrap();
    let listener = runtime.block_on(listen("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime.spawn(serve(listener, admin(&health), CancellationToken::new()));
    println!("\nport {port}");
    for line in std::io::stdin().lines() {
        let workers = match line.unwrap().as_str() {
            "block one worker" => 1,
            "block all workers" => 2,
            other => panic!("{other}"),
        };
        for _ in 0..workers {
            runtime.spawn(async { thread::sleep(Duration::from_hours(1)) });
        }
    }
}

struct Watched {
    child: Child,
    orders: ChildStdin,
    port: u16,
}

impl Watched {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([CHILD, "--exact", "--ignored", "--nocapture"])
            .env(VARIABLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let port = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .find_map(|line| line.unwrap().strip_prefix("port ")?.parse().ok())
            .unwrap();
        Self {
            child,
            orders,
            port,
        }
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    /// The status that a probe sees within a second; `None` when it sees none.
    fn live(&self) -> Option<u16> {
        let limit = Some(Duration::from_secs(1));
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(limit).unwrap();
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nhost: probe\r\n\r\n")
            .ok()?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).ok()?;
        std::str::from_utf8(&head[9..]).unwrap().parse().ok()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end: exit code and standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let begun = Instant::now();
        while self.runs() {
            assert!(begun.elapsed() < PATIENCE, "the child does not end itself");
            pause(Duration::from_millis(50));
        }
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "these tests have no runtime, as the process that they watch loses its own"
)]
fn pause(time: Duration) {
    thread::sleep(time);
}

#[test]
fn a_runtime_that_stands_still_fails_its_probe_and_then_ends_itself() {
    let mut watched = Watched::start();
    assert_eq!(watched.live(), Some(200));
    watched.order("block all workers");
    pause(Duration::from_millis(300));
    assert_eq!(watched.live(), None, "a probe gets no answer in time");
    assert!(watched.runs(), "a probe has time to see it");
    let (code, said) = watched.end();
    assert_eq!(code, Some(EXIT_STUCK), "{said}");
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].contains("the liveness probe fails"), "{said}");
    assert!(lines[1].contains("exit code 70"), "{said}");
}

#[test]
fn one_blocked_worker_is_no_reason_to_die() {
    let mut watched = Watched::start();
    watched.order("block one worker");
    pause(2 * LIMITS.end_after);
    assert!(watched.runs());
    assert_eq!(watched.live(), Some(200));
}

#[test]
fn a_process_that_was_stopped_for_longer_than_any_limit_lives_on() {
    let mut watched = Watched::start();
    for _ in 0..2 {
        watched.signal(Signal::STOP);
        pause(2 * LIMITS.end_after);
        watched.signal(Signal::CONT);
        assert_eq!(watched.live(), Some(200));
    }
    pause(Duration::from_secs(1));
    assert!(watched.runs());
    // It is watched as before.
    watched.order("block all workers");
    assert_eq!(watched.end().0, Some(EXIT_STUCK));
}

#[tokio::test(start_paused = true)]
async fn a_poll_loop_without_progress_ends_the_process_too() {
    let health = Arc::new(Health::new());
    health.beat(Duration::ZERO);
    let (sender, alarms) = std::sync::mpsc::channel();
    let _watchdog = Watchdog::start(
        tokio::runtime::Handle::current(),
        Arc::clone(&health),
        Limits {
            turn: Duration::from_millis(5),
            say_after: Duration::from_millis(25),
            end_after: Duration::from_millis(100),
        },
        move |alarm| drop(sender.send(alarm)),
    )
    .unwrap();
    // Time stands still meanwhile, but the watchdog does not.
    let (quiet, alarms) = tokio::task::spawn_blocking(move || {
        let heard = alarms.recv_timeout(Duration::from_millis(500));
        (heard.is_err(), alarms)
    })
    .await
    .unwrap();
    assert!(quiet, "a loop that gets on is left alone");
    tokio::time::advance(Duration::from_mins(11)).await;
    assert!(health.stuck_for().is_some());
    let heard: Vec<watchdog::Alarm> =
        tokio::task::spawn_blocking(move || alarms.iter().take(3).collect())
            .await
            .unwrap();
    assert!(
        matches!(&heard[0], watchdog::Alarm::Say(line) if line.contains("asks ConductorOne for tasks")),
        "{heard:?}"
    );
    assert_eq!(heard[2], watchdog::Alarm::End(EXIT_STUCK));
}
