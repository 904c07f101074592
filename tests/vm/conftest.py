# SPDX-License-Identifier: LGPL-2.1-or-later
"""The virtual machines of these tests: furnished with signed images, booted once for each suite."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from lab import hashtrees, rootfs, signed
from lab import vm as lab_vm
from lab.requirements import need
from lab.signed import Case, Key
from lab.vm import Vm

CHECKOUT = Path(__file__).parents[2]
UNITS = "/etc/systemd/system"
_SERVICE = """\
[Unit]
Description={name}
Before=multi-user.target
[Service]
Type=exec
ExecStart=/bin/sleep infinity
ExtensionImagePolicy=root=signed
"""
_MOUNT = """\
[Unit]
Description=A file system that is not there yet when the generator runs
[Mount]
What=/srv/late.squashfs
Where=/var/lib/late
Type=squashfs
Options=loop,ro
"""


@pytest.fixture(scope="session", params=list(rootfs.SUITES))
def furnished(request: pytest.FixtureRequest) -> Iterator[Vm]:
    """A machine with this build, services and images, not booted yet."""
    need(lab_vm.missing_capability())
    with Vm(request.param, share=CHECKOUT) as vm:
        _furnish(vm)
        yield vm


@pytest.fixture(scope="session")
def vm(furnished: Vm) -> Vm:
    """The same machine, booted."""
    furnished.boot()
    return furnished


def _furnish(vm: Vm) -> None:
    vm.native("make", "-s", "-C", "/run/host/share", "install")
    signed.make_keys(vm)
    limits = "MemoryMax=24M\nTasksMax=4\nCPUQuota=20%\n"
    for name, more in {"demo": "", "limited": limits, "late": ""}.items():
        vm.write(f"{UNITS}/{name}.service", _SERVICE.format(name=name) + more)
    vm.write(f"{UNITS}/multi-user.target.d/demo.conf", "[Unit]\nWants=demo.service limited.service late.service\n")
    signed.build(vm, f"{UNITS}/demo.service.confext.d/10-site.raw", "boot")
    signed.build(vm, f"{UNITS}/limited.service.confext.d/10-site.raw", "limited")

    signed.build(vm, "/srv/late/30-late.raw", "late")
    vm.native("mksquashfs", "/srv/late", "/srv/late.squashfs", "-quiet", "-no-progress")
    vm.native("rm", "-r", "/srv/late")
    vm.write(f"{UNITS}/var-lib-late.mount", _MOUNT)
    vm.native("mkdir", "-p", "/var/lib/late", f"{UNITS}/late.service.confext.d")
    vm.native("ln", "-s", "/var/lib/late/30-late.raw", f"{UNITS}/late.service.confext.d/")

    hashtrees.write(vm)
    for version in ("update", "update-limited"):
        signed.build(vm, f"{signed.STORE}/{version}/10-site.raw", version)
    for case in Case:
        keys = {Case.UNKNOWN_KEY: Key.UNKNOWN, Case.UNSIGNED: None}
        keys |= dict.fromkeys((Case.EXPIRED, Case.DISGUISED), Key.EXPIRED)
        key = keys.get(case, Key.TRUSTED)
        image = signed.build(vm, f"{signed.STORE}/{case}/10-site.raw", case, key)
        if case in signed.FLIPS:
            image.write_bytes(signed.FLIPS[case](image.read_bytes(), case))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the end of the journal of a machine whose test failed."""
    report: pytest.TestReport = yield
    if report.when == "call" and report.failed and isinstance(item, pytest.Function):
        machine = item.funcargs.get("vm")
        if isinstance(machine, Vm):
            try:
                lines = machine.run("journalctl", "-b", "--no-pager", "-q", "-n", "60", check=False).stdout
            except AssertionError as error:  # It may be the machine that failed.
                lines = str(error)
            report.sections.append((f"journal of {machine.suite}", lines))
    return report
