//! Another log level for a while.
//!
//! Owns what is logged now, until when, and the way back to the configured level. Never knows who asks. Invariants: a
//! level that was asked for ends by itself; the last who asked counts.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::LogControl;
use crate::{clock::Clock, config::Level, supervisor::lock};

/// How long another level lasts when nothing is said.
pub const DEFAULT: Duration = Duration::from_mins(15);
/// The longest that a person may ask for.
pub const MAX: Duration = Duration::from_hours(24);

/// What is logged, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// What is logged now.
    pub level: Level,
    /// What is logged when nobody asks for something else.
    pub configured: Level,
    /// When it ends; `None` where what is logged is what is configured.
    pub until: Option<Timestamp>,
}

/// The level of the process, and who may change it for a while.
pub struct LevelSwitch {
    log: LogControl,
    configured: Level,
    clock: Arc<dyn Clock>,
    lifted: Mutex<Option<(Instant, Timestamp)>>,
    changed: Notify,
}

impl fmt::Debug for LevelSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LevelSwitch")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl LevelSwitch {
    /// A switch over these logs. `configured` is the level to which they go back.
    pub fn new(log: LogControl, configured: Level, clock: Arc<dyn Clock>) -> Self {
        Self {
            log,
            configured,
            clock,
            lifted: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// What is logged now, and until when.
    pub fn state(&self) -> State {
        let lifted = *lock(&self.lifted);
        State {
            level: self.log.level(),
            configured: self.configured,
            until: lifted.map(|(_, until)| until),
        }
    }

    /// Logs at another level for so long; the configured level ends an earlier wish.
    pub fn set(&self, level: Level, lasts: Duration) -> State {
        let mut lifted = lock(&self.lifted);
        *lifted = if level == self.configured {
            None
        } else {
            let until = self.clock.now().checked_add(lasts);
            Some((Instant::now() + lasts, until.unwrap_or(Timestamp::MAX)))
        };
        self.log.set_level(level);
        drop(lifted);
        self.changed.notify_one();
        let state = self.state();
        tracing::warn!(
            log.level = level.name(),
            log.until = state.until.map(tracing::field::display),
            "the log level was changed"
        );
        state
    }

    /// Goes back to the configured level whenever the time of another one is over. Never ends; one at a time.
    pub async fn keep(&self) {
        loop {
            let lifted = *lock(&self.lifted);
            let Some((end, _)) = lifted else {
                self.changed.notified().await;
                continue;
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep_until(end) => self.end(end),
            }
        }
    }

    /// Goes back, unless somebody asked for something else in this moment.
    fn end(&self, due: Instant) {
        let mut lifted = lock(&self.lifted);
        if lifted.is_none_or(|(end, _)| end > due) {
            return;
        }
        *lifted = None;
        self.log.set_level(self.configured);
        drop(lifted);
        tracing::warn!(
            log.level = self.configured.name(),
            "the log level is the configured one again"
        );
    }
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::DefaultGuard;

    use super::*;
    use crate::{
        clock::ManualClock,
        config::{Log, LogFormat},
        telemetry::capture,
    };

    fn switch() -> (Arc<LevelSwitch>, LogControl, DefaultGuard) {
        let log = Log {
            level: Level::Info,
            format: LogFormat::Json,
            paths: Vec::new(),
        };
        let clock = Arc::new(ManualClock::new("2026-10-01T08:00:00Z".parse().unwrap()));
        let (subscriber, control, _captured) = capture(&log, &[], Arc::clone(&clock) as _);
        let switch = Arc::new(LevelSwitch::new(control.clone(), Level::Info, clock));
        // A filter cannot be changed without its subscriber.
        let subscriber = tracing::subscriber::set_default(subscriber);
        (switch, control, subscriber)
    }

    /// Lets the keeper run for so long.
    async fn pass(switch: &LevelSwitch, time: Duration) {
        assert!(tokio::time::timeout(time, switch.keep()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn another_level_ends_by_itself() {
        let (switch, control, _logs) = switch();
        let state = switch.set(Level::Debug, DEFAULT);
        assert_eq!(
            state,
            State {
                level: Level::Debug,
                configured: Level::Info,
                until: Some("2026-10-01T08:15:00Z".parse().unwrap()),
            }
        );
        pass(&switch, Duration::from_mins(14)).await;
        assert_eq!(control.level(), Level::Debug);
        pass(&switch, Duration::from_secs(61)).await;
        assert_eq!(control.level(), Level::Info);
        assert_eq!(switch.state().until, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_wish_counts() {
        let (switch, control, _logs) = switch();
        switch.set(Level::Debug, Duration::from_mins(1));
        switch.set(Level::Error, MAX);
        pass(&switch, Duration::from_mins(2)).await;
        assert_eq!(control.level(), Level::Error);
        pass(&switch, MAX).await;
        assert_eq!(control.level(), Level::Info);
    }

    #[tokio::test(start_paused = true)]
    async fn the_configured_level_ends_a_wish() {
        let (switch, control, _logs) = switch();
        switch.set(Level::Debug, MAX);
        assert_eq!(switch.set(Level::Info, MAX).until, None);
        assert_eq!(control.level(), Level::Info);
        switch.set(Level::Debug, Duration::from_mins(1));
        pass(&switch, Duration::from_mins(2)).await;
        assert_eq!(control.level(), Level::Info);
    }
}
