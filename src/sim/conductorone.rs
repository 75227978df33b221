//! A simulated ConductorOne: the `BatonService` over TLS and the token endpoint, both on one port.
//!
//! It verifies client assertions and bearer tokens, hands out the tasks that it is given, applies the field rules of
//! the service to every message, and opens every file that is uploaded. A broken rule is answered with
//! `InvalidArgument` *and* remembered: [`ConductorOneSim::assert_clean`] fails on it, and so does dropping a simulator
//! whose breaches nobody has looked at. It never talks to anything but its own port, keeps uploads in a folder of its
//! own until it is dropped, and never shares code with the client that it judges,
//! but for the cryptography that seals and opens secrets, which is judged elsewhere.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::task::JoinSet;

use crate::{
    clock::{Clock, SystemClock},
    sim::{network, tls::Tls},
};

mod admin;
mod control;
mod credentials;
mod faults;
mod keys;
mod program;
mod rules;
mod script;
mod server;
mod service;
mod state;
mod synced;
pub mod tasks;
mod upload;

pub use control::Control;
pub use faults::{CODES, RpcFault, RpcFaultError, RpcRule};
pub use keys::{KeyKind, Revealed};
pub use program::{Args, run};
pub(in crate::sim) use program::{write as write_file, write_credentials};
pub use script::{
    AccountSpec, CredentialSpec, Names, Outcome, Script, Step, SyncOptions, TaskSpec, Time,
    WaitForFinish, WaitForTask,
};
pub use state::{
    Breach, Event, Finish, Heartbeat, Hello, Moment, Poll, Rpc, Stage, TaskState, TokenRequest,
    Upload, kind,
};
pub use synced::Synced;
pub use tasks::{full_sync, hello};
pub use upload::Summary;

use credentials::Client;
use state::Shared;

/// How a simulator starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The first part of the client id.
    pub client_name: String,
    /// The `kid` of the client secret's key; absent by default, as in most real secrets.
    pub key_id: Option<String>,
    /// How long an access token lives.
    pub token_life: Duration,
    /// `next_poll` of every answer; `None` leaves it out.
    pub next_poll: Option<Duration>,
    /// `next_heartbeat` of every answer; `None` leaves it out.
    pub next_heartbeat: Option<Duration>,
    /// How long a task handed out may stay without heartbeat or finish before it is handed out again.
    pub lease: Duration,
    /// `GetTask` without work answers with a task of type `none` rather than without task.
    pub idle_none_task: bool,
    /// A poll before any Hello is a breach.
    pub require_hello: bool,
    /// An upload for a full sync without an earlier heartbeat is a breach.
    pub require_heartbeat: bool,
    /// Uploaded rows are decoded and checked one by one, not only counted.
    pub inspect_rows: bool,
    /// The largest file taken, in bytes.
    pub max_upload: u64,
    /// Where uploads are kept; a temporary folder by default.
    pub upload_dir: Option<PathBuf>,
    /// Judges assertions and tokens.
    pub clock: Arc<dyn Clock>,
    /// Decides which calls a probability hits.
    pub fault_seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            client_name: "sim-connector".to_owned(),
            key_id: None,
            token_life: Duration::from_hours(1),
            next_poll: Some(Duration::from_millis(50)),
            next_heartbeat: Some(Duration::from_secs(1)),
            lease: Duration::from_mins(5),
            idle_none_task: true,
            require_hello: true,
            require_heartbeat: true,
            inspect_rows: true,
            max_upload: 8 * 1024 * 1024 * 1024,
            upload_dir: None,
            clock: Arc::new(SystemClock),
            fault_seed: 0,
        }
    }
}

/// How an upload is broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Break {
    /// The stream ends with `Unavailable`.
    Stream,
    /// The TCP connection is dropped.
    Connection,
    /// The stream ends with `Unavailable` and the connection with GOAWAY.
    GoAway,
}

/// A running simulator; it stops when it is dropped.
pub struct ConductorOneSim {
    control: Control,
    address: SocketAddr,
    ca_pem: String,
    tasks: JoinSet<()>,
    _folder: Option<tempfile::TempDir>,
}

impl fmt::Debug for ConductorOneSim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConductorOneSim")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl ConductorOneSim {
    /// Starts to listen; the simulator answers as soon as this returns.
    #[expect(
        clippy::unused_async,
        reason = "needs a runtime, which an async signature says"
    )]
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        anyhow::ensure!(
            config.listen.ip().is_loopback(),
            "the simulator listens on loopback addresses only, {} is none",
            config.listen
        );
        let tls = Tls::generate(&["h2", "http/1.1"])?;
        let ca_pem = tls.ca_pem();
        let listener = network::bind(config.listen)
            .with_context(|| format!("the simulator cannot listen on {}", config.listen))?;
        let address = listener.local_addr()?;
        let client = Client::generate(&config.client_name, address, config.key_id.clone())?;
        let (path, folder) = if let Some(path) = &config.upload_dir {
            (path.clone(), None)
        } else {
            let folder = tempfile::Builder::new()
                .prefix("baton-sim-uploads-")
                .tempdir()
                .context("making a folder for uploads")?;
            (folder.path().to_owned(), Some(folder))
        };
        let shared = Shared::new(config, client, tls, path);
        let mut tasks = JoinSet::new();
        tasks.spawn(server::serve(Arc::clone(&shared), listener, address));
        Ok(Self {
            control: Control(shared),
            address,
            ca_pem,
            tasks,
            _folder: folder,
        })
    }

    /// Answers on a plain HTTP port too: `POST /_sim/tasks`, `POST /_sim/steps`, `GET /_sim/state`.
    pub async fn start_admin(&mut self, listen: SocketAddr) -> anyhow::Result<SocketAddr> {
        anyhow::ensure!(
            listen.ip().is_loopback(),
            "the admin port listens on loopback addresses only, {listen} is none"
        );
        let listener = tokio::net::TcpListener::bind(listen)
            .await
            .with_context(|| format!("the admin port cannot listen on {listen}"))?;
        let address = listener.local_addr()?;
        let control = self.control();
        self.tasks.spawn(admin::serve(control, listener));
        Ok(address)
    }

    /// What can be said to the running simulator; clones share it.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The address of the one port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `<name>@127.0.0.1:<port>/clients`.
    pub fn client_id(&self) -> &str {
        &self.control.0.client.id
    }

    /// The client secret that is accepted, for writing it where a connector reads it and for searching output for it.
    pub fn client_secret(&self) -> &str {
        credentials::expose(&self.control.0.client.secret)
    }

    /// The same as [`ConductorOneSim::client_secret`].
    pub fn client_secret_text(&self) -> &str {
        self.client_secret()
    }

    /// The certificate of the authority that signed the simulator's own.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Fails when a rule was broken, naming each; what was broken counts as seen afterwards.
    #[track_caller]
    pub fn assert_clean(&self) {
        let breaches = self.breaches();
        assert!(
            breaches.is_empty(),
            "the client broke rules of the protocol: {}",
            list(&breaches)
        );
    }
}

impl std::ops::Deref for ConductorOneSim {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

impl Drop for ConductorOneSim {
    /// A test must not pass over breaches that it did not look at.
    fn drop(&mut self) {
        let unseen = self.control.unseen();
        assert!(
            unseen.is_empty() || std::thread::panicking(),
            "nobody looked at broken rules of the protocol: {}",
            list(&unseen)
        );
    }
}

fn list(breaches: &[Breach]) -> String {
    let lines: Vec<String> = breaches.iter().map(ToString::to_string).collect();
    lines.join("; ")
}
