//! The configuration: one value, resolved and checked whole before anything starts.
//!
//! Owns the table of settings, the order of their sources (flag, then environment, then file, then default), every rule
//! about them and the only access of the crate to the process environment. Never starts anything and never talks to the
//! network. Invariants: a [`Config`] that exists is valid; all problems are reported at once; no value of a secret and no
//! value that might be one appears in an error, in `Debug` or in [`Config::describe`].

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use jiff::Timestamp;
use secrecy::SecretString;
use url::Url;

use crate::{
    error::{Class, Classify, Code},
    proto::connector as v2,
};

pub mod bid;
mod file;
mod operation;
pub mod secret;
pub mod settings;
pub mod source;
mod validate;
mod values;

pub use self::{
    operation::Operation,
    secret::{Secret, SecretOrigin, Texts},
    source::{ManualSource, Source, SystemSource},
    validate::{health_address, resolve},
    values::Flags,
};

/// The resource types of the connector, which `--sync-resource-types` chooses from.
pub const RESOURCE_TYPES: [&str; 4] = ["user", "group", "role", "app"];

/// The resource types that a sync can do without, which `--optional-resource-types` chooses from.
pub const OPTIONAL_TYPES: [&str; 2] = ["group", "app"];

/// The exit code of a daemon whose configuration is wrong (`EX_USAGE`).
pub const EXIT_BAD_CONFIGURATION: u8 = 64;

/// The whole configuration of a run.
#[derive(Debug, Clone)]
pub struct Config {
    /// How to reach ConductorOne; present in service mode and absent in a one-shot run.
    pub service: Option<Service>,
    /// How to reach JumpCloud.
    pub jumpcloud: JumpCloud,
    /// What a sync reads.
    pub sync: SyncOptions,
    /// What a one-shot run does.
    pub operation: Operation,
    /// The age recipient that passwords made up in a one-shot run are encrypted to.
    pub encrypt_to: Option<String>,
    /// What may be changed in JumpCloud, and how that is recorded.
    pub provisioning: Provisioning,
    /// Folder for temporary files; exists and is writable.
    pub work_dir: PathBuf,
    /// PEM certificates trusted beside the system's, for JumpCloud and ConductorOne; at least one when present.
    pub extra_ca_pem: Option<Vec<u8>>,
    /// How long running tasks may go on after the first signal.
    pub shutdown_grace: Duration,
    /// How often credentials that came from files are read again.
    pub credentials_interval: Duration,
    /// Where health is served; absent unless asked for.
    pub health: Option<HealthAddress>,
    /// What is done with the Kubernetes API; nothing unless asked for.
    pub kubernetes: Kubernetes,
    /// How to log.
    pub log: Log,
    /// Where traces go; absent unless asked for.
    #[cfg(feature = "otlp")]
    pub traces: Option<Traces>,
    /// Until when everything is logged, whatever [`Log::level`] says.
    pub debug_until: Option<Timestamp>,
    /// The file that a one-shot run writes.
    pub file: PathBuf,
    /// Pauses and limits are divided by this, 1 to 1000.
    #[cfg(feature = "simulator")]
    pub simulate_haste: u32,
    /// What the operator should know about settings without effect; to be logged once, at start.
    pub notices: Vec<String>,
    resolved: BTreeMap<&'static str, Resolved>,
}

/// What may be changed, and how that is recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provisioning {
    /// Whether anything is changed. A one-shot run that is told to make a change counts as allowed.
    pub mode: ProvisioningMode,
    /// Directory users may be deleted.
    pub allow_account_deletion: bool,
    /// Administrator roles may be granted and revoked.
    pub allow_administrator_roles: bool,
    /// File that the audit trail is appended to.
    pub audit_log: Option<PathBuf>,
    /// A step of a change, or `step:n`, at which the process kills itself.
    #[cfg(feature = "simulator")]
    pub simulate_crash_at: Option<String>,
}

/// Whether changes are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProvisioningMode {
    /// Every change is refused.
    #[default]
    Off,
    /// Changes are made.
    On,
    /// Changes are planned, checked and reported, and nothing is written.
    DryRun,
}

/// How to reach ConductorOne.
#[derive(Debug, Clone)]
pub struct Service {
    /// The client id, unparsed. Not secret, but it changes together with the secret.
    pub client_id: Secret,
    /// The client secret, unparsed.
    pub client_secret: Secret,
    /// `host[:port]` instead of the one in the client id.
    pub api_host: Option<String>,
    /// The name of this instance, 1 to 256 characters.
    pub host_id: String,
    /// Ask for tasks in batches.
    pub get_tasks: bool,
    /// How many tasks run at once, 1 to 100.
    pub task_concurrency: usize,
}

/// How to reach JumpCloud.
#[derive(Debug, Clone)]
pub struct JumpCloud {
    /// Base of the console API.
    pub console_url: Url,
    /// Base of Directory Insights.
    pub insights_url: Url,
    /// The credentials.
    pub auth: JumpCloudAuth,
    /// The organisation, for administrators of several.
    pub org_id: Option<String>,
    /// Time-out of a whole request.
    pub http_timeout: Duration,
    /// The most requests in flight at once, 1 to 64.
    pub max_concurrency: usize,
    /// Merge an administrator into the user with the same e-mail.
    pub merge_administrators: bool,
}

/// The credentials for JumpCloud.
#[derive(Debug, Clone)]
pub enum JumpCloudAuth {
    /// The key of an administrator.
    ApiKey(Secret),
    /// A service account.
    ServiceAccount {
        /// Its client id.
        client_id: String,
        /// Its client secret.
        client_secret: Secret,
        /// Where tokens are fetched.
        token_url: Url,
    },
}

impl JumpCloudAuth {
    /// The part of the credentials that is secret.
    pub fn secret(&self) -> &Secret {
        match self {
            Self::ApiKey(secret)
            | Self::ServiceAccount {
                client_secret: secret,
                ..
            } => secret,
        }
    }
}

/// What a sync reads.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SyncOptions {
    /// Read these resource types only; empty means all. A task that names types itself goes first.
    pub resource_types: Vec<String>,
    /// Leave these out where the JumpCloud key may not read them, instead of failing.
    pub optional_resource_types: Vec<String>,
    /// Read these resources only (one-shot run).
    pub targeted: Vec<v2::Resource>,
    /// Read resources only (one-shot run).
    pub skip_entitlements_and_grants: bool,
    /// Read no grants (one-shot run with targeted resources).
    pub skip_grants: bool,
    /// Write an empty sync.
    pub skip_full_sync: bool,
    /// How old an unfinished sync may be that the next attempt goes on with; zero = each sync begins anew.
    pub resume_max_age: Duration,
    /// How many listings run at once; 0 = chosen by the engine, 1 = one after the other.
    pub workers: usize,
    /// The file format asked for.
    pub storage_engine: Option<StorageEngine>,
    /// The largest share of the rows of a type that may be gone since the last sync, in percent; 100 = no limit.
    pub shrink_limit: u8,
    /// Until then any share may be gone.
    pub shrink_accept_until: Option<Timestamp>,
}

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageEngine {
    /// Format v1.
    Sqlite,
    /// Format v3.
    Pebble,
}

/// Where health is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthAddress {
    /// An IP address or a host name.
    pub host: String,
    /// The port; 0 = any free one.
    pub port: u16,
}

/// What is done with the Kubernetes API. Every name in it is one that the API accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// The Secret whose credentials are taken over while running.
    pub secret: Option<WatchedSecret>,
    /// Events are written about our own pod.
    pub events: bool,
    /// The Lease that says which replica works.
    pub lease: Option<String>,
    /// The pod that this process runs in.
    pub pod: Pod,
}

/// A Secret whose credentials are taken over while running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedSecret {
    /// Its name.
    pub name: String,
    /// The key of each credential.
    pub keys: SecretKeys,
}

/// The key that each credential has in a Secret, by the name of its setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretKeys(BTreeMap<&'static str, String>);

impl SecretKeys {
    /// The settings that a Secret may bring.
    pub const SETTINGS: [&'static str; 4] = [
        "client-id",
        "client-secret",
        "api-key",
        "jumpcloud-client-secret",
    ];

    /// Setting and key of each credential.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(setting, key)| (*setting, key.as_str()))
    }
}

impl Default for SecretKeys {
    /// Keys like the environment variables, as in the Secret of the vendor's documentation.
    fn default() -> Self {
        Self(
            Self::SETTINGS
                .into_iter()
                .map(|name| (name, settings::variable_of(name)))
                .collect(),
        )
    }
}

/// The pod that this process runs in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its name, or that of the host.
    pub name: String,
    /// Its namespace; otherwise that of the service account counts.
    pub namespace: Option<String>,
    /// Its UID.
    pub uid: Option<String>,
}

/// Where traces go.
#[cfg(feature = "otlp")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// `https://host:port`, or http where TLS is switched off.
    pub endpoint: Url,
    /// PEM certificates trusted instead of the system's.
    pub ca_pem: Option<Vec<u8>>,
}

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// What is logged.
    pub level: Level,
    /// How a line looks.
    pub format: LogFormat,
    /// Files to append to; `stderr` and `stdout` mean the streams. Empty means standard error.
    pub paths: Vec<PathBuf>,
}

/// What is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Errors only.
    Error,
    /// And warnings.
    Warn,
    /// And what happens.
    Info,
    /// And how.
    Debug,
}

impl Level {
    /// The names that the official connectors understand.
    pub const NAMES: &'static [&'static str] =
        &["debug", "info", "warn", "error", "dpanic", "panic", "fatal"];

    /// The level of a name; the three levels that end a Go program mean errors.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "debug" => Some(Self::Debug),
            "info" => Some(Self::Info),
            "warn" => Some(Self::Warn),
            "error" | "dpanic" | "panic" | "fatal" => Some(Self::Error),
            _ => None,
        }
    }

    /// The plain name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Console,
}

#[derive(Debug, Clone)]
struct Resolved {
    value: String,
    origin: String,
}

impl Config {
    /// Every secret of this configuration, to be kept out of the logs.
    pub fn secrets(&self) -> Vec<SecretString> {
        let mut secrets = vec![self.jumpcloud.auth.secret().value().clone()];
        if let Some(service) = &self.service {
            secrets.push(service.client_secret.value().clone());
        }
        secrets
    }

    /// The credentials of both peers: client id and client secret, and what proves us to JumpCloud.
    pub fn credentials(&self) -> Vec<&Secret> {
        let service = self.service.as_ref();
        service
            .into_iter()
            .flat_map(|service| [&service.client_id, &service.client_secret])
            .chain([self.jumpcloud.auth.secret()])
            .collect()
    }

    /// The resolved settings with their origins, one a line, in the order of the documentation; secrets are left out.
    pub fn describe(&self) -> String {
        let mut lines = vec![
            match self.service {
                Some(_) => "mode: service",
                None => "mode: one-shot",
            }
            .to_owned(),
        ];
        for setting in settings::SETTINGS {
            if let Some(Resolved { value, origin }) = self.resolved.get(setting.name) {
                lines.push(format!("{}: {value} ({origin})", setting.name));
            }
        }
        if let Some(service) = &self.service {
            lines.push(format!("host-id: {}", service.host_id));
            if let Some(host) = &service.api_host {
                lines.push(format!("c1-api-host: {host}"));
            }
        }
        lines.extend(self.notices.iter().map(|notice| format!("note: {notice}")));
        lines.push(String::new());
        lines.join("\n")
    }
}

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    subject: String,
    text: String,
}

impl Problem {
    /// A problem of anything that has a name.
    pub(crate) fn new(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            text: text.into(),
        }
    }

    /// A problem of a setting, named by flag and variable.
    pub(crate) fn of(name: &str, text: impl Into<String>) -> Self {
        Self::new(
            format!("--{name} ({})", settings::variable_of(name)),
            text.into(),
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.text)
    }
}

impl std::error::Error for Problem {}

/// Why there is no configuration. The text is one line that names every problem.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something is wrong with one or more settings.
    #[error("bad configuration: {}", joined(problems))]
    Invalid {
        /// All that is wrong.
        problems: Vec<Problem>,
        /// The daemon was meant, not a one-shot run.
        service: bool,
    },
    /// A one-shot operation was asked for that this version does not have.
    #[error("--{flag}: {operation} is not supported by this connector version")]
    Unsupported {
        /// The flag that asks for it.
        flag: &'static str,
        /// What was asked for.
        operation: &'static str,
    },
}

impl Error {
    /// The exit code: 64 for a daemon, the number of the gRPC code otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Invalid { service: true, .. } => EXIT_BAD_CONFIGURATION,
            other => u8::try_from(other.code().number()).unwrap_or(1),
        }
    }

    /// Every problem on its own; empty for an operation that is not supported.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid { problems, .. } => problems,
            Self::Unsupported { .. } => &[],
        }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        Class::Permanent
    }

    fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } => Code::InvalidArgument,
            Self::Unsupported { .. } => Code::Unimplemented,
        }
    }
}

fn joined(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems
        .iter()
        .map(|problem| problem.to_string().replace(['\n', '\r'], " "))
        .collect();
    texts.join("; ")
}

#[cfg(test)]
mod tests;
