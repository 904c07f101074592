# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext verify` and `inspect`: what they print, and with which exit status they end."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from confext_helpers.command.verbs.verify import Bar
from confext_helpers.system import programs
from fuzz import ddi
from lab import jsonshape
from unit.command.invocation import run

TESTER = ddi.identity("tester")
SIGNED = ddi.image(TESTER)

pytestmark = pytest.mark.skipif(shutil.which("unsquashfs") is None, reason="unsquashfs is not installed")


@pytest.fixture
def image(tmp_path: Path) -> str:
    (tmp_path / "demo.raw").write_bytes(SIGNED.raw)
    (tmp_path / "trust.pem").write_bytes(TESTER.pem)
    (tmp_path / "root").mkdir()
    return str(tmp_path / "demo.raw")


def test_good(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    trusted = f"--trust={image.replace('demo.raw', 'trust.pem')}"
    assert run(capsys, "verify", trusted, "--image-policy=root=signed", image) == (
        0, f"{image}: whole and signed by CN=tester\n", "",
    )  # fmt: skip
    assert run(capsys, "verify", "-q", trusted, image) == (0, "", "")


def test_refused(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    # As the machine that the test runs on may have trust anchors of its own.
    empty = f"--trust={image.replace('demo.raw', 'root')}"
    assert run(capsys, "verify", empty, "--image-policy=root=signed", image) == (
        4,
        f"{image}: signature-unknown-key: signed by CN=tester, which is not trusted\n"
        f"{image}: policy: root is verity, allowed is signed\n",
        "",
    )
    assert run(capsys, "verify", "-q", empty, image) == (4, "", "")


def test_errors(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "verify", image + ".gone", image)
    assert status == 1
    assert out.startswith(f"{image}.gone: unreadable: No such file or directory\n{image}: signature-unknown-key: ")
    assert err == "unit-confext: 2 of 2 images refused\n"
    status, out, err = run(capsys, "verify", "--image-policy=root=x", image)
    assert (status, out) == (1, "")
    assert err == "unit-confext: invalid image policy 'root=x': 'x' is no flag; see systemd.image-policy(7)\n"
    status, out, err = run(capsys, "verify", "--trust=/nonexistent", image)
    assert (status, out) == (1, "")
    assert "/nonexistent" in err


def test_json(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    trusted = f"--trust={image.replace('demo.raw', 'trust.pem')}"
    _, out, _ = run(capsys, "verify", "--json=short", trusted, image, image + ".gone")
    good, gone = json.loads(out)
    assert {key: good[key] for key in ("path", "good", "protection", "root_hash", "release", "findings")} == {
        "path": image, "good": True, "protection": "signed", "root_hash": SIGNED.root_hash.hex(),
        "release": {"ID": "_any"}, "findings": [],
    }  # fmt: skip
    assert good["signers"][0]["subject"] == "CN=tester"
    assert gone["findings"] == [{"code": "unreadable", "message": "No such file or directory"}]
    jsonshape.check("verify", [good, gone])
    assert (gone["good"], gone["protection"], gone["signers"]) == (False, None, None)


def test_os_release(image: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trusted = f"--trust={image.replace('demo.raw', 'trust.pem')}"
    root = tmp_path / "root"
    status, _, err = run(capsys, "verify", trusted, f"--root={root}", image)
    assert (status, "no os-release file" in err) == (1, True)
    # An absolute link stays within the root.
    (root / "etc").mkdir()
    (root / "usr/lib").mkdir(parents=True)
    (root / "etc/os-release").symlink_to("/usr/lib/os-release")
    (root / "usr/lib/os-release").write_text("ID=debian\n")
    assert run(capsys, "verify", trusted, f"--root={root}", image)[0] == 0
    (root / "usr/lib/os-release").write_text("VERSION_ID=13\n")
    assert run(capsys, "verify", trusted, f"--root={root}", image)[0] == 1
    assert run(capsys, "verify", trusted, f"--os-release={root}/usr/lib/os-release", image)[0] == 1


def test_inspect(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    trusted = f"--trust={image.replace('demo.raw', 'trust.pem')}"
    status, out, _ = run(capsys, "inspect", "--json=pretty", trusted, image)
    assert status == 0
    (facts,) = json.loads(out)
    assert [one["type"] for one in facts["partitions"]] == [
        "root-x86-64", "root-x86-64-verity", "root-x86-64-verity-sig",
    ]  # fmt: skip
    assert facts["etc"] == [
        "/etc/demo", "/etc/demo/a", "/etc/extension-release.d", "/etc/extension-release.d/extension-release.demo",
    ]  # fmt: skip
    assert (facts["file_system"], facts["root_hash"], facts["root_hash_from"]) == (
        "squashfs", SIGNED.root_hash.hex(), "signature",
    )  # fmt: skip
    assert facts["verity"]["algorithm"] == "sha256"
    assert (facts["release"], facts["findings"], facts["allowed"]) == ({"ID": "_any"}, [], None)
    assert facts["signers"][0]["trusted"] is True
    assert datetime.datetime.fromisoformat(facts["signers"][0]["not_after"]).year == 2040
    status, out, _ = run(capsys, "inspect", trusted, image)
    assert "root-x86-64-verity-sig" in out
    assert "CN=tester" in out
    assert "/etc/demo/a" in out


def test_inspect_judges_first(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With a policy that does not hold, nothing in the file system is looked at."""
    status, out, _ = run(capsys, "inspect", "--json=short", "--trust=/dev/null", "--image-policy=root=signed", image)
    assert (status, out) == (1, "")
    empty = f"--trust={image.replace('demo.raw', 'root')}"
    status, out, _ = run(capsys, "inspect", "--json=short", empty, "--image-policy=root=signed", image)
    (facts,) = json.loads(out)
    assert (status, facts["allowed"], facts["etc"], facts["release"]) == (0, False, None, None)
    assert [one["code"] for one in facts["findings"]] == ["signature-unknown-key", "policy"]


def test_inspect_no_image(image: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x.raw").write_bytes(bytes(5000))
    status, out, _ = run(capsys, "inspect", "--json=short", str(tmp_path / "x.raw"), str(tmp_path / "gone"), image)
    nothing, gone, good = json.loads(out)
    assert status == 1
    assert [one["code"] for one in nothing["findings"]] == ["format"]
    assert [one["code"] for one in gone["findings"]] == ["unreadable"]
    assert nothing.keys() == gone.keys() == good.keys()
    jsonshape.check("inspect", [nothing, gone, good])
    names = ("partitions", "signers", "certificates", "etc", "findings")
    # What is not there is an empty list, what nobody could look at is null.
    assert [nothing[name] for name in names[:4]] == [[], [], [], None]
    assert [gone[name] for name in names[:4]] == [None] * 4
    assert all(isinstance(good[name], list) for name in names)


def test_bar(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar("/x/demo.raw", True)
    bar(1 << 20, 10 << 20)
    assert capsys.readouterr().err == ""
    bar(16 << 20, 64 << 20)
    bar((16 << 20) + 1, 64 << 20)
    bar.end()
    assert capsys.readouterr().err == f"\rdemo.raw: [{'#' * 10}{' ' * 30}]  25 %\r\x1b[K"
    bar = Bar("demo.raw", False)
    bar(16 << 20, 64 << 20)
    bar.end()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--version"], ["--help"], ["inspect", "IMAGE"]], ids=str)
def test_output_that_cannot_be_written(image: str, words: list[str], unbuffered: str) -> None:
    code = "import sys; from confext_helpers.command.main import main; sys.exit(main(sys.argv[1:]))"
    argv = [sys.executable, "-c", code, *(word.replace("IMAGE", image) for word in words)]
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, env=environment, text=True, check=False)
    # It says what it has found out before.
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, last) == (1, "unit-confext: [Errno 28] No space left on device")


def test_pager_runs_no_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may run this command as root, by sudo, may not run every other for that."""
    less = tmp_path / "less"
    less.write_text(f"#!/bin/sh\necho $LESSSECURE >{tmp_path}/seen\n")
    less.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert programs.page("text")
    assert (tmp_path / "seen").read_text() == "1\n"
