# SPDX-License-Identifier: LGPL-2.1-or-later
"""The messages of the hook: ID, text and fields of each, as unit-confext-restack(8) documents them.

The texts are for people. Programs match MESSAGE_ID= and read the fields. The catalog (unit-confext.catalog,
journalctl -x) explains each ID. A field with a list has a JSON array.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from confext_helpers.errors import ConfextError
from confext_helpers.service.layers import Layer, LayerChange
from confext_helpers.system.journal import Message, Priority
from confext_helpers.transaction.steps import Step

if TYPE_CHECKING:
    from confext_helpers.swap.treediff import Difference, Files


class Id(StrEnum):
    """Values of MESSAGE_ID=."""

    RESTACKED = "a58e9b10bcb34b7f8a171c9429e8d1e3"
    UNCHANGED = "d1c5c5cd3b1b4fd881ba828550fb8362"
    REFUSED = "9ef028b935724563872b7e37858be453"
    CUT_OFF = "cf35f6c8b0524a21baa3ee5ae11687d7"
    COMPLETED = "6077d2caf2794f98b368c65d41a1b412"
    RELOAD_FAILED = "4796ce3a55b442e2ad0f053c98dd379f"
    FAILED = "34613f216bfc4d6b85106594362d45b5"
    NOT_STARTED = "07b7fc71b00b4a94a1504bf71afe1861"
    LEFT_ALONE = "e4333be5b6de47ab8a15869dfccbdb4b"
    SECTION = "4b4fb5e1518043768fd00a4ac2072dd5"
    DETACH_POINT_KEPT = "32d37c37d6db4f5890a5ffb72416420e"
    STRANGERS = "6e3d540dc2f9475181c67e064dadddb3"


def _layers(layers: Sequence[Layer]) -> str:
    return json.dumps([{name: value or None for name, value in layer._asdict().items()} for layer in layers])


def _files(kind: str, files: Files) -> dict[str, str]:
    from confext_helpers.swap.change import FILES_MAX  # Already imported: there was a comparison.

    name = f"CONFEXT_FILES_{kind}"
    fields = {name: json.dumps(files.paths[:FILES_MAX]), f"{name}_COUNT": str(files.count)}
    if files.count > FILES_MAX:
        fields[f"{name}_REST"] = str(files.count - FILES_MAX)
    return fields


def _counts(difference: Difference) -> str:
    words: list[str] = []
    for word, files in zip(("added", "changed", "removed"), difference, strict=True):
        if files.count:
            noun = "" if words else f" file{'s' if files.count > 1 else ''}"
            words.append(f"{files.count}{noun} {word}")
    return ", ".join(words) or "no file differs"


def restacked(unit: str, change: LayerChange, difference: Difference, usec: dict[Step, int]) -> Message:
    """A swap was made.

    Args:
        unit: the service.
        change: of the layers.
        difference: of the files.
        usec: the duration of each step, in microseconds.
    """
    kinds = (("replaced", change.replaced), ("added", change.added), ("removed", change.removed))
    words = [f"{layer.label} {kind}" for kind, layers in kinds for layer in layers] or ["no layer changed"]
    fields = {
        "CONFEXT_LAYERS": _layers(change.all),
        "CONFEXT_LAYERS_ADDED": _layers(change.added),
        "CONFEXT_LAYERS_REPLACED": _layers(change.replaced),
        "CONFEXT_LAYERS_REMOVED": _layers(change.removed),
        **_files("ADDED", difference.added),
        **_files("CHANGED", difference.changed),
        **_files("REMOVED", difference.removed),
        **{f"CONFEXT_{step.upper()}_USEC": str(time) for step, time in usec.items()},
    }
    text = f"{unit}: /etc re-stacked: {', '.join(words)}; {_counts(difference)}"
    return Message(Id.RESTACKED, Priority.INFO, text, fields)


def unchanged(unit: str) -> Message:
    """Nothing changed since the last re-stack."""
    return Message(Id.UNCHANGED, Priority.DEBUG, f"{unit}: nothing changed in its layers, /etc stays as it is", {})


def no_process(unit: str) -> Message:
    """No process of the service runs, so there is nothing to re-stack."""
    return Message(Id.UNCHANGED, Priority.DEBUG, f"{unit}: no process runs, so there is no /etc to change", {})


def left_alone(unit: str) -> Message:
    """The hook was called, but no reload of the service waits for it."""
    text = f"{unit}: /etc is left alone, since no reload by systemd waits for it; for what is new in its layers, "
    text += f"run 'systemctl reload {unit}'"
    return Message(Id.LEFT_ALONE, Priority.INFO, text, {})


def superseded(unit: str) -> Message:
    """While the new `/etc` was prepared, the reload was cancelled, replaced or requested again."""
    text = f"{unit}: /etc stays as it is, since its reload was requested again, or cancelled"
    return Message(Id.UNCHANGED, Priority.DEBUG, text, {})


def refused(error: ConfextError, step: Step, *, partly: bool = False) -> Message:
    """The reload was cancelled.

    Args:
        error: the reason.
        step: the step that failed.
        partly: whether some of the service's mount namespaces have the new `/etc` already.
    """
    fields = {
        "CONFEXT_STEP": step,
        "CONFEXT_REASON": error.problem,
        "CONFEXT_LAYER": error.path if step is not Step.CHECKS else "",
        "CONFEXT_CHECK": error.check,
        "CONFEXT_HINT": error.hint,
    }
    text = str(error)
    if not partly:
        text = text.replace(error.problem, f"/etc is unchanged, {error.problem}", 1)
    return Message(Id.REFUSED, Priority.ERROR, text, {name: value for name, value in fields.items() if value})


def failed(error: ConfextError) -> Message:
    """The hook failed before it could look at the service."""
    return Message(Id.FAILED, Priority.ERROR, str(error), {})


def cut_off(unit: str) -> Message:
    """The reload was cancelled because the hook was killed."""
    return Message(
        Id.CUT_OFF, Priority.ERROR, f"{unit}: not reloaded, since its re-stack was cut off; reload it again", {}
    )


def completed(unit: str) -> Message:
    """A swap that had been cut off was completed."""
    text = f"{unit}: completed a re-stack of /etc that was cut off; reload it again"
    return Message(Id.COMPLETED, Priority.WARNING, text, {})


def reload_failed(unit: str, result: str) -> Message:
    """The swap was made, but then the service's own reload failed.

    Args:
        unit: the service.
        result: its ReloadResult property, org.freedesktop.systemd1(5).
    """
    text = (
        f"{unit}: /etc is the new one, but the service's own reload failed ({result}); "
        f"see journalctl -u {unit}, mend the configuration in the image and reload again"
    )
    return Message(Id.RELOAD_FAILED, Priority.ERROR, text, {"CONFEXT_RESULT": result})


def not_started(error: ConfextError) -> Message:
    """The service was not started: others than root can write a layer."""
    text = str(error).replace(error.problem, f"not started, {error.problem}", 1)
    return Message(Id.NOT_STARTED, Priority.ERROR, text, {})


def section(unit: str, text: str) -> Message:
    """A line in an [X-Confext] section is ignored; the text is from checks/section.py."""
    return Message(Id.SECTION, Priority.WARNING, f"{unit}: {text}", {})


def detach_point_kept(unit: str, place: str) -> Message:
    """A swap was made, but its detach point cannot be removed, since the service put files into it.

    Args:
        unit: the service.
        place: the directory, as the service sees it.
    """
    text = (
        f"{unit}: failed to remove {place}, which this reload made, since the service put files into it; nothing is "
        "mounted there, remove it"
    )
    return Message(Id.DETACH_POINT_KEPT, Priority.WARNING, text, {"CONFEXT_PLACE": place})


def strangers(unit: str, processes: dict[int, str]) -> Message:
    """Some processes of the service keep their old `/etc`.

    Args:
        unit: the service.
        processes: the reason for each process, by PID.
    """
    (pid, why), *others = processes.items()
    more = f" (and {len(others)} more)" if others else ""
    text = f"{unit}: its process {pid}{more} keeps its old /etc: it {why}"
    return Message(Id.STRANGERS, Priority.WARNING, text, {"CONFEXT_PIDS": json.dumps({**processes})})
