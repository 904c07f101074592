# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looking at what may never answer, without waiting for it.

A system call on storage that does not answer (a network file system without its server, a FUSE file system whose
program sleeps) does not return, and no signal ends the process that made it. So the call is made by a child, which is
given up when its time is over: it is killed, and if that does not end it, left behind. It holds nothing that anybody
waits for.

What did not answer is remembered, and passed over by who would look at it next (is_silent()).
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

SECONDS = 2.0

_HEAD = 4096
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

_T = TypeVar("_T")

_silent: set[str] = set()


def attempt(function: Callable[[], _T], seconds: float) -> _T:
    """Call a function in a child process, and return what it returns.

    Args:
        function: what to call. It has no effect on this process, and what it returns or raises can be pickled.
        seconds: how long it may take.

    Raises:
        TimeoutError: it took longer, or the child was killed; it is gone, or left behind.
        Exception: what the function raised.
    """
    import pickle  # Nothing else here needs it.

    def call(writer: int) -> None:
        try:
            answer = pickle.dumps((True, function()))
        except Exception as error:
            answer = pickle.dumps((False, error))
        with open(writer, "wb", closefd=False) as file:
            file.write(answer)

    done, answer = _in_child(call, seconds)
    if not done or not answer:
        raise TimeoutError(f"no answer within {seconds:g} s")
    good, value = pickle.loads(answer)  # Of this very program.
    if not good:
        raise value
    result: _T = value
    return result


def silent(paths: Iterable[str], seconds: float = SECONDS) -> list[str]:
    """Those of some files and directories that do not answer: what there is, and what it begins with, is asked.

    Args:
        paths: where they are, or would be. In a `.v/` directory, all versions are asked as well.
        seconds: how long to wait for the next answer.
    """
    asked = list(dict.fromkeys(paths))
    answers = numbers(asked, _ask, seconds)
    found = [path for path in asked if path not in answers]
    _silent.update(found)
    return found


def numbers(names: Iterable[str], look: Callable[[str], int], seconds: float = SECONDS) -> dict[str, int]:
    """Ask for a number for each of some names; there is none for those that do not answer.

    Args:
        names: each once.
        look: what is asked, in a child that has none of the descriptors of this process.
        seconds: how long to wait for the next answer.
    """
    waiting = list(names)
    found: dict[str, int] = {}
    while waiting:
        # One child for all of them, as long as they answer.
        left = list(waiting)

        def ask(writer: int, left: list[str] = left) -> None:
            for name in left:
                os.write(writer, b"%d\n" % look(name))

        _, answer = _in_child(ask, seconds, alone=True)
        answers = answer.split(b"\n")[:-1]
        found |= zip(waiting, map(int, answers), strict=False)
        waiting = waiting[len(answers) + 1 :]
    return found


def is_silent(path: str) -> bool:
    """Whether the file or directory was asked already, and did not answer."""
    return path in _silent


def _ask(path: str) -> int:
    names = _look(path)
    for name in names if path.rstrip("/").endswith(".v") else ():
        _look(f"{path}/{name}")
    return len(names)


def _look(path: str) -> list[str]:
    """Look at what a file begins with, or what is in a directory; return the latter."""
    try:
        fd = os.open(path, _FILE)
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                return os.listdir(fd)
            if stat.S_ISREG(mode):
                os.read(fd, _HEAD)
        finally:
            os.close(fd)
    except OSError:
        pass
    return []


def _in_child(function: Callable[[int], None], seconds: float, *, alone: bool = False) -> tuple[bool, bytes]:
    """Have a child write something; return whether it came to its end, and what it wrote.

    Args:
        function: gets the descriptor to write to.
        seconds: how long to wait for the child to go on.
        alone: whether it needs none of the descriptors that this process has.
    """
    import select  # Not everybody who knows that nothing is silent has to ask.
    import signal

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            # Whoever reads what this program says waits until nobody can say anything any more.
            null = os.open(os.devnull, os.O_RDWR)
            for fd in range(3):
                os.dup2(null, fd)
            if alone:
                os.dup2(writer, 3)
                os.closerange(4, os.sysconf("SC_OPEN_MAX"))
                writer = 3
            function(writer)
        os._exit(0)
    os.close(writer)
    answer = b""
    done = False
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    end = time.monotonic() + seconds
    try:
        while not done and poll.poll(max(0.0, end - time.monotonic()) * 1000):
            chunk = os.read(reader, 1 << 16)
            answer += chunk
            done = not chunk
            if chunk:
                end = time.monotonic() + seconds
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        # One that does not end is init's, when this process ends.
        os.waitpid(child, 0 if done else os.WNOHANG)
    return done, answer
