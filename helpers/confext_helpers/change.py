"""What the next swap changes, found out before it is made: which layers, and which files.

The old layers are those that the running `/etc` shows, the new ones those that the manager has loaded and the stage
shows (stacks.py). Whether a layer of the same name has other content is known from what was noted about the last swap.
Before the first one it is known by the change time, which nobody can set back, of a file that came or changed since the
service was started.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from confext_helpers import difference, identity, stacks
from confext_helpers.bus import Properties
from confext_helpers.difference import Difference, UnreadableError
from confext_helpers.errors import ConfextError
from confext_helpers.identity import Identity
from confext_helpers.messages import FILES_MAX, LayerChange
from confext_helpers.mounts import ETC, Namespaces
from confext_helpers.notes import Stack
from confext_helpers.processes import Process
from confext_helpers.stacks import Layer
from confext_helpers.stage import layer_paths

_SHOWN_MAX = 256
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Change(NamedTuple):
    """What the next swap changes."""

    layers: LayerChange
    files: Difference


def find(
    unit: str,
    properties: Properties,
    process: Process,
    new_namespace: int,
    made_of: Identity,
    last: Stack | None,
    limit: int | None = FILES_MAX,
) -> Change:
    """Compare the `/etc` that a service has with that of its stage, and read all that is new to its end.

    Args:
        unit: the service.
        properties: of it.
        process: one of its processes.
        new_namespace: descriptor of the stage's mount namespace.
        made_of: what the new `/etc` is made of.
        last: what is noted about the last swap, if that was one of this process.
        limit: how many files of each kind to list; None for all.

    Raises:
        ConfextError: a new file cannot be read.
    """
    old, new, base = open_trees(properties, process.namespace, new_namespace)
    try:
        layers = stacks.loaded(properties)
        below = stacks.seen(base) if base is not None else {}
        now = _own(stacks.seen(new), below, layers)
        was = _own(stacks.seen(old), below, layers if last is None else last.layers)
        try:
            same_base = last is not None and last.identity.base == made_of.base
            directories = _directory_devices(properties, _match(layers, now), now)
            files = difference.compare(
                old, new, base, layers=now.values(), directories=directories, same_base=same_base, limit=limit
            )
        except UnreadableError as error:
            raise _unreadable(unit, error, _match(layers, now), now) from error
        return Change(_layers(layers, now, was, made_of, last, start_usec(properties)), files)
    finally:
        for fd in (old, new, base):
            if fd is not None:
                os.close(fd)


def open_trees(properties: Properties, old: int, new: int) -> tuple[int, int, int | None]:
    """Open the `/etc` of two mount namespaces, and the one that lies below the layers of both.

    Args:
        properties: of the service.
        old: descriptor of the service's mount namespace.
        new: descriptor of the stage's.

    Returns:
        Three descriptors; None for the last one if it is within an image, or if there is none.
    """
    with Namespaces() as namespaces:
        namespaces.enter(old)
        old_etc = os.open(ETC, _DIRECTORY | os.O_NOFOLLOW)
        namespaces.enter(new)
        new_etc = os.open(ETC, _DIRECTORY | os.O_NOFOLLOW)
    if any(properties.get(name, ("", ""))[1] for name in ("RootImage", "RootMStack")):
        return old_etc, new_etc, None
    root = str(properties.get("RootDirectory", ("s", ""))[1])
    try:
        return old_etc, new_etc, os.open(root + ETC, _DIRECTORY)
    except OSError:
        return old_etc, new_etc, None


def _own(seen: dict[str, int], below: dict[str, int], layers: list[Layer]) -> dict[str, int]:
    """What is seen of a stack, without what is the host's own (it may have confexts for the whole system)."""
    names = {layer.name for layer in layers}
    return {name: device for name, device in seen.items() if name not in below or name in names}


def _match(layers: list[Layer], names: dict[str, int]) -> dict[str, Layer]:
    """The layers by the names that are seen of them.

    These can differ, where a release file says that it goes with any name; then only one can be told.
    """
    found = {layer.name: layer for layer in layers if layer.name in names}
    others = [layer for layer in layers if layer.name not in names]
    unknown = [name for name in names if name not in found]
    if len(others) == len(unknown) == 1:
        found[unknown[0]] = others[0]
    return found


def _directory_devices(properties: Properties, layers: dict[str, Layer], devices: dict[str, int]) -> set[int]:
    """The device numbers of the files of directory layers."""
    name = "ExtensionDirectories"
    paths = layer_paths({name: properties[name]}) if name in properties else []
    found = {devices[name] for name, layer in layers.items() if layer.path in paths}
    return found - {device for name, device in devices.items() if name not in layers or layers[name].path not in paths}


def start_usec(properties: Properties) -> int:
    """When the service was started, in microseconds since the epoch; 0 if that is not known."""
    value = properties.get("ExecMainStartTimestamp", ("t", 0))[1]
    return value if isinstance(value, int) else 0


def _layers(
    layers: list[Layer],
    now: dict[str, int],
    was: dict[str, int],
    made_of: Identity,
    last: Stack | None,
    start_usec: int,
) -> LayerChange:
    new = _match(layers, now)
    old = _match([] if last is None else last.layers, was)

    def is_replaced(name: str, layer: Layer) -> bool:
        before = old.get(name)
        if last is None or before is None:
            return identity.changed(layer.path) // 1000 > start_usec
        return last.identity.layers.get(before.path) != made_of.layers.get(layer.path)

    return LayerChange(
        all=layers,
        added=[layer for name, layer in new.items() if name not in was],
        replaced=[layer for name, layer in new.items() if name in was and is_replaced(name, layer)],
        removed=[old.get(name, Layer(name)) for name in was if name not in now],
    )


def _unreadable(unit: str, error: UnreadableError, layers: dict[str, Layer], devices: dict[str, int]) -> ConfextError:
    names = [name for name, device in devices.items() if device == error.device]
    if not names and len(layers) == 1:
        names = list(layers)
    layer = layers.get(names[0]) if len(names) == 1 else None
    # Others than root may have made it as long as they like.
    file = error.path if len(error.path) <= _SHOWN_MAX else f"{error.path[:_SHOWN_MAX]}..."
    return ConfextError(
        f"the new /etc/{file} cannot be read: {error.error.strerror}",
        unit=unit,
        path=layer.path if layer is not None else "",
        hint="replace the image and reload again",
    )
