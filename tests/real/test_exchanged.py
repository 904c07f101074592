# SPDX-License-Identifier: LGPL-2.1-or-later
"""A service that exchanges directories in its root directory gets no other mounts by that than its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import images, services
from lab.machine import Machine
from lab.services import ROOT, SETTINGS

UNIT = "exchange.service"
HOOK = "/usr/lib/unit-confext/restack"
TREE = "/srv/exchange"
DIRECTORY = services.entry_directory(UNIT)
# Not without capabilities alone: these are what the mounts in question are protected by.
CONFINED = "CapabilityBoundingSet=\nNoNewPrivileges=yes\nProtectKernelTunables=yes\nProtectControlGroups=yes\n"

# Its child leaves the mounts of the service behind, and may then rename what they are mounted on.
EXCHANGER = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
tree, other, leave = sys.argv[1:]
root = os.open(tree, os.O_RDONLY)
def do(status):
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
if leave == "yes":
    if os.fork():
        time.sleep(100000)
    do(libc.unshare(0x10000000 | 0x20000))
    do(libc.mount(b"/empty", b"/empty", None, 0x1000, None))
    os.chdir("/empty")
    do(libc.pivot_root(b".", b"."))
    do(libc.umount2(b".", 2))
while not os.path.exists("/srv/exchange.stop"):
    time.sleep(0.02)
    for _ in range(2):
        do(libc.renameat2(root, b"etc", root, other.encode(), 2))
        time.sleep(0.015)
"""

# What the hook looks up in a stage, by the modules that are installed, while somebody exchanges that for false files.
LOOK = """
import ctypes, encodings.ascii, sys
sys.path[:0] = ["/usr/lib/unit-confext"]; sys.path.append("/usr/lib/python3/dist-packages")
from confext_helpers.errors import ConfextError
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.stage import refusals, transient
from confext_helpers.swap import change
from confext_helpers.system.bus import Manager
unit, layer, tree = sys.argv[1:]
def exchange():
    names = f"{tree}/etc".encode(), -100, f"{tree}/false".encode()
    assert ctypes.CDLL(None).renameat2(-100, *names, 2) == 0
def look():
    for function in (
        lambda: refusals.check_releases([layer], there.namespace),
        lambda: change.open_trees(properties, there.namespace, there.namespace).__enter__(),
    ):
        try:
            function()
            print("fine")
        except ConfextError as error:
            print(error.problem)
with Manager() as manager:
    properties = ServiceProperties(manager.service_properties(unit))
    with transient.begin(manager, unit, properties).wait(manager) as there:
        look()
        exchange()
        look()
        exchange()
        look()
"""


@pytest.fixture
def tree(machine: Machine) -> Iterator[str]:
    services.prepare(machine)
    machine.sh(f"rm -rf {TREE} /srv/exchange.stop; cp -a {ROOT} {TREE}; mkdir {TREE}/empty; ln -s proc {TREE}/link")
    for place in (f"{TREE}/exchanger.py", "/srv/exchanger.py"):
        machine.write(place, EXCHANGER)
    images.build(machine, f"{DIRECTORY}/10-a.raw", images.pair("v1"))
    yield TREE
    machine.sh(f"systemctl stop {UNIT}; systemctl stop exchange-outside || :")
    machine.sh(f"rm -rf {DIRECTORY} /etc/systemd/system/{UNIT} {TREE}")
    machine.systemctl("daemon-reload")


def start(machine: Machine, command: str, settings: str) -> None:
    root = SETTINGS["root-directory"].replace(ROOT, TREE)
    machine.write(f"/etc/systemd/system/{UNIT}", f"[Service]\nType=exec\nExecStart={command}\n{root}{settings}")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", UNIT)


def reload(machine: Machine, times: int) -> str:
    """Reload it with new images; return what was said."""
    machine.sh(f"""
        cp {DIRECTORY}/10-a.raw /srv/exchange.raw
        for number in $(seq {times}); do
            cp /srv/exchange.raw {DIRECTORY}/10-a.new; mv {DIRECTORY}/10-a.new {DIRECTORY}/10-a.raw
            {HOOK} --alone {UNIT} 2>&1 || :
        done
    """)
    return machine.journal("-u", UNIT, "-t", "unit-confext")


def writable(machine: Machine) -> list[str]:
    """Where the service can write to the kernel's settings."""
    pid = machine.show(UNIT, "MainPID")
    confined = "setpriv --bounding-set=-all --inh-caps=-all"
    script = 'for place in /etc /proc; do sh -c ": >>$place/sys/vm/swappiness" 2>/dev/null && echo $place; done; :'
    return machine.run("nsenter", "-t", pid, "-m", "sh", "-c", f"{confined} sh -c '{script}'").stdout.split()


@pytest.mark.real
def test_service_that_leaves_its_mounts(machine: Machine, tree: str) -> None:
    start(machine, "/usr/bin/python3 /exchanger.py / proc yes", CONFINED)
    assert writable(machine) == []
    assert reload(machine, 8).count("could rename another directory to /etc during the swap") == 8
    assert writable(machine) == []


@pytest.mark.real
@pytest.mark.parametrize("more", ["RestrictNamespaces=yes\n", "ProtectSystem=strict\n", "User=daemon\n"])
def test_service_that_cannot(machine: Machine, tree: str, more: str) -> None:
    start(machine, "/usr/bin/sleep infinity", CONFINED + more)
    assert "re-stacked" in reload(machine, 1).splitlines()[-1]


@pytest.mark.real
@pytest.mark.parametrize("other", ["proc", "link"])
def test_exchanged_in_a_stage(machine: Machine, tree: str, other: str) -> None:
    """By whomever."""
    start(machine, "/usr/bin/sleep infinity", f"{CONFINED}RestrictNamespaces=yes\n")
    machine.run("systemd-run", "-q", "--unit=exchange-outside", "python3", "/srv/exchanger.py", tree, other, "no")
    said = reload(machine, 15)
    assert "could exchange" not in said.splitlines()[-1]
    machine.sh("touch /srv/exchange.stop; sleep 0.1")
    assert writable(machine) == []


@pytest.mark.real
def test_nothing_is_looked_up_in_what_took_the_place_of_a_stage_s_etc(machine: Machine, tree: str) -> None:
    """Least of all what says which layers are there."""
    start(machine, "/usr/bin/sleep infinity", CONFINED)
    releases = f"{tree}/false/extension-release.d"
    machine.sh(f"mkdir -p {releases}; : >{releases}/extension-release.10-a")
    said = machine.run("python3", "-c", LOOK, UNIT, f"{DIRECTORY}/10-a.raw", tree).stdout.splitlines()
    wrong = "the new /etc cannot be opened: something else was put in the place of the stage's /etc"
    assert said == ["fine", "fine", wrong, wrong, "fine", "fine"]
