# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looking at what lies on other file systems than the unit directories do, without waiting for one that is silent.

A server that is gone, or a program behind a file system that is stuck, keeps whoever looks there waiting, and not even
SIGKILL ends that. systemd gives all generators 90 seconds and then forgets what they have written, so that one link
into such a file system would take the drop-ins of all units away. So a child is asked, over two pipes: it makes the
system calls, and if it does not answer in time it is left behind, and what is on that file system counts as not there.
All waiting together is limited, however many there are.

Most systems never start the child. What is on a file system that also has a unit directory or something on the way to
one is looked at as ever, since systemd itself could not do anything without it; and so is what the kernel keeps in
memory, `/dev` and `/proc` for example.
"""

from __future__ import annotations

import errno
import posix as os

from confext_generator.report import quoted

# Seconds: for everything, and for one answer; after the first that fails to come, half of what is left is the most.
BUDGET_SEC = 6.0
_PATIENCE_SEC = 2.0
_LEAST_SEC = 0.05

# What has no device or server behind it that could be silent.
_IN_MEMORY = (b"cgroup", b"cgroup2", b"devtmpfs", b"proc", b"ramfs", b"securityfs", b"sysfs", b"tmpfs")

_MOUNTS = b"/proc/self/mountinfo"
_CHUNK = 1 << 16
_FDS_MAX = 1 << 16
_SIGKILL = 9

# No list of names and no unit file is longer.
_ANSWER_MAX = 1 << 25

_PLACE, _LIST, _READ, _ACL = b"p", b"l", b"r", b"a"
_DONE, _FAILED = b"=", b"!"
_HEADER = 5

ACL_ATTRIBUTE = b"system.posix_acl_access"

# A unit file is never that long.
_FILE_MAX = 1 << 24


def read_file(path: bytes) -> bytes:
    """Return what is in the file at `path`, empty for a device, which is a mask; raises OSError.

    As null_or_empty() of systemd. A FIFO must not hold up the boot: without a writer, O_NONBLOCK reads it as empty. No
    link is followed, the one that would be at `path` has been.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW)
    try:
        if os.fstat(fd).st_mode & 0o170000 in (0o020000, 0o060000):
            return b""
        chunks = [os.read(fd, _CHUNK)]
        while len(chunks[-1]) == _CHUNK and len(chunks) < _FILE_MAX // _CHUNK:
            chunks.append(os.read(fd, _CHUNK))
        return b"".join(chunks)
    finally:
        os.close(fd)


class SilentError(OSError):
    """What was asked for is on a file system that does not answer."""


class Lookout:
    """Asks a child about places on other file systems."""

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
        """Places are below `root`; `unit_directories` are always looked at without a child."""
        self._root = root
        self.unit_directories = unit_directories
        self._mounts = _find_mounts(root, unit_directories)
        self._silent: set[bytes] = set()
        self._left = BUDGET_SEC
        self._is_over = False
        self._child = self._requests = self._answers = -1
        # What was answered, for each place: its status and what it holds if it is a link, or the error.
        self._places: dict[bytes, tuple[os.stat_result, bytes] | OSError] = {}

    def mount_of(self, place: bytes) -> bytes:
        """Return the mount point that `place`, a path free of links, is at or below; empty if nobody has to be asked.

        Of several it is the topmost: the way to the others leads over it.
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
        """Return why `place` counts as not there, empty if it was looked at."""
        mount = self.mount_of(place)
        if mount in self._silent:
            return f"{quoted(mount)} does not answer"
        if mount and self._is_over:
            return f"{quoted(mount)} was not looked at, others did not answer for too long"
        return ""

    def look(self, place: bytes) -> tuple[os.stat_result, bytes]:
        """Return the status of `place`, and what it holds if it is a link; raises OSError."""
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
        """Return what read_file() returns; raises OSError."""
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
        """Let go of the child, which ends by itself."""
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
        # It is stuck in there, maybe for good, and SIGKILL is all that can be done.
        os.kill(self._child, _SIGKILL)
        self.close()
        self._silent.add(mount)
        raise SilentError(errno.ETIMEDOUT, "does not answer", place)

    def _exchange(self, request: bytes) -> tuple[bytes, bytes]:
        """Return the kind of the answer and the answer, both empty if there is none in time."""
        import select  # Not built in everywhere, and hardly ever needed.
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
    """Return the mount points below `root`, as seen from there, whose file systems may be silent for some unit only."""
    try:
        fd = os.open(_MOUNTS, os.O_RDONLY)
    except OSError:
        return frozenset()  # Without /proc there is no systemd.
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
    """Undo what mangle_path() of the kernel does to the mount points in mountinfo."""
    first, *rest = path.split(b"\\")
    return first + b"".join(bytes((int(part[:3], 8),)) + part[3:] for part in rest)


def _close_all_but(first: int, second: int) -> None:
    """Close all other files: who waits for the end of one of them must not wait for the child."""
    os.closerange(0, first)
    os.closerange(first + 1, second)
    os.closerange(second + 1, _FDS_MAX)


def _serve(requests: int, answers: int) -> None:
    """Answer until there are no more requests."""
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
