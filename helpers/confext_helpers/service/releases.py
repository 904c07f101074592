# SPDX-License-Identifier: LGPL-2.1-or-later
"""Release files: which layers an `/etc` shows, and whether this is certain.

Every confext has a file `/etc/extension-release.d/extension-release.NAME`, or systemd would refuse to mount it
(systemd-confext(8)). But a layer may also have such files with the names of other layers, and hide those of the layers
below. A layer cannot change the device number of its files: overlayfs gives the files of each lower file system a
number of their own (Documentation/filesystems/overlayfs.rst, "Inode properties"). So names are certain only if there is
one name for each layer, each on a device of its own: the topmost layer has its own name and no other, so it cannot hide
the name of the next layer, and so on. A directory layer may share its device with others; there, the inode must be the
same.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Sequence
from typing import NamedTuple

from confext_helpers.image.naming import base_name, is_lax, layer_name, resolve
from confext_helpers.paths import ETC, RELEASE_PREFIX, RELEASES
from confext_helpers.system import patience

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME = RELEASES.removeprefix(f"{ETC}/")
_LOWER = re.compile(r"/unit-extensions/(\d+)/")


class Release(NamedTuple):
    """A release file that is seen in an `/etc`.

    Attributes:
        name: what follows `extension-release.`.
        device: the device number of the file, which in an overlay is that of the layer.
        key: identifies the file: inode, size, times.
        lax: whether the file is valid for an image of any name.
    """

    name: str
    device: int
    key: tuple[int, ...]
    lax: bool = False


class Layered(NamedTuple):
    """A layer that an `/etc` may have.

    Attributes:
        path: as in ExtensionImages= or ExtensionDirectories=.
        file: the image or directory that systemd picks for the path.
        image: whether the layer is an image, not a directory.
    """

    path: str
    file: str
    image: bool


def lower_numbers(super_options: str) -> set[int]:
    """The numbers of an overlay's layers, from its options in mountinfo; see failure.numbers()."""
    return {int(number) for number in _LOWER.findall(super_options)}


def of_etc(etc: int) -> list[Release]:
    """The release files in the `/etc` with the descriptor `etc`, sorted by name."""
    found = []
    try:
        directory = os.open(_NAME, _DIRECTORY, dir_fd=etc)
    except OSError:
        return []
    try:
        for entry in sorted(os.listdir(directory)):
            full = entry.removeprefix(RELEASE_PREFIX)
            if full and full != entry:
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(entry, dir_fd=directory, follow_symlinks=False)
                    key = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                    lax = stat.S_ISREG(status.st_mode) and is_lax(f"/proc/self/fd/{directory}/{entry}")
                    found.append(Release(full, status.st_dev, key, lax))
    finally:
        os.close(directory)
    return found


def of_directory(etc: str) -> list[Release]:
    """The release files in an `/etc` at a path; none if there is no such directory."""
    try:
        fd = os.open(etc, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return of_etc(fd)
    finally:
        os.close(fd)


def not_the_host_s(seen: Sequence[Release], below: Sequence[Release]) -> list[Release]:
    """The release files seen in a stack, without the host's own: the host may have confexts for the whole system.

    Through an overlay, a file of the host has the same inode and times.
    """
    theirs = {(one.name, one.key) for one in below}
    return [one for one in seen if (one.name, one.key) not in theirs]


def match(paths: Sequence[str], seen: Sequence[Release]) -> dict[str, Release]:
    """Match release files with layers by name: first the full name, then the name without a version."""
    files = {path: layer_name(resolve(path)) for path in paths}
    found: dict[str, Release] = {}
    left = list(seen)
    for rank in range(3):
        for path, name in files.items():
            if path in found:
                continue
            wanted = (name, base_name(name), base_name(name))[rank]
            for release in left:
                shown = base_name(release.name) if rank == 2 else release.name
                if wanted and wanted == shown:
                    found[path] = release
                    left.remove(release)
                    break
    # A file that is valid for any name belongs to the one layer without a file, if there is only one of each.
    any_name = [release for release in left if release.lax]
    nameless = [path for path in files if path not in found]
    if len(any_name) == len(nameless) == 1:
        found[nameless[0]] = any_name[0]
    return found


def told(layers: Sequence[Layered], seen: Sequence[Release], count: int) -> dict[str, Release] | None:
    """Match release files with layers, and make sure that the result is certain.

    Args:
        layers: the layers that the `/etc` may have.
        seen: the release files, without the host's own.
        count: the number of layers that the `/etc` has.

    Returns:
        The release files by the paths of the layers, without layers that the `/etc` does not have; None if uncertain.
    """
    if len(seen) != count or any(one.lax for one in seen):
        return None
    found = match([layer.path for layer in layers], seen)
    directories = {found[layer.path] for layer in layers if layer.path in found and not layer.image}
    pictures = {found[layer.path] for layer in layers if layer.path in found and layer.image}
    for one in seen:
        beside = [other for other in seen if other.device == one.device and other is not one]
        if (one in pictures and beside) or (one not in directories and not directories.issuperset(beside)):
            return None
    for layer in layers:
        release = found.get(layer.path)
        if release is not None and not layer.image and not patience.is_silent(layer.path):
            own = of_directory(f"{layer.file}/etc")
            # The directory has several release files, one of them this. If it was replaced, none of them matches.
            if len(own) > 1 and any(one.key[1:] == release.key[1:] for one in own):
                return None
    return found
