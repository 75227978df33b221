//! A connector that is filled by hand: the state behind the tests of the engine and of the file.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::{
    connector::{Connector, Error, Page, SyncScope, Validation},
    model,
    proto::{self, Any, connector as v2},
};

/// Pages by the token that asks for them; the token of the first page is empty.
type Listings<T> = BTreeMap<String, BTreeMap<String, Page<T>>>;

#[derive(Debug, Default)]
struct Inner {
    types: Vec<v2::ResourceType>,
    resources: Listings<v2::Resource>,
    templates: Listings<v2::Entitlement>,
    entitlements: Listings<v2::Entitlement>,
    grants: Listings<v2::Grant>,
    by_id: BTreeMap<String, v2::Resource>,
    failures: BTreeMap<String, VecDeque<Error>>,
    notes: Vec<String>,
    warnings: Vec<String>,
    calls: Vec<String>,
    cleanups: Vec<String>,
    stop: Option<(usize, CancellationToken)>,
}

/// A directory held in memory, whose answers and failures are set by the test.
///
/// Calls are recorded as `<operation> <key> <page token>`; the operations are `resources`, `get`, `static`,
/// `entitlements`, `grants` and `validate`. The key of a listing is the type, `<type>:<id>`, or for children
/// `<type> under <parent type>:<parent id>`.
#[derive(Debug, Default)]
pub struct FakeConnector(Mutex<Inner>);

impl FakeConnector {
    /// An empty directory.
    pub fn new() -> Self {
        Self::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a resource type.
    #[must_use]
    pub fn with_type(self, resource_type: v2::ResourceType) -> Self {
        self.inner().types.push(resource_type);
        self
    }

    /// Adds a resource to the end of the first page of its listing (top level, or that of its parent).
    #[must_use]
    pub fn with_resource(self, resource: v2::Resource) -> Self {
        let key = {
            let type_id = resource
                .id
                .as_ref()
                .map_or("", |id| id.resource_type.as_str());
            resource_key(type_id, resource.parent_resource_id.as_ref())
        };
        {
            let mut inner = self.inner();
            if let Some(id) = &resource.id {
                inner
                    .by_id
                    .insert(model::resource_text(id), resource.clone());
            }
            first(&mut inner.resources, key).items.push(resource);
        }
        self
    }

    /// Adds a static entitlement of a type.
    #[must_use]
    pub fn with_template(self, type_id: &str, template: v2::Entitlement) -> Self {
        first(&mut self.inner().templates, type_id.to_owned())
            .items
            .push(template);
        self
    }

    /// Adds an entitlement to the first page of its resource's listing.
    #[must_use]
    pub fn with_entitlement(self, entitlement: v2::Entitlement) -> Self {
        let key = key_of(entitlement.resource.as_ref());
        first(&mut self.inner().entitlements, key)
            .items
            .push(entitlement);
        self
    }

    /// Adds a grant to the first page of the listing of its entitlement's resource.
    #[must_use]
    pub fn with_grant(self, grant: v2::Grant) -> Self {
        let key = key_of(
            grant
                .entitlement
                .as_ref()
                .and_then(|entitlement| entitlement.resource.as_ref()),
        );
        first(&mut self.inner().grants, key).items.push(grant);
        self
    }

    /// Sets a page of resources.
    #[must_use]
    pub fn with_resource_page(self, key: &str, token: &str, page: Page<v2::Resource>) -> Self {
        set(&mut self.inner().resources, key, token, page);
        self
    }

    /// Sets a page of entitlements.
    #[must_use]
    pub fn with_entitlement_page(
        self,
        key: &str,
        token: &str,
        page: Page<v2::Entitlement>,
    ) -> Self {
        set(&mut self.inner().entitlements, key, token, page);
        self
    }

    /// Sets a page of grants.
    #[must_use]
    pub fn with_grant_page(self, key: &str, token: &str, page: Page<v2::Grant>) -> Self {
        set(&mut self.inner().grants, key, token, page);
        self
    }

    /// Lets the next call of an operation with this key fail; failures of one key queue up.
    #[must_use]
    pub fn with_failure(self, operation: &str, key: &str, error: Error) -> Self {
        self.inner()
            .failures
            .entry(format!("{operation} {key}"))
            .or_default()
            .push_back(error);
        self
    }

    /// Cancels when this many calls have arrived; the last of them gets no answer.
    #[must_use]
    pub fn with_stop(self, after: usize, cancel: CancellationToken) -> Self {
        self.inner().stop = Some((after, cancel));
        self
    }

    /// Adds a line to what the start-up check says.
    #[must_use]
    pub fn with_note(self, note: &str) -> Self {
        self.inner().notes.push(note.to_owned());
        self
    }

    /// Adds a warning gathered during the sync.
    #[must_use]
    pub fn with_warning(self, warning: &str) -> Self {
        self.inner().warnings.push(warning.to_owned());
        self
    }

    /// All calls so far, in the order of their arrival.
    pub fn calls(&self) -> Vec<String> {
        self.inner().calls.clone()
    }

    /// The sync ids that were cleaned up.
    pub fn cleanups(&self) -> Vec<String> {
        self.inner().cleanups.clone()
    }

    fn record(&self, operation: &str, key: &str, token: &str) -> Result<(), Error> {
        let mut inner = self.inner();
        inner
            .calls
            .push(format!("{operation} {key} {token}").trim_end().to_owned());
        if let Some((after, cancel)) = &inner.stop
            && inner.calls.len() >= *after
        {
            cancel.cancel();
            return Err(Error::Cancelled);
        }
        match inner
            .failures
            .get_mut(&format!("{operation} {key}"))
            .and_then(VecDeque::pop_front)
        {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

fn first<T>(listings: &mut Listings<T>, key: String) -> &mut Page<T> {
    listings
        .entry(key)
        .or_default()
        .entry(String::new())
        .or_default()
}

fn set<T>(listings: &mut Listings<T>, key: &str, token: &str, page: Page<T>) {
    listings
        .entry(key.to_owned())
        .or_default()
        .insert(token.to_owned(), page);
}

fn page<T: Clone>(listings: &Listings<T>, key: &str, token: &str) -> Result<Page<T>, Error> {
    match listings.get(key).and_then(|pages| pages.get(token)) {
        Some(page) => Ok(page.clone()),
        None if token.is_empty() => Ok(Page::default()),
        None => Err(Error::Invalid {
            what: format!("page token {token} of {key} is unknown"),
        }),
    }
}

fn key_of(resource: Option<&v2::Resource>) -> String {
    resource
        .and_then(|resource| resource.id.as_ref())
        .map(model::resource_text)
        .unwrap_or_default()
}

fn resource_key(type_id: &str, parent: Option<&v2::ResourceId>) -> String {
    match parent {
        Some(parent) => format!("{type_id} under {}", model::resource_text(parent)),
        None => type_id.to_owned(),
    }
}

#[async_trait]
impl Connector for FakeConnector {
    fn metadata(&self) -> v2::ConnectorMetadata {
        v2::ConnectorMetadata {
            display_name: "Fake".to_owned(),
            ..v2::ConnectorMetadata::default()
        }
    }

    fn fingerprint(&self, _salt: &str) -> String {
        "fake".to_owned()
    }

    async fn validate(&self) -> Result<Validation, Error> {
        self.record("validate", "", "")?;
        Ok(Validation {
            warnings: self.inner().notes.clone(),
            unreadable: Vec::new(),
        })
    }

    fn resource_types(&self) -> Vec<v2::ResourceType> {
        self.inner().types.clone()
    }

    async fn list_resources(
        &self,
        _scope: &SyncScope,
        resource_type_id: &str,
        parent: Option<&v2::ResourceId>,
        token: Option<&str>,
    ) -> Result<Page<v2::Resource>, Error> {
        let key = resource_key(resource_type_id, parent);
        let token = token.unwrap_or_default();
        self.record("resources", &key, token)?;
        page(&self.inner().resources, &key, token)
    }

    async fn get_resource(
        &self,
        _scope: &SyncScope,
        id: &v2::ResourceId,
    ) -> Result<v2::Resource, Error> {
        let key = model::resource_text(id);
        self.record("get", &key, "")?;
        self.inner()
            .by_id
            .get(&key)
            .cloned()
            .ok_or(Error::NotFound { what: key })
    }

    async fn list_static_entitlements(
        &self,
        _scope: &SyncScope,
        resource_type_id: &str,
        token: Option<&str>,
    ) -> Result<Page<v2::Entitlement>, Error> {
        let token = token.unwrap_or_default();
        self.record("static", resource_type_id, token)?;
        page(&self.inner().templates, resource_type_id, token)
    }

    async fn list_entitlements(
        &self,
        _scope: &SyncScope,
        resource: &v2::Resource,
        token: Option<&str>,
    ) -> Result<Page<v2::Entitlement>, Error> {
        let key = key_of(Some(resource));
        let token = token.unwrap_or_default();
        self.record("entitlements", &key, token)?;
        page(&self.inner().entitlements, &key, token)
    }

    async fn list_grants(
        &self,
        _scope: &SyncScope,
        resource: &v2::Resource,
        token: Option<&str>,
    ) -> Result<Page<v2::Grant>, Error> {
        let key = key_of(Some(resource));
        let token = token.unwrap_or_default();
        self.record("grants", &key, token)?;
        page(&self.inner().grants, &key, token)
    }

    fn take_warnings(&self, _sync_id: &str) -> Vec<String> {
        std::mem::take(&mut self.inner().warnings)
    }

    async fn cleanup(&self, sync_id: &str) {
        self.inner().cleanups.push(sync_id.to_owned());
    }
}

/// A resource type with traits and annotations.
pub fn resource_type(
    id: &str,
    traits: &[v2::resource_type::Trait],
    annotations: Vec<Any>,
) -> v2::ResourceType {
    v2::ResourceType {
        id: id.to_owned(),
        display_name: id.to_owned(),
        traits: traits.iter().map(|&each| each.into()).collect(),
        annotations,
        ..v2::ResourceType::default()
    }
}

/// The id of a resource.
pub fn id(type_id: &str, resource: &str) -> v2::ResourceId {
    v2::ResourceId {
        resource_type: type_id.to_owned(),
        resource: resource.to_owned(),
        ..v2::ResourceId::default()
    }
}

/// A resource with annotations.
pub fn resource(type_id: &str, name: &str, annotations: Vec<Any>) -> v2::Resource {
    v2::Resource {
        id: Some(id(type_id, name)),
        display_name: format!("{type_id} {name}"),
        annotations,
        ..v2::Resource::default()
    }
}

/// An entitlement with the conventional id.
pub fn entitlement(owner: &v2::Resource, slug: &str) -> v2::Entitlement {
    v2::Entitlement {
        id: owner
            .id
            .as_ref()
            .map(|id| model::entitlement_id(id, slug))
            .unwrap_or_default(),
        resource: Some(owner.clone()),
        display_name: slug.to_owned(),
        slug: slug.to_owned(),
        ..v2::Entitlement::default()
    }
}

/// A grant with the conventional id.
pub fn grant(entitlement: &v2::Entitlement, principal: &v2::ResourceId) -> v2::Grant {
    v2::Grant {
        id: model::grant_id(&entitlement.id, principal),
        entitlement: Some(entitlement.clone()),
        principal: Some(v2::Resource {
            id: Some(principal.clone()),
            ..v2::Resource::default()
        }),
        ..v2::Grant::default()
    }
}

/// A grant that passes on what its principal's entitlements give.
pub fn expandable(
    entitlement: &v2::Entitlement,
    principal: &v2::ResourceId,
    expansion: &v2::GrantExpandable,
) -> v2::Grant {
    let mut grant = grant(entitlement, principal);
    grant.annotations.push(proto::pack(expansion));
    grant
}
