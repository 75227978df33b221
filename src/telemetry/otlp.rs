//! Traces to an OpenTelemetry collector, over gRPC.
//!
//! Owns the connection to the collector, with a thread and a small runtime of its own, and what is lost when there is
//! none. Exports the spans of [`spans`] and nothing else: no logs, no events, no fields of log lines. Invariants: a
//! collector that is slow or absent delays nothing and fails nothing; it is logged at most once a minute; at the end
//! what is left is sent within [`FLUSH_LIMIT`].
//!
//! The sampler and the batches follow the standard variables (`OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG`,
//! `OTEL_BSP_…`), and every trace is kept unless they say otherwise.

use std::{
    fmt,
    sync::Mutex,
    time::{Duration, Instant},
};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{
    SpanExporter, WithExportConfig as _, WithTonicConfig as _,
    tonic_types::transport::{Certificate, ClientTlsConfig},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter as Export},
};
use tokio::runtime::{Builder, Runtime};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use super::{Error, spans};
use crate::{config::Traces, supervisor::lock};

/// How long the end waits for spans that have not been sent.
pub const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// How long one export may take.
const EXPORT_LIMIT: Duration = Duration::from_secs(10);
/// How often an absent collector is logged.
const QUIET: Duration = Duration::from_mins(1);
/// The name that the official connector has too.
const SERVICE: &str = "baton-jumpcloud-server";

/// The way to the collector. [`Exporter::finish`] must be called, or the last spans are lost.
pub struct Exporter {
    provider: SdkTracerProvider,
    runtime: Runtime,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

impl Exporter {
    /// Prepares everything and connects to nothing. Needs the TLS provider of the process.
    pub fn start(traces: &Traces) -> Result<Self, Error> {
        let failed = |error: &(dyn std::error::Error + 'static)| Error::Traces {
            problem: crate::error::chain(error),
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("otlp")
            .enable_all()
            .build()
            .map_err(|error| failed(&error))?;
        let in_runtime = runtime.enter();
        let mut builder = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(traces.endpoint.as_str())
            .with_timeout(EXPORT_LIMIT);
        if traces.endpoint.scheme() == "https" {
            builder = builder.with_tls_config(match &traces.ca_pem {
                Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
                None => ClientTlsConfig::new().with_native_roots(),
            });
        }
        let exporter = builder.build().map_err(|error| failed(&error))?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Quiet {
                inner: exporter,
                said: Mutex::default(),
            })
            .with_resource(
                Resource::builder()
                    .with_service_name(SERVICE)
                    .with_attribute(opentelemetry::KeyValue::new(
                        "service.version",
                        env!("CARGO_PKG_VERSION"),
                    ))
                    .build(),
            )
            .build();
        drop(in_runtime);
        Ok(Self { provider, runtime })
    }

    /// What hands the spans over; lets nothing else through.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        layer(&self.provider)
    }

    /// Sends what is left, for at most [`FLUSH_LIMIT`], and ends. Blocks; not for a runtime's worker.
    pub fn finish(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_LIMIT) {
            tracing::warn!(error = %error, "the last traces could not be sent to the collector");
        }
        self.runtime.shutdown_background();
    }
}

fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + Send + Sync + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(env!("CARGO_PKG_NAME")))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
        .with_filter(Targets::new().with_target(spans::TARGET, LevelFilter::TRACE))
}

/// An exporter whose failures are logged, but seldom.
#[derive(Debug)]
struct Quiet<E> {
    inner: E,
    said: Mutex<Option<Instant>>,
}

impl<E: Export> Export for Quiet<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let lost = batch.len();
        let result = self.inner.export(batch).await;
        if let Err(error) = &result {
            let mut said = lock(&self.said);
            if said.is_none_or(|at| at.elapsed() >= QUIET) {
                *said = Some(Instant::now());
                drop(said);
                tracing::warn!(
                    error = %error,
                    lost,
                    "traces cannot be sent to the OpenTelemetry collector and are lost; said once a minute"
                );
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use opentelemetry::trace::{SpanKind, Status};
    use opentelemetry_sdk::error::OTelSdkError;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::{
        clock::SystemClock,
        config::{Level, Log, LogFormat},
        error::Code,
        telemetry::{self, capture},
    };

    /// Keeps what is exported, or fails.
    #[derive(Debug, Clone, Default)]
    struct Kept {
        spans: Arc<Mutex<Vec<SpanData>>>,
        fails: bool,
    }

    impl Export for Kept {
        async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
            if self.fails {
                return Err(OTelSdkError::InternalFailure("nobody listens".to_owned()));
            }
            self.spans.lock().unwrap().append(&mut batch);
            Ok(())
        }
    }

    fn log(level: Level) -> Log {
        Log {
            level,
            format: LogFormat::Json,
            paths: Vec::new(),
        }
    }

    /// What is exported of the work, and what is logged.
    fn exported(level: Level, work: impl FnOnce()) -> (Vec<SpanData>, String) {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(kept.clone())
            .build();
        let captured = telemetry::Captured::default();
        let (logs, _control) = telemetry::logs(
            &log(level),
            &[],
            Arc::new(SystemClock),
            vec![telemetry::Output::Captured(captured.clone())],
        );
        tracing::subscriber::with_default(logs.with(layer(&provider)), work);
        let spans = kept.spans.lock().unwrap().clone();
        (spans, captured.text())
    }

    #[test]
    fn only_our_spans_with_allowed_attributes_leave_and_they_make_a_tree() {
        let (spans, logged) = exported(Level::Debug, || {
            let task = spans::task("2aBcDeFgHiJkLmNoPqRsTuVwXyZ", "sync_full");
            task.in_scope(|| {
                let _log_only = tracing::info_span!("task", person = "Ada Lovelace").entered();
                tracing::error!(email = "ada@example.com", "SECRETSEED");
                spans::handler("sync_full").in_scope(|| {
                    let request = spans::request("GET", "/api/systemusers/{id}");
                    spans::request_answered(&request, 503);
                    spans::request_broke(&spans::request("GET", "/api/users"), "timeout");
                });
                spans::rpc_ended(&spans::rpc("FinishTask"), Code::Ok);
                spans::rpc_ended(&spans::rpc("GetTask"), Code::Ok);
            });
            spans::task_ended(&task, "done", false);
        });
        let by_name: BTreeMap<&str, &SpanData> =
            spans.iter().map(|span| (&*span.name, span)).collect();
        assert_eq!(
            by_name.keys().copied().collect::<Vec<_>>(),
            [
                "BatonService/FinishTask",
                "GET /api/systemusers/{id}",
                "GET /api/users",
                "handler",
                "sync_full"
            ]
        );
        let id = |name: &str| by_name[name].span_context.span_id();
        for (name, parent) in [
            ("handler", "sync_full"),
            ("BatonService/FinishTask", "sync_full"),
            ("GET /api/systemusers/{id}", "handler"),
            ("GET /api/users", "handler"),
        ] {
            assert_eq!(by_name[name].parent_span_id, id(parent), "{name}");
        }
        assert_eq!(by_name["GET /api/users"].span_kind, SpanKind::Client);
        assert_eq!(by_name["sync_full"].span_kind, SpanKind::Consumer);
        assert_eq!(by_name["sync_full"].status, Status::Unset);
        assert!(matches!(
            by_name["GET /api/users"].status,
            Status::Error { .. }
        ));
        for span in &spans {
            assert!(span.events.is_empty(), "{span:?}");
            for attribute in &span.attributes {
                assert!(
                    spans::ATTRIBUTES.contains(&attribute.key.as_str()),
                    "{attribute:?}"
                );
            }
        }
        let text = format!("{spans:?}");
        for hidden in ["Ada", "ada@", "SECRETSEED"] {
            assert!(!text.contains(hidden), "{text}");
        }
        // The spans put nothing into the lines of the log.
        assert!(logged.contains("Ada Lovelace"), "{logged}");
        assert!(
            !logged.contains("url.template") && !logged.contains("otel."),
            "{logged}"
        );
    }

    #[test]
    fn the_level_of_the_log_does_not_matter_to_traces() {
        let (spans, logged) = exported(Level::Error, || drop(spans::handler("grant")));
        assert_eq!((spans.len(), logged.as_str()), (1, ""));
    }

    #[test]
    fn a_traceparent_names_the_span() {
        let mut header = None;
        let (spans, _) = exported(Level::Info, || {
            header = spans::traceparent(&spans::rpc("Heartbeat"));
            assert_eq!(spans::traceparent(&spans::rpc("GetTask")), None);
        });
        let context = &spans[0].span_context;
        let expected = format!("00-{}-{}-01", context.trace_id(), context.span_id());
        assert_eq!(header, Some(expected));
    }

    #[test]
    fn without_a_collector_there_is_no_header_and_no_span() {
        let (subscriber, _control, _) = capture(&log(Level::Debug), &[], Arc::new(SystemClock));
        tracing::subscriber::with_default(subscriber, || {
            let span = spans::rpc("Heartbeat");
            assert!(span.is_disabled());
            assert_eq!(spans::traceparent(&span), None);
        });
    }

    #[tokio::test]
    async fn an_absent_collector_is_logged_once_a_minute() {
        let (subscriber, _control, captured) =
            capture(&log(Level::Info), &[], Arc::new(SystemClock));
        let _logs = tracing::subscriber::set_default(subscriber);
        let quiet = Quiet {
            inner: Kept {
                fails: true,
                ..Kept::default()
            },
            said: Mutex::default(),
        };
        for _ in 0..5 {
            assert!(quiet.export(Vec::new()).await.is_err());
        }
        assert_eq!(captured.text().matches("nobody listens").count(), 1);
        // A minute later.
        *quiet.said.lock().unwrap() = Instant::now().checked_sub(QUIET);
        assert!(quiet.export(Vec::new()).await.is_err());
        assert_eq!(captured.text().matches("nobody listens").count(), 2);
    }
}
