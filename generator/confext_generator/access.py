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
    from confext_generator.complaints import Code
    from confext_generator.tree import Tree


class Problem:
    """How others than root could change something: a code, and what its message has blanks for."""

    __slots__ = ("code", "details")

    def __init__(self, code: Code, *details: str) -> None:
        self.code = code
        self.details = details

    def __str__(self) -> str:
        from confext_generator.complaints import say  # Most runs have nothing to say.

        return say(self.code, *self.details)


class Access:
    """Judges files by owner and mode, and ways by the directories and links on them, each of these once."""

    __slots__ = ("_directories", "_groups", "_owners", "_places", "_tree", "_ways")

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        # Besides root whoever runs this, which is somebody else only in a build or a test.
        self._owners = (0, os.geteuid())
        self._groups = (0, os.getegid())
        # As they are written: where they lead, and what is wrong with the way.
        self._ways: dict[bytes, tuple[bytes, Problem | None]] = {}
        # Free of links: what is wrong with them; whether others can put files into them.
        self._places: dict[bytes, Problem | None] = {}
        self._directories: dict[bytes, bool] = {}

    def problem(self, status: os.stat_result, path: bytes) -> Problem | None:
        """Return how others can write the file with this `status`, None if they cannot; `path` is free of links."""
        mode = status.st_mode
        if status.st_uid not in self._owners:
            return Problem("other-owner", str(status.st_uid))
        if mode & stat.S_IWOTH:
            return Problem("everybody-writes")
        if mode & stat.S_IWGRP:
            # Block devices are 0660 root:disk; that group can write every disk anyhow.
            if status.st_gid not in self._groups and not stat.S_ISBLK(mode):
                return Problem("group-writes", str(status.st_gid))
            if self._tree.has_acl(path):
                return Problem("acl-writes")
        return None

    def follow(self, path: bytes) -> tuple[bytes, os.stat_result | None, Problem | None]:
        """Return where `path` leads, the status of what is there, and how others could have it lead elsewhere.

        The status is None if nothing is there (yet), the last if others cannot. Raises OSError (a loop of links).
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

    def _walk(self, path: bytes) -> tuple[bytes, Problem | None]:
        passed: list[bytes] = []
        end = self._tree.chase(path, passed)
        for place in passed:
            if place not in self._places:
                self._places[place] = self._judge(place)[1]
            problem = self._places[place]
            if problem:
                return end, problem
        return end, None

    def _judge(self, place: bytes) -> tuple[os.stat_result | None, Problem | None]:
        """Return the status of what is at `place` and how others could make it something else."""
        if self._tree.is_hidden(place):
            return None, Problem("way-hidden")
        parent = place.rpartition(b"/")[0] or b"/"
        status = self._status(place)
        if status is not None and stat.S_ISLNK(status.st_mode) and status.st_uid not in self._owners:
            return status, Problem("way-other-owner", quoted(place), str(status.st_uid))
        if self._is_shared(parent):
            return status, Problem("way-others-write", quoted(parent))
        return status, None

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
