//! The configuration file: one flat YAML mapping from setting names to values.
//!
//! Strict where the Go SDK is silent: a file that is named but missing, a file that does not parse, an unknown key and a
//! value of the wrong shape are all errors. No error repeats a value of the file, since it may be a secret.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    Problem,
    settings::{self, Kind, Setting},
    source::Source,
    values::Raw,
};

/// More than any configuration needs.
const LIMIT: u64 = 1024 * 1024;

/// The file that is read when no other is named.
const DEFAULT: &str = ".baton.yaml";

/// What a configuration file says.
#[derive(Default)]
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    pub(super) values: BTreeMap<&'static str, Raw>,
}

/// Reads the file of `BATON_CONFIG_PATH`, or `.baton.yaml` where there is one.
pub(super) fn load(
    named: Option<&str>,
    source: &dyn Source,
    problems: &mut Vec<Problem>,
) -> ConfigFile {
    let path = match named {
        Some(path) => {
            let path = PathBuf::from(path);
            if !matches!(
                path.extension().and_then(|extension| extension.to_str()),
                Some("yaml" | "yml")
            ) {
                problems.push(Problem::new(
                    "BATON_CONFIG_PATH",
                    "the name of the file must end in .yaml or .yml",
                ));
                return ConfigFile::default();
            }
            path
        }
        None if source.kind(Path::new(DEFAULT)).is_ok() => PathBuf::from(DEFAULT),
        None => return ConfigFile::default(),
    };
    let subject = format!("config file {}", path.display());
    let content = match source.read(&path, LIMIT) {
        // It may hold credentials; what the reader of YAML makes of them is not wiped.
        Ok(content) => Zeroizing::new(content),
        Err(error) => {
            problems.push(Problem::new(
                &subject,
                format!("cannot be read ({error}); correct BATON_CONFIG_PATH or the file"),
            ));
            return ConfigFile::default();
        }
    };
    let values = parse(&subject, &content, problems);
    ConfigFile { path, values }
}

fn parse(
    subject: &str,
    content: &[u8],
    problems: &mut Vec<Problem>,
) -> BTreeMap<&'static str, Raw> {
    let mut values = BTreeMap::new();
    let Ok(text) = std::str::from_utf8(content) else {
        problems.push(Problem::new(subject, "is not valid UTF-8"));
        return values;
    };
    let document = match serde_saphyr::from_str::<Value>(text) {
        Ok(document) => document,
        Err(error) => {
            problems.push(Problem::new(subject, describe(&error)));
            return values;
        }
    };
    let entries = match document {
        Value::Object(entries) => entries,
        Value::Null => return values,
        other => {
            problems.push(Problem::new(
                subject,
                format!(
                    "holds {} at the top, where a mapping from setting names to values is expected",
                    shape(&other)
                ),
            ));
            return values;
        }
    };
    for (key, value) in entries {
        let Some(setting) = settings::find(&key) else {
            problems.push(unknown_key(subject, &key));
            continue;
        };
        match raw(setting, value) {
            Ok(Some(raw)) => {
                values.insert(setting.name, raw);
            }
            Ok(None) => {}
            Err(problem) => {
                problems.push(Problem::new(
                    format!("{} in {subject}", setting.name),
                    problem,
                ));
            }
        }
    }
    values
}

fn describe(error: &serde_saphyr::Error) -> String {
    let place = error.location().map_or_else(String::new, |location| {
        format!(" at line {}, column {}", location.line(), location.column())
    });
    if let serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } = error.without_snippet()
        && settings::find(key).is_some()
    {
        return format!("names {key} twice{place}; keep one of them");
    }
    format!("is not valid YAML{place}; check indentation, quotes and doubled keys there")
}

fn unknown_key(subject: &str, key: &str) -> Problem {
    // A long or odd key may be a secret that slipped into the wrong place.
    let shown = if key.len() <= 40
        && key
            .chars()
            .all(|c| c.is_ascii_lowercase() || c == '-' || c == '_')
    {
        format!("unknown key {key}")
    } else {
        format!("unknown key of {} characters", key.chars().count())
    };
    let hint = settings::nearest(key, settings::SETTINGS.iter().map(|setting| setting.name))
        .map_or_else(
            || "; the keys are the names of the flags, see --help".to_owned(),
            |name| format!("; did you mean {name}?"),
        );
    Problem::new(subject, format!("{shown}{hint}"))
}

fn raw(setting: &Setting, value: Value) -> Result<Option<Raw>, String> {
    match (setting.kind, value) {
        (_, Value::Null) => Ok(None),
        (_, Value::String(text)) => Ok((!text.is_empty()).then_some(Raw::Text(text))),
        (Kind::Switch | Kind::Mode, Value::Bool(value)) => Ok(Some(Raw::Text(value.to_string()))),
        (Kind::Integer, Value::Number(number)) if number.is_i64() || number.is_u64() => {
            Ok(Some(Raw::Text(number.to_string())))
        }
        (Kind::List, Value::Array(items)) => items
            .into_iter()
            .map(|item| match item {
                Value::String(text) => Ok(text),
                other => Err(format!(
                    "holds {} in the list, where a text is expected; write it in quotes",
                    shape(&other)
                )),
            })
            .collect::<Result<Vec<_>, _>>()
            .map(|items| Some(Raw::Items(items))),
        (kind, other) => Err(format!(
            "holds {}, where {} is expected",
            shape(&other),
            expected(kind)
        )),
    }
}

fn shape(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::Secret | Kind::Path => "a text (in quotes when it looks like a number)",
        Kind::Switch => "true or false",
        Kind::Mode => "true, false or dry-run",
        Kind::Integer => "a whole number",
        Kind::List => "a list of texts",
        Kind::Duration => "a length of time such as 25s",
    }
}
