# SPDX-License-Identifier: LGPL-2.1-or-later
"""A client of the service manager, over D-Bus with jeepney.

Like systemctl, the client tries the manager's private socket first. That socket works before the bus is up and without
any bus, answers only root, and saves a hop. Only a bus wants a `Hello`; otherwise the protocols are the same.
Independent calls are sent together, so that they cost one round trip.

Values are kept as (signature, value) pairs, so that a value that was read can be passed back unchanged: the properties
returned by GetAll() and those accepted by StartTransientUnit() have the same types (org.freedesktop.systemd1(5)).
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
    """A string."""
    return "s", value


def texts(values: list[str]) -> Value:
    """A list of strings."""
    return "as", values


def pairs(values: list[tuple[str, str]]) -> Value:
    """A list of pairs of strings."""
    return "a(ss)", values


def flag(value: bool) -> Value:
    """A boolean."""
    return "b", value


def number(value: int) -> Value:
    """An unsigned 64-bit number, or a bit mask."""
    return "t", value


def signed(value: int) -> Value:
    """A signed 32-bit number."""
    return "i", value


def descriptor(fd: int) -> Value:
    """A file descriptor; the manager gets a duplicate."""
    return "h", fd


def system_calls(allowed: list[str]) -> Value:
    """A SystemCallFilter= that allows exactly the named system calls."""
    return "(bas)", (True, allowed)


def commands(values: list[tuple[str, list[str], bool]]) -> Value:
    """ExecStart= etc.: for each command its path, its argv, and whether its failure is ignored."""
    return "a(sasb)", values


def flagged_commands(values: list[tuple[str, list[str], list[str]]]) -> Value:
    """ExecStartEx= etc.: for each command its path, its argv, and flags such as "ignore-failure"."""
    return "a(sasas)", values


def unit_path(unit: str) -> str:
    """The object path of a unit: bytes other than ASCII letters and digits, and a leading digit, become `_xx`."""

    def plain(position: int, byte: int) -> bool:
        return chr(byte).isascii() and (chr(byte).isalpha() or (position > 0 and chr(byte).isdigit()))

    escaped = (chr(b) if plain(i, b) else f"_{b:02x}" for i, b in enumerate(unit.encode()))
    return "/org/freedesktop/systemd1/unit/" + "".join(escaped)


def _jobs(body: tuple[object, ...]) -> dict[str, Job]:
    """The jobs in the reply to ListJobs(), by unit, without "nop" jobs."""
    jobs = cast(list[tuple[int, str, str, str, str, str]], body[0])
    return {unit: Job(number, kind, state) for number, unit, kind, state, *_ in jobs if kind != "nop"}


class Job(NamedTuple):
    """A job of the manager, org.freedesktop.systemd1(5).

    Attributes:
        number: the job ID.
        type: such as "reload".
        state: "waiting" or "running". A running job goes back to waiting if the same job is requested again.
    """

    number: int
    type: str
    state: str

    @property
    def holds_reload(self) -> bool:
        """Whether the job is a reload that has not begun."""
        return self.state == "waiting" and self.type.startswith("reload")


class Manager:
    """A connection to the system's service manager; use as a context manager.

    Args:
        timeout_sec: how long to wait for each reply, in seconds.

    Raises:
        ConfextError: neither socket can be connected to.
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
        """Close the connection; the next call opens a new one.

        While a connection to its private socket is open, the manager sends signals about all units over it. When many
        services are reloaded at once, reading those signals would be most of the work.
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
        # Read byte by byte, or the beginning of the binary protocol could be lost; there are just two short lines.
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
            # File descriptors are attached to the first byte of their message.
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
        """The properties of `unit` that are specific to services (GetAll() of the Service interface)."""
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
        """The files that systemd has read for `unit`: the unit file, if there is one, then the drop-ins in order."""
        fragment, dropins = self._get(unit_path(unit), "Unit", "FragmentPath", "DropInPaths")
        return [str(file) for file in (fragment, *cast(list[object], dropins)) if file]

    def main_pid(self, unit: str) -> int:
        """The PID of the main process of the service `unit`, 0 if there is none."""
        (pid,) = self._get(unit_path(unit), "Service", "MainPID")
        return cast(int, pid)

    def invocation_id(self, unit: str) -> str:
        """The invocation ID of the current run of `unit`: systemd.exec(5), `$INVOCATION_ID`."""
        (value,) = self._get(unit_path(unit), "Unit", "InvocationID")
        return bytes(cast(bytes, value)).hex()

    def main_pids(self) -> dict[str, int]:
        """The main PIDs of all running services, by unit."""
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
        """The major version of the running manager, such as 257."""
        (text,) = self._get(_MANAGER.object_path, "Manager", "Version")
        return int("".join(takewhile(str.isdecimal, str(text))))

    def list_jobs(self) -> dict[str, Job]:
        """All waiting and running jobs, by unit."""
        (body,) = self._call(new_method_call(_MANAGER, "ListJobs"))
        return _jobs(body)

    def list_jobs_and_state(self, unit: str) -> tuple[dict[str, Job], str]:
        """All waiting and running jobs, by unit, and the ActiveState of `unit`."""
        address = DBusAddress(unit_path(unit), "org.freedesktop.systemd1", _PROPERTIES)
        state = new_method_call(address, "Get", "ss", ("org.freedesktop.systemd1.Unit", "ActiveState"))
        jobs, value = self._call(new_method_call(_MANAGER, "ListJobs"), state)
        return _jobs(jobs), str(cast(Value, value[0])[1])

    def ordered_after(self, unit: str) -> list[str]:
        """The units that `unit` is ordered after."""
        (names,) = self._get(unit_path(unit), "Unit", "After")
        return [str(name) for name in cast(list[object], names)]

    def units_with_jobs(self) -> set[str]:
        """The units that have a waiting or running job."""
        return set(self.list_jobs())

    def cancel_job(self, number: int) -> None:
        """Cancel the job with this ID.

        Raises:
            ConfextError: the job cannot be cancelled, or does not exist.
        """
        self._call(new_method_call(_MANAGER, "CancelJob", "u", (number,)))

    def reload_alone(self, unit: str) -> None:
        """Queue a reload of `unit`, without reloading or waiting for any other unit; do not wait for the job."""
        self._call(new_method_call(_MANAGER, "ReloadUnit", "ss", (unit, "ignore-dependencies")))

    def start_transient(self, unit: str, properties: list[tuple[str, Value]], *, watch: bool = False) -> str:
        """Queue the start of a transient unit; StartTransientUnit() returns before the unit has started.

        Args:
            unit: the name of the new unit.
            properties: its settings.
            watch: whether the caller will call job_result().

        Returns:
            The object path of the start job.
        """
        calls = []
        if watch:
            # On the private socket, Subscribe() is enough to get all signals; on a bus, a match rule is needed, too.
            calls.append(new_method_call(_MANAGER, "Subscribe"))
            if self._on_bus:
                rule = f"type='signal',interface='{_MANAGER.interface}',member='JobRemoved'"
                calls.append(new_method_call(_BUS, "AddMatch", "s", (rule,)))
        body: tuple[object, ...] = (unit, "fail", properties, [])
        calls.append(new_method_call(_MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", body))
        return str(self._call(*calls)[-1][0])

    def takes(self, unit: str, name: str, value: Value) -> bool:
        """Whether the manager accepts a property: request a unit with only that property, which cannot start.

        Args:
            unit: a name that no unit has.
            name: the name of the property.
            value: a valid value of the property.
        """
        try:
            self.start_transient(unit, [(name, value)])
        except ConfextError as error:
            return f"Cannot set property {name}" not in str(error)
        return True

    def constant_properties(self, unit: str) -> set[str]:
        """The properties of the service `unit` that the manager declares constant: they never change while it runs."""
        from xml.etree import ElementTree  # Imported here: only unknown properties of a newer systemd need it.

        address = DBusAddress(unit_path(unit), "org.freedesktop.systemd1", "org.freedesktop.DBus.Introspectable")
        (body,) = self._call(new_method_call(address, "Introspect"))
        interface = "./interface[@name='org.freedesktop.systemd1.Service']/property"
        annotation = "./annotation[@name='org.freedesktop.DBus.Property.EmitsChangedSignal'][@value='const']"
        found = ElementTree.fromstring(str(body[0])).findall(interface)
        return {one.get("name", "") for one in found if one.find(annotation) is not None}

    def start_unit(self, unit: str) -> None:
        """Queue the start of `unit`; do not wait for the job."""
        self._call(new_method_call(_MANAGER, "StartUnit", "ss", (unit, "replace")))

    def job_result(self, job: str) -> str:
        """Wait for a job that was started with `watch`; return its result: "done", "failed", "timeout" etc."""
        while job not in self._results:
            assert self._socket is not None, "the result of a job comes over the connection that started it"
            self._note(self._receive(self._socket))
        return self._results[job]

    def reset_failed(self, unit: str) -> None:
        """Reset the failed state of `unit`, so that the manager can unload the unit."""
        self._call(new_method_call(_MANAGER, "ResetFailedUnit", "s", (unit,)))

    def _note(self, message: Message) -> None:
        """Record the result in a JobRemoved signal; ignore any other message."""
        if message.header.fields.get(HeaderFields.member) == "JobRemoved":
            _, path, _, result = message.body
            self._results[str(path)] = str(result)

    def unit_properties(self, unit: str) -> Properties:
        """The properties of `unit` that all units have (GetAll() of the Unit interface); `unit` need not exist."""
        address = DBusAddress(unit_path(unit), "org.freedesktop.systemd1", _PROPERTIES)
        (body,) = self._call(new_method_call(address, "GetAll", "s", ("org.freedesktop.systemd1.Unit",)))
        return cast(Properties, body[0])
