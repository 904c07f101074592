# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is mounted on `/etc` in a mount namespace, and what has to happen for another `/etc` to take its place.

Several mounts can sit on one directory; only the topmost is seen. They are called a *chain* here, bottom to top. In
a service's namespace the chain at `/etc` is whatever the host has there (usually nothing: `/etc` is part of the root
file system), then what systemd put there for the service: the overlay of its confexts, or a bind mount that makes
it read-only. Everything that the sandbox mounted below `/etc` hangs on the topmost of them.

The stage (stage/transient.py) has the chain that the service would have after a restart. Its topmost mount is copied
with all that hangs on it (open_tree(2)), and then one of four things happens in the service's namespace (`Shape`).
Whatever has to be attached is attached in one system call, beneath the old mount or on top of it, and whatever has to
go goes in one; a reader sees the old tree or the new one. move_mount(2), "MOVE_MOUNT_BENEATH", Linux 6.5.
"""

from __future__ import annotations

from enum import StrEnum

from confext_helpers.paths import ETC
from confext_helpers.system.mountinfo import Mount, chain


class Shape(StrEnum):
    """What has to happen in the service's namespace."""

    NOTHING = "nothing"
    ON_TOP = "on top"
    REPLACE = "replace"
    TAKE_AWAY = "take away"


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
