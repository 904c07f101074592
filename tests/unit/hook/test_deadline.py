# SPDX-License-Identifier: LGPL-2.1-or-later
"""The deadline of the hook: what becomes of a child that ends, that does not, and that has begun to swap."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from confext_helpers.hook import deadline
from confext_helpers.hook.deadline import AbandonedError, Line, supervise
from confext_helpers.transaction.steps import Step


def test_child_that_ends() -> None:
    ended = supervise(lambda line: 3)
    assert (ended.status, ended.asked, ended.swapped, ended.terminated) == (3, False, False, False)


def test_child_that_is_killed() -> None:
    def work(line: Line) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert supervise(work).status == -signal.SIGKILL


@pytest.mark.parametrize("limit", [None, 200_000])
def test_child_that_does_not_end(tmp_path: Path, limit: int | None) -> None:
    (tmp_path / "layer").touch()

    def work(line: Line) -> int:
        if limit:
            line.limit(limit)
        line.step(Step.COMPARE)
        with (tmp_path / "layer").open():
            time.sleep(60)
        return 0

    begin = time.monotonic()
    ended = supervise(work, seconds=60 if limit else 0.2)
    assert time.monotonic() - begin < 30
    assert ended.status is None
    assert (ended.seconds, ended.step, ended.path) == (0.2, Step.COMPARE, str(tmp_path / "layer"))
    assert not ended.asked


def test_what_it_waits_for() -> None:
    def work(line: Line) -> int:
        line.doing("another one")
        time.sleep(60)
        return 0

    assert supervise(work, seconds=0.2).doing == "another one"


def test_swap_is_not_cut(tmp_path: Path) -> None:
    """It is finished after the deadline, and said at once."""
    seen: list[bool] = []

    def work(line: Line) -> int:
        line.ask()
        time.sleep(0.5)
        (tmp_path / "swapped").touch()
        line.swapped()
        return 0

    ended = supervise(work, lambda: seen.append((tmp_path / "swapped").exists()), seconds=0.2)
    assert (ended.status, ended.asked, ended.swapped, seen) == (0, True, True, [True])


def test_child_that_hangs_after_the_swap() -> None:
    def work(line: Line) -> int:
        line.ask()
        line.swapped()
        time.sleep(60)
        return 0

    ended = supervise(work, seconds=0.2)
    assert (ended.status, ended.swapped) == (None, True)


def test_swap_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "SWAP_SEC", 0.2)

    def work(line: Line) -> int:
        line.ask()
        time.sleep(60)
        return 0

    ended = supervise(work, seconds=0.2)
    assert (ended.status, ended.asked, ended.swapped) == (None, True, False)


def test_child_without_a_parent() -> None:
    reader, answers = os.pipe()
    said, writer = os.pipe()
    line = Line(reader, writer)
    os.close(answers)
    with pytest.raises(AbandonedError):
        line.ask()
    os.close(said)
    with pytest.raises(AbandonedError):
        line.step(Step.STAGE)
    line.swapped()


def test_parent_that_is_told_to_end() -> None:
    parent = os.getppid

    def work(line: Line) -> int:
        os.kill(parent(), signal.SIGTERM)
        time.sleep(60)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    try:
        ended = supervise(work)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (ended.status, ended.terminated) == (None, True)
