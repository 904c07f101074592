# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the manager answers is typed at the door: no module but that of the door knows how it is made up."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[3] / "helpers/confext_helpers"
DOORS = {
    HELPERS / name
    for name in ("system/bus.py", "system/manager.py", "service/properties.py", "service/checkproperties.py")
}
# Of Manager: what returns an answer as it came, and what makes it typed.
ANSWERS = {"service_properties", "unit_properties"}
TYPED = {"ServiceProperties", "UnitProperties", "CheckProperties"}
# The D-Bus specification, "Type System": single complete types.
_COMPLETE = r"(?:a*(?:[ybnqiuxtdhsogv]|\([a-z(){}]+\)|\{[a-z(){}]+\}))"


def _is_signature(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(re.fullmatch(_COMPLETE, node.value))


def raw(text: str) -> Iterator[tuple[int, str]]:
    """Where a module with this text deals with an answer as it came: the line, and how."""
    tree = ast.parse(text)
    typed = [
        argument.func
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TYPED
        for argument in node.args
        if isinstance(argument, ast.Call)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "Properties" for alias in node.names):
            yield node.lineno, "has the type of an answer"
        elif isinstance(node, ast.Attribute) and node.attr == "_raw":
            yield node.lineno, "looks into a typed one"
        elif isinstance(node, ast.Attribute) and node.attr in ANSWERS and node not in typed:
            yield node.lineno, "takes an answer"
        elif isinstance(node, ast.Tuple) and len(node.elts) == 2 and _is_signature(node.elts[0]):
            yield node.lineno, "has a signature"
        elif isinstance(node, ast.Subscript) or (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"
        ):
            of = node.value if isinstance(node, ast.Subscript) else node.func.value  # type: ignore[attr-defined]
            name = of.id if isinstance(of, ast.Name) else of.attr if isinstance(of, ast.Attribute) else ""
            if name == "properties":
                yield node.lineno, "looks something up"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('x = properties.get("User", ("s", ""))[1]', {"looks something up", "has a signature"}),
        ('x = service.properties["MainPID"][1]', {"looks something up"}),
        ('unit = [("Type", ("s", "exec"))]', {"has a signature"}),
        ('x = "a(sasb)", []', {"has a signature"}),
        ('x = {"a": ("a{sv}", {})}', {"has a signature"}),
        ("from confext_helpers.system.bus import Manager, Properties", {"has the type of an answer"}),
        ("x = manager.service_properties(unit)", {"takes an answer"}),
        ("read = manager.unit_properties", {"takes an answer"}),
        ('x = ServiceProperties(raw)._raw["User"]', {"looks into a typed one"}),
        ("x = ServiceProperties(manager.service_properties(unit)).layers", set()),
        ('x = ("root", "ro"), ("asx", 1), ("", 0), ("s", "t", "u")', set()),
    ],
)
def test_raw_answers_are_found(text: str, found: set[str]) -> None:
    assert {how for _, how in raw(text)} == found


def test_raw_answers_end_at_the_door() -> None:
    modules = set(HELPERS.rglob("*.py"))
    assert modules > DOORS
    assert all([*raw(path.read_text())] for path in DOORS)
    found = {str(path.relative_to(HELPERS)): [*raw(path.read_text())] for path in sorted(modules - DOORS)}
    assert {name: places for name, places in found.items() if places} == {}
