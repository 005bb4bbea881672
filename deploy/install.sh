#!/usr/bin/env bash
# Installs the device's programs and units, or removes them:
#
#   deploy/install.sh [install|uninstall]
#
# DESTDIR (empty) is put before every path, as for packages; then nothing of the
# running system is touched. BIN (bin) is where the built programs are. Configuration
# and state are never removed.
set -euo pipefail
cd "$(dirname "$0")/.."
DESTDIR=${DESTDIR:-} BIN=${BIN:-bin}
libexec=$DESTDIR/usr/libexec/breakwater
units=$DESTDIR/usr/lib/systemd/system
sysusers=$DESTDIR/usr/lib/sysusers.d/aziot-edged.conf
tmpfiles=$DESTDIR/usr/lib/tmpfiles.d/aziot-edged.conf
docs=$DESTDIR/usr/share/doc/breakwater
template=$DESTDIR/etc/aziot/config.toml.edge.template
unit_files=(aziot-edged.service aziot-edged.mgmt.socket aziot-edged.workload.socket)
bash_completion=$DESTDIR/usr/share/bash-completion/completions/edgectl
zsh_completion=$DESTDIR/usr/share/zsh/site-functions/_edgectl
fish_completion=$DESTDIR/usr/share/fish/vendor_completions.d/edgectl.fish

if [ -z "$DESTDIR" ] && [ "$(id -u)" != 0 ]; then
  echo "install: root is needed, or DESTDIR" >&2
  exit 1
fi
# A running systemd, and not one of the folder that is installed into.
live() { [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; }

install_all() {
  for program in edged edged-log edgectl; do
    if [ ! -x "$BIN/$program" ]; then
      echo "install: $BIN/$program is missing: make build" >&2
      exit 1
    fi
  done
  # The helpers are needed by those who use what they are for.
  for program in edged edged-log edged-init edged-pkcs11 edged-verify; do
    if [ -x "$BIN/$program" ]; then
      install -D -m 0755 "$BIN/$program" "$libexec/$program"
    fi
  done
  install -D -m 0755 "$BIN/edgectl" "$DESTDIR/usr/bin/edgectl"
  for unit in "${unit_files[@]}"; do
    install -D -m 0644 "deploy/systemd/$unit" "$units/$unit"
  done
  install -D -m 0644 deploy/systemd/aziot-edged.sysusers.conf "$sysusers"
  install -D -m 0644 deploy/systemd/aziot-edged.tmpfiles.conf "$tmpfiles"
  install -D -m 0644 README.md "$docs/README.md"
  install -d -m 0755 "$DESTDIR/etc/aziot" "$DESTDIR/var/lib/aziot"
  install -d -m 0700 "$DESTDIR/etc/aziot/edged" "$DESTDIR/etc/aziot/edged/config.d"
  # It is copied to config.toml, which holds keys.
  install -m 0600 deploy/systemd/config.toml.edge.template "$template"
  install -D -m 0644 deploy/completion/edgectl.bash "$bash_completion"
  install -D -m 0644 deploy/completion/edgectl.zsh "$zsh_completion"
  install -D -m 0644 deploy/completion/edgectl.fish "$fish_completion"
  if live; then
    systemd-sysusers "$sysusers"
    systemd-tmpfiles --create "$tmpfiles"
    systemctl daemon-reload
    systemctl enable aziot-edged.service
  fi
  cat <<'NEXT'
Installed. What next:
  1. containerd, runc, the CNI plugins and iptables must be there (Debian: containerd runc
     containernetworking-plugins iptables).
  2. Say who the device is:
       edgectl config mp --connection-string 'HostName=...;DeviceId=...;SharedAccessKey=...'
     or copy /etc/aziot/config.toml.edge.template to /etc/aziot/config.toml and edit it.
  3. edgectl config apply
  4. edgectl check
NEXT
}

uninstall_all() {
  if live; then
    systemctl disable --now "${unit_files[@]}" 2>/dev/null || true
  fi
  rm -f "$DESTDIR/usr/bin/edgectl" "$sysusers" "$tmpfiles" "$template" "$bash_completion" "$zsh_completion" "$fish_completion"
  rm -rf "$libexec" "$docs"
  for unit in "${unit_files[@]}"; do
    rm -f "$units/$unit"
  done
  if live; then
    systemctl daemon-reload
  fi
  echo "Removed. Left as they are: /etc/aziot (configuration), /var/lib/aziot (keys, logs, volumes), the users, and what containerd holds."
}

case ${1:-install} in
  install) install_all ;;
  uninstall) uninstall_all ;;
  *)
    echo "install: unknown order $1" >&2
    exit 2
    ;;
esac
