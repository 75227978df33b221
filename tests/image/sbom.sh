#!/usr/bin/env bash
# Writes the list of what the program is made of, target/sbom/baton-jumpcloud.cdx.json, and compares it with the lock file and,
# when `make musl` has made the binary, with the list inside that.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=0.5.9
out=${CARGO_TARGET_DIR:-target}/sbom
target=$(uname -m)-unknown-linux-musl
[ "$(cargo cyclonedx --version 2>/dev/null | grep -o '[0-9.]*$')" = "$version" ] ||
  cargo install --quiet --locked --force --debug "cargo-cyclonedx@$version"
mkdir -p "$out"
# The tool writes beside the manifest.
trap 'rm -f baton-jumpcloud.cdx.json' EXIT
cargo cyclonedx --quiet --format json --spec-version 1.5 --target "$target" --no-build-deps --override-filename baton-jumpcloud.cdx
mv baton-jumpcloud.cdx.json "$out/"
binary=${CARGO_TARGET_DIR:-target}/musl/baton-jumpcloud
python3 tests/image/sbom.py "$out/baton-jumpcloud.cdx.json" $([ -f "$binary" ] && echo "$binary")
