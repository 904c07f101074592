# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looking at other file systems by way of a child, which may be left behind."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from confext_generator import cli, lookout
from confext_generator.lookout import Lookout, SilentError
from confext_generator.tree import Tree
from golden.recorder import Recorder

DATA, OTHER = b"/data", b"/other"
UNIT = "etc/systemd/system/foo.service"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root in which /data and /other are taken for other file systems; what has "hang" in its name hangs."""
    for name in ("data/directory", "other", f"{UNIT}.confext.d"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/file").write_bytes(b"x" * 200_000)
    (tmp_path / "data/link").symlink_to("directory")
    (tmp_path / UNIT).write_text("[Service]\nExecStart=/bin/true\n")
    answer = lookout._answer

    def answer_or_hang(what: bytes, path: bytes) -> bytes:
        if b"hang" in path:
            time.sleep(60)
        return answer(what, path)

    monkeypatch.setattr(lookout, "_answer", answer_or_hang)
    monkeypatch.setattr(lookout, "_find_mounts", lambda root, directories: frozenset((DATA, OTHER)))
    monkeypatch.setattr(lookout, "_PATIENCE_SEC", 0.5)
    return tmp_path


def test_answers_are_those_of_the_kernel(root: Path) -> None:
    asked = Lookout(os.fsencode(root), [])
    tree = Tree(os.fsencode(root), asked)
    for name in ("file", "directory", "link"):
        path = root / "data" / name
        assert tuple(tree.lstat(DATA + b"/" + name.encode())) == tuple(os.lstat(path))
    assert tree.chase(b"/data/link/x") == b"/data/directory/x"
    assert sorted(tree.listdir(DATA)) == [b"directory", b"file", b"link"]
    assert tree.listdir(b"/data/directory") == []
    assert tree.read(b"/data/file") == b"x" * 200_000
    assert not tree.has_acl(b"/data/file")
    with pytest.raises(FileNotFoundError):
        tree.lstat(b"/data/absent")
    with pytest.raises(NotADirectoryError):
        tree.listdir(b"/data/file")
    assert asked._child > 0
    tree.close()


def test_what_is_near_needs_no_child(root: Path) -> None:
    asked = Lookout(os.fsencode(root), [])
    tree = Tree(os.fsencode(root), asked)
    assert stat.S_ISDIR(tree.lstat(b"/etc").st_mode)
    assert tree.listdir(b"/etc/systemd") == [b"system"]
    assert tree.chase(b"/database/x") == b"/database/x"
    assert asked._child < 0


def test_silence_is_waited_for_once(root: Path) -> None:
    asked = Lookout(os.fsencode(root), [])
    begin = time.monotonic()
    with pytest.raises(SilentError) as raised:
        asked.look(b"/data/hang")
    assert raised.value.errno == errno.ETIMEDOUT
    child_is_gone = asked._child < 0
    for place in (b"/data/hang", b"/data/file", b"/data"):
        with pytest.raises(SilentError):
            asked.look(place)
    assert child_is_gone
    assert time.monotonic() - begin < 2
    # Others are looked at as before.
    assert asked.listdir(OTHER) == []
    assert "'/data'" in asked.excuse(b"/data/x")
    assert asked.excuse(b"/other/x") == ""
    asked.close()


def test_all_waiting_together_is_limited(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [b"/m%d" % number for number in range(100)]
    monkeypatch.setattr(lookout, "_find_mounts", lambda root, directories: frozenset(many))
    monkeypatch.setattr(lookout, "BUDGET_SEC", 0.6)
    asked = Lookout(os.fsencode(root), [])
    begin = time.monotonic()
    for mount in many:
        with pytest.raises(SilentError):
            asked.look(mount + b"/hang")
    assert time.monotonic() - begin < 3
    assert asked.excuse(many[0]) == "'/m0' does not answer"
    assert asked.excuse(many[-1]) == "'/m99' was not looked at, others did not answer for too long"


def test_a_child_that_dies_is_a_silent_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(what: bytes, path: bytes) -> bytes:
        os._exit(1)

    monkeypatch.setattr(lookout, "_answer", die)
    asked = Lookout(os.fsencode(root), [])
    with pytest.raises(SilentError):
        asked.look(b"/data/file")


def test_the_child_holds_no_file_of_its_parent(root: Path) -> None:
    """Who waits for the end of what the generator says must not wait for a child that is stuck."""
    reader, writer = os.pipe()
    asked = Lookout(os.fsencode(root), [])
    assert asked.listdir(OTHER) == []
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
    asked.close()


MOUNTINFO = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 8:2 / /usr rw,relatime shared:2 - ext4 /dev/sda2 rw
24 22 8:3 / /var rw,relatime - ext4 /dev/sda3 rw
25 22 0:5 / /dev rw shared:3 - devtmpfs udev rw
26 22 0:6 / /run rw shared:4 - tmpfs tmpfs rw
27 22 0:40 / /srv/a\040b\134c rw - nfs4 server:/ rw
28 22 0:41 / /etc/systemd/system/foo.service.confext.d rw - fuse x rw
29 22 0:42 / /srv/auto rw - autofs systemd-1 rw
"""


def test_mounts_that_may_be_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTINFO)
    monkeypatch.setattr(lookout, "_MOUNTS", os.fsencode(path))
    directories = [b"/etc/systemd/system", b"/usr/lib/systemd/system"]
    drop = b"/etc/systemd/system/foo.service.confext.d"
    assert lookout._find_mounts(b"", directories) == {b"/var", b"/srv/a b\\c", drop, b"/srv/auto"}
    assert lookout._find_mounts(b"/srv", []) == {b"/a b\\c", b"/auto"}
    monkeypatch.setattr(lookout, "_MOUNTS", os.fsencode(tmp_path / "gone"))
    assert lookout._find_mounts(b"", directories) == frozenset()


def test_a_silent_link_is_taken_by_its_name(root: Path) -> None:
    directory = root / f"{UNIT}.confext.d"
    (directory / "10-a.raw").touch()
    (directory / "20-b.raw").symlink_to("/data/hang/b.raw")
    (directory / "30-c.raw").symlink_to("/other/c.raw")
    recorder = Recorder()
    environ = {"UNIT_CONFEXT_SYSTEMD_VERSION": "257"}
    tree = cli.open_tree(os.fsencode(root), environ)
    ((_, text),) = cli.generate(tree, environ, recorder)
    tree.close()
    paths = [line for line in text.splitlines() if line.startswith(b"ExtensionImages=")]
    names = [f"/{UNIT}.confext.d/10-a.raw", "/data/hang/b.raw", "/other/c.raw"]
    assert paths == [b"ExtensionImages=-" + os.fsencode(name) for name in names]
    assert recorder.codes == [("noted", "target-silent", f"/{UNIT}.confext.d/20-b.raw".encode())]
    assert recorder.complaints[0].details == (tree.excuse(b"/data"),)


def test_a_silent_directory_keeps_the_service_down(root: Path) -> None:
    (root / f"{UNIT}.confext.d").rmdir()
    (root / f"{UNIT}.confext.d").symlink_to("/data/hang")
    recorder = Recorder()
    environ = {"UNIT_CONFEXT_SYSTEMD_VERSION": "257"}
    tree = cli.open_tree(os.fsencode(root), environ)
    ((_, text),) = cli.generate(tree, environ, recorder)
    tree.close()
    lines = text.splitlines()
    assert f"ExtensionDirectories=/{UNIT}.confext.d".encode() in lines
    assert not [line for line in lines if line.startswith(b"SourcePath=")]
    assert recorder.codes == [("noted", "directory-silent", f"/{UNIT}.confext.d".encode())]
    assert recorder.complaints[0].details == (tree.excuse(b"/data"),)


def test_a_silent_drop_in_is_none(root: Path) -> None:
    """systemd will wait for it when it loads this unit; the others have their drop-ins by then."""
    (root / f"{UNIT}.confext.d/10-a.raw").touch()
    (root / f"{UNIT}.d").symlink_to("/data/hang-directory")
    environ = {"UNIT_CONFEXT_SYSTEMD_VERSION": "257"}
    tree = cli.open_tree(os.fsencode(root), environ)
    recorder = Recorder()
    assert len(list(cli.generate(tree, environ, recorder))) == 1
    tree.close()
    assert recorder.codes == [("noted", "dropin-silent", f"/{UNIT}.d".encode())]
    assert recorder.complaints[0].details == (tree.excuse(b"/data"),)
