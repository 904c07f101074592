# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mutations of DER that know its structure: elements are taken out, doubled, moved, wrapped, made another type.

Most of what comes out is well-formed, with all lengths right, so that it is seen by what reads the elements and not
only by what reads their lengths. What is drawn depends on nothing but the seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_CONSTRUCTED = 0x20
_TAGS = (
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0A, 0x0C, 0x12, 0x13, 0x14, 0x16, 0x17, 0x18, 0x1A, 0x1C, 0x1E, 0x23,
    0x24, 0x30, 0x31, 0x80, 0x81, 0x82, 0xA0, 0xA1, 0xA2, 0xA3, 0x10, 0x11, 0x3F, 0x1F, 0x00,
)  # fmt: skip
_CONTENTS = tuple(
    bytes.fromhex(one)
    for one in (
        "", "00", "01", "03", "ff", "7f", "80", "0000", "0100", "00ff", "ff80", "d800", "fffe", "c3a9", "c080",
        "eda080", "f8888080", "0780", "08ff", "2020", "54", "74", "0500", "3000", "3100", "0201", "300006", "00" * 20,
        "41" * 300,
    )
)  # fmt: skip
_OIDS = tuple(
    bytes.fromhex(one)
    for one in (
        "2a864886f70d010701", "2a864886f70d010702", "2a864886f70d010703", "2a864886f70d010903", "2a864886f70d010904",
        "2a864886f70d010905", "2a864886f70d010101", "2a864886f70d01010b", "2a864886f70d01010a", "2a864886f70d010105",
        "2a8648ce3d0201", "2a8648ce3d040302", "2a8648ce3d040303", "2a8648ce3d030107", "2b81040022", "2b8104000a",
        "2b6570", "608648016503040201", "608648016503040202", "608648016503040203", "608648016503040204", "2b0e03021a",
        "550403", "550406", "55040a", "551d0e", "551d13", "2a03", "80", "8001", "ff", "",
    )
)  # fmt: skip


@dataclass(slots=True)
class Node:
    """One element.

    Attributes:
        tag: its identifier octet.
        content: what is in it, if it is primitive.
        members: what is in it, if it is constructed.
        form: how its length is written: "der", "long" (with a zero in front) or "indefinite".
    """

    tag: int
    content: bytes = b""
    members: list[Node] = field(default_factory=list)
    form: str = "der"

    def encode(self) -> bytes:
        """The element and all that is in it."""
        body = b"".join(one.encode() for one in self.members) if self.members else self.content
        size = len(body)
        if self.form == "indefinite":
            return bytes([self.tag, 0x80]) + body + b"\0\0"
        count = -(-size.bit_length() // 8)
        if self.form == "long":
            return bytes([self.tag, 0x81 + count, 0]) + size.to_bytes(count, "big") + body
        if size < 0x80:
            return bytes([self.tag, size]) + body
        return bytes([self.tag, 0x80 | count]) + size.to_bytes(count, "big") + body

    def copy(self) -> Node:
        """The same once more."""
        return Node(self.tag, self.content, [one.copy() for one in self.members], self.form)

    def all(self) -> list[Node]:
        """This and all that is in it."""
        found = [self]
        for one in self.members:
            found += one.all()
        return found


def parse(raw: bytes) -> list[Node]:
    """The elements in `raw`, which is DER."""
    found = []
    while raw:
        tag, size, start = raw[0], raw[1], 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(raw[2:start], "big")
        content = raw[start : start + size]
        found.append(Node(tag, b"", parse(content)) if tag & _CONSTRUCTED and size else Node(tag, content))
        raw = raw[start + size :]
    return found


def mutate(raw: bytes, number: int, pool: Sequence[Node]) -> bytes:
    """One mutant.

    Args:
        raw: what is changed.
        number: which mutant.
        pool: elements that may be put into it.
    """
    source = random.Random(number)
    (top,) = parse(raw)
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        # Near the top or anywhere: of the latter, most are within certificates.
        nodes = top.all()
        source.choice(_CHANGES)(source, source.choice(nodes), nodes, pool)
    changed = top.encode()
    if source.random() < 0.02:
        changed += source.choice((b"\0", b"\5\0", b"\0\0", changed))
    if source.random() < 0.02:
        position = source.randrange(len(changed))
        changed = changed[:position] + bytes([source.randrange(256)]) + changed[position + 1 :]
    return changed


def _with_members(source: random.Random, nodes: Sequence[Node]) -> Node:
    return source.choice([one for one in nodes if one.members] or list(nodes))


def _delete(source: random.Random, node: Node, nodes: Sequence[Node], pool: Sequence[Node]) -> None:
    node = _with_members(source, nodes)
    if node.members:
        del node.members[source.randrange(len(node.members))]


def _double(source: random.Random, node: Node, nodes: Sequence[Node], pool: Sequence[Node]) -> None:
    node = _with_members(source, nodes)
    if node.members:
        node.members.insert(source.randrange(len(node.members) + 1), source.choice(node.members).copy())


def _shuffle(source: random.Random, node: Node, nodes: Sequence[Node], pool: Sequence[Node]) -> None:
    source.shuffle(_with_members(source, nodes).members)


def _insert(source: random.Random, node: Node, nodes: Sequence[Node], pool: Sequence[Node]) -> None:
    node = _with_members(source, nodes)
    new = source.choice(pool).copy() if source.random() < 0.5 else Node(source.choice(_TAGS), source.choice(_CONTENTS))
    node.members.insert(source.randrange(len(node.members) + 1), new)


def _replace(source: random.Random, node: Node, nodes: Sequence[Node], pool: Sequence[Node]) -> None:
    other = source.choice(pool).copy()
    node.tag, node.content, node.members = other.tag, other.content, other.members


def _tag(source: random.Random, node: Node, nodes: Sequence[Node], pool: Sequence[Node]) -> None:
    node.tag = source.choice(_TAGS)


def _content(source: random.Random, node: Node, nodes: Sequence[Node], pool: Sequence[Node]) -> None:
    node.content, node.members = source.choice(_OIDS if node.tag == 6 else _CONTENTS), []


def _bit(source: random.Random, node: Node, nodes: Sequence[Node], pool: Sequence[Node]) -> None:
    filled = [one for one in nodes if one.content]
    if not filled:
        return
    node = source.choice(filled)
    position = source.randrange(len(node.content))
    node.content = (
        node.content[:position] + bytes([node.content[position] ^ 1 << source.randrange(8)])
        + node.content[position + 1 :]
    )  # fmt: skip


def _resize(source: random.Random, node: Node, nodes: Sequence[Node], pool: Sequence[Node]) -> None:
    node = source.choice([one for one in nodes if not one.members])
    node.content = source.choice((
        node.content[:-1], node.content[1:], node.content + b"\0", b"\0" + node.content, node.content * 2,
    ))  # fmt: skip


def _wrap(source: random.Random, node: Node, nodes: Sequence[Node], pool: Sequence[Node]) -> None:
    node.members = [node.copy()]
    node.tag, node.content, node.form = source.choice((0x30, 0x31, 0xA0, 0xA1, 0x24)), b"", "der"


def _unwrap(source: random.Random, node: Node, nodes: Sequence[Node], pool: Sequence[Node]) -> None:
    node = _with_members(source, nodes)
    if node.members:
        position = source.randrange(len(node.members))
        node.members[position : position + 1] = node.members[position].members


def _length(source: random.Random, node: Node, nodes: Sequence[Node], pool: Sequence[Node]) -> None:
    node.form = source.choice(("long", "indefinite"))


def _letters(source: random.Random, node: Node, nodes: Sequence[Node], pool: Sequence[Node]) -> None:
    """Another string that OpenSSL may take for the same."""
    strings = [one for one in nodes if one.tag in (0x0C, 0x13)]
    if strings:
        one = source.choice(strings)
        way = source.randrange(5)
        if way == 0:
            one.content = one.content.swapcase()
        elif way == 1:
            one.content = b" " + one.content + b"  "
        elif way == 2:
            one.tag = source.choice((0x0C, 0x13, 0x14, 0x16))
        elif way == 3:
            one.tag, one.content = 0x1E, one.content.decode("latin-1").encode("utf-16-be")
        else:
            one.content = one.content.replace(b" ", b"  ")


_Change = Callable[[random.Random, Node, Sequence[Node], Sequence[Node]], None]
_CHANGES: tuple[_Change, ...] = (
    _delete, _double, _shuffle, _insert, _insert, _replace, _replace, _tag, _content, _content, _bit, _resize, _wrap,
    _unwrap, _length, _letters, _letters,
)  # fmt: skip
