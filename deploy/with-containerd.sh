#!/usr/bin/env bash
# Runs a command with a containerd on its usual socket: the machine's own if one
# answers, else one that is started for the command and stopped after it.
set -euo pipefail
if [ "$(id -u)" != 0 ]; then
  echo "with-containerd: root is needed" >&2
  exit 1
fi
socket=/run/containerd/containerd.sock
if timeout 5 ctr --address "$socket" version >/dev/null 2>&1; then
  exec "$@"
fi
echo "with-containerd: starting containerd, since none runs"
dir=$(mktemp -d)
containerd --address "$socket" --root "$dir/root" --state "$dir/state" >"$dir/log" 2>&1 &
pid=$!
cleanup() {
  kill "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  rm -rf "$dir"
}
trap cleanup EXIT
for _ in $(seq 100); do
  timeout 5 ctr --address "$socket" version >/dev/null 2>&1 && ok=1 && break
  sleep 0.1
done
if [ -z "${ok:-}" ]; then
  echo "with-containerd: containerd did not start:" >&2
  tail -20 "$dir/log" >&2
  exit 1
fi
"$@"
