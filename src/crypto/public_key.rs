//! Public keys in JWK form (RFC 7517), to which secrets are encrypted.
//!
//! Owns reading Ed25519, RSA and elliptic-curve keys, the checks on each member, and their thumbprints. Invariants: the
//! byte strings of a key have the length of its kind and no leading zeros where it has none, so that a thumbprint is the
//! one that everybody else computes. No error shows a value of the JSON, which could be a private key sent by mistake.

use aws_lc_rs::agreement;
use base64::Engine as _;
use serde_json::{Map, Value};

use super::{Sha256, hex, jwk::BASE64URL};

/// Longest JSON that is read, in bytes: an RSA key of 8192 bits with a chain of certificates fits.
pub const MAX_JSON_LEN: usize = 64 * 1024;
/// Sizes of RSA keys that are encrypted to, in bits.
pub const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why a JWK is no key that secrets can be encrypted to. Members are named, values are never shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There are no bytes, or too many of them.
    #[error("the JWK has {len} bytes; 1 to {MAX_JSON_LEN} are read")]
    Size {
        /// Length of the JSON.
        len: usize,
    },
    /// The bytes are not JSON.
    #[error("the JWK is not JSON ({len} bytes, unreadable at line {line} column {column})")]
    NotJson {
        /// Length of the text.
        len: usize,
        /// Line of the failure, from 1.
        line: usize,
        /// Column of the failure.
        column: usize,
    },
    /// The JSON is something else than an object.
    #[error("the JWK is not a JSON object")]
    NotObject,
    /// A member that must be there is not.
    #[error("the JWK has no member {member:?}")]
    Missing {
        /// Name of the member.
        member: &'static str,
    },
    /// A member is not a string.
    #[error("member {member:?} of the JWK is not a string")]
    NotString {
        /// Name of the member.
        member: &'static str,
    },
    /// The key is of a kind that nothing is encrypted to.
    #[error(
        "member {member:?} of the JWK names another kind of key; send OKP with Ed25519, RSA, or EC with P-256, P-384 \
         or P-521"
    )]
    Kind {
        /// `kty` or `crv`.
        member: &'static str,
    },
    /// A member is not base64url without padding.
    #[error("member {member:?} of the JWK is not base64url without padding ({len} characters)")]
    Base64 {
        /// Name of the member.
        member: &'static str,
        /// Length of the text.
        len: usize,
    },
    /// A member decodes to the wrong number of bytes.
    #[error("member {member:?} of the JWK holds {len} bytes instead of {expected}")]
    Length {
        /// Name of the member.
        member: &'static str,
        /// Length of the decoded bytes.
        len: usize,
        /// Length that the kind of key asks for.
        expected: usize,
    },
    /// An RSA key is too small to be safe, or too large to be worked with.
    #[error("the RSA key has {bits} bits; 2048 to 8192 are used")]
    RsaSize {
        /// Length of the modulus.
        bits: usize,
    },
}

/// An elliptic curve that JWE uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the curves")]
pub enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    /// The name in a JWK.
    pub const fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// The curve of this name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::P256, Self::P384, Self::P521]
            .into_iter()
            .find(|curve| curve.name() == name)
    }

    /// Length of a coordinate, in bytes.
    pub const fn coordinate_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    pub(super) fn agreement(self) -> &'static agreement::Algorithm {
        match self {
            Self::P256 => &agreement::ECDH_P256,
            Self::P384 => &agreement::ECDH_P384,
            Self::P521 => &agreement::ECDH_P521,
        }
    }
}

/// A public key that secrets can be encrypted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// An Ed25519 key.
    Ed25519([u8; 32]),
    /// An RSA key.
    Rsa {
        /// The modulus, big-endian, without leading zeros.
        n: Vec<u8>,
        /// The exponent, big-endian, without leading zeros.
        e: Vec<u8>,
    },
    /// A point on an elliptic curve; whether it is on the curve shows when it is used.
    Ec {
        /// The curve.
        curve: Curve,
        /// First coordinate, as long as the curve says.
        x: Vec<u8>,
        /// Second coordinate, as long as the curve says.
        y: Vec<u8>,
    },
}

impl PublicKey {
    /// Reads a JWK object. Of a private key the public half is read; other members are ignored, as in the SDK.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        if json.is_empty() || json.len() > MAX_JSON_LEN {
            return Err(Error::Size { len: json.len() });
        }
        let value: Value = serde_json::from_slice(json).map_err(|error| Error::NotJson {
            len: json.len(),
            line: error.line(),
            column: error.column(),
        })?;
        let Value::Object(members) = value else {
            return Err(Error::NotObject);
        };
        match text(&members, "kty")? {
            "OKP" => {
                if text(&members, "crv")? != "Ed25519" {
                    return Err(Error::Kind { member: "crv" });
                }
                let x = bytes(&members, "x")?;
                match <[u8; 32]>::try_from(x.as_slice()) {
                    Ok(public) => Ok(Self::Ed25519(public)),
                    Err(_) => Err(Error::Length {
                        member: "x",
                        len: x.len(),
                        expected: 32,
                    }),
                }
            }
            "RSA" => {
                let (n, e) = (number(&members, "n")?, number(&members, "e")?);
                let bits = (n.len() * 8)
                    .saturating_sub(n.first().map_or(0, |byte| byte.leading_zeros() as usize));
                if RSA_BITS.contains(&bits) {
                    Ok(Self::Rsa { n, e })
                } else {
                    Err(Error::RsaSize { bits })
                }
            }
            "EC" => {
                let curve =
                    Curve::of(text(&members, "crv")?).ok_or(Error::Kind { member: "crv" })?;
                let coordinate = |member| {
                    let bytes = bytes(&members, member)?;
                    let expected = curve.coordinate_len();
                    if bytes.len() == expected {
                        Ok(bytes)
                    } else {
                        Err(Error::Length {
                            member,
                            len: bytes.len(),
                            expected,
                        })
                    }
                };
                Ok(Self::Ec {
                    curve,
                    x: coordinate("x")?,
                    y: coordinate("y")?,
                })
            }
            _ => Err(Error::Kind { member: "kty" }),
        }
    }

    /// The JWK with nothing but the members that make the key, sorted by name: the input of the thumbprint.
    pub fn to_json(&self) -> String {
        let text = |bytes: &[u8]| BASE64URL.encode(bytes);
        match self {
            Self::Ed25519(x) => {
                format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, text(x))
            }
            Self::Rsa { n, e } => {
                format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, text(e), text(n))
            }
            Self::Ec { curve, x, y } => format!(
                r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#,
                curve.name(),
                text(x),
                text(y)
            ),
        }
    }

    /// The RFC 7638 thumbprint with SHA-256, in lowercase hexadecimal.
    pub fn thumbprint(&self) -> String {
        hex(&Sha256::digest(self.to_json().as_bytes()))
    }
}

fn text<'a>(members: &'a Map<String, Value>, member: &'static str) -> Result<&'a str, Error> {
    match members.get(member) {
        None | Some(Value::Null) => Err(Error::Missing { member }),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Error::NotString { member }),
    }
}

fn bytes(members: &Map<String, Value>, member: &'static str) -> Result<Vec<u8>, Error> {
    let text = text(members, member)?;
    match BASE64URL.decode(text) {
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(Error::Base64 {
            member,
            len: text.chars().count(),
        }),
    }
}

/// A member that is a big-endian number; leading zeros do not count.
fn number(members: &Map<String, Value>, member: &'static str) -> Result<Vec<u8>, Error> {
    Ok(bytes(members, member)?
        .into_iter()
        .skip_while(|byte| *byte == 0)
        .collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The key of RFC 7638, section 3.1.
    const RFC_7638: &str = r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}"#;

    #[test]
    fn the_key_of_rfc_7638_has_the_thumbprint_of_rfc_7638() {
        let key = PublicKey::from_json(RFC_7638.as_bytes()).unwrap();
        let expected = BASE64URL
            .decode("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs")
            .unwrap();
        assert_eq!(key.thumbprint(), hex(&expected));
    }

    #[test]
    fn a_leading_zero_of_a_number_changes_nothing() {
        let key = PublicKey::from_json(RFC_7638.as_bytes()).unwrap();
        let PublicKey::Rsa { n, .. } = &key else {
            panic!("{key:?}")
        };
        let padded = [[0].as_slice(), n].concat();
        let json = format!(
            r#"{{"kty":"RSA","e":"AAEAAQ","n":"{}"}}"#,
            BASE64URL.encode(padded)
        );
        assert_eq!(PublicKey::from_json(json.as_bytes()).unwrap(), key);
    }

    #[test]
    fn a_jwk_that_is_no_key_is_refused_with_the_member_and_never_with_its_value() {
        let x32 = BASE64URL.encode([0x41; 32]);
        let small = BASE64URL.encode([0xff; 128]);
        let large = BASE64URL.encode([0xff; 1025]);
        let cases = [
            (String::new(), Error::Size { len: 0 }),
            (
                "SECRETSEED".to_owned(),
                Error::NotJson {
                    len: 10,
                    line: 1,
                    column: 1,
                },
            ),
            ("[]".to_owned(), Error::NotObject),
            ("{}".to_owned(), Error::Missing { member: "kty" }),
            (
                r#"{"kty":1}"#.to_owned(),
                Error::NotString { member: "kty" },
            ),
            (
                r#"{"kty":"oct","k":"SECRETSEED"}"#.to_owned(),
                Error::Kind { member: "kty" },
            ),
            (
                r#"{"kty":"OKP","crv":"X25519"}"#.to_owned(),
                Error::Kind { member: "crv" },
            ),
            (
                r#"{"kty":"OKP","crv":"Ed25519","x":"SECRETSEED="}"#.to_owned(),
                Error::Base64 {
                    member: "x",
                    len: 11,
                },
            ),
            (
                r#"{"kty":"OKP","crv":"Ed25519","x":"QUJD"}"#.to_owned(),
                Error::Length {
                    member: "x",
                    len: 3,
                    expected: 32,
                },
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{small}","e":"AQAB"}}"#),
                Error::RsaSize { bits: 1024 },
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{large}","e":"AQAB"}}"#),
                Error::RsaSize { bits: 8200 },
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{large}"}}"#),
                Error::Missing { member: "e" },
            ),
            (
                format!(r#"{{"kty":"EC","crv":"secp256k1","x":"{x32}","y":"{x32}"}}"#),
                Error::Kind { member: "crv" },
            ),
            (
                format!(r#"{{"kty":"EC","crv":"P-384","x":"{x32}","y":"{x32}"}}"#),
                Error::Length {
                    member: "x",
                    len: 32,
                    expected: 48,
                },
            ),
        ];
        for (json, expected) in cases {
            let error = PublicKey::from_json(json.as_bytes()).unwrap_err();
            assert_eq!(error, expected, "{json}");
            assert!(!error.to_string().contains("SECRETSEED"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn json_written_reads_back_to_the_same_key(seed: [u8; 32], curve in 0..3_usize) {
            let curve = [Curve::P256, Curve::P384, Curve::P521][curve];
            let coordinate: Vec<u8> = seed.into_iter().cycle().take(curve.coordinate_len()).collect();
            for key in [
                PublicKey::Ed25519(seed),
                PublicKey::Ec { curve, x: coordinate.clone(), y: coordinate.clone() },
            ] {
                prop_assert_eq!(PublicKey::from_json(key.to_json().as_bytes()).unwrap(), key);
            }
        }

        #[test]
        fn no_input_makes_reading_a_key_panic(json: Vec<u8>, text in r#"\{"kty":"(OKP|RSA|EC)","(crv|n|e|x)":"[A-Za-z0-9-]{0,20}"\}"#) {
            let _ = PublicKey::from_json(&json).is_ok();
            let _ = PublicKey::from_json(text.as_bytes()).is_ok();
        }
    }
}
