# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images whose partition tables differ: partitions that are added, changed, moved, and fields that are odd.

What is drawn depends on nothing but the number. Most of them are images that somebody could want to use; those that
are damaged are the business of mutations.py.
"""

from __future__ import annotations

import random
import struct
import uuid
from typing import NamedTuple

from fuzz import ddi
from fuzz.ddi import Entry, Identity

POLICIES = (
    "root=verity+signed+encrypted+unprotected+absent", "root=signed", "root=verity+signed",
    "root=unprotected", "root=signed:home=unprotected+absent", "root=signed:=unused+absent", "=open", "*",
    "root=signed:root-verity-sig=unprotected+read-only-on", "root=signed+read-only-on", "root=signed+growfs-off",
    "root=verity:root-verity-sig=unused+absent",
)  # fmt: skip
_TYPES = (
    ddi.ROOT, ddi.ROOT_VERITY, ddi.ROOT_VERITY_SIG, ddi.HOME,
    "8484680c-9521-48c6-9c11-b0720656f69e",  # usr of x86-64
    "77ff5f63-e7b6-4633-acf4-1565b864c0e6",  # its hash tree
    "44479540-f297-41b2-9af7-d131d5f0458a",  # root of x86
    "d13c5d3b-b5d1-422a-b29f-9454fdc89d76",  # its hash tree
    "b921b045-1df0-41c3-af44-4c6f280d3fae",  # root of arm64
    "3b8f8425-20e0-4f3b-907f-1a25a76f98e8",  # srv
    "4d21b016-b534-45c2-a9fb-5c16e091fd2d",  # var
    "7ec6f557-3bc5-4aca-b293-16ef5df639d1",  # tmp
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f",  # swap
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",  # ESP
    "bc13c2ff-59e6-4262-a352-b275fd6f7172",  # XBOOTLDR
    "0fc63daf-8483-4772-8e79-3d69d8477de4",  # of no meaning
    "00000000-0000-0000-0000-000000000001",
)  # fmt: skip
_LABELS = ("x", "", "_empty", "data", "data_1", "zzz", "ä" * 36, "10-site_2", "a" * 36)
_FLAGS = (0, 1, 2, 4, 1 << 59, 1 << 60, 1 << 63, 1 << 60 | 1 << 59, 1 << 47, 1 << 62)


class Drawn(NamedTuple):
    """One image.

    Attributes:
        raw: all of it.
        policy: what it is held to.
    """

    raw: bytes
    policy: str


def draw(number: int, who: Identity) -> Drawn:
    """The image of this number, signed by `who` or not at all."""
    source = random.Random(number)
    signer = who if source.random() < 0.8 else None
    sector = source.choice((512, 512, 512, 4096))
    more = [
        Entry(
            source.choice(_TYPES), str(uuid.UUID(int=source.getrandbits(128))), source.choice(_LABELS),
            source.choice((bytes(4096), ddi.squashfs(4096), bytes(8192))), source.choice(_FLAGS),
        )
        for _ in range(source.choice((0, 0, 1, 1, 2)))
    ]  # fmt: skip
    made = ddi.image(signer, sector=sector, verity=signer is not None or source.random() < 0.5, more=more)
    image = bytearray(made.raw)
    if source.random() < 0.7:
        _odd(source, image, sector)
    if source.random() < 0.2:
        image += bytes(source.choice((512, 4096, 1)))
    return Drawn(ddi.seal(bytes(image), sector=sector), source.choice(POLICIES))


def _odd(source: random.Random, image: bytearray, sector: int) -> None:
    """Change a field of the table, in both of its copies alike."""
    (count,) = struct.unpack_from("<Q", image, sector + 32)
    backup = count * sector
    (place,) = struct.unpack_from("<Q", image, backup + 72)
    entry = source.randrange(4) * 128

    def both(offset: int, content: bytes) -> None:
        for start in (2 * sector, place * sector):
            image[start + entry + offset : start + entry + offset + len(content)] = content

    match source.randrange(12):
        case 0:
            both(0, uuid.UUID(source.choice(_TYPES)).bytes_le)
        case 1:
            both(16, source.choice((bytes(16), source.randbytes(16))))
        case 2:
            both(48, struct.pack("<Q", source.choice(_FLAGS)))
        case 3:
            both(56, source.choice(_LABELS).encode("utf-16-le").ljust(72, b"\0"))
        case 4:
            both(56, source.randbytes(72))
        case 5:
            both(32, struct.pack("<QQ", *sorted(source.choices(range(2, count + 2), k=2))))
        case 6:
            both(40, struct.pack("<Q", source.randrange(count + 2)))
        case 7:
            header = source.choice((sector, backup))
            offset = source.choice((8, 12, 20, 24, 32, 40, 48, 72, 80, 84))
            image[header + offset] ^= 1 << source.randrange(8)
        case 8:
            image[446 + source.randrange(66)] ^= 1 << source.randrange(8)
        case 9:
            for header in (sector, backup):
                image[header + 56 : header + 72] = source.choice((bytes(16), source.randbytes(16)))
        case 10:
            image[source.randrange(440)] = 0xEB
        case 11:
            header = source.choice((sector, backup))
            image[header + 92 : header + sector] = source.randbytes(sector - 92)
