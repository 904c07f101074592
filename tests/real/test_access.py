# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who can write what a service gets, and what a service can open because it gets something."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from confext_generator.access import Problem
from confext_generator.report import Complaint
from lab import images, services
from lab.machine import Machine

pytestmark = pytest.mark.real

UNIT = "access-demo.service"
DIRECTORY = services.entry_directory(UNIT)
IMAGE = "access-10-a.raw"
DATA = "/srv/access-data"
NOBODY = ("setpriv", "--reuid=daemon", "--regid=daemon", "--clear-groups")


@pytest.fixture
def unit(machine: Machine) -> Iterator[Machine]:
    services.prepare(machine)
    machine.sh(f"rm -rf {DIRECTORY} {DATA}; mkdir -p {DIRECTORY} {DATA}/user")
    yield machine
    machine.systemctl("stop", UNIT)
    machine.sh(f"rm -rf {DIRECTORY} /etc/systemd/system/{UNIT}; umount -l {DATA} 2>/dev/null || :; rm -rf {DATA}")
    machine.systemctl("daemon-reload")
    machine.systemctl("reset-failed")


def define(machine: Machine, settings: str = "") -> None:
    machine.write(f"/etc/systemd/system/{UNIT}", services.fragment(f"Type=exec\n{settings}"))


def start(machine: Machine) -> bool:
    return machine.systemctl("restart", UNIT, check=False).returncode == 0


def reload(machine: Machine) -> bool:
    return machine.systemctl("reload", UNIT, check=False).returncode == 0


def said(machine: Machine) -> str:
    return machine.journal("-u", UNIT, "-t", "unit-confext", "-n", "1").strip()


def mount(machine: Machine, owner: str) -> None:
    machine.sh(f"mount -t tmpfs -o mode=0755 tmpfs {DATA}; mkdir {DATA}/user; chown {owner} {DATA}/user")
    images.build(machine, f"{DATA}/user/{IMAGE}", images.pair("v1"))


def test_judged_at_a_start_where_it_was_not_mounted_before(unit: Machine) -> None:
    """As at boot: the generator can only take the link by its name, and then a file system comes."""
    define(unit)
    unit.sh(f"ln -s {DATA}/user/{IMAGE} {DIRECTORY}/{IMAGE}")
    unit.systemctl("daemon-reload")
    assert unit.show(UNIT, "ExtensionImages") == f"-{DATA}/user/{IMAGE}"
    mount(unit, "daemon")

    assert not start(unit)
    problem = Problem("way-others-write", f"'{DATA}/user'")
    assert said(unit) == (
        f"{UNIT}: not started, its layer {problem} ({DATA}/user/{IMAGE}); chown root:root, chmod go-w, or remove it"
    )

    unit.sh(f"chown root {DATA}/user")
    assert start(unit)
    assert services.version(unit, UNIT) == "v1"


def test_judged_at_a_reload(unit: Machine) -> None:
    define(unit)
    unit.sh(f"ln -s {DATA}/user/{IMAGE} {DIRECTORY}/{IMAGE}")
    mount(unit, "root")
    unit.systemctl("daemon-reload")
    assert start(unit)
    unit.sh(f"chown daemon {DATA}/user")
    images.build(unit, f"{DATA}/user/{IMAGE}", images.pair("v2"))

    assert not reload(unit)
    assert services.version(unit, UNIT) == "v1"
    assert said(unit).startswith(f"{UNIT}: /etc is unchanged, its layer leads into '{DATA}/user', which others")
    # Nor does looking at what a reload would bring have the kernel mount it.
    refused = unit.run("unit-confext", "diff", "--check", UNIT, check=False)
    problem = f"the reload would be refused: {UNIT}: its layer leads into '{DATA}/user', which others than root"
    assert (refused.stdout, problem in refused.stderr) == ("", True)

    unit.sh(f"chown root {DATA}/user")
    assert reload(unit)
    assert services.version(unit, UNIT) == "v2"


def test_the_newest_version_is_judged(unit: Machine) -> None:
    define(unit)
    versions = f"{DIRECTORY}/{IMAGE}.v"
    stem = IMAGE.removesuffix(".raw")
    images.build(unit, f"{versions}/{stem}_1.raw", images.pair("v1"), name=stem)
    unit.systemctl("daemon-reload")
    assert start(unit)
    images.build(unit, f"{versions}/{stem}_2.raw", images.pair("v2"), name=stem)
    unit.sh(f"chown daemon {versions}/{stem}_2.raw")

    # 258 and 259 aside, systemd picks it itself, so that a start has to be refused as well.
    assert not reload(unit)
    assert f"{stem}_2.raw of its layer {Problem('other-owner', '')}" in said(unit)
    assert not start(unit)
    assert f"not started, {stem}_2.raw of its layer {Problem('other-owner', '')}" in said(unit)

    unit.sh(f"chown root {versions}/{stem}_2.raw")
    assert start(unit)
    assert services.version(unit, UNIT) == "v2"


@pytest.mark.parametrize("place", ["/tmp", "/var/tmp", "/dev/shm"])
def test_directories_of_everybody_are_not_root_s(unit: Machine, place: str) -> None:
    define(unit)
    images.build(unit, f"{place}/{IMAGE}", images.pair("v1"))
    unit.sh(f"ln -s {place}/{IMAGE} {DIRECTORY}/{IMAGE}")
    unit.systemctl("daemon-reload")
    assert unit.show(UNIT, "ExtensionImages") == ""
    unit.sh(f"rm {place}/{IMAGE}")


def test_a_name_that_becomes_another_user_s(unit: Machine) -> None:
    """The unit names it itself, so that the generator has no say."""
    unit.sh(f"rmdir {DATA}/user; mkdir -m 1777 {DATA}/user")
    images.build(unit, f"{DATA}/user/{IMAGE}", images.pair("v1"))
    define(unit, f"ExtensionImages=-{DATA}/user/{IMAGE}")
    unit.systemctl("daemon-reload")
    assert start(unit)
    unit.sh(f"rm {DATA}/user/{IMAGE}; cp /etc/hostname {DATA}/user/.n; chown daemon {DATA}/user/.n")
    unit.run(*NOBODY, "mv", f"{DATA}/user/.n", f"{DATA}/user/{IMAGE}")
    assert not reload(unit)
    assert services.version(unit, UNIT) == "v1"


OPEN = """\
import os, sys
for path in sys.argv[1:]:
    for flags in (os.O_RDONLY, os.O_RDWR):
        try:
            os.close(os.open(path, flags | os.O_NONBLOCK))
            print("opened", path)
        except OSError as error:
            print("refused", path)
"""


def opened(machine: Machine) -> set[str]:
    """Which devices of others the unit's second process can open: it runs after the start, as ExecStartPost= does."""
    lines = machine.journal("-u", UNIT).splitlines()
    return {line.removeprefix("opened ") for line in lines if line.startswith("opened ")}


@contextlib.contextmanager
def loop_of_another(machine: Machine) -> Iterator[str]:
    machine.sh(f"head -c 65536 /dev/zero >{DATA}/others.raw")
    device = machine.sh(f"losetup -f --show {DATA}/others.raw").strip()
    try:
        yield device
    finally:
        machine.sh(f"losetup -d {device}")


RESTRICTIONS = {
    "closed": "DevicePolicy=closed",
    "strict": "DevicePolicy=strict\nDeviceAllow=/dev/null rw",
    "allow": "DeviceAllow=/dev/null rw",
    "private": "PrivateDevices=yes",
    "private-bound": "PrivateDevices=yes\nBindPaths=/dev:/srv/access-data/user",
}


@pytest.mark.parametrize("name", RESTRICTIONS)
def test_an_image_opens_no_device_of_others(unit: Machine, name: str) -> None:
    images.build(unit, f"{DIRECTORY}/{IMAGE}", images.pair("v1"))
    unit.write("/srv/access-open.py", OPEN)
    with loop_of_another(unit) as loop:
        bound = f"{DATA}/user/{loop.removeprefix('/dev/')}"
        devices = f"{loop} /dev/loop-control /dev/mapper/control {bound}"
        define(unit, f"{RESTRICTIONS[name]}\nExecStartPost=/usr/bin/python3 -IS /srv/access-open.py {devices}")
        unit.systemctl("daemon-reload")
        assert start(unit)
        assert opened(unit) == set()
        # Where that can be had, the image is there all the same.
        has_image = unit.path(f"/proc/{services.main_pid(unit, UNIT)}/root/etc/demo/a").exists()
        assert has_image is (name == "private")
        assert "block-loop rwm" not in unit.show(UNIT, "DeviceAllow")


def test_what_is_accepted_is_said(unit: Machine) -> None:
    define(unit, "DevicePolicy=closed\n[X-Confext]\nUnsafeDeviceAllow=yes")
    images.build(unit, f"{DIRECTORY}/{IMAGE}", images.pair("v1"))
    unit.systemctl("daemon-reload")
    assert start(unit)
    assert services.version(unit, UNIT) == "v1"
    listed = unit.run("unit-confext", "list", "--json=short", UNIT, check=False)
    told = unit.run("/usr/lib/systemd/system-generators/unit-confext-generator", "--dry-run").stderr
    assert f"{IMAGE}: {Complaint('noted', 'devices-opened', b'', b'').text}" in told
    assert listed.returncode == 0
    assert [entry["code"] for entry in json.loads(listed.stdout)[0]["entries"]] == ["devices-opened"]


def test_a_directory_is_no_layer_where_images_are_signed(unit: Machine) -> None:
    define(unit, "ExtensionImagePolicy=root=signed+absent")
    images.build(unit, "/var/lib/confexts/access-d", images.pair("v1"), images.Format.DIRECTORY)
    unit.sh(f"ln -s /var/lib/confexts/access-d {DIRECTORY}/access-d")
    unit.systemctl("daemon-reload")
    assert unit.show(UNIT, "ExtensionDirectories") == ""
    assert start(unit)
    (listed,) = json.loads(unit.run("unit-confext", "list", "--json=short", UNIT, check=False).stdout)
    assert [(entry["verdict"], entry["code"]) for entry in listed["entries"]] == [("ignored", "unsigned")]

    # One that the generator could not know of.
    unit.write(f"/etc/systemd/system/{UNIT}.d/zzz.conf", "[Service]\nExtensionDirectories=/var/lib/confexts/access-d\n")
    unit.systemctl("daemon-reload")
    assert not reload(unit)
    assert "a directory cannot be signed, and ExtensionImagePolicy= asks for a signature" in said(unit)
    unit.sh(f"rm -r /etc/systemd/system/{UNIT}.d /var/lib/confexts/access-d")
