#!/usr/bin/env bash
# Installs what Breakwater's build, run and tests need and this machine lacks: Debian
# packages and, for the leaf device, the Node module, the conformance tests and the
# storage server of the agent's tests, npm packages. Says what it does; does nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

need=() # packages to install
want() { # want FILE-OR-COMMAND PACKAGE
  case $1 in
    /*) [ -e "$1" ] || need+=("$2") ;;
    *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || need+=("$2") ;;
  esac
}
want containerd containerd
want ctr containerd
want runc runc
want /usr/lib/cni/bridge containernetworking-plugins
want iptables iptables
want ip6tables iptables
want ip iproute2
want gcc gcc
want /usr/include/stdlib.h libc6-dev
want swtpm swtpm
want systemd-socket-activate systemd
want /usr/lib/systemd/systemd systemd
want softhsm2-util softhsm2
want node nodejs
want npm npm
want /usr/bin/python3 python3
want /usr/lib/python3/dist-packages/paho/mqtt/client.py python3-paho-mqtt
want /usr/lib/python3/dist-packages/proton/__init__.py python3-qpid-proton
want /usr/lib/python3/dist-packages/uamqp/__init__.py python3-uamqp
want mosquitto_pub mosquitto-clients

if ! command -v go >/dev/null; then
  echo "setup: Go is needed (release $(awk '/^go /{print $2}' go.work) or later) and not found on PATH" >&2
  exit 1
fi

if [ ${#need[@]} -gt 0 ]; then
  mapfile -t need < <(printf '%s\n' "${need[@]}" | sort -u)
  if ! command -v apt-get >/dev/null; then
    echo "setup: this machine lacks what these Debian packages bring; install it by hand: ${need[*]}" >&2
    exit 1
  fi
  if [ "$(id -u)" != 0 ]; then
    echo "setup: root is needed to install: ${need[*]}" >&2
    exit 1
  fi
  echo "setup: installing ${need[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

for sample in deploy/samples/leaf-node deploy/samples/module-node e2e/conformance/node e2e/azurite; do
  if [ ! -e "$sample/node_modules/.package-lock.json" ] || [ "$sample/package-lock.json" -nt "$sample/node_modules/.package-lock.json" ]; then
    echo "setup: installing the npm packages of $sample"
    (cd "$sample" && npm ci --no-audit --no-fund --loglevel=error && touch node_modules/.package-lock.json)
  fi
done
