//! The simulator as a program for people: `baton-sim conductorone`.
#![expect(clippy::print_stdout, reason = "a program that talks to people")]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::sync::broadcast::error::RecvError;

use super::{ConductorOneSim, Config, Script, full_sync};
use crate::proto::baton::task::SyncFullTask;

/// Runs a simulated ConductorOne until Ctrl-C.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen with TLS; a loopback address, port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Where to listen for orders over plain HTTP (/_sim/tasks, /_sim/steps, /_sim/state).
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<SocketAddr>,
    /// Folder that gets the files client-id, client-secret and ca.pem; made when missing.
    #[arg(long, value_name = "DIR")]
    pub credentials_dir: PathBuf,
    /// Folder that keeps uploaded files; without it they are deleted at the end.
    #[arg(long, value_name = "DIR")]
    pub upload_dir: Option<PathBuf>,
    /// Script of steps (YAML or JSON); the program ends with it, and fails with it.
    #[arg(long, value_name = "FILE", conflicts_with = "full_sync")]
    pub script: Option<PathBuf>,
    /// Queue one full sync at the start.
    #[arg(long)]
    pub full_sync: bool,
    /// How long clients are told to wait between two polls.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub next_poll: Duration,
    /// How long clients are told to wait between two heartbeats.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub next_heartbeat: Duration,
    /// How long an access token lives.
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub token_life: Duration,
    /// How long a task may stay without heartbeat before it is handed out again.
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub lease: Duration,
    /// Refuse the client secret from the start.
    #[arg(long)]
    pub reject_secret: bool,
}

/// Runs the program; fails when the script fails or when the client broke a rule of the protocol.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let script = match &args.script {
        Some(path) => {
            let text = tokio::fs::read_to_string(path)
                .await
                .with_context(|| format!("--script {}", path.display()))?;
            Some(Script::parse(&text)?)
        }
        None => None,
    };
    if let Some(folder) = &args.upload_dir {
        tokio::fs::create_dir_all(folder)
            .await
            .with_context(|| format!("--upload-dir {}", folder.display()))?;
    }
    let mut sim = ConductorOneSim::start(Config {
        listen: args.listen,
        token_life: args.token_life,
        next_poll: Some(args.next_poll),
        next_heartbeat: Some(args.next_heartbeat),
        lease: args.lease,
        upload_dir: args.upload_dir,
        ..Config::default()
    })
    .await?;
    sim.reject_secret(args.reject_secret);
    write_credentials(&sim, &args.credentials_dir).await?;
    println!("ConductorOne is simulated on https://{}", sim.address());
    if let Some(listen) = args.admin {
        let address = sim.start_admin(listen).await?;
        println!("orders are taken on         http://{address}/_sim/state");
    }
    println!();
    println!("start the connector with:");
    println!();
    println!(
        "  baton-jumpcloud --client-id \"$(cat {}/client-id)\" \\",
        args.credentials_dir.display()
    );
    println!(
        "    --client-secret-file {}/client-secret \\",
        args.credentials_dir.display()
    );
    println!("    --ca-file {}/ca.pem \\", args.credentials_dir.display());
    println!(
        "    --api-key-file <file with the JumpCloud API key> --base-url <URL of the JumpCloud simulator>"
    );
    println!();
    let mut events = sim.events();
    if args.full_sync {
        drop(sim.enqueue(full_sync(SyncFullTask::default())));
    }
    let control = sim.control();
    let work = async {
        match &script {
            Some(script) => script.run(&control).await,
            None => tokio::signal::ctrl_c()
                .await
                .context("Ctrl-C cannot be waited for"),
        }
    };
    let narrate = async {
        loop {
            match events.recv().await {
                Ok(event) => println!("{:.3}  {}", event.moment.at, event.text),
                Err(RecvError::Lagged(lost)) => println!("({lost} events were too fast to tell)"),
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    };
    let result = tokio::select! {
        result = work => result,
        () = narrate => Ok(()),
    };
    let breaches = sim.breaches();
    result?;
    if !breaches.is_empty() {
        for breach in &breaches {
            println!("BREACH  {breach}");
        }
        bail!(
            "the connector broke {} rules of the protocol",
            breaches.len()
        );
    }
    Ok(())
}

/// Writes `client-id`, `client-secret` (readable by the owner alone) and `ca.pem`.
pub(in crate::sim) async fn write_credentials(
    sim: &ConductorOneSim,
    folder: &Path,
) -> anyhow::Result<()> {
    tokio::fs::create_dir_all(folder)
        .await
        .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    write(&folder.join("client-id"), sim.client_id(), 0o644).await?;
    write(&folder.join("client-secret"), sim.client_secret(), 0o600).await?;
    write(&folder.join("ca.pem"), sim.ca_pem(), 0o644).await
}

/// Writes a file with this mode, replacing an older one.
pub(in crate::sim) async fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    use tokio::io::AsyncWriteExt as _;

    let context = || format!("the file {} cannot be written", path.display());
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(context);
        }
        _ => {}
    }
    let mut file = tokio::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .await
        .with_context(context)?;
    file.write_all(text.as_bytes())
        .await
        .with_context(context)?;
    file.flush().await.with_context(context)
}
