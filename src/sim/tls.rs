//! The TLS side of a simulator: an authority made for the run, and certificates, good ones and bad ones.

use std::{
    fmt, io,
    str::FromStr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use rcgen::{CertificateParams, CertifiedIssuer, DnType, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::{net::TcpStream, time};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What the simulator shows to a client that connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Certificate {
    /// A good one.
    Good,
    /// One that ended long ago.
    Expired,
    /// One that begins in the far future.
    NotYetValid,
    /// One for another host.
    OtherHost,
    /// One that an authority signed that nobody trusts.
    UnknownAuthority,
}

const CERTIFICATES: [(&str, Certificate); 5] = [
    ("good", Certificate::Good),
    ("expired", Certificate::Expired),
    ("not-yet-valid", Certificate::NotYetValid),
    ("other-host", Certificate::OtherHost),
    ("unknown-authority", Certificate::UnknownAuthority),
];

impl Certificate {
    /// Those that no client may accept.
    pub const BAD: [Self; 4] = [
        Self::Expired,
        Self::NotYetValid,
        Self::OtherHost,
        Self::UnknownAuthority,
    ];
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = CERTIFICATES.iter().find(|(_, which)| which == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// The text is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no certificate; there are good, expired, not-yet-valid, other-host and unknown-authority"
)]
pub struct CertificateError(String);

impl FromStr for Certificate {
    type Err = CertificateError;

    fn from_str(text: &str) -> Result<Self, CertificateError> {
        CERTIFICATES
            .into_iter()
            .find_map(|(name, which)| (name == text).then_some(which))
            .ok_or_else(|| CertificateError(text.to_owned()))
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

/// The authority and the certificate that is shown.
pub(super) struct Tls {
    authority: Authority,
    protocols: Vec<Vec<u8>>,
    shown: RwLock<TlsAcceptor>,
    failed: AtomicU64,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Makes an authority and a good certificate for the loopback names.
    pub(super) fn generate(protocols: &[&str]) -> anyhow::Result<Self> {
        let authority = authority("baton-sim authority")?;
        let protocols: Vec<_> = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let shown = acceptor(&authority, Certificate::Good, &protocols)?;
        Ok(Self {
            authority,
            protocols,
            shown: RwLock::new(shown),
            failed: AtomicU64::new(0),
        })
    }

    /// The certificate of the authority.
    pub(super) fn ca_pem(&self) -> String {
        self.authority.pem()
    }

    /// Shows another certificate from the next connection on.
    pub(super) fn show(&self, which: Certificate) -> anyhow::Result<()> {
        let acceptor = acceptor(&self.authority, which, &self.protocols)?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
        Ok(())
    }

    /// Handshakes that came to nothing.
    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Performs a handshake; `None` when it fails.
    pub(super) async fn accept(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let acceptor = self
            .shown
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let accepted = time::timeout(HANDSHAKE, acceptor.accept(stream))
            .await
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
        match accepted {
            Ok(stream) => Some(stream),
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%error, "a TLS handshake with the simulator failed");
                None
            }
        }
    }
}

fn authority(name: &str) -> anyhow::Result<Authority> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![
        rcgen::KeyUsagePurpose::KeyCertSign,
        rcgen::KeyUsagePurpose::DigitalSignature,
        rcgen::KeyUsagePurpose::CrlSign,
    ];
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
        .context("making the authority of the simulator")
}

fn acceptor(
    known: &Authority,
    which: Certificate,
    protocols: &[Vec<u8>],
) -> anyhow::Result<TlsAcceptor> {
    let names = if which == Certificate::OtherHost {
        vec!["other.example.com".to_owned()]
    } else {
        vec![
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
            "localhost".to_owned(),
        ]
    };
    let mut leaf = CertificateParams::new(names)?;
    leaf.distinguished_name
        .push(DnType::CommonName, "baton-sim");
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    match which {
        Certificate::Expired => {
            leaf.not_before = rcgen::date_time_ymd(2020, 1, 1);
            leaf.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        Certificate::NotYetValid => {
            leaf.not_before = rcgen::date_time_ymd(4000, 1, 1);
        }
        _ => {}
    }
    let key = KeyPair::generate()?;
    let certificate = if which == Certificate::UnknownAuthority {
        let nobody = authority("nobody")?;
        leaf.signed_by(&key, &*nobody)
    } else {
        leaf.signed_by(&key, known)
    }
    .context("making the certificate of the simulator")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )?;
    config.alpn_protocols = protocols.to_vec();
    Ok(TlsAcceptor::from(Arc::new(config)))
}
