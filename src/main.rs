//! The program: understands the command line, starts the runtime, maps the end to an exit code.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use baton_jumpcloud::{
    app,
    cli::{self, Command, Probe},
    clock::{Clock as _, SystemClock},
    config::{Config, Level, Log, Operation, SystemSource},
    connector::jumpcloud,
    supervisor::process,
    telemetry::{self, LogControl},
};

/// musl's allocator takes one lock for all threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long work on blocking threads is waited for at the end.
const BLOCKING_LIMIT: Duration = Duration::from_millis(500);

/// An end that is not a success: what to say on standard error, and the exit code.
struct End {
    message: String,
    code: u8,
}

impl From<cli::CliError> for End {
    fn from(error: cli::CliError) -> Self {
        Self {
            message: error.to_string(),
            code: error.exit_code(),
        }
    }
}

impl From<app::Failure> for End {
    fn from(failure: app::Failure) -> Self {
        Self {
            message: failure.message,
            code: failure.exit_code,
        }
    }
}

impl From<telemetry::Error> for End {
    fn from(error: telemetry::Error) -> Self {
        Self {
            message: baton_jumpcloud::error::chain(&error),
            code: 1,
        }
    }
}

fn main() -> ExitCode {
    // Before anything else, as everything else may hold a secret.
    let hardened = process::harden();
    match run(hardened) {
        Ok(()) => ExitCode::SUCCESS,
        Err(End { message, code }) => {
            // Nothing is left to do when standard error is closed.
            drop(writeln!(io::stderr(), "error: {message}"));
            ExitCode::from(code)
        }
    }
}

fn run(hardened: io::Result<()>) -> Result<(), End> {
    match cli::parse(std::env::args_os(), &SystemSource)? {
        Command::Run(config) => {
            let (log, _traces) = start(&config, hardened)?;
            block_on(app::serve(&config, Arc::new(SystemSource), &log))?.map_err(End::from)
        }
        Command::OneShot(config) => {
            let (log, _traces) = start(&config, hardened)?;
            if config.operation == Operation::Sync {
                return block_on(app::sync_once(&config, &log))?.map_err(End::from);
            }
            let answer = block_on(app::change_once(&config))?.map_err(End::from)?;
            print(&cli::answer_json(&answer)?)
        }
        Command::HealthCheck(check) => Ok(block_on(cli::health_check(&check))??),
        Command::LogLevel(wanted) => print(&block_on(cli::log_level(&wanted))??),
        Command::Probe(probe) => run_probe(&probe),
        Command::ConfigSchema => print(&cli::config_schema_json()?),
        Command::Capabilities => print(&cli::capabilities_json(
            &jumpcloud::metadata().capabilities.unwrap_or_default(),
        )?),
        Command::CheckConfig(config) => print(&config.describe()),
        Command::Version => print(&format!("{}\n", cli::version())),
        Command::Docs => print(&cli::configuration_table()),
        Command::Help(text) => print(&text),
    }
}

/// Starts logging, and traces if they are wanted; says what the operator should know about the configuration.
fn start(config: &Config, hardened: io::Result<()>) -> Result<(LogControl, Traces), End> {
    let (log, traces) = tell(config)?;
    if config
        .debug_until
        .is_some_and(|until| SystemClock.now() < until)
    {
        log.set_level(Level::Debug);
    }
    for notice in &config.notices {
        tracing::warn!("{notice}");
    }
    if let Err(error) = hardened {
        tracing::warn!(
            error = %error,
            "core dumps cannot be switched off for this process; a crash may leave a file with its secrets"
        );
    }
    Ok((log, traces))
}

/// Sends the last traces when it is dropped.
#[derive(Default)]
struct Traces {
    #[cfg(feature = "otlp")]
    exporter: Option<telemetry::otlp::Exporter>,
}

#[cfg(feature = "otlp")]
impl Drop for Traces {
    fn drop(&mut self) {
        if let Some(exporter) = self.exporter.take() {
            exporter.finish();
        }
    }
}

/// Starts logs, and traces where they are asked for.
fn tell(config: &Config) -> Result<(LogControl, Traces), telemetry::Error> {
    let (secrets, clock) = (config.secrets(), Arc::new(SystemClock));
    #[cfg(feature = "otlp")]
    if let Some(traces) = &config.traces {
        install_tls();
        let exporter = telemetry::otlp::Exporter::start(traces)?;
        let log = telemetry::init_with_traces(&config.log, &secrets, clock, &exporter)?;
        return Ok((
            log,
            Traces {
                exporter: Some(exporter),
            },
        ));
    }
    telemetry::init(&config.log, &secrets, clock).map(|log| (log, Traces::default()))
}

/// Checks the configuration and prints what was found; the exit code says how it ended.
fn run_probe(probe: &Probe) -> Result<(), End> {
    if let Ok(config) = &probe.request.config {
        // The report belongs to standard output alone, and the log files to the daemon.
        let log = Log {
            paths: Vec::new(),
            ..config.log.clone()
        };
        telemetry::init(&log, &config.secrets(), Arc::new(SystemClock))?;
    }
    let report = block_on(app::probe::probe(&probe.request, &SystemSource))??;
    print(&if probe.json {
        cli::probe_json(&report)
    } else {
        cli::probe_text(&report)
    })?;
    match cli::probe_verdict(&report) {
        None => Ok(()),
        Some(message) => Err(End {
            message,
            code: report.exit_code(),
        }),
    }
}

fn install_tls() {
    // Fails only when a provider is installed already, which is as good.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

/// Two workers serve the network; SQLite and compression have threads of their own.
fn block_on<F: Future>(future: F) -> Result<F::Output, End> {
    install_tls();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| End {
            message: format!("cannot start the runtime: {error}"),
            code: 1,
        })?;
    let output = runtime.block_on(future);
    // Dropping the runtime would wait without limit for what still blocks, such as a name that is being resolved.
    runtime.shutdown_timeout(BLOCKING_LIMIT);
    Ok(output)
}

fn print(text: &str) -> Result<(), End> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| End {
            message: format!("cannot write to standard output: {error}"),
            code: 1,
        })
}
