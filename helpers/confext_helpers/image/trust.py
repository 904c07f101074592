# SPDX-License-Identifier: LGPL-2.1-or-later
"""Load trust anchors: the certificates whose keys may sign.

Certificates that come with a signature are never trusted, and there are no chains: a signer is trusted only if its own
certificate is a trust anchor, as in validate_signature_userspace() in systemd's dissect-image.c. A directory is read
as systemd reads /etc/verity.d: all files named `*.crt`, sorted by name. A file in an earlier directory hides files of
the same name in later ones; an empty file or a symlink to /dev/null masks the name. Only the first certificate in each
file counts, and only in PEM.

Of several certificates with the same issuer and serial number OpenSSL uses the first, whatever its key. So a file that
systemd may be able to parse, but this module cannot, must not be skipped: the list has a placeholder for it.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import stat
from collections.abc import Iterable, Sequence

from confext_generator.tree import Tree
from confext_helpers.errors import ConfextError
from confext_helpers.image import certificates
from confext_helpers.image.certificates import Certificate
from confext_helpers.image.der import DerError
from confext_helpers.system import regular

# CONF_PATHS("verity.d") of systemd.
DIRECTORIES = ("/etc/verity.d", "/run/verity.d", "/usr/local/lib/verity.d", "/usr/lib/verity.d")
_SIZE_MAX = 1 << 20
# OpenSSL reads lines of up to 254 bytes, splits longer ones, and ignores trailing white space.
_LINE_MAX = 250
_DASHES = b"-----BEGIN"
_PEM = re.compile(rb"-----BEGIN ((?:X509 )?CERTIFICATE)-----\n((?:[A-Za-z0-9+/=]+\n)+)-----END \1-----(?:\n|\Z)")


def load(paths: Sequence[str], root: str = "") -> list[Certificate]:
    """Load trust anchors.

    Args:
        paths: directories, and files in PEM or DER, all of whose certificates count; if empty, systemd's directories.
        root: the root directory of the system whose verity.d directories are read.

    Raises:
        ConfextError: a named file contains no certificate, is malformed, or is too large.
        OSError: a named file or directory is missing or cannot be read.
    """
    if not paths:
        return _load_directories(DIRECTORIES, Tree(os.fsencode(root)))
    anchors: list[Certificate] = []
    for path in paths:
        if os.path.isdir(path):
            anchors += _load_directories([path], Tree())
            continue
        found = _read_file(path)
        if not found:
            raise ConfextError("there is no certificate in it", path=path, hint="name a file in PEM or DER")
        anchors += found
    return anchors


def _load_directories(directories: Iterable[str], tree: Tree) -> list[Certificate]:
    """The anchors in these directories: conf_files_list_nulstr() with the flags REGULAR and FILTER_MASKED."""
    found: dict[bytes, str] = {}
    masked: set[bytes] = set()
    for directory in directories:
        names: list[bytes] = []
        with contextlib.suppress(OSError):
            names = os.listdir(tree.real(os.fsencode(directory)))
        for name in names:
            if not name.endswith(b".crt") or name.startswith(b".") or name in found or name in masked:
                continue
            with contextlib.suppress(OSError):
                real = tree.real(os.fsencode(directory) + b"/" + name)
                # Below another root directory, /dev/null may not exist.
                if tree.root and real == tree.root + b"/dev/null":
                    masked.add(name)
                    continue
                status = os.stat(real)
                if stat.S_ISCHR(status.st_mode) or (stat.S_ISREG(status.st_mode) and not status.st_size):
                    masked.add(name)
                elif stat.S_ISREG(status.st_mode):
                    found[name] = os.fsdecode(real)
    anchors = []
    for _, path in sorted(found.items()):
        try:
            anchors += first_certificate(_read(path), path)
        except (OSError, ConfextError) as error:
            anchors.append(certificates.not_understood(path, str(error)))
    return anchors


def first_certificate(content: bytes, path: str) -> list[Certificate]:
    """The first certificate in a file of verity.d, like PEM_read_X509(); empty if OpenSSL certainly finds none.

    Args:
        content: the contents of the file.
        path: the path of the file.
    """
    if _DASHES not in content:
        # systemd skips such a file.
        return []
    lines = [line.rstrip() for line in content.split(b"\n")]
    start = next(number for number, line in enumerate(lines) if _DASHES in line)
    block = _PEM.match(b"\n".join(lines[start:]))
    if block is None or b"\0" in content or max(map(len, lines)) > _LINE_MAX:
        return [certificates.not_understood(path, "this is no plain certificate in PEM")]
    try:
        return [certificates.parse(_decode(block[2]), path)]
    except DerError as error:
        return [certificates.not_understood(path, str(error))]


def _read_file(path: str) -> list[Certificate]:
    """All certificates in a file that the user named."""
    content = _read(path)
    try:
        if _DASHES not in content:
            return [certificates.parse(content, path)] if content else []
        lines = b"\n".join(line.strip() for line in content.splitlines())
        return [certificates.parse(_decode(block), path) for _, block in _PEM.findall(lines)]
    except DerError as error:
        raise ConfextError(str(error), path=path, hint="name a file in PEM or DER") from error


def _decode(block: bytes) -> bytes:
    joined = block.replace(b"\n", b"")
    try:
        found = base64.b64decode(joined, validate=True)
    except ValueError as error:
        raise DerError("this is no base64") from error
    # Python also accepts padding in the middle, and unused bits that are not zero.
    if base64.b64encode(found) != joined:
        raise DerError("this is no base64")
    return found


def _read(path: str) -> bytes:
    content = regular.read(path, _SIZE_MAX + 1)
    if len(content) > _SIZE_MAX:
        raise ConfextError("this is too large for a certificate", path=path, hint="name a file in PEM or DER")
    return content
