# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where an old `/etc` is buried: moved to as a whole, and unmounted there as a whole.

MNT_DETACH takes a tree apart. A process may be in a directory of the old `/etc`, or hold one open, and what
InaccessiblePaths= hides would be there to be read in it. rmdir(2) of a mount point of another namespace (Linux 3.18)
unmounts what is on it as well, but keeps the tree together for those who still use it. It takes an empty directory,
and that is what a service which can write there could prevent.

So the grave is in a file system of its own, a tmpfs that the service never gets to write to. That is mounted on a
directory in the service's own `/run`, of a new name each time, which is made by way of a private, writable copy of that
mount: in the service's view it may be read-only. The grave is removed through a writable copy of the tmpfs, from
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

GRAVEYARDS = ("/run", "/tmp", "/dev")
_HOLE = "etc"
_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def new_name() -> str:
    """A name that nobody can have foreseen."""
    return f".unit-confext-{os.urandom(8).hex()}"


class Grave:
    """A directory that a tree can be moved to; at the end of the with statement it goes away, with what is in it.

    Args:
        namespaces: who moves us; we are at home in the end.
        service: descriptor of the mount namespace that it is in.
        name: of it; see new_name().

    Attributes:
        name: of it.
        hole: descriptor of it; None if it was not made, or could not be.
        left: what had to be left behind in that namespace, in the end; an empty text if nothing.
    """

    def __init__(self, namespaces: Namespaces, service: int, name: str) -> None:
        self.name = name
        self.hole: int | None = None
        self.left = ""
        self._namespaces = namespaces
        self._service = service
        self._place = ""
        self._yard: int | None = None
        self._tomb: int | None = None
        self._inside: int | None = None

    def __enter__(self) -> Grave:
        return self

    def __exit__(self, *exc: object) -> None:
        self.left = self._fill()

    def dig(self, mounts: list[Mount]) -> None:
        """Make it, in the mount namespace that this process is in and of which `mounts` are the mounts."""
        for parent in GRAVEYARDS:
            if self.hole is None:
                with contextlib.suppress(OSError):
                    self._dig(mounts, parent)

    def _dig(self, mounts: list[Mount], parent: str) -> None:
        yard = _writable(parent)
        try:
            os.mkdir(self.name, 0o700, dir_fd=yard)
        except OSError:
            os.close(yard)
            raise
        self._close(self._yard)
        self._yard, self._place = yard, f"{parent}/{self.name}"
        point = os.open(self._place, _PATH)
        try:
            if not os.path.samestat(os.fstat(point), os.stat(self.name, dir_fd=yard, follow_symlinks=False)):
                return
            tomb = syscalls.fsmount("tmpfs", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
            try:
                os.chmod(".", 0o700, dir_fd=tomb)
                os.mkdir(_HOLE, 0o700, dir_fd=tomb)
                syscalls.mount_setattr(tomb, "", attributes=MOUNT_ATTR_RDONLY)
                with propagation.quiet(self._namespaces, mounts, self._namespaces.mount_of(point)):
                    syscalls.move_mount(tomb, point, 0)
            except OSError:
                os.close(tomb)
                raise
            self._open(tomb)
        finally:
            os.close(point)

    def find(self, mounts: list[Mount]) -> None:
        """Find what a process has made that was killed, whatever of it there is."""
        for parent in GRAVEYARDS:
            place = f"{parent}/{self.name}"
            with contextlib.suppress(OSError):
                os.stat(place, follow_symlinks=False)
                self._close(self._yard)
                self._yard, self._place = _writable(parent), place
                on_it = next((mount for mount in mounts if mount.point == place and mount.type == "tmpfs"), None)
                tomb = propagation.open_root(self._namespaces, on_it) if on_it is not None else None
                if tomb is not None:
                    self._open(tomb)

    def _open(self, tomb: int) -> None:
        self._tomb = tomb
        self._inside = _writable(tomb)
        self.hole = os.open(_HOLE, _PATH, dir_fd=tomb)

    def _fill(self) -> str:
        """Go home, and remove it and what is mounted on it; return what had to be left behind."""
        self._namespaces.leave()
        self._close(self.hole)
        try:
            if self._inside is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(_HOLE, dir_fd=self._inside)
            if self._tomb is not None:
                self._namespaces.enter(self._service)
                try:
                    os.fchdir(self._tomb)
                    syscalls.umount2(".", MNT_DETACH | UMOUNT_NOFOLLOW)
                finally:
                    self._namespaces.leave()
            if self._yard is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(self.name, dir_fd=self._yard)
        except OSError:
            return self._place
        finally:
            for fd in (self._inside, self._tomb, self._yard):
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
