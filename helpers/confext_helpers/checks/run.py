# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the service's own checks of its future configuration, before it is in place.

`Check=` commands run in a transient unit with all settings of the service, except those with an effect beyond the check
(checks/settinglists.py). So they see the `/etc` that a restart would give the service. systemd gives each command a
mount namespace of its own. The caller makes sure that all commands and the stage see the same `/etc`: the fingerprint
(service/fingerprint.py) must be the same before the first command and after the last.

The directories that the service keeps at run time (RuntimeDirectory= and the like) are bound into the check, and the
settings are not passed on: otherwise systemd would empty the directories when the check ends.
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
# A unit that does not exist: its properties are those of a service without any setting.
_UNSAID = "unit-confext-unsaid.service"


def _kept_directories(properties: ServiceProperties) -> tuple[list[Item], list[Item]]:
    """BindPaths= and BindReadOnlyPaths= for the directories that the service keeps at run time."""
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
    """The settings that commands of `unit` run with, besides those that shape `/etc`, for StartTransientUnit().

    Raises:
        ConfextError: a setting is not known, or cannot be handed over.
    """
    from confext_helpers.checks import settinglists
    from confext_helpers.service.checkproperties import CheckProperties, UnitProperties

    told = CheckProperties.of(properties)
    said = told.beside(ServiceProperties(manager.service_properties(_UNSAID)))
    _refuse_unknown(manager, unit, said)
    found = {}
    for name in sorted(settinglists.CONTEXT & told.names):
        # If there is also a property with "Ex", it has the whole setting.
        if f"{name}Ex" not in told.names and (name in said or name in settinglists.ALWAYS):
            found[name] = told.as_written(name)
    if "NFTSet" in found and told.has_nft_set_of_users:
        # When the check ends, systemd would remove the service's user and group from these sets.
        raise _cannot("NFTSet= with users or groups cannot be handed to a check")
    return found | UnitProperties(manager.unit_properties(unit)).settings(settinglists.UNIT_CONTEXT)


def _refuse_unknown(manager: ServiceManager, unit: str, said: dict[str, Value]) -> None:
    """Refuse settings that settinglists.py does not have, as those of a newer systemd.

    A property that is constant between two daemon-reloads is a setting. Of the others, limits and filters of control
    groups are settings as well; state is not, and the manager refuses to set it.
    """
    from confext_helpers.checks import settinglists

    unknown = sorted(said.keys() - settinglists.SERVICE - set(SHAPING_PROPERTIES))
    constant = manager.constant_properties(unit) if unknown else set()
    for number, name in enumerate(unknown):
        probe = f"{NAME_PREFIX}probe-{os.getpid()}-{time.monotonic_ns()}-{number}.service"
        if name in constant or manager.takes(probe, name, said[name]):
            raise _cannot(f"{name}= is not known")


def _cannot(problem: str) -> ConfextError:
    text = f"its checks cannot be run with all of its settings: {problem}"
    return ConfextError(text, hint="remove this setting or the Check=, or update unit-confext")


def build_properties(
    unit: str, properties: ServiceProperties, around: Mapping[str, Value], settings: CheckSettings, output: int
) -> list[tuple[str, Value]]:
    """The properties of the unit that runs the checks of `unit`, for StartTransientUnit().

    Args:
        around: from context().
        settings: from read().
        output: the pipe that the checks write to.
    """
    shaping = properties.shaping()
    writable, read_only = _kept_directories(properties)
    # For the manager these two are one list, and an empty value of either clears all (systemd's dbus-execute.c).
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
    """How long the hook may take, in microseconds: TimeoutSec= in [X-Confext] of `unit`; None if not set."""
    files = manager.unit_files(unit)
    if not any(_mentions_section(path, b"TimeoutSec") for path in files):
        return None
    from confext_helpers.checks import section  # Slow to load, and most services have no such section.

    return section.read_hook_timeout(files)


def read(manager: ServiceManager, unit: str) -> CheckSettings | None:
    """The settings in the [X-Confext] sections of `unit`; None if there is no such section.

    Raises:
        ConfextError: a Check= cannot be parsed; a check is never ignored.
    """
    files = manager.unit_files(unit)
    if not any(_mentions_section(path) for path in files):
        return None
    from confext_helpers.checks import section  # Slow to load, and most services have no such section.

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
        ConfextError: a check failed, or could not be run.
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
    """The output of the checks, of which the last OUTPUT_MAX bytes are kept, as lines."""
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
            break  # This command never began, or never ended.
        words = " ".join(command.argv)
        if end.status and "ignore-failure" not in end.flags and ended.result != "timeout":
            ending = "exited with status" if end.code == _CLD_EXITED else "was killed by signal"
            return words, f"{ending} {end.status}"
    if ended.result == "timeout":
        return words or " ".join(commands[0].argv), "took too long, see CheckTimeoutSec="
    return words or " ".join(commands[0].argv), f"could not be run ({ended.result})"
