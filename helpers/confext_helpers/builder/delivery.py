# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where an image is built, and how it comes into its place, if others than the one who builds can write there.

Root may build an image for somebody, in a directory of his. He can rename what is in it at any moment, and put a link
in its place; a chmod(2) of what was built would then be one of any file of the system. So nothing is built there.
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
    """The directory to build in: that of the output, so that a rename does, unless others could exchange things there.

    All that is done while building goes by paths, and root would be led wherever they like.

    Args:
        output: the directory that the result is going to be in.
        anywhere: whether another one will do, since the result is a file that can be copied.

    Raises:
        ConfextError: there is none.
    """
    found = os.path.realpath(output)
    if _is_ours(found):
        return found
    if not anywhere:
        hint = "choose a place that nobody else can change with -o"
        raise ConfextError("others could exchange the directory while it is built", path=found, hint=hint)
    elsewhere = os.path.realpath(os.environ.get("TMPDIR", "/var/tmp"))
    if _is_ours(elsewhere):
        return elsewhere
    raise ConfextError("others could exchange what is built there", path=elsewhere, hint="set $TMPDIR to another place")


def _is_ours(directory: str) -> bool:
    """Whether nobody else can put something in the place of what this user makes in a directory, or of that itself.

    Args:
        directory: its path, free of links.
    """
    judge = Access(Tree())
    while True:
        status = os.lstat(directory)
        # In a sticky directory, only owners can rename or remove what is there.
        sticky = status.st_uid in (0, os.geteuid()) and status.st_mode & stat.S_ISVTX
        if judge.problem(status, os.fsencode(directory)) and not sticky:
            return False
        if directory == "/":
            return True
        directory = os.path.dirname(directory)


def deliver(image: str, output: str, mode: int, *, force: bool) -> int:
    """Put a copy of an image into its place with one rename, whoever may write to that directory; return its size.

    There, nothing is done to a file by its name but what its owner could do as well.

    Args:
        image: what was built.
        output: where it is going to be.
        mode: that it gets.
        force: whether to replace what is there.

    Raises:
        OSError: it cannot be written, or is there already.
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
                        # Fails if it came into being meanwhile.
                        os.link(f"/proc/self/fd/{writer.fileno()}", name, dst_dir_fd=directory)
                    return os.fstat(writer.fileno()).st_size
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(hidden, dir_fd=directory)
    finally:
        os.close(directory)
