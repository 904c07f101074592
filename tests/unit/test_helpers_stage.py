"""What a stage is started with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from confext_helpers import stage
from confext_helpers.bus import Properties, unit_path
from confext_helpers.errors import ConfextError

IMAGES: tuple[str, object] = ("a(sba(ss))", [("/a.raw", True, []), ("/b.raw", True, [])])


def properties(**values: tuple[str, object]) -> Properties:
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
    return {**unset, **values}


def test_only_what_shapes_etc_is_copied() -> None:
    given = properties(ExtensionImages=IMAGES, ProtectSystem=("s", "strict"))
    assert stage.shaping_properties(given) == {"ExtensionImages": IMAGES, "ProtectSystem": ("s", "strict")}


def test_api_file_systems_matter_with_a_root_alone() -> None:
    given = properties(RootDirectory=("s", "/srv"))
    assert stage.shaping_properties(given) == {"RootDirectory": ("s", "/srv"), "MountAPIVFS": ("b", True)}


def test_stage_executes_the_host_s_loader_and_nothing_of_the_service() -> None:
    given = properties(BindReadOnlyPaths=("a(ssbt)", [("/x", "/y", False, 0)]))
    built = dict(stage.build_properties("foo.service", given, 3, 4))
    loader, proc = "/run/unit-confext/loader", "/run/unit-confext/proc"
    assert built["ExecStart"][1] == [(loader, [loader, f"{proc}/self/fd/0"], False)]
    bound = built["BindReadOnlyPaths"][1]
    assert isinstance(bound, list)
    assert bound[0] == ("/x", "/y", False, 0)
    assert [target for _, target, _, _ in bound[1:]] == [loader, proc]
    assert os.path.basename(bound[1][0]).startswith("ld")
    assert bound[2][0] == "/proc"
    assert built["OnFailure"] == ("as", ["unit-confext-recover@foo.service.service"])
    assert {"User", "RuntimeDirectory", "ExecPaths"} & set(built) == set()


def test_stage_may_be_executed_where_nothing_else_may() -> None:
    given = properties(NoExecPaths=("as", ["/"]), ExecPaths=("as", ["/usr/sbin/x"]))
    built = dict(stage.build_properties("foo.service", given, 3, 4))
    assert built["ExecPaths"] == ("as", ["/usr/sbin/x", "/run/unit-confext/loader"])
    assert built["NoExecPaths"] == ("as", ["/"])


def test_layer_that_is_there_may_not_be_missing(tmp_path: Path) -> None:
    """systemd takes a missing release file for a missing layer, if there is a `-` in front of that."""
    (tmp_path / "a.raw").touch()
    for name in ("d", "empty.raw.v", "full.v/full_1"):
        (tmp_path / name).mkdir(parents=True)
    images = [(f"{tmp_path}/{name}", True, [("root", "ro")]) for name in ("a.raw", "empty.raw.v", "gone.raw")]
    directories = [f"-{tmp_path}/{name}" for name in ("d", "gone", "full.v")] + [f"-+{tmp_path}/d", f"{tmp_path}/d"]
    given = properties(ExtensionImages=("a(sba(ss))", images), ExtensionDirectories=("as", directories))
    built = dict(stage.build_properties("foo.service", given, 3, 4))
    assert built["ExtensionImages"] == ("a(sba(ss))", [(images[0][0], False, [("root", "ro")]), *images[1:]])
    assert built["ExtensionDirectories"] == (
        "as", [f"{tmp_path}/d", f"-{tmp_path}/gone", f"{tmp_path}/full.v", f"+{tmp_path}/d", f"{tmp_path}/d"]
    )  # fmt: skip


@pytest.mark.parametrize(("dynamic", "expected"), [(True, ["/etc/a", "/etc/b"]), (False, [])])
def test_nosuid_directories(dynamic: bool, expected: list[str]) -> None:
    given = properties(DynamicUser=("b", dynamic), ConfigurationDirectory=("as", ["a", "b"]))
    assert stage.nosuid_directories(given) == expected


def test_layer_paths_are_in_the_order_of_the_stack() -> None:
    given = properties(ExtensionDirectories=("as", ["-/d"]), ExtensionImages=IMAGES)
    assert stage.layer_paths(given) == ["/a.raw", "/b.raw", "/d"]


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
