# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook in front of a service's reload: give the running service the `/etc` that a restart would give it.

    restack UNIT              re-stack `/etc` of the service; cancel its reload if that fails
    restack --alone UNIT      the same, although no reload of the service waits for it
    restack --refuse UNIT     cancel the reload of a service whose hook died
    restack --recover UNIT    complete what a hook that died had begun
    restack --access UNIT     fail if others than root can write a layer of the service, before it starts
    restack --report UNIT     say so if the service's own reload failed after a swap

In order: ask the manager for the unit (system/bus.py); complete a swap that was cut off; leave it at that if nothing
changed (service/fingerprint.py); start the stage (stage/transient.py); run the service's own checks (checks/run.py);
compare, and read what is new (swap/change.py); swap (swap/plan.py); say so (hook/messages.py). Until the swap nothing
that the service sees has been touched, so that every error before it leaves the service with its old `/etc`, and the
swap itself has one system call that matters.

It is the ExecReload= of unit-confext-restack@UNIT.service, to which a reload of the service is propagated and after
which it is ordered. It is not an ExecReload= of the service itself, because every command of a service is given a
mount namespace with the service's layers, its root directory and its bind mounts, even one with the `+` prefix: it
could not be executed in a service with RootImage=, and an image that cannot be mounted would fail it before it could
say which one that is.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from confext_helpers.checks import run as checks
from confext_helpers.errors import ConfextError
from confext_helpers.hook import messages
from confext_helpers.hook.deadline import Line, Progress, supervise
from confext_helpers.hook.messages import Step
from confext_helpers.hook.reloadjob import Reload, SupersededError, cancel, give_up, report
from confext_helpers.image.naming import has_strict_name
from confext_helpers.paths import GENERATED
from confext_helpers.service import fingerprint
from confext_helpers.service.notes import LastSwap, Notes
from confext_helpers.service.processes import Process, check_directories, find_processes, strangers
from confext_helpers.service.properties import layer_paths, layers_in, nosuid_directories
from confext_helpers.stage import refusals, transient
from confext_helpers.system import journal
from confext_helpers.system.bus import Manager, Properties
from confext_helpers.system.filewords import Files
from confext_helpers.system.journal import say

USAGE = """\
usage: restack [--alone|--refuse|--recover|--access|--report] [--] UNIT

Give the running service UNIT the /etc that a restart would give it.

  --alone     also if no reload of UNIT waits for it
  --refuse    only cancel the reload of UNIT, since a re-stack was cut off
  --recover   only complete a re-stack that was cut off
  --access    only fail if others than root can write a layer of UNIT
  --report    only say so if the reload of UNIT failed
  --debug     show where an error comes from
  -h, --help  show this text

See unit-confext-restack(8).
"""

EXIT_USAGE = 2
_WORKS_BELOW = "works in a directory below /etc, which for it is the old one"
# Of the child that does the work: the reload was cancelled, and the reason has been said.
_REFUSED = 3
# In the order of Options.
_FLAGS = ("--alone", "--refuse", "--recover", "--access", "--report", "--debug")
# How long a service that starts waits for the file systems that its layers are on, in seconds.
MOUNT_TIMEOUT_SEC = 90.0
# How long a recovery waits for the hook that is at work, which does the same.
_RECOVER_WAIT_SEC = 30.0


class Options(NamedTuple):
    """The command line."""

    unit: str
    alone: bool = False
    refuse: bool = False
    recover: bool = False
    access: bool = False
    report: bool = False
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
        if word not in _FLAGS:
            raise ValueError(f"unknown option {word}")
    if len(units) != 1:
        raise ValueError("one unit name is needed")
    unit = units[0] if "." in units[0] else f"{units[0]}.service"
    if "/" in unit or not unit.endswith(".service"):
        raise ValueError(f"{unit!r} is no name of a service")
    return Options(unit, *(word in options for word in _FLAGS))


def _recover(unit: str, notes: Notes, processes: list[Process]) -> None:
    swap = notes.read_swap()
    if swap is None:
        return
    from confext_helpers.swap import exchange  # Hardly ever needed here.

    if exchange.complete(notes, processes, swap):
        say(unit, messages.completed(unit))


def _warn(unit: str, notes: Notes, warnings: Sequence[str]) -> None:
    """Say what is wrong with the [X-Confext] sections, but for what was said at the last reload already."""
    said = notes.read_warnings()
    for warning in warnings:
        if warning not in said:
            say(unit, messages.section(warning))
    if list(warnings) != said:
        # Without the note, it is said again. That is no reason to refuse a reload.
        with contextlib.suppress(OSError):
            notes.write_warnings(warnings)


def _note_files(notes: Notes, files: Files, processes: list[Process]) -> None:
    """Note what has to be as it is for the next reload to have nothing to do; see helpers/restack-if-changed.in.

    Args:
        notes: about the unit.
        files: what their `/etc` is made of, and GENERATED, as it was before the manager was asked for the settings.
        processes: of the service.
    """
    for process in processes:
        files.add(f"/proc/{process.pid}")
    if not files.watchable or any(process.has_ended for process in processes):
        return
    with contextlib.suppress(OSError):
        notes.write_files(files.paths, files.digest())


def restack(
    unit: str,
    manager: Manager,
    notes: Notes,
    properties: Properties,
    processes: list[Process],
    progress: Progress,
    files: Files,
    reload: Reload,
) -> bool:
    """Build the future `/etc` and put it in place in each of `processes`' namespaces, unless it is there already.

    Returns:
        Whether nothing of what it is made of can have changed meanwhile, which is what `files` gets.

    Raises:
        ConfextError: it cannot be had; the service's `/etc` is what it was, unless the error says otherwise.
        SupersededError: nobody wants it any more.
    """
    before = fingerprint.identify(properties, files)
    keys = [process.key for process in processes]
    last = notes.read_stack()
    if last is not None and last.processes != keys:
        last = None
    if last is not None and last.settled and last.identity.is_same(before):
        say(unit, messages.unchanged(unit))
        return True
    if properties.get("RootEphemeral", ("b", False))[1]:
        raise ConfextError("RootEphemeral=yes services cannot be re-stacked", unit=unit, hint="restart it instead")
    kept = {pid: _WORKS_BELOW for pid in check_directories(unit, properties, processes)}
    kept |= strangers(unit, properties, processes)
    if kept:
        say(unit, messages.strangers(unit, kept))
    from confext_helpers.stage import limits, writers  # Only needed where something changed.

    limits.check(unit, properties, processes, last)
    writers.check(unit, properties)
    layers = layer_paths(properties)
    policy = str(properties.get("ExtensionImagePolicy", ("s", ""))[1])
    refusals.check_picked(unit, layers)
    refusals.check_directories(unit, layers_in(properties, "ExtensionDirectories"), policy)
    for layer in layers:
        refusals.check_whole(unit, layer)
    progress.begin(Step.CHECKS)
    wanted = checks.read(manager, unit)
    progress.begin(Step.STAGE)
    unchecked = [layer for layer in layers if not has_strict_name(layer)]
    pending = transient.begin(manager, unit, properties, processes[0].namespace)
    manager.disconnect()
    # While systemd builds it, there is time to load what is needed next, and only if there is something to do.
    from confext_helpers.swap import change, exchange

    new_stage = pending.wait(manager)
    manager.disconnect()
    try:
        progress.begin(Step.CHECKS)
        if wanted is not None:
            _warn(unit, notes, wanted.warnings)
            checks.run(manager, unit, properties, wanted)
        progress.begin(Step.COMPARE)
        writers.check(unit, properties)
        refusals.check_releases(unit, unchecked, new_stage.namespace)
        signed = refusals.check_signers(unit, layers, policy)
        # What was looked at first is what the stage has, and was checked, unless it changed meanwhile.
        after = fingerprint.identify(properties)
        same = after.is_same(before)
        # The host's own /etc is written to all the time, and not only through what is looked up anew.
        changed = not after._replace(base=before.base).is_same(before)
        if (signed and after.layers != before.layers) or (wanted is not None and wanted.commands and changed):
            raise ConfextError("its layers changed while they were checked", unit=unit, hint="reload again")
        found = change.find(unit, properties, processes[0], new_stage.namespace, before, last)
        reload.begin_swap(manager)
    except BaseException:
        new_stage.close()
        raise
    progress.begin(Step.SWAP)
    notes.write_stack(None)
    nosuid = nosuid_directories(properties)
    for process in processes:
        try:
            left = exchange.swap(notes, process, new_stage, nosuid)
            if left:
                say(unit, messages.grave_kept(unit, left))
        except OSError as error:
            problem = f"the new one cannot be put in place: {error.strerror}"
            if progress.swapped:
                done = f"{progress.swapped} of {len(processes)} mount namespaces have the new /etc"
                problem = f"{done}, then: {error.strerror}"
            raise ConfextError(problem, unit=unit, hint="reload again") from error
        progress.swapped += 1
    new_stage.close()
    progress.end()
    reload.swapped(manager, notes)
    now = fingerprint.now()
    settled = same and before.settled and not fingerprint.is_held_open(properties)
    # Without the note, the next reload does more than it has to. This one is done.
    with contextlib.suppress(OSError):
        notes.write_stack(LastSwap(keys, now // 1000, [*found.layers.all], before, settled))
    say(unit, messages.restacked(unit, found.layers, found.files, progress.usec))
    return settled


def _work(options: Options, notes: Notes, line: Line) -> int:
    """What the hook does, in a child of its own; return 0, _REFUSED if the reload was cancelled, or 1 for less."""
    unit = options.unit
    if not notes.try_lock():
        line.doing("another hook of it still ran")
    with notes, Manager() as manager:
        progress = Progress(line)
        try:
            files = Files()
            files.add(GENERATED)
            job = manager.list_jobs().get(unit)
            if not options.alone and (job is None or not job.holds_reload):
                if job is None:
                    say(unit, messages.left_alone(unit))
                return 0
            if usec := checks.hook_timeout_usec(manager, unit):
                line.limit(usec)
            reload = Reload(unit, None if options.alone else job, line)
            properties = manager.service_properties(unit)
            processes = find_processes(unit, properties)
            _recover(unit, notes, processes)
            if processes:
                if restack(unit, manager, notes, properties, processes, progress, files, reload):
                    _note_files(notes, files, processes)
            else:
                say(unit, messages.no_process(unit))
        except SupersededError:
            say(unit, messages.superseded(unit))
        except Exception as error:
            if options.debug:
                import traceback

                traceback.print_exc()
            message = messages.refused(_as_confext_error(error, unit), progress.step, partly=progress.swapped > 0)
            say(unit, message)
            # The manager may be one that executes itself anew, and has closed the connection.
            manager.disconnect()
            cancel(manager, notes, unit, unless_repeated=True)
            return _REFUSED
    return 0


def run(options: Options) -> int:
    """Do what the command line says; return 0, or 1 if the reload was refused, which has been said then.

    Raises:
        ConfextError: the manager is out of reach.
        OSError: the notes are.
    """
    journal.load()
    unit = options.unit
    if options.report:
        report(unit)
        return 0
    if options.access:
        return look_before_start(unit)
    notes = Notes(unit)
    if options.refuse:
        # Without the lock: whoever has it may be what does not end.
        with Manager() as manager:
            if cancel(manager, notes, unit):
                say(unit, messages.cut_off(unit))
        return 0
    if options.recover:
        # A hook that is at work has done it already.
        if notes.try_lock(_RECOVER_WAIT_SEC):
            with notes, Manager() as manager:
                _recover(unit, notes, find_processes(unit, manager.service_properties(unit)))
        return 0
    notes.write_done(False)

    def done() -> None:
        # If this is killed now, the service's reload goes on all the same, with what it is to read.
        with contextlib.suppress(OSError):
            notes.write_done(True)

    ended = supervise(lambda line: _main(options, lambda: _work(options, notes, line)), done)
    status = ended.status
    if status is None:
        # It does nothing more, but may have the lock until storage answers.
        notes.unlock()
        if ended.swapped:
            status = 0
        elif ended.terminated:
            with Manager() as manager:
                if cancel(manager, notes, unit):
                    say(unit, messages.cut_off(unit))
        elif not ended.asked:
            give_up(unit, notes, ended)
            status = _REFUSED
    if status not in (0, _REFUSED):
        return 1
    # Dealt with. By now the user may have asked for the next reload, which is none of this hook's.
    notes.write_done(True)
    return 1 if status else 0


def _as_confext_error(error: Exception, unit: str) -> ConfextError:
    if isinstance(error, ConfextError):
        error.unit = error.unit or unit
        return error
    return ConfextError(f"it cannot be re-stacked: {error}", unit=unit)


def look_before_start(unit: str) -> int:
    """Return 0 if nobody but root can write the layers of `unit`, which is about to start; else say so and return 1."""
    from confext_helpers.stage import writers

    try:
        with Manager() as manager:
            writers.check_before_start(unit, manager, MOUNT_TIMEOUT_SEC)
    except ConfextError as error:
        say(unit, messages.not_started(error if error.unit else _as_confext_error(error, unit)))
        return 1
    return 0


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
    return _main(options, lambda: run(options))


def _main(options: Options, function: Callable[[], int]) -> int:
    try:
        return function()
    except Exception as error:
        if options.debug:
            raise
        say(options.unit, messages.failed(_as_confext_error(error, options.unit)))
        return 1
