# SPDX-License-Identifier: LGPL-2.1-or-later
"""The most memory that the hook had resident, against Python that does nothing.

busybox's time(1) starts the programs, since a process is counted with what its parent had when it was forked, and
busybox has little.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.reloads import build_pair, check_version, define, remove, replace
from bench.results import REPEATS_MIN, Kind, Row, Series
from lab import services
from lab.images import STORE
from lab.machine import Machine

ROWS = ("hook-memory", "hook-memory-most")

HOOK = "/usr/lib/unit-confext/restack"
MOST = 16 << 20


def measure(machine: Machine, names: frozenset[str]) -> Iterator[Row]:
    """Yield the rows in `names`."""
    if not names & set(ROWS):
        return
    services.prepare(machine)
    build_pair(machine, "memory")
    unit = "bench-memory.service"
    define(machine, unit, [f"{STORE}/memory.raw"], ours=True)
    hook, python = [], []
    for _ in range(REPEATS_MIN):
        machine.sh(replace("memory"))
        hook.append(_peak(machine, HOOK, "--alone", "--", unit))
        check_version(machine, unit, "memory")
        python.append(_peak(machine, "python3", "-I", "-S", "-c", "pass"))
    remove(machine, unit)
    measured = Series("restack, one layer changed", tuple(hook))
    if "hook-memory" in names:
        reference = Series("`python3 -I -S -c pass`", tuple(python))
        yield Row("hook-memory", "hook, peak memory", machine.version, Kind.MEMORY, measured, reference, 2.0)
    if "hook-memory-most" in names:
        what = "hook, peak memory in all"
        yield Row("hook-memory-most", what, machine.version, Kind.MEMORY, measured, goal=float(MOST))


def _peak(machine: Machine, *argv: str) -> float:
    """The peak resident memory of a command and of what it starts, in bytes."""
    return 1024.0 * int(machine.run("busybox", "time", "-f", "%M", *argv).stderr.split()[-1])
