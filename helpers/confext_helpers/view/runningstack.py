# SPDX-License-Identifier: LGPL-2.1-or-later
"""The types for the stack that a service runs; view/running.py finds out their values."""

from __future__ import annotations

import os
from typing import NamedTuple

from confext_helpers.image.naming import base_name, layer_name
from confext_helpers.service.layers import Layer


class Running(NamedTuple):
    """A layer that runs, or is loaded and does not run.

    Attributes:
        layer: the layer as a restart would mount it; only `name` is known if it is not loaded any more.
        image: whether the layer is an image, not a directory; None if that is not known.
        release: the name of its release file in the service's `/etc`; empty if the layer does not run.
        file: the path of what runs, which may be another file's by now; empty if nothing runs, or it is not known.
        device: the device number of the layer's files in the service's `/etc`.
        changed: whether its files changed since the stack was made; None if that is not known.
        source: where to read what runs, or would run: the file, the directory, or the loop device if the file was
            replaced; empty if that is not known.
        enforced: whether the image is read through dm-verity, so that only data of its root hash can be read; None if
            that is not known.
        certain: False if it is not known whether the layer runs.
    """

    layer: Layer
    image: bool | None
    release: str = ""
    file: str = ""
    device: int = 0
    changed: bool | None = None
    source: str = ""
    enforced: bool | None = None
    certain: bool = True

    @property
    def label(self) -> str:
        """The name to show to users."""
        if self.release:
            return os.path.basename(self.file.rstrip("/")) or self.release
        return self.layer.label

    @property
    def version(self) -> str:
        """The version that runs, or that would run; empty if there is none, or it is not known."""
        if not self.release:
            return self.layer.version
        return version_of(layer_name(self.file)) or version_of(self.release)


class Since(NamedTuple):
    """When an `/etc` was stacked.

    Attributes:
        usec: microseconds since the epoch.
        by_swap: whether `usec` is the time of a swap, not the start of the process.
        certain: False if the `/etc` may be newer, since a hook that was killed may have swapped it without a note.
    """

    usec: int
    by_swap: bool
    certain: bool


class RunningStack(NamedTuple):
    """The stack of a service.

    Attributes:
        layers: the loaded layers, from bottom to top, then those that run but are not loaded any more.
        complete: whether all layers of the overlay are known.
        base_changed: whether anything in the `/etc` below the layers changed since then; None if that is not known.
    """

    layers: list[Running]
    since: Since
    complete: bool
    base_changed: bool | None = False


def version_of(name: str) -> str:
    """The version in the name of a confext; empty if there is none."""
    return name[len(base_name(name)) + 1 :] if base_name(name) else ""
