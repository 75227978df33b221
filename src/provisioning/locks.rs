//! Who has to wait for whom.
//!
//! A request takes its place in the queue of every key at once, so two requests that share keys meet in the same order in
//! each of their queues, and none can wait for the other in a circle. Invariants: requests with a common key run one after
//! the other, in the order of [`Locks::reserve`]; nothing is kept of a key that nobody wants.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Mutex,
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::supervisor::lock;

/// The queues of all keys.
#[derive(Debug, Default)]
pub(super) struct Locks {
    queues: Mutex<Queues>,
    /// Told whenever somebody leaves.
    left: Notify,
}

#[derive(Debug, Default)]
struct Queues {
    next: u64,
    by_key: BTreeMap<String, VecDeque<u64>>,
}

/// Why a place in the queues came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// The wait took too long.
    Busy,
    /// The request was cancelled.
    Cancelled,
}

impl Locks {
    /// Takes a place in the queue of each key.
    pub(super) fn reserve(&self, keys: impl IntoIterator<Item = String>) -> Ticket<'_> {
        let keys: BTreeSet<String> = keys.into_iter().collect();
        let mut queues = lock(&self.queues);
        queues.next += 1;
        let number = queues.next;
        for key in &keys {
            queues
                .by_key
                .entry(key.clone())
                .or_default()
                .push_back(number);
        }
        Ticket {
            locks: self,
            number,
            keys,
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.queues).by_key.is_empty()
    }
}

/// A place in the queues; given up when it is dropped.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    locks: &'a Locks,
    number: u64,
    keys: BTreeSet<String>,
}

impl Ticket<'_> {
    /// Whether everybody before has left.
    pub(super) fn is_first(&self) -> bool {
        let queues = lock(&self.locks.queues);
        self.keys
            .iter()
            .all(|key| queues.by_key.get(key).and_then(VecDeque::front) == Some(&self.number))
    }

    /// Waits until everybody before has left.
    pub(super) async fn wait(
        &self,
        limit: Duration,
        cancel: &CancellationToken,
    ) -> Result<(), Lost> {
        let deadline = Instant::now() + limit;
        loop {
            // Registered before the look, so that nobody leaves unnoticed in between.
            let mut left = std::pin::pin!(self.locks.left.notified());
            left.as_mut().enable();
            if cancel.is_cancelled() {
                return Err(Lost::Cancelled);
            }
            if self.is_first() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Lost::Cancelled),
                left = timeout_at(deadline, left) => left.map_err(|_elapsed| Lost::Busy)?,
            }
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut queues = lock(&self.locks.queues);
        for key in &self.keys {
            if let Some(queue) = queues.by_key.get_mut(key) {
                queue.retain(|number| *number != self.number);
                if queue.is_empty() {
                    queues.by_key.remove(key);
                }
            }
        }
        drop(queues);
        self.locks.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures_util::future::join_all;

    use super::*;
    use crate::clock::paused;

    const LONG: Duration = Duration::from_mins(1);

    fn keys(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn requests_with_a_common_key_run_in_the_order_of_their_coming() {
        let locks = Locks::default();
        let order = Mutex::new(Vec::new());
        let never = CancellationToken::new();
        let wishes: [&[&str]; 5] = [&["b"], &["a", "b"], &["a"], &["c"], &["b", "c"]];
        let work = wishes.iter().enumerate().map(|(index, names)| {
            let ticket = locks.reserve(keys(names));
            let (order, never) = (&order, &never);
            async move {
                ticket.wait(LONG, never).await.unwrap();
                order.lock().unwrap().push(index);
                tokio::time::sleep(Duration::from_millis(10)).await;
                drop(ticket);
            }
        });
        join_all(work).await;
        assert_eq!(*order.lock().unwrap(), [0, 3, 1, 2, 4]);
        assert!(locks.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_without_a_common_key_do_not_wait() {
        let locks = Locks::default();
        let never = CancellationToken::new();
        let held = locks.reserve(keys(&["a"]));
        let other = locks.reserve(keys(&["b", "b"]));
        let nothing = locks.reserve(keys(&[]));
        assert!(held.is_first());
        other.wait(LONG, &never).await.unwrap();
        nothing.wait(LONG, &never).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_limit_or_when_it_is_cancelled_and_leaves_nothing() {
        let locks = Locks::default();
        let cancel = CancellationToken::new();
        let held = locks.reserve(keys(&["a"]));
        let second = locks.reserve(keys(&["a"]));
        let started = Instant::now();
        assert_eq!(second.wait(LONG, &cancel).await, Err(Lost::Busy));
        assert_eq!(started.elapsed(), LONG);
        let (lost, ()) = tokio::join!(second.wait(LONG, &cancel), async {
            cancel.cancel();
        });
        assert_eq!(lost, Err(Lost::Cancelled));
        drop(second);
        let third = locks.reserve(keys(&["a"]));
        drop(held);
        assert!(third.is_first());
        drop(third);
        assert!(locks.is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_requests_over_few_keys_never_overlap_and_never_stick() {
        let locks = Arc::new(Locks::default());
        let inside: Arc<Vec<AtomicUsize>> = Arc::new((0..4).map(|_| AtomicUsize::new(0)).collect());
        let mut all = tokio::task::JoinSet::new();
        for number in 0..400_u64 {
            let (locks, inside) = (Arc::clone(&locks), Arc::clone(&inside));
            all.spawn(async move {
                let mut random = fastrand::Rng::with_seed(number);
                let wanted: BTreeSet<usize> = (0..random.usize(1..4))
                    .map(|_| random.usize(0..4))
                    .collect();
                let ticket = locks.reserve(wanted.iter().map(ToString::to_string));
                ticket.wait(LONG, &CancellationToken::new()).await.unwrap();
                for key in &wanted {
                    assert_eq!(inside[*key].fetch_add(1, Ordering::SeqCst), 0);
                }
                tokio::task::yield_now().await;
                for key in &wanted {
                    inside[*key].fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
        while let Some(ended) = all.join_next().await {
            ended.unwrap();
        }
        assert!(locks.is_empty());
    }

    /// One request: when it comes, what it wants, how long it works, and when it is cancelled, in milliseconds.
    type Wish = (u64, BTreeSet<u8>, u64, Option<u64>);

    async fn play(wishes: Vec<Wish>) {
        let locks = Locks::default();
        // For each key: who came, in order, and who got in, in order.
        let came: Mutex<BTreeMap<u8, Vec<usize>>> = Mutex::default();
        let entered: Mutex<BTreeMap<u8, Vec<usize>>> = Mutex::default();
        let inside: Mutex<BTreeSet<u8>> = Mutex::default();
        let work = wishes
            .iter()
            .enumerate()
            .map(|(number, (at, wanted, long, until))| {
                let (locks, came, entered, inside) = (&locks, &came, &entered, &inside);
                async move {
                    tokio::time::sleep(Duration::from_millis(*at)).await;
                    let ticket = locks.reserve(wanted.iter().map(ToString::to_string));
                    for key in wanted {
                        came.lock().unwrap().entry(*key).or_default().push(number);
                    }
                    let cancel = CancellationToken::new();
                    let stop = async {
                        match until {
                            Some(until) => tokio::time::sleep(Duration::from_millis(*until)).await,
                            None => std::future::pending().await,
                        }
                        cancel.cancel();
                        std::future::pending::<()>().await;
                    };
                    let got = tokio::select! {
                        got = ticket.wait(Duration::from_hours(1), &cancel) => got,
                        () = stop => Ok(()),
                    };
                    match got {
                        Ok(()) => {}
                        Err(lost) => {
                            assert_eq!(lost, Lost::Cancelled, "nobody waits for ever");
                            assert!(until.is_some());
                            return false;
                        }
                    }
                    for key in wanted {
                        assert!(inside.lock().unwrap().insert(*key), "two at once");
                        entered
                            .lock()
                            .unwrap()
                            .entry(*key)
                            .or_default()
                            .push(number);
                    }
                    tokio::time::sleep(Duration::from_millis(*long)).await;
                    for key in wanted {
                        inside.lock().unwrap().remove(key);
                    }
                    drop(ticket);
                    true
                }
            });
        let served = join_all(work).await;
        for (key, entered) in entered.lock().unwrap().iter() {
            let in_order: Vec<usize> = came.lock().unwrap()[key]
                .iter()
                .copied()
                .filter(|number| served[*number])
                .collect();
            assert_eq!(*entered, in_order, "key {key}");
        }
        assert!(locks.is_empty());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn requests_never_overlap_overtake_or_stick(
            wishes in proptest::collection::vec(
                (
                    0_u64..50,
                    proptest::collection::btree_set(0_u8..5, 0..4),
                    0_u64..40,
                    proptest::option::weighted(0.3, 0_u64..60),
                ),
                0..30,
            ),
        ) {
            paused(play(wishes));
        }
    }
}
