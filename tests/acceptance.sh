#!/usr/bin/env bash
# Syncs a simulated tenant of 5,000 users and compares the file with the simulator's truth by common tools alone:
# the connector's own reader takes no part. Usage: tests/acceptance.sh <connector> <baton-sim>
set -euo pipefail
connector=$(realpath "$1")
baton_sim=$(realpath "$2")
for tool in zstd sqlite3 jq curl; do
  if ! command -v "$tool" >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      apt-get -qq update && apt-get -qq install -y "$tool" >/dev/null
    else
      echo "acceptance needs the program $tool: install it and run again" >&2
      exit 2
    fi
  fi
done

work=$(mktemp -d)
simulator=
finish() { [ -z "$simulator" ] || kill "$simulator" 2>/dev/null || true; rm -rf "$work"; }
trap finish EXIT
cd "$work"
printf 'acceptance-SECRETSEED-key' > api-key

"$baton_sim" jumpcloud --listen 127.0.0.1:0 --port-file port --api-key "$(cat api-key)" \
  --users 5000 --groups 200 --members-per-group 60 --apps 80 --groups-per-app 4 --users-per-app 5 --admins 15 --seed 7 \
  > simulator.log 2>&1 &
simulator=$!
for _ in $(seq 300); do [ -s port ] && break; sleep 0.1; done
base="http://$(tr -d '\n' < port)"

"$connector" --api-key-file api-key --base-url "$base" -f sync.c1z --log-format json > connector.log 2>&1 \
  || { tail -5 connector.log >&2; echo "acceptance failed: the sync ended with an error" >&2; exit 1; }
curl -sS "$base/_sim/requests" > requests.json
curl -sS "$base/_sim/truth" > truth.json

[ "$(head -c 4 sync.c1z)" = C1ZF ] || { echo "acceptance failed: the magic is wrong" >&2; exit 1; }
tail -c +6 sync.c1z | zstd -q -d -o sync.db
q() { sqlite3 -separator ' ' sync.db "$1"; }

failed=0
check() { # name, actual, expected
  if [ "$2" = "$3" ]; then printf 'ok    %-46s %s\n' "$1" "$2"; else printf 'WRONG %-46s %s, expected %s\n' "$1" "$2" "$3"; failed=1; fi
}

calls=$(jq .total requests.json)
if [ "$calls" -le 430 ]; then printf 'ok    %-46s %s\n' "requests to JumpCloud (at most 430)" "$calls"
else printf 'WRONG %-46s %s\n' "requests to JumpCloud (at most 430)" "$calls"; failed=1; fi

check "integrity of the database" "$(q 'pragma integrity_check')" ok
check "finished syncs" "$(q 'select count(*) from v1_sync_runs where ended_at is not null and sync_type = "full"')" 1
count() { q "select count(*) from v1_resources where resource_type_id = '$1'"; }
check "accounts (users and administrators)" "$(count user)" "$(jq '(.users | length) + (.admins | length)' truth.json)"
check "groups" "$(count group)" "$(jq '.groups | length' truth.json)"
check "applications (one is JumpCloud's own)" "$(count app)" "$(jq '(.apps | length) + 1' truth.json)"

# Every grant that a correct sync holds: entitlement, principal type, principal id.
jq -r '
  def role: ascii_downcase | gsub("[^a-z0-9]+"; "_") | "role:role_" + .;
  (.groups | to_entries[] | .key as $g | .value.members[] | "group:\($g) user \(.)"),
  (.apps | to_entries[] | .key as $a
    | (.value.groups[] | "app:\($a) group \(.)"),
      (.value.effective[] | "app:\($a) user \(.)")),
  (.admins | to_entries[] | .key as $u
    | "app:2UjI0eIRo77RGFwi2GKpAa0Til0 user \($u)",
      (.value.roles[] | "\(role) user \($u)"))' truth.json | sort -u > expected
q 'select entitlement_id, principal_resource_type_id, principal_resource_id from v1_grants' | sort > actual
check "grants" "$(wc -l < actual)" "$(wc -l < expected)"
check "grants that are missing" "$(comm -13 actual expected | wc -l)" 0
check "grants that should not be there" "$(comm -23 actual expected | wc -l)" 0
check "grants with a principal that does not exist" \
  "$(q "select count(*) from v1_grants g left join v1_resources r on r.external_id = g.principal_resource_type_id || ':' || g.principal_resource_id where r.id is null")" 0

# Access through a group is expandable, and what comes of it is told apart from direct access.
check "expandable grants (one a bound group)" "$(q 'select count(*) from v1_grants where needs_expansion = 1')" \
  "$(jq '[.apps[].groups | length] + [.groups[].nested | length] | add' truth.json)"
check "direct grants of users on applications" \
  "$(q "select count(*) from v1_grants where external_id like 'app-grant:%:user:%' and entitlement_id != 'app:2UjI0eIRo77RGFwi2GKpAa0Til0'")" \
  "$(jq '[.apps[].users | length] | add' truth.json)"

printf 'file  %s bytes\n' "$(stat -c %s sync.c1z)"
if grep -rl SECRETSEED connector.log sync.db >/dev/null; then echo "WRONG a secret is in the log or in the file"; failed=1; else echo "ok    no secret in the log or in the file"; fi
[ "$failed" = 0 ] || { comm -13 actual expected | head -3; comm -23 actual expected | head -3; echo "acceptance failed" >&2; exit 1; }
echo "acceptance passed"
