# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stack that runs, as a value: what `view/running.py` finds out."""

from __future__ import annotations

import os
from typing import NamedTuple

from confext_helpers.image.naming import base_name, layer_name
from confext_helpers.service.layers import Layer


class Running(NamedTuple):
    """A layer, as far as it runs.

    Attributes:
        layer: what it would be now; only `name` is known of one that is not loaded any more.
        image: whether it is one, and not a directory; None if that is not known.
        release: the name of its release file in the service's `/etc`; empty if it does not run.
        file: the file or directory that runs; empty if none does, or that is not known. Another one may have its name.
        device: the device number of its files there.
        changed: whether its files changed since it was stacked; None if that is not known.
        source: where what runs, or would run, can be read: the file, the loop device of one that another file took the
            place of, the directory; empty if that is not known.
        enforced: whether dm-verity is between the image and its readers, so that no data but those of the root hash can
            be read; None if that is not known.
        certain: whether it is known whether it runs.
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
        """What people call it."""
        if self.release:
            return os.path.basename(self.file.rstrip("/")) or self.release
        return self.layer.label

    @property
    def version(self) -> str:
        """Its version, or that of the one that runs; empty if it has none, or it is not known."""
        if not self.release:
            return self.layer.version
        return version_of(layer_name(self.file)) or version_of(self.release)


class Since(NamedTuple):
    """When an `/etc` was stacked.

    Attributes:
        usec: microseconds since the epoch.
        by_swap: whether that is when the hook put it in place, and not when the process started.
        certain: whether it cannot be newer; it can if a hook was cut off, and could not say what it had done.
    """

    usec: int
    by_swap: bool
    certain: bool


class RunningStack(NamedTuple):
    """What runs.

    Attributes:
        layers: those that are loaded, from bottom to top, and then those that are not.
        since: when it was stacked.
        complete: whether it is known which layer each one of the overlay is.
        base_changed: whether anything happened in the `/etc` below the layers since then; None if that is not known.
    """

    layers: list[Running]
    since: Since
    complete: bool
    base_changed: bool | None = False


def version_of(name: str) -> str:
    """The version in the name of a confext; empty if there is none."""
    return name[len(base_name(name)) + 1 :] if base_name(name) else ""
