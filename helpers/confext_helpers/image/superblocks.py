# SPDX-License-Identifier: LGPL-2.1-or-later
"""How large the file systems say they are that the hook asks, too: it loads nothing else for it.

The superblocks are those in the kernel's fs/squashfs/squashfs_fs.h and fs/erofs/erofs_fs.h.
"""

from __future__ import annotations

EROFS_OFFSET = 1024
_SQUASHFS_MAGIC = b"hsqs"
_EROFS_MAGIC = b"\xe2\xe1\xf5\xe0"


def number(head: bytes, offset: int, size: int) -> int:
    """The number, lowest byte first, at `offset`; 0 if it is not all there."""
    field = head[offset : offset + size]
    return int.from_bytes(field, "little") if len(field) == size else 0


def squashfs_size(head: bytes) -> int | None:
    """The size of a squashfs in bytes, by the first bytes of it; None if it is none, 0 if that is cut off."""
    return number(head, 40, 8) if head.startswith(_SQUASHFS_MAGIC) else None


def erofs_size(head: bytes) -> int | None:
    """The size of an erofs in bytes, by the first bytes of it; None if it is none, 0 if that is cut off."""
    if not head.startswith(_EROFS_MAGIC, EROFS_OFFSET):
        return None
    return number(head, EROFS_OFFSET + 36, 4) << min(number(head, EROFS_OFFSET + 12, 1), 16)
