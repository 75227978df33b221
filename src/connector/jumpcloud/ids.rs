//! Identifiers: those of ConductorOne in the exact form of the official connector, and a compact one for memory.
//!
//! Invariant: an existing application in ConductorOne keeps its history only while these forms stay as they are.

use std::fmt;

pub(super) use crate::model::resource_id;
use crate::proto::{Any, connector as v2};

/// Resource type of directory users and administrators.
pub(super) const USER: &str = "user";
/// Resource type of user groups.
pub(super) const GROUP: &str = "group";
/// Resource type of administrator roles.
pub(super) const ROLE: &str = "role";
/// Resource type of applications.
pub(super) const APP: &str = "app";

/// Id of the synthetic application that stands for the administration of JumpCloud itself.
pub(super) const ADMINISTRATION_APP: &str = "2UjI0eIRo77RGFwi2GKpAa0Til0";

/// A resource of which only the id is told.
pub(super) fn bare(resource_type: &str, id: &str) -> v2::Resource {
    v2::Resource {
        id: Some(resource_id(resource_type, id)),
        ..v2::Resource::default()
    }
}

/// `<type>:<id>`; the slug is no part of it.
pub(super) fn entitlement_id(resource_type: &str, id: &str) -> String {
    format!("{resource_type}:{id}")
}

/// A grant of the only entitlement of a resource, with the id `<type>-grant:<id>:<principal type>:<principal id>:<id>`.
pub(super) fn grant(
    resource_type: &str,
    id: &str,
    principal_type: &str,
    principal_id: &str,
    annotations: Vec<Any>,
) -> v2::Grant {
    v2::Grant {
        entitlement: Some(v2::Entitlement {
            id: entitlement_id(resource_type, id),
            resource: Some(bare(resource_type, id)),
            ..v2::Entitlement::default()
        }),
        principal: Some(bare(principal_type, principal_id)),
        id: format!("{resource_type}-grant:{id}:{principal_type}:{principal_id}:{id}"),
        sources: None,
        annotations,
    }
}

/// An object id in memory: the usual 24 lower-case hex digits take 12 bytes and no heap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Id {
    /// 24 lower-case hex digits.
    Packed([u8; 12]),
    /// Anything else.
    Text(Box<str>),
}

impl Id {
    /// The compact form; two texts are equal exactly when their compact forms are.
    pub(super) fn new(text: &str) -> Self {
        pack(text.as_bytes()).map_or_else(|| Self::Text(text.into()), Self::Packed)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packed(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            Self::Text(text) => f.write_str(text),
        }
    }
}

fn pack(text: &[u8]) -> Option<[u8; 12]> {
    let digits: &[u8; 24] = text.try_into().ok()?;
    let mut packed = [0; 12];
    for (byte, pair) in packed.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            *byte = *byte << 4 | value;
        }
    }
    Some(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_form_of_the_official_connector() {
        let grant = grant(GROUP, "g1", USER, "u1", Vec::new());
        assert_eq!(grant.id, "group-grant:g1:user:u1:g1");
        let entitlement = grant.entitlement.unwrap();
        assert_eq!(entitlement.id, "group:g1");
        assert_eq!(
            entitlement.resource.unwrap().id.unwrap(),
            resource_id(GROUP, "g1")
        );
        assert_eq!(
            grant.principal.unwrap().id.unwrap(),
            resource_id(USER, "u1")
        );
    }

    #[test]
    fn only_lower_case_hex_is_packed_so_that_equality_is_that_of_the_text() {
        let lower = "64ab0000000000000000000f";
        assert!(matches!(Id::new(lower), Id::Packed(_)));
        assert_eq!(Id::new(lower), Id::new(lower));
        assert_eq!(Id::new(lower).to_string(), lower);
        assert_ne!(Id::new(lower), Id::new("64ab0000000000000000000F"));
        assert_ne!(Id::new(lower), Id::new("64ab0000000000000000000e"));
        for odd in [
            "",
            "64ab",
            "64ab0000000000000000000g",
            "64ab0000000000000000000fé",
        ] {
            assert_eq!(Id::new(odd), Id::Text(odd.into()));
            assert_eq!(Id::new(odd).to_string(), odd);
        }
    }
}
