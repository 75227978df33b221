//! The hybrid recipient of age, `age1pq1…`: ML-KEM-768 together with X25519 (X-Wing) under HPKE.
//!
//! The `age` crate does not know this recipient, so its stanza is made here, from the primitives of aws-lc. Owns the
//! combination of the two shared secrets and the base mode of HPKE (RFC 9180) with HKDF-SHA256 and ChaCha20-Poly1305.
//! Facts: C2SP `age.md`, draft-connolly-cfrg-xwing-kem, RFC 9180.

use std::collections::HashSet;

use age::{EncryptError, Recipient};
use age_core::{
    format::{FileKey, Stanza},
    primitives::bech32_decode,
    secrecy::ExposeSecret as _,
};
use aws_lc_rs::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    agreement::{self, X25519},
    digest,
    error::Unspecified,
    hmac,
    kem::{EncapsulationKey, ML_KEM_768},
};
use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use zeroize::Zeroizing;

use super::envelope::failed;

const HRP: &str = "age1pq";
const TAG: &str = "mlkem768x25519";
const INFO: &[u8] = b"age-encryption.org/mlkem768x25519";
const XWING_LABEL: &[u8] = br"\.//^\";
const XWING: u16 = 0x647a;
const X25519_LEN: usize = 32;

/// A hybrid public key.
#[derive(Debug)]
pub(super) struct HybridRecipient {
    kem: EncapsulationKey,
    point: [u8; X25519_LEN],
}

impl HybridRecipient {
    /// Reads the text that begins with `age1pq1`; `None` when it is no such key.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes: Vec<u8> = bech32_decode(
            text,
            |_| (),
            |hrp| (hrp.as_str() == HRP).then_some(()).ok_or(()),
            |_, bytes| Ok(bytes.collect()),
        )
        .ok()?;
        let (kem, point) = bytes
            .split_last_chunk::<X25519_LEN>()
            .map(|(a, b)| (a, *b))?;
        Some(Self {
            kem: EncapsulationKey::new(&ML_KEM_768, kem).ok()?,
            point,
        })
    }

    /// A fresh shared secret and what the owner of the key needs to get it.
    fn encapsulate(&self) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), Unspecified> {
        let ephemeral = agreement::PrivateKey::generate(&X25519)?;
        let own_point = ephemeral.compute_public_key()?;
        let (ciphertext, lattice_secret) = self.kem.encapsulate()?;
        let public = agreement::UnparsedPublicKey::new(&X25519, self.point);
        let secret = agreement::agree(&ephemeral, public, Unspecified, |curve_secret| {
            Ok(combined(
                lattice_secret.as_ref(),
                curve_secret,
                own_point.as_ref(),
                &self.point,
            ))
        })?;
        Ok((secret, [ciphertext.as_ref(), own_point.as_ref()].concat()))
    }
}

impl Recipient for HybridRecipient {
    fn wrap_file_key(
        &self,
        file_key: &FileKey,
    ) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let wrap = || {
            let (secret, encapsulated) = self.encapsulate()?;
            let (key, nonce) = hpke_base(XWING, &secret, INFO)?;
            let mut body = file_key.expose_secret().to_vec();
            key.seal_in_place_append_tag(nonce, Aad::empty(), &mut body)?;
            Ok((encapsulated, body))
        };
        let (encapsulated, body) = wrap().map_err(|Unspecified| failed())?;
        let stanza = Stanza {
            tag: TAG.to_owned(),
            args: vec![BASE64_STANDARD_NO_PAD.encode(encapsulated)],
            body,
        };
        // The label keeps other writers from adding a recipient that is not safe against quantum computers.
        Ok((vec![stanza], HashSet::from(["postquantum".to_owned()])))
    }
}

/// The combiner of X-Wing: SHA3-256 over both secrets, both points and a label.
fn combined(
    lattice_secret: &[u8],
    curve_secret: &[u8],
    sender: &[u8],
    receiver: &[u8],
) -> Zeroizing<Vec<u8>> {
    let mut running = digest::Context::new(&digest::SHA3_256);
    for part in [lattice_secret, curve_secret, sender, receiver, XWING_LABEL] {
        running.update(part);
    }
    Zeroizing::new(running.finish().as_ref().to_vec())
}

/// The key schedule of HPKE in base mode, and the first nonce: each key is used once.
fn hpke_base(kem: u16, secret: &[u8], info: &[u8]) -> Result<(LessSafeKey, Nonce), Unspecified> {
    let (key, nonce) = hpke_schedule(kem, secret, info);
    let nonce = Nonce::try_assume_unique_for_key(nonce.as_ref().get(..12).ok_or(Unspecified)?)?;
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key.as_ref())?);
    Ok((key, nonce))
}

fn hpke_schedule(kem: u16, secret: &[u8], info: &[u8]) -> (hmac::Tag, hmac::Tag) {
    // HPKE, the KEM, HKDF-SHA256, ChaCha20-Poly1305.
    let suite = [b"HPKE".as_slice(), &kem.to_be_bytes(), &[0, 1, 0, 3]].concat();
    let extract = |salt: &[u8], label: &[u8], input: &[u8]| {
        let mut running = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, salt));
        for part in [b"HPKE-v1", suite.as_slice(), label, input] {
            running.update(part);
        }
        running.sign()
    };
    let psk_id_hash = extract(b"", b"psk_id_hash", b"");
    let info_hash = extract(b"", b"info_hash", info);
    let context = [[0].as_slice(), psk_id_hash.as_ref(), info_hash.as_ref()].concat();
    let extracted = extract(secret, b"secret", b"");
    // One round of HKDF gives 32 bytes, and no output here is longer.
    let expand = |label: &[u8], length: u8| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, extracted.as_ref());
        let mut running = hmac::Context::with_key(&key);
        for part in [
            [0, length].as_slice(),
            b"HPKE-v1",
            &suite,
            label,
            &context,
            &[1],
        ] {
            running.update(part);
        }
        running.sign()
    };
    (expand(b"key", 32), expand(b"base_nonce", 12))
}

#[cfg(test)]
mod tests {
    use age::{DecryptError, Identity};
    use aws_lc_rs::kem::{Ciphertext, DecapsulationKey};

    use super::{
        super::{envelope, hex},
        *,
    };

    struct HybridIdentity {
        kem: DecapsulationKey,
        curve: agreement::PrivateKey,
    }

    impl HybridIdentity {
        fn generate() -> Self {
            Self {
                kem: DecapsulationKey::generate(&ML_KEM_768).unwrap(),
                curve: agreement::PrivateKey::generate(&X25519).unwrap(),
            }
        }

        fn recipient(&self) -> String {
            let kem = self.kem.encapsulation_key().unwrap().key_bytes().unwrap();
            let point = self.curve.compute_public_key().unwrap();
            let bytes = [kem.as_ref(), point.as_ref()].concat();
            age_core::primitives::bech32_encode(bech32::Hrp::parse(HRP).unwrap(), &bytes)
        }
    }

    impl Identity for HybridIdentity {
        fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
            if stanza.tag != TAG {
                return None;
            }
            assert_eq!(stanza.args.len(), 1);
            let encapsulated = BASE64_STANDARD_NO_PAD.decode(&stanza.args[0]).unwrap();
            let (ciphertext, sender) = encapsulated.split_last_chunk::<X25519_LEN>()?;
            let lattice = self.kem.decapsulate(Ciphertext::from(ciphertext)).unwrap();
            let own = self.curve.compute_public_key().unwrap();
            let public = agreement::UnparsedPublicKey::new(&X25519, sender);
            let secret = agreement::agree(&self.curve, public, Unspecified, |secret| {
                Ok(combined(lattice.as_ref(), secret, sender, own.as_ref()))
            })
            .unwrap();
            let (key, nonce) = hpke_base(XWING, &secret, INFO).unwrap();
            let mut body = stanza.body.clone();
            let opened = key.open_in_place(nonce, Aad::empty(), &mut body).ok()?;
            Some(Ok(FileKey::new(Box::new((&*opened).try_into().unwrap()))))
        }
    }

    #[test]
    fn what_is_sealed_to_a_hybrid_key_opens_with_it_and_with_no_other() {
        let identity = HybridIdentity::generate();
        let text = identity.recipient();
        assert!(text.starts_with("age1pq1"));
        let recipient = HybridRecipient::parse(&text).unwrap();
        let sealed = envelope::seal(&recipient, b"password-SECRETSEED").unwrap();
        let opened = envelope::open(&identity, &sealed).unwrap();
        assert_eq!(opened.as_slice(), b"password-SECRETSEED");
        assert!(envelope::open(&HybridIdentity::generate(), &sealed).is_err());
    }

    #[test]
    fn a_text_that_is_no_hybrid_key_is_refused() {
        let text = HybridIdentity::generate().recipient();
        for wrong in [
            text.replace("age1pq1", "age1qp1"),
            text.to_uppercase(),
            text.split_at(text.len() - 1).0.to_owned(),
            "age1pq1".to_owned(),
            "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj".to_owned(),
        ] {
            assert!(HybridRecipient::parse(&wrong).is_none());
        }
    }

    /// RFC 9180, appendix A.2.1: the same schedule with another KEM.
    #[test]
    fn the_secret_of_rfc_9180_gives_the_key_and_nonce_of_rfc_9180() {
        let secret = [
            0x0b, 0xbe, 0x78, 0x49, 0x04, 0x12, 0xb4, 0xbb, 0xea, 0x48, 0x12, 0x66, 0x6f, 0x79,
            0x16, 0x93, 0x2b, 0x82, 0x8b, 0xba, 0x79, 0x94, 0x24, 0x24, 0xab, 0xb6, 0x52, 0x44,
            0x93, 0x0d, 0x69, 0xa7,
        ];
        let (key, nonce) = hpke_schedule(0x0020, &secret, b"Ode on a Grecian Urn");
        assert_eq!(
            hex(key.as_ref()),
            "ad2744de8e17f4ebba575b3f5f5a8fa1f69c2a07f6e7500bc60ca6e3e3ec1c91"
        );
        assert_eq!(hex(&nonce.as_ref()[..12]), "5c4d98150661b848853b547f");
    }
}
