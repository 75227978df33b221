//! Syncs that are stopped at every possible call and gone on with.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Users on three pages, groups inside groups, applications behind them, and a missing group.
fn tenant() -> FakeConnector {
    let page = |names: &[&str], next: Option<&str>| Page {
        items: names.iter().map(|name| user(name)).collect(),
        next: next.map(str::to_owned),
        annotations: Vec::new(),
    };
    let mut connector = three_types()
        .with_note("read only")
        .with_resource_page("user", "", page(&["u1", "u2"], Some("two")))
        .with_resource_page("user", "two", page(&["u3"], Some("three")))
        .with_resource_page("user", "three", page(&["u4", "u5"], None));
    let members: Vec<_> = (1..=6)
        .map(|number| entitlement(&group(&format!("g{number}")), "member"))
        .collect();
    for (index, member) in members.iter().enumerate() {
        let number = index + 1;
        let mut grants = vec![
            grant(member, &id("user", &format!("u{}", number.min(5)))),
            // Grants of a type that is not synced are counted as left out.
            grant(member, &id("robot", "r")),
        ];
        if let Some(inner) = members.get(index + 1) {
            grants.push(expandable(
                member,
                &id("group", &format!("g{}", number + 1)),
                &inherits(inner),
            ));
        }
        let rest = grants.split_off(1);
        connector = connector
            .with_resource(group(&format!("g{number}")))
            .with_entitlement(member.clone())
            .with_grant_page(
                &format!("group:g{number}"),
                "",
                Page {
                    items: grants,
                    next: Some("more".to_owned()),
                    annotations: Vec::new(),
                },
            )
            .with_grant_page(&format!("group:g{number}"), "more", Page::last(rest));
    }
    for name in ["a1", "a2", "a3"] {
        let access = entitlement(&app(name), "access");
        connector = connector
            .with_resource(app(name))
            .with_entitlement(access.clone())
            .with_grant(expandable(
                &access,
                &id("group", "g1"),
                &inherits(&members[0]),
            ));
    }
    connector.with_failure(
        "grants",
        "app:a3",
        connector::Error::NotFound {
            what: "application a3".to_owned(),
        },
    )
}

/// A tenant whose listings find further listings: children, and cursors that a page enqueues.
fn branching() -> FakeConnector {
    let member = entitlement(&group("g"), "member");
    let mut parent = group("g");
    parent.annotations.push(proto::pack(&v2::ChildResourceType {
        resource_type_id: "app".to_owned(),
    }));
    let child = v2::Resource {
        parent_resource_id: Some(id("group", "g")),
        ..app("child")
    };
    let granted = |name: &str| vec![grant(&member, &id("user", name))];
    three_types()
        .with_resource(user("u1"))
        .with_resource(user("u2"))
        .with_resource(user("u3"))
        .with_resource(parent)
        .with_resource(child)
        .with_entitlement(member.clone())
        .with_grant_page(
            "group:g",
            "",
            Page {
                items: granted("u1"),
                next: None,
                annotations: vec![proto::pack(&v2::EnqueuePageTokens {
                    page_tokens: vec!["x".to_owned(), "y".to_owned()],
                    ..v2::EnqueuePageTokens::default()
                })],
            },
        )
        .with_grant_page("group:g", "x", Page::last(granted("u2")))
        .with_grant_page("group:g", "y", Page::last(granted("u3")))
}

const LIMITS: Limits = Limits {
    retry_budget: Duration::from_secs(1),
    cleanup_timeout: Duration::from_secs(1),
    checkpoint_every: Duration::ZERO,
};

impl Bench {
    async fn attempt(
        &self,
        connector: &FakeConnector,
        cancel: &CancellationToken,
    ) -> Result<Report, Error> {
        let environment = Environment {
            work_dir: self.folder.path(),
            clock: &self.clock,
            progress: &NoProgress,
            cancel,
            keep: true,
        };
        let request = SyncRequest {
            workers: 2,
            ..SyncRequest::default()
        };
        sync_to_file_within(connector, &request, environment, LIMITS, &self.target()).await
    }

    /// An attempt that nothing stops.
    async fn finished(&self, connector: &FakeConnector) -> Report {
        self.attempt(connector, &CancellationToken::new())
            .await
            .unwrap()
    }
}

/// Everything that a file says, but for when.
fn content(bench: &Bench) -> BTreeSet<String> {
    let reader = bench.open();
    let run = reader.latest_sync().unwrap();
    let id = run.sync_id.as_str();
    let resources = reader
        .resources(id, ResourceFilter::All)
        .map(|row| format!("{:?}", row.unwrap()));
    let entitlements = reader
        .entitlements(id, None)
        .map(|row| format!("{:?}", row.unwrap()));
    let grants = reader
        .grants(id, GrantFilter::All)
        .map(|row| format!("{:?}", row.unwrap()));
    let mut all = BTreeSet::new();
    for line in resources.chain(entitlements).chain(grants) {
        assert!(!all.contains(&line), "twice: {line}");
        all.insert(line);
    }
    all.insert(format!("token {}", run.token));
    all
}

#[track_caller]
fn same(found: &BTreeSet<String>, expected: &BTreeSet<String>) {
    let differs: Vec<_> = found.symmetric_difference(expected).take(4).collect();
    assert!(differs.is_empty(), "{differs:#?}");
}

struct Undisturbed {
    content: BTreeSet<String>,
    calls: usize,
    report: Report,
}

async fn undisturbed(make: fn() -> FakeConnector) -> Undisturbed {
    let bench = Bench::new();
    let connector = make();
    let report = bench.finished(&connector).await;
    assert!(!report.is_resumed);
    Undisturbed {
        content: content(&bench),
        calls: connector.calls().len(),
        report,
    }
}

/// Stops one attempt after each of these numbers of calls, then lets one come to its end; the calls of all.
async fn stopped(make: fn() -> FakeConnector, stops: &[usize], whole: &Undisturbed) -> Vec<usize> {
    let bench = Bench::new();
    let mut calls = Vec::new();
    let mut ended = false;
    for &after in stops {
        let cancel = CancellationToken::new();
        let connector = make().with_stop(after, cancel.clone());
        let stopped = bench.attempt(&connector, &cancel).await;
        calls.push(connector.calls().len());
        match stopped {
            Err(error) if error.class() == Class::Cancelled => {}
            // It needed fewer calls than that.
            Ok(_) => {
                ended = true;
                break;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    if !ended {
        let connector = make();
        let report = bench.finished(&connector).await;
        calls.push(connector.calls().len());
        assert_eq!(report.expanded_grants, whole.report.expanded_grants);
        assert_eq!(report.warnings, whole.report.warnings);
        assert_eq!(report.grants, whole.report.grants);
    }
    same(&content(&bench), &whole.content);
    calls
}

#[tokio::test]
async fn a_sync_that_is_stopped_anywhere_goes_on_and_gives_the_same_file() {
    let whole = undisturbed(tenant).await;
    for after in 1..whole.calls {
        let calls = stopped(tenant, &[after], &whole).await;
        let all: usize = calls.iter().sum();
        // Two listings run at once, each of at most three calls.
        assert!(
            all <= whole.calls + 2 * 3,
            "{calls:?} after a stop at {after} of {}",
            whole.calls
        );
    }
}

#[tokio::test]
async fn listings_that_find_others_begin_their_phase_anew() {
    let whole = undisturbed(branching).await;
    for after in 1..whole.calls {
        stopped(branching, &[after], &whole).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn many_stops_make_no_difference(stops in prop::collection::vec(1_usize..12, 0..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let whole = undisturbed(tenant).await;
            stopped(tenant, &stops, &whole).await;
            let whole = undisturbed(branching).await;
            stopped(branching, &stops, &whole).await;
        });
    }
}

#[tokio::test]
async fn a_sync_that_goes_on_keeps_its_id_and_its_beginning() {
    let bench = Bench::new();
    let cancel = CancellationToken::new();
    let connector = tenant().with_stop(15, cancel.clone());
    bench.attempt(&connector, &cancel).await.unwrap_err();
    let first = connector.cleanups();
    bench.clock.advance(Duration::from_mins(5));
    let connector = tenant();
    let report = bench.finished(&connector).await;
    assert!(report.is_resumed);
    assert_eq!(connector.cleanups(), first);
    assert!(
        !connector
            .calls()
            .iter()
            .any(|call| call.starts_with("validate")),
        "checked already"
    );
    let run = bench.open().latest_sync().unwrap();
    assert_eq!(
        run.started_at,
        Timestamp::from_second(1_790_000_000).unwrap()
    );
    assert_eq!(run.sync_id, report.sync_id);
}

#[tokio::test]
async fn what_cannot_be_trusted_is_read_again_from_the_start() {
    type Spoil = fn(&Path);
    let spoils: [Spoil; 2] = [
        |folder| std::fs::write(folder.join("sync.db"), "").unwrap(),
        |folder| std::fs::write(folder.join("sync.db"), "spoilt").unwrap(),
    ];
    let whole = undisturbed(tenant).await;
    for spoil in spoils {
        let bench = Bench::new();
        let cancel = CancellationToken::new();
        let connector = tenant().with_stop(20, cancel.clone());
        bench.attempt(&connector, &cancel).await.unwrap_err();
        let kept = bench.folder.path().join("connector").join("kept");
        std::fs::write(&kept, "of the old sync").unwrap();
        // The log alone would bring everything back.
        let _none = std::fs::remove_file(bench.folder.path().join("sync.db-wal"));
        spoil(bench.folder.path());
        let connector = tenant();
        let report = bench.finished(&connector).await;
        assert!(!report.is_resumed);
        assert!(
            !kept.exists(),
            "what the connector kept belongs to the old sync"
        );
        assert_eq!(connector.calls().len(), whole.calls);
        same(&content(&bench), &whole.content);
    }
}

#[tokio::test]
async fn a_sync_that_was_not_packed_needs_no_call() {
    let whole = undisturbed(tenant).await;
    let bench = Bench::new();
    // The folder of the file is gone when it is to be packed.
    let elsewhere = tempfile::tempdir().unwrap();
    let nowhere = elsewhere.path().join("gone").join("sync.c1z");
    let environment = Environment {
        work_dir: bench.folder.path(),
        clock: &bench.clock,
        progress: &NoProgress,
        cancel: &bench.cancel,
        keep: true,
    };
    sync_to_file(&tenant(), &SyncRequest::default(), environment, &nowhere)
        .await
        .unwrap_err();
    let connector = tenant();
    let report = bench.finished(&connector).await;
    assert!(report.is_resumed);
    assert_eq!(connector.calls(), Vec::<String>::new());
    same(&content(&bench), &whole.content);
}

#[tokio::test]
async fn a_sync_of_another_type_begins_anew() {
    let bench = Bench::new();
    let cancel = CancellationToken::new();
    let connector = tenant().with_stop(20, cancel.clone());
    bench.attempt(&connector, &cancel).await.unwrap_err();
    let environment = Environment {
        work_dir: bench.folder.path(),
        clock: &bench.clock,
        progress: &NoProgress,
        cancel: &bench.cancel,
        keep: true,
    };
    let request = SyncRequest {
        skip_entitlements_and_grants: true,
        ..SyncRequest::default()
    };
    let report = sync_to_file(&tenant(), &request, environment, &bench.target())
        .await
        .unwrap();
    assert!(!report.is_resumed);
    assert_eq!(report.sync_type, "resources_only");
}
