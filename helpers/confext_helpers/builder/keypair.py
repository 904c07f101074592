# SPDX-License-Identifier: LGPL-2.1-or-later
"""A private key and a certificate that are to sign an image: whether they belong together.

It is asked before anything is built, since neither systemd-repart nor openssl look: they would sign with a key that
the certificate does not have, and nobody could verify the result.
"""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from confext_helpers.errors import ConfextError


def check(key: str, certificate: str) -> None:
    """Refuse a key and a certificate that do not belong together, or that cannot be read.

    Args:
        key: path of a private key in PEM without a passphrase.
        certificate: path of a certificate in PEM.

    Raises:
        ConfextError: why they cannot be used.
        OSError: one of them cannot be read.
    """
    with open(key, "rb") as file:
        secret = file.read()
    try:
        private = serialization.load_pem_private_key(secret, password=None)
    except TypeError:
        hint = "take a copy without one: openssl pkey"
        raise ConfextError("the private key has a passphrase", path=key, hint=hint) from None
    except Exception as error:
        # Which exceptions there are depends on the version of cryptography and of OpenSSL.
        raise ConfextError("no private key in PEM that is known", path=key, hint="name another file") from error
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != _load(certificate).public_key().public_bytes(*form):
        hint = "give the certificate that was issued for this key"
        raise ConfextError(f"the certificate does not belong to the key {key}", path=certificate, hint=hint)


def expiry(certificate: str, now: datetime.datetime) -> str:
    """What is to be said about the validity of a certificate; empty if it is valid.

    Args:
        certificate: path of a certificate in PEM.
        now: a time in UTC, without a time zone.
    """
    loaded = _load(certificate)
    # The attributes with a time zone came with cryptography 42, which also began to warn about these.
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
        raise ConfextError("no certificate in PEM", path=certificate, hint="name another file") from error
