"""How it is told that a stage could not be started."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from confext_helpers import failure


def test_failure_names_the_layer_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "b.raw").touch()
    layers = [str(tmp_path / "a.raw"), str(tmp_path / "b.raw")]
    line = f"Failed to set up mount namespacing: /run/systemd/unit-extensions/0: {os.strerror(errno.ENOPKG)}"
    reason, path = failure.explain(["something else", line, "Failed at step NAMESPACE"], layers)
    assert reason.startswith("no partition table or file system that systemd knows is in it (")
    assert path == layers[1]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "the stage ended before it was up"),
        (["what systemd says"], "what systemd says"),
        (["Failed to set up mount namespacing: /etc/x: No such file"], "/etc/x: No such file"),
        (["Failed to set up mount namespacing: No such file"], "No such file"),
        (["Failed to set up mount namespacing: /r/unit-extensions/7: E"], "/r/unit-extensions/7: E"),
    ],
)
def test_failure_that_is_no_layer_s(lines: list[str], expected: str) -> None:
    assert failure.explain(lines, []) == (expected, "")
