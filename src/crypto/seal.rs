//! Secrets on their way to ConductorOne.

use std::fmt;

use secrecy::SecretString;

/// A secret that ConductorOne is to get, with the words that go beside it.
#[derive(Clone)]
pub struct Plaintext {
    /// What the secret is, such as `password`.
    pub name: String,
    /// For people.
    pub description: String,
    /// The form of the secret; empty for plain text.
    pub schema: String,
    /// The secret.
    pub secret: SecretString,
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plaintext")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
