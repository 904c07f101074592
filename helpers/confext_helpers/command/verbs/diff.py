# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext diff`: show what the next reload would change in a service's `/etc`, without changing anything."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Collection, Iterator

from confext_helpers.command import data
from confext_helpers.command.exitcodes import Exit
from confext_helpers.command.options import PROGRAM
from confext_helpers.command.output import Color, Output, printable
from confext_helpers.service.entries import Disk
from confext_helpers.service.layers import Layer
from confext_helpers.system.bus import Manager
from confext_helpers.view import status
from confext_helpers.view.preview import FileChange, Preview, Side, preview
from confext_helpers.view.services import find, need_root

_COLORS = {"+": Color.GREEN, "-": Color.RED}


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Show what the next reload would change.

    Returns:
        Exit.DIFFERS if the reload would change anything, Exit.REFUSED if it would be refused.

    Raises:
        ConfextError: the service is not running, its reload runs no hook, or the caller is not root.
    """
    need_root(arguments.verb)
    with Manager() as manager, find(manager, arguments.operands[0]) as service:
        found = preview(manager, service, check=arguments.check)
    if found.refused is not None:
        found.refused.with_unit(service.name)
    _, _, stale = status.on_disk(service, Disk())
    if output.json != "off":
        output.data([_as_data(service.name, stale, found, service.properties.image_layers)])
    else:
        _show(service.name, found, output)
        if stale:
            output.note(f"{PROGRAM}: {service.name}: changed on disk, which takes a daemon-reload first; see status")
    if found.refused is not None:
        return Exit.REFUSED
    return Exit.DIFFERS if found.differs else Exit.OK


def _kind(change: FileChange) -> str:
    if change.before is None:
        return "added"
    return "changed" if change.after is not None else "removed"


def lines_of(change: FileChange) -> list[str] | None:
    """A unified diff of the contents, without line ends; None if a side is not text, empty if the sides are equal."""
    sides = (change.before, change.after)
    if any(side is not None and (side.text is None or side.kind != "file") for side in sides):
        return None
    old, new = (_lines(side.text) if side is not None and side.text is not None else [] for side in sides)
    before, after = ("/dev/null" if side is None else printable(change.path) for side in sides)
    return list(difflib.unified_diff(old, new, before, after, lineterm=""))


def _lines(text: str) -> list[str]:
    """The lines of a text, the last one with diff's mark if it has no newline."""
    lines = text.split("\n")
    if lines[-1]:
        return [*lines[:-1], f"{lines[-1]}\n\\ No newline at end of file"]
    return lines[:-1]


def _side(side: Side | None) -> data.Side | None:
    if side is None:
        return None
    return {
        "kind": side.kind,
        "mode": f"{side.mode:04o}",
        "uid": side.uid,
        "gid": side.gid,
        "size": side.size,
        "target": side.text if side.kind == "symlink" else None,
    }


def _as_data(unit: str, stale: bool, found: Preview, images: Collection[str]) -> data.Diff:
    """What would change, for JSON; all of it is None if the future `/etc` could not be built."""

    def layer(one: Layer) -> data.Layer:
        # Whether a layer was an image is not known once it is not loaded any more.
        return data.of_layer(one, one.path in images if one.path else None)

    named = {one.name: layer(one) for one in found.layers.all} if found.layers is not None else {}
    files: list[data.File] = [
        {
            "path": one.path,
            "change": _kind(one),
            "layer": named.get(one.layer),
            "before": _side(one.before),
            "after": _side(one.after),
            "diff": _joined(lines_of(one)),
        }
        for one in found.files
    ]
    known = found.layers is not None
    return {
        "unit": unit,
        "daemon_reload_needed": stale,
        "differs": found.differs if known else None,
        "base_changed": found.base_changed if known else None,
        "refused": str(found.refused) if found.refused is not None else None,
        "layers": {
            "added": [layer(one) for one in found.layers.added],
            "replaced": [layer(one) for one in found.layers.replaced],
            "removed": [layer(one) for one in found.layers.removed],
        }
        if found.layers is not None
        else None,
        "files": files if known else None,
    }


def _joined(lines: list[str] | None) -> str | None:
    return None if lines is None else "".join(f"{line}\n" for line in lines)


def _show(unit: str, found: Preview, output: Output) -> None:
    if found.layers is not None:
        for word, layers in found.layers._asdict().items():
            if word != "all":
                for layer in layers:
                    output.line(f"layer {word}: {printable(layer.label)}", Color.BOLD)
    for change in found.files:
        source = f" (from {printable(change.layer)})" if change.layer else ""
        output.line(f"{_kind(change)}: {printable(change.path)}{source}", Color.BOLD)
        for line in _details(change):
            output.line(_safe(line), _COLORS.get(line[:1], Color.NONE))
    output.flush()
    if found.refused is not None:
        print(f"{PROGRAM}: the reload would be refused: {printable(str(found.refused))}", file=sys.stderr)
    elif found.base_changed and not found.files:
        output.note(f"{PROGRAM}: {unit}: {status.BASE_CHANGED}")
    elif not found.differs:
        output.note(f"{PROGRAM}: {unit}: a reload would change nothing")


def _details(change: FileChange) -> Iterator[str]:
    """The lines to show about a file, below its name."""
    before, after = change.before, change.after
    if before is not None and after is not None:
        for name, old, new in (
            ("type", before.kind, after.kind),
            ("mode", f"{before.mode:04o}", f"{after.mode:04o}"),
            ("owner", f"{before.uid}:{before.gid}", f"{after.uid}:{after.gid}"),
        ):
            if old != new:
                yield f"  {name}: {old} -> {new}"
    for sign, side in (("-", before), ("+", after)):
        if side is not None and side.kind == "symlink":
            yield f"{sign}-> {side.text}"
    lines = lines_of(change)
    if lines is not None:
        for line in lines:
            yield from line.split("\n")
    elif any(side is not None and side.kind == "file" for side in (before, after)):
        sizes = [str(side.size) if side is not None and side.kind == "file" else "-" for side in (before, after)]
        yield f"  no text, or too long to show: {' -> '.join(sizes)} bytes"


def _safe(line: str) -> str:
    """A line of a file, escaped for a terminal, except for tabs."""
    return "\t".join(printable(part) if part else "" for part in line.split("\t"))
