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
            "PUT {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
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
    let Some(address) = outside() else {
        crate::daemon::skipped("this machine has no address but the loopback one");
        return;
    };
    server.address.set_ip(address);
    let (code, answer) = server.put("/log-level?level=debug", "").await;
    assert_eq!(code, 403);
    assert!(answer["error"].as_str().unwrap().contains("kubectl exec"));
    let (code, shown) = server.get("/log-level").await;
    assert_eq!((code, &shown["level"]), (200, &json!("info")));
}

/// The address of this machine that others see; nothing is sent to find it out.
fn outside() -> Option<std::net::IpAddr> {
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let address = probe
        .connect("192.0.2.1:9")
        .and_then(|()| probe.local_addr());
    let address = address.ok().map(|address| address.ip());
    address.filter(|address| !address.is_loopback())
}

const PATHS: [&str; 11] = [
    "/livez",
    "/live",
    "/readyz",
    "/ready",
    "/startupz",
    "/health",
    "/metrics",
    "/log-level",
    "/",
    "/debug",
    "/log-level/",
];
const METHODS: [&str; 10] = [
    "GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND",
];

#[tokio::test]
async fn nothing_changes_anything_but_a_put_of_the_log_level_from_this_machine() {
    let mut server = Server::start().await;
    let mut places = vec![(server.address.ip(), true)];
    match outside() {
        Some(address) => places.push((address, false)),
        None => crate::daemon::skipped("this machine has no address but the loopback one"),
    }
    let forged =
        "x-forwarded-for: 127.0.0.1\r\nforwarded: for=127.0.0.1\r\nx-real-ip: 127.0.0.1\r\n";
    for (place, is_here) in places {
        server.address.set_ip(place);
        for path in PATHS {
            for method in METHODS {
                let target = match method {
                    "CONNECT" => "example.com:443".to_owned(),
                    _ => format!("{path}?level=debug"),
                };
                let answer = server
                    .send(&format!(
                        "{method} {target} HTTP/1.1\r\nhost: localhost\r\n{forged}content-length: 0\r\n\r\n"
                    ))
                    .await;
                let status: u16 = answer[9..12].parse().unwrap();
                let known = !["/", "/debug", "/log-level/"].contains(&path);
                let expected: &[u16] = match (method, path) {
                    // No path at all, so no route.
                    ("CONNECT", _) => &[404, 405],
                    _ if !known => &[404],
                    ("GET" | "HEAD", "/readyz" | "/ready" | "/startupz") => &[503],
                    ("GET" | "HEAD", _) => &[200],
                    ("PUT", "/log-level") if is_here => &[200],
                    ("PUT", "/log-level") => &[403],
                    _ => &[405],
                };
                let request = format!("{method} {path} from {place}");
                assert!(expected.contains(&status), "{request}: {answer}");
                server.address.set_ip([127, 0, 0, 1].into());
                let level = server.get("/log-level").await.1["level"].clone();
                let changed = method == "PUT" && path == "/log-level" && is_here;
                assert_eq!(level, if changed { "debug" } else { "info" }, "{request}");
                if changed {
                    server.put("/log-level?level=info", "").await;
                }
                server.address.set_ip(place);
            }
        }
    }
}

#[tokio::test]
async fn a_web_page_in_a_browser_on_this_machine_changes_nothing() {
    let server = Server::start().await;
    for (headers, expected) in [
        ("host: 127.0.0.1:8081", 200),
        ("host: [::1]:8081", 200),
        ("host: localhost", 200),
        ("host: rebound.example.com:8081", 403),
        ("host: 127.0.0.1.nip.example", 403),
        ("host: localhost@example.com", 403),
        ("host: localhost\r\norigin: http://localhost:8081", 403),
        ("host: localhost\r\norigin: null", 403),
        ("host: localhost\r\nsec-fetch-site: same-origin", 403),
        ("host: localhost\r\nhost: localhost", 403),
    ] {
        let (code, answer) = server
            .ask(&format!(
                "PUT /log-level?level=warn HTTP/1.1\r\n{headers}\r\ncontent-length: 0\r\n\r\n"
            ))
            .await;
        assert_eq!(code, expected, "{headers}: {answer}");
    }
}

#[tokio::test]
async fn one_address_cannot_keep_the_others_out() {
    let server = Server::start().await;
    // Each of these holds its place for as long as a client may take to send a request.
    let mut idle = Vec::new();
    for _ in 0..80 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    // The first 16 are waited for; the rest hear at once that there is no place.
    let mut byte = [0];
    for late in &mut idle[16..] {
        let read = timeout(PATIENCE, late.read(&mut byte)).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    if let Some(address) = outside() {
        // Another address gets its answer beside them.
        let mut stream = TcpStream::connect((address, server.address.port()))
            .await
            .unwrap();
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nhost: probe\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    drop(idle);
    // The places are free again, as soon as the server has seen that they are.
    let again = async {
        loop {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            let sent = stream
                .write_all(b"GET /livez HTTP/1.1\r\nhost: probe\r\n\r\n")
                .await;
            let mut answer = String::new();
            let read = stream.read_to_string(&mut answer).await;
            if sent.is_ok() && read.is_ok() && answer.starts_with("HTTP/1.1 200 ") {
                return;
            }
        }
    };
    timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn a_request_that_drips_in_or_has_a_huge_head_is_ended() {
    let server = Server::start().await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    let begun = std::time::Instant::now();
    let mut ended = None;
    // One letter a second would last for ever.
    for letter in b"GET /livez HTTP/1.1\r\nx-drip: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" {
        if slow.write_all(&[*letter]).await.is_err() {
            ended = Some(begun.elapsed());
            break;
        }
        let mut byte = [0; 512];
        let read = timeout(Duration::from_secs(1), slow.read(&mut byte)).await;
        if matches!(read, Ok(Ok(0) | Err(_))) {
            ended = Some(begun.elapsed());
            break;
        }
    }
    let ended = ended.expect("a slow request is ended");
    assert!(ended < Duration::from_secs(15), "{ended:?}");
    let huge = format!(
        "GET /livez HTTP/1.1\r\nhost: probe\r\nx-huge: {}\r\n\r\n",
        "a".repeat(1024 * 1024)
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // The server may hang up in the middle.
    drop(stream.write_all(huge.as_bytes()).await);
    let mut answer = Vec::new();
    drop(
        timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .unwrap(),
    );
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert_eq!(server.status("/livez").await, (200, "alive".to_owned()));
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
