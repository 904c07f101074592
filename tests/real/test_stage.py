# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stage and the service are kept apart: neither runs anything of the other, and what the sandbox hides stays so."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lab import images, services
from lab.machine import Machine
from lab.services import ROOT, SETTINGS

UNIT = "g.service"
IMAGE = "/var/lib/confexts/stage.raw"
FRAGMENT = f"/etc/systemd/system/{UNIT}"


@pytest.fixture
def prepared(machine: Machine) -> Iterator[None]:
    """All but the unit file."""
    services.prepare(machine)
    images.build(machine, IMAGE, images.pair("v1"))
    services.set_entries(machine, [UNIT], {"10-stage.raw": IMAGE})
    yield
    machine.sh(f"systemctl stop {UNIT}; rm -rf {FRAGMENT} {services.entry_directory(UNIT)}; systemctl daemon-reload")


def start(machine: Machine, fragment: str) -> None:
    # With Type=simple a start is over before the images are mounted.
    machine.write(FRAGMENT, fragment if "\nType=" in fragment else f"{fragment}Type=exec\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", UNIT)
    images.build(machine, IMAGE, images.pair("v2"))


def said(machine: Machine) -> str:
    return machine.journal("-u", UNIT, "-t", "unit-confext", "-n", "1").removesuffix("\n")


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
def test_nothing_of_the_service_s_root_is_executed(machine: Machine) -> None:
    """Whoever can write to the root directory of a service cannot have a program started as root."""
    start(machine, services.fragment(SETTINGS["root-directory"], "--idle"))
    services.main_pid(machine, UNIT)
    # The loader looks at it whatever it loads, and whoever opens this one waits for long.
    preload = f"{ROOT}/etc/ld.so.preload"
    machine.sh(f"mkfifo {preload}")
    try:
        # Without the service's own reload, which has to execute something in there.
        machine.run("timeout", "30", "/usr/lib/unit-confext/restack", "--alone", UNIT)
    finally:
        machine.sh(f"rm {preload}")
    assert services.version(machine, UNIT) == "v2"


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("settings", [f"RootDirectory={ROOT}", "BindPaths=/srv/other:/run"])
def test_root_that_others_can_write(machine: Machine, settings: str) -> None:
    """They could have put another program in the place of the loader."""
    directory = settings.partition("=")[2].partition(":")[0]
    machine.sh(f"mkdir -p {directory}; chown daemon {directory}")
    try:
        root = SETTINGS["root-directory"] if directory == ROOT else settings
        start(machine, services.fragment(root, "--idle"))
        services.main_pid(machine, UNIT)
        done = machine.systemctl("reload", UNIT, check=False)
        assert (done.returncode, services.version(machine, UNIT)) == (1, "v1")
        assert "below a directory that others can change" in said(machine)
    finally:
        machine.sh(f"chown root {directory}")
    machine.systemctl("reload", UNIT)
    assert services.version(machine, UNIT) == "v2"


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
def test_service_that_may_not_see_the_place_of_the_loader(machine: Machine) -> None:
    # With all of /run, 257 and 258 cannot start a service that has images.
    hidden = "/run" if machine.version > 258 else "/run/unit-confext"
    machine.sh("mkdir -p /run/unit-confext")
    start(machine, services.fragment(f"InaccessiblePaths={hidden}", "--idle"))
    services.main_pid(machine, UNIT)
    machine.systemctl("reload", UNIT)
    assert services.version(machine, UNIT) == "v2"


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
def test_main_process_of_another_service(machine: Machine) -> None:
    """A service that runs as root may name any process as its own, whatever else it may not do."""
    machine.write("/etc/systemd/system/victim.service", services.fragment("PrivateTmp=yes", "--idle"))
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "victim.service")
    victim = services.main_pid(machine, "victim.service")
    script = f"systemd-notify --ready; sleep 1; systemd-notify MAINPID={victim}; exec sleep infinity"
    settings = "Type=notify\nNotifyAccess=all\nPrivateTmp=yes\n"
    killed = "ExecStop=/bin/true\nSendSIGKILL=no\nKillMode=none\n"
    start(machine, f"[Service]\n{settings}{killed}ExecStart=/bin/sh -c '{script}'\n")
    services.eventually(lambda: machine.show(UNIT, "MainPID") == str(victim))
    done = machine.systemctl("reload", UNIT, check=False)
    assert done.returncode == 1
    assert f"its main process {victim} is not in its control group" in said(machine)
    assert not machine.path(f"/proc/{victim}/root/etc/demo/a").exists()


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
def test_root_with_less_power_cannot_look_into_the_stage(machine: Machine) -> None:
    """Nor can a service that runs as root, but is confined: the stage has not what the sandbox takes away from it."""
    fragment = services.fragment("", "--idle") + "[X-Confext]\nCheck=/usr/bin/sleep 5\n"
    start(machine, fragment)
    machine.systemctl("reload", "--no-block", UNIT)

    def stages() -> list[str]:
        return [unit for unit in services.leftovers(machine) if unit.startswith("unit-confext-stage-")]

    # The check runs while there is a stage.
    services.eventually(lambda: machine.show("unit-confext-check-*", "MainPID") not in ("", "0"))
    (stage,) = stages()
    pid = machine.show(stage, "MainPID")
    look = (f"ls /proc/{pid}/root/", f"head -c 1 /proc/{pid}/environ", f"ls -l /proc/{pid}/fd/")
    confined = "setpriv --bounding-set=-all --inh-caps=-all --no-new-privs"
    for command in look:
        assert machine.run("sh", "-c", f"exec {command}", check=False).returncode == 0
        done = machine.run("sh", "-c", f"exec {confined} {command}", check=False)
        assert (done.returncode, "Permission denied" in done.stderr) != (0, False)
    services.eventually(lambda: stages() == [])
    services.eventually(lambda: services.version(machine, UNIT) == "v2")


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
def test_namespace_that_the_service_has_made_itself(machine: Machine) -> None:
    """Its owner could unmount whatever is mounted in it later, so it is left alone."""
    fragment = services.fragment("InaccessiblePaths=-/etc/demo/secret\nUser=daemon", "--idle")
    start(machine, fragment.replace("ExecStart=", "ExecStart=/usr/bin/unshare --user --map-root-user --mount "))
    before = services.view(machine, UNIT)
    done = machine.systemctl("reload", UNIT, check=False)
    assert (done.returncode, f"Job for {UNIT} canceled." in done.stderr) == (1, True)
    assert "it runs in a mount namespace that belongs to a user namespace" in said(machine)
    assert services.view(machine, UNIT) == before


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
def test_main_process_whose_first_thread_has_ended(machine: Machine) -> None:
    """It cannot be given another /etc. But it does run, and is not reloaded with the old one."""
    code = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(1000,)).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    machine.write("/srv/thread.py", code)
    start(machine, "[Service]\nExecStart=/usr/bin/python3 /srv/thread.py\n")
    pid = machine.show(UNIT, "MainPID")
    services.eventually(lambda: machine.run("readlink", f"/proc/{pid}/exe", check=False).returncode == 1)
    done = machine.systemctl("reload", UNIT, check=False)
    assert (done.returncode, machine.show(UNIT, "ActiveState")) == (1, "active")
    assert f"its process {pid} cannot be examined" in said(machine)


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
def test_mount_whose_name_has_a_line_end_of_unicode(machine: Machine) -> None:
    """The kernel writes it into its tables as it is; anybody may have mounted it, somewhere."""
    start(machine, services.fragment("", "--idle"))
    services.main_pid(machine, UNIT)
    places = [f"/mnt/a{end}b" for end in ("\x0b", "\x0c", "\r", "\x1c", "\x85", "\u2028")]
    for place in places:
        machine.run("mkdir", place)
        machine.run("mount", "-t", "tmpfs", "x", place)
    time.sleep(0.1)
    try:
        machine.systemctl("reload", UNIT)
        assert services.version(machine, UNIT) == "v2"
        assert "stage.raw" in machine.run("unit-confext", "status", UNIT).stdout
    finally:
        for place in places:
            machine.run("umount", place)
            machine.run("rmdir", place)
