//! Whom the simulator lets in: client secret, client assertions and bearer tokens.
//!
//! Verification is written against the protocol alone and shares nothing with the connector's own signing code.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::{PoisonError, RwLock, RwLockWriteGuard},
    time::Duration,
};

use anyhow::Context as _;
use aws_lc_rs::{
    rand,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};

/// Seconds that an assertion reaches into the past (`nbf`) and into the future (`exp`) of `iat`.
const WINDOW: i64 = 120;
/// Seconds by which the clocks of client and server may differ.
const LEEWAY: i64 = 5;

/// The four form fields of a token request; there are no others.
const FIELDS: [&str; 4] = [
    "client_assertion",
    "client_assertion_type",
    "client_id",
    "grant_type",
];

/// The client id and the secrets that the simulator accepts.
pub(super) struct Client {
    pub(super) id: String,
    pub(super) secret: SecretString,
    audience: String,
    key_id: Option<String>,
    /// The public keys of the secrets; the first one belongs to `secret`.
    public: RwLock<Vec<Vec<u8>>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn generate(
        name: &str,
        address: SocketAddr,
        key_id: Option<String>,
    ) -> anyhow::Result<Self> {
        let (secret, public) = fresh_secret(key_id.as_deref())?;
        Ok(Self {
            id: format!("{name}@{address}/clients"),
            secret,
            audience: address.ip().to_string(),
            key_id,
            public: RwLock::new(vec![public]),
        })
    }

    /// Makes another secret that is accepted; the older ones stay so until [`Client::retire`].
    pub(super) fn rotate(&self) -> anyhow::Result<SecretString> {
        let (secret, public) = fresh_secret(self.key_id.as_deref())?;
        self.keys_mut().push(public);
        Ok(secret)
    }

    /// Accepts the newest secret only.
    pub(super) fn retire(&self) {
        let mut keys = self.keys_mut();
        let newest = keys.len().saturating_sub(1);
        keys.drain(..newest);
    }

    fn keys_mut(&self) -> RwLockWriteGuard<'_, Vec<Vec<u8>>> {
        self.public.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a token request; `used` holds the nonces seen before and gets the new one.
    pub(super) fn verify(
        &self,
        body: &[u8],
        now: Timestamp,
        used: &mut BTreeSet<String>,
    ) -> Result<(), Refusal> {
        let mut form = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(body) {
            if form
                .insert(name.clone().into_owned(), value.into_owned())
                .is_some()
            {
                return Err(Refusal::breach(&name, "is sent twice"));
            }
        }
        for name in FIELDS {
            if !form.contains_key(name) {
                return Err(Refusal::breach(name, "is missing"));
            }
        }
        if let Some(name) = form.keys().find(|name| !FIELDS.contains(&name.as_str())) {
            return Err(Refusal::breach(name, "is not a field of a token request"));
        }
        let field = |name: &str| form.get(name).map_or("", String::as_str);
        if field("grant_type") != "client_credentials" {
            return Err(Refusal::breach("grant_type", "must be client_credentials"));
        }
        if field("client_assertion_type")
            != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        {
            return Err(Refusal::breach(
                "client_assertion_type",
                "must be urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ));
        }
        if field("client_id") != self.id {
            return Err(Refusal::credentials("client_id is not known here"));
        }
        self.verify_assertion(field("client_assertion"), now, used)
    }

    fn verify_assertion(
        &self,
        assertion: &str,
        now: Timestamp,
        used: &mut BTreeSet<String>,
    ) -> Result<(), Refusal> {
        let parts: Vec<&str> = assertion.split('.').collect();
        let &[header_text, claims_text, signature_text] = parts.as_slice() else {
            return Err(Refusal::breach(
                "client_assertion",
                "must have three parts (JWS compact serialization)",
            ));
        };
        let header = object("client_assertion header", header_text)?;
        let claims = object("client_assertion claims", claims_text)?;
        let signature = URL_SAFE_NO_PAD.decode(signature_text).map_err(|_invalid| {
            Refusal::breach(
                "client_assertion signature",
                "must be base64url without padding",
            )
        })?;

        if header.get("alg").and_then(Value::as_str) != Some("EdDSA") {
            return Err(Refusal::breach("header alg", "must be EdDSA"));
        }
        let nonce = header.get("nonce").and_then(Value::as_str).unwrap_or("");
        if nonce.len() != 32
            || !nonce
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(Refusal::breach(
                "header nonce",
                "must be 32 lowercase hex characters",
            ));
        }
        match (header.get("kid"), &self.key_id) {
            (None, None) => {}
            (Some(kid), Some(expected)) if kid.as_str() == Some(expected) => {}
            (Some(_), None) => {
                return Err(Refusal::breach(
                    "header kid",
                    "must be absent: the key has none",
                ));
            }
            (_, Some(_)) => {
                return Err(Refusal::breach(
                    "header kid",
                    "must be the key id of the secret",
                ));
            }
        }
        if let Some(name) = header
            .keys()
            .find(|name| !matches!(name.as_str(), "alg" | "nonce" | "kid"))
        {
            return Err(Refusal::breach(&format!("header {name}"), "must be absent"));
        }

        for name in ["iss", "sub"] {
            if claims.get(name).and_then(Value::as_str) != Some(&self.id) {
                return Err(Refusal::breach(
                    &format!("claim {name}"),
                    "must be the client id",
                ));
            }
        }
        if claims.get("aud").and_then(Value::as_str) != Some(&self.audience) {
            return Err(Refusal::breach(
                "claim aud",
                "must be one string: the token host without its port",
            ));
        }
        let second = |name: &str| {
            claims.get(name).and_then(Value::as_i64).ok_or_else(|| {
                Refusal::breach(&format!("claim {name}"), "must be whole seconds since 1970")
            })
        };
        let (issued, not_before, expires) = (second("iat")?, second("nbf")?, second("exp")?);
        if let Some(name) = claims
            .keys()
            .find(|name| !matches!(name.as_str(), "iss" | "sub" | "aud" | "iat" | "nbf" | "exp"))
        {
            return Err(Refusal::breach(&format!("claim {name}"), "must be absent"));
        }
        if (issued - not_before - WINDOW).abs() > 1 {
            return Err(Refusal::breach("claim nbf", "must be 120 s before iat"));
        }
        if (expires - issued - WINDOW).abs() > 1 {
            return Err(Refusal::breach("claim exp", "must be 120 s after iat"));
        }

        let signed = format!("{header_text}.{claims_text}");
        let keys = self.public.read().unwrap_or_else(PoisonError::into_inner);
        let known = keys.iter().any(|key| {
            UnparsedPublicKey::new(&ED25519, key)
                .verify(signed.as_bytes(), &signature)
                .is_ok()
        });
        drop(keys);
        if !known {
            return Err(Refusal::credentials(
                "the assertion is not signed with the client's key",
            ));
        }
        let now = now.as_second();
        if not_before > now + LEEWAY || issued > now + WINDOW {
            return Err(Refusal::credentials("the assertion is not valid yet"));
        }
        if expires <= now - LEEWAY {
            return Err(Refusal::credentials("the assertion has expired"));
        }
        if !used.insert(nonce.to_owned()) {
            return Err(Refusal::breach("header nonce", "was used before"));
        }
        Ok(())
    }
}

/// A client secret and its public key.
fn fresh_secret(key_id: Option<&str>) -> anyhow::Result<(SecretString, Vec<u8>)> {
    let mut seed = [0_u8; 32];
    rand::fill(&mut seed).context("no randomness for the client secret")?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
        .context("making the key of the client secret")?;
    let public = pair.public_key().as_ref().to_vec();
    let mut jwk = json!({
        "kty": "OKP",
        "crv": "Ed25519",
        "x": URL_SAFE_NO_PAD.encode(&public),
        "d": URL_SAFE_NO_PAD.encode(seed),
    });
    if let (Some(key_id), Some(members)) = (key_id, jwk.as_object_mut()) {
        members.insert("kid".to_owned(), Value::String(key_id.to_owned()));
    }
    let payload = URL_SAFE_NO_PAD.encode(jwk.to_string());
    let secret = format!("secret-token:conductorone.com:v1:{payload}").into();
    Ok((secret, public))
}

fn object(part: &str, text: &str) -> Result<Map<String, Value>, Refusal> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_invalid| Refusal::breach(part, "must be base64url without padding"))?;
    serde_json::from_slice(&bytes)
        .map_err(|_invalid| Refusal::breach(part, "must be a JSON object"))
}

/// Why a token request was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The field or claim; empty where the credentials as a whole are wrong.
    pub(super) field: String,
    pub(super) problem: String,
    /// The request breaks the protocol, as opposed to carrying credentials that do not count.
    pub(super) is_breach: bool,
}

impl Refusal {
    pub(super) fn breach(field: &str, problem: &str) -> Self {
        Self {
            field: field.to_owned(),
            problem: problem.to_owned(),
            is_breach: true,
        }
    }

    pub(super) fn credentials(problem: &str) -> Self {
        Self {
            field: String::new(),
            problem: problem.to_owned(),
            is_breach: false,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.problem)
        } else {
            write!(f, "{} {}", self.field, self.problem)
        }
    }
}

/// The bearer tokens in circulation.
#[derive(Default)]
pub(super) struct Tokens(BTreeMap<String, Timestamp>);

impl Tokens {
    /// Issues a token; its text carries a marker that a search for leaked secrets finds.
    pub(super) fn issue(&mut self, now: Timestamp, life: Duration) -> anyhow::Result<SecretString> {
        let text = format!("sim-token-SECRETSEED-{}", random_hex()?);
        self.0.retain(|_, expires| *expires > now);
        self.0.insert(text.clone(), now.saturating_add(life)?);
        Ok(text.into())
    }

    pub(super) fn revoke_all(&mut self) {
        self.0.clear();
    }

    /// Judges the value of an `authorization` header.
    pub(super) fn check(&self, header: Option<&str>, now: Timestamp) -> Result<(), Refusal> {
        let Some(header) = header else {
            return Err(Refusal::breach("authorization", "is missing"));
        };
        let Some(token) = header.strip_prefix("Bearer ") else {
            return Err(Refusal::breach("authorization", "must be `Bearer <token>`"));
        };
        match self.0.get(token) {
            Some(expires) if *expires > now => Ok(()),
            Some(_) => Err(Refusal::credentials("the token has expired")),
            None => Err(Refusal::credentials("the token is not known here")),
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

/// Bytes as lowercase hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| DIGITS.get(usize::from(digit)))
        .map(|digit| char::from(*digit))
        .collect()
}

pub(super) fn random_hex() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 16];
    rand::fill(&mut bytes).context("no randomness")?;
    Ok(hex(&bytes))
}

/// The secret of a client in plain text, for writing it where a connector reads it.
pub(super) fn expose(secret: &SecretString) -> &str {
    secret.expose_secret()
}
