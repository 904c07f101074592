# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keep one deadline for all that the hook does, in a process that waits for nothing else.

A process that reads files may wait for storage that does not answer, and then no signal ends the process. So a child
does the hook's work. The parent only waits: for the child, or for the deadline. At the deadline the parent kills the
child and goes on at once, even if the child is not dead yet: with SIGKILL pending, the child does nothing more.

The child reports its progress through a pipe, and asks the parent before it swaps. The parent either answers or kills
the child, never both, so the deadline never interrupts a swap. If the parent is gone, the child gets no answer and does
not swap.
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
# How long the parent waits for a swap that has begun. A swap takes milliseconds.
SWAP_SEC = 30.0
# How long the parent waits for a killed child before going on without it.
_REAP_SEC = 1.0
# Files that the hook itself has open; no layer is below these directories.
_OWN = ("/run/unit-confext", "/proc/", "/dev/", "/sys/", "/memfd:")


class AbandonedError(BaseException):
    """The parent is gone; the second ExecReload= decides about the reload. Never catch this as an error."""


class Line:
    """The child's connection to its parent.

    Args:
        reader: the pipe with the parent's answer.
        writer: the pipe for the child's reports.
    """

    def __init__(self, reader: int, writer: int) -> None:
        self._reader = reader
        self._writer = writer

    def step(self, step: Step) -> None:
        """Report that a step begins."""
        self._write(f"step {step}")

    def doing(self, what: str) -> None:
        """Report what the child waits for, if the step does not tell: "another hook still ran"."""
        self._write(f"doing {what}")

    def limit(self, usec: int) -> None:
        """Report how long the whole hook may take, in microseconds."""
        self._write(f"limit {usec}")

    def ask(self) -> None:
        """Ask whether the swap may begin, and return if so.

        Raises:
            AbandonedError: the parent is gone.
        """
        self._write("swap")
        if not os.read(self._reader, 1):
            raise AbandonedError

    def swapped(self) -> None:
        """Report that the swap is done. From now on, the service's reload goes on whatever happens to the hook."""
        with contextlib.suppress(AbandonedError):
            self._write("swapped")

    def _write(self, line: str) -> None:
        try:
            os.write(self._writer, f"{line}\n".encode())
        except BrokenPipeError:
            raise AbandonedError from None


class Progress:
    """The progress of the hook.

    Args:
        line: to the parent.

    Attributes:
        step: the current step.
        swapped: the number of the service's mount namespaces that have the new `/etc`.
        usec: the duration of each finished step, in microseconds.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self.step = Step.PREPARE
        self.swapped = 0
        self.usec: dict[Step, int] = {}
        self._since = time.monotonic_ns()

    def begin(self, step: Step) -> None:
        """End the current step and begin the next one."""
        self.end()
        self.step = step
        self._line.step(step)

    def end(self) -> None:
        """End the current step."""
        now = time.monotonic_ns()
        self.usec[self.step] = self.usec.get(self.step, 0) + (now - self._since) // 1000
        self._since = now


class Ended(NamedTuple):
    """How the child ended.

    Attributes:
        status: the exit status, negative if a signal killed the child; None if the parent killed it.
        terminated: whether the parent killed the child because of a SIGTERM, not at the deadline.
        seconds: the time that the child was allowed to take.
        step: the last step that the child reported.
        doing: what the child was waiting for; empty if not reported.
        asked: whether the child was allowed to swap.
        swapped: whether the swap was done.
        path: a file that the child had open when the parent killed it; empty if none is known.
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
    """Run `work` in a child process, within a deadline.

    Args:
        work: called in the child with the line to the parent; returns the exit status.
        on_swap: called in the parent as soon as the swap is done.
        seconds: the deadline, unless the child reports another one.
    """
    said, writer = os.pipe()
    reader, answers = os.pipe()
    # SIGTERM writes to a pipe: an exception from the handler could interrupt any line of the parent.
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
        """Wait until the child ends, or kill it at the deadline."""
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
        """Read the child's reports until it ends; return its exit status, or None if `end` comes first.

        Args:
            end: on the monotonic clock.
            terminated: stop waiting as soon as this pipe is readable.
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
    """A file or directory that a process has open, the one with the highest descriptor; empty if there is none."""
    directory = f"/proc/{pid}/fd"
    try:
        for fd in sorted(map(int, os.listdir(directory)), reverse=True):
            path = os.readlink(f"{directory}/{fd}")
            # Python's ctypes keeps the file of libffi open.
            if path.startswith("/") and not path.startswith(_OWN) and "/libffi.so" not in path:
                return path
    except OSError:
        pass
    return ""
