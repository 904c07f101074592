# SPDX-License-Identifier: LGPL-2.1-or-later
"""Detect the file system in a partition, by its superblock.

libblkid detects many more. systemd mounts no file system from an image that is not known here. Unknown data are never
considered harmless: callers report a finding if no file system is detected.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import NamedTuple

from confext_helpers.image import superblocks
from confext_helpers.image.bytesource import Source

_HEAD = 4096
_BTRFS_OFFSET = 65536
_EXT3_INCOMPATIBLE = 0x16
_EXT3_READ_ONLY = 0x07


class Kind(StrEnum):
    """Types of superblocks, in libblkid's spelling."""

    BTRFS = "btrfs"
    EROFS = "erofs"
    EXT2 = "ext2"
    EXT4 = "ext4"
    F2FS = "f2fs"
    LUKS = "crypto_LUKS"
    OTHER = "something else"
    SQUASHFS = "squashfs"
    SWAP = "swap"
    VFAT = "vfat"
    VERITY = "DM_verity_hash"
    XFS = "xfs"


READ_ONLY = frozenset((Kind.EROFS, Kind.SQUASHFS))

# The file systems that systemd mounts from an image: fstype_is_ok() in dissect-image.c.
MOUNTABLE = frozenset((Kind.BTRFS, Kind.EROFS, Kind.EXT4, Kind.F2FS, Kind.SQUASHFS, Kind.VFAT, Kind.XFS))

_SWAPS = (b"SWAPSPACE2", b"SWAP-SPACE", b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001")
_PAGES = (4096, 8192, 16384, 32768, 65536)
# Offsets and magics of other superblocks that libblkid detects, if the magic is too long to occur by chance. libblkid's
# choice between two superblocks depends on its version and on the other contents, so none of these may be present
# beside a file system.
_OTHERS = (
    (0, b"-rom1fs-"), (0, b"\x45\x3d\xcd\x28"), (0, b"\x28\xcd\x3d\x45"), (0, b"SFOZ"), (3, b"NTFS    "),
    (3, b"EXFAT   "), (3, b"-FVE-FS-"), (3, b"MSWIN4."), (32, b"NXSB"), (32, b"ORCLDISK"), (32, b"1SFB"),
    (512, b"1SFB"),
    (536, b"LVM2 001"), (24, b"LVM2 001"), (1024, b"OCFSV2"), (2048, b"OCFSV2"), (4096, b"OCFSV2"), (8192, b"OCFSV2"),
    (4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"), (8192, b"\x49\xe8\x95\xf9"),
    (9564, b"\x54\x19\x01\x00"), (66908, b"\x54\x19\x01\x00"), (8192 + 52, b"ReIsErFs"), (65536 + 52, b"ReIsErFs"),
    (65536 + 52, b"ReIsEr2Fs"), (65536 + 52, b"ReIsEr3Fs"), (65536, b"ReIsEr4"), (32768, b"JFS1"), (32769, b"CD001"),
    (32769, b"NSR02"), (32769, b"NSR03"), (32769, b"BEA01"), (65536, b"\x01\x16\x19\x70"),
)  # fmt: skip


class FileSystem(NamedTuple):
    """A detected file system.

    Attributes:
        kind: its type.
        size: its size according to the superblock, in bytes; 0 if unknown.
    """

    kind: Kind
    size: int


def probe(source: Source) -> list[FileSystem]:
    """All file systems whose superblocks are found in `source`; more than one is what libblkid calls ambivalent."""
    head = source.head(0, _HEAD)
    found = []
    squashfs_size, erofs_size = superblocks.squashfs_size(head), superblocks.erofs_size(head)
    if squashfs_size is not None and len(head) >= 96:
        found.append(FileSystem(Kind.SQUASHFS, squashfs_size))
    if erofs_size is not None:
        found.append(FileSystem(Kind.EROFS, erofs_size))
    if _at(head, 1024 + 56, b"\x53\xef"):
        blocks = _number("<I", head, 1028)
        incompatible = _number("<I", head, 1024 + 96)
        if incompatible & 0x80:  # INCOMPAT_64BIT
            blocks |= _number("<I", head, 1024 + 0x150) << 32
        # Features unknown to ext3 make it an ext4, as in libblkid; systemd mounts neither ext2 nor ext3.
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
    if any(source.head(page - 10, 10).startswith(_SWAPS) for page in _PAGES):
        found.append(FileSystem(Kind.SWAP, 0))
    btrfs = source.head(_BTRFS_OFFSET, 128)
    if btrfs[64:72] == b"_BHRfS_M":
        found.append(FileSystem(Kind.BTRFS, _number("<Q", btrfs, 112)))
    if found and any(source.head(offset, len(magic)) == magic for offset, magic in _OTHERS):
        found.append(FileSystem(Kind.OTHER, 0))
    return found


def _at(head: bytes, offset: int, magic: bytes) -> bool:
    return head[offset : offset + len(magic)] == magic


def _number(form: str, head: bytes, offset: int) -> int:
    return int(struct.unpack_from(form, head, offset)[0]) if len(head) >= offset + struct.calcsize(form) else 0
