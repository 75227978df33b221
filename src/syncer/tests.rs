//! Whole syncs of directories that are filled by hand.

use std::path::PathBuf;

use jiff::Timestamp;
use tempfile::TempDir;

use super::{
    fake::{FakeConnector, entitlement, expandable, grant, id, resource, resource_type},
    *,
};
use crate::{
    c1z::{GrantFilter, Reader, ResourceFilter},
    clock::ManualClock,
    connector::Page,
    proto,
};

struct Bench {
    folder: TempDir,
    clock: ManualClock,
    cancel: CancellationToken,
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: ManualClock::new(Timestamp::from_second(1_790_000_000).unwrap()),
            cancel: CancellationToken::new(),
        }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("sync.c1z")
    }

    fn left_behind(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    async fn sync(
        &self,
        connector: &FakeConnector,
        request: &SyncRequest,
    ) -> Result<Report, Error> {
        let environment = Environment {
            work_dir: self.folder.path(),
            clock: &self.clock,
            progress: &NoProgress,
            cancel: &self.cancel,
            keep: false,
        };
        sync_to_file(connector, request, environment, &self.target()).await
    }

    fn open(&self) -> Reader {
        Reader::open(&self.target(), self.folder.path()).unwrap()
    }
}

fn user(name: &str) -> v2::Resource {
    resource("user", name, vec![proto::pack(&v2::UserTrait::default())])
}

fn group(name: &str) -> v2::Resource {
    resource("group", name, vec![proto::pack(&v2::GroupTrait::default())])
}

fn app(name: &str) -> v2::Resource {
    resource("app", name, vec![proto::pack(&v2::AppTrait::default())])
}

fn inherits(from: &v2::Entitlement) -> v2::GrantExpandable {
    v2::GrantExpandable {
        entitlement_ids: vec![from.id.clone()],
        ..v2::GrantExpandable::default()
    }
}

fn three_types() -> FakeConnector {
    use v2::resource_type::Trait;
    FakeConnector::new()
        .with_type(resource_type(
            "user",
            &[Trait::User],
            vec![proto::pack(&v2::SkipEntitlementsAndGrants::default())],
        ))
        .with_type(resource_type("group", &[Trait::Group], vec![]))
        .with_type(resource_type("app", &[Trait::App], vec![]))
}

/// Two users, both in one group; the group and one user have an application.
fn small_tenant() -> FakeConnector {
    let member = entitlement(&group("g"), "member");
    let access = entitlement(&app("a"), "access");
    three_types()
        .with_resource(user("u1"))
        .with_resource(user("u2"))
        .with_resource(group("g"))
        .with_resource(app("a"))
        .with_entitlement(member.clone())
        .with_entitlement(access.clone())
        .with_grant(grant(&member, &id("user", "u1")))
        .with_grant(grant(&member, &id("user", "u2")))
        .with_grant(expandable(&access, &id("group", "g"), &inherits(&member)))
        .with_grant(grant(&access, &id("user", "u1")))
}

fn sources(grant: &v2::Grant) -> BTreeMap<String, bool> {
    grant
        .sources
        .iter()
        .flat_map(|sources| &sources.sources)
        .map(|(id, source)| (id.clone(), source.is_direct))
        .collect()
}

#[test]
fn the_future_of_a_sync_can_move_between_threads() {
    fn assert_send<T: Send>(_: &T) {}
    let bench = Bench::new();
    let connector = FakeConnector::new();
    let request = SyncRequest::default();
    let future = bench.sync(&connector, &request);
    assert_send(&future);
}

#[tokio::test]
async fn a_full_sync_stores_and_expands_everything() {
    let bench = Bench::new();
    let connector = small_tenant()
        .with_note("read-only key")
        .with_warning("two dangling members");
    let report = bench
        .sync(&connector, &SyncRequest::default())
        .await
        .unwrap();

    assert_eq!(report.sync_type, "full");
    assert_eq!(report.resources["user"], 2);
    assert_eq!(report.entitlements["app"], 1);
    assert_eq!(report.grants["group"], 2);
    assert_eq!(report.grants["app"], 3);
    assert_eq!(report.expanded_grants, 1);
    assert_eq!(report.warnings, ["read-only key", "two dangling members"]);
    assert_eq!(connector.cleanups(), std::slice::from_ref(&report.sync_id));
    assert_eq!(bench.left_behind(), [bench.target()]);

    let reader = bench.open();
    let run = reader.latest_sync().unwrap();
    assert_eq!(run.sync_id, report.sync_id);
    assert!(run.supports_diff);
    assert_eq!(run.invariant_coverage, r#"["I5","I10"]"#);
    let counts = reader.stats(&run.sync_id).unwrap();
    assert_eq!(counts.resources, report.resources);
    assert_eq!(counts.grants, report.grants);

    let both = reader
        .grant(&run.sync_id, "app:a:access:user:u1")
        .unwrap()
        .unwrap();
    assert_eq!(
        sources(&both.grant),
        [
            ("app:a:access".to_owned(), true),
            ("group:g:member".to_owned(), true)
        ]
        .into()
    );
    assert!(both.grant.annotations.is_empty());
    let inherited = reader
        .grant(&run.sync_id, "app:a:access:user:u2")
        .unwrap()
        .unwrap();
    assert_eq!(
        sources(&inherited.grant),
        [("group:g:member".to_owned(), true)].into()
    );
    assert!(proto::has::<v2::GrantImmutable>(
        &inherited.grant.annotations
    ));
    let through = reader
        .grant(&run.sync_id, "app:a:access:group:g")
        .unwrap()
        .unwrap();
    assert!(through.needs_expansion);
    assert!(through.grant.annotations.is_empty());
    assert_eq!(
        through.expansion.unwrap().entitlement_ids,
        ["group:g:member"]
    );
}

fn http(status: u16) -> connector::Error {
    connector::Error::Http {
        method: "GET",
        endpoint: "/api/things/{id}",
        status,
        advice: String::new(),
        words: None,
        retry_after: None,
    }
}

fn missing(what: &str) -> connector::Error {
    connector::Error::NotFound {
        what: what.to_owned(),
    }
}

fn listed(connector: &FakeConnector, operation: &str) -> Vec<String> {
    let mut calls: Vec<_> = connector
        .calls()
        .into_iter()
        .filter(|call| call.split(' ').next() == Some(operation))
        .collect();
    calls.sort();
    calls
}

async fn fails(connector: &FakeConnector, request: &SyncRequest) -> Error {
    let bench = Bench::new();
    let error = bench.sync(connector, request).await.unwrap_err();
    assert_eq!(bench.left_behind(), Vec::<PathBuf>::new());
    assert_eq!(
        connector.cleanups().len(),
        1,
        "every sync is cleaned up once"
    );
    error
}

fn all_grants(reader: &Reader) -> BTreeMap<String, v2::Grant> {
    let run = reader.latest_sync().unwrap();
    reader
        .grants(&run.sync_id, GrantFilter::All)
        .map(|row| row.unwrap())
        .map(|row| (row.grant.id.clone(), row.grant))
        .collect()
}

fn token(reader: &Reader) -> serde_json::Value {
    serde_json::from_str(&reader.latest_sync().unwrap().token).unwrap()
}

#[tokio::test]
async fn phases_follow_each_other() {
    let bench = Bench::new();
    let connector = small_tenant();
    bench
        .sync(&connector, &SyncRequest::default())
        .await
        .unwrap();
    let calls = connector.calls();
    let mut operations: Vec<_> = calls
        .iter()
        .map(|call| call.split(' ').next().unwrap())
        .collect();
    operations.dedup();
    assert_eq!(
        operations,
        ["validate", "resources", "static", "entitlements", "grants"]
    );
    assert_eq!(
        listed(&connector, "grants"),
        ["grants app:a", "grants group:g"],
        "users skip their grants"
    );
}

#[tokio::test]
async fn every_page_of_a_listing_is_read() {
    let bench = Bench::new();
    let mut connector = three_types();
    for number in 0..5 {
        let token = if number == 0 {
            String::new()
        } else {
            format!("p{number}")
        };
        connector = connector.with_resource_page(
            "user",
            &token,
            Page {
                items: vec![user(&format!("u{number}"))],
                next: (number < 4).then(|| format!("p{}", number + 1)),
                annotations: Vec::new(),
            },
        );
    }
    let report = bench
        .sync(&connector, &SyncRequest::default())
        .await
        .unwrap();
    assert_eq!(report.resources["user"], 5);
}

#[tokio::test]
async fn a_page_token_that_repeats_ends_the_sync() {
    let page = Page {
        items: vec![user("u")],
        next: Some("again".to_owned()),
        annotations: Vec::new(),
    };
    let connector = three_types()
        .with_resource_page("user", "", page.clone())
        .with_resource_page("user", "again", page);
    assert!(matches!(
        fails(&connector, &SyncRequest::default()).await,
        Error::RepeatedPageToken { .. }
    ));
}

#[tokio::test]
async fn children_are_listed_once_for_each_parent() {
    let child_of = |name: &str, parent: &str| v2::Resource {
        parent_resource_id: Some(id("group", parent)),
        ..app(name)
    };
    let parent = |name: &str| {
        let mut parent = group(name);
        for _ in 0..2 {
            parent.annotations.push(proto::pack(&v2::ChildResourceType {
                resource_type_id: "app".to_owned(),
            }));
        }
        parent
    };
    let connector = three_types()
        .with_resource(parent("g1"))
        .with_resource(parent("g2"))
        .with_resource(child_of("a1", "g1"))
        .with_resource(child_of("a2", "g2"));
    let bench = Bench::new();
    let report = bench
        .sync(&connector, &SyncRequest::default())
        .await
        .unwrap();
    assert_eq!(report.resources["app"], 2);
    assert_eq!(
        listed(&connector, "resources"),
        [
            "resources app",
            "resources app under group:g1",
            "resources app under group:g2",
            "resources group",
            "resources user",
        ]
    );
    let reader = bench.open();
    let run = reader.latest_sync().unwrap();
    let children: Vec<_> = reader
        .resources(&run.sync_id, ResourceFilter::Parent(&id("group", "g2")))
        .map(|row| row.unwrap().id.unwrap().resource)
        .collect();
    assert_eq!(children, ["a2"]);

    let filtered = three_types().with_resource(parent("g1"));
    let request = SyncRequest {
        resource_type_ids: vec!["group".to_owned()],
        ..SyncRequest::default()
    };
    Bench::new().sync(&filtered, &request).await.unwrap();
    assert_eq!(listed(&filtered, "resources"), ["resources group"]);
}

#[tokio::test]
async fn a_resource_without_the_trait_of_its_type_ends_the_sync() {
    let connector = three_types().with_resource(resource("user", "u", vec![]));
    let error = fails(&connector, &SyncRequest::default()).await;
    assert_eq!(
        error.to_string(),
        "resource was missing expected trait UserTrait: user:u"
    );
    assert!(!error.is_data_verdict());
}

#[tokio::test]
async fn a_resource_marked_as_external_ends_the_sync() {
    let mut marked = user("u");
    marked
        .annotations
        .push(proto::pack(&v2::BatonId::default()));
    let error = fails(
        &three_types().with_resource(marked),
        &SyncRequest::default(),
    )
    .await;
    assert!(matches!(error, Error::ReservedAnnotation { .. }));
    assert_eq!(error.code(), Code::Internal);
}

#[tokio::test]
async fn resources_without_id_are_left_out_and_counted() {
    let connector = three_types().with_resource(user("u")).with_resource_page(
        "user",
        "",
        Page::last(vec![
            user(""),
            v2::Resource {
                id: None,
                ..user("x")
            },
            user("u"),
        ]),
    );
    let bench = Bench::new();
    let report = bench
        .sync(&connector, &SyncRequest::default())
        .await
        .unwrap();
    assert_eq!(report.resources["user"], 1);
    assert_eq!(
        report.warnings,
        ["2 resources without type or id were left out"]
    );
    assert_eq!(
        token(&bench.open())["ingest_quality"]["invalid_resources_observed"],
        2
    );
}

#[tokio::test]
async fn a_listing_that_is_not_found_is_a_warning_where_the_rest_can_stand() {
    for (operation, key) in [
        ("resources", "user"),
        ("static", "group"),
        ("entitlements", "group:g"),
        ("grants", "app:a"),
    ] {
        let bench = Bench::new();
        let connector = small_tenant().with_failure(operation, key, missing("it"));
        let report = bench
            .sync(&connector, &SyncRequest::default())
            .await
            .unwrap();
        assert_eq!(
            report.warnings.len(),
            if operation == "entitlements" { 2 } else { 1 },
            "{operation}: {:?}",
            report.warnings
        );
        assert!(report.warnings[0].contains("it not found"));
    }
}

#[tokio::test]
async fn a_refused_permission_ends_the_sync() {
    for (operation, key) in [
        ("resources", "user"),
        ("static", "group"),
        ("entitlements", "group:g"),
        ("grants", "app:a"),
    ] {
        let connector = small_tenant().with_failure(operation, key, http(403));
        let error = fails(&connector, &SyncRequest::default()).await;
        assert_eq!(error.class(), Class::Auth, "{operation}");
    }
    let refused = small_tenant().with_failure("validate", "", http(401));
    assert!(matches!(
        fails(&refused, &SyncRequest::default()).await,
        Error::Validate(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn calls_that_fail_for_a_while_are_repeated() {
    let bench = Bench::new();
    let mut connector = small_tenant();
    for status in [503, 429, 504] {
        connector = connector
            .with_failure("grants", "app:a", http(status))
            .with_failure("validate", "", http(status));
    }
    let begun = tokio::time::Instant::now();
    let report = bench
        .sync(&connector, &SyncRequest::default())
        .await
        .unwrap();
    assert_eq!(report.grants["app"], 3);
    assert!(report.warnings.is_empty());
    assert_eq!(listed(&connector, "grants").len(), 5);
    assert!(begun.elapsed() >= Duration::from_secs(2 * (1 + 2 + 3)));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_for_longer_than_its_budget_ends_the_sync() {
    let bench = Bench::new();
    let mut connector = small_tenant();
    for _ in 0..50 {
        connector = connector.with_failure("grants", "app:a", http(503));
    }
    let environment = Environment {
        work_dir: bench.folder.path(),
        clock: &bench.clock,
        progress: &NoProgress,
        cancel: &bench.cancel,
        keep: false,
    };
    let limits = Limits {
        retry_budget: Duration::from_secs(20),
        ..Limits::default()
    };
    let request = SyncRequest::default();
    let error = sync_to_file_within(&connector, &request, environment, limits, &bench.target())
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Retryable);
    assert_eq!(bench.left_behind(), Vec::<PathBuf>::new());
}

#[tokio::test(start_paused = true)]
async fn cancellation_ends_a_waiting_sync_and_leaves_nothing() {
    let bench = Bench::new();
    let mut connector = small_tenant();
    for _ in 0..1000 {
        connector = connector.with_failure("grants", "app:a", http(503));
    }
    let request = SyncRequest::default();
    let (result, ()) = tokio::join!(bench.sync(&connector, &request), async {
        tokio::time::sleep(Duration::from_secs(90)).await;
        bench.cancel.cancel();
    });
    assert!(matches!(result, Err(Error::Cancelled)));
    assert_eq!(bench.left_behind(), Vec::<PathBuf>::new());
    assert_eq!(connector.cleanups().len(), 1);
}

#[tokio::test]
async fn a_sync_that_is_cancelled_before_it_begins_asks_nothing() {
    let bench = Bench::new();
    bench.cancel.cancel();
    let connector = small_tenant();
    let result = bench.sync(&connector, &SyncRequest::default()).await;
    assert!(matches!(result, Err(Error::Cancelled)));
    assert_eq!(connector.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn an_older_file_survives_a_sync_that_fails() {
    let bench = Bench::new();
    std::fs::write(bench.target(), b"older").unwrap();
    let connector = small_tenant().with_failure("grants", "app:a", http(403));
    bench
        .sync(&connector, &SyncRequest::default())
        .await
        .unwrap_err();
    assert_eq!(std::fs::read(bench.target()).unwrap(), b"older");
    bench
        .sync(&small_tenant(), &SyncRequest::default())
        .await
        .unwrap();
    assert_eq!(bench.left_behind(), [bench.target()]);
    assert_eq!(bench.open().syncs().unwrap().len(), 1);
}

#[test]
fn warnings_end_a_sync_above_ten_and_above_a_tenth() {
    for (warnings, completed, expected) in [
        (10, 10, false),
        (11, 110, false),
        (11, 109, true),
        (11, 0, false),
        (0, 0, false),
    ] {
        assert_eq!(
            engine::too_many(warnings, completed),
            expected,
            "{warnings} of {completed}"
        );
    }
}

#[tokio::test]
async fn a_directory_that_forgets_most_of_its_groups_fails_the_sync() {
    let mut connector = three_types();
    for number in 0..20 {
        let name = format!("g{number}");
        connector = connector.with_resource(group(&name)).with_failure(
            "grants",
            &format!("group:{name}"),
            missing(&name),
        );
    }
    let error = fails(&connector, &SyncRequest::default()).await;
    assert!(
        matches!(error, Error::TooManyWarnings { warnings: 20, .. }),
        "{error}"
    );
}

/// Annotations of the type and of the resource, the request, and how many listings there are of each kind.
type Case = (Vec<proto::Any>, Vec<proto::Any>, SyncRequest, usize, usize);

#[tokio::test]
async fn skip_annotations_and_options_decide_what_is_listed() {
    use v2::resource_type::Trait;
    let skip_both = || vec![proto::pack(&v2::SkipEntitlementsAndGrants::default())];
    let skip_entitlements = || vec![proto::pack(&v2::SkipEntitlements::default())];
    let skip_grants = || vec![proto::pack(&v2::SkipGrants::default())];
    let request = SyncRequest::default;
    let cases: Vec<Case> = vec![
        (vec![], vec![], request(), 1, 1),
        (skip_both(), vec![], request(), 0, 0),
        (vec![], skip_both(), request(), 0, 0),
        (skip_entitlements(), vec![], request(), 0, 1),
        (vec![], skip_entitlements(), request(), 0, 1),
        (skip_grants(), vec![], request(), 1, 1),
        (vec![], skip_grants(), request(), 1, 0),
        (
            vec![],
            vec![],
            SyncRequest {
                skip_grants: true,
                ..request()
            },
            1,
            0,
        ),
        (
            vec![],
            vec![],
            SyncRequest {
                skip_entitlements_and_grants: true,
                ..request()
            },
            0,
            0,
        ),
    ];
    for (index, (on_type, on_resource, request, entitlements, grants)) in
        cases.into_iter().enumerate()
    {
        let mut annotations = on_resource;
        annotations.push(proto::pack(&v2::GroupTrait::default()));
        let connector = FakeConnector::new()
            .with_type(resource_type("group", &[Trait::Group], on_type))
            .with_resource(resource("group", "g", annotations));
        Bench::new().sync(&connector, &request).await.unwrap();
        assert_eq!(
            (
                listed(&connector, "entitlements").len(),
                listed(&connector, "grants").len()
            ),
            (entitlements, grants),
            "case {index}"
        );
    }
}

#[tokio::test]
async fn a_resources_only_sync_says_so_and_counts_no_grants() {
    let bench = Bench::new();
    let request = SyncRequest {
        skip_entitlements_and_grants: true,
        ..SyncRequest::default()
    };
    let report = bench.sync(&small_tenant(), &request).await.unwrap();
    assert_eq!(report.sync_type, "resources_only");
    assert!(report.grants.is_empty());
    let reader = bench.open();
    let run = reader.latest_sync().unwrap();
    assert_eq!(run.sync_type, "resources_only");
    assert!(!run.supports_diff);
    let stats: serde_json::Value = serde_json::from_str(&run.stats.unwrap()).unwrap();
    assert_eq!(stats["resources"], 4);
    assert_eq!(stats.get("grants"), None);
    assert_eq!(token(&reader)["should_skip_entitlements_and_grants"], true);
}

#[tokio::test]
async fn a_sync_without_expansion_leaves_it_to_the_service() {
    let bench = Bench::new();
    let request = SyncRequest {
        skip_expand_grants: true,
        ..SyncRequest::default()
    };
    let report = bench.sync(&small_tenant(), &request).await.unwrap();
    assert_eq!(report.expanded_grants, 0);
    let reader = bench.open();
    let run = reader.latest_sync().unwrap();
    assert!(run.supports_diff);
    assert_eq!(token(&reader).get("needs_expansion"), None);
    let row = reader
        .grant(&run.sync_id, "app:a:access:group:g")
        .unwrap()
        .unwrap();
    assert!(row.needs_expansion);
    assert!(proto::has::<v2::GrantExpandable>(
        &row.into_connector_grant().annotations
    ));
}

#[tokio::test]
async fn an_empty_sync_validates_and_writes_a_finished_sync() {
    let bench = Bench::new();
    let connector = small_tenant();
    let request = SyncRequest {
        empty: true,
        ..SyncRequest::default()
    };
    let report = bench.sync(&connector, &request).await.unwrap();
    assert_eq!(connector.calls(), ["validate"]);
    assert_eq!(report.sync_type, "full");
    let run = bench.open().latest_sync().unwrap();
    assert_eq!(run.invariant_generation, "");
}

#[tokio::test]
async fn a_filter_with_an_unknown_type_names_it() {
    let request = SyncRequest {
        resource_type_ids: vec!["user".to_owned(), "planet".to_owned()],
        ..SyncRequest::default()
    };
    let error = fails(&small_tenant(), &request).await;
    assert!(
        error
            .to_string()
            .starts_with("invalid resource type 'planet' in filter")
    );
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn rows_of_types_outside_the_filter_are_left_out() {
    let member = entitlement(&group("g"), "member");
    let mut narrowed = inherits(&member);
    narrowed.resource_type_ids = vec!["user".to_owned(), "planet".to_owned()];
    let mut emptied = inherits(&member);
    emptied.resource_type_ids = vec!["planet".to_owned()];
    let other = entitlement(&group("other"), "member");
    let connector = small_tenant()
        .with_resource(group("other"))
        .with_entitlement(other.clone())
        .with_entitlement_page(
            "group:g",
            "",
            Page::last(vec![member.clone(), entitlement(&app("a"), "access")]),
        )
        .with_grant(expandable(&other, &id("group", "g"), &narrowed))
        .with_grant(expandable(&member, &id("group", "other"), &emptied))
        .with_grant(grant(&member, &id("planet", "mars")));
    let bench = Bench::new();
    let request = SyncRequest {
        resource_type_ids: vec!["user".to_owned(), "group".to_owned()],
        ..SyncRequest::default()
    };
    let report = bench.sync(&connector, &request).await.unwrap();
    assert_eq!(report.entitlements.get("app"), None);
    let reader = bench.open();
    let quality = &token(&reader)["ingest_quality"];
    assert_eq!(quality["entitlements_dropped"], 1);
    assert_eq!(quality["grants_dropped"], 1);
    assert_eq!(quality["expansion_resource_types_dropped"], 2);
    assert_eq!(quality["expansions_dropped"], 1);
    let run = reader.latest_sync().unwrap();
    let kept = reader
        .grant(&run.sync_id, "group:other:member:group:g")
        .unwrap()
        .unwrap();
    assert_eq!(kept.expansion.unwrap().resource_type_ids, ["user"]);
}

#[tokio::test]
async fn templates_are_multiplied_by_the_resources_of_their_type() {
    let mut template = v2::Entitlement {
        slug: "owner".to_owned(),
        description: "owns it".to_owned(),
        ..v2::Entitlement::default()
    };
    template.set_purpose(v2::entitlement::PurposeValue::Ownership);
    template
        .annotations
        .push(proto::pack(&v2::EntitlementExclusionGroup {
            exclusion_group_id: "tier".to_owned(),
            is_default: true,
            scope_to_resource: true,
            ..v2::EntitlementExclusionGroup::default()
        }));
    let mut connector = three_types().with_template("group", template);
    for number in 0..300 {
        connector = connector.with_resource(group(&format!("g{number}")));
    }
    let bench = Bench::new();
    let report = bench
        .sync(&connector, &SyncRequest::default())
        .await
        .unwrap();
    assert_eq!(report.entitlements["group"], 300);
    let reader = bench.open();
    let run = reader.latest_sync().unwrap();
    let made = reader
        .entitlement(&run.sync_id, "group:g7:owner")
        .unwrap()
        .unwrap();
    assert_eq!(made.display_name, "group g7");
    assert_eq!(made.description, "owns it");
    let group: v2::EntitlementExclusionGroup = proto::find(&made.annotations).unwrap();
    assert_eq!(group.exclusion_group_id, "tier-g7");
}

#[tokio::test]
async fn types_that_are_listed_as_a_whole_are_asked_once() {
    use v2::resource_type::Trait;
    let connector = FakeConnector::new()
        .with_type(resource_type(
            "group",
            &[Trait::Group],
            vec![
                proto::pack(&v2::TypeScopedEntitlements::default()),
                proto::pack(&v2::TypeScopedGrants::default()),
            ],
        ))
        .with_resource(group("g1"))
        .with_resource(group("g2"))
        .with_entitlement_page(
            "group:group",
            "",
            Page::last(vec![
                entitlement(&group("g1"), "member"),
                entitlement(&group("g2"), "member"),
            ]),
        );
    let bench = Bench::new();
    let report = bench
        .sync(&connector, &SyncRequest::default())
        .await
        .unwrap();
    assert_eq!(report.entitlements["group"], 2);
    assert_eq!(
        listed(&connector, "entitlements"),
        ["entitlements group:group"]
    );
    assert_eq!(listed(&connector, "grants"), ["grants group:group"]);
}

fn enqueue(tokens: &[&str]) -> proto::Any {
    proto::pack(&v2::EnqueuePageTokens {
        page_tokens: tokens.iter().map(|&token| token.to_owned()).collect(),
        ..v2::EnqueuePageTokens::default()
    })
}

#[tokio::test]
async fn enqueued_page_tokens_are_read_to_the_end() {
    let member = entitlement(&group("g"), "member");
    let page = |name: &str, next: Option<&str>, annotations| Page {
        items: vec![grant(&member, &id("user", name))],
        next: next.map(str::to_owned),
        annotations,
    };
    let connector = small_tenant()
        .with_grant_page("group:g", "", page("u1", None, vec![enqueue(&["x", "y"])]))
        .with_grant_page("group:g", "x", page("u2", Some("x2"), vec![]))
        .with_grant_page("group:g", "x2", page("u3", None, vec![enqueue(&["y"])]))
        .with_grant_page("group:g", "y", page("u4", None, vec![]));
    let bench = Bench::new();
    let report = bench
        .sync(&connector, &SyncRequest::default())
        .await
        .unwrap();
    assert_eq!(report.grants["group"], 4);
    assert_eq!(listed(&connector, "grants").len(), 5);
}

#[tokio::test]
async fn page_tokens_enqueued_against_the_rules_end_the_sync() {
    let member = entitlement(&group("g"), "member");
    let long = "t".repeat((1 << 20) + 1);
    let many: Vec<String> = (0..1025).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for annotations in [
        vec![enqueue(&["a"]), enqueue(&["b"])],
        vec![enqueue(&[""])],
        vec![enqueue(&["a", "a"])],
        vec![enqueue(&["next"])],
        vec![enqueue(&[&long])],
        vec![enqueue(&many)],
    ] {
        let page = Page {
            items: vec![grant(&member, &id("user", "u1"))],
            next: Some("next".to_owned()),
            annotations,
        };
        let connector = small_tenant().with_grant_page("group:g", "", page);
        assert!(matches!(
            fails(&connector, &SyncRequest::default()).await,
            Error::EnqueuedTokens { .. }
        ));
    }
}

#[tokio::test]
async fn a_page_of_grants_may_bring_its_resources() {
    let brought = v2::Resource {
        id: Some(id("app", "new")),
        display_name: "brought".to_owned(),
        ..v2::Resource::default()
    };
    let stub = v2::Resource {
        id: Some(id("app", "a")),
        ..v2::Resource::default()
    };
    let mut nameless = grant(&entitlement(&app(""), "x"), &id("user", "u1"));
    nameless.id = "nameless".to_owned();
    let connector = small_tenant().with_grant_page(
        "app:a",
        "",
        Page {
            items: vec![
                grant(&entitlement(&brought, "access"), &id("user", "u1")),
                grant(&entitlement(&stub, "access"), &id("user", "u1")),
                nameless,
            ],
            next: None,
            annotations: vec![proto::pack(&v2::InsertResourceGrants::default())],
        },
    );
    let bench = Bench::new();
    bench
        .sync(&connector, &SyncRequest::default())
        .await
        .unwrap();
    let reader = bench.open();
    let run = reader.latest_sync().unwrap();
    let new = reader.resource(&run.sync_id, &id("app", "new")).unwrap();
    assert_eq!(new.unwrap().display_name, "brought");
    let known = reader
        .resource(&run.sync_id, &id("app", "a"))
        .unwrap()
        .unwrap();
    assert_eq!(known.display_name, "app a", "a stub replaces nothing");
    let stamped = reader
        .grant(&run.sync_id, "app:new:access:user:u1")
        .unwrap()
        .unwrap();
    assert!(proto::has::<v2::InsertResourceGrants>(
        &stamped.grant.annotations
    ));
    assert_eq!(
        token(&reader)["ingest_quality"]["grant_resources_dropped"],
        1
    );
}

#[tokio::test]
async fn grants_matched_from_outside_are_kept_and_flagged() {
    let access = entitlement(&app("a"), "access");
    let mut matched = grant(&access, &id("elsewhere", "x"));
    matched
        .annotations
        .push(proto::pack(&v2::ExternalResourceMatchId {
            id: "x".to_owned(),
        }));
    let bench = Bench::new();
    let report = bench
        .sync(&small_tenant().with_grant(matched), &SyncRequest::default())
        .await
        .unwrap();
    assert_eq!(report.grants["app"], 4);
    assert_eq!(token(&bench.open())["has_external_resource_grants"], true);
}

#[tokio::test]
async fn a_second_grant_for_the_same_pair_is_left_out_and_counted() {
    let access = entitlement(&app("a"), "access");
    let mut second = grant(&access, &id("user", "u2"));
    second.id = "another id".to_owned();
    let mut taken = grant(&access, &id("user", "u3"));
    taken.id = "app:a:access:user:u2".to_owned();
    let mut incomplete = grant(&access, &id("user", "u4"));
    incomplete.principal = None;
    let request = SyncRequest {
        skip_expand_grants: true,
        ..SyncRequest::default()
    };
    let connector = small_tenant()
        .with_grant(grant(&access, &id("user", "u2")))
        .with_grant(second)
        .with_grant(taken)
        .with_grant(incomplete);
    let bench = Bench::new();
    let report = bench.sync(&connector, &request).await.unwrap();
    assert_eq!(report.grants["app"], 3);
    assert_eq!(report.warnings.len(), 3, "{:?}", report.warnings);
    assert!(!all_grants(&bench.open()).contains_key("another id"));
}

#[tokio::test]
async fn a_targeted_sync_reads_its_targets_only() {
    let bench = Bench::new();
    let other = app("b");
    let connector = small_tenant().with_resource(other.clone()).with_grant_page(
        "group:g",
        "",
        Page::last(vec![
            grant(&entitlement(&group("g"), "member"), &id("user", "u1")),
            grant(&entitlement(&other, "access"), &id("group", "g")),
            grant(&entitlement(&app("gone"), "access"), &id("group", "g")),
        ]),
    );
    let target = |name: &str| resource("group", name, vec![]);
    let request = SyncRequest {
        targeted: vec![target("g"), target("g"), target("deleted"), user("u1")],
        resource_type_ids: vec!["group".to_owned(), "app".to_owned()],
        ..SyncRequest::default()
    };
    let report = bench.sync(&connector, &request).await.unwrap();
    assert_eq!(report.sync_type, "partial");
    assert_eq!(report.expanded_grants, 0);
    assert_eq!(report.resources["group"], 1);
    assert_eq!(
        report.resources["app"], 1,
        "the owner of a grant is fetched"
    );
    assert_eq!(report.grants["app"], 2);
    assert_eq!(
        report.warnings,
        ["targeted resource group:deleted does not exist (any more) and was left out"]
    );
    assert_eq!(listed(&connector, "resources"), Vec::<String>::new());
    assert_eq!(listed(&connector, "static"), Vec::<String>::new());
    assert_eq!(listed(&connector, "entitlements"), ["entitlements group:g"]);
    assert_eq!(listed(&connector, "grants"), ["grants group:g"]);
    assert_eq!(
        listed(&connector, "get"),
        [
            "get app:b",
            "get app:gone",
            "get group:deleted",
            "get group:g"
        ]
    );
    let reader = bench.open();
    assert!(!reader.latest_sync().unwrap().supports_diff);
    assert_eq!(token(&reader)["should_fetch_related_resources"], true);
}

#[tokio::test]
async fn exclusion_groups_that_break_the_rules_are_a_verdict_on_the_data() {
    let member_of = |owner: &v2::Resource, slug: &str, is_default: bool| {
        let mut made = entitlement(owner, slug);
        made.annotations
            .push(proto::pack(&v2::EntitlementExclusionGroup {
                exclusion_group_id: "tier".to_owned(),
                is_default,
                ..v2::EntitlementExclusionGroup::default()
            }));
        made
    };
    let many = (0..51)
        .map(|number| member_of(&app("a"), &format!("e{number}"), false))
        .collect();
    let mut double = member_of(&app("a"), "x", false);
    double.annotations.extend(double.annotations.clone());
    for entitlements in [
        vec![
            member_of(&app("a"), "x", true),
            member_of(&app("a"), "y", true),
        ],
        vec![
            member_of(&app("a"), "x", false),
            member_of(&group("g"), "y", false),
        ],
        vec![double],
        many,
    ] {
        let connector = small_tenant().with_entitlement_page("app:a", "", Page::last(entitlements));
        let error = fails(&connector, &SyncRequest::default()).await;
        assert!(error.is_data_verdict(), "{error}");
        assert_eq!(error.class(), Class::Permanent);
    }
    let fine = small_tenant().with_entitlement_page(
        "app:a",
        "",
        Page::last(vec![
            member_of(&app("a"), "x", true),
            member_of(&app("a"), "y", false),
        ]),
    );
    Bench::new()
        .sync(&fine, &SyncRequest::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn one_worker_does_the_same_as_many() {
    let (one, many) = (Bench::new(), Bench::new());
    let request = |workers| SyncRequest {
        workers,
        ..SyncRequest::default()
    };
    one.sync(&small_tenant(), &request(1)).await.unwrap();
    many.sync(&small_tenant(), &request(16)).await.unwrap();
    assert_eq!(all_grants(&one.open()), all_grants(&many.open()));
}

#[derive(Debug, Default)]
struct Recorder(std::sync::Mutex<Vec<String>>);

impl Progress for Recorder {
    fn phase(&self, name: &'static str) {
        self.0.lock().unwrap().push(name.to_owned());
    }

    fn advance(&self, resource_type_id: &str, done: u64, total: u64) {
        self.0
            .lock()
            .unwrap()
            .push(format!("{resource_type_id} {done}/{total}"));
    }
}

#[tokio::test]
async fn progress_tells_phases_and_counts() {
    let bench = Bench::new();
    let recorder = Recorder::default();
    let environment = Environment {
        work_dir: bench.folder.path(),
        clock: &bench.clock,
        progress: &recorder,
        cancel: &bench.cancel,
        keep: false,
    };
    let request = SyncRequest {
        workers: 1,
        ..SyncRequest::default()
    };
    sync_to_file(&small_tenant(), &request, environment, &bench.target())
        .await
        .unwrap();
    let said = recorder.0.lock().unwrap().clone();
    let phases: Vec<_> = said.iter().filter(|line| !line.contains('/')).collect();
    assert_eq!(
        phases,
        [
            "resource types",
            "resources",
            "static entitlements",
            "entitlements",
            "grants",
            "expansion",
            "seal"
        ]
    );
    assert!(said.contains(&"user 2/0".to_owned()), "{said:?}");
    assert!(said.contains(&"group 1/1".to_owned()), "{said:?}");
}

mod expansion;
mod load;
mod resume;
