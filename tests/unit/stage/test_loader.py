# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who can change where the path of a stage's program leads."""

from __future__ import annotations

from pathlib import Path

import pytest

from confext_helpers.errors import ConfextError
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.stage import loader

LOADER = "/run/unit-confext/loader"


@pytest.fixture
def root(own_path: Path) -> Path:
    for name in ("root", "root/run", "root/srv"):
        (own_path / name).mkdir(mode=0o755)
    return own_path / "root"


def check(name: str, value: object) -> None:
    loader.check_path(ServiceProperties({name: ("", value)}), LOADER)


def refused(name: str, value: object) -> bool:
    try:
        check(name, value)
    except ConfextError as error:
        assert "others can change" in error.problem
        return True
    return False


@pytest.mark.parametrize("writable", ["", "run", "srv", ".."])
def test_root_directory(root: Path, writable: str) -> None:
    check("RootDirectory", str(root))
    (root / writable).chmod(0o777)
    assert refused("RootDirectory", str(root)) is (writable != "srv")


def test_directory_that_others_could_make(root: Path) -> None:
    (root / "run").rmdir()
    check("RootDirectory", str(root))
    root.chmod(0o1777)
    assert refused("RootDirectory", str(root))


@pytest.mark.parametrize(
    ("target", "matters"),
    [("/run", True), ("/run/", True), ("/", True), ("/run/unit-confext", True), ("/run/foo", False)],
)
@pytest.mark.parametrize("name", ["BindPaths", "BindReadOnlyPaths"])
def test_bind_mounts(root: Path, name: str, target: str, matters: bool) -> None:
    bound = [(str(root / "srv"), target, False, 0)]
    check(name, bound)
    (root / "srv").chmod(0o777)
    assert refused(name, bound) is matters


def test_alias_of_the_place(root: Path) -> None:
    """Where the target of a mount leads inside of the root directory is what counts."""
    (root / "var").mkdir(mode=0o755)
    (root / "var/run").symlink_to("/run")
    bound = [(str(root / "srv"), "/var/run", False, 0)]
    given = ServiceProperties({"RootDirectory": ("s", str(root)), "BindPaths": ("", bound)})
    loader.check_path(given, LOADER)
    (root / "srv").chmod(0o777)
    with pytest.raises(ConfextError, match="others can change"):
        loader.check_path(given, LOADER)


@pytest.mark.parametrize("name", ["RootImage", "MountImages"])
def test_image_that_others_can_write(root: Path, name: str) -> None:
    image = root / "srv/x.raw"
    image.touch(0o644)
    value: object = str(image) if name == "RootImage" else [(str(image), "/run", False, [])]
    check(name, value)
    image.chmod(0o666)
    assert refused(name, value)
