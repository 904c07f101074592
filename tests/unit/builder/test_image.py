# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext build`: what it refuses, what it makes of a tree, and that the same tree gives the same bytes.

What needs systemd-repart is tested with the real ones, in tests/vm.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from confext_helpers.builder import image as building
from confext_helpers.builder import keypair, sourcetree
from confext_helpers.builder.image import Format, Request
from confext_helpers.builder.sourcetree import Allow
from confext_helpers.command.exitcodes import Exit
from confext_helpers.command.output import Output
from confext_helpers.command.verbs.build import run
from confext_helpers.errors import ConfextError
from confext_helpers.image import releasefile

FORMATS = {Format.EROFS: "mkfs.erofs", Format.SQUASHFS: "mksquashfs", Format.DIRECTORY: "true"}
EVERYTHING = {"etc/nginx/site.conf": "listen\n", "etc/a": "a", "etc/z/y/x": "deep"}


def tree(path: Path, files: Mapping[str, str] = EVERYTHING) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
        (path / name).chmod(0o644)
    for directory in [path, *(entry for entry in path.rglob("*") if entry.is_dir())]:
        directory.chmod(0o755)
    return path


def need(format: Format) -> None:
    if shutil.which(FORMATS[format]) is None:
        pytest.skip(f"{FORMATS[format]} is not installed")


def make(request: Request) -> building.Built:
    return building.build(building.plan(request))


def content_time(path: Path) -> int:
    """The time that a tree has by its content, as unit-confext(1) has it: between 2001 and 2017."""
    time_sec = 1_000_000_000 + int.from_bytes(sourcetree.digest(str(path)), "big") % 500_000_000
    assert 2001 <= datetime.datetime.fromtimestamp(time_sec, datetime.UTC).year <= 2017
    return time_sec


def offences(path: Path, *allow: Allow) -> dict[str, str]:
    return {offence.path: offence.problem for offence in sourcetree.scan(str(path), allow).offences}


# ---- What is refused ----


def test_every_offence_is_told(tmp_path: Path) -> None:
    top = tree(tmp_path / "t", {**EVERYTHING, "usr/bin/x": "", "README": "", "etc/run": "", "etc/suid": ""})
    (top / "etc/run").chmod(0o744)
    (top / "etc/suid").chmod(0o4644)
    (top / "etc/z").chmod(0o1777)
    os.mkfifo(top / "etc/fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(top / "etc/socket"))
    assert offences(top) == {
        "README": "is outside etc/, and a confext has nothing but etc/",
        "usr": "is outside etc/, and a confext has nothing but etc/",
        "etc/fifo": "is a FIFO",
        "etc/run": "is executable, and confexts are mounted noexec",
        "etc/socket": "is a socket",
        "etc/suid": "is setuid, setgid or sticky (mode 4644)",
        "etc/z": "is setuid, setgid or sticky (mode 1777)",
    }
    assert set(offences(top, Allow.OUTSIDE, Allow.EXECUTABLES, Allow.SPECIAL_BITS)) == {"etc/fifo", "etc/socket"}
    assert set(offences(top, Allow.EXECUTABLES)) == set(offences(top)) - {"etc/run"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes and capabilities")
def test_devices_and_capabilities(tmp_path: Path) -> None:
    top = tree(tmp_path / "t")
    try:
        os.mknod(top / "etc/null", 0o020666, os.makedev(1, 3))
        os.setxattr(top / "etc/a", "security.capability", bytes.fromhex("0100000202000000000000000000000000000000"))
    except OSError as error:
        pytest.skip(f"not possible here: {error}")
    assert offences(top) == {
        "etc/null": "is a character device",
        "etc/a": "has file capabilities, which count for nothing in a confext",
    }


def test_whiteout_like_link_is_data(tmp_path: Path) -> None:
    """A link is never followed: not to an executable, nor to a device."""
    top = tree(tmp_path / "t")
    (top / "etc/mask").symlink_to("/dev/null")
    (top / "etc/program").symlink_to("/bin/sh")
    assert offences(top) == {}


@pytest.mark.parametrize("kind", ["missing", "file", "link"])
def test_no_etc(tmp_path: Path, kind: str) -> None:
    top = tmp_path / "t"
    top.mkdir()
    if kind == "file":
        (top / "etc").touch()
    if kind == "link":
        (top / "etc").symlink_to("/etc")
    with pytest.raises(ConfextError, match="the tree has no directory etc/ in it"):
        sourcetree.scan(str(top))


def test_tree_with_offences_is_not_built(tmp_path: Path) -> None:
    top = tree(tmp_path / "t", {**EVERYTHING, "opt/x": ""})
    with pytest.raises(ConfextError, match="1 things in the tree"):
        make(Request(str(top), str(tmp_path / "out"), Format.DIRECTORY))
    assert not (tmp_path / "out").exists()


# ---- What is built ----


@pytest.mark.parametrize("format", FORMATS)
def test_same_tree_same_bytes(tmp_path: Path, format: Format) -> None:
    """Order of creation, times, hard links and the place do not count; names, modes and contents do."""
    need(format)
    first = tree(tmp_path / "one", EVERYTHING)
    second = tree(tmp_path / "two dirs/t", dict(reversed(EVERYTHING.items())))
    for top in (first, second):
        (top / "etc/link").symlink_to("nginx/site.conf")
        (top / os.fsdecode(b"etc/\xff\n$(x) -y")).write_text("odd name")
        (top / "etc/copy").write_text("a")
    os.utime(second / "etc/a", (1, 1))
    (second / "etc/copy").unlink()
    os.link(second / "etc/a", second / "etc/copy")
    suffix = "" if format is Format.DIRECTORY else ".raw"
    results = []
    for number, top in enumerate((first, second)):
        place = tmp_path / f"place {number}"
        place.mkdir()
        result = make(Request(str(top), f"{place}/site{suffix}", format))
        results.append(result)
        assert [entry.name for entry in place.iterdir()] == [f"site{suffix}"]
    if format is Format.DIRECTORY:
        assert sourcetree.digest(results[0].path) == sourcetree.digest(results[1].path)
    else:
        assert Path(results[0].path).read_bytes() == Path(results[1].path).read_bytes()
        assert Path(results[0].path).stat().st_size == results[0].size

    (second / "etc/a").chmod(0o600)
    changed = make(Request(str(second), f"{tmp_path}/site{suffix}", format))
    if format is not Format.DIRECTORY:
        assert Path(changed.path).read_bytes() != Path(results[0].path).read_bytes()


def test_directory(tmp_path: Path) -> None:
    top = tree(tmp_path / "t")
    (top / "etc").chmod(0o700)
    (top / "etc/nginx").chmod(0o550)
    (top / "etc/a").chmod(0o640)
    make(Request(str(top), f"{tmp_path}/site/", Format.DIRECTORY, release=["ID=debian", 'NAME=a "b" $c']))
    built = tmp_path / "site"
    found = {str(path.relative_to(built)): f"{path.stat().st_mode & 0o7777:o}" for path in built.rglob("*")}
    assert found == {
        "etc": "755",  # It would be the mode of the service's whole /etc.
        "etc/a": "640",
        "etc/extension-release.d": "755",
        "etc/extension-release.d/extension-release.site": "644",
        "etc/nginx": "550",
        "etc/nginx/site.conf": "644",
        "etc/z": "755",
        "etc/z/y": "755",
        "etc/z/y/x": "644",
    }
    assert {path.stat().st_mtime for path in [built, *built.rglob("*")]} == {content_time(built)}
    release = (built / "etc/extension-release.d/extension-release.site").read_text()
    assert release == 'ID=debian\nNAME="a \\"b\\" \\$c"\n'
    assert releasefile.parse(release, "") == {"ID": "debian", "NAME": 'a "b" $c'}
    if os.geteuid() == 0:
        assert {(path.stat().st_uid, path.stat().st_gid) for path in built.rglob("*")} == {(0, 0)}


def test_source_date_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    make(Request(str(tree(tmp_path / "t")), f"{tmp_path}/site", Format.DIRECTORY))
    assert (tmp_path / "site/etc/a").stat().st_mtime == 86400
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "now")
    with pytest.raises(ConfextError, match="SOURCE_DATE_EPOCH is 'now'"):
        make(Request(str(tmp_path / "t"), f"{tmp_path}/other", Format.DIRECTORY))


def test_image_is_what_went_in(tmp_path: Path) -> None:
    need(Format.SQUASHFS)
    if shutil.which("unsquashfs") is None:
        pytest.skip("unsquashfs is not installed")
    built = make(Request(str(tree(tmp_path / "t")), f"{tmp_path}/site_1.2.raw", Format.SQUASHFS))
    listed = subprocess.run(["unsquashfs", "-lln", built.path], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in listed.splitlines() if "squashfs-root/" in line]
    assert {line[-1].removeprefix("squashfs-root/") for line in lines if line[0].startswith("-")} == {
        *EVERYTHING,
        "etc/extension-release.d/extension-release.site_1.2",
    }
    assert {line[1] for line in lines} == {"0/0"}


def test_output_is_not_overwritten(tmp_path: Path) -> None:
    need(Format.EROFS)
    top = str(tree(tmp_path / "t"))
    output = tmp_path / "site.raw"
    output.write_text("precious")
    with pytest.raises(ConfextError, match=r"the output is there already .*; replace it with --force"):
        building.plan(Request(top, str(output), Format.EROFS))
    planned = building.plan(Request(top, str(output), Format.EROFS, force=True))
    before = output.stat().st_ino
    building.build(planned)
    assert output.stat().st_ino != before
    assert output.read_bytes()[1024:1028] == bytes.fromhex("e2e1f5e0")

    planned = building.plan(Request(top, f"{tmp_path}/late.raw", Format.EROFS))
    (tmp_path / "late.raw").write_text("came meanwhile")
    with pytest.raises(FileExistsError):
        building.build(planned)
    assert (tmp_path / "late.raw").read_text() == "came meanwhile"


def test_failing_tool_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "mkfs.erofs").write_text("#!/bin/sh\necho first >&2; echo '<E> no space' >&2; exit 1\n")
    (programs / "mkfs.erofs").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(ConfextError, match=r"mkfs\.erofs failed: <E> no space"):
        make(Request(str(tree(tmp_path / "t")), f"{place}/site.raw", Format.EROFS))
    assert list(place.iterdir()) == []


# ---- Tools, release files ----


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        (None, "systemd-repart is not installed; install the package systemd-repart .255 or newer., or build without"),
        ("252 (252.39)", "systemd-repart 252 cannot make a confext DDI; build where systemd is 255 or newer, or"),
        ("odd", "systemd-repart unknown cannot make a confext DDI"),
    ],
)
def test_systemd_repart_is_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, problem: str
) -> None:
    for name in ("systemd-repart", "mkfs.erofs"):
        if version is not None or name != "systemd-repart":
            (tmp_path / name).write_text(f"#!/bin/sh\necho 'systemd {version}'\n")
            (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfextError, match=problem):
        building.plan(Request(str(tree(tmp_path / "t")), f"{tmp_path}/site.raw"))


@pytest.mark.parametrize(
    ("name", "release", "content", "problem"),
    [
        ("site", "site", "ID=debian\n", None),
        ("site_1.2", "site", "ID=debian\n", None),
        ("site_1.2", "site_1.2", "ID=debian\n", None),
        ("site", "other", "ID=_any\n", "of another name, extension-release.other"),
        ("site", "site_1.2", "ID=_any\n", "of another name"),
        ("site", "site", "NAME=x\n", "has no ID="),
        ("site", "site", "not an assignment\n", "line 1 is no assignment"),
    ],
)
def test_existing_release_file(tmp_path: Path, name: str, release: str, content: str, problem: str | None) -> None:
    path = f"etc/extension-release.d/extension-release.{release}"
    top = tree(tmp_path / "t", {**EVERYTHING, path: content})
    request = Request(str(top), f"{tmp_path}/{name}", Format.DIRECTORY)
    if problem is not None:
        with pytest.raises(ConfextError, match=problem):
            building.plan(request)
        return
    make(request)
    assert (tmp_path / name / path).read_text() == content
    assert len(list((tmp_path / name / path).parent.iterdir())) == 1
    with pytest.raises(ConfextError, match="the tree has a release file of its own"):
        building.plan(Request(str(top), f"{tmp_path}/t/{name}", Format.DIRECTORY, release=["ID=_any"]))


# ---- Keys ----


def certificate(path: Path, key: ec.EllipticCurvePrivateKey, days: int) -> str:
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=100))
    signed = builder.not_valid_after(now + datetime.timedelta(days=days)).sign(key, hashes.SHA256())
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return str(path)


def private(path: Path, key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> str:
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    path.write_bytes(key.private_bytes(*form))
    return str(path)


def test_keypair(tmp_path: Path) -> None:
    one, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    mine = private(tmp_path / "key.pem", one)
    belongs = certificate(tmp_path / "one.crt", one, 10)
    keypair.check(mine, belongs)
    with pytest.raises(ConfextError, match="the certificate does not belong to the key"):
        keypair.check(mine, certificate(tmp_path / "other.crt", other, 10))
    with pytest.raises(ConfextError, match="has a passphrase"):
        keypair.check(private(tmp_path / "closed.pem", one, b"secret"), belongs)
    with pytest.raises(ConfextError, match="this is no supported private key in PEM"):
        keypair.check(belongs, belongs)
    with pytest.raises(ConfextError, match="this is no certificate in PEM"):
        keypair.check(mine, mine)
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    assert keypair.expiry(belongs, now) == ""
    assert keypair.expiry(certificate(tmp_path / "old.crt", one, -1), now).startswith("the certificate expired on ")
    assert "not valid before" in keypair.expiry(belongs, now - datetime.timedelta(days=200))


def test_signing_needs_both_and_a_ddi(tmp_path: Path) -> None:
    top = str(tree(tmp_path / "t"))
    with pytest.raises(ConfextError, match="needs both a key and its certificate"):
        building.plan(Request(top, f"{tmp_path}/site.raw", key="key"))
    with pytest.raises(ConfextError, match="format erofs cannot carry a signature"):
        building.plan(Request(top, f"{tmp_path}/site.raw", Format.EROFS, key="key", certificate="crt"))


# ---- The verb ----


def call(*operands: str, json_mode: str = "off", **options: object) -> int:
    defaults: dict[str, object] = {
        "json": json_mode, "no_legend": False, "no_pager": True, "quiet": False, "output": None, "format": "directory",
        "key": None, "certificate": None, "os_release": None, "release": [], "allow": [], "architecture": None,
        "force": False, "dry_run": False, "mode": None, "times": "content", "operands": list(operands),
    }  # fmt: skip
    arguments = argparse.Namespace(**{**defaults, **options})
    output = Output(arguments)
    status = run(arguments, output)
    output.flush()
    return status


def test_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top = str(tree(tmp_path / "t"))
    target = str(tmp_path / "site")
    assert call(top, output=target, dry_run=True, json_mode="short") == Exit.OK
    assert json.loads(capsys.readouterr().out) == [
        {
            "output": target, "format": "directory", "name": "site", "files": 4, "content": 20, "release": "ID=_any",
            "signed_by": None, "left_out": [], "mode": None, "private": [], "size": None, "root_hash": None,
            "time": None,
        }
    ]  # fmt: skip
    assert not os.path.exists(target)
    assert call(top, output=target) == Exit.OK
    said = capsys.readouterr().out
    assert "Release:      ID=_any\n" in said
    assert "Time:         20" in said
    assert os.path.isdir(target)
    with pytest.raises(ConfextError, match="there is no name for the image"):
        call(top)
    with pytest.raises(ConfextError, match="--allow=all is not known; there are: outside, executables, special-bits"):
        call(top, output=target, allow=["all"])


def test_verb_lists_offences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top = tree(tmp_path / "t", {"etc/\x1b[31m": "", "usr/x": ""})
    (top / "etc/\x1b[31m").chmod(0o755)
    assert call(str(top), output=str(tmp_path / "site")) == Exit.REFUSED
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "unit-confext: usr: is outside etc/, and a confext has nothing but etc/; move it below etc/, or build with "
        "--allow=outside, which leaves it out",
        "unit-confext: etc/\\x1b[31m: is executable, and confexts are mounted noexec; chmod -x it, or build with "
        "--allow=executables",
    ]
    assert call(str(top), output=str(tmp_path / "site"), json_mode="short") == Exit.REFUSED
    assert [entry["path"] for entry in json.loads(capsys.readouterr().out)] == ["usr", "etc/\x1b[31m"]
