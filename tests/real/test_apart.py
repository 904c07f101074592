# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that run side by side: what the kernel has once for all of them is told apart, each test sees its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from conftest import CHECKOUT, install
from lab import machine as lab_machine
from lab import rootfs, services
from lab.machine import Machine
from lab.requirements import need

pytestmark = pytest.mark.real

IMAGE = "/srv/apart.raw"


@pytest.fixture(scope="module")
def together() -> Iterator[list[Machine]]:
    """One of each system, at the same time, and one whose root is no overlay."""
    need(lab_machine.missing_capability())
    with ExitStack() as stack:
        machines = [stack.enter_context(Machine(suite, share=CHECKOUT)) for suite in rootfs.SUITES]
        yield [*machines, stack.enter_context(Machine("trixie", copy=True, share=CHECKOUT))]


def test_each_journal_has_the_messages_of_its_own_generator(together: list[Machine]) -> None:
    for number, machine in enumerate(together):
        machine.sh(
            f"mkdir -p /etc/systemd/system/apart-{number}.service.confext.d; mkdir /etc/systemd/system/x.confext.d"
        )
        install(machine)
    for number, machine in enumerate(together):
        told = machine.journal("-t", "unit-confext-generator", "_TRANSPORT=kernel")
        assert {line.partition(":")[0] for line in told.splitlines()} == {f"apart-{number}.service", "x.service"}
        assert f"apart-{number}.service.confext.d: the unit is left alone" in told


def test_loop_devices_are_counted_in_their_own_machine(together: list[Machine]) -> None:
    """Files of the same path, of which all but the last were deleted; and one in another file system."""
    for number, machine in enumerate(together):
        attach = f"rm -f {IMAGE}; truncate -s 1M {IMAGE}; losetup -f --show {IMAGE}; "
        devices = machine.sh(attach * (number + 1) + "truncate -s 1M /run/apart.raw; losetup -f --show /run/apart.raw")
        machine.write("/srv/devices", devices)
    try:
        counts = [services.loop_devices(machine, name) for machine in together for name in (IMAGE, "/run/apart.raw")]
        assert counts == [1, 1, 2, 1, 3, 1]
    finally:
        for machine in together:
            machine.sh("for device in $(cat /srv/devices); do losetup -d $device; done")
    assert [services.loop_devices(machine, "apart.raw") for machine in together] == [0, 0, 0]
