//! Secrets encrypted to a key that we hold: passwords sent to the connector.
//!
//! Owns the choice of the entry and its decryption with the Ed25519 key of the client secret. Invariants: what is read
//! is capped, decrypted bytes are wiped, and no error shows any of them. For the simulated ConductorOne and for tests
//! there are keys that open what [`super::seal`] made.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::SecretString;

use super::{
    envelope::{self, Ed25519Identity},
    jwk::Ed25519Jwk,
};
use crate::{
    error::{Class, Classify, Code},
    proto::connector as v2,
};

/// Longest encrypted password that is read, in bytes of base64.
pub const MAX_PASSWORD_LEN: usize = 64 * 1024;

/// Why no password could be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No entry is meant for this key.
    #[error(
        "none of the {entries} encrypted passwords is for the client secret in use (key id {key_id}); encrypt it to that key"
    )]
    NoEntry {
        /// How many entries there are.
        entries: usize,
        /// The id of our key.
        key_id: String,
    },
    /// The entry is too long to be a password.
    #[error("the encrypted password has {len} bytes; up to {MAX_PASSWORD_LEN} are read")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// The entry is not base64.
    #[error("the encrypted password ({len} bytes) is not base64")]
    NotBase64 {
        /// Its length.
        len: usize,
    },
    /// The entry does not open with our key.
    #[error(
        "the encrypted password ({len} bytes) cannot be opened: it is damaged, or was encrypted to another key"
    )]
    Sealed {
        /// Its length.
        len: usize,
    },
    /// The decrypted bytes are no text.
    #[error("the decrypted password is empty or not UTF-8 text")]
    NotText,
}

impl Classify for Error {
    fn class(&self) -> Class {
        Class::Permanent
    }

    fn code(&self) -> Code {
        match self {
            Self::NoEntry { .. } => Code::InvalidArgument,
            _ => Code::Internal,
        }
    }
}

/// The password in the first entry that names this key among its `key_ids`; the deprecated `key_id` does not count.
///
/// A match that cannot be opened is an error, also when another entry matches. Codes are those of the SDK: an entry that
/// is missing is `InvalidArgument`, one that does not open is `Internal`.
pub fn password(key: &Ed25519Jwk, encrypted: &[v2::EncryptedData]) -> Result<SecretString, Error> {
    let key_id = key.key_id();
    let Some(entry) = encrypted
        .iter()
        .find(|entry| entry.key_ids.contains(&key_id))
    else {
        return Err(Error::NoEntry {
            entries: encrypted.len(),
            key_id,
        });
    };
    let len = entry.encrypted_bytes.len();
    if len > MAX_PASSWORD_LEN {
        return Err(Error::TooLong { len });
    }
    let Ok(file) = BASE64_STANDARD.decode(&entry.encrypted_bytes) else {
        return Err(Error::NotBase64 { len });
    };
    let opened = Ed25519Identity::new(key)
        .and_then(|identity| envelope::open(&identity, &file).ok())
        .ok_or(Error::Sealed { len })?;
    match std::str::from_utf8(&opened) {
        // The copy is exactly as long as the text, so that it is not moved again.
        Ok(text) if !text.is_empty() => Ok(SecretString::from(text.to_owned())),
        _ => Err(Error::NotText),
    }
}

#[cfg(any(test, feature = "simulator"))]
pub use revealing::{KeyKind, RevealError, RevealKey, reveal};

#[cfg(any(test, feature = "simulator"))]
mod revealing {
    use std::fmt;

    use aws_lc_rs::agreement;
    use base64::Engine as _;
    use secrecy::SecretSlice;
    use zeroize::Zeroizing;

    use super::{
        super::{
            Sha256,
            envelope::RsaIdentity,
            hex, jwe,
            public_key::{Curve, PublicKey},
            seal::{AGE_PROVIDER, JWK_PROVIDER},
        },
        BASE64_STANDARD, Ed25519Identity, Ed25519Jwk, envelope, v2,
    };

    /// The kinds of keys that the other side can have.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
    #[serde(rename_all = "kebab-case")]
    #[expect(missing_docs, reason = "the names are those of the keys")]
    pub enum KeyKind {
        Ed25519,
        Rsa,
        P256,
        P384,
        P521,
        Age,
    }

    impl KeyKind {
        /// Every kind.
        pub const ALL: [Self; 6] = [
            Self::Ed25519,
            Self::Rsa,
            Self::P256,
            Self::P384,
            Self::P521,
            Self::Age,
        ];
    }

    /// What could not be revealed.
    #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
    #[error("the encrypted value does not open with this key")]
    pub struct RevealError;

    /// A private key of the other side.
    pub struct RevealKey(Kind);

    enum Kind {
        Ed25519(Ed25519Jwk),
        Rsa(RsaIdentity),
        Ec(Curve, agreement::PrivateKey),
        Age(age::x25519::Identity),
    }

    impl RevealKey {
        /// A fresh key; `None` when the system gives no randomness. An RSA key takes a moment.
        pub fn generate(kind: KeyKind) -> Option<Self> {
            let ec = |curve: Curve| {
                let private = agreement::PrivateKey::generate(curve.agreement()).ok()?;
                Some(Kind::Ec(curve, private))
            };
            Some(Self(match kind {
                KeyKind::Ed25519 => Kind::Ed25519(Ed25519Jwk::generate()?),
                KeyKind::Rsa => Kind::Rsa(RsaIdentity::generate()?),
                KeyKind::P256 => ec(Curve::P256)?,
                KeyKind::P384 => ec(Curve::P384)?,
                KeyKind::P521 => ec(Curve::P521)?,
                KeyKind::Age => Kind::Age(age::x25519::Identity::generate()),
            }))
        }

        /// The config by which secrets are asked to be encrypted to this key.
        pub fn encryption_config(&self) -> v2::EncryptionConfig {
            use v2::encryption_config::{AgeRecipientConfig, Config, JwkPublicKeyConfig};

            let (provider, key_id, config) = match self.public_key() {
                Ok(key) => (
                    JWK_PROVIDER,
                    key.thumbprint(),
                    Config::JwkPublicKeyConfig(JwkPublicKeyConfig {
                        pub_key: key.to_json().into_bytes(),
                    }),
                ),
                Err(recipient) => (
                    AGE_PROVIDER,
                    hex(&Sha256::digest(recipient.as_bytes())),
                    Config::AgeRecipientConfig(AgeRecipientConfig { recipient }),
                ),
            };
            v2::EncryptionConfig {
                principal: None,
                provider: provider.to_owned(),
                key_id,
                config: Some(config),
            }
        }

        /// The public half as a key, or else as an age recipient.
        fn public_key(&self) -> Result<PublicKey, String> {
            Ok(match &self.0 {
                Kind::Ed25519(key) => PublicKey::Ed25519(*key.public_key()),
                Kind::Rsa(key) => {
                    let (n, e) = key.public();
                    PublicKey::Rsa {
                        n: n.to_vec(),
                        e: e.to_vec(),
                    }
                }
                Kind::Ec(curve, key) => {
                    let point = key.compute_public_key();
                    let point = point.as_ref().map(AsRef::as_ref).unwrap_or_default();
                    let (x, y) = point
                        .get(1..)
                        .and_then(|both: &[u8]| both.split_at_checked(curve.coordinate_len()))
                        .unwrap_or_default();
                    PublicKey::Ec {
                        curve: *curve,
                        x: x.to_vec(),
                        y: y.to_vec(),
                    }
                }
                Kind::Age(identity) => return Err(identity.to_public().to_string()),
            })
        }
    }

    impl From<Ed25519Jwk> for RevealKey {
        fn from(key: Ed25519Jwk) -> Self {
            Self(Kind::Ed25519(key))
        }
    }

    impl fmt::Debug for RevealKey {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_tuple("RevealKey")
                .field(&self.public_key())
                .finish()
        }
    }

    /// Decrypts what was encrypted to this key, whatever the key ids say.
    pub fn reveal(
        private: &RevealKey,
        data: &v2::EncryptedData,
    ) -> Result<SecretSlice<u8>, RevealError> {
        let opened: Zeroizing<Vec<u8>> = if let Kind::Age(identity) = &private.0 {
            envelope::open(identity, &data.encrypted_bytes).or(Err(RevealError))?
        } else {
            let bytes = BASE64_STANDARD
                .decode(&data.encrypted_bytes)
                .or(Err(RevealError))?;
            let opened = match &private.0 {
                Kind::Ed25519(key) => Ed25519Identity::new(key)
                    .and_then(|identity| envelope::open(&identity, &bytes).ok()),
                Kind::Rsa(identity) => envelope::open(identity, &bytes).ok(),
                Kind::Ec(curve, key) => jwe::open(*curve, key, &bytes).ok(),
                Kind::Age(_) => None,
            };
            opened.ok_or(RevealError)?
        };
        Ok(opened.to_vec().into())
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::crypto::seal::{Plaintext, Recipients};

    fn encrypted_to(key: &Ed25519Jwk, text: &str) -> v2::EncryptedData {
        let config = RevealKey::from(key.clone()).encryption_config();
        let plaintext = Plaintext {
            name: "password".to_owned(),
            description: String::new(),
            schema: String::new(),
            secret: text.into(),
        };
        let mut data = Recipients::try_new(&[config])
            .unwrap()
            .seal(&plaintext)
            .unwrap()
            .remove(0);
        data.key_ids = vec![key.key_id()];
        data
    }

    #[test]
    fn the_first_entry_for_the_key_is_opened() {
        let named = Ed25519Jwk::from_seed([3; 32], Some("a key".to_owned())).unwrap();
        for key in [Ed25519Jwk::generate().unwrap(), named] {
            let other = Ed25519Jwk::generate().unwrap();
            let mut first = encrypted_to(&key, "pässword-SECRETSEED-1");
            first.key_ids.insert(0, "another".to_owned());
            let entries = [
                encrypted_to(&other, "not this"),
                first,
                encrypted_to(&key, "nor this"),
            ];
            let opened = password(&key, &entries).unwrap();
            assert_eq!(opened.expose_secret(), "pässword-SECRETSEED-1");
        }
    }

    #[test]
    fn without_an_entry_for_the_key_the_error_names_the_key() {
        let key = Ed25519Jwk::generate().unwrap();
        let mut deprecated_only = encrypted_to(&key, "x");
        deprecated_only.key_ids.clear();
        for entries in [vec![], vec![deprecated_only]] {
            let error = password(&key, &entries).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
            assert!(error.to_string().contains(&key.thumbprint()), "{error}");
        }
    }

    #[test]
    fn an_entry_that_does_not_open_is_refused_without_showing_it() {
        let key = Ed25519Jwk::generate().unwrap();
        let other = Ed25519Jwk::generate().unwrap();
        let with = |bytes: Vec<u8>| v2::EncryptedData {
            encrypted_bytes: bytes,
            key_ids: vec![key.key_id()],
            ..v2::EncryptedData::default()
        };
        let base64 = |bytes: &[u8]| BASE64_STANDARD.encode(bytes).into_bytes();
        let file = BASE64_STANDARD
            .decode(encrypted_to(&key, "x").encrypted_bytes)
            .unwrap();
        let recipient = envelope::Ed25519Recipient::new(key.public_key()).unwrap();
        let not_text = envelope::seal(&recipient, b"\xffSECRETSEED").unwrap();
        let cases = [
            (with(b"SECRETSEED!".to_vec()), "(11 bytes) is not base64"),
            (
                with(vec![b'A'; MAX_PASSWORD_LEN + 1]),
                "up to 65536 are read",
            ),
            (with(base64(b"SECRETSEED")), "cannot be opened"),
            (with(base64(&file[..file.len() - 1])), "cannot be opened"),
            (
                with(encrypted_to(&other, "x").encrypted_bytes),
                "cannot be opened",
            ),
            (encrypted_to(&key, ""), "is empty or not UTF-8"),
            (with(base64(&not_text)), "is empty or not UTF-8"),
        ];
        for (entry, expected) in cases {
            let error = password(&key, &[entry]).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains(expected), "{text}");
            assert!(!text.contains("SECRETSEED"), "{text}");
            assert_eq!(error.code(), Code::Internal);
        }
    }
}
