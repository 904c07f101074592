# SPDX-License-Identifier: LGPL-2.1-or-later
"""dm-verity: recompute the hash tree from the data, and compare it with the stored tree.

The format is that of the kernel's dm-verity and of cryptsetup, "DM-Verity On-Disk Specification": a superblock, then
the levels of the tree, from the root down to the hashes of the data blocks. Each level consists of blocks of digests.

Data and tree are read once, from the bottom up. Only one block of each level is kept in memory, so an image of any size
takes the same few megabytes. The data match a root hash if and only if the hash computed from the data alone equals
that root hash. Whether the stored tree differs, and in which blocks, is reported separately.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from confext_helpers.errors import ConfextError
from confext_helpers.image.bytesource import READ_MAX, ShortReadError, Source
from confext_helpers.image.findings import Code, Finding

MAGIC = b"verity\0\0"
SUPERBLOCK_SIZE = 512
_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6s256s168s")
# The kernel's names to Python's. systemd passes the name in the superblock on to the kernel.
_ALGORITHMS = {
    "sha256": "sha256", "sha384": "sha384", "sha512": "sha512", "sha3-256": "sha3_256", "sha3-384": "sha3_384",
    "sha3-512": "sha3_512",
}  # fmt: skip
# verity_ctr() in the kernel's dm-verity-target.c: a data block is at most one page, and the smallest pages have 4096
# bytes. Hash blocks may be larger.
_DATA_BLOCK_SIZES = (512, 1024, 2048, 4096)
_HASH_BLOCK_SIZES = (*_DATA_BLOCK_SIZES, 8192, 16384, 32768, 65536)
_NAMED_MAX = 5


class Superblock(NamedTuple):
    """The parameters of a hash tree.

    Attributes:
        uuid: the UUID of the tree, 32 hexadecimal digits.
        algorithm: the kernel's name of the hash function.
        data_block_size: in bytes.
        hash_block_size: in bytes.
        data_blocks: the number of data blocks that the tree covers.
        salt: hashed before the contents of each block.
    """

    uuid: str
    algorithm: str
    data_block_size: int
    hash_block_size: int
    data_blocks: int
    salt: bytes

    @property
    def digest_size(self) -> int:
        """The size of one digest, in bytes."""
        return hashlib.new(_ALGORITHMS[self.algorithm]).digest_size

    @property
    def slot_size(self) -> int:
        """The space for one digest in a hash block, in bytes: the digest size, rounded up to a power of two."""
        return 1 << (self.digest_size - 1).bit_length()

    @property
    def data_size(self) -> int:
        """The size of the data that the tree covers, in bytes."""
        return self.data_blocks * self.data_block_size

    def levels(self) -> list[tuple[int, int]]:
        """First block and number of blocks of each level, in hash blocks; the level above the data comes first."""
        fan_out = self.hash_block_size // self.slot_size
        counts = []
        count = self.data_blocks
        while count > 1:
            count = -(-count // fan_out)
            counts.append(count)
        position = -(-SUPERBLOCK_SIZE // self.hash_block_size)
        starts = []
        for count in reversed(counts):
            starts.append(position)
            position += count
        return list(zip(reversed(starts), counts, strict=True))

    def tree_size(self) -> int:
        """The size of the superblock and the tree together, in bytes."""
        levels = self.levels()
        first = -(-SUPERBLOCK_SIZE // self.hash_block_size)
        return (first + sum(count for _, count in levels)) * self.hash_block_size


class VerityError(ConfextError):
    """The superblock is damaged or not supported."""


def read_superblock(source: Source, sector_size: int = 512) -> Superblock:
    """Read and check the superblock at the beginning of a hash partition or a `.verity` file.

    Args:
        source: the hash partition or the file.
        sector_size: the sector size of the loop device of the image, in bytes. No block may be smaller.

    Raises:
        VerityError: the superblock is damaged or not supported.
    """
    try:
        raw = source.read(0, SUPERBLOCK_SIZE)
    except ShortReadError as error:
        raise VerityError("there is no superblock") from error
    values = _SUPERBLOCK.unpack(raw)
    magic, version, kind, identifier, name, data_block, hash_block, blocks, salt_size, pad, salt, rest = values
    if magic != MAGIC:
        raise VerityError("there is no superblock")
    if version != 1 or kind != 1:
        raise VerityError(f"version {version} with hash type {kind} is not supported")
    algorithm = name.rstrip(b"\0").decode("ascii", "replace")
    if algorithm not in _ALGORITHMS:
        raise VerityError(f"the hash function {algorithm!r} is not known")
    sizes_are_known = data_block in _DATA_BLOCK_SIZES and hash_block in _HASH_BLOCK_SIZES
    if not sizes_are_known or min(data_block, hash_block) < sector_size:
        raise VerityError(f"data and hash blocks of {data_block} and {hash_block} bytes are not supported")
    if salt_size > 256:
        raise VerityError(f"a salt of {salt_size} bytes is too long")
    if pad.strip(b"\0") or rest.strip(b"\0") or salt[salt_size:].strip(b"\0"):
        raise VerityError("the padding in the superblock is not zero")
    if not 0 < blocks <= (1 << 63) // data_block:
        raise VerityError(f"{blocks} is no valid number of data blocks")
    superblock = Superblock(identifier.hex(), algorithm, data_block, hash_block, blocks, salt[:salt_size])
    if superblock.hash_block_size // superblock.slot_size < 2:
        raise VerityError(f"hash blocks of {hash_block} bytes are too small for {algorithm}")
    return superblock


@dataclass(slots=True)
class _Level:
    """One level of the tree that is being computed."""

    start: int
    index: int = 0
    buffer: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class Comparison:
    """A comparison of a hash tree with its data.

    Attributes:
        superblock: the parameters of the tree.
        data: the data that the tree covers.
        tree: superblock and tree.
        data_differ: numbers of the first data blocks that do not match their digest in an intact hash block.
        tree_differ: numbers of the first hash blocks that do not match their digest in the level above.
        data_count: the total number of such data blocks.
        tree_count: the total number of such hash blocks.
        differ: whether any stored hash block differs from the computed one.
    """

    superblock: Superblock
    data: Source
    tree: Source
    data_differ: list[int] = field(default_factory=list)
    tree_differ: list[int] = field(default_factory=list)
    data_count: int = 0
    tree_count: int = 0
    differ: bool = False
    _levels: list[_Level] = field(default_factory=list)
    _slot: int = 0
    _stated: bytes = b""
    _stored_top: bytes = b""

    def run(self, root_hash: bytes, progress: Callable[[int], None]) -> list[Finding]:
        """Compare all data and the whole tree.

        Args:
            root_hash: the expected root hash.
            progress: called now and then with the number of bytes of data that were read.

        Returns:
            The findings. If there are none, every bit of the data and of the tree matches the root hash.
        """
        block = self.superblock
        if len(root_hash) != block.digest_size:
            return [Finding(Code.VERITY_ROOT, f"a root hash of {len(root_hash)} bytes is no {block.algorithm} hash")]
        if block.data_size > self.data.size:
            return [Finding(Code.SIZE, f"the hash tree is for {block.data_size} bytes, there are {self.data.size}")]
        if block.tree_size() > self.tree.size:
            return [Finding(Code.SIZE, f"the hash tree takes {block.tree_size()} bytes, there are {self.tree.size}")]
        self._stated = root_hash
        self._slot = block.slot_size
        self._levels = [_Level(start) for start, _ in block.levels()]
        computed = b""
        try:
            for number, digest in enumerate(self._data_digests(progress)):
                if not self._levels:
                    computed = digest
                else:
                    computed = self._push(0, digest) or computed
                    if number + 1 == block.data_blocks:
                        computed = self._finish() or computed
        except ShortReadError as error:
            return [Finding(Code.UNREADABLE, f"while the hash tree was compared: {error}")]
        return self._judge(computed)

    def _hash(self, content: bytes | memoryview) -> bytes:
        state = self._salted.copy()
        state.update(content)
        return state.digest()

    @property
    def _salted(self) -> hashlib._Hash:
        return hashlib.new(_ALGORITHMS[self.superblock.algorithm], self.superblock.salt)

    def _data_digests(self, progress: Callable[[int], None]) -> Iterator[bytes]:
        size = self.superblock.data_block_size
        salted = self._salted
        position, end = 0, self.superblock.data_size
        while position < end:
            chunk = memoryview(self.data.read(position, min(READ_MAX, end - position)))
            for start in range(0, len(chunk), size):
                state = salted.copy()
                state.update(chunk[start : start + size])
                yield state.digest()
            position += len(chunk)
            progress(position)

    def _push(self, level: int, digest: bytes) -> bytes:
        """Append a digest to a level; return the digest of the topmost block if that is complete now, else nothing."""
        state = self._levels[level]
        state.buffer += digest.ljust(self._slot, b"\0")
        if len(state.buffer) < self.superblock.hash_block_size:
            return b""
        return self._complete(level)

    def _finish(self) -> bytes:
        """Complete the last block of each level; return the digest of the topmost block."""
        computed = b""
        for level, state in enumerate(self._levels):
            if state.buffer:
                computed = self._complete(level) or computed
        return computed

    def _complete(self, level: int) -> bytes:
        state = self._levels[level]
        block = bytes(state.buffer).ljust(self.superblock.hash_block_size, b"\0")
        state.buffer.clear()
        self._compare(level, state.index, block)
        state.index += 1
        digest = self._hash(block)
        return self._push(level + 1, digest) if level + 1 < len(self._levels) else digest

    def _stored(self, level: int, index: int) -> bytes:
        size = self.superblock.hash_block_size
        return self.tree.read((self._levels[level].start + index) * size, size)

    def _expected(self, level: int, index: int) -> bytes:
        """The expected digest of a hash block: from the level above in the stored tree, or the stated root hash."""
        if level + 1 == len(self._levels):
            return self._stated
        size, slot = self.superblock.hash_block_size, self._slot
        block, entry = divmod(index, size // slot)
        position = (self._levels[level + 1].start + block) * size + entry * slot
        return self.tree.read(position, self.superblock.digest_size)

    def _compare(self, level: int, index: int, computed: bytes) -> None:
        stored = self._stored(level, index)
        top = level + 1 == len(self._levels)
        intact = self._hash(stored) == self._expected(level, index)
        if top:
            self._stored_top = self._hash(stored)
        elif not intact:
            self.tree_count += 1
            if len(self.tree_differ) < _NAMED_MAX:
                self.tree_differ.append(self._levels[level].start + index)
        if stored == computed:
            return
        self.differ = True
        # In a damaged hash block, any digest may be damaged, so data blocks are not compared with it. The topmost block
        # is compared nevertheless: _judge() uses the result only if the block matches the root hash.
        if level or not (intact or top):
            return
        slot = self._slot
        for start in range(0, len(stored), slot):
            if stored[start : start + slot] != computed[start : start + slot]:
                number = index * (len(stored) // slot) + start // slot
                if number < self.superblock.data_blocks:
                    self.data_count += 1
                    if len(self.data_differ) < _NAMED_MAX:
                        self.data_differ.append(number)

    def _judge(self, computed: bytes) -> list[Finding]:
        if computed == self._stated:
            if not self.differ:
                return []
            return [Finding(Code.VERITY_HASH, f"the data are whole, the hash tree is damaged{self._blocks()}")]
        findings = []
        if self._levels and self._stored_top == self._stated:
            if self.data_count:
                named = ", ".join(map(str, self.data_differ)) + (", …" if self.data_count > _NAMED_MAX else "")
                what = f"{self.data_count} of {self.superblock.data_blocks} data blocks differ: {named}"
                findings.append(Finding(Code.VERITY_DATA, what))
            if self.tree_count:
                findings.append(Finding(Code.VERITY_HASH, f"the hash tree is damaged{self._blocks()}"))
            return findings or [Finding(Code.VERITY_DATA, "the data differ from the root hash")]
        what = f"the root hash of the data is {computed.hex()}, the stated one is {self._stated.hex()}"
        findings.append(Finding(Code.VERITY_ROOT, what))
        if self._levels and self._stored_top != computed:
            findings.append(Finding(Code.VERITY_DATA, "the hash tree does not match the data either"))
        return findings

    def _blocks(self) -> str:
        if not self.tree_count:
            return ""
        named = ", ".join(map(str, self.tree_differ)) + (", …" if self.tree_count > _NAMED_MAX else "")
        return f" in {self.tree_count} blocks: {named}"
