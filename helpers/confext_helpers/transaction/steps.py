# SPDX-License-Identifier: LGPL-2.1-or-later
"""The steps of a transaction, and who is told about them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confext_helpers.system.manager import ServiceManager


class Step(StrEnum):
    """Values of CONFEXT_STEP=: what was being done when a transaction was given up."""

    PREPARE = "prepare"
    STAGE = "stage"
    CHECKS = "checks"
    COMPARE = "compare"
    SWAP = "swap"


class Listener:
    """Who is told how far a transaction has come. This one wants to know nothing, and has nothing against it."""

    def begin(self, step: Step) -> None:
        """A step begins."""

    def keeps(self, processes: dict[int, str]) -> None:
        """Processes of the service will keep the `/etc` that they have.

        Args:
            processes: why each of them does, by PID.
        """

    def warns(self, warnings: Sequence[str]) -> None:
        """Something in the [X-Confext] sections means nothing. An empty sequence says that nothing does not."""

    def may_swap(self, manager: ServiceManager) -> None:
        """Return when the new `/etc` may be put in place. An exception keeps the old one."""

    def swapped(self) -> None:
        """One more mount namespace has the new `/etc`."""

    def leaves(self, place: str) -> None:
        """The service keeps a directory that was made for a swap, since it has put something there."""

    def committed(self, manager: ServiceManager) -> None:
        """All mount namespaces have the new `/etc`."""
