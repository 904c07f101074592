"""Storage that does not answer, and files that others made to be waited for: what is asked says so, and goes on."""

from __future__ import annotations

import pytest

from lab import images, services
from lab.images import STORE, Format
from lab.machine import Machine


def start(machine: Machine, unit: str, entries: dict[str, str], settings: str = "") -> None:
    """Start a service with these entries."""
    services.prepare(machine)
    machine.write(f"/etc/systemd/system/{unit}", services.fragment(settings, "--idle"))
    services.set_entries(machine, [unit], entries)
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", unit)
    services.main_pid(machine, unit)


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
        f"{unit}: /etc is unchanged, this is a FIFO, a socket or a terminal, and no file ({fifo}); "
        "replace it, or take it away, and reload again"
    )
    assert services.version(machine, unit) == "v1"
    machine.run("unit-confext", "status", unit, check=False, timeout=60)
