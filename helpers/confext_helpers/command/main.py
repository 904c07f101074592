"""The command line of `unit-confext`: parse, call the verb, turn what it raises into one line."""

from __future__ import annotations

import importlib
import os
import sys

from confext_helpers import __version__
from confext_helpers.command import options
from confext_helpers.command.exitcodes import Exit
from confext_helpers.command.output import Output
from confext_helpers.errors import ConfextError


def main(argv: list[str]) -> int:
    """Run `unit-confext` with the arguments `argv`; return its exit status."""
    try:
        arguments = options.parse(argv)
    except SystemExit as error:
        return int(error.code or 0)
    if arguments.help:
        print(options.help_text(), end="")
        return Exit.OK
    if arguments.version:
        print(f"{options.PROGRAM} {__version__}")
        return Exit.OK
    verb = importlib.import_module(f"confext_helpers.command.{arguments.verb}")
    output = Output(arguments)
    try:
        status: int = verb.run(arguments, output)
        output.flush()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.ERROR
    except (ConfextError, OSError) as error:
        if arguments.debug:
            raise
        output.flush()
        print(f"{options.PROGRAM}: {error}", file=sys.stderr)
        return Exit.ERROR
    except KeyboardInterrupt:
        return 130
