//! What counts as too much, what is compared with what, and what outlives a restart.

use super::*;
use crate::error::{Class, Classify as _, Code};

fn rows(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
    counts
        .iter()
        .map(|&(name, count)| (name.to_owned(), count))
        .collect()
}

/// A whole sync of one type, `user`.
fn report(resources: u64, entitlements: u64, grants: u64) -> Report {
    Report {
        sync_id: "sync".to_owned(),
        sync_type: "full".to_owned(),
        resources: rows(&[("user", resources)]),
        entitlements: rows(&[("user", entitlements)]),
        grants: rows(&[("user", grants)]),
        ..Report::default()
    }
}

fn users(resources: u64) -> Report {
    report(resources, 0, 0)
}

fn limited(limit: u8) -> Settings {
    Settings {
        limit,
        ..Settings::default()
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A sync that is uploaded if the guard lets it.
async fn sync_of(guard: &Guard, request: &SyncRequest, report: &Report) -> Result<(), Error> {
    if let Some(counts) = guard.check(request, report, at(1000)).await? {
        guard.remember(counts).await;
    }
    Ok(())
}

async fn sync(guard: &Guard, report: &Report) -> Result<(), Error> {
    sync_of(guard, &SyncRequest::default(), report).await
}

#[tokio::test]
async fn a_share_above_the_limit_fails_and_one_at_it_does_not() {
    for (limit, before, now, good) in [
        (50, 100, 50, true),
        (50, 100, 49, false),
        (50, 100, 0, false),
        (50, 100, 500, true),
        (1, 1000, 990, true),
        (1, 1000, 989, false),
        (99, 1000, 10, true),
        (99, 1000, 9, false),
        (NO_LIMIT, 1000, 0, true),
        (NO_LIMIT, u64::MAX, 0, true),
        (50, u64::MAX, 1, false),
        // A few may always go.
        (1, 9, 0, true),
        (1, 10, 1, true),
        (1, 10, 0, false),
        (50, 0, 0, true),
    ] {
        let guard = Guard::new(limited(limit), None);
        sync(&guard, &users(before)).await.unwrap();
        let result = sync(&guard, &users(now)).await;
        assert_eq!(result.is_ok(), good, "{limit} %: {before} to {now}");
    }
}

#[tokio::test]
async fn the_error_names_what_fell_and_what_to_do_and_is_final() {
    let guard = Guard::default();
    sync(&guard, &report(100, 200, 3000)).await.unwrap();
    let error = sync(&guard, &report(99, 12, 0)).await.unwrap_err();
    assert_eq!(
        (error.class(), error.code()),
        (Class::Permanent, Code::FailedPrecondition)
    );
    assert_eq!(
        error.to_string(),
        "the sync was not uploaded, because ConductorOne would take what is missing for access that was taken away: since \
         the last sync (1970-01-01T00:16:40Z) entitlements of type user fell from 200 to 12, grants of type user fell from \
         3000 to 0, more than shrink-limit allows (50 %); check what JumpCloud holds and what the key may read, and if the \
         directory has shrunk, set shrink-accept-until to a time after the next sync"
    );
}

#[tokio::test]
async fn a_type_without_rows_of_a_kind_has_lost_all_of_them() {
    let guard = Guard::default();
    sync(&guard, &report(100, 200, 3000)).await.unwrap();
    let mut empty = report(100, 200, 0);
    empty.grants.clear();
    let error = sync(&guard, &empty).await.unwrap_err();
    assert!(error.to_string().contains("from 3000 to 0,"), "{error}");
}

#[tokio::test]
async fn a_failed_sync_changes_nothing_that_is_remembered() {
    let guard = Guard::default();
    sync(&guard, &users(100)).await.unwrap();
    for _ in 0..3 {
        sync(&guard, &users(10)).await.unwrap_err();
    }
    sync(&guard, &users(60)).await.unwrap();
    sync(&guard, &users(30)).await.unwrap();
}

#[tokio::test]
async fn a_sync_that_was_not_uploaded_is_not_remembered() {
    let guard = Guard::default();
    let request = SyncRequest::default();
    guard.check(&request, &users(100), at(1)).await.unwrap();
    sync(&guard, &users(1)).await.unwrap();
}

#[tokio::test]
async fn an_accepted_drop_is_what_later_syncs_are_held_against() {
    let settings = Settings {
        accept_until: Some(at(2000)),
        ..Settings::default()
    };
    let guard = Guard::new(settings, None);
    let request = SyncRequest::default();
    for (second, count, good) in [
        (1000, 1000, true),
        (1999, 100, true),
        (2000, 40, false),
        (2001, 60, true),
    ] {
        let checked = guard.check(&request, &users(count), at(second)).await;
        assert_eq!(checked.is_ok(), good, "{second}");
        if let Ok(Some(counts)) = checked {
            guard.remember(counts).await;
        }
    }
}

#[tokio::test]
async fn only_whole_syncs_are_compared_and_remembered() {
    let full = SyncRequest::default();
    let empty = SyncRequest {
        empty: true,
        ..full.clone()
    };
    let targeted = SyncRequest {
        targeted: vec![crate::proto::connector::Resource::default()],
        ..full.clone()
    };
    let of_type = |sync_type: &str| Report {
        sync_type: sync_type.to_owned(),
        ..users(0)
    };
    let guard = Guard::default();
    sync(&guard, &users(100)).await.unwrap();
    for (request, report) in [
        (&empty, of_type("full")),
        (&targeted, of_type("partial")),
        (&full, of_type("partial")),
        (&full, of_type("resources_only")),
    ] {
        let counts = guard.check(request, &report, at(1)).await.unwrap();
        assert_eq!(counts, None, "{}", report.sync_type);
    }
}

#[tokio::test]
async fn syncs_of_other_options_or_configurations_have_counts_of_their_own() {
    let of = |types: &[&str]| SyncRequest {
        resource_type_ids: types.iter().map(|&name| name.to_owned()).collect(),
        ..SyncRequest::default()
    };
    let work = tempfile::tempdir().unwrap();
    let place = Place::new(work.path().to_owned());
    let guard = Guard::new(Settings::default(), Some(place.clone()));
    sync(&guard, &users(100)).await.unwrap();
    for other in [
        of(&["user"]),
        SyncRequest {
            skip_grants: true,
            ..SyncRequest::default()
        },
        SyncRequest {
            skip_expand_grants: true,
            ..SyncRequest::default()
        },
    ] {
        sync_of(&guard, &other, &users(1)).await.unwrap();
    }
    let elsewhere = Settings {
        source: "another directory".to_owned(),
        ..Settings::default()
    };
    let elsewhere = Guard::new(elsewhere, Some(place));
    sync(&elsewhere, &users(1)).await.unwrap();
    // The order of the types makes no difference.
    sync_of(&guard, &of(&["user", "group"]), &users(100))
        .await
        .unwrap();
    sync_of(&guard, &of(&["group", "user", "user"]), &users(1))
        .await
        .unwrap_err();
    sync(&guard, &users(1)).await.unwrap_err();
}

#[tokio::test]
async fn a_type_that_is_left_out_and_was_there_is_lost() {
    let both = |count| Report {
        resources: rows(&[("group", count), ("user", 100)]),
        grants: rows(&[("group", count * 2)]),
        ..users(0)
    };
    let guard = Guard::default();
    sync(&guard, &both(50)).await.unwrap();
    let error = sync(&guard, &users(100)).await.unwrap_err();
    assert!(
        error.to_string().contains(
            "resources of type group fell from 50 to 0, grants of type group fell from 100 to 0"
        ),
        "{error}"
    );
    // Where that was accepted, it is how things are.
    let guard = Guard::new(
        Settings {
            accept_until: Some(at(2000)),
            ..Settings::default()
        },
        None,
    );
    let request = SyncRequest::default();
    for (second, report) in [(1000, both(50)), (1001, users(100)), (3000, users(90))] {
        let counts = guard.check(&request, &report, at(second)).await.unwrap();
        guard.remember(counts.unwrap()).await;
    }
}

#[tokio::test]
async fn the_counts_outlive_a_restart_and_a_damaged_file_is_set_aside() {
    let work = tempfile::tempdir().unwrap();
    let guard = || {
        Guard::new(
            Settings::default(),
            Some(Place::new(work.path().to_owned())),
        )
    };
    sync(&guard(), &users(100)).await.unwrap();
    sync(&guard(), &users(1)).await.unwrap_err();

    let folder = work.path().join(crate::state_folder::NAME).join(PART);
    let file = std::fs::read_dir(&folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let good = std::fs::read_to_string(&file).unwrap();
    for bad in [
        String::new(),
        good.replace("\"version\":1", "\"version\":2"),
        good.replace("\"fingerprint\":\"", "\"fingerprint\":\"0"),
        good.replace("100", "-1"),
    ] {
        assert_ne!(bad, good);
        std::fs::write(&file, &bad).unwrap();
        sync(&guard(), &users(1)).await.unwrap();
        assert_eq!(
            std::fs::read_to_string(file.with_added_extension("corrupt")).unwrap(),
            bad
        );
        // The next good sync takes its place.
        sync(&guard(), &users(100)).await.unwrap();
        sync(&guard(), &users(1)).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_leaves_the_memory_of_the_process() {
    let work = tempfile::tempdir().unwrap();
    let missing = Place::new(work.path().join("missing"));
    let guard = Guard::new(Settings::default(), Some(missing));
    sync(&guard, &users(100)).await.unwrap();
    sync(&guard, &users(1)).await.unwrap_err();
}
