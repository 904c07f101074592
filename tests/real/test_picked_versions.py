# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is shown where the generator picks the version, since this systemd cannot be left to: 255, 258, 259.

The systems that are booted can; they are told that they are 258, the manager's generators and the command alike.
"""

from __future__ import annotations

import json

import pytest

from lab import images
from lab.machine import Machine

pytestmark = pytest.mark.real

UNIT = "picked-demo.service"
ASKED = "UNIT_CONFEXT_SYSTEMD_VERSION=258"
VERSIONS = f"/etc/systemd/system/{UNIT}.confext.d/picked.raw.v"


def add(machine: Machine, version: int) -> None:
    images.build(machine, f"{VERSIONS}/picked_{version}.raw", {"picked": f"{version}\n"}, name="picked")


def status(machine: Machine) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Label, version and state of every layer, and what differs."""
    done = machine.run("env", ASKED, "unit-confext", "status", "--json=short", UNIT, check=False)
    (said,) = json.loads(done.stdout)
    return [(one["label"], one["version"], one["state"]) for one in said["layers"]], said["reasons"]


def test_status(machine: Machine) -> None:
    """The label is of what runs, as the kernel's loop devices say, also where another version is loaded."""
    machine.write("/etc/systemd/system.conf.d/picked.conf", f"[Manager]\nManagerEnvironment={ASKED}\n")
    machine.write(f"/etc/systemd/system/{UNIT}", "[Service]\nType=exec\nExecStart=sleep infinity\n")
    add(machine, 1)
    machine.sh(f"systemctl daemon-reexec; systemctl daemon-reload; systemctl start {UNIT}")
    assert machine.show(UNIT, "ExtensionImages").endswith("/picked_1.raw")
    assert status(machine) == ([("picked_1.raw", "1", "current")], [])
    add(machine, 2)
    layers, reasons = status(machine)
    assert layers == [("picked_1.raw", "1", "superseded"), ("picked_2.raw", "2", "not-loaded")]
    assert "picked_1.raw is loaded, but another version of it is the newest now" in reasons
    machine.systemctl("daemon-reload")
    assert status(machine)[0] == [("picked_1.raw", "1", "changed")]
    machine.systemctl("reload", UNIT)
    assert status(machine)[0] == [("picked_2.raw", "2", "current")]
    # The one that is loaded goes, while the one that runs stays.
    add(machine, 3)
    machine.systemctl("daemon-reload")
    machine.sh(f"rm {VERSIONS}/picked_3.raw")
    layers, reasons = status(machine)
    assert layers[0] == ("picked_2.raw", "2", "not-on-disk")
    assert "picked_3.raw is loaded, but not on disk any more" in reasons
