# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the `[X-Confext]` section of a unit: the checks before a swap, and how long they and the hook may take.

systemd ignores sections whose names begin with `X-` (systemd.unit(5)). So this module reads the files that systemd has
read for the unit, in the same order, as config_parse() in systemd's conf-parser.c does: a backslash at the end of a
line joins it with the next one, comments in between are left out, and lines end in more than one way. The only
difference: where systemd stops reading a file, at a broken line, a check could get lost, so this is an error here.

A list that a later file resets is never parsed, so an administrator can correct a package's mistake with a drop-in.
Specifiers are resolved here as well, as far as this can be done exactly: systemd's D-Bus interface does not do it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from confext_generator import architectures, unitfile, words
from confext_helpers.errors import ConfextError
from confext_helpers.system import envfile

if TYPE_CHECKING:
    from confext_helpers.checks.commandline import Command

SECTION = "X-Confext"
DEFAULT_TIMEOUT_USEC = 30_000_000
# For all that the hook does.
DEFAULT_HOOK_TIMEOUT_USEC = 90_000_000
INFINITY_USEC = (1 << 64) - 1
# parse_boolean() of systemd's parse-util.c.
_BOOLEANS = ("1", "yes", "y", "true", "t", "on", "0", "no", "n", "false", "f", "off")

_WHITESPACE = words.WHITESPACE.decode()


class CheckSettings(NamedTuple):
    """The settings in `[X-Confext]` of a unit.

    Attributes:
        commands: of all Check= settings, in order.
        timeout_usec: CheckTimeoutSec=; INFINITY_USEC for no limit.
        warnings: a line for the user about each ignored setting.
        hook_timeout_usec: TimeoutSec=, never infinite.
    """

    commands: tuple[Command, ...] = ()
    timeout_usec: int = DEFAULT_TIMEOUT_USEC
    warnings: tuple[str, ...] = ()
    hook_timeout_usec: int = DEFAULT_HOOK_TIMEOUT_USEC


class _Line(NamedTuple):
    """A line of a unit file, joined with its continuation lines.

    Attributes:
        data: the bytes, without a line end.
        parts: for each line of the file, its offset in `data`, and its number in the file.
    """

    data: bytes
    parts: Sequence[tuple[int, int]]

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column (in characters) of the byte at `offset` of `data`, both counted from 1."""
        start, number = max(part for part in self.parts if part[0] <= offset)
        return number, len(self.data[start:offset].decode(errors="replace")) + 1


class _Assignment(NamedTuple):
    """A setting; its value begins at `offset` of the line."""

    path: str
    line: _Line
    key: str
    value: str
    offset: int


def _broken(data: bytes) -> str:
    """Why systemd stops reading at a line (parse_line() of conf-parser.c fails); empty if it does not."""
    if not words.is_utf8(data):
        return "a line is not UTF-8"
    if data.startswith(b"[") and unitfile.section_name(data) is None:
        return "a section header is broken"
    return ""


def _fail(path: str, place: tuple[int, int], problem: str) -> NoReturn:
    line, column = place
    raise ConfextError(problem, path=f"{path}:{line}:{column}", hint="correct it and reload again")


def _warning(path: str, line: _Line, problem: str) -> str:
    return str(ConfextError(f"{problem} in [{SECTION}] is ignored", path=f"{path}:{line.place(0)[0]}"))


def _assignments(path: str, data: bytes, warnings: list[str]) -> Iterator[_Assignment]:
    """The settings of `[X-Confext]` in one file.

    Raises:
        ConfextError: a line is broken, and settings may follow.
    """
    section = ""
    physical = unitfile.physical_lines(data)

    def stop(number: int, problem: str) -> None:
        """Stop reading at the line `number`; an error if a check may follow."""
        if section == SECTION or any(SECTION.encode() in line for line in physical[number - 1 :]):
            _fail(path, (number, 1), f"its checks cannot be read: {problem}")

    lines = unitfile.logical_lines(physical)
    while True:
        try:
            line = _Line(*next(lines, (b"", [])))
        except unitfile.TooLongError as error:
            return stop(error.number, "a line is too long")
        if not line.parts:
            return None
        if problem := _broken(line.data.strip(words.WHITESPACE)):
            return stop(line.parts[0][1], problem)
        text = line.data.decode()
        content = text.strip(_WHITESPACE)
        if content.startswith("["):
            section = content[1:-1]
        elif content and section == SECTION:
            key, equals, value = text.partition("=")
            key = key.strip(_WHITESPACE)
            offset = len((text[: len(text) - len(value)]).encode()) + len(value) - len(value.lstrip(_WHITESPACE))
            if key and equals:
                yield _Assignment(path, line, key, value.strip(_WHITESPACE), offset)
            else:
                warnings.append(_warning(path, line, 'a line that is no "KEY=VALUE"'))


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        # The file was removed since systemd read it, and its checks with it.
        return b""
    except OSError as error:
        raise ConfextError(f"its checks cannot be read: {error.strerror}", path=path) from None


def _time_span(setting: _Assignment, default: int, last: int, warnings: list[str], *, finite: bool = False) -> int:
    try:
        span = parse_timeout(setting.value) if setting.value else default
    except ValueError:
        span = -1
    if span < 0 or (finite and span == INFINITY_USEC):
        kind = "finite time span" if finite else "time span"
        problem = f"{setting.key}={setting.value}, which is no {kind},"
        warnings.append(_warning(setting.path, setting.line, problem))
        return last
    return span


def _parse_checks(checks: list[_Assignment], specifiers: Mapping[str, str], version: int) -> tuple[Command, ...]:
    from confext_helpers.checks.commandline import CommandLineError, parse_commands

    commands: list[Command] = []
    for check in checks:
        try:
            commands += parse_commands(check.value, specifiers, version=version)
        except CommandLineError as error:
            offset = check.offset + len(check.value[: error.column - 1].encode())
            _fail(check.path, check.line.place(offset), f"Check= cannot be parsed: {error.problem}")
    return tuple(commands)


def read_settings(paths: Sequence[str], specifiers: Mapping[str, str], *, version: int) -> CheckSettings:
    """Read `[X-Confext]` of a unit.

    Args:
        paths: FragmentPath and DropInPaths of org.freedesktop.systemd1(5), in this order. Empty paths and missing
            files are ignored.
        specifiers: from specifiers_for().
        version: of the systemd that is to execute the commands.

    Raises:
        ConfextError: a Check= cannot be parsed, or there may be one that cannot be read. `path` of the error has line
            and column, as in `/etc/systemd/system/a.service:12:8`.
    """
    checks: list[_Assignment] = []
    timeout = DEFAULT_TIMEOUT_USEC
    hook_timeout = DEFAULT_HOOK_TIMEOUT_USEC
    warnings: list[str] = []
    for path in paths:
        data = _read(path) if path else b""
        if SECTION.encode() not in data:
            continue
        for setting in _assignments(path, data, warnings):
            if setting.key == "Check":
                checks = [*checks, setting] if setting.value else []
            elif setting.key == "CheckTimeoutSec":
                timeout = _time_span(setting, DEFAULT_TIMEOUT_USEC, timeout, warnings)
            elif setting.key == "TimeoutSec":
                hook_timeout = _time_span(setting, DEFAULT_HOOK_TIMEOUT_USEC, hook_timeout, warnings, finite=True)
            elif setting.key == "UnsafeDeviceAllow":
                # The generator reads this setting, and takes anything but a boolean for "no".
                if setting.value and setting.value.lower() not in _BOOLEANS:
                    problem = f"UnsafeDeviceAllow={setting.value}, which is no boolean,"
                    warnings.append(_warning(path, setting.line, problem))
            elif not setting.key.startswith("X-"):
                key = setting.key if setting.key.isprintable() else ascii(setting.key)
                warnings.append(_warning(path, setting.line, f"the unknown key {key}="))
    commands = _parse_checks(checks, specifiers, version) if checks else ()
    return CheckSettings(commands, timeout, tuple(warnings), hook_timeout)


def read_hook_timeout(paths: Sequence[str]) -> int:
    """Read TimeoutSec= as read_settings() does, but ignore all errors in other settings; return microseconds."""
    found = DEFAULT_HOOK_TIMEOUT_USEC
    for path in paths:
        with contextlib.suppress(ConfextError):
            for setting in _assignments(path, _read(path), []):
                if setting.key == "TimeoutSec":
                    found = _time_span(setting, DEFAULT_HOOK_TIMEOUT_USEC, found, [], finite=True)
    return found


# ---- Specifiers, systemd.unit(5) ----

_OS_RELEASE = {"A": "IMAGE_VERSION", "B": "BUILD_ID", "M": "IMAGE_ID", "o": "ID", "w": "VERSION_ID", "W": "VARIANT_ID"}
_ID128 = re.compile(r"(?!0{32})[0-9a-f]{32}")


def _environment_file(path: str) -> dict[str, str] | None:
    """Read a file such as os-release(5) as systemd does; return None if that fails."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return {one.key: one.value for one in envfile.parse(file.read()) if one.key}
    except (OSError, ValueError):
        return None


def _unescape(text: str) -> str | None:
    """unit_name_unescape() of systemd's unit-name.c; None if it fails."""
    if re.search(r"\\(?!x[0-9A-Fa-f]{2})", text):
        return None
    data = re.sub(rb"\\x(..)", lambda m: bytes([int(m[1], 16)]), text.replace("-", "/").encode())
    return data.decode("utf-8", "surrogateescape")


def _unescape_path(text: str) -> str | None:
    """unit_name_path_unescape() of systemd's unit-name.c; None if it fails."""
    if text == "-":
        return "/"
    plain = _unescape(text)
    parts = (plain or "").split("/")
    return None if plain is None or {"", ".", ".."} & set(parts) else f"/{plain}"


def _name_specifiers(unit: str) -> dict[str, str | None]:
    name = unit.rpartition(".")[0]
    prefix, at, instance = name.partition("@")
    last = prefix.rpartition("-")[2]
    return {
        "n": unit, "N": name, "p": prefix, "P": _unescape(prefix), "i": instance, "I": _unescape(instance),
        "j": last, "J": _unescape(last), "f": _unescape_path(instance if at else prefix),
        "d": f"/run/credentials/{unit}",
    }  # fmt: skip


def _fragment_specifiers(fragment: str) -> dict[str, str | None]:
    if not fragment or not os.path.exists(fragment):
        return {}
    path = os.path.realpath(fragment)
    return {"y": path, "Y": os.path.dirname(path)}


def _host_specifiers(root: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for letter, path in {"m": f"{root}/etc/machine-id", "b": "/proc/sys/kernel/random/boot_id"}.items():
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            text = file.read().strip().replace("-", "").lower()
            found[letter] = text if _ID128.fullmatch(text) else None
    host = os.uname()
    found |= {"v": host.release, "a": architectures.of_kernel(host.machine) or None}
    if host.nodename not in ("", "(none)") and not host.nodename.startswith("."):
        short = host.nodename.partition(".")[0]
        machine_info = _environment_file(f"{root}/etc/machine-info") or {}
        found |= {"H": host.nodename, "l": short, "q": machine_info.get("PRETTY_HOSTNAME") or short}
    release = _environment_file(f"{root}/etc/os-release") or _environment_file(f"{root}/usr/lib/os-release")
    if release is not None:
        found |= {letter: release.get(key, "") for letter, key in _OS_RELEASE.items()}
    return found


def specifiers_for(unit: str, fragment: str, *, root: str = "") -> dict[str, str]:
    """The values of the specifiers in a section of `unit`, by their letters.

    Left out are those that depend on the environment or build of the manager (%s, %T, %V), those that systemd has
    deprecated (%c, %r, %R), and any whose value is uncertain on this system.

    Args:
        unit: Id of org.freedesktop.systemd1(5), which is never an alias.
        fragment: FragmentPath of org.freedesktop.systemd1(5).
        root: the root directory below which /etc and /usr are read; empty for the host's.
    """
    found: dict[str, str | None] = {
        "t": "/run", "S": "/var/lib", "C": "/var/cache", "L": "/var/log", "E": "/etc", "D": "/usr/share",
        "h": "/root", "u": "root", "U": "0", "g": "root", "G": "0",
    }  # fmt: skip
    found |= _name_specifiers(unit) | _fragment_specifiers(fragment) | _host_specifiers(root)
    return {letter: value for letter, value in found.items() if value is not None}


# ---- Time spans, systemd.time(7) ----

_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_YEAR = 31_557_600 * _SECOND
# The order matters: the first unit that matches is taken.
_UNITS = {
    "seconds": _SECOND, "second": _SECOND, "sec": _SECOND, "s": _SECOND,
    "minutes": _MINUTE, "minute": _MINUTE, "min": _MINUTE,
    "months": _YEAR // 12, "month": _YEAR // 12, "M": _YEAR // 12,
    "msec": 1000, "ms": 1000, "m": _MINUTE,
    "hours": _HOUR, "hour": _HOUR, "hr": _HOUR, "h": _HOUR,
    "days": _DAY, "day": _DAY, "d": _DAY,
    "weeks": 7 * _DAY, "week": 7 * _DAY, "w": 7 * _DAY,
    "years": _YEAR, "year": _YEAR, "y": _YEAR,
    "usec": 1, "us": 1, "\u03bcs": 1, "\u00b5s": 1,
}  # fmt: skip
_SPAN = re.compile(
    r"[ \t\n\r]*(?:\+?([0-9]+)|(?=\.))(?:\.([0-9]+))?(?P<gap>[ \t\n\r]*)(?P<unit>" + "|".join(_UNITS) + ")?"
)


def parse_timeout(text: str) -> int:
    """Parse a time span as parse_sec() of systemd's time-util.c does; return microseconds.

    As for timeouts in systemd, a number without a unit is in seconds, and 0 means no limit.

    Raises:
        ValueError: the text is no time span, or the span is too long.
    """
    text = text.strip(_WHITESPACE)
    if text == "infinity":
        return INFINITY_USEC
    total = at = 0
    while not at or at < len(text):
        match = _SPAN.match(text, at)
        if not match or match.end() == at or not (match["gap"] or match["unit"] or match.end() == len(text)):
            raise ValueError(f"{text!r} is no time span")
        factor = _UNITS[match["unit"] or "s"]
        total += int(match[1] or 0) * factor
        for digit in match[2] or "":
            factor //= 10
            total += int(digit) * factor
        at = match.end()
    if total >= INFINITY_USEC:
        raise ValueError(f"{text!r} is too long")
    return total or INFINITY_USEC
