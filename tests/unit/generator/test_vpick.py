# SPDX-License-Identifier: LGPL-2.1-or-later
"""systemd.v(7), as it is picked for systemd 255, 258 and 259."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from confext_generator.tree import Tree
from confext_generator.vpick import is_versioned, pick

CASES = [
    ("newest", ["v_1.9.raw", "v_1.10.raw", "v_1.2.raw"], "v_1.10.raw"),
    ("other names", ["w_9.raw", "v.raw", "v_.raw", "v_1.img", "v_1.raw.old", "v_1.raw"], "v_1.raw"),
    ("own architecture first", ["v_1_x86.raw", "v_1_x86-64.raw", "v_1.raw"], "v_1_x86-64.raw"),
    ("second architecture before none", ["v_1_x86.raw", "v_1.raw"], "v_1_x86.raw"),
    ("newer beats architecture", ["v_1_x86-64.raw", "v_2.raw"], "v_2.raw"),
    ("foreign architecture", ["v_9_arm64.raw", "v_1.raw"], "v_1.raw"),
    ("no architecture at all", ["v_9_beta.raw", "v_8.raw"], "v_9_beta.raw"),
    ("tries left beat the version", ["v_2+0-3.raw", "v_1+1.raw"], "v_1+1.raw"),
    ("no counter counts as tries left", ["v_1.raw", "v_2+0.raw"], "v_1.raw"),
    ("more tries left", ["v_1+2-1.raw", "v_1+3.raw"], "v_1+3.raw"),
    ("fewer tries done", ["v_1+2-1.raw", "v_1+2-0.raw"], "v_1+2-0.raw"),
    ("all used up", ["v_1+0-3.raw", "v_2+0-3.raw"], "v_2+0-3.raw"),
    ("plus in the version", ["v_1+git.raw", "v_1+deb-x.raw"], "v_1+git.raw"),
    ("counter after the architecture", ["v_1_x86-64+1.raw"], "v_1_x86-64+1.raw"),
    ("bad characters", ["v_1 2.raw", "v_1~rc1.raw", "v_0.raw"], "v_0.raw"),
    ("nothing", ["README"], None),
]


@pytest.mark.parametrize(("names", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_pick(tmp_path: Path, names: list[str], expected: str | None) -> None:
    directory = tmp_path / "srv/v.raw.v"
    directory.mkdir(parents=True)
    for name in names:
        (directory / name).touch()
    picked = pick(Tree(os.fsencode(tmp_path)), b"/srv/v.raw.v", image=True, machine="x86_64")
    assert picked == (None if expected is None else os.fsencode(f"/srv/v.raw.v/{expected}"))


def test_directories_have_no_suffix(tmp_path: Path) -> None:
    for name in ("v_1", "v_2", "v_2.raw"):
        (tmp_path / "v.v" / name).mkdir(parents=True)
    assert pick(Tree(os.fsencode(tmp_path)), b"/v.v", image=False, machine="x86_64") == b"/v.v/v_2.raw"


def test_pattern(tmp_path: Path) -> None:
    for name in ("a_1.raw", "b_1.raw", "b_2.raw", "b_3.img"):
        (tmp_path / "x.v").mkdir(exist_ok=True)
        (tmp_path / "x.v" / name).touch()
    assert pick(Tree(os.fsencode(tmp_path)), b"/x.v/b___.raw", image=True, machine="x86_64") == b"/x.v/b_2.raw"


def test_unreadable_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pick(Tree(os.fsencode(tmp_path)), b"/x.raw.v", image=True)


@pytest.mark.parametrize(
    ("path", "versioned"),
    [
        (b"/a/x.v", True),
        (b"/a/x.raw.v", True),
        (b"/a/x.raw", False),
        (b"/a/x.v/y.raw", False),
        (b"/a/x.v/y___.raw", True),
        (b"/a/x/y___.raw", False),
        (b"/a___/x.v/y.raw", False),
    ],
)
def test_is_versioned(path: bytes, versioned: bool) -> None:
    assert is_versioned(path) is versioned


@pytest.mark.parametrize(
    ("machine", "expected"),
    [("i486", "v_1_x86.raw"), ("armv5tel", "v_1_arm.raw"), ("ppcle", "v_1_ppc-le.raw"), ("vax", "v_0.raw")],
)
def test_other_machines(tmp_path: Path, machine: str, expected: str) -> None:
    directory = tmp_path / "v.raw.v"
    directory.mkdir()
    for name in ("v_1_x86.raw", "v_1_arm.raw", "v_1_ppc-le.raw", "v_0.raw"):
        (directory / name).touch()
    picked = pick(Tree(os.fsencode(tmp_path)), b"/v.raw.v", image=True, machine=machine)
    assert picked == b"/v.raw.v/" + expected.encode()
