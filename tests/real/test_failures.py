# SPDX-License-Identifier: LGPL-2.1-or-later
"""Failing closed: whatever goes wrong, the service runs on with its old `/etc`, and the next good reload works."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from lab import images, services
from lab.images import Format
from lab.machine import Machine

UNIT = "f.service"
IMAGE = "/var/lib/confexts/fail.raw"
HOOK = "/usr/lib/unit-confext/restack"
SECOND = "/usr/lib/unit-confext/cancel-unless-done"


@pytest.fixture
def unit(machine: Machine) -> Iterator[str]:
    """A running service with one layer, as it should be after every test as well: see refused()."""
    services.prepare(machine)
    machine.write(f"/etc/systemd/system/{UNIT}", services.fragment("InaccessiblePaths=-/etc/demo/secret"))
    images.build(machine, IMAGE, images.pair("v1"))
    services.set_entries(machine, [UNIT], {"10-fail.raw": IMAGE})
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", UNIT)
    services.main_pid(machine, UNIT)
    services.eventually(lambda: services.leftovers(machine) == [])
    yield UNIT
    machine.systemctl("stop", UNIT)


def errors(machine: Machine, unit: str) -> list[str]:
    """What the hook has said about the unit, as a warning or worse."""
    return machine.journal("-u", unit, "-t", "unit-confext", "-p", "warning").splitlines()


@contextlib.contextmanager
def refused(machine: Machine, unit: str) -> Iterator[list[str]]:
    """Everything that is true of a reload that fails inside this block, whatever the reason; yields its messages."""
    before = services.view(machine, unit)
    pid, mounts = services.main_pid(machine, unit), services.mounts_total(machine, unit)
    said = len(errors(machine, unit))
    messages: list[str] = []
    services.counts(machine, unit)
    yield messages
    done = machine.systemctl("reload", unit, check=False)
    messages += errors(machine, unit)[said:]
    assert done.returncode == 1
    assert f"Job for {unit} canceled." in done.stderr
    assert machine.show(unit, "ActiveState") == "active"
    services.eventually(lambda: services.leftovers(machine) == [])
    assert services.view(machine, unit) == before
    assert services.main_pid(machine, unit) == pid
    assert services.mounts_total(machine, unit) == mounts
    assert set(services.counts(machine, unit)) == {"v1"}


def next_reload_works(machine: Machine, unit: str) -> None:
    """The reload after the one that failed."""
    images.build(machine, IMAGE, images.pair("v2"))
    machine.systemctl("daemon-reload")
    machine.systemctl("reload", unit)
    reloaded = services.view(machine, unit)
    assert "/demo/only-v2" in reloaded.files
    services.eventually(lambda: services.leftovers(machine) == [])
    services.eventually(lambda: services.loop_devices(machine, IMAGE) == 1)
    machine.systemctl("restart", unit)
    assert services.view(machine, unit) == reloaded


def corrupt(machine: Machine) -> None:
    machine.sh(f"head -c 8192 /dev/urandom >{IMAGE}.new && mv {IMAGE}.new {IMAGE}")


def truncated(machine: Machine) -> None:
    images.build(machine, IMAGE, images.pair("v2") | {"demo/large": "x" * 100000})
    machine.sh(f"head -c 5000 {IMAGE} >{IMAGE}.new && mv {IMAGE}.new {IMAGE}")


def truncated_gpt(machine: Machine) -> None:
    images.build(machine, IMAGE, images.pair("v2"), Format.GPT)
    machine.sh(f"head -c 400000 {IMAGE} >{IMAGE}.new && mv {IMAGE}.new {IMAGE}")


def empty(machine: Machine) -> None:
    machine.sh(f": >{IMAGE}.new && mv {IMAGE}.new {IMAGE}")


def wrong_name(machine: Machine) -> None:
    images.build(machine, IMAGE, images.pair("v2"), name="another")


def wrong_system(machine: Machine) -> None:
    images.build(machine, IMAGE, images.pair("v2"), release="ID=other\nVERSION_ID=1\n")


@pytest.mark.real
@pytest.mark.parametrize("break_image", [corrupt, truncated, truncated_gpt, empty, wrong_name, wrong_system])
def test_image_that_cannot_be_used(machine: Machine, unit: str, break_image: Callable[[Machine], None]) -> None:
    with refused(machine, unit) as messages:
        break_image(machine)
    assert len(messages) == 1
    assert messages[0].startswith(f"{unit}: /etc is unchanged, the ")
    assert f" ({IMAGE}); " in messages[0]
    assert messages[0].endswith(" and reload again")
    next_reload_works(machine, unit)


@pytest.mark.real
def test_image_that_vanished_is_as_if_taken_away(machine: Machine, unit: str) -> None:
    machine.sh(f"rm {IMAGE}")
    machine.systemctl("reload", unit)
    reloaded = services.view(machine, unit)
    machine.systemctl("restart", unit)
    assert reloaded == services.view(machine, unit)
    next_reload_works(machine, unit)


@pytest.mark.real
def test_programs_that_are_gone(machine: Machine, unit: str) -> None:
    """Removed from under a unit that systemd still has loaded: a reload that cannot bring new files is refused."""
    images.build(machine, IMAGE, images.pair("v2"))
    with refused(machine, unit):
        machine.sh("mv /usr/lib/unit-confext /usr/lib/unit-confext.gone")
    machine.sh("mv /usr/lib/unit-confext.gone /usr/lib/unit-confext")
    # Where only the second program is gone, the first one has done its work.
    machine.sh(f"mv {SECOND} {SECOND}.gone")
    for version in ("v2", "v1"):
        images.build(machine, IMAGE, images.pair(version))
        machine.systemctl("reload", unit)
        assert services.version(machine, unit) == version
    images.build(machine, IMAGE, images.pair("v2"))
    with refused(machine, unit):
        machine.sh(f"mv {HOOK} {HOOK}.gone")
    machine.sh(f"mv {SECOND}.gone {SECOND}; mv {HOOK}.gone {HOOK}")
    next_reload_works(machine, unit)


@pytest.mark.real
def test_no_space(machine: Machine, unit: str) -> None:
    """Without a note about the swap, a hook that is killed in it would leave it half done."""
    try:
        with refused(machine, unit) as messages:
            images.build(machine, IMAGE, images.pair("v2"))
            place = "/run/unit-confext"
            machine.sh(f"mkdir -p {place}; mount -t tmpfs -o size=4k x {place}; head -c 4k /dev/zero >{place}/full")
    finally:
        machine.run("umount", "-l", "/run/unit-confext")
    problem = "the new /etc cannot be put in place: No space left on device"
    assert messages == [f"{unit}: /etc is unchanged, {problem}; reload again"]
    next_reload_works(machine, unit)


@pytest.mark.real
def test_no_space_for_anybody(machine: Machine, unit: str) -> None:
    """What can be done then depends on what others give back; it is done, or it is not."""
    fill = "cat /dev/zero >/run/full; for number in $(seq 200); do echo x >/run/full.$number || :; done"
    before = services.version(machine, unit)
    try:
        images.build(machine, IMAGE, images.pair("v2"))
        machine.run("mount", "-o", "remount,size=64M", "/run")
        machine.run("sh", "-c", fill, check=False)
        status = machine.systemctl("reload", unit, check=False).returncode
        assert (status, services.version(machine, unit)) in ((0, "v2"), (1, before))
    finally:
        machine.sh("rm -f /run/full*; mount -o remount,size=50% /run")
    next_reload_works(machine, unit)


@pytest.mark.real
def test_no_loop_device(machine: Machine, unit: str) -> None:
    try:
        with refused(machine, unit) as messages:
            images.build(machine, IMAGE, images.pair("v2"))
            machine.run("mount", "--bind", "/dev/null", "/dev/loop-control")
    finally:
        machine.run("umount", "/dev/loop-control")
    assert messages
    next_reload_works(machine, unit)


@pytest.mark.real
def test_stage_that_takes_too_long(machine: Machine, unit: str) -> None:
    dropin = "/run/systemd/system/unit-confext-stage-.service.d/slow.conf"
    try:
        with refused(machine, unit) as messages:
            images.build(machine, IMAGE, images.pair("v2"))
            machine.write(dropin, "[Service]\nExecStartPre=/usr/bin/sleep 60\nTimeoutStartSec=1\n")
            machine.systemctl("daemon-reload")
    finally:
        machine.run("rm", dropin)
    assert len(messages) == 1
    next_reload_works(machine, unit)


@pytest.mark.real
def test_service_in_the_host_namespace(machine: Machine) -> None:
    unit = "host.service"
    services.prepare(machine)
    machine.write(f"/etc/systemd/system/{unit}", services.fragment("", "--idle"))
    machine.systemctl("daemon-reload")
    machine.systemctl("start", unit)
    services.set_entries(machine, [unit], {})
    machine.systemctl("daemon-reload")
    services.eventually(lambda: machine.show(f"unit-confext-restack@{unit}.service", "ActiveState") == "active")
    assert machine.systemctl("reload", unit, check=False).returncode == 1
    assert errors(machine, unit) == [
        f"{unit}: /etc is unchanged, the service runs in the host's mount namespace, where its /etc cannot be changed "
        f"for it alone; run 'systemctl restart {unit}' once"
    ]
    machine.systemctl("restart", unit)
    machine.systemctl("reload", unit)


# Every system call that changes anything outside of the hook's process; between two of them, it is all the same when.
CALLS = frozenset(
    (
        "connect", "sendto", "sendmsg", "pipe2", "write", "mkdirat", "mkdir", "rename", "renameat", "renameat2",
        "unlink", "unlinkat", "flock", "setns", "open_tree", "move_mount", "mount_setattr", "umount2", "exit_group",
    )
)  # fmt: skip


def traced(machine: Machine, *options: str) -> None:
    """Run the hook under strace from now on."""
    words = " ".join(options)
    if machine.run("test", "-e", f"{HOOK}.real", check=False).returncode:
        machine.run("cp", HOOK, f"{HOOK}.real")
    # What is run after the hook was killed, with an option, is left alone.
    script = f"""#!/bin/sh
case "$1" in --re*) exec {HOOK}.real "$@" ;; esac
exec strace -f -o /tmp/hook.trace {words} {HOOK}.real "$@"
"""
    machine.write(HOOK, script, 0o755)


def propagation(machine: Machine, unit: str) -> list[tuple[str, list[str]]]:
    """How the service's mounts propagate, without the numbers of its own peer groups."""
    lines = machine.path(f"/proc/{services.main_pid(machine, unit)}/mountinfo").read_text().splitlines()
    words = [line.split(" ") for line in lines]
    tags = [(fields[4], fields[6 : fields.index("-")]) for fields in words]
    return sorted((point, ["shared" if "shared:" in tag else tag for tag in found]) for point, found in tags)


def trace_positions(machine: Machine) -> list[tuple[str, int]]:
    """The (call, how manieth of its kind in its process) of each system call in the trace that counts, in order.

    What counts is what the child does from the first connect() on, and all that its parent does once there is one.
    """
    seen: dict[tuple[str, str], int] = {}
    positions: dict[tuple[str, int], None] = {}
    begun: set[str] = set()
    for line in machine.path("/tmp/hook.trace").read_text(errors="replace").splitlines():
        process, _, rest = line.partition(" ")
        call = rest.strip().partition("(")[0]
        if call in ("clone", "fork", "vfork"):
            begun.add(process)
        if call not in CALLS:
            continue
        position = call, seen.get((process, call), 0) + 1
        seen[process, call] = position[1]
        if call in ("flock", "connect"):
            begun.add(process)
        # To whom a step is told is the parent.
        if process in begun and '"step ' not in rest:
            positions[position] = None
    return list(positions)


@pytest.mark.real
def test_hook_killed_between_any_two_system_calls(machine: Machine, unit: str) -> None:
    for version in ("v1", "v2"):
        images.build(machine, f"/srv/{version}/fail.raw", images.pair(version))

    def put(version: str) -> None:
        machine.sh(f"cp /srv/{version}/fail.raw {IMAGE}.new && mv {IMAGE}.new {IMAGE}")

    try:
        put("v2")
        traced(machine)
        machine.systemctl("reload", unit)
        positions = trace_positions(machine)
        names = {call for call, _ in positions}
        assert {"setns", "open_tree", "mount_setattr", "move_mount", "mkdirat", "unlinkat", "sendmsg"} <= names
        mounts = services.mounts_total(machine, unit)
        propagated = propagation(machine, unit)
        current = "v2"
        outcomes = set()
        for call, count in positions:
            wanted = "v1" if current == "v2" else "v2"
            put(wanted)
            traced(machine, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={count}")
            services.counts(machine, unit)
            failed = machine.systemctl("reload", unit, check=False).returncode != 0
            services.eventually(lambda: services.leftovers(machine) == [])
            where = f"killed before {call} #{count}"
            assert machine.show(unit, "ActiveState") == "active", where
            services.eventually(lambda: services.mounts_total(machine, unit) == mounts)
            services.eventually(lambda: propagation(machine, unit) == propagated)
            assert machine.sh("ls -A /run | grep unit-confext") == "unit-confext\n", where
            now = services.version(machine, unit)
            assert now in (current, wanted), where
            assert failed or now == wanted, f"{where}: reloaded without a re-stack"
            assert set(services.counts(machine, unit)) <= {current, wanted}, where
            outcomes.add((failed, now == wanted))
            current = now
        # Killed before the swap; killed within it, and completed; killed after all was done.
        assert {(True, False), (True, True)} <= outcomes
    finally:
        machine.sh(f"[ ! -e {HOOK}.real ] || mv {HOOK}.real {HOOK}")
    next_reload_works(machine, unit)


@pytest.mark.real
def test_without_move_mount_beneath(machine: Machine, unit: str) -> None:
    def beneath() -> list[bool]:
        calls = machine.path("/tmp/hook.trace").read_text().splitlines()
        return ["MOVE_MOUNT_BENEATH" in call for call in calls if "move_mount(" in call]

    images.build(machine, IMAGE, images.pair("v3"))
    try:
        traced(machine, "-e", "trace=move_mount")
        machine.systemctl("reload", unit)
        assert beneath().count(True) == 1
        number = beneath().index(True) + 1
        images.build(machine, IMAGE, images.pair("v2"))
        # What Linux before 6.5 says to the flag.
        traced(machine, "-e", "trace=move_mount", "-e", f"inject=move_mount:error=EINVAL:when={number}")
        services.counts(machine, unit)
        before, propagated = services.mounts_total(machine, unit), propagation(machine, unit)
        machine.systemctl("reload", unit)
        assert set(services.counts(machine, unit)) <= {"v3", "v2"}
        assert services.version(machine, unit) == "v2"
        assert beneath().count(True) == 1
        assert services.mounts_total(machine, unit) > before
        seen = [place for place in propagation(machine, unit) if not place[0].startswith("/etc")]
        assert seen == [place for place in propagated if not place[0].startswith("/etc")]
    finally:
        machine.sh(f"[ ! -e {HOOK}.real ] || mv {HOOK}.real {HOOK}")


@pytest.mark.real
def test_memory_of_the_hook(machine: Machine, unit: str) -> None:
    images.build(machine, IMAGE, images.pair("v2"))
    try:
        machine.run("cp", HOOK, f"{HOOK}.real")
        script = f'#!/bin/sh\nexec busybox time -v {HOOK}.real "$@" 2>/tmp/hook.time\n'
        machine.write(HOOK, script, 0o755)
        machine.systemctl("reload", unit)
    finally:
        machine.sh(f"[ ! -e {HOOK}.real ] || mv {HOOK}.real {HOOK}")
    assert services.version(machine, unit) == "v2"

    def peak(report: str) -> int:
        return next(int(line.rpartition(":")[2]) for line in report.splitlines() if "Maximum resident" in line)

    # In KiB. What Python itself needs differs between its versions.
    bare = peak(machine.run("busybox", "time", "-v", "/usr/bin/python3", "-I", "-S", "-c", "pass").stderr)
    assert 0 < peak(machine.path("/tmp/hook.time").read_text()) <= 2 * bare
