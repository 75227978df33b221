//! One call: permit, credential, request, answer, and again where that may help.
//!
//! Reads and writes take the same way; they differ only in which failures are worth another attempt, see [`Repeat`]. The
//! permit of the limiter is held from before the request until its body is read, and never while a call waits for its
//! next attempt. Bodies of requests may hold passwords: they are wiped after use and never repeated in an error.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use reqwest::{
    RequestBuilder, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LINK, LOCATION},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use tokio::time::{Instant, sleep};
use url::Url;
use zeroize::Zeroizing;

use super::{
    Auth, EndpointStats, Method, Repeat,
    credential::{self, Credential, Keyring, MAX_TOKEN_BODY_BYTES, Proof, TOKEN_ENDPOINT, Token},
    decode::{self, Problem},
};
use crate::{
    clock::{Clock as _, SystemClock},
    connector::Error,
    error::{Words, told},
    http::{
        self, BodyError, Failure,
        limiter::{Limiter, Permit},
        retry,
    },
    notice::Peer,
    telemetry::metrics::{JumpCloudRequest, Metrics, TokenOutcome},
};

const API_KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");
const ORG_HEADER: HeaderName = HeaderName::from_static("x-org-id");
const TOTAL_HEADER: HeaderName = HeaderName::from_static("x-total-count");
/// Who names a request: JumpCloud itself, else Cloudflare before it.
const REQUEST_ID_HEADERS: [HeaderName; 2] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("cf-ray"),
];
const MAX_REQUEST_ID_BYTES: usize = 128;
/// Room for a body, so that a password inside is written to one place that is wiped.
const BODY_BYTES: usize = 8 * 1024;
/// How much of an error's body is read for its words.
const MAX_ERROR_BODY_BYTES: usize = 64 * 1024;
/// An answer that is not JSON is asked for again, but not as often as a failure that heals by itself.
const GARBLED_ATTEMPTS: usize = 3;

/// What all clones of a client share.
pub(super) struct Shared {
    pub(super) http: http::Client,
    pub(super) console_url: Url,
    pub(super) insights_url: Url,
    pub(super) org_id: Option<HeaderValue>,
    pub(super) keyring: Keyring,
    /// How long a call waits for other credentials when those in use are refused.
    pub(super) rotation_wait: Duration,
    pub(super) limiter: Limiter,
    pub(super) policy: retry::Policy,
    pub(super) metrics: Metrics,
    pub(super) stats: Mutex<BTreeMap<&'static str, EndpointStats>>,
    /// Set once `/api/users` has refused the organisation header and answered without it.
    pub(super) org_refused: AtomicBool,
    /// The last page of each listing, by hash: its skip and the hash of its body.
    pub(super) last_pages: Mutex<HashMap<u64, (u64, u64)>>,
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Write(Method, Repeat),
}

impl Verb {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Write(Method::Post, _) => "POST",
            Self::Write(Method::Put, _) => "PUT",
            Self::Write(Method::Delete, _) => "DELETE",
        }
    }

    const fn http(self) -> reqwest::Method {
        match self {
            Self::Get => reqwest::Method::GET,
            Self::Write(Method::Post, _) => reqwest::Method::POST,
            Self::Write(Method::Put, _) => reqwest::Method::PUT,
            Self::Write(Method::Delete, _) => reqwest::Method::DELETE,
        }
    }
}

/// One request, ready to be sent any number of times.
pub(super) struct Call {
    pub(super) verb: Verb,
    pub(super) template: &'static str,
    pub(super) url: Url,
    pub(super) body: Option<Bytes>,
}

impl Call {
    /// Gives the call a body of JSON, which is wiped with its last copy.
    pub(super) fn with_body<B: Serialize + ?Sized>(mut self, body: &B) -> Result<Self, Error> {
        let mut text = Zeroizing::new(Vec::with_capacity(BODY_BYTES));
        serde_json::to_writer(&mut *text, body).map_err(|_may_hold_values| Error::Invalid {
            what: format!(
                "the body of {} {} cannot be written as JSON",
                self.verb.as_str(),
                self.template
            ),
        })?;
        self.body = Some(Bytes::from_owner(text));
        Ok(self)
    }

    /// Whether the call names no organisation where `/api/users` refuses the header.
    ///
    /// A call that makes an administrator always names it, lest one is made elsewhere.
    fn may_go_without_org(&self) -> bool {
        self.template.starts_with("/api/users/")
            || (self.template == "/api/users" && self.verb == Verb::Get)
    }

    /// Whether another attempt after this failure could do twice what was asked for once.
    fn is_spent(&self, failed: &Failed) -> bool {
        matches!(self.verb, Verb::Write(_, Repeat::UnlessSent))
            && failed.error.may_have_been_applied()
    }

    fn decode_error(&self, problem: Problem) -> Error {
        decode_error(self.verb.as_str(), self.template, problem)
    }
}

/// An answer with status 2xx.
pub(super) struct Answer {
    pub(super) body: Bytes,
    pub(super) total: Option<u64>,
    pub(super) link: Option<String>,
    pub(super) request_id: Option<String>,
}

/// A failed attempt and what may help.
struct Failed {
    error: Error,
    next: Next,
}

enum Next {
    /// Nothing helps.
    GiveUp,
    /// Another attempt after our own wait.
    Backoff,
    /// As [`Next::Backoff`], but only [`GARBLED_ATTEMPTS`] in all.
    BackoffBriefly,
    /// Another attempt; the limiter holds it back for this long.
    Throttled(Duration),
    /// Another attempt with another token than this, or with other credentials.
    Reauthenticate(Arc<Credential>, Option<SecretString>),
    /// Another attempt without the organisation header.
    WithoutOrg,
}

impl Failed {
    fn give_up(error: Error) -> Self {
        Self {
            error,
            next: Next::GiveUp,
        }
    }
}

impl Shared {
    /// Sends a call until it succeeds or nothing helps any more.
    pub(super) async fn exchange<R>(
        &self,
        call: &Call,
        decode: impl Fn(&Answer) -> Result<R, Problem>,
    ) -> Result<R, Error> {
        let mut retries = None;
        let mut renewed: Option<Arc<Credential>> = None;
        let mut wait_until = None;
        let mut with_org =
            self.org_id.is_some() && !(call.may_go_without_org() && self.org_is_refused());
        loop {
            let permit = self.limiter.acquire().await;
            // The wait for the first turn is not part of the call's own time.
            let retries = retries.get_or_insert_with(|| self.policy.start());
            let mut failed = match self.attempt(call, with_org, permit).await {
                Ok(answer) => match decode(&answer) {
                    Ok(value) => {
                        if self.org_id.is_some() && !with_org {
                            self.org_refused.store(true, Ordering::Relaxed);
                        }
                        return Ok(value);
                    }
                    Err(problem) => Failed {
                        next: if problem.garbled {
                            Next::BackoffBriefly
                        } else {
                            Next::GiveUp
                        },
                        error: call.decode_error(problem),
                    },
                },
                Err(failed) => failed,
            };
            if call.is_spent(&failed) {
                failed.next = Next::GiveUp;
            }
            let again = match &failed.next {
                Next::Reauthenticate(used, token) => {
                    let fresh = renewed.as_ref().is_none_or(|old| !Arc::ptr_eq(old, used));
                    renewed = Some(Arc::clone(used));
                    let renewable = match token {
                        Some(token) if fresh => used.forget(token).await,
                        _ => false,
                    };
                    let until =
                        *wait_until.get_or_insert_with(|| Instant::now() + self.rotation_wait);
                    !Arc::ptr_eq(used, &self.keyring.current())
                        || renewable
                        || self.keyring.refused(used, until).await
                }
                Next::WithoutOrg => {
                    let again = with_org;
                    with_org = false;
                    again
                }
                next => self.wait(retries, next, &failed.error, call.template).await,
            };
            if !again {
                self.failed(call.template);
                return Err(failed.error);
            }
            self.retried(call.template);
        }
    }

    /// Waits before the next attempt; false when there is none.
    async fn wait(
        &self,
        retries: &mut retry::Retries,
        next: &Next,
        error: &Error,
        template: &'static str,
    ) -> bool {
        let asked = match next {
            Next::Backoff => None,
            Next::BackoffBriefly if retries.attempts() < GARBLED_ATTEMPTS => None,
            Next::Throttled(pause) => Some(*pause),
            _ => return false,
        };
        let attempt = retries.attempts();
        let Some(delay) = retries.next_delay(asked) else {
            return false;
        };
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        if attempt < 3 {
            tracing::debug!(http.endpoint = template, attempt, delay_ms, reason = %error,
                "JumpCloud request failed and will be repeated");
        } else {
            tracing::warn!(
                http.endpoint = template,
                attempt,
                delay_ms,
                reason = told(error),
                "JumpCloud request keeps failing and will be repeated"
            );
        }
        // A throttle is waited for in the limiter, together with everybody else.
        if asked.is_none() {
            sleep(delay).await;
        }
        true
    }

    async fn attempt(&self, call: &Call, with_org: bool, permit: Permit) -> Result<Answer, Failed> {
        let credential = self.keyring.current();
        let proof = self.proof(&credential).await.map_err(|error| Failed {
            next: match error {
                Error::Unauthenticated { .. } => {
                    Next::Reauthenticate(Arc::clone(&credential), None)
                }
                _ => Next::GiveUp,
            },
            error,
        })?;
        let method = call.verb.as_str();
        let mut request = self
            .http
            .request(call.verb.http(), call.url.clone())
            .header(ACCEPT, "application/json")
            .header(proof.name.clone(), proof.value.clone());
        if let Some(body) = &call.body {
            request = request
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone());
        }
        if with_org && let Some(org_id) = &self.org_id {
            request = request.header(ORG_HEADER, org_id.clone());
        }
        let (response, mut sent) = self.send(method, call.template, request).await?;
        let status = response.status();
        if status.is_success() {
            let headers = response.headers();
            let total = text(headers, &TOTAL_HEADER).and_then(|text| text.trim().parse().ok());
            let link = text(headers, &LINK).map(str::to_owned);
            let request_id = REQUEST_ID_HEADERS
                .iter()
                .find_map(|name| text(headers, name).and_then(request_id));
            let body = http::read_body(response, http::MAX_BODY_BYTES)
                .await
                .map_err(|error| {
                    sent.broke(Failure::Body.as_str());
                    body_failed(method, call.template, error)
                })?;
            drop(sent);
            permit.succeeded();
            self.keyring.accepted(&credential);
            return Ok(Answer {
                body,
                total,
                link,
                request_id,
            });
        }

        let asked = retry::retry_after(response.headers(), SystemClock.now());
        let throttled = status == StatusCode::TOO_MANY_REQUESTS
            || (status == StatusCode::SERVICE_UNAVAILABLE && asked.is_some());
        if throttled {
            permit.throttled(asked.unwrap_or(self.policy.min_delay));
            self.throttled(call.template);
        }
        let location = text(response.headers(), &LOCATION).map(str::to_owned);
        let body = http::read_beginning(response, MAX_ERROR_BODY_BYTES).await;
        drop((permit, sent));
        let passwords = decode::passwords(call.body.as_deref().unwrap_or_default());
        let mut secrets = credential.secrets(&proof);
        secrets.extend(passwords.iter().map(SecretString::expose_secret));
        let words = Words::new(decode::message(&body, &secrets));
        let host = call.url.host_str().unwrap_or_default();
        if status == StatusCode::UNAUTHORIZED {
            return Err(Failed {
                error: self.unauthenticated(&credential, call, words),
                next: Next::Reauthenticate(credential, Some(proof.secret)),
            });
        }
        let advice = if status.is_redirection() {
            redirect(location.as_deref(), &call.url)
        } else if status == StatusCode::PAYMENT_REQUIRED {
            "the organisation's JumpCloud plan does not include this".to_owned()
        } else if status == StatusCode::NOT_FOUND && is_root_listing(call) {
            let organisation = if with_org {
                " and the organisation id"
            } else {
                ""
            };
            format!("{host} does not serve this; check the base URL{organisation}")
        } else {
            String::new()
        };
        let error = Error::Http {
            method,
            endpoint: call.template,
            status: status.as_u16(),
            advice,
            words,
            retry_after: asked,
        };
        let next = match asked {
            Some(pause) if throttled => Next::Throttled(pause),
            _ if retry::is_retryable(status.as_u16()) => Next::Backoff,
            _ if status == StatusCode::FORBIDDEN && with_org && call.may_go_without_org() => {
                Next::WithoutOrg
            }
            _ => Next::GiveUp,
        };
        Err(Failed { error, next })
    }

    async fn send(
        &self,
        method: &'static str,
        template: &'static str,
        request: RequestBuilder,
    ) -> Result<(reqwest::Response, JumpCloudRequest), Failed> {
        self.count(template, |stats| stats.calls += 1);
        let mut sent = self.metrics.jumpcloud_request(template, method);
        match request.send().await {
            Ok(response) => {
                sent.answered(response.status().as_u16());
                Ok((response, sent))
            }
            Err(error) => {
                sent.broke(Failure::of(&error).as_str());
                Err(transport(method, template, error))
            }
        }
    }

    fn unauthenticated(&self, credential: &Credential, call: &Call, words: Option<Words>) -> Error {
        let mut what = format!(
            "JumpCloud refused the {} ({} {} at {} answered 401). ",
            credential.noun(),
            call.verb.as_str(),
            call.template,
            call.url.host_str().unwrap_or_default(),
        );
        what.push_str(match credential.auth {
            Auth::ApiKey(_) => {
                "Check that the key is the current one, that API access is enabled for its \
                 administrator, and that the organisation lives in this region (--region us, eu or in)"
            }
            Auth::ClientCredentials { .. } => {
                "Check that the service account is active and that the organisation lives in this \
                 region (--region us, eu or in)"
            }
        });
        if self.org_id.is_none() {
            what.push_str("; an administrator of several organisations needs --org-id");
        }
        Error::Unauthenticated { what, words }
    }

    async fn proof(&self, credential: &Credential) -> Result<Proof, Error> {
        match &credential.auth {
            Auth::ApiKey(key) => Ok(Proof {
                name: API_KEY_HEADER,
                value: credential::api_key(key)?,
                secret: key.clone(),
            }),
            Auth::ClientCredentials {
                token_url,
                client_id,
                client_secret,
            } => {
                credential::check(&credential.auth)?;
                let mut kept = credential.token.lock().await;
                let now = Instant::now();
                if let Some(token) = kept.as_ref().filter(|token| now < token.refresh_at) {
                    return credential::bearer(&token.value);
                }
                // A token that still lives bridges a token endpoint that does not answer, or refuses for a while.
                let usable = kept.clone().filter(|token| now < token.expires_at);
                let basic = credential::basic(client_id, client_secret)?;
                let fetched = self
                    .token(token_url, client_secret, &basic, usable.is_some())
                    .await;
                let token = match (fetched, usable) {
                    (Ok(token), _) => token,
                    (Err(error), Some(token)) => {
                        tracing::debug!(
                            http.endpoint = TOKEN_ENDPOINT,
                            reason = told(&error),
                            "JumpCloud access token could not be renewed yet; the current one still lives"
                        );
                        token
                    }
                    (Err(error), None) => return Err(error),
                };
                let proof = credential::bearer(&token.value)?;
                *kept = Some(token);
                Ok(proof)
            }
        }
    }

    async fn token(
        &self,
        token_url: &Url,
        client_secret: &SecretString,
        basic: &HeaderValue,
        once: bool,
    ) -> Result<Token, Error> {
        let mut retries = self.policy.start();
        loop {
            let attempt = self.token_attempt(token_url, client_secret, basic).await;
            self.metrics.token_requested(
                Peer::JumpCloud,
                match &attempt {
                    Ok(_) => TokenOutcome::Granted,
                    Err(failed) if matches!(failed.error, Error::Unauthenticated { .. }) => {
                        TokenOutcome::Rejected
                    }
                    Err(_) => TokenOutcome::Failed,
                },
            );
            let failed = match attempt {
                Ok(token) => return Ok(token),
                Err(failed) => failed,
            };
            let asked = match &failed.next {
                Next::Throttled(pause) => Some(*pause),
                _ => None,
            };
            let again = !once
                && self
                    .wait(&mut retries, &failed.next, &failed.error, TOKEN_ENDPOINT)
                    .await;
            if !again {
                self.failed(TOKEN_ENDPOINT);
                return Err(failed.error);
            }
            self.retried(TOKEN_ENDPOINT);
            // The token endpoint is another host than the API, so its throttle does not stop the others.
            if let Some(pause) = asked {
                sleep(pause).await;
            }
        }
    }

    async fn token_attempt(
        &self,
        token_url: &Url,
        client_secret: &SecretString,
        basic: &HeaderValue,
    ) -> Result<Token, Failed> {
        let request = self
            .http
            .request(reqwest::Method::POST, token_url.clone())
            .header(ACCEPT, "application/json")
            .header(reqwest::header::AUTHORIZATION, basic.clone())
            .form(&[("grant_type", "client_credentials"), ("scope", "api")]);
        let (response, mut sent) = self.send("POST", TOKEN_ENDPOINT, request).await?;
        let status = response.status();
        if status.is_success() {
            let body = http::read_body(response, MAX_TOKEN_BODY_BYTES)
                .await
                .map_err(|error| {
                    sent.broke(Failure::Body.as_str());
                    body_failed("POST", TOKEN_ENDPOINT, error)
                })?;
            return credential::read_token(&body, Instant::now()).map_err(|problem| Failed {
                next: if problem.garbled {
                    Next::BackoffBriefly
                } else {
                    Next::GiveUp
                },
                error: decode_error("POST", TOKEN_ENDPOINT, problem),
            });
        }
        let asked = retry::retry_after(response.headers(), SystemClock.now());
        if status == StatusCode::TOO_MANY_REQUESTS {
            self.throttled(TOKEN_ENDPOINT);
        }
        let location = text(response.headers(), &LOCATION).map(str::to_owned);
        let body = http::read_beginning(response, MAX_ERROR_BODY_BYTES).await;
        let encoded = basic.to_str().unwrap_or_default();
        let encoded = encoded.strip_prefix("Basic ").unwrap_or(encoded);
        let words = Words::new(decode::message(
            &body,
            &[client_secret.expose_secret(), encoded],
        ));
        if matches!(status.as_u16(), 400 | 401 | 403) {
            return Err(Failed::give_up(Error::Unauthenticated {
                what: format!(
                    "JumpCloud refused the OAuth client credentials ({} answered {}). \
                     Check client id and client secret, that the secret has not expired, and that \
                     the organisation lives in this region (--region us, eu or in)",
                    token_url.host_str().unwrap_or_default(),
                    status.as_u16(),
                ),
                words,
            }));
        }
        let advice = if status.is_redirection() {
            redirect(location.as_deref(), token_url)
        } else {
            String::new()
        };
        Err(Failed {
            error: Error::Http {
                method: "POST",
                endpoint: TOKEN_ENDPOINT,
                status: status.as_u16(),
                advice,
                words,
                retry_after: asked,
            },
            next: match asked {
                Some(pause) if retry::is_retryable(status.as_u16()) => Next::Throttled(pause),
                None if retry::is_retryable(status.as_u16()) => Next::Backoff,
                _ => Next::GiveUp,
            },
        })
    }

    pub(super) fn org_is_refused(&self) -> bool {
        self.org_refused.load(Ordering::Relaxed)
    }

    fn retried(&self, template: &'static str) {
        self.metrics.jumpcloud_retried(template);
        self.count(template, |stats| stats.retries += 1);
    }

    fn failed(&self, template: &'static str) {
        self.metrics.jumpcloud_failed(template);
        self.count(template, |stats| stats.failures += 1);
    }

    fn throttled(&self, template: &'static str) {
        self.metrics.jumpcloud_throttled();
        self.count(template, |stats| stats.throttled += 1);
    }

    fn count(&self, template: &'static str, change: impl FnOnce(&mut EndpointStats)) {
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        change(stats.entry(template).or_default());
    }
}

impl Credential {
    /// Every text that must not come through in an error.
    fn secrets<'a>(&'a self, proof: &'a Proof) -> Vec<&'a str> {
        let mut secrets = vec![proof.secret.expose_secret()];
        if let Auth::ClientCredentials { client_secret, .. } = &self.auth {
            secrets.push(client_secret.expose_secret());
        }
        secrets
    }
}

fn is_root_listing(call: &Call) -> bool {
    call.verb == Verb::Get && !call.template.contains('{')
}

/// A request id that is fit for logs and annotations.
fn request_id(text: &str) -> Option<String> {
    let good = (1..=MAX_REQUEST_ID_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    good.then(|| text.to_owned())
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn redirect(location: Option<&str>, from: &Url) -> String {
    let target = location
        .and_then(|location| from.join(location).ok())
        .and_then(|target| target.host_str().map(|host| decode::clean(host, &[], 100)))
        .unwrap_or_else(|| "an unnamed place".to_owned());
    format!(
        "redirect refused, because the credential is sent to {} only and not to {target}; check the region and the base URL",
        from.host_str().unwrap_or_default(),
    )
}

fn transport(method: &'static str, endpoint: &'static str, error: reqwest::Error) -> Failed {
    let failure = Failure::of(&error);
    Failed {
        error: Error::Transport {
            method,
            endpoint,
            kind: failure.as_str(),
            source: match failure {
                Failure::Tls => Box::new(http::TlsFailure(error.without_url())),
                _ => Box::new(error.without_url()),
            },
        },
        // A certificate that is not trusted now is not trusted a second later.
        next: match failure {
            Failure::Tls => Next::GiveUp,
            _ => Next::Backoff,
        },
    }
}

fn body_failed(method: &'static str, endpoint: &'static str, error: BodyError) -> Failed {
    match error {
        BodyError::Broken(error) => transport(method, endpoint, error),
        too_large => Failed::give_up(decode_error(
            method,
            endpoint,
            Problem::new(".", too_large.to_string()),
        )),
    }
}

pub(super) fn decode_error(
    method: &'static str,
    endpoint: &'static str,
    problem: Problem,
) -> Error {
    Error::Decode {
        method,
        endpoint,
        field: problem.field,
        problem: problem.what,
    }
}
