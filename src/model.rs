//! Identifiers that strings would blur: the sync id, and the texts that name resources, entitlements and grants.
//!
//! Owns how ids are *composed*. Nothing here (or anywhere else) takes an id apart by splitting it: parts may hold
//! colons, and nothing is escaped.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
};

use jiff::Timestamp;
use svix_ksuid::{Ksuid, KsuidLike};

use crate::proto::connector as v2;

/// The first second of KSUID time, 2014-05-13T16:53:20Z, as a Unix time.
const KSUID_EPOCH: i64 = 1_400_000_000;

/// The id of one sync: a KSUID, 27 characters of base62 that sort by the second of their making.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SyncId(String);

impl SyncId {
    /// A new id for a sync that begins at `now`.
    ///
    /// The 16 random bytes keep ids of the same second apart; they guard no secret.
    pub fn generate(now: Timestamp) -> Self {
        let seconds = now
            .as_second()
            .saturating_sub(KSUID_EPOCH)
            .clamp(0, i64::from(u32::MAX));
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        // The standard library seeds each of these from the operating system.
        let high = RandomState::new().hash_one(seconds).to_be_bytes();
        let low = RandomState::new().hash_one(high).to_be_bytes();
        let mut bytes = [0_u8; 20];
        for (to, from) in bytes
            .iter_mut()
            .zip(seconds.to_be_bytes().into_iter().chain(high).chain(low))
        {
            *to = from;
        }
        Self(Ksuid::from_bytes(bytes).to_base62())
    }

    /// The 27 characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SyncId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<SyncId> for String {
    fn from(id: SyncId) -> Self {
        id.0
    }
}

/// The id of a resource.
pub fn resource_id(resource_type: &str, id: &str) -> v2::ResourceId {
    v2::ResourceId {
        resource_type: resource_type.to_owned(),
        resource: id.to_owned(),
        baton_resource: false,
    }
}

/// The text that names a resource in a file: `<type>:<id>`.
pub fn resource_text(id: &v2::ResourceId) -> String {
    format!("{}:{}", id.resource_type, id.resource)
}

/// The conventional id of an entitlement: `<type>:<id>:<slug>`.
pub fn entitlement_id(resource: &v2::ResourceId, slug: &str) -> String {
    format!("{}:{}:{slug}", resource.resource_type, resource.resource)
}

/// The conventional id of a grant: `<entitlement id>:<principal type>:<principal id>`.
pub fn grant_id(entitlement_id: &str, principal: &v2::ResourceId) -> String {
    format!(
        "{entitlement_id}:{}:{}",
        principal.resource_type, principal.resource
    )
}

/// Whether an id names something: both its type and its id are present.
pub fn is_complete(id: &v2::ResourceId) -> bool {
    !id.resource_type.is_empty() && !id.resource.is_empty()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn sync_ids_sort_by_the_second_of_their_making() {
        let early = SyncId::generate(Timestamp::from_second(1_700_000_000).unwrap());
        let late = SyncId::generate(Timestamp::from_second(1_700_000_001).unwrap());
        assert!(early < late);
        assert_eq!(early.as_str().len(), 27);
        let parsed = Ksuid::from_base62(early.as_str()).unwrap();
        assert_eq!(parsed.timestamp_seconds(), 1_700_000_000);
    }

    #[test]
    fn sync_ids_of_one_second_differ() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let ids: BTreeSet<_> = (0..1000).map(|_| SyncId::generate(now)).collect();
        assert_eq!(ids.len(), 1000);
    }

    #[test]
    fn a_clock_before_the_epoch_of_the_ids_still_gives_an_id() {
        assert_eq!(SyncId::generate(Timestamp::UNIX_EPOCH).as_str().len(), 27);
    }

    #[test]
    fn ids_are_composed_without_escaping() {
        let id = v2::ResourceId {
            resource_type: "group".to_owned(),
            resource: "a:b".to_owned(),
            ..v2::ResourceId::default()
        };
        assert_eq!(resource_text(&id), "group:a:b");
        assert_eq!(entitlement_id(&id, "member"), "group:a:b:member");
        assert_eq!(
            grant_id("group:a:b:member", &id),
            "group:a:b:member:group:a:b"
        );
    }
}
