# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find images that every user can read and that contain files that not every user may read.

Only images that other users can reach and read are opened, each in a child process with a short timeout. Images on
storage that does not answer, or that need a tool that is not installed, are skipped.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable

from confext_helpers.errors import ConfextError
from confext_helpers.image import contents, dissect, partitiontypes, policy
from confext_helpers.image.contents import ContentsError
from confext_helpers.image.naming import resolve
from confext_helpers.system import patience

IMAGE_SEC = 2.0
ALL_SEC = 5.0


def exposed(paths: Iterable[str], *, root: str = "") -> dict[str, str]:
    """For each image that gives private files away: the path of one such file in it.

    Args:
        paths: images, or directories `NAME.raw.v/`.
        root: the root directory of the system they are on; empty for the running system.
    """
    found = {}
    end = time.monotonic() + ALL_SEC
    for path in dict.fromkeys(paths):
        left = min(IMAGE_SEC, end - time.monotonic())
        if left <= 0:
            break
        try:
            private = patience.attempt(lambda path=path: _first_private(root + path), left)  # type: ignore[misc]
        except (OSError, ConfextError, ContentsError):
            continue
        if private:
            found[path] = private
    return found


def _first_private(path: str) -> str:
    """A file in the image that not every user may read; empty if there is none, or if others cannot read the image."""
    file = os.path.realpath(resolve(path))
    if not os.stat(file).st_mode & stat.S_IROTH:
        return ""
    directory = os.path.dirname(file)
    while directory != "/":
        if not os.stat(directory).st_mode & stat.S_IXOTH:
            return ""
        directory = os.path.dirname(directory)
    with dissect.open_image(file, policy.CONFEXT_POLICY, partitiontypes.native_architecture()) as image:
        if image.data is None or image.file_system is None:
            return ""
        return next(contents.open_contents(image.data, image.file_system.kind).private(), "")
