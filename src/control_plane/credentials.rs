//! The client id and the client secret: reading them, and what else their text says.
//!
//! Owns the two text forms of the SDK, `<name>@<host>/<rest>` and `secret-token:conductorone.com:v1:<base64url JWK>`.
//! Errors name the part that is wrong and its shape; no error and no `Debug` output shows the secret or a piece of it.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use base64::Engine as _;
use http::uri::Authority;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::crypto::jwk::{self, BASE64URL, Ed25519Jwk};

/// Longest accepted text of an id or a secret, in bytes.
const MAX_LEN: usize = 16 * 1024;

/// Why a client id or a client secret cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client id cannot be used.
    #[error("client id: {0}; copy it again from the connector's page in ConductorOne")]
    ClientId(ClientIdProblem),
    /// The client secret cannot be used.
    #[error("client secret: {0}; issue a new one on the connector's page in ConductorOne")]
    ClientSecret(ClientSecretProblem),
    /// The host that overrides the one of the client id cannot be used.
    #[error(
        "API host (BATON_C1_API_HOST): {0}; give host or host:port, or unset the variable to use the host of the client id"
    )]
    ApiHost(HostProblem),
}

/// What is wrong with a client id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientIdProblem {
    /// There is no text.
    #[error("is empty")]
    Empty,
    /// The text is too long to be one.
    #[error("is {0} bytes long, more than any client id")]
    TooLong(usize),
    /// White space or a control character, as from a bad copy.
    #[error("has white space or a control character at position {0} (from 1)")]
    Blank(usize),
    /// Only one part around `@`.
    #[error("has no \"@\" between name and host")]
    NoAt,
    /// Nothing before `@`.
    #[error("has no name before \"@\"")]
    NoName,
    /// No `/` after the host.
    #[error("has no \"/\" after the host")]
    NoSlash,
    /// The part between `@` and `/`.
    #[error("the part between \"@\" and \"/\" {0}")]
    Host(HostProblem),
}

/// What is wrong with a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostProblem {
    /// There is no text.
    #[error("is empty")]
    Empty,
    /// The text is an URL.
    #[error("is an URL; only the host is wanted, without \"https://\" or a path")]
    Url,
    /// The text is nothing that can stand in an URL as host and port.
    #[error("is not a host name or address with an optional port")]
    Malformed,
}

/// What is wrong with a client secret. Never holds a piece of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientSecretProblem {
    /// There is no text.
    #[error("is empty")]
    Empty,
    /// The text is too long to be one.
    #[error("is {0} bytes long, more than any client secret")]
    TooLong(usize),
    /// White space or a control character, as from a bad copy.
    #[error("has white space or a control character at position {0} (from 1)")]
    Blank(usize),
    /// Not four parts around colons.
    #[error("has {0} of the 4 parts that \":\" separates")]
    Parts(usize),
    /// The third part is not the version that is known.
    #[error("the third part (version) is not \"v1\" ({0} characters)")]
    Version(usize),
    /// The fourth part is missing.
    #[error("the fourth part (key) is empty")]
    NoKey,
    /// The fourth part is not base64url.
    #[error("the fourth part (key) is not base64url without padding ({0} characters)")]
    Base64(usize),
    /// The fourth part is not an Ed25519 private key.
    #[error("the key in the fourth part {0}")]
    Jwk(jwk::Error),
}

/// The client id: an opaque identity whose text also names the host to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientId {
    text: String,
    name: String,
    host: Host,
}

impl ClientId {
    /// Reads `<name>@<host>[:port]/<anything>`; splits at the first `@` and then at the first `/`, as the SDK does.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::read(text).map_err(Error::ClientId)
    }

    fn read(text: &str) -> Result<Self, ClientIdProblem> {
        match shape(text) {
            Shape::Empty => return Err(ClientIdProblem::Empty),
            Shape::TooLong(len) => return Err(ClientIdProblem::TooLong(len)),
            Shape::Blank(at) => return Err(ClientIdProblem::Blank(at)),
            Shape::Good => {}
        }
        let (name, rest) = text.split_once('@').ok_or(ClientIdProblem::NoAt)?;
        if name.is_empty() {
            return Err(ClientIdProblem::NoName);
        }
        let (host, _uninterpreted) = rest.split_once('/').ok_or(ClientIdProblem::NoSlash)?;
        Ok(Self {
            text: text.to_owned(),
            name: name.to_owned(),
            host: Host::read(host).map_err(ClientIdProblem::Host)?,
        })
    }

    /// The whole text, which is the OAuth client id.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part before `@`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The part between `@` and `/`.
    pub fn host(&self) -> &Host {
        &self.host
    }
}

/// A host with an optional port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host(Authority);

impl Host {
    /// Reads the value of the override of the API host. An empty one is an error, since a host that is set but empty
    /// leaves nothing to talk to.
    pub fn parse_override(text: &str) -> Result<Self, Error> {
        Self::read(text).map_err(Error::ApiHost)
    }

    fn read(text: &str) -> Result<Self, HostProblem> {
        if text.is_empty() {
            return Err(HostProblem::Empty);
        }
        if text.contains("://") {
            return Err(HostProblem::Url);
        }
        if text.contains(['@', '/', '?', '#', '\\']) {
            return Err(HostProblem::Malformed);
        }
        let authority = Authority::from_str(text).map_err(|_not_shown| HostProblem::Malformed)?;
        let ends_in_colon = text.ends_with(':');
        let port_is_bad = text
            .strip_prefix(authority.host())
            .is_some_and(|rest| !rest.is_empty() && authority.port_u16().is_none_or(|p| p == 0));
        // The parser takes anything in brackets, nothing too.
        let address_is_bad = authority.host().strip_prefix('[').is_some_and(|rest| {
            rest.strip_suffix(']')
                .is_none_or(|address| address.parse::<Ipv6Addr>().is_err())
        });
        if authority.host().is_empty() || ends_in_colon || port_is_bad || address_is_bad {
            return Err(HostProblem::Malformed);
        }
        Ok(Self(authority))
    }

    /// Host and port as written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Host and port, the port being 443 where none is written.
    pub fn with_port(&self) -> String {
        match self.0.port_u16() {
            Some(_) => self.0.as_str().to_owned(),
            None => format!("{}:443", self.0),
        }
    }

    /// The host alone, as the audience of the assertion has it: an IPv6 address loses its brackets with its port.
    pub fn audience(&self) -> &str {
        let host = self.0.host();
        if self.0.port_u16().is_none() {
            return host;
        }
        host.strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(host)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// The client secret: an Ed25519 private key.
#[derive(Clone)]
pub struct ClientSecret(Ed25519Jwk);

impl ClientSecret {
    /// Reads `<a>:<b>:v1:<base64url JWK>`. The first two parts are not checked; the SDK does not check them either.
    pub fn parse(text: &SecretString) -> Result<Self, Error> {
        Self::read(text.expose_secret()).map_err(Error::ClientSecret)
    }

    fn read(text: &str) -> Result<Self, ClientSecretProblem> {
        match shape(text) {
            Shape::Empty => return Err(ClientSecretProblem::Empty),
            Shape::TooLong(len) => return Err(ClientSecretProblem::TooLong(len)),
            Shape::Blank(at) => return Err(ClientSecretProblem::Blank(at)),
            Shape::Good => {}
        }
        let parts: Vec<&str> = text.splitn(4, ':').collect();
        let [_scheme, _issuer, version, key] = parts.as_slice() else {
            return Err(ClientSecretProblem::Parts(parts.len()));
        };
        if *version != "v1" {
            return Err(ClientSecretProblem::Version(version.chars().count()));
        }
        if key.is_empty() {
            return Err(ClientSecretProblem::NoKey);
        }
        let json = BASE64URL
            .decode(key)
            .map(Zeroizing::new)
            .map_err(|_not_shown| ClientSecretProblem::Base64(key.chars().count()))?;
        Ed25519Jwk::from_json(&json)
            .map(Self)
            .map_err(ClientSecretProblem::Jwk)
    }

    /// The key itself.
    pub fn key(&self) -> &Ed25519Jwk {
        &self.0
    }
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSecret([redacted])")
    }
}

/// A client id with its secret.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Who the connector is.
    pub client_id: ClientId,
    /// How it proves that.
    pub client_secret: ClientSecret,
}

impl Credentials {
    /// Reads both texts.
    pub fn parse(client_id: &str, client_secret: &SecretString) -> Result<Self, Error> {
        Ok(Self {
            client_id: ClientId::parse(client_id)?,
            client_secret: ClientSecret::parse(client_secret)?,
        })
    }

    /// Where to send requests: the override if there is one, else the host of the client id.
    pub fn api_host(&self, overridden: Option<&str>) -> Result<Host, Error> {
        match overridden {
            Some(text) => Host::parse_override(text),
            None => Ok(self.client_id.host().clone()),
        }
    }
}

enum Shape {
    Good,
    Empty,
    TooLong(usize),
    Blank(usize),
}

fn shape(text: &str) -> Shape {
    if text.is_empty() {
        return Shape::Empty;
    }
    if text.len() > MAX_LEN {
        return Shape::TooLong(text.len());
    }
    match text
        .chars()
        .position(|c| c.is_whitespace() || c.is_control())
    {
        Some(at) => Shape::Blank(at + 1),
        None => Shape::Good,
    }
}

/// Credentials made up for a simulator or a test.
#[cfg(any(test, feature = "simulator"))]
#[derive(Debug)]
pub struct Generated {
    /// Text of the client id.
    pub client_id: String,
    /// Text of the client secret.
    pub client_secret: SecretString,
    /// The public key that verifies assertions.
    pub public_key: [u8; jwk::KEY_LEN],
}

/// Makes up credentials for `<client_name>@<host>` with a fresh key; `None` when the system gives no randomness.
#[cfg(any(test, feature = "simulator"))]
pub fn generate(client_name: &str, host: &str) -> Option<Generated> {
    let key = Ed25519Jwk::generate()?;
    Some(Generated {
        client_id: format!("{client_name}@{host}/spaces/simulated"),
        client_secret: SecretString::from(format!(
            "secret-token:conductorone.com:v1:{}",
            BASE64URL.encode(key.to_json())
        )),
        public_key: *key.public_key(),
    })
}

#[cfg(test)]
mod tests;
