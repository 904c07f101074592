# SPDX-License-Identifier: LGPL-2.1-or-later
"""What becomes of errors: one line, the same as the generator and the hook have for those that nobody expected."""

from __future__ import annotations

import pytest

from confext_helpers.command import main
from confext_helpers.command.verbs import list as verb
from confext_helpers.errors import ConfextError, unexpected


@pytest.fixture(params=[TypeError("a\nb"), ConfextError("is wrong", hint="mend it"), FileNotFoundError(2, "No", "/x")])
def error(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Exception:
    """An error that `list` raises."""
    error: Exception = request.param

    def fail(*arguments: object) -> int:
        raise error

    monkeypatch.setattr(verb, "run", fail)
    return error


def test_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["list"]) == 1
    text = str(unexpected(error) if isinstance(error, TypeError) else error)
    assert capsys.readouterr() == ("", f"unit-confext: {text}\n")
    assert text.startswith("unexpected TypeError: a\\nb; ") is isinstance(error, TypeError)


def test_traceback_with_debug(error: Exception) -> None:
    """Python prints what leaves main()."""
    with pytest.raises(type(error)):
        main.main(["list", "--debug"])
