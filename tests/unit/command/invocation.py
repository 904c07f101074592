# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command, run within the test: its exit status and what it printed."""

from __future__ import annotations

import pytest

from confext_helpers.command import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main.main([*arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err
