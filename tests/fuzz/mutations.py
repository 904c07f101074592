# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mutated images: what hypothesis draws, and how it is applied to an image.

Most mutations aim at the parts that are parsed, and half of them mend the checksums of the partition table afterwards:
otherwise hardly one would ever be seen by what comes behind them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import strategies as st

from fuzz import ddi

_NUMBERS = (
    0, 1, 2, 127, 128, 255, 256, 511, 512, 4095, 4096, 65535, 65536, (1 << 31) - 1, (1 << 32) - 1, (1 << 63) - 1,
    1 << 63, (1 << 64) - 1,
)  # fmt: skip


class Mutation(NamedTuple):
    """One change.

    Attributes:
        kind: what is done, see apply().
        place: number of the part of the image.
        offset: in that part, as a fraction of its size.
        value: a number whose meaning depends on the kind.
        content: bytes whose meaning depends on the kind.
    """

    kind: str
    place: int
    offset: float
    value: int
    content: bytes


MUTATIONS = st.lists(
    st.builds(
        Mutation,
        kind=st.sampled_from(("bit", "bytes", "number4", "number8", "zero", "copy", "cut", "grow", "digit")),
        place=st.integers(0, 15),
        offset=st.floats(0, 1, exclude_max=True),
        value=st.one_of(st.sampled_from(_NUMBERS), st.integers(0, 300)),
        content=st.binary(min_size=1, max_size=24),
    ),
    min_size=1,
    max_size=4,
)


def apply(image: ddi.Ddi, mutations: Sequence[Mutation], *, sealed: bool) -> bytes:
    """The image with all changes, and with the right checksums if `sealed`."""
    raw = bytearray(image.raw)
    places = sorted(image.places.values()) or [(0, len(raw))]
    for one in mutations:
        start, size = places[one.place % len(places)]
        at = min(start + int(one.offset * size), len(raw) - 1)
        if at < 0:
            break
        match one.kind:
            case "bit":
                raw[at] ^= 1 << one.value % 8
            case "bytes":
                raw[at : at + len(one.content)] = one.content
            case "number4":
                raw[at : at + 4] = struct.pack("<I", one.value & 0xFFFFFFFF)
            case "number8":
                # Where numbers are.
                at -= at % 8
                raw[at : at + 8] = struct.pack("<Q", one.value)
            case "zero":
                raw[at : at + one.value % 4096] = bytes(min(one.value % 4096, max(0, len(raw) - at)))
            case "copy":
                other, length = places[one.value % len(places)]
                raw[at : at + length] = raw[other : other + length]
            case "cut":
                del raw[at if one.value % 2 else len(raw) - one.value % 1024 :]
            case "grow":
                raw += one.content * (one.value % 100)
            case "digit":
                raw[at] = b'0123456789abcdef"{}[],:'[one.value % 23]
    changed = bytes(raw)
    return ddi.seal(changed) if sealed else changed
