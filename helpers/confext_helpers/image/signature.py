"""Signatures of root hashes: PKCS#7, which is CMS SignedData (RFC 5652), detached, over the root hash as text.

`cryptography` has the primitives and the certificates, but no function that verifies PKCS#7. What is left to do here is
small, and strict: every signer has to be known, every signature has to be right, and what is not understood is refused.
As with PKCS7_verify() and PKCS7_NOINTERN, certificates that come with a signature only tell who claims to have signed.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from confext_helpers.image import der
from confext_helpers.image.der import DerError, Element
from confext_helpers.image.findings import Code, Finding
from confext_helpers.image.trust import Certificate, parse_certificate

SIZE_MAX = 1 << 20
_RSA_BITS_MIN = 2048
_NULL = b"\x05\x00"
_SIGNERS_MAX = 8

_SIGNED_DATA = "1.2.840.113549.1.7.2"
_DATA = "1.2.840.113549.1.7.1"
_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_MGF1 = "1.2.840.113549.1.1.8"

_DIGESTS: dict[str, hashes.HashAlgorithm] = {
    "2.16.840.1.101.3.4.2.1": hashes.SHA256(),
    "2.16.840.1.101.3.4.2.2": hashes.SHA384(),
    "2.16.840.1.101.3.4.2.3": hashes.SHA512(),
}
_RSA = "1.2.840.113549.1.1.1"
_RSA_WITH = {"1.2.840.113549.1.1.11": "sha256", "1.2.840.113549.1.1.12": "sha384", "1.2.840.113549.1.1.13": "sha512"}
_PSS = "1.2.840.113549.1.1.10"
_EC = "1.2.840.10045.2.1"
_EC_WITH = {"1.2.840.10045.4.3.2": "sha256", "1.2.840.10045.4.3.3": "sha384", "1.2.840.10045.4.3.4": "sha512"}
_ED25519 = "1.3.101.112"
_WEAK = {
    "1.2.840.113549.2.5": "MD5", "1.3.14.3.2.26": "SHA-1", "1.2.840.113549.1.1.4": "MD5",
    "1.2.840.113549.1.1.5": "SHA-1", "1.2.840.10045.4.1": "SHA-1",
}  # fmt: skip


class AlgorithmError(Exception):
    """An algorithm or a key that does not count."""


class Signer(NamedTuple):
    """One signer of a signature.

    Attributes:
        issuer: issuer of its certificate as encoded; empty if it is named by a key identifier.
        serial: serial number of its certificate; None likewise.
        key_identifier: subject key identifier of its certificate, or None.
        digest: name of the hash function.
        algorithm: object identifier of the signature algorithm.
        parameters: its parameters as encoded; empty if there are none.
        attributes: the signed attributes as encoded, a SET OF; empty if there are none.
        signature: the signature.
    """

    issuer: bytes
    serial: int | None
    key_identifier: bytes | None
    digest: str
    algorithm: str
    parameters: bytes
    attributes: bytes
    signature: bytes

    def is_of(self, certificate: Certificate) -> bool:
        """Whether this names that certificate."""
        if self.key_identifier is not None:
            return self.key_identifier == certificate.key_identifier
        return self.serial == certificate.serial and self.issuer == certificate.issuer_der


class Signature(NamedTuple):
    """A signature that was parsed; nothing of it is verified.

    Attributes:
        signers: at least one.
        certificates: what came with it.
    """

    signers: tuple[Signer, ...]
    certificates: tuple[Certificate, ...]


class Verified(NamedTuple):
    """What became of a signer.

    Attributes:
        signer: who.
        certificate: the trusted certificate; if there is none, one that came with the signature; or None.
        trusted: whether the certificate is one of the trust anchors.
        valid: whether it is, the signature is right, and the certificate is valid now.
    """

    signer: Signer
    certificate: Certificate | None
    trusted: bool
    valid: bool


def parse(raw: bytes) -> Signature:
    """Parse a detached PKCS#7 signature in DER.

    Raises:
        DerError: it is none, or has something in it that is not understood.
        AlgorithmError: it was made with a hash function that does not count.
    """
    if len(raw) > SIZE_MAX:
        raise DerError(f"{len(raw)} bytes are too many")
    kind, wrapped = _exactly(der.parse(raw, der.SEQUENCE), 2)
    if der.oid(kind) != _SIGNED_DATA:
        raise DerError("not signed data")
    body = der.parse(der.expect(wrapped, der.CONTEXT | der.CONSTRUCTED).content, der.SEQUENCE)
    fields = list(der.elements(body.content))
    if len(fields) < 4:
        raise DerError("signed data that are cut off")
    digests = [_digest(one) for one in der.members(der.expect(fields[1], der.SET))]
    if _exactly(der.expect(fields[2], der.SEQUENCE), 1)[0].raw != _encoded_oid(_DATA):
        raise DerError("content of its own, or of a kind that is no data")
    certificates: tuple[Certificate, ...] = ()
    rest = fields[3:]
    if rest[0].tag == der.CONTEXT | der.CONSTRUCTED:
        certificates = tuple(parse_certificate(one.raw) for one in der.elements(rest.pop(0).content))
    if len(rest) != 1:
        raise DerError("revocation lists, which are not evaluated, or something behind the signers")
    raw_signers = der.members(der.expect(rest[0], der.SET))
    if not 0 < len(raw_signers) <= _SIGNERS_MAX:
        raise DerError(f"{len(raw_signers)} signers")
    signers = tuple(_signer(one, digests) for one in raw_signers)
    if len({(one.issuer, one.serial, one.key_identifier) for one in signers}) < len(signers):
        raise DerError("the same signer twice")
    # RFC 5652, 5.1: 3 if a signer is named by a key identifier, else 1.
    if der.integer(fields[0]) != (3 if any(one.key_identifier is not None for one in signers) else 1):
        raise DerError(f"signed data of version {der.integer(fields[0])}")
    return Signature(signers, certificates)


def verify(
    signature: Signature, content: bytes, anchors: Sequence[Certificate], now: datetime.datetime
) -> tuple[list[Verified], list[Finding]]:
    """Verify a signature.

    Args:
        signature: what parse() returned.
        content: what has to be signed, such as a root hash in lower-case hexadecimal.
        anchors: certificates that are trusted.
        now: with a time zone.

    Returns:
        A verdict about each signer, and what is wrong. All signers have to be trusted and valid.
    """
    verdicts, findings = [], []
    for signer in signature.signers:
        trusted = [anchor for anchor in anchors if signer.is_of(anchor)]
        if not trusted:
            claimed = next((one for one in signature.certificates if signer.is_of(one)), None)
            name = claimed.subject if claimed else _identified(signer)
            verdicts.append(Verified(signer, claimed, False, False))
            findings.append(Finding(Code.SIGNATURE_UNKNOWN_KEY, f"signed by {name}, which is not trusted"))
            continue
        # Two anchors may have the same issuer and number, since anybody can issue for themselves.
        outcomes = [(anchor, _check(signer, content, anchor, now)) for anchor in trusted]
        anchor, finding = next((one for one in outcomes if one[1] is None), outcomes[0])
        verdicts.append(Verified(signer, anchor, True, finding is None))
        if finding is not None:
            findings.append(finding)
    return verdicts, findings


def _check(signer: Signer, content: bytes, anchor: Certificate, now: datetime.datetime) -> Finding | None:
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
        # RFC 5652, 5.4: signed is the encoding as a SET OF, although it stands there with a tag of its own.
        content = signer.attributes
    digest = next(one for one in _DIGESTS.values() if one.name == signer.digest)
    key = anchor.public_key
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < _RSA_BITS_MIN:
            raise AlgorithmError(f"an RSA key of {key.key_size} bits is too short")
        key.verify(signer.signature, content, _rsa_padding(signer, digest), digest)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if signer.algorithm != _EC and _EC_WITH.get(signer.algorithm) != signer.digest:
            raise AlgorithmError(f"{signer.algorithm} with {signer.digest} is not for an elliptic curve")
        key.verify(signer.signature, content, ec.ECDSA(digest))
    elif isinstance(key, ed25519.Ed25519PublicKey):
        # RFC 8419: the hash function is that of the attributes, and has to be this one.
        if signer.algorithm != _ED25519 or signer.digest != "sha512":
            raise AlgorithmError(f"{signer.algorithm} with {signer.digest} is not for Ed25519")
        key.verify(signer.signature, content)
    else:
        raise AlgorithmError("the certificate has a key of a kind that is not known")


def _rsa_padding(signer: Signer, digest: hashes.HashAlgorithm) -> padding.AsymmetricPadding:
    if signer.algorithm == _RSA or _RSA_WITH.get(signer.algorithm) == signer.digest:
        return padding.PKCS1v15()
    if signer.algorithm != _PSS:
        raise AlgorithmError(f"{signer.algorithm} with {signer.digest} is not for RSA")
    fields = {one.tag & 0x1F: one for one in der.elements(der.parse(signer.parameters, der.SEQUENCE).content)}
    if not {0, 1, 2} >= fields.keys() >= {0, 1}:
        raise AlgorithmError("RSA-PSS with parameters that are not known")
    own = _digest(der.parse(fields[0].content, der.SEQUENCE))
    mask, mask_parameters = _algorithm(der.parse(fields[1].content, der.SEQUENCE))
    mask_digest = _digest(der.parse(mask_parameters, der.SEQUENCE))
    if mask != _MGF1 or not _name(own) == _name(mask_digest) == signer.digest:
        raise AlgorithmError("RSA-PSS with different hash functions")
    salt = der.integer(der.parse(fields[2].content, der.INTEGER)) if 2 in fields else 20
    if not 0 <= salt <= 512:
        raise AlgorithmError(f"RSA-PSS with a salt of {salt} bytes")
    return padding.PSS(padding.MGF1(digest), salt)


def _check_attributes(signer: Signer, content: bytes) -> None:
    values: dict[str, Element] = {}
    for attribute in der.members(der.parse(signer.attributes, der.SET)):
        kind, found = _exactly(attribute, 2)
        name = der.oid(kind)
        if name in values:
            raise DerError("a signed attribute is there twice")
        values[name] = der.expect(found, der.SET)
    for needed in (_CONTENT_TYPE, _MESSAGE_DIGEST):
        if needed not in values:
            raise DerError("a signed attribute is missing")
    if values[_CONTENT_TYPE].content != _encoded_oid(_DATA):
        raise DerError("the signed attributes are for another type of content")
    stated = der.parse(values[_MESSAGE_DIGEST].content, der.OCTET_STRING).content
    if stated != hashlib.new(signer.digest, content).digest():
        raise DerError("the signed attributes are for another root hash")


def _signer(element: Element, digests: Sequence[str]) -> Signer:
    fields = list(der.elements(der.expect(element, der.SEQUENCE).content))
    if len(fields) < 5:
        raise DerError("a signer that is cut off")
    version = der.integer(fields[0])
    issuer, serial, key_identifier = b"", None, None
    if version == 1:
        issuer_element, number = _exactly(der.expect(fields[1], der.SEQUENCE), 2)
        issuer, serial = der.expect(issuer_element, der.SEQUENCE).raw, der.integer(number)
    elif version == 3:
        key_identifier = der.expect(fields[1], der.CONTEXT).content
    else:
        raise DerError(f"a signer of version {version}")
    digest = _digest(fields[2])
    if digest not in digests:
        raise DerError("a signer with a hash function that is not announced")
    rest = fields[3:]
    attributes = b""
    if rest[0].tag == der.CONTEXT | der.CONSTRUCTED:
        attributes = bytes((der.SET,)) + rest.pop(0).raw[1:]
        der.members(der.parse(attributes, der.SET))
    # Attributes that are not signed, tag 1, mean nothing.
    if not 2 <= len(rest) <= 3 or (len(rest) == 3 and rest[2].tag != der.CONTEXT | der.CONSTRUCTED | 1):
        raise DerError("a signer with something in it that is not known")
    algorithm, parameters = _algorithm(rest[0])
    if algorithm != _PSS and parameters not in (b"", _NULL):
        raise DerError("an algorithm with parameters that it has not")
    signature = der.expect(rest[1], der.OCTET_STRING).content
    return Signer(issuer, serial, key_identifier, _name(digest), algorithm, parameters, attributes, signature)


def _algorithm(element: Element) -> tuple[str, bytes]:
    """Object identifier and encoded parameters of an AlgorithmIdentifier."""
    fields = list(der.elements(der.expect(element, der.SEQUENCE).content))
    if not 1 <= len(fields) <= 2:
        raise DerError("a malformed algorithm")
    identifier = der.oid(fields[0])
    if identifier in _WEAK:
        raise AlgorithmError(f"{_WEAK[identifier]} does not count as a signature any more")
    return identifier, fields[1].raw if len(fields) == 2 else b""


def _digest(element: Element) -> str:
    """Object identifier of a hash function, none of which has parameters."""
    identifier, parameters = _algorithm(element)
    if parameters not in (b"", _NULL):
        raise DerError("a hash function with parameters")
    return identifier


def _name(identifier: str) -> str:
    if identifier not in _DIGESTS:
        raise AlgorithmError(f"the hash function {identifier} is not known")
    return _DIGESTS[identifier].name


def _exactly(element: Element, count: int) -> list[Element]:
    found = list(der.elements(element.content))
    if len(found) != count:
        raise DerError(f"{len(found)} elements instead of {count}")
    return found


def _encoded_oid(dotted: str) -> bytes:
    first, second, *arcs = map(int, dotted.split("."))
    body = bytes((40 * first + second,))
    for arc in arcs:
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(arc & 0x7F | 0x80)
        body += bytes(reversed(digits))
    return bytes((der.OID, len(body))) + body


def _identified(signer: Signer) -> str:
    if signer.key_identifier is not None:
        return f"the key {signer.key_identifier.hex()}"
    return f"a certificate with the serial number {signer.serial:x}"
