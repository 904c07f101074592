# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writing to the journal.

What is said is a value (`Message`); who only makes or compares messages needs no python-systemd.
`systemd._journal` is the part of python-systemd that its own `systemd.journal` sends with. Importing the latter costs
20 ms and 3 MiB for its log handler and its reader, more than all of a swap, so it is left to those who read.
"""

from __future__ import annotations

import sys
from enum import IntEnum, StrEnum
from typing import NamedTuple


class Priority(IntEnum):
    """Syslog priorities, syslog(3)."""

    ERROR = 3
    WARNING = 4
    INFO = 6
    DEBUG = 7


class Message(NamedTuple):
    """One entry of the journal.

    Attributes:
        id: what kind of message it is.
        priority: of it.
        text: one line.
        fields: what programs read.
    """

    id: StrEnum
    priority: Priority
    text: str
    fields: dict[str, str]


def load() -> None:
    """Load what say() needs. Nothing may be loaded once this process is in the mount namespace of a service."""
    import systemd._journal  # noqa: F401


def say(unit: str, message: Message) -> None:
    """Write one entry about `unit`, shown by `journalctl -u UNIT`; on a terminal, print it as well.

    The hook does not run in the service's control group, so OBJECT_SYSTEMD_UNIT= is what makes an entry the service's,
    see systemd.journal-fields(7).
    """
    from systemd._journal import sendv

    entry = {
        "MESSAGE": message.text,
        "MESSAGE_ID": message.id,
        "PRIORITY": str(int(message.priority)),
        "SYSLOG_IDENTIFIER": "unit-confext",
        "OBJECT_SYSTEMD_UNIT": unit,
        **message.fields,
    }
    try:
        sendv(*(f"{name}={value}".encode(errors="surrogateescape") for name, value in entry.items()))
    except OSError:
        print(message.text, file=sys.stderr)
        return
    if sys.stderr.isatty() and message.priority <= Priority.INFO:
        print(message.text, file=sys.stderr)
