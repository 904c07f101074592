#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Boots the tree $LOWER as a system of its own, on an overlay that is gone with it. Called by machine.py with
#   LOWER=tree CGROUP=cgroup2-directory NOTIFY=socket KMSG=terminal NAME=hostname [SHARE=directory] [COPY=1] [UDEV=1] boot.sh
# Why like this: see machine.py.
set -eu

if [ "${1-}" != inside ]; then
    echo $$ >"$CGROUP/cgroup.procs"
    # Nobody stops this machine if the test runner is killed.
    exec setpriv --pdeathsig KILL unshare --mount --pid --uts --ipc --cgroup --net --fork --kill-child --propagation private "$0" inside
fi

hostname "$NAME"
ip link set lo up 2>/dev/null || true
new=/run/unit-confext-lab
mkdir -p "$new"
mount -t tmpfs -o mode=0755 tmpfs "$new"
mkdir "$new/upper" "$new/work" "$new/root"
if [ -n "${COPY-}" ]; then
    cp -a "$LOWER/." "$new/root"
    mount --bind "$new/root" "$new/root"
else
    mount -t overlay -o "lowerdir=$LOWER,upperdir=$new/upper,workdir=$new/work" overlay "$new/root"
fi
root="$new/root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount --rbind /dev "$root/dev"
# A node of its own: systemd locks it (flock(2)) around each loop device, and would wait for other machines' systemds.
mknod "$new/loop-control" c 10 237
mount --bind "$new/loop-control" "$root/dev/loop-control"
mount --bind "$KMSG" "$root/dev/kmsg"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir -p "$root/run/host" "$root/run/lab"
touch "$root/run/host/notify"
if [ -z "${UDEV-}" ]; then
    mkdir -p "$root/run/systemd/system"
    for unit in "$LOWER"/usr/lib/systemd/system/systemd-udev*.service "$LOWER"/usr/lib/systemd/system/systemd-udevd-*.socket; do
        ln -s /dev/null "$root/run/systemd/system/${unit##*/}"
    done
fi
mount --bind "$NOTIFY" "$root/run/host/notify"
if [ -n "${SHARE-}" ]; then
    mkdir -p "$root/run/host/share"
    mount --bind "$SHARE" "$root/run/host/share"
fi
cd "$root"
mkdir -p .old
pivot_root . .old
mount --make-rshared /
exec /usr/bin/env -i container=unit-confext-lab PATH=/usr/sbin:/usr/bin \
    NOTIFY_SOCKET=/run/host/notify /bin/sh -c '
    umount -l /.old && rmdir /.old
    exec /lib/systemd/systemd --log-target=journal ${0:+"$0"}' ${SYSTEMD_ARG-}
