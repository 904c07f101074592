# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is known about layers from the outside, and from the files that they have brought along."""

from __future__ import annotations

from pathlib import Path

import pytest

from confext_helpers.service import layers
from confext_helpers.service.layers import Layer, load_layer
from confext_helpers.service.properties import ServiceProperties
from fuzz import ddi

ROOT_HASH = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("file", "name", "version"),
    [
        ("a.raw", "a", ""),
        ("a_1.2.raw", "a", "1.2"),
        ("a_1.2_x86-64.raw", "a", "1.2_x86-64"),
        ("a_3+2-1.raw", "a", "3+2-1"),
        ("a.confext.raw", "a", ""),
        ("my-site.d.raw", "my-site.d", ""),
        ("_1.raw", "_1", ""),
        ("a", "a", ""),
        ("a_7", "a", "7"),
        ("a.xz", "a.xz", ""),
    ],
)
def test_names(tmp_path: Path, file: str, name: str, version: str) -> None:
    path = str(tmp_path / file)
    assert load_layer(path) == Layer(name, path, path, version)
    assert load_layer(path).label == file


def test_label_of_one_that_is_gone() -> None:
    assert Layer("gone").label == "gone"


def test_newest_version(tmp_path: Path) -> None:
    for file in ("a_2.raw", "a_10.raw", "a_9.raw"):
        (tmp_path / "a.raw.v").mkdir(exist_ok=True)
        (tmp_path / "a.raw.v" / file).touch()
    path = str(tmp_path / "a.raw.v")
    assert load_layer(path) == Layer("a", path, f"{path}/a_10.raw", "10")


def test_root_hash_beside(tmp_path: Path) -> None:
    (tmp_path / "a.raw").touch()
    (tmp_path / "a.roothash").write_text(ROOT_HASH + "\n")
    assert load_layer(str(tmp_path / "a.raw")).root_hash == ROOT_HASH


@pytest.mark.parametrize("sector", [512, 4096])
def test_root_hash_of_partitions(tmp_path: Path, sector: int) -> None:
    image = ddi.image(ddi.identity("tester"), sector=sector)
    (tmp_path / "a.raw").write_bytes(image.raw)
    assert load_layer(str(tmp_path / "a.raw")).root_hash == image.root_hash.hex()


def test_no_root_hash(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(ddi.squashfs())
    assert load_layer(str(tmp_path / "a.raw")).root_hash == ""
    # A damaged table states nothing.
    image = ddi.image(ddi.identity("tester"))
    (tmp_path / "a.raw").write_bytes(image.raw[:600])
    assert load_layer(str(tmp_path / "a.raw")).root_hash == ""


def test_loaded(tmp_path: Path) -> None:
    """Bottom to top: images, then directories; what is not there is no layer."""
    (tmp_path / "z.raw").touch()
    (tmp_path / "d").mkdir()
    properties = ServiceProperties(
        {
            "ExtensionImages": ("a(sba(ss))", [(str(tmp_path / name), True, []) for name in ("z.raw", "gone.raw")]),
            "ExtensionDirectories": ("as", ["-" + str(tmp_path / "d"), "-" + str(tmp_path / "lost")]),
        }
    )
    assert [layer.name for layer in layers.loaded(properties)] == ["z", "d"]
