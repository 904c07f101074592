# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parse files of assignments, such as os-release(5) and machine-info(5), like parse_env_file() of systemd's env-file.c.

systemd accepts more than these man pages allow, for example an unquoted value with spaces. The parser returns each
value as systemd reads it, and whether the man page allows the assignment: a shell would read one that is not allowed
differently, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_WHITESPACE = " \t\n\r"
_NEWLINE = "\n\r"
# Within double quotes, a backslash before any other character is literal: SHELL_NEED_ESCAPE.
_ESCAPED = '"\\`$'
_COMMENT = re.compile(r"[#;][^\n\r]*")
# The first character of a key may be any, even "=".
_KEY = re.compile(r"(?s:.)[^=\n\r]*")


class Assignment(NamedTuple):
    """One assignment, which spans several lines if its value has line breaks.

    Attributes:
        line: the number of the first line.
        key: the name of the variable; empty if the line is not an assignment.
        value: the value as systemd reads it.
        plain: whether the assignment is written as os-release(5) requires.
    """

    line: int
    key: str
    value: str
    plain: bool


def parse(text: str) -> Iterator[Assignment]:
    """The assignments of a file, in order; if a key is assigned several times, the last assignment counts.

    Raises:
        ValueError: `text` contains a zero byte.
    """
    if "\0" in text:
        raise ValueError("a zero byte")
    at = 0
    while at < len(text):
        if text[at] in _WHITESPACE:
            at += 1
            continue
        comment = _COMMENT.match(text, at)
        if comment:
            at = comment.end()
            continue
        line = text.count("\n", 0, at) + 1
        found = _KEY.match(text, at)
        assert found is not None
        at = found.end()
        if text[at : at + 1] != "=":
            yield Assignment(line, "", "", False)
            continue
        key = found[0].rstrip(_WHITESPACE)
        value, at, plain = _value(text, at + 1)
        yield Assignment(line, key, value, plain and not re.search(r"\s", found[0]))


def _value(text: str, at: int) -> tuple[str, int, bool]:
    """Return the value that begins at `at`, the position of its end, and whether it is plain."""
    value = ""
    kept = 0  # The length of `value` without trailing whitespace.
    begun = blank = False
    plain = True
    while at < len(text) and text[at] not in _NEWLINE:
        character = text[at]
        at += 1
        if character in _WHITESPACE:
            blank = True
            value += character if begun else ""
            continue
        # Not plain: unquoted spaces, and quotes in the middle of a word.
        plain = plain and not blank and not (begun and character in "\"'")
        if character == "\\":
            begun = True
            plain = plain and text[at : at + 1] not in ("", *_NEWLINE)
            value += text[at : at + 1].strip(_NEWLINE)
            at += 1
        elif character in "\"'" and not begun:
            inner, at, closed = _quoted(text, at, character)
            value += inner
            plain = plain and closed
        else:
            begun = True
            value += character
        kept = len(value)
    return value[:kept], at, plain


def _quoted(text: str, at: int, quote: str) -> tuple[str, int, bool]:
    """Return the contents of the quotes that open before `at`, the end, and whether they close on the same line."""
    value = ""
    start = at
    while at < len(text):
        character = text[at]
        at += 1
        if character == quote:
            return value, at, not set(text[start:at]) & set(_NEWLINE)
        if character == "\\" and quote == '"':
            character = text[at : at + 1]
            at += 1
            if character not in _ESCAPED:
                character = "" if character == "\n" else "\\" + character
        value += character
    return value, at, False
