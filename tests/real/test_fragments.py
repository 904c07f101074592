# SPDX-License-Identifier: LGPL-2.1-or-later
"""A `.confext.d/` leaves a unit what it was: the judge is what systemd has loaded before it was there and afterwards.

First the services that Debian's packages have written, then units that nobody in their right mind would.
"""

from __future__ import annotations

import graphlib
import random
import re
from dataclasses import dataclass

import pytest

from confext_generator.report import Complaint
from lab import loaded
from lab.loaded import Properties
from lab.machine import Machine

ETC = "/etc/systemd/system"
GENERATOR = "/usr/lib/systemd/system-generators/unit-confext-generator"
IMAGE = "a.raw"
DEVICES = [
    ["/dev/loop-control", "rw"], ["/dev/mapper/control", "rw"], ["block-loop", "rw"], ["block-blkext", "rw"],
    ["block-device-mapper", "rw"],
]  # fmt: skip
DUMMY = ("/usr/bin/true", ["/usr/bin/true"], ["ignore-failure"])

# Of units that start by themselves or are templates, some instances.
INSTANCES = [
    "getty@tty9.service", "user@4242.service", "modprobe@lab.service", r"systemd-backlight@x:y\x2dz.service",
    "ssh@lab.service",
]  # fmt: skip

# What an image changes nothing of.
SAME = (
    "Id", "Names", "LoadState", "FragmentPath", "Type", "ReloadSignal", "ExecStartEx", "ExecStopEx",
    "NotifyAccess", "Conflicts", "DevicePolicy", "PrivateDevices", "ProtectSystem",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Round:
    """All units of one machine before and after each was given an image, and what was said meanwhile."""

    before: dict[str, Properties]
    after: dict[str, Properties]
    new_messages: list[str]


def installed_services(machine: Machine) -> list[str]:
    """The services that have a unit file, without templates and what is masked."""
    listed = machine.systemctl("list-unit-files", "--type=service", "--no-legend", "--plain").stdout
    pairs = [line.split()[:2] for line in listed.splitlines()]
    return [unit for unit, state in pairs if "@." not in unit and state not in ("masked", "generated", "transient")]


def source_of(unit: str) -> str:
    """The `.confext.d/` for a unit: that of its template, for an instance."""
    prefix, at, _ = unit.partition("@")
    return f"{ETC}/{prefix}@.service.confext.d" if at else f"{ETC}/{unit}.confext.d"


def manager_messages(machine: Machine) -> list[str]:
    return machine.journal("_PID=1").splitlines()


@pytest.fixture(scope="module")
def packaged(machine: Machine) -> Round:
    """Give each service of the packages an image."""
    units = [*installed_services(machine), *INSTANCES]
    before = {unit: now for unit, now in loaded.properties(machine, units).items() if now["LoadState"] == "loaded"}
    # What systemd says about these units as they are, it says at every daemon-reload.
    machine.systemctl("daemon-reload")
    loaded.properties(machine, before)
    said = set(manager_messages(machine))
    ids = {now["Id"] for now in before.values()}
    for unit in ids:
        machine.write(f"{source_of(unit)}/{IMAGE}", "")
    machine.systemctl("daemon-reload")
    after = loaded.properties(machine, before)
    new = [line for line in manager_messages(machine) if line not in said]
    return Round(before, after, new + machine.run(GENERATOR, "--dry-run").stderr.splitlines())


def restack_of(unit: str) -> str:
    """The unit that has to be reloaded before `unit` is."""
    return f"unit-confext-restack@{unit}.service"


def gets_no_image(before: Properties) -> bool:
    """Whether a service restricts its devices, and would see all of the machine's that its image opens for it."""
    return bool(not before["PrivateDevices"] and (before["DevicePolicy"] != "auto" or before["DeviceAllow"]))


def problems(before: Properties, after: Properties) -> list[tuple[object, ...]]:
    """What is not as it should be with a unit whose `.confext.d/` has one image, IMAGE."""
    found: list[tuple[object, ...]] = [
        (name, before[name], after[name]) for name in SAME if _sorted(before[name]) != _sorted(after[name])
    ]
    reload_before = loaded.commands(before["ExecReloadEx"])
    reload_after = loaded.commands(after["ExecReloadEx"])
    # CanReload is systemd's own opinion: it is true for Type=notify-reload, for which nothing must be run.
    expected = reload_before if before["CanReload"] else [*reload_before, DUMMY]
    if reload_after != expected:
        found.append(("ExecReload", reload_before, reload_after))
    restack = restack_of(after["Id"])
    ties = ("After", "Wants", "Upholds", "PropagatesReloadTo")
    found += [(name, after[name]) for name in ties if restack not in after[name]]
    found += [(name, after[name]) for name in ("PrivateMounts", "CanReload") if not after[name]]
    restricted = before["PrivateDevices"] or before["DevicePolicy"] != "auto" or bool(before["DeviceAllow"])
    images = [entry[0] for entry in after["ExtensionImages"]]
    if images != ([] if gets_no_image(before) else [f"{source_of(after['Id'])}/{IMAGE}"]):
        found.append(("ExtensionImages", images))
    if after["SourcePath"] != (before["SourcePath"] or source_of(after["Id"])):
        found.append(("SourcePath", before["SourcePath"], after["SourcePath"]))
    devices = [*before["DeviceAllow"], *(DEVICES if restricted and images else [])]
    if {tuple(device) for device in after["DeviceAllow"]} != {tuple(device) for device in devices}:
        found.append(("DeviceAllow", before["DeviceAllow"], after["DeviceAllow"]))
    return found


def _sorted(value: object) -> object:
    return sorted(value, key=repr) if isinstance(value, list) else value


def all_problems(judged: Round) -> dict[str, list[tuple[object, ...]]]:
    found = {unit: problems(before, judged.after[unit]) for unit, before in judged.before.items()}
    return {unit: problem for unit, problem in found.items() if problem}


@pytest.mark.real
def test_packaged_services_are_what_they_were(packaged: Round) -> None:
    assert all_problems(packaged) == {}
    # It would hold for nothing at all as well.
    assert len(packaged.before) > 100
    reloadable = {unit for unit, now in packaged.before.items() if now["ExecReload"]}
    assert {"nginx.service", "ssh.service", "haproxy.service", "apache2.service", "named.service"} <= reloadable
    assert len(reloadable) < len(packaged.before)
    types = {now["Type"] for now in packaged.before.values()}
    assert types >= {"notify", "notify-reload", "forking", "oneshot", "dbus"}


@pytest.mark.real
def test_packaged_services_cause_no_message(packaged: Round) -> None:
    # A service that runs gets what re-stacks it at once.
    running = [now["Id"] for now in packaged.after.values() if now["ActiveState"] == "active"]
    assert running
    expected = [f"{verb} {restack_of(unit)} " for unit in running for verb in ("Starting", "Finished")]
    routine = ("Reload requested ", "Reloading", "Failed to send readiness ", "Created slice ")
    said = [line for line in packaged.new_messages if not line.startswith((*routine, *expected))]
    left_out = [now["Id"] for unit, now in packaged.before.items() if gets_no_image(now)]
    assert "chrony.service" in left_out
    restricted = Complaint("ignored", "devices-restricted", b"", b"").text
    about = {line.split(": ")[1] for line in said if f"/{IMAGE}: {restricted}" in line}
    assert about == set(left_out)
    assert len(said) == len(about)


@pytest.mark.real
def test_packaged_services_make_no_ordering_cycle(machine: Machine, packaged: Round) -> None:
    # The graph of what is loaded, targets and mounts as well, and of what nothing has loaded at the moment.
    edges = re.findall(r'^\s*"(.+)"->"(.+)" ', machine.run("systemd-analyze", "dot", "--order").stdout, re.MULTILINE)
    assert len(edges) > 100
    earlier: dict[str, set[str]] = {}
    for unit, other in edges:
        earlier.setdefault(unit, set()).add(other)
    for now in packaged.after.values():
        if any(
            path == "/etc/initrd-release" and not negated
            for _, _, negated, path, _ in [*now["Conditions"], *now["Asserts"]]
        ):
            continue  # An initrd has another order, which need not go together with the system's.
        earlier.setdefault(now["Id"], set()).update(now["After"])
        for later in now["Before"]:
            earlier.setdefault(later, set()).add(now["Id"])
    assert restack_of("nginx.service") in earlier["nginx.service"]
    graphlib.TopologicalSorter(earlier).prepare()


@pytest.mark.real
def test_template_and_instances(machine: Machine) -> None:
    machine.write(f"{ETC}/tmpl@.service", "[Service]\nExecStart=/usr/bin/true\nExecReload=/usr/bin/true %i\n")
    machine.write(f"{ETC}/tmpl@two.service.d/10-reload.conf", "[Service]\nExecReload=\nExecReload=/usr/bin/true own\n")
    machine.write(f"{ETC}/tmpl@three.service.d/10-reload.conf", "[Service]\nExecReload=\n")
    units = [f"tmpl@{name}.service" for name in ("one", "two", "three", "four")]
    before = loaded.properties(machine, units)
    template, own = f"{ETC}/tmpl@.service.confext.d", f"{ETC}/tmpl@four.service.confext.d"
    machine.write(f"{template}/{IMAGE}", "")
    machine.write(f"{template}/b.raw", "")
    machine.write(f"{own}/b.raw", "")
    machine.write(f"{own}/c.raw", "")
    machine.systemctl("daemon-reload")
    after = loaded.properties(machine, units)
    machine.path(f"{template}/b.raw").unlink()
    found = {unit: [entry[0] for entry in now["ExtensionImages"]] for unit, now in after.items()}
    assert found == {
        **{unit: [f"{template}/a.raw", f"{template}/b.raw"] for unit in units[:3]},
        units[3]: [f"{template}/a.raw", f"{own}/b.raw", f"{own}/c.raw"],
    }
    reloads = {unit: loaded.commands(now["ExecReloadEx"]) for unit, now in after.items()}
    assert reloads == {unit: loaded.commands(now["ExecReloadEx"]) or [DUMMY] for unit, now in before.items()}
    assert reloads[units[0]][0][1] == ["/usr/bin/true", "one"]
    assert reloads[units[2]] == [DUMMY]
    for unit in units:
        assert restack_of(unit) in after[unit]["PropagatesReloadTo"]


@pytest.mark.real
def test_alias(machine: Machine) -> None:
    machine.write(f"{ETC}/real-name.service", "[Service]\nExecStart=/usr/bin/true\nExecReload=/usr/bin/true %n\n")
    machine.path(f"{ETC}/other-name.service").symlink_to("real-name.service")
    machine.write(f"{ETC}/other-name.service.d/10-reload.conf", "[Service]\nExecReload=/usr/bin/true again\n")
    machine.systemctl("daemon-reload")
    before = loaded.properties(machine, ["other-name.service"])["other-name.service"]
    assert len(before["ExecReloadEx"]) == 2
    machine.write(f"{ETC}/real-name.service.confext.d/b.raw", "")
    machine.write(f"{ETC}/other-name.service.confext.d/{IMAGE}", "")
    machine.systemctl("daemon-reload")
    both = loaded.properties(machine, ["other-name.service", "real-name.service"])
    after = both["real-name.service"]
    assert after["Id"] == both["other-name.service"]["Id"] == "real-name.service"
    assert [entry[0] for entry in after["ExtensionImages"]] == [
        f"{ETC}/other-name.service.confext.d/{IMAGE}",
        f"{ETC}/real-name.service.confext.d/b.raw",
    ]
    assert loaded.commands(after["ExecReloadEx"]) == loaded.commands(before["ExecReloadEx"])
    assert [unit for unit in after["Upholds"] if "restack" in unit] == [restack_of("real-name.service")]


# Lines that mean something, lines that look as if they did, and lines that systemd throws away.
LINES = [
    "ExecReload=/bin/a{n}", "ExecReload=/bin/b{n} 'x y' \"q\" \\x20 %n", "ExecReload=",
    "ExecReload = /bin/c{n} ; /bin/d{n}", "[Service]", "[Unit]", "[Install]", "[X-Foo]", "[Nope]", "# comment",
    "; comment", "", "   ", "ExecReload=-/bin/e{n}", "ExecReload=rel/path", "ExecReload=-rel/path",
    "ExecReload=/bin/dir/", "ExecReload=/bin/f{n} 'unbalanced", "ExecReload=/bin/sh -c 'a;b'", "Type=notify-reload",
    "Type=simple", "Type=bogus", "PrivateDevices=yes", "PrivateDevices=no", "DevicePolicy=closed", "DevicePolicy=auto",
    "DeviceAllow=/dev/null r", "DeviceAllow=", "DeviceAllow=char-foo rwm", "DeviceAllow=/etc/x r",
    "DeviceAllow=/dev/null x", "ReloadSignal=USR1", "ReloadSignal=RTMIN+2", "ReloadSignal=bad", "SourcePath=/x",
    "SourcePath=", "SourcePath=rel", "noequals", "=novalue", "ExecStartPre=/bin/true", "ExecReload=;",
    "ExecReload=@/bin/g{n}", "ExecReload=@/bin/g{n} x", "ExecReload=!!/bin/h{n}", "ExecReload=|/bin/i{n}",
    'ExecReload="/bin/q q{n}"', "ExecReload=/bin/j{n} \\; x", "ExecReload=/bin/k{n} \\", "ExecReload=/bin/l{n} \\\\",
    "  cont", "cont \\", "ExecReload=/bin/é{n}", "[Service", "\u00a0ExecReload=/bin/nbsp",
    "\ufeffExecReload=/bin/bom{n}", "DefaultDependencies=no", "ExecReload=+-@:/bin/m{n} a0", "ExecReload=++/bin/n",
    "ExecReload=/bin/$X/{n}", "ExecReload=/bin/o{n};", "ExecReload=/bin/p{n} ;", "ExecReload=/bin/../q{n}",
    "ExecReload=r{n}",
]  # fmt: skip
ENDS = ["\n"] * 30 + ["\r\n", "\r", "\0", "\n\r", "\n\0", "\r\n\0"]
BREAKERS = [b"\xff", b"\x01", b"\\", b"\xef\xbf\xbe"]
UNIT_DIRECTORIES = [
    "/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/etc/systemd/system.control",
    "/usr/local/lib/systemd/system",
]  # fmt: skip
# All of those that systemd reads sort before the generator's, which they could undo otherwise.
FILE_NAMES = [f"{number}-x.conf" for number in range(0, 60, 3)] + ["9.conf", "A.conf", "xé.conf", ".h.conf", "x.txt"]


def odd_text(rnd: random.Random, lines: int) -> bytes:
    """A part of a unit file, as nobody would write it."""
    text = f"[Service]{rnd.choice(ENDS)}" if rnd.random() < 0.9 else ""
    for _ in range(lines):
        text += rnd.choice(LINES).replace("{n}", str(rnd.randrange(100))) + rnd.choice(ENDS)
    data = text.encode()
    if rnd.random() < 0.06:
        at = rnd.randrange(len(data) + 1)
        data = data[:at] + rnd.choice(BREAKERS) + data[at:]
    return data


def write_odd_units(machine: Machine, rnd: random.Random, count: int) -> list[str]:
    """Write units with up to a dozen drop-ins each, all over the unit directories; return their names."""
    units = []
    for number in range(count):
        kind = rnd.choice("ab")
        unit = f"odd-{kind}-{number}.service"
        units.append(unit)
        fragment = b"[Unit]\nDescription=x\n[Service]\nExecStart=/bin/true\n"
        machine.write(f"{ETC}/{unit}", fragment + (odd_text(rnd, rnd.randrange(6)) if rnd.random() < 0.6 else b""))
        for _ in range(rnd.choice((0, 1, 2, 3, 12))):
            path = f"{rnd.choice(UNIT_DIRECTORIES)}/{unit}.d/{rnd.choice(FILE_NAMES)}"
            if rnd.random() < 0.05 and not machine.path(path).exists():
                machine.path(path).parent.mkdir(parents=True, exist_ok=True)
                machine.path(path).symlink_to("/dev/null")
            elif not machine.path(path).is_symlink():
                machine.write(path, odd_text(rnd, rnd.randrange(8)))
        if number % 10 == 0:
            machine.path(f"{ETC}/oddalias{number}.service").symlink_to(unit)
            machine.write(f"{ETC}/oddalias{number}.service.d/30-x.conf", odd_text(rnd, 3))
    for shared in ("odd-.service", "odd-a-.service", "odd-b-.service"):
        for directory in rnd.sample(UNIT_DIRECTORIES, 2):
            text = f"[Service]\nExecReload=/bin/shared{rnd.randrange(10)}\n"
            machine.write(f"{directory}/{shared}.d/{rnd.choice(FILE_NAMES)}", text)
    return units


@pytest.mark.real
def test_units_with_a_dozen_odd_dropins(machine: Machine) -> None:
    units = write_odd_units(machine, random.Random(f"odd units of {machine.suite}"), 150)
    machine.systemctl("daemon-reload")
    before = {unit: now for unit, now in loaded.properties(machine, units).items() if now["LoadState"] == "loaded"}
    assert len(before) > len(units) / 2
    assert max(len(now["DropInPaths"]) for now in before.values()) >= 8
    for unit in before:
        machine.write(f"{source_of(unit)}/{IMAGE}", "")
    machine.systemctl("daemon-reload")
    assert all_problems(Round(before, loaded.properties(machine, before), [])) == {}
