# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make sure that `/etc` is what systemd mounted there, although the service may rename directories.

When a directory is renamed, the mounts on it move along, in all mount namespaces. The kernel refuses to rename a
directory that is a mount point in the caller's own namespace. But a process that has made another mount namespace, and
unmounted the service's mounts there, may rename it (rename(2), `EBUSY`; Linux 3.18). So a service that runs as root,
even without any capability, can rename `proc` or a hidden directory to `etc` at the moment when the stage's `/etc` is
copied, or the service's own is unmounted. A stage lacks the mounts that protect such directories in the service.

So the `/etc` of a stage is recognized by its mounts, whose numbers no rename changes, and a service that could do this
to its own mounts is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from confext_helpers.errors import ConfextError
from confext_helpers.paths import ETC
from confext_helpers.service.belonging import is_confined
from confext_helpers.service.processes import Process
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.stage import targets
from confext_helpers.system.descriptors import Descriptors
from confext_helpers.system.mountinfo import Mount, chain
from confext_helpers.system.namespaces import Namespaces

_CLONE_NEWUSER = 0x10000000
# The file systems of systemd.exec(5), MountAPIVFS=, and those that are mounted in them.
_API_TYPES = frozenset((
    "proc", "sysfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "securityfs", "debugfs", "tracefs", "bpf",
    "efivarfs", "configfs",
))  # fmt: skip
_OF_ETC = re.compile(r"/unit-extensions/[0-9]+/etc(?:[:,]|$)")
_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def check(properties: ServiceProperties, processes: list[Process]) -> None:
    """Refuse a service that could rename directories in its root directory while it is given a new `/etc`.

    Raises:
        ConfextError: the service could.
    """
    if not _has_changeable_root(properties) or not is_confined(properties) or not _may_leave(properties):
        return
    with Namespaces() as namespaces:
        for process in processes:
            namespaces.enter(process.namespace)
            if is_root_writable(namespaces.mounts()):
                raise ConfextError(
                    "it runs as root with restrictions, and could rename another directory to /etc during the swap",
                    path=properties.root_directory,
                    hint="set RestrictNamespaces=yes, or ProtectSystem=strict, or User=, or restart it instead",
                )


def _has_changeable_root(properties: ServiceProperties) -> bool:
    """Whether a service has its own root directory. One that may change the host's has no need of such tricks."""
    directory = properties.root_directory
    binds = properties.entries("BindPaths")
    return (directory != "" and os.path.realpath(directory) != "/") or any(not bind.target.strip("/") for bind in binds)


def _may_leave(properties: ServiceProperties) -> bool:
    """Whether a service may make user namespaces: systemd.exec(5), RestrictNamespaces=, a mask of those allowed."""
    allowed = properties.restrict_namespaces
    return allowed is None or bool(allowed & _CLONE_NEWUSER)


def is_root_writable(mounts: list[Mount]) -> bool:
    """Whether the root directory of a mount namespace is writable there, through any mount."""
    root = chain(mounts, "/")[-1]
    return any(
        mount.device == root.device
        and targets.is_within(root.root, mount.root)
        and "ro" not in (*mount.options.split(","), *mount.super_options.split(","))
        for mount in mounts
    )


@contextlib.contextmanager
def open_etc(namespaces: Namespaces) -> Iterator[int]:
    """Open (O_PATH) the `/etc` of the stage whose mount namespace this process is in, until the with statement ends.

    Raises:
        OSError: something else is at `/etc`.
    """
    with Descriptors() as opened:
        etc = opened.add(os.open(ETC, _PATH))
        if not is_etc(namespaces.mounts(), namespaces.mount_of(etc)):
            raise OSError(errno.ESTALE, "something else was put in the place of the stage's /etc", ETC)
        yield etc


@contextlib.contextmanager
def open_stage(namespace: int) -> Iterator[int]:
    """Open, for reading, the `/etc` of the stage with the mount namespace `namespace`, until the with statement ends.

    Raises:
        ConfextError: something else is at `/etc` of the stage, or it cannot be opened.
    """
    with Descriptors() as opened:
        try:
            with Namespaces() as namespaces:
                namespaces.enter(namespace)
                with open_etc(namespaces) as etc:
                    tree = opened.add(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=etc))
        except OSError as error:
            problem = f"the new /etc cannot be opened: {error.strerror}"
            raise ConfextError(problem, hint="reload again") from error
        yield tree


def is_etc(mounts: list[Mount], number: int) -> bool:
    """Whether a mount can be the `/etc` that systemd made in a stage.

    Args:
        mounts: the mounts of the stage.
        number: the ID of the mount that is seen at `/etc`.
    """
    by_number = {mount.id: mount for mount in mounts}
    above = []
    at: Mount | None = by_number.get(number)
    while at is not None and at not in above:
        above.append(at)
        at = by_number.get(at.parent)
    stacks = [mount for mount in mounts if mount.is_extension_overlay() and _OF_ETC.search(mount.super_options)]
    if not above or (stacks and not any(stack in above for stack in stacks)):
        return False
    below = [mount for mount in mounts if mount.point.startswith(f"{ETC}/") and mount.root == "/"]
    # Nobody can rename directories in the overlay of the layers, so the mounts below it need no look.
    return not any(mount.type in _API_TYPES for mount in (above if above[0] in stacks else above + below))
