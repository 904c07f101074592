# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which tests one process runs, where several share them (pytest-xdist, `-n`): a module is never divided.

Its machines are booted once, and those of two systems have images of the same names. A virtual machine serves all
modules of its directory. What takes longest begins first, or one process would be at it alone in the end.
"""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadScopeScheduling

from lab import rootfs

LONGEST = ("tests/real/test_atomic.py", *(f"tests/vm {suite}" for suite in rootfs.SUITES))


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives out modules instead of tests."""

    def _split_scope(self, nodeid: str) -> str:
        module, _, test = nodeid.partition("::")
        if not module.startswith("tests/vm/"):
            return module
        return f"tests/vm {next((suite for suite in rootfs.SUITES if suite in test), '')}"

    def _assign_work_unit(self, node: Any) -> None:
        for scope in LONGEST:
            if scope in self.workqueue:
                self.workqueue.move_to_end(scope, last=False)
                break
        super()._assign_work_unit(node)
