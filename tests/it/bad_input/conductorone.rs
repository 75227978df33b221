//! Answers of ConductorOne that are not what they should be: the token endpoint, the RPCs, and the intervals they name.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode},
    routing::post,
};
use baton_jumpcloud::{
    clock::SystemClock,
    control_plane::{
        self, ControlPlane as _, GrpcControlPlane, Polled, TaskResult,
        credentials::{Credentials, generate},
    },
    error::{Class, Classify as _, chain},
    proto::{
        ProtoDuration,
        baton::{
            self, BatonServiceFinishTaskRequest, BatonServiceFinishTaskResponse,
            BatonServiceGetTaskRequest, BatonServiceGetTaskResponse, BatonServiceGetTasksRequest,
            BatonServiceGetTasksResponse, BatonServiceHeartbeatRequest,
            BatonServiceHeartbeatResponse, BatonServiceHelloRequest, BatonServiceHelloResponse,
            BatonServiceUploadAssetRequest, BatonServiceUploadAssetResponse, StartDebuggingRequest,
            StartDebuggingResponse,
            baton_service_server::{BatonService, BatonServiceServer},
        },
    },
    sim::conductorone::{self, ConductorOneSim, Rpc},
    telemetry::metrics::Metrics,
};
use futures_util::{StreamExt as _, stream};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Status, Streaming};

use super::MARKER;

/// What the token endpoint answers with.
#[derive(Clone)]
struct Token {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
}

impl Token {
    fn good() -> Self {
        Self::of(br#"{"access_token":"SECRETSEED-token","token_type":"bearer","expires_in":3600}"#)
    }

    fn of(body: &[u8]) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            body: body.to_vec(),
        }
    }

    fn status(status: u16, body: &[u8]) -> Self {
        Self {
            status,
            ..Self::of(body)
        }
    }

    fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body.clone()));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap();
        for (name, value) in &self.headers {
            response
                .headers_mut()
                .insert(*name, HeaderValue::from_static(value));
        }
        response
    }
}

/// What the polls answer with.
#[derive(Debug, Clone, Default)]
struct Odd {
    tasks: Vec<baton::Task>,
    next_poll: Option<ProtoDuration>,
    next_heartbeat: Option<ProtoDuration>,
}

type Answer<T> = Result<tonic::Response<T>, Status>;

#[tonic::async_trait]
impl BatonService for Odd {
    async fn hello(
        &self,
        _: Request<BatonServiceHelloRequest>,
    ) -> Answer<BatonServiceHelloResponse> {
        Ok(tonic::Response::new(BatonServiceHelloResponse::default()))
    }

    async fn get_task(
        &self,
        _: Request<BatonServiceGetTaskRequest>,
    ) -> Answer<BatonServiceGetTaskResponse> {
        Ok(tonic::Response::new(BatonServiceGetTaskResponse {
            task: self.tasks.first().cloned(),
            next_poll: self.next_poll,
            next_heartbeat: self.next_heartbeat,
            ..Default::default()
        }))
    }

    async fn get_tasks(
        &self,
        _: Request<BatonServiceGetTasksRequest>,
    ) -> Answer<BatonServiceGetTasksResponse> {
        Ok(tonic::Response::new(BatonServiceGetTasksResponse {
            tasks: self.tasks.clone(),
            next_poll: self.next_poll,
            next_heartbeat: self.next_heartbeat,
            ..Default::default()
        }))
    }

    async fn heartbeat(
        &self,
        _: Request<BatonServiceHeartbeatRequest>,
    ) -> Answer<BatonServiceHeartbeatResponse> {
        Ok(tonic::Response::new(BatonServiceHeartbeatResponse {
            next_heartbeat: self.next_heartbeat,
            ..Default::default()
        }))
    }

    async fn finish_task(
        &self,
        _: Request<BatonServiceFinishTaskRequest>,
    ) -> Answer<BatonServiceFinishTaskResponse> {
        // Words of a server that should know better.
        Err(Status::internal("x\n\0\u{1b}[31m".repeat(10_000)))
    }

    async fn upload_asset(
        &self,
        _: Request<Streaming<BatonServiceUploadAssetRequest>>,
    ) -> Answer<BatonServiceUploadAssetResponse> {
        Err(Status::permission_denied("not here"))
    }

    async fn start_debugging(
        &self,
        _: Request<StartDebuggingRequest>,
    ) -> Answer<StartDebuggingResponse> {
        Err(Status::unimplemented("not here"))
    }
}

/// A server over TLS whose answers a test chooses, and a client of it.
struct Server {
    plane: GrpcControlPlane,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start(token: Token, odd: Odd) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(
            identity.signing_key.serialize_der(),
        ));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.cert.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let router = tonic::service::Routes::new(BatonServiceServer::new(odd))
            .into_axum_router()
            .route(
                "/auth/v1/token",
                post(move || {
                    let token = token.clone();
                    async move { token.response() }
                }),
            );
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let service = TowerToHyperService::new(router);
                    drop(
                        builder
                            .serve_connection(TokioIo::new(stream), service)
                            .await,
                    );
                });
            }
        });
        let made = generate("worker", &address.to_string()).unwrap();
        let credentials = Credentials::parse(&made.client_id, &made.client_secret).unwrap();
        Self {
            plane: plane(credentials, &identity.cert.pem()),
            _tasks: tasks,
        }
    }
}

fn plane(credentials: Credentials, ca_pem: &str) -> GrpcControlPlane {
    GrpcControlPlane::try_new(control_plane::Settings {
        credentials,
        api_host: None,
        host_id: "bad-input".to_owned(),
        version: "0.0.0".to_owned(),
        extra_ca_pem: Some(ca_pem.as_bytes().to_vec()),
        proxy: control_plane::channel::ProxyRules::default(),
        timeouts: control_plane::Timeouts::default(),
        clock: Arc::new(SystemClock),
        metrics: Metrics::default(),
    })
    .unwrap()
}

#[tokio::test]
async fn every_bad_answer_of_the_token_endpoint_says_what_is_wrong_and_keeps_the_token() {
    const BAD: &str = "answered without a usable token: ";
    let ok = Token::of;
    let cases: Vec<(&str, Token, &[&str], Class)> = vec![
        (
            "HTML",
            ok(b"<html>SECRETSEED</html>"),
            &[BAD, "not a JSON object"],
            Class::Retryable,
        ),
        (
            "nothing",
            ok(b""),
            &[BAD, "not a JSON object"],
            Class::Retryable,
        ),
        (
            "half an answer",
            ok(br#"{"access_token":"SECRETSEED"#),
            &[BAD, "not a JSON object"],
            Class::Retryable,
        ),
        (
            "a text",
            ok(br#""SECRETSEED""#),
            &[BAD, "not a JSON object"],
            Class::Retryable,
        ),
        (
            "null",
            ok(b"null"),
            &[BAD, "not a JSON object"],
            Class::Retryable,
        ),
        (
            "bytes",
            ok(&[0xff, 0xfe, 0]),
            &[BAD, "not a JSON object"],
            Class::Retryable,
        ),
        (
            "an empty object",
            ok(b"{}"),
            &[BAD, "access_token is missing"],
            Class::Retryable,
        ),
        (
            "a token that is null",
            ok(br#"{"access_token":null}"#),
            &[BAD, "access_token is missing"],
            Class::Retryable,
        ),
        (
            "an empty token",
            ok(br#"{"access_token":""}"#),
            &[BAD, "access_token is empty"],
            Class::Retryable,
        ),
        (
            "a token that is a number",
            ok(br#"{"access_token":7}"#),
            &[BAD, "access_token is not a string"],
            Class::Retryable,
        ),
        (
            "a token that is a list",
            ok(br#"{"access_token":["SECRETSEED"]}"#),
            &[BAD, "access_token is not a string"],
            Class::Retryable,
        ),
        (
            "a token with a line break",
            ok(br#"{"access_token":"SECRETSEED\r\nx: y"}"#),
            &[BAD, "a header cannot carry"],
            Class::Retryable,
        ),
        (
            "a token with a NUL",
            ok(br#"{"access_token":"SECRETSEED\u0000"}"#),
            &[BAD, "a header cannot carry"],
            Class::Retryable,
        ),
        (
            "a kind that is a number",
            ok(br#"{"access_token":"SECRETSEED","token_type":7}"#),
            &[BAD, "token_type is not a string"],
            Class::Retryable,
        ),
        (
            "a kind with a line break",
            ok(br#"{"access_token":"SECRETSEED","token_type":"a\nb"}"#),
            &[BAD, "a header cannot carry"],
            Class::Retryable,
        ),
        (
            "ten thousand levels",
            ok("[".repeat(10_000).as_bytes()),
            &[BAD, "not a JSON object"],
            Class::Retryable,
        ),
        (
            "one megabyte",
            ok(&vec![b' '; 1_000_000]),
            &[BAD, "longer than 64 KiB"],
            Class::Retryable,
        ),
        (
            "a success of another kind",
            Token::status(204, b""),
            &["HTTP 204"],
            Class::Permanent,
        ),
        (
            "another place",
            Token {
                headers: vec![("location", "http://127.0.0.1:9/SECRETSEED")],
                ..Token::status(302, b"")
            },
            &["HTTP 302", "check the host"],
            Class::Permanent,
        ),
        (
            "a refusal without words",
            Token::status(400, b""),
            &["HTTP 400"],
            Class::Permanent,
        ),
        (
            "a refusal with odd words",
            Token::status(400, br#"{"error":["SECRETSEED"],"error_description":7}"#),
            &["HTTP 400"],
            Class::Permanent,
        ),
        (
            "a refused client",
            Token::status(401, br#"{"error":"invalid_client"}"#),
            &["HTTP 401, invalid_client", "new client secret"],
            Class::Auth,
        ),
        (
            "endless words",
            Token::status(
                401,
                format!(r#"{{"error":"{}"}}"#, "e".repeat(50_000)).as_bytes(),
            ),
            &["HTTP 401", "…"],
            Class::Auth,
        ),
        (
            "words of control characters",
            Token::status(403, br#"{"error":"a\nb\u0000"}"#),
            &["HTTP 403", "a b"],
            Class::Auth,
        ),
        (
            "nothing there",
            Token::status(404, b"<html>SECRETSEED</html>"),
            &["HTTP 404", "check the host"],
            Class::Permanent,
        ),
        (
            "trouble",
            Token::status(500, b"SECRETSEED"),
            &["unavailable", "HTTP 500"],
            Class::Retryable,
        ),
        (
            "a pause without measure",
            Token {
                headers: vec![("retry-after", "99999999999999999999")],
                ..Token::status(429, b"")
            },
            &["asks for a pause", "HTTP 429"],
            Class::Throttled(None),
        ),
    ];
    let wrong: Vec<String> = stream::iter(cases)
        .map(|(name, token, says, class)| async move {
            let server = Server::start(token, Odd::default()).await;
            let Err(error) = server.plane.next_task().await else {
                return vec![format!("{name}: is taken for a token")];
            };
            let text = format!("{} {error:?}", chain(&error));
            let mut wrong = Vec::new();
            if std::mem::discriminant(&error.class()) != std::mem::discriminant(&class) {
                wrong.push(format!("{name}: is {:?}: {text}", error.class()));
            }
            for part in says.iter().chain(&["no access token for GetTask"]) {
                if !chain(&error).contains(part) {
                    wrong.push(format!("{name}: does not say {part:?}: {text}"));
                }
            }
            if text.contains(MARKER) || text.len() > 2000 || text.contains('\n') {
                wrong.push(format!("{name}: says too much: {text}"));
            }
            wrong
        })
        // Most of them are tried four times with pauses in between.
        .buffer_unordered(32)
        .collect::<Vec<_>>()
        .await
        .concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn odd_lives_of_tokens_do_not_keep_them_from_being_used() {
    for life in [
        "-5",
        "0",
        "1e999",
        "\"soon\"",
        "null",
        "[]",
        "99999999999999999999",
        "-1e300",
        "0.5",
        "\"3600\"",
    ] {
        let body = format!(r#"{{"access_token":"SECRETSEED-1","expires_in":{life}}}"#);
        let server = Server::start(Token::of(body.as_bytes()), Odd::default()).await;
        let polled = server.plane.next_task().await;
        if life == "1e999" {
            // No number of JSON's readers.
            assert!(chain(&polled.unwrap_err()).contains("not a JSON object"));
            continue;
        }
        assert!(polled.is_ok(), "{life}: {polled:?}");
    }
}

#[tokio::test]
async fn odd_intervals_become_usable_ones() {
    let wire = |seconds, nanos| Some(ProtoDuration { seconds, nanos });
    for (interval, read) in [
        (None, None),
        (wire(0, 0), Some(Duration::ZERO)),
        (wire(-1, 0), Some(Duration::ZERO)),
        (wire(0, -1), Some(Duration::ZERO)),
        (wire(i64::MIN, i32::MIN), Some(Duration::ZERO)),
        (wire(5, -1_000_000_000), Some(Duration::from_secs(4))),
        (wire(0, i32::MAX), Some(Duration::from_nanos(2_147_483_647))),
        (wire(1, 500), Some(Duration::new(1, 500))),
        (
            wire(i64::MAX, i32::MAX),
            Some(Duration::new(9_223_372_036_854_775_809, 147_483_647)),
        ),
    ] {
        let odd = Odd {
            next_poll: interval,
            next_heartbeat: interval,
            ..Odd::default()
        };
        let server = Server::start(Token::good(), odd).await;
        assert_eq!(server.plane.next_task().await.unwrap().next_poll, read);
        let batch = server.plane.next_tasks(1, Vec::new()).await.unwrap();
        assert_eq!(batch.next_poll, read);
        let beat = server.plane.heartbeat("x").await.unwrap();
        assert_eq!(beat.next_heartbeat, read);
    }
}

#[tokio::test]
async fn tasks_without_id_and_beyond_what_was_asked_for_are_left_out() {
    let task = |id: &str| baton::Task {
        id: id.to_owned(),
        ..conductorone::hello()
    };
    let odd = Odd {
        tasks: vec![task(""), task("a"), task(&"b".repeat(100_000)), task("c")],
        ..Odd::default()
    };
    let server = Server::start(Token::good(), odd).await;
    let Polled { tasks, .. } = server.plane.next_task().await.unwrap();
    assert!(tasks.is_empty(), "{tasks:?}");
    let Polled { tasks, .. } = server.plane.next_tasks(2, Vec::new()).await.unwrap();
    assert_eq!(tasks.len(), 2);
}

#[tokio::test]
async fn the_words_of_a_failing_server_are_cut_and_on_one_line() {
    let server = Server::start(Token::good(), Odd::default()).await;
    let done = TaskResult::Success {
        response: None,
        annotations: Vec::new(),
    };
    let error = server.plane.finish("x", done).await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("FinishTask"), "{text}");
    assert!(
        text.len() < 2000 && !text.chars().any(char::is_control),
        "{text:?}"
    );
}

#[tokio::test]
async fn every_code_of_every_call_is_named_in_the_error() {
    let one = ConductorOneSim::start(conductorone::Config {
        require_hello: false,
        next_poll: None,
        ..conductorone::Config::default()
    })
    .await
    .unwrap();
    let credentials =
        Credentials::parse(one.client_id(), &one.client_secret_text().into()).unwrap();
    let plane = plane(credentials, one.ca_pem());
    for number in 1..=16 {
        let code = tonic::Code::from_i32(number);
        // A token that is not taken is renewed once, and the call made again.
        let times = if number == 16 { 2 } else { 1 };
        let fail = |rpc| (0..times).for_each(|_| one.fail_next(rpc, code));
        fail(Rpc::Hello);
        fail(Rpc::GetTask);
        fail(Rpc::GetTasks);
        fail(Rpc::Heartbeat);
        fail(Rpc::FinishTask);
        let done = TaskResult::Success {
            response: None,
            annotations: Vec::new(),
        };
        let id = "0".repeat(27);
        let errors = [
            (
                "Hello",
                plane.hello(BatonServiceHelloRequest::default()).await.err(),
            ),
            ("GetTask", plane.next_task().await.err()),
            ("GetTasks", plane.next_tasks(1, Vec::new()).await.err()),
            ("Heartbeat", plane.heartbeat(&id).await.err()),
            ("FinishTask", plane.finish(&id, done).await.err()),
        ];
        for (rpc, error) in errors {
            let error = error.unwrap();
            let text = chain(&error);
            assert!(text.contains(rpc), "{code:?}: {text}");
            assert!(
                text.contains(&format!("{:?}", error.code())),
                "{code:?}: {text}"
            );
            assert_eq!(error.code().number(), number, "{text}");
            assert!(!format!("{text} {error:?}").contains(MARKER), "{text}");
        }
    }
    // Calls that were refused on purpose are no breaches.
    one.assert_clean();
}
