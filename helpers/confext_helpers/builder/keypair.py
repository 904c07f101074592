# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check that a private key and a certificate belong together, before an image is signed with them.

Neither systemd-repart nor openssl checks this: they would sign with a key that does not belong to the certificate, and
nobody could verify the result.
"""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from confext_helpers.errors import ConfextError


def check(key: str, certificate: str) -> None:
    """Check that a key and a certificate belong together.

    Args:
        key: the path of a private key in PEM without a passphrase.
        certificate: the path of a certificate in PEM.

    Raises:
        ConfextError: they do not belong together, or one of them is malformed.
        OSError: one of them cannot be read.
    """
    with open(key, "rb") as file:
        secret = file.read()
    try:
        private = serialization.load_pem_private_key(secret, password=None)
    except TypeError:
        hint = "make a copy without one, with openssl pkey"
        raise ConfextError("the private key has a passphrase", path=key, hint=hint) from None
    except Exception as error:
        # The type of the exception depends on the versions of cryptography and OpenSSL.
        raise ConfextError("this is no supported private key in PEM", path=key, hint="name another file") from error
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != _load(certificate).public_key().public_bytes(*form):
        hint = "give the certificate that was issued for this key"
        raise ConfextError(f"the certificate does not belong to the key {key}", path=certificate, hint=hint)


def expiry(certificate: str, now: datetime.datetime) -> str:
    """A warning that a certificate has expired or is not valid yet; empty if it is valid.

    Args:
        certificate: the path of a certificate in PEM.
        now: the time in UTC, without a time zone.
    """
    loaded = _load(certificate)
    # cryptography 42 added the attributes with a time zone, and began to warn about those without.
    utc = hasattr(loaded, "not_valid_after_utc")
    after = loaded.not_valid_after_utc.replace(tzinfo=None) if utc else loaded.not_valid_after
    before = loaded.not_valid_before_utc.replace(tzinfo=None) if utc else loaded.not_valid_before
    if now > after:
        return f"the certificate expired on {after:%Y-%m-%d}"
    if now < before:
        return f"the certificate is not valid before {before:%Y-%m-%d}"
    return ""


def _load(certificate: str) -> x509.Certificate:
    with open(certificate, "rb") as file:
        content = file.read()
    try:
        return x509.load_pem_x509_certificate(content)
    except Exception as error:
        raise ConfextError("this is no certificate in PEM", path=certificate, hint="name another file") from error
