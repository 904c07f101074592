# SPDX-License-Identifier: LGPL-2.1-or-later
"""Storage that does not answer, and files that others made to be waited for: what is asked says so, and goes on."""

from __future__ import annotations

import json
import time

import pytest

from lab import images, services
from lab.images import STORE, Format
from lab.machine import Machine

# A FUSE file system with an image in it, which from the first SIGUSR1 on takes all questions and answers none.
SILENT_FS = """
import ctypes, os, signal, struct
libc = ctypes.CDLL(None, use_errno=True)
IMAGE = open("/srv/answer.raw", "rb").read()
fd = os.open("/dev/fuse", os.O_RDWR)
os.makedirs("/srv/silent", exist_ok=True)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % fd
assert libc.mount(b"silent", b"/srv/silent", b"fuse", 0, options) == 0
silent = []
signal.signal(signal.SIGUSR1, lambda *_: silent.append(1))
DIRECTORY = struct.pack("<QQQQQQ10I", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
FILE = struct.pack("<QQQQQQ10I", 2, len(IMAGE), 8, 0, 0, 0, 0, 0, 0, 0o100644, 1, 0, 0, 0, 4096, 0)
while True:
    request = os.read(fd, 1 << 17)
    _, code, unique, node = struct.unpack_from("<IIQQ", request)
    data, error = b"", 0
    if silent:
        continue
    if code == 26:  # FUSE_INIT
        data = struct.pack("<IIIIHHIIHHI", 7, 31, 65536, 0, 0, 0, 65536, 0, 0, 0, 0).ljust(64, b"\\0")
    elif code == 3:  # FUSE_GETATTR
        data = struct.pack("<QII", 0, 0, 0) + (DIRECTORY if node == 1 else FILE)
    elif code == 1 and request[40:-1] == b"silent.raw":  # FUSE_LOOKUP
        data = struct.pack("<QQQQII", 2, 0, 0, 0, 0, 0) + FILE
    elif code in (14, 27):  # FUSE_OPEN, FUSE_OPENDIR
        data = struct.pack("<QII", 1, 0, 0)
    elif code == 15:  # FUSE_READ
        offset, size = struct.unpack_from("<QI", request, 48)
        data = IMAGE[offset : offset + size]
    elif code in (18, 25, 29):  # FUSE_RELEASE, FUSE_FLUSH, FUSE_RELEASEDIR
        pass
    else:
        error = -2 if code == 1 else -38
    try:
        os.write(fd, struct.pack("<IiQ", 16 + len(data), error, unique) + data)
    except OSError:
        pass
"""


def start(machine: Machine, unit: str, entries: dict[str, str], settings: str = "") -> None:
    """Start a service with these entries."""
    services.prepare(machine)
    machine.write(f"/etc/systemd/system/{unit}", services.fragment(settings, "--idle"))
    services.set_entries(machine, [unit], entries)
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", unit)
    services.main_pid(machine, unit)


@pytest.mark.real
def test_storage_that_does_not_answer_is_named(machine: Machine) -> None:
    unit, other = "silent.service", "answers.service"
    images.build(machine, "/srv/answer.raw", {"silent/a": "1"}, name="silent")
    images.build(machine, f"{STORE}/answers.raw", {"answers/a": "1"})
    machine.write("/srv/silent.py", SILENT_FS)
    machine.sh("""
        [ -e /dev/fuse ] || mknod /dev/fuse c 10 229
        python3 /srv/silent.py >/srv/silent.log 2>&1 & echo $! >/srv/silent.pid
        while ! cmp -s /srv/silent/silent.raw /srv/answer.raw; do sleep 0.1; done
    """)
    try:
        start(machine, other, {"10-answers.raw": f"{STORE}/answers.raw"})
        start(machine, unit, {"10-answers.raw": f"{STORE}/answers.raw", "20-silent.raw": "/srv/silent/silent.raw"})
        machine.sh("kill -USR1 $(cat /srv/silent.pid)")
        began = time.monotonic()
        status = machine.run("unit-confext", "status", "--json=short", unit, other, check=False)
        silent, answers = json.loads(status.stdout)
        states = {layer["path"]: layer["state"] for layer in silent["layers"]}
        assert states == {f"{STORE}/answers.raw": "current", "/srv/silent/silent.raw": "silent"}
        assert "/srv/silent/silent.raw does not answer: the storage that it is on may be gone" in silent["reasons"]
        assert [layer["state"] for layer in answers["layers"]] == ["current"]
        which = machine.run("unit-confext", "which", unit, "/etc/answers/a")
        assert f"from {STORE}/answers.raw" in which.stdout
        diff = machine.run("unit-confext", "diff", unit, check=False)
        assert "this does not answer (/srv/silent/silent.raw)" in diff.stderr
        assert time.monotonic() - began < 60
    finally:
        machine.sh("kill -KILL $(cat /srv/silent.pid); umount -l /srv/silent")


@pytest.mark.real
def test_files_of_others_are_not_waited_for(machine: Machine) -> None:
    """What an unprivileged user can do who owns a directory in a directory layer."""
    unit, layer = "hostile.service", f"{STORE}/hostile"
    images.build(machine, layer, {"hostile/a": "1", "hostile/user/": ""}, Format.DIRECTORY)
    images.build(machine, f"{STORE}/hostile-image.raw", images.pair("v1"))
    start(machine, unit, {"10-hostile-image.raw": f"{STORE}/hostile-image.raw", "hostile": layer})
    machine.sh(f"chown daemon {layer}/etc/hostile/user")
    machine.write(
        "/srv/hostile.py",
        f"""import os
os.chdir("{layer}/etc/hostile/user")
os.mkfifo("fifo")
with open("sparse", "w") as file:
    file.truncate(7 << 60)
for number in range(5000):
    open(str(number), "w").close()
for _ in range(4000):
    os.mkdir("nested")
    os.chdir("nested")
""",
    )
    machine.sh("setpriv --reuid=daemon --regid=daemon --clear-groups python3 /srv/hostile.py")
    for version in ("v2", "v3"):
        images.build(machine, f"{STORE}/hostile-image.raw", images.pair(version))
        machine.systemctl("reload", unit)
        assert services.version(machine, unit) == version
    size = machine.sh(f"cat /run/unit-confext/{unit}.* | wc -c")
    assert int(size) < 4096
    assert machine.run("unit-confext", "status", unit).returncode == 0


@pytest.mark.real
def test_more_files_than_there_is_time_for(machine: Machine) -> None:
    """100,000 of them: it works or is refused within the deadline, and no list is kept of them."""
    unit, layer, seconds = "crowd.service", f"{STORE}/crowd", 2
    images.build(machine, layer, {"crowd/a": "1", "crowd/user/": ""}, Format.DIRECTORY)
    images.build(machine, f"{STORE}/crowd-image.raw", images.pair("v1"))
    entries = {"10-crowd-image.raw": f"{STORE}/crowd-image.raw", "crowd": layer}
    start(machine, unit, entries, f"[X-Confext]\nTimeoutSec={seconds}")
    machine.sh(f"chown daemon {layer}/etc/crowd/user")
    make = f"cd {layer}/etc/crowd/user; for d in $(seq 100); do mkdir $d; (cd $d; seq 1000 | xargs touch); done"
    machine.run("setpriv", "--reuid=daemon", "--regid=daemon", "--clear-groups", "bash", "-c", make)
    images.build(machine, f"{STORE}/crowd-image.raw", images.pair("v2"))
    began = time.monotonic()
    status = machine.systemctl("reload", unit, check=False).returncode
    assert time.monotonic() - began < seconds + 10
    assert (status, services.version(machine, unit)) in ((1, "v1"), (0, "v2"))
    if status:
        said = machine.journal("-u", unit, "-t", "unit-confext").splitlines()[-1]
        assert said.startswith(f"{unit}: /etc is unchanged, the new one was not there after {seconds} s, when its ")
    assert int(machine.sh(f"cat /run/unit-confext/{unit}.* | wc -c")) < 4096
    assert machine.run("unit-confext", "status", unit, check=False, timeout=60).returncode in (0, 3)
    # With the time that there is by default, it works.
    machine.write(f"/etc/systemd/system/{unit}.d/longer.conf", "[X-Confext]\nTimeoutSec=90\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("reload", unit)
    assert services.version(machine, unit) == "v2"
    services.eventually(lambda: services.leftovers(machine) == [])
    machine.sh(f"systemctl stop {unit}; rm -r {layer}")


@pytest.mark.real
@pytest.mark.parametrize("name", ["fifo-version", "fifo-hash"])
def test_fifo_is_refused(machine: Machine, name: str) -> None:
    unit, versions = f"{name}.service", f"{STORE}/{name}.raw.v"
    images.build(machine, f"{versions}/{name}_1.raw", images.pair("v1"), name=f"{name}_1")
    start(machine, unit, {f"10-{name}.raw.v": versions})
    fifo = f"{versions}/{name}_2.raw" if name == "fifo-version" else f"{versions}/{name}_1.roothash"
    machine.sh(f"mkfifo {fifo}")
    # The versions are picked by the manager, or on 255, 258 and 259 at a daemon-reload.
    assert machine.systemctl("reload", unit, check=False).returncode == 1
    assert machine.journal("-u", unit, "-t", "unit-confext").splitlines()[-1] == (
        f"{unit}: /etc is unchanged, this is a FIFO, a socket or a character device, not a file ({fifo}); "
        "replace or remove it, and reload again"
    )
    assert services.version(machine, unit) == "v1"
    machine.run("unit-confext", "status", unit, check=False, timeout=60)
