# SPDX-License-Identifier: LGPL-2.1-or-later
"""The notes: what the hook keeps from one reload to the next, in short files for each service in /run/unit-confext.

`UNIT.swap` exists between the two system calls of a swap, and says how to complete the swap. `UNIT.stack` has the
fingerprint of the `/etc` in place. Both are void if the service's main process has changed since. If one is lost, the
next reload only does more than necessary. `UNIT.paths` and `UNIT.found` are for helpers/restack-if-changed.in: as long
as the output of find(1) for these paths has this digest, nothing is to be done. No note grows with the number of files
in a layer: /run is small, and others than root may make those files.

`UNIT.done` says that the hook finished; unit-confext-restack@.service removes it. The file is empty, and so can be made
even if /run is full. `UNIT.warnings` has the warnings about the unit's settings that were logged, so that each is
logged once. `UNIT.lock` keeps two hooks apart. `UNIT.owed` has the number of the job for which the last swap was made.
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
        mount: the ID of the mount.
        shared: whether the mount is shared.
        master: the peer group that the mount is a slave of, or 0.
    """

    mount: int
    shared: bool
    master: int


class PendingSwap(NamedTuple):
    """A swap that is under way.

    Attributes:
        process: the key of the service's process, see service/processes.py.
        old_top: the ID of the old topmost mount on `/etc`, or of the mount that `/etc` is a part of.
        length: the number of mounts on `/etc` before the swap.
        detach_point: the name of the directory that the old `/etc` is moved to; empty if it is not moved.
        shared: whether the new mount is shared.
        propagation: the old propagation of those mounts that do not propagate during the swap.
    """

    process: str
    old_top: int
    length: int
    detach_point: str
    shared: bool
    propagation: list[Propagation]


class LastSwap(NamedTuple):
    """The `/etc` that was put in place last.

    Attributes:
        processes: the keys of the service's processes, see service/processes.py.
        usec: the time of the swap, in microseconds since the epoch.
        layers: bottom to top.
        fingerprint: of that `/etc`.
        settled: whether an equal fingerprint proves that nothing changed since, see service/fingerprint.py.
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
    """The note about a swap of `unit` that is under way, or was cut off; takes no lock."""
    try:
        with open(f"{RUN_DIRECTORY}/{unit}.swap", encoding="utf-8", errors="surrogateescape") as file:
            return _parse_swap(file.read())
    except OSError:
        return None


class Notes:
    """The notes about one unit. The with statement takes the lock.

    Args:
        unit: a valid unit name, and so a valid file name.
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        os.makedirs(RUN_DIRECTORY, mode=0o755, exist_ok=True)
        # Notes are written while this process is in the service's mount namespace, which may have another /run or none.
        self._directory = os.open(RUN_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = os.open(f"{unit}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self._directory)

    def __enter__(self) -> Notes:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def try_lock(self, seconds: float = 0.0) -> bool:
        """Take the lock, if it is free or becomes free within `seconds`; return whether it was taken."""
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
        """Release the lock, also for a child that has inherited it and does not answer any more."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def __exit__(self, *exc: object) -> None:
        os.close(self._lock)
        os.close(self._directory)

    def read_swap(self) -> PendingSwap | None:
        """The swap that was cut off; None if there is no note of one."""
        return _parse_swap(self._read("swap"))

    def write_swap(self, swap: PendingSwap) -> None:
        """Note that a swap begins."""
        self._write("swap", json.dumps(swap))

    def clear_swap(self) -> None:
        """Note that no swap is under way."""
        self._remove("swap")

    def read_stack(self) -> LastSwap | None:
        """The note of the last swap; None if there is none."""
        try:
            processes, usec, layers, fingerprint, settled = json.loads(self._read("stack"))
            return LastSwap(processes, usec, [Layer(*layer) for layer in layers], Fingerprint(*fingerprint), settled)
        except (ValueError, TypeError):
            return None

    def write_stack(self, stack: LastSwap | None) -> None:
        """Write the note of the last swap; None removes it, and the one of write_files() as well."""
        if stack is None:
            self._remove("found")
            self._remove("stack")
        else:
            self._write("stack", json.dumps(stack))

    def write_files(self, paths: Sequence[str], digest: str) -> None:
        """Note the files whose state decides whether the next reload has anything to do.

        Args:
            paths: of the files, including those that do not exist.
            digest: the SHA-256 of the output of find(1) for those that exist.
        """
        self._remove("found")
        self._write("paths", "".join(f"{path}\0" for path in paths))
        self._write("found", f"{digest}  -\n")  # In the format that sha256sum(1) reads.

    def read_warnings(self) -> list[str]:
        """The warnings about the unit's settings that were logged last."""
        return self._read("warnings").split("\n")[:-1]

    def write_warnings(self, warnings: Sequence[str]) -> None:
        """Note the warnings that were logged, each a line."""
        if warnings:
            self._write("warnings", "".join(f"{line}\n" for line in warnings))
        else:
            self._remove("warnings")

    def read_owed(self) -> int:
        """The number of the service's reload job at its last swap; 0 if there is no note."""
        text = self._read("owed")
        return int(text) if text.isdecimal() else 0

    def write_owed(self, job: int) -> None:
        """Note that a swap was made for a job: the service has to be reloaded even if the job is cancelled."""
        self._write("owed", str(job))

    def write_done(self, done: bool) -> None:
        """Note that this hook finished, successfully or not; False removes the note."""
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
