# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a real systemd has been promised, nothing is skipped: each way to skip, with the hooks of all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from lab.requirements import VARIABLE

TESTS = Path(__file__).parents[2]
HEAD = "import unittest\nimport pytest\nfrom lab.requirements import need\n"
# Each skips all that is in it.
SKIPS = {
    "mark": "@pytest.mark.skip(reason='R')\ndef test(): pass",
    "condition": "@pytest.mark.skipif(True, reason='R')\ndef test(): pass",
    "module mark": "pytestmark = pytest.mark.skipif(True, reason='R')\ndef test(): pass",
    "inside": "def test(): pytest.skip('R')",
    "exception": "def test(): raise unittest.SkipTest('R')",
    "fixture": "@pytest.fixture\ndef thing(): pytest.skip('R')\ndef test(thing): pass",
    "fixture's end": "@pytest.fixture\ndef thing():\n    yield\n    pytest.skip('R')\ndef test(thing): pass",
    "import": "pytest.importorskip('no_such_module', reason='R')\ndef test(): pass",
    "module": "pytest.skip('R', allow_module_level=True)\ndef test(): pass",
    "parameter": "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.skip(reason='R'))])\n"
    "def test(x): pass",
    "no parameters": "@pytest.mark.parametrize('R', [])\ndef test(R): pass",
    "class": "class TestCase(unittest.TestCase):\n    @unittest.skip('R')\n    def test(self): pass",
    "not run": "@pytest.mark.xfail(run=False, reason='R')\ndef test(): pass",
    "need": "def test(): need('R')",
}


def outcome(place: Path, texts: Iterable[str], *more: str, promised: bool) -> tuple[int, list[str]]:
    """Run pytest over modules in a directory of their own; return its exit status and the lines that it printed."""
    for number, text in enumerate(texts):
        (place / f"test_{number}.py").write_text(HEAD + text + "\n")
    own = (VARIABLE, "PYTEST_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    environment |= {"PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1"} | ({VARIABLE: "1"} if promised else {})
    options = ("-q", "-rA", "-p", "conftest", "-p", "no:cacheprovider", "--continue-on-collection-errors")
    command = [sys.executable, "-m", "pytest", *options, *more, "."]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one process", "two processes"])
def test_a_skip_fails_where_nothing_may_be_skipped(tmp_path: Path, processes: tuple[str, ...]) -> None:
    if processes:
        pytest.importorskip("xdist")
    status, said = outcome(tmp_path, SKIPS.values(), *processes, promised=True)
    assert status == 1
    told = {line.split("::")[0].split()[1] for line in said if line.startswith(("FAILED", "ERROR"))}
    assert [way for number, way in enumerate(SKIPS) if f"test_{number}.py" not in told] == []
    assert "skipped" not in said[-1] and "xfailed" not in said[-1]


def test_elsewhere_it_is_a_skip(tmp_path: Path) -> None:
    status, said = outcome(tmp_path, [SKIPS["mark"], SKIPS["need"], SKIPS["module"]], promised=False)
    assert (status, said[-1].partition(" in ")[0]) == (0, "3 skipped")


def test_what_was_run_counts(tmp_path: Path) -> None:
    texts = ["def test(): pass", "@pytest.mark.xfail\ndef test_expected(): raise AssertionError"]
    status, said = outcome(tmp_path, texts, promised=True)
    assert (status, said[-1].partition(" in ")[0]) == (0, "1 passed, 1 xfailed")
