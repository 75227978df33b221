//! The command line as a person or a manifest uses it.

use baton_jumpcloud::config::ProvisioningMode;
use baton_jumpcloud::{
    cli::{self, Command},
    config::ManualSource,
};

fn parse(arguments: &[&str]) -> Result<Command, cli::CliError> {
    parse_with(arguments, &ManualSource::new())
}

fn parse_with(arguments: &[&str], source: &ManualSource) -> Result<Command, cli::CliError> {
    cli::parse(
        std::iter::once(cli::NAME).chain(arguments.iter().copied()),
        source,
    )
}

fn help() -> String {
    match parse(&["--help"]) {
        Ok(Command::Help(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// The flags that every connector shows, with their defaults.
const OFFICIAL: &[&str] = &[
    "client-id",
    "client-secret",
    "provisioning",
    "ticketing",
    "skip-full-sync",
    "task-concurrency",
    "storage-engine",
    "workers",
    "parallel-sync",
    "sync-resource-types",
    "external-resource-c1z",
    "external-resource-entitlement-id-filter",
    "external-resource-traits",
    "keep-previous-sync-c1z",
    "http-timeout-seconds",
    "auth-method",
    "log-level",
    "log-format",
    "log-path",
    "log-level-debug-expires-at",
    "health-check",
    "health-check-port",
    "otel-collector-endpoint",
    "file",
    "sync-resources",
    "skip-entitlements-and-grants",
    "log-event-log",
];

/// The flags that every connector takes and hides.
/// Hidden in the official connectors, and shown here.
const OFFICIAL_CHANGES: &[&str] = &[
    "grant-entitlement",
    "grant-principal",
    "grant-principal-type",
    "revoke-grant",
    "create-account-login",
    "create-account-email",
    "create-account-profile",
    "create-account-resource-type",
    "delete-resource",
    "delete-resource-type",
    "rotate-credentials",
    "rotate-credentials-type",
    "invoke-action",
    "invoke-action-resource-type",
    "invoke-action-args",
    "list-action-schemas",
    "list-action-schemas-resource-type",
];

const OFFICIAL_HIDDEN: &[&str] = &[
    "c1z-temp-dir",
    "session-store-maximum-size",
    "otel-collector-endpoint-tls-cert-path",
    "otel-collector-endpoint-tls-cert",
    "otel-collector-endpoint-tls-insecure",
    "otel-tracing-disabled",
    "otel-logging-disabled",
    "skip-grants",
    "event-feed",
    "event-feed-id",
    "event-feed-cursor",
    "event-feed-start-at",
    "create-ticket",
    "bulk-create-ticket",
    "get-ticket",
    "list-ticket-schemas",
    "ticket-template-path",
    "bulk-ticket-template-path",
    "ticket-id",
    "list-resource-actions",
    "invoke-resource-action",
    "invoke-resource-action-resource-type",
    "invoke-resource-action-args",
    "diff-syncs",
    "base-sync-id",
    "applied-sync-id",
    "compact-syncs",
    "compact-output-path",
    "compact-file-paths",
    "compact-sync-ids",
];

fn names(text: &str, flag: &str) -> bool {
    text.split(|c: char| c.is_whitespace() || matches!(c, ',' | '[' | '='))
        .any(|word| word == format!("--{flag}"))
}

#[test]
fn help_lists_every_official_flag_with_its_variable_and_hides_the_hidden_ones() {
    let help = help();
    for flag in OFFICIAL.iter().chain(OFFICIAL_CHANGES) {
        assert!(names(&help, flag), "--{flag} is missing");
        let variable = format!("BATON_{}", flag.to_uppercase().replace('-', "_"));
        assert!(help.contains(&variable), "{variable} is missing");
    }
    for flag in OFFICIAL_HIDDEN {
        assert!(!names(&help, flag), "--{flag} is shown");
    }
}

#[test]
fn every_official_flag_is_known() {
    for flag in OFFICIAL
        .iter()
        .chain(OFFICIAL_CHANGES)
        .chain(OFFICIAL_HIDDEN)
    {
        assert!(
            baton_jumpcloud::config::settings::find(flag).is_some(),
            "--{flag}"
        );
    }
}

#[test]
fn help_shows_our_own_flags_and_the_variables_that_are_no_flags() {
    let help = help();
    for flag in [
        "api-key",
        "api-key-file",
        "client-id-file",
        "client-secret-file",
        "org-id",
        "base-url",
        "region",
        "insights-url",
        "jumpcloud-client-id",
        "jumpcloud-client-secret",
        "jumpcloud-client-secret-file",
        "jumpcloud-token-url",
        "ca-file",
        "merge-administrators",
        "max-concurrency",
        "shutdown-grace",
        "work-dir",
    ] {
        assert!(names(&help, flag), "--{flag} is missing");
    }
    for variable in [
        "BATON_CONFIG_PATH",
        "BATON_C1_API_HOST",
        "BATON_HOST_ID",
        "BATON_GET_TASKS",
    ] {
        assert!(help.contains(variable), "{variable} is missing");
    }
}

#[test]
fn official_defaults_are_shown() {
    let help: String = help().split_whitespace().collect::<Vec<_>>().join(" ");
    for (flag, default) in [
        ("BATON_TASK_CONCURRENCY", "3"),
        ("BATON_HTTP_TIMEOUT_SECONDS", "300"),
        ("BATON_HEALTH_CHECK_PORT", "8081"),
        ("BATON_LOG_LEVEL", "info"),
        ("BATON_FILE", "sync.c1z"),
    ] {
        assert!(
            help.contains(&format!("[default: {default}] [env: {flag}]")),
            "{flag}"
        );
    }
}

#[test]
fn the_mode_follows_from_the_client_id() {
    assert!(matches!(
        parse(&["--api-key", "SECRETSEED"]),
        Ok(Command::OneShot(_))
    ));
    let service = [
        "--api-key=SECRETSEED",
        "--client-id",
        "worker@host/x",
        "--client-secret",
        "secret-token:c:v1:SECRETSEED",
    ];
    assert!(matches!(parse(&service), Ok(Command::Run(_))));
}

#[test]
fn flags_are_taken_before_and_after_a_command() {
    for arguments in [
        [
            "--api-key",
            "SECRETSEED",
            "--log-level=debug",
            "check-config",
        ],
        [
            "check-config",
            "--api-key",
            "SECRETSEED",
            "--log-level=debug",
        ],
        [
            "--api-key",
            "SECRETSEED",
            "check-config",
            "--log-level=debug",
        ],
    ] {
        match parse(&arguments) {
            Ok(Command::CheckConfig(config)) => {
                assert!(config.describe().contains("log-level: debug (--log-level)"));
            }
            other => panic!("{arguments:?}: {other:?}"),
        }
    }
}

#[test]
fn a_value_may_begin_with_a_dash_and_the_last_of_several_wins() {
    match parse(&[
        "--api-key",
        "-SECRETSEED",
        "--workers",
        "-1",
        "--workers",
        "4",
    ]) {
        Ok(Command::OneShot(config)) => assert_eq!(config.sync.workers, 4),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_list_is_repeated_or_separated_by_commas() {
    match parse(&[
        "--api-key=SECRETSEED",
        "--sync-resource-types",
        "user,group",
        "--sync-resource-types=app",
    ]) {
        Ok(Command::OneShot(config)) => {
            assert_eq!(config.sync.resource_types, ["user", "group", "app"]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_switch_takes_a_value_after_an_equals_sign_only() {
    for (argument, expected) in [
        ("-p", ProvisioningMode::On),
        ("--provisioning", ProvisioningMode::On),
        ("--provisioning=true", ProvisioningMode::On),
        ("--provisioning=0", ProvisioningMode::Off),
        ("--provisioning=dry-run", ProvisioningMode::DryRun),
    ] {
        match parse(&["--api-key=SECRETSEED", argument]) {
            Ok(Command::OneShot(config)) => {
                assert_eq!(config.provisioning.mode, expected, "{argument}");
            }
            other => panic!("{argument}: {other:?}"),
        }
    }
    match parse(&["--api-key=SECRETSEED", "-p", "-f", "out.c1z"]) {
        Ok(Command::OneShot(config)) => {
            assert_eq!(config.provisioning.mode, ProvisioningMode::On);
            assert_eq!(config.file.to_str(), Some("out.c1z"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn commands_that_need_no_credentials_ask_for_none() {
    assert!(matches!(parse(&["config"]), Ok(Command::ConfigSchema)));
    assert!(matches!(
        parse(&["capabilities"]),
        Ok(Command::Capabilities)
    ));
    assert!(matches!(parse(&["version"]), Ok(Command::Version)));
    assert!(matches!(parse(&["-v"]), Ok(Command::Version)));
    assert!(matches!(parse(&["--version"]), Ok(Command::Version)));
    assert!(matches!(parse(&["docs"]), Ok(Command::Docs)));
    assert!(matches!(parse(&["-h"]), Ok(Command::Help(_))));
    assert!(matches!(parse(&["help"]), Ok(Command::Help(_))));
    assert!(matches!(parse(&["help", "config"]), Ok(Command::Help(_))));
    assert_eq!(
        cli::version(),
        concat!("baton-jumpcloud ", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_health_check_needs_its_address_only() {
    let source = ManualSource::new()
        .with_variable("BATON_HEALTH_CHECK_PORT", "9000")
        .with_variable("BATON_HEALTH_CHECK_BIND_ADDRESS", "::1");
    match parse_with(
        &["health-check", "--endpoint", "ready", "--timeout=2"],
        &source,
    ) {
        Ok(Command::HealthCheck(check)) => {
            assert_eq!(check.address.port, 9000);
            assert_eq!(check.address.host, "::1");
            assert_eq!(check.path, "/ready");
            assert_eq!(check.timeout.as_secs(), 2);
        }
        other => panic!("{other:?}"),
    }
    match parse(&["health-check"]) {
        Ok(Command::HealthCheck(check)) => {
            assert_eq!(check.to_string(), "http://127.0.0.1:8081/health");
            assert_eq!(check.timeout.as_secs(), 5);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wrong_command_line_ends_with_64_as_a_daemon_and_with_3_otherwise() {
    let exit = |arguments: &[&str], source: &ManualSource| {
        parse_with(arguments, source).unwrap_err().exit_code()
    };
    let service = ManualSource::new().with_variable("BATON_CLIENT_ID", "a@b/c");
    assert_eq!(exit(&["--nonsense"], &ManualSource::new()), 3);
    assert_eq!(exit(&["--nonsense"], &service), 64);
    assert_eq!(
        exit(&["--client-id=a@b/c", "--nonsense"], &ManualSource::new()),
        64
    );
}

#[test]
fn the_readme_holds_the_table_of_the_settings() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).expect("README.md");
    let (_, rest) = readme
        .split_once(cli::BEGIN_MARKER)
        .expect("README.md has the marker before the table");
    let (block, _) = rest
        .split_once(cli::END_MARKER)
        .expect("README.md has the marker after the table");
    assert_eq!(
        block.trim(),
        cli::configuration_table().trim(),
        "run `baton-jumpcloud docs` and put its output between the markers"
    );
}

#[test]
fn the_table_has_a_row_for_every_visible_flag_and_none_for_the_hidden_ones() {
    let table = cli::configuration_table();
    for flag in OFFICIAL.iter().chain(OFFICIAL_CHANGES) {
        assert!(table.contains(&format!("| `--{flag}`")), "--{flag}");
    }
    for flag in OFFICIAL_HIDDEN {
        assert!(!table.contains(&format!("| `--{flag}`")), "--{flag}");
    }
}
