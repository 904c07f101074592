# SPDX-License-Identifier: LGPL-2.1-or-later
"""Verify signatures of root hashes: detached PKCS#7, i.e. CMS SignedData (RFC 5652), over the root hash as text.

`cryptography` has the primitives and the certificates, but no function that verifies PKCS#7. The code that is missing
there is small, and strict: every signer has to be trusted, every signature has to be valid, and anything unknown is
refused. As with PKCS7_verify() and PKCS7_NOINTERN, certificates that come with a signature only tell who claims to have
signed.

When a service starts, either the kernel, with its keyring, or OpenSSL's PKCS7_verify(), with verity.d, verifies the
signature. A signature that only one of them accepts is refused here. So only RSA with PKCS#1 v1.5 and ECDSA count, and
only signers that are named by issuer and serial number. Parts that neither needs, but OpenSSL parses, are parsed here,
too: OpenSSL refuses the whole signature for one bad byte in them.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from confext_helpers.image import certificates, der
from confext_helpers.image.certificates import Certificate
from confext_helpers.image.der import DerError, Element
from confext_helpers.image.findings import Code, Finding

SIZE_MAX = 1 << 20
_RSA_BITS_MIN = 2048
_NULL = b"\x05\x00"
_SIGNERS_MAX = 8

_SIGNED_DATA = "1.2.840.113549.1.7.2"
_DATA = "1.2.840.113549.1.7.1"
_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"

_DIGESTS: dict[str, hashes.HashAlgorithm] = {
    "2.16.840.1.101.3.4.2.1": hashes.SHA256(),
    "2.16.840.1.101.3.4.2.2": hashes.SHA384(),
    "2.16.840.1.101.3.4.2.3": hashes.SHA512(),
}
_RSA_WITH = {"1.2.840.113549.1.1.11": "sha256", "1.2.840.113549.1.1.12": "sha384", "1.2.840.113549.1.1.13": "sha512"}
_PSS = "1.2.840.113549.1.1.10"
_EC_WITH = {"1.2.840.10045.4.3.2": "sha256", "1.2.840.10045.4.3.3": "sha384", "1.2.840.10045.4.3.4": "sha512"}
_WEAK = {
    "1.2.840.113549.2.5": "MD5", "1.3.14.3.2.26": "SHA-1", "1.2.840.113549.1.1.4": "MD5",
    "1.2.840.113549.1.1.5": "SHA-1", "1.2.840.10045.4.1": "SHA-1",
}  # fmt: skip


class AlgorithmError(Exception):
    """The algorithm or the key is too weak, or not accepted by all verifiers."""


class Signer(NamedTuple):
    """One signer of a signature.

    Attributes:
        issuer: the issuer of the signer's certificate, in DER.
        serial: the serial number of the signer's certificate.
        digest: the name of the hash function.
        algorithm: the object identifier of the signature algorithm.
        attributes: the signed attributes, in DER as a SET OF; empty if there are none.
        signature: the signature itself.
    """

    issuer: bytes
    serial: int
    digest: str
    algorithm: str
    attributes: bytes
    signature: bytes

    def is_of(self, certificate: Certificate) -> bool:
        """Whether issuer and serial number are those of `certificate`, byte by byte."""
        return self.serial == certificate.serial and self.issuer == certificate.issuer_der

    def may_be_of(self, certificate: Certificate) -> bool:
        """Whether OpenSSL may consider `certificate` to be the signer's."""
        return self.serial == certificate.serial and (
            certificates.folded(self.issuer) == certificates.folded(certificate.issuer_der)
        )


class Signature(NamedTuple):
    """A parsed signature, which is not verified yet.

    Attributes:
        signers: the signers, at least one.
        certificates: the certificates that came with the signature.
    """

    signers: tuple[Signer, ...]
    certificates: tuple[Certificate, ...]


class Verified(NamedTuple):
    """The verdict about one signer.

    Attributes:
        signer: the signer.
        certificate: the signer's certificate from the trust anchors, else from the signature, else None.
        trusted: whether the certificate is one of the trust anchors.
        valid: whether `trusted` is true, the signature is right, and the certificate is valid now.
    """

    signer: Signer
    certificate: Certificate | None
    trusted: bool
    valid: bool


def parse(raw: bytes) -> Signature:
    """Parse a detached PKCS#7 signature in DER.

    Raises:
        DerError: `raw` is not such a signature, or has parts that are not understood.
        AlgorithmError: the signature uses a weak or unknown algorithm.
    """
    if len(raw) > SIZE_MAX:
        raise DerError(f"{len(raw)} bytes are too many")
    kind, wrapped = der.fields(der.parse(raw, der.SEQUENCE), 2, 2)
    if der.oid(kind) != _SIGNED_DATA:
        raise DerError("not signed data")
    body = der.parse(der.expect(wrapped, der.CONTEXT | der.CONSTRUCTED).content, der.SEQUENCE)
    fields = list(der.elements(body.content))
    if len(fields) < 4:
        raise DerError("signed data that are cut off")
    # OpenSSL computes every digest that is announced here, and fails for one that it does not know.
    digests = [_name(_digest(one)) for one in der.members(der.expect(fields[1], der.SET))]
    if der.fields(fields[2], 1, 1)[0].raw != _encoded_oid(_DATA):
        raise DerError("included content, or content of a type other than data")
    brought: tuple[Certificate, ...] = ()
    rest = fields[3:]
    if rest[0].tag == der.CONTEXT | der.CONSTRUCTED:
        brought = tuple(certificates.parse(one.raw) for one in der.elements(rest.pop(0).content))
    if len(rest) != 1:
        raise DerError("revocation lists, which are not supported, or data after the signers")
    raw_signers = der.members(der.expect(rest[0], der.SET))
    if not 0 < len(raw_signers) <= _SIGNERS_MAX:
        raise DerError(f"{len(raw_signers)} signers")
    signers = tuple(_signer(one, digests) for one in raw_signers)
    if len({(certificates.folded(one.issuer), one.serial) for one in signers}) < len(signers):
        raise DerError("the same signer twice")
    # RFC 5652, 5.1: the version is 3 if a signer is named by a key identifier, which d2i_PKCS7() does not know.
    if der.integer(fields[0]) != 1:
        raise DerError(f"signed data of version {der.integer(fields[0])}")
    return Signature(signers, brought)


def verify(
    signature: Signature, content: bytes, anchors: Sequence[Certificate], now: datetime.datetime
) -> tuple[list[Verified], list[Finding]]:
    """Verify a signature.

    Args:
        signature: the result of parse().
        content: the signed content, such as a root hash in lower-case hexadecimal.
        anchors: the trusted certificates.
        now: the current time, with a time zone.

    Returns:
        A verdict about each signer, and the findings. All signers have to be trusted and valid.
    """
    verdicts, findings = [], []
    for signer in signature.signers:
        anchor = next((one for one in anchors if one.problem or signer.may_be_of(one)), None)
        if anchor is None or anchor.problem:
            claimed = next((one for one in signature.certificates if signer.is_of(one)), None)
            verdicts.append(Verified(signer, claimed, False, False))
            name = claimed.subject if claimed else f"a certificate with the serial number {signer.serial:x}"
            findings.append(_untrusted(name, anchor))
            continue
        # Of several trust anchors with the same issuer and serial number, OpenSSL tries only the first.
        finding = _check(signer, content, anchor, now)
        verdicts.append(Verified(signer, anchor, True, finding is None))
        if finding is not None:
            findings.append(finding)
    return verdicts, findings


def _untrusted(name: str, obstacle: Certificate | None) -> Finding:
    if obstacle is None:
        return Finding(Code.SIGNATURE_UNKNOWN_KEY, f"signed by {name}, which is not trusted")
    # systemd may be able to parse this anchor and consider it the signer's; systemd would not try another one then.
    what = f"signed by {name}, which may not be trusted, since the anchor {obstacle.origin} cannot be parsed"
    return Finding(Code.SIGNATURE_ANCHOR, f"{what}: {obstacle.problem}")


def _check(signer: Signer, content: bytes, anchor: Certificate, now: datetime.datetime) -> Finding | None:
    if not signer.is_of(anchor):
        what = f"the signature spells the issuer of {anchor.subject} differently than the certificate"
        return Finding(Code.SIGNATURE_MALFORMED, what)
    try:
        _verify_one(signer, content, anchor)
    except AlgorithmError as error:
        return Finding(Code.SIGNATURE_ALGORITHM, f"signed by {anchor.subject}: {error}")
    except (InvalidSignature, DerError, UnsupportedAlgorithm, ValueError) as error:
        why = str(error) or "it does not match"
        return Finding(Code.SIGNATURE_INVALID, f"not a signature of this root hash by {anchor.subject}: {why}")
    if now > anchor.not_after:
        return Finding(Code.SIGNATURE_EXPIRED, f"{anchor.subject} expired on {anchor.not_after:%Y-%m-%d %H:%M} UTC")
    if now < anchor.not_before:
        return Finding(
            Code.SIGNATURE_EXPIRED, f"{anchor.subject} is not valid before {anchor.not_before:%Y-%m-%d %H:%M} UTC"
        )
    return None


def _verify_one(signer: Signer, content: bytes, anchor: Certificate) -> None:
    if signer.attributes:
        _check_attributes(signer, content)
        # RFC 5652, 5.4: the signature is over the encoding as a SET OF, not over the tagged form in the message.
        content = signer.attributes
    digest = next(one for one in _DIGESTS.values() if one.name == signer.digest)
    key = anchor.public_key
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < _RSA_BITS_MIN:
            raise AlgorithmError(f"an RSA key of {key.key_size} bits is too short")
        if signer.algorithm != certificates.RSA and _RSA_WITH.get(signer.algorithm) != signer.digest:
            raise AlgorithmError(f"the kernel does not accept {signer.algorithm} with {signer.digest} for an RSA key")
        key.verify(signer.signature, content, padding.PKCS1v15(), digest)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if signer.algorithm != certificates.EC and _EC_WITH.get(signer.algorithm) != signer.digest:
            raise AlgorithmError(f"the kernel does not accept {signer.algorithm} with {signer.digest} for an EC key")
        key.verify(signer.signature, content, ec.ECDSA(digest))
    else:
        raise AlgorithmError("the kernel does not support the type of the certificate's key")


def _check_attributes(signer: Signer, content: bytes) -> None:
    values: dict[str, Element] = {}
    for name, found in _attributes(der.parse(signer.attributes, der.SET)):
        if name in values:
            raise DerError("a signed attribute is there twice")
        values[name] = found
    for needed in (_CONTENT_TYPE, _MESSAGE_DIGEST):
        if needed not in values:
            raise DerError("a signed attribute is missing")
    if values[_CONTENT_TYPE].content != _encoded_oid(_DATA):
        raise DerError("the signed attributes are for another type of content")
    stated = der.parse(values[_MESSAGE_DIGEST].content, der.OCTET_STRING).content
    if stated != hashlib.new(signer.digest, content).digest():
        raise DerError("the signed attributes are for another root hash")


def _attributes(element: Element) -> list[tuple[str, Element]]:
    """The object identifier and the set of values of each member of a SET OF Attribute."""
    found = []
    for attribute in der.members(element):
        kind, values = der.fields(attribute, 2, 2)
        for value in der.members(der.expect(values, der.SET)):
            der.check_any(value)
        found.append((der.oid(kind), values))
    return found


def _signer(element: Element, digests: Sequence[str]) -> Signer:
    fields = der.fields(element, 5, 7)
    version = der.integer(fields[0])
    if version == 3:
        raise DerError("a signer named by a key identifier, which systemd does not support")
    if version != 1:
        raise DerError(f"a signer of version {version}")
    issuer, number = der.fields(fields[1], 2, 2)
    certificates.folded(issuer.raw)
    digest = _name(_digest(fields[2]))
    if digest not in digests:
        raise DerError("a signer with a hash function that the signature's list lacks")
    rest = fields[3:]
    attributes = b""
    if rest[0].tag == der.CONTEXT | der.CONSTRUCTED:
        attributes = bytes((der.SET,)) + rest.pop(0).raw[1:]
        _attributes(der.parse(attributes, der.SET))
    # Unsigned attributes are checked for valid DER, and otherwise ignored.
    if not 2 <= len(rest) <= 3:
        raise DerError("a signer with an unknown field")
    for unsigned in rest[2:]:
        _attributes(der.expect(unsigned, der.CONTEXT | der.CONSTRUCTED | 1))
    algorithm, parameters = _algorithm(rest[0])
    signature = der.expect(rest[1], der.OCTET_STRING).content
    if algorithm == _PSS:
        raise AlgorithmError("systemd and the kernel do not support RSA-PSS; sign with PKCS#1 v1.5")
    if parameters not in (b"", _NULL):
        raise DerError("an algorithm with unexpected parameters")
    return Signer(issuer.raw, der.integer(number), digest, algorithm, attributes, signature)


def _algorithm(element: Element) -> tuple[str, bytes]:
    """The object identifier and the encoded parameters of an AlgorithmIdentifier; raises AlgorithmError if weak."""
    identifier, parameters = certificates.algorithm(element)
    if identifier in _WEAK:
        raise AlgorithmError(f"{_WEAK[identifier]} is too weak for a signature")
    return identifier, parameters


def _digest(element: Element) -> str:
    """The object identifier of a hash function; hash functions have no parameters."""
    identifier, parameters = _algorithm(element)
    if parameters not in (b"", _NULL):
        raise DerError("a hash function with parameters")
    return identifier


def _name(identifier: str) -> str:
    if identifier not in _DIGESTS:
        raise AlgorithmError(f"the hash function {identifier} is not known")
    return _DIGESTS[identifier].name


def _encoded_oid(dotted: str) -> bytes:
    first, second, *arcs = map(int, dotted.split("."))
    body = bytes((40 * first + second,))
    for arc in arcs:
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(arc & 0x7F | 0x80)
        body += bytes(reversed(digits))
    return bytes((der.OID, len(body))) + body
