# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of a report, in markdown, and its place in the README."""

from __future__ import annotations

from bench.results import Kind, Report, Row, Series

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"

_HEAD = ("what", "systemd", "median (min to max)", "reference", "median (min to max)", "ratio", "goal", "met")


def render(report: Report) -> str:
    """Return `report` as a table with a caption, without a line end at the end."""
    rows = [_HEAD, tuple("---" for _ in _HEAD), *(_cells(row) for row in report.rows)]
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    versions = "".join(f"\nsystemd {version}: {text}." for version, text in sorted(report.systems.items()))
    return "\n".join([*lines, "", f"Measured on {report.machine}.{versions}"])


def replace(text: str, table: str) -> str:
    """Return `text` with `table` between its two markers.

    Raises:
        ValueError: there are no markers, or not in that order.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no line {BEGIN} with a line {END} below it")
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


def _cells(row: Row) -> tuple[str, ...]:
    what = f"{row.what} ({row.note})" if row.note else row.what
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    goal = ""
    if row.goal is not None:
        goal = f"≤ {number(row.goal, row.kind) if row.reference is None else f'{row.goal:.1f}'}"
        if row.reference is None and row.goal == 0:
            goal = "0"
    met = {None: "", True: "yes", False: "**no**"}[row.is_met]
    reference = ("", "") if row.reference is None else (row.reference.command, _spread(row.reference, row.kind))
    return (what, str(row.system), _spread(row.measured, row.kind), *reference, ratio, goal, met)


def _spread(series: Series, kind: Kind) -> str:
    low, high = number(min(series.values), kind), number(max(series.values), kind)
    middle = number(series.median, kind)
    return middle if low == high else f"{middle} ({low} to {high})"


def number(value: float, kind: Kind) -> str:
    """Return `value` with its unit, in three digits or a little more."""
    match kind:
        case Kind.TIME if 0 < value < 0.001:
            text = f"{value * 1e6:.0f} µs"
        case Kind.TIME if value < 1:
            text = f"{value * 1000:.{1 if value < 0.1 else 0}f} ms"
        case Kind.TIME:
            text = f"{value:.2f} s"
        case Kind.MEMORY:
            text = f"{value / (1 << 20):.1f} MiB"
        case Kind.COUNT:
            text = f"{value:g}"
    return text
