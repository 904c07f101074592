# SPDX-License-Identifier: LGPL-2.1-or-later
"""Properties of a unit that only checks and the command need; properties.py has the others.

This is a module of its own since most reloads have no checks, and the hook loads as little as it can.
"""

from __future__ import annotations

from collections.abc import Iterable, KeysView
from typing import Any, NamedTuple

from confext_helpers.service.properties import Answer, Flag, ServiceProperties, Text
from confext_helpers.system.bus import Value

# ExecDirectoryFlags in systemd's execute.h
_READ_ONLY = 1
# In NFTSet=: a set of control groups.
_NFT_CGROUP = 3


class CommandEnd(NamedTuple):
    """How a command of a unit ended.

    Attributes:
        flags: such as "ignore-failure".
        code: CLD_EXITED and the like, waitid(2); 0 if the command never began, or never ended.
        status: the exit status, or the number of the signal.
    """

    flags: list[str]
    code: int
    status: int


class UnitProperties(Answer):
    """The properties of every unit: the interface org.freedesktop.systemd1.Unit, from Manager.unit_properties().

    Attributes:
        id: the name of the unit, not an alias.
        load_state: such as "loaded".
        active_state: such as "active".
        need_daemon_reload: whether systemd finds that files of the unit changed.
    """

    __slots__ = ()

    id = Text("Id")
    load_state = Text("LoadState")
    active_state = Text("ActiveState")
    need_daemon_reload = Flag("NeedDaemonReload")

    @property
    def drop_ins(self) -> list[str]:
        """The paths of the unit's drop-ins, in order."""
        return [str(path) for path in self._list("DropInPaths")]

    def settings(self, names: Iterable[str]) -> dict[str, Value]:
        """Those properties in `names` that are not empty lists, for StartTransientUnit()."""
        return {name: self._raw[name] for name in names if self._value(name, []) != []}


class CheckProperties(ServiceProperties):
    """The properties of a service that a check copies, or those of the check's own unit.

    Attributes:
        result: Result=, such as "success".
    """

    __slots__ = ()

    result = Text("Result")

    @classmethod
    def of(cls, properties: ServiceProperties) -> CheckProperties:
        """The same properties, for a check."""
        return cls(properties._raw)

    @property
    def start_commands(self) -> list[CommandEnd]:
        """How the ExecStart= commands ended, in order."""
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
        """The names of all properties that the manager reports."""
        return self._raw.keys()

    def beside(self, unsaid: ServiceProperties) -> dict[str, Value]:
        """All properties that differ from those of `unsaid`, a service without settings, as they were read."""
        return {name: value for name, value in self._raw.items() if value != unsaid._raw.get(name)}

    def as_written(self, name: str) -> Value:
        """A property in the form that StartTransientUnit() takes, which for nearly all is the form that was read."""
        match name, self._raw[name]:
            case "SELinuxContext", (_, (_, str(label))):
                return "s", label  # The "-" for a label that may be missing cannot be set: then the check fails.
            case "WorkingDirectory", (_, str(path)) if path.startswith("!"):
                return "s", f"-{path[1:]}"
        return self._raw[name]

    @property
    def has_nft_set_of_users(self) -> bool:
        """Whether NFTSet= names sets of users or groups."""
        return any(item[0] != _NFT_CGROUP for item in self._list("NFTSet"))
