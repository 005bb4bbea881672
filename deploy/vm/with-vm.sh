#!/usr/bin/env bash
# Runs a command in a virtual machine with Debian's own kernel, where control groups
# are of version 2 alone: a machine whose kernel or set-up has version 1 tests the
# other one so. The machine sees this one's files, in the same folder and with the
# same environment; what it writes is gone with it. Its output and exit status are
# those of the command. VM_MEMORY is its memory in MiB (3072), VM_TIMEOUT the
# seconds it may take (1800). Needs neither KVM nor a network; installs QEMU if missing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
store=$(cd "$here/../.." && pwd)/bin/vm
if [ "$(id -u)" != 0 ]; then
  echo "with-vm: root is needed" >&2
  exit 1
fi
if [ "$(uname -m)" != x86_64 ]; then
  echo "with-vm: made for x86-64 machines, and this is $(uname -m)" >&2
  exit 1
fi

exec 9<"$here"
flock 9 # one at a time fetches
need=()
want() { [ -x "$1" ] || need+=("$2"); } # want FILE PACKAGE
want /usr/bin/qemu-system-x86_64 qemu-system-x86
want /sbin/depmod kmod
want /bin/cpio cpio
want /bin/busybox busybox-static
want /sbin/apparmor_parser apparmor
if [ ${#need[@]} -gt 0 ] || ! [ -e "$store/kernel" ]; then
  if ! command -v apt-get >/dev/null; then
    echo "with-vm: this machine lacks what these Debian packages bring; install it by hand: ${need[*]:-} and the kernel of linux-image-amd64 in $store" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  echo "with-vm: installing ${need[*]:-nothing}, fetching Debian's kernel" >&2
  apt-get update -qq >&2
  [ ${#need[@]} = 0 ] || apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi
if ! [ -e "$store/kernel" ]; then
  # Unpacked, not installed: this machine goes on with its own.
  rm -rf "$store"
  mkdir -p "$store/package"
  image=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-[0-9]/ {print $2; exit}')
  (cd "$store" && apt-get download -qq -o APT::Sandbox::User=root "$image" >&2 && dpkg -x "$image"_*.deb package && rm -f "$image"_*.deb)
  version=${image#linux-image-}
  # No emulated machine has such devices.
  kernel=$store/package/lib/modules/$version/kernel
  rm -rf "$kernel"/sound "$kernel"/drivers/{gpu,media,infiniband,iio,hid,input,isdn,mfd,scsi,staging,usb,net/ethernet,net/wireless}
  depmod -b "$store/package" "$version"
  # What the first steps need is in an archive; the rest is loaded from this machine's files.
  initrd=$store/initrd
  mkdir -p "$initrd/bin" "$initrd/modules" "$initrd/proc" "$initrd/sys" "$initrd/dev" "$initrd/lower" "$initrd/memory" "$initrd/root"
  cp /bin/busybox "$initrd/bin/"
  cp "$here/init.sh" "$initrd/init"
  modprobe -d "$store/package" -S "$version" -D -a virtio_pci 9pnet_virtio 9p overlay virtio_console |
    awk '$1 == "insmod" && !seen[$2]++ {print $2}' >"$store/order"
  while read -r module; do
    cp "$module" "$initrd/modules/"
    basename "$module" >>"$initrd/modules/order"
  done <"$store/order"
  (cd "$initrd" && find . | cpio --quiet -o -H newc | gzip -1 >"$store/initrd.gz")
  echo "$version" >"$store/version"
  mv "$store/package/boot/vmlinuz-$version" "$store/kernel"
fi
flock -u 9

dir=$(mktemp -d)
machine=
cleanup() {
  [ -z "$machine" ] || kill "$machine" 2>/dev/null || true
  wait
  rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
{
  export -p
  echo 'export TMPDIR=/run/scratch' # no overlay, so that others can be laid over it
  printf 'cd %q\n' "$PWD"
  printf 'exec %q' "$1"
  [ $# = 1 ] || printf ' %q' "${@:2}"
  echo
} >"$dir/command"
cp "$here/second.sh" "$dir/"
mkfifo "$dir/out" "$dir/err"
cat "$dir/out" &
copies=($!)
cat "$dir/err" >&2 &
copies+=($!)
accel=tcg,thread=multi
[ -z "${VM_ACCEL:-}" ] || accel=$VM_ACCEL
# The machine ends with this script, however that ends.
setpriv --pdeathsig TERM timeout "${VM_TIMEOUT:-1800}" qemu-system-x86_64 -accel "$accel" -cpu max -smp 2 -m "${VM_MEMORY:-3072}" \
  -nodefaults -no-user-config -no-reboot -display none \
  -kernel "$store/kernel" -initrd "$store/initrd.gz" \
  -append "console=ttyS0 quiet loglevel=3 panic=-1 cgroup_no_v1=all apparmor=1 security=apparmor breakwater.dir=$dir breakwater.modules=$store/package/lib/modules" \
  -serial "file:$dir/console" \
  -fsdev "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap" -device virtio-9p-pci,fsdev=root,mount_tag=root \
  -device virtio-rng-pci -device virtio-serial \
  -chardev "file,id=out,path=$dir/out" -device virtserialport,chardev=out,name=out \
  -chardev "file,id=err,path=$dir/err" -device virtserialport,chardev=err,name=err \
  -chardev "file,id=status,path=$dir/status" -device virtserialport,chardev=status,name=status </dev/null &
machine=$!
wait "$machine" || ended=$?
machine=
wait "${copies[@]}"
status=$(cat "$dir/status" 2>/dev/null || true)
if [ -z "$status" ]; then
  echo "with-vm: the machine ended (${ended:-0}) before the command did; its console said at last:" >&2
  tail -30 "$dir/console" >&2 || true
  exit 1
fi
exit "$status"
