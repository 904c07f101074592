# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line, the messages, the guard, and how little is loaded."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confext_generator import cli, constants, systemdversion
from confext_generator.decide import Decider, Dropin
from confext_generator.report import Complaint, Reporter, printable
from confext_generator.sources import Target
from confext_generator.tree import Tree
from golden.recorder import Recorder

GENERATOR = Path(__file__).parents[3] / "generator"
MAIN = GENERATOR / "confext_generator/__main__.py"
ENVIRON = {"UNIT_CONFEXT_SYSTEMD_VERSION": "257"}

# What the generator may import besides itself and what is built into Python, on Python 3.11 to 3.14.
LIGHT = {"__main__", "_collections_abc", "abc", "codecs", "encodings", "genericpath", "io", "os", "posixpath", "stat"}
LIGHT |= {"__future__", "_frozen_importlib", "_frozen_importlib_external", "zipimport"}
LIGHT |= {"encodings.aliases", "encodings.utf_8", "os.path"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root tree with one service that has one image."""
    root = tmp_path / "root"
    directory = root / "etc/systemd/system/foo.service.confext.d"
    directory.mkdir(parents=True)
    (directory / "a.raw").touch()
    (root / "etc/systemd/system/foo.service").write_text("[Service]\nExecStart=/bin/true\n")
    return root


def run(root: Path, *argv: str) -> tuple[int, list[tuple[str, str, bytes]]]:
    """Run the generator; return its status, and effect, code and path of what it complains about."""
    recorder = Recorder()
    status = cli.main([f"--root={root}", *argv], environ=ENVIRON, reporter=recorder)
    return status, recorder.codes


def test_three_directories_write_to_the_first(root: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("normal", "early", "late")]
    for output in outputs:
        output.mkdir()
    assert run(root, *map(str, outputs)) == (0, [])
    assert [sorted(p.name for p in output.iterdir()) for output in outputs] == [["foo.service.d"], [], []]


def test_writing_again_replaces_the_file_and_leaves_nothing_behind(root: Path, tmp_path: Path) -> None:
    dropin = tmp_path / "foo.service.d/zz-unit-confext.conf"
    dropin.parent.mkdir()
    dropin.write_text("old")
    (dropin.parent / "other.conf").write_text("other")
    before = dropin.stat().st_ino
    assert run(root, str(tmp_path)) == (0, [])
    assert dropin.stat().st_ino != before
    assert "a.raw" in dropin.read_text()
    assert sorted(p.name for p in dropin.parent.iterdir()) == ["other.conf", "zz-unit-confext.conf"]


def test_output_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "gone"
    path = output / "foo.service.d/zz-unit-confext.conf"
    assert run(root, str(output)) == (1, [("noted", "dropin-unwritten", os.fsencode(path))])


def test_no_output_is_needed_where_there_is_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    assert run(tmp_path, str(tmp_path / "gone")) == (0, [])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "one or three directories are needed"),
        (["a", "b"], "one or three directories are needed"),
        (["a", "b", "c", "d"], "one or three directories are needed"),
        (["--root=/"], "one or three directories are needed"),
        (["--dry-run", "a", "b"], "one or three directories are needed"),
        ([""], "a directory's name is empty"),
        (["--bogus", "a"], "unknown option '--bogus'"),
        (["--root=", "a"], "--root= needs a directory"),
        (["--root"], "--root= needs a directory"),
        (["--root=/nonexistent/x", "a"], "--root='/nonexistent/x' is not a directory"),
    ],
)
def test_usage_errors(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv, environ=ENVIRON) == 2
    assert capsys.readouterr().err == f"unit-confext-generator: {message}\n{cli.USAGE}"


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == cli.USAGE
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"unit-confext-generator {constants.VERSION}\n"


def test_messages_go_to_stderr_and_the_kernel_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kmsg = tmp_path / "kmsg"
    kmsg.touch()
    complaint = Complaint("refused", "entry-name", b"foo.service", b"/a\nb")
    reporter = Reporter(kmsg=str(kmsg))
    reporter.warn(complaint)
    reporter.warn(complaint)
    reporter.debug(complaint)
    line = f"foo.service: /a\\nb: {complaint.text}\n"
    assert capfd.readouterr().err == f"unit-confext-generator: {line}"
    assert kmsg.read_text() == f"<28>unit-confext-generator[{os.getpid()}]: {line}"


def test_debug_messages_are_for_debugging() -> None:
    messages: list[str] = []
    complaint = Complaint("ignored", "directory-hidden", b"", b"/x")
    Reporter(emit=messages.append, debugging=True).debug(complaint)
    assert messages == [f"unit-confext-generator: /x: {complaint.text}"]


def test_messages_are_cut() -> None:
    messages: list[str] = []
    Reporter(emit=messages.append).warn(Complaint("ignored", "loop", b"", "/é".encode() * 1000))
    assert len(messages[0].encode()) <= 903
    assert messages[0].endswith("é…") or messages[0].endswith("/…")


def test_messages_can_have_any_text() -> None:
    messages: list[str] = []
    complaint = Complaint("noted", "target-silent", b"", b"", "x \udcff")
    Reporter(emit=messages.append).warn(complaint)
    assert messages == [f"unit-confext-generator: {complaint.text}".replace("\udcff", "\\udcff")]
    assert "x \\udcff" in messages[0]


@pytest.mark.parametrize("debugging", [False, True])
def test_an_unexpected_error_is_one_units(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], debugging: bool
) -> None:
    units = root / "etc/systemd/system"
    (units / "bar.service").write_text("[Service]\n")
    (units / "bar.service.confext.d").mkdir()
    decide = Decider.decide

    def fail_for_bar(decider: Decider, target: Target) -> Dropin:
        if target.unit == b"bar.service":
            raise ValueError("a\nb \udcff")
        return decide(decider, target)

    monkeypatch.setattr(Decider, "decide", fail_for_bar)
    recorder = Recorder(debugging=debugging)
    assert cli.main([f"--root={root}", str(tmp_path)], environ=ENVIRON, reporter=recorder) == 0
    (complaint,) = recorder.complaints
    assert (complaint.effect, complaint.code, complaint.unit) == ("left-alone", "unexpected", b"bar.service")
    assert complaint.details == ("ValueError: a\\nb \\udcff",)
    assert (tmp_path / "foo.service.d/zz-unit-confext.conf").exists()
    assert ("in fail_for_bar" in capfd.readouterr().err) is debugging


@pytest.mark.parametrize("debugging", [False, True])
def test_an_unexpected_error_of_the_whole_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], debugging: bool
) -> None:
    def fail(*arguments: object) -> None:
        raise TypeError

    monkeypatch.setattr(cli, "find_targets", fail)
    environ = {**ENVIRON, "SYSTEMD_LOG_LEVEL": "debug" if debugging else "info"}
    assert cli.main([f"--root={root}", str(tmp_path)], environ=environ) == 1
    said = capfd.readouterr().err
    text = Complaint("noted", "unexpected", b"", b"", "TypeError").text
    assert said.startswith(f"unit-confext-generator: {text}\n")
    assert ("in fail" in said) is debugging
    assert (said.count("\n") == 1) is not debugging


@given(st.binary())
def test_printable_is_one_line(data: bytes) -> None:
    assert printable(data).isprintable()


def test_nothing_heavy_is_imported(root: Path, tmp_path: Path) -> None:
    """A new name here costs every daemon-reload of every machine; see the package's docstring."""
    (root / "etc/systemd/system/foo.service").write_text("[Unit]\nDefaultDependencies=no\n[Service]\n")
    script = (
        f"import sys; sys.path.insert(0, {str(GENERATOR)!r})\n"
        "from confext_generator.cli import main\n"
        f"assert main(['--root={root}', {str(tmp_path)!r}]) == 0\n"
        "print(*sorted(m for m in sys.modules if m not in sys.builtin_module_names))\n"
    )
    # From a file, as it is run: from 3.13 on, `-c` itself imports linecache.
    program = tmp_path / "program.py"
    program.write_text(script)
    done = subprocess.run(
        [sys.executable, "-I", "-S", program],
        env={**ENVIRON, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    own = {name for name in loaded if name.partition(".")[0] == "confext_generator"}
    modules = {path.stem for path in (GENERATOR / "confext_generator").glob("*.py")}
    # The table of machines is for versions that only some systemds let the generator pick, the messages are for runs
    # that have something to say.
    others = {"__init__", "__main__", "architectures", "complaints"}
    assert own == {"confext_generator"} | {f"confext_generator.{name}" for name in modules - others}
    assert loaded - own - LIGHT == set()


def test_start_as_a_script(root: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", MAIN, f"--root={root}", tmp_path], env=ENVIRON, capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    assert (tmp_path / "foo.service.d/zz-unit-confext.conf").exists()


def test_a_dry_run_ends_quietly_where_nobody_reads(root: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-I", "-S", MAIN, f"--root={root}", "--dry-run"],
        env=ENVIRON,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_no_module_writes_but_one() -> None:
    """Only write.py touches the disk; the reporter's kernel log is no file."""
    for path in (GENERATOR / "confext_generator").glob("*.py"):
        if path.name not in ("write.py",):
            text = path.read_text()
            for call in ("os.mkdir", "os.rename", "os.unlink", "O_CREAT", "open("):
                assert call not in text.replace("os.open(", ""), f"{call} in {path.name}"


class Guard:
    """The shell script, with a stand-in for the Python program that says how it was called."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "unit-confext-generator"
        text = (GENERATOR / "unit-confext-generator.in").read_text()
        self.path.write_text(text.replace("@libdir@", str(directory)))
        self.path.chmod(0o755)
        package = directory / "confext_generator"
        package.mkdir()
        (package / "__main__.py").write_text("import sys; print('started', *sys.argv[1:])")

    def run(self, *argv: str, unit_path: str) -> tuple[int, str]:
        done = subprocess.run(
            [self.path, *argv], env={"SYSTEMD_UNIT_PATH": unit_path}, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        return done.returncode, done.stdout


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_guard_starts_python_for_any_confext_directory(tmp_path: Path, kind: str) -> None:
    guard = Guard(tmp_path)
    units = tmp_path / "a b"
    units.mkdir()
    (units / "foo.service").touch()
    (units / "foo.service.d").mkdir()
    path = f"/nonexistent:{units}"
    assert guard.run("n", "e", "l", unit_path=path) == (0, "")
    entry = units / "foo.service.confext.d"
    if kind == "directory":
        entry.mkdir()
    elif kind == "file":
        entry.touch()
    else:
        entry.symlink_to("/nonexistent")
    assert guard.run("n", "e", "l", unit_path=path) == (0, "started n e l\n")


@pytest.mark.parametrize("argv", [(), ("--help",), ("--root=/x", "y"), ("--dry-run",)])
def test_guard_leaves_options_to_python(tmp_path: Path, argv: tuple[str, ...]) -> None:
    assert Guard(tmp_path).run(*argv, unit_path="/nonexistent") == (0, " ".join(["started", *argv]) + "\n")


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        (b"7f r-xp 0 1 2 /usr/lib/x86_64-linux-gnu/systemd/libsystemd-core-257.so\n", 257),
        (b"x /usr/lib/systemd/libsystemd-shared-262.1-3.fc45.so (deleted)\nx /usr/lib/libc.so.6\n", 262),
        (b"x" * 65530 + b" /usr/lib/systemd/libsystemd-core-260.so\n", 260),
        (b"7f r-xp /usr/bin/python3\n", None),
        (b"", None),
    ],
)
def test_version_of_the_running_manager(tmp_path: Path, maps: bytes, expected: int | None) -> None:
    path = tmp_path / "maps"
    path.write_bytes(maps)
    assert systemdversion._running_version(os.fsencode(path)) == expected


def test_version_without_proc(tmp_path: Path) -> None:
    assert systemdversion._running_version(os.fsencode(tmp_path / "maps")) is None


def test_version_from_the_environment_comes_first(tmp_path: Path) -> None:
    assert systemdversion.find_version(Tree(os.fsencode(tmp_path)), {systemdversion.ENVIRONMENT: "258"}) == 258
    assert systemdversion.find_version(Tree(os.fsencode(tmp_path)), {systemdversion.ENVIRONMENT: "nonsense"}) is None


OTHER = 4242


@pytest.mark.parametrize("writable", [True, False])
def test_an_access_control_list_is_seen(root: Path, tmp_path: Path, writable: bool) -> None:
    """Its mask is what looks like the rights of the group, which is root's."""
    image = root / "etc/systemd/system/foo.service.confext.d/a.raw"
    # <linux/posix_acl_xattr.h>: version 2; owner, user 4242, group, mask, others.
    entries = [(1, 6, -1), (2, 6, OTHER), (4, 4, -1), (16, 6 if writable else 4, -1), (32, 4, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(image, "system.posix_acl_access", acl)
    except OSError as e:
        pytest.skip(f"no access control lists here: {e}")
    complaint = ("refused", "acl-writes", os.fsencode(f"/{image.relative_to(root)}"))
    assert run(root, str(tmp_path)) == (0, [complaint] if writable else [])


class BrokenScan:
    """Stands in for os.scandir(): names that cannot be examined, and an end that is an error."""

    def __init__(self, path: bytes) -> None:
        self.entries = iter([BrokenEntry(name) for name in (b"gone.service", b"gone.service.confext.d")])
        self.real = os.scandir(path)

    def __enter__(self) -> BrokenScan:
        return self

    def __exit__(self, *args: object) -> None:
        self.real.close()

    def __iter__(self) -> Iterator[BrokenEntry | os.DirEntry[bytes]]:
        yield from self.entries
        yield from self.real
        raise OSError(errno.EIO, "Input/output error")


class BrokenEntry:
    def __init__(self, name: bytes) -> None:
        self.name = name

    def is_symlink(self) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    def is_dir(self) -> bool:
        raise AssertionError

    is_file = is_dir


def test_a_directory_that_cannot_be_read_to_its_end(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posix.scandir", BrokenScan)
    assert run(root, str(tmp_path)) == (0, [])
    assert (tmp_path / "foo.service.d/zz-unit-confext.conf").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_link_of_somebody_else_on_the_way(root: Path, tmp_path: Path) -> None:
    """In a directory like /tmp its owner could turn it to another image at any time."""
    directory = root / "var/tmp"
    directory.mkdir(parents=True)
    directory.chmod(0o1777)
    (root / "image.raw").touch()
    (directory / "link").symlink_to("/image.raw")
    os.chown(directory / "link", OTHER, OTHER, follow_symlinks=False)
    entry = "etc/systemd/system/foo.service.confext.d/b.raw"
    (root / entry).symlink_to("/var/tmp/link")
    recorder = Recorder()
    assert cli.main([f"--root={root}", str(tmp_path)], environ=ENVIRON, reporter=recorder) == 0
    assert recorder.codes == [("refused", "way-other-owner", os.fsencode(f"/{entry}"))]
    assert recorder.complaints[0].details == ("'/var/tmp/link'", "4242")
    assert "image.raw" not in (tmp_path / "foo.service.d/zz-unit-confext.conf").read_text()
