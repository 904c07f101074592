# SPDX-License-Identifier: LGPL-2.1-or-later
"""One deadline for all that the hook does, kept by a process that waits for nothing else.

What looks at files may wait for storage that does not answer, and then no signal ends it. So the hook's work is done by
a child. Its parent only waits: for the child, or for the deadline. Then it kills the child and goes on without it, dead
or not: a process with a pending SIGKILL does nothing more by itself.

The child says through a pipe how far it has come, and asks before it swaps. The parent says yes to that, or kills it,
never both; so the deadline cuts no swap in half. A child without a parent gets no answer, and swaps nothing either.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from confext_helpers.transaction.steps import Step

DEFAULT_SEC = 90.0
# The swap itself takes milliseconds, once it has begun.
SWAP_SEC = 30.0
# How long a killed process may take to be gone before it is left behind.
_REAP_SEC = 1.0
# What the hook itself has open, and what no layer is on.
_OWN = ("/run/unit-confext", "/proc/", "/dev/", "/sys/", "/memfd:")


class AbandonedError(BaseException):
    """The parent is gone, and whoever comes next takes care of the reload. Not to be caught as an error."""


class Line:
    """The child's end: what it says to its parent.

    Args:
        reader: for the answer.
        writer: for what is said.
    """

    def __init__(self, reader: int, writer: int) -> None:
        self._reader = reader
        self._writer = writer

    def step(self, step: Step) -> None:
        """A step begins."""
        self._write(f"step {step}")

    def doing(self, what: str) -> None:
        """What is waited for, where the step does not tell: "another hook still ran"."""
        self._write(f"doing {what}")

    def limit(self, usec: int) -> None:
        """How long all of the hook may take."""
        self._write(f"limit {usec}")

    def ask(self) -> None:
        """Ask whether the swap may begin; return if so."""
        self._write("swap")
        if not os.read(self._reader, 1):
            raise AbandonedError

    def swapped(self) -> None:
        """The swap has been made. Whatever comes now, the service's reload has to go on."""
        with contextlib.suppress(AbandonedError):
            self._write("swapped")

    def _write(self, line: str) -> None:
        try:
            os.write(self._writer, f"{line}\n".encode())
        except BrokenPipeError:
            raise AbandonedError from None


class Progress:
    """How far the hook has come.

    Args:
        line: who is told.

    Attributes:
        step: the present one.
        swapped: in how many mount namespaces the service has its new `/etc`.
        usec: how long the steps took that are over, in microseconds.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self.step = Step.PREPARE
        self.swapped = 0
        self.usec: dict[Step, int] = {}
        self._since = time.monotonic_ns()

    def begin(self, step: Step) -> None:
        """The present step is over, and the next one begins."""
        self.end()
        self.step = step
        self._line.step(step)

    def end(self) -> None:
        """The present step is over."""
        now = time.monotonic_ns()
        self.usec[self.step] = self.usec.get(self.step, 0) + (now - self._since) // 1000
        self._since = now


class Ended(NamedTuple):
    """What became of the child.

    Attributes:
        status: its exit status, negative if a signal ended it; None if it was given up.
        terminated: whether it was given up since this process was told to end.
        seconds: how long it was allowed to take.
        step: how far it has come.
        doing: what it was waiting for, if it said so.
        asked: whether it had begun to swap.
        swapped: whether it had swapped.
        path: a file that it had open when it was given up, or nothing.
    """

    status: int | None
    terminated: bool
    seconds: float
    step: Step
    doing: str
    asked: bool
    swapped: bool
    path: str


def supervise(
    work: Callable[[Line], int], on_swap: Callable[[], None] = lambda: None, seconds: float = DEFAULT_SEC
) -> Ended:
    """Do some work in a child, within a deadline.

    Args:
        work: gets the line to this process, and returns the exit status.
        on_swap: called here as soon as the swap has been made.
        seconds: how long it may take, unless it says otherwise.
    """
    said, writer = os.pipe()
    reader, answers = os.pipe()
    # Not by an exception, which could come anywhere.
    terminated, terminate = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(terminate, b"."))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(said)
            os.close(answers)
            status = work(Line(reader, writer))
        except AbandonedError:
            pass
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    os.close(writer)
    os.close(reader)
    return _Parent(child, said, answers, terminated, on_swap, seconds).wait()


class _Parent:
    def __init__(
        self, child: int, said: int, answers: int, terminated: int, on_swap: Callable[[], None], seconds: float
    ) -> None:
        self._child = child
        self._on_swap = on_swap
        self._pidfd = os.pidfd_open(child)
        self._said = said
        self._answers = answers
        self._terminated = terminated
        self._begin = time.monotonic()
        self._seconds = seconds
        self._step = Step.PREPARE
        self._doing = ""
        self._asked = self._swapped = False

    def wait(self) -> Ended:
        """Wait for the end of the child, or for the deadline."""
        path = ""
        status = self._wait(self._begin + self._seconds, self._terminated)
        terminated = status is None and self._is_readable(self._terminated, 0)
        if status is None and self._asked and not self._swapped:
            status = self._wait(time.monotonic() + SWAP_SEC)
        if status is None:
            if self._step in (Step.PREPARE, Step.COMPARE):
                path = _path_in_use(self._child)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            self._is_readable(self._pidfd, _REAP_SEC)
            os.waitpid(self._child, os.WNOHANG)
        how_far = self._step, self._doing, self._asked, self._swapped
        return Ended(status, terminated, self._seconds, *how_far, path)

    def _wait(self, end: float, terminated: int | None = None) -> int | None:
        """Listen to the child until it has ended; return its status, or None if that is not before `end`.

        Args:
            end: on the monotonic clock.
            terminated: nobody waits any longer if there is something to be read from it.
        """
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.register(self._said, select.POLLIN)
        if terminated is not None:
            poll.register(terminated, select.POLLIN)
        while True:
            seconds = self._seconds
            ready = dict(poll.poll(max(0.0, end - time.monotonic()) * 1000))
            if self._said in ready:
                data = os.read(self._said, 1 << 16)
                for line in data.decode().splitlines():
                    self._hear(*line.split(" ", 1))
                if not data:
                    poll.unregister(self._said)
            elif self._pidfd in ready:
                return os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
            else:
                return None
            end += self._seconds - seconds

    def _hear(self, word: str, text: str = "") -> None:
        if word == "step":
            self._step, self._doing = Step(text), ""
        elif word == "doing":
            self._doing = text
        elif word == "limit":
            self._seconds = int(text) / 1e6
        elif word == "swap":
            self._asked = True
            with contextlib.suppress(BrokenPipeError):
                os.write(self._answers, b".")
        elif word == "swapped":
            self._swapped = True
            self._on_swap()

    @staticmethod
    def _is_readable(fd: int, seconds: float) -> bool:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


def _path_in_use(pid: int) -> str:
    """A file or directory that a process has open, the one opened last if possible; nothing if there is none."""
    directory = f"/proc/{pid}/fd"
    try:
        for fd in sorted(map(int, os.listdir(directory)), reverse=True):
            path = os.readlink(f"{directory}/{fd}")
            # Python's libffi keeps its own file open.
            if path.startswith("/") and not path.startswith(_OWN) and "/libffi.so" not in path:
                return path
    except OSError:
        pass
    return ""
