//! Compact JWE (RFC 7516) to elliptic-curve keys: ECDH-ES (RFC 7518, section 4.6) with A256GCM.
//!
//! Owns the key derivation and the five parts of the text. Every text has a fresh ephemeral key and a fresh nonce; the
//! derived key is wiped. Only this one combination of algorithms is made, and only it is opened again.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    agreement, digest,
    error::Unspecified,
    rand,
};
use base64::Engine as _;
use zeroize::Zeroizing;

use super::{jwk::BASE64URL, public_key::Curve};

const ENCRYPTION: &str = "A256GCM";

/// Encrypts to a point of a curve, given as coordinates of the curve's length.
pub(super) fn seal(
    curve: Curve,
    x: &[u8],
    y: &[u8],
    plaintext: &[u8],
) -> Result<String, Unspecified> {
    let ephemeral = agreement::PrivateKey::generate(curve.agreement())?;
    let point = ephemeral.compute_public_key()?;
    let (epk_x, epk_y) = point
        .as_ref()
        .get(1..)
        .and_then(|both| both.split_at_checked(curve.coordinate_len()))
        .ok_or(Unspecified)?;
    let header = BASE64URL.encode(format!(
        r#"{{"alg":"ECDH-ES","enc":"{ENCRYPTION}","epk":{{"kty":"EC","crv":"{}","x":"{}","y":"{}"}}}}"#,
        curve.name(),
        BASE64URL.encode(epk_x),
        BASE64URL.encode(epk_y),
    ));
    let key = agreed_key(curve, &ephemeral, x, y)?;
    let mut nonce = [0; NONCE_LEN];
    rand::fill(&mut nonce)?;
    let (ciphertext, tag) = encrypt(&key, nonce, header.as_bytes(), plaintext)?;
    Ok(format!(
        "{header}..{}.{}.{}",
        BASE64URL.encode(nonce),
        BASE64URL.encode(ciphertext),
        BASE64URL.encode(tag)
    ))
}

/// Decrypts what [`seal`] made for this key.
#[cfg(any(test, feature = "simulator"))]
pub(super) fn open(
    curve: Curve,
    private: &agreement::PrivateKey,
    text: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
    use aws_lc_rs::aead::MAX_TAG_LEN;

    use super::public_key::PublicKey;

    let text = std::str::from_utf8(text).or(Err(Unspecified))?;
    let mut parts = text.split('.');
    let mut next = || parts.next().ok_or(Unspecified);
    let (header, wrapped, nonce, ciphertext, tag) = (next()?, next()?, next()?, next()?, next()?);
    if parts.next().is_some() || !wrapped.is_empty() {
        return Err(Unspecified);
    }
    let decode = |text: &str| BASE64URL.decode(text).or(Err(Unspecified));
    let members: serde_json::Value =
        serde_json::from_slice(&decode(header)?).or(Err(Unspecified))?;
    let is =
        |member: &str, value: &str| members.get(member).and_then(|m| m.as_str()) == Some(value);
    if !is("alg", "ECDH-ES") || !is("enc", ENCRYPTION) {
        return Err(Unspecified);
    }
    let epk = members.get("epk").ok_or(Unspecified)?.to_string();
    let key = match PublicKey::from_json(epk.as_bytes()) {
        Ok(PublicKey::Ec { curve: of, x, y }) if of == curve => agreed_key(curve, private, &x, &y)?,
        _ => return Err(Unspecified),
    };
    let nonce: [u8; NONCE_LEN] = decode(nonce)?.try_into().or(Err(Unspecified))?;
    let tag: [u8; MAX_TAG_LEN] = decode(tag)?.try_into().or(Err(Unspecified))?;
    let mut buffer = Zeroizing::new(decode(ciphertext)?);
    let length = buffer.len();
    buffer.extend_from_slice(&tag);
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_slice())?);
    key.open_in_place(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(header.as_bytes()),
        buffer.as_mut_slice(),
    )?;
    buffer.truncate(length);
    Ok(buffer)
}

/// The content key of an agreement with nothing known of either party.
fn agreed_key(
    curve: Curve,
    private: &agreement::PrivateKey,
    x: &[u8],
    y: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
    let point = [[4].as_slice(), x, y].concat();
    let public = agreement::UnparsedPublicKey::new(curve.agreement(), point);
    agreement::agree(private, public, Unspecified, |secret| {
        Ok(derived_key(secret, ENCRYPTION, b"", b"", 32))
    })
}

/// The Concat KDF with SHA-256, for keys of at most 32 bytes: one round is enough.
fn derived_key(
    secret: &[u8],
    algorithm: &str,
    party_u: &[u8],
    party_v: &[u8],
    length: usize,
) -> Zeroizing<Vec<u8>> {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
    let mut running = digest::Context::new(&digest::SHA256);
    running.update(&number(1));
    running.update(secret);
    for part in [algorithm.as_bytes(), party_u, party_v] {
        running.update(&number(part.len()));
        running.update(part);
    }
    running.update(&number(length * 8));
    let mut key = Zeroizing::new(running.finish().as_ref().to_vec());
    key.truncate(length);
    key
}

fn encrypt(
    key: &[u8],
    nonce: [u8; NONCE_LEN],
    authenticated: &[u8],
    plaintext: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), Unspecified> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key)?);
    let mut buffer = Zeroizing::new(plaintext.to_vec());
    let tag = key.seal_in_place_separate_tag(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(authenticated),
        buffer.as_mut_slice(),
    )?;
    Ok((std::mem::take(&mut *buffer), tag.as_ref().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Vec<u8> {
        BASE64URL.decode(text).unwrap()
    }

    /// RFC 7518, appendix C: both parties derive the published key.
    #[test]
    fn the_agreement_of_rfc_7518_gives_the_key_of_rfc_7518() {
        let alice = (
            decode("0_NxaRPUMQoAJt50Gz8YiTr8gRTwyEaCumd-MToTmIo"),
            decode("gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0"),
            decode("SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps"),
        );
        let bob = (
            decode("VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw"),
            decode("weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ"),
            decode("e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck"),
        );
        for (own, other) in [(&alice, &bob), (&bob, &alice)] {
            let private =
                agreement::PrivateKey::from_private_key(&agreement::ECDH_P256, &own.0).unwrap();
            let point = [[4].as_slice(), &other.1, &other.2].concat();
            let public = agreement::UnparsedPublicKey::new(&agreement::ECDH_P256, point);
            let key = agreement::agree(&private, public, Unspecified, |secret| {
                Ok(derived_key(secret, "A128GCM", b"Alice", b"Bob", 16))
            })
            .unwrap();
            assert_eq!(*key, decode("VqqN6vgjbSBcIijNcacQGg"));
        }
    }

    /// RFC 7516, appendix A.1: the published key and nonce give the published ciphertext and tag.
    #[test]
    fn the_content_of_rfc_7516_encrypts_to_the_text_of_rfc_7516() {
        let key = [
            177, 161, 244, 128, 84, 143, 225, 115, 63, 180, 3, 255, 107, 154, 212, 246, 138, 7,
            110, 91, 112, 46, 34, 105, 47, 130, 203, 46, 122, 234, 64, 252,
        ];
        let nonce = [227, 197, 117, 252, 2, 219, 233, 68, 180, 225, 77, 219];
        let (ciphertext, tag) = encrypt(
            &key,
            nonce,
            b"eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ",
            b"The true sign of intelligence is not knowledge but imagination.",
        )
        .unwrap();
        assert_eq!(
            BASE64URL.encode(ciphertext),
            "5eym8TW_c8SuK0ltJ3rpYIzOeDQz7TALvtu6UG9oMo4vpzs9tX_EFShS8iB7j6jiSdiwkIr3ajwQzaBtQD_A"
        );
        assert_eq!(BASE64URL.encode(tag), "XFBoMYUZodetZdvTiFvSkQ");
    }

    #[test]
    fn every_curve_opens_what_it_sealed_and_nothing_that_was_touched() {
        for curve in [Curve::P256, Curve::P384, Curve::P521] {
            let private = agreement::PrivateKey::generate(curve.agreement()).unwrap();
            let point = private.compute_public_key().unwrap();
            let (x, y) = point.as_ref()[1..].split_at(curve.coordinate_len());
            let sealed = seal(curve, x, y, b"password-SECRETSEED").unwrap();
            assert_ne!(sealed, seal(curve, x, y, b"password-SECRETSEED").unwrap());
            let opened = open(curve, &private, sealed.as_bytes()).unwrap();
            assert_eq!(opened.as_slice(), b"password-SECRETSEED");
            for position in (0..sealed.len()).step_by(7) {
                let mut touched = sealed.clone().into_bytes();
                touched[position] = if touched[position] == b'A' {
                    b'B'
                } else {
                    b'A'
                };
                // The last character of a part may have bits that mean nothing.
                if BASE64URL.decode(&touched[position..=position]).is_ok() {
                    continue;
                }
                let same = decoded(&touched) == decoded(sealed.as_bytes());
                assert_eq!(open(curve, &private, &touched).is_ok(), same, "{position}");
            }
            let other = agreement::PrivateKey::generate(curve.agreement()).unwrap();
            assert!(open(curve, &other, sealed.as_bytes()).is_err());
        }
    }

    fn decoded(text: &[u8]) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
        let mut parts = text.split(|byte| *byte == b'.');
        // The header is authenticated as text.
        let header = parts.next()?.to_vec();
        let rest = parts
            .map(|part| BASE64URL.decode(part).ok())
            .collect::<Option<_>>()?;
        Some((header, rest))
    }

    #[test]
    fn a_point_that_is_not_on_the_curve_is_refused() {
        assert!(seal(Curve::P256, &[1; 32], &[2; 32], b"x").is_err());
    }

    #[test]
    fn a_text_of_another_shape_is_refused() {
        let private = agreement::PrivateKey::generate(&agreement::ECDH_P256).unwrap();
        for text in ["", "....", "a.b.c", "e30....", "a.b.c.d.e.f", "\u{e9}...."] {
            assert!(
                open(Curve::P256, &private, text.as_bytes()).is_err(),
                "{text}"
            );
        }
    }
}
