//! A JumpCloud organisation over HTTP, with state: what tests, demo and people use in place of the real one.
//!
//! It owns the tenant, the conventions of both API generations, permissions, faults and the log of requests. It never
//! uses code of the connector: [`Truth`], what a correct sync must contain, comes from the generator's state alone.
//!
//! ```text
//! server ──► request_log · behaviour (latency, rate limit) · faults · access ─┬► serve ──► search · list ─┬► render ──► tenant
//!                                                                             └► writes ──────────────────┘
//! ```
//!
//! Its own paths, which need no key: `GET /_sim/truth`, `GET|DELETE /_sim/requests`, `POST /_sim/requests/reset`,
//! `GET|POST /_sim/behaviour` (the fields of [`Behaviour`] that are to change, as JSON), `POST /_sim/throttle` (a duration
//! such as `5s`, for which everything is answered 429), `POST /_sim/revoke-tokens`, `GET|DELETE /_sim/writes` (what was
//! changed) and `POST /_sim/run-due` (a moment: scheduled changes up to it take place).
//!
//! Invariants: the same shape and seed give the same bytes; a change of the state is visible to the next request;
//! neither values of headers nor bodies of requests are kept, except the state that writes ask for; a password can be
//! asked for with [`JumpCloudSim::password_of`] and is in no answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use anyhow::Context as _;
use secrecy::SecretString;

use super::{
    inject::{Injected, Injections},
    network::{Network, Outage},
    tls::{Certificate, Tls},
};

mod access;
mod behaviour;
pub mod command;
mod faults;
mod generator;
mod id;
mod list;
mod names;
mod render;
mod request_log;
mod routes;
mod search;
mod serve;
mod server;
mod tenant;
mod truth;
mod view;
mod writes;

pub use self::{
    access::{Key, KeyRole, OAuthClient},
    behaviour::{Behaviour, BehaviourError, RateLimit, RateLimitError},
    faults::{Fault, FaultError, FaultRule},
    id::{Id, IdError},
    request_log::{Counter, Entry, Requests},
    routes::{Collection, CollectionError},
    tenant::{MembershipMethod, NewUser, NoSuch, PasswordPolicy, Shape, Status, Tenant},
    truth::{AdminTruth, AppTruth, Counts, GroupTruth, Truth, UserTruth},
    view::Administrator,
    writes::{Write, Writes},
};

/// The key that may do everything, unless the configuration says otherwise.
pub const FULL_KEY: &str = "jca_SECRETSEED_full_access_key_000000001";
/// The key of a Read Only administrator.
pub const READ_ONLY_KEY: &str = "jca_SECRETSEED_read_only_key_00000000002";
/// The key of a Help Desk administrator: no applications, administrators and roles.
pub const HELP_DESK_KEY: &str = "jca_SECRETSEED_help_desk_key_00000000003";
/// The key of a Command Runner: no Directory Insights.
pub const COMMAND_RUNNER_KEY: &str = "jca_SECRETSEED_command_runner_0000000004";
/// The key of an Administrator, who may change everything except administrators.
pub const ADMINISTRATOR_KEY: &str = "jca_SECRETSEED_administrator_key_0000006";
/// The key of an administrator whose API access is switched off.
pub const NO_API_ACCESS_KEY: &str = "jca_SECRETSEED_no_api_access_00000000005";
/// The client id of the service account.
pub const CLIENT_ID: &str = "sim-service-account";
/// The client secret of the service account.
pub const CLIENT_SECRET: &str = "SECRETSEED_client_secret";

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The organisations; more than one makes keys that see all of them multi-tenant.
    pub organizations: Vec<Shape>,
    /// API keys.
    pub keys: Vec<Key>,
    /// OAuth clients.
    pub clients: Vec<OAuthClient>,
    /// How it behaves at first.
    pub behaviour: Behaviour,
    /// Whether it speaks https, with a certificate of its own authority ([`JumpCloudSim::ca_pem`]).
    pub tls: bool,
}

impl Default for Config {
    /// A small organisation on a free port, with a key for every role and one OAuth client.
    fn default() -> Self {
        Self::of(Shape::default())
    }
}

impl Config {
    /// One organisation of this shape on a free port, with a key for every role and one OAuth client.
    pub fn of(shape: Shape) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            organizations: vec![shape],
            keys: vec![
                Key::new("full", FULL_KEY, KeyRole::Full),
                Key::new("read-only", READ_ONLY_KEY, KeyRole::ReadOnly),
                Key::new("help-desk", HELP_DESK_KEY, KeyRole::HelpDesk),
                Key::new("command-runner", COMMAND_RUNNER_KEY, KeyRole::CommandRunner),
                Key::new("administrator", ADMINISTRATOR_KEY, KeyRole::Administrator),
                Key::new("no-api-access", NO_API_ACCESS_KEY, KeyRole::NoApiAccess),
            ],
            clients: vec![OAuthClient {
                id: CLIENT_ID.to_owned(),
                secret: SecretString::from(CLIENT_SECRET),
                token_life: Duration::from_hours(1),
            }],
            behaviour: Behaviour {
                retry_after: Some("1".to_owned()),
                link: true,
                ..Behaviour::default()
            },
            tls: false,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    world: RwLock<serve::World>,
    access: access::Access,
    switches: behaviour::Switchboard,
    log: request_log::RequestLog,
    writes: writes::WriteLog,
    desk: serve::Desk,
    injections: Injections<FaultRule>,
    network: Network,
    tls: Option<Tls>,
}

impl Shared {
    fn world(&self) -> RwLockReadGuard<'_, serve::World> {
        self.world
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    fn world_mut(&self) -> RwLockWriteGuard<'_, serve::World> {
        self.world
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A running simulator. Dropping it closes the port and every connection.
#[derive(Debug)]
pub struct JumpCloudSim {
    /// `http://127.0.0.1:<port>`, or https: console, token and Insights host in one.
    pub base_url: String,
    shared: Arc<Shared>,
    running: server::Running,
}

impl JumpCloudSim {
    /// Generates the organisations and begins to listen.
    ///
    /// Fails without an organisation, and when the address cannot be bound. Must be called inside a tokio runtime.
    #[expect(
        clippy::unused_async,
        reason = "needs a runtime, which an async signature says"
    )]
    pub async fn start(config: Config) -> io::Result<Self> {
        if config.organizations.is_empty() {
            let problem = "organizations is empty; give the shape of at least one";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let tenants: Vec<Tenant> = config.organizations.iter().map(Tenant::generate).collect();
        let organizations = tenants.iter().map(Tenant::organization_id).collect();
        let tls = config.tls.then(|| Tls::generate(&["h2", "http/1.1"]));
        let shared = Arc::new(Shared {
            world: RwLock::new(serve::World::new(tenants)),
            access: access::Access::new(config.keys, config.clients, organizations),
            switches: behaviour::Switchboard::new(config.behaviour),
            log: request_log::RequestLog::default(),
            writes: writes::WriteLog::default(),
            desk: serve::Desk::default(),
            injections: Injections::default(),
            network: Network::default(),
            tls: tls.transpose().map_err(io::Error::other)?,
        });
        let running = server::Running::start(config.listen, Arc::clone(&shared))?;
        Ok(Self {
            base_url: format!("{}://{}", shared.scheme(), running.address),
            shared,
            running,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// Where tokens are issued.
    pub fn token_url(&self) -> String {
        format!("{}/oauth2/token", self.base_url)
    }

    /// The id of the first organisation.
    pub fn organization_id(&self) -> Option<Id> {
        self.inspect(Tenant::organization_id)
    }

    /// Ids of all organisations, in the order of the configuration.
    pub fn organization_ids(&self) -> Vec<Id> {
        let world = self.shared.world();
        world.tenants.iter().map(Tenant::organization_id).collect()
    }

    /// What a correct sync of the first organisation contains now.
    pub fn truth(&self) -> Truth {
        self.truth_of(0).unwrap_or_else(|| {
            Truth::of(&Tenant::generate(&Shape {
                users: 0,
                groups: 0,
                apps: 0,
                admins: 0,
                ..Shape::default()
            }))
        })
    }

    /// What a correct sync of an organisation contains now.
    pub fn truth_of(&self, organization: usize) -> Option<Truth> {
        self.shared.world().tenants.get(organization).map(Truth::of)
    }

    /// Looks at the first organisation.
    pub fn inspect<R>(&self, look: impl FnOnce(&Tenant) -> R) -> Option<R> {
        self.shared.world().tenants.first().map(look)
    }

    /// Changes the first organisation; the next request sees it.
    pub fn edit<R>(&self, change: impl FnOnce(&mut Tenant) -> R) -> Option<R> {
        self.edit_organization(0, change)
    }

    /// Changes an organisation; the next request sees it.
    pub fn edit_organization<R>(
        &self,
        organization: usize,
        change: impl FnOnce(&mut Tenant) -> R,
    ) -> Option<R> {
        let mut world = self.shared.world_mut();
        world.tenants.get_mut(organization).map(change)
    }

    /// The changes made over HTTP since the start or the last reset, whatever became of their answers.
    pub fn writes(&self) -> Writes {
        self.shared.writes.snapshot()
    }

    /// Starts the log of changes again.
    pub fn reset_writes(&self) {
        self.shared.writes.reset();
    }

    /// Makes the scheduled changes of the first organisation whose time has come, and returns how many there were.
    pub fn run_due(&self, now: jiff::Timestamp) -> usize {
        self.edit(|tenant| tenant.run_due(now)).unwrap_or(0)
    }

    /// How it behaves now.
    pub fn behaviour(&self) -> Behaviour {
        self.shared.switches.current().behaviour.clone()
    }

    /// Changes how it behaves from the next request on.
    pub fn change_behaviour(&self, change: impl FnOnce(&mut Behaviour)) {
        let mut behaviour = self.behaviour();
        change(&mut behaviour);
        self.shared.switches.replace(behaviour);
    }

    /// Adds a rule to the fault plan, whose counters all start again.
    pub fn add_fault(&self, rule: &str) -> Result<(), FaultError> {
        let rule = rule.parse()?;
        self.change_behaviour(|behaviour| behaviour.faults.push(rule));
        Ok(())
    }

    /// Empties the fault plan.
    pub fn clear_faults(&self) {
        self.change_behaviour(|behaviour| behaviour.faults.clear());
    }

    /// Puts a fault in force as long as the answer lives, beside the plan and before it.
    pub fn inject(&self, rule: &str) -> Result<Injected, FaultError> {
        rule.parse().map(|rule| self.inject_rule(rule))
    }

    /// The same for a rule that has been read already.
    pub fn inject_rule(&self, rule: FaultRule) -> Injected {
        self.shared.injections.add(rule)
    }

    /// How often faults have struck, by their kind (the text without its value); those of [`Behaviour::faults`] as well.
    pub fn fired(&self) -> BTreeMap<String, u64> {
        self.shared.injections.counts()
    }

    /// Makes the network fail, until [`JumpCloudSim::end_outage`]; every open connection ends.
    pub fn begin_outage(&self, how: Outage) {
        self.shared.network.down(how, None);
    }

    /// Makes the network fail for a while; with no time at all, every open connection ends and nothing more.
    pub fn outage_for(&self, how: Outage, time: Duration) {
        self.shared.network.down(how, Some(time));
    }

    /// Ends an outage.
    pub fn end_outage(&self) {
        self.shared.network.up();
    }

    /// The certificate of the authority that signed the simulator's own; `None` without TLS.
    pub fn ca_pem(&self) -> Option<String> {
        self.shared.tls.as_ref().map(Tls::ca_pem)
    }

    /// Shows another certificate from the next connection on. Fails without TLS.
    pub fn show(&self, which: Certificate) -> anyhow::Result<()> {
        let tls = self.shared.tls.as_ref();
        tls.context("the simulator speaks plain http")?.show(which)
    }

    /// TLS handshakes that came to nothing.
    pub fn failed_handshakes(&self) -> u64 {
        self.shared.tls.as_ref().map_or(0, Tls::failed)
    }

    /// Answers 403 to everybody for these collections, and to nobody for the others.
    pub fn deny(&self, collections: impl IntoIterator<Item = Collection>) {
        let deny: BTreeSet<Collection> = collections.into_iter().collect();
        self.change_behaviour(|behaviour| behaviour.deny = deny);
    }

    /// Answers 429 to everything for a while.
    pub fn throttle_for(&self, time: Duration) {
        self.shared.switches.close_for(time);
    }

    /// Accepts these API keys from now on, and no others.
    pub fn replace_keys(&self, keys: Vec<Key>) {
        self.shared.access.replace_keys(keys);
    }

    /// Forgets all OAuth tokens: their bearers get 401.
    pub fn revoke_tokens(&self) {
        self.shared.access.revoke_tokens();
    }

    /// How many OAuth tokens were issued.
    pub fn tokens_issued(&self) -> u64 {
        self.shared.access.tokens_issued()
    }

    /// The requests since the start or the last reset.
    pub fn requests(&self) -> Requests {
        self.shared.log.snapshot()
    }

    /// How many there were, without a copy of them.
    pub fn requests_total(&self) -> u64 {
        self.shared.log.total()
    }

    /// Starts the counting again.
    pub fn reset_requests(&self) {
        self.shared.log.reset();
    }

    /// Closes the port and every connection, and waits until they are closed.
    pub async fn shutdown(self) {
        self.running.shutdown().await;
    }
}
