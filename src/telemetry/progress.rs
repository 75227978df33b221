//! Shows how a sync gets on: bars for a person at a terminal, log lines for everybody else.
//!
//! Progress counts finished listings, not rows. Both kinds are cheap to call and write rarely: bars are drawn at most a
//! few times a second, lines appear at most every ten seconds for a resource type.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use super::{LogControl, metrics::Metrics};
use crate::syncer::Progress;

/// How often a line appears for one resource type.
const INTERVAL: Duration = Duration::from_secs(10);

/// A bar whose end is not known.
const COUNTING: &str = "{prefix:>15} {pos:>8}          {elapsed:>6} {msg}";

/// A bar whose end is known.
const MEASURED: &str = "{prefix:>15} {pos:>8} of {len:<8} [{bar:24}] {elapsed:>6} {msg}";

/// Progress as log lines.
#[derive(Debug, Default)]
pub struct LogLines {
    state: Mutex<LineState>,
}

#[derive(Debug, Default)]
struct LineState {
    phase: &'static str,
    /// When a line last appeared for a type, and whether it has said that the type is finished.
    written: BTreeMap<String, (Instant, bool)>,
}

impl LogLines {
    /// Progress before the first phase.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Progress for LogLines {
    fn phase(&self, name: &'static str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.phase = name;
        state.written.clear();
        drop(state);
        match name {
            "expansion" => tracing::info!(sync.phase = name, "Expanding grants..."),
            "seal" => tracing::info!(sync.phase = name, "Writing the file..."),
            other => tracing::info!(sync.phase = name, "Syncing {other}..."),
        }
    }

    fn advance(&self, resource_type_id: &str, done: u64, total: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let phase = state.phase;
        let now = Instant::now();
        let finished = total > 0 && done >= total;
        let due = match state.written.get(resource_type_id) {
            Some((_, true)) => false,
            Some((at, false)) => finished || now.duration_since(*at) >= INTERVAL,
            // The first report only starts the clock: short phases need no lines in between.
            None => finished,
        };
        if due || !state.written.contains_key(resource_type_id) {
            state
                .written
                .insert(resource_type_id.to_owned(), (now, finished));
        }
        drop(state);
        if !due {
            return;
        }
        if finished {
            tracing::info!(
                sync.phase = phase,
                resource.type = resource_type_id,
                count = done,
                total,
                "Synced {phase} of {resource_type_id}"
            );
        } else if let Some(percent) = done.saturating_mul(100).checked_div(total) {
            tracing::info!(
                sync.phase = phase,
                resource.type = resource_type_id,
                synced = done,
                total,
                percent_complete = percent,
                "Syncing {phase} of {resource_type_id}"
            );
        } else {
            tracing::info!(
                sync.phase = phase,
                resource.type = resource_type_id,
                synced = done,
                "Syncing {phase} of {resource_type_id}"
            );
        }
    }
}

/// Progress as numbers too. The sync counts as over when this is dropped.
#[derive(Debug)]
pub struct Counted<P> {
    inner: P,
    metrics: Metrics,
}

impl<P: Progress> Counted<P> {
    /// What `inner` is told is counted as well.
    pub fn new(inner: P, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }
}

impl<P> Drop for Counted<P> {
    fn drop(&mut self) {
        self.metrics.sync_phase(None);
    }
}

impl<P: Progress> Progress for Counted<P> {
    fn phase(&self, name: &'static str) {
        self.metrics.sync_phase(Some(name));
        self.inner.phase(name);
    }

    fn advance(&self, resource_type_id: &str, done: u64, total: u64) {
        self.metrics.sync_listings(resource_type_id, done, total);
        self.inner.advance(resource_type_id, done, total);
    }
}

/// Progress as bars on standard error. Log lines go above the bars while they exist.
pub struct Bars {
    multi: MultiProgress,
    control: Option<LogControl>,
    state: Mutex<BarState>,
}

#[derive(Default)]
struct BarState {
    bar: Option<ProgressBar>,
    /// The bar has a length, because the total of every type is known.
    measured: bool,
    units: BTreeMap<String, (u64, u64)>,
}

impl fmt::Debug for Bars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bars").finish_non_exhaustive()
    }
}

impl Bars {
    /// Bars on standard error; nothing is drawn when that is no terminal.
    pub fn new(control: &LogControl) -> Self {
        let multi = MultiProgress::new();
        control.draw_over(Some(multi.clone()));
        Self {
            multi,
            control: Some(control.clone()),
            state: Mutex::default(),
        }
    }

    /// Bars on another target, such as a terminal in memory.
    pub fn on(target: ProgressDrawTarget) -> Self {
        Self {
            multi: MultiProgress::with_draw_target(target),
            control: None,
            state: Mutex::default(),
        }
    }

    /// Ends the last bar; what was drawn stays. Dropping does the same.
    pub fn finish(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        end(&mut state);
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.finish();
        if let Some(control) = &self.control {
            control.draw_over(None);
        }
    }
}

/// Leaves the finished bar of a phase on the screen.
fn end(state: &mut BarState) {
    if let Some(bar) = state.bar.take() {
        bar.set_message("");
        bar.abandon();
    }
    state.units.clear();
    state.measured = false;
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants; a broken one would only look plain.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_error| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

impl Progress for Bars {
    fn phase(&self, name: &'static str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        end(&mut state);
        let bar = self.multi.add(ProgressBar::no_length());
        bar.set_style(style(COUNTING));
        bar.set_prefix(name);
        bar.tick();
        state.bar = Some(bar);
    }

    fn advance(&self, resource_type_id: &str, done: u64, total: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .units
            .insert(resource_type_id.to_owned(), (done, total));
        let done: u64 = state.units.values().map(|(done, _)| done).sum();
        let known = state.units.values().all(|(_, total)| *total > 0);
        let total: u64 = state.units.values().map(|(_, total)| total).sum();
        let changed = known != state.measured;
        state.measured = known;
        if let Some(bar) = &state.bar {
            if changed {
                bar.set_style(style(if known { MEASURED } else { COUNTING }));
            }
            if known {
                bar.set_length(total);
            }
            bar.set_message(resource_type_id.to_owned());
            bar.set_position(done);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use indicatif::TermLike;
    use jiff::Timestamp;

    use super::*;
    use crate::{
        clock::{ManualClock, paused},
        config::{Level, Log, LogFormat},
        telemetry::capture,
    };

    /// A terminal that keeps everything ever written to it.
    #[derive(Debug, Clone, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            100
        }

        fn move_cursor_up(&self, _n: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _n: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _n: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _n: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> std::io::Result<()> {
            self.write_str(&format!("{text}\n"))
        }

        fn write_str(&self, text: &str) -> std::io::Result<()> {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> std::io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines(run: impl AsyncFnOnce(&LogLines)) -> Vec<serde_json::Value> {
        let log = Log {
            level: Level::Info,
            format: LogFormat::Json,
            paths: Vec::new(),
        };
        let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        let (subscriber, _control, captured) = capture(&log, &[], clock);
        tracing::subscriber::with_default(subscriber, || {
            paused(run(&LogLines::new()));
        });
        captured
            .text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_phase_begins_with_a_line() {
        let lines = lines(async |progress| {
            progress.phase("resources");
            progress.phase("expansion");
        });
        assert_eq!(lines[0]["msg"], "Syncing resources...");
        assert_eq!(lines[1]["msg"], "Expanding grants...");
    }

    #[test]
    fn a_type_speaks_at_most_every_ten_seconds_and_once_at_its_end() {
        let lines = lines(async |progress| {
            progress.phase("grants");
            for done in 0..=100 {
                progress.advance("group", done, 100);
                tokio::time::advance(Duration::from_secs(1)).await;
            }
            progress.advance("group", 100, 100);
        });
        let of_group: Vec<_> = lines
            .iter()
            .filter(|line| line["resource.type"] == "group")
            .collect();
        assert_eq!(of_group.len(), 10, "{of_group:?}");
        assert_eq!(of_group[0]["percent_complete"], 10);
        let last = of_group.last().unwrap();
        assert_eq!(last["msg"], "Synced grants of group");
        assert_eq!(last["count"], 100);
    }

    #[test]
    fn an_unknown_total_gives_no_percentage() {
        let lines = lines(async |progress| {
            progress.phase("resources");
            progress.advance("user", 1, 0);
            tokio::time::advance(Duration::from_secs(11)).await;
            progress.advance("user", 200, 0);
        });
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["synced"], 200);
        assert!(lines[1].get("percent_complete").is_none());
    }

    #[test]
    fn a_new_phase_starts_afresh() {
        let lines = lines(async |progress| {
            for phase in ["entitlements", "grants"] {
                progress.phase(phase);
                progress.advance("app", 5, 5);
            }
        });
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[3]["msg"], "Synced grants of app");
    }

    #[test]
    fn bars_show_phase_count_and_total() {
        let terminal = Paper::default();
        let bars = Bars::on(ProgressDrawTarget::term_like(Box::new(terminal.clone())));
        bars.phase("resources");
        bars.advance("user", 3, 10);
        bars.advance("group", 2, 5);
        bars.phase("grants");
        bars.finish();
        let screen = terminal.0.lock().unwrap().clone();
        assert!(screen.contains("resources"), "{screen}");
        assert!(screen.contains("5 of 15"), "{screen}");
        assert!(screen.contains("grants"), "{screen}");
    }
}
