# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook's order of things, and what becomes of errors."""

from __future__ import annotations

import pytest

from confext_helpers.errors import ConfextError, unexpected
from confext_helpers.hook import main as hook
from confext_helpers.hook.messages import Id
from confext_helpers.system import journal
from confext_helpers.system.journal import Message


class Reached(Exception):
    """What is to come first has come first."""


def test_nothing_is_loaded_in_the_namespace_of_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """What writes to the journal is a library, and there before anything else is done."""
    monkeypatch.setattr(journal, "load", lambda: (_ for _ in ()).throw(Reached))
    for word in ("--alone", "--refuse", "--recover", "--report", "--access"):
        with pytest.raises(Reached):
            hook.run(hook.parse_options([word, "foo.service"]))
    with pytest.raises(Reached):
        hook.run(hook.parse_options(["foo.service"]))


@pytest.fixture(params=[TypeError("a\nb"), ConfextError("is wrong", hint="mend it"), FileNotFoundError(2, "No", "/x")])
def error(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Exception:
    """An error before anything is begun."""
    error: Exception = request.param

    def fail() -> None:
        raise error

    monkeypatch.setattr(journal, "load", fail)
    return error


def test_an_error_is_said_in_the_unit_s_journal(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, Message]] = []
    monkeypatch.setattr(hook, "say", lambda unit, message: said.append((unit, message)))
    assert hook.main(["--refuse", "foo"]) == 1
    ((unit, message),) = said
    assert (unit, message.id) == ("foo.service", Id.FAILED)
    texts = {
        TypeError: f"foo.service: {unexpected(error)}",
        ConfextError: "foo.service: is wrong; mend it",
        FileNotFoundError: "foo.service: failed to re-stack it: [Errno 2] No: '/x'",
    }
    assert message.text == texts[type(error)]


def test_traceback_with_debug(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python prints what leaves main()."""
    monkeypatch.setattr(hook, "say", None)
    with pytest.raises(type(error)):
        hook.main(["--refuse", "--debug", "foo"])
