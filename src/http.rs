//! The one way in which the product speaks HTTP as a client.
//!
//! Owns the client builder (time-outs, trust roots, proxy, no redirects), the capped reading of bodies, the reading of
//! `Retry-After`, the retry schedule ([`retry`]) and the adaptive limit on concurrency ([`limiter`]). It never knows
//! whom it speaks to, never logs, and never follows a redirect: a credential in a header of our own would travel along.

use std::{error::Error as StdError, io, net::IpAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{Certificate, ClientBuilder, Method, RequestBuilder, Response, redirect};
use rustls::CertificateError;
use url::{Host, Url};

pub mod limiter;
pub mod retry;

/// How long a connection, its TLS handshake included, may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the peer may stay silent in the middle of an answer.
pub const READ_TIMEOUT: Duration = Duration::from_mins(1);
/// How long an unused connection is kept.
pub const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// How many connections without work are kept: as many requests as are under way at once by default.
const MOST_IDLE: usize = 8;
/// The largest body that is accepted, counted after decompression.
pub const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// What every request says it comes from.
pub const USER_AGENT: &str = concat!("baton-jumpcloud/", env!("CARGO_PKG_VERSION"));

/// What differs between one HTTP client and another.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// The longest that one request may take, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// PEM certificates trusted beside those of the system.
    pub extra_ca_pem: Option<&'a [u8]>,
    /// The addresses that will be spoken to; they decide whether plain http is possible and whether a proxy is used.
    pub urls: &'a [&'a Url],
}

/// Why no client could be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The extra trust roots cannot be read.
    #[error("the extra CA certificates are not valid PEM")]
    Pem(#[source] reqwest::Error),
    /// The extra trust roots are empty.
    #[error("the extra CA certificates hold no certificate; give PEM text with BEGIN CERTIFICATE")]
    NoCertificate,
    /// The rest: most often a system without any trust root.
    #[error(
        "the HTTP client cannot be built; the system needs at least one trusted CA certificate \
         (package ca-certificates, or SSL_CERT_FILE)"
    )]
    Client(#[source] reqwest::Error),
}

/// A client, which keeps what goes to this machine apart from all else: no proxy is ever asked to bring it there, and
/// plain http is possible to nowhere but there.
#[derive(Debug, Clone)]
pub struct Client {
    here: reqwest::Client,
    away: reqwest::Client,
}

impl Client {
    /// Begins a request.
    pub fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let client = if is_loopback(&url) {
            &self.here
        } else {
            &self.away
        };
        client.request(method, url)
    }
}

/// Builds a client.
///
/// Trust roots are those of the system (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured) and the extra ones. The proxy is
/// that of the environment (`HTTPS_PROXY`, `NO_PROXY`), except for loopback addresses. Plain http is possible to the
/// loopback addresses among the given ones alone (see [`check_url`]).
pub fn client(options: Options<'_>) -> Result<Client, BuildError> {
    let is_https = |url: &&Url| url.scheme() == "https";
    let (here, away): (Vec<_>, Vec<_>) = options.urls.iter().partition(|url| is_loopback(url));
    let build_here = || {
        let builder = builder(options)
            .https_only(here.iter().copied().all(is_https))
            .no_proxy();
        if options.extra_ca_pem.is_none() && !here.iter().copied().any(is_https) {
            // Nothing is ever verified, so the system needs no trust roots; loading them takes its time.
            builder
                .tls_certs_only([])
                .build()
                .map_err(BuildError::Client)
        } else {
            trusting(builder, options.extra_ca_pem)
        }
    };
    let build_away = || trusting(builder(options).https_only(true), options.extra_ca_pem);
    // Where only one of the two is needed, it is both.
    let (here, away) = if here.is_empty() {
        let away = build_away()?;
        (away.clone(), away)
    } else if away.is_empty() {
        let here = build_here()?;
        (here.clone(), here)
    } else {
        (build_here()?, build_away()?)
    };
    Ok(Client { here, away })
}

fn builder(options: Options<'_>) -> ClientBuilder {
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT.min(options.timeout))
        .read_timeout(READ_TIMEOUT.min(options.timeout))
        .timeout(options.timeout)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MOST_IDLE)
        .gzip(true)
}

/// A client that trusts the roots of the system and these.
fn trusting(
    mut builder: ClientBuilder,
    extra_ca_pem: Option<&[u8]>,
) -> Result<reqwest::Client, BuildError> {
    if let Some(pem) = extra_ca_pem {
        let certificates = Certificate::from_pem_bundle(pem).map_err(BuildError::Pem)?;
        if certificates.is_empty() {
            return Err(BuildError::NoCertificate);
        }
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(BuildError::Client)
}

/// Why an address is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Neither https nor http to this machine.
    #[error("must begin with https:// (http:// is accepted for loopback addresses only)")]
    Scheme,
    /// No host to speak to.
    #[error("must name a host")]
    Host,
    /// User or password inside the address.
    #[error("must not hold a user or a password")]
    Userinfo,
    /// Parts that would be lost or doubled when a path is appended.
    #[error("must not hold a query or a fragment")]
    Query,
}

/// Accepts `https://host[/path]`, and the same with http for loopback addresses.
pub fn check_url(url: &Url) -> Result<(), UrlError> {
    if url.host().is_none() {
        return Err(UrlError::Host);
    }
    if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(url)) {
        return Err(UrlError::Scheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlError::Userinfo);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(UrlError::Query);
    }
    Ok(())
}

/// Whether the address names this very machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// More bytes than the cap.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The cap in bytes.
        limit: usize,
    },
    /// The connection failed before the end.
    #[error("the body broke off")]
    Broken(#[source] reqwest::Error),
}

/// Reads a body of at most `limit` bytes, counted after decompression; nothing beyond the cap is kept.
pub async fn read_body(mut response: Response, limit: usize) -> Result<Bytes, BodyError> {
    if response
        .content_length()
        .is_some_and(|length| usize::try_from(length).map_or(true, |length| length > limit))
    {
        return Err(BodyError::TooLarge { limit });
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| BodyError::Broken(error.without_url()))?
    {
        if body.len().saturating_add(chunk.len()) > limit {
            return Err(BodyError::TooLarge { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Reads the beginning of a body, at most `limit` bytes; for the words of an error, where the rest does not matter.
pub async fn read_beginning(mut response: Response, limit: usize) -> Bytes {
    let mut body = BytesMut::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = limit.saturating_sub(body.len());
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if chunk.len() >= room {
            break;
        }
    }
    body.freeze()
}

/// How a request failed before an answer was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection; nothing was sent.
    Connect,
    /// The peer did not answer in time.
    Timeout,
    /// The answer broke off.
    Body,
    /// The peer's certificate or its TLS is not acceptable; nothing was sent.
    Tls,
    /// Anything else, such as a connection reset while the request was written.
    Other,
}

impl Failure {
    /// Names the failure of a request.
    pub fn of(error: &reqwest::Error) -> Self {
        // In this order: what fails while connecting was surely never sent.
        if error.is_connect() {
            if tls_error(error).is_some() {
                Self::Tls
            } else {
                Self::Connect
            }
        } else if error.is_timeout() {
            Self::Timeout
        } else if error.is_body() || error.is_decode() {
            Self::Body
        } else {
            Self::Other
        }
    }

    /// The word for it in errors and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Body => "body",
            Self::Tls => "tls",
            Self::Other => "other",
        }
    }
}

/// A TLS connection that did not come about, with what a person can do about it.
#[derive(Debug, thiserror::Error)]
#[error("{}", tls_advice(.0))]
pub struct TlsFailure(#[source] pub reqwest::Error);

/// What a person can do about a peer whose TLS is not acceptable.
fn tls_advice(error: &reqwest::Error) -> &'static str {
    let Some(rustls::Error::InvalidCertificate(problem)) = tls_error(error) else {
        return "something between here and the host breaks TLS, or does not know TLS 1.2: check the proxy and the firewall";
    };
    match problem {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "set the clock of this machine if it is wrong; if it is right, the certificate has to be renewed"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "something else than the host that was meant answers: check the address and the proxy"
        }
        // A bad signature is what another authority of the same name looks like.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "if a proxy inspects TLS here, give the certificate of its CA with --ca-file (BATON_CA_FILE)"
        }
        _ => "ask whoever runs the proxy or the server why its certificate is not valid",
    }
}

fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(current) = next {
        if let Some(found) = current.downcast_ref() {
            return Some(found);
        }
        // An `io::Error` hides the error that it wraps from `source`.
        next = match current
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => current.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_loopback_http_addresses_are_accepted() {
        let cases: [(&str, Result<(), UrlError>); 12] = [
            ("https://console.jumpcloud.com", Ok(())),
            ("https://gateway.example.com/jumpcloud", Ok(())),
            ("http://127.0.0.1:8080", Ok(())),
            ("http://127.9.9.9/x", Ok(())),
            ("http://[::1]:8080", Ok(())),
            ("http://localhost:8080", Ok(())),
            ("http://console.jumpcloud.com", Err(UrlError::Scheme)),
            ("http://localhost.example.com", Err(UrlError::Scheme)),
            ("ftp://console.jumpcloud.com", Err(UrlError::Scheme)),
            (
                "https://user:SECRETSEED@example.com",
                Err(UrlError::Userinfo),
            ),
            ("https://example.com/?a=b", Err(UrlError::Query)),
            ("https://example.com/#a", Err(UrlError::Query)),
        ];
        for (text, expected) in cases {
            let url = Url::parse(text).unwrap();
            assert_eq!(check_url(&url), expected, "{text}");
        }
        assert_eq!(
            check_url(&Url::parse("data:text/plain,x").unwrap()),
            Err(UrlError::Host)
        );
    }

    #[test]
    fn a_client_refuses_trust_roots_that_are_not_certificates() {
        let url = Url::parse("https://example.com").unwrap();
        let build = |pem: &[u8]| {
            client(Options {
                timeout: Duration::from_secs(1),
                extra_ca_pem: Some(pem),
                urls: &[&url],
            })
        };
        assert!(matches!(build(b"hello"), Err(BuildError::NoCertificate)));
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(build(broken).is_err());
    }
}
