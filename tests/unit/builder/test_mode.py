# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext build`: who may read what it makes, and which times that has."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from confext_helpers.builder import image as building
from confext_helpers.builder.image import Format, Request, Times
from confext_helpers.builder.sourcetree import Allow
from confext_helpers.command.exitcodes import Exit
from confext_helpers.errors import ConfextError
from confext_helpers.system import programs
from unit.builder.test_image import EVERYTHING, call, make, need, tree


def times(path: Path) -> dict[str, float]:
    return {str(one.relative_to(path)): one.lstat().st_mtime for one in path.rglob("*")}


def replace_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("z")


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda etc: (etc / "a").write_text("b"),
    "mode": lambda etc: (etc / "a").chmod(0o640),
    "mode of a directory": lambda etc: (etc / "z").chmod(0o750),
    "name": lambda etc: (etc / "a").rename(etc / "b"),
    "link": lambda etc: replace_link(etc / "link"),
    "new": lambda etc: (etc / "new").touch(),
    "new directory": lambda etc: (etc / "new").mkdir(),
    "gone": lambda etc: (etc / "a").unlink(),
    "moved content": lambda etc: [(etc / "a").rename(etc / "x"), (etc / "z/y/x").rename(etc / "a")],
}


@pytest.mark.parametrize("change", CHANGES)
def test_time_follows_the_content(tmp_path: Path, change: str) -> None:
    """Whatever is changed, everything gets another time; when, by whom and where it is built does not count."""
    top = tree(tmp_path / "t")
    (top / "etc/link").symlink_to("a")
    built: list[building.Built] = []
    for place in ("one", "two", "three"):
        (tmp_path / place).mkdir()
        if place == "three":
            CHANGES[change](top / "etc")
        os.utime(top / "etc/z/y", (len(built), len(built)))
        built.append(make(Request(str(top), f"{tmp_path / place}/site", Format.DIRECTORY)))
        assert set(times(tmp_path / place / "site").values()) == {built[-1].time_sec}
    assert built[0].time_sec == built[1].time_sec != built[2].time_sec


def test_times_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = tree(tmp_path / "t")
    (top / "etc/link").symlink_to("a")
    own = {name: float(number) + 0.5 for number, name in enumerate(sorted(times(top)), 100)}
    for name, time_sec in sorted(own.items(), reverse=True):
        os.utime(top / name, (0, time_sec), follow_symlinks=False)
    newest = max(own.values())
    built = make(Request(str(top), f"{tmp_path}/site", Format.DIRECTORY, times=Times.KEEP))
    added = {"etc/extension-release.d": newest, "etc/extension-release.d/extension-release.site": newest}
    assert times(tmp_path / "site") == own | added
    assert built.time_sec == -(-newest // 1)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "103")
    make(Request(str(top), f"{tmp_path}/early", Format.DIRECTORY, times=Times.KEEP))
    assert max(times(tmp_path / "early").values()) == 103
    assert times(tmp_path / "early")["etc/a"] == own["etc/a"]


# ---- Who may read it ----


def umask_of(umask: int, request: Request) -> building.Built:
    """Build under a umask."""
    before = os.umask(umask)
    try:
        return make(request)
    finally:
        os.umask(before)


PRIVATE: dict[str, Callable[[Path], object]] = {
    "file": lambda etc: (etc / "a").chmod(0o600),
    "file of a group": lambda etc: (etc / "a").chmod(0o640),
    "file of others alone": lambda etc: (etc / "a").chmod(0o602),
    "directory": lambda etc: (etc / "z").chmod(0o700),
    "directory that cannot be listed": lambda etc: (etc / "z").chmod(0o711),
    "directory that cannot be entered": lambda etc: (etc / "z").chmod(0o754),
    "top": lambda etc: etc.chmod(0o750),
}


@pytest.mark.parametrize("what", PRIVATE)
@pytest.mark.parametrize("format", [Format.EROFS, Format.SQUASHFS])
def test_image_is_private_if_anything_in_it_is(tmp_path: Path, what: str, format: Format) -> None:
    need(format)
    top = tree(tmp_path / "t")
    PRIVATE[what](top / "etc")
    for umask in (0o022, 0o077, 0):
        output = tmp_path / f"site{umask}.raw"
        assert umask_of(umask, Request(str(top), str(output), format)).mode == 0o600
        assert f"{output.stat().st_mode & 0o7777:04o}" == "0600"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o027, 0o640), (0, 0o666)])
def test_mode_is_what_the_umask_leaves(tmp_path: Path, umask: int, mode: int) -> None:
    need(Format.EROFS)
    top = tree(tmp_path / "t", EVERYTHING | {"left/out": ""})
    (top / "left/out").chmod(0o600)  # It is not in the image.
    (top / "etc/link").symlink_to("/root/key")
    output = tmp_path / "site.raw"
    built = umask_of(umask, Request(str(top), str(output), Format.EROFS, allow=[Allow.OUTSIDE]))
    assert output.stat().st_mode & 0o7777 == built.mode == mode
    asked = Request(str(top), str(output), Format.EROFS, allow=[Allow.OUTSIDE], mode=0o440, force=True)
    assert umask_of(umask, asked).mode == 0o440
    assert output.stat().st_mode & 0o7777 == 0o440


def test_file_that_becomes_private_while_it_is_copied(tmp_path: Path) -> None:
    need(Format.EROFS)
    top = tree(tmp_path / "t")
    planned = building.plan(Request(str(top), f"{tmp_path}/site.raw", Format.EROFS))
    (top / "etc/a").chmod(0o600)
    assert building.build(planned).mode == 0o600


def test_nobody_sees_what_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is built: no one else enters the directory, and whatever a tool makes is its own alone."""
    programs = tmp_path / "bin"
    programs.mkdir()
    shown = '"$TMPDIR" "$TMPDIR/tree/etc/a"; umask; echo x >"$TMPDIR/image.raw"; stat -c %a "$TMPDIR/image.raw"'
    (programs / "mksquashfs").write_text(f"#!/bin/sh\n(stat -c %a {shown}) >'{tmp_path}/seen'\n")
    (programs / "mksquashfs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    top = tree(tmp_path / "t")
    (top / "etc/a").chmod(0o640)
    made: list[tuple[str, int]] = []
    open_file, make_directory = os.open, os.mkdir

    def watched_directory(path: str, mode: int = 0o777) -> None:
        made.append((path, mode))
        make_directory(path, mode)

    def watched_file(path: str, flags: int, mode: int = 0o777, **more: int) -> int:
        if flags & os.O_CREAT:
            made.append((path, mode))
        return open_file(path, flags, mode, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "mkdir", watched_directory)
        patched.setattr(os, "open", watched_file)
        umask_of(0, Request(str(top), f"{tmp_path}/site.raw", Format.SQUASHFS))
    assert (tmp_path / "seen").read_text().split() == ["700", "640", "0077", "600"]
    copied = {path.partition("/tree/")[2]: mode for path, mode in made if "/tree/etc" in path}
    assert set(copied) >= {"etc", "etc/a", "etc/z"}
    assert {path: mode for path, mode in copied.items() if mode & 0o077 and "extension-release" not in path} == {}


def test_verb_tells_the_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need(Format.SQUASHFS)
    top = tree(tmp_path / "t")
    (top / "etc/z/y/x").chmod(0o640)
    target = str(tmp_path / "site.raw")

    def build(json_mode: str = "off", mode: str | None = None) -> tuple[str, str]:
        more = {"output": target, "format": "squashfs", "force": True, "mode": mode}
        assert call(str(top), json_mode=json_mode, **more) == Exit.OK
        return capsys.readouterr()

    because = "since not everybody may read"
    out, err = build()
    assert "Mode:         0600\n" in out and "Private:      etc/z/y/x\n" in out
    assert err == f"unit-confext: {target}: mode 0600, {because} etc/z/y/x; see --mode=\n"
    (top / "etc/a").chmod(0)
    out, err = build("short")
    (told,) = json.loads(out)
    assert (told["mode"], told["private"]) == ("0600", ["etc/a", "etc/z/y/x"])
    assert datetime.datetime.fromisoformat(told["time"]).timestamp() == times_of_image(told)
    assert err == f"unit-confext: {target}: mode 0600, {because} etc/a and 1 more; see --mode=\n"
    opened = f"unit-confext: {target}: mode {{}} lets {{}} read etc/a and 1 more"
    opened += ", which not everybody may read in the tree\n"
    for mode, who in {"0644": "everybody", "444": "everybody", "0640": "its group"}.items():
        assert build(mode=mode)[1] == opened.format(mode.rjust(4, "0"), who)
    for mode in ("0600", "400"):
        build(mode=mode)
        assert (tmp_path / "site.raw").stat().st_mode & 0o7777 == int(mode, 8)
    for name in ("etc/a", "etc/z/y/x"):
        (top / name).chmod(0o644)
    writable = f"unit-confext: {target}: mode 0664 lets others write it, and such an image is no layer; chmod go-w it"
    assert build(mode="0664")[1] == writable + "\n"


def times_of_image(told: dict[str, str]) -> float:
    """The time of the root directory of a squashfs image, from unsquashfs."""
    command, environment = ["unsquashfs", "-s", told["output"]], {**os.environ, "TZ": "UTC"}
    listed = subprocess.run(command, capture_output=True, check=True, env=environment)
    made = re.search(r"Creation or last append time (.*)", listed.stdout.decode())
    assert made is not None
    return datetime.datetime.strptime(made[1] + " +0000", "%a %b %d %H:%M:%S %Y %z").timestamp()


@pytest.mark.parametrize("mode", ["", "rw", "0", "600 ", "1600", "04600", "0755", "0200", "0o600", "-600"])
def test_verb_takes_no_such_mode(tmp_path: Path, mode: str) -> None:
    with pytest.raises(ConfextError, match="is not a valid mode of an image; give an octal mode"):
        call(str(tree(tmp_path / "t")), output=f"{tmp_path}/site.raw", format="squashfs", mode=mode)


def test_a_directory_takes_no_mode(tmp_path: Path) -> None:
    with pytest.raises(ConfextError, match=r"a directory has the modes of the tree .*; leave out --mode="):
        call(str(tree(tmp_path / "t")), output=f"{tmp_path}/site", mode="0600")


# ---- Others who can write where it is built, or what it is built from ----


def test_others_exchange_what_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns the directory of the output cannot lead the one who builds to other files."""
    need(Format.EROFS)
    if os.geteuid() != 0:
        pytest.skip("not root, who alone can give a directory away")
    top, place, victim = tree(tmp_path / "t"), tmp_path / "theirs", tmp_path / "victim"
    victim.write_text("secret")
    victim.chmod(0o600)
    place.mkdir()
    os.chown(place, 65534, 65534)
    complete = programs.complete

    def exchange(*argv: str, **options: Any) -> programs.Done:
        done = complete(*argv, **options)
        for scratch in place.glob(".unit-confext-build-*"):
            scratch.rename(place / "moved")
            scratch.mkdir()
            (scratch / "image.raw").symlink_to(victim)
        return done

    monkeypatch.setattr(programs, "complete", exchange)
    for force in (False, True):
        built = make(Request(str(top), f"{place}/site.raw", Format.EROFS, force=force))
        assert (victim.stat().st_mode & 0o7777, victim.read_text()) == (0o600, "secret")
        assert (built.size, built.mode) == ((place / "site.raw").stat().st_size, 0o644)
        assert os.listdir(place) == ["site.raw"]
    with pytest.raises(ConfextError, match="other users could replace files in here during the build"):
        make(Request(str(top), f"{place}/site", Format.DIRECTORY))


def test_directory_becomes_a_link_while_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies behind a link is never in an image, whatever was there when the tree was looked at."""
    top, secrets = tree(tmp_path / "t"), tree(tmp_path / "secrets", {"key": "secret"})
    planned = building.plan(Request(str(top), f"{tmp_path}/site", Format.DIRECTORY))
    mkdir = os.mkdir

    def exchange(path: str, *arguments: Any, **options: Any) -> None:
        mkdir(path, *arguments, **options)
        if os.path.basename(path) == "z":
            (top / "etc/z").rename(top / "etc/was")
            (top / "etc/z").symlink_to(secrets)

    monkeypatch.setattr(os, "mkdir", exchange)
    building.build(planned)
    assert not list((tmp_path / "site").rglob("key"))
    (top / "etc/z").unlink()
    (top / "etc/was").rename(top / "etc/z")
    stat_of = os.stat

    def exchange_early(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        status = stat_of(path, *arguments, **options)
        if path == "z" and options.get("dir_fd") is not None:
            (top / "etc/z").rename(top / "etc/was")
            (top / "etc/z").symlink_to(secrets)
        return status

    monkeypatch.setattr(os, "stat", exchange_early)
    with pytest.raises(ConfextError, match="the tree is being changed"):
        building.build(replace(planned, request=replace(planned.request, output=f"{tmp_path}/two")))


def test_fifo_in_the_place_of_a_release_file(tmp_path: Path) -> None:
    """Nobody waits for what somebody has put there."""
    top = tree(tmp_path / "t")
    (top / "etc/extension-release.d").mkdir()
    os.mkfifo(top / "etc/extension-release.d/extension-release.site")
    done = subprocess.run(
        [sys.executable, "-c", f"from unit.builder.test_mode import plan; plan({str(tmp_path)!r})"],
        cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert "Not a regular file" in done.stderr


def plan(path: str) -> None:
    building.plan(Request(f"{path}/t", f"{path}/site", Format.DIRECTORY))


def test_file_that_is_larger_than_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file may have any size, and would fill the disk."""
    top = tree(tmp_path / "t")
    os.truncate(top / "etc/a", 1 << 22)
    free = list(os.statvfs(tmp_path))
    free[1], free[4] = 4096, 1023
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(free))
    with pytest.raises(ConfextError, match="no room to build with this file, which has 4194304 bytes"):
        make(Request(str(top), f"{tmp_path}/site", Format.DIRECTORY))
    assert os.listdir(tmp_path) == ["t"]
    free[4] = 1100
    assert make(Request(str(top), f"{tmp_path}/site", Format.DIRECTORY)).path == f"{tmp_path}/site"
