# SPDX-License-Identifier: LGPL-2.1-or-later
"""Storage that does not answer: a daemon-reload ends within seconds, and costs the units that lead there alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from confext_generator.report import Complaint
from lab import images, services, silent
from lab.machine import Machine

FIRST, SECOND = "/srv/silent-one", "/srv/silent-two"
GOOD = ("silent-a.service", "silent-c.service", "silent-e.service")
# By what leads there: a link, another link to the same file system, and a whole directory.
BAD = {"silent-b.service": FIRST, "silent-d.service": FIRST, "silent-f.service": SECOND}
IMAGE = "/var/lib/confexts/silent.raw"
LIMIT_SEC = 20


@pytest.fixture
def units(machine: Machine) -> Iterator[Machine]:
    services.prepare(machine)
    images.build(machine, IMAGE, images.pair("v1"))
    for unit in (*GOOD, *BAD):
        machine.write(f"/etc/systemd/system/{unit}", services.fragment(""))
    services.set_entries(machine, GOOD, {"10-good.raw": IMAGE})
    services.set_entries(machine, ["silent-b.service"], {"10-good.raw": IMAGE, "20-b.raw": f"{FIRST}/b.raw"})
    services.set_entries(machine, ["silent-d.service"], {"20-d": f"{FIRST}/d"})
    machine.sh(f"ln -s {SECOND}/f {services.entry_directory('silent-f.service')}")
    yield machine
    machine.sh("rm -rf /etc/systemd/system/silent-?.service*")
    machine.systemctl("daemon-reload")


def test_silent_storage_costs_its_own_units_alone(units: Machine) -> None:
    machine = units
    with silent.mounted(machine, FIRST, SECOND):
        begin = time.monotonic()
        machine.systemctl("daemon-reload")
        assert time.monotonic() - begin < LIMIT_SEC
        for unit in GOOD:
            assert machine.show(unit, "ExtensionImages").lstrip("-") == IMAGE
            machine.systemctl("restart", unit)
            assert services.version(machine, unit) == "v1"
        # By their names, and judged before a start.
        assert f"-{FIRST}/b.raw" in machine.show("silent-b.service", "ExtensionImages")
        assert machine.show("silent-d.service", "ExtensionDirectories") == f"-{FIRST}/d"
        assert "unit-confext-access@silent-b.service.service" in machine.show("silent-b.service", "Requires")
        # What is in there is not known, so that it is not started without; and systemd itself does not look.
        directory = services.entry_directory("silent-f.service")
        assert machine.show("silent-f.service", "ExtensionDirectories") == directory
        assert machine.show("silent-f.service", "SourcePath") == ""
        assert machine.show("silent-f.service", "NeedDaemonReload") == "no"

        begin = time.monotonic()
        listed = machine.run("unit-confext", "list", "silent-b", "silent-d", "silent-f", check=False)
        assert time.monotonic() - begin < LIMIT_SEC
        told = machine.run("unit-confext", "list", "--json=short", "silent-b", "silent-d", "silent-f", check=False)
    for entry, mount in (("20-b.raw", FIRST), ("20-d", FIRST)):
        line = next(line for line in listed.stdout.splitlines() if entry in line)
        assert Complaint("noted", "target-silent", b"", b"", f"'{mount}' does not answer").text in line
    assert Complaint("noted", "directory-silent", b"", b"", f"'{SECOND}' does not answer").text in listed.stderr
    codes = {entry["name"]: entry["code"] for unit in json.loads(told.stdout) for entry in unit["entries"]}
    assert codes["20-b.raw"] == codes["20-d"] == "target-silent"
    taken = Complaint("noted", "target-silent", b"", b"", f"'{FIRST}' does not answer").text
    said = machine.journal("-t", "unit-confext-generator", "--no-full")
    assert f"silent-b.service: {services.entry_directory('silent-b.service')}/20-b.raw: {taken}" in said
    # Mended, they have what they should.
    machine.systemctl("daemon-reload")
    assert machine.show("silent-f.service", "ExtensionDirectories") == ""
