# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon-reload with 100 units that have a `.confext.d/`, against one that reads the same drop-ins from `/run`.

All units are loaded, as those of a running system are. podman's generator is switched off, which would only make both
slower.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench import generators
from bench.commands import Command, compare
from bench.results import Kind, Row
from lab.machine import Machine

UNITS = 100
ROWS = ("daemon-reload",)

_MASK = "/etc/systemd/system-generators"
_WRITTEN = "/run/systemd/system"
_KEPT = "/run/bench-written"


def measure(machine: Machine, names: frozenset[str]) -> Iterator[Row]:
    """Yield the row."""
    if "daemon-reload" not in names:
        return
    generators.make_units(machine, UNITS)
    units = [f"bench-{number}.service" for number in range(UNITS)]
    # What is ordered after a loaded unit is loaded as well.
    machine.write(f"{generators.UNITS}/bench.target", f"[Unit]\nBefore={' '.join(units)}\n")
    machine.sh(f"""
        mkdir -p {_MASK} {_KEPT}
        ln -sfn /dev/null {_MASK}/podman-system-generator
        systemctl daemon-reload
        systemctl start bench.target
        cp -r /run/systemd/generator/bench-*.service.d {_KEPT}
    """)
    ours = Command(
        "systemctl daemon-reload", ("systemctl", "daemon-reload"),
        f"rm -rf {_WRITTEN}/bench-*.service.d {_MASK}/unit-confext-generator",
    )  # fmt: skip
    written = Command(
        "the same drop-ins, written by hand", ("systemctl", "daemon-reload"),
        f"mkdir -p {_WRITTEN}; cp -r {_KEPT}/. {_WRITTEN}; ln -sfn /dev/null {_MASK}/unit-confext-generator",
    )  # fmt: skip
    for command, directory in ((ours, "/run/systemd/generator"), (written, _WRITTEN)):
        machine.sh(command.prepare)
        machine.systemctl("daemon-reload")
        for unit in (units[0], units[-1]):
            assert f"{directory}/{unit}.d/zz-unit-confext.conf" in machine.show(unit, "DropInPaths").split()
            assert machine.show(unit, "LoadState") == "loaded"
    measured, reference = compare(machine, ours, written)
    machine.sh(f"""
        {ours.prepare}
        rm -rf {_KEPT} {_MASK}/podman-system-generator
        systemctl stop bench.target
        rm {generators.UNITS}/bench.target
    """)
    generators.remove(machine)
    machine.systemctl("daemon-reload")
    what = f"daemon-reload, {UNITS} units with 4 entries"
    yield Row("daemon-reload", what, machine.version, Kind.TIME, measured, reference, 1.1)
