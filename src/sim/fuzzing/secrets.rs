//! Credentials of ours, and keys and encrypted values of ConductorOne.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use prost::Message as _;
use secrecy::{ExposeSecret as _, SecretString};

use super::{parts, tells_nothing};
use crate::{
    control_plane::credentials::{ClientId, ClientSecret, Host},
    crypto::{
        jwk::{BASE64URL, Ed25519Jwk},
        jws,
        open::{self, MAX_PASSWORD_LEN},
        public_key::PublicKey,
        seal::{self, Plaintext, Recipients},
    },
    error::chain,
    proto::{baton::task::CreateAccountTask, connector as v2},
};

/// The seed of the key that encrypted values in the corpus are for.
pub const OWN_SEED: [u8; 32] = [7; 32];

const PREFIX: &str = "secret-token:conductorone.com:v1:";

/// A client id on the first line and a client secret on the rest. A secret that begins with `{` is the JWK inside of one,
/// so that it can be changed without its base64.
pub fn credentials(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (id, secret) = text.split_once('\n').unwrap_or((&text, ""));
    let id = client_id(id);
    let (secret, inner) = if secret.starts_with('{') {
        let key = BASE64URL.encode(secret);
        (format!("{PREFIX}{key}"), key)
    } else {
        let inner = secret.splitn(4, ':').nth(3).unwrap_or(secret);
        (secret.to_owned(), inner.to_owned())
    };
    let key = match ClientSecret::parse(&SecretString::from(secret)) {
        Ok(secret) => secret.key().clone(),
        Err(error) => return tells_nothing(&error, &inner),
    };
    let again = Ed25519Jwk::from_json(key.to_json().as_bytes()).expect("a key reads back");
    assert_eq!(again.key_id(), key.key_id());
    assert_eq!(again.public_key(), key.public_key());
    let (id, audience) = id
        .as_ref()
        .map_or(("a@example.com/b", "example.com"), |id| {
            (id.as_str(), id.host().audience())
        });
    let now = Timestamp::from_second(1_790_000_000).expect("a time");
    let assertion = jws::client_assertion(&key, id, audience, now).expect("an accepted key signs");
    assert_eq!(assertion.split('.').count(), 3);
    assert!(
        assertion.is_ascii() && !assertion.contains(char::is_whitespace),
        "an assertion that no form holds"
    );
}

fn client_id(text: &str) -> Option<ClientId> {
    match Host::parse_override(text) {
        Ok(host) => check_host(&host),
        Err(error) => tells_nothing(&error, ""),
    }
    match ClientId::parse(text) {
        Ok(id) => {
            assert_eq!(ClientId::parse(id.as_str()).as_ref(), Ok(&id));
            assert_eq!(id.as_str(), text);
            assert!(!id.name().is_empty());
            check_host(id.host());
            Some(id)
        }
        Err(error) => {
            tells_nothing(&error, "");
            None
        }
    }
}

/// Whatever passes for a host names the host of an address, and nothing else of one.
fn check_host(host: &Host) {
    let address = format!("https://{host}/auth/v1/token");
    let uri: http::Uri = address.parse().expect("a host makes an address");
    assert_eq!(uri.path(), "/auth/v1/token");
    assert_eq!(
        uri.authority().map(http::uri::Authority::as_str),
        Some(host.as_str())
    );
    assert!(!host.audience().is_empty());
    assert!(host.with_port().rsplit_once(':').is_some());
}

/// The first byte says what the rest is: a JWK, an age recipient, a task with encryption configs, a sealed password, or
/// one in its base64.
pub fn encryption(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind {
        b'j' => jwk(rest),
        b'a' => {
            let text = String::from_utf8_lossy(rest);
            try_all(&[seal::to_age(&text)], &text);
        }
        b't' => {
            if let Ok(task) = CreateAccountTask::decode(rest) {
                // More would only be the same work again.
                let configs = task.encryption_configs.get(..8);
                try_all(configs.unwrap_or(&task.encryption_configs), "");
            }
        }
        b'p' => password(BASE64_STANDARD.encode(rest).into_bytes()),
        _ => password(rest.to_vec()),
    }
}

fn jwk(json: &[u8]) {
    use v2::encryption_config::{Config, JwkPublicKeyConfig};

    match PublicKey::from_json(json) {
        Ok(key) => {
            let again = PublicKey::from_json(key.to_json().as_bytes()).expect("a key reads back");
            assert_eq!(again, key);
            assert_eq!(again.thumbprint(), key.thumbprint());
        }
        Err(error) => tells_nothing(&error, &String::from_utf8_lossy(json)),
    }
    let config = v2::EncryptionConfig {
        config: Some(Config::JwkPublicKeyConfig(JwkPublicKeyConfig {
            pub_key: json.to_vec(),
        })),
        ..v2::EncryptionConfig::default()
    };
    try_all(&[config], &String::from_utf8_lossy(json));
}

/// Keys that were accepted must take every secret: it is made up only after they were.
fn try_all(configs: &[v2::EncryptionConfig], key: &str) {
    let recipients = match Recipients::try_new(configs) {
        Ok(recipients) => recipients,
        Err(error) => {
            let text = chain(&error);
            assert!(
                !super::repeats(&text, key),
                "an error repeats a key: {text}"
            );
            return tells_nothing(&error, key);
        }
    };
    let secret = Plaintext {
        name: "password".to_owned(),
        description: String::new(),
        schema: String::new(),
        secret: "SECRETSEED-sealed".into(),
    };
    let sealed = recipients.seal(&secret).expect("an accepted key seals");
    assert_eq!(sealed.len(), configs.len());
    for data in sealed {
        assert!(!data.encrypted_bytes.is_empty() && data.key_ids.len() == 1);
    }
}

fn password(encrypted_bytes: Vec<u8>) {
    let key = Ed25519Jwk::from_seed(OWN_SEED, None).expect("the key of the corpus");
    let shown = String::from_utf8_lossy(&encrypted_bytes).into_owned();
    let entry = v2::EncryptedData {
        encrypted_bytes,
        key_ids: vec![key.key_id()],
        ..v2::EncryptedData::default()
    };
    match open::password(&key, &[entry]) {
        Ok(password) => {
            let length = password.expose_secret().len();
            assert!((1..=MAX_PASSWORD_LEN).contains(&length));
        }
        Err(error) => tells_nothing(&error, &shown),
    }
}

/// The lines of an input, for the targets that read texts.
pub(super) fn lines(data: &[u8], most: usize) -> impl Iterator<Item = std::borrow::Cow<'_, str>> {
    parts(data, b'\n', most).map(String::from_utf8_lossy)
}
