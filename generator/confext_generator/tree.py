"""The file system as systemd will see it, maybe below another root directory.

Every path outside this module is absolute and as seen from that root; `--root=` never lets a link lead out of
it.
"""

from __future__ import annotations

import errno
import posix as os
import stat

# As the kernel: more links than that are a loop.
_LINKS_MAX = 40

_READ_SIZE = 1 << 15

# A unit file is never that long.
_FILE_MAX = 1 << 24

DEV_NULL = b"/dev/null"


def beside(link: bytes, target: bytes) -> bytes:
    """Return the path that `target` means in the link at `link`."""
    return target if target.startswith(b"/") else link.rpartition(b"/")[0] + b"/" + target


class Tree:
    """A root directory."""

    __slots__ = ("_links", "_parents", "root")

    def __init__(self, root: bytes = b"") -> None:
        self.root = root.rstrip(b"/")
        self._links: dict[bytes, bytes] = {}
        self._parents: dict[bytes, bytes] = {}

    def real(self, path: bytes) -> bytes:
        """Return where `path` is for the kernel, with all its links followed."""
        return self.root + self.chase(path) if self.root else path

    def read(self, path: bytes) -> bytes:
        """Return the contents of `path`; raises OSError.

        A mask (a link to /dev/null, or to any other device, null_or_empty() of systemd) is empty, even if the root has
        no such device.
        """
        if self.root:
            path = self.chase(path)
            if path == DEV_NULL:
                return b""
        # A FIFO must not hold up the boot: without a writer, O_NONBLOCK reads it as empty.
        fd = os.open(self.root + path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                return b""
            chunks = [os.read(fd, _READ_SIZE)]
            while len(chunks[-1]) == _READ_SIZE and len(chunks) < _FILE_MAX // _READ_SIZE:
                chunks.append(os.read(fd, _READ_SIZE))
            return b"".join(chunks)
        finally:
            os.close(fd)

    def chase(self, path: bytes, passed: list[bytes] | None = None) -> bytes:
        """Return `path` with all links followed; what is not there (yet) is taken as it stands.

        Each directory and link on the way, and the end, is added to `passed`, its path free of other links. Raises
        OSError (a loop of links).
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
        """Return `path` with all links followed but one that is its last part; raises OSError as chase() does."""
        parent, _, name = path.rpartition(b"/")
        place = self._parents.get(parent)
        if place is None:
            place = self._parents[parent] = self.chase(parent).rstrip(b"/")
        return place + b"/" + name

    def readlink(self, path: bytes) -> bytes:
        """Return what the link at `path` holds, empty if it is none; raises OSError as chase() does."""
        return self._readlink(self.chase_nofollow(path))

    def follow(self, link: bytes, target: bytes) -> bytes:
        """Return the path that `link`, which holds `target`, leads to, without following further links in it.

        systemd refuses paths with "..", so these, and only these, are resolved through the directories' own
        links.
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
        """Return what the link at `path`, a path otherwise free of links, holds; empty if it is none."""
        target = self._links.get(path)
        if target is None:
            try:
                target = os.readlink(self.root + path)
            except OSError:
                target = b""
            self._links[path] = target
        return target
