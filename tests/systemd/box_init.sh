#!/bin/sh
# Becomes systemd as pid 1 of fresh namespaces, over an overlay of the host's root that nothing outlives.
# usage: box_init.sh ROOM [SOURCE TARGET]...      ROOM: an empty directory; SOURCE is bound read-only at TARGET.
# Called by box.py inside `unshare --mount --propagation private --pid --uts --ipc --cgroup --net`: all mounts below
# live in that mount namespace and end with it.
set -eu
room=$1
shift

mount -t tmpfs -o mode=755 box "$room"
mkdir "$room/upper" "$room/work" "$room/root"
mount -t overlay box -o "lowerdir=/,upperdir=$room/upper,workdir=$room/work" "$room/root"
cd "$room/root"

mkdir -p proc sys dev run tmp
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755,nosuid tmpfs dev
for node in null zero full random urandom tty; do
    : > "dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs tmp

# The host's services are none of our business: only what a unit itself asks for is started.
rm -rf etc/systemd/system/*.wants etc/systemd/system/*.requires usr/lib/systemd/system/*.wants etc/fstab
printf '[Unit]\nDescription=Nothing but systemd\nWants=systemd-journald.service\n' > etc/systemd/system/box.target
: > etc/machine-id
echo box > etc/hostname

while [ $# -ge 2 ]; do
    mkdir -p ".$2"
    mount --bind "$1" ".$2"
    mount -o remount,bind,ro ".$2"
    shift 2
done

mkdir -p run/host
pivot_root . run/host
cd /
umount -l /run/host
mount --make-rshared /
exec env -i container=box PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
    /lib/systemd/systemd --unit=box.target --log-level=info --log-target=journal --show-status=no
