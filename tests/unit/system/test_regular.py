# SPDX-License-Identifier: LGPL-2.1-or-later
"""No FIFO is waited for, wherever it lies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from confext_helpers.errors import ConfextError
from confext_helpers.image import trust
from confext_helpers.service.layers import load_layer
from confext_helpers.stage import refusals
from confext_helpers.system import regular
from confext_helpers.view import layerfiles


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """A test that waits for a FIFO ends with a signal, and all others with it: better than not at all."""
    import signal

    signal.alarm(20)
    yield
    signal.alarm(0)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo.raw")
    return tmp_path / "fifo.raw"


def refused(layer: Path, fifo: Path) -> None:
    with pytest.raises(ConfextError) as caught:
        refusals.check_whole(str(layer))
    assert str(caught.value) == (
        f"this is a FIFO, a socket or a character device, not a file ({fifo}); replace or remove it, and reload again"
    )


def test_only_regular_files_are_opened(tmp_path: Path, fifo: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert regular.read(str(tmp_path / "file"), 3) == b"123"
    assert regular.read(str(tmp_path / "link"), 9) == b"12345"
    for other in (fifo, tmp_path, Path("/dev/null")):
        with pytest.raises(OSError, match="Not a regular file"):
            regular.open_file(str(other))


def test_fifo_as_an_image_and_beside_one(tmp_path: Path, fifo: Path) -> None:
    refused(fifo, fifo)
    assert load_layer(str(fifo)).root_hash == ""
    (tmp_path / "a.raw").write_bytes(bytes(8192))
    refusals.check_whole(str(tmp_path / "a.raw"))
    os.mkfifo(tmp_path / "a.roothash")
    refused(tmp_path / "a.raw", tmp_path / "a.roothash")
    assert load_layer(str(tmp_path / "a.raw")).root_hash == ""


def test_fifo_as_the_newest_version(tmp_path: Path) -> None:
    versions = tmp_path / "a.raw.v"
    versions.mkdir()
    os.mkfifo(versions / "a_2.raw")
    refused(versions, versions / "a_2.raw")
    assert load_layer(str(versions)).root_hash == ""


def test_fifo_as_a_certificate(fifo: Path) -> None:
    with pytest.raises((OSError, ConfextError)):
        trust.load((str(fifo),))


def test_file_of_a_directory_layer_may_have_any_size(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/small").write_text("x")
    with open(tmp_path / "etc/large", "wb") as file:
        file.truncate(1 << 43)
    files = layerfiles.TreeFiles(str(tmp_path))
    assert files.content("/etc/small") == b"x"
    assert files.content("/etc/large") is None
