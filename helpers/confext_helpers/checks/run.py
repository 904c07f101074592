# SPDX-License-Identifier: LGPL-2.1-or-later
"""A service's own opinion of its future configuration, asked before it is in place.

`Check=` commands run in a transient unit that has the service's settings, all of them but what would have an effect
beyond the check (checks/settinglists.py), and so the `/etc` that the service would have after a restart. systemd gives
each command a mount namespace of its own; that all of them, and the stage, have the same `/etc` is made sure of by the
caller, who looks at what it is made of before the first and after the last (service/fingerprint.py).

What the service keeps at run time (RuntimeDirectory= and the like) is bound into the check instead of being passed
on as a setting: with the unit that has such a setting, these directories are emptied.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from confext_helpers.errors import ConfextError
from confext_helpers.service.properties import (
    SHAPING_PROPERTIES,
    Item,
    ServiceProperties,
    mount_setting,
)
from confext_helpers.system import bus
from confext_helpers.system.bus import Value

if TYPE_CHECKING:
    from confext_helpers.checks.commandline import Command
    from confext_helpers.checks.section import CheckSettings
    from confext_helpers.service.checkproperties import CheckProperties
    from confext_helpers.system.manager import ServiceManager

NAME_PREFIX = "unit-confext-check-"
SECTION = b"X-Confext"
OUTPUT_MAX = 64 * 1024
LINES_SHOWN = 3

_MS_REC = 16384
_CLD_EXITED = 1
# A unit that is not there: it has what a service has that says nothing.
_UNSAID = "unit-confext-unsaid.service"


def _kept_directories(properties: ServiceProperties) -> tuple[list[Item], list[Item]]:
    """BindPaths= and BindReadOnlyPaths= for the directories that the service has at run time."""
    from confext_helpers.checks.settinglists import KEPT
    from confext_helpers.service.checkproperties import CheckProperties

    writable: list[Item] = []
    read_only: list[Item] = []
    told = CheckProperties.of(properties)
    for name, parent in KEPT.items():
        for directory, is_read_only in told.kept_directories(name):
            path = f"{parent}/{directory}"
            (read_only if is_read_only else writable).append((path, path, True, _MS_REC))
    return writable, read_only


def context(manager: ServiceManager, unit: str, properties: ServiceProperties) -> dict[str, Value]:
    """What a command of `unit` is run with, beside what shapes `/etc`, as StartTransientUnit() takes it.

    Raises:
        ConfextError: something that cannot be handed over is set, or something that is not known.
    """
    from confext_helpers.checks import settinglists
    from confext_helpers.service.checkproperties import CheckProperties, UnitProperties

    told = CheckProperties.of(properties)
    said = told.beside(ServiceProperties(manager.service_properties(_UNSAID)))
    _refuse_unknown(manager, unit, said)
    found = {}
    for name in sorted(settinglists.CONTEXT & told.names):
        # Where there are two, the other one says all of it.
        if f"{name}Ex" not in told.names and (name in said or name in settinglists.ALWAYS):
            found[name] = told.as_written(name)
    if "NFTSet" in found and told.has_nft_set_of_users:
        # User and group would be taken out of theirs with the check.
        raise _cannot("NFTSet= with users or groups cannot be handed to a check")
    return found | UnitProperties(manager.unit_properties(unit)).settings(settinglists.UNIT_CONTEXT)


def _refuse_unknown(manager: ServiceManager, unit: str, said: dict[str, Value]) -> None:
    """Refuse what is set that nothing is known of, as a newer systemd may have it.

    What is constant between two daemon-reloads is a setting. Of the rest, limits and filters of control groups are
    settings as well, and what only says how the service is doing is not: the manager refuses to set that.
    """
    from confext_helpers.checks import settinglists

    unknown = sorted(said.keys() - settinglists.SERVICE - set(SHAPING_PROPERTIES))
    constant = manager.constant_properties(unit) if unknown else set()
    for number, name in enumerate(unknown):
        probe = f"{NAME_PREFIX}probe-{os.getpid()}-{time.monotonic_ns()}-{number}.service"
        if name in constant or manager.takes(probe, name, said[name]):
            raise _cannot(f"{name}= is not known")


def _cannot(problem: str) -> ConfextError:
    text = f"its checks cannot be run as the service is: {problem}"
    return ConfextError(text, hint="take this setting or the Check= away, or update unit-confext")


def build_properties(
    unit: str, properties: ServiceProperties, around: Mapping[str, Value], settings: CheckSettings, output: int
) -> list[tuple[str, Value]]:
    """The properties of the unit that runs the checks of `unit`, for StartTransientUnit().

    Args:
        around: from context().
        settings: from read().
        output: where the checks write to.
    """
    shaping = properties.shaping()
    writable, read_only = _kept_directories(properties)
    # To the manager these are one list, which either clears if it is empty (systemd's dbus-execute.c).
    for name, kept in {"BindPaths": writable, "BindReadOnlyPaths": read_only}.items():
        shaping.pop(name, None)
        if items := [*(entry.item for entry in properties.entries(name)), *kept]:
            shaping[name] = mount_setting(name, items)
    commands = [(command.path, list(command.argv), list(command.flags)) for command in settings.commands]
    return [
        ("Description", bus.text(f"Check of the future /etc of {unit}")),
        ("Type", bus.text("oneshot")),
        ("LogLevelMax", bus.signed(5)),
        ("TimeoutStartUSec", bus.number(settings.timeout_usec)),
        ("PrivateMounts", bus.flag(True)),
        *((name, value) for name, value in around.items() if name not in shaping),
        *shaping.items(),
        ("StandardOutputFileDescriptor", bus.descriptor(output)),
        ("StandardErrorFileDescriptor", bus.descriptor(output)),
        ("ExecStartEx", bus.flagged_commands(commands)),
    ]


def hook_timeout_usec(manager: ServiceManager, unit: str) -> int | None:
    """How long the hook may take, if a file of `unit` says it: TimeoutSec= in [X-Confext], in microseconds."""
    files = manager.unit_files(unit)
    if not any(_mentions_section(path, b"TimeoutSec") for path in files):
        return None
    from confext_helpers.checks import section  # Most services have none, and it takes its time.

    return section.read_hook_timeout(files)


def read(manager: ServiceManager, unit: str) -> CheckSettings | None:
    """What the [X-Confext] sections of `unit` say; None if it has none.

    Raises:
        ConfextError: there is a Check= that cannot be parsed; none is ever left out for that.
    """
    files = manager.unit_files(unit)
    if not any(_mentions_section(path) for path in files):
        return None
    from confext_helpers.checks import section  # Most services have none, and it takes its time.

    specifiers = section.specifiers_for(unit, files[0])
    return section.read_settings(files, specifiers, version=manager.version())


def _mentions_section(path: str, setting: bytes = b"") -> bool:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return False
    return SECTION in data and setting in data


def run(manager: ServiceManager, unit: str, properties: ServiceProperties, settings: CheckSettings) -> None:
    """Run the checks of the service `unit` in order, until one fails; if there are none, do nothing.

    Raises:
        ConfextError: one failed, or could not be run.
    """
    if not settings.commands:
        return
    around = context(manager, unit, properties)
    name = f"{NAME_PREFIX}{os.getpid()}-{time.monotonic_ns()}.service"
    reader, writer = os.pipe()
    try:
        try:
            asked = build_properties(unit, properties, around, settings, writer)
            job = manager.start_transient(name, asked, watch=True)
        finally:
            os.close(writer)
        output = _read(reader)
    finally:
        os.close(reader)
    if manager.job_result(job) == "done":
        return
    from confext_helpers.service.checkproperties import CheckProperties

    ended = CheckProperties(manager.service_properties(name))
    manager.reset_failed(name)
    command, status = _failed(settings.commands, ended)
    said = ": " + " | ".join(output[-LINES_SHOWN:]) if output else ""
    raise ConfextError(
        f"the check '{command}' {status}{said}",
        hint="mend the configuration in the image and reload again",
        check=command,
    )


def _read(reader: int) -> list[str]:
    """Everything that the checks print, up to OUTPUT_MAX bytes from the end."""
    data = b""
    while chunk := os.read(reader, 4096):
        data = (data + chunk)[-OUTPUT_MAX:]
    text = data.decode(errors="replace")
    return ["".join(c if c.isprintable() else " " for c in line).strip() for line in text.splitlines() if line.strip()]


def _failed(commands: tuple[Command, ...], ended: CheckProperties) -> tuple[str, str]:
    """Which command failed, and how."""
    words = ""
    for command, end in zip(commands, ended.start_commands, strict=True):
        if not end.code:
            break  # It never ended, or never began.
        words = " ".join(command.argv)
        if end.status and "ignore-failure" not in end.flags and ended.result != "timeout":
            ending = "exited with status" if end.code == _CLD_EXITED else "was killed by signal"
            return words, f"{ending} {end.status}"
    if ended.result == "timeout":
        return words or " ".join(commands[0].argv), "took too long, see CheckTimeoutSec="
    return words or " ".join(commands[0].argv), f"could not be run ({ended.result})"
