//! How many requests may be in flight at once.
//!
//! The limit starts modest, grows by one after a whole window of successes, and is halved when the peer throttles. A
//! throttle also stops all requests until its wait has passed: they back off together instead of each on its own.
//! Waiters are served in the order of their arrival. Dropping a waiter or a permit at any point loses nothing.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

use crate::telemetry::metrics::{self, Running};

/// The limit that a new limiter begins with, unless its maximum is lower.
pub const START: usize = 4;
/// Requests that wait for the same instant start up to this much later, each at its own time.
const MAX_JITTER: Duration = Duration::from_millis(250);

/// An adaptive limit on requests in flight. Clones share it.
#[derive(Debug, Clone)]
pub struct Limiter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    slots: Arc<Semaphore>,
    state: Mutex<State>,
    max: usize,
    shown: metrics::Limit,
}

#[derive(Debug)]
struct State {
    limit: usize,
    /// Slots that are still out although the limit no longer has them; they vanish when they come back.
    debt: usize,
    successes: usize,
    /// Counts the cuts. Of the many requests in flight when a peer throttles, only the first cuts the limit.
    epoch: u64,
    paused_until: Option<Instant>,
}

impl Limiter {
    /// A limiter that allows between 1 and `max` requests; a `max` of 0 counts as 1.
    pub fn new(max: usize) -> Self {
        Self::measured(max, metrics::Limit::default())
    }

    /// As [`Limiter::new`]; its state is shown there.
    pub fn measured(max: usize, shown: metrics::Limit) -> Self {
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        let limit = START.min(max);
        shown.changed(limit);
        Self(Arc::new(Shared {
            slots: Arc::new(Semaphore::new(limit)),
            state: Mutex::new(State {
                limit,
                debt: 0,
                successes: 0,
                epoch: 0,
                paused_until: None,
            }),
            max,
            shown,
        }))
    }

    /// The current limit.
    pub fn limit(&self) -> usize {
        self.0.lock().limit
    }

    /// The highest limit possible.
    pub fn max(&self) -> usize {
        self.0.max
    }

    /// Takes over a limit that an earlier process found out, at most the maximum and at least one request.
    ///
    /// Without effect once a throttle cut the limit of this process: what was learned here is newer.
    pub fn resume(&self, limit: usize) {
        let mut state = self.0.lock();
        if state.epoch > 0 {
            return;
        }
        let limit = limit.clamp(1, self.0.max);
        if limit > state.limit {
            let more = limit - state.limit;
            let owed = more.min(state.debt);
            state.debt -= owed;
            self.0.slots.add_permits(more - owed);
        } else {
            self.0.cut(&mut state, limit);
        }
        state.successes = 0;
        state.limit = limit;
        self.0.shown.changed(limit);
    }

    /// Waits for a slot and for the end of a pause. Cancel-safe; the wait is as long as others need, so callers that
    /// want a bound put it around.
    pub async fn acquire(&self) -> Permit {
        loop {
            // The semaphore is never closed, so there always is a slot in the end.
            let slot = Arc::clone(&self.0.slots).acquire_owned().await.ok();
            let mut permit = Permit {
                shared: Arc::clone(&self.0),
                slot,
                epoch: 0,
                running: None,
            };
            while let Some(until) = self.0.paused_until() {
                sleep_until(until + MAX_JITTER.mul_f64(fastrand::f64())).await;
            }
            let state = self.0.lock();
            if state.debt == 0 {
                permit.epoch = state.epoch;
                drop(state);
                permit.running = Some(self.0.shown.acquired());
                return permit;
            }
            // The limit shrank while this slot waited; it goes back, and the next one is queued for.
            drop(state);
            drop(permit);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the slots above `limit` away; those that are out vanish when they come back.
    fn cut(&self, state: &mut State, limit: usize) {
        let cut = state.limit.saturating_sub(limit);
        let forgotten = self.slots.forget_permits(cut);
        state.debt = state.debt.saturating_add(cut.saturating_sub(forgotten));
    }

    fn paused_until(&self) -> Option<Instant> {
        let mut state = self.lock();
        if state
            .paused_until
            .is_some_and(|until| until <= Instant::now())
        {
            state.paused_until = None;
        }
        state.paused_until
    }
}

/// The right to have one request in flight, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    slot: Option<OwnedSemaphorePermit>,
    epoch: u64,
    running: Option<Running>,
}

impl Permit {
    /// Tells that the peer answered without throttling.
    pub fn succeeded(&self) {
        let mut state = self.shared.lock();
        if self.epoch != state.epoch {
            return;
        }
        state.successes = state.successes.saturating_add(1);
        if state.successes >= state.limit && state.limit < self.shared.max {
            state.successes = 0;
            state.limit = state.limit.saturating_add(1);
            self.shared.shown.changed(state.limit);
            if state.debt > 0 {
                state.debt = state.debt.saturating_sub(1);
            } else {
                self.shared.slots.add_permits(1);
            }
        }
    }

    /// Tells that the peer throttles: the limit is halved, and no request starts before `pause` has passed.
    pub fn throttled(&self, pause: Duration) {
        let mut state = self.shared.lock();
        let until = Instant::now() + pause;
        state.paused_until = Some(state.paused_until.map_or(until, |old| old.max(until)));
        self.shared.shown.paused(pause);
        if self.epoch != state.epoch {
            return;
        }
        state.epoch = state.epoch.wrapping_add(1);
        state.successes = 0;
        let limit = (state.limit / 2).max(1);
        self.shared.cut(&mut state, limit);
        state.limit = limit;
        self.shared.shown.changed(limit);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let mut state = self.shared.lock();
        if state.debt > 0 {
            state.debt = state.debt.saturating_sub(1);
            slot.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::join_all};
    use proptest::prelude::*;

    use super::*;
    use crate::clock::paused;

    async fn hold(limiter: &Limiter, count: usize) -> Vec<Permit> {
        join_all((0..count).map(|_| limiter.acquire())).await
    }

    fn is_full(limiter: &Limiter) -> bool {
        limiter.acquire().now_or_never().is_none()
    }

    #[tokio::test(start_paused = true)]
    async fn it_starts_at_four_or_at_a_lower_maximum() {
        for (max, start) in [(0, 1), (1, 1), (2, 2), (4, 4), (16, 4)] {
            let limiter = Limiter::new(max);
            assert_eq!(limiter.limit(), start);
            let held = hold(&limiter, start).await;
            assert!(is_full(&limiter), "max {max}");
            drop(held);
            assert!(!is_full(&limiter), "max {max}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_of_successes_adds_one_up_to_the_maximum() {
        let limiter = Limiter::new(6);
        for expected in [4, 4, 4, 5, 5, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 6] {
            limiter.acquire().await.succeeded();
            assert_eq!(limiter.limit(), expected);
        }
        let _held = hold(&limiter, 6).await;
        assert!(is_full(&limiter));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_of_an_earlier_process_is_taken_over_within_the_maximum() {
        for (max, given, taken) in [(8, 6, 6), (8, 1, 1), (8, 0, 1), (4, 64, 4), (2, 1, 1)] {
            let limiter = Limiter::new(max);
            limiter.resume(given);
            assert_eq!(limiter.limit(), taken, "{given} of {max}");
            let held = hold(&limiter, taken).await;
            assert!(is_full(&limiter), "{given} of {max}");
            drop(held);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lower_limit_waits_for_the_requests_that_are_out_and_a_throttle_knows_better() {
        let limiter = Limiter::new(8);
        let held = hold(&limiter, 4).await;
        limiter.resume(1);
        assert!(is_full(&limiter));
        limiter.resume(3);
        let mut held = held.into_iter();
        drop(held.next());
        assert!(is_full(&limiter), "three are still out");
        drop(held.next());
        assert_eq!(hold(&limiter, 1).await.len(), 1);
        for permit in held {
            permit.throttled(Duration::ZERO);
        }
        assert_eq!(limiter.limit(), 1);
        limiter.resume(8);
        assert_eq!(limiter.limit(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn many_throttles_of_one_burst_halve_the_limit_once() {
        let limiter = Limiter::new(8);
        let held = hold(&limiter, 4).await;
        for permit in &held {
            permit.throttled(Duration::from_secs(1));
        }
        assert_eq!(limiter.limit(), 2);
        drop(held);
        let second = hold(&limiter, 2).await;
        assert!(is_full(&limiter));
        for permit in &second {
            permit.throttled(Duration::from_secs(1));
        }
        assert_eq!(limiter.limit(), 1);
        drop(second);
        limiter.acquire().await.throttled(Duration::from_secs(1));
        assert_eq!(limiter.limit(), 1, "one request is always allowed");
        assert_eq!(hold(&limiter, 1).await.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttle_stops_every_request_until_its_wait_has_passed() {
        let limiter = Limiter::new(8);
        limiter.acquire().await.throttled(Duration::from_secs(30));
        let begin = Instant::now();
        let waits = join_all((0..6).map(|_| async {
            let permit = limiter.acquire().await;
            let waited = begin.elapsed();
            drop(permit);
            waited
        }))
        .await;
        for waited in waits {
            assert!(waited >= Duration::from_secs(30), "{waited:?}");
            assert!(waited <= Duration::from_secs(31), "{waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_longer_wait_is_not_shortened_by_a_later_shorter_one() {
        let limiter = Limiter::new(8);
        let held = hold(&limiter, 2).await;
        held[0].throttled(Duration::from_secs(30));
        held[1].throttled(Duration::from_secs(1));
        drop(held);
        let begin = Instant::now();
        drop(limiter.acquire().await);
        assert!(begin.elapsed() >= Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_that_held_a_slot_through_a_cut_do_not_exceed_the_new_limit() {
        let limiter = Limiter::new(8);
        let first = limiter.acquire().await;
        let mut waiting: Vec<_> = (0..8).map(|_| Box::pin(limiter.acquire())).collect();
        first.throttled(Duration::from_secs(5));
        for future in &mut waiting {
            assert!(future.as_mut().now_or_never().is_none());
        }
        first.throttled(Duration::from_secs(5));
        drop(first);
        tokio::time::advance(Duration::from_secs(6)).await;
        let mut granted = Vec::new();
        for future in &mut waiting {
            if let Some(permit) = future.as_mut().now_or_never() {
                granted.push(permit);
            }
        }
        assert_eq!(limiter.limit(), 2);
        assert_eq!(granted.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_waiters_lose_no_slot() {
        let limiter = Limiter::new(4);
        limiter.acquire().await.throttled(Duration::from_secs(10));
        for _ in 0..20 {
            assert!(limiter.acquire().now_or_never().is_none());
        }
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(hold(&limiter, 2).await.len(), 2);
    }

    /// What is done to a limiter; the number chooses whom.
    #[derive(Debug, Clone, Copy)]
    enum Move {
        Ask,
        GiveUpAsking(usize),
        Succeed(usize),
        Throttle(usize, Duration),
        Return(usize),
        Wait(Duration),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let pause = (0_u64..150_000).prop_map(Duration::from_millis);
        proptest::collection::vec(
            prop_oneof![
                4 => Just(Move::Ask),
                1 => any::<usize>().prop_map(Move::GiveUpAsking),
                4 => any::<usize>().prop_map(Move::Succeed),
                1 => (any::<usize>(), pause.clone()).prop_map(|(who, pause)| Move::Throttle(who, pause)),
                3 => any::<usize>().prop_map(Move::Return),
                2 => pause.prop_map(Move::Wait),
            ],
            0..80,
        )
    }

    /// Takes away one of several, chosen by a number.
    fn taken<T>(from: &mut Vec<T>, number: usize) -> Option<T> {
        (!from.is_empty()).then(|| from.swap_remove(number % from.len()))
    }

    async fn play(max: usize, moves: Vec<Move>) {
        let limiter = Limiter::new(max);
        let mut asking = Vec::new();
        let mut held: Vec<Permit> = Vec::new();
        let mut paused_until = Instant::now();
        for next in moves {
            match next {
                Move::Ask => asking.push(Box::pin(limiter.acquire())),
                Move::GiveUpAsking(who) => drop(taken(&mut asking, who)),
                Move::Return(who) => drop(taken(&mut held, who)),
                Move::Wait(time) => tokio::time::advance(time).await,
                Move::Succeed(who) if !held.is_empty() => held[who % held.len()].succeeded(),
                Move::Throttle(who, pause) if !held.is_empty() => {
                    let before = limiter.limit();
                    held[who % held.len()].throttled(pause);
                    paused_until = paused_until.max(Instant::now() + pause);
                    let now = limiter.limit();
                    assert!(now == before || now == (before / 2).max(1));
                }
                Move::Succeed(_) | Move::Throttle(..) => {}
            }
            let mut still = Vec::new();
            for mut one in asking {
                match one.as_mut().now_or_never() {
                    Some(permit) => {
                        assert!(Instant::now() >= paused_until, "a request in a pause");
                        held.push(permit);
                        assert!(held.len() <= limiter.limit(), "more than the limit");
                    }
                    None => still.push(one),
                }
            }
            asking = still;
            assert!((1..=max.max(1)).contains(&limiter.limit()));
        }
        // Whatever happened: all slots are there again, and successes bring the limit back to its maximum.
        drop(asking);
        drop(held);
        for _ in 0..(max + 1) * (max + 1) {
            limiter.acquire().await.succeeded();
        }
        assert_eq!(limiter.limit(), max.max(1));
        let _all = hold(&limiter, max.max(1)).await;
        assert!(is_full(&limiter));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn whatever_happens_the_limit_holds_and_comes_back(max in 0_usize..20, moves in moves()) {
            paused(play(max, moves));
        }
    }
}
