//! Every row of the table in every situation that it can meet.

use std::panic::AssertUnwindSafe;

use baton_jumpcloud::{
    error::Code,
    proto::baton,
    sim::{
        conductorone::Finish,
        jumpcloud::{FULL_KEY, READ_ONLY_KEY},
    },
};
use futures_util::{FutureExt as _, StreamExt as _, stream};

use super::{Want, World, assert_listed, rows, secrets_of};

/// How many runs go on at once.
const AT_ONCE: usize = 4;

/// Changes the directory.
pub type Change = fn(&World);
/// Says how a task must end.
pub type Expect = fn(&World) -> Want;

/// One thing that ConductorOne can ask for.
pub struct Row {
    pub name: &'static str,
    /// Flags of the daemon beside those of every run.
    pub flags: &'static [&'static str],
    /// Method and path template of the one write.
    pub endpoint: &'static str,
    /// Makes the directory ready; after it the wish is not true yet.
    pub stage: Change,
    pub task: fn(&World) -> baton::Task,
    /// Whether the wish is true.
    pub holds: fn(&World) -> bool,
    /// How the task ends that made it true.
    pub done: Expect,
    /// Makes the wish true by somebody else, and says how the task ends then.
    pub already: Option<(Change, Expect)>,
    /// Makes something that the wish needs go away, and says how the task ends then.
    pub missing: &'static [(&'static str, Change, Expect)],
    /// How many secrets the answer has.
    pub secrets: usize,
    /// Whether the write may be repeated when its answer is lost.
    pub repeats: bool,
    /// Whether failures may be tried again.
    pub passing: bool,
}

#[derive(Debug, Clone, Copy)]
enum Variant {
    Plain,
    Already,
    Missing(usize),
    Forbidden,
    Throttled,
    Lost(&'static str),
    Off,
}

fn variants(row: &Row) -> Vec<Variant> {
    let mut variants = vec![
        Variant::Plain,
        Variant::Forbidden,
        Variant::Throttled,
        Variant::Lost("applied-no-response"),
        Variant::Lost("applied-504"),
    ];
    variants.extend(row.already.is_some().then_some(Variant::Already));
    variants.extend((0..row.missing.len()).map(Variant::Missing));
    // Actions are not behind the switch in the official connector; what ours does is judged beside the switches.
    variants.extend((!row.passing).then_some(Variant::Off));
    variants
}

async fn run(row: &Row, variant: Variant) {
    let name = format!("{}, {variant:?}", row.name);
    let world = World::start().await;
    let directory = world.directory();
    (row.stage)(&world);
    assert!(!(row.holds)(&world), "{name}: true before");
    let mut key = FULL_KEY;
    match variant {
        Variant::Already => (row.already.unwrap().0)(&world),
        Variant::Missing(index) => (row.missing[index].1)(&world),
        Variant::Forbidden => key = READ_ONLY_KEY,
        Variant::Throttled => directory
            .add_fault(&format!("{}@1:429", row.endpoint))
            .unwrap(),
        Variant::Lost(how) => directory
            .add_fault(&format!("{}@1:{how}", row.endpoint))
            .unwrap(),
        Variant::Plain | Variant::Off => {}
    }
    std::fs::write(world.scene.path("api-key"), key).unwrap();
    let mut launch = if matches!(variant, Variant::Off) {
        world.scene.service()
    } else {
        world.provisioning()
    };
    for flag in row.flags {
        launch = launch.switch(flag);
    }
    let task = (row.task)(&world);
    let daemon = world.scene.serving(launch).await;
    let before = directory.users_count();
    let id = world.cloud().enqueue(task.clone());
    let finish = world.scene.finish(&id).await;

    let want = match variant {
        Variant::Plain | Variant::Throttled | Variant::Lost(_) => (row.done)(&world),
        Variant::Already => (row.already.unwrap().1)(&world),
        Variant::Missing(index) => (row.missing[index].2)(&world),
        Variant::Forbidden => Want::failed(Code::PermissionDenied, []),
        Variant::Off => Want::failed(Code::FailedPrecondition, [&"provisioning"]),
    };
    let want = if row.passing { want.passing() } else { want };
    want.check(&name, &finish);

    let writes = directory.writes();
    let made = writes.count(row.endpoint);
    let secrets = match variant {
        Variant::Plain | Variant::Throttled | Variant::Lost(_) => {
            assert!((row.holds)(&world), "{name}: not true afterwards");
            let most = if row.repeats && matches!(variant, Variant::Lost(_)) {
                2
            } else {
                1
            };
            assert!(
                (1..=most).contains(&made),
                "{name}: {:?}",
                writes.by_endpoint
            );
            check_secrets(row, &name, &world, &id, before)
        }
        Variant::Already | Variant::Missing(_) | Variant::Forbidden | Variant::Off => {
            assert_eq!(writes.total(), 0, "{name}: {:?}", writes.by_endpoint);
            if !matches!(variant, Variant::Missing(_)) {
                let holds = (row.holds)(&world);
                assert_eq!(holds, matches!(variant, Variant::Already), "{name}");
            }
            Vec::new()
        }
    };
    if matches!(variant, Variant::Plain) {
        assert_plain(&world, &task, &finish).await;
    }
    world.end(daemon, &secrets).await;
}

async fn assert_plain(world: &World, task: &baton::Task, finish: &Finish) {
    let synced = world.sync().await;
    assert_listed(task, finish, &synced);
}

/// The secrets that ConductorOne has are what JumpCloud holds.
fn check_secrets(row: &Row, name: &str, world: &World, task: &str, before: usize) -> Vec<String> {
    use secrecy::ExposeSecret as _;

    let secrets = secrets_of(world.cloud(), task);
    assert_eq!(secrets.len(), row.secrets, "{name}");
    if row.secrets > 0 {
        let user = rows::subject(world);
        let held = world.directory().password_of(user).unwrap();
        assert!(
            held.expose_secret() == secrets[0],
            "{name}: ConductorOne has another password than JumpCloud"
        );
    }
    assert!(world.directory().users_count() <= before + 1, "{name}");
    secrets
}

async fn all(names: &[&str]) {
    let table = rows::table();
    let chosen: Vec<&Row> = table
        .iter()
        .filter(|row| names.contains(&row.name.split(':').next().unwrap()))
        .collect();
    assert!(!chosen.is_empty());
    let runs: Vec<_> = chosen
        .into_iter()
        .flat_map(|row| variants(row).into_iter().map(move |variant| (row, variant)))
        .map(async |(row, variant)| {
            // A panic was printed when it happened.
            let ran = AssertUnwindSafe(run(row, variant)).catch_unwind().await;
            ran.is_err().then(|| format!("{}, {variant:?}", row.name))
        })
        .collect();
    let failed: Vec<String> = stream::iter(runs)
        .buffer_unordered(AT_ONCE)
        .filter_map(async |failed| failed)
        .collect()
        .await;
    assert!(failed.is_empty(), "these failed: {failed:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memberships_in_every_situation() {
    all(&["membership"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_to_applications_in_every_situation() {
    all(&["access"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administrator_roles_in_every_situation() {
    all(&["role"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_in_every_situation() {
    all(&["account"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_in_every_situation() {
    all(&["group"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actions_in_every_situation() {
    all(&["action"]).await;
}

#[tokio::test]
async fn every_row_begins_with_a_wish_that_is_not_true_and_ends_with_one_that_somebody_made_true() {
    for row in rows::table() {
        let world = World::start().await;
        (row.stage)(&world);
        drop((row.task)(&world));
        assert!(!(row.holds)(&world), "{}", row.name);
        if let Some((make, want)) = row.already {
            make(&world);
            assert!((row.holds)(&world), "{}", row.name);
            drop(want(&world));
        }
        for (what, lose, want) in row.missing {
            let world = World::start().await;
            (row.stage)(&world);
            lose(&world);
            assert!(
                matches!(want(&world), Want::Failed { .. }),
                "{}, {what}",
                row.name
            );
        }
    }
}

#[test]
fn every_row_belongs_to_a_test() {
    let groups = ["membership", "access", "role", "account", "group", "action"];
    for row in rows::table() {
        assert!(groups.contains(&row.name.split(':').next().unwrap()));
    }
}
