"""Processes are held for as long as they are needed, and no longer."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from confext_helpers import processes
from confext_helpers.bus import Properties
from confext_helpers.errors import ConfextError

PROPERTIES: Properties = {"MainPID": ("u", 0), "ControlGroup": ("s", "/foo")}


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


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


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
    with pytest.raises(ConfextError, match=f"its process {children[-1].pid} cannot be looked into"):
        processes.find_processes("foo.service", PROPERTIES)
    assert descriptors() == before


def test_control_group_of_a_process() -> None:
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        group = file.readline().rstrip("\n").split(":", 2)[2]
    assert processes._is_in(group.rstrip("/"), os.getpid())
    assert not processes._is_in("/no/such", os.getpid())
