//! Provisioning from end to end: a task goes in at the simulated ConductorOne, the real daemon works on it, and both the
//! state of the simulated JumpCloud and the whole message that ends the task are compared with what they must be.
//!
//! Tasks name the objects of a file that the daemon itself made, as those of ConductorOne do. Every run has simulators
//! and a daemon of its own; the organisation is the same in all of them, because its shape is.

use std::{collections::BTreeSet, sync::Arc};

use baton_jumpcloud::{
    error::Code,
    proto::{
        self, Any,
        baton::{
            self, BatonServiceFinishTaskRequest,
            baton_service_finish_task_request::{FinalState, Success},
            task::{SyncFullTask, TaskType},
        },
        connector as v2,
    },
    sim::{
        conductorone::{self, ConductorOneSim, Finish, Synced, full_sync, tasks},
        jumpcloud::{Id, JumpCloudSim, Shape, Tenant},
    },
    state_folder,
};
use prost::{Message as _, Name};
use secrecy::ExposeSecret as _;
use tokio::sync::OnceCell;

use crate::daemon::{Daemon, Launch, Scene};

mod order;
mod rows;
mod shell;
mod variants;

pub use rows::{HELP_DESK_ID, account, administers, grant_role, granted};

/// The organisation of every run.
pub fn shape() -> Shape {
    Shape {
        users: 60,
        groups: 12,
        members_per_group: 8,
        apps: 3,
        groups_per_app: 2,
        users_per_app: 3,
        admins: 6,
        ..Shape::default()
    }
}

/// Who and what the runs are about; the same in all of them.
#[derive(Debug, Clone, Copy)]
pub struct Cast {
    /// A static group.
    pub crew: Id,
    /// One of its members, active and no administrator.
    pub member: Id,
    /// Active, no administrator, neither in the crew nor with access to the application.
    pub outsider: Id,
    /// Another one of these.
    pub bystander: Id,
    /// A group with members whose rule alone decides.
    pub ruled: Id,
    /// One of its members.
    pub ruled_member: Id,
    /// An application.
    pub app: Id,
    /// A user who is bound to it.
    pub app_user: Id,
    /// A group that is bound to it.
    pub app_group: Id,
    /// A static group that is not.
    pub free_group: Id,
    /// A user whose access comes through a group alone.
    pub heir: Id,
    /// In the order of their making.
    pub administrators: [Id; 6],
}

impl Cast {
    fn of(directory: &JumpCloudSim) -> Self {
        let truth = directory.truth();
        let groups = directory.inspect(Tenant::group_ids).unwrap();
        let users = directory.inspect(Tenant::user_ids).unwrap();
        let crew = groups[0];
        let app = directory.inspect(Tenant::app_ids).unwrap()[0];
        let access = &truth.apps[&app];
        let administrators: BTreeSet<Id> =
            truth.admins.values().filter_map(|row| row.user).collect();
        let plain =
            |user: &Id| truth.users[user].status == "active" && !administrators.contains(user);
        let is_static =
            |group: &Id| directory.group(*group).unwrap()["membershipMethod"] == "STATIC";
        assert!(is_static(&crew), "the first group is a static one");
        let mut outsiders = users.iter().filter(|user| {
            plain(user)
                && !truth.groups[&crew].members.contains(user)
                && !access.effective.contains(user)
        });
        let ruled = *groups
            .iter()
            .find(|group| truth.groups[group].dynamic)
            .unwrap();
        Self {
            crew,
            member: *truth.groups[&crew]
                .members
                .iter()
                .find(|user| plain(user))
                .unwrap(),
            outsider: *outsiders.next().unwrap(),
            bystander: *outsiders.next().unwrap(),
            ruled,
            ruled_member: *truth.groups[&ruled].members.first().unwrap(),
            app,
            app_user: *access.users.iter().find(|user| plain(user)).unwrap(),
            app_group: *access.groups.first().unwrap(),
            free_group: *groups
                .iter()
                .find(|group| is_static(group) && !access.groups.contains(group))
                .unwrap(),
            administrators: directory
                .inspect(Tenant::admin_ids)
                .unwrap()
                .try_into()
                .unwrap(),
            heir: *access
                .effective
                .difference(&access.users)
                .find(|user| plain(user))
                .unwrap(),
        }
    }
}

/// Both simulators, what ConductorOne knows of the directory, and who is who in it.
pub struct World {
    pub scene: Scene,
    pub synced: Arc<Synced>,
    pub cast: Cast,
}

impl World {
    pub async fn start() -> Self {
        Self::of(conductorone::Config::default()).await
    }

    pub async fn of(config: conductorone::Config) -> Self {
        static SYNCED: OnceCell<Arc<Synced>> = OnceCell::const_new();
        let synced = SYNCED.get_or_init(sync_once).await;
        let scene = Scene::of(quick(config), shape()).await;
        let cast = Cast::of(&scene.directory);
        Self {
            scene,
            synced: Arc::clone(synced),
            cast,
        }
    }

    pub fn cloud(&self) -> &ConductorOneSim {
        &self.scene.cloud
    }

    pub fn directory(&self) -> &JumpCloudSim {
        &self.scene.directory
    }

    /// A daemon that may change things.
    pub fn provisioning(&self) -> Launch {
        self.scene
            .service()
            .switch("provisioning")
            .flag("audit-log", self.audit_log())
    }

    pub fn audit_log(&self) -> std::path::PathBuf {
        self.scene.path("audit.jsonl")
    }

    /// The lines of the audit file so far.
    pub fn audited(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.audit_log()).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// How many successes the audit file has for a task.
    pub fn audited_successes(&self, task: &str) -> usize {
        let lines = self.audited();
        let of_task = lines.iter().filter(|line| line["task_id"] == task);
        of_task.filter(|line| line["result"] == "success").count()
    }

    pub fn entitlement(&self, kind: &str, id: Id) -> v2::Entitlement {
        self.synced.entitlement(&format!("{kind}:{id}")).unwrap()
    }

    pub fn resource(&self, kind: &str, id: Id) -> v2::Resource {
        self.synced.resource(kind, &id.to_string()).unwrap()
    }

    /// The task that grants the entitlement of a resource.
    pub fn grant(&self, on: (&str, Id), whom: (&str, Id)) -> baton::Task {
        tasks::grant(self.entitlement(on.0, on.1), self.resource(whom.0, whom.1))
    }

    /// The task that revokes the grant of it, as the file lists it.
    pub fn revoke(&self, on: (&str, Id), whom: (&str, Id)) -> baton::Task {
        let whom = tasks::resource_id(whom.0, &whom.1.to_string());
        let entitlement = format!("{}:{}", on.0, on.1);
        tasks::revoke(self.synced.grant(&entitlement, &whom).unwrap())
    }

    pub fn set_member(&self, group: Id, user: Id, is_member: bool) {
        let mut members = self.directory().truth().groups[&group].members.clone();
        if is_member {
            members.insert(user);
        } else {
            members.remove(&user);
        }
        let members: Vec<Id> = members.into_iter().collect();
        self.directory()
            .edit(|tenant| tenant.set_members(group, &members))
            .unwrap()
            .unwrap();
    }

    pub fn set_access(&self, app: Id, whom: (&str, Id), has_access: bool) {
        let truth = self.directory().truth();
        let (mut groups, mut users) = (
            truth.apps[&app].groups.clone(),
            truth.apps[&app].users.clone(),
        );
        let ends = if whom.0 == "group" {
            &mut groups
        } else {
            &mut users
        };
        if has_access {
            ends.insert(whom.1);
        } else {
            ends.remove(&whom.1);
        }
        let list = |ids: BTreeSet<Id>| ids.into_iter().collect::<Vec<Id>>();
        self.directory()
            .edit(|tenant| tenant.set_app_bindings(app, &list(groups), &list(users)))
            .unwrap()
            .unwrap();
    }

    /// Syncs, and opens the file.
    pub async fn sync(&self) -> Synced {
        let task = self.scene.enqueue_sync();
        let finish = self.scene.finish(&task).await;
        assert!(finish.is_success(), "{}", finish.message());
        self.cloud().synced().unwrap()
    }

    /// Asserts that no rule was broken, ends the daemon, and searches what it said and wrote for these texts too.
    pub async fn end(self, daemon: Daemon, secrets: &[String]) {
        daemon.signal(rustix::process::Signal::TERM);
        let exit = daemon.ended_leaving().await.expect(0);
        self.cloud().assert_clean();
        let audit = std::fs::read_to_string(self.audit_log()).unwrap_or_default();
        let mut texts = vec![exit.stdout, exit.stderr, audit];
        let mut folders = vec![
            self.scene.work_dir(),
            self.scene.work_dir().join(state_folder::NAME),
            self.scene.path("tmp"),
        ];
        folders.retain(|folder| folder.exists());
        while let Some(folder) = folders.pop() {
            for path in crate::daemon::entries(&folder) {
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let bytes = std::fs::read(&path).unwrap();
                    texts.push(String::from_utf8_lossy(&bytes).into_owned());
                }
            }
        }
        for secret in secrets {
            let shown = texts.iter().any(|text| text.contains(secret.as_str()));
            assert!(
                !shown,
                "a password is in the output or in a file of the daemon"
            );
        }
    }
}

/// Tasks come at once.
pub fn quick(config: conductorone::Config) -> conductorone::Config {
    conductorone::Config {
        next_poll: Some(std::time::Duration::from_millis(20)),
        ..config
    }
}

/// The file of the organisation as every run finds it.
async fn sync_once() -> Arc<Synced> {
    let scene = Scene::of(quick(conductorone::Config::default()), shape()).await;
    let daemon = scene.serving(scene.service()).await;
    let task = scene.cloud.enqueue(full_sync(SyncFullTask::default()));
    let finish = scene.finish(&task).await;
    assert!(finish.is_success(), "{}", finish.message());
    let synced = scene.cloud.synced().unwrap();
    daemon.terminate().await;
    scene.cloud.assert_clean();
    Arc::new(synced)
}

/// How a task must end.
#[derive(Debug, Clone)]
pub enum Want {
    /// With this response and these annotations; secrets are left out of the comparison, and so are the ids of runs of
    /// actions.
    Success(Any, Vec<Any>),
    /// With this code, and a message that holds all of these.
    Failed {
        code: Code,
        is_final: bool,
        words: Vec<String>,
    },
}

impl Want {
    pub fn failed<const N: usize>(code: Code, words: [&dyn std::fmt::Display; N]) -> Self {
        Self::Failed {
            code,
            is_final: true,
            words: words.iter().map(|word| word.to_string()).collect(),
        }
    }

    /// As a failure of an action, which may be tried again.
    pub fn passing(self) -> Self {
        match self {
            Self::Failed { code, words, .. } => Self::Failed {
                code,
                is_final: false,
                words,
            },
            success @ Self::Success(..) => success,
        }
    }

    /// Compares every field of the message.
    #[track_caller]
    pub fn check(&self, name: &str, finish: &Finish) {
        let request = comparable(&finish.request);
        match self {
            Self::Success(response, annotations) => {
                let wanted = BatonServiceFinishTaskRequest {
                    host_id: request.host_id.clone(),
                    task_id: request.task_id.clone(),
                    status: None,
                    final_state: Some(FinalState::Success(Success {
                        annotations: annotations.clone(),
                        response: Some(response.clone()),
                    })),
                };
                assert!(
                    finish.is_success(),
                    "{name}: {} {}",
                    finish.code(),
                    finish.message()
                );
                assert!(
                    request == wanted,
                    "{name}:\n{}\nis not\n{}",
                    readable(&request),
                    readable(&wanted)
                );
            }
            Self::Failed {
                code,
                is_final,
                words,
            } => {
                let Some(FinalState::Error(error)) = &request.final_state else {
                    panic!("{name}: the task succeeded");
                };
                let status = request.status.as_ref().unwrap();
                assert_eq!(status.code, code.number(), "{name}: {}", status.message);
                assert_eq!(status.details, [], "{name}");
                assert_eq!(error.response, None, "{name}");
                assert_eq!(error.annotations, [], "{name}");
                assert_eq!(error.non_retryable, *is_final, "{name}: {}", status.message);
                for word in words {
                    assert!(
                        status.message.contains(word.as_str()),
                        "{name}: {word:?} is not in {:?}",
                        status.message
                    );
                }
            }
        }
    }
}

/// The message without what is new in every run: sealed secrets, ids of runs and of jobs. Of resources only the id is
/// left, because the whole is compared with what a sync lists.
fn comparable(request: &BatonServiceFinishTaskRequest) -> BatonServiceFinishTaskRequest {
    use v2::create_account_response::Result as Made;

    let id_alone = |resource: &mut Option<v2::Resource>| {
        *resource = Some(v2::Resource {
            id: resource.take().and_then(|resource| resource.id),
            ..Default::default()
        });
    };
    let mut request = request.clone();
    if let Some(FinalState::Success(success)) = &mut request.final_state
        && let Some(any) = &mut success.response
    {
        edit::<v2::CreateAccountResponse>(any, |message| {
            message.encrypted_data.clear();
            match message.result.as_mut().unwrap() {
                Made::Success(made) => id_alone(&mut made.resource),
                Made::ActionRequired(made) => id_alone(&mut made.resource),
                Made::AlreadyExists(made) => id_alone(&mut made.resource),
                Made::InProgress(made) => id_alone(&mut made.resource),
            }
        });
        edit::<v2::CreateResourceResponse>(any, |message| id_alone(&mut message.created));
        edit::<v2::RotateCredentialResponse>(any, |message| message.encrypted_data.clear());
        edit::<v2::InvokeActionResponse>(any, |message| {
            assert!(!message.id.is_empty());
            message.id.clear();
            let fields = message
                .response
                .as_mut()
                .map(|response| &mut response.fields);
            if let Some(job) = fields.and_then(|fields| fields.get_mut("scheduled_job_id")) {
                assert_ne!(*job, proto::string_value(""));
                *job = proto::string_value("job");
            }
        });
    }
    request
}

/// The response of a success.
#[track_caller]
pub fn response(finish: &Finish) -> &Any {
    let Some(FinalState::Success(success)) = &finish.request.final_state else {
        panic!("the task failed");
    };
    success.response.as_ref().unwrap()
}

/// Whether the response says that an account was made.
pub fn is_new_account(response: &Any) -> bool {
    use v2::create_account_response::Result as Made;
    let response = v2::CreateAccountResponse::decode(response.value.as_slice()).unwrap();
    matches!(response.result, Some(Made::Success(_)))
}

fn edit<M: Name + Default>(any: &mut Any, change: impl FnOnce(&mut M)) {
    if proto::is::<M>(any) {
        let mut message = M::decode(any.value.as_slice()).unwrap();
        change(&mut message);
        any.value = message.encode_to_vec();
    }
}

fn readable(request: &BatonServiceFinishTaskRequest) -> String {
    let Some(FinalState::Success(success)) = &request.final_state else {
        return format!("{request:#?}");
    };
    let any = success.response.clone().unwrap_or_default();
    let bytes = any.value.as_slice();
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    macro_rules! shown {
        ($($type:ty),+) => {
            $(if name == <$type as Name>::full_name() {
                return format!("{:#?}\n{:?}", <$type>::decode(bytes), success.annotations);
            })+
        };
    }
    shown!(
        v2::GrantManagerServiceGrantResponse,
        v2::GrantManagerServiceRevokeResponse,
        v2::CreateAccountResponse,
        v2::CreateResourceResponse,
        v2::DeleteResourceResponse,
        v2::RotateCredentialResponse,
        v2::InvokeActionResponse
    );
    format!("{request:#?}")
}

/// The texts of the secrets of a finished task, one a secret: all its copies must be equal.
pub fn secrets_of(cloud: &ConductorOneSim, task: &str) -> Vec<String> {
    let mut secrets: Vec<String> = Vec::new();
    for revealed in cloud.reveal(task).unwrap() {
        assert_eq!(revealed.name, "password");
        let text = revealed.secret.expose_secret().to_owned();
        if !secrets.contains(&text) {
            secrets.push(text);
        }
    }
    secrets
}

/// After a success, a sync must list what the task was answered with, and must not list what is gone.
#[track_caller]
pub fn assert_listed(task: &baton::Task, finish: &Finish, synced: &Synced) {
    let bytes = response(finish).value.as_slice();
    match task.task_type.as_ref().unwrap() {
        TaskType::Grant(_) => {
            let response = v2::GrantManagerServiceGrantResponse::decode(bytes).unwrap();
            assert!(!response.grants.is_empty());
            for grant in response.grants {
                let entitlement = &grant.entitlement.as_ref().unwrap().id;
                let whom = grant.principal.as_ref().unwrap().id.clone().unwrap();
                let listed = synced.grant(entitlement, &whom).unwrap();
                assert_eq!(listed.id, grant.id);
                // What makes a grant expandable is not kept beside the other annotations of a file.
                let mut annotations = grant.annotations;
                annotations.retain(|any| !proto::is::<v2::GrantExpandable>(any));
                assert_eq!(listed.annotations, annotations);
            }
        }
        TaskType::Revoke(task) => {
            let grant = task.grant.as_ref().unwrap();
            let entitlement = &grant.entitlement.as_ref().unwrap().id;
            let whom = grant.principal.as_ref().unwrap().id.as_ref().unwrap();
            assert!(synced.grant(entitlement, whom).is_err());
        }
        TaskType::CreateAccount(_) => {
            use v2::create_account_response::Result as Made;
            let response = v2::CreateAccountResponse::decode(bytes).unwrap();
            let Some(Made::Success(made)) = response.result else {
                panic!("the account is not new");
            };
            assert_resource(&made.resource.unwrap(), synced);
        }
        TaskType::CreateResource(_) => {
            let response = v2::CreateResourceResponse::decode(bytes).unwrap();
            assert_resource(&response.created.unwrap(), synced);
        }
        TaskType::DeleteResource(task) => {
            let id = task.resource_id.as_ref().unwrap();
            assert!(synced.resource(&id.resource_type, &id.resource).is_err());
        }
        _ => {}
    }
}

#[track_caller]
fn assert_resource(resource: &v2::Resource, synced: &Synced) {
    let id = resource.id.as_ref().unwrap();
    let listed = synced.resource(&id.resource_type, &id.resource).unwrap();
    assert_eq!(listed, *resource);
}
