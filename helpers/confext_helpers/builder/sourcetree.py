# SPDX-License-Identifier: LGPL-2.1-or-later
"""The source tree of an image: find everything in it that cannot be part of a confext, and copy the rest.

Images are built not from the tree itself but from a copy, without anything that differs between machines: owners,
extended attributes, hard links, and timestamps unless they are to be kept. So two checkouts of the same files become
the same bytes. No other user may read the copy.

systemd mounts confexts with `nodev,nosuid,noexec` and uses only their `/etc` (systemd-confext(8)). So anything that
would be lost or would not work there is refused instead of being dropped silently. A device node can do harm: overlayfs
interprets a character device 0:0 as the removal of a file of the host.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from confext_helpers.errors import ConfextError
from confext_helpers.image.contents import is_private


class Allow(StrEnum):
    """The kinds of offences that `--allow=` accepts."""

    OUTSIDE = "outside"
    EXECUTABLES = "executables"
    SPECIAL_BITS = "special-bits"


class Offence(NamedTuple):
    """A file in a tree that cannot be part of a confext.

    Attributes:
        path: the path, relative to the tree.
        problem: the problem, without a full stop.
        hint: how to fix the problem, as an imperative.
    """

    path: str
    problem: str
    hint: str


class Scan(NamedTuple):
    """The result of scanning a tree.

    Attributes:
        offences: everything that cannot be part of a confext.
        left_out: the entries beside `etc/`, which are never in the image.
        files: the number of entries below `etc/` that are not directories.
        size: the total size of all regular files below `etc/`, in bytes.
        private: the paths of `etc/` and everything in it that is not world-readable.
    """

    offences: list[Offence]
    left_out: list[str]
    files: int
    size: int
    private: list[str]


_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_EXECUTE_BITS = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
# The merged /etc has the mode of the topmost layer's etc/, so that mode must not depend on the umask of the builder.
_TOP_MODE = 0o755
_PIECE = 1 << 20
_KINDS = {
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}
# These attributes change permissions, and would be lost. Others, such as labels, are set by the target system.
_ATTRIBUTES = {
    "security.capability": ("has file capabilities, which count for nothing in a confext", "take them away: setcap -r"),
    "system.posix_acl_access": ("has an access control list, which an image does not keep", "remove it: setfacl -b"),
    "system.posix_acl_default": ("has a default access control list, which an image does not keep", "setfacl -k it"),
}


def scan(tree: str, allow: Collection[Allow] = ()) -> Scan:
    """Scan the directory `tree`.

    Args:
        tree: the path of a directory that contains `etc/`.
        allow: kinds of offences to accept.

    Raises:
        ConfextError: `tree` is not a directory, or has no `etc/`.
        OSError: a file in it cannot be read.
    """
    if not os.path.isdir(tree):
        raise ConfextError("there is no such directory", path=tree, hint="name a directory that has etc/ in it")
    top = os.path.join(tree, "etc")
    if not os.path.isdir(top) or os.path.islink(top):
        raise ConfextError("the tree has no directory etc/ in it", path=tree, hint="put the files below etc/")
    offences = []
    left_out = sorted(set(os.listdir(tree)) - {"etc"}, key=os.fsencode)
    if Allow.OUTSIDE not in allow:
        hint = "move it below etc/, or build with --allow=outside, which leaves it out"
        offences = [Offence(name, "is outside etc/, and a confext has nothing but etc/", hint) for name in left_out]
    files = size = 0
    secrets = []
    for path, status in _walk(top):
        if is_private(status.st_mode):
            secrets.append(os.path.relpath(path, tree))
        for problem, hint in _judge(path, status, allow):
            offences.append(Offence(os.path.relpath(path, tree), problem, hint))
        files += not stat.S_ISDIR(status.st_mode)
        size += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return Scan(offences, left_out, files, size, secrets)


def _walk(top: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield `top` and everything below it, each directory before its contents, in an order given by the names alone."""
    waiting = [top]
    while waiting:
        path = waiting.pop()
        status = os.lstat(path)
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            waiting += [os.path.join(path, name) for name in sorted(os.listdir(path), key=os.fsencode, reverse=True)]


def _judge(path: str, status: os.stat_result, allow: Collection[Allow]) -> Iterator[tuple[str, str]]:
    """Yield problem and hint of each offence of one entry."""
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFLNK:
        return
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        yield f"is {_KINDS.get(kind, 'of an unknown kind')}", "remove it: files, directories and links can be built"
        return
    if status.st_mode & _SPECIAL_BITS and Allow.SPECIAL_BITS not in allow:
        bits = f"mode {stat.S_IMODE(status.st_mode):04o}"
        yield f"is setuid, setgid or sticky ({bits})", "chmod ug-s,-t it, or build with --allow=special-bits"
    if kind == stat.S_IFREG and status.st_mode & _EXECUTE_BITS and Allow.EXECUTABLES not in allow:
        yield "is executable, and confexts are mounted noexec", "chmod -x it, or build with --allow=executables"
    for attribute, told in _ATTRIBUTES.items():
        if _has_attribute(path, attribute):
            yield told


def _has_attribute(path: str, attribute: str) -> bool:
    try:
        os.getxattr(path, attribute, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise
    return True


def copy(tree: str, target: str, most: int | None = None) -> dict[str, int]:
    """Copy `etc/` of a scanned tree, with only names, modes and contents.

    Args:
        tree: the tree.
        target: the directory to create. It must be out of reach of other users, as the copy gets the modes of the tree.
        most: the maximum size of all contents, in bytes; None for the free space there. A sparse file may claim to be
            larger than any disk.

    Returns:
        The mtime of each entry, in nanoseconds since 1970, by its path in the tree.

    Raises:
        ConfextError: the tree is being changed, or there is not enough space.
        OSError: a file cannot be read or written.
    """
    os.mkdir(target, 0o700)
    if most is None:
        free = os.statvfs(target)
        most = free.f_bavail * free.f_frsize
    directories = [(target, _TOP_MODE)]
    times = {}
    for name, parent, status in _walk_open(os.path.join(tree, "etc")):
        copied = os.path.join(target, name)
        mode = stat.S_IMODE(status.st_mode)
        base = os.path.basename(name)
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(base, dir_fd=parent), copied)
        elif stat.S_ISDIR(status.st_mode):
            os.mkdir(copied, 0o700)
            directories.append((copied, mode if name != "etc" else _TOP_MODE))
        else:
            most -= _copy_file(base, parent, copied, os.path.join(tree, name), most)
        times[name] = status.st_mtime_ns
    # Set the modes of directories last, since they may forbid writing.
    for directory, mode in reversed(directories):
        os.chmod(directory, mode)
    return times


def _walk_open(top: str) -> Iterator[tuple[str, int, os.stat_result]]:
    """Like _walk(), but safe if the tree is being changed: never follow a symlink that replaces a directory.

    Yields:
        For each entry, its path relative to the parent of `top`, a descriptor of its directory, and its status. For
        `top`, which comes first, the descriptor is that of `top` itself.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    opened = [(os.open(top, flags), os.path.basename(top))]
    pending = [sorted(os.listdir(opened[0][0]), key=os.fsencode, reverse=True)]
    try:
        yield opened[0][1], opened[0][0], os.fstat(opened[0][0])
        while opened:
            parent, path = opened[-1]
            if not pending[-1]:
                pending.pop()
                os.close(opened.pop()[0])
                continue
            name = pending[-1].pop()
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                yield f"{path}/{name}", parent, status
                continue
            # Use the status of the opened directory. With the mode of another one, more users could read its contents.
            opened.append((_open_directory(name, parent, f"{os.path.dirname(top)}/{path}/{name}"), f"{path}/{name}"))
            pending.append(sorted(os.listdir(opened[-1][0]), key=os.fsencode, reverse=True))
            yield f"{path}/{name}", parent, os.fstat(opened[-1][0])
    finally:
        for directory, _ in opened:
            os.close(directory)


def _open_directory(name: str, parent: int, path: str) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _changed(path) from None
        raise


def _changed(path: str) -> ConfextError:
    return ConfextError("the tree is being changed", path=path, hint="build again when nobody changes it")


def _copy_file(name: str, parent: int, copied: str, path: str, most: int) -> int:
    # The file may have been replaced since it was scanned: do not follow a symlink, and do not block on a FIFO.
    try:
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        raise (_changed(path) if error.errno == errno.ELOOP else error) from None
    with open(source, "rb") as reader:
        status = os.fstat(source)
        if not stat.S_ISREG(status.st_mode):
            raise _changed(path)
        if status.st_size > most:
            problem = f"there is no room to build with this file, which has {status.st_size} bytes"
            raise ConfextError(problem, path=path, hint="take it away, or build where there is more room")
        with open(os.open(copied, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as writer:
            left = status.st_size  # Stop there even if the file is growing.
            while left and (piece := reader.read(min(left, _PIECE))):
                writer.write(piece)
                left -= len(piece)
            # Use the mode of the opened file: the path may belong to another file with another mode by now.
            os.fchmod(writer.fileno(), stat.S_IMODE(status.st_mode))
    return status.st_size


def private_files(tree: str) -> list[str]:
    """The paths of all files and directories in a copied tree that are not world-readable."""
    return [os.path.relpath(path, tree) for path, status in _walk(tree) if is_private(status.st_mode)]


def stamp(tree: str, time_ns: int, times: Mapping[str, int] | None = None) -> None:
    """Set the timestamps of everything in a tree, and, if run as root, make root its owner.

    Args:
        tree: a directory that nobody else writes to.
        time_ns: the timestamp of all entries not in `times`, in nanoseconds since 1970.
        times: the timestamps of individual entries, by their path in the tree.
    """
    # Contents before their directory, so that a directory's timestamp is set last.
    for path, status in reversed(list(_walk(tree))):
        if os.geteuid() == 0:
            os.chown(path, 0, 0, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                os.chmod(path, stat.S_IMODE(status.st_mode))  # chown(2) clears setuid and setgid.
        own_ns = (times or {}).get(os.path.relpath(path, tree), time_ns)
        os.utime(path, ns=(own_ns, own_ns), follow_symlinks=False)


def digest(tree: str) -> bytes:
    """SHA-256 of the names, types, modes and contents of everything in a tree; owners and times do not count."""
    total = hashlib.sha256()
    for path, status in _walk(tree):
        content = b""
        if stat.S_ISLNK(status.st_mode):
            content = os.fsencode(os.readlink(path))
        elif stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
        fields = (os.fsencode(os.path.relpath(path, tree)), b"%o" % status.st_mode, content)
        for field in fields:
            total.update(len(field).to_bytes(8, "big") + field)
    return total.digest()
