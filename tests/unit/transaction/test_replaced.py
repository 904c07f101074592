# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was looked at is what the stage has, or the reload is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from confext_helpers.checks import run as checks
from confext_helpers.errors import ConfextError
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.stage import limits, refusals, transient, writers
from confext_helpers.swap import change
from confext_helpers.transaction import prepare
from confext_helpers.transaction.steps import Listener


class Anything:
    """A manager, a stage that is waited for, and that stage."""

    root = "/nowhere"
    namespace = -1
    closed = False

    def wait(self, manager: Anything) -> Anything:
        return self

    def __enter__(self) -> Anything:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True

    def disconnect(self) -> None:
        pass


class Reached(Exception):
    """All that is looked at before the comparison has passed."""


def compare(*arguments: object) -> None:
    raise Reached


@pytest.mark.parametrize(
    ("replaced", "signed", "expected"),
    [("image", True, ConfextError), ("image", False, Reached), ("host", True, Reached), ("", True, Reached)],
)
def test_layer_that_is_replaced_before_its_signature_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: str, signed: bool,
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
    monkeypatch.setattr(prepare, "check_directories", lambda *arguments: [])
    monkeypatch.setattr(prepare, "strangers", lambda *arguments: {})
    monkeypatch.setattr(refusals, "check_releases", lambda *arguments: None)
    monkeypatch.setattr(checks, "read", lambda *arguments: None)
    monkeypatch.setattr(transient, "begin", lambda *arguments: there)
    monkeypatch.setattr(change, "find", compare)
    properties = ServiceProperties({
        "ExtensionImages": ("a(sba(ss))", [(str(image), False, [])]), "RootDirectory": ("s", str(tmp_path)),
        "ExtensionImagePolicy": ("s", "root=signed"),
    })  # fmt: skip
    process: Any = there
    there.key = "1"
    present = prepare.look("foo.service", properties, [process], None)
    with pytest.raises(expected), prepare.prepare(there, present, Listener()):
        pass
    assert there.closed
