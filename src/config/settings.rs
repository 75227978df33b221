//! The table of all settings: name, shape, default, meaning, and what becomes of those that we do not use.
//!
//! The command line, the environment, the configuration file, `--help` and the documentation are all derived from this
//! one table, so none of them can know a setting that another does not. Names, defaults and visibility of the settings
//! common to all connectors are those of the Go SDK v0.25.0.

/// The shape of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A text that must never be shown.
    Secret,
    /// `true` or `false`; the bare flag means `true`.
    Switch,
    /// `true`, `false` or `dry-run`; the bare flag means `true`.
    Mode,
    /// A whole number.
    Integer,
    /// Texts; the flag may be repeated, and one text may hold several separated by commas.
    List,
    /// A length of time such as `25s` or `2m`.
    Duration,
    /// The path of a file or directory.
    Path,
}

/// What becomes of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// It takes effect in both modes.
    Used,
    /// It takes effect in service mode only.
    ServiceOnly,
    /// It takes effect in a one-shot run only; in service mode it is ignored, and a log line says so.
    OneShotOnly,
    /// It is accepted so that existing deployments start, has no effect, and a log line says why.
    Ignored(&'static str),
    /// It would change the result in a way that we cannot honour: the start is refused, and the message says why.
    Refused(&'static str),
    /// It asks for an operation that this version does not have. A one-shot run ends with code 12; in service mode it is
    /// ignored, as every connector does there, and a log line says so.
    Unsupported(&'static str),
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The flag without dashes, which is also the key in the configuration file.
    pub name: &'static str,
    /// The one-letter flag.
    pub short: Option<char>,
    /// The shape of its value.
    pub kind: Kind,
    /// The value when nothing is given, as it would be written.
    pub default: Option<&'static str>,
    /// Left out of `--help`.
    pub hidden: bool,
    /// The heading it stands under.
    pub group: &'static str,
    /// What it means, as a sentence.
    pub help: &'static str,
    /// What becomes of it.
    pub treatment: Treatment,
}

impl Setting {
    const fn new(name: &'static str, kind: Kind, group: &'static str, help: &'static str) -> Self {
        Self {
            name,
            short: None,
            kind,
            default: None,
            hidden: false,
            group,
            help,
            treatment: Treatment::Used,
        }
    }

    const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }

    const fn default(mut self, value: &'static str) -> Self {
        self.default = Some(value);
        self
    }

    const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    const fn treated(mut self, treatment: Treatment) -> Self {
        self.treatment = treatment;
        self
    }

    const fn unsupported(name: &'static str, kind: Kind, operation: &'static str) -> Self {
        Self::new(
            name,
            kind,
            "Not supported",
            "Not supported by this version.",
        )
        .hidden()
        .treated(Treatment::Unsupported(operation))
    }

    /// The environment variable of this setting.
    pub fn variable(&self) -> String {
        variable_of(self.name)
    }
}

/// The environment variable of a setting: `BATON_` and the name in capitals with underscores.
pub fn variable_of(name: &str) -> String {
    format!("BATON_{}", name.to_ascii_uppercase().replace('-', "_"))
}

/// The setting of a name.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

const JUMPCLOUD: &str = "JumpCloud";
const CONDUCTOR_ONE: &str = "ConductorOne";
const PROVISIONING: &str = "Changes";
const SYNC: &str = "Sync";
const ONE_SHOT: &str = "One-shot run";
const CHANGE: &str = "One change (one-shot run)";
const RESOURCES: &str = "Network and files";
const HEALTH: &str = "Health";
const LOGS: &str = "Logs";
const TRACES: &str = "Traces (builds with the feature otlp)";
const KUBERNETES: &str = "Kubernetes";
const COMPATIBILITY: &str = "Accepted for compatibility";

/// What becomes of the settings for Kubernetes, which a build can leave out.
const IN_KUBERNETES: Treatment = if cfg!(feature = "kubernetes") {
    Treatment::ServiceOnly
} else {
    Treatment::Refused(
        "this build has no part for Kubernetes; use one with the feature kubernetes, or remove the setting",
    )
};
#[cfg(feature = "otlp")]
const OTEL: Treatment = Treatment::Used;
#[cfg(not(feature = "otlp"))]
const OTEL: Treatment = Treatment::Ignored(
    "this build cannot export to an OpenTelemetry collector; use one with the feature otlp",
);
const EXTERNAL: Treatment = Treatment::Refused(
    "this connector matches nothing against resources of another file, so the result would not be what was asked for; \
     remove the setting",
);

/// Every setting, in the order of the documentation.
pub const SETTINGS: &[Setting] = &[
    Setting::new(
        "api-key",
        Kind::Secret,
        JUMPCLOUD,
        "API key of a JumpCloud administrator. Prefer api-key-file.",
    ),
    Setting::new(
        "api-key-file",
        Kind::Path,
        JUMPCLOUD,
        "File that holds the API key, or a mounted directory with a file BATON_API_KEY or api-key.",
    ),
    Setting::new(
        "jumpcloud-client-id",
        Kind::Text,
        JUMPCLOUD,
        "Client id of a JumpCloud service account, instead of an API key.",
    ),
    Setting::new(
        "jumpcloud-client-secret",
        Kind::Secret,
        JUMPCLOUD,
        "Client secret of the service account. Prefer jumpcloud-client-secret-file.",
    ),
    Setting::new(
        "jumpcloud-client-secret-file",
        Kind::Path,
        JUMPCLOUD,
        "File that holds the client secret of the service account, or a mounted directory with a file \
         BATON_JUMPCLOUD_CLIENT_SECRET or jumpcloud-client-secret.",
    ),
    Setting::new(
        "jumpcloud-token-url",
        Kind::Text,
        JUMPCLOUD,
        "Token endpoint for service accounts; follows from the region unless base-url is set.",
    ),
    Setting::new(
        "org-id",
        Kind::Text,
        JUMPCLOUD,
        "Organisation id (24 hexadecimal digits), needed when the administrator belongs to several organisations.",
    ),
    Setting::new(
        "region",
        Kind::Text,
        JUMPCLOUD,
        "Where the organisation lives: us, eu or in.",
    )
    .default("us"),
    Setting::new(
        "base-url",
        Kind::Text,
        JUMPCLOUD,
        "Another console address instead of the region's, such as a simulator. https, or http on a loopback address.",
    ),
    Setting::new(
        "insights-url",
        Kind::Text,
        JUMPCLOUD,
        "Another Directory Insights address; follows from base-url or the region when absent.",
    ),
    Setting::new(
        "merge-administrators",
        Kind::Switch,
        JUMPCLOUD,
        "Merge an administrator into the directory user with the same e-mail, as the official connector does.",
    )
    .default("false"),
    Setting::new(
        "max-concurrency",
        Kind::Integer,
        JUMPCLOUD,
        "The most requests to JumpCloud in flight at once, 1 to 64; the connector starts lower and adapts.",
    )
    .default("8"),
    Setting::new(
        "client-id",
        Kind::Text,
        CONDUCTOR_ONE,
        "Client id issued by ConductorOne; its presence selects service mode.",
    ),
    Setting::new(
        "client-id-file",
        Kind::Path,
        CONDUCTOR_ONE,
        "File that holds the client id, or a mounted directory with a file BATON_CLIENT_ID or client-id.",
    ),
    Setting::new(
        "client-secret",
        Kind::Secret,
        CONDUCTOR_ONE,
        "Client secret issued by ConductorOne. Prefer client-secret-file.",
    ),
    Setting::new(
        "client-secret-file",
        Kind::Path,
        CONDUCTOR_ONE,
        "File that holds the client secret, or a mounted directory with a file BATON_CLIENT_SECRET or client-secret.",
    ),
    Setting::new(
        "task-concurrency",
        Kind::Integer,
        CONDUCTOR_ONE,
        "How many tasks run at once in service mode, 1 to 100.",
    )
    .default("3")
    .treated(Treatment::ServiceOnly),
    Setting::new(
        "credentials-interval",
        Kind::Duration,
        CONDUCTOR_ONE,
        "How often the files with credentials are read again, 1s to 5m: rotated ones take effect without a restart.",
    )
    .default("10s")
    .treated(Treatment::ServiceOnly),
    Setting::new(
        "shutdown-grace",
        Kind::Duration,
        CONDUCTOR_ONE,
        "How long running tasks may go on after SIGTERM or SIGINT, 1s to 1h.",
    )
    .default("25s"),
    Setting::new(
        "provisioning",
        Kind::Mode,
        PROVISIONING,
        "Allow changes of JumpCloud: true, false, or dry-run to plan, check and report them without writing.",
    )
    .short('p')
    .default("false"),
    Setting::new(
        "allow-account-deletion",
        Kind::Switch,
        PROVISIONING,
        "Allow directory users to be deleted, beside provisioning.",
    )
    .default("false"),
    Setting::new(
        "allow-administrator-roles",
        Kind::Switch,
        PROVISIONING,
        "Allow administrator roles to be granted and revoked, beside provisioning. This makes and deletes administrators.",
    )
    .default("false"),
    Setting::new(
        "audit-log",
        Kind::Path,
        PROVISIONING,
        "Append one JSON line for each change to this file, beside the log.",
    ),
    #[cfg(feature = "simulator")]
    Setting::new(
        "simulate-crash-at",
        Kind::Text,
        PROVISIONING,
        "Kill the process at this step of a change, or at its n-th time as step:n. For tests only.",
    )
    .hidden(),
    Setting::new(
        "sync-resource-types",
        Kind::List,
        SYNC,
        "Sync these resource types only: user, group, role, app. A task that names types itself goes first.",
    ),
    Setting::new(
        "optional-resource-types",
        Kind::List,
        SYNC,
        "Sync without these resource types where the JumpCloud key may not read them: group, app. Otherwise the sync \
         fails and names the permission. Users, administrators among them, are never optional: every grant ends at one.",
    ),
    Setting::new(
        "sync-resume-max-age",
        Kind::Duration,
        SYNC,
        "How old an unfinished sync in the work directory may be that the next attempt goes on with, up to 7d; 0s: each \
         sync begins anew.",
    )
    .default("6h")
    .treated(Treatment::ServiceOnly),
    Setting::new(
        "workers",
        Kind::Integer,
        SYNC,
        "How many listings a sync runs at once: -1 = chosen by the connector, 0 or 1 = one after the other, up to 64.",
    )
    .default("-1"),
    Setting::new(
        "parallel-sync",
        Kind::Switch,
        SYNC,
        "The old way to say workers -1.",
    )
    .default("false"),
    Setting::new(
        "skip-full-sync",
        Kind::Switch,
        SYNC,
        "Check the credentials and write an empty sync instead of a full one.",
    )
    .default("false"),
    Setting::new(
        "shrink-limit",
        Kind::Integer,
        SYNC,
        "The largest share of the resources, entitlements or grants of a type, in percent, that may be gone since the last \
         sync, 1 to 100; a sync that lost more fails and is not uploaded. Fewer than 10 may always go; 100 = no limit.",
    )
    .default("50")
    .treated(Treatment::ServiceOnly),
    Setting::new(
        "shrink-accept-until",
        Kind::Text,
        SYNC,
        "Until this time (RFC 3339) a sync may have lost any share, and is what later ones are held against.",
    )
    .treated(Treatment::ServiceOnly),
    Setting::new(
        "storage-engine",
        Kind::Text,
        SYNC,
        "File format asked for: sqlite or pebble. This version always writes sqlite.",
    ),
    Setting::new(
        "file",
        Kind::Path,
        ONE_SHOT,
        "The file to write.",
    )
    .short('f')
    .default("sync.c1z")
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "sync-resources",
        Kind::List,
        ONE_SHOT,
        "Sync these resources only, given as Baton ids such as bid:r:group/1234.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "skip-entitlements-and-grants",
        Kind::Switch,
        ONE_SHOT,
        "Sync resources only.",
    )
    .default("false")
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "skip-grants",
        Kind::Switch,
        ONE_SHOT,
        "Sync no grants; allowed together with sync-resources only.",
    )
    .default("false")
    .hidden(),
    Setting::new(
        "http-timeout-seconds",
        Kind::Integer,
        RESOURCES,
        "Time-out of one HTTP request to JumpCloud in seconds, 1 to 1800.",
    )
    .default("300"),
    Setting::new(
        "ca-file",
        Kind::Path,
        RESOURCES,
        "PEM file of certificate authorities that are trusted beside those of the system.",
    ),
    Setting::new(
        "work-dir",
        Kind::Path,
        RESOURCES,
        "Folder for temporary files, must exist and be writable. Then BATON_TMPDIR, then the folder of the system.",
    ),
    Setting::new(
        "c1z-temp-dir",
        Kind::Path,
        RESOURCES,
        "The official name of work-dir.",
    )
    .hidden(),
    #[cfg(feature = "simulator")]
    Setting::new(
        "simulate-haste",
        Kind::Integer,
        RESOURCES,
        "Divide the pauses before requests to JumpCloud are repeated by this number, 1 to 1000, and the limits of calls to \
         ConductorOne by up to ten. For tests only.",
    )
    .default("1")
    .hidden(),
    Setting::new(
        "health-check",
        Kind::Switch,
        HEALTH,
        "Serve /health, /ready, /live, /metrics and /log-level over plain HTTP in service mode.",
    )
    .default("false")
    .treated(Treatment::ServiceOnly),
    Setting::new(
        "health-check-port",
        Kind::Integer,
        HEALTH,
        "Port of the health endpoints; 0 takes any free port.",
    )
    .default("8081")
    .treated(Treatment::ServiceOnly),
    Setting::new(
        "health-check-bind-address",
        Kind::Text,
        HEALTH,
        "Address the health endpoints listen on.",
    )
    .default("127.0.0.1")
    .treated(Treatment::ServiceOnly),
    Setting::new(
        "log-level",
        Kind::Text,
        LOGS,
        "What is logged: debug, info, warn or error; dpanic, panic and fatal mean error.",
    )
    .default("info"),
    Setting::new(
        "log-format",
        Kind::Text,
        LOGS,
        "json or console; console when standard output is a terminal, json otherwise.",
    ),
    Setting::new(
        "log-path",
        Kind::List,
        LOGS,
        "Files to append logs to instead of standard error; stderr and stdout are understood too.",
    ),
    Setting::new(
        "kubernetes-secret",
        Kind::Text,
        KUBERNETES,
        "Watch this Secret in the pod's namespace, and use new credentials in it without a restart.",
    )
    .treated(IN_KUBERNETES),
    Setting::new(
        "kubernetes-secret-keys",
        Kind::List,
        KUBERNETES,
        "Other keys of that Secret than BATON_CLIENT_ID and the like, such as api-key=jc-key; for client-id, \
         client-secret, api-key and jumpcloud-client-secret.",
    )
    .treated(IN_KUBERNETES),
    Setting::new(
        "kubernetes-events",
        Kind::Switch,
        KUBERNETES,
        "Report syncs, changes and rejected credentials as Events of the pod.",
    )
    .default("false")
    .treated(IN_KUBERNETES),
    Setting::new(
        "kubernetes-lease",
        Kind::Text,
        KUBERNETES,
        "Let one replica work and the others stand by, as told by this Lease in the pod's namespace.",
    )
    .treated(IN_KUBERNETES),
    Setting::new(
        "pod-name",
        Kind::Text,
        KUBERNETES,
        "Name of the pod, from the downward API; otherwise the host name.",
    )
    .treated(IN_KUBERNETES),
    Setting::new(
        "pod-namespace",
        Kind::Text,
        KUBERNETES,
        "Namespace of the pod, from the downward API; otherwise that of the service account.",
    )
    .treated(IN_KUBERNETES),
    Setting::new(
        "pod-uid",
        Kind::Text,
        KUBERNETES,
        "UID of the pod, from the downward API; kubectl describe shows Events with it only.",
    )
    .treated(IN_KUBERNETES),
    Setting::new(
        "log-level-debug-expires-at",
        Kind::Text,
        LOGS,
        "Log at level debug until this time (RFC 3339), then at log-level, or info where that is debug.",
    ),
    Setting::new(
        "otel-collector-endpoint",
        Kind::Text,
        TRACES,
        "host:port of an OpenTelemetry collector that takes traces over gRPC. Logs are not exported.",
    )
    .treated(OTEL),
    Setting::new(
        "otel-collector-endpoint-tls-cert-path",
        Kind::Path,
        TRACES,
        "PEM file of the certificate authorities of the collector, instead of those of the system.",
    )
    .hidden()
    .treated(OTEL),
    Setting::new(
        "otel-collector-endpoint-tls-cert",
        Kind::Secret,
        TRACES,
        "The certificate authorities of the collector, as base64url of PEM.",
    )
    .hidden()
    .treated(OTEL),
    Setting::new(
        "otel-collector-endpoint-tls-insecure",
        Kind::Switch,
        TRACES,
        "Talk to the collector without TLS.",
    )
    .default("false")
    .hidden()
    .treated(OTEL),
    Setting::new(
        "otel-tracing-disabled",
        Kind::Switch,
        TRACES,
        "Export no traces.",
    )
    .default("false")
    .hidden()
    .treated(OTEL),
    Setting::new(
        "otel-logging-disabled",
        Kind::Switch,
        TRACES,
        "Export no logs, which are never exported.",
    )
    .default("false")
    .hidden()
    .treated(OTEL),
    Setting::new(
        "ticketing",
        Kind::Switch,
        COMPATIBILITY,
        "No effect: JumpCloud has no tickets.",
    )
    .default("false")
    .treated(Treatment::Ignored("JumpCloud has no tickets to create or read")),
    Setting::new(
        "auth-method",
        Kind::Text,
        COMPATIBILITY,
        "No effect: the way of authentication follows from the credentials that are given.",
    )
    .treated(Treatment::Ignored(
        "the way of authentication follows from the credentials that are given",
    )),
    Setting::new(
        "keep-previous-sync-c1z",
        Kind::Switch,
        COMPATIBILITY,
        "No effect: every sync reads JumpCloud afresh.",
    )
    .default("false")
    .treated(Treatment::Ignored(
        "every sync reads JumpCloud afresh and needs no earlier file",
    )),
    Setting::new(
        "session-store-maximum-size",
        Kind::Integer,
        COMPATIBILITY,
        "No effect: there is no session cache to limit.",
    )
    .default("15728640")
    .hidden()
    .treated(Treatment::Ignored("there is no session cache to limit")),
    Setting::new(
        "log-event-log",
        Kind::Switch,
        COMPATIBILITY,
        "No effect: the Windows event log is not written.",
    )
    .default("false")
    .treated(Treatment::Ignored(
        "the Windows event log is not written; use log-path",
    )),
    Setting::new(
        "external-resource-c1z",
        Kind::Path,
        COMPATIBILITY,
        "Refused: this connector matches nothing against resources of another file.",
    )
    .treated(EXTERNAL),
    Setting::new(
        "external-resource-entitlement-id-filter",
        Kind::Text,
        COMPATIBILITY,
        "Refused, as external-resource-c1z.",
    )
    .treated(EXTERNAL),
    Setting::new(
        "external-resource-traits",
        Kind::List,
        COMPATIBILITY,
        "Refused, as external-resource-c1z.",
    )
    .treated(EXTERNAL),
    Setting::new(
        "grant-entitlement",
        Kind::Text,
        CHANGE,
        "Grant this entitlement of the file to grant-principal, instead of syncing.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "grant-principal",
        Kind::Text,
        CHANGE,
        "The id of the resource that gets grant-entitlement.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "grant-principal-type",
        Kind::Text,
        CHANGE,
        "The resource type of grant-principal; user when nothing is said.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "revoke-grant",
        Kind::Text,
        CHANGE,
        "Revoke this grant of the file, instead of syncing.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "create-account-login",
        Kind::Text,
        CHANGE,
        "Create an account with this login and a random password, instead of syncing.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "create-account-email",
        Kind::Text,
        CHANGE,
        "The e-mail address of the account to create.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "create-account-profile",
        Kind::Text,
        CHANGE,
        "The profile of the account to create, as a JSON object.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "create-account-resource-type",
        Kind::Text,
        CHANGE,
        "The resource type of the account to create.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "encrypt-to",
        Kind::Text,
        CHANGE,
        "An age recipient (age1…) that a made-up password is encrypted to in what is printed; without it nobody learns the \
         password.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "delete-resource",
        Kind::Text,
        CHANGE,
        "Delete the resource with this id, instead of syncing.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "delete-resource-type",
        Kind::Text,
        CHANGE,
        "The resource type of delete-resource.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "rotate-credentials",
        Kind::Text,
        CHANGE,
        "Give the account with this id a random password, instead of syncing.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "rotate-credentials-type",
        Kind::Text,
        CHANGE,
        "The resource type of rotate-credentials; user when nothing is said.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "invoke-action",
        Kind::Text,
        CHANGE,
        "Run this action and print its result, instead of syncing.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "invoke-action-args",
        Kind::Text,
        CHANGE,
        "The arguments of invoke-action, as a JSON object.",
    )
    .default("{}")
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "invoke-action-resource-type",
        Kind::Text,
        CHANGE,
        "The resource type that invoke-action belongs to; none for a global action.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "list-action-schemas",
        Kind::Switch,
        CHANGE,
        "Print the actions, instead of syncing.",
    )
    .default("false")
    .treated(Treatment::OneShotOnly),
    Setting::new(
        "list-action-schemas-resource-type",
        Kind::Text,
        CHANGE,
        "Print the actions of this resource type only.",
    )
    .treated(Treatment::OneShotOnly),
    Setting::unsupported("event-feed", Kind::Text, "reading an event feed"),
    Setting::unsupported("event-feed-id", Kind::Text, "reading an event feed"),
    Setting::unsupported("event-feed-cursor", Kind::Text, "reading an event feed"),
    Setting::unsupported("event-feed-start-at", Kind::Text, "reading an event feed"),
    Setting::unsupported("create-ticket", Kind::Switch, "creating a ticket"),
    Setting::unsupported("ticket-template-path", Kind::Path, "creating a ticket"),
    Setting::unsupported("bulk-create-ticket", Kind::Switch, "creating tickets"),
    Setting::unsupported("bulk-ticket-template-path", Kind::Path, "creating tickets"),
    Setting::unsupported("get-ticket", Kind::Switch, "reading a ticket"),
    Setting::unsupported("ticket-id", Kind::Text, "reading a ticket"),
    Setting::unsupported("list-ticket-schemas", Kind::Switch, "listing ticket schemas"),
    Setting::unsupported("list-resource-actions", Kind::Text, "listing actions"),
    Setting::unsupported("invoke-resource-action", Kind::Text, "invoking an action"),
    Setting::unsupported("invoke-resource-action-resource-type", Kind::Text, "invoking an action"),
    Setting::unsupported("invoke-resource-action-args", Kind::Text, "invoking an action"),
    Setting::unsupported("diff-syncs", Kind::Switch, "comparing syncs"),
    Setting::unsupported("base-sync-id", Kind::Text, "comparing syncs"),
    Setting::unsupported("applied-sync-id", Kind::Text, "comparing syncs"),
    Setting::unsupported("compact-syncs", Kind::Switch, "compacting syncs"),
    Setting::unsupported("compact-output-path", Kind::Path, "compacting syncs"),
    Setting::unsupported("compact-file-paths", Kind::List, "compacting syncs"),
    Setting::unsupported("compact-sync-ids", Kind::List, "compacting syncs"),
];

/// An environment variable that is no flag.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it means, as a sentence.
    pub help: &'static str,
    /// Whether it takes effect here; one that does not is answered with a log line when it is set.
    pub used: bool,
}

const fn used(name: &'static str, help: &'static str) -> Variable {
    Variable {
        name,
        help,
        used: true,
    }
}

const fn unused(name: &'static str, help: &'static str) -> Variable {
    Variable {
        name,
        help,
        used: false,
    }
}

/// The environment variables that are no flags.
pub const VARIABLES: &[Variable] = &[
    used(
        "BATON_CONFIG_PATH",
        "Path of the configuration file, ending in .yaml or .yml; otherwise .baton.yaml in the working directory is \
         read when it exists.",
    ),
    used(
        "BATON_C1_API_HOST",
        "host[:port] of ConductorOne instead of the one in the client id.",
    ),
    used(
        "BATON_HOST_ID",
        "Name of this instance towards ConductorOne, at most 256 characters; otherwise the host name.",
    ),
    used("BATON_GET_TASKS", "1 or true: ask for tasks in batches."),
    used(
        "BATON_TMPDIR",
        "Folder for temporary files when work-dir is not set.",
    ),
    used(
        "HTTPS_PROXY, HTTP_PROXY, NO_PROXY",
        "Proxy for all outgoing connections and the hosts that are reached without it.",
    ),
    used(
        "SSL_CERT_FILE, SSL_CERT_DIR",
        "Certificate authorities instead of those of the system.",
    ),
    unused(
        "BATON_C1Z_FINALIZE_TIMEOUT",
        "Writing a file has no time-out of its own here.",
    ),
    unused(
        "BATON_C1Z_BULKLOAD_INDEX_TIMEOUT",
        "Indexes are kept while rows are written.",
    ),
    unused(
        "BATON_DECODER_MAX_DECODED_SIZE_MB",
        "The reader has its own limits.",
    ),
    unused(
        "BATON_DECODER_MAX_MEMORY_MB",
        "The reader has its own limits.",
    ),
    unused(
        "BATON_DISABLE_FCS_FAIL_FAST",
        "The reader has its own limits.",
    ),
    unused("BATON_ZSTD_POOL_DISABLE", "There is no pool of decoders."),
    unused("BATON_KEEP_SYNC_COUNT", "A file holds one sync."),
    unused(
        "BATON_SKIP_CLEANUP",
        "A file holds one sync, so there is nothing to clean up.",
    ),
    unused(
        "BATON_DONT_FIX_CYCLES",
        "Cycles of groups are always resolved.",
    ),
    unused(
        "BATON_GRAPH_EXPAND_MAX_DEPTH",
        "The depth of the expansion is fixed.",
    ),
    unused(
        "BATON_GRAPH_EXPAND_DEST_BATCH_SIZE",
        "Batches of the expansion are sized by the connector.",
    ),
    unused(
        "BATON_HTTP_CACHE_BACKEND",
        "Answers of JumpCloud are not cached.",
    ),
    unused(
        "BATON_HTTP_CACHE_TTL",
        "Answers of JumpCloud are not cached.",
    ),
    unused(
        "BATON_HTTP_CACHE_MAX_SIZE",
        "Answers of JumpCloud are not cached.",
    ),
    unused(
        "BATON_DISABLE_HTTP_CACHE",
        "Answers of JumpCloud are not cached.",
    ),
    unused(
        "BATON_DEBUG_PRINT_RESPONSE_BODY",
        "Answers are never logged.",
    ),
];

/// The name among `candidates` that is meant by `name`, where one is close enough to be worth a hint.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name: Vec<char> = name
        .chars()
        .take(64)
        .map(|character| match character {
            '_' => '-',
            other => other.to_ascii_lowercase(),
        })
        .collect();
    let allowed = match name.len() {
        0..4 => 1,
        length => (length / 3).clamp(2, 4),
    };
    candidates
        .into_iter()
        .map(|candidate| (distance(&name, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many characters must be inserted, removed or replaced to make one text of the other.
fn distance(left: &[char], right: &str) -> usize {
    let mut row: Vec<usize> = (0..=left.len()).collect();
    for (index, right) in right.chars().enumerate() {
        let mut diagonal = index;
        let mut before = index + 1;
        for (cell, left) in row.iter_mut().skip(1).zip(left) {
            let replaced = diagonal + usize::from(*left != right);
            diagonal = *cell;
            before = replaced.min(before + 1).min(*cell + 1);
            *cell = before;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_name_is_unique_and_kebab_case() {
        let mut seen = BTreeSet::new();
        for setting in SETTINGS {
            assert!(seen.insert(setting.name), "{} is there twice", setting.name);
            assert!(
                setting
                    .name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
                "{}",
                setting.name
            );
            assert!(setting.help.ends_with('.'), "{}", setting.name);
        }
    }

    #[test]
    fn every_switch_that_is_shown_has_a_default() {
        for setting in SETTINGS {
            if matches!(setting.kind, Kind::Switch | Kind::Mode)
                && !matches!(setting.treatment, Treatment::Unsupported(_))
            {
                assert_eq!(setting.default, Some("false"), "{}", setting.name);
            }
        }
    }

    #[test]
    fn a_typing_error_finds_the_name_that_was_meant() {
        let names = || SETTINGS.iter().map(|setting| setting.name);
        for (typed, meant) in [
            ("api-kye", Some("api-key")),
            ("client_secret", Some("client-secret")),
            ("task-concurency", Some("task-concurrency")),
            ("LOG-LEVEL", Some("log-level")),
            ("zzzzzz", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, names()), meant, "{typed}");
        }
    }

    #[test]
    fn the_variable_of_a_setting_is_the_official_one() {
        assert_eq!(variable_of("c1z-temp-dir"), "BATON_C1Z_TEMP_DIR");
        assert_eq!(find("api-key").unwrap().variable(), "BATON_API_KEY");
    }
}
