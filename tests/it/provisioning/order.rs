//! What is refused and why, what happens to a task that comes more than once, and which tasks wait for each other.

use std::time::Duration;

use baton_jumpcloud::{
    error::Code,
    proto::{baton, connector as v2},
    sim::{
        conductorone::{self, KeyKind, Rpc, tasks},
        jumpcloud::Tenant,
    },
};
use serde_json::json;

use super::{
    Want, World,
    rows::{account, granted, revoked},
    secrets_of,
};
use crate::daemon::{Daemon, PATIENCE};

struct Refusal {
    name: &'static str,
    flags: &'static [&'static str],
    stage: fn(&World),
    task: fn(&World) -> baton::Task,
    want: fn(&World) -> Want,
}

const NOTHING: fn(&World) = |_| {};

fn refusals() -> Vec<Refusal> {
    vec![
        Refusal {
            name: "a member for a dynamic group",
            flags: &[],
            stage: |w| {
                w.directory()
                    .edit(|tenant| tenant.set_member_rule(w.cast.ruled, "department", "Quality"))
                    .unwrap()
                    .unwrap();
            },
            task: |w| w.grant(("group", w.cast.ruled), ("user", w.cast.outsider)),
            want: |w| {
                Want::failed(
                    Code::FailedPrecondition,
                    [&w.cast.ruled, &"dynamic", &"department", &"Quality"],
                )
            },
        },
        Refusal {
            name: "a member out of a dynamic group",
            flags: &[],
            stage: NOTHING,
            task: |w| w.revoke(("group", w.cast.ruled), ("user", w.cast.ruled_member)),
            want: |w| {
                Want::failed(
                    Code::FailedPrecondition,
                    [&w.cast.ruled, &"dynamic", &"rule"],
                )
            },
        },
        Refusal {
            name: "access that a group gives",
            flags: &[],
            stage: NOTHING,
            task: |w| w.revoke(("app", w.cast.app), ("user", w.cast.heir)),
            want: |w| {
                let truth = w.directory().truth();
                let giver = truth.apps[&w.cast.app]
                    .groups
                    .iter()
                    .find(|group| truth.groups[group].members.contains(&w.cast.heir))
                    .unwrap();
                Want::failed(Code::FailedPrecondition, [&w.cast.heir, &"group", giver])
            },
        },
        Refusal {
            name: "an account deleted without the switch",
            flags: &[],
            stage: NOTHING,
            task: |w| {
                tasks::delete_resource(tasks::resource_id("user", &w.cast.outsider.to_string()))
            },
            want: |_| {
                Want::failed(
                    Code::FailedPrecondition,
                    [&"--allow-account-deletion", &"BATON_ALLOW_ACCOUNT_DELETION"],
                )
            },
        },
        Refusal {
            name: "a role without the switch",
            flags: &[],
            stage: NOTHING,
            task: |w| {
                tasks::grant(
                    w.synced.entitlement("role:role_help_desk").unwrap(),
                    w.resource("user", w.cast.outsider),
                )
            },
            want: |_| {
                Want::failed(
                    Code::FailedPrecondition,
                    [
                        &"--allow-administrator-roles",
                        &"BATON_ALLOW_ADMINISTRATOR_ROLES",
                    ],
                )
            },
        },
        Refusal {
            name: "billing from the last who has it",
            flags: &["allow-administrator-roles"],
            stage: |w| {
                let ids = w.directory().inspect(Tenant::admin_ids).unwrap();
                for id in &ids {
                    w.directory()
                        .edit(|tenant| tenant.set_admin_roles(*id, &["Manager"]))
                        .unwrap()
                        .unwrap();
                }
                w.directory()
                    .edit(|tenant| tenant.set_admin_roles(ids[5], &["Administrator With Billing"]))
                    .unwrap()
                    .unwrap();
            },
            task: |w| {
                let id = w.directory().inspect(Tenant::admin_ids).unwrap()[5].to_string();
                let role = "role:role_administrator_with_billing";
                let whom = tasks::resource_id("user", &id);
                tasks::revoke(w.synced.grant(role, &whom).unwrap())
            },
            want: |_| Want::failed(Code::FailedPrecondition, [&"administrator"]),
        },
        Refusal {
            name: "a ticket",
            flags: &[],
            stage: NOTHING,
            task: |_| tasks::create_ticket("help"),
            want: |_| Want::failed(Code::Unimplemented, [&"ticket"]),
        },
        Refusal {
            name: "a further credential",
            flags: &[],
            stage: NOTHING,
            task: |w| {
                tasks::issue_credential(
                    tasks::resource_id("user", &w.cast.outsider.to_string()),
                    v2::CredentialIssueOptions {
                        options: Some(v2::credential_issue_options::Options::ApiKey(
                            v2::credential_issue_options::ApiKey::default(),
                        )),
                    },
                    vec![w.cloud().encrypt_to(KeyKind::Age).unwrap()],
                    None,
                )
            },
            want: |_| Want::failed(Code::Unimplemented, [&"credential"]),
        },
        Refusal {
            name: "a password that is to be sealed for no usable key",
            flags: &[],
            stage: NOTHING,
            task: |w| {
                let mut config = w.cloud().encrypt_to(KeyKind::Age).unwrap();
                config.config = None;
                tasks::rotate_credentials(
                    tasks::resource_id("user", &w.cast.outsider.to_string()),
                    Some(tasks::random_password(24)),
                    vec![config],
                )
            },
            want: |_| Want::failed(Code::InvalidArgument, [&"encryption"]),
        },
        Refusal {
            name: "a password made up for nobody",
            flags: &[],
            stage: NOTHING,
            task: |w| {
                tasks::rotate_credentials(
                    tasks::resource_id("user", &w.cast.outsider.to_string()),
                    Some(tasks::random_password(24)),
                    Vec::new(),
                )
            },
            want: |_| Want::failed(Code::InvalidArgument, [&"encryption"]),
        },
    ]
}

#[tokio::test]
async fn what_is_refused_is_refused_with_the_reason_and_nothing_is_written() {
    for refusal in refusals() {
        let world = World::start().await;
        (refusal.stage)(&world);
        let mut launch = world.provisioning();
        for flag in refusal.flags {
            launch = launch.switch(flag);
        }
        let daemon = world.scene.serving(launch).await;
        let task = world.cloud().enqueue((refusal.task)(&world));
        let finish = world.scene.finish(&task).await;
        (refusal.want)(&world).check(refusal.name, &finish);
        assert_eq!(world.directory().writes().total(), 0, "{}", refusal.name);
        world.end(daemon, &[]).await;
    }
}

async fn started(config: conductorone::Config) -> (World, Daemon) {
    let world = World::of(config).await;
    let daemon = world.scene.serving(world.provisioning()).await;
    (world, daemon)
}

fn hire(world: &World) -> baton::Task {
    tasks::create_account(
        account(&json!({"first_name": "Nova", "last_name": "Hire"})),
        Some(tasks::random_password(24)),
        vec![world.cloud().encrypt_to(KeyKind::Ed25519).unwrap()],
    )
}

#[tokio::test]
async fn a_finished_task_that_comes_again_gets_the_same_answer_and_writes_nothing() {
    let (world, daemon) = started(conductorone::Config::default()).await;
    let made = world.cloud().enqueue(hire(&world));
    let first = world.scene.finish(&made).await;
    assert!(first.is_success(), "{}", first.message());
    let password = secrets_of(world.cloud(), &made);
    let grant = world.grant(("group", world.cast.crew), ("user", world.cast.outsider));
    let granted_task = world.cloud().enqueue(grant);
    let granted_first = world.scene.finish(&granted_task).await;
    let writes = world.directory().writes().total();

    for (task, first) in [(&made, &first), (&granted_task, &granted_first)] {
        assert!(world.cloud().deliver_again(task));
        let again = world
            .cloud()
            .wait_for_finishes(task, 2, PATIENCE)
            .await
            .unwrap();
        assert!(again.request == first.request, "the answers differ");
    }
    assert_eq!(secrets_of(world.cloud(), &made), password);
    assert_eq!(world.directory().writes().total(), writes);
    world.end(daemon, &password).await;
}

#[tokio::test]
async fn a_finished_task_that_comes_again_after_a_restart_gets_the_same_answer() {
    let (world, daemon) = started(conductorone::Config::default()).await;
    let made = world.cloud().enqueue(hire(&world));
    let first = world.scene.finish(&made).await;
    assert!(first.is_success(), "{}", first.message());
    let password = secrets_of(world.cloud(), &made);
    let writes = world.directory().writes().total();
    daemon.signal(rustix::process::Signal::TERM);
    daemon.ended_leaving().await.expect(0);

    let daemon = world.scene.serving(world.provisioning()).await;
    assert!(world.cloud().deliver_again(&made));
    let again = world
        .cloud()
        .wait_for_finishes(&made, 2, PATIENCE)
        .await
        .unwrap();
    assert!(again.request == first.request, "the answers differ");
    assert_eq!(world.directory().writes().total(), writes);
    world.end(daemon, &password).await;
}

#[tokio::test]
async fn a_task_that_comes_twice_while_it_runs_is_done_once() {
    let (world, daemon) = started(conductorone::Config::default()).await;
    world
        .directory()
        .change_behaviour(|behaviour| behaviour.latency = Duration::from_millis(150));
    let task = world.cloud().enqueue(hire(&world));
    world
        .cloud()
        .wait_for_delivery(&task, 1, PATIENCE)
        .await
        .unwrap();
    assert!(world.cloud().deliver_again(&task));
    world
        .cloud()
        .wait_for_delivery(&task, 2, PATIENCE)
        .await
        .unwrap();
    let finish = world.scene.finish(&task).await;
    assert!(finish.is_success(), "{}", finish.message());
    let password = secrets_of(world.cloud(), &task);
    let writes = world.directory().writes();
    assert_eq!(writes.count("POST /api/systemusers"), 1);
    assert_eq!(writes.total(), 1, "{:?}", writes.by_endpoint);
    world.end(daemon, &password).await;
}

#[tokio::test]
async fn a_lost_answer_to_the_end_of_a_task_changes_nothing() {
    let (world, daemon) = started(conductorone::Config::default()).await;
    world.cloud().lose_next_finish_answer();
    world
        .cloud()
        .fail_next(Rpc::FinishTask, tonic::Code::Unavailable);
    let task = world.cloud().enqueue(hire(&world));
    let finish = world
        .cloud()
        .wait_for_finishes(&task, 2, PATIENCE)
        .await
        .unwrap();
    assert!(finish.repeated);
    assert!(finish.is_success(), "{}", finish.message());
    let password = secrets_of(world.cloud(), &task);
    assert_eq!(world.directory().writes().total(), 1);
    world.end(daemon, &password).await;
}

#[tokio::test]
async fn of_two_tasks_for_the_same_account_the_second_finds_it() {
    let (world, daemon) = started(conductorone::Config::default()).await;
    world
        .directory()
        .change_behaviour(|behaviour| behaviour.latency = Duration::from_millis(50));
    let tasks = [hire(&world), hire(&world)].map(|task| world.cloud().enqueue(task));
    let mut new = 0;
    let mut passwords = Vec::new();
    for task in &tasks {
        let finish = world.scene.finish(task).await;
        assert!(finish.is_success(), "{}", finish.message());
        let secrets = secrets_of(world.cloud(), task);
        new += secrets.len();
        passwords.extend(secrets);
    }
    assert_eq!(new, 1, "one of them made the account");
    let writes = world.directory().writes();
    assert_eq!(writes.total(), 1, "{:?}", writes.by_endpoint);
    world.end(daemon, &passwords).await;
}

#[tokio::test]
async fn tasks_about_one_user_wait_for_each_other_and_others_do_not_wait() {
    let (world, daemon) = started(conductorone::Config::default()).await;
    let cast = world.cast;
    // Every request takes a while, so that tasks that did not wait would overlap.
    world
        .directory()
        .change_behaviour(|behaviour| behaviour.latency = Duration::from_millis(100));
    let member = cast.member.to_string();
    let crew = cast.crew.to_string();
    let pair = [
        world.revoke(("group", cast.crew), ("user", cast.member)),
        world.grant(("group", cast.crew), ("user", cast.member)),
    ];
    let [gone, back] = pair.map(|task| world.cloud().enqueue(task));
    let other = world
        .cloud()
        .enqueue(world.grant(("group", cast.crew), ("user", cast.outsider)));
    let gone = world.scene.finish(&gone).await;
    let back = world.scene.finish(&back).await;
    let other = world.scene.finish(&other).await;
    assert!(other.is_success(), "{}", other.message());
    // Tasks start in the order in which they come: the membership goes, then it comes back.
    revoked(false).check("the revocation", &gone);
    granted(("group", &crew), ("user", &member), false).check("the grant", &back);
    assert!(gone.moment < back.moment);
    assert!(
        other.moment < back.moment,
        "a task about somebody else waited for both"
    );
    assert!(world.directory().is_member(cast.crew, cast.member));
    assert_eq!(world.directory().writes().total(), 3);
    world.end(daemon, &[]).await;
}

#[tokio::test]
async fn a_write_that_shows_late_is_waited_for() {
    let (world, daemon) = started(conductorone::Config::default()).await;
    world
        .directory()
        .change_behaviour(|behaviour| behaviour.hide_writes_for = Duration::from_millis(700));
    let cast = world.cast;
    let granted_task = world
        .cloud()
        .enqueue(world.grant(("group", cast.crew), ("user", cast.outsider)));
    let made = world.cloud().enqueue(hire(&world));
    for task in [&granted_task, &made] {
        let finish = world.scene.finish(task).await;
        assert!(finish.is_success(), "{}", finish.message());
    }
    let password = secrets_of(world.cloud(), &made);
    assert_eq!(world.directory().writes().total(), 2);
    world.end(daemon, &password).await;
}
