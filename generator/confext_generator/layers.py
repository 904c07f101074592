# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decide which entries of the `.confext.d/` directories are layers, and which path systemd gets for each.

No entry is opened. At boot /var may not be mounted yet, so a symlink into /var looks dangling; such a symlink is
classified by its name. An entry is refused if others than root can write it or if its name cannot be written into a
unit file. A refused entry still hides entries of the same name in later directories: silently using another file
would not be what the administrator asked for.
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

    # The possible outcomes of an entry.
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
    # Outcome, layer (if the entry is one), complaints about the entry, path of the entry that masks or shadows it.
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
    """One confext of a stack.

    `name` is the entry's name, `path` the path given to systemd, `mounts` the paths for RequiresMountsFor=. `image` is
    false for a directory; `place` is then `path` with all symlinks resolved. `versioned` means that systemd picks the
    newest version at `path`.
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
    """The outcome of each entry of a unit, and the unit's layers; LayerReader.read() returns them in order."""

    __slots__ = ("_found", "_later", "_reporter", "_used", "layers")

    def __init__(self, found: list[tuple[bytes, bytes, Known]], reporter: Reporter) -> None:
        """`found` has path, name and outcome of each entry, the outcome regardless of the unit's settings."""
        self._found = found
        # Name to outcome, for layers whose outcome changed after the entry was classified.
        self._later: dict[bytes, Known] = {}
        # Name to the first outcome of each layer, for note().
        self._used: dict[bytes, Known] = {}
        self._reporter = reporter
        self.layers = [known[1] for _, _, known in found if known[1] is not None]

    def outcomes(self) -> Iterator[tuple[bytes, bytes, Known]]:
        """Yield path, name and outcome of each entry."""
        for path, name, known in self._found:
            yield path, name, self._later.get(name, known) if known[1] is not None else known

    def leave_out(self, layer: Layer, complaint: Complaint, became: Became = "ignored") -> None:
        """Record that the entry of `layer` is not a layer of this unit, and report why."""
        self._later[layer.name] = (became, None, (complaint,), b"")
        self._reporter.warn(complaint)

    def note(self, layer: Layer, complaint: Complaint) -> None:
        """Report a complaint about the entry of `layer`, which stays a layer."""
        if not self._used:
            # Built on first use: most units have no such complaint; a unit that has one has one for each of its images.
            self._used = {name: known for _, name, known in self._found if known[1] is not None}
        became, same, complaints, hiding = self._used[layer.name]
        self._later[layer.name] = (became, same, (*complaints, complaint), hiding)
        self._reporter.warn(complaint)


class LayerReader:
    """Reads `.confext.d/` directories: each directory and entry once, however many instances share them."""

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
        """`pick_here`: pick versions now, not at start; `knows_vpick`: this systemd can pick versions itself."""
        self._tree = tree
        self._reporter = reporter
        self._pick_here = pick_here
        self._knows_vpick = knows_vpick
        self._entries: dict[bytes, Known] = {}
        # Complaints about the entry that is being classified.
        self._notes: list[Complaint] = []
        self._access = Access(tree)
        self.listings = Listings(tree, self._access, reporter)

    def read(self, unit: bytes, sources: list[Source]) -> Entries:
        """Return the entries of `unit`, with its layers in order; raises Complaint if a whole directory is refused."""
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
        """Return the outcome of the entry at `path`, and report the complaints about the entry."""
        self._notes = []
        try:
            layer = self._layer(unit, path, name, listing)
            if layer is None:
                return "mask", None, (), b""
            return "image" if layer.image else "directory", layer, tuple(self._notes), b""
        except Complaint as e:
            complaint = e
        except SilentError:
            # The file system of the directory itself stopped answering after the directory was listed.
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
        """Report a complaint about the entry that is being classified, which may still be a layer."""
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
        """Classify the entry at `path`, which either is `target` or is a symlink to `target`.

        `place` is `target` with all symlinks resolved; `status` is the status of `place`, None if nothing exists there.

        systemd takes the image's name from the path that it is given. This is the target's path. If the target's name
        does not say that it is an image (a device node, a file without .raw), systemd gets the symlink's own path
        instead, so the symlink names the image.
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
            # A directory may itself be a mount point; a file is on the mount of its parent directory.
            needed, resolved = target, place
            if not is_directory:
                needed, resolved = target.rpartition(b"/")[0], place.rpartition(b"/")[0]
            # The targets of symlinks further up the path have not been checked yet.
            if resolved != needed and not entrynames.is_expressible(resolved):
                raise Complaint("refused", "target-name", unit, path, quoted(resolved))
            mounts = (*mounts, needed, resolved)
        versioned = shape & VERSIONS != 0 or vpick.is_versioned(given)
        if versioned and self._pick_here:
            picked = self._newest(unit, path, given, image)
            versioned = picked == given
            given = picked
            place = self._tree.chase(picked)
        # overlayfs refuses duplicate directories only. One image may be mounted twice, so images compare by path.
        return Layer(path.rpartition(b"/")[2], given, given if image else place, image, versioned, mounts)

    def _newest(self, unit: bytes, path: bytes, versions: bytes, image: bool) -> bytes:
        """Return the path of the newest version in `versions`.

        If `versions` cannot be read now, return `versions` itself, and leave the choice to systemd. Raises Complaint if
        no version is for this machine, or if others than root can write the newest one.
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
        """Return the layers, of duplicates only the topmost: overlayfs refuses a directory that is given twice."""
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
    """Return a key that is equal for duplicates; for a `.v/` path, the name is included, as it selects the versions."""
    return layer.place, layer.path.rpartition(b"/")[2] if layer.versioned else b""
