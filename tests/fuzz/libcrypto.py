# SPDX-License-Identifier: LGPL-2.1-or-later
"""The libcrypto that systemd uses, and what validate_signature_userspace() in dissect-image.c asks of it.

For the tests alone: what verifies signatures in the product must not depend on the very thing that it is compared with.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Sequence

_NOINTERN = 0x10
_NOVERIFY = 0x20
_pointer = ctypes.c_void_p
# Of all functions: what they return, and their parameters.
_PROTOTYPES = {
    "d2i_PKCS7": (_pointer, (_pointer, ctypes.POINTER(ctypes.c_char_p), ctypes.c_long)),
    "PKCS7_free": (None, (_pointer,)),
    "PKCS7_verify": (ctypes.c_int, (_pointer, _pointer, _pointer, _pointer, _pointer, ctypes.c_int)),
    "BIO_new_mem_buf": (_pointer, (ctypes.c_char_p, ctypes.c_int)),
    "BIO_free": (ctypes.c_int, (_pointer,)),
    "PEM_read_bio_X509": (_pointer, (_pointer, _pointer, _pointer, _pointer)),
    "X509_free": (None, (_pointer,)),
    "OPENSSL_sk_new_null": (_pointer, ()),
    "OPENSSL_sk_push": (ctypes.c_int, (_pointer, _pointer)),
    "OPENSSL_sk_free": (None, (_pointer,)),
    "ERR_clear_error": (None, ()),
}


def _load() -> ctypes.CDLL:
    return ctypes.CDLL(ctypes.util.find_library("crypto") or "libcrypto.so.3")


def missing() -> str | None:
    """What is missing here, or None."""
    try:
        _load()
    except OSError:
        return "no libcrypto"
    return None


class Libcrypto:
    """The library, loaded."""

    def __init__(self) -> None:
        self._library = _load()
        for name, (result, parameters) in _PROTOTYPES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, parameters

    def verify(self, raw: bytes, content: bytes, anchors: Sequence[bytes]) -> bool:
        """Whether systemd would take a signature.

        Args:
            raw: the signature.
            content: what has to be signed.
            anchors: what is in the files `*.crt` of verity.d, in systemd's order.
        """
        library = self._library
        library.ERR_clear_error()
        start = ctypes.c_char_p(raw)
        signature = library.d2i_PKCS7(None, ctypes.byref(start), len(raw))
        if not signature:
            return False
        stack = library.OPENSSL_sk_new_null()
        certificates = [one for one in map(self._certificate, anchors) if one]
        signed = library.BIO_new_mem_buf(content, len(content))
        try:
            for one in certificates:
                library.OPENSSL_sk_push(stack, one)
            return bool(library.PKCS7_verify(signature, stack, None, signed, None, _NOINTERN | _NOVERIFY) == 1)
        finally:
            library.BIO_free(signed)
            for one in certificates:
                library.X509_free(one)
            library.OPENSSL_sk_free(stack)
            library.PKCS7_free(signature)

    def _certificate(self, content: bytes) -> int | None:
        bio = self._library.BIO_new_mem_buf(content, len(content))
        try:
            found: int | None = self._library.PEM_read_bio_X509(bio, None, None, None)
            return found
        finally:
            self._library.BIO_free(bio)
