"""What the `/etc` of a service is made of, as texts that change when any of it does.

Equal texts mean that a re-stack would give the `/etc` that is there already, so that it can be left out. What
counts is what the kernel vouches for: device, inode, size, change time of every image (and of what lies beside it:
`.verity`, `.roothash`, `.roothash.p7s`), of every file of a directory layer, of every source of a bind mount, and
the settings themselves. The change time (ctime) cannot be set by anybody, so an image written in place, or one with
its modification time set back, is seen.

A file system's clock ticks every few milliseconds only. A file that changed within the last tick could change once
more without a trace; a text with so young a file in it is no proof of anything (`Identity.settled`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from confext_helpers.bus import Properties
from confext_helpers.stage import layer_paths, shaping_properties

SIDECARS = (".verity", ".roothash", ".roothash.p7s", ".usrhash", ".usrhash.p7s")
TICK_NS = 50_000_000

# Which of the properties name files whose identity matters, and how to get at the paths in the property's value.
_PLAIN_PATHS = ("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths")
_PATH_FIRST = ("BindPaths", "BindReadOnlyPaths", "MountImages")
_ONE_PATH = ("RootDirectory", "RootImage", "RootVerity", "RootHashPath", "RootHashSignaturePath")


class Identity(NamedTuple):
    """What an `/etc` is made of.

    Attributes:
        layers: by their paths, bottom to top, texts that are equal if and only if nothing changed in that layer.
        settings: likewise for everything else.
        newest: the latest change time in it, in nanoseconds since the epoch.
    """

    layers: dict[str, str]
    settings: str
    newest: int

    def is_same(self, other: Identity) -> bool:
        """Whether both are one and the same `/etc`, order of the layers included."""
        return (list(self.layers.items()), self.settings) == (list(other.layers.items()), other.settings)

    def settled(self, now: int) -> bool:
        """Whether nothing in it changed so shortly before `now` (ns since the epoch) that a change could hide."""
        return self.newest < now - TICK_NS


def _strings(value: object) -> Iterator[str]:
    assert isinstance(value, list)
    for item in value:
        yield str(item[0] if isinstance(item, tuple) else item)


class _Collector:
    """Gathers the identities of files, one line each."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.newest = 0

    def add(self, path: str, *, follow: bool = True) -> os.stat_result | None:
        try:
            status = os.stat(path, follow_symlinks=follow)
        except OSError as error:
            self.lines.append(f"{path!r} {error.errno}")
            return None
        self._record(path, status)
        return status

    def _record(self, path: str, s: os.stat_result) -> None:
        self.newest = max(self.newest, s.st_ctime_ns)
        self.lines.append(f"{path!r} {s.st_dev} {s.st_ino} {s.st_size} {s.st_ctime_ns}")

    def add_place(self, path: str) -> None:
        """Record a path that a setting of the sandbox names: whether it is there, and which file it is."""
        try:
            status = os.stat(path)
        except OSError as error:
            self.lines.append(f"{path!r} {error.errno}")
        else:
            self.lines.append(f"{path!r} {status.st_dev} {status.st_ino} {status.st_mode}")

    def add_layer(self, path: str) -> None:
        """Record an image, a directory, or a `.v/` directory of either, with all that is in it."""
        status = self.add(path)
        if status is not None and status.st_mode & 0o170000 == 0o040000:
            self._add_directory(path)
        elif path.endswith(".raw"):
            self._add_sidecars(path)

    def _add_directory(self, path: str) -> None:
        try:
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self.lines.append(f"{path!r} {error.errno}")
            return
        for entry in entries:
            self.add(entry.path, follow=False)
            if entry.is_dir(follow_symlinks=False):
                self._add_directory(entry.path)
            elif entry.is_symlink():
                self.add(entry.path)

    def _add_sidecars(self, image: str) -> None:
        for suffix in SIDECARS:
            path = image.removesuffix(".raw") + suffix
            if os.path.lexists(path):
                self.add(path)


def identify(properties: Properties) -> Identity:
    """Describe what the `/etc` of a service with these `properties` would be made of now."""
    shaping = shaping_properties(properties)
    collector = _Collector()
    collector.lines.append(repr(sorted(shaping.items())))
    collector.add_place("/etc")
    for name in _ONE_PATH:
        if name in shaping:
            collector.add(str(shaping[name][1]))
    for name in _PLAIN_PATHS + _PATH_FIRST:
        if name in shaping:
            for path in _strings(shaping[name][1]):
                collector.add_place(path.lstrip("-+"))
    layers: dict[str, str] = {}
    newest = collector.newest
    for path in layer_paths(shaping):
        layer = _Collector()
        layer.add_layer(path)
        layers[path] = "\n".join(layer.lines)
        newest = max(newest, layer.newest)
    return Identity(layers, "\n".join(collector.lines), newest)


def changed(path: str) -> int:
    """When a layer, with all that is in it, changed last: nanoseconds since the epoch, or 0 if it is not there."""
    layer = _Collector()
    layer.add_layer(path)
    return layer.newest


def now() -> int:
    """The time that file systems stamp changes with, in nanoseconds since the epoch."""
    return time.time_ns()
