# SPDX-License-Identifier: LGPL-2.1-or-later
"""Loop devices, as the kernel shows them: the file behind a mounted image, and whether dm-verity is used.

A loop device keeps its file as long as the image is mounted, even if the file's name belongs to another file by now.
All containers of a machine see all loop devices, with the paths that the files have in the container that attached
them.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import NamedTuple

from confext_helpers.system import patience

_BLOCK_DEVICES = "/sys/block"
_DELETED = " (deleted)"
# <linux/loop.h>: struct loop_info64 begins with the device and the inode of the file.
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_INFO_SIZE = 232


class Loop(NamedTuple):
    """A loop device.

    Attributes:
        device: the path of the device node.
        file: the path of the backing file.
        deleted: whether the backing file was unlinked, for example by a rename of another file over it.
        inode: the inode number of the backing file, 0 if unknown.
    """

    device: str
    file: str
    deleted: bool
    inode: int = 0

    def may_have(self, directory: str) -> bool:
        """Whether the backing file may be in `directory` of this container; other containers have the same paths."""
        if os.path.dirname(self.file) != directory:
            return False
        if self.deleted or not self.inode:
            return True
        try:
            return os.stat(self.file).st_ino == self.inode
        except OSError:
            return False


def loops(directory: str = _BLOCK_DEVICES) -> list[Loop]:
    """All loop devices with a backing file: sysfs, "loop/backing_file"; loop(4)."""
    backings = {}
    for name in sorted(os.listdir(directory)):
        if name.startswith("loop"):
            try:
                with open(f"{directory}/{name}/loop/backing_file", encoding="utf-8", errors="surrogateescape") as file:
                    backings[name] = file.read().removesuffix("\n")
            except OSError:
                continue
    # For the inode number, the kernel asks the file system of the backing file, which may not answer.
    inodes = patience.numbers((f"/dev/{name}" for name in backings), _backing_inode)
    found = []
    for name, backing in backings.items():
        path, device = backing.removesuffix(_DELETED), f"/dev/{name}"
        found.append(Loop(device, path, path != backing, inodes.get(device, 0)))
    return found


def _backing_inode(device: str) -> int:
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        status = bytearray(_LOOP_INFO_SIZE)
        fcntl.ioctl(fd, _LOOP_GET_STATUS64, status)
    except OSError:
        return 0
    finally:
        os.close(fd)
    (inode,) = struct.unpack_from("Q", status, 8)
    return int(inode)


def is_verity(device: str, directory: str = _BLOCK_DEVICES) -> bool:
    """Whether a dm-verity device uses the loop device or one of its partitions: sysfs, "holders" and "dm/uuid"."""
    name = os.path.basename(device)
    parts = [entry for entry in _listed(f"{directory}/{name}") if entry.startswith(f"{name}p")]
    places = [f"{directory}/{name}/holders", *(f"{directory}/{name}/{part}/holders" for part in parts)]
    for holder in (holder for place in places for holder in _listed(place)):
        try:
            with open(f"{directory}/{holder}/dm/uuid", encoding="utf-8", errors="replace") as file:
                if file.read().startswith("CRYPT-VERITY-"):
                    return True
        except OSError:
            continue
    return False


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
