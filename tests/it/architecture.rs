//! The arrows of ARCHITECTURE.md, read off the source.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What each top-level module may name of the others. Everything may name the modules of [`BELOW`].
const ALLOWED: &[(&str, &[&str])] = &[
    ("admin", &["connector"]),
    ("c1z", &[]),
    ("connector", &["http"]),
    ("control_plane", &[]),
    ("dispatch", &["control_plane", "handlers"]),
    (
        "handlers",
        &[
            "control_plane",
            "connector",
            "provisioning",
            "syncer",
            "c1z",
            "dispatch",
        ],
    ),
    ("http", &[]),
    ("kubernetes", &[]),
    ("provisioning", &["connector"]),
    ("syncer", &["connector", "c1z"]),
];

/// Modules that everything may name, and that name nothing but each other. Telemetry shows the progress of a sync,
/// so it may name the syncer's trait for that.
const BELOW: &[&str] = &[
    "model",
    "proto",
    "error",
    "clock",
    "config",
    "notice",
    "telemetry",
    "crypto",
    "supervisor",
    "state_folder",
];

/// Modules that may name everything.
const ABOVE: &[&str] = &["app", "cli", "main", "lib", "sim", "bin"];

/// Crates that only some places may name: (crate, places).
const FENCED: &[(&str, &[&str])] = &[
    ("reqwest", &["http", "connector/jumpcloud/client"]),
    ("rusqlite", &["c1z", "sim"]),
    ("zstd", &["c1z", "sim"]),
    ("kube", &["kubernetes"]),
    ("k8s_openapi", &["kubernetes", "sim"]),
    ("tonic::transport", &["control_plane/", "sim"]),
    ("tonic::Status", &["control_plane/", "sim"]),
    ("tokio::spawn", &["supervisor", "sim"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Path below `src` without extension, and the code without comments and without the tests at its end.
fn modules() -> Vec<(String, String)> {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    files
        .into_iter()
        .map(|path| {
            let name = path
                .strip_prefix(root())
                .unwrap()
                .with_extension("")
                .to_string_lossy()
                .into_owned();
            let text = fs::read_to_string(&path).unwrap();
            let code: Vec<&str> = text
                .lines()
                .take_while(|line| !line.starts_with("#[cfg(test)]"))
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            (name, code.join("\n"))
        })
        .filter(|(name, _)| !name.ends_with("/tests"))
        .collect()
}

/// The top-level modules of this crate that a piece of code names, from `crate::x` and `use crate::{x, …}`.
fn named(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(inner) = rest.strip_prefix('{') {
            let mut depth = 0_usize;
            let mut word = String::new();
            for letter in inner.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 && (letter.is_alphanumeric() || letter == '_') {
                    word.push(letter);
                } else if depth == 0 && letter == ':' {
                    names.insert(std::mem::take(&mut word));
                    // the rest of this path is not a top-level name
                    word.push('#');
                } else if depth == 0 && letter == ',' {
                    names.insert(std::mem::take(&mut word));
                }
            }
            names.insert(word);
        } else {
            names.insert(
                rest.chars()
                    .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
                    .collect(),
            );
        }
    }
    names.retain(|name| !name.is_empty() && !name.contains('#'));
    names
}

#[test]
fn every_arrow_between_modules_is_an_allowed_one() {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    for (name, code) in modules() {
        let top = name.split('/').next().unwrap();
        if ABOVE.contains(&top) {
            continue;
        }
        for other in named(&code) {
            let fine = other == top
                || BELOW.contains(&other.as_str())
                || allowed
                    .get(top)
                    .is_some_and(|list| list.contains(&other.as_str()))
                || (top == "telemetry" && other == "syncer");
            if !fine {
                wrong.push(format!("src/{name}.rs names crate::{other}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_fenced_crate_is_named_only_inside_its_fence() {
    let mut wrong = Vec::new();
    for (name, code) in modules() {
        for (fenced, places) in FENCED {
            let needle = format!("{fenced}{}", if fenced.contains("::") { "" } else { "::" });
            let uses = code.match_indices(&needle).any(|(at, _)| {
                !code[..at]
                    .chars()
                    .next_back()
                    .is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
            });
            if uses && !places.iter().any(|place| name.starts_with(place)) {
                wrong.push(format!("src/{name}.rs names {fenced}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_module_says_what_it_owns() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let silent: Vec<_> = files
        .iter()
        .filter(|path| !fs::read_to_string(path).unwrap().starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "no //! at the top of {silent:#?}");
}

#[test]
fn no_module_has_a_name_that_says_nothing() {
    let vague = [
        "util", "utils", "common", "helper", "helpers", "manager", "types", "misc", "mod",
    ];
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let found: Vec<_> = files
        .iter()
        .filter(|path| vague.contains(&path.file_stem().unwrap().to_string_lossy().as_ref()))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}
