# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decide whether an image policy requires a signature: systemd.image-policy(7).

The generator needs nothing else of ExtensionImagePolicy=: a directory cannot be signed, so where the policy requires
signatures, directories are not layers.
"""

from __future__ import annotations

# partition_designator_from_string() and the flags of image_policy_from_string() in systemd's image-policy.c. systemd
# ignores a policy with any other word; the setting then keeps its previous value.
_DESIGNATORS = frozenset(
    (
        b"",  # The default, for all designators not named.
        b"root", b"usr", b"home", b"srv", b"esp", b"xbootldr", b"swap", b"root-verity", b"usr-verity",
        b"root-verity-sig", b"usr-verity-sig", b"tmp", b"var",
    )
)  # fmt: skip
_PROTECTIONS = frozenset(
    (b"verity", b"signed", b"encrypted", b"encryptedwithintegrity", b"unprotected", b"unused", b"absent")
)
_FLAGS = _PROTECTIONS | {b"read-only-on", b"read-only-off", b"growfs-on", b"growfs-off", b"open", b"ignore"}
_WEAKER = frozenset((b"verity", b"encrypted", b"encryptedwithintegrity", b"unprotected", b"open"))


def wants_signature(policy: bytes, otherwise: bool) -> bool:
    """Return whether `policy` allows only a signed root file system.

    `otherwise` is the result for the policy that was set before, which stays in force if `policy` is invalid. When in
    doubt, the result is true.
    """
    if policy in (b"", b"*", b"-", b"~"):
        return False
    is_valid = True
    rules: dict[bytes, bool] = {}
    for rule in policy.split(b":"):
        designator, equals, text = rule.strip().partition(b"=")
        flags = {flag.strip() for flag in text.split(b"+")} if text.strip() else set()
        if not equals or designator not in _DESIGNATORS or designator in rules or not flags <= _FLAGS:
            is_valid = False
        rules[designator] = b"signed" in flags and not flags & _WEAKER
    wants = rules.get(b"root", rules.get(b"", False))
    return wants if is_valid else wants or otherwise
