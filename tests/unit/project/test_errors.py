# SPDX-License-Identifier: LGPL-2.1-or-later
"""The unit that an error concerns is named once, where the error is shown."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from confext_helpers.errors import ConfextError

HELPERS = Path(__file__).parents[3] / "helpers/confext_helpers"
# The rooms that show errors. errors.py and these may name units.
EDGE = {"hook", "view", "command"}


def named(text: str) -> Iterator[int]:
    """The lines in which an error is made that names a unit."""
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "ConfextError"
            and any(keyword.arg == "unit" for keyword in node.keywords)
        ):
            yield node.lineno


def test_unit_is_named_where_an_error_is_shown() -> None:
    found = {
        str(path.relative_to(HELPERS)): [*named(path.read_text())]
        for path in HELPERS.rglob("*.py")
        if path.relative_to(HELPERS).parts[0] not in EDGE
    }
    assert {name: lines for name, lines in found.items() if lines} == {}
    assert [*named("a = 1\nraise ConfextError('b', unit=a)")] == [2]


def test_a_named_unit_stays() -> None:
    error = ConfextError("is wrong", hint="mend it")
    assert str(error.with_unit("a.service")) == "a.service: is wrong; mend it"
    assert error.with_unit("b.service") is error
    assert error.unit == "a.service"
