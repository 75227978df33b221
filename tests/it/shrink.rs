//! The guard against a directory that looks smaller than it is, in the real daemon.

use baton_jumpcloud::{
    proto::baton::task::SyncFullTask,
    sim::{conductorone::full_sync, jumpcloud::Truth},
};

use crate::daemon::Scene;

/// Takes all members out of the groups, or puts those of `truth` back.
fn members(scene: &Scene, truth: Option<&Truth>) {
    scene
        .directory
        .edit(|tenant| {
            for group in tenant.group_ids() {
                let members: Vec<_> = truth
                    .map(|truth| truth.groups[&group].members.iter().copied().collect())
                    .unwrap_or_default();
                tenant.set_members(group, &members).unwrap();
            }
        })
        .unwrap();
}

async fn refused(scene: &Scene) {
    let task = scene.enqueue_sync();
    let finish = scene.finish(&task).await;
    assert_eq!(finish.code(), 9, "{}", finish.message());
    assert!(finish.is_non_retryable());
    for part in [
        "grants of type group fell from",
        "shrink-limit",
        "shrink-accept-until",
        "the key",
    ] {
        assert!(finish.message().contains(part), "{}", finish.message());
    }
    assert_eq!(scene.cloud.task(&task).unwrap().uploads, 0);
}

#[tokio::test]
async fn a_directory_that_shrank_is_not_uploaded_before_or_after_a_restart() {
    let scene = Scene::start().await;
    let daemon = scene.serving(scene.service()).await;
    let task = scene.enqueue_sync();
    scene.expect_truth(&task).await;
    let truth = scene.directory.truth();
    members(&scene, None);
    refused(&scene).await;
    // Other kinds of sync are not held against it.
    let resources_only = scene.cloud.enqueue(full_sync(SyncFullTask {
        skip_entitlements_and_grants: true,
        ..SyncFullTask::default()
    }));
    let finish = scene.finish(&resources_only).await;
    assert!(finish.is_success(), "{}", finish.message());
    let exit = daemon.terminate().await;
    assert!(exit.stderr.contains("the sync was not uploaded"));

    let daemon = scene.serving(scene.service()).await;
    refused(&scene).await;
    members(&scene, Some(&truth));
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn a_shrunk_directory_is_accepted_for_a_time_and_then_taken_for_the_truth() {
    let scene = Scene::start().await;
    let daemon = scene.serving(scene.service()).await;
    let task = scene.enqueue_sync();
    scene.expect_truth(&task).await;
    members(&scene, None);
    daemon.terminate().await;
    let accepting = scene
        .service()
        .flag("shrink-accept-until", "2999-01-01T00:00:00Z");
    let daemon = scene.serving(accepting).await;
    let exit = scene.recovered(daemon).await;
    assert!(exit.stderr.contains("which shrink-accept-until lets pass"));

    let daemon = scene.serving(scene.service()).await;
    scene.recovered(daemon).await;
}

#[tokio::test]
async fn without_a_limit_any_share_may_go() {
    let scene = Scene::start().await;
    let launch = scene.service().flag("shrink-limit", "100");
    let daemon = scene.serving(launch).await;
    let task = scene.enqueue_sync();
    scene.expect_truth(&task).await;
    members(&scene, None);
    scene.recovered(daemon).await;
}
