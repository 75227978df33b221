//! The rules of ingestion that are checked on the whole of the data before a sync ends.
//!
//! I5: an exclusion group has at most one default, one resource type, and 50 entitlements. I10 (every enqueued cursor
//! was read to its end) is counted by the engine while it runs.

use std::collections::HashMap;

use super::Error;
use crate::{
    c1z::{self, Store},
    proto::{self, connector as v2},
};

/// The generation of the rules, as the SDK numbers it.
pub(super) const GENERATION: &str = "1";
/// Who checked: a connector's own sync.
pub(super) const MODE: &str = "connector";

const PAGE: usize = 500;
const MOST_PER_GROUP: usize = 50;

#[derive(Default)]
struct Group {
    resource_type: String,
    default: Option<String>,
    members: usize,
}

/// Checks I5 on all stored entitlements; the inner error is the verdict.
pub(super) fn exclusion_groups(store: &Store) -> Result<Result<(), Error>, c1z::Error> {
    let mut groups: HashMap<String, Group> = HashMap::new();
    let mut after = 0;
    loop {
        let page = store.entitlements(after, PAGE)?;
        let Some(last) = page.last() else { break };
        after = last.row;
        for row in &page {
            if let Err(problem) = record(&mut groups, &row.message) {
                return Ok(Err(Error::Invariant {
                    rule: "I5",
                    problem,
                }));
            }
        }
    }
    Ok(Ok(()))
}

fn record(
    groups: &mut HashMap<String, Group>,
    entitlement: &v2::Entitlement,
) -> Result<(), String> {
    let annotations = &entitlement.annotations;
    let count = annotations
        .iter()
        .filter(|any| proto::is::<v2::EntitlementExclusionGroup>(any))
        .count();
    if count == 0 {
        return Ok(());
    }
    let id = &entitlement.id;
    if count > 1 {
        return Err(format!(
            "entitlement {id} carries {count} exclusion groups; it may carry one"
        ));
    }
    let Some(membership) = proto::find::<v2::EntitlementExclusionGroup>(annotations) else {
        return Err(format!(
            "the exclusion group of entitlement {id} cannot be read"
        ));
    };
    let name = &membership.exclusion_group_id;
    if name.is_empty() {
        return Ok(());
    }
    let resource_type = entitlement
        .resource
        .as_ref()
        .and_then(|resource| resource.id.as_ref())
        .map_or("", |id| id.resource_type.as_str());
    let group = groups.entry(name.clone()).or_default();
    if group.members == 0 {
        resource_type.clone_into(&mut group.resource_type);
    }
    group.members += 1;
    if group.resource_type != resource_type {
        return Err(format!(
            "exclusion group {name} is used by the resource types {} and {resource_type}; it must keep to one",
            group.resource_type
        ));
    }
    if group.members > MOST_PER_GROUP {
        return Err(format!(
            "exclusion group {name} has more than {MOST_PER_GROUP} entitlements"
        ));
    }
    if membership.is_default {
        if let Some(first) = &group.default {
            return Err(format!(
                "exclusion group {name} has two defaults, {first} and {id}; it may have one"
            ));
        }
        group.default = Some(id.clone());
    }
    Ok(())
}
