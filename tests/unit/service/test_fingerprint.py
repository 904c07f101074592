# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nothing that changed is taken for nothing; what did not change is taken for that. And images that lost their end."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from confext_helpers.errors import ConfextError
from confext_helpers.hook import messages
from confext_helpers.service import fingerprint, notes
from confext_helpers.service.fingerprint import TICK_NS, Fingerprint, is_held_open
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.stage import etcmount
from confext_helpers.stage.refusals import check_releases, check_whole, claimed_size
from confext_helpers.system.bus import Properties
from confext_helpers.system.descriptors import Descriptors
from confext_helpers.system.filewords import Files

GUARD = Path(__file__).parents[3] / "helpers/restack-if-changed.in"
UNIT = "foo.service"


def stack(tmp_path: Path) -> Properties:
    """One layer of every kind."""
    (tmp_path / "older").write_bytes(b"IMAGE")
    (tmp_path / "image.raw").write_bytes(b"image")
    (tmp_path / "versions.raw.v").mkdir()
    (tmp_path / "versions.raw.v" / "versions_1.raw").write_bytes(b"1")
    (tmp_path / "directory" / "etc" / "deep").mkdir(parents=True)
    (tmp_path / "directory" / "etc" / "deep" / "file").write_text("old")
    (tmp_path / "directory" / "etc" / "link").symlink_to("deep/file")
    (tmp_path / "directory" / "etc" / "dangling").symlink_to("nowhere")
    (tmp_path / "directory" / "etc" / os.fsdecode(b"odd\n\xff %D\\n")).touch()
    (tmp_path / "elsewhere.raw").write_bytes(b"2")
    (tmp_path / "versions.raw.v" / "versions_0.raw").symlink_to(tmp_path / "elsewhere.raw")
    (tmp_path / "bound").mkdir()
    names = ("image.raw", "versions.raw.v", "missing.raw")
    images: list[tuple[str, bool, list[str]]] = [(str(tmp_path / name), True, []) for name in names]
    (tmp_path / "root/etc/live").mkdir(parents=True)
    (tmp_path / "root/etc/live/cert").write_text("old")
    (tmp_path / "root/etc/link").symlink_to("live/cert")
    (tmp_path / "root/etc" / os.fsdecode(b"odd\n\xff %D\\n")).mkdir()
    return {
        "RootDirectory": ("s", str(tmp_path / "root")),
        "ExtensionImages": ("a(sba(ss))", images),
        "ExtensionDirectories": ("as", ["-" + str(tmp_path / "directory")]),
        "BindPaths": ("a(ssbt)", [(str(tmp_path / "bound"), "/etc/x", False, 0)]),
        "InaccessiblePaths": ("as", ["-" + str(tmp_path / "hidden")]),
        "ProtectSystem": ("s", "full"),
    }


def of_directory(layer: Path) -> ServiceProperties:
    return ServiceProperties({"ExtensionDirectories": ("as", [str(layer)])})


def in_place(path: Path) -> None:
    """Change a file without changing its size, and set its modification time back."""
    status = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path) -> None:
    """Replace a file by another one in one rename."""
    new = path.with_name("new")
    new.write_text("new")
    new.rename(path)


def copy_over(path: Path) -> None:
    """Replace a directory by a copy of it."""
    shutil.copytree(path, path.with_name("copy"))
    path.rename(path.parent.parent / "old")
    path.with_name("copy").rename(path)


def relink(link: Path, target: str) -> None:
    """Replace a symbolic link in one rename."""
    new = link.with_name("new-link")
    new.symlink_to(target)
    new.rename(link)


CHANGES: dict[str, Callable[[Path], object]] = {
    "image replaced by rename": lambda p: (p / "image.raw").write_bytes(b"x") and (p / "image.raw").rename(p / "y"),
    "image changed in place": lambda p: in_place(p / "image.raw"),
    "image appeared": lambda p: (p / "missing.raw").touch(),
    "new version": lambda p: (p / "versions.raw.v" / "versions_2.raw").touch(),
    "version changed in place": lambda p: in_place(p / "versions.raw.v" / "versions_1.raw"),
    "signature came": lambda p: (p / "image.roothash.p7s").touch(),
    "file in a directory changed in place": lambda p: in_place(p / "directory" / "etc" / "deep" / "file"),
    "file in a directory changed mode": lambda p: (p / "directory" / "etc" / "deep" / "file").chmod(0o600),
    "file came to a directory": lambda p: (p / "directory" / "etc" / "new").touch(),
    "file in a directory removed": lambda p: (p / "directory" / "etc" / "deep" / "file").unlink(),
    "link in a directory leads elsewhere": lambda p: relink(p / "directory" / "etc" / "link", "file"),
    "link leads somewhere now": lambda p: (p / "directory" / "etc" / "nowhere").touch(),
    "target of a version that is a link changed in place": lambda p: in_place(p / "elsewhere.raw"),
    "image replaced by an older one": lambda p: (p / "older").rename(p / "image.raw"),
    "bind source replaced": lambda p: (p / "bound").rename(p / "other"),
    "file of the base replaced": lambda p: replace(p / "root/etc/live/cert"),
    "link of the base replaced": lambda p: relink(p / "root/etc/link", "live"),
    "file came to the base": lambda p: (p / "root/etc/live/new").touch(),
    "file of the base removed": lambda p: (p / "root/etc/live/cert").unlink(),
    "directory of the base replaced": lambda p: copy_over(p / "root/etc/live"),
    "directory of the base changed mode": lambda p: (p / "root/etc/live").chmod(0o700),
    "file of the base changed mode": lambda p: (p / "root/etc/live/cert").chmod(0o600),
    "hidden path appeared": lambda p: (p / "hidden").touch(),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_change_is_seen(tmp_path: Path, change: str) -> None:
    properties = ServiceProperties(stack(tmp_path))
    before = fingerprint.of(properties)
    assert fingerprint.of(properties).is_same(before)
    CHANGES[change](tmp_path)
    assert not fingerprint.of(properties).is_same(before)


def test_setting_is_seen(tmp_path: Path) -> None:
    given = stack(tmp_path)
    strict = ServiceProperties({**given, "ProtectSystem": ("s", "strict")})
    assert not fingerprint.of(strict).is_same(fingerprint.of(ServiceProperties(given)))


@pytest.fixture
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """A function that runs the guard, and tells whether it has started the hook."""
    run = tmp_path / "run"
    monkeypatch.setattr(notes, "RUN_DIRECTORY", str(run))
    script, hook = tmp_path / "guard", tmp_path / "restack"
    text = GUARD.read_text()
    assert text.count("/run/unit-confext/") == text.count("@libdir@/restack ") == 1
    script.write_text(text.replace("/run/unit-confext", str(run)).replace("@libdir@", str(tmp_path)))
    hook.write_text('#!/bin/sh\necho "hook: $*"\n')
    script.chmod(0o755)
    hook.chmod(0o755)

    def is_hook_started() -> bool:
        # Left behind by another run; it must not be taken for the end of this one.
        with notes.Notes(UNIT) as noted:
            noted.write_done(True)
        done = subprocess.run([script, UNIT], capture_output=True, text=True, check=True)
        started = done.stdout == f"hook: -- {UNIT}\n"
        assert done.stderr == ""
        assert (run / f"{UNIT}.done").exists() is not started
        if not started:
            assert done.stdout == f"<7>{messages.unchanged(UNIT).text}\n"
        return started

    return is_hook_started


def note(properties: ServiceProperties) -> None:
    files = Files()
    fingerprint.of(properties, files)
    assert files.watchable
    with notes.Notes(UNIT) as noted:
        noted.write_files(files.paths, files.digest())


@pytest.mark.parametrize("change", list(CHANGES))
def test_guard_sees_what_the_hook_would_see(tmp_path: Path, guard: Callable[[], bool], change: str) -> None:
    properties = ServiceProperties(stack(tmp_path))
    note(properties)
    assert not guard()
    assert not guard()
    CHANGES[change](tmp_path)
    assert guard()
    note(properties)
    assert not guard()


def test_guard_has_the_hook_do_what_it_does_not_know(tmp_path: Path, guard: Callable[[], bool]) -> None:
    properties = ServiceProperties(stack(tmp_path))
    assert guard()
    note(properties)
    assert not guard()
    # As before a swap, and where one was cut off.
    with notes.Notes(UNIT) as noted:
        noted.write_stack(None)
    assert guard()
    note(properties)
    (tmp_path / "run" / f"{UNIT}.paths").unlink()
    assert guard()


def test_guard_sees_another_process(tmp_path: Path, guard: Callable[[], bool]) -> None:
    files = Files()
    with subprocess.Popen(["sleep", "infinity"]) as process:
        files.add(f"/proc/{process.pid}")
        with notes.Notes(UNIT) as noted:
            noted.write_files(files.paths, files.digest())
        assert not guard()
        process.kill()
    assert guard()


def others(path: Path, mode: int) -> Path:
    """A directory layer with a file of this mode in it."""
    (path / "etc").mkdir(parents=True)
    (path / "etc/file").touch()
    (path / "etc/file").chmod(mode)
    return path


@pytest.mark.parametrize(("mode", "certain"), [(0o644, True), (0o664, False), (0o646, False), (0o600, True)])
def test_what_others_can_write_proves_nothing(tmp_path: Path, mode: int, certain: bool) -> None:
    layer = others(tmp_path / "layer", mode)
    assert fingerprint.of(of_directory(layer)).certain is certain
    versions = tmp_path / "layer.v"
    versions.mkdir()
    (versions / "layer_1").symlink_to(layer)
    assert fingerprint.of(of_directory(versions)).certain is certain


def test_what_is_open_for_writing_proves_nothing(tmp_path: Path) -> None:
    layer = others(tmp_path / "layer", 0o644)
    properties = of_directory(layer)
    assert not is_held_open(properties)
    with open(layer / "etc/file", "r+b") as file:
        file.write(b"good")
        file.flush()
        assert is_held_open(properties)
        memory = mmap.mmap(file.fileno(), 4)
    assert is_held_open(properties)
    memory.close()
    assert not is_held_open(properties)


def nest(path: Path, depth: int) -> None:
    """Make directories in each other, deeper than any path may lead."""
    here = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("nested", dir_fd=here)
        inner = os.open("nested", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("file", os.O_CREAT, dir_fd=here))
    os.close(here)


def test_depth_is_no_limit(tmp_path: Path, guard: Callable[[], bool]) -> None:
    layer = others(tmp_path / "layer", 0o644)
    nest(layer / "etc", 3000)
    properties = of_directory(layer)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        assert fingerprint.of(properties).certain
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    note(properties)
    assert not guard()
    subprocess.run(["rm", "-r", layer], check=True)


def test_notes_do_not_grow_with_the_files(tmp_path: Path, guard: Callable[[], bool]) -> None:
    properties = ServiceProperties(stack(tmp_path))

    def size() -> int:
        note(properties)
        found = fingerprint.of(properties)
        with notes.Notes(UNIT) as noted:
            noted.write_stack(notes.LastSwap(["1:1"], 0, [], found, True))
            read = noted.read_stack()
        assert read is not None and read.fingerprint.is_same(found)
        return sum(file.stat().st_size for file in (tmp_path / "run").iterdir())

    before = size()
    for number in range(1000):
        (tmp_path / f"directory/etc/{number}").touch()
    assert abs(size() - before) < 32
    assert not guard()


def test_young_files_prove_nothing() -> None:
    assert not Fingerprint({}, "", "", "", 1_000_000_000, 1_000_000_000 + TICK_NS).settled
    assert Fingerprint({}, "", "", "", 1_000_000_000, 1_000_000_001 + TICK_NS).settled


def erofs(blocks: int) -> bytes:
    block = bytearray(4096)
    struct.pack_into("<I", block, 1024, 0xE0F5E1E2)
    struct.pack_into("<B", block, 1024 + 12, 12)
    struct.pack_into("<I", block, 1024 + 36, blocks)
    return bytes(block)


def gpt(last: int) -> bytes:
    block = bytearray(4096)
    block[512:520] = b"EFI PART"
    struct.pack_into("<Q", block, 512 + 32, last)
    return bytes(block)


def squashfs(used: int) -> bytes:
    block = bytearray(4096)
    block[:4] = b"hsqs"
    struct.pack_into("<Q", block, 40, used)
    return bytes(block)


@pytest.mark.parametrize(
    ("head", "size"),
    [(erofs(3), 12288), (gpt(99), 51200), (squashfs(4000), 4000), (b"", 0), (b"hsqs", 0), (b"\0" * 4096, 0)],
)
def test_claimed_size(head: bytes, size: int) -> None:
    assert claimed_size(head) == size


def test_image_that_lost_its_end(tmp_path: Path) -> None:
    image = tmp_path / "x.raw"
    image.write_bytes(erofs(3) + b"\0" * 4096)
    with pytest.raises(ConfextError) as caught:
        check_whole(str(image))
    assert str(caught.value) == (
        f"the image is cut short: it has 8192 of 12288 bytes ({image}); replace it and reload again"
    )
    image.write_bytes(erofs(2) + b"\0" * 4096)
    check_whole(str(image))


def test_newest_version_is_the_one_that_counts(tmp_path: Path) -> None:
    versions = tmp_path / "x.raw.v"
    versions.mkdir()
    (versions / "x_1.raw").write_bytes(erofs(3))
    (versions / "x_2.raw").write_bytes(erofs(1))
    check_whole(str(versions))
    (versions / "x_3.raw").write_bytes(erofs(3))
    with pytest.raises(ConfextError, match=r"x_3\.raw"):
        check_whole(str(versions))


def test_what_is_no_file_is_left_to_systemd(tmp_path: Path) -> None:
    check_whole(str(tmp_path / "missing.raw"))
    check_whole(str(tmp_path))


def test_release_file_has_the_layer_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [tmp_path / "a.raw", tmp_path / "b_1.2.raw", tmp_path / "c"]
    for layer in layers:
        layer.touch()
    paths = [*map(str, layers), str(tmp_path / "missing.raw")]
    releases = tmp_path / "stage/extension-release.d"
    releases.mkdir(parents=True)

    @contextlib.contextmanager
    def open_stage(*_: object) -> Iterator[int]:
        with Descriptors() as opened:
            yield opened.add(os.open(releases.parent, os.O_RDONLY))

    monkeypatch.setattr(etcmount, "open_stage", open_stage)
    for name in ("a", "b", "c"):
        (releases / f"extension-release.{name}").touch()
    check_releases(paths, -1)
    (releases / "extension-release.a").unlink()
    with pytest.raises(ConfextError) as caught:
        check_releases(paths, -1)
    assert str(caught.value) == (
        "the layer has no extension-release.a in its /etc/extension-release.d "
        f"({layers[0]}); give the image the name that it was built with, or build it anew, and reload again"
    )
    # Where a link leads, nobody has looked.
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/extension-release.a").touch()
    shutil.rmtree(releases)
    releases.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfextError):
        check_releases(paths[:1], -1)
    check_releases([], -1)
