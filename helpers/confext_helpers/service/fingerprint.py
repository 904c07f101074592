# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fingerprint: what the `/etc` of a service is made of, as digests that change when any of it changes.

If the digests are equal, a re-stack would give the `/etc` that is there already, and is skipped. Digests cover what the
kernel vouches for: device, inode, mode and change time of every image (and of its `.verity`, `.roothash` and
`.roothash.p7s`), of every file of a directory layer, of every source of a bind mount, and of every file of the host's
own `/etc` (or that of the service's root directory); and the settings themselves. Nobody can set a change time (ctime),
so an image that was written in place is noticed, even if its modification time was set back.

An overlay does not notice changes below it. It keeps the names that it has looked up: a host's file that was replaced
by a rename stays the old one until the overlay is mounted anew. It also keeps the owner and the mode of each file, and
grants access by these (ovl_permission() in the kernel's fs/overlayfs/inode.c). The change times of the host's files
tell both. Mounts below the host's `/etc` are not seen through an overlay at all.

Equal digests are no proof in three cases (`Fingerprint.settled`). The clock of a file system ticks every few
milliseconds only, so a file that changed within the last tick before it was looked at could change again unnoticed. Who
can write a file of a directory layer may have mapped it, and a write to the mapping moves no clock (mmap(2),
"MAP_SHARED"). And what cannot be looked at may be anything.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from confext_helpers.paths import ETC
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.system.filewords import Files, has_writer, sha256

TICK_NS = 50_000_000

# The settings whose files count, besides those for the root file system and the layers.
_ACCESS = ("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths")
_BINDS = ("BindPaths", "BindReadOnlyPaths")
_IMAGES = "MountImages"


class Fingerprint(NamedTuple):
    """What an `/etc` is made of.

    Attributes:
        layers: a digest for each layer, by path, bottom to top; equal if and only if nothing changed in the layer.
        settings: likewise for the settings that shape the `/etc`.
        places: likewise for the other files that these settings name.
        base: likewise for the `/etc` below all layers; empty if it is in an image.
        newest: the latest change time, in nanoseconds since the epoch.
        looked: when the files were looked at, likewise.
        certain: whether no file could change unnoticed after that.
    """

    layers: dict[str, str]
    settings: str
    places: str
    base: str
    newest: int
    looked: int
    certain: bool = True

    def is_same(self, other: Fingerprint) -> bool:
        """Whether both are of the same `/etc`, including the order of the layers."""
        return (list(self.layers.items()), *self[1:4]) == (list(other.layers.items()), *other[1:4])

    @property
    def settled(self) -> bool:
        """Whether every change since the files were looked at would be noticed."""
        return self.certain and self.newest < self.looked - TICK_NS


def named_paths(properties: ServiceProperties) -> list[str]:
    """The files and directories that settings other than those for layers bring into a service's file system."""
    return [*properties.root_paths, *(entry.source for entry in properties.entries(*_BINDS, _IMAGES))]


def of(properties: ServiceProperties, files: Files | None = None) -> Fingerprint:
    """Make the fingerprint that the `/etc` of a service with these `properties` would have now.

    Args:
        files: gets all files that the fingerprint depends on.
    """
    looked = file_clock_ns()
    files = files if files is not None else Files()
    files.newest = 0
    files.part()
    files.add_place(ETC)
    for path in properties.root_paths:
        files.add(path)
    for entry in properties.entries(*_ACCESS, *_BINDS):
        files.add_place(entry.source)
    for entry in properties.entries(_IMAGES):
        files.add(entry.source)
    if properties.root_mstack:
        files.certain = False  # An mstack has many images and directories, and only systemd knows which.
    places = files.part()
    base = properties.base
    if base is not None:
        files.add_tree(base, layer=False)
    below = files.part() if base is not None else ""
    layers: dict[str, str] = {}
    for path in properties.layers:
        files.add_layer(path)
        layers[path] = files.part()
    settings = sha256()
    settings.update(os.fsencode(repr(sorted(properties.shaping().items()))))
    return Fingerprint(layers, settings.hexdigest(), places, below, files.newest, looked, files.certain)


def base(properties: ServiceProperties) -> Fingerprint:
    """Make a fingerprint of the `/etc` below all layers alone; all other digests are empty."""
    files = Files()
    path = properties.base
    if path is not None:
        files.add_tree(path, layer=False)
    digest = files.part() if path is not None else ""
    return Fingerprint({}, "", "", digest, files.newest, file_clock_ns(), files.certain)


def is_held_open(properties: ServiceProperties) -> bool:
    """Whether any file of a directory layer is open for writing or mapped so, or whether that is unknown.

    The writer may be somebody who could open the file once, and cannot any more. Call this after of(): from then on,
    only root can open a file for writing without changing its digest. Images are not asked: systemd holds them open.
    """
    trees = [tree for path in properties.layers for tree in _trees(path)]
    return bool(trees) and has_writer(trees)


def _trees(path: str) -> list[str]:
    """The layer itself if it is a directory; for a `.v/` directory, all directories in it."""
    names = [path]
    if path.endswith(".v"):
        try:
            names = [f"{path}/{name}" for name in os.listdir(path)]
        except FileNotFoundError:
            return []
    return [name for name in names if os.path.isdir(name)]


def last_change_ns(path: str) -> int:
    """The latest change time in a layer, in nanoseconds since the epoch; 0 if the layer does not exist."""
    layer = Files()
    layer.add_layer(path)
    return layer.newest


def file_clock_ns() -> int:
    """The time that file systems stamp changes with, in nanoseconds since the epoch."""
    return time.time_ns()
