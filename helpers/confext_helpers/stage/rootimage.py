# SPDX-License-Identifier: LGPL-2.1-or-later
"""Refuse a service if its stage would mount the service's root image, or one of MountImages=, writable.

systemd opens a root image read-only if the settings say that the service cannot write to it. Otherwise the stage would
mount the file system a second time while the service has it mounted: two instances that know nothing of each other
write to the same blocks and damage it, and the second may show old files. File systems that are always read-only are
safe.
"""

from __future__ import annotations

import os

from confext_helpers.errors import ConfextError
from confext_helpers.paths import beside
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.stage import targets

_ROOT = "/"
_HOME = "/home"


def is_read_only(properties: ServiceProperties) -> bool:
    """Whether systemd mounts the root image of a service read-only (namespace_read_only() in its namespace.c)."""
    if not properties.root_image:
        return False

    def has(path: str, *names: str) -> bool:
        found = (entry.target for entry in properties.entries(*names))
        return any(targets.is_within(path, place) and targets.is_within(place, path) for place in found)

    root = properties.protect_system == "strict" or has(_ROOT, "ReadOnlyPaths")
    home = properties.protect_home != "no" or has(
        _HOME, "ReadOnlyPaths", "InaccessiblePaths", "TemporaryFileSystem", "BindPaths", "BindReadOnlyPaths"
    )
    return root and home and not properties.entries("ReadWritePaths")


def check(properties: ServiceProperties, mounted: list[str] | None = None) -> None:
    """Refuse a service whose stage would mount an image writable.

    Args:
        mounted: the images that MountImages= mounts in the service's `/etc`.

    Raises:
        ConfextError: an image would be writable, or that cannot be known.
    """
    path = properties.root_image
    hashed = properties.has_root_hash or _has_hash_file(path)
    if path and not is_read_only(properties) and (writable := _writable(path, hashed)):
        raise ConfextError(
            f"the new /etc cannot be built while the service may write its root image: {writable}",
            path=path,
            hint="make it read-only (ProtectSystem=strict, ProtectHome=yes, no ReadWritePaths=) or restart the service",
        )
    for path in mounted or []:
        if writable := _writable(path, _has_hash_file(path)):
            raise ConfextError(
                f"the new /etc cannot be built while the service may write an image of MountImages=: {writable}",
                path=path,
                hint="make it an erofs or squashfs, or restart the service instead",
            )


def _writable(path: str, hashed: bool) -> str:
    """What in an image could be written to, in words; empty if nothing.

    Args:
        path: of the image.
        hashed: whether the image has a given root hash.
    """
    from confext_helpers.image import filesystems, gpt
    from confext_helpers.image.bytesource import open_source
    from confext_helpers.image.naming import resolve
    from confext_helpers.image.partitiontypes import Designator

    try:
        source = open_source(resolve(path))
    except (OSError, ConfextError):
        return ""  # systemd will say why it cannot be opened.
    try:
        table, findings = gpt.read(source)
        found = [] if table is not None else [system.kind for system in filesystems.probe(source)]
        if table is None and (findings or not found):
            return "its content is not known"
        if table is None:
            whole = "" if hashed else next((kind for kind in found if kind not in filesystems.READ_ONLY), "")
            return f"it has {whole}" if whole else ""
        types = {partition.type.designator for partition in table.partitions if partition.type is not None}
        hashed = hashed or Designator.ROOT_VERITY_SIG in types or Designator.USR_VERITY_SIG in types
        for partition in table.partitions:
            designator = partition.type.designator if partition.type is not None else None
            if designator is None or partition.flags & (gpt.FLAG_READ_ONLY | gpt.FLAG_NO_AUTO):
                continue
            if hashed and designator.verity in types:
                continue
            for system in filesystems.probe(source.part(partition.offset, partition.size)):
                if system.kind in (filesystems.MOUNTABLE | {filesystems.Kind.LUKS}) - filesystems.READ_ONLY:
                    return f"partition {partition.number} has {system.kind}"
        return ""
    finally:
        os.close(source.fd)


def _has_hash_file(path: str) -> bool:
    """Whether an image has a `.roothash` file beside it: what dm-verity protects cannot be written."""
    return os.path.exists(beside(path, ".roothash"))
