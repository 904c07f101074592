# SPDX-License-Identifier: LGPL-2.1-or-later
"""The text in a signature partition: a root hash, and a signature of it, in JSON.

acquire_sig_for_roothash() in systemd's repart.c writes it, dissected_image_load_verity_sig_partition() in
dissect-image.c reads it, with sd_json_parse(). What that refuses has to be refused here as well, and Python's parser
takes more: NaN, halves of surrogate pairs, characters that are none. What is not in use is left out of it altogether:
fractions, and nesting that nobody needs.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, NamedTuple, NoReturn

HASH_SIZES = (32, 48, 64)
_HEX = re.compile(r"(?:[0-9a-f]{2})+\n?", re.ASCII | re.IGNORECASE)
_DEPTH_MAX = 8
_MEMBERS_MAX = 256
_INTEGERS = range(-(1 << 63), 1 << 64)
# White space is all that may be in there of the control characters, DEL included. json checks what is within strings.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class SignedHash(NamedTuple):
    """What is in a signature partition.

    Attributes:
        root_hash: that is signed.
        signature: in DER, not looked at yet.
        fingerprint: SHA-256 of the signer's certificate in lower-case hexadecimal; empty if it is not there.
    """

    root_hash: bytes
    signature: bytes
    fingerprint: str


def parse_hash(text: str) -> bytes | None:
    """A root hash in hexadecimal, maybe with an end of line; None if it is none."""
    if not _HEX.fullmatch(text):
        return None
    found = bytes.fromhex(text)
    return found if len(found) in HASH_SIZES else None


def parse(text: bytes) -> SignedHash:
    """Parse the text in a signature partition, without the zeros that follow it.

    Raises:
        ValueError: it is not what systemd would read.
    """
    decoded = text.decode()
    if _CONTROL.search(decoded):
        raise ValueError("there is a control character in it")
    try:
        fields = json.loads(decoded, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check(fields, 0)
    if not isinstance(fields, dict):
        raise ValueError("it is no object")
    root_hash, signature = fields.get("rootHash"), fields.get("signature")
    fingerprint = fields.get("certificateFingerprint", "")
    if not (isinstance(root_hash, str) and isinstance(signature, str) and isinstance(fingerprint, str)):
        raise ValueError("rootHash or signature are missing, or no strings")
    parsed = parse_hash(root_hash)
    if parsed is None:
        raise ValueError("rootHash is no hash")
    return SignedHash(parsed, _base64(signature), fingerprint.lower())


def _base64(text: str) -> bytes:
    try:
        found = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("the signature is no base64") from error
    # Python takes padding in the middle, and bits that mean nothing.
    if base64.b64encode(found).decode() != text:
        raise ValueError("the signature is no base64")
    return found


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is nothing that belongs there")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    # Of two fields of one name, one reader takes the first and another one the last.
    if len(found) < len(pairs):
        raise ValueError("a field is there twice")
    return found


def _check(value: object, depth: int) -> None:
    """Check what sd_json_parse() looks at beyond the grammar."""
    match value:
        case str():
            if any(_is_no_character(ord(character)) for character in value):
                raise ValueError("there is a character in it that is none")
        case dict() | list():
            if depth == _DEPTH_MAX or len(value) > _MEMBERS_MAX:
                raise ValueError("it is nested too deeply, or too large")
            for one in value:
                _check(one, depth + 1)
            if isinstance(value, dict):
                for one in value.values():
                    _check(one, depth + 1)
        case int() if value not in _INTEGERS:
            raise ValueError("a number is too large")


def _is_no_character(number: int) -> bool:
    """Zero, a surrogate or a noncharacter; unichar_is_valid() in systemd's utf8.c."""
    return not number or 0xD800 <= number < 0xE000 or 0xFDD0 <= number < 0xFDF0 or number & 0xFFFE == 0xFFFE
