# SPDX-License-Identifier: LGPL-2.1-or-later
"""A service that a verb of `unit-confext` looks at: its name, what the manager knows about it, and what it sees.

The processes that run now are read from the kernel. Nothing is written and no lock is taken, so reloads never wait.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from confext_generator import names
from confext_generator.constants import DROPIN
from confext_helpers.errors import ConfextError
from confext_helpers.service.checkproperties import UnitProperties
from confext_helpers.service.processes import Process, close_all, find_processes, key_of, start_ticks
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.system.descriptors import Descriptors
from confext_helpers.system.mountinfo import Mount, chain, read_mountinfo

if TYPE_CHECKING:
    from confext_helpers.system.manager import ServiceManager

_LAYERS_OF_ETC = re.compile(r"/unit-extensions/\d+/etc(?=[:,]|$)")


class Service(NamedTuple):
    """A service of the system manager; use as a context manager, which lets go of its processes in the end.

    Attributes:
        name: the name, never an alias.
        state: ActiveState=, such as "active".
        need_daemon_reload: NeedDaemonReload=, whether systemd itself finds the unit's files changed.
        dropins: the paths of the drop-ins, in order.
        processes: one for each mount namespace that systemd made for the service.
        namespace_problem: why there is none, if the service runs in the host's or in one of its own making; else None.
    """

    name: str
    state: str
    need_daemon_reload: bool
    properties: ServiceProperties
    dropins: list[str]
    processes: list[Process]
    namespace_problem: ConfextError | None

    @property
    def own_dropins(self) -> list[str]:
        """The drop-ins with the name of the generator's drop-in; empty if there is none for this service."""
        return [path for path in self.dropins if path.endswith(f"/{os.fsdecode(DROPIN)}")]

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *exc: object) -> None:
        close_all(self.processes)


class View(NamedTuple):
    """The file system as one process sees it.

    Attributes:
        root: an O_PATH descriptor of the process's root directory.
        mounts: the mounts in its mount namespace.
    """

    process: Process
    root: int
    mounts: list[Mount]

    @property
    def overlay(self) -> Mount | None:
        """The overlay that systemd mounted on `/etc`; None if there is none."""
        found = chain(self.mounts)
        if not found and stat.S_ISLNK(os.stat("etc", dir_fd=self.root, follow_symlinks=False).st_mode):
            # systemd mounts on the symlink's target. Its overlay for /etc is known by the paths of its layers.
            found = [mount for mount in self.mounts if _LAYERS_OF_ETC.search(mount.super_options)]
        return found[-1] if found and found[-1].is_extension_overlay() else None

    def open_etc(self) -> int:
        """Open `/etc` as the process sees it (O_PATH)."""
        overlay = self.overlay
        place = overlay.point.strip("/") if overlay is not None else "etc"
        return os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.root)


def unit_name(word: str) -> str:
    """Complete `word` to the name of a service unit: without a suffix, ".service" is appended.

    Raises:
        ConfextError: no service can have this name.
    """
    name = word if word.endswith(".service") else f"{word}.service"
    if not names.is_valid_service(os.fsencode(name)):
        raise ConfextError(f"{word!a} is not a valid service name")
    return name


def need_root(verb: str) -> None:
    """Refuse users other than root, who cannot look into the processes of other users.

    Raises:
        ConfextError: the caller is not root.
    """
    if os.geteuid() != 0:
        raise ConfextError(f"only root can look into running services; run '{verb}' as root")


def find(manager: ServiceManager, word: str) -> Service:
    """The service with the name `word`.

    Raises:
        ConfextError: the name is invalid or a template's, or the manager cannot load the unit.
    """
    name = unit_name(word)
    if names.is_template(os.fsencode(name)):
        raise ConfextError("this is a template, which never runs", unit=name, hint="name one of its instances")
    about = UnitProperties(manager.unit_properties(name))
    name = about.id
    state = about.load_state
    if state != "loaded":
        problem = {"not-found": "there is no such unit", "masked": "the unit is masked"}
        raise ConfextError(problem.get(state, f"the unit cannot be loaded ({state})"), unit=name)
    properties = ServiceProperties(manager.service_properties(name))
    processes: list[Process] = []
    namespace_problem = None
    try:
        processes = find_processes(name, properties)
    except ConfextError as error:
        namespace_problem = error.with_unit(name)
    return Service(
        name=name,
        state=about.active_state,
        need_daemon_reload=about.need_daemon_reload,
        properties=properties,
        dropins=about.drop_ins,
        processes=processes,
        namespace_problem=namespace_problem,
    )


@contextlib.contextmanager
def view_of(service: Service) -> Iterator[View]:
    """What the first process of `service` sees.

    Raises:
        ConfextError: no process runs, or none in a mount namespace that systemd made for the service.
    """
    if service.namespace_problem is not None:
        raise service.namespace_problem
    if not service.processes:
        raise not_running(service)
    process = service.processes[0]
    with Descriptors() as opened:
        try:
            root = opened.add(os.open(f"/proc/{process.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            mounts = read_mountinfo(f"/proc/{process.pid}/mountinfo")
            # If the process has ended, its PID may by now belong to another process: the key tells them apart.
            same = process.key == key_of(process.pid, start_ticks(process.pid))
        except (FileNotFoundError, ProcessLookupError):
            raise not_running(service) from None
        if not same:
            raise not_running(service)
        yield View(process, root, mounts)


def not_running(service: Service) -> ConfextError:
    """The error for a service without a process."""
    hint = "" if service.state == "active" else f"run 'systemctl start {service.name}'"
    return ConfextError("no process of the service is running", unit=service.name, hint=hint)
