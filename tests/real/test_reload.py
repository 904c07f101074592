# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a reload does besides the swap: when the service is signalled, what is said, what is left out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import images, services
from lab.machine import Machine

STORE = "/var/lib/confexts"
# As on a machine that is not a test's: it opens each loop device, and PID 1 makes a unit of it.
UDEV = True


def make(machine: Machine, name: str, settings: str, *arguments: str) -> tuple[str, str]:
    """Start a service with one layer of its own; return its unit and its image."""
    unit, image = f"{name}.service", f"{STORE}/{name}.raw"
    services.prepare(machine)
    images.build(machine, image, images.pair("v1"))
    machine.write(f"/etc/systemd/system/{unit}", services.fragment(settings, *arguments))
    services.set_entries(machine, [unit], {f"10-{name}.raw": image})
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", unit)
    services.main_pid(machine, unit)
    return unit, image


def said(machine: Machine, unit: str) -> list[str]:
    """What the hook has said about a unit."""
    return machine.journal("-u", unit, "-t", "unit-confext").splitlines()


@pytest.mark.real
@pytest.mark.parametrize("name", ["exec-reload", "notify-reload"])
def test_service_is_signalled_after_the_swap(machine: Machine, name: str) -> None:
    settings = {"exec-reload": "ExecReload=/bin/kill -HUP $MAINPID", "notify-reload": "Type=notify-reload"}[name]
    unit, image = make(machine, f"signal-{name}", settings, "--idle")
    for number in range(2, 6):
        images.build(machine, image, images.pair(f"v{number}"))
        machine.systemctl("reload", unit)
    expected = [f"reloaded v{number}" for number in range(2, 6)]

    def read() -> list[str]:
        return [line for line in machine.journal("-u", unit).splitlines() if line.startswith("reloaded ")]

    services.eventually(lambda: len(read()) == len(expected))
    assert read() == expected


@pytest.mark.real
def test_nothing_changed(machine: Machine) -> None:
    unit, image = make(machine, "same", "ProtectSystem=full\nExecReload=/bin/kill -HUP $MAINPID", "--idle")
    images.build(machine, image, images.pair("v2"))
    # A file that is as young as a tick of the clock proves nothing, see service/fingerprint.py.
    machine.run("touch", "-d", "yesterday", image)
    services.eventually(lambda: machine.path(image).stat().st_ctime + 0.1 < float(machine.sh("date +%s.%N")))
    machine.systemctl("reload", unit)
    assert said(machine, unit)[-1] == (
        f"{unit}: /etc re-stacked: same.raw replaced; 1 file added, 4 changed, 1 removed"
    )
    before = services.view(machine, unit)
    mount = machine.path(f"/proc/{services.main_pid(machine, unit)}/mountinfo").read_text()
    machine.systemctl("reload", unit)
    assert services.said_by_guard(machine, unit) == [f"{unit}: nothing changed in its layers, /etc stays as it is"]
    assert machine.path(f"/proc/{services.main_pid(machine, unit)}/mountinfo").read_text() == mount
    # It is reloaded all the same.
    assert machine.journal("-u", unit).count("reloaded v2") == 2
    images.build(machine, image, images.pair("v3"))
    machine.systemctl("reload", unit)
    assert services.view(machine, unit) != before
    assert services.version(machine, unit) == "v3"


@pytest.mark.real
@pytest.mark.parametrize("change", ["restart", "settings"])
def test_nothing_changed_in_the_files_alone(machine: Machine, change: str) -> None:
    """What the files do not tell: another process, and settings that systemd has loaded meanwhile."""
    unit, image = make(machine, f"alone-{change}", "ExecReload=/bin/kill -HUP $MAINPID", "--idle")
    services.eventually(lambda: machine.path(image).stat().st_ctime + 0.1 < float(machine.sh("date +%s.%N")))
    for _ in range(2):
        machine.systemctl("reload", unit)
    told = len(services.said_by_guard(machine, unit))
    assert told > 0
    if change == "restart":
        machine.systemctl("restart", unit)
    else:
        machine.write(f"/etc/systemd/system/{unit}.d/x.conf", "[Service]\nInaccessiblePaths=/etc/demo\n")
        machine.systemctl("daemon-reload")
    machine.systemctl("reload", unit)
    assert len(services.said_by_guard(machine, unit)) == told
    reloaded = services.view(machine, unit)
    machine.systemctl("restart", unit)
    assert services.view(machine, unit) == reloaded


@pytest.mark.real
def test_limits_of_the_service_are_not_the_hook_s(machine: Machine) -> None:
    unit, image = make(machine, "limited", "MemoryMax=24M\nTasksMax=4\nCPUQuota=20%\nLimitNOFILE=16", "--idle")
    images.build(machine, image, images.pair("v2"))
    machine.systemctl("reload", unit)
    assert services.version(machine, unit) == "v2"


@pytest.mark.real
def test_versions_are_not_refreshed_by_systemd_itself(machine: Machine) -> None:
    settings = "InaccessiblePaths=-/etc/demo/secret\nExecReload=/bin/kill -HUP $MAINPID"
    unit, _ = make(machine, "versions", settings, "--hold")
    services.set_entries(machine, [unit], {"10-versions.raw.v": f"{STORE}/versions.raw.v"})
    images.build(machine, f"{STORE}/versions.raw.v/versions_1.raw", images.pair("v1"), name="versions_1")
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", unit)
    for number in range(2, 7):
        path = f"{STORE}/versions.raw.v/versions_{number}.raw"
        images.build(machine, path, images.pair(f"v{number}"), name=f"versions_{number}")
        machine.systemctl("reload", unit)
        assert services.version(machine, unit) == f"v{number}"
    # No "secret", not even through a directory that has been open since the start.
    assert set(services.counts(machine, unit)) <= {f"v{number}" for number in range(1, 7)}
    reloaded = services.view(machine, unit)
    machine.systemctl("restart", unit)
    assert services.view(machine, unit) == reloaded
    if machine.version >= 260:
        assert machine.show(unit, "RefreshOnReload") in ("", "no")


@pytest.mark.real
def test_credentials_are_still_refreshed_where_the_unit_wants_it(machine: Machine) -> None:
    if machine.version < 260:
        assert machine.show("nginx.service", "RefreshOnReload") == ""
        return
    unit, _ = make(machine, "credentials", "RefreshOnReload=credentials extensions\nSetCredential=a:b", "--idle")
    assert machine.show(unit, "RefreshOnReload") == "credentials"


@pytest.mark.real
def test_daemon_reload_is_asked_for(machine: Machine) -> None:
    unit, image = make(machine, "stale", "", "--idle")
    assert machine.show(unit, "NeedDaemonReload") == "no"
    machine.run("ln", "-s", image, f"{services.entry_directory(unit)}/20-more.raw")
    assert machine.show(unit, "NeedDaemonReload") == "yes"


@pytest.mark.real
def test_unit_of_the_hook_alone(machine: Machine) -> None:
    """A reload of that unit by hand cannot be told from one that systemd passes on when a service reloads by itself."""
    unit, image = make(machine, "alone", "ExecReload=/bin/kill -HUP $MAINPID", "--idle")
    images.build(machine, image, images.pair("v2"))
    machine.systemctl("reload", f"unit-confext-restack@{unit}.service")
    assert services.version(machine, unit) == "v1"
    assert said(machine, unit) == [
        f"{unit}: /etc is left alone, since no reload by systemd waits for it; for what is new in its layers, run "
        f"'systemctl reload {unit}'"
    ]
    machine.run("/usr/lib/unit-confext/restack", "--alone", unit)
    assert services.version(machine, unit) == "v2"
    assert "reloaded" not in machine.journal("-u", unit)


@pytest.mark.real
@pytest.mark.parametrize("gone", ["/run/systemd/private", "/run/dbus/system_bus_socket"])
def test_one_socket_is_enough(machine: Machine, gone: str) -> None:
    unit, image = make(machine, "sockets", "", "--idle")
    images.build(machine, image, images.pair("v2"))
    machine.run("mount", "--bind", "/dev/null", gone)
    try:
        machine.run("/usr/lib/unit-confext/restack", "--alone", unit)
    finally:
        machine.run("umount", gone)
    assert services.version(machine, unit) == "v2"


@pytest.mark.real
def test_service_that_stops_takes_everything_with_it(machine: Machine) -> None:
    unit, image = make(machine, "stops", "", "--idle")
    images.build(machine, image, images.pair("v2"))
    machine.systemctl("reload", unit)
    restack = f"unit-confext-restack@{unit}.service"
    assert machine.show(restack, "ActiveState") == "active"
    machine.systemctl("stop", unit)
    services.eventually(lambda: machine.show(restack, "ActiveState") == "inactive")
    services.eventually(lambda: services.loop_devices(machine, image) == 0)
    assert machine.systemctl("reload", unit, check=False).returncode != 0


@pytest.mark.real
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "restack: one unit name is needed"),
        (["a.service", "b.service"], "restack: one unit name is needed"),
        (["--wrong", "a.service"], "restack: unknown option --wrong"),
        (["a.socket"], "restack: 'a.socket' is not a valid service name"),
        (["../a.service"], "restack: '../a.service' is not a valid service name"),
    ],
)
def test_command_line_errors(machine: Machine, arguments: list[str], error: str) -> None:
    done = machine.run("/usr/lib/unit-confext/restack", *arguments, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, error)


@pytest.mark.real
def test_help(machine: Machine) -> None:
    assert machine.run("/usr/lib/unit-confext/restack", "--help").stdout.startswith("usage: restack ")


@pytest.fixture(params=["overlay", "bind", "read-only"])
def etc(machine: Machine, request: pytest.FixtureRequest) -> Iterator[str]:
    """A host whose own `/etc` is a mount."""
    commands = {
        "overlay": "mount -t tmpfs lab /srv/volatile; mkdir /srv/volatile/u /srv/volatile/w;"
        " cp -a /etc /srv/volatile/etc; mount -t overlay -o"
        " lowerdir=/srv/volatile/etc,upperdir=/srv/volatile/u,workdir=/srv/volatile/w volatile /etc",
        "bind": "cp -a /etc /srv/volatile/etc; mount --bind /srv/volatile/etc /etc",
        "read-only": "mount --bind -o ro /etc /etc",
    }
    machine.sh(f"mkdir -p /srv/volatile; {commands[request.param]}")
    yield request.param
    machine.sh("umount -l /etc; mountpoint -q /srv/volatile && umount -l /srv/volatile; rm -rf /srv/volatile")


@pytest.mark.real
def test_host_s_own_mount_on_etc_stays(machine: Machine, etc: str) -> None:
    unit, twin, image = f"host-{etc}.service", f"host-{etc}-twin.service", f"{STORE}/host-{etc}.raw"
    images.build(machine, image, images.pair("v1"))
    services.prepare(machine) if etc != "read-only" else None
    for name in (unit, twin):
        # Below /run, since /etc may be read-only.
        machine.write(f"/run/systemd/system/{name}", services.fragment("InaccessiblePaths=-/etc/cron.d", "--idle"))

    def enter(*names: str) -> None:
        for name in (unit, twin):
            directory = f"/run/systemd/system/{name}.confext.d"
            links = "".join(f"ln -s {image} {directory}/{entry};" for entry in names)
            machine.sh(f"rm -rf {directory}; mkdir {directory}; {links}")
        machine.systemctl("daemon-reload")
        machine.systemctl("restart", twin)

    enter("10-one.raw")
    machine.systemctl("start", unit)
    for version, entries in (("v2", ["10-one.raw"]), ("v3", ["10-one.raw"]), ("", []), ("v4", ["10-one.raw"])):
        if version:
            images.build(machine, image, images.pair(version))
        enter(*entries)
        machine.systemctl("reload", unit)
        assert services.view(machine, unit) == services.view(machine, twin)
    machine.systemctl("stop", unit, twin)


@pytest.mark.real
def test_program_in_a_layer_that_runs_while_it_is_replaced(machine: Machine) -> None:
    """The process keeps its file, and that its image, for as long as it runs, and no longer."""
    unit, image, tree = "executed.service", "/var/lib/confexts/executed.raw", "/srv/executed"
    images.build(machine, tree, {"demo/a": "v1", "x/": ""}, images.Format.DIRECTORY, name="executed")
    build = f"mkfs.erofs -T0 -Uclear /srv/executed.new {tree} >/dev/null 2>&1; mv /srv/executed.new {image}"
    machine.sh(f"cp /usr/bin/sleep {tree}/etc/x/program; {build}")
    machine.write(f"/etc/systemd/system/{unit}", "[Service]\nType=exec\nExecStart=/etc/x/program infinity\n")
    services.set_entries(machine, [unit], {"10-executed.raw": image})
    machine.systemctl("daemon-reload")
    machine.systemctl("start", unit)
    try:
        process = machine.path(f"/proc/{machine.show(unit, 'MainPID')}")
        old = (process / "exe").read_bytes()
        for number in (2, 3):
            machine.sh(f"printf v{number} >{tree}/etc/demo/a; printf v{number} >>{tree}/etc/x/program; {build}")
            machine.systemctl("reload", unit)
            assert (process / "root/etc/demo/a").read_text() == f"v{number}"
            assert (process / "root/etc/x/program").read_bytes().endswith(f"v{number}".encode())
            assert (process / "exe").read_bytes() == old
            # That of the running program, and the new one.
            services.eventually(lambda: services.loop_devices(machine, image) == 2)
        machine.systemctl("restart", unit)
        assert machine.path(f"/proc/{machine.show(unit, 'MainPID')}/exe").read_bytes().endswith(b"v3")
        services.eventually(lambda: services.loop_devices(machine, image) == 1)
    finally:
        machine.sh(f"systemctl stop {unit}; rm -rf /etc/systemd/system/{unit}* {tree}")
        machine.systemctl("daemon-reload")
    services.eventually(lambda: services.loop_devices(machine, image) == 0)
    assert services.leftovers(machine) == []


# A root with one program in it, and an extension that has the unit.
PORTABLE = """
    cd /srv/portable; mkdir -p root/etc root/proc root/sys root/dev root/run root/tmp root/var/tmp root/usr/bin
    for path in /usr/bin/sleep $(ldd /usr/bin/sleep | grep -o '/[^ ]*'); do
        mkdir -p root/$(dirname $(realpath $path)); cp $(realpath $path) root/$(realpath $path)
    done
    for name in bin lib lib64; do ln -s usr/$name root/$name; done
    mkdir -p root/usr/lib64; loader=$(ldd /usr/bin/sleep | grep -o '/lib[^ ]*/ld-[^ ]*')
    test -e root/usr$loader || ln -s $(realpath $loader) root/usr$loader
    cp /etc/os-release root/usr/lib/os-release; touch root/etc/machine-id root/etc/resolv.conf
    mkdir -p more/usr/lib/extension-release.d more/usr/lib/systemd/system
    echo ID=_any >more/usr/lib/extension-release.d/extension-release.portable-more
    printf '[Service]\\nType=exec\\nExecStart=/usr/bin/sleep infinity\\n' >more/usr/lib/systemd/system/portable.service
    mksquashfs root portable.raw -quiet -no-progress -noappend >/dev/null
    mksquashfs more portable-more.raw -quiet -no-progress -noappend >/dev/null
    portablectl attach --runtime --extension=$PWD/portable-more.raw $PWD/portable.raw portable
"""


@pytest.mark.real
def test_portable_service_with_an_extension(machine: Machine) -> None:
    unit, image = "portable.service", "/var/lib/confexts/portable-etc.raw"

    def seen() -> list[bool | str]:
        root = machine.path(f"/proc/{machine.show(unit, 'MainPID')}/root")
        return [(root / f"usr/lib/systemd/system/{unit}").exists(), (root / "etc/demo/a").read_text().strip()]

    # From 262 on, portablectl asks for it.
    images.build(machine, image, images.pair("v1"), images.Format.SQUASHFS)
    services.set_entries(machine, [unit], {"10-etc.raw": image})
    machine.sh("mkdir -p /srv/portable")
    machine.sh(PORTABLE)
    try:
        machine.systemctl("daemon-reload")
        machine.systemctl("start", unit)
        assert seen() == [True, "v1"]
        for version in ("v2", "v3"):
            images.build(machine, image, images.pair(version), images.Format.SQUASHFS)
            machine.systemctl("reload", unit)
            assert seen() == [True, version]
        services.eventually(lambda: services.loop_devices(machine, image) == 1)
    finally:
        where = "--extension=/srv/portable/portable-more.raw /srv/portable/portable.raw"
        machine.sh(f"portablectl detach --now --runtime {where} portable")
        machine.sh(f"rm -r /srv/portable {services.entry_directory(unit)}")
        machine.systemctl("daemon-reload")
