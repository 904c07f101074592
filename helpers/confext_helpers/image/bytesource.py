# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read from an image: through a single descriptor, and never outside the bounds of a part.

The image is opened once, and all reads use that descriptor. Otherwise, if the image were replaced by a rename, one
image could be checked and another one shown. Only pread(2) is used, so readers share no file position.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from confext_helpers.errors import ConfextError
from confext_helpers.system.descriptors import Descriptors

READ_MAX = 1 << 20


class ShortReadError(Exception):
    """The requested bytes are out of bounds or cannot be read."""


class Source(NamedTuple):
    """A run of bytes in an open file.

    Attributes:
        fd: descriptor of the file.
        offset: the start of the run in the file, in bytes.
        size: the length of the run, in bytes.
    """

    fd: int
    offset: int
    size: int

    def part(self, offset: int, size: int) -> Source:
        """The run of `size` bytes at `offset` within this run, truncated at the end of this run."""
        offset = max(0, min(offset, self.size))
        return Source(self.fd, self.offset + offset, max(0, min(size, self.size - offset)))

    def read(self, offset: int, size: int) -> bytes:
        """Read exactly `size` bytes at `offset`; both in bytes, `size` at most READ_MAX.

        Raises:
            ShortReadError: the bytes are out of bounds or cannot be read.
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
        """Like read(), but truncated at the end of the run; empty if the bytes cannot be read."""
        try:
            return self.read(offset, max(0, min(size, self.size - offset)))
        except ShortReadError:
            return b""


def open_source(path: str) -> Source:
    """Open an image.

    Args:
        path: a regular file or a block device.

    Raises:
        ConfextError: `path` is neither.
        OSError: `path` cannot be opened.
    """
    # Without O_NONBLOCK, opening a FIFO in the place of an image would block forever.
    with Descriptors() as opened:
        fd = opened.add(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISBLK(status.st_mode):
            what = "a directory, which cannot be signed" if stat.S_ISDIR(status.st_mode) else "no file or block device"
            raise ConfextError(f"this is {what}", path=path, hint="name an image")
        size = status.st_size if stat.S_ISREG(status.st_mode) else os.lseek(fd, 0, os.SEEK_END)
        opened.pop_all()
    return Source(fd, 0, size)
