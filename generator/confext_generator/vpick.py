# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pick the newest version in a `.v/` directory (systemd.v(7); vpick.c of systemd).

From 256 on, systemd picks the version itself when it starts a service; 255 does not know `.v/`. 258 and 259 must not
see a `.v/` path at all: they refresh such a service natively at reload, which loses the mounts below /etc, and have no
setting to turn that off.
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
    """Return the path of the newest version for this machine at the versioned `path`, None if there is none.

    Raises OSError if the directory cannot be read.
    """
    from os import uname  # Only needed with systemd 255, 258 and 259.

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
    """A file in a `.v/` directory; the greatest candidate is the one to use."""

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
    """Parse `VERSION[_ARCHITECTURE][+LEFT[-DONE]]`; None if `middle` is invalid or for another machine."""
    left = done = _NO_TRIES
    head, plus, tries = middle.rpartition(b"+")
    if plus:
        left_text, dash, done_text = tries.partition(b"-")
        if left_text.isdigit() and (done_text.isdigit() or not dash):
            middle, left, done = head, int(left_text), int(done_text or b"0")
    version, underscore, last = middle.rpartition(b"_")
    if not underscore:
        version, last = middle, b""
    # systemd cuts off everything after the last underscore, even an unknown architecture. An unknown architecture
    # fits any machine.
    architecture = last.decode("latin-1")
    if architecture not in known:
        architecture = ""
    if architecture not in wanted:
        return None
    if not version or version in (b".", b"..") or version.translate(None, _VERSION_CHARACTERS):
        return None
    return _Candidate(name, version, wanted.index(architecture), left, done)
