use std::path::PathBuf;

use jiff::Timestamp;
use tempfile::TempDir;

use super::{
    fake::{FakeConnector, entitlement, expandable, grant, id, resource, resource_type},
    *,
};
use crate::{c1z::Reader, clock::ManualClock, proto};

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
    assert_eq!(connector.cleanups(), [report.sync_id.clone()]);
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
