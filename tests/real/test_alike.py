# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext diff` and the hook judge alike: what one refuses, the other does, and for the same reason."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from lab import images, services
from lab.machine import Machine

UNIT = "alike.service"
STORE = "/var/lib/confexts/alike"
IMAGE = f"{STORE}/alike.raw"
CHECK = "[X-Confext]\nCheck="
WITH_ROOT = services.SETTINGS["root-directory"]

# Settings, what happens to the image before the reload, and what is refused.
REFUSALS = {
    "ephemeral root": (f"{WITH_ROOT}\nRootEphemeral=yes", "", "cannot be re-stacked"),
    "works below etc": ("WorkingDirectory=/etc/alike", "", "works in /etc/alike"),
    "etc is a link": (WITH_ROOT.replace(services.ROOT, f"{STORE}/root"), "", "/etc is a symbolic link"),
    "check that is none": (CHECK + '"x', "", "Check="),
    "check that fails": (CHECK + "/bin/false", "", "the check '/bin/false'"),
    "check that says so": (CHECK + "/bin/sh -c 'echo wrong; exit 3'", "", "exited with status 3: wrong"),
    "cut short": ("", f"truncate -s -1 {IMAGE}", "cut short"),
    "no image": ("", f"truncate -s 0 {IMAGE}; truncate -s 8192 {IMAGE}", ""),
    "not root's": ("", f"chown daemon {IMAGE}", "belongs to user"),
    "a FIFO": ("", f"rm {IMAGE}; mkfifo {IMAGE}", "FIFO"),
    "no release": ("", f"mv {STORE}/other.raw {IMAGE}", "extension-release.alike"),
    "no signature": ("ExtensionImagePolicy=root=signed", "", ""),
}


@pytest.fixture
def place(machine: Machine) -> Iterator[Machine]:
    services.prepare(machine)
    machine.sh(f"""
mkdir -p {STORE} /etc/alike
cp -a {services.ROOT} {STORE}/root; mv {STORE}/root/etc {STORE}/root/real; ln -s real {STORE}/root/etc
""")
    yield machine
    machine.systemctl("stop", UNIT, check=False)
    machine.sh(
        f"rm -rf /etc/systemd/system/{UNIT}* /run/systemd/system/{UNIT}* {STORE} /etc/alike; "
        "systemctl daemon-reload; systemctl reset-failed"
    )


@pytest.mark.real
@pytest.mark.parametrize("case", REFUSALS)
def test_refused_alike(place: Machine, case: str) -> None:
    settings, script, expected = REFUSALS[case]
    if not settings.startswith("["):
        settings = f"[Service]\n{settings}"
    signed = "ExtensionImagePolicy" in settings
    place.write(f"/etc/systemd/system/{UNIT}", "[Service]\nType=exec\nExecStart=/usr/bin/sleep infinity\n")
    if not signed:
        place.write(f"/etc/systemd/system/{UNIT}.d/case.conf", settings)
    images.build(place, IMAGE, images.pair("v1"))
    images.build(place, f"{STORE}/other.raw", images.pair("v2"), name="other")
    services.set_entries(place, [UNIT], {"10-alike.raw": IMAGE})
    place.systemctl("daemon-reload")
    place.systemctl("restart", UNIT)
    images.build(place, IMAGE, images.pair("v2"))
    if signed:
        place.write(f"/etc/systemd/system/{UNIT}.d/case.conf", settings)
        place.systemctl("daemon-reload")
    place.sh(script or ":")

    done = place.run("unit-confext", "diff", "--check", "--json=short", UNIT, check=False)
    reloaded = place.systemctl("reload", UNIT, check=False).returncode
    said = place.journal("-u", UNIT, "-t", "unit-confext", "-p", "err", "-n", "1").strip()
    (found,) = json.loads(done.stdout)
    assert (done.returncode, reloaded) == (4, 1)
    assert expected in said
    assert said.replace("/etc is unchanged, ", "", 1) == found["refused"]


@pytest.mark.real
def test_check_that_is_asked_for_is_run(place: Machine) -> None:
    """Also where the hook has nothing to do, and runs none."""
    place.write(f"/etc/systemd/system/{UNIT}", "[Service]\nType=exec\nExecStart=/usr/bin/sleep infinity\n")
    images.build(place, IMAGE, images.pair("v1"))
    services.set_entries(place, [UNIT], {"10-alike.raw": IMAGE})
    place.systemctl("daemon-reload")
    place.systemctl("restart", UNIT)
    images.build(place, IMAGE, images.pair("v2"))
    for _ in range(2):
        place.sh("sleep 0.2")
        place.systemctl("reload", UNIT)
    # Not below /etc, of which every file counts.
    place.write(f"/run/systemd/system/{UNIT}.d/case.conf", CHECK + "/bin/false")
    place.systemctl("daemon-reload")
    place.systemctl("reload", UNIT)
    done = place.run("unit-confext", "diff", "--check", "--json=short", UNIT, check=False)
    (found,) = json.loads(done.stdout)
    assert done.returncode == 4
    assert "the check '/bin/false' exited with status 1" in found["refused"]
    assert place.run("unit-confext", "diff", UNIT, check=False).returncode == 0
