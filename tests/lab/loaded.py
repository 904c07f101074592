# SPDX-License-Identifier: LGPL-2.1-or-later
"""What systemd has loaded: the properties of many units, asked for in one go, as JSON and not as text.

systemctl(1) shows lists joined with spaces, which is no way to compare names with spaces in them; and one busctl(1)
for each unit takes longer than all the rest of a test.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from lab.machine import Machine

# Numbers, texts, lists and tuples as jeepney makes them of D-Bus's types; JSON knows no others.
Properties = dict[str, Any]

# Runs in the machine: reads unit names, loads the units, prints their properties.
_SCRIPT = """
import json, sys
from jeepney import DBusAddress, new_method_call
from jeepney.io.blocking import open_dbus_connection

BUS, MANAGER = "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager"
connection = open_dbus_connection(bus="SYSTEM")


def call(path, interface, method, signature, *body):
    address = DBusAddress(path, bus_name=BUS, interface=interface)
    return connection.send_and_get_reply(new_method_call(address, method, signature, body)).body[0]


result = {}
for unit in json.load(sys.stdin):
    path = call("/org/freedesktop/systemd1", MANAGER, "LoadUnit", "s", unit)
    result[unit] = {}
    for kind in ("Unit", "Service"):
        values = call(path, "org.freedesktop.DBus.Properties", "GetAll", "s", f"{BUS}.{kind}")
        result[unit] |= {name: value for name, (_, value) in values.items()}
json.dump(result, sys.stdout, default=list)
"""


def properties(machine: Machine, units: Iterable[str]) -> dict[str, Properties]:
    """Load services and return all their properties, by unit and name.

    Raises:
        AssertionError: systemd takes one of `units` for no unit name, or cannot be asked.
    """
    return dict(json.loads(machine.run("python3", "-c", _SCRIPT, input=json.dumps(list(units))).stdout))


def commands(value: Iterable[Any]) -> list[tuple[Any, ...]]:
    """What a property such as ExecReloadEx says: path, arguments and flags, without the times of the last run."""
    return [tuple(entry[:3]) for entry in value]
