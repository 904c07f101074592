# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check that only root can change where the path of the stage's program leads: see stage/transient.py.

systemd looks up the stage's program below the service's root directory, once the mount namespace is complete. Whoever
can change a directory on that path decides what is executed. Such a program can do no harm (stage/confinement.py), but
the stage never comes up then. So no stage is started if others than root can change the path.
"""

from __future__ import annotations

import os

from confext_helpers.errors import ConfextError
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.stage import targets
from confext_helpers.stage.targets import Places


def check_path(properties: ServiceProperties, path: str, places: Places | None = None) -> None:
    """Refuse a service if others than root can change where `path` leads in its mount namespace.

    Args:
        path: below the service's root directory; need not exist yet.
        places: where the paths in the properties lead; None to find out.

    Raises:
        ConfextError: others can change that.
    """
    root, image = properties.root_directory, properties.root_image
    ways = [(root, path)] if root else []
    if image:
        ways.append((image, ""))
    mounts = [
        (name, entry)
        for name in ("BindPaths", "BindReadOnlyPaths", "MountImages")
        for entry in properties.entries(name)
    ]
    if mounts:
        if places is None:
            places = Places(properties, None if image else root)
        end = places.follow(path).path
        for name, entry in mounts:
            target = places.follow(entry.target).path
            if end != target and targets.is_within(end, target):
                ways.append((entry.source, "" if name == "MountImages" else end.removeprefix(target.rstrip("/"))))
    if not ways:
        return
    from confext_generator import access  # Most services have neither a root nor mounts of their own.
    from confext_generator.constants import ROOTS_ALONE
    from confext_generator.tree import Tree

    for place, rest in ways:
        end_of_way, status = b"", None
        for way in (place, rest) if rest else (place,):
            judge = access.Access(Tree(end_of_way))
            problem: access.Problem | str | None
            try:
                end_of_way, status, problem = judge.follow(os.fsencode(way))
            except OSError as error:
                problem = f"cannot be followed: {error.strerror}"
            if not problem and not rest and status is not None:
                problem = judge.problem(status, end_of_way)
            if problem:
                raise ConfextError(
                    f"the new /etc cannot be built below a directory that others can change: {way} {problem}",
                    path=place,
                    hint=f"{ROOTS_ALONE}, or restart the service instead",
                )
