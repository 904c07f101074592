# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the manager says about a unit beyond properties.py: what only checks and the command ask.

A module of its own, since most reloads have no checks, and the hook loads as little as it can.
"""

from __future__ import annotations

from collections.abc import Iterable, KeysView
from typing import Any, NamedTuple

from confext_helpers.service.properties import Answer, Flag, ServiceProperties, Text
from confext_helpers.system.bus import Value

# ExecDirectoryFlags in systemd's execute.h
_READ_ONLY = 1
# Of NFTSet=: a set that the control group is put into.
_NFT_CGROUP = 3


class CommandEnd(NamedTuple):
    """How a command of a unit ended.

    Attributes:
        flags: such as "ignore-failure".
        code: CLD_EXITED and the like, waitid(2); 0 if it never began, or never ended.
        status: with which exit status, or by which signal.
    """

    flags: list[str]
    code: int
    status: int


class UnitProperties(Answer):
    """What every unit has: the interface org.freedesktop.systemd1.Unit, from Manager.unit_properties().

    Attributes:
        id: its name, no alias.
        load_state: such as "loaded".
        active_state: such as "active".
        need_daemon_reload: whether systemd itself finds its files changed.
    """

    __slots__ = ()

    id = Text("Id")
    load_state = Text("LoadState")
    active_state = Text("ActiveState")
    need_daemon_reload = Flag("NeedDaemonReload")

    @property
    def drop_ins(self) -> list[str]:
        """The paths of its drop-ins, in order."""
        return [str(path) for path in self._list("DropInPaths")]

    def settings(self, names: Iterable[str]) -> dict[str, Value]:
        """Those of `names` that are not empty lists, as StartTransientUnit() takes them."""
        return {name: self._raw[name] for name in names if self._value(name, []) != []}


class CheckProperties(ServiceProperties):
    """The properties of a service that a check is made from, or those of the check's own unit.

    Attributes:
        result: what came of its last run, likewise.
    """

    __slots__ = ()

    result = Text("Result")

    @classmethod
    def of(cls, properties: ServiceProperties) -> CheckProperties:
        """The same properties, for a check."""
        return cls(properties._raw)

    @property
    def start_commands(self) -> list[CommandEnd]:
        """How its ExecStart= commands ended, in order."""
        commands = self._raw["ExecStartEx"][1]
        assert isinstance(commands, list)
        return [CommandEnd(flags, code, status) for _, _, flags, *_, code, status in commands]

    def kept_directories(self, name: str) -> list[tuple[str, bool]]:
        """The directories that a setting such as StateDirectory= names, and whether the service may only read them."""
        links: list[Any] = [*self._list(f"{name}Symlink")]
        flags: dict[object, int] = {directory: flags for directory, _, flags in links}
        return [(str(item), bool(flags.get(item, 0) & _READ_ONLY)) for item in self._list(name)]

    @property
    def names(self) -> KeysView[str]:
        """The names of all properties that are told."""
        return self._raw.keys()

    def beside(self, unsaid: ServiceProperties) -> dict[str, Value]:
        """All properties that are otherwise than those of a service that says nothing, as they were read."""
        return {name: value for name, value in self._raw.items() if value != unsaid._raw.get(name)}

    def as_written(self, name: str) -> Value:
        """What was read, in the form in which StartTransientUnit() takes it; the two are the same for nearly all."""
        match name, self._raw[name]:
            case "SELinuxContext", (_, (_, str(label))):
                return "s", label  # That it may be missing cannot be said. If it is, the check fails.
            case "WorkingDirectory", (_, str(path)) if path.startswith("!"):
                return "s", f"-{path[1:]}"
        return self._raw[name]

    @property
    def has_nft_set_of_users(self) -> bool:
        """Whether NFTSet= names sets that its user or group is put into."""
        return any(item[0] != _NFT_CGROUP for item in self._list("NFTSet"))
