# SPDX-License-Identifier: LGPL-2.1-or-later
"""Paths and names that several modules agree on."""

from __future__ import annotations

from confext_generator.entrynames import SIDECAR_SUFFIXES

# What the hook keeps and mounts things in.
RUN_DIRECTORY = "/run/unit-confext"
ETC = "/etc"


# The generator's drop-ins are in it, and systemd makes it anew whenever it loads units; their settings do not change
# otherwise.
GENERATED = "/run/systemd/generator"

# Where a tree has what makes it a confext: extension-release(5), and what the names of those files begin with.
RELEASES = f"{ETC}/extension-release.d"
RELEASE_PREFIX = "extension-release."


def beside(image: str, suffix: str) -> str:
    """The file of an image that has this suffix instead of `.raw`: build_auxiliary_path() in dissect-image.c."""
    return image.removesuffix(".raw") + suffix


def sidecars(image: str) -> list[str]:
    """The files that may lie beside an image and belong to it; none if it is not called `.raw`."""
    return [beside(image, suffix.decode()) for suffix in SIDECAR_SUFFIXES] if image.endswith(".raw") else []
