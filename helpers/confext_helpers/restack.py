"""The hook in front of a service's reload: give the running service the `/etc` that a restart would give it.

    restack UNIT              re-stack `/etc` of the service; cancel its reload if that fails
    restack --refuse UNIT     cancel the reload of a service whose hook died
    restack --recover UNIT    complete what a hook that died had begun

In order: ask the manager for the unit (bus.py); complete a swap that was cut off; leave it at that if nothing changed
(identity.py); start the stage (stage.py); run the service's own checks (checks.py); swap (mounts.py); say so
(journal.py). Until the swap nothing that the service sees has been touched, so that every error before it leaves the
service with its old `/etc`, and the swap itself has one system call that matters.

It is the ExecReload= of unit-confext-restack@UNIT.service, to which a reload of the service is propagated and after
which it is ordered. It is not an ExecReload= of the service itself, because every command of a service is given a
mount namespace with the service's layers, its root directory and its bind mounts, even one with the `+` prefix: it
could not be executed in a service with RootImage=, and an image that cannot be mounted would fail it before it could
say which one that is.
"""

from __future__ import annotations

import os
import select
import sys
import time
from typing import NamedTuple

from confext_helpers import checks, identity, images, mounts, stage
from confext_helpers.bus import Manager, Properties
from confext_helpers.errors import ConfextError
from confext_helpers.journal import Priority, say
from confext_helpers.mounts import Namespaces, Shape
from confext_helpers.notes import Notes, Swap

USAGE = """\
usage: restack [--refuse|--recover] [--] UNIT

Give the running service UNIT the /etc that a restart would give it.

  --refuse    only cancel the reload of UNIT, since a re-stack was cut off
  --recover   only complete a re-stack that was cut off
  --debug     show where an error comes from
  -h, --help  show this text

See unit-confext-restack(8).
"""

EXIT_USAGE = 2
SETUP_TIMEOUT_SEC = 10
_EXECUTOR = "/systemd-executor"


class Process(NamedTuple):
    """A process of the service, held so that its PID cannot become another's.

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


class Options(NamedTuple):
    """The command line."""

    unit: str
    refuse: bool = False
    recover: bool = False
    debug: bool = False


def parse_options(argv: list[str]) -> Options:
    """Parse the command line.

    Raises:
        ValueError: it is not one; the text says what is wrong.
    """
    # After "--", a word is a unit even if it begins with "-", as a unit's name may.
    end = argv.index("--") if "--" in argv else len(argv)
    options = [word for word in argv[:end] if word.startswith("-")]
    units = [word for word in argv[:end] if not word.startswith("-")] + argv[end + 1 :]
    for word in options:
        if word not in ("--refuse", "--recover", "--debug"):
            raise ValueError(f"unknown option {word}")
    if len(units) != 1:
        raise ValueError("one unit name is needed")
    unit = units[0] if "." in units[0] else f"{units[0]}.service"
    if "/" in unit or not unit.endswith(".service"):
        raise ValueError(f"{unit!r} is no name of a service")
    return Options(unit, "--refuse" in options, "--recover" in options, "--debug" in options)


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


def recover(unit: str, notes: Notes, processes: list[Process]) -> bool:
    """Complete the swap that was under way when a hook was killed; return whether there was anything to do."""
    swap = notes.read_swap()
    if swap is None:
        return False
    done = False
    for process in processes:
        if process.key == swap.process:
            with Namespaces() as namespaces:
                arguments = (process.namespace, _grave(unit), swap.old_top, swap.length)
                done = mounts.finish(namespaces, *arguments) or done
    notes.clear_swap()
    notes.write_stack("")
    if done:
        say(unit, f"{unit}: completed a re-stack of /etc that was cut off; reload it again", Priority.WARNING)
    return done


def _grave(unit: str) -> str:
    return f".unit-confext-{unit}"


def _swap(unit: str, notes: Notes, process: Process, new_stage: stage.Stage, nosuid: list[str]) -> Shape:
    def announce(old_top: mounts.Mount, length: int) -> None:
        notes.write_swap(Swap(process.key, old_top.id, length))

    with Namespaces() as namespaces:
        tree = mounts.copy_tree(namespaces, new_stage.namespace, nosuid)
        try:
            return mounts.swap(namespaces, process.namespace, tree, _grave(unit), announce)
        finally:
            os.close(tree.fd)


def restack(unit: str, manager: Manager, notes: Notes, properties: Properties, processes: list[Process]) -> None:
    """Build the future `/etc` and put it in place in each of `processes`' namespaces."""
    before = identity.identify(properties)
    note = " ".join(process.key for process in processes) + "\n" + before.text
    if note == notes.read_stack():
        say(unit, f"{unit}: nothing changed in its layers, /etc stays as it is", Priority.DEBUG)
        return
    if properties.get("RootEphemeral", ("b", False))[1]:
        raise ConfextError("RootEphemeral=yes services cannot be re-stacked", unit=unit, hint="restart it instead")
    layers = stage.layer_paths(properties)
    for layer in layers:
        images.check_whole(unit, layer)
    new_stage = stage.start(manager, unit, properties)
    try:
        wanted = checks.read(manager, unit)
        if wanted is not None:
            checks.run(manager, unit, properties, wanted)
        # What was looked at first is what the stage has, and was checked, unless it changed meanwhile.
        same = identity.identify(properties) == before
        if wanted is not None and not same:
            problem = "/etc is unchanged, its layers changed while they were checked"
            raise ConfextError(problem, unit=unit, hint="reload again")
        images.check_releases(unit, layers, f"{new_stage.root}/etc/extension-release.d")
    except ConfextError:
        new_stage.close()
        raise
    notes.write_stack("")
    nosuid = stage.nosuid_directories(properties)
    for process in processes:
        _swap(unit, notes, process, new_stage, nosuid)
        notes.clear_swap()
    new_stage.close()
    if same and before.settled(identity.now()):
        notes.write_stack(note)
    names = ", ".join(os.path.basename(layer) for layer in layers) or "no confext"
    say(unit, f"{unit}: /etc re-stacked: {names}", Priority.INFO)


def run(options: Options) -> None:
    """Do what the command line says.

    Raises:
        ConfextError: it cannot be done; the service's `/etc` is what it was.
    """
    unit = options.unit
    with Notes(unit) as notes, Manager() as manager:
        if options.refuse:
            if manager.cancel_reload(unit):
                say(unit, f"{unit}: not reloaded, since its re-stack was cut off; reload it again", Priority.ERROR)
            return
        notes.write_done(False)
        try:
            properties = manager.service_properties(unit)
            processes = find_processes(unit, properties)
            recover(unit, notes, processes)
            if options.recover:
                return
            if processes:
                restack(unit, manager, notes, properties, processes)
            else:
                say(unit, f"{unit}: no process runs, so there is no /etc to change", Priority.DEBUG)
            notes.write_done(True)
        except BaseException:
            if not options.recover:
                manager.cancel_reload(unit)
                # Dealt with. By now the user may have asked for the next reload, which is none of this hook's.
                notes.write_done(True)
            raise


def main(argv: list[str]) -> int:
    """Run the hook; return 0, 1 for an error, or 2 for a wrong command line."""
    if argv in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    try:
        options = parse_options(argv)
    except ValueError as error:
        print(f"restack: {error}\n{USAGE}", end="", file=sys.stderr)
        return EXIT_USAGE
    try:
        run(options)
    except Exception as error:
        if options.debug:
            raise
        if not isinstance(error, ConfextError):
            error = ConfextError(f"/etc cannot be re-stacked: {error}", unit=options.unit)
        say(options.unit, str(error), Priority.ERROR)
        return 1
    return 0
