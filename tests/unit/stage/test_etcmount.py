# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be the `/etc` of a stage, and which services could exchange theirs."""

from __future__ import annotations

import pytest

from confext_helpers.service import belonging
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.stage import etcmount
from confext_helpers.system.bus import Properties, Value
from confext_helpers.system.mountinfo import parse_mountinfo

ROOT = "1 0 8:1 /srv/tree / rw,relatime shared:1 - ext4 /dev/sda1 rw"
PROC = "2 1 0:9 / {} rw,nosuid - proc proc rw"
STACK = "3 {} 0:50 / {} ro - overlay overlay ro,lowerdir=/run/systemd/unit-extensions/0/etc:/srv/tree/etc"
SYSEXT = "4 1 0:51 / {} ro - overlay overlay ro,lowerdir=/run/systemd/unit-extensions/0/usr:/srv/tree/usr"
BOUND = "5 1 8:2 /x /etc rw - ext4 /dev/sdb rw"
DEVICE = "6 3 0:6 /null /etc/masked rw - devtmpfs udev rw"


@pytest.mark.parametrize(
    ("lines", "number", "right"),
    [
        pytest.param([PROC.format("/proc"), STACK.format(1, "/etc")], 3, True, id="a stack"),
        pytest.param([PROC.format("/proc"), STACK.format(1, "/etc"), DEVICE], 3, True, id="a masked file in it"),
        pytest.param([PROC.format("/proc"), STACK.format(5, "/etc"), BOUND], 3, True, id="a stack on a bind mount"),
        pytest.param([PROC.format("/proc")], 1, True, id="no layers"),
        pytest.param([PROC.format("/proc"), BOUND], 5, True, id="no layers, but a bind mount"),
        pytest.param([PROC.format("/proc"), SYSEXT.format("/usr")], 1, True, id="a sysext alone"),
        pytest.param([PROC.format("/etc"), STACK.format(1, "/proc")], 2, False, id="exchanged with /proc"),
        pytest.param([PROC.format("/etc"), STACK.format(2, "/etc")], 3, False, id="stacked on /proc, then exchanged"),
        pytest.param([PROC.format("/proc"), STACK.format(1, "/hidden")], 1, False, id="exchanged with what is hidden"),
        pytest.param([SYSEXT.format("/etc"), STACK.format(1, "/usr")], 4, False, id="exchanged with a sysext"),
        pytest.param([PROC.format("/etc/proc")], 1, False, id="no layers, and /proc in it"),
        pytest.param([PROC.format("/etc")], 2, False, id="no layers, exchanged with /proc"),
        pytest.param([], 7, False, id="a mount that is not there"),
    ],
)
def test_etc_of_a_stage(lines: list[str], number: int, right: bool) -> None:
    assert etcmount.is_etc(parse_mountinfo("\n".join([ROOT, *lines])), number) is right


@pytest.mark.parametrize(
    ("lines", "writable"),
    [
        ([ROOT], True),
        ([ROOT.replace(" rw,relatime", " ro,relatime")], False),
        ([ROOT.removesuffix("rw") + "ro"], False),
        ([ROOT.replace(" rw,relatime", " ro,relatime"), "2 1 8:1 /srv /mnt rw - ext4 /dev/sda1 rw"], True),
        ([ROOT.replace(" rw,relatime", " ro,relatime"), "2 1 8:1 /srv/tree/var /var rw - ext4 /dev/sda1 rw"], False),
    ],
)
def test_root_that_can_be_written_to(lines: list[str], writable: bool) -> None:
    assert etcmount.is_root_writable(parse_mountinfo("\n".join(lines))) is writable


def command(flag: str) -> Value:
    return ("a(sasasttttuii)", [("/bin/true", ["/bin/true"], [flag], 0, 0, 0, 0, 0, 0, 0)])


@pytest.mark.parametrize(
    ("properties", "confined"),
    [
        ({}, False),
        ({"CapabilityBoundingSet": ("t", (1 << 41) - 1)}, False),
        ({"CapabilityBoundingSet": ("t", 0)}, True),
        ({"CapabilityBoundingSet": ("t", 0), "User": ("s", "daemon")}, False),
        ({"CapabilityBoundingSet": ("t", 0), "User": ("s", "daemon"), "ExecReloadEx": command("no-setuid")}, True),
        ({"CapabilityBoundingSet": ("t", 0), "User": ("s", "daemon"), "ExecStartEx": command("privileged")}, False),
        ({"User": ("s", "daemon"), "ExecStartEx": command("no-setuid")}, False),
        ({"CapabilityBoundingSet": ("t", 2), "User": ("s", "daemon"), "AmbientCapabilities": ("t", 2)}, True),
        ({"CapabilityBoundingSet": ("t", 1024), "User": ("s", "d"), "AmbientCapabilities": ("t", 1024)}, False),
    ],
)
def test_confined_root(properties: Properties, confined: bool) -> None:
    assert belonging.is_confined(ServiceProperties(properties)) is confined
