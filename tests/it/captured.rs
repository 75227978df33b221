//! Log lines of one test, captured although other tests log nothing.
//!
//! `tracing` remembers per call site whether anybody wants it. Tests run side by side and most have no subscriber, so a
//! call site first met by such a test could be remembered as wanted by nobody, and a test that captures would miss its
//! line. Here a global subscriber that takes nothing but never says "never" keeps every call site open.

use std::sync::Once;

use tracing::{
    Event, Metadata, Subscriber,
    level_filters::LevelFilter,
    span,
    subscriber::{DefaultGuard, Interest},
};

struct Undecided;

impl Subscriber for Undecided {
    fn register_callsite(&self, _metadata: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        false
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}
    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}
    fn event(&self, _event: &Event<'_>) {}
    fn enter(&self, _span: &span::Id) {}
    fn exit(&self, _span: &span::Id) {}
}

/// Sends the log lines of this thread to `subscriber` until the guard is dropped.
pub fn listen(subscriber: impl Subscriber + Send + Sync + 'static) -> DefaultGuard {
    static OPEN: Once = Once::new();
    OPEN.call_once(|| {
        tracing::subscriber::set_global_default(Undecided).expect("no other global subscriber");
    });
    let guard = tracing::subscriber::set_default(subscriber);
    tracing::callsite::rebuild_interest_cache();
    guard
}
