//! The connector to JumpCloud before a directory that answers anything, and page tokens that are not its own.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, OnceLock},
};

use tempfile::TempDir;
use tokio::time::timeout;

use super::{
    MAX_ERROR, parts,
    stub::{LISTS, PATIENCE, Pages, Stub},
};
use crate::{
    connector::{Connector, Error, SyncScope, jumpcloud::JumpCloud},
    model,
    proto::connector as v2,
    supervisor::lock,
};

/// Pages of one listing.
const MAX_PAGES: usize = 1000;
/// Resources whose entitlements and grants are read.
const LOOKED_AT: usize = 4;
const TYPES: [&str; 4] = ["user", "group", "role", "app"];

struct Lab {
    stub: Stub,
    work: TempDir,
}

fn lab() -> &'static Mutex<Lab> {
    static LAB: OnceLock<Mutex<Lab>> = OnceLock::new();
    LAB.get_or_init(|| {
        Mutex::new(Lab {
            stub: Stub::start(),
            work: tempfile::tempdir().expect("a folder"),
        })
    })
}

/// What each list of the directory answers: lists are apart by a NUL, in the order of [`LISTS`], and their pages by a 1.
/// A page may say its status and headers, see the stub. An `M` before all merges administrators.
pub fn jumpcloud_sync(data: &[u8]) {
    let lab = lock(lab());
    let (merge, data) = match data.strip_prefix(b"M") {
        Some(rest) => (true, rest),
        None => (false, data),
    };
    lab.stub.tell(told(data), true);
    let connector = lab.stub.connector(lab.work.path(), merge);
    let synced = lab
        .stub
        .runtime
        .block_on(async { timeout(PATIENCE, sync(&connector)).await });
    match synced {
        Ok(Err(error)) => check_error(&error),
        Ok(Ok(())) => {}
        Err(_elapsed) => panics("a sync that does not end"),
    }
    lab.stub.check();
    let left = std::fs::read_dir(lab.work.path()).expect("the folder is still there");
    assert_eq!(left.count(), 0, "a file is left behind");
}

pub(super) fn told(data: &[u8]) -> HashMap<&'static str, Pages> {
    LISTS
        .into_iter()
        .zip(parts(data, 0, LISTS.len()))
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| (name, parts(list, 1, 8).map(<[u8]>::to_vec).collect()))
        .collect()
}

fn check_error(error: &Error) {
    let text = format!("{error} {error:?}");
    assert!(text.len() <= MAX_ERROR, "an error of {} bytes", text.len());
    assert!(!text.contains("SECRETSEED-fuzz"), "{text}");
}

fn scope(sync_id: &str) -> SyncScope {
    SyncScope {
        sync_id: sync_id.to_owned(),
        resource_type_ids: Vec::new(),
        folder: None,
    }
}

/// Reads what a sync reads.
async fn sync(connector: &JumpCloud) -> Result<(), Error> {
    let scope = scope("fuzz");
    let read = async {
        for kind in TYPES {
            let resources = resources(connector, &scope, kind).await?;
            let step = (resources.len() / LOOKED_AT).max(1);
            for resource in resources.iter().step_by(step).take(LOOKED_AT) {
                entitlements_and_grants(connector, &scope, resource).await?;
            }
        }
        Ok(())
    };
    let read = read.await;
    for warning in connector.take_warnings(&scope.sync_id) {
        assert!(
            warning.len() <= MAX_ERROR && !warning.contains('\n'),
            "{warning}"
        );
    }
    connector.cleanup(&scope.sync_id).await;
    read
}

async fn resources(
    connector: &JumpCloud,
    scope: &SyncScope,
    kind: &str,
) -> Result<Vec<v2::Resource>, Error> {
    let mut all = Vec::new();
    let mut seen = HashSet::new();
    let mut token = None;
    for _page in 0..MAX_PAGES {
        let page = connector
            .list_resources(scope, kind, None, token.as_deref())
            .await?;
        for resource in page.items {
            let id = resource.id.as_ref().expect("a resource has an id");
            assert_eq!(id.resource_type, kind);
            assert!((1..=256).contains(&id.resource.len()), "{id:?}");
            assert!(
                seen.insert(model::resource_text(id)),
                "{id:?} is there twice"
            );
            all.push(resource);
        }
        token = page.next;
        if token.is_none() {
            return Ok(all);
        }
    }
    panics("a listing does not end")
}

async fn entitlements_and_grants(
    connector: &JumpCloud,
    scope: &SyncScope,
    resource: &v2::Resource,
) -> Result<(), Error> {
    for entitlement in connector
        .list_entitlements(scope, resource, None)
        .await?
        .items
    {
        assert_eq!(
            entitlement.resource.and_then(|resource| resource.id),
            resource.id
        );
    }
    let mut seen = HashSet::new();
    let mut token = None;
    for _page in 0..MAX_PAGES {
        let page = connector
            .list_grants(scope, resource, token.as_deref())
            .await?;
        for grant in page.items {
            assert!(
                grant
                    .principal
                    .is_some_and(|principal| principal.id.is_some())
            );
            assert!(grant.id.len() <= 1024, "{}", grant.id);
            assert!(seen.insert(grant.id.clone()), "{} is there twice", grant.id);
        }
        token = page.next;
        if token.is_none() {
            return Ok(());
        }
    }
    panics("grants do not end")
}

#[expect(clippy::panic, reason = "a target says what is wrong by panicking")]
fn panics<T>(why: &str) -> T {
    panic!("{why}")
}

/// The first byte says what is listed and of which type; then the id of a resource, a line end, and the token.
pub fn page_token(data: &[u8]) {
    let Some((what, rest)) = data.split_first() else {
        return;
    };
    let lab = lock(lab());
    lab.stub.tell(told(TENANT.as_bytes()), true);
    let connector = lab.stub.connector(lab.work.path(), what & 0x40 != 0);
    let mut texts = super::secrets::lines(rest, 2);
    let (id, token) = (
        texts.next().unwrap_or_default(),
        texts.next().unwrap_or_default(),
    );
    let kind = TYPES
        .get(usize::from(what & 3))
        .copied()
        .unwrap_or_default();
    let scope = scope("fuzz");
    let resource = v2::Resource {
        id: Some(model::resource_id(kind, &id)),
        ..v2::Resource::default()
    };
    let asked = async {
        if what & 4 == 0 {
            // As in a sync, whose first page came before.
            connector.list_resources(&scope, kind, None, None).await?;
            let page = connector
                .list_resources(&scope, kind, None, Some(&token))
                .await?;
            assert!(
                page.next.as_deref() != Some(&*token),
                "a page follows itself"
            );
        } else {
            connector
                .get_resource(&scope, &model::resource_id(kind, &id))
                .await?;
            connector
                .list_entitlements(&scope, &resource, Some(&token))
                .await?;
            let page = connector
                .list_grants(&scope, &resource, Some(&token))
                .await?;
            assert!(
                page.next.as_deref() != Some(&*token),
                "a page follows itself"
            );
        }
        Ok(())
    };
    let answer = lab
        .stub
        .runtime
        .block_on(async { timeout(PATIENCE, asked).await });
    match answer {
        Ok(Ok(())) => {}
        Ok(Err(error)) => check_error(&error),
        Err(_elapsed) => panics("a page that does not come"),
    }
    lab.stub.check();
}

/// A small organisation in the form of [`jumpcloud_sync`].
pub(super) const TENANT: &str = concat!(
    r#"{"totalCount":2,"results":[{"_id":"64ab00000000000000000001","username":"avery","email":"avery@example.com","state":"ACTIVATED","activated":true},{"_id":"64ab00000000000000000002","username":"blake","email":"blake@example.com","manager":"64ab00000000000000000001","admin":{"id":"64ad00000000000000000002","roleNames":["Manager"]}}]}"#,
    "\0",
    r#"{"totalCount":1,"results":[{"_id":"64ad00000000000000000002","email":"blake@example.com","roleName":"Manager","roleNames":["Manager"]}]}"#,
    "\0",
    r#"[{"id":"64ac00000000000000000001","name":"Engineering","type":"user_group","membershipMethod":"STATIC"}]"#,
    "\0",
    r#"{"totalCount":1,"results":[{"id":"64af00000000000000000001","name":"Manager","scopes":["users"]}]}"#,
    "\0",
    r#"{"totalCount":1,"results":[{"_id":"64ae00000000000000000001","name":"bookmark","displayLabel":"Wiki","active":true}]}"#,
    "\0",
    r#"[{"to":{"id":"64ab00000000000000000001","type":"user"}}]"#,
    "\0",
    r#"[{"to":{"id":"64ac00000000000000000001","type":"user_group"}}]"#,
    "\0",
    r#"[{"to":{"id":"64ab00000000000000000002","type":"user"}}]"#,
    "\0",
    r#"{"_id":"64ab00000000000000000001","id":"64ac00000000000000000001","username":"avery","email":"avery@example.com","name":"Engineering","state":"ACTIVATED","activated":true,"roleName":"Manager"}"#,
    "\0",
    r#"{"totalCount":0,"results":[]}"#,
);
