//! The `BatonService` as the simulator answers it.

use std::{pin::pin, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use tokio::{io::AsyncWriteExt as _, time::Instant};
use tonic::{Request, Response, Status, Streaming};

use super::{
    Break, Revealed,
    credentials::hex,
    faults::{AnswerLost, GivenUp, UploadFault},
    rules::{self, Rules},
    server::Connection,
    state::{Finish, Heartbeat, Hello, Poll, Rpc, Shared, Stage, Upload, keep, kind},
    upload,
};
use crate::proto::{
    ProtoDuration,
    baton::{
        self, BatonServiceFinishTaskRequest, BatonServiceFinishTaskResponse,
        BatonServiceGetTaskRequest, BatonServiceGetTaskResponse, BatonServiceGetTasksRequest,
        BatonServiceGetTasksResponse, BatonServiceHeartbeatRequest, BatonServiceHeartbeatResponse,
        BatonServiceHelloRequest, BatonServiceHelloResponse, BatonServiceUploadAssetRequest,
        BatonServiceUploadAssetResponse, StartDebuggingRequest, StartDebuggingResponse,
        baton_service_server::BatonService, baton_service_upload_asset_request::Msg,
        task::TaskType,
    },
};

/// How long an upload may pause between two messages.
const UPLOAD_IDLE: Duration = Duration::from_mins(1);
/// How long after its end a task may still be named by a call that was under way.
const CROSSING: Duration = Duration::from_secs(5);
/// How long an answer may be on its way.
const UNDER_WAY: Duration = Duration::from_secs(1);

pub(super) struct Service(pub(super) Arc<Shared>);

impl Service {
    /// What every call goes through: counting, delays, authorization, and failures on purpose.
    async fn enter<T>(&self, rpc: Rpc, request: &Request<T>) -> Result<(), Status> {
        let shared = &self.0;
        let delay = shared.update(|state| {
            *state.calls.entry(rpc).or_default() += 1;
            state.faults.delays.get(&rpc).copied()
        });
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let now = shared.now();
        let header = request
            .metadata()
            .get("authorization")
            .map(|value| value.to_str().unwrap_or(""));
        let checked = shared.lock().tokens.check(header, now);
        if let Err(refusal) = checked {
            return Err(shared.refuse(rpc, &refusal));
        }
        let failure = shared.update(|state| {
            state
                .faults
                .fail
                .get_mut(&rpc)
                .and_then(std::collections::VecDeque::pop_front)
        });
        match failure {
            Some(code) => Err(Status::new(
                code,
                "the simulator was told to fail this call",
            )),
            None => Ok(()),
        }
    }

    /// Applies field rules; every breach is recorded, the first one is answered.
    fn apply<M: Rules>(&self, rpc: Rpc, message: &M) -> Result<(), Status> {
        self.record(rpc, rules::broken(message))
    }

    fn record(&self, rpc: Rpc, broken: Vec<rules::Broken>) -> Result<(), Status> {
        let mut answer = Ok(());
        for rules::Broken { field, problem } in broken {
            let status = self.0.breach(rpc, &field, &problem);
            if answer.is_ok() {
                answer = Err(status);
            }
        }
        answer
    }

    fn breach<T>(&self, rpc: Rpc, field: &str, problem: &str) -> Result<T, Status> {
        Err(self.0.breach(rpc, field, problem))
    }

    /// Hands tasks out, or says which rule of polling was broken.
    fn poll(
        &self,
        rpc: Rpc,
        host_id: &str,
        limit: usize,
        known: Vec<String>,
    ) -> Result<Vec<baton::Task>, Status> {
        let shared = &self.0;
        let now = Instant::now();
        let (greeted, not_before) = {
            let state = shared.lock();
            (
                !state.hellos.is_empty(),
                state.poll_not_before.get(host_id).copied(),
            )
        };
        if shared.config.require_hello && !greeted {
            return self.breach(rpc, "", "came before any Hello");
        }
        if let Some(early) = not_before.and_then(|at| at.checked_duration_since(now)) {
            return self.breach(
                rpc,
                "",
                &format!("came {early:?} before the time that next_poll had asked for"),
            );
        }
        let (tasks, moment) = shared.update(|state| {
            let tasks = state.hand_out(limit, &known, shared.config.lease, now);
            let moment = shared.moment(state);
            if let Some(next) = state.next_poll {
                // A client that measures from the arrival of our answer is never early; the tenth is for clocks.
                let due = now + next.mul_f64(0.9);
                state.poll_not_before.insert(host_id.to_owned(), due);
            }
            let poll = Poll {
                moment,
                batch: rpc == Rpc::GetTasks,
                known,
                handed: tasks.iter().map(|task| task.id.clone()).collect(),
            };
            keep(&mut state.polls, poll);
            (tasks, moment)
        });
        for task in &tasks {
            shared.tell(
                moment,
                format!("task    {} {} handed out", kind(task), task.id),
            );
        }
        Ok(tasks)
    }

    fn durations(&self) -> (Option<ProtoDuration>, Option<ProtoDuration>) {
        let state = self.0.lock();
        (
            state.next_poll.and_then(proto_duration),
            state.next_heartbeat.and_then(proto_duration),
        )
    }

    /// The task that a message names, if it was handed out and is not finished. A heartbeat, or an upload that is given up,
    /// may cross the end of its task: gRPC takes the calls of one connection in any order.
    fn running(&self, rpc: Rpc, field: &str, id: &str) -> Result<Option<TaskType>, Status> {
        let found = self.0.lock().task(id).map(|task| {
            (
                task.is_over(),
                task.deliveries,
                task.finished_at,
                task.task.task_type.clone(),
            )
        });
        match found {
            None => self.breach(rpc, field, "names a task that does not exist"),
            Some((_, 0, ..)) => self.breach(rpc, field, "names a task that was not handed out"),
            Some((true, _, finished_at, task_type)) => {
                let crosses = matches!(rpc, Rpc::Heartbeat | Rpc::UploadAsset)
                    && finished_at.is_some_and(|at| at.elapsed() < CROSSING);
                if crosses {
                    Ok(task_type)
                } else {
                    self.breach(rpc, field, "names a task that is finished")
                }
            }
            Some((.., task_type)) => Ok(task_type),
        }
    }

    async fn receive(
        &self,
        request: Request<Streaming<BatonServiceUploadAssetRequest>>,
    ) -> Result<(), Status> {
        const RPC: Rpc = Rpc::UploadAsset;
        let shared = &self.0;
        let connection = request.extensions().get::<Connection>().cloned();
        let fault = request.extensions().get::<UploadFault>().copied();
        let given_up: GivenUp = request.extensions().get().cloned().unwrap_or_default();
        let mut stream = pin!(request.into_inner());
        let metadata = match next(&mut stream).await? {
            Some(Msg::Metadata(metadata)) => metadata,
            Some(_) => return self.breach(RPC, "msg", "must begin with metadata"),
            None if given_up.is_so() => return Err(abandoned()),
            None => return self.breach(RPC, "msg", "must be metadata, data or eof"),
        };
        self.apply(RPC, &metadata)?;
        let task_id = metadata.task_id;
        let task_type = self.running(RPC, "metadata.task_id", &task_id)?;
        let Some(TaskType::SyncFull(options)) = task_type else {
            return self.breach(RPC, "metadata.task_id", "names a task that uploads nothing");
        };
        let (heartbeats, uploads, is_debug, is_over) = {
            let mut state = shared.lock();
            state.task(&task_id).map_or((0, 0, false, true), |task| {
                (
                    task.heartbeats,
                    task.uploads,
                    task.task.debug,
                    task.is_over(),
                )
            })
        };
        if shared.config.require_heartbeat && heartbeats == 0 {
            return self.breach(
                RPC,
                "metadata.task_id",
                "names a full sync that sent no heartbeat before its upload",
            );
        }
        let break_off = match fault {
            Some(UploadFault::Break(how, after)) => Some((after, how)),
            _ => shared.update(|state| state.faults.break_uploads.pop_front()),
        };
        let path = shared
            .folder
            .join(format!("{task_id}-{}.c1z", shared.lock().order));
        let partial = tempfile::TempPath::try_from_path(path.with_extension("part"))
            .map_err(|error| local("naming the upload", &error))?;
        let mut file = tokio::fs::File::create(&partial)
            .await
            .map_err(|error| local("storing the upload", &error))?;
        let mut digest = digest::Context::new(&digest::SHA256);
        let (mut bytes, mut chunks) = (0_u64, 0_u64);
        let checksum = loop {
            match next(&mut stream).await? {
                Some(Msg::Data(part)) => {
                    self.apply(RPC, &part)?;
                    bytes += part.data.len() as u64;
                    chunks += 1;
                    if bytes > shared.config.max_upload {
                        return Err(Status::resource_exhausted(
                            "the simulator takes no file this large",
                        ));
                    }
                    if let Some((after, how)) = &break_off
                        && bytes >= *after
                    {
                        return Err(broken_off(*how, connection.as_ref()));
                    }
                    digest.update(&part.data);
                    file.write_all(&part.data)
                        .await
                        .map_err(|error| local("storing the upload", &error))?;
                }
                Some(Msg::Eof(_)) if is_over => {
                    return self.breach(RPC, "metadata.task_id", "names a task that is finished");
                }
                Some(Msg::Eof(eof)) => {
                    self.apply(RPC, &eof)?;
                    break eof.sha256_checksum;
                }
                Some(Msg::Metadata(_)) => {
                    return self.breach(RPC, "msg", "must not repeat the metadata");
                }
                None if given_up.is_so() => return Err(abandoned()),
                None => return self.breach(RPC, "msg", "must end with eof"),
            }
        };
        if tokio::time::timeout(UPLOAD_IDLE, stream.message())
            .await
            .map_err(|_elapsed| Status::deadline_exceeded("the upload does not end after eof"))??
            .is_some()
        {
            return self.breach(RPC, "msg", "must not follow eof");
        }
        file.sync_all()
            .await
            .map_err(|error| local("storing the upload", &error))?;
        drop(file);
        if bytes == 0 {
            return self.breach(RPC, "msg", "must carry data between metadata and eof");
        }
        let refused = matches!(fault, Some(UploadFault::RefuseChecksum))
            || shared.update(|state| {
                let refuse = state.faults.refuse_checksums > 0;
                state.faults.refuse_checksums -= u32::from(refuse);
                refuse
            });
        if refused {
            return Err(Status::data_loss(
                "the checksum of the upload does not match",
            ));
        }
        let sum = digest.finish();
        if sum.as_ref() != checksum.as_slice() {
            return self.breach(RPC, "eof.sha256_checksum", "is not the SHA-256 of the data");
        }
        partial
            .persist(&path)
            .map_err(|error| local("keeping the upload", &error.error))?;

        let file = path.clone();
        let rows = shared.config.inspect_rows;
        let inspected = tokio::task::spawn_blocking(move || {
            if is_debug && uploads > 0 && !upload::has_magic(&file)? {
                return Ok(None);
            }
            let summary = upload::inspect(&file, rows)?;
            upload::check_answers(&options, &summary)?;
            anyhow::Ok(Some(summary))
        })
        .await
        .map_err(|_panicked| Status::internal("the inspection of the upload panicked"))?;
        let summary = match inspected {
            Ok(summary) => summary,
            Err(error) => return self.breach(RPC, "content", &format!("{error:#}")),
        };
        let moment = shared.update(|state| {
            let moment = shared.moment(state);
            if let Some(task) = state.task(&task_id) {
                task.uploads += 1;
            }
            let upload = Upload {
                moment,
                task_id: task_id.clone(),
                bytes,
                chunks,
                sha256: hex(sum.as_ref()),
                path,
                summary,
            };
            keep(&mut state.uploads, upload);
            moment
        });
        shared.tell(
            moment,
            format!("upload  {bytes} bytes in {chunks} chunks for {task_id}, checksum and content verified"),
        );
        Ok(())
    }
}

/// The next message of an upload; `None` is a message without content, and the end of the stream.
async fn next(
    stream: &mut std::pin::Pin<&mut Streaming<BatonServiceUploadAssetRequest>>,
) -> Result<Option<Msg>, Status> {
    let message = tokio::time::timeout(UPLOAD_IDLE, stream.message())
        .await
        .map_err(|_elapsed| Status::deadline_exceeded("the upload paused for too long"))??;
    Ok(message.and_then(|message| message.msg))
}

/// Whether the answer to a report of this moment may have been under way when connections were cut.
fn was_cut_off(finished: Option<Instant>, cut: Option<Instant>) -> bool {
    finished
        .zip(cut)
        .and_then(|(finished, cut)| cut.checked_duration_since(finished))
        .is_some_and(|before| before < UNDER_WAY)
}

fn abandoned() -> Status {
    Status::cancelled("the client gave the upload up")
}

fn local(doing: &str, error: &std::io::Error) -> Status {
    Status::internal(format!("{doing}: {error}"))
}

fn broken_off(how: Break, connection: Option<&Connection>) -> Status {
    if let Some(connection) = connection {
        match how {
            Break::Stream => {}
            Break::Connection => connection.kill.cancel(),
            Break::GoAway => connection.drain.cancel(),
        }
    }
    Status::unavailable("the simulator was told to break this upload")
}

fn proto_duration(duration: Duration) -> Option<ProtoDuration> {
    ProtoDuration::try_from(duration).ok()
}

#[tonic::async_trait]
impl BatonService for Service {
    async fn hello(
        &self,
        request: Request<BatonServiceHelloRequest>,
    ) -> Result<Response<BatonServiceHelloResponse>, Status> {
        self.enter(Rpc::Hello, &request).await?;
        let user_agent = user_agent(&request);
        let is_lost = request.extensions().get::<AnswerLost>().is_some();
        let request = request.into_inner();
        self.apply(Rpc::Hello, &request)?;
        if !request.task_id.is_empty()
            && !matches!(
                self.running(Rpc::Hello, "task_id", &request.task_id)?,
                Some(TaskType::Hello(_))
            )
        {
            return self.breach(Rpc::Hello, "task_id", "names a task that is not a hello");
        }
        let name = request
            .connector_metadata
            .as_ref()
            .map_or_else(String::new, |metadata| metadata.display_name.clone());
        let host = request.host_id.clone();
        let moment = self.0.update(|state| {
            let moment = self.0.moment(state);
            state.poll_not_before.remove(&request.host_id);
            if let Some(task) = state.task(&request.task_id) {
                // A Hello whose answer is lost may come again.
                if !is_lost {
                    task.stage = Stage::Finished;
                    task.finished_at = Some(Instant::now());
                }
            }
            let hello = Hello {
                moment,
                user_agent,
                request,
            };
            keep(&mut state.hellos, hello);
            moment
        });
        self.0
            .tell(moment, format!("hello   from {name} on {host}"));
        Ok(Response::new(BatonServiceHelloResponse::default()))
    }

    async fn get_task(
        &self,
        request: Request<BatonServiceGetTaskRequest>,
    ) -> Result<Response<BatonServiceGetTaskResponse>, Status> {
        self.enter(Rpc::GetTask, &request).await?;
        let request = request.into_inner();
        self.apply(Rpc::GetTask, &request)?;
        let tasks = self.poll(Rpc::GetTask, &request.host_id, 1, Vec::new())?;
        let (next_poll, next_heartbeat) = self.durations();
        let idle = self.0.config.idle_none_task.then(|| baton::Task {
            task_type: Some(TaskType::None(baton::task::NoneTask::default())),
            ..Default::default()
        });
        Ok(Response::new(BatonServiceGetTaskResponse {
            task: tasks.into_iter().next().or(idle),
            next_poll,
            next_heartbeat,
            annotations: Vec::new(),
        }))
    }

    async fn get_tasks(
        &self,
        request: Request<BatonServiceGetTasksRequest>,
    ) -> Result<Response<BatonServiceGetTasksResponse>, Status> {
        self.enter(Rpc::GetTasks, &request).await?;
        let request = request.into_inner();
        self.apply(Rpc::GetTasks, &request)?;
        let limit = usize::try_from(request.page_size).unwrap_or(usize::MAX);
        let tasks = self.poll(
            Rpc::GetTasks,
            &request.host_id,
            limit,
            request.known_task_ids,
        )?;
        let (next_poll, next_heartbeat) = self.durations();
        Ok(Response::new(BatonServiceGetTasksResponse {
            tasks,
            next_poll,
            next_heartbeat,
            annotations: Vec::new(),
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<BatonServiceHeartbeatRequest>,
    ) -> Result<Response<BatonServiceHeartbeatResponse>, Status> {
        self.enter(Rpc::Heartbeat, &request).await?;
        let request = request.into_inner();
        self.apply(Rpc::Heartbeat, &request)?;
        drop(self.running(Rpc::Heartbeat, "task_id", &request.task_id)?);
        for id in &request.task_ids {
            drop(self.running(Rpc::Heartbeat, "task_ids", id)?);
        }
        let mut task_ids = vec![request.task_id.clone()];
        task_ids.extend(request.task_ids);
        let lease = self.0.config.lease;
        let (cancelled, cancelled_task_ids) = self.0.update(|state| {
            let moment = self.0.moment(state);
            let mut cancelled = Vec::new();
            for id in &task_ids {
                if let Some(task) = state.task(id) {
                    task.heartbeats += 1;
                    if let Stage::Leased { until } = &mut task.stage {
                        *until = Instant::now() + lease;
                    }
                    if task.cancelled {
                        cancelled.push(id.clone());
                    }
                }
            }
            let first = cancelled.contains(&request.task_id);
            let heartbeat = Heartbeat {
                moment,
                task_ids,
                cancelled: first,
            };
            keep(&mut state.heartbeats, heartbeat);
            (first, cancelled)
        });
        Ok(Response::new(BatonServiceHeartbeatResponse {
            next_heartbeat: self.durations().1,
            cancelled,
            annotations: Vec::new(),
            cancelled_task_ids,
        }))
    }

    async fn finish_task(
        &self,
        request: Request<BatonServiceFinishTaskRequest>,
    ) -> Result<Response<BatonServiceFinishTaskResponse>, Status> {
        const RPC: Rpc = Rpc::FinishTask;
        self.enter(RPC, &request).await?;
        let shared = &self.0;
        let is_lost = request.extensions().get::<AnswerLost>().is_some();
        let request = request.into_inner();
        self.apply(RPC, &request)?;
        let (found, cut_at) = {
            let mut state = shared.lock();
            (state.task(&request.task_id).cloned(), state.cut_at)
        };
        let Some(task) = found else {
            return self.breach(RPC, "task_id", "names a task that does not exist");
        };
        if task.deliveries == 0 {
            return self.breach(RPC, "task_id", "names a task that was not handed out");
        }
        let is_again = task.finishes >= task.deliveries;
        let repeated = task.lost_answers > 0 || is_again && was_cut_off(task.finished_at, cut_at);
        if is_again && !repeated {
            return self.breach(RPC, "task_id", "names a task that is finished");
        }
        let task_type = task.task.task_type.as_ref();
        self.record(RPC, rules::broken_by_result(&request, &task.task))?;
        let secrets = match shared.keys.reveal(task_type, &request) {
            Ok(secrets) => secrets,
            Err(error) => return self.breach(RPC, "success.response", &format!("{error:#}")),
        };
        if secrets.iter().any(|secret| secret.is_in(&request)) {
            return self.breach(RPC, "", "holds a secret in the clear");
        }
        let finish = Finish {
            moment: shared.update(|state| shared.moment(state)),
            request,
            repeated,
        };
        if matches!(task_type, Some(TaskType::SyncFull(_)))
            && finish.is_success()
            && task.uploads == 0
            && !repeated
        {
            return self.breach(RPC, "success", "of a full sync without a verified upload");
        }
        let text = format!(
            "finish  {} {} {}",
            kind(&task.task),
            task.task.id,
            if finish.is_success() {
                "success".to_owned()
            } else {
                format!("error {}: {}", finish.code(), finish.message())
            }
        );
        let moment = finish.moment;
        let lost = shared.update(|state| {
            let lost = state.faults.lose_finish_answers > 0;
            state.faults.lose_finish_answers -= u32::from(lost);
            if let Some(task) = state.task(&task.task.id) {
                task.stage = Stage::Finished;
                task.finished_at = Some(Instant::now());
                task.finishes += u32::from(!repeated);
                task.lost_answers = task.lost_answers.saturating_sub(u32::from(repeated));
                task.lost_answers += u32::from(lost || is_lost);
            }
            keep(&mut state.finishes, finish);
            lost
        });
        shared.tell(moment, text);
        for secret in &secrets {
            let Revealed { name, key, .. } = secret;
            let shown = secret.masked();
            shared.tell(
                moment,
                format!(
                    "secret  {name} of {} opened with the key {key:?}: {shown}",
                    task.task.id
                ),
            );
        }
        if lost {
            return Err(Status::unavailable(
                "the simulator was told to lose this answer",
            ));
        }
        Ok(Response::new(BatonServiceFinishTaskResponse::default()))
    }

    async fn upload_asset(
        &self,
        request: Request<Streaming<BatonServiceUploadAssetRequest>>,
    ) -> Result<Response<BatonServiceUploadAssetResponse>, Status> {
        self.enter(Rpc::UploadAsset, &request).await?;
        self.receive(request).await?;
        Ok(Response::new(BatonServiceUploadAssetResponse::default()))
    }

    async fn start_debugging(
        &self,
        request: Request<StartDebuggingRequest>,
    ) -> Result<Response<StartDebuggingResponse>, Status> {
        self.enter(Rpc::StartDebugging, &request).await?;
        self.breach(Rpc::StartDebugging, "", "is never called by a connector")
    }
}

fn user_agent<T>(request: &Request<T>) -> String {
    request
        .metadata()
        .get("user-agent")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned()
}
