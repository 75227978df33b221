//! The demonstration: both simulators in this process, the real binary as a child, one full sync, a few changes
//! and a rotation, told step by step.
//!
//! It expects everything that it tells: the first thing that is not as it must be ends it with one line that begins
//! with `demo failed:` and says what a person must do. It needs no network and no credentials, writes into a folder of
//! its own only, and leaves nothing behind unless it fails or is told to.
#![expect(clippy::print_stdout, reason = "a program that talks to people")]

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;

use super::{
    conductorone::{self, ConductorOneSim, Hello, full_sync},
    jumpcloud::{self, JumpCloudSim, Shape, Truth},
};
use crate::proto::{baton::task::SyncFullTask, connector as v2};
use crate::state_folder;

mod changes;
mod daemon;
mod official;
mod rotation;
mod table;
mod view;

use daemon::Daemon;
use table::{Align, Table, number};
use view::View;

/// The whole demonstration, with the end of the daemon.
const LIMIT: Duration = Duration::from_secs(15);
/// How long the daemon may take to end after SIGTERM.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How long the daemon may take to give up on a refused secret.
const REFUSAL: Duration = Duration::from_secs(10);

/// Shows the real daemon doing its main job against both simulators.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The connector to run; without it `baton-jumpcloud` beside this program.
    #[arg(long, value_name = "PATH", overrides_with = "connector")]
    pub connector: Option<PathBuf>,
    /// Directory users of the simulated tenant.
    #[arg(long, default_value_t = 250)]
    pub users: u32,
    /// User groups.
    #[arg(long, default_value_t = 12)]
    pub groups: u32,
    /// Members of each group.
    #[arg(long, default_value_t = 20)]
    pub members_per_group: u32,
    /// Applications.
    #[arg(long, default_value_t = 8)]
    pub apps: u32,
    /// Groups bound to each application.
    #[arg(long, default_value_t = 2)]
    pub groups_per_app: u32,
    /// Users bound directly to each application.
    #[arg(long, default_value_t = 3)]
    pub users_per_app: u32,
    /// Administrators.
    #[arg(long, default_value_t = 4)]
    pub admins: u32,
    /// The tenant is generated from it.
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// The most rows of accounts and of each kind of entitlement that are shown.
    #[arg(long, default_value_t = 12)]
    pub rows: usize,
    /// Let ConductorOne refuse the client secret, to see what the daemon says.
    #[arg(long)]
    pub reject_secret: bool,
    /// Keep the folder with the uploaded file and the log of the daemon.
    #[arg(long)]
    pub keep: bool,
}

/// Runs the demonstration; an error is one line that begins with `demo failed:`.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let start = Instant::now();
    match stage(&args).await {
        Ok(()) => {
            println!();
            println!("demo passed in {:.1} s", start.elapsed().as_secs_f64());
            Ok(())
        }
        Err(error) => {
            let text = format!("{error:#}");
            let line: Vec<&str> = text.split_whitespace().collect();
            bail!("demo failed: {}", line.join(" "))
        }
    }
}

/// Sets everything up, lets the act run within its time, and judges what is left behind.
async fn stage(args: &Args) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("baton-demo-")
        .tempdir()
        .context("the temporary folder cannot be made; set TMPDIR to a writable folder")?;
    let uploads = folder.path().join("uploads");
    let work = folder.path().join("work");
    for path in [&uploads, &work] {
        tokio::fs::create_dir(path).await?;
    }
    let connector = match &args.connector {
        Some(path) => path.clone(),
        None => std::env::current_exe()
            .context(
                "this program does not know its own path; name the connector with --connector",
            )?
            .with_file_name("baton-jumpcloud"),
    };
    ensure!(
        connector.is_file(),
        "{} does not exist; build it with `cargo build --all-features --bins`, or name it with --connector",
        connector.display()
    );
    let directory = JumpCloudSim::start(jumpcloud::Config::of(Shape {
        seed: args.seed,
        users: args.users,
        groups: args.groups,
        members_per_group: args.members_per_group,
        apps: args.apps,
        groups_per_app: args.groups_per_app,
        users_per_app: args.users_per_app,
        admins: args.admins,
        ..Shape::default()
    }))
    .await
    .context("the simulated JumpCloud cannot start")?;
    let cloud = ConductorOneSim::start(conductorone::Config {
        next_poll: Some(Duration::from_millis(200)),
        upload_dir: Some(uploads),
        ..conductorone::Config::default()
    })
    .await
    .context("the simulated ConductorOne cannot start")?;
    cloud.reject_secret(args.reject_secret);
    let log = folder.path().join("daemon.log");
    let act = Act {
        args,
        folder: folder.path(),
        work: &work,
        log: &log,
        connector: &connector,
        directory: &directory,
        cloud: &cloud,
        began: Timestamp::now(),
    };
    let result = tokio::select! {
        result = tokio::time::timeout(LIMIT, act.play()) => result.unwrap_or_else(|_elapsed| {
            Err(anyhow::anyhow!("it took longer than {LIMIT:?}; run it again on a machine with less load"))
        }),
        interrupted = tokio::signal::ctrl_c() => match interrupted {
            Ok(()) => Err(anyhow::anyhow!("it was interrupted; run it again to see the rest")),
            Err(error) => Err(error.into()),
        },
    };
    let breaches = cloud.breaches();
    let result = match (result, breaches.first()) {
        (Ok(()), None) => Ok(()),
        (Err(error), None) => Err(error),
        (result, Some(first)) => {
            let after = result
                .err()
                .map_or_else(String::new, |error| format!(" (then: {error:#})"));
            Err(anyhow::anyhow!(
                "the connector broke {} rules of the protocol, first {first}{after}; this is an error of the \
                 connector: report it with the log",
                breaches.len()
            ))
        }
    };
    if args.keep || (result.is_err() && !args.reject_secret && log.exists()) {
        let kept = folder.keep();
        println!();
        println!("  log and uploaded file are kept in {}", kept.display());
    }
    result
}

struct Act<'a> {
    args: &'a Args,
    folder: &'a Path,
    work: &'a Path,
    log: &'a Path,
    connector: &'a Path,
    directory: &'a JumpCloudSim,
    cloud: &'a ConductorOneSim,
    began: Timestamp,
}

impl Act<'_> {
    fn tell(&self, at: Timestamp, what: &str, text: &str) {
        let seconds = at.duration_since(self.began).as_secs_f64();
        println!("  {seconds:>6.3} s  {what:<10}  {text}");
    }

    fn tell_now(&self, what: &str, text: &str) {
        self.tell(Timestamp::now(), what, text);
    }

    async fn play(&self) -> anyhow::Result<()> {
        let truth = self.directory.truth();
        println!(
            "The real daemon, a simulated JumpCloud and a simulated ConductorOne, all on this machine."
        );
        println!();
        println!(
            "  JumpCloud     {:<26}  {} users, {} administrators, {} groups, {} applications",
            self.directory.base_url,
            number(truth.users.len() as u64),
            truth.admins.len(),
            truth.groups.len(),
            truth.apps.len()
        );
        println!(
            "  ConductorOne  {:<26}  client id {}",
            format!("https://{}", self.cloud.address()),
            self.cloud.client_id()
        );
        println!("  daemon        {}", self.connector.display());
        println!();

        let health_port = daemon::free_port()?;
        let mut daemon = self.start_daemon(health_port).await?;
        if self.args.reject_secret {
            return self.watch_refusal(&mut daemon).await;
        }
        self.watch_hello(&mut daemon).await?;
        let file = self.watch_sync(&mut daemon, &truth).await?;
        self.show(file.clone()).await?;
        let mut secrets = self.watch_changes(&mut daemon, &file, &truth).await?;
        secrets.push(self.watch_rotation(&mut daemon).await?);
        self.watch_health(health_port).await?;
        self.end(daemon, &secrets).await
    }

    async fn start_daemon(&self, health_port: u16) -> anyhow::Result<Daemon> {
        conductorone::write_credentials(self.cloud, self.folder).await?;
        let api_key = self.folder.join("api-key");
        conductorone::write_file(&api_key, jumpcloud::FULL_KEY, 0o600).await?;
        let mut arguments: Vec<OsString> = Vec::new();
        let mut flag =
            |name: &str, value: OsString| arguments.extend([OsString::from(name), value]);
        flag("--client-id", self.cloud.client_id().into());
        flag(
            "--client-secret-file",
            self.folder.join("client-secret").into(),
        );
        flag("--ca-file", self.folder.join("ca.pem").into());
        flag("--api-key-file", api_key.into());
        flag("--base-url", self.directory.base_url.clone().into());
        flag("--c1z-temp-dir", self.work.into());
        flag("--log-format", "json".into());
        flag("--health-check-port", health_port.to_string().into());
        flag("--credentials-interval", "1s".into());
        arguments.push("--health-check".into());
        arguments.push("--provisioning=true".into());
        let daemon = Daemon::start(self.connector, &arguments, self.log.to_owned())?;
        self.tell_now(
            "start",
            &format!(
                "process {}, client secret and API key read from files",
                daemon.id().unwrap_or_default()
            ),
        );
        Ok(daemon)
    }

    /// With a refused secret: the daemon must give up, and say why.
    async fn watch_refusal(&self, daemon: &mut Daemon) -> anyhow::Result<()> {
        let refused = until(daemon, self.cloud.wait_for_refusal(LIMIT)).await?;
        self.tell(
            refused.moment.at,
            "token",
            &format!("refused: {}", refused.refused.unwrap_or_default()),
        );
        let Ok(ended) = tokio::time::timeout(REFUSAL, daemon.ended()).await else {
            bail!(
                "ConductorOne refuses the client secret and the daemon keeps trying; create a new client secret in \
                 ConductorOne and put it into the file of --client-secret-file; its last error: {}",
                daemon.last_words().await
            );
        };
        let status = ended?;
        self.tell_now("end", &format!("the daemon ended, {status}"));
        ensure!(
            !status.success(),
            "the daemon reported success although its secret was refused; this is an error of the connector"
        );
        bail!("{}", daemon.last_words().await)
    }

    async fn watch_hello(&self, daemon: &mut Daemon) -> anyhow::Result<()> {
        let hello = until(daemon, self.cloud.wait_for_hello(LIMIT)).await?;
        let metadata = hello.request.connector_metadata.clone().unwrap_or_default();
        let capabilities = metadata.capabilities.clone().unwrap_or_default();
        let types: Vec<&str> = capabilities
            .resource_type_capabilities
            .iter()
            .filter_map(|capability| capability.resource_type.as_ref())
            .map(|kind| kind.id.as_str())
            .collect();
        let can: Vec<String> = capabilities
            .connector_capabilities()
            .map(|capability: v2::Capability| {
                let name = capability.as_str_name();
                name.strip_prefix("CAPABILITY_")
                    .unwrap_or(name)
                    .to_ascii_lowercase()
                    .replace('_', " ")
            })
            .collect();
        self.tell(
            hello.moment.at,
            "hello",
            &who(&hello, &metadata.display_name),
        );
        self.tell(
            hello.moment.at,
            "",
            &format!("resource types: {}", types.join(", ")),
        );
        self.tell(
            hello.moment.at,
            "",
            &format!("capabilities: {}", can.join(", ")),
        );
        Ok(())
    }

    /// One full sync from the queue to `FinishTask`; answers with the uploaded file.
    async fn watch_sync(&self, daemon: &mut Daemon, truth: &Truth) -> anyhow::Result<PathBuf> {
        let id = self.cloud.enqueue(full_sync(SyncFullTask::default()));
        self.tell_now("task", &format!("full sync {id} queued"));
        let cloud = self.cloud;
        until(daemon, cloud.wait_for_delivery(&id, 1, LIMIT)).await?;
        let polls = cloud.polls();
        let taken = polls
            .iter()
            .find(|poll| poll.handed.contains(&id))
            .context("the task was handed out but no poll took it; report this")?
            .moment;
        self.tell(taken.at, "task", "taken by the daemon");
        let heartbeat = until(daemon, cloud.wait_for_heartbeats(&id, 1, LIMIT)).await?;
        self.tell(heartbeat.moment.at, "heartbeat", "the first of the task");
        let upload = tokio::select! {
            upload = until(daemon, cloud.wait_for_upload(&id, LIMIT)) => upload?,
            finish = cloud.wait_for_finish(&id, LIMIT) => {
                let finish = finish?;
                if finish.is_success() {
                    cloud.wait_for_upload(&id, Duration::ZERO).await?
                } else {
                    bail!("the sync ended with code {}: {}", finish.code(), finish.message());
                }
            }
        };
        let summary = upload
            .summary
            .context("what was uploaded is no file of a sync; report this")?;
        self.tell(
            upload.moment.at,
            "upload",
            &format!(
                "{} bytes in {} {}, SHA-256 right, opened with plain zstd and SQLite, every row checked",
                number(upload.bytes),
                upload.chunks,
                if upload.chunks == 1 { "chunk" } else { "chunks" }
            ),
        );
        let finish = until(daemon, cloud.wait_for_finish(&id, LIMIT)).await?;
        ensure!(
            finish.is_success(),
            "the sync ended with code {}: {}",
            finish.code(),
            finish.message()
        );
        let calls = self.directory.requests().total;
        self.tell(
            finish.moment.at,
            "finish",
            &format!("success, sync {} ({})", summary.sync_id, summary.sync_type),
        );
        println!();

        let mut table = Table::new([
            ("RESOURCE TYPE", Align::Left),
            ("RESOURCES", Align::Right),
            ("ENTITLEMENTS", Align::Right),
            ("GRANTS", Align::Right),
        ]);
        let rows = |counts: &std::collections::BTreeMap<String, u64>, kind: &str| {
            number(counts.get(kind).copied().unwrap_or_default())
        };
        for kind in summary.resources.keys() {
            table.row([
                kind.clone(),
                rows(&summary.resources, kind),
                rows(&summary.entitlements, kind),
                rows(&summary.grants, kind),
            ]);
        }
        print!("{table}");
        println!();
        let official = tenant(truth);
        println!(
            "  {} JumpCloud calls (the official connector needs {} in its newest release, {} in that of 2025-01)",
            number(calls),
            number(official.calls_newest()),
            number(official.calls_2025_01())
        );
        println!(
            "  {:.2} s from task to finish, {} bytes uploaded, {} bytes unpacked",
            finish.moment.at.duration_since(taken.at).as_secs_f64(),
            number(upload.bytes),
            number(summary.database_bytes)
        );
        for (kind, expected) in [
            ("user", truth.users.len() + truth.admins.len()),
            ("group", truth.groups.len()),
            ("app", truth.apps.len() + 1),
        ] {
            let found = summary.resources.get(kind).copied().unwrap_or_default();
            ensure!(
                found == expected as u64,
                "the file holds {found} resources of type {kind}, the directory has {expected}; this is an error of \
                 the connector: report it with the log"
            );
        }
        Ok(upload.path)
    }

    async fn show(&self, file: PathBuf) -> anyhow::Result<()> {
        let work = self.folder.to_owned();
        let rows = self.args.rows;
        let view = tokio::task::spawn_blocking(move || View::read(&file, &work, rows))
            .await
            .context("reading the uploaded file panicked")?
            .context(
                "the uploaded file cannot be read; this is an error of the connector: report it",
            )?;
        println!();
        println!("What ConductorOne shows under Accounts:");
        println!();
        print!("{}", view.accounts);
        left_out(view.accounts_left_out);
        println!();
        println!("and under Entitlements:");
        println!();
        print!("{}", view.entitlements);
        left_out(view.entitlements_left_out);
        println!();
        Ok(())
    }

    async fn watch_health(&self, port: u16) -> anyhow::Result<()> {
        let (status, body) = daemon::get(port, "/ready", Duration::from_secs(3)).await?;
        ensure!(
            status == 200,
            "http://127.0.0.1:{port}/ready answers {status}: {body}; look at the log of the daemon"
        );
        self.tell_now("health", &format!("/ready answers {status}"));
        Ok(())
    }

    async fn end(&self, mut daemon: Daemon, secrets: &[SecretString]) -> anyhow::Result<()> {
        let start = Instant::now();
        daemon.terminate()?;
        self.tell_now("SIGTERM", "sent");
        let Ok(ended) = tokio::time::timeout(SHUTDOWN, daemon.ended()).await else {
            bail!(
                "the daemon runs on {SHUTDOWN:?} after SIGTERM; look at its log, its last line: {}",
                daemon.last_words().await
            );
        };
        let status = ended?;
        ensure!(
            status.code() == Some(0),
            "the daemon ended with {status} after SIGTERM, must end with exit code 0; its last words: {}",
            daemon.last_words().await
        );
        self.tell_now(
            "end",
            &format!("exit code 0 after {:.3} s", start.elapsed().as_secs_f64()),
        );
        let output = daemon.output().await?;
        for (what, secret) in [
            ("client secret", self.cloud.client_secret()),
            ("API key", jumpcloud::FULL_KEY),
        ] {
            ensure!(
                !output.contains(secret),
                "the log of the daemon shows the {what}; this is an error of the connector: report it"
            );
        }
        ensure!(
            !secrets
                .iter()
                .any(|secret| output.contains(secret.expose_secret())),
            "the log of the daemon shows a password or the new client secret; this is an error of the connector: report it"
        );
        // What is remembered of changes and syncs stays; nothing else may.
        let left = std::fs::read_dir(self.work)?
            .filter(|entry| {
                entry
                    .as_ref()
                    .is_ok_and(|entry| entry.file_name() != state_folder::NAME)
            })
            .count();
        ensure!(
            left == 0,
            "the daemon left {left} files in its work folder {}; this is an error of the connector: report it",
            self.work.display()
        );
        self.tell_now(
            "clean",
            "no rule of the protocol broken, no secret in the log, no file left behind",
        );
        Ok(())
    }
}

fn left_out(count: u64) {
    if count > 0 {
        println!("  … and {} more", number(count));
    }
}

fn who(hello: &Hello, name: &str) -> String {
    let build = hello.request.build_info.clone().unwrap_or_default();
    let system = hello.request.os_info.clone().unwrap_or_default();
    format!(
        "{name} connector, {} {}, on {} {} ({} {})",
        build.package,
        build.package_version,
        system.platform,
        system.platform_version,
        system.os,
        system.kernel_arch
    )
}

fn tenant(truth: &Truth) -> official::Tenant {
    let members = |id: &jumpcloud::Id| {
        truth.groups.get(id).map_or(0, |group| {
            (group.members.len() + group.dangling.len()) as u64
        })
    };
    let managers: std::collections::BTreeSet<_> = truth
        .users
        .values()
        .filter_map(|user| user.manager)
        .collect();
    official::Tenant {
        users: truth.users.len() as u64,
        users_with_manager: truth
            .users
            .values()
            .filter(|user| user.manager.is_some())
            .count() as u64,
        managers: managers.len() as u64,
        administrators: truth.admins.len() as u64,
        administrators_without_user: truth
            .admins
            .values()
            .filter(|admin| admin.user.is_none())
            .count() as u64,
        groups: truth.groups.keys().map(members).collect(),
        apps: truth
            .apps
            .values()
            .map(|app| official::App {
                groups: app.groups.iter().map(members).collect(),
                users: (app.users.len() + app.dangling.len()) as u64,
            })
            .collect(),
    }
}

/// Waits for `what`, unless the daemon ends first.
async fn until<T>(
    daemon: &mut Daemon,
    what: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        biased;
        found = what => found,
        ended = daemon.ended() => {
            let status = ended?;
            bail!("the daemon ended early ({status}): {}", daemon.last_words().await)
        }
    }
}
