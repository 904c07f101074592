# SPDX-License-Identifier: LGPL-2.1-or-later
"""The reload job of the service, which waits for the hook: look at it, cancel it, make up for it.

systemd propagates a reload to the hook's unit in three cases: systemd is about to reload the service; systemd is
already reloading it; or the service told systemd that it reloads by itself (RELOADING=1, sd_notify(3)). Only in the
first case, for which the hook exists, does the service read its files after the hook.

If a reload is requested while the hook runs, systemd merges both jobs and runs the hook again afterwards
(job_install() in systemd's job.c). A hook that finds this before its swap leaves the swap to the next run, which can
still refuse. If the request comes after that look, and the next run refuses, it cancels the job that was to reload the
service after the first swap, too: then the service is reloaded by another job.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from confext_helpers.errors import ConfextError
from confext_helpers.hook import messages
from confext_helpers.hook.deadline import Ended, Line
from confext_helpers.service.notes import Notes
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.system.bus import Job, Manager
from confext_helpers.system.journal import say
from confext_helpers.transaction.steps import Step

if TYPE_CHECKING:
    from confext_helpers.system.manager import ServiceManager

RESTACK_UNIT = "unit-confext-restack@{}.service"
REPORT_UNIT = "unit-confext-report@{}.service"

_DOING = {
    Step.PREPARE: "its layers and the host's /etc were still looked at",
    Step.STAGE: "systemd was still building it",
    Step.CHECKS: "its checks still ran",
    Step.COMPARE: "its files were still compared",
    Step.SWAP: "it was about to be put in place",
}


class SupersededError(Exception):
    """The service's reload does not wait for this run of the hook any more."""


class Reload:
    """The reload of a service that waits for the hook.

    Args:
        unit: the service.
        job: its reload job; None if the hook was started by hand.
        line: to the process that keeps the deadline.
    """

    def __init__(self, unit: str, job: Job | None, line: Line) -> None:
        self._unit = unit
        self._job = job
        self._line = line

    def begin_swap(self, manager: ServiceManager) -> None:
        """Wait until the swap may be made.

        Raises:
            SupersededError: no swap: the service would not be reloaded after it, or the hook will run again.
        """
        while self._job is not None:
            jobs, state = manager.list_jobs_and_state(self._unit)
            job, own = jobs.get(self._unit), jobs.get(RESTACK_UNIT.format(self._unit))
            if job is None or not job.holds_reload:
                raise SupersededError
            if own is not None and own.state == "waiting":
                # The reload was requested again: the next run swaps, or refuses.
                raise SupersededError
            if state != "reloading":
                break
            # The service is still reading its files, for an earlier reload: a swap now would mix old and new ones.
            self._line.doing("the service was still busy with a reload before this one")
            time.sleep(0.05)
        self._line.ask()

    def swapped(self, manager: ServiceManager, notes: Notes) -> None:
        """Make sure that the service is reloaded after a swap, and that the result of its reload is reported."""
        self._line.swapped()
        if self._job is None:
            return
        # Without space in /run, or without a manager, this fails. Ignore that: the swap is done.
        with contextlib.suppress(ConfextError, OSError):
            notes.write_owed(self._job.number)
            job = manager.list_jobs().get(self._unit)
            if job is None or (job.type.startswith("reload") and not job.holds_reload):
                # The job was cancelled at the last moment, or does not wait for the hook any more.
                manager.reload_alone(self._unit)
            if job is None or job.type.startswith("reload"):
                # The report unit waits for the service's own reload, which is next.
                manager.start_unit(REPORT_UNIT.format(self._unit))


def cancel(manager: ServiceManager, notes: Notes, unit: str, *, unless_repeated: bool = False) -> bool:
    """Cancel the reload of `unit` that waits for the hook; return whether one was cancelled.

    Args:
        notes: about the unit.
        unless_repeated: if the reload was requested again, leave it to the next run of the hook.
    """
    jobs = manager.list_jobs()
    job, own = jobs.get(unit), jobs.get(RESTACK_UNIT.format(unit))
    if job is None or not job.holds_reload:
        return False
    if unless_repeated and own is not None and own.state == "waiting":
        return False
    try:
        manager.cancel_job(job.number)
    except ConfextError:
        if manager.list_jobs().get(unit) == job:
            raise
        return False
    if notes.read_owed() == job.number:
        # The cancelled job was also to reload the service after the last run's swap.
        with contextlib.suppress(ConfextError):
            manager.reload_alone(unit)
    return True


def too_late(unit: str, step: Step, doing: str, path: str, seconds: float) -> ConfextError:
    """The error for a hook that missed its deadline.

    Args:
        unit: the service.
        step: the step that did not end.
        doing: what the hook was waiting for, if the step does not tell.
        path: the file that the hook was waiting for; empty if it is not known.
        seconds: the deadline.
    """
    problem = f"the new one was not there after {seconds:g} s, when {doing or _DOING[step]}"
    hint = "see whether its storage answers, or set a longer TimeoutSec= in [X-Confext], and reload again"
    if step is Step.CHECKS:
        hint = "mend the check, or set a longer TimeoutSec= in [X-Confext], and reload again"
    elif doing:
        hint = "reload again later"
    return ConfextError(problem, unit=unit, path=path, hint=hint)


def give_up(unit: str, notes: Notes, ended: Ended) -> None:
    """Cancel the reload of `unit` after the deadline, and log what did not end."""
    from confext_helpers.system import patience

    path = ended.path
    with contextlib.suppress(ConfextError), Manager(timeout_sec=5) as manager:
        for layer in ServiceProperties(manager.service_properties(unit)).layers:
            if patience.silent([layer], 1):
                path = layer
                break
    error = too_late(unit, ended.step, ended.doing, path, ended.seconds)
    with Manager() as manager:
        cancel(manager, notes, unit)
    with contextlib.suppress(TimeoutError):
        # The journal itself may not answer.
        patience.attempt(lambda: say(unit, messages.refused(error, ended.step)), 5)


def report(unit: str) -> None:
    """Log an error if the reload of `unit` that followed a swap failed."""
    from confext_helpers.transaction import confirm

    with Manager() as manager:
        result = confirm.reload_result(manager, unit)
    if result != "success":
        say(unit, messages.reload_failed(unit, result))
