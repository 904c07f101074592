"""A service's own opinion of its future configuration, asked before it is in place.

`Check=` commands run in a transient unit that has the service's settings, all of them but what would have an effect
beyond the check, and so the `/etc` that the service would have after a restart. systemd gives each command a mount
namespace of its own; that all of them, and the stage, have the same `/etc` is made sure of by the caller, who looks
at what it is made of before the first and after the last (identity.py).

What the service keeps at run time (RuntimeDirectory= and the like) is bound into the check instead of being passed
on as a setting: with the unit that has such a setting, these directories are emptied.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from confext_helpers.bus import Manager, Properties, Value
from confext_helpers.errors import ConfextError
from confext_helpers.stage import shaping_properties

if TYPE_CHECKING:
    from confext_helpers.commandline import Command
    from confext_helpers.settings import CheckSettings

NAME_PREFIX = "unit-confext-check-"
SECTION = b"X-Confext"
OUTPUT_MAX = 64 * 1024
LINES_SHOWN = 3

_MS_REC = 16384
_CLD_EXITED = 1

# What a command of the service is run with, beside what shapes /etc. Types that differ between reading and writing
# (SELinuxContext=) are left out, as is all that belongs to the unit and not to its commands.
_CONTEXT = (
    "AmbientCapabilities", "CPUQuotaPerSecUSec", "CPUSchedulingPolicy", "CPUSchedulingPriority",
    "CapabilityBoundingSet", "DeviceAllow", "DevicePolicy", "DynamicUser", "Environment", "EnvironmentFiles",
    "Group", "IPAddressAllow", "IPAddressDeny", "IPCNamespacePath", "KeyringMode", "LimitAS", "LimitASSoft",
    "LimitCORE", "LimitCORESoft", "LimitCPU", "LimitCPUSoft", "LimitDATA", "LimitDATASoft", "LimitFSIZE",
    "LimitFSIZESoft", "LimitLOCKS", "LimitLOCKSSoft", "LimitMEMLOCK", "LimitMEMLOCKSoft", "LimitNOFILE",
    "LimitNOFILESoft", "LimitNPROC", "LimitNPROCSoft", "LimitRTPRIO", "LimitRTPRIOSoft", "LimitRTTIME",
    "LimitRTTIMESoft", "LimitSIGPENDING", "LimitSIGPENDINGSoft", "LimitSTACK", "LimitSTACKSoft", "LoadCredential",
    "LoadCredentialEncrypted", "LockPersonality", "MemoryDenyWriteExecute", "MemoryHigh", "MemoryMax",
    "MemorySwapMax", "NetworkNamespacePath", "Nice", "OOMScoreAdjust", "PAMName", "PassEnvironment",
    "Personality", "PrivateDevices", "PrivateIPC", "PrivateNetwork", "PrivateTmp", "PrivateUsers", "ProcSubset",
    "ProtectClock", "ProtectControlGroups", "ProtectHome", "ProtectHostname", "ProtectKernelLogs",
    "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "RestrictAddressFamilies", "RestrictNamespaces",
    "RestrictRealtime", "RestrictSUIDSGID", "SecureBits", "SetCredential", "SetCredentialEncrypted",
    "SupplementaryGroups", "SystemCallArchitectures", "SystemCallErrorNumber", "SystemCallFilter", "TasksMax",
    "UMask", "UnsetEnvironment", "User", "WorkingDirectory",
)  # fmt: skip

_DIRECTORIES = (
    ("RuntimeDirectory", "/run"),
    ("StateDirectory", "/var/lib"),
    ("CacheDirectory", "/var/cache"),
    ("LogsDirectory", "/var/log"),
)


def _kept_directories(properties: Properties) -> Iterator[tuple[str, str, bool, int]]:
    """BindPaths= for the directories that the service has at run time."""
    for name, parent in _DIRECTORIES:
        value = properties.get(name, ("as", []))[1]
        assert isinstance(value, list)
        for directory in value:
            path = f"{parent}/{directory}"
            yield path, path, True, _MS_REC


def build_properties(
    unit: str, properties: Properties, settings: CheckSettings, output: int
) -> list[tuple[str, Value]]:
    """The properties of the unit that runs the checks of `unit`, for StartTransientUnit()."""
    shaping = shaping_properties(properties)
    bound = shaping.pop("BindPaths", ("a(ssbt)", []))[1]
    assert isinstance(bound, list)
    commands = [(command.path, list(command.argv), list(command.flags)) for command in settings.commands]
    context = [(name, properties[name]) for name in _CONTEXT if name in properties and properties[name][1] != ""]
    return [
        ("Description", ("s", f"Check of the future /etc of {unit}")),
        ("DefaultDependencies", ("b", False)),
        ("Type", ("s", "oneshot")),
        ("LogLevelMax", ("i", 5)),
        ("TimeoutStartUSec", ("t", settings.timeout_usec)),
        ("PrivateMounts", ("b", True)),
        *context,
        *shaping.items(),
        ("BindPaths", ("a(ssbt)", [*bound, *_kept_directories(properties)])),
        ("StandardOutputFileDescriptor", ("h", output)),
        ("StandardErrorFileDescriptor", ("h", output)),
        ("ExecStartEx", ("a(sasas)", commands)),
    ]


def hook_timeout_usec(manager: Manager, unit: str) -> int | None:
    """How long the hook may take, if a file of `unit` says it: TimeoutSec= in [X-Confext], in microseconds."""
    files = manager.unit_files(unit)
    if not any(_mentions_section(path, b"TimeoutSec") for path in files):
        return None
    from confext_helpers import settings  # Most services have none, and it takes its time.

    return settings.read_hook_timeout(files, unit=unit)


def read(manager: Manager, unit: str) -> CheckSettings | None:
    """What the [X-Confext] sections of `unit` say; None if it has none.

    Raises:
        ConfextError: there is a Check= that cannot be parsed; none is ever left out for that.
    """
    files = manager.unit_files(unit)
    if not any(_mentions_section(path) for path in files):
        return None
    from confext_helpers import settings  # Most services have none, and it takes its time.

    specifiers = settings.specifiers_for(unit, files[0])
    return settings.read_settings(files, specifiers, version=manager.version(), unit=unit)


def _mentions_section(path: str, setting: bytes = b"") -> bool:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return False
    return SECTION in data and setting in data


def run(manager: Manager, unit: str, properties: Properties, settings: CheckSettings) -> None:
    """Run the checks of the service `unit` in order, until one fails; if there are none, do nothing.

    Raises:
        ConfextError: one failed, or could not be run.
    """
    if not settings.commands:
        return
    name = f"{NAME_PREFIX}{os.getpid()}-{time.monotonic_ns()}.service"
    reader, writer = os.pipe()
    try:
        try:
            job = manager.start_transient(name, build_properties(unit, properties, settings, writer), watch=True)
        finally:
            os.close(writer)
        output = _read(reader)
    finally:
        os.close(reader)
    if manager.job_result(job) == "done":
        return
    ended = manager.service_properties(name)
    manager.reset_failed(name)
    command, status = _failed(settings.commands, ended)
    said = ": " + " | ".join(output[-LINES_SHOWN:]) if output else ""
    raise ConfextError(
        f"the check '{command}' {status}{said}",
        unit=unit,
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


def _failed(commands: tuple[Command, ...], ended: Properties) -> tuple[str, str]:
    """Which command failed, and how."""
    run_commands = ended["ExecStartEx"][1]
    assert isinstance(run_commands, list)
    result = str(ended["Result"][1])
    words = ""
    for command, (_, _, flags, *_, code, status) in zip(commands, run_commands, strict=True):
        if not code:
            break  # It never ended, or never began.
        words = " ".join(command.argv)
        if status and "ignore-failure" not in flags and result != "timeout":
            ending = "exited with status" if code == _CLD_EXITED else "was killed by signal"
            return words, f"{ending} {status}"
    if result == "timeout":
        return words or " ".join(commands[0].argv), "took too long, see CheckTimeoutSec="
    return words or " ".join(commands[0].argv), f"could not be run ({result})"
