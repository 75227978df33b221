//! The fault matrix: every fault at every boundary, and what must come of it.
//!
//! Each case has both simulators and the whole work of the daemon (dispatcher, handlers, sync, provisioning, both
//! clients) in this process, with short limits. It injects one fault, gives one task, and judges its end; then the
//! daemon, which must live, does one more sync, whose file must hold what the directory holds. A fault that strikes
//! nothing fails its case, and so does a broken rule of the protocol or a secret in the log or in a message.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use baton_jumpcloud::{
    admin::health::Health,
    clock::SystemClock,
    config::{Level, Log, LogFormat, ProvisioningMode},
    connector::{
        Connector,
        jumpcloud::{
            self as connector, Allowed, JumpCloud,
            client::{self, Auth, Client},
        },
    },
    control_plane::{
        self, GrpcControlPlane, Timeouts, channel::ProxyRules, credentials::Credentials,
    },
    dispatch::{self, Signals, Timing},
    error::{Code, chain},
    handlers::{self, Registry, full_sync::LocalOptions},
    http::retry::Policy,
    notice::Notices,
    proto::baton::{Task, task::SyncFullTask},
    provisioning::{self, Provisioning},
    sim::{
        Certificate, Injected, Outage,
        conductorone::{self, ConductorOneSim, Finish, Stage, full_sync, tasks},
        jumpcloud::{
            self, CLIENT_ID, CLIENT_SECRET, FULL_KEY, Id, JumpCloudSim, MembershipMethod, Shape,
            Tenant,
        },
        storm::Storm,
    },
    supervisor::Supervisor,
    telemetry::{self, Captured, metrics::Metrics},
};
use futures_util::{StreamExt as _, stream};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::daemon::{assert_truth, entries};

/// How long anything that must happen may take on a machine with much to do.
const PATIENCE: Duration = Duration::from_mins(2);
/// How many cases run at one time.
const ABREAST: usize = 8;

/// What must come of a case.
#[derive(Debug, Clone)]
enum Must {
    /// The task ends well, and its data is the truth.
    Succeed,
    /// The task ends with this code and a message with these words.
    Fail(Code, Vec<&'static str>),
    /// The daemon ends at its start with these words.
    Refuse(&'static str),
}

use Must::{Fail, Refuse, Succeed};

/// Where a fault comes from.
#[derive(Debug, Clone)]
enum Fault {
    /// A rule at ConductorOne.
    Cloud(String),
    /// A rule at JumpCloud.
    Directory(String),
    /// A storm of these lines.
    Storm(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Sync,
    Grant,
}

#[derive(Debug, Clone)]
struct Case {
    fault: Fault,
    must: Must,
    work: Work,
    /// The fault is there before the daemon starts.
    early: bool,
    /// JumpCloud is asked with tokens instead of a key.
    oauth: bool,
    /// Other credentials are announced while the daemon pauses.
    kick: bool,
    /// How long ConductorOne waits for a sign of life of a task.
    lease: Duration,
}

impl Case {
    fn of(fault: Fault, must: Must) -> Self {
        Self {
            fault,
            must,
            work: Work::Sync,
            early: false,
            oauth: false,
            kick: false,
            lease: Duration::from_mins(5),
        }
    }

    fn cloud(rule: impl Into<String>, must: Must) -> Self {
        Self::of(Fault::Cloud(rule.into()), must)
    }

    fn directory(rule: impl Into<String>, must: Must) -> Self {
        Self::of(Fault::Directory(rule.into()), must)
    }

    fn name(&self) -> String {
        match &self.fault {
            Fault::Cloud(rule) => format!("conductorone {rule}"),
            Fault::Directory(rule) => format!("jumpcloud {rule}"),
            Fault::Storm(lines) => lines.clone(),
        }
    }

    /// The task is given once more after its answer, or its result, was lost.
    fn redone(mut self) -> Self {
        self.lease = Duration::from_secs(2);
        self
    }
}

/// Both simulators and the work of a daemon.
struct Rig {
    cloud: ConductorOneSim,
    directory: JumpCloudSim,
    folder: TempDir,
    shutdown: CancellationToken,
    replaced: watch::Sender<u64>,
    run: JoinSet<Result<(), dispatch::Error>>,
}

fn shape() -> Shape {
    Shape {
        users: 24,
        groups: 4,
        members_per_group: 5,
        apps: 4,
        groups_per_app: 1,
        users_per_app: 3,
        admins: 4,
        ..Shape::default()
    }
}

impl Rig {
    async fn start(case: &Case, tls: bool) -> Self {
        let cloud = ConductorOneSim::start(conductorone::Config {
            lease: case.lease,
            next_heartbeat: Some(Duration::from_millis(200)),
            // A fault of the heartbeats may leave none before an upload.
            require_heartbeat: false,
            ..conductorone::Config::default()
        })
        .await
        .unwrap();
        let directory = JumpCloudSim::start(jumpcloud::Config {
            tls,
            ..jumpcloud::Config::of(shape())
        })
        .await
        .unwrap();
        Self {
            cloud,
            directory,
            folder: tempfile::tempdir().unwrap(),
            shutdown: CancellationToken::new(),
            replaced: watch::Sender::new(0),
            run: JoinSet::new(),
        }
    }

    /// Starts the work.
    async fn serve(&mut self, oauth: bool) {
        let second = Duration::from_secs(1);
        let metrics = Metrics::default();
        let control_plane = GrpcControlPlane::try_new(control_plane::Settings {
            credentials: Credentials::parse(
                self.cloud.client_id(),
                &self.cloud.client_secret().into(),
            )
            .unwrap(),
            api_host: None,
            host_id: "matrix".to_owned(),
            version: "1.2.3".to_owned(),
            extra_ca_pem: Some(self.cloud.ca_pem().into()),
            proxy: ProxyRules::default(),
            timeouts: Timeouts {
                dial: 2 * second,
                handshake: 2 * second,
                token: 2 * second,
                hello: 2 * second,
                poll: 2 * second,
                heartbeat: 4 * second,
                finish: 5 * second,
                upload_idle: 2 * second,
                upload_answer: 4 * second,
                ..Timeouts::default()
            },
            clock: Arc::new(SystemClock),
            metrics: metrics.clone(),
        })
        .unwrap();
        let url: url::Url = self.directory.base_url.parse().unwrap();
        let auth = if oauth {
            Auth::ClientCredentials {
                token_url: self.directory.token_url().parse().unwrap(),
                client_id: CLIENT_ID.to_owned(),
                client_secret: CLIENT_SECRET.into(),
            }
        } else {
            Auth::ApiKey(FULL_KEY.into())
        };
        let client = Client::with_policy(
            client::Settings {
                console_url: url.clone(),
                insights_url: url,
                auth,
                org_id: None,
                timeout: 2 * second,
                extra_ca_pem: self.directory.ca_pem().map(Into::into),
                max_concurrency: 4,
                rotation_wait: Duration::ZERO,
            },
            Policy {
                max_attempts: 6,
                min_delay: Duration::from_millis(30),
                max_delay: Duration::from_millis(400),
                budget: Duration::from_secs(30),
            },
        )
        .unwrap();
        let work_dir = self.folder.path().to_owned();
        let jumpcloud = Arc::new(JumpCloud::new(
            client,
            connector::Settings {
                merge_administrators: false,
                work_dir: work_dir.clone(),
                allowed: Allowed {
                    account_deletion: true,
                    administrator_roles: true,
                },
                optional: Vec::new(),
            },
        ));
        let provisioning = Arc::new(Provisioning::new(
            Arc::clone(&jumpcloud) as _,
            Arc::new(SystemClock),
            Supervisor::new(),
            provisioning::Settings::new(ProvisioningMode::On, work_dir.clone()),
        ));
        provisioning.start().await;
        let jumpcloud: Arc<dyn Connector> = jumpcloud;
        let registry = Registry::new(
            &jumpcloud,
            Arc::new(SystemClock),
            handlers::Settings {
                work_dir,
                provisioning,
                metrics: metrics.clone(),
                sync: LocalOptions {
                    workers: 2,
                    ..LocalOptions::default()
                },
            },
        );
        let settings = dispatch::Settings {
            shutdown_grace: 4 * second,
            shutdown_margin: second,
            timing: Timing {
                call_limit: 8 * second,
                ..Timing::default()
            },
            signals: Signals {
                replaced: self.replaced.subscribe(),
                notices: Notices::new(),
            },
            ..dispatch::Settings::default()
        };
        self.run.spawn(dispatch::run(
            settings,
            Arc::new(control_plane),
            Arc::new(registry),
            Arc::new(Health::new()),
            metrics,
            self.shutdown.clone(),
        ));
    }

    fn sync(&self) -> String {
        self.cloud.enqueue(full_sync(SyncFullTask::default()))
    }

    /// Somebody who is not in a group, and the group.
    fn pair(&self) -> (Id, Id) {
        let truth = self.directory.truth();
        let group = self.directory.inspect(Tenant::group_ids).unwrap()[0];
        self.directory
            .edit(|tenant| tenant.set_membership_method(group, MembershipMethod::Static))
            .unwrap()
            .unwrap();
        let user = truth
            .users
            .iter()
            .find(|(id, user)| {
                user.status == "active" && !truth.groups[&group].members.contains(id)
            })
            .map(|(id, _)| *id)
            .unwrap();
        (group, user)
    }

    /// The task that puts somebody into a group; the objects are those of a sync.
    async fn grant(&self, (group, user): (Id, Id)) -> Result<Task, String> {
        let task = self.sync();
        self.expect_truth(&task).await?;
        let control = self.cloud.control();
        let task = tokio::task::spawn_blocking(move || {
            let synced = control.synced().unwrap();
            tasks::grant(
                synced.entitlement(&format!("group:{group}")).unwrap(),
                synced.resource("user", &user.to_string()).unwrap(),
            )
        });
        Ok(task.await.unwrap())
    }

    async fn finish(&self, task: &str) -> Result<Finish, String> {
        let finish = self.cloud.wait_for_finish(task, PATIENCE).await;
        finish.map_err(|error| format!("{error:#}"))
    }

    async fn expect_truth(&self, task: &str) -> Result<(), String> {
        let finish = self.finish(task).await?;
        if !finish.is_success() {
            return Err(told(&finish));
        }
        let uploads = self.cloud.uploads();
        let upload = uploads.iter().rev().find(|upload| upload.task_id == task);
        let summary = upload
            .and_then(|upload| upload.summary.as_ref())
            .ok_or("there is no upload")?;
        let truth = self.directory.truth();
        std::panic::catch_unwind(AssertUnwindSafe(|| {
            assert_truth(&summary.resources, &summary.grants, &truth);
        }))
        .map_err(|_panic| {
            format!(
                "the file is not the truth: {:?} {:?} instead of {:?}",
                summary.resources,
                summary.grants,
                truth.counts()
            )
        })
    }

    /// Ends the work.
    async fn end(mut self) -> Result<(), String> {
        self.shutdown.cancel();
        let ended = timeout(PATIENCE, self.run.join_next()).await;
        match ended.map_err(|_elapsed| "the daemon does not end")? {
            Some(Ok(Ok(()))) => {}
            other => return Err(format!("the daemon ended badly: {other:?}")),
        }
        // What outlives a sync on purpose lies in folders of its own.
        let files: Vec<_> = entries(self.folder.path())
            .into_iter()
            .filter(|path| path.is_file() && path.extension().is_some_and(|it| it == "c1z"))
            .collect();
        if !files.is_empty() {
            return Err(format!("left: {files:?}"));
        }
        self.clean()
    }

    fn clean(&self) -> Result<(), String> {
        match self.cloud.breaches().first() {
            Some(breach) => Err(format!("a rule was broken: {breach}")),
            None => Ok(()),
        }
    }
}

fn told(finish: &Finish) -> String {
    format!(
        "the task ended with {} {:?}{}",
        Code::from_number(finish.code()),
        finish.message(),
        if finish.is_non_retryable() {
            " for good"
        } else {
            ""
        }
    )
}

enum Hits {
    Injected(Injected),
    Storm(u64),
}

async fn run(case: &Case) -> Result<(), String> {
    let mut rig = Rig::start(case, false).await;
    let inject = |rig: &Rig| match &case.fault {
        Fault::Cloud(rule) => Hits::Injected(rig.cloud.inject(rule).unwrap()),
        Fault::Directory(rule) => Hits::Injected(rig.directory.inject(rule).unwrap()),
        Fault::Storm(_) => Hits::Storm(0),
    };
    let early = case.early.then(|| inject(&rig));
    rig.serve(case.oauth).await;
    if let Refuse(words) = &case.must {
        let ended = timeout(PATIENCE, rig.run.join_next()).await;
        let Ok(Some(Ok(Err(error)))) = ended else {
            return Err(format!("the daemon did not refuse: {ended:?}"));
        };
        let text = chain(&error);
        if !text.contains(words) {
            return Err(format!("the daemon ended with {text:?}"));
        }
        struck(early.unwrap())?;
        return rig.clean();
    }
    if early.is_none() {
        let hello = rig.cloud.wait_for_hello(PATIENCE).await;
        hello.map_err(|error| format!("{error:#}"))?;
    }
    let (task, pair) = match case.work {
        Work::Sync => (full_sync(SyncFullTask::default()), None),
        Work::Grant => {
            let pair = rig.pair();
            (rig.grant(pair).await?, Some(pair))
        }
    };
    let mut hits = early.unwrap_or_else(|| inject(&rig));
    let task = rig.cloud.enqueue(task);
    if let (Fault::Storm(lines), Hits::Storm(fired)) = (&case.fault, &mut hits) {
        let storm: Storm = lines.parse().unwrap();
        *fired = storm.pass(&rig.directory, &rig.cloud).await.total();
    }
    if case.kick {
        // The pause after rejected credentials is long, and ends with others.
        let kicked = async {
            loop {
                tokio::time::sleep(Duration::from_millis(500)).await;
                rig.replaced.send_modify(|count| *count += 1);
            }
        };
        tokio::select! {
            finish = rig.finish(&task) => drop(finish?),
            () = kicked => {}
        }
    }
    let finish = rig.finish(&task).await?;
    if finish.message().contains("SECRETSEED") || finish.message().contains("eyJ") {
        return Err("a secret is in the message".to_owned());
    }
    match &case.must {
        Fail(code, words) => {
            let final_state = case.work == Work::Grant;
            if finish.code() != code.number()
                || words.iter().any(|word| !finish.message().contains(word))
                || finish.is_non_retryable() != final_state
            {
                return Err(told(&finish));
            }
        }
        _ if !finish.is_success() => return Err(told(&finish)),
        _ => match pair {
            None => rig.expect_truth(&task).await?,
            Some((group, user)) => {
                if !rig.directory.truth().groups[&group].members.contains(&user) {
                    return Err("the task is done and the change is not".to_owned());
                }
            }
        },
    }
    struck(hits)?;
    // The result may be under way once more.
    let settled = rig.cloud.task(&task).map(|task| task.stage);
    if !matches!(settled, Some(Stage::Finished)) {
        return Err(format!("the task is {settled:?} after its end"));
    }
    let next = rig.sync();
    rig.expect_truth(&next)
        .await
        .map_err(|problem| format!("the next task: {problem}"))?;
    rig.end().await
}

fn struck(hits: Hits) -> Result<(), String> {
    let count = match hits {
        Hits::Injected(injected) => injected.hits(),
        Hits::Storm(fired) => fired,
    };
    (count > 0)
        .then_some(())
        .ok_or_else(|| "the fault struck nothing".to_owned())
}

/// Runs cases side by side and fails with all that went wrong.
async fn all(cases: Vec<Case>) {
    let (subscriber, _control, log) = log();
    let _guard = tracing::subscriber::set_default(subscriber);
    let count = cases.len();
    let wrong: Vec<String> = stream::iter(cases)
        .map(|case| async move {
            let outcome = run(&case).await;
            outcome
                .err()
                .map(|problem| format!("{} must {:?}: {problem}", case.name(), case.must))
        })
        .buffer_unordered(ABREAST)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(
        wrong.is_empty(),
        "{} of {count} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_no_secret(&log);
}

fn log() -> (
    impl tracing::Subscriber + Send + Sync,
    telemetry::LogControl,
    Captured,
) {
    let log = Log {
        level: Level::Debug,
        format: LogFormat::Json,
        paths: Vec::new(),
    };
    // No secret is known to it, so that nothing is hidden that should not have been said.
    telemetry::capture(&log, &[], Arc::new(SystemClock))
}

fn assert_no_secret(log: &Captured) {
    let text = log.text();
    assert!(text.contains("a task is done"), "nothing was logged");
    for secret in ["SECRETSEED", "eyJ"] {
        if let Some(line) = text.lines().find(|line| line.contains(secret)) {
            panic!(
                "a secret is logged behind: {}",
                line.split(secret).next().unwrap()
            );
        }
    }
}

// ConductorOne.

/// Every gRPC code that an RPC can be answered with.
fn codes(rpc: &str, fails: impl Fn(&'static str) -> Must) -> Vec<Case> {
    conductorone::CODES
        .into_iter()
        .map(|(name, _)| Case::cloud(format!("{rpc}@1:{name}"), fails(name)))
        .collect()
}

/// What passes by itself at every RPC, whatever it is.
fn passing(rpc: &str) -> Vec<Case> {
    [
        "http-429=retry-after:1",
        "http-500",
        "http-502",
        "http-503",
        "http-504",
        "hang",
        "delay=300ms",
        "reset",
        "goaway",
        "garbage",
        "empty-body",
        "html-200",
        "slow-drip=300ms",
    ]
    .map(|fault| Case::cloud(format!("{rpc}@1:{fault}"), Succeed))
    .to_vec()
}

/// The call takes effect, and its answer is lost.
fn lost(rpc: &str) -> Vec<Case> {
    ["applied-unavailable", "applied-reset", "reset-mid-body"]
        .map(|fault| Case::cloud(format!("{rpc}@1:{fault}"), Succeed))
        .to_vec()
}

fn early(mut cases: Vec<Case>) -> Vec<Case> {
    for case in &mut cases {
        case.early = true;
    }
    cases
}

#[tokio::test]
async fn the_token_request() {
    let mut cases = vec![
        Case::cloud("Token@1:http-400", Refuse("HTTP 400")),
        Case::cloud("Token@1:http-401", Refuse("issue a new client secret")),
        Case::cloud("Token@1:http-403", Refuse("issue a new client secret")),
        Case::cloud("Token@1:http-404", Refuse("check the host")),
    ];
    for fault in [
        "1:http-429=retry-after:none",
        "1:http-429=retry-after:0",
        "1:http-429=retry-after:1",
        "1:http-429=retry-after:-5",
        "1:http-429=retry-after:soon",
        "1:http-429=retry-after:99999999999999999999999",
        "1:http-429=retry-after:date+1",
        "1:http-429=retry-after:date-600",
        "1-2:http-500",
        "1-2:http-502",
        "1-2:http-503",
        "1-2:http-504",
        "1:hang",
        "1:slow-drip=300ms",
        "1:reset",
        "1:applied-reset",
        "1:reset-mid-body",
        "1:goaway",
        "1:html-200",
        "1:garbage",
        "1:empty-body",
        "1:oversized-body=1000000",
        "1:wrong-types",
        "1:no-token",
        "1:redirect=https://127.0.0.1:9/",
        "always:expires-in=0",
        "always:expires-in=-5",
        "always:expires-in=1e300",
        "always:expires-in=\"soon\"",
        "always:expires-in=null",
    ] {
        cases.push(Case::cloud(format!("Token@{fault}"), Succeed));
    }
    all(early(cases)).await;
}

#[tokio::test]
async fn hello() {
    let mut cases = codes("Hello", |code| match code {
        "invalid-argument" => Refuse("Hello with InvalidArgument"),
        "not-found" => Refuse("still exists"),
        "permission-denied" => Refuse("is not revoked"),
        "failed-precondition" => Refuse("Hello with FailedPrecondition"),
        "unimplemented" => Refuse("BATON_C1_API_HOST"),
        _ => Succeed,
    });
    cases.extend(passing("Hello"));
    cases.extend(lost("Hello"));
    cases.push(Case::cloud("Hello@1:http-401", Succeed));
    cases.push(Case::cloud("Hello@1:http-403", Succeed));
    cases.push(Case::cloud("Hello@1:http-404", Succeed));
    cases.push(Case::cloud("Hello@1:oversized-body=80000000", Succeed));
    all(early(cases)).await;
}

#[tokio::test]
async fn polls() {
    let mut cases = codes("GetTask", |_| Succeed);
    cases.extend(passing("GetTask"));
    for fault in [
        "http-401",
        "http-403",
        "http-404",
        "oversized-body=80000000",
    ] {
        cases.push(Case::cloud(format!("GetTask@1:{fault}"), Succeed));
    }
    for case in &mut cases {
        case.kick = true;
    }
    // A task that was handed out to nobody comes again when its lease ends.
    cases.extend(lost("GetTask").into_iter().map(Case::redone));
    all(cases).await;
}

#[tokio::test]
async fn heartbeats() {
    let mut cases = codes("Heartbeat", |_| Succeed);
    cases.extend(passing("Heartbeat"));
    cases.extend(lost("Heartbeat"));
    cases.push(Case::cloud("Heartbeat@always:unavailable", Succeed));
    cases.push(Case::cloud("Heartbeat@1:oversized-body=80000000", Succeed));
    all(cases).await;
}

#[tokio::test]
async fn uploads() {
    let refused = |code| Fail(code, vec!["UploadAsset", "the simulator was told"]);
    let mut cases = codes("UploadAsset", |code| match code {
        "invalid-argument" => refused(Code::InvalidArgument),
        "not-found" => refused(Code::NotFound),
        "already-exists" => refused(Code::AlreadyExists),
        "permission-denied" => refused(Code::PermissionDenied),
        "failed-precondition" => refused(Code::FailedPrecondition),
        "out-of-range" => refused(Code::OutOfRange),
        "unimplemented" => refused(Code::Unimplemented),
        _ => Succeed,
    });
    cases.extend(passing("UploadAsset"));
    cases.extend(lost("UploadAsset"));
    for fault in [
        "break-stream=1",
        "break-connection=1",
        "break-goaway=1",
        "refuse-checksum",
    ] {
        cases.push(Case::cloud(format!("UploadAsset@1:{fault}"), Succeed));
    }
    cases.push(Case::cloud(
        "UploadAsset@always:break-stream=1",
        Fail(Code::Unavailable, vec!["UploadAsset"]),
    ));
    cases.push(Case::cloud(
        "UploadAsset@always:refuse-checksum",
        Fail(Code::DataLoss, vec!["UploadAsset", "checksum"]),
    ));
    all(cases).await;
}

#[tokio::test]
async fn results() {
    let mut cases = codes("FinishTask", |_| Succeed);
    cases.extend(passing("FinishTask"));
    for fault in [
        "http-401",
        "http-403",
        "http-404",
        "oversized-body=80000000",
    ] {
        cases.push(Case::cloud(format!("FinishTask@1:{fault}"), Succeed));
    }
    cases.extend(lost("FinishTask"));
    // A result that is refused is lost, and the task is given once more.
    all(cases.into_iter().map(Case::redone).collect()).await;
}

#[tokio::test]
async fn changes_whose_results_are_lost_are_made_once() {
    let mut cases = lost("FinishTask");
    cases.push(Case::cloud("FinishTask@1:invalid-argument", Succeed));
    let cases = cases.into_iter().map(|case| Case {
        work: Work::Grant,
        ..case.redone()
    });
    all(cases.collect()).await;
}

// JumpCloud.

const LISTS: [&str; 6] = [
    "/api/systemusers",
    "/api/v2/usergroups",
    "/api/v2/usergroups/{id}/members",
    "/api/applications",
    "/api/v2/applications/{id}/associations",
    "/api/users",
];

#[tokio::test]
async fn lists_that_fail_for_a_moment() {
    let mut cases = Vec::new();
    for (list, faults) in LISTS.iter().zip([
        &[
            "429=retry-after:none",
            "429=retry-after:0",
            "429=retry-after:1",
            "429=retry-after:-5",
            "429=retry-after:99999999999",
            "429=retry-after:soon",
            "429=retry-after:date+1",
            "429=retry-after:date-600",
            "503=retry-after:1",
            "500",
            "502",
            "503",
            "504",
            "html-200",
            "truncated-json",
            "malformed-json",
            "empty-body",
            "reset-mid-body",
            "no-response",
            "hang",
            "slow-drip=300ms",
        ][..],
        &[
            "429",
            "500",
            "503",
            "malformed-json",
            "reset-mid-body",
            "hang",
            "no-total",
        ],
        &[
            "429=retry-after:99999999999",
            "502",
            "truncated-json",
            "no-response",
            "hang",
            "no-total",
        ],
        &["429", "504", "html-200", "reset-mid-body"],
        &[
            "429=retry-after:none",
            "503",
            "empty-body",
            "no-response",
            "no-total",
        ],
        &["429", "500", "malformed-json", "reset-mid-body"],
    ]) {
        for fault in faults {
            // The first request of some lists is only a look before the sync.
            cases.push(Case::directory(format!("GET {list}@1-2:{fault}"), Succeed));
        }
    }
    all(cases).await;
}

#[tokio::test]
async fn lists_that_go_on_failing() {
    let mut cases = Vec::new();
    for list in LISTS {
        for (fault, code) in [
            ("400", Code::InvalidArgument),
            ("401", Code::Unauthenticated),
            ("403", Code::PermissionDenied),
            ("409", Code::AlreadyExists),
            ("501", Code::Unimplemented),
            ("malformed-json", Code::Internal),
            ("wrong-types", Code::Internal),
        ] {
            let words = if code == Code::PermissionDenied && !list.contains("{id}") {
                // Before the sync begins it is asked what may be read; the answer names the permission.
                "may not read"
            } else {
                list
            };
            cases.push(Case::directory(
                format!("GET {list}@always:{fault}"),
                Fail(code, vec![words]),
            ));
        }
    }
    for (fault, code, words) in [
        (
            "always:404",
            Code::NotFound,
            vec!["/api/systemusers", "base URL"],
        ),
        (
            "always:empty-body",
            Code::Internal,
            vec!["/api/systemusers"],
        ),
        ("always:html-200", Code::Internal, vec!["HTML"]),
        (
            "always:oversized-body=30000000",
            Code::Internal,
            vec!["larger than"],
        ),
        (
            "always:endless-paging",
            Code::Internal,
            vec!["/api/systemusers"],
        ),
        ("for300ms:401", Code::Unauthenticated, vec!["401"]),
        (
            "always:redirect=http://127.0.0.1:9",
            Code::Unknown,
            vec!["redirect refused"],
        ),
    ] {
        cases.push(Case::directory(
            format!("GET /api/systemusers@{fault}"),
            Fail(code, words),
        ));
    }
    // What passes by itself is waited for longer than one call lasts.
    for fault in [
        "429=retry-after:none",
        "500",
        "503",
        "504",
        "no-response",
        "reset-mid-body",
    ] {
        cases.push(Case::directory(
            format!("GET /api/v2/usergroups/{{id}}/members@for2s:{fault}"),
            Succeed,
        ));
    }
    all(cases).await;
}

#[tokio::test]
async fn tokens_of_the_directory() {
    let mut cases = Vec::new();
    for fault in [
        "1:429",
        "1:429=retry-after:none",
        "1:429=retry-after:soon",
        "1-2:500",
        "1:503=retry-after:1",
        "1:504",
        "1:html-200",
        "1:truncated-json",
        "1:malformed-json",
        "1:empty-body",
        "1:reset-mid-body",
        "1:no-response",
        "1:hang",
        "1:slow-drip=300ms",
    ] {
        cases.push(Case::directory(format!("/oauth2/token@{fault}"), Succeed));
    }
    for (fault, code) in [
        ("400", Code::Unauthenticated),
        ("401", Code::Unauthenticated),
        ("403", Code::Unauthenticated),
        ("404", Code::NotFound),
        ("500", Code::Unavailable),
        ("wrong-types", Code::Internal),
        ("oversized-body=30000000", Code::Internal),
    ] {
        cases.push(Case::directory(
            format!("/oauth2/token@always:{fault}"),
            Fail(code, vec![]),
        ));
    }
    for case in &mut cases {
        case.oauth = true;
    }
    all(cases).await;
}

#[tokio::test]
async fn changes() {
    const ADD: &str = "POST /api/v2/usergroups/{id}/members";
    const LOOK: &str = "GET /api/systemusers/{id}";
    let mut cases = Vec::new();
    for fault in [
        "429",
        "429=retry-after:none",
        "429=retry-after:99999999999",
        "500",
        "502",
        "503",
        "504",
        "no-response",
        "applied-no-response",
        "applied-500",
        "applied-503",
        "applied-503=retry-after:1",
        "applied-504",
        "hang",
        "slow-drip=300ms",
    ] {
        cases.push(Case::directory(format!("{ADD}@1:{fault}"), Succeed));
    }
    for (fault, code) in [
        ("400", Code::InvalidArgument),
        ("401", Code::Unauthenticated),
        ("403", Code::PermissionDenied),
        ("500", Code::Unavailable),
        ("no-response", Code::Unavailable),
    ] {
        cases.push(Case::directory(
            format!("{ADD}@always:{fault}"),
            Fail(code, vec!["/api/v2/usergroups/{id}/members"]),
        ));
    }
    for fault in ["429", "503", "malformed-json", "reset-mid-body", "hang"] {
        cases.push(Case::directory(format!("{LOOK}@1:{fault}"), Succeed));
    }
    for (fault, code) in [("403", Code::PermissionDenied), ("404", Code::NotFound)] {
        cases.push(Case::directory(
            format!("{LOOK}@always:{fault}"),
            Fail(code, vec![]),
        ));
    }
    for case in &mut cases {
        case.work = Work::Grant;
    }
    all(cases).await;
}

// The network.

#[tokio::test]
async fn networks() {
    let mut cases = Vec::new();
    for how in ["refuse", "reset", "deaf"] {
        for (whom, time) in [("jumpcloud", 300), ("conductorone", 1000)] {
            let line = format!("0ms {time}ms {whom} outage {how}");
            cases.push(Case::of(Fault::Storm(line), Succeed));
        }
    }
    for which in Certificate::BAD {
        let line = format!("0ms 4s conductorone certificate {which}");
        cases.push(Case::of(Fault::Storm(line), Succeed));
    }
    cases.push(Case::of(
        Fault::Storm("0ms 1ms conductorone goaway\n50ms 1ms conductorone revoke-tokens".to_owned()),
        Succeed,
    ));
    // A task that was in a poll's answer when its connection ended comes again when its lease ends.
    all(cases.into_iter().map(Case::redone).collect()).await;
}

#[tokio::test]
async fn a_directory_whose_certificate_is_bad_is_not_told_the_key() {
    let (subscriber, _control, log) = log();
    let _guard = tracing::subscriber::set_default(subscriber);
    let case = Case::directory("*@1:503", Succeed);
    let mut rig = Rig::start(&case, true).await;
    rig.serve(false).await;
    rig.cloud.wait_for_hello(PATIENCE).await.unwrap();
    for which in Certificate::BAD {
        rig.directory.show(which).unwrap();
        rig.directory.outage_for(Outage::Reset, Duration::ZERO);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (asked, failed) = (
            rig.directory.requests().total,
            rig.directory.failed_handshakes(),
        );
        let task = rig.sync();
        let finish = rig.finish(&task).await.unwrap();
        assert_eq!(
            finish.code(),
            Code::Unavailable.number(),
            "{which}: {}",
            told(&finish)
        );
        assert!(
            finish.message().contains("(tls)"),
            "{which}: {}",
            told(&finish)
        );
        assert!(!finish.is_non_retryable());
        assert!(rig.directory.failed_handshakes() > failed, "{which}");
        assert_eq!(rig.directory.requests().total, asked, "{which}");
        rig.directory.show(Certificate::Good).unwrap();
        let task = rig.sync();
        rig.expect_truth(&task).await.unwrap();
    }
    rig.end().await.unwrap();
    assert_no_secret(&log);
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_named() {
    for (skew, words) in [(600, "600 s behind"), (-600, "600 s ahead of")] {
        let mut case = Case::cloud("Token@1:delay=1ms", Refuse("clock of this machine"));
        case.early = true;
        let mut rig = Rig::start(&case, false).await;
        rig.cloud.skew_clock(skew);
        rig.serve(false).await;
        let ended = timeout(PATIENCE, rig.run.join_next()).await.unwrap();
        let text = chain(&ended.unwrap().unwrap().unwrap_err());
        assert!(text.contains(words), "{text}");
        rig.cloud.assert_clean();
    }
}
