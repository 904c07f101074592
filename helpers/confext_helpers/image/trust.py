# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trust anchors: the certificates whose keys may sign.

Nothing that a signature brings along is ever trusted, and there are no chains: a signer is trusted if its very
certificate is one of these, as validate_signature_userspace() in systemd's dissect-image.c has it. A directory is read
as systemd reads /etc/verity.d: the files called `*.crt`, sorted by name, a name in an earlier directory hiding the same
in a later one, an empty file or a link to /dev/null hiding it altogether; and of each file the first certificate only,
in PEM only.

Of several certificates with the same issuer and number OpenSSL takes the first, whatever its key. So what systemd may
read and this cannot is no file to pass over: it stays in the list as one that is not understood.
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
# OpenSSL reads lines of up to 254 bytes, cuts longer ones in two, and ignores white space at their ends.
_LINE_MAX = 250
_DASHES = b"-----BEGIN"
_PEM = re.compile(rb"-----BEGIN ((?:X509 )?CERTIFICATE)-----\n((?:[A-Za-z0-9+/=]+\n)+)-----END \1-----(?:\n|\Z)")


def load(paths: Sequence[str], root: str = "") -> list[Certificate]:
    """Load trust anchors.

    Args:
        paths: files, PEM or DER, of which every certificate counts, and directories; if there are none, those of
            systemd.
        root: in which system the directories of systemd are.

    Raises:
        ConfextError: a file has no certificate in it, or a named file or directory is not there.
        OSError: one cannot be read.
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
    """The anchors in these directories; conf_files_list_nulstr() with the flags REGULAR and FILTER_MASKED."""
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
                # In another root there may be no device to look at.
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
    """The first certificate in a file of verity.d, as PEM_read_X509() finds it; none if that finds none for sure.

    Args:
        content: what is in the file.
        path: of the file.
    """
    if _DASHES not in content:
        # systemd goes on with the next file.
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
    """All certificates in a file that was named."""
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
    # Python takes padding in the middle, and bits that mean nothing.
    if base64.b64encode(found) != joined:
        raise DerError("this is no base64")
    return found


def _read(path: str) -> bytes:
    content = regular.read(path, _SIZE_MAX + 1)
    if len(content) > _SIZE_MAX:
        raise ConfextError("this is too large for a certificate", path=path, hint="name a file in PEM or DER")
    return content
