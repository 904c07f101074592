# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check the release file of a confext: its name, and whether its fields match the system.

This follows open_extension_release_at() in systemd's os-util.c and extension_release_validate() in its
extension-util.c. systemd also accepts a file of another name if it has the extended attribute
user.extension-release.strict=0. Here the name has to be right, since most tools that read an unmounted file system do
not show extended attributes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from confext_helpers.errors import ConfextError
from confext_helpers.image import releasefile
from confext_helpers.image.findings import Code, Finding
from confext_helpers.image.naming import release_names
from confext_helpers.paths import RELEASE_PREFIX, RELEASES

_SIZE_MAX = 64 * 1024


class System(NamedTuple):
    """The target system of an image.

    Attributes:
        fields: the fields of its os-release file.
        architecture: in systemd's spelling; empty to accept any.
        path: the path of its os-release file.
    """

    fields: Mapping[str, str]
    architecture: str
    path: str


def read_system(path: str, architecture: str) -> System:
    """Read an os-release file.

    Raises:
        ConfextError: the file is malformed or has no ID=.
        OSError: the file cannot be read.
    """
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        fields = releasefile.parse(file.read(_SIZE_MAX), path)
    if not fields.get("ID"):
        raise ConfextError("no ID= in the os-release file", path=path, hint="name another file")
    return System(fields, architecture, path)


def find(name: str, files: Collection[str]) -> str | None:
    """The path of the release file that systemd uses for an image; None if there is none.

    Args:
        name: the name of the image, see naming.image_name().
        files: paths of files in the image, from its root.
    """
    for candidate in release_names(name):
        path = f"{RELEASES}/{RELEASE_PREFIX}{candidate}"
        if path in files:
            return path
    return None


def missing(name: str, files: Collection[str]) -> Finding:
    """The finding for a missing release file; it names release files of other names."""
    prefix = f"{RELEASES}/{RELEASE_PREFIX}"
    others = sorted(path.removeprefix(RELEASES + "/") for path in files if path.startswith(prefix))
    there = f", there is {', '.join(others[:3])}" if others else ""
    return Finding(Code.RELEASE_MISSING, f"there is no {prefix}{name}{there}")


def parse(raw: bytes, path: str) -> Mapping[str, str]:
    """Parse a release file.

    Raises:
        ConfextError: the file is malformed.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfextError("it is not UTF-8", path=path) from None
    return releasefile.parse(text, path)


def judge(fields: Mapping[str, str], system: System | None) -> list[Finding]:
    """Check a release file against the target system.

    Args:
        fields: the fields of the release file.
        system: the target system; None to check only what every system requires.
    """
    identifier = fields.get("ID", "")
    if not identifier:
        return [Finding(Code.RELEASE_MALFORMED, "the release file has no ID=")]
    if system is None:
        return []
    architecture = fields.get("ARCHITECTURE", "")
    if system.architecture and architecture not in ("", "_any", system.architecture):
        return [_mismatch("ARCHITECTURE", architecture, system.architecture)]
    if identifier == "_any":
        return []
    host = system.fields
    if identifier not in (host["ID"], *host.get("ID_LIKE", "").split()):
        return [_mismatch("ID", identifier, host["ID"])]
    host_level, level = host.get("CONFEXT_LEVEL", ""), fields.get("CONFEXT_LEVEL", "")
    host_version = host.get("VERSION_ID", "")
    if host_level and level:
        return [] if level == host_level else [_mismatch("CONFEXT_LEVEL", level, host_level)]
    version = fields.get("VERSION_ID", "")
    if host_version and version != host_version:
        return [_mismatch("VERSION_ID", version, host_version)]
    return []


def _mismatch(name: str, found: str, wanted: str) -> Finding:
    return Finding(Code.RELEASE_MISMATCH, f"{name}={found} is not the {name}={wanted} of the system")
