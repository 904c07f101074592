# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is in a file system, as the tools tell it; for erofs see tests/real/test_image_verify.py as well."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from confext_helpers.image import contents
from confext_helpers.image.bytesource import open_source
from confext_helpers.image.contents import ContentsError, Entry
from confext_helpers.image.filesystems import Kind
from confext_helpers.image.findings import Code
from confext_helpers.system import programs

OFFSET = 4096
MAKE = {
    Kind.SQUASHFS: ("mksquashfs", "unsquashfs", "mksquashfs tree image -quiet -no-progress -noappend"),
    Kind.EXT4: ("mkfs.ext4", "debugfs", "truncate -s 1M image; mkfs.ext4 -q -d tree image"),
}


def make(directory: Path, kind: Kind) -> Path:
    """An image with the file system behind some bytes of something else."""
    for tool in MAKE[kind][:2]:
        if shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin") is None:
            pytest.skip(f"{tool} is not installed")
    environment = {"PATH": os.environ["PATH"] + ":/usr/sbin"}
    subprocess.run(["sh", "-ec", MAKE[kind][2]], cwd=directory, env=environment, check=True, capture_output=True)
    moved = directory / "moved"
    moved.write_bytes(bytes(OFFSET) + (directory / "image").read_bytes())
    return moved


@pytest.mark.parametrize("kind", list(MAKE))
def test_tree(tmp_path: Path, kind: Kind) -> None:
    tree = tmp_path / "tree"
    (tree / "etc/dir/deep").mkdir(parents=True)
    (tree / "usr").mkdir()
    (tree / "usr/etc").write_text("elsewhere")
    (tree / "etc/dir/file").write_bytes(b"one\0two\n")
    (tree / "etc/dir/a  name -> with\ttricks").write_text("x")
    os.symlink("../dir/file", tree / "etc/dir/deep/link")
    (tree / os.fsdecode(b"etc/\xff\xfe")).write_text("no UTF-8")
    os.mkfifo(tree / "etc/pipe")
    source = open_source(str(make(tmp_path, kind)))
    found = contents.open_contents(source.part(OFFSET, source.size), kind)
    assert set(found.entries) == {
        Entry("/etc", "directory"), Entry("/etc/dir", "directory"), Entry("/etc/dir/deep", "directory"),
        Entry("/etc/dir/deep/link", "symlink"), Entry("/etc/dir/file", "file"), Entry("/etc/pipe", "other"),
        Entry("/etc/dir/a  name -> with\ttricks", "file"), Entry(os.fsdecode(b"/etc/\xff\xfe"), "file"),
    }  # fmt: skip
    assert found.read("/etc/dir/file") == b"one\0two\n"
    with pytest.raises(ContentsError):
        contents.open_contents(source, kind)
    os.close(source.fd)


@pytest.mark.parametrize("kind", list(MAKE))
def test_line_break_in_a_name(tmp_path: Path, kind: Kind) -> None:
    """It must not look like another file."""
    (tmp_path / "tree/etc").mkdir(parents=True)
    (tmp_path / "tree/etc/a\n-rw-r--r-- root b").write_text("x")
    source = open_source(str(make(tmp_path, kind)))
    with pytest.raises(ContentsError) as raised:
        contents.open_contents(source.part(OFFSET, source.size), kind)
    assert raised.value.finding.code is Code.CONTENTS
    os.close(source.fd)


@pytest.mark.parametrize("kind", list(MAKE))
def test_modes(tmp_path: Path, kind: Kind) -> None:
    """Of links they do not count."""
    modes = {"etc": 0o755, "etc/open": 0o755, "etc/open/file": 0o644, "etc/run": 0o4755, "etc/odd": 0o7643,
             "etc/group": 0o640, "etc/mine": 0o600, "etc/none": 0, "etc/closed": 0o750, "etc/closed/file": 0o444,
             "etc/listed": 0o744, "etc/entered": 0o711, "etc/sticky": 0o1777}  # fmt: skip
    for name in modes:
        path = tmp_path / "tree" / name
        if name in ("etc", "etc/open", "etc/closed", "etc/listed", "etc/entered", "etc/sticky"):
            path.mkdir(parents=True)
        else:
            path.touch()
    os.symlink("mine", tmp_path / "tree/etc/link")
    for name, mode in reversed(modes.items()):
        (tmp_path / "tree" / name).chmod(mode)
    source = open_source(str(make(tmp_path, kind)))
    found = contents.open_contents(source.part(OFFSET, source.size), kind)
    # unsquashfs prints letters, of which the special bits do not count here.
    assert {name: (found.mode(f"/{name}") or 0) & 0o777 for name in modes} == {
        name: mode & 0o777 for name, mode in modes.items()
    }
    assert set(found.private()) == {
        "/etc/odd", "/etc/group", "/etc/mine", "/etc/none", "/etc/closed", "/etc/listed", "/etc/entered",
    }  # fmt: skip
    os.close(source.fd)


@pytest.mark.parametrize("kind", list(MAKE))
def test_no_etc(tmp_path: Path, kind: Kind) -> None:
    (tmp_path / "tree/usr").mkdir(parents=True)
    source = open_source(str(make(tmp_path, kind)))
    assert contents.open_contents(source.part(OFFSET, source.size), kind).entries == ()
    os.close(source.fd)


def test_file_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "tree/etc").mkdir(parents=True)
    (tmp_path / "tree/etc/large").write_bytes(bytes(3 << 20))
    source = open_source(str(make(tmp_path, Kind.SQUASHFS)))
    found = contents.open_contents(source.part(OFFSET, source.size), Kind.SQUASHFS)
    with pytest.raises(ContentsError):
        found.read("/etc/large")
    os.close(source.fd)


def test_file_systems_without_a_tool(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(4096))
    source = open_source(str(tmp_path / "x"))
    for kind in (Kind.BTRFS, Kind.XFS, Kind.F2FS, Kind.VFAT):
        with pytest.raises(ContentsError) as raised:
            contents.open_contents(source, kind)
        assert raised.value.finding.code is Code.CONTENTS_TOOL
    os.close(source.fd)


def bounded(*argv: str, timeout_sec: float = 10, output_max: int = 1 << 20) -> programs.Bounded:
    return programs.run_confined(*argv, timeout_sec=timeout_sec, output_max=output_max, memory_max=1 << 30)


def test_bounds() -> None:
    assert bounded("sh", "-c", "echo out; echo err >&2; exit 3") == (3, b"out\n", "err\n")
    done = bounded("sh", "-c", "exec cat /dev/zero", output_max=5000)
    assert (done.status, len(done.stdout)) == (-25, 5000)  # SIGXFSZ
    before = time.monotonic()
    assert bounded("sh", "-c", "sleep 60 & sleep 60", timeout_sec=0.2).status is None
    assert time.monotonic() - before < 10
    assert bounded("sh", "-c", "ulimit -v").stdout == b"1048576\n"
    with pytest.raises(FileNotFoundError):
        bounded("no-such-program-at-all")
    # Nothing of this process's environment, and no descriptor that was not handed on.
    assert b"HOME" not in bounded("env").stdout
    with open("/dev/null", "rb") as file:
        shared = programs.run_confined(
            "readlink", f"/proc/self/fd/{file.fileno()}", timeout_sec=5, output_max=100, memory_max=1 << 30,
            descriptors=[file.fileno()],
        )  # fmt: skip
        assert shared.stdout == b"/dev/null\n"
        assert bounded("readlink", f"/proc/self/fd/{file.fileno()}").stdout == b""
