#!/bin/bash
# What init.sh goes on with, as the first process still: second.sh DIR MODULES sets up
# the system around the command in DIR, runs it and turns the machine off.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
dir=$1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t securityfs security /sys/kernel/security
mkdir -p /dev/pts /dev/shm /dev/mqueue /run/modules
mount -t devpts -o mode=620,ptmxmode=666 pts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/scratch && mount -t tmpfs -o size=50% scratch /run/scratch
mount -t cgroup2 cgroup /sys/fs/cgroup
mkdir -p /lib/modules && mount --bind "$2" /lib/modules
sysctl -q -w net.ipv4.ip_forward=1
ip link set lo up
hostname vm
ln -sfn /proc/self/fd /dev/fd
ln -sfn /proc/self/fd/0 /dev/stdin
ln -sfn /proc/self/fd/1 /dev/stdout
ln -sfn /proc/self/fd/2 /dev/stderr
port() { # port NAME prints the device of a port
  for p in /sys/class/virtio-ports/*; do
    [ "$(cat "$p/name")" = "$1" ] && echo "/dev/${p##*/}"
  done
}
# The command has no terminal and is not the first process.
bash "$dir/command" </dev/null >"$(port out)" 2>"$(port err)"
echo $? >"$(port status)"
sync
echo o >/proc/sysrq-trigger
while :; do sleep 1; done
