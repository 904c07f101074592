# SPDX-License-Identifier: LGPL-2.1-or-later
"""The problems that an image can have: their codes, and the meaning of each code.

The codes are stable: programs rely on them, and unit-confext(1) has the same table. The message of a finding describes
the particular case.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Code(StrEnum):
    """The kind of problem of a finding."""

    UNREADABLE = "unreadable"
    FORMAT = "format"
    AMBIGUOUS = "ambiguous"
    SIZE = "size"
    GPT_MBR = "gpt-mbr"
    GPT_HEADER = "gpt-header"
    GPT_CRC = "gpt-crc"
    GPT_BACKUP = "gpt-backup"
    GPT_ENTRY = "gpt-entry"
    GPT_OVERLAP = "gpt-overlap"
    PARTITIONS = "partitions"
    ENCRYPTED = "encrypted"
    SIDECAR = "sidecar"
    VERITY_HEADER = "verity-header"
    VERITY_DATA = "verity-data"
    VERITY_HASH = "verity-hash"
    VERITY_ROOT = "verity-root"
    SIGNATURE_MISSING = "signature-missing"
    SIGNATURE_MALFORMED = "signature-malformed"
    SIGNATURE_ALGORITHM = "signature-algorithm"
    SIGNATURE_UNKNOWN_KEY = "signature-unknown-key"
    SIGNATURE_ANCHOR = "signature-anchor"
    SIGNATURE_INVALID = "signature-invalid"
    SIGNATURE_EXPIRED = "signature-expired"
    SIGNATURE_FINGERPRINT = "signature-fingerprint"
    POLICY = "policy"
    CONTENTS_TOOL = "contents-tool"
    CONTENTS = "contents"
    RELEASE_MISSING = "release-missing"
    RELEASE_MALFORMED = "release-malformed"
    RELEASE_MISMATCH = "release-mismatch"
    EXPOSED = "exposed"


MEANINGS: dict[Code, str] = {
    Code.UNREADABLE: "The image, or a part of it, cannot be read",
    Code.FORMAT: "No partition table and no file system that systemd would mount was found",
    Code.AMBIGUOUS: "The image, or a partition of it, can be taken for two different things",
    Code.SIZE: "A file system, a hash tree or the partition table says that it is larger than the room it has",
    Code.GPT_MBR: "The protective MBR in front of the partition table is missing or lists other partitions",
    Code.GPT_HEADER: "The header of the partition table has values that make no sense",
    Code.GPT_CRC: "A checksum of the partition table does not match",
    Code.GPT_BACKUP: "The second partition table at the end of the image is missing, damaged or another one",
    Code.GPT_ENTRY: "A partition has values that make no sense, or lies outside of the image",
    Code.GPT_OVERLAP: "Two partitions overlap",
    Code.PARTITIONS: "The partitions do not go together: systemd would find none to use, or refuse them",
    Code.ENCRYPTED: "The file system is encrypted; nothing in it can be checked",
    Code.SIDECAR: "A file beside the image (.verity, .roothash, .roothash.p7s) is malformed or does not belong to it",
    Code.VERITY_HEADER: "The superblock of the hash tree is damaged or of a kind that is not known",
    Code.VERITY_DATA: "Data differ from what the hash tree says about them",
    Code.VERITY_HASH: "The hash tree itself is damaged",
    Code.VERITY_ROOT: "The data and the hash tree have another root hash than the one that is stated or signed",
    Code.SIGNATURE_MISSING: "There is no signature, and the image policy asks for one",
    Code.SIGNATURE_MALFORMED: "The signature is not a well-formed, detached PKCS#7 signature as systemd reads it",
    Code.SIGNATURE_ALGORITHM: "The signature was made with an algorithm or a key that is too weak or not known to all",
    Code.SIGNATURE_UNKNOWN_KEY: "The signature was made by a key whose certificate is not a trusted one",
    Code.SIGNATURE_ANCHOR: "A trust anchor that may be the signer's is not understood, but may be by systemd",
    Code.SIGNATURE_INVALID: "The signature is not one of this root hash by the certificate that it names",
    Code.SIGNATURE_EXPIRED: "The signer's certificate has expired, or is not valid yet",
    Code.SIGNATURE_FINGERPRINT: "The signature partition names another certificate than that of the signer",
    Code.POLICY: "The image policy does not allow what was found",
    Code.CONTENTS_TOOL: "A program that reads this file system is missing or too old",
    Code.CONTENTS: "The file system cannot be read",
    Code.RELEASE_MISSING: "There is no release file for the name of the image",
    Code.RELEASE_MALFORMED: "The release file, or the os-release file that it is compared with, cannot be understood",
    Code.RELEASE_MISMATCH: "The release file is for another system",
    Code.EXPOSED: "Everybody may read the image, and so what not everybody may read in it",
}


class Finding(NamedTuple):
    """One problem of an image.

    Attributes:
        code: the kind of problem.
        message: a description of the problem, without a full stop.
    """

    code: Code
    message: str
