//! The daemon dies on the way from a task to its answer, again and again: at each step by a switch of its own, and by
//! SIGKILL at random moments and right after JumpCloud has made the change. Afterwards there is one account, membership,
//! administrator or access to an application, one success in the audit file, and ConductorOne has an answer whose password
//! is the one that JumpCloud holds.
//!
//! A run is decided by its number alone, but for the moment at which the system lets the daemon die. A number that failed
//! is run again with `BATON_CRASH_RUN=<number> cargo test --all-features --test it one_run -- --ignored`.

use std::{panic::AssertUnwindSafe, time::Duration};

use baton_jumpcloud::{
    proto::{baton, connector as v2, is},
    sim::conductorone::{self, Finish, KeyKind, tasks},
};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use rustix::process::Signal;
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::{
    daemon::{Launch, PATIENCE},
    provisioning::{HELP_DESK_ID, World, account, administers, grant_role, granted, secrets_of},
};

/// The steps at which the daemon can be told to die, in the order in which a change passes them.
const STEPS: [&str; 8] = [
    "received", "locked", "planned", "intended", "written", "recorded", "audited", "finished",
];
/// How many runs go on at once.
const AT_ONCE: usize = 2;
/// The longest time from the delivery of a task to SIGKILL.
const LATEST_KILL_MS: u64 = 150;
/// How long a new administrator does not show.
const HIDDEN: Duration = Duration::from_millis(700);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Account,
    Membership,
    /// A first role, which makes an administrator.
    Role,
    /// Access to an application.
    Access,
}

const WISHES: [Wish; 4] = [Wish::Account, Wish::Membership, Wish::Role, Wish::Access];

#[derive(Debug, Clone, Copy)]
enum Death {
    /// At a step.
    At(&'static str),
    /// By SIGKILL, so long after the task was handed out.
    Kill(Duration),
    /// By SIGKILL, once JumpCloud has made the change.
    KillAtWrite,
}

/// What happens in one run.
#[derive(Debug)]
struct Plan {
    wish: Wish,
    deaths: Vec<Death>,
    /// How long each request to JumpCloud takes.
    latency: Duration,
}

impl Plan {
    fn of(number: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(number);
        let mut kill = || Death::Kill(Duration::from_micros(random.u64(0..LATEST_KILL_MS * 1000)));
        let number = usize::try_from(number).unwrap();
        let of = number % WISHES.len();
        let round = number / WISHES.len();
        let first = match round % 3 {
            // A few numbers in a row meet every step, if not with every wish.
            0 => Death::At(STEPS[(round / 3 + 2 * of) % STEPS.len()]),
            1 => Death::KillAtWrite,
            _ => kill(),
        };
        let mut deaths = vec![first];
        // Every fifth run dies twice.
        if number % 5 == 4 {
            deaths.push(kill());
        }
        Self {
            wish: WISHES[of],
            deaths,
            latency: Duration::from_millis(random.u64(0..8)),
        }
    }

    fn task(&self, world: &World) -> baton::Task {
        match self.wish {
            Wish::Account => tasks::create_account(
                account(&json!({"first_name": "Nova", "last_name": "Hire"})),
                Some(tasks::random_password(24)),
                vec![world.cloud().encrypt_to(KeyKind::Ed25519).unwrap()],
            ),
            Wish::Membership => {
                world.grant(("group", world.cast.crew), ("user", world.cast.outsider))
            }
            Wish::Role => grant_role(world, world.cast.outsider),
            Wish::Access => world.grant(("app", world.cast.app), ("user", world.cast.outsider)),
        }
    }
}

/// Waits for this delivery. A report of a daemon that died may still come in, and end a task that was queued again: then it
/// is queued once more. How many reports there were before that.
async fn delivered(world: &World, task: &str, number: u32) -> usize {
    let cloud = world.cloud();
    for _ in 0..6 {
        let answered = cloud.finishes().len();
        if cloud
            .wait_for_delivery(task, number, PATIENCE / 6)
            .await
            .is_ok()
        {
            return answered;
        }
        assert!(cloud.deliver_again(task));
    }
    panic!("delivery {number} of {task} was waited for in vain");
}

/// Starts a daemon and lets it die once it has the task.
async fn live_and_die(world: &World, launch: &Launch, death: Death, task: &str) {
    let deliveries = world.cloud().task(task).unwrap().deliveries;
    let launch = match death {
        Death::At(step) => launch.clone().flag("simulate-crash-at", step),
        Death::Kill(_) | Death::KillAtWrite => launch.clone(),
    };
    let daemon = launch.start();
    delivered(world, task, deliveries + 1).await;
    match death {
        Death::At(_) => {}
        Death::Kill(after) => {
            tokio::time::sleep(after).await;
            daemon.signal(Signal::KILL);
        }
        Death::KillAtWrite => {
            tokio::time::timeout(PATIENCE, async {
                while world.directory().writes().total() == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
            .await
            .unwrap();
            daemon.signal(Signal::KILL);
        }
    }
    let exit = daemon.ended_leaving().await;
    assert_ne!(exit.code, Some(0), "the daemon ended well instead of dying");
}

async fn run(number: u64) {
    let plan = Plan::of(number);
    let world = World::of(conductorone::Config::default()).await;
    let before = world.directory().users_count();
    world.directory().change_behaviour(|behaviour| {
        behaviour.latency = plan.latency;
        if plan.wish == Wish::Role {
            // The administrator of the life before does not show yet.
            behaviour.hide_writes_for = HIDDEN;
        }
    });
    let launch = world.provisioning().switch("allow-administrator-roles");
    let task = world.cloud().enqueue(plan.task(&world));
    for death in &plan.deaths {
        live_and_die(&world, &launch, *death, &task).await;
        // Finished or not as far as ConductorOne knows: it hands the task out once more.
        assert!(world.cloud().deliver_again(&task));
    }
    let deliveries = world.cloud().task(&task).unwrap().deliveries;
    let daemon = launch.start();
    let answered = delivered(&world, &task, deliveries + 1).await;
    world
        .cloud()
        .wait_for_finishes(&task, answered + 1, PATIENCE)
        .await
        .unwrap();
    judge(&world, &plan, &task, before);
    let passwords = secrets_of(world.cloud(), &task);
    world.end(daemon, &passwords).await;
}

fn judge(world: &World, plan: &Plan, task: &str, before: usize) {
    let finishes: Vec<Finish> = world
        .cloud()
        .finishes()
        .into_iter()
        .filter(|finish| finish.request.task_id == task)
        .collect();
    let first = finishes.first().unwrap();
    for finish in &finishes {
        assert!(finish.is_success(), "{}", finish.message());
        assert!(
            finish.request == first.request,
            "ConductorOne got two different answers"
        );
    }
    let writes = world.directory().writes();
    match plan.wish {
        Wish::Account => {
            assert_eq!(world.directory().users_count(), before + 1);
            assert_eq!(writes.count("POST /api/systemusers"), 1);
            let user = world.directory().user_by_username("nova.hire").unwrap();
            let id = user["_id"].as_str().unwrap().parse().unwrap();
            let held = world.directory().password_of(id).unwrap();
            let known = secrets_of(world.cloud(), task);
            assert!(
                known == [held.expose_secret()],
                "ConductorOne has another password than JumpCloud"
            );
            let response = crate::provisioning::response(first);
            assert!(is::<v2::CreateAccountResponse>(response));
            assert!(
                crate::provisioning::is_new_account(response),
                "an account of our own was taken for one that existed"
            );
        }
        Wish::Membership => {
            let (crew, user) = (world.cast.crew, world.cast.outsider);
            assert!(world.directory().is_member(crew, user));
            assert_eq!(
                writes.count("POST /api/v2/usergroups/{id}/members"),
                1,
                "{:?}",
                writes.by_endpoint
            );
            let (crew, user) = (crew.to_string(), user.to_string());
            granted(("group", &crew), ("user", &user), false).check("the grant", first);
        }
        Wish::Role => {
            let administrator = administers(world).unwrap().to_string();
            assert_eq!(
                writes.count("POST /api/users"),
                1,
                "{:?}",
                writes.by_endpoint
            );
            let whom = ("user", administrator.as_str());
            granted(("role", HELP_DESK_ID), whom, false).check("the grant", first);
        }
        Wish::Access => {
            let (app, user) = (world.cast.app, world.cast.outsider);
            assert!(world.directory().has_association(app, "user", user));
            assert_eq!(
                writes.count("POST /api/v2/applications/{id}/associations"),
                1,
                "{:?}",
                writes.by_endpoint
            );
            let (app, user) = (app.to_string(), user.to_string());
            granted(("app", &app), ("user", &user), false).check("the grant", first);
        }
    }
    let successes = world.audited_successes(task);
    assert_eq!(successes, 1, "{:?}", world.audited());
}

/// Runs these numbers and names those that failed.
async fn all(numbers: impl Iterator<Item = u64>) {
    let failed: Vec<u64> = stream::iter(numbers)
        .map(|number| async move {
            // A panic was printed when it happened.
            let result = AssertUnwindSafe(run(number)).catch_unwind().await;
            result.is_err().then_some(number)
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(|failed| async move { failed })
        .collect()
        .await;
    assert!(
        failed.is_empty(),
        "these runs failed, see the top of this file for how to run one again: {failed:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_dies_on_the_way_leaves_one_effect_and_one_answer() {
    all(0..24).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; make crash runs it"]
async fn two_hundred_deaths() {
    all(0..200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs the number in BATON_CRASH_RUN"]
#[expect(
    clippy::disallowed_methods,
    reason = "the number of a failed run comes from the person who looks into it"
)]
async fn one_run() {
    let number = std::env::var("BATON_CRASH_RUN").expect("set BATON_CRASH_RUN to a number");
    run(number.parse().unwrap()).await;
}

#[test]
fn two_hundred_runs_meet_every_step_with_every_wish() {
    for wish in WISHES {
        for step in STEPS {
            let met = (0..200).map(Plan::of).any(|plan| {
                plan.wish == wish
                    && plan
                        .deaths
                        .iter()
                        .any(|death| matches!(death, Death::At(at) if *at == step))
            });
            assert!(met, "{wish:?} at {step}");
        }
    }
}
