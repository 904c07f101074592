# SPDX-License-Identifier: LGPL-2.1-or-later
"""An image that is in memory only, to be read as one in a file is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from confext_helpers.image.bytesource import Source


@contextmanager
def source(raw: bytes) -> Iterator[Source]:
    fd = os.memfd_create("image")
    try:
        os.write(fd, raw)
        yield Source(fd, 0, len(raw))
    finally:
        os.close(fd)
