# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading and writing values as systemd's extract_first_word() splits them into words (systemd.syntax(7))."""

from __future__ import annotations

WHITESPACE = b" \t\n\r"
_QUOTES = b"\"'"
_BACKSLASH = ord("\\")

# Everything that has a meaning to one of the parsers below.
_SPECIAL = b" \t\"'\\"


def first_word(value: bytes, *, escapes: bool = True) -> tuple[bytes, bytes]:
    """Return the first word of `value`, quotes and backslashes resolved, and the rest (EXTRACT_UNQUOTE).

    Without `escapes` a backslash is a character as any other (EXTRACT_RETAIN_ESCAPE).

    Raises ValueError where a quote or a backslash has no end.
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
    """Write `path` as one word for ExtensionDirectories= and RequiresMountsFor= (EXTRACT_UNQUOTE).

    These parsers know no \\x escapes: a backslash takes the next byte as it is, in quotes too.  Quotes around
    the whole keep a space at its end from being stripped with the line.
    """
    path = path.replace(b"%", b"%%")
    if path.translate(None, _SPECIAL) != path:
        path = b'"' + path.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    return path


def escape_image(path: bytes) -> bytes:
    """Write `path` as the first part of a word for ExtensionImages= (specifiers).

    This parser splits twice: into words, where quotes count and backslashes are kept, then at colons, where C
    escapes are resolved.  With every special byte as \\x escape there is nothing left for the first pass to
    see.
    """
    path = path.replace(b"%", b"%%")
    if path.translate(None, _SPECIAL + b":") != path:
        path = path.replace(b"\\", b"\\x5c")
        for special in (b" ", b"\t", b'"', b"'", b":"):
            path = path.replace(special, b"\\x%02x" % ord(special))
    return path


def is_utf8(data: bytes) -> bool:
    """Return whether `data` is what systemd calls valid UTF-8, which leaves out Unicode's noncharacters."""
    if data.isascii():
        return True
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return not any(c >= "\ufdd0" and ("\ufdd0" <= c <= "\ufdef" or ord(c) & 0xFFFE == 0xFFFE) for c in text)


def has_control(data: bytes) -> bool:
    """Return whether `data` has an ASCII control character, the line ends among them."""
    return data.translate(None, _CONTROL) != data


_CONTROL = bytes([*range(32), 127])
