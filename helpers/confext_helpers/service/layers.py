# SPDX-License-Identifier: LGPL-2.1-or-later
"""The layers that the manager has loaded for a service, as they are on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from confext_helpers.image.naming import base_name, is_there, layer_name, resolve
from confext_helpers.paths import beside
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.system import patience, regular

_GPT = b"EFI PART"


class Layer(NamedTuple):
    """One layer.

    Attributes:
        name: of the confext, without a version.
        path: as in ExtensionImages= or ExtensionDirectories=; empty if not known any more.
        file: the image or directory that systemd picks for the path, see systemd.v(7).
        version: from the name of that file; empty if the name has none.
        root_hash: of dm-verity, in hexadecimal; empty if there is none.
    """

    name: str
    path: str = ""
    file: str = ""
    version: str = ""
    root_hash: str = ""

    @property
    def label(self) -> str:
        """The name to show: that of the file if known, otherwise that of the confext."""
        return os.path.basename(self.file.rstrip("/")) or self.name


def load_layer(path: str) -> Layer:
    """Describe the layer that `path` would become now."""
    file = resolve(path)
    full = layer_name(file)
    name = base_name(full) or full
    root_hash = _root_hash(file) if not patience.is_silent(path) else ""
    return Layer(name, path, file, full[len(name) + 1 :], root_hash)


def loaded(properties: ServiceProperties) -> list[Layer]:
    """The layers of a service with these `properties` that exist, bottom to top; read from disk now."""
    return [load_layer(path) for path in properties.layers if is_there(path)]


def _root_hash(file: str) -> str:
    """The root hash of an image, from a file beside the image or from its partition table; empty if neither has one."""
    try:
        return regular.read(beside(file, ".roothash"), 4096).decode("ascii").strip()
    except (OSError, ValueError):
        pass
    try:
        head = regular.read(file, 4104, block=True)
        # The GPT header is in the second sector; sectors have 512 or 4096 bytes.
        return _stated_hash(file) if _GPT in (head[512:520], head[4096:4104]) else ""
    except OSError:
        return ""


def _stated_hash(file: str) -> str:
    """The root hash, half of which is in each of two partition UUIDs: Discoverable Partitions Specification."""
    # Only images with partitions need this.
    from confext_helpers.image import bytesource, gpt
    from confext_helpers.image.partitiontypes import Designator

    source = bytesource.open_source(file)
    try:
        table, _ = gpt.read(source)
    finally:
        os.close(source.fd)
    found: dict[Designator, str] = {}
    for partition in table.partitions if table is not None else ():
        if partition.type is not None and partition.type.designator is not None:
            found.setdefault(partition.type.designator, partition.uuid.replace("-", ""))
    if Designator.ROOT not in found or Designator.ROOT_VERITY not in found:
        return ""
    return found[Designator.ROOT] + found[Designator.ROOT_VERITY]


class LayerChange(NamedTuple):
    """What a swap changes in the layers.

    Attributes:
        all: the layers of the new stack, bottom to top.
        added: the new layers among them.
        replaced: the layers among them that were in the old stack with other content.
        removed: the layers of the old stack that are gone.
    """

    all: Sequence[Layer]
    added: Sequence[Layer]
    replaced: Sequence[Layer]
    removed: Sequence[Layer]
