# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the mount namespace of a process is one that systemd made for this very run of this very service.

A process in the service's control group proves nothing. A container manager in there has containers, with an `/etc` of
their own. A service that runs as root, however confined, can move any process into its control group, by its owner's
right to write to cgroup.procs, and name it as its main process (sd_notify(3), `MAINPID=`). To be given the `/etc` of
such a service would take another one its sandbox.

What systemd makes has the root that the unit's settings say, and propagates as they say (systemd.exec(5),
`MountFlags=`). A container has another root; whoever makes a namespace by hand cuts it off from the host. Where that is
not so, as with a plain unshare(2), the copy has the same peer groups, and of two of them the older one is systemd's.

Whose it is: up to version 257, systemd mounts a directory of the unit's name in it. Otherwise a process has the
service's invocation ID in its environment; another one there is that of a stranger. Some programs write over their
environment, and none of their processes may have it any more. This is then believed of a service that needs no lie, as
its processes can be root without any limits. For others the manager and the kernel are asked who else claims the
namespace, and whether the process has more power than the unit has. `User=` does not count there: commands with a `!`
are root all the same, and programs that are setuid may be.
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
# CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SETUID: what is as good as being root where files are concerned.
_AS_ROOT = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 7

ANOTHER_ROOT = "has another root directory than systemd gave to the service, as in a container"
CUT_OFF = "is in a mount namespace that it has cut off from the host's, as systemd does not"
COPY = "is in a copy of the service's mount namespace, which it has made itself"
ANOTHER_UNIT = "is in a mount namespace of another service"
ANOTHER_RUN = "was not started by this run of the service, by its INVOCATION_ID="


class Belonging:
    """What there is to know about the namespaces of a service.

    Args:
        unit: its name.
        group: the PIDs that are in its control group.
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
        """Device and root of the mount that has to be the root directory; None if that is in an image."""
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
        """Why the namespace of a process is none that systemd made for this run of the service, or an empty text.

        Args:
            pid: of the process, which is held.
            namespace: descriptor of its mount namespace.
        """
        number = os.fstat(namespace).st_ino
        if number not in self._seen:
            # It is looked at from inside, as the process may have a root directory of its own. Nothing there is opened.
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
        """Which of the namespaces that were asked for are copies of others of them: their inode numbers."""
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
        # "0" stands for what is not set, which is "shared".
        propagates = self._properties.mount_flags in (0, syscalls.MS_SHARED)
        if propagates and not root.shared and not self._is_withheld(root):
            return CUT_OFF
        return ""

    def _is_withheld(self, root: Mount) -> bool:
        """Whether it was a swap that made this root a slave, and did not come to its end (swap/propagation.py)."""
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
        # It has written over its environment. Others that are in the same namespace may not have.
        others = (other for other in self._group if other != pid and _namespace_of(other) == number)
        if any(_invocation_of(other) == self._invocation for other in others) or not _is_limited(self._properties):
            return ""
        return ANOTHER_UNIT if self._is_claimed(pid, number) else ""

    def _is_claimed(self, pid: int, number: int) -> bool:
        """Whether another service has a process in the namespace, or `pid` has more power than this one gives."""
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
    """Whether a service may write to what is root's, and yet may not do all that root may."""
    return _is_root(properties) and _is_limited(properties)


def _is_root(properties: ServiceProperties) -> bool:
    """Whether any command of a service runs as root, or as good as that where files are concerned."""
    user = properties.user
    if user in ("root", "0") or (properties.ambient_capabilities or 0) & _AS_ROOT or properties.has_command_as_root:
        return True
    import pwd  # Few services come that far.

    try:
        return pwd.getpwnam(user).pw_uid == 0
    except KeyError:
        return False


def _is_limited(properties: ServiceProperties) -> bool:
    """Whether a process of a service that is root may not do all that root may."""
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
    """The invocation ID in the environment of a process, as that is now; None if there is none."""
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
    """The unit of the system manager that a process is in, by its control group."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
        for line in file:
            for part in line.rstrip("\n").split(":", 2)[2].split("/"):
                if part.endswith((".service", ".scope")):
                    return part
    return ""


def _is_image(root: Mount, image: str) -> bool:
    """Whether the mount `root` is of the file or block device `image`, or of one whose place that has taken."""
    if root.source == os.path.realpath(image):
        return True
    device = os.path.realpath(f"/sys/dev/block/{root.device}")
    places = [device]
    with contextlib.suppress(OSError):
        places += [os.path.realpath(f"{device}/slaves/{slave}") for slave in os.listdir(f"{device}/slaves")]
    for place in places:
        # That of a partition is the whole device's.
        for loop in (place, os.path.dirname(place)):
            with (
                contextlib.suppress(OSError),
                open(f"{loop}/loop/backing_file", encoding="utf-8", errors="surrogateescape") as file,
            ):
                # Its directory is as the root directory of whoever asks has it.
                backing = file.read().removesuffix("\n").removesuffix(_DELETED)
                return os.path.basename(backing) == os.path.basename(os.path.realpath(image))
    return False
