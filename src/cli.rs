//! The command line: which command with which configuration, the texts it prints, and what exit code an error has.
//!
//! Owns the clap definitions, which are made from the table of `config::settings`, and the small commands that need
//! neither JumpCloud nor ConductorOne. Never starts the daemon or a sync (`app` does) and never prints by itself: texts
//! are returned. Invariants: an error is one line and holds no value that might be a secret; a flag means the same on the
//! command line, in the environment and in the file.

use std::{ffi::OsString, fmt, time::Duration};

use clap::{
    Arg, ArgAction, ArgMatches, Command as Definition,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use crate::{
    config::{
        self, Config, Flags, HealthAddress, Level, Source,
        settings::{self, Kind, SETTINGS, Setting, VARIABLES},
    },
    error::Code,
    telemetry::level,
};

mod documentation;
mod health_check;
mod log_level;
mod probe;
mod protojson;
mod schema;

pub use self::{
    documentation::{BEGIN_MARKER, END_MARKER, configuration_table},
    health_check::health_check,
    log_level::log_level,
    probe::{Probe, probe_json, probe_text, probe_verdict},
    schema::{answer_json, capabilities_json, config_schema_json},
};

/// The name of the product on the command line.
pub const NAME: &str = "baton-jumpcloud";

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Serve ConductorOne until a signal comes; [`Config::service`] is present.
    Run(Box<Config>),
    /// Do [`Config::operation`] and end; [`Config::service`] is absent.
    OneShot(Box<Config>),
    /// Ask a running daemon for its health.
    HealthCheck(HealthCheck),
    /// Check whether the configuration works.
    Probe(Probe),
    /// Show or change the log level of a running daemon.
    LogLevel(LogLevel),
    /// Print the settings that ConductorOne shows ([`config_schema_json`]).
    ConfigSchema,
    /// Print what the connector can do ([`capabilities_json`]).
    Capabilities,
    /// Print the resolved configuration ([`Config::describe`]).
    CheckConfig(Box<Config>),
    /// Print [`version`].
    Version,
    /// Print [`configuration_table`].
    Docs,
    /// Print this help.
    Help(String),
}

/// Which health endpoint is asked, where and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Where the daemon listens.
    pub address: HealthAddress,
    /// `/health`, `/ready` or `/live`.
    pub path: &'static str,
    /// The longest wait for the whole answer.
    pub timeout: Duration,
}

/// What is asked of a running daemon about its log level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevel {
    /// Where the daemon listens.
    pub address: HealthAddress,
    /// The level to log at; `None` only asks.
    pub level: Option<Level>,
    /// For how long.
    pub lasts: Duration,
}

/// Why a command cannot run, or failed. The text is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The command line itself cannot be understood.
    #[error("{message}; see {NAME} --help")]
    Usage {
        /// What is wrong and where.
        message: String,
        /// The daemon was meant.
        service: bool,
    },
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The daemon did not answer the health check as hoped.
    #[error("health check failed: {message}")]
    Health {
        /// What happened.
        message: String,
        /// The code that the official connectors end with.
        code: Code,
    },
    /// The daemon did not change its log level, or did not say it.
    #[error("log-level failed: {message}")]
    LogLevel {
        /// What happened.
        message: String,
        /// The code to end with.
        code: Code,
    },
    /// A message cannot be written as JSON.
    #[error("cannot write JSON: {message}")]
    Render {
        /// Which message and why.
        message: String,
    },
}

impl CliError {
    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { service: true, .. } => config::EXIT_BAD_CONFIGURATION,
            Self::Usage { service: false, .. } => number(Code::InvalidArgument),
            Self::Config(error) => error.exit_code(),
            Self::Health { code, .. } | Self::LogLevel { code, .. } => number(*code),
            Self::Render { .. } => number(Code::Internal),
        }
    }
}

fn number(code: Code) -> u8 {
    u8::try_from(code.number()).unwrap_or(1)
}

/// Name and version, as `version` and `-v` print them.
pub fn version() -> String {
    format!("{NAME} {}", env!("CARGO_PKG_VERSION"))
}

/// Understands a command line (with the program's name first) and resolves the configuration that it needs.
///
/// Blocks on the file system, and on nothing else.
pub fn parse<I, T>(arguments: I, source: &dyn Source) -> Result<Command, CliError>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString>,
{
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let matches = match definition().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp) => {
            return Ok(Command::Help(error.render().to_string()));
        }
        Err(error) => {
            return Err(CliError::Usage {
                message: describe(&error),
                service: means_service(&arguments, source),
            });
        }
    };
    if matches.get_flag("version") {
        return Ok(Command::Version);
    }
    let (name, matches) = matches.subcommand().unwrap_or(("", &matches));
    Ok(match name {
        "config" => Command::ConfigSchema,
        "capabilities" => Command::Capabilities,
        "version" => Command::Version,
        "docs" => Command::Docs,
        "health-check" => Command::HealthCheck(health_check_of(matches, source)?),
        "probe" => Command::Probe(probe::of(matches, source)?),
        "log-level" => Command::LogLevel(log_level_of(matches, source)?),
        "check-config" => Command::CheckConfig(Box::new(config::resolve(&flags(matches), source)?)),
        _ => {
            let config = Box::new(config::resolve(&flags(matches), source)?);
            if config.service.is_some() {
                Command::Run(config)
            } else {
                Command::OneShot(config)
            }
        }
    })
}

/// The definitions of all commands and flags.
pub fn definition() -> Definition {
    Definition::new(NAME)
        .about("Connects JumpCloud to ConductorOne: serves ConductorOne when client-id is set, else writes one file or makes one change.")
        .after_help(after_help())
        .disable_version_flag(true)
        .args_override_self(true)
        .args(SETTINGS.iter().map(argument))
        .arg(
            Arg::new("version")
                .long("version")
                .short('v')
                .action(ArgAction::SetTrue)
                .help("Print the version."),
        )
        .subcommand(
            Definition::new("config")
                .about("Print the settings that ConductorOne shows, as JSON (c1.config.v1.Configuration)."),
        )
        .subcommand(
            Definition::new("capabilities")
                .about("Print what this connector can do, as JSON (c1.connector.v2.ConnectorCapabilities)."),
        )
        .subcommand(
            Definition::new("health-check")
                .about("Ask a running daemon for its health; ends with 0 when it is healthy, 14 when nobody answers.")
                .arg(
                    Arg::new("endpoint")
                        .long("endpoint")
                        .default_value("health")
                        .help("health, ready or live."),
                )
                .arg(
                    Arg::new("timeout")
                        .long("timeout")
                        .default_value("5")
                        .allow_hyphen_values(true)
                        .help("Time-out in seconds, 1 to 3600."),
                ),
        )
        .subcommand(probe::definition())
        .subcommand(
            Definition::new("log-level")
                .about("Show the log level of a running daemon, or change it for a while, without a restart.")
                .arg(
                    Arg::new("level")
                        .value_name("LEVEL")
                        .help("debug, info, warn or error; without it the level is only shown."),
                )
                .arg(
                    Arg::new("for")
                        .long("for")
                        .value_name("DURATION")
                        .default_value("15m")
                        .allow_hyphen_values(true)
                        .help("How long, 1s to 24h; then the configured level counts again."),
                ),
        )
        .subcommand(
            Definition::new("check-config")
                .about("Resolve and check the configuration, print it without secrets, and start nothing."),
        )
        .subcommand(Definition::new("version").about("Print the version."))
        .subcommand(
            Definition::new("docs")
                .about("Print the table of all settings as Markdown.")
                .hide(true),
        )
}

/// The flag of a setting. As with the official connectors, what follows a flag is its value even when it begins with a
/// dash, and a switch takes a value only after an equals sign.
fn argument(setting: &'static Setting) -> Arg {
    let argument = Arg::new(setting.name)
        .long(setting.name)
        .help(help(setting))
        .help_heading(setting.group)
        .hide(setting.hidden)
        .global(true);
    let argument = match setting.short {
        Some(letter) => argument.short(letter),
        None => argument,
    };
    match setting.kind {
        Kind::Switch | Kind::Mode => argument
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name(match setting.kind {
                Kind::Mode => "MODE",
                _ => "BOOL",
            })
            .action(ArgAction::Set),
        Kind::List => argument
            .value_name("LIST")
            .allow_hyphen_values(true)
            .action(ArgAction::Append),
        kind => argument
            .value_name(match kind {
                Kind::Integer => "NUMBER",
                Kind::Duration => "DURATION",
                Kind::Path => "PATH",
                _ => "TEXT",
            })
            .allow_hyphen_values(true)
            .action(ArgAction::Set),
    }
}

fn help(setting: &Setting) -> String {
    let default = match setting.default {
        Some(default) if !matches!(setting.kind, Kind::Switch | Kind::Mode) => {
            format!(" [default: {default}]")
        }
        _ => String::new(),
    };
    format!("{}{default} [env: {}]", setting.help, setting.variable())
}

fn after_help() -> String {
    let mut lines = vec!["Environment variables that are no flags:".to_owned()];
    for variable in VARIABLES.iter().filter(|variable| variable.used) {
        lines.push(format!("  {}: {}", variable.name, variable.help));
    }
    lines.push(String::new());
    lines.push(
        "A flag goes before its environment variable, and that before the configuration file. Exit codes: 0 success; \
         in service mode 64 bad configuration and 1 any other failure; in a one-shot run the gRPC code of the error, such \
         as 3 bad configuration, 12 not supported, 14 unavailable, 16 credentials rejected."
            .to_owned(),
    );
    lines.join("\n")
}

/// The flags that were given on the command line.
fn flags(matches: &ArgMatches) -> Flags {
    let mut flags = Flags::default();
    for setting in SETTINGS {
        if matches.value_source(setting.name) != Some(ValueSource::CommandLine) {
            continue;
        }
        if let Some(values) = matches.get_many::<String>(setting.name) {
            flags.push(setting, values.cloned().collect());
        }
    }
    flags
}

fn health_check_of(matches: &ArgMatches, source: &dyn Source) -> Result<HealthCheck, CliError> {
    let path = match text(matches, "endpoint") {
        "health" => "/health",
        "ready" => "/ready",
        "live" => "/live",
        _ => return Err(usage("--endpoint is none of health, ready, live")),
    };
    Ok(HealthCheck {
        address: config::health_address(&flags(matches), source)?,
        path,
        timeout: seconds(matches)?,
    })
}

/// The value of `--timeout` of a command.
fn seconds(matches: &ArgMatches) -> Result<Duration, CliError> {
    match text(matches, "timeout").parse::<u64>() {
        Ok(seconds @ 1..=3600) => Ok(Duration::from_secs(seconds)),
        _ => Err(usage(
            "--timeout is no whole number of seconds from 1 to 3600",
        )),
    }
}

fn text<'a>(matches: &'a ArgMatches, name: &str) -> &'a str {
    matches.get_one::<String>(name).map_or("", String::as_str)
}

fn usage(message: &str) -> CliError {
    CliError::Usage {
        message: message.to_owned(),
        service: false,
    }
}

fn log_level_of(matches: &ArgMatches, source: &dyn Source) -> Result<LogLevel, CliError> {
    let level = match text(matches, "level") {
        "" => None,
        name => Some(
            Level::from_name(name)
                .ok_or_else(|| usage("the level is none of debug, info, warn, error"))?,
        ),
    };
    let lasts = humantime::parse_duration(text(matches, "for"))
        .ok()
        .filter(|lasts| (Duration::from_secs(1)..=level::MAX).contains(lasts))
        .ok_or_else(|| usage("--for is no length of time from 1s to 24h, such as 15m"))?;
    Ok(LogLevel {
        address: config::health_address(&flags(matches), source)?,
        level,
        lasts,
    })
}

/// Whether the daemon was meant by a command line that cannot be understood.
fn means_service(arguments: &[OsString], source: &dyn Source) -> bool {
    let names = ["client-id", "client-id-file"];
    names.iter().any(|name| {
        source
            .variable(&settings::variable_of(name))
            .is_some_and(|value| !value.is_empty())
    }) || arguments.iter().any(|argument| {
        argument.to_str().is_some_and(|text| {
            let flag = text.split('=').next().unwrap_or_default();
            names
                .iter()
                .any(|name| flag.strip_prefix("--") == Some(name))
        })
    })
}

/// What is wrong with a command line, on one line and without repeating what might be a secret.
fn describe(error: &clap::Error) -> String {
    let context = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        Some(ContextValue::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    };
    let flag = context(ContextKind::InvalidArg).and_then(known_flag);
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let given = context(ContextKind::InvalidArg).unwrap_or_default();
            unknown(given)
        }
        ErrorKind::InvalidSubcommand => {
            let given = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            unknown(given)
        }
        ErrorKind::InvalidUtf8 => "an argument is not valid UTF-8".to_owned(),
        ErrorKind::ArgumentConflict => format!(
            "{} is given twice",
            flag.unwrap_or_else(|| "a flag".to_owned())
        ),
        ErrorKind::NoEquals
        | ErrorKind::TooManyValues
        | ErrorKind::TooFewValues
        | ErrorKind::WrongNumberOfValues
        | ErrorKind::InvalidValue => format!(
            "{} needs a value",
            flag.unwrap_or_else(|| "a flag".to_owned())
        ),
        _ => "the command line cannot be understood".to_owned(),
    }
}

/// `--name` when this is one of our flags, however clap writes it.
fn known_flag(text: &str) -> Option<String> {
    let name = text
        .trim_start_matches('-')
        .split(['=', ' ', '['])
        .next()
        .unwrap_or_default();
    settings::find(name)
        .map(|setting| setting.name)
        .or_else(|| {
            ["endpoint", "timeout", "online", "json", "for"]
                .into_iter()
                .find(|own| *own == name)
        })
        .map(|name| format!("--{name}"))
}

fn unknown(given: &str) -> String {
    let Some(name) = given.strip_prefix("--") else {
        let kind = if given.starts_with('-') {
            "short flag"
        } else {
            "argument"
        };
        let hint = settings::nearest(
            given,
            [
                "config",
                "capabilities",
                "health-check",
                "log-level",
                "check-config",
                "probe",
                "version",
                "help",
            ],
        )
        .map_or_else(String::new, |name| format!("; did you mean {name}?"));
        return format!(
            "unknown {kind} of {} characters{hint}",
            given.chars().count()
        );
    };
    let name = name.split('=').next().unwrap_or_default();
    let shown = if name.len() <= 40
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c == '-' || c == '_')
    {
        format!("--{name}")
    } else {
        format!("of {} characters", name.chars().count())
    };
    let hint = settings::nearest(name, SETTINGS.iter().map(|setting| setting.name))
        .map_or_else(String::new, |meant| format!("; did you mean --{meant}?"));
    format!("unknown flag {shown}{hint}")
}

impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "http://{}:{}{}",
            self.address.host, self.address.port, self.path
        )
    }
}
