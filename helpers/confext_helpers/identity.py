"""What the `/etc` of a service is made of, as texts that change when any of it does.

Equal texts mean that a re-stack would give the `/etc` that is there already, so that it can be left out. What
counts is what the kernel vouches for: device, inode, mode and change time of every image (and of what lies beside it:
`.verity`, `.roothash`, `.roothash.p7s`), of every file of a directory layer, of every source of a bind mount, and
the settings themselves. The change time (ctime) cannot be set by anybody, so an image written in place, or one with
its modification time set back, is seen.

A file system's clock ticks every few milliseconds only. A file that changed within the last tick could change once
more without a trace; a text with so young a file in it is no proof of anything (`Identity.settled`).

Files are described in the words of find(1), as helpers/restack-if-changed.in has it describe them, which so can find
out that nothing changed without this module.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from confext_helpers.bus import Properties
from confext_helpers.stage import layer_paths, shaping_properties

SIDECARS = (".verity", ".roothash", ".roothash.p7s", ".usrhash", ".usrhash.p7s")
TICK_NS = 50_000_000
# The generator's drop-ins are in it, and systemd makes it anew whenever it loads units; their settings do not change
# otherwise.
GENERATED = "/run/systemd/generator"

# Which of the properties name files whose identity matters, and how to get at the paths in the property's value.
_PLAIN_PATHS = ("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths")
_PATH_FIRST = ("BindPaths", "BindReadOnlyPaths", "MountImages")
_ONE_PATH = ("RootDirectory", "RootImage", "RootVerity", "RootHashPath", "RootHashSignaturePath")


class Identity(NamedTuple):
    """What an `/etc` is made of.

    Attributes:
        layers: by their paths, bottom to top, texts that are equal if and only if nothing changed in that layer.
        settings: likewise for the settings that shape it.
        places: likewise for the other files that these settings name.
        paths: of all these files, see Files.
        newest: the latest change time in it, in nanoseconds since the epoch.
    """

    layers: dict[str, str]
    settings: str
    places: str
    paths: list[str]
    newest: int

    def is_same(self, other: Identity) -> bool:
        """Whether both are one and the same `/etc`, order of the layers included."""
        return (list(self.layers.items()), *self[1:3]) == (list(other.layers.items()), *other[1:3])

    def settled(self, now: int) -> bool:
        """Whether nothing in it changed so shortly before `now` (ns since the epoch) that a change could hide."""
        return self.newest < now - TICK_NS

    def text(self) -> str:
        """What find(1) says about `paths`."""
        return self.places + "".join(self.layers.values())


def _strings(value: object) -> Iterator[str]:
    assert isinstance(value, list)
    for item in value:
        yield str(item[0] if isinstance(item, tuple) else item)


class Files:
    """Gathers what files are.

    Attributes:
        paths: of those that were looked at. They have `/.` in front where the change time counts.
        newest: the latest change time that counts, in nanoseconds since the epoch.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.newest = 0
        self._words: list[str] = []

    def text(self) -> str:
        """find(1)'s words about those that there are."""
        return "".join(self._words)

    def _add(self, path: str) -> os.stat_result | None:
        self.paths.append(path)
        try:
            status = os.stat(path)
        except OSError:
            # A symbolic link that leads nowhere is described itself; so does find -L.
            try:
                status = os.lstat(path)
            except OSError:
                return None
        self._words.append(f"{status.st_dev} {status.st_ino} {status.st_mode & 0o7777:o} {path}\n")
        return status

    def add_place(self, path: str) -> None:
        """Record a path that a setting names: whether it is there, and which file it is."""
        self._add(path)

    def add(self, path: str) -> os.stat_result | None:
        """Record a file, and when it changed."""
        status = self._add(f"/.{path}")
        if status is not None:
            self.newest = max(self.newest, status.st_ctime_ns)
            # find's fractions have ten digits.
            self._words.append("{}.{:09}0\n".format(*divmod(status.st_ctime_ns, 1_000_000_000)))
        return status

    def add_layer(self, path: str) -> None:
        """Record an image, a directory, or a `.v/` directory of either, with all that is in it."""
        status = self.add(path)
        if status is not None and status.st_mode & 0o170000 == 0o040000:
            self._add_directory(path)
        elif path.endswith(".raw"):
            for suffix in SIDECARS:
                self.add(path.removesuffix(".raw") + suffix)

    def _add_directory(self, path: str) -> None:
        # One that cannot be read is only what it is itself.
        with contextlib.suppress(OSError), os.scandir(path) as found:
            for entry in sorted(found, key=lambda entry: entry.name):
                self.add(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    self._add_directory(entry.path)


def identify(properties: Properties) -> Identity:
    """Describe what the `/etc` of a service with these `properties` would be made of now."""
    shaping = shaping_properties(properties)
    places = Files()
    places.add_place("/etc")
    for name in _ONE_PATH:
        if name in shaping:
            places.add(str(shaping[name][1]))
    for name in _PLAIN_PATHS + _PATH_FIRST:
        if name in shaping:
            for path in _strings(shaping[name][1]):
                places.add_place(path.lstrip("-+"))
    layers: dict[str, str] = {}
    paths, newest = [*places.paths], places.newest
    for path in layer_paths(shaping):
        layer = Files()
        layer.add_layer(path)
        layers[path] = layer.text()
        paths += layer.paths
        newest = max(newest, layer.newest)
    return Identity(layers, repr(sorted(shaping.items())), places.text(), paths, newest)


def changed(path: str) -> int:
    """When a layer, with all that is in it, changed last: nanoseconds since the epoch, or 0 if it is not there."""
    layer = Files()
    layer.add_layer(path)
    return layer.newest


def now() -> int:
    """The time that file systems stamp changes with, in nanoseconds since the epoch."""
    return time.time_ns()
