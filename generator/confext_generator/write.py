# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write drop-ins to disk. No other module writes anything."""

from __future__ import annotations

import posix as os

from confext_generator.constants import DROPIN

# A hidden name, so that no reader takes the temporary file for a drop-in.
_TEMPORARY = b"." + DROPIN + b".tmp"


def dropin_path(directory: bytes, unit: bytes) -> bytes:
    """Return the path of the drop-in of `unit` below the generator's output `directory`."""
    return directory + b"/" + unit + b".d/" + DROPIN


def write_dropin(directory: bytes, unit: bytes, text: bytes) -> None:
    """Write `text` as the drop-in of `unit`, completely or not at all; raises OSError."""
    path = dropin_path(directory, unit)
    parent = path[: -len(DROPIN)]
    _make_directory(parent)
    temporary = parent + _TEMPORARY
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    try:
        rest = memoryview(text)
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    os.rename(temporary, path)


def _make_directory(path: bytes) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        return  # Another generator has written drop-ins for the unit, too.
