# SPDX-License-Identifier: LGPL-2.1-or-later
"""Wrappers of system calls that Python lacks, under the kernel's names.

All wrappers are thin and share one error function; swap/plan.py explains how the calls are used. The mount API is
called by number, not through libc, since musl has no wrappers and glibc has them only since 2.36. System call numbers
from 424 on are the same on every architecture that systemd supports, except alpha.
"""

from __future__ import annotations

import ctypes
import os
import struct

AT_FDCWD = -100
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000
CLONE_NEWNS = 0x00020000
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x00000004
MOVE_MOUNT_T_EMPTY_PATH = 0x00000040
MOVE_MOUNT_SET_GROUP = 0x00000100
MOVE_MOUNT_BENEATH = 0x00000200
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008

_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_MOUNT_SETATTR = 442

# struct mount_attr of linux/mount.h: attr_set, attr_clr, propagation, userns_fd. A ctypes.Structure would make Python
# 3.14 load half a megabyte more.
_MOUNT_ATTR = struct.Struct("=4Q")
# <linux/mount.h>
_FSOPEN_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6
_FSMOUNT_CLOEXEC = 1
# <linux/stat.h>: the size of struct statx, and the offset of stx_mnt_id in it.
_STATX_SIZE = 256
_STX_MNT_ID = 0x90
_STATX_MNT_ID_UNIQUE = 0x00004000

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str) -> int:
    """Return `result`; if it is negative, raise OSError for errno, with the name of the call."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """Return a descriptor for the mount at `path`, or with OPEN_TREE_CLONE for a detached copy of it: open_tree(2).

    An empty `path` means the mount of `dirfd`.
    """
    flags |= AT_EMPTY_PATH if not path else 0
    call = _libc.syscall(_SYS_OPEN_TREE, dirfd, path.encode(), ctypes.c_uint(flags | OPEN_TREE_CLOEXEC))
    return _check(call, "open_tree")


def move_mount(from_fd: int, to_fd: int, flags: int) -> None:
    """Attach the mount `from_fd` at the directory `to_fd`; both paths of move_mount(2) are empty."""
    flags |= MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _check(_libc.syscall(_SYS_MOVE_MOUNT, from_fd, b"", to_fd, b"", ctypes.c_uint(flags)), "move_mount")


def fsmount(kind: str, attributes: int) -> int:
    """Return a descriptor for a detached mount of a new file system: fsopen(2), fsconfig(2), fsmount(2).

    Args:
        kind: the file system type, such as "tmpfs".
        attributes: MOUNT_ATTR_* flags of the mount.
    """
    context = _check(_libc.syscall(_SYS_FSOPEN, kind.encode(), ctypes.c_uint(_FSOPEN_CLOEXEC)), "fsopen")
    try:
        _check(_libc.syscall(_SYS_FSCONFIG, context, ctypes.c_uint(_FSCONFIG_CMD_CREATE), None, None, 0), "fsconfig")
        call = _libc.syscall(_SYS_FSMOUNT, context, ctypes.c_uint(_FSMOUNT_CLOEXEC), ctypes.c_uint(attributes))
        return _check(call, "fsmount")
    finally:
        os.close(context)


def mount_setattr(
    dirfd: int, path: str, *, attributes: int = 0, cleared: int = 0, propagation: int = 0, flags: int = 0
) -> None:
    """Change the attributes of a mount: mount_setattr(2).

    Args:
        dirfd: a directory's descriptor, or AT_FDCWD.
        path: the mount, relative to `dirfd`; empty for the mount of `dirfd` itself.
        attributes: MOUNT_ATTR_* flags to set.
        cleared: MOUNT_ATTR_* flags to clear.
        propagation: MS_SHARED, MS_SLAVE or MS_PRIVATE; 0 to keep the propagation.
        flags: AT_RECURSIVE to change all mounts below as well.
    """
    change = _MOUNT_ATTR.pack(attributes, cleared, propagation, 0)
    flags |= AT_EMPTY_PATH if not path else 0
    size = ctypes.c_size_t(len(change))
    call = _libc.syscall(_SYS_MOUNT_SETATTR, dirfd, path.encode(), ctypes.c_uint(flags), change, size)
    _check(call, "mount_setattr")


def umount2(path: str, flags: int) -> None:
    """Unmount the topmost mount at `path`: umount2(2)."""
    _check(_libc.umount2(path.encode(), ctypes.c_int(flags)), "umount2")


def unique_mount_id(path: str) -> int:
    """Return the never reused ID of the mount at `path`: statx(2), STATX_MNT_ID_UNIQUE, Linux 6.8.

    Younger mounts have greater IDs; 0 means unknown.
    """
    result = ctypes.create_string_buffer(_STATX_SIZE)
    _check(_libc.statx(AT_FDCWD, path.encode(), 0, ctypes.c_uint(_STATX_MNT_ID_UNIQUE), result), "statx")
    (mask,) = struct.unpack_from("=I", result, 0)
    (number,) = struct.unpack_from("=Q", result, _STX_MNT_ID)
    return int(number) if mask & _STATX_MNT_ID_UNIQUE else 0


def setns(fd: int, kind: int) -> None:
    """Move this thread into the namespace of the descriptor `fd`: setns(2)."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")
