//! Credentials from a value, a file or a mounted directory, with the memory of where they came from.
//!
//! A credential that came from a file can be read again, which is how a rotation takes effect without a restart. Nothing
//! here prints a value: `Debug` shows the origin only.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{
    Problem,
    settings::variable_of,
    source::{PathKind, Source},
};

/// No credential is larger.
const LIMIT: u64 = 64 * 1024;

/// Where a credential came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretOrigin {
    /// Given as a value; the text names the flag, variable or configuration file.
    Value(String),
    /// Read from this file, or from the file of this credential in this directory.
    File(PathBuf),
}

/// A credential and where it came from.
#[derive(Clone)]
pub struct Secret {
    name: &'static str,
    value: SecretString,
    origin: SecretOrigin,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("name", &self.name)
            .field("value", &"[redacted]")
            .field("origin", &self.origin)
            .finish()
    }
}

impl Secret {
    /// A credential that was given as a value; `from` names the flag, variable or file that held it.
    pub(super) fn from_value(
        name: &'static str,
        value: String,
        from: String,
    ) -> Result<Self, Problem> {
        let value = Zeroizing::new(value);
        check(&value).map_err(|problem| Problem::of(name, problem))?;
        Ok(Self {
            name,
            value: SecretString::from(value.as_str()),
            origin: SecretOrigin::Value(from),
        })
    }

    /// Reads a credential from a file or a mounted directory.
    ///
    /// Trailing line ends are cut off. An empty file, one above 64 KiB, one that is not text, and one that holds blanks
    /// or control characters inside are refused.
    pub(super) fn from_file(
        name: &'static str,
        path: &Path,
        source: &dyn Source,
    ) -> Result<Self, Problem> {
        let problem = |text: String| Problem::of(&format!("{name}-file"), text);
        let value = read(name, path, source).map_err(problem)?;
        Ok(Self {
            name,
            value,
            origin: SecretOrigin::File(path.to_owned()),
        })
    }

    /// The setting that this credential belongs to, such as `api-key`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The value.
    pub fn value(&self) -> &SecretString {
        &self.value
    }

    /// Where it came from.
    pub fn origin(&self) -> &SecretOrigin {
        &self.origin
    }

    /// Whether [`Secret::reload`] can ever bring another value.
    pub fn can_change(&self) -> bool {
        matches!(self.origin, SecretOrigin::File(_))
    }

    /// Reads the credential again; `None` when it is unchanged or cannot change.
    ///
    /// Blocks on the file system. An error leaves this credential as it is: keep using it and try later.
    pub fn reload(&self, source: &dyn Source) -> Result<Option<Self>, Problem> {
        let SecretOrigin::File(path) = &self.origin else {
            return Ok(None);
        };
        let fresh = Self::from_file(self.name, path, source)?;
        Ok((fresh.value.expose_secret() != self.value.expose_secret()).then_some(fresh))
    }
}

/// Texts of credentials by the name of their setting, such as `api-key`.
#[derive(Debug, Clone, Default)]
pub struct Texts(pub BTreeMap<&'static str, SecretString>);

impl PartialEq for Texts {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|(left, right)| {
                left.0 == right.0 && left.1.expose_secret() == right.1.expose_secret()
            })
    }
}

/// A path as it may be shown: one that looks like a credential put into the wrong place is described instead.
pub(super) fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    let suspicious = text.contains("secret-token")
        || text.starts_with("jca_")
        || text.len() > 512
        || !text.contains(['/', '\\', '.']);
    if suspicious {
        format!(
            "a path of {} characters (is that the credential itself? give the name of a file)",
            text.chars().count()
        )
    } else {
        text.into_owned()
    }
}

fn read(name: &str, path: &Path, source: &dyn Source) -> Result<SecretString, String> {
    let file = match source.kind(path) {
        Ok(PathKind::File) => path.to_owned(),
        Ok(PathKind::Directory) => {
            let candidates = [variable_of(name), name.to_owned()];
            candidates
                .iter()
                .map(|candidate| path.join(candidate))
                .find(|candidate| matches!(source.kind(candidate), Ok(PathKind::File)))
                .ok_or_else(|| {
                    format!(
                        "the directory {} holds none of the files {}",
                        shown(path),
                        candidates.join(", ")
                    )
                })?
        }
        Err(error) => return Err(format!("cannot read {}: {error}", shown(path))),
    };
    let content = source
        .read(&file, LIMIT)
        .map_err(|error| format!("cannot read {}: {error}", shown(&file)))?;
    let content = Zeroizing::new(content);
    text(&content)
        .map(SecretString::from)
        .map_err(|problem| format!("{} {problem}", shown(&file)))
}

/// The credential in the content of a file or of a key of a Secret: without the line ends after it, and fit for use.
///
/// The error says what is wrong with it, to be put after the name of the place; it holds nothing of the content.
pub(crate) fn text(content: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(content)
        .map_err(|error| {
            format!(
                "is not text (byte {} is not valid UTF-8)",
                error.valid_up_to()
            )
        })?
        .trim_end_matches(['\r', '\n']);
    check(text)?;
    Ok(text)
}

/// Credentials end up in headers and tokens, where blanks and control characters are either forbidden or a sign of a
/// value that was pasted wrongly.
fn check(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > LIMIT {
        return Err(format!("is larger than {LIMIT} bytes"));
    }
    match text
        .chars()
        .position(|character| !character.is_ascii_graphic())
    {
        Some(position) => Err(format!(
            "holds a blank, a control character or a character outside ASCII at position {} of {}; \
             paste the credential alone, on one line",
            position + 1,
            text.chars().count()
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::source::ManualSource;

    const PATH: &str = "/run/secrets/key";

    /// Compiles only for what is overwritten with zeros when it is dropped.
    fn is_wiped<T: zeroize::ZeroizeOnDrop>(_: &T) {}

    #[test]
    fn a_credential_is_wiped_when_it_is_dropped() {
        let secret =
            Secret::from_value("api-key", "SECRETSEED".to_owned(), "test".to_owned()).unwrap();
        is_wiped(secret.value());
    }

    #[test]
    fn line_ends_after_a_secret_are_cut_off() {
        for content in [
            "SECRETSEED1",
            "SECRETSEED1\n",
            "SECRETSEED1\r\n",
            "SECRETSEED1\n\n",
        ] {
            let source = ManualSource::new().with_file(PATH, content);
            let secret = Secret::from_file("api-key", Path::new(PATH), &source).unwrap();
            assert_eq!(secret.value().expose_secret(), "SECRETSEED1");
        }
    }

    #[test]
    fn a_mounted_directory_is_searched_by_variable_and_by_name() {
        for file in ["BATON_API_KEY", "api-key"] {
            let source = ManualSource::new()
                .with_directory("/run/baton", false)
                .with_file(format!("/run/baton/{file}"), "SECRETSEED2\n");
            let secret = Secret::from_file("api-key", Path::new("/run/baton"), &source).unwrap();
            assert_eq!(secret.value().expose_secret(), "SECRETSEED2");
        }
    }

    #[test]
    fn a_rotated_file_brings_the_new_value_and_an_unchanged_one_nothing() {
        let source = ManualSource::new().with_file(PATH, "SECRETSEED3");
        let secret = Secret::from_file("api-key", Path::new(PATH), &source).unwrap();
        assert!(secret.can_change());
        assert!(secret.reload(&source).unwrap().is_none());
        let rotated = source.with_file(PATH, "SECRETSEED4\n");
        let fresh = secret.reload(&rotated).unwrap().unwrap();
        assert_eq!(fresh.value().expose_secret(), "SECRETSEED4");
    }

    #[test]
    fn a_file_that_vanished_is_an_error_and_keeps_the_old_value() {
        let secret = Secret::from_file(
            "api-key",
            Path::new(PATH),
            &ManualSource::new().with_file(PATH, "SECRETSEED5"),
        )
        .unwrap();
        let problem = secret.reload(&ManualSource::new()).unwrap_err().to_string();
        assert!(problem.contains("--api-key-file"), "{problem}");
        assert_eq!(secret.value().expose_secret(), "SECRETSEED5");
    }

    #[test]
    fn a_value_never_changes() {
        let secret =
            Secret::from_value("api-key", "SECRETSEED6".to_owned(), "--api-key".to_owned())
                .unwrap();
        assert!(!secret.can_change());
        assert!(secret.reload(&ManualSource::new()).unwrap().is_none());
    }

    #[test]
    fn debug_shows_the_origin_and_not_the_value() {
        let secret =
            Secret::from_value("api-key", "SECRETSEED7".to_owned(), "--api-key".to_owned())
                .unwrap();
        let text = format!("{secret:?}");
        assert!(text.contains("--api-key"));
        assert!(!text.contains("SECRETSEED"), "{text}");
    }

    #[test]
    fn a_secret_given_as_a_path_is_not_shown() {
        for path in [
            "SECRETSEEDaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "jca_SECRETSEED",
            "SECRETSEED",
            "secret-token:conductorone.com:v1:SECRETSEED",
        ] {
            let problem = Secret::from_file("api-key", Path::new(path), &ManualSource::new())
                .unwrap_err()
                .to_string();
            assert!(!problem.contains("SECRETSEED"), "{problem}");
            assert!(problem.contains("the credential itself"), "{problem}");
        }
    }
}
