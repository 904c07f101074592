# SPDX-License-Identifier: LGPL-2.1-or-later
"""Unit names and drop-in directories."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confext_generator import names

UNIT_NAMES = st.from_regex(rb"[a-c:_.\\-]{1,6}(@[a-c@-]{0,4})?\.service", fullmatch=True)


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        (b"foo.service", True),
        (b"foo@.service", True),
        (b"foo@bar@baz.service", True),
        (b"foo\\x2dbar.service", True),
        (b"..service", True),
        (b".service", False),
        (b"@.service", False),
        (b"@x.service", False),
        (b"foo.socket", False),
        (b"f oo.service", False),
        (b"f/oo.service", False),
        (b"f\noo.service", False),
        (b"f\xffoo.service", False),
        (b"x" * 247 + b".service", True),
        (b"x" * 248 + b".service", False),
    ],
)
def test_is_valid_service(name: bytes, valid: bool) -> None:
    assert names.is_valid_service(name) is valid


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"foo.service", [b"foo.service"]),
        (b"foo-bar-baz.service", [b"foo-bar-baz.service", b"foo-bar-.service", b"foo-.service"]),
        (b"foo-.service", [b"foo-.service"]),
        (b"foo-bar-.service", [b"foo-bar-.service", b"foo-.service"]),
        (b"foo--.service", [b"foo--.service", b"foo-.service"]),
        (b"-foo.service", [b"-foo.service"]),
        (b"foo@.service", [b"foo@.service"]),
        (b"foo@a-b.service", [b"foo@a-b.service", b"foo@.service"]),
        (
            b"foo-x@i.service",
            [b"foo-x@i.service", b"foo-x@.service", b"foo-.service", b"foo-@i.service", b"foo-@.service"],
        ),
        (b"foo-x@.service", [b"foo-x@.service", b"foo-.service", b"foo-@.service"]),
    ],
)
def test_dropin_names(name: bytes, expected: list[bytes]) -> None:
    assert names.dropin_names(name) == expected


@given(UNIT_NAMES)
def test_dropin_names_start_with_the_name_and_are_valid(name: bytes) -> None:
    found = names.dropin_names(name)
    assert found[0] == name
    assert all(names.is_valid_service(candidate) for candidate in found)


@given(UNIT_NAMES, st.from_regex(rb"[a-z]{1,3}", fullmatch=True))
def test_a_template_reads_what_its_instances_have_in_common(name: bytes, instance: bytes) -> None:
    if names.is_template(name):
        of_instance = names.dropin_names(names.with_instance(name, instance))
        assert names.dropin_names(name) == [n for n in of_instance if not names.split(n)[1]]
