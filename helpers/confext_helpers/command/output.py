# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the verbs print: tables for people, JSON for programs, never both.

Names from file systems are data: whatever a terminal could take for a command is escaped in tables, and JSON
has them as they are (bytes that are no UTF-8 as lone surrogates, as in Python's os.fsdecode()).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum

from confext_helpers.command.options import color_wanted
from confext_helpers.system import programs


class Color(StrEnum):
    """SGR sequences, ECMA-48."""

    NONE = ""
    RED = "\x1b[31m"
    GREEN = "\x1b[32m"
    YELLOW = "\x1b[33m"
    BOLD = "\x1b[1m"


RESET = "\x1b[0m"


def printable(value: object) -> str:
    """`value` as text that has no effect on a terminal."""
    if value is None or value == "":
        return "-"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


class Output:
    """Where a verb's results go, in the form that the command line asks for.

    Attributes:
        json: "pretty", "short" or "off".
        legend: whether tables have headers and notes.
        quiet: whether notes and progress are left out.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.json: str = arguments.json
        self.legend: bool = not arguments.no_legend
        self.quiet: bool = arguments.quiet
        self._color = color_wanted()
        self._pager = not arguments.no_pager and sys.stdout.isatty()
        self._lines: list[str] = []

    def paint(self, text: str, color: Color) -> str:
        """`text` in `color` if the output is to be coloured."""
        return f"{color}{text}{RESET}" if self._color and color else text

    def data(self, value: Sequence[Mapping[str, object]]) -> None:
        """Print the objects of a verb (command/data.py) as JSON; only if `json` is not "off"."""
        indent = {"pretty": 2, "short": None}[self.json]
        separators = None if indent else (",", ":")
        sys.stdout.write(json.dumps(value, indent=indent, separators=separators) + "\n")

    def table(self, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
        """Print `rows` as a table of `columns`, keys of the rows."""
        cells = [[printable(row.get(column)) for column in columns] for row in rows]
        if self.legend and rows:
            cells.insert(0, [column.upper().replace("_", " ") for column in columns])
        widths = [max(len(line[number]) for line in cells) for number in range(len(columns))] if cells else []
        for number, line in enumerate(cells):
            padded = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)]
            text = " ".join([*padded, line[-1]])
            self.line(text, Color.BOLD if self.legend and number == 0 else Color.NONE)

    def line(self, text: str = "", color: Color = Color.NONE) -> None:
        """Print one line for people."""
        self._lines.append(self.paint(text, color))

    def note(self, text: str) -> None:
        """Print one line for people to standard error, unless notes are unwanted."""
        if not self.quiet and self.legend:
            print(text, file=sys.stderr)

    def flush(self) -> None:
        """Print the lines that were collected, through a pager if they do not fit on the terminal."""
        text = "".join(f"{line}\n" for line in self._lines)
        self._lines.clear()
        too_long = text.count("\n") >= shutil.get_terminal_size().lines
        if not (self._pager and too_long and programs.page(text)):
            sys.stdout.write(text)
