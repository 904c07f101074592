# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find out who signed an image, by the signature of its root hash, without reading the data.

This takes some milliseconds, whatever the size of the image, and does not verify the data. The kernel verifies the
data with dm-verity as they are read; verdict.py does so by reading all of them.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import NamedTuple

from confext_helpers.image import dissect, partitiontypes, policy, signature
from confext_helpers.image.certificates import Certificate
from confext_helpers.image.der import DerError
from confext_helpers.image.dissect import Image
from confext_helpers.image.findings import Code, Finding
from confext_helpers.image.policy import Policy
from confext_helpers.image.signature import AlgorithmError, Verified


class Signed(NamedTuple):
    """The signers of an image.

    Attributes:
        root_hash: the root hash in hexadecimal; empty if there is no hash tree.
        signers: the verdicts about the signers of the root hash; empty if it is not signed.
        findings: the problems of the signature and of the parts of the image.
    """

    root_hash: str
    signers: Sequence[Verified]
    findings: Sequence[Finding]

    @property
    def trusted(self) -> bool:
        """Whether the root hash is signed, all signers are trusted and valid, and there are no findings."""
        return bool(self.signers) and not self.findings and all(one.valid for one in self.signers)


def read(
    path: str, anchors: Sequence[Certificate], now: datetime.datetime | None = None, *, asked: Policy | None = None
) -> Signed:
    """Verify the signature of an image's root hash.

    Args:
        path: the path of the image.
        anchors: the trusted certificates, see trust.load().
        now: the time, with a time zone; None for the current time.
        asked: the image policy, which says which partitions may be used; None for systemd's policy for confexts.

    Raises:
        ConfextError: `path` is neither a file nor a block device.
        OSError: `path` cannot be opened.
    """
    native = partitiontypes.native_architecture()
    with dissect.open_image(path, asked or policy.CONFEXT_POLICY, native) as image:
        found, findings = check(image, anchors, now or datetime.datetime.now(datetime.UTC))
        root_hash = image.root_hash.hex() if image.root_hash is not None and image.tree is not None else ""
        return Signed(root_hash, found, [*image.findings, *findings])


def check(
    image: Image, anchors: Sequence[Certificate], now: datetime.datetime
) -> tuple[Sequence[Verified], list[Finding]]:
    """Verify the signature of a dissected image.

    Returns:
        The verdicts about the signers (none if there is no signature), and the findings about the signature.
    """
    if image.signature is None or image.root_hash is None:
        return (), []
    try:
        parsed = signature.parse(image.signature)
    except DerError as error:
        return (), [Finding(Code.SIGNATURE_MALFORMED, f"the signature is no detached PKCS#7 in DER: {error}")]
    except AlgorithmError as error:
        return (), [Finding(Code.SIGNATURE_ALGORITHM, str(error))]
    # As in systemd and the kernel, the signature is over the root hash as text.
    found, findings = signature.verify(parsed, image.root_hash.hex().encode(), anchors, now)
    fingerprints = {one.certificate.fingerprint for one in found if one.certificate is not None and one.trusted}
    if image.fingerprint and fingerprints and image.fingerprint not in fingerprints:
        what = f"the signature partition names the certificate {image.fingerprint}"
        findings.append(Finding(Code.SIGNATURE_FINGERPRINT, what))
    return found, findings


def certificates(image: Image) -> Sequence[Certificate]:
    """The certificates that came with the signature of an image, which prove nothing; empty without a signature."""
    if image.signature is None:
        return ()
    try:
        return signature.parse(image.signature).certificates
    except (DerError, AlgorithmError):
        return ()
