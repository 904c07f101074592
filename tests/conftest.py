# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of all tests: the booted machines with this build installed, and what is shown when a test fails."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from lab import machine as lab_machine
from lab import rootfs
from lab.machine import Machine
from lab.requirements import keep, need

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="module", params=list(rootfs.SUITES))
def bare_machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A booted system without unit-confext, for the facts about systemd itself. One for each suite and module."""
    need(lab_machine.missing_capability())
    with Machine(request.param, share=CHECKOUT, udev=True) as machine:
        yield machine


@pytest.fixture(scope="module", params=list(rootfs.SUITES))
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A booted system with this build installed. One for each suite and module; with udevd if the module has UDEV."""
    need(lab_machine.missing_capability())
    with Machine(request.param, share=CHECKOUT, udev=getattr(request.module, "UDEV", False)) as machine:
        install(machine)
        yield machine


def install(machine: Machine) -> None:
    """Install this checkout in `machine`, as a user would."""
    machine.run("make", "-s", "-C", "/run/host/share", "install")
    machine.systemctl("daemon-reload")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Say what has to be run by one process, where several share the tests."""
    from lab.together import Scheduling

    return Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Keep the promise for modules that are skipped as a whole."""
    report: pytest.CollectReport = yield
    keep(report)
    return report


# First of all wrappers, hence with the last word: pytest itself makes skips of expected failures here.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the promise, and the end of the journal of a machine whose test failed."""
    report: pytest.TestReport = yield
    keep(report)
    if report.when == "call" and report.failed and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            if isinstance(value, Machine):
                lines = value.run("journalctl", "-b", "--no-pager", "-q", "-n", "60", check=False).stdout
                report.sections.append((f"journal of {value.suite}", lines))
    return report
