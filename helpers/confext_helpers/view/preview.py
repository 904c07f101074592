# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find out what the next reload of a service would change in its `/etc`, by doing all steps of a reload but the swap.

The steps are those of transaction/prepare.py, so this refuses what the hook would refuse, for the same reason. Neither
the service nor the notes about it are changed.
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
_SILENT = "repair the storage that it is on, or remove it"


class Side(NamedTuple):
    """A file, before or after the reload.

    Attributes:
        kind: "file", "symlink", "directory" or "other".
        mode: the permission bits.
        size: in bytes.
        text: the content, or the target of a symlink; None if the content is not text, or longer than TEXT_MAX.
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
        before: the file as it is; None if it does not exist.
        after: the file as it would be; None if it would not exist.
        layer: the name of the layer that the file would come from; empty if it is no layer's, or not known.
    """

    path: str
    before: Side | None
    after: Side | None
    layer: str = ""


class Preview(NamedTuple):
    """What a reload would change.

    Attributes:
        layers: the layers that change; None if the stage could not be built.
        files: the files that change, by path.
        refused: why the reload would be refused; None if it would not.
        base_changed: whether anything in the host's `/etc` changed since the swap, even if all files look the same;
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
    """Build the future `/etc` of `service`, compare it with the present one, and remove it.

    Args:
        manager: builds the stage.
        check: whether to run the service's own checks.

    Raises:
        ConfextError: the service is not running, or its reload runs no hook.
    """
    if service.namespace_problem is not None:
        if not service.own_dropins:
            raise service.namespace_problem  # No hook runs when this service is reloaded.
        return Preview(None, [], service.namespace_problem)
    if not service.processes:
        raise not_running(service)
    unit, properties = service.name, service.properties
    silent = patience.silent([*properties.layers, *fingerprint.named_paths(properties)])
    if silent:
        return Preview(None, [], ConfextError("this does not answer", path=silent[0], hint=_SILENT))
    present = prepare.look(unit, properties, service.processes, last_swap(unit))
    # A reload would run no checks then, but a caller who asks for checks gets their result.
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
    with change.open_trees(present.properties, process.namespace, namespace) as trees:
        files = _files(found, trees.old, trees.new)
    changed = present.last.fingerprint.base != present.fingerprint.base if present.last is not None else None
    return Preview(found.layers, files, prepared.refused, changed)


def _files(found: change.Change, old: int, new: int) -> list[FileChange]:
    files = []
    for path in sorted({*found.files.added.paths, *found.files.changed.paths, *found.files.removed.paths}):
        before, _ = _side(path, old)
        after, device = _side(path, new)
        # Directory layers may share a device number, with each other and with the host: then no layer is named.
        layer = found.names.get(device, "")
        files.append(FileChange(f"{ETC}/{path}".removesuffix("/."), before, after, layer))
    return files


_KINDS = {stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFDIR: "directory"}


def _side(path: str, etc: int) -> tuple[Side | None, int]:
    """The file at `path`, relative to `etc`, and its device number; None and -1 if it cannot be read."""
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
    """Open the directory that contains `path`, without following symlinks: they could lead out of the tree."""
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
