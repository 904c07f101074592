# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signed images at a true boot and at a reload, and everything that can be wrong with one.

The image policy of the services is `root=signed`, the certificate is in /etc/verity.d, and the kernel knows none. An
image with something wrong is refused by `unit-confext verify`, as a user without privileges, with the finding that it
is; and by the reload, which leaves the service as it was.
"""

from __future__ import annotations

import json
import shlex

import pytest

from lab import signed
from lab.signed import Case
from lab.vm import Vm

pytestmark = pytest.mark.real

DIRECTORY = "/etc/systemd/system/demo.service.confext.d"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
POLICY = "--image-policy=root=signed"

# Beside `policy`, which each of them is.
FINDINGS = {
    Case.DATA: {"verity-data"},
    Case.HASH_TREE: {"verity-hash"},
    Case.ROOT_HASH: {"verity-root", "signature-invalid"},
    Case.SIGNATURE: {"signature-invalid"},
    Case.UNKNOWN_KEY: {"signature-unknown-key"},
    Case.EXPIRED: {"signature-expired"},
    Case.DISGUISED: {"signature-malformed"},
    Case.ATTRIBUTES: {"signature-malformed"},
    Case.UNSIGNED: {"signature-missing"},
}

# What the reload says, where systemd's own word for it or the hook's is plain.
REASONS = {
    Case.DATA: "Input/output error",
    Case.EXPIRED: "expired",
    # systemd has mounted it by then, and would start the service with it.
    Case.DISGUISED: "it is not signed as the image policy requires",
    Case.UNSIGNED: "the image policy does not allow the image",
}

# Run in the guest: $unit and $image. Nothing that a reload began may be left when the next one begins.
RELOAD = """
state() { systemctl show -p MainPID -p ActiveState $unit; }
before=$(state)
pid=$(echo "$before" | sed -n 's/^MainPID=//p')
cp $image /etc/systemd/system/$unit.confext.d/.new
mv /etc/systemd/system/$unit.confext.d/.new /etc/systemd/system/$unit.confext.d/10-site.raw
systemctl reload $unit 2>/dev/null && echo reloaded || echo refused
while systemctl list-jobs --no-legend | grep -q unit-confext; do sleep 0.2; done
[ "$(state)" = "$before" ] && echo same || state
cat /proc/$pid/root/etc/demo/version
cat /proc/$pid/root/etc/demo/filler >/dev/null 2>&1 && echo whole || echo broken
journalctl --sync
journalctl -b -q --no-pager -o cat -t unit-confext -u $unit -n 1
"""


def reload(vm: Vm, unit: str, image: str) -> list[str]:
    """Put an image into place and reload.

    Returns:
        What came of it, whether the process is the same, the version that it sees, whether all of the image can be
        read, and what the hook said.
    """
    return vm.sh(f"unit={unit} image={shlex.quote(image)}; {RELOAD}").splitlines()


def stored(name: str) -> str:
    return f"{signed.STORE}/{name}/10-site.raw"


def test_boot(vm: Vm) -> None:
    """The first /etc of the services is already the one with the image, and it came through dm-verity."""
    seen = vm.sh(
        "for unit in demo limited late; do cat /proc/$(systemctl show --value -p MainPID $unit)/root/etc/demo/version; "
        "systemctl show --value -p NeedDaemonReload $unit; done"
    )
    assert seen.split() == ["boot", "no", "limited", "no", "late", "no"]
    table = vm.run("dmsetup", "table").stdout
    for image in (f"{DIRECTORY}/10-site.raw", "/etc/systemd/system/limited.service.confext.d/10-site.raw"):
        wanted = signed.root_hash(vm.path(image).read_bytes())
        assert [line.split()[3] for line in table.splitlines() if wanted in line.split()] == ["verity"]
    assert table.count(" verity ") == 3


def test_generator_ran_at_boot_only(vm: Vm) -> None:
    """There was no daemon-reload that made up for it, and the file system that a link leads to came later."""
    pattern = r"^(Reloading\.\.\.$|Reload(ing)? requested)"
    assert vm.run("journalctl", "-b", "-q", "-o", "cat", "--grep", pattern, check=False).stdout == ""
    generated = int(vm.systemctl("show", "--value", "-p", "GeneratorsFinishTimestampMonotonic").stdout)
    assert 0 < generated < int(vm.show("var-lib-late.mount", "ActiveEnterTimestampMonotonic"))


def test_status_tells_who_signed_it(vm: Vm) -> None:
    """And that the kernel holds the data to it, which cannot be had where there is no device mapper."""
    done = vm.run("unit-confext", "--json=short", "status", "demo")
    (layer,) = json.loads(done.stdout)[0]["layers"]
    image = f"{DIRECTORY}/10-site.raw"
    expected = {"label": "10-site.raw", "file": image, "state": "current", "enforced": True, "signature": "trusted"}
    expected["root_hash"] = signed.root_hash(vm.path(image).read_bytes())
    assert {name: layer[name] for name in expected} == expected
    (found,) = json.loads(vm.run("unit-confext", "--json=short", "which", "demo", "/etc/demo/version").stdout)
    assert (found["from"], found["evidence"]) == ("layer", "device")
    assert found["layer"]["signature"] == "trusted"


def test_signed_update(vm: Vm) -> None:
    *state, said = reload(vm, "demo.service", stored("update"))
    assert state == ["reloaded", "same", "update", "whole"]
    # The version and the filler, which is other data in each image.
    assert said == "demo.service: /etc re-stacked: 10-site.raw replaced; 2 files changed"


@pytest.fixture
def updated(vm: Vm) -> None:
    """The service has the update. An image that it should not have taken is not left to the next test."""
    if vm.sh("cat /proc/$(systemctl show --value -p MainPID demo)/root/etc/demo/version") != "update\n":
        assert reload(vm, "demo.service", stored("update"))[:3] == ["reloaded", "same", "update"]


@pytest.mark.usefixtures("updated")
@pytest.mark.parametrize("case", Case)
def test_reload_refuses(vm: Vm, case: Case) -> None:
    *state, said = reload(vm, "demo.service", stored(case))
    assert state == ["refused", "same", "update", "whole"]
    assert said.startswith("demo.service: /etc is unchanged, ")
    assert f"({DIRECTORY}/10-site.raw)" in said
    assert REASONS.get(case, "") in said


def test_recovers_after_refusals(vm: Vm) -> None:
    """A good image after the bad ones is taken, and no device of theirs is left."""
    assert reload(vm, "demo.service", stored("update"))[:4] == ["reloaded", "same", "update", "whole"]
    assert vm.run("dmsetup", "table").stdout.count(" verity ") == 3


def test_reload_under_limits(vm: Vm) -> None:
    """The hook is not the service's: it has more than the service may have of memory, processes and time."""
    assert vm.sh("cat /sys/fs/cgroup/system.slice/limited.service/memory.max /sys/fs/cgroup/system.slice/"
                 "limited.service/pids.max /sys/fs/cgroup/system.slice/limited.service/cpu.max").split() == [
        "25165824", "4", "20000", "100000",
    ]  # fmt: skip
    assert reload(vm, "limited.service", stored("update-limited"))[:4] == [
        "reloaded", "same", "update-limited", "whole",
    ]  # fmt: skip


@pytest.mark.usefixtures("updated")
def test_hook_that_the_kernel_kills_for_want_of_memory(vm: Vm) -> None:
    """The service is not reloaded then, and the next reload is as good as any."""
    unit, command = "unit-confext-restack@demo.service.service", "/usr/lib/unit-confext/restack-if-changed"
    directory = f"/run/systemd/system/{unit}.d"
    # tail looks for the last lines of a file that has none. What comes after it is as it was.
    vm.sh(f"""
        mkdir {directory}
        printf '[Service]\\nMemoryMax=64M\\n' >{directory}/memory.conf
        cp -p {command} {command}.kept
        printf '#!/bin/sh\\nexec tail /dev/zero\\n' >{command}
        systemctl daemon-reload
    """)
    *state, said = reload(vm, "demo.service", stored("update"))
    assert state == ["refused", "same", "update", "whole"]
    assert said == "demo.service: not reloaded, since its re-stack was cut off; reload it again"
    # The kernel's words: what the manager says, and of which unit, is not the same in every version.
    assert f"{unit},task=tail" in vm.run("journalctl", "-b", "-k", "-q", "-o", "cat").stdout
    assert vm.show(unit, "ActiveState") == "active"
    vm.sh(f"mv {command}.kept {command}; rm -r {directory}; systemctl daemon-reload")
    assert reload(vm, "demo.service", stored("update"))[:4] == ["reloaded", "same", "update", "whole"]


# ---- verify, as anybody and without mounting: outside of the guest, where it is faster ----


def verify(vm: Vm, *argv: str) -> tuple[int, str]:
    done = vm.native(*NOBODY, "unit-confext", "verify", *argv, check=False)
    return done.returncode, done.stdout + done.stderr


def test_verify_accepts(furnished: Vm) -> None:
    assert verify(furnished, POLICY, stored("update"))[0] == 0


@pytest.mark.parametrize("case", Case)
def test_verify_refuses(furnished: Vm, case: Case) -> None:
    status, said = verify(furnished, POLICY, stored(case))
    assert status == 4, said
    codes = {line.removeprefix(f"{stored(case)}: ").partition(":")[0] for line in said.splitlines()}
    assert codes == FINDINGS[case] | {"policy"}, said
