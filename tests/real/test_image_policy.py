# SPDX-License-Identifier: LGPL-2.1-or-later
"""Image policies mean what `systemd-analyze image-policy` says they mean, in the words of each version.

No system is booted: the program runs in its root file system. Only what that version knows is drawn; a policy that it
refuses has to be refused here, and one that it takes has to give the same for every partition.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confext_helpers.errors import ConfextError
from confext_helpers.image import policy
from confext_helpers.image.partitiontypes import Designator
from confext_helpers.image.policy import Flag
from lab import machine, rootfs
from lab.requirements import need

pytestmark = pytest.mark.real

_OLD = [word for word, flag in policy.WORDS.items() if not flag & (policy.FILE_SYSTEMS | Flag.ENCRYPTED_WITH_INTEGRITY)]
_WORDS = {"trixie": [*_OLD, "open", "ignore"], "forky": [*policy.WORDS, "open", "ignore"]}
_BATCH = 60


def _policies(words: Sequence[str]) -> st.SearchStrategy[str]:
    space = st.sampled_from(("", "", "", " ", "\t"))
    word = st.sampled_from((*words, "", "-", "nonsense"))
    known = st.sampled_from(tuple(words))
    flags = st.one_of(st.lists(known, max_size=4), st.lists(word, max_size=3)).map("+".join)
    name = st.sampled_from((*Designator, "", *Designator, "boot"))
    rule = st.tuples(space, name, space, st.just("="), space, flags, space).map("".join)
    any_text = st.text(alphabet="rotusigned=+:-~* ", max_size=12)
    rules = st.lists(rule, min_size=1, max_size=4).map(":".join)
    return st.one_of(rules, any_text, st.sampled_from(("*", "-", "~", "")))


def _theirs(root: str, text: str) -> list[list[str]] | None:
    """Mode, read-only, growfs and file systems for each partition, and the default; None if the policy is refused."""
    done = subprocess.run(
        ["chroot", root, "systemd-analyze", "--no-pager", "image-policy", "--", text],
        capture_output=True, text=True, check=False, env={"LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )  # fmt: skip
    if done.returncode:
        return None
    lines = [line.split() for line in done.stdout.splitlines()]
    start = next(number for number, line in enumerate(lines) if line[:1] == ["PARTITION"])
    return [line for line in lines[start + 1 :] if line]


def _switch(flags: Flag, on: Flag, off: Flag) -> str:
    return "-" if bool(flags & on) == bool(flags & off) else "yes" if flags & on else "no"


def _ours(text: str, old: bool) -> list[list[str]] | None:
    try:
        parsed = policy.parse(text)
    except ConfextError:
        return None
    rows = []
    for name, flags in (*((str(one), parsed.get(one)) for one in Designator), ("default", parsed.default)):
        mode = flags & policy.OPEN
        if old:
            mode &= ~Flag.ENCRYPTED_WITH_INTEGRITY
        everything = policy.OPEN & ~Flag.ENCRYPTED_WITH_INTEGRITY if old else policy.OPEN
        words = "open" if mode == everything else "ignore" if mode == policy.IGNORE else policy.describe(mode)
        row = [
            name, words, _switch(flags, Flag.READ_ONLY_ON, Flag.READ_ONLY_OFF),
            _switch(flags, Flag.GROWFS_ON, Flag.GROWFS_OFF),
        ]  # fmt: skip
        rows.append(row if old else [*row, policy.describe(flags & policy.FILE_SYSTEMS)])
    return rows


@pytest.mark.parametrize("suite", list(rootfs.SUITES))
def test_random_policies(suite: str) -> None:
    need(machine.missing_capability())
    root = str(rootfs.ensure(suite))
    seen = {"taken": 0, "refused": 0}

    @settings(max_examples=_BATCH * 5, deadline=None, database=None, derandomize=True)
    @given(_policies(_WORDS[suite]))
    def same(text: str) -> None:
        theirs = _theirs(root, text)
        seen["refused" if theirs is None else "taken"] += 1
        assert _ours(text, suite == "trixie") == theirs

    same()
    assert min(seen.values()) > _BATCH // 2


def test_presets() -> None:
    """Ours for confexts is that of systemd, which prints it under a name that is not documented."""
    need(machine.missing_capability())
    root = str(rootfs.ensure("forky"))
    assert _theirs(root, "@confext") == _ours(policy.CONFEXT, False)
    assert _theirs(root, "@confext-strict") == _ours("root=signed+absent", False)
