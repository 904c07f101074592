# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a file of the system without waiting for a writer. The hook needs this without the lookout."""

from __future__ import annotations

import posix as os

ACL_ATTRIBUTE = b"system.posix_acl_access"

_CHUNK = 1 << 16

# Longer than any unit file.
_FILE_MAX = 1 << 24


def read_file(path: bytes) -> bytes:
    """Return the contents of the file at `path`; raises OSError.

    A device is a mask and reads as empty, as in null_or_empty() of systemd. A FIFO must not block the boot: with
    O_NONBLOCK, a FIFO without a writer reads as empty. `path` must have all symlinks resolved; O_NOFOLLOW makes sure.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW)
    try:
        if os.fstat(fd).st_mode & 0o170000 in (0o020000, 0o060000):
            return b""
        chunks = [os.read(fd, _CHUNK)]
        while len(chunks[-1]) == _CHUNK and len(chunks) < _FILE_MAX // _CHUNK:
            chunks.append(os.read(fd, _CHUNK))
        return b"".join(chunks)
    finally:
        os.close(fd)
