# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stage has the mounts that `/etc` is made of and no others: it makes nothing on the host, and writes to no image."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import images, services
from lab.machine import Machine

UNIT = "mounts.service"
FRAGMENT = f"/etc/systemd/system/{UNIT}"
IMAGE = "/var/lib/confexts/mounts.raw"
ROOT_IMAGE = "/srv/mounts-root.raw"
_USR = "BindReadOnlyPaths=/usr/bin /usr/lib /usr/lib64\n"
READ_ONLY = "ProtectSystem=strict\nProtectHome=yes\n"


@pytest.fixture
def prepared(machine: Machine) -> Iterator[None]:
    """All but the unit file."""
    services.prepare(machine)
    images.build(machine, IMAGE, images.pair("v1"))
    services.set_entries(machine, [UNIT], {"10-mounts.raw": IMAGE})
    yield
    machine.sh(f"systemctl stop {UNIT}; rm -rf {FRAGMENT} {services.entry_directory(UNIT)} /srv/mounts*")
    machine.systemctl("daemon-reload")


def start(machine: Machine, settings: str) -> None:
    machine.write(FRAGMENT, services.fragment(settings, "--idle"))
    machine.systemctl("daemon-reload")
    machine.systemctl("start", UNIT)
    services.main_pid(machine, UNIT)
    images.build(machine, IMAGE, images.pair("v2"))


def make_root(machine: Machine, kind: str) -> None:
    """A root image with a root directory that only root may search."""
    make = {
        "squashfs": f"mksquashfs $tree {ROOT_IMAGE} -quiet -no-progress -noappend >/dev/null",
        "ext4": f"truncate -s 24M {ROOT_IMAGE}; mkfs.ext4 -q -d $tree {ROOT_IMAGE}",
    }
    machine.sh(f"""
        tree=$(mktemp -d)
        cp -a {services.ROOT}/. $tree
        rm -rf $tree/etc/cron.d; chmod 700 $tree; mkdir -p $tree/usr/lib/lab
        {make[kind]}
        rm -rf $tree
    """)


def host_places(machine: Machine) -> str:
    """What is in the host's directories that everybody may write, and what a link of somebody leads to."""
    return machine.sh("ls -a /tmp /var/tmp /home /run/mounts /srv/made 2>&1 || :")


# Mounts in what the service has of its own; in a service without a root directory they would be made on the host.
OWN = (
    "PrivateTmp=yes\nProtectHome=tmpfs\nRuntimeDirectory=mounts\nStateDirectory=mounts\n"
    "BindPaths=/srv/bound:/tmp/mounts /srv/bound:/var/tmp/mounts /srv/bound:/home/mounts /srv/bound:/run/mounts/x\n"
    "BindReadOnlyPaths=/srv/bound:/var/lib/mounts/x /srv/bound:/etc/lab-mount\nTemporaryFileSystem=/tmp/mounts/y\n"
    "InaccessiblePaths=-/tmp/mounts /tmp/mounts/y"
)


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("links", [False, True], ids=["nothing", "links of others"])
def test_nothing_is_made_on_the_host(machine: Machine, links: bool) -> None:
    start(machine, OWN)
    machine.sh("rm -rf /tmp/mounts /var/tmp/mounts /srv/made")
    if links:
        for place in ("/tmp/mounts", "/var/tmp/mounts"):
            machine.run("setpriv", "--reuid=daemon", "--clear-groups", "ln", "-s", "/srv/made/by/root", place)
    before = host_places(machine)
    machine.systemctl("reload", UNIT)
    assert host_places(machine) == before
    reloaded = services.view(machine, UNIT)
    assert "/demo/only-v2" in reloaded.files
    assert "/lab-mount/file" in reloaded.files
    machine.systemctl("restart", UNIT)
    assert services.view(machine, UNIT) == reloaded
    machine.sh("rm -rf /tmp/mounts /var/tmp/mounts")


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
def test_targets_in_a_private_tmp_of_a_root_image(machine: Machine) -> None:
    """Where the stage's process has to be root, since nobody else may search that root directory."""
    make_root(machine, "squashfs")
    settings = "PrivateTmp=yes\nMountAPIVFS=yes\nBindPaths=/srv/bound:/tmp/mounts\nBindReadOnlyPaths=/usr/lib/lab\n"
    start(machine, f"RootImage={ROOT_IMAGE}\n{_USR}{settings}")
    before = host_places(machine)
    machine.systemctl("reload", UNIT)
    assert host_places(machine) == before
    reloaded = services.view(machine, UNIT)
    assert "/demo/only-v2" in reloaded.files
    machine.systemctl("restart", UNIT)
    assert services.view(machine, UNIT) == reloaded


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
def test_root_image_that_is_not_written(machine: Machine) -> None:
    make_root(machine, "ext4")
    start(machine, f"RootImage={ROOT_IMAGE}\n{_USR}{READ_ONLY}")
    before = machine.sh(f"sha256sum {ROOT_IMAGE}")
    for version in ("v3", "v4", "v5", "v6"):
        images.build(machine, IMAGE, images.pair(version))
        machine.systemctl("reload", UNIT)
    reloaded = services.view(machine, UNIT)
    assert "/demo/only-v6" in reloaded.files
    assert machine.sh(f"sha256sum {ROOT_IMAGE}") == before
    # They name the image as it is named here.
    assert {*machine.sh(f"losetup -n -O RO -j {ROOT_IMAGE}").split()} == {"1"}
    machine.systemctl("restart", UNIT)
    assert services.view(machine, UNIT) == reloaded
    assert machine.sh(f"sha256sum {ROOT_IMAGE}") == before


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
def test_root_image_that_the_service_writes(machine: Machine) -> None:
    """A second file system on the same blocks would know nothing of the first."""
    make_root(machine, "ext4")
    start(machine, f"RootImage={ROOT_IMAGE}\n{_USR}")
    assert services.loop_devices(machine, ROOT_IMAGE) == 1
    assert machine.systemctl("reload", UNIT, check=False).returncode == 1
    said = machine.journal("-u", UNIT, "-t", "unit-confext", "-n", "1")
    assert f"while the service may write its root image: it has ext4 ({ROOT_IMAGE}); make it read-only" in said
    assert services.version(machine, UNIT) == "v1"
    assert services.loop_devices(machine, ROOT_IMAGE) == 1


# As written in a unit, in quotes, and as it is. No newline can be, and with a tab systemd 257 does not start it.
ODD = {"my dir": "my dir", "back\\\\slash": "back\\slash", "octal\\\\040": "octal\\040"}


@pytest.mark.real
@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("root", ["", "/srv/mounts/my root"], ids=["host", "root directory"])
def test_mounts_whose_places_the_kernel_escapes(machine: Machine, root: str) -> None:
    """mountinfo has \\040 for a space, and so on."""
    settings = ["ProtectSystem=strict"]
    if root:
        machine.run("mkdir", "-p", "/srv/mounts")
        machine.run("cp", "-aT", services.ROOT, root)
        settings += [f"RootDirectory={root}", _USR]
    for written, name in ODD.items():
        settings.append(f'BindReadOnlyPaths="/srv/mounts/{written}":"/etc/mounts/{written}"')
        machine.write(f"/srv/mounts/{name}/file", name)
        machine.path(f"{root}/etc/mounts/{name}").mkdir(parents=True)
    start(machine, "\n".join(settings))
    try:
        count = services.mounts_total(machine, UNIT)
        for number in (2, 3):
            images.build(machine, IMAGE, images.pair(f"v{number}"))
            machine.systemctl("reload", UNIT)
            assert services.version(machine, UNIT) == f"v{number}"
            assert services.mounts_total(machine, UNIT) == count
        reloaded = services.view(machine, UNIT)
        assert {f"/mounts/{name}/file" for name in ODD.values()} <= reloaded.files.keys()
        machine.systemctl("restart", UNIT)
        assert services.view(machine, UNIT) == reloaded
    finally:
        machine.run("rm", "-r", f"{root}/etc/mounts")
