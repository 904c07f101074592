# SPDX-License-Identifier: LGPL-2.1-or-later
"""The processes of a service, and the mount namespaces that they are in."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from confext_helpers.errors import ConfextError
from confext_helpers.service.properties import ServiceProperties

SETUP_TIMEOUT_SEC = 10
_EXIT_TIMEOUT_SEC = 1
# ioctl_ns(2); a few architectures have a different _IO() (<asm/ioctl.h>).
_NS_GET_USERNS = 0x2000B701 if os.uname().machine.startswith(("alpha", "mips", "ppc", "sparc")) else 0xB701


class Process(NamedTuple):
    """A process of the service with its descriptors, which close() closes.

    Attributes:
        pid: the PID.
        pidfd: pidfd_open(2).
        namespace: descriptor of the mount namespace.
        key: from key_of().
    """

    pid: int
    pidfd: int
    namespace: int
    key: str

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended; if so, another process may have its PID."""
        return _has_ended(self.pidfd, 0)

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self.pidfd)
        os.close(self.namespace)


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot: proc_pid_stat(5), field 22.

    Raises:
        OSError: there is no such process.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The process chooses the name of its program, which may have blanks and brackets: split after the last one.
        return int(file.read().rpartition(b")")[2].split()[19])


def key_of(pid: int, ticks: int) -> str:
    """The key of a process, which no other process since boot has."""
    return f"{pid}:{ticks}"


def _has_ended(pidfd: int, timeout_sec: float) -> bool:
    return bool(select.select([pidfd], [], [], timeout_sec)[0])


def _is_executor(pid: int) -> bool:
    """Whether the process `pid` is still systemd-executor, which sets up the process of a command.

    The manager keeps the executor's file open, so the files are compared: any program can have the name, and an upgrade
    replaces the file at the path.
    """
    if "/systemd-executor" not in os.readlink(f"/proc/{pid}/exe"):
        return False
    program = os.stat(f"/proc/{pid}/exe")
    with contextlib.suppress(OSError):
        for number in os.listdir("/proc/1/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(f"/proc/1/fd/{number}"), program):
                    return True
    return False


def _open_process(pid: int, deadline: float) -> Process | None:
    """Open the process `pid` once systemd has set it up; return None if there is no such process.

    Args:
        pid: of the process.
        deadline: how long to wait for systemd, on the clock of time.monotonic().

    Raises:
        OSError: the process runs, but its namespace cannot be opened. This happens if its first thread has ended before
            the others.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    namespace = None
    try:
        # A service of Type=simple counts as started while systemd still sets up its namespace. Only the program that
        # runs tells when this is over, so a reload this early has to poll.
        start = start_ticks(pid)
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - start / os.sysconf("SC_CLK_TCK")
        deadline = min(deadline, time.monotonic() + SETUP_TIMEOUT_SEC - age)
        while time.monotonic() < deadline and _is_executor(pid):
            select.select([pidfd], [], [], 0.005)
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        # A process that is about to end loses its namespace shortly before.
        ended = _has_ended(pidfd, _EXIT_TIMEOUT_SEC)
        os.close(pidfd)
        if namespace is not None:
            os.close(namespace)
        if ended:
            return None
        raise
    return Process(pid, pidfd, namespace, key_of(pid, start))


def _is_in(group: str, pid: int) -> bool:
    """Whether the process `pid` is in the control group `group`, or below it.

    A service that runs as root can name any process of the system as its main process (sd_notify(3), `MAINPID=`).
    """
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        places = [line.removesuffix("\n").split(":", 2)[2] for line in file]
    return any(f"{place}/".startswith(f"{group}/") for place in places)


def _is_its_own(namespace: int) -> bool:
    """Whether a mount namespace belongs to another user namespace than the host's, such as one made by the service.

    The owner of that user namespace can unmount whatever is mounted later, including what the sandbox hides by mounts.
    """
    owner = fcntl.ioctl(namespace, _NS_GET_USERNS)
    try:
        return not os.path.samestat(os.fstat(owner), os.stat("/proc/self/ns/user"))
    finally:
        os.close(owner)


def _group_pids(properties: ServiceProperties) -> list[int]:
    """The PIDs of all processes of the service except this one."""
    group = properties.control_group
    pids = []
    if group:
        for directory, _, _ in os.walk(f"/sys/fs/cgroup{group}"):
            try:
                with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                    pids += [int(line) for line in file if int(line) != os.getpid()]
            except OSError:
                continue
    return pids


def _pids(properties: ServiceProperties) -> list[int]:
    """The PID of the main process; without one, the PIDs of all processes of the service except this one."""
    main = properties.main_pid
    return [main] if main else _group_pids(properties)


@contextlib.contextmanager
def held(processes: Iterable[Process]) -> Iterator[None]:
    """Close all processes that are in `processes` at the end of the with statement."""
    try:
        yield
    finally:
        close_all(processes)


def close_all(processes: Iterable[Process]) -> None:
    """Close all of `processes`."""
    for process in processes:
        process.close()


def find_processes(unit: str, properties: ServiceProperties) -> list[Process]:
    """Open one process for each mount namespace that systemd made for the service. The caller closes them, see held().

    Raises:
        ConfextError: the service runs, but not in such a namespace.
    """
    return _find(unit, properties, _pids(properties), {})


def _find(unit: str, properties: ServiceProperties, pids: list[int], strangers: dict[int, str]) -> list[Process]:
    """Do what find_processes() does, for these `pids`; `strangers` gets the PIDs that are left alone, and why."""
    found: dict[int, Process] = {}
    with contextlib.ExitStack() as failed:
        failed.callback(close_all, found.values())
        _search(unit, properties, pids, found, strangers)
        failed.pop_all()
    return list(found.values())


def _search(
    unit: str, properties: ServiceProperties, pids: list[int], found: dict[int, Process], strangers: dict[int, str]
) -> None:
    """Do what _find() does; `found` gets the processes, by the inode numbers of their namespaces."""
    ours = os.stat("/proc/self/ns/mnt").st_ino
    group = properties.control_group
    main = properties.main_pid
    left: dict[int, str] = {}
    problem = hint = ""
    belonging = None
    # One deadline for all: if a service really runs the manager's executor, waiting must not take this long for each.
    deadline = time.monotonic() + SETUP_TIMEOUT_SEC
    for pid in pids:
        with contextlib.ExitStack() as opened:
            try:
                process = _open_process(pid, deadline)
                if process is None:
                    continue
                opened.callback(process.close)
                member = _is_in(group, pid)
            except OSError as error:
                problem, hint = f"its process {pid} cannot be examined: {error.strerror}", "restart it instead"
                continue
            number = os.fstat(process.namespace).st_ino
            reason = ""
            if process.has_ended or number in found:
                pass
            elif not member:
                problem, hint = f"its main process {pid} is not in its control group", "restart it instead"
            elif number == ours:
                problem = (
                    "the service runs in the host's mount namespace, where its /etc cannot be changed for it alone"
                )
                hint = f"run 'systemctl restart {unit}' once"
            elif _is_its_own(process.namespace):
                problem = "it runs in a mount namespace that belongs to a user namespace, and could unmount a new /etc"
                hint = "restart it instead"
                left.setdefault(number, f"{pid} is in a mount namespace that belongs to a user namespace")
            else:
                if belonging is None:
                    from confext_helpers.service.belonging import Belonging

                    belonging = Belonging(unit, properties, _group_pids(properties) if len(pids) == 1 else pids)
                reason = belonging.stranger(pid, process.namespace)
                if not reason:
                    found[number] = process
                    opened.pop_all()
                    left.pop(number, None)
                    continue
                problem = f"its {'main ' if pid == main else ''}process {pid} {reason}, and is left alone"
                if properties.root_ephemeral:
                    # The root directory is a copy that no setting names, so every process looks like a stranger.
                    problem = "RootEphemeral=yes services cannot be re-stacked"
                hint = "restart it instead"
                left.setdefault(number, f"{pid} {reason}")
    if belonging is not None and len(found) > 1:
        from confext_helpers.service.belonging import COPY

        for number in belonging.copies() & set(found):
            process = found.pop(number)
            left[number] = f"{process.pid} {COPY}"
            process.close()
    strangers.update({int(text.split()[0]): text.partition(" ")[2] for text in left.values()})
    if problem and not found:
        raise ConfextError(problem, hint=hint)


def strangers(unit: str, properties: ServiceProperties, processes: list[Process]) -> dict[int, str]:
    """One process of each other mount namespace in the service's control group: the PID, and why it is left alone.

    Raises:
        ConfextError: the namespace of the main process turns out to be a copy that another process has made.
    """
    known = {os.fstat(process.namespace).st_ino for process in processes}
    known.add(os.stat("/proc/self/ns/mnt").st_ino)
    pids = [process.pid for process in processes]
    others = []
    for pid in _group_pids(properties):
        try:
            number = os.stat(f"/proc/{pid}/ns/mnt").st_ino
        except OSError:
            continue
        if number not in known:
            known.add(number)
            others.append(pid)
    found: dict[int, str] = {}
    if not others:
        return found
    for process in _find(unit, properties, [*pids, *others], found):
        process.close()
    main = properties.main_pid
    if main in found:
        problem = f"its main process {main} {found[main]}, and is left alone"
        raise ConfextError(problem, hint="restart it instead")
    for pid in others:
        found.setdefault(pid, "is in a mount namespace of its own")
    return found


def check_directories(properties: ServiceProperties, processes: list[Process]) -> list[int]:
    """The PIDs of the service whose working or root directory is below the `/etc` of one of `processes`.

    Such a process keeps the old directory, and by relative paths finds the old files. A daemon that changes to such a
    directory by itself (unbound, for one) mostly opens files by absolute paths, and changes to the directory anew.

    Raises:
        ConfextError: the main process is one of them, and the unit's WorkingDirectory= is below `/etc`.
    """
    told_to = f"{properties.working_directory}/".startswith("/etc/")
    namespaces = {os.fstat(process.namespace).st_ino for process in processes}
    main = properties.main_pid
    found = []
    for pid in {*_group_pids(properties), *(process.pid for process in processes)}:
        try:
            if os.stat(f"/proc/{pid}/ns/mnt").st_ino not in namespaces:
                continue
            places = [os.readlink(f"/proc/{pid}/{name}") for name in ("cwd", "root")]
        except OSError:
            continue
        below = [place for place in places if f"{place}/".startswith("/etc/")]
        if below and pid == main and told_to:
            problem = f"its main process {pid} works in {below[0]}, where it would go on with the old files"
            hint = "restart it, or set WorkingDirectory= to a directory that is not below /etc"
            raise ConfextError(problem, hint=hint)
        if below:
            found.append(pid)
    return sorted(found)
