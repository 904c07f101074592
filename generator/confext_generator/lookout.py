# SPDX-License-Identifier: LGPL-2.1-or-later
"""Access files on other file systems than those of the unit directories, without blocking on a silent one.

If a server is gone, or the program behind a FUSE file system hangs, system calls on that file system block, and not
even SIGKILL ends them. systemd gives all generators together 90 seconds and then discards their output, so one symlink
into such a file system would cost all units their drop-ins. So the generator asks a child process, over two pipes. The
child makes the system calls. If the child does not answer in time, the generator abandons it and treats the files on
that file system as missing. The total time spent waiting is limited, however many file systems are silent.

Most systems never need the child. Two kinds of file systems are accessed directly: those that contain a unit directory
or a directory on the path to one, since systemd itself depends on them, and those that the kernel keeps in memory, for
example `/dev` and `/proc`.
"""

from __future__ import annotations

import errno
import posix as os

from confext_generator.files import ACL_ATTRIBUTE, read_file
from confext_generator.report import quoted

# Seconds. BUDGET_SEC limits all waiting together, _PATIENCE_SEC the wait for one answer; one answer never gets more
# than half of the remaining budget, either. Below _LEAST_SEC the budget counts as used up.
BUDGET_SEC = 6.0
_PATIENCE_SEC = 2.0
_LEAST_SEC = 0.05

# File systems without a device or server that could stop answering.
_IN_MEMORY = (b"cgroup", b"cgroup2", b"devtmpfs", b"proc", b"ramfs", b"securityfs", b"sysfs", b"tmpfs")

_MOUNTS = b"/proc/self/mountinfo"
_CHUNK = 1 << 16
_FDS_MAX = 1 << 16
_SIGKILL = 9

# Longer than any list of names or unit file.
_ANSWER_MAX = 1 << 25

_PLACE, _LIST, _READ, _ACL = b"p", b"l", b"r", b"a"
_DONE, _FAILED = b"=", b"!"
_HEADER = 5


class SilentError(OSError):
    """The file is on a file system that does not answer."""


class Lookout:
    """Asks a child process about files on other file systems; a place is a path with all symlinks resolved."""

    __slots__ = (
        "_answers",
        "_child",
        "_is_over",
        "_left",
        "_mounts",
        "_places",
        "_requests",
        "_root",
        "_silent",
        "unit_directories",
    )

    def __init__(self, root: bytes, unit_directories: list[bytes]) -> None:
        """Places are relative to `root`; `unit_directories` are always accessed without the child."""
        self._root = root
        self.unit_directories = unit_directories
        self._mounts = _find_mounts(root, unit_directories)
        self._silent: set[bytes] = set()
        self._left = BUDGET_SEC
        self._is_over = False
        self._child = self._requests = self._answers = -1
        # Place to answer: its status and, for a symlink, its target; or the error.
        self._places: dict[bytes, tuple[os.stat_result, bytes] | OSError] = {}

    def mount_of(self, place: bytes) -> bytes:
        """Return the mount point that contains `place`, empty if the child need not be asked.

        If several mount points do, return the one nearest to the root: a lookup of the others passes through that one.
        """
        mounts = self._mounts
        if not mounts:
            return b""
        end = place.find(b"/", 1)
        while end > 0:
            if place[:end] in mounts:
                return place[:end]
            end = place.find(b"/", end + 1)
        return place if place in mounts else b""

    def excuse(self, place: bytes) -> str:
        """Return why `place` is treated as missing, empty if the file system was asked."""
        mount = self.mount_of(place)
        if mount in self._silent:
            return f"{quoted(mount)} does not answer"
        if mount and self._is_over:
            return f"{quoted(mount)} was not looked at, others did not answer for too long"
        return ""

    def look(self, place: bytes) -> tuple[os.stat_result, bytes]:
        """Return the status of `place` and, for a symlink, its target; raises OSError."""
        known = self._places.get(place)
        if known is None:
            try:
                answer = self._ask(_PLACE, place)
                numbers, _, held = answer.partition(b"\0")
                known = os.stat_result(tuple(map(int, numbers.split()))), held
            except OSError as e:
                known = e
            self._places[place] = known
        if isinstance(known, OSError):
            raise known
        return known

    def listdir(self, place: bytes) -> list[bytes]:
        """Return the names in the directory at `place`; raises OSError."""
        answer = self._ask(_LIST, place)
        return answer.split(b"\0") if answer else []

    def read(self, place: bytes) -> bytes:
        """Return the contents of the file at `place`, see read_file(); raises OSError."""
        return self._ask(_READ, place)

    def has_acl(self, place: bytes) -> bool:
        """Return whether `place` has an access control list."""
        try:
            self._ask(_ACL, place)
        except SilentError:
            raise
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the pipes to the child, which then exits by itself."""
        if self._child > 0:
            os.close(self._requests)
            os.close(self._answers)
            os.waitpid(self._child, os.WNOHANG)
            self._child = -1

    def _ask(self, what: bytes, place: bytes) -> bytes:
        mount = self.mount_of(place)
        if self._is_over or mount in self._silent:
            raise SilentError(errno.ETIMEDOUT, "does not answer", place)
        if self._child < 0:
            self._fork()
        kind, answer = self._exchange(what + self._root + place + b"\0")
        if kind == _DONE:
            return answer
        if kind == _FAILED:
            number = int(answer)
            raise OSError(number, os.strerror(number), place)
        # The child is stuck in a system call, maybe forever. Kill it and do not wait for it.
        os.kill(self._child, _SIGKILL)
        self.close()
        self._silent.add(mount)
        raise SilentError(errno.ETIMEDOUT, "does not answer", place)

    def _exchange(self, request: bytes) -> tuple[bytes, bytes]:
        """Return the kind of the answer and the answer, both empty if no answer arrives in time."""
        import select  # Not a builtin module everywhere, and hardly ever needed.
        import time

        begin = time.monotonic()
        end = begin + min(_PATIENCE_SEC, self._left / 2)
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        received = bytearray()
        wanted = _HEADER
        try:
            os.write(self._requests, request)
            while len(received) < wanted:
                if not poll.poll(max(0, (end - time.monotonic()) * 1000)):
                    return b"", b""
                chunk = os.read(self._answers, min(wanted - len(received), _CHUNK))
                received += chunk
                if len(received) == _HEADER:
                    wanted += int.from_bytes(received[1:_HEADER], "big")
                if not chunk or wanted > _HEADER + _ANSWER_MAX:
                    return b"", b""
        except BrokenPipeError:
            return b"", b""
        finally:
            self._left -= time.monotonic() - begin
            self._is_over = self._left < _LEAST_SEC
        return bytes(received[:1]), bytes(received[_HEADER:])

    def _fork(self) -> None:
        there, self._requests = os.pipe()
        self._answers, back = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _close_all_but(*sorted((there, back)))
                _serve(there, back)
            finally:
                os._exit(0)
        self._child = child
        os.close(there)
        os.close(back)


def _find_mounts(root: bytes, unit_directories: list[bytes]) -> frozenset[bytes]:
    """Return the mount points whose file systems may stop answering without systemd as a whole being stuck.

    Only mount points below `root` are returned, as paths relative to `root`.
    """
    try:
        fd = os.open(_MOUNTS, os.O_RDONLY)
    except OSError:
        return frozenset()  # No /proc: systemd does not run here.
    try:
        chunks = [os.read(fd, _CHUNK)]
        while chunks[-1]:
            chunks.append(os.read(fd, _CHUNK))
    finally:
        os.close(fd)
    found = set()
    for line in b"".join(chunks).split(b"\n"):
        fields, _, rest = line.partition(b" - ")
        if rest.partition(b" ")[0] not in _IN_MEMORY:
            words = fields.split(b" ", 5)
            path = _unescape(words[4]) if len(words) > 4 else b""
            if (path + b"/").startswith(root + b"/"):
                found.add(path[len(root) :])
    for directory in unit_directories:
        while directory:
            found.discard(directory)
            directory = directory.rpartition(b"/")[0]
    return frozenset(found - {b"", b"/"})


def _unescape(path: bytes) -> bytes:
    """Undo the escaping of mount points in mountinfo (mangle_path() of the kernel)."""
    first, *rest = path.split(b"\\")
    return first + b"".join(bytes((int(part[:3], 8),)) + part[3:] for part in rest)


def _close_all_but(first: int, second: int) -> None:
    """Close all other file descriptors, so that nobody who waits for EOF on an inherited pipe waits for the child."""
    os.closerange(0, first)
    os.closerange(first + 1, second)
    os.closerange(second + 1, _FDS_MAX)


def _serve(requests: int, answers: int) -> None:
    """Answer requests until EOF."""
    pending = b""
    while True:
        request, end, rest = pending.partition(b"\0")
        if not end:
            chunk = os.read(requests, _CHUNK)
            if not chunk:
                return
            pending += chunk
            continue
        pending = rest
        kind = _DONE
        try:
            answer = _answer(request[:1], request[1:])
        except OSError as e:
            kind, answer = _FAILED, b"%d" % (e.errno or errno.EIO)
        left = memoryview(kind + len(answer).to_bytes(_HEADER - 1, "big") + answer)
        while left:
            left = left[os.write(answers, left) :]


def _answer(what: bytes, path: bytes) -> bytes:
    """Return the answer to one request; raises OSError."""
    if what == _PLACE:
        status = os.lstat(path)
        is_link = status.st_mode & 0o170000 == 0o120000
        return b" ".join(b"%d" % number for number in status) + b"\0" + (os.readlink(path) if is_link else b"")
    if what == _LIST:
        names = []
        size = 0
        with os.scandir(path) as entries:
            for entry in entries:
                names.append(entry.name)
                size += len(entry.name) + 1
                if size > _ANSWER_MAX:
                    raise OSError(errno.EFBIG, "too many names")
        return b"\0".join(names)
    if what == _READ:
        return read_file(path)
    return os.getxattr(path, ACL_ATTRIBUTE)
