//! Secrets encrypted to ConductorOne, once for every key that it names.
//!
//! Owns the choice of the provider, the check of each key, and the fields of the answer. Invariants: every key has
//! encrypted something before [`Recipients`] exists, so that a change made afterwards does not lose its secret to a bad
//! key; no error shows a key or a secret. Facts: the providers `baton/jwk/v1` and `baton/age/v1` of the SDK.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    Sha256,
    envelope::{self, Ed25519Recipient, RsaRecipient},
    hex,
    hybrid::HybridRecipient,
    jwe,
    public_key::{self, Curve, PublicKey},
};
use crate::{
    error::{Class, Classify, Code},
    proto::connector as v2,
};

pub(super) const JWK_PROVIDER: &str = "baton/jwk/v1";
pub(super) const AGE_PROVIDER: &str = "baton/age/v1";
/// The name under which the SDK also knows the first provider.
const JWK_PRIVATE_PROVIDER: &str = "baton/jwk/v1/private";
/// Longest age recipient that is read: a hybrid one has 1,959 characters.
const MAX_RECIPIENT_LEN: usize = 4096;

/// The most keys that one request may name; ConductorOne has a handful.
const MAX_RECIPIENTS: usize = 64;

/// A secret before encryption.
#[derive(Debug, Clone)]
pub struct Plaintext {
    /// What it is called, for instance `password`.
    pub name: String,
    /// One sentence for people.
    pub description: String,
    /// The format of the bytes, or nothing.
    pub schema: String,
    /// The secret itself.
    pub secret: SecretString,
}

/// Why nothing can be encrypted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An entry of the encryption configs cannot be used.
    #[error("encryption config {index} cannot be used")]
    Config {
        /// Its position, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: RecipientError,
    },
    /// There are more keys than anybody has.
    #[error("there are {count} encryption configs; up to {MAX_RECIPIENTS} are used")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// The encryption itself failed.
    #[error("the secret could not be encrypted to encryption config {index}")]
    Encrypt {
        /// The position of the config, from 0.
        index: usize,
    },
}

impl Classify for Error {
    fn class(&self) -> Class {
        Class::Permanent
    }

    fn code(&self) -> Code {
        match self {
            Self::Config { .. } | Self::TooMany { .. } => Code::InvalidArgument,
            Self::Encrypt { .. } => Code::Internal,
        }
    }
}

/// What is wrong with one encryption config.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipientError {
    /// The provider is not known.
    #[error("provider {name:?} is not known; use {JWK_PROVIDER:?} or {AGE_PROVIDER:?}")]
    Provider {
        /// The first characters of its name.
        name: String,
    },
    /// The config has no key, or the key of the other provider.
    #[error("provider {provider:?} needs {member:?}, which is not set")]
    NoKey {
        /// The provider.
        provider: &'static str,
        /// The member of the config that holds its key.
        member: &'static str,
    },
    /// Neither a provider nor a key is named.
    #[error("names no provider and holds no key")]
    Empty,
    /// The JWK is no key that can be used.
    #[error("jwk_public_key_config holds no usable key")]
    Jwk(#[source] public_key::Error),
    /// The members have the right shape, but make no key.
    #[error("the {kind} key is refused: its numbers make no valid key")]
    Refused {
        /// The kind of the key.
        kind: &'static str,
    },
    /// The age recipient is not a single canonical text.
    #[error(
        "the age recipient ({len} bytes) is not one recipient alone: send one, without spaces or line breaks"
    )]
    NotCanonical {
        /// Its length.
        len: usize,
    },
    /// The age recipient is a private key.
    #[error(
        "the age recipient is a private identity; send the public recipient and replace the identity"
    )]
    Private,
    /// The age recipient is of another kind, or damaged.
    #[error(
        "the age recipient ({len} bytes) is not valid; \"age1…\" and \"age1pq1…\" recipients are used"
    )]
    Age {
        /// Its length.
        len: usize,
    },
}

enum Method {
    /// An age file.
    Envelope(Box<dyn age::Recipient + Send + Sync>),
    /// A compact JWE.
    Jwe {
        curve: Curve,
        x: Vec<u8>,
        y: Vec<u8>,
    },
}

struct Recipient {
    method: Method,
    provider: &'static str,
    key_id: String,
}

impl Recipient {
    fn of(config: &v2::EncryptionConfig) -> Result<Self, RecipientError> {
        use v2::encryption_config::Config;

        let name = config.provider.trim().to_lowercase();
        let provider = match (name.as_str(), &config.config) {
            (JWK_PROVIDER | JWK_PRIVATE_PROVIDER, _)
            | ("", Some(Config::JwkPublicKeyConfig(_))) => JWK_PROVIDER,
            (AGE_PROVIDER, _) | ("", Some(Config::AgeRecipientConfig(_))) => AGE_PROVIDER,
            ("", None) => return Err(RecipientError::Empty),
            _ => {
                let name = config.provider.chars().take(64).collect();
                return Err(RecipientError::Provider { name });
            }
        };
        let (method, key_id) = match (provider, &config.config) {
            (JWK_PROVIDER, Some(Config::JwkPublicKeyConfig(key))) => jwk(&key.pub_key)?,
            (AGE_PROVIDER, Some(Config::AgeRecipientConfig(age))) => age_recipient(&age.recipient)?,
            _ => {
                let member = match provider {
                    JWK_PROVIDER => "jwk_public_key_config",
                    _ => "age_recipient_config",
                };
                return Err(RecipientError::NoKey { provider, member });
            }
        };
        Ok(Self {
            method,
            provider,
            key_id,
        })
    }

    /// `None` when a primitive refused the key or had no randomness.
    fn encrypt(&self, plaintext: &[u8]) -> Option<Vec<u8>> {
        let bytes = match &self.method {
            Method::Envelope(recipient) => envelope::seal(recipient.as_ref(), plaintext).ok()?,
            Method::Jwe { curve, x, y } => jwe::seal(*curve, x, y, plaintext).ok()?.into_bytes(),
        };
        Some(match self.provider {
            JWK_PROVIDER => BASE64_STANDARD.encode(bytes).into_bytes(),
            _ => bytes,
        })
    }
}

fn jwk(json: &[u8]) -> Result<(Method, String), RecipientError> {
    let key = PublicKey::from_json(json).map_err(RecipientError::Jwk)?;
    let key_id = key.thumbprint();
    let (kind, method) = match key {
        PublicKey::Ed25519(public) => (
            "Ed25519",
            Ed25519Recipient::new(&public).map(|key| Method::Envelope(Box::new(key))),
        ),
        PublicKey::Rsa { n, e } => (
            "RSA",
            RsaRecipient::new(&n, &e).map(|key| Method::Envelope(Box::new(key))),
        ),
        PublicKey::Ec { curve, x, y } => (curve.name(), Some(Method::Jwe { curve, x, y })),
    };
    let method = method.ok_or(RecipientError::Refused { kind })?;
    checked(kind, method, key_id, JWK_PROVIDER)
}

fn age_recipient(text: &str) -> Result<(Method, String), RecipientError> {
    let len = text.len();
    if text.is_empty() || text.contains(char::is_whitespace) || text.starts_with('#') {
        return Err(RecipientError::NotCanonical { len });
    }
    if text.to_uppercase().starts_with("AGE-SECRET-KEY-") {
        return Err(RecipientError::Private);
    }
    let invalid = RecipientError::Age { len };
    let (kind, recipient): (_, Box<dyn age::Recipient + Send + Sync>) =
        if len > MAX_RECIPIENT_LEN || !text.starts_with("age1") {
            return Err(invalid);
        } else if text.starts_with("age1pq1") {
            let recipient = HybridRecipient::parse(text).ok_or(invalid)?;
            ("hybrid age", Box::new(recipient))
        } else {
            let Ok(recipient) = text.parse::<age::x25519::Recipient>() else {
                return Err(invalid);
            };
            ("X25519 age", Box::new(recipient))
        };
    let key_id = hex(&Sha256::digest(text.as_bytes()));
    checked(kind, Method::Envelope(recipient), key_id, AGE_PROVIDER)
}

/// A key counts once it has encrypted something: only then are points known to be on their curve, for instance.
fn checked(
    kind: &'static str,
    method: Method,
    key_id: String,
    provider: &'static str,
) -> Result<(Method, String), RecipientError> {
    let recipient = Recipient {
        method,
        provider,
        key_id,
    };
    match recipient.encrypt(b"trial") {
        Some(_) => Ok((recipient.method, recipient.key_id)),
        None => Err(RecipientError::Refused { kind }),
    }
}

/// The config that encrypts to an age recipient.
pub fn to_age(recipient: &str) -> v2::EncryptionConfig {
    v2::EncryptionConfig {
        provider: AGE_PROVIDER.to_owned(),
        config: Some(v2::encryption_config::Config::AgeRecipientConfig(
            v2::encryption_config::AgeRecipientConfig {
                recipient: recipient.to_owned(),
            },
        )),
        ..v2::EncryptionConfig::default()
    }
}

/// The config of a key that nobody has, for secrets that nobody is to learn.
pub fn to_nobody() -> v2::EncryptionConfig {
    to_age(&age::x25519::Identity::generate().to_public().to_string())
}

/// The keys of every encryption config, ready to be encrypted to.
pub struct Recipients(Vec<Recipient>);

impl Recipients {
    /// Reads and tries every config, before any change is made. The error names the position of the first bad one.
    pub fn try_new(configs: &[v2::EncryptionConfig]) -> Result<Self, Error> {
        if configs.len() > MAX_RECIPIENTS {
            return Err(Error::TooMany {
                count: configs.len(),
            });
        }
        configs
            .iter()
            .enumerate()
            .map(|(index, config)| {
                Recipient::of(config).map_err(|source| Error::Config { index, source })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether there is nobody to encrypt to, so that a generated secret would be lost.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Encrypts a secret to every key: one entry a config, in their order.
    pub fn seal(&self, plaintext: &Plaintext) -> Result<Vec<v2::EncryptedData>, Error> {
        self.0
            .iter()
            .enumerate()
            .map(|(index, recipient)| {
                let encrypted_bytes = recipient
                    .encrypt(plaintext.secret.expose_secret().as_bytes())
                    .ok_or(Error::Encrypt { index })?;
                // The single key id is deprecated; only the older provider still fills it in.
                let single = match recipient.provider {
                    JWK_PROVIDER => recipient.key_id.clone(),
                    _ => String::new(),
                };
                #[expect(deprecated, reason = "readers of the older provider look at key_id")]
                Ok(v2::EncryptedData {
                    provider: recipient.provider.to_owned(),
                    key_id: single,
                    name: plaintext.name.clone(),
                    description: plaintext.description.clone(),
                    schema: plaintext.schema.clone(),
                    encrypted_bytes,
                    key_ids: vec![recipient.key_id.clone()],
                })
            })
            .collect()
    }
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|recipient| &recipient.key_id))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::{
            jwk::Ed25519Jwk,
            open::{KeyKind, RevealKey, reveal},
        },
        error::chain,
    };

    fn plaintext(secret: &str) -> Plaintext {
        Plaintext {
            name: "password".to_owned(),
            description: "the first password".to_owned(),
            schema: "text".to_owned(),
            secret: secret.into(),
        }
    }

    fn jwk_config(provider: &str, json: &str) -> v2::EncryptionConfig {
        v2::EncryptionConfig {
            provider: provider.to_owned(),
            config: Some(v2::encryption_config::Config::JwkPublicKeyConfig(
                v2::encryption_config::JwkPublicKeyConfig {
                    pub_key: json.as_bytes().to_vec(),
                },
            )),
            ..v2::EncryptionConfig::default()
        }
    }

    fn age_config(provider: &str, recipient: &str) -> v2::EncryptionConfig {
        v2::EncryptionConfig {
            provider: provider.to_owned(),
            config: Some(v2::encryption_config::Config::AgeRecipientConfig(
                v2::encryption_config::AgeRecipientConfig {
                    recipient: recipient.to_owned(),
                },
            )),
            ..v2::EncryptionConfig::default()
        }
    }

    fn all_keys() -> Vec<RevealKey> {
        KeyKind::ALL
            .into_iter()
            .map(|kind| RevealKey::generate(kind).unwrap())
            .collect()
    }

    #[test]
    fn more_keys_than_anybody_has_are_refused_before_any_is_tried() {
        let configs = vec![v2::EncryptionConfig::default(); MAX_RECIPIENTS + 1];
        let error = Recipients::try_new(&configs).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(
            error.to_string().contains("65 encryption configs"),
            "{error}"
        );
    }

    #[test]
    fn a_secret_is_sealed_once_for_every_key_in_order_and_each_key_opens_its_own() {
        let keys = all_keys();
        let configs: Vec<_> = keys.iter().map(RevealKey::encryption_config).collect();
        let recipients = Recipients::try_new(&configs).unwrap();
        assert!(!recipients.is_empty());
        let sealed = recipients.seal(&plaintext("word-SECRETSEED")).unwrap();
        assert_eq!(sealed.len(), keys.len());
        for (at, data) in sealed.iter().enumerate() {
            for (of, key) in keys.iter().enumerate() {
                match reveal(key, data) {
                    Ok(opened) => {
                        assert_eq!(at, of);
                        assert_eq!(opened.expose_secret(), b"word-SECRETSEED");
                    }
                    Err(_) => assert_ne!(at, of),
                }
            }
        }
    }

    #[test]
    #[expect(deprecated, reason = "key_id is part of the answer")]
    fn the_answer_has_the_fields_of_its_provider() {
        for key in all_keys() {
            let config = key.encryption_config();
            let recipients = Recipients::try_new(std::slice::from_ref(&config)).unwrap();
            let data = recipients.seal(&plaintext("x")).unwrap().remove(0);
            assert_eq!(data.provider, config.provider);
            assert_eq!(
                (
                    data.name.as_str(),
                    data.description.as_str(),
                    data.schema.as_str()
                ),
                ("password", "the first password", "text")
            );
            assert_eq!(data.key_ids, [config.key_id.as_str()]);
            let text = std::str::from_utf8(&data.encrypted_bytes);
            if data.provider == AGE_PROVIDER {
                assert_eq!(data.key_id, "");
                assert!(data.encrypted_bytes.starts_with(b"age-encryption.org/v1\n"));
            } else {
                assert_eq!(data.key_id, config.key_id);
                assert!(BASE64_STANDARD.decode(text.unwrap()).is_ok());
            }
        }
    }

    #[test]
    fn nothing_to_encrypt_to_gives_nothing() {
        let recipients = Recipients::try_new(&[]).unwrap();
        assert!(recipients.is_empty());
        assert!(recipients.seal(&plaintext("x")).unwrap().is_empty());
    }

    #[test]
    fn the_provider_is_found_from_the_key_and_in_any_case() {
        let json = RevealKey::generate(KeyKind::Ed25519)
            .unwrap()
            .encryption_config();
        let age = RevealKey::generate(KeyKind::Age)
            .unwrap()
            .encryption_config();
        for (config, names) in [
            (json, ["", " ", "BATON/JWK/v1 ", "baton/jwk/v1/private"]),
            (age, ["", "\t", "baton/age/V1", " baton/age/v1"]),
        ] {
            for name in names {
                let config = v2::EncryptionConfig {
                    provider: name.to_owned(),
                    ..config.clone()
                };
                let recipients = Recipients::try_new(&[config]).unwrap();
                assert_eq!(recipients.0.len(), 1);
            }
        }
    }

    #[test]
    fn a_private_jwk_is_encrypted_to_by_its_public_half() {
        let key = Ed25519Jwk::generate().unwrap();
        let recipients = Recipients::try_new(&[jwk_config("", &key.to_json())]).unwrap();
        assert_eq!(recipients.0[0].key_id, key.thumbprint());
    }

    #[test]
    fn a_config_that_cannot_be_used_is_named_with_its_position_and_never_with_its_key() {
        let good = RevealKey::generate(KeyKind::P256)
            .unwrap()
            .encryption_config();
        let (x, ed) = (jwk_config, age_config);
        let identity = "AGE-SECRET-KEY-1SECRETSEED";
        let cases = [
            (
                v2::EncryptionConfig::default(),
                "names no provider and holds no key",
            ),
            (x("other", "{}"), "provider \"other\" is not known"),
            (x("baton/age/v1", "{}"), "needs \"age_recipient_config\""),
            (
                ed("baton/jwk/v1", "age1"),
                "needs \"jwk_public_key_config\"",
            ),
            (x("", "SECRETSEED"), "the JWK is not JSON"),
            (
                x(
                    "",
                    r#"{"kty":"OKP","crv":"Ed25519","x":"AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI"}"#,
                ),
                "the Ed25519 key is refused",
            ),
            (
                x(
                    "",
                    &format!(
                        r#"{{"kty":"EC","crv":"P-256","x":"{0}","y":"{0}"}}"#,
                        "A".repeat(43)
                    ),
                ),
                "the P-256 key is refused",
            ),
            (
                x(
                    "",
                    &format!(r#"{{"kty":"RSA","n":"{}","e":"AQ"}}"#, "_".repeat(342)),
                ),
                "the RSA key is refused",
            ),
            (ed("", ""), "not one recipient alone"),
            (ed("", " age1SECRETSEED"), "not one recipient alone"),
            (ed("", "age1a\nage1SECRETSEED"), "not one recipient alone"),
            (ed("", "# SECRETSEED"), "not one recipient alone"),
            (ed("", identity), "private identity"),
            (ed("", &identity.to_lowercase()), "private identity"),
            (ed("", "age1SECRETSEED"), "(14 bytes) is not valid"),
            (ed("", "age1pq1SECRETSEED"), "(17 bytes) is not valid"),
            (
                ed("", &format!("age1{}", "q".repeat(5000))),
                "(5004 bytes) is not valid",
            ),
            (ed("", "ssh-ed25519"), "(11 bytes) is not valid"),
            (
                ed(
                    "",
                    "AGE1ZVKYG2LQZRAA2LNJVQEJ32NKUU0UES2S82HZRYE869XEEXVN73EQUNUJWJ",
                ),
                "(62 bytes) is not valid",
            ),
        ];
        for (config, expected) in cases {
            let error = Recipients::try_new(&[good.clone(), config]).unwrap_err();
            let text = chain(&error);
            assert!(
                text.starts_with("encryption config 1 cannot be used: "),
                "{text}"
            );
            assert!(text.contains(expected), "{text}");
            assert!(!text.to_uppercase().contains("SECRETSEED"), "{text}");
            assert_eq!(
                (error.code(), error.class()),
                (Code::InvalidArgument, Class::Permanent)
            );
        }
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let shown = format!("{:?}", plaintext("word-SECRETSEED"));
        assert!(!shown.contains("SECRETSEED"), "{shown}");
    }
}
