# SPDX-License-Identifier: LGPL-2.1-or-later
"""The texts of the generator's messages, by code. No other module has texts of messages.

Programs never parse these texts: the code and the effect of a complaint say what it means for a unit or an entry.
"""

from __future__ import annotations

from confext_generator.constants import BUGS, OLDEST_SYSTEMD, ROOTS_ALONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    # The consequence of a complaint for the unit, directory or entry it is about.
    Effect = Literal["noted", "ignored", "refused", "left-alone"]

    # A stable identifier of the problem, independent of the wording. Literals are checked by the type checker like the
    # members of an enum, but cost nothing at start-up.
    Code = Literal[
        # Whole runs.
        "systemd-unknown",
        "systemd-too-old",
        "unexpected",
        # Units.
        "unit-name",
        "unit-file-missing",
        "unit-file-masked",
        "unit-file-unreadable",
        "unit-paths",
        "went-away",
        "dropin-unwritten",
        "dropin-silent",
        "taken-back",
        "own-versions",
        # `.confext.d/` directories.
        "for-all-units",
        "for-other-type",
        "for-prefix",
        "no-unit-name",
        "not-a-directory",
        "directory-hidden",
        "directory-name",
        "directory-missing",
        "directory-unreadable",
        "directory-silent",
        # Write access of others, to directories, entries and versions.
        "other-owner",
        "everybody-writes",
        "group-writes",
        "acl-writes",
        "way-other-owner",
        "way-others-write",
        "way-hidden",
        # Symlinks, of directories and entries.
        "loop",
        "target-name",
        # Entries.
        "temporary",
        "entry-name",
        "entry-unreadable",
        "entry-silent",
        "target-silent",
        "not-an-image",
        "api-file-system",
        "no-version",
        "version-name",
        "version-kind",
        "versions-unreadable",
        "versions-left",
        # Layers, of one unit.
        "duplicate",
        "order",
        "below-etc",
        "leads-to-etc",
        "unsigned",
        "devices-restricted",
        "devices-opened",
    ]

# A message starts with the consequence.
_LEADS: dict[Effect, str] = {
    "noted": "",
    "ignored": "ignored, ",
    "refused": "refused, ",
    "left-alone": "the unit is left alone, ",
}

_DAEMON_RELOAD = "repair or unmount that file system, then run systemctl daemon-reload"
_ONE_DIRECTORY_EACH = "make one directory per service"
_RENAME = "rename it"
_MOVE = "move it to /var/lib/confexts/ and leave a symlink here"
_WHEN_MOUNTED = "run systemctl daemon-reload when its file system is mounted"
_DEVICES = "every loop, device mapper and NVMe device of this machine, other services' images and disks included"

# Code to the problem, with one placeholder for each of the complaint's details, and to the remedy.
MESSAGES: dict[Code, tuple[str, str]] = {
    "systemd-unknown": (
        "failed to determine the version of systemd, assuming the newest",
        "set UNIT_CONFEXT_SYSTEMD_VERSION",
    ),
    "systemd-too-old": ("systemd {} has no confexts for services, nothing done", f"{OLDEST_SYSTEMD} has them"),
    "unexpected": ("unexpected {}", BUGS),
    "unit-name": ("its name is too long, or begins with 'unit-confext-'", "rename the unit"),
    "unit-file-missing": (
        "it has no unit file",
        "units made by other generators or from SysV scripts cannot be seen here: give the service a unit file",
    ),
    "unit-file-masked": ("it is masked", ""),
    "unit-file-unreadable": ("its unit file cannot be read ({})", ""),
    "unit-paths": ("one of its paths cannot be written into a unit file", _RENAME),
    "went-away": ("this went away while the unit was read ({})", "run systemctl daemon-reload again"),
    "dropin-unwritten": ("cannot be written ({})", ""),
    "dropin-silent": ("this file of the unit was not read, {}: systemd itself will block on it", _DAEMON_RELOAD),
    "taken-back": (
        "is read after the generated drop-in and overrides its {}",
        'give it a name that sorts before "zz-unit-confext.conf"',
    ),
    "own-versions": (
        "its {}= may contain a versioned path and {}: at a reload, systemd 258 and 259 refresh such a path themselves, "
        "and unmount what the sandbox has mounted below /etc",
        "set the path of one version instead",
    ),
    "for-all-units": ("applies to all units of type {}", _ONE_DIRECTORY_EACH),
    "for-other-type": ("is for a unit of type {}", "only services have confexts of their own"),
    "for-prefix": ("the drop-ins of a unit of that name apply to all units with that prefix", _ONE_DIRECTORY_EACH),
    "no-unit-name": ("does not name a valid unit", "the name must be UNIT.service.confext.d"),
    "not-a-directory": ("is not a directory", "put images into a directory of that name"),
    "directory-hidden": ("hidden, ignored", ""),
    "directory-name": ("this path cannot be written into a unit file", _RENAME),
    "directory-missing": (
        "has no layers now, it leads to {}, which does not exist",
        "run systemctl daemon-reload once that exists",
    ),
    "directory-unreadable": ("the directory cannot be read ({})", ""),
    "directory-silent": (
        "its entries cannot be read, {}: the service will not start or reload",
        _DAEMON_RELOAD,
    ),
    "other-owner": ("belongs to user {}", ROOTS_ALONE),
    "everybody-writes": ("can be written by everybody", ROOTS_ALONE),
    "group-writes": ("can be written by group {}", ROOTS_ALONE),
    "acl-writes": ("has an access control list that lets others write it", ROOTS_ALONE),
    "way-other-owner": ("leads to {}, a link that belongs to user {}", ROOTS_ALONE),
    "way-others-write": ("leads into {}, which others than root can write", ROOTS_ALONE),
    # Not ROOTS_ALONE: no change of owner or mode helps here.
    "way-hidden": ("leads into '/tmp', and systemd's generators have a /tmp of their own", "put it elsewhere"),
    "loop": ("is a loop of links", ""),
    "target-name": ("leads to {}, which cannot be written into a unit file", _RENAME),
    "temporary": ("hidden or temporary, ignored", ""),
    "entry-name": ("the name cannot be written into a unit file", _RENAME),
    "entry-unreadable": ("cannot be examined ({})", ""),
    "entry-silent": ("{}", ""),
    "target-silent": (
        "its kind is taken from its name, {}: it is checked when the service starts or is reloaded",
        _DAEMON_RELOAD,
    ),
    "not-an-image": ("is {}", "layers are NAME.raw, NAME.raw.v/, NAME/, NAME.v/ and links to these"),
    "api-file-system": (
        "leads to {}, and systemd ignores images below /dev, /proc and /sys",
        "give the link a name that ends in .raw",
    ),
    "no-version": ("holds no version for this machine", "see systemd.v(7)"),
    "version-name": ("its newest version {} cannot be written into a unit file", _RENAME),
    "version-kind": (
        "its newest version {} is of the wrong kind",
        "put images into NAME.raw.v/ and directories into NAME.v/",
    ),
    "versions-unreadable": ("its versions cannot be read now ({}), and this systemd does not pick one", _WHEN_MOUNTED),
    "versions-left": (
        "its versions cannot be read now ({}): until the next daemon-reload, a reload by this systemd may unmount what "
        "the sandbox has mounted below /etc",
        _WHEN_MOUNTED,
    ),
    "duplicate": ("{} and {} are the same layer, ignoring the first", "remove one of them"),
    "order": (
        "the directory {} lies above the image {}, although its name sorts before it",
        "systemd puts all directories above all images; use one kind, or names in that order",
    ),
    "below-etc": ("a directory below /etc cannot be laid over /etc", _MOVE),
    "leads-to-etc": ("is {}, which cannot be laid over /etc", _MOVE),
    "unsigned": (
        "a directory cannot be signed, and ExtensionImagePolicy= asks for a signature",
        "use a signed image",
    ),
    "devices-restricted": (
        f"the service's device restrictions would have to let it open {_DEVICES}",
        "set PrivateDevices=yes, use a directory, or accept it by UnsafeDeviceAllow=yes in [X-Confext]",
    ),
    "devices-opened": (
        f"UnsafeDeviceAllow=yes lets the service open {_DEVICES}, for as long as it has an image",
        "use PrivateDevices=yes, or a directory instead of an image",
    ),
}

# The texts of these codes already name the consequence, so no lead is put before them.
_WHOLE: tuple[Code, ...] = ("systemd-too-old", "directory-hidden", "temporary", "duplicate")


def say(code: Code, *details: str) -> str:
    """Return the text of `code`, with `details` filled in, without lead and hint."""
    return MESSAGES[code][0].format(*details)


def word(effect: Effect, code: Code, details: tuple[str, ...], subject: str = "") -> str:
    """Return the message of a complaint: lead, `subject`, text, hint; report.Complaint adds unit and path."""
    lead = "" if code in _WHOLE else _LEADS[effect]
    hint = MESSAGES[code][1]
    text = f"{lead}{subject}{say(code, *details)}"
    return f"{text}; {hint}" if hint else text
