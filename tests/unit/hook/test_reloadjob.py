# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the hook makes of the jobs around it, with a manager that says no."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import cast

import pytest

from confext_helpers.errors import ConfextError
from confext_helpers.hook.deadline import Line
from confext_helpers.hook.reloadjob import Reload, SupersededError, cancel
from confext_helpers.service import notes as notes_module
from confext_helpers.service.notes import Notes
from confext_helpers.system.bus import Job
from unit.fakemanager import FakeManager

UNIT = "a.service"
OWN = "unit-confext-restack@a.service.service"
REPORT = "unit-confext-report@a.service.service"
WAITS = Job(7, "reload", "waiting")
REFUSES = ConfextError("the manager says no")


class FakeLine(Line):
    """Says yes."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def _write(self, line: str) -> None:
        self.said.append(line)

    def ask(self) -> None:
        self.said.append("swap")


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    monkeypatch.setattr(notes_module, "RUN_DIRECTORY", str(tmp_path))
    return Notes(UNIT)


def manager(**jobs: Job) -> FakeManager:
    found = FakeManager()
    found.jobs = {{"unit": UNIT, "own": OWN}[name]: job for name, job in jobs.items()}
    return found


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ({"unit": WAITS}, True),
        ({"unit": WAITS, "own": Job(8, "reload", "running")}, True),
        ({}, False),
        ({"unit": Job(7, "restart", "waiting")}, False),
        ({"unit": Job(7, "reload", "running")}, False),
        ({"unit": WAITS, "own": Job(8, "reload", "waiting")}, False),  # asked for once more
    ],
)
def test_swap_only_for_a_reload_that_waits(jobs: dict[str, Job], expected: bool) -> None:
    line = FakeLine()
    with contextlib.nullcontext() if expected else pytest.raises(SupersededError):
        Reload(UNIT, WAITS, line).begin_swap(manager(**jobs))
    assert ("swap" in line.said) == expected


def test_by_hand_nobody_is_asked_but_the_parent() -> None:
    line, asked = FakeLine(), manager()
    Reload(UNIT, None, line).begin_swap(asked)
    assert (line.said, asked.asked) == (["swap"], [])


def test_service_that_reads_its_files_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    line, asked = FakeLine(), manager(unit=WAITS)
    asked.state = "reloading"
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        asked.state = "reloading" if len(slept) < 3 else "active"

    monkeypatch.setattr("time.sleep", sleep)
    Reload(UNIT, WAITS, line).begin_swap(asked)
    assert len(slept) == 3
    assert line.said[-1] == "swap"


@pytest.mark.parametrize(
    ("jobs", "orders"),
    [
        ({"unit": WAITS}, [("start_unit", REPORT)]),
        # Cancelled in the last moment: the service has new files, and is told.
        ({}, [("reload_alone", UNIT), ("start_unit", REPORT)]),
        ({"unit": Job(9, "reload", "running")}, [("reload_alone", UNIT), ("start_unit", REPORT)]),
        ({"unit": Job(9, "restart", "waiting")}, []),
    ],
)  # fmt: skip
def test_after_a_swap_the_service_is_reloaded(
    notes: Notes, jobs: dict[str, Job], orders: list[tuple[str, object]]
) -> None:
    line, asked = FakeLine(), manager(**jobs)
    Reload(UNIT, WAITS, line).swapped(asked, notes)
    assert (line.said, asked.orders, notes.read_owed()) == (["swapped"], orders, 7)


@pytest.mark.parametrize("method", ["list_jobs", "reload_alone", "start_unit"])
def test_after_a_swap_no_error_matters(notes: Notes, method: str) -> None:
    """The swap has been made; an error now would refuse a reload that has to come."""
    line, asked = FakeLine(), manager()
    asked.errors[method] = REFUSES
    Reload(UNIT, WAITS, line).swapped(asked, notes)
    assert method in asked.asked
    assert line.said == ["swapped"]


def test_cancel(notes: Notes) -> None:
    asked = manager(unit=WAITS)
    assert cancel(asked, notes, UNIT)
    assert asked.orders == [("cancel_job", 7)]


@pytest.mark.parametrize("job", [None, Job(7, "start", "waiting"), Job(7, "reload", "running")])
def test_nothing_to_cancel(notes: Notes, job: Job | None) -> None:
    asked = manager(**({"unit": job} if job else {}))
    assert not cancel(asked, notes, UNIT)
    assert asked.orders == []


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_what_is_asked_for_once_more_is_left_to_the_next_run(notes: Notes, state: str) -> None:
    asked = manager(unit=WAITS, own=Job(8, "reload", state))
    assert cancel(asked, notes, UNIT, unless_repeated=True) == (state == "running")


def test_job_for_which_the_last_run_has_swapped(notes: Notes) -> None:
    """Its service has new files, and must be told of them, whatever this run has refused."""
    notes.write_owed(7)
    asked = manager(unit=WAITS)
    assert cancel(asked, notes, UNIT)
    assert asked.orders == [("cancel_job", 7), ("reload_alone", UNIT)]
    # If it cannot be reloaded, the refusal stands all the same.
    asked = manager(unit=WAITS)
    asked.errors["reload_alone"] = REFUSES
    assert cancel(asked, notes, UNIT)


def test_job_that_cannot_be_cancelled(notes: Notes) -> None:
    asked = manager(unit=WAITS)
    asked.errors["cancel_job"] = REFUSES
    with pytest.raises(ConfextError, match="says no"):
        cancel(asked, notes, UNIT)

    # It has begun meanwhile.
    class Quick(FakeManager):
        def cancel_job(self, number: int) -> None:
            self.jobs = {}
            raise REFUSES

    quick = Quick()
    quick.jobs = {UNIT: WAITS}
    assert not cancel(cast(FakeManager, quick), notes, UNIT)
