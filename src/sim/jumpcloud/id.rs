//! Object ids: 24 hexadecimal digits on the wire, twelve bytes in memory, derived from the seed.
//!
//! Invariant: two different numbers of one kind under one seed never give the same id.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub(super) use crate::sim::inject::mix;

/// The id of an object of the directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id([u8; 12]);

/// Which sort of object an id names; it shows in the second byte, so that people can tell ids apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum IdKind {
    Organization = 0xaa,
    User = 0xab,
    Group = 0xac,
    Admin = 0xad,
    App = 0xae,
    Directory = 0xb0,
    Role = 0xb1,
    Job = 0xb3,
    Detail = 0xbd,
}

impl Id {
    /// The id of the `number`th object of a kind in the tenant of this seed.
    pub(super) fn derive(seed: u64, kind: IdKind, number: u64) -> Self {
        let kind = kind as u8;
        let family = mix(seed ^ (u64::from(kind) << 48));
        let body = mix(family.wrapping_add(number));
        let mut id = [0x64, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let bytes = family
            .to_be_bytes()
            .into_iter()
            .take(2)
            .chain(body.to_be_bytes());
        for (slot, byte) in id.iter_mut().skip(2).zip(bytes) {
            *slot = byte;
        }
        Self(id)
    }

    /// The 24 hexadecimal digits, lower case.
    pub(super) fn hex(self) -> [u8; 24] {
        let mut text = [b'0'; 24];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            if let [high, low] = pair {
                *high = digit(byte >> 4);
                *low = digit(byte & 15);
            }
        }
        text
    }
}

const fn digit(nibble: u8) -> u8 {
    if nibble < 10 {
        b'0' + nibble
    } else {
        b'a' + nibble - 10
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = self.hex();
        f.write_str(std::str::from_utf8(&hex).unwrap_or_default())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 24 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id has 24 hexadecimal digits")]
pub struct IdError;

impl FromStr for Id {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes = text.as_bytes();
        if bytes.len() != 24 {
            return Err(IdError);
        }
        let mut id = [0; 12];
        for (slot, pair) in id.iter_mut().zip(bytes.chunks_exact(2)) {
            let mut value = 0;
            for &byte in pair {
                let nibble = match byte {
                    b'0'..=b'9' => byte - b'0',
                    b'a'..=b'f' => byte - b'a' + 10,
                    b'A'..=b'F' => byte - b'A' + 10,
                    _ => return Err(IdError),
                };
                value = value * 16 + nibble;
            }
            *slot = value;
        }
        Ok(Self(id))
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hex = self.hex();
        serializer.serialize_str(std::str::from_utf8(&hex).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_id_survives_its_text_form() {
        let id = Id::derive(7, IdKind::User, 41);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().starts_with("64ab"));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn ids_of_one_tenant_are_all_different() {
        let mut seen = HashSet::new();
        for number in 0..20_000 {
            assert!(seen.insert(Id::derive(7, IdKind::User, number)));
        }
    }

    #[test]
    fn text_that_is_no_id_is_refused() {
        for text in [
            "",
            "64ab",
            "64ab0000000000000000000g",
            "64ab000000000000000000011",
        ] {
            assert_eq!(text.parse::<Id>(), Err(IdError), "{text}");
        }
    }
}
