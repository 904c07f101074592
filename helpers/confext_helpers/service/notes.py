# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the hook has to know from one reload to the next: short files for each service in /run/unit-confext.

`UNIT.swap` is there between the two system calls of a swap, and says how to complete it if it was cut off. `UNIT.stack`
says what the `/etc` that is in place was made of. Both are void as soon as the service's main process is another
one, and losing either costs no more than a reload that does more than it had to. `UNIT.paths` and `UNIT.found` are for
helpers/restack-if-changed.in: as long as what find(1) says about the former has the digest that is in the latter,
nothing has to be done. None of them grows with the files that a layer has: /run is small, and others than root may make
those files.
`UNIT.done` says that the hook came to its end; unit-confext-restack@.service takes it away again. It is empty, so as to
need no space. `UNIT.warnings` has what was said about the unit's settings, so that it is said once. `UNIT.lock` keeps
two hooks apart. `UNIT.owed` has the number of the job for which the last swap was made.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

from confext_helpers.paths import RUN_DIRECTORY
from confext_helpers.service.fingerprint import Fingerprint
from confext_helpers.service.layers import Layer


class Propagation(NamedTuple):
    """How a mount propagates.

    Attributes:
        mount: its ID.
        shared: whether it is.
        master: the peer group that it is a slave of, or 0.
    """

    mount: int
    shared: bool
    master: int


class PendingSwap(NamedTuple):
    """A swap that is under way.

    Attributes:
        process: identifies the service's process, see hook/main.py.
        old_top: mount ID of the topmost mount on `/etc` before, or of the one that `/etc` is a part of.
        length: how many mounts there were on `/etc` before.
        detach_point: the name of the directory that the old one is moved to, or empty.
        shared: whether the new one propagates what is mounted on it.
        propagation: how those mounts did that stop it for as long as the swap takes.
    """

    process: str
    old_top: int
    length: int
    detach_point: str
    shared: bool
    propagation: list[Propagation]


class LastSwap(NamedTuple):
    """What was put in place last.

    Attributes:
        processes: identify the service's processes, see service/processes.py.
        usec: when, in microseconds since the epoch.
        layers: bottom to top.
        fingerprint: of what it was made of.
        settled: whether `fingerprint` is a proof that nothing changed since, see service/fingerprint.py.
    """

    processes: list[str]
    usec: int
    layers: list[Layer]
    fingerprint: Fingerprint
    settled: bool


def _parse_swap(text: str) -> PendingSwap | None:
    try:
        process, old_top, length, detach_point, shared, mounts = json.loads(text)
        return PendingSwap(process, old_top, length, detach_point, shared, [Propagation(*mount) for mount in mounts])
    except (ValueError, TypeError):
        return None


def swap_under_way(unit: str) -> PendingSwap | None:
    """What the note says about a swap of `unit` that is under way, or was cut off; takes no lock."""
    try:
        with open(f"{RUN_DIRECTORY}/{unit}.swap", encoding="utf-8", errors="surrogateescape") as file:
            return _parse_swap(file.read())
    except OSError:
        return None


class Notes:
    """The notes about one unit; use as a context manager, which takes the lock.

    Args:
        unit: a valid unit name, which is a valid file name.
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        os.makedirs(RUN_DIRECTORY, mode=0o755, exist_ok=True)
        # Notes are written while this process is in a mount namespace that may show another /run, or none.
        self._directory = os.open(RUN_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = os.open(f"{unit}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self._directory)

    def __enter__(self) -> Notes:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def try_lock(self, seconds: float = 0.0) -> bool:
        """Take the lock if nobody else has it, or lets go of it in time; return whether it was taken."""
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    return False
                time.sleep(0.1)
            else:
                return True

    def unlock(self) -> None:
        """Let go of the lock, also for a child that has inherited it and cannot do so any more."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def __exit__(self, *exc: object) -> None:
        os.close(self._lock)
        os.close(self._directory)

    def read_swap(self) -> PendingSwap | None:
        """The swap that was under way, if any."""
        return _parse_swap(self._read("swap"))

    def write_swap(self, swap: PendingSwap) -> None:
        """Note that a swap begins."""
        self._write("swap", json.dumps(swap))

    def clear_swap(self) -> None:
        """Note that no swap is under way."""
        self._remove("swap")

    def read_stack(self) -> LastSwap | None:
        """What the stack was made of; None if there is no note about it."""
        try:
            processes, usec, layers, fingerprint, settled = json.loads(self._read("stack"))
            return LastSwap(processes, usec, [Layer(*layer) for layer in layers], Fingerprint(*fingerprint), settled)
        except (ValueError, TypeError):
            return None

    def write_stack(self, stack: LastSwap | None) -> None:
        """Note what the stack is made of; None takes the note away, and that of write_files() with it."""
        if stack is None:
            self._remove("found")
            self._remove("stack")
        else:
            self._write("stack", json.dumps(stack))

    def write_files(self, paths: Sequence[str], digest: str) -> None:
        """Note which files must be what they are now for nothing to have changed.

        Args:
            paths: where they are, or would be.
            digest: the SHA-256 of what find(1) says about those that there are.
        """
        self._remove("found")
        self._write("paths", "".join(f"{path}\0" for path in paths))
        self._write("found", f"{digest}  -\n")  # As sha256sum(1) reads it.

    def read_warnings(self) -> list[str]:
        """The warnings about the unit's settings that were said last."""
        return self._read("warnings").split("\n")[:-1]

    def write_warnings(self, warnings: Sequence[str]) -> None:
        """Note which warnings were said, each a line."""
        if warnings:
            self._write("warnings", "".join(f"{line}\n" for line in warnings))
        else:
            self._remove("warnings")

    def read_owed(self) -> int:
        """The number of the job which was to reload the service when its last swap was made."""
        text = self._read("owed")
        return int(text) if text.isdecimal() else 0

    def write_owed(self, job: int) -> None:
        """Note that a swap was made for a job, so that the service has to be reloaded even if that is cancelled."""
        self._write("owed", str(job))

    def write_done(self, done: bool) -> None:
        """Note that this hook came to its end, whatever that was, or that none has yet."""
        if done:
            self._write("done", "")
        else:
            self._remove("done")

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CLOEXEC, 0o600, dir_fd=self._directory)

    def _read(self, kind: str) -> str:
        try:
            with open(f"{self._unit}.{kind}", encoding="utf-8", errors="surrogateescape", opener=self._open) as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def _write(self, kind: str, text: str) -> None:
        name = f"{self._unit}.{kind}"
        with open(f"{name}.new", "w", encoding="utf-8", errors="surrogateescape", opener=self._open) as file:
            file.write(text)
        os.rename(f"{name}.new", name, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def _remove(self, kind: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._unit}.{kind}", dir_fd=self._directory)
