//! Compiles `proto/` to Rust without a system `protoc`, and keeps the descriptor set for the test that pins it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

type Error = Box<dyn std::error::Error>;

#[expect(
    clippy::disallowed_methods,
    reason = "cargo talks to build scripts through the environment"
)]
fn main() -> Result<(), Error> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=BATON_RUSTC_VERSION={}", rustc_version());
    println!("cargo:rerun-if-env-changed=BATON_OLD_MUSL");
    // A static program relocates itself by a list that is a twentieth of it. Packed, that list is next to nothing; musl reads
    // it so since 1.2.4, which the library of rustup is.
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|libc| libc == "musl")
        && env::var_os("BATON_OLD_MUSL").is_none()
    {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut files = Vec::new();
    proto_files(&root, &mut files)?;
    files.sort();
    let descriptors = protox::compile(&files, [&root])?;
    fs::write(
        out.join("descriptors.bin"),
        protox::prost::Message::encode_to_vec(&descriptors),
    )?;

    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    // What a file stores must not depend on hash order.
    config.btree_map(["."]);
    config.include_file("contract.rs");
    tonic_prost_build::configure()
        .build_server(env::var_os("CARGO_FEATURE_SIMULATOR").is_some())
        .codec_path("crate::proto::codec::Bounded")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

fn proto_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            proto_files(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(path);
        }
    }
    Ok(())
}

/// The version of the compiler, reported in Hello as the language version.
fn rustc_version() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    std::process::Command::new(rustc)
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .and_then(|line| line.split_whitespace().nth(1).map(str::to_owned))
        .unwrap_or_else(|| "unknown".to_owned())
}
