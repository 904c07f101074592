# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of `make bench`: what is kept of a run, which goals are met, and how it gets into the README."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import table
from bench.results import Kind, Report, Row, Series, report_from_json
from lab import rootfs


def row(*values: float, reference: tuple[float, ...] | None = None, goal: float | None = None, note: str = "") -> Row:
    compared = None if reference is None else Series("that", reference)
    return Row("name", "what", 257, Kind.TIME, Series("this", values), compared, goal, note)


@pytest.mark.parametrize(
    ("row", "ratio", "met"),
    [
        (row(1, 2, 30, reference=(1, 1, 50), goal=2.0), 2.0, True),
        (row(1, 2.1, 30, reference=(1, 1, 50), goal=2.0), 2.1, False),
        (row(1, reference=(2,)), 0.5, None),
        (row(0, 0, 0, goal=0.0), None, True),
        # Without a reference the worst value counts: a request that failed once has failed.
        (row(0, 0, 0.001, goal=0.0), None, False),
        (row(1), None, None),
    ],
)
def test_goal(row: Row, ratio: float | None, met: bool | None) -> None:
    assert (row.ratio, row.is_met) == (ratio, met)


REPORT = Report(
    "Some CPU, 2 cores, Linux 6.12",
    {262: "262-1, Python 3.14", 257: "257.13, Python 3.13"},
    (
        row(0.0101, 0.0102, 0.3, reference=(0.02, 0.02, 0.02), goal=1.0),
        row(3.0, 12.5, 14, reference=(1, 1, 1), goal=2.0, note="noisy"),
        row(0.25, reference=(0.5,)),
        row(0, 0.01, goal=0.0),
        Row("memory", "hook", 262, Kind.MEMORY, Series("hook", (3 << 20, 4 << 20)), None, float(16 << 20)),
        Row("torn", "reader", 262, Kind.COUNT, Series("reads", (0.0,)), goal=0.0),
    ),
)

TABLE = """\
| what | systemd | median (min to max) | reference | median (min to max) | ratio | goal | met |
| --- | --- | --- | --- | --- | --- | --- | --- |
| what | 257 | 10.2 ms (10.1 ms to 300 ms) | that | 20.0 ms | 0.51 | ≤ 1.0 | yes |
| what (noisy) | 257 | 12.50 s (3.00 s to 14.00 s) | that | 1.00 s | 12.50 | ≤ 2.0 | **no** |
| what | 257 | 250 ms | that | 500 ms | 0.50 |  |  |
| what | 257 | 5.0 ms (0.0 ms to 10.0 ms) |  |  |  | 0 | **no** |
| hook | 262 | 3.5 MiB (3.0 MiB to 4.0 MiB) |  |  |  | ≤ 16.0 MiB | yes |
| reader | 262 | 0 |  |  |  | 0 | yes |

Measured on Some CPU, 2 cores, Linux 6.12.
systemd 257: 257.13, Python 3.13.
systemd 262: 262-1, Python 3.14."""


def test_table() -> None:
    assert table.render(REPORT) == TABLE


def test_json_holds_everything() -> None:
    data = json.loads(json.dumps(REPORT.to_json()))
    assert report_from_json(data) == REPORT
    first = data["rows"][0]
    assert (first["ratio"], first["met"]) == (pytest.approx(0.51), True)
    assert first["measured"] == {
        "command": "this", "values": [0.0101, 0.0102, 0.3], "median": 0.0102, "min": 0.0101, "max": 0.3,
    }  # fmt: skip


def test_table_is_put_between_the_markers() -> None:
    text = f"a\n{table.BEGIN}\nold\n{table.END}\nb\n"
    once = table.replace(text, TABLE)
    assert once == f"a\n{table.BEGIN}\n{TABLE}\n{table.END}\nb\n"
    assert table.replace(once, TABLE) == once


@pytest.mark.parametrize("text", ["", table.BEGIN, f"{table.END}\n{table.BEGIN}\n"])
def test_readme_without_markers(text: str) -> None:
    with pytest.raises(ValueError, match=r"^there is no line <!-- bench --> with a line <!-- /bench --> below it$"):
        table.replace(text, TABLE)


def test_rows_are_chosen_by_name() -> None:
    assert bench.choose([]) == frozenset(bench.ROWS)
    assert bench.choose(["generator-100*", "many-50"]) == {
        "generator-100", "generator-1000", "generator-1000-per-unit", "many-50",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"^there is no row nothing; there are generator-none, "):
        bench.choose(["many-50", "nothing"])


def test_names_of_rows_are_unique() -> None:
    assert len(set(bench.ROWS)) == len(bench.ROWS)


def stand_in(monkeypatch: pytest.MonkeyPatch, directory: Path, *, failure: str = "") -> Path:
    """Have bench.main() measure nothing, and write below `directory`; return the README."""

    def measure(names: frozenset[str], found: list[Row], versions: dict[int, str]) -> None:
        found.append(Row("many-50", "many", 257, Kind.TIME, Series("this", (0.1,))))
        versions[257] = "257.13"
        if failure:
            raise AssertionError(failure)

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "missing_capability", lambda: None)
    monkeypatch.setattr(rootfs, "ensure", lambda suite, more: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(bench, "RESULTS", directory / "build/bench.json")
    readme = directory / "README.md"
    monkeypatch.setattr(bench, "README", readme)
    readme.write_text(f"a\n{table.BEGIN}\n{table.END}\nb\n")
    return readme


def test_whole_run_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = stand_in(monkeypatch, tmp_path)
    assert bench.main([]) == 0
    report = report_from_json(json.loads((tmp_path / "build/bench.json").read_text()))
    assert [row.name for row in report.rows] == ["many-50"]
    assert readme.read_text() == f"a\n{table.BEGIN}\n{table.render(report)}\n{table.END}\nb\n"


def test_single_rows_are_only_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = stand_in(monkeypatch, tmp_path)
    before = readme.read_text()
    assert bench.main(["many-50"]) == 0
    assert "| many | 257 | 100 ms |" in capsys.readouterr().out
    assert readme.read_text() == before
    assert not (tmp_path / "build").exists()


def test_run_that_fails_prints_what_it_has_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = stand_in(monkeypatch, tmp_path, failure="it did not start")
    before = readme.read_text()
    with pytest.raises(SystemExit) as exit_:
        bench.main([])
    assert exit_.value.code == 1
    printed = capsys.readouterr()
    assert "| many | 257 | 100 ms |" in printed.out
    assert printed.err == "bench: FAILED: it did not start\n"
    assert readme.read_text() == before
    assert not (tmp_path / "build").exists()
