# SPDX-License-Identifier: LGPL-2.1-or-later
"""Partition tables: what is read from a good one, and that nothing of a bad one goes unnoticed."""

from __future__ import annotations

import os
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confext_helpers.image import filesystems, gpt, partitiontypes
from confext_helpers.image.bytesource import ShortReadError
from confext_helpers.image.filesystems import Kind
from confext_helpers.image.findings import Code
from confext_helpers.image.partitiontypes import Designator
from fuzz import ddi
from unit.image.sources import source

GOOD = ddi.image(ddi.identity("tester"))


def codes(raw: bytes) -> set[Code]:
    with source(raw) as opened:
        return {finding.code for finding in gpt.read(opened)[1]}


def patched(raw: bytes, offset: int, content: bytes, *, sealed: bool = True) -> bytes:
    changed = raw[:offset] + content + raw[offset + len(content) :]
    return ddi.seal(changed) if sealed else changed


@pytest.mark.parametrize("sector", gpt.SECTOR_SIZES)
def test_good(sector: int) -> None:
    image = ddi.image(ddi.identity("tester"), sector=sector)
    with source(image.raw) as opened:
        table, findings = gpt.read(opened)
        assert findings == ()
        assert table is not None
        assert table.sector_size == sector
        assert [(p.number, p.type and p.type.name, p.label, p.offset) for p in table.partitions] == [
            (1, "root-x86-64", "data", image.places["data"][0]),
            (2, "root-x86-64-verity", "tree", image.places["tree"][0]),
            (3, "root-x86-64-verity-sig", "signature", image.places["signature"][0]),
        ]
        assert opened.part(table.partitions[0].offset, table.partitions[0].size).read(0, 4) == b"hsqs"


def test_no_table() -> None:
    assert codes(ddi.squashfs()) == set()
    assert codes(b"") == set()
    assert codes(bytes(100)) == set()


def test_every_byte_of_the_tables_counts() -> None:
    """Whichever byte of headers and entries changes, without new checksums, there is a finding."""
    for name in ("header", "entries", "backup header", "backup entries"):
        start, size = GOOD.places[name]
        for offset in range(start, start + size):
            changed = patched(GOOD.raw, offset, bytes([GOOD.raw[offset] ^ 1]), sealed=False)
            assert codes(changed), f"byte {offset - start} of the {name}"


HEADER = GOOD.places["header"][0]
ENTRY = GOOD.places["entries"][0]
BACKUP_HEADER = GOOD.places["backup header"][0]
BACKUP_ENTRY = GOOD.places["backup entries"][0]


@pytest.mark.parametrize(
    ("offset", "content", "code"),
    [
        (HEADER + 8, b"\0\0\2\0", Code.GPT_HEADER),
        (HEADER + 12, struct.pack("<I", 513), Code.GPT_HEADER),
        (HEADER + 20, b"\1", Code.GPT_HEADER),
        (HEADER + 24, struct.pack("<Q", 2), Code.GPT_HEADER),
        (HEADER + 32, struct.pack("<Q", 1 << 50), Code.SIZE),
        (HEADER + 40, struct.pack("<Q", 3), Code.GPT_HEADER),
        (HEADER + 48, struct.pack("<Q", 1 << 50), Code.GPT_HEADER),
        (HEADER + 56, b"\xff", Code.GPT_BACKUP),
        (HEADER + 72, struct.pack("<Q", 1 << 62), Code.GPT_HEADER),
        (HEADER + 80, struct.pack("<I", 0xFFFFFFFF), Code.GPT_HEADER),
        (HEADER + 84, struct.pack("<I", 256), Code.GPT_HEADER),
        (ENTRY + 32, struct.pack("<Q", 1), Code.GPT_ENTRY),
        (ENTRY + 40, struct.pack("<Q", 1 << 55), Code.GPT_ENTRY),
        (ENTRY + 40, struct.pack("<Q", 70), Code.GPT_OVERLAP),
        (ENTRY + 16, GOOD.raw[ENTRY + 128 + 16 : ENTRY + 128 + 32], Code.GPT_ENTRY),
        (ENTRY + 48, b"\1", Code.GPT_BACKUP),
        (BACKUP_HEADER + 32, struct.pack("<Q", 5), Code.GPT_BACKUP),
        (BACKUP_HEADER + 72, struct.pack("<Q", 2), Code.GPT_BACKUP),
        (BACKUP_ENTRY + 56, b"x", Code.GPT_BACKUP),
        (446 + 4, b"\x83", Code.GPT_MBR),
        (446 + 16 + 4, b"\x83", Code.GPT_MBR),
        (510, b"\0\0", Code.GPT_MBR),
        (446 + 8, b"\2", Code.GPT_MBR),
        (2048, GOOD.raw[HEADER : HEADER + 92], Code.AMBIGUOUS),
    ],
)
def test_flaws_under_right_checksums(offset: int, content: bytes, code: Code) -> None:
    assert code in codes(patched(GOOD.raw, offset, content))


def with_checksum(content: bytes, at: int, wanted: int) -> bytes:
    """`content` with four other bytes at `at`, so that its CRC32 is `wanted`: each bit of them flips its own bits."""
    changed = bytearray(content)
    changed[at : at + 4] = bytes(4)
    base = zlib.crc32(changed)
    rows = []
    for bit in range(32):
        flipped = bytearray(changed)
        flipped[at + bit // 8] ^= 1 << bit % 8
        rows.append((zlib.crc32(flipped) ^ base, 1 << bit))
    left, patch = wanted ^ base, 0
    for column in range(32):
        pivot = next(row for row in rows if row[0] >> column & 1)
        rows = [(row[0] ^ pivot[0], row[1] ^ pivot[1]) if row[0] >> column & 1 else row for row in rows if row != pivot]
        if left >> column & 1:
            left, patch = left ^ pivot[0], patch ^ pivot[1]
    changed[at : at + 4] = patch.to_bytes(4, "little")
    assert zlib.crc32(changed) == wanted
    return bytes(changed)


def test_other_partitions_under_the_same_checksum() -> None:
    """A CRC can be made to be anything: both tables are compared, and not only their checksums."""
    start, size = BACKUP_ENTRY, ddi.ENTRIES * 128
    entries = bytearray(GOOD.raw[start : start + size])
    wanted = zlib.crc32(entries)
    entries[56] ^= 1
    changed = patched(GOOD.raw, start, with_checksum(bytes(entries), size - 8, wanted), sealed=False)
    with source(changed) as opened:
        (finding,) = gpt.read(opened)[1]
    assert finding == (Code.GPT_BACKUP, "the backup table has other partitions than the primary one")


def test_primary_destroyed() -> None:
    changed = patched(GOOD.raw, 512, bytes(512), sealed=False)
    with source(changed) as opened:
        table, findings = gpt.read(opened)
    assert {one.code for one in findings} == {Code.GPT_HEADER}
    assert table is not None
    assert len(table.partitions) == 3


def test_cut_short() -> None:
    assert Code.SIZE in codes(GOOD.raw[:-512])
    assert Code.SIZE in codes(GOOD.raw[:40000])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2048), st.integers(0, 40000))
def test_garbage(content: bytes, offset: int) -> None:
    with source(patched(GOOD.raw, offset, content)) as opened:
        table, _ = gpt.read(opened)
        for partition in table.partitions if table else ():
            assert 0 <= partition.offset <= partition.offset + partition.size <= len(GOOD.raw)


def test_partition_types() -> None:
    assert len(partitiontypes.TYPES) == 21 * 6 + 9
    assert len({one.name for one in partitiontypes.TYPES.values()}) == len(partitiontypes.TYPES)
    arm64 = partitiontypes.lookup("b921b045-1df0-41c3-af44-4c6f280d3fae")
    assert arm64 == ("root-arm64", Designator.ROOT, "arm64")
    assert partitiontypes.lookup("00000000-0000-0000-0000-000000000000") is None
    assert [one.data for one in (Designator.ROOT_VERITY, Designator.USR_VERITY_SIG, Designator.HOME)] == [
        Designator.ROOT, Designator.USR, None,
    ]  # fmt: skip


def test_architectures() -> None:
    better = partitiontypes.better_architecture
    assert better("x86-64", "arm64", "x86-64") > 0
    assert better("arm64", "x86-64", "x86-64") < 0
    assert better("x86", "arm64", "x86-64") > 0
    assert better("x86", "x86-64", "x86-64") < 0
    assert better("arm64", "riscv64", "x86-64") == 0
    assert better("ppc-le", "arm64", "ppc64-le") > 0
    assert better("mips", "arm64", "mips64") == 0


def superblock(offset: int, content: bytes) -> bytes:
    return (bytes(offset) + content).ljust(70000, b"\0")


@pytest.mark.parametrize(
    ("raw", "kinds"),
    [
        (ddi.squashfs(), [(Kind.SQUASHFS, 303)]),
        (superblock(1024, b"\xe2\xe1\xf5\xe0" + bytes(8) + b"\x0c" + bytes(23) + struct.pack("<I", 3)),
         [(Kind.EROFS, 12288)]),
        (superblock(1028, struct.pack("<I", 9) + bytes(16) + struct.pack("<I", 2) + bytes(28) + b"\x53\xef" + bytes(38)
                    + struct.pack("<I", 0x40)), [(Kind.EXT4, 36864)]),
        (superblock(1080, b"\x53\xef"), [(Kind.EXT2, 0)]),
        (superblock(0, b"XFSB" + struct.pack(">IQ", 4096, 5)), [(Kind.XFS, 20480)]),
        (superblock(65536 + 64, b"_BHRfS_M" + bytes(40) + struct.pack("<Q", 77)), [(Kind.BTRFS, 77)]),
        (superblock(0, b"LUKS\xba\xbe"), [(Kind.LUKS, 0)]),
        (superblock(0, b"LUKS\xba\xbe" + bytes(1018) + b"\xe2\xe1\xf5\xe0"), [(Kind.EROFS, 0), (Kind.LUKS, 0)]),
        (bytes(70000), []),
        (b"", []),
    ],
)  # fmt: skip
def test_file_systems(raw: bytes, kinds: list[tuple[Kind, int]]) -> None:
    with source(raw) as opened:
        assert filesystems.probe(opened) == [filesystems.FileSystem(*one) for one in kinds]


def test_source_keeps_its_bounds() -> None:
    with source(b"0123456789") as opened:
        part = opened.part(2, 4)
        assert part.read(1, 3) == b"345"
        assert part.part(1, 100).read(0, 3) == b"345"
        assert part.head(2, 100) == b"45"
        assert opened.part(100, 5).size == 0
        for offset, size in ((0, 5), (4, 1), (-1, 1), (0, -1)):
            with pytest.raises(ShortReadError):
                part.read(offset, size)
        os.ftruncate(opened.fd, 4)
        with pytest.raises(ShortReadError, match="shorter"):
            part.read(0, 4)
