# SPDX-License-Identifier: LGPL-2.1-or-later
"""List the `.confext.d/` directories: each once, and completely or not at all."""

from __future__ import annotations

from confext_generator import constants, entrynames
from confext_generator.lookout import SilentError
from confext_generator.report import Complaint, quoted, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confext_generator.access import Access
    from confext_generator.report import Reporter
    from confext_generator.tree import Tree
    from confext_generator.unitdirs import Source


class Listing:
    """The contents of one `.confext.d/` directory.

    `place` is its path with all symlinks resolved; `mount` is the same path if the directory is a symlink, empty
    otherwise. Entries in `names` may be layers; those in `temporary` and `sidecars` are not, by their names. `unread`
    means that the directory could not be listed because its file system does not answer.
    """

    __slots__ = ("is_there", "mount", "names", "place", "sidecars", "temporary", "unread")

    def __init__(self, place: bytes, mount: bytes, is_there: bool, unread: bool) -> None:
        self.is_there = is_there
        self.mount = mount
        self.names: list[bytes] = []
        self.place = place
        self.sidecars: list[bytes] = []
        self.temporary: list[bytes] = []
        self.unread = unread


class Listings:
    """Lists `.confext.d/` directories: each once, however many instances share it."""

    __slots__ = ("_access", "_listings", "_reporter", "_tree")

    def __init__(self, tree: Tree, access: Access, reporter: Reporter) -> None:
        self._tree = tree
        self._access = access
        self._reporter = reporter
        self._listings: dict[bytes, Listing] = {}

    def read(self, unit: bytes, source: Source) -> Listing:
        """Return the contents of the directory `source` of `unit`; raises Complaint if the directory is refused."""
        known = self._listings.get(source.path)
        if known is not None:
            return known
        if not entrynames.is_expressible(source.path):
            raise Complaint("left-alone", "directory-name", unit, source.path)
        mount = place = b""
        names: list[bytes] = []
        is_there = unread = False
        try:
            if source.is_link:
                mount, _, problem = self._access.follow(source.path)
                if problem:
                    raise Complaint("left-alone", problem.code, unit, source.path, *problem.details)
                if not entrynames.is_expressible(mount):
                    raise Complaint("left-alone", "target-name", unit, source.path, quoted(mount))
            place = mount or self._tree.chase_nofollow(source.path)
            problem = self._access.problem(self._tree.lstat(place), place)
            if problem:
                raise Complaint(
                    "left-alone", problem.code, unit, source.path, *problem.details, subject="the directory "
                )
            names = self._tree.listdir(place)
            is_there = True
        except SilentError:
            unread = True
            self.say_unread(unit, source.path, place)
        except FileNotFoundError:
            # At boot, a symlink may lead into a file system that is mounted later. Write the drop-in nevertheless.
            self._reporter.warn(Complaint("noted", "directory-missing", unit, source.path, quoted(mount)))
        except OSError as e:
            raise Complaint("left-alone", "directory-unreadable", unit, source.path, reason_of(e)) from None
        listing = self._listings[source.path] = Listing(place, mount, is_there, unread)
        for name in names:
            if entrynames.is_temporary(name):
                listing.temporary.append(name)
                if self._reporter.debugging:
                    self._reporter.debug(Complaint("ignored", "temporary", unit, source.path + b"/" + name))
            elif name.endswith(constants.SIDECAR_SUFFIXES):
                listing.sidecars.append(name)
            else:
                listing.names.append(name)
        listing.names.sort()
        return listing

    def say_unread(self, unit: bytes, source: bytes, place: bytes) -> None:
        """Report that the directory `source`, which is at `place`, could not be listed."""
        self._reporter.warn(Complaint("noted", "directory-silent", unit, source, self._tree.excuse(place)))

    def safe_source(self, sources: list[Source]) -> bytes:
        """Return the path of the first directory that systemd can stat without blocking, empty if there is none.

        PID 1 itself stats SourcePath= whenever anybody asks whether a daemon-reload is needed.
        """
        for source in sources:
            listing = self._listings[source.path]
            if listing.is_there and self._tree.is_near(listing.place):
                return source.path
        return b""

    def unread(self, sources: list[Source]) -> list[bytes]:
        """Return the paths of the directories that could not be listed because their file system does not answer."""
        return [source.path for source in sources if self._listings[source.path].unread]
