# SPDX-License-Identifier: LGPL-2.1-or-later
"""Choose where to build an image, and put the result in place, safely even if other users can write to the directory.

Root may build an image in a directory of another user. That user can at any moment rename a file in there and put a
symlink in its place; a chmod(2) of the image could then hit any file of the system. So images are never built there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat

from confext_generator.access import Access
from confext_generator.tree import Tree
from confext_helpers.errors import ConfextError

_PIECE = 1 << 20


def place(output: str, *, anywhere: bool) -> str:
    """The directory to build in: that of the output, so that a rename suffices, unless others can replace files there.

    Building accesses files by path, so others could redirect root to any file of the system.

    Args:
        output: the directory of the result.
        anywhere: whether another directory is acceptable, since the result is a file that can be copied.

    Raises:
        ConfextError: there is no safe directory.
    """
    found = os.path.realpath(output)
    if _is_ours(found):
        return found
    if not anywhere:
        hint = "choose a directory that only you can change, with -o"
        raise ConfextError("other users could replace files in here during the build", path=found, hint=hint)
    elsewhere = os.path.realpath(os.environ.get("TMPDIR", "/var/tmp"))
    if _is_ours(elsewhere):
        return elsewhere
    hint = "set $TMPDIR to a directory that only you can change"
    raise ConfextError("other users could replace files in here during the build", path=elsewhere, hint=hint)


def _is_ours(directory: str) -> bool:
    """Whether no other user can replace the files that this user creates in a directory, or the directory itself.

    Args:
        directory: the path of the directory, with all symlinks resolved.
    """
    judge = Access(Tree())
    while True:
        status = os.lstat(directory)
        # In a sticky directory, only the owner of a file can rename or remove the file.
        sticky = status.st_uid in (0, os.geteuid()) and status.st_mode & stat.S_ISVTX
        if judge.problem(status, os.fsencode(directory)) and not sticky:
            return False
        if directory == "/":
            return True
        directory = os.path.dirname(directory)


def deliver(image: str, output: str, mode: int, *, force: bool) -> int:
    """Copy an image to its destination, atomically, whoever may write to that directory; return its size.

    In that directory, files are accessed by name only in ways in which the directory's owner could access them, too.

    Args:
        image: the path of the image that was built.
        output: the path of the destination.
        mode: the mode of the destination.
        force: whether to replace an existing file.

    Raises:
        OSError: the destination cannot be written, or exists already.
    """
    name = os.path.basename(output)
    hidden = f".unit-confext-build-{os.urandom(8).hex()}"
    directory = os.open(os.path.dirname(output) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(image, "rb") as reader:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(hidden, flags, 0o600, dir_fd=directory), "wb") as writer:
                try:
                    shutil.copyfileobj(reader, writer, _PIECE)
                    writer.flush()
                    os.fchmod(writer.fileno(), mode)
                    os.fsync(writer.fileno())
                    if force:
                        os.rename(hidden, name, src_dir_fd=directory, dst_dir_fd=directory)
                    else:
                        # link(2) fails if the destination exists by now.
                        os.link(f"/proc/self/fd/{writer.fileno()}", name, dst_dir_fd=directory)
                    return os.fstat(writer.fileno()).st_size
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(hidden, dir_fd=directory)
    finally:
        os.close(directory)
