# SPDX-License-Identifier: LGPL-2.1-or-later
"""The generator as a whole command, against generators of systemd's and podman's and against Python itself.

The units are copies of Debian's own, each with two drop-ins and a `.confext.d/` with four entries, one of each kind
that is an image: a file, a link to one elsewhere, a directory of versions, and a link to one.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.commands import Command, compare
from bench.results import Kind, Row, Series
from lab.machine import Machine

GENERATOR = "/usr/lib/systemd/system-generators/unit-confext-generator"
GETTY = "/usr/lib/systemd/system-generators/systemd-getty-generator"
QUADLET = "/usr/lib/systemd/system-generators/podman-system-generator"

UNITS = "/etc/systemd/system"
STORE = "/var/lib/bench"
CONTAINERS = "/etc/containers/systemd"

ROWS = ("generator-none", "generator-1", "generator-100", "generator-1000", "generator-1000-per-unit")

# As systemd does it: a generator finds its directories empty.
_OUTPUT = "rm -rf /run/bench-output; mkdir -p /run/bench-output/n /run/bench-output/e /run/bench-output/l"
_DIRECTORIES = tuple(f"/run/bench-output/{name}" for name in "nel")

_CONTAINER = """\
[Unit]
Description=Container {number}
After=network-online.target

[Container]
Image=localhost/image-{number}:latest
Exec=/usr/bin/server --port 8080
Environment=A=1 B=2
PublishPort=8080:8080
Volume=/srv/data-{number}:/data
ReadOnly=yes

[Service]
Restart=always

[Install]
WantedBy=multi-user.target
"""


def _program(path: str) -> Command:
    return Command(path.rpartition("/")[2], (path, *_DIRECTORIES), _OUTPUT)


def add_entries(unit: str) -> str:
    """Return a script that gives a unit its four entries."""
    directory = f"{UNITS}/{unit}.confext.d"
    return f"""
        mkdir -p {directory}/30-versions.raw.v
        : >{directory}/10-file.raw
        : >{directory}/30-versions.raw.v/30-versions_1.raw
        : >{directory}/30-versions.raw.v/30-versions_2.raw
        ln -sfn {STORE}/link.raw {directory}/20-link.raw
        ln -sfn {STORE}/links.raw.v {directory}/40-links.raw.v
    """


def make_units(machine: Machine, count: int) -> None:
    """Make `count` units of the kind that the module's docstring tells about, and nothing else in their place."""
    remove(machine)
    machine.sh(f"""
        mkdir -p {STORE}/links.raw.v {CONTAINERS}
        : >{STORE}/link.raw
        : >{STORE}/links.raw.v/links_1.raw
        set -- $(ls /usr/lib/systemd/system/*.service | grep -v @)
        number=0
        while [ $number -lt {count} ]; do
            for fragment; do
                [ $number -lt {count} ] || break
                [ ! -h "$fragment" ] && [ -s "$fragment" ] || continue
                ! grep -Eq "^(BusName|DeviceAllow|DevicePolicy)=" "$fragment" || continue
                unit=bench-$number.service
                cat "$fragment" >{UNITS}/$unit
                mkdir {UNITS}/$unit.d
                printf '[Service]\\nEnvironment=A=1\\nProtectSystem=full\\n' >{UNITS}/$unit.d/10-hardening.conf
                printf '[Unit]\\nAfter=network.target\\n\\n[Service]\\nRestartSec=5\\n' >{UNITS}/$unit.d/50-local.conf
                {add_entries("$unit")}
                number=$((number + 1))
            done
        done
    """)
    for number in range(count):
        machine.write(f"{CONTAINERS}/bench-{number}.container", _CONTAINER.format(number=number))


def remove(machine: Machine) -> None:
    """Take away what the functions above have made."""
    machine.sh(f"rm -rf {UNITS}/bench-*.service* {UNITS}/nginx.service.confext.d {CONTAINERS}/bench-* {STORE}")


def _check_output(machine: Machine, drop_ins: int) -> None:
    """Check that what was timed has done its work: by how many drop-ins it writes.

    Raises:
        AssertionError: it has not.
    """
    machine.sh(_OUTPUT)
    said = machine.run(GENERATOR, *_DIRECTORIES).stderr
    found = machine.sh("find /run/bench-output/n -name zz-unit-confext.conf | wc -l").strip()
    layers = machine.sh("cat /run/bench-output/n/*.d/zz-unit-confext.conf | grep -c ^ExtensionImages= || :").strip()
    assert (said, found, layers) == ("", str(drop_ins), str(4 * drop_ins))


def _check_quadlet(machine: Machine, services: int) -> None:
    machine.sh(_OUTPUT)
    machine.run(QUADLET, *_DIRECTORIES)
    found = machine.sh("find /run/bench-output/n -name 'bench-*.service' -type f | wc -l").strip()
    assert found == str(services), f"quadlet has made {found} services of {services} files"


def measure(machine: Machine, names: frozenset[str]) -> Iterator[Row]:
    """Yield the rows in `names`."""
    version = machine.version
    ours = _program(GENERATOR)
    if "generator-none" in names:
        assert machine.sh(_OUTPUT + f"; {GENERATOR} {' '.join(_DIRECTORIES)}; find /run/bench-output -type f") == ""
        measured, reference = compare(machine, ours, _program(GETTY), runs=20)
        yield Row("generator-none", "generator, no `.confext.d/`", version, Kind.TIME, measured, reference, 1.0)
    if "generator-1" in names:
        machine.sh(f"mkdir -p {STORE}/links.raw.v; : >{STORE}/link.raw; {add_entries('nginx.service')}")
        _check_output(machine, 1)
        python = Command("`python3 -I -S -c pass`", ("/usr/bin/python3", "-I", "-S", "-c", "pass"), _OUTPUT)
        measured, reference = compare(machine, ours, python, runs=20)
        yield Row("generator-1", "generator, a unit with 4 entries", version, Kind.TIME, measured, reference, 2.0)
        remove(machine)
    hundred: Series | None = None
    if "generator-100" in names or "generator-1000-per-unit" in names:
        measured, reference = _against_quadlet(machine, ours, 100)
        hundred = measured
        if "generator-100" in names:
            what = "generator, 100 units with 4 entries"
            yield Row("generator-100", what, version, Kind.TIME, measured, reference, 2.0)
    if "generator-1000" in names or "generator-1000-per-unit" in names:
        measured, reference = _against_quadlet(machine, ours, 1000)
        if "generator-1000" in names:
            what = "generator, 1,000 units with 4 entries"
            yield Row("generator-1000", what, version, Kind.TIME, measured, reference, 2.0)
        if "generator-1000-per-unit" in names:
            assert hundred is not None
            each = Series("of 1,000 units", tuple(value / 1000 for value in measured.values))
            of_hundred = Series("one of 100", tuple(value / 100 for value in hundred.values))
            what = "generator, one of 1,000 units"
            yield Row("generator-1000-per-unit", what, version, Kind.TIME, each, of_hundred, 1.2)
    remove(machine)


def _against_quadlet(machine: Machine, ours: Command, count: int) -> list[Series]:
    make_units(machine, count)
    _check_output(machine, count)
    _check_quadlet(machine, count)
    quadlet = Command(f"quadlet, {count:,} `.container` files", (QUADLET, *_DIRECTORIES), _OUTPUT)
    return compare(machine, ours, quadlet)
