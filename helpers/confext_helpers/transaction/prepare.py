# SPDX-License-Identifier: LGPL-2.1-or-later
"""All that is asked of the future `/etc` of a service, in order: whether it may be had, and what it would change.

What costs nothing comes first, and what reads all files last. Nothing that the service sees is touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from confext_helpers.checks import run as checks
from confext_helpers.errors import ConfextError
from confext_helpers.image.naming import has_strict_name
from confext_helpers.service import fingerprint
from confext_helpers.service.processes import check_directories, strangers
from confext_helpers.stage import refusals, transient
from confext_helpers.transaction.steps import Step

if TYPE_CHECKING:
    from confext_helpers.checks.section import CheckSettings
    from confext_helpers.service.fingerprint import Fingerprint
    from confext_helpers.service.notes import LastSwap
    from confext_helpers.service.processes import Process
    from confext_helpers.service.properties import ServiceProperties
    from confext_helpers.stage.process import Stage
    from confext_helpers.swap.change import Change
    from confext_helpers.system.filewords import Files
    from confext_helpers.system.manager import ServiceManager
    from confext_helpers.transaction.steps import Listener

_WORKS_BELOW = "works in a directory below /etc, which for it is the old one"


class Present(NamedTuple):
    """A service before a transaction.

    Attributes:
        unit: its name.
        properties: what the manager says about it.
        processes: one for each mount namespace that gets a new `/etc`.
        last: what is noted about the last swap; None if that was not one of these processes.
        fingerprint: of what its next `/etc` would be made of.
    """

    unit: str
    properties: ServiceProperties
    processes: list[Process]
    last: LastSwap | None
    fingerprint: Fingerprint

    @property
    def is_up_to_date(self) -> bool:
        """Whether it is proved that its next `/etc` would be the one that it has."""
        return self.last is not None and self.last.settled and self.last.fingerprint.is_same(self.fingerprint)


class Prepared:
    """A future `/etc`.

    Attributes:
        present: the service that it is for.
        stage: what has it.
        found: what it would change.
        settled: whether every change of what it is made of, from now on, would be seen.
        refused: why it may not be put in place; None if it may.

    Args:
        held: closes the stage at the end of prepare().
    """

    def __init__(self, present: Present, stage: Stage, held: contextlib.ExitStack) -> None:
        self.present = present
        self.stage = stage
        self.found: Change | None = None
        self.settled = False
        self.refused: ConfextError | None = None
        self._held = held

    def take_stage(self) -> Stage:
        """Return the stage; from now on it is the caller's to close."""
        self._held.pop_all()
        return self.stage


def look(
    unit: str,
    properties: ServiceProperties,
    processes: list[Process],
    last: LastSwap | None,
    files: Files | None = None,
) -> Present:
    """Look at what the next `/etc` of a service would be made of.

    Args:
        unit: its name.
        properties: what the manager says about it.
        processes: one for each of its mount namespaces.
        last: what is noted about the last swap, whichever processes that was for.
        files: gets what was looked at.
    """
    found = fingerprint.of(properties, files)
    if last is not None and last.processes != [process.key for process in processes]:
        last = None
    return Present(unit, properties, processes, last, found)


@contextlib.contextmanager
def prepare(
    manager: ServiceManager, present: Present, listener: Listener, *, run_checks: bool = True, show: bool = False
) -> Iterator[Prepared]:
    """Build the future `/etc` of a service, judge it and compare it; throw it away at the end.

    Args:
        manager: who builds it.
        present: the service.
        listener: who is told about it.
        run_checks: whether the service's own checks are run.
        show: what would change is wanted even if it is refused, and all of it.

    Raises:
        ConfextError: it is refused; with `show`, only if there is nothing to be compared.
    """
    unit, properties, processes = present.unit, present.properties, present.processes
    _refuse_at_once(present, listener)
    listener.begin(Step.CHECKS)
    wanted = checks.read(manager, unit)
    listener.begin(Step.STAGE)
    # Release files of what is not there by now are to be looked at when the stage has it.
    unchecked = [layer for layer in properties.layers if not has_strict_name(layer)]
    pending = transient.begin(manager, unit, properties, processes[0].namespace)
    manager.disconnect()
    # While systemd builds it, there is time to load what is needed next, and only if there is something to do.
    from confext_helpers.swap import change, exchange  # noqa: F401

    with contextlib.ExitStack() as held:
        prepared = Prepared(present, held.enter_context(pending.wait(manager)), held)
        manager.disconnect()
        try:
            prepared.settled = _judge(manager, prepared, unchecked, wanted, listener, run_checks=run_checks)
        except ConfextError as error:
            if not show:
                raise
            prepared.refused = error
        try:
            limit = None if show else change.FILES_MAX
            prepared.found = change.find(
                properties, processes[0], prepared.stage.namespace, present.fingerprint, present.last, limit
            )
        except ConfextError:
            if prepared.refused is not None:
                raise prepared.refused from None
            raise
        yield prepared


def _refuse_at_once(present: Present, listener: Listener) -> None:
    """What needs no stage to be refused. What others can write is not even mounted."""
    unit, properties, processes = present.unit, present.properties, present.processes
    if properties.root_ephemeral:
        raise ConfextError("RootEphemeral=yes services cannot be re-stacked", hint="restart it instead")
    kept = {pid: _WORKS_BELOW for pid in check_directories(properties, processes)}
    kept |= strangers(unit, properties, processes)
    if kept:
        listener.keeps(kept)
    from confext_helpers.stage import limits, writers  # Only needed where something changed.

    limits.check(properties, processes, present.last)
    writers.check(properties)
    layers = properties.layers
    refusals.check_picked(unit, layers)
    refusals.check_directories(properties.directory_layers, properties.extension_image_policy)
    for layer in layers:
        refusals.check_whole(layer)


def _judge(
    manager: ServiceManager,
    prepared: Prepared,
    unchecked: list[str],
    wanted: CheckSettings | None,
    listener: Listener,
    *,
    run_checks: bool,
) -> bool:
    """Refuse a future `/etc` that is there; return whether any change of it from now on would be seen."""
    from confext_helpers.stage import writers

    unit, properties, _, _, before = prepared.present
    listener.begin(Step.CHECKS)
    if wanted is not None:
        listener.warns(wanted.warnings)
        if run_checks:
            checks.run(manager, unit, properties, wanted)
    listener.begin(Step.COMPARE)
    writers.check(properties)
    refusals.check_releases(unchecked, prepared.stage.namespace)
    signed = refusals.check_signers(properties.layers, properties.extension_image_policy)
    # What was looked at first is what the stage has, and was checked, unless it changed meanwhile.
    after = fingerprint.of(properties)
    # The host's own /etc is written to all the time, and not only through what is looked up anew.
    changed = not after._replace(base=before.base).is_same(before)
    checked = run_checks and wanted is not None and bool(wanted.commands)
    if (signed and after.layers != before.layers) or (checked and changed):
        raise ConfextError("its layers changed while they were checked", hint="reload again")
    return after.is_same(before) and before.settled
