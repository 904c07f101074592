# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who can write a file, which paths a unit can hold, and the file system below another root."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confext_generator import entrynames
from confext_generator.access import Access
from confext_generator.tree import Tree

OTHER = 4242


def status(mode: int, uid: int = 0, gid: int = 0) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("status", "problem", "details"),
    [
        (status(stat.S_IFREG | 0o644), "", ()),
        (status(stat.S_IFREG | 0o664), "", ()),
        (status(stat.S_IFREG | 0o644, os.geteuid(), os.getegid()), "", ()),
        (status(stat.S_IFREG | 0o600, OTHER), "other-owner", ("4242",)),
        (status(stat.S_IFREG | 0o666), "everybody-writes", ()),
        (status(stat.S_IFDIR | 0o1777), "everybody-writes", ()),
        (status(stat.S_IFREG | 0o664, 0, OTHER), "group-writes", ("4242",)),
        (status(stat.S_IFREG | 0o640, 0, OTHER), "", ()),
        (status(stat.S_IFBLK | 0o660, 0, OTHER), "", ()),
        (status(stat.S_IFBLK | 0o666, 0, OTHER), "everybody-writes", ()),
    ],
)
def test_access(status: os.stat_result, problem: str, details: tuple[str, ...]) -> None:
    found = Access(Tree()).problem(status, b"/nonexistent")
    assert (found.code if found else "", found.details if found else ()) == (problem, details)


NAMES = st.binary(min_size=1, max_size=40).filter(lambda n: b"\0" not in n and b"/" not in n and n not in (b".", b".."))


@given(NAMES)
def test_a_name_never_ends_a_line(name: bytes) -> None:
    path = b"/etc/" + name
    if entrynames.is_expressible(path):
        assert not any(c < 32 or c == 127 for c in path)
        path.decode()
    else:
        assert any(c < 32 or c == 127 for c in path) or not path.decode("utf-8", "replace").isascii()


@pytest.mark.parametrize(
    ("path", "expressible"),
    [
        (b"/" + b"x" * 255, True),
        (b"/" + b"x" * 256, False),
        (b"/x" * 2047, True),
        (b"/x" * 2048, False),
    ],
)
def test_paths_that_systemd_takes(path: bytes, expressible: bool) -> None:
    assert entrynames.is_expressible(path) is expressible


def test_chase_stays_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/up").symlink_to("../../../../a")
    (tmp_path / "a/absolute").symlink_to("/a/up/../gone/x")
    (tmp_path / "loop").symlink_to("loop")
    tree = Tree(os.fsencode(tmp_path))
    assert tree.chase(b"/a/up/up/../x") == b"/x"
    assert tree.chase(b"/a/absolute") == b"/gone/x"
    assert tree.chase(b"/..//./../") == b"/"
    with pytest.raises(OSError, match=r"too many links") as raised:
        tree.chase(b"/loop/\xff")
    assert (raised.value.errno, raised.value.filename) == (errno.ELOOP, b"/loop/\xff")
    assert tree.chase(b"/x" * 3000) == b"/x" * 3000


def test_a_long_unit_file_is_read_to_its_end(tmp_path: Path) -> None:
    data = b"# x\n" * 50_000 + b"[Service]\n"
    (tmp_path / "long").write_bytes(data)
    assert Tree(os.fsencode(tmp_path)).read(b"/long") == data


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/urandom"])
def test_device_as_a_unit_file_is_empty(device: str) -> None:
    """As null_or_empty() of systemd has it, and /dev/zero has no end."""
    assert Tree().read(os.fsencode(device)) == b""


def test_fifo_as_a_unit_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert Tree(os.fsencode(tmp_path)).read(b"/fifo") == b""
