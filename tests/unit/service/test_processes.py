# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes are held for as long as they are needed, and no longer."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from confext_helpers.errors import ConfextError
from confext_helpers.service import processes
from confext_helpers.service.belonging import Belonging
from confext_helpers.service.processes import Process
from confext_helpers.service.properties import ServiceProperties
from unit.fakemanager import descriptors

PROPERTIES = ServiceProperties({"MainPID": ("u", 0), "ControlGroup": ("s", "/foo")})


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes in this one's mount namespace, which count as those of the service."""
    started = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]
    monkeypatch.setattr(processes, "_pids", lambda _: [child.pid for child in started])
    monkeypatch.setattr(processes, "_is_in", lambda group, pid: True)
    yield started
    for child in started:
        child.kill()
        child.wait()


def test_no_descriptor_is_left_of_what_is_not_used(children: list[Any]) -> None:
    before = descriptors()
    with pytest.raises(ConfextError, match="in the host's mount namespace"):
        processes.find_processes("foo.service", PROPERTIES)
    assert descriptors() == before


def test_processes_that_have_ended_are_none(children: list[Any]) -> None:
    children[0].kill()
    # It is not reaped, and still has a PID.
    os.waitid(os.P_PID, children[0].pid, os.WEXITED | os.WNOWAIT)
    for child in children[1:]:
        child.kill()
        child.wait()
    before = descriptors()
    assert processes.find_processes("foo.service", PROPERTIES) == []
    assert descriptors() == before


def test_process_that_cannot_be_looked_into_is_not_none(monkeypatch: pytest.MonkeyPatch, children: list[Any]) -> None:
    def gone(path: str) -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "readlink", gone)
    monkeypatch.setattr(processes, "_EXIT_TIMEOUT_SEC", 0)
    before = descriptors()
    with pytest.raises(ConfextError, match=f"its process {children[-1].pid} cannot be examined"):
        processes.find_processes("foo.service", PROPERTIES)
    assert descriptors() == before


class Numbered:
    """The module os, for which each process is in a mount namespace of its own."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fstat(self, fd: int) -> os.stat_result:
        return os.stat_result([0, next(self._numbers), *os.fstat(fd)[2:]])


@pytest.mark.parametrize("fails", [True, False])
def test_all_are_held_or_none(monkeypatch: pytest.MonkeyPatch, children: list[Any], fails: bool) -> None:
    """If something is wrong with the last one, the others are let go of as well."""

    def stranger(self: Belonging, pid: int, namespace: int) -> str:
        if fails and pid == children[-1].pid:
            raise PermissionError(1, "Operation not permitted")
        return ""

    monkeypatch.setattr(processes, "os", Numbered())
    monkeypatch.setattr(processes, "_is_its_own", lambda namespace: False)
    monkeypatch.setattr(processes, "_is_executor", lambda pid: False)
    monkeypatch.setattr(Belonging, "stranger", stranger)
    before = descriptors()
    if fails:
        with pytest.raises(PermissionError):
            processes.find_processes("foo.service", PROPERTIES)
    else:
        found = processes.find_processes("foo.service", PROPERTIES)
        gc.collect()
        with processes.held(found):
            assert [process.pid for process in found] == [child.pid for child in children]
            assert len(descriptors()) == len(before) + 2 * len(found)
            assert not any(process.has_ended for process in found)
    assert descriptors() == before


@pytest.mark.parametrize("fails", [True, False])
def test_all_that_is_held_is_let_go_of(fails: bool) -> None:
    before = descriptors()
    fds = [os.open("/", os.O_PATH) for _ in range(4)]
    both = [Process(1, fds[0], fds[1], "1:1"), Process(2, fds[2], fds[3], "2:2")]
    with contextlib.suppress(ValueError), processes.held(both):
        assert len(descriptors()) == len(before) + 4
        if fails:
            raise ValueError
    assert descriptors() == before


def test_control_group_of_a_process() -> None:
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        group = file.readline().rstrip("\n").split(":", 2)[2]
    assert processes._is_in(group.rstrip("/"), os.getpid())
    assert not processes._is_in("/no/such", os.getpid())


def test_executor_is_waited_for_once_for_all(monkeypatch: pytest.MonkeyPatch, children: list[Any]) -> None:
    monkeypatch.setattr(processes, "SETUP_TIMEOUT_SEC", 0.3)
    monkeypatch.setattr(processes, "_is_executor", lambda pid: True)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: 0.0)  # They have just begun.
    before = time.monotonic()
    with pytest.raises(ConfextError, match="in the host's mount namespace"):
        processes.find_processes("foo.service", PROPERTIES)
    assert 0.3 <= time.monotonic() - before < 0.6


def test_old_process_is_what_it_is_going_to_be(monkeypatch: pytest.MonkeyPatch, children: list[Any]) -> None:
    monkeypatch.setattr(processes, "_is_executor", lambda pid: True)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: 1e9)
    with pytest.raises(ConfextError, match="in the host's mount namespace"):
        processes.find_processes("foo.service", PROPERTIES)


def test_name_of_the_executor_is_no_proof(tmp_path: Path) -> None:
    program = tmp_path / "systemd-executor"
    shutil.copy("/bin/sleep", program)
    child = subprocess.Popen([program, "1000"])
    try:
        assert not processes._is_executor(child.pid)
    finally:
        child.kill()
        child.wait()
