# SPDX-License-Identifier: LGPL-2.1-or-later
"""A reader through a thousand reloads, each of which changes a layer: what it saw besides the old files and the new."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.reloads import build_pair, check_version, define, remove, replace
from bench.results import Kind, Row, Series
from lab import services
from lab.images import STORE
from lab.machine import Machine

ROWS = ("reader-torn", "reader-failed", "reader-base")

RELOADS = 1000
TIMEOUT_SEC = 1800
SERVICE = "/usr/lib/lab/torn_reads_service.py"
# How services.main_pid() knows the process, and what makes systemd reload it.
_UNIT = f"[Service]\nExecStart=/usr/bin/python3 -IS {SERVICE} {services.READER}\nExecReload=/usr/bin/true\n"


def measure(machine: Machine, names: frozenset[str]) -> Iterator[Row]:
    """Yield the rows in `names`."""
    if not names & set(ROWS):
        return
    machine.write(SERVICE, (Path(__file__).parent / "torn_reads_service.py").read_text())
    services.prepare(machine)
    build_pair(machine, "watched")
    unit = "bench-watched.service"
    define(machine, unit, [f"{STORE}/watched.raw"], ours=True, text=_UNIT)
    script = f"for number in $(seq {RELOADS}); do {replace('watched')}\nsystemctl reload {unit}; done"
    machine.run("sh", "-euc", script, timeout=TIMEOUT_SEC)
    check_version(machine, unit, "watched")
    counts = services.counts(machine, unit)
    remove(machine, unit)
    # It did look while they changed.
    assert min(counts["v1"], counts["v2"]) > RELOADS, counts
    for row, what in zip(ROWS, ("torn", "failed", "base"), strict=True):
        if row in names:
            said = Series(f"{sum(counts.values())} reads", (float(counts[what]),))
            text = f"{what} reads through {RELOADS:,} reloads"
            note = f"of {sum(counts.values()):,}"
            yield Row(row, text, machine.version, Kind.COUNT, said, goal=0.0, note=note)
