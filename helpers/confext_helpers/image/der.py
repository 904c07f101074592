# SPDX-License-Identifier: LGPL-2.1-or-later
"""A strict parser of DER (X.690), with the types that signatures and certificates need.

BER allows many encodings of one signature, and two readers may disagree about its meaning. So every encoding except the
single one allowed by DER is refused: indefinite lengths, lengths with leading zeros, padded integers, unsorted sets,
trailing data. The parser does not recurse, and checks every length against the available data before using it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OID = 0x06
UTF8_STRING = 0x0C
PRINTABLE_STRING = 0x13
T61_STRING = 0x14
IA5_STRING = 0x16
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
BMP_STRING = 0x1E
SEQUENCE = 0x30
SET = 0x31
CONTEXT = 0x80
CONSTRUCTED = 0x20

_ELEMENTS_MAX = 1024
# T61String is decoded as Latin-1, as everybody does. Programs write only ASCII into PrintableString and IA5String.
_CHARACTERS = {
    UTF8_STRING: "utf-8", PRINTABLE_STRING: "ascii", T61_STRING: "latin-1", IA5_STRING: "ascii",
    BMP_STRING: "utf-16-be",
}  # fmt: skip


class DerError(ValueError):
    """The data are not DER, or not of the expected type."""


class Element(NamedTuple):
    """One element.

    Attributes:
        tag: the identifier octet.
        content: the contents octets.
        raw: the whole element, with tag and length.
    """

    tag: int
    content: bytes
    raw: bytes


def parse(raw: bytes, tag: int) -> Element:
    """Parse `raw`, which has to be exactly one element.

    Raises:
        DerError: `raw` is not one element with the tag `tag`.
    """
    found = list(elements(raw))
    if len(found) != 1:
        raise DerError(f"{len(found)} elements instead of one")
    return expect(found[0], tag)


def expect(element: Element | None, tag: int) -> Element:
    """Return `element` if it has this tag.

    Raises:
        DerError: `element` is None or has another tag.
    """
    if element is None or element.tag != tag:
        raise DerError(f"{'nothing' if element is None else hex(element.tag)} instead of {tag:#x}")
    return element


def elements(raw: bytes) -> Iterator[Element]:
    """The consecutive elements in `raw`.

    Raises:
        DerError: `raw` is not valid DER.
    """
    position = 0
    for _ in range(_ELEMENTS_MAX):
        if position == len(raw):
            return
        element = _read(raw, position)
        yield element
        position += len(element.raw)
    raise DerError("too many elements")


def members(element: Element) -> list[Element]:
    """The members of a SET OF, which DER requires to be in ascending order.

    Raises:
        DerError: the members are out of order, or there are duplicates.
    """
    found = list(elements(element.content))
    for one, next_one in itertools.pairwise(found):
        if not one.raw < next_one.raw:
            raise DerError("a set is out of order")
    return found


def integer(element: Element) -> int:
    """The value of an INTEGER.

    Raises:
        DerError: `element` is not an INTEGER, or is padded.
    """
    content = expect(element, INTEGER).content
    if not content or len(content) > 1024:
        raise DerError(f"an integer of {len(content)} bytes")
    if len(content) > 1 and ((content[0] == 0 and content[1] < 0x80) or (content[0] == 0xFF and content[1] >= 0x80)):
        raise DerError("a padded integer")
    return int.from_bytes(content, "big", signed=True)


def oid(element: Element) -> str:
    """An OBJECT IDENTIFIER in dotted notation.

    Raises:
        DerError: `element` is not an OBJECT IDENTIFIER.
    """
    content = expect(element, OID).content
    if not 0 < len(content) <= 64 or content[-1] & 0x80:
        raise DerError("a malformed object identifier")
    arcs = []
    value = fresh = 0
    for byte in content:
        if byte == 0x80 and not fresh:
            raise DerError("a padded object identifier")
        value, fresh = value << 7 | byte & 0x7F, byte & 0x80
        if not fresh:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


def fields(element: Element | None, least: int, most: int) -> list[Element]:
    """The members of a SEQUENCE of `least` to `most` members.

    Raises:
        DerError: `element` is not a SEQUENCE, or has more or fewer members.
    """
    found = list(elements(expect(element, SEQUENCE).content))
    if not least <= len(found) <= most:
        raise DerError(f"{len(found)} elements instead of {least} to {most}")
    return found


def bit_string(element: Element) -> bytes:
    """The bytes of a BIT STRING without unused bits.

    Raises:
        DerError: `element` is not a BIT STRING, or has unused bits.
    """
    content = expect(element, BIT_STRING).content
    if content[:1] != b"\0":
        raise DerError("a malformed bit string")
    return content[1:]


def text(element: Element) -> str:
    """The text of a string of any type that a name may have: DirectoryString (RFC 5280) and IA5String.

    Raises:
        DerError: `element` is not such a string.
    """
    if element.tag not in _CHARACTERS:
        raise DerError(f"{element.tag:#x} instead of a string")
    try:
        found = element.content.decode(_CHARACTERS[element.tag])
    except UnicodeDecodeError as error:
        raise DerError("a string with characters that it cannot have") from error
    # A BMPString cannot have surrogate pairs: Python decodes a pair to one character, OpenSSL does not.
    if "\0" in found or (element.tag == BMP_STRING and len(found) * 2 < len(element.content)):
        raise DerError("a string with characters that it cannot have")
    return found


def check_any(element: Element) -> None:
    """Check an element of any type: its type must be one that is in use, and its contents valid for that type.

    The contents of a SEQUENCE or a SET are not checked, since no reader looks into one of unknown meaning.

    Raises:
        DerError: the element is not valid.
    """
    match element.tag:
        case _ if element.tag in (SEQUENCE, SET, OCTET_STRING, UTC_TIME, GENERALIZED_TIME):
            pass
        case _ if element.tag in _CHARACTERS:
            text(element)
        case _ if element.tag == NULL and not element.content:
            pass
        case _ if element.tag == BOOLEAN and element.content in (b"\0", b"\xff"):
            pass
        case _ if element.tag == INTEGER:
            integer(element)
        case _ if element.tag == OID:
            oid(element)
        case _ if element.tag == BIT_STRING:
            bit_string(element)
        case _:
            raise DerError(f"a value of type {element.tag:#x}")


def _read(raw: bytes, position: int) -> Element:
    if len(raw) - position < 2:
        raise DerError("cut off")
    tag, length = raw[position], raw[position + 1]
    if tag & 0x1F == 0x1F:
        raise DerError("a tag of several bytes")
    start = position + 2
    if length == 0x80:
        raise DerError("an indefinite length, which is BER")
    if length > 0x80:
        size = length & 0x7F
        if size > 4 or len(raw) - start < size:
            raise DerError("a length that is too long")
        length = int.from_bytes(raw[start : start + size], "big")
        if length < 0x80 or raw[start] == 0:
            raise DerError("a length that could be shorter")
        start += size
    if len(raw) - start < length:
        raise DerError("cut off")
    return Element(tag, raw[start : start + length], raw[position : start + length])
