# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parse the contents of a signature partition: a root hash and its signature, in JSON.

acquire_sig_for_roothash() in systemd's repart.c writes the JSON; dissected_image_load_verity_sig_partition() in
dissect-image.c reads it with sd_json_parse(). Everything that sd_json_parse() refuses has to be refused here as well.
Python's parser accepts more: NaN, unpaired surrogates, noncharacters. JSON features that are not in use there are
refused altogether: fractions, and deep nesting.
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
# All control characters except white space. They are refused anywhere; json itself refuses them only within strings.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class SignedHash(NamedTuple):
    """The contents of a signature partition.

    Attributes:
        root_hash: the signed root hash.
        signature: the signature in DER, not parsed yet.
        fingerprint: SHA-256 of the signer's certificate in lower-case hexadecimal; empty if not stated.
    """

    root_hash: bytes
    signature: bytes
    fingerprint: str


def parse_hash(text: str) -> bytes | None:
    """Parse a root hash in hexadecimal, optionally with a newline; None if `text` is not a root hash."""
    if not _HEX.fullmatch(text):
        return None
    found = bytes.fromhex(text)
    return found if len(found) in HASH_SIZES else None


def parse(text: bytes) -> SignedHash:
    """Parse the text in a signature partition, without the zeros that follow the text.

    Raises:
        ValueError: systemd would refuse the text.
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
    # Python also accepts padding in the middle, and unused bits that are not zero.
    if base64.b64encode(found).decode() != text:
        raise ValueError("the signature is no base64")
    return found


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not valid JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    # If a field is there twice, one reader may use the first, and another one the last.
    if len(found) < len(pairs):
        raise ValueError("a field is there twice")
    return found


def _check(value: object, depth: int) -> None:
    """Apply the checks of sd_json_parse() that go beyond the grammar."""
    match value:
        case str():
            if any(_is_no_character(ord(character)) for character in value):
                raise ValueError("there is an invalid character in it")
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
    """Whether a code point is zero, a surrogate or a noncharacter: unichar_is_valid() in systemd's utf8.c."""
    return not number or 0xD800 <= number < 0xE000 or 0xFDD0 <= number < 0xFDF0 or number & 0xFFFE == 0xFFFE
