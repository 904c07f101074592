# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parse and quote values for systemd's extract_first_word(), which splits them into words (systemd.syntax(7))."""

from __future__ import annotations

WHITESPACE = b" \t\n\r"
_QUOTES = b"\"'"
_BACKSLASH = ord("\\")

# All characters that are special to one of the parsers below.
_SPECIAL = b" \t\"'\\"


def first_word(value: bytes, *, escapes: bool = True) -> tuple[bytes, bytes]:
    """Return the first word of `value`, quotes and backslashes resolved, and the rest (EXTRACT_UNQUOTE).

    Without `escapes` a backslash is an ordinary character (EXTRACT_RETAIN_ESCAPE).

    Raises ValueError for an unterminated quote or a backslash at the end.
    """
    value = value.lstrip(WHITESPACE)
    word = bytearray()
    quote = 0
    escaped = False
    for at, c in enumerate(value):
        if escaped:
            word.append(c)
            escaped = False
        elif c == _BACKSLASH and escapes:
            escaped = True
        elif quote:
            if c == quote:
                quote = 0
            else:
                word.append(c)
        elif c in _QUOTES:
            quote = c
        elif c in WHITESPACE:
            return bytes(word), value[at:].lstrip(WHITESPACE)
        else:
            word.append(c)
    if quote or escaped:
        raise ValueError("unbalanced quoting")
    return bytes(word), b""


def quote_word(path: bytes) -> bytes:
    """Return `path` quoted as one word for ExtensionDirectories= and RequiresMountsFor= (EXTRACT_UNQUOTE).

    The parsers of these settings know no \\x escapes: a backslash makes the next byte literal, also within quotes. The
    quotes around the word keep a trailing space from being stripped with the line.
    """
    path = path.replace(b"%", b"%%")
    if path.translate(None, _SPECIAL) != path:
        path = b'"' + path.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    return path


def escape_image(path: bytes) -> bytes:
    """Return `path` escaped as the first part of a word for ExtensionImages=, specifiers included.

    The parser of this setting splits twice: first into words, resolving quotes but keeping backslashes, then at colons,
    resolving C escapes. With every special byte written as an \\x escape, the first pass finds nothing to resolve.
    """
    path = path.replace(b"%", b"%%")
    if path.translate(None, _SPECIAL + b":") != path:
        path = path.replace(b"\\", b"\\x5c")
        for special in (b" ", b"\t", b'"', b"'", b":"):
            path = path.replace(special, b"\\x%02x" % ord(special))
    return path


def is_utf8(data: bytes) -> bool:
    """Return whether `data` is valid UTF-8 by systemd's definition, which excludes Unicode's noncharacters."""
    if data.isascii():
        return True
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return not any(c >= "\ufdd0" and ("\ufdd0" <= c <= "\ufdef" or ord(c) & 0xFFFE == 0xFFFE) for c in text)


def has_control(data: bytes) -> bool:
    """Return whether `data` contains an ASCII control character, line ends included."""
    return data.translate(None, _CONTROL) != data


_CONTROL = bytes([*range(32), 127])
