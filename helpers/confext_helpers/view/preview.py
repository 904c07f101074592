# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the next reload of a service would change in its `/etc`, found out by doing all of it but the swap.

That is transaction/prepare.py, so that what the hook would refuse is refused here, and for the same reason. The service
is not touched, and the notes about it stay as they are.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from confext_helpers.errors import ConfextError
from confext_helpers.paths import ETC
from confext_helpers.service import fingerprint
from confext_helpers.service.layers import LayerChange
from confext_helpers.swap import change
from confext_helpers.system import patience
from confext_helpers.transaction import prepare
from confext_helpers.transaction.prepare import Prepared
from confext_helpers.transaction.steps import Listener
from confext_helpers.view.running import last_swap
from confext_helpers.view.services import Service, not_running

if TYPE_CHECKING:
    from confext_helpers.system.manager import ServiceManager

TEXT_MAX = 1 << 20
_SILENT = "bring back the storage that it is on, or take it away"


class Side(NamedTuple):
    """A file, before or after.

    Attributes:
        kind: "file", "symlink", "directory" or "other".
        mode: its permissions.
        uid: its owner.
        gid: its group.
        size: in bytes.
        text: its content, or its target if it is a symlink; None if it is no text, or a large one.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    text: str | None


class FileChange(NamedTuple):
    """A file that differs.

    Attributes:
        path: of it.
        before: as it is; None if it is not there.
        after: as it would be; None if it would not be there.
        layer: the name of the layer that it would come from; empty if that is none, or cannot be told.
    """

    path: str
    before: Side | None
    after: Side | None
    layer: str = ""


class Preview(NamedTuple):
    """What a reload would change.

    Attributes:
        layers: which layers; None if the stage could not be had.
        files: which files, by path.
        refused: why the reload would be refused; None if it would not.
        base_changed: whether anything happened in the host's `/etc` since the swap, files that look the same included;
            None if that is not known.
    """

    layers: LayerChange | None
    files: list[FileChange]
    refused: ConfextError | None
    base_changed: bool | None = False

    @property
    def differs(self) -> bool:
        """Whether anything would change."""
        layers = self.layers
        replaced = layers is not None and any((layers.added, layers.replaced, layers.removed))
        return bool(self.files) or replaced or bool(self.base_changed)


def preview(manager: ServiceManager, service: Service, *, check: bool) -> Preview:
    """Build the future `/etc` of `service`, compare it, and throw it away.

    Args:
        manager: who builds it.
        service: which.
        check: whether the service's own checks are run.

    Raises:
        ConfextError: the service cannot be reloaded at all.
    """
    if service.hosted is not None:
        if not service.own_dropins:
            raise service.hosted  # Its reload is none of the hook's.
        return Preview(None, [], service.hosted)
    if not service.processes:
        raise not_running(service)
    unit, properties = service.name, service.properties
    silent = patience.silent([*properties.layers, *fingerprint.named_paths(properties)])
    if silent:
        return Preview(None, [], ConfextError("this does not answer", unit=unit, path=silent[0], hint=_SILENT))
    present = prepare.look(unit, properties, service.processes, last_swap(unit))
    # The hook runs no checks then. Who asks for them is told what they say all the same.
    if present.is_up_to_date and not check:
        return Preview(LayerChange([], [], [], []), [], None)
    try:
        with prepare.prepare(manager, present, Listener(), run_checks=check, show=True) as prepared:
            return _compare(prepared)
    except ConfextError as error:
        return Preview(None, [], error)


def _compare(prepared: Prepared) -> Preview:
    present, found = prepared.present, prepared.found
    assert found is not None
    process, namespace = present.processes[0], prepared.stage.namespace
    old, new, base = change.open_trees(present.unit, present.properties, process.namespace, namespace)
    try:
        files = _files(found, old, new)
    finally:
        for fd in (old, new, base):
            if fd is not None:
                os.close(fd)
    changed = present.last.identity.base != present.made_of.base if present.last is not None else None
    return Preview(found.layers, files, prepared.refused, changed)


def _files(found: change.Change, old: int, new: int) -> list[FileChange]:
    files = []
    for path in sorted({*found.files.added.paths, *found.files.changed.paths, *found.files.removed.paths}):
        before, _ = _side(path, old)
        after, device = _side(path, new)
        # Directories may share a device number, with each other and with the host.
        layer = found.names.get(device, "")
        files.append(FileChange(f"{ETC}/{path}".removesuffix("/."), before, after, layer))
    return files


_KINDS = {stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFDIR: "directory"}


def _side(path: str, etc: int) -> tuple[Side | None, int]:
    """The file at `path`, relative to `etc`, and its device number."""
    try:
        parent = _parent(path, etc)
    except OSError:
        return None, -1
    name = path.rpartition("/")[2]
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        text = _text(name, parent, status)
    except OSError:
        return None, -1
    finally:
        os.close(parent)
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "other")
    side = Side(kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_size, text)
    return side, status.st_dev


def _parent(path: str, etc: int) -> int:
    """A descriptor of the directory that `path` is in. Links are not followed: they would lead out of the tree."""
    here = os.dup(etc)
    for part in path.split("/")[:-1]:
        try:
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        finally:
            os.close(here)
        here = inner
    return here


def _text(name: str, parent: int, status: os.stat_result) -> str | None:
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(name, dir_fd=parent)
    if not stat.S_ISREG(status.st_mode) or status.st_size > TEXT_MAX:
        return None
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=parent)
    with open(fd, "rb") as file:
        content = file.read(TEXT_MAX + 1)
    try:
        return None if b"\0" in content or len(content) > TEXT_MAX else content.decode()
    except UnicodeDecodeError:
        return None
