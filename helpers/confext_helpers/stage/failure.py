# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find out why systemd failed to start a stage, in its own words, and because of which layer."""

from __future__ import annotations

import errno
import os
import re
import time
from typing import TYPE_CHECKING

from confext_helpers.errors import ConfextError
from confext_helpers.image.naming import is_there, resolve
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.stage import refusals

if TYPE_CHECKING:
    from confext_helpers.system.manager import ServiceManager

# What systemd means by the errors that it returns for an image (dissect-image.c), if strerror(3) does not tell.
_MEANINGS = {
    errno.ENOPKG: "the image has no partition table or file system that systemd knows",
    errno.ESTALE: "the layer's extension-release file does not match this system",
    errno.ERFKILL: "the image policy does not allow the image as it is",
    errno.ENOMSG: "the layer has no extension-release file",
    errno.EMEDIUMTYPE: "the image is not of the required kind",
    errno.EPROTONOSUPPORT: "the kernel cannot activate the image's partitions, see systemd-dissect(1)",
    errno.ENOKEY: "the image's signer is not trusted, or it has no signature",
    errno.EKEYREJECTED: "the image's signer is not trusted",
    errno.ENOTUNIQ: "several of the layer's extension-release files are valid for any name",
    errno.EBADMSG: "the image's dm-verity data does not match",
}
# If the kernel refuses a signature, too, systemd may log one of these errors, which do not mention the signature.
_SAY_NOTHING = tuple(os.strerror(number) for number in (errno.EBUSY, errno.EINVAL, errno.EIO))
_MOUNT_POINT = "/unit-extensions/"
MOUNT_FAILED = "Failed to set up mount namespacing: "
_MOUNT_FAILURE = re.compile(re.escape(MOUNT_FAILED) + r"/[/\w.-]*/unit-extensions/[0-9]+: (.+)")
# The message of systemd for a main process that failed.
EXITED = "Main process exited, "
_EXECUTOR = "systemd-executor"
_NOTICE = 5
_IGNORED = re.compile(r"\b(?:ignoring|proceeding)\b")


def numbers(properties: ServiceProperties, version: int) -> list[str]:
    """The layers of a service in the order in which systemd numbers them (append_extensions() in its namespace.c).

    systemd mounts each layer at `.../unit-extensions/NUMBER`. Images come first; a missing image has a number, too.
    Directories follow; a missing directory has a number only on 255, which ignores such directories later.

    Args:
        version: of systemd.
    """
    directories = (path for path in properties.directory_layers if version <= 255 or is_there(path))
    return [*properties.image_layers, *directories]


def is_mount_failure(text: str) -> bool:
    """Whether a message of systemd only says which layer it failed to mount, and the error."""
    match = _MOUNT_FAILURE.fullmatch(text)
    return match is not None and match[1] in map(os.strerror, errno.errorcode)


def explain(lines: list[str], layers: list[str]) -> tuple[str, str]:
    """Find the reason why a stage failed to start in the messages about it.

    Args:
        lines: systemd's messages, oldest first.
        layers: from numbers().

    Returns:
        The reason, and the path of the layer that caused it; empty if no layer did.
    """
    for line in lines:
        what, _, reason = line.partition(MOUNT_FAILED)
        if what or not reason:
            continue
        place, _, text = reason.rpartition(": ")
        for number, meaning in _MEANINGS.items():
            if text == os.strerror(number):
                text = f"{meaning} ({text})"
        index = place.rpartition(_MOUNT_POINT)[2]
        if _MOUNT_POINT in place and index.isdecimal() and int(index) < len(layers):
            return text, layers[int(index)]
        return (f"{place}: {text}" if place else text), ""
    # If the executor ended before journald looked at its process, its messages cannot be attributed to it.
    if any(line.startswith(EXITED) and line.endswith("/NAMESPACE") for line in lines):
        return "systemd failed to set up its mounts, and the reason was lost", ""
    # A message that says "ignoring" or "proceeding" is not the reason.
    failed = [line for line in lines if not _IGNORED.search(line) and not line.startswith(EXITED)]
    return (failed[0] if failed else "the stage ended before it was up"), ""


def messages_about(unit: str, since_usec: int) -> list[str]:
    """What systemd logged as a warning or worse about `unit`, and how its process ended, oldest first, each once.

    Anybody can log with UNIT=, but journald adds who did (systemd.journal-fields(7)). Believed are PID 1, and root in
    the control group of the unit, which is systemd's executor before it becomes the unit's process.

    If the sender ended before journald looked at its process, journald knows its user and no more. A message of root's
    is then believed only if it is systemd's own about a layer that failed to mount, and the only such message.

    Args:
        unit: a unit that failed.
        since_usec: when its start began, in microseconds since the epoch.
    """
    from systemd import journal

    from confext_helpers.system import programs

    programs.output_of("journalctl", "--sync")
    found: list[str] = []
    lost: list[str] = []
    with journal.Reader() as reader:
        reader.this_boot()
        reader.log_level(_NOTICE)
        reader.add_match(_UID="0")
        reader.seek_realtime(since_usec / 1e6)
        for entry in reader:
            text = str(entry.get("MESSAGE", "")).removeprefix(f"{unit}: ")
            own = entry.get("_SYSTEMD_UNIT", "")
            if str(entry.get("_PID")) == "1":
                if entry.get("UNIT") != unit:
                    continue
            elif own != unit:
                if not own and entry.get("UNIT", unit) == unit and is_mount_failure(text) and text not in lost:
                    lost.append(text)
                continue
            # _EXE is missing if the process had ended before journald looked.
            if os.path.basename(str(entry.get("_EXE", _EXECUTOR))) not in (_EXECUTOR, "systemd"):
                continue
            if entry.get("PRIORITY") == _NOTICE and not text.startswith(EXITED):
                continue
            if text and text not in found:
                found.append(text)
    if len(lost) == 1 and not any(text.startswith(MOUNT_FAILED) for text in found):
        found += lost
    return found


def _begin_usec(stage: str) -> int:
    """When a stage was begun, in microseconds since the epoch; its name has the time of the monotonic clock."""
    begin_ns = int(stage.removesuffix(".service").rpartition("-")[2])
    return (time.time_ns() - time.monotonic_ns() + begin_ns) // 1000


def of_stage(manager: ServiceManager, name: str, properties: ServiceProperties) -> ConfextError:
    """The error that says why the stage `name` of a service with these properties failed to start."""

    reason, path = explain(messages_about(name, _begin_usec(name)), numbers(properties, manager.version()))
    if path and reason == os.strerror(errno.ENOENT) and is_there(path):
        return refusals.no_release(resolve(path))
    if path and reason.endswith(_SAY_NOTHING):
        reason = refusals.signature_problem(path) or reason
    hint = "replace it and reload again" if path else f"see journalctl -u {name}"
    problem = f"the new /etc cannot be built: {reason}"
    return ConfextError(problem, path=path, hint=hint)
