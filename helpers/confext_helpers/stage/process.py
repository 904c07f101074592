# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process of a stage: who it has to be before a namespace is taken from it, and how it ends.

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

# Where the stage has the host's loader.
LOADER = f"{RUN_DIRECTORY}/loader"
TIMEOUT_SEC = 90

# The program that the loader is told to run. It says the name twice, and no file can have it (path_resolution(7)).
PAGE = os.sysconf("SC_PAGE_SIZE")
PROGRAM = "/" * (PAGE + 1)
# What is left to say for systemd if it could not execute the loader, or did, and it has ended.
_FAILED_LATER = "Failed with result 'exit-code'"
# As much of what it says as is looked at. It has to be less than what the pipe holds, or there would be space again.
_HEAD = 64


@functools.cache
def host_loader() -> str:
    """The path of the host's dynamic loader: that of this very process."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            path = "/" + line.rstrip("\n").partition("/")[2]
            if path.rpartition("/")[2].startswith(("ld-linux", "ld64", "ld.so")):
                return path
    raise ConfextError("the host has no dynamic loader of the GNU C library")


class Stage(NamedTuple):
    """A stage that is up, to be closed: at the end of a with statement, or by close().

    Attributes:
        name: its unit name.
        namespace: descriptor of its mount namespace.
        pidfd: of its process.
        pipe: what that waits on.
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
        """Have its process end, and let go; the rest of the stage goes by itself."""
        _send_signal(self.pidfd, "SIGTERM")
        # Root may have stopped it, even where it has no other power over it.
        _send_signal(self.pidfd, "SIGCONT")
        for fd in (self.pipe, self.pidfd, self.namespace):
            os.close(fd)


class Pending(NamedTuple):
    """A stage that is being started; wait() has to be called.

    Attributes:
        name: its unit name.
        properties: those of the service that it is a stage of.
        uid: of its process.
        pipe: what its process will wait on.
    """

    name: str
    properties: ServiceProperties
    uid: int
    pipe: int

    def wait(self, manager: ServiceManager) -> Stage:
        """Wait until the stage's `/etc` is there.

        Raises:
            ConfextError: it could not be started; the reason is what systemd logged about it.
        """
        with Descriptors() as opened:
            opened.add(self.pipe)
            if not _is_up(self.pipe):
                from confext_helpers.stage import failure  # It reads the journal, which only this one needs.

                error = failure.of_stage(manager, self.name, self.properties)
                # systemd has made the mounts, and has nothing to say about what came after them.
                raise self._replaced("was") if _FAILED_LATER in error.problem else error
            head = os.read(self.pipe, _HEAD).decode(errors="replace")
            said_the_right_words = PROGRAM.startswith(head) or head.startswith(LOADER)
            stage = self._take_hold(manager.main_pid(self.name), said_the_right_words)
            opened.pop_all()
        return stage

    def _take_hold(self, pid: int, said_the_right_words: bool) -> Stage:
        """Take hold of the stage's process and its namespace, if it is the loader."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            # What has ended already is not the loader, which waits for this hook.
            raise self._ended() if said_the_right_words else self._replaced() from None
        with Descriptors() as opened:
            opened.add(pidfd)
            namespace = None
            try:
                with Descriptors() as looked_at:
                    process = looked_at.add(os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                    if said_the_right_words and self._is_loader(process):
                        namespace = opened.add(os.open("ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process))
                # As long as it has not ended, no other process can have its PID.
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
        """Whether a process is the host's loader, in the control group of the stage, and its user's.

        Args:
            process: descriptor of its directory in /proc.

        Raises:
            OSError: it has ended.
        """
        # Opened, it is the file that is executed, wherever its path may lead by now.
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
            f"something else {what} in place of what the stage runs, since {LOADER} led to it",
            hint="let nobody change where that leads in the service's root directory, or restart it instead",
        )


def _send_signal(pidfd: int, name: str) -> None:
    import signal  # By now all that was urgent is done.

    # It may have been killed. Its mounts live on for as long as the descriptor of its namespace does.
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.Signals[name])


def _read(name: str, directory: int) -> str:
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    with open(file, encoding="utf-8", errors="surrogateescape", newline="\n") as text:
        return text.read()


def _is_up(pipe: int) -> bool:
    """Wait until something was written to the pipe, or nobody can do so any more; return whether it was."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return any(event & select.POLLIN for _, event in poll.poll((TIMEOUT_SEC + 10) * 1000))
