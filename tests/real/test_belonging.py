# SPDX-License-Identifier: LGPL-2.1-or-later
"""Only mount namespaces that systemd made for this run of the service get a new `/etc`, and where it would be seen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import images, services
from lab.machine import Machine

UNIT = "own.service"
IMAGE = "/var/lib/confexts/own.raw"

# A container: a root file system and an /etc of its own.
CONTAINER = """
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), name)
call("unshare", 0x20000)
call("mount", b"none", b"/", None, 0x4000 | 1 << 18, None)
os.makedirs("/srv/ct", exist_ok=True)
call("mount", b"tmpfs", b"/srv/ct", b"tmpfs", 0, None)
for name in ("etc", "old", "usr", "proc"):
    os.mkdir("/srv/ct/" + name)
open("/srv/ct/etc/whoami", "w").write("the container")
os.chdir("/srv/ct")
call("pivot_root", b".", b"old")
os.chdir("/")
call("umount2", b"/old", 2)
open("/up", "w")
time.sleep(100000)
"""
UNSHARE = "/usr/bin/unshare --mount"
# A program that has nothing in its environment, as one that has written over it.
BARE = "/usr/bin/env -i /usr/bin/sleep infinity"


@pytest.fixture(autouse=True)
def prepared(machine: Machine) -> Iterator[None]:
    services.prepare(machine)
    images.build(machine, IMAGE, images.pair("v1"))
    services.set_entries(machine, [UNIT], {"10-own.raw": IMAGE})
    machine.write("/srv/container.py", CONTAINER)
    yield
    machine.sh(f"systemctl stop {UNIT} || true; rm -f /etc/systemd/system/{UNIT}")
    machine.sh("rm -rf /etc/work; systemctl daemon-reload")


def start(machine: Machine, unit: str, command: str, *settings: str) -> None:
    lines = "\n".join(settings)
    machine.write(f"/etc/systemd/system/{unit}", f"[Service]\nExecStart={command}\n{lines}\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", unit)


def pids(machine: Machine, unit: str) -> list[int]:
    group = f"/sys/fs/cgroup{machine.show(unit, 'ControlGroup')}/cgroup.procs"
    return [int(pid) for pid in machine.run("cat", group).stdout.split()]


def running(machine: Machine, unit: str, word: bytes) -> int:
    """The process of a unit with a word in its command line, once there is one.

    unshare(1) and env(1) have the words of the program that they are about to execute in theirs: before that, they are
    not yet in the mount namespace, or have not yet the environment, that the program will have.
    """
    found: list[int] = []

    def look() -> bool:
        for pid in pids(machine, unit):
            path = machine.path(f"/proc/{pid}/cmdline")
            words = path.read_bytes().split(b"\0") if path.exists() else [b""]
            if word in words and words[0] not in (b"/usr/bin/unshare", b"/usr/bin/env"):
                found.append(pid)
        return bool(found)

    services.eventually(look)
    return found[0]


def mounted(machine: Machine, pid: int) -> str:
    return machine.path(f"/proc/{pid}/mountinfo").read_text()


def reload(machine: Machine) -> tuple[int, str]:
    """Reload with another image; return how it ended, and what was said."""
    images.build(machine, IMAGE, images.pair("v2"))
    said = len(machine.journal("-u", UNIT, "-t", "unit-confext").splitlines())
    done = machine.systemctl("reload", UNIT, check=False)
    return done.returncode, "\n".join(machine.journal("-u", UNIT, "-t", "unit-confext").splitlines()[said:])


@pytest.mark.real
@pytest.mark.parametrize(
    ("command", "word", "reason"),
    [
        ("/usr/bin/python3 -IS /srv/container.py", b"/srv/container.py", "has another root directory than systemd"),
        (f"{UNSHARE} /usr/bin/sleep infinity", b"infinity", "it has cut off from the host's"),
        (f"{UNSHARE} --propagation slave /usr/bin/sleep infinity", b"infinity", "it has cut off from the host's"),
    ],
    ids=["container", "private", "slave"],
)
def test_main_process_in_a_namespace_of_its_own(machine: Machine, command: str, word: bytes, reason: str) -> None:
    start(machine, UNIT, command)
    pid = running(machine, UNIT, word)
    if word != b"infinity":
        services.eventually(lambda: machine.path(f"/proc/{pid}/root/up").exists())
    before = mounted(machine, pid)
    status, said = reload(machine)
    assert (status, mounted(machine, pid)) == (1, before)
    assert f"its main process {pid} " in said
    assert reason in said
    assert said.endswith("; restart it instead")


@pytest.mark.real
@pytest.mark.parametrize(
    ("command", "word", "reason"),
    [
        ("/usr/bin/python3 -IS /srv/container.py", b"/srv/container.py", "has another root directory than systemd"),
        (f"{UNSHARE} sleep 1001", b"1001", "it has cut off from the host's"),
        (f"{UNSHARE} --propagation unchanged sleep 1001", b"1001", "a copy of the service's mount namespace"),
    ],
    ids=["container", "private", "copy"],
)
def test_child_in_a_namespace_of_its_own(machine: Machine, command: str, word: bytes, reason: str) -> None:
    """It is left alone, and said."""
    start(machine, UNIT, f"/bin/sh -c '{command} & sleep 1002 &'", "Type=oneshot", "RemainAfterExit=yes")
    child, own = running(machine, UNIT, word), running(machine, UNIT, b"1002")
    if "container" in command:
        services.eventually(lambda: machine.path(f"/proc/{child}/root/up").exists())
    before = mounted(machine, child)
    status, said = reload(machine)
    assert status == 0
    assert machine.path(f"/proc/{own}/root/etc/demo/a").read_text().strip() == "v2"
    assert mounted(machine, child) == before
    assert f"its process {child} keeps its old /etc: it " in said
    assert reason in said


@pytest.mark.real
@pytest.mark.parametrize("settings", ["", "CapabilityBoundingSet=CAP_CHOWN", "User=daemon", "PrivateUsers=yes"])
def test_forking_service_that_has_no_environment(machine: Machine, settings: str) -> None:
    """As nginx and others do, which write over it."""
    start(machine, UNIT, f"/bin/sh -c '{BARE} &'", "Type=forking", settings)
    pid = running(machine, UNIT, b"infinity")
    assert reload(machine)[0] == 0
    assert machine.path(f"/proc/{pid}/root/etc/demo/a").read_text().strip() == "v2"


# Writes over its environment, as programs do to set their title; with all the power of root.
RETITLED = """
import ctypes, time
field = open("/proc/self/stat").read().rpartition(")")[2].split()
ctypes.memset(int(field[47]), 0x78, int(field[48]) - int(field[47]) - 1)
time.sleep(100000)
"""
# A service names a process as its main one, after it has moved it into its own control group, or without that.
THIEF = """
import os, socket, sys, time
victim, moves = sys.argv[1:]
def tell(text):
    path = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        to.sendto(text.encode(), "\\0" + path[1:] if path[0] == "@" else path)
if moves == "yes":
    group = open("/proc/self/cgroup").read().splitlines()[-1].partition("::")[2]
    open(f"/sys/fs/cgroup{group}/cgroup.procs", "w").write(victim)
tell(f"READY=1\\nMAINPID={victim}")
time.sleep(100000)
"""


def mounts_of_etc(machine: Machine, pid: int) -> list[str]:
    return [line for line in mounted(machine, pid).splitlines() if " /etc" in line]


@pytest.mark.real
def test_command_without_setuid_cannot_steal_another_service(machine: Machine) -> None:
    """With `!`, a service with `User=` has a process that is root, without the power that root has."""
    machine.write("/srv/victim.py", RETITLED)
    machine.write("/srv/thief.py", THIEF)
    command = "/usr/bin/python3 -IS /srv/victim.py"
    start(machine, "own-retitled.service", command, "PrivateMounts=yes", "InaccessiblePaths=/etc/shadow")
    try:
        victim = int(machine.show("own-retitled.service", "MainPID"))
        services.eventually(lambda: machine.path(f"/proc/{victim}/environ").read_bytes().startswith(b"xxx"))
        before = mounts_of_etc(machine, victim)
        settings = ("Type=notify", "NotifyAccess=all", "User=daemon", "CapabilityBoundingSet=", "ExecReload=/bin/true")
        start(machine, UNIT, f"!/usr/bin/python3 -IS /srv/thief.py {victim} yes", *settings)
        services.eventually(lambda: int(machine.show(UNIT, "MainPID")) == victim)
        status, said = reload(machine)
        assert before
        assert (status != 0, mounts_of_etc(machine, victim)) == (True, before)
        assert f"its main process {victim} is in a mount namespace of another service, and is left alone" in said
    finally:
        machine.sh("systemctl stop own-retitled; rm -f /etc/systemd/system/own-retitled.service")


# As openvpn does: it reads what it has been named at each SIGHUP, by a relative path.
RELATIVE = """
import os, signal, sys
def read(*_):
    print("port", open(sys.argv[1]).read().strip(), flush=True)
signal.signal(signal.SIGHUP, read)
read()
while True:
    signal.pause()
"""


@pytest.mark.real
def test_service_that_works_in_a_directory_below_etc(machine: Machine) -> None:
    machine.write("/srv/relative.py", RELATIVE)
    machine.sh("mkdir -p /etc/demo; echo host >/etc/demo/a")
    command = "/usr/bin/python3 -IS /srv/relative.py a"
    settings = ("Type=exec", "WorkingDirectory=/etc/demo", "ExecReload=/bin/kill -HUP $MAINPID")
    start(machine, UNIT, command, *settings)
    pid = running(machine, UNIT, b"a")

    def ports() -> list[str]:
        return [line for line in machine.journal("-u", UNIT).splitlines() if line.startswith("port ")]

    services.eventually(lambda: ports() == ["port v1"])
    status, said = reload(machine)
    assert status == 1
    assert f"its main process {pid} works in /etc/demo, where it would go on with the old files" in said
    assert "restart it, or set WorkingDirectory= to a directory that is not below /etc" in said
    assert machine.path(f"/proc/{pid}/root/etc/demo/a").read_text() == "v1\n"
    assert ports() == ["port v1"]
    # What it is told to do.
    machine.systemctl("restart", UNIT)
    services.eventually(lambda: ports() == ["port v1", "port v2"])


@pytest.mark.real
def test_child_that_works_in_a_directory_below_etc(machine: Machine) -> None:
    start(machine, UNIT, "/bin/sh -c 'cd /etc/demo; sleep 1001 & cd /; exec sleep 1002'")
    child = running(machine, UNIT, b"1001")
    running(machine, UNIT, b"1002")
    status, said = reload(machine)
    assert status == 0
    assert f"its process {child} keeps its old /etc: it works in a directory below /etc" in said


VICTIM = "own-victim.service"
# What other services are: with more power than the thief, with a sandbox, with the very layers of it, a container.
VICTIMS = {
    "plain": ("/usr/bin/sleep 1001", "PrivateMounts=yes"),
    "sandboxed": ("/usr/bin/sleep 1001", "InaccessiblePaths=/etc/cron.d"),
    "bare": ("/usr/bin/env -i /usr/bin/sleep 1001", "PrivateMounts=yes"),
    "container": ("/usr/bin/python3 -IS /srv/container.py", ""),
    "host": ("/usr/bin/sleep 1001", ""),
}


@pytest.fixture(params=VICTIMS)
def victim(machine: Machine, request: pytest.FixtureRequest) -> Iterator[int]:
    command, settings = VICTIMS[request.param]
    start(machine, VICTIM, command, settings)
    pid = running(machine, VICTIM, command.split()[-1].encode())
    if request.param == "container":
        services.eventually(lambda: machine.path(f"/proc/{pid}/root/up").exists())
    yield pid
    machine.run("kill", str(pid), check=False)
    machine.sh(f"systemctl stop {UNIT} {VICTIM}; rm /etc/systemd/system/{VICTIM}; rm -rf /srv/ct")


@pytest.mark.real
def test_main_process_of_another_service(machine: Machine, victim: int) -> None:
    """A service that is root, but without the power of root, gets no /etc into what is not its own."""
    steal(machine, victim, "yes")


@pytest.mark.real
@pytest.mark.parametrize("victim", ["sandboxed"], indirect=True)
def test_main_process_in_another_group(machine: Machine, victim: int) -> None:
    steal(machine, victim, "no")


def steal(machine: Machine, victim: int, moves: str) -> None:
    machine.write("/srv/thief.py", THIEF)
    before = mounted(machine, victim)
    command = f"/usr/bin/python3 -IS /srv/thief.py {victim} {moves}"
    start(machine, UNIT, command, "Type=notify", "NotifyAccess=all", "CapabilityBoundingSet=CAP_CHOWN")
    assert machine.show(UNIT, "MainPID") == str(victim)
    assert (victim in pids(machine, UNIT)) == (moves == "yes")
    status, said = reload(machine)
    assert (status, mounted(machine, victim)) == (1, before)
    assert f"main process {victim} " in said or "the host's mount namespace" in said
    assert said.endswith(("; restart it instead", f"; run 'systemctl restart {UNIT}' once"))


@pytest.mark.real
def test_process_of_another_service_moved_into_its_group(machine: Machine, victim: int) -> None:
    """It is left alone, and said, but for what is in the host's namespace, which nobody takes for the service's."""
    start(machine, UNIT, "/usr/bin/sleep 1002", "CapabilityBoundingSet=CAP_CHOWN")
    own = running(machine, UNIT, b"1002")
    before = mounted(machine, victim)
    machine.sh(f"echo {victim} >/sys/fs/cgroup{machine.show(UNIT, 'ControlGroup')}/cgroup.procs")
    assert victim in pids(machine, UNIT)
    status, said = reload(machine)
    assert (status, mounted(machine, victim)) == (0, before)
    assert machine.path(f"/proc/{own}/root/etc/demo/a").read_text().strip() == "v2"
    if mounted(machine, victim) != mounted(machine, 1):
        assert f"its process {victim} keeps its old /etc: it " in said
