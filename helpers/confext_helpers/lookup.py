"""Whether a path in the stage leads where it should: see stage.py.

The stage's program is looked up below the service's root directory, once its mount namespace is complete. Whoever can
change a directory on that way has the say over what is executed, as root. systemd takes the same risk for a service
that runs as root; but the stage does, while the service may not.
"""

from __future__ import annotations

import os

from confext_helpers.bus import Properties
from confext_helpers.errors import ConfextError


def check(unit: str, properties: Properties, path: str) -> None:
    """Refuse a service of which others than root can change where `path` leads in its mount namespace.

    Args:
        unit: the service.
        properties: those that it has.
        path: below its root directory; need not be there yet.

    Raises:
        ConfextError: they can.
    """
    root = str(properties.get("RootDirectory", ("s", ""))[1])
    places = [(root, path)] if root else []
    for name in ("BindPaths", "BindReadOnlyPaths"):
        bound = properties.get(name, ("a(ssbt)", []))[1]
        assert isinstance(bound, list)
        for source, target, *_ in bound:
            if path.startswith(target.rstrip("/") + "/"):
                places.append((source, path.removeprefix(target.rstrip("/"))))
    if not places:
        return
    from confext_generator import access  # Most services have no such place.
    from confext_generator.tree import Tree

    for directory, rest in places:
        end = b""
        for way in (directory, rest):
            try:
                end, _, problem = access.Access(Tree(end)).follow(os.fsencode(way))
            except OSError as error:
                problem = f"cannot be followed: {error.strerror}"
            if problem:
                raise ConfextError(
                    f"the new one cannot be built below a directory that others can change: {way} {problem}",
                    unit=unit,
                    path=directory,
                    hint=f"{access.HINT}, or restart the service instead",
                )
