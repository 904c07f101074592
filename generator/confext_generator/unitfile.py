# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parse one unit file or drop-in like config_parse() of systemd's conf-parser.c.

Only the settings in SETTINGS are kept. Everything that systemd ignores is ignored here as well, above all the rest of
a file after a line that systemd refuses (a section header without its bracket, a line that is not UTF-8, a command
line without a command): systemd stops reading there.
"""

from __future__ import annotations

from confext_generator import words
from confext_generator.words import WHITESPACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# The settings that the generator needs, by section.
SETTINGS = {
    b"Unit": frozenset((b"DefaultDependencies", b"SourcePath")),
    b"Service": frozenset(
        (
            b"BindPaths",
            b"BindReadOnlyPaths",
            b"DeviceAllow",
            b"DevicePolicy",
            b"ExecReload",
            b"ExtensionDirectories",
            b"ExtensionImagePolicy",
            b"ExtensionImages",
            b"MountImages",
            b"PrivateDevices",
            b"PrivateMounts",
            b"RefreshOnReload",
            b"RootDirectory",
            b"RootImage",
            b"RootMStack",
            b"Type",
        )
    ),
    b"Install": frozenset[bytes](),
    b"X-Confext": frozenset((b"UnsafeDeviceAllow",)),
}

# LONG_LINE_MAX of systemd's fileio.h: lines must be shorter.
LINE_MAX = 1 << 20

_SECTION = ord("[")
_COMMENTS = b"#;"
_BOM = b"\xef\xbb\xbf"


def parse(
    data: bytes, *, dropin: bool = False, shell_prefix: bool = True, dot_paths: bool = False
) -> list[tuple[bytes, bytes]]:
    """Return the assignments of `data` whose key is in SETTINGS for its section, as (key, value), in order.

    Command lines without a command that systemd accepts are left out, except empty ones. Parsing stops at a refused
    command line only in a drop-in: a unit file with such a line is not loaded at all.

    `shell_prefix`: this systemd knows the prefix "|"; `dot_paths`: this systemd accepts a command whose path ends in
    "/." or "/..".
    """
    found: list[tuple[bytes, bytes]] = []
    keys: frozenset[bytes] | None = None
    clean = words.is_utf8(data)
    lines = physical_lines(data)
    if b"\\" in data or _BOM in data or len(data) >= LINE_MAX:
        lines = _logical_lines(lines)
    # This loop runs over hundreds of files. Comments need no extra test: they never match a key in SETTINGS.
    for line in lines:
        line = line.strip(WHITESPACE)
        if not line:
            continue
        if not clean and line[0] not in _COMMENTS and not words.is_utf8(line):
            break
        if line[0] == _SECTION:
            name = section_name(line)
            if name is None:
                break
            keys = SETTINGS.get(name)
        elif keys is not None:
            key, equals, value = line.partition(b"=")
            key = key.rstrip(WHITESPACE)
            if not equals:
                continue
            if key in keys:
                found.append((key, value.lstrip(WHITESPACE)))
            if (dropin or key in keys) and key.startswith(b"Exec"):
                value = value.lstrip(WHITESPACE)
                taken, stops = read_command(value, shell_prefix=shell_prefix, dot_paths=dot_paths)
                if key in keys and value and not taken:
                    found.pop()
                if stops and dropin:
                    break
    return found


def _logical_lines(physical: list[bytes]) -> list[bytes]:
    """Return the lines of logical_lines(), up to where systemd stops reading."""
    lines = []
    try:
        for line, _ in logical_lines(physical):
            lines.append(line)
    except TooLongError:
        pass  # systemd stops reading at the long line, and drops a continued line that ends in it.
    return lines


class TooLongError(Exception):
    """A line is too long, and systemd stops reading there; `number` is the number of the line's first part."""

    def __init__(self, number: int) -> None:
        super().__init__(f"line {number} is too long")
        self.number = number


def logical_lines(physical: list[bytes]) -> Iterator[tuple[bytes, list[tuple[int, int]]]]:
    """Join continued lines, leaving out comments, also those within a continued line; raises TooLongError.

    Yield each joined line with its parts: for each line of the file in it, (offset in the joined line, line number).
    """
    joined = b""
    parts: list[tuple[int, int]] = []
    bom_seen = False
    for number, line in enumerate(physical, 1):
        if len(line) >= LINE_MAX:
            raise TooLongError(parts[0][1] if parts else number)
        if line.lstrip(WHITESPACE)[:1] in (b"#", b";"):
            continue
        if not bom_seen and line.startswith(_BOM):
            line = line[len(_BOM) :]
            bom_seen = True
        if parts and len(joined) + len(line) > LINE_MAX:
            raise TooLongError(parts[0][1])
        parts.append((len(joined), number))
        joined += line
        if ends_in_backslash(joined):
            joined = joined[:-1] + b" "
        else:
            yield joined, parts
            joined, parts = b"", []
    if parts:
        yield joined, parts


def physical_lines(data: bytes) -> list[bytes]:
    """Split `data` like read_line() of systemd's fileio.c: at \\n, \\r, \\0 and some of their combinations."""
    if b"\r" not in data and b"\0" not in data:
        return data.split(b"\n")
    lines = []
    start = at = 0
    while at < len(data):
        if data[at] not in b"\n\r\0":
            at += 1
            continue
        lines.append(data[start:at])
        # At most one \n and one \r, in any order, then at most one \0, form a single line end.
        seen = b""
        while at < len(data) and data[at] in b"\n\r\0" and data[at] not in seen and 0 not in seen:
            seen += data[at : at + 1]
            at += 1
        start = at
    lines.append(data[start:])
    return lines


def section_name(line: bytes) -> bytes | None:
    """Return the name in the section header `line`, which begins with a bracket; None if systemd refuses the header."""
    name = line[1:-1]
    broken = line[-1:] != b"]" or name.translate(None, b"\"'\\") != name or words.has_control(name)
    return None if broken else name


def ends_in_backslash(line: bytes) -> bool:
    """Return whether `line` is continued, i.e. ends in a backslash that is not itself escaped."""
    return line.endswith(b"\\") and (len(line) - len(line.rstrip(b"\\"))) % 2 == 1


def read_command(value: bytes, *, shell_prefix: bool, dot_paths: bool = False) -> tuple[bool, bool]:
    """Return whether systemd accepts a command from this command line, and whether it stops reading the file here.

    Follows config_parse_exec() of load-fragment.c: if a wrong command has the prefix "-", systemd skips it with the
    rest of the line and keeps the commands before it. Specifiers are not expanded, so a command line that is wrong only
    after expansion is not noticed.
    """
    taken = False
    while value:
        try:
            word, value = _first_exec_word(value)
        except ValueError:
            return taken, False  # systemd logs this and skips the rest of the line.
        if word == b";":
            continue
        prefixes = _prefixes(word, shell_prefix)
        command = word[len(prefixes) :]
        ignored = b"-" in prefixes
        shell = b"|" in prefixes
        if not shell and (
            command in (b"", b".", b"..")
            or command.endswith(b"/" if dot_paths else (b"/", b"/.", b"/.."))
            or (b"/" in command and not command.startswith(b"/"))
            or words.has_control(command)
            or command.translate(None, b"\"'\\") != command
        ):
            return taken, not ignored
        arguments = 0
        while value:
            if value[:1] == b";" and value[1:2] in (b"", b" ", b"\t"):
                break
            try:
                _, value = _first_exec_word(value)
            except ValueError:
                return taken, not ignored
            arguments += 1
        if b"@" in prefixes and not shell and not arguments:
            return taken, not ignored
        taken = True
    return taken, False


def _prefixes(word: bytes, shell_prefix: bool) -> bytes:
    """Return the special prefixes ("-", "@", "+" etc.) before the path of a command, as systemd recognizes them."""
    seen = b""
    for at in range(len(word)):
        c = word[at : at + 1]
        if c == b"!":
            allowed = b"+" not in seen and seen.count(b"!") < 2
        elif c == b"+":
            allowed = b"+" not in seen and b"!" not in seen
        else:
            allowed = c in (b"-", b"@", b":", b"|" if shell_prefix else b"-") and c not in seen
        if not allowed:
            break
        seen += c
    return seen


def _first_exec_word(value: bytes) -> tuple[bytes, bytes]:
    """Return the first word of a command line and the rest; raises ValueError as first_word() does."""
    if b"\\" in value or b'"' in value or b"'" in value:
        # first_word() does not decode C escapes, but finds where words end, which is enough here.
        return words.first_word(value)
    word, _, rest = value.replace(b"\t", b" ").partition(b" ")
    return word, rest.lstrip(b" ")
