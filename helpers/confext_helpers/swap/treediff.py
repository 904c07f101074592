# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which files differ between the `/etc` that a service has and the one that it is about to get.

Both are there, the old one in the service and the new one in the stage, so the answer is not derived from what images
are said to contain: it is what the service will see. Both mostly consist of the host's own `/etc`, which is therefore
looked at as well: what is the host's in both is passed over, whole directories at a time. A file in an overlay has the
inode number that it has in its layer. A directory has not, see _is_host_s_directory().

Every file of a new image is read to its end here. dm-verity, and the kernel's file systems, notice damage when they
read a block; if nobody reads it now, the service will. Nothing of that kind can be found in the file of a directory
layer, which may be anybody's and of any size. It is read only to be compared with another one. No hole of a file is
read at all (lseek(2), SEEK_DATA), and no path is listed that is longer than the kernel takes.

The old tree may not show yet what happened in the host's `/etc` since it was stacked, not even where a directory in it
looks like the host's. So where anything did, no directory is passed over.

A directory counts if it is in both with another mode or owner. What a sandbox mounts below `/etc` does not count, nor
do extended attributes, nor the images themselves that lie in the host's `/etc/systemd/system`: no service reads them.
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
# Where layers may lie below the host's /etc.
_UNIT_DIRECTORY = "systemd/system/"
_SUFFIX = ".confext.d"


class Files:
    """Paths relative to `/etc`: as many as are wanted, and how many there are.

    Args:
        limit: how many paths to keep; None for all.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.paths: list[str] = []
        self.count = 0
        self._limit = limit

    def add(self, path: str) -> None:
        """Count one more; a path that is too long is not kept."""
        self.count += 1
        if (self._limit is None or self.count <= self._limit) and len(path) < _PATH_MAX:
            self.paths.append(path)


class Difference(NamedTuple):
    """What differs; in the order of the tree.

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
        error: why not.
    """

    def __init__(self, path: str, device: int, error: OSError) -> None:
        super().__init__(f"{path}: {error.strerror}")
        self.path = path
        self.device = device
        self.error = error


def _key(status: os.stat_result) -> tuple[int, ...]:
    """What tells a file from any other, without what an overlay makes up: devices, and numbers of directories."""
    number = status.st_nlink if stat.S_ISDIR(status.st_mode) else status.st_ino
    return number, status.st_ctime_ns, status.st_mtime_ns, status.st_size, status.st_mode


def _is_host_s_directory(status: os.stat_result) -> bool:
    """Whether a directory that looks like the host's has nothing from a layer in it.

    One that several layers of an overlay have looks like the topmost of them, but has one link only (ovl_getattr() in
    the kernel's fs/overlayfs/inode.c). On btrfs, and where the host's `/etc` is an overlay itself, all have one; but
    then a change time to the nanosecond is not one that an image could have by chance.
    """
    return status.st_nlink > 1 or status.st_ctime_ns % 1_000_000_000 != 0


def _names(directory: int | None) -> list[str]:
    return os.listdir(directory) if directory is not None else []


def _names_if_readable(directory: int | None) -> list[str]:
    # What is wrong with the old tree must not keep the service from a better one.
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
    """One directory, in the trees where it is one: None for the others.

    Attributes:
        path: it ends in a slash, or is empty; cut off where it is too long.
        old: descriptor in the old tree.
        new: descriptor in the new one.
        base: descriptor in the base.
        names: what is still to be compared, from the end.
        old_device: device number of the old one.
        new_device: device number of the new one.
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
        # Not by recursion: others than root may nest directories as deep as they like.
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
        """Compare what has this name in all trees; return it if it is a directory to go into."""
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
        # What is mounted there is the sandbox's.
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
                    return  # The very same file: it is not copied into an overlay.
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
        """Read the new file to its end; return whether the old one has the same content, if that is to be read."""
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
        """Whether a part of a file has nothing but zeros, as a hole has."""
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
    """The parts of a file between two offsets that are no holes, lseek(2); all of it where that cannot be told."""
    if end - start <= _CHUNK:
        if start < end:
            yield start, end
        return
    while start < end:
        try:
            begin = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # There is no data any more.
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
        old: descriptor of the service's.
        new: descriptor of the stage's.
        base: descriptor of the one that lies below all layers; None if it cannot be had.
        layers: the device numbers that files of layers have in the new one, see service/releases.py.
        directories: those of them that are of directory layers.
        same_base: whether the base is as it was when the old one was stacked.
        limit: how many paths of each kind to keep.

    Raises:
        UnreadableError: a file of the new tree cannot be read.
        OSError: a directory cannot be read.
    """
    walk = _Walk(layers, directories, same_base, limit)
    walk.attributes(".", os.fstat(old), os.fstat(new))
    walk.trees(old, new, base)
    return walk.found
