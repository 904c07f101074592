"""Images, as far as the kernel does not look at them itself.

The kernel mounts an erofs that has lost its end, and only reading from it fails then, in the service. The same is
true of a GPT image whose last partition is cut short. So this compares the size that an image says it has with that
of the file; it reads the first two sectors at most.

Nor does systemd look at the name of the release file where a missing image is to be ignored (the `-` in front of a
path, which the generator writes): it takes the missing release file for a missing image, but has mounted that by then
(mount_image() in namespace.c, up to 262 at least).
"""

from __future__ import annotations

import os
import stat
import struct

from confext_generator import vpick
from confext_generator.tree import Tree
from confext_helpers.errors import ConfextError

_SECTOR = 512
_EROFS_OFFSET = 1024
_EROFS_MAGIC = 0xE0F5E1E2
_HEAD = 4096


def claimed_size(head: bytes) -> int:
    """The size in bytes that an image says it has, by its first 4096 bytes; 0 if that is not known.

    GPT: UEFI specification, "GPT Header" (AlternateLBA is the last sector). erofs and squashfs: the super blocks in
    the kernel's fs/erofs/erofs_fs.h and fs/squashfs/squashfs_fs.h.
    """
    if head[_SECTOR : _SECTOR + 8] == b"EFI PART":
        (alternate,) = struct.unpack_from("<Q", head, _SECTOR + 32)
        return int(alternate + 1) * _SECTOR
    if head[:4] == b"hsqs" and len(head) >= 48:
        (used,) = struct.unpack_from("<Q", head, 40)
        return int(used)
    if len(head) >= _EROFS_OFFSET + 40 and struct.unpack_from("<I", head, _EROFS_OFFSET)[0] == _EROFS_MAGIC:
        (bits,) = struct.unpack_from("<B", head, _EROFS_OFFSET + 12)
        (blocks,) = struct.unpack_from("<I", head, _EROFS_OFFSET + 36)
        return int(blocks) << int(min(bits, 16))
    return 0


def resolve(path: str) -> str:
    """The image that systemd picks for `path`: the newest in a `.v/` directory (systemd.v(7)), or `path` itself."""
    if not path.endswith(".v"):
        return path
    try:
        picked = vpick.pick(Tree(b""), os.fsencode(path), image=path.endswith(".raw.v"))
    except OSError:
        return path
    return os.fsdecode(picked) if picked else path


def check_whole(unit: str, path: str) -> None:
    """Refuse an image file that has lost its end.

    Args:
        unit: the service that it is a layer of.
        path: what ExtensionImages= names. What is no regular file, or cannot be read, is systemd's to judge.

    Raises:
        ConfextError: it says that it is larger than it is.
    """
    path = resolve(path)
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return
            claimed = claimed_size(file.read(_HEAD))
    except OSError:
        return
    if claimed > status.st_size:
        raise ConfextError(
            f"/etc is unchanged, the image is cut short: it has {status.st_size} of {claimed} bytes",
            unit=unit,
            path=path,
            hint="replace it and reload again",
        )


def check_releases(unit: str, layers: list[str], directory: str) -> None:
    """Refuse a layer without a release file of its name: systemd-confext(8), os-release(5).

    Args:
        unit: the service that they are layers of.
        layers: what ExtensionImages= and ExtensionDirectories= name; what is not there is no layer.
        directory: `/etc/extension-release.d` with all layers in place.

    Raises:
        ConfextError: a layer has none.
    """
    try:
        names = os.listdir(directory)
    except OSError:
        names = []
    # A file that says so with this attribute goes with any name.
    if any(_is_lax(f"{directory}/{name}") for name in names):
        return
    for layer in layers:
        path = resolve(layer)
        name = os.path.basename(path.rstrip("/")).removesuffix(".raw")
        wanted = {f"extension-release.{name}", f"extension-release.{name.partition('_')[0]}"}
        if os.path.exists(path) and not wanted & set(names):
            raise ConfextError(
                f"/etc is unchanged, the layer has no extension-release.{name} in its /etc/extension-release.d",
                unit=unit,
                path=path,
                hint="give the image the name that it was built with, or build it anew, and reload again",
            )


def _is_lax(path: str) -> bool:
    try:
        return os.getxattr(path, "user.extension-release.strict").lower() in (b"0", b"no", b"n", b"false", b"f", b"off")
    except OSError:
        return False
