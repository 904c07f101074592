# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where several processes share the tests, each module is run by one of them, and one virtual machine by one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("xdist")

TESTS = Path(__file__).parents[2]
MODULES = ("real/test_one.py", "real/test_two.py", "vm/test_three.py", "vm/test_four.py")
TEXT = """
import os
import pytest
@pytest.mark.parametrize("suite", ["trixie", "forky"])
@pytest.mark.parametrize("number", range(4))
def test(suite, number, request):
    with open("ran", "a") as file:
        print(request.node.nodeid, os.environ["PYTEST_XDIST_WORKER"], file=file)
"""


def test_a_module_is_not_divided(tmp_path: Path) -> None:
    for name in MODULES:
        path = tmp_path / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TEXT)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1"}
    options = ("-q", "-p", "conftest", "-p", "no:cacheprovider", "--rootdir", ".", "-n", "3", "tests")
    command = [sys.executable, "-m", "pytest", *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    workers: dict[str, set[str]] = {}
    ran = (tmp_path / "ran").read_text().splitlines()
    for line in ran:
        test, _, worker = line.rpartition(" ")
        module = test.partition("::")[0]
        suite = "forky" if "forky" in test else "trixie"
        workers.setdefault(suite if "/vm/" in module else module, set()).add(worker)
    assert len(ran) == len(MODULES) * 8
    assert {key: len(who) for key, who in workers.items()} == dict.fromkeys(
        ("tests/real/test_one.py", "tests/real/test_two.py", "trixie", "forky"), 1
    )
