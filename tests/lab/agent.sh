#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs in a virtual machine of vm.py, as a service: scripts come in through a virtio port, one line of base64 each, and
# an exit status, the output and the errors go out, a line each.
set -u
exec 3<>/dev/virtio-ports/unit-confext.agent
echo ready >&3
while read -r line <&3; do
    printf '%s' "$line" | base64 -d >/run/agent.script
    sh /run/agent.script </dev/null >/run/agent.out 2>/run/agent.err 3<&-
    {
        echo $?
        base64 -w0 /run/agent.out
        echo
        base64 -w0 /run/agent.err
        echo
    } >&3
done
