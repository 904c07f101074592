# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a stage is started with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from confext_helpers.errors import ConfextError
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.stage import confinement, failure, process, transient
from confext_helpers.stage.targets import Places
from confext_helpers.system.bus import Manager, Properties, Value, unit_path

IMAGES: tuple[str, object] = ("a(sba(ss))", [("/a.raw", True, []), ("/b.raw", True, [])])


def properties(**values: tuple[str, object]) -> ServiceProperties:
    unset: Properties = {
        "RootDirectory": ("s", ""),
        "RootImage": ("s", ""),
        "MountAPIVFS": ("b", True),
        "ProtectSystem": ("s", "no"),
        "BindReadOnlyPaths": ("a(ssbt)", []),
        "InaccessiblePaths": ("as", []),
        "RuntimeDirectory": ("as", ["one"]),
        "User": ("s", "daemon"),
        "ExecStart": ("a(sasb)", [("/evil", [], False)]),
    }
    return ServiceProperties({**unset, **values})


def test_only_what_shapes_etc_is_copied() -> None:
    given = properties(ExtensionImages=IMAGES, ProtectSystem=("s", "strict"))
    assert given.shaping() == {"ExtensionImages": IMAGES, "ProtectSystem": ("s", "strict")}


def test_api_file_systems_matter_with_a_root_alone() -> None:
    given = properties(RootDirectory=("s", "/srv"))
    assert given.shaping() == {"RootDirectory": ("s", "/srv"), "MountAPIVFS": ("b", True)}


LOADER = "/run/unit-confext/loader"


def build(given: ServiceProperties) -> dict[str, tuple[str, object]]:
    return dict(transient.build_properties("foo.service", given, 3, Places(given, None)))


def test_stage_executes_the_host_s_loader_and_nothing_of_the_service() -> None:
    given = properties(BindReadOnlyPaths=("a(ssbt)", [("/x", "/etc/y", False, 0), ("/x", "/y", False, 0)]))
    built = build(given)
    (command,) = list_of(built["ExecStart"])
    assert (command[0], command[1][0]) == (LOADER, LOADER)
    # No file can have that name.
    assert len(command[1][1]) > os.pathconf("/", "PC_PATH_MAX")
    bound = list_of(built["BindReadOnlyPaths"])
    assert bound[0] == ("/x", "/etc/y", False, 0)
    assert [target for _, target, _, _ in bound[1:]] == [LOADER]
    assert os.path.basename(bound[1][0]).startswith("ld")
    assert built["OnFailure"] == ("as", ["unit-confext-recover@foo.service.service"])
    assert {"RuntimeDirectory", "ExecPaths"} & set(built) == set()


def list_of(value: tuple[str, object]) -> list[Any]:
    assert isinstance(value[1], list)
    return value[1]


def test_what_is_executed_is_worthless() -> None:
    built = build(properties())
    assert built["User"] == ("s", "unit-confext")
    assert (built["CapabilityBoundingSet"], built["AmbientCapabilities"]) == (("t", 0), ("t", 0))
    assert built["SystemCallFilter"] == ("(bas)", (True, ["writev"]))
    assert built["PrivateNetwork"] == ("b", True)
    # It would make mounts nosuid.
    assert "NoNewPrivileges" not in built


def test_stage_may_be_executed_where_nothing_else_may() -> None:
    built = build(properties(NoExecPaths=("as", ["/"]), ExecPaths=("as", ["/etc/x", "/usr/sbin/x"])))
    assert built["ExecPaths"] == ("as", ["/etc/x", LOADER])
    assert built["NoExecPaths"] == ("as", ["/"])


def test_root_directory_without_api_file_systems() -> None:
    """The place of the loader is made in what goes with the stage; and what is not mounted there is not needed."""
    built = build(properties(RootDirectory=("s", "/srv"), MountAPIVFS=("b", False)))
    assert built["MountAPIVFS"] == ("b", False)
    assert built["TemporaryFileSystem"] == ("a(ss)", [("/run", "mode=0755,nosuid,nodev")])
    assert built["PrivateNetwork"] == ("b", False)
    assert "TemporaryFileSystem" not in build(properties(RootDirectory=("s", "/srv")))


def test_layer_that_is_there_may_not_be_missing(tmp_path: Path) -> None:
    """systemd takes a missing release file for a missing layer, if there is a `-` in front of that."""
    (tmp_path / "a.raw").touch()
    for name in ("d", "empty.raw.v", "full.v/full_1"):
        (tmp_path / name).mkdir(parents=True)
    images = [(f"{tmp_path}/{name}", True, [("root", "ro")]) for name in ("a.raw", "empty.raw.v", "gone.raw")]
    directories = [f"-{tmp_path}/{name}" for name in ("d", "gone", "full.v")] + [f"-+{tmp_path}/d", f"{tmp_path}/d"]
    given = properties(ExtensionImages=("a(sba(ss))", images), ExtensionDirectories=("as", directories))
    built = build(given)
    assert built["ExtensionImages"] == ("a(sba(ss))", [(images[0][0], False, [("root", "ro")]), *images[1:]])
    assert built["ExtensionDirectories"] == (
        "as", [f"{tmp_path}/d", f"-{tmp_path}/gone", f"{tmp_path}/full.v", f"+{tmp_path}/d", f"{tmp_path}/d"]
    )  # fmt: skip


class Refuses(Manager):
    """A manager that starts nothing."""

    def __init__(self) -> None:
        pass

    def start_transient(self, unit: str, properties: list[tuple[str, Value]], *, watch: bool = False) -> str:
        raise ConfextError("no")


def test_nothing_is_left_of_a_stage_that_is_not_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(transient, "RUN_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setattr(confinement, "uid", lambda *_: 1)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfextError, match="no"):
        transient.begin(Refuses(), "foo.service", properties(RootDirectory=("s", "/")))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("said", "pid"), [(b"", 0), (b"nothing of the loader's", 1), (b"/run/unit-confext/loader", 0)])
def test_nothing_is_left_of_a_stage_that_is_not_up(monkeypatch: pytest.MonkeyPatch, said: bytes, pid: int) -> None:
    """It never was, something else runs in it, or what ran has ended."""
    manager: Any = Refuses()
    manager.main_pid = lambda _: os.getpid() if pid else 0
    monkeypatch.setattr(failure, "of_stage", lambda *_: ConfextError("it failed"))
    monkeypatch.setattr(process, "_send_signal", lambda *_: None)
    before = len(os.listdir("/proc/self/fd"))
    pipe, stderr = os.pipe()
    os.write(stderr, said)
    os.close(stderr)
    with pytest.raises(ConfextError):
        process.Pending("x.service", properties(), 1, pipe).wait(manager)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("dynamic", "expected"), [(True, ["/etc/a", "/etc/b"]), (False, [])])
def test_nosuid_directories(dynamic: bool, expected: list[str]) -> None:
    given = properties(DynamicUser=("b", dynamic), ConfigurationDirectory=("as", ["a", "b"]))
    assert given.nosuid_directories == expected


def test_layer_paths_are_in_the_order_of_the_stack() -> None:
    given = properties(ExtensionDirectories=("as", ["-/d"]), ExtensionImages=IMAGES)
    assert given.layers == ["/a.raw", "/b.raw", "/d"]


@pytest.mark.parametrize(
    ("unit", "path"),
    [
        ("foo.service", "foo_2eservice"),
        ("a-0@c\\x2d.service", "a_2d0_40c_5cx2d_2eservice"),
        ("0.service", "_30_2eservice"),
    ],
)
def test_object_path(unit: str, path: str) -> None:
    assert unit_path(unit) == f"/org/freedesktop/systemd1/unit/{path}"


def test_error_is_one_line_that_names_unit_path_and_remedy() -> None:
    error = ConfextError("it is broken", unit="foo.service", path="/x.raw", hint="mend it")
    assert str(error) == "foo.service: it is broken (/x.raw); mend it"
    assert str(ConfextError("it is broken")) == "it is broken"
