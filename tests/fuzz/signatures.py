# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signatures to mutate, always the same, and the certificates of those who made them.

`python -m fuzz.signatures` in tests/ makes them anew.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs7

from fuzz import structures

CASES = Path(__file__).parent / "cases/signatures.json"
CONTENT = b"ab" * 32
NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)


class Signatures(NamedTuple):
    """What is mutated.

    Attributes:
        anchors: certificates in PEM.
        signatures: in DER.
    """

    anchors: list[bytes]
    signatures: list[bytes]


def load() -> Signatures:
    """What is stored."""
    said = json.loads(CASES.read_text())
    return Signatures([one.encode() for one in said["anchors"]], [bytes.fromhex(one) for one in said["signatures"]])


def with_unsigned_attribute(raw: bytes) -> bytes:
    """A signature with an attribute that is not signed, in its first signer: a time stamp, say."""
    (top,) = structures.parse(raw)
    signer = top.members[1].members[0].members[-1].members[0]
    identifier = structures.Node(0x06, bytes.fromhex("2a864886f70d010910020e"))
    values = structures.Node(0x31, members=[structures.Node(0x30, members=[structures.Node(0x02, b"\1")])])
    signer.members.append(structures.Node(0xA1, members=[structures.Node(0x30, members=[identifier, values])]))
    return top.encode()


def _new() -> None:
    keys: list[Any] = [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)]
    certificates: list[x509.Certificate] = []
    for number, key in enumerate(keys):
        name = x509.Name([
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Some Body"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, f"signer {number}"),
        ])  # fmt: skip
        issued = x509.CertificateBuilder(name, name, key.public_key(), 7 + number)
        issued = issued.not_valid_before(datetime.datetime(2020, 1, 1)).not_valid_after(datetime.datetime(2040, 1, 1))
        issued = issued.add_extension(x509.BasicConstraints(True, 1), critical=True)
        certificates.append(issued.sign(key, hashes.SHA256()))
    options = pkcs7.PKCS7Options
    made: list[bytes] = []
    for signers, more in (
        ([0], [options.NoAttributes]), ([0], []), ([0], [options.NoCerts]), ([1], [options.NoAttributes]), ([1], []),
        ([0, 1], [options.NoAttributes]), ([0, 1], []),
    ):  # fmt: skip
        builder = pkcs7.PKCS7SignatureBuilder().set_data(CONTENT)
        for number in signers:
            builder = builder.add_signer(certificates[number], keys[number], hashes.SHA256())
        made.append(builder.sign(serialization.Encoding.DER, [options.DetachedSignature, options.Binary, *more]))
    made += [with_unsigned_attribute(made[0]), with_unsigned_attribute(made[2])]
    said = {
        "anchors": [one.public_bytes(serialization.Encoding.PEM).decode() for one in certificates],
        "signatures": [one.hex() for one in made],
    }
    CASES.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    _new()
