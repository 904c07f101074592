# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hash trees for the virtual machines: what can be in a superblock, each deviation by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fuzz import ddi
from lab.vm import Vm

WORK = "/var/tmp/trees"
_DATA = bytes(range(256)) * 512


class Shape(NamedTuple):
    """What is written into a superblock.

    Attributes:
        name: of the hash function.
        block: size of the blocks of data, in bytes.
        hash_block: size of the blocks of hashes.
        salt: size of the salt.
        sector: that of the devices.
    """

    name: str = "sha256"
    block: int = 4096
    hash_block: int = 4096
    salt: int = 32
    sector: int = 512


def shapes() -> Iterator[Shape]:
    """Each kind of deviation by itself."""
    names = ("sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512", "sha3_256", "SHA256")
    yield from (Shape(name=name) for name in names)
    yield from (Shape(block=size) for size in (512, 1024, 2048, 8192, 65536))
    yield from (Shape(hash_block=size) for size in (512, 1024, 8192, 16384, 65536))
    yield from (Shape(salt=size) for size in (0, 1, 256))
    yield from (Shape(block=1024, sector=4096), Shape(hash_block=2048, sector=4096), Shape(sector=4096))


def tree(shape: Shape) -> tuple[bytes, bytes]:
    """The tree, with its superblock, and the root hash."""
    function = shape.name.lower().replace("-", "_")
    made, root_hash = ddi.hash_tree(
        _DATA, block=shape.block, hash_block=shape.hash_block, salt=bytes(shape.salt), algorithm=function
    )
    written, wanted = (one.encode().ljust(32, b"\0") for one in (function, shape.name))
    return made.replace(written, wanted, 1), root_hash


def write(vm: Vm) -> None:
    """Put all of them, and what they are of, into a machine that is not booted yet."""
    for number, shape in enumerate(shapes()):
        made, _ = tree(shape)
        vm.write(f"{WORK}/{number}.data", _DATA)
        vm.write(f"{WORK}/{number}.tree", made.ljust(-(-len(made) // 4096) * 4096, b"\0"))
