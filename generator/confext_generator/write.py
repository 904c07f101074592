# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writing drop-ins: the only step that touches the disk."""

from __future__ import annotations

import posix as os

from confext_generator.constants import DROPIN

# Hidden, so that no reader of drop-ins ever takes it for one.
_TEMPORARY = b"." + DROPIN + b".tmp"


def dropin_path(directory: bytes, unit: bytes) -> bytes:
    """Return where the drop-in of `unit` goes below the generator's output `directory`."""
    return directory + b"/" + unit + b".d/" + DROPIN


def write_dropin(directory: bytes, unit: bytes, text: bytes) -> None:
    """Write `text` as the drop-in of `unit`, whole or not at all; raises OSError."""
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
        return  # Other generators have drop-ins for the unit too.
