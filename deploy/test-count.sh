#!/usr/bin/env bash
# Runs go test with the given arguments, shows the packages and what failed, and ends
# with how many tests have passed and failed.
set -uo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
go test -v "$@" >"$log" 2>&1
status=$?
grep -E '^(ok|FAIL|panic:)[[:space:]]' "$log" || true
# The output of a package comes before its line "ok" or "FAIL".
awk '/^(ok|\?)[[:space:]]/ {part = ""; next}
  {part = part $0 "\n"}
  /^FAIL[[:space:]]+[^[:space:]]/ {printf "%s", part; part = ""}
  END {if (part ~ /[^[:space:]]/ && part !~ /^FAIL\n$/) printf "%s", part}' "$log"
passed=$(grep -cE '^--- PASS' "$log")
failed=$(grep -cE '^--- FAIL|^FAIL.*\[(build|setup) failed\]' "$log")
echo "$passed passed, $failed failed"
exit $status
