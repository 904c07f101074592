# SPDX-License-Identifier: LGPL-2.1-or-later
"""The file system as systemd will see it, below `/` or below the directory of `--root=`.

All other modules use absolute paths relative to that root; no symlink leads out of it.
"""

from __future__ import annotations

import errno
import posix as os

from confext_generator.files import ACL_ATTRIBUTE, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confext_generator.lookout import Lookout

# The kernel's limit: a path with more symlinks counts as a loop.
_LINKS_MAX = 40

# Limit on the recursion of directory() over parent directories; deeper paths are resolved by chase().
_DEPTH_MAX = 100

# systemd gives its generators a private /tmp (manager_run_generators() in manager.c).
_TMP = b"/tmp"

DEV_NULL = b"/dev/null"


def beside(link: bytes, target: bytes) -> bytes:
    """Return the path that the symlink at `link` with the contents `target` points to."""
    return target if target.startswith(b"/") else link.rpartition(b"/")[0] + b"/" + target


class Tree:
    """A root directory.

    A *place* is a path with all symlinks resolved except in its last component. Only places are passed to the kernel,
    so the kernel never follows a symlink out of the root.
    """

    __slots__ = ("_hidden", "_links", "_lookout", "_parents", "root")

    def __init__(self, root: bytes = b"", lookout: Lookout | None = None) -> None:
        """Take the file system below `root`.

        With `lookout`, the tree is what a generator started by systemd sees, and a silent file system never blocks.
        """
        self.root = root.rstrip(b"/")
        self._lookout = lookout
        self._links: dict[bytes, bytes] = {}
        self._parents: dict[bytes, bytes] = {b"": b""}
        self._hidden = b""
        if lookout is not None:
            hidden = self.chase(_TMP) + b"/"
            # With unit directories below /tmp, systemd does not run us (a test does): hide nothing.
            if not any(directory.startswith(hidden) for directory in lookout.unit_directories):
                self._hidden = hidden

    def is_hidden(self, place: bytes) -> bool:
        """Return whether `place` is hidden from a generator started by systemd."""
        return self._hidden != b"" and place.startswith(self._hidden)

    def excuse(self, place: bytes) -> str:
        """Return why `place` is treated as missing without being known to be, empty if it was looked up."""
        return self._lookout.excuse(place) if self._lookout is not None else ""

    def is_near(self, place: bytes) -> bool:
        """Return whether `place` is on a file system that systemd itself depends on."""
        return self._lookout is None or not self._lookout.mount_of(place)

    def close(self) -> None:
        """Close the lookout."""
        if self._lookout is not None:
            self._lookout.close()

    def _distant(self, place: bytes) -> Lookout | None:
        """Return the lookout to ask about `place`, None to ask the kernel; raises OSError if `place` is hidden."""
        if self._lookout is None:
            return None
        if place.startswith(self._hidden) and self._hidden:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", place)
        return self._lookout if self._lookout.mount_of(place) else None

    def lstat(self, place: bytes) -> os.stat_result:
        """Return the status of `place`; raises OSError."""
        lookout = self._distant(place)
        return lookout.look(place)[0] if lookout is not None else os.lstat(self.root + place)

    def listdir(self, place: bytes) -> list[bytes]:
        """Return the names in the directory at `place`; raises OSError."""
        lookout = self._distant(place)
        return lookout.listdir(place) if lookout is not None else os.listdir(self.root + place)

    def has_acl(self, place: bytes) -> bool:
        """Return whether `place` has an access control list; if so, the group bits of its mode are the list's mask."""
        try:
            lookout = self._distant(place)
            if lookout is not None:
                return lookout.has_acl(place)
            os.getxattr(self.root + place, ACL_ATTRIBUTE)
        except OSError:
            return False
        return True

    def real(self, path: bytes) -> bytes:
        """Return the path of `path` for the kernel, with all symlinks resolved below the root."""
        return self.root + self.chase(path) if self.root else path

    def read(self, path: bytes) -> bytes:
        """Return the contents of `path`; raises OSError.

        A mask (a symlink to /dev/null or to any other device, null_or_empty() of systemd) reads as empty. A symlink to
        /dev/null does so even if there is no /dev/null below the root.
        """
        place = self.chase_nofollow(path)
        try:
            return self._read(place)
        except OSError as e:
            if e.errno != errno.ELOOP:
                raise
        place = self.chase(path)
        return b"" if self.root and place == DEV_NULL else self._read(place)

    def _read(self, place: bytes) -> bytes:
        lookout = self._distant(place)
        return lookout.read(place) if lookout is not None else read_file(self.root + place)

    def chase(self, path: bytes, passed: list[bytes] | None = None) -> bytes:
        """Return `path` with all symlinks resolved; components that do not exist (yet) are kept as written.

        The place of each directory and symlink on the path, and of its end, is appended to `passed`. Raises OSError for
        a loop of symlinks.
        """
        todo = path.split(b"/")
        todo.reverse()
        done = b""
        hops = 0
        while todo:
            name = todo.pop()
            if not name or name == b".":
                continue
            if name == b"..":
                done = done.rpartition(b"/")[0]
                continue
            here = done + b"/" + name
            if passed is not None:
                passed.append(here)
            target = self._readlink(here)
            if not target:
                done = here
                continue
            hops += 1
            if hops > _LINKS_MAX:
                raise OSError(errno.ELOOP, "too many links", path)
            if target.startswith(b"/"):
                done = b""
            todo.extend(reversed(target.split(b"/")))
        return done or b"/"

    def chase_nofollow(self, path: bytes) -> bytes:
        """Return `path` with all symlinks resolved except in its last component; raises OSError as chase() does."""
        parent, _, name = path.rpartition(b"/")
        return self.directory(parent) + b"/" + name

    def directory(self, path: bytes) -> bytes:
        """Return the directory `path` with symlinks resolved, empty for the root; raises OSError as chase() does."""
        place = self._parents.get(path)
        if place is None:
            # Resolve the parent directory, whose cached result serves many directories.
            is_odd = path.endswith((b"/", b"/.", b"/..")) or path.count(b"/") > _DEPTH_MAX
            place = b"" if is_odd else self.chase_nofollow(path)
            if is_odd or self._readlink(place):
                place = self.chase(path).rstrip(b"/")
            self._parents[path] = place
        return place

    def readlink(self, path: bytes) -> bytes:
        """Return the target of the symlink at `path`, empty if `path` is no symlink; raises OSError as chase() does."""
        return self._readlink(self.chase_nofollow(path))

    def follow(self, link: bytes, target: bytes) -> bytes:
        """Return the path that the symlink at `link` with the contents `target` points to, as written.

        systemd refuses paths with "..", so a path with ".." has its directories resolved; no other path does.
        """
        path = beside(link, target)
        parts = [part for part in path.split(b"/") if part and part != b"."]
        if b".." not in parts:
            return b"/" + b"/".join(parts)
        if parts[-1] == b"..":
            return self.chase(path)
        parent = self.chase(b"/" + b"/".join(parts[:-1]))
        return parent.rstrip(b"/") + b"/" + parts[-1]

    def _readlink(self, path: bytes) -> bytes:
        """Return the target of the symlink at the place `path`, empty if `path` is no symlink."""
        target = self._links.get(path)
        if target is None:
            try:
                lookout = self._distant(path)
                target = lookout.look(path)[1] if lookout is not None else os.readlink(self.root + path)
            except OSError:
                target = b""
            self._links[path] = target
        return target
