# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which of a service's mounts its `/etc` is made of: those at, below and above it, wherever their paths lead.

A stage gets no others. systemd makes the directory that a mount is to be on where it is missing, and it would do so in
the host's own `/tmp`, where the service has one of its own, or follow a link that somebody has put there. What the
sources of a mount are does not depend on the other mounts: they are the host's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import NamedTuple

from confext_helpers.paths import ETC
from confext_helpers.service.properties import Entry, ServiceProperties

# As the kernel: more links than that are a loop.
_LINKS_MAX = 40

# Settings that make mounts, and have systemd make the directories for them.
_BINDS = ("BindPaths", "BindReadOnlyPaths")
_IMAGES = "MountImages"
_TEMPORARY = "TemporaryFileSystem"
# Settings that change what is mounted.
_ACCESS = ("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths")
NAMES = (*_BINDS, _IMAGES, _TEMPORARY, *_ACCESS)


def is_within(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or below it."""
    return f"{path}/".startswith(f"{directory.rstrip('/')}/")


class Place(NamedTuple):
    """Where a path leads.

    Attributes:
        path: as seen in the mount namespace of the service, free of links.
        through: the mounts that it leads through, by their own places.
    """

    path: str
    through: frozenset[str]


class Places:
    """Follows paths as systemd does when it makes the mount namespace of a service.

    Args:
        properties: those of the service.
        root: its root directory; None if nothing is known about it.
    """

    def __init__(self, properties: ServiceProperties, root: str | None) -> None:
        self._root = root
        # By their places: the source of what is mounted there; None if there are no links in it yet.
        self._mounted: dict[str, str | None] = {}
        for path, source in sorted(_mounts(properties), key=lambda item: item[0].split("/")):
            self._mounted[self.follow(path).path] = source
        self.etc = self.follow(ETC).path

    def follow(self, path: str) -> Place:
        """Return where `path` leads; what is not there (yet) is taken as it stands.

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
        """Whether what is mounted at a place can be seen in `/etc`."""
        return is_within(place.path, self.etc) or is_within(self.etc, place.path)

    def _readlink(self, path: str, through: set[str]) -> str | None:
        """The target of the link at `path`, of which all but the last part are free of links; None if it is none."""
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
    """Every mount of a service that hides the links which are below it, and what is seen instead."""
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

    Args:
        properties: those of the service.
        places: of it.

    Raises:
        OSError: a loop of links.
    """
    directory = properties.root_directory.rstrip("/")
    entries = {name: properties.entries(name) for name in NAMES}
    found: dict[tuple[str, int], Place] = {}
    for name in NAMES:
        for number, entry in enumerate(entries[name]):
            path = entry.target
            # systemd.exec(5): without a "+", such a path is the host's, and counts if it is in the root directory.
            if directory and name in _ACCESS and not entry.in_root:
                if not is_within(path, directory):
                    continue
                path = path.removeprefix(directory) or "/"
            found[name, number] = places.follow(path)
    needed = {key for key, place in found.items() if places.shapes(place)}
    # A path that leads to /etc through a link in another mount needs that as well.
    while more := {
        key
        for key, place in found.items()
        if key not in needed and any(place.path in found[other].through for other in needed)
    }:
        needed |= more
    return {name: [entry for number, entry in enumerate(entries[name]) if (name, number) in needed] for name in NAMES}
