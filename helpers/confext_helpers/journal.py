"""The journal: what the hook says, and what systemd said about a stage.

`systemd._journal` is the part of python-systemd that its own `systemd.journal` sends with. Importing the latter costs
20 ms and 3 MiB for its log handler and its reader, more than all of a swap, so it is left to those who read.
"""

from __future__ import annotations

import os
import sys

from systemd._journal import sendv

from confext_helpers.messages import Message, Priority

_EXECUTOR = "systemd-executor"
_NOTICE = 5


def say(unit: str, message: Message) -> None:
    """Write one entry about `unit`, shown by `journalctl -u UNIT`; on a terminal, print it as well.

    The hook does not run in the service's control group, so OBJECT_SYSTEMD_UNIT= is what makes an entry the service's,
    see systemd.journal-fields(7).
    """
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


def messages_about(unit: str, since_usec: int) -> list[str]:
    """What systemd logged as a warning or worse about `unit`, and how its process ended, oldest first, each once.

    Anybody can write entries with UNIT= in them. But it is the journal that says who did: PID 1, or root in the control
    group of the unit, which is systemd's executor before it becomes the unit's process. systemd.journal-fields(7).

    Of a process that had ended before the journal could look, it knows no more than the user. From such a one that was
    root's, nothing is taken but which layer could not be mounted, in systemd's own words, and that only if nobody else
    said so at the time.

    Args:
        unit: a unit that failed.
        since_usec: when it was begun, in microseconds since the epoch.
    """
    from systemd import journal

    from confext_helpers import process
    from confext_helpers.failure import EXITED, MOUNT_FAILED, is_mount_failure

    process.run("journalctl", "--sync")
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
            # It is missing where the process had ended before the journal could look.
            if os.path.basename(str(entry.get("_EXE", _EXECUTOR))) not in (_EXECUTOR, "systemd"):
                continue
            if entry.get("PRIORITY") == _NOTICE and not text.startswith(EXITED):
                continue
            if text and text not in found:
                found.append(text)
    if len(lost) == 1 and not any(text.startswith(MOUNT_FAILED) for text in found):
        found += lost
    return found
