# SPDX-License-Identifier: LGPL-2.1-or-later
"""Release files of confexts against the system: the name that they must have, and what has to match.

open_extension_release_at() in systemd's os-util.c and extension_release_validate() in its extension-util.c. systemd
also takes a file of another name if it has the attribute user.extension-release.strict=0; here the name has to be
right, since most tools that read a file system from outside do not tell attributes.
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
    """The system that an image is to fit.

    Attributes:
        fields: of its os-release file.
        architecture: in systemd's spelling; empty if any will do.
        path: of that file.
    """

    fields: Mapping[str, str]
    architecture: str
    path: str


def read_system(path: str, architecture: str) -> System:
    """Read an os-release file.

    Raises:
        ConfextError: it cannot be understood, or has no ID.
        OSError: it cannot be read.
    """
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        fields = releasefile.parse(file.read(_SIZE_MAX), path)
    if not fields.get("ID"):
        raise ConfextError("no ID= in the os-release file", path=path, hint="name another file")
    return System(fields, architecture, path)


def find(name: str, files: Collection[str]) -> str | None:
    """Which release file counts for an image.

    Args:
        name: of the image, see images.image_name().
        files: paths in the image, from its root on.
    """
    for candidate in release_names(name):
        path = f"{RELEASES}/{RELEASE_PREFIX}{candidate}"
        if path in files:
            return path
    return None


def missing(name: str, files: Collection[str]) -> Finding:
    """The finding that there is no release file for the image."""
    prefix = f"{RELEASES}/{RELEASE_PREFIX}"
    others = sorted(path.removeprefix(RELEASES + "/") for path in files if path.startswith(prefix))
    there = f", there is {', '.join(others[:3])}" if others else ""
    return Finding(Code.RELEASE_MISSING, f"there is no {prefix}{name}{there}")


def parse(raw: bytes, path: str) -> Mapping[str, str]:
    """The fields of a release file.

    Raises:
        ConfextError: it cannot be understood.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfextError("it is not UTF-8", path=path) from None
    return releasefile.parse(text, path)


def judge(fields: Mapping[str, str], system: System | None) -> list[Finding]:
    """Compare a release file with a system.

    Args:
        fields: of the release file.
        system: what it has to fit; None to look only at what every system asks for.
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
