# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a reload cannot bring, though a restart could; said before anything is begun."""

from __future__ import annotations

import errno
import os
import stat

from confext_helpers.errors import ConfextError
from confext_helpers.image.naming import resolve
from confext_helpers.paths import ETC
from confext_helpers.service.notes import LastSwap
from confext_helpers.service.processes import Process
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.stage import etcmount
from confext_helpers.system import patience


def check(properties: ServiceProperties, processes: list[Process], last: LastSwap | None) -> None:
    """Refuse the reload of a service that cannot be given what it would have after a restart.

    Args:
        properties: of it.
        processes: of it.
        last: what is noted about the last swap, if that was one of these processes.

    Raises:
        ConfextError: its `/etc` is a symbolic link, it could exchange that for something else meanwhile, or a block
            device was written to while it is mounted.
    """
    etcmount.check(properties, processes)
    if any(_is_link(f"/proc/{process.pid}/root{ETC}") for process in processes):
        problem = "it cannot be re-stacked: in its root directory /etc is a symbolic link"
        raise ConfextError(problem, hint="restart the service instead, or have a directory there")
    since = last.usec if last is not None else properties.start_usec
    for layer in properties.layers:
        if not patience.is_silent(layer) and was_written_to(resolve(layer), since * 1000):
            raise ConfextError(
                "the block device was written to while it is mounted, and a reload cannot mount it anew",
                path=layer,
                hint="restart the service instead",
            )


def _is_link(path: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False


def was_written_to(path: str, since: int) -> bool:
    """Whether a block device that is mounted may have other data than at `since` (ns since the epoch).

    As long as it is mounted anywhere, the kernel keeps what it has read of the file system. Writing through the node at
    `path` sets its modification time; but so does udev, and then it counts whether anything was ever written.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISBLK(status.st_mode) or status.st_mtime_ns <= since or not _has_writes(path, status.st_rdev):
            return False
        # Nobody can have it for himself as long as it is mounted: open(2), O_EXCL.
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _has_writes(path: str, device: int) -> bool:
    """Whether anything was written to a block device since it came: the kernel's block/stat.rst."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    try:
        with open(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat", encoding="ascii") as file:
            return file.read().split()[6] != "0"
    except (OSError, IndexError):
        return True
