# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is handed to the journal."""

from __future__ import annotations

import sys
from enum import StrEnum
from types import ModuleType
from typing import Any

import pytest

from confext_helpers.system.journal import Message, Priority, load, say


class Id(StrEnum):
    """One that there is not."""

    ODD = "0123"


class Sink(ModuleType):
    """The part of python-systemd that sends."""

    def __init__(self) -> None:
        super().__init__("systemd._journal")
        self.sent: list[tuple[bytes, ...]] = []
        self.error: OSError | None = None

    def sendv(self, *fields: bytes) -> None:
        if self.error:
            raise self.error
        self.sent.append(fields)


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Sink:
    found = Sink()
    monkeypatch.setitem(sys.modules, "systemd", ModuleType("systemd"))
    monkeypatch.setitem(sys.modules, "systemd._journal", found)
    return found


def message(priority: Priority = Priority.ERROR, text: str = "a.service: no") -> Message:
    return Message(Id.ODD, priority, text, {"CONFEXT_LAYER": "/srv/\udcff.raw"})


def test_entry_is_the_service_s(sink: Sink) -> None:
    load()
    say("a.service", message())
    assert sink.sent == [
        (
            b"MESSAGE=a.service: no", b"MESSAGE_ID=0123", b"PRIORITY=3", b"SYSLOG_IDENTIFIER=unit-confext",
            b"OBJECT_SYSTEMD_UNIT=a.service", b"CONFEXT_LAYER=/srv/\xff.raw",
        )
    ]  # fmt: skip


def test_journal_that_is_not_there(sink: Sink, capsys: pytest.CaptureFixture[str]) -> None:
    """Then it is said on standard error, and the reload goes on."""
    sink.error = OSError(2, "No such file or directory")
    say("a.service", message())
    assert capsys.readouterr().err == "a.service: no\n"


@pytest.mark.parametrize(
    ("terminal", "priority", "shown"),
    [(True, Priority.INFO, True), (True, Priority.DEBUG, False), (False, Priority.ERROR, False)],
)
def test_terminal_shows_it_too(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, capsys: Any, terminal: bool, priority: Priority, shown: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    say("a.service", message(priority))
    assert capsys.readouterr().err == ("a.service: no\n" if shown else "")
    assert len(sink.sent) == 1
