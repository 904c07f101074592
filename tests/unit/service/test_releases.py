# SPDX-License-Identifier: LGPL-2.1-or-later
"""What release files prove: nothing, unless there is one for each layer, on a device of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from confext_helpers.service import releases
from confext_helpers.service.releases import Layered, Release


def test_of_etc(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert releases.of_etc(fd) == []
        directory = tmp_path / "extension-release.d"
        directory.mkdir()
        for name in ("a", "b_1.2", ""):
            (directory / f"extension-release.{name}").touch()
        (directory / "other").touch()
        device = tmp_path.stat().st_dev
        assert [(one.name, one.device) for one in releases.of_etc(fd)] == [("a", device), ("b_1.2", device)]
    finally:
        os.close(fd)


def layers(tmp_path: Path, *names: str) -> list[Layered]:
    return [Layered(f"{tmp_path}/{name}", f"{tmp_path}/{name}", name.endswith(".raw")) for name in names]


def release(name: str, device: int, *, lax: bool = False) -> Release:
    return Release(name, device, (device, 0, 0, 0), lax)


@pytest.mark.parametrize(
    ("seen", "count", "expected"),
    [
        ([("a", 1), ("b", 2)], 2, {"a.raw": 1, "b.raw": 2}),
        ([("b", 2)], 1, {"b.raw": 2}),
        ([], 0, {}),
        # One that is not loaded any more, and one of another version.
        ([("a_7", 1), ("b", 2), ("x", 3)], 3, {"a.raw": 1, "b.raw": 2}),
        # Both names are on the device of one layer, or two that are not loaded are.
        ([("a", 2), ("b", 2)], 2, None),
        ([("a", 1), ("x", 2), ("y", 2)], 3, None),
        # A layer is hidden, or has more names than one.
        ([("a", 2)], 2, None),
        ([("a", 1), ("b", 2), ("x", 2)], 2, None),
        ([("a", 1), ("x", 1)], 2, None),
    ],
)
def test_told(tmp_path: Path, seen: list[tuple[str, int]], count: int, expected: dict[str, int] | None) -> None:
    found = releases.told(layers(tmp_path, "a.raw", "b.raw"), [release(*one) for one in seen], count)
    told = {os.path.basename(path): one.device for path, one in found.items()} if found is not None else None
    assert told == expected


def test_name_that_does_not_matter_tells_nothing(tmp_path: Path) -> None:
    seen = [release("a", 1), release("b", 2, lax=True)]
    assert releases.told(layers(tmp_path, "a.raw", "b.raw"), seen, 2) is None


def test_directories_may_share_a_device(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "etc/extension-release.d").mkdir(parents=True)
        (tmp_path / name / f"etc/extension-release.d/extension-release.{name}").touch()
    given = layers(tmp_path, "a", "b")
    seen = [one for layer in given for one in releases.of_directory(f"{layer.file}/etc")]
    found = releases.told(given, seen, 2)
    assert found is not None
    assert [one.name for one in found.values()] == ["a", "b"]
    # Both names are of one directory, which hides the other one's.
    (tmp_path / "b/etc/extension-release.d/extension-release.a").touch()
    seen = releases.of_directory(f"{tmp_path}/b/etc")
    assert releases.told(given, seen, 2) is None


def test_numbers() -> None:
    lower = "lowerdir=/run/systemd/unit-extensions/3/etc:/run/systemd/unit-extensions/0/etc:/run/x/etc"
    assert releases.lower_numbers(lower) == {0, 3}
    assert releases.lower_numbers("lowerdir=/etc") == set()
