# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which mounts of a service its `/etc` is made of, and where their paths lead."""

from __future__ import annotations

from pathlib import Path

import pytest

from confext_helpers.service.properties import ServiceProperties
from confext_helpers.stage import targets
from confext_helpers.stage.targets import Places


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("etc/x", "run", "var", "srv/source"):
        (tmp_path / name).mkdir(parents=True)
    for link, target in {
        "var/run": "/run", "configuration": "etc", "var/up": "../etc/x", "srv/source/link": "/etc/x", "loop": "loop",
    }.items():  # fmt: skip
        (tmp_path / link).symlink_to(target)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("/", "/"),
        ("//etc/./x/", "/etc/x"),
        ("/var/run/foo", "/run/foo"),
        ("/configuration/x", "/etc/x"),
        ("/var/up/../y", "/etc/y"),
        ("/nothing/here/../there", "/nothing/there"),
        ("/../../etc", "/etc"),
    ],
)
def test_follow(root: Path, path: str, end: str) -> None:
    assert Places(ServiceProperties({}), str(root)).follow(path).path == end


def test_loop(root: Path) -> None:
    with pytest.raises(OSError, match="/loop/x"):
        Places(ServiceProperties({}), str(root)).follow("/loop/x")


def select(root: Path | None, **values: object) -> dict[str, list[object]]:
    given = ServiceProperties({name: ("", value) for name, value in values.items()})
    found = targets.select(given, Places(given, None if root is None else str(root)))
    return {name: [entry.item for entry in entries] for name, entries in found.items() if entries}


def bind(target: str, source: str = "/source") -> tuple[object, ...]:
    return source, target, False, 0


@pytest.mark.parametrize(
    ("target", "needed"),
    [
        ("/etc", True),
        ("/etc/x/y", True),
        ("/", True),
        ("/configuration/y", True),
        ("/var/up", True),
        ("/etcetera", False),
        ("/run/foo", False),
        ("/var/run", False),
        ("/tmp/foo", False),
    ],
)
def test_what_shapes_etc_is_needed(root: Path, target: str, needed: bool) -> None:
    for name, entry in {
        "BindPaths": bind(target),
        "BindReadOnlyPaths": bind(target),
        "MountImages": ("/image.raw", target, False, []),
        "TemporaryFileSystem": (target, "ro"),
        "InaccessiblePaths": f"-{target}",
        "ReadOnlyPaths": target,
    }.items():
        assert select(root, **{name: [entry]}) == ({name: [entry]} if needed else {})


def test_link_of_somebody_in_what_is_not_the_service_s(root: Path) -> None:
    (root / "tmp").mkdir()
    (root / "tmp/foo").symlink_to("/etc/x")
    assert select(root, InaccessiblePaths=["/tmp/foo"]) == {"InaccessiblePaths": ["/tmp/foo"]}
    assert select(root, InaccessiblePaths=["/tmp/foo"], PrivateTmp=True) == {}
    assert select(root, InaccessiblePaths=["/tmp/foo"], TemporaryFileSystem=[("/tmp", "")]) == {}


def test_link_in_a_source_needs_that_mount_too(root: Path) -> None:
    source = bind("/opt", str(root / "srv/source"))
    assert select(root, BindPaths=[source, bind("/other")], InaccessiblePaths=["/opt/link"]) == {
        "BindPaths": [source], "InaccessiblePaths": ["/opt/link"],
    }  # fmt: skip


def test_paths_of_a_root_directory(root: Path) -> None:
    """Without a "+" they are the host's: systemd.exec(5), ReadWritePaths=."""
    given = ["/etc/x", "+/etc/x", "-+/var/up", f"{root}/etc/x", f"-{root}/run", "+/run"]
    found = select(root, RootDirectory=str(root), ReadOnlyPaths=given)
    assert found == {"ReadOnlyPaths": ["+/etc/x", "-+/var/up", f"{root}/etc/x"]}


def test_root_of_which_nothing_is_known(root: Path) -> None:
    assert select(None, BindPaths=[bind("/etc/y"), bind("/configuration/y")]) == {"BindPaths": [bind("/etc/y")]}
