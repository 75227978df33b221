//! The keys that secrets come back sealed for, and the opening of what was sealed.
//!
//! A key is made when it is first asked for and lives as long as the simulator. What is opened is given to whoever
//! asks, never logged, and shown by no `Debug`.

use std::{fmt, sync::OnceLock};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::{Message, Name};
use secrecy::{ExposeSecret as _, SecretString};

pub use crate::crypto::open::KeyKind;
use crate::{
    crypto::{
        open::{RevealKey, reveal},
        seal::{Plaintext, Recipients},
    },
    proto::{
        Any,
        baton::{
            BatonServiceFinishTaskRequest, baton_service_finish_task_request::FinalState,
            task::TaskType,
        },
        connector::{self as v2, encryption_config::Config},
    },
};

/// One copy of a secret, opened with a key of the simulator.
#[derive(Clone)]
pub struct Revealed {
    /// What the secret is, such as `password`.
    pub name: String,
    /// The key that opened it.
    pub key: KeyKind,
    /// The secret.
    pub secret: SecretString,
}

impl Revealed {
    /// Length and a few dots: what may be shown to people.
    pub fn masked(&self) -> String {
        let length = self.secret.expose_secret().chars().count();
        format!("•••••••• ({length} characters)")
    }

    /// Whether a message holds the secret as it is.
    pub(super) fn is_in<M: Message>(&self, message: &M) -> bool {
        let secret = self.secret.expose_secret().as_bytes();
        !secret.is_empty()
            && message
                .encode_to_vec()
                .windows(secret.len())
                .any(|window| window == secret)
    }
}

impl fmt::Debug for Revealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revealed")
            .field("name", &self.name)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// The keys of one simulator.
#[derive(Debug, Default)]
pub(super) struct Keys([OnceLock<Option<RevealKey>>; KeyKind::ALL.len()]);

impl Keys {
    fn key(&self, kind: KeyKind) -> anyhow::Result<&RevealKey> {
        self.0
            .get(kind as usize)
            .and_then(|slot| slot.get_or_init(|| RevealKey::generate(kind)).as_ref())
            .with_context(|| format!("the key {kind:?} of the simulator cannot be made"))
    }

    /// What asks for secrets to be sealed for this key. The first RSA key takes a moment.
    pub(super) fn config(&self, kind: KeyKind) -> anyhow::Result<v2::EncryptionConfig> {
        Ok(self.key(kind)?.encryption_config())
    }

    /// The kinds and keys that exist so far.
    fn made(&self) -> impl Iterator<Item = (KeyKind, &RevealKey)> {
        KeyKind::ALL
            .into_iter()
            .zip(&self.0)
            .filter_map(|(kind, slot)| Some((kind, slot.get()?.as_ref()?)))
    }

    /// Opens every secret of a result.
    ///
    /// An error names the position of the first that no key opens.
    pub(super) fn reveal(
        &self,
        task: Option<&TaskType>,
        finish: &BatonServiceFinishTaskRequest,
    ) -> anyhow::Result<Vec<Revealed>> {
        sealed(task, finish)
            .iter()
            .enumerate()
            .map(|(index, data)| {
                self.open(data).with_context(|| {
                    format!("encrypted_data[{index}] opens with no key of the simulator")
                })
            })
            .collect()
    }

    fn open(&self, data: &v2::EncryptedData) -> Option<Revealed> {
        let (key, secret) = self.made().find_map(|(kind, key)| {
            let secret = reveal(key, data).ok()?;
            let text = String::from_utf8(secret.expose_secret().to_vec()).ok()?;
            Some((kind, SecretString::from(text)))
        })?;
        Some(Revealed {
            name: data.name.clone(),
            key,
            secret,
        })
    }
}

/// The sealed secrets of a successful result.
fn sealed(
    task: Option<&TaskType>,
    finish: &BatonServiceFinishTaskRequest,
) -> Vec<v2::EncryptedData> {
    let Some(FinalState::Success(success)) = &finish.final_state else {
        return Vec::new();
    };
    let any = success.response.as_ref();
    match task {
        Some(TaskType::CreateAccount(_)) => {
            decoded::<v2::CreateAccountResponse>(any).map(|response| response.encrypted_data)
        }
        Some(TaskType::RotateCredentials(_)) => {
            decoded::<v2::RotateCredentialResponse>(any).map(|response| response.encrypted_data)
        }
        Some(TaskType::IssueCredential(_)) => {
            decoded::<v2::IssueCredentialResponse>(any).map(|response| response.encrypted_data)
        }
        _ => None,
    }
    .unwrap_or_default()
}

fn decoded<M: Message + Name + Default>(any: Option<&Any>) -> Option<M> {
    any.and_then(|any| M::decode(any.value.as_slice()).ok())
}

/// Seals a password for the connector, as ConductorOne does with one that a person chose; `secret` is the client
/// secret.
pub(super) fn seal_for_connector(
    secret: &SecretString,
    password: &SecretString,
) -> anyhow::Result<v2::EncryptedData> {
    let jwk = secret
        .expose_secret()
        .rsplit(':')
        .next()
        .and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok())
        .and_then(|jwk| serde_json::from_slice::<serde_json::Value>(&jwk).ok())
        .context("the client secret of the simulator holds no key")?;
    let member = |name: &str| jwk.get(name).cloned().unwrap_or_default();
    let public = serde_json::json!({
        "kty": member("kty"),
        "crv": member("crv"),
        "x": member("x"),
    });
    let config = v2::EncryptionConfig {
        config: Some(Config::JwkPublicKeyConfig(
            v2::encryption_config::JwkPublicKeyConfig {
                pub_key: public.to_string().into_bytes(),
            },
        )),
        ..Default::default()
    };
    let plaintext = Plaintext {
        name: "password".to_owned(),
        description: String::new(),
        schema: String::new(),
        secret: password.clone(),
    };
    let mut sealed = Recipients::try_new(&[config])?
        .seal(&plaintext)?
        .pop()
        .context("the password was sealed for nobody")?;
    if let Some(key_id) = jwk.get("kid").and_then(serde_json::Value::as_str) {
        sealed.key_ids = vec![key_id.to_owned()];
    }
    Ok(sealed)
}
