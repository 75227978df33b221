#!/usr/bin/env bash
# Builds the static binary that the image holds and checks it, without docker: `make musl`.
#
# The files are those that the Dockerfile's build stage compiles (context.py), so a file that the image would lack is missing
# here too. The standard library for musl comes from rustup where rustup can have it. Where it cannot, Debian's compiler
# serves: Debian's security archive has a recent one (rustc-web, for the browsers) together with the source of its standard
# library, which is compiled here for musl. Its packages are unpacked under target/, not installed: they conflict with rustup.
# BATON_MUSL_FROM=rustup or =debian chooses one of the two.
#
# Usage: tests/image/musl.sh build | check
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
cpu=$(uname -m)
triple=$cpu-unknown-linux-musl
out=${CARGO_TARGET_DIR:-$root/target}/musl
binary=$out/baton-jumpcloud
# The image must stay small enough to pull on every node.
limit=20000000

say() { printf 'musl: %s\n' "$*"; }
fail() { printf 'musl: %s\n' "$*" >&2; exit 1; }

# Debian packages that are not there yet; the archive is asked only when one is missing.
packages() {
  local missing=() package as_root=()
  for package in "$@"; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "install these and run again: ${missing[*]}"
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  say "installing ${missing[*]}"
  "${as_root[@]}" apt-get -qq update
  "${as_root[@]}" apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

from_rustup() {
  command -v rustup >/dev/null || return 1
  rustup target list --installed | grep -qx "$triple" || timeout 120 rustup target add "$triple" >/dev/null 2>&1
}

# A compiler, the source of its standard library, and beside them what rustup's library for musl has besides Rust code.
from_debian() {
  local tree=$out/debian version archive sysroot library self file symbol
  [ "$cpu" = x86_64 ] || fail "only rustup has the standard library for $cpu: rustup target add $triple"
  version=$(apt-cache policy rustc-web | sed -n 's/ *Candidate: //p')
  [ -n "$version" ] && [ "$version" != "(none)" ] || fail "neither rustup nor Debian's archive has a compiler for $triple"
  if [ ! -f "$tree/$version" ]; then
    rm -rf "$tree" && mkdir -p "$tree/archive"
    library=$(apt-cache show "libstd-rust-web-dev=$version" | sed -n 's/^Depends: \([^ ]*\).*/\1/p')
    file=$(apt-cache show "$library=$version" | grep -o 'libllvm[0-9]*' | head -1)
    say "unpacking Debian's rustc-web $version under target/"
    # libgcc of version 11, because from 12 on the unwinder asks glibc for something that musl does not have.
    (cd "$tree/archive" && apt-get -qq download "rustc-web=$version" "libstd-rust-web-dev=$version" "$library=$version" \
      "rust-web-src=$version" "$file" libgcc-11-dev 2>/dev/null)
    for archive in "$tree"/archive/*.deb; do
      case "$archive" in
        */rust-web-src_*) dpkg-deb --fsys-tarfile "$archive" | tar -x -C "$tree" --wildcards './usr/lib*' './usr/src/*/library' ;;
        *) dpkg-deb -x "$archive" "$tree" ;;
      esac
    done
    rm -rf "$tree/archive"
    sysroot=$tree/usr/lib/rustlib
    self=$sysroot/$triple/lib/self-contained
    mkdir -p "$self"
    cp /usr/lib/$cpu-linux-musl/{crt1.o,rcrt1.o,Scrt1.o,crti.o,crtn.o,libc.a} "$self/"
    for file in crtbegin.o crtbeginS.o crtend.o crtendS.o; do cp "$(gcc -print-file-name=$file)" "$self/"; done
    cp "$tree/usr/lib/gcc/$cpu-linux-gnu/11/libgcc_eh.a" "$self/libunwind.a"
    touch "$tree/$version"
  fi
  self=$tree/usr/lib/rustlib/$triple/lib/self-contained
  export RUSTC=$tree/usr/bin/rustc LD_LIBRARY_PATH=$tree/usr/lib/$cpu-linux-gnu
  # A standard library of one's own is a nightly feature of cargo; the compiler and the library are of one release.
  export RUSTC_BOOTSTRAP=1
  # Debian's musl is older than packed relocations.
  export BATON_OLD_MUSL=1
  build_std=(-Zbuild-std=std,panic_unwind)
  # The unwinder calls the locks only where they are linked in, and takes for granted that they are.
  # mimalloc's C code counts bits by libgcc.
  RUSTFLAGS=" -Clink-arg=-lgcc"
  for symbol in $(nm "$self/libunwind.a" 2>/dev/null | awk '$1 == "w" && $2 ~ /^pthread/ { print $2 }' | sort -u); do
    RUSTFLAGS+=" -Clink-arg=-Wl,-u,$symbol"
  done
  export RUSTFLAGS
}

build() {
  packages musl-tools linux-libc-dev gcc binutils file openssl
  local python=$1 build_std=() context=$out/context name
  # The context has no rust-toolchain.toml, because the image's compiler is the tag of its base.
  RUSTUP_TOOLCHAIN=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
  export RUSTUP_TOOLCHAIN
  mkdir -p "$out"
  "$python" tests/image/context.py "$context" >/dev/null
  # The headers of the kernel, without those of glibc beside them.
  mkdir -p "$out/kernel"
  ln -sfn /usr/include/linux "$out/kernel/linux"
  ln -sfn /usr/include/asm-generic "$out/kernel/asm-generic"
  ln -sfn "/usr/include/$cpu-linux-gnu/asm" "$out/kernel/asm"
  name=${triple//-/_}
  export "CC_$name=musl-gcc" "CFLAGS_$name=-isystem $out/kernel"

  local from=${BATON_MUSL_FROM:-}
  if [ -z "$from" ]; then if from_rustup; then from=rustup; else from=debian; fi; fi
  case "$from" in
    rustup) from_rustup || fail "rustup cannot have $triple" ;;
    debian) from_debian ;;
    *) fail "BATON_MUSL_FROM is $from: rustup or debian" ;;
  esac
  say "the standard library comes from $from: $("${RUSTC:-rustc}" --version)"
  command -v cargo-auditable >/dev/null || (unset RUSTC RUSTFLAGS RUSTC_BOOTSTRAP LD_LIBRARY_PATH
    cargo install --quiet --locked "$(grep -o 'cargo-auditable@[0-9.]*' "$root/Dockerfile")")
  # A folder for each of the two, so that one does not throw away the work of the other.
  (cd "$context" && CARGO_TARGET_DIR=$out/$from cargo auditable build --locked --release --bin baton-jumpcloud \
    --target "$triple" "${build_std[@]}")
  install "$out/$from/$triple/release/baton-jumpcloud" "$binary"
  echo "$from" > "$out/from"
}

check() {
  local size kind headers dynamic linked='static-pie linked'
  # rustc makes no position independent static programs for this processor.
  [ "$cpu" != aarch64 ] || linked='statically linked'
  size=$(stat -c %s "$binary") kind=$(file -b "$binary") headers=$(readelf -lW "$binary") dynamic=$(readelf -dW "$binary")
  # Its relocations are not packed, see build.rs.
  [ "$(cat "$out/from")" != debian ] || limit=$((limit + 1200000))
  [ "$size" -le "$limit" ] || fail "the binary has $size bytes, more than $limit"
  [[ $kind == *"$linked"* ]] || fail "it is not $linked: $kind"
  [[ $kind != *"not stripped"* ]] || fail "it is not stripped: $kind"
  [[ $headers != *INTERP* ]] || fail "it asks for a loader"
  [[ $headers != *RWE* ]] || fail "it has memory that is writable and executable"
  [[ $dynamic != *NEEDED* ]] || fail "it asks for a shared library"
  say "ok: $size bytes, $linked, stripped, no loader, no library"
  tests/image/run.sh "$binary" "$1"
}

"$@"
