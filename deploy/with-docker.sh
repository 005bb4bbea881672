#!/usr/bin/env bash
# Runs a command with a Docker engine that is started for it, with its own network,
# mounts and data, and stopped after it; an engine of the machine is left alone.
# DOCKER_HOST tells the command where it is. Installs Docker and Compose if missing.
set -euo pipefail
if [ "$(id -u)" != 0 ]; then
  echo "with-docker: root is needed" >&2
  exit 1
fi
if [ -z "${WITH_DOCKER_INSIDE:-}" ]; then
  need=()
  [ -x /usr/sbin/dockerd ] || command -v dockerd >/dev/null || need+=(docker.io)
  docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || need+=(docker-compose)
  if [ ${#need[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
      echo "with-docker: this machine lacks what these Debian packages bring; install it by hand: ${need[*]}" >&2
      exit 1
    fi
    echo "with-docker: installing ${need[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
  fi
  exec env WITH_DOCKER_INSIDE=1 unshare --net --mount --propagation private -- "$0" "$@"
fi

PATH=$PATH:/usr/sbin:/sbin
ip link set lo up
dir=$(mktemp -d)
mkdir "$dir/run"
mount --bind "$dir/run" /run
dockerd --data-root "$dir/root" --exec-root "$dir/exec" --pidfile "$dir/pid" -H "unix://$dir/docker.sock" --cgroup-parent /breakwater-docker >"$dir/log" 2>&1 &
pid=$!
cleanup() {
  kill "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  find /sys/fs/cgroup -depth -type d -path '*/breakwater-docker*' -exec rmdir {} + 2>/dev/null || true
  umount /run 2>/dev/null || true
  umount -R "$dir"/* 2>/dev/null || true
  rm -rf "$dir"
}
trap cleanup EXIT
export DOCKER_HOST=unix://$dir/docker.sock
for _ in $(seq 300); do
  docker version >/dev/null 2>&1 && ok=1 && break
  kill -0 "$pid" 2>/dev/null || break
  sleep 0.1
done
if [ -z "${ok:-}" ]; then
  echo "with-docker: the engine did not start:" >&2
  tail -20 "$dir/log" >&2
  exit 1
fi
"$@"
