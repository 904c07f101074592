# SPDX-License-Identifier: LGPL-2.1-or-later
"""The names of images and layers: what systemd makes of a path, and which version it picks in a `.v/` directory.

systemd does not look at the name of the release file where a missing image is to be ignored (the `-` in front of a
path, which the generator writes): it takes the missing release file for a missing image, but has mounted that by then
(mount_image() in namespace.c, up to 262 at least). So a stage has no `-` in front of a layer that is there. A block
device keeps it: systemd would want a release file with the name of the node.
"""

from __future__ import annotations

import os
import stat

from confext_generator import vpick
from confext_generator.tree import Tree
from confext_helpers.system import patience

# raw_strip_suffixes() in systemd's import-util.c takes them off as often as there is one.
_SUFFIXES = (".sysext.raw", ".confext.raw", ".xz", ".gz", ".bz2", ".raw", ".qcow2", ".img", ".bin")


def image_name(path: str) -> str:
    """The name that systemd gives an image: its file name without suffixes."""
    name = os.path.basename(path)
    while suffix := next((one for one in _SUFFIXES if name.endswith(one)), ""):
        name = name.removesuffix(suffix)
    return name


def layer_name(path: str) -> str:
    """The name that systemd gives a layer, which is an image only if it is called so."""
    return image_name(path) if path.endswith(".raw") else os.path.basename(path.rstrip("/"))


def base_name(name: str) -> str:
    """The name of a confext without its version; path_extract_image_name() in systemd's os-util.c."""
    return name.partition("+")[0].partition("_")[0]


def release_names(name: str) -> tuple[str, ...]:
    """What may follow `extension-release.` in a confext called `name`, the best first."""
    base = base_name(name)
    return (name, base) if base else (name,)


def resolve(path: str) -> str:
    """The image that systemd picks for `path`: the newest in a `.v/` directory (systemd.v(7)), or `path` itself."""
    if patience.is_silent(path):
        return path.removesuffix(".v")
    if not path.endswith(".v"):
        return path
    try:
        picked = vpick.pick(Tree(b""), os.fsencode(path), image=path.endswith(".raw.v"))
    except OSError:
        return path
    return os.fsdecode(picked) if picked else path


def is_there(path: str) -> bool:
    """Whether there is anything at `path` for systemd to mount; it passes over a `.v/` directory without a version."""
    if patience.is_silent(path):
        return True
    file = resolve(path)
    return os.path.exists(file) and not (file == path and path.endswith(".v") and os.path.isdir(path))


def has_strict_name(path: str) -> bool:
    """Whether systemd can be left to look at the release file of what is at `path`, see above."""
    file = resolve(path)
    return is_there(path) and not is_block_device(file)


def is_block_device(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def is_lax(path: str) -> bool:
    """Whether a release file has the attribute that makes its name unimportant: os-release(5)."""
    try:
        return os.getxattr(path, "user.extension-release.strict").lower() in (b"0", b"no", b"n", b"false", b"f", b"off")
    except OSError:
        return False
