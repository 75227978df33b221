//! The spans that may leave the process, and their names and attributes.
//!
//! Owns every span that is exported: nothing else is. Invariants: an attribute is one of [`ATTRIBUTES`], and its value is
//! from a closed set, a number, or the id of a task; names, addresses and texts of peers never are. Where nothing is
//! exported, a span costs one comparison.
//!
//! ```text
//! task (baton.task.kind, baton.task.id)
//! ├── handler
//! │   ├── GET /api/systemusers …          each attempt of a request to JumpCloud
//! │   └── BatonService/UploadAsset        each attempt of an RPC, with a traceparent for ConductorOne
//! ├── BatonService/Heartbeat
//! └── BatonService/FinishTask
//! ```
//!
//! Questions for work belong to no task and come every few seconds; they are counted, not traced.

use tracing::{Span, field::Empty, trace_span};

use crate::error::Code;

/// The target of spans that are exported.
pub const TARGET: &str = "baton_jumpcloud::span";

/// The attributes that spans may have.
pub const ATTRIBUTES: [&str; 11] = [
    "baton.task.id",
    "baton.task.kind",
    "baton.task.outcome",
    "error.type",
    "http.request.method",
    "http.response.status_code",
    "rpc.grpc.status_code",
    "rpc.method",
    "rpc.service",
    "rpc.system",
    "url.template",
];

/// A task, from its acceptance to its report.
pub fn task(id: &str, kind: &'static str) -> Span {
    trace_span!(
        target: TARGET,
        "task",
        otel.name = kind,
        otel.kind = "consumer",
        otel.status_code = Empty,
        baton.task.id = id,
        baton.task.kind = kind,
        baton.task.outcome = Empty,
    )
}

/// Tells how the work on a task ended; `is_failure` marks the span as failed.
pub fn task_ended(span: &Span, outcome: &'static str, is_failure: bool) {
    span.record("baton.task.outcome", outcome);
    if is_failure {
        failed(span);
    }
}

fn failed(span: &Span) {
    span.record("otel.status_code", "ERROR");
}

/// The work of a handler.
pub fn handler(kind: &'static str) -> Span {
    trace_span!(target: TARGET, "handler", baton.task.kind = kind)
}

/// One attempt of a request to JumpCloud.
pub fn request(method: &'static str, template: &'static str) -> Span {
    trace_span!(
        target: TARGET,
        "request",
        otel.name = format_args!("{method} {template}"),
        otel.kind = "client",
        otel.status_code = Empty,
        http.request.method = method,
        url.template = template,
        http.response.status_code = Empty,
        error.type = Empty,
    )
}

/// The answer to a request is here.
pub fn request_answered(span: &Span, status: u16) {
    span.record("http.response.status_code", status);
    if status >= 400 {
        failed(span);
    }
}

/// A request got no answer, or not all of it.
pub fn request_broke(span: &Span, what: &'static str) {
    span.record("error.type", what);
    failed(span);
}

/// One attempt of an RPC to ConductorOne; none for a question for work.
pub fn rpc(method: &'static str) -> Span {
    if matches!(method, "GetTask" | "GetTasks") {
        return Span::none();
    }
    trace_span!(
        target: TARGET,
        "rpc",
        otel.name = format_args!("BatonService/{method}"),
        otel.kind = "client",
        otel.status_code = Empty,
        rpc.system = "grpc",
        rpc.service = "c1.connectorapi.baton.v1.BatonService",
        rpc.method = method,
        rpc.grpc.status_code = Empty,
    )
}

/// An RPC came to an end.
pub fn rpc_ended(span: &Span, code: Code) {
    span.record("rpc.grpc.status_code", code.number());
    if code != Code::Ok {
        failed(span);
    }
}

/// The header `traceparent` of W3C Trace Context, by which a peer joins its spans to this one; `None` where nothing is
/// exported.
#[cfg(feature = "otlp")]
pub fn traceparent(span: &Span) -> Option<String> {
    use std::collections::HashMap;

    use opentelemetry::propagation::TextMapPropagator as _;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut headers);
    headers.remove("traceparent")
}

/// The header `traceparent`; never there in a build that exports nothing.
#[cfg(not(feature = "otlp"))]
pub const fn traceparent(_span: &Span) -> Option<String> {
    None
}
