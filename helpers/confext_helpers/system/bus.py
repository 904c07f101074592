# SPDX-License-Identifier: LGPL-2.1-or-later
"""The service manager, asked over D-Bus with jeepney.

Like systemctl, this talks to the manager's private socket first: it is there before the bus is and without one, it
answers nobody but root, and it saves a hop. The two differ in one thing only, the `Hello` that a bus wants. Calls
that do not depend on each other are sent at once and cost one round trip.

Values are kept as (signature, value) pairs, so that what was read can be handed back as it is: the properties that
GetAll() returns and those that StartTransientUnit() takes have the same types (org.freedesktop.systemd1(5)).
"""

from __future__ import annotations

import array
import os
import socket
from itertools import takewhile
from typing import NamedTuple, cast

from jeepney.low_level import HeaderFields, Message, MessageType, Parser
from jeepney.wrappers import DBusAddress, new_method_call

from confext_helpers.errors import ConfextError

PRIVATE_SOCKET = "/run/systemd/private"
BUS_SOCKET = "/run/dbus/system_bus_socket"
TIMEOUT_SEC = 25.0

Value = tuple[str, object]
Properties = dict[str, Value]

_PROPERTIES = "org.freedesktop.DBus.Properties"
_MANAGER = DBusAddress("/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager")
_BUS = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")


# ---- Values for StartTransientUnit() ----


def text(value: str) -> Value:
    """A text."""
    return "s", value


def texts(values: list[str]) -> Value:
    """A list of texts."""
    return "as", values


def pairs(values: list[tuple[str, str]]) -> Value:
    """A list of pairs of texts."""
    return "a(ss)", values


def flag(value: bool) -> Value:
    """True or false."""
    return "b", value


def number(value: int) -> Value:
    """A number that is not negative, or a mask."""
    return "t", value


def signed(value: int) -> Value:
    """A small number."""
    return "i", value


def descriptor(fd: int) -> Value:
    """A file descriptor, of which the manager gets a copy."""
    return "h", fd


def system_calls(allowed: list[str]) -> Value:
    """SystemCallFilter= with names of system calls that are allowed, and no others are."""
    return "(bas)", (True, allowed)


def commands(values: list[tuple[str, list[str], bool]]) -> Value:
    """ExecStart= and its like: of each command the path, the words, and whether its failure is ignored."""
    return "a(sasb)", values


def flagged_commands(values: list[tuple[str, list[str], list[str]]]) -> Value:
    """ExecStartEx= and its like: of each command the path, the words, and flags such as "ignore-failure"."""
    return "a(sasas)", values


def unit_path(unit: str) -> str:
    """The object path of a unit: bytes that are no ASCII letter or digit are `_xx`, as is a digit in front."""

    def plain(position: int, byte: int) -> bool:
        return chr(byte).isascii() and (chr(byte).isalpha() or (position > 0 and chr(byte).isdigit()))

    escaped = (chr(b) if plain(i, b) else f"_{b:02x}" for i, b in enumerate(unit.encode()))
    return "/org/freedesktop/systemd1/unit/" + "".join(escaped)


def _jobs(body: tuple[object, ...]) -> dict[str, Job]:
    """What ListJobs() returns."""
    jobs = cast(list[tuple[int, str, str, str, str, str]], body[0])
    return {unit: Job(number, kind, state) for number, unit, kind, state, *_ in jobs if kind != "nop"}


class Job(NamedTuple):
    """A job of the manager, org.freedesktop.systemd1(5).

    Attributes:
        number: of it.
        type: such as "reload".
        state: "waiting" or "running". One that runs is waiting again if the same was asked for once more.
    """

    number: int
    type: str
    state: str

    @property
    def holds_reload(self) -> bool:
        """Whether it is a reload that has not begun."""
        return self.state == "waiting" and self.type.startswith("reload")


class Manager:
    """A connection to the system's service manager; use as a context manager.

    Args:
        timeout_sec: how long each answer may take.

    Raises:
        ConfextError: neither socket answers.
    """

    def __init__(self, timeout_sec: float = TIMEOUT_SEC) -> None:
        self._timeout_sec = timeout_sec
        self._serial = 0
        self._parser = Parser()
        self._on_bus = False
        self._results: dict[str, str] = {}
        self._socket: socket.socket | None = None
        self._connect()

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *exc: object) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Close the connection; the next call opens another one.

        For as long as one is open, the manager sends over its private socket whatever happens to any unit. To read all
        of that is most of the work where many services are reloaded at once.
        """
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._parser = Parser()

    def _connect(self) -> socket.socket:
        problem: OSError | None = None
        for path in (PRIVATE_SOCKET, BUS_SOCKET):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            connection.settimeout(self._timeout_sec)
            try:
                connection.connect(path)
                self._authenticate(connection)
            except OSError as error:
                connection.close()
                problem = error
                continue
            self._socket = connection
            self._on_bus = path == BUS_SOCKET
            if self._on_bus:
                self._call(new_method_call(_BUS, "Hello"))
            return connection
        raise ConfextError(f"cannot reach the service manager: {problem}", path=BUS_SOCKET)

    @staticmethod
    def _authenticate(connection: socket.socket) -> None:
        identity = str(os.geteuid()).encode().hex().encode()
        connection.sendall(b"\0AUTH EXTERNAL " + identity + b"\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n")
        # Byte by byte is what a line protocol in front of a binary one asks for; two short lines.
        for expected in (b"OK ", b"AGREE_UNIX_FD"):
            line = b""
            while not line.endswith(b"\r\n"):
                byte = connection.recv(1)
                if not byte:
                    raise ConnectionError("the service manager refused the connection")
                line += byte
            if not line.startswith(expected):
                raise ConnectionError(f"unexpected reply to authentication: {line!r}")

    def _call(self, *calls: Message) -> list[tuple[object, ...]]:
        """Send all of `calls` at once and return the bodies of their replies, in order."""
        connection = self._socket or self._connect()
        serials = []
        for call in calls:
            self._serial += 1
            serials.append(self._serial)
            fds = array.array("i")
            data = call.serialise(self._serial, fds)
            # The descriptors travel with the first byte of their message.
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
            sent = connection.sendmsg([data], ancillary)
            connection.sendall(data[sent:])
        replies: dict[int, Message] = {}
        while len(replies) < len(serials):
            message = self._receive(connection)
            serial = message.header.fields.get(HeaderFields.reply_serial)
            if serial in serials:
                replies[serial] = message
            else:
                self._note(message)
        for serial in serials:
            if replies[serial].header.message_type is MessageType.error:
                raise ConfextError(f"the service manager says: {' '.join(map(str, replies[serial].body))}")
        return [replies[serial].body for serial in serials]

    def _receive(self, connection: socket.socket) -> Message:
        while (message := self._parser.get_next_message()) is None:
            try:
                data = connection.recv(1 << 16)
            except TimeoutError:
                raise ConfextError(f"the service manager did not answer within {self._timeout_sec:.0f} s") from None
            if not data:
                raise ConfextError("the service manager closed the connection")
            self._parser.add_data(data)
        return message

    def service_properties(self, unit: str) -> Properties:
        """All properties of the service `unit` that belong to services (GetAll of the Service interface)."""
        address = DBusAddress(unit_path(unit), "org.freedesktop.systemd1", _PROPERTIES)
        (body,) = self._call(new_method_call(address, "GetAll", "s", ("org.freedesktop.systemd1.Service",)))
        properties = body[0]
        assert isinstance(properties, dict)
        return properties

    def _get(self, path: str, interface: str, *names: str) -> list[object]:
        address = DBusAddress(path, "org.freedesktop.systemd1", _PROPERTIES)
        full = f"org.freedesktop.systemd1.{interface}"
        bodies = self._call(*(new_method_call(address, "Get", "ss", (full, name)) for name in names))
        return [cast(Value, body[0])[1] for body in bodies]

    def unit_files(self, unit: str) -> list[str]:
        """The files that systemd has read for `unit`: the unit file if it has one, then the drop-ins, in order."""
        fragment, dropins = self._get(unit_path(unit), "Unit", "FragmentPath", "DropInPaths")
        return [str(file) for file in (fragment, *cast(list[object], dropins)) if file]

    def main_pid(self, unit: str) -> int:
        """The PID of the main process of the service `unit`; 0 if there is none."""
        (pid,) = self._get(unit_path(unit), "Service", "MainPID")
        return cast(int, pid)

    def invocation_id(self, unit: str) -> str:
        """The invocation ID of the present run of `unit`: systemd.exec(5), `$INVOCATION_ID`."""
        (value,) = self._get(unit_path(unit), "Unit", "InvocationID")
        return bytes(cast(bytes, value)).hex()

    def main_pids(self) -> dict[str, int]:
        """The main processes of all services that are up, by unit."""
        states = ["active", "reloading", "activating", "deactivating"]
        call = new_method_call(_MANAGER, "ListUnitsByPatterns", "asas", (states, ["*.service"]))
        ((listed,),) = self._call(call)
        units = [(str(unit[0]), str(unit[6])) for unit in cast(list[tuple[object, ...]], listed)]
        body = ("org.freedesktop.systemd1.Service", "MainPID")
        addresses = (DBusAddress(path, "org.freedesktop.systemd1", _PROPERTIES) for _, path in units)
        replies = self._call(*(new_method_call(address, "Get", "ss", body) for address in addresses))
        pids = [cast(int, cast(Value, reply[0])[1]) for reply in replies]
        return {name: pid for (name, _), pid in zip(units, pids, strict=True) if pid}

    def version(self) -> int:
        """The number of the systemd that is asked, such as 257."""
        (text,) = self._get(_MANAGER.object_path, "Manager", "Version")
        return int("".join(takewhile(str.isdecimal, str(text))))

    def list_jobs(self) -> dict[str, Job]:
        """The jobs that wait or run, by unit."""
        (body,) = self._call(new_method_call(_MANAGER, "ListJobs"))
        return _jobs(body)

    def list_jobs_and_state(self, unit: str) -> tuple[dict[str, Job], str]:
        """All jobs, and the ActiveState of `unit`."""
        address = DBusAddress(unit_path(unit), "org.freedesktop.systemd1", _PROPERTIES)
        state = new_method_call(address, "Get", "ss", ("org.freedesktop.systemd1.Unit", "ActiveState"))
        jobs, value = self._call(new_method_call(_MANAGER, "ListJobs"), state)
        return _jobs(jobs), str(cast(Value, value[0])[1])

    def ordered_after(self, unit: str) -> list[str]:
        """The units that `unit` is ordered after."""
        (names,) = self._get(unit_path(unit), "Unit", "After")
        return [str(name) for name in cast(list[object], names)]

    def units_with_jobs(self) -> set[str]:
        """The units for which a job is waiting or running."""
        return set(self.list_jobs())

    def cancel_job(self, number: int) -> None:
        """Cancel a job.

        Raises:
            ConfextError: it cannot be cancelled, or there is none.
        """
        self._call(new_method_call(_MANAGER, "CancelJob", "u", (number,)))

    def reload_alone(self, unit: str) -> None:
        """Queue a reload of `unit` that no other unit is reloaded with or waited for, and do not wait for it."""
        self._call(new_method_call(_MANAGER, "ReloadUnit", "ss", (unit, "ignore-dependencies")))

    def start_transient(self, unit: str, properties: list[tuple[str, Value]], *, watch: bool = False) -> str:
        """Queue the start of a transient unit; StartTransientUnit() returns before it has started.

        Args:
            unit: the name that it gets.
            properties: what it is.
            watch: whether job_result() will be asked for.

        Returns:
            The object path of the start job.
        """
        calls = []
        if watch:
            # On the private socket every signal comes by itself once somebody has subscribed; a bus wants a match.
            calls.append(new_method_call(_MANAGER, "Subscribe"))
            if self._on_bus:
                rule = f"type='signal',interface='{_MANAGER.interface}',member='JobRemoved'"
                calls.append(new_method_call(_BUS, "AddMatch", "s", (rule,)))
        body: tuple[object, ...] = (unit, "fail", properties, [])
        calls.append(new_method_call(_MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", body))
        return str(self._call(*calls)[-1][0])

    def takes(self, unit: str, name: str, value: Value) -> bool:
        """Whether a property is one that can be set: a unit is asked for that has nothing else, and is never started.

        Args:
            unit: a name that no unit has.
            name: of the property.
            value: for it.
        """
        try:
            self.start_transient(unit, [(name, value)])
        except ConfextError as error:
            return f"Cannot set property {name}" not in str(error)
        return True

    def constant_properties(self, unit: str) -> set[str]:
        """The properties of the service `unit` that do not change while it runs, as the manager declares them."""
        from xml.etree import ElementTree  # For a newer systemd only.

        address = DBusAddress(unit_path(unit), "org.freedesktop.systemd1", "org.freedesktop.DBus.Introspectable")
        (body,) = self._call(new_method_call(address, "Introspect"))
        interface = "./interface[@name='org.freedesktop.systemd1.Service']/property"
        annotation = "./annotation[@name='org.freedesktop.DBus.Property.EmitsChangedSignal'][@value='const']"
        found = ElementTree.fromstring(str(body[0])).findall(interface)
        return {one.get("name", "") for one in found if one.find(annotation) is not None}

    def start_unit(self, unit: str) -> None:
        """Queue the start of `unit`, and do not wait for it."""
        self._call(new_method_call(_MANAGER, "StartUnit", "ss", (unit, "replace")))

    def job_result(self, job: str) -> str:
        """Wait for a job that was started with `watch`; return "done", "failed", "timeout" or what else came of it."""
        while job not in self._results:
            assert self._socket is not None, "the result of a job comes over the connection that started it"
            self._note(self._receive(self._socket))
        return self._results[job]

    def reset_failed(self, unit: str) -> None:
        """Let the manager forget a unit that failed."""
        self._call(new_method_call(_MANAGER, "ResetFailedUnit", "s", (unit,)))

    def _note(self, message: Message) -> None:
        """Keep what a JobRemoved signal says."""
        if message.header.fields.get(HeaderFields.member) == "JobRemoved":
            _, path, _, result = message.body
            self._results[str(path)] = str(result)

    def unit_properties(self, unit: str) -> Properties:
        """All properties of `unit` that every unit has (GetAll of the Unit interface); it need not exist."""
        address = DBusAddress(unit_path(unit), "org.freedesktop.systemd1", _PROPERTIES)
        (body,) = self._call(new_method_call(address, "GetAll", "s", ("org.freedesktop.systemd1.Unit",)))
        return cast(Properties, body[0])
