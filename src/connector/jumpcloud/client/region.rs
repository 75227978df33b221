//! The three data centres of JumpCloud and their hosts.

use std::{fmt, str::FromStr};

use url::Url;

use crate::connector::Error;

/// Where an organisation lives; each lives in exactly one region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Region {
    /// The standard region, `jumpcloud.com`.
    #[default]
    Us,
    /// Europe, `eu.jumpcloud.com`.
    Eu,
    /// India, `in.jumpcloud.com`.
    In,
}

impl Region {
    /// All regions, the default first.
    pub const ALL: [Self; 3] = [Self::Us, Self::Eu, Self::In];

    /// The name as given on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::Eu => "eu",
            Self::In => "in",
        }
    }

    /// The host of both generations of the console's API.
    pub fn console_url(self) -> Url {
        parse(match self {
            Self::Us => "https://console.jumpcloud.com",
            Self::Eu => "https://console.eu.jumpcloud.com",
            Self::In => "https://console.in.jumpcloud.com",
        })
    }

    /// The host of Directory Insights.
    pub fn insights_url(self) -> Url {
        parse(match self {
            Self::Us => "https://api.jumpcloud.com",
            Self::Eu => "https://api.eu.jumpcloud.com",
            Self::In => "https://api.in.jumpcloud.com",
        })
    }

    /// Where service accounts fetch their tokens.
    pub fn token_url(self) -> Url {
        parse(match self {
            Self::Us => "https://admin-oauth.id.jumpcloud.com/oauth2/token",
            Self::Eu => "https://admin-oauth.id.eu.jumpcloud.com/oauth2/token",
            Self::In => "https://admin-oauth.id.in.jumpcloud.com/oauth2/token",
        })
    }
}

#[expect(
    clippy::expect_used,
    reason = "only constants come here, and a test parses them all"
)]
fn parse(text: &'static str) -> Url {
    Url::parse(text).expect("a constant address")
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Region {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|region| region.as_str().eq_ignore_ascii_case(text.trim()))
            .ok_or_else(|| Error::Invalid {
                what: format!(
                    "the JumpCloud region {:?} is not known; use us, eu or in",
                    text.chars().take(40).collect::<String>()
                ),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::check_url;

    #[test]
    fn every_region_has_three_https_hosts_of_its_own() {
        let mut hosts = std::collections::BTreeSet::new();
        for region in Region::ALL {
            for url in [
                region.console_url(),
                region.insights_url(),
                region.token_url(),
            ] {
                assert_eq!(check_url(&url), Ok(()));
                assert!(hosts.insert(url.host_str().unwrap().to_owned()));
            }
            assert_eq!(
                region.to_string().to_uppercase().parse::<Region>().unwrap(),
                region
            );
        }
        assert_eq!(hosts.len(), 9);
    }

    #[test]
    fn an_unknown_region_is_refused_with_the_known_ones() {
        let error = "mars".parse::<Region>().unwrap_err().to_string();
        assert_eq!(
            error,
            "the JumpCloud region \"mars\" is not known; use us, eu or in"
        );
    }
}
