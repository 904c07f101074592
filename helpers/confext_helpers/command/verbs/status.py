# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext status`: show the layers that a service runs, beside what is loaded and what is on disk.

view/status.py has what these three mean, and compares them.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
from collections.abc import Sequence
from enum import StrEnum

from confext_helpers.command import data
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
from confext_helpers.view.status import Row, State, Status, status_of

# The timeout for looking at one service, in seconds.
_SECONDS = 20.0
_COLUMNS = ("layer", "state", "version", "root_hash", "signature", "path")


class Signature(StrEnum):
    """What is known about the signature of a layer."""

    TRUSTED = "trusted"
    UNTRUSTED = "untrusted"
    UNSIGNED = "unsigned"


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Show the stacks of the services that the command line names.

    Returns:
        Exit.RELOAD_FAILED if the last reload of a service failed, or else Exit.DIFFERS if what runs, what is loaded
        and what is on disk differ, or cannot be known.

    Raises:
        ConfextError: a service does not exist, or the caller is not root.
    """
    need_root(arguments.verb)
    anchors = trust.load(arguments.trust)
    disk = Disk()
    with contextlib.ExitStack() as held:
        with Manager() as manager:
            services = [held.enter_context(find(manager, word)) for word in arguments.operands]
        # One child process a service: storage that answered once may not answer again.
        found = [_patiently(service, disk, anchors) for service in services]
    if output.json != "off":
        output.data(found)
    else:
        for number, one in enumerate(found):
            if number:
                output.line()
            _show(one, output)
    if any(one["reload_result"] not in (None, "success") for one in found):
        return Exit.RELOAD_FAILED
    return Exit.DIFFERS if any(one["differs"] is not False for one in found) else Exit.OK


def _patiently(service: Service, disk: Disk, anchors: Sequence[Certificate]) -> data.Service:
    try:
        return patience.attempt(lambda: as_data(status_of(service, disk), anchors), _SECONDS)
    except TimeoutError as error:
        reason = f"it cannot be looked at: {error}"
        found = as_data(Status(service, None, None, False, None, [], "", [reason], []), anchors)
        found["complete"] = found["differs"] = found["layers"] = None
        return found


def with_signature(layer: data.Layer, running: Running, anchors: Sequence[Certificate]) -> data.Layer:
    """Add to `layer` the root hash and the signers of what runs, or would run."""
    if running.image is False:
        layer["signature"], layer["signers"] = Signature.UNSIGNED, []
    if running.image is False or not running.source:
        return layer
    try:
        found = signers.read(running.source, anchors)
    except (OSError, ConfextError):
        return layer
    layer["root_hash"], layer["signers"] = found.root_hash or None, signers_as_data(found.signers)
    if found.trusted:
        layer["signature"] = Signature.TRUSTED
    else:
        layer["signature"] = Signature.UNTRUSTED if found.signers else Signature.UNSIGNED
    return layer


def _row(row: Row, anchors: Sequence[Certificate]) -> data.Layer:
    layer = with_signature(data.of_running(row.running), row.running, anchors)
    layer["state"] = row.state if row.state is not State.UNKNOWN else None
    layer["loaded"], layer["on_disk"] = row.loaded, row.on_disk
    return layer


def as_data(status: Status, anchors: Sequence[Certificate]) -> data.Service:
    """A service for JSON."""
    return {
        "unit": status.service.name,
        "active_state": status.service.state,
        "pid": status.pid,
        "since": _time(status.since.usec) if status.since is not None else None,
        "since_is": ("swap" if status.since.by_swap else "start") if status.since is not None else None,
        "namespaces": len(status.service.processes),
        "in_host_namespace": status.service.namespace_problem is not None,
        "complete": status.complete,
        "base_changed": status.base_changed,
        # systemd keeps ReloadResult= after the service has ended.
        "reload_result": status.reload_result if status.pid is not None else None,
        "differs": bool(status.reasons),
        "reasons": status.reasons,
        "commands": status.commands,
        "layers": [_row(row, anchors) for row in status.rows],
    }


def _time(usec: int) -> str:
    return datetime.datetime.fromtimestamp(usec // 1_000_000, datetime.UTC).isoformat()


def _show(found: data.Service, output: Output) -> None:
    output.line(printable(found["unit"]), Color.BOLD)
    facts: list[tuple[str, object]] = [("State", found["active_state"])]
    if found["pid"] is not None:
        facts += [("Process", found["pid"]), ("Swapped" if found["since_is"] == "swap" else "Started", found["since"])]
    for key, value in facts:
        output.line(f"  {key + ':':<9}{printable(value)}")
    rows = [
        {
            "layer": layer["label"],
            "state": layer["state"] or State.UNKNOWN,
            "version": layer["version"],
            "root_hash": layer["root_hash"][:16] if layer["root_hash"] else None,
            "signature": _signature(layer),
            "path": layer["path"],
        }
        for layer in found["layers"] or ()
    ]
    if rows:
        output.line()
        output.table(_COLUMNS, rows)
    if not found["complete"]:
        output.line()
        output.line("Some layers cannot be identified: their release files are hidden or renamed.", Color.YELLOW)
    failed = found["reload_result"] not in (None, "success")
    output.line()
    if not found["reasons"] and not failed:
        runs = "what runs is what is loaded and what is on disk"
        what = runs if found["pid"] is not None else "what is loaded is what is on disk"
        output.line(f"Up to date: {what}.", Color.GREEN)
        return
    for reason in found["reasons"]:
        output.line(f"Differs: {printable(reason)}", Color.YELLOW)
    if failed:
        why = printable(found["reload_result"])
        output.line(f"Failed: its last reload ({why}), so the service may not have read its /etc", Color.YELLOW)
    if found["commands"]:
        output.line(f"Run: {printable(' && '.join(found['commands']))}")


def _signature(layer: data.Layer) -> str:
    if layer["signature"] is None:
        return "unknown"
    by = ", ".join(one["subject"] for one in layer["signers"] or () if one["subject"])
    # A signature protects only an image that runs with dm-verity.
    loose = " (not enforced)" if layer["enforced"] is False else ""
    return f"{layer['signature']}: {by}{loose}" if by else layer["signature"]
