//! The simulator as a command: `baton-sim jumpcloud`.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Collection, Config, FULL_KEY, FaultRule, JumpCloudSim, Key, KeyRole, OAuthClient, RateLimit,
    Shape,
};

/// A JumpCloud organisation over HTTP.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8090")]
    pub listen: SocketAddr,
    /// Directory users.
    #[arg(long, default_value_t = 250)]
    pub users: u32,
    /// User groups.
    #[arg(long, default_value_t = 12)]
    pub groups: u32,
    /// Members of each group.
    #[arg(long, default_value_t = 20)]
    pub members_per_group: u32,
    /// Applications.
    #[arg(long, default_value_t = 5)]
    pub apps: u32,
    /// Groups bound to each application.
    #[arg(long, default_value_t = 2)]
    pub groups_per_app: u32,
    /// Users bound directly to each application.
    #[arg(long, default_value_t = 3)]
    pub users_per_app: u32,
    /// Administrators.
    #[arg(long, default_value_t = 6)]
    pub admins: u32,
    /// Members and application users that exist no more.
    #[arg(long, default_value_t = 0)]
    pub dangling_edges: u32,
    /// Organisations of this shape; with more than one, requests need x-org-id.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub organizations: u64,
    /// Everything is derived from it.
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// Waited before every answer.
    #[arg(long, default_value = "0ms", value_parser = humantime::parse_duration)]
    pub latency: Duration,
    /// Up to this much more is waited, by chance.
    #[arg(long, default_value = "0ms", value_parser = humantime::parse_duration)]
    pub jitter: Duration,
    /// An API key that is accepted; may be repeated.
    #[arg(long, default_value = FULL_KEY)]
    pub api_key: Vec<SecretString>,
    /// The key may read only.
    #[arg(long)]
    pub read_only: bool,
    /// Client id of a service account that may fetch tokens at /oauth2/token.
    #[arg(long, requires = "oauth_client_secret")]
    pub oauth_client_id: Option<String>,
    /// Client secret of that service account.
    #[arg(long, requires = "oauth_client_id")]
    pub oauth_client_secret: Option<SecretString>,
    /// How long its tokens live.
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    pub oauth_token_life: Duration,
    /// Requests per second before 429, such as 50/s, or 50/s:10 with a burst of 10.
    #[arg(long)]
    pub rate_limit: Option<RateLimit>,
    /// The text of Retry-After on 429; empty sends no header.
    #[arg(long, default_value = "1")]
    pub retry_after: String,
    /// Collections that answer 403: users, groups, applications, administrators, roles, directories, organizations,
    /// insights.
    #[arg(long, value_delimiter = ',')]
    pub deny: Vec<Collection>,
    /// Faults, such as /api/systemusers@3:503, POST /api/systemusers@1:applied-no-response or
    /// *@p0.01:reset-mid-body; a rule without a method holds for all. May be repeated, or
    /// separated by semicolons.
    #[arg(long, value_delimiter = ';')]
    pub faults: Vec<FaultRule>,
    /// Lists without a sort come in another order every time.
    #[arg(long)]
    pub shuffle: bool,
    /// v2 lists without x-total-count.
    #[arg(long)]
    pub hide_totals: bool,
    /// Writes what a correct sync must contain to this file, as JSON.
    #[arg(long)]
    pub truth_file: Option<PathBuf>,
    /// Writes the bound address to this file, once it listens.
    #[arg(long)]
    pub port_file: Option<PathBuf>,
}

/// The command cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}; choose another --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write the file of {flag}, {path}")]
    File {
        /// The flag.
        flag: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Standard output is closed.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// Signals cannot be received.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
}

impl Args {
    /// The configuration that the flags describe.
    pub fn config(&self) -> Config {
        let shape = |number: u64| Shape {
            seed: self.seed.wrapping_add(number),
            users: self.users,
            groups: self.groups,
            members_per_group: self.members_per_group,
            apps: self.apps,
            groups_per_app: self.groups_per_app,
            users_per_app: self.users_per_app,
            admins: self.admins,
            dangling_edges: self.dangling_edges,
            organization: if number == 0 {
                "Example Corp".to_owned()
            } else {
                format!("Example Corp {}", number + 1)
            },
            ..Shape::default()
        };
        let role = if self.read_only {
            KeyRole::ReadOnly
        } else {
            KeyRole::Full
        };
        let mut config = Config {
            listen: self.listen,
            organizations: (0..self.organizations).map(shape).collect(),
            ..Config::default()
        };
        config.keys = self
            .api_key
            .iter()
            .map(|key| Key::new("command line", key.expose_secret(), role))
            .collect();
        config.clients = self
            .oauth_client_id
            .iter()
            .zip(&self.oauth_client_secret)
            .map(|(id, secret)| OAuthClient {
                id: id.clone(),
                secret: secret.clone(),
                token_life: self.oauth_token_life,
            })
            .collect();
        let behaviour = &mut config.behaviour;
        behaviour.latency = self.latency;
        behaviour.jitter = self.jitter;
        behaviour.rate_limit = self.rate_limit;
        behaviour.retry_after = Some(self.retry_after.clone()).filter(|text| !text.is_empty());
        behaviour.deny = self.deny.iter().copied().collect::<BTreeSet<_>>();
        behaviour.faults.clone_from(&self.faults);
        behaviour.fault_seed = self.seed;
        behaviour.shuffle = self.shuffle;
        behaviour.hide_totals = self.hide_totals;
        config
    }
}

/// Runs the simulator until SIGTERM or SIGINT.
pub async fn run(args: Args) -> Result<(), CommandError> {
    let sim = JumpCloudSim::start(args.config())
        .await
        .map_err(|source| CommandError::Listen {
            address: args.listen,
            source,
        })?;
    if let Some(path) = &args.truth_file {
        let truth: Vec<_> = (0..).map_while(|number| sim.truth_of(number)).collect();
        let text = match truth.as_slice() {
            [only] => serde_json::to_vec(only),
            all => serde_json::to_vec(all),
        };
        let text = text.map_err(Into::into);
        write_file("--truth-file", path, text).await?;
    }
    if let Some(path) = &args.port_file {
        write_file(
            "--port-file",
            path,
            Ok(sim.address().to_string().into_bytes()),
        )
        .await?;
    }
    let mut stop = Signals::listen()?;
    writeln!(
        io::stdout().lock(),
        "JumpCloud simulator on {url}: {users} users, {groups} groups, {apps} applications, {admins} administrators; \
         point the connector at it with --base-url {url} and the API key given by --api-key",
        url = sim.base_url,
        users = args.users,
        groups = args.groups,
        apps = args.apps,
        admins = args.admins,
    )
    .map_err(CommandError::Output)?;
    stop.recv().await;
    sim.shutdown().await;
    Ok(())
}

async fn write_file(
    flag: &'static str,
    path: &std::path::Path,
    text: Result<Vec<u8>, io::Error>,
) -> Result<(), CommandError> {
    let failed = |source| CommandError::File {
        flag,
        path: path.to_owned(),
        source,
    };
    let text = text.map_err(failed)?;
    // Written aside and renamed, so that a reader who waits for the file never sees half of it.
    let aside = path.with_extension("partial");
    tokio::fs::write(&aside, text).await.map_err(failed)?;
    tokio::fs::rename(&aside, path).await.map_err(failed)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, CommandError> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(CommandError::Signals)?,
            interrupt: signal(SignalKind::interrupt()).map_err(CommandError::Signals)?,
        })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
