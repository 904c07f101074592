# SPDX-License-Identifier: LGPL-2.1-or-later
"""What runs in a stage is worthless, and so is whatever somebody else gets executed in its place."""

from __future__ import annotations

import concurrent.futures
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import exchanger, images, services
from lab.machine import Machine
from lab.services import ROOT, SETTINGS

UNIT = "confined.service"
IMAGE = "/var/lib/confexts/confined.raw"
RELOADS = 100
EXCHANGER = "/usr/lib/lab/exchanger.py"

# A program that needs nothing but itself, and tells what it is where it can.
EVIL = """#!/busybox sh
{ cat /proc/self/status; cat /proc/1/root/etc/shadow; } >/proc/1/root/root/executed 2>&1
echo changed >>/proc/1/root/srv/host/file
cat /proc/self/status >/executed
"""
CONFINED = "CapabilityBoundingSet=\nNoNewPrivileges=yes\nPrivateNetwork=yes\nProtectKernelModules=yes\n"
TIGHT = (
    f"{CONFINED}ProtectSystem=strict\nProtectHome=yes\nPrivateDevices=yes\nPrivateTmp=yes\nProtectProc=invisible\n"
    "RestrictNamespaces=yes\nSystemCallFilter=@system-service\n"
)
_USR = "BindReadOnlyPaths=/usr/bin /usr/lib /usr/lib64\n"


def rooted(name: str, more: str, *flags: str) -> str:
    command = " ".join(["/usr/bin/python3", "/exchanger.py", "/", "run", "/evil", *flags])
    return f"[Service]\nType=exec\nExecStart={command}\nRootDirectory=/srv/{name}\n{_USR}{CONFINED}{more}"


# By name: the unit, and a command that is run outside of it.
ATTACKS = {
    "bound": (
        f"[Service]\nType=exec\nExecStart=/usr/bin/python3 {EXCHANGER} /run unit-confext /srv/evil\n"
        f"BindPaths=/srv/bound-run:/run\n{TIGHT}",
        "",
    ),
    "root-bare": (rooted("root-bare", "MountAPIVFS=no\nRestrictNamespaces=yes\n"), ""),
    "root-left": (rooted("root-left", "ProtectKernelTunables=yes\nPrivateDevices=yes\n", "leave"), ""),
    "alias": (
        "[Service]\nType=exec\nExecStart=/usr/bin/sleep infinity\nBindPaths=/srv/alias-run:/var/run\n",
        f"setpriv --reuid=daemon --clear-groups python3 {EXCHANGER} /srv/alias-run unit-confext /srv/evil",
    ),
}


@pytest.fixture
def attacked(machine: Machine) -> Iterator[dict[str, str]]:
    """The units of ATTACKS that run, by name; they attack already."""
    services.prepare(machine)
    machine.write(EXCHANGER, Path(exchanger.__file__).read_text())
    machine.write("/srv/evil", EVIL, 0o755)
    images.build(machine, IMAGE, images.pair("v1"))
    machine.sh(f"""
        mkdir -p /run/unit-confext /srv/bound-run /srv/alias-run /srv/host; chown daemon /srv/alias-run
        echo host >/srv/host/file; cp /bin/busybox /busybox
        for name in root-bare root-left; do
            cp -a {ROOT} /srv/$name
            cp /bin/busybox {EXCHANGER} /srv/evil /srv/$name
        done
    """)
    units = {name: f"attack-{name}.service" for name in ATTACKS}
    for name, unit in units.items():
        machine.write(f"/etc/systemd/system/{unit}", ATTACKS[name][0])
        images.build(machine, f"{services.entry_directory(unit)}/10-a.raw", images.pair("v1"))
    machine.systemctl("daemon-reload")
    machine.systemctl("start", *units.values(), check=False)
    for name, (_, command) in ATTACKS.items():
        if command:
            machine.systemctl("reset-failed", check=False)
            machine.run("systemd-run", "-q", f"--unit=outside-{name}", "sh", "-c", command)
    yield {name: unit for name, unit in units.items() if machine.show(unit, "ActiveState") == "active"}
    machine.sh("""
        systemctl stop 'attack-*' 'outside-*'
        rm -rf /etc/systemd/system/attack-* /srv/root-bare /srv/root-left /srv/bound-run /srv/alias-run /busybox
        systemctl daemon-reload
    """)


@pytest.mark.real
def test_whatever_is_executed_has_no_power(machine: Machine, attacked: dict[str, str]) -> None:
    # The last one depends on how systemd takes a mount on a link.
    assert {*ATTACKS} - {"alias"} <= {*attacked}
    before = machine.sh("sha256sum /etc/shadow /etc/passwd /srv/host/file; ls /etc /root")

    def play(unit: str) -> str:
        directory = services.entry_directory(unit)
        return machine.run("sh", "-c", f"""
            cp {directory}/10-a.raw /srv/{unit}.raw
            for number in $(seq {RELOADS}); do
                cp /srv/{unit}.raw {directory}/10-a.new; mv {directory}/10-a.new {directory}/10-a.raw
                systemctl reload {unit} 2>&1 || :
            done
        """, timeout=600).stdout  # fmt: skip

    with concurrent.futures.ThreadPoolExecutor() as pool:
        dict(zip(attacked, pool.map(play, attacked.values()), strict=True))
    machine.sh("for file in /root/executed /executed /srv/root*/executed; do [ ! -e $file ]; done")
    after = machine.sh("sha256sum /etc/shadow /etc/passwd /srv/host/file; ls /etc /root")
    assert after == before
    said = {name: machine.journal("-u", unit, "-t", "unit-confext") for name, unit in attacked.items()}
    # The attack would have succeeded.
    assert "another program was executed in place of the stage's loader" in said["root-bare"]
    # What is bound to /run is no concern of a stage.
    assert said["bound"].count("re-stacked") == RELOADS
    if "alias" in said:
        assert said["alias"].count("below a directory that others can change") == RELOADS


def stage_of(machine: Machine, settings: str) -> str:
    """Start the unit with settings, reload it, and return its stage, which is there for some seconds."""
    machine.write(f"/etc/systemd/system/{UNIT}", f"{services.fragment(settings, '--idle')}[X-Confext]\nCheck=sleep 4\n")
    images.build(machine, IMAGE, images.pair("v1"))
    services.set_entries(machine, [UNIT], {"10-confined.raw": IMAGE})
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", UNIT)
    services.main_pid(machine, UNIT)
    images.build(machine, IMAGE, images.pair("v2"))
    machine.systemctl("reload", "--no-block", UNIT)
    services.eventually(lambda: machine.show("unit-confext-check-*", "MainPID") not in ("", "0"))
    (stage,) = (unit for unit in services.leftovers(machine) if unit.startswith("unit-confext-stage-"))
    return stage


@pytest.mark.real
def test_process_of_a_stage(machine: Machine) -> None:
    services.prepare(machine)
    try:
        stage = stage_of(machine, "")
        pid = machine.show(stage, "MainPID")
        status = dict(line.split(":\t", 1) for line in machine.sh(f"cat /proc/{pid}/status").splitlines())
        uid, gid = machine.sh("id -u unit-confext; id -g unit-confext").split()
        assert int(uid) > 0
        assert status["Uid"].split() == [uid] * 4
        assert status["Gid"].split() == [gid] * 4
        assert status["Groups"].split() == [gid]
        assert {status[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0000000000000000"}
        # Of the process alone; the mounts are those of a restart, see test_invariant.
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert machine.sh(f"readlink /proc/{pid}/ns/net") != machine.sh("readlink /proc/1/ns/net")
        assert machine.show(stage, "DevicePolicy") == "closed"
        assert {line.split()[0] for line in machine.show(stage, "DeviceAllow").splitlines()} == {
            "/dev/loop-control", "/dev/mapper/control", "block-loop", "block-blkext", "block-device-mapper",
        }  # fmt: skip
        calls = {*machine.show(stage, "SystemCallFilter").split()}
        assert {"writev", "execve", "exit_group"} <= calls
        assert not {call for call in calls if re.match(r"open|socket|connect|ptrace|mount|kill|clone|fork|mknod", call)}
        # Another user's, for a service that runs as root without capabilities.
        confined = "exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs"
        for command in (f"kill -0 {pid}", f"sh -c 'ls /proc/{pid}/root/'", f"sh -c 'ls -l /proc/{pid}/fd/'"):
            done = machine.run("sh", "-c", f"{confined} env {command}", check=False)
            assert (done.returncode, bool(re.search("not permitted|denied", done.stderr))) != (0, False), command
        services.eventually(lambda: services.version(machine, UNIT) == "v2")
    finally:
        machine.sh(f"systemctl stop {UNIT}; rm -f /etc/systemd/system/{UNIT}")


@pytest.mark.real
def test_root_directory_that_only_root_may_search(machine: Machine) -> None:
    services.prepare(machine)
    machine.write(f"/etc/systemd/system/{UNIT}", services.fragment(SETTINGS["root-directory"], "--idle"))
    images.build(machine, IMAGE, images.pair("v1"))
    services.set_entries(machine, [UNIT], {"10-confined.raw": IMAGE})
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", UNIT)
    services.main_pid(machine, UNIT)
    images.build(machine, IMAGE, images.pair("v2"))
    machine.sh(f"chmod 700 {ROOT}")
    try:
        assert machine.systemctl("reload", UNIT, check=False).returncode == 1
        said = machine.journal("-u", UNIT, "-t", "unit-confext", "-n", "1")
        assert f"the system user unit-confext may not search ({ROOT}); chmod o+x" in said
        assert services.version(machine, UNIT) == "v1"
    finally:
        machine.sh(f"chmod 755 {ROOT}")
    machine.systemctl("reload", UNIT)
    assert services.version(machine, UNIT) == "v2"
    machine.sh(f"systemctl stop {UNIT}; rm -f /etc/systemd/system/{UNIT}")


@pytest.mark.real
def test_without_the_user(machine: Machine) -> None:
    services.prepare(machine)
    machine.write(f"/etc/systemd/system/{UNIT}", services.fragment("", "--idle"))
    images.build(machine, IMAGE, images.pair("v1"))
    services.set_entries(machine, [UNIT], {"10-confined.raw": IMAGE})
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", UNIT)
    services.main_pid(machine, UNIT)
    images.build(machine, IMAGE, images.pair("v2"))
    machine.sh("sed -i /^unit-confext:/d /etc/passwd")
    assert machine.systemctl("reload", UNIT, check=False).returncode == 1
    said = machine.journal("-u", UNIT, "-t", "unit-confext", "-n", "1")
    assert "without the system user unit-confext; run systemd-sysusers and reload again" in said
    machine.run("systemd-sysusers")
    machine.systemctl("reload", UNIT)
    assert services.version(machine, UNIT) == "v2"
    machine.sh(f"systemctl stop {UNIT}; rm -f /etc/systemd/system/{UNIT}")
