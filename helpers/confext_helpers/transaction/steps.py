# SPDX-License-Identifier: LGPL-2.1-or-later
"""The steps of a transaction, and the listener that is told about them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confext_helpers.system.manager import ServiceManager


class Step(StrEnum):
    """The values of CONFEXT_STEP=: the step at which a transaction ended."""

    PREPARE = "prepare"
    STAGE = "stage"
    CHECKS = "checks"
    COMPARE = "compare"
    SWAP = "swap"


class Listener:
    """Is told about the progress of a transaction. This base class ignores everything, and permits the swap."""

    def begin(self, step: Step) -> None:
        """Called when a step begins."""

    def keeps(self, processes: dict[int, str]) -> None:
        """Called if processes of the service will keep their old `/etc`.

        Args:
            processes: the reasons, by PID.
        """

    def warns(self, warnings: Sequence[str]) -> None:
        """Called with the warnings about the [X-Confext] sections, also if there are none."""

    def may_swap(self, manager: ServiceManager) -> None:
        """Return if the new `/etc` may be put in place; raise to keep the old one."""

    def swapped(self) -> None:
        """Called when one more mount namespace has the new `/etc`."""

    def leaves(self, place: str) -> None:
        """Called if a directory made for a swap stays, since the service has put something into it."""

    def committed(self, manager: ServiceManager) -> None:
        """Called when all mount namespaces have the new `/etc`."""
