# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who signed an image: the signature of its root hash, without looking at the data.

It takes some milliseconds, whatever the size of the image. It does not say that the data are what was signed: the
kernel does that while they are read, through dm-verity, or verdict.py by reading all of them.
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
    """What an image says about its signers.

    Attributes:
        root_hash: in hexadecimal; empty if there is no hash tree.
        signers: who signed that root hash; nobody if it is not signed.
        findings: what is wrong, with the parts of the image as well.
    """

    root_hash: str
    signers: Sequence[Verified]
    findings: Sequence[Finding]

    @property
    def trusted(self) -> bool:
        """Whether the root hash is signed by trusted keys, and nothing is wrong."""
        return bool(self.signers) and not self.findings and all(one.valid for one in self.signers)


def read(
    path: str, anchors: Sequence[Certificate], now: datetime.datetime | None = None, *, asked: Policy | None = None
) -> Signed:
    """Who signed the root hash of an image.

    Args:
        path: of an image.
        anchors: certificates that are trusted, see trust.load().
        now: the time, with a time zone; None for the current one.
        asked: which partitions may be used; None for those that systemd uses of a confext.

    Raises:
        ConfextError: it is no file and no block device.
        OSError: it cannot be opened.
    """
    native = partitiontypes.native_architecture()
    with dissect.open_image(path, asked or policy.CONFEXT_POLICY, native) as image:
        found, findings = check(image, anchors, now or datetime.datetime.now(datetime.UTC))
        root_hash = image.root_hash.hex() if image.root_hash is not None and image.tree is not None else ""
        return Signed(root_hash, found, [*image.findings, *findings])


def check(
    image: Image, anchors: Sequence[Certificate], now: datetime.datetime
) -> tuple[Sequence[Verified], list[Finding]]:
    """Verify the signature of an image that was taken apart.

    Returns:
        Its signers, nobody if it has no signature, and what is wrong with the signature.
    """
    if image.signature is None or image.root_hash is None:
        return (), []
    try:
        parsed = signature.parse(image.signature)
    except DerError as error:
        return (), [Finding(Code.SIGNATURE_MALFORMED, f"the signature is no detached PKCS#7 in DER: {error}")]
    except AlgorithmError as error:
        return (), [Finding(Code.SIGNATURE_ALGORITHM, str(error))]
    # What is signed is the text, as systemd and the kernel have it.
    found, findings = signature.verify(parsed, image.root_hash.hex().encode(), anchors, now)
    fingerprints = {one.certificate.fingerprint for one in found if one.certificate is not None and one.trusted}
    if image.fingerprint and fingerprints and image.fingerprint not in fingerprints:
        what = f"the signature partition names the certificate {image.fingerprint}"
        findings.append(Finding(Code.SIGNATURE_FINGERPRINT, what))
    return found, findings


def certificates(image: Image) -> Sequence[Certificate]:
    """The certificates that came with the signature of an image, which prove nothing; none if it has none."""
    if image.signature is None:
        return ()
    try:
        return signature.parse(image.signature).certificates
    except (DerError, AlgorithmError):
        return ()
