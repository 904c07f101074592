# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prepare the future `/etc` of a service: build it, decide whether to refuse it, and find what it would change.

The cheap steps come first, and those that read all files last. Nothing that the service sees is changed.
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

_WORKS_BELOW = "works in a directory below /etc, where it still sees the old files"


class Present(NamedTuple):
    """A service before a transaction.

    Attributes:
        unit: the name of the service.
        properties: of the service.
        processes: one for each mount namespace that gets a new `/etc`.
        last: the note of the last swap; None if the processes were others then.
        fingerprint: of what the next `/etc` would be made of.
    """

    unit: str
    properties: ServiceProperties
    processes: list[Process]
    last: LastSwap | None
    fingerprint: Fingerprint

    @property
    def is_up_to_date(self) -> bool:
        """Whether it is certain that the next `/etc` would be the present one."""
        return self.last is not None and self.last.settled and self.last.fingerprint.is_same(self.fingerprint)


class Prepared:
    """A future `/etc`.

    Attributes:
        present: the service.
        stage: the stage that has the future `/etc`.
        found: what a swap would change.
        settled: whether an equal fingerprint will prove that nothing changed since.
        refused: why the future `/etc` must not be put in place; None if it may be.

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
        """Return the stage. From now on, the caller has to close it."""
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
        unit: the name of the service.
        properties: of the service.
        processes: one for each mount namespace of the service.
        last: the note of the last swap, for whichever processes.
        files: gets all files that the fingerprint depends on.
    """
    found = fingerprint.of(properties, files)
    if last is not None and last.processes != [process.key for process in processes]:
        last = None
    return Present(unit, properties, processes, last, found)


@contextlib.contextmanager
def prepare(
    manager: ServiceManager, present: Present, listener: Listener, *, run_checks: bool = True, show: bool = False
) -> Iterator[Prepared]:
    """Build the future `/etc` of a service, decide whether to refuse it, and compare it; discard it at the end.

    Args:
        present: the service, from look().
        listener: told about the steps.
        run_checks: whether to run the service's own checks.
        show: whether to list all changes, even if the future `/etc` is refused.

    Raises:
        ConfextError: the future `/etc` is refused; with `show`, only if there is nothing to compare.
    """
    unit, properties, processes = present.unit, present.properties, present.processes
    _refuse_at_once(present, listener)
    listener.begin(Step.CHECKS)
    wanted = checks.read(manager, unit)
    listener.begin(Step.STAGE)
    # systemd does not check the names of these layers' release files, so check them once the stage is up.
    unchecked = [layer for layer in properties.layers if not has_strict_name(layer)]
    pending = transient.begin(manager, unit, properties, processes[0].namespace)
    manager.disconnect()
    # Load what is needed next while systemd builds the stage.
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
    """Refuse what can be refused without a stage. A layer that others can write must not even be mounted."""
    unit, properties, processes = present.unit, present.properties, present.processes
    if properties.root_ephemeral:
        raise ConfextError("RootEphemeral=yes services cannot be re-stacked", hint="restart it instead")
    kept = {pid: _WORKS_BELOW for pid in check_directories(properties, processes)}
    kept |= strangers(unit, properties, processes)
    if kept:
        listener.keeps(kept)
    from confext_helpers.stage import limits, writers  # Only needed if something changed.

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
    """Refuse a future `/etc` that is built; return `settled` of Prepared."""
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
    # If the fingerprint is still the same, the stage has, and the checks saw, what was looked at first.
    after = fingerprint.of(properties)
    # Leave the base out: the host's own /etc is written to all the time.
    changed = not after._replace(base=before.base).is_same(before)
    checked = run_checks and wanted is not None and bool(wanted.commands)
    if (signed and after.layers != before.layers) or (checked and changed):
        raise ConfextError("its layers changed while they were checked", hint="reload again")
    return after.is_same(before) and before.settled
