# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a refusal says: systemd's own reason and nobody else's, and the layer that is broken and no other."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from lab import images, services
from lab.images import Format
from lab.machine import Machine

UNIT = "reasons.service"
STORE = "/var/lib/confexts/reasons"
FORGER = """\
import os, socket

journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.connect("/run/systemd/journal/socket")
forged = set()
print(os.getuid(), flush=True)
reason = "Failed to set up mount namespacing: /run/systemd/unit-extensions/0: to mend it run: evil"
while len(forged) < 5:
    for name in os.listdir("/sys/fs/cgroup/system.slice"):
        if name.startswith("unit-confext-stage-") and name not in forged:
            for field in ("UNIT", "OBJECT_SYSTEMD_UNIT", "_SYSTEMD_UNIT", "COREDUMP_UNIT"):
                journal.send(f"MESSAGE={name}: {reason}\\nPRIORITY=3\\n{field}={name}\\n_PID=1\\n".encode())
            forged.add(name)
"""


@pytest.fixture
def unit(machine: Machine) -> Iterator[str]:
    machine.write(f"/etc/systemd/system/{UNIT}", "[Service]\nType=exec\nExecStart=/bin/sleep infinity\n")
    yield UNIT
    machine.systemctl("stop", UNIT, check=False)
    machine.sh(f"rm -rf /etc/systemd/system/{UNIT} {services.entry_directory(UNIT)} {STORE}; systemctl daemon-reload")


def build(machine: Machine, name: str) -> None:
    format = Format.EROFS if name.endswith(".raw") else Format.DIRECTORY
    images.build(machine, f"{STORE}/{name}", {f"reasons/{name}": "x\n"}, format)


def start(machine: Machine, names: list[str]) -> None:
    for name in names:
        build(machine, name)
    services.set_entries(machine, [UNIT], {name: f"{STORE}/{name}" for name in names})
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", UNIT)


def refusal(machine: Machine) -> str:
    done = machine.systemctl("reload", UNIT, check=False)
    assert done.returncode == 1
    return machine.journal("-u", UNIT, "-t", "unit-confext", "-n", "1").removesuffix("\n")


@pytest.mark.real
def test_nobody_can_write_the_reason(machine: Machine, unit: str) -> None:
    """Entries about the stage from somebody who is not systemd are not quoted."""
    start(machine, ["a.raw"])
    image = f"{STORE}/a.raw"
    machine.write("/srv/reasons-forger.py", FORGER, 0o644)
    machine.sh(f"head -c 8192 /dev/urandom >{image}.new; mv {image}.new {image}")
    # As on any other system.
    machine.sh("chmod 755 /sys/fs/cgroup")
    machine.sh(
        "systemd-run -q --unit=reasons-forger -p User=nobody -p Type=exec "
        "-p LogRateLimitIntervalSec=0 python3 /srv/reasons-forger.py"
    )
    try:
        services.eventually(lambda: machine.journal("-u", "reasons-forger", "_TRANSPORT=stdout") == "65534\n")
        said = [refusal(machine) for _ in range(5)]
        for _ in range(20):
            if machine.systemctl("is-active", "reasons-forger", check=False).returncode:
                break
            said.append(refusal(machine))
    finally:
        machine.systemctl("stop", "reasons-forger", check=False)
    assert machine.journal("_UID=65534").count("to mend it run") == 20
    assert set(said) == {
        f"{unit}: /etc is unchanged, the new /etc cannot be built: the image has no partition table or file system "
        f"that systemd knows ({os.strerror(errno.ENOPKG)}) ({image}); replace it and reload again"
    }


IMAGES, DIRECTORIES = ["a.raw", "b.raw", "c.raw"], ["d", "e", "f"]


@pytest.mark.real
@pytest.mark.parametrize(
    ("missing", "broken"),
    [
        ("a.raw", "b.raw"), ("a.raw", "c.raw"), ("b.raw", "c.raw"), ("c.raw", "b.raw"), ("c.raw", "d"), ("", "e"),
        ("d", "e"), ("d", "f"), ("e", "f"), ("f", "e"), ("d", "c.raw"),
    ],
)  # fmt: skip
def test_refusal_names_the_broken_layer(machine: Machine, unit: str, missing: str, broken: str) -> None:
    """Wherever another one is missing that the manager has not forgotten."""
    if machine.systemctl("is-active", unit, check=False).returncode:
        start(machine, IMAGES + DIRECTORIES)
    if missing:
        machine.run("rm", "-r", f"{STORE}/{missing}")
    if broken in IMAGES:
        machine.sh(f"head -c 8192 /dev/urandom >{STORE}/{broken}.new; mv {STORE}/{broken}.new {STORE}/{broken}")
    else:
        machine.sh(f"echo ID=other >{STORE}/{broken}/etc/extension-release.d/extension-release.{broken}")
    said = refusal(machine)
    assert f" ({STORE}/{broken}); " in said or f" ({services.entry_directory(unit)}/{broken}); " in said


@pytest.mark.real
@pytest.mark.parametrize("name", ["a.raw", "d"])
def test_release_file_is_systemd_s_business(machine: Machine, unit: str, name: str) -> None:
    """A file of any name excuses the layer that it is in, and no other."""
    start(machine, ["lax.raw", name])
    lax = f"{STORE}/tree"
    release = f"{lax}/etc/extension-release.d/extension-release.any"
    machine.sh(
        f"mkdir -p {lax}/etc/extension-release.d {lax}/etc/reasons; echo ID=_any >{release};"
        f"echo 2 >{lax}/etc/reasons/v; python3 -c 'import os, sys; "
        f'os.setxattr(sys.argv[1], "user.extension-release.strict", b"0")\' {release}; chmod -R go+rX {lax};'
        f"mkfs.erofs {STORE}/lax.new {lax} >/dev/null 2>&1; mv {STORE}/lax.new {STORE}/lax.raw"
    )
    machine.systemctl("reload", unit)
    pid = machine.show(unit, "MainPID")
    assert machine.path(f"/proc/{pid}/root/etc/reasons/v").read_text() == "2\n"
    other = f"{STORE}/{name}"
    format = Format.EROFS if name.endswith(".raw") else Format.DIRECTORY
    images.build(machine, other, {"reasons/w": "x\n"}, format, name="another")
    said = refusal(machine)
    expected = name.removesuffix(".raw")
    assert f"the layer has no extension-release.{expected} in its /etc/extension-release.d" in said
    assert not machine.path(f"/proc/{pid}/root/etc/reasons/w").exists()
    build(machine, name)
    machine.systemctl("reload", unit)
