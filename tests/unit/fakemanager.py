# SPDX-License-Identifier: LGPL-2.1-or-later
"""A service manager that remembers what it was asked and told, and fails once where it is told to."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from confext_helpers.system.bus import Job, Properties, Value

if TYPE_CHECKING:
    from confext_helpers.system.manager import ServiceManager


class FakeManager:
    """A manager of one service.

    Attributes:
        asked: the methods that were called, in order.
        orders: those that change something, with what they are about.
        errors: what a method raises, by its name.
        service: the properties of services, by unit; of others those of "".
        unit: those that every unit has.
        files: what unit_files() returns.
        jobs: what list_jobs() returns.
        state: the ActiveState of every unit.
        results: what comes of jobs, by unit.
        started: the properties of transient units, by unit.
        on_start: called when a transient unit is started.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.orders: list[tuple[str, object]] = []
        self.errors: dict[str, BaseException] = {}
        self.service: dict[str, Properties] = {"": {}}
        self.unit: Properties = {}
        self.files: list[str] = []
        self.jobs: dict[str, Job] = {}
        self.state = "active"
        self.results: dict[str, str] = {}
        self.started: dict[str, dict[str, Value]] = {}
        self.on_start: Callable[[dict[str, Value]], None] = lambda properties: None

    def _ask(self, name: str) -> None:
        self.asked.append(name)
        if name in self.errors:
            raise self.errors[name]

    def _order(self, name: str, about: object) -> None:
        self._ask(name)
        self.orders.append((name, about))

    def disconnect(self) -> None:
        self._ask("disconnect")

    def version(self) -> int:
        self._ask("version")
        return 257

    def unit_properties(self, unit: str) -> Properties:
        self._ask("unit_properties")
        return self.unit

    def service_properties(self, unit: str) -> Properties:
        self._ask("service_properties")
        return self.service.get(unit, self.service[""])

    def constant_properties(self, unit: str) -> set[str]:
        self._ask("constant_properties")
        return set()

    def unit_files(self, unit: str) -> list[str]:
        self._ask("unit_files")
        return self.files

    def main_pid(self, unit: str) -> int:
        self._ask("main_pid")
        return 0

    def main_pids(self) -> dict[str, int]:
        self._ask("main_pids")
        return {}

    def invocation_id(self, unit: str) -> str:
        self._ask("invocation_id")
        return "0" * 32

    def ordered_after(self, unit: str) -> list[str]:
        self._ask("ordered_after")
        return []

    def list_jobs(self) -> dict[str, Job]:
        self._ask("list_jobs")
        return dict(self.jobs)

    def list_jobs_and_state(self, unit: str) -> tuple[dict[str, Job], str]:
        self._ask("list_jobs_and_state")
        return dict(self.jobs), self.state

    def units_with_jobs(self) -> set[str]:
        self._ask("units_with_jobs")
        return set(self.jobs)

    def job_result(self, job: str) -> str:
        self._ask("job_result")
        return self.results.get(job, "done")

    def start_transient(self, unit: str, properties: list[tuple[str, Value]], *, watch: bool = False) -> str:
        self._order("start_transient", unit)
        self.started[unit] = dict(properties)
        self.on_start(self.started[unit])
        return unit

    def takes(self, unit: str, name: str, value: Value) -> bool:
        self._ask("takes")
        return False

    def start_unit(self, unit: str) -> None:
        self._order("start_unit", unit)

    def reload_alone(self, unit: str) -> None:
        self._order("reload_alone", unit)

    def cancel_job(self, number: int) -> None:
        self._order("cancel_job", number)
        self.jobs = {unit: job for unit, job in self.jobs.items() if job.number != number}

    def reset_failed(self, unit: str) -> None:
        self._order("reset_failed", unit)


def descriptors() -> list[str]:
    """What this process has open."""
    return sorted(os.listdir("/proc/self/fd"))


if TYPE_CHECKING:
    from confext_helpers.system.bus import Manager

    # The type checker says whether both are what is asked for.
    _REAL: type[ServiceManager] = Manager
    _FAKE: type[ServiceManager] = FakeManager
