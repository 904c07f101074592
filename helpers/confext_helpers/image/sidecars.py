# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files beside an image (`.roothash`, `.roothash.p7s` and `.verity`) and its attribute user.verity.roothash.

This follows verity_settings_load() in systemd's dissect-image.c. The name of a sidecar is that of the image, with
`.raw` replaced by another suffix; an image whose name does not end in `.raw` has no sidecars.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import NamedTuple

from confext_helpers import paths
from confext_helpers.errors import ConfextError
from confext_helpers.image.bytesource import Source, open_source
from confext_helpers.image.findings import Code, Finding
from confext_helpers.image.signature import SIZE_MAX
from confext_helpers.image.signedhash import parse_hash

_HASH_TEXT_MAX = 4096


class Sidecars(NamedTuple):
    """The contents of the sidecars of an image.

    Attributes:
        root_hash: the stated root hash; None if none is stated.
        origin: the source of the root hash: "attribute" or "sidecar"; empty if there is none.
        signature: the contents of the `.p7s` file; None if there is none.
        tree: the opened `.verity` file; None if there is none.
        findings: the problems of the sidecars.
    """

    root_hash: bytes | None
    origin: str
    signature: bytes | None
    tree: Source | None
    findings: tuple[Finding, ...]


NO_SIDECARS = Sidecars(None, "", None, None, ())


def load(path: str, image: Source) -> Sidecars:
    """Read the sidecars of an image.

    Args:
        path: the path of the image.
        image: the opened image.
    """
    if not stat.S_ISREG(os.fstat(image.fd).st_mode):
        return NO_SIDECARS
    findings: list[Finding] = []

    def beside(suffix: str, most: int) -> bytes | None:
        name = paths.beside(path, suffix)
        if not path.endswith(".raw") or not os.path.lexists(name):
            return None
        try:
            source = open_source(name)
            try:
                if source.size > most:
                    findings.append(Finding(Code.SIDECAR, f"{os.path.basename(name)} is too large"))
                    return None
                return source.read(0, source.size)
            finally:
                os.close(source.fd)
        except (OSError, ConfextError) as error:
            findings.append(Finding(Code.SIDECAR, f"{os.path.basename(name)} cannot be read: {error}"))
            return None

    def attribute(name: str) -> bytes | None:
        with contextlib.suppress(OSError):
            return os.getxattr(image.fd, name)
        return None

    origin = "attribute"
    text = attribute("user.verity.roothash")
    if text is None:
        origin = "sidecar"
        text = beside(".roothash", _HASH_TEXT_MAX)
    root_hash = None
    if text is not None:
        root_hash = parse_hash(text.decode("ascii", "replace"))
        if root_hash is None:
            findings.append(Finding(Code.SIDECAR, f"the root hash in the {origin} is no hash"))
    elif attribute("user.verity.usrhash") is not None or beside(".usrhash", _HASH_TEXT_MAX) is not None:
        findings.append(Finding(Code.SIDECAR, "the root hash beside the image is for /usr, which a confext has not"))
    signature = beside(".roothash.p7s", SIZE_MAX)
    if signature is not None and root_hash is None:
        findings.append(Finding(Code.SIDECAR, "there is a signature beside the image, but no root hash"))
    tree = None
    name = paths.beside(path, ".verity")
    if path.endswith(".raw") and os.path.lexists(name):
        try:
            tree = open_source(name)
        except (OSError, ConfextError) as error:
            findings.append(Finding(Code.SIDECAR, f"{os.path.basename(name)} cannot be read: {error}"))
    return Sidecars(root_hash, origin if root_hash else "", signature, tree, tuple(findings))
