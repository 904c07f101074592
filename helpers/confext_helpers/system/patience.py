# SPDX-License-Identifier: LGPL-2.1-or-later
"""Access storage that may never answer, without blocking.

A system call on storage that does not answer (a network file system without its server, a FUSE file system whose
program sleeps) does not return, and no signal ends the process that made the call. So a child process makes the call.
A child that does not answer in time is killed, and left behind if that does not end it. The child holds no descriptor
that anybody waits on.

Paths that did not answer are remembered; callers check is_silent() before they access a path again.
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
        function: the function to call. Its side effects stay in the child; its result or exception must be picklable.
        seconds: the time limit.

    Raises:
        TimeoutError: the call took longer, or the child was killed. The child is gone, or left behind.
        Exception: any exception raised by the function.
    """
    import pickle  # Only attempt() needs pickle.

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
    good, value = pickle.loads(answer)  # The data is trusted: our own child wrote it.
    if not good:
        raise value
    result: _T = value
    return result


def silent(paths: Iterable[str], seconds: float = SECONDS) -> list[str]:
    """The paths that do not answer. A file is opened and its beginning read; a directory is listed.

    Args:
        paths: files and directories; they need not exist. In a `.v/` directory, all versions are accessed as well.
        seconds: how long to wait for each answer.
    """
    asked = list(dict.fromkeys(paths))
    answers = numbers(asked, _ask, seconds)
    found = [path for path in asked if path not in answers]
    _silent.update(found)
    return found


def numbers(names: Iterable[str], look: Callable[[str], int], seconds: float = SECONDS) -> dict[str, int]:
    """Call `look` for each name, and return its results; names that do not answer are missing.

    Args:
        names: the names, without duplicates.
        look: called in a child process that has none of this process's descriptors.
        seconds: how long to wait for each answer.
    """
    waiting = list(names)
    found: dict[str, int] = {}
    while waiting:
        # One child handles all names until one does not answer; a new child then continues after that name.
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
    """Whether silent() has accessed `path` before and got no answer."""
    return path in _silent


def _ask(path: str) -> int:
    names = _look(path)
    for name in names if path.rstrip("/").endswith(".v") else ():
        _look(f"{path}/{name}")
    return len(names)


def _look(path: str) -> list[str]:
    """Read the beginning of a file, or list a directory; return the names in the directory."""
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
    """Call `function` in a child process; return whether the child finished, and what it wrote.

    Args:
        function: called with the descriptor to write to.
        seconds: how long to wait for each write, and for the end.
        alone: whether to close all descriptors of this process in the child.
    """
    import select  # Callers of is_silent() alone need neither module.
    import signal

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            # A child left behind must not keep our standard streams open: their reader would wait for EOF forever.
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
        # A child that does not end is reparented to init when this process exits.
        os.waitpid(child, 0 if done else os.WNOHANG)
    return done, answer
