# SPDX-License-Identifier: LGPL-2.1-or-later
"""File descriptors that are closed when what they are needed for is over."""

from __future__ import annotations

import contextlib
import os


class Descriptors(contextlib.ExitStack):
    """Closes all that was added, in the end or when something fails.

    A function that opens something for its caller calls pop_all() when nothing can fail any more: then it is the
    caller's to close.
    """

    def add(self, fd: int) -> int:
        """Have a descriptor closed, and return it."""
        self.callback(os.close, fd)
        return fd
