# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading from an image: one descriptor from beginning to end, and nothing outside of the bounds of a part.

The descriptor is opened once and used for everything, so that a rename in the meantime cannot make one image be
checked and another one be shown. Only pread(2) is used, which has no position that two readers could share.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from confext_helpers.errors import ConfextError

READ_MAX = 1 << 20


class ShortReadError(Exception):
    """There is less than what was asked for, or it cannot be read."""


class Source(NamedTuple):
    """A run of bytes in an open file.

    Attributes:
        fd: descriptor of the file.
        offset: where the run begins, in bytes.
        size: its length in bytes.
    """

    fd: int
    offset: int
    size: int

    def part(self, offset: int, size: int) -> Source:
        """The run of `size` bytes at `offset` of this one, cut off where this one ends."""
        offset = max(0, min(offset, self.size))
        return Source(self.fd, self.offset + offset, max(0, min(size, self.size - offset)))

    def read(self, offset: int, size: int) -> bytes:
        """Read exactly `size` bytes at `offset`; both in bytes, `size` at most READ_MAX.

        Raises:
            ShortReadError: they are not there.
        """
        if offset < 0 or size < 0 or size > READ_MAX or offset + size > self.size:
            raise ShortReadError(f"{size} bytes at {offset} are outside of {self.size} bytes")
        pieces = []
        position, missing = self.offset + offset, size
        while missing:
            try:
                piece = os.pread(self.fd, missing, position)
            except OSError as error:
                raise ShortReadError(f"{size} bytes at {offset}: {error.strerror}") from error
            if not piece:
                raise ShortReadError(f"{size} bytes at {offset}: the file has become shorter")
            pieces.append(piece)
            position, missing = position + len(piece), missing - len(piece)
        return b"".join(pieces)

    def head(self, offset: int, size: int) -> bytes:
        """As read(), but as much as there is; empty if that cannot be read."""
        try:
            return self.read(offset, max(0, min(size, self.size - offset)))
        except ShortReadError:
            return b""


def open_source(path: str) -> Source:
    """Open an image.

    Args:
        path: a regular file or a block device.

    Raises:
        ConfextError: it is neither.
        OSError: it cannot be opened.
    """
    # Without O_NONBLOCK a FIFO in the place of an image would stop the program for good.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            return Source(fd, 0, status.st_size)
        if stat.S_ISBLK(status.st_mode):
            return Source(fd, 0, os.lseek(fd, 0, os.SEEK_END))
        what = "a directory, in which nothing is signed" if stat.S_ISDIR(status.st_mode) else "no file"
        raise ConfextError(f"this is {what}", path=path, hint="name an image")
    except BaseException:
        os.close(fd)
        raise
