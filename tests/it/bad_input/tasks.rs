//! Tasks that make no sense: every one that can be reported is reported, and the loop goes on.

use std::{sync::Arc, time::Duration};

use crate::dispatch::fakes::provisioning;
use baton_jumpcloud::config::ProvisioningMode;
use baton_jumpcloud::{
    admin::health::Health,
    clock::SystemClock,
    connector::{
        Connector,
        jumpcloud::{
            self, JumpCloud,
            client::{Auth, Client},
        },
    },
    control_plane::{self, GrpcControlPlane, credentials::Credentials},
    dispatch,
    error::Code,
    handlers::{self, Registry, full_sync},
    proto::{
        ProtoDuration,
        baton::{
            self,
            task::{self, SyncFullTask, TaskType},
        },
        connector as v2,
    },
    sim::{
        conductorone::{self, ConductorOneSim},
        jumpcloud::{self as directory, JumpCloudSim, Shape},
    },
    telemetry::metrics::Metrics,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::MARKER;

const PATIENCE: Duration = Duration::from_secs(30);

/// A whole daemon between two simulators.
struct Stage {
    one: ConductorOneSim,
    /// Answers for as long as it is held.
    _directory: JumpCloudSim,
    registry: Arc<Registry>,
    plane: Arc<GrpcControlPlane>,
    work: TempDir,
}

impl Stage {
    async fn start() -> Self {
        let directory = JumpCloudSim::start(directory::Config::of(Shape {
            users: 10,
            groups: 3,
            members_per_group: 2,
            apps: 2,
            admins: 2,
            ..Shape::default()
        }))
        .await
        .unwrap();
        let one = ConductorOneSim::start(conductorone::Config {
            require_heartbeat: false,
            next_poll: Some(Duration::from_millis(1)),
            ..conductorone::Config::default()
        })
        .await
        .unwrap();
        let work = TempDir::new().unwrap();
        let url: url::Url = directory.base_url.parse().unwrap();
        let client = Client::try_new(jumpcloud::client::Settings {
            console_url: url.clone(),
            insights_url: url,
            auth: Auth::ApiKey(directory::FULL_KEY.into()),
            org_id: None,
            timeout: PATIENCE,
            extra_ca_pem: None,
            max_concurrency: 4,
            rotation_wait: Duration::ZERO,
        })
        .unwrap();
        let connector = Arc::new(JumpCloud::new(
            client,
            jumpcloud::Settings {
                merge_administrators: false,
                work_dir: work.path().to_owned(),
                optional: Vec::new(),
                allowed: jumpcloud::Allowed::default(),
            },
        ));
        let provisioning = provisioning(&connector, ProvisioningMode::Off, work.path());
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
        let plane = GrpcControlPlane::try_new(control_plane::Settings {
            credentials: Credentials::parse(one.client_id(), &one.client_secret_text().into())
                .unwrap(),
            api_host: None,
            host_id: "bad-input".to_owned(),
            version: "0.0.0".to_owned(),
            extra_ca_pem: Some(one.ca_pem().as_bytes().to_vec()),
            proxy: control_plane::channel::ProxyRules::default(),
            timeouts: control_plane::Timeouts::default(),
            clock: Arc::new(SystemClock),
            metrics: Metrics::default(),
        })
        .unwrap();
        Self {
            one,
            _directory: directory,
            registry: Arc::new(registry),
            plane: Arc::new(plane),
            work,
        }
    }

    async fn serve(&self, metrics: &Metrics, stop: &CancellationToken) {
        dispatch::run(
            dispatch::Settings {
                concurrency: 4,
                ..dispatch::Settings::default()
            },
            Arc::clone(&self.plane) as _,
            Arc::clone(&self.registry),
            Arc::new(Health::new()),
            metrics.clone(),
            stop.clone(),
        )
        .await
        .unwrap();
    }
}

struct Case {
    name: &'static str,
    task: baton::Task,
    code: Code,
    says: &'static [&'static str],
}

fn of(task_type: TaskType) -> baton::Task {
    baton::Task {
        task_type: Some(task_type),
        ..baton::Task::default()
    }
}

fn sync(
    name: &'static str,
    options: SyncFullTask,
    code: Code,
    says: &'static [&'static str],
) -> Case {
    Case {
        name,
        task: conductorone::full_sync(options),
        code,
        says,
    }
}

fn engine(name: &str) -> SyncFullTask {
    SyncFullTask {
        storage_engine: name.to_owned(),
        ..SyncFullTask::default()
    }
}

fn types(ids: &[&str]) -> SyncFullTask {
    SyncFullTask {
        sync_resource_type_ids: ids.iter().map(|&id| id.to_owned()).collect(),
        ..SyncFullTask::default()
    }
}

fn id(resource_type: &str, resource: &str) -> v2::ResourceId {
    v2::ResourceId {
        resource_type: resource_type.to_owned(),
        resource: resource.to_owned(),
        ..v2::ResourceId::default()
    }
}

fn targets(ids: impl IntoIterator<Item = Option<v2::ResourceId>>) -> SyncFullTask {
    SyncFullTask {
        targeted_sync_resources: ids
            .into_iter()
            .map(|id| v2::Resource {
                id,
                ..v2::Resource::default()
            })
            .collect(),
        ..SyncFullTask::default()
    }
}

fn syncs() -> Vec<Case> {
    use Code::InvalidArgument;
    let huge = "x".repeat(1_000_000);
    let child = v2::Resource {
        id: Some(id("user", "1")),
        parent_resource_id: Some(id("", "SECRETSEED")),
        ..v2::Resource::default()
    };
    let mut sync_of_child = SyncFullTask::default();
    sync_of_child.targeted_sync_resources.push(child);
    vec![
        sync(
            "an unknown engine",
            engine("rocks"),
            InvalidArgument,
            &["storage_engine", "\"rocks\"", "sqlite"],
        ),
        sync(
            "an engine in capitals",
            engine("SQLITE"),
            InvalidArgument,
            &["storage_engine"],
        ),
        sync(
            "an engine with control characters",
            engine("sq\nlite\0"),
            InvalidArgument,
            &["storage_engine", "\\n", "\\0"],
        ),
        sync(
            "an engine of one megabyte",
            engine(&huge),
            InvalidArgument,
            &["storage_engine", "…"],
        ),
        sync(
            "an unknown type",
            types(&["group", "starship"]),
            InvalidArgument,
            &["invalid resource type 'starship' in filter", "group"],
        ),
        sync(
            "a type in capitals",
            types(&["User"]),
            InvalidArgument,
            &["invalid resource type 'User'"],
        ),
        sync(
            "an empty type",
            types(&["user", ""]),
            InvalidArgument,
            &["sync_resource_type_ids[1] is empty"],
        ),
        sync(
            "a type of one megabyte",
            types(&[&huge]),
            InvalidArgument,
            &["sync_resource_type_ids[0]", "1000000 bytes"],
        ),
        sync(
            "a type with a NUL",
            types(&["user\0"]),
            InvalidArgument,
            &["invalid resource type"],
        ),
        sync(
            "a target without id",
            targets([None]),
            InvalidArgument,
            &["targeted_sync_resources[0].id is empty"],
        ),
        sync(
            "a target without id beside a good one",
            targets([Some(id("group", "1")), None]),
            InvalidArgument,
            &["targeted_sync_resources[1].id"],
        ),
        sync(
            "a target with an empty id",
            targets([Some(id("", ""))]),
            InvalidArgument,
            &["targeted_sync_resources[0].id.resource_type is empty"],
        ),
        sync(
            "a target without resource",
            targets([Some(id("user", ""))]),
            InvalidArgument,
            &["targeted_sync_resources[0].id.resource is empty"],
        ),
        sync(
            "a target with an empty parent",
            sync_of_child,
            InvalidArgument,
            &["targeted_sync_resources[0].parent_resource_id.resource_type"],
        ),
        sync(
            "a target of one megabyte",
            targets([Some(id("user", &huge))]),
            InvalidArgument,
            &["targeted_sync_resources[0].id.resource", "1000000 bytes"],
        ),
        sync(
            "a target of a type of one megabyte",
            targets([Some(id(&huge, "1"))]),
            InvalidArgument,
            &["targeted_sync_resources[0].id.resource_type"],
        ),
        sync(
            "a target with control characters",
            targets([Some(id("user", "a\0b"))]),
            InvalidArgument,
            &["id of a resource of type user", "control characters"],
        ),
        sync(
            "a target with a space",
            targets([Some(id("group", " 1"))]),
            InvalidArgument,
            &["id of a resource of type group", "spaces"],
        ),
        sync(
            "a target that would change the path",
            targets([Some(id("group", ".."))]),
            InvalidArgument,
            &["/api/v2/usergroups/{id}", "would change the path"],
        ),
        sync(
            "a target longer than JumpCloud's ids",
            targets([Some(id("app", &"x".repeat(300)))]),
            InvalidArgument,
            &["id of a resource of type app", "300 bytes"],
        ),
    ]
}

fn other_kinds() -> Vec<Case> {
    use Code::{FailedPrecondition, InvalidArgument, NotFound, Unimplemented};
    let case = |name, task_type, code, says| Case {
        name,
        task: of(task_type),
        code,
        says,
    };
    let huge = || "x".repeat(1_000_000);
    vec![
        Case {
            name: "no type at all",
            task: baton::Task::default(),
            code: Unimplemented,
            says: &["no type"],
        },
        Case {
            name: "no type, and a status that is none",
            task: baton::Task {
                status: -7,
                ..baton::Task::default()
            },
            code: Unimplemented,
            says: &["no type"],
        },
        case(
            "an action without name",
            TaskType::ActionGetSchema(task::ActionGetSchemaTask::default()),
            InvalidArgument,
            &["get_action_schema", "field name is empty"],
        ),
        case(
            "an action of one megabyte",
            TaskType::ActionGetSchema(task::ActionGetSchemaTask {
                name: huge(),
                ..Default::default()
            }),
            NotFound,
            &["action schema", "…"],
        ),
        case(
            "the state of nothing",
            TaskType::ActionStatus(task::ActionStatusTask::default()),
            InvalidArgument,
            &["action_status", "field id is empty"],
        ),
        case(
            "the state of control characters",
            TaskType::ActionStatus(task::ActionStatusTask {
                id: "a\0\n".to_owned(),
                ..Default::default()
            }),
            NotFound,
            &["\\0\\n"],
        ),
        case(
            "an action that is not there",
            TaskType::ActionInvoke(task::ActionInvokeTask::default()),
            InvalidArgument,
            &["field name is empty"],
        ),
        case(
            "events of one megabyte",
            TaskType::ListEvents(task::ListEventsTask {
                event_feed_id: huge(),
                ..Default::default()
            }),
            NotFound,
            &["event feed", "…"],
        ),
        case(
            "events of nothing",
            TaskType::ListEvents(task::ListEventsTask {
                page_size: u32::MAX,
                cursor: "SECRETSEED".to_owned(),
                ..Default::default()
            }),
            NotFound,
            &["event feed"],
        ),
        case(
            "a feed in service mode",
            TaskType::EventFeed(task::EventFeedTask::default()),
            Unimplemented,
            &["event_feed"],
        ),
        case(
            "an empty grant",
            TaskType::Grant(task::GrantTask::default()),
            FailedPrecondition,
            &["provisioning is not enabled"],
        ),
        case(
            "a grant for less than no time",
            TaskType::Grant(task::GrantTask {
                duration: Some(ProtoDuration {
                    seconds: -5,
                    nanos: 7,
                }),
                ..Default::default()
            }),
            FailedPrecondition,
            &["provisioning"],
        ),
        case(
            "an empty revocation",
            TaskType::Revoke(task::RevokeTask::default()),
            FailedPrecondition,
            &["provisioning"],
        ),
        case(
            "an account of nobody",
            TaskType::CreateAccount(task::CreateAccountTask::default()),
            FailedPrecondition,
            &["provisioning"],
        ),
        case(
            "a resource without type",
            TaskType::CreateResource(task::CreateResourceTask::default()),
            FailedPrecondition,
            &["provisioning"],
        ),
        case(
            "the deletion of nothing",
            TaskType::DeleteResource(task::DeleteResourceTask::default()),
            FailedPrecondition,
            &["provisioning"],
        ),
        case(
            "the rotation of nothing",
            TaskType::RotateCredentials(task::RotateCredentialsTask::default()),
            FailedPrecondition,
            &["provisioning"],
        ),
        case(
            "a ticket without schema",
            TaskType::CreateTicketTask(task::CreateTicketTask::default()),
            Unimplemented,
            &["tickets"],
        ),
        case(
            "no tickets at once",
            TaskType::BulkCreateTickets(task::BulkCreateTicketsTask::default()),
            Unimplemented,
            &["ticket"],
        ),
        case(
            "the difference of nothing",
            TaskType::CreateSyncDiff(task::CreateSyncDiffTask::default()),
            Unimplemented,
            &["create_sync_diff"],
        ),
        case(
            "nothing to compact",
            TaskType::CompactSyncs(task::CompactSyncs::default()),
            Unimplemented,
            &["compact_syncs"],
        ),
    ]
}

#[tokio::test]
async fn every_malformed_task_ends_in_an_error_that_names_the_field() {
    let (subscriber, _control, captured) = super::debug_log();
    let _guard = crate::captured::listen(subscriber);
    let stage = Stage::start().await;
    let metrics = Metrics::new();
    let stop = CancellationToken::new();
    let mut wrong = Vec::new();

    let story = async {
        // Nothing can be reported about these.
        let bad_ids = [
            "x",
            "short-id",
            "SECRETSEED/../0123456789012",
            "ünïcödé-0123456789012345",
        ];
        for bad in bad_ids {
            let mut task = conductorone::full_sync(SyncFullTask::default());
            task.id = bad.to_owned();
            stage.one.enqueue(task);
        }
        let mut asked = Vec::new();
        for case in syncs().into_iter().chain(other_kinds()) {
            asked.push((stage.one.enqueue(case.task.clone()), case));
        }
        for (id, case) in &asked {
            let finish = stage.one.wait_for_finish(id, PATIENCE).await.unwrap();
            let status = finish.request.status.clone().unwrap_or_default();
            let shown = format!("{:?}", finish.request);
            if finish.is_success() || status.code != case.code.number() {
                wrong.push(format!("{}: ends as {shown}", case.name));
            }
            if shown.contains(MARKER) || shown.len() > 4000 {
                wrong.push(format!("{}: says too much", case.name));
            }
            for part in case.says {
                if !status.message.contains(part) {
                    wrong.push(format!(
                        "{}: does not say {part:?}: {}",
                        case.name, status.message
                    ));
                }
            }
        }
        // The loop is as good as before.
        let last = stage
            .one
            .enqueue(conductorone::full_sync(SyncFullTask::default()));
        assert!(
            stage
                .one
                .wait_for_finish(&last, PATIENCE)
                .await
                .unwrap()
                .is_success()
        );
        assert_eq!(
            metrics.sum(
                "baton_jumpcloud_tasks_skipped_total",
                &["reason=\"malformed_id\""]
            ),
            u64::try_from(bad_ids.len()).unwrap()
        );
        asked.len()
    };
    let asked = tokio::select! {
        asked = story => asked,
        () = stage.serve(&metrics, &stop) => panic!("the daemon ended"),
    };
    assert!(asked >= 40, "only {asked} tasks");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let finished = "baton_jumpcloud_tasks_finished_total";
    assert_eq!(metrics.sum(finished, &["outcome=\"panicked\""]), 0);
    assert!(metrics.sum(finished, &["outcome=\"failed\""]) >= 40);
    let log = captured.text();
    assert!(!log.contains(MARKER), "the log shows a secret");
    assert!(
        log.lines().all(|line| line.len() < 8000),
        "the log has a line without measure"
    );
    stage.one.assert_clean();
    let left = crate::daemon::entries(stage.work.path());
    assert!(left.is_empty(), "{left:?}");
}
