//! The way to the server: TCP, an optional proxy tunnel, TLS, and the one HTTP/2 channel on top of them.
//!
//! Owns trust roots, proxy rules, keep-alive, reconnecting and the age limit of a connection. [`Connector`] is shared by
//! the gRPC channel and the token endpoint, so both obey the same rules. Nothing here knows tokens or messages.
//!
//! Invariants: no byte leaves without TLS 1.2 or newer and a verified certificate; every step of connecting has a time
//! limit; a host name is resolved anew at each connection.

use std::{
    error::Error as StdError,
    fmt, io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::{
    client::{
        legacy::connect::{Connected, Connection, HttpConnector, proxy::Tunnel},
        proxy::matcher::{Intercept, Matcher},
    },
    rt::TokioIo,
};
use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem::PemObject as _},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

use super::{credentials::Host, grpc::Timeouts};

const TCP_KEEPALIVE: Duration = Duration::from_mins(1);

/// The channel cannot be built from these settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The extra CA file holds something else than PEM certificates.
    #[error("the extra CA certificates are not readable as PEM")]
    ExtraCa(#[source] rustls::pki_types::pem::Error),
    /// The extra CA file holds no certificate.
    #[error("the extra CA file holds no PEM certificate ({0} bytes)")]
    NoExtraCa(usize),
    /// A certificate of the extra CA file is not usable as a trust root.
    #[error("certificate {0} of the extra CA file is not usable as a trust root")]
    BadExtraCa(usize, #[source] rustls::Error),
    /// There is nothing to trust.
    #[error(
        "no trusted root certificate was found on this system; install ca-certificates, set SSL_CERT_FILE, or give an extra CA"
    )]
    NoRoots,
    /// The TLS library refused its own defaults.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The proxy setting is not an URL of a proxy.
    #[error("the proxy setting (HTTPS_PROXY) is not an http:// or https:// URL ({0} characters)")]
    Proxy(usize),
    /// The host cannot be made into an URL.
    #[error("the API host {0:?} cannot be used in an URL")]
    Host(String),
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Name resolution or TCP failed.
    #[error("no TCP connection to {to}")]
    Tcp {
        /// Host and port.
        to: String,
        /// What the system said.
        #[source]
        source: BoxError,
    },
    /// Name resolution, TCP and the proxy together took too long.
    #[error("no TCP connection to {to} within {after:?}")]
    TcpTimeout {
        /// Host and port.
        to: String,
        /// The limit.
        after: Duration,
    },
    /// The proxy did not make a tunnel.
    #[error("the proxy {proxy} made no tunnel to {to}")]
    Proxy {
        /// Host and port of the proxy.
        proxy: String,
        /// Host and port behind it.
        to: String,
        /// What happened.
        #[source]
        source: BoxError,
    },
    /// The proxy wants other credentials.
    #[error(
        "the proxy {proxy} wants a user and a password (407); put the right ones into the proxy URL"
    )]
    ProxyAuth {
        /// Host and port of the proxy.
        proxy: String,
    },
    /// The certificate is signed by nobody who is trusted.
    #[error(
        "the TLS certificate of {host} is signed by an unknown authority; if a proxy inspects TLS here, give its CA as extra CA or in SSL_CERT_FILE"
    )]
    UnknownIssuer {
        /// The host.
        host: String,
        /// What TLS said.
        #[source]
        source: io::Error,
    },
    /// TLS failed.
    #[error("TLS with {host} failed; {}", tls_advice(.source))]
    Tls {
        /// The host.
        host: String,
        /// What TLS said.
        #[source]
        source: io::Error,
    },
    /// TLS took too long.
    #[error("TLS with {host} was not ready within {after:?}")]
    TlsTimeout {
        /// The host.
        host: String,
        /// The limit.
        after: Duration,
    },
    /// The host is not a name that a certificate can have.
    #[error("{host:?} is not a name that a TLS certificate can have")]
    Name {
        /// The host.
        host: String,
        /// What TLS said.
        #[source]
        source: InvalidDnsNameError,
    },
    /// Something between us and the server does not speak HTTP/2.
    #[error("{host} does not offer HTTP/2, which gRPC needs; a proxy in between may remove it")]
    NoHttp2 {
        /// The host.
        host: String,
    },
}

impl ConnectError {
    /// What a person can do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Tcp { .. } | Self::TcpTimeout { .. } => {
                "allow outgoing TCP to that host and port (firewall, network policy), or set HTTPS_PROXY where a proxy is \
                 the only way out"
            }
            Self::Proxy { .. } => {
                "check HTTPS_PROXY, that the proxy is up and that it allows CONNECT to the host, or except the host in \
                 NO_PROXY"
            }
            Self::ProxyAuth { .. } => {
                "put the user and the password that the proxy wants into HTTPS_PROXY"
            }
            Self::UnknownIssuer { .. } => {
                "if a proxy inspects TLS here, give the certificate of its authority with --ca-file (BATON_CA_FILE)"
            }
            Self::Tls { source, .. } => tls_advice(source),
            Self::TlsTimeout { .. } => {
                "something between here and the host swallows TLS: check the proxy and the firewall"
            }
            Self::Name { .. } => "correct the host of the client id, or BATON_C1_API_HOST",
            Self::NoHttp2 { .. } => {
                "let the proxy pass HTTP/2, or except the host from its TLS inspection"
            }
        }
    }
}

/// What a person can do about a failed TLS handshake.
fn tls_advice(error: &io::Error) -> &'static str {
    match certificate_problem(error) {
        Some(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => {
            "set the clock of this machine if it is wrong; if it is right, the certificate has to be renewed"
        }
        Some(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            "something else than ConductorOne answers: check the host of the client id, BATON_C1_API_HOST and the proxy"
        }
        Some(_) => "ask whoever runs the proxy or the server why its certificate is not valid",
        None => "something between here and the host breaks TLS: check the proxy and the firewall",
    }
}

type BoxError = Box<dyn StdError + Send + Sync>;

/// The proxy rules, as read from `HTTPS_PROXY` and `NO_PROXY`.
#[derive(Clone, Default)]
pub struct ProxyRules {
    /// URL of the proxy, which may hold a user and a password; empty or absent for none.
    pub https: Option<SecretString>,
    /// Hosts to reach directly: comma-separated names with their subdomains, addresses, networks, or `*`.
    pub no: String,
}

impl fmt::Debug for ProxyRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyRules")
            .field("https", &self.https.as_ref().map(|_| "[redacted]"))
            .field("no", &self.no)
            .finish()
    }
}

impl ProxyRules {
    fn matcher(&self) -> Result<Option<Matcher>, SetupError> {
        let Some(url) = self.https.as_ref().map(ExposeSecret::expose_secret) else {
            return Ok(None);
        };
        if url.trim().is_empty() {
            return Ok(None);
        }
        let probe = Uri::from_static("https://proxy.invalid/");
        let usable = Matcher::builder()
            .https(url.trim())
            .build()
            .intercept(&probe)
            .is_some_and(|proxy| matches!(proxy.uri().scheme_str(), Some("http" | "https")));
        if !usable {
            return Err(SetupError::Proxy(url.chars().count()));
        }
        let no = self.no.as_str();
        Ok(Some(Matcher::builder().https(url.trim()).no(no).build()))
    }
}

/// What a connection is for, which decides what TLS offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Grpc,
    Http,
}

/// Makes TLS connections, through the proxy where the rules say so.
#[derive(Clone)]
pub(crate) struct Connector {
    shared: Arc<Shared>,
    purpose: Purpose,
}

struct Shared {
    grpc: Arc<ClientConfig>,
    http: Arc<ClientConfig>,
    to_proxy: Arc<ClientConfig>,
    proxy: Option<Matcher>,
    dial: Duration,
    handshake: Duration,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("purpose", &self.purpose)
            .field("proxy", &self.shared.proxy.is_some())
            .finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads the system's roots (blocking, some milliseconds) and the extra ones.
    pub(crate) fn try_new(
        extra_ca_pem: Option<&[u8]>,
        proxy: &ProxyRules,
        limits: &Timeouts,
    ) -> Result<Self, SetupError> {
        let roots = roots(extra_ca_pem)?;
        let config = |protocols: &[&[u8]]| -> Result<Arc<ClientConfig>, SetupError> {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
                .map_err(SetupError::Tls)?
                .with_root_certificates(Arc::clone(&roots))
                .with_no_client_auth();
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Ok(Arc::new(config))
        };
        Ok(Self {
            shared: Arc::new(Shared {
                grpc: config(&[b"h2"])?,
                http: config(&[b"h2", b"http/1.1"])?,
                to_proxy: config(&[b"http/1.1"])?,
                proxy: proxy.matcher()?,
                dial: limits.dial,
                handshake: limits.handshake,
            }),
            purpose: Purpose::Http,
        })
    }

    /// Where the first connection on the way to a host ends: at the proxy, or at the host itself.
    pub(crate) fn first_hop(&self, host: &Host) -> Result<Hop, SetupError> {
        let to = origin(host)?;
        let proxy = self.shared.proxy_for(to.host().unwrap_or_default(), &to);
        let end = proxy.as_ref().map_or(&to, |proxy| proxy.uri());
        let port = match end.scheme_str() {
            Some("http") => 80,
            _ => 443,
        };
        Ok(Hop {
            host: bare(end.host().unwrap_or_default()).to_owned(),
            port: end.port_u16().unwrap_or(port),
            is_proxy: proxy.is_some(),
        })
    }

    /// Connects as a call would, and hangs up. Cancel-safe.
    pub(crate) async fn try_out(&self, host: &Host) -> Result<(), ConnectError> {
        let to = origin(host).map_err(|error| ConnectError::Tcp {
            to: host.to_string(),
            source: error.into(),
        })?;
        self.shared.connect(&to, Purpose::Grpc).await.map(drop)
    }

    /// The same connector, for gRPC: HTTP/2 or nothing.
    fn for_grpc(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            purpose: Purpose::Grpc,
        }
    }
}

/// The end of a first connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hop {
    /// A name, or an address without brackets.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
    /// It is the proxy, which resolves the name of the host itself.
    pub(crate) is_proxy: bool,
}

fn origin(host: &Host) -> Result<Uri, SetupError> {
    format!("https://{}", host.with_port())
        .parse()
        .map_err(|_not_shown: http::uri::InvalidUri| SetupError::Host(host.as_str().to_owned()))
}

/// A host without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

impl Service<Uri> for Connector {
    type Response = Io;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<Io, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.shared.connect(&to, this.purpose).await })
    }
}

impl Shared {
    async fn connect(&self, to: &Uri, purpose: Purpose) -> Result<Io, ConnectError> {
        let host = to.host().unwrap_or_default().to_owned();
        let port = to.port_u16().unwrap_or(443);
        let name = format!("{host}:{port}");
        let started = Instant::now();
        let stream = timeout(self.dial, self.reach(&host, port, &name))
            .await
            .map_err(|_elapsed| ConnectError::TcpTimeout {
                to: name.clone(),
                after: self.dial,
            })??;
        let config = match purpose {
            Purpose::Grpc => &self.grpc,
            Purpose::Http => &self.http,
        };
        let tls = handshake(config, &host, stream, self.handshake).await?;
        let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        if purpose == Purpose::Grpc && !http2 {
            return Err(ConnectError::NoHttp2 { host });
        }
        tracing::debug!(
            "server.address" = %name,
            "tls.version" = ?tls.get_ref().1.protocol_version(),
            duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "connected to ConductorOne"
        );
        Ok(Io {
            stream: TokioIo::new(Box::new(tls)),
            http2,
        })
    }

    /// A plain connection to the host, or one that ends there behind the proxy.
    async fn reach(&self, host: &str, port: u16, name: &str) -> Result<Stream, ConnectError> {
        let to: Uri = format!("https://{name}/").parse().map_err(|error| {
            let source: http::uri::InvalidUri = error;
            ConnectError::Tcp {
                to: name.to_owned(),
                source: source.into(),
            }
        })?;
        match self.proxy_for(host, &to) {
            None => dial(&to).await.map_err(|source| ConnectError::Tcp {
                to: format!("{host}:{port}"),
                source,
            }),
            Some(proxy) => self.tunnel(proxy, to, name).await,
        }
    }

    /// A host that is this machine is reached directly, whatever the rules say, as Go programs do.
    fn proxy_for(&self, host: &str, to: &Uri) -> Option<Intercept> {
        let bare = bare(host);
        let here = bare.eq_ignore_ascii_case("localhost")
            || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if here {
            return None;
        }
        self.proxy.as_ref()?.intercept(to)
    }

    async fn tunnel(&self, proxy: Intercept, to: Uri, name: &str) -> Result<Stream, ConnectError> {
        let at = proxy.uri().clone();
        let shown = at.authority().map(ToString::to_string).unwrap_or_default();
        let mut tunnel = Tunnel::new(
            at,
            ToProxy {
                tls: Arc::clone(&self.to_proxy),
                handshake: self.handshake,
            },
        );
        if let Some(auth) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(auth.clone());
        }
        match tunnel.call(to).await {
            Ok(stream) => Ok(Box::new(TokioIo::new(stream))),
            // The tunnel's error type is private to its crate; its text is all there is.
            Err(error) if error.to_string().contains("proxy authorization") => {
                Err(ConnectError::ProxyAuth { proxy: shown })
            }
            Err(error) => Err(ConnectError::Proxy {
                proxy: shown,
                to: name.to_owned(),
                source: error.into(),
            }),
        }
    }
}

async fn dial(to: &Uri) -> Result<Stream, BoxError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(TCP_KEEPALIVE));
    let stream = tcp.call(to.clone()).await?;
    Ok(Box::new(stream.into_inner()))
}

async fn handshake(
    config: &Arc<ClientConfig>,
    host: &str,
    stream: Stream,
    limit: Duration,
) -> Result<tokio_rustls::client::TlsStream<Stream>, ConnectError> {
    let name =
        ServerName::try_from(bare(host).to_owned()).map_err(|source| ConnectError::Name {
            host: host.to_owned(),
            source,
        })?;
    let connecting = TlsConnector::from(Arc::clone(config)).connect(name, stream);
    let host = host.to_owned();
    match timeout(limit, connecting).await {
        Ok(Ok(tls)) => Ok(tls),
        Ok(Err(source)) if is_unknown_issuer(&source) => {
            Err(ConnectError::UnknownIssuer { host, source })
        }
        Ok(Err(source)) => Err(ConnectError::Tls { host, source }),
        Err(_elapsed) => Err(ConnectError::TlsTimeout { host, after: limit }),
    }
}

fn is_unknown_issuer(error: &io::Error) -> bool {
    matches!(
        certificate_problem(error),
        // A bad signature is what another authority of the same name looks like.
        Some(CertificateError::UnknownIssuer | CertificateError::BadSignature)
    )
}

fn certificate_problem(error: &io::Error) -> Option<&CertificateError> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::InvalidCertificate(problem) => Some(problem),
        _ => None,
    }
}

/// Connects to the proxy itself, with TLS where its URL says `https`.
#[derive(Clone)]
struct ToProxy {
    tls: Arc<ClientConfig>,
    handshake: Duration,
}

impl Service<Uri> for ToProxy {
    type Response = TokioIo<Stream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<TokioIo<Stream>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, proxy: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let stream = dial(&proxy).await?;
            if proxy.scheme_str() != Some("https") {
                return Ok(TokioIo::new(stream));
            }
            let host = proxy.host().unwrap_or_default();
            let tls = handshake(&this.tls, host, stream, this.handshake).await?;
            Ok(TokioIo::new(Box::new(tls) as Stream))
        })
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
type Stream = Box<dyn Duplex>;

/// A ready connection.
pub(crate) struct Io {
    stream: TokioIo<Stream>,
    http2: bool,
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io")
            .field("http2", &self.http2)
            .finish_non_exhaustive()
    }
}

impl Connection for Io {
    fn connected(&self) -> Connected {
        if self.http2 {
            Connected::new().negotiated_h2()
        } else {
            Connected::new()
        }
    }
}

impl hyper::rt::Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}

fn roots(extra_ca_pem: Option<&[u8]>) -> Result<Arc<RootCertStore>, SetupError> {
    let native = rustls_native_certs::load_native_certs();
    if !native.errors.is_empty() {
        tracing::debug!(
            error.count = native.errors.len(),
            "some of the system's root certificates are not readable"
        );
    }
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(native.certs);
    if let Some(pem) = extra_ca_pem {
        let mut found = 0_usize;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            found += 1;
            store
                .add(certificate.map_err(SetupError::ExtraCa)?)
                .map_err(|source| SetupError::BadExtraCa(found, source))?;
        }
        if found == 0 {
            return Err(SetupError::NoExtraCa(pem.len()));
        }
    }
    if store.is_empty() {
        return Err(SetupError::NoRoots);
    }
    Ok(Arc::new(store))
}

/// The gRPC channel to one host: made when first used, renewed when it is old, reconnected when it breaks.
pub(crate) struct Link {
    endpoint: Endpoint,
    connector: Connector,
    max_age: Duration,
    current: Mutex<Option<(Channel, Instant)>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("uri", self.endpoint.uri())
            .field("max_age", &self.max_age)
            .finish_non_exhaustive()
    }
}

impl Link {
    pub(crate) fn try_new(
        host: &Host,
        user_agent: &str,
        connector: &Connector,
        limits: &Timeouts,
    ) -> Result<Self, SetupError> {
        let bad_host = || SetupError::Host(host.as_str().to_owned());
        let authority = host.with_port();
        let origin = origin(host)?;
        // The channel library adds TLS of its own to an https URL. Ours is in the connector, so the URL to connect to
        // says http, and the origin keeps https in `:scheme`.
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))
            .and_then(|endpoint| endpoint.user_agent(user_agent))
            .map_err(|_not_shown| bad_host())?
            .origin(origin)
            .http2_keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_answer)
            .keep_alive_while_idle(true);
        Ok(Self {
            endpoint,
            connector: connector.for_grpc(),
            max_age: limits.connection_age,
            current: Mutex::new(None),
        })
    }

    /// The channel for a new call. Must be called within a runtime.
    ///
    /// A channel older than the limit is replaced; calls that run on it keep it until they end.
    pub(crate) fn channel(&self) -> Channel {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some((channel, born)) if born.elapsed() < self.max_age => channel.clone(),
            _ => {
                let channel = self
                    .endpoint
                    .connect_with_connector_lazy(self.connector.clone());
                *current = Some((channel.clone(), Instant::now()));
                channel
            }
        }
    }
}
