#!/usr/bin/env bash
# Lets the official Go SDK judge our files, messages and descriptors. Usage: tests/conformance/run.sh [flags of the judge]
# Where there is no Go toolchain the checks are skipped, and one line says so.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! command -v go >/dev/null; then
  echo "conformance skipped: no Go toolchain (install Go 1.25 or later and run again)"
  exit 0
fi
# Tools that come with the toolchain are used; the module itself pins everything else.
export GOFLAGS="-mod=readonly -buildvcs=false" CGO_ENABLED=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo build --locked --all-features --bins --example producer
(cd tests/conformance && go build -o "$work/judge" .)
target=${CARGO_TARGET_DIR:-target}/debug
# The SDK logs on both streams; only the lines of the checks are wanted, and its logs where a check fails.
set +e
"$work/judge" -bin "$target" -examples "$target/examples" "$@" 2> "$work/log"
code=$?
set -e
[ "$code" = 0 ] || tail -20 "$work/log" >&2
exit "$code"
