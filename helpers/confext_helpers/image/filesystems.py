"""Which file system is in a partition, told by its superblock.

libblkid knows many more. A file system that is not in this table is none that systemd mounts from an image, and
nothing that this module does not know is ever taken for harmless: it is a finding that there is none.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import NamedTuple

from confext_helpers.image.bytesource import Source

_HEAD = 4096
_BTRFS_OFFSET = 65536
_EXT3_INCOMPATIBLE = 0x16
_EXT3_READ_ONLY = 0x07


class Kind(StrEnum):
    """What a superblock can be that of, in libblkid's words."""

    BTRFS = "btrfs"
    EROFS = "erofs"
    EXT2 = "ext2"
    EXT4 = "ext4"
    F2FS = "f2fs"
    LUKS = "crypto_LUKS"
    SQUASHFS = "squashfs"
    SWAP = "swap"
    VFAT = "vfat"
    VERITY = "DM_verity_hash"
    XFS = "xfs"


READ_ONLY = frozenset((Kind.EROFS, Kind.SQUASHFS))

# What systemd mounts from an image: fstype_is_ok() in dissect-image.c.
MOUNTABLE = frozenset((Kind.BTRFS, Kind.EROFS, Kind.EXT4, Kind.F2FS, Kind.SQUASHFS, Kind.VFAT, Kind.XFS))


class FileSystem(NamedTuple):
    """A file system.

    Attributes:
        kind: its type.
        size: what its superblock says it takes, in bytes; 0 if that is not known.
    """

    kind: Kind
    size: int


def probe(source: Source) -> list[FileSystem]:
    """All file systems that a run of bytes could be taken for. More than one is what libblkid calls ambiguous."""
    head = source.head(0, _HEAD)
    found = []
    if head[:4] == b"hsqs" and len(head) >= 96:
        found.append(FileSystem(Kind.SQUASHFS, _number("<Q", head, 40)))
    if _at(head, 1024, b"\xe2\xe1\xf5\xe0"):
        found.append(FileSystem(Kind.EROFS, _number("<I", head, 1060) << min(_number("<B", head, 1036), 16)))
    if _at(head, 1024 + 56, b"\x53\xef"):
        blocks = _number("<I", head, 1028)
        incompatible = _number("<I", head, 1024 + 96)
        if incompatible & 0x80:  # INCOMPAT_64BIT
            blocks |= _number("<I", head, 1024 + 0x150) << 32
        # What ext3 does not know makes it an ext4, as in libblkid; systemd does not mount its forerunners.
        modern = incompatible & ~_EXT3_INCOMPATIBLE or _number("<I", head, 1024 + 100) & ~_EXT3_READ_ONLY
        size = blocks << min(10 + _number("<I", head, 1024 + 24), 16)
        found.append(FileSystem(Kind.EXT4 if modern else Kind.EXT2, size))
    if head[:4] == b"XFSB":
        found.append(FileSystem(Kind.XFS, _number(">Q", head, 8) * min(_number(">I", head, 4), 65536)))
    if _at(head, 1024, b"\x10\x20\xf5\xf2"):
        found.append(FileSystem(Kind.F2FS, 0))
    if head[:6] == b"LUKS\xba\xbe" or head[:6] == b"SKUL\xba\xbe":
        found.append(FileSystem(Kind.LUKS, 0))
    if head[:8] == b"verity\0\0":
        found.append(FileSystem(Kind.VERITY, 0))
    if _at(head, 510, b"\x55\xaa") and (_at(head, 54, b"FAT") or _at(head, 82, b"FAT32")):
        found.append(FileSystem(Kind.VFAT, 0))
    if _at(head, 4086, b"SWAPSPACE2"):
        found.append(FileSystem(Kind.SWAP, 0))
    btrfs = source.head(_BTRFS_OFFSET, 128)
    if btrfs[64:72] == b"_BHRfS_M":
        found.append(FileSystem(Kind.BTRFS, _number("<Q", btrfs, 112)))
    return found


def _at(head: bytes, offset: int, magic: bytes) -> bool:
    return head[offset : offset + len(magic)] == magic


def _number(form: str, head: bytes, offset: int) -> int:
    return int(struct.unpack_from(form, head, offset)[0]) if len(head) >= offset + struct.calcsize(form) else 0
