use std::{net::SocketAddr, sync::Arc, time::Duration};

use baton_jumpcloud::{
    admin::{
        Admin,
        health::{ConnectorCheck, Health},
        listen, serve,
    },
    clock::ManualClock,
    config::{Level, Log, LogFormat},
    connector::Connector,
    supervisor::Supervisor,
    telemetry::{self, level::LevelSwitch, metrics::Metrics},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::subscriber::DefaultGuard;

use super::fakes::FakeConnector;

const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    health: Arc<Health>,
    connector: Arc<FakeConnector>,
    stop: CancellationToken,
    running: JoinSet<()>,
    /// A level can be changed only while there are logs.
    _logs: DefaultGuard,
}

impl Server {
    async fn start() -> Self {
        let connector = FakeConnector::new();
        let health = Arc::new(Health::new());
        let port: Arc<dyn Connector> = Arc::clone(&connector) as Arc<dyn Connector>;
        let log = Log {
            level: Level::Info,
            format: LogFormat::Json,
            paths: Vec::new(),
        };
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        let (subscriber, control, _) = telemetry::capture(&log, &[], clock);
        let admin = Admin {
            health: Arc::clone(&health),
            check: Arc::new(ConnectorCheck::new(port, Supervisor::new())),
            clock: Arc::new(ManualClock::new("2025-03-04T05:06:07.89Z".parse().unwrap())),
            metrics: Metrics::default(),
            level: Arc::new(LevelSwitch::new(
                control,
                Level::Info,
                Arc::new(ManualClock::new("2025-03-04T05:06:07Z".parse().unwrap())),
            )),
        };
        let listener = listen("0.0.0.0", 0).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(serve(listener, admin, stop.clone()));
        Self {
            address,
            health,
            connector,
            stop,
            running,
            _logs: tracing::subscriber::set_default(subscriber),
        }
    }

    async fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        answer
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: probe\r\n\r\n"))
            .await
    }

    async fn put(&self, path: &str, body: &str) -> (u16, Value) {
        self.ask(&format!(
            "PUT {path} HTTP/1.1\r\nhost: probe\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await
    }

    async fn ask(&self, request: &str) -> (u16, Value) {
        let answer = self.send(request).await;
        let status = answer[9..12].parse().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            status == 404 || head.contains("content-type: application/json"),
            "{head}"
        );
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    async fn status(&self, path: &str) -> (u16, String) {
        let (code, body) = self.get(path).await;
        (code, body["status"].as_str().unwrap_or_default().to_owned())
    }
}

#[tokio::test]
async fn the_body_is_that_of_the_product() {
    let server = Server::start().await;
    let (code, body) = server.get("/live").await;
    assert_eq!(code, 200);
    assert_eq!(
        body,
        json!({"status": "alive", "timestamp": "2025-03-04T05:06:07Z"})
    );
}

#[tokio::test]
async fn readiness_follows_the_announcement_and_the_shutdown() {
    let server = Server::start().await;
    let not_ready = (503, "not_ready".to_owned());
    assert_eq!(server.status("/readyz").await, not_ready);
    assert_eq!(
        server.status("/startupz").await,
        (503, "starting".to_owned())
    );
    server.health.beat(Duration::ZERO);
    assert_eq!(
        server.status("/startupz").await,
        (200, "started".to_owned())
    );
    assert_eq!(server.status("/ready").await, not_ready);
    server.health.start();
    assert_eq!(server.status("/readyz").await, (200, "ready".to_owned()));
    assert_eq!(server.status("/ready").await, (200, "ready".to_owned()));
    server.health.stop();
    assert_eq!(server.status("/readyz").await, not_ready);
    assert_eq!(server.status("/livez").await, (200, "alive".to_owned()));
}

#[tokio::test]
async fn health_asks_the_directory_at_most_once_in_ten_seconds() {
    let server = Server::start().await;
    server
        .connector
        .validation
        .lock()
        .unwrap()
        .push_back(Err("permission to read users is missing"));
    for _ in 0..5 {
        let (code, body) = server.get("/health").await;
        assert_eq!(code, 503);
        assert_eq!(body["status"], "unhealthy");
        assert_eq!(
            body["details"],
            json!({
                "error": "connector validation failed",
                "validation_error": "permission to read users is missing",
            })
        );
    }
    assert_eq!(*server.connector.validations.borrow(), 1);
    assert_eq!(server.status("/livez").await, (200, "alive".to_owned()));
}

#[tokio::test]
async fn a_check_survives_the_probe_that_began_it() {
    let server = Server::start().await;
    server.connector.open.send_replace(false);
    let mut impatient = TcpStream::connect(server.address).await.unwrap();
    impatient
        .write_all(b"GET /health HTTP/1.1\r\nhost: probe\r\n\r\n")
        .await
        .unwrap();
    let mut validations = server.connector.validations.subscribe();
    timeout(PATIENCE, validations.wait_for(|count| *count == 1))
        .await
        .unwrap()
        .unwrap();
    drop(impatient);
    server.connector.open.send_replace(true);
    assert_eq!(server.status("/health").await, (200, "healthy".to_owned()));
    assert_eq!(*server.connector.validations.borrow(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_verdict_is_asked_for_anew_after_ten_seconds_and_limited_to_thirty() {
    let connector = FakeConnector::new();
    let port: Arc<dyn Connector> = Arc::clone(&connector) as Arc<dyn Connector>;
    let check = ConnectorCheck::new(port, Supervisor::new());
    assert_eq!(check.verdict().await, Ok(()));
    tokio::time::advance(Duration::from_millis(9_900)).await;
    assert_eq!(check.verdict().await, Ok(()));
    assert_eq!(*connector.validations.borrow(), 1);
    tokio::time::advance(Duration::from_millis(200)).await;
    connector.open.send_replace(false);
    assert_eq!(
        check.verdict().await,
        Err("no verdict within 30 s".to_owned())
    );
    assert_eq!(*connector.validations.borrow(), 2);
}

#[tokio::test]
async fn the_server_is_read_only_and_shows_nothing_else() {
    let server = Server::start().await;
    let posted = server
        .send("POST /livez HTTP/1.1\r\nhost: probe\r\ncontent-length: 0\r\n\r\n")
        .await;
    assert!(posted.starts_with("HTTP/1.1 405 "), "{posted}");
    assert_eq!(server.get("/").await.0, 404);
    let head = server
        .send("HEAD /livez HTTP/1.1\r\nhost: probe\r\n\r\n")
        .await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[tokio::test]
async fn the_server_stops_when_told_and_frees_its_port() {
    let mut server = Server::start().await;
    server.status("/livez").await;
    server.stop.cancel();
    timeout(PATIENCE, server.running.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_taken_port_is_named_in_the_error() {
    let server = Server::start().await;
    let port = server.address.port();
    let error = listen("127.0.0.1", port).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on 127.0.0.1:{port} for health checks; choose another address or port"
        )
    );
}

#[tokio::test]
async fn the_log_level_is_changed_for_a_while_by_query_or_body() {
    let server = Server::start().await;
    let (code, body) = server.get("/log-level").await;
    assert_eq!(
        (code, body),
        (200, json!({"level": "info", "configured": "info"}))
    );
    let until = |time: &str| json!({"level": "debug", "configured": "info", "until": time});
    let asked = server.put("/log-level?level=debug&for=30m", "").await;
    assert_eq!(asked, (200, until("2025-03-04T05:36:07Z")));
    let asked = server.put("/log-level", "level=debug").await;
    assert_eq!(asked, (200, until("2025-03-04T05:21:07Z")));
    assert_eq!(
        server.get("/log-level").await.1,
        until("2025-03-04T05:21:07Z")
    );
    for (path, body, expected) in [
        ("/log-level", String::new(), 400),
        ("/log-level?level=SECRETSEED", String::new(), 400),
        ("/log-level?level=debug&for=25h", String::new(), 400),
        ("/log-level", "x".repeat(2000), 413),
    ] {
        let (code, answer) = server.put(path, &body).await;
        assert_eq!(code, expected, "{path}");
        let error = answer["error"].as_str().unwrap();
        assert!(!error.contains("SECRETSEED"), "{error}");
    }
    assert_eq!(server.get("/log-level").await.1["level"], "debug");
    let back = server.put("/log-level?level=info", "").await;
    assert_eq!(back, (200, json!({"level": "info", "configured": "info"})));
}

#[tokio::test]
async fn the_log_level_is_not_changed_over_the_network() {
    let mut server = Server::start().await;
    // The address of this machine that others see; nothing is sent to find it out.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let outside = probe
        .connect("192.0.2.1:9")
        .and_then(|()| probe.local_addr());
    let Some(outside) = outside.ok().filter(|address| !address.ip().is_loopback()) else {
        crate::daemon::skipped("this machine has no address but the loopback one");
        return;
    };
    server.address.set_ip(outside.ip());
    let (code, answer) = server.put("/log-level?level=debug", "").await;
    assert_eq!(code, 403);
    assert!(answer["error"].as_str().unwrap().contains("kubectl exec"));
    let (code, shown) = server.get("/log-level").await;
    assert_eq!((code, &shown["level"]), (200, &json!("info")));
}

#[tokio::test]
async fn the_numbers_are_text_of_openmetrics() {
    let server = Server::start().await;
    let answer = server
        .send("GET /metrics HTTP/1.1\r\nhost: probe\r\n\r\n")
        .await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    assert!(body.contains("\nbaton_jumpcloud_leader 0\n"), "{body}");
    assert!(body.ends_with("# EOF\n"));
}
