//! What the real binary denies to its neighbours, however carelessly it is started: core dumps, a look inside, and files.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{process::Command, time::sleep};

use crate::{
    daemon::{Daemon, Launch, PATIENCE, Scene, permitted, skipped},
    provisioning::World,
};

/// A shell that sets this before it becomes the program.
fn after(launch: Launch, command: &'static str) -> Launch {
    let script = match command {
        "umask" => "umask 000; exec \"$@\"",
        "cores" => "ulimit -c unlimited 2>/dev/null || ulimit -c \"$(ulimit -H -c)\"; exec \"$@\"",
        other => panic!("{other}"),
    };
    launch.under(&["sh", "-c", script, "sh"])
}

/// Everything below these folders that others than the owner may touch, with its mode.
fn open_to_others(folders: &[&Path]) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left: Vec<PathBuf> = folders.iter().map(|folder| (*folder).to_owned()).collect();
    while let Some(folder) = left.pop() {
        // What goes away meanwhile is no matter.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.path().symlink_metadata() else {
                continue;
            };
            let mode = metadata.mode() & 0o777;
            if mode & 0o077 != 0 {
                found.insert(entry.path(), format!("{mode:o}"));
            }
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    found
}

fn limits_of(daemon: &Daemon) -> String {
    let limits =
        fs::read_to_string(format!("/proc/{}/limits", daemon.pid.as_raw_nonzero())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn no_core_is_dumped_and_proc_belongs_to_root_whoever_started_the_daemon() {
    let scene = Scene::start().await;
    let daemon = scene.serving(after(scene.service(), "cores")).await;
    assert_eq!(limits_of(&daemon), "Max core file size 0 0 bytes");
    // A crash leaves nothing: this is the signal whose action is to dump.
    daemon.signal(rustix::process::Signal::ABORT);
    let exit = daemon.ended_leaving().await;
    assert_eq!(exit.code, None, "it died of the signal");
    let left: Vec<_> = fs::read_dir(scene.path("cwd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().contains("core"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Somebody who is nobody, and has no special rights.
const NOBODY: &[&str] = &[
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
];

fn give_to_nobody(path: &Path) {
    std::os::unix::fs::lchown(path, Some(65534), Some(65534)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give_to_nobody(&entry.unwrap().path());
        }
    }
}

#[tokio::test]
async fn a_neighbour_of_the_same_user_can_read_neither_memory_nor_environment() {
    let binary = Path::new(env!("CARGO_BIN_EXE_baton-jumpcloud"));
    let mut command = Command::new("setpriv");
    command.args(&NOBODY[1..]).arg(binary).arg("--version");
    if permitted(&[NOBODY]).await.is_none()
        || !command.output().await.is_ok_and(|out| out.status.success())
    {
        skipped("other users cannot be borrowed here, or cannot reach the binary");
        return;
    }
    let scene = Scene::start().await;
    give_to_nobody(&scene.path(""));
    let launch = scene
        .service()
        .under(NOBODY)
        .switch("health-check")
        .flag("health-check-port", "0");
    let daemon = scene.serving(launch).await;
    let pid = daemon.pid.as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t65534"), "{status}");
    for file in ["environ", "mem", "maps", "auxv", "fd/0", "root/etc/passwd"] {
        let path = format!("/proc/{pid}/{file}");
        let mut cat = Command::new("setpriv");
        let read = cat
            .args(&NOBODY[1..])
            .args(["head", "-c", "1", &path])
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&read.stderr).into_owned();
        assert!(
            !read.status.success() && said.contains("ermission denied"),
            "{file}: {said}"
        );
    }
    // The same words about a process that does not protect itself, or the test would show nothing.
    let mut plain = Command::new("setpriv")
        .args(&NOBODY[1..])
        .args(["sleep", "60"])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let other = plain.id().unwrap();
    let mut readable = false;
    for _ in 0..100 {
        let read = Command::new("setpriv")
            .args(&NOBODY[1..])
            .args(["head", "-c", "1", &format!("/proc/{other}/environ")])
            .output()
            .await
            .unwrap();
        readable = read.status.success();
        if readable {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    plain.kill().await.unwrap();
    assert!(readable, "an ordinary process is open to its user");
    // What it reads of itself is still there: numbers of its own process, and its work.
    let address = {
        const LISTENS: &str = "admin server listens";
        daemon.said(LISTENS).await;
        daemon.logged(LISTENS, "server.address").unwrap()
    };
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .unwrap();
    let numbers = client
        .get(format!("http://{address}/metrics"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for name in ["process_open_fds ", "process_resident_memory_bytes "] {
        let value: f64 = numbers
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("{name} is missing"))
            .parse()
            .unwrap();
        assert!(value > 0.0, "{name}{value}");
    }
    let task = scene.enqueue_sync();
    scene.expect_truth(&task).await;
    daemon.terminate().await;
    scene.cloud.assert_clean();
}

#[tokio::test]
async fn every_file_is_private_under_the_most_careless_umask() {
    let world = World::start().await;
    let scene = &world.scene;
    let log = scene.path("daemon.log");
    // The folders that the test itself made.
    for name in ["work", "tmp", "cwd"] {
        fs::set_permissions(scene.path(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let launch = world
        .provisioning()
        .switch("allow-account-deletion")
        .flag("log-path", &log);
    let daemon = scene.serving(after(launch, "umask")).await;
    let folders = [scene.work_dir(), scene.path("tmp"), scene.path("cwd")];
    let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
    // During a sync that takes its time, and changes beside it.
    scene
        .directory
        .change_behaviour(|behaviour| behaviour.latency = Duration::from_millis(100));
    let sync = scene.enqueue_sync();
    let grant = world
        .cloud()
        .enqueue(world.grant(("group", world.cast.crew), ("user", world.cast.outsider)));
    let mut seen = 0;
    while scene.cloud.task(&sync).unwrap().stage
        != baton_jumpcloud::sim::conductorone::Stage::Finished
    {
        let open = open_to_others(&folders);
        assert!(open.is_empty(), "{open:?}");
        seen = seen.max(fs::read_dir(scene.work_dir()).unwrap().count());
        sleep(Duration::from_millis(10)).await;
    }
    assert!(
        seen >= 2,
        "the folders of the sync and of the changes were there"
    );
    assert!(scene.finish(&sync).await.is_success());
    assert!(scene.finish(&grant).await.is_success());
    let open = open_to_others(&folders);
    assert!(open.is_empty(), "{open:?}");
    for file in [world.audit_log(), log] {
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600, "{}", file.display());
        assert!(metadata.len() > 0, "{}", file.display());
    }
    world.end(daemon, &[]).await;
}

#[tokio::test]
async fn a_one_shot_file_is_private_and_never_written_through_a_link() {
    let scene = Scene::start().await;
    let file = scene.path("cwd").join("out.c1z");
    let victim = scene.path("victim");
    fs::write(&victim, "not ours").unwrap();
    symlink(&victim, &file).unwrap();
    after(scene.one_shot().flag("file", "out.c1z"), "umask")
        .run()
        .await
        .expect(0);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "not ours");
    let metadata = fs::symlink_metadata(&file).unwrap();
    assert!(metadata.is_file(), "the link was replaced, not followed");
    assert_eq!(metadata.mode() & 0o777, 0o600);
}

#[tokio::test]
async fn links_that_others_left_in_a_shared_work_folder_are_not_followed() {
    let world = World::start().await;
    let elsewhere = world.scene.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    // Where the daemon would keep what it remembers of its changes, and where older versions of it kept their files.
    for name in [
        "baton-jumpcloud-state",
        "baton-jumpcloud-state-2",
        "baton-jumpcloud-sync-000000",
    ] {
        symlink(&elsewhere, world.scene.work_dir().join(name)).unwrap();
    }
    let daemon = world.scene.serving(world.provisioning()).await;
    let grant = world
        .cloud()
        .enqueue(world.grant(("group", world.cast.crew), ("user", world.cast.outsider)));
    let finish = world.scene.finish(&grant).await;
    // A change that cannot be remembered is not made.
    assert!(!finish.is_success());
    assert!(
        finish.message().contains("is no folder"),
        "{}",
        finish.message()
    );
    assert!(
        !world.directory().truth().groups[&world.cast.crew]
            .members
            .contains(&world.cast.outsider)
    );
    let sync = world.scene.enqueue_sync();
    assert!(world.scene.finish(&sync).await.is_success());
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    daemon.signal(rustix::process::Signal::TERM);
    daemon.ended_leaving().await.expect(0);
    world.cloud().assert_clean();
}

#[tokio::test]
async fn a_work_folder_that_everybody_may_write_to_is_warned_of_outside_a_pod() {
    const WARNING: &str = "every user of this machine may rename";
    for (mode, in_a_pod, warned) in [
        (0o777, false, 1),
        (0o777, true, 0),
        (0o1777, false, 0),
        (0o700, false, 0),
    ] {
        let scene = Scene::start().await;
        fs::set_permissions(scene.work_dir(), fs::Permissions::from_mode(mode)).unwrap();
        let mut launch = scene.service();
        if in_a_pod {
            launch = launch.variable("KUBERNETES_SERVICE_HOST", "10.0.0.1");
        }
        let daemon = scene.serving(launch).await;
        let exit = daemon.terminate().await;
        assert_eq!(exit.stderr.matches(WARNING).count(), warned, "{mode:o}");
    }
}
