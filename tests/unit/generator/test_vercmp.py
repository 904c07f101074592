# SPDX-License-Identifier: LGPL-2.1-or-later
"""UAPI.10: the examples of the specification, and what an order must be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confext_generator.vercmp import VersionKey, compare

# The specification's list, from old to new.
ASCENDING = [
    b"122.1",
    b"123~rc1-1",
    b"123",
    b"123-a",
    b"123-a.1",
    b"123-1",
    b"123-1.1",
    b"123^post1",
    b"123.a-1",
    b"123.1-1",
    b"123a-1",
    b"124-1",
]

EXAMPLES = [
    (b"11", b"11", 0),
    (b"systemd-123", b"systemd-123", 0),
    (b"bar-123", b"foo-123", -1),
    (b"123a", b"123", 1),
    (b"123.a", b"123", 1),
    (b"123.a", b"123.b", -1),
    (b"123a", b"123.a", 1),
    (b"11\xce\xb1", b"11\xce\xb2", 0),
    (b"A", b"a", -1),
    (b"", b"0", -1),
    (b"0.", b"0", 1),
    (b"0.0", b"0", 1),
    (b"0", b"~", 1),
    (b"", b"~", 1),
    (b"1_", b"1", 0),
    (b"_1", b"1", 0),
    (b"1_", b"1.2", -1),
    (b"1_2_3", b"1.3.3", 1),
    (b"1+", b"1", 0),
    (b"+1", b"1", 0),
    (b"1+", b"1.2", -1),
    (b"1+2+3", b"1.3.3", 1),
    (b"00123", b"123", 0),
    (b"9", b"10", -1),
]

VERSIONS = st.text("0129aAb.-^~_", max_size=8).map(str.encode)


def sign(number: int) -> int:
    return (number > 0) - (number < 0)


def test_the_list_of_the_specification() -> None:
    for i, a in enumerate(ASCENDING):
        for j, b in enumerate(ASCENDING):
            assert sign(compare(a, b)) == sign(i - j), (a, b)


@pytest.mark.parametrize(("a", "b", "order"), EXAMPLES)
def test_the_examples_of_the_specification(a: bytes, b: bytes, order: int) -> None:
    assert sign(compare(a, b)) == order
    assert sign(compare(b, a)) == -order


@given(VERSIONS, VERSIONS)
def test_it_is_antisymmetric(a: bytes, b: bytes) -> None:
    assert sign(compare(a, b)) == -sign(compare(b, a))
    assert compare(a, a) == 0


@given(st.lists(st.tuples(*[st.integers(0, 200)] * 3), max_size=6))
def test_numbers_are_compared_as_numbers(numbers: list[tuple[int, int, int]]) -> None:
    names = [b"%d.%d.%d" % three for three in numbers]
    assert sorted(names, key=lambda name: VersionKey(name, name)) == [b"%d.%d.%d" % t for t in sorted(numbers)]


def test_ties_are_ordered_by_the_bytes_of_the_name() -> None:
    keys = [VersionKey(b"1_", b"b"), VersionKey(b"1", b"c"), VersionKey(b"_1", b"a")]
    assert [key.name for key in sorted(keys)] == [b"a", b"b", b"c"]
