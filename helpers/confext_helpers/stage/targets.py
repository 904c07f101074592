# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find which of a service's mounts shape its `/etc`: those at, below and above it, after following links.

A stage gets no other mounts. systemd creates a missing mount point, and without the service's own `/tmp` would create
it in the host's, or follow a link that somebody has put there. The sources of mounts need no such care: systemd looks
them up on the host.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import NamedTuple

from confext_helpers.paths import ETC
from confext_helpers.service.properties import Entry, ServiceProperties

# As in the kernel: more links than this are a loop.
_LINKS_MAX = 40

# Settings that make mounts, and for which systemd creates the mount points.
_BINDS = ("BindPaths", "BindReadOnlyPaths")
_IMAGES = "MountImages"
_TEMPORARY = "TemporaryFileSystem"
# Settings that restrict what is mounted.
_ACCESS = ("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths")
NAMES = (*_BINDS, _IMAGES, _TEMPORARY, *_ACCESS)


def is_within(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or below it."""
    return f"{path}/".startswith(f"{directory.rstrip('/')}/")


class Place(NamedTuple):
    """Where a path leads.

    Attributes:
        path: as seen in the mount namespace of the service, without links.
        through: the mount points of the mounts on the way.
    """

    path: str
    through: frozenset[str]


class Places:
    """Follows paths as systemd does when it makes the mount namespace of a service.

    Args:
        root: the service's root directory; None if it cannot be looked at.
    """

    def __init__(self, properties: ServiceProperties, root: str | None) -> None:
        self._root = root
        # The source of each mount, by its mount point; None if what is mounted there has no links yet.
        self._mounted: dict[str, str | None] = {}
        for path, source in sorted(_mounts(properties), key=lambda item: item[0].split("/")):
            self._mounted[self.follow(path).path] = source
        self.etc = self.follow(ETC).path

    def follow(self, path: str) -> Place:
        """Return where `path` leads; a part that does not exist (yet) counts as no link.

        Raises:
            OSError: a loop of links.
        """
        todo = path.split("/")[::-1]
        here, links = "", 0
        through: set[str] = set()
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                here = here.rpartition("/")[0]
                continue
            step = f"{here}/{name}"
            link = self._readlink(step, through)
            if link is None:
                here = step
                continue
            links += 1
            if links > _LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if link.startswith("/"):
                here = ""
            todo += link.split("/")[::-1]
        return Place(here or "/", frozenset(through))

    def shapes(self, place: Place) -> bool:
        """Whether a mount at this place shapes `/etc`."""
        return is_within(place.path, self.etc) or is_within(self.etc, place.path)

    def _readlink(self, path: str, through: set[str]) -> str | None:
        """The target of the link at `path`, in which only the last part may be a link; None if it is none."""
        within = [mount for mount in self._mounted if is_within(path, mount)]
        real = None if self._root is None else f"{self._root}{path}"
        if within:
            mount = max(within, key=len)
            through.add(mount)
            source = self._mounted[mount]
            real = None if source is None or mount == path else f"{source}{path.removeprefix(mount.rstrip('/'))}"
        try:
            return None if real is None else os.readlink(real)
        except OSError:
            return None


def _mounts(properties: ServiceProperties) -> Iterable[tuple[str, str | None]]:
    """The mount points of a service below which other links are seen, and the source; None if it has no links yet."""
    if properties.private_tmp:
        yield "/tmp", None
        yield "/var/tmp", None
    if properties.protect_home not in ("no", "", "read-only"):
        for path in ("/home", "/root", "/run/user"):
            yield path, None
    if properties.mount_api_vfs and (properties.root_directory or properties.root_image):
        for path in ("/proc", "/sys", "/dev", "/run"):
            yield path, None
    for entry in properties.entries(_TEMPORARY, _IMAGES):
        yield entry.target, None
    for entry in properties.entries(*_BINDS):
        yield entry.target, os.path.realpath(entry.source)


def select(properties: ServiceProperties, places: Places) -> dict[str, list[Entry]]:
    """The items of the settings in NAMES that shape `/etc`.

    Raises:
        OSError: a loop of links.
    """
    directory = properties.root_directory.rstrip("/")
    entries = {name: properties.entries(name) for name in NAMES}
    found: dict[tuple[str, int], Place] = {}
    for name in NAMES:
        for number, entry in enumerate(entries[name]):
            path = entry.target
            # systemd.exec(5): without "+", such a path is one of the host's; it counts if it is in the root directory.
            if directory and name in _ACCESS and not entry.in_root:
                if not is_within(path, directory):
                    continue
                path = path.removeprefix(directory) or "/"
            found[name, number] = places.follow(path)
    needed = {key for key, place in found.items() if places.shapes(place)}
    # If a path leads to /etc through a link in another mount, the stage needs that mount as well.
    while more := {
        key
        for key, place in found.items()
        if key not in needed and any(place.path in found[other].through for other in needed)
    }:
        needed |= more
    return {name: [entry for number, entry in enumerate(entries[name]) if (name, number) in needed] for name in NAMES}
