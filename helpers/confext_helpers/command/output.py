# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the verbs print: tables for people, JSON for programs, never both.

File names are untrusted data: tables escape every character that could control a terminal. JSON has file names as they
are, with bytes that are not UTF-8 as lone surrogates, as os.fsdecode() makes them.
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
    """`value` as text in which every character that could control a terminal is escaped."""
    if value is None or value == "":
        return "-"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


class Output:
    """Prints the results of a verb, in the form that the command line asks for.

    Attributes:
        json: "pretty", "short" or "off".
        legend: whether to print table headers and notes.
        quiet: whether to leave out notes and progress.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.json: str = arguments.json
        self.legend: bool = not arguments.no_legend
        self.quiet: bool = arguments.quiet
        self._color = color_wanted()
        self._pager = not arguments.no_pager and sys.stdout.isatty()
        self._lines: list[str] = []

    def paint(self, text: str, color: Color) -> str:
        """`text` in `color`, or unchanged if the output has no colours."""
        return f"{color}{text}{RESET}" if self._color and color else text

    def data(self, value: Sequence[Mapping[str, object]]) -> None:
        """Print the objects of a verb (command/data.py) as JSON; call only if `json` is not "off"."""
        indent = {"pretty": 2, "short": None}[self.json]
        separators = None if indent else (",", ":")
        sys.stdout.write(json.dumps(value, indent=indent, separators=separators) + "\n")

    def table(self, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
        """Print `rows` as a table; `columns` are the keys to show."""
        cells = [[printable(row.get(column)) for column in columns] for row in rows]
        if self.legend and rows:
            cells.insert(0, [column.upper().replace("_", " ") for column in columns])
        widths = [max(len(line[number]) for line in cells) for number in range(len(columns))] if cells else []
        for number, line in enumerate(cells):
            padded = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)]
            text = " ".join([*padded, line[-1]])
            self.line(text, Color.BOLD if self.legend and number == 0 else Color.NONE)

    def line(self, text: str = "", color: Color = Color.NONE) -> None:
        """Print one line; flush() writes it."""
        self._lines.append(self.paint(text, color))

    def note(self, text: str) -> None:
        """Print one line to standard error, unless --quiet or --no-legend was given."""
        if not self.quiet and self.legend:
            print(text, file=sys.stderr)

    def flush(self) -> None:
        """Write the collected lines, through a pager if they do not fit on the terminal."""
        text = "".join(f"{line}\n" for line in self._lines)
        self._lines.clear()
        too_long = text.count("\n") >= shutil.get_terminal_size().lines
        if not (self._pager and too_long and programs.page(text)):
            sys.stdout.write(text)
