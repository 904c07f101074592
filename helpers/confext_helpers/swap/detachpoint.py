# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where an old `/etc` is moved to as a whole, to be unmounted there as a whole.

MNT_DETACH takes a tree apart. A process may be in a directory of the old `/etc`, or hold one open, and what
InaccessiblePaths= hides would be there to be read in it. rmdir(2) of a mount point of another namespace (Linux 3.18)
unmounts what is on it as well, but keeps the tree together for those who still use it. It takes an empty directory,
and that is what a service which can write there could prevent.

So the detach point is in a file system of its own, a tmpfs that the service never gets to write to. That is mounted
on a directory in the service's own `/run`, of a new name each time, which is made by way of a private, writable copy of
that mount: in the service's view it may be read-only. The point is removed through a writable copy of the tmpfs, from
outside of the service's namespace; then the tmpfs is unmounted, and the directory removed. If the service was quick
enough to put something into that, it stays behind, with nothing mounted on it.
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
    """A name that nobody can have foreseen."""
    return f".unit-confext-{os.urandom(8).hex()}"


class DetachPoint:
    """A directory that a tree can be moved to; at the end of the with statement it goes away, with what is in it.

    Args:
        namespaces: who moves us; we are at home in the end.
        service: descriptor of the mount namespace that it is in.
        name: of it; see new_name().

    Attributes:
        name: of it.
        target: descriptor of it; None if it was not made, or could not be.
        left: what had to be left behind in that namespace, in the end; an empty text if nothing.
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
        """Make it, in the mount namespace that this process is in and of which `mounts` are the mounts."""
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
        """Find what a process has made that was killed, whatever of it there is."""
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
        """Go home, and remove it and what is mounted on it; return what had to be left behind."""
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
    """A private copy of the mount at a path, or of the one that a descriptor is the root of, that can be written to."""
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
