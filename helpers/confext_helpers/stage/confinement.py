# SPDX-License-Identifier: LGPL-2.1-or-later
"""The confinement of the stage's process, which may do nothing.

systemd looks up the program of the stage below the service's root directory. Whoever can change a directory on that
path can have another program executed, and no path in there can be pinned. So the process must be worthless, whatever
it runs: its user owns nothing, it has no capability, and its only system calls are those with which a dynamic loader
begins and ends, which do not even open a file. A confined service that runs as root cannot trace the process, signal it
or look through its `/proc/PID/root` either, since the process belongs to another user.

systemd applies this confinement after it has made the mounts, so the mounts do not depend on it. In particular, systemd
sets "no new privileges" for a process with a filter (systemd.exec(5), `SystemCallFilter=`), but makes mounts "nosuid"
only if `NoNewPrivileges=` itself is set.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable

from confext_helpers.errors import ConfextError
from confext_helpers.image.naming import is_block_device
from confext_helpers.system import bus
from confext_helpers.system.bus import Value

# units/unit-confext.sysusers creates this user.
USER = "unit-confext"

# capabilities(7); systemd.exec(5) has the sets as masks.
_CAP_SYS_PTRACE = 1 << 19

# What the loader needs beyond "@default", which systemd always allows (systemd.exec(5), "System Call Filtering"): to
# write that it cannot open its program. No system call that opens a file is allowed.
_SYSTEM_CALLS = ["writev"]
_EPERM = 1

# The devices that systemd itself adds for units with a root image (unit_patch_contexts()): systemd is in the control
# group of the stage while it makes the mounts.
_DEVICES = (
    ("/dev/loop-control", "rw"),
    ("/dev/mapper/control", "rw"),
    ("block-loop", "rwm"),
    ("block-blkext", "rwm"),
    ("block-device-mapper", "rwm"),
)
_TASKS_MAX = 16
_MEMORY_MAX = 256 << 20


def uid(root: int | None, directory: str) -> int:
    """The UID of the stage's process.

    The process has to search the root directory. In a root image that only root may search, the process is root: nobody
    can replace the loader there, as a stage mounts the image read-only (stage/rootimage.py). In a root directory
    somebody could, so such a service is refused.

    Args:
        root: descriptor of the service's root directory; None if there is none, or it is unknown.
        directory: the service's RootDirectory= or RootMStack=; empty if not set.

    Raises:
        ConfextError: the system user does not exist, or may not search the root directory.
    """
    try:
        found = pwd.getpwnam(USER).pw_uid
    except KeyError:
        found = 0
    if not found:
        raise ConfextError(
            f"the new /etc cannot be built without the system user {USER}",
            hint="run systemd-sysusers and reload again",
        )
    if root is None or os.fstat(root).st_mode & stat.S_IXOTH:
        return found
    if directory:
        raise ConfextError(
            f"the new /etc cannot be built below a directory that the system user {USER} may not search",
            path=directory,
            hint="chmod o+x, or restart the service instead",
        )
    return 0


def properties(images: Iterable[str], *, is_root: bool, has_sys: bool) -> list[tuple[str, Value]]:
    """The properties that confine the process of a stage, for StartTransientUnit().

    Args:
        images: the paths of all images that are mounted in the stage; some may be block devices.
        is_root: whether the process is root's, see uid(). It then keeps CAP_SYS_PTRACE, so that no process without
            this capability may trace it (ptrace(2), "Ptrace access mode checking"), but no system call to use it with.
        has_sys: whether the stage has a /sys, which systemd mounts anew for a network namespace. The process has no
            network in any case, as it may not make a socket.
    """
    devices = [*_DEVICES, *((path, "rw") for path in images if is_block_device(path))]
    return [
        *([] if is_root else [("User", bus.text(USER))]),
        ("CapabilityBoundingSet", bus.number(_CAP_SYS_PTRACE if is_root else 0)),
        ("AmbientCapabilities", bus.number(0)),
        ("SystemCallFilter", bus.system_calls(_SYSTEM_CALLS)),
        ("SystemCallErrorNumber", bus.signed(_EPERM)),
        ("SystemCallArchitectures", bus.texts(["native"])),
        ("PrivateNetwork", bus.flag(has_sys)),
        ("DevicePolicy", bus.text("closed")),
        ("DeviceAllow", bus.pairs(devices)),
        ("KeyringMode", bus.text("private")),
        ("TasksMax", bus.number(_TASKS_MAX)),
        ("MemoryMax", bus.number(_MEMORY_MAX)),
        ("LimitFSIZE", bus.number(0)),
        ("LimitCORE", bus.number(0)),
    ]
