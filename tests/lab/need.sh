#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# need.sh COMMAND:PACKAGE...: install the Debian package of each command that is not there.
# COMMAND may be `python3:MODULE` for a module of Debian's Python. Where it cannot install it says what is missing,
# and leaves it at that: the tests that need it then say so too.
set -eu

missing=
for pair in "$@"; do
    command=${pair%:*}
    case $command in
    python3:*) /usr/bin/python3 -c "import ${command#python3:}" 2>/dev/null && continue ;;
    # Not in $PATH. On Debian 12 it comes with QEMU and has no package of its own.
    virtiofsd) [ -x /usr/libexec/virtiofsd ] || [ -x /usr/lib/qemu/virtiofsd ] && continue ;;
    *) command -v "$command" >/dev/null && continue ;;
    esac
    missing="$missing ${pair##*:}"
done
if [ -z "$missing" ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed:$missing (as root on Debian they are installed by this)" >&2
    exit 0
fi
echo "installing:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq </dev/null
# Each package is one word.
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 $missing </dev/null >/dev/null
