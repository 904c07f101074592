# SPDX-License-Identifier: LGPL-2.1-or-later
"""Image policies, systemd.image-policy(7): parse them, and apply them to partitions.

The grammar is that of image_policy_from_string() in systemd's image-policy.c, with all words of systemd 262. In unit
files systemd skips unknown words, which makes the policy laxer than it was written; here, an unknown word is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag
from typing import NamedTuple

from confext_helpers.errors import ConfextError
from confext_helpers.image import gpt
from confext_helpers.image.findings import Code, Finding
from confext_helpers.image.partitiontypes import Designator


class Flag(IntFlag):
    """Flags of a rule, each of which allows a state of a partition."""

    VERITY = 1 << 0
    SIGNED = 1 << 1
    ENCRYPTED = 1 << 2
    ENCRYPTED_WITH_INTEGRITY = 1 << 3
    UNPROTECTED = 1 << 4
    UNUSED = 1 << 5
    ABSENT = 1 << 6
    READ_ONLY_OFF = 1 << 7
    READ_ONLY_ON = 1 << 8
    GROWFS_OFF = 1 << 9
    GROWFS_ON = 1 << 10
    BTRFS = 1 << 11
    EROFS = 1 << 12
    EXT4 = 1 << 13
    F2FS = 1 << 14
    SQUASHFS = 1 << 15
    VFAT = 1 << 16
    XFS = 1 << 17


NONE = Flag(0)
OPEN = (
    Flag.VERITY | Flag.SIGNED | Flag.ENCRYPTED | Flag.ENCRYPTED_WITH_INTEGRITY | Flag.UNPROTECTED | Flag.UNUSED
    | Flag.ABSENT
)  # fmt: skip
IGNORE = Flag.UNUSED | Flag.ABSENT
READ_ONLY = Flag.READ_ONLY_OFF | Flag.READ_ONLY_ON
GROWFS = Flag.GROWFS_OFF | Flag.GROWFS_ON
FILE_SYSTEMS = Flag.BTRFS | Flag.EROFS | Flag.EXT4 | Flag.F2FS | Flag.SQUASHFS | Flag.VFAT | Flag.XFS
_ANY_ENCRYPTION = Flag.ENCRYPTED | Flag.ENCRYPTED_WITH_INTEGRITY

# In the order of systemd-analyze's output.
WORDS: dict[str, Flag] = {
    "verity": Flag.VERITY, "signed": Flag.SIGNED, "encrypted": Flag.ENCRYPTED,
    "encryptedwithintegrity": Flag.ENCRYPTED_WITH_INTEGRITY, "unprotected": Flag.UNPROTECTED, "unused": Flag.UNUSED,
    "absent": Flag.ABSENT, "read-only-on": Flag.READ_ONLY_ON, "read-only-off": Flag.READ_ONLY_OFF,
    "growfs-off": Flag.GROWFS_OFF, "growfs-on": Flag.GROWFS_ON, "btrfs": Flag.BTRFS, "erofs": Flag.EROFS,
    "ext4": Flag.EXT4, "f2fs": Flag.F2FS, "squashfs": Flag.SQUASHFS, "vfat": Flag.VFAT, "xfs": Flag.XFS,
}  # fmt: skip
_SHORTCUTS = {"open": OPEN, "ignore": IGNORE}
_SPECIAL = {"": IGNORE, "-": IGNORE, "*": OPEN, "~": Flag.ABSENT}

# image_policy_confext in systemd.
CONFEXT = "root=verity+signed+encrypted+encryptedwithintegrity+unprotected+absent"


class Policy(NamedTuple):
    """An image policy.

    Attributes:
        rules: the allowed states, by designator.
        default: the allowed states of all other partitions.
    """

    rules: Mapping[Designator, Flag]
    default: Flag

    def get(self, designator: Designator) -> Flag:
        """All flags allowed for a partition: image_policy_get_exhaustively()."""
        found = self._derive(designator)
        return _normalize(designator, self.default) if found is None else found

    def _derive(self, designator: Designator) -> Flag | None:
        if designator in self.rules:
            return _normalize(designator, self.rules[designator])
        data = designator.data
        if data is None:
            return None
        # The rule for a hash tree or a signature is derived from the rule for the data.
        of_data = self._derive(data)
        wanted = Flag.SIGNED | Flag.VERITY if designator is data.verity else Flag.SIGNED
        if of_data is None or not of_data & wanted:
            return None
        return _normalize(designator, Flag.UNPROTECTED | of_data & (IGNORE | READ_ONLY | GROWFS))


class Part(NamedTuple):
    """The state of a partition.

    Attributes:
        protection: its protection; UNUSED if the partition exists but is ignored, ABSENT if it does not exist.
        flags: its attributes, see gpt.FLAGS.
        file_system: its type in the kernel's spelling; empty if there is none.
    """

    protection: Flag
    flags: int = 0
    file_system: str = ""


# CONFEXT, parsed.
CONFEXT_POLICY = Policy({Designator.ROOT: OPEN & ~Flag.UNUSED}, IGNORE)


def _normalize(designator: Designator, flags: Flag) -> Flag:
    """Add the flags of unspecified groups, drop inapplicable flags: partition_policy_normalized_flags()."""
    flags |= NONE if flags & OPEN else OPEN
    flags |= NONE if flags & READ_ONLY else READ_ONLY
    flags |= NONE if flags & GROWFS else GROWFS
    if designator.data is not None:
        flags &= ~(Flag.VERITY | Flag.SIGNED | _ANY_ENCRYPTION)
    if designator.verity is None:
        flags &= ~(Flag.VERITY | Flag.SIGNED)
    if flags & OPEN == Flag.ABSENT:
        flags &= ~(READ_ONLY | GROWFS)
    return flags


def parse(text: str) -> Policy:
    """Parse a policy.

    Raises:
        ConfextError: `text` is not a valid policy.
    """
    if text in _SPECIAL:
        return Policy({}, _SPECIAL[text])
    # Importing pyparsing takes longer than everything else here, and finding out an image's signers does not need it.
    from confext_helpers.image import policygrammar

    parsed = policygrammar.split(text)
    if isinstance(parsed, int):
        raise _error(text, f"column {parsed}: PARTITION=FLAG+FLAG… is expected")
    rules: dict[Designator, Flag] = {}
    default: Flag | None = None
    for name, words in parsed:
        flags = NONE
        # An empty list of flags, or "-", allows everything.
        for word in [] if words in ([""], ["-"]) else words:
            if word not in WORDS and word not in _SHORTCUTS:
                raise _error(text, f"{word!r} is no flag")
            flags |= WORDS.get(word) or _SHORTCUTS[word]
        if not name:
            if default is not None:
                raise _error(text, "the default is said twice")
            default = flags
        elif name not in list(Designator):
            raise _error(text, f"{name!r} is no partition")
        elif name in rules:
            raise _error(text, f"the partition {name!r} is there twice")
        else:
            rules[Designator(name)] = flags
    return Policy(rules, IGNORE if default is None else default)


def may_use(policy: Policy, designator: Designator) -> bool | None:
    """Whether an existing partition is used; None if it must not exist: image_policy_may_use()."""
    allowed = policy.get(designator) & OPEN
    if allowed == Flag.ABSENT:
        return None
    return allowed & ~Flag.ABSENT != Flag.UNUSED


def wants_signature(policy: Policy) -> bool:
    """Whether the policy allows only a signed root partition."""
    allowed = policy.get(Designator.ROOT)
    weaker = Flag.VERITY | Flag.UNPROTECTED | _ANY_ENCRYPTION
    return bool(allowed & Flag.SIGNED) and not allowed & weaker


def judge(policy: Policy, designator: Designator, part: Part) -> list[Finding]:
    """Check the state of a partition against the policy.

    Follows image_policy_check_protection() and image_policy_check_partition_flags() in systemd's dissect-image.c.
    """
    allowed = policy.get(designator)
    findings = []
    if not part.protection & allowed:
        what = f"{designator} is {describe(part.protection)}, allowed is {describe(allowed & OPEN)}"
        findings.append(Finding(Code.POLICY, what))
    if part.protection & IGNORE:
        return findings
    for bit, both, on, name in (
        (gpt.FLAG_READ_ONLY, READ_ONLY, Flag.READ_ONLY_ON, "read-only"),
        (gpt.FLAG_GROWFS, GROWFS, Flag.GROWFS_ON, "growfs"),
    ):
        wanted = allowed & both
        if wanted in (on, both & ~on) and bool(part.flags & bit) != (wanted == on):
            state = "not " if wanted == on else ""
            findings.append(Finding(Code.POLICY, f"{designator} is {state}marked {name}"))
    systems = allowed & FILE_SYSTEMS
    if systems and not WORDS.get(part.file_system, NONE) & systems:
        what = f"{designator} has {part.file_system or 'no file system'}, allowed is {describe(systems)}"
        findings.append(Finding(Code.POLICY, what))
    return findings


def describe(flags: Flag) -> str:
    """The flags, as written in a policy."""
    if flags & OPEN == OPEN:
        return "open"
    return "+".join(word for word, flag in WORDS.items() if flag & flags) or "-"


def _error(text: str, problem: str) -> ConfextError:
    return ConfextError(f"invalid image policy {text!r}: {problem}", hint="see systemd.image-policy(7)")
