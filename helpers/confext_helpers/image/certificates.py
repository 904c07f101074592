# SPDX-License-Identifier: LGPL-2.1-or-later
"""X.509 certificates (RFC 5280): a strict parser, OpenSSL's comparison of names, and the kinds of keys that may sign.

A signature may include certificates that nobody needs. Those are parsed here nevertheless: systemd passes the whole
signature to d2i_PKCS7(), which refuses it if a single certificate in it is malformed. The structure is checked first,
and only then `cryptography`, which accepts more than OpenSSL, extracts the fields.
"""

from __future__ import annotations

import datetime
import hashlib
import warnings
from typing import Any, NamedTuple

from cryptography import x509

from confext_helpers.image import der
from confext_helpers.image.der import DerError, Element

RSA = "1.2.840.113549.1.1.1"
EC = "1.2.840.10045.2.1"
_NULL = b"\x05\x00"
# The curves on which the kernel verifies signatures: P-256, P-384 and P-521.
_CURVES = {"1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"}
_TIMES = (der.UTC_TIME, der.GENERALIZED_TIME)


class Certificate(NamedTuple):
    """The fields of a certificate that matter here.

    Attributes:
        der: the whole certificate, in DER.
        subject: the subject's name, RFC 4514.
        issuer: the issuer's name, RFC 4514.
        issuer_der: the issuer's name, in DER.
        serial: the serial number.
        not_before: the beginning of the validity period, UTC.
        not_after: the end of the validity period, UTC.
        public_key: a key object of `cryptography`; None if the key is of a kind that may not sign.
        origin: the file that the certificate was read from; empty if it came with a signature.
        problem: why this module cannot parse the certificate, although systemd may be able to. If set, all other
            attributes except `origin` are meaningless.
    """

    der: bytes
    subject: str
    issuer: str
    issuer_der: bytes
    serial: int
    not_before: datetime.datetime
    not_after: datetime.datetime
    public_key: Any
    origin: str = ""
    problem: str = ""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, in hexadecimal."""
        return hashlib.sha256(self.der).hexdigest()


class _Structure(NamedTuple):
    """The fields that are parsed without `cryptography`."""

    issuer_der: bytes
    serial: int
    may_sign: bool


def parse(raw: bytes, origin: str = "") -> Certificate:
    """Parse a certificate in DER.

    Raises:
        DerError: `raw` is not a valid certificate.
    """
    structure = _structure(raw)
    try:
        with warnings.catch_warnings():
            # Ignore warnings about serial numbers that future versions will refuse.
            warnings.simplefilter("ignore")
            loaded = x509.load_der_x509_certificate(raw)
            return Certificate(
                der=raw,
                subject=loaded.subject.rfc4514_string(),
                issuer=loaded.issuer.rfc4514_string(),
                issuer_der=structure.issuer_der,
                serial=structure.serial,
                not_before=_utc(loaded, "not_valid_before"),
                not_after=_utc(loaded, "not_valid_after"),
                public_key=loaded.public_key() if structure.may_sign else None,
                origin=origin,
            )
    except Exception as error:
        # The exception for a malformed certificate depends on the versions of cryptography and OpenSSL, and on the
        # field that is read.
        raise DerError(f"a certificate that cannot be read: {error}") from error


def not_understood(origin: str, problem: str) -> Certificate:
    """A placeholder for a trust anchor that systemd may be able to parse, but this module cannot."""
    never = datetime.datetime.min.replace(tzinfo=datetime.UTC)
    return Certificate(b"", "", "", b"", 0, never, never, None, origin, problem)


def folded(name: bytes) -> tuple[tuple[str, ...], ...]:
    """A normalized form of a name: equal for all names that X509_NAME_cmp() considers equal, and for some more.

    OpenSSL ignores string types, case and the amount of white space.

    Raises:
        DerError: `name` is not a valid name.
    """
    found = []
    for relative in der.elements(der.parse(name, der.SEQUENCE).content):
        pairs = []
        for pair in der.members(der.expect(relative, der.SET)):
            kind, value = der.fields(pair, 2, 2)
            pairs.append(der.oid(kind) + "".join(der.text(value).split()).casefold())
        if not pairs:
            raise DerError("a name with an empty part")
        found.append(tuple(sorted(pairs)))
    return tuple(found)


def algorithm(element: Element | None) -> tuple[str, bytes]:
    """The object identifier and the encoded parameters of an AlgorithmIdentifier.

    Raises:
        DerError: `element` is not an AlgorithmIdentifier.
    """
    found = der.fields(element, 1, 2)
    for parameters in found[1:]:
        der.check_any(parameters)
    return der.oid(found[0]), found[1].raw if len(found) == 2 else b""


def _structure(raw: bytes) -> _Structure:
    body, signature_algorithm, signature = der.fields(der.parse(raw, der.SEQUENCE), 3, 3)
    algorithm(signature_algorithm)
    der.bit_string(signature)
    fields = der.fields(body, 6, 8)
    if fields[0].tag == der.CONTEXT | der.CONSTRUCTED:
        der.integer(der.parse(fields.pop(0).content, der.INTEGER))
    # After the key, accept only extensions: the other two optional fields have not been in use for decades.
    if not 6 <= len(fields) <= 7:
        raise DerError("a certificate with an unknown field")
    number, inner_algorithm, issuer, validity, subject, key = fields[:6]
    algorithm(inner_algorithm)
    folded(issuer.raw)
    folded(subject.raw)
    for date in der.fields(validity, 2, 2):
        if date.tag not in _TIMES:
            raise DerError(f"{date.tag:#x} instead of a date")
    for extensions in fields[6:]:
        _check_extensions(der.expect(extensions, der.CONTEXT | der.CONSTRUCTED | 3))
    key_algorithm, bits = der.fields(key, 2, 2)
    der.bit_string(bits)
    kind, parameters = algorithm(key_algorithm)
    # Check the algorithm here: `cryptography` does not tell an RSA key that is restricted to PSS from other RSA keys.
    may_sign = kind == RSA and parameters == _NULL
    if kind == EC and parameters[:1] == bytes((der.OID,)):
        may_sign = der.oid(der.parse(parameters, der.OID)) in _CURVES
    return _Structure(issuer.raw, der.integer(number), may_sign)


def _check_extensions(element: Element) -> None:
    for extension in der.elements(der.parse(element.content, der.SEQUENCE).content):
        kind, *rest = der.fields(extension, 2, 3)
        der.oid(kind)
        if len(rest) == 2 and der.expect(rest[0], der.BOOLEAN).content != b"\xff":
            raise DerError("an extension that is malformed")
        der.expect(rest[-1], der.OCTET_STRING)


def _utc(certificate: x509.Certificate, name: str) -> datetime.datetime:
    # cryptography 42 added the attributes with a time zone, and began to warn about those without.
    if hasattr(certificate, f"{name}_utc"):
        found: datetime.datetime = getattr(certificate, f"{name}_utc")
        return found
    plain: datetime.datetime = getattr(certificate, name)
    return plain.replace(tzinfo=datetime.UTC)
