#!/bin/bash
# Becomes the first process of a machine: machine.sh group|root DISK GROUP SOURCE
#
# It is started in a network, and in namespaces of its own for mounts, processes, the
# host's name and IPC. DISK is the folder of what the machine keeps, GROUP the name of its
# control group, SOURCE is seen by it as /mnt, read-only.
set -euo pipefail
step=$1 disk=$2 group=$3 source=$4

# Control groups are those of version 2, in a namespace whose root is the machine's group.
if [ "$step" = group ]; then
  mount --make-rprivate /
  mount -t cgroup2 cgroup2 "$disk/cgroup"
  mkdir "$disk/cgroup/$group"
  echo 0 >"$disk/cgroup/$group/cgroup.procs"
  umount "$disk/cgroup"
  exec unshare --cgroup "$BASH" "$0" root "$disk" "$group" "$source"
fi

root=$disk/root
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir usr etc var proc sys dev run tmp home mnt old
mkdir -m 0700 root
ln -s usr/bin usr/sbin usr/lib .
[ ! -e /usr/lib64 ] || ln -s usr/lib64 .

# Programs are this machine's; what is installed is seen here only.
mkdir -p "$disk"/{usr,work,etc,var}
mount -t overlay -o "lowerdir=/usr,upperdir=$disk/usr,workdir=$disk/work" overlay usr
mount --bind "$disk/etc" etc
mount --bind "$disk/var" var
mount --bind "$source" mnt
mount -o remount,bind,ro mnt

# The kernel is this machine's too: of its settings only those of the network may change.
mount -t proc proc proc
mount --bind proc/sys/net proc/sys/net
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind proc/sys/net proc/sys/net
[ ! -e proc/sysrq-trigger ] || mount --bind /dev/null proc/sysrq-trigger
cat /proc/sys/kernel/random/uuid >"$disk/boot-id"
mount --bind "$disk/boot-id" proc/sys/kernel/random/boot_id
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
for device in null zero full random urandom tty; do
  : >dev/$device
  mount --bind /dev/$device dev/$device
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp

if [ ! -e etc/machine-id ]; then # as Debian leaves a new machine
  cp /usr/share/base-passwd/passwd.master etc/passwd
  cp /usr/share/base-passwd/group.master etc/group
  cp -a /etc/nsswitch.conf /etc/ld.so.cache /etc/alternatives etc/
  tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
  mkdir -p etc/systemd/system var/log/journal
  # It would speak with the kernel's audit, which is this machine's.
  ln -s /dev/null etc/systemd/system/systemd-journald-audit.socket
  systemctl --quiet --root=. enable containerd.service
fi
cp "$disk/hosts" "$disk/hostname" etc/
hostname -F etc/hostname

pivot_root . old
umount -l old
rmdir old
# As systemd does unless it believes to be in a container.
mount --make-rshared /
# A call that a unit's filter refuses is told to the kernel's audit.
exec env -i container=breakwater SYSTEMD_LOG_SECCOMP=1 PATH=/usr/sbin:/usr/bin LANG=C.UTF-8 \
  setpriv --bounding-set -sys_module,-sys_time,-sys_rawio /usr/lib/systemd/systemd --system
