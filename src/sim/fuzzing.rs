//! Hostile input, one function a target: what a peer, a file or a person could hand us, and what must hold whatever it is.
//!
//! Owns the targets and their properties. libFuzzer (`fuzz/`) and the smoke test (`tests/it/fuzz.rs`) call the same
//! functions. A target returns when all is well, and panics when a property is broken, besides what panics by itself.
//! Properties that all share: errors are bounded and repeat no secret, nothing hangs, and what was read can be used.

#![expect(
    clippy::expect_used,
    reason = "a target says what is wrong by panicking"
)]

use std::fmt::{Debug, Display};

mod answers;
mod connector;
mod files;
mod secrets;
mod stub;
mod tasks;

pub use self::{
    answers::{answers, jumpcloud_json},
    connector::{jumpcloud_sync, page_token},
    files::{c1z_database, c1z_envelope, config_file},
    secrets::{OWN_SEED, credentials, encryption},
    tasks::task,
};

/// What one target is called, and the function behind it.
pub type Target = (&'static str, fn(&[u8]));

/// Every target; the names are those of the binaries and corpora in `fuzz/`.
pub const TARGETS: [Target; 10] = [
    ("answers", answers),
    ("c1z_database", c1z_database),
    ("c1z_envelope", c1z_envelope),
    ("config_file", config_file),
    ("credentials", credentials),
    ("encryption", encryption),
    ("jumpcloud_json", jumpcloud_json),
    ("jumpcloud_sync", jumpcloud_sync),
    ("page_token", page_token),
    ("task", task),
];

/// The longest text of an error, in bytes.
const MAX_ERROR: usize = 8 * 1024;
/// The longest word of our own errors is shorter.
const TELLING: usize = 32;

/// An error is bounded, on one line, and does not hold the secret.
fn tells_nothing(error: &(impl Display + Debug), secret: &str) {
    let text = format!("{error} {error:?}");
    assert!(text.len() <= MAX_ERROR, "an error of {} bytes", text.len());
    assert!(
        !error.to_string().contains('\n'),
        "an error of several lines: {text}"
    );
    assert!(
        !repeats(&text, secret),
        "an error repeats the secret: {text}"
    );
}

/// Whether a text holds a secret. libFuzzer learns whole sentences of ours, which secrets are not: they have no spaces.
fn repeats(text: &str, secret: &str) -> bool {
    secret.len() >= TELLING && !secret.contains(char::is_whitespace) && text.contains(secret)
}

/// The parts of an input around a byte, at most `most` of them.
fn parts(data: &[u8], separator: u8, most: usize) -> impl Iterator<Item = &[u8]> {
    data.splitn(most, move |byte| *byte == separator)
}
