# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of images and layers: the name that systemd derives from a path, and the version it picks in a `.v/` directory.

systemd does not enforce the name of the release file if a missing image is to be ignored (the `-` before a path, which
the generator writes): it mistakes the missing release file for a missing image, but has mounted the image by then
(mount_image() in namespace.c, up to 262 at least). So a stage has no `-` before a layer that exists. A block device
keeps the `-`: systemd would ask for a release file with the name of the device node.
"""

from __future__ import annotations

import os
import stat

from confext_generator.tree import Tree
from confext_helpers.system import patience

# raw_strip_suffixes() in systemd's import-util.c removes these repeatedly.
_SUFFIXES = (".sysext.raw", ".confext.raw", ".xz", ".gz", ".bz2", ".raw", ".qcow2", ".img", ".bin")


def image_name(path: str) -> str:
    """The name that systemd gives an image: its file name without suffixes."""
    name = os.path.basename(path)
    while suffix := next((one for one in _SUFFIXES if name.endswith(one)), ""):
        name = name.removesuffix(suffix)
    return name


def layer_name(path: str) -> str:
    """The name that systemd gives a layer; a layer is an image if its name ends in `.raw`."""
    return image_name(path) if path.endswith(".raw") else os.path.basename(path.rstrip("/"))


def base_name(name: str) -> str:
    """The name of a confext without its version: path_extract_image_name() in systemd's os-util.c."""
    return name.partition("+")[0].partition("_")[0]


def release_names(name: str) -> tuple[str, ...]:
    """The names that may follow `extension-release.` in a confext called `name`, the preferred one first."""
    base = base_name(name)
    return (name, base) if base else (name,)


def resolve(path: str) -> str:
    """The file that systemd picks for `path`: the newest version in a `.v/` directory (systemd.v(7)), or `path`."""
    if patience.is_silent(path):
        return path.removesuffix(".v")
    if not path.endswith(".v"):
        return path
    try:
        from confext_generator import vpick  # Only needed for `.v/` directories.

        picked = vpick.pick(Tree(b""), os.fsencode(path), image=path.endswith(".raw.v"))
    except OSError:
        return path
    return os.fsdecode(picked) if picked else path


def is_there(path: str) -> bool:
    """Whether systemd finds a layer to mount at `path`; systemd skips a `.v/` directory without a fitting version."""
    if patience.is_silent(path):
        return True
    file = resolve(path)
    return os.path.exists(file) and not (file == path and path.endswith(".v") and os.path.isdir(path))


def has_strict_name(path: str) -> bool:
    """Whether systemd may enforce the name of the release file of the layer at `path`; see the top of this module."""
    file = resolve(path)
    return is_there(path) and not is_block_device(file)


def is_block_device(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def is_lax(path: str) -> bool:
    """Whether a release file has the extended attribute that lets it have any name: os-release(5)."""
    try:
        return os.getxattr(path, "user.extension-release.strict").lower() in (b"0", b"no", b"n", b"false", b"f", b"off")
    except OSError:
        return False
