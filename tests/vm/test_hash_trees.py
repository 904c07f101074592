# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's dm-verity as the judge of which superblocks of hash trees are accepted: names, block sizes, salts."""

from __future__ import annotations

import os

import pytest

from confext_helpers.image import verity
from confext_helpers.image.bytesource import Source
from lab import hashtrees
from lab.hashtrees import Shape
from lab.vm import Vm

pytestmark = pytest.mark.real

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
    ours, script = {}, [SCRIPT, f"cd {hashtrees.WORK}"]
    for number, shape in enumerate(hashtrees.shapes()):
        made, root_hash = hashtrees.tree(shape)
        ours[shape] = accepted(made, shape.sector)
        script.append(f"open {number} {root_hash.hex()} {shape.sector}")
    said = dict(zip(ours, vm.sh("\n".join(script), timeout=900).split(), strict=True))
    assert {shape: said[shape] for shape, taken in ours.items() if taken and said[shape] != "yes"} == {}
    # What the judge refuses, and the reason why it is asked.
    refused = [Shape(name="sha3_256"), Shape(block=8192), Shape(block=65536), Shape(block=1024, sector=4096)]
    assert {shape: said[shape] for shape in refused} == dict.fromkeys(refused, "no")
