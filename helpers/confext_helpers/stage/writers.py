# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check who can write the layers of a service, at the time when they are used.

The generator checks this, too (access.py there), but before file systems are mounted, and things may change later: a
directory gets another owner, or a file is gone and another user may create one of that name. So the hook checks before
and after systemd builds the new stack, and unit-confext-access@.service checks right before the service starts.
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
    """Refuse layers that others than root can write or replace.

    Args:
        root: the root directory below which the layers are; for tests.

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
        raise ConfextError(f"its layer cannot be checked: {error.strerror}", path=layer) from error
    if not problem and status is not None:
        problem = judge.problem(status, place)
    if problem:
        what = "its layer" if path == layer else f"{os.path.basename(path)} of its layer"
        raise ConfextError(f"{what} {problem}", path=layer, hint=f"{ROOTS_ALONE}, or remove it")


def check_before_start(unit: str, manager: ServiceManager, timeout_sec: float) -> None:
    """Do what check() does, once all mounts that the service is ordered after are done or have failed.

    unit-confext-access@.service cannot be ordered after these mounts: a unit cannot take over the dependencies of
    another one.

    Args:
        timeout_sec: how long to wait for the mounts.

    Raises:
        ConfextError: as check(), or a mount takes too long, or storage does not answer.
    """
    deadline = time.monotonic() + timeout_sec
    mounts = {name for name in manager.ordered_after(unit) if name.endswith((".mount", ".automount"))}
    while waiting := mounts & manager.units_with_jobs():
        if time.monotonic() > deadline:
            problem = f"its layers cannot be checked, since {min(waiting)} is still being mounted"
            raise ConfextError(problem, hint="start the service again when this is done")
        time.sleep(_INTERVAL_SEC)
    properties = ServiceProperties(manager.service_properties(unit))
    try:
        patience.attempt(lambda: check(properties), _ANSWER_SEC)
    except TimeoutError as error:
        problem = "its layers cannot be checked, since their storage does not answer"
        raise ConfextError(problem, hint="start the service again when it answers, or remove the layers") from error
