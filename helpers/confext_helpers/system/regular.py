# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open regular files, refusing anything else in their place.

Opening a FIFO blocks until somebody opens it for writing, and reading from a device can have any effect. Other people
create the files beside an image, in a `.v/` directory and in a directory layer, so check their type before reading.
"""

from __future__ import annotations

import errno
import os
import stat

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def open_file(path: str, *, block: bool = False) -> int:
    """Open a regular file for reading, and return its descriptor.

    Args:
        path: the file to open.
        block: whether to accept a block device as well.

    Raises:
        OSError: `path` cannot be opened, or is not a regular file.
    """
    fd = os.open(path, _FLAGS)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) and not (block and stat.S_ISBLK(mode)):
        os.close(fd)
        raise OSError(errno.EINVAL, "Not a regular file", path)
    return fd


def read(path: str, most: int, *, block: bool = False) -> bytes:
    """Read at most `most` bytes of a regular file; see open_file().

    Raises:
        OSError: `path` cannot be read, or is not a regular file.
    """
    with open(open_file(path, block=block), "rb") as file:
        return file.read(most)
