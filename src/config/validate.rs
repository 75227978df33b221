//! From layers of texts to a [`Config`]: every shape, range and cross-field rule, with the words that the operator sees.
//!
//! A message names the setting and says what to do. It describes a wrong value by its shape and never repeats it: a
//! secret that slipped into the wrong variable must not reach a log.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use secrecy::ExposeSecret;
use url::{Host, Url};

use super::{
    Config, Error, Flags, HealthAddress, JumpCloud, JumpCloudAuth, Kubernetes, Level, Log,
    LogFormat, OPTIONAL_TYPES, Operation, Pod, Problem, Provisioning, ProvisioningMode,
    RESOURCE_TYPES, Resolved, Secret, SecretKeys, SecretOrigin, Service, StorageEngine,
    SyncOptions, WatchedSecret, bid, secret,
    settings::{self, SETTINGS, Treatment, VARIABLES},
    source::{PathKind, Source},
    values::{self, Origin, Raw, Values},
};

/// More than any bundle of certificate authorities needs.
const CA_LIMIT: u64 = 4 * 1024 * 1024;

/// Resolves and checks the configuration of a run.
///
/// Blocks on the file system. All problems are reported together.
pub fn resolve(flags: &Flags, source: &dyn Source) -> Result<Config, Error> {
    let mut problems = Vec::new();
    let values = Values::gather(flags, source, &mut problems);
    let mut resolver = Resolver {
        values,
        source,
        problems,
        notices: Vec::new(),
        resolved: BTreeMap::new(),
    };
    let given = |names: &[&str]| {
        names
            .iter()
            .any(|name| resolver.values.text(name).is_some())
    };
    let service = given(&["client-id", "client-id-file"]);
    let meant_service = service || given(&["client-secret", "client-secret-file"]);
    resolver.treatments(service)?;
    let config = resolver.config(service);
    match config {
        Some(config) if resolver.problems.is_empty() => Ok(Config {
            notices: resolver.notices,
            resolved: resolver.resolved,
            ..config
        }),
        _ => Err(Error::Invalid {
            problems: resolver.problems,
            service: meant_service,
        }),
    }
}

/// Resolves the address of the health endpoints alone, for the command that asks them; nothing else is needed there.
pub fn health_address(flags: &Flags, source: &dyn Source) -> Result<HealthAddress, Error> {
    let mut problems = Vec::new();
    let values = Values::gather(flags, source, &mut problems);
    let mut resolver = Resolver {
        values,
        source,
        problems,
        notices: Vec::new(),
        resolved: BTreeMap::new(),
    };
    let address = resolver.health();
    if address.port == 0 && resolver.problems.is_empty() {
        resolver.problem(
            "health-check-port",
            "is 0, which means any free port; give the port that the daemon logged",
        );
    }
    if resolver.problems.is_empty() {
        Ok(address)
    } else {
        Err(Error::Invalid {
            problems: resolver.problems,
            service: false,
        })
    }
}

pub(super) struct Resolver<'a> {
    values: Values,
    source: &'a dyn Source,
    problems: Vec<Problem>,
    notices: Vec<String>,
    resolved: BTreeMap<&'static str, Resolved>,
}

impl Resolver<'_> {
    fn config(&mut self, service: bool) -> Option<Config> {
        let service_settings = self.service(service);
        let jumpcloud = self.jumpcloud();
        let sync = self.sync(service);
        let operation = if service {
            Operation::Sync
        } else {
            self.operation()
        };
        let provisioning = self.provisioning(operation.is_change());
        let work_dir = self.work_dir();
        let extra_ca_pem = self.certificates("ca-file");
        let shutdown_grace = self.duration(
            "shutdown-grace",
            Duration::from_secs(1)..=Duration::from_hours(1),
        );
        let credentials_interval = self.duration(
            "credentials-interval",
            Duration::from_secs(1)..=Duration::from_mins(5),
        );
        let health = {
            let enabled = self.switch("health-check");
            let address = self.health();
            enabled.then_some(address)
        };
        let kubernetes = self.kubernetes(service);
        let mut log = self.log();
        #[cfg(feature = "otlp")]
        let traces = self.traces();
        let debug_until = self.time("log-level-debug-expires-at");
        if debug_until.is_some() && log.level == Level::Debug {
            // Debugging that ends has to end somewhere; the SDK goes back to this level, too.
            log.level = Level::Info;
        }
        let file = self.path("file").unwrap_or_default();
        if file.as_os_str().is_empty() {
            self.problem("file", "is empty; give the path of the file to write");
        }
        if service && service_settings.is_none() {
            return None;
        }
        Some(Config {
            service: service_settings,
            jumpcloud: jumpcloud?,
            sync,
            operation,
            encrypt_to: self.text("encrypt-to"),
            provisioning,
            work_dir,
            extra_ca_pem,
            shutdown_grace,
            credentials_interval,
            health,
            kubernetes,
            log,
            #[cfg(feature = "otlp")]
            traces,
            debug_until,
            #[cfg(feature = "simulator")]
            simulate_haste: u32::try_from(self.integer("simulate-haste", 1..=1000)).unwrap_or(1),
            file,
            notices: Vec::new(),
            resolved: BTreeMap::new(),
        })
    }

    /// Answers the settings that we do not use, or not in this mode.
    fn treatments(&mut self, service: bool) -> Result<(), Error> {
        for setting in SETTINGS {
            if !self.values.is_active(setting) {
                continue;
            }
            let Some((_, origin)) = self.values.get(setting.name) else {
                continue;
            };
            let name = setting.name;
            match setting.treatment {
                Treatment::Used => {}
                Treatment::ServiceOnly if service => {}
                Treatment::OneShotOnly if !service => {}
                Treatment::ServiceOnly => self
                    .notices
                    .push(format!("{name} ({origin}) has no effect in a one-shot run")),
                Treatment::OneShotOnly => self
                    .notices
                    .push(format!("{name} ({origin}) has no effect in service mode")),
                Treatment::Ignored(reason) => self
                    .notices
                    .push(format!("{name} ({origin}) has no effect: {reason}")),
                Treatment::Refused(reason) => self.problem(name, format!("is refused: {reason}")),
                Treatment::Unsupported(operation) if service => self.notices.push(format!(
                    "{name} ({origin}) has no effect in service mode, and {operation} is not supported by this \
                     connector version"
                )),
                Treatment::Unsupported(operation) => {
                    return Err(Error::Unsupported {
                        flag: name,
                        operation,
                    });
                }
            }
        }
        for variable in VARIABLES.iter().filter(|variable| !variable.used) {
            if self
                .source
                .variable(variable.name)
                .is_some_and(|value| !value.is_empty())
            {
                self.notices.push(format!(
                    "{} has no effect: {}",
                    variable.name, variable.help
                ));
            }
        }
        for (name, meant) in values::misspelt(self.source) {
            self.notices.push(format!(
                "the environment variable {name} is not known; did you mean {meant}?"
            ));
        }
        Ok(())
    }

    fn service(&mut self, service: bool) -> Option<Service> {
        let client_id = self.credential("client-id");
        let client_secret = self.credential("client-secret");
        let task_concurrency = self.integer("task-concurrency", 1..=100);
        let get_tasks = values::variable("BATON_GET_TASKS", self.source, &mut self.problems)
            .is_some_and(|text| {
                // An unreadable value means off, as in the Go SDK, but not silently.
                values::switch(&text).unwrap_or_else(|| {
                    self.notices.push(
                        "BATON_GET_TASKS is neither true nor false and counts as false".to_owned(),
                    );
                    false
                })
            });
        let host_id = self.host_id();
        if !service {
            if self.values.text("client-secret").is_some()
                || self.values.text("client-secret-file").is_some()
            {
                self.problem(
                    "client-id",
                    "is missing while client-secret is given; give both for service mode or neither for a one-shot run",
                );
            }
            return None;
        }
        let api_host = self.api_host();
        if let Some(client_id) = &client_id
            && client_id
                .value()
                .expose_secret()
                .starts_with("secret-token:")
        {
            self.problem(
                "client-id",
                "looks like a client secret; were the two exchanged?",
            );
        }
        if client_secret.is_none()
            && self.values.text("client-secret").is_none()
            && self.values.text("client-secret-file").is_none()
        {
            self.problem(
                "client-secret",
                "is missing; service mode needs it beside client-id (or give client-secret-file)",
            );
        }
        Some(Service {
            client_id: client_id?,
            client_secret: client_secret?,
            api_host,
            host_id,
            get_tasks,
            task_concurrency,
        })
    }

    /// Takes effect when merely present, as in the Go SDK; an empty one could only lead to an address without a host.
    fn api_host(&mut self) -> Option<String> {
        const NAME: &str = "BATON_C1_API_HOST";
        let host = values::present(NAME, self.source, &mut self.problems)?;
        if host.is_empty() {
            self.problems.push(Problem::new(
                NAME,
                "is set to nothing, which overrides the host of the client id; unset it or give host[:port]",
            ));
            return None;
        }
        let fits = Url::parse(&format!("https://{host}/")).is_ok_and(|url| {
            url.host().is_some()
                && url.path() == "/"
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        });
        if !fits || host.contains('/') {
            self.problems.push(Problem::new(
                NAME,
                format!(
                    "is {}, where host or host:port is expected, without https:// and path",
                    shape(&host)
                ),
            ));
            return None;
        }
        Some(host)
    }

    fn host_id(&mut self) -> String {
        const NAME: &str = "BATON_HOST_ID";
        let given = values::present(NAME, self.source, &mut self.problems);
        let host_id = given.clone().unwrap_or_else(|| {
            let name = self.source.host_name();
            name.chars().take(256).collect()
        });
        if host_id.chars().count() > 256 {
            self.problems.push(Problem::new(
                NAME,
                format!(
                    "has {} characters; at most 256 are allowed",
                    host_id.chars().count()
                ),
            ));
        }
        if host_id.is_empty() {
            return "baton-sdk".to_owned();
        }
        host_id
    }

    fn provisioning(&mut self, is_asked_for: bool) -> Provisioning {
        let text = self.text("provisioning").unwrap_or_default();
        let mode = match (text.as_str(), values::switch(&text)) {
            ("dry-run", _) => ProvisioningMode::DryRun,
            (_, Some(true)) => ProvisioningMode::On,
            (_, Some(false)) if is_asked_for => ProvisioningMode::On,
            (_, Some(false)) | ("", None) => ProvisioningMode::Off,
            (_, None) => {
                let problem = format!(
                    "is {}, where true, false or dry-run is expected",
                    shape(&text)
                );
                self.problem("provisioning", problem);
                ProvisioningMode::Off
            }
        };
        Provisioning {
            mode,
            allow_account_deletion: self.switch("allow-account-deletion"),
            allow_administrator_roles: self.switch("allow-administrator-roles"),
            audit_log: self.path("audit-log"),
            #[cfg(feature = "simulator")]
            simulate_crash_at: self.text("simulate-crash-at"),
        }
    }

    fn jumpcloud(&mut self) -> Option<JumpCloud> {
        let region = self.choice("region", &["us", "eu", "in"]).unwrap_or("us");
        let base_url = self.url("base-url");
        if base_url.is_some()
            && let Some((_, origin)) = self.values.get("region")
        {
            let text = format!(
                "is given while {origin} chooses a region; keep one of the two, since both say where JumpCloud is"
            );
            self.problem("base-url", text);
        }
        let insights_url = self.url("insights-url");
        let token_url = self.url("jumpcloud-token-url");
        let part = match region {
            "us" => String::new(),
            other => format!("{other}."),
        };
        let console_url = match &base_url {
            Some(url) => Some(url.clone()),
            None => Url::parse(&format!("https://console.{part}jumpcloud.com")).ok(),
        };
        let insights_url = insights_url.or_else(|| match &base_url {
            Some(url) => Some(url.clone()),
            None => Url::parse(&format!("https://api.{part}jumpcloud.com")).ok(),
        });
        let regional_token_url = match &base_url {
            Some(_) => None,
            None => Url::parse(&format!(
                "https://admin-oauth.id.{part}jumpcloud.com/oauth2/token"
            ))
            .ok(),
        };
        let auth = self.jumpcloud_auth(token_url.or(regional_token_url));
        let org_id = self.text("org-id");
        if let Some(org_id) = &org_id
            && !(org_id.len() == 24 && org_id.chars().all(|c| c.is_ascii_hexdigit()))
        {
            let text = format!(
                "is {}, where an organisation id of 24 hexadecimal digits is expected",
                shape(org_id)
            );
            self.problem("org-id", text);
        }
        let seconds = self.integer("http-timeout-seconds", 1..=1800);
        let max_concurrency = self.integer("max-concurrency", 1..=64);
        let merge_administrators = self.switch("merge-administrators");
        Some(JumpCloud {
            console_url: console_url?,
            insights_url: insights_url?,
            auth: auth?,
            org_id,
            http_timeout: Duration::from_secs(u64::try_from(seconds).unwrap_or(300)),
            max_concurrency,
            merge_administrators,
        })
    }

    fn jumpcloud_auth(&mut self, token_url: Option<Url>) -> Option<JumpCloudAuth> {
        let is_given = |values: &Values, name: &str| values.text(name).is_some();
        let key_given = is_given(&self.values, "api-key") || is_given(&self.values, "api-key-file");
        let secret_given = is_given(&self.values, "jumpcloud-client-secret")
            || is_given(&self.values, "jumpcloud-client-secret-file");
        let key = self.credential("api-key");
        let client_secret = self.credential("jumpcloud-client-secret");
        let client_id = self.text("jumpcloud-client-id");
        match (key_given, client_id, secret_given) {
            (true, None, false) => {
                if self.values.text("jumpcloud-token-url").is_some() {
                    self.problem(
                        "jumpcloud-token-url",
                        "is given without jumpcloud-client-id; an API key needs no token endpoint",
                    );
                }
                Some(JumpCloudAuth::ApiKey(key?))
            }
            (true, _, _) => {
                self.problem(
                    "api-key",
                    "is given together with a service account (jumpcloud-client-id, jumpcloud-client-secret); \
                     keep one way of authentication",
                );
                None
            }
            (false, Some(client_id), true) => {
                if client_id
                    .chars()
                    .any(|c| c.is_whitespace() || c.is_control())
                {
                    self.problem(
                        "jumpcloud-client-id",
                        "holds a blank or control character; paste the client id alone",
                    );
                }
                if token_url.is_none() && self.values.text("jumpcloud-token-url").is_none() {
                    self.problem(
                        "jumpcloud-token-url",
                        "is missing; with base-url the token endpoint cannot be guessed, and the client secret must \
                         not go to a guessed host",
                    );
                }
                Some(JumpCloudAuth::ServiceAccount {
                    client_id,
                    client_secret: client_secret?,
                    token_url: token_url?,
                })
            }
            (false, Some(_), false) => {
                self.problem(
                    "jumpcloud-client-secret",
                    "is missing; a service account needs it beside jumpcloud-client-id (or give \
                     jumpcloud-client-secret-file)",
                );
                None
            }
            (false, None, true) => {
                self.problem(
                    "jumpcloud-client-id",
                    "is missing; a service account needs it beside jumpcloud-client-secret",
                );
                None
            }
            (false, None, false) => {
                self.problem(
                    "api-key",
                    "is missing; give api-key or api-key-file, or a service account by jumpcloud-client-id and \
                     jumpcloud-client-secret",
                );
                None
            }
        }
    }

    fn sync(&mut self, service: bool) -> SyncOptions {
        let resource_types = self.types("sync-resource-types", &RESOURCE_TYPES);
        let optional_resource_types = self.types("optional-resource-types", &OPTIONAL_TYPES);
        let mut targeted = Vec::new();
        for (index, id) in self.list("sync-resources").iter().enumerate() {
            match bid::parse_resource(id) {
                Ok(resource) => targeted.push(resource),
                Err(problem) => {
                    let text = format!("id number {} {problem}", index + 1);
                    self.problem("sync-resources", text);
                }
            }
        }
        let skip_grants = self.switch("skip-grants");
        if skip_grants && (service || self.list("sync-resources").is_empty()) {
            self.problem(
                "skip-grants",
                "skip-grants can only be set within a targeted sync; add sync-resources in a one-shot run, or remove it",
            );
        }
        let skip_entitlements_and_grants = self.switch("skip-entitlements-and-grants");
        let resume_max_age = self.duration(
            "sync-resume-max-age",
            Duration::ZERO..=Duration::from_hours(7 * 24),
        );
        let workers = self.signed("workers", -1..=64);
        let parallel = self.switch("parallel-sync");
        // -1 and "not given" leave the number to the engine, which says 0 for that; the SDK's 0 is one at a time.
        let workers = if parallel && self.values.get("workers").is_none() {
            0
        } else {
            match usize::try_from(workers) {
                Ok(number) => number.max(1),
                Err(_) => 0,
            }
        };
        let storage_engine = self
            .choice("storage-engine", &["sqlite", "pebble"])
            .map(|engine| match engine {
                "sqlite" => StorageEngine::Sqlite,
                _ => StorageEngine::Pebble,
            });
        let one_shot = !service;
        SyncOptions {
            resource_types,
            optional_resource_types,
            targeted: if one_shot { targeted } else { Vec::new() },
            skip_entitlements_and_grants: one_shot && skip_entitlements_and_grants,
            skip_grants: one_shot && skip_grants,
            skip_full_sync: self.switch("skip-full-sync"),
            resume_max_age,
            workers,
            storage_engine,
            shrink_limit: u8::try_from(self.signed("shrink-limit", 1..=100)).unwrap_or(1),
            shrink_accept_until: self.time("shrink-accept-until"),
        }
    }

    fn work_dir(&mut self) -> PathBuf {
        let work = self.path("work-dir");
        let temp = self.path("c1z-temp-dir");
        if let (Some(work), Some(temp)) = (&work, &temp)
            && work != temp
        {
            self.problem(
                "work-dir",
                "differs from c1z-temp-dir, which is another name for it; keep one of them",
            );
        }
        let (subject, path) = match (work, temp) {
            (Some(path), _) => (named("work-dir"), path),
            (None, Some(path)) => (named("c1z-temp-dir"), path),
            (None, None) => {
                match values::variable("BATON_TMPDIR", self.source, &mut self.problems) {
                    Some(path) => ("BATON_TMPDIR".to_owned(), PathBuf::from(path)),
                    None => (
                        format!("{}, by default the folder of the system", named("work-dir")),
                        self.source.temp_dir(),
                    ),
                }
            }
        };
        let problem =
            match self.source.kind(&path) {
                Ok(PathKind::Directory) => self.source.check_writable(&path).err().map(|error| {
                    format!("files cannot be made in {} ({error})", secret::shown(&path))
                }),
                Ok(PathKind::File) => Some(format!("{} is no folder", secret::shown(&path))),
                Err(error) => Some(format!("cannot use {} ({error})", secret::shown(&path))),
            };
        if let Some(problem) = problem {
            self.problems.push(Problem::new(
                subject,
                format!("{problem}; give an existing folder that this user may write to"),
            ));
        }
        path
    }

    /// The PEM certificates in the file that a setting names.
    fn certificates(&mut self, name: &'static str) -> Option<Vec<u8>> {
        let path = self.path(name)?;
        let content = match self.source.read(&path, CA_LIMIT) {
            Ok(mut content) => {
                // It is kept.
                content.shrink_to_fit();
                content
            }
            Err(error) => {
                let text = format!("cannot read {}: {error}", secret::shown(&path));
                self.problem(name, text);
                return None;
            }
        };
        let Some(problem) = certificate_problem(&content) else {
            return Some(content);
        };
        let text = format!("{} {problem}", secret::shown(&path));
        self.problem(name, text);
        None
    }

    fn health(&mut self) -> HealthAddress {
        let port = u16::try_from(self.signed("health-check-port", 0..=65535)).unwrap_or(0);
        let host = self.text("health-check-bind-address").unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_name = !host.is_empty()
            && host.len() <= 253
            && host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
        if bare.parse::<IpAddr>().is_err() && !is_name {
            let text = format!(
                "is {}, where an IP address or a host name without port is expected",
                shape(&host)
            );
            self.problem("health-check-bind-address", text);
        }
        HealthAddress {
            host: bare.to_owned(),
            port,
        }
    }

    fn kubernetes(&mut self, service: bool) -> Kubernetes {
        let secret = self.dns_name("kubernetes-secret", SUBDOMAIN);
        let keys = self.secret_keys();
        if !self.is_given("kubernetes-secret") && self.is_given("kubernetes-secret-keys") {
            self.problem(
                "kubernetes-secret-keys",
                "is given without kubernetes-secret; give the name of the Secret too",
            );
        }
        let events = self.switch("kubernetes-events");
        let lease = self.dns_name("kubernetes-lease", SUBDOMAIN);
        let name = self.dns_name("pod-name", SUBDOMAIN);
        let namespace = self.dns_name("pod-namespace", LABEL);
        let uid = self.text("pod-uid");
        if let Some(uid) = &uid
            && !(uid.len() <= 128 && uid.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
        {
            let text = format!(
                "is {}, where the UID of a pod is expected, of letters, digits and hyphens",
                shape(uid)
            );
            self.problem("pod-uid", text);
        }
        let name = name.unwrap_or_else(|| self.source.host_name());
        if service && events && !self.is_given("pod-name") && !is_dns_name(&name, SUBDOMAIN) {
            self.problem(
                "pod-name",
                "is missing, and the host name is no name of a pod; kubernetes-events needs the pod's name",
            );
        }
        if service && events && uid.is_none() {
            self.notices.push(
                "pod-uid is missing, so kubectl describe pod does not show the Events of kubernetes-events; kubectl \
                 get events does"
                    .to_owned(),
            );
        }
        Kubernetes {
            secret: secret.map(|name| WatchedSecret { name, keys }),
            events,
            lease,
            pod: Pod {
                name,
                namespace,
                uid,
            },
        }
    }

    /// A name that the Kubernetes API accepts; any other is a problem.
    fn dns_name(&mut self, name: &'static str, limit: DnsName) -> Option<String> {
        let text = self.text(name)?;
        if is_dns_name(&text, limit) {
            return Some(text);
        }
        // What cannot be used is not shown either: it may be a credential in the wrong place.
        self.resolved.remove(name);
        let problem = format!(
            "is {}, where a name of the Kubernetes API is expected: at most {} lower-case letters, digits{} hyphens, \
             beginning and ending with a letter or digit",
            shape(&text),
            limit.longest,
            if limit.dots { ", dots and" } else { " and" },
        );
        self.problem(name, problem);
        None
    }

    fn secret_keys(&mut self) -> SecretKeys {
        const NAME: &str = "kubernetes-secret-keys";
        let mut keys = SecretKeys::default();
        let mut seen = BTreeSet::new();
        for (index, item) in self.list(NAME).iter().enumerate() {
            let number = index + 1;
            let problem = match item.split_once('=') {
                None => Some(format!(
                    "item number {number} is no pair such as api-key=jc-key"
                )),
                Some((_, key)) if !is_secret_key(key) => Some(format!(
                    "item number {number} names no key of a Secret; keys are 1 to 253 letters, digits, hyphens, \
                     underscores and dots"
                )),
                Some((setting, key)) => match keys.0.get_mut(setting) {
                    None => Some(format!(
                        "item number {number} is for none of {}",
                        SecretKeys::SETTINGS.join(", ")
                    )),
                    Some(_) if !seen.insert(setting.to_owned()) => Some(format!(
                        "item number {number} is for {setting}, which an earlier one is for already"
                    )),
                    Some(known) => {
                        key.clone_into(known);
                        None
                    }
                },
            };
            if let Some(problem) = problem {
                self.resolved.remove(NAME);
                self.problem(NAME, problem);
            }
        }
        keys
    }

    fn log(&mut self) -> Log {
        let level = self
            .choice("log-level", Level::NAMES)
            .and_then(Level::from_name)
            .unwrap_or(Level::Info);
        let format = match self.choice("log-format", &["json", "console"]) {
            Some("json") => LogFormat::Json,
            Some(_) => LogFormat::Console,
            None if self.source.is_terminal() => LogFormat::Console,
            None => LogFormat::Json,
        };
        let paths = self
            .list("log-path")
            .into_iter()
            .map(PathBuf::from)
            .collect();
        Log {
            level,
            format,
            paths,
        }
    }

    /// The rules of the official connectors, and one more: switching tracing off alone is enough to switch it off.
    #[cfg(feature = "otlp")]
    fn traces(&mut self) -> Option<super::Traces> {
        const NAME: &str = "otel-collector-endpoint";
        let insecure = self.switch("otel-collector-endpoint-tls-insecure");
        let disabled = self.switch("otel-tracing-disabled");
        // Nothing to switch off: logs are not exported.
        self.switch("otel-logging-disabled");
        let text = self.text(NAME)?;
        let ca_pem = self.collector_ca();
        let scheme = if insecure { "http" } else { "https" };
        let endpoint = if text.contains("://") {
            Url::parse(&text)
        } else {
            Url::parse(&format!("{scheme}://{text}"))
        };
        let fits = |url: &Url| {
            url.scheme() == scheme
                && url.host().is_some()
                && url.path().trim_matches('/').is_empty()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        };
        let Some(endpoint) = endpoint.ok().filter(fits) else {
            let problem = format!(
                "is {}, where host:port of a gRPC collector is expected, such as collector:4317; without TLS it needs \
                 otel-collector-endpoint-tls-insecure",
                shape(&text)
            );
            self.problem(NAME, problem);
            return None;
        };
        (!disabled).then_some(super::Traces { endpoint, ca_pem })
    }

    /// The certificates for the collector, from a file or from base64url of PEM, as in the SDK.
    #[cfg(feature = "otlp")]
    fn collector_ca(&mut self) -> Option<Vec<u8>> {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

        const GIVEN: &str = "otel-collector-endpoint-tls-cert";
        let given = match self.values.get(GIVEN) {
            Some((Raw::Text(text), _)) if !text.is_empty() => Some(text.trim().to_owned()),
            _ => None,
        };
        let file = self.certificates("otel-collector-endpoint-tls-cert-path");
        let Some(given) = given else {
            return file;
        };
        if file.is_some() {
            self.problem(
                GIVEN,
                "is given together with its -path; keep one of the two",
            );
            return None;
        }
        let pem = if given.starts_with("-----BEGIN") {
            given.into_bytes()
        } else {
            URL_SAFE_NO_PAD
                .decode(given.trim_end_matches('='))
                .unwrap_or_default()
        };
        if let Some(problem) = certificate_problem(&pem) {
            self.problem(GIVEN, format!("{problem}; give PEM as base64url"));
            return None;
        }
        Some(pem)
    }

    fn time(&mut self, name: &'static str) -> Option<Timestamp> {
        let text = self.text(name)?;
        let time = text.parse().ok();
        if time.is_none() {
            let problem = format!(
                "is {}, where a time with its offset is expected, such as 2026-10-01T08:00:00Z",
                shape(&text)
            );
            self.problem(name, problem);
        }
        time
    }

    pub(super) fn problem(&mut self, name: &str, text: impl Into<String>) {
        let mut problem = Problem::of(name, text);
        if let Some((_, Origin::File(path))) = self.values.get(name) {
            problem.subject = format!("{} in config file {path}", problem.subject);
        }
        self.problems.push(problem);
    }

    /// Remembers what a setting came to, for [`Config::describe`].
    fn note(&mut self, name: &'static str, value: String, origin: &Origin) {
        self.resolved.insert(
            name,
            Resolved {
                value,
                origin: origin.to_string(),
            },
        );
    }

    /// The text given for a setting, or its default.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        let default = settings::find(name).and_then(|setting| setting.default);
        let (text, origin) = match self.values.get(name) {
            Some((Raw::Text(text), origin)) => (text.clone(), origin.clone()),
            _ => (default?.to_owned(), Origin::Default),
        };
        if text.is_empty() {
            return None;
        }
        self.note(name, text.clone(), &origin);
        Some(text)
    }

    fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    fn list(&mut self, name: &'static str) -> Vec<String> {
        let Some((Raw::Items(items), origin)) = self.values.get(name) else {
            return Vec::new();
        };
        let (items, origin) = (items.clone(), origin.clone());
        self.note(name, items.join(", "), &origin);
        items
    }

    /// A list of resource types, each of which must be one of `known`.
    fn types(&mut self, name: &'static str, known: &[&'static str]) -> Vec<String> {
        let types = self.list(name);
        for resource_type in &types {
            if !known.contains(&resource_type.as_str()) {
                let hint = settings::nearest(resource_type, known.iter().copied())
                    .map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
                let text = format!(
                    "holds {}, which is none of {}{hint}",
                    shape(resource_type),
                    known.join(", ")
                );
                self.problem(name, text);
            }
        }
        types
    }

    /// Whether a setting asks for something.
    pub(super) fn is_given(&self, name: &str) -> bool {
        settings::find(name).is_some_and(|setting| self.values.is_active(setting))
    }

    fn switch(&mut self, name: &'static str) -> bool {
        let Some(text) = self.text(name) else {
            return false;
        };
        values::switch(&text).unwrap_or_else(|| {
            let problem = format!("is {}, where true or false is expected", shape(&text));
            self.problem(name, problem);
            false
        })
    }

    fn signed(&mut self, name: &'static str, range: RangeInclusive<i64>) -> i64 {
        let (least, most) = (*range.start(), *range.end());
        let given = match self.values.get(name) {
            // An empty flag is no number, while an empty variable never comes this far.
            Some((Raw::Text(text), _)) if text.is_empty() => Some(String::new()),
            _ => self.text(name),
        };
        let Some(text) = given else {
            return least;
        };
        let problem = match text.trim().parse::<i64>() {
            Ok(number) if range.contains(&number) => return number,
            Ok(number) => format!("is {number}, outside {least} to {most}"),
            Err(_) => format!(
                "is {}, where a whole number from {least} to {most} is expected",
                shape(&text)
            ),
        };
        self.problem(name, problem);
        least
    }

    fn integer(&mut self, name: &'static str, range: RangeInclusive<u16>) -> usize {
        let range = i64::from(*range.start())..=i64::from(*range.end());
        usize::try_from(self.signed(name, range)).unwrap_or(1)
    }

    fn duration(&mut self, name: &'static str, range: RangeInclusive<Duration>) -> Duration {
        let least = *range.start();
        let Some(text) = self.text(name) else {
            self.problem(name, "is empty; give a length of time such as 25s");
            return least;
        };
        let limits = format!(
            "from {} to {}",
            humantime::format_duration(least),
            humantime::format_duration(*range.end())
        );
        let problem = match humantime::parse_duration(&text) {
            Ok(duration) if range.contains(&duration) => return duration,
            Ok(duration) => format!("is {}, not {limits}", humantime::format_duration(duration)),
            Err(_) => format!(
                "is {}, where a length of time such as 25s or 2m is expected, {limits}",
                shape(&text)
            ),
        };
        self.problem(name, problem);
        least
    }

    fn choice(
        &mut self,
        name: &'static str,
        choices: &'static [&'static str],
    ) -> Option<&'static str> {
        let text = self.text(name)?;
        if let Some(choice) = choices.iter().find(|choice| **choice == text) {
            return Some(choice);
        }
        let hint = settings::nearest(&text, choices.iter().copied())
            .map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
        let problem = format!("is {}, none of {}{hint}", shape(&text), choices.join(", "));
        self.problem(name, problem);
        None
    }

    fn url(&mut self, name: &'static str) -> Option<Url> {
        let text = self.text(name)?;
        let problem = match Url::parse(&text) {
            Err(error) => format!(
                "is {}, where an address such as https://console.jumpcloud.com is expected ({error})",
                shape(&text)
            ),
            Ok(url) => match check_url(&url) {
                Ok(()) => return Some(url),
                Err(problem) => problem.to_owned(),
            },
        };
        // What cannot be used must not be shown either: it may hold a password.
        self.resolved.remove(name);
        self.problem(name, problem);
        None
    }

    /// A credential from its value or from its file.
    fn credential(&mut self, name: &'static str) -> Option<Secret> {
        let file_name = SETTINGS
            .iter()
            .map(|setting| setting.name)
            .find(|other| other.strip_suffix("-file") == Some(name))?;
        let value = self
            .values
            .text(name)
            .map(|(text, origin)| (text.to_owned(), origin.clone()));
        let file = self
            .values
            .text(file_name)
            .map(|(text, origin)| (text.to_owned(), origin.clone()));
        let secret = match (value, file) {
            (None, None) => return None,
            (Some((_, value)), Some((_, file))) => {
                let text = format!("is given by {value} and as a file by {file}; keep one of them");
                self.problem(name, text);
                return None;
            }
            (Some((value, origin)), None) => {
                let secret = Secret::from_value(name, value, origin.to_string());
                self.noted(name, secret, &origin)
            }
            (None, Some((path, origin))) => {
                let secret = Secret::from_file(name, Path::new(&path), self.source);
                self.noted(name, secret, &origin)
            }
        };
        match secret {
            Ok(secret) => Some(secret),
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    fn noted(
        &mut self,
        name: &'static str,
        secret: Result<Secret, Problem>,
        origin: &Origin,
    ) -> Result<Secret, Problem> {
        let secret = secret?;
        let value =
            if name == "client-id" && !secret.value().expose_secret().contains("secret-token:") {
                secret.value().expose_secret().to_owned()
            } else {
                format!(
                    "[redacted, {} characters]",
                    secret.value().expose_secret().len()
                )
            };
        let value = match secret.origin() {
            SecretOrigin::Value(_) => value,
            SecretOrigin::File(path) => format!("{value} from {}", path.display()),
        };
        self.note(name, value, origin);
        Ok(secret)
    }
}

/// https anywhere, plain http on loopback only, and nothing in the address that does not belong there.
fn check_url(url: &Url) -> Result<(), &'static str> {
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Err("names no host"),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name or password; credentials have settings of their own");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("holds a query or fragment; give scheme, host, port and path only");
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if loopback => Ok(()),
        "http" => Err("is plain http, which is accepted for loopback addresses only; use https"),
        _ => Err("begins with neither https:// nor http://"),
    }
}

/// What a name of the Kubernetes API may look like (RFC 1123, as its validation says).
#[derive(Clone, Copy)]
struct DnsName {
    longest: usize,
    dots: bool,
}

/// Names of most objects.
const SUBDOMAIN: DnsName = DnsName {
    longest: 253,
    dots: true,
};
/// Names of namespaces.
const LABEL: DnsName = DnsName {
    longest: 63,
    dots: false,
};

fn is_dns_name(text: &str, limit: DnsName) -> bool {
    let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= limit.longest
        && (limit.dots || !text.contains('.'))
        && text.split('.').all(|label| {
            label.starts_with(is_edge)
                && label.ends_with(is_edge)
                && label.chars().all(|c| is_edge(c) || c == '-')
        })
}

fn is_secret_key(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn named(name: &str) -> String {
    format!("--{name} ({})", settings::variable_of(name))
}

/// What is wrong with PEM text that should hold certificates.
fn certificate_problem(pem: &[u8]) -> Option<&'static str> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Some("holds no certificate; expected one or more blocks of BEGIN CERTIFICATE")
        }
        Ok(_) => None,
        Err(_) => Some("is no valid PEM file of certificates"),
    }
}

/// A text described without repeating it.
pub(super) fn shape(text: &str) -> String {
    match text.chars().count() {
        0 => "empty".to_owned(),
        1 => "a text of 1 character".to_owned(),
        count => format!("a text of {count} characters"),
    }
}
