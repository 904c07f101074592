# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hash trees: every flipped bit is found, and put down to the right cause."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confext_helpers.image import verity
from confext_helpers.image.findings import Code, Finding
from fuzz import ddi
from unit.image.sources import source

DATA = bytes(range(256)) * 128  # 64 blocks of 512: three levels below a root of 16 digests each
TREE, ROOT = ddi.hash_tree(DATA)


def compare(data: bytes, tree: bytes, root: bytes) -> list[Finding]:
    with source(data) as one, source(tree) as other:
        return verity.Comparison(verity.read_superblock(other), one, other).run(root, lambda done: None)


def flipped(raw: bytes, offset: int) -> bytes:
    return raw[:offset] + bytes([raw[offset] ^ 1]) + raw[offset + 1 :]


@settings(max_examples=80, deadline=None)
@given(
    blocks=st.integers(1, 300),
    block=st.sampled_from((512, 1024, 4096)),
    hash_block=st.sampled_from((512, 1024, 4096)),
    salt=st.binary(max_size=256),
    algorithm=st.sampled_from(("sha256", "sha384", "sha512")),
)
def test_whole(blocks: int, block: int, hash_block: int, salt: bytes, algorithm: str) -> None:
    data = b"".join(number.to_bytes(4, "big") * (block // 4) for number in range(blocks))
    tree, root = ddi.hash_tree(data, block=block, hash_block=hash_block, salt=salt, algorithm=algorithm)
    with source(tree) as opened:
        superblock = verity.read_superblock(opened)
    assert (superblock.data_size, superblock.tree_size()) == (len(data), len(tree))
    assert compare(data, tree, root) == []
    assert compare(data + b"more", tree + b"more", root) == []


def test_every_bit_of_the_data() -> None:
    for number in range(64):
        assert compare(flipped(DATA, number * 512 + number), TREE, ROOT) == [
            Finding(Code.VERITY_DATA, f"1 of 64 data blocks differ: {number}")
        ]


def test_every_byte_of_the_tree() -> None:
    for offset in range(512, len(TREE), 7):
        (finding,) = compare(DATA, flipped(TREE, offset), ROOT)
        assert finding.code is Code.VERITY_HASH
        assert finding.message.startswith("the data are whole, the hash tree is damaged")


def test_every_byte_of_the_root_hash() -> None:
    for offset in range(32):
        (finding,) = compare(DATA, TREE, flipped(ROOT, offset))
        assert finding.code is Code.VERITY_ROOT
        assert ROOT.hex() in finding.message


def test_data_and_tree() -> None:
    # The second block above the data is damaged, and data below another one.
    changed = flipped(TREE, len(TREE) - 3 * 512)
    findings = compare(flipped(DATA, 0), changed, ROOT)
    assert [one.code for one in findings] == [Code.VERITY_DATA, Code.VERITY_HASH]
    assert findings[0].message == "1 of 64 data blocks differ: 0"
    # Data below the damaged block: nobody can say which, but they differ.
    assert Code.VERITY_HASH in {one.code for one in compare(flipped(DATA, 20 * 512), changed, ROOT)}


def test_another_tree_that_fits_the_data() -> None:
    other = flipped(DATA, 5)
    tree, root = ddi.hash_tree(other)
    assert [one.code for one in compare(other, tree, ROOT)] == [Code.VERITY_ROOT]
    assert compare(other, tree, root) == []


def test_many_blocks() -> None:
    (finding,) = compare(bytes(len(DATA)), TREE, ROOT)
    assert finding == (Code.VERITY_DATA, "64 of 64 data blocks differ: 0, 1, 2, 3, 4, …")


def test_one_block() -> None:
    data = bytes(512)
    tree, root = ddi.hash_tree(data)
    assert len(tree) == 512
    assert compare(data, tree, root) == []
    assert [one.code for one in compare(flipped(data, 3), tree, root)] == [Code.VERITY_ROOT]


def test_sizes() -> None:
    assert [one.code for one in compare(DATA[:-1], TREE, ROOT)] == [Code.SIZE]
    assert [one.code for one in compare(DATA, TREE[:-1], ROOT)] == [Code.SIZE]
    assert [one.code for one in compare(DATA, TREE, ROOT[:-1])] == [Code.VERITY_ROOT]


@pytest.mark.parametrize("name", ["sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512"])
def test_names_are_those_of_the_kernel(name: str) -> None:
    tree, root = ddi.hash_tree(DATA, algorithm=name.replace("-", "_"))
    tree = tree.replace(name.replace("-", "_").encode().ljust(32, b"\0"), name.encode().ljust(32, b"\0"))
    assert compare(DATA, tree, root) == []


def test_blocks_are_not_smaller_than_sectors() -> None:
    """systemd makes a device of the sector size that the partition table is for; the kernel's verity_ctr() looks."""
    with source(TREE) as opened:
        assert verity.read_superblock(opened, 512).data_block_size == 512
        with pytest.raises(verity.VerityError):
            verity.read_superblock(opened, 4096)


def test_large_hash_blocks() -> None:
    tree, root = ddi.hash_tree(DATA, hash_block=65536)
    assert compare(DATA, tree, root) == []


@pytest.mark.parametrize(
    ("offset", "content", "problem"),
    [
        (0, b"x", "there is no superblock"),
        (8, b"\2", "version 2 with hash type 1 is not supported"),
        (12, b"\0", "version 1 with hash type 0 is not supported"),
        (32, b"sha3_256", "the hash function 'sha3_256' is not known"),
        (32, b"SHA256", "the hash function 'SHA256' is not known"),
        (32, b"sha256\0x", "the hash function 'sha256\\x00x' is not known"),
        (64, b"\0\x20", "data and hash blocks of 8192 and 512 bytes are not supported"),
        (64, b"\0\0\1", "data and hash blocks of 65536 and 512 bytes are not supported"),
        (32, b"sha1\0\0", "the hash function 'sha1' is not known"),
        (32, b"\xff", "the hash function '\\ufffdha256' is not known"),
        (64, b"\1", "data and hash blocks of 513 and 512 bytes are not supported"),
        (68, b"\0\0\0\0", "data and hash blocks of 512 and 0 bytes are not supported"),
        (72, bytes(8), "0 is no valid number of data blocks"),
        (72, b"\xff" * 8, "18446744073709551615 is no valid number of data blocks"),
        (80, b"\xff\xff", "a salt of 65535 bytes is too long"),
        (82, b"x", "the padding in the superblock is not zero"),
        (88 + 255, b"x", "the padding in the superblock is not zero"),
        (511, b"x", "the padding in the superblock is not zero"),
    ],
)
def test_superblock(offset: int, content: bytes, problem: str) -> None:
    with (
        source(TREE[:offset] + content + TREE[offset + len(content) :]) as opened,
        pytest.raises(verity.VerityError) as raised,
    ):
        verity.read_superblock(opened)
    assert raised.value.problem.replace("�", "\\ufffd") == problem


def test_progress() -> None:
    seen: list[int] = []
    data = bytes(3 << 20)
    tree, root = ddi.hash_tree(data, block=4096, hash_block=4096)
    with source(data) as one, source(tree) as other:
        assert verity.Comparison(verity.read_superblock(other), one, other).run(root, seen.append) == []
    assert seen == [1 << 20, 2 << 20, 3 << 20]
