"""What is mounted on `/etc` in a mount namespace, and what has to happen for another `/etc` to take its place.

Several mounts can sit on one directory; only the topmost is seen. They are called a *chain* here, bottom to top. In
a service's namespace the chain at `/etc` is whatever the host has there (usually nothing: `/etc` is part of the root
file system), then what systemd put there for the service: the overlay of its confexts, or a bind mount that makes
it read-only. Everything that the sandbox mounted below `/etc` hangs on the topmost of them.

The stage (stage.py) has the chain that the service would have after a restart. Its topmost mount is copied with all
that hangs on it (open_tree(2)), and then one of four things happens in the service's namespace (`Shape`). Whatever
has to be attached is attached in one system call, beneath the old mount or on top of it, and whatever has to go
goes in one; a reader sees the old tree or the new one. move_mount(2), "MOVE_MOUNT_BENEATH", Linux 6.5.
"""

from __future__ import annotations

import os
from enum import StrEnum
from typing import NamedTuple

from confext_helpers import syscalls
from confext_helpers.syscalls import CLONE_NEWNS

ETC = "/etc"


class Mount(NamedTuple):
    """One line of /proc/PID/mountinfo: proc_pid_mountinfo(5).

    `group` is its peer group, `master` the one that it is a slave of; 0 means none.
    """

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
    group: int = 0
    master: int = 0

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
        tags = dict(field.partition(":")[::2] for field in optional)
        groups = int(tags.get("shared", 0)), int(tags.get("master", 0))
        words = (root, point, options, *right.split(" ")[:3])
        if "\\" in line:
            words = tuple(map(_unescape, words))
        root, point, options, kind, source, super_options = words
        place = (int(number), int(parent), device, root, point, options)
        mounts.append(Mount(*place, groups[0] != 0, kind, source, super_options, *groups))
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

    def mount_of(self, fd: int) -> int:
        """The ID of the mount that the descriptor `fd` is on: proc_pid_fdinfo(5)."""
        number = os.open(f"self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        with open(number, encoding="ascii") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))

    def mounts(self) -> list[Mount]:
        """The mounts in the namespace that this process is in."""
        return read_mountinfo(os.open("self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc))
