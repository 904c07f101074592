# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare what a service runs with what is loaded and what is on disk, and find the commands that make them the same.

What runs is read from the kernel (view/running.py), and what is loaded from the manager. What is on disk means the
drop-in that the generator would write now (service/entries.py). A restart mounts what is loaded; a daemon-reload loads
what is on disk.
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
from confext_helpers.view.services import Service, view_of


class State(StrEnum):
    """The state of one layer."""

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


# The states that a reload does not change.
_NOT_MENDED = (State.CURRENT, State.MISSING, State.SILENT)

BASE_CHANGED = "the host's own /etc changed since"


class Row(NamedTuple):
    """One layer of a service.

    Attributes:
        loaded: whether it is in the unit's settings that the manager has loaded.
        on_disk: whether it would be, after a daemon-reload.
    """

    running: Running
    state: State
    loaded: bool
    on_disk: bool


class Status(NamedTuple):
    """The state of a service.

    Attributes:
        pid: the process that was looked at; None if there is none.
        since: when its `/etc` was stacked; None if nothing runs.
        complete: whether `rows` has every layer that runs.
        base_changed: whether anything in the `/etc` below the layers changed since then; None if that is not known.
        rows: the loaded layers, from bottom to top, then the others.
        reload_result: the result of the last reload of the running service, systemd's ReloadResult: `success`,
            `exit-code`...
        reasons: what differs, in words.
        commands: what to run, in order, so that nothing differs and no reload has failed.
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
        """Whether the last reload failed, so that the service may not have read its `/etc`."""
        return self.reload_result != "success"


def status_of(service: Service, disk: Disk) -> Status:
    """Compare what `service` has with what is loaded and on disk."""
    pid: int | None = None
    since: Since | None = None
    complete = True
    base_changed: bool | None = None
    patience.silent(service.properties.layers)
    if service.processes:
        with view_of(service) as view:
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
        # If the service does not run, its layers do not either: say nothing.
        if row.state is State.CURRENT or (row.state is State.NOT_RUNNING and pid is None):
            continue
        if row.state is not State.MISSING:
            silent = row.state is State.SILENT
            what = row.running.layer.path if silent else row.running.label
            if row.state in (State.NOT_ON_DISK, State.SUPERSEDED):
                what = row.running.layer.label  # The version that is loaded; another one may run.
            reasons.append(f"{what} {_MEANINGS[row.state] if row.running.certain or silent else _IN_DOUBT}")
    if base_changed:
        reasons.append(BASE_CHANGED)
    if service.namespace_problem is not None and (rows or reload_needed):
        reasons.append(service.namespace_problem.problem)
    if reload_needed and not any(row.state in (State.NOT_LOADED, State.NOT_ON_DISK, State.SUPERSEDED) for row in rows):
        reasons.append("the unit or its drop-ins changed on disk since they were loaded")
    # systemd keeps ReloadResult= after the service has ended.
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
    """The layers that a daemon-reload would load, the kind of each, and whether a daemon-reload is needed."""
    loaded = service.properties.layers
    in_use = service.own_dropins
    unit = disk.find(service.name)
    if in_use and not in_use[0].startswith(GENERATED):
        return (
            loaded,
            {},
            service.need_daemon_reload,
        )  # An administrator's file of the same name replaces the generator's drop-in.
    old = b""
    if in_use:
        try:
            with open(in_use[0], "rb") as file:
                old = file.read()
        except OSError:
            old = b""
    new = unit.dropin if unit is not None and unit.dropin is not None else b""
    # Layers from the unit's own settings stay, whatever the generator writes.
    lines = set(old.split(b"\n"))
    own = [path for path in loaded if not _lines_for(path) & lines]
    kinds = {entry.layer: entry.verdict for entry in unit.entries if entry.verdict in LAYERS} if unit else {}
    found = [*own, *(unit.layers if unit is not None and unit.dropin is not None else [])]
    return found, kinds, service.need_daemon_reload or old != new


def _lines_for(path: str) -> set[bytes]:
    """The lines that the generator's render.py may write for a layer."""
    raw = path.encode(errors="surrogateescape")
    return {
        b"ExtensionImages=-" + words.escape_image(raw),
        b"ExtensionDirectories=" + words.quote_word(b"-" + raw),
    }


def _commands(status: Status, reload_needed: bool) -> list[str]:
    """The commands that make all three the same, and have the service read its files."""
    service, rows = status.service, status.rows
    commands = ["systemctl daemon-reload"] if reload_needed else []
    if service.namespace_problem is not None and (rows or reload_needed):
        commands.append(f"systemctl restart {service.name}")
    elif status.pid is not None and (
        status.reload_failed
        or status.base_changed
        or any(row.running.certain and row.state not in _NOT_MENDED for row in rows)
    ):
        commands.append(f"systemctl {'restart' if _needs_restart(service) else 'reload'} {service.name}")
    return commands


def _needs_restart(service: Service) -> bool:
    """Whether a reload would be refused, so that only a restart helps."""
    if service.properties.root_ephemeral:
        return True
    last = running.last_swap(service.name)
    if last is not None and last.processes != [process.key for process in service.processes]:
        last = None
    try:
        limits.check(service.properties, service.processes, last)
    except ConfextError:
        return True
    return False
