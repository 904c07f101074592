# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rooms of `confext_helpers`: who may import whom, and that docs/architecture.md says the same."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
TREES = {"confext_helpers": CHECKOUT / "helpers", "confext_generator": CHECKOUT / "generator"}
# From top to bottom. Rooms of one line do not use each other.
ORDER = (
    ("command",), ("hook", "view"), ("transaction",), ("swap",), ("stage", "checks"), ("service",), ("builder",),
    ("image",), ("system",), ("errors", "paths"),
)  # fmt: skip
RANKS = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}


def _name(path: Path, tree: Path) -> str:
    parts = path.relative_to(tree).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path, tree): path for package, tree in TREES.items() for path in (tree / package).rglob("*.py")}


def imported(text: str, modules: frozenset[str]) -> Iterator[str]:
    """Those of `modules` that a module with this text imports, wherever in it, lazily or for its types alone."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in modules or node.module in modules:
                    yield full if full in modules else node.module


GRAPH = {name: set(imported(path.read_text(), frozenset(MODULES))) for name, path in MODULES.items()}


def room(name: str) -> str:
    """The room of a module; of those at the top, their own names."""
    return name.split(".")[1] if "." in name else ""


def test_imports_are_found() -> None:
    found = imported("import a.b\ndef f():\n    from a import b, c\n    from a.b import x\n", frozenset({"a", "a.b"}))
    assert [*found] == ["a.b", "a.b", "a", "a.b"]


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("confext_helpers.")])
def test_direction(name: str) -> None:
    """A module imports from its own room and from those below, and is in one."""
    assert room(name) in RANKS
    for other in GRAPH[name]:
        if other.startswith("confext_helpers.") and room(other) != room(name):
            assert RANKS[room(other)] > RANKS[room(name)], f"{name} uses {other}"


def test_programs_in_strings_import_what_there_is() -> None:
    """Booted tests run programs that are text here."""
    found = {}
    for path in (CHECKOUT / "tests").rglob("*.py"):
        for module, names in re.findall(r"^from (confext_\w+(?:\.\w+)*) import ([\w, ]+)$", path.read_text(), re.M):
            found[module, names] = path.name
    assert len(found) > 100
    for (module, names), place in found.items():
        assert module in MODULES, place
        for name in (word.split(" as ")[0] for word in names.split(", ")):
            text = MODULES[module].read_text()
            assert f"{module}.{name}" in MODULES or re.search(rf"^(?:def |class |)_?{name}\b", text, re.M), (
                name,
                place,
            )


def test_the_generator_stands_alone() -> None:
    assert [name for name in MODULES if name.startswith("confext_generator")]
    for name, others in GRAPH.items():
        if name.startswith("confext_generator"):
            assert not [other for other in others if other.startswith("confext_helpers")], name


def test_no_circles() -> None:
    assert [*graphlib.TopologicalSorter(GRAPH).static_order()]


def test_the_document_has_the_same_order() -> None:
    text = (CHECKOUT / "docs/architecture.md").read_text()
    table = text.partition("## The rooms")[2].partition("\n## ")[0]
    rows = [re.findall(r"`([a-z]+)(?:/|\.py)`", line.split("|")[1]) for line in table.splitlines() if line[:3] == "| `"]
    assert [tuple(row) for row in rows] == [*ORDER]
