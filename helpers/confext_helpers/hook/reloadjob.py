# SPDX-License-Identifier: LGPL-2.1-or-later
"""The service's reload, which waits for the hook, and what systemd is told about it.

systemd passes a reload on to the hook's unit in more cases than one: it is about to reload the service, which is the
one that the hook is for; it does so already; or the service has told systemd that it reloads by itself (RELOADING=1,
sd_notify(3)). Only in the first does the service read its files after the hook.

If a reload is asked for while the hook runs, systemd makes one job of both, and runs the hook once more after this time
(job_install() of systemd's job.c). What has not been swapped by then is left to that run, so that it can still refuse.
If the request comes in the few milliseconds between the two, a refusal cancels the reload of what was swapped as well,
and the service is told to reload by itself.
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
        job: the one that is to reload it; None if the hook was started by hand.
        line: to the process that keeps the deadline.
    """

    def __init__(self, unit: str, job: Job | None, line: Line) -> None:
        self._unit = unit
        self._job = job
        self._line = line

    def begin_swap(self, manager: ServiceManager) -> None:
        """Return when the swap may be made.

        Raises:
            SupersededError: it must not: the service would not be reloaded after it, or another run comes first.
        """
        while self._job is not None:
            jobs, state = manager.list_jobs_and_state(self._unit)
            job, own = jobs.get(self._unit), jobs.get(RESTACK_UNIT.format(self._unit))
            if job is None or not job.holds_reload:
                raise SupersededError
            if own is not None and own.state == "waiting":
                # It was asked for once more, and may yet be refused then.
                raise SupersededError
            if state != "reloading":
                break
            # It reads its files, by a reload of its own or by the one before this. All of them are to be the old ones.
            self._line.doing("the service was still busy with a reload before this one")
            time.sleep(0.05)
        self._line.ask()

    def swapped(self, manager: ServiceManager, notes: Notes) -> None:
        """See to it that the service is reloaded after a swap, and that somebody looks at what comes of it."""
        self._line.swapped()
        if self._job is None:
            return
        # Neither this nor the report can be had without space in /run, or a manager. The swap has been made.
        with contextlib.suppress(ConfextError, OSError):
            notes.write_owed(self._job.number)
            job = manager.list_jobs().get(self._unit)
            if job is None or (job.type.startswith("reload") and not job.holds_reload):
                # Cancelled in the last moment, or not waited for.
                manager.reload_alone(self._unit)
            if job is None or job.type.startswith("reload"):
                # It waits for the service's own reload, which comes next.
                manager.start_unit(REPORT_UNIT.format(self._unit))


def cancel(manager: ServiceManager, notes: Notes, unit: str, *, unless_repeated: bool = False) -> bool:
    """Cancel the reload of `unit` that waits for the hook, if there is one; return whether there was.

    Args:
        manager: who is asked.
        notes: about the unit.
        unit: the service.
        unless_repeated: leave it to the next run of the hook if it was asked for once more.
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
        # It was waiting for what the last run has swapped as well.
        with contextlib.suppress(ConfextError):
            manager.reload_alone(unit)
    return True


def too_late(unit: str, step: Step, doing: str, path: str, seconds: float) -> ConfextError:
    """What is wrong if the hook's deadline is over.

    Args:
        unit: the service.
        step: what was being done.
        doing: the same in words, if there is more to say.
        path: what it was waiting for, if that is known.
        seconds: how long it took.
    """
    problem = f"the new one was not there after {seconds:g} s, when {doing or _DOING[step]}"
    hint = "see whether its storage answers, or set a longer TimeoutSec= in [X-Confext], and reload again"
    if step is Step.CHECKS:
        hint = "mend the check, or set a longer TimeoutSec= in [X-Confext], and reload again"
    elif doing:
        hint = "reload again later"
    return ConfextError(problem, unit=unit, path=path, hint=hint)


def give_up(unit: str, notes: Notes, ended: Ended) -> None:
    """Refuse the reload of `unit`, since the deadline is over, and say what did not end."""
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
        # The journal may be what does not answer.
        patience.attempt(lambda: say(unit, messages.refused(error, ended.step)), 5)


def report(unit: str) -> None:
    """Say so if the reload of `unit` that came after a swap failed."""
    from confext_helpers.transaction import confirm

    with Manager() as manager:
        result = confirm.reload_result(manager, unit)
    if result != "success":
        say(unit, messages.reload_failed(unit, result))
