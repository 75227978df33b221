//! Keys, signatures, encryption and generated passwords: the only module that touches cryptographic primitives.
//!
//! Owns the Ed25519 key of the client secret ([`jwk`]), the signed client assertion ([`jws`]), secrets encrypted to
//! ConductorOne ([`seal`]) and to the connector ([`open`]), generated passwords ([`password`]), and SHA-256. Primitives
//! are those of aws-lc; age files are written and read by the `age` crate. It never reads files, clocks or
//! configuration, and no error or `Debug` output of it shows key material.

mod envelope;
mod hybrid;
mod jwe;
pub mod jwk;
pub mod jws;
pub mod open;
pub mod password;
pub mod public_key;
pub mod seal;

use std::fmt;

use aws_lc_rs::digest;

/// A running SHA-256 digest.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Sha256 {
    /// The digest of nothing so far.
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The 32 bytes of the digest.
    pub fn finish(self) -> Vec<u8> {
        self.0.finish().as_ref().to_vec()
    }

    /// The digest of one slice.
    pub fn digest(bytes: &[u8]) -> Vec<u8> {
        let mut running = Self::new();
        running.update(bytes);
        running.finish()
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256")
    }
}

/// Lowercase hexadecimal text.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0x0f])
        .filter_map(|nibble| DIGITS.get(usize::from(nibble)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_of_abc_is_the_published_value() {
        let mut running = Sha256::new();
        running.update(b"a");
        running.update(b"bc");
        assert_eq!(
            hex(&running.finish()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn hex_keeps_leading_zeros() {
        assert_eq!(hex(&[0, 1, 0xff, 0x10]), "0001ff10");
    }
}
