# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sizes in the superblocks of squashfs and erofs. The hook needs these, too, and must import as little as possible.

The superblocks are defined in the kernel's fs/squashfs/squashfs_fs.h and fs/erofs/erofs_fs.h.
"""

from __future__ import annotations

EROFS_OFFSET = 1024
_SQUASHFS_MAGIC = b"hsqs"
_EROFS_MAGIC = b"\xe2\xe1\xf5\xe0"


def number(head: bytes, offset: int, size: int) -> int:
    """The little-endian number at `offset`, 0 if `head` is too short."""
    field = head[offset : offset + size]
    return int.from_bytes(field, "little") if len(field) == size else 0


def squashfs_size(head: bytes) -> int | None:
    """The size in bytes of the squashfs that begins with `head`; None if it is none, 0 if `head` is too short."""
    return number(head, 40, 8) if head.startswith(_SQUASHFS_MAGIC) else None


def erofs_size(head: bytes) -> int | None:
    """The size in bytes of the erofs that begins with `head`; None if it is none, 0 if `head` is too short."""
    if not head.startswith(_EROFS_MAGIC, EROFS_OFFSET):
        return None
    return number(head, EROFS_OFFSET + 36, 4) << min(number(head, EROFS_OFFSET + 12, 1), 16)
