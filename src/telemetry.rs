//! Logs: where they go, how a line looks, what is left out, and how the level changes at run time.
//!
//! Owns the subscriber of the process. A line looks as the official connectors write it, so that existing log pipelines
//! keep working: JSON with `level`, `ts`, `caller`, `msg` and then the fields of the spans and of the event, or the same
//! tab-separated for people. Every text passes [`redact`] before it is written. Never decides what is worth logging, and
//! never keeps a line back: a line is written whole, or lost when its output fails.

use std::{
    fmt::{self, Debug},
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use indicatif::MultiProgress;
use secrecy::SecretString;
use serde_json::Value;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    layer::{Context, SubscriberExt},
    registry::{LookupSpan, Scope},
    reload,
    util::SubscriberInitExt,
};

use self::redact::Redactor;
use crate::{
    clock::Clock,
    config::{Level, Log, LogFormat},
    error::{Class, Classify, Code},
};

pub mod level;
pub mod metrics;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod progress;
pub mod redact;
pub mod spans;

/// Crates that talk a lot about every connection.
const NOISY: [&str; 9] = [
    "h2",
    "hyper",
    "hyper_util",
    "reqwest",
    "rustls",
    "tokio_util",
    "tonic",
    "tower",
    "want",
];

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A log file cannot be opened.
    #[error("--log-path (BATON_LOG_PATH): cannot append to {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Traces cannot be exported.
    #[cfg(feature = "otlp")]
    #[error("--otel-collector-endpoint (BATON_OTEL_COLLECTOR_ENDPOINT): {problem}")]
    Traces {
        /// What is wrong.
        problem: String,
    },
    /// Another part of the process has installed a subscriber already.
    #[error("logging was started twice")]
    Installed,
}

impl Classify for Error {
    fn class(&self) -> Class {
        Class::Permanent
    }

    fn code(&self) -> Code {
        match self {
            Self::Open { .. } => Code::InvalidArgument,
            #[cfg(feature = "otlp")]
            Self::Traces { .. } => Code::InvalidArgument,
            Self::Installed => Code::Internal,
        }
    }
}

/// The handle on the logs of the process. Cheap to clone.
#[derive(Clone)]
pub struct LogControl {
    filter: reload::Handle<Targets, Registry>,
    level: Arc<ArcSwap<Level>>,
    redactor: Arc<Redactor>,
    bars: Arc<ArcSwapOption<MultiProgress>>,
}

impl Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogControl")
            .field("level", &self.level())
            .finish_non_exhaustive()
    }
}

impl LogControl {
    /// Changes what is logged from now on.
    pub fn set_level(&self, level: Level) {
        // Fails only when the subscriber is gone, and then nothing is logged anyway.
        if self.filter.reload(targets(level)).is_ok() {
            self.level.store(Arc::new(level));
        }
    }

    /// What is logged now.
    pub fn level(&self) -> Level {
        **self.level.load()
    }

    /// Keeps one more secret out of every line from now on, such as a rotated one.
    pub fn hide(&self, secret: &SecretString) {
        self.redactor.hide(secret);
    }

    /// Makes lines to standard error go above these bars, or straight out again.
    fn draw_over(&self, bars: Option<MultiProgress>) {
        self.bars.store(bars.map(Arc::new));
    }
}

/// Starts logging for the whole process. `secrets` never appear in a line.
///
/// Opens the log files; blocks on the file system.
pub fn init(
    log: &Log,
    secrets: &[SecretString],
    clock: Arc<dyn Clock>,
) -> Result<LogControl, Error> {
    let outputs = outputs(&log.paths)?;
    let (logs, control) = logs(log, secrets, clock, outputs);
    logs.try_init().map_err(|_error| Error::Installed)?;
    Ok(control)
}

/// As [`init`], and traces go to a collector.
#[cfg(feature = "otlp")]
pub fn init_with_traces(
    log: &Log,
    secrets: &[SecretString],
    clock: Arc<dyn Clock>,
    exporter: &otlp::Exporter,
) -> Result<LogControl, Error> {
    let outputs = outputs(&log.paths)?;
    let (logs, control) = logs(log, secrets, clock, outputs);
    logs.with(exporter.layer())
        .try_init()
        .map_err(|_error| Error::Installed)?;
    Ok(control)
}

/// A subscriber that writes to a buffer instead, for `tracing::subscriber::with_default` in tests.
pub fn capture(
    log: &Log,
    secrets: &[SecretString],
    clock: Arc<dyn Clock>,
) -> (impl Subscriber + Send + Sync + use<>, LogControl, Captured) {
    let captured = Captured::default();
    let (logs, control) = logs(
        log,
        secrets,
        clock,
        vec![Output::Captured(captured.clone())],
    );
    (logs, control, captured)
}

/// What [`capture`] wrote so far.
#[derive(Debug, Clone, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// All lines so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

fn outputs(paths: &[PathBuf]) -> Result<Vec<Output>, Error> {
    if paths.is_empty() {
        return Ok(vec![Output::Stderr]);
    }
    paths
        .iter()
        .map(|path| match path.to_str() {
            Some("stderr") => Ok(Output::Stderr),
            Some("stdout") => Ok(Output::Stdout),
            _ => OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map(|file| Output::File(Mutex::new(file)))
                .map_err(|source| Error::Open {
                    path: path.clone(),
                    source,
                }),
        })
        .collect()
}

/// The logs alone; the filter is theirs only, so that traces do not depend on the level.
fn logs(
    log: &Log,
    secrets: &[SecretString],
    clock: Arc<dyn Clock>,
    outputs: Vec<Output>,
) -> (
    impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync + use<>,
    LogControl,
) {
    let (filter, handle) = reload::Layer::new(targets(log.level));
    let redactor = Arc::new(Redactor::new(secrets));
    let bars = Arc::new(ArcSwapOption::empty());
    let control = LogControl {
        filter: handle,
        level: Arc::new(ArcSwap::from_pointee(log.level)),
        redactor: Arc::clone(&redactor),
        bars: Arc::clone(&bars),
    };
    let lines = Lines {
        format: log.format,
        redactor,
        clock,
        outputs,
        bars,
    };
    (Registry::default().with(lines.with_filter(filter)), control)
}

fn targets(level: Level) -> Targets {
    let filter = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
    };
    let targets = Targets::new()
        .with_default(filter)
        // Prints header values, which may be credentials.
        .with_target("h2::hpack", filter.min(LevelFilter::INFO))
        // Prints whole answers that it cannot read, which may be Secrets, and each failure, which we tell ourselves.
        .with_target("kube_client", LevelFilter::OFF)
        .with_target("kube_runtime", LevelFilter::OFF);
    if level == Level::Debug {
        return targets;
    }
    targets.with_targets(NOISY.map(|name| (name, filter.min(LevelFilter::WARN))))
}

enum Output {
    Stderr,
    Stdout,
    File(Mutex<File>),
    Captured(Captured),
}

/// The layer that turns events into lines.
struct Lines {
    format: LogFormat,
    redactor: Arc<Redactor>,
    clock: Arc<dyn Clock>,
    outputs: Vec<Output>,
    bars: Arc<ArcSwapOption<MultiProgress>>,
}

/// The fields of a span or an event, in their order; a later one of the same name replaces the earlier.
#[derive(Default)]
struct Fields(Vec<(String, Value)>);

impl Fields {
    fn set(&mut self, name: &str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(index).1)
    }
}

struct Collect<'a> {
    fields: &'a mut Fields,
    redactor: &'a Redactor,
}

impl Collect<'_> {
    fn text(&mut self, field: &Field, text: &str) {
        let value = self.redactor.field(field.name(), text);
        self.fields.set(field.name(), Value::String(value));
    }
}

impl Visit for Collect<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.set(field.name(), Value::Bool(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.set(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.set(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.fields.set(field.name(), value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.text(field, &crate::error::chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field, &format!("{value:?}"));
    }
}

impl<S> Layer<S> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else {
            return;
        };
        let mut fields = Fields::default();
        attributes.record(&mut Collect {
            fields: &mut fields,
            redactor: &self.redactor,
        });
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else {
            return;
        };
        let mut extensions = span.extensions_mut();
        if let Some(fields) = extensions.get_mut::<Fields>() {
            values.record(&mut Collect {
                fields,
                redactor: &self.redactor,
            });
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in ctx
            .event_scope(event)
            .into_iter()
            .flat_map(Scope::from_root)
        {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                for (name, value) in &of_span.0 {
                    fields.set(name, value.clone());
                }
            }
        }
        event.record(&mut Collect {
            fields: &mut fields,
            redactor: &self.redactor,
        });
        self.write(&self.line(event.metadata(), fields));
    }
}

impl Lines {
    fn line(&self, metadata: &Metadata<'_>, mut fields: Fields) -> String {
        let message = match fields.take("message") {
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        // Records of the crate `log` bring their place as fields.
        let module = fields.take("log.target");
        drop(fields.take("log.module_path"));
        let file = match (fields.take("log.file"), metadata.file()) {
            (Some(Value::String(file)), _) => Some(file),
            (_, file) => file.map(str::to_owned),
        };
        let line = match (fields.take("log.line"), metadata.line()) {
            (Some(Value::Number(line)), _) => Some(line.to_string()),
            (_, line) => line.map(|line| line.to_string()),
        };
        let caller = match (file, line, module) {
            (Some(file), Some(line), _) => Some(format!("{}:{line}", last_two(&file))),
            (_, _, Some(Value::String(target))) => Some(target),
            _ => None,
        };
        let now = self.clock.now();
        match self.format {
            LogFormat::Json => {
                let mut line = format!(
                    "{{\"level\":\"{}\",\"ts\":{}.{:06}",
                    lower(*metadata.level()),
                    now.as_second(),
                    now.subsec_nanosecond() / 1000
                );
                if let Some(caller) = caller {
                    entry(&mut line, "caller", &Value::String(caller));
                }
                entry(&mut line, "msg", &Value::String(message));
                for (name, value) in &fields.0 {
                    let reserved = matches!(name.as_str(), "level" | "ts" | "caller" | "msg");
                    if reserved {
                        entry(&mut line, &format!("field.{name}"), value);
                    } else {
                        entry(&mut line, name, value);
                    }
                }
                line.push_str("}\n");
                line
            }
            LogFormat::Console => {
                let time = now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
                let mut line = format!("{time}\t{}", metadata.level());
                for part in [caller.as_deref(), Some(message.as_str())]
                    .into_iter()
                    .flatten()
                {
                    line.push('\t');
                    line.push_str(&part.replace(['\n', '\r'], " "));
                }
                if !fields.0.is_empty() {
                    line.push_str("\t{");
                    let start = line.len();
                    for (name, value) in &fields.0 {
                        if line.len() > start {
                            line.push_str(", ");
                        }
                        line.push_str(&Value::String(name.clone()).to_string());
                        line.push_str(": ");
                        line.push_str(&value.to_string());
                    }
                    line.push('}');
                }
                line.push('\n');
                line
            }
        }
    }

    fn write(&self, line: &str) {
        let bytes = line.as_bytes();
        for output in &self.outputs {
            // There is nobody left to tell that a log line was lost.
            let _written: io::Result<()> = match output {
                Output::Stderr => match &*self.bars.load() {
                    Some(bars) => bars.suspend(|| io::stderr().lock().write_all(bytes)),
                    None => io::stderr().lock().write_all(bytes),
                },
                Output::Stdout => io::stdout().lock().write_all(bytes),
                Output::File(file) => file
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .write_all(bytes),
                Output::Captured(captured) => captured
                    .0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .write_all(bytes),
            };
        }
    }
}

fn entry(line: &mut String, name: &str, value: &Value) {
    line.push(',');
    line.push_str(&Value::String(name.to_owned()).to_string());
    line.push(':');
    line.push_str(&value.to_string());
}

fn lower(level: tracing::Level) -> &'static str {
    match level {
        tracing::Level::ERROR => "error",
        tracing::Level::WARN => "warn",
        tracing::Level::INFO => "info",
        tracing::Level::DEBUG => "debug",
        tracing::Level::TRACE => "trace",
    }
}

/// The last two parts of a path.
fn last_two(path: &str) -> &str {
    let mut cuts = path.rmatch_indices(['/', '\\']).skip(1);
    match cuts.next() {
        Some((index, _)) => path.get(index + 1..).unwrap_or(path),
        None => path,
    }
}

#[cfg(test)]
mod tests;
