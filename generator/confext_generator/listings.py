# SPDX-License-Identifier: LGPL-2.1-or-later
"""Listing the `.confext.d/` directories: each once, and as a whole or not at all."""

from __future__ import annotations

from confext_generator import access, entrynames
from confext_generator.lookout import SilentError
from confext_generator.report import ConfextError, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confext_generator.access import Access
    from confext_generator.report import Reporter
    from confext_generator.tree import Tree
    from confext_generator.unitdirs import Source


class Listing:
    """The names in one `.confext.d/`, those that may be layers, where it is, and what to mount if it is a link.

    `unread` says that nobody knows what is in it.
    """

    __slots__ = ("found", "is_there", "mount", "names", "place", "unread")

    def __init__(
        self, found: list[bytes], names: list[bytes], place: bytes, mount: bytes, is_there: bool, unread: bool
    ) -> None:
        self.found = found
        self.is_there = is_there
        self.names = names
        self.place = place
        self.mount = mount
        self.unread = unread


class Listings:
    """Reads directories; each once, however many instances share it."""

    __slots__ = ("_access", "_listings", "_reporter", "_tree")

    def __init__(self, tree: Tree, access: Access, reporter: Reporter) -> None:
        self._tree = tree
        self._access = access
        self._reporter = reporter
        self._listings: dict[bytes, Listing] = {}

    def read(self, unit: bytes, source: Source) -> Listing:
        """Return what is in the directory `source` of `unit`; raises ConfextError if it is refused."""
        known = self._listings.get(source.path)
        if known is not None:
            return known
        if not entrynames.is_expressible(source.path):
            raise ConfextError(
                unit,
                source.path,
                "the unit is left alone, this path cannot be written into a unit file",
                "rename it",
            )
        mount = place = b""
        listing: list[bytes] = []
        is_there = unread = False
        try:
            if source.is_link:
                mount, _, problem = self._access.follow(source.path)
                if problem:
                    raise ConfextError(unit, source.path, f"the unit is left alone, {problem}", access.hint(problem))
                if not entrynames.is_expressible(mount):
                    text = f"the unit is left alone, {inexpressible(mount)}"
                    raise ConfextError(unit, source.path, text, "rename it")
            place = mount or self._tree.chase_nofollow(source.path)
            problem = self._access.problem(self._tree.lstat(place), place)
            if problem:
                raise ConfextError(
                    unit,
                    source.path,
                    f"the unit is left alone, the directory {problem}",
                    access.hint(problem),
                )
            listing = self._tree.listdir(place)
            is_there = True
        except SilentError:
            unread = True
            self.say_unread(unit, source.path, place)
        except FileNotFoundError:
            # At boot, a link into a file system that is mounted later.  The drop-in is still worth having.
            self._reporter.warn(
                ConfextError(
                    unit,
                    source.path,
                    f"has no layers, leads to {quoted(mount)}, which is not there now",
                    "run systemctl daemon-reload when it is",
                )
            )
        except OSError as e:
            raise ConfextError(
                unit, source.path, f"the unit is left alone, the directory cannot be read ({e.strerror or e})"
            ) from None
        names = []
        for name in listing:
            if entrynames.is_temporary(name):
                if self._reporter.debugging:
                    self._reporter.debug(ConfextError(unit, source.path + b"/" + name, "hidden or temporary, ignored"))
            elif not name.endswith(entrynames.SIDECAR_SUFFIXES):
                names.append(name)
        names.sort()
        known = self._listings[source.path] = Listing(listing, names, place, mount, is_there, unread)
        return known

    def say_unread(self, unit: bytes, source: bytes, place: bytes) -> None:
        """Say that nobody knows what is in the directory `source`, which is at `place`."""
        text = f"what is in it is not known, {self._tree.excuse(place)}: the service is neither started nor reloaded"
        self._reporter.warn(ConfextError(unit, source, text, "mend or unmount that, then run systemctl daemon-reload"))

    def safe_source(self, sources: list[Source]) -> bytes:
        """Return the path of the first directory that systemd can look at without being kept waiting, empty if none.

        It does so in PID 1, whenever anybody asks whether a daemon-reload is needed.
        """
        for source in sources:
            listing = self._listings[source.path]
            if listing.is_there and self._tree.is_near(listing.place):
                return source.path
        return b""

    def names(self, source: Source) -> list[bytes]:
        """Return the names of everything in a directory that read() has read."""
        return self._listings[source.path].found

    def unread(self, sources: list[Source]) -> list[bytes]:
        """Return the paths of those directories of which nobody knows what is in them."""
        return [source.path for source in sources if self._listings[source.path].unread]


def inexpressible(path: bytes) -> str:
    """Return what is wrong with a link that leads to `path`."""
    return f"leads to {quoted(path)}, which cannot be written into a unit file"
