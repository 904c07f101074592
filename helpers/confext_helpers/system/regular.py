# SPDX-License-Identifier: LGPL-2.1-or-later
"""Regular files, and nothing else that may lie in the place of one.

Whoever opens a FIFO waits for somebody who writes to it, and reading from a device can do anything. What lies beside an
image, in a `.v/` directory or in a directory layer is not of our making; it is looked at before it is read.
"""

from __future__ import annotations

import errno
import os
import stat

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def open_file(path: str, *, block: bool = False) -> int:
    """Open a regular file for reading, and return its descriptor.

    Args:
        path: of it.
        block: whether a block device will do as well.

    Raises:
        OSError: it cannot be opened, or is none.
    """
    fd = os.open(path, _FLAGS)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) and not (block and stat.S_ISBLK(mode)):
        os.close(fd)
        raise OSError(errno.EINVAL, "Not a regular file", path)
    return fd


def read(path: str, most: int, *, block: bool = False) -> bytes:
    """Read a regular file, but no more than `most` bytes of it; see open_file().

    Raises:
        OSError: it cannot be read, or is none.
    """
    with open(open_file(path, block=block), "rb") as file:
        return file.read(most)
