"""The kernel's dm-verity as the judge of which superblocks of hash trees are accepted: names, block sizes, salts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from confext_helpers.image import verity
from confext_helpers.image.bytesource import Source
from fuzz import ddi
from lab.vm import Vm

pytestmark = pytest.mark.real

DATA = bytes(range(256)) * 512
WORK = "/var/tmp/trees"


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


SCRIPT = """
open() {
    data=$(losetup -f --show -r -b $3 $1.data) && tree=$(losetup -f --show -r -b $3 $1.tree) || return
    if veritysetup open $data tree-$1 $tree $2 >/dev/null 2>&1; then
        cmp -s $1.data /dev/mapper/tree-$1 && echo yes || echo broken
        veritysetup close tree-$1
    else
        echo no
    fi
    losetup -d $data $tree
}
modprobe -a sha3_generic sha512_generic 2>/dev/null || :
"""


def accepted(tree: bytes, sector: int) -> bool:
    """Whether `verify` would go on to the data."""
    fd = os.memfd_create("tree")
    try:
        os.write(fd, tree)
        verity.read_superblock(Source(fd, 0, len(tree)), sector)
    except verity.VerityError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def test_what_is_accepted_can_be_mounted(vm: Vm) -> None:
    ours, script = {}, [SCRIPT, f"cd {WORK}"]
    for number, shape in enumerate(shapes()):
        function = shape.name.lower().replace("-", "_")
        tree, root_hash = ddi.hash_tree(
            DATA, block=shape.block, hash_block=shape.hash_block, salt=bytes(shape.salt), algorithm=function
        )
        tree = tree.replace(function.encode().ljust(32, b"\0"), shape.name.encode().ljust(32, b"\0"), 1)
        vm.write(f"{WORK}/{number}.data", DATA)
        vm.write(f"{WORK}/{number}.tree", tree.ljust(-(-len(tree) // 4096) * 4096, b"\0"))
        ours[shape] = accepted(tree, shape.sector)
        script.append(f"open {number} {root_hash.hex()} {shape.sector}")
    said = dict(zip(ours, vm.sh("\n".join(script), timeout=900).split(), strict=True))
    assert {shape: said[shape] for shape, taken in ours.items() if taken and said[shape] != "yes"} == {}
    # What the judge refuses, and the reason why it is asked.
    refused = [Shape(name="sha3_256"), Shape(block=8192), Shape(block=65536), Shape(block=1024, sector=4096)]
    assert {shape: said[shape] for shape in refused} == dict.fromkeys(refused, "no")
