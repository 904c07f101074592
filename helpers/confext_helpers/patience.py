"""Looking at what may never answer, without waiting for it.

A system call on storage that does not answer (a network file system without its server, a FUSE file system whose
program sleeps) does not return, and no signal ends the process that made it. So the call is made by a child, which is
given up when its time is over: it is killed, and if that does not end it, left behind. It holds nothing that anybody
waits for.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

SECONDS = 3.0

_HEAD = 4096
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

_T = TypeVar("_T")


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
        paths: where they are, or would be. What is beside it, or below it, is not asked.
        seconds: how long to wait for the next answer.
    """
    waiting = list(dict.fromkeys(paths))
    found = []
    while waiting:
        # One child for all of them, as long as they answer.
        left = list(waiting)
        _, answers = _in_child(lambda writer, left=left: _ask(left, writer), seconds)  # type: ignore[misc]
        if len(answers) == len(waiting):
            break
        found.append(waiting[len(answers)])
        waiting = waiting[len(answers) + 1 :]
    return found


def _ask(paths: list[str], writer: int) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            fd = os.open(path, _FILE)
            try:
                mode = os.fstat(fd).st_mode
                if stat.S_ISDIR(mode):
                    with os.scandir(fd) as entries:
                        next(entries, None)
                elif stat.S_ISREG(mode):
                    os.read(fd, _HEAD)
            finally:
                os.close(fd)
        os.write(writer, b".")


def _in_child(function: Callable[[int], None], seconds: float) -> tuple[bool, bytes]:
    """Have a child write something; return whether it came to its end, and what it wrote.

    Args:
        function: gets the descriptor to write to.
        seconds: how long to wait for the child to go on.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.close(reader)
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
