"""What a machine may lack for a test: then the test is skipped, or fails where a real systemd has been promised."""

from __future__ import annotations

import os

import pytest


def need(missing: str | None) -> None:
    """Skip the test if something is missing; fail it instead if $UNIT_CONFEXT_REQUIRE_REAL is set."""
    if missing is None:
        return
    if os.environ.get("UNIT_CONFEXT_REQUIRE_REAL"):
        pytest.fail(f"this machine cannot do it: {missing}")
    pytest.skip(f"this machine cannot do it: {missing}")
