# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check that nobody but root can change what a service gets as its configuration.

The check covers the file itself and, for a symlink, the whole path to its target: a user who can replace any directory
or symlink on that path decides what the path leads to.
"""

from __future__ import annotations

import posix as os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confext_generator.complaints import Code
    from confext_generator.tree import Tree


class Problem:
    """How users other than root could change a file: a complaint code, and the details for its message."""

    __slots__ = ("code", "details")

    def __init__(self, code: Code, *details: str) -> None:
        self.code = code
        self.details = details

    def __str__(self) -> str:
        from confext_generator.complaints import say  # Most runs have no complaints.

        return say(self.code, *self.details)


class Access:
    """Checks files by owner and mode, and paths by each directory and symlink on them; results are cached."""

    __slots__ = ("_directories", "_groups", "_owners", "_places", "_tree", "_ways")

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        # Root, and the user who runs the generator, who is not root only in builds and tests.
        self._owners = (0, os.geteuid())
        self._groups = (0, os.getegid())
        # Directory, as written, to where it leads and what is wrong with the path.
        self._ways: dict[bytes, tuple[bytes, Problem | None]] = {}
        # By path with all symlinks resolved: what is wrong there, and whether others can create files there.
        self._places: dict[bytes, Problem | None] = {}
        self._directories: dict[bytes, bool] = {}

    def problem(self, status: os.stat_result, path: bytes) -> Problem | None:
        """Return how others can write the file with this `status`, None if they cannot.

        `path` has all symlinks resolved.
        """
        mode = status.st_mode
        if status.st_uid not in self._owners:
            return Problem("other-owner", str(status.st_uid))
        if mode & stat.S_IWOTH:
            return Problem("everybody-writes")
        if mode & stat.S_IWGRP:
            # Block devices are 0660 root:disk, and group disk can write every disk anyway.
            if status.st_gid not in self._groups and not stat.S_ISBLK(mode):
                return Problem("group-writes", str(status.st_gid))
            if self._tree.has_acl(path):
                return Problem("acl-writes")
        return None

    def follow(self, path: bytes) -> tuple[bytes, os.stat_result | None, Problem | None]:
        """Return where `path` leads, the status of the file there, and how others could make `path` lead elsewhere.

        The status is None if nothing exists there (yet); the problem is None if others cannot redirect the path. Raises
        OSError for a loop of symlinks.
        """
        parent, _, name = path.rpartition(b"/")
        if name not in (b"", b".", b".."):
            # Hundreds of symlinks may lead into one directory, and most targets are no symlinks: cache the directory.
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
        """Return the status of the file at `place`, and how others could replace that file."""
        if self._tree.is_hidden(place):
            return None, Problem("way-hidden")
        parent = place.rpartition(b"/")[0] or b"/"
        status = self._status(place)
        if status is not None and stat.S_ISLNK(status.st_mode) and status.st_uid not in self._owners:
            from confext_generator.report import quoted  # The hook needs this module, and hardly ever that.

            return status, Problem("way-other-owner", quoted(place), str(status.st_uid))
        if self._is_shared(parent):
            from confext_generator.report import quoted

            return status, Problem("way-others-write", quoted(parent))
        return status, None

    def _status(self, place: bytes) -> os.stat_result | None:
        try:
            return self._tree.lstat(place)
        except OSError:
            return None

    def _is_shared(self, path: bytes) -> bool:
        """Return whether others can create files in the directory at `path`.

        A sticky directory counts as shared, too. Others cannot replace a file of root's there, but only as long as the
        file exists: such directories are cleaned (systemd-tmpfiles(8)), and then anybody can take the name.
        """
        known = self._directories.get(path)
        if known is None:
            status = self._status(path)
            # A missing directory is not shared: the last existing directory on the path is checked on its own.
            known = self._directories[path] = status is not None and bool(self.problem(status, path))
        return known
