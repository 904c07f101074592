# SPDX-License-Identifier: LGPL-2.1-or-later
"""Refuse, before anything begins, what only a restart can bring."""

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
    """Refuse the reload of a service that cannot get the `/etc` which a restart would give it.

    Args:
        last: the note of the last swap, if these processes are the same as then.

    Raises:
        ConfextError: the service's `/etc` is a symbolic link, the service could rename directories during the swap, or
            a block device was written to while it is mounted.
    """
    etcmount.check(properties, processes)
    if any(_is_link(f"/proc/{process.pid}/root{ETC}") for process in processes):
        problem = "it cannot be re-stacked: in its root directory /etc is a symbolic link"
        raise ConfextError(problem, hint="make /etc a directory there, or restart the service instead")
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
    """Whether a mounted block device may have other data than at `since` (ns since the epoch).

    As long as the device is mounted anywhere, the kernel keeps what it has read of the file system. A write through the
    node at `path` sets the node's modification time. udev sets it, too, so the device's count of writes has to agree.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISBLK(status.st_mode) or status.st_mtime_ns <= since or not _has_writes(path, status.st_rdev):
            return False
        # O_EXCL fails with EBUSY as long as the device is mounted: open(2).
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _has_writes(path: str, device: int) -> bool:
    """Whether anything was ever written to a block device since it appeared: the kernel's block/stat.rst."""
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
