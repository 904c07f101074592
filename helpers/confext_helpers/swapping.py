"""One swap, from the stage into one mount namespace of the service, and what becomes of it if the hook is killed.

Between the system calls of a swap (mounts.py) there is a note that tells how to complete it. It is completed by the
recovery of the stage that lost its hook, or by the next hook, whichever comes first.
"""

from __future__ import annotations

import os

from confext_helpers import mounts
from confext_helpers.mounts import Mount, Namespaces
from confext_helpers.notes import Notes, Swap
from confext_helpers.processes import Process
from confext_helpers.stage import Stage


def _grave(unit: str) -> str:
    return f".unit-confext-{unit}"


def swap(unit: str, notes: Notes, process: Process, stage: Stage, nosuid: list[str]) -> None:
    """Give a process of the service `unit` the `/etc` of the stage.

    Args:
        unit: the service.
        notes: about it.
        process: one of the mount namespace that is to get it.
        stage: where it is from.
        nosuid: see mounts.copy_tree().

    Raises:
        OSError: it cannot be done; the process has its old `/etc`.
    """

    def announce(old_top: Mount, length: int) -> None:
        notes.write_swap(Swap(process.key, old_top.id, length))

    with Namespaces() as namespaces:
        tree = mounts.copy_tree(namespaces, stage.namespace, nosuid)
        try:
            mounts.swap(namespaces, process.namespace, tree, _grave(unit), announce)
        finally:
            os.close(tree.fd)
    notes.clear_swap()


def complete(unit: str, notes: Notes, processes: list[Process], swap: Swap) -> bool:
    """Complete a swap that was under way when a hook was killed; return whether there was anything to do."""
    done = False
    for process in processes:
        if process.key == swap.process:
            with Namespaces() as namespaces:
                arguments = (process.namespace, _grave(unit), swap.old_top, swap.length)
                done = mounts.finish(namespaces, *arguments) or done
    notes.clear_swap()
    notes.write_stack(None)
    return done
