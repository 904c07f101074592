# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check=: a service's own opinion of its future configuration decides whether it gets it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import images, services
from lab.machine import Machine

UNIT = "c.service"
IMAGE = "/var/lib/confexts/check.raw"
DROPIN = f"/etc/systemd/system/{UNIT}.d/50-check.conf"
UNCHANGED = f"{UNIT}: /etc is unchanged, "
MEND = "mend the configuration in the image and reload again"


@pytest.fixture
def unit(machine: Machine) -> Iterator[str]:
    """A running service with one layer."""
    services.prepare(machine)
    settings = (
        "User=daemon\nEnvironment=WHO=me\nWorkingDirectory=/srv\nProtectSystem=full\nLimitNOFILE=77\n"
        "RuntimeDirectory=c\nExecReload=/bin/kill -HUP $MAINPID\nInaccessiblePaths=-/etc/demo/secret"
    )
    machine.write(f"/etc/systemd/system/{UNIT}", services.fragment(settings, "--idle"))
    images.build(machine, IMAGE, images.pair("v1"))
    services.set_entries(machine, [UNIT], {"10-check.raw": IMAGE})
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", UNIT)
    services.main_pid(machine, UNIT)
    yield UNIT
    machine.systemctl("stop", UNIT)
    machine.run("rm", "-f", DROPIN)


def reload_with(machine: Machine, *lines: str) -> tuple[int, list[str]]:
    """Reload with a new image and these lines in [X-Confext]; return the exit status and what the hook said."""
    machine.write(DROPIN, "[X-Confext]\n" + "".join(f"{line}\n" for line in lines))
    machine.systemctl("daemon-reload")
    images.build(machine, IMAGE, images.pair("v2"))
    said = len(machine.journal("-u", UNIT, "-t", "unit-confext").splitlines())
    status = machine.systemctl("reload", UNIT, check=False).returncode
    return status, machine.journal("-u", UNIT, "-t", "unit-confext").splitlines()[said:]


def check_left_nothing(machine: Machine) -> None:
    """No unit of a check or a stage is there any more."""
    pattern = ("unit-confext-check-*", "unit-confext-stage-*")
    services.eventually(lambda: not machine.systemctl("list-units", "--all", "--no-legend", *pattern).stdout)


@pytest.mark.real
def test_check_sees_the_future(machine: Machine, unit: str) -> None:
    status, said = reload_with(machine, "Check=/bin/sh -c 'test $$(cat /etc/demo/a) = v2'", "Check=/usr/bin/true")
    assert (status, said) == (0, [f"{unit}: /etc re-stacked: check.raw replaced; 1 file added, 3 changed, 1 removed"])
    assert services.version(machine, unit) == "v2"
    check_left_nothing(machine)


@pytest.mark.real
def test_check_runs_as_the_service(machine: Machine, unit: str) -> None:
    facts = "echo $$(id -un) $$WHO $$PWD $$(ulimit -n) $$(cat /etc/demo/secret >/dev/null 2>&1 || echo hidden)"
    writes = "touch /run/c/x && echo kept; touch /etc/demo/y 2>/dev/null || echo read-only"
    reloads = machine.journal("-u", unit).count("reloaded v")
    status, said = reload_with(machine, f"Check=/bin/sh -c '{facts}; {writes}; exit 3'")
    assert status == 1
    assert len(said) == 1
    assert said[0].startswith(UNCHANGED + "the check '/bin/sh -c echo ")
    assert said[0].endswith(f"exited with status 3: daemon me /srv 77 hidden | kept | read-only; {MEND}")
    assert services.version(machine, unit) == "v1"
    assert machine.journal("-u", unit).count("reloaded v") == reloads
    check_left_nothing(machine)


@pytest.mark.real
def test_prefixes_mean_what_they_mean(machine: Machine, unit: str) -> None:
    status, said = reload_with(
        machine,
        "Check=-/usr/bin/false",
        "Check=+/bin/sh -c 'test $$(id -u) = 0'",
        "Check=@/bin/sh nobody -c 'test $$0 = nobody || exit 4'",
    )
    assert (status, said) == (0, [f"{unit}: /etc re-stacked: check.raw replaced; 1 file added, 3 changed, 1 removed"])


@pytest.mark.real
def test_first_failure_ends_it(machine: Machine, unit: str) -> None:
    lines = ("Check=/usr/bin/true", "Check=/bin/sh -c 'echo second; exit 7'", "Check=/usr/bin/touch /run/c/third")
    status, said = reload_with(machine, *lines)
    assert status == 1
    assert said == [f"{UNCHANGED}the check '/bin/sh -c echo second; exit 7' exited with status 7: second; {MEND}"]
    assert not machine.path("/run/c/third").exists()


@pytest.mark.real
def test_empty_assignment_resets(machine: Machine, unit: str) -> None:
    assert reload_with(machine, "Check=/usr/bin/false", "Check=")[0] == 0


@pytest.mark.real
def test_check_that_takes_too_long(machine: Machine, unit: str) -> None:
    status, said = reload_with(machine, "CheckTimeoutSec=1", "Check=/usr/bin/sleep 30")
    assert status == 1
    assert said == [f"{UNCHANGED}the check '/usr/bin/sleep 30' took too long, see CheckTimeoutSec=; {MEND}"]
    check_left_nothing(machine)


@pytest.mark.real
def test_check_that_forks_and_stays_is_killed(machine: Machine, unit: str) -> None:
    line = "Check=/bin/sh -c 'exec >/dev/null 2>&1; setsid sleep 3456 & exit 0'"
    assert reload_with(machine, line)[0] == 0
    services.eventually(lambda: machine.run("pgrep", "-f", "sleep 3456", check=False).returncode == 1)


@pytest.mark.real
def test_check_that_cannot_be_parsed_is_a_refusal(machine: Machine, unit: str) -> None:
    status, said = reload_with(machine, "Check=/usr/bin/true", "Check=/bin/sh -c 'open")
    assert status == 1
    assert said == [
        f"{UNCHANGED}Check= cannot be parsed: a quote is not closed ({DROPIN}:3:18); correct it and reload again"
    ]
    assert services.version(machine, unit) == "v1"


@pytest.mark.real
def test_unknown_settings_are_warned_about(machine: Machine, unit: str) -> None:
    status, said = reload_with(machine, "Chekc=/usr/bin/false")
    assert status == 0
    assert len(said) == 2
    assert f"{DROPIN}:2" in said[0]
    assert "Chekc" in said[0]
    # Once, until the settings are mended and broken again.
    assert [len(reload_with(machine, line)[1]) for line in ("Chekc=/usr/bin/false", "X-Mine=", "Chekc=1")] == [1, 1, 2]


@pytest.mark.real
def test_layers_that_change_while_they_are_checked(machine: Machine, unit: str) -> None:
    machine.run("cp", IMAGE, "/srv/other.raw")
    line = f"Check=+/bin/sh -c 'cp /srv/other.raw {IMAGE}.new && mv {IMAGE}.new {IMAGE}'"
    status, said = reload_with(machine, line)
    assert status == 1
    assert said == [f"{UNCHANGED}its layers changed while they were checked; reload again"]
    assert services.version(machine, unit) == "v1"
    check_left_nothing(machine)
