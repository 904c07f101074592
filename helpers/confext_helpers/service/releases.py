# SPDX-License-Identifier: LGPL-2.1-or-later
"""Release files: which layers an `/etc` shows, and what that proves.

Every confext has a file `/etc/extension-release.d/extension-release.NAME`, or systemd would not mount it
(systemd-confext(8)). But whoever makes a layer can put more of them in it, under the names of other layers, and hide
those of the layers below. What a layer cannot change is the device number of its files: overlayfs gives the files of
each lower file system one of their own (Documentation/filesystems/overlayfs.rst, "Inode properties"). So names say
which layer is which only if there is one name for each layer, each on a device of its own: the topmost layer cannot
hide its own name and has no other, hence cannot hide that of the next, and so on. A directory may share its device
with others; there it is the inode that has to be the same.
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
        key: what tells it from another file: inode, size, times.
        lax: whether it goes with an image of any name.
    """

    name: str
    device: int
    key: tuple[int, ...]
    lax: bool = False


class Layered(NamedTuple):
    """A layer that may be among those of an `/etc`.

    Attributes:
        path: as ExtensionImages= or ExtensionDirectories= has it.
        file: what systemd picks for it.
        image: whether it is one, and not a directory.
    """

    path: str
    file: str
    image: bool


def lower_numbers(super_options: str) -> set[int]:
    """The numbers of the layers in an overlay of systemd's, by its options in mountinfo; see failure.numbers()."""
    return {int(number) for number in _LOWER.findall(super_options)}


def of_etc(etc: int) -> list[Release]:
    """The release files in the `/etc` with this descriptor, by name."""
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
    """Those that are seen in a stack, without what is the host's own: it may have confexts for the whole system.

    A file of the host is seen through an overlay with its own inode and times.
    """
    theirs = {(one.name, one.key) for one in below}
    return [one for one in seen if (one.name, one.key) not in theirs]


def match(paths: Sequence[str], seen: Sequence[Release]) -> dict[str, Release]:
    """Which release file has the name of which layer: the name itself counts first, then the one without a version."""
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
    # Of several that go with any name, none can be told.
    any_name = [release for release in left if release.lax]
    nameless = [path for path in files if path not in found]
    if len(any_name) == len(nameless) == 1:
        found[nameless[0]] = any_name[0]
    return found


def told(layers: Sequence[Layered], seen: Sequence[Release], count: int) -> dict[str, Release] | None:
    """Which release file is which layer's, where that is beyond doubt.

    Args:
        layers: those that may be there.
        seen: without what is the host's own.
        count: how many layers there are.

    Returns:
        The release files by the paths of the layers, without those that are not there; None if anything is in doubt.
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
            # If it is another directory by now, nothing about it is known.
            if len(own) > 1 and any(one.key[1:] == release.key[1:] for one in own):
                return None
    return found
