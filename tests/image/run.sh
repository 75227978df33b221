#!/usr/bin/env bash
# Runs one connector binary against the simulators as a container would: no home, an empty environment, one folder to write to.
# Usage: tests/image/run.sh <connector> <baton-sim>
set -euo pipefail
connector=$(realpath "$1")
simulator=$(realpath "$2")
work=$(mktemp -d)
children=()
finish() { for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done; rm -rf "$work"; }
trap finish EXIT
cd "$work"
mkdir state uploads credentials
fail() { printf 'run: %s\n' "$*" >&2; tail -5 ./*.log >&2 2>/dev/null || true; exit 1; }
ok() { printf 'run: ok: %s\n' "$*"; }
until_there() { for _ in $(seq 300); do [ -s "$1" ] && return 0; sleep 0.1; done; fail "$2"; }
alone() { env -i "TMPDIR=$work/state" "$@"; }

version=$(alone "$connector" --version) || fail "--version ends with an error"
ok "$version"
alone "$connector" capabilities > capabilities.json || fail "capabilities ends with an error"
grep -q '"@type"\|"connectorCapabilities"\|"resourceTypeCapabilities"' capabilities.json || fail "capabilities prints something else: $(head -c 200 capabilities.json)"
ok "capabilities"

printf 'image-SECRETSEED-key' > api-key
"$simulator" jumpcloud --listen 127.0.0.1:0 --port-file port --api-key "$(cat api-key)" > jumpcloud.log 2>&1 &
children+=($!)
until_there port "the simulator of JumpCloud does not start"
jumpcloud=http://$(tr -d '\n' < port)
# With trust in nobody: one-shot mode talks to nobody but the simulator, over plain HTTP; it must say so, not die of it.
"$simulator" conductorone --listen 127.0.0.1:0 --credentials-dir credentials --upload-dir uploads --full-sync > conductorone.log 2>&1 &
children+=($!)
until_there credentials/ca.pem "the simulator of ConductorOne does not start"
until_there credentials/client-id "the simulator of ConductorOne has no client"

# The simulator's certificate is trusted as a CA of the system is, not by our own flag.
alone SSL_CERT_FILE="$work/credentials/ca.pem" "$connector" --api-key-file api-key --base-url "$jumpcloud" -f "$work/sync.c1z" \
  > oneshot.log 2>&1 || fail "the one-shot sync ends with an error"
[ "$(head -c 4 sync.c1z)" = C1ZF ] || fail "the one-shot sync writes no file"
ok "one-shot sync, $(stat -c %s sync.c1z) bytes"

daemon() { # CA file, log
  # Not by the function: its process would be a shell's, and so would be the signal.
  env -i "TMPDIR=$work/state" SSL_CERT_FILE="$1" "$connector" --client-id-file credentials/client-id --client-secret-file credentials/client-secret \
    --api-key-file api-key --base-url "$jumpcloud" --log-format json > "$2" 2>&1 &
  children+=($!)
}
daemon "$work/credentials/ca.pem" daemon.log
pid=$!
for _ in $(seq 300); do [ -n "$(find uploads -type f -size +0)" ] && break; kill -0 "$pid" 2>/dev/null || fail "the daemon is gone"; sleep 0.1; done
[ -n "$(find uploads -type f -size +0)" ] || fail "the daemon uploads nothing"
ok "daemon: a full sync over TLS, with the CA of SSL_CERT_FILE"
kill -TERM "$pid"
wait "$pid" || fail "the daemon ends with code $? on SIGTERM"
ok "daemon: a clean end"

# The same without that CA must not work, or the check above shows nothing.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=stranger -days 2 -keyout stranger.key -out stranger.pem 2>/dev/null
daemon "$work/stranger.pem" stranger.log
pid=$!
for _ in $(seq 150); do grep -q 'unknown authority' stranger.log && break; sleep 0.1; done
grep -q 'unknown authority' stranger.log || fail "a stranger's CA is not refused"
kill -TERM "$pid" 2>/dev/null || true
ok "daemon: refuses a CA that it does not know"
if grep -rl SECRETSEED ./*.log state >/dev/null 2>&1; then fail "a secret is in a log"; fi
