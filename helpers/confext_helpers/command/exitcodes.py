# SPDX-License-Identifier: LGPL-2.1-or-later
"""The exit statuses of `unit-confext`, unit-confext(1), "EXIT STATUS"."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The results that a caller can tell apart."""

    OK = 0  # done, and nothing is wrong
    ERROR = 1  # the verb failed
    USAGE = 2  # the command line is wrong
    DIFFERS = 3  # status: what runs, is loaded and is on disk differ; diff: a reload would change something
    REFUSED = 4  # verify: a finding; build: the tree cannot be a confext; diff --check: the reload would be refused
    RELOAD_FAILED = 5  # status: a service has its /etc, but its own last reload failed
