# SPDX-License-Identifier: LGPL-2.1-or-later
"""The invariant: after a reload, the service's `/etc` is the one that a restart would give it.

Every service of the table makes the same journey, by reloads alone. At each stop its twin, which is restarted there,
says what it should see.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from lab import images, services
from lab.images import Format
from lab.machine import Machine
from lab.services import SETTINGS, View

ONE, TWO = "/var/lib/confexts/one.raw", "/var/lib/confexts/two.raw"


@dataclass(frozen=True, slots=True)
class Stop:
    """One stop of the journey: the images to build first, and the entries of every service."""

    name: str
    entries: dict[str, str]
    build: dict[str, str]


JOURNEY = [
    Stop("first layer added", {"10-one.raw": ONE}, {ONE: "v1"}),
    Stop("replaced in place", {"10-one.raw": ONE}, {ONE: "v2"}),
    Stop("second layer on top", {"10-one.raw": ONE, "20-two.raw": TWO}, {TWO: "v3"}),
    Stop("order changed", {"10-one.raw": ONE, "05-two.raw": TWO}, {}),
    Stop("one of two removed", {"05-two.raw": TWO}, {}),
    Stop("last layer removed", {}, {}),
    Stop("first layer added again", {"10-one.raw": ONE}, {ONE: "v1"}),
]


@dataclass(frozen=True, slots=True)
class Result:
    """What a service and its twin saw at one stop."""

    reloaded: View
    restarted: View
    error: str


@pytest.fixture(scope="module")
def journey(machine: Machine) -> Iterator[dict[tuple[str, str], Result]]:
    """Send every service on the journey; return what was seen, by service and stop."""
    services.prepare(machine)
    units = {name: f"t-{name}.service" for name in SETTINGS}
    twins = {name: f"r-{name}.service" for name in SETTINGS}
    for name, settings in SETTINGS.items():
        for unit in (units[name], twins[name]):
            machine.write(f"/etc/systemd/system/{unit}", services.fragment(settings, "--idle"))
    everyone = [*units.values(), *twins.values()]
    services.set_entries(machine, everyone, {})
    machine.systemctl("daemon-reload")
    machine.systemctl("start", *everyone)
    results = {}
    for stop in JOURNEY:
        for path, version in stop.build.items():
            images.build(machine, path, images.pair(version))
        services.set_entries(machine, everyone, stop.entries)
        machine.systemctl("daemon-reload")
        machine.systemctl("restart", *twins.values())
        # One by one, so that an error says whose it is.
        errors = {name: machine.systemctl("reload", unit, check=False).stderr for name, unit in units.items()}
        for name in SETTINGS:
            seen = services.view(machine, units[name]), services.view(machine, twins[name])
            results[name, stop.name] = Result(*seen, errors[name])
    yield results


@pytest.mark.real
@pytest.mark.parametrize("stop", [stop.name for stop in JOURNEY])
@pytest.mark.parametrize("name", list(SETTINGS))
def test_reload_gives_what_a_restart_gives(
    machine: Machine, journey: dict[tuple[str, str], Result], name: str, stop: str
) -> None:
    result = journey[name, stop]
    assert result.error == ""
    assert result.reloaded.files == result.restarted.files
    assert result.reloaded.mounts == result.restarted.mounts
    # The listing is worth something only if the layers are in it.
    expected = {file for build in ("a", "b") for file in (f"/demo/{build}",)}
    layered = bool(next(step for step in JOURNEY if step.name == stop).entries)
    assert expected <= set(result.reloaded.files) if layered else not expected & set(result.reloaded.files)


@pytest.mark.real
def test_nothing_is_left_behind(machine: Machine, journey: dict[tuple[str, str], Result]) -> None:
    assert journey
    services.eventually(lambda: services.leftovers(machine) == [])


KINDS = {
    "erofs": ("k-erofs.raw", Format.EROFS, "k-erofs.raw"),
    "squashfs": ("k-squashfs.raw", Format.SQUASHFS, "k-squashfs.raw"),
    "gpt": ("k-gpt.raw", Format.GPT, "k-gpt.raw"),
    "directory": ("k-directory", Format.DIRECTORY, "k-directory"),
    "versioned image": ("k-versioned.raw.v/k-versioned_{n}.raw", Format.EROFS, "k-versioned.raw.v"),
    "versioned directory": ("k-versions.v/k-versions_{n}", Format.DIRECTORY, "k-versions.v"),
}


@pytest.mark.real
@pytest.mark.parametrize("linked", [False, True], ids=["in place", "symlink"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_of_entry(machine: Machine, kind: str, linked: bool) -> None:
    pattern, image_format, entry = KINDS[kind]
    unit = "k.service"
    # A directory below /etc cannot be a layer over /etc, see test_directory_below_etc_is_refused().
    above = "/run" if image_format is Format.DIRECTORY else "/etc"
    directory = f"{above}/systemd/system/{unit}.confext.d"
    services.prepare(machine)
    machine.write(f"/etc/systemd/system/{unit}", services.fragment("ProtectSystem=full", "--idle"))
    store = "/var/lib/confexts" if linked else directory
    services.set_entries(machine, [unit], {entry: f"{store}/{entry}"} if linked else {})

    def build(number: int) -> None:
        path = f"{store}/{pattern.format(n=number)}"
        name = entry.removesuffix(".v").removesuffix(".raw")
        release = path.rpartition("/")[2].removesuffix(".raw")
        images.build(machine, path, images.pair(f"v{number}"), image_format, name=release)
        assert release.startswith(name)

    build(1)
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", unit)
    assert services.view(machine, unit).files["/demo/only-v1"]
    build(2)
    machine.systemctl("daemon-reload")
    machine.systemctl("reload", unit)
    reloaded = services.view(machine, unit)
    assert "/demo/only-v2" in reloaded.files
    machine.systemctl("restart", unit)
    assert reloaded == services.view(machine, unit)
    machine.sh(f"rm -rf {store}/{entry} {directory}; systemctl stop {unit}")


@pytest.mark.real
def test_directory_below_etc_is_refused(machine: Machine) -> None:
    unit = "d.service"
    directory = services.entry_directory(unit)
    services.prepare(machine)
    machine.write(f"/etc/systemd/system/{unit}", services.fragment("", "--idle"))
    images.build(machine, f"{directory}/10-here", images.pair("v1"), Format.DIRECTORY)
    images.build(machine, f"{directory}/20-image.raw", images.pair("v2"))
    machine.systemctl("daemon-reload")
    assert machine.show(unit, "ExtensionDirectories") == ""
    machine.systemctl("start", unit)
    assert "/demo/only-v2" in services.view(machine, unit).files
    said = machine.journal("-t", "unit-confext-generator", "--no-full").splitlines()
    warning = [line for line in said if line.startswith(f"{unit}: ")][-1]
    assert f"{directory}/10-here" in warning
