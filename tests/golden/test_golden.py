# SPDX-License-Identifier: LGPL-2.1-or-later
"""Numbered fake root trees, and exactly what the generator makes of each.

A case is a directory:

    root/      the root tree: `--root=` of the run
    tree       what git cannot hold, one per line: `dir PATH`, `file PATH`, `fifo PATH`, `socket PATH`,
               `link TARGET PATH` (to what is on the tester's machine too), `mode MODE PATH`, `owner UID PATH`, with
               Python's escapes in the paths
    env        the environment of the run, one NAME=VALUE per line
    expected/  the whole output directory; left out where nothing is written
    complaints what is complained about, in order: effect, code, unit and path, `-` for none; left out where there is
               nothing
    README     what the case is about

How complaints are worded is in one place for each: messages/CODE has the lines that are printed in any case, after the
number of the case. What no tree leads to is in tests/unit/generator/test_complaints.py.

`UPDATE_GOLDEN=1 pytest tests/golden` writes `expected/`, `complaints` and `messages/` anew, to be read before they are
committed.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import pytest

from confext_generator import cli
from confext_generator.report import Complaint, Reporter, printable
from golden.recorder import Recorder

HERE = Path(__file__).parent
CASES = sorted(path.name for path in HERE.iterdir() if path.name[:2].isdigit())
MESSAGES = HERE / "messages"
CODES = sorted(path.name for path in MESSAGES.iterdir())
UPDATE = os.environ.get("UPDATE_GOLDEN") == "1"


class Ran(NamedTuple):
    """What the generator made of a case: the exit status, what it said, and its output directory."""

    status: int
    recorder: Recorder
    is_untouched: bool
    output: Path


_RUNS: dict[str, Ran] = {}


def test_cases_are_numbered() -> None:
    assert [name[:3] for name in CASES] == [f"{number:02}-" for number in range(1, len(CASES) + 1)]


def ran(name: str, factory: pytest.TempPathFactory) -> Ran:
    """Run the generator on a case, once."""
    if name not in _RUNS:
        directory = factory.mktemp(name)
        root, output = directory / "root", directory / "output"
        output.mkdir()
        build(HERE / name, root)
        before = snapshot(root)
        environ = dict(line.split("=", 1) for line in read(HERE / name / "env").splitlines())
        recorder = Recorder()
        # Versions are picked for the machine.
        with mock.patch.object(os, "uname", lambda: SimpleNamespace(machine="x86_64")):
            status = cli.main([f"--root={root}", str(output)], environ=environ, reporter=recorder)
        _RUNS[name] = Ran(status, recorder, snapshot(root) == before, output)
    return _RUNS[name]


def as_line(complaint: Complaint) -> str:
    """What of a complaint is for programs."""
    words = (complaint.effect, complaint.code, printable(complaint.unit) or "-", printable(complaint.path) or "-")
    return " ".join(words) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    case = HERE / name
    status, recorder, is_untouched, output = ran(name, tmp_path_factory)
    assert status == 0
    assert is_untouched, "the generator wrote below --root="
    complaints = "".join(map(as_line, recorder.complaints))
    if UPDATE:
        update(case, output, complaints)
    assert complaints == read(case / "complaints")
    assert snapshot(output) == (snapshot(case / "expected") if (case / "expected").exists() else {})
    for path in output.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644)


def _messages(factory: pytest.TempPathFactory) -> dict[str, str]:
    """The messages in all cases that can be run here, by code."""
    found: dict[str, str] = {}
    for name in CASES:
        if not needs_root(HERE / name) or os.geteuid() == 0:
            recorder = ran(name, factory).recorder
            for complaint, line in zip(recorder.complaints, recorder.lines, strict=True):
                found[complaint.code] = found.get(complaint.code, "") + f"{name[:2]} {line}\n"
    return found


def test_messages_are_of_all_codes(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = _messages(tmp_path_factory)
    if UPDATE:
        for code in {*found, *CODES}:
            (MESSAGES / code).unlink(missing_ok=True)
            if code in found:
                (MESSAGES / code).write_text(found[code])
        return
    if os.geteuid() == 0:
        assert set(CODES) == set(found)


@pytest.mark.parametrize("code", CODES)
def test_message(code: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """How it is worded."""
    said = _messages(tmp_path_factory).get(code, "")
    skipped = tuple(name[:2] + " " for name in CASES if needs_root(HERE / name) and os.geteuid() != 0)
    lines = read(MESSAGES / code).splitlines(keepends=True)
    assert said == "".join(line for line in lines if not (skipped and line.startswith(skipped)))


def test_dry_run_prints_what_would_be_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case = HERE / "13-template"
    root = tmp_path / "root"
    build(case, root)
    reporter = Reporter(emit=lambda line: None)
    environ = {"UNIT_CONFEXT_SYSTEMD_VERSION": "257"}

    assert cli.main([f"--root={root}", "--dry-run"], environ=environ, reporter=reporter) == 0

    printed = capfd.readouterr().out
    expected = case / "expected"
    assert printed == "".join(
        f"# /run/systemd/generator/{path.relative_to(expected)}\n{path.read_text()}\n"
        for path in sorted(expected.rglob("*.conf"), key=lambda path: os.fsencode(path.parent.name[:-2]))
    )


def needs_root(case: Path) -> bool:
    """Whether a tree has files of several users."""
    return "owner " in read(case / "tree")


def build(case: Path, root: Path) -> None:
    """Make the root tree of `case`, with the modes of a package's files whatever the checkout's umask was."""
    if os.geteuid() != 0 and needs_root(case):
        pytest.skip("only root can give files away")
    if (case / "root").exists():
        shutil.copytree(case / "root", root, symlinks=True)
    else:
        root.mkdir()
    for line in read(case / "tree").splitlines():
        kind, *words = line.split(" ")
        path = os.fsencode(root) + b"/" + words.pop().encode().decode("unicode_escape").encode("latin-1")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if kind == "dir":
            os.mkdir(path)
        elif kind == "file":
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        elif kind == "link":
            os.symlink(os.fsencode(words[0]), path)
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            # The path of a socket may have 108 bytes only.
            directory = os.open(os.path.dirname(path), os.O_RDONLY)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(f"/proc/self/fd/{directory}/{os.fsdecode(os.path.basename(path))}")
            os.close(directory)
        else:
            assert kind in ("mode", "owner")
    for directory_, names, files in os.walk(os.fsencode(root)):
        for name in (*names, *files):
            path = directory_ + b"/" + name
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.path.isdir(path) else 0o644)
    for line in read(case / "tree").splitlines():
        if line.startswith("mode "):
            _, bits, changed = line.split(" ")
            os.chmod(root / changed, int(bits, 8))
        elif line.startswith("owner "):
            _, uid, changed = line.split(" ")
            os.lchown(root / changed, int(uid), int(uid))


def snapshot(directory: Path) -> dict[bytes, bytes | str]:
    """Return everything below `directory`: the contents of files, the targets of links, the kind of all else."""
    found: dict[bytes, bytes | str] = {}
    for parent, names, files in os.walk(os.fsencode(directory)):
        for name in (*names, *files):
            path = os.path.join(parent, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode):
                value: bytes | str = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISLNK(mode):
                value = "-> " + os.fsdecode(os.readlink(path))
            else:
                value = stat.filemode(mode)[0]
            found[os.path.relpath(path, os.fsencode(directory))] = value
    return found


def read(path: Path) -> str:
    """Return the text of `path`, which need not be there."""
    return path.read_text() if path.exists() else ""


def update(case: Path, output: Path, complaints: str) -> None:
    """Make the outcome of this run the expected one."""
    shutil.rmtree(case / "expected", ignore_errors=True)
    if any(output.iterdir()):
        shutil.copytree(output, case / "expected")
    (case / "complaints").unlink(missing_ok=True)
    if complaints:
        (case / "complaints").write_text(complaints)
