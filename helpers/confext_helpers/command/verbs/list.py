# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext list`: show every unit with a `.confext.d/`, its entries, and what the generator makes of each."""

from __future__ import annotations

import argparse
import os

from confext_helpers.command import data
from confext_helpers.command.exitcodes import Exit
from confext_helpers.command.options import PROGRAM
from confext_helpers.command.output import Output, printable
from confext_helpers.errors import ConfextError
from confext_helpers.image.naming import base_name, layer_name
from confext_helpers.service.entries import LAYERS, Disk, Entry, Unit, Verdict
from confext_helpers.service.layers import Layer
from confext_helpers.view.exposure import exposed
from confext_helpers.view.services import unit_name

_COLUMNS = ("unit", "entry", "verdict", "layer", "reason")


def run(arguments: argparse.Namespace, output: Output) -> int:
    """List what the `.confext.d/` directories hold.

    Raises:
        ConfextError: a unit on the command line has no such directory.
    """
    root = arguments.root or ""
    if root and not os.path.isdir(root):
        raise ConfextError("this is no directory", path=printable(root), hint="name another one with --root=")
    disk = Disk("" if not root else os.path.abspath(root).rstrip("/"))
    units = [_find(disk, name) for name in arguments.operands] if arguments.operands else disk.units
    units = [_warned(unit, root) for unit in units]
    if output.json != "off":
        output.data([as_data(unit) for unit in units])
        return Exit.OK
    output.table(_COLUMNS, [row for unit in units for row in _rows(unit)])
    for unit in units:
        if unit.problem:
            what = printable(unit.name or unit.directories[0])
            output.note(f"{PROGRAM}: {what}: {printable(unit.problem)}")
        for warning in unit.warnings:
            output.note(f"{PROGRAM}: {unit.name}: {printable(warning)}")
        if unit.replaced_by:
            output.note(f"{PROGRAM}: {unit.name}: {printable(unit.replaced_by)} is read instead of the drop-in")
        if unit.stale:
            text = "the last daemon-reload made something else of it; run systemctl daemon-reload"
            output.note(f"{PROGRAM}: {unit.name}: {text}")
    return Exit.OK


def _warned(unit: Unit, root: str) -> Unit:
    """The unit, with a warning for each image that gives private files away."""
    layers = [entry.layer for entry in unit.entries if entry.verdict is Verdict.IMAGE]
    found = exposed(layers, root=root.rstrip("/")) if layers else {}
    said = tuple(f"everybody can read {private!r} in {path}; chmod 0600 it" for path, private in found.items())
    return unit._replace(warnings=(*unit.warnings, *said))


def _find(disk: Disk, name: str) -> Unit:
    found = disk.find(unit_name(name))
    if found is None:
        raise ConfextError("has no .confext.d/ directory", unit=printable(unit_name(name)))
    return found


def _layer(entry: Entry) -> data.Layer | None:
    """A layer for JSON. Only what the generator knows is filled in, since no image is opened."""
    if entry.verdict not in LAYERS:
        return None
    versioned = entry.layer.endswith(".v")
    full = layer_name(entry.layer.removesuffix(".v"))
    name = base_name(full) or full
    version = "" if versioned else full[len(name) + 1 :]
    layer = Layer(name, entry.layer, "" if versioned else entry.layer, version)
    found = data.of_layer(layer, entry.verdict is Verdict.IMAGE)
    found["label"], found["on_disk"] = os.path.basename(entry.layer), True
    return found


def as_data(unit: Unit) -> data.Unit:
    """A unit for JSON."""
    return {
        "unit": unit.name or None,
        "directories": unit.directories,
        "problem": unit.problem or None,
        "code": unit.code or None,
        "warnings": list(unit.warnings),
        "replaced_by": unit.replaced_by or None,
        "daemon_reload_needed": unit.stale,
        "entries": [
            {
                "name": entry.name,
                "path": entry.path,
                "verdict": entry.verdict,
                "layer": _layer(entry),
                "reason": entry.reason or None,
                "code": entry.code or None,
            }
            for entry in unit.entries
        ],
    }


def _rows(unit: Unit) -> list[dict[str, object]]:
    if not unit.entries:
        # Show the directories also if they have no entries, or were not read.
        return [
            {"unit": unit.name, "entry": None, "verdict": "left alone" if unit.problem else "empty",
             "layer": None, "reason": directory}
            for directory in unit.directories
        ]  # fmt: skip
    return [
        {
            "unit": unit.name,
            "entry": entry.name,
            "verdict": entry.verdict,
            "layer": entry.layer,
            "reason": entry.reason if entry.verdict not in LAYERS or entry.reason else None,
        }
        for entry in unit.entries
    ]
