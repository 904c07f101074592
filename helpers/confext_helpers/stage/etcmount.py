# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether what is at `/etc` is what systemd has mounted there, although the service may exchange directories.

Where a directory is renamed, what is mounted on it goes with it, in all mount namespaces. The kernel refuses to rename
a directory on which something is mounted in the namespace of whoever asks, but a process that has made a mount
namespace of its own, and has left the mounts of the service behind, may (rename(2), `EBUSY`; Linux 3.18). So a service
that is root, though without any capability, can have its root directory's `proc` or whatever is hidden in it be called
`etc`, right when that of a stage is copied, or when its own is unmounted. And a stage has not what protects these.

So nothing is taken from a stage, as its `/etc`, but what can be that by the mounts themselves, whose numbers no rename
changes; and what the service could do to its own mounts is not risked at all.
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
# systemd.exec(5), MountAPIVFS=, and what is mounted in these.
_API_TYPES = frozenset((
    "proc", "sysfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "securityfs", "debugfs", "tracefs", "bpf",
    "efivarfs", "configfs",
))  # fmt: skip
_OF_ETC = re.compile(r"/unit-extensions/[0-9]+/etc(?:[:,]|$)")
_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def check(properties: ServiceProperties, processes: list[Process]) -> None:
    """Refuse a service that could exchange directories in its root directory while it is given a new `/etc`.

    Args:
        properties: of it.
        processes: of it.

    Raises:
        ConfextError: it could.
    """
    if not _has_changeable_root(properties) or not is_confined(properties) or not _may_leave(properties):
        return
    with Namespaces() as namespaces:
        for process in processes:
            namespaces.enter(process.namespace)
            if is_root_writable(namespaces.mounts()):
                raise ConfextError(
                    "it runs as root without all of its power, and could exchange its /etc and /proc meanwhile",
                    path=properties.root_directory,
                    hint="set RestrictNamespaces=yes, or ProtectSystem=strict, or User=, or restart it instead",
                )


def _has_changeable_root(properties: ServiceProperties) -> bool:
    """Whether a service has a root directory of its own; one that may change the host's has better ways."""
    directory = properties.root_directory
    binds = properties.entries("BindPaths")
    return (directory != "" and os.path.realpath(directory) != "/") or any(not bind.target.strip("/") for bind in binds)


def _may_leave(properties: ServiceProperties) -> bool:
    """Whether a service may make user namespaces: systemd.exec(5), RestrictNamespaces=, as a mask of what it may."""
    allowed = properties.restrict_namespaces
    return allowed is None or bool(allowed & _CLONE_NEWUSER)


def is_root_writable(mounts: list[Mount]) -> bool:
    """Whether the root directory of a mount namespace can be written to in it, by whatever name."""
    root = chain(mounts, "/")[-1]
    return any(
        mount.device == root.device
        and targets.is_within(root.root, mount.root)
        and "ro" not in (*mount.options.split(","), *mount.super_options.split(","))
        for mount in mounts
    )


@contextlib.contextmanager
def open_etc(namespaces: Namespaces) -> Iterator[int]:
    """Open (O_PATH) the `/etc` of the stage whose mount namespace this process is in; close it in the end.

    Raises:
        OSError: it is not what systemd has made.
    """
    with Descriptors() as opened:
        etc = opened.add(os.open(ETC, _PATH))
        if not is_etc(namespaces.mounts(), namespaces.mount_of(etc)):
            raise OSError(errno.ESTALE, "something else was put in the place of the stage's /etc", ETC)
        yield etc


@contextlib.contextmanager
def open_stage(namespace: int) -> Iterator[int]:
    """Open, for reading, the `/etc` of the stage whose mount namespace has the descriptor `namespace`; close it then.

    Raises:
        ConfextError: it is not what systemd has made for the service `unit`.
    """
    with Descriptors() as opened:
        try:
            with Namespaces() as namespaces:
                namespaces.enter(namespace)
                with open_etc(namespaces) as etc:
                    tree = opened.add(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=etc))
        except OSError as error:
            problem = f"the new one cannot be opened: {error.strerror}"
            raise ConfextError(problem, hint="reload again") from error
        yield tree


def is_etc(mounts: list[Mount], number: int) -> bool:
    """Whether a mount can be what is seen at the `/etc` of a stage.

    Args:
        mounts: those of the stage.
        number: the ID of the mount that is seen there.
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
    # What is below the files of a layer cannot be exchanged with anything.
    return not any(mount.type in _API_TYPES for mount in (above if above[0] in stacks else above + below))
