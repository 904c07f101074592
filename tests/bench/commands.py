# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long commands take in a machine: hyperfine(1), in turns.

A machine that others use as well is faster in one second than in the next. So a command and its reference are run in
turns, a few runs each, and whatever happens meanwhile happens to both.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from bench.results import Series
from lab import rootfs
from lab.machine import Machine

# Debian forky has no hyperfine; that of Debian 13 runs there.
PACKAGES = {"trixie": ("hyperfine", "podman"), "forky": ("podman",)}
HYPERFINE = "/usr/local/bin/hyperfine"

SCRATCH = "/run/bench"


@dataclass(frozen=True, slots=True)
class Command:
    """A command to be timed.

    Attributes:
        name: what the table calls it.
        argv: the command; no shell is started for it.
        prepare: a shell script to be run before each run, which takes no part in the time.
    """

    name: str
    argv: tuple[str, ...]
    prepare: str = ""


def prepare(machine: Machine) -> None:
    """Put hyperfine into a machine."""
    hyperfine = rootfs.path_of("trixie", PACKAGES["trixie"]) / "usr/bin/hyperfine"
    machine.write(HYPERFINE, hyperfine.read_bytes(), 0o755)


def compare(machine: Machine, *commands: Command, turns: int = 4, runs: int = 5, warmup: int = 1) -> list[Series]:
    """Time `commands` in turns; return a series of `turns` times `runs` seconds for each.

    Raises:
        AssertionError: one of them failed, or the preparation of one.
    """
    options = [
        "--shell=none", f"--warmup={warmup}", f"--runs={runs}", "--style=none", f"--export-json={SCRATCH}/times"
    ]  # fmt: skip
    words: list[str] = []
    for number, command in enumerate(commands):
        script = f"{SCRATCH}/prepare-{number}"
        machine.write(script, f"#!/bin/sh\nset -eu\n{command.prepare}\n", 0o755)
        words += ["--prepare", script, shlex.join(command.argv)]
    times: list[list[float]] = [[] for _ in commands]
    for _ in range(turns):
        machine.run(HYPERFINE, *options, *words, timeout=600)
        results = json.loads(machine.path(f"{SCRATCH}/times").read_text())["results"]
        for collected, result in zip(times, results, strict=True):
            collected += result["times"]
    return [Series(command.name, tuple(values)) for command, values in zip(commands, times, strict=True)]
