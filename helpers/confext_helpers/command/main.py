# SPDX-License-Identifier: LGPL-2.1-or-later
"""The entry point of `unit-confext`: parse the command line, call the verb, print an error as one line."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from confext_helpers import __version__
from confext_helpers.command import options
from confext_helpers.command.exitcodes import Exit
from confext_helpers.command.output import Output
from confext_helpers.errors import ConfextError, unexpected


def main(argv: list[str]) -> int:
    """Run `unit-confext` with the arguments `argv`; return its exit status."""
    try:
        arguments = options.parse(argv)
    except SystemExit as error:
        return int(error.code or 0)
    output = Output(arguments)
    try:
        status = _run(arguments, output)
        output.flush()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        _silence()
        return Exit.ERROR
    except Exception as error:
        if arguments.debug:
            raise
        told = error if isinstance(error, ConfextError | OSError) else unexpected(error)
        try:
            output.flush()
            sys.stdout.flush()
        except OSError:
            _silence()
        print(f"{options.PROGRAM}: {told}", file=sys.stderr)
        return Exit.ERROR
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace, output: Output) -> int:
    if arguments.help:
        print(options.help_text(), end="")
        return Exit.OK
    if arguments.version:
        print(f"{options.PROGRAM} {__version__}")
        return Exit.OK
    verb = importlib.import_module(f"confext_helpers.command.verbs.{arguments.verb}")
    status: int = verb.run(arguments, output)
    return status


def _silence() -> None:
    """Keep Python from flushing standard output at exit again, which would print a second error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
