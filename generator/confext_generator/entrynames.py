# SPDX-License-Identifier: LGPL-2.1-or-later
"""Classify entries by name alone."""

from __future__ import annotations

from confext_generator import vpick, words

# Results of shape_of(); for `.raw.v/` the result is IMAGE | VERSIONS.
DIRECTORY, IMAGE, VERSIONS = 0, 1, 2

# ExtensionImages= accepts no path below these: path_below_api_vfs() in systemd's mountpoint-util.c.
API_FILE_SYSTEMS = (b"/dev/", b"/proc/", b"/sys/")

_IMAGE_SUFFIX = b".raw"
_VERSIONS_SUFFIX = vpick.DIRECTORY_SUFFIX

_TEMPORARY_SUFFIXES = (b"~", b".tmp", b".part", b".swp", b".bak")
_TEMPORARY_EXTENSIONS = (b"dpkg-", b"rpm")

# <linux/limits.h>; PATH_MAX counts the final NUL.
_NAME_MAX = 255
_PATH_MAX = 4096


def is_temporary(name: bytes) -> bool:
    """Return whether `name` is hidden, or looks like a leftover of an editor or a package manager."""
    return (
        name.startswith(b".")
        or name.endswith(_TEMPORARY_SUFFIXES)
        or (b"." in name and name.rpartition(b".")[2].startswith(_TEMPORARY_EXTENSIONS))
    )


def shape_of(path: bytes) -> int:
    """Return DIRECTORY, IMAGE, VERSIONS or IMAGE | VERSIONS, by the suffix of `path`."""
    if path.endswith(_IMAGE_SUFFIX):
        return IMAGE
    if path.endswith(_VERSIONS_SUFFIX):
        return IMAGE | VERSIONS if path.endswith(_IMAGE_SUFFIX + _VERSIONS_SUFFIX) else VERSIONS
    return DIRECTORY


def bare_name(name: bytes) -> bytes:
    """Return the entry's name without `.raw` and `.v`, as systemd-confext compares names."""
    return name.removesuffix(_VERSIONS_SUFFIX).removesuffix(_IMAGE_SUFFIX)


def is_expressible(path: bytes) -> bool:
    """Return whether `path` can be written into a unit file and accepted by systemd (path_simplify_and_warn())."""
    if len(path) < _NAME_MAX and path.isascii():
        return not words.has_control(path)
    return (
        len(path) < _PATH_MAX
        and all(len(part) <= _NAME_MAX for part in path.split(b"/"))
        and words.is_utf8(path)
        and not words.has_control(path)
    )
