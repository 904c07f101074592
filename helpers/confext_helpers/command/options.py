# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tables of verbs and options of `unit-confext`, from which the parser and the help text are made.

A test compares the man page and the shell completions with these tables.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import NamedTuple, NoReturn

from confext_helpers.command.exitcodes import Exit

PROGRAM = "unit-confext"
JSON_MODES = ("pretty", "short", "off")
FORMATS = ("ddi", "erofs", "squashfs", "directory")
TIMES = ("content", "keep")


class Verb(NamedTuple):
    """One verb.

    Attributes:
        name: also the name of the module that has its `run()`.
        operands: as the help text shows them.
        least: the minimum number of operands.
        most: the maximum number of operands; None for no limit.
        help: a sentence without a full stop.
    """

    name: str
    operands: str
    least: int
    most: int | None
    help: str


class Option(NamedTuple):
    """One option.

    Attributes:
        names: all spellings, the long one last.
        value: the name of its value; empty for a switch.
        verbs: the verbs that accept it; empty for all.
        help: a sentence without a full stop.
        choices: the accepted values; empty for any.
        default: the value without the option.
        several: whether the option may be repeated, and its parsed value is a list.
    """

    names: tuple[str, ...]
    value: str
    verbs: tuple[str, ...]
    help: str
    choices: tuple[str, ...] = ()
    default: str | None = None
    several: bool = False

    @property
    def attribute(self) -> str:
        """The attribute of the namespace with the parsed value."""
        return self.names[-1].removeprefix("--").replace("-", "_")


VERBS = (
    Verb("list", "[UNIT…]", 0, None, "Every .confext.d/, and what became of its entries"),
    Verb("status", "UNIT…", 1, None, "What runs, beside what is loaded and what is on disk"),
    Verb("which", "UNIT PATH", 2, 2, "Which layer a file in a service's /etc comes from"),
    Verb("cat", "UNIT PATH…", 2, None, "Print files in /etc as a service sees them"),
    Verb("diff", "UNIT", 1, 1, "What the next reload would change in /etc"),
    Verb("inspect", "IMAGE…", 1, None, "What is in an image"),
    Verb("verify", "IMAGE…", 1, None, "Whether an image is whole, signed and allowed"),
    Verb("build", "DIRECTORY", 1, 1, "Make an image from a directory tree"),
)

_TRUSTING = ("status", "which", "inspect", "verify")

OPTIONS = (
    Option(("-h", "--help"), "", (), "Show this text"),
    Option(("--version",), "", (), "Show the version"),
    Option(("--root",), "DIR", ("list", "inspect", "verify"), "Operate on the system in DIR"),
    Option(("--json",), "MODE", (), "Print JSON: pretty, short or off", JSON_MODES, "off"),
    Option(("--no-pager",), "", (), "Do not pipe the output into a pager"),
    Option(("--no-legend",), "", (), "Leave out headers and summaries"),
    Option(("-q", "--quiet"), "", (), "Print no notes and no progress; verify: print nothing"),
    Option(("--debug",), "", (), "Show where an error comes from"),
    Option(("--image-policy",), "POLICY", ("inspect", "verify"), "What images must be, systemd.image-policy(7)"),
    Option(("--trust",), "PATH", _TRUSTING, "Trusted certificates, a file or directory", several=True),
    Option(("--os-release",), "FILE", ("verify", "build"), "The os-release file of the target system"),
    Option(("-o", "--output"), "PATH", ("build",), "What to write; its name is the confext's"),
    Option(("--format",), "FORMAT", ("build",), "What to build: ddi, erofs, squashfs or directory", FORMATS, "ddi"),
    Option(("--release",), "NAME=VALUE", ("build",), "A field of the release file", several=True),
    Option(("--allow",), "WHAT", ("build",), "Accept these: outside, executables or special-bits", several=True),
    Option(("--architecture",), "ARCH", ("verify", "build"), "The architecture that the image is for"),
    Option(("--key",), "FILE", ("build",), "Private key to sign with (PEM)"),
    Option(("--certificate",), "FILE", ("build",), "Certificate that belongs to the key (PEM)"),
    Option(("--force",), "", ("build",), "Replace the output if it is there already"),
    Option(("--mode",), "MODE", ("build",), "The mode of the image, such as 0600"),
    Option(("--times",), "WHICH", ("build",), "Times of files: content or keep", TIMES, "content"),
    Option(("--check",), "", ("diff",), "Run the service's Check= commands as well"),
    Option(("--dry-run",), "", ("build",), "Only say what would be done"),
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, and exits with the documented status."""

    def error(self, message: str) -> NoReturn:
        print(f"{PROGRAM}: {message}; see {PROGRAM} --help", file=sys.stderr)
        raise SystemExit(Exit.USAGE)


def _parser() -> _Parser:
    parser = _Parser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    for option in OPTIONS:
        if not option.value:
            parser.add_argument(*option.names, action="store_true")
        elif option.several:
            parser.add_argument(*option.names, action="append", default=[])
        else:
            parser.add_argument(*option.names, choices=option.choices or None, default=option.default)
    parser.add_argument("words", nargs="*")
    return parser


def _is_given(option: Option, arguments: argparse.Namespace) -> bool:
    return getattr(arguments, option.attribute) not in (None, False, [], option.default)


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line.

    Returns:
        A namespace with an attribute for each option, and `verb` and `operands`.

    Raises:
        SystemExit: the command line is wrong (status 2, with a message on standard error).
    """
    parser = _parser()
    arguments = parser.parse_intermixed_args(argv)
    words = arguments.words
    if arguments.help or arguments.version:
        return arguments
    verbs = {verb.name: verb for verb in VERBS}
    if not words:
        parser.error("a verb is needed: " + ", ".join(verbs))
    verb = verbs.get(words[0])
    if verb is None:
        parser.error(f"unknown verb '{words[0]}'")
    arguments.verb, arguments.operands = verb.name, words[1:]
    count = len(arguments.operands)
    if count < verb.least or (verb.most is not None and count > verb.most):
        parser.error(f"usage: {PROGRAM} {verb.name} {verb.operands}")
    for option in OPTIONS:
        if option.verbs and verb.name not in option.verbs and _is_given(option, arguments):
            parser.error(f"{option.names[-1]} is not for '{verb.name}'")
    return arguments


def help_text() -> str:
    """The text of --help."""
    lines = [f"{PROGRAM} [OPTIONS…] VERB …", "", "Per-unit confext images for systemd services.", "", "Verbs:"]
    lines += [f"  {f'{verb.name} {verb.operands}':<22}{verb.help}" for verb in VERBS]
    lines += ["", "Options:"]
    for option in OPTIONS:
        names = " ".join(option.names) + (f"={option.value}" if option.value else "")
        only = f" ({', '.join(option.verbs)})" if option.verbs else ""
        lines.append(f"  {names:<22}{option.help}{only}")
    return "\n".join([*lines, "", f"See {PROGRAM}(1)."]) + "\n"


def color_wanted() -> bool:
    """Whether standard output is a terminal that may be coloured (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
