# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether an image is whole, signed and allowed: all that `unit-confext verify` says.

The order is that of trust. First the parts are found, then the hash tree is compared with the data and the signature
with the root hash, then the policy is asked, and only what has passed all of that is given to a tool that reads the
file system, for the release file. "signed" and "verity" are said of an image only after that very comparison.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from confext_helpers.errors import ConfextError
from confext_helpers.image import contents, dissect, policy, release, signers, verity
from confext_helpers.image.certificates import Certificate
from confext_helpers.image.contents import ContentsError
from confext_helpers.image.dissect import Image
from confext_helpers.image.filesystems import Kind
from confext_helpers.image.findings import Code, Finding
from confext_helpers.image.naming import image_name
from confext_helpers.image.policy import Flag, Policy
from confext_helpers.image.release import System
from confext_helpers.image.signature import Verified
from confext_helpers.image.verity import VerityError

# Roots that are stated outside of the image's own partition table, so that systemd sets up dm-verity with them.
_STATED = ("attribute", "sidecar", "signature")


class Protection(StrEnum):
    """What is known to protect the data of an image."""

    SIGNED = "signed"
    VERITY = "verity"
    ENCRYPTED = "encrypted"
    UNPROTECTED = "unprotected"


@dataclass(frozen=True, slots=True)
class Request:
    """What an image is held to.

    Attributes:
        anchors: certificates that are trusted.
        policy: what it has to be.
        system: what its release file has to fit; None if that does not matter.
        native: the architecture that it is for, in systemd's spelling.
        now: the time, with a time zone.
        progress: is told the bytes that were read and those that there are, now and then.
    """

    anchors: Sequence[Certificate]
    policy: Policy
    system: System | None
    native: str
    now: datetime.datetime
    progress: Callable[[int, int], None] = lambda done, of: None


@dataclass(slots=True)
class Verdict:
    """What is to be said about an image.

    Attributes:
        path: of the image.
        protection: what was verified, by this very run.
        root_hash: of the hash tree, in hexadecimal; empty if there is none.
        signers: who signed it.
        release: the fields of its release file; None if it was not looked at.
        findings: what is wrong; nothing is, if there are none.
    """

    path: str
    protection: Protection = Protection.UNPROTECTED
    root_hash: str = ""
    signers: Sequence[Verified] = ()
    release: Mapping[str, str] | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def verify(path: str, request: Request) -> Verdict:
    """Verify an image.

    Raises:
        ConfextError: it is no image, but a directory, say.
        OSError: it cannot be opened.
    """
    with dissect.open_image(path, request.policy, request.native) as image:
        return judge(image, request)


def judge(image: Image, request: Request) -> Verdict:
    """Verify an image that was opened with the policy and for the architecture of the request."""
    verdict = Verdict(image.path)
    verdict.root_hash = image.root_hash.hex() if image.root_hash else ""
    whole = _check_tree(image, request)
    verdict.signers, found = signers.check(image, request.anchors, request.now)
    image.findings += found
    signed = bool(verdict.signers) and not found
    verdict.protection = _protection(image, whole, signed)
    _check_policy(image, request.policy, verdict.protection)
    if not image.findings:
        verdict.release = _check_release(image, request.system)
    verdict.findings = list(dict.fromkeys(image.findings))
    return verdict


def _check_tree(image: Image, request: Request) -> bool:
    """Compare the hash tree with the data; return whether every byte of them is what the root hash stands for."""
    if image.data is None or image.tree is None or image.root_hash is None:
        return False
    try:
        superblock = verity.read_superblock(image.tree, image.sector_size)
    except VerityError as error:
        image.say(Code.VERITY_HEADER, error.problem)
        return False
    if image.file_system is not None and image.file_system.size > superblock.data_size:
        image.say(Code.SIZE, "the file system is larger than what the hash tree covers")
        return False
    comparison = verity.Comparison(superblock, image.data, image.tree)
    found = comparison.run(image.root_hash, lambda done: request.progress(done, superblock.data_size))
    image.findings += found
    return not found


def _protection(image: Image, whole: bool, signed: bool) -> Protection:
    # A root hash that only the partition table states keeps nobody from replacing all three, and systemd does not
    # set up dm-verity for it.
    if whole and signed:
        return Protection.SIGNED
    if whole and image.root_hash_origin in _STATED:
        return Protection.VERITY
    if image.file_system is not None and image.file_system.kind is Kind.LUKS:
        return Protection.ENCRYPTED
    return Protection.UNPROTECTED


def _check_policy(image: Image, asked: Policy, protection: Protection) -> None:
    unsigned = image.data is not None and image.signature is None and policy.wants_signature(asked)
    if unsigned and not any(one.code is Code.SIGNATURE_MALFORMED for one in image.findings):
        image.say(Code.SIGNATURE_MISSING, "the image is not signed, and the policy asks for a signature")
    for designator, part in dissect.parts(image, Flag[protection.name]).items():
        image.findings += policy.judge(asked, designator, part)


def _check_release(image: Image, system: System | None) -> Mapping[str, str] | None:
    """Look for the release file and compare it; what is wrong is added to the findings of the image.

    Returns:
        Its fields; None if it cannot be read.
    """
    if image.data is None or image.file_system is None:
        return None
    try:
        found = contents.open_contents(image.data, image.file_system.kind)
        name = image_name(image.path)
        files = {entry.path for entry in found.entries if entry.kind == "file"}
        path = release.find(name, files)
        if path is None:
            image.findings.append(release.missing(name, files))
            return None
        fields = release.parse(found.read(path), path)
    except ContentsError as error:
        image.findings.append(error.finding)
        return None
    except ConfextError as error:
        image.say(Code.RELEASE_MALFORMED, str(error))
        return None
    image.findings += release.judge(fields, system)
    return fields
