# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a service runs beside what is loaded and what is on disk, and what would make the three the same.

What runs is read from the kernel (view/running.py), what is loaded from the manager, and what is on disk is what the
generator would make of it now (service/entries.py). A restart takes what is loaded, a daemon-reload loads what is on
disk.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from confext_generator import words
from confext_helpers.errors import ConfextError
from confext_helpers.image.naming import is_there
from confext_helpers.paths import GENERATED
from confext_helpers.service.entries import LAYERS, Disk, Verdict
from confext_helpers.service.layers import load_layer
from confext_helpers.stage import limits
from confext_helpers.system import patience
from confext_helpers.view import running
from confext_helpers.view.runningstack import Running, Since
from confext_helpers.view.services import Service, seen


class State(StrEnum):
    """Of one layer."""

    CURRENT = "current"
    CHANGED = "changed"
    UNKNOWN = "unknown"
    NOT_RUNNING = "not-running"
    NOT_LOADED = "not-loaded"
    NOT_ON_DISK = "not-on-disk"
    SUPERSEDED = "superseded"
    UNLOADED = "unloaded"
    MISSING = "missing"
    SILENT = "silent"


_MEANINGS = {
    State.CURRENT: "runs, and is what a restart would take",
    State.CHANGED: "runs, but is not the same on disk any more",
    State.UNKNOWN: "runs, but it cannot be known whether it is still what is on disk",
    State.NOT_RUNNING: "is loaded, but does not run",
    State.NOT_LOADED: "is on disk, but not loaded",
    State.NOT_ON_DISK: "is loaded, but not on disk any more",
    State.SUPERSEDED: "is loaded, but another version of it is the newest now",
    State.UNLOADED: "runs, but is not loaded any more",
    State.MISSING: "is loaded, but there is no such file",
    State.SILENT: "does not answer: the storage that it is on may be gone",
}
_IN_DOUBT = "is loaded, but it cannot be known whether it runs"


# What no reload makes another one of.
_NOT_MENDED = (State.CURRENT, State.MISSING, State.SILENT)

BASE_CHANGED = "the host's own /etc changed since"


class Row(NamedTuple):
    """One layer of a service.

    Attributes:
        running: as far as it runs.
        state: in a word.
        loaded: whether the manager has it.
        on_disk: whether the next daemon-reload would find it.
    """

    running: Running
    state: State
    loaded: bool
    on_disk: bool


class Status(NamedTuple):
    """A service.

    Attributes:
        service: which.
        pid: of the process that was looked at; None if there is none.
        since: when its `/etc` was stacked; None if nothing runs.
        complete: whether every layer of it is among the rows.
        base_changed: whether anything happened in the `/etc` below the layers since then; None if that is not known.
        rows: its layers, from bottom to top, then those that have no place in what is loaded.
        reload_result: what became of the last reload of what runs, as systemd has it: `success`, `exit-code`...
        reasons: what differs, in words.
        commands: what would mend that, and a reload that failed, in order.
    """

    service: Service
    pid: int | None
    since: Since | None
    complete: bool
    base_changed: bool | None
    rows: list[Row]
    reload_result: str
    reasons: list[str]
    commands: list[str]

    @property
    def reload_failed(self) -> bool:
        """Whether the service has its `/etc`, but may not have read it."""
        return self.reload_result != "success"


def status_of(service: Service, disk: Disk) -> Status:
    """Compare what `service` has with what is loaded and on disk."""
    pid: int | None = None
    since: Since | None = None
    complete = True
    base_changed: bool | None = None
    patience.silent(service.properties.layers)
    if service.processes:
        with seen(service) as view:
            stack = running.read(service, view)
            pid, since, complete, layers = view.process.pid, stack.since, stack.complete, stack.layers
            base_changed = stack.base_changed
    else:
        layers = running.not_running(service.properties)
    reasons = []
    there, kinds, reload_needed = on_disk(service, disk)
    rows = [_row(layer, there) for layer in layers]
    loaded = service.properties.layers
    new = [path for path in there if path not in loaded]
    patience.silent(new)
    for path in new:
        source = load_layer(path).file if not patience.is_silent(path) else ""
        layer = Running(load_layer(path), kinds[path] is Verdict.IMAGE, source=source)
        rows.append(Row(layer, State.NOT_LOADED if source else State.SILENT, False, True))
    for row in rows:
        # Where nothing runs, that a layer does not is no news.
        if row.state is State.CURRENT or (row.state is State.NOT_RUNNING and pid is None):
            continue
        if row.state is not State.MISSING:
            silent = row.state is State.SILENT
            what = row.running.layer.path if silent else row.running.label
            if row.state in (State.NOT_ON_DISK, State.SUPERSEDED):
                what = row.running.layer.label  # Another version of it may be what runs.
            reasons.append(f"{what} {_MEANINGS[row.state] if row.running.certain or silent else _IN_DOUBT}")
    if base_changed:
        reasons.append(BASE_CHANGED)
    if service.hosted is not None and (rows or reload_needed):
        reasons.append(service.hosted.problem)
    if reload_needed and not any(row.state in (State.NOT_LOADED, State.NOT_ON_DISK, State.SUPERSEDED) for row in rows):
        reasons.append("the unit or its drop-ins changed on disk since they were loaded")
    # systemd keeps the result when the service ends.
    result = service.properties.reload_result if pid is not None else "success"
    status = Status(service, pid, since, complete, base_changed, rows, result, reasons, [])
    return status._replace(commands=_commands(status, reload_needed))


def _row(layer: Running, there: Sequence[str]) -> Row:
    path = layer.layer.path
    if not path:
        return Row(layer, State.UNLOADED, False, False)
    if patience.is_silent(path):
        return Row(layer, State.SILENT, True, path in there)
    if path not in there:
        versions = os.path.dirname(path)
        picked_anew = versions.endswith(".v") and versions in map(os.path.dirname, there) and is_there(path)
        return Row(layer, State.SUPERSEDED if picked_anew else State.NOT_ON_DISK, True, False)
    if layer.release:
        state = {False: State.CURRENT, True: State.CHANGED, None: State.UNKNOWN}[layer.changed]
        return Row(layer, state, True, True)
    if not is_there(path):
        return Row(layer, State.MISSING, True, True)
    return Row(layer, State.NOT_RUNNING if layer.certain else State.UNKNOWN, True, True)


def on_disk(service: Service, disk: Disk) -> tuple[list[str], dict[str, Verdict], bool]:
    """The layers that a daemon-reload would bring, what they are, and whether one is needed."""
    loaded = service.properties.layers
    in_use = service.own_dropins
    unit = disk.find(service.name)
    if in_use and not in_use[0].startswith(GENERATED):
        return loaded, {}, service.stale  # Somebody's own file has its name: the generator's is not read.
    old = b""
    if in_use:
        try:
            with open(in_use[0], "rb") as file:
                old = file.read()
        except OSError:
            old = b""
    new = unit.dropin if unit is not None and unit.dropin is not None else b""
    # Layers that the unit has by itself are not the generator's to take away.
    lines = set(old.split(b"\n"))
    own = [path for path in loaded if not _lines_for(path) & lines]
    kinds = {entry.layer: entry.verdict for entry in unit.entries if entry.verdict in LAYERS} if unit else {}
    found = [*own, *(unit.layers if unit is not None and unit.dropin is not None else [])]
    return found, kinds, service.stale or old != new


def _lines_for(path: str) -> set[bytes]:
    """How render.py writes a layer down."""
    raw = path.encode(errors="surrogateescape")
    return {
        b"ExtensionImages=-" + words.escape_image(raw),
        b"ExtensionDirectories=" + words.quote_word(b"-" + raw),
    }


def _commands(status: Status, reload_needed: bool) -> list[str]:
    """What would make all three the same, and have the service read them."""
    service, rows = status.service, status.rows
    commands = ["systemctl daemon-reload"] if reload_needed else []
    if service.hosted is not None and (rows or reload_needed):
        commands.append(f"systemctl restart {service.name}")
    elif status.pid is not None and (
        status.reload_failed
        or status.base_changed
        or any(row.running.certain and row.state not in _NOT_MENDED for row in rows)
    ):
        commands.append(f"systemctl {'restart' if _needs_restart(service) else 'reload'} {service.name}")
    return commands


def _needs_restart(service: Service) -> bool:
    """Whether a reload would be refused, because it cannot bring what differs."""
    if service.properties.root_ephemeral:
        return True
    last = running.last_swap(service.name)
    if last is not None and last.processes != [process.key for process in service.processes]:
        last = None
    try:
        limits.check(service.name, service.properties, service.processes, last)
    except ConfextError:
        return True
    return False
