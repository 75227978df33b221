//! The Ed25519 private key in JWK form (RFC 8037), as a client secret carries it.
//!
//! Owns reading the JSON, the checks on each member, and the key id. Invariants: the public half belongs to the private
//! half, the private half is wiped when dropped, and no error or `Debug` output shows a value of the JSON.

use std::fmt;

use aws_lc_rs::{
    digest,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::Value;
use zeroize::{Zeroize as _, Zeroizing};

use super::{Sha256, hex};

/// Length of the seed and of the public key, in bytes.
pub const KEY_LEN: usize = 32;

/// Base64 of the URL alphabet without padding, as lenient about unused last bits as the official client.
pub(crate) const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// Why a JWK cannot be used. Members are named, values are never shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not JSON.
    #[error("is not JSON ({len} bytes, unreadable at line {line} column {column})")]
    NotJson {
        /// Length of the text.
        len: usize,
        /// Line of the failure, from 1.
        line: usize,
        /// Column of the failure.
        column: usize,
    },
    /// The JSON is something else than an object.
    #[error("is not a JSON object")]
    NotObject,
    /// A member that must be there is not.
    #[error("has no member {member:?}")]
    Missing {
        /// Name of the member.
        member: &'static str,
    },
    /// A member is not a string.
    #[error("member {member:?} is not a string")]
    NotString {
        /// Name of the member.
        member: &'static str,
    },
    /// The key is of another type or curve.
    #[error("member {member:?} is not {expected:?}; only Ed25519 keys are used")]
    Kind {
        /// `kty` or `crv`.
        member: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A member is not base64url without padding.
    #[error("member {member:?} is not base64url without padding ({len} characters)")]
    Base64 {
        /// `x` or `d`.
        member: &'static str,
        /// Length of the text.
        len: usize,
    },
    /// A member decodes to the wrong number of bytes.
    #[error("member {member:?} holds {len} bytes instead of 32")]
    Length {
        /// `x` or `d`.
        member: &'static str,
        /// Length of the decoded bytes.
        len: usize,
    },
    /// The two halves are of different keys.
    #[error("members \"x\" and \"d\" are not of one key")]
    Mismatch,
}

/// An Ed25519 private key with its public half and its optional key id.
#[derive(Clone)]
pub struct Ed25519Jwk {
    seed: Zeroizing<[u8; KEY_LEN]>,
    public: [u8; KEY_LEN],
    kid: Option<String>,
}

impl Ed25519Jwk {
    /// Reads a JWK object; members other than `kty`, `crv`, `x`, `d` and `kid` are ignored.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let value: Value = serde_json::from_slice(json).map_err(|error| Error::NotJson {
            len: json.len(),
            line: error.line(),
            column: error.column(),
        })?;
        let Value::Object(mut members) = value else {
            return Err(Error::NotObject);
        };
        let mut text = |member: &'static str| match members.remove(member) {
            None | Some(Value::Null) => Err(Error::Missing { member }),
            Some(Value::String(text)) => Ok(Zeroizing::new(text)),
            Some(_) => Err(Error::NotString { member }),
        };
        let (kty, crv) = (text("kty"), text("crv"));
        let (x, d, kid) = (text("x"), text("d"), text("kid"));
        if kty?.as_str() != "OKP" {
            return Err(Error::Kind {
                member: "kty",
                expected: "OKP",
            });
        }
        if crv?.as_str() != "Ed25519" {
            return Err(Error::Kind {
                member: "crv",
                expected: "Ed25519",
            });
        }
        let public = bytes_of("x", &x?)?;
        let seed = bytes_of("d", &d?)?;
        let kid = match kid {
            Ok(kid) => Some(kid.to_string()).filter(|kid| !kid.is_empty()),
            Err(Error::Missing { .. }) => None,
            Err(error) => return Err(error),
        };
        if Ed25519KeyPair::from_seed_and_public_key(seed.as_slice(), public.as_slice()).is_err() {
            return Err(Error::Mismatch);
        }
        Ok(Self {
            seed,
            public: *public,
            kid,
        })
    }

    /// The key of this seed.
    pub fn from_seed(seed: [u8; KEY_LEN], kid: Option<String>) -> Result<Self, Error> {
        let seed = Zeroizing::new(seed);
        let public = Ed25519KeyPair::from_seed_unchecked(seed.as_slice())
            .ok()
            .and_then(|pair| pair.public_key().as_ref().try_into().ok())
            .ok_or(Error::Mismatch)?;
        Ok(Self { seed, public, kid })
    }

    /// A fresh key without a key id; `None` when the system gives no randomness.
    #[cfg(any(test, feature = "simulator"))]
    pub fn generate() -> Option<Self> {
        let mut seed = [0; KEY_LEN];
        aws_lc_rs::rand::fill(&mut seed).ok()?;
        Self::from_seed(seed, None).ok()
    }

    /// The public half.
    pub fn public_key(&self) -> &[u8; KEY_LEN] {
        &self.public
    }

    /// The `kid` member, if it was there and not empty. A token request names this one and no other.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The key id by which encrypted values name this key: `kid`, else the thumbprint.
    pub fn key_id(&self) -> String {
        self.kid.clone().unwrap_or_else(|| self.thumbprint())
    }

    /// The RFC 7638 thumbprint with SHA-256, in lowercase hexadecimal.
    pub fn thumbprint(&self) -> String {
        let canonical = format!(
            r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#,
            BASE64URL.encode(self.public)
        );
        hex(&Sha256::digest(canonical.as_bytes()))
    }

    /// The whole private JWK as JSON.
    #[cfg(any(test, feature = "simulator"))]
    pub fn to_json(&self) -> String {
        let mut members = serde_json::json!({
            "kty": "OKP",
            "crv": "Ed25519",
            "x": BASE64URL.encode(self.public),
            "d": BASE64URL.encode(self.seed.as_slice()),
        });
        if let (Some(kid), Some(object)) = (&self.kid, members.as_object_mut()) {
            object.insert("kid".to_owned(), kid.as_str().into());
        }
        members.to_string()
    }

    /// The private key on Curve25519: the first half of the digest of the seed (RFC 8032, section 5.1.5).
    pub(super) fn scalar(&self) -> Zeroizing<[u8; KEY_LEN]> {
        let digest = digest::digest(&digest::SHA512, self.seed.as_slice());
        let mut scalar = Zeroizing::new([0; KEY_LEN]);
        for (to, from) in scalar.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        scalar
    }

    /// The private key in the PKCS#8 form of RFC 8410.
    pub(super) fn pkcs8(&self) -> Zeroizing<Vec<u8>> {
        const PREFIX: [u8; 16] = [
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22,
            0x04, 0x20,
        ];
        let mut der = Zeroizing::new(Vec::with_capacity(PREFIX.len() + KEY_LEN));
        der.extend_from_slice(&PREFIX);
        der.extend_from_slice(self.seed.as_slice());
        der
    }
}

impl fmt::Debug for Ed25519Jwk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ed25519Jwk")
            .field("thumbprint", &self.thumbprint())
            .finish_non_exhaustive()
    }
}

fn bytes_of(member: &'static str, text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, Error> {
    let mut decoded = match BASE64URL.decode(text) {
        Ok(decoded) => Zeroizing::new(decoded),
        Err(_) => {
            return Err(Error::Base64 {
                member,
                len: text.chars().count(),
            });
        }
    };
    let len = decoded.len();
    let array = <[u8; KEY_LEN]>::try_from(decoded.as_slice());
    decoded.zeroize();
    match array {
        Ok(array) => Ok(Zeroizing::new(array)),
        Err(_) => Err(Error::Length { member, len }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of RFC 8037, appendix A.
    pub(in crate::crypto) const RFC_8037: &str = r#"{"kty":"OKP","crv":"Ed25519",
        "d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    /// Compiles only for what is overwritten with zeros when it is dropped.
    fn is_wiped<T: zeroize::ZeroizeOnDrop>(_: &T) {}

    #[test]
    fn every_form_of_the_private_key_is_wiped_when_it_is_dropped() {
        let key = Ed25519Jwk::from_json(RFC_8037.as_bytes()).unwrap();
        is_wiped(&key.seed);
        is_wiped(&key.scalar());
        is_wiped(&key.pkcs8());
    }

    #[test]
    fn the_key_of_rfc_8037_has_the_thumbprint_of_rfc_8037() {
        let key = Ed25519Jwk::from_json(RFC_8037.as_bytes()).unwrap();
        let expected = BASE64URL
            .decode("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")
            .unwrap();
        assert_eq!(key.thumbprint(), hex(&expected));
        assert_eq!(key.key_id(), key.thumbprint());
        assert_eq!(key.kid(), None);
    }

    #[test]
    fn a_key_id_is_used_as_it_is_and_an_empty_one_counts_as_absent() {
        let with = RFC_8037.replace(r#""kty""#, r#""kid":"a key","kty""#);
        let key = Ed25519Jwk::from_json(with.as_bytes()).unwrap();
        assert_eq!((key.kid(), key.key_id().as_str()), (Some("a key"), "a key"));
        let empty = RFC_8037.replace(r#""kty""#, r#""kid":"","kty""#);
        assert_eq!(Ed25519Jwk::from_json(empty.as_bytes()).unwrap().kid(), None);
    }

    #[test]
    fn json_written_reads_back_to_the_same_key() {
        let key = Ed25519Jwk::from_seed([7; KEY_LEN], Some("k1".to_owned())).unwrap();
        let again = Ed25519Jwk::from_json(key.to_json().as_bytes()).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        assert_eq!(again.kid(), Some("k1"));
        assert_eq!(again.pkcs8(), key.pkcs8());
    }

    #[test]
    fn debug_output_shows_no_private_half() {
        let shown = format!("{:?}", Ed25519Jwk::from_json(RFC_8037.as_bytes()).unwrap());
        assert!(!shown.contains("nWGxne"), "{shown}");
    }
}
