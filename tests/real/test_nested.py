# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes of a service with mount namespaces of their own: a reload neither gives nor takes them anything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import images, services
from lab.machine import Machine

UNIT = "nested.service"
IMAGE = "/var/lib/confexts/nested.raw"
RELOADS = 300
# Two children, in namespaces that get what is mounted in the service's: one in a user namespace of its own, which is
# a slave of it, and one that is a peer.
CHILDREN = (
    "unshare --user --map-root-user --mount --propagation unchanged sleep 4001 & "
    "unshare --mount --propagation unchanged sleep 4002 & "
)


def fragment(settings: str) -> str:
    """A reader with two children."""
    text = services.fragment(settings, "--idle")
    return text.replace("ExecStart=", f"ExecStart=/bin/sh -c '{CHILDREN} exec \"$$@\"' sh ")


@pytest.fixture
def prepared(machine: Machine) -> Iterator[None]:
    services.prepare(machine)
    images.build(machine, IMAGE, images.pair("v1"))
    yield
    machine.sh(f"systemctl stop {UNIT}; rm -rf /etc/systemd/system/{UNIT} {services.entry_directory(UNIT)}")
    machine.systemctl("daemon-reload")


def start(machine: Machine, settings: str, *entries: str) -> dict[str, int]:
    """Start the service; return the PIDs of its children."""
    machine.write(f"/etc/systemd/system/{UNIT}", fragment(settings))
    services.set_entries(machine, [UNIT], dict.fromkeys(entries, IMAGE))
    machine.systemctl("daemon-reload")
    machine.systemctl("start", UNIT)
    services.main_pid(machine, UNIT)
    pids: dict[str, int] = {}

    def running() -> bool:
        group = f"/sys/fs/cgroup{machine.show(UNIT, 'ControlGroup')}/cgroup.procs"
        for pid in machine.run("cat", group).stdout.split():
            words = machine.path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[0] == b"sleep":
                pids["slave" if words[1] == b"4001" else "peer"] = int(pid)
        return len(pids) == 2

    services.eventually(running)
    return pids


def mounts(machine: Machine, pid: int) -> list[list[str]]:
    """What is mounted in the namespace of a process: IDs, device, root, place, flags."""
    lines = machine.path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return sorted(line.split(" ")[:6] for line in lines)


def unmount(machine: Machine, pid: int) -> str:
    """Try to unmount /etc as the root of a process's user namespace."""
    return machine.run("nsenter", "-t", str(pid), "-U", "-m", "umount", "-l", "/etc", check=False).stderr


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("settings", ["", "InaccessiblePaths=-/etc/cron.d"], ids=["bare", "with a sandbox"])
def test_nothing_reaches_other_namespaces(machine: Machine, settings: str) -> None:
    """Every shape of the swap, and again and again."""
    children = start(machine, settings)
    before = {name: mounts(machine, pid) for name, pid in children.items()}
    one = ["10-nested.raw"]
    journey: tuple[list[str], ...] = (one, one, one, [], one, one)
    refused = unmount(machine, children["slave"])
    assert refused
    for number, entries in enumerate(journey):
        images.build(machine, IMAGE, images.pair(f"v{number}"))
        services.set_entries(machine, [UNIT], dict.fromkeys(entries, IMAGE))
        machine.systemctl("daemon-reload")
        machine.systemctl("reload", UNIT)
        assert {name: mounts(machine, pid) for name, pid in children.items()} == before
        if entries:
            assert services.version(machine, UNIT) == f"v{number}"
            # No image is in use in there either.
            services.eventually(lambda: services.loop_devices(machine, IMAGE) == 1)
        assert unmount(machine, children["slave"]) == refused
    reloaded = services.view(machine, UNIT)
    own = services.main_pid(machine, UNIT)

    # Mounts get from the host to the service, and from the service to its children, as before.
    for place, pid, reached in (("/mnt", 1, {own, *children.values()}), ("/srv/bound", own, set(children.values()))):
        machine.run("nsenter", "-t", str(pid), "-m", "mount", "-t", "tmpfs", "x", place)
        try:
            for process in reached:
                services.eventually(lambda p=process, at=place: at in [m[4] for m in mounts(machine, p)])  # type: ignore[misc]
        finally:
            machine.run("nsenter", "-t", str(pid), "-m", "umount", place)
    machine.systemctl("restart", UNIT)
    assert services.view(machine, UNIT) == reloaded


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("settings", ["", "InaccessiblePaths=-/etc/cron.d"], ids=["bare", "with a sandbox"])
def test_layers_of_a_child_s_own_etc_are_the_only_ones_that_stay(machine: Machine, settings: str) -> None:
    children = start(machine, settings, "10-nested.raw")
    before = {name: mounts(machine, pid) for name, pid in children.items()}
    for number in range(4):
        images.build(machine, IMAGE, images.pair(f"v{number}"))
        machine.systemctl("reload", UNIT)
        assert {name: mounts(machine, pid) for name, pid in children.items()} == before
        # What they have had from the beginning, and what the service has.
        services.eventually(lambda: services.loop_devices(machine, IMAGE) == 2)
    assert services.version(machine, UNIT) == "v3"
    refused = unmount(machine, children["slave"])
    assert "not mounted" in refused or "invalid" in refused.lower() or "locked" in refused.lower()


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
def test_many_reloads_leave_nothing(machine: Machine) -> None:
    """No mount and no loop device, neither in the service nor in its children."""
    children = start(machine, "InaccessiblePaths=-/etc/cron.d")
    services.set_entries(machine, [UNIT], {"10-nested.raw": IMAGE})
    for number in range(2):
        images.build(machine, f"{IMAGE}.{number}", images.pair(f"v{number}"), name="nested")
    own = services.main_pid(machine, UNIT)
    machine.systemctl("daemon-reload")
    machine.systemctl("reload", UNIT)

    def state() -> tuple[list[list[list[str]]], int]:
        # Mounts that take each other's place have other numbers, and other devices.
        views = [sorted(line[3:] for line in mounts(machine, pid)) for pid in (own, *children.values())]
        return views, services.loop_devices(machine, IMAGE)

    def replaced() -> int:
        said = machine.journal("-u", UNIT, "-t", "unit-confext").splitlines()
        return len([line for line in said if "nested.raw replaced" in line])

    services.eventually(lambda: services.loop_devices(machine, IMAGE) == 1)
    before, replaced_before = state(), replaced()
    script = f"cp {IMAGE}.$((n % 2)) {IMAGE}.new; mv {IMAGE}.new {IMAGE}; systemctl reload {UNIT}"
    machine.run("sh", "-euc", f"for n in $(seq {RELOADS}); do {script}; done", timeout=600)
    assert replaced() - replaced_before == RELOADS
    assert services.version(machine, UNIT) == f"v{RELOADS % 2}"
    services.eventually(lambda: state() == before)


FILLER = """
import os, time
while True:
    for top in ("/run", "/tmp", "/dev"):
        for name in os.listdir(top):
            if name.startswith(".unit-confext"):
                try:
                    os.mkdir(f"{top}/{name}/x")
                except OSError:
                    pass
"""


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
def test_detach_point_that_the_service_fills(machine: Machine) -> None:
    """Nothing stays mounted in it, and it is said."""
    machine.write("/srv/filler.py", FILLER)
    text = services.fragment("InaccessiblePaths=-/etc/cron.d\nCPUWeight=10000", "--idle")
    text = text.replace("ExecStart=", "ExecStart=/bin/sh -c 'python3 -IS /srv/filler.py & exec \"$$@\"' sh ")
    machine.write(f"/etc/systemd/system/{UNIT}", text)
    services.set_entries(machine, [UNIT], {"10-nested.raw": IMAGE})
    machine.systemctl("daemon-reload")
    machine.systemctl("start", UNIT)
    own = services.main_pid(machine, UNIT)
    try:
        before = len(mounts(machine, own))
        for number in range(10):
            images.build(machine, IMAGE, images.pair(f"v{number}"))
            machine.systemctl("reload", UNIT)
            assert services.version(machine, UNIT) == f"v{number}"
            assert len(mounts(machine, own)) == before
            services.eventually(lambda: services.loop_devices(machine, IMAGE) == 1)
        kept = machine.sh("ls -d /run/.unit-confext-* 2>/dev/null || true").split()
        warned = machine.journal("-u", UNIT, "-t", "unit-confext", "-p", "warning")
        assert [place for place in kept if place not in warned] == []
    finally:
        machine.sh(f"systemctl stop {UNIT}; rm -rf /run/.unit-confext-*")
