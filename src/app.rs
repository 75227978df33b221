//! The composition root: builds every part from the configuration and runs it.
//!
//! The only place that names adapters by their concrete type. Never decides what a task means or how a call is retried.

use std::{fs, io::IsTerminal as _, os::unix::fs::MetadataExt as _, sync::Arc, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Admin, health},
    clock::{Clock as _, SystemClock},
    config::{self, Config, EXIT_BAD_CONFIGURATION, LogFormat, Secret, Source},
    connector::{
        self, Connector,
        jumpcloud::{
            self, JumpCloud,
            client::{Auth, Client},
        },
    },
    control_plane::{self, GrpcControlPlane, channel::ProxyRules, credentials::Credentials},
    dispatch,
    error::{Classify, Code, chain},
    handlers::{self, full_sync},
    http::retry::Policy,
    notice::Notices,
    provisioning::{self, Keys, Provisioning},
    supervisor::{
        Reason, Supervisor,
        watchdog::{self, Watchdog},
    },
    syncer::{self, NoProgress, Progress, Report, SyncRequest},
    telemetry::{
        LogControl,
        level::LevelSwitch,
        metrics::Metrics,
        progress::{Bars, LogLines},
    },
};

mod change;
mod kubernetes;
pub mod probe;
mod rotation;

pub use self::change::change_once;
use self::rotation::Rotation;

/// How long parts besides the tasks may take to end; a part of the grace period.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// Why a run ended badly, with the exit code that says so.
#[derive(Debug)]
pub struct Failure {
    /// One line for a person: what failed and what to do.
    pub message: String,
    /// The exit code of the process.
    pub exit_code: u8,
}

impl Failure {
    /// A failure of a one-shot run: the exit code is the number of the gRPC code.
    fn of(error: &(impl std::error::Error + Classify + 'static)) -> Self {
        let code = match error.code() {
            Code::Ok => Code::Unknown,
            code => code,
        };
        Self {
            message: chain(error),
            exit_code: u8::try_from(code.number()).unwrap_or(1),
        }
    }
}

/// The client for the organisation that the configuration names.
pub fn jumpcloud_client(config: &Config) -> Result<Client, connector::Error> {
    let secret = config.jumpcloud.auth.secret().value().clone();
    jumpcloud_client_with(config, jumpcloud_auth(config, secret), Metrics::default())
}

/// What proves us to JumpCloud, with this secret in the place of the configured one.
fn jumpcloud_auth(config: &Config, secret: SecretString) -> Auth {
    match &config.jumpcloud.auth {
        config::JumpCloudAuth::ApiKey(_) => Auth::ApiKey(secret),
        config::JumpCloudAuth::ServiceAccount {
            client_id,
            token_url,
            ..
        } => Auth::ClientCredentials {
            token_url: token_url.clone(),
            client_id: client_id.clone(),
            client_secret: secret,
        },
    }
}

/// A client whose requests are counted there.
fn jumpcloud_client_with(
    config: &Config,
    auth: Auth,
    metrics: Metrics,
) -> Result<Client, connector::Error> {
    let settings = &config.jumpcloud;
    let settings = jumpcloud::client::Settings {
        console_url: settings.console_url.clone(),
        insights_url: settings.insights_url.clone(),
        auth,
        org_id: settings.org_id.clone(),
        timeout: settings.http_timeout,
        extra_ca_pem: config.extra_ca_pem.clone(),
        max_concurrency: settings.max_concurrency,
        rotation_wait: rotation_wait(config, settings.auth.secret()),
    };
    Client::measured(settings, retry_policy(config), metrics)
}

/// When requests to JumpCloud are repeated.
#[cfg(feature = "simulator")]
fn retry_policy(config: &Config) -> Policy {
    let policy = Policy::default();
    Policy {
        min_delay: policy.min_delay / config.simulate_haste,
        max_delay: policy.max_delay / config.simulate_haste,
        ..policy
    }
}

/// When requests to JumpCloud are repeated.
#[cfg(not(feature = "simulator"))]
fn retry_policy(_config: &Config) -> Policy {
    Policy::default()
}

/// The limits of calls to ConductorOne, whose credential this is.
fn timeouts(config: &Config, secret: &Secret) -> control_plane::Timeouts {
    let usual = control_plane::Timeouts {
        other_credentials: rotation_wait(config, secret),
        ..control_plane::Timeouts::default()
    };
    #[cfg(feature = "simulator")]
    let usual = {
        let by = config.simulate_haste.min(10);
        control_plane::Timeouts {
            dial: usual.dial / by,
            handshake: usual.handshake / by,
            token: usual.token / by,
            hello: usual.hello / by,
            poll: usual.poll / by,
            heartbeat: usual.heartbeat / by,
            finish: usual.finish / by,
            upload_idle: usual.upload_idle / by,
            upload_answer: usual.upload_answer / by,
            keepalive_interval: usual.keepalive_interval / by,
            keepalive_answer: usual.keepalive_answer / by,
            ..usual
        }
    };
    usual
}

/// How long work waits for another text of this credential when the one in use is rejected: not at all where none can
/// come.
fn rotation_wait(config: &Config, secret: &Secret) -> Duration {
    let is_live = config.kubernetes.secret.is_some() || secret.can_change();
    if is_live && config.service.is_some() {
        rotation::PATIENCE
    } else {
        Duration::ZERO
    }
}

/// The connector over that client.
fn jumpcloud(config: &Config, client: Client) -> JumpCloud {
    JumpCloud::new(
        client,
        jumpcloud::Settings {
            merge_administrators: config.jumpcloud.merge_administrators,
            work_dir: config.work_dir.clone(),
            allowed: jumpcloud::Allowed {
                account_deletion: config.provisioning.allow_account_deletion,
                administrator_roles: config.provisioning.allow_administrator_roles,
            },
            optional: config.sync.optional_resource_types.clone(),
        },
    )
}

/// Tells apart the configurations whose syncs read different things. Credentials are not in it: those that may read less
/// are what a sync has to be held against the last one for.
fn sync_source(config: &Config) -> String {
    let settings = &config.jumpcloud;
    let organization = settings.org_id.as_deref().unwrap_or_default();
    let people = if settings.merge_administrators {
        "merged"
    } else {
        "apart"
    };
    format!("{} {organization} {people}", settings.console_url)
}

/// What makes changes with that connector.
fn provisioning(
    config: &Config,
    connector: &Arc<JumpCloud>,
    supervisor: &Supervisor,
    keys: Keys,
    metrics: Metrics,
) -> Arc<Provisioning> {
    let settings = &config.provisioning;
    Arc::new(Provisioning::new(
        Arc::clone(connector) as _,
        Arc::new(SystemClock),
        supervisor.clone(),
        provisioning::Settings {
            audit_log: settings.audit_log.clone(),
            keys,
            metrics,
            #[cfg(feature = "simulator")]
            observer: settings
                .simulate_crash_at
                .as_deref()
                .map(crate::sim::crash::at),
            ..provisioning::Settings::new(settings.mode, config.work_dir.clone())
        },
    ))
}

/// A supervisor that obeys signals; the second one ends the process at once.
fn supervised() -> Result<Supervisor, Failure> {
    let supervisor = Supervisor::new();
    #[expect(clippy::exit, reason = "a second signal asks for exactly this")]
    supervisor
        .handle_signals(|code| std::process::exit(code))
        .map_err(|error| Failure {
            message: format!("cannot listen for signals: {error}"),
            exit_code: 1,
        })?;
    Ok(supervisor)
}

/// Serves ConductorOne until a signal comes.
///
/// Returns within the grace period after the signal. An error is either a configuration that cannot work (exit code 64)
/// or a refusal that a person must act on (exit code 1).
pub async fn serve(
    config: &Config,
    source: Arc<dyn Source>,
    log: &LogControl,
) -> Result<(), Failure> {
    let failed = |message: String| Failure {
        message,
        exit_code: 1,
    };
    let service = config
        .service
        .as_ref()
        .ok_or_else(|| failed("service mode needs a client id".to_owned()))?;
    let unusable = |error: &(dyn std::error::Error + 'static)| Failure {
        message: format!("bad configuration: {}", chain(error)),
        exit_code: EXIT_BAD_CONFIGURATION,
    };
    let credentials = Credentials::parse(
        service.client_id.value().expose_secret(),
        service.client_secret.value(),
    )
    .map_err(|error| unusable(&error))?;
    let keys = Keys::default();
    keys.add(credentials.client_secret.key().clone());
    let clock = Arc::new(SystemClock);
    let started = clock.now();
    let metrics = Metrics::new();
    let supervisor = supervised()?;
    let notices = Notices::new();
    let control_plane = Arc::new(
        GrpcControlPlane::try_new(control_plane::Settings {
            credentials,
            api_host: service.api_host.clone(),
            host_id: service.host_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extra_ca_pem: config.extra_ca_pem.clone(),
            proxy: proxy_rules(source.as_ref()),
            timeouts: timeouts(config, &service.client_secret),
            clock: Arc::clone(&clock) as _,
            metrics: metrics.clone(),
        })
        .map_err(|error| unusable(&error))?,
    );
    let auth = jumpcloud_auth(config, config.jumpcloud.auth.secret().value().clone());
    let client =
        jumpcloud_client_with(config, auth, metrics.clone()).map_err(|error| unusable(&error))?;
    let connector = Arc::new(jumpcloud(config, client.clone()));
    let provisioning = provisioning(
        config,
        &connector,
        &supervisor,
        keys.clone(),
        metrics.clone(),
    );
    let connector: Arc<dyn Connector> = connector;
    let health = Arc::new(health::Health::new());
    let _watchdog = Watchdog::start(
        tokio::runtime::Handle::current(),
        Arc::clone(&health),
        watchdog::Limits::default(),
        watchdog::act,
    )
    .map_err(|error| failed(format!("cannot start a thread for the watchdog: {error}")))?;
    let level = watch_level(config, log, &supervisor);
    let work_over = CancellationToken::new();
    if let Some(address) = &config.health {
        let listener = admin::listen(&address.host, address.port)
            .await
            .map_err(|error| unusable(&error))?;
        if let Ok(address) = listener.local_addr() {
            // With port 0 nothing else tells the port.
            tracing::info!(server.address = %address, "admin server listens");
        }
        let shown = Admin {
            health: Arc::clone(&health),
            check: Arc::new(health::ConnectorCheck::new(
                Arc::clone(&connector),
                supervisor.clone(),
            )),
            clock: Arc::clone(&clock) as _,
            metrics: metrics.clone(),
            level: Arc::clone(&level),
        };
        supervisor.spawn("admin", admin::serve(listener, shown, work_over.clone()));
    }
    let kubernetes::Handles { secret, leading } =
        kubernetes::start(config, &supervisor, &notices, &work_over)
            .await
            .map_err(|error| unusable(&error))?;
    // Set in every container of a pod, where only the pod's own containers share a volume, and emptyDir is open to all.
    let in_a_pod = source.variable("KUBERNETES_SERVICE_HOST").is_some();
    let rotation = Rotation::new(
        rotation::Holders {
            config: config.clone(),
            control_plane: Arc::clone(&control_plane),
            jumpcloud: client,
            keys,
        },
        source,
        secret,
        rotation::Tell {
            log: log.clone(),
            health: Arc::clone(&health),
            notices: notices.clone(),
            metrics: metrics.clone(),
        },
    );
    supervisor.spawn("rotation", rotation.run(supervisor.shutdown_token()));
    tell_of_shared_folder(config, in_a_pod);
    full_sync::remove_stale(&config.work_dir, started, config.sync.resume_max_age).await;
    provisioning.start().await;
    let registry = handlers::Registry::new(
        &connector,
        clock,
        handlers::Settings {
            work_dir: config.work_dir.clone(),
            provisioning: Arc::clone(&provisioning),
            metrics: metrics.clone(),
            sync: full_sync::LocalOptions {
                resource_type_ids: config.sync.resource_types.clone(),
                resume_max_age: config.sync.resume_max_age,
                workers: config.sync.workers,
                skip_full_sync: config.sync.skip_full_sync,
                storage_engine: match config.sync.storage_engine {
                    None => String::new(),
                    Some(config::StorageEngine::Sqlite) => "sqlite".to_owned(),
                    Some(config::StorageEngine::Pebble) => "pebble".to_owned(),
                },
                guard: full_sync::guard::Settings {
                    limit: config.sync.shrink_limit,
                    accept_until: config.sync.shrink_accept_until,
                    source: sync_source(config),
                },
            },
        },
    );
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        host.id = service.host_id,
        task.concurrency = service.task_concurrency,
        "Serving ConductorOne"
    );
    let drain_limit = DRAIN_LIMIT.min(config.shutdown_grace / 4);
    let served = dispatch::run(
        dispatch::Settings {
            concurrency: service.task_concurrency,
            get_tasks: service.get_tasks,
            signals: dispatch::Signals {
                replaced: control_plane.replaced(),
                notices,
            },
            shutdown_grace: config.shutdown_grace.saturating_sub(drain_limit),
            leading,
            ..dispatch::Settings::default()
        },
        control_plane,
        Arc::new(registry),
        health,
        metrics,
        supervisor.shutdown_token(),
    );
    let served = supervisor
        .run("the loop that asks for tasks", served)
        .await
        .unwrap_or(Ok(()));
    if served.is_err() {
        // What ends with shutdown only must end here too.
        supervisor.begin_shutdown(Reason::Requested("the work cannot begin"));
    }
    work_over.cancel();
    if let Err(still) = supervisor.drain(drain_limit).await {
        tracing::warn!(parts = ?still.names, "some parts did not end in time");
    }
    served.map_err(|error| Failure {
        message: chain(&error),
        exit_code: error.exit_code(),
    })?;
    match supervisor.shutdown_reason() {
        Some(reason) if reason.is_failure() => Err(failed(reason.to_string())),
        _ => {
            tracing::info!("Stopped");
            Ok(())
        }
    }
}

/// Says so where other users of the machine could put a folder of theirs in the place of one of ours.
fn tell_of_shared_folder(config: &Config, in_a_pod: bool) {
    const OTHERS_MAY_WRITE: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    let mode = fs::metadata(&config.work_dir).map_or(0, |folder| folder.mode());
    if !in_a_pod && mode & OTHERS_MAY_WRITE != 0 && mode & STICKY == 0 {
        tracing::warn!(
            folder = %config.work_dir.display(),
            "every user of this machine may rename what is in the work directory; give one that only this user may write \
             to (chmod 700), or set its sticky bit"
        );
    }
}

/// What changes the log level for a while, and puts it back.
fn watch_level(config: &Config, log: &LogControl, supervisor: &Supervisor) -> Arc<LevelSwitch> {
    let clock = SystemClock;
    let level = Arc::new(LevelSwitch::new(
        log.clone(),
        config.log.level,
        Arc::new(clock),
    ));
    let left = config
        .debug_until
        .and_then(|until| Duration::try_from(until.duration_since(clock.now())).ok());
    if let Some(left) = left {
        level.set(config::Level::Debug, left);
    }
    let shutdown = supervisor.shutdown_token();
    let kept = Arc::clone(&level);
    supervisor.spawn("the log level", async move {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = kept.keep() => {}
        }
    });
    level
}

/// The proxy for ConductorOne, by the variables that every program obeys; lower case goes first, as in curl.
fn proxy_rules(source: &dyn Source) -> ProxyRules {
    let read = |names: [&str; 2]| {
        names
            .into_iter()
            .filter_map(|name| source.variable(name)?.into_string().ok())
            .find(|value| !value.is_empty())
    };
    ProxyRules {
        https: read(["https_proxy", "HTTPS_PROXY"])
            .or_else(|| read(["all_proxy", "ALL_PROXY"]))
            .map(SecretString::from),
        no: read(["no_proxy", "NO_PROXY"]).unwrap_or_default(),
    }
}

/// Writes one sync to the configured file.
///
/// A signal ends it early, with nothing left behind; a second signal ends the process at once.
pub async fn sync_once(config: &Config, log: &LogControl) -> Result<(), Failure> {
    let supervisor = supervised()?;
    let cancel = &supervisor.shutdown_token();
    let client = jumpcloud_client(config).map_err(|error| Failure::of(&error))?;
    let connector = jumpcloud(config, client.clone());
    let request = SyncRequest {
        skip_entitlements_and_grants: config.sync.skip_entitlements_and_grants,
        skip_grants: config.sync.skip_grants,
        targeted: config.sync.targeted.clone(),
        resource_type_ids: config.sync.resource_types.clone(),
        empty: config.sync.skip_full_sync,
        workers: config.sync.workers,
        ..SyncRequest::default()
    };
    if config.sync.storage_engine == Some(config::StorageEngine::Pebble) {
        tracing::info!(
            "The storage engine pebble was asked for; this version writes the sqlite format, which is as valid"
        );
    }
    let bars;
    let lines = LogLines::new();
    let progress: &dyn Progress =
        if config.log.format == LogFormat::Console && std::io::stderr().is_terminal() {
            bars = Bars::new(log);
            &bars
        } else if config.log.level < config::Level::Info {
            &NoProgress
        } else {
            &lines
        };
    let environment = syncer::Environment {
        work_dir: &config.work_dir,
        clock: &SystemClock,
        progress,
        cancel,
        keep: false,
    };
    let started = tokio::time::Instant::now();
    let report = syncer::sync_to_file(&connector, &request, environment, &config.file)
        .await
        .map_err(|error| Failure::of(&error))?;
    report_sync(&report, started.elapsed(), client.total_calls());
    Ok(())
}

/// Says what a finished sync holds.
fn report_sync(report: &Report, took: Duration, calls: u64) {
    for warning in &report.warnings {
        tracing::warn!(sync.id = report.sync_id, "{warning}");
    }
    tracing::info!(
        sync.id = report.sync_id,
        sync.kind = report.sync_type,
        resources = report.resources.values().sum::<u64>(),
        entitlements = report.entitlements.values().sum::<u64>(),
        grants = report.grants.values().sum::<u64>(),
        size_bytes = report.file_bytes,
        http.calls = calls,
        duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "Sync complete."
    );
}
