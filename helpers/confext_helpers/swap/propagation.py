# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keep a change of mounts from propagating out of the service's own mount namespace.

A mount on a shared mount propagates to its peers and slaves: mount_namespaces(7). Processes of the service may have
made other namespaces, and these must not get the new `/etc`. One more would pile up there with each reload and keep
images in use. It could also be unmounted: the kernel locks only the mounts that a namespace has from its beginning
(user_namespaces(7)).

So during a change the mount is made a slave. A detached copy takes its place in the peer group, so the group and its
slaves stay, and the mount still gets what the host mounts. Afterwards the mount joins the group again: move_mount(2),
"MOVE_MOUNT_SET_GROUP", Linux 5.15. Only a private mount can join a group, so between two system calls it is private.

A mount below another one on the same directory cannot be reached by a path. If such a mount would propagate (the host
has its own mount on `/etc`), all mounts are made slaves, and then shared again. That makes new peer groups, without
slaves.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from confext_helpers.service.notes import Propagation
from confext_helpers.system import syscalls
from confext_helpers.system.descriptors import Descriptors
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
    """The propagation of `mount` now."""
    return Propagation(mount.id, mount.shared, mount.master)


@contextlib.contextmanager
def withheld(fd: int) -> Iterator[None]:
    """Within the with statement, no change on the shared mount whose root is `fd` propagates.

    Raises:
        OSError: the kernel does not support this; nothing was changed.
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
    """Try whether a mount can join a peer group, with copies that nobody else sees. Raises OSError."""
    with Descriptors() as opened:
        copies = [opened.add(syscalls.open_tree(fd, "", OPEN_TREE_CLONE)) for _ in range(2)]
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
    """Within the with statement, no change on a mount propagates.

    Args:
        mounts: the mounts of the namespace that this process is in.
        number: the ID of the mount.

    Raises:
        OSError: the kernel does not support this; nothing was changed.
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
    """The present propagation of each mount that quiet() would change, if called for each of `numbers`."""
    found = [mount for mount in mounts if mount.id in numbers and mount.shared]
    for mount in found:
        fd = open_root(namespaces, mount)
        if fd is None:
            return [of(mount) for mount in mounts]
        os.close(fd)
    return [of(mount) for mount in found]


def open_root(namespaces: Namespaces, mount: Mount) -> int | None:
    """Open (O_PATH) the root of a mount of this namespace; None if another mount hides it."""
    try:
        fd = os.open(mount.point, _PATH | os.O_NOFOLLOW)
    except OSError:
        return None
    with Descriptors() as opened:
        opened.add(fd)
        if namespaces.mount_of(fd) != mount.id:
            return None
        opened.pop_all()
    return fd


def restore(namespaces: Namespaces, service: int | None, wanted: list[Propagation]) -> None:
    """Restore the propagation of mounts in the namespace that this process is in.

    Args:
        service: descriptor of that namespace, if a mount may have lost its master as well; otherwise None.
        wanted: the propagation to restore; mounts that are gone are ignored.
    """
    mounts = {mount.id: mount for mount in namespaces.mounts()}
    changed = [(mounts[old.mount], old) for old in wanted if old.mount in mounts]
    changed = [(mount, old) for mount, old in changed if old.shared != mount.shared]
    with Descriptors() as opened:
        roots: dict[int, int | None] = {}
        for mount, _ in changed:
            roots[mount.id] = fd = open_root(namespaces, mount)
            if fd is not None:
                opened.add(fd)
        if any(root is None for root in roots.values()):
            # Some cannot be reached by a path: make all mounts shared, then undo that where a mount was not.
            root = opened.add(os.open("/", _PATH))
            syscalls.mount_setattr(root, "", propagation=MS_SHARED, flags=AT_RECURSIVE)
            changed = [(mounts[old.mount], old) for old in wanted if old.mount in mounts and not old.shared]
            for mount, _ in changed:
                roots[mount.id] = fd = open_root(namespaces, mount)
                if fd is not None:
                    opened.add(fd)
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
    """Make the private mount whose root is `fd` a slave of the peer group `master` of a mount of the host's."""
    namespaces.leave()
    host = None
    for mount in namespaces.mounts():
        if mount.group == master and host is None:
            host = open_root(namespaces, mount)
    namespaces.enter(service)
    if host is None:
        return
    try:
        # A copy joins the host's group, not the mount itself, which could propagate to the host in between.
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
