#!/bin/sh
# systemd as process 1 of namespaces of its own: inside_systemd.sh ROOT CGROUP. ROOT is the root file
# system, and CGROUP, below the second version's hierarchy, a directory for all that it starts.
# Ready as soon as `systemctl` there says so.
set -eu
if [ "${3:-}" != inside ]; then
    echo $$ > "$2/cgroup.procs"
    exec unshare --mount --propagation slave --pid --fork --kill-child=KILL --uts --ipc --cgroup \
        "$0" "$1" "$2" inside
fi
cd "$1"
mount --bind . .
cd "$1"
mount -t proc proc proc
mount --rbind /sys sys
for each in dev run tmp; do mount -t tmpfs -o mode=755 tmpfs $each; done
for each in null zero full random urandom tty fuse; do
    touch dev/$each
    mount --bind /dev/$each dev/$each
done
mkdir -p dev/pts dev/shm before
touch dev/console
mount -t tmpfs tmpfs sys/fs/cgroup
mount -t cgroup2 none sys/fs/cgroup
pivot_root . before
umount -l before
exec env -i container=other PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --log-target=null --show-status=0 < /dev/null
