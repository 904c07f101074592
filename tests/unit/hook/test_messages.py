# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything that the hook says, word for word; and that the catalog explains each of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from confext_helpers.errors import ConfextError
from confext_helpers.hook import messages
from confext_helpers.hook.messages import Id
from confext_helpers.service.layers import Layer, LayerChange
from confext_helpers.swap.change import FILES_MAX
from confext_helpers.swap.treediff import Difference, Files
from confext_helpers.system.journal import Message, Priority
from confext_helpers.transaction.steps import Step

CHECKOUT = Path(__file__).parents[3]
UNIT = "a.service"

SITE = Layer("site", "/x/10-site.raw", "/x/10-site.raw")
EXTRA = Layer("extra", "/x/extra.raw.v", "/x/extra.raw.v/extra_2.raw", "2", "ab12")
GONE = Layer("gone")

SITE_JSON = '{"name": "site", "path": "/x/10-site.raw", "file": "/x/10-site.raw", "version": null, "root_hash": null}'
EXTRA_JSON = (
    '{"name": "extra", "path": "/x/extra.raw.v", "file": "/x/extra.raw.v/extra_2.raw", "version": "2", '
    '"root_hash": "ab12"}'
)
GONE_JSON = '{"name": "gone", "path": null, "file": null, "version": null, "root_hash": null}'


def files(*paths: str, limit: int | None = None) -> Files:
    found = Files(limit)
    for path in paths:
        found.add(path)
    return found


def test_restacked() -> None:
    change = LayerChange([SITE, EXTRA], [EXTRA], [SITE], [GONE])
    difference = Difference(files("a", 'b"'), files("c/d"), files("e", "f", "g"))
    usec = {Step.PREPARE: 5, Step.STAGE: 10, Step.CHECKS: 20, Step.COMPARE: 30, Step.SWAP: 40}
    assert messages.restacked(UNIT, change, difference, usec) == Message(
        Id.RESTACKED,
        Priority.INFO,
        "a.service: /etc re-stacked: 10-site.raw replaced, extra_2.raw added, gone removed; "
        "2 files added, 1 changed, 3 removed",
        {
            "CONFEXT_LAYERS": f"[{SITE_JSON}, {EXTRA_JSON}]",
            "CONFEXT_LAYERS_ADDED": f"[{EXTRA_JSON}]",
            "CONFEXT_LAYERS_REPLACED": f"[{SITE_JSON}]",
            "CONFEXT_LAYERS_REMOVED": f"[{GONE_JSON}]",
            "CONFEXT_FILES_ADDED": '["a", "b\\""]',
            "CONFEXT_FILES_ADDED_COUNT": "2",
            "CONFEXT_FILES_CHANGED": '["c/d"]',
            "CONFEXT_FILES_CHANGED_COUNT": "1",
            "CONFEXT_FILES_REMOVED": '["e", "f", "g"]',
            "CONFEXT_FILES_REMOVED_COUNT": "3",
            "CONFEXT_PREPARE_USEC": "5",
            "CONFEXT_STAGE_USEC": "10",
            "CONFEXT_CHECKS_USEC": "20",
            "CONFEXT_COMPARE_USEC": "30",
            "CONFEXT_SWAP_USEC": "40",
        },
    )


def counts(added: int, changed: int, removed: int) -> str:
    numbers = (added, changed, removed)
    difference = Difference(*(files(*(str(i) for i in range(number))) for number in numbers))
    text = messages.restacked(UNIT, LayerChange([SITE], [], [], []), difference, {}).text
    assert text.startswith("a.service: /etc re-stacked: no layer changed; ")
    return text.partition("; ")[2]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0, 0, 0), "no file differs"),
        ((1, 0, 0), "1 file added"),
        ((0, 2, 0), "2 files changed"),
        ((0, 0, 1), "1 file removed"),
        ((0, 1, 2), "1 file changed, 2 removed"),
        ((3, 0, 1), "3 files added, 1 removed"),
    ],
)
def test_counts(numbers: tuple[int, int, int], text: str) -> None:
    assert counts(*numbers) == text


@pytest.mark.parametrize(("total", "listed", "rest"), [(200, 200, None), (201, 200, "1"), (5000, 200, "4800")])
def test_lists_are_capped(total: int, listed: int, rest: str | None) -> None:
    changed = files(*(f"file-{number}" for number in range(total)), limit=FILES_MAX)
    change = LayerChange([SITE], [], [SITE], [])
    fields = messages.restacked(UNIT, change, Difference(files(), changed, files()), {}).fields
    assert json.loads(fields["CONFEXT_FILES_CHANGED"]) == [f"file-{number}" for number in range(listed)]
    assert fields["CONFEXT_FILES_CHANGED_COUNT"] == str(total)
    assert fields.get("CONFEXT_FILES_CHANGED_REST") == rest


def test_refused() -> None:
    error = ConfextError("it is broken", unit=UNIT, path="/x/y.raw", hint="replace it")
    assert messages.refused(error, Step.STAGE) == Message(
        Id.REFUSED,
        Priority.ERROR,
        "a.service: /etc is unchanged, it is broken (/x/y.raw); replace it",
        {
            "CONFEXT_STEP": "stage",
            "CONFEXT_REASON": "it is broken",
            "CONFEXT_LAYER": "/x/y.raw",
            "CONFEXT_HINT": "replace it",
        },
    )


def test_refused_by_a_check() -> None:
    error = ConfextError("the check 'x -t' exited with status 1: no", unit=UNIT, hint="mend it", check="x -t")
    assert messages.refused(error, Step.CHECKS) == Message(
        Id.REFUSED,
        Priority.ERROR,
        "a.service: /etc is unchanged, the check 'x -t' exited with status 1: no; mend it",
        {
            "CONFEXT_STEP": "checks",
            "CONFEXT_REASON": "the check 'x -t' exited with status 1: no",
            "CONFEXT_CHECK": "x -t",
            "CONFEXT_HINT": "mend it",
        },
    )


def test_refused_too_late() -> None:
    """Where a part of the service has the new /etc, nothing says that it is unchanged."""
    error = ConfextError("only 1 of 2 mount namespaces have the new /etc: no", unit=UNIT, hint="reload again")
    message = messages.refused(error, Step.SWAP, partly=True)
    assert message.text == "a.service: only 1 of 2 mount namespaces have the new /etc: no; reload again"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            messages.unchanged(UNIT),
            Message(Id.UNCHANGED, Priority.DEBUG, "a.service: nothing changed in its layers, /etc stays as it is", {}),
        ),
        (
            messages.no_process(UNIT),
            Message(Id.UNCHANGED, Priority.DEBUG, "a.service: no process runs, so there is no /etc to change", {}),
        ),
        (
            messages.cut_off(UNIT),
            Message(
                Id.CUT_OFF,
                Priority.ERROR,
                "a.service: not reloaded, since its re-stack was cut off; reload it again",
                {},
            ),
        ),
        (
            messages.completed(UNIT),
            Message(
                Id.COMPLETED,
                Priority.WARNING,
                "a.service: completed a re-stack of /etc that was cut off; reload it again",
                {},
            ),
        ),
        (
            messages.reload_failed(UNIT, "exit-code"),
            Message(
                Id.RELOAD_FAILED,
                Priority.ERROR,
                "a.service: /etc is the new one, but the service's own reload failed (exit-code); see journalctl -u "
                "a.service, mend the configuration in the image and reload again",
                {"CONFEXT_RESULT": "exit-code"},
            ),
        ),
        (
            messages.failed(ConfextError("cannot reach the service manager", unit=UNIT)),
            Message(Id.FAILED, Priority.ERROR, "a.service: cannot reach the service manager", {}),
        ),
        (
            messages.not_started(ConfextError("its layer is", unit="a.service", path="/b", hint="do")),
            Message(Id.NOT_STARTED, Priority.ERROR, "a.service: not started, its layer is (/b); do", {}),
        ),
        (
            messages.left_alone(UNIT),
            Message(
                Id.LEFT_ALONE,
                Priority.INFO,
                "a.service: /etc is left alone, since no reload by systemd waits for it; for what is new in its "
                "layers, run 'systemctl reload a.service'",
                {},
            ),
        ),
        (
            messages.superseded(UNIT),
            Message(
                Id.UNCHANGED,
                Priority.DEBUG,
                "a.service: /etc stays as it is, since its reload was requested again, or cancelled",
                {},
            ),
        ),
        (messages.section("a.service", "a line"), Message(Id.SECTION, Priority.WARNING, "a.service: a line", {})),
        (
            messages.detach_point_kept(UNIT, "/run/x"),
            Message(
                Id.DETACH_POINT_KEPT,
                Priority.WARNING,
                "a.service: failed to remove /run/x, which this reload made, since the service put files into it; "
                "nothing is mounted there, remove it",
                {"CONFEXT_PLACE": "/run/x"},
            ),
        ),
        (
            messages.strangers(UNIT, {7: "works", 8: "sleeps"}),
            Message(
                Id.STRANGERS,
                Priority.WARNING,
                "a.service: its process 7 (and 1 more) keeps its old /etc: it works",
                {"CONFEXT_PIDS": '{"7": "works", "8": "sleeps"}'},
            ),
        ),
    ],
)
def test_others(message: Message, expected: Message) -> None:
    assert message == expected


def test_catalog() -> None:
    """An entry for each message, and no other; it uses no field that its message does not have."""
    nothing = Difference(files(), files(), files())
    error = ConfextError("it is broken", unit=UNIT, path="/x/y.raw", hint="replace it")
    samples = (
        messages.restacked(UNIT, LayerChange([], [], [], []), nothing, {}),
        messages.refused(error, Step.STAGE),
        messages.reload_failed(UNIT, "timeout"),
        messages.detach_point_kept(UNIT, "/run/x"),
        messages.strangers(UNIT, {1: "works"}),
    )
    fields = {sample.id: {"OBJECT_SYSTEMD_UNIT", *sample.fields} for sample in samples}
    text = (CHECKOUT / "units/unit-confext.catalog").read_text()
    entries = dict(re.findall(r"^-- ([0-9a-f]{32})\n(.*?)(?=^-- |\Z)", text, re.M | re.S))
    assert set(entries) == set(Id)
    head = r"Subject: .*\nDefined-By: unit-confext\nDocumentation: man:unit-confext-restack\(8\)\n\n"
    for identifier, entry in entries.items():
        assert re.match(head, entry), identifier
        assert set(re.findall(r"@([A-Z_]+)@", entry)) <= fields.get(Id(identifier), {"OBJECT_SYSTEMD_UNIT"}), identifier
