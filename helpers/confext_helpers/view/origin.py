# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the layer that a file in a service's `/etc` comes from.

The proof is the kernel's. overlayfs gives the files of each lower file system a separate device number and keeps their
inode numbers (Documentation/filesystems/overlayfs.rst, "Inode properties"). So if a layer is an image, all files with
the device number of its release file belong to it. Directory layers may share a file system with each other and with
the host; inode number and times tell their files apart. Where an overlay hides both numbers (`xino=on`, or all layers
on one file system), contents are compared, from the topmost layer down.

Paths are resolved here, component by component, in the service's root directory: no symlink leads out of it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NamedTuple

from confext_helpers.errors import ConfextError
from confext_helpers.paths import ETC
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.system.mountinfo import Mount
from confext_helpers.view.layerfiles import Files, TreeFiles
from confext_helpers.view.runningstack import Running, RunningStack
from confext_helpers.view.services import View

_LINKS_MAX = 40
_PIECE = 1 << 20
_INACCESSIBLE = "/systemd/inaccessible/"


class Link(NamedTuple):
    """A symlink on the way to a file.

    Attributes:
        path: of the symlink.
        target: what the symlink contains.
        place: the symlink, as a file.
    """

    path: str
    target: str
    place: Place


class Place(NamedTuple):
    """A file as a service sees it.

    Attributes:
        path: the path with all symlinks resolved.
        fd: an O_PATH descriptor; -1 for a symlink that was followed.
        mount: the mount that the file is on; None if it is not known.
    """

    path: str
    fd: int
    status: os.stat_result
    mount: Mount | None


class Kind(StrEnum):
    """Where a file comes from."""

    LAYER = "layer"
    HOST = "host"
    MOUNT = "mount"
    MERGED = "merged"
    UNKNOWN = "unknown"


class Origin(NamedTuple):
    """Where a file comes from.

    Attributes:
        kind: a layer, the host, or a mount of the service's sandbox; a directory is merged.
        layer: the layer, if `kind` is LAYER.
        evidence: what proves the origin: "device", "inode" or "content"; empty if nothing does.
        setting: the setting that made the mount, if `kind` is MOUNT; empty if that is not known.
        source: what is mounted there.
        hidden: the lower layers that have a file at this path, too, from the topmost down.
        hides_host: whether the host's file at this path is hidden; None if that is not known.
        unsure: the layers that may or may not have a file at this path.
    """

    kind: Kind
    layer: Running | None = None
    evidence: str = ""
    setting: str = ""
    source: str = ""
    hidden: tuple[Running, ...] = ()
    hides_host: bool | None = False
    unsure: tuple[Running, ...] = ()


@contextlib.contextmanager
def walk(view: View, path: str, unit: str) -> Iterator[tuple[Place, list[Link]]]:
    """Resolve `path` in the root directory of `view`.

    Yields:
        The file, and the symlinks that were followed.

    Raises:
        ConfextError: the path does not exist, or is not below `/etc`.
    """
    if not f"{os.path.normpath(path)}/".startswith(f"{ETC}/") or ".." in path.split("/"):
        raise ConfextError("the path is not one below /etc", unit=unit, path=ascii(path)[1:-1])
    mounts = {mount.id: mount for mount in view.mounts}
    opened = [os.dup(view.root)]
    parts: list[str] = []
    links: list[Link] = []
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    try:
        while todo:
            part = todo.pop()
            if part == "..":
                if parts:
                    os.close(opened.pop())
                    parts.pop()
                continue
            fd = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=opened[-1])
            opened.append(fd)
            parts.append(part)
            status = os.fstat(fd)
            if not stat.S_ISLNK(status.st_mode):
                continue
            here = "/" + "/".join(parts)
            target = os.readlink("", dir_fd=fd)
            links.append(Link(here, target, Place(here, -1, status, mounts.get(_mount_id(fd)))))
            if len(links) > _LINKS_MAX:
                raise ConfextError("the path is a loop of links", unit=unit, path=ascii(path)[1:-1])
            os.close(opened.pop())
            parts.pop()
            if target.startswith("/"):
                while parts:
                    os.close(opened.pop())
                    parts.pop()
            todo += [word for word in reversed(target.split("/")) if word not in ("", ".")]
        fd = opened[-1]
        yield Place("/" + "/".join(parts), fd, os.fstat(fd), mounts.get(_mount_id(fd))), links
    except (FileNotFoundError, NotADirectoryError):
        problem = "a link leads to a file that is not there" if links else "the service has no such file"
        raise ConfextError(problem, unit=unit, path=ascii(path)[1:-1]) from None
    finally:
        for fd in opened:
            os.close(fd)


def _mount_id(fd: int) -> int:
    """The ID of the mount that the file is on: proc_pid_fdinfo(5)."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))


def _open(place: Place) -> int:
    if place.mount is not None and _INACCESSIBLE in place.mount.root:
        raise ConfextError("the service cannot see it, InaccessiblePaths= hides it", path=ascii(place.path)[1:-1])
    if not stat.S_ISREG(place.status.st_mode):
        raise ConfextError("this is not a regular file", path=ascii(place.path)[1:-1])
    return os.open(f"/proc/self/fd/{place.fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


def pieces(place: Place) -> Iterator[bytes]:
    """The content of a regular file, piece by piece.

    Raises:
        ConfextError: the file is not a regular one, cannot be read, or is hidden by the service's sandbox.
    """
    with open(_open(place), "rb", buffering=0) as file:
        while True:
            try:
                piece = file.read(_PIECE)
            except OSError as error:
                # dm-verity, or a damaged file system: the service cannot read the file either.
                problem = f"it cannot be read: {error.strerror}"
                raise ConfextError(problem, path=ascii(place.path)[1:-1]) from None
            if not piece:
                return
            yield piece


def read(place: Place) -> bytes:
    """The content of a regular file; raises as pieces() does."""
    return b"".join(pieces(place))


def content_of(place: Place) -> bytes:
    """As read(), but empty if the file cannot be read. Callers must not take empty content as a proof."""
    with contextlib.suppress(ConfextError, OSError):
        return read(place)
    return b""


def setting_of(mount: Mount, properties: ServiceProperties) -> str:
    """The setting of the service's sandbox that made `mount`; empty if it is not known."""
    if _INACCESSIBLE in mount.root:
        return "InaccessiblePaths="
    for name in ("BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem"):
        if mount.point in [entry.target for entry in properties.entries(name)]:
            return f"{name}="
    if mount.point in [f"{ETC}/{name}" for name in properties.configuration_directories]:
        return "ConfigurationDirectory="
    return ""


class Finder:
    """Finds where files come from, for one service.

    Args:
        view: what the service sees.
        stack: its layers.
        properties: its settings.
        host: the `/etc` below all layers; None if it is not accessible.
        files_of: opens the files of a layer.
    """

    def __init__(
        self,
        view: View,
        stack: RunningStack,
        properties: ServiceProperties,
        host: str | None,
        files_of: Callable[[Running], Files | None],
    ) -> None:
        self._overlay = view.overlay
        self._properties = properties
        self._host = TreeFiles(os.path.dirname(host) or "/") if host is not None else None
        self._complete = stack.complete
        self._stack = [layer for layer in reversed(stack.layers) if layer.release]
        self._files_of = files_of
        self._files: dict[int, Files | None] = {}
        self._device = -1
        with contextlib.suppress(OSError):
            etc = view.open_etc()
            self._device = os.fstat(etc).st_dev
            os.close(etc)

    def find(self, place: Place) -> Origin:
        """Where the file at `place` comes from."""
        mount, overlay = place.mount, self._overlay
        if mount is None:
            return Origin(Kind.UNKNOWN)
        if overlay is None or mount.device != overlay.device:
            if not f"{mount.point}/".startswith(f"{ETC}/"):
                return Origin(Kind.HOST)
            setting = setting_of(mount, self._properties)
            if mount.point == ETC and not setting:
                return Origin(Kind.HOST)
            # The mount hides what the layers have at this path.
            hidden, unsure = self._carriers(place.path, self._stack)
            return Origin(Kind.MOUNT, None, "device", setting, mount.root, hidden, self._host_has(place.path), unsure)
        # The path in the overlay: the mount may be a bind mount of another directory in there.
        inside = f"{ETC}{mount.root.rstrip('/')}{place.path[len(mount.point) :]}"
        if stat.S_ISDIR(place.status.st_mode):
            hidden, unsure = self._carriers(inside, self._stack)
            return Origin(Kind.MERGED, None, "", "", "", hidden, self._host_has(inside), unsure)
        kind, layer, evidence = self._owner(inside, place)
        if kind is Kind.HOST:
            return Origin(kind, None, evidence)
        # Only layers below can be hidden. Where a layer that is not loaded any more sits in the stack is not known.
        others = [one for one in self._stack if one is not layer]
        if layer is not None and layer.layer.path:
            below = self._stack[self._stack.index(layer) + 1 :]
            others = [one for one in others if one in below or not one.layer.path]
        hidden, unsure = self._carriers(inside, others)
        return Origin(kind, layer, evidence, "", "", hidden, self._host_has(inside), unsure)

    def _owner(self, path: str, place: Place) -> tuple[Kind, Running | None, str]:
        status = place.status
        same = [one for one in self._stack if one.device == status.st_dev]
        # The overlay's own device number does not tell the layer.
        telling = status.st_dev != self._device
        if telling and len(same) == 1 and same[0].image:
            files = self._open(same[0])
            # If the layer has no such file, the device number was attributed to the wrong layer.
            return (Kind.UNKNOWN, None, "") if files and not files.has(path) else (Kind.LAYER, same[0], "device")
        claims = []
        for one in self._stack:
            files = self._open(one)
            if not one.image and files is not None and files.is_same(path, status):
                claims.append(one)
        if len(claims) == 1:
            return Kind.LAYER, claims[0], "inode"
        if claims:
            return Kind.UNKNOWN, None, ""
        if self._host is not None and self._host.is_same(path, status):
            return Kind.HOST, None, "inode"
        if telling and self._complete and not same:
            return Kind.HOST, None, "device"
        if telling and len(same) == 1 and same[0].image is None:
            # The layer is not loaded any more, and may be a directory on the host's file system. That the file is not
            # the host's was checked above.
            return Kind.LAYER, same[0], "device"
        for one in self._stack if self._complete else ():
            files = self._open(one)
            if files is None or one.changed is not False:
                return Kind.UNKNOWN, None, ""
            if files.has(path):
                content = content_of(place)
                alike = content != b"" and files.content(path) == content
                return (Kind.LAYER, one, "content") if alike else (Kind.UNKNOWN, None, "")
        if self._host is not None and self._complete and self._host.has(path):
            return Kind.HOST, None, "content"
        return Kind.UNKNOWN, None, ""

    def _carriers(self, path: str, layers: list[Running]) -> tuple[tuple[Running, ...], tuple[Running, ...]]:
        """The layers that have a file at `path`, and those that may have one."""
        have, unsure = [], []
        for layer in layers:
            files = self._open(layer)
            if files is None:
                unsure.append(layer)
            elif files.has(path):
                have.append(layer)
        return tuple(have), tuple(unsure)

    def _host_has(self, path: str) -> bool | None:
        return None if self._host is None else self._host.has(path)

    def _open(self, layer: Running) -> Files | None:
        key = id(layer)
        if key not in self._files:
            self._files[key] = self._files_of(layer)
        return self._files[key]
