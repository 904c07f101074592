# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook in front of a service's reload: give the running service the `/etc` that a restart would give it.

    restack UNIT              re-stack `/etc` of the service; cancel its reload if that fails
    restack --alone UNIT      the same, although no reload of the service waits for it
    restack --refuse UNIT     cancel the reload of a service whose hook died
    restack --recover UNIT    complete what a hook that died had begun
    restack --access UNIT     fail if others than root can write a layer of the service, before it starts
    restack --report UNIT     log an error if the service's own reload failed after a swap

The steps: ask the manager for the unit (system/bus.py); complete a swap that was cut off; stop if nothing changed
(service/fingerprint.py); prepare the future `/etc` and put it in place (transaction/); log the result
(hook/messages.py). Before the swap nothing that the service sees is changed, so every earlier error leaves the service
with its old `/etc`; in the swap, a single system call makes the new `/etc` visible.

The hook is the ExecReload= of unit-confext-restack@UNIT.service. A reload of the service is propagated to that unit and
ordered after it. The hook cannot be an ExecReload= of the service itself: systemd runs every command of a service, even
with the `+` prefix, in a mount namespace with the service's layers, root directory and bind mounts. With RootImage= the
hook would not be found there, and with an image that cannot be mounted it would fail before it can say which one.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from confext_helpers.checks import run as checks
from confext_helpers.errors import ConfextError, unexpected
from confext_helpers.hook import messages
from confext_helpers.hook.deadline import Line, Progress, supervise
from confext_helpers.hook.reloadjob import Reload, SupersededError, cancel, give_up, report
from confext_helpers.paths import GENERATED
from confext_helpers.service.notes import Notes
from confext_helpers.service.processes import Process, find_processes, held
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.system import journal
from confext_helpers.system.bus import Manager
from confext_helpers.system.filewords import Files
from confext_helpers.system.journal import say
from confext_helpers.transaction import prepare
from confext_helpers.transaction.prepare import Present
from confext_helpers.transaction.steps import Listener, Step

if TYPE_CHECKING:
    from confext_helpers.system.manager import ServiceManager

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
# Exit status of the child: the reload was cancelled, and the reason was logged.
_REFUSED = 3
# In the order of Options.
_FLAGS = ("--alone", "--refuse", "--recover", "--access", "--report", "--debug")
# How long --access waits for the file systems that the layers are on, in seconds.
MOUNT_TIMEOUT_SEC = 90.0
# How long --recover waits for a running hook, which completes the swap, too.
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
        ValueError: the command line is wrong; the text says why.
    """
    # After "--", every word is a unit: names of units may begin with "-".
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
        raise ValueError(f"{unit!r} is not a valid service name")
    return Options(unit, *(word in options for word in _FLAGS))


def _recover(unit: str, notes: Notes, processes: list[Process]) -> None:
    swap = notes.read_swap()
    if swap is None:
        return
    from confext_helpers.swap import exchange  # Hardly ever needed here.

    if exchange.complete(notes, processes, swap):
        say(unit, messages.completed(unit))


class _Listener(Listener):
    """Logs, and asks for permission to swap, while the new `/etc` is prepared and put in place."""

    def __init__(self, unit: str, notes: Notes, progress: Progress, reload: Reload) -> None:
        self._unit = unit
        self._notes = notes
        self._progress = progress
        self._reload = reload

    def begin(self, step: Step) -> None:
        self._progress.begin(step)

    def keeps(self, processes: dict[int, str]) -> None:
        say(self._unit, messages.strangers(self._unit, processes))

    def warns(self, warnings: Sequence[str]) -> None:
        """Log the warnings, except those that were logged at the last reload."""
        said = self._notes.read_warnings()
        for warning in warnings:
            if warning not in said:
                say(self._unit, messages.section(self._unit, warning))
        if list(warnings) != said:
            # If the note cannot be written, the warning is repeated at the next reload; never refuse a reload for that.
            with contextlib.suppress(OSError):
                self._notes.write_warnings(warnings)

    def may_swap(self, manager: ServiceManager) -> None:
        self._reload.begin_swap(manager)

    def swapped(self) -> None:
        self._progress.swapped += 1

    def leaves(self, place: str) -> None:
        say(self._unit, messages.detach_point_kept(self._unit, place))

    def committed(self, manager: ServiceManager) -> None:
        self._progress.end()
        self._reload.swapped(manager, self._notes)


def _note_files(notes: Notes, files: Files, processes: list[Process]) -> None:
    """Note the files that decide whether the next reload has anything to do; see helpers/restack-if-changed.in.

    Args:
        files: what the `/etc` is made of, and GENERATED as it was before the manager was asked for the settings.
        processes: of the service.
    """
    for process in processes:
        files.add(f"/proc/{process.pid}")
    if not files.watchable or any(process.has_ended for process in processes):
        return
    with contextlib.suppress(OSError):
        notes.write_files(files.paths, files.digest())


def restack(manager: ServiceManager, notes: Notes, present: Present, progress: Progress, reload: Reload) -> bool:
    """Give a service the `/etc` that a restart would give it, unless the service has that already.

    Returns:
        Whether it is certain that nothing the `/etc` is made of changed meanwhile.

    Raises:
        ConfextError: it failed; the service has its old `/etc`, unless the error says otherwise.
        SupersededError: the service's reload does not wait for this run any more.
    """
    unit = present.unit
    if present.is_up_to_date:
        say(unit, messages.unchanged(unit))
        return True
    listener = _Listener(unit, notes, progress, reload)
    with prepare.prepare(manager, present, listener) as prepared:
        from confext_helpers.transaction import commit  # Needed only if something changed.

        settled = commit.commit(manager, prepared, notes, listener)
        found = prepared.found
    assert found is not None
    say(unit, messages.restacked(unit, found.layers, found.files, progress.usec))
    return settled


def _work(options: Options, notes: Notes, line: Line) -> int:
    """Do the hook's work, in the child; return 0, or _REFUSED if the reload was cancelled and the reason logged."""
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
            properties = ServiceProperties(manager.service_properties(unit))
            processes = find_processes(unit, properties)
            with held(processes):
                _recover(unit, notes, processes)
                if processes:
                    present = prepare.look(unit, properties, processes, notes.read_stack(), files)
                    if restack(manager, notes, present, progress, reload):
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
            # A manager that reexecutes itself (daemon-reexec) closes the connection: open another one.
            manager.disconnect()
            cancel(manager, notes, unit, unless_repeated=True)
            return _REFUSED
    return 0


def run(options: Options) -> int:
    """Do what the command line says; return 0, or 1 if the reload was refused and the reason logged.

    Raises:
        ConfextError: the manager cannot be reached.
        OSError: the notes cannot be read or written.
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
        # Do not wait for the lock: a hook that does not end may hold it.
        with Manager() as manager:
            if cancel(manager, notes, unit):
                say(unit, messages.cut_off(unit))
        return 0
    if options.recover:
        # If the lock stays taken, the hook that holds it completes the swap.
        if notes.try_lock(_RECOVER_WAIT_SEC):
            with notes, Manager() as manager:
                properties = ServiceProperties(manager.service_properties(unit))
                processes = find_processes(unit, properties)
                with held(processes):
                    _recover(unit, notes, processes)
        return 0
    notes.write_done(False)

    def done() -> None:
        # Even if the hook is killed from now on, the service's reload goes on: its files are in place.
        with contextlib.suppress(OSError):
            notes.write_done(True)

    ended = supervise(lambda line: _main(options, lambda: _work(options, notes, line)), done)
    status = ended.status
    if status is None:
        # The killed child does nothing more, but shares the lock until its storage answers.
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
    # UNIT.done also after a refusal: the second ExecReload= would cancel a reload that was requested meanwhile.
    notes.write_done(True)
    return 1 if status else 0


def _as_confext_error(error: Exception, unit: str) -> ConfextError:
    if isinstance(error, OSError):
        return ConfextError(f"failed to re-stack it: {error}", unit=unit)
    return (error if isinstance(error, ConfextError) else unexpected(error)).with_unit(unit)


def look_before_start(unit: str) -> int:
    """Before `unit` starts: return 0 if only root can write its layers; else log an error and return 1."""
    from confext_helpers.stage import writers

    try:
        with Manager() as manager:
            writers.check_before_start(unit, manager, MOUNT_TIMEOUT_SEC)
    except ConfextError as error:
        say(unit, messages.not_started(error.with_unit(unit)))
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
