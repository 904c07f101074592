# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was measured, as it is kept in build/bench.json, and whether it meets its goal.

Times are in seconds, memory is in bytes; everything is measured several times and the median counts. A row is judged
by the ratio of its median to that of its reference, which was measured in the same minute on the same machine; where
there is no reference, by the greatest of its values.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

# A median of fewer values is none.
REPEATS_MIN = 20


class Kind(StrEnum):
    """What the numbers of a series are."""

    TIME = "s"
    MEMORY = "byte"
    COUNT = "count"


@dataclass(frozen=True, slots=True)
class Series:
    """The values of one thing that was measured.

    Attributes:
        command: what was measured, in words that fit into a table.
        values: in the order of measuring.
    """

    command: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The value in the middle."""
        return statistics.median(self.values)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        name: what it is called in `make bench ROWS=`.
        what: what it is about, in words.
        system: the version of systemd.
        kind: what the values are.
        measured: our values.
        reference: those that they are compared with, None where the goal is a number of its own.
        goal: the greatest ratio, or without a reference the greatest value; None where there is only something to know.
        note: what else has to be said, or nothing.
    """

    name: str
    what: str
    system: int
    kind: Kind
    measured: Series
    reference: Series | None = None
    goal: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The median in terms of the reference's, None without a reference."""
        if self.reference is None:
            return None
        return self.measured.median / self.reference.median

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is met, None where there is none."""
        if self.goal is None:
            return None
        ratio = self.ratio
        return (max(self.measured.values) if ratio is None else ratio) <= self.goal


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run.

    Attributes:
        machine: what it ran on, in words.
        systems: the versions of what was measured and compared with, in words, by the version of systemd.
        rows: in the order of the table.
    """

    machine: str
    systems: dict[int, str]
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as build/bench.json has it: every value, and what is made of them."""
        rows = []
        for row in self.rows:
            entry = asdict(row) | {"ratio": row.ratio, "met": row.is_met}
            for series, name in ((row.measured, "measured"), (row.reference, "reference")):
                if series is not None:
                    values = series.values
                    entry[name] |= {"median": series.median, "min": min(values), "max": max(values)}
            rows.append(entry)
        return {"machine": self.machine, "systems": self.systems, "rows": rows}


def report_from_json(data: dict[str, Any]) -> Report:
    """Return the report of which to_json() made `data`.

    Raises:
        KeyError: it is none.
    """

    def series(entry: dict[str, Any] | None) -> Series | None:
        return None if entry is None else Series(entry["command"], tuple(entry["values"]))

    rows = []
    for entry in data["rows"]:
        measured = series(entry["measured"])
        assert measured is not None
        rows.append(
            Row(
                entry["name"], entry["what"], entry["system"], Kind(entry["kind"]), measured,
                series(entry["reference"]), entry["goal"], entry["note"],
            )
        )  # fmt: skip
    return Report(data["machine"], {int(k): v for k, v in data["systems"].items()}, tuple(rows))
