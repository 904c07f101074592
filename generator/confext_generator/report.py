# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages: one line each, to standard error and, for a real generator run, to the kernel log.

At boot the generator runs before the journal, so systemd.generator(7) asks for /dev/kmsg.  Whatever a message
quotes (file names, file contents) is escaped and the line is cut, so that nobody can write a log line of
their own.
"""

from __future__ import annotations

import posix as os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# <syslog.h>: LOG_DAEMON | LOG_WARNING and LOG_DAEMON | LOG_DEBUG, as systemd's own generators use.
_PRIORITY_WARNING = 3 << 3 | 4
_PRIORITY_DEBUG = 3 << 3 | 7

# The kernel takes records of up to 1024 bytes less its own prefix.
_LINE_MAX = 900


class ConfextError(Exception):
    """Something about one unit that the user has to know.

    `unit` and `path` name what it is about (either may be empty), `text` says what is wrong and what that
    means, `hint` says what to do.
    """

    def __init__(self, unit: bytes, path: bytes, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.unit = unit
        self.path = path
        self.text = text
        self.hint = hint

    def __str__(self) -> str:
        parts = [printable(part) for part in (self.unit, self.path) if part]
        return ": ".join([*parts, f"{self.text}; {self.hint}" if self.hint else self.text])


def printable(data: bytes) -> str:
    """Return `data` as text without control characters, line separators and bytes that are not UTF-8."""
    text = data.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(data: bytes) -> str:
    """Return `data` printable and in quotes, as messages have names in them."""
    return f"'{printable(data)}'"


class Reporter:
    """Where messages go."""

    __slots__ = ("_emit", "_kmsg", "_said", "debugging")

    def __init__(self, *, kmsg: str = "", debugging: bool = False, emit: Callable[[str], None] | None = None) -> None:
        """`kmsg` is the file to write to besides standard error; `emit` takes each line instead of both."""
        self._kmsg = kmsg
        self._emit = emit
        self._said: set[str] = set()
        self.debugging = debugging

    def warn(self, error: ConfextError) -> None:
        """Report `error`, once: what a template's directory holds concerns each of its instances."""
        line = str(error)
        if line not in self._said:
            self._said.add(line)
            self._write(line, _PRIORITY_WARNING)

    def debug(self, error: ConfextError) -> None:
        """Report what only a person looking for a fault wants to see."""
        if self.debugging:
            self._write(str(error), _PRIORITY_DEBUG)

    def _write(self, line: str, priority: int) -> None:
        encoded = f"unit-confext-generator: {line}".encode(errors="backslashreplace")
        if len(encoded) > _LINE_MAX:
            encoded = encoded[:_LINE_MAX].decode("utf-8", "ignore").encode() + "…".encode()
        if self._emit is not None:
            self._emit(encoded.decode())
            return
        _write_quietly(2, encoded + b"\n")
        if self._kmsg:
            try:
                fd = os.open(self._kmsg, os.O_WRONLY | os.O_NOCTTY)
            except OSError:
                return  # Not root, or a container without a kernel log: standard error has it.
            ident = b"<%d>unit-confext-generator[%d]" % (priority, os.getpid())
            _write_quietly(fd, encoded.replace(b"unit-confext-generator", ident, 1) + b"\n")
            os.close(fd)


def _write_quietly(fd: int, line: bytes) -> None:
    try:
        os.write(fd, line)
    except OSError:
        return  # There is nobody left to tell.
