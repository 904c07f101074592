# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read GUID partition tables as untrusted data. UEFI specification, "GUID Partition Table (GPT) Disk Layout".

The kernel, libblkid and systemd read a damaged table differently. So every deviation from the specification is a
finding, even if all three would accept it. The partitions are reliable only if there are no findings.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from typing import NamedTuple

from confext_helpers.image.bytesource import ShortReadError, Source
from confext_helpers.image.findings import Code, Finding
from confext_helpers.image.partitiontypes import Type, lookup

FLAG_GROWFS = 1 << 59
FLAG_READ_ONLY = 1 << 60
FLAG_NO_AUTO = 1 << 63
FLAG_NO_BLOCK_IO_PROTOCOL = 1 << 1
FLAGS = {
    "required": 1 << 0, "no-block-io": FLAG_NO_BLOCK_IO_PROTOCOL, "legacy-boot": 1 << 2, "growfs": FLAG_GROWFS,
    "read-only": FLAG_READ_ONLY, "no-auto": FLAG_NO_AUTO,
}  # fmt: skip

SECTOR_SIZES = (512, 1024, 2048, 4096)
_SIGNATURE = b"EFI PART"
_REVISION = 0x00010000
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
# The specification has no upper limit; 128 entries are customary. 4096 entries take half a megabyte.
_ENTRIES_MAX = 4096
_MBR_PROTECTIVE = 0xEE


class Partition(NamedTuple):
    """One partition.

    Attributes:
        number: the position in the table, starting at 1.
        type_uuid: the UUID of the partition type.
        type: systemd's description of the partition type; None if systemd does not know it.
        uuid: the UUID of the partition.
        label: the name of the partition.
        offset: the start of the partition in the image, in bytes.
        size: in bytes.
        flags: the attributes, see FLAGS.
    """

    number: int
    type_uuid: str
    type: Type | None
    uuid: str
    label: str
    offset: int
    size: int
    flags: int


class Table(NamedTuple):
    """A partition table.

    Attributes:
        sector_size: in bytes.
        uuid: the UUID of the disk.
        partitions: in the order of the table.
    """

    sector_size: int
    uuid: str
    partitions: tuple[Partition, ...]


class _Header(NamedTuple):
    size: int
    crc: int
    my_lba: int
    alternate_lba: int
    first_usable: int
    last_usable: int
    disk: bytes
    entries_lba: int
    entries: int
    entry_size: int
    entries_crc: int


class _Reader:
    __slots__ = ("findings", "sector", "source")

    def __init__(self, source: Source, sector: int) -> None:
        self.source = source
        self.sector = sector
        self.findings: list[Finding] = []

    def say(self, code: Code, message: str) -> None:
        self.findings.append(Finding(code, message))

    def header(self, lba: int, which: str, code: Code) -> _Header | None:
        """Return the header in the sector `lba`; None, with a finding, unless its position and checksum are right."""
        try:
            raw = self.source.read(lba * self.sector, self.sector)
        except ShortReadError:
            self.say(code, f"the {which} header is not within the image")
            return None
        signature, revision, *values = _HEADER.unpack_from(raw)
        size, crc, reserved, *rest = values
        header = _Header(size, crc, *rest)
        if signature != _SIGNATURE:
            self.say(code, f"there is no {which} header")
            return None
        if revision != _REVISION or reserved or not _HEADER.size <= size <= self.sector or header.my_lba != lba:
            self.say(code, f"the {which} header has a revision, size or place that makes no sense")
            return None
        if zlib.crc32(raw[:16] + bytes(4) + raw[20:size]) != crc:
            self.say(Code.GPT_CRC, f"the checksum of the {which} header does not match")
            return None
        if header.entry_size != _ENTRY.size or not 0 < header.entries <= _ENTRIES_MAX:
            self.say(code, f"the {which} header announces {header.entries} entries of {header.entry_size} bytes")
            return None
        return header

    def entries(self, header: _Header, which: str, code: Code) -> bytes | None:
        """Return the entries that belong to a header; None, with a finding, unless their checksum is right."""
        try:
            raw = self.source.read(header.entries_lba * self.sector, header.entries * header.entry_size)
        except ShortReadError:
            self.say(code, f"the {which} entries are not within the image")
            return None
        if zlib.crc32(raw) != header.entries_crc:
            self.say(Code.GPT_CRC, f"the checksum of the {which} entries does not match")
            return None
        return raw

    def check_usable(self, header: _Header) -> None:
        """Check the layout in the header: both tables outside the usable sectors, everything within the image."""
        entries = -(-header.entries * header.entry_size // self.sector)
        last = self.source.size // self.sector - 1
        if not 1 < header.entries_lba <= header.entries_lba + entries <= header.first_usable:
            self.say(Code.GPT_HEADER, "the entries are not between the header and the first usable sector")
        if not header.first_usable <= header.last_usable < header.alternate_lba:
            self.say(Code.GPT_HEADER, "the usable sectors are not in front of the backup header")
        if header.alternate_lba > last:
            self.say(
                Code.SIZE,
                f"the partition table is for {(header.alternate_lba + 1) * self.sector} bytes, "
                f"the image has {self.source.size}",
            )

    def check_backup(self, primary: _Header, raw: bytes) -> None:
        """Check that both tables are equal: a tool that restores one from the other must not change the image."""
        backup = self.header(primary.alternate_lba, "backup", Code.GPT_BACKUP)
        if backup is None:
            return
        other = self.entries(backup, "backup", Code.GPT_BACKUP)
        # The headers may differ only in the two positions and the checksum.
        twin = primary._replace(
            crc=backup.crc, my_lba=backup.my_lba, alternate_lba=primary.my_lba, entries_lba=backup.entries_lba
        )
        if backup != twin:
            self.say(Code.GPT_BACKUP, "the backup header says something else than the primary one")
        if other is not None and other != raw:
            self.say(Code.GPT_BACKUP, "the backup table has other partitions than the primary one")
        entries = -(-backup.entries * backup.entry_size // self.sector)
        if not primary.last_usable < backup.entries_lba <= backup.entries_lba + entries <= backup.my_lba:
            self.say(Code.GPT_BACKUP, "the backup entries are not behind the last usable sector")

    def partitions(self, header: _Header, raw: bytes) -> list[Partition]:
        """Return the partitions in use that lie within the usable sectors; add a finding for each of the others."""
        found = []
        for index in range(header.entries):
            kind, own, first, last, flags, label = _ENTRY.unpack_from(raw, index * _ENTRY.size)
            if kind == bytes(16):
                continue
            if not header.first_usable <= first <= last <= header.last_usable:
                self.say(Code.GPT_ENTRY, f"partition {index + 1} is outside of the usable sectors")
                continue
            if (last + 1) * self.sector > self.source.size:
                self.say(Code.GPT_ENTRY, f"partition {index + 1} ends outside of the image")
                continue
            type_uuid = str(uuid.UUID(bytes_le=kind))
            found.append(
                Partition(
                    number=index + 1,
                    type_uuid=type_uuid,
                    type=lookup(type_uuid),
                    uuid=str(uuid.UUID(bytes_le=own)),
                    label=label.decode("utf-16-le", "replace").partition("\0")[0],
                    offset=first * self.sector,
                    size=(last - first + 1) * self.sector,
                    flags=flags,
                )
            )
        self._check_apart(found)
        return found

    def _check_apart(self, partitions: list[Partition]) -> None:
        ordered = sorted(partitions, key=lambda p: p.offset)
        end, before = 0, 0
        for partition in ordered:
            if partition.offset < end:
                self.say(Code.GPT_OVERLAP, f"partitions {before} and {partition.number} overlap")
            if partition.offset + partition.size > end:
                end, before = partition.offset + partition.size, partition.number
        if len({p.uuid for p in partitions}) < len(partitions):
            self.say(Code.GPT_ENTRY, "two partitions have the same UUID")


def read(source: Source) -> tuple[Table | None, tuple[Finding, ...]]:
    """Read the partition table of an image.

    Args:
        source: the whole image.

    Returns:
        The table and the findings. Without a table and findings, the image has no partition table. If the primary
        table is damaged, the partitions are those of the backup table.
    """
    protective, mbr_finding = _check_mbr(source)
    sectors = [size for size in SECTOR_SIZES if source.head(size, 8) == _SIGNATURE]
    if len(sectors) > 1:
        return None, (Finding(Code.AMBIGUOUS, "there are partition tables for several sector sizes"),)
    if not sectors and protective:
        # libblkid also looks for the backup header, which is in the last sector, whatever the sector size.
        sectors = [size for size in (512, 4096) if source.head(source.size - size, 8) == _SIGNATURE][:1]
    if not sectors:
        return None, (Finding(Code.GPT_HEADER, "there is a protective MBR, but no table"),) if protective else ()
    reader = _Reader(source, sectors[0])
    if mbr_finding is not None:
        reader.findings.append(mbr_finding)
    header = reader.header(1, "primary", Code.GPT_HEADER)
    raw = header and reader.entries(header, "primary", Code.GPT_HEADER)
    if header is None or raw is None:
        header = reader.header(source.size // reader.sector - 1, "backup", Code.GPT_BACKUP)
        raw = header and reader.entries(header, "backup", Code.GPT_BACKUP)
        if header is None or raw is None:
            return None, tuple(reader.findings)
    else:
        reader.check_usable(header)
        reader.check_backup(header, raw)
    partitions = reader.partitions(header, raw)
    table = Table(reader.sector, str(uuid.UUID(bytes_le=header.disk)), tuple(partitions))
    return table, tuple(reader.findings)


def _check_mbr(source: Source) -> tuple[bool, Finding | None]:
    """Return whether there is a protective MBR, and the finding about it, valid only if there is a partition table."""
    mbr = source.head(0, 512)
    if mbr[510:512] != b"\x55\xaa":
        return False, Finding(Code.GPT_MBR, "there is no MBR, without which no kernel looks for a partition table")
    kinds = [mbr[446 + 16 * index + 4] for index in range(4)]
    (start,) = struct.unpack_from("<I", mbr, 446 + 16 * kinds.index(_MBR_PROTECTIVE) + 8) if 0xEE in kinds else (0,)
    if start != 1:
        return False, Finding(Code.GPT_MBR, "the MBR is not a protective one")
    if sorted(kinds) != [0, 0, 0, _MBR_PROTECTIVE]:
        return True, Finding(Code.GPT_MBR, "the MBR lists other partitions as well")
    return True, None
