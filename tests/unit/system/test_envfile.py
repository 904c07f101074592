# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of assignments; tests/real/test_tables.py has systemd read the same."""

from __future__ import annotations

import pytest

from confext_helpers.system import envfile


@pytest.mark.parametrize(
    ("text", "value", "plain"),
    [
        ("A=", "", True),
        ("A=b", "b", True),
        ("A=b \t\r\n", "b", True),
        ("A='b c'", "b c", True),
        ("A='b\\$c\\'", "b\\$c\\", True),
        ('A="b\\$\\"\\`\\\\c\\d"', 'b$"`\\c\\d', True),
        ("A=\"b\"'c'd", "bcd", True),
        ("A=b#c;d$e", "b#c;d$e", True),
        ("A=b\\ c\\#", "b c#", True),
        ("A=b\\ ", "b ", True),
        ("  A=b", "b", True),
        ("A=b c ", "b c", False),
        ("A= b", "b", False),
        ("A =b", "b", False),
        ("A='b' c", "bc", False),
        ("A=b'c'", "b'c'", False),
        ("A='b\nc'", "b\nc", False),
        ('A="b\\\nc"', "bc", False),
        ("A=b\\\nc", "bc", False),
        ("A='b", "b", False),
        ("A=b\\", "b", False),
    ],
)
def test_values(text: str, value: str, plain: bool) -> None:
    assert [one[1:] for one in envfile.parse(text)] == [("A", value, plain)]


def test_lines() -> None:
    text = "# A=1\n; B=2\\\nC=3\nno\n\nD='4\n4'\r\nC=5\n==6\n"
    assert [*envfile.parse(text)] == [
        (3, "C", "3", True),
        (4, "", "", False),
        (6, "D", "4\n4", False),
        (8, "C", "5", True),
        (9, "=", "6", True),
    ]
    with pytest.raises(ValueError, match="zero byte"):
        [*envfile.parse("A=\0")]
