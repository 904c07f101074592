# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a reload costs: with one layer changed, with none, with many layers, and for many services at once.

The services do nothing but wait for signals (lab/reader.py), so that the time is that of the reload. Where the
reference is the service "without ours", it has the same layers by a drop-in of its own. Before each run the image is
replaced by one with other files in it, in one rename; at the end it is looked at what the service sees, since a reload
that does nothing is quick.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.commands import Command, compare
from bench.results import Kind, Row, Series
from lab import images, services
from lab.images import STORE
from lab.machine import Machine

ROWS = ("reload-nothing", "layers-8", "layers-32", "many-50")
# These need a machine whose root is no overlay: systemd's own refresh hangs where it is one.
COPY_ROWS = ("reload-versions",)

KEPT = "/srv/bench"
# systemd does not start a service that was started too often.
_NO_LIMIT = "[Unit]\nStartLimitIntervalSec=0\n[Service]"
# Type=exec: a restart ends when all is mounted, not before.
SERVICE = f"Type=exec\nExecReload=/bin/kill -HUP $MAINPID\nProtectSystem=full\n{_NO_LIMIT}"
LAYERS = (1, 8, 32)
MANY = 50


def build_pair(machine: Machine, name: str, target: str = "") -> None:
    """Build two images that differ in their files for replace() to choose from, and put the first one at `target`."""
    for version in ("v1", "v2"):
        images.build(machine, f"{KEPT}/{version}/{name}.raw", images.pair(version))
    machine.sh(f"cp {KEPT}/v1/{name}.raw {target or f'{STORE}/{name}.raw'}; echo v1 >{KEPT}/{name}.version")


def replace(name: str, target: str = "") -> str:
    """Return a script that puts the other one of two images at `target`."""
    target = target or f"{STORE}/{name}.raw"
    return f"""
        read -r version <{KEPT}/{name}.version
        case $version in v1) version=v2 ;; *) version=v1 ;; esac
        cp {KEPT}/$version/{name}.raw {target}.new
        mv {target}.new {target}
        echo $version >{KEPT}/{name}.version
    """


def check_version(machine: Machine, unit: str, name: str) -> None:
    """Check that a service sees the image that was put in place last.

    Raises:
        AssertionError: it does not.
    """
    wanted = machine.path(f"{KEPT}/{name}.version").read_text().strip()
    assert services.version(machine, unit) == wanted, f"{unit} does not see the last image of {name}"


def define(machine: Machine, unit: str, layers: list[str], *, ours: bool, text: str = "") -> None:
    """Write and start a service with `layers`, which it has from its `.confext.d/`, or by hand."""
    text = text or services.fragment(SERVICE, "--idle")
    if ours:
        entries = {layer.rpartition("/")[2]: layer for layer in layers}
        services.set_entries(machine, [unit], entries)
    else:
        text += "".join(f"ExtensionImages=-{layer}\n" for layer in layers)
    machine.write(f"/etc/systemd/system/{unit}", text)
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", unit)
    services.main_pid(machine, unit)


def remove(machine: Machine, *units: str) -> None:
    """Stop services and take them away."""
    machine.systemctl("stop", *units)
    machine.sh(f"cd /etc/systemd/system; rm -rf {' '.join(f'{unit} {unit}.confext.d' for unit in units)}")
    machine.systemctl("daemon-reload")


def _reload(unit: str, name: str, prepare: str = "") -> Command:
    return Command(name, ("systemctl", "reload", unit), prepare)


def measure(machine: Machine, names: frozenset[str]) -> Iterator[Row]:
    """Yield the rows in `names`."""
    services.prepare(machine)
    machine.sh(f"mkdir -p {KEPT}")
    if "reload-nothing" in names:
        yield _nothing(machine)
    if names & {"layers-8", "layers-32"}:
        yield from _layers(machine, names)
    if "many-50" in names:
        yield _many(machine)


def measure_copy(machine: Machine, names: frozenset[str]) -> Iterator[Row]:
    """Yield the row about a layer in a `.v/` directory, against systemd's own refresh of the same."""
    if "reload-versions" not in names or machine.version < 260:
        return
    services.prepare(machine)
    commands = []
    for side in ("ours", "native"):
        directory = f"{STORE}/{side}.raw.v"
        for number in (1, 2):
            image = f"{directory}/{side}_{number}.raw"
            images.build(machine, image, images.pair(f"v{number}"), name=f"{side}_{number}")
        define(machine, f"bench-{side}.service", [directory], ours=side == "ours")
        # The newest one goes and comes.
        newest, kept = f"{directory}/{side}_2.raw", f"{directory}/.kept"
        toggle = f"if [ -e {newest} ]; then mv {newest} {kept}; else mv {kept} {newest}; fi"
        text = "systemctl reload" if side == "ours" else "native refresh, without ours"
        commands.append(_reload(f"bench-{side}.service", text, toggle))
    measured, reference = compare(machine, *commands)
    for side in ("ours", "native"):
        wanted = "v2" if machine.path(f"{STORE}/{side}.raw.v/{side}_2.raw").exists() else "v1"
        assert services.version(machine, f"bench-{side}.service") == wanted
    remove(machine, "bench-ours.service", "bench-native.service")
    what = "reload, a new version in `.v/`"
    yield Row("reload-versions", what, machine.version, Kind.TIME, measured, reference, 1.0)


def _nothing(machine: Machine) -> Row:
    """A reload without a change, against that of the same service without ours."""
    build_pair(machine, "same")
    image = f"{STORE}/same.raw"
    # An image that is as young as the last swap may have changed after it, see service/fingerprint.py.
    machine.sh(f"touch -d yesterday {image}")
    services.eventually(lambda: machine.path(image).stat().st_ctime + 0.1 < float(machine.sh("date +%s.%N")))
    unit = "bench-same.service"
    define(machine, unit, [image], ours=True)
    define(machine, "bench-plain.service", [image], ours=False)
    machine.systemctl("reload", unit)
    measured, reference = compare(
        machine, _reload(unit, "systemctl reload"), _reload("bench-plain.service", "the same service without ours")
    )
    assert len(services.said_by_guard(machine, unit)) >= len(measured.values)
    remove(machine, unit, "bench-plain.service")
    return Row("reload-nothing", "reload, nothing changed", machine.version, Kind.TIME, measured, reference, 1.3)


def _layers(machine: Machine, names: frozenset[str]) -> Iterator[Row]:
    """One of 1, 8 and 32 layers changes; how a restart of the same services grows is told in the note."""
    for number in range(max(LAYERS)):
        name = f"layer-{number:02}"
        images.build(machine, f"{STORE}/{name}.raw", {f"layers/{number}": "x"})
    commands, restarts = [], []
    for count in LAYERS:
        # The layer that changes is the topmost one.
        name, unit = f"top-{count}", f"bench-layers-{count}.service"
        build_pair(machine, name)
        layers = [f"{STORE}/layer-{number:02}.raw" for number in range(count - 1)]
        define(machine, unit, [*layers, f"{STORE}/{name}.raw"], ours=True)
        commands.append(_reload(unit, f"with {count}", replace(name)))
        restarts.append(Command("restart", ("systemctl", "restart", unit), replace(name)))
    reloaded = compare(machine, *commands)
    for count in LAYERS:
        check_version(machine, f"bench-layers-{count}.service", f"top-{count}")
    restarted = compare(machine, *restarts)
    remove(machine, *(f"bench-layers-{count}.service" for count in LAYERS))
    for position, count in enumerate(LAYERS):
        if f"layers-{count}" in names:
            growth = restarted[position].median / restarted[0].median
            note = f"a restart grows by {growth:.2f}"
            what = f"reload with {count} layers, one changed"
            row = (f"layers-{count}", what, machine.version, Kind.TIME, reloaded[position], reloaded[0])
            yield Row(*row, goal=float(count), note=note)


def _many(machine: Machine) -> Row:
    """Many services with the same layer, reloaded by one command and by one command each."""
    build_pair(machine, "many")
    units = [f"bench-many-{number}.service" for number in range(MANY)]
    services.set_entries(machine, units, {"many.raw": f"{STORE}/many.raw"})
    for unit in units:
        machine.write(f"/etc/systemd/system/{unit}", "[Service]\nExecStart=/usr/bin/sleep infinity\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", *units)

    def check() -> None:
        wanted = machine.path(f"{KEPT}/many.version").read_text()
        for unit in units:
            pid = machine.show(unit, "MainPID")
            assert machine.path(f"/proc/{pid}/root/etc/demo/a").read_text() == wanted, unit

    one_by_one = 'for unit; do systemctl reload "$unit" || exit; done'
    commands = (
        Command(f"{MANY} services at once", ("systemctl", "reload", *units), replace("many")),
        Command("one after the other", ("sh", "-c", one_by_one, "sh", *units), replace("many")),
    )
    measured, reference = compare(machine, *commands, turns=20, runs=1, warmup=0)
    check()
    remove(machine, *units)
    return Row(
        "many-50", f"reload of {MANY} services, a layer changed", machine.version, Kind.TIME,
        Series(measured.command, measured.values), reference, 0.5,
    )  # fmt: skip
