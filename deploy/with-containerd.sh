#!/usr/bin/env bash
# Runs a command with a containerd on its usual socket: the machine's own if one
# answers, else one that is started for the command and stopped after it. If
# CONTAINERD_DIR is set it is always one that is started, the one in that folder.
set -euo pipefail
if [ "$(id -u)" != 0 ]; then
  echo "with-containerd: root is needed" >&2
  exit 1
fi
socket=/run/containerd/containerd.sock
if timeout 5 ctr --address "$socket" version >/dev/null 2>&1; then
  if [ -n "${CONTAINERD_DIR:-}" ]; then
    echo "with-containerd: a containerd runs already, and not the one in $CONTAINERD_DIR" >&2
    exit 1
  fi
  exec "$@"
fi
PATH=${CONTAINERD_DIR:+$(realpath "$CONTAINERD_DIR"):}$PATH
echo "with-containerd: starting $(containerd --version | cut -d' ' -f1-3), since none runs"
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
