"""What the hook has to know from one reload to the next: two short files for each service in /run/unit-confext.

`UNIT.swap` is there between the two system calls of a swap, and says how to complete it if it was cut off. `UNIT.stack`
says what the `/etc` that is in place was made of. Both are void as soon as the service's main process is another one,
and losing either costs no more than a reload that does more than it had to. `UNIT.lock` keeps two hooks apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import NamedTuple

from confext_helpers.stage import RUN_DIRECTORY


class Swap(NamedTuple):
    """A swap that is under way.

    Attributes:
        process: identifies the service's process, see restack.py.
        old_top: mount ID of the topmost mount on `/etc` before.
        length: how many mounts there were on `/etc` before.
    """

    process: str
    old_top: int
    length: int


class Notes:
    """The notes about one unit; use as a context manager, which takes the lock.

    Args:
        unit: a valid unit name, which is a valid file name.
    """

    def __init__(self, unit: str) -> None:
        self._base = f"{RUN_DIRECTORY}/{unit}"
        os.makedirs(RUN_DIRECTORY, mode=0o755, exist_ok=True)
        self._lock = os.open(f"{self._base}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> Notes:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._lock)

    def read_swap(self) -> Swap | None:
        """The swap that was under way, if any."""
        fields = self._read("swap").split()
        if len(fields) != 3:
            return None
        return Swap(fields[0], int(fields[1]), int(fields[2]))

    def write_swap(self, swap: Swap) -> None:
        """Note that a swap begins."""
        self._write("swap", f"{swap.process} {swap.old_top} {swap.length}\n")

    def clear_swap(self) -> None:
        """Note that no swap is under way."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._base}.swap")

    def read_stack(self) -> str:
        """The note about what the stack was made of; empty if there is none."""
        return self._read("stack")

    def write_stack(self, text: str) -> None:
        """Note what the stack is made of; an empty text takes the note away."""
        if text:
            self._write("stack", text)
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._base}.stack")

    def _read(self, kind: str) -> str:
        try:
            with open(f"{self._base}.{kind}", encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def _write(self, kind: str, text: str) -> None:
        path = f"{self._base}.{kind}"
        with open(f"{path}.new", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.rename(f"{path}.new", path)
