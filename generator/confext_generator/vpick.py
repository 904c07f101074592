# SPDX-License-Identifier: LGPL-2.1-or-later
"""Picking the newest version out of a `.v/` directory (systemd.v(7); vpick.c of systemd).

systemd does this itself when it starts a service, from 256 on; 255 knows no `.v/`.  Only 258 and 259 must not see the
path at all: these refresh such services natively at reload, losing the mounts below /etc, and have no switch against
it.
"""

from __future__ import annotations

from confext_generator import vercmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confext_generator.tree import Tree

# uname(2) machine to the name of systemd's architecture.c, and the second choice, where there is one.
_ARCHITECTURES = {
    "x86_64": (b"x86-64", b"x86"),
    "i686": (b"x86",),
    "i586": (b"x86",),
    "i386": (b"x86",),
    "aarch64": (b"arm64", b"arm"),
    "armv8l": (b"arm",),
    "armv7l": (b"arm",),
    "armv6l": (b"arm",),
    "ppc64le": (b"ppc64-le", b"ppc-le"),
    "ppc64": (b"ppc64", b"ppc"),
    "riscv64": (b"riscv64",),
    "riscv32": (b"riscv32",),
    "s390x": (b"s390x", b"s390"),
    "loongarch64": (b"loongarch64",),
    "mips64": (b"mips64-le",),
}

_KNOWN_ARCHITECTURES = frozenset(
    (
        b"alpha arc arc-be arm arm-be arm64 arm64-be cris ia64 loongarch64 m68k mips mips-le mips64 mips64-le"
        b" nios2 parisc parisc64 ppc ppc-le ppc64 ppc64-le riscv32 riscv64 s390 s390x sh sh64 sparc sparc64"
        b" tilegx x86 x86-64"
    ).split()
)

_VERSION_CHARACTERS = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,_-+"
_NO_TRIES = 1 << 32

DIRECTORY_SUFFIX = b".v"
WILDCARD = b"___"


def is_versioned(path: bytes) -> bool:
    """Return whether systemd picks a version at `path`: `NAME.v`, `NAME.raw.v`, `DIR.v/NAME___.raw`."""
    if path.endswith(DIRECTORY_SUFFIX):
        return True
    if WILDCARD not in path:
        return False
    parent, _, name = path.rpartition(b"/")
    return WILDCARD in name and parent.endswith(DIRECTORY_SUFFIX)


def pick(tree: Tree, path: bytes, *, image: bool, machine: str = "") -> bytes | None:
    """Return the newest fitting version that the versioned `path` offers, None if there is none.

    Raises OSError if the directory cannot be read.
    """
    from os import uname  # Only three versions of systemd come here.

    suffix = b".raw" if image else b""
    if path.endswith(DIRECTORY_SUFFIX):
        directory = path
        base = path.rpartition(b"/")[2][: -len(DIRECTORY_SUFFIX)].removesuffix(suffix)
    else:
        directory, _, name = path.rpartition(b"/")
        base, _, suffix = name.rpartition(WILDCARD)

    architectures = (*_ARCHITECTURES.get(machine or uname().machine, ()), b"")
    best: _Candidate | None = None
    for name in tree.listdir(tree.directory(directory)):
        if name.startswith(base + b"_") and name.endswith(suffix):
            candidate = _parse(name, name[len(base) + 1 : len(name) - len(suffix)], architectures)
            if candidate is not None and (best is None or best < candidate):
                best = candidate
    return None if best is None else directory + b"/" + best.name


class _Candidate:
    """A file in the directory; the greatest is the one to use."""

    __slots__ = ("architecture", "done", "left", "name", "version")

    def __init__(self, name: bytes, version: bytes, architecture: int, left: int, done: int) -> None:
        self.name = name
        self.version = version
        self.architecture = architecture
        self.left = left
        self.done = done

    def __lt__(self, other: _Candidate) -> bool:
        if (self.left != 0) != (other.left != 0):
            return self.left == 0
        order = vercmp.compare(self.version, other.version)
        if order:
            return order < 0
        mine = (-self.architecture, self.left, -self.done, self.name)
        return mine < (-other.architecture, other.left, -other.done, other.name)


def _parse(name: bytes, middle: bytes, architectures: tuple[bytes, ...]) -> _Candidate | None:
    """Take `VERSION[_ARCHITECTURE][+LEFT[-DONE]]` apart; None if it is not for this machine or no version."""
    left = done = _NO_TRIES
    head, plus, tries = middle.rpartition(b"+")
    if plus:
        left_text, dash, done_text = tries.partition(b"-")
        if left_text.isdigit() and (done_text.isdigit() or not dash):
            middle, left, done = head, int(left_text), int(done_text or b"0")
    version, underscore, architecture = middle.rpartition(b"_")
    if not underscore:
        version, architecture = middle, b""
    # What follows the last underscore is cut off even if it is no architecture; then any machine will do.
    if architecture not in _KNOWN_ARCHITECTURES:
        architecture = b""
    if architecture not in architectures:
        return None
    if not version or version in (b".", b"..") or version.translate(None, _VERSION_CHARACTERS):
        return None
    return _Candidate(name, version, architectures.index(architecture), left, done)
