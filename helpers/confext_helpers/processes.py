"""The processes of a service, and the mount namespaces that they are in."""

from __future__ import annotations

import os
import select
import time
from typing import NamedTuple

from confext_helpers.bus import Properties
from confext_helpers.errors import ConfextError

SETUP_TIMEOUT_SEC = 10
_EXECUTOR = "/systemd-executor"


class Process(NamedTuple):
    """A process of the service.

    Attributes:
        pid: its PID.
        pidfd: pidfd_open(2).
        namespace: descriptor of its mount namespace.
        key: tells it from every other process since boot.
    """

    pid: int
    pidfd: int
    namespace: int
    key: str

    @property
    def has_ended(self) -> bool:
        """Whether it has ended; its PID may be another's then."""
        return bool(select.select([self.pidfd], [], [], 0)[0])


def _open_process(pid: int) -> Process | None:
    """Take hold of the process `pid` once it is what it is going to be, or return None if there is none."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        # A service of Type=simple counts as started while systemd is still setting up its namespace. Nothing tells
        # when that is over but the program that runs, so this looks a few times if it comes that early.
        deadline = time.monotonic() + SETUP_TIMEOUT_SEC
        while os.readlink(f"/proc/{pid}/exe").endswith(_EXECUTOR) and time.monotonic() < deadline:
            select.select([pidfd], [], [], 0.005)
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="surrogateescape") as file:
            start_time = file.read().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        os.close(pidfd)
        return None
    return Process(pid, pidfd, namespace, f"{pid}:{start_time}")


def _pids(properties: Properties) -> list[int]:
    """The main process, or where there is none, every process of the service but this one."""
    main = properties["MainPID"][1]
    if main:
        assert isinstance(main, int)
        return [main]
    group = str(properties["ControlGroup"][1])
    pids = []
    if group:
        for directory, _, _ in os.walk(f"/sys/fs/cgroup{group}"):
            try:
                with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                    pids += [int(line) for line in file if int(line) != os.getpid()]
            except (FileNotFoundError, OSError):
                continue
    return pids


def find_processes(unit: str, properties: Properties) -> list[Process]:
    """One process for each mount namespace of the service that is not the host's.

    Raises:
        ConfextError: the service runs, but in the host's own mount namespace.
    """
    ours = os.stat("/proc/self/ns/mnt").st_ino
    found: dict[int, Process] = {}
    shared = False
    for pid in _pids(properties):
        process = _open_process(pid)
        if process is None:
            continue
        number = os.fstat(process.namespace).st_ino
        if number == ours:
            shared = True
        else:
            found.setdefault(number, process)
    if shared and not found:
        raise ConfextError(
            "the service runs in the host's mount namespace, where its /etc cannot be changed for it alone",
            unit=unit,
            hint=f"run 'systemctl restart {unit}' once",
        )
    return list(found.values())
