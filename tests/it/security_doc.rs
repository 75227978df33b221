//! What SECURITY.md names must be there: tests, functions and files.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path
            .extension()
            .is_some_and(|extension| extension == ending)
        {
            found.push(path);
        }
    }
}

/// Everything in the sources that a name can be found in.
fn sources() -> Vec<(String, String)> {
    let mut paths = Vec::new();
    files(&root().join("src"), "rs", &mut paths);
    files(&root().join("tests/it"), "rs", &mut paths);
    for entry in fs::read_dir(root().join("tests/chart")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "py") {
            paths.push(path);
        }
    }
    paths
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(root()).unwrap().with_extension("");
            let text = fs::read_to_string(&path).unwrap();
            (name.to_string_lossy().into_owned(), text)
        })
        .collect()
}

/// Why a name of the document is none, if so. A name may be cut: `module::the_beginning…`.
fn missing(name: &str, sources: &[(String, String)]) -> Option<String> {
    if name.starts_with("src/") || name.starts_with("tests/") {
        return (!root().join(name).exists()).then(|| format!("no file {name}"));
    }
    let cut = name.ends_with('…');
    let name = name.trim_matches('…');
    let (module, function) = name.rsplit_once("::").unwrap_or(("", name));
    let module = module.replace("::", "/");
    let inside = module.trim_end_matches("/tests");
    let known = sources
        .iter()
        .filter(|(path, _)| module.is_empty() || path.ends_with(&module) || path.ends_with(inside));
    let found = known.clone().any(|(_, text)| {
        function == "*"
            || function == "tests"
            || ["fn ", "def "].iter().any(|keyword| {
                let end = if cut { "" } else { "(" };
                text.contains(&format!("{keyword}{function}{end}"))
            })
    });
    (!found).then(|| format!("nothing is called {name}"))
}

/// What stands between backticks and looks like a test, a module or a file.
fn names(text: &str) -> Vec<&str> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| {
            name.contains("::")
                || name.contains('…')
                || name.starts_with("src/")
                || name.starts_with("tests/")
                || name.starts_with("test_")
        })
        .collect()
}

#[test]
fn every_test_and_file_that_the_threat_model_names_is_there() {
    let text = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let sources = sources();
    let names = names(&text);
    assert!(names.len() > 40, "{names:?}");
    let missing: Vec<String> = names
        .into_iter()
        .filter_map(|name| missing(name, &sources))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
    for invented in [
        "src/nothing.rs",
        "dispatch::a_test_that_nobody_wrote",
        "nowhere::*",
        "…a_test_that_nobody",
    ] {
        assert!(self::missing(invented, &sources).is_some(), "{invented}");
    }
}
