# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook's order of things: what was looked at is what the stage has, or the reload is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from confext_helpers.errors import ConfextError
from confext_helpers.hook import main as hook
from confext_helpers.stage import limits, refusals, transient, writers
from confext_helpers.swap import change
from confext_helpers.system import journal
from confext_helpers.system.filewords import Files


class Anything:
    """A manager, notes, a stage that is waited for, and that stage."""

    root = "/nowhere"
    namespace = -1
    closed = False

    def wait(self, manager: Anything) -> Anything:
        return self

    def close(self) -> None:
        self.closed = True

    def disconnect(self) -> None:
        pass

    def step(self, step: str) -> None:
        pass

    def read_stack(self) -> None:
        pass


class Reached(Exception):
    """All that is looked at before the comparison has passed."""


@pytest.fixture
def restack(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hook, which has nothing to say."""
    monkeypatch.setattr(hook, "say", None)
    return hook


def compare(*arguments: object) -> None:
    raise Reached


@pytest.mark.parametrize(
    ("replaced", "signed", "expected"),
    [("image", True, ConfextError), ("image", False, Reached), ("host", True, Reached), ("", True, Reached)],
)
def test_layer_that_is_replaced_before_its_signature_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restack: Any, replaced: str, signed: bool,
    expected: type[Exception],
) -> None:  # fmt: skip
    """Also where the service has no checks of its own. What changes in the host's /etc is the next reload's."""
    image = tmp_path / "demo.raw"
    (tmp_path / "etc").mkdir()
    for path in (image, tmp_path / "new.raw"):
        path.write_bytes(path.name.encode())

    def look(*arguments: object) -> bool:
        if replaced == "image":
            (tmp_path / "new.raw").rename(image)
        elif replaced == "host":
            (tmp_path / "etc/new").touch()
        return signed

    there: Any = Anything()
    monkeypatch.setattr(refusals, "check_signers", look)
    monkeypatch.setattr(writers, "check", lambda *arguments: None)
    monkeypatch.setattr(limits, "check", lambda *arguments: None)
    monkeypatch.setattr(restack, "check_directories", lambda *arguments: [])
    monkeypatch.setattr(restack, "strangers", lambda *arguments: {})
    monkeypatch.setattr(refusals, "check_releases", lambda *arguments: None)
    monkeypatch.setattr(restack.checks, "read", lambda *arguments: None)
    monkeypatch.setattr(transient, "begin", lambda *arguments: there)
    monkeypatch.setattr(change, "find", compare)
    properties: Any = {
        "ExtensionImages": ("a(sba(ss))", [(str(image), False, [])]), "RootDirectory": ("s", str(tmp_path)),
        "ExtensionImagePolicy": ("s", "root=signed"),
    }  # fmt: skip
    process: Any = there
    there.key = "1"
    with pytest.raises(expected):
        restack.restack("foo.service", there, there, properties, [process], restack.Progress(there), Files(), there)
    assert there.closed


def test_nothing_is_loaded_in_the_namespace_of_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """What writes to the journal is a library, and there before anything else is done."""
    monkeypatch.setattr(journal, "load", lambda: (_ for _ in ()).throw(Reached))
    for word in ("--alone", "--refuse", "--recover", "--report", "--access"):
        with pytest.raises(Reached):
            hook.run(hook.parse_options([word, "foo.service"]))
    with pytest.raises(Reached):
        hook.run(hook.parse_options(["foo.service"]))
