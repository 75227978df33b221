//! The layers of values before they are understood: flag over environment over file.

use std::{collections::BTreeMap, ffi::OsString, fmt};

use super::{
    Problem, file,
    settings::{self, Kind, SETTINGS, Setting},
    source::Source,
};

/// A value as it was written.
pub(super) enum Raw {
    Text(String),
    Items(Vec<String>),
}

/// The flags of a command line, by the name of their setting.
#[derive(Clone, Default)]
pub struct Flags(BTreeMap<&'static str, Vec<String>>);

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Flags {
    /// Adds a flag; one that may be repeated keeps all its values.
    pub fn push(&mut self, setting: &'static Setting, values: Vec<String>) {
        self.0.entry(setting.name).or_default().extend(values);
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Flag(&'static str),
    Variable(String),
    File(String),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Variable(name) => f.write_str(name),
            Self::File(path) => f.write_str(path),
            Self::Default => f.write_str("default"),
        }
    }
}

/// All values that were given, the strongest of each setting.
pub(super) struct Values(BTreeMap<&'static str, (Raw, Origin)>);

impl Values {
    /// Gathers the layers. An environment variable that is empty counts as not set.
    pub(super) fn gather(flags: &Flags, source: &dyn Source, problems: &mut Vec<Problem>) -> Self {
        let named = variable("BATON_CONFIG_PATH", source, problems);
        let mut file = file::load(named.as_deref(), source, problems);
        let mut values = BTreeMap::new();
        for setting in SETTINGS {
            let given = if let Some(texts) = flags.0.get(setting.name) {
                let raw = match setting.kind {
                    Kind::List => Raw::Items(texts.iter().flat_map(|text| items(text)).collect()),
                    _ => Raw::Text(texts.last().cloned().unwrap_or_default()),
                };
                Some((raw, Origin::Flag(setting.name)))
            } else if let Some(text) = variable(&setting.variable(), source, problems) {
                let raw = match setting.kind {
                    Kind::List => Raw::Items(items(&text)),
                    _ => Raw::Text(text),
                };
                Some((raw, Origin::Variable(setting.variable())))
            } else {
                file.values.remove(setting.name).map(|raw| {
                    let raw = match (setting.kind, raw) {
                        (Kind::List, Raw::Text(text)) => Raw::Items(items(&text)),
                        (_, raw) => raw,
                    };
                    (raw, Origin::File(file.path.display().to_string()))
                })
            };
            if let Some(given) = given {
                values.insert(setting.name, given);
            }
        }
        Self(values)
    }

    /// The strongest value of a setting and where it came from.
    pub(super) fn get(&self, name: &str) -> Option<(&Raw, &Origin)> {
        self.0.get(name).map(|(raw, origin)| (raw, origin))
    }

    /// The text of a setting; an empty one, which only a flag can give, counts as absent.
    pub(super) fn text(&self, name: &str) -> Option<(&str, &Origin)> {
        match self.get(name) {
            Some((Raw::Text(text), origin)) if !text.is_empty() => Some((text, origin)),
            _ => None,
        }
    }

    /// Whether a setting asks for something: given, not empty and not `false`.
    pub(super) fn is_active(&self, setting: &Setting) -> bool {
        match self.get(setting.name) {
            Some((Raw::Text(text), _)) => {
                let is_off = matches!(setting.kind, Kind::Switch | Kind::Mode)
                    && switch(text) == Some(false);
                !(text.is_empty() || is_off)
            }
            Some((Raw::Items(items), _)) => !items.is_empty(),
            None => false,
        }
    }
}

/// A variable that is set and not empty.
pub(super) fn variable(
    name: &str,
    source: &dyn Source,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    present(name, source, problems).filter(|text| !text.is_empty())
}

/// A variable that is set, even to nothing.
pub(super) fn present(
    name: &str,
    source: &dyn Source,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    source
        .variable(name)
        .map(OsString::into_string)?
        .inspect_err(|_| problems.push(Problem::new(name, "is not valid UTF-8")))
        .ok()
}

/// The words for true and false that the official connectors understand.
pub(super) fn switch(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Splits at commas; a part in double quotes keeps its commas, and a doubled quote inside it is one quote.
fn items(text: &str) -> Vec<String> {
    let mut items = Vec::new();
    let mut item = String::new();
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                item.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if item.trim().is_empty() => quoted = true,
            ',' if !quoted => items.push(std::mem::take(&mut item)),
            other => item.push(other),
        }
    }
    items.push(item);
    items
        .into_iter()
        .map(|item| item.trim().to_owned())
        .filter(|item| !item.is_empty())
        .collect()
}

/// Environment variables that begin like ours and are not known, with the name that was probably meant.
pub(super) fn misspelt(source: &dyn Source) -> Vec<(String, String)> {
    let known: Vec<String> = SETTINGS
        .iter()
        .map(Setting::variable)
        .chain(
            settings::VARIABLES
                .iter()
                .flat_map(|variable| variable.name.split(", "))
                .map(str::to_owned),
        )
        .collect();
    let names: Vec<String> = known
        .iter()
        .filter_map(|name| name.strip_prefix("BATON_"))
        .map(|name| name.to_ascii_lowercase().replace('_', "-"))
        .collect();
    let mut found: Vec<(String, String)> = source
        .variable_names()
        .into_iter()
        .filter(|name| name.starts_with("BATON_") && name.len() <= 64 && !known.contains(name))
        .filter_map(|name| {
            let meant = settings::nearest(
                name.strip_prefix("BATON_")?,
                names.iter().map(String::as_str),
            )?;
            let meant = settings::variable_of(meant);
            Some((name, meant))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::source::ManualSource;

    #[test]
    fn a_list_is_split_at_commas_and_quotes_protect_them() {
        for (text, expected) in [
            ("user,group", vec!["user", "group"]),
            (" user , group ,", vec!["user", "group"]),
            ("\"a,b\",c", vec!["a,b", "c"]),
            ("\"a\"\"b\"", vec!["a\"b"]),
            ("", vec![]),
            (",", vec![]),
        ] {
            assert_eq!(items(text), expected, "{text}");
        }
    }

    #[test]
    fn a_misspelt_variable_is_found_and_a_foreign_one_left_alone() {
        let source = ManualSource::new()
            .with_variable("BATON_API_KYE", "SECRETSEED")
            .with_variable("BATON_JUMPCLOUD_SERVICE_HOST", "10.0.0.1")
            .with_variable("BATON_HOST_ID", "a")
            .with_variable("HOME", "/");
        assert_eq!(
            misspelt(&source),
            [("BATON_API_KYE".to_owned(), "BATON_API_KEY".to_owned())]
        );
    }
}
