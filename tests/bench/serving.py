# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long it takes until nginx serves what a new image says: a reload against a restart, and who goes unanswered.

The image is replaced, the command is run, and the clock stops at the first answer from the new configuration; see
http_client.py. The reload has the check in it that comes with unit-confext (`nginx -t` in the stage).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from bench.reloads import KEPT, replace
from bench.results import Kind, Row, Series
from lab import images
from lab.machine import Machine

ROWS = ("reload-image", "reload-image-unanswered")

UNIT = "nginx.service"
RUNS = 20
CLIENT = "/usr/lib/lab/http_client.py"
_SERVER = 'server {{ listen 8080; location / {{ default_type text/plain; return 200 "{version}\\n"; }} }}\n'


def measure(machine: Machine, names: frozenset[str]) -> Iterator[Row]:
    """Yield the rows in `names`."""
    if not names & set(ROWS):
        return
    image = f"/etc/systemd/system/{UNIT}.confext.d/site.raw"
    machine.write(CLIENT, (Path(__file__).parent / "http_client.py").read_text())
    for version in ("v1", "v2"):
        images.build(machine, f"{KEPT}/{version}/site.raw", {"nginx/conf.d/site.conf": _SERVER.format(version=version)})
    machine.sh(f"mkdir -p $(dirname {image}); cp {KEPT}/v1/site.raw {image}; echo v1 >{KEPT}/site.version")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", UNIT)
    # A reload, a restart, a reload, ...: each finds what the other has left, and changes it.
    verbs = ("reload", "restart") * RUNS
    steps = [
        (replace("site", image), ("systemctl", verb, UNIT), ("v2", "v1")[number % 2])
        for number, verb in enumerate(verbs)
    ]
    # systemd does not start a service that was started too often.
    machine.write(f"/run/systemd/system/{UNIT}.d/10-bench.conf", "[Unit]\nStartLimitIntervalSec=0\n")
    machine.systemctl("daemon-reload")
    output = machine.run("python3", "-I", CLIENT, input=json.dumps(steps), timeout=600).stdout
    results = json.loads(output)
    machine.systemctl("stop", UNIT)
    machine.sh(f"rm -r /run/systemd/system/{UNIT}.d $(dirname {image})")
    machine.systemctl("daemon-reload")
    reloads, restarts = results[::2], results[1::2]
    requests = sum(result[2] for result in reloads)
    if "reload-image" in names:
        yield Row(
            "reload-image", "nginx serves a new image", machine.version, Kind.TIME,
            Series("systemctl reload", tuple(result[0] for result in reloads)),
            Series("systemctl restart", tuple(result[0] for result in restarts)),
        )  # fmt: skip
    if "reload-image-unanswered" in names:
        longest = max(result[1] for result in restarts)
        yield Row(
            "reload-image-unanswered", "nginx answers no request, while it is reloaded", machine.version, Kind.TIME,
            Series(f"{requests} requests", tuple(result[1] for result in reloads)), goal=0.0,
            note=f"while it is restarted: up to {longest * 1000:.0f} ms",
        )  # fmt: skip
