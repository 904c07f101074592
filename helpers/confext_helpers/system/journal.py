# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write to the journal.

A message is a plain value (`Message`), so code that only makes or compares messages does not need python-systemd.
say() sends messages with `systemd._journal`, which python-systemd's public module `systemd.journal` uses, too.
Importing the public module costs 20 ms and 3 MiB for its log handler and its reader, more than a whole swap, so only
code that reads the journal does that.
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
        id: the MESSAGE_ID=, which identifies the kind of the message.
        priority: the syslog priority.
        text: one line, for people.
        fields: additional journal fields, for programs.
    """

    id: StrEnum
    priority: Priority
    text: str
    fields: dict[str, str]


def load() -> None:
    """Import what say() needs. Once this process has entered a service's mount namespace, it must import nothing."""
    import systemd._journal  # noqa: F401


def say(unit: str, message: Message) -> None:
    """Write one entry about `unit`; if standard error is a terminal, print its text there as well.

    `journalctl -u UNIT` shows the entry because of OBJECT_SYSTEMD_UNIT=, see systemd.journal-fields(7). The hook does
    not run in the service's control group, so the journal would not assign its entries to the service otherwise.
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
