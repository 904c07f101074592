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

    from confext_generator.complaints import Code, Effect

# <syslog.h>: LOG_DAEMON | LOG_WARNING and LOG_DAEMON | LOG_DEBUG, as systemd's own generators use.
_PRIORITY_WARNING = 3 << 3 | 4
_PRIORITY_DEBUG = 3 << 3 | 7

# The kernel takes records of up to 1024 bytes less its own prefix.
_LINE_MAX = 900


class Complaint(Exception):
    """Something about one unit that the user has to know.

    `effect` and `code` are for programs.  `unit` and `path` name what it is about (either may be empty), `details` is
    what the message of the code has blanks for, `subject` is put before it.
    """

    def __init__(self, effect: Effect, code: Code, unit: bytes, path: bytes, *details: str, subject: str = "") -> None:
        super().__init__(code)
        self.effect = effect
        self.code = code
        self.unit = unit
        self.path = path
        self.details = details
        self.subject = subject

    @property
    def text(self) -> str:
        """What is wrong and what that means, and after a semicolon what to do."""
        from confext_generator.complaints import word  # Most runs have nothing to say.

        return word(self.effect, self.code, self.details, self.subject)

    def __str__(self) -> str:
        return ": ".join([*(printable(part) for part in (self.unit, self.path) if part), self.text])


def printable(data: bytes) -> str:
    """Return `data` as text without control characters, line separators and bytes that are not UTF-8."""
    text = data.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(data: bytes) -> str:
    """Return `data` printable and in quotes, as messages have names in them."""
    return f"'{printable(data)}'"


def described(error: Exception) -> str:
    """Return the type of an error that nobody expected, and what it says, in one line."""
    text = printable(str(error).encode(errors="backslashreplace"))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def reason_of(error: OSError) -> str:
    """Return why a system call failed."""
    return error.strerror or str(error)


class Reporter:
    """Where messages go."""

    __slots__ = ("_emit", "_kmsg", "_said", "debugging")

    def __init__(self, *, kmsg: str = "", debugging: bool = False, emit: Callable[[str], None] | None = None) -> None:
        """`kmsg` is the file to write to besides standard error; `emit` takes each line instead of both."""
        self._kmsg = kmsg
        self._emit = emit
        self._said: set[str] = set()
        self.debugging = debugging

    def warn(self, complaint: Complaint) -> None:
        """Report `complaint`, once: what a template's directory holds concerns each of its instances."""
        line = str(complaint)
        if line not in self._said:
            self._said.add(line)
            self._write(line, _PRIORITY_WARNING)

    def debug(self, complaint: Complaint) -> None:
        """Report what only a person looking for a fault wants to see."""
        if self.debugging:
            self._write(str(complaint), _PRIORITY_DEBUG)

    def trace(self) -> None:
        """Print where the exception that is being handled comes from, if somebody looks for a fault."""
        if self.debugging:
            from traceback import format_exc

            _write_quietly(2, format_exc().encode(errors="backslashreplace"))

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
