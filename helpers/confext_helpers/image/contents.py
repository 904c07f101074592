# SPDX-License-Identifier: LGPL-2.1-or-later
"""List and read the files in an image without mounting it, with the file system's own user space tools.

The tools process untrusted data, so they run with the caller's privileges, with limits on time, memory and output, and
on the same descriptor that was checked before. Their output is parsed line by line. Parsing stops with a finding at a
line that is not understood, such as one caused by a line break in a file name.
"""

from __future__ import annotations

import re
import stat
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from confext_helpers.image.bytesource import Source
from confext_helpers.image.filesystems import Kind
from confext_helpers.image.findings import Code, Finding
from confext_helpers.system import programs

_TIMEOUT_SEC = 30.0
_LIST_MAX = 8 << 20
_FILE_MAX = 1 << 20
_MEMORY_MAX = 1 << 30  # Address space; the threads of unsquashfs reserve more than they use.
_ENTRIES_MAX = 20_000
_DIRECTORIES_MAX = 2_000


class Entry(NamedTuple):
    """A file or directory in the image's /etc.

    Attributes:
        path: the path from the root of the image; bytes that are not UTF-8 are surrogate-escaped.
        kind: "file", "directory", "symlink" or "other".
    """

    path: str
    kind: str


class ContentsError(Exception):
    """The file system cannot be read.

    Args:
        finding: the reason.
    """

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


class Contents(NamedTuple):
    """Access to a file system.

    Attributes:
        entries: /etc itself, then everything below it; empty if there is no /etc.
        read: returns the contents of the file at a path of `entries`, at most 1 MiB; raises ContentsError.
        mode: returns the permission bits of the entry at a path, as in st_mode; None if unknown.
    """

    entries: tuple[Entry, ...]
    read: Callable[[str], bytes]
    mode: Callable[[str], int | None] = lambda path: None

    def private(self) -> Iterator[str]:
        """The paths of files and directories that are not world-readable, as far as their modes are known."""
        kinds = {"file": stat.S_IFREG, "directory": stat.S_IFDIR}
        for entry in self.entries:
            mode = self.mode(entry.path) if entry.kind in kinds else None
            if mode is not None and is_private(kinds[entry.kind] | mode):
                yield entry.path


def open_contents(source: Source, kind: Kind) -> Contents:
    """List /etc of a file system.

    Args:
        source: the bytes of the file system.
        kind: its type.

    Raises:
        ContentsError: the file system cannot be read, or no installed tool can read it.
    """
    match kind:
        case Kind.SQUASHFS:
            return _squashfs(source)
        case Kind.EROFS:
            return _erofs(source)
        case Kind.EXT4:
            return _ext4(source)
    raise _error(
        Code.CONTENTS_TOOL,
        f"no program reads {kind} without mounting it; use systemd-dissect --list as root, or another file system",
    )


def _run(package: str, source: Source, *argv: str, most: int = _LIST_MAX) -> bytes:
    """Run a tool that opens the image as /proc/self/fd/N, and return its output."""
    try:
        done = programs.run_confined(
            *argv, timeout_sec=_TIMEOUT_SEC, output_max=most, memory_max=_MEMORY_MAX, descriptors=[source.fd]
        )
    except FileNotFoundError:
        raise _error(Code.CONTENTS_TOOL, f"{argv[0]} is not installed; install {package}") from None
    if done.status is None:
        raise _error(Code.CONTENTS, f"{argv[0]} was killed, it took longer than {_TIMEOUT_SEC:.0f} s")
    if done.status:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise _error(Code.CONTENTS, f"{argv[0]} failed with {done.status}: {lines[-1] if lines else 'no reason'}")
    return done.stdout


def _error(code: Code, message: str) -> ContentsError:
    return ContentsError(Finding(code, message))


def _path(source: Source) -> str:
    return f"/proc/self/fd/{source.fd}"


def _text(raw: bytes) -> list[str]:
    text = raw.decode(errors="surrogateescape")
    return text.removesuffix("\n").split("\n") if text else []


def _no_line(tool: str, line: str) -> ContentsError:
    return _error(Code.CONTENTS, f"{tool} printed an unknown line: {line[:200]!r}")


_SQUASHFS_LINE = re.compile(r"([-dlbcps])(\S{9}) +\S+ +\d+(?:, *\d+)? \d{4}-\d\d-\d\d \d\d:\d\d (/.*|)")
_LETTERS = ("r", "w", "xs", "r", "w", "xs", "r", "w", "xt")


def _squashfs(source: Source) -> Contents:
    options = ("-o", str(source.offset), "-no-progress", "-p", "1")
    image = _path(source)
    entries = []
    modes = {}
    listed = _run("squashfs-tools", source, "unsquashfs", *options, "-no-wildcards", "-lls", "-d", "", image, "etc")
    for line in _text(listed):
        found = _SQUASHFS_LINE.fullmatch(line)
        if found is None:
            if line in ("",) or line.startswith("Parallel unsquashfs"):
                continue
            raise _no_line("unsquashfs", line)
        kind = {"-": "file", "d": "directory", "l": "symlink"}.get(found[1], "other")
        path = found[3].partition(" -> ")[0] if kind == "symlink" else found[3]
        if path:
            entries.append(Entry(path, kind))
            bits = zip(found[2], _LETTERS, range(8, -1, -1), strict=True)
            modes[path] = sum(1 << bit for letter, meant, bit in bits if letter in meant)
    _check_count(len(entries))

    def read(path: str) -> bytes:
        arguments = (*options, "-no-wildcards", "-cat", image, path.lstrip("/"))
        return _run("squashfs-tools", source, "unsquashfs", *arguments, most=_FILE_MAX)

    return Contents(tuple(entries), read, modes.get)


_EROFS_LINE = re.compile(r" *(\d+) +(\d+) {2}(.+)")
_EROFS_KINDS = {"1": "file", "2": "directory", "7": "symlink"}


def _erofs(source: Source) -> Contents:
    usage = _run("erofs-utils", source, "dump.erofs", "--help")
    if b"--cat" not in usage or b"--offset" not in usage:
        raise _error(Code.CONTENTS_TOOL, "dump.erofs is too old; install erofs-utils 1.8 or newer")
    numbers: dict[str, str] = {}

    def dump(*arguments: str, most: int = _LIST_MAX) -> bytes:
        return _run(
            "erofs-utils", source, "dump.erofs", f"--offset={source.offset}", *arguments, _path(source), most=most
        )

    def listed(*which: str) -> list[tuple[str, str, str]]:
        lines = _text(dump("--ls", *which))
        heads = [index for index, line in enumerate(lines) if line.split() == ["NID", "TYPE", "FILENAME"]]
        if len(heads) != 1:
            raise _error(Code.CONTENTS, "dump.erofs did not list a directory")
        found = []
        for line in lines[heads[0] + 1 :]:
            match = _EROFS_LINE.fullmatch(line)
            if match is not None:
                found.append((match[1], _EROFS_KINDS.get(match[2], "other"), match[3]))
            elif line:
                raise _no_line("dump.erofs", line)
        return found

    entries = _walk(listed("--path=/"), lambda number: listed(f"--nid={number}"), numbers)
    return Contents(
        entries,
        lambda path: dump("--cat", f"--nid={numbers[path]}", most=_FILE_MAX),
        lambda path: _erofs_mode(source, int(numbers[path])),
    )


# The fields needed of the superblock, which is at 1024, and of an inode: <linux/fs/erofs/erofs_fs.h>. With features
# outside of this mask, inodes may be elsewhere.
_EROFS_SUPERBLOCK = struct.Struct("<12xB27xI36xI")
_EROFS_FEATURES = 0xFF
_EROFS_INODE = struct.Struct("<4xH")


def _erofs_mode(source: Source, number: int) -> int | None:
    """The mode of an inode, None if unknown. dump.erofs shows one mode per run, so it would have to run per file."""
    bits, start, features = _EROFS_SUPERBLOCK.unpack(source.head(1024, _EROFS_SUPERBLOCK.size).ljust(84, b"\0"))
    inode = source.head((start << min(bits, 16)) + number * 32, _EROFS_INODE.size)
    if features & ~_EROFS_FEATURES or len(inode) < _EROFS_INODE.size:
        return None
    return stat.S_IMODE(_EROFS_INODE.unpack(inode)[0])


_EXT4_LINE = re.compile(r"/(\d+)/(\d+)/(\d+)/(\d+)/(.+)/(\d*)/")


def _ext4(source: Source) -> Contents:
    image = f"{_path(source)}?offset={source.offset}"
    numbers: dict[str, str] = {}
    modes: dict[str, str] = {}

    def request(text: str, most: int = _LIST_MAX) -> bytes:
        return _run("e2fsprogs", source, "debugfs", "-R", text, image, most=most)

    def listed(number: str) -> list[tuple[str, str, str]]:
        found = []
        for line in _text(request(f"ls -p <{number}>")):
            match = _EXT4_LINE.fullmatch(line)
            if match is not None:
                kind = {"04": "directory", "10": "file", "12": "symlink"}.get(match[2][:2], "other")
                found.append((match[1], kind, match[5]))
                modes[match[1]] = match[2]
            elif line:
                raise _no_line("debugfs", line)
        # debugfs exits with the same status if a request fails. Any directory has at least the entry ".".
        if not found:
            raise _error(Code.CONTENTS, "debugfs did not list a directory")
        return found

    entries = _walk(listed("2"), listed, numbers)
    return Contents(
        entries,
        lambda path: request(f"cat <{numbers[path]}>", most=_FILE_MAX),
        lambda path: int(modes[numbers[path]], 8) & 0o7777,
    )


def _walk(
    root: list[tuple[str, str, str]],
    listed: Callable[[str], list[tuple[str, str, str]]],
    numbers: dict[str, str],
) -> tuple[Entry, ...]:
    """List /etc and everything below it, directory by directory, and record the inode number of each path in `numbers`.

    `root` and `listed` have (inode number, kind, name) of each entry of a directory.
    """
    entries: list[Entry] = []
    pending = [(number, kind, f"/{name}") for number, kind, name in root if name == "etc"]
    seen: set[str] = set()
    while pending:
        number, kind, path = pending.pop(0)
        entries.append(Entry(path, kind))
        _check_count(len(entries))
        numbers[path] = number
        if kind != "directory":
            continue
        if number in seen or len(seen) >= _DIRECTORIES_MAX:
            raise _error(Code.CONTENTS, f"this directory appears twice, or is one too many: {path!r}")
        seen.add(number)
        pending += [
            (below, its_kind, f"{path}/{name}") for below, its_kind, name in listed(number) if name not in (".", "..")
        ]
    return tuple(entries)


def _check_count(count: int) -> None:
    if count > _ENTRIES_MAX:
        raise _error(Code.CONTENTS, f"there are more than {_ENTRIES_MAX} entries in /etc")


def is_private(mode: int) -> bool:
    """Whether a file or directory with this st_mode is not world-readable; a symlink never is private."""
    everybody = {stat.S_IFREG: stat.S_IROTH, stat.S_IFDIR: stat.S_IROTH | stat.S_IXOTH}.get(stat.S_IFMT(mode), 0)
    return mode & everybody != everybody
