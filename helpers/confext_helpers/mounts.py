"""What is mounted on `/etc` in a mount namespace, and how one `/etc` takes the place of another.

Several mounts can sit on one directory; only the topmost is seen. They are called a *chain* here, bottom to top. In
a service's namespace the chain at `/etc` is whatever the host has there (usually nothing: `/etc` is part of the root
file system), then what systemd put there for the service: the overlay of its confexts, or a bind mount that makes
it read-only. Everything that the sandbox mounted below `/etc` hangs on the topmost of them.

The stage (stage.py) has the chain that the service would have after a restart. Its topmost mount is copied with all
that hangs on it (open_tree(2)), and then one of four things happens in the service's namespace (`Shape`). Whatever
has to be attached is attached in one system call, beneath the old mount or on top of it, and whatever has to go
goes in one; a reader sees the old tree or the new one. move_mount(2), "MOVE_MOUNT_BENEATH", Linux 6.5.

How the old tree goes matters. A process may be in a directory of it, or hold one open, and MNT_DETACH takes a tree
apart: what InaccessiblePaths= hides would be there to be read in the old directory. So a tree with anything mounted in
it is moved whole to its *grave*, an empty directory in the service's own `/run`, and that directory is removed from
outside of the service's namespace. The kernel then unmounts what is on it, but keeps the tree together (rmdir(2) of a
mount point of another namespace, Linux 3.18).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from confext_helpers import syscalls
from confext_helpers.syscalls import (
    AT_FDCWD,
    AT_RECURSIVE,
    CLONE_NEWNS,
    MNT_DETACH,
    MOVE_MOUNT_BENEATH,
    MS_SHARED,
    MS_SLAVE,
    OPEN_TREE_CLONE,
    UMOUNT_NOFOLLOW,
)

ETC = "/etc"
GRAVEYARDS = ("/run", "/tmp", "/dev")


class Mount(NamedTuple):
    """One line of /proc/PID/mountinfo: proc_pid_mountinfo(5)."""

    id: int
    parent: int
    device: str
    root: str
    point: str
    options: str
    shared: bool
    type: str
    source: str
    super_options: str

    def is_extension_overlay(self) -> bool:
        """Whether systemd made this from ExtensionImages= or ExtensionDirectories=."""
        return self.type == "overlay" and "/unit-extensions/" in self.super_options


class Shape(StrEnum):
    """What has to happen in the service's namespace."""

    NOTHING = "nothing"
    ON_TOP = "on top"
    REPLACE = "replace"
    TAKE_AWAY = "take away"


def read_mountinfo(file: str | int) -> list[Mount]:
    """The mounts in a mountinfo file: its path, or a descriptor, which is closed."""
    with open(file, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        return parse_mountinfo(lines.read())


def parse_mountinfo(text: str) -> list[Mount]:
    """Parse the content of a mountinfo file.

    The kernel escapes no more than a space, a tab, a newline and a backslash, so no other character ends a line.
    """
    mounts = []
    for line in filter(None, text.split("\n")):
        left, _, right = line.partition(" - ")
        number, parent, device, root, point, options, *optional = left.split(" ")
        shared = any(field.startswith("shared:") for field in optional)
        words = (root, point, options, *right.split(" ")[:3])
        if "\\" in line:
            words = tuple(map(_unescape, words))
        root, point, options, kind, source, super_options = words
        mounts.append(
            Mount(int(number), int(parent), device, root, point, options, shared, kind, source, super_options)
        )
    return mounts


def _unescape(word: str) -> str:
    # Every backslash begins an escape, so that of the backslash itself has to come last.
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(escape, character)
    return word


def chain(mounts: list[Mount], point: str = ETC) -> list[Mount]:
    """The mounts that sit on the directory `point` itself, bottom to top."""
    found = {mount.id: mount for mount in mounts if mount.point == point}
    ordered = [mount for mount in found.values() if mount.parent not in found]
    while ordered and (above := [mount for mount in found.values() if mount.parent == ordered[-1].id]):
        ordered.append(above[0])
    return ordered


def tree(mounts: list[Mount], level: int, point: str = ETC) -> list[tuple[str, ...]]:
    """What is seen at and below `point` when the first `level` mounts of its chain are all there are.

    One tuple for each mount (place, device, root, options, file system type), sorted. Two equal trees show the same
    files, since a device and a root within it name the same directory.
    """
    parents = {mount.id: mount.parent for mount in mounts}
    levels = {mount.id: position for position, mount in enumerate(chain(mounts, point), 1)}

    def level_of(mount: int) -> int:
        while mount not in levels and mount in parents:
            mount = parents[mount]
        return levels.get(mount, 0)

    return sorted(
        (mount.point, mount.device, mount.root, mount.options, mount.type)
        for mount in mounts
        if (mount.point == point or mount.point.startswith(point + "/")) and level_of(mount.id) == level
    )


def plan(service: list[Mount], stage: list[Mount], point: str = ETC) -> Shape:
    """Decide how the stage's tree at `point` gets into the service's namespace."""
    have, want = chain(service, point), chain(stage, point)
    wanted = tree(stage, len(want), point)
    if tree(service, len(have), point) == wanted:
        return Shape.NOTHING
    if len(have) < len(want) or not have:
        return Shape.ON_TOP
    # What was there before any of our swaps may be just what is wanted now: then nothing new is needed over it.
    # Not where something is mounted in the old tree: it cannot be moved off a mount that is not ours, see swap().
    bare = len(tree(service, len(have), point)) == 1
    if bare and len(have) == len(want) + 1 and tree(service, len(want), point) == wanted:
        return Shape.TAKE_AWAY
    return Shape.REPLACE


class Namespaces:
    """Moves this (single-threaded) process between mount namespaces, and back home in the end."""

    def __init__(self) -> None:
        self._home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        # The namespaces entered may have no /proc, or show another one.
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Namespaces:
        return self

    def __exit__(self, *exc: object) -> None:
        self.leave()
        os.close(self._home)
        os.close(self._proc)

    def leave(self) -> None:
        """Go home."""
        syscalls.setns(self._home, CLONE_NEWNS)

    def enter(self, namespace: int) -> None:
        """Enter the mount namespace `namespace` (a descriptor)."""
        syscalls.setns(namespace, CLONE_NEWNS)

    def mounts(self) -> list[Mount]:
        """The mounts in the namespace that this process is in."""
        return read_mountinfo(os.open("self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc))


class Tree(NamedTuple):
    """A detached copy of a stage's `/etc`: the descriptor of it, and the mounts of the namespace it is from."""

    fd: int
    mounts: list[Mount]


def copy_tree(namespaces: Namespaces, stage: int, nosuid: list[str]) -> Tree:
    """Copy `/etc` as it is in the namespace `stage`, with every mount below it.

    Args:
        namespaces: who moves us.
        stage: descriptor of the stage's mount namespace.
        nosuid: paths of mounts below `/etc` that get MOUNT_ATTR_NOSUID first (see stage.py).
    """
    namespaces.enter(stage)
    for path in nosuid:
        syscalls.mount_setattr(AT_FDCWD, path, attributes=syscalls.MOUNT_ATTR_NOSUID)
    return Tree(syscalls.open_tree(AT_FDCWD, ETC, OPEN_TREE_CLONE | AT_RECURSIVE), namespaces.mounts())


class Grave:
    """A directory that a tree can be mounted on, to go away with it.

    It is made in the mount namespace that this process is in, by way of a private, writable copy of the mount: in the
    service's own view of it, `/run` may be read-only. Through that copy it can be removed from anywhere.

    Args:
        name: of the directory, different for each service, since `/run` may be the host's.
    """

    def __init__(self, name: str) -> None:
        self.hole: int | None = None
        self._name = name
        self._parents: list[int] = []
        for parent in GRAVEYARDS:
            if self.hole is None:
                with contextlib.suppress(OSError):
                    self._dig(parent)

    def _dig(self, parent: str) -> None:
        copy = syscalls.open_tree(AT_FDCWD, parent, OPEN_TREE_CLONE)
        self._parents.append(copy)
        syscalls.mount_setattr(copy, "", cleared=syscalls.MOUNT_ATTR_RDONLY)
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._name, 0o700, dir_fd=copy)
        hole = os.open(f"{parent}/{self._name}", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if os.path.samestat(os.fstat(hole), os.stat(self._name, dir_fd=copy, follow_symlinks=False)):
            self.hole = hole
        else:
            os.close(hole)

    def fill(self) -> None:
        """Remove the directory, and unmount what is on it; not to be called in the service's namespace."""
        if self.hole is not None:
            os.close(self.hole)
        for parent in self._parents:
            with contextlib.suppress(OSError):
                os.rmdir(self._name, dir_fd=parent)
            os.close(parent)


def swap(namespaces: Namespaces, service: int, new: Tree, grave: str, announce: Callable[[Mount, int], None]) -> Shape:
    """Put `new` in place of the `/etc` of the namespace `service`; go home.

    Args:
        namespaces: who moves us.
        service: descriptor of the service's mount namespace.
        new: from copy_tree(); attached, hence used up, unless nothing has to be attached.
        grave: a name for the Grave.
        announce: called with the old topmost mount and the length of the chain right before a swap that takes more
            than one system call, so that finish() can complete it if this process dies between them.

    Raises:
        OSError: a system call failed; the service has its old `/etc`.
    """
    namespaces.enter(service)
    mounts = namespaces.mounts()
    shape = plan(mounts, new.mounts)
    if shape is Shape.TAKE_AWAY:
        syscalls.umount2(ETC, MNT_DETACH | UMOUNT_NOFOLLOW)
    if shape in (Shape.NOTHING, Shape.TAKE_AWAY):
        namespaces.leave()
        return shape
    etc = os.open(ETC, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    place = None
    try:
        if shape is Shape.REPLACE:
            old = chain(mounts)
            bare = len(tree(mounts, len(old))) == 1
            place = None if bare else Grave(grave)
            announce(old[-1], len(old))
            if _replace(etc, new.fd, place, _is_parent_shared(mounts)):
                return shape
        # As atomic, and all that there is before Linux 6.5, or where no grave can be dug. The old tree stays below,
        # unseen and whole, until the service stops.
        syscalls.move_mount(new.fd, etc, 0)
    finally:
        os.close(etc)
        namespaces.leave()
        if place is not None:
            place.fill()
    return Shape.ON_TOP


def _replace(etc: int, new: int, place: Grave | None, shared: bool) -> bool:
    """Put the tree `new` beneath that at `etc`, and take that away; return whether this could be done."""
    if place is not None and place.hole is None:
        return False
    try:
        syscalls.move_mount(new, etc, MOVE_MOUNT_BENEATH)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    if place is None:
        syscalls.umount2(ETC, MNT_DETACH | UMOUNT_NOFOLLOW)
    elif place.hole is not None:
        _bury(etc, place.hole, new, shared, 0)
    return True


def _is_parent_shared(mounts: list[Mount], point: str = ETC) -> bool:
    """Whether the mount that `point` belongs to is shared, and with it everything that is attached there."""
    bottom = chain(mounts, point)[0]
    return any(mount.shared for mount in mounts if mount.id == bottom.parent)


def _bury(old: int, hole: int, parent: int, shared: bool, recursive: int) -> None:
    """Move the mount `old` to the directory `hole`.

    No mount can be moved off a shared one. So `parent`, which it is on, is a slave (of nobody, or of its master as
    before) for that moment; with AT_RECURSIVE, every mount below `parent` as well.
    """
    syscalls.mount_setattr(parent, "", propagation=MS_SLAVE, flags=recursive)
    try:
        syscalls.move_mount(old, hole, 0)
    finally:
        if shared:
            syscalls.mount_setattr(parent, "", propagation=MS_SHARED, flags=recursive)


def finish(namespaces: Namespaces, service: int, grave: str, old_top: int, length: int) -> bool:
    """Complete a swap that was cut off between its system calls; go home; return whether there was anything to do.

    Args:
        namespaces: who moves us.
        service: descriptor of the service's mount namespace.
        grave: as for swap().
        old_top: the mount ID that was the topmost when the swap began.
        length: the length of the chain then.
    """
    namespaces.enter(service)
    mounts = namespaces.mounts()
    current = chain(mounts)
    if not current:
        namespaces.leave()
        return False
    shared = _is_parent_shared(mounts)
    # Even if only this is missing: the directory is removed, with what was mounted on it.
    place = Grave(grave)
    etc = os.open(ETC, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        unfinished = len(current) == length + 1 and current[-1].id == old_top
        if not unfinished:
            if shared and not current[-1].shared:
                syscalls.mount_setattr(etc, "", propagation=MS_SHARED)
        elif place.hole is None:
            syscalls.umount2(ETC, MNT_DETACH | UMOUNT_NOFOLLOW)
        else:
            # The mount that it is on is covered and cannot be named, so all are made slaves for a moment.
            root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _bury(etc, place.hole, root, shared, AT_RECURSIVE)
            finally:
                os.close(root)
    finally:
        os.close(etc)
        namespaces.leave()
        place.fill()
    return unfinished
