# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process of a stage: what is checked before the hook takes its mount namespace, and how it ends.

See stage/transient.py.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
from typing import TYPE_CHECKING, NamedTuple

from confext_helpers.errors import ConfextError
from confext_helpers.paths import RUN_DIRECTORY
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.system.descriptors import Descriptors

if TYPE_CHECKING:
    from confext_helpers.system.manager import ServiceManager

# The path of the host's loader in the stage.
LOADER = f"{RUN_DIRECTORY}/loader"
TIMEOUT_SEC = 90

# The program that the loader is told to run. No file can have so long a name (path_resolution(7)), and the loader's
# error message has it twice.
PAGE = os.sysconf("SC_PAGE_SIZE")
PROGRAM = "/" * (PAGE + 1)
# systemd's last message if it failed to execute the loader, or if what it executed has ended.
_FAILED_LATER = "Failed with result 'exit-code'"
# How many bytes of the loader's message are read. Reading all that the pipe holds would let the loader go on writing.
_HEAD = 64


@functools.cache
def host_loader() -> str:
    """The path of the host's dynamic loader: the loader of this very process."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            path = "/" + line.rstrip("\n").partition("/")[2]
            if path.rpartition("/")[2].startswith(("ld-linux", "ld64", "ld.so")):
                return path
    raise ConfextError("the host has no dynamic loader of the GNU C library")


class Stage(NamedTuple):
    """A stage that is up. A with statement, or close(), ends it.

    Attributes:
        name: the name of its unit.
        namespace: descriptor of its mount namespace.
        pidfd: of its process.
        pipe: the end of the pipe to read from; the process waits until it can write more.
    """

    name: str
    namespace: int
    pidfd: int
    pipe: int

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Terminate the process and close the descriptors; systemd then removes the stage."""
        _send_signal(self.pidfd, "SIGTERM")
        # Somebody with root's UID may have stopped the process, and a stopped process does not end.
        _send_signal(self.pidfd, "SIGCONT")
        for fd in (self.pipe, self.pidfd, self.namespace):
            os.close(fd)


class Pending(NamedTuple):
    """A stage that is being started. Call wait(), or `pipe` stays open.

    Attributes:
        name: the name of its unit.
        properties: of the service.
        uid: of the stage's process.
        pipe: see Stage.
    """

    name: str
    properties: ServiceProperties
    uid: int
    pipe: int

    def wait(self, manager: ServiceManager) -> Stage:
        """Wait until the stage's `/etc` is complete.

        Raises:
            ConfextError: systemd failed to start the stage; the error has the reason that systemd logged.
        """
        with Descriptors() as opened:
            opened.add(self.pipe)
            if not _is_up(self.pipe):
                from confext_helpers.stage import failure  # Loads python-systemd, which only this error needs.

                error = failure.of_stage(manager, self.name, self.properties)
                # With this message, systemd had made the mounts, and something else than the loader ran and ended.
                raise self._replaced("was") if _FAILED_LATER in error.problem else error
            head = os.read(self.pipe, _HEAD).decode(errors="replace")
            said_the_right_words = PROGRAM.startswith(head) or head.startswith(LOADER)
            stage = self._take_hold(manager.main_pid(self.name), said_the_right_words)
            opened.pop_all()
        return stage

    def _take_hold(self, pid: int, said_the_right_words: bool) -> Stage:
        """Open the stage's process and its mount namespace, if the process is the loader."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            # The loader waits for this hook. If it wrote what it should and has ended, it was killed.
            raise self._ended() if said_the_right_words else self._replaced() from None
        with Descriptors() as opened:
            opened.add(pidfd)
            namespace = None
            try:
                with Descriptors() as looked_at:
                    process = looked_at.add(os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                    if said_the_right_words and self._is_loader(process):
                        namespace = opened.add(os.open("ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process))
                # If the process has not ended yet, no other process had its PID when /proc was read.
                if select.select([pidfd], [], [], 0)[0]:
                    raise ProcessLookupError
                if namespace is None:
                    _send_signal(pidfd, "SIGKILL")
                    raise self._replaced()
            except OSError:
                raise self._ended() if said_the_right_words else self._replaced() from None
            opened.pop_all()
        return Stage(self.name, namespace, pidfd, self.pipe)

    def _is_loader(self, process: int) -> bool:
        """Whether a process is the host's loader, in the control group of the stage, with the stage's UID.

        Args:
            process: descriptor of its directory in /proc.

        Raises:
            OSError: the process has ended.
        """
        # /proc/PID/exe opens the very file that is executed, wherever its path leads by now.
        executable = os.open("exe", os.O_PATH | os.O_CLOEXEC, dir_fd=process)
        try:
            same = os.path.samestat(os.fstat(executable), os.stat(host_loader()))
        finally:
            os.close(executable)
        status, group = _read("status", process), _read("cgroup", process)
        uids = f"\nUid:\t{self.uid}\t{self.uid}\t{self.uid}\t{self.uid}\n"
        return same and uids in status and f"/{self.name}\n" in group

    def _ended(self) -> ConfextError:
        return ConfextError("the stage ended before it was used", hint="reload again")

    def _replaced(self, what: str = "was executed") -> ConfextError:
        return ConfextError(
            f"another program {what} in place of the stage's loader, since {LOADER} led to it",
            hint="let only root change where this path leads in the service's root directory, or restart the service",
        )


def _send_signal(pidfd: int, name: str) -> None:
    import signal  # Loaded late: nothing waits for the end of a stage.

    # The process may have been killed. Its mounts stay for as long as the descriptor of its namespace is open.
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.Signals[name])


def _read(name: str, directory: int) -> str:
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    with open(file, encoding="utf-8", errors="surrogateescape", newline="\n") as text:
        return text.read()


def _is_up(pipe: int) -> bool:
    """Wait until something was written to the pipe, or all writers are gone; return whether something was written."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return any(event & select.POLLIN for _, event in poll.poll((TIMEOUT_SEC + 10) * 1000))
