# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a check is handed of the service's sandbox, from properties as the manager tells them."""

from __future__ import annotations

import pytest

from confext_helpers.checks import run as checks
from confext_helpers.checks import settinglists
from confext_helpers.checks.commandline import Command
from confext_helpers.checks.section import CheckSettings
from confext_helpers.errors import ConfextError
from confext_helpers.service.properties import SHAPING_PROPERTIES, ServiceProperties
from confext_helpers.system.bus import Properties, Value
from unit.fakemanager import FakeManager

UNSAID: Properties = {
    "PrivateTmp": ("b", False),
    "PrivateTmpEx": ("s", "no"),
    "PrivateIPC": ("b", False),
    "LimitNOFILE": ("t", 20000),
    "Slice": ("s", ""),
    "RestrictFileSystems": ("(bas)", (False, [])),
    "SELinuxContext": ("(bs)", (False, "")),
    "WorkingDirectory": ("s", ""),
    "NFTSet": ("a(iiss)", []),
    "MainPID": ("u", 0),
    "Frob": ("s", "no"),
    "FrobMax": ("t", 5),
    "FrobCount": ("t", 0),
}
UNIT: Properties = {"JoinsNamespaceOf": ("as", []), "DefaultDependencies": ("b", True)}


class Told(FakeManager):
    """Tells what a manager would."""

    def __init__(self, **unit: Value) -> None:
        super().__init__()
        self._unit = UNIT | unit
        self.probed: list[str] = []

    def service_properties(self, unit: str) -> Properties:
        return UNSAID

    def unit_properties(self, unit: str) -> Properties:
        return self._unit

    def constant_properties(self, unit: str) -> set[str]:
        return {"Frob", "PrivateIPC"}

    def takes(self, unit: str, name: str, value: Value) -> bool:
        self.probed.append(name)
        return name == "FrobMax"


def context(manager: Told | None = None, said: Properties | None = None) -> dict[str, Value]:
    given = ServiceProperties(UNSAID | (said or {}))
    return checks.context(manager or Told(), "a.service", given)


def test_every_property_is_in_one_place() -> None:
    lists = (
        *(settinglists.CONTEXT, settinglists.LINKED, set(settinglists.KEPT), settinglists.STATE, settinglists.OTHER),
        *(settinglists.UNIT_CONTEXT, settinglists.UNIT_OTHER, set(SHAPING_PROPERTIES)),
    )
    assert len(frozenset().union(*lists)) == sum(map(len, lists))
    assert settinglists.ALWAYS <= settinglists.CONTEXT


def test_what_says_nothing_is_not_handed_over() -> None:
    handed = {"LimitNOFILE": ("t", 20000), "Slice": ("s", ""), "DefaultDependencies": ("b", True)}
    assert context() == handed


@pytest.mark.parametrize(
    ("name", "read", "written"),
    [
        ("RestrictFileSystems", ("(bas)", (True, ["tmpfs"])), ("(bas)", (True, ["tmpfs"]))),
        ("SELinuxContext", ("(bs)", (True, "a:b:c:s0")), ("s", "a:b:c:s0")),
        ("WorkingDirectory", ("s", "!/srv"), ("s", "-/srv")),
        ("WorkingDirectory", ("s", "!~"), ("s", "-~")),
        ("WorkingDirectory", ("s", "/srv"), ("s", "/srv")),
        ("NFTSet", ("a(iiss)", [(3, 1, "filter", "x")]), ("a(iiss)", [(3, 1, "filter", "x")])),
        ("PrivateTmp", ("b", True), None),  # The other one has more to say.
        ("MainPID", ("u", 7), None),
    ],
)
def test_what_is_written(name: str, read: Value, written: Value | None) -> None:
    assert context(said={name: read}).get(name) == written


def test_sets_of_users_cannot_be_handed_over() -> None:
    with pytest.raises(ConfextError) as raised:
        context(said={"NFTSet": ("a(iiss)", [(3, 1, "filter", "x"), (4, 1, "filter", "y")])})
    assert str(raised.value) == (
        "its checks cannot be run with all of its settings: NFTSet= with users or groups cannot be handed to a "
        "check; remove this setting or the Check=, or update unit-confext"
    )


@pytest.mark.parametrize(("name", "value"), [("Frob", ("s", "yes")), ("FrobMax", ("t", 4))])
def test_unknown_setting_is_refused_by_name(name: str, value: Value) -> None:
    with pytest.raises(ConfextError, match=f"run with all of its settings: {name}= is not known; remove this setting"):
        context(said={name: value})


def test_unknown_state_is_none_of_its_business() -> None:
    manager = Told()
    assert "FrobCount" not in context(manager, {"FrobCount": ("t", 9)})
    assert manager.probed == ["FrobCount"]
    manager = Told()
    context(manager)
    assert manager.probed == []


@pytest.mark.parametrize("default_dependencies", [True, False])
def test_of_the_unit(default_dependencies: bool) -> None:
    said: Properties = {"DefaultDependencies": ("b", default_dependencies), "JoinsNamespaceOf": ("as", ["b.service"])}
    found = context(Told(**said))
    assert {name: found[name] for name in said} == said


def test_read_only_directory_stays_read_only() -> None:
    properties = ServiceProperties(
        {
            "StateDirectory": ("as", ["a", "b/c"]),
            "StateDirectorySymlink": ("a(sst)", [("b/c", "", 1), ("a", "link", 0)]),
            "RuntimeDirectory": ("as", ["r"]),
            "BindPaths": ("a(ssbt)", [("/x", "/y", False, 0)]),
            "BindReadOnlyPaths": ("a(ssbt)", [("/v", "/w", False, 0)]),
        }
    )
    settings = CheckSettings((Command("/bin/true", ("/bin/true",), ()),), 1)
    built = dict(checks.build_properties("a.service", properties, {"Nice": ("i", 5)}, settings, 3))
    assert built["Nice"] == ("i", 5)
    assert built["BindPaths"][1] == [
        ("/x", "/y", False, 0), ("/run/r", "/run/r", True, 16384), ("/var/lib/a", "/var/lib/a", True, 16384),
    ]  # fmt: skip
    assert built["BindReadOnlyPaths"][1] == [
        ("/v", "/w", False, 0), ("/var/lib/b/c", "/var/lib/b/c", True, 16384),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["BindPaths", "BindReadOnlyPaths"])
def test_no_empty_list_takes_the_bind_mounts_back(name: str) -> None:
    """To the manager, BindPaths= and BindReadOnlyPaths= are one list."""
    settings = CheckSettings((Command("/bin/true", ("/bin/true",), ()),), 1)
    bound: Properties = {name: ("a(ssbt)", [("/x", "/y", False, 0)])}
    built = checks.build_properties("a.service", ServiceProperties(bound), {}, settings, 3)
    assert [(one, value) for one, value in built if one.startswith("Bind")] == [*bound.items()]
