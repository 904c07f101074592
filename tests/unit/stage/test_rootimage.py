# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a stage would mount a root image writable."""

from __future__ import annotations

from pathlib import Path

import pytest

from confext_helpers.errors import ConfextError
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.stage import rootimage

EXT4 = bytes(1024 + 56) + b"\x53\xef" + bytes(38) + b"\x40" + bytes(4096)


def properties(image: Path, **values: object) -> ServiceProperties:
    return ServiceProperties({"RootImage": ("s", str(image)), **{name: ("", value) for name, value in values.items()}})


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "root.raw"
    path.write_bytes(EXT4)
    return path


STRICT: dict[str, object] = {"ProtectSystem": "strict"}


@pytest.mark.parametrize(
    ("values", "read_only"),
    [
        ({}, False),
        (STRICT, False),
        ({"ProtectHome": "yes"}, False),
        ({**STRICT, "ProtectHome": "tmpfs"}, True),
        ({"ProtectSystem": "full", "ProtectHome": "yes"}, False),
        ({**STRICT, "ProtectHome": "yes", "ReadWritePaths": ["-/var"]}, False),
        ({"ReadOnlyPaths": ["-/", "/home/"]}, True),
        ({**STRICT, "InaccessiblePaths": ["-/home"]}, True),
        ({**STRICT, "InaccessiblePaths": ["-/home/user"]}, False),
        ({**STRICT, "TemporaryFileSystem": [("/home", "ro")]}, True),
        ({**STRICT, "BindReadOnlyPaths": [("/srv", "/home", False, 0)]}, True),
    ],
)
def test_what_systemd_decides_by(image: Path, values: dict[str, object], read_only: bool) -> None:
    given = properties(image, **values)
    assert rootimage.is_read_only(given) is read_only
    if read_only:
        rootimage.check(given)
        return
    with pytest.raises(ConfextError, match="while the service may write its root image: it has ext4"):
        rootimage.check(given)


@pytest.mark.parametrize("content", [b"hsqs" + bytes(4096), bytes(1024) + b"\xe2\xe1\xf5\xe0" + bytes(4096)])
def test_file_system_that_cannot_be_written(image: Path, content: bytes) -> None:
    image.write_bytes(content)
    rootimage.check(properties(image))


def test_what_is_not_known_is_writable(image: Path) -> None:
    image.write_bytes(bytes(8192))
    with pytest.raises(ConfextError, match="its content is not known"):
        rootimage.check(properties(image))


def test_what_is_guarded_by_dm_verity(image: Path) -> None:
    rootimage.check(properties(image, RootHash=b"\1"))


def test_without_a_root_image() -> None:
    rootimage.check(ServiceProperties({}))


def test_other_images(image: Path) -> None:
    with pytest.raises(ConfextError, match="may write an image of MountImages=: it has ext4"):
        rootimage.check(ServiceProperties({}), [str(image)])
    image.write_bytes(b"hsqs" + bytes(4096))
    rootimage.check(ServiceProperties({}), [str(image)])
