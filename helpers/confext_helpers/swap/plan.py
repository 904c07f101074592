# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decide how the stage's `/etc` gets into the service's mount namespace, from what is mounted in both.

The mounts on one directory, bottom to top, are called a *chain*; only the topmost is seen. In a service's namespace the
chain at `/etc` begins with what the host has there (usually nothing: `/etc` is part of the root file system). What
systemd mounted for the service follows: the overlay of its confexts, or a bind mount that makes `/etc` read-only. The
mounts that the sandbox has below `/etc` are children of the topmost mount.

The stage (stage/transient.py) has the chain that a restart would give the service. swap/exchange.py copies its topmost
mount with all children, and then changes the service's namespace in one of four ways (`Shape`).
"""

from __future__ import annotations

from enum import StrEnum

from confext_helpers.paths import ETC
from confext_helpers.system.mountinfo import Mount, chain


class Shape(StrEnum):
    """What has to be done in the service's namespace."""

    NOTHING = "nothing"
    ON_TOP = "on top"
    REPLACE = "replace"
    TAKE_AWAY = "take away"


def tree(mounts: list[Mount], level: int, point: str = ETC) -> list[tuple[str, ...]]:
    """What would be seen at and below `point` if its chain had only the first `level` mounts.

    Returns:
        A tuple for each mount: (mount point, device, root, options, file system type), sorted. Two equal trees show
        the same files, since device and root name the same directory.
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
    """Decide how the stage's tree at `point` replaces the service's."""
    have, want = chain(service, point), chain(stage, point)
    wanted = tree(stage, len(want), point)
    if tree(service, len(have), point) == wanted:
        return Shape.NOTHING
    if len(have) < len(want) or not have:
        return Shape.ON_TOP
    # If the tree below the topmost mount is the wanted one, unmounting the topmost is enough. But a topmost mount with
    # mounts in it has to be moved aside, which is only possible from a mount that the swap itself attached.
    bare = len(tree(service, len(have), point)) == 1
    if bare and len(have) == len(want) + 1 and tree(service, len(want), point) == wanted:
        return Shape.TAKE_AWAY
    return Shape.REPLACE
