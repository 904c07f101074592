# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the process of a stage may do: nothing.

Its path is looked up below the service's root directory, and whoever can change a directory on that way may have
something else executed in its place. No path in there can be pinned. So whatever is executed is worthless: it is a user
of its own that owns nothing, without a capability, and it can make no system call but those with which a dynamic loader
begins and ends. It cannot even open a file. A confined service that runs as root cannot trace it, signal it or look
through its `/proc/PID/root` either, since it is another user's.

systemd applies all of this after it has made the mounts, and none of it is among what they are made of. In particular
it sets "no new privileges" for the process as it has a filter (systemd.exec(5), `SystemCallFilter=`), but makes mounts
"nosuid" only where `NoNewPrivileges=` itself is set.
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

# units/unit-confext.sysusers makes it.
USER = "unit-confext"

# capabilities(7); systemd.exec(5) has the sets as masks.
_CAP_SYS_PTRACE = 1 << 19

# What the loader needs beyond "@default", which systemd always allows: to write that it cannot open what it is told to
# run, as no call that opens a file is among them (systemd.exec(5), "System Call Filtering").
_SYSTEM_CALLS = ["writev"]
_EPERM = 1

# As systemd itself has it for units with a root image (unit_patch_contexts()): it is in the control group of the stage
# while it makes the mounts.
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

    It has to search the root directory, and so is root where nobody else may: in an image. Nobody can put anything else
    in the place of the loader there, as a stage mounts it read-only (stage/rootimage.py). A directory may be changed.

    Args:
        root: descriptor of its root directory; None if it has none of its own, or that is unknown.
        directory: its RootDirectory= or RootMStack=, if it has one.

    Raises:
        ConfextError: there is no such user, or it cannot search the root directory.
    """
    try:
        found = pwd.getpwnam(USER).pw_uid
    except KeyError:
        found = 0
    if not found:
        raise ConfextError(
            f"the new one cannot be built without the system user {USER}",
            hint="run systemd-sysusers and reload again",
        )
    if root is None or os.fstat(root).st_mode & stat.S_IXOTH:
        return found
    if directory:
        raise ConfextError(
            f"the new one cannot be built below a directory that the system user {USER} may not search",
            path=directory,
            hint="chmod o+x, or restart the service instead",
        )
    return 0


def properties(images: Iterable[str], *, is_root: bool, has_sys: bool) -> list[tuple[str, Value]]:
    """What confines the process of a stage, for StartTransientUnit().

    Args:
        images: the paths of all images that are mounted in it; some may be block devices.
        is_root: whether it is root's, see uid(). Then it has the one capability without which nobody may trace it
            (ptrace(2), "Ptrace access mode checking"), and no system call with which to make use of that.
        has_sys: whether there is a /sys, as a network namespace has one of its own. Without a system call that makes a
            socket there is no network in any case.
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
