use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use baton_jumpcloud::{
    control_plane::{HeartbeatReply, TaskResult},
    error::Code,
    handlers::full_sync::{LocalOptions, TEMP_PREFIX, remove_stale},
    proto::baton::{Task, task::SyncFullTask, task::TaskType},
};
use jiff::Timestamp;

use super::fakes::{FakeControlPlane, Fault, Plan, failure, full_sync, id, task};

fn sync_task(options: SyncFullTask) -> Task {
    task(1, TaskType::SyncFull(options))
}

async fn done(local: LocalOptions, options: SyncFullTask) -> (TaskResult, Vec<Vec<u8>>, usize) {
    let control = FakeControlPlane::new();
    control.hand_out([sync_task(options)]);
    let plan = Plan {
        sync: local,
        ..Plan::default()
    };
    let rig = plan.start(&control);
    let result = control.result(&id(1)).await;
    (result, control.uploads(), rig.left_over())
}

fn succeeded() -> TaskResult {
    TaskResult::Success {
        response: None,
        annotations: Vec::new(),
    }
}

fn is_c1z_v1(bytes: &[u8]) -> bool {
    bytes.starts_with(b"C1ZF\0")
}

#[tokio::test]
async fn a_sync_is_uploaded_as_a_v1_file_and_leaves_nothing_behind() {
    let (result, uploads, left) = done(LocalOptions::default(), SyncFullTask::default()).await;
    assert_eq!(result, succeeded());
    assert_eq!(uploads.len(), 1);
    assert!(is_c1z_v1(&uploads[0]));
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_task_that_asks_for_pebble_gets_a_v1_file() {
    let options = SyncFullTask {
        storage_engine: "pebble".to_owned(),
        ..SyncFullTask::default()
    };
    let (result, uploads, _) = done(LocalOptions::default(), options).await;
    assert_eq!(result, succeeded());
    assert!(is_c1z_v1(&uploads[0]));
}

#[tokio::test]
async fn an_unknown_storage_engine_is_an_error_unless_a_local_one_is_set() {
    let options = SyncFullTask {
        storage_engine: "papyrus".to_owned(),
        ..SyncFullTask::default()
    };
    let (result, uploads, left) = done(LocalOptions::default(), options.clone()).await;
    let (code, message, non_retryable) = failure(&result);
    assert_eq!((code, non_retryable), (Code::InvalidArgument, false));
    assert!(
        message.contains("storage_engine is \"papyrus\""),
        "{message}"
    );
    assert_eq!((uploads.len(), left), (0, 0));

    let local = LocalOptions {
        storage_engine: "sqlite".to_owned(),
        ..LocalOptions::default()
    };
    let (result, ..) = done(local, options).await;
    assert_eq!(result, succeeded());
}

#[tokio::test]
async fn the_resource_types_of_the_task_beat_the_local_ones() {
    let local = LocalOptions {
        resource_type_ids: vec!["spaceship".to_owned()],
        ..LocalOptions::default()
    };
    let (result, ..) = done(local.clone(), SyncFullTask::default()).await;
    let (_, message, non_retryable) = failure(&result);
    assert!(
        message.contains("invalid resource type 'spaceship' in filter"),
        "{message}"
    );
    assert!(!non_retryable);

    let options = SyncFullTask {
        sync_resource_type_ids: vec!["user".to_owned()],
        ..SyncFullTask::default()
    };
    let (result, ..) = done(local, options).await;
    assert_eq!(result, succeeded());
}

#[tokio::test]
async fn skipped_full_syncs_upload_an_empty_file() {
    let local = LocalOptions {
        skip_full_sync: true,
        ..LocalOptions::default()
    };
    let (result, uploads, left) = done(local, SyncFullTask::default()).await;
    assert_eq!(result, succeeded());
    assert!(is_c1z_v1(&uploads[0]));
    assert_eq!(left, 0);
}

#[tokio::test]
async fn an_upload_that_fails_is_a_retryable_error_and_leaves_nothing_behind() {
    let control = FakeControlPlane::new();
    control.upload_fails([Fault::Code(Code::Unavailable)]);
    control.hand_out([full_sync(1)]);
    let rig = Plan::default().start(&control);
    let result = control.result(&id(1)).await;
    let (code, message, non_retryable) = failure(&result);
    assert_eq!((code, non_retryable), (Code::Unavailable, false));
    assert!(
        message.starts_with("the upload of the sync file failed: "),
        "{message}"
    );
    assert_eq!(rig.left_over(), 0);
}

/// What is left of a sync that is cancelled while it is being uploaded.
async fn cancelled_in_the_upload(sync: LocalOptions) -> usize {
    let control = FakeControlPlane::new();
    control.upload_fails([Fault::Silence]);
    control.heartbeats([
        Ok(HeartbeatReply::default()),
        Ok(HeartbeatReply {
            cancelled: true,
            next_heartbeat: None,
        }),
    ]);
    control.hand_out([full_sync(1)]);
    let plan = Plan {
        sync,
        ..Plan::default()
    };
    let rig = plan.start(&control);
    let result = control.result(&id(1)).await;
    assert_eq!(
        failure(&result),
        (Code::Cancelled, "task was cancelled", false)
    );
    assert_eq!(control.uploads().len(), 1);
    rig.left_over()
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_during_the_upload_stops_it_and_leaves_nothing_behind() {
    assert_eq!(cancelled_in_the_upload(LocalOptions::default()).await, 0);
}

fn resumable() -> LocalOptions {
    LocalOptions {
        resume_max_age: Duration::from_hours(1),
        ..LocalOptions::default()
    }
}

#[tokio::test]
async fn a_sync_whose_upload_failed_is_uploaded_by_the_next_task_and_not_read_again() {
    let control = FakeControlPlane::new();
    control.upload_fails([Fault::Code(Code::Unavailable)]);
    control.hand_out([full_sync(1)]);
    let plan = Plan {
        sync: resumable(),
        ..Plan::default()
    };
    let rig = plan.start(&control);
    failure(&control.result(&id(1)).await);
    assert_eq!(rig.left_over(), 1);
    control.hand_out([full_sync(2)]);
    assert_eq!(control.result(&id(2)).await, succeeded());
    let uploads = control.uploads();
    assert_eq!(uploads.len(), 2);
    assert_eq!(uploads[0], uploads[1], "the same file, its times included");
    assert_eq!(rig.left_over(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_conductorone_cancelled_is_not_kept() {
    assert_eq!(cancelled_in_the_upload(resumable()).await, 0);
}

#[tokio::test]
async fn a_work_folder_that_is_gone_is_named_as_the_problem() {
    let control = FakeControlPlane::new();
    control.hand_out([full_sync(1)]);
    let rig = Plan::default().start(&control);
    fs::remove_dir(rig.work_dir.path()).unwrap();
    let result = control.result(&id(1)).await;
    let (code, message, non_retryable) = failure(&result);
    assert_eq!((code, non_retryable), (Code::Internal, false));
    assert!(
        message.starts_with("cannot create a temporary folder in the work folder"),
        "{message}"
    );
}

fn age(path: &Path) {
    let hour_ago = SystemTime::from(Timestamp::now()) - Duration::from_hours(1);
    fs::File::open(path)
        .unwrap()
        .set_modified(hour_ago)
        .unwrap();
}

#[tokio::test]
async fn only_our_own_old_and_ownerless_leavings_are_removed() {
    let work_dir = tempfile::tempdir().unwrap();
    let folder = |name: String| {
        let path = work_dir.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("lock"), "").unwrap();
        fs::write(path.join("sync.c1z"), "half a file").unwrap();
        path
    };
    let stale = folder(format!("{TEMP_PREFIX}stale"));
    let owned = folder(format!("{TEMP_PREFIX}owned"));
    let fresh = folder(format!("{TEMP_PREFIX}fresh"));
    let foreign = folder("baton-sdk-sync-upload123".to_owned());
    let stray = work_dir.path().join(format!("{TEMP_PREFIX}stray"));
    fs::write(&stray, "a file").unwrap();
    let lock = fs::File::open(owned.join("lock")).unwrap();
    lock.lock().unwrap();
    for path in [&stale, &owned, &foreign, &stray] {
        age(path);
    }
    let started = Timestamp::now() - jiff::SignedDuration::from_mins(1);
    assert_eq!(
        remove_stale(work_dir.path(), started, Duration::ZERO).await,
        2
    );
    assert!(!stale.exists() && !stray.exists());
    assert!(owned.exists() && fresh.exists() && foreign.exists());
    drop(lock);
    assert_eq!(
        remove_stale(work_dir.path(), started, Duration::ZERO).await,
        1
    );
    assert!(!owned.exists());
}

#[tokio::test]
async fn a_work_folder_that_cannot_be_read_is_no_reason_to_fail() {
    let started = Timestamp::now();
    assert_eq!(
        remove_stale(Path::new("/does/not/exist"), started, Duration::ZERO).await,
        0
    );
}
