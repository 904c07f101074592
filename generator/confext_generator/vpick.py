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

    from confext_generator import architectures

    suffix = b".raw" if image else b""
    if path.endswith(DIRECTORY_SUFFIX):
        directory = path
        base = path.rpartition(b"/")[2][: -len(DIRECTORY_SUFFIX)].removesuffix(suffix)
    else:
        directory, _, name = path.rpartition(b"/")
        base, _, suffix = name.rpartition(WILDCARD)

    native = architectures.native(machine or uname().machine)
    wanted = [*(name for name in (native, architectures.secondary(native)) if name), ""]
    best: _Candidate | None = None
    for name in tree.listdir(tree.directory(directory)):
        if name.startswith(base + b"_") and name.endswith(suffix):
            candidate = _parse(name, name[len(base) + 1 : len(name) - len(suffix)], wanted, architectures.NAMES)
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


def _parse(name: bytes, middle: bytes, wanted: list[str], known: frozenset[str]) -> _Candidate | None:
    """Take `VERSION[_ARCHITECTURE][+LEFT[-DONE]]` apart; None if it is not for this machine or no version."""
    left = done = _NO_TRIES
    head, plus, tries = middle.rpartition(b"+")
    if plus:
        left_text, dash, done_text = tries.partition(b"-")
        if left_text.isdigit() and (done_text.isdigit() or not dash):
            middle, left, done = head, int(left_text), int(done_text or b"0")
    version, underscore, last = middle.rpartition(b"_")
    if not underscore:
        version, last = middle, b""
    # What follows the last underscore is cut off even if it is no architecture; then any machine will do.
    architecture = last.decode("latin-1")
    if architecture not in known:
        architecture = ""
    if architecture not in wanted:
        return None
    if not version or version in (b".", b"..") or version.translate(None, _VERSION_CHARACTERS):
        return None
    return _Candidate(name, version, wanted.index(architecture), left, done)
