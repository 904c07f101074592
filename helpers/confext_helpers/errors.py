# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one error that this package raises at its users."""

from __future__ import annotations


class ConfextError(Exception):
    """Something is wrong that the user can mend.

    Args:
        problem: what is wrong, without a full stop.
        unit: the unit concerned, if any.
        path: the file or directory concerned, if any.
        hint: what to do about it, as an imperative.
        check: the command of a service's own check that failed, if it is that.
    """

    def __init__(self, problem: str, *, unit: str = "", path: str = "", hint: str = "", check: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.unit = unit
        self.path = path
        self.hint = hint
        self.check = check

    def __str__(self) -> str:
        return (
            (f"{self.unit}: " if self.unit else "")
            + self.problem
            + (f" ({self.path})" if self.path else "")
            + (f"; {self.hint}" if self.hint else "")
        )


def unexpected(error: Exception) -> ConfextError:
    """A fault of this project, told as the generator tells one: the type, what Python says, and where to report it."""
    # Hardly ever needed.
    from confext_generator.constants import BUGS
    from confext_generator.report import described

    return ConfextError(f"unexpected {described(error)}", hint=BUGS)
