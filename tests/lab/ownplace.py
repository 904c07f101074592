# SPDX-License-Identifier: LGPL-2.1-or-later
"""A directory that nobody but the tester can change the way to.

pytest's own are below /tmp, into which anybody can write.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.requirements import need

_CANDIDATES = (Path(__file__).parents[2], Path("/run"), Path.home())


def _is_own(directory: Path) -> bool:
    ways = [path.stat() for path in (directory.resolve(), *directory.resolve().parents)]
    shared = stat.S_IWGRP | stat.S_IWOTH
    owners = (0, os.geteuid())
    return os.access(directory, os.W_OK) and all(one.st_uid in owners and not one.st_mode & shared for one in ways)


@pytest.fixture
def own_path() -> Iterator[Path]:
    """An empty directory, gone after the test."""
    parent = next((path for path in _CANDIDATES if path.is_dir() and _is_own(path)), None)
    need(None if parent else "no directory of one's own")
    with contextlib.ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=parent, prefix=".unit-confext-test-")))
        path.chmod(0o755)
        yield path
