# SPDX-License-Identifier: LGPL-2.1-or-later
"""The mounts of a mount namespace: proc_pid_mountinfo(5).

Several mounts can be stacked on one directory; only the topmost one is visible. This project calls them a *chain*,
bottom to top.
"""

from __future__ import annotations

from typing import NamedTuple

from confext_helpers.paths import ETC


class Mount(NamedTuple):
    """One line of /proc/PID/mountinfo: proc_pid_mountinfo(5).

    `group` is the peer group of the mount, `master` the peer group that the mount is a slave of; 0 means none.
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
        """Whether systemd made this mount for ExtensionImages= or ExtensionDirectories=."""
        return self.type == "overlay" and "/unit-extensions/" in self.super_options


def read_mountinfo(file: str | int) -> list[Mount]:
    """The mounts in a mountinfo file, given as a path or as a descriptor, which is closed."""
    with open(file, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        return parse_mountinfo(lines.read())


def parse_mountinfo(text: str) -> list[Mount]:
    """Parse the contents of a mountinfo file.

    The kernel escapes only space, tab, newline and backslash, so a line ends at a newline and at no other character.
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
    # Decode the backslash's own escape last, or a decoded backslash would be taken for the beginning of an escape.
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(escape, character)
    return word


def chain(mounts: list[Mount], point: str = ETC) -> list[Mount]:
    """The mounts on the directory `point` itself, bottom to top."""
    found = {mount.id: mount for mount in mounts if mount.point == point}
    ordered = [mount for mount in found.values() if mount.parent not in found]
    while ordered and (above := [mount for mount in found.values() if mount.parent == ordered[-1].id]):
        ordered.append(above[0])
    return ordered
