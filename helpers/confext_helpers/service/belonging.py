# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decide whether systemd made the mount namespace of a process, for this run of this service.

A process in the service's control group proves nothing. A container manager has containers there, which have their own
`/etc`. A service that runs as root, however confined, can move any process into its control group, since root may write
to cgroup.procs, and name it as its main process (sd_notify(3), `MAINPID=`). If a process of another service then got
this service's `/etc`, it would lose its sandbox.

A namespace that systemd made has the root directory of the unit's settings, and propagates as they say
(systemd.exec(5), `MountFlags=`). A container has another root. A namespace made by hand is usually cut off from the
host; after a plain unshare(2) it is a copy with the same peer groups, and the older of the two is systemd's.

To find the service of a namespace: up to version 257, systemd mounts a directory of the unit's name in it. Otherwise, a
process of the service has the service's invocation ID in its environment; a process with another one is a stranger's.
Some programs overwrite their environment, so maybe no process has the ID any more. Then a service is believed if its
processes can be root without limits, since it gains nothing by a lie. For another service, the manager and the kernel
are asked who else claims the namespace, and whether the process has more power than the unit gives. `User=` does not
count as a limit: a command with a `!` runs as root all the same, and so may a setuid program.
"""

from __future__ import annotations

import contextlib
import os
from functools import cached_property

from confext_helpers.service.notes import swap_under_way
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.system import syscalls
from confext_helpers.system.bus import Manager
from confext_helpers.system.mountinfo import Mount, chain, read_mountinfo
from confext_helpers.system.namespaces import Namespaces

_PROPAGATE = "/systemd/propagate/"
_INCOMING = "/run/systemd/incoming"
_ENVIRON_MAX = 4 << 20
_DELETED = " (deleted)"
# capabilities(7)
_CAP_SYS_PTRACE = 1 << 19
_CAP_SYS_ADMIN = 1 << 21
# CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SETUID: as good as root where files are concerned.
_AS_ROOT = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 7

ANOTHER_ROOT = "has another root directory than systemd gave to the service, as in a container"
CUT_OFF = "is in a mount namespace that it has cut off from the host's, which systemd did not do"
COPY = "is in a copy of the service's mount namespace, which it has made itself"
ANOTHER_UNIT = "is in a mount namespace of another service"
ANOTHER_RUN = "was not started by this run of the service, according to its INVOCATION_ID="


class Belonging:
    """Decides which mount namespaces belong to a service.

    Args:
        unit: the name of the service.
        group: the PIDs in its control group.
    """

    def __init__(self, unit: str, properties: ServiceProperties, group: list[int]) -> None:
        self._unit = unit
        self._properties = properties
        self._group = group
        self._roots: dict[int, tuple[int, int]] = {}
        self._seen: dict[int, tuple[str, list[Mount]]] = {}

    @cached_property
    def _invocation(self) -> str:
        with Manager() as manager:
            return manager.invocation_id(self._unit)

    @cached_property
    def _root(self) -> tuple[str, str] | None:
        """Device and root that the mount on the root directory must have; None for a root image."""
        root = self._properties.root
        if root is None:
            return None
        mounts = read_mountinfo("/proc/self/mountinfo")
        path = os.path.realpath(root)
        points = {mount.point for mount in mounts if f"{path}/".startswith(f"{mount.point.rstrip('/')}/")}
        mount = chain(mounts, max(points, key=len))[-1]
        inside = path[len(mount.point.rstrip("/")) :].strip("/")
        return mount.device, "/" + f"{mount.root.strip('/')}/{inside}".strip("/")

    def stranger(self, pid: int, namespace: int) -> str:
        """Why the namespace of a process was not made by systemd for this run of the service; empty if it was.

        Args:
            pid: of the process. The caller holds its pidfd.
            namespace: descriptor of its mount namespace.
        """
        number = os.fstat(namespace).st_ino
        if number not in self._seen:
            # Look from inside the namespace, as the process may have a root directory of its own. Open nothing there.
            with Namespaces() as namespaces:
                namespaces.enter(namespace)
                mounts = namespaces.mounts()
                unique = syscalls.unique_mount_id("/")
            root = chain(mounts, "/")[-1]
            self._roots[number] = (root.group, unique)
            self._seen[number] = (self._by_mounts(root), mounts)
        reason, mounts = self._seen[number]
        return reason or self._by_owner(pid, number, mounts)

    def copies(self) -> set[int]:
        """The inode numbers of those namespaces asked for so far that are copies of others among them."""
        groups: dict[int, list[tuple[int, int]]] = {}
        for number, (group, unique) in self._roots.items():
            if group and unique:
                groups.setdefault(group, []).append((unique, number))
        return {number for found in groups.values() for _, number in sorted(found)[1:]}

    def _by_mounts(self, root: Mount) -> str:
        expected = self._root
        if expected is not None:
            if (root.device, root.root) != expected:
                return ANOTHER_ROOT
        elif self._properties.root_image and not _is_image(root, self._properties.root_image):
            return ANOTHER_ROOT
        # MountFlags= is 0 if not set, which means "shared".
        propagates = self._properties.mount_flags in (0, syscalls.MS_SHARED)
        if propagates and not root.shared and not self._is_withheld(root):
            return CUT_OFF
        return ""

    def _is_withheld(self, root: Mount) -> bool:
        """Whether a swap that was cut off has made this root mount a slave (swap/propagation.py)."""
        swap = swap_under_way(self._unit)
        return swap is not None and any(old.mount == root.id and old.shared for old in swap.propagation)

    def _by_owner(self, pid: int, number: int, mounts: list[Mount]) -> str:
        incoming = (mount.root for mount in mounts if mount.point == _INCOMING)
        names = {root.partition(_PROPAGATE)[2] for root in incoming} - {""}
        if names and self._unit not in names:
            return ANOTHER_UNIT
        own = _invocation_of(pid)
        if own is not None:
            return "" if own == self._invocation else ANOTHER_RUN
        if names:
            return ""
        # The process has overwritten its environment. Another one in the same namespace may still have the ID.
        others = (other for other in self._group if other != pid and _namespace_of(other) == number)
        if any(_invocation_of(other) == self._invocation for other in others) or not _is_limited(self._properties):
            return ""
        return ANOTHER_UNIT if self._is_claimed(pid, number) else ""

    def _is_claimed(self, pid: int, number: int) -> bool:
        """Whether another service has a process in the namespace, or `pid` has more power than this service gives."""
        with Manager() as manager:
            mains = manager.main_pids()
        if any(unit != self._unit and _namespace_of(main) == number for unit, main in mains.items()):
            return True
        group = set(self._group)
        for name in os.listdir("/proc"):
            if name.isdecimal() and int(name) not in group and _namespace_of(int(name)) == number:
                unit = _system_unit(int(name))
                if unit.endswith(".service") and unit != self._unit:
                    return True
        bounding = self._properties.capability_bounding_set
        if bounding is None or self._properties.has_privileged_start:
            return False
        return bool(_bounding_set(pid) & ~bounding)


def is_confined(properties: ServiceProperties) -> bool:
    """Whether a service may write to root's files, but may not do all that root may."""
    return _is_root(properties) and _is_limited(properties)


def _is_root(properties: ServiceProperties) -> bool:
    """Whether any command of a service runs as root, or as good as root where files are concerned."""
    user = properties.user
    if user in ("root", "0") or (properties.ambient_capabilities or 0) & _AS_ROOT or properties.has_command_as_root:
        return True
    import pwd  # Only needed for services with User=.

    try:
        return pwd.getpwnam(user).pw_uid == 0
    except KeyError:
        return False


def _is_limited(properties: ServiceProperties) -> bool:
    """Whether a process that runs as root in this service may not do all that root may."""
    bounding = properties.capability_bounding_set
    everything = _CAP_SYS_ADMIN | _CAP_SYS_PTRACE
    limited = bounding is not None and bounding & everything != everything
    return limited or properties.private_users or properties.has_system_call_filter


def _namespace_of(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino
    except OSError:
        return 0


def _invocation_of(pid: int) -> str | None:
    """The invocation ID that is in the environment of a process now; None if there is none."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = file.read(_ENVIRON_MAX).split(b"\0")
    except OSError:
        return None
    found = [word.partition(b"=")[2] for word in words if word.startswith(b"INVOCATION_ID=")]
    return found[0].decode("ascii", "replace") if found else None


def _bounding_set(pid: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapBnd:"):
                return int(line.split()[1], 16)
    return 0


def _system_unit(pid: int) -> str:
    """The system unit of a process, by its control group; empty if there is none."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
        for line in file:
            for part in line.rstrip("\n").split(":", 2)[2].split("/"):
                if part.endswith((".service", ".scope")):
                    return part
    return ""


def _is_image(root: Mount, image: str) -> bool:
    """Whether the mount `root` is of the file or block device `image`, or of one that `image` has replaced."""
    if root.source == os.path.realpath(image):
        return True
    device = os.path.realpath(f"/sys/dev/block/{root.device}")
    places = [device]
    with contextlib.suppress(OSError):
        places += [os.path.realpath(f"{device}/slaves/{slave}") for slave in os.listdir(f"{device}/slaves")]
    for place in places:
        # For a partition, the whole device has the backing file.
        for loop in (place, os.path.dirname(place)):
            with (
                contextlib.suppress(OSError),
                open(f"{loop}/loop/backing_file", encoding="utf-8", errors="surrogateescape") as file,
            ):
                # Compare the names only: the kernel shows the path as seen from the reader's root directory.
                backing = file.read().removesuffix("\n").removesuffix(_DELETED)
                return os.path.basename(backing) == os.path.basename(os.path.realpath(image))
    return False
