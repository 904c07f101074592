"""Why a stage could not be started, in systemd's own words, and which layer that is about."""

from __future__ import annotations

import errno
import os

from confext_helpers import images
from confext_helpers.bus import Properties
from confext_helpers.errors import ConfextError
from confext_helpers.stage import layer_paths

# What systemd means by the errors that it returns for an image (dissect-image.c), where strerror(3) is no help.
_MEANINGS = {
    errno.ENOPKG: "no partition table or file system that systemd knows is in it",
    errno.ESTALE: "its extension-release file does not match this system",
    errno.ERFKILL: "the image policy does not allow it as it is",
    errno.ENOMSG: "it has no extension-release file",
    errno.EMEDIUMTYPE: "it is no image of the kind that is needed here",
    errno.EPROTONOSUPPORT: "the kernel cannot activate its partitions, see systemd-dissect(1)",
    errno.ENOKEY: "its signature is by nobody who is trusted, or it has none",
    errno.EKEYREJECTED: "its signature is by nobody who is trusted",
    errno.EBADMSG: "its dm-verity data does not match",
}
# What it says of a bad signature may be no more than that, where the kernel did not want it either.
_SAY_NOTHING = tuple(os.strerror(number) for number in (errno.EBUSY, errno.EINVAL, errno.EIO))
_MOUNT_POINT = "/unit-extensions/"


def explain(lines: list[str], layers: list[str]) -> tuple[str, str]:
    """Say why a stage could not be started, from what was logged about it.

    Args:
        lines: systemd's messages, oldest first.
        layers: from layer_paths(). systemd mounts the layer number N at `.../unit-extensions/N`, counting those
            that are there.

    Returns:
        The reason, and the path of the layer that it is about, or an empty one.
    """
    for line in lines:
        what, _, reason = line.partition("Failed to set up mount namespacing: ")
        if what or not reason:
            continue
        place, _, text = reason.rpartition(": ")
        for number, meaning in _MEANINGS.items():
            if text == os.strerror(number):
                text = f"{meaning} ({text})"
        index = place.rpartition(_MOUNT_POINT)[2]
        present = [layer for layer in layers if os.path.exists(layer)]
        if _MOUNT_POINT in place and index.isdecimal() and int(index) < len(present):
            return text, present[int(index)]
        return (f"{place}: {text}" if place else text), ""
    return (lines[0] if lines else "the stage ended before it was up"), ""


def of_stage(name: str, unit: str, properties: Properties) -> ConfextError:
    """The error that tells why the stage `name` of the service `unit`, with these properties, could not be started."""
    from confext_helpers.journal import messages_about

    reason, path = explain(messages_about(name), layer_paths(properties))
    if path and reason.endswith(_SAY_NOTHING):
        reason = images.signature_problem(path) or reason
    hint = "replace it and reload again" if path else f"see journalctl -u {name}"
    problem = f"the new one cannot be built: {reason}"
    return ConfextError(problem, unit=unit, path=path, hint=hint)
