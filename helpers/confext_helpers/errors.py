# SPDX-License-Identifier: LGPL-2.1-or-later
"""The only exception that this package shows to its users."""

from __future__ import annotations


class ConfextError(Exception):
    """A problem that the user can fix.

    Args:
        problem: what is wrong, without a full stop.
        unit: the unit concerned, if any. Rooms below hook, view and command leave it to these, see with_unit().
        path: the file or directory concerned, if any.
        hint: how to fix the problem, as an imperative.
        check: the command of the failed Check=, if the problem is a failed check of the service.
    """

    def __init__(self, problem: str, *, unit: str = "", path: str = "", hint: str = "", check: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.unit = unit
        self.path = path
        self.hint = hint
        self.check = check

    def with_unit(self, unit: str) -> ConfextError:
        """Name the unit concerned, unless the error names one; return the error."""
        self.unit = self.unit or unit
        return self

    def __str__(self) -> str:
        return (
            (f"{self.unit}: " if self.unit else "")
            + self.problem
            + (f" ({self.path})" if self.path else "")
            + (f"; {self.hint}" if self.hint else "")
        )


def unexpected(error: Exception) -> ConfextError:
    """Report a bug of this project in the generator's words: the exception's type and text, and where to report it."""
    # Imported here because hardly any run needs these.
    from confext_generator.constants import BUGS
    from confext_generator.report import described

    return ConfextError(f"unexpected {described(error)}", hint=BUGS)
