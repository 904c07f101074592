# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the files that differ between the old `/etc` of a service and its new one.

Both trees are mounted, the old one in the service and the new one in the stage, so the comparison finds what the
service will see, not what images claim to contain. Both trees mostly consist of the host's own `/etc`. So the host's is
looked at as well, and what both have from the host is skipped, whole directories at a time. A file in an overlay has
the inode number of its layer's file. A directory does not, see _is_host_s_directory().

Every file of a new image is read to its end. dm-verity and the kernel's file systems notice damage when they read a
block: if nobody reads it now, the service will. In a file of a directory layer there is no such damage to find, and the
file may be anybody's and of any size, so it is read only to compare it with another one. Holes are not read (lseek(2),
SEEK_DATA), and a path longer than the kernel accepts is not listed.

The old tree may not show yet what changed in the host's `/etc` since it was stacked, even if a directory in it looks
like the host's. So if anything changed there, no directory is skipped.

A directory in both trees counts as changed if mode or owner differ. Not compared are what a sandbox mounts below
`/etc`, extended attributes, and the images in the host's `/etc/systemd/system`, which no service reads.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from typing import NamedTuple

from confext_helpers.system.descriptors import Descriptors
from confext_helpers.system.filewords import allow_descriptors

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_CHUNK = 1 << 15
_PATH_MAX = 4096
# Directories below /etc that may hold layers.
_UNIT_DIRECTORY = "systemd/system/"
_SUFFIX = ".confext.d"


class Files:
    """A count of files, and the paths of the first of them, relative to `/etc`.

    Args:
        limit: how many paths to keep; None for all.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.paths: list[str] = []
        self.count = 0
        self._limit = limit

    def add(self, path: str) -> None:
        """Count a file, and keep its path unless that is too long or one too many."""
        self.count += 1
        if (self._limit is None or self.count <= self._limit) and len(path) < _PATH_MAX:
            self.paths.append(path)


class Difference(NamedTuple):
    """The files that differ, in the order of the tree.

    Attributes:
        added: files that are in the new tree only.
        changed: files with other content, target, type, mode or owner, and directories with other mode or owner.
        removed: files that are in the old tree only.
    """

    added: Files
    changed: Files
    removed: Files

    def __bool__(self) -> bool:
        return any(files.count for files in self)


class UnreadableError(Exception):
    """A file of the new tree cannot be read.

    Args:
        path: relative to `/etc`.
        device: the device number of the file, see service/releases.py.
        error: the error of the system call.
    """

    def __init__(self, path: str, device: int, error: OSError) -> None:
        super().__init__(f"{path}: {error.strerror}")
        self.path = path
        self.device = device
        self.error = error


def _key(status: os.stat_result) -> tuple[int, ...]:
    """What identifies a file, without what an overlay makes up: device numbers, and inode numbers of directories."""
    number = status.st_nlink if stat.S_ISDIR(status.st_mode) else status.st_ino
    return number, status.st_ctime_ns, status.st_mtime_ns, status.st_size, status.st_mode


def _is_host_s_directory(status: os.stat_result) -> bool:
    """Whether a directory that looks like the host's has no files of a layer in it.

    A directory that several layers of an overlay have looks like the topmost one, but has a single link (ovl_getattr()
    in the kernel's fs/overlayfs/inode.c). On btrfs, and if the host's `/etc` is an overlay itself, every directory has
    a single link; there, the change time tells: an image cannot have the same nanoseconds by chance.
    """
    return status.st_nlink > 1 or status.st_ctime_ns % 1_000_000_000 != 0


def _names(directory: int | None) -> list[str]:
    return os.listdir(directory) if directory is not None else []


def _names_if_readable(directory: int | None) -> list[str]:
    # An error in the old tree must not keep the service from getting the new one.
    try:
        return _names(directory)
    except OSError:
        return []


def _stat(name: str, directory: int | None) -> os.stat_result | None:
    if directory is None:
        return None
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _stat_if_readable(name: str, directory: int | None) -> os.stat_result | None:
    try:
        return _stat(name, directory)
    except OSError:
        return None


class _Directory(NamedTuple):
    """A directory that is compared.

    Attributes:
        path: ends in a slash, or is empty; cut off if too long.
        old: descriptor in the old tree; None if it is no directory there.
        new: likewise in the new tree.
        base: likewise in the base.
        names: the names that are still to be compared, last one first.
        old_device: device number in the old tree.
        new_device: device number in the new tree.
    """

    path: str
    old: int | None
    new: int | None
    base: int | None
    names: list[str]
    old_device: int
    new_device: int


class _Walk:
    """One comparison: see compare()."""

    def __init__(
        self, layers: Collection[int], directories: Collection[int], same_base: bool, limit: int | None
    ) -> None:
        self.found = Difference(Files(limit), Files(limit), Files(limit))
        self._layers = layers
        self._directories = directories
        self._same_base = same_base
        self._old_buffer = bytearray(_CHUNK)
        self._new_buffer = bytearray(_CHUNK)

    def trees(self, old: int, new: int, base: int | None) -> None:
        """Compare the trees with these descriptors."""
        # A list instead of recursion: others than root may nest directories as deep as they like.
        way = [self._list("", os.dup(old), os.dup(new), None if base is None else os.dup(base))]
        try:
            while way:
                here = way[-1]
                while here.names:
                    inner = self._name(here, here.names.pop())
                    if inner is not None:
                        way.append(inner)
                        allow_descriptors(len(way))
                        break
                else:
                    _close(*way.pop()[1:4])
        finally:
            for directory in way:
                _close(*directory[1:4])

    def _list(self, path: str, old: int | None, new: int | None, base: int | None) -> _Directory:
        try:
            names = sorted({*_names(new), *_names_if_readable(old)}, reverse=True)
        except OSError as error:
            raise UnreadableError(path.rstrip("/"), -1, error) from error
        devices = [os.fstat(fd).st_dev if fd is not None else -1 for fd in (old, new)]
        return _Directory(path[:_PATH_MAX], old, new, base, names, *devices)

    def _name(self, here: _Directory, name: str) -> _Directory | None:
        """Compare what has this name in both trees; return a directory to compare next, or None."""
        path, old, new = here.path + name, here.old, here.new
        if here.path == _UNIT_DIRECTORY and name.endswith(_SUFFIX):
            return None
        before = _stat_if_readable(name, old)
        try:
            after = _stat(name, new)
        except OSError as error:
            raise UnreadableError(path, -1, error) from error
        host = _stat_if_readable(name, here.base)
        if before is not None and after is not None and self._is_same(before, after, host):
            return None
        in_old = before is not None and stat.S_ISDIR(before.st_mode)
        in_new = after is not None and stat.S_ISDIR(after.st_mode)
        # Another device is a mount of the sandbox.
        if in_old and before is not None and before.st_dev != here.old_device:
            return None
        if in_new and after is not None and after.st_dev != here.new_device:
            return None
        if in_old and in_new:
            self.attributes(path, before, after)
        self._file(path, name, None if in_old else before, None if in_new else after, old, new)
        if in_old or in_new:
            return self._descend(path, name, old if in_old else None, new if in_new else None, here.base)
        return None

    def attributes(self, path: str, before: os.stat_result | None, after: os.stat_result | None) -> None:
        """Compare two directories themselves."""
        if before is not None and after is not None and _attributes(before) != _attributes(after):
            self.found.changed.add(path)

    def _is_same(self, before: os.stat_result, after: os.stat_result, host: os.stat_result | None) -> bool:
        if os.path.samestat(before, after):
            return True
        if host is None or not _key(before) == _key(after) == _key(host):
            return False
        if stat.S_ISDIR(after.st_mode):
            return self._same_base and _is_host_s_directory(after)
        return after.st_dev not in self._layers

    def _descend(self, path: str, name: str, old: int | None, new: int | None, base: int | None) -> _Directory:
        trees: list[int | None] = []
        with Descriptors() as opened:
            for parent in (old, new, base):
                try:
                    trees.append(None if parent is None else opened.add(os.open(name, _DIRECTORY, dir_fd=parent)))
                except OSError as error:
                    if parent == new:
                        raise UnreadableError(path, -1, error) from error
                    trees.append(None)
            found = self._list(path + "/", *trees)
            opened.pop_all()
        return found

    def _file(
        self,
        path: str,
        name: str,
        before: os.stat_result | None,
        after: os.stat_result | None,
        old: int | None,
        new: int | None,
    ) -> None:
        if after is None:
            if before is not None:
                self.found.removed.add(path)
            return
        same = before is not None and _is_alike(before, after)
        if stat.S_ISREG(after.st_mode):
            is_tree_s = after.st_dev in self._directories
            try:
                if before is not None and same and is_tree_s and _key(before) == _key(after):
                    return  # The very same file: overlays do not copy it.
                if same or not is_tree_s:
                    same = self._read(name, old if same else None, new)
            except OSError as error:
                raise UnreadableError(path, after.st_dev, error) from error
        elif same and stat.S_ISLNK(after.st_mode):
            same = os.readlink(name, dir_fd=old) == os.readlink(name, dir_fd=new)
        if before is None:
            self.found.added.add(path)
        elif not same:
            self.found.changed.add(path)

    def _read(self, name: str, old: int | None, new: int | None) -> bool:
        """Read the new file to its end; return whether the old one, unless None, has the same content."""
        fd = os.open(name, _FILE, dir_fd=new)
        other = -1
        try:
            if old is not None:
                try:
                    other = os.open(name, _FILE, dir_fd=old)
                except OSError:
                    old = None
            same = old is not None
            size = os.fstat(fd).st_size
            position = 0
            for start, end in _data(fd, 0, size):
                same = same and self._has_zeros(other, position, start)
                position = start
                while count := os.preadv(fd, [self._new_buffer], position):
                    same = same and _has(other, position, memoryview(self._new_buffer)[:count], self._old_buffer)
                    position += count
                    if position >= end:
                        break
            return same and self._has_zeros(other, position, size)
        finally:
            os.close(fd)
            if other >= 0:
                os.close(other)

    def _has_zeros(self, fd: int, start: int, end: int) -> bool:
        """Whether a part of a file has only zeros, like a hole."""
        try:
            for position, until in _data(fd, start, end):
                while position < until and (count := os.preadv(fd, [self._old_buffer], position)):
                    if any(memoryview(self._old_buffer)[: min(count, end - position)]):
                        return False
                    position += count
        except OSError:
            return False
        return True


def _close(*descriptors: int | None) -> None:
    for fd in descriptors:
        if fd is not None:
            os.close(fd)


def _data(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a file between two offsets that are no holes (lseek(2)); all of it if that is not supported."""
    if end - start <= _CHUNK:
        if start < end:
            yield start, end
        return
    while start < end:
        try:
            begin = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: no data follows.
                yield start, end
            return
        if begin >= end:
            return
        start = min(os.lseek(fd, begin, os.SEEK_HOLE), end)
        yield begin, start


def _attributes(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mode, status.st_uid, status.st_gid


def _is_alike(before: os.stat_result, after: os.stat_result) -> bool:
    return (*_attributes(before), before.st_rdev, before.st_size) == (
        *_attributes(after), after.st_rdev, after.st_size,
    )  # fmt: skip


def _has(fd: int, position: int, wanted: memoryview, buffer: bytearray) -> bool:
    """Whether the bytes of `fd` from `position` on are `wanted`."""
    done = 0
    while done < len(wanted):
        try:
            count = os.preadv(fd, [memoryview(buffer)[: len(wanted) - done]], position + done)
        except OSError:
            return False
        if not count or memoryview(buffer)[:count] != wanted[done : done + count]:
            return False
        done += count
    return True


def compare(
    old: int,
    new: int,
    base: int | None,
    *,
    layers: Collection[int],
    directories: Collection[int] = (),
    same_base: bool = True,
    limit: int | None = None,
) -> Difference:
    """Compare two `/etc` trees, and read every file of the new one that comes from an image.

    Args:
        old: descriptor of the service's `/etc`.
        new: descriptor of the stage's `/etc`.
        base: descriptor of the `/etc` below all layers; None if it cannot be opened.
        layers: the device numbers that files of layers have in the new tree, see service/releases.py.
        directories: those device numbers that belong to directory layers.
        same_base: whether the base is unchanged since the old tree was stacked.
        limit: how many paths of each kind to keep; None for all.

    Raises:
        UnreadableError: a file of the new tree cannot be read.
        OSError: a directory cannot be read.
    """
    walk = _Walk(layers, directories, same_base, limit)
    walk.attributes(".", os.fstat(old), os.fstat(new))
    walk.trees(old, new, base)
    return walk.found
