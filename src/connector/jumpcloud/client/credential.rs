//! What proves to JumpCloud who asks: the API key, or a bearer token fetched with client credentials.
//!
//! A token is kept until shortly before its end and fetched by one caller at a time. Secrets leave this file only as
//! header values that are marked sensitive, and as texts to be removed from error messages.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout_at},
};
use url::form_urlencoded;

use super::{Auth, decode};
use crate::connector::Error;

/// The path of the token endpoint, as errors and counters name it.
pub(super) const TOKEN_ENDPOINT: &str = "/oauth2/token";
/// The largest token answer that is accepted.
pub(super) const MAX_TOKEN_BODY_BYTES: usize = 64 * 1024;
/// How long before its end a token is fetched anew; half its life for tokens that live shorter than twice this.
const REFRESH_MARGIN: Duration = Duration::from_mins(1);
/// The life of a token whose answer does not tell.
const DEFAULT_LIFE: Duration = Duration::from_mins(5);
const MAX_LIFE: Duration = Duration::from_hours(24);
const MAX_KEY_BYTES: usize = 8 * 1024;

/// What JumpCloud thinks of the credentials in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// How often they were replaced.
    pub replaced: u64,
    /// They were refused, and nothing has succeeded with them since.
    pub rejected: bool,
}

/// The credentials in use, where they can be replaced.
pub(super) struct Keyring {
    current: ArcSwap<Credential>,
    standing: watch::Sender<Standing>,
}

impl Keyring {
    pub(super) fn new(auth: Auth) -> Self {
        Self {
            current: ArcSwap::from_pointee(Credential::new(auth)),
            standing: watch::Sender::default(),
        }
    }

    pub(super) fn current(&self) -> Arc<Credential> {
        self.current.load_full()
    }

    pub(super) fn replace(&self, auth: Auth) {
        self.current.store(Arc::new(Credential::new(auth)));
        self.standing.send_modify(|standing| {
            standing.replaced += 1;
            standing.rejected = false;
        });
    }

    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Something succeeded with this credential.
    pub(super) fn accepted(&self, used: &Arc<Credential>) {
        used.worked.store(true, Ordering::Relaxed);
        self.judge(used, false);
    }

    /// This credential was refused for good. Waits for another one until `until`, if it ever worked: it may be in the
    /// middle of a rotation. True when another attempt may help: there is another credential, or the wait is over and
    /// JumpCloud, which may have refused everybody for a while, is to be asked once more with this one.
    pub(super) async fn refused(&self, used: &Arc<Credential>, until: Instant) -> bool {
        let mut standing = self.standing();
        self.judge(used, true);
        if !used.worked.load(Ordering::Relaxed) {
            return false;
        }
        let is_other = || !Arc::ptr_eq(used, &self.current.load());
        if Instant::now() >= until {
            return is_other();
        }
        let other = standing.wait_for(|_standing| is_other());
        // Nobody waits twice: from now on the time is up.
        !matches!(timeout_at(until, other).await, Ok(Err(_closed)))
    }

    fn judge(&self, used: &Arc<Credential>, rejected: bool) {
        self.standing.send_if_modified(|standing| {
            let news = standing.rejected != rejected && Arc::ptr_eq(used, &self.current.load());
            if news {
                standing.rejected = rejected;
            }
            news
        });
    }
}

/// Credentials, with the token that was fetched with them.
pub(super) struct Credential {
    pub(super) auth: Auth,
    pub(super) token: Mutex<Option<Token>>,
    worked: AtomicBool,
}

/// A bearer token and its times.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) value: SecretString,
    pub(super) refresh_at: Instant,
    pub(super) expires_at: Instant,
}

/// The header of one request, and the secret inside it.
pub(super) struct Proof {
    pub(super) name: HeaderName,
    pub(super) value: HeaderValue,
    pub(super) secret: SecretString,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    expires_in: Value,
}

impl Credential {
    pub(super) fn new(auth: Auth) -> Self {
        Self {
            auth,
            token: Mutex::new(None),
            worked: AtomicBool::new(false),
        }
    }

    /// Forgets the token with this value, so that the next request fetches another; false where there are no tokens.
    pub(super) async fn forget(&self, used: &SecretString) -> bool {
        if matches!(self.auth, Auth::ApiKey(_)) {
            return false;
        }
        let mut token = self.token.lock().await;
        if token
            .as_ref()
            .is_some_and(|token| token.value.expose_secret() == used.expose_secret())
        {
            *token = None;
        }
        true
    }

    /// What a person calls this credential.
    pub(super) fn noun(&self) -> &'static str {
        match self.auth {
            Auth::ApiKey(_) => "API key",
            Auth::ClientCredentials { .. } => "access token of the service account",
        }
    }
}

/// Checks what can be checked of a credential without asking JumpCloud.
pub(super) fn check(auth: &Auth) -> Result<(), Error> {
    match auth {
        Auth::ApiKey(key) => api_key(key).map(|_| ()),
        Auth::ClientCredentials {
            token_url,
            client_id,
            client_secret,
        } => {
            crate::http::check_url(token_url).map_err(|problem| Error::Invalid {
                what: format!("the OAuth token URL {problem}"),
            })?;
            if client_id.is_empty() {
                return Err(Error::Invalid {
                    what: "the JumpCloud client id is empty".to_owned(),
                });
            }
            if client_secret.expose_secret().is_empty() {
                return Err(Error::Invalid {
                    what: "the JumpCloud client secret is empty".to_owned(),
                });
            }
            basic(client_id, client_secret).map(|_| ())
        }
    }
}

/// The header value of an API key.
pub(super) fn api_key(key: &SecretString) -> Result<HeaderValue, Error> {
    let text = key.expose_secret();
    let problem = if text.is_empty() {
        "is empty"
    } else if text.len() > MAX_KEY_BYTES {
        "is far too long to be one"
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        "holds white space or other characters that no API key has; copy it again"
    } else {
        return sensitive(text);
    };
    Err(Error::Invalid {
        what: format!("the JumpCloud API key ({} bytes) {problem}", text.len()),
    })
}

/// The header value of HTTP Basic; RFC 6749 has both parts form-encoded before they are joined.
pub(super) fn basic(client_id: &str, client_secret: &SecretString) -> Result<HeaderValue, Error> {
    let joined = SecretString::from(format!(
        "{}:{}",
        form(client_id),
        form(client_secret.expose_secret())
    ));
    let text = SecretString::from(format!("Basic {}", STANDARD.encode(joined.expose_secret())));
    sensitive(text.expose_secret())
}

fn form(text: &str) -> String {
    // The encoder also escapes the tilde, which needs none and which secrets often hold.
    form_urlencoded::byte_serialize(text.as_bytes())
        .collect::<String>()
        .replace("%7E", "~")
}

/// The header of a request with this token.
pub(super) fn bearer(token: &SecretString) -> Result<Proof, Error> {
    let text = SecretString::from(format!("Bearer {}", token.expose_secret()));
    Ok(Proof {
        name: AUTHORIZATION,
        value: sensitive(text.expose_secret())?,
        secret: token.clone(),
    })
}

fn sensitive(text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text)
        .ok()
        .ok_or_else(|| Error::Invalid {
            what: "the JumpCloud credential holds characters that no HTTP header may hold"
                .to_owned(),
        })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads a token out of the answer of the token endpoint.
pub(super) fn read_token(body: &[u8], now: Instant) -> Result<Token, decode::Problem> {
    let answer: TokenAnswer = decode::json(body)?;
    let text = answer.access_token.as_str();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(decode::Problem::new(
            "access_token",
            format!("{} bytes that are not a bearer token", text.len()),
        ));
    }
    if answer
        .token_type
        .as_deref()
        .is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer"))
    {
        return Err(decode::Problem::new("token_type", "is not bearer"));
    }
    let life = match &answer.expires_in {
        Value::String(text) => text.trim().parse().ok().map(Duration::from_secs),
        value => value.as_u64().map(Duration::from_secs),
    }
    .unwrap_or(DEFAULT_LIFE)
    .min(MAX_LIFE);
    Ok(Token {
        refresh_at: now + life.saturating_sub(REFRESH_MARGIN.min(life / 2)),
        expires_at: now + life,
        value: answer.access_token.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_is_refreshed_a_minute_early_or_at_half_of_a_short_life() {
        let now = Instant::now();
        let cases = [
            (r#""expires_in":3600"#, 3600, 3540),
            (r#""expires_in":"3600""#, 3600, 3540),
            (r#""expires_in":2"#, 2, 1),
            (r#""expires_in":0"#, 0, 0),
            (r#""expires_in":null"#, 300, 240),
            (r#""expires_in":-4"#, 300, 240),
            (r#""expires_in":99999999999999"#, 86_400, 86_340),
            (r#""scope":"api""#, 300, 240),
        ];
        for (field, expires, refresh) in cases {
            let body = format!(r#"{{"access_token":"SECRETSEED","token_type":"Bearer",{field}}}"#);
            let token = read_token(body.as_bytes(), now).unwrap();
            assert_eq!((token.expires_at - now).as_secs(), expires, "{field}");
            assert_eq!((token.refresh_at - now).as_secs(), refresh, "{field}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_answer_that_makes_no_sense_is_refused_without_its_value() {
        for body in [
            r#"{"access_token":""}"#,
            r#"{"access_token":"SECRETSEED\nx"}"#,
            r#"{"access_token":"SECRETSEED","token_type":"mac"}"#,
            r#"{"token_type":"bearer"}"#,
            r#"{"access_token":["SECRETSEED"]}"#,
            r#""SECRETSEED""#,
        ] {
            let problem = read_token(body.as_bytes(), Instant::now()).err().unwrap();
            assert!(
                !format!("{problem:?}").contains("SECRETSEED"),
                "{problem:?}"
            );
        }
    }

    #[test]
    fn credentials_that_cannot_be_sent_are_refused_without_their_value() {
        let oauth = |id: &str, secret: &str, url: &str| Auth::ClientCredentials {
            token_url: url.parse().unwrap(),
            client_id: id.to_owned(),
            client_secret: secret.into(),
        };
        let good = "https://admin-oauth.id.jumpcloud.com/oauth2/token";
        let bad = [
            Auth::ApiKey("".into()),
            Auth::ApiKey("SECRETSEED\n".into()),
            Auth::ApiKey("SECRETSEED é".into()),
            Auth::ApiKey("SECRETSEED".repeat(2000).into()),
            oauth("", "SECRETSEED", good),
            oauth("a", "", good),
            oauth("a", "SECRETSEED", "http://example.com/oauth2/token"),
        ];
        for auth in bad {
            let error = check(&auth).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }));
            assert!(!error.to_string().contains("SECRETSEED"), "{error}");
        }
        check(&Auth::ApiKey("jca_SECRETSEED".into())).unwrap();
        check(&oauth("a", "SECRETSEED é \n", good)).unwrap();
        assert!(basic("a", &"SECRETSEED".into()).unwrap().is_sensitive());
        assert_eq!(
            bearer(&"SECRETSEED".into()).unwrap().value,
            "Bearer SECRETSEED"
        );
    }
}
