# SPDX-License-Identifier: LGPL-2.1-or-later
"""The detach point: the directory that an old `/etc` is moved to as a whole, and unmounted from as a whole.

MNT_DETACH takes a tree apart: a process that works in a directory of the old `/etc`, or has one open, could then read
what InaccessiblePaths= hid there. rmdir(2) of a mount point, called in another namespace (Linux 3.18), unmounts as
well, but keeps the tree together for those who still use it. It fails if the directory is not empty, so the service
must not be able to write to the directory.

So the detach point is in a tmpfs of its own, which the service can never write to. The tmpfs is mounted on a directory
in the service's own `/run`, with a new name each time; a private, writable copy of that mount is used to create the
directory, since `/run` may be read-only in the service. The detach point is removed through a writable copy of the
tmpfs, from outside of the service's namespace. Then the tmpfs is unmounted, and the directory in `/run` removed. If the
service was quick enough to put something into that directory, it stays, with nothing mounted on it.
"""

from __future__ import annotations

import contextlib
import os

from confext_helpers.swap import propagation
from confext_helpers.system import syscalls
from confext_helpers.system.mountinfo import Mount
from confext_helpers.system.namespaces import Namespaces
from confext_helpers.system.syscalls import (
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    OPEN_TREE_CLONE,
    UMOUNT_NOFOLLOW,
)

PARENTS = ("/run", "/tmp", "/dev")
_TARGET = "etc"
_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def new_name() -> str:
    """A name that nobody can foresee."""
    return f".unit-confext-{os.urandom(8).hex()}"


class DetachPoint:
    """A directory to move a tree to; the end of the with statement removes it, and unmounts the tree.

    Args:
        namespaces: after the with statement, this process is in its own mount namespace again.
        service: descriptor of the mount namespace that the directory is in.
        name: of the directory, from new_name().

    Attributes:
        name: of the directory.
        target: descriptor of the directory; None if it does not exist.
        left: after the with statement, the path of a directory that could not be removed; empty if none.
    """

    def __init__(self, namespaces: Namespaces, service: int, name: str) -> None:
        self.name = name
        self.target: int | None = None
        self.left = ""
        self._namespaces = namespaces
        self._service = service
        self._place = ""
        self._parent: int | None = None
        self._tmpfs: int | None = None
        self._writable_tmpfs: int | None = None

    def __enter__(self) -> DetachPoint:
        return self

    def __exit__(self, *exc: object) -> None:
        self.left = self._remove()

    def create(self, mounts: list[Mount]) -> None:
        """Create the directory in the mount namespace that this process is in; `mounts` are its mounts."""
        for parent in PARENTS:
            if self.target is None:
                with contextlib.suppress(OSError):
                    self._create_in(mounts, parent)

    def _create_in(self, mounts: list[Mount], parent: str) -> None:
        above = _writable(parent)
        try:
            os.mkdir(self.name, 0o700, dir_fd=above)
        except OSError:
            os.close(above)
            raise
        self._close(self._parent)
        self._parent, self._place = above, f"{parent}/{self.name}"
        point = os.open(self._place, _PATH)
        try:
            if not os.path.samestat(os.fstat(point), os.stat(self.name, dir_fd=above, follow_symlinks=False)):
                return
            tmpfs = syscalls.fsmount("tmpfs", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
            try:
                os.chmod(".", 0o700, dir_fd=tmpfs)
                os.mkdir(_TARGET, 0o700, dir_fd=tmpfs)
                syscalls.mount_setattr(tmpfs, "", attributes=MOUNT_ATTR_RDONLY)
                with propagation.quiet(self._namespaces, mounts, self._namespaces.mount_of(point)):
                    syscalls.move_mount(tmpfs, point, 0)
            except OSError:
                os.close(tmpfs)
                raise
            self._open(tmpfs)
        finally:
            os.close(point)

    def find(self, mounts: list[Mount]) -> None:
        """Find what is there of the directory that a killed hook created."""
        for parent in PARENTS:
            place = f"{parent}/{self.name}"
            with contextlib.suppress(OSError):
                os.stat(place, follow_symlinks=False)
                self._close(self._parent)
                self._parent, self._place = _writable(parent), place
                on_it = next((mount for mount in mounts if mount.point == place and mount.type == "tmpfs"), None)
                tmpfs = propagation.open_root(self._namespaces, on_it) if on_it is not None else None
                if tmpfs is not None:
                    self._open(tmpfs)

    def _open(self, tmpfs: int) -> None:
        self._tmpfs = tmpfs
        self._writable_tmpfs = _writable(tmpfs)
        self.target = os.open(_TARGET, _PATH, dir_fd=tmpfs)

    def _remove(self) -> str:
        """Leave the service's mount namespace, remove the directory with what is mounted on it; return `left`."""
        self._namespaces.leave()
        self._close(self.target)
        try:
            if self._writable_tmpfs is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(_TARGET, dir_fd=self._writable_tmpfs)
            if self._tmpfs is not None:
                self._namespaces.enter(self._service)
                try:
                    os.fchdir(self._tmpfs)
                    syscalls.umount2(".", MNT_DETACH | UMOUNT_NOFOLLOW)
                finally:
                    self._namespaces.leave()
            if self._parent is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(self.name, dir_fd=self._parent)
        except OSError:
            return self._place
        finally:
            for fd in (self._writable_tmpfs, self._tmpfs, self._parent):
                self._close(fd)
        return ""

    @staticmethod
    def _close(fd: int | None) -> None:
        if fd is not None:
            os.close(fd)


def _writable(place: str | int) -> int:
    """A private, writable copy of the mount at a path, or of the mount whose root is a descriptor."""
    if isinstance(place, str):
        copy = syscalls.open_tree(syscalls.AT_FDCWD, place, OPEN_TREE_CLONE)
    else:
        copy = syscalls.open_tree(place, "", OPEN_TREE_CLONE)
    try:
        syscalls.mount_setattr(copy, "", cleared=MOUNT_ATTR_RDONLY)
    except OSError:
        os.close(copy)
        raise
    return copy
