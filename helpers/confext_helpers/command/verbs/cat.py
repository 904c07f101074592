# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext cat`: print files as a service sees them."""

from __future__ import annotations

import argparse
import base64
import sys

from confext_helpers.command import data
from confext_helpers.command.exitcodes import Exit
from confext_helpers.command.output import Output
from confext_helpers.system.bus import Manager
from confext_helpers.view import origin
from confext_helpers.view.origin import walk
from confext_helpers.view.services import find, need_root, view_of


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Print the files that the command line names, one after the other, unchanged.

    Raises:
        ConfextError: a file does not exist or the service cannot read it, the service is not running, or the caller is
            not root.
    """
    need_root(arguments.verb)
    unit, *paths = arguments.operands
    with Manager() as manager:
        service = find(manager, unit)
    shown: list[data.Content] = []
    with service, view_of(service) as view:
        for path in paths:
            with walk(view, path, service.name) as (place, _):
                if output.json == "off":
                    sys.stdout.flush()
                    for piece in origin.pieces(place):
                        sys.stdout.buffer.write(piece)
                else:
                    shown.append(_as_data(path, place.path, origin.read(place)))
    if output.json != "off":
        output.data(shown)
    return Exit.OK


def _as_data(path: str, resolved: str, content: bytes) -> data.Content:
    """A file for JSON, in base64 if the content is not UTF-8."""
    try:
        encoding, text = "utf-8", content.decode()
    except UnicodeDecodeError:
        encoding, text = "base64", base64.b64encode(content).decode()
    return {"path": path, "resolved": resolved, "size": len(content), "encoding": encoding, "content": text}
