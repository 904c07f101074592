# SPDX-License-Identifier: LGPL-2.1-or-later
"""Paths and names shared by several modules."""

from __future__ import annotations

from confext_generator.constants import SIDECAR_SUFFIXES

# The hook keeps its notes here, and mounts here.
RUN_DIRECTORY = "/run/unit-confext"
ETC = "/etc"


# The output directory of generators. systemd recreates it at each daemon-reload; unit settings change at no other time.
GENERATED = "/run/systemd/generator"

# The directory of the release file that makes a tree a confext (extension-release(5)), and the prefix of its name.
RELEASES = f"{ETC}/extension-release.d"
RELEASE_PREFIX = "extension-release."


def beside(image: str, suffix: str) -> str:
    """The path of `image` with `suffix` instead of `.raw`: build_auxiliary_path() in dissect-image.c."""
    return image.removesuffix(".raw") + suffix


def sidecars(image: str) -> list[str]:
    """The paths of all possible sidecar files of `image`; none if its name does not end in `.raw`."""
    return [beside(image, suffix.decode()) for suffix in SIDECAR_SUFFIXES] if image.endswith(".raw") else []
