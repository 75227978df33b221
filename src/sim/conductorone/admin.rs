//! The admin port: plain HTTP on a loopback address, for people and for scripts in other languages.

use axum::{
    Json, Router,
    body::Bytes,
    extract::State as Injected,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Control, Rpc, Stage, Step, TaskSpec, kind, script::Names};

pub(super) async fn serve(control: Control, listener: TcpListener) {
    let router = Router::new()
        .route("/_sim/tasks", post(task))
        .route("/_sim/steps", post(step))
        .route("/_sim/client-secrets", post(client_secret))
        .route("/_sim/state", get(state))
        .with_state(control);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the admin port of the simulator has stopped");
    }
}

async fn task(Injected(control): Injected<Control>, body: Bytes) -> Response {
    let task = match serde_json::from_slice::<TaskSpec>(&body) {
        Ok(spec) => spec.build(&control).await,
        Err(error) => Err(error.into()),
    };
    match task {
        Ok(task) => (
            StatusCode::CREATED,
            Json(json!({ "id": control.enqueue(task) })),
        )
            .into_response(),
        Err(error) => refuse(&error),
    }
}

async fn step(Injected(control): Injected<Control>, body: Bytes) -> Response {
    let step = match serde_json::from_slice::<Step>(&body) {
        Ok(step) => step,
        Err(error) => return refuse(&error.into()),
    };
    match step.run(&control, &mut Names::default()).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => refuse(&error),
    }
}

/// Issues another client secret; the step `retire-secrets` ends the older ones.
async fn client_secret(Injected(control): Injected<Control>) -> Response {
    match control.rotate_secret() {
        Ok(secret) => (
            StatusCode::CREATED,
            Json(json!({ "client_secret": secret.expose_secret() })),
        )
            .into_response(),
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &anyhow::Error) -> Response {
    (
        StatusCode::BAD_REQUEST,
        Json(json!({ "error": format!("{error:#}") })),
    )
        .into_response()
}

async fn state(Injected(control): Injected<Control>) -> Json<Value> {
    let tasks: Vec<Value> = control
        .tasks()
        .iter()
        .map(|task| {
            json!({
                "id": task.task.id,
                "kind": kind(&task.task),
                "stage": match task.stage {
                    Stage::Queued => "queued",
                    Stage::Leased { .. } => "running",
                    Stage::Finished => "finished",
                },
                "deliveries": task.deliveries,
                "heartbeats": task.heartbeats,
                "cancelled": task.cancelled,
            })
        })
        .collect();
    let finishes: Vec<Value> = control
        .finishes()
        .iter()
        .map(|finish| {
            json!({
                "task": finish.request.task_id,
                "at": finish.moment.at.to_string(),
                "success": finish.is_success(),
                "non_retryable": finish.is_non_retryable(),
                "code": finish.code(),
                "message": finish.message(),
            })
        })
        .collect();
    let uploads: Vec<Value> = control
        .uploads()
        .iter()
        .map(|upload| {
            json!({
                "task": upload.task_id,
                "at": upload.moment.at.to_string(),
                "bytes": upload.bytes,
                "chunks": upload.chunks,
                "sha256": upload.sha256,
                "path": upload.path,
                "rows": upload.summary.as_ref().map(|summary| &summary.rows),
            })
        })
        .collect();
    let calls: serde_json::Map<String, Value> = [
        Rpc::Token,
        Rpc::Hello,
        Rpc::GetTask,
        Rpc::GetTasks,
        Rpc::Heartbeat,
        Rpc::UploadAsset,
        Rpc::FinishTask,
        Rpc::StartDebugging,
        Rpc::Other,
    ]
    .into_iter()
    .map(|rpc| (rpc.to_string(), control.calls(rpc).into()))
    .collect();
    let breaches: Vec<String> = control.breaches().iter().map(ToString::to_string).collect();
    Json(json!({
        "calls": calls,
        "hellos": control.hellos().len(),
        "tasks": tasks,
        "finishes": finishes,
        "uploads": uploads,
        "breaches": breaches,
    }))
}
