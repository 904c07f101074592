# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tree that an image is built from: what in it cannot be part of a confext, and a copy of the rest.

What is built is never the tree itself but a copy without anything that differs from one machine to the next: owners,
extended attributes, hard links, and times unless they are to be kept. Two checkouts of the same files so become the
same bytes. Until that is an image, nobody else may look into the copy.

systemd mounts confexts with `nodev,nosuid,noexec` and takes nothing but `/etc` from them (systemd-confext(8)), so what
would be lost or would not work there is refused rather than dropped without a word. A device node is worse than
useless: overlayfs takes one with the numbers 0:0 for the removal of a file of the host.
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
    """What can be told to be meant so: `--allow=`."""

    OUTSIDE = "outside"
    EXECUTABLES = "executables"
    SPECIAL_BITS = "special-bits"


class Offence(NamedTuple):
    """Something in a tree that cannot be part of a confext.

    Attributes:
        path: relative to the tree.
        problem: what is wrong, without a full stop.
        hint: what to do about it, as an imperative.
    """

    path: str
    problem: str
    hint: str


class Scan(NamedTuple):
    """A tree as it was found.

    Attributes:
        offences: what is wrong with it.
        left_out: the entries beside `etc/`; they are never in the image.
        files: number of entries below `etc/` that are no directories.
        size: of all regular files below `etc/`, in bytes.
        private: paths of all files and directories in `etc/`, and itself, that not everybody may read.
    """

    offences: list[Offence]
    left_out: list[str]
    files: int
    size: int
    private: list[str]


_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_EXECUTE_BITS = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
# The mode of the merged /etc is that of the topmost layer's, so it is not left to the umask of the one who builds.
_TOP_MODE = 0o755
_PIECE = 1 << 20
_KINDS = {
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}
# These change who may do what and would be lost. Others, such as labels, are the target system's business.
_ATTRIBUTES = {
    "security.capability": ("has file capabilities, which count for nothing in a confext", "take them away: setcap -r"),
    "system.posix_acl_access": ("has an access control list, which an image does not keep", "remove it: setfacl -b"),
    "system.posix_acl_default": ("has a default access control list, which an image does not keep", "setfacl -k it"),
}


def scan(tree: str, allow: Collection[Allow] = ()) -> Scan:
    """Look at everything in the directory `tree`.

    Args:
        tree: its path; `etc/` has to be in it.
        allow: offences that are none.

    Raises:
        ConfextError: it is no directory, or has no `etc/`.
        OSError: something in it cannot be read.
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
        offences = [Offence(name, "is outside etc/, and a confext is nothing else", hint) for name in left_out]
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
    """`top` and everything below it, directories first, in an order that depends on the names alone."""
    waiting = [top]
    while waiting:
        path = waiting.pop()
        status = os.lstat(path)
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            waiting += [os.path.join(path, name) for name in sorted(os.listdir(path), key=os.fsencode, reverse=True)]


def _judge(path: str, status: os.stat_result, allow: Collection[Allow]) -> Iterator[tuple[str, str]]:
    """Problem and hint of everything that is wrong with one entry."""
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
    """Copy `etc/` of a tree that was scanned, with names, modes and contents alone.

    Args:
        tree: the tree.
        target: the directory that is to be made, out of everybody's reach: it gets the modes of the tree.
        most: how many bytes of contents there is room for; None for what is free there. A sparse file may say that it
            has more than any disk.

    Returns:
        When each entry was modified, in nanoseconds since 1970, by its path in the tree.

    Raises:
        ConfextError: a file is something else by now, or there is no room.
        OSError: something cannot be read or written.
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
    # Last, since they may forbid to write to them.
    for directory, mode in reversed(directories):
        os.chmod(directory, mode)
    return times


def _walk_open(top: str) -> Iterator[tuple[str, int, os.stat_result]]:
    """As _walk(), of a tree that somebody may be changing: no link is followed that takes the place of a directory.

    Yields:
        The path from the directory that `top` is in, a descriptor of the directory that it is in, and its status; for
        `top`, which comes first, the descriptor is its own.
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
            # What is in it is not to have more readers than it had there: the mode is that of what was opened.
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
    return ConfextError("the tree is being changed", path=path, hint="build it again when it is at rest")


def _copy_file(name: str, parent: int, copied: str, path: str, most: int) -> int:
    # Not to be led elsewhere or to wait if it was replaced since it was looked at.
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
            left = status.st_size  # No more, should it be growing.
            while left and (piece := reader.read(min(left, _PIECE))):
                writer.write(piece)
                left -= len(piece)
            # The mode of what was read: a file of another one may have come into its place.
            os.fchmod(writer.fileno(), stat.S_IMODE(status.st_mode))
    return status.st_size


def private_files(tree: str) -> list[str]:
    """The paths of all files and directories in a copied tree that not everybody may read."""
    return [os.path.relpath(path, tree) for path, status in _walk(tree) if is_private(status.st_mode)]


def stamp(tree: str, time_ns: int, times: Mapping[str, int] | None = None) -> None:
    """Give everything in a tree its time, and root as its owner if that is possible.

    Args:
        tree: a directory that nobody else writes to.
        time_ns: nanoseconds since 1970, for all that has no time of its own.
        times: those of their own, by the path in the tree.
    """
    # From the leaves up: a change in a directory is one of its time.
    for path, status in reversed(list(_walk(tree))):
        if os.geteuid() == 0:
            os.chown(path, 0, 0, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                os.chmod(path, stat.S_IMODE(status.st_mode))  # chown(2) takes setuid and setgid away.
        own_ns = (times or {}).get(os.path.relpath(path, tree), time_ns)
        os.utime(path, ns=(own_ns, own_ns), follow_symlinks=False)


def digest(tree: str) -> bytes:
    """SHA-256 of the names, kinds, modes and contents of everything in a tree; owners and times do not count."""
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
