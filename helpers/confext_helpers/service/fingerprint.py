# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the `/etc` of a service is made of, as digests that change when any of it does.

Equal digests mean that a re-stack would give the `/etc` that is there already, so that it can be left out. What
counts is what the kernel vouches for: device, inode, mode and change time of every image (and of what lies beside it:
`.verity`, `.roothash`, `.roothash.p7s`), of every file of a directory layer, of every source of a bind mount, of
every file of the host's own `/etc` (or of that of the service's root directory), and the settings themselves. The
change time (ctime) cannot be set by anybody, so an image written in place, or one with its modification time set back,
is seen.

An overlay does not take in what happens below it: it keeps the names that it has looked up, so that a file of the
host that was replaced by a rename is the old one until the overlay is made anew, and of each file the owner and the
mode that it had when it was looked up, by which it goes on to grant and to refuse (ovl_permission() in the kernel's
fs/overlayfs/inode.c). The change times of the host's files tell both. What is mounted below the host's `/etc` is not
seen through an overlay at all.

Three things make a digest no proof of anything (`Fingerprint.settled`). A file system's clock ticks every few
milliseconds only, so that a file which changed within the last tick before it was looked at could change once more
without a trace. Who can write a file of a directory layer may have it in memory and change it there, which moves no
clock (mmap(2), "MAP_SHARED"). And what cannot be looked at may be anything.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from confext_helpers.paths import ETC
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.system.filewords import Files, has_writer, sha256

TICK_NS = 50_000_000

# Which of the settings name files whose identity matters, beside those of the root file system and the layers.
_ACCESS = ("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths")
_BINDS = ("BindPaths", "BindReadOnlyPaths")
_IMAGES = "MountImages"


class Fingerprint(NamedTuple):
    """What an `/etc` is made of.

    Attributes:
        layers: by their paths, bottom to top, digests that are equal if and only if nothing changed in that layer.
        settings: likewise for the settings that shape it.
        places: likewise for the other files that these settings name.
        base: likewise for the `/etc` that lies below all layers; empty if that is within an image.
        newest: the latest change time in it, in nanoseconds since the epoch.
        looked: when all of it was looked at, likewise.
        certain: whether nothing of it could change without a trace after that.
    """

    layers: dict[str, str]
    settings: str
    places: str
    base: str
    newest: int
    looked: int
    certain: bool = True

    def is_same(self, other: Fingerprint) -> bool:
        """Whether both are one and the same `/etc`, order of the layers included."""
        return (list(self.layers.items()), *self[1:4]) == (list(other.layers.items()), *other[1:4])

    @property
    def settled(self) -> bool:
        """Whether every change that came after it was looked at can be seen."""
        return self.certain and self.newest < self.looked - TICK_NS


def named_paths(properties: ServiceProperties) -> list[str]:
    """The files and directories that settings bring into a service's file system, its layers left aside."""
    return [*properties.root_paths, *(entry.source for entry in properties.entries(*_BINDS, _IMAGES))]


def of(properties: ServiceProperties, files: Files | None = None) -> Fingerprint:
    """Describe what the `/etc` of a service with these `properties` would be made of now.

    Args:
        files: gets all files that this depends on.
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
        files.certain = False  # Many images and directories, which are systemd's to find.
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
    """Describe only what lies below all layers; everything else of the answer is empty."""
    files = Files()
    path = properties.base
    if path is not None:
        files.add_tree(path, layer=False)
    digest = files.part() if path is not None else ""
    return Fingerprint({}, "", "", digest, files.newest, file_clock_ns(), files.certain)


def is_held_open(properties: ServiceProperties) -> bool:
    """Whether somebody has a file of a directory layer open for writing, or in memory to write to, or may have.

    It may be somebody who could write the file once, and cannot any more. To be asked after of(): from then on
    nobody gets hold of a file but by what changes its digest, or as root. An image is held open by systemd itself.
    """
    trees = [tree for path in properties.layers for tree in _trees(path)]
    return bool(trees) and has_writer(trees)


def _trees(path: str) -> list[str]:
    """The directories that a layer is, or that are in its `.v/` directory."""
    names = [path]
    if path.endswith(".v"):
        try:
            names = [f"{path}/{name}" for name in os.listdir(path)]
        except FileNotFoundError:
            return []
    return [name for name in names if os.path.isdir(name)]


def last_change_ns(path: str) -> int:
    """When a layer, with all that is in it, changed last: nanoseconds since the epoch, or 0 if it is not there."""
    layer = Files()
    layer.add_layer(path)
    return layer.newest


def file_clock_ns() -> int:
    """The time that file systems stamp changes with, in nanoseconds since the epoch."""
    return time.time_ns()
