# SPDX-License-Identifier: LGPL-2.1-or-later
"""Describe files in the output format of find(1), and make digests of the descriptions.

helpers/restack-if-changed.in has find(1) describe the same files in the same way. So it can tell that nothing changed
without starting Python. Only digests are kept, never the descriptions: users other than root may create any number of
files, and must not make this process use any amount of memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from confext_helpers.paths import sidecars

if TYPE_CHECKING:
    from hashlib import _Hash


_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_SECOND = 1_000_000_000
_LINES = 512
_DEEP = 64


def sha256() -> _Hash:
    """A new SHA-256 object."""
    # Importing hashlib loads OpenSSL, which takes longer than everything else here. The first two modules are
    # hashlib's own fallbacks.
    for name in ("_sha2", "_sha256", "hashlib"):
        with contextlib.suppress(ImportError):
            made: _Hash = __import__(name).sha256()
            return made
    raise AssertionError


class Files:
    """Collects descriptions of files.

    Attributes:
        paths: the files described. A path starts with `/.` if the change time counts, and with `/./.` if everything
            below the path counts, too.
        newest: the latest change time that counts, in nanoseconds since the epoch.
        certain: whether all files could be examined, and none can be changed by users other than root.
        watchable: whether find(1) would see the same files.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.newest = 0
        self.certain = True
        self.watchable = True
        self._all = sha256()
        self._part = sha256()

    def digest(self) -> str:
        """The digest of the descriptions of all files in `paths`."""
        return self._all.hexdigest()

    def part(self) -> str:
        """The digest of the descriptions of the files added since the last call of part()."""
        digest = self._part.hexdigest()
        self._part = sha256()
        return digest

    def _take(self, words: str) -> None:
        data = os.fsencode(words)
        self._all.update(data)
        self._part.update(data)

    def _add(self, path: str, *, time: bool) -> os.stat_result | None:
        self.paths.append(path)
        try:
            status = os.stat(path)
        except OSError:
            # A dangling symlink is described itself, as by find -H.
            try:
                status = os.lstat(path)
            except OSError:
                return None
        self._take(f"{_words(status, time=time)}{path}\0")
        return status

    def add_place(self, path: str) -> None:
        """Record the path of a setting: whether a file exists there, and which one (device, inode, mode)."""
        self._add(path, time=False)

    def add(self, path: str) -> os.stat_result | None:
        """Record a file with its change time."""
        status = self._add(f"/.{path}", time=True)
        if status is not None:
            self.newest = max(self.newest, status.st_ctime_ns)
        return status

    def add_layer(self, path: str) -> None:
        """Record a layer: an image with its sidecars, a directory, or a `.v/` directory, each with all contents."""
        status = self.add(path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            if path.endswith(".v"):
                self._add_versions(path)
            else:
                self.add_tree(path, layer=True)
            return
        if status is not None and stat.S_ISBLK(status.st_mode):
            self.certain = False  # Writing to a block device does not change its change time.
        for file in sidecars(path):
            self.add(file)

    def _add_versions(self, path: str) -> None:
        try:
            names = sorted(os.listdir(path))
        except OSError:
            self.certain = False
            return
        for name in names:
            version = f"{path}/{name}"
            status = self.add(version)
            if status is not None and stat.S_ISDIR(status.st_mode):
                self.add_tree(version, layer=True)

    def add_tree(self, path: str, *, layer: bool) -> None:
        """Record a directory with all contents, as overlayfs sees it: without the mounts in it.

        Args:
            path: the directory.
            layer: whether a file that users other than root can write makes the result uncertain.
        """
        self.paths.append(f"/./.{path}")
        try:
            directory = self._open(path)
        except OSError:
            self.certain = False
            return
        status = os.fstat(directory)
        self._take(f"{_words(status, time=True)}0 {path.rpartition('/')[2]}\0")
        walk = _Walk(directory, layer=layer)
        for lines in walk.lines():
            self._take(lines)
        self.newest = max(self.newest, status.st_ctime_ns, walk.newest)
        self.certain = self.certain and walk.certain and not (layer and _is_loose(status))

    def _open(self, path: str) -> int:
        if not has_mounts_below(path):
            return os.open(path, _DIRECTORY)
        # Do not enter the mounts: their storage may not answer, and they hide files that overlayfs sees.
        self.watchable = False
        from confext_helpers.system import syscalls  # Rarely needed, and slow to import.

        try:
            copy = syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE)
        except PermissionError:
            return os.open(path, _DIRECTORY)  # Not root.
        try:
            return os.open(".", _DIRECTORY, dir_fd=copy)
        finally:
            os.close(copy)


def _words(status: os.stat_result, *, time: bool) -> str:
    which = f"{status.st_dev} {status.st_ino} {status.st_mode & 0o7777:o} "
    if not time:
        return which
    # find(1) prints ten digits after the point.
    seconds, rest = divmod(status.st_ctime_ns, _SECOND)
    return f"{which}{seconds}.{rest:09}0 "


def _is_loose(status: os.stat_result) -> bool:
    """Whether users other than root can write a file; ACLs that allow it show in the group bits of the mode."""
    return status.st_uid not in (0, os.geteuid()) or (
        not stat.S_ISLNK(status.st_mode) and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) != 0
    )


class _Walk:
    """Walks everything below a directory in find(1)'s order: readdir order, each directory followed by its contents.

    The walk keeps a descriptor open for each directory on the current path, so a path may be longer than PATH_MAX.

    Args:
        directory: the descriptor of the directory; closed at the end of the walk.
        layer: see Files.add_tree().
    """

    def __init__(self, directory: int, *, layer: bool) -> None:
        self.newest = 0
        self.certain = True
        self._layer = layer
        self._open: list[int] = [directory]

    def lines(self) -> Iterator[str]:
        """Yield the descriptions, those of up to _LINES files at a time."""
        lines: list[str] = []
        for entry, status, depth in self.entries():
            lines.append(f"{_words(status, time=True)}{depth} {entry.name}\0")
            if len(lines) >= _LINES:
                yield "".join(lines)
                lines.clear()
        yield "".join(lines)

    def entries(self) -> Iterator[tuple[os.DirEntry[str], os.stat_result, int]]:
        """Yield each file and directory with its status and its depth."""
        found = [self._scan(self._open[-1])]
        try:
            while found:
                directory = self._open[-1]
                for entry in found[-1]:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except OSError:
                        self.certain = False
                        continue
                    self.newest = max(self.newest, status.st_ctime_ns)
                    if self._layer and _is_loose(status):
                        self.certain = False
                    yield entry, status, len(found)
                    if status.st_mode & 0o170000 == 0o040000 and self._descend(entry.name, directory):
                        found.append(self._scan(self._open[-1]))
                        break
                else:
                    found.pop()
                    os.close(self._open.pop())
        finally:
            while self._open:
                os.close(self._open.pop())

    def has_writer(self) -> bool:
        """Whether any file below is open for writing, or whether that is unknown for any file."""
        return any(
            stat.S_ISREG(status.st_mode) and _has_writer(entry.name, self._open[-1])
            for entry, status, _ in self.entries()
        )

    def _scan(self, directory: int) -> Iterator[os.DirEntry[str]]:
        try:
            return os.scandir(directory)
        except OSError:
            self.certain = False
            return iter(())

    def _descend(self, name: str, directory: int) -> bool:
        try:
            inner = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        except OSError:
            # The contents of an unreadable directory are left out.
            self.certain = False
            return False
        self._open.append(inner)
        allow_descriptors(len(self._open))
        return True


def allow_descriptors(depth: int) -> None:
    """Raise the limit on file descriptors to the maximum, once directories are open down to a depth of _DEEP."""
    if depth == _DEEP:
        import resource  # Needed only for very deep trees.

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def has_writer(trees: Iterable[str]) -> bool:
    """Whether any file in these directories is open for writing, or whether that is unknown for any file."""
    import signal

    # If another process opens a file for writing while we hold a lease on it, the kernel sends us SIGIO, which would
    # end this process.
    old = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        return any(_Walk(os.open(tree, _DIRECTORY), layer=True).has_writer() for tree in trees)
    finally:
        signal.signal(signal.SIGIO, old)


def _has_writer(name: str, directory: int) -> bool:
    """Whether a regular file is open for writing, or whether that is unknown.

    The kernel grants a read lease only if nobody has the file open for writing: fcntl(2), "Leases".
    """
    try:
        fd = os.open(name, _FILE, dir_fd=directory)
    except OSError:
        return True
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return True
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False
    except OSError:
        return True
    finally:
        os.close(fd)


def has_mounts_below(path: str) -> bool:
    """Whether there is a mount below the directory `path`: proc_pid_mountinfo(5)."""
    real = os.fsencode(os.path.realpath(path))
    for byte in b"\\", b" ", b"\t", b"\n":
        real = real.replace(byte, b"\\%03o" % ord(byte))
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            mounts = file.read()
    except OSError:
        return False
    inside = real.rstrip(b"/") + b"/"
    return b" " + inside in mounts and any(
        line.split(b" ", 5)[4].startswith(inside) for line in mounts.splitlines()
    )  # fmt: skip
