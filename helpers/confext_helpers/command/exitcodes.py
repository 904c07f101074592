"""The exit statuses of `unit-confext`, unit-confext(1), "EXIT STATUS"."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What a caller can tell apart."""

    OK = 0  # done, and nothing is wrong
    ERROR = 1  # it could not be done
    USAGE = 2  # the command line is wrong
    REFUSED = 4  # verify: a finding; build: the tree cannot be a confext
