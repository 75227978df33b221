#!/usr/bin/env bash
# Searches everything that a test run wrote down for test secrets; the last line counts the tests and the files searched.
#
# Usage: tests/no_secrets.sh FOLDER. FOLDER holds suite.log, what the test runner printed, and the output of the
# programs that the tests started. Secrets are found by their marker, by the form of the client secret and of a signed
# assertion, plain or in base64, and by bearer tokens. What was found is not shown, only where.
set -euo pipefail

folder=${1:?usage: tests/no_secrets.sh FOLDER}
suite=$folder/suite.log
secrets='SECRETSEED|"d" *: *"|secret-token:|[Bb]earer [A-Za-z0-9._~+/-]{8}'
# The beginnings of {"crv":"Ed25519","d":, {"kty":"OKP" and {"alg":"EdDSA" in base64, and of the marker in all three
# alignments.
encoded='eyJjcnYiOiJFZDI1NTE5IiwiZCI6|eyJrdHkiOiJPS1Ai|eyJhbGciOiJFZERTQSI|U0VDUkVUU0VFR|NFQ1JFVFNFRU|TRUNSRVRTRUVE'

test -s "$suite" || { echo "no_secrets: $suite is missing or empty; run make test" >&2; exit 2; }
ran=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$suite" | awk '{ sum += $1 } END { print sum + 0 }')
test "$ran" -gt 0 || { echo "no_secrets: $suite holds no result of a test" >&2; exit 2; }

if found=$(grep -arnEo "$secrets|$encoded" "$folder"); then
    echo "no_secrets: captured output holds what looks like a secret, in" >&2
    printf '%s\n' "$found" | cut -d: -f1,2 | sort | uniq -c | head -20 >&2
    exit 1
fi
files=$(find "$folder" -type f | wc -l)
echo "$ran tests passed, and no test secret is in what they printed or in the output of the programs they ran ($((files)) files)."
