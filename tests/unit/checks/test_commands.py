# SPDX-License-Identifier: LGPL-2.1-or-later
"""Running Check= commands, with a manager that ends them as it likes, and every call of which fails once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from confext_helpers.checks import run as checks
from confext_helpers.checks.commandline import Command
from confext_helpers.checks.section import CheckSettings
from confext_helpers.errors import ConfextError
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.system.bus import Properties, Value
from unit.fakemanager import FakeManager, descriptors

UNIT = "a.service"
SERVICE = ServiceProperties({"MainPID": ("u", 0), "ControlGroup": ("s", "")})


def settings(*commands: str) -> CheckSettings:
    made = tuple(Command(word.split()[0], tuple(word.split()), ()) for word in commands)
    return CheckSettings(commands=made, timeout_usec=30_000_000, warnings=())


def manager(output: str = "", result: str = "done", ended: Properties | None = None) -> FakeManager:
    """One whose check prints `output`, and ends with that result."""
    found = FakeManager()

    def start(properties: dict[str, Value]) -> None:
        fd = properties["StandardOutputFileDescriptor"][1]
        assert isinstance(fd, int)
        os.write(fd, output.encode())
        (unit,) = found.started
        found.results[unit] = result
        found.service[unit] = ended or {}

    found.on_start = start
    return found


def command(code: int, status: int, *flags: str) -> tuple[object, ...]:
    return "/bin/x", ["x"], list(flags), 0, 0, 0, 0, 1, code, status


def ended(result: str, *commands: tuple[object, ...]) -> Properties:
    return {"Result": ("s", result), "ExecStartEx": ("a(sasasttttuii)", [*commands])}


def test_no_command_is_no_unit() -> None:
    asked = manager()
    checks.run(asked, UNIT, SERVICE, settings())
    assert asked.asked == []


def test_what_passes_leaves_nothing() -> None:
    asked, before = manager("fine\n"), descriptors()
    checks.run(asked, UNIT, SERVICE, settings("/bin/x a b"))
    assert descriptors() == before
    ((name, made),) = asked.started.items()
    assert name.startswith(checks.NAME_PREFIX)
    assert made["ExecStartEx"][1] == [("/bin/x", ["/bin/x", "a", "b"], [])]
    assert made["TimeoutStartUSec"] == ("t", 30_000_000)
    assert asked.orders == [("start_transient", name)]


@pytest.mark.parametrize(
    ("said", "end", "problem", "check"),
    [
        ("", ended("exit-code", command(1, 3)), "the check '/bin/x 1' exited with status 3", "/bin/x 1"),
        ("a\nb\n\nc\nd\n", ended("exit-code", command(1, 1)), "exited with status 1: b | c | d", "/bin/x 1"),
        ("a\x1b[31m\n", ended("exit-code", command(1, 1)), "exited with status 1: a [31m", "/bin/x 1"),
        ("", ended("signal", command(2, 9)), "was killed by signal 9", "/bin/x 1"),
        ("", ended("exit-code", command(1, 1, "ignore-failure"), command(1, 4)), "2' exited with status 4", "/bin/x 2"),
        ("", ended("exit-code", command(1, 0), command(1, 5)), "'/bin/x 2' exited with status 5", "/bin/x 2"),
        ("", ended("timeout", command(1, 0), command(2, 15)), "2' took too long, see CheckTimeoutSec=", "/bin/x 2"),
        ("", ended("resources", command(0, 0)), "'/bin/x 1' could not be run (resources)", "/bin/x 1"),
    ],
)  # fmt: skip
def test_what_fails_is_said(said: str, end: Properties, problem: str, check: str) -> None:
    commands = settings(*(f"/bin/x {n + 1}" for n in range(len(end["ExecStartEx"][1]))))  # type: ignore[arg-type]
    asked, before = manager(said, "failed", end), descriptors()
    with pytest.raises(ConfextError) as caught:
        checks.run(asked, UNIT, SERVICE, commands)
    assert problem in caught.value.problem
    assert caught.value.check == check
    assert caught.value.hint == "mend the configuration in the image and reload again"
    assert descriptors() == before
    # The manager forgets the unit.
    (name,) = asked.started
    assert asked.orders[-1] == ("reset_failed", name)


def test_output_without_an_end_is_cut() -> None:
    assert checks.OUTPUT_MAX == 64 * 1024
    asked = manager("x" * 5000 + "\nlast\n", "failed", ended("exit-code", command(1, 1)))
    with pytest.raises(ConfextError, match=r"\| last$|: x+ \| last"):
        checks.run(asked, UNIT, SERVICE, settings("/bin/x"))


@pytest.mark.parametrize(
    "method", ["service_properties", "unit_properties", "start_transient", "job_result", "reset_failed"]
)
def test_each_call_fails_once(method: str) -> None:
    asked, before = manager("", "failed", ended("exit-code", command(1, 1))), descriptors()
    asked.errors[method] = ConfextError("the manager says no")
    with pytest.raises(ConfextError, match="says no"):
        checks.run(asked, UNIT, SERVICE, settings("/bin/x"))
    assert method == asked.asked[-1]
    assert descriptors() == before


@pytest.mark.parametrize("text", ["[Service]\nExecStart=x\n", "# X-Confext\n[Service]\n", ""])
def test_no_section_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.service"
    path.write_text(text)
    asked = manager()
    asked.files = [str(path), str(tmp_path / "gone.conf")]
    found = checks.read(asked, UNIT)
    assert found is None or (found.commands, found.warnings) == ((), ())
    assert checks.hook_timeout_usec(asked, UNIT) is None


def test_hook_timeout(tmp_path: Path) -> None:
    path = tmp_path / "a.service"
    path.write_text("[X-Confext]\nTimeoutSec=7\n")
    asked = manager()
    asked.files = [str(path)]
    assert checks.hook_timeout_usec(asked, UNIT) == 7_000_000
