//! The client assertion: a compact JWS signed with `EdDSA`.
//!
//! Owns the exact header and claims that the token endpoint expects. It signs only; nothing here verifies.

use std::time::Duration;

use aws_lc_rs::rand;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::{hex, jwk::Ed25519Jwk};

/// How long an assertion is valid, and how far its `nbf` lies in the past for the sake of slow clocks.
pub const ASSERTION_WINDOW: Duration = Duration::from_mins(2);

/// The assertion could not be made.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system has no randomness to give.
    #[error("the system gave no random bytes")]
    Random,
    /// The signature failed.
    #[error("the client assertion could not be signed")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: i64,
    nbf: i64,
    exp: i64,
}

/// Signs an assertion that `client_id` is who it says, for `audience`, valid around `now`.
///
/// The header has `alg`, a fresh `nonce` of 16 random bytes in hexadecimal, and `kid` if the key has one; no `typ`. The
/// audience is a plain string, and there is no `jti`: this is the form that the SDK sends.
pub fn client_assertion(
    key: &Ed25519Jwk,
    client_id: &str,
    audience: &str,
    now: Timestamp,
) -> Result<String, Error> {
    let mut nonce = [0; 16];
    if rand::fill(&mut nonce).is_err() {
        return Err(Error::Random);
    }
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = None;
    header.kid = key.kid().map(str::to_owned);
    header.nonce = Some(hex(&nonce));
    let now = now.as_second();
    let window = i64::try_from(ASSERTION_WINDOW.as_secs()).unwrap_or(i64::MAX);
    let claims = Claims {
        iss: client_id,
        sub: client_id,
        aud: audience,
        iat: now,
        nbf: now.saturating_sub(window),
        exp: now.saturating_add(window),
    };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(&key.pkcs8()))
        .map_err(Error::Sign)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
    use base64::Engine as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::crypto::jwk::BASE64URL;

    fn parts(token: &str) -> (Value, Value, Vec<u8>, String) {
        let mut parts = token.split('.');
        let mut next = || parts.next().unwrap();
        let (header, claims, signature) = (next(), next(), next());
        let decode = |text| BASE64URL.decode(text).unwrap();
        (
            serde_json::from_slice(&decode(header)).unwrap(),
            serde_json::from_slice(&decode(claims)).unwrap(),
            decode(signature),
            format!("{header}.{claims}"),
        )
    }

    #[test]
    fn an_assertion_says_exactly_what_the_token_endpoint_expects_and_verifies() {
        let key = Ed25519Jwk::from_seed([9; 32], None).unwrap();
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let token = client_assertion(&key, "name@host.test/abc", "host.test", now).unwrap();
        let (header, claims, signature, signed) = parts(&token);

        let nonce = header["nonce"].as_str().unwrap().to_owned();
        assert_eq!(header, json!({"alg": "EdDSA", "nonce": nonce}));
        assert_eq!(nonce.len(), 32);
        assert!(nonce.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')));
        assert_eq!(
            claims,
            json!({
                "iss": "name@host.test/abc",
                "sub": "name@host.test/abc",
                "aud": "host.test",
                "iat": 1_700_000_000,
                "nbf": 1_699_999_880,
                "exp": 1_700_000_120,
            })
        );
        UnparsedPublicKey::new(&ED25519, key.public_key())
            .verify(signed.as_bytes(), &signature)
            .unwrap();
    }

    #[test]
    fn the_key_id_is_in_the_header_when_the_key_has_one() {
        let key = Ed25519Jwk::from_seed([9; 32], Some("k-1".to_owned())).unwrap();
        let token = client_assertion(&key, "n@h/", "h", Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(parts(&token).0["kid"], "k-1");
    }

    #[test]
    fn no_two_assertions_share_a_nonce() {
        let key = Ed25519Jwk::from_seed([9; 32], None).unwrap();
        let nonce = || {
            let token = client_assertion(&key, "n@h/", "h", Timestamp::UNIX_EPOCH).unwrap();
            parts(&token).0["nonce"].clone()
        };
        assert_ne!(nonce(), nonce());
    }

    /// RFC 8037, appendix A.4: the same key and input give the same signature.
    #[test]
    fn signing_the_input_of_rfc_8037_gives_the_signature_of_rfc_8037() {
        let key = Ed25519Jwk::from_json(
            br#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
                "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
        )
        .unwrap();
        let input = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let expected = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

        let by_library = jsonwebtoken::crypto::sign(
            input.as_bytes(),
            &EncodingKey::from_ed_der(&key.pkcs8()),
            Algorithm::EdDSA,
        )
        .unwrap();
        assert_eq!(by_library, expected);
        let direct = Ed25519KeyPair::from_pkcs8(&key.pkcs8()).unwrap();
        assert_eq!(BASE64URL.encode(direct.sign(input.as_bytes())), expected);
    }
}
