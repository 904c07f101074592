# SPDX-License-Identifier: LGPL-2.1-or-later
"""Certificates, X.509 (RFC 5280): their structure strictly, names as OpenSSL compares them, and keys that may sign.

A signature may bring certificates along that nobody needs. But systemd hands all of it to d2i_PKCS7(), which refuses
the whole for one certificate in there that is malformed; so they are taken apart here just the same. Only what is
needed of them is left to `cryptography`, which gets along with more than OpenSSL does.
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
# The curves that the kernel knows for this: P-256, P-384 and P-521.
_CURVES = {"1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"}
_TIMES = (der.UTC_TIME, der.GENERALIZED_TIME)


class Certificate(NamedTuple):
    """A certificate, as far as it matters here.

    Attributes:
        der: all of it.
        subject: whom it is for, RFC 4514.
        issuer: who issued it, RFC 4514.
        issuer_der: the same as it is encoded.
        serial: the number that the issuer gave it.
        not_before: from when on it is valid, UTC.
        not_after: until when it is valid, UTC.
        public_key: for `cryptography`; None if it is of a kind that may not sign.
        origin: the file that it was read from; empty if it came with a signature.
        problem: why it is not understood, although systemd may understand it; all else but `origin` means nothing then.
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
    """What is read without `cryptography`."""

    issuer_der: bytes
    serial: int
    may_sign: bool


def parse(raw: bytes, origin: str = "") -> Certificate:
    """Parse a certificate in DER.

    Raises:
        DerError: it is none.
    """
    structure = _structure(raw)
    try:
        with warnings.catch_warnings():
            # About serial numbers that newer versions will refuse. Then they are refused.
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
        # What a malformed certificate raises depends on the version of cryptography and of OpenSSL, and on which
        # part of it is read.
        raise DerError(f"a certificate that cannot be read: {error}") from error


def not_understood(origin: str, problem: str) -> Certificate:
    """What stands for a trust anchor that systemd may understand, and this does not."""
    never = datetime.datetime.min.replace(tzinfo=datetime.UTC)
    return Certificate(b"", "", "", b"", 0, never, never, None, origin, problem)


def folded(name: bytes) -> tuple[tuple[str, ...], ...]:
    """A name in a form that is the same for all names that X509_NAME_cmp() takes for the same, and for some more.

    OpenSSL compares neither the type of a string, nor upper and lower case, nor how much white space there is.

    Raises:
        DerError: it is no name.
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
    """Object identifier and encoded parameters of an AlgorithmIdentifier.

    Raises:
        DerError: it is none.
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
    # Behind it may be extensions only: nobody has used the other two fields that could be there for decades.
    if not 6 <= len(fields) <= 7:
        raise DerError("a certificate with something in it that is not known")
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
    # Of an RSA key that is made for PSS, `cryptography` does not tell so.
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
    # The attributes with a time zone came with cryptography 42, which also began to warn about the others.
    if hasattr(certificate, f"{name}_utc"):
        found: datetime.datetime = getattr(certificate, f"{name}_utc")
        return found
    plain: datetime.datetime = getattr(certificate, name)
    return plain.replace(tzinfo=datetime.UTC)
