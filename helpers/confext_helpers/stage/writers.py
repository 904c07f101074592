# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who can write what a service gets as its configuration: asked when a layer is used.

The generator asks that too (access.py there), but it runs before file systems are mounted, and what it has found out
may be true no longer: a directory was given away, a file is gone and its name is another user's to take. So the hook
asks before systemd builds the new stack and once more after it, and unit-confext-access@.service asks right before the
service starts.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from confext_generator.access import Access
from confext_generator.constants import ROOTS_ALONE
from confext_generator.tree import Tree
from confext_helpers.errors import ConfextError
from confext_helpers.image.naming import resolve
from confext_helpers.paths import sidecars
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.system import patience

if TYPE_CHECKING:
    from confext_helpers.system.manager import ServiceManager

_INTERVAL_SEC = 0.1
_ANSWER_SEC = 10.0


def check(properties: ServiceProperties, root: str = "") -> None:
    """Refuse layers that others than root can write, or put something else in the place of.

    Args:
        properties: those that it has.
        root: where its layers are; for tests.

    Raises:
        ConfextError: there is such a layer.
    """
    judge = Access(Tree(os.fsencode(root)))
    for layer in properties.layers:
        file = resolve(layer)
        for path in (layer, file) if file != layer else (layer,):
            _check(judge, layer, path)
        for path in sidecars(file):
            _check(judge, layer, path)


def _check(judge: Access, layer: str, path: str) -> None:
    try:
        place, status, problem = judge.follow(os.fsencode(path))
    except OSError as error:
        raise ConfextError(f"its layer cannot be looked at: {error.strerror}", path=layer) from error
    if not problem and status is not None:
        problem = judge.problem(status, place)
    if problem:
        what = "its layer" if path == layer else f"{os.path.basename(path)} of its layer"
        raise ConfextError(f"{what} {problem}", path=layer, hint=f"{ROOTS_ALONE}, or take it away")


def check_before_start(unit: str, manager: ServiceManager, timeout_sec: float) -> None:
    """Do what check() does, once all file systems that the service waits for are mounted, or could not be.

    This runs before the service starts and after nothing at all: which file systems that service waits for is
    something that a unit cannot say of another one.

    Args:
        unit: the service.
        manager: to ask.
        timeout_sec: how long to wait for file systems.

    Raises:
        ConfextError: as check(), or the time is over, or storage does not answer.
    """
    deadline = time.monotonic() + timeout_sec
    mounts = {name for name in manager.ordered_after(unit) if name.endswith((".mount", ".automount"))}
    while waiting := mounts & manager.units_with_jobs():
        if time.monotonic() > deadline:
            problem = f"its layers cannot be looked at, {min(waiting)} is still being mounted"
            raise ConfextError(problem, hint="start it again when it is")
        time.sleep(_INTERVAL_SEC)
    properties = ServiceProperties(manager.service_properties(unit))
    try:
        patience.attempt(lambda: check(properties), _ANSWER_SEC)
    except TimeoutError as error:
        problem = "its layers cannot be looked at, what they are on does not answer"
        raise ConfextError(problem, hint="start it again when it does, or take them away") from error
