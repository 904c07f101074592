# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the layers of an `/etc`, and their device numbers, if the release files leave a doubt (service/releases.py).

Each layer is read by itself (view/layerfiles.py), to find a witness: a file that no other layer has. If the service
sees this file with the layer's content, the layer runs, and the file's device number is the layer's. For a directory,
inode number and times of the file are the proof.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from confext_helpers.errors import ConfextError
from confext_helpers.paths import ETC
from confext_helpers.view import origin
from confext_helpers.view.layerfiles import Files
from confext_helpers.view.services import View

_TRIES_MAX = 200


def find(view: View, layers: Mapping[str, Files | None], host: Files | None, images: set[str]) -> dict[str, int]:
    """The device numbers of the layers that certainly run, by path.

    Args:
        view: what the service sees.
        layers: the files of each layer that may run, by path; None if they are not known.
        host: the files below all layers; None if they are not known.
        images: the paths of the layers that are images.
    """
    found: dict[str, int] = {}
    for path, files in layers.items():
        if files is None:
            continue
        others = [host, *(other for one, other in layers.items() if one != path)]
        known = [other for other in others if other is not None]
        if path in images and len(known) < len(others):
            continue
        for file in islice(files.files(), _TRIES_MAX):
            if path in images and any(other.has(file) for other in known):
                continue
            device = _device(view, file, files, known)
            if device is not None:
                found[path] = device
                break
    # Two file systems never share a device number: of two images that seem to, neither is certain.
    devices = list(found.values())
    return {path: device for path, device in found.items() if path not in images or devices.count(device) == 1}


def _device(view: View, path: str, files: Files, others: list[Files]) -> int | None:
    """The device number of the file at `path`, if it is the layer's file (`files`); else None."""
    overlay = view.overlay
    try:
        with origin.walk(view, path, "") as (place, links):
            if overlay is None or place.mount is None or place.mount.device != overlay.device:
                return None
            if any(link.path != ETC for link in links):
                return None
            if files.is_same(path, place.status):
                return None if any(other.is_same(path, place.status) for other in others) else place.status.st_dev
            content = origin.content_of(place)
            return place.status.st_dev if content and files.content(path) == content else None
    except ConfextError:
        return None
