//! The state that a finished sync leaves in its file, in the layout that readers of the official engine parse.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Bits of `reason_flags`.
const ENTITLEMENT_DROPPED: u64 = 1;
const GRANT_DROPPED: u64 = 2;
const GRANT_RESOURCE_DROPPED: u64 = 4;
const EXPANSION_TYPE_DROPPED: u64 = 8;
const EXPANSION_DROPPED: u64 = 16;
const UNVERIFIABLE: u64 = 32;

/// What was left out or looked wrong while rows came in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Quality {
    pub(super) entitlements_dropped: u64,
    pub(super) grants_dropped: u64,
    pub(super) grant_resources_dropped: u64,
    pub(super) expansion_types_dropped: u64,
    pub(super) expansions_dropped: u64,
    pub(super) invalid_resource_types: u64,
    pub(super) invalid_resources: u64,
    pub(super) invalid_entitlements: u64,
}

/// The final state of a sync.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Token {
    pub(super) needs_expansion: bool,
    pub(super) has_external_resource_grants: bool,
    pub(super) should_fetch_related_resources: bool,
    pub(super) should_skip_entitlements_and_grants: bool,
    pub(super) should_skip_grants: bool,
    pub(super) completed_actions: u64,
    pub(super) quality: Quality,
}

impl Token {
    /// The JSON text.
    pub(super) fn to_json(self) -> String {
        let mut members = Map::new();
        number(&mut members, "current_action_id", self.completed_actions);
        flag(&mut members, "needs_expansion", self.needs_expansion);
        flag(
            &mut members,
            "has_external_resource_grants",
            self.has_external_resource_grants,
        );
        flag(
            &mut members,
            "should_fetch_related_resources",
            self.should_fetch_related_resources,
        );
        flag(
            &mut members,
            "should_skip_entitlements_and_grants",
            self.should_skip_entitlements_and_grants,
        );
        flag(&mut members, "should_skip_grants", self.should_skip_grants);
        number(
            &mut members,
            "completed_actions_count",
            self.completed_actions,
        );
        members.insert("ingest_quality".to_owned(), self.quality.to_json());
        members.insert("version".to_owned(), 1.into());
        Value::Object(members).to_string()
    }
}

impl Quality {
    /// Adds what another listing counted.
    pub(super) fn add(&mut self, other: Self) {
        self.entitlements_dropped += other.entitlements_dropped;
        self.grants_dropped += other.grants_dropped;
        self.grant_resources_dropped += other.grant_resources_dropped;
        self.expansion_types_dropped += other.expansion_types_dropped;
        self.expansions_dropped += other.expansions_dropped;
        self.invalid_resource_types += other.invalid_resource_types;
        self.invalid_resources += other.invalid_resources;
        self.invalid_entitlements += other.invalid_entitlements;
    }

    /// A SQLite file cannot prove that nothing invalid was kept, so it never serves as a cache of a later sync.
    fn to_json(self) -> Value {
        let mut reasons = UNVERIFIABLE;
        for (count, reason) in [
            (self.entitlements_dropped, ENTITLEMENT_DROPPED),
            (self.grants_dropped, GRANT_DROPPED),
            (self.grant_resources_dropped, GRANT_RESOURCE_DROPPED),
            (self.expansion_types_dropped, EXPANSION_TYPE_DROPPED),
            (self.expansions_dropped, EXPANSION_DROPPED),
        ] {
            if count > 0 {
                reasons |= reason;
            }
        }
        let mut members = Map::new();
        flag(&mut members, "source_cache_replay_blocked", true);
        for (name, count) in [
            ("entitlements_dropped", self.entitlements_dropped),
            ("grants_dropped", self.grants_dropped),
            ("grant_resources_dropped", self.grant_resources_dropped),
            (
                "expansion_resource_types_dropped",
                self.expansion_types_dropped,
            ),
            ("expansions_dropped", self.expansions_dropped),
            (
                "invalid_resource_types_observed",
                self.invalid_resource_types,
            ),
            ("invalid_resources_observed", self.invalid_resources),
            ("invalid_entitlements_observed", self.invalid_entitlements),
            ("reason_flags", reasons),
        ] {
            number(&mut members, name, count);
        }
        Value::Object(members)
    }
}

fn number(members: &mut Map<String, Value>, name: &str, value: u64) {
    if value > 0 {
        members.insert(name.to_owned(), value.into());
    }
}

fn flag(members: &mut Map<String, Value>, name: &str, value: bool) {
    if value {
        members.insert(name.to_owned(), true.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_members_are_left_out() {
        let token = Token {
            completed_actions: 17,
            needs_expansion: true,
            ..Token::default()
        };
        let json: Value = serde_json::from_str(&token.to_json()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "current_action_id": 17,
                "needs_expansion": true,
                "completed_actions_count": 17,
                "ingest_quality": {"source_cache_replay_blocked": true, "reason_flags": 32},
                "version": 1,
            })
        );
    }

    #[test]
    fn every_drop_sets_its_reason() {
        let token = Token {
            quality: Quality {
                entitlements_dropped: 1,
                grants_dropped: 2,
                grant_resources_dropped: 3,
                expansion_types_dropped: 4,
                expansions_dropped: 5,
                ..Quality::default()
            },
            ..Token::default()
        };
        let json: Value = serde_json::from_str(&token.to_json()).unwrap();
        assert_eq!(json["ingest_quality"]["reason_flags"], 63);
        assert_eq!(json["ingest_quality"]["expansions_dropped"], 5);
    }
}
