//! Tasks, as a poll brings them, in a dry run before a small organisation.

use std::{
    path::Path,
    sync::{Arc, Mutex, OnceLock},
};

use async_trait::async_trait;
use prost::Message as _;
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    MAX_ERROR,
    connector::{TENANT, told},
    stub::{PATIENCE, Stub},
};
use crate::{
    clock::SystemClock,
    config::ProvisioningMode,
    connector::Connector,
    control_plane::{self, ControlPlane, HeartbeatReply, Polled, TaskResult, grpc},
    crypto::jwk::Ed25519Jwk,
    dispatch::outcome::{self, End},
    handlers::{self, Context, Error, Kind, Registry, full_sync},
    notice::Notices,
    proto::baton::{self, BatonServiceGetTaskResponse, task::TaskType},
    provisioning::{self, Keys, Provisioning},
    supervisor::{Supervisor, lock},
    telemetry::metrics::Metrics,
};

struct Lab {
    stub: Stub,
    registry: Registry,
    supervisor: Supervisor,
    work: TempDir,
}

impl Lab {
    fn open() -> Self {
        let stub = Stub::start();
        let work = tempfile::tempdir().expect("a folder");
        let connector = Arc::new(stub.connector(work.path(), false));
        let keys = Keys::default();
        keys.add(Ed25519Jwk::from_seed(super::OWN_SEED, None).expect("a key"));
        let supervisor = Supervisor::new();
        let provisioning = Arc::new(Provisioning::new(
            Arc::clone(&connector) as _,
            Arc::new(SystemClock),
            supervisor.clone(),
            provisioning::Settings {
                keys,
                ..provisioning::Settings::new(ProvisioningMode::DryRun, work.path().to_owned())
            },
        ));
        let connector: Arc<dyn Connector> = connector;
        let registry = Registry::new(
            &connector,
            Arc::new(SystemClock),
            handlers::Settings {
                work_dir: work.path().to_owned(),
                provisioning,
                sync: full_sync::LocalOptions::default(),
                metrics: Metrics::default(),
            },
        );
        Self {
            stub,
            registry,
            supervisor,
            work,
        }
    }
}

fn lab() -> &'static Mutex<Lab> {
    static LAB: OnceLock<Mutex<Lab>> = OnceLock::new();
    LAB.get_or_init(|| Mutex::new(Lab::open()))
}

/// The answer to a poll. Whatever the task wants, nothing is written, and its end can be reported.
pub fn task(data: &[u8]) {
    let Ok(answer) = BatonServiceGetTaskResponse::decode(data) else {
        return;
    };
    for wish in [&answer.next_poll, &answer.next_heartbeat] {
        let _any = wish.as_ref().map(grpc::duration);
    }
    let Some(task) = answer.task else {
        return;
    };
    let kind = Kind::of(&task);
    if let Some(TaskType::SyncFull(options)) = &task.task_type {
        match full_sync::request(options, &full_sync::LocalOptions::default(), &task.id) {
            Ok(request) => check_targets(&request.targeted),
            Err(error) => check_end(kind, Err(error)),
        }
        return;
    }
    let lab = lock(lab());
    lab.stub.tell(told(TENANT.as_bytes()), true);
    let cancel = CancellationToken::new();
    let revoked = CancellationToken::new();
    let notices = Notices::new();
    let context = Context {
        task_id: &task.id,
        kind,
        cancel: &cancel,
        revoked: &revoked,
        control_plane: &Deaf,
        notices: &notices,
    };
    let handled = lab
        .stub
        .runtime
        .block_on(async {
            timeout(PATIENCE, lab.registry.handler(kind).handle(&task, context)).await
        })
        .expect("a task that does not end");
    check_end(kind, handled);
    assert!(
        lab.supervisor.shutdown_reason().is_none(),
        "a part of the process panicked"
    );
    lab.stub.check();
    check_work(lab.work.path());
}

fn check_targets(targets: &[crate::proto::connector::Resource]) {
    for target in targets {
        let id = target.id.as_ref().expect("a target has an id");
        assert!(!id.resource.is_empty() && id.resource.len() <= 1024);
    }
}

fn check_end(kind: Kind, handled: Result<handlers::Outcome, Error>) {
    if let Err(error) = &handled {
        let text = crate::error::chain(error);
        assert!(text.len() <= MAX_ERROR, "an error of {} bytes", text.len());
    }
    if let Some(TaskResult::Error { status, .. }) =
        outcome::result(kind, End::Returned(handled), None)
    {
        assert!(!status.message.is_empty() && status.code != 0);
    }
}

/// A dry run leaves nothing but the folder of what is remembered.
fn check_work(work: &Path) {
    let left = std::fs::read_dir(work).expect("the folder is still there");
    assert!(left.count() <= 1, "a file is left behind");
}

/// Nobody to talk to.
struct Deaf;

#[async_trait]
impl ControlPlane for Deaf {
    async fn hello(
        &self,
        _request: baton::BatonServiceHelloRequest,
    ) -> Result<(), control_plane::Error> {
        Ok(())
    }

    async fn next_task(&self) -> Result<Polled, control_plane::Error> {
        Ok(Polled::default())
    }

    async fn next_tasks(
        &self,
        _page_size: u32,
        _known: Vec<String>,
    ) -> Result<Polled, control_plane::Error> {
        Ok(Polled::default())
    }

    async fn heartbeat(&self, _task_id: &str) -> Result<HeartbeatReply, control_plane::Error> {
        Ok(HeartbeatReply::default())
    }

    async fn finish(
        &self,
        _task_id: &str,
        _result: TaskResult,
    ) -> Result<(), control_plane::Error> {
        Ok(())
    }

    async fn upload(&self, _task_id: &str, _file: &Path) -> Result<(), control_plane::Error> {
        Ok(())
    }
}
