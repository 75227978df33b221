//! age files with one recipient, and the stanzas by which Ed25519 and RSA keys are recipients of them.
//!
//! The file format is the `age` crate's. Its own support of SSH keys is not used: it brings in the `rsa` crate, whose
//! operations leak timing (RUSTSEC-2023-0071), and refuses large keys; both stanzas are short when aws-lc does the work.
//! Invariants: a file has exactly one recipient; intermediate secrets are wiped. Facts: C2SP `age.md` and the README of
//! age on SSH keys.

use std::{
    collections::HashSet,
    io::{self, Read as _, Write as _},
    iter,
};

use age::{DecryptError, Decryptor, EncryptError, Encryptor, Identity, Recipient};
use age_core::{
    format::{FILE_KEY_BYTES, FileKey, Stanza},
    primitives::{aead_decrypt, aead_encrypt, hkdf},
    secrecy::ExposeSecret as _,
};
use aws_lc_rs::{
    agreement::{self, X25519},
    error::Unspecified,
    rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey},
};
use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use curve25519_dalek::edwards::CompressedEdwardsY;
use zeroize::Zeroizing;

use super::{Sha256, jwk::Ed25519Jwk};

const ED25519_TAG: &str = "ssh-ed25519";
const ED25519_LABEL: &[u8] = b"age-encryption.org/v1/ssh-ed25519";
const RSA_TAG: &str = "ssh-rsa";
const RSA_LABEL: &[u8] = b"age-encryption.org/v1/ssh-rsa";

/// An age file of these bytes.
pub(super) fn seal(recipient: &dyn Recipient, plaintext: &[u8]) -> Result<Vec<u8>, EncryptError> {
    let mut file = Vec::new();
    let mut writer = Encryptor::with_recipients(iter::once(recipient))?.wrap_output(&mut file)?;
    writer.write_all(plaintext)?;
    writer.finish()?;
    Ok(file)
}

/// The bytes of an age file.
pub(super) fn open(
    identity: &dyn Identity,
    file: &[u8],
) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    let mut reader = Decryptor::new_buffered(file)?.decrypt(iter::once(identity))?;
    // Large enough for all of it, so that the buffer never moves and leaves a copy behind.
    let mut plaintext = Zeroizing::new(Vec::with_capacity(file.len()));
    reader.read_to_end(&mut plaintext)?;
    Ok(plaintext)
}

/// A failure of a primitive, which has nothing to tell.
pub(super) fn failed() -> EncryptError {
    EncryptError::Io(io::Error::other("the file key could not be wrapped"))
}

/// The SSH wire form: each part after its length.
fn ssh_wire(parts: &[&[u8]]) -> Vec<u8> {
    let mut wire = Vec::new();
    for part in parts {
        wire.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        wire.extend_from_slice(part);
    }
    wire
}

/// The first argument of both stanzas: four bytes of the digest of the key.
fn ssh_tag(wire: &[u8]) -> String {
    let digest = Sha256::digest(wire);
    BASE64_STANDARD_NO_PAD.encode(digest.get(..4).unwrap_or_default())
}

/// An Ed25519 public key as a recipient.
#[derive(Debug)]
pub(super) struct Ed25519Recipient {
    wire: Vec<u8>,
    /// The same key on Curve25519.
    point: [u8; 32],
}

impl Ed25519Recipient {
    /// `None` when the bytes are no point of the curve.
    pub(super) fn new(public: &[u8; 32]) -> Option<Self> {
        Some(Self {
            wire: ssh_wire(&[ED25519_TAG.as_bytes(), public]),
            point: CompressedEdwardsY(*public)
                .decompress()?
                .to_montgomery()
                .to_bytes(),
        })
    }

    /// The key that wraps the file key, from what the two keys agreed on.
    fn wrap_key(
        &self,
        agreed: &[u8; 32],
        ephemeral: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, Unspecified> {
        let tweak = Zeroizing::new(hkdf(&self.wire, ED25519_LABEL, &[]));
        let tweak = agreement::PrivateKey::from_private_key(&X25519, tweak.as_slice())?;
        let shared = agree(&tweak, agreed)?;
        let salt = [ephemeral, &self.point].concat();
        Ok(Zeroizing::new(hkdf(
            &salt,
            ED25519_LABEL,
            shared.as_slice(),
        )))
    }
}

fn agree(
    private: &agreement::PrivateKey,
    public: &[u8],
) -> Result<Zeroizing<[u8; 32]>, Unspecified> {
    let public = agreement::UnparsedPublicKey::new(&X25519, public);
    agreement::agree(private, public, Unspecified, |secret| {
        secret.try_into().map(Zeroizing::new).or(Err(Unspecified))
    })
}

impl Recipient for Ed25519Recipient {
    fn wrap_file_key(
        &self,
        file_key: &FileKey,
    ) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let wrap = || {
            let ephemeral = agreement::PrivateKey::generate(&X25519)?;
            let public = ephemeral.compute_public_key()?;
            let agreed = agree(&ephemeral, &self.point)?;
            let key = self.wrap_key(&agreed, public.as_ref())?;
            Ok(Stanza {
                tag: ED25519_TAG.to_owned(),
                args: vec![
                    ssh_tag(&self.wire),
                    BASE64_STANDARD_NO_PAD.encode(public.as_ref()),
                ],
                body: aead_encrypt(&key, file_key.expose_secret()),
            })
        };
        let stanza = wrap().map_err(|Unspecified| failed())?;
        Ok((vec![stanza], HashSet::new()))
    }
}

/// An Ed25519 private key that opens what was sealed to its public half.
pub(super) struct Ed25519Identity {
    recipient: Ed25519Recipient,
    private: agreement::PrivateKey,
}

impl Ed25519Identity {
    /// `None` when the key cannot be used on Curve25519.
    pub(super) fn new(key: &Ed25519Jwk) -> Option<Self> {
        Some(Self {
            recipient: Ed25519Recipient::new(key.public_key())?,
            private: agreement::PrivateKey::from_private_key(&X25519, key.scalar().as_slice())
                .ok()?,
        })
    }
}

impl Identity for Ed25519Identity {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        let [tag, ephemeral] = stanza.args.as_slice() else {
            return None;
        };
        if stanza.tag != ED25519_TAG || *tag != ssh_tag(&self.recipient.wire) {
            return None;
        }
        let unwrap = || {
            let ephemeral = BASE64_STANDARD_NO_PAD
                .decode(ephemeral)
                .or(Err(DecryptError::InvalidHeader))?;
            agree(&self.private, &ephemeral)
                .and_then(|agreed| self.recipient.wrap_key(&agreed, &ephemeral))
                .or(Err(DecryptError::InvalidHeader))
                .and_then(|key| {
                    aead_decrypt(&key, FILE_KEY_BYTES, &stanza.body)
                        .or(Err(DecryptError::DecryptionFailed))
                })
        };
        Some(unwrap().and_then(file_key))
    }
}

fn file_key(bytes: Vec<u8>) -> Result<FileKey, DecryptError> {
    let bytes = Zeroizing::new(bytes);
    FileKey::try_init_with_mut(|key| match bytes.as_slice().try_into() {
        Ok(bytes) => {
            *key = bytes;
            Ok(())
        }
        Err(_) => Err(DecryptError::DecryptionFailed),
    })
}

/// An RSA public key as a recipient.
#[derive(Debug)]
pub(super) struct RsaRecipient {
    wire: Vec<u8>,
    key: OaepPublicEncryptingKey,
}

impl RsaRecipient {
    /// Numbers are big-endian without leading zeros; `None` when they make no key.
    pub(super) fn new(n: &[u8], e: &[u8]) -> Option<Self> {
        let (n, e) = (der_number(n), der_number(e));
        let key = PublicEncryptingKey::from_der(&rsa_der(&n, &e)).ok()?;
        Some(Self {
            wire: ssh_wire(&[RSA_TAG.as_bytes(), &e, &n]),
            key: OaepPublicEncryptingKey::new(key).ok()?,
        })
    }
}

impl Recipient for RsaRecipient {
    fn wrap_file_key(
        &self,
        file_key: &FileKey,
    ) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let mut body = vec![0; self.key.ciphertext_size()];
        self.key
            .encrypt(
                &OAEP_SHA256_MGF1SHA256,
                file_key.expose_secret(),
                &mut body,
                Some(RSA_LABEL),
            )
            .map_err(|Unspecified| failed())?;
        let stanza = Stanza {
            tag: RSA_TAG.to_owned(),
            args: vec![ssh_tag(&self.wire)],
            body,
        };
        Ok((vec![stanza], HashSet::new()))
    }
}

/// A positive number in DER and in SSH: a zero in front where the first bit is set.
fn der_number(number: &[u8]) -> Vec<u8> {
    let zero: &[u8] = match number.first() {
        Some(first) if *first < 0x80 => &[],
        _ => &[0],
    };
    [zero, number].concat()
}

/// The `SubjectPublicKeyInfo` of an RSA key.
fn rsa_der(n: &[u8], e: &[u8]) -> Vec<u8> {
    /// The `AlgorithmIdentifier` of rsaEncryption with its NULL.
    const ALGORITHM: [u8; 15] = [
        0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    let element = |tag: u8, content: &[&[u8]]| {
        let content = content.concat();
        let length = content.len().to_be_bytes();
        let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
        let mut der = vec![tag];
        match length.as_slice() {
            [short] if *short < 0x80 => der.push(*short),
            long => {
                der.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
                der.extend_from_slice(long);
            }
        }
        der.extend(content);
        der
    };
    let key = element(0x30, &[&element(0x02, &[n]), &element(0x02, &[e])]);
    element(0x30, &[&ALGORITHM, &element(0x03, &[&[0], &key])])
}

/// An RSA private key, as the other side has it.
#[cfg(any(test, feature = "simulator"))]
#[derive(Debug)]
pub(super) struct RsaIdentity {
    key: aws_lc_rs::rsa::OaepPrivateDecryptingKey,
    n: Vec<u8>,
    e: Vec<u8>,
}

#[cfg(any(test, feature = "simulator"))]
impl RsaIdentity {
    /// A fresh key of 2048 bits.
    pub(super) fn generate() -> Option<Self> {
        use aws_lc_rs::{
            encoding::{AsDer as _, PublicKeyX509Der},
            rsa::{KeySize, OaepPrivateDecryptingKey, PrivateDecryptingKey},
        };

        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).ok()?;
        let public: PublicKeyX509Der<'_> = private.public_key().as_der().ok()?;
        // Of this size the modulus is always at the same place, and the exponent (65537) at the end.
        let (n, e) = (
            public.as_ref().get(33..289)?,
            public.as_ref().get(291..294)?,
        );
        Some(Self {
            n: n.to_vec(),
            e: e.to_vec(),
            key: OaepPrivateDecryptingKey::new(private).ok()?,
        })
    }

    /// Modulus and exponent.
    pub(super) fn public(&self) -> (&[u8], &[u8]) {
        (&self.n, &self.e)
    }
}

#[cfg(any(test, feature = "simulator"))]
impl Identity for RsaIdentity {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        let wire = ssh_wire(&[
            RSA_TAG.as_bytes(),
            &der_number(&self.e),
            &der_number(&self.n),
        ]);
        if stanza.tag != RSA_TAG || stanza.args != [ssh_tag(&wire)] {
            return None;
        }
        let mut buffer = Zeroizing::new(vec![0; self.key.min_output_size()]);
        let opened = self.key.decrypt(
            &OAEP_SHA256_MGF1SHA256,
            &stanza.body,
            buffer.as_mut_slice(),
            Some(RSA_LABEL),
        );
        Some(match opened {
            Ok(bytes) => file_key(bytes.to_vec()),
            Err(Unspecified) => Err(DecryptError::DecryptionFailed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ed25519_key_opens_what_was_sealed_to_it_and_nothing_else() {
        let key = Ed25519Jwk::generate().unwrap();
        let identity = Ed25519Identity::new(&key).unwrap();
        let recipient = Ed25519Recipient::new(key.public_key()).unwrap();
        for length in [0, 1, 64 * 1024 - 1, 64 * 1024, 200_000] {
            let plaintext = vec![7; length];
            let sealed = seal(&recipient, &plaintext).unwrap();
            assert_eq!(*open(&identity, &sealed).unwrap(), plaintext);
        }
        let sealed = seal(&recipient, b"x").unwrap();
        let other = Ed25519Identity::new(&Ed25519Jwk::generate().unwrap()).unwrap();
        assert!(matches!(
            open(&other, &sealed),
            Err(DecryptError::NoMatchingKeys)
        ));
        for position in 0..sealed.len() {
            let mut touched = sealed.clone();
            touched[position] ^= 1;
            assert!(open(&identity, &touched).is_err(), "{position}");
        }
    }

    #[test]
    fn bytes_that_are_no_point_are_no_recipient() {
        assert!(Ed25519Recipient::new(&[2; 32]).is_none());
    }

    #[test]
    fn a_key_that_agrees_on_nothing_is_refused() {
        // The neutral element: whoever agrees with it gets zero.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let recipient = Ed25519Recipient::new(&neutral).unwrap();
        assert!(seal(&recipient, b"x").is_err());
    }

    #[test]
    fn an_rsa_key_opens_what_was_sealed_to_it_and_nothing_else() {
        let identity = RsaIdentity::generate().unwrap();
        let (n, e) = identity.public();
        assert_eq!((n.len(), e), (256, [1, 0, 1].as_slice()));
        let sealed = seal(&RsaRecipient::new(n, e).unwrap(), b"password-SECRETSEED").unwrap();
        assert_eq!(
            open(&identity, &sealed).unwrap().as_slice(),
            b"password-SECRETSEED"
        );
        let other = RsaIdentity::generate().unwrap();
        assert!(open(&other, &sealed).is_err());
    }

    #[test]
    fn numbers_that_make_no_rsa_key_are_no_recipient() {
        let modulus = [0xff; 256];
        for (n, e) in [
            (modulus.as_slice(), [].as_slice()),
            (&modulus, &[1]),
            (&modulus, &[2]),
            (&modulus, &[0xff; 256]),
            (&modulus[..128], &[1, 0, 1]),
            (&[], &[1, 0, 1]),
        ] {
            assert!(RsaRecipient::new(n, e).is_none(), "{} {e:?}", n.len());
        }
        let even = [[0xff; 255].as_slice(), &[0xfe]].concat();
        let refused = RsaRecipient::new(&even, &[1, 0, 1]).is_none_or(|r| seal(&r, b"x").is_err());
        assert!(refused);
    }

    #[test]
    fn der_lengths_have_the_short_form_below_128_and_the_long_form_from_there() {
        let der = rsa_der(&[1; 3], &[3]);
        assert_eq!(der[..2], [0x30, 0x1c]);
        let der = rsa_der(&[1; 256], &[3]);
        assert_eq!(der[..4], [0x30, 0x82, 0x01, 0x1f]);
    }
}
