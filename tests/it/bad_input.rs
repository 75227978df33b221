//! Malformed input: each gives an error that names the field, keeps every secret to itself and panics nowhere.

use std::{fmt::Write, sync::Arc};

use baton_jumpcloud::{
    cli,
    clock::SystemClock,
    config::{Level, Log, LogFormat, ManualSource, settings::SETTINGS},
    telemetry::{self, Captured, LogControl},
};
use proptest::prelude::*;

pub mod c1z;
mod conductorone;
mod credentials;
mod jumpcloud;
mod tasks;

const KEY: &str = "SECRETSEED-api-key";
const MARKER: &str = "SECRETSEED";

/// A subscriber at debug level that knows no secret, so that nothing is hidden that should not have been said.
fn debug_log() -> (impl tracing::Subscriber + Send + Sync, LogControl, Captured) {
    let log = Log {
        level: Level::Debug,
        format: LogFormat::Json,
        paths: Vec::new(),
    };
    telemetry::capture(&log, &[], Arc::new(SystemClock))
}

/// One malformed command line with its surroundings, and what the error must say.
struct Case {
    name: &'static str,
    arguments: &'static [&'static str],
    source: ManualSource,
    says: &'static [&'static str],
    exit: u8,
}

fn case(
    name: &'static str,
    arguments: &'static [&'static str],
    source: ManualSource,
    says: &'static [&'static str],
) -> Case {
    Case {
        name,
        arguments,
        source,
        says,
        exit: 3,
    }
}

impl Case {
    fn exits(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }
}

fn plain() -> ManualSource {
    ManualSource::new().with_variable("BATON_API_KEY", KEY)
}

fn with(name: &str, value: &str) -> ManualSource {
    plain().with_variable(name, value)
}

fn file(content: impl Into<Vec<u8>>) -> ManualSource {
    plain()
        .with_variable("BATON_CONFIG_PATH", "/etc/baton.yaml")
        .with_file("/etc/baton.yaml", content)
}

fn key_file(content: impl Into<Vec<u8>>) -> ManualSource {
    ManualSource::new()
        .with_variable("BATON_API_KEY_FILE", "/run/key")
        .with_file("/run/key", content)
}

fn service() -> ManualSource {
    plain()
        .with_variable("BATON_CLIENT_ID", "worker@host/x")
        .with_variable("BATON_CLIENT_SECRET", "secret-token:c:v1:SECRETSEED")
}

fn flags() -> Vec<Case> {
    vec![
        case(
            "unknown flag",
            &["--nonsense=SECRETSEED"],
            plain(),
            &["unknown flag --nonsense"],
        ),
        case(
            "misspelt flag",
            &["--api-kye=SECRETSEED"],
            plain(),
            &["--api-kye", "did you mean --api-key?"],
        ),
        case(
            "a secret as a flag",
            &["--SECRETSEED0123456789"],
            plain(),
            &["unknown flag of 20 characters"],
        ),
        case(
            "a secret as an argument",
            &["SECRETSEED"],
            plain(),
            &["unknown argument of 10 characters"],
        ),
        case(
            "a secret after an empty flag",
            &["--api-key=", "SECRETSEED"],
            plain(),
            &["unknown argument of 10 characters"],
        ),
        case(
            "two words after a switch",
            &["--provisioning", "SECRETSEED"],
            plain(),
            &["unknown argument"],
        ),
        case(
            "unknown short flag",
            &["-SECRETSEED"],
            plain(),
            &["unknown short flag"],
        ),
        case(
            "misspelt command",
            &["check-confg"],
            plain(),
            &["did you mean check-config?"],
        ),
        case(
            "an argument too many for a command",
            &["config", "SECRETSEED"],
            plain(),
            &["unknown argument"],
        ),
        case(
            "a flag without its value",
            &["--log-level"],
            plain(),
            &["--log-level needs a value"],
        ),
        case(
            "no health endpoint",
            &["health-check", "--endpoint", "SECRETSEED"],
            plain(),
            &["--endpoint is none of health, ready, live"],
        ),
        case(
            "no health time-out",
            &["health-check", "--timeout", "SECRETSEED"],
            plain(),
            &["--timeout"],
        ),
        case(
            "a negative health time-out",
            &["health-check", "--timeout", "-1"],
            plain(),
            &["--timeout"],
        ),
        case(
            "a health check of any port",
            &["health-check", "--health-check-port=0"],
            plain(),
            &["--health-check-port", "any free port"],
        ),
        case(
            "a text where a number belongs",
            &["--task-concurrency", "SECRETSEED"],
            plain(),
            &["--task-concurrency (BATON_TASK_CONCURRENCY)", "1 to 100"],
        ),
        case(
            "a fraction where a number belongs",
            &["--task-concurrency", "1.5"],
            plain(),
            &["--task-concurrency"],
        ),
        case(
            "a number beyond all measure",
            &["--workers", "99999999999999999999999"],
            plain(),
            &["--workers", "-1 to 64"],
        ),
        case(
            "an empty number",
            &["--http-timeout-seconds="],
            plain(),
            &["--http-timeout-seconds", "empty"],
        ),
        case(
            "an empty file name",
            &["--file="],
            plain(),
            &["--file (BATON_FILE)", "empty"],
        ),
        case(
            "an empty length of time",
            &["--shutdown-grace="],
            plain(),
            &["--shutdown-grace", "25s"],
        ),
        case(
            "a word where true or false belongs",
            &["--provisioning=SECRETSEED"],
            plain(),
            &[
                "--provisioning (BATON_PROVISIONING)",
                "true, false or dry-run",
            ],
        ),
        case(
            "a grant to nobody",
            &["--grant-entitlement", "SECRETSEED"],
            plain(),
            &["--grant-principal (BATON_GRANT_PRINCIPAL)", "is missing"],
        ),
        case(
            "an operation of a later version",
            &["--compact-syncs"],
            plain(),
            &["--compact-syncs", "not supported by this connector version"],
        )
        .exits(12),
        case(
            "a command line that cannot be understood in service mode",
            &["--nonsense"],
            service(),
            &["unknown flag --nonsense"],
        )
        .exits(64),
    ]
}

fn numbers() -> Vec<Case> {
    vec![
        case(
            "no slots",
            &[],
            with("BATON_TASK_CONCURRENCY", "0"),
            &["BATON_TASK_CONCURRENCY", "1 to 100"],
        ),
        case(
            "too many slots",
            &[],
            with("BATON_TASK_CONCURRENCY", "101"),
            &["BATON_TASK_CONCURRENCY", "101"],
        ),
        case(
            "fewer than no workers",
            &[],
            with("BATON_WORKERS", "-2"),
            &["BATON_WORKERS", "-1 to 64"],
        ),
        case(
            "too many workers",
            &[],
            with("BATON_WORKERS", "65"),
            &["BATON_WORKERS"],
        ),
        case(
            "no time for HTTP",
            &[],
            with("BATON_HTTP_TIMEOUT_SECONDS", "0"),
            &["BATON_HTTP_TIMEOUT_SECONDS", "1 to 1800"],
        ),
        case(
            "too much time for HTTP",
            &[],
            with("BATON_HTTP_TIMEOUT_SECONDS", "1801"),
            &["BATON_HTTP_TIMEOUT_SECONDS"],
        ),
        case(
            "a port beyond the last",
            &[],
            with("BATON_HEALTH_CHECK_PORT", "65536"),
            &["BATON_HEALTH_CHECK_PORT", "65535"],
        ),
        case(
            "a bind address with a port",
            &[],
            with("BATON_HEALTH_CHECK_BIND_ADDRESS", "127.0.0.1:8081"),
            &["BATON_HEALTH_CHECK_BIND_ADDRESS", "without port"],
        ),
        case(
            "no requests at once",
            &[],
            with("BATON_MAX_CONCURRENCY", "0"),
            &["BATON_MAX_CONCURRENCY", "1 to 64"],
        ),
        case(
            "a grace of no time",
            &[],
            with("BATON_SHUTDOWN_GRACE", "0s"),
            &["BATON_SHUTDOWN_GRACE", "1s"],
        ),
        case(
            "a grace of a day",
            &[],
            with("BATON_SHUTDOWN_GRACE", "1day"),
            &["BATON_SHUTDOWN_GRACE", "1h"],
        ),
        case(
            "a grace without a unit",
            &[],
            with("BATON_SHUTDOWN_GRACE", "25"),
            &["BATON_SHUTDOWN_GRACE", "25s"],
        ),
    ]
}

fn words() -> Vec<Case> {
    vec![
        case(
            "no log level",
            &[],
            with("BATON_LOG_LEVEL", "SECRETSEED"),
            &["BATON_LOG_LEVEL", "debug, info, warn, error"],
        ),
        case(
            "no log format",
            &[],
            with("BATON_LOG_FORMAT", "xml"),
            &["BATON_LOG_FORMAT", "json, console"],
        ),
        case(
            "no storage engine",
            &[],
            with("BATON_STORAGE_ENGINE", "sqlit"),
            &["BATON_STORAGE_ENGINE", "did you mean sqlite?"],
        ),
        case(
            "no region",
            &[],
            with("BATON_REGION", "SECRETSEED"),
            &["BATON_REGION", "us, eu, in"],
        ),
        case(
            "no resource type",
            &[],
            with("BATON_SYNC_RESOURCE_TYPES", "user,grup"),
            &["BATON_SYNC_RESOURCE_TYPES", "did you mean group?"],
        ),
        case(
            "a type that is never optional",
            &[],
            with("BATON_OPTIONAL_RESOURCE_TYPES", "app,user"),
            &["BATON_OPTIONAL_RESOURCE_TYPES", "none of group, app"],
        ),
        case(
            "no Baton id",
            &[],
            with("BATON_SYNC_RESOURCES", "bid:r:user/1,SECRETSEED"),
            &["BATON_SYNC_RESOURCES", "id number 2"],
        ),
        case(
            "grants left out without a target",
            &["--skip-grants"],
            plain(),
            &["--skip-grants", "within a targeted sync"],
        ),
        case(
            "grants left out by the daemon",
            &["--skip-grants", "--sync-resources=bid:r:user/1"],
            service(),
            &["--skip-grants", "within a targeted sync"],
        )
        .exits(64),
        case(
            "a variable that is no text",
            &[],
            plain().with_variable("BATON_LOG_LEVEL", not_utf8()),
            &["BATON_LOG_LEVEL", "UTF-8"],
        ),
        case(
            "resources of another file",
            &[],
            with("BATON_EXTERNAL_RESOURCE_C1Z", "/SECRETSEED.c1z"),
            &["BATON_EXTERNAL_RESOURCE_C1Z", "refused"],
        ),
        case(
            "a folder that is not there",
            &["--c1z-temp-dir=/none"],
            plain(),
            &["--c1z-temp-dir (BATON_C1Z_TEMP_DIR)", "/none"],
        ),
        case(
            "a folder that is a file",
            &["--work-dir=/file"],
            plain().with_file("/file", ""),
            &["--work-dir", "no folder"],
        ),
        case(
            "a folder that may not be written to",
            &[],
            with("BATON_TMPDIR", "/ro").with_directory("/ro", false),
            &["BATON_TMPDIR", "/ro", "permission denied"],
        ),
    ]
}

fn addresses() -> Vec<Case> {
    vec![
        case(
            "no address",
            &[],
            with("BATON_BASE_URL", "SECRETSEED"),
            &["BATON_BASE_URL", "https://console.jumpcloud.com"],
        ),
        case(
            "plain http to the world",
            &[],
            with("BATON_BASE_URL", "http://console.jumpcloud.com"),
            &["BATON_BASE_URL", "loopback"],
        ),
        case(
            "another scheme",
            &[],
            with("BATON_BASE_URL", "ftp://localhost"),
            &["BATON_BASE_URL", "https://"],
        ),
        case(
            "a password in an address",
            &[],
            with("BATON_BASE_URL", "https://me:SECRETSEED@localhost"),
            &["BATON_BASE_URL", "password"],
        ),
        case(
            "a key in the query of an address",
            &[],
            with("BATON_INSIGHTS_URL", "https://localhost/?key=SECRETSEED"),
            &["BATON_INSIGHTS_URL", "query"],
        ),
        case(
            "a region and an address",
            &["--region=eu"],
            with("BATON_BASE_URL", "https://localhost"),
            &["BATON_BASE_URL", "--region"],
        ),
        case(
            "a token address for an API key",
            &[],
            with("BATON_JUMPCLOUD_TOKEN_URL", "https://localhost/token"),
            &["BATON_JUMPCLOUD_TOKEN_URL"],
        ),
        case(
            "a service account at another address without its token address",
            &[
                "--jumpcloud-client-id=a",
                "--jumpcloud-client-secret=SECRETSEED",
            ],
            ManualSource::new().with_variable("BATON_BASE_URL", "https://localhost"),
            &["BATON_JUMPCLOUD_TOKEN_URL", "missing"],
        ),
        case(
            "an organisation by name",
            &[],
            with("BATON_ORG_ID", "SECRETSEED"),
            &["BATON_ORG_ID", "24 hexadecimal digits"],
        ),
        case(
            "an API host with a scheme",
            &[],
            service().with_variable("BATON_C1_API_HOST", "https://SECRETSEED"),
            &["BATON_C1_API_HOST", "host:port"],
        )
        .exits(64),
        case(
            "an API host that is empty",
            &[],
            service().with_variable("BATON_C1_API_HOST", ""),
            &["BATON_C1_API_HOST", "set to nothing"],
        )
        .exits(64),
        case(
            "a host id beyond the limit",
            &[],
            service().with_variable("BATON_HOST_ID", "h".repeat(257)),
            &["BATON_HOST_ID", "257", "256"],
        )
        .exits(64),
    ]
}

fn credentials() -> Vec<Case> {
    vec![
        case(
            "no credentials for JumpCloud",
            &[],
            ManualSource::new(),
            &["BATON_API_KEY", "missing"],
        ),
        case(
            "a key and a service account",
            &[
                "--jumpcloud-client-id=a",
                "--jumpcloud-client-secret=SECRETSEED",
            ],
            plain(),
            &["BATON_API_KEY", "one way of authentication"],
        ),
        case(
            "half a service account",
            &["--jumpcloud-client-id=a"],
            ManualSource::new(),
            &["BATON_JUMPCLOUD_CLIENT_SECRET", "missing"],
        ),
        case(
            "the other half of a service account",
            &["--jumpcloud-client-secret=SECRETSEED"],
            ManualSource::new(),
            &["BATON_JUMPCLOUD_CLIENT_ID", "missing"],
        ),
        case(
            "a key and its file",
            &["--api-key-file=/run/key"],
            plain().with_file("/run/key", KEY),
            &["--api-key-file", "BATON_API_KEY", "keep one"],
        ),
        case(
            "a key with a line end inside",
            &["--api-key=SECRETSEED\nx-org-id: 1"],
            ManualSource::new(),
            &["BATON_API_KEY", "control character", "position 11"],
        ),
        case(
            "a key with a blank inside",
            &["--api-key=SECRETSEED SECRETSEED"],
            ManualSource::new(),
            &["BATON_API_KEY", "blank"],
        ),
        case(
            "a client id without its secret",
            &["--client-id=worker@host/x"],
            plain(),
            &["BATON_CLIENT_SECRET", "missing"],
        )
        .exits(64),
        case(
            "a client secret without its id",
            &["--client-secret=secret-token:c:v1:SECRETSEED"],
            plain(),
            &["BATON_CLIENT_ID", "missing"],
        )
        .exits(64),
        case(
            "client id and secret exchanged",
            &[
                "--client-id=secret-token:c:v1:SECRETSEED",
                "--client-secret=worker@host/x",
            ],
            plain(),
            &["BATON_CLIENT_ID", "exchanged"],
        )
        .exits(64),
        case(
            "an empty secret file",
            &[],
            key_file(""),
            &["BATON_API_KEY_FILE", "/run/key", "empty"],
        ),
        case(
            "a secret file of line ends",
            &[],
            key_file("\n\r\n"),
            &["BATON_API_KEY_FILE", "empty"],
        ),
        case(
            "a secret file of several lines",
            &[],
            key_file("SECRETSEED\nSECRETSEED\n"),
            &["BATON_API_KEY_FILE", "position 11"],
        ),
        case(
            "a secret file that is too large",
            &[],
            key_file("SECRETSEED".repeat(7000)),
            &["BATON_API_KEY_FILE", "65536"],
        ),
        case(
            "a secret file that is no text",
            &[],
            key_file([b'S', 0xff, 0xfe]),
            &["BATON_API_KEY_FILE", "not text"],
        ),
        case(
            "a secret file that is not there",
            &["--api-key-file=/run/none"],
            ManualSource::new(),
            &["--api-key-file", "/run/none", "not found"],
        ),
        case(
            "a secret file that may not be read",
            &["--api-key-file=/run/key"],
            ManualSource::new().with_unreadable("/run/key"),
            &["--api-key-file", "/run/key", "permission denied"],
        ),
        case(
            "a secret in place of its file",
            &["--api-key-file=jca_SECRETSEED0123456789"],
            ManualSource::new(),
            &["--api-key-file", "the credential itself"],
        ),
        case(
            "a mounted directory without the secret",
            &["--client-secret-file=/creds", "--client-id=worker@host/x"],
            plain()
                .with_directory("/creds", false)
                .with_file("/creds/other", "SECRETSEED"),
            &[
                "--client-secret-file",
                "BATON_CLIENT_SECRET, client-secret",
                "/creds",
            ],
        )
        .exits(64),
        case(
            "a CA file without a certificate",
            &["--ca-file=/ca.pem"],
            plain().with_file("/ca.pem", "SECRETSEED"),
            &["--ca-file", "no certificate"],
        ),
        case(
            "a CA file that is not there",
            &["--ca-file=/none.pem"],
            plain(),
            &["--ca-file", "/none.pem"],
        ),
    ]
}

fn config_files() -> Vec<Case> {
    vec![
        case(
            "a file that is named and not there",
            &[],
            with("BATON_CONFIG_PATH", "/none.yaml"),
            &["/none.yaml", "BATON_CONFIG_PATH"],
        ),
        case(
            "a file of another format",
            &[],
            with("BATON_CONFIG_PATH", "/etc/baton.json").with_file("/etc/baton.json", "{}"),
            &["BATON_CONFIG_PATH", ".yaml or .yml"],
        ),
        case(
            "a file that is no YAML",
            &[],
            file("api-key: [SECRETSEED\nlog-level: 'x"),
            &["/etc/baton.yaml", "not valid YAML"],
        ),
        case(
            "a file with a tab for indentation",
            &[],
            file("log-path:\n\t- SECRETSEED\n"),
            &["/etc/baton.yaml"],
        ),
        case(
            "a file that is no text",
            &[],
            file([0xff, 0xfe, 0x00]),
            &["/etc/baton.yaml", "UTF-8"],
        ),
        case(
            "a file that is a list",
            &[],
            file("- SECRETSEED\n"),
            &["/etc/baton.yaml", "a list at the top"],
        ),
        case(
            "a file that is a single word",
            &[],
            file("SECRETSEED"),
            &["/etc/baton.yaml", "a text at the top"],
        ),
        case(
            "an unknown key",
            &[],
            file("log-levle: SECRETSEED\n"),
            &["log-levle", "did you mean log-level?"],
        ),
        case(
            "a key with an underscore",
            &[],
            file("client_id: SECRETSEED\n"),
            &["client_id", "did you mean client-id?"],
        ),
        case(
            "a secret as a key",
            &[],
            file("SECRETSEED0123: x\n"),
            &["unknown key of 14 characters"],
        ),
        case(
            "a key that is there twice",
            &[],
            file("region: eu\nregion: SECRETSEED\n"),
            &["/etc/baton.yaml", "twice", "region"],
        ),
        case(
            "a number where a text belongs",
            &[],
            file("org-id: 123456789012345678901234\n"),
            &["org-id", "in quotes"],
        ),
        case(
            "a text where a switch belongs",
            &[],
            file("provisioning: SECRETSEED\n"),
            &[
                "BATON_PROVISIONING",
                "config file /etc/baton.yaml",
                "true, false or dry-run",
            ],
        ),
        case(
            "a list where a number belongs",
            &[],
            file("task-concurrency: [SECRETSEED]\n"),
            &["task-concurrency", "a list", "a whole number"],
        ),
        case(
            "a fraction where a number belongs, in a file",
            &[],
            file("task-concurrency: 2.5\n"),
            &["task-concurrency", "a whole number"],
        ),
        case(
            "a mapping where a text belongs",
            &[],
            file("api-key:\n  value: SECRETSEED\n"),
            &["api-key", "a mapping"],
        ),
        case(
            "numbers in a list of texts",
            &[],
            file("sync-resource-types: [user, 7]\n"),
            &["sync-resource-types", "a number", "quotes"],
        ),
        case(
            "a key of the environment only",
            &[],
            file("host-id: SECRETSEED\n"),
            &["host-id"],
        ),
        case(
            "a file that is too large",
            &[],
            file("#".repeat(2 * 1024 * 1024)),
            &["/etc/baton.yaml", "larger than"],
        ),
        case(
            "a file in the working directory that is wrong",
            &[],
            plain().with_file(".baton.yaml", "nonsense: SECRETSEED\n"),
            &[".baton.yaml", "nonsense"],
        ),
        case(
            "a file full of aliases",
            &[],
            file(bomb()),
            &["/etc/baton.yaml"],
        ),
    ]
}

/// Aliases of aliases, which would fill the memory if they were followed.
fn bomb() -> String {
    let mut text = "a0: &a0 [SECRETSEED]\n".to_owned();
    for level in 1..30 {
        let below = vec![format!("*a{}", level - 1); 4].join(",");
        writeln!(text, "a{level}: &a{level} [{below}]").unwrap();
    }
    text
}

#[cfg(unix)]
fn not_utf8() -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(b"SECRETSEED\xff".to_vec())
}

#[test]
fn malformed_settings_give_errors_that_name_the_field_and_keep_secrets() {
    let cases: Vec<Case> = [
        flags(),
        numbers(),
        words(),
        addresses(),
        credentials(),
        config_files(),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(cases.len() >= 100, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let arguments = std::iter::once(cli::NAME).chain(case.arguments.iter().copied());
        let error = match cli::parse(arguments, &case.source) {
            Ok(command) => {
                wrong.push(format!("{}: accepted as {command:?}", case.name));
                continue;
            }
            Err(error) => error,
        };
        let text = format!("{error} {error:?}");
        let shown = error.to_string();
        if text.contains(MARKER) {
            wrong.push(format!("{}: shows a secret: {text}", case.name));
        }
        if shown.contains('\n') {
            wrong.push(format!("{}: is no single line: {shown}", case.name));
        }
        for part in case.says {
            if !shown.contains(part) {
                wrong.push(format!("{}: does not say {part:?}: {shown}", case.name));
            }
        }
        if error.exit_code() != case.exit {
            wrong.push(format!(
                "{}: ends with {} instead of {}: {shown}",
                case.name,
                error.exit_code(),
                case.exit
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_command_line_panics_or_shows_a_secret(
        arguments in prop::collection::vec(
            prop_oneof![
                "-{0,2}[a-z]{0,6}(=.{0,6})?",
                Just("SECRETSEED".to_owned()),
                Just("--".to_owned()),
                prop::sample::select(SETTINGS).prop_map(|setting| format!("--{}", setting.name)),
                prop::sample::select(SETTINGS)
                    .prop_map(|setting| format!("--{}=SECRETSEED", setting.name)),
            ],
            0..6,
        ),
    ) {
        let arguments = std::iter::once(cli::NAME.to_owned()).chain(arguments);
        if let Err(error) = cli::parse(arguments, &ManualSource::new()) {
            let text = format!("{error} {error:?}");
            prop_assert!(!text.contains(MARKER), "{}", text);
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }

    #[test]
    fn no_variable_panics_or_shows_a_secret(
        given in prop::collection::vec(
            (prop::sample::select(SETTINGS), "(SECRETSEED[a-z0-9 ,:@-]{0,8}|-?[0-9]{0,20}|.{0,8})"),
            1..6,
        ),
    ) {
        let source = given.iter().fold(plain(), |source, (setting, value)| {
            source.with_variable(&setting.variable(), value)
        });
        if let Err(error) = cli::parse([cli::NAME], &source) {
            let text = format!("{error} {error:?}");
            prop_assert!(!text.contains(MARKER), "{}", text);
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }

    #[test]
    fn no_config_file_panics_or_shows_a_secret(
        content in prop_oneof![
            ".{0,60}",
            "(([a-z-]{1,10}|api-key|log-path): ?(SECRETSEED|'|\\[|\\{|[0-9.e]{1,5}|\\*a|&a x|!!b|\\|)\n){1,4}",
        ],
    ) {
        if let Err(error) = cli::parse([cli::NAME], &file(content)) {
            let text = format!("{error} {error:?}");
            prop_assert!(!text.contains(MARKER), "{}", text);
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }
}
