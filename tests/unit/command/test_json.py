# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is not known is null in the JSON of the verbs that look at running services, and nothing else is."""

from __future__ import annotations

import json
import os
from typing import Any, NoReturn

import pytest

from confext_helpers.command.verbs import diff, status, which
from confext_helpers.errors import ConfextError
from confext_helpers.service.entries import Disk
from confext_helpers.service.layers import Layer, LayerChange
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.system import patience
from confext_helpers.view.origin import Kind, Origin, Place
from confext_helpers.view.preview import FileChange, Preview, Side
from confext_helpers.view.runningstack import Running, Since
from confext_helpers.view.services import Service
from confext_helpers.view.status import Row, State, Status
from lab import jsonshape

UNIT = "foo.service"
SERVICE = Service(UNIT, "active", False, ServiceProperties({}), [], [], None)
IMAGE = Layer("a", "/a_1.raw", "/a_1.raw", "1", "ab")
# Nothing of these is read: there is no such image.
KNOWN = Running(IMAGE, True, "a", "/a_1.raw", 1, False, "/nonexistent", True)
GONE = Running(Layer("b"), None, "b")
PLACE = Place("/etc/a", -1, os.stat("/"), None)


def printed(verb: str, value: object) -> Any:
    """The object as it is read by whoever gets the JSON of it."""
    return jsonshape.check(verb, json.loads(json.dumps([value])))[0]


def test_status() -> None:
    rows = [Row(KNOWN, State.UNKNOWN, True, True), Row(GONE, State.UNLOADED, False, False)]
    found = printed(
        "status", status.as_data(Status(SERVICE, 1, Since(10**15, True, True), True, None, rows, "success", [], []), [])
    )
    assert (found["base_changed"], found["reload_result"], found["differs"]) == (None, "success", False)
    one, two = found["layers"]
    assert one == {
        "label": "a_1.raw", "name": "a", "version": "1", "kind": "image", "path": "/a_1.raw", "file": "/a_1.raw",
        "state": None, "running": True, "loaded": True, "on_disk": True, "changed": False, "enforced": True,
        "root_hash": "ab", "signature": None, "signers": None,
    }  # fmt: skip
    assert {key: value for key, value in two.items() if value is not None} == {
        "label": "b", "name": "b", "state": "unloaded", "running": True, "loaded": False, "on_disk": False,
    }  # fmt: skip


def test_status_of_what_does_not_run() -> None:
    found = printed("status", status.as_data(Status(SERVICE, None, None, True, None, [], "success", [], []), []))
    assert (found["since"], found["since_is"], found["reload_result"]) == (None, None, None)


def test_status_of_what_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(*_: object) -> NoReturn:
        raise TimeoutError("too slow")

    monkeypatch.setattr(patience, "attempt", attempt)
    found = printed("status", status._patiently(SERVICE, Disk("/nonexistent", {}), []))
    known = {"complete", "base_changed", "reload_result", "differs", "layers"}
    assert {key for key, value in found.items() if value is None} == known | {"pid", "since", "since_is"}
    assert found["reasons"] == ["it cannot be looked at: too slow"]


def test_which() -> None:
    found = printed(
        "which", which._as_data(UNIT, "/etc/a", PLACE, Origin(Kind.UNKNOWN, hides_host=None, unsure=(GONE,)), [], [])
    )
    assert (found["from"], found["layer"], found["evidence"], found["host"], found["hidden"]) == (None,) * 4 + ([],)
    assert [one["name"] for one in found["unsure"]] == ["b"]


def test_diff() -> None:
    side = Side("file", 0o644, 0, 0, 0, "")
    files = [FileChange("/etc/a", None, side, "a"), FileChange("/etc/b", side, None)]
    preview = Preview(LayerChange([IMAGE], [IMAGE], [], [Layer("b")]), files, None, None)
    found = printed("diff", diff._as_data(UNIT, False, preview, [IMAGE.path]))
    assert (found["differs"], found["base_changed"]) == (True, None)
    assert [one["kind"] for one in (*found["layers"]["added"], *found["layers"]["removed"])] == ["image", None]
    assert [one["layer"] and one["layer"]["path"] for one in found["files"]] == [IMAGE.path, None]


def test_diff_where_the_future_cannot_be_had() -> None:
    found = printed("diff", diff._as_data(UNIT, True, Preview(None, [], ConfextError("bad")), []))
    assert {key: value for key, value in found.items() if value is not None} == {
        "unit": UNIT, "daemon_reload_needed": True, "refused": "bad",
    }  # fmt: skip
