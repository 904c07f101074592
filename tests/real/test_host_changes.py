# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happens in the host's own `/etc` reaches a service by a reload, as it does by a restart."""

from __future__ import annotations

import pytest

from lab import images, services
from lab.images import Format
from lab.machine import Machine

STORE = "/var/lib/confexts"

# Each is a shell script that is run in the directory `/etc/host`, and changes what make() puts there.
CHANGES = {
    "a file in a directory, by rename": "echo newer >live/.new; mv live/.new live/cert",
    "a directory, by rename": "mkdir .new; echo new >.new/cert; mv live .old; mv .new live; rm -r .old",
    "modes, in place": "chmod 640 secret; chgrp daemon secret; chmod 755 closed; chmod 600 opened",
    "the owner of a file, in place": "chown daemon owned",
    "names": (
        "sed -i s/old/new/ file; echo new >missing; rm removed; ln -sfn ../file live/link; ln -f other linked;"
        " rm turned; mkdir turned; echo new >turned/inner"
    ),
}


def make(machine: Machine, name: str, etc: str, settings: str = "") -> str:
    """Start a service, whose user is not root, over a directory `host` in the `/etc` at `etc`."""
    unit = f"{name}.service"
    services.prepare(machine)
    machine.sh(f"""
        rm -rf {etc}/host; mkdir -p {etc}/host/live {etc}/host/closed; cd {etc}/host
        echo old | tee file removed turned secret owned opened linked live/cert closed/file
        echo other >other
        ln -s cert live/link
        chmod 600 secret owned; chmod 700 closed
    """)
    images.build(machine, f"{STORE}/{name}.raw", images.pair("v1"))
    text = services.fragment(f"User=1\n{settings}[Unit]\nStartLimitIntervalSec=0\n", "--idle")
    machine.write(f"/etc/systemd/system/{unit}", text)
    services.set_entries(machine, [unit], {f"10-{name}.raw": f"{STORE}/{name}.raw"})
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", unit)
    return unit


def seen(machine: Machine, unit: str) -> str:
    """What the user of a service can read below `/etc/host`, and all modes. Every name is looked up."""
    pid = services.main_pid(machine, unit)
    script = """
        cd /etc/host
        for path in . file missing removed turned turned/inner secret owned opened linked live live/cert live/link \
            closed closed/file; do
            stat -c '%n %A %U:%G' $path 2>&1; [ -d $path ] || cat $path 2>&1
        done
    """
    return machine.run("nsenter", "-t", str(pid), "-m", "-r", "setpriv", "--reuid=1", "--regid=1",
        "--clear-groups", "/bin/sh", "-c", script, check=False).stdout  # fmt: skip


def settle(machine: Machine, unit: str) -> None:
    """Reload until nothing is left to do, so that the next reload sees the next change alone."""
    told = len(services.said_by_guard(machine, unit))

    def is_settled() -> bool:
        machine.systemctl("reload", unit)
        return len(services.said_by_guard(machine, unit)) > told

    services.eventually(is_settled)


@pytest.mark.real
@pytest.mark.parametrize("root", ["", services.ROOT], ids=["host", "root directory"])
def test_change_is_seen_after_the_reload(machine: Machine, root: str) -> None:
    settings = f"RootDirectory={root}\nBindReadOnlyPaths=/usr/bin /usr/lib /usr/lib64\n" if root else ""
    unit = make(machine, f"host-{'rooted' if root else 'plain'}", f"{root}/etc", settings)
    changes = dict(list(CHANGES.items())[::2]) if root else CHANGES
    wrong = []
    for change, script in changes.items():
        settle(machine, unit)
        before = seen(machine, unit)
        machine.sh(f"cd {root}/etc/host; {script}")
        machine.systemctl("reload", unit)
        reloaded = seen(machine, unit)
        machine.systemctl("restart", unit)
        if reloaded != seen(machine, unit) or reloaded == before:
            wrong.append(change)
    assert wrong == []


@pytest.mark.real
def test_files_below_are_told(machine: Machine) -> None:
    """The old overlay's directories look like the host's, but do not show what these have."""
    unit = make(machine, "host-told", "/etc")
    settle(machine, unit)
    seen(machine, unit)
    machine.sh("cd /etc/host/live; echo new >.new; mv .new cert")
    status = machine.run("unit-confext", "status", unit, check=False)
    assert status.returncode == 3
    assert status.stdout.splitlines()[-2:] == [
        "Differs: the host's own /etc changed since", f"Run: systemctl reload {unit}",
    ]  # fmt: skip
    diff = machine.run("unit-confext", "diff", unit, check=False)
    assert diff.returncode == 3
    assert "changed: /etc/host/live/cert" in diff.stdout
    machine.systemctl("reload", unit)
    last = machine.journal("-u", unit, "-t", "unit-confext").splitlines()[-1]
    assert last == f"{unit}: /etc re-stacked: no layer changed; 1 file changed"
    assert "Up to date" in machine.run("unit-confext", "status", unit).stdout
    machine.sh("chmod 640 /etc/host/file")
    diff = machine.run("unit-confext", "diff", unit, check=False)
    assert (diff.returncode, diff.stdout) == (3, "")
    assert diff.stderr == f"unit-confext: {unit}: the host's own /etc changed since\n"


@pytest.mark.real
def test_mounts_below_are_no_part_of_it(machine: Machine) -> None:
    """An overlay does not show them; the hook does not go into them, and still sees what they hide."""
    unit = make(machine, "host-mounted", "/etc")
    machine.sh("mkdir -p /etc/host/mounted/inner; echo old >/etc/host/mounted/inner/file")
    machine.sh("mount -t tmpfs tmpfs /etc/host/mounted; mount --bind /etc/hostname /etc/host/file")
    try:
        machine.systemctl("reload", unit)
        before = services.view(machine, unit)
        assert "/host/mounted/inner/file" in before.files
        machine.sh("touch /etc/host/mounted/x; umount /etc/host/file; cd /etc/host; echo new >.new; mv .new file")
        machine.systemctl("reload", unit)
        reloaded = services.view(machine, unit)
        assert reloaded.files["/host/file"] != before.files["/host/file"]
        machine.systemctl("restart", unit)
        assert services.view(machine, unit) == reloaded
    finally:
        machine.sh("umount /etc/host/mounted")


@pytest.mark.real
def test_what_others_can_write_is_checked_each_time(machine: Machine) -> None:
    """A file that its owner has in memory changes without any clock: mmap(2)."""
    unit, layer = "mapped.service", f"{STORE}/mapped"
    services.prepare(machine)
    images.build(machine, layer, {"app/file": "good"}, Format.DIRECTORY)
    machine.sh(f"chown daemon {layer}/etc/app/file")
    check = "[X-Confext]\nCheck=/bin/grep -q good /etc/app/file\n"
    machine.write(f"/etc/systemd/system/{unit}", services.fragment("", "--idle") + check)
    services.set_entries(machine, [unit], {"mapped": layer})
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", unit)
    machine.write(
        "/srv/mapper.py",
        f"""import mmap, os, sys
fd = os.open("{layer}/etc/app/file", os.O_RDWR)
memory = mmap.mmap(fd, 4)
memory[:4] = b"good"
print("ready", flush=True)
sys.stdin.read(1)
memory[:4] = b"evil"
print("done", flush=True)
sys.stdin.read()
""",
    )
    script = f"""
        mkfifo /srv/go /srv/said
        setpriv --reuid=daemon --regid=daemon --clear-groups python3 /srv/mapper.py </srv/go >/srv/said &
        exec 4>/srv/go 5</srv/said
        read -r _ <&5
        for i in 1 2 3; do systemctl reload {unit} || exit 2; sleep 0.1; done
        echo >&4; read -r _ <&5
        systemctl reload {unit} 2>/dev/null || echo refused
        chown root {layer}/etc/app/file; printf good >{layer}/etc/app/file
        for i in 1 2 3; do systemctl reload {unit} || exit 3; sleep 0.1; done
    """
    assert machine.sh(script).strip() == "refused"
    # Root's by now, but still in somebody's memory: nothing that is proof.
    assert services.said_by_guard(machine, unit) == []
