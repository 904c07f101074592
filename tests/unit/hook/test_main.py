# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook's order of things."""

from __future__ import annotations

import pytest

from confext_helpers.hook import main as hook
from confext_helpers.system import journal


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
