# SPDX-License-Identifier: LGPL-2.1-or-later
"""What does not answer is given up, and everything else is what it is without a child."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from confext_helpers.errors import ConfextError
from confext_helpers.system import patience


def test_answer_is_what_the_function_returns() -> None:
    assert patience.attempt(lambda: {"pid": [os.getpid()]}, 10) != {"pid": [os.getpid()]}
    assert patience.attempt(lambda: b"x" * 1_000_000, 10) == b"x" * 1_000_000


def test_error_is_what_the_function_raises() -> None:
    def fail() -> None:
        raise ConfextError("it is broken", unit="foo.service", path="/x", hint="mend it")

    with pytest.raises(ConfextError) as caught:
        patience.attempt(fail, 10)
    assert str(caught.value) == "foo.service: it is broken (/x); mend it"


def test_no_answer() -> None:
    with pytest.raises(TimeoutError, match=r"no answer within 0\.1 s"):
        patience.attempt(lambda: time.sleep(60), 0.1)


def test_who_dies_does_not_answer() -> None:
    with pytest.raises(TimeoutError):
        patience.attempt(lambda: os.kill(os.getpid(), 9), 10)


def test_silent_ones_are_told_from_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "fifo")
    paths = [str(tmp_path / name) for name in ("file", "one", "fifo", "missing", "two", ".")]
    really_open = os.open

    def hang(path: str, flags: int) -> int:
        if path.endswith(("one", "two")):
            time.sleep(60)
        return really_open(path, flags)

    assert patience.silent(paths, 10) == []
    monkeypatch.setattr(os, "open", hang)
    assert patience.silent(paths, 2) == [paths[1], paths[4]]
