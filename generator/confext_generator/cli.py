# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: the interface of systemd.generator(7), plus `--root=` and `--dry-run` for people and tests."""

from __future__ import annotations

import posix as os
import sys

from confext_generator import constants, systemdversion, write
from confext_generator.decide import Decider, Systemd
from confext_generator.layers import LayerReader
from confext_generator.lookout import Lookout
from confext_generator.render import render
from confext_generator.report import Complaint, Reporter, described, reason_of
from confext_generator.settings import SettingsReader
from confext_generator.sources import find_targets
from confext_generator.tree import Tree
from confext_generator.unitdirs import UnitDirs, search_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from confext_generator.decide import Dropin
    from confext_generator.sources import Target

PROGRAM = "unit-confext-generator"

USAGE = f"""\
Usage: {PROGRAM} [--root=DIR] NORMAL-DIR [EARLY-DIR LATE-DIR]
       {PROGRAM} [--root=DIR] --dry-run [NORMAL-DIR]

Write a drop-in to NORMAL-DIR for each service that has a .confext.d/ directory.

  --root=DIR  read units and images below DIR instead of /
  --dry-run   print the drop-ins, write nothing
  --help      show this text
  --version   show the version

systemd runs this at boot and at each daemon-reload; see unit-confext-generator(8).
"""

# systemd's NORMAL-DIR, shown by --dry-run if no directory is given.
_DEFAULT_OUTPUT = "/run/systemd/generator"

EXIT_FAILURE = 1
EXIT_USAGE = 2


class UsageError(Exception):
    """The command line is wrong."""


class Options:
    """The parsed command line; a `text` (help, version) is printed instead of running the generator."""

    __slots__ = ("dry_run", "output", "root", "text")

    def __init__(self, argv: Sequence[str]) -> None:
        """Parse `argv`; raises UsageError.

        The parser is written by hand: importing argparse takes longer than the whole run.
        """
        self.root = ""
        self.dry_run = False
        self.text = ""
        self.output = ""
        directories: list[str] = []
        arguments = iter(argv)
        for argument in arguments:
            if argument == "--":
                directories += arguments
            elif argument == "--help":
                self.text = USAGE
            elif argument == "--version":
                self.text = f"{PROGRAM} {constants.VERSION}\n"
            elif argument == "--dry-run":
                self.dry_run = True
            elif argument == "--root":
                self.root = _value(next(arguments, ""))
            elif argument.startswith("--root="):
                self.root = _value(argument.removeprefix("--root="))
            elif argument.startswith("-"):
                raise UsageError(f"unknown option {argument!a}")
            else:
                directories.append(argument)
        if self.text:
            return
        if len(directories) not in (1, 3) and not (self.dry_run and not directories):
            raise UsageError("one or three directories are needed")
        if not all(directories):
            raise UsageError("a directory's name is empty")
        self.output = directories[0] if directories else _DEFAULT_OUTPUT


def _value(root: str) -> str:
    from os.path import abspath, isdir

    if not root:
        raise UsageError("--root= needs a directory")
    if not isdir(root):
        raise UsageError(f"--root={root!a} is not a directory")
    root = abspath(root)
    return "" if root == "/" else root


def main(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
) -> int:
    """Run the generator with the command line `argv`; return the exit status.

    `environ` and `reporter` are for tests. The status is 0 even if units had to be left alone, because one bad unit
    must not cost the others their drop-ins. 1 means that a drop-in could not be written or that an unexpected error
    occurred, 2 a wrong command line.
    """
    if environ is None:
        environ = {_decode(name): _decode(value) for name, value in os.environ.items()}
    try:
        options = Options(argv)
    except UsageError as e:
        sys.stderr.write(f"{PROGRAM}: {e}\n{USAGE}")
        return EXIT_USAGE
    if options.text:
        sys.stdout.write(options.text)
        return 0
    if reporter is None:
        reporter = Reporter(
            # With --root= or --dry-run a person reads the terminal; only systemd's runs log to the kernel log.
            kmsg="" if options.root or options.dry_run else "/dev/kmsg",
            debugging=environ.get("SYSTEMD_LOG_LEVEL") in ("debug", "7"),
        )

    try:
        return _run(options, environ, reporter)
    except Exception as e:
        reporter.warn(Complaint("noted", "unexpected", b"", b"", described(e)))
        reporter.trace()
        return EXIT_FAILURE


def _run(options: Options, environ: Mapping[str, str], reporter: Reporter) -> int:
    output = _encode(options.output)
    status = 0
    for unit, text in generate(open_tree(_encode(options.root), environ), environ, reporter):
        if options.dry_run:
            sys.stdout.flush()
            try:
                _print(b"# " + write.dropin_path(output, unit) + b"\n" + text + b"\n")
            except BrokenPipeError:
                break  # The reader is gone, e.g. `| head`.
            continue
        try:
            write.write_dropin(output, unit, text)
        except OSError as e:
            path = write.dropin_path(output, unit)
            reporter.warn(Complaint("noted", "dropin-unwritten", unit, path, reason_of(e)))
            status = EXIT_FAILURE
    return status


def open_tree(root: bytes, environ: Mapping[str, str]) -> Tree:
    """Return the file system below `root` as a generator started by systemd sees it."""
    directories = [path for path, _ in search_path(environ.get("SYSTEMD_UNIT_PATH"))]
    return Tree(root, Lookout(root, directories))


class Run:
    """One run over all units; `unit-confext list` does such a run, too.

    `targets` has the units. If there are any, call prepare() once, then decide() for each.
    """

    __slots__ = ("_decider", "_environ", "_reporter", "_tree", "dirs", "targets")

    _decider: Decider

    def __init__(self, tree: Tree, environ: Mapping[str, str], reporter: Reporter) -> None:
        """List the units; raises nothing, unlike prepare()."""
        self._tree = tree
        self._environ = environ
        self._reporter = reporter
        self.dirs = UnitDirs(tree, search_path(environ.get("SYSTEMD_UNIT_PATH")), reporter)
        self.targets = find_targets(self.dirs, reporter) if self.dirs.sources else []

    def prepare(self) -> None:
        """Find out the version of systemd and set up the decider; raises Complaint if systemd is too old."""
        reporter = self._reporter
        systemd = Systemd(systemdversion.find_version(self._tree, self._environ), reporter)
        settings = SettingsReader(
            self._tree, self.dirs, shell_prefix=systemd.has_shell_prefix, dot_paths=systemd.has_dot_paths
        )
        layers = LayerReader(self._tree, reporter, pick_here=systemd.pick_here, knows_vpick=systemd.knows_vpick)
        self._decider = Decider(systemd, self.dirs, settings, layers, reporter)

    def decide(self, target: Target) -> tuple[Dropin, bytes]:
        """Return the drop-in of `target` and its text; raises Complaint if the unit is to be left alone."""
        try:
            dropin = self._decider.decide(target)
            return dropin, render(dropin)
        except OSError as e:
            # A file or directory disappeared while being read.
            path = e.filename if isinstance(e.filename, bytes) else b""
            raise Complaint("left-alone", "went-away", target.unit, path, reason_of(e)) from None


def generate(tree: Tree, environ: Mapping[str, str], reporter: Reporter) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and drop-in text of each unit that gets a drop-in; report the others."""
    run = Run(tree, environ, reporter)
    if not run.targets:
        return
    try:
        run.prepare()
    except Complaint as e:
        reporter.warn(e)
        return
    for target in run.targets:
        try:
            yield target.unit, run.decide(target)[1]
        except Complaint as e:
            if target.has_own_directory or e.code == "went-away":
                reporter.warn(e)
            else:
                reporter.debug(e)
        except Exception as e:
            # A bug of ours that hits one unit must not cost the other units their drop-ins.
            reporter.warn(Complaint("left-alone", "unexpected", target.unit, b"", described(e)))
            reporter.trace()


def _encode(text: str) -> bytes:
    """Same as os.fsencode(), without importing os."""
    return text.encode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def _decode(data: bytes) -> str:
    """Same as os.fsdecode(), without importing os."""
    return data.decode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def _print(text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(1, rest) :]
