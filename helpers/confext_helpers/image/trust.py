"""Trust anchors: the certificates whose keys may sign.

Nothing that a signature brings along is ever trusted, and there are no chains: a signer is trusted if its very
certificate is one of these, as validate_signature_userspace() in systemd's dissect-image.c has it. A directory is read
as systemd reads /etc/verity.d: the files called `*.crt`, a name in an earlier directory hiding the same in a later one,
an empty file or a link to /dev/null hiding it altogether, and of each file the first certificate only.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cryptography import x509

from confext_helpers import regular
from confext_helpers.errors import ConfextError
from confext_helpers.image import der
from confext_helpers.image.der import DerError

# CONF_PATHS("verity.d") of systemd.
DIRECTORIES = ("/etc/verity.d", "/run/verity.d", "/usr/local/lib/verity.d", "/usr/lib/verity.d")
_SIZE_MAX = 1 << 20
_PEM = re.compile(
    rb"-----BEGIN (?:X509 )?CERTIFICATE-----\s([A-Za-z0-9+/=\s]+)-----END (?:X509 )?CERTIFICATE-----"
)


class Certificate(NamedTuple):
    """A certificate, as far as it matters here.

    Attributes:
        der: all of it.
        subject: whom it is for, RFC 4514.
        issuer: who issued it, RFC 4514.
        issuer_der: the same as it is encoded.
        serial: the number that the issuer gave it.
        key_identifier: the subject key identifier; None if it has none.
        not_before: from when on it is valid, UTC.
        not_after: until when it is valid, UTC.
        public_key: for `cryptography`.
        origin: the file that it was read from; empty if it came with a signature.
    """

    der: bytes
    subject: str
    issuer: str
    issuer_der: bytes
    serial: int
    key_identifier: bytes | None
    not_before: datetime.datetime
    not_after: datetime.datetime
    public_key: Any
    origin: str = ""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, in hexadecimal."""
        return hashlib.sha256(self.der).hexdigest()


def parse_certificate(raw: bytes, origin: str = "") -> Certificate:
    """Parse a certificate in DER.

    Raises:
        DerError: it is none, or has a key that `cryptography` does not know.
    """
    issuer_der, serial = _identity(raw)
    try:
        with warnings.catch_warnings():
            # About serial numbers that newer versions will refuse. Then they are refused.
            warnings.simplefilter("ignore")
            loaded = x509.load_der_x509_certificate(raw)
            key_identifier = None
            with contextlib.suppress(x509.ExtensionNotFound):
                extension = loaded.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
                key_identifier = extension.value.digest
            return Certificate(
                der=raw,
                subject=loaded.subject.rfc4514_string(),
                issuer=loaded.issuer.rfc4514_string(),
                issuer_der=issuer_der,
                serial=serial,
                key_identifier=key_identifier,
                not_before=_utc(loaded, "not_valid_before"),
                not_after=_utc(loaded, "not_valid_after"),
                public_key=loaded.public_key(),
                origin=origin,
            )
    except Exception as error:
        # What a malformed certificate raises depends on the version of cryptography and of OpenSSL, and on which
        # part of it is read.
        raise DerError(f"a certificate that cannot be read: {error}") from error


def load(paths: Sequence[str], root: str = "") -> list[Certificate]:
    """Load trust anchors.

    Args:
        paths: files, of which every certificate counts, and directories; if there are none, those of systemd.
        root: in which system the directories of systemd are.

    Raises:
        ConfextError: a file has no certificate in it, or a named file or directory is not there.
        OSError: one cannot be read.
    """
    if not paths:
        return _load_directories([root.rstrip("/") + directory for directory in DIRECTORIES])
    anchors: list[Certificate] = []
    for path in paths:
        if os.path.isdir(path):
            anchors += _load_directories([path])
            continue
        found = _read_file(path)
        if not found:
            raise ConfextError("there is no certificate in it", path=path, hint="name a file in PEM or DER")
        anchors += found
    return anchors


def _load_directories(directories: Iterable[str]) -> list[Certificate]:
    seen: dict[str, str] = {}
    for directory in directories:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(directory):
                if name.endswith(".crt") and not name.startswith("."):
                    seen.setdefault(name, f"{directory}/{name}")
    anchors = []
    for _, path in sorted(seen.items()):
        # A certificate that cannot be used must not keep the others from being used; systemd goes on, too.
        with contextlib.suppress(OSError, ConfextError):
            if os.path.isfile(path):
                anchors += _read_file(path)[:1]
    return anchors


def _read_file(path: str) -> list[Certificate]:
    content = regular.read(path, _SIZE_MAX + 1)
    if len(content) > _SIZE_MAX:
        raise ConfextError("this is too large for a certificate", path=path, hint="name a file in PEM or DER")
    try:
        pem = b"-----BEGIN" in content
        blocks = [base64.b64decode(block) for block in _PEM.findall(content)] if pem else [content]
        return [parse_certificate(block, path) for block in blocks if block]
    except ValueError as error:
        raise ConfextError(str(error), path=path, hint="name a file in PEM or DER") from error


def _identity(raw: bytes) -> tuple[bytes, int]:
    """Issuer and serial number as they are encoded; a signature names its signer by these bytes."""
    certificate = der.parse(raw, der.SEQUENCE)
    body = der.expect(next(der.elements(certificate.content), None), der.SEQUENCE)
    fields = list(der.elements(body.content))
    if fields and fields[0].tag == der.CONTEXT | der.CONSTRUCTED:
        del fields[0]
    if len(fields) < 6:
        raise DerError("a certificate that is cut off")
    return der.expect(fields[2], der.SEQUENCE).raw, der.integer(fields[0])


def _utc(certificate: x509.Certificate, name: str) -> datetime.datetime:
    # The attributes with a time zone came with cryptography 42, which also began to warn about the others.
    if hasattr(certificate, f"{name}_utc"):
        found: datetime.datetime = getattr(certificate, f"{name}_utc")
        return found
    plain: datetime.datetime = getattr(certificate, name)
    return plain.replace(tzinfo=datetime.UTC)
