# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files of a single layer: a directory, or an image, which is not mounted for this.

Images are read with the tools of their file system (image/contents.py); if these fail, the files are not known.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Protocol

from confext_helpers.errors import ConfextError
from confext_helpers.image import contents, dissect, partitiontypes, policy
from confext_helpers.image.contents import Contents, ContentsError
from confext_helpers.paths import ETC, RELEASES
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.system import regular
from confext_helpers.view.runningstack import Running

# Bytes. Any user may have created the files of a directory, of any size.
CONTENT_MAX = 1 << 26


class Files(Protocol):
    """The files of a layer, by paths like `/etc/…`; symlinks are not followed."""

    def has(self, path: str) -> bool:
        """Whether there is anything at `path`."""

    def files(self) -> Iterator[str]:
        """The paths of all files but directories, release files first; some may be missing."""

    def is_same(self, path: str, status: os.stat_result) -> bool:
        """Whether the file at `path` has this inode number and these times; the device number is ignored."""

    def content(self, path: str) -> bytes | None:
        """The content of the regular file at `path`; None if it cannot be read."""


class TreeFiles:
    """A directory tree.

    Args:
        root: the directory that contains `etc`.
    """

    def __init__(self, root: str) -> None:
        self._root = root

    def _find(self, path: str) -> os.stat_result | None:
        """The status of the file. Symlinks in `path` are not followed, since overlayfs does not follow them either."""
        parts = [part for part in path.split("/") if part]
        here = self._root
        try:
            for part in parts[:-1]:
                here = f"{here}/{part}"
                if not stat.S_ISDIR(os.lstat(here).st_mode):
                    return None
            return os.lstat(f"{here}/{parts[-1]}")
        except OSError:
            return None

    def has(self, path: str) -> bool:
        """See Files."""
        return self._find(path) is not None

    def files(self) -> Iterator[str]:
        """See Files."""
        start = len(self._root)
        for place in (RELEASES, ETC):
            for directory, _, names in os.walk(self._root + place):
                yield from (f"{directory[start:]}/{name}" for name in sorted(names))

    def is_same(self, path: str, status: os.stat_result) -> bool:
        """See Files."""
        found = self._find(path)
        return found is not None and _key(found) == _key(status)

    def content(self, path: str) -> bytes | None:
        """See Files."""
        found = self._find(path)
        if found is None or not stat.S_ISREG(found.st_mode):
            return None
        try:
            content = regular.read(self._root + path, CONTENT_MAX + 1)
        except OSError:
            return None
        return content if len(content) <= CONTENT_MAX else None


def _key(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class ImageFiles:
    """An image.

    Args:
        path: the image, a file or a block device.

    Raises:
        ConfextError: the file is no image.
        OSError: the image cannot be read.
        ContentsError: the file system in the image cannot be read.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with dissect.open_image(path, policy.CONFEXT_POLICY, partitiontypes.native_architecture()) as image:
            entries = self._open(image).entries
        self._paths = {entry.path for entry in entries}
        self._files = [entry.path for entry in entries if entry.kind != "directory"]

    @staticmethod
    def _open(image: dissect.Image) -> Contents:
        if image.data is None or image.file_system is None:
            raise ConfextError("there is no file system in it", path=image.path)
        return contents.open_contents(image.data, image.file_system.kind)

    def has(self, path: str) -> bool:
        """See Files."""
        return path in self._paths

    def files(self) -> Iterator[str]:
        """See Files."""
        return iter(sorted(self._files, key=lambda path: not path.startswith(f"{RELEASES}/")))

    def is_same(self, path: str, status: os.stat_result) -> bool:
        """See Files. Always False: the inode numbers of an image are known only while it is mounted."""
        return False

    def content(self, path: str) -> bytes | None:
        """See Files."""
        if path not in self._paths:
            return None
        try:
            with dissect.open_image(self._path, policy.CONFEXT_POLICY, partitiontypes.native_architecture()) as image:
                return self._open(image).read(path)
        except (ConfextError, OSError, ContentsError):
            return None


def open_host(properties: ServiceProperties) -> Files | None:
    """The files below all layers of a service; None if they cannot be read."""
    if properties.root is not None:
        return TreeFiles(properties.root)
    try:
        return ImageFiles(properties.root_image)
    except (ConfextError, OSError, ContentsError):
        return None


def open_layer(layer: Running) -> Files | None:
    """The files of `layer` as it runs, or would run; None if they cannot be read."""
    if not layer.source:
        return None
    if not layer.image:
        return TreeFiles(layer.source)
    try:
        return ImageFiles(layer.source)
    except (ConfextError, OSError, ContentsError):
        return None
