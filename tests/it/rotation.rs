//! Credentials that are rotated under a running daemon: nothing restarts, and no task is lost or fails.

use std::{
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use baton_jumpcloud::sim::{
    conductorone::ConductorOneSim,
    jumpcloud::{FULL_KEY, Key, KeyRole},
};
use secrecy::ExposeSecret as _;
use tokio::time::timeout;

use crate::daemon::{Daemon, PATIENCE, Scene};

/// A folder that is updated as the kubelet updates a mounted Secret: a new folder, and a symlink that is swapped.
struct Mount<'a> {
    folder: &'a Path,
    generation: u32,
}

impl<'a> Mount<'a> {
    fn new(folder: &'a Path, secret: &str, key: &str) -> Self {
        std::fs::create_dir(folder).unwrap();
        for name in ["client-secret", "api-key"] {
            symlink(Path::new("..data").join(name), folder.join(name)).unwrap();
        }
        let mut mount = Self {
            folder,
            generation: 0,
        };
        mount.update(secret, key);
        mount
    }

    fn update(&mut self, secret: &str, key: &str) {
        self.generation += 1;
        let name = format!("..generation-{}", self.generation);
        let fresh = self.folder.join(&name);
        std::fs::create_dir(&fresh).unwrap();
        std::fs::write(fresh.join("client-secret"), format!("{secret}\n")).unwrap();
        std::fs::write(fresh.join("api-key"), key).unwrap();
        let link = self.folder.join("..data");
        let swapped = self.folder.join("..data_tmp");
        symlink(&name, &swapped).unwrap();
        std::fs::rename(&swapped, &link).unwrap();
    }
}

fn key(generation: u32) -> String {
    format!("jca_SECRETSEED_rotated_{generation:08}")
}

fn full(keys: &[&str]) -> Vec<Key> {
    keys.iter()
        .map(|key| Key::new("rotated", key, KeyRole::Full))
        .collect()
}

async fn said_often(daemon: &Daemon, text: &str, count: usize) {
    let waiting = async {
        while daemon.count(text) < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let said = timeout(PATIENCE, waiting).await;
    assert!(said.is_ok(), "{text:?} was not said {count} times");
}

/// Waits until this many rotations of one peer's credentials are in use.
async fn in_use(daemon: &Daemon, count: usize) {
    said_often(daemon, "rotated credentials are in use", count).await;
}

fn serving(scene: &Scene, mount: &Path) -> crate::daemon::Launch {
    scene
        .service()
        .without("client-secret-file")
        .without("api-key-file")
        .flag("client-secret-file", mount.join("client-secret"))
        .flag("api-key-file", mount.join("api-key"))
        .flag("credentials-interval", "1s")
}

/// Rotates both credentials again and again while syncs run; each old one dies as soon as its successor is in use.
#[expect(
    clippy::print_stdout,
    reason = "how long rotations took is worth a line to who runs fifty of them"
)]
async fn rotations(count: u32) {
    let scene = Scene::start().await;
    let folder = scene.path("mount");
    let mut mount = Mount::new(&folder, scene.cloud.client_secret_text(), FULL_KEY);
    let daemon = scene.serving(serving(&scene, &folder)).await;
    let mut old_key = FULL_KEY.to_owned();
    let mut slowest = Duration::ZERO;
    let mut tasks = Vec::new();
    for generation in 1..=count {
        tasks.extend([scene.enqueue_sync(), scene.enqueue_sync()]);
        let secret = scene.cloud.rotate_secret().unwrap();
        let new_key = key(generation);
        scene.directory.replace_keys(full(&[&old_key, &new_key]));
        mount.update(secret.expose_secret(), &new_key);
        let begun = Instant::now();
        in_use(&daemon, 2 * usize::try_from(generation).unwrap()).await;
        slowest = slowest.max(begun.elapsed());
        scene.cloud.retire_secrets();
        scene.directory.replace_keys(full(&[&new_key]));
        old_key = new_key;
    }
    for task in &tasks {
        scene.expect_truth(task).await;
    }
    assert!(
        slowest < Duration::from_secs(60),
        "in use after {slowest:?}"
    );
    println!(
        "{count} rotations of both credentials, {} syncs, slowest {slowest:?} at a look every second",
        tasks.len()
    );
    assert_eq!(scene.cloud.hellos().len(), 1, "no restart");
    daemon.terminate().await;
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn rotated_files_are_in_use_without_a_restart_and_without_a_lost_task() {
    rotations(3).await;
}

#[tokio::test]
#[ignore = "takes two minutes; `make rotation` runs it"]
async fn fifty_rotations_by_files() {
    rotations(50).await;
}

/// The order that hurts: the old credentials die first, in the middle of a sync.
#[tokio::test]
async fn work_waits_for_the_other_half_of_a_rotation() {
    let scene = Scene::start().await;
    let folder = scene.path("mount");
    let mut mount = Mount::new(&folder, scene.cloud.client_secret_text(), FULL_KEY);
    let daemon = scene.serving(serving(&scene, &folder)).await;
    let first = scene.enqueue_sync();
    scene.expect_truth(&first).await;
    let secret = scene.cloud.rotate_secret().unwrap();
    scene.cloud.retire_secrets();
    scene.directory.replace_keys(full(&[&key(1)]));
    daemon
        .said("ConductorOne rejects this connector's credentials")
        .await;
    mount.update(secret.expose_secret(), &key(1));
    in_use(&daemon, 2).await;
    let second = scene.enqueue_sync();
    scene.expect_truth(&second).await;
    // And JumpCloud alone, while a sync reads.
    scene
        .directory
        .change_behaviour(|behaviour| behaviour.latency = Duration::from_millis(300));
    let third = scene.enqueue_sync();
    scene
        .cloud
        .wait_for_heartbeats(&third, 1, PATIENCE)
        .await
        .unwrap();
    scene.directory.replace_keys(full(&[&key(2)]));
    daemon
        .said("JumpCloud rejects the credentials in use")
        .await;
    mount.update(secret.expose_secret(), &key(2));
    scene
        .directory
        .change_behaviour(|behaviour| behaviour.latency = Duration::ZERO);
    scene.expect_truth(&third).await;
    daemon.terminate().await;
    scene.cloud.assert_clean();
}

/// A wrong secret changes nothing but readiness, and goes away with the next right one.
#[tokio::test]
async fn rejected_credentials_are_loud_and_the_old_ones_go_on_working() {
    let scene = Scene::start().await;
    let other = ConductorOneSim::start(baton_jumpcloud::sim::conductorone::Config::default())
        .await
        .unwrap();
    let folder = scene.path("mount");
    let good = scene.cloud.client_secret_text().to_owned();
    let mut mount = Mount::new(&folder, &good, FULL_KEY);
    let daemon = scene.serving(serving(&scene, &folder)).await;
    mount.update(other.client_secret_text(), "jca_SECRETSEED_unknown");
    said_often(&daemon, "rotated credentials are rejected", 2).await;
    let task = scene.enqueue_sync();
    scene.expect_truth(&task).await;
    mount.update("SECRETSEED-no-client-secret", FULL_KEY);
    said_often(&daemon, "rotated credentials are still rejected", 1).await;
    let task = scene.enqueue_sync();
    scene.expect_truth(&task).await;
    mount.update(&good, FULL_KEY);
    scene.recovered(daemon).await;
}
