//! What is taken of a page: incomplete rows and, in a full sync, rows of types that are not synced are left out.
//!
//! The service discards rows whose resource type was never synced, so storing them would only look like data.

use std::collections::BTreeMap;

use super::{Error, token::Quality};
use crate::{
    model,
    proto::{self, Any, connector as v2},
};

/// The resource types of one sync.
#[derive(Debug, Default)]
pub(super) struct Types {
    /// In the connector's order.
    pub(super) order: Vec<String>,
    by_id: BTreeMap<String, v2::ResourceType>,
}

impl Types {
    pub(super) fn new(types: Vec<v2::ResourceType>) -> Self {
        Self {
            order: types.iter().map(|each| each.id.clone()).collect(),
            by_id: types
                .into_iter()
                .map(|each| (each.id.clone(), each))
                .collect(),
        }
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    pub(super) fn get(&self, id: &str) -> Option<&v2::ResourceType> {
        self.by_id.get(id)
    }

    pub(super) fn annotations(&self, id: &str) -> &[Any] {
        self.by_id
            .get(id)
            .map_or(&[], |each| each.annotations.as_slice())
    }
}

/// Whether a grant stands for principals that are matched from outside.
pub(super) fn is_external_match(grant: &v2::Grant) -> bool {
    grant.annotations.iter().any(|any| {
        proto::is::<v2::ExternalResourceMatch>(any)
            || proto::is::<v2::ExternalResourceMatchAll>(any)
            || proto::is::<v2::ExternalResourceMatchId>(any)
    })
}

/// The complete id of a resource.
pub(super) fn complete_id(resource: Option<&v2::Resource>) -> Option<&v2::ResourceId> {
    resource?.id.as_ref().filter(|id| model::is_complete(id))
}

fn refuse_reserved(resource: &v2::Resource) -> Result<(), Error> {
    if proto::has::<v2::BatonId>(&resource.annotations) {
        return Err(Error::ReservedAnnotation {
            resource: resource
                .id
                .as_ref()
                .map(model::resource_text)
                .unwrap_or_default(),
        });
    }
    Ok(())
}

/// Drops resources without complete id, refuses reserved ones.
pub(super) fn resources(
    resources: Vec<v2::Resource>,
    quality: &mut Quality,
) -> Result<Vec<v2::Resource>, Error> {
    let mut kept = Vec::with_capacity(resources.len());
    for resource in resources {
        if complete_id(Some(&resource)).is_none() {
            quality.invalid_resources += 1;
            continue;
        }
        refuse_reserved(&resource)?;
        kept.push(resource);
    }
    Ok(kept)
}

/// Refuses a resource that lacks a trait which its type promises.
pub(super) fn check_traits(
    resource: &v2::Resource,
    resource_type: &v2::ResourceType,
) -> Result<(), Error> {
    use v2::resource_type::Trait;
    for expected in resource_type.traits() {
        let annotations = &resource.annotations;
        let (name, is_present) = match expected {
            Trait::User => ("UserTrait", proto::has::<v2::UserTrait>(annotations)),
            Trait::Group => ("GroupTrait", proto::has::<v2::GroupTrait>(annotations)),
            Trait::Role => ("RoleTrait", proto::has::<v2::RoleTrait>(annotations)),
            Trait::App => ("AppTrait", proto::has::<v2::AppTrait>(annotations)),
            Trait::Secret => ("SecretTrait", proto::has::<v2::SecretTrait>(annotations)),
            _ => continue,
        };
        if !is_present {
            return Err(Error::MissingTrait {
                name,
                resource: resource
                    .id
                    .as_ref()
                    .map(model::resource_text)
                    .unwrap_or_default(),
            });
        }
    }
    Ok(())
}

/// What is kept of a page of entitlements. `types` is given in full syncs only.
pub(super) fn entitlements(
    entitlements: Vec<v2::Entitlement>,
    types: Option<&Types>,
    quality: &mut Quality,
) -> Result<Vec<v2::Entitlement>, Error> {
    let mut kept = Vec::with_capacity(entitlements.len());
    for entitlement in entitlements {
        let Some(id) = complete_id(entitlement.resource.as_ref()) else {
            quality.invalid_entitlements += 1;
            continue;
        };
        if types.is_some_and(|types| !types.contains(&id.resource_type)) {
            quality.entitlements_dropped += 1;
            continue;
        }
        if entitlement.id.is_empty() {
            quality.invalid_entitlements += 1;
            continue;
        }
        if let Some(resource) = &entitlement.resource {
            refuse_reserved(resource)?;
        }
        kept.push(entitlement);
    }
    Ok(kept)
}

/// What is kept of a page of grants.
#[derive(Debug, Default)]
pub(super) struct GrantPage {
    pub(super) grants: Vec<v2::Grant>,
    /// Resources that the page itself brings.
    pub(super) resources: Vec<v2::Resource>,
    pub(super) has_external_matches: bool,
}

/// Sorts a page of grants. `types` is given in full syncs only.
pub(super) fn grants(
    grants: Vec<v2::Grant>,
    response: &[Any],
    types: Option<&Types>,
    quality: &mut Quality,
) -> Result<GrantPage, Error> {
    let inserts = proto::has::<v2::InsertResourceGrants>(response);
    let is_synced = |id: &str| types.is_none_or(|types| types.contains(id));
    let mut page = GrantPage::default();
    for mut grant in grants {
        let resource = grant
            .entitlement
            .as_ref()
            .and_then(|entitlement| entitlement.resource.as_ref());
        if inserts {
            let Some(resource) = resource else {
                quality.grant_resources_dropped += 1;
                continue;
            };
            let Some(id) = complete_id(Some(resource)) else {
                quality.grant_resources_dropped += 1;
                continue;
            };
            refuse_reserved(resource)?;
            if is_synced(&id.resource_type) {
                if page.resources.last() != Some(resource) {
                    page.resources.push(resource.clone());
                }
            } else {
                quality.grant_resources_dropped += 1;
            }
            if !proto::has::<v2::InsertResourceGrants>(&grant.annotations) {
                grant
                    .annotations
                    .push(proto::pack(&v2::InsertResourceGrants::default()));
            }
        }
        let is_match = is_external_match(&grant);
        let resource_type = grant
            .entitlement
            .as_ref()
            .and_then(|entitlement| complete_id(entitlement.resource.as_ref()))
            .map(|id| id.resource_type.as_str());
        let principal_type = complete_id(grant.principal.as_ref()).map(|id| &id.resource_type);
        if resource_type.is_some_and(|id| !is_synced(id))
            || (!is_match && principal_type.is_some_and(|id| !is_synced(id)))
        {
            quality.grants_dropped += 1;
            continue;
        }
        if let Some(types) = types
            && !is_match
        {
            narrow_expansion(&mut grant, types, quality);
        }
        page.has_external_matches |= is_match;
        page.grants.push(grant);
    }
    Ok(page)
}

/// Takes types that are not synced out of the type filter of an expandable grant.
fn narrow_expansion(grant: &mut v2::Grant, types: &Types, quality: &mut Quality) {
    let Some(mut expansion) = proto::find::<v2::GrantExpandable>(&grant.annotations) else {
        return;
    };
    let before = expansion.resource_type_ids.len();
    expansion.resource_type_ids.retain(|id| types.contains(id));
    let dropped = before - expansion.resource_type_ids.len();
    if dropped == 0 {
        return;
    }
    quality.expansion_types_dropped += dropped as u64;
    if expansion.resource_type_ids.is_empty() {
        quality.expansions_dropped += 1;
        grant
            .annotations
            .retain(|any| !proto::is::<v2::GrantExpandable>(any));
    } else if let Some(any) = grant
        .annotations
        .iter_mut()
        .find(|any| proto::is::<v2::GrantExpandable>(any))
    {
        *any = proto::pack(&expansion);
    }
}
