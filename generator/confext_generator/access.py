"""Who can change what a service will get as its configuration: root and nobody else."""

from __future__ import annotations

import posix as os
import stat

HINT = "chown root:root, chmod go-w"


class Access:
    """Judges files by owner and mode."""

    __slots__ = ("_groups", "_owners")

    def __init__(self) -> None:
        # Besides root whoever runs this, which is somebody else only in a build or a test.
        self._owners = (0, os.geteuid())
        self._groups = (0, os.getegid())

    def problem(self, status: os.stat_result) -> str:
        """Return how others can write the file with this `status`, empty if they cannot."""
        mode = status.st_mode
        if self.is_foreign(status):
            return f"belongs to user {status.st_uid}"
        if mode & stat.S_IWOTH:
            return "can be written by everybody"
        # Block devices are 0660 root:disk; that group can write every disk anyhow.
        if mode & stat.S_IWGRP and status.st_gid not in self._groups and not stat.S_ISBLK(mode):
            return f"can be written by group {status.st_gid}"
        return ""

    def is_foreign(self, status: os.stat_result) -> bool:
        """Return whether the file belongs to somebody else, who can remove it from a directory like /tmp."""
        return status.st_uid not in self._owners

    def can_replace(self, directory: os.stat_result) -> bool:
        """Return whether others can replace the files in the directory with this status."""
        return not directory.st_mode & stat.S_ISVTX and bool(self.problem(directory))
