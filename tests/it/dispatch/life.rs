//! The life of tasks under random schedules, in paused time, against what must hold whatever happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use baton_jumpcloud::{
    admin::health::Health,
    control_plane::HeartbeatReply,
    handlers::{self, Context, Outcome, TaskHandler},
    notice::Peer,
    proto::baton::Task,
    supervisor::health::Fault as Unready,
};
use proptest::{collection::vec, option, prelude::*};
use tokio::time::{advance, sleep};

use super::fakes::{
    Call, Does, FakeControlPlane, Fault, Plan, Poll, full_sync, grant, id, is_finish, is_poll,
};

/// How many different tasks there are.
const TASKS: u32 = 6;

/// Runs a future in paused time.
fn paused<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

/// One behaviour for each task, and what was seen of all of them.
struct Various {
    each: Vec<Does>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    running: BTreeSet<String>,
    most: usize,
    /// A task ran twice at the same time.
    twice: bool,
}

struct Running {
    id: String,
    seen: Arc<Mutex<Seen>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.seen.lock().unwrap().running.remove(&self.id);
    }
}

#[async_trait]
impl TaskHandler for Various {
    async fn handle(&self, task: &Task, context: Context<'_>) -> Result<Outcome, handlers::Error> {
        let _running = {
            let mut seen = self.seen.lock().unwrap();
            seen.twice |= !seen.running.insert(task.id.clone());
            seen.most = seen.most.max(seen.running.len());
            Running {
                id: task.id.clone(),
                seen: Arc::clone(&self.seen),
            }
        };
        let number: usize = task.id.parse().unwrap();
        self.each[number].handle(task, context).await
    }
}

fn behaviour() -> impl Strategy<Value = Does> {
    prop_oneof![
        2 => Just(Does::Succeed),
        4 => (0_u64..200_000).prop_map(|ms| Does::Work(Duration::from_millis(ms))),
        1 => Just(Does::UntilStopped),
        1 => Just(Does::Deaf),
        1 => Just(Does::Panic),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    use baton_jumpcloud::error::Code;
    prop_oneof![
        Just(Fault::Code(Code::Unavailable)),
        Just(Fault::Code(Code::Cancelled)),
        Just(Fault::Code(Code::Internal)),
        Just(Fault::Code(Code::Unauthenticated)),
        Just(Fault::Throttle(Duration::ZERO)),
        Just(Fault::Throttle(Duration::MAX)),
        Just(Fault::Silence),
    ]
}

/// Hints of the server, absurd ones included.
fn hint() -> impl Strategy<Value = Option<Duration>> {
    option::of(prop_oneof![
        Just(Duration::ZERO),
        Just(Duration::from_nanos(1)),
        (0_u64..400_000).prop_map(Duration::from_millis),
        Just(Duration::MAX),
    ])
}

fn poll() -> impl Strategy<Value = Poll> {
    let task = (0..TASKS, any::<bool>()).prop_map(|(number, sync)| {
        if sync {
            full_sync(number)
        } else {
            grant(number)
        }
    });
    prop_oneof![
        5 => (vec(task, 0..4), hint()).prop_map(|(tasks, next)| Poll::Tasks(tasks, next)),
        1 => fault().prop_map(Poll::Fail),
    ]
}

fn heartbeat() -> impl Strategy<Value = Result<HeartbeatReply, Fault>> {
    prop_oneof![
        4 => (hint(), prop::bool::weighted(0.2)).prop_map(|(next_heartbeat, cancelled)| {
            Ok(HeartbeatReply { next_heartbeat, cancelled })
        }),
        1 => fault().prop_map(Err),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_delivery_is_reported_once_and_every_slot_comes_back(
        each in vec(behaviour(), TASKS as usize),
        concurrency in 0_usize..4,
        batches in any::<bool>(),
        polls in vec(poll(), 0..12),
        heartbeats in vec(heartbeat(), 0..20),
        heartbeats_down in any::<bool>(),
        finishes in vec(fault(), 0..4),
        alive in 0_u64..3000,
    ) {
        paused(async move {
            let control = FakeControlPlane::new();
            control.polls(polls.clone());
            control.heartbeats(heartbeats);
            if heartbeats_down {
                control.heartbeats_go_down();
            }
            let clean = finishes.is_empty();
            control.finish_fails(finishes);
            let seen = Arc::new(Mutex::new(Seen::default()));
            let mut plan = Plan::default().concurrency(concurrency);
            if batches {
                plan = plan.batches();
            }
            plan.handler = Some(Arc::new(Various { each, seen: Arc::clone(&seen) }));
            let mut rig = plan.start(&control);
            sleep(Duration::from_secs(alive)).await;
            let took = rig.shut_down().await;
            assert!(took <= Duration::from_secs(31), "{took:?}");

            let mut delivered = BTreeMap::<String, usize>::new();
            for poll in polls.iter().take(control.count(is_poll)) {
                if let Poll::Tasks(tasks, _) = poll {
                    for task in tasks {
                        *delivered.entry(task.id.clone()).or_default() += 1;
                    }
                }
            }
            let all: usize = delivered.values().sum();
            let accepted = rig.count("tasks_accepted");
            assert_eq!(accepted + rig.count("tasks_skipped"), all as u64);
            assert_eq!(rig.count("tasks_reported") + rig.count("tasks_lost"), accepted);
            if clean {
                assert_eq!(rig.count("tasks_lost"), 0);
                assert_eq!(control.count(is_finish) as u64, accepted);
                for (task, times) in delivered {
                    let reported = control.results(&task).len();
                    assert!((1..=times).contains(&reported), "{task}: {reported} of {times}");
                }
            }
            let seen = seen.lock().unwrap();
            assert!(!seen.twice, "a task ran twice at once");
            assert!(seen.most <= concurrency.max(1), "{} at once", seen.most);
            assert_eq!(seen.running.len(), 0);
            assert!(!rig.health.is_ready());
        });
    }

    #[test]
    fn readiness_is_a_latch_and_an_announced_silence_is_never_called_stuck(
        moves in vec((0_u8..8, 0_u64..5000), 0..40),
    ) {
        paused(async move {
            let health = Health::new();
            let faults = [
                Unready::Credentials(Peer::ConductorOne),
                Unready::RotatedCredentials(Peer::JumpCloud),
            ];
            let (mut started, mut stopped) = (false, false);
            let mut exist = [false; 2];
            // How long the loop may be silent, and how long it has been.
            let mut beat: Option<(Duration, Duration)> = None;
            for (what, number) in moves {
                let time = Duration::from_secs(number);
                let which = usize::from(number % 2 == 0);
                match what {
                    0 => {
                        health.start();
                        started = true;
                        beat = Some((Duration::ZERO, Duration::ZERO));
                    }
                    1 if number % 7 == 0 => {
                        health.stop();
                        stopped = true;
                    }
                    2 | 3 => {
                        let exists = what == 2;
                        assert_eq!(health.set_fault(faults[which], exists), exist[which] != exists);
                        exist[which] = exists;
                    }
                    4 | 5 => {
                        health.beat(time);
                        beat = Some((time, Duration::ZERO));
                    }
                    _ => {
                        advance(time).await;
                        if let Some((_, silent)) = &mut beat {
                            *silent += time;
                        }
                    }
                }
                let expected = started && !stopped && exist == [false; 2];
                assert_eq!(health.is_ready(), expected);
                assert_eq!(health.has_begun(), beat.is_some());
                match (health.stuck_for(), beat) {
                    (None, Some((announced, silent))) if !stopped => {
                        assert!(silent <= (announced * 2 + Duration::from_mins(1)).max(Duration::from_mins(10)));
                    }
                    (None, _) => {}
                    (Some(stuck), Some((announced, silent))) => {
                        assert!(!stopped && silent > announced * 2);
                        assert_eq!(stuck, silent);
                    }
                    (Some(_), None) => panic!("a loop that has not begun is stuck"),
                }
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ends_while_a_heartbeat_is_under_way_is_reported_once_and_beats_no_more() {
    let control = FakeControlPlane::new();
    control.heartbeats([Err(Fault::Silence)]);
    control.hand_out([full_sync(1)]);
    let rig = Plan::of(Does::Work(Duration::from_secs(10))).start(&control);
    control.result(&id(1)).await;
    sleep(Duration::from_hours(1)).await;
    assert_eq!(control.results(&id(1)).len(), 1);
    assert_eq!(
        control.count(|call| matches!(call, Call::Heartbeat(_))),
        1,
        "the one that hung"
    );
    assert_eq!(rig.count("tasks_reported"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_gets_through_late_makes_the_task_whole_again() {
    // Eight failures, one success, and again: never nine in a row, though hours pass.
    let control = FakeControlPlane::new();
    for _ in 0..20 {
        control.heartbeats((0..8).map(|_| Err(Fault::Silence)));
        control.heartbeats([Ok(HeartbeatReply::default())]);
    }
    control.hand_out([grant(1)]);
    let rig = Plan::of(Does::Work(Duration::from_hours(2))).start(&control);
    let result = control.result(&id(1)).await;
    assert!(super::is_success(&result), "{result:?}");
    assert_eq!(rig.count("tasks_lost"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_that_comes_while_the_result_is_reported_changes_nothing() {
    let control = FakeControlPlane::new();
    control.finish_fails([Fault::Silence, Fault::Silence]);
    control.heartbeats([
        Ok(HeartbeatReply {
            next_heartbeat: Some(Duration::from_secs(20)),
            cancelled: false,
        }),
        Ok(HeartbeatReply {
            next_heartbeat: None,
            cancelled: true,
        }),
    ]);
    control.hand_out([full_sync(1)]);
    let rig = Plan::of(Does::Work(Duration::from_secs(10))).start(&control);
    control.until(3, is_finish).await;
    let results = control.results(&id(1));
    assert!(results.iter().all(super::is_success), "{results:?}");
    assert_eq!(rig.count("tasks_reported"), 1);
}
