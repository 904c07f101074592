# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find out, before a swap, which layers and which files it changes.

The new layers are those that the manager has loaded and the stage has. The old layers are in the note of the last swap,
and a layer has changed if its fingerprint differs from the one noted. Without a note, the old layers are read from the
release files in the running `/etc`, if these leave no doubt (service/releases.py), and a layer has changed if the
change time of a file is later than the start of the service; nobody can set a change time back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from confext_helpers.errors import ConfextError
from confext_helpers.image.naming import base_name, is_there, resolve
from confext_helpers.paths import ETC
from confext_helpers.service import fingerprint
from confext_helpers.service.fingerprint import Fingerprint
from confext_helpers.service.layers import Layer, LayerChange, load_layer
from confext_helpers.service.notes import LastSwap
from confext_helpers.service.processes import Process
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.service.releases import Layered, Release, lower_numbers, not_the_host_s, of_directory, of_etc, told
from confext_helpers.stage import etcmount
from confext_helpers.swap import treediff
from confext_helpers.swap.treediff import Difference, UnreadableError
from confext_helpers.system.descriptors import Descriptors
from confext_helpers.system.mountinfo import chain
from confext_helpers.system.namespaces import Namespaces

_SHOWN_MAX = 256
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# How many paths of each kind the report of a swap lists.
FILES_MAX = 200


class Change(NamedTuple):
    """What the next swap changes.

    Attributes:
        layers: the layers that change.
        files: the files that change.
        names: the names of image layers, by the device number that only the files of the layer have in the new `/etc`.
    """

    layers: LayerChange
    files: Difference
    names: dict[int, str]


class Trees(NamedTuple):
    """The descriptors of the trees that are compared.

    Attributes:
        old: the `/etc` of the service.
        new: the `/etc` of the stage.
        base: the `/etc` below the layers of both; None if it is in a root image, or cannot be opened.
    """

    old: int
    new: int
    base: int | None


def find(
    properties: ServiceProperties,
    process: Process,
    new_namespace: int,
    future: Fingerprint,
    last: LastSwap | None,
    limit: int | None = FILES_MAX,
) -> Change:
    """Compare the `/etc` of a service with that of its stage, and read every new file to its end.

    Args:
        process: one of the service's processes.
        new_namespace: descriptor of the stage's mount namespace.
        future: fingerprint of what the new `/etc` is made of.
        last: the note of the last swap, if this process is the same as then.
        limit: how many files of each kind to list; None for all.

    Raises:
        ConfextError: a new file cannot be read.
    """
    with open_trees(properties, process.namespace, new_namespace) as (old, new, base):
        below = of_etc(base) if base is not None else []
        seen = not_the_host_s(of_etc(new), below)
        was = not_the_host_s(of_etc(old), below)
        numbers = _numbers(new_namespace)
        layers = _of_etc(properties, numbers)
        here = told(layers, seen, len(numbers))
        try:
            same_base = last is not None and last.fingerprint.base == future.base
            devices = {one.device for one in seen}
            files = treediff.compare(
                old, new, base, layers=devices, directories=_directory_devices(layers, seen), same_base=same_base,
                limit=limit,
            )  # fmt: skip
        except UnreadableError as error:
            raise _unreadable(error, layers, here) from error
        if last is not None:
            found = _since_last(layers, future, last)
        else:
            before = told(layers, was, len(_numbers(process.namespace)))
            found = _since_start(layers, was, before, properties.start_usec)
        return Change(found, files, _names(layers, here))


@contextlib.contextmanager
def open_trees(properties: ServiceProperties, old: int, new: int) -> Iterator[Trees]:
    """Open the trees that are compared; close them at the end of the with statement.

    Args:
        old: descriptor of the service's mount namespace.
        new: descriptor of the stage's mount namespace.

    Raises:
        ConfextError: something else is at `/etc` of the stage, or it cannot be opened.
    """
    with etcmount.open_stage(new) as new_etc, Descriptors() as opened:
        with Namespaces() as namespaces:
            namespaces.enter(old)
            old_etc = opened.add(os.open(ETC, _DIRECTORY | os.O_NOFOLLOW))
        base = None
        if properties.base is not None:
            with contextlib.suppress(OSError):
                base = opened.add(os.open(properties.base, _DIRECTORY))
        yield Trees(old_etc, new_etc, base)


def _numbers(namespace: int) -> set[int]:
    """The numbers that systemd gave to the layers of the `/etc` in a mount namespace."""
    with Namespaces() as namespaces:
        namespaces.enter(namespace)
        found = chain(namespaces.mounts())
    return lower_numbers(found[-1].super_options) if found and found[-1].is_extension_overlay() else set()


def _of_etc(properties: ServiceProperties, numbers: set[int]) -> list[Layered]:
    """The layers that exist and have an `etc/`, bottom to top; the unit's own sysexts have none."""
    images = enumerate(properties.image_layers)
    found = [Layered(path, resolve(path), True) for number, path in images if number in numbers]
    trees = [Layered(path, resolve(path), False) for path in properties.directory_layers if is_there(path)]
    return found + [tree for tree in trees if os.path.isdir(f"{tree.file}/etc")]


def _directory_devices(layers: list[Layered], seen: list[Release]) -> set[int]:
    """The device numbers that files of directory layers have in the new `/etc`."""
    own = [one for layer in layers if not layer.image for one in of_directory(f"{layer.file}/etc")]
    return {one.device for one in seen if any((one.name, one.key[1:]) == (two.name, two.key[1:]) for two in own)}


def _names(layers: list[Layered], here: dict[str, Release] | None) -> dict[int, str]:
    return {
        here[layer.path].device: load_layer(layer.path).name
        for layer in layers
        if here is not None and layer.image and layer.path in here
    }


def _since_last(layers: list[Layered], future: Fingerprint, last: LastSwap) -> LayerChange:
    now = [load_layer(layer.path) for layer in layers]
    before, after = ({_key(layer, group): layer for layer in group} for group in (last.layers, now))
    digests = last.fingerprint.layers
    return LayerChange(
        all=now,
        added=[layer for key, layer in after.items() if key not in before],
        replaced=[
            layer
            for key, layer in after.items()
            if key in before and digests.get(before[key].path) != future.layers.get(layer.path)
        ],
        removed=[layer for key, layer in before.items() if key not in after],
    )


def _key(layer: Layer, group: list[Layer]) -> str:
    """The key that all versions of a layer share: the name, or the path if several layers have this name."""
    return layer.name if sum(one.name == layer.name for one in group) == 1 else layer.path


def _since_start(
    layers: list[Layered], was: list[Release], before: dict[str, Release] | None, start_usec: int
) -> LayerChange:
    """The change of layers if there is no note of a swap: only what certainly came, went or changed."""
    now = [load_layer(layer.path) for layer in layers]
    known = set(before.values()) if before is not None else set(was)
    return LayerChange(
        all=now,
        added=[layer for layer in now if before is not None and layer.path not in before],
        replaced=[
            layer
            for layer in now
            if (before is None or layer.path in before) and fingerprint.last_change_ns(layer.path) // 1000 > start_usec
        ],
        removed=[Layer(base_name(one.name) or one.name) for one in was if one not in known],
    )


def _unreadable(error: UnreadableError, layers: list[Layered], here: dict[str, Release] | None) -> ConfextError:
    found = []
    for layer in layers:
        shown = here.get(layer.path) if here is not None else None
        is_its_device = shown is not None and shown.device == error.device
        if is_its_device and (layer.image or os.path.lexists(f"{layer.file}/etc/{error.path}")):
            found.append(layer.path)
    if not found and len(layers) == 1:
        found = [layers[0].path]
    # Others than root may have made the path of any length.
    file = error.path if len(error.path) <= _SHOWN_MAX else f"{error.path[:_SHOWN_MAX]}..."
    return ConfextError(
        f"the new /etc/{file} cannot be read: {error.error.strerror}",
        path=found[0] if len(found) == 1 else "",
        hint="replace the image and reload again",
    )
