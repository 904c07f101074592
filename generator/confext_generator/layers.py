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

from confext_generator import access, entrynames, vpick
from confext_generator.access import Access
from confext_generator.entrynames import API_FILE_SYSTEMS, DIRECTORY, IMAGE, VERSIONS, shape_of
from confext_generator.listings import Listing, Listings, inexpressible
from confext_generator.lookout import SilentError
from confext_generator.report import ConfextError, quoted
from confext_generator.tree import DEV_NULL, beside
from confext_generator.vercmp import VersionKey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confext_generator.report import Reporter
    from confext_generator.tree import Tree
    from confext_generator.unitdirs import Source

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


class LayerReader:
    """Reads `.confext.d/` directories; each directory and entry once, however many instances share it."""

    __slots__ = (
        "_access",
        "_entries",
        "_knows_vpick",
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
        # What each is: a layer, none for the reason that was given, or a mask.
        self._entries: dict[bytes, Layer | ConfextError | None] = {}
        self._access = Access(tree)
        self.listings = Listings(tree, self._access, reporter)

    def read(self, unit: bytes, sources: list[Source], left_out: dict[bytes, ConfextError]) -> list[Layer]:
        """Return the layers of `unit`, in order; raises ConfextError if a whole directory is refused.

        What is the same as another one is added to `left_out`, by its name.
        """
        found: dict[bytes, Layer | ConfextError | None] = {}
        for source in sources:
            listing = self.listings.read(unit, source)
            for name in listing.names:
                if name in found:
                    continue
                path = source.path + b"/" + name
                if path not in self._entries:
                    self._entries[path] = self._classify(source.name, path, name, listing)
                found[name] = self._entries[path]
        layers = [layer for layer in found.values() if isinstance(layer, Layer)]
        if len(layers) > 1:
            layers.sort(key=_sort_key)
            layers = self._without_duplicates(unit, layers, left_out)
            self._check_order(unit, layers)
        return layers

    def outcome(self, source: Source, name: bytes) -> Layer | ConfextError | None:
        """Return what read() has found the entry `name` to be: a layer, none for this reason, or a mask."""
        return self._entries[source.path + b"/" + name]

    def _classify(self, unit: bytes, path: bytes, name: bytes, listing: Listing) -> Layer | ConfextError | None:
        """Return the layer that the entry at `path` is, why it is none, having said so, or None for a mask."""
        try:
            return self._layer(unit, path, name, listing)
        except ConfextError as e:
            error = e
        except SilentError:
            # The directory itself is on such a file system, which has gone silent just now.
            if not listing.unread:
                self.listings.say_unread(unit, path.rpartition(b"/")[0], listing.place)
            listing.unread = True
            return ConfextError(unit, path, f"ignored, {self._tree.excuse(listing.place)}")
        except OSError as e:
            error = ConfextError(unit, path, f"ignored, cannot be examined ({e.strerror or e})")
        self._reporter.warn(error)
        return error

    def _layer(self, unit: bytes, path: bytes, name: bytes, listing: Listing) -> Layer | None:
        if not entrynames.is_expressible(path):
            raise ConfextError(unit, path, "refused, the name cannot be written into a unit file", "rename it")
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
                raise ConfextError(unit, path, f"refused, {problem}", access.hint(problem))
            while target != place and (held := self._tree.readlink(target)):
                target = self._tree.follow(target, held)
                if target == DEV_NULL:
                    return None
            excuse = self._tree.excuse(place)
            if excuse:
                text = f"taken by its name, {excuse}; it is judged when the service starts or is reloaded"
                hint = "mend or unmount that, then run systemctl daemon-reload"
                self._reporter.warn(ConfextError(unit, path, text, hint))
        except OSError:
            raise ConfextError(unit, path, "ignored, is a loop of links") from None
        if not entrynames.is_expressible(target):
            raise ConfextError(unit, path, f"refused, {inexpressible(target)}", "rename it")
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
                raise ConfextError(
                    unit,
                    path,
                    f"refused, {problem}",
                    access.hint(problem),
                )
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
                    raise ConfextError(unit, path, f"ignored, is {what}", _LAYERS_ARE)
        image = shape & IMAGE != 0
        if image and given.startswith(API_FILE_SYSTEMS):
            raise ConfextError(
                unit,
                path,
                f"ignored, leads to {quoted(given)}, where systemd takes no image from",
                "give the link a name that ends in .raw",
            )
        if target is not path:
            # A directory may be a mount point itself, a file is on its parent's mount.
            needed, resolved = target, place
            if not is_directory:
                needed, resolved = target.rpartition(b"/")[0], place.rpartition(b"/")[0]
            # What the links on the way hold, nobody has looked at yet.
            if resolved != needed and not entrynames.is_expressible(resolved):
                raise ConfextError(unit, path, f"refused, {inexpressible(resolved)}", "rename it")
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

        Raises ConfextError if there is none for this machine, or none that root alone can write.
        """
        try:
            picked = vpick.pick(self._tree, versions, image=image)
        except OSError as e:
            text = f"cannot be read now ({e.strerror or e})"
            hint = "run systemctl daemon-reload when its file system is mounted"
            if not self._knows_vpick:
                text = f"ignored, {text}, and this systemd picks no version itself"
                raise ConfextError(unit, path, text, hint) from None
            text += "; until the next daemon-reload this systemd may refresh the service natively"
            self._reporter.warn(ConfextError(unit, path, text, hint))
            return versions
        if picked is None:
            raise ConfextError(unit, path, "ignored, holds no version for this machine", "see systemd.v(7)")
        if not entrynames.is_expressible(picked):
            text = f"refused, its newest version {quoted(picked)} cannot be written into a unit file"
            raise ConfextError(unit, path, text, "rename it")
        place = self._tree.chase(picked)
        status = self._tree.lstat(place)
        kind = stat.S_IFMT(status.st_mode)
        if (kind == stat.S_IFDIR) if image else (kind != stat.S_IFDIR):
            raise ConfextError(unit, path, f"ignored, its newest version {quoted(picked)} is of the wrong kind")
        problem = self._access.problem(status, place)
        if problem:
            raise ConfextError(
                unit,
                path,
                f"refused, its newest version {quoted(picked)} {problem}",
                access.hint(problem),
            )
        return picked

    def _without_duplicates(self, unit: bytes, layers: list[Layer], left_out: dict[bytes, ConfextError]) -> list[Layer]:
        """Drop all but the topmost of layers that are the same: overlayfs takes no directory twice."""
        last = {_identity(layer): layer for layer in layers}
        if len(last) == len(layers):
            return layers
        kept = []
        for layer in layers:
            top = last[_identity(layer)]
            if top is layer:
                kept.append(layer)
            else:
                text = f"{quoted(layer.name)} and {quoted(top.name)} are the same, the first is ignored"
                left_out[layer.name] = ConfextError(unit, layer.path, text, "remove one of them")
                self._reporter.warn(left_out[layer.name])
        return kept

    def _check_order(self, unit: bytes, layers: list[Layer]) -> None:
        below: Layer | None = None
        for layer in layers:
            if not layer.image:
                below = below or layer
            elif below is not None:
                self._reporter.warn(
                    ConfextError(
                        unit,
                        b"",
                        f"the directory {quoted(below.name)} lies above the image {quoted(layer.name)}, "
                        "although its name sorts before it",
                        "systemd puts all directories above all images; use one kind, or names in that order",
                    )
                )
                return


_LAYERS_ARE = "layers are NAME.raw, NAME.raw.v/, NAME/, NAME.v/ and links to these"


def _sort_key(layer: Layer) -> VersionKey:
    return VersionKey(entrynames.bare_name(layer.name), layer.name)


def _identity(layer: Layer) -> tuple[bytes, bytes]:
    """Return what only layers that are the same have in common; the name of a `.v/` says which versions count."""
    return layer.place, layer.path.rpartition(b"/")[2] if layer.versioned else b""
