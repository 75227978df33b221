//! What must never reach a log line: known secrets, texts in the form of a credential, and fields named like one.
//!
//! A safety net under the rule that nobody logs secrets, not a licence to do it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};

/// What stands in place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Shorter ones would blot out ordinary words.
const SHORTEST: usize = 8;

/// How many secrets are remembered; a rotation adds one, and the oldest goes.
const MOST: usize = 64;

/// Keeps secrets out of texts.
#[derive(Debug)]
pub struct Redactor {
    secrets: ArcSwap<Vec<SecretString>>,
}

impl Redactor {
    /// A redactor that knows these secrets.
    pub fn new(secrets: &[SecretString]) -> Self {
        let redactor = Self {
            secrets: ArcSwap::from_pointee(Vec::new()),
        };
        for secret in secrets {
            redactor.hide(secret);
        }
        redactor
    }

    /// Learns one more secret.
    pub fn hide(&self, secret: &SecretString) {
        if secret.expose_secret().len() < SHORTEST {
            return;
        }
        self.secrets.rcu(|known| {
            let mut known = Vec::clone(known);
            if known.len() >= MOST {
                known.remove(0);
            }
            known.push(secret.clone());
            Arc::new(known)
        });
    }

    /// The value of a field as it may be logged.
    pub fn field(&self, name: &str, value: &str) -> String {
        let last = name.rsplit(['.', ' ']).next().unwrap_or(name);
        let named_secret = [
            "secret",
            "password",
            "token",
            "api_key",
            "authorization",
            "assertion",
        ]
        .iter()
        .any(|word| last.ends_with(word));
        if named_secret {
            return REDACTED.to_owned();
        }
        self.text(value)
    }

    /// A text as it may be logged.
    pub fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.secrets.load().iter() {
            if text.contains(secret.expose_secret()) {
                text = text.replace(secret.expose_secret(), REDACTED);
            }
        }
        let suspicious = ["secret-token:", "jca_", "eyJ", "earer ", "asic "]
            .iter()
            .any(|sign| text.contains(sign));
        if suspicious { masked(&text) } else { text }
    }
}

/// Replaces every word that has the form of a credential.
fn masked(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut after_scheme = false;
    for part in text.split_inclusive(is_delimiter) {
        let word = part.trim_end_matches(is_delimiter);
        let rest = part.get(word.len()..).unwrap_or_default();
        let looks_secret = word.contains("secret-token:")
            || (word.contains("jca_") && word.len() > 12)
            || (word.contains("eyJ") && word.len() > 20)
            || (after_scheme && word.len() >= SHORTEST);
        result.push_str(if looks_secret { REDACTED } else { word });
        result.push_str(rest);
        if !word.is_empty() {
            after_scheme =
                word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("basic");
        }
    }
    result
}

fn is_delimiter(character: char) -> bool {
    character.is_whitespace()
        || matches!(
            character,
            '"' | '\'' | ',' | ';' | '(' | ')' | '<' | '>' | '&' | '='
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_secret_is_hidden_in_any_surroundings(before in ".{0,30}", after in ".{0,30}") {
            let redactor = Redactor::new(&[SecretString::from("SECRETSEED-0123")]);
            let text = redactor.text(&format!("{before}SECRETSEED-0123{after}"));
            prop_assert!(!text.contains("SECRETSEED-0123"));
        }

        #[test]
        fn a_text_without_a_secret_stays_as_it_is(text in "[a-z /.:{}]{0,60}") {
            prop_assume!(!text.contains("earer ") && !text.contains("asic ") && !text.contains("secret-token:"));
            prop_assert_eq!(Redactor::new(&[]).text(&text), text);
        }
    }

    #[test]
    fn a_known_secret_is_replaced_wherever_it_stands() {
        let redactor = Redactor::new(&[SecretString::from("SECRETSEED-key-1")]);
        assert_eq!(
            redactor.text("url https://h/?k=SECRETSEED-key-1&x=SECRETSEED-key-1"),
            "url https://h/?k=[redacted]&x=[redacted]"
        );
    }

    #[test]
    fn a_rotated_secret_is_hidden_beside_the_old_one() {
        let redactor = Redactor::new(&[SecretString::from("SECRETSEED-old")]);
        redactor.hide(&SecretString::from("SECRETSEED-new"));
        assert_eq!(
            redactor.text("SECRETSEED-old SECRETSEED-new"),
            "[redacted] [redacted]"
        );
    }

    #[test]
    fn no_more_than_the_newest_secrets_are_kept() {
        let redactor = Redactor::new(&[]);
        for number in 0..200 {
            redactor.hide(&SecretString::from(format!("SECRETSEED-{number:03}")));
        }
        assert_eq!(redactor.secrets.load().len(), MOST);
        assert_eq!(redactor.text("SECRETSEED-199"), REDACTED);
    }

    #[test]
    fn texts_in_the_form_of_a_credential_are_replaced_without_being_known() {
        let redactor = Redactor::new(&[]);
        for (text, expected) in [
            (
                "got secret-token:conductorone.com:v1:SECRETSEED, done",
                "got [redacted], done",
            ),
            ("key jca_SECRETSEEDaaaaaaaa", "key [redacted]"),
            (
                "authorization: Bearer SECRETSEED1234",
                "authorization: Bearer [redacted]",
            ),
            ("Basic SECRETSEED1234=", "Basic [redacted]="),
            ("jwt eyJhbGciOiJFZERTQSJ9.SECRETSEED.x", "jwt [redacted]"),
            ("the basic way of a bearer", "the basic way of a bearer"),
            ("ordinary text", "ordinary text"),
        ] {
            assert_eq!(redactor.text(text), expected);
        }
    }

    #[test]
    fn fields_named_like_a_secret_show_nothing() {
        let redactor = Redactor::new(&[]);
        for name in [
            "client_secret",
            "oauth.token",
            "password",
            "jumpcloud.api_key",
        ] {
            assert_eq!(redactor.field(name, "SECRETSEED"), REDACTED, "{name}");
        }
        assert_eq!(redactor.field("token.host", "example.com"), "example.com");
    }
}
