# SPDX-License-Identifier: LGPL-2.1-or-later
"""Put a future `/etc` in place, in each mount namespace of its service, and note what it is made of."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from confext_helpers.errors import ConfextError
from confext_helpers.service import fingerprint
from confext_helpers.service.notes import LastSwap, Notes
from confext_helpers.swap import exchange
from confext_helpers.transaction.steps import Step

if TYPE_CHECKING:
    from confext_helpers.system.manager import ServiceManager
    from confext_helpers.transaction.prepare import Prepared
    from confext_helpers.transaction.steps import Listener


def commit(manager: ServiceManager, prepared: Prepared, notes: Notes, listener: Listener) -> bool:
    """Put a future `/etc` in place.

    Args:
        manager: passed on to the listener.
        prepared: from prepare().
        listener: asked before the swap, and told after it.

    Returns:
        Whether an equal fingerprint will prove at the next reload that nothing changed.

    Raises:
        ConfextError: the swap failed; the error says if some mount namespaces have the new `/etc`.
    """
    _, properties, processes, _, future = prepared.present
    assert prepared.found is not None
    listener.may_swap(manager)
    # If the swap fails, the stage is not told to end: it fails without the hook, and its recovery completes the swap.
    stage = prepared.take_stage()
    listener.begin(Step.SWAP)
    notes.write_stack(None)
    nosuid = properties.nosuid_directories
    for number, process in enumerate(processes):
        try:
            left = exchange.swap(notes, process, stage, nosuid)
            if left:
                listener.leaves(left)
        except OSError as error:
            problem = f"the new /etc cannot be put in place: {error.strerror}"
            if number:
                problem = f"only {number} of {len(processes)} mount namespaces have the new /etc: {error.strerror}"
            raise ConfextError(problem, hint="reload again") from error
        listener.swapped()
    stage.close()
    listener.committed(manager)
    looked = fingerprint.file_clock_ns()
    settled = prepared.settled and not fingerprint.is_held_open(properties)
    # If the note cannot be written, the next reload only does more than necessary; never fail this one for that.
    with contextlib.suppress(OSError):
        keys = [process.key for process in processes]
        notes.write_stack(LastSwap(keys, looked // 1000, [*prepared.found.layers.all], future, settled))
    return settled
