# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext status`: the stack that a service has, beside what is loaded and what is on disk.

What runs is read from the kernel, what is loaded from the manager, and what is on disk is what the generator would
make of it now. A restart takes what is loaded, a daemon-reload loads what is on disk.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from enum import StrEnum

from confext_helpers.command.exitcodes import Exit
from confext_helpers.command.output import Color, Output, printable
from confext_helpers.command.verbs.verify import signers_as_data
from confext_helpers.errors import ConfextError
from confext_helpers.image import signers, trust
from confext_helpers.image.certificates import Certificate
from confext_helpers.service.entries import Disk
from confext_helpers.system import patience
from confext_helpers.system.bus import Manager
from confext_helpers.view.runningstack import Running
from confext_helpers.view.services import Service, find, need_root
from confext_helpers.view.status import Status, status_of

# How long all that is known about one service may take.
_SECONDS = 20.0
_COLUMNS = ("layer", "state", "version", "root_hash", "signature", "path")


class Signature(StrEnum):
    """What is known about the signature of a layer."""

    TRUSTED = "trusted"
    UNTRUSTED = "untrusted"
    UNSIGNED = "unsigned"
    UNKNOWN = "unknown"


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Show the stacks of the services that the command line names.

    Returns:
        Exit.RELOAD_FAILED if the last reload of one of them failed, or else Exit.DIFFERS if what runs, what is loaded
        and what is on disk are not the same.

    Raises:
        ConfextError: one of them is not there, or this is not root.
    """
    need_root(arguments.verb)
    anchors = trust.load(arguments.trust)
    disk = Disk()
    with Manager() as manager:
        services = [find(manager, word) for word in arguments.operands]
    # A child each, since even what answered once may not answer again.
    found = [_patiently(service, disk, anchors) for service in services]
    if output.json != "off":
        output.data(found)
    else:
        for number, one in enumerate(found):
            if number:
                output.line()
            _show(one, output)
    if any(one["reload_result"] != "success" for one in found):
        return Exit.RELOAD_FAILED
    return Exit.DIFFERS if any(one["differs"] for one in found) else Exit.OK


def _patiently(service: Service, disk: Disk, anchors: Sequence[Certificate]) -> dict[str, object]:
    try:
        return patience.attempt(lambda: as_data(status_of(service, disk), anchors), _SECONDS)
    except TimeoutError as error:
        reason = f"it cannot be looked at: {error}"
        empty = Status(service, None, None, False, False, [], "success", [reason], [])
        return as_data(empty, anchors)


def signature_of(layer: Running, anchors: Sequence[Certificate]) -> dict[str, object]:
    """Root hash and signers of what runs, or would run, for JSON."""
    facts: dict[str, object] = {"root_hash": layer.layer.root_hash or None, "signature": None, "signers": []}
    if layer.image is False:
        return facts | {"signature": Signature.UNSIGNED}
    if not layer.source:
        # The file of that name is another one by now.
        return facts | {"root_hash": None, "signature": Signature.UNKNOWN}
    try:
        found = signers.read(layer.source, anchors)
    except (OSError, ConfextError):
        return facts | {"signature": Signature.UNKNOWN}
    facts |= {"root_hash": found.root_hash or None, "signers": signers_as_data(found.signers)}
    if found.trusted:
        return facts | {"signature": Signature.TRUSTED}
    return facts | {"signature": Signature.UNTRUSTED if found.signers else Signature.UNSIGNED}


def layer_as_data(layer: Running) -> dict[str, object]:
    """What is said about a layer everywhere, for JSON."""
    kind = {True: "image", False: "directory", None: None}[layer.image]
    return {
        "label": layer.label,
        "name": layer.layer.name,
        "version": layer.version or None,
        "kind": kind,
        "path": layer.layer.path or None,
        "file": (layer.file if layer.release else layer.layer.file) or None,
    }


def as_data(status: Status, anchors: Sequence[Certificate]) -> dict[str, object]:
    """A service for JSON."""
    return {
        "unit": status.service.name,
        "active_state": status.service.state,
        "pid": status.pid,
        "since": _time(status.since.usec) if status.since is not None else None,
        "since_is": ("swap" if status.since.by_swap else "start") if status.since is not None else None,
        "namespaces": len(status.service.processes),
        "in_host_namespace": status.service.hosted is not None,
        "complete": status.complete,
        "base_changed": status.base_changed,
        "reload_result": status.reload_result,
        "differs": bool(status.reasons),
        "reasons": status.reasons,
        "commands": status.commands,
        "layers": [
            {
                **layer_as_data(row.running),
                "state": row.state,
                "running": bool(row.running.release) if row.running.certain else None,
                "loaded": row.loaded,
                "on_disk": row.on_disk,
                "changed": row.running.changed,
                "enforced": row.running.enforced,
                **signature_of(row.running, anchors),
            }
            for row in status.rows
        ],
    }


def _time(usec: int) -> str:
    return datetime.datetime.fromtimestamp(usec // 1_000_000, datetime.UTC).isoformat()


def _show(data: dict[str, object], output: Output) -> None:
    output.line(printable(data["unit"]), Color.BOLD)
    facts: list[tuple[str, object]] = [("State", data["active_state"])]
    if data["pid"] is not None:
        facts += [("Process", data["pid"]), ("Swapped" if data["since_is"] == "swap" else "Started", data["since"])]
    layers = data["layers"]
    assert isinstance(layers, list)
    for key, value in facts:
        output.line(f"  {key + ':':<9}{printable(value)}")
    rows = [
        {
            "layer": layer["label"],
            "state": layer["state"],
            "version": layer["version"],
            "root_hash": layer["root_hash"][:16] if layer["root_hash"] else None,
            "signature": _signature(layer),
            "path": layer["path"],
        }
        for layer in layers
    ]
    if rows:
        output.line()
        output.table(_COLUMNS, rows)
    if not data["complete"]:
        output.line()
        output.line("Some layers cannot be told: their release files are hidden, or have other names.", Color.YELLOW)
    reasons, commands = data["reasons"], data["commands"]
    assert isinstance(reasons, list) and isinstance(commands, list)
    failed = data["reload_result"] != "success"
    output.line()
    if not reasons and not failed:
        what = "what runs is what is loaded and what is on disk" if data["pid"] else "what is loaded is what is on disk"
        output.line(f"Up to date: {what}.", Color.GREEN)
        return
    for reason in reasons:
        output.line(f"Differs: {printable(reason)}", Color.YELLOW)
    if failed:
        why = printable(data["reload_result"])
        output.line(f"Failed: its last reload ({why}), so that it may not have read what it has now", Color.YELLOW)
    if commands:
        output.line(f"Run: {printable(' && '.join(commands))}")


def _signature(layer: dict[str, object]) -> str:
    found = layer["signers"]
    assert isinstance(found, list)
    by = ", ".join(str(one["subject"]) for one in found if one["subject"])
    # A signature is worth something if the kernel holds the data to it.
    loose = " (not enforced)" if layer["enforced"] is False else ""
    return f"{layer['signature']}: {by}{loose}" if by else str(layer["signature"])
