# SPDX-License-Identifier: LGPL-2.1-or-later
"""`make bench`: measures in the booted test systems, writes build/bench.json and the table in the README.

    python3 -m bench [ROW...]

With names of rows it measures and prints only these, and writes nothing: a table whose rows are from several runs would
compare nothing. Names are those of the rows in build/bench.json; one that ends in `*` stands for several.
"""

from __future__ import annotations

import fnmatch
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

from bench import commands, daemonreload, generators, memory, reloads, serving, table, torn_reads
from bench.results import Report, Row
from lab import rootfs
from lab.machine import Machine, missing_capability

CHECKOUT = Path(__file__).parents[2]
README = CHECKOUT / "README.md"
RESULTS = CHECKOUT / "build/bench.json"

Measure = Callable[[Machine, frozenset[str]], Iterator[Row]]

# In the order of the table.
MEASURES: tuple[tuple[tuple[str, ...], Measure], ...] = (
    (generators.ROWS, generators.measure),
    (daemonreload.ROWS, daemonreload.measure),
    (reloads.ROWS, reloads.measure),
    (serving.ROWS, serving.measure),
    (memory.ROWS, memory.measure),
)
# In machines of their own: what needs no overlay, and what measures no time and so runs in all systems at once.
COPIED = (reloads.COPY_ROWS, reloads.measure_copy)
TOGETHER = (torn_reads.ROWS, torn_reads.measure)

ROWS = tuple(name for rows, _ in (*MEASURES, COPIED, TOGETHER) for name in rows)


def _boot(suite: str, *, copy: bool = False) -> Machine:
    return Machine(suite, copy=copy, share=CHECKOUT, more=commands.PACKAGES[suite], udev=True)


def _install(machine: Machine) -> None:
    machine.run("make", "-s", "-C", "/run/host/share", "install")
    machine.systemctl("daemon-reload")
    commands.prepare(machine)


def _versions(machine: Machine) -> str:
    """What is measured and compared with, in words."""
    systemd = machine.run("systemctl", "--version").stdout.splitlines()[0].partition("(")[2].rstrip(")")
    python = machine.run("python3", "-I", "-S", "-c", "import sys; print(sys.version.split()[0])").stdout.strip()
    podman = machine.run("dpkg-query", "-W", "-f", "${Version}", "podman").stdout
    hyperfine = machine.run(commands.HYPERFINE, "--version").stdout.split()[1]
    return f"{systemd}, Python {python}, podman {podman}, hyperfine {hyperfine}"


def describe_machine() -> str:
    """This machine in words: processor, number of cores that can be used, kernel."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
              if line.startswith("model name")]  # fmt: skip
    cores = len(os.sched_getaffinity(0))
    # Only the number: what builders add to it tells about the machine, not about the kernel.
    release = os.uname().release.partition("-")[0]
    return f"{models[0] if models else os.uname().machine}, {cores} cores, Linux {release}"


def _measure_suite(suite: str, names: frozenset[str], versions: dict[int, str]) -> Iterator[Row]:
    with _boot(suite) as machine:
        _install(machine)
        versions[machine.version] = _versions(machine)
        for rows, measure in MEASURES:
            if names & set(rows):
                yield from measure(machine, names)
    if names & set(COPIED[0]) and rootfs.SUITES[suite] >= 260:
        with _boot(suite, copy=True) as machine:
            _install(machine)
            yield from COPIED[1](machine, names)


def _measure_together(suite: str, names: frozenset[str]) -> list[Row]:
    with _boot(suite) as machine:
        _install(machine)
        return list(TOGETHER[1](machine, names))


def measure(names: frozenset[str], found: list[Row], versions: dict[int, str]) -> None:
    """Measure the rows in `names` in all systems, telling of each when it is there.

    Args:
        names: of ROWS.
        found: gets the rows, so that they are not lost if a later one fails.
        versions: gets what was measured and compared with, by the version of systemd.

    Raises:
        AssertionError: something that was to be measured did not work.
    """
    started = time.monotonic()

    def tell(row: Row) -> None:
        judged = {None: "", True: ", met", False: ", NOT MET"}[row.is_met]
        ratio = "" if row.ratio is None else f" ratio {row.ratio:.2f}"
        middle = table.number(row.measured.median, row.kind)
        print(f"{time.monotonic() - started:5.0f} s  {row.name} ({row.system}): {middle}{ratio}{judged}", flush=True)
        found.append(row)

    for suite in rootfs.SUITES:
        for row in _measure_suite(suite, names, versions):
            tell(row)
    if names & set(TOGETHER[0]):
        with ThreadPoolExecutor() as pool:
            for rows in pool.map(lambda suite: _measure_together(suite, names), rootfs.SUITES):
                for row in rows:
                    tell(row)


def choose(patterns: list[str]) -> frozenset[str]:
    """Return the names of rows that `patterns` stand for, all if there are none.

    Raises:
        ValueError: one of them stands for no row.
    """
    chosen: set[str] = set()
    for pattern in patterns or ["*"]:
        matching = fnmatch.filter(ROWS, pattern)
        if not matching:
            raise ValueError(f"there is no row {pattern}; there are {', '.join(ROWS)}")
        chosen |= set(matching)
    return frozenset(chosen)


def fail(text: str) -> NoReturn:
    """End with one line."""
    print(f"bench: {text}", file=sys.stderr)
    sys.exit(1)


def main(argv: list[str]) -> int:
    """Measure, print, write; return 0 whether goals are met or not."""
    # A stop from outside must clean up as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        names = choose(argv)
    except ValueError as error:
        fail(str(error))
    if (missing := missing_capability()) is not None:
        fail(f"cannot boot a systemd here: {missing}")
    if not argv:
        # Before a quarter of an hour is spent.
        try:
            table.replace(README.read_text(), "")
        except ValueError as error:
            fail(f"{README.name}: {error}")
    found: list[Row] = []
    versions: dict[int, str] = {}
    failure = ""
    try:
        # The program that measures comes from the tree of Debian 13, whatever is measured.
        for suite in rootfs.SUITES:
            rootfs.ensure(suite, commands.PACKAGES[suite])
        measure(names, found, versions)
    except (AssertionError, RuntimeError) as error:
        # An assertion need not say anything.
        failure = str(error) or traceback.format_exc()
    except KeyboardInterrupt:
        return 130
    found.sort(key=lambda row: (ROWS.index(row.name), row.system))
    report = Report(describe_machine(), versions, tuple(found))
    text = table.render(report)
    print(f"\n{text}")
    if failure:
        fail(f"FAILED: {failure}")
    if not argv:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n")
        README.write_text(table.replace(README.read_text(), text))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
