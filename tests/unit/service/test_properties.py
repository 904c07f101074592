# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the manager says about a service, and what it means that it does not say something."""

from __future__ import annotations

import pytest

from confext_helpers.service.checkproperties import CheckProperties, UnitProperties
from confext_helpers.service.properties import Entry, ServiceProperties, mount_setting

NOTHING = CheckProperties({})


def test_frozen() -> None:
    raw: dict[str, tuple[str, object]] = {"RootDirectory": ("s", "/srv")}
    given = ServiceProperties(raw)
    raw["RootDirectory"] = ("s", "/elsewhere")
    assert given.root_directory == "/srv"
    for name in ("root_directory", "_raw", "other"):
        with pytest.raises(AttributeError):
            setattr(given, name, "/elsewhere")
        with pytest.raises(AttributeError):
            delattr(given, name)
    assert not hasattr(given, "__dict__")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("root_directory", ""), ("root_image", ""), ("root_mstack", ""), ("has_root", False), ("root_ephemeral", False),
        ("root_paths", []), ("has_root_hash", False), ("base", "/etc"), ("layers", []), ("image_layers", []),
        ("directory_layers", []), ("extension_image_policy", ""), ("mount_api_vfs", True), ("mount_flags", None),
        ("protect_system", "no"), ("protect_home", "no"), ("private_tmp", False), ("configuration_directories", []),
        ("nosuid_directories", []), ("working_directory", ""), ("user", "root"), ("private_users", False),
        ("capability_bounding_set", None), ("ambient_capabilities", None), ("restrict_namespaces", None),
        ("has_system_call_filter", False), ("has_privileged_start", False), ("has_command_as_root", False),
        ("start_usec", 0), ("reload_result", "success"), ("has_nft_set_of_users", False),
    ],
)  # fmt: skip
def test_what_is_not_told_is_not_set(name: str, value: object) -> None:
    assert getattr(NOTHING, name) == value


@pytest.mark.parametrize("name", ["main_pid", "control_group", "start_commands"])
def test_what_runs_is_never_made_up(name: str) -> None:
    """Every process of the system is in the control group with the empty name."""
    with pytest.raises(KeyError):
        getattr(NOTHING, name)


def test_entries() -> None:
    bind, empty = ("/s", "/t", False, 0), ("/t", "mode=0700")
    image: tuple[object, ...] = ("/i.raw", "/t", True, [])
    given = ServiceProperties({
        "BindPaths": ("a(ssbt)", [bind]), "MountImages": ("a(ssba(ss))", [image]),
        "TemporaryFileSystem": ("a(ss)", [empty]), "ReadOnlyPaths": ("as", ["/t", "-/t", "-+/t", "+/t+-"]),
    })  # fmt: skip
    assert given.entries("BindPaths", "MountImages", "TemporaryFileSystem", "BindReadOnlyPaths") == [
        Entry("/s", "/t", False, bind), Entry("/i.raw", "/t", False, image), Entry("", "/t", False, empty),
    ]  # fmt: skip
    paths = given.entries("ReadOnlyPaths")
    assert [(entry.target, entry.in_root) for entry in paths] == [
        ("/t", False), ("/t", False), ("/t", True), ("/t+-", True),
    ]  # fmt: skip
    for name in ("BindPaths", "MountImages", "TemporaryFileSystem", "ReadOnlyPaths"):
        # Read and handed on, nothing is another.
        handed = mount_setting(name, [entry.item for entry in given.entries(name)])
        assert {name: handed} == {one: value for one, value in given.shaping().items() if one == name}


def test_ends_of_commands() -> None:
    times = (0, 0, 0, 0)
    commands = [("/a", ["/a"], ["ignore-failure"], *times, 7, 1, 3), ("/b", ["/b"], [], *times, 8, 2, 9)]
    given = CheckProperties({"ExecStartEx": ("a(sasasttttuii)", commands), "Result": ("s", "signal")})
    assert given.start_commands == [(["ignore-failure"], 1, 3), ([], 2, 9)]
    assert given.result == "signal"


def test_of_every_unit() -> None:
    given = UnitProperties({
        "Id": ("s", "a.service"), "LoadState": ("s", "loaded"), "ActiveState": ("s", "active"),
        "NeedDaemonReload": ("b", True), "DropInPaths": ("as", ["/x.conf"]), "Wants": ("as", []),
    })  # fmt: skip
    said = given.id, given.load_state, given.active_state, given.need_daemon_reload, given.drop_ins
    assert said == ("a.service", "loaded", "active", True, ["/x.conf"])
    assert given.settings(["Id", "Wants", "Missing"]) == {"Id": ("s", "a.service")}
