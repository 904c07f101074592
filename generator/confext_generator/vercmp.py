# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare versions: UAPI.10, https://uapi-group.org/specifications/specs/version_format_specification/."""

from __future__ import annotations

_DIGITS = b"0123456789"
_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VALID = frozenset(_DIGITS + _LETTERS + b"~-^.")


def compare(a: bytes, b: bytes) -> int:
    """Return a number below, equal to or above 0 if version `a` is older than, equal to or newer than `b`."""
    i = j = 0
    while True:
        while i < len(a) and a[i] not in _VALID:
            i += 1
        while j < len(b) and b[j] not in _VALID:
            j += 1
        if a[i : i + 1] == b"~" or b[j : j + 1] == b"~":
            if a[i : i + 1] != b[j : j + 1]:
                return -1 if a[i : i + 1] == b"~" else 1
            i += 1
            j += 1
        if i >= len(a) or j >= len(b):
            return (i < len(a)) - (j < len(b))
        # A version with one of these separators here is older than a version that continues with anything else.
        for separator in (b"-", b"^", b"."):
            left, right = a[i : i + 1] == separator, b[j : j + 1] == separator
            if left != right:
                return -1 if left else 1
            i += left
            j += right
        if a[i : i + 1].isdigit() or b[j : j + 1].isdigit():
            left_part, right_part = _leading(a, i, _DIGITS), _leading(b, j, _DIGITS)
            i += len(left_part)
            j += len(right_part)
            if not left_part or not right_part:
                return 1 if left_part else -1  # A number is newer than letters.
            left_part, right_part = left_part.lstrip(b"0"), right_part.lstrip(b"0")
            if len(left_part) != len(right_part):
                return len(left_part) - len(right_part)
        else:
            left_part, right_part = _leading(a, i, _LETTERS), _leading(b, j, _LETTERS)
            i += len(left_part)
            j += len(right_part)
        if left_part != right_part:
            return 1 if left_part > right_part else -1


def _leading(text: bytes, start: int, of: bytes) -> bytes:
    rest = text[start:]
    return rest[: len(rest) - len(rest.lstrip(of))]


class VersionKey:
    """A sort key by version; equal versions are ordered by the bytes of `name`."""

    __slots__ = ("name", "version")

    def __init__(self, version: bytes, name: bytes) -> None:
        self.version = version
        self.name = name

    def __lt__(self, other: VersionKey) -> bool:
        order = compare(self.version, other.version)
        return order < 0 or (order == 0 and self.name < other.name)
