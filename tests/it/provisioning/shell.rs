//! One change from a shell, and changes that are only planned.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use baton_jumpcloud::{
    crypto::open::{KeyKind, RevealKey, reveal},
    error::Code,
    proto::{baton::baton_service_finish_task_request::FinalState, connector as v2},
    sim::{
        conductorone::{self, tasks},
        jumpcloud::Id,
    },
};
use prost::Message as _;
use rustix::process::Signal;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{Want, World, account, quick};
use crate::daemon::{Exit, Launch, PATIENCE};

/// A world whose working folder has a file of the organisation.
async fn world() -> World {
    let world = World::start().await;
    world.scene.one_shot().run().await.expect(0);
    world
}

fn printed(exit: &Exit) -> Value {
    serde_json::from_str(&exit.stdout).unwrap_or_else(|error| panic!("{error} in {}", exit.stdout))
}

fn asked(world: &World, flags: &[(&str, &str)]) -> Launch {
    flags.iter().fold(
        world.scene.one_shot().flag("audit-log", world.audit_log()),
        |launch, (name, value)| launch.flag(name, value),
    )
}

/// The end of a run that may remember changes in its work folder.
async fn ended(launch: Launch) -> Exit {
    launch.start().ended_leaving().await
}

async fn done(world: &World, flags: &[(&str, &str)]) -> Value {
    printed(&ended(asked(world, flags)).await.expect(0))
}

fn audited(world: &World, kind: &str) -> usize {
    world
        .audited()
        .iter()
        .filter(|line| {
            line["kind"] == kind
                && line["result"] == "success"
                && line["asked_by"] == "command line"
        })
        .count()
}

#[tokio::test]
async fn a_grant_of_the_file_is_granted_and_revoked_from_a_shell() {
    let world = world().await;
    let (crew, outsider, member) = (world.cast.crew, world.cast.outsider, world.cast.member);
    let entitlement = format!("group:{crew}");
    let answer = done(
        &world,
        &[
            ("grant-entitlement", &entitlement),
            ("grant-principal", &outsider.to_string()),
            ("grant-principal-type", "user"),
        ],
    )
    .await;
    assert_eq!(
        answer["grants"][0]["id"],
        format!("group-grant:{crew}:user:{outsider}:{crew}")
    );
    assert!(world.directory().is_member(crew, outsider));

    let grant = format!("group-grant:{crew}:user:{member}:{crew}");
    done(&world, &[("revoke-grant", &grant)]).await;
    assert!(!world.directory().is_member(crew, member));
    assert_eq!(
        (audited(&world, "grant"), audited(&world, "revoke")),
        (1, 1)
    );

    let unknown = asked(&world, &[("revoke-grant", "group-grant:nobody")]);
    let exit = ended(unknown).await.expect(5);
    assert!(
        exit.stderr.contains("group-grant:nobody"),
        "{}",
        exit.stderr
    );
}

#[tokio::test]
async fn an_account_is_made_given_another_password_and_deleted_from_a_shell() {
    let world = world().await;
    let before = world.directory().users_count();
    let key = RevealKey::generate(KeyKind::Age).unwrap();
    let Some(v2::encryption_config::Config::AgeRecipientConfig(config)) =
        key.encryption_config().config
    else {
        panic!("an age key has an age config");
    };
    let recipient = config.recipient.as_str();
    let password = |answer: &Value| {
        let sealed = &answer["encryptedData"][0];
        let data = v2::EncryptedData {
            provider: sealed["provider"].as_str().unwrap().to_owned(),
            encrypted_bytes: BASE64_STANDARD
                .decode(sealed["encryptedBytes"].as_str().unwrap())
                .unwrap(),
            ..v2::EncryptedData::default()
        };
        let opened = reveal(&key, &data).unwrap();
        String::from_utf8(opened.expose_secret().to_vec()).unwrap()
    };
    let made = done(
        &world,
        &[
            ("create-account-login", "nova.hire"),
            ("create-account-email", "nova.hire@example.com"),
            ("create-account-profile", r#"{"first_name": "Nova"}"#),
            ("encrypt-to", recipient),
        ],
    )
    .await;
    let id = made["success"]["resource"]["id"]["resource"]
        .as_str()
        .unwrap()
        .to_owned();
    let user: Id = id.parse().unwrap();
    let held = || {
        world
            .directory()
            .password_of(user)
            .unwrap()
            .expose_secret()
            .to_owned()
    };
    let first = held();
    assert!(password(&made) == first, "another password was printed");

    let rotated = done(
        &world,
        &[
            ("rotate-credentials", &id),
            ("rotate-credentials-type", "user"),
            ("encrypt-to", recipient),
        ],
    )
    .await;
    let second = held();
    assert!(password(&rotated) == second && first != second);

    let deletion = [
        ("delete-resource", id.as_str()),
        ("delete-resource-type", "user"),
    ];
    let refused = ended(asked(&world, &deletion)).await.expect(9);
    assert!(
        refused.stderr.contains("allow-account-deletion"),
        "{}",
        refused.stderr
    );
    assert_eq!(world.directory().users_count(), before + 1);
    ended(asked(&world, &deletion).switch("allow-account-deletion"))
        .await
        .expect(0);
    assert_eq!(world.directory().users_count(), before);

    // Nobody is told, and nobody has the key.
    let untold = asked(&world, &[("create-account-email", "quiet@example.com")]);
    let exit = ended(untold).await.expect(0);
    let quiet: Id = printed(&exit)["success"]["resource"]["id"]["resource"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let secret = world.directory().password_of(quiet).unwrap();
    assert!(!exit.stdout.contains(secret.expose_secret()));
    assert!(!exit.stderr.contains(secret.expose_secret()));
}

#[tokio::test]
async fn actions_are_listed_and_run_from_a_shell() {
    let world = world().await;
    let user_actions = asked(&world, &[("list-action-schemas-resource-type", "user")]);
    let all = ended(user_actions.switch("list-action-schemas"))
        .await
        .expect(0);
    let schemas = printed(&all);
    let names: Vec<&str> = schemas["schemas"]
        .as_array()
        .unwrap()
        .iter()
        .map(|schema| schema["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 10, "{names:?}");
    assert!(names.contains(&"suspend_user"));

    let user = world.cast.outsider;
    let arguments = json!({"user_id": user.to_string()}).to_string();
    let ran = done(
        &world,
        &[
            ("invoke-action", "suspend_user"),
            ("invoke-action-args", &arguments),
        ],
    )
    .await;
    assert_eq!(ran["status"], "BATON_ACTION_STATUS_COMPLETE");
    assert_eq!(ran["response"]["success"], true);
    assert_eq!(world.directory().user(user).unwrap()["state"], "SUSPENDED");

    let wrong = asked(
        &world,
        &[
            ("invoke-action", "suspend_user"),
            ("invoke-action-args", r#"{"user_id": 7}"#),
        ],
    );
    let exit = ended(wrong).await.expect(3);
    assert!(exit.stderr.contains("user_id"), "{}", exit.stderr);
    let unknown = asked(&world, &[("invoke-action", "erase_everything")]);
    ended(unknown).await.expect(5);
}

#[tokio::test]
async fn a_dry_run_tells_the_plan_and_changes_nothing() {
    let world = World::start().await;
    let launch = world
        .scene
        .service()
        .flag("audit-log", world.audit_log())
        .switch("allow-account-deletion")
        .word("--provisioning=dry-run");
    let daemon = world.scene.serving(launch).await;
    let outsider = ("user", world.cast.outsider);
    let wishes = [
        (
            world.grant(("group", world.cast.crew), outsider),
            "group.member.add",
        ),
        (
            world.revoke(("group", world.cast.crew), ("user", world.cast.member)),
            "group.member.remove",
        ),
        (
            tasks::create_account(
                account(&json!({"first_name": "Nova"})),
                Some(tasks::random_password(24)),
                vec![world.cloud().encrypt_to(KeyKind::Ed25519).unwrap()],
            ),
            "user.create",
        ),
        (
            tasks::delete_resource(tasks::resource_id("user", &world.cast.outsider.to_string())),
            "user.delete",
        ),
        (
            tasks::action_invoke(
                "suspend_user",
                "user",
                tasks::structure(&json!({"user_id": world.cast.outsider.to_string()})),
            ),
            "user.state.set",
        ),
    ];
    for (wish, operation) in wishes {
        let task = world.cloud().enqueue(wish);
        let finish = world.scene.finish(&task).await;
        Want::failed(
            Code::FailedPrecondition,
            [&"dry run", &"nothing was changed", &operation],
        )
        .check(operation, &finish);
        let lines = world.audited();
        let line = lines.iter().find(|line| line["task_id"] == task).unwrap();
        assert_eq!(
            (&line["result"], &line["dry_run"]),
            (&json!("planned"), &json!(true))
        );
    }
    assert_eq!(world.directory().writes().total(), 0);
    world.end(daemon, &[]).await;
}

fn groups_of(world: &World, user: Id) -> usize {
    let truth = world.directory().truth();
    truth
        .groups
        .values()
        .filter(|group| !group.dynamic && group.members.contains(&user))
        .count()
}

/// How a run of an action ended, by its id.
async fn ended_run(world: &World, id: &str) -> v2::GetActionStatusResponse {
    let status = async || {
        let asked = world.cloud().enqueue(tasks::action_status("", id));
        let finish = world.scene.finish(&asked).await;
        assert!(finish.is_success(), "{}", finish.message());
        let Some(FinalState::Success(success)) = finish.request.final_state else {
            panic!("a success");
        };
        let response = success.response.unwrap();
        v2::GetActionStatusResponse::decode(response.value.as_slice()).unwrap()
    };
    tokio::time::timeout(PATIENCE, async {
        loop {
            let status = status().await;
            if status.status() != v2::BatonActionStatus::Running {
                return status;
            }
        }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn an_action_that_a_shutdown_stopped_between_two_writes_goes_on_at_the_next_start() {
    let world = World::of(quick(conductorone::Config::default())).await;
    let user = world.cast.member;
    let groups = world.directory().truth().groups;
    for (group, _) in groups.iter().filter(|(_, group)| !group.dynamic).take(6) {
        world.set_member(*group, user, true);
    }
    let joined = groups_of(&world, user);
    assert!(joined >= 6);
    let slow = |latency: u64| {
        world
            .directory()
            .change_behaviour(|behaviour| behaviour.latency = Duration::from_millis(latency));
    };
    slow(100);
    let launch = world.provisioning();
    let daemon = world.scene.serving(launch.clone()).await;
    let arguments = tasks::structure(&json!({"user_id": user.to_string()}));
    let task = world.cloud().enqueue(tasks::action_invoke(
        "remove_user_from_all_groups",
        "user",
        arguments,
    ));
    tokio::time::timeout(PATIENCE, async {
        while world.directory().writes().total() == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap();
    daemon.signal(Signal::TERM);
    drop(daemon.ended_leaving().await.expect(0));
    let left = groups_of(&world, user);
    assert!((1..joined).contains(&left), "{left} of {joined}");

    slow(0);
    let daemon = world.scene.serving(launch).await;
    let ended = ended_run(&world, &task).await;
    assert_eq!(ended.status(), v2::BatonActionStatus::Complete);
    assert_eq!(groups_of(&world, user), 0);
    assert_eq!(world.audited_successes(&task), 1);
    world.end(daemon, &[]).await;
}

#[tokio::test]
async fn an_action_that_a_dead_process_left_goes_on_at_the_next_start_and_is_found_by_its_id() {
    let world = World::of(quick(conductorone::Config::default())).await;
    let user = world.cast.member;
    assert!(groups_of(&world, user) > 0);
    let arguments = tasks::structure(&json!({"user_id": user.to_string()}));
    let launch = world.provisioning();
    let daemon = launch.clone().flag("simulate-crash-at", "intended").start();
    let task = world.cloud().enqueue(tasks::action_invoke(
        "remove_user_from_all_groups",
        "user",
        arguments,
    ));
    drop(daemon.ended_leaving().await);
    assert!(groups_of(&world, user) > 0);

    // Nobody delivers the task again; the process goes on by itself.
    let daemon = world.scene.serving(launch).await;
    let ended = ended_run(&world, &task).await;
    assert_eq!(ended.status(), v2::BatonActionStatus::Complete);
    assert_eq!(groups_of(&world, user), 0);

    // Its task, delivered after all, finds the run that has ended.
    let writes = world.directory().writes().total();
    assert!(world.cloud().deliver_again(&task));
    let finish = world.scene.finish(&task).await;
    assert!(finish.is_success(), "{}", finish.message());
    assert_eq!(world.directory().writes().total(), writes);
    world.end(daemon, &[]).await;
}
