# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which files differ between two trees, of which a third one is the base."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from confext_helpers.swap import treediff
from confext_helpers.swap.treediff import Difference, UnreadableError

Tree = Mapping[str, str | None]


def grow(root: Path, tree: Tree) -> Path:
    """Make a tree: content by path, None for a directory, a text that begins with "-> " for a symlink."""
    root.mkdir()
    for path, content in tree.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            target.mkdir()
        elif content.startswith("-> "):
            target.symlink_to(content.removeprefix("-> "))
        else:
            target.write_text(content)
    return root


def compare(
    old: Path,
    new: Path,
    base: Path | None = None,
    layers: Collection[int] = (),
    limit: int | None = None,
    directories: Collection[int] = (),
) -> Difference:
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) if path is not None else None for path in (old, new, base)]
    try:
        first, second, third = fds
        assert first is not None
        assert second is not None
        return treediff.compare(first, second, third, layers=layers, limit=limit, directories=directories)
    finally:
        for fd in fds:
            if fd is not None:
                os.close(fd)


def found(tmp_path: Path, old: Tree, new: Tree) -> tuple[list[str], list[str], list[str]]:
    result = compare(grow(tmp_path / "old", old), grow(tmp_path / "new", new))
    for files in result:
        assert files.count == len(files.paths)
    return result.added.paths, result.changed.paths, result.removed.paths


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, ([], [], [])),
        ({"a": "1", "d/b": "2"}, {"a": "1", "d/b": "2"}, ([], [], [])),
        ({"a": "1"}, {"a": "2"}, ([], ["a"], [])),
        ({"a": "1"}, {"a": "22"}, ([], ["a"], [])),
        ({"a": "x" * 200_000 + "1"}, {"a": "x" * 200_000 + "2"}, ([], ["a"], [])),
        ({"a": "x" * 200_000}, {"a": "x" * 200_000}, ([], [], [])),
        ({}, {"d/e/f": "1", "d/e/g": ""}, (["d/e/f", "d/e/g"], [], [])),
        ({"d/e/f": "1", "d/e/g": ""}, {}, ([], [], ["d/e/f", "d/e/g"])),
        ({"d": None}, {"e": None}, ([], [], [])),
        ({"a": "-> x"}, {"a": "-> y"}, ([], ["a"], [])),
        ({"a": "-> x"}, {"a": "-> x"}, ([], [], [])),
        ({"a": "-> x"}, {"a": "x"}, ([], ["a"], [])),
        ({"a": "1"}, {"a/b": "1"}, (["a/b"], [], ["a"])),
        ({"a/b": "1"}, {"a": "1"}, (["a"], [], ["a/b"])),
        ({"a": "1", "b": "2", "c": "3"}, {"b": "x", "d": "4"}, (["d"], ["b"], ["a", "c"])),
    ],
)
def test_files(tmp_path: Path, old: Tree, new: Tree, expected: tuple[list[str], list[str], list[str]]) -> None:
    assert found(tmp_path, old, new) == expected


def test_mode_and_owner(tmp_path: Path) -> None:
    old = grow(tmp_path / "old", {"a": "1", "b": "1", "d/c": "1"})
    new = grow(tmp_path / "new", {"a": "1", "b": "1", "d/c": "1"})
    (new / "a").chmod(0o600)
    (new / "d").chmod(0o700)
    new.chmod(0o700)
    assert compare(old, new).changed.paths == [".", "a", "d"]
    if os.geteuid() == 0:
        os.chown(new / "b", 1, 1)
        os.chown(new / "d", 1, 1)
        (new / "d").chmod((old / "d").stat().st_mode)
        assert compare(old, new).changed.paths == [".", "a", "b", "d"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Neither to files nor to directories."""
    grow(tmp_path / "outside", {"file": "1"})
    old = grow(tmp_path / "old", {"a": f"-> {tmp_path}/outside", "b": f"-> {tmp_path}/outside/file"})
    new = grow(tmp_path / "new", {"a": f"-> {tmp_path}/outside", "b": f"-> {tmp_path}/outside/file"})
    assert not compare(old, new)
    (new / "a").unlink()
    (new / "a").mkdir()
    result = compare(old, new)
    assert (result.added.paths, result.changed.paths, result.removed.paths) == ([], [], ["a"])


def test_nothing_else_is_opened(tmp_path: Path) -> None:
    """A FIFO would never answer."""
    old, new = grow(tmp_path / "old", {}), grow(tmp_path / "new", {})
    os.mkfifo(new / "pipe")
    assert compare(old, new).added.paths == ["pipe"]
    os.mkfifo(old / "pipe")
    assert not compare(old, new)


def sparse(path: Path, size: int, content: dict[int, bytes]) -> None:
    """Make a file of holes with some content, by offset."""
    with open(path, "wb") as file:
        for offset, data in content.items():
            os.pwrite(file.fileno(), data, offset)
        os.truncate(file.fileno(), size)


@pytest.mark.parametrize(
    ("size", "old", "new", "same"),
    [
        (1 << 43, {}, {}, True),
        (1 << 43, {1 << 40: b"x"}, {1 << 40: b"x"}, True),
        (1 << 43, {1 << 40: b"x"}, {}, False),
        (1 << 43, {}, {1 << 40: b"x"}, False),
        (1 << 43, {1 << 40: b"x"}, {1 << 40: b"y"}, False),
        (1 << 43, {1 << 40: b"x"}, {1 << 41: b"x"}, False),
        (1 << 43, {1 << 40: bytes(4096)}, {}, True),
        (1 << 43, {}, {1 << 40: bytes(4096)}, True),
        (1 << 20, {0: b"x" * 70000}, {0: b"x" * 70000, 1 << 19: bytes(9)}, True),
        (1 << 20, {0: b"x" * 70000}, {0: b"x" * 70000, (1 << 20) - 1: b"x"}, False),
    ],
)
def test_holes_are_not_read(
    tmp_path: Path, size: int, old: dict[int, bytes], new: dict[int, bytes], same: bool
) -> None:
    for name, content in (("old", old), ("new", new)):
        grow(tmp_path / name, {})
        sparse(tmp_path / name / "a", size, content)
    assert compare(tmp_path / "old", tmp_path / "new").changed.paths == ([] if same else ["a"])


def test_files_of_directory_layers_are_read_only_to_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = grow(tmp_path / "old", {"a": "1", "b": "1", "c": "1"})
    new = grow(tmp_path / "new", {"a": "2", "b": "22", "d": "1"})
    os.link(old / "c", new / "c")
    reads: list[int] = []
    real = os.preadv

    def preadv(fd: int, buffers: list[bytearray], offset: int) -> int:
        reads.append(os.fstat(fd).st_ino)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    result = compare(old, new, directories=[new.stat().st_dev])
    assert (result.added.paths, result.changed.paths, result.removed.paths) == (["d"], ["a", "b"], [])
    assert set(reads) == {(tree / "a").stat().st_ino for tree in (old, new)}


def test_depth_is_no_limit(tmp_path: Path) -> None:
    for name in ("old", "new"):
        here = os.open(grow(tmp_path / name, {}), os.O_RDONLY)
        for depth in range(3000):
            os.mkdir("nested", dir_fd=here)
            inner = os.open("nested", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
            if name == "new" and depth in (10, 2999):
                os.close(os.open("file", os.O_CREAT, dir_fd=here))
        os.close(here)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        result = compare(tmp_path / "old", tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (result.added.paths, result.added.count) == (["nested/" * 11 + "file"], 2)
    assert not result.changed.count and not result.removed.count
    for name in ("old", "new"):
        subprocess.run(["rm", "-r", tmp_path / name], check=True)


def test_limit(tmp_path: Path) -> None:
    result = compare(grow(tmp_path / "old", {}), grow(tmp_path / "new", {f"{i:02}": "" for i in range(30)}), limit=3)
    assert (result.added.paths, result.added.count) == (["00", "01", "02"], 30)


def test_what_is_the_base_s_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hard links stand for what an overlay shows: the same inode in all three; but for a layer's own device number."""
    base = grow(tmp_path / "base", {"shadow": "secret", "d/x": "1"})
    trees = [grow(tmp_path / name, {"d": None}) for name in ("old", "new")]
    for tree in trees:
        for path in ("shadow", "d/x"):
            os.link(base / path, tree / path)
        # Not the base's directory, although all that is in it is.
        (tree / "d").chmod(0o700)
    opened: list[str] = []
    real = os.open

    def spy(path: str, flags: int, *more: int, dir_fd: int | None = None) -> int:
        if not flags & os.O_DIRECTORY:
            opened.append(path)
        return real(path, flags, *more, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", spy)
    monkeypatch.setattr(os.path, "samestat", lambda one, other: False)
    assert not compare(trees[0], trees[1], base)
    assert opened == []
    assert not compare(trees[0], trees[1], base, layers=[base.stat().st_dev])
    assert sorted(opened) == ["shadow", "shadow", "x", "x"]


def test_new_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = grow(tmp_path / "old", {"d/a": "12345", "d/b": "1"})
    new = grow(tmp_path / "new", {"d/a": "12345", "d/b": "1"})
    broken = (new / "d/a").stat().st_ino
    real = os.preadv

    def preadv(fd: int, buffers: list[bytearray], offset: int) -> int:
        if os.fstat(fd).st_ino == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(UnreadableError, match=r"^d/a: Input/output error$") as caught:
        compare(old, new)
    assert (caught.value.path, caught.value.device) == ("d/a", new.stat().st_dev)

    # A broken old one is just another file: it is what the reload is for.
    broken = (old / "d/a").stat().st_ino
    assert compare(old, new).changed.paths == ["d/a"]


def test_new_directory_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = grow(tmp_path / "old", {"d/a": "1"}), grow(tmp_path / "new", {"d/a": "1"})
    broken = (new / "d").stat().st_ino
    real = os.listdir

    def listdir(fd: int) -> list[str]:
        if os.fstat(fd).st_ino == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd)

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(UnreadableError, match=r"^d: Input/output error$"):
        compare(old, new)
    broken = (old / "d").stat().st_ino
    assert not compare(old, new)
