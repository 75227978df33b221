//! The control plane client against a small scripted server: real TCP, TLS, HTTP/2 and gRPC on loopback.

use std::{
    collections::VecDeque,
    io::Write as _,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use axum::{Router, body::Bytes, extract::State, response::IntoResponse, routing::post};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use baton_jumpcloud::{
    clock::SystemClock,
    control_plane::{
        ControlPlane, Error, GrpcControlPlane, Settings, TaskResult, Timeouts,
        auth::TokenError,
        channel::{ConnectError, ProxyRules},
        credentials::{Credentials, Generated, generate},
    },
    crypto::Sha256,
    error::{Class, Classify, Code, chain},
    proto::{
        Any, ProtoDuration, RpcStatus,
        baton::{
            self,
            baton_service_finish_task_request::FinalState,
            baton_service_server::{BatonService, BatonServiceServer},
            baton_service_upload_asset_request::Msg,
            task::{HelloTask, NoneTask, TaskType},
        },
    },
    telemetry::metrics::Metrics,
};
use http::{HeaderMap, StatusCode, request::Parts};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, Streaming, service::Routes};
use url::form_urlencoded;

const NAME: &str = "c1.sim.invalid";
const TASK: &str = "2NhbQKDgI0tWv0Yz7ZzXp7b1aBc";
const CHUNK: usize = 512 * 1024;
const PATIENCE: Duration = Duration::from_secs(50);

/// How the server treats one upload.
enum Upload {
    /// Takes everything.
    Take,
    /// Answers with this after so many messages.
    FailAfter(usize, Status),
    /// Says that all is well after so many messages.
    SucceedAfter(usize),
    /// Reads nothing and says nothing.
    Stall,
    /// Waits for this after the first data message, then takes everything.
    PauseAfterFirst(Arc<Notify>, Arc<Notify>),
}

/// What arrived of one upload.
#[derive(Default, Clone)]
struct Received {
    messages: Vec<&'static str>,
    sizes: Vec<usize>,
    bytes: Vec<u8>,
    checksum: Vec<u8>,
    metadata: baton::baton_service_upload_asset_request::UploadMetadata,
    ended_well: bool,
}

/// Status, headers and body.
type TokenAnswer = (u16, Vec<(&'static str, String)>, String);

#[derive(Default)]
struct Script {
    tokens: Mutex<VecDeque<TokenAnswer>>,
    token_requests: Mutex<Vec<(Parts, String)>>,
    heads: Mutex<Vec<Parts>>,
    polls: Mutex<VecDeque<Result<baton::BatonServiceGetTaskResponse, Status>>>,
    batches: Mutex<VecDeque<baton::BatonServiceGetTasksResponse>>,
    batch_requests: Mutex<Vec<baton::BatonServiceGetTasksRequest>>,
    hellos: Mutex<Vec<baton::BatonServiceHelloRequest>>,
    finishes: Mutex<Vec<baton::BatonServiceFinishTaskRequest>>,
    uploads: Mutex<VecDeque<Upload>>,
    received: Mutex<Vec<Received>>,
    silent: AtomicBool,
    connections: AtomicUsize,
    hang_up: watch::Sender<u32>,
}

#[derive(Clone)]
struct Service(Arc<Script>);

impl Service {
    async fn poll(&self) -> Result<Response<baton::BatonServiceGetTaskResponse>, Status> {
        if self.0.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let next = self.0.polls.lock().unwrap().pop_front();
        next.unwrap_or_else(|| Ok(baton::BatonServiceGetTaskResponse::default()))
            .map(Response::new)
    }
}

#[tonic::async_trait]
impl BatonService for Service {
    async fn hello(
        &self,
        request: Request<baton::BatonServiceHelloRequest>,
    ) -> Result<Response<baton::BatonServiceHelloResponse>, Status> {
        self.0.hellos.lock().unwrap().push(request.into_inner());
        Ok(Response::new(baton::BatonServiceHelloResponse::default()))
    }

    async fn get_task(
        &self,
        _: Request<baton::BatonServiceGetTaskRequest>,
    ) -> Result<Response<baton::BatonServiceGetTaskResponse>, Status> {
        self.poll().await
    }

    async fn get_tasks(
        &self,
        request: Request<baton::BatonServiceGetTasksRequest>,
    ) -> Result<Response<baton::BatonServiceGetTasksResponse>, Status> {
        self.0
            .batch_requests
            .lock()
            .unwrap()
            .push(request.into_inner());
        let next = self.0.batches.lock().unwrap().pop_front();
        Ok(Response::new(next.unwrap_or_default()))
    }

    async fn heartbeat(
        &self,
        _: Request<baton::BatonServiceHeartbeatRequest>,
    ) -> Result<Response<baton::BatonServiceHeartbeatResponse>, Status> {
        Ok(Response::new(baton::BatonServiceHeartbeatResponse {
            next_heartbeat: Some(ProtoDuration {
                seconds: -3,
                nanos: 0,
            }),
            cancelled: true,
            ..Default::default()
        }))
    }

    async fn finish_task(
        &self,
        request: Request<baton::BatonServiceFinishTaskRequest>,
    ) -> Result<Response<baton::BatonServiceFinishTaskResponse>, Status> {
        self.0.finishes.lock().unwrap().push(request.into_inner());
        Ok(Response::new(
            baton::BatonServiceFinishTaskResponse::default(),
        ))
    }

    async fn upload_asset(
        &self,
        request: Request<Streaming<baton::BatonServiceUploadAssetRequest>>,
    ) -> Result<Response<baton::BatonServiceUploadAssetResponse>, Status> {
        let plan = self.0.uploads.lock().unwrap().pop_front();
        let plan = plan.unwrap_or(Upload::Take);
        let mut stream = request.into_inner();
        if matches!(plan, Upload::Stall) {
            std::future::pending::<()>().await;
        }
        let at = {
            let mut all = self.0.received.lock().unwrap();
            all.push(Received::default());
            all.len() - 1
        };
        let mut count = 0;
        loop {
            match &plan {
                Upload::FailAfter(limit, status) if count == *limit => return Err(status.clone()),
                Upload::SucceedAfter(limit) if count == *limit => {
                    return Ok(Response::new(
                        baton::BatonServiceUploadAssetResponse::default(),
                    ));
                }
                Upload::PauseAfterFirst(reached, go_on) if count == 2 => {
                    reached.notify_one();
                    go_on.notified().await;
                }
                _ => {}
            }
            let Some(message) = stream.message().await? else {
                break;
            };
            count += 1;
            let mut all = self.0.received.lock().unwrap();
            let received = &mut all[at];
            match message.msg.unwrap() {
                Msg::Metadata(metadata) => {
                    received.messages.push("metadata");
                    received.metadata = metadata;
                }
                Msg::Data(data) => {
                    received.messages.push("data");
                    received.sizes.push(data.data.len());
                    received.bytes.extend(data.data);
                }
                Msg::Eof(eof) => {
                    received.messages.push("eof");
                    received.checksum = eof.sha256_checksum;
                }
            }
        }
        self.0.received.lock().unwrap()[at].ended_well = true;
        Ok(Response::new(
            baton::BatonServiceUploadAssetResponse::default(),
        ))
    }

    async fn start_debugging(
        &self,
        _: Request<baton::StartDebuggingRequest>,
    ) -> Result<Response<baton::StartDebuggingResponse>, Status> {
        Err(Status::unimplemented("never called"))
    }
}

async fn token(
    State(script): State<Arc<Script>>,
    head: Parts,
    body: Bytes,
) -> axum::response::Response {
    let number = {
        let mut requests = script.token_requests.lock().unwrap();
        requests.push((head, String::from_utf8(body.to_vec()).unwrap()));
        requests.len()
    };
    let next = script.tokens.lock().unwrap().pop_front();
    let (status, headers, body) = next.unwrap_or_else(|| {
        let body =
            format!(r#"{{"access_token":"t{number}","token_type":"bearer","expires_in":3600}}"#);
        (200, Vec::new(), body)
    });
    let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

/// A certificate for the names of the server, and the CA that signed it.
struct Tls {
    ca_pem: String,
    server: Arc<rustls::ServerConfig>,
}

fn tls(protocols: &[&[u8]]) -> Tls {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let name = format!(
        "CA {}",
        baton_jumpcloud::crypto::hex(ca_key.public_key_raw())
    );
    ca.distinguished_name.push(rcgen::DnType::CommonName, name);
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = ["localhost", "127.0.0.1", NAME].map(str::to_owned).to_vec();
    let leaf = rcgen::CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    server.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Tls {
        ca_pem: ca_certificate.pem(),
        server: Arc::new(server),
    }
}

struct Server {
    script: Arc<Script>,
    ca_pem: String,
    port: u16,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        Self::speaking(&[b"h2", b"http/1.1"]).await
    }

    async fn speaking(protocols: &[&[u8]]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = tls(protocols);
        let script = Arc::new(Script::default());
        let seen = Arc::clone(&script);
        let router: Router = Router::new()
            .route("/auth/v1/token", post(token))
            .with_state(Arc::clone(&script))
            .merge(
                Routes::new(BatonServiceServer::new(Service(Arc::clone(&script))))
                    .into_axum_router()
                    .layer(axum::middleware::map_request(
                        move |request: http::Request<axum::body::Body>| {
                            let (head, body) = request.into_parts();
                            seen.heads.lock().unwrap().push(head.clone());
                            std::future::ready(http::Request::from_parts(head, body))
                        },
                    )),
            );
        let acceptor = TlsAcceptor::from(tls.server);
        let counted = Arc::clone(&script);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                counted.connections.fetch_add(1, Ordering::SeqCst);
                let mut hang_up = counted.hang_up.subscribe();
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let serving = builder
                        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
                    tokio::select! {
                        _ = serving => {}
                        _ = hang_up.changed() => {}
                    }
                });
            }
        });
        Self {
            script,
            ca_pem: tls.ca_pem,
            port,
            _tasks: tasks,
        }
    }

    fn credentials(&self) -> (Generated, Credentials) {
        credentials(&format!("localhost:{}", self.port))
    }

    fn settings(&self) -> Settings {
        let (_, credentials) = self.credentials();
        Settings {
            extra_ca_pem: Some(self.ca_pem.clone().into_bytes()),
            ..settings(credentials)
        }
    }

    fn client(&self) -> GrpcControlPlane {
        GrpcControlPlane::try_new(self.settings()).unwrap()
    }

    fn answer_token(&self, status: u16, body: &str) {
        let answer = (status, Vec::new(), body.to_owned());
        self.script.tokens.lock().unwrap().push_back(answer);
    }

    fn answer_poll(&self, answer: Result<baton::BatonServiceGetTaskResponse, Status>) {
        self.script.polls.lock().unwrap().push_back(answer);
    }

    fn answer_batch(&self, tasks: Vec<baton::Task>) {
        let batch = baton::BatonServiceGetTasksResponse {
            tasks,
            ..Default::default()
        };
        self.script.batches.lock().unwrap().push_back(batch);
    }

    /// Why a batch with this task is refused; the next one arrives.
    async fn refused(&self, task_of_it: baton::Task) -> String {
        self.answer_batch(vec![task_of_it]);
        self.answer_batch(vec![task("b")]);
        let client = self.client();
        let error = soon(client.next_tasks(1, Vec::new())).await.unwrap_err();
        let polled = soon(client.next_tasks(1, Vec::new())).await.unwrap();
        assert_eq!(polled.tasks[0].id, "b");
        chain(&error)
    }

    fn token_requests(&self) -> usize {
        self.script.token_requests.lock().unwrap().len()
    }

    fn plan_upload(&self, plan: Upload) {
        self.script.uploads.lock().unwrap().push_back(plan);
    }

    fn received(&self) -> Vec<Received> {
        self.script.received.lock().unwrap().clone()
    }

    fn authorizations(&self) -> Vec<String> {
        let heads = self.script.heads.lock().unwrap();
        heads
            .iter()
            .map(|head| head.headers["authorization"].to_str().unwrap().to_owned())
            .collect()
    }
}

fn credentials(host: &str) -> (Generated, Credentials) {
    let made = generate("acme", host).unwrap();
    let read = Credentials::parse(&made.client_id, &made.client_secret).unwrap();
    (made, read)
}

fn settings(credentials: Credentials) -> Settings {
    Settings {
        credentials,
        api_host: None,
        host_id: "pod-1".to_owned(),
        version: "1.2.3".to_owned(),
        extra_ca_pem: None,
        proxy: ProxyRules::default(),
        timeouts: Timeouts::default(),
        clock: Arc::new(SystemClock),
        metrics: Metrics::default(),
    }
}

fn task(id: &str) -> baton::Task {
    baton::Task {
        id: id.to_owned(),
        task_type: Some(TaskType::Hello(HelloTask::default())),
        ..Default::default()
    }
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("a test step hangs")
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers[name].to_str().unwrap()
}

fn json(part: &str) -> serde_json::Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn a_token_is_asked_for_with_a_signed_assertion_and_nothing_else() {
    let server = Server::start().await;
    let (made, credentials) = server.credentials();
    let client = GrpcControlPlane::try_new(Settings {
        credentials,
        ..server.settings()
    })
    .unwrap();
    soon(client.next_task()).await.unwrap();

    let requests = server.script.token_requests.lock().unwrap();
    let (head, body) = &requests[0];
    assert_eq!(
        header(&head.headers, "content-type"),
        "application/x-www-form-urlencoded"
    );
    assert_eq!(
        header(&head.headers, "user-agent"),
        "baton-c1-credential-provider baton-jumpcloud/1.2.3"
    );
    let fields: Vec<(String, String)> = form_urlencoded::parse(body.as_bytes())
        .into_owned()
        .collect();
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "client_id",
            "grant_type",
            "client_assertion_type",
            "client_assertion"
        ]
    );
    assert_eq!(fields[0].1, made.client_id);
    assert_eq!(fields[1].1, "client_credentials");
    let parts: Vec<&str> = fields[3].1.split('.').collect();
    let signed = format!("{}.{}", parts[0], parts[1]);
    UnparsedPublicKey::new(&ED25519, made.public_key)
        .verify(
            signed.as_bytes(),
            &URL_SAFE_NO_PAD.decode(parts[2]).unwrap(),
        )
        .unwrap();
    assert_eq!(json(parts[1])["aud"], "localhost");
    assert_eq!(json(parts[0]).get("typ"), None);
}

#[tokio::test]
async fn every_call_carries_the_token_the_host_id_and_the_user_agent_over_one_connection() {
    let server = Server::start().await;
    let client = server.client();
    soon(client.hello(baton::BatonServiceHelloRequest {
        annotations: vec![Any::default(); 20],
        ..Default::default()
    }))
    .await
    .unwrap();
    for _ in 0..5 {
        soon(client.next_task()).await.unwrap();
    }
    {
        let hellos = server.script.hellos.lock().unwrap();
        assert_eq!(hellos[0].host_id, "pod-1");
        assert_eq!(hellos[0].annotations.len(), 16);
        let heads = server.script.heads.lock().unwrap();
        assert_eq!(heads.len(), 6);
        for head in heads.iter() {
            assert_eq!(header(&head.headers, "authorization"), "Bearer t1");
            let agent = header(&head.headers, "user-agent");
            assert!(agent.starts_with("acme baton-jumpcloud/1.2.3"), "{agent}");
            assert_eq!(head.uri.scheme_str(), Some("https"));
            let authority = head.uri.authority().unwrap().as_str();
            assert_eq!(authority, format!("localhost:{}", server.port));
            let limit = header(&head.headers, "grpc-timeout");
            assert!(!limit.is_empty());
        }
    }
    assert_eq!(server.token_requests(), 1);
    let connections = server.script.connections.load(Ordering::SeqCst);
    assert_eq!(connections, 2, "one for the token, one for all calls");
}

#[tokio::test]
async fn calls_that_start_together_ask_for_one_token() {
    let server = Server::start().await;
    let client = server.client();
    let calls = futures_util::future::join_all((0..8).map(|_| client.next_task()));
    assert!(soon(calls).await.iter().all(Result::is_ok));
    assert_eq!(server.token_requests(), 1);
}

#[tokio::test]
async fn a_token_that_is_no_longer_taken_is_replaced_and_the_call_made_again() {
    let server = Server::start().await;
    let client = server.client();
    soon(client.next_task()).await.unwrap();
    server.answer_poll(Err(Status::unauthenticated("revoked")));
    server.answer_poll(Ok(baton::BatonServiceGetTaskResponse {
        task: Some(task(TASK)),
        ..Default::default()
    }));
    let polled = soon(client.next_task()).await.unwrap();
    assert_eq!(polled.tasks.len(), 1);
    assert_eq!(
        server.authorizations(),
        ["Bearer t1", "Bearer t1", "Bearer t2"]
    );
}

#[tokio::test]
async fn a_token_that_is_refused_twice_is_a_matter_for_a_person() {
    let server = Server::start().await;
    let client = server.client();
    server.answer_poll(Err(Status::unauthenticated("no")));
    server.answer_poll(Err(Status::unauthenticated("still no")));
    let error = soon(client.next_task()).await.unwrap_err();
    assert_eq!(error.class(), Class::Auth);
    assert_eq!(
        chain(&error),
        "ConductorOne answered GetTask with Unauthenticated: still no"
    );
    assert_eq!(server.token_requests(), 2);
}

#[tokio::test]
async fn a_token_endpoint_in_trouble_is_asked_again() {
    let server = Server::start().await;
    server.answer_token(503, "<html>");
    let client = server.client();
    soon(client.next_task()).await.unwrap();
    assert_eq!(server.token_requests(), 2);
}

#[tokio::test]
async fn rejected_credentials_are_reported_at_once_with_what_to_do_and_without_secrets() {
    let server = Server::start().await;
    let (made, credentials) = server.credentials();
    let body = r#"{"error":"invalid_client","error_description":"unknown key"}"#;
    server.answer_token(401, body);
    let client = GrpcControlPlane::try_new(Settings {
        credentials,
        ..server.settings()
    })
    .unwrap();
    let error = soon(client.next_task()).await.unwrap_err();
    assert_eq!(
        (error.class(), error.code()),
        (Class::Auth, Code::Unauthenticated)
    );
    let text = chain(&error);
    assert!(
        text.starts_with(
            "no access token for GetTask: ConductorOne rejected the credentials (HTTP 401, invalid_client: unknown key)"
        ),
        "{text}"
    );
    assert!(text.contains("issue a new client secret"), "{text}");
    assert_eq!(server.token_requests(), 1);
    let secret = made.client_secret.expose_secret();
    let tail = &secret[secret.len() - 24..];
    for shown in [text, format!("{error:?}"), format!("{client:?}")] {
        assert!(!shown.contains(tail), "{shown}");
    }
}

#[tokio::test]
async fn an_answer_of_the_token_endpoint_without_end_is_cut() {
    let server = Server::start().await;
    let huge = format!(r#"{{"access_token":"{}"}}"#, "SECRETSEED".repeat(10_000));
    for _ in 0..4 {
        server.answer_token(200, &huge);
    }
    let error = soon(server.client().next_task()).await.unwrap_err();
    let text = chain(&error);
    assert!(text.ends_with("it is longer than 64 KiB"), "{text}");
    assert_eq!(error.class(), Class::Retryable);
}

#[tokio::test]
async fn a_long_pause_that_the_token_endpoint_asks_for_reaches_the_caller() {
    let server = Server::start().await;
    let answer = (429, vec![("retry-after", "120".to_owned())], String::new());
    server.script.tokens.lock().unwrap().push_back(answer);
    let error = soon(server.client().next_task()).await.unwrap_err();
    assert_eq!(
        error.class(),
        Class::Throttled(Some(Duration::from_mins(2)))
    );
}

#[tokio::test]
async fn the_api_host_is_where_calls_go_and_the_audience_stays() {
    let server = Server::start().await;
    let (_, credentials) = credentials("tenant.invalid:99");
    let client = GrpcControlPlane::try_new(Settings {
        credentials,
        api_host: Some(format!("127.0.0.1:{}", server.port)),
        ..server.settings()
    })
    .unwrap();
    soon(client.next_task()).await.unwrap();
    let requests = server.script.token_requests.lock().unwrap();
    let fields: Vec<_> = form_urlencoded::parse(requests[0].1.as_bytes()).collect();
    let claims = fields[3].1.split('.').nth(1).unwrap();
    assert_eq!(json(claims)["aud"], "tenant.invalid");
}

#[tokio::test]
async fn an_api_host_that_is_set_but_empty_is_an_error_that_names_the_variable() {
    let server = Server::start().await;
    let error = GrpcControlPlane::try_new(Settings {
        api_host: Some(String::new()),
        ..server.settings()
    })
    .unwrap_err();
    assert!(chain(&error).contains("BATON_C1_API_HOST"), "{error}");
    assert_eq!(error.class(), Class::Permanent);
}

#[tokio::test]
async fn a_poll_brings_tasks_without_the_none_ones_and_the_pause() {
    let server = Server::start().await;
    let client = server.client();
    server.answer_poll(Ok(baton::BatonServiceGetTaskResponse {
        task: Some(baton::Task {
            id: TASK.to_owned(),
            task_type: Some(TaskType::None(NoneTask::default())),
            ..Default::default()
        }),
        next_poll: Some(ProtoDuration {
            seconds: 20,
            nanos: 0,
        }),
        ..Default::default()
    }));
    let polled = soon(client.next_task()).await.unwrap();
    assert!(polled.tasks.is_empty());
    assert_eq!(polled.next_poll, Some(Duration::from_secs(20)));
    let polled = soon(client.next_task()).await.unwrap();
    assert_eq!((polled.tasks.len(), polled.next_poll), (0, None));

    let heartbeat = soon(client.heartbeat(TASK)).await.unwrap();
    assert_eq!(heartbeat.next_heartbeat, Some(Duration::ZERO));
    assert!(heartbeat.cancelled);
}

#[tokio::test]
async fn a_batch_asks_for_1_to_100_tasks_and_returns_no_more_than_asked_for() {
    let server = Server::start().await;
    let client = server.client();
    server.answer_batch(vec![task("a"), task("b"), task("c")]);
    let known = vec![TASK.to_owned()];
    let polled = soon(client.next_tasks(2, known.clone())).await.unwrap();
    assert_eq!(polled.tasks.len(), 2);
    soon(client.next_tasks(0, Vec::new())).await.unwrap();
    soon(client.next_tasks(500, Vec::new())).await.unwrap();
    let requests = server.script.batch_requests.lock().unwrap();
    let sizes: Vec<u32> = requests.iter().map(|request| request.page_size).collect();
    assert_eq!(sizes, [2, 1, 100]);
    assert_eq!(requests[0].known_task_ids, known);
}

#[tokio::test]
async fn a_batch_larger_than_the_usual_4_mib_arrives() {
    let server = Server::start().await;
    let mut large = task("a");
    large.task_type = Some(TaskType::Hello(HelloTask {
        annotations: vec![Any {
            type_url: "x".to_owned(),
            value: vec![7; 6 * 1024 * 1024],
        }],
    }));
    server.answer_batch(vec![large]);
    let polled = soon(server.client().next_tasks(1, Vec::new()))
        .await
        .unwrap();
    assert_eq!(polled.tasks.len(), 1);
}

#[tokio::test]
async fn a_message_beyond_16_mib_is_refused_and_the_next_one_arrives() {
    let server = Server::start().await;
    let mut large = task("a");
    large.task_type = Some(TaskType::Hello(HelloTask {
        annotations: vec![Any {
            type_url: "x".to_owned(),
            value: vec![7; 17 * 1024 * 1024],
        }],
    }));
    let text = server.refused(large).await;
    assert!(text.len() < 500, "{text}");
}

#[tokio::test]
async fn a_message_of_more_fields_than_any_task_has_is_refused_before_it_is_made() {
    let server = Server::start().await;
    let mut many = task("a");
    many.task_type = Some(TaskType::SyncFull(baton::task::SyncFullTask {
        targeted_sync_resources: vec![Default::default(); 1_000_000],
        ..Default::default()
    }));
    let text = server.refused(many).await;
    assert!(text.contains("more than 200000 fields"), "{text}");
}

#[tokio::test]
async fn a_result_is_sent_as_success_or_as_error_with_a_status() {
    let server = Server::start().await;
    let client = server.client();
    let response = Any {
        type_url: "type.googleapis.com/x".to_owned(),
        value: vec![1],
    };
    soon(client.finish(
        TASK,
        TaskResult::Success {
            response: Some(response.clone()),
            annotations: vec![Any::default(); 17],
        },
    ))
    .await
    .unwrap();
    let status = RpcStatus {
        code: 5,
        message: "gone".to_owned(),
        details: Vec::new(),
    };
    soon(client.finish(
        TASK,
        TaskResult::Error {
            status: status.clone(),
            non_retryable: true,
            annotations: Vec::new(),
        },
    ))
    .await
    .unwrap();
    let finishes = server.script.finishes.lock().unwrap();
    assert_eq!(
        (finishes[0].host_id.as_str(), finishes[0].task_id.as_str()),
        ("pod-1", TASK)
    );
    assert_eq!(finishes[0].status, None);
    let Some(FinalState::Success(success)) = &finishes[0].final_state else {
        panic!("{:?}", finishes[0]);
    };
    assert_eq!(success.response.as_ref(), Some(&response));
    assert_eq!(success.annotations.len(), 16);
    assert_eq!(finishes[1].status.as_ref(), Some(&status));
    let Some(FinalState::Error(error)) = &finishes[1].final_state else {
        panic!("{:?}", finishes[1]);
    };
    assert!(error.non_retryable && error.response.is_none());
}

#[tokio::test]
async fn a_server_that_says_nothing_ends_in_a_deadline_that_may_be_retried() {
    let server = Server::start().await;
    server.script.silent.store(true, Ordering::SeqCst);
    let mut settings = server.settings();
    settings.timeouts.poll = Duration::from_millis(200);
    let client = GrpcControlPlane::try_new(settings).unwrap();
    let error = soon(client.next_task()).await.unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Retryable);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_and_may_be_retried() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let server = Server::start().await;
    let (_, credentials) = credentials(&format!("localhost:{port}"));
    let client = GrpcControlPlane::try_new(Settings {
        credentials,
        ..server.settings()
    })
    .unwrap();
    let error = soon(client.next_task()).await.unwrap_err();
    assert_eq!(
        (error.class(), error.code()),
        (Class::Retryable, Code::Unavailable)
    );
    let text = chain(&error);
    assert!(
        text.contains(&format!("no TCP connection to localhost:{port}")),
        "{text}"
    );
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused_with_what_to_do() {
    let server = Server::start().await;
    let other = Server::start().await;
    let client = GrpcControlPlane::try_new(Settings {
        extra_ca_pem: Some(other.ca_pem.clone().into_bytes()),
        ..server.settings()
    })
    .unwrap();
    let error = soon(client.next_task()).await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("signed by an unknown authority"), "{text}");
    assert!(text.contains("SSL_CERT_FILE"), "{text}");
    assert_eq!(server.token_requests(), 0);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let server = Server::start().await;
    let client = GrpcControlPlane::try_new(Settings {
        api_host: Some(format!("127.0.0.2:{}", server.port)),
        ..server.settings()
    })
    .unwrap();
    assert!(soon(client.next_task()).await.is_err());
    assert_eq!(server.token_requests(), 0);
}

#[tokio::test]
async fn extra_ca_files_without_a_usable_certificate_are_errors() {
    let server = Server::start().await;
    for (pem, expected) in [
        ("", "holds no PEM certificate (0 bytes)"),
        ("SECRETSEED", "holds no PEM certificate (10 bytes)"),
        (
            "-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n",
            "not readable as PEM",
        ),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "not usable as a trust root",
        ),
    ] {
        let error = GrpcControlPlane::try_new(Settings {
            extra_ca_pem: Some(pem.as_bytes().to_vec()),
            ..server.settings()
        })
        .unwrap_err();
        assert!(chain(&error).contains(expected), "{}", chain(&error));
    }
}

#[tokio::test]
async fn a_peer_without_http_2_is_named() {
    let server = Server::speaking(&[b"http/1.1"]).await;
    let error = soon(server.client().next_task()).await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("localhost") && text.contains("TLS"), "{text}");
    assert_eq!(
        server.token_requests(),
        1,
        "the token endpoint is content with HTTP/1.1"
    );

    let server = Server::speaking(&[]).await;
    let error = soon(server.client().next_task()).await.unwrap_err();
    let Error::Connect { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(matches!(
        source.connect(),
        Some(ConnectError::NoHttp2 { .. })
    ));
}

#[tokio::test]
async fn a_connection_that_was_closed_is_made_again() {
    let server = Server::start().await;
    let client = server.client();
    soon(client.next_task()).await.unwrap();
    server.script.hang_up.send_modify(|times| *times += 1);
    let mut failures = 0;
    let recovered = soon(async {
        loop {
            match client.next_task().await {
                Ok(_) => return,
                Err(error) => {
                    assert_eq!(error.class(), Class::Retryable, "{error:?}");
                    failures += 1;
                }
            }
        }
    });
    recovered.await;
    assert!(failures <= 2, "{failures}");
    assert_eq!(server.token_requests(), 1);
}

#[tokio::test]
async fn a_call_that_runs_when_the_connection_closes_may_be_retried() {
    let server = Server::start().await;
    let client = server.client();
    soon(client.next_task()).await.unwrap();
    server.script.silent.store(true, Ordering::SeqCst);
    let poll = client.next_task();
    let cut = async {
        soon(async {
            while server.script.heads.lock().unwrap().len() < 2 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        server.script.hang_up.send_modify(|times| *times += 1);
    };
    let (outcome, ()) = soon(futures_util::future::join(poll, cut)).await;
    let error = outcome.unwrap_err();
    assert!(matches!(error, Error::Transport { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Retryable);
}

#[tokio::test]
async fn an_old_connection_is_replaced_without_a_failed_call() {
    let server = Server::start().await;
    let mut settings = server.settings();
    settings.timeouts.connection_age = Duration::ZERO;
    let client = GrpcControlPlane::try_new(settings).unwrap();
    for _ in 0..3 {
        soon(client.next_task()).await.unwrap();
    }
    assert_eq!(server.script.connections.load(Ordering::SeqCst), 1 + 3);
}

#[tokio::test]
async fn new_credentials_are_used_by_new_calls_while_a_running_call_ends_on_the_old_ones() {
    let server = Server::start().await;
    let other = Server::start().await;
    let mut settings = server.settings();
    let both = format!("{}{}", server.ca_pem, other.ca_pem);
    settings.extra_ca_pem = Some(both.into_bytes());
    let client = GrpcControlPlane::try_new(settings).unwrap();
    let (reached, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    server.plan_upload(Upload::PauseAfterFirst(
        Arc::clone(&reached),
        Arc::clone(&go_on),
    ));
    let file = file_of(&pattern(3 * CHUNK));
    let upload = client.upload(TASK, file.path());
    let swap = async {
        reached.notified().await;
        client.try_credentials(other.credentials().1).await.unwrap();
        client.next_task().await.unwrap();
        go_on.notify_one();
    };
    let (uploaded, ()) = soon(futures_util::future::join(upload, swap)).await;
    uploaded.unwrap();
    assert!(server.received()[0].ended_well);
    assert_eq!((server.token_requests(), other.token_requests()), (1, 1));
    assert_eq!(other.script.heads.lock().unwrap().len(), 1);
}

/// A CONNECT proxy that sends everything to the server, and can go deaf.
struct Proxy {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    deaf: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

async fn went_deaf(deaf: &mut watch::Receiver<bool>) {
    deaf.wait_for(|deaf| *deaf).await.map(drop).unwrap();
}

impl Proxy {
    async fn to(target: u16, wants: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (deaf, _) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let (seen, control) = (Arc::clone(&requests), deaf.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut inbound, _)) = listener.accept().await {
                let (seen, mut deaf) = (Arc::clone(&seen), control.subscribe());
                connections.spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(inbound.read_u8().await.unwrap());
                    }
                    let head = String::from_utf8(head).unwrap();
                    let welcome = wants.is_none_or(|auth| head.contains(auth));
                    seen.lock().unwrap().push(head);
                    if !welcome {
                        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
                        inbound.write_all(refusal).await.unwrap();
                        return;
                    }
                    let outbound = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                    inbound.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                    let (mut from, mut into) = inbound.into_split();
                    let (mut back, mut there) = outbound.into_split();
                    tokio::select! {
                        _ = futures_util::future::join(
                            copy(&mut from, &mut there),
                            copy(&mut back, &mut into),
                        ) => {}
                        () = went_deaf(&mut deaf) => std::future::pending().await,
                    }
                });
            }
        });
        Self {
            port,
            requests,
            deaf,
            _tasks: tasks,
        }
    }

    fn rules(&self, user: &str) -> ProxyRules {
        ProxyRules {
            https: Some(SecretString::from(format!(
                "http://{user}127.0.0.1:{}",
                self.port
            ))),
            no: String::new(),
        }
    }
}

#[tokio::test]
async fn tokens_and_calls_go_through_the_proxy_which_resolves_the_name() {
    let server = Server::start().await;
    // base64 of user:SECRETSEED
    let auth = "Proxy-Authorization: Basic dXNlcjpTRUNSRVRTRUVE";
    let proxy = Proxy::to(server.port, Some(auth)).await;
    let client = GrpcControlPlane::try_new(Settings {
        credentials: credentials(NAME).1,
        proxy: proxy.rules("user:SECRETSEED@"),
        ..server.settings()
    })
    .unwrap();
    soon(client.next_task()).await.unwrap();
    let requests = proxy.requests.lock().unwrap();
    assert_eq!(requests.len(), 2);
    for head in requests.iter() {
        assert!(
            head.starts_with(&format!("CONNECT {NAME}:443 HTTP/1.1\r\n")),
            "{head}"
        );
    }
    assert!(!format!("{client:?}").contains("SECRETSEED"));
}

#[tokio::test]
async fn a_proxy_that_wants_other_credentials_is_named_without_showing_them() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port, Some("never sent")).await;
    let client = GrpcControlPlane::try_new(Settings {
        credentials: credentials(NAME).1,
        proxy: proxy.rules("user:SECRETSEED@"),
        ..server.settings()
    })
    .unwrap();
    let error = soon(client.next_task()).await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("wants a user and a password (407)"), "{text}");
    assert!(
        text.contains(&format!("127.0.0.1:{}", proxy.port)),
        "{text}"
    );
    assert!(!text.contains("SECRETSEED") && !format!("{error:?}").contains("SECRETSEED"));
}

#[tokio::test]
async fn hosts_that_the_rules_exclude_and_this_machine_are_reached_directly() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port, None).await;
    let client = GrpcControlPlane::try_new(Settings {
        proxy: proxy.rules(""),
        ..server.settings()
    })
    .unwrap();
    soon(client.next_task()).await.unwrap();
    let mut rules = proxy.rules("");
    rules.no = "example.test, .sim.invalid".to_owned();
    let client = GrpcControlPlane::try_new(Settings {
        credentials: credentials(NAME).1,
        proxy: rules,
        ..server.settings()
    })
    .unwrap();
    soon(client.next_task()).await.unwrap_err();
    assert!(proxy.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_proxy_setting_that_is_no_proxy_is_an_error_that_does_not_show_it() {
    let server = Server::start().await;
    for url in [
        "socks5://u:SECRETSEED@h:1",
        "ftp://SECRETSEED",
        "http://",
        "a b",
    ] {
        let error = GrpcControlPlane::try_new(Settings {
            proxy: ProxyRules {
                https: Some(SecretString::from(url)),
                no: String::new(),
            },
            ..server.settings()
        })
        .unwrap_err();
        let text = chain(&error);
        assert!(text.contains("HTTPS_PROXY"), "{text}");
        assert!(!text.contains("SECRETSEED"), "{text}");
    }
}

#[tokio::test]
async fn a_connection_that_went_deaf_is_noticed_by_its_pings() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port, None).await;
    let mut settings = server.settings();
    settings.credentials = credentials(NAME).1;
    settings.proxy = proxy.rules("");
    settings.timeouts.keepalive_interval = Duration::from_millis(100);
    settings.timeouts.keepalive_answer = Duration::from_millis(200);
    let client = GrpcControlPlane::try_new(settings).unwrap();
    soon(client.next_task()).await.unwrap();
    proxy.deaf.send_replace(true);
    let started = Instant::now();
    let error = soon(client.next_task()).await.unwrap_err();
    assert!(matches!(error, Error::Transport { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file.flush().unwrap();
    file
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from(i.wrapping_mul(31) % 251).unwrap())
        .collect()
}

#[tokio::test]
async fn an_upload_is_metadata_full_chunks_and_the_checksum_of_what_was_sent() {
    let server = Server::start().await;
    let client = server.client();
    for (len, sizes) in [
        (0, vec![]),
        (1, vec![1]),
        (CHUNK - 1, vec![CHUNK - 1]),
        (CHUNK, vec![CHUNK]),
        (CHUNK + 1, vec![CHUNK, 1]),
        (3 * CHUNK + 17, vec![CHUNK, CHUNK, CHUNK, 17]),
    ] {
        let bytes = pattern(len);
        let file = file_of(&bytes);
        soon(client.upload(TASK, file.path())).await.unwrap();
        let received = server.received().pop().unwrap();
        let mut order = vec!["metadata"];
        order.extend(sizes.iter().map(|_| "data"));
        order.push("eof");
        assert_eq!(received.messages, order, "{len}");
        assert_eq!(received.sizes, sizes, "{len}");
        assert!(received.bytes == bytes, "{len}");
        assert_eq!(received.checksum, Sha256::digest(&bytes), "{len}");
        assert_eq!(received.metadata.host_id, "pod-1");
        assert_eq!(received.metadata.task_id, TASK);
        assert!(received.ended_well);
    }
}

#[tokio::test]
async fn an_upload_that_breaks_starts_again_from_the_first_byte() {
    let server = Server::start().await;
    let client = server.client();
    server.plan_upload(Upload::FailAfter(2, Status::unavailable("restarting")));
    let bytes = pattern(4 * CHUNK);
    let file = file_of(&bytes);
    let started = Instant::now();
    soon(client.upload(TASK, file.path())).await.unwrap();
    assert!(
        started.elapsed() >= Duration::from_secs(1),
        "without a pause"
    );
    let received = server.received();
    assert_eq!(received.len(), 2);
    assert!(received[1].bytes == bytes);
}

#[tokio::test]
async fn an_upload_is_given_up_after_three_attempts_with_the_words_of_the_server() {
    let server = Server::start().await;
    let client = server.client();
    for _ in 0..5 {
        server.plan_upload(Upload::FailAfter(3, Status::internal("disk full")));
    }
    let file = file_of(&pattern(8 * CHUNK));
    let error = soon(client.upload(TASK, file.path())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "ConductorOne answered UploadAsset with Internal: disk full"
    );
    assert_eq!(server.received().len(), 3);
}

#[tokio::test]
async fn an_upload_that_is_refused_is_not_tried_again() {
    let server = Server::start().await;
    let client = server.client();
    server.plan_upload(Upload::FailAfter(
        1,
        Status::invalid_argument("no such task"),
    ));
    let file = file_of(&pattern(8 * CHUNK));
    let error = soon(client.upload(TASK, file.path())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "ConductorOne answered UploadAsset with InvalidArgument: no such task"
    );
    assert_eq!(server.received().len(), 1);
}

/// As in a rotation, where every token may die soon after it was given.
#[tokio::test]
async fn an_upload_outlives_three_tokens_that_die_one_after_the_other() {
    let server = Server::start().await;
    for _ in 0..3 {
        server.plan_upload(Upload::FailAfter(0, Status::unauthenticated("taken back")));
    }
    let client = GrpcControlPlane::try_new(server.settings()).unwrap();
    let file = file_of(&pattern(100));
    soon(client.upload(TASK, file.path())).await.unwrap();
    assert_eq!(server.token_requests(), 4);
}

#[tokio::test]
async fn an_upload_with_a_token_that_is_no_longer_taken_gets_a_new_one() {
    let server = Server::start().await;
    let client = server.client();
    server.plan_upload(Upload::FailAfter(0, Status::unauthenticated("expired")));
    let file = file_of(&pattern(10));
    soon(client.upload(TASK, file.path())).await.unwrap();
    assert_eq!(server.authorizations(), ["Bearer t1", "Bearer t2"]);
}

#[tokio::test]
async fn a_success_before_the_whole_file_went_out_is_not_believed() {
    let server = Server::start().await;
    let client = server.client();
    for _ in 0..3 {
        server.plan_upload(Upload::SucceedAfter(2));
    }
    let file = file_of(&pattern(16 * CHUNK));
    let error = soon(client.upload(TASK, file.path())).await.unwrap_err();
    assert!(
        matches!(error, Error::CutShort | Error::Transport { .. }),
        "{error:?}"
    );
    assert_eq!(error.class(), Class::Retryable);
}

#[tokio::test]
async fn an_upload_that_stands_still_is_ended() {
    let server = Server::start().await;
    let mut settings = server.settings();
    settings.timeouts.upload_idle = Duration::from_millis(300);
    let client = GrpcControlPlane::try_new(settings).unwrap();
    for _ in 0..3 {
        server.plan_upload(Upload::Stall);
    }
    let file = file_of(&pattern(16 * CHUNK));
    let error = soon(client.upload(TASK, file.path())).await.unwrap_err();
    assert!(matches!(error, Error::Stalled { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Retryable);
}

async fn upload_while(change: impl FnOnce(&Path)) -> (Error, Vec<Received>) {
    let server = Server::start().await;
    let client = server.client();
    let (reached, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    server.plan_upload(Upload::PauseAfterFirst(
        Arc::clone(&reached),
        Arc::clone(&go_on),
    ));
    let file = file_of(&pattern(64 * CHUNK));
    let upload = client.upload(TASK, file.path());
    let tamper = async {
        reached.notified().await;
        change(file.path());
        go_on.notify_one();
    };
    let (outcome, ()) = soon(futures_util::future::join(upload, tamper)).await;
    (outcome.unwrap_err(), server.received())
}

#[tokio::test]
async fn a_file_that_shrinks_during_the_upload_is_an_error_and_never_looks_complete() {
    let (error, received) = upload_while(|path| {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(40 * u64::try_from(CHUNK).unwrap() + 5)
            .unwrap();
    })
    .await;
    assert!(
        matches!(
            error,
            Error::FileChanged {
                expected: 33_554_432,
                found: 20_971_525
            }
        ),
        "{error:?}"
    );
    assert_eq!(error.class(), Class::Permanent);
    assert_eq!(received.len(), 1);
    assert!(!received[0].messages.contains(&"eof"));
    assert!(!received[0].ended_well);
}

#[tokio::test]
async fn a_file_that_grows_during_the_upload_is_an_error() {
    let (error, received) = upload_while(|path| {
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"more").unwrap();
    })
    .await;
    assert!(matches!(error, Error::FileChanged { .. }), "{error:?}");
    assert!(!received[0].messages.contains(&"eof"));
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let server = Server::start().await;
    let client = server.client();
    let error = soon(client.upload(TASK, Path::new("/nowhere/sync.c1z")))
        .await
        .unwrap_err();
    assert!(chain(&error).contains("/nowhere/sync.c1z"), "{error}");
    assert_eq!(error.class(), Class::Permanent);
}

#[tokio::test]
async fn a_token_failure_says_why_in_its_own_type() {
    let server = Server::start().await;
    server.answer_token(404, "");
    let error = soon(server.client().next_task()).await.unwrap_err();
    let Error::Token { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(matches!(source, TokenError::Refused { .. }), "{source:?}");
    assert_eq!(
        (error.class(), error.code()),
        (Class::Permanent, Code::NotFound)
    );
}
