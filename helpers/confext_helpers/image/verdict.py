# SPDX-License-Identifier: LGPL-2.1-or-later
"""Verify that an image is intact, signed, and allowed by the policy: the verdict of `unit-confext verify`.

The order of the steps is that of trust: find the parts; compare the hash tree with the data; verify the signature of
the root hash; apply the policy. Only an image that has passed all of these is given to the tool that reads the file
system, for the release file. An image is called "signed" or "verity" only after this run has verified it.
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

# Sources of root hashes with which systemd sets up dm-verity: all except the partition table.
_STATED = ("attribute", "sidecar", "signature")


class Protection(StrEnum):
    """The verified protection of an image's data."""

    SIGNED = "signed"
    VERITY = "verity"
    ENCRYPTED = "encrypted"
    UNPROTECTED = "unprotected"


@dataclass(frozen=True, slots=True)
class Request:
    """The requirements for an image.

    Attributes:
        anchors: the trusted certificates.
        policy: the image policy.
        system: the system that the release file has to match; None to skip that check.
        native: the architecture of the target machine, in systemd's spelling.
        now: the time, with a time zone.
        progress: called now and then with the number of bytes read and the total number of bytes.
    """

    anchors: Sequence[Certificate]
    policy: Policy
    system: System | None
    native: str
    now: datetime.datetime
    progress: Callable[[int, int], None] = lambda done, of: None


@dataclass(slots=True)
class Verdict:
    """The verdict about an image.

    Attributes:
        path: the path of the image.
        protection: the protection that this run has verified.
        root_hash: the root hash in hexadecimal; empty if there is none.
        signers: the verdicts about the signers.
        release: the fields of its release file; None if the release file was not read.
        findings: the problems; an image without findings is good.
    """

    path: str
    protection: Protection = Protection.UNPROTECTED
    root_hash: str = ""
    signers: Sequence[Verified] = ()
    release: Mapping[str, str] | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether there are no findings."""
        return not self.findings


def verify(path: str, request: Request) -> Verdict:
    """Verify an image.

    Raises:
        ConfextError: `path` is not an image but, for example, a directory.
        OSError: `path` cannot be opened.
    """
    with dissect.open_image(path, request.policy, request.native) as image:
        return judge(image, request)


def judge(image: Image, request: Request) -> Verdict:
    """Verify an opened image, which must have been opened with the policy and the architecture of `request`."""
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
    """Compare the hash tree with the data; return whether both match the root hash completely."""
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
    # A root hash from the partition table protects nothing: an attacker can replace data, hash tree and partition table
    # together, and systemd does not set up dm-verity for such a root hash.
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
    """Find and check the release file, and add the problems to the findings of the image.

    Returns:
        The fields of the release file; None if it cannot be read.
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
