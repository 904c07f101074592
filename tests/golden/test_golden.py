# SPDX-License-Identifier: LGPL-2.1-or-later
"""Numbered fake root trees, and exactly what the generator makes of each.

A case is a directory:

    root/      the root tree: `--root=` of the run
    tree       what git cannot hold, one per line: `dir PATH`, `file PATH`, `fifo PATH`, `socket PATH`,
               `link TARGET PATH` (to what is on the tester's machine too), `mode MODE PATH`, `owner UID PATH`, with
               Python's escapes in the paths
    env        the environment of the run, one NAME=VALUE per line
    expected/  the whole output directory; left out where nothing is written
    stderr     the messages, each on a line; left out where nothing is said
    README     what the case is about

`UPDATE_GOLDEN=1 pytest tests/golden` writes `expected/` and `stderr` anew, to be read before they are
committed.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from confext_generator import cli
from confext_generator.report import Reporter

HERE = Path(__file__).parent
CASES = sorted(path.name for path in HERE.iterdir() if path.name[:2].isdigit())
UPDATE = os.environ.get("UPDATE_GOLDEN") == "1"


def test_cases_are_numbered() -> None:
    assert [name[:3] for name in CASES] == [f"{number:02}-" for number in range(1, len(CASES) + 1)]


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = HERE / name
    root = tmp_path / "root"
    output = tmp_path / "output"
    output.mkdir()
    build(case, root)
    before = snapshot(root)
    # Versions are picked for the machine.
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="x86_64"))

    messages: list[str] = []
    environ = dict(line.split("=", 1) for line in read(case / "env").splitlines())
    status = cli.main([f"--root={root}", str(output)], environ=environ, reporter=Reporter(emit=messages.append))

    assert status == 0
    assert snapshot(root) == before, "the generator wrote below --root="
    stderr = "".join(message + "\n" for message in messages)
    if UPDATE:
        update(case, output, stderr)
    assert stderr == read(case / "stderr")
    assert snapshot(output) == (snapshot(case / "expected") if (case / "expected").exists() else {})
    for path in output.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644)


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


def build(case: Path, root: Path) -> None:
    """Make the root tree of `case`, with the modes of a package's files whatever the checkout's umask was."""
    if os.geteuid() != 0 and "owner " in read(case / "tree"):
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


def update(case: Path, output: Path, stderr: str) -> None:
    """Make the outcome of this run the expected one."""
    shutil.rmtree(case / "expected", ignore_errors=True)
    if any(output.iterdir()):
        shutil.copytree(output, case / "expected")
    (case / "stderr").unlink(missing_ok=True)
    if stderr:
        (case / "stderr").write_text(stderr)
