//! The HTTP client for JumpCloud: request building, authentication, paging, retry, adaptive concurrency, decoding.
//!
//! No `reqwest` type leaves this module and [`crate::http`]. A read that fails for a passing reason is repeated; a write
//! only as far as its [`Repeat`] allows. The client never follows a redirect, never sends a credential to a host other
//! than the configured ones, and never puts a credential, a password of a request, an address with its query, or a value
//! of an answer into an error or a log line.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use futures_util::stream::BoxStream;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use tokio::sync::watch;
use url::Url;

use self::{
    credential::Keyring,
    exchange::{Shared, Verb},
};
pub use self::{
    credential::Standing,
    paging::{Doubt, Identified, Mark, Progress, Step, Walk},
    region::Region,
};
use crate::{
    connector::Error,
    crypto::{Sha256, hex},
    http::{self, limiter::Limiter, retry},
    telemetry::metrics::Metrics,
};

mod credential;
pub(crate) mod decode;
mod exchange;
mod paging;
mod region;

/// The time that one request may take when nothing else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);
/// The most requests in flight when nothing else is said. JumpCloud publishes no quota; clients do well with 4 to 8.
pub const DEFAULT_MAX_CONCURRENCY: usize = 8;
const MAX_ORG_ID_BYTES: usize = 64;

/// How requests are authenticated.
#[derive(Clone)]
pub enum Auth {
    /// Header `x-api-key`.
    ApiKey(SecretString),
    /// OAuth client credentials of a service account.
    ClientCredentials {
        /// `https://admin-oauth.id[.<region>].jumpcloud.com/oauth2/token`.
        token_url: Url,
        /// Client id.
        client_id: String,
        /// Client secret.
        client_secret: SecretString,
    },
}

impl Auth {
    /// Tells one credential from another where both are hashed with the same salt.
    fn digest(&self, salt: &str) -> String {
        let mut digest = Sha256::new();
        digest.update(salt.as_bytes());
        match self {
            Self::ApiKey(key) => digest.update(key.expose_secret().as_bytes()),
            Self::ClientCredentials { client_id, .. } => digest.update(client_id.as_bytes()),
        }
        format!("credential {}", hex(&digest.finish()))
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApiKey(_) => "ApiKey(…)",
            Self::ClientCredentials { .. } => "ClientCredentials(…)",
        })
    }
}

/// Where and how to reach one JumpCloud organisation.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `https://console[.<region>].jumpcloud.com`, or an override; `/api/...` paths are appended to its path.
    pub console_url: Url,
    /// `https://api[.<region>].jumpcloud.com` for Directory Insights, or an override.
    pub insights_url: Url,
    /// Credentials.
    pub auth: Auth,
    /// Header `x-org-id`.
    pub org_id: Option<String>,
    /// Whole-request time-out (`--http-timeout-seconds`).
    pub timeout: Duration,
    /// PEM certificates trusted beside the system's.
    pub extra_ca_pem: Option<Vec<u8>>,
    /// The most requests in flight at once; the client starts lower and adapts.
    pub max_concurrency: usize,
    /// How long a call waits for other credentials when those in use, which have worked, are refused. When none come, these
    /// are tried once more. Zero where nobody would bring others, and then they are not.
    pub rotation_wait: Duration,
}

impl Settings {
    /// The settings for a region with everything else at its default.
    pub fn for_region(region: Region, auth: Auth) -> Self {
        Self {
            console_url: region.console_url(),
            insights_url: region.insights_url(),
            auth,
            org_id: None,
            timeout: DEFAULT_TIMEOUT,
            extra_ca_pem: None,
            max_concurrency: DEFAULT_MAX_CONCURRENCY,
            rotation_wait: Duration::ZERO,
        }
    }
}

/// The two generations of list conventions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convention {
    /// Body `{totalCount, results}`; space-separated `sort` and `fields`. Some v2 services use it too.
    Wrapped,
    /// Bare array with the header `x-total-count`.
    Array,
}

/// A listing: which endpoint, with which parameters.
#[derive(Debug, Clone)]
pub struct List {
    /// Path template from the host on, such as `/api/v2/usergroups/{id}/members`; also the name in errors and logs.
    /// Templates that begin with `/insights/` go to the Directory Insights host.
    pub template: &'static str,
    /// Values for the `{…}` parts in order; escaped by the client.
    pub ids: Vec<String>,
    /// Query parameters without `limit` and `skip`, such as `sort`, `fields`, `targets`.
    pub query: Vec<(&'static str, String)>,
    /// How the answer is framed.
    pub convention: Convention,
}

/// One page of a listing.
#[derive(Debug, Clone)]
pub struct ListPage<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Rows of the whole listing, where JumpCloud said so.
    pub total: Option<u64>,
    /// The `skip` of the next page; `None` when this page is the last (judged by the total, else by a short page).
    pub next_skip: Option<u64>,
}

/// How something is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Makes an object or runs a command.
    Post,
    /// Changes an object.
    Put,
    /// Removes an object.
    Delete,
}

/// Which failures of a write are worth another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Twice is as good as once: the write is repeated like a read. A repeated removal may then find nothing (404), and a
    /// repeated addition what it made itself (409).
    Always,
    /// Repeated only when it was surely not applied: no connection, a refused token, 429. A 503 does not say so, with
    /// `Retry-After` or without: a gateway may send it for a request that it has passed on.
    UnlessSent,
}

/// What a write was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written<T> {
    /// The body of the answer.
    pub value: T,
    /// The id that JumpCloud (`x-request-id`) or Cloudflare before it (`cf-ray`) gave to the request: at most 128 visible
    /// ASCII characters.
    pub request_id: Option<String>,
}

/// What was asked of one endpoint since the client was built.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndpointStats {
    /// Requests sent, repeated ones included.
    pub calls: u64,
    /// Requests that repeated one before.
    pub retries: u64,
    /// Calls that failed for good.
    pub failures: u64,
    /// Answers that asked to slow down.
    pub throttled: u64,
}

/// A client for one organisation. Cheap to clone; all clones share connections, credentials and the adaptive limit.
///
/// Every read is cancel-safe: dropping its future stops the request and loses nothing. A call takes at most about five
/// minutes from its first attempt on, besides the wait for its turn.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("console_url", &self.shared.console_url.as_str())
            .field("insights_url", &self.shared.insights_url.as_str())
            .field("auth", &self.shared.keyring.current().auth)
            .field("limit", &self.shared.limiter.limit())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Builds a client; nothing is sent yet.
    pub fn try_new(settings: Settings) -> Result<Self, Error> {
        Self::with_policy(settings, retry::Policy::default())
    }

    /// Builds a client with this retry policy, whose requests are counted there.
    pub fn measured(
        settings: Settings,
        policy: retry::Policy,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        Self::build(settings, policy, metrics)
    }

    /// Builds a client with another retry policy than the default one.
    pub fn with_policy(settings: Settings, policy: retry::Policy) -> Result<Self, Error> {
        Self::build(settings, policy, Metrics::default())
    }

    fn build(settings: Settings, policy: retry::Policy, metrics: Metrics) -> Result<Self, Error> {
        let invalid = |what: String| Error::Invalid { what };
        for (name, url) in [
            ("base URL", &settings.console_url),
            ("Directory Insights URL", &settings.insights_url),
        ] {
            http::check_url(url)
                .map_err(|problem| invalid(format!("the JumpCloud {name} {problem}")))?;
        }
        credential::check(&settings.auth)?;
        if settings.timeout.is_zero() {
            return Err(invalid(
                "the HTTP time-out is zero; give at least one second".to_owned(),
            ));
        }
        if settings.max_concurrency == 0 {
            return Err(invalid(
                "the number of concurrent JumpCloud requests is zero; give at least one".to_owned(),
            ));
        }
        let mut urls = vec![&settings.console_url, &settings.insights_url];
        if let Auth::ClientCredentials { token_url, .. } = &settings.auth {
            urls.push(token_url);
        }
        let http = http::client(http::Options {
            timeout: settings.timeout,
            extra_ca_pem: settings.extra_ca_pem.as_deref(),
            urls: &urls,
        })
        .map_err(|error| invalid(crate::error::chain(&error)))?;
        Ok(Self {
            shared: Arc::new(Shared {
                http,
                org_id: settings.org_id.as_deref().map(org_header).transpose()?,
                keyring: Keyring::new(settings.auth),
                rotation_wait: settings.rotation_wait,
                limiter: Limiter::measured(settings.max_concurrency, metrics.jumpcloud_limit()),
                metrics,
                policy,
                stats: Mutex::new(BTreeMap::new()),
                org_refused: AtomicBool::new(false),
                last_pages: Mutex::new(HashMap::new()),
                console_url: settings.console_url,
                insights_url: settings.insights_url,
            }),
        })
    }

    /// The same connections and credentials for a trial: counts and limits of its own, another retry policy, and no
    /// organisation named unless `names_organization`.
    #[must_use]
    pub fn for_trial(&self, policy: retry::Policy, names_organization: bool) -> Self {
        let shared = &self.shared;
        Self {
            shared: Arc::new(Shared {
                http: shared.http.clone(),
                org_id: shared.org_id.clone().filter(|_| names_organization),
                keyring: Keyring::new(shared.keyring.current().auth.clone()),
                rotation_wait: Duration::ZERO,
                limiter: Limiter::new(shared.limiter.max()),
                metrics: Metrics::default(),
                policy,
                stats: Mutex::new(BTreeMap::new()),
                org_refused: AtomicBool::new(false),
                last_pages: Mutex::new(HashMap::new()),
                console_url: shared.console_url.clone(),
                insights_url: shared.insights_url.clone(),
            }),
        }
    }

    /// Replaces the credentials for every request that starts from now on, repeated ones included.
    ///
    /// Credentials that cannot be sent (empty, with white space) make the next call fail with [`Error::Invalid`].
    pub fn replace_auth(&self, auth: Auth) {
        self.shared.keyring.replace(auth);
    }

    /// What JumpCloud thinks of the credentials in use, and changes of that.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.shared.keyring.standing()
    }

    /// `GET` of one object.
    ///
    /// The ids take the places of the `{…}` parts of the template in order. A missing object is an [`Error::Http`] with
    /// status 404, whose class is [`NotFound`](crate::error::Class::NotFound).
    pub async fn get<T: DeserializeOwned>(
        &self,
        template: &'static str,
        ids: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, Error> {
        let call = self.shared.call(
            Verb::Get,
            template,
            ids.iter().copied(),
            query.iter().copied(),
        )?;
        self.shared
            .exchange(&call, |answer| decode::json(&answer.body))
            .await
    }

    /// Writes: `body` goes as JSON, and an answer without a body decodes as JSON `null`.
    ///
    /// A failure whose [`may_have_been_applied`](Error::may_have_been_applied) is true says nothing about the state of
    /// JumpCloud: read it. Values of fields whose name speaks of a password or a secret never come through in an error;
    /// the copy of the body in here is wiped after use. Dropping the future stops waiting, but JumpCloud may still act.
    pub async fn write<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        method: Method,
        template: &'static str,
        ids: &[&str],
        body: Option<&B>,
        repeat: Repeat,
    ) -> Result<Written<T>, Error> {
        let verb = Verb::Write(method, repeat);
        let mut call = self
            .shared
            .call(verb, template, ids.iter().copied(), std::iter::empty())?;
        if let Some(body) = body {
            call = call.with_body(body)?;
        }
        self.shared
            .exchange(&call, |answer| {
                Ok(Written {
                    value: decode::json_or_nothing(&answer.body)?,
                    request_id: answer.request_id.clone(),
                })
            })
            .await
    }

    /// One page (`limit=100`) of a listing.
    pub async fn page<T: DeserializeOwned>(
        &self,
        list: &List,
        skip: u64,
    ) -> Result<ListPage<T>, Error> {
        self.shared
            .list(list, skip, paging::LIMIT, paging::any_rows)
            .await
    }

    /// All pages in order. The first page tells the total; the rest is then fetched concurrently, at most as far ahead
    /// as the adaptive limit, never more pages than the total needs. When the total grew meanwhile the tail is read.
    ///
    /// Pages overlap, and what changes while it is read may be read again; the caller must therefore drop rows that it
    /// has seen. An empty listing is one empty page.
    pub fn pages<T: DeserializeOwned + Identified + Send + 'static>(
        &self,
        list: List,
    ) -> BoxStream<'_, Result<Vec<T>, Error>> {
        paging::pages(self.clone(), list)
    }

    /// As [`Client::pages`], from where `progress` says, with what is needed to go on after an interruption and with what
    /// remained doubtful. Dropping it at any point loses the step under way alone.
    pub fn walk<T: DeserializeOwned + Identified + Send + 'static>(
        &self,
        list: List,
        progress: Progress,
    ) -> Walk<T> {
        Walk::new(self.clone(), list, progress)
    }

    /// Asks for one row of a listing, to learn whether it may be read and how many rows it has.
    pub async fn probe(&self, list: &List) -> Result<Option<u64>, Error> {
        let page = self
            .shared
            .list(list, 0, 1, paging::any_rows::<IgnoredAny>)
            .await?;
        Ok(page.total)
    }

    /// Whether `/api/users` refused the organisation header and answered without it.
    ///
    /// Its rows may then belong to other organisations too; the caller filters them by their `organization`.
    pub fn administrators_are_unscoped(&self) -> bool {
        self.shared.org_is_refused()
    }

    /// The organisation that requests name, if one is configured.
    pub fn org_id(&self) -> Option<&str> {
        self.shared
            .org_id
            .as_ref()
            .and_then(|org_id| org_id.to_str().ok())
    }

    /// Tells one organisation from another without a request: by its id where one is configured, else by the credential,
    /// hashed with the salt.
    pub fn organization(&self, salt: &str) -> String {
        let shared = &self.shared;
        let whose = match self.org_id() {
            Some(org_id) => format!("organisation {org_id}"),
            None => shared.keyring.current().auth.digest(salt),
        };
        format!("{} {whose}", shared.console_url)
    }

    /// Whether requests come from a service account that proves itself by OAuth, and not from a person's key.
    pub fn is_service_account(&self) -> bool {
        matches!(
            self.shared.keyring.current().auth,
            Auth::ClientCredentials { .. }
        )
    }

    /// Whether the API key in use begins like this, as JumpCloud shows the beginnings of keys.
    pub fn key_begins_with(&self, beginning: &str) -> bool {
        match &self.shared.keyring.current().auth {
            Auth::ApiKey(key) => key.expose_secret().starts_with(beginning),
            Auth::ClientCredentials { .. } => false,
        }
    }

    /// What was asked of each endpoint, by path template.
    pub fn stats(&self) -> BTreeMap<&'static str, EndpointStats> {
        self.shared
            .stats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// All requests sent so far, repeated ones and those for tokens included.
    pub fn total_calls(&self) -> u64 {
        self.stats().values().map(|stats| stats.calls).sum()
    }

    /// How many requests may be in flight at this moment.
    pub fn concurrency(&self) -> usize {
        self.shared.limiter.limit()
    }

    /// Starts with as many requests in flight as an earlier process came to, within the configured maximum.
    pub fn resume_concurrency(&self, limit: usize) {
        self.shared.limiter.resume(limit);
    }
}

fn org_header(org_id: &str) -> Result<HeaderValue, Error> {
    let good = (1..=MAX_ORG_ID_BYTES).contains(&org_id.len())
        && org_id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    good.then(|| HeaderValue::from_str(org_id).ok())
        .flatten()
        .ok_or_else(|| Error::Invalid {
            what: format!(
                "the JumpCloud organisation id ({} bytes) is not one; it has 24 hexadecimal digits",
                org_id.len()
            ),
        })
}
