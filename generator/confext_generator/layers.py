# SPDX-License-Identifier: LGPL-2.1-or-later
"""What lies in the `.confext.d/` directories: which entries are layers, which path systemd is given for each.

Nothing is opened.  At boot /var may not be mounted yet, so a link into it looks dangling; it is taken by its
name. An entry that others than root can write, or whose name cannot be written into a unit, is refused, and
it hides what has its name further down the search path all the same: falling back to another file is not what
was asked for.
"""

from __future__ import annotations

import posix as os
import stat

from confext_generator import entrynames, vpick
from confext_generator.access import Access
from confext_generator.entrynames import API_FILE_SYSTEMS, DIRECTORY, IMAGE, VERSIONS, shape_of
from confext_generator.listings import Listing, Listings
from confext_generator.lookout import SilentError
from confext_generator.report import Complaint, quoted, reason_of
from confext_generator.tree import DEV_NULL, beside
from confext_generator.vercmp import VersionKey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from confext_generator.report import Reporter
    from confext_generator.tree import Tree
    from confext_generator.unitdirs import Source

    # What can become of an entry.
    Became = Literal[
        "image",
        "directory",
        "mask",
        "masked",
        "shadowed",
        "refused",
        "sidecar",
        "duplicate",
        "not-an-image",
        "ignored",
    ]
    # That, the layer if it is one, the complaints about it, and the path of the entry that masks or shadows it.
    Known = tuple[Became, "Layer | None", tuple[Complaint, ...], bytes]

_SIDECAR: Known = ("sidecar", None, (), b"")
_TEMPORARY: Known = ("ignored", None, (), b"")

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFREG: "a file whose name does not end in .raw",
}


class Layer:
    """One confext of a stack: the entry's name, the path for systemd, and what has to be mounted for it.

    `image` is false for a directory; `place` is then where that is, with all links followed. `versioned` means that
    systemd picks the newest version at `path`.
    """

    __slots__ = ("image", "mounts", "name", "path", "place", "versioned")

    def __init__(
        self, name: bytes, path: bytes, place: bytes, image: bool, versioned: bool, mounts: tuple[bytes, ...]
    ) -> None:
        self.name = name
        self.path = path
        self.place = place
        self.image = image
        self.versioned = versioned
        self.mounts = mounts


class Entries:
    """What became of every entry of a unit, and its layers, in order once read() has returned it."""

    __slots__ = ("_found", "_later", "_reporter", "layers")

    def __init__(self, found: list[tuple[bytes, bytes, Known]], reporter: Reporter) -> None:
        """`found` has path and name of each, and what is known of it without the rest of the unit."""
        self._found = found
        # By name, for layers of which more was found out.
        self._later: dict[bytes, Known] = {}
        self._reporter = reporter
        self.layers = [known[1] for _, _, known in found if known[1] is not None]

    def outcomes(self) -> Iterator[tuple[bytes, bytes, Known]]:
        """Yield path and name of each entry, and what became of it."""
        for path, name, known in self._found:
            yield path, name, self._later.get(name, known) if known[1] is not None else known

    def leave_out(self, layer: Layer, complaint: Complaint, became: Became = "ignored") -> None:
        """Have the entry of `layer` be none for this unit, and say so."""
        self._later[layer.name] = (became, None, (complaint,), b"")
        self._reporter.warn(complaint)

    def note(self, layer: Layer, complaint: Complaint) -> None:
        """Say what is odd about the entry of `layer`, which stays one."""
        for _, name, known in self.outcomes():
            if name == layer.name and known[1] is not None:
                self._later[name] = (known[0], known[1], (*known[2], complaint), b"")
        self._reporter.warn(complaint)


class LayerReader:
    """Reads `.confext.d/` directories; each directory and entry once, however many instances share it."""

    __slots__ = (
        "_access",
        "_entries",
        "_knows_vpick",
        "_notes",
        "_pick_here",
        "_reporter",
        "_tree",
        "listings",
    )

    def __init__(self, tree: Tree, reporter: Reporter, *, pick_here: bool, knows_vpick: bool) -> None:
        """`pick_here` says whether versions are picked now, `knows_vpick` whether systemd could pick them itself."""
        self._tree = tree
        self._reporter = reporter
        self._pick_here = pick_here
        self._knows_vpick = knows_vpick
        self._entries: dict[bytes, Known] = {}
        # About the one that is looked at.
        self._notes: list[Complaint] = []
        self._access = Access(tree)
        self.listings = Listings(tree, self._access, reporter)

    def read(self, unit: bytes, sources: list[Source]) -> Entries:
        """Return the entries of `unit`, and its layers in order; raises Complaint if a whole directory is refused."""
        first: dict[bytes, tuple[bytes, Known]] = {}
        found: list[tuple[bytes, bytes, Known]] = []
        for source in sources:
            listing = self.listings.read(unit, source)
            parent = source.path + b"/"
            for name in listing.names:
                path = parent + name
                if name in first:
                    hiding, known = first[name]
                    known = ("masked" if known[0] == "mask" else "shadowed", None, (), hiding)
                else:
                    if path not in self._entries:
                        self._entries[path] = self._classify(source.name, path, name, listing)
                    known = self._entries[path]
                    first[name] = path, known
                found.append((path, name, known))
            found += [(parent + name, name, _SIDECAR) for name in listing.sidecars]
            found += [(parent + name, name, _TEMPORARY) for name in listing.temporary]
        entries = Entries(found, self._reporter)
        if len(entries.layers) > 1:
            entries.layers.sort(key=_sort_key)
            entries.layers = self._without_duplicates(unit, entries)
            self._check_order(unit, entries.layers)
        return entries

    def _classify(self, unit: bytes, path: bytes, name: bytes, listing: Listing) -> Known:
        """Return what the entry at `path` becomes, having made the complaints about it."""
        self._notes = []
        try:
            layer = self._layer(unit, path, name, listing)
            if layer is None:
                return "mask", None, (), b""
            return "image" if layer.image else "directory", layer, tuple(self._notes), b""
        except Complaint as e:
            complaint = e
        except SilentError:
            # The directory itself is on such a file system, which has gone silent just now.
            if not listing.unread:
                self.listings.say_unread(unit, path.rpartition(b"/")[0], listing.place)
            listing.unread = True
            excuse = self._tree.excuse(listing.place)
            return "ignored", None, (Complaint("ignored", "entry-silent", unit, path, excuse),), b""
        except OSError as e:
            complaint = Complaint("ignored", "entry-unreadable", unit, path, reason_of(e))
        self._reporter.warn(complaint)
        became: Became = "refused" if complaint.effect == "refused" else "ignored"
        if complaint.code == "not-an-image":
            became = "not-an-image"
        return became, None, (complaint,), b""

    def _note(self, complaint: Complaint) -> None:
        """Say what is odd about the entry that is looked at, which may be a layer all the same."""
        self._notes.append(complaint)
        self._reporter.warn(complaint)

    def _layer(self, unit: bytes, path: bytes, name: bytes, listing: Listing) -> Layer | None:
        if not entrynames.is_expressible(path):
            raise Complaint("refused", "entry-name", unit, path)
        place = listing.place + b"/" + name
        own = self._tree.lstat(place)
        mounts = (listing.mount,) if listing.mount else ()
        if not stat.S_ISLNK(own.st_mode):
            return self._decide(unit, path, path, place, own, mounts)

        link = (listing.mount or path.rpartition(b"/")[0]) + b"/" + name
        held = self._tree.readlink(place)
        try:
            target = self._tree.follow(link, held)
            if target == DEV_NULL:
                return None  # A mask.
            place, status, problem = self._access.follow(beside(link, held))
            if problem:
                raise Complaint("refused", problem.code, unit, path, *problem.details)
            while target != place and (held := self._tree.readlink(target)):
                target = self._tree.follow(target, held)
                if target == DEV_NULL:
                    return None
            excuse = self._tree.excuse(place)
            if excuse:
                self._note(Complaint("noted", "target-silent", unit, path, excuse))
        except OSError:
            raise Complaint("ignored", "loop", unit, path) from None
        if not entrynames.is_expressible(target):
            raise Complaint("refused", "target-name", unit, path, quoted(target))
        return self._decide(unit, path, target, place, status, mounts)

    def _decide(
        self,
        unit: bytes,
        path: bytes,
        target: bytes,
        place: bytes,
        status: os.stat_result | None,
        mounts: tuple[bytes, ...],
    ) -> Layer | None:
        """Decide what the entry at `path` is, which is or leads to `target`.

        `place` is where that is, with all links followed, and `status` its status, None if it is not there.

        systemd takes the image's name from the path that it is given.  That is the target's; but where the
        target's name says nothing (a device node, a file without .raw) it is the link's own path, so that the
        link names it.
        """
        given = target
        shape = shape_of(target)
        is_directory = False
        if status is None:
            if shape == DIRECTORY or target.startswith(API_FILE_SYSTEMS):
                shape_of_link = shape_of(path)
                if shape_of_link != DIRECTORY:
                    given, shape = path, shape_of_link
            is_directory = shape != IMAGE
        else:
            problem = self._access.problem(status, place)
            if problem:
                raise Complaint("refused", problem.code, unit, path, *problem.details)
            kind = stat.S_IFMT(status.st_mode)
            if kind == stat.S_IFDIR:
                is_directory = True
                if not shape & VERSIONS:
                    shape = shape_of(path)
                    if shape & VERSIONS:
                        given = path
                    else:
                        shape = DIRECTORY
            else:
                if kind in (stat.S_IFREG, stat.S_IFBLK) and (shape != IMAGE or target.startswith(API_FILE_SYSTEMS)):
                    given = path
                    shape = shape_of(path)
                if kind not in (stat.S_IFREG, stat.S_IFBLK) or shape != IMAGE:
                    what = _KINDS.get(kind, "of an unknown kind")
                    raise Complaint("ignored", "not-an-image", unit, path, what)
        image = shape & IMAGE != 0
        if image and given.startswith(API_FILE_SYSTEMS):
            raise Complaint("ignored", "api-file-system", unit, path, quoted(given))
        if target is not path:
            # A directory may be a mount point itself, a file is on its parent's mount.
            needed, resolved = target, place
            if not is_directory:
                needed, resolved = target.rpartition(b"/")[0], place.rpartition(b"/")[0]
            # What the links on the way hold, nobody has looked at yet.
            if resolved != needed and not entrynames.is_expressible(resolved):
                raise Complaint("refused", "target-name", unit, path, quoted(resolved))
            mounts = (*mounts, needed, resolved)
        versioned = shape & VERSIONS != 0 or vpick.is_versioned(given)
        if versioned and self._pick_here:
            picked = self._newest(unit, path, given, image)
            versioned = picked == given
            given = picked
            place = self._tree.chase(picked)
        # overlayfs is about directories; the same image can be there twice, and only its path is compared.
        return Layer(path.rpartition(b"/")[2], given, given if image else place, image, versioned, mounts)

    def _newest(self, unit: bytes, path: bytes, versions: bytes, image: bool) -> bytes:
        """Return the newest version, or `versions` itself, for systemd to pick, if it cannot be read now.

        Raises Complaint if there is none for this machine, or none that root alone can write.
        """
        try:
            picked = vpick.pick(self._tree, versions, image=image)
        except OSError as e:
            if not self._knows_vpick:
                raise Complaint("ignored", "versions-unreadable", unit, path, reason_of(e)) from None
            self._note(Complaint("noted", "versions-left", unit, path, reason_of(e)))
            return versions
        if picked is None:
            raise Complaint("ignored", "no-version", unit, path)
        if not entrynames.is_expressible(picked):
            raise Complaint("refused", "version-name", unit, path, quoted(picked))
        place = self._tree.chase(picked)
        status = self._tree.lstat(place)
        kind = stat.S_IFMT(status.st_mode)
        if (kind == stat.S_IFDIR) if image else (kind != stat.S_IFDIR):
            raise Complaint("ignored", "version-kind", unit, path, quoted(picked))
        problem = self._access.problem(status, place)
        if problem:
            subject = f"its newest version {quoted(picked)} "
            raise Complaint("refused", problem.code, unit, path, *problem.details, subject=subject)
        return picked

    def _without_duplicates(self, unit: bytes, entries: Entries) -> list[Layer]:
        """Return the layers but for all but the topmost of those that are the same: overlayfs takes none twice."""
        layers = entries.layers
        last = {_identity(layer): layer for layer in layers}
        if len(last) == len(layers):
            return layers
        kept = []
        for layer in layers:
            top = last[_identity(layer)]
            if top is layer:
                kept.append(layer)
            else:
                names = quoted(layer.name), quoted(top.name)
                complaint = Complaint("ignored", "duplicate", unit, layer.path, *names)
                entries.leave_out(layer, complaint, "duplicate")
        return kept

    def _check_order(self, unit: bytes, layers: list[Layer]) -> None:
        below: Layer | None = None
        for layer in layers:
            if not layer.image:
                below = below or layer
            elif below is not None:
                names = quoted(below.name), quoted(layer.name)
                self._reporter.warn(Complaint("noted", "order", unit, b"", *names))
                return


def _sort_key(layer: Layer) -> VersionKey:
    return VersionKey(entrynames.bare_name(layer.name), layer.name)


def _identity(layer: Layer) -> tuple[bytes, bytes]:
    """Return what only layers that are the same have in common; the name of a `.v/` says which versions count."""
    return layer.place, layer.path.rpartition(b"/")[2] if layer.versioned else b""
