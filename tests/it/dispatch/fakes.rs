//! A control plane and a directory that hold state, and handlers that do as told.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use baton_jumpcloud::{
    admin::health::Health,
    clock::SystemClock,
    config::ProvisioningMode,
    connector::{
        self, Connector, Page, SyncScope,
        provision::{Account, Change, Credential, Done, NewAccount, Provisioner, Request},
    },
    control_plane::{
        ControlPlane, Error, HeartbeatReply, Polled, TaskResult,
        auth::{Answer, TokenError},
    },
    crypto::seal::Plaintext,
    dispatch::{self, Settings},
    error::Code,
    handlers::{self, Context, Kind, Outcome, Registry, TaskHandler},
    proto::{
        Struct,
        baton::{
            BatonServiceHelloRequest, Task,
            task::{GrantTask, SyncFullTask, TaskType},
        },
        connector as v2,
    },
    provisioning::{self as changes, Provisioning},
    supervisor::Supervisor,
    telemetry::metrics::Metrics,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// Longer, in paused time, than anything that a test waits for.
const PATIENCE: Duration = Duration::from_hours(24);

#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    Hello(String),
    Poll,
    PollMany { page: u32, known: Vec<String> },
    Heartbeat(String),
    Finish(String, TaskResult),
    Upload(String, Vec<u8>),
}

/// What the control plane does with one call.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    Code(Code),
    Throttle(Duration),
    Silence,
    /// The call is never made: the token endpoint refuses.
    NoToken,
}

impl Fault {
    async fn happen(self, operation: &'static str) -> Error {
        let (code, retry_after) = match self {
            Self::Code(code) => (code, None),
            Self::Throttle(after) => (Code::ResourceExhausted, Some(after)),
            Self::Silence => std::future::pending().await,
            Self::NoToken => {
                return Error::Token {
                    operation,
                    source: TokenError::Refused {
                        answer: Answer {
                            status: 404,
                            error: None,
                            description: None,
                        },
                    },
                };
            }
        };
        Error::Status {
            operation,
            code,
            message: "as the test wants it".to_owned(),
            retry_after,
        }
    }
}

#[derive(Debug, Clone)]
pub enum Poll {
    Tasks(Vec<Task>, Option<Duration>),
    Fail(Fault),
    /// Answers only when the test opens the gate.
    Late(Vec<Task>),
}

#[derive(Debug, Default)]
struct Script {
    hello: VecDeque<Fault>,
    polls: VecDeque<Poll>,
    heartbeats: VecDeque<Result<HeartbeatReply, Fault>>,
    heartbeats_down: bool,
    finish: VecDeque<Fault>,
    finish_down: Option<Fault>,
    upload: VecDeque<Fault>,
    batches_unknown: bool,
    next_heartbeat: Option<Duration>,
}

/// A ConductorOne that answers as scripted, and as an idle one otherwise.
#[derive(Debug)]
pub struct FakeControlPlane {
    script: Mutex<Script>,
    calls: watch::Sender<Vec<(Instant, Call)>>,
    pub gate: Notify,
}

impl FakeControlPlane {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            script: Mutex::default(),
            calls: watch::Sender::new(Vec::new()),
            gate: Notify::new(),
        })
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    pub fn hello_fails(&self, faults: impl IntoIterator<Item = Fault>) {
        self.script().hello.extend(faults);
    }

    pub fn polls(&self, polls: impl IntoIterator<Item = Poll>) {
        self.script().polls.extend(polls);
    }

    pub fn hand_out(&self, tasks: impl IntoIterator<Item = Task>) {
        self.polls(tasks.into_iter().map(|task| Poll::Tasks(vec![task], None)));
    }

    pub fn heartbeats(&self, answers: impl IntoIterator<Item = Result<HeartbeatReply, Fault>>) {
        self.script().heartbeats.extend(answers);
    }

    pub fn heartbeats_go_down(&self) {
        self.script().heartbeats_down = true;
    }

    pub fn next_heartbeat(&self, next: Option<Duration>) {
        self.script().next_heartbeat = next;
    }

    pub fn finish_fails(&self, faults: impl IntoIterator<Item = Fault>) {
        self.script().finish.extend(faults);
    }

    pub fn finish_goes_down(&self, fault: Fault) {
        self.script().finish_down = Some(fault);
    }

    pub fn upload_fails(&self, faults: impl IntoIterator<Item = Fault>) {
        self.script().upload.extend(faults);
    }

    pub fn knows_no_batches(&self) {
        self.script().batches_unknown = true;
    }

    fn record(&self, call: Call) {
        self.calls
            .send_modify(|calls| calls.push((Instant::now(), call)));
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls
            .borrow()
            .iter()
            .map(|(_, call)| call.clone())
            .collect()
    }

    pub fn times(&self, which: impl Fn(&Call) -> bool) -> Vec<Instant> {
        self.calls
            .borrow()
            .iter()
            .filter(|(_, call)| which(call))
            .map(|(at, _)| *at)
            .collect()
    }

    pub fn gaps(&self, which: impl Fn(&Call) -> bool) -> Vec<Duration> {
        self.times(which)
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .collect()
    }

    pub fn count(&self, which: impl Fn(&Call) -> bool) -> usize {
        self.times(which).len()
    }

    /// Waits until this many matching calls were made.
    pub async fn until(&self, count: usize, which: impl Fn(&Call) -> bool) {
        let mut calls = self.calls.subscribe();
        let enough =
            calls.wait_for(|calls| calls.iter().filter(|(_, call)| which(call)).count() >= count);
        timeout(PATIENCE, enough)
            .await
            .expect("the calls were made")
            .unwrap();
    }

    /// Waits for the result of a task.
    pub async fn result(&self, id: &str) -> TaskResult {
        self.until(
            1,
            |call| matches!(call, Call::Finish(task, _) if task == id),
        )
        .await;
        self.results(id).remove(0)
    }

    pub fn results(&self, id: &str) -> Vec<TaskResult> {
        self.calls()
            .into_iter()
            .filter_map(|call| match call {
                Call::Finish(task, result) if task == id => Some(result),
                _ => None,
            })
            .collect()
    }

    pub fn uploads(&self) -> Vec<Vec<u8>> {
        self.calls()
            .into_iter()
            .filter_map(|call| match call {
                Call::Upload(_, bytes) => Some(bytes),
                _ => None,
            })
            .collect()
    }

    async fn answer_poll(&self) -> Result<Polled, Error> {
        let next = self.script().polls.pop_front();
        let (tasks, next_poll) = match next {
            None => (Vec::new(), Some(Duration::from_mins(1))),
            Some(Poll::Tasks(tasks, next_poll)) => (tasks, next_poll),
            Some(Poll::Fail(fault)) => return Err(fault.happen("GetTask").await),
            Some(Poll::Late(tasks)) => {
                self.gate.notified().await;
                (tasks, None)
            }
        };
        Ok(Polled { tasks, next_poll })
    }
}

#[async_trait]
impl ControlPlane for FakeControlPlane {
    async fn hello(&self, request: BatonServiceHelloRequest) -> Result<(), Error> {
        self.record(Call::Hello(request.task_id));
        let fault = self.script().hello.pop_front();
        match fault {
            None => Ok(()),
            Some(fault) => Err(fault.happen("Hello").await),
        }
    }

    async fn next_task(&self) -> Result<Polled, Error> {
        self.record(Call::Poll);
        self.answer_poll().await
    }

    async fn next_tasks(&self, page: u32, known: Vec<String>) -> Result<Polled, Error> {
        self.record(Call::PollMany { page, known });
        if self.script().batches_unknown {
            return Err(Fault::Code(Code::Unimplemented).happen("GetTasks").await);
        }
        self.answer_poll().await
    }

    async fn heartbeat(&self, task_id: &str) -> Result<HeartbeatReply, Error> {
        self.record(Call::Heartbeat(task_id.to_owned()));
        let answer = {
            let mut script = self.script();
            let good = HeartbeatReply {
                next_heartbeat: script.next_heartbeat,
                cancelled: false,
            };
            match script.heartbeats.pop_front() {
                Some(answer) => answer,
                None if script.heartbeats_down => Err(Fault::Code(Code::Unavailable)),
                None => Ok(good),
            }
        };
        match answer {
            Ok(reply) => Ok(reply),
            Err(fault) => Err(fault.happen("Heartbeat").await),
        }
    }

    async fn finish(&self, task_id: &str, result: TaskResult) -> Result<(), Error> {
        self.record(Call::Finish(task_id.to_owned(), result));
        let fault = {
            let mut script = self.script();
            script.finish.pop_front().or(script.finish_down)
        };
        match fault {
            None => Ok(()),
            Some(fault) => Err(fault.happen("FinishTask").await),
        }
    }

    async fn upload(&self, task_id: &str, file: &Path) -> Result<(), Error> {
        let bytes = std::fs::read(file).unwrap();
        self.record(Call::Upload(task_id.to_owned(), bytes));
        let fault = self.script().upload.pop_front();
        match fault {
            None => Ok(()),
            Some(fault) => Err(fault.happen("UploadAsset").await),
        }
    }
}

/// A directory with one user, whose validation the test decides.
#[derive(Debug)]
pub struct FakeConnector {
    pub validation: Mutex<VecDeque<Result<(), &'static str>>>,
    pub validations: watch::Sender<usize>,
    /// While closed, validation waits.
    pub open: watch::Sender<bool>,
}

impl FakeConnector {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            validation: Mutex::default(),
            validations: watch::Sender::new(0),
            open: watch::Sender::new(true),
        })
    }
}

fn user_type() -> v2::ResourceType {
    v2::ResourceType {
        id: "user".to_owned(),
        display_name: "User".to_owned(),
        ..v2::ResourceType::default()
    }
}

/// A directory that nobody can change.
#[async_trait]
impl Provisioner for FakeConnector {
    fn keys(&self, _request: Request<'_>) -> Vec<String> {
        Vec::new()
    }

    async fn grant(
        &self,
        _entitlement: &v2::Entitlement,
        _principal: &v2::Resource,
        _change: Change<'_>,
    ) -> Result<Done<Vec<v2::Grant>>, connector::Error> {
        Err(unchangeable())
    }

    async fn revoke(
        &self,
        _grant: &v2::Grant,
        _change: Change<'_>,
    ) -> Result<Done<()>, connector::Error> {
        Err(unchangeable())
    }

    async fn create_account(
        &self,
        _resource_type_id: &str,
        _account: &NewAccount,
        _change: Change<'_>,
    ) -> Result<Done<Account>, connector::Error> {
        Err(unchangeable())
    }

    async fn create_resource(
        &self,
        _resource: &v2::Resource,
        _change: Change<'_>,
    ) -> Result<Done<v2::Resource>, connector::Error> {
        Err(unchangeable())
    }

    async fn delete_resource(
        &self,
        _id: &v2::ResourceId,
        _change: Change<'_>,
    ) -> Result<Done<()>, connector::Error> {
        Err(unchangeable())
    }

    async fn rotate_credential(
        &self,
        _id: &v2::ResourceId,
        _credential: &Credential,
        _force_change: bool,
        _change: Change<'_>,
    ) -> Result<Done<Vec<Plaintext>>, connector::Error> {
        Err(unchangeable())
    }

    fn action_schemas(&self) -> Vec<v2::BatonActionSchema> {
        Vec::new()
    }

    async fn invoke(
        &self,
        _name: &str,
        _resource_type_id: &str,
        _arguments: &Struct,
        _change: Change<'_>,
    ) -> Result<Done<Struct>, connector::Error> {
        Err(unchangeable())
    }
}

fn unchangeable() -> connector::Error {
    connector::Error::Unsupported {
        what: "nothing can be changed here".to_owned(),
    }
}

#[async_trait]
impl Connector for FakeConnector {
    fn metadata(&self) -> v2::ConnectorMetadata {
        v2::ConnectorMetadata {
            display_name: "JumpCloud".to_owned(),
            ..v2::ConnectorMetadata::default()
        }
    }

    fn fingerprint(&self, _salt: &str) -> String {
        "fake".to_owned()
    }

    async fn validate(&self) -> Result<connector::Validation, connector::Error> {
        self.validations.send_modify(|count| *count += 1);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        let verdict = self.validation.lock().unwrap().pop_front();
        match verdict {
            Some(Err(what)) => Err(connector::Error::Permission {
                what: what.to_owned(),
                words: None,
            }),
            Some(Ok(())) | None => Ok(connector::Validation::default()),
        }
    }

    fn resource_types(&self) -> Vec<v2::ResourceType> {
        vec![user_type()]
    }

    async fn list_resources(
        &self,
        _scope: &SyncScope,
        resource_type_id: &str,
        _parent: Option<&v2::ResourceId>,
        _page: Option<&str>,
    ) -> Result<Page<v2::Resource>, connector::Error> {
        Ok(Page::last(vec![v2::Resource {
            id: Some(v2::ResourceId {
                resource_type: resource_type_id.to_owned(),
                resource: "u-1".to_owned(),
                ..v2::ResourceId::default()
            }),
            display_name: "Somebody".to_owned(),
            ..v2::Resource::default()
        }]))
    }

    async fn get_resource(
        &self,
        _scope: &SyncScope,
        id: &v2::ResourceId,
    ) -> Result<v2::Resource, connector::Error> {
        Err(connector::Error::NotFound {
            what: format!("{} {}", id.resource_type, id.resource),
        })
    }

    async fn list_entitlements(
        &self,
        _scope: &SyncScope,
        _resource: &v2::Resource,
        _page: Option<&str>,
    ) -> Result<Page<v2::Entitlement>, connector::Error> {
        Ok(Page::default())
    }

    async fn list_grants(
        &self,
        _scope: &SyncScope,
        _resource: &v2::Resource,
        _page: Option<&str>,
    ) -> Result<Page<v2::Grant>, connector::Error> {
        Ok(Page::default())
    }

    async fn cleanup(&self, _sync_id: &str) {}
}

/// A handler that does one thing.
#[derive(Debug, Clone)]
pub enum Does {
    /// Succeeds at once.
    Succeed,
    /// Works for so long, and stops when asked.
    Work(Duration),
    /// Works until asked to stop.
    UntilStopped,
    /// Never ends, whatever it is asked.
    Deaf,
    Panic,
}

#[async_trait]
impl TaskHandler for Does {
    async fn handle(&self, _task: &Task, context: Context<'_>) -> Result<Outcome, handlers::Error> {
        let done = Outcome::Finished {
            response: None,
            annotations: Vec::new(),
        };
        let work = match self {
            Self::Succeed => Duration::ZERO,
            Self::Work(time) => *time,
            Self::UntilStopped => Duration::from_hours(365 * 24),
            Self::Deaf => std::future::pending().await,
            Self::Panic => panic!("the handler ran out of ink"),
        };
        tokio::select! {
            () = context.cancel.cancelled() => Err(handlers::Error::Stopped),
            () = tokio::time::sleep(work) => Ok(done),
        }
    }
}

/// What makes changes with a directory, as the daemon has it.
pub fn provisioning<P: Provisioner>(
    provisioner: &Arc<P>,
    mode: ProvisioningMode,
    work_dir: &Path,
) -> Arc<Provisioning> {
    Arc::new(Provisioning::new(
        Arc::clone(provisioner) as _,
        Arc::new(SystemClock),
        Supervisor::new(),
        changes::Settings::new(mode, work_dir.to_owned()),
    ))
}

/// A running loop.
pub struct Rig {
    pub health: Arc<Health>,
    pub metrics: Metrics,
    pub shutdown: CancellationToken,
    run: JoinSet<Result<(), dispatch::Error>>,
    pub work_dir: tempfile::TempDir,
}

/// How a loop is set up; `does` handles grants and syncs unless it is `None`.
#[derive(Default)]
pub struct Plan {
    pub settings: Settings,
    pub provisioning: bool,
    pub sync: handlers::full_sync::LocalOptions,
    pub does: Option<Does>,
    /// Handles grants and syncs too, in the place of `does`.
    pub handler: Option<Arc<dyn TaskHandler>>,
}

impl Plan {
    pub fn of(does: Does) -> Self {
        Self {
            does: Some(does),
            ..Self::default()
        }
    }

    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.settings.concurrency = concurrency;
        self
    }

    pub fn batches(mut self) -> Self {
        self.settings.get_tasks = true;
        self
    }

    pub fn start(self, control: &Arc<FakeControlPlane>) -> Rig {
        let work_dir = tempfile::tempdir().unwrap();
        let connector = FakeConnector::new();
        let mode = if self.provisioning {
            ProvisioningMode::On
        } else {
            ProvisioningMode::Off
        };
        let provisioning = provisioning(&connector, mode, work_dir.path());
        let connector: Arc<dyn Connector> = connector;
        let metrics = Metrics::new();
        let mut registry = Registry::new(
            &connector,
            Arc::new(SystemClock),
            handlers::Settings {
                work_dir: work_dir.path().to_owned(),
                provisioning,
                sync: self.sync,
                metrics: metrics.clone(),
            },
        );
        let does = self.does.map(|does| Arc::new(does) as Arc<dyn TaskHandler>);
        if let Some(handler) = self.handler.or(does) {
            registry = registry
                .with(Kind::Grant, Arc::clone(&handler))
                .with(Kind::SyncFull, handler);
        }
        let health = Arc::new(Health::new());
        let shutdown = CancellationToken::new();
        let mut run = JoinSet::new();
        let port: Arc<dyn ControlPlane> = Arc::clone(control) as Arc<dyn ControlPlane>;
        run.spawn(dispatch::run(
            self.settings,
            port,
            Arc::new(registry),
            Arc::clone(&health),
            metrics.clone(),
            shutdown.clone(),
        ));
        Rig {
            health,
            metrics,
            shutdown,
            run,
            work_dir,
        }
    }
}

impl Rig {
    /// A counter of the loop, over all labels.
    pub fn count(&self, name: &str) -> u64 {
        self.metrics
            .sum(&format!("baton_jumpcloud_{name}_total"), &[])
    }

    /// Waits for the loop to end by itself.
    pub async fn end(&mut self) -> Result<(), dispatch::Error> {
        timeout(PATIENCE, self.run.join_next())
            .await
            .expect("the loop ended")
            .unwrap()
            .unwrap()
    }

    pub fn has_ended(&self) -> bool {
        self.run.is_empty()
    }

    /// Begins shutdown and waits for its end; answers with how long it took.
    pub async fn shut_down(&mut self) -> Duration {
        let begun = Instant::now();
        self.shutdown.cancel();
        self.end().await.unwrap();
        begun.elapsed()
    }

    /// What is left in the work folder, besides what outlives the process on purpose.
    pub fn left_over(&self) -> usize {
        crate::daemon::entries(self.work_dir.path()).len()
    }
}

pub fn id(number: u32) -> String {
    format!("{number:027}")
}

pub fn task(number: u32, task_type: TaskType) -> Task {
    Task {
        id: id(number),
        task_type: Some(task_type),
        ..Task::default()
    }
}

pub fn grant(number: u32) -> Task {
    task(number, TaskType::Grant(GrantTask::default()))
}

pub fn full_sync(number: u32) -> Task {
    task(number, TaskType::SyncFull(SyncFullTask::default()))
}

/// Code, text and finality of a failure.
pub fn failure(result: &TaskResult) -> (Code, &str, bool) {
    match result {
        TaskResult::Error {
            status,
            non_retryable,
            ..
        } => (
            Code::from_number(status.code),
            &status.message,
            *non_retryable,
        ),
        TaskResult::Success { .. } => panic!("the task succeeded"),
    }
}

pub fn is_success(result: &TaskResult) -> bool {
    matches!(result, TaskResult::Success { .. })
}

pub fn is_poll(call: &Call) -> bool {
    matches!(call, Call::Poll | Call::PollMany { .. })
}

pub fn is_hello(call: &Call) -> bool {
    matches!(call, Call::Hello(_))
}

pub fn is_heartbeat(call: &Call) -> bool {
    matches!(call, Call::Heartbeat(_))
}

pub fn is_finish(call: &Call) -> bool {
    matches!(call, Call::Finish(..))
}
