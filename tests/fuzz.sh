#!/usr/bin/env bash
# Runs libFuzzer targets one after the other, each for a number of seconds, at the lowest priority, and prints what
# libFuzzer says at start and end: cov = covered edges, ft = features, corp = inputs kept, exec/s.
# The time of one input counts in wall time, so that a busy machine needs patience.
# Usage: tests/fuzz.sh <target folder of the build> <seconds> <target>...
# What is found on the way is kept in the build folder and read again by the next run; an input that breaks a property is
# written there too, and belongs into fuzz/corpus/<target> once the fault is mended.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1 seconds=$2
shift 2
failed=0
for target in "$@"; do
  work=$build/work/$target
  mkdir -p "$work/found"
  options=(-max_total_time="$seconds" -rss_limit_mb=512 -malloc_limit_mb=256 -timeout=60 -max_len=32768
    -print_final_stats=1 -artifact_prefix="$work/")
  if [ -f "fuzz/dictionaries/$target.dict" ]; then
    options+=(-dict="fuzz/dictionaries/$target.dict")
  fi
  binary=$build/x86_64-unknown-linux-gnu/release/$target
  [ -x "$binary" ] || binary=$(find "$build" -path "*/release/$target" -type f | head -1)
  echo "== $target, $seconds s"
  status=0
  nice -n 19 "$binary" "${options[@]}" "$work/found" "fuzz/corpus/$target" > "$work/log" 2>&1 || status=$?
  grep -m1 INITED "$work/log" || true
  grep -E 'DONE|Done' "$work/log" || true
  grep -E '^stat::(number_of_executed_units|average_exec_per_sec|peak_rss_mb)' "$work/log" || true
  if [ "$status" != 0 ]; then
    failed=1
    grep -E 'panicked|ERROR|Test unit written' -A2 "$work/log" | head -20 || tail -20 "$work/log"
  fi
done
exit $failed
