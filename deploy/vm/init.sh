#!/bin/busybox sh
# The first process of the virtual machine: mounts the files of the machine it runs
# on, with a layer in memory over them, and goes on there with second.sh.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for m in $($b cat /modules/order); do $b insmod "/modules/$m" || echo "init: $m did not load"; done
for word in $($b cat /proc/cmdline); do
  case $word in
    breakwater.dir=*) dir=${word#*=} ;;
    breakwater.modules=*) modules=${word#*=} ;;
  esac
done
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro root /lower || $b poweroff -f
$b mount -t tmpfs -o size=80% memory /memory
$b mkdir /memory/upper /memory/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work root /root || $b poweroff -f
$b umount /proc /sys
$b mount -o move /dev /root/dev
exec $b switch_root /root /bin/bash "$dir/second.sh" "$dir" "$modules"
