# SPDX-License-Identifier: LGPL-2.1-or-later
"""Loop devices: which file an image that runs comes from, and whether dm-verity is on it; asked of the kernel.

A loop device keeps its file for as long as the image is mounted, also if another file has its name by now. All
containers of a machine see all of them, with paths as they are in that container.
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
        device: its path.
        file: what it is attached to.
        deleted: whether that has no name any more, because another file took its place.
        inode: its inode; 0 if that is not known.
    """

    device: str
    file: str
    deleted: bool
    inode: int = 0

    def may_have(self, directory: str) -> bool:
        """Whether its file is in `directory` as it is seen from here; containers have files of the same path."""
        if os.path.dirname(self.file) != directory:
            return False
        if self.deleted or not self.inode:
            return True
        try:
            return os.stat(self.file).st_ino == self.inode
        except OSError:
            return False


def loops(directory: str = _BLOCK_DEVICES) -> list[Loop]:
    """The loop devices that are attached to files: sysfs, "loop/backing_file"; loop(4)."""
    backings = {}
    for name in sorted(os.listdir(directory)):
        if name.startswith("loop"):
            try:
                with open(f"{directory}/{name}/loop/backing_file", encoding="utf-8", errors="surrogateescape") as file:
                    backings[name] = file.read().removesuffix("\n")
            except OSError:
                continue
    # To tell the inode, the kernel asks the file system that the file is on, which may not answer.
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
    """Whether dm-verity sits on the loop device, or on a partition of it: sysfs, "holders" and "dm/uuid"."""
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
