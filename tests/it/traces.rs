//! Traces of the real binary, as a collector receives them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use baton_jumpcloud::telemetry::spans::ATTRIBUTES;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, Span, span::SpanKind},
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::daemon::{Launch, PATIENCE, Scene};

/// A collector that keeps everything.
struct Collector {
    address: String,
    received: Received,
    changed: watch::Receiver<()>,
    _serving: JoinSet<()>,
}

#[derive(Clone)]
struct Received {
    batches: Arc<Mutex<Vec<ResourceSpans>>>,
    changed: watch::Sender<()>,
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = request.into_inner().resource_spans;
        self.batches.lock().unwrap().append(&mut spans);
        self.changed.send_replace(());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, changed) = watch::channel(());
        let received = Received {
            batches: Arc::default(),
            changed: sender,
        };
        let service = TraceServiceServer::new(received.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            address,
            received,
            changed,
            _serving: serving,
        }
    }

    fn batches(&self) -> Vec<ResourceSpans> {
        self.received.batches.lock().unwrap().clone()
    }

    fn spans(&self) -> Vec<Span> {
        self.batches()
            .into_iter()
            .flat_map(|batch| batch.scope_spans)
            .flat_map(|scope| scope.spans)
            .collect()
    }

    /// Waits for a span of this name.
    async fn span(&mut self, name: &str) -> Span {
        let wait = async {
            loop {
                self.changed.mark_unchanged();
                if let Some(span) = self.spans().into_iter().find(|span| span.name == name) {
                    return span;
                }
                self.changed.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, wait).await.unwrap()
    }
}

fn exporting(launch: Launch, collector: &str) -> Launch {
    launch
        .flag("otel-collector-endpoint", collector)
        .switch("otel-collector-endpoint-tls-insecure")
        .variable("OTEL_BSP_SCHEDULE_DELAY", "100")
}

fn text<'a>(of: &'a [KeyValue], name: &str) -> &'a str {
    of.iter()
        .find(|attribute| attribute.key == name)
        .and_then(|attribute| attribute.value.as_ref())
        .and_then(|value| match &value.value {
            Some(Value::StringValue(text)) => Some(text.as_str()),
            _ => None,
        })
        .unwrap_or_default()
}

#[tokio::test]
async fn a_collector_receives_the_tree_of_a_task_and_no_secret() {
    let scene = Scene::start().await;
    let mut collector = Collector::start().await;
    let launch = exporting(scene.service(), &collector.address);
    let daemon = scene.serving(launch).await;
    let task = scene.enqueue_sync();
    scene.expect_truth(&task).await;
    let root = collector.span("sync_full").await;
    let stopped = Instant::now();
    daemon.terminate().await;
    assert!(
        stopped.elapsed() < Duration::from_secs(8),
        "{:?}",
        stopped.elapsed()
    );

    assert_eq!(text(&root.attributes, "baton.task.id"), task);
    assert_eq!(text(&root.attributes, "baton.task.outcome"), "done");
    assert_eq!(root.kind(), SpanKind::Consumer);
    assert!(root.parent_span_id.is_empty());
    let spans: Vec<Span> = collector
        .spans()
        .into_iter()
        .filter(|span| span.trace_id == root.trace_id)
        .collect();
    let named = |name: &str| {
        spans
            .iter()
            .filter(|span| span.name == name)
            .collect::<Vec<_>>()
    };
    let handler = named("handler");
    assert_eq!(handler.len(), 1);
    assert_eq!(handler[0].parent_span_id, root.span_id);
    for (name, parent) in [
        ("GET /api/systemusers", &handler[0].span_id),
        ("GET /api/v2/usergroups", &handler[0].span_id),
        ("BatonService/UploadAsset", &handler[0].span_id),
        ("BatonService/Heartbeat", &root.span_id),
        ("BatonService/FinishTask", &root.span_id),
    ] {
        let of = named(name);
        assert!(!of.is_empty(), "no span {name}");
        for span in of {
            assert_eq!(span.parent_span_id, **parent, "{name}");
            assert_eq!(span.kind(), SpanKind::Client, "{name}");
        }
    }
    // Every request of the sync is there, those at start are not a part of this task.
    let requests = spans
        .iter()
        .filter(|span| span.name.starts_with("GET /api/"))
        .count();
    assert!(
        requests as u64 <= scene.directory.requests().total && requests > 20,
        "{requests}"
    );
    assert!(named("BatonService/GetTask").is_empty());

    let batches = collector.batches();
    for batch in &batches {
        let resource = &batch.resource.as_ref().unwrap().attributes;
        assert_eq!(text(resource, "service.name"), "baton-jumpcloud-server");
        assert_eq!(text(resource, "service.version"), env!("CARGO_PKG_VERSION"));
    }
    let allowed: BTreeSet<&str> = ATTRIBUTES.into_iter().collect();
    for span in collector.spans() {
        assert!(span.events.is_empty(), "{span:?}");
        for attribute in &span.attributes {
            assert!(allowed.contains(attribute.key.as_str()), "{attribute:?}");
        }
    }
    // Neither a secret nor a person.
    let told = format!("{batches:?}");
    let truth = scene.directory.truth();
    assert!(truth.users.len() > 100);
    for user in truth.users.keys() {
        let email = scene
            .directory
            .inspect(|tenant| tenant.email_of(*user))
            .flatten()
            .unwrap();
        assert!(!told.contains(&email), "{email}");
    }
    let key = scene.cloud.client_secret_text().rsplit(':').next().unwrap();
    for secret in ["SECRETSEED", "eyJ", key] {
        assert!(!told.contains(secret));
    }
    crate::secrets::keep(&told);
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn an_absent_collector_fails_nothing_and_delays_nothing() {
    let scene = Scene::start().await;
    // A port that nobody listens on.
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let daemon = scene.serving(exporting(scene.service(), &address)).await;
    for _ in 0..2 {
        scene.expect_truth(&scene.enqueue_sync()).await;
    }
    let begun = Instant::now();
    let exit = daemon.terminate().await;
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    let said = exit
        .stderr
        .matches("traces cannot be sent to the OpenTelemetry collector")
        .count();
    assert!(said <= 2, "said {said} times");
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn traces_can_be_switched_off_and_sampled_away() {
    let scene = Scene::start().await;
    let collector = Collector::start().await;
    for launch in [
        exporting(scene.service(), &collector.address).switch("otel-tracing-disabled"),
        exporting(scene.service(), &collector.address)
            .variable("OTEL_TRACES_SAMPLER", "always_off"),
        scene.service(),
    ] {
        let daemon = scene.serving(launch).await;
        scene.expect_truth(&scene.enqueue_sync()).await;
        daemon.terminate().await;
    }
    assert!(collector.spans().is_empty());
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_is_refused_without_showing_it() {
    let scene = Scene::start().await;
    for endpoint in [
        "http://collector:4317",
        "https://user:SECRETSEED@collector:4317",
        "collector:4317/v1/traces",
        "collector:port",
    ] {
        let exit = scene
            .service()
            .flag("otel-collector-endpoint", endpoint)
            .run()
            .await
            .expect(64);
        let verdict = exit.verdict();
        assert!(
            verdict.contains("otel-collector-endpoint") && verdict.contains("host:port"),
            "{verdict}"
        );
    }
    let cert = scene
        .service()
        .flag("otel-collector-endpoint", "collector:4317")
        .flag("otel-collector-endpoint-tls-cert", "bm90aGluZw")
        .run()
        .await
        .expect(64);
    assert!(
        cert.verdict().contains("holds no certificate"),
        "{}",
        cert.verdict()
    );
}
