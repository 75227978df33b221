//! The credential that a request asks for, and the keys that its secrets are encrypted to.
//!
//! Everything is read and tried before the directory is touched: a key that turns out to be bad after a password was made
//! up would lose the password. Facts and the words of refusals that the SDK has too: `pkg/crypto` of the SDK.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use secrecy::SecretString;

use super::{Error, Request, Shared};
use crate::{
    config::ProvisioningMode,
    connector::provision::Credential,
    crypto::{
        jwk::Ed25519Jwk,
        open,
        seal::{Plaintext, Recipients},
    },
    proto::connector::{self as v2, credential_options::Options},
    supervisor::lock,
};

/// How many client secrets are remembered: a task may bring a password that was encrypted before the last rotation.
const KEYS: usize = 3;

/// The keys of the client secrets that were in use, the newest first. Clones share them.
#[derive(Clone, Default)]
pub struct Keys(Arc<Mutex<Vec<Ed25519Jwk>>>);

impl Keys {
    /// Remembers the key of the client secret that is in use from now on; the oldest one is forgotten.
    pub fn add(&self, key: Ed25519Jwk) {
        let mut keys = lock(&self.0);
        keys.insert(0, key);
        keys.truncate(KEYS);
    }

    /// The password, opened with the newest key that it was encrypted to; `None` where there is no key at all.
    fn open(&self, encrypted: &[v2::EncryptedData]) -> Option<Result<SecretString, open::Error>> {
        let mut missing = None;
        for key in lock(&self.0).iter() {
            match open::password(key, encrypted) {
                Err(error @ open::Error::NoEntry { .. }) => {
                    missing.get_or_insert(Err(error));
                }
                other => return Some(other),
            }
        }
        missing
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&lock(&self.0).len()).finish()
    }
}

/// What a request says about secrets, read and checked.
pub(super) struct Ready {
    pub(super) credential: Credential,
    pub(super) force_change: bool,
    recipients: Option<Recipients>,
}

impl Ready {
    /// Encrypts secrets to every key of the request.
    pub(super) fn seal(&self, secrets: &[Plaintext]) -> Result<Vec<v2::EncryptedData>, Error> {
        let mut sealed = Vec::new();
        if let Some(recipients) = &self.recipients {
            for secret in secrets {
                sealed.extend(recipients.seal(secret)?);
            }
        }
        Ok(sealed)
    }
}

impl Shared {
    /// Reads what a request says about secrets.
    pub(super) fn ready(&self, request: &Request) -> Result<Ready, Error> {
        let (Request::CreateAccount {
            options,
            encryption,
            ..
        }
        | Request::RotateCredential {
            options,
            encryption,
            ..
        }) = request
        else {
            return Ok(Ready {
                credential: Credential::Unspecified,
                force_change: false,
                recipients: None,
            });
        };
        let credential = match options {
            None => Credential::Unspecified,
            Some(options) => self.credential(options, encryption)?,
        };
        let recipients = Recipients::try_new(encryption)?;
        if matches!(credential, Credential::Random(_))
            && recipients.is_empty()
            && self.settings.mode == ProvisioningMode::On
        {
            return Err(Error::NobodyToTell);
        }
        Ok(Ready {
            credential,
            force_change: options
                .as_ref()
                .is_some_and(|options| options.force_change_at_next_login),
            recipients: Some(recipients),
        })
    }

    fn credential(
        &self,
        options: &v2::CredentialOptions,
        encryption: &[v2::EncryptionConfig],
    ) -> Result<Credential, Error> {
        let malformed = |problem: &str| Error::Malformed {
            problem: problem.to_owned(),
        };
        Ok(match &options.options {
            None => {
                return Err(malformed(
                    "invalid credential options: field credential_options names no kind of credential; name one or leave \
                     the field out",
                ));
            }
            Some(Options::RandomPassword(random)) => Credential::Random(random.clone()),
            Some(Options::NoPassword(_)) => Credential::None,
            Some(Options::Sso(_)) => Credential::Sso,
            Some(Options::EncryptedPassword(given)) => {
                if !encryption.is_empty() {
                    return Err(malformed(
                        "encryption configs should never be supplied for encrypted passwords; leave encryption_configs out",
                    ));
                }
                if given.encrypted_passwords.is_empty() {
                    return Ok(Credential::Unspecified);
                }
                let Some(password) = self.settings.keys.open(&given.encrypted_passwords) else {
                    return Err(malformed(
                        "client-secret is required to read an encrypted password; ask for a random one in a one-shot run",
                    ));
                };
                Credential::Given(password?)
            }
        })
    }
}
