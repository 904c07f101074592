# SPDX-License-Identifier: LGPL-2.1-or-later
"""A /dev/kmsg of a machine's own. The kernel has one log for everybody, and every machine's journal would read it.

It is a terminal: what is written to it comes out at the other end, is made a record as the kernel would, and is
typed in again for the machine's journal to read. A terminal hands out one line a read, as /dev/kmsg does one record;
with a FIFO, several would come at once. What the kernel itself says is in no machine's journal.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import termios
import threading
import time

# devkmsg_write(): a longer record is refused.
_RECORD_MAX = 1024
# <syslog.h>: LOG_USER | LOG_WARNING, which the kernel takes where nothing is said.
_FACILITY, _LEVEL = 1, 4
_PREFIX = re.compile(rb"<(\d+)>")


class KernelLog:
    """One such log; `path` is what has to be mounted on the machine's /dev/kmsg."""

    def __init__(self) -> None:
        self._ours, self._theirs = os.openpty()
        self.path = os.ttyname(self._theirs)
        os.set_blocking(self._ours, False)
        # Lines are all that is asked of it: no echo, no signals, and no characters with a meaning of their own.
        speed = termios.B38400
        characters: list[bytes] = [b"\0"] * termios.NCCS
        modes: list[int | list[bytes]] = [0, 0, termios.CS8 | termios.CREAD, termios.ICANON, speed, speed, characters]
        termios.tcsetattr(self._theirs, termios.TCSANOW, modes)
        self._thread = threading.Thread(target=self._relay, name="kernel log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, once no machine has it any more."""
        os.close(self._theirs)
        # Nobody has the other end open: reading fails.
        self._thread.join()
        os.close(self._ours)

    def _relay(self) -> None:
        rest, number, waiting = b"", 0, b""
        with contextlib.suppress(OSError):
            while True:
                # Who writes to the log never waits for a journal that does not read.
                readable, writable, _ = select.select([self._ours], [self._ours] if waiting else [], [])
                if writable:
                    with contextlib.suppress(BlockingIOError):
                        waiting = waiting[os.write(self._ours, waiting) :]
                if not readable:
                    continue
                *lines, rest = (rest + os.read(self._ours, 1 << 16)).split(b"\n")
                for line in lines:
                    if len(line) < _RECORD_MAX:
                        waiting += record(line, number, time.monotonic_ns() // 1000)
                        number += 1


def record(line: bytes, number: int, usec: int) -> bytes:
    """What /dev/kmsg shows of a line that was written to it (Linux, Documentation/ABI/testing/dev-kmsg)."""
    facility, level = _FACILITY, _LEVEL
    if prefix := _PREFIX.match(line):
        level = int(prefix[1]) & 7
        facility = int(prefix[1]) >> 3 or _FACILITY
        line = line[prefix.end() :]
    text = b"".join(b"%c" % c if 32 <= c < 127 and c != 92 else b"\\x%02x" % c for c in line)
    return b"%d,%d,%d,-;%s\n" % (facility << 3 | level, number, usec, text)
