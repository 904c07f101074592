# SPDX-License-Identifier: LGPL-2.1-or-later
"""Switch between mount namespaces: setns(2)."""

from __future__ import annotations

import os

from confext_helpers.system import syscalls
from confext_helpers.system.mountinfo import Mount, read_mountinfo
from confext_helpers.system.syscalls import CLONE_NEWNS


class Namespaces:
    """Switches this single-threaded process between mount namespaces, and back to its own at exit."""

    def __init__(self) -> None:
        self._home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        # Another namespace may have no /proc, or a different one.
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Namespaces:
        return self

    def __exit__(self, *exc: object) -> None:
        self.leave()
        os.close(self._home)
        os.close(self._proc)

    def leave(self) -> None:
        """Switch back to the mount namespace in which this object was made."""
        syscalls.setns(self._home, CLONE_NEWNS)

    def enter(self, namespace: int) -> None:
        """Enter the mount namespace `namespace` (a descriptor)."""
        syscalls.setns(namespace, CLONE_NEWNS)

    def mount_of(self, fd: int) -> int:
        """The ID of the mount that the file of the descriptor `fd` is on: proc_pid_fdinfo(5)."""
        number = os.open(f"self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        with open(number, encoding="ascii") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))

    def mounts(self) -> list[Mount]:
        """The mounts of the mount namespace that this process is in."""
        return read_mountinfo(os.open("self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc))
