# SPDX-License-Identifier: LGPL-2.1-or-later
"""`make demo` does what it says, in at most 40 lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab import machine as lab_machine
from lab.requirements import need

CHECKOUT = Path(__file__).parents[2]
LINES_MAX = 40


@pytest.mark.real
def test_demo() -> None:
    need(lab_machine.missing_capability())
    done = subprocess.run(
        [sys.executable, "-m", "lab.demo"], cwd=CHECKOUT / "tests", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) <= LINES_MAX
    assert lines[-1].startswith("All as said, ")
