# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images that give private files away: which are told, and that nothing else is looked at for long."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from confext_helpers.view import exposure
from confext_helpers.view.exposure import exposed


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with a private file in it that everybody can read and reach."""
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(0o755)
    (tmp_path / "tree/etc").mkdir(parents=True)
    (tmp_path / "tree/etc/key").touch(0o640)
    (tmp_path / "tree/etc").chmod(0o755)
    if not Path("/usr/bin/mksquashfs").exists():
        pytest.skip("mksquashfs is not installed")
    command = ["mksquashfs", f"{tmp_path}/tree", f"{tmp_path}/a.raw", "-quiet", "-no-progress"]
    subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "a.raw").chmod(0o644)
    return tmp_path / "a.raw"


def test_image_that_is_open(image: Path) -> None:
    assert exposed([str(image)]) == {str(image): "/etc/key"}
    assert exposed(["/a.raw"], root=str(image.parent)) == {"/a.raw": "/etc/key"}
    image.chmod(0o640)
    assert exposed([str(image)]) == {}


def test_image_out_of_reach(image: Path) -> None:
    image.parent.chmod(0o750)
    assert exposed([str(image)]) == {}


def test_what_is_no_image_or_does_not_answer(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (image.parent / "x.raw").write_text("no image")
    (image.parent / "x.raw").chmod(0o644)
    paths = [f"{image.parent}/gone.raw", f"{image.parent}/x.raw", str(image)]
    assert exposed(paths) == {str(image): "/etc/key"}
    monkeypatch.setattr(exposure, "IMAGE_SEC", 0.2)
    monkeypatch.setattr(exposure, "ALL_SEC", 0.5)
    monkeypatch.setattr(exposure, "_first_private", lambda path: time.sleep(20))
    before = time.monotonic()
    assert exposed([f"{image}{number}" for number in range(9)]) == {}
    assert time.monotonic() - before < 10
