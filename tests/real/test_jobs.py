# SPDX-License-Identifier: LGPL-2.1-or-later
"""The jobs of systemd around a reload: which of them the hook is for, what does not wait for it, and its deadline."""

from __future__ import annotations

import pytest

from lab import images, services
from lab.machine import Machine

STORE = "/var/lib/confexts"
# Reads one file, and the other one only when it is let.
NOTIFIER = """
import os, signal, socket, time
def tell(text):
    path = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        to.sendto(text.encode(), "\\0" + path[1:] if path[0] == "@" else path)
def reload(*_):
    tell(f"RELOADING=1\\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
    with open("/etc/demo/a") as file:
        first = file.read().strip()
    while os.path.exists("/run/jobs-hold"):
        time.sleep(0.02)
    with open("/etc/demo/b") as file:
        print("read", first, file.read().strip(), flush=True)
    tell("READY=1")
signal.signal(signal.SIGHUP, reload)
tell("READY=1")
while True:
    signal.pause()
"""
# A FUSE file system that answers until /srv/jobs-silent is there, and then never: whoever asks cannot be killed.
SILENT = """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("/dev/fuse", os.O_RDWR)
os.makedirs("/srv/jobs-fuse", exist_ok=True)
option = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % fd
assert libc.mount(b"jobs", b"/srv/jobs-fuse", b"fuse", 0, option) == 0
while True:
    _, op, unique, *_ = struct.unpack_from("<IIQQIIII", os.read(fd, 1 << 17))
    if op == 26:
        body = struct.pack("<IIIIHHIIHHI", 7, 31, 65536, 0, 0, 0, 65536, 0, 0, 0, 0).ljust(64, b"\\0")
    elif op == 3:
        body = struct.pack("<QII", 0, 0, 0) + struct.pack("<QQQQQQIIIIIIIIII", 1, *[0] * 8, 0o40755, 2, *[0] * 3, 4096, 0)
    elif os.path.exists("/srv/jobs-silent"):
        continue
    else:
        os.write(fd, struct.pack("<IiQ", 16, -2, unique))
        continue
    os.write(fd, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)
"""  # noqa: E501 - as short as it gets


def files(version: str) -> dict[str, str]:
    return {"demo/a": f"{version}\n", "demo/b": f"{version}\n"}


def make(machine: Machine, name: str, fragment: str) -> tuple[str, str]:
    """Start a service with one layer; return its unit and its image."""
    unit, image = f"jobs-{name}.service", f"{STORE}/jobs-{name}.raw"
    images.build(machine, image, files("v1"))
    machine.write(f"/etc/systemd/system/{unit}", fragment)
    services.set_entries(machine, [unit], {f"10-jobs-{name}.raw": image})
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", unit)
    return unit, image


def sees(machine: Machine, unit: str) -> str:
    return machine.path(f"/proc/{machine.show(unit, 'MainPID')}/root/etc/demo/a").read_text().strip()


def said(machine: Machine, unit: str) -> list[str]:
    return machine.journal("-u", unit, "-t", "unit-confext").splitlines()


def sleeper(*lines: str, check: str = "") -> str:
    section = f"[X-Confext]\n{check}\n" if check else ""
    service = "\n".join(("[Service]", "Type=exec", "ExecStart=/usr/bin/sleep infinity", *lines))
    return f"[Unit]\nStartLimitIntervalSec=0\n{section}{service}\n"


@pytest.mark.real
@pytest.mark.parametrize("kind", ["notify", "notify-reload"])
def test_service_that_reloads_by_itself(machine: Machine, kind: str) -> None:
    """It gets no new file by that, and none in the middle of it either by the reload that does bring them."""
    machine.write("/usr/lib/lab/notifier.py", NOTIFIER)
    own = "ExecReload=/bin/kill -HUP $MAINPID\n" if kind == "notify" else ""
    fragment = f"[Service]\nType={kind}\nExecStart=/usr/bin/python3 -IS /usr/lib/lab/notifier.py\n{own}"
    unit, image = make(machine, kind, fragment)

    def read() -> list[str]:
        return [line for line in machine.journal("-u", unit).splitlines() if line.startswith("read ")]

    images.build(machine, image, files("v2"))
    machine.run("kill", "-HUP", machine.show(unit, "MainPID"))
    services.eventually(lambda: bool(said(machine, unit)))
    assert said(machine, unit)[-1].startswith(f"{unit}: /etc is left alone, since no reload by systemd waits for it; ")
    assert read() == ["read v1 v1"]
    machine.sh("touch /run/jobs-hold")
    machine.run("kill", "-HUP", machine.show(unit, "MainPID"))
    services.eventually(lambda: machine.show(unit, "ActiveState") == "reloading")
    machine.systemctl("reload", "--no-block", unit)
    services.eventually(lambda: machine.show(f"unit-confext-restack@{unit}.service", "ActiveState") == "reloading")
    machine.sh("sleep 0.5; rm /run/jobs-hold")
    services.eventually(lambda: len(read()) == 3)
    assert read() == ["read v1 v1", "read v1 v1", "read v2 v2"]
    machine.systemctl("stop", unit)


@pytest.mark.real
@pytest.mark.parametrize("verb", ["restart", "stop"])
def test_nothing_waits_for_a_reload_that_hangs(machine: Machine, verb: str) -> None:
    check = "Check=/usr/bin/sleep 600\nCheckTimeoutSec=infinity\nTimeoutSec=10min"
    unit, image = make(machine, f"long-{verb}", sleeper("ExecReload=/usr/bin/echo reloaded", check=check))
    images.build(machine, image, files("v2"))
    machine.systemctl("reload", "--no-block", unit)
    services.eventually(lambda: "jobs-long" in machine.systemctl("list-units", "--all", "unit-confext-check-*").stdout)
    machine.run("timeout", "15", "systemctl", verb, unit)
    if verb == "restart":
        assert sees(machine, unit) == "v2"
    assert machine.show(unit, "ActiveState") == ("active" if verb == "restart" else "inactive")
    services.eventually(lambda: machine.systemctl("list-jobs", "--no-legend", f"*{unit}*").stdout == "")
    assert "reloaded" not in machine.journal("-u", unit)
    machine.systemctl("stop", unit)


def is_checked(machine: Machine, unit: str) -> bool:
    """Whether a check of the service is running; those of services that were restarted meanwhile may be, too."""
    listed = machine.systemctl("list-units", "--no-legend", "--full", "unit-confext-check-*").stdout
    return any(" start " in line and line.endswith(f" {unit}") for line in map(str.rstrip, listed.splitlines()))


@pytest.mark.real
def test_parent_that_is_stopped(machine: Machine) -> None:
    """Nobody answers the hook's child then, so that it swaps nothing; a restart ends both."""
    unit, image = make(machine, "stopped", sleeper("ExecReload=/usr/bin/echo reloaded", check="Check=/usr/bin/sleep 1"))
    images.build(machine, image, files("v2"))
    machine.systemctl("reload", "--no-block", unit)
    services.eventually(lambda: is_checked(machine, unit))
    parent = machine.show(f"unit-confext-restack@{unit}.service", "ControlPID")
    machine.run("kill", "-STOP", parent)
    child = machine.path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0]
    # Until it waits for the answer, and not for what the check prints.
    services.eventually(lambda: not is_checked(machine, unit))
    services.eventually(lambda: "pipe_read" in machine.path(f"/proc/{child}/stack").read_text())
    assert sees(machine, unit) == "v1"
    assert machine.show(f"unit-confext-restack@{unit}.service", "ActiveState") == "reloading"
    machine.run("timeout", "15", "systemctl", "restart", unit)
    assert sees(machine, unit) == "v2"
    for pid in (parent, child):
        services.eventually(lambda pid=pid: not machine.path(f"/proc/{pid}").exists())  # type: ignore[misc]
    images.build(machine, image, files("v3"))
    machine.systemctl("reload", unit)
    assert (sees(machine, unit), machine.journal("-u", unit).splitlines().count("reloaded")) == ("v3", 1)
    services.eventually(lambda: services.leftovers(machine) == [])
    machine.systemctl("stop", unit)
    services.eventually(lambda: services.loop_devices(machine, image) == 0)


@pytest.mark.real
@pytest.mark.parametrize("what", ["check", "storage"])
def test_deadline(machine: Machine, what: str) -> None:
    """Also for a child that no signal can end; and the next reload does not wait for it."""
    check = "TimeoutSec=2" + ("\nCheckTimeoutSec=infinity\nCheck=/usr/bin/sleep 600" if what == "check" else "")
    unit, image = make(machine, f"deadline-{what}", sleeper("ExecReload=/usr/bin/echo reloaded", check=check))
    images.build(machine, image, files("v2"))
    if what == "storage":
        machine.write("/usr/lib/lab/silent.py", SILENT)
        machine.sh("python3 -IS /usr/lib/lab/silent.py >/dev/null 2>&1 & echo $! >/run/jobs-fuse.pid")
        services.eventually(lambda: "/srv/jobs-fuse" in machine.path("/proc/1/mountinfo").read_text())
        silent = "/srv/jobs-fuse/20-more.raw"
        machine.run("ln", "-s", silent, f"{services.entry_directory(unit)}/20-more.raw")
        machine.systemctl("daemon-reload")
        machine.sh("touch /srv/jobs-silent")
    try:
        done = machine.run("timeout", "40", "systemctl", "reload", unit, check=False)
        assert (done.returncode, sees(machine, unit)) == (1, "v1")
        services.eventually(lambda: bool(said(machine, unit)))
        late = f"{unit}: /etc is unchanged, the new one was not there after 2 s, when "
        longer = "or set a longer TimeoutSec= in [X-Confext], and reload again"
        expected = f"{late}its checks still ran; mend the check, {longer}"
        if what == "storage":
            expected = (
                f"{late}its layers and the host's /etc were still looked at ({silent}); "
                f"see whether its storage answers, {longer}"
            )
        assert said(machine, unit) == [expected]
        assert "reloaded" not in machine.journal("-u", unit)
        if what == "storage":
            machine.run("rm", f"{services.entry_directory(unit)}/20-more.raw")
            machine.systemctl("daemon-reload")
            machine.run("timeout", "40", "systemctl", "reload", unit)
            assert sees(machine, unit) == "v2"
    finally:
        if what == "storage":
            machine.sh("kill $(cat /run/jobs-fuse.pid); umount -l /srv/jobs-fuse; rm -f /srv/jobs-silent")
        machine.systemctl("stop", unit)


@pytest.mark.real
@pytest.mark.parametrize("then", ["good", "bad"])
@pytest.mark.parametrize("first", ["good", "bad"])
def test_second_reload_during_the_first(machine: Machine, first: str, then: str) -> None:
    """Whatever comes of it, a service with new files was told, and one with the old ones was not."""
    check = 'Check=/bin/sh -c "sleep 1; test ! -e /etc/demo/bad"'
    unit, image = make(machine, f"{first}-{then}", sleeper("ExecReload=/usr/bin/echo reloaded", check=check))
    images.build(machine, image, files("v2") | ({"demo/bad": ""} if first == "bad" else {}))
    machine.write("/run/jobs.sh", f"systemctl reload {unit}; echo $? >/run/jobs.first\n")
    machine.sh("rm -f /run/jobs.first; sh /run/jobs.sh >/dev/null 2>&1 &")
    services.eventually(lambda: "start" in machine.systemctl("list-jobs", "unit-confext-check-*").stdout)
    images.build(machine, image, files("v3") | ({"demo/bad": ""} if then == "bad" else {}))
    second = machine.systemctl("reload", unit, check=False).returncode
    services.eventually(lambda: machine.path("/run/jobs.first").exists())
    services.eventually(lambda: machine.systemctl("list-jobs", "--no-legend", f"*{unit}*").stdout == "")
    assert second == (0 if then == "good" else 1)
    assert sees(machine, unit) == ("v3" if then == "good" else "v1")
    assert machine.journal("-u", unit).splitlines().count("reloaded") == (1 if then == "good" else 0)
    machine.systemctl("stop", unit)


@pytest.mark.real
def test_second_reload_that_is_refused_after_the_first_was_not(machine: Machine) -> None:
    """What the first has ready is left to the second, or a service would have new files of which it was not told."""
    check = 'Check=/bin/sh -c "sleep 1; test ! -e /srv/jobs-bad"'
    unit, image = make(machine, "twice", sleeper("ExecReload=/usr/bin/echo reloaded", check=check))

    def checking() -> str:
        listed = machine.systemctl("list-units", "--plain", "--no-legend", "--state=activating", "unit-confext-check-*")
        own = [line for line in listed.stdout.splitlines() if line.endswith(f" {unit}")]
        return own[0].partition(" ")[0] if own else ""

    images.build(machine, image, files("v2"))
    machine.systemctl("reload", "--no-block", unit)
    services.eventually(lambda: checking() != "")
    first = checking()
    machine.systemctl("reload", "--no-block", unit)
    services.eventually(lambda: checking() not in ("", first))
    machine.sh("touch /srv/jobs-bad")
    services.eventually(lambda: machine.systemctl("list-jobs", "--no-legend", f"*{unit}*").stdout == "")
    assert (sees(machine, unit), machine.journal("-u", unit).splitlines().count("reloaded")) == ("v1", 0)
    machine.sh("rm /srv/jobs-bad")
    machine.systemctl("reload", unit)
    assert (sees(machine, unit), machine.journal("-u", unit).splitlines().count("reloaded")) == ("v2", 1)
    machine.systemctl("stop", unit)


@pytest.mark.real
@pytest.mark.parametrize("when", ["check", "0.05", "0.15", "0.3"])
def test_manager_that_executes_itself_anew(machine: Machine, when: str) -> None:
    """At whatever moment of the hook: the old /etc and no reload, or the new one and a reload; and nothing stays."""
    check = "Check=/usr/bin/sleep 2" if when == "check" else ""
    unit, image = make(machine, f"reexec-{when}", sleeper("ExecReload=/usr/bin/echo reloaded", check=check))
    images.build(machine, image, files("v2"))
    of_host = len(machine.path("/proc/1/mountinfo").read_text().splitlines())
    machine.write("/run/jobs.sh", f"systemctl reload {unit}; echo $? >/run/jobs.reexec\n")
    machine.sh("rm -f /run/jobs.reexec; sh /run/jobs.sh >/dev/null 2>&1 &")
    if when == "check":
        services.eventually(lambda: "start" in machine.systemctl("list-jobs", "unit-confext-check-*").stdout)
    else:
        machine.sh(f"sleep {when}")
    machine.systemctl("daemon-reexec")
    services.eventually(lambda: machine.path("/run/jobs.reexec").exists(), 60)
    services.eventually(lambda: machine.systemctl("list-jobs", "--no-legend", f"*{unit}*").stdout == "", 60)
    # systemctl may have lost its connection, so its exit status says nothing.
    told = machine.journal("-u", unit).splitlines().count("reloaded")
    assert (sees(machine, unit), told) in (("v1", 0), ("v2", 1)), said(machine, unit)
    assert [line for line in said(machine, unit) if not line.startswith(f"{unit}: ")] == []
    images.build(machine, image, files("v3"))
    machine.systemctl("reload", unit)
    assert (sees(machine, unit), machine.journal("-u", unit).splitlines().count("reloaded")) == ("v3", told + 1)
    services.eventually(lambda: services.leftovers(machine) == [])
    services.eventually(lambda: services.loop_devices(machine, image) == 1)
    mounts = machine.path(f"/proc/{machine.show(unit, 'MainPID')}/mountinfo").read_text()
    assert mounts.count("/unit-extensions/") == 1
    assert len(machine.path("/proc/1/mountinfo").read_text().splitlines()) == of_host
    machine.systemctl("stop", unit)


@pytest.mark.real
def test_unit_of_the_hook_is_up_whenever_the_service_is(machine: Machine) -> None:
    unit, image = make(machine, "often", sleeper())
    for number, command in enumerate(("stop {0}; systemctl start {0}", "restart {0}", "reload {0}"), 2):
        machine.sh(f"for i in $(seq 30); do systemctl {command.format(unit)} || exit 1; done")
        images.build(machine, image, files(f"v{number}"))
        machine.systemctl("reload", unit)
        assert sees(machine, unit) == f"v{number}"
    assert machine.systemctl("list-units", "--failed", "--no-legend", f"*{unit}*").stdout == ""
    machine.systemctl("stop", unit)
