# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine may lack for a test: then the test is skipped, or fails where a real systemd has been promised.

With $UNIT_CONFEXT_REQUIRE_REAL in the environment, green means that everything was run: whatever is skipped, for what
reason and by what means ever, counts as failed. A test that was seen to fail as expected (xfail) was run.
"""

from __future__ import annotations

import os

import pytest

VARIABLE = "UNIT_CONFEXT_REQUIRE_REAL"
# How pytest says of an expected failure that it was not even tried.
_NOT_RUN = "[NOTRUN]"


def need(missing: str | None) -> None:
    """Skip the test if something is missing; fail it instead if $UNIT_CONFEXT_REQUIRE_REAL is set."""
    if missing is None:
        return
    if os.environ.get(VARIABLE):
        pytest.fail(f"this machine cannot do it: {missing}")
    pytest.skip(f"this machine cannot do it: {missing}")


def keep(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a failure of the report of a test, or of a whole module, that was skipped where nothing may be."""
    if not report.skipped or not os.environ.get(VARIABLE):
        return
    expected = getattr(report, "wasxfail", None)
    if expected is not None and not expected.startswith(_NOT_RUN):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(expected or report.longrepr)
    if expected is not None:
        del report.wasxfail
    report.outcome = "failed"
    # With the name, or pytest-xdist takes two modules that are skipped for the same reason for one.
    report.longrepr = f"nothing may be skipped here (${VARIABLE} is set), but {report.nodeid} was: {reason}"
