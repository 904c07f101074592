# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find out the version of systemd without running it.

257 and older never refresh confexts themselves. 258 and 259 do so at `systemctl reload` if a layer is a `.v/` path,
and have no setting to turn that off. 260 and newer have RefreshOnReload=. From 259 on, systemd signals a
Type=notify-reload service after ExecReload= instead of before.
"""

from __future__ import annotations

import posix as os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from confext_generator.tree import Tree

ENVIRONMENT = "UNIT_CONFEXT_SYSTEMD_VERSION"

_LIBRARIES = (b"libsystemd-core-", b"libsystemd-shared-")
_LIBRARY_DIRS = (b"/usr/lib/systemd", b"/usr/lib64/systemd")
_MULTIARCH_DIR = b"/usr/lib"


def find_version(tree: Tree, environ: Mapping[str, str]) -> int | None:
    """Return the version of systemd, None if unknown.

    Sources, in this order: the environment variable; the libraries mapped by the running manager, which may be older
    than the installed ones until the manager is re-executed; the installed libraries.
    """
    given = environ.get(ENVIRONMENT, "")
    if given:
        return _leading_number(given.encode())
    if not tree.root:
        version = _running_version(b"/proc/1/maps")
        if version is not None:
            return version
    return _installed_version(tree)


def _running_version(maps: bytes) -> int | None:
    try:
        fd = os.open(maps, os.O_RDONLY)
    except OSError:
        return None  # No /proc, or no permission.
    try:
        rest = b""
        while True:
            chunk = os.read(fd, 1 << 16)
            if not chunk:
                return None
            lines = rest + chunk
            for library in _LIBRARIES:
                _, found, after = lines.partition(library)
                # Without a newline the number may continue in the next chunk.
                if found and b"\n" in after:
                    return _leading_number(after)
            rest = lines.rpartition(b"\n")[2]
    except OSError:
        return None
    finally:
        os.close(fd)


def _installed_version(tree: Tree) -> int | None:
    directories = list(_LIBRARY_DIRS)
    try:
        for name in sorted(os.listdir(tree.real(_MULTIARCH_DIR))):
            # Debian's multiarch directories, e.g. x86_64-linux-gnu.
            if b"-linux-" in name:
                directories.append(_MULTIARCH_DIR + b"/" + name + b"/systemd")
    except OSError:
        pass
    for directory in directories:
        versions = []
        try:
            listing = os.listdir(tree.real(directory))
        except OSError:
            continue
        for name in listing:
            for library in _LIBRARIES:
                if name.startswith(library):
                    version = _leading_number(name[len(library) :])
                    if version is not None:
                        versions.append(version)
        if versions:
            return max(versions)
    return None


def _leading_number(text: bytes) -> int | None:
    digits = text[: len(text) - len(text.lstrip(b"0123456789"))]
    return int(digits) if digits else None
