# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext list`: its word on each entry is the generator's, for all golden trees; and what it prints."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from confext_generator import cli, layers, words
from confext_generator.report import Complaint
from confext_helpers.errors import ConfextError
from confext_helpers.service.entries import LAYERS, Disk, Verdict
from golden import test_golden as golden
from golden.recorder import Recorder
from lab import jsonshape
from unit.command.invocation import run

UNIT = "foo.service"
DROP = f"etc/systemd/system/{UNIT}.confext.d"


def environment(case: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in golden.read(case / "env").splitlines())


@pytest.mark.parametrize("name", golden.CASES)
def test_list_says_what_the_generator_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers, order, text of the drop-in; and a word for every other name in the directories, with a reason."""
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="x86_64"))
    case = golden.HERE / name
    golden.build(case, tmp_path / "root")
    environ = environment(case)
    recorder = Recorder()
    tree = cli.open_tree(os.fsencode(tmp_path / "root"), environ)
    written = {os.fsdecode(unit): text for unit, text in cli.generate(tree, environ, recorder)}
    try:
        disk = Disk(str(tmp_path / "root"), environ)
    except ConfextError as error:
        assert written == {}
        assert [complaint.text for complaint in recorder.complaints] == [str(error)]
        return

    assert {unit.name: unit.dropin for unit in disk.units if unit.dropin is not None} == written
    for unit in disk.units:
        assert (unit.problem == "") == (unit.dropin is not None)
        lines = (unit.dropin or b"").split(b"\n")
        # Those of the unit itself have a blank there.
        told = [line for line in lines if re.match(rb'Extension(Images|Directories)="?-', line)]
        assert told == [
            b"ExtensionImages=-" + words.escape_image(os.fsencode(entry.layer))
            if entry.verdict is Verdict.IMAGE
            else b"ExtensionDirectories=" + words.quote_word(b"-" + os.fsencode(entry.layer))
            for entry in unit.entries
            if entry.verdict in LAYERS
        ]
        assert all(entry.reason for entry in unit.entries if entry.verdict not in LAYERS)
        if unit.dropin is not None:
            there = [
                f"{directory}/{os.fsdecode(entry)}"
                for directory in unit.directories
                if os.path.isdir(tree.real(os.fsencode(directory)))
                for entry in os.listdir(tree.real(os.fsencode(directory)))
            ]
            assert sorted(entry.path for entry in unit.entries) == sorted(there)
    # Whatever the generator says is said here as well, but that it does not know the version of systemd.
    reasons = [entry.reason for unit in disk.units for entry in unit.entries]
    reasons += [text for unit in disk.units for text in (unit.problem, *unit.warnings)]
    codes = {entry.code for unit in disk.units for entry in unit.entries} | {unit.code for unit in disk.units}
    for complaint in recorder.complaints:
        if complaint.code != "systemd-unknown":
            assert complaint.text in reasons
            assert complaint.effect == "noted" or complaint.code in codes


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A root directory with a unit that has an entry of each sort."""
    root = tmp_path / "root"
    vendor = root / f"usr/lib/systemd/system/{UNIT}.confext.d"
    administrator = root / DROP
    for directory in (vendor, administrator, root / "srv/tree"):
        directory.mkdir(parents=True)
    (root / f"usr/lib/systemd/system/{UNIT}").write_text("[Service]\nExecStart=/bin/true\n")
    for name in ("10-a.raw", "10-a.verity", ".hidden.raw", "notes.txt", "20-writable.raw"):
        (administrator / name).touch()
    (administrator / "20-writable.raw").chmod(0o666)
    (administrator / "30-off.raw").symlink_to("/dev/null")
    (administrator / "70-tree").symlink_to("/srv/tree")
    (administrator / "05-same.raw").symlink_to(f"/{DROP}/10-a.raw")
    (administrator / "80-below").mkdir()
    for name in ("10-a.raw", "30-off.raw", "60-vendor.raw"):
        (vendor / name).touch()
    return root


def test_list(system: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIT_CONFEXT_SYSTEMD_VERSION", "257")
    status, out, err = run(capsys, "list", f"--root={system}", "--json=short", "foo")
    assert (status, err) == (0, "")
    (said,) = json.loads(out)
    vendor = f"/usr/lib/systemd/system/{UNIT}.confext.d"
    writable = Complaint("refused", "everybody-writes", b"", b"").text
    assert "chown" in writable
    same = Complaint("ignored", "duplicate", b"", b"", "'05-same.raw'", "'10-a.raw'").text
    below = Complaint("ignored", "below-etc", b"", b"").text
    text = Complaint("ignored", "not-an-image", b"", b"", layers._KINDS[stat.S_IFREG]).text
    assert {key: value for key, value in said.items() if key != "entries"} == {
        "unit": UNIT,
        "directories": [f"/{DROP}", vendor],
        "problem": None,
        "code": None,
        "warnings": [],
        "replaced_by": None,
        "daemon_reload_needed": None,
    }
    keys = ("name", "verdict", "layer", "reason", "code")
    jsonshape.check("list", [said])
    told = [{**one, "layer": one["layer"] and one["layer"]["path"]} for one in said["entries"]]
    assert [tuple(one[key] for key in keys) for one in told] == [
        ("10-a.raw", "image", f"/{DROP}/10-a.raw", None, None),
        ("60-vendor.raw", "image", f"{vendor}/60-vendor.raw", None, None),
        ("70-tree", "directory", "/srv/tree", None, None),
        (".hidden.raw", "ignored", None, "hidden or temporary", None),
        ("05-same.raw", "duplicate", None, same, "duplicate"),
        ("10-a.raw", "shadowed", None, f"shadowed by /{DROP}/10-a.raw", None),
        ("10-a.verity", "sidecar", None, "belongs to the image of this name", None),
        ("20-writable.raw", "refused", None, writable, "everybody-writes"),
        ("30-off.raw", "mask", None, "masks the entries of this name", None),
        ("30-off.raw", "masked", None, f"masked by /{DROP}/30-off.raw", None),
        ("80-below", "ignored", None, below, "below-etc"),
        ("notes.txt", "not-an-image", None, text, "not-an-image"),
    ]


def test_list_tells_what_is_odd_about_a_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the entry, by whichever way it is reached, and once, however many instances have it."""
    monkeypatch.setenv("UNIT_CONFEXT_SYSTEMD_VERSION", "257")
    units = tmp_path / "etc/systemd/system"
    (units / "bar@.service.confext.d").mkdir(parents=True)
    (units / "bar@.service").write_text("[Service]\nDevicePolicy=closed\n[X-Confext]\nUnsafeDeviceAllow=yes\n")
    (units / "bar@1.service.d").mkdir()
    (units / "bar@1.service.d/10.conf").write_text("[Service]\nNice=1\n")
    (tmp_path / "image.raw").touch()
    (units / "bar@.service.confext.d/a.raw").touch()
    (units / "bar@.service.confext.d/b.raw").symlink_to("/image.raw")
    status, out, err = run(capsys, "list", f"--root={tmp_path}", "--json=short")
    opened = Complaint("noted", "devices-opened", b"", b"").text
    assert (status, err) == (0, "")
    assert [(unit["unit"], unit["warnings"]) for unit in json.loads(out)] == [
        ("bar@.service", []),
        ("bar@1.service", []),
    ]
    said = [(one["verdict"], one["reason"], one["code"]) for unit in json.loads(out) for one in unit["entries"]]
    assert said == [("image", opened, "devices-opened")] * 4


def test_verdicts_are_the_generators() -> None:
    told = set(ast.literal_eval(f"[{_literals('Became')}]"))
    assert told == set(Verdict)


def _literals(name: str) -> str:
    """What is in a Literal[] that is there for the type checker only."""
    text = inspect.getsource(layers)
    found = re.search(rf"    {name} = Literal\[([^\]]+)\]", text)
    assert found is not None
    return found[1]


def test_list_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIT_CONFEXT_SYSTEMD_VERSION", "257")
    assert run(capsys, "list", f"--root={tmp_path}") == (0, "", "")
    assert run(capsys, "list", f"--root={tmp_path}", "--json=short") == (0, "[]\n", "")
    units = tmp_path / "etc/systemd/system"
    (units / f"{UNIT}.confext.d").mkdir(parents=True)
    (units / "gone.service.confext.d").mkdir()
    (units / UNIT).write_text("[Service]\nExecStart=/bin/true\n")
    (units / f"{UNIT}.d").mkdir()
    (units / f"{UNIT}.d/zz-unit-confext.conf").touch()
    (units / "off.service.confext.d").symlink_to("/dev/null")
    (tmp_path / "usr/lib/systemd/system/off.service.confext.d").mkdir(parents=True)
    status, out, err = run(capsys, "list", f"--root={tmp_path}")
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["UNIT", "ENTRY", "VERDICT", "LAYER", "REASON"],
        [UNIT, "-", "empty", "-", f"/etc/systemd/system/{UNIT}.confext.d"],
        ["gone.service", "-", "left", "alone", "-", "/etc/systemd/system/gone.service.confext.d"],
        ["off.service", "-", "left", "alone", "-", "/etc/systemd/system/off.service.confext.d"],
        ["off.service", "-", "left", "alone", "-", "/usr/lib/systemd/system/off.service.confext.d"],
    ]
    assert err.splitlines() == [
        f"unit-confext: {UNIT}: /etc/systemd/system/{UNIT}.d/zz-unit-confext.conf is read instead of the drop-in",
        f"unit-confext: gone.service: {Complaint('left-alone', 'unit-file-missing', b'', b'').text}",
        "unit-confext: off.service: masks the directories of this name",
        "unit-confext: off.service: masked by a link to /dev/null",
    ]
    assert run(capsys, "list", f"--root={tmp_path}", "-q", "--no-legend", "foo") == (
        0, f"{UNIT} - empty - /etc/systemd/system/{UNIT}.confext.d\n", "",
    )  # fmt: skip


def test_list_escapes_names(system: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIT_CONFEXT_SYSTEMD_VERSION", "257")
    (system / DROP / "evil\x1b[2J.raw").touch()
    _, out, _ = run(capsys, "list", f"--root={system}")
    assert "\x1b" not in out
    assert "evil\\x1b[2J.raw refused" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "--root=/nonexistent"), "this is no directory (/nonexistent); name another one with --root="),
        (("list", "bar"), "bar.service: has no .confext.d/ directory"),
        (("list", "foo.socket/x"), "'foo.socket/x' is not a valid service name"),
    ],
)
def test_list_errors(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = () if "--root=/nonexistent" in arguments else (f"--root={tmp_path}",)
    assert run(capsys, *arguments, *root) == (1, "", f"unit-confext: {message}\n")


def test_find_takes_aliases_and_instances(tmp_path: Path) -> None:
    units = tmp_path / "etc/systemd/system"
    for name in ("foo.service.confext.d", "bar@.service.confext.d"):
        (units / name).mkdir(parents=True)
    (units / "foo.service").touch()
    (units / "bar@.service").touch()
    (units / "alias.service").symlink_to("foo.service")
    disk = Disk(str(tmp_path), {"UNIT_CONFEXT_SYSTEMD_VERSION": "257"})
    found = {name: disk.find(name) for name in ("foo.service", "alias.service", "bar@1.service", "other.service")}
    assert {name: unit.name if unit else None for name, unit in found.items()} == {
        "foo.service": "foo.service", "alias.service": "foo.service", "bar@1.service": "bar@.service",
        "other.service": None,
    }  # fmt: skip
