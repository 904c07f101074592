#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Shows the tree $LOWER with the kernel modules of $KERNEL over it, writable, in a mount namespace of its own, until
# standard input ends. What is written is gone then. Called by vm.py with
#   LOWER=tree KERNEL=tree vm.sh
set -eu

if [ "${1-}" != inside ]; then
    exec setpriv --pdeathsig KILL unshare --mount --propagation private "$0" inside
fi
new=/run/unit-confext-vm
mkdir -p "$new"
mount -t tmpfs -o mode=0755 tmpfs "$new"
mkdir "$new/upper" "$new/work" "$new/root"
mount -t overlay -o "lowerdir=$KERNEL:$LOWER,upperdir=$new/upper,workdir=$new/work" overlay "$new/root"
mkdir -p "$new/root/run/host/share"
echo ready
read -r _ || :
