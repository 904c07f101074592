# SPDX-License-Identifier: LGPL-2.1-or-later
"""Image policies: grammar, what follows for partitions that no rule names, and the judgement.

tests/real/test_image_policy.py holds the same against systemd-analyze.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confext_helpers.errors import ConfextError
from confext_helpers.image import policy
from confext_helpers.image.findings import Code
from confext_helpers.image.gpt import FLAG_GROWFS, FLAG_READ_ONLY
from confext_helpers.image.partitiontypes import Designator
from confext_helpers.image.policy import Flag, Part, Policy

BOTH = policy.READ_ONLY | policy.GROWFS
STRICT = "root=signed+absent"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Policy({}, policy.IGNORE)),
        ("-", Policy({}, policy.IGNORE)),
        ("*", Policy({}, policy.OPEN)),
        ("~", Policy({}, Flag.ABSENT)),
        ("root=signed", Policy({Designator.ROOT: Flag.SIGNED}, policy.IGNORE)),
        ("=open", Policy({}, policy.OPEN)),
        ("root=", Policy({Designator.ROOT: policy.NONE}, policy.IGNORE)),
        ("root=-:=-", Policy({Designator.ROOT: policy.NONE}, policy.NONE)),
        (" usr = ignore + read-only-on ", Policy({Designator.USR: policy.IGNORE | Flag.READ_ONLY_ON}, policy.IGNORE)),
        ("root=absent:\t= erofs", Policy({Designator.ROOT: Flag.ABSENT}, Flag.EROFS)),
    ],
)  # fmt: skip
def test_grammar(text: str, expected: Policy) -> None:
    assert policy.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("root", "column 5: PARTITION=FLAG+FLAG… is expected"),
        ("root=signed:", "column 12: PARTITION=FLAG+FLAG… is expected"),
        (":root=signed", "column 1: PARTITION=FLAG+FLAG… is expected"),
        ("root=signed=verity", "column 12: PARTITION=FLAG+FLAG… is expected"),
        ("ro\\ot=signed", "column 3: PARTITION=FLAG+FLAG… is expected"),
        ("root=signed+", "'' is no flag"),
        ("root=Signed", "'Signed' is no flag"),
        ("root=sig ned", "'sig ned' is no flag"),
        ("boot=signed", "'boot' is no partition"),
        ("root=signed:root=verity", "the partition 'root' is there twice"),
        ("=open:=open", "the default is said twice"),
        (" -", "column 3: PARTITION=FLAG+FLAG… is expected"),
    ],
)
def test_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfextError) as raised:
        policy.parse(text)
    assert raised.value.problem == f"invalid image policy {text!r}: {problem}"


@given(st.text(alphabet="rotsigned+=:-*~ \\\n\0x", max_size=30))
def test_nothing_else_is_raised(text: str) -> None:
    try:
        policy.parse(text)
    except ConfextError as error:
        assert "invalid image policy" in str(error)


def test_presets() -> None:
    assert policy.parse(policy.CONFEXT) == policy.CONFEXT_POLICY
    assert policy.parse(STRICT).get(Designator.ROOT) == Flag.SIGNED | Flag.ABSENT | BOTH


def test_what_follows() -> None:
    signed = policy.parse("root=signed")
    assert signed.get(Designator.ROOT) == Flag.SIGNED | BOTH
    # The protection itself needs none, but has to be there.
    assert signed.get(Designator.ROOT_VERITY) == Flag.UNPROTECTED | BOTH
    assert signed.get(Designator.ROOT_VERITY_SIG) == Flag.UNPROTECTED | BOTH
    assert signed.get(Designator.USR) == policy.IGNORE | BOTH
    verity = policy.parse("root=verity+absent:=absent")
    assert verity.get(Designator.ROOT_VERITY) == Flag.UNPROTECTED | Flag.ABSENT | BOTH
    assert verity.get(Designator.ROOT_VERITY_SIG) == Flag.ABSENT
    assert policy.parse("*").get(Designator.HOME) == policy.OPEN & ~(Flag.VERITY | Flag.SIGNED) | BOTH
    # Only what a partition cannot have: nothing is left, and not everything.
    assert policy.parse("home=verity").get(Designator.HOME) == BOTH
    assert policy.parse("root=read-only-on").get(Designator.ROOT) == policy.OPEN | Flag.READ_ONLY_ON | policy.GROWFS


def test_use() -> None:
    one = policy.parse("root=signed:usr=absent:home=unused+absent")
    assert policy.may_use(one, Designator.ROOT) is True
    assert policy.may_use(one, Designator.USR) is None
    assert policy.may_use(one, Designator.HOME) is False
    assert policy.may_use(one, Designator.SRV) is False


@pytest.mark.parametrize(
    ("text", "wants"),
    [
        (policy.CONFEXT, False), (STRICT, True), ("root=signed", True), ("root=signed+verity", False),
        ("root=signed+unprotected", False), ("root=signed+encrypted", False), ("*", False), ("~", False),
        ("=signed", True), ("-", False), ("root=signed+unused", True),
    ],
)  # fmt: skip
def test_wants_signature(text: str, wants: bool) -> None:
    assert policy.wants_signature(policy.parse(text)) is wants


@pytest.mark.parametrize(
    ("text", "part", "messages"),
    [
        ("root=signed", Part(Flag.SIGNED, 0, "erofs"), []),
        ("root=signed", Part(Flag.VERITY, 0, "erofs"), ["root is verity, allowed is signed"]),
        ("root=signed", Part(Flag.UNPROTECTED, 0, "erofs"), ["root is unprotected, allowed is signed"]),
        ("root=signed", Part(Flag.ABSENT), ["root is absent, allowed is signed"]),
        ("root=signed+absent", Part(Flag.ABSENT), []),
        # As with systemd: what is signed is not what a policy for mere verity means.
        ("root=verity", Part(Flag.SIGNED), ["root is signed, allowed is verity"]),
        ("*", Part(Flag.UNPROTECTED), []),
        ("~", Part(Flag.SIGNED), ["root is signed, allowed is absent"]),
        ("-", Part(Flag.UNUSED), []),
        ("root=read-only-on", Part(Flag.SIGNED, 0), ["root is not marked read-only"]),
        ("root=read-only-on", Part(Flag.SIGNED, FLAG_READ_ONLY), []),
        ("root=read-only-off", Part(Flag.SIGNED, FLAG_READ_ONLY), ["root is marked read-only"]),
        ("root=growfs-off", Part(Flag.SIGNED, FLAG_GROWFS), ["root is marked growfs"]),
        ("root=growfs-on+growfs-off", Part(Flag.SIGNED, FLAG_GROWFS), []),
        ("root=erofs+squashfs", Part(Flag.SIGNED, 0, "squashfs"), []),
        ("root=erofs+squashfs", Part(Flag.SIGNED, 0, "ext4"), ["root has ext4, allowed is erofs+squashfs"]),
        ("root=erofs", Part(Flag.SIGNED), ["root has no file system, allowed is erofs"]),
        ("root=erofs+absent", Part(Flag.ABSENT), []),
    ],
)
def test_judgement(text: str, part: Part, messages: list[str]) -> None:
    findings = policy.judge(policy.parse(text), Designator.ROOT, part)
    assert [one.message for one in findings] == messages
    assert {one.code for one in findings} <= {Code.POLICY}
