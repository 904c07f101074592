# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signatures and trust anchors, mutated, before systemd's own judge: what is accepted here, OpenSSL has to accept.

libcrypto's PKCS7_verify() is asked as systemd asks it. And where a signer is said to be unknown, OpenSSL must not take
it either, since the hook concludes from that that it was the kernel who knew the key.

As many mutants as $UNIT_CONFEXT_FUZZ says three times; 3,000 in the tests that are always run, always the same ones.
"""

from __future__ import annotations

import base64
import collections
import os
from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from confext_helpers.image import signature, trust
from confext_helpers.image.certificates import Certificate
from confext_helpers.image.der import DerError
from confext_helpers.image.findings import Code
from confext_helpers.image.signature import AlgorithmError
from fuzz import ddi, libcrypto, signatures, structures
from fuzz.libcrypto import Libcrypto
from lab.requirements import need

MUTANTS = 3 * int(os.environ.get("UNIT_CONFEXT_FUZZ", "1000"))
BATCH = 30_000
BATCHES = range(-(-MUTANTS // BATCH))
BASES = signatures.load()


@pytest.fixture(scope="module")
def openssl() -> Libcrypto:
    need(libcrypto.missing())
    return Libcrypto()


def anchors_in(files: Sequence[bytes]) -> list[Certificate]:
    """What is read of the files in verity.d."""
    return [one for number, content in enumerate(files) for one in trust.first_certificate(content, f"{number}.crt")]


def judge(raw: bytes, anchors: Sequence[Certificate]) -> set[Code]:
    """The codes of all findings."""
    try:
        _, findings = signature.verify(signature.parse(raw), signatures.CONTENT, anchors, signatures.NOW)
    except DerError:
        return {Code.SIGNATURE_MALFORMED}
    except AlgorithmError:
        return {Code.SIGNATURE_ALGORITHM}
    return {one.code for one in findings}


def check(openssl: Libcrypto, raw: bytes, files: Sequence[bytes], anchors: Sequence[Certificate]) -> str:
    """Compare both judges; return what ours said."""
    codes = judge(raw, anchors)
    if not codes:
        assert openssl.verify(raw, signatures.CONTENT, files)
    if codes == {Code.SIGNATURE_UNKNOWN_KEY}:
        assert not openssl.verify(raw, signatures.CONTENT, files)
    return " ".join(sorted(codes)) or "good"


def pem(raw: bytes) -> bytes:
    lines = base64.encodebytes(raw).replace(b"\n", b"")
    body = b"\n".join(lines[start : start + 64] for start in range(0, len(lines), 64))
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"\n-----END CERTIFICATE-----\n"


def unpem(content: bytes) -> bytes:
    return base64.b64decode(b"".join(content.splitlines()[1:-1]))


POOL = [node for raw in (*BASES.signatures, *map(unpem, BASES.anchors)) for node in structures.parse(raw)[0].all()]


def test_originals(openssl: Libcrypto) -> None:
    """Without this, all of the below would pass with a verify that refuses everything, or a judge that takes it."""
    anchors = anchors_in(BASES.anchors)
    for raw in BASES.signatures:
        assert check(openssl, raw, BASES.anchors, anchors) == "good"
        assert not openssl.verify(raw, signatures.CONTENT[::-1], BASES.anchors)
        assert not openssl.verify(raw, signatures.CONTENT, [])
        assert not openssl.verify(raw[:-1], signatures.CONTENT, BASES.anchors)


@pytest.mark.parametrize("batch", BATCHES)
def test_mutated_signatures(openssl: Libcrypto, batch: int) -> None:
    anchors = anchors_in(BASES.anchors)
    seen: collections.Counter[str] = collections.Counter()
    for number in range(batch * BATCH, min(MUTANTS, (batch + 1) * BATCH)):
        raw = structures.mutate(BASES.signatures[number % len(BASES.signatures)], number, POOL)
        seen[check(openssl, raw, BASES.anchors, anchors)] += 1
    # Of each kind enough that it means something.
    assert min(seen["good"], seen["signature-malformed"], seen["signature-invalid"]) > 10
    assert seen["signature-unknown-key"]


@pytest.mark.parametrize("batch", BATCHES)
def test_mutated_anchors(openssl: Libcrypto, batch: int) -> None:
    """A mutated certificate in front of the right ones, or instead of them."""
    seen: collections.Counter[str] = collections.Counter()
    for number in range(batch * BATCH, min(MUTANTS, (batch + 1) * BATCH), 3):
        which = number % len(BASES.anchors)
        content = pem(structures.mutate(unpem(BASES.anchors[which]), number, POOL))
        if number % 10 == 0:
            position = number * 7 % len(content)
            content = content[:position] + b"\n -A\0=:\r"[number % 8 :][:1] + content[position + number % 2 :]
        files = [content, *BASES.anchors] if number % 4 else [content]
        raw = BASES.signatures[(0, 3, 2, 4)[number % 4]]
        seen[check(openssl, raw, files, anchors_in(files))] += 1
    assert min(seen["good"], seen["signature-anchor"]) > 50
    assert seen["signature-unknown-key"]


def _changed(raw: bytes, *path: int, tag: int | None = None, content: bytes | None = None) -> bytes:
    """`raw` with the type or the content of the element at `path` changed."""
    (top,) = structures.parse(raw)
    node = top
    for number in path:
        node = node.members[number]
    node.tag = node.tag if tag is None else tag
    if content is not None:
        node.content, node.members = content, []
    return top.encode()


# Places in the third of the bases, which has no certificates: its signer, and in there the issuer's first string.
SIGNER = (1, 0, 3, 0)
ISSUER = (*SIGNER, 1, 0, 0, 0, 1)


def test_names_that_openssl_takes_for_the_same(openssl: Libcrypto) -> None:
    """It would verify with a certificate that we did not find, and what that one says of its time would not count."""
    anchors = anchors_in(BASES.anchors)
    raw = BASES.signatures[2]
    for other in (
        _changed(raw, *ISSUER, content=b"SOME body"), _changed(raw, *ISSUER, content=b" Some  Body "),
        _changed(raw, *ISSUER, tag=0x13), _changed(raw, *ISSUER, tag=0x14),
        _changed(raw, *ISSUER, tag=0x1E, content="Some Body".encode("utf-16-be")),
    ):  # fmt: skip
        assert openssl.verify(other, signatures.CONTENT, BASES.anchors)
        assert judge(other, anchors) == {Code.SIGNATURE_MALFORMED}
    other = _changed(raw, *ISSUER, content=b"Some one")
    assert check(openssl, other, BASES.anchors, anchors) == "signature-unknown-key"


def test_first_of_several_anchors(openssl: Libcrypto) -> None:
    """Also one whose name is written in another way, and one that only OpenSSL understands."""
    raw, good = BASES.signatures[2], BASES.anchors[0]
    for subject, code in ((b"Some Body", "signature-invalid"), (b"some  body", "signature-malformed")):
        other = _changed(unpem(good), 0, 3, 0, 0, 1, content=subject)
        # With another key of the same kind.
        key = ddi.identity("other", 5).key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        other = _changed(other, 0, 6, 1, content=b"\0" + key)
        files = [pem(other), good]
        assert check(openssl, raw, files, anchors_in(files)) == code
        assert not openssl.verify(raw, signatures.CONTENT, files)
        assert check(openssl, raw, files[::-1], anchors_in(files[::-1])) == "good"
    files = [pem(unpem(good) + b"\0"), good]
    assert check(openssl, raw, files, anchors_in(files)) == "signature-anchor"


PEM = BASES.anchors[0]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"nothing", unpem(PEM), b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        PEM.replace(b"-----END", b"----END"), PEM.replace(b"BEGIN CERT", b"BEGIN TRUSTED CERT"),
        PEM.replace(b"\n", b"\n\n", 1), PEM.replace(b"\n", b"\nProc-Type: 4,ENCRYPTED\n\n", 1), b"x" + PEM, b"\0" + PEM,
        b" " + PEM, PEM.replace(b"\n", b""), b"x" * 254 + PEM,
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n" + PEM,
    ],
)  # fmt: skip
def test_files_that_are_no_plain_pem(openssl: Libcrypto, content: bytes) -> None:
    raw = BASES.signatures[0]
    for files in ([content], [content, PEM]):
        anchors = anchors_in(files)
        check(openssl, raw, files, anchors)
        assert not anchors or anchors[0].problem or len(files) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"some words\n" + PEM, PEM.replace(b"\n", b" \r\n"), PEM.rstrip(), PEM.replace(b" CERT", b" X509 CERT"),
        PEM + BASES.anchors[1] + b"\0",
    ],
)  # fmt: skip
def test_files_that_openssl_reads(openssl: Libcrypto, content: bytes) -> None:
    assert openssl.verify(BASES.signatures[0], signatures.CONTENT, [content])
    said = check(openssl, BASES.signatures[0], [content], anchors_in([content]))
    assert said == ("signature-anchor" if b"\0" in content else "good")
