# SPDX-License-Identifier: LGPL-2.1-or-later
"""How mounts propagate, and how to keep a change of them to the service's own namespace.

What is mounted on a shared mount is propagated to its peers and slaves: mount_namespaces(7). In other namespaces,
which processes of the service have made for themselves, these are not to get a new `/etc`. It would pile up in there,
keep images in use, and could be unmounted: the kernel locks what a namespace has from its beginning, and nothing that
comes later (user_namespaces(7)).

So for the moment of a change the mount is a slave. A detached copy takes its place in the peer group, which therefore
goes on, with whoever is a slave of it; from the group, the mount still gets what the host mounts. Afterwards it joins
the group again: move_mount(2), "MOVE_MOUNT_SET_GROUP", Linux 5.15. A mount can only join if it is private, as it is
between two system calls.

A mount that another one covers cannot be named. Where one of these would propagate (the host has a mount of its own
on `/etc`), all mounts are made slaves, and shared again. Then there are new peer groups, of which nobody is a slave.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from confext_helpers.service.notes import Propagation
from confext_helpers.system import syscalls
from confext_helpers.system.mountinfo import Mount
from confext_helpers.system.namespaces import Namespaces
from confext_helpers.system.syscalls import (
    AT_RECURSIVE,
    MOVE_MOUNT_SET_GROUP,
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
    OPEN_TREE_CLONE,
)

_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def of(mount: Mount) -> Propagation:
    """How `mount` propagates now."""
    return Propagation(mount.id, mount.shared, mount.master)


@contextlib.contextmanager
def withheld(fd: int) -> Iterator[None]:
    """For as long as this lasts, nothing that happens on the shared mount whose root is `fd` is propagated.

    Raises:
        OSError: the kernel cannot do it, and nothing has been done.
    """
    _check_support(fd)
    peer = syscalls.open_tree(fd, "", OPEN_TREE_CLONE)
    try:
        syscalls.mount_setattr(fd, "", propagation=MS_SLAVE)
        try:
            yield
        finally:
            syscalls.mount_setattr(fd, "", propagation=MS_PRIVATE)
            syscalls.move_mount(peer, fd, MOVE_MOUNT_SET_GROUP)
    finally:
        os.close(peer)


def _check_support(fd: int) -> None:
    """See whether a mount can join a group, with copies that nobody else sees."""
    with contextlib.ExitStack() as stack:
        copies = []
        for _ in range(2):
            copies.append(syscalls.open_tree(fd, "", OPEN_TREE_CLONE))
            stack.callback(os.close, copies[-1])
        syscalls.mount_setattr(copies[1], "", propagation=MS_PRIVATE)
        syscalls.move_mount(copies[0], copies[1], MOVE_MOUNT_SET_GROUP)


@contextlib.contextmanager
def _withheld_everywhere(namespaces: Namespaces, mounts: list[Mount]) -> Iterator[None]:
    root = os.open("/", _PATH)
    try:
        syscalls.mount_setattr(root, "", propagation=MS_SLAVE, flags=AT_RECURSIVE)
        try:
            yield
        finally:
            restore(namespaces, None, [of(mount) for mount in mounts])
    finally:
        os.close(root)


@contextlib.contextmanager
def quiet(namespaces: Namespaces, mounts: list[Mount], number: int) -> Iterator[None]:
    """For as long as this lasts, nothing that happens on a mount is propagated.

    Args:
        mounts: those of the namespace that this process is in.
        number: the ID of the mount.

    Raises:
        OSError: the kernel cannot do it, and nothing has been done.
    """
    mount = next((mount for mount in mounts if mount.id == number and mount.shared), None)
    if mount is None:
        yield
        return
    fd = open_root(namespaces, mount)
    if fd is None:
        with _withheld_everywhere(namespaces, mounts):
            yield
        return
    try:
        with withheld(fd):
            yield
    finally:
        os.close(fd)


def touched(namespaces: Namespaces, mounts: list[Mount], numbers: list[int]) -> list[Propagation]:
    """What quiet() changes for a moment if it is called for each of the mounts `numbers`."""
    found = [mount for mount in mounts if mount.id in numbers and mount.shared]
    for mount in found:
        fd = open_root(namespaces, mount)
        if fd is None:
            return [of(mount) for mount in mounts]
        os.close(fd)
    return [of(mount) for mount in found]


def open_root(namespaces: Namespaces, mount: Mount) -> int | None:
    """Open (O_PATH) the root of a mount of this namespace; None if something else is seen where it is."""
    try:
        fd = os.open(mount.point, _PATH | os.O_NOFOLLOW)
    except OSError:
        return None
    if namespaces.mount_of(fd) == mount.id:
        return fd
    os.close(fd)
    return None


def restore(namespaces: Namespaces, service: int | None, wanted: list[Propagation]) -> None:
    """Let mounts of the namespace that this process is in propagate again as they did.

    Args:
        service: descriptor of that namespace, if a mount may have lost its master as well.
        wanted: how they did; those that are gone are passed over.
    """
    mounts = {mount.id: mount for mount in namespaces.mounts()}
    changed = [(mounts[old.mount], old) for old in wanted if old.mount in mounts]
    changed = [(mount, old) for mount, old in changed if old.shared != mount.shared]
    with contextlib.ExitStack() as stack:
        roots: dict[int, int | None] = {}
        for mount, _ in changed:
            roots[mount.id] = fd = open_root(namespaces, mount)
            if fd is not None:
                stack.callback(os.close, fd)
        if any(root is None for root in roots.values()):
            # All, and then those are taken back that were not.
            root = os.open("/", _PATH)
            stack.callback(os.close, root)
            syscalls.mount_setattr(root, "", propagation=MS_SHARED, flags=AT_RECURSIVE)
            changed = [(mounts[old.mount], old) for old in wanted if old.mount in mounts and not old.shared]
            for mount, _ in changed:
                roots[mount.id] = fd = open_root(namespaces, mount)
                if fd is not None:
                    stack.callback(os.close, fd)
        for mount, old in changed:
            fd = roots[mount.id]
            if fd is None:
                continue
            if not old.shared:
                syscalls.mount_setattr(fd, "", propagation=MS_SLAVE if old.master else MS_PRIVATE)
                continue
            if old.master and not mount.master and service is not None:
                _enslave(namespaces, service, fd, old.master)
            syscalls.mount_setattr(fd, "", propagation=MS_SHARED)


def _enslave(namespaces: Namespaces, service: int, fd: int, master: int) -> None:
    """Make the private mount whose root is `fd` a slave of the group `master`, which a mount of the host's is in."""
    namespaces.leave()
    host = None
    for mount in namespaces.mounts():
        if mount.group == master and host is None:
            host = open_root(namespaces, mount)
    namespaces.enter(service)
    if host is None:
        return
    try:
        # By way of a copy, so that nothing is mounted on the host's in between.
        copy = syscalls.open_tree(fd, "", OPEN_TREE_CLONE)
        try:
            syscalls.move_mount(host, copy, MOVE_MOUNT_SET_GROUP)
            syscalls.mount_setattr(copy, "", propagation=MS_SLAVE)
            syscalls.mount_setattr(copy, "", propagation=MS_SHARED)
            syscalls.move_mount(copy, fd, MOVE_MOUNT_SET_GROUP)
        finally:
            os.close(copy)
    finally:
        os.close(host)
