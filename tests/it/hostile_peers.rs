//! Peers that are not who they should be: certificates that do not hold, redirects to elsewhere, proxies that are none.
//!
//! Each server of this file writes down what it could read, so that "nothing was sent" is seen and not believed.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    http::{StatusCode, header},
    response::IntoResponse as _,
    routing::post,
};
use baton_jumpcloud::{
    clock::SystemClock,
    connector::{
        self,
        jumpcloud::client::{Auth, Client, Region, Settings as JumpCloudSettings},
    },
    control_plane::{
        self, ControlPlane as _, GrpcControlPlane, Timeouts,
        channel::ProxyRules,
        credentials::{Credentials, generate},
    },
    error::{Class, Classify, Code, chain},
    http::retry::Policy,
    telemetry::metrics::Metrics,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use url::Url;

use crate::daemon::{PATIENCE, Scene};

const KEY: &str = "jca_SECRETSEED-api-key";
const FAST: Policy = Policy {
    max_attempts: 3,
    min_delay: Duration::from_millis(1),
    max_delay: Duration::from_millis(4),
    budget: Duration::from_secs(30),
};

/// Who signs certificates.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut made = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let name = format!("CA {}", baton_jumpcloud::crypto::hex(key.public_key_raw()));
        made.distinguished_name
            .push(rcgen::DnType::CommonName, name);
        made.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = made.self_signed(&key).unwrap().pem();
        Self {
            issuer: rcgen::Issuer::new(made, key),
            pem,
        }
    }

    fn server(&self, name: &str, years: (i32, i32)) -> Arc<rustls::ServerConfig> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        leaf.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// How a server behaves before HTTP.
enum Door {
    Tls(Arc<rustls::ServerConfig>),
    /// Reads a little, writes these bytes, hangs up.
    Raw(&'static [u8]),
}

/// A server that reads what it can and hangs up.
struct Ear {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
    _tasks: JoinSet<()>,
}

impl Ear {
    async fn behind(door: Door) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&heard);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                match &door {
                    Door::Raw(answer) => {
                        let mut hello = [0; 16];
                        drop(stream.read(&mut hello).await);
                        drop(stream.write_all(answer).await);
                        // A reset would take the answer with it.
                        drop(stream.shutdown().await);
                        let mut rest = Vec::new();
                        drop(
                            timeout(Duration::from_millis(200), stream.read_to_end(&mut rest))
                                .await,
                        );
                        if !hello.starts_with(&[0x16, 3]) {
                            notes.lock().unwrap().extend_from_slice(&hello);
                        }
                    }
                    Door::Tls(config) => {
                        let acceptor = TlsAcceptor::from(Arc::clone(config));
                        if let Ok(mut tls) = acceptor.accept(stream).await {
                            let mut buffer = [0; 4096];
                            if let Ok(count) = tls.read(&mut buffer).await {
                                notes.lock().unwrap().extend_from_slice(&buffer[..count]);
                            }
                        }
                    }
                }
            }
        });
        Self {
            port,
            heard,
            _tasks: tasks,
        }
    }

    fn heard(&self) -> usize {
        self.heard.lock().unwrap().len()
    }
}

fn conductorone(port: u16, ca: &str, proxy: ProxyRules) -> GrpcControlPlane {
    named_conductorone(&format!("localhost:{port}"), ca, proxy)
}

fn named_conductorone(host: &str, ca: &str, proxy: ProxyRules) -> GrpcControlPlane {
    let made = generate("acme", host).unwrap();
    GrpcControlPlane::try_new(control_plane::Settings {
        credentials: Credentials::parse(&made.client_id, &made.client_secret).unwrap(),
        api_host: None,
        host_id: "pod-1".to_owned(),
        version: "1.2.3".to_owned(),
        extra_ca_pem: Some(ca.as_bytes().to_vec()),
        proxy,
        timeouts: Timeouts::default(),
        clock: Arc::new(SystemClock),
        metrics: Metrics::default(),
    })
    .unwrap()
}

fn jumpcloud(port: u16, ca: &str, auth: Auth) -> Client {
    let url = Url::parse(&format!("https://localhost:{port}")).unwrap();
    let mut settings = JumpCloudSettings::for_region(Region::Us, auth);
    settings.console_url = url.clone();
    settings.insights_url = url;
    settings.extra_ca_pem = Some(ca.as_bytes().to_vec());
    Client::with_policy(settings, FAST).unwrap()
}

async fn ask_jumpcloud(client: &Client) -> connector::Error {
    timeout(
        PATIENCE,
        client.get::<Value>("/api/systemusers/{id}", &["a"], &[]),
    )
    .await
    .unwrap()
    .unwrap_err()
}

#[tokio::test]
async fn every_certificate_that_does_not_hold_is_refused_by_name_before_anything_is_said() {
    let (ours, other) = (Authority::new(), Authority::new());
    // TLS 1.1: a ServerHello of that version, and the alert of a server that knows nothing newer.
    let hello = b"\x16\x03\x02\x00\x2e\x02\x00\x00\x2a\x03\x02\
        0123456789abcdef0123456789abcdef\x00\x00\x2f\x00\x00\x02\x00\x00";
    let cases: [(&str, Door, &[&str]); 7] = [
        (
            "expired",
            Door::Tls(ours.server("localhost", (2001, 2002))),
            &["expired", "clock"],
        ),
        (
            "not valid yet",
            Door::Tls(ours.server("localhost", (2090, 2099))),
            &["not valid yet", "clock"],
        ),
        (
            "for another host",
            Door::Tls(ours.server("elsewhere.test", (2001, 2099))),
            &["not valid for name", "something else"],
        ),
        (
            "of an unknown authority",
            Door::Tls(other.server("localhost", (2001, 2099))),
            &["UnknownIssuer", "CA"],
        ),
        ("TLS 1.1", Door::Raw(hello), &["TLS"]),
        (
            "no protocol in common",
            Door::Raw(b"\x15\x03\x02\x00\x02\x02\x46"),
            &["TLS"],
        ),
        (
            "no TLS at all",
            Door::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            &["TLS"],
        ),
    ];
    for (name, door, words) in cases {
        let ear = Ear::behind(door).await;
        let plane = conductorone(ear.port, &ours.pem, ProxyRules::default());
        let error = timeout(PATIENCE, plane.next_task())
            .await
            .unwrap()
            .unwrap_err();
        let from_conductorone = chain(&error);
        assert_eq!(error.class(), Class::Retryable, "{name}: {error:?}");
        assert_eq!(error.code(), Code::Unavailable, "{name}");

        let client = jumpcloud(ear.port, &ours.pem, Auth::ApiKey(KEY.into()));
        let error = ask_jumpcloud(&client).await;
        let from_jumpcloud = chain(&error);
        assert!(
            matches!(error, connector::Error::Transport { kind: "tls", .. }),
            "{name}: {error:?}"
        );
        assert_eq!(error.class(), Class::Retryable, "{name}");
        assert!(!error.may_have_been_applied(), "{name}");
        assert_eq!(client.total_calls(), 1, "{name}: it is not asked again");
        for text in [from_conductorone, from_jumpcloud] {
            for word in words {
                assert!(
                    text.to_lowercase().contains(&word.to_lowercase()),
                    "{name}: {word} is missing in: {text}"
                );
            }
            assert!(!text.contains("SECRETSEED"), "{name}: {text}");
        }
        assert_eq!(ear.heard(), 0, "{name}: something was said");
    }
}

#[tokio::test]
async fn a_certificate_that_holds_is_spoken_to_with_its_authority_given() {
    let ours = Authority::new();
    let ear = Ear::behind(Door::Tls(ours.server("localhost", (2001, 2099)))).await;
    let plane = conductorone(ear.port, &ours.pem, ProxyRules::default());
    // The server hangs up on it, but has heard it.
    assert!(timeout(PATIENCE, plane.next_task()).await.unwrap().is_err());
    let said = ear.heard();
    assert!(said > 0);
    let client = jumpcloud(ear.port, &ours.pem, Auth::ApiKey(KEY.into()));
    drop(ask_jumpcloud(&client).await);
    assert!(ear.heard() > said);
}

/// A whole HTTP server with TLS.
async fn serve(router: Router, tls: Arc<rustls::ServerConfig>) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(tls);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, router) = (acceptor.clone(), router.clone());
            connections.spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    drop(
                        auto::Builder::new(TokioExecutor::new())
                            .serve_connection(
                                TokioIo::new(stream),
                                TowerToHyperService::new(router),
                            )
                            .await,
                    );
                }
            });
        }
    });
    (port, tasks)
}

#[tokio::test]
async fn no_redirect_of_conductorone_takes_an_assertion_or_a_token_elsewhere() {
    let ours = Authority::new();
    let elsewhere = Ear::behind(Door::Tls(ours.server("localhost", (2001, 2099)))).await;
    let to = format!("https://localhost:{}/", elsewhere.port);
    for code in [301, 302, 303, 307, 308] {
        let status = StatusCode::from_u16(code).unwrap();
        for redirect_the_token in [true, false] {
            let target = to.clone();
            let away = move || {
                let target = target.clone();
                async move { (status, [(header::LOCATION, target)]).into_response() }
            };
            let token = || async {
                r#"{"access_token":"SECRETSEED-token","token_type":"Bearer","expires_in":3600}"#
                    .into_response()
            };
            let router = if redirect_the_token {
                Router::new().route("/auth/v1/token", post(away.clone()))
            } else {
                Router::new().route("/auth/v1/token", post(token))
            };
            let router = router.fallback(away);
            let (port, _tasks) = serve(router, ours.server("localhost", (2001, 2099))).await;
            let plane = conductorone(port, &ours.pem, ProxyRules::default());
            let error = timeout(PATIENCE, plane.next_task())
                .await
                .unwrap()
                .unwrap_err();
            assert!(!chain(&error).contains("SECRETSEED"), "{}", chain(&error));
        }
    }
    assert_eq!(elsewhere.heard(), 0);
}

/// A proxy that answers every request with the same bytes.
struct OddProxy {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl OddProxy {
    async fn answering(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let notes = Arc::clone(&heads);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(misbehave(stream, answer, Arc::clone(&notes)));
            }
        });
        Self {
            address,
            heads,
            _tasks: tasks,
        }
    }

    /// Everything that was said to it so far.
    fn heard(&self) -> String {
        self.heads.lock().unwrap().concat()
    }
}

async fn misbehave(mut stream: TcpStream, answer: &'static [u8], notes: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_closed) => return,
        }
    }
    notes
        .lock()
        .unwrap()
        .push(String::from_utf8_lossy(&head).into_owned());
    drop(stream.write_all(answer).await);
    drop(stream.shutdown().await);
    // What comes after the answer would be for the peer behind the proxy.
    let mut rest = Vec::new();
    drop(timeout(Duration::from_secs(2), stream.read_to_end(&mut rest)).await);
    notes
        .lock()
        .unwrap()
        .push(String::from_utf8_lossy(&rest).into_owned());
}

/// Answers that make no tunnel, and a word of the error that each leads to.
const NO_TUNNELS: [(&str, &[u8], &str); 5] = [
    (
        "wants a password",
        b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n",
        "prox",
    ),
    (
        "refuses",
        b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
        "tunnel",
    ),
    ("talks nonsense", b"\x00\x01\x02 nonsense\r\n\r\n", "tunnel"),
    ("says nothing", b"", "tunnel"),
    (
        "opens a tunnel to nowhere",
        b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        "",
    ),
];

#[tokio::test]
async fn a_proxy_that_makes_no_tunnel_is_named_and_learns_nothing_but_the_name_of_the_host() {
    let ours = Authority::new();
    for (name, answer, word) in NO_TUNNELS {
        let proxy = OddProxy::answering(answer).await;
        let plane = named_conductorone(
            "c1.sim.invalid",
            &ours.pem,
            ProxyRules {
                https: Some(format!("http://{}", proxy.address).into()),
                no: String::new(),
            },
        );
        let error = timeout(PATIENCE, plane.next_task())
            .await
            .unwrap()
            .unwrap_err();
        let text = chain(&error);
        assert!(text.contains(word), "{name}: {text}");
        assert_eq!(error.class(), Class::Retryable, "{name}: {text}");
        let heard = proxy.heard();
        assert!(
            heard.starts_with("CONNECT c1.sim.invalid:443 HTTP/1.1\r\n"),
            "{name}: {heard}"
        );
        for secret in ["assertion", "eyJ", "authorization", "Bearer"] {
            assert!(!heard.contains(secret), "{name}: {secret} in {heard}");
        }
    }
}

#[tokio::test]
async fn the_directory_behind_such_a_proxy_is_an_error_with_a_cause_and_the_key_stays_here() {
    let scene = Scene::start().await;
    for (name, answer, _) in NO_TUNNELS {
        let proxy = OddProxy::answering(answer).await;
        let exit = scene
            .one_shot()
            .flag("base-url", "https://console.directory.test")
            .flag("http-timeout-seconds", "2")
            .variable("HTTPS_PROXY", format!("http://{}", proxy.address))
            .start();
        let seen = async {
            while proxy.heard().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, seen).await.unwrap();
        exit.said("no answer (").await;
        exit.signal(rustix::process::Signal::INT);
        let exit = exit.ended().await;
        assert_ne!(exit.code, Some(0), "{name}");
        let heard = proxy.heard();
        assert!(
            heard.starts_with("CONNECT console.directory.test:443 HTTP/1.1\r\n"),
            "{name}: {heard}"
        );
        for secret in ["SECRETSEED", "x-api-key", "x-org-id"] {
            assert!(
                !heard.to_lowercase().contains(&secret.to_lowercase()),
                "{name}: {secret}"
            );
        }
    }
}

#[tokio::test]
async fn no_proxy_is_obeyed_for_the_directory() {
    let scene = Scene::start().await;
    let proxy = OddProxy::answering(b"").await;
    let run = scene
        .one_shot()
        .flag("base-url", "https://console.directory.invalid")
        .flag("http-timeout-seconds", "2")
        .variable("HTTPS_PROXY", format!("http://{}", proxy.address))
        .variable("NO_PROXY", "example.test,.directory.invalid")
        .start();
    run.said("no answer (connect").await;
    run.signal(rustix::process::Signal::INT);
    run.ended().await;
    assert_eq!(proxy.heard(), "");
}

#[tokio::test]
async fn no_proxy_is_asked_for_this_machine_whatever_else_is_spoken_to() {
    let scene = Scene::start().await;
    let proxy = OddProxy::answering(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await;
    let url = format!("http://{}", proxy.address);
    // The directory is on this machine by plain http; Directory Insights is elsewhere.
    let run = scene
        .one_shot()
        .flag("insights-url", "https://insights.directory.test")
        .variable("HTTP_PROXY", &url)
        .variable("HTTPS_PROXY", &url)
        .variable("ALL_PROXY", &url)
        .run()
        .await;
    run.expect(0);
    let heard = proxy.heard();
    for line in heard.lines().filter(|line| line.contains("HTTP/1.1")) {
        assert!(
            line.starts_with("CONNECT insights.directory.test:443 "),
            "{heard}"
        );
    }
    assert!(!heard.contains("x-api-key"), "{heard}");
}
