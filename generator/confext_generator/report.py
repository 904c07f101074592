# SPDX-License-Identifier: LGPL-2.1-or-later
"""Report messages: one line each, to standard error and, if systemd runs the generator, to the kernel log.

At boot the generator runs before the journal, so systemd.generator(7) recommends /dev/kmsg. File names and file
contents in a message are escaped, and long lines are cut, so that nobody can inject a log line.
"""

from __future__ import annotations

import posix as os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from confext_generator.complaints import Code, Effect

# <syslog.h>: LOG_DAEMON | LOG_WARNING and LOG_DAEMON | LOG_DEBUG, like systemd's own generators.
_PRIORITY_WARNING = 3 << 3 | 4
_PRIORITY_DEBUG = 3 << 3 | 7

# The kernel accepts records of up to 1024 bytes, its own prefix included.
_LINE_MAX = 900


class Complaint(Exception):
    """A problem with a unit, a directory or an entry that the user has to know about.

    `effect` and `code` are for programs. `unit` and `path` name the subject of the complaint; either may be empty.
    `details` fills the placeholders in the text of `code`; `subject` is put before that text.
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
        """The consequence, the problem and, after a semicolon, the remedy."""
        from confext_generator.complaints import word  # Most runs have no complaints.

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
    """Return `data` printable and in single quotes, for names in messages."""
    return f"'{printable(data)}'"


def described(error: Exception) -> str:
    """Return the type and the text of an unexpected error, in one line."""
    text = printable(str(error).encode(errors="backslashreplace"))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def reason_of(error: OSError) -> str:
    """Return the reason of a failed system call, in words."""
    return error.strerror or str(error)


class Reporter:
    """Writes messages to standard error and the kernel log."""

    __slots__ = ("_emit", "_kmsg", "_said", "debugging")

    def __init__(self, *, kmsg: str = "", debugging: bool = False, emit: Callable[[str], None] | None = None) -> None:
        """`kmsg` is a file that gets each line besides standard error; `emit`, if given, gets each line instead."""
        self._kmsg = kmsg
        self._emit = emit
        self._said: set[str] = set()
        self.debugging = debugging

    def warn(self, complaint: Complaint) -> None:
        """Report `complaint` once: a complaint about a template's directory comes up for each of its instances."""
        line = str(complaint)
        if line not in self._said:
            self._said.add(line)
            self._write(line, _PRIORITY_WARNING)

    def debug(self, complaint: Complaint) -> None:
        """Report `complaint` if debug logging is on."""
        if self.debugging:
            self._write(str(complaint), _PRIORITY_DEBUG)

    def trace(self) -> None:
        """Print the traceback of the exception that is being handled, if debug logging is on."""
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
                return  # Not root, or a container without a kernel log. Standard error has the line.
            ident = b"<%d>unit-confext-generator[%d]" % (priority, os.getpid())
            _write_quietly(fd, encoded.replace(b"unit-confext-generator", ident, 1) + b"\n")
            os.close(fd)


def _write_quietly(fd: int, line: bytes) -> None:
    try:
        os.write(fd, line)
    except OSError:
        return  # A failure to report cannot be reported.
