//! The credential that a request asks for, and the keys that its secrets are encrypted to.
//!
//! Everything is read and tried before the directory is touched: a key that turns out to be bad after a password was made
//! up would lose the password. Facts and the words of refusals that the SDK has too: `pkg/crypto` of the SDK.

use super::{Error, Request, Shared};
use crate::{
    config::ProvisioningMode,
    connector::provision::Credential,
    crypto::{
        open,
        seal::{Plaintext, Recipients},
    },
    proto::connector::{self as v2, credential_options::Options},
};

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
                let Some(key) = &self.settings.key else {
                    return Err(malformed(
                        "client-secret is required to read an encrypted password; ask for a random one in a one-shot run",
                    ));
                };
                Credential::Given(open::password(key, &given.encrypted_passwords)?)
            }
        })
    }
}
