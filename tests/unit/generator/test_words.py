# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names to lines and back: what is written is what systemd's parsers read."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from confext_generator import words
from confext_generator.decide import Dropin
from confext_generator.render import render
from confext_generator.report import Complaint

WHITESPACE = b" \t\n\r"

# Any name that the kernel allows, the awkward bytes more often than others.
AWKWARD = st.sampled_from([bytes([c]) for c in b" '\"\\%:-+$\t\n\r~#;=n\x7f\xff"] + ["é".encode(), b"\\x41", b"%n"])
BYTES = st.integers(1, 255).filter(lambda c: c != ord("/")).map(lambda c: bytes([c]))
NAMES = st.lists(AWKWARD | BYTES, min_size=1, max_size=20).map(b"".join)
EXPRESSIBLE = NAMES.filter(lambda name: words.is_utf8(name) and not words.has_control(name))


def extract(value: bytes, separators: bytes, *, unquote: bool, unescape: bool, retain: bool) -> list[bytes]:
    """Do what extract_first_word() of systemd's extract-word.c does, until the end, with the flags that matter."""
    found: list[bytes] = []
    at = 0
    while True:
        while at < len(value) and value[at] in separators:
            at += 1
        if at >= len(value):
            return found
        word = b""
        quote = 0
        while at < len(value) and (quote or value[at] not in separators):
            c = value[at]
            at += 1
            if c == ord("\\") and not retain:
                assert at < len(value), "a backslash at the end is an error"
                if unescape:
                    if value[at] == ord("x"):
                        word += bytes([int(value[at + 1 : at + 3], 16)])
                        at += 3
                        continue
                    assert value[at] == ord("\\") or value[at] in separators
                word += value[at : at + 1]
                at += 1
            elif quote and c == quote:
                quote = 0
            elif unquote and not quote and c in b"\"'":
                quote = c
            else:
                word += bytes([c])
        assert not quote, "a quote without an end is an error"
        found.append(word)


def specifiers(text: bytes) -> bytes:
    """Expand `%%`, the only specifier that may be there."""
    parts = text.split(b"%%")
    assert not any(b"%" in part for part in parts)
    return b"%".join(parts)


def value_of(line: bytes) -> bytes:
    """Return the value of an assignment as parse_line() hands it on."""
    assert b"\n" not in line and b"\r" not in line and b"\0" not in line
    assert (len(line) - len(line.rstrip(b"\\"))) % 2 == 0, "the line would go on in the next one"
    return line.partition(b"=")[2].strip(WHITESPACE)


@given(EXPRESSIBLE)
@example(b"a ")
@example(b"a\\")
@example(b'"')
def test_quoted_word_is_read_as_the_path(name: bytes) -> None:
    path = b"/etc/" + name
    line = b"ExtensionDirectories=" + words.quote_word(b"-" + path)
    [word] = extract(value_of(line), WHITESPACE, unquote=True, unescape=False, retain=False)
    assert specifiers(word) == b"-" + path


@given(EXPRESSIBLE)
@example(b"a ")
@example(b"a:b\\x3a")
def test_escaped_image_is_read_as_the_path(name: bytes) -> None:
    path = b"/etc/" + name
    line = b"ExtensionImages=-" + words.escape_image(path)
    [tuple_] = extract(value_of(line), WHITESPACE, unquote=True, unescape=False, retain=True)
    [source] = extract(tuple_, b":", unquote=False, unescape=True, retain=False)
    assert specifiers(source) == b"-" + path


@given(NAMES)
def test_quoting_adds_no_line_end(name: bytes) -> None:
    ends = b"\n\r\0"
    for written in (words.quote_word(name), words.escape_image(name)):
        assert [c for c in written if c in ends] == [c for c in name if c in ends]


@given(EXPRESSIBLE)
def test_first_word_reads_what_quote_word_writes(name: bytes) -> None:
    word = words.quote_word(b"/" + name)
    assert words.first_word(b"  " + word + b"  rest of it ") == (b"/" + name.replace(b"%", b"%%"), b"rest of it ")


@pytest.mark.parametrize("value", [b"'a", b'"a', b"a\\", b"'a\\'"])
def test_first_word_refuses_what_has_no_end(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"^unbalanced quoting$"):
        words.first_word(value)


@pytest.mark.parametrize(
    ("data", "valid"),
    [
        (b"plain", True),
        ("é\U0010fffd".encode(), True),
        (b"\xff", False),
        (b"\xc0\x80", False),
        (b"\xed\xa0\x80", False),
        ("\ufdd0".encode(), False),
        ("\ufdef".encode(), False),
        ("\ufdf0".encode(), True),
        ("\ufffe".encode(), False),
        ("\U0001ffff".encode(), False),
        ("\ufffd".encode(), True),
    ],
)
def test_utf8_is_what_systemd_calls_valid(data: bytes, valid: bool) -> None:
    assert words.is_utf8(data) is valid


@given(st.text())
def test_utf8_leaves_out_noncharacters_only(text: str) -> None:
    noncharacters = [c for c in text if 0xFDD0 <= ord(c) <= 0xFDEF or ord(c) & 0xFFFE == 0xFFFE]
    assert words.is_utf8(text.encode("utf-8", "surrogatepass")) is not bool(noncharacters)


@pytest.mark.parametrize("path", [b"/srv/x\nExecStartPre=+/evil", b"/srv/x\r", b"/srv/\xff"])
@pytest.mark.parametrize("attribute", ["images", "directories", "mounts", "sources"])
def test_nothing_is_rendered_that_could_end_a_line(path: bytes, attribute: str) -> None:
    dropin = Dropin(b"foo.service", [b"/etc/systemd/system/foo.service.confext.d"])
    assert render(dropin).endswith(b"\n")
    getattr(dropin, attribute).append(path)
    with pytest.raises(Complaint, match=r"^foo\.service: ") as raised:
        render(dropin)
    assert (raised.value.effect, raised.value.code) == ("left-alone", "unit-paths")
