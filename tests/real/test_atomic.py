# SPDX-License-Identifier: LGPL-2.1-or-later
"""A reload is atomic: a reader sees the old layers or the new ones, whole, and never what its sandbox hides.

Every service of the table reads a pair of files as fast as it can while all of them are reloaded again and again,
each time with another image.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from lab import images, services
from lab.machine import Machine
from lab.services import HIDES_SECRET, SETTINGS

ROUNDS = 50
IMAGE = "/var/lib/confexts/pair.raw"
NAMES = list(SETTINGS)


@pytest.fixture(scope="module")
def seen(machine: Machine) -> Iterator[dict[str, dict[str, int]]]:
    """What each reader counted over all rounds."""
    services.prepare(machine)
    units = {name: f"a-{name}.service" for name in NAMES}
    images.build(machine, IMAGE, images.pair("v0"))
    for name, unit in units.items():
        machine.write(f"/etc/systemd/system/{unit}", services.fragment(SETTINGS[name]))
    services.set_entries(machine, units.values(), {"10-pair.raw": IMAGE})
    machine.systemctl("daemon-reload")
    machine.systemctl("start", *units.values())
    for unit in units.values():
        services.main_pid(machine, unit)
    mounts = {name: services.mounts_total(machine, unit) for name, unit in units.items()}
    devices = services.loop_devices(machine, IMAGE)
    for number in range(1, ROUNDS + 1):
        images.build(machine, IMAGE, images.pair(f"v{number}"))
        machine.run("systemctl", "reload", *units.values(), timeout=300)
    counted = {name: services.counts(machine, unit) for name, unit in units.items()}
    for name, unit in units.items():
        assert services.mounts_total(machine, unit) == mounts[name], f"{name} has gathered mounts"
    services.eventually(lambda: services.leftovers(machine) == [])
    services.eventually(lambda: services.loop_devices(machine, IMAGE) <= devices)
    yield counted


@pytest.mark.real
@pytest.mark.parametrize("name", NAMES)
def test_old_or_new_and_nothing_else(seen: dict[str, dict[str, int]], name: str) -> None:
    counts = dict(seen[name])
    secrets = counts.pop("secret", 0)
    versions = {f"v{number}" for number in range(ROUNDS + 1)}
    assert set(counts) <= versions, "torn pairs, the base or errors were seen"
    # It did look while they changed.
    assert len(counts) > ROUNDS / 2
    assert (secrets == 0) is (name in HIDES_SECRET)


@pytest.mark.real
def test_many_reloads_leave_what_one_leaves(machine: Machine) -> None:
    unit = "many.service"
    image = "/var/lib/confexts/many.raw"
    services.prepare(machine)
    machine.write(f"/etc/systemd/system/{unit}", services.fragment("ProtectSystem=strict", "--idle"))
    services.set_entries(machine, [unit], {"10-many.raw": image})
    for version in ("v1", "v2"):
        images.build(machine, f"/srv/{version}/many.raw", images.pair(version))
    machine.run("cp", "/srv/v1/many.raw", image)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", unit)
    machine.systemctl("reload", unit)

    def usage() -> tuple[int, int, int]:
        total = len(machine.path("/proc/1/mountinfo").read_text().splitlines())
        return services.mounts_total(machine, unit), services.loop_devices(machine, image), total

    services.eventually(lambda: services.leftovers(machine) == [])
    before = usage()
    script = f"""
        for number in $(seq 150); do
            for version in v2 v1; do
                cp /srv/$version/many.raw /srv/many.new && mv /srv/many.new {image}
                systemctl reload {unit}
            done
        done
    """
    machine.run("sh", "-euc", script, timeout=900)
    services.eventually(lambda: services.leftovers(machine) == [])
    services.eventually(lambda: usage() == before)


@pytest.mark.real
def test_no_request_fails_while_nginx_is_reloaded(machine: Machine) -> None:
    site = "server { listen 8181; location / { return 200 'VERSION'; } }\n"
    image = "/etc/systemd/system/nginx.service.confext.d/site.raw"
    for version in ("one", "two"):
        files = {"nginx/conf.d/site.conf": site.replace("VERSION", version)}
        images.build(machine, f"/srv/{version}/site.raw", files)
    machine.sh(f"mkdir -p $(dirname {image}); cp /srv/one/site.raw {image}")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "nginx")
    pid = machine.show("nginx", "MainPID")
    script = (
        "import json, sys, urllib.request as r\ncounts = {}\n"
        "while not select([sys.stdin], [], [], 0)[0]:\n"
        "    try:\n        seen = r.urlopen('http://localhost:8181/', timeout=5).read().decode()\n"
        "    except OSError as error:\n        seen = repr(error)\n"
        "    counts[seen] = counts.get(seen, 0) + 1\nprint(json.dumps(counts))"
    )
    client = subprocess.Popen(
        machine.command("python3", "-c", "from select import select\n" + script),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for version in ("two", "one") * 5:
        machine.sh(f"cp /srv/{version}/site.raw /srv/site.new && mv /srv/site.new {image} && systemctl reload nginx")
        services.eventually(lambda wanted=version: machine.sh("curl -s localhost:8181") == wanted)  # type: ignore[misc]
    output, _ = client.communicate("stop")
    counts = json.loads(output)
    assert set(counts) == {"one", "two"}
    assert machine.show("nginx", "MainPID") == pid
