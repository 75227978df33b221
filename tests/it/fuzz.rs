//! Hostile input without libFuzzer: every target over its corpus, and over changes of it that are the same in every run.
//!
//! The targets and their properties are in the library (`sim::fuzzing`); `make fuzz` lets libFuzzer look further. What it
//! finds goes into the corpus, and so into this test. `make fuzz-corpus` writes the part of the corpus that is made here
//! from real encodings.

use std::{
    fs, panic,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use baton_jumpcloud::sim::fuzzing::{TARGETS, Target};

mod caps;
mod seeds;

/// How many changes of each input are tried, and at most of all inputs of a target.
const CHANGES: usize = 60;
const MOST: usize = 3000;
/// Targets that pass through a network, a file or a signature.
const SLOW: [(&str, usize); 6] = [
    ("c1z_database", 400),
    ("c1z_envelope", 400),
    ("encryption", 500),
    ("jumpcloud_sync", 250),
    ("page_token", 250),
    ("task", 250),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(root().join("corpus").join(name))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    found.sort();
    found
}

/// Another input like this one. Small changes mostly, so that what is read gets far.
fn changed(input: &[u8], other: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..random.usize(1..=3) {
        let at = random.usize(0..=bytes.len());
        match random.u8(0..9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(0..8),
            1 if at < bytes.len() => bytes[at] = random.u8(..),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.u8(..)),
            // A part is left out, or comes twice.
            4 => drop(bytes.drain(at..(at + random.usize(0..32)).min(bytes.len()))),
            5 => {
                let part = bytes[at..(at + random.usize(0..64)).min(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
            // The rest of another input.
            6 => {
                let from = random.usize(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            // What lengths, counts and offsets are afraid of.
            7 => {
                let number = [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0xffff_ffff, u64::MAX]
                    [random.usize(0..8)];
                let width = 1 << random.u32(0..4);
                let number = number.to_be_bytes();
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, number[8 - width..].iter().copied());
            }
            // Digits.
            _ => {
                let place = bytes.iter().skip(at).position(u8::is_ascii_digit);
                if let Some(place) = place {
                    let number = ["-1", "0", "99999999999999999999", "1e308"][random.usize(0..4)];
                    bytes.splice(at + place..=at + place, number.bytes());
                }
            }
        }
    }
    bytes
}

/// Runs a target over corpus and changes; the number of inputs.
fn smoke((name, run): Target) -> usize {
    let inputs = corpus(name);
    assert!(!inputs.is_empty(), "{name} has no corpus");
    let try_one = |from: &str, bytes: &[u8]| {
        let outcome = panic::catch_unwind(|| run(bytes));
        assert!(
            outcome.is_ok(),
            "{name} fails on an input made from {from}; add it to fuzz/corpus/{name}: {}",
            BASE64_STANDARD.encode(bytes)
        );
    };
    for (from, bytes) in &inputs {
        try_one(from, bytes);
    }
    let most = SLOW
        .iter()
        .find(|(slow, _)| *slow == name)
        .map_or(MOST, |(_, most)| *most);
    let each = CHANGES.min(most / inputs.len()).max(1);
    let mut random = fastrand::Rng::with_seed(6);
    for (from, bytes) in &inputs {
        for _ in 0..each {
            let other = &inputs[random.usize(0..inputs.len())].1;
            try_one(from, &changed(bytes, other, &mut random));
        }
    }
    inputs.len() * (each + 1)
}

macro_rules! targets {
    ($($name:ident),+) => {$(
        #[test]
        fn $name() {
            let target = TARGETS
                .into_iter()
                .find(|(name, _)| *name == stringify!($name))
                .unwrap();
            println!("{}: {} inputs", stringify!($name), smoke(target));
        }
    )+

        /// One binary, one corpus and one test for each target, and no other.
        #[test]
        fn every_target_is_run_here_and_by_libfuzzer() {
            let expected: Vec<_> = [$(stringify!($name)),+].into();
            let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, expected);
            let listed = |folder: &str| {
                let mut names: Vec<_> = fs::read_dir(root().join(folder))
                    .unwrap()
                    .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
                    .collect();
                names.sort();
                names
            };
            assert_eq!(listed("fuzz_targets"), expected);
            assert_eq!(listed("corpus"), expected);
            let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
            for name in expected {
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            }
        }
    };
}

targets!(
    answers,
    c1z_database,
    c1z_envelope,
    config_file,
    credentials,
    encryption,
    jumpcloud_json,
    jumpcloud_sync,
    page_token,
    task
);

/// The corpus is small enough for a repository.
#[test]
fn the_corpus_is_small() {
    let mut bytes = 0;
    for (name, _) in TARGETS {
        let inputs = corpus(name);
        assert!(inputs.len() < 50, "{name}: {}", inputs.len());
        bytes += inputs.iter().map(|(_, input)| input.len()).sum::<usize>();
    }
    assert!(bytes < 200 * 1024, "{bytes}");
}

#[test]
#[ignore = "writes fuzz/corpus; run by make fuzz-corpus"]
fn write_the_corpus() {
    for (target, name, bytes) in seeds::all() {
        let folder = root().join("corpus").join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    }
}
