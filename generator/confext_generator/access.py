# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who can change what a service will get as its configuration: root and nobody else.

That is the file itself and, where a link leads to it, the whole way there: who can put something else in the place of
a directory or of a link on the way has the say over what lies at its end.
"""

from __future__ import annotations

import posix as os
import stat

from confext_generator.report import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confext_generator.tree import Tree

HINT = "chown root:root, chmod go-w"

# A problem with a way that no change of modes would mend.
HIDDEN = "leads into '/tmp', and systemd's generators have a /tmp of their own"


def hint(problem: str) -> str:
    """Return what to do about `problem`."""
    return "put it elsewhere" if problem == HIDDEN else HINT


class Access:
    """Judges files by owner and mode, and ways by the directories and links on them, each of these once."""

    __slots__ = ("_directories", "_groups", "_owners", "_places", "_tree", "_ways")

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        # Besides root whoever runs this, which is somebody else only in a build or a test.
        self._owners = (0, os.geteuid())
        self._groups = (0, os.getegid())
        # As they are written: where they lead, and what is wrong with the way.
        self._ways: dict[bytes, tuple[bytes, str]] = {}
        # Free of links: what is wrong with them; whether others can put files into them.
        self._places: dict[bytes, str] = {}
        self._directories: dict[bytes, bool] = {}

    def problem(self, status: os.stat_result, path: bytes) -> str:
        """Return how others can write the file with this `status`, empty if they cannot; `path` is free of links."""
        mode = status.st_mode
        if status.st_uid not in self._owners:
            return f"belongs to user {status.st_uid}"
        if mode & stat.S_IWOTH:
            return "can be written by everybody"
        if mode & stat.S_IWGRP:
            # Block devices are 0660 root:disk; that group can write every disk anyhow.
            if status.st_gid not in self._groups and not stat.S_ISBLK(mode):
                return f"can be written by group {status.st_gid}"
            if self._tree.has_acl(path):
                return "has an access control list that lets others write it"
        return ""

    def follow(self, path: bytes) -> tuple[bytes, os.stat_result | None, str]:
        """Return where `path` leads, the status of what is there, and how others could have it lead elsewhere.

        The status is None if nothing is there (yet), the last is empty if others cannot. Raises OSError (a loop of
        links).
        """
        parent, _, name = path.rpartition(b"/")
        if name not in (b"", b".", b".."):
            # Hundreds of links lead into the same directory, and mostly to what is no link itself.
            way = self._ways.get(parent)
            if way is None:
                way = self._ways[parent] = self._walk(parent)
            end, problem = way
            if problem:
                return end, None, problem
            end = end.rstrip(b"/") + b"/" + name
            status, problem = self._judge(end)
            if status is None or not stat.S_ISLNK(status.st_mode):
                return end, status, problem
        end, problem = self._walk(path)
        return end, self._status(end), problem

    def _walk(self, path: bytes) -> tuple[bytes, str]:
        passed: list[bytes] = []
        end = self._tree.chase(path, passed)
        for place in passed:
            problem = self._places.get(place)
            if problem is None:
                problem = self._places[place] = self._judge(place)[1]
            if problem:
                return end, problem
        return end, ""

    def _judge(self, place: bytes) -> tuple[os.stat_result | None, str]:
        """Return the status of what is at `place` and how others could make it something else."""
        if self._tree.is_hidden(place):
            return None, HIDDEN
        parent = place.rpartition(b"/")[0] or b"/"
        status = self._status(place)
        if status is not None and stat.S_ISLNK(status.st_mode) and status.st_uid not in self._owners:
            return status, f"leads to {quoted(place)}, a link that belongs to user {status.st_uid}"
        if self._is_shared(parent):
            return status, f"leads into {quoted(parent)}, which others than root can write"
        return status, ""

    def _status(self, place: bytes) -> os.stat_result | None:
        try:
            return self._tree.lstat(place)
        except OSError:
            return None

    def _is_shared(self, path: bytes) -> bool:
        """Return whether others can put files into the directory.

        That goes for a sticky directory as well, although others cannot replace what is root's in there: it is only so
        for as long as that is there. Such directories are cleaned (systemd-tmpfiles(8)), and then anybody can have the
        name.
        """
        known = self._directories.get(path)
        if known is None:
            status = self._status(path)
            # Where it is not there, what counts is the directory where the way ends.
            known = self._directories[path] = status is not None and bool(self.problem(status, path))
        return known
